"""Directions of treatments: what was planted is found, carried over, and told from chance."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.tasks.responses import cosine, halves

WIDTH, DONORS = 20, ("d1", "d2", "d3", "d4")


def _planted(effects, *, doses=(1.0,), n=12, seed=0, noise=0.2, donors=DONORS, library=0.0):
    """Vectors of cells: treatment → context → direction at the highest dose; every donor has an offset of its own.

    With `library` each donor's treated cells are off by a vector of that length on average, drawn for each donor.
    """
    rng = np.random.default_rng(seed)
    rows, vectors = [], []
    contexts = sorted({c for e in effects.values() for c in e})
    for donor in donors:
        offset = rng.normal(size=WIDTH)
        batch = rng.normal(size=WIDTH) * library / np.sqrt(WIDTH) if library else np.zeros(WIDTH)
        for context in contexts:
            where = rng.normal(size=WIDTH) * 3
            for treatment, dose in [("none", 0.0), *((t, d) for t in effects for d in doses)]:
                way = (
                    np.zeros(WIDTH) if treatment == "none" else effects[treatment][context] * dose / max(doses) + batch
                )
                for _ in range(n):
                    rows.append((treatment, dose, context, donor))
                    vectors.append(offset + where + way + noise * rng.normal(size=WIDTH))
    obs = pd.DataFrame(rows, columns=["drug", "dose", "line", "donor"]).astype({"drug": str})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(np.ones((len(obs), 3), np.float32), obs=obs)
    adata.obsm["X_made"] = np.array(vectors, dtype=np.float32)
    return adata


def _axis(i):
    return np.eye(WIDTH)[i]


def _signature(adata, **more):
    return sl.drug_signature(
        adata, use_rep="X_made", treatment_key="drug", control="none", groupby="line", sample_key="donor", **more
    )


@pytest.fixture(scope="module")
def two_drugs():
    """Drug a goes the same way in both lines; b the opposite way in the second."""
    return _planted(
        {"a": {"A549": 2 * _axis(0), "K562": 2 * _axis(0)}, "b": {"A549": 2 * _axis(1), "K562": -2 * _axis(1)}}
    )


def test_a_planted_direction_is_found_and_nothing_is_found_where_nothing_is(two_drugs):
    found = _signature(two_drugs)
    assert cosine(found.direction("a", "K562"), _axis(0)) > 0.98
    own = found.table.set_index(["treatment", "context"])
    assert own.loc[("a", "A549"), "norm"] == pytest.approx(2, abs=0.3)
    assert (own["cell_p_value"] < 0.01).all()
    assert (own["replicates"] > 0.9).all()
    assert (own["norm_low"] < own["norm"]).all()
    assert (own["norm"] < own["norm_high"]).all()
    assert (own["norm_low"] > 1.5).all()
    assert (own["replicates_low"] <= own["replicates"]).all()
    idle = _signature(_planted({"water": {"A549": 0 * _axis(0), "K562": 0 * _axis(0)}}, seed=3))
    assert (idle.table["cell_p_value"] > 0.02).all()
    assert (idle.table["norm"] < 2 * idle.table["cell_null_norm"]).all()
    assert (idle.table["replicates"].abs() < 0.9).all()


def test_libraries_are_no_treatment_and_samples_are_the_unit():
    none = {"a": {"A549": 0 * _axis(0)}}
    two = _signature(_planted(none, donors=("d1", "d2"), library=3))
    row = two.table.iloc[0]
    assert row["cell_p_value"] == pytest.approx(1 / 201), "beyond relabelled cells, as any difference of libraries is"
    assert np.isnan(row["p_value"])
    assert row[["norm_low", "norm_high", "replicates_low", "replicates_high"]].isna().all()
    assert "in 2 samples, too few for a p over them (at least 6)" in two.summary()
    assert "p over cells takes cells for replicates" in two.summary()
    seven = [f"d{i}" for i in range(7)]
    p = [_signature(_planted(none, donors=seven, library=3, n=4, seed=s)).table["p_value"].item() for s in range(60)]
    assert 0.2 < np.mean(np.array(p) <= 0.5) < 0.8
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    found = _signature(_planted({"a": {"A549": 3 * _axis(0)}}, donors=seven, library=3))
    row = found.table.iloc[0]
    # The labels of each of seven samples exchanged, or not: 64 different lengths.
    assert row["p_value"] == pytest.approx(1 / 64)
    assert row["norm"] > 1.5 * row["null_norm"]
    assert row["norm_low"] < 3 < row["norm_high"]
    assert "more than with the labels of samples exchanged (p = 0.016 over 7 samples)" in found.summary()
    layers = found.plot().to_dict()["layer"]
    assert {one["encoding"]["x"]["field"] for one in layers} == {"norm", "norm_low", "cell_null_norm", "null_norm"}


def test_the_interval_is_the_jackknife_over_samples(two_drugs):
    found = _signature(two_drugs)
    row = found.table.set_index(["treatment", "context"]).loc[("b", "K562")]
    left = []
    for donor in DONORS:
        rest = two_drugs[two_drugs.obs["donor"] != donor].copy()
        left.append(_signature(rest).table.set_index(["treatment", "context"]).loc[("b", "K562")])
    for what in ("norm", "replicates"):
        values = np.array([one[what] for one in left])
        half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * np.sum((values - values.mean()) ** 2))
        assert row[f"{what}_low"] == pytest.approx(row[what] - half)
        assert row[f"{what}_high"] == pytest.approx(min(row[what] + half, 1.0 if what == "replicates" else np.inf))


def test_a_transfer_over_three_samples_says_why_it_has_no_interval(two_drugs):
    three = _signature(two_drugs[two_drugs.obs["donor"] != "d4"].copy())
    moved = sl.transfer_signature(three, n_random=20)
    assert moved.table["low"].isna().all()
    assert (moved.table["missing"] == "interval: 3 samples, and 4 are needed").all()
    assert "4 pairs have no interval, as that takes 4 samples" in moved.summary()
    # Four random parts of the cells are no samples.
    asked = {"use_rep": "X_made", "treatment_key": "drug", "control": "none", "groupby": "line"}
    one = two_drugs.copy()
    one.obs["donor"] = "d1"
    for parts, why in ((two_drugs, "no samples were named"), (one, "one sample only")):
        made = sl.drug_signature(parts, **asked, **({} if parts is two_drugs else {"sample_key": "donor"}))
        moved = sl.transfer_signature(made, n_random=20)
        assert moved.table[["low", "high"]].isna().all().all()
        assert np.isfinite(moved.table["cosine"]).all()
        assert (moved.table["missing"] == f"interval: {why}").all()
    four = sl.transfer_signature(_signature(two_drugs), n_random=20)
    assert (four.table["missing"] == "").all()
    assert "no interval" not in four.summary()


def test_a_shared_direction_transfers_and_an_opposite_one_does_not(two_drugs):
    table = sl.transfer_signature(_signature(two_drugs), n_random=200).table.set_index(
        ["treatment", "source", "target"]
    )
    same, opposite = table.loc[("a", "A549", "K562")], table.loc[("b", "A549", "K562")]
    assert same["cosine"] > 0.95
    assert same["low"] <= same["cosine"] <= same["high"]
    assert same["p_value"] < 0.02
    assert same["relative_error"] < 0.4
    assert opposite["cosine"] < -0.95
    assert opposite["p_value"] > 0.9
    assert opposite["relative_error"] > 1.5, "worse than predicting no change"
    assert (table["ceiling"] > 0.95).all()
    assert abs(same["random"]) < 0.1
    # Random directions lie either way, so that their mean is passed by every second of them: what counts is the 95 % point.
    assert (table["random_high"] > 0.1).all()
    np.testing.assert_allclose(table["above_random"], table["cosine"] - table["random_high"])
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))
    summary = sl.transfer_signature(_signature(two_drugs), n_random=200).summary()
    assert f"random {same['random_high']:.2f}, p = {same['p_value']:.2g}, q = {same['q_value']:.2g}" in summary
    assert "one random direction in twenty reaches" in summary
    # The other drug goes along another axis: the mean treatment knows nothing of this one.
    assert abs(same["mean_treatment"]) < 0.2
    assert same["above_mean_treatment"] == pytest.approx(same["cosine"] - same["mean_treatment"])


def test_a_treatment_is_no_better_than_the_mean_one_where_all_do_the_same():
    stress = {line: 2 * _axis(0) for line in ("A549", "K562")}
    adata = _planted({"a": stress, "b": stress, "c": stress})
    table = sl.transfer_signature(_signature(adata), source="A549", target="K562", n_random=50).table
    assert (table["cosine"] > 0.95).all()
    assert (table["above_mean_treatment"].abs() < 0.05).all()


def test_with_one_treatment_the_mean_one_is_said_to_be_missing():
    adata = _planted({"a": {"A549": _axis(0), "K562": _axis(0)}})
    found = sl.transfer_signature(_signature(adata), n_random=20)
    assert found.table["mean_treatment"].isna().all()
    assert found.table["missing"].str.contains("one treatment only").all()
    assert "not measured (one treatment)" in found.summary()
    assert found.plot().to_dict()["layer"]
    again = sl.transfer_signature(_signature(adata), source="A549", target="A549", n_random=20).table
    assert again["cosine"].item() == pytest.approx(again["ceiling"].item()), "to other samples of the same context"


def test_a_direction_of_one_dataset_is_carried_into_another(two_drugs):
    one = _signature(two_drugs[two_drugs.obs["line"] == "A549"].copy())
    two = _signature(two_drugs[two_drugs.obs["line"] == "K562"].copy())
    table = sl.transfer_signature(one, into=two, treatment="a", n_random=20).table
    assert table[["source", "target"]].to_numpy().tolist() == [["A549", "K562"]]
    assert table["cosine"].item() > 0.95


def test_a_signature_of_written_vectors_lies_in_the_space_of_its_model(pbmc68k, tmp_path):
    cells = pbmc68k[:60].copy()
    cells.obs["drug"] = np.where(np.arange(60) % 2, "a", "none")
    own = {"treatment_key": "drug", "control": "none", "progress": False}
    model = sl.load_model("starter")
    direct = sl.drug_signature(cells, model, **own)
    sl.embed(cells, model, progress=False, cache=False)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    back.obsm["X_other"], back.uns["scfm"]["X_other"] = back.obsm["X_starter"], back.uns["scfm"]["X_starter"]
    written = sl.drug_signature(back, use_rep="X_other", **own)
    for into in (written, sl.drug_signature(cells, use_rep="X_starter", **own)):
        np.testing.assert_allclose(into.vectors, direct.vectors, atol=1e-5)
        assert len(sl.transfer_signature(direct, into=into, n_random=5).table) == 1
    other = {
        "options": sl.drug_signature(cells, model, options={"max_length": 40}, **own),
        "weights": sl.drug_signature(cells, "pca", **own),
    }
    sl.embed(back, model, pooling="mean", key_added="X_mean", progress=False, cache=False)
    other["pooling"] = sl.drug_signature(back, use_rep="X_mean", **own)
    back.uns["scfm"]["X_other"] = {**back.uns["scfm"]["X_other"], "method": "Harmony (harmonypy)"}
    other["what was done to the vectors"] = sl.drug_signature(back, use_rep="X_other", **own)
    del back.uns["scfm"]["X_other"]
    other["weights, settings"] = sl.drug_signature(back, use_rep="X_other", **own)
    for what, into in other.items():
        with pytest.raises(DataError, match=rf"what differs: {what}"):
            sl.transfer_signature(direct, into=into)


def test_vectors_that_nothing_is_told_of_go_by_their_name(two_drugs):
    adata = two_drugs.copy()
    adata.obsm["X_also"] = adata.obsm["X_made"]
    asked = {"treatment_key": "drug", "control": "none"}
    also = sl.drug_signature(adata, use_rep="X_also", **asked)
    with pytest.raises(DataError, match="what differs: name"):
        sl.transfer_signature(_signature(two_drugs), into=also)
    adata.obsm["X_also"] = adata.obsm["X_made"][:, :5]
    with pytest.raises(DataError, match="what differs: width"):
        sl.transfer_signature(also, into=sl.drug_signature(adata, use_rep="X_also", **asked))


@pytest.mark.parametrize(("shape", "low", "high"), [("grows", 0.95, 1.0), ("is flat", -0.6, 0.6)])
def test_an_effect_that_grows_with_the_dose_is_monotone(shape, low, high):
    adata = _planted({"a": {"A549": 3 * _axis(0), "K562": 3 * _axis(0)}}, doses=(1.0, 10.0, 100.0, 1000.0), n=8)
    if shape == "is flat":
        # Doses dealt out anew among treated cells of a donor and line: the direction stays, its order goes.
        rng = np.random.default_rng(0)
        dose = adata.obs["dose"].to_numpy().copy()
        for rows in adata.obs[adata.obs["drug"] == "a"].groupby(["line", "donor"]).indices.values():
            at = np.flatnonzero((adata.obs["drug"] == "a").to_numpy())[rows]
            dose[at] = rng.permutation(dose[at])
        adata.obs["dose"] = dose
    else:
        adata.obsm["X_made"] += np.log10(np.maximum(adata.obs["dose"].to_numpy(), 1))[:, None] * _axis(0).astype("f4")
    found = _signature(adata, dose_key="dose")
    assert found.table["dose_tau"].between(low, high).all()
    if shape == "grows":
        top = found.doses.query("dose == 1000")["projection"]
        assert top.mean() == pytest.approx(1, abs=0.1)
        assert "Kendall's tau-b" in found.summary()
        assert found.plot().to_dict()["layer"]


def test_a_drug_that_acts_at_its_highest_dose_alone_does_not_grow_with_the_dose():
    taus, everything = [], []
    for seed in range(6):
        adata = _planted({"a": {"A549": 3 * _axis(0)}}, doses=(1.0, 10.0, 100.0, 1000.0), n=8, seed=seed)
        lower = ((adata.obs["drug"] == "a") & (adata.obs["dose"] < 1000)).to_numpy()
        adata.obsm["X_made"][lower] -= (3 * adata.obs["dose"].to_numpy()[lower, None] / 1000 * _axis(0)).astype("f4")
        found = _signature(adata, dose_key="dose")
        taus += list(found.table["dose_tau"])
        everything += [stats.kendalltau(p["dose"], p["projection"])[0] for _, p in found.doses.groupby("sample")]
        assert "with the doses below the highest: Kendall's tau-b" in found.summary()
    assert np.mean(everything) > 0.3, "with the highest dose, along its own direction"
    assert abs(np.mean(taus)) < 0.25


def test_cells_are_placed_between_control_and_treated(two_drugs):
    adata = two_drugs.copy()
    _signature(adata).write(adata)
    mean = adata.obs.groupby(["line", "drug"])["signature_a"].mean()
    assert mean["A549", "none"] == pytest.approx(0, abs=1e-3)
    assert mean["A549", "a"] == pytest.approx(1, abs=0.05)
    assert adata.uns["scfm"]["signature_a"]["control"] == "none"


def test_halves_are_disjoint_and_all_ways_are_taken():
    found = halves(("a", "b", "c", "d"), 0)
    assert len(found) == 6
    assert all(not set(one) & set(two) and len(one) == len(two) == 2 for one, two in found)
    assert len(halves(tuple("abcdefgh"), 0)) == 20
    assert halves(("a",), 0) == []


@pytest.mark.parametrize("n", range(2, 13))
def test_every_split_is_there_in_both_orders_and_no_more(n):
    samples = tuple("abcdefghijkl"[:n])
    for seed in range(20):
        found = halves(samples, seed)
        assert len({frozenset(first) for first, _ in found}) == len(found) <= 20
        assert {(two, one) for one, two in found} == set(found)
        assert all(sorted(one + two) == list(samples) and abs(len(one) - len(two)) < 2 for one, two in found)
    assert n < 7 or halves(samples, 0) != halves(samples, 1)


def test_a_real_model_and_cells_without_samples(pbmc68k):
    pbmc68k.obs["drug"] = np.where(np.arange(700) % 2, "placebo", "none")
    found = sl.drug_signature(pbmc68k, "pca", treatment_key="drug", control="none", progress=False)
    assert found.table["cell_p_value"].item() > 0.01
    assert np.isnan(found.table["p_value"].item())
    assert "without samples, so that there is no p over them" in found.summary()
    assert "random parts of the cells" in found.summary()
    assert found.provenance["model"] == "pca"


@pytest.mark.parametrize("n", [9, 10, 11])
def test_without_samples_noise_is_no_longer_than_that_of_relabelled_cells(n):
    """Parts of a few cells are dropped; a direction of what is left would be longer than any of all cells."""
    rng = np.random.default_rng(n)
    p = []
    for _ in range(30):
        adata = ad.AnnData(np.ones((2 * n, 3), np.float32))
        adata.obs["drug"] = ["a", "none"] * n
        adata.obsm["X_made"] = rng.normal(size=(2 * n, WIDTH)).astype(np.float32)
        found = sl.drug_signature(adata, use_rep="X_made", treatment_key="drug", control="none", seed=n)
        p.append(found.table["cell_p_value"].item())
        assert found.table["n_treated"].item() == n
        x = adata.obsm["X_made"].astype(float)
        np.testing.assert_allclose(found.direction("a"), x[::2].mean(axis=0) - x[1::2].mean(axis=0))
    assert np.mean(np.array(p) <= 0.05) <= 0.2


def test_signatures_that_make_no_sense_are_refused(two_drugs, pbmc68k):
    with pytest.raises(DataError, match="No cell is 'dmso'"):
        sl.drug_signature(two_drugs, use_rep="X_made", treatment_key="drug", control="dmso")
    with pytest.raises(DataError, match="one of the two"):
        sl.drug_signature(two_drugs, treatment_key="drug", control="none")
    with pytest.raises(DataError, match="obsm has no 'X_other'"):
        sl.drug_signature(two_drugs, use_rep="X_other", treatment_key="drug", control="none")
    few = two_drugs[:14].copy()
    with pytest.raises(DataError, match="In no sample and context"):
        sl.drug_signature(
            few, use_rep="X_made", treatment_key="drug", control="none", groupby="line", sample_key="dose"
        )
    bad = two_drugs.copy()
    bad.obs["dose"] = "much"
    with pytest.raises(DataError, match="have no number in the dose column"):
        _signature(bad, dose_key="dose")
    made = _signature(two_drugs)
    with pytest.raises(DataError, match="There is no target 'HeLa'"):
        sl.transfer_signature(made, target="HeLa")
    with pytest.raises(DataError, match="There is no direction"):
        made.direction("c", "A549")
    alone = sl.drug_signature(two_drugs, use_rep="X_made", treatment_key="drug", control="none", sample_key="donor")
    with pytest.raises(DataError, match="one context only"):
        sl.transfer_signature(alone)
    pbmc68k.obs["drug"] = np.where(np.arange(700) % 2, "a", "none")
    other = sl.drug_signature(pbmc68k, "pca", treatment_key="drug", control="none", progress=False)
    with pytest.raises(DataError, match="lie in different spaces"):
        sl.transfer_signature(made, into=other)
