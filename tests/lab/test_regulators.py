"""Edges from regulators to genes, and what they are worth against a known network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.evaluation.regulators import AUPRC, EPR, RATIO, _network, _Ranked, _rewired
from scfm_lab.tasks.regulators import RegulatorResult

FACTORS = ["SPI1", "IRF8", "JUNB", "KLF6"]


@pytest.fixture(scope="module")
def cells():
    return sl.datasets.load("pbmc68k")


@pytest.fixture(scope="module")
def found(cells):
    return sl.regulators(cells, "starter", regulators=FACTORS, n_genes=16, max_cells=40, progress=False)


def test_every_method_scores_every_edge_but_those_to_itself(found):
    assert set(found.scores) == {"embedding", "attention", "perturbation", "coexpression", "boosting"}
    itself = found.regulators[:, None] == found.targets[None, :]
    assert itself.sum() == len(found.regulators) >= 3
    for values in found.scores.values():
        assert np.isnan(values[itself]).all()
        assert np.isfinite(values[~itself]).all()
        assert values[~itself].std() > 0
    assert len(found.table) == (~itself).sum()
    assert "no evidence of regulation" in found.summary()
    assert "coexpression:" not in found.summary(), "nothing is ranked by co-expression alone"
    assert found.plot().to_dict()["layer"]


def test_the_extractors_are_what_they_say(cells, found):
    model = sl.load_model("starter")
    table = model.gene_embeddings()
    # The least expressed, so that all cells that express it are knocked out.
    seen = (cells[:, found.regulators].X > 0).sum(axis=0)
    at = (int(np.argmin(seen)), 1)
    r, t = found.regulators[at[0]], found.targets[1]
    a, b = table.loc[r].to_numpy(np.float64), table.loc[t].to_numpy(np.float64)
    assert found.scores["embedding"][at] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)

    given = Cells.from_anndata(cells)
    given = given.take(np.sort(np.argsort(given.keys, kind="stable")[:40]))
    tokens = model.tokenize(given)
    ids = [model.vocabulary.id_of(g) for g in (r, t)]
    read = []
    for i, weights in enumerate(model.attention(tokens, hidden_layer=1)):
        own = list(tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]])
        if all(g in own for g in ids):
            # Position 0 is the cell itself; the target's row, the regulator's column.
            read.append(weights[:, own.index(ids[1]) + 1, own.index(ids[0]) + 1] * weights.shape[-1])
    for head in range(model.spec.heads):
        assert found.heads[1, head + 1][at] == pytest.approx(np.mean(read, axis=0)[head], rel=1e-4)
    assert found.scores["attention"][at] == pytest.approx(np.mean([h[at] for h in found.heads.values()]))

    logged = np.log1p(given.counts.toarray() / given.total[:, None] * 1e4)
    place = [list(given.genes.names).index(g) for g in (r, t)]
    assert found.scores["coexpression"][at] == pytest.approx(abs(stats.spearmanr(*logged[:, place].T)[0]), abs=1e-5)

    rows = np.flatnonzero(given.counts[:, place[0]].toarray().ravel())
    assert 0 < len(rows) <= 30
    some = given.take(rows)
    without = some.counts.tolil()
    without[:, place[0]] = 0
    after = some.with_counts(without.tocsr())
    change = [np.log1p(model.impute(model.tokenize(c), np.array(ids[1:]))) for c in (some, after)]
    assert found.scores["perturbation"][at] == pytest.approx(np.abs(change[1] - change[0]).mean(), rel=1e-3)


def test_boosting_finds_a_planted_regulator():
    import anndata as ad

    rng = np.random.default_rng(0)
    counts = rng.poisson(5, size=(150, 8)).astype(np.float32)
    names = ["SPI1", "IRF8", "JUNB", "CD3D", "LYZ", "CD79A", "NKG7", "MS4A1"]
    counts[:, 4] = rng.poisson(3 * counts[:, 0])
    adata = ad.AnnData(counts, var=pd.DataFrame(index=names))
    # Of few genes the library would be mostly the planted one.
    adata.obs["total_counts_all_genes"] = 1000
    made = sl.regulators(
        adata, "pca", "embedding", regulators=names[:3], targets=names[3:], max_cells=150, progress=False
    )
    lyz = list(made.targets).index("LYZ")
    assert made.scores["boosting"][:, lyz].argmax() == 0
    assert made.scores["boosting"][0, lyz] > 1.5 * made.scores["boosting"][1:, lyz].max()
    assert made.scores["boosting"][0, lyz] > 1.5 * np.delete(made.scores["boosting"], lyz, axis=1).max()


def test_one_regulator_alone_explains_every_gene_but_itself():
    cells = sl.datasets.load("pbmc68k")[::20].copy()
    found = sl.regulators(cells, "pca", "embedding", regulators=["LYZ"], n_genes=5, progress=False)
    assert "LYZ" not in set(found.table["target"])
    assert found.table["boosting"].notna().all()


def _made(scores, regulators, targets):
    return RegulatorResult(np.array(regulators, object), np.array(targets, object), scores, {})


@pytest.fixture(scope="module")
def toy():
    """A network in which two targets have most edges, and the scores of an oracle, of degrees alone, and of noise."""
    rng = np.random.default_rng(0)
    regulators, targets = [f"R{i}" for i in range(20)], [f"T{i}" for i in range(60)]
    popular = np.linspace(0.9, 0.02, 60)
    net = rng.random((20, 60)) < popular
    scores = {
        "oracle": net + rng.random(net.shape) / 10,
        "degrees": np.tile(popular, (20, 1)) + rng.random(net.shape) / 100,
        "noise": rng.random(net.shape),
    }
    truth = [(regulators[r], targets[t]) for r, t in np.argwhere(net)]
    return net, _made(scores, regulators, targets), truth


def test_degrees_alone_are_no_better_than_the_degree_null(toy):
    net, made, truth = toy
    scores = sl.evaluate.regulators(made, truth, n_null=60, n_boot=100)
    density = net.mean()
    assert scores.of(EPR, "oracle").value == pytest.approx(1 / density)
    assert scores.of(EPR, "noise").value == pytest.approx(1, abs=0.25)
    assert scores.of(EPR, "degrees").value > 1.5, "early precision alone takes degrees for knowledge"
    degrees, oracle = scores.of(RATIO, "degrees"), scores.of(RATIO, "oracle")
    assert degrees.low < 1 < degrees.high or abs(degrees.value - 1) < 0.05
    assert oracle.low > 1.2
    assert oracle.above_floor
    assert "p = 0.016" in oracle.remark
    for method, values in made.scores.items():
        expected = average_precision_score(net.ravel(), values.ravel())
        assert scores.of(AUPRC, method).value == pytest.approx(expected, abs=1e-3)
        assert scores.of(AUPRC, method).low <= expected <= scores.of(AUPRC, method).high
    assert scores.of(RATIO, "noise").floor_name == "degree null"


def test_the_degree_null_is_drawn_with_the_regulators(toy):
    """Worked out network by network, regulator by regulator, as ``_Ranked`` does it for all at once."""
    net, made, _ = toy
    edges, rng = np.ones(net.shape, bool), np.random.default_rng(0)
    rewired = [_rewired(net, edges, np.random.default_rng(i)) for i in range(4)]
    values = made.scores["oracle"]
    weight = np.bincount(rng.integers(0, 20, 20), minlength=20)
    order = np.argsort(-values.ravel())
    rows = order // net.shape[1]
    # Each regulator as often as it was drawn, its edges side by side.
    often = np.repeat(order, weight[rows])
    k = int((weight @ net).sum())
    expected = {EPR: [], AUPRC: []}
    for one in (net, *rewired):
        true = one.ravel()[often]
        expected[EPR].append(true[:k].mean() / true.mean())
        tied = -np.repeat(np.arange(len(order)), weight[rows]).astype(float)
        expected[AUPRC].append(average_precision_score(true, tied))
    found = _Ranked.of(values, edges, net, rewired, rng).told(weight)
    for metric, those in expected.items():
        np.testing.assert_allclose([found[metric][0], *found[metric][1]], those, rtol=0.02)
    assert found[RATIO][0] == pytest.approx(found[EPR][0] / found[EPR][1].mean())


def test_the_difference_to_the_degree_null_decides(toy):
    _, made, truth = toy
    scores = sl.evaluate.regulators(made, truth, n_null=60, n_boot=100)
    for score in scores:
        assert score.gain_low <= score.value - score.floor <= score.gain_high, score
        assert score.above_floor == (score.gain_low > 0)
    # What degrees alone reach is above 1 and above the mean of the null in no lasting way.
    for metric in (EPR, AUPRC):
        degrees = scores.of(metric, "degrees")
        assert degrees.gain_low <= 0.05 * degrees.floor
        # Popular targets are so for all regulators: value and null go together, and their difference varies less.
        assert degrees.gain_high - degrees.gain_low < degrees.high - degrees.low


def test_rewiring_keeps_every_degree_and_puts_no_edge_where_none_can_be(toy):
    net = toy[0]
    edges = np.ones(net.shape, bool)
    edges[np.arange(20), np.arange(20)] = False
    start = net & edges
    made = [_rewired(start, edges, np.random.default_rng(i)) for i in range(5)]
    for other in made:
        np.testing.assert_array_equal(other.sum(axis=0), start.sum(axis=0))
        np.testing.assert_array_equal(other.sum(axis=1), start.sum(axis=1))
        assert not (other & ~edges).any()
        assert (other != start).any()


def test_dorothea_and_the_heads(shared_data):
    table = sl.datasets.load("dorothea_human")
    # A confidence is one of a regulator: three of each level, those with most targets.
    by_level = table.groupby(["confidence", "tf"]).size().sort_values(ascending=False)
    names = np.array([tf for level in "ACD" for tf in by_level[level].index[:3]], object)
    own = table[table["tf"].isin(names)]
    targets = own["target"].drop_duplicates().to_numpy(dtype=object)[::40]
    rng = np.random.default_rng(0)
    made = _made({"noise": rng.random((9, len(targets)))}, names, targets)
    made = replace(made, heads={(1, 1): rng.random((9, len(targets)))})
    scores = sl.evaluate.regulators(made, n_null=19, n_boot=20)
    strong = own[own["confidence"].isin(["A", "C"]) & own["target"].isin(targets) & (own["tf"] != own["target"])]
    known = len(strong[["tf", "target"]].drop_duplicates())
    assert f"{known:,} true edges of 6 regulators" in scores.notes[0]
    assert "3 regulators without a true edge" in scores.notes[0]
    assert scores.heads[["layer", "head"]].to_numpy().tolist() == [[1, 1]]
    assert "of 3 regulators" in sl.evaluate.regulators(made, confidence="A", n_null=19, n_boot=0).notes[0]


def test_genes_that_share_a_symbol_have_its_edges_each():
    rng = np.random.default_rng(0)
    regulators, targets = ["R0", "R1", "R1", "R2"], ["T0", "T1", "T1", "T2", "T3"]
    made = _made({"noise": rng.random((4, 5))}, regulators, targets)
    truth = [("R0", "T0"), ("r1", "T1"), ("R1", "T3"), ("R2", "T2"), ("R2", "X")]
    net = _network(made, truth, "ABC")
    assert np.argwhere(net).tolist() == [[0, 0], [1, 1], [1, 2], [1, 4], [2, 1], [2, 2], [2, 4], [3, 3]]
    scores = sl.evaluate.regulators(made, truth, n_null=19, n_boot=5)
    assert "8 true edges of 4 regulators among 20" in scores.notes[0]


def test_named_genes_that_cannot_be_scored_are_told(cells):
    unknown = cells.copy()
    place = unknown.var_names.get_loc("JUNB")
    unknown.var = unknown.var.assign(
        **{
            key: np.where(np.arange(unknown.n_vars) == place, "", values)
            for key, values in unknown.var.astype(str).items()
        }
    )
    unknown.var_names = [f"novel-{g}" if g == "JUNB" else g for g in unknown.var_names]
    x = unknown.X.tolil()
    x[:, unknown.var_names.get_loc("KLF6")] = 0
    unknown.X = x.tocsr()
    asked = [*FACTORS[:2], "novel-JUNB", "KLF6"]
    made = sl.regulators(
        unknown, "starter", "embedding", regulators=asked, targets=["LYZ", "KLF6"], beside=False, progress=False
    )
    assert made.notes == (
        "Left out of the named regulators, unknown to starter: novel-JUNB.",
        "Left out of the named regulators, expressed in fewer than 10 of the 300 cells: KLF6.",
        "Left out of the named targets, expressed in fewer than 10 of the 300 cells: KLF6.",
    )
    assert made.notes[0] in made.summary()
    assert len(made.regulators) == 2


def test_questions_about_regulators_that_make_no_sense_are_refused(cells, found):
    with pytest.raises(DataError, match="There is no method 'atention'"):
        sl.regulators(cells, "starter", "atention", regulators=FACTORS, progress=False)
    with pytest.raises(ModelError, match="cannot show attention"):
        sl.regulators(cells, "pca", "attention", regulators=FACTORS, beside=False, progress=False)
    told = sl.regulators(cells, "pca", regulators=FACTORS, n_genes=20, beside=False, progress=False)
    assert set(told.scores) == {"embedding"}
    assert "Not by attention" in told.summary()
    with pytest.raises(GenesError, match="No gene called 'NOPE'"):
        sl.regulators(cells, "pca", "embedding", regulators=["NOPE"], progress=False)
    with pytest.raises(DataError, match="at least three are needed"):
        sl.evaluate.regulators(found, [("SPI1", "LYZ")])
    with pytest.raises(DataError, match="n_boot is -1"):
        sl.evaluate.regulators(found, [("SPI1", "LYZ")], n_boot=-1)
    with pytest.raises(DataError, match="has no column tf"):
        sl.evaluate.regulators(found, pd.DataFrame({"source": ["a"], "target": ["b"]}))
    imputed = cells[:60].copy()
    sl.impute(imputed, "starter", progress=False)
    with pytest.raises(DataError, match="Regulators must not be made of 'imputed_starter'"):
        sl.regulators(imputed, "starter", layer="imputed_starter", regulators=FACTORS, progress=False)


def test_edges_are_written_with_their_provenance(cells, found):
    adata = cells[:5].copy()
    found.write(adata)
    assert adata.uns["regulators_starter"].shape == found.table.shape
    assert adata.uns["scfm"]["regulators_starter"]["weights_sha256"].startswith("sha256:")


def test_without_the_named_lists_the_way_out_is_told(cells, found, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_DATA", str(tmp_path))
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    with pytest.raises(DataError, match="name the regulators yourself"):
        sl.regulators(cells, "pca", "embedding", progress=False)
    with pytest.raises(DataError, match="a network of your own"):
        sl.evaluate.regulators(found)


def test_genes_named_by_ensembl_ids_are_told_in_symbols(cells):
    known = cells[:, cells.var["ensembl_id"] != ""].copy()
    symbols = known.var_names[:40].tolist()
    known.var_names = known.var["ensembl_id"].astype(str)
    made = sl.regulators(known, "pca", "embedding", beside=False, regulators=FACTORS, targets=symbols, progress=False)
    assert set(made.regulators) <= set(FACTORS)
    assert set(made.targets) <= set(symbols)
