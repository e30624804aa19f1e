"""Do two conditions respond differently? Donors are the unit, and there is no p where no p is possible."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.tasks.contrast import Conditions, Design, _dealt, design, exchange_test
from scfm_lab.tasks.perturb import Perturber

GENES = ["LYZ", "CD74", "FTL"]


@pytest.fixture(scope="module")
def cells():
    adata = sl.datasets.load("pbmc68k")[::3].copy()
    rng = np.random.default_rng(0)
    adata.obs["donor"] = [f"d{i % 8}" for i in range(adata.n_obs)]
    adata.obs["condition"] = rng.permutation(np.where(np.arange(adata.n_obs) % 2, "stim", "control"))
    return adata


def _paired(n):
    return Design([f"d{i}" for i in range(n)], np.zeros((2, n, 0)), True, np.ones(n, bool), [])


def test_the_paired_test_is_that_of_all_exchanges():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.5, 1, 7), rng.normal(0, 1, 7)
    found = exchange_test(first, second, _paired(7))
    d = first - second
    every = np.array([np.mean(d * signs) for signs in itertools.product((1, -1), repeat=7)])
    assert found.p_value == pytest.approx((np.abs(every) >= abs(d.mean()) - 1e-12).mean())
    assert found.null_mean == 0
    assert found.null_sd == pytest.approx(every.std())
    low, high = stats.ttest_1samp(d, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))


def test_below_six_donors_there_is_an_interval_and_no_p():
    rng = np.random.default_rng(2)
    for n in (2, 5):
        found = exchange_test(rng.normal(5, 0.1, n), rng.normal(0, 0.1, n), _paired(n))
        assert np.isnan(found.p_value)
        assert found.low < found.effect < found.high
    assert exchange_test(rng.normal(5, 0.1, 6), rng.normal(0, 0.1, 6), _paired(6)).p_value == 2 / 2**6


def test_donors_of_one_condition_each_are_dealt_out_anew():
    rng = np.random.default_rng(3)
    sides = np.array([True] * 4 + [False] * 4)
    values = np.where(sides, rng.normal(3, 0.3, 8), rng.normal(0, 0.3, 8))
    plan = Design([f"d{i}" for i in range(8)], np.zeros((2, 8, 0)), False, sides, [])
    found = exchange_test(values, values, plan)
    assert found.p_value == pytest.approx(2 / 70)
    assert found.effect == pytest.approx(values[:4].mean() - values[4:].mean())
    low, high = stats.ttest_ind(values[:4], values[4:], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    three = Design([f"d{i}" for i in range(6)], np.zeros((2, 6, 0)), False, np.arange(6) < 3, [])
    # Twenty ways to deal six donors out: no p can be 0.05.
    assert np.isnan(exchange_test(values[[0, 1, 2, 4, 5, 6]], values[[0, 1, 2, 4, 5, 6]], three).p_value)


def test_no_p_is_0_where_the_deals_are_drawn():
    sides = np.arange(24) < 12
    values = np.where(sides, 5.0, 0.0) + np.random.default_rng(5).normal(0, 0.1, 24)
    plan = Design([f"d{i}" for i in range(24)], np.zeros((2, 24, 0)), False, sides, [])
    # Of 2.7 million ways 10,000 are drawn, the real one among them.
    assert exchange_test(values, values, plan).p_value == pytest.approx(1 / 10_000)
    # What is kept for other genes and groups has nothing of this one in it.
    assert (_dealt(24, 12, 0)[0] != sides).any()


def _seen(**donors):
    """Five cells of each donor in each of its conditions, t and b."""
    rows = [(donor, c) for donor, conditions in donors.items() for c in conditions for _ in range(5)]
    donor, label = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    found = design(Conditions("condition", "t", "b", label, donor), np.arange(len(rows)), np.ones(len(rows), bool))
    assert found is not None
    return found


def test_two_donors_of_both_conditions_do_not_put_all_others_aside():
    both = {f"p{i}": "tb" for i in range(6)}
    single = {f"{c}{i}": c for c in "tb" for i in range(4)}
    few = _seen(**{k: both[k] for k in ("p0", "p1")}, **single)
    assert (few.paired, few.donors, few.left_out) == (False, sorted(single), ["p0", "p1"])
    assert few.groups.tolist() == [False] * 4 + [True] * 4
    enough = _seen(**both, **single)
    assert (enough.paired, enough.donors, enough.left_out) == (True, list(both), sorted(single))
    alone = _seen(p0="tb", p1="tb", t0="t")
    assert (alone.paired, alone.donors, alone.left_out) == (True, ["p0", "p1"], ["t0"])
    more = _seen(**{k: both[k] for k in list(both)[:5]}, t0="t", t1="t", b0="b", b1="b")
    assert (more.paired, len(more.donors)) == (True, 5)


def test_who_is_left_out_is_named_and_the_call_can_be_made_again(cells):
    few = cells[(cells.obs["donor"] != "d0") | (cells.obs["condition"] == "stim")].copy()
    result = sl.perturb(few, "pca", {"FTL": 0.0}, contrast="condition", sample_key="donor", progress=False)
    assert result.details["n_donors"].item() == 7
    assert "left out as seen in one condition only: 1 donor (d0)" in result.summary()
    told = result.provenance["arguments"]
    assert (told["contrast"], told["sample_key"], told["n_draws"]) == ("condition", "donor", 8)


def test_p_is_uniform_under_exchange():
    rng = np.random.default_rng(4)
    p = [exchange_test(*rng.normal(size=(2, 9)), _paired(9)).p_value for _ in range(1500)]
    steps = np.arange(1, 257) / 256
    assert np.abs(np.searchsorted(np.sort(p), steps + 1e-12) / len(p) - steps).max() < 0.04


def test_the_effect_is_the_mean_over_donors_of_their_own_difference(cells):
    result = sl.screen(cells, "pca", GENES, contrast="condition", sample_key="donor", progress=False)
    shift = Perturber(cells, "pca").run({"LYZ": 0.0}).shift
    stim, donor = (cells.obs["condition"] == "stim").to_numpy(), cells.obs["donor"].to_numpy()
    own = [shift[stim & (donor == d)].mean() - shift[~stim & (donor == d)].mean() for d in sorted(set(donor))]
    row = result.details.query("gene == 'LYZ' and group == 'all'").iloc[0]
    assert row["effect"] == pytest.approx(np.mean(own), abs=1e-5)
    assert row["n_donors"] == 8
    assert list(result.table.columns)[:4] == ["gene", "group", "readout", "effect"]
    assert "stim minus control" in result.summary()
    assert "not how wrong the model is" in result.summary()
    assert "low" in result.plot().to_json()


def test_a_planted_difference_is_found_and_none_without(cells):
    adata = cells.copy()
    x = adata.X.tolil()
    stim = np.flatnonzero(adata.obs["condition"] == "stim")
    # Cells of one condition lose the gene, so that there is nothing to knock out.
    x[stim, adata.var_names.get_loc("FTL")] = 0
    adata.X = x.tocsr()
    table = sl.screen(adata, "pca", GENES, contrast="condition", sample_key="donor", progress=False).table
    p = table.set_index("gene")["p_value"]
    assert p["FTL"] == 2 / 2**8
    assert table.iloc[0]["gene"] == "FTL"
    assert table.set_index("gene").loc["FTL", "effect"] < 0
    assert (p[["LYZ", "CD74"]] > 0.01).all()


def test_few_donors_get_intervals_and_small_groups_are_told(cells):
    adata = cells[cells.obs["donor"].isin(["d0", "d1", "d2", "d3"])].copy()
    result = sl.screen(
        adata, "pca", ["FTL"], contrast="condition", sample_key="donor", groupby="cell_type", progress=False
    )
    assert result.table["p_value"].isna().all()
    assert "too few for a p" in result.summary()
    assert "nothing to compare" in result.summary()
    one = sl.perturb(adata, "pca", {"FTL": 0.0}, contrast="condition", sample_key="donor", progress=False)
    assert one.table["effect"][0] == pytest.approx(result.details.query("group == 'all'")["effect"].iloc[0], rel=1e-4)


def test_six_donors_of_one_condition_each_are_told_why_they_get_no_p(cells):
    adata = cells[cells.obs["donor"].isin([f"d{i}" for i in range(6)])].copy()
    adata.obs["condition"] = np.where(adata.obs["donor"].isin(["d0", "d1", "d2"]), "stim", "control")
    result = sl.screen(adata, "pca", ["FTL"], contrast="condition", sample_key="donor", progress=False)
    assert result.table["p_value"].isna().all()
    told = result.summary()
    assert (
        "6 donors of one condition each, dealt in too few ways for a p of 0.05 (3 and 4, 2 and 5, or 4 and 4 would do)"
        in told
    )
    assert "at least 6" not in told
    # What is said would do does.
    for first, n in ((3, 7), (2, 7), (4, 8)):
        some = cells[cells.obs["donor"].isin([f"d{i}" for i in range(n)])].copy()
        some.obs["condition"] = np.where(some.obs["donor"].isin([f"d{i}" for i in range(first)]), "stim", "control")
        found = sl.screen(some, "pca", ["FTL"], contrast="condition", sample_key="donor", progress=False)
        assert found.table["p_value"].notna().any()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"contrast": "cell_type", "sample_key": "donor"}, "a contrast compares two: write contrast=\\('cell_type'"),
        ({"contrast": ("condition", "stim", "none"), "sample_key": "donor"}, "No cell is 'none'"),
        ({"contrast": ("condition", "stim", "stim"), "sample_key": "donor"}, "names 'stim' twice"),
        ({"contrast": "condition"}, "needs sample_key="),
        ({"contrast": "condition", "sample_key": "doner"}, "Did you mean 'donor'"),
        ({"contrast": "condition", "sample_key": "alone"}, "cannot be compared; take larger groups"),
    ],
)
def test_bad_contrasts_are_answered_in_words(cells, kwargs, words):
    cells.obs["alone"] = [f"s{i}" for i in range(cells.n_obs)]
    with pytest.raises(DataError, match=words):
        sl.screen(cells, "pca", ["LYZ"], progress=False, **kwargs)


@pytest.mark.parametrize("dose", [0.0, 0.5])
def test_a_contrast_of_no_draws_is_refused(cells, dose):
    asked = {"contrast": "condition", "sample_key": "donor", "n_draws": 0}
    with pytest.raises(DataError, match="n_draws is 0; at least one draw is needed"):
        sl.perturb(cells, "pca", {"CD3D": dose}, progress=False, **asked)
