"""Predicted perturbations: floors worked out by hand, ceilings that noise cannot reach, and no score without controls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scfm_lab as sl
from scfm_lab.errors import DataError, ModelError
from scfm_lab.evaluation import perturbation_floors as floors
from scfm_lab.evaluation.perturbation import _aligned
from scfm_lab.evaluation.perturbation_metrics import METRICS, ceilings, centroid_accuracy, collapse, correlation, scored
from scfm_lab.evaluation.profiles import Profiles

GENES = [f"G{i}" for i in range(60)]
NAMES = ["A", "B", "C", "D", "E", "A+B", "C+D"]


_CELL_EVAL = textwrap.dedent("""
    import json
    from dataclasses import replace
    import anndata, numpy as np, pandas as pd
    import cell_eval2 as ce
    from scfm_lab.evaluation import cell_eval
    from scfm_lab.evaluation.profiles import Profiles
    from scfm_lab.evaluation.score import Score

    rng = np.random.default_rng(0)
    base = rng.gamma(2.0, 3.0, size=40)
    x, labels = [], []
    for name in ["control", "A", "B", "C"]:
        fold = np.where(rng.random(40) < 0.5, rng.normal(0, 1, 40), 0) if name != "control" else np.zeros(40)
        x.append(rng.poisson(base * np.exp(fold), size=(40, 40)))
        labels += [name] * 40
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(160)])
    adata = anndata.AnnData(np.concatenate(x).astype(np.float32), obs, pd.DataFrame(index=[f"G{i}" for i in range(40)]))
    data = Profiles.of(adata, perturbation_key="perturbation", control="control")
    config = cell_eval._config(ce, data)
    real = cell_eval.cells_of(data, data.names)
    agg = ce.aggregate_metrics(ce.compute_metrics(real, real, config=config))
    itself = dict(zip(agg["metric"], agg["mean"]))
    mean = np.tile(data.mean.mean(axis=0), (3, 1))
    part = np.where(np.arange(3)[:, None] == 2, np.nan, mean)
    scores, _ = cell_eval.s_scores(
        data, {"turned": data.mean[[1, 2, 0]], "mean": mean, "oracle": data.mean, "part": part}, splits=2
    )
    def of(model):
        return {s.metric.removeprefix("cell-eval2 "): s.value for s in scores if s.model == model}
    one = next(s for s in scores if s.metric.endswith("pds_cosine"))

    # Cells of which everything can be said beforehand: those of a perturbation are the control's, with counts moved from one gene
    # of a pair to the other. Each has five pairs of its own, and all share five, which C moves the other way and less.
    moved = {name: {5 * i + j: 0.3 for j in range(5)} for i, name in enumerate("ABC", start=1)}
    for name, part in (("A", 0.6), ("B", 0.6), ("C", -0.2)):
        moved[name] |= dict.fromkeys(range(5), part)
    control = rng.poisson(100, size=(100, 80))
    parts, labels = [control], ["control"] * 100
    for name, pairs in moved.items():
        made = control.copy()
        for pair, part in pairs.items():
            up, down = (2 * pair, 2 * pair + 1) if part > 0 else (2 * pair + 1, 2 * pair)
            taken = np.round(abs(part) * made[:, down]).astype(int)
            made[:, up] += taken
            made[:, down] -= taken
        parts.append(made)
        labels += [name] * 100
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(400)])
    toy = anndata.AnnData(np.concatenate(parts).astype(np.float32), obs, pd.DataFrame(index=[f"G{i}" for i in range(80)]))
    known = Profiles.of(toy, perturbation_key="perturbation", control="control")
    response = np.tile(known.mean.mean(axis=0), (3, 1))
    told, _ = cell_eval.s_scores(known, {"mean": response}, splits=2)
    # Half of the cells as the prediction of the other half, each with its own half of the control.
    half = rng.permutation(np.repeat([True, False], 50))
    half = np.concatenate([half[rng.permutation(100)] for _ in range(4)])
    everything = cell_eval.cells_of(known, known.names)
    own = replace(cell_eval._config(ce, known), control_source="pred")
    halves = ce.aggregate_metrics(ce.compute_metrics(everything[half].copy(), everything[~half].copy(), config=own))
    halves = dict(zip(halves["metric"], halves["mean"]))
    folds = np.log2(np.expm1(known.mean) / np.expm1(known.control))
    there = np.array([[g // 2 in moved[name] for g in range(80)] for name in known.names])
    off = np.abs(np.log2(np.expm1(response) / np.expm1(known.control)) - folds)
    print(json.dumps({
        "toy floor": {s.metric.removeprefix("cell-eval2 "): s.value for s in told},
        "toy positions": {s.metric.removeprefix("cell-eval2 "):
                          [s.position, replace(s, value=halves[s.metric.removeprefix("cell-eval2 ")]).position] for s in told},
        "error by hand": [float(((response - known.mean) ** 2).sum() / ((known.control - known.mean) ** 2).sum()),
                          float(np.mean([o[t].mean() / abs(f[t]).mean() for o, f, t in zip(off, folds, there)]))],
        "itself": {m: itself[m] for m in cell_eval.members()},
        "turned": of("turned"), "mean": of("mean"),
        "oracle position": {s.metric.removeprefix("cell-eval2 "): s.position for s in scores if s.model == "oracle"},
        "position of the ceiling": replace(one, value=one.ceiling).position,
        "position of the floor": replace(one, value=one.floor).position,
        "part": {s.metric: [s.value, s.floor] for s in scores if s.model == "part" and np.isfinite(s.value)},
        "gain of the floor": [[s.gain_low, s.gain_high] for s in scores if s.model == "mean" and np.isfinite(s.value)],
        "gain of the oracle": {s.metric.removeprefix("cell-eval2 "): [s.low, s.floor, s.gain_low, s.value - s.floor, s.gain_high]
                               for s in scores if s.model == "oracle" and np.isfinite(s.value)},
    }))
""")


def _screen(effect: float = 1.0, seed: int = 0, cells: int = 60):
    """Counts in which every perturbation multiplies its own genes, and doubles those of both singles."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(2.0, 3.0, size=len(GENES))
    log_fold = {n: np.where(rng.random(len(GENES)) < 0.3, rng.normal(0, effect, len(GENES)), 0) for n in "ABCDE"}
    counts, labels = [], []
    for name in ["control", *NAMES]:
        fold = sum((log_fold[t] for t in name.split("+") if t in log_fold), np.zeros(len(GENES)))
        counts.append(rng.poisson(base * np.exp(fold), size=(cells, len(GENES))))
        labels += [name] * cells
    x = np.concatenate(counts).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    return anndata.AnnData(x, obs, pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def screen():
    return _screen()


@pytest.fixture(scope="module")
def data(screen):
    return Profiles.of(screen, perturbation_key="perturbation", control="control")


def test_to_know_the_target_alone_is_chance():
    genes, n = [f"G{i}" for i in range(60)], 30
    rng = np.random.default_rng(0)
    # Knock-downs that change their own target and nothing else.
    x, labels = [rng.poisson(20, size=(40, 60))], ["control"] * 40
    for i in range(n):
        x.append(rng.poisson(20, size=(20, 60)))
        x[-1][:, i] = 0
        labels += [genes[i]] * 20
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = anndata.AnnData(np.concatenate(x).astype(np.float32), obs, pd.DataFrame(index=genes))
    data = Profiles.of(adata, perturbation_key="perturbation", control="control")
    told = np.tile(data.control, (n, 1))
    own = np.arange(n), [genes.index(name) for name in data.names]
    told[own] = 0
    frame = pd.DataFrame(told, index=data.names, columns=genes)
    scores = sl.evaluate.perturbation(adata, predictions={"target alone": frame}, splits=3)
    score = scores.of("centroid accuracy", "target alone")
    assert score.value == pytest.approx(0.5, abs=0.1)
    assert score.ceiling == pytest.approx(0.5, abs=0.1), "replicates agree on nothing else either"
    assert centroid_accuracy(told, data.mean).mean() > 0.95, "with the targets"
    # What follows from a target counts as before.
    skip = np.zeros(data.mean.shape, dtype=bool)
    skip[own] = True
    follows = data.mean.copy()
    follows[np.arange(n), 30 + np.arange(n)] += 3
    assert scored(follows, follows, data.control, data.mean, skip)[METRICS[2]].mean() == 1
    assert ceilings(data, ~skip, splits=1, seed=0)[METRICS[2]] == pytest.approx(0.5), "no gene is left to tell by"


def test_profiles_are_means_of_log_normalised_counts(screen, data):
    x = screen.X[(screen.obs["perturbation"] == "B").to_numpy()]
    expected = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
    np.testing.assert_allclose(data.mean[data.names.index("B")], expected, rtol=1e-6)
    panel = screen[:, :20].copy()
    panel.obs["total_counts_all_genes"] = screen.X.sum(axis=1)
    small = Profiles.of(panel, perturbation_key="perturbation", control="control")
    np.testing.assert_allclose(small.mean, data.mean[:, :20], rtol=1e-6)
    assert "total_counts_all_genes" in small.total


def test_floors_worked_out_by_hand(data):
    train = [n for n in data.names if n != "A+B"]
    m = {n: data.mean[data.names.index(n)] for n in data.names}
    np.testing.assert_allclose(floors.no_change(data, train, ["A+B"])[0], data.control)
    np.testing.assert_allclose(floors.mean_response(data, train, ["A+B"])[0], np.mean([m[n] for n in train], axis=0))
    np.testing.assert_allclose(floors.matching_mean(data, train, ["A+B"])[0], (m["A"] + m["B"]) / 2)
    np.testing.assert_allclose(floors.additive(data, train, ["A+B"])[0], m["A"] + m["B"] - data.control)
    assert np.isnan(floors.additive(data, ["A", "C"], ["A+B"])).all()
    assert np.isnan(floors.additive(data, train, ["E"])).all()
    overall = (m["A"] + m["C"]) / 2
    np.testing.assert_allclose(floors.matching_mean(data, ["A", "C"], ["A+B"])[0], (m["A"] + overall) / 2)
    # Of a single it is the mean, also where a double holds its target; that one is another floor.
    train = ["A+B", "C"]
    np.testing.assert_allclose(floors.matching_mean(data, train, ["A"])[0], (m["A+B"] + m["C"]) / 2)
    np.testing.assert_allclose(floors.shared_target(data, train, ["A"])[0], m["A+B"])
    np.testing.assert_allclose(floors.shared_target(data, ["A", "B"], ["E"])[0], (m["A"] + m["B"]) / 2)


def test_labels_as_gears_writes_them_are_singles_and_doubles(screen, data):
    given = screen.copy()
    names = {"control": "ctrl", "A+B": "B+A", "A": "A+ctrl", "B": "ctrl+B", "C": "C+ctrl"}
    given.obs["perturbation"] = [names.get(n, n) for n in screen.obs["perturbation"]]
    gears = Profiles.of(given, perturbation_key="perturbation", control="ctrl")
    assert [gears.targets(n) for n in ("ctrl+B", "A+ctrl", "B+A", "D")] == [("B",), ("A",), ("A", "B"), ("D",)]
    train = [n for n in gears.names if n != "B+A"]
    plain = [n for n in data.names if n != "A+B"]
    for floor in (floors.additive, floors.matching_mean, floors.shared_target):
        np.testing.assert_allclose(floor(gears, train, ["B+A"]), floor(data, plain, ["A+B"]), atol=1e-9)
    frame = pd.DataFrame(data.mean, index=data.names, columns=GENES)
    aligned = _aligned("p", frame.rename(index={"B": "B+ctrl"}), gears)
    np.testing.assert_array_equal(aligned, data.mean[[data.names.index(_plain(n)) for n in gears.names]])
    with pytest.raises(DataError, match="The prediction 'p' has 2 rows for 'B\\+A'"):
        _aligned("p", pd.concat([frame, frame.rename(index={"A+B": "B+A"}).loc[["B+A"]]]), gears)
    given.obs["perturbation"] = [{"D": "ctrl+A"}.get(n, n) for n in given.obs["perturbation"]]
    # Singles are written both ways round in one file; none may be predicted from itself.
    both = Profiles.of(given, perturbation_key="perturbation", control="ctrl")
    assert both.pooled == {"ctrl+A": "A+ctrl"}
    together = given.obs["perturbation"].isin(["A+ctrl", "ctrl+A"]).to_numpy()
    assert both.n_cells["A+ctrl"] == together.sum()
    np.testing.assert_allclose(both.mean[both.names.index("A+ctrl")], gears.cells[together].mean(axis=0).A1)


def _plain(name):
    return "+".join(sorted(t for t in name.split("+") if t != "ctrl"))


def test_chance_is_the_mean_of_many_random_tables_and_the_floor_is_beaten_by_the_difference(screen, data):
    # A little better than the floor on every perturbation, far less than perturbations differ among themselves.
    alone = sl.evaluate.perturbation(screen, splits=2, progress=False)
    made = alone.predicted[alone.of(METRICS[0]).floor_name]
    little = pd.DataFrame(made + 0.3 * (data.mean - made), index=data.names, columns=GENES)
    result = sl.evaluate.perturbation(screen, predictions={"little": little}, splits=2, progress=False)
    score = result.of(METRICS[0], "little")
    per = result.per_perturbation.query("metric == @METRICS[0]").pivot(
        index="perturbation", columns="predictor", values="value"
    )
    gain = per["little"] - per[score.floor_name]
    assert score.gain_low < gain.mean() < score.gain_high
    assert (gain > 0).all()
    assert score.low < score.floor
    assert score.verdict == "better than the floor"
    seeds = [floors.random_table(list("ABCDE"), seed=[0, i]) for i in range(floors.N_RANDOM)]
    one = data.names.index("E")
    train = [n for n in data.names if n != "E"]
    scores = [
        correlation(p - data.control, data.mean[[one]] - data.control)[0]
        for p in floors.bilinear_of(data, train, ["E"], seeds)
    ]
    assert np.std(scores) > 0.01
    assert per.loc["E", "bilinear, random table"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert "20 random tables" in result.summary()


def test_the_bilinear_model_is_the_ridge_of_both_sides(data):
    rng = np.random.default_rng(0)
    table = {t: rng.normal(size=4) for t in "ABCDE"}
    train, test = ["A", "B", "C", "D", "A+B"], ["E", "C+D"]
    found = floors.bilinear(data, train, test, table, k=3, ridge=0.1)
    y = data.mean[[data.names.index(n) for n in train]].T
    b = y.mean(axis=1, keepdims=True)
    g = np.linalg.svd(y - b)[0][:, :3]
    p = np.array([table["A"], table["B"], table["C"], table["D"], table["A"] + table["B"]])
    # The stationary point of |Y − b − G W Pᵀ|² under the two-sided ridge: (GᵀG + λ) W (PᵀP + λ) = Gᵀ (Y − b) P.
    w = np.linalg.lstsq(np.kron(g.T @ g + 0.1 * np.eye(3), p.T @ p + 0.1 * np.eye(4)), (g.T @ (y - b) @ p).ravel())[0]
    w = w.reshape(3, 4)
    np.testing.assert_allclose(found[0], (g @ w @ table["E"]) + b[:, 0], atol=1e-8)
    np.testing.assert_allclose(found[1], (g @ w @ (table["C"] + table["D"])) + b[:, 0], atol=1e-8)
    unknown = floors.bilinear(data, train, ["E"], {t: table[t] for t in "ABCD"})
    np.testing.assert_allclose(unknown, floors.mean_response(data, train, ["E"]))


def test_metrics_worked_out_by_hand():
    a = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 2.0]])
    b = np.array([[2.0, 1.0, 5.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    found = correlation(a, b)
    assert found[0] == pytest.approx(stats.pearsonr(a[0], b[0]).statistic)
    assert found[1] == 0
    assert np.isnan(found[2])
    measured = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    # The first prediction is nearest to its own; the second as near to the first as to its own; the third is nearest to others.
    predicted = np.array([[0.1, 0.0], [0.5, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(centroid_accuracy(predicted, measured), [1.0, 0.75, 0.0])
    assert collapse(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.1]]), np.zeros(3)) > 0.99


def test_a_perfect_prediction_reaches_one_and_the_mean_is_worth_nothing_against_the_centroid(screen, data):
    perfect = pd.DataFrame(data.mean, index=data.names, columns=GENES)
    result = sl.evaluate.perturbation(screen, predictions={"oracle": perfect}, splits=4, progress=False)
    assert result.of("Pearson-Δ", "oracle").value == pytest.approx(1)
    assert result.of("centroid accuracy", "oracle").value == pytest.approx(1)
    mean = result.per_perturbation.query("predictor == 'mean'").groupby("metric")["value"].mean()
    assert mean["Pearson-Δ against the perturbed centroid"] == pytest.approx(0)
    none = result.per_perturbation.query("predictor == 'no change'").groupby("metric")["value"].mean()
    assert none["Pearson-Δ"] == 0
    # Effects add up here, so that the sum of singles predicts doubles about as well as replicates do.
    doubles = result.per_perturbation.query("predictor == 'additive'").dropna()
    assert set(doubles["perturbation"]) == {"A+B", "C+D"}
    assert (doubles.query("metric == 'Pearson-Δ'")["value"] > 0.9).all()
    assert result.of("centroid accuracy of doubles", "oracle").floor > 0.8


def test_without_any_effect_the_ceiling_falls_and_the_data_cannot_rank(data):
    nothing = _screen(effect=0.0)
    oracle = pd.DataFrame(data.mean, index=data.names, columns=GENES)
    result = sl.evaluate.perturbation(nothing, predictions={"other": oracle}, splits=10, progress=False)
    score = result.of("Pearson-Δ")
    # A shared control would make unrelated perturbations agree at about 0.5.
    assert score.ceiling < 0.25
    assert score.can_rank is False
    assert "cannot rank models" in result.summary()


def test_a_prediction_of_some_perturbations_stands_between_the_ends_of_the_same(screen, data):
    some = data.names[:3]
    part = pd.DataFrame(data.mean[:3], index=some, columns=GENES)
    result = sl.evaluate.perturbation(screen, predictions={"part": part}, splits=2, progress=False)
    score = result.of("Pearson-Δ", "part")
    per = result.per_perturbation.query("metric == 'Pearson-Δ'").pivot(
        index="perturbation", columns="predictor", values="value"
    )
    floor_names = ["no change", "mean", "matching mean", "shares a target", "bilinear, random table"]
    assert score.n == 3
    assert "3 of 7 perturbations" in score.remark
    assert score.floor == pytest.approx(per.loc[some, floor_names].mean().max())
    assert score.ceiling == pytest.approx(per.loc[some, "replicates"].mean())
    assert abs(score.ceiling - per["replicates"].mean()) > 1e-6
    assert abs(score.floor - per[floor_names].mean().max()) > 1e-6


def test_nearly_one_profile_for_all_is_told(screen, data):
    one = pd.DataFrame(np.tile(data.mean[0], (len(NAMES), 1)), index=data.names, columns=GENES)
    result = sl.evaluate.perturbation(screen, predictions={"flat": one}, splits=2, progress=False)
    assert "Collapsed" in result.of("Pearson-Δ", "flat").remark
    same = pd.DataFrame(np.tile(data.control, (len(NAMES), 1)), index=data.names, columns=GENES)
    result = sl.evaluate.perturbation(screen, predictions={"nothing": same}, splits=2, progress=False)
    assert "Collapsed: it predicts no change" in result.of("Pearson-Δ", "nothing").remark
    assert collapse(np.array([[0.0, 0, 0], [0, 0, 0], [1, 2, 4]]), np.zeros(3)) == pytest.approx(1 / 3)


def test_a_model_enters_through_its_gene_embeddings(shared_data):
    cells = sl.datasets.load("perturb_norman_k562_crispra")
    result = sl.evaluate.perturbation(cells, ["pca"], splits=2, progress=False)
    score = result.of("Pearson-Δ", "pca")
    assert score.low < score.value < score.high
    assert score.n == 27
    assert 0 < score.floor < score.ceiling < 1
    assert (result.targets["in_silico"] == "target not measured").sum() == len(result.targets) - 1
    assert "total_counts_all_genes" in result.summary()
    assert "target not measured" in result.summary()
    assert set(result.table["metric"]) == {*METRICS, *(f"{m} of doubles" for m in METRICS)}
    assert len(result.per_perturbation.query("predictor == 'additive'").dropna()) == 9
    assert "ceiling" in result.plot().to_json()


def test_cell_eval2_gives_what_is_worked_out_by_hand(tmp_path):
    """In a process of its own without compiling, since that takes longer than everything it computes."""
    pytest.importorskip("cell_eval2")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CELL_EVAL],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    measured = {m: v for m, v in found["itself"].items() if "mse" not in m}
    assert len(found["itself"]) == 6
    # The measured cells as their own prediction: every direction and every set agrees, no fold change is off.
    assert measured == {m: (0.0 if "nmae" in m else 1.0) for m in measured}
    # Each of three perturbations predicted as the next one: its own is never the nearest, one of two others always is.
    assert found["turned"]["pds_cosine"] <= 0.5
    # A replicate half is 1, the mean response is 0: what cell-eval2 calls s is the position between floor and ceiling.
    assert found["position of the ceiling"] == 1.0
    assert found["position of the floor"] == 0.0
    # A half of the cells as the prediction of the other half is a replicate, 1; the mean response is 0: by all six.
    assert len(found["toy positions"]) == 6
    for metric, (mean, replicate) in found["toy positions"].items():
        assert mean == 0, metric
        assert replicate == pytest.approx(1, abs=0.1), metric
    mse, nmae = found["error by hand"]
    by_hand = {
        # One prediction for all three is once the nearest, once the second and once the last.
        "pds_cosine": 0.5,
        "expr_mse_unbiased_capped_norm": pytest.approx(mse, rel=0.03),
        "de_wilcoxon_lfc_nmae": pytest.approx(nmae, rel=0.03),
        # Twenty genes change in each, and forty in the mean of the three.
        "de_wilcoxon_sig_jaccard": 0.5,
        # The shared genes come first; they change as in A and in B, and against C.
        "de_wilcoxon_direction_reach_raw": pytest.approx(2 / 3),
        # Of the twenty genes that change in C half go the right way, in A and in B all.
        "de_wilcoxon_direction_fidelity_yield_raw": pytest.approx((1 + 1 + 0.5) / 3),
    }
    assert found["toy floor"] == by_hand
    assert found["oracle position"]["pds_cosine"] > 0.9
    # The mean response of two of the three is its own floor: that one is of the same two.
    assert len(found["part"]) >= 5
    assert all(value == floor for value, floor in found["part"].values()), found["part"]
    # The mean response as a prediction differs from the floor in no resample of the perturbations, ratios of sums among them.
    assert found["gain of the floor"] == [[0.0, 0.0]] * 6
    for metric, (low, floor, *gain) in found["gain of the oracle"].items():
        assert np.isfinite(low), metric
        assert gain == sorted(gain), metric
        # The floor differs between perturbations: the difference to it is wider than the value is.
        assert "mse" not in metric or gain[0] != low - floor


def test_bad_questions_are_answered_in_words(screen, data):
    with pytest.raises(
        DataError, match=r"There are no control cells: no cell is 'NT' .* Did you mean control='control'"
    ):
        sl.evaluate.perturbation(screen, control="NT", progress=False)
    with pytest.raises(DataError, match="The perturbation column 'target' is not in obs"):
        sl.evaluate.perturbation(screen, perturbation_key="target", progress=False)
    few = screen[screen.obs["perturbation"].isin(["control", "A", "B"])].copy()
    with pytest.raises(DataError, match="2 perturbations have 10 cells or more; at least three"):
        sl.evaluate.perturbation(few, progress=False)
    controls = screen[(screen.obs["perturbation"] != "control") | (np.arange(screen.n_obs) < 12)].copy()
    with pytest.raises(DataError, match="There are 12 control cells; at least 20"):
        sl.evaluate.perturbation(controls, progress=False)
    frame = pd.DataFrame(data.mean, index=data.names, columns=GENES)
    with pytest.raises(DataError, match="lacks 1 gene of the data, such as 'G59'"):
        sl.evaluate.perturbation(screen, predictions={"p": frame[GENES[:-1]]}, progress=False)
    with pytest.raises(DataError, match="has none of the perturbations"):
        sl.evaluate.perturbation(screen, predictions={"p": frame.rename(index=str.lower)}, progress=False)
    with pytest.raises(DataError, match="folds is 1"):
        sl.evaluate.perturbation(screen, folds=1, progress=False)
    with pytest.raises(ModelError):
        sl.evaluate.perturbation(screen, "no-such-model", progress=False)
