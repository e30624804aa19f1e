"""The published sanity checks: hidden genes, signs of covariance, and the exclusive-or of two markers."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import DataError, ModelError
from scfm_lab.evaluation.masked import predict_hidden, without_genes
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.set_correlations import SetCorrelations, spearman
from scfm_lab.evaluation.xor import auroc, balanced_accuracy, exactly_one

MARKERS = ("CD79A", "CST3")
SETS = {"T": ["CD3D", "CD3E", "IL32", "LCK"], "monocytes": ["LYZ", "S100A9", "S100A8", "CST3"]}


@pytest.fixture(scope="module")
def cells():
    adata = sl.datasets.load("pbmc68k")
    return adata[np.random.default_rng(0).permutation(700)[:240]].copy()


@pytest.mark.parametrize("constant", [0.0, 0.5, 0.9])
def test_a_constant_predictor_scores_a_half_and_a_half(cells, constant):
    made = {"constant guess": np.full((cells.n_obs, 2), constant)}
    scores = sl.evaluate.xor(
        cells,
        [],
        markers=MARKERS,
        groups=("CD14+ Monocyte", "CD19+ B"),
        labels_key="cell_type",
        predictions=made,
        n_boot=20,
    )
    for score in scores:
        if score.model in ("constant guess", "constant"):
            assert score.value == score.low == score.high == 0.5


def test_the_truth_and_the_perfect_predictor_of_xor(cells):
    values = Cells.from_anndata(cells)
    columns = [values.genes.find(g) for g in MARKERS]
    logged = np.log1p(values.counts[:, columns].toarray() / values.total[:, None] * 1e4)
    on = logged > np.quantile(logged, 0.6, axis=0)
    table = pd.DataFrame(on.astype(float)[:, ::-1], columns=MARKERS[::-1])
    scores = sl.evaluate.xor(cells, [], markers=MARKERS, groups=None, predictions={"oracle": table}, n_boot=0)
    assert scores.of("balanced accuracy (all cells)", "oracle").value == 1
    assert scores.of("AUROC (all cells)", "oracle").value == 1
    own = scores.confusion.query("model == 'oracle'").set_index(["truth", "predicted"])["n_cells"]
    truth = on[:, 0] ^ on[:, 1]
    assert own[True, True] == truth.sum()
    assert own[False, True] == own[True, False] == 0
    assert own.sum() == len(truth)


def test_the_metrics_are_scikit_learns():
    rng = np.random.default_rng(1)
    truth, p = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    assert auroc(truth, p) == pytest.approx(roc_auc_score(truth, p))
    assert balanced_accuracy(truth, p) == pytest.approx(balanced_accuracy_score(truth, p > 0.5))
    assert np.isnan(auroc(np.ones(3, bool), np.ones(3)))
    assert exactly_one(np.array([1.0, 0.5, 0.2]), np.array([1.0, 0.9, 0.0])) == pytest.approx([0, 0.5, 0.2])


def test_hidden_genes_leave_no_trace_in_what_the_model_sees(cells):
    cells = cells[:50].copy()
    given = Cells.from_anndata(cells)
    columns = np.array([given.genes.find(g) for g in ("LYZ", "CD3D")])
    seen = without_genes(given, columns)
    assert not set(seen.genes.names) & {"LYZ", "CD3D"}
    model = sl.load_model("starter")
    before = predict_hidden(model, given, columns)
    other = cells.copy()
    x = other.X.toarray()
    x[:, columns] = np.random.default_rng(0).poisson(20, size=(cells.n_obs, 2))
    other.X = csr_matrix(x)
    other.obs["total_counts_all_genes"] = given.total + (x.sum(axis=1) - np.asarray(given.counts.sum(axis=1)).ravel())
    after = predict_hidden(model, Cells.from_anndata(other), columns)
    np.testing.assert_allclose(before, after, rtol=1e-4)
    kind = cells.obs["cell_type"].astype(str).to_numpy()
    assert before[kind == "CD14+ Monocyte", 0].mean() > 3 * before[kind == "CD19+ B", 0].mean()


def test_spearman_is_scipys_and_a_part_is_taken_out():
    rng = np.random.default_rng(2)
    depth = rng.random(300)
    x = np.column_stack([depth + 0.5 * rng.random(300), depth + 0.5 * rng.random(300), np.ones(300), depth**3])
    plain = spearman(x)
    assert plain[0, 1] == pytest.approx(stats.spearmanr(x[:, 0], x[:, 1])[0])
    assert np.isnan(plain[2]).all()
    partial = spearman(x, depth[:, None])
    r01, r0, r1 = plain[0, 1], *(stats.spearmanr(x[:, i], depth)[0] for i in (0, 1))
    assert partial[0, 1] == pytest.approx((r01 - r0 * r1) / np.sqrt((1 - r0**2) * (1 - r1**2)))
    assert np.isnan(partial[3]).all(), "a gene that is nothing but depth has no correlation beyond it"


def test_depth_alone_fails_where_depth_is_taken_out(cells):
    sets = {
        "class II": ["HLA-DRA", "HLA-DRB1", "CD74", "HLA-DPB1"],
        "also": ["HLA-DPA1", "HLA-DQA1", "HLA-DRB5", "HLA-DMA"],
    }
    genes = [g for s in sets.values() for g in s]
    measured = pd.DataFrame(
        np.log1p(cells[:, genes].X.toarray() / cells.obs["total_counts_all_genes"].to_numpy()[:, None] * 1e4),
        columns=genes,
    )
    made = {"measured": measured, "mirrored": -measured}
    found = sl.evaluate.covariance_sign(cells, [], sets=sets, imputed=made, n_random=3, n_boot=5)
    assert found.of("sign agreement (as published)", "depth alone").value == 1
    assert found.of("sign agreement (depth partialled)", "depth alone").value == 0
    for kind in ("as published", "depth partialled", "within cell types"):
        perfect = found.of(f"error of magnitude ({kind})", "measured")
        assert perfect.value == perfect.low == perfect.high == pytest.approx(0, abs=1e-12)
        assert found.of(f"sign agreement ({kind})", "measured").value == 1
        # Turned upside down together, genes still go together.
        assert found.of(f"error of magnitude ({kind})", "mirrored").value == pytest.approx(0, abs=1e-9)
    half = measured.copy()
    half[sets["also"]] *= -1
    turned = sl.evaluate.covariance_sign(cells, [], sets=sets, imputed={"turned": half}, n_random=0, n_boot=0)
    assert turned.of("sign agreement (as published)", "turned").value == pytest.approx(2 / 3)
    assert set(found.random_sets["draw"]) == {0, 1, 2}


def _logged(cells, genes):
    library = cells.obs["total_counts_all_genes"].to_numpy()[:, None]
    return pd.DataFrame(np.log1p(cells[:, genes].X.toarray() / library * 1e4), columns=genes)


def test_the_mean_of_a_type_tells_nothing_within_it(cells):
    made = {"constant": np.zeros((cells.n_obs, 8))}
    found = sl.evaluate.covariance_sign(cells, [], sets=SETS, imputed=made, n_random=0, n_boot=4)
    for metric in ("sign agreement (within cell types)", "error of magnitude (within cell types)"):
        mean, constant = found.of(metric, "cell-type mean"), found.of(metric, "constant")
        assert (mean.value, mean.low, mean.high) == (constant.value, constant.low, constant.high)
    assert found.of("sign agreement (within cell types)", "cell-type mean").value == 0
    assert found.of("sign agreement (as published)", "cell-type mean").value == 1


def test_what_the_truth_does_not_know_counts_neither_for_nor_against(cells):
    silent = (_logged(cells, SETS["monocytes"]) == 0).all(axis=1).to_numpy()
    assert silent.sum() >= 40
    # One type in which the second set is silent; others too small to be looked into.
    own = cells.copy()
    own.obs["cell_type"] = np.where(silent, "silent", [f"cell {i}" for i in range(own.n_obs)])
    made = {"measured": _logged(own, SETS["T"] + SETS["monocytes"])}
    found = sl.evaluate.covariance_sign(own, [], sets=SETS, imputed=made, n_random=0, n_boot=4)
    score = found.of("sign agreement (within cell types)", "measured")
    assert (score.value, score.low, score.high) == (1, 1, 1)
    assert np.isfinite(score.ceiling)
    rows = found.correlations.query("kind == 'within cell types' and model == 'measured'")
    assert rows["sign_agrees"].tolist() == [True, None, None]
    test = SetCorrelations.of(Cells.from_anndata(own), None)
    assert np.isnan(test.compare(np.full((8, 8), np.nan), np.eye(8), (4, 4))).all()


def test_rows_of_a_table_go_by_the_names_of_cells(cells):
    on = (_logged(cells, list(MARKERS)) > _logged(cells, list(MARKERS)).quantile(0.6)).astype(float)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    named = on.set_index(cells.obs_names)
    made = {"in order": on, "named": named, "turned": named.iloc[order], "by place": on.iloc[order].to_numpy()}
    asked = {"markers": MARKERS, "groups": None, "n_boot": 0}
    found = sl.evaluate.xor(cells, [], predictions=made, **asked)
    value = {name: found.of("AUROC (all cells)", name).value for name in made}
    assert value["in order"] == value["named"] == value["turned"] == 1
    assert value["by place"] < 0.7
    for index in (["other", *cells.obs_names[1:]], [*cells.obs_names[:2], *cells.obs_names[1:-1]], order):
        with pytest.raises(DataError, match="not named as the cells are"):
            sl.evaluate.xor(cells, [], predictions={"x": on.set_axis(list(index))}, **asked)
    with pytest.raises(DataError, match="cannot be read as numbers"):
        sl.evaluate.xor(cells, [], predictions={"x": on.astype(object).replace(1.0, "yes")}, **asked)


def test_a_model_is_scored_between_floors_and_halves(cells):
    found = sl.evaluate.covariance_sign(cells[:60].copy(), "starter", sets=SETS, n_random=2, n_boot=3)
    assert {s.model for s in found} == {"starter", "depth alone", "cell-type mean", "PCA regression"}
    mine = found.of("error of magnitude (as published)", "starter")
    assert 0 < mine.ceiling < mine.value < 1
    between = found.correlations.query("kind == 'as published' and block == 'between' and model == 'starter'")
    assert between["real"].item() < 0
    assert "Random sets: 2 draws" in found.summary()
    assert found.plot().to_dict()["layer"]


def test_the_interval_of_an_error_holds_it(cells):
    few = cells[:80].copy()
    # Cells in another order have all correlations right, and none of the cells: each resample is wrong by its own noise.
    right = _logged(few, SETS["T"] + SETS["monocytes"])
    other = right.iloc[np.random.default_rng(0).permutation(few.n_obs)]
    made = {"other cells": other.to_numpy()}
    found = sl.evaluate.covariance_sign(few, [], sets=SETS, labels_key=None, imputed=made, n_random=0, n_boot=40)
    errors = [s for s in found if s.metric.startswith("error of magnitude")]
    assert {s.model for s in errors} == {"other cells", "depth alone", "PCA regression"}
    for score in errors:
        assert 0 <= score.low <= score.value <= score.high, (score.metric, score.model)
    exact = found.of("error of magnitude (as published)", "other cells")
    assert exact.value == pytest.approx(0, abs=1e-9)
    assert exact.high > 0.01, "noise is not taken for certainty"


def test_the_difference_to_the_floor_decides_about_signs_and_errors(cells):
    genes = SETS["T"] + SETS["monocytes"]
    few = cells[:80, genes].copy()
    depth = few.obs["total_counts_all_genes"].to_numpy()[:, None]
    right = _logged(few, genes).to_numpy()
    # Eight genes alone: nothing to regress on, so that depth is the only floor.
    same = np.tile(np.log1p(depth), (1, len(genes)))
    closer = same + 0.2 * (right - right.mean(axis=0))
    made = {"depth again": same, "a little closer": closer}
    found = sl.evaluate.covariance_sign(few, [], sets=SETS, labels_key=None, imputed=made, n_random=0, n_boot=30)
    for score in found:
        assert score.floor_name == "depth alone"
        if score.model != "a little closer":
            assert (score.gain_low, score.gain_high) == (0, 0)
            assert score.above_floor is False
    better = found.of("error of magnitude (as published)", "a little closer")
    assert better.gain_high < 0, "each resample is closer to the truth than depth alone is"
    assert better.gain_low <= better.value - better.floor <= better.gain_high
    assert better.above_floor
    # Held against the floor of all cells as if that were a constant, its own interval would say something else.
    assert better.gain_high != better.high - better.floor


def test_checks_that_make_no_sense_are_refused(cells):
    with pytest.raises(DataError, match="two named gene sets"):
        sl.evaluate.covariance_sign(cells, [], sets=["CD3D", "LYZ"])
    with pytest.raises(DataError, match="in both sets"):
        sl.evaluate.covariance_sign(cells, [], sets={"a": SETS["T"], "b": SETS["T"]})
    with pytest.raises(DataError, match="Only 0 genes of the set 'b'"):
        sl.evaluate.covariance_sign(cells, [], sets={"a": SETS["T"], "b": ["NOPE"]})
    with pytest.raises(ModelError, match="cannot predict expression"):
        sl.evaluate.xor(cells, "pca", markers=MARKERS, groups=None)
    with pytest.raises(DataError, match="No cell is 'neurons'"):
        sl.evaluate.xor(cells, [], markers=MARKERS)
    with pytest.raises(DataError, match="has the shape"):
        sl.evaluate.xor(cells, [], markers=MARKERS, groups=None, predictions={"x": np.zeros((3, 2))})
    with pytest.raises(DataError, match="outside of 0 to 1"):
        sl.evaluate.xor(cells, [], markers=MARKERS, groups=None, predictions={"x": np.full((cells.n_obs, 2), 2.0)})
    with pytest.raises(DataError, match="n_boot is -1"):
        sl.evaluate.xor(cells, [], markers=MARKERS, groups=None, n_boot=-1)
    with pytest.raises(DataError, match="neither may be below 0"):
        sl.evaluate.covariance_sign(cells, [], sets=SETS, n_random=-1)
    alone = sl.evaluate.xor(cells, [], markers=MARKERS, groups="CD19+ B", n_boot=0)
    assert alone.of("AUROC (CD19+ B)", "constant").n == (cells.obs["cell_type"] == "CD19+ B").sum()
    silent = cells.copy()
    x = silent.X.toarray()
    x[:, [silent.var_names.get_loc(g) for g in MARKERS]] = 0
    silent.X = csr_matrix(x)
    with pytest.raises(DataError, match="in none of the"):
        sl.evaluate.xor(silent, [], markers=MARKERS, groups=None)


def test_two_versions_of_a_model_are_two_rows(cells):
    few = cells[:60].copy()
    one = sl.load_model("starter", device="cpu")
    other = copy.copy(one)
    one.version, other.version = "mine/1", "mine/2"
    how = {"options": {"max_length": 16}, "n_boot": 0}
    scored = (
        sl.evaluate.xor(few, [one, other], markers=MARKERS, groups=None, **how),
        sl.evaluate.covariance_sign(few, [one, other], sets=SETS, n_random=1, min_cells=2, **how),
        sl.evaluate.imputation(few, [one, other], min_molecules=5, **how),
        sl.evaluate.clustering(few, [one, other], floors=False, **how),
        sl.evaluate.annotation(few, [one, other], floors=False, **how),
    )
    for scores in scored:
        assert {"mine/1", "mine/2"} <= {s.model for s in scores}, scores.title
        assert "starter" not in {s.model for s in scores}
        # Of each score it can be told which weights gave it, by which options.
        told = scores.provenance["models"]
        assert {name: entry["version"] for name, entry in told.items()} == {"mine/1": "mine/1", "mine/2": "mine/2"}
        assert all(entry["weights_sha256"] == one.digest for entry in told.values())
        assert all(entry["options"]["max_length"] == 16 for entry in told.values())
        assert scores.provenance["packages"]["scfm-lab"] == sl.__version__
    assert len({scores.provenance["task"] for scores in scored}) == len(scored)
    assert {"mine/1", "mine/2"} <= set(scored[1].random_sets["model"])
    # Once more the same is the same; what is alike in all but its settings is not.
    other.version, other.settings_digest = "mine/1", "sha256:other settings"
    assert list(named([one, one])) == ["starter"]
    assert len(named([one, other])) == 2
