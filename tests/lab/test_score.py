"""Scores: between floor and ceiling, and silent where they cannot say anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.evaluation.ordering import FLOOR, stage_scores
from scfm_lab.evaluation.resampling import ends, resamples, tail
from scfm_lab.evaluation.score import CANNOT_RANK, Score, Scores, best_floor, bootstrap_interval, spearman_brown


def test_a_value_is_placed_between_floor_and_ceiling():
    score = Score("accuracy", "m", 0.7, low=0.65, high=0.75, floor=0.6, floor_name="pca", ceiling=0.8)
    assert score.position == pytest.approx(0.5)
    assert score.verdict == "better than the floor"
    low_is_good = Score("error", "m", 0.7, low=0.65, high=0.75, floor=0.8, ceiling=0.6, higher_is_better=False)
    assert low_is_good.position == pytest.approx(0.5)
    assert low_is_good.verdict == "better than the floor"
    assert Score("accuracy", "m", 0.7, floor=0.6).verdict == "above the floor, without an interval"


def test_a_gain_is_that_on_the_same_resamples():
    drawn = np.array([0.5, np.nan, 0.7, 0.9])
    found = ends(drawn, drawn - 0.01)
    assert found["gain_low"] == pytest.approx(0.01)
    assert found["gain_high"] == pytest.approx(0.01)
    assert found["low"] == pytest.approx(np.percentile([0.5, 0.7, 0.9], 2.5))
    score = Score("accuracy", "m", 0.7, floor=0.69, floor_name="pca", **found)
    assert score.low < score.floor
    assert score.verdict == "better than the floor"
    assert np.isnan(ends(drawn)["gain_low"])
    assert all(np.isnan(value) for value in ends([], []).values())


def test_what_cannot_rank_models_says_so():
    score = Score("Pearson-Δ", "m", 0.7, floor=0.8, floor_name="mean", ceiling=0.8)
    assert score.verdict == CANNOT_RANK
    assert CANNOT_RANK in str(score)
    assert np.isnan(score.position)


def test_an_interval_that_reaches_below_the_floor_is_no_gain():
    score = Score("accuracy", "m", 0.62, low=0.5, high=0.7, floor=0.6, floor_name="pca")
    assert score.can_rank is None
    assert score.verdict == "not distinguishable from the floor"
    assert Score("accuracy", "m", 0.55, floor=0.6).verdict == "no better than the floor"
    assert Score("accuracy", "m", np.nan, missing="no replicates").verdict == "not measured"


def test_the_difference_on_the_same_resamples_decides_where_it_is_known():
    wide = Score("r", "m", 0.62, low=0.5, high=0.7, floor=0.6, gain_low=0.01, gain_high=0.03)
    assert wide.verdict == "better than the floor"
    assert Score("r", "m", 0.7, low=0.65, high=0.75, floor=0.6, gain_low=-0.02, gain_high=0.2).verdict == (
        "not distinguishable from the floor"
    )
    less = Score(
        "error", "m", 0.5, low=0.4, high=0.7, floor=0.6, gain_low=-0.2, gain_high=-0.01, higher_is_better=False
    )
    assert less.above_floor
    assert wide.difference == "+0.020 [+0.010, +0.030]"
    assert "floor () 0.600, minus it +0.020 [+0.010, +0.030]" in str(wide)
    assert Score("r", "pca", 0.6, floor=0.6, floor_name="pca", gain_low=0.0, gain_high=0.0).difference == ""


def test_the_order_and_its_floor_are_drawn_together():
    rng = np.random.default_rng(0)
    stage = np.repeat(np.arange(4.0), 30)
    floor = stage + rng.normal(scale=1.5, size=120)
    better = floor + 0.12 * (stage - floor)
    scores = stage_scores({"m": better, FLOOR: floor}, stage, "stage")
    score = scores.of("Kendall's tau-b with stage", "m")
    assert score.low < score.floor
    assert 0 < score.gain_low < score.value - score.floor < score.gain_high
    assert score.verdict == "better than the floor"
    assert np.isnan(scores.of("Kendall's tau-b with stage", FLOOR).gain_low)


def test_scores_are_found_told_and_drawn():
    scores = Scores(
        (Score("a", "m", 0.5, floor=0.1, floor_name="pca", ceiling=0.9), Score("b", "m", 0.2)),
        notes=("Split by donor.",),
    )
    assert scores.of("b").value == 0.2
    with pytest.raises(DataError, match="There is no score 'c'; scores here: 'a' of 'm', 'b' of 'm'"):
        scores.of("c")
    assert scores.summary().endswith("Split by donor.")
    assert "no floor, no ceiling" in scores.summary()
    assert list(scores.table["metric"]) == ["a", "b"]
    assert "value" in scores.plot().to_json()
    with pytest.raises(DataError, match="nothing to write"):
        scores.write(sl.datasets.load("pbmc68k"))


def test_the_bootstrap_covers_the_mean_and_needs_units():
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(200):
        low, high = bootstrap_interval(rng.normal(size=30), resamples=300, seed=k)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert np.isnan(bootstrap_interval([1.0, 2.0])).all()
    assert bootstrap_interval([1.0, np.nan, 1.0, 1.0]) == (1.0, 1.0)
    drawn = bootstrap_interval(np.arange(1.0, 9), statistic=lambda x, axis: x.mean() if x.mean() > 4 else np.nan)
    assert 4 < drawn[0] < drawn[1] <= 8


@pytest.mark.parametrize("n", [3, 6, 8])
def test_intervals_over_few_units_hold_what_they_say(n):
    """Of a mean, of another statistic, and of resampled donors, whose cells are many: 95 %, and 2.5 % falsely above 0."""
    rng = np.random.default_rng(n)
    times, draws = 300, 200
    told = {"mean": [], "other": [], "donors": []}
    for k in range(times):
        values = rng.normal(size=n)
        told["mean"].append(bootstrap_interval(values))
        # Not known to be a mean: a bootstrap.
        told["other"].append(bootstrap_interval(values, statistic=lambda x, axis: x.mean(), resamples=draws, seed=k))
        if n >= 5:
            rows, unit = resamples(n * 4, np.repeat(np.arange(n), 4), 50, k)
            assert unit == "samples"
            assert rows.units == n
            cells = np.repeat(values, 4)
            found = ends([cells[i].mean() for i in rows], np.zeros(len(rows)), units=rows.units)
            told["donors"].append((found["gain_low"], found["gain_high"]))
    for name, intervals in told.items():
        if intervals:
            low, high = np.array(intervals).T
            assert np.mean((low <= 0) & (high >= 0)) >= 0.92, name
            assert np.mean(low > 0) <= 0.045, name


def test_percentiles_are_widened_for_few_units_and_are_of_scores_that_can_be():
    assert [round(tail(n), 5) for n in (0, 5, 6, 12)] == [0.025, 0.00095, 0.00243, 0.01076]
    assert tail(10_000) == pytest.approx(0.025, abs=1e-4)
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(6), 20)
    rows, _ = resamples(120, units, 10, 0)
    assert len(rows) == np.ceil(1 / tail(6)), "as many as it takes for one to lie beyond"
    assert len(resamples(120, units, 0, 0)[0]) == 0
    right = rng.random(120) < 0.97
    drawn = [right[i].mean() for i in rows]
    found = ends(drawn, units=6)
    assert found["low"] < np.percentile(drawn, 2.5)
    assert found["high"] <= 1


def test_nothing_is_better_than_the_floor_over_five_units():
    gain = {"floor": 0.6, "floor_name": "pca", "gain_low": 0.05, "gain_high": 0.15}
    five = Score("accuracy", "m", 0.7, low=0.65, high=0.75, units=5, missing="no ceiling", **gain)
    assert five.above_floor is None
    assert five.verdict == "too few units to tell from the floor"
    assert five.missing == "no ceiling; 5 units tell nothing to be better than the floor, which takes 6"
    assert replace(five, value=0.71).missing == five.missing, "said once"
    assert Score("accuracy", "m", 0.7, low=0.65, high=0.75, units=6, **gain).verdict == "better than the floor"
    worse = replace(five, value=0.5, gain_low=-0.2, gain_high=0.1)
    assert worse.above_floor is False
    assert worse.verdict == "no better than the floor"
    assert Score("accuracy", "pca", 0.6, units=5, **gain).missing == "", "the floor is not compared with itself"


def test_small_helpers():
    assert best_floor({"mean": 0.5, "pca": 0.6, "none": np.nan}) == ("pca", 0.6)
    assert best_floor({"mean": 0.5, "pca": 0.6}, higher_is_better=False) == ("mean", 0.5)
    assert spearman_brown(0.5) == pytest.approx(2 / 3)


def test_evaluations_are_a_namespace():
    assert sl.evaluate.Score is Score
    with pytest.raises(AttributeError, match=r"sl\.evaluate has no 'silhouette'"):
        sl.evaluate.silhouette  # noqa: B018
