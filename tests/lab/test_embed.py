"""A cell's vector is its own: whatever its neighbours, their order, the batch or the format."""

from __future__ import annotations

import threading

import anndata as ad
import numpy as np
import pytest
from scipy import stats

import scfm_lab as sl
from scfm_lab.errors import Cancelled, DataError, ModelError
from scfm_lab.inference.engine import batches
from scfm_lab.models.sctop import ragged_ranks
from scfm_lab.models.tokens import Tokens, ragged_take
from scfm_lab.tasks.compare import compare

MODELS = ["pca", "sctop", "starter"]


@pytest.mark.parametrize("name", MODELS)
def test_vectors_do_not_depend_on_order_batch_or_neighbours(pbmc68k, name):
    model = sl.load_model(name, device="cpu", precision="float32")
    pbmc68k = pbmc68k[::3].copy()
    whole = sl.embed(pbmc68k, model, progress=False, copy=True).vectors
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(pbmc68k.n_obs), rng.permutation(765)
    shuffled = pbmc68k[rows][:, columns].copy()
    some = pbmc68k[rows[:23]].copy()
    for changed, expected, batch_size in (
        (shuffled, whole[rows], None),
        (shuffled, whole[rows], 5),
        (some, whole[rows[:23]], 1),
    ):
        got = sl.embed(changed, model, progress=False, batch_size=batch_size).vectors
        assert np.abs(got - expected).max() <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_the_same_run_gives_the_same_bytes(pbmc68k, name):
    pbmc68k = pbmc68k[::3].copy()
    first = sl.embed(pbmc68k, name, progress=False, copy=True).vectors
    second = sl.embed(pbmc68k, name, progress=False, copy=True).vectors
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_vectors_tell_cell_types_apart(pbmc68k, name):
    from sklearn.metrics import silhouette_score

    coarse = pbmc68k[pbmc68k.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD8+ Cytotoxic T"])].copy()
    vectors = sl.embed(coarse, name, progress=False).vectors
    assert silhouette_score(vectors, coarse.obs["cell_type"]) > 0.15


def test_pca_is_the_projection_of_log_counts(pbmc68k):
    model = sl.load_model("pca")
    cells = sl.Cells.from_anndata(pbmc68k)
    match = model.match(cells.genes)
    x = np.zeros((700, len(model.vocabulary)))
    np.add.at(x.T, match.ids, cells.counts[:, match.columns].toarray().T)
    x = np.log1p(x / cells.total[:, None] * 1e4)
    measured = np.unique(match.ids)
    centred = x[:, measured] - model.mean.numpy()[measured]
    expected = centred @ model.components.numpy()[:, measured].T
    np.testing.assert_allclose(sl.embed(pbmc68k, model, progress=False).vectors, expected, atol=2e-4)


def test_sctop_is_ranks_to_normal_scores_to_projection(pbmc68k):
    model = sl.load_model("sctop")
    cells = sl.Cells.from_anndata(pbmc68k)
    match = model.match(cells.genes)
    measured = np.unique(match.ids)
    x = np.zeros((700, len(model.vocabulary)))
    np.add.at(x.T, match.ids, cells.counts[:, match.columns].toarray().T)
    x = x[:, measured]
    z = stats.norm.ppf(stats.rankdata(x, axis=1) / (len(measured) + 1))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    basis = model.components.numpy()[:, measured].astype(float)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    np.testing.assert_allclose(sl.embed(pbmc68k, model, progress=False).vectors, z @ np.linalg.pinv(basis), atol=1e-5)


def test_a_fitted_basis_is_a_new_model(pbmc68k):
    shipped = sl.load_model("pca")
    before = shipped.components.clone()
    fitted = shipped.fit(pbmc68k, n_components=10)
    assert fitted.spec.width == 10
    assert fitted.digest != shipped.digest
    assert (shipped.components == before).all()
    types = sl.load_model("sctop").fit(pbmc68k)
    assert set(types.types) == set(pbmc68k.obs["cell_type"])
    best = np.array(types.types)[sl.embed(pbmc68k, types, progress=False).vectors.argmax(axis=1)]
    assert (best == pbmc68k.obs["cell_type"]).mean() > 0.6


@pytest.mark.parametrize("family", ["pca", "sctop"])
def test_a_fitted_basis_is_written_and_opens_as_it_was(pbmc68k, tmp_path, family):
    fitted = sl.load_model(family).fit(pbmc68k)
    opened = sl.load_model(fitted.save(tmp_path / "basis"))
    assert type(opened) is type(fitted)
    wanted = sl.embed(pbmc68k, fitted, copy=True, progress=False, cache=False).vectors
    np.testing.assert_array_equal(sl.embed(pbmc68k, opened, copy=True, progress=False, cache=False).vectors, wanted)
    assert opened.vocabulary.id_of("CD3D") == fitted.vocabulary.id_of("CD3D")
    assert opened.spec.determinism == fitted.spec.determinism
    again = fitted.save(tmp_path / "again")
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / "basis" / path.name).read_bytes()
    with pytest.raises(DataError, match="is there already"):
        fitted.save(again)


