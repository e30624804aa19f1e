"""Perturbations: exact where nothing changes, monotone in the dose, and never without their null."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells.dose import perturb_counts
from scfm_lab.cells.orthologs import to_human
from scfm_lab.errors import Cancelled, DataError, GenesError
from scfm_lab.models.pca import PCA
from scfm_lab.tasks.compare import compare
from scfm_lab.tasks.gene_null import _null_readings, null_sets
from scfm_lab.tasks.perturb import Perturber
from scfm_lab.tasks.perturb_result import MIN_CHANGED
from scfm_lab.tasks.readouts import Shift


@pytest.fixture(scope="module")
def small():
    adata = sl.datasets.load("pbmc68k")
    return adata[adata.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])].copy()


@pytest.mark.parametrize("name", ["pca", "sctop", "starter"])
def test_a_knockout_moves_the_cells_that_express_the_gene_and_no_other(small, name):
    result = sl.perturb(small, name, {"CD79A": 0.0}, null=False, progress=False)
    expressed = small[:, "CD79A"].X.toarray().ravel() > 0
    np.testing.assert_array_equal(result.changed, expressed)
    np.testing.assert_array_equal(result.perturbed[~expressed], result.baseline[~expressed])
    assert (result.shift[~expressed] == 0).all()
    assert (result.shift[expressed] > 0).all()
    np.testing.assert_allclose(
        result.shift, np.linalg.norm(result.perturbed - result.baseline, axis=1), rtol=1e-4, atol=1e-6
    )
    assert result.n_expressing == expressed.sum()


@pytest.mark.parametrize("name", ["pca", "starter"])
def test_dose_1_changes_nothing_and_the_effect_grows_away_from_it(small, name):
    lab = Perturber(small if name == "pca" else small[::6].copy(), name)
    effect = {d: lab.run({"LYZ": d}).table["effect"][0] for d in (0.0, 0.3, 0.7, 1.0, 1.5, 2.0)}
    assert effect[1.0] == 0
    assert effect[0.0] > effect[0.3] > effect[0.7] > 0
    assert effect[2.0] > effect[1.5] > 0


def test_a_knockout_is_the_model_run_on_cells_without_the_gene(small):
    model = sl.load_model("starter")
    result = sl.perturb(small, model, {"CD74": 0.0}, null=False, progress=False)
    without = small.copy()
    x = without.X.tolil()
    x[:, without.var_names.get_loc("CD74")] = 0
    without.X = x.tocsr()
    expected = sl.embed(without, model, progress=False).vectors
    np.testing.assert_allclose(result.perturbed, expected, atol=1e-5)


def test_the_table_tells_groups_counts_and_null(small):
    result = sl.perturb(small, "pca", {"MS4A1": 0.0}, groupby="cell_type", n_null=30, progress=False)
    table = result.table.set_index("group")
    assert list(table.index) == ["all", "CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
    for group in table.index[1:]:
        mask = (small.obs["cell_type"] == group).to_numpy()
        assert table.loc[group, "n_cells"] == mask.sum()
        assert table.loc[group, "effect"] == pytest.approx(result.shift[mask].mean(), rel=1e-5)
        assert table.loc[group, "n_expressing"] == result.changed[mask].sum()
    tested = table[np.isfinite(table["p_value"])]
    assert list(tested.index) == ["all", "CD19+ B"]
    assert (tested["p_value"] >= 1 / (tested["n_null"] + 1) - 1e-12).all()
    assert (tested["n_null"] <= 30).all()
    assert (tested["null_low"] < tested["null_high"]).all()
    assert (tested["q_value"] >= tested["p_value"] - 1e-12).all()
    few = table[table["n_changed"] < MIN_CHANGED]
    assert few["p_value"].isna().all()
    assert {"gene", "readout", "effect", "null_mean", "null_sd", "p_value", "q_value", "n_cells"} <= set(result.table)


def test_a_planted_effect_is_found_through_the_cells(small):
    pca, gene = sl.load_model("pca"), "LYL1"
    components = pca.components.clone()
    components[:, pca.vocabulary.id_of(gene)] *= 20
    planted = PCA(components, pca.mean, pca.vocabulary, basis="planted")
    asked = {"n_null": 30, "progress": False}
    before, after = (sl.perturb(small, model, {gene: 0.0}, **asked).table.loc[0] for model in (pca, planted))
    assert before["p_value"] > 0.05
    assert after["p_value"] <= 0.05
    assert after["effect"] > 10 * before["effect"]


def test_several_genes_towards_a_state_and_other_labels_stand_beside_their_null(small):
    doses = {"MS4A1": 0.0, "CD3E": 2.0}
    asked = {"groupby": "cell_type", "target": "CD19+ B", "readouts": ["towards_target", "label"], "n_draws": 2}
    plain = sl.perturb(small, "pca", doses, groupby="cell_type", n_draws=2, n_null=30, progress=False)
    result = sl.perturb(small, "pca", doses, **asked, n_null=30, progress=False)
    shift = result.table[result.table["readout"] == "shift"].reset_index(drop=True)
    np.testing.assert_array_equal(shift["effect"], plain.table["effect"])
    np.testing.assert_array_equal(shift["p_value"], plain.table["p_value"])
    # Towards the target: the component of each movement along the way to its cells' centre, and nothing for its own cells.
    own = (small.obs["cell_type"] == "CD19+ B").to_numpy()
    towards = result.readings["towards_target"]
    assert np.isnan(towards[own]).all()
    way = result.baseline[own].mean(axis=0) - result.baseline[~own]
    moved = ((result.perturbed - result.baseline)[~own] * way).sum(axis=1) / np.linalg.norm(way, axis=1)
    np.testing.assert_allclose(towards[~own], moved, atol=1e-4)
    rows = result.table.set_index(["readout", "group"])
    assert rows.loc[("towards_target", "all"), "effect"] == pytest.approx(moved.mean(), abs=1e-4)
    assert rows.loc[("towards_target", "all"), "n_cells"] == (~own).sum()
    assert rows.loc[("towards_target", "CD19+ B"), "n_cells"] == 0
    assert 0 <= rows.loc[("label", "all"), "effect"] < 1
    tested = rows.loc["towards_target"].drop("CD19+ B")
    assert ((tested["p_value"] > 0) & (tested["n_null"] >= 19)).all()
    assert (tested["null_low"] < tested["null_high"]).all()
    assert "Towards the target (negative: away from it), over all cells" in result.summary()
    assert len(result.plot().to_dict()["vconcat"]) == 3
    copy = small.copy()
    result.write(copy, key_added="both")
    np.testing.assert_array_equal(copy.obs["towards_target_both"], towards)


def test_a_gene_without_comparable_ones_gets_no_p(small):
    adata = small.copy()
    x = adata.X.tolil()
    x[:, adata.var_names.get_loc("CD79A")] = 900
    adata.X = x.tocsr()
    adata.obs["total_counts_all_genes"] += 900
    result = sl.perturb(adata, "pca", {"CD79A": 0.0}, progress=False)
    assert result.table["verdict"][0] == "no valid null"
    assert np.isnan(result.table["p_value"][0])
    assert "no valid null" in result.summary()


def test_null_genes_are_given_the_same_dose_on_the_same_cells(small):
    lab = Perturber(small, "pca")
    result = lab.with_null(lab.run({"MS4A1": 0.0}), n_null=20, max_cells=1000)
    row = result.table.iloc[0]
    # The null's mean must look like what single genes of that expression do.
    from scfm_lab.evaluation.nulls import comparable_genes, features

    f = features(lab.cells.counts, lab.cells.total)
    g = lab.cells.genes.find("MS4A1")
    candidates = lab.known.copy()
    candidates[g] = False
    genes = comparable_genes(f, g, candidates=candidates, n=20)
    effects = []
    for gene in genes:
        _, _, shift = lab.effects({int(gene): 0.0}, {})
        effects.append(shift.sum() / len(small))
    assert min(effects) < row["null_mean"] < max(effects)
    assert row["n_null"] == 20


@pytest.mark.parametrize("dose", [0.0, 2.0])
def test_perturbed_copies_wait_for_the_model_in_blocks(small, monkeypatch, dose):
    from scfm_lab.tasks import perturb as module

    lab = Perturber(small[::2].copy(), "starter", groupby="cell_type")
    whole = lab.run({"LYZ": dose}, n_draws=3)
    held = []
    vectors = Perturber.vectors

    def told(self, cells, **more):
        held.append(len(cells))
        return vectors(self, cells, **more)

    monkeypatch.setattr(Perturber, "vectors", told)
    monkeypatch.setattr(module, "WAITING_COPIES", 40)
    parts = lab.run({"LYZ": dose}, n_draws=3)
    assert max(held) == 40
    assert sum(held) >= whole.changed.sum() > 40
    np.testing.assert_array_equal(parts.changed, whole.changed)
    # As far as vectors depend on their company at all.
    np.testing.assert_allclose(parts.shift, whole.shift, atol=1e-5)
    np.testing.assert_allclose(parts.perturbed, whole.perturbed, atol=1e-5)


def test_draws_are_averaged_as_if_each_were_run_alone(small):
    lab = Perturber(small, "pca", groupby="cell_type")
    result = lab.run({"LYZ": 2.0}, n_draws=3)
    codes = np.unique(lab.groups, return_inverse=True)[1]
    delta = []
    for draw in range(3):
        cells = perturb_counts(lab.cells, {lab.cells.genes.find("LYZ"): 2.0}, groups=codes, seed=lab.seed, draw=draw)
        delta.append(lab.vectors(cells) - lab.baseline)
    np.testing.assert_allclose(result.perturbed - result.baseline, np.mean(delta, axis=0), atol=1e-5)
    np.testing.assert_allclose(result.shift, np.linalg.norm(delta, axis=2).mean(axis=0), atol=1e-5)


def test_a_null_holds_what_changes_and_no_row_of_all_cells(small):
    lab = Perturber(small, "pca")
    column = lab.cells.genes.find("MS4A1")
    rows = np.arange(0, len(lab.cells), 9)
    _, sets = null_sets(lab, [column], rows, 20)
    found = _null_readings(lab, {column: 0.0}, {}, [column], dict.fromkeys(sets, rows), [Shift()], False, None)
    assert set(found) == set(sets)
    assert sum(one.values.size for one in found.values()) <= len(sets) * len(rows)
    for (gene,), one in found.items():
        changed, _, shift = lab.effects({gene: 0.0}, {}, rows=rows)
        every = np.zeros(len(lab.cells), dtype=np.float32)
        every[changed] = shift
        np.testing.assert_allclose(one.over(np.arange(len(lab.cells)), 0), every, atol=1e-5)


def test_random_doses_repeat_and_draws_reduce_noise(small):
    lab = Perturber(small, "pca", seed=3)
    first, second = lab.run({"LYZ": 0.5}), lab.run({"LYZ": 0.5})
    assert first.perturbed.tobytes() == second.perturbed.tobytes()
    other = Perturber(small, "pca", seed=4).run({"LYZ": 0.5})
    assert (other.perturbed != first.perturbed).any()
    reference = lab.run({"LYZ": 0.5}, n_draws=64).perturbed
    few, many = (np.abs(lab.run({"LYZ": 0.5}, n_draws=n).perturbed - reference).mean() for n in (1, 16))
    assert many < few / 2


def test_cells_move_alike_in_company_and_alone(small):
    whole = Perturber(small, "starter").run({"LYZ": 0.5}, n_draws=2)
    rows = np.random.default_rng(0).permutation(small.n_obs)[:60]
    part = Perturber(small[rows].copy(), "starter").run({"LYZ": 0.5}, n_draws=2)
    effect_whole = (whole.perturbed - whole.baseline)[rows]
    np.testing.assert_allclose(part.perturbed - part.baseline, effect_whole, atol=1e-5)


def test_several_genes_are_changed_together(small):
    lab = Perturber(small, "pca")
    both = lab.run({"CD79A": 0.0, "LYZ": 0.0})
    one, other = lab.run({"CD79A": 0.0}), lab.run({"LYZ": 0.0})
    # PCA is linear, so that effects on the vectors add up.
    np.testing.assert_allclose(
        both.perturbed - both.baseline,
        (one.perturbed - one.baseline) + (other.perturbed - other.baseline),
        atol=1e-4,
    )
    assert both.gene == "CD79A+LYZ" or both.gene == "LYZ+CD79A"
    with_null = lab.with_null(both, n_null=20)
    assert with_null.has_null


def test_the_base_layout_stays_and_unchanged_cells_do_not_move(small):
    result = sl.perturb(small, "starter", {"CD79A": 0.0}, null=False, progress=False)
    layout = result.layout
    np.testing.assert_allclose(layout.before, small.obsm["X_umap"], rtol=1e-6)
    assert (layout.after[~result.changed] == layout.before[~result.changed]).all()
    assert (layout.moved[result.changed] > 0).any()
    assert layout.basis == "X_umap"
    assert np.isfinite(layout.error).all()
    assert np.median(layout.error) < np.ptp(layout.before, axis=0).max() / 10


def test_samples_give_an_interval_over_donors_not_cells(small):
    small = small.copy()
    small.obs["donor"] = [f"d{i % 4}" for i in range(small.n_obs)]
    result = sl.perturb(small, "pca", {"LYZ": 0.0}, sample_key="donor", null=False, progress=False)
    means = np.array([result.shift[(small.obs["donor"] == d).to_numpy()].mean() for d in ("d0", "d1", "d2", "d3")])
    from scipy import stats

    half = stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    row = result.table.iloc[0]
    assert row["n_samples"] == 4
    assert row["effect_low"] == pytest.approx(means.mean() - half, rel=1e-5)
    assert row["effect_high"] == pytest.approx(means.mean() + half, rel=1e-5)


def test_the_interval_over_samples_is_about_the_mean_beside_it(small):
    small = small.copy()
    # Donors of very different size that differ in their share of monocytes, and one of three cells.
    monocyte = (small.obs["cell_type"] == "CD14+ Monocyte").to_numpy()
    donor = np.where(monocyte, "large", "small").astype(object)
    donor[np.flatnonzero(monocyte)[:12]], donor[np.flatnonzero(~monocyte)[:3]] = "middle", "tiny"
    small.obs["donor"] = donor
    result = sl.perturb(small, "pca", {"LYZ": 0.0}, sample_key="donor", null=False, progress=False)
    row = result.table.iloc[0]
    means = [result.shift[donor == d].mean() for d in ("large", "middle", "small")]
    assert (row["n_samples"], row["n_samples_few"]) == (3, 1)
    assert row["effect_samples"] == pytest.approx(np.mean(means), rel=1e-5)
    assert (row["effect_low"] + row["effect_high"]) / 2 == pytest.approx(row["effect_samples"])
    assert abs(row["effect_samples"] / row["effect"] - 1) > 0.01
    assert "Over 3 samples" in result.summary()


def test_write_adds_shift_and_vectors_with_provenance(small):
    adata = small.copy()
    result = sl.perturb(adata, "pca", {"LYZ": 0.0}, null=False, progress=False)
    assert set(adata.obs) == set(small.obs)
    result.write(adata)
    np.testing.assert_array_equal(adata.obs["shift_pca_LYZ"], result.shift)
    assert adata.uns["scfm"]["shift_pca_LYZ"]["doses"]["LYZ"] == 0.0
    assert adata.uns["scfm"]["shift_pca_LYZ"]["genes_matched"] == sl.audit_genes(adata, "pca").genes_matched
    assert adata.obsm["X_pca_LYZ"].shape == result.perturbed.shape


def test_cancelling_the_null(small):
    stop = threading.Event()
    lab = Perturber(small, "pca")
    result = lab.run({"MS4A1": 0.0})

    def progress(done, total):
        if done >= 1:
            stop.set()

    with pytest.raises(Cancelled):
        lab.with_null(result, progress=progress, cancel=stop)
    assert not result.has_null


@pytest.mark.parametrize(
    ("doses", "kwargs", "error", "words"),
    [
        ({"CD3DD": 0.0}, {}, GenesError, "Did you mean 'CD3D'"),
        ({"CD3D": -1.0}, {}, DataError, "dose of CD3D is -1"),
        ({}, {}, DataError, "No gene was named"),
        ({"CD3D": 0.0}, {"groupby": "celltype"}, DataError, "Did you mean 'cell_type'"),
        ({"CD3D": 0.0}, {"n_draws": 0}, DataError, "n_draws"),
        ({"CD3D": 0.0}, {"n_null": 18}, DataError, "at least 19 null genes"),
        ({}, {"set_to": {"CD3D": "high"}}, DataError, "set_to of CD3D is 'high'"),
        ({"CD3D": 0.0, "ENSG00000167286": 1.0}, {}, GenesError, "the same gene"),
        ({"CD3D": 0.0}, {"basis": "X_tsne"}, DataError, "obsm has no 'X_tsne'"),
        (["CD3D"], {}, DataError, r"^doses must say a number for each gene; write \{'CD3D': 0\.0\} for a knockout\.$"),
        ("LYZ", {}, DataError, r"write \{'LYZ': 0\.0\}"),
        (0.0, {}, DataError, r"write \{'CD3D': 0\.0\}"),
        (
            None,
            {"set_to": ["GATA1"]},
            DataError,
            r"^set_to must say a number for each gene; write \{'GATA1': 5\.0\}\.$",
        ),
        ({"CD3D": 1e9}, {}, DataError, "at most 1,000 makes sense"),
        ({"CD3D": 0.0}, {"target": "CD19+ B"}, DataError, "Name the obs column that holds it"),
        ({"CD3D": 0.0}, {"readouts": ["expression"]}, Exception, "pca cannot predict expression"),
        ({"CD3D": 0.0}, {"contrast": "cell_type", "readouts": ["label"]}, DataError, "leave out target="),
    ],
)
def test_bad_questions_are_answered_in_words(small, doses, kwargs, error, words):
    with pytest.raises(error, match=words):
        sl.perturb(small, "pca", doses, progress=False, **kwargs)


def test_a_group_that_is_called_as_all_cells_are_is_refused(small):
    adata = small.copy()
    adata.obs["part"] = np.where(np.arange(adata.n_obs) % 2, "all", "rest")
    words = r"cells are in a group called 'all' in obs\['part'\], and so is the row of all cells"
    for ask in (
        lambda: sl.perturb(adata, "pca", {"CD3D": 0.0}, groupby="part", progress=False),
        lambda: sl.screen(adata, "pca", ["CD3D"], groupby="part", n_null=19, progress=False),
        lambda: compare(adata, "pca", "sctop", groupby="part", progress=False),
        lambda: sl.audit_genes(adata, "pca", groupby="part"),
        lambda: to_human(adata, groupby="part"),
    ):
        with pytest.raises(DataError, match=words):
            ask()
    assert list(adata.obsm) == list(small.obsm)
    # Curves have a row for each gene and dose, and none of all cells.
    asked = {"doses": (0, 0.5, 2), "cells": 10, "n_draws": 1, "progress": False}
    curves = sl.response_curves(adata, "pca", ["CD3D"], groupby="part", **asked)
    adata.obs["part"] = adata.obs["part"].replace("all", "any")
    renamed = sl.response_curves(adata, "pca", ["CD3D"], groupby="part", **asked)
    np.testing.assert_array_equal(curves.shift, renamed.shift)


def test_a_gene_that_lies_in_two_columns_is_not_knocked_out_by_half(small):
    adata = small.copy()
    adata.var_names = [{"CD79B": "CD79A-1"}.get(n, n) for n in adata.var_names]
    adata.var["gene_symbol"] = adata.var_names
    ids = dict(zip(small.var_names, small.var["ensembl_id"], strict=True))
    adata.var["ensembl_id"] = [ids["CD79A"] if n == "CD79A-1" else ids[n] for n in adata.var_names]
    with pytest.raises(GenesError, match="sums the columns of 'CD79A' and 'CD79A-1' into one gene"):
        sl.perturb(adata, "pca", {"CD79A": 0.0}, null=False, progress=False)
    result = sl.perturb(adata, "pca", {"CD79A": 0.0, "CD79A-1": 0.0}, null=False, progress=False)
    without = adata.copy()
    x = without.X.tolil()
    x[:, [without.var_names.get_loc(n) for n in ("CD79A", "CD79A-1")]] = 0
    without.X = x.tocsr()
    np.testing.assert_allclose(result.perturbed, sl.embed(without, "pca", progress=False).vectors, atol=1e-5)
    # A second column without a count is no part of anything.
    x = adata.X.tolil()
    x[:, adata.var_names.get_loc("CD79A-1")] = 0
    adata.X = x.tocsr()
    assert sl.perturb(adata, "pca", {"CD79A": 0.0}, null=False, progress=False).n_expressing > 0


def test_a_gene_that_the_model_does_not_know_is_told(small):
    adata = small.copy()
    adata.var_names = ["NOVEL1", *adata.var_names[1:]]
    adata.var["gene_symbol"] = adata.var_names
    adata.var["ensembl_id"] = ["", *adata.var["ensembl_id"][1:]]
    with pytest.raises(GenesError, match="pca does not know 'NOVEL1'"):
        sl.perturb(adata, "pca", {"NOVEL1": 0.0}, progress=False)


def drawn(result):
    """The one row of a result's chart: its name, and the effect that stands there."""
    ((row,),) = result.plot().to_dict()["datasets"].values()
    return row["cells"], pytest.approx(row["shown"])


