"""What every published family does with cells: one cell, one vector; bad input in one sentence; other names for genes told."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scfm_lab as sl
from scfm_lab import plugins
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import CountsError, DataError, GenesError, ModelError, ScfmError
from scfm_lab.models.published import shipped_genes
from scfm_lab.testing import check_model


def test_it_keeps_the_contract(model, few):
    report = check_model(model, adata=few)
    if model.spec.family == "scfm.transcriptformer":
        assert "reads genes in an order" in report.summary()


def test_one_cell_one_vector_whatever_stands_beside_it(model, few):
    """Across order, batch, chunk and format."""
    whole = sl.embed(few, model, progress=False, copy=True).vectors
    assert np.isfinite(whole).all()
    order = np.random.default_rng(0).permutation(few.n_obs)
    assert np.abs(sl.embed(few[order].copy(), model, progress=False).vectors - whole[order]).max() <= 1e-5
    for size in (1, 3):
        assert np.abs(sl.embed(few, model, batch_size=size, progress=False, copy=True).vectors - whole).max() <= 1e-5
    chunks = [sl.embed(few[i : i + 7].copy(), model, progress=False).vectors for i in range(0, few.n_obs, 7)]
    assert np.abs(np.concatenate(chunks) - whole).max() <= 1e-5
    for matrix in (few.X.toarray(), sparse.csc_matrix(few.X), few.X.astype(np.int64)):
        other = few.copy()
        other.X = matrix
        assert np.abs(sl.embed(other, model, progress=False).vectors - whole).max() <= 1e-5


def busiest(model, adata: ad.AnnData) -> str:
    """The known gene that most cells express, far enough back that no cell loses it."""
    known = model.match(Cells.from_anndata(adata).genes).columns
    return str(adata.var_names[known[np.argmax((adata.X[:, known] > 0).sum(axis=0))]])


def test_one_cell_one_effect_whatever_stands_beside_it(model, few):
    gene = busiest(model, few)

    def shift(cells: ad.AnnData, dose: float) -> np.ndarray:
        return sl.perturb(cells, model, {gene: dose}, null=False, n_draws=2, progress=False).shift

    for dose in (0.0, 0.5):
        whole = shift(few, dose)
        assert np.nanmax(whole) > 1e-4
        order = np.random.default_rng(1).permutation(few.n_obs)
        np.testing.assert_allclose(shift(few[order].copy(), dose), whole[order], atol=1e-5)
        np.testing.assert_allclose(shift(few[:5].copy(), dose), whole[:5], atol=1e-5)


def test_doses_are_graded_and_a_dose_of_1_changes_nothing(model, few):
    gene = busiest(model, few)
    rich = few[np.asarray(few[:, gene].X.toarray() > 2).ravel()].copy()
    rich = rich if rich.n_obs > 3 else few
    shift = [
        float(np.nanmean(sl.perturb(rich, model, {gene: d}, null=False, n_draws=6, progress=False).shift))
        for d in (0.0, 0.5, 1.0)
    ]
    assert shift[0] > shift[1] > shift[2] == 0
    above = sl.perturb(few, model, {gene: 4.0}, null=False, n_draws=2, progress=False)
    assert np.nanmax(above.shift) > 0


def test_a_cell_without_a_known_gene_is_nan_and_counted(model, few):
    known = model.match(Cells.from_anndata(few).genes).columns
    unknown = np.setdiff1d(np.arange(few.n_vars), known)
    counts = few.X.toarray()
    counts[2] = 0
    counts[2, unknown] = 3
    few.X = counts
    result = sl.embed(few, model, progress=False)
    assert np.isnan(result.vectors[2]).all()
    assert np.isfinite(np.delete(result.vectors, 2, axis=0)).all()
    assert re.search(r"^1 cell\w* ha\w+ no known gene; .* will be NaN", result.summary(), re.MULTILINE)
    assert result.provenance["cells_without_genes"] == 1
    moved = sl.perturb(few, model, {busiest(model, few): 0.0}, null=False, progress=False)
    assert np.isnan(moved.shift[2])


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda x: np.log1p(x / x.sum(1, keepdims=True) * 1e4), CountsError, "log"),
        (lambda x: (x - x.mean(0)) / (x.std(0) + 1), CountsError, "negative|scaled"),
        (lambda x: np.where(np.arange(x.shape[1]) == 3, -1, x), CountsError, "negative"),
        (lambda x: np.where(np.arange(x.shape[1]) == 3, np.nan, x), CountsError, "NaN|not finite|missing"),
        (lambda x: x * 0, ScfmError, ""),
    ],
    ids=["log-normalised", "scaled", "negative", "NaN", "all zero"],
)
def test_matrices_that_are_no_counts_are_refused_in_one_sentence(model, few, spoil, error, said):
    adata = ad.AnnData(spoil(few.X.toarray().astype(np.float64)).astype(np.float32), obs=few.obs, var=few.var)
    before = set(adata.obsm)
    if not said:
        result = sl.embed(adata, model, progress=False)
        assert np.isnan(result.vectors).all()
        assert result.audit.cells_without_genes == few.n_obs
        return
    with pytest.raises(error, match=said) as raised:
        sl.embed(adata, model, progress=False)
    assert "\n" not in str(raised.value)
    assert set(adata.obsm) == before


def test_nothing_to_embed_and_names_that_occur_twice(model, few):
    for empty in (few[:0].copy(), few[:, :0].copy()):
        with pytest.raises(ScfmError) as raised:
            sl.embed(empty, model, progress=False)
        assert "\n" not in str(raised.value)
    doubled = few.copy()
    doubled.obs_names = ["a"] * 2 + list(few.obs_names[2:])
    with pytest.raises(DataError, match=r"occurs? more than once"):
        sl.embed(doubled, model, progress=False)
    strange = few.copy()
    strange.var_names = [f"not-a-gene-{i}" for i in range(few.n_vars)]
    strange.var = strange.var[[]]
    with pytest.raises(GenesError, match="not-a-gene-0"):
        sl.embed(strange, model, progress=False)


def test_cells_with_the_other_kind_of_identifier_are_mapped_and_told(model, few):
    """Ensembl ids only, for models of symbols; symbols only, for models of Ensembl ids."""
    plain = sl.embed(few, model, progress=False, copy=True).vectors
    other = few.copy()
    if model.spec.genes == "symbol":
        ids = few.var["ensembl_id"].astype(str)
        other.var_names = [e if e.startswith("ENSG") else f"unknown-{i}" for i, e in enumerate(ids)]
    other.var = other.var[[]]
    other.var_names_make_unique()
    result = sl.embed(other, model, progress=False)
    way = {
        "geneformer_v1": "symbol translated to an Ensembl id",
        "geneformer_v2": "name in the model's own mapping",
    }.get(f"{model.family}_{'v2' if getattr(model, 'has_cls', False) else 'v1'}")
    way = way or ("translated" if model.spec.genes == "symbol" else "symbol translated to an Ensembl id")
    assert way in result.summary()
    cosine = (plain * result.vectors).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(result.vectors, axis=1)
    assert np.median(cosine) > 0.5, "most genes are the same"


def test_mouse_cells_are_read_through_orthologs_if_that_is_asked_for(model, few):
    table = shipped_genes()
    column = table.mouse_symbols if model.spec.genes == "symbol" else table.mouse_ensembl
    mouse_of = dict(zip(table.symbols, column, strict=True))
    mouse = few[:5, [bool(mouse_of.get(g)) for g in few.var_names]].copy()
    human = mouse.copy()
    mouse.var_names = [mouse_of[g] for g in mouse.var_names]
    mouse.var = mouse.var[[]]
    mouse.uns["organism"] = "mouse"
    if "mouse" in model.spec.organisms:
        assert "(mouse)" in sl.embed(mouse, model, progress=False).summary()
        return
    with pytest.raises(GenesError, match=r"mouse genes.*orthologs"):
        sl.embed(mouse, model, progress=False)
    result = sl.embed(mouse, model, options={"orthologs": True}, progress=False)
    assert "one-to-one mouse ortholog" in result.summary()
    same = sl.embed(human, model, progress=False).vectors
    cosine = (same * result.vectors).sum(1) / np.linalg.norm(same, axis=1) / np.linalg.norm(result.vectors, axis=1)
    assert np.median(cosine) > 0.5


def test_licence_and_citation_are_told(model, few):
    spec = model.spec
    assert spec.licence
    assert "20" in spec.citation
    told = plugins.discover().get("models", f"scfm.{model.family}").data["citation"]
    assert spec.citation in told, "the manifest, which the catalogue reads, says what the model says"
    # None: the licence of the weights does not say.
    allowed = {"geneformer": True, "transcriptformer": True, "scfoundation": False}
    assert spec.commercial is allowed.get(model.family)
    row = sl.list_models().set_index("id").loc[f"scfm.{model.family}"]
    assert (row["licence"], row["commercial"]) == (spec.licence, spec.commercial)
    assert spec.licence in repr(model)
    assert ("non-commercial" in repr(model)) == (spec.commercial is False)
    record = sl.embed(few, model, progress=False).provenance
    assert record["licence"] == spec.licence
    assert record["determinism"] == spec.determinism


@pytest.mark.parametrize("ability", ["attention", "gene_embeddings", "impute"])
def test_what_it_says_it_can_it_can_and_the_rest_names_who_can(model, few, ability):
    tokens = model.tokenize(few[:2].copy())
    if ability not in model.spec.abilities:
        with pytest.raises(ScfmError, match=r"cannot .*models that can"):
            model.require(ability)
        return
    if ability == "attention":
        for weights, n in zip(model.attention(tokens), tokens.lengths, strict=True):
            assert weights.shape == (model.spec.heads, n, n)
            np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-4)
        # Layers count as for embed: those after 1, 2, … and, from the end, -1 and below; the input has no attention.
        n = model.spec.layers
        for layer in range(1, n + 1):
            one, other = (model.attention(tokens, hidden_layer=k) for k in (layer, layer - n - 1))
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        for wrong, words in ((0, "enters the first layer"), (-n - 1, "enters the first layer"), (n + 1, "not between")):
            with pytest.raises(ModelError, match=words):
                model.attention(tokens, hidden_layer=wrong)
    elif ability == "gene_embeddings":
        table = model.gene_embeddings()
        assert len(table) == len(table.index.unique()) > 500
        assert np.isfinite(table.to_numpy()).all()
    else:
        gene = busiest(model, few)
        result = sl.impute(few[:2].copy(), model, genes=[gene], progress=False)
        assert result.values.shape == (2, 1)
        assert np.isfinite(result.values).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"like_reference": "False"}, "must be True or False, not 'False'"),
        ({"max_length": 100.7}, "must be a whole number, not 100.7"),
        ({"max_length": None}, "must be a whole number, not None"),
    ],
    ids=["text for a truth value", "a part of a token", "nothing"],
)
def test_options_of_another_type_are_refused(model, few, given, said):
    (option,) = given
    if option not in model.spec.options:
        pytest.skip("this family has no such option")
    with pytest.raises(ModelError, match=said):
        model.tokenize(few, options=given)


def test_a_layer_that_is_no_number_is_refused(model, few):
    tokens = model.tokenize(few)
    with pytest.raises(ModelError, match="hidden_layer must be a whole number or None, not 'last'"):
        model.encode(tokens, hidden_layer="last")


def test_no_cells_are_no_tokens(model, few):
    cells = model.read_cells(few).take(np.arange(0))
    tokens = model.tokenize(cells)
    assert len(tokens) == 0
    assert model.encode(tokens).cell.shape == (0, model.spec.width)


def test_a_config_entry_that_nothing_reads_is_refused(written):
    with pytest.raises(ModelError, match="layer_count"):
        written.open(config={"layer_count": 3})