def test_writes_new_keys_with_provenance_and_nothing_else(pbmc68k, tmp_path):
    pbmc68k.obsm["X_pca"] = np.ones((700, 2))
    before = pbmc68k.copy()
    result = sl.embed(pbmc68k, "pca", progress=False)
    assert result.key == "X_pca_2"
    np.testing.assert_array_equal(pbmc68k.obsm["X_pca"], 1)
    assert (pbmc68k.X != before.X).nnz == 0
    assert pbmc68k.obs.equals(before.obs)
    assert pbmc68k.var.equals(before.var)
    record = pbmc68k.uns["scfm"]["X_pca_2"]
    assert record["weights_sha256"].startswith("sha256:")
    assert record["version"].startswith("scfm.pca/")
    assert record["umi_share_matched"] == pytest.approx(1 - result.audit.umi_share_lost)
    assert {"determinism", "seed", "device", "precision", "packages", "seconds"} <= set(record)
    again = sl.embed(pbmc68k, "pca", progress=False)
    assert again.key == "X_pca_2"
    with pytest.raises(DataError, match="choose another key_added"):
        sl.embed(pbmc68k, "pca", key_added="X_umap", progress=False)
    pbmc68k.write_h5ad(tmp_path / "out.h5ad")
    assert ad.read_h5ad(tmp_path / "out.h5ad").uns["scfm"]["X_pca_2"]["model"] == "pca"


def test_a_key_is_never_written_over_anothers_wherever_it_stands(pbmc68k):
    reference = pbmc68k[1::2].copy()
    pbmc68k.obs["mine"] = 1
    result = sl.embed(pbmc68k, "pca", key_added="mine", progress=False)
    assert pbmc68k.uns["scfm"]["mine"]["slot"] == "obsm"
    # That the name is ours in obsm gives no right to the column of obs.
    with pytest.raises(DataError, match=r"obsm\['mine'\] before"):
        sl.annotate(pbmc68k, reference, model="pca", key_added="mine", progress=False)
    assert (pbmc68k.obs["mine"] == 1).all()
    # Nor may a result be written over what another AnnData holds.
    reference = pbmc68k[::-1].copy()
    del reference.uns["scfm"]
    with pytest.raises(DataError, match="did not write"):
        result.write(reference)


def test_a_folder_called_like_a_model_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "pca").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sl.load_model("pca").version.startswith("scfm.pca/")
    with pytest.raises(ModelError, match="no family known here"):
        sl.load_model("./pca")
    with pytest.raises(ModelError, match="No model is called ''"):
        sl.load_model("")


def test_copy_leaves_the_cells_alone(pbmc68k):
    result = sl.embed(pbmc68k, "pca", progress=False, copy=True)
    assert "X_pca" not in pbmc68k.obsm
    assert "X_pca" in result.adata.obsm


def test_cancelling_stops_within_a_batch_and_writes_nothing(pbmc68k):
    stop = threading.Event()
    seen = []

    def progress(done, total):
        seen.append(done)
        if done >= 50:
            stop.set()

    with pytest.raises(Cancelled):
        sl.embed(pbmc68k, "pca", batch_size=20, progress=progress, cancel=stop)
    assert max(seen) < 80
    assert "X_pca" not in pbmc68k.obsm
    assert "scfm" not in pbmc68k.uns


def test_progress_counts_every_cell_once(pbmc68k):
    seen = []
    sl.embed(pbmc68k, "pca", batch_size=64, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 700)
    assert seen[-1] == (700, 700)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: sl.embed(a, "starterr"), "Did you mean 'starter'"),
        (lambda a: sl.embed(a, "pca", options={"max_lenght": 3}), "pca has no option 'max_lenght'"),
        (lambda a: sl.embed(a, "starter", options={"max_lenght": 3}), "Did you mean 'max_length'"),
        (lambda a: sl.embed(a, "starter", options={"max_length": 0}), "max_length is 0"),
        (lambda a: sl.embed(a, "pca", like_reference=True), "no other reference"),
        (lambda a: sl.load_model("pca", device="tpu"), "use 'auto', 'cpu'"),
        (lambda a: sl.load_model("pca", precision="int4"), "precision='int4'"),
        (lambda a: sl.load_model("./nowhere"), "no checkpoint at nowhere"),
        (lambda a: sl.load_model("s3://x/y"), "No plugin opens sources"),
        (lambda a: sl.impute(a, "pca"), r"pca cannot predict expression; models that can: .*scfm\.starter"),
    ],
)
def test_bad_requests_are_answered_in_words(pbmc68k, call, words):
    with pytest.raises(ModelError, match=words):
        call(pbmc68k)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: sl.embed(sl.load_model("pca"), a), r"The arguments of sl.embed are swapped: the cells come first"),
        (lambda a: sl.embed("pca", a), "The arguments of sl.embed are swapped"),
        (lambda a: sl.perturb("pca", a, {"CD3D": 0.0}), "The arguments of sl.perturb are swapped"),
        (lambda a: sl.audit_genes("pca", a), "The arguments of sl.audit_genes are swapped"),
        (lambda a: sl.plan("pca", a), "The arguments of sl.plan are swapped"),
        (
            lambda a: sl.embed(a.to_df(), "pca"),
            r"was given something else \(pandas.DataFrame\).*anndata.AnnData\(table\)",
        ),
        (lambda a: sl.embed(None, "pca"), "it was given something else .NoneType."),
        (lambda a: sl.embed("cells.h5ad", "pca"), "There is no file"),
        (lambda a: sl.perturb("cells.h5ad", "pca", {"CD3D": 0.0}), "'cells.h5ad'; read a file with anndata.read_h5ad"),
        (lambda a: sl.impute(a.X, "starter"), "sl.impute needs an AnnData"),
        (lambda a: sl.trajectory("cells.h5ad", use_rep="X_pca", root="x"), "read a file with anndata.read_h5ad"),
        (lambda a: sl.annotate(a, "atlas.h5ad", model="pca"), "sl.annotate needs the cells themselves"),
        (lambda a: sl.annotate(a, a, model=a), r"write sl.annotate\(query, reference, model=...\)"),
        (lambda a: sl.embed(a, a), r"an AnnData where the model belongs; write sl.embed\(adata, model\)"),
    ],
)
def test_what_is_not_cells_is_told_without_its_content(pbmc68k, call, words):
    with pytest.raises(DataError, match=words) as caught:
        call(pbmc68k)
    assert "n_obs" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_told(pbmc68k):
    with pytest.raises(ModelError, match=r"or a text such as 'starter'; this is neither \(DataFrame\)"):
        sl.embed(pbmc68k, pbmc68k.to_df())


