"""Batches, alike genes, hidden molecules and other species."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.orthologs import to_human
from scfm_lab.cells.provenance import is_imputed, refuse_imputed
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.evaluation.cross_species import HUMAN_NAMES
from scfm_lab.evaluation.imputation import CORRELATION, LOSS, thinned
from scfm_lab.evaluation.integration import FLOOR, _strata, score_integration
from scfm_lab.evaluation.mixing import BATCH, BIOLOGY, _lisi, _of_types, _with_self, measures
from scfm_lab.evaluation.splits import proportional
from scfm_lab.tasks import similar_genes
from scfm_lab.tasks.integrate import harmony
from scfm_lab.tasks.similar_genes import contextual_embeddings, enrichment


@pytest.fixture(scope="module")
def batches():
    """Two cell types in two batches that lie far apart."""
    rng = np.random.default_rng(0)
    n = 240
    kind, batch = np.arange(n) % 2, (np.arange(n) // 2) % 2
    x = rng.normal(size=(n, 10))
    x[:, 0] += 12 * kind
    x[:, 1] += 6 * batch
    return x.astype(np.float32), kind.astype(str).astype(object), np.where(batch, "b", "a").astype(object)


def test_harmony_mixes_batches(batches, pbmc68k):
    x, _, batch = batches
    cells = pbmc68k[: len(x)].copy()
    cells.obsm["X_made"], cells.obs["batch"] = x.copy(), batch
    cells.obsm["X_made"][3] = np.nan
    result = sl.integrate(cells, use_rep="X_made", batch_key="batch", beside=False)
    mixed = result.scores.wide().loc[("batch", "batches mixed (iLISI)")]
    assert mixed["X_made + Harmony"] > mixed["X_made"] + 0.3
    assert "Biology is not measured" in result.summary()
    assert np.isnan(cells.obsm["X_made_harmony"][3]).all()
    assert np.isfinite(np.delete(cells.obsm["X_made_harmony"], 3, axis=0)).all()
    assert cells.uns["scfm"]["X_made_harmony"]["batch_key"] == "batch"
    again, _ = harmony(cells.obsm["X_made"], batch)
    np.testing.assert_allclose(again, cells.obsm["X_made_harmony"], atol=1e-4)


def test_a_floor_that_cannot_be_had_is_told_and_takes_nothing_with_it(batches, pbmc68k):
    x, _, batch = batches
    cells = pbmc68k[: len(x), :60].copy()
    cells.obs["batch"], cells.obsm["X_made"] = batch, x
    rng = np.random.default_rng(0)
    # Fifteen genes that are seen in three cells, where a third of sixty would be twenty components.
    counts = np.zeros(cells.shape, dtype=np.float32)
    counts[:, 45:] = rng.poisson(2, size=(len(x), 15))
    cells.X = counts
    scores = sl.evaluate.integration(cells, "X_made", batch_key="batch", n_boot=0)
    assert np.isfinite(scores.of(BATCH[0], "X_made").floor)
    # No gene in three cells: there is nothing to fit.
    counts = np.zeros(cells.shape, dtype=np.float32)
    counts[np.arange(60), np.arange(60)] = 3
    cells.X = counts
    why = "There is no floor: No principal components can be fitted to 240 cells with 0 genes"
    alone = sl.evaluate.integration(cells, "X_made", batch_key="batch", n_boot=0)
    result = sl.integrate(cells, use_rep="X_made", batch_key="batch", progress=False)
    assert np.isfinite(cells.obsm["X_made_harmony"]).all()
    # And none, as there are no counts.
    cells.X = rng.normal(size=cells.shape).astype(np.float32)
    without = sl.integrate(cells, use_rep="X_made", batch_key="batch", progress=False, key_added="again")
    for found, words in ((alone, why), (result.scores, why), (without.scores, "There is no floor: ")):
        assert sum(note.startswith(words) for note in found.notes) == 1
        assert not any(np.isfinite(score.floor) for score in found)
    assert without.scores.provenance["model"] == "X_made"


def test_clusters_are_scored_without_a_floor_where_there_can_be_none(pbmc68k):
    cells = pbmc68k[:100].copy()
    cells.X = csr_matrix((np.full(700, 3.0, np.float32), (np.arange(700) // 7, np.arange(700))), shape=cells.shape)
    scores = sl.evaluate.clustering(cells, "pca", n_boot=0)
    assert {s.model for s in scores} == {"pca"}
    assert "No floor: No principal components can be fitted to 100 cells with 0 genes" in scores.summary()


def test_of_many_cells_some_are_scored_batch_by_batch(batches):
    x, _, _ = batches
    batch = np.where(np.arange(len(x)) % 4, "a", "b").astype(object)
    some = score_integration({"made": x}, batch, None, max_cells=80, n_boot=0)
    rows = proportional(batch.astype(str), np.arange(len(x)), 80, 0)
    assert np.unique(batch[rows], return_counts=True)[1].tolist() == [60, 20]
    same = score_integration({"made": x[rows]}, batch[rows], None, n_boot=0)
    assert some.of(BATCH[0], "made").value == same.of(BATCH[0], "made").value
    assert some.of(BATCH[0], "made").n == 80
    assert "80 of 240 cells are scored, in proportion to the batches (max_cells)." in some.summary()
    with pytest.raises(DataError, match="max_cells is 29; at least 30"):
        score_integration({"made": x}, batch, None, max_cells=29)


def three_types(batches):
    """Two batches with names that, strung together with those of the types, are those of another pair; one type is rare."""
    _, kind, batch = batches
    batch, kind = np.where(batch == "a", "a", "ab"), np.where(kind == "0", "bc", "d").astype(object)
    kind[np.flatnonzero(batch == "ab")[:2]] = "c"
    return batch.astype(object), kind


def test_no_type_is_lost_among_the_cells_that_are_drawn(batches):
    batch, kind = three_types(batches)
    for seed in range(10):
        codes, words = _strata(batch, kind, np.arange(240), 40)
        assert words == "batches and types"
        rows = proportional(codes, np.arange(240), 40, seed)
        assert set(zip(batch[rows], kind[rows], strict=True)) == set(zip(batch, kind, strict=True))
    # Where there is no room for each type within each batch, each type has some.
    many = np.arange(240) % 30
    codes, words = _strata(many, kind, np.arange(240), 30)
    assert (words, set(kind[proportional(codes, np.arange(240), 30, 0)])) == ("types", {"bc", "c", "d"})


# The metrics' package compiles for more than a minute.
@pytest.mark.thorough
def test_how_cells_were_drawn_is_told(batches):
    batch, kind = three_types(batches)
    some = score_integration({"made": batches[0]}, batch, kind, max_cells=40, n_boot=0)
    assert "40 of 240 cells are scored, in proportion to the batches and types (max_cells)." in some.summary()


@pytest.mark.thorough
def test_biology_and_batch_are_told_apart(batches, pbmc68k):
    x, kind, batch = batches
    cells = pbmc68k[: len(x)].copy()
    cells.obs["kind"], cells.obs["batch"] = kind, batch
    cells.obsm["X_types"], cells.obsm["X_noise"] = x, np.random.default_rng(1).normal(size=x.shape)
    scores = sl.evaluate.integration(cells, ["X_types", "X_noise"], batch_key="batch", labels_key="kind")
    wide = scores.wide()
    adjusted = wide.index.get_level_values("metric") == BIOLOGY[2]
    assert ((wide[~adjusted] >= -1e-6) & (wide <= 1 + 1e-6)[~adjusted]).all().all()
    assert ((wide[adjusted] >= -0.05) & (wide[adjusted] <= 1 + 1e-6)).all().all(), (
        "chance is 0, and falls a little below"
    )
    assert (wide.loc["biology", "X_types"] > wide.loc["biology", "X_noise"]).all()
    assert (
        wide.loc[("batch", "batches mixed (iLISI)"), "X_noise"]
        > wide.loc[("batch", "batches mixed (iLISI)"), "X_types"]
    )
    assert "no average" in scores.summary()
    table = scores.table.set_index(["representation", "metric"])
    assert (table["low"] <= table["high"]).all()
    made = table.drop(index="pca (fitted)", level=0)
    assert ((made["gain_low"] > 0) == (made["verdict"] == "better than the floor")).all()
    assert (table.loc["pca (fitted)", ["gain_low", "gain_high"]] == 0).all().all()


@pytest.mark.thorough
def test_the_metrics_of_all_cells_are_those_of_scib():
    scib = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults

    rng = np.random.default_rng(3)
    kind, batch = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    batch[kind == 2] = 0
    x = rng.normal(size=(300, 6)).astype(np.float32)
    x[:, 0] += 2.5 * kind
    x[:, 1] += 1.2 * batch
    x[:40, 2] += 40
    near, far = _with_self(x, 90)

    def graph(k):
        return NeighborsResults(indices=near[:, :k].copy(), distances=far[:, :k].copy())

    clusters = scib.nmi_ari_cluster_labels_kmeans(x.copy(), kind)
    expected = {
        BATCH[0]: scib.ilisi_knn(graph(90), batch),
        BATCH[1]: scib.kbet_per_label(graph(50), batch, kind),
        BATCH[2]: scib.graph_connectivity(graph(15), kind),
        BATCH[3]: scib.bras(x, kind, batch),
        BIOLOGY[0]: scib.clisi_knn(graph(90), kind),
        BIOLOGY[1]: clusters["nmi"],
        BIOLOGY[2]: clusters["ari"],
        BIOLOGY[3]: scib.silhouette_label(x, kind),
    }
    found = measures(x, batch.astype(str).astype(object), kind.astype(str).astype(object))
    assert list(found) == list(expected)
    assert {m: measure(np.arange(300)) for m, measure in found.items()} == pytest.approx(
        {m: float(v) for m, v in expected.items()}, abs=1e-6
    )


def test_mixing_is_told_by_its_difference_to_the_floor(batches):
    x, _, _ = batches
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 2, len(x)).astype(str), rng.integers(0, 6, len(x)).astype(str)
    apart = x + 3 * (few == "1")[:, None]
    found = {FLOOR: x, "the same": x.copy(), "apart": apart.astype(np.float32)}
    scores = score_integration(found, few.astype(object), None, n_boot=40)
    same, worse = (scores.of(BATCH[0], name) for name in ("the same", "apart"))
    assert (same.gain_low, same.gain_high, same.above_floor) == (0, 0, False)
    assert same.low < same.high
    assert worse.low <= worse.value <= worse.high
    assert worse.gain_low <= worse.value - worse.floor <= worse.gain_high < 0
    assert "fewer than five batches" in same.interval
    assert (
        "over batches" in score_integration(found, many.astype(object), None, n_boot=4).of(BATCH[0], "apart").interval
    )
    alone = score_integration({"apart": found["apart"]}, few.astype(object), None, n_boot=0).of(BATCH[0], "apart")
    assert np.isnan([alone.low, alone.floor, alone.gain_low]).all()
    assert alone.verdict == "no floor to compare with"


def test_what_harmony_has_corrected_is_not_above_a_floor_that_it_has_not(batches, pbmc68k):
    x, _, batch = batches
    rng = np.random.default_rng(0)
    cells = pbmc68k[: len(x)].copy()
    # Batches stand apart in the vectors and in ten genes: both are mixed as well once they are corrected.
    counts = rng.poisson(1, size=cells.shape) + 3 * np.outer(batch == "b", np.arange(cells.n_vars) < 10)
    cells.X = counts.astype(np.float32)
    cells.obs["batch"], cells.obsm["X_made"] = batch, x
    result = sl.integrate(cells, use_rep="X_made", batch_key="batch", progress=False)
    own, floor = (result.scores.of(BATCH[0], f"{name} + Harmony") for name in ("X_made", FLOOR))
    before = result.scores.of(BATCH[0], FLOOR)
    assert own.value > before.value + 0.2, "far above components that nothing has corrected"
    assert own.floor == max(floor.value, before.value) == floor.value
    assert own.floor_name == f"{FLOOR} + Harmony"
    assert own.above_floor is False
    assert floor.floor_name == result.scores.of(BATCH[0], "X_made").floor_name == FLOOR
    assert f"the better of that and {FLOOR} + Harmony" in result.summary()
    assert floor.above_floor
    assert f"(above {FLOOR})" in result.summary()
    # The same where corrected vectors are scored as they stand in the file.
    again = sl.evaluate.integration(cells, ["X_made", "X_made_harmony"], batch_key="batch", n_boot=0)
    assert again.of(BATCH[0], "X_made_harmony").floor_name == f"{FLOOR} + Harmony"
    assert again.of(BATCH[0], "X_made_harmony").floor == pytest.approx(floor.value)
    assert again.of(BATCH[0], "X_made").floor_name == FLOOR


def test_a_cell_counts_as_often_as_it_is_drawn():
    code, values = np.array([0, 0, 1, 1, 2]), np.array([1.0, 0.0, 0.5, np.nan, np.nan])
    measure = _of_types(values, code)
    assert measure(np.arange(5)) == 0.5, "the mean of two types, each of the cells that are known"
    assert measure(np.array([0, 0, 0, 1, 3])) == 0.75
    assert np.isnan(measure(np.array([3, 4])))
    index = _lisi(np.array([1.0, 2.0, 2.0]), 2, mixed=True)
    assert (index(np.arange(3)), index(np.array([0, 0, 1]))) == (1, 0)


def test_integrations_that_make_no_sense_are_refused(pbmc68k):
    pbmc68k.obs["batch"] = "one"
    with pytest.raises(DataError, match="one value only"):
        sl.integrate(pbmc68k, "pca", batch_key="batch", progress=False)
    pbmc68k.obs["batch"] = np.where(np.arange(700) % 2, "a", "b")
    with pytest.raises(DataError, match="one of the two"):
        sl.integrate(pbmc68k, "pca", use_rep="X_pca", batch_key="batch")
    with pytest.raises(DataError, match="obsm has no 'X_pcs'"):
        sl.integrate(pbmc68k, use_rep="X_pcs", batch_key="batch")
    assert not [key for key in pbmc68k.obsm if key.endswith("harmony")]


def test_the_nearest_genes_are_those_of_the_largest_cosine(pbmc68k):
    table = sl.load_model("starter").gene_embeddings()
    found = sl.similar_genes("starter", "CD3D", adata=pbmc68k, n=10)
    unit = table.to_numpy() / np.linalg.norm(table.to_numpy(), axis=1, keepdims=True)
    cosine = unit @ unit[list(table.index).index("CD3D")]
    best = [g for g in table.index[np.argsort(-cosine)] if g != "CD3D"][:10]
    assert found.table["gene"].tolist() == best
    assert (np.diff(found.table["cosine"]) <= 0).all()
    assert -1 <= found.expression_correlation <= 1
    assert "no evidence" in found.summary()


def test_contextual_vectors_are_means_over_the_cells_that_express_a_gene(pbmc68k):
    model = sl.load_model("starter")
    cells = pbmc68k[:120].copy()
    found = sl.similar_genes(
        model,
        "LYZ",
        kind="contextual",
        adata=cells,
        n=5,
        gene_sets={"monocyte": ["LYZ", "S100A9", "S100A8", "CST3"], "none": ["ALB"]},
    )
    tokens = model.tokenize(cells)
    states = model.encode(tokens, genes=True).genes
    mean = {g: states[tokens.ids == model.vocabulary.id_of(g)].mean(axis=0) for g in ("LYZ", found.table["gene"][0])}
    a, b = mean.values()
    assert found.table["cosine"][0] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)
    assert set(found.enrichment["gene_set"]) <= {"monocyte", "none"}
    other = sl.similar_genes(model, "LYZ", kind="contextual", adata=cells, n=5, hidden_layer=-2)
    assert other.table["cosine"].tolist() != found.table["cosine"].tolist()


def test_contextual_vectors_are_summed_up_in_blocks(pbmc68k, monkeypatch):
    model = sl.load_model("starter")
    cells = pbmc68k[:120].copy()
    ids, whole = contextual_embeddings(model, cells)
    held = []
    encode = type(model).encode

    def told(self, tokens, **more):
        held.append(len(tokens.ids))
        return encode(self, tokens, **more)

    monkeypatch.setattr(type(model), "encode", told)
    monkeypatch.setattr(similar_genes, "_STATES", 2000)
    own, parts = contextual_embeddings(model, cells)
    tokens = model.tokenize(cells)
    assert max(held) <= max(2000, tokens.lengths.max()) < len(tokens.ids) == sum(held)
    np.testing.assert_array_equal(own, ids)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_enrichment_is_the_hypergeometric_tail():
    universe = [f"G{i}" for i in range(100)]
    table = enrichment(universe[:10], universe, {"a": [*universe[:5], "X"], "b": universe[50:60]}).set_index("gene_set")
    assert table.loc["a", "p_value"] == pytest.approx(stats.hypergeom.sf(4, 100, 5, 10))
    assert table.loc["a", "expected"] == pytest.approx(0.5)
    assert table.loc["b", "p_value"] == pytest.approx(1)
    assert table.loc["a", "q_value"] == pytest.approx(2 * table.loc["a", "p_value"])


def test_questions_about_genes_that_make_no_sense_are_refused(pbmc68k, tmp_path):
    with pytest.raises(GenesError, match="does not know the gene 'CD3X'"):
        sl.similar_genes("pca", "CD3X")
    with pytest.raises(DataError, match="There is no kind"):
        sl.similar_genes("pca", "CD3D", kind="output")
    with pytest.raises(DataError, match="give the cells with adata="):
        sl.similar_genes("starter", "CD3D", kind="contextual")
    with pytest.raises(ModelError, match="no state of a gene"):
        sl.similar_genes("pca", "CD3D", kind="contextual", adata=pbmc68k)
    (tmp_path / "empty.gmt").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no gene sets"):
        sl.similar_genes("pca", "CD3D", gene_sets=tmp_path / "empty.gmt")


def test_halves_are_independent_of_each_other_and_of_the_order_of_cells(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    seen, rest = thinned(cells, 0.5, 0)
    assert ((seen.counts + rest) != cells.counts).nnz == 0
    total = seen.counts.sum() + rest.sum()
    assert seen.counts.sum() == pytest.approx(total / 2, rel=0.02)
    back = cells.take(np.arange(len(cells))[::-1])
    assert (thinned(back, 0.5, 0)[0].counts != seen.counts[::-1]).nnz == 0
    assert (seen.total < cells.total).all()


def test_hidden_molecules_are_predicted_between_floors(pbmc68k):
    scores = sl.evaluate.imputation(pbmc68k, "starter", max_cells=300, n_boot=30)
    by = {(s.metric, s.model): s for s in scores}
    near, mean = by[LOSS, "mean of neighbours"], by[LOSS, "each gene's mean"]
    assert near.value < mean.value
    assert not np.isfinite(by[CORRELATION, "each gene's mean"].value)
    assert by[CORRELATION, "mean of neighbours"].value > 0.1
    mine = by[LOSS, "starter"]
    assert mine.low <= mine.value <= mine.high
    assert mine.floor == min(near.value, mean.value)
    for score in (mine, by[CORRELATION, "starter"]):
        assert score.gain_low <= score.value - score.floor <= score.gain_high
        # Cells differ more from each other than two predictions of the same cells do.
        assert score.gain_high - score.gain_low < score.high - score.low
    with pytest.raises(ModelError, match="cannot predict expression"):
        sl.evaluate.imputation(pbmc68k, "pca")
    assert scores.provenance["models"]["starter"]["weights_sha256"] == sl.load_model("starter").digest
    assert scores.provenance["max_cells"] == 300


def test_rates_are_of_the_whole_library_and_of_no_neighbours_alone(pbmc68k):
    model = sl.load_model("starter")
    found = sl.evaluate.imputation(pbmc68k, model, n_boot=0)
    by = {(s.metric, s.model): s.value for s in found}
    # The 765 genes are 13 to 25 % of a cell's molecules, and a model predicts shares of all of them.
    cells = Cells.from_anndata(pbmc68k)
    half, hidden = thinned(cells, 0.5, 0)
    share = np.asarray(half.counts.sum(axis=1)).ravel() / half.total
    assert share.min() < 0.5 * share.max() < 0.2
    match = model.known_genes(cells.genes)
    scored = np.asarray(hidden.sum(axis=0)).ravel()[match.columns] >= 50
    rates = model.impute(model.tokenize(half), match.ids[scored]).astype(float)
    expected = np.maximum(rates, 1e-3) * half.total[:, None]
    truth = hidden[:, match.columns[scored]].toarray()
    good = truth.sum(axis=1) > 0
    expected, truth = expected[good], truth[good]
    expected *= truth.sum() / expected.sum()
    loss = ((expected - truth * np.log(expected)).sum(axis=1) / truth.sum(axis=1)).mean()
    assert by[LOSS, "starter"] == pytest.approx(loss, rel=1e-3)
    # Fifteen neighbours without a molecule of a gene do not say that there is none: that would cost more than no neighbours at all.
    assert by[LOSS, "mean of neighbours"] < 0.72 < by[LOSS, "starter"]


def test_hidden_molecules_of_five_donors_are_scored_over_them(pbmc68k):
    few = pbmc68k[:150].copy()
    few.obs["donor"] = np.resize(list("abcde"), few.n_obs)
    (score, *_) = sl.evaluate.imputation(few, "starter", sample_key="donor", n_boot=20)
    assert score.interval == "95 % bootstrap over samples"
    assert score.units == 5
    with pytest.raises(DataError, match="The sample column 'doner' is not in obs"):
        sl.evaluate.imputation(few, "starter", sample_key="doner")


def test_imputed_values_are_marked_and_refused_where_measurements_are_needed(pbmc68k):
    sl.impute(pbmc68k, "starter", genes=["CD3D"], progress=False)
    assert is_imputed(pbmc68k, "imputed_starter")
    assert not is_imputed(pbmc68k, None)
    with pytest.raises(DataError, match="Differential expression must not be made of 'imputed_starter'"):
        refuse_imputed(pbmc68k, "imputed_starter", what="Differential expression")
    refuse_imputed(pbmc68k, None, what="Differential expression")


def _as_mouse(adata):
    """The same cells as if they were of a mouse: genes by their mouse names, where they have one."""
    vocabulary = sl.load_model("starter").vocabulary
    name = {h: m for h, m in zip(vocabulary.names, vocabulary.mouse_symbols, strict=True) if m}
    mouse = adata.copy()
    mouse.var_names = [name.get(g, f"Only{i}a") for i, g in enumerate(adata.var_names)]
    mouse.var = mouse.var[[]]
    mouse.uns["organism"] = "mouse"
    return mouse


def test_a_change_of_species_keeps_counts_and_tells_what_it_loses(pbmc68k):
    mouse = _as_mouse(pbmc68k)
    human, audit = to_human(mouse, groupby="cell_type")
    assert set(human.var_names) <= set(pbmc68k.var_names)
    assert (human.X != pbmc68k[:, human.var_names].X).nnz == 0
    lost = 1 - human.X.sum() / pbmc68k.X.sum()
    assert audit.table["umi_share_lost"].iloc[0] == pytest.approx(lost)
    assert audit.genes_kept == human.n_vars < audit.genes_total
    pairs = {"A": "X", "B": "X", "C": "Y"}
    toy = pbmc68k[:, :3].copy()
    toy.var_names = ["A", "B", "C"]
    toy.var = toy.var[[]]
    one, told = to_human(toy, orthologs=pairs)
    assert list(one.var_names) == ["Y"]
    assert told.genes_many == 2
    with pytest.raises(GenesError, match="has a one-to-one human ortholog"):
        to_human(toy, orthologs={"Q": "R"})


def test_what_real_mouse_cells_lose_on_the_way_to_human_names_is_told_by_group(shared_data):
    mouse = sl.datasets.load("pancreas_endocrinogenesis")
    human, audit = to_human(mouse, groupby="cell_type")
    assert human.n_vars == audit.genes_kept == 1_353
    counts, kept = np.asarray(mouse.X.sum(axis=1)).ravel(), np.asarray(human.X.sum(axis=1)).ravel()
    told = audit.table.set_index("group")["umi_share_lost"]
    assert told["all"] == pytest.approx(1 - kept.sum() / counts.sum())
    assert told["all"] == pytest.approx(0.186, abs=5e-4)
    for name, rows in mouse.obs.groupby("cell_type", observed=True).indices.items():
        assert told[name] == pytest.approx(1 - kept[rows].sum() / counts[rows].sum())
    # The mouse has two genes of insulin, so that none of them has a one-to-one ortholog: beta cells lose what they are known by.
    assert {"Ins1", "Ins2", "Gcg"} <= set(mouse.var_names)
    assert "INS" not in human.var_names
    assert "GCG" in human.var_names
    assert "Ins1" in audit.summary()


def test_the_floors_read_another_species_by_its_orthologs(pbmc68k):
    reference, query = pbmc68k[::4].copy(), _as_mouse(pbmc68k[1::8])
    native = sl.annotate(query, reference, model="pca", progress=False).beside
    names = {"pca (fitted)", "sctop (fitted)"}
    assert {s.model for s in native} == {"pca", *names}
    human, _ = to_human(query)
    mapped = sl.evaluate.annotation(reference, [], query=human, n_boot=0)
    assert all(native.of("accuracy", n).value == mapped.of("accuracy", n).value for n in names)
    # Counts that lie in a layer are read there on both sides.
    for cells in (reference, query):
        cells.layers["counts"], cells.X = cells.X.copy(), cells.X * 0.3
    layered = sl.evaluate.annotation(reference, [], query=query, layer="counts", n_boot=0)
    assert all(layered.of("accuracy", n).value == mapped.of("accuracy", n).value for n in names)
    query.uns["organism"] = "zebrafish"
    query.var_names = [f"gene{i}" for i in range(query.n_vars)]
    none = sl.evaluate.annotation(reference, [], query=query, layer="counts", n_boot=0)
    assert len(none) == 0
    assert "No floors: None of the" in none.summary()


def test_labels_cross_species_on_what_both_share(pbmc68k):
    rows = np.arange(700) % 3 == 0
    reference, query = pbmc68k[~rows].copy(), _as_mouse(pbmc68k[rows])
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).replace({"CD34+": "mouse only"})
    scores = sl.evaluate.cross_species(reference, query, "pca", n_boot=30)
    assert {s.model for s in scores} == {"pca", "pca (fitted)", "sctop (fitted)"}
    assert scores.of("accuracy", "pca (fitted)").value > 0.6
    assert "mouse only" not in scores.notes[1]
    assert "one-to-one ortholog" in scores.summary()
    assert HUMAN_NAMES in scores.of("accuracy", "pca").remark
    # It stands beside labels that were carried within the species, and not in their place.
    assert scores.provenance["task"] == "evaluate.cross_species"
    assert scores.provenance["models"]["pca"]["weights_sha256"] == sl.load_model("pca").digest
    assert (scores.provenance["method"], scores.provenance["organism"]) == ("neighbours", "mouse")
    query.obs["cell_type"] = "neuron"
    with pytest.raises(DataError, match="share 0 labels"):
        sl.evaluate.cross_species(reference, query, "pca")
    with pytest.raises(DataError, match="reference is not human"):
        sl.evaluate.cross_species(query, reference, "pca")