def test_the_verdict_is_about_the_cells_that_were_tested(pbmc68k):
    lab = Perturber(pbmc68k, "pca")
    found = lab.run({"CD79A": 0.0})
    judged = lab.with_null(found, n_null=20, max_cells=100)
    row = judged.table.iloc[0]
    tested = np.argsort(lab.cells.keys, kind="stable")[:100]
    assert (row["n_cells"], row["n_tested"]) == (pbmc68k.n_obs, 100)
    # What is drawn is of all cells, as on the bench; beside a band it is of the cells that the band is of, and says so.
    assert drawn(found) == ("All cells", row["effect"])
    assert row["verdict"] == "no valid null"
    assert drawn(judged) == ("All cells", row["effect"])
    banded = replace(judged, table=judged.table.assign(null_low=0.0, null_high=0.1))
    assert drawn(banded) == ("All cells (100 tested)", row["effect_tested"])
    assert row["n_changed_tested"] == found.changed[tested].sum() >= MIN_CHANGED
    assert row["effect_tested"] == pytest.approx(found.shift[tested].mean(), rel=1e-5)
    assert abs(row["effect_tested"] / row["effect"] - 1) > 0.01
    # Many cells change in all, too few of those tested.
    few = lab.with_null(found, n_null=20, max_cells=12)
    row = few.table.iloc[0]
    assert row["n_changed"] >= MIN_CHANGED > row["n_changed_tested"]
    assert np.isnan(row["p_value"])
    assert row["verdict"] == "too few cells to test"
    assert "max_cells= takes more" in few.summary()
    with pytest.raises(DataError, match="max_cells is 9"):
        sl.perturb(pbmc68k, "pca", {"CD79A": 0.0}, max_cells=9, progress=False)


def test_a_null_that_could_test_nothing_is_not_computed(pbmc68k):
    cells = pbmc68k[:12].copy()
    gene = next(g for g in cells.var_names if 0 < (cells[:, g].X > 0).sum() < 5)
    result = sl.perturb(cells, "pca", {gene: 0.0}, groupby="cell_type", progress=False)
    assert (result.table["n_null"] == 0).all()
    assert "No group has enough changed cells, or comparable genes, to be tested." in result.summary()