def test_a_batch_of_no_cells_is_refused(pbmc68k):
    for size in (0, -1):
        with pytest.raises(DataError, match=f"batch_size is {size}"):
            sl.embed(pbmc68k, "pca", batch_size=size, progress=False)


def test_batches_hold_every_row_once_within_their_bounds():
    lengths = np.random.default_rng(0).integers(0, 900, 500)
    rows = list(batches(lengths, tokens=4096, cells=64))
    assert sorted(np.concatenate(rows)) == list(range(500))
    for batch in rows:
        assert len(batch) <= 64
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 4096


def test_ragged_helpers():
    offsets = np.array([0, 2, 2, 5])
    flat, new = ragged_take(offsets, np.array([2, 1, 0, 2]))
    assert flat.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert new.tolist() == [0, 3, 3, 5, 8]
    ranks = ragged_ranks(np.array([3.0, 3.0, 1.0, 2.0, 1.0]), np.array([0, 2, 2, 5]))
    assert ranks.tolist() == [1.5, 1.5, 1.5, 3.0, 1.5]


def test_tokens_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match="offsets"):
        Tokens(np.zeros(3, np.int64), None, np.array([0, 2]))
    with pytest.raises(DataError, match="values"):
        Tokens(np.zeros(3, np.int64), np.zeros(2, np.float32), np.array([0, 3]))


def test_what_either_model_cannot_take_is_refused_before_the_first_ones_vectors_are_written(pbmc68k):
    before = list(pbmc68k.obsm)
    for asked in ({"options": {"max_len": 24}}, {"options_against": {"max_len": 24}}):
        with pytest.raises(ModelError, match="has no option 'max_len'"):
            compare(pbmc68k, "pca", "starter", progress=False, **asked)
    assert list(pbmc68k.obsm) == before
    assert "scfm" not in pbmc68k.uns


def test_imputed_values_are_expected_counts(pbmc68k):
    result = sl.impute(pbmc68k, "starter", progress=False)
    predicted = pbmc68k.layers["imputed_starter"]
    assert predicted.shape == (700, 765)
    cells = sl.Cells.from_anndata(pbmc68k)
    seen = np.asarray((cells.counts.multiply(1e4 / cells.total[:, None])).mean(axis=0)).ravel()
    known = np.isfinite(predicted).all(axis=0)
    assert known.sum() > 750
    assert (predicted[:, known] >= 0).all()
    # Means over cells are on the scale of counts per 10,000.
    assert stats.spearmanr(seen[known], predicted[:, known].mean(axis=0))[0] > 0.8
    assert pbmc68k.uns["scfm"]["imputed_starter"]["imputed"]
    assert pbmc68k.uns["scfm"]["imputed_starter"]["genes_matched"] == known.sum()
    some = sl.impute(pbmc68k, "starter", genes=["CD3D", "MALAT1"], key_added="two", progress=False)
    np.testing.assert_allclose(pbmc68k.obsm["two"]["CD3D"], predicted[:, pbmc68k.var_names.get_loc("CD3D")], rtol=1e-4)
    assert "MALAT1" in some.table["gene"].to_numpy()
    assert "keep them out" in result.summary()


def test_when_no_cell_has_a_vector_that_is_said_first(pbmc68k):
    blank = pbmc68k[:4].copy()
    blank.X = blank.X.toarray() * 0
    said = sl.embed(blank, "starter", progress=False, copy=True).summary()
    assert said.startswith("No cell of 4 has a vector; only NaN for the 128-d vectors of starter")
