"""Labels with a confidence that can be believed: calibration, unknown cells, names, and what simple methods reach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix as sparse_matrix

import scfm_lab as sl
from scfm_lab.errors import DataError, ModelError
from scfm_lab.evaluation.annotation import resamples
from scfm_lab.evaluation.annotation_floors import sctop_codes
from scfm_lab.evaluation.calibration import calibrate, expected_calibration_error
from scfm_lab.evaluation.overlap import also_in
from scfm_lab.evaluation.splits import balanced_folds, proportional, spread
from scfm_lab.tasks.annotate_result import label_scores, macro_f1
from scfm_lab.tasks.label_names import harmonise_labels
from scfm_lab.tasks.neighbours import Neighbours, without_self
from scfm_lab.tasks.transfer import Transfer, trust, votes

OBO = """format-version: 1.2
ontology: cl

[Term]
id: CL:0000084
name: T cell
synonym: "T lymphocyte" EXACT []

[Term]
id: CL:0000624
name: CD4-positive, alpha-beta T cell
synonym: "CD4 T" EXACT []
is_a: CL:0000084 ! T cell

[Term]
id: CL:0000236
name: B cell
"""


def _clouds(n, types, *, width=8, gap=4.0, samples=3, batch=0.0, seed=0):
    """Vectors of cell types as clouds, shifted by sample."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, width)) * gap
    shift = np.random.default_rng(98).normal(size=(samples, width)) * batch
    codes, sample = rng.integers(0, types, n), rng.integers(0, samples, n)
    x = centres[codes] + shift[sample] + rng.normal(size=(n, width))
    return x.astype(np.float32), codes, sample.astype(str), centres


@pytest.mark.parametrize("n", [400, 4000])
def test_calibration_makes_confidence_mean_what_it_says(n):
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.3, 1, n)
    right = rng.uniform(size=n) < raw**3
    found = calibrate(raw, right)
    assert found.ece_before > 0.15
    assert found.ece < 0.07
    assert found.method == ("isotonic" if n >= 1000 else "logistic")
    assert (np.diff(found(np.linspace(0, 1, 50))) >= 0).all()
    fresh = rng.uniform(0.3, 1, 4000)
    assert expected_calibration_error(found(fresh), rng.uniform(size=4000) < fresh**3) < 0.07


def test_nothing_is_certain_after_few_trials():
    found = calibrate(np.linspace(0.5, 1, 30), np.ones(30, dtype=bool))
    assert found(np.array([1.0]))[0] == pytest.approx(31 / 32)


def test_calibration_error_is_that_worked_out_by_hand():
    confidence = np.array([0.2] * 5 + [0.9] * 5)
    right = np.array([True] + [False] * 4 + [True] * 3 + [False] * 2)
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5 * 0.0 + 0.5 * 0.3)


def test_unknown_cells_are_those_of_types_that_the_reference_lacks():
    x, codes, _, centres = _clouds(900, 4)
    transfer = Transfer(x, codes, 4)
    trusted = trust(transfer, transfer.held_out(), unknown_rate=0.02)
    fresh, *_ = _clouds(900, 4, seed=5)
    assert (transfer.label(fresh).strange > trusted.threshold).mean() < 0.05
    novel = (centres[7] + np.random.default_rng(1).normal(size=(200, 8))).astype(np.float32)
    assert (transfer.label(novel).strange > trusted.threshold).mean() > 0.95
    assert trusted.novel_found > 0.95
    assert trusted.novel_auroc > 0.99


def test_held_out_samples_tell_of_differences_that_held_out_cells_hide():
    x, codes, samples, _ = _clouds(900, 4, gap=1.0, batch=2.5)
    by_cell = Transfer(x, codes, 4)
    by_sample = Transfer(x, codes, 4, samples=samples)
    cell, sample = (trust(t, t.held_out(), unknown_rate=0.02) for t in (by_cell, by_sample))
    assert sample.accuracy < cell.accuracy - 0.1
    assert sample.threshold > cell.threshold
    assert (sample.split, cell.split) == ("samples held out", "cells left out")


def test_votes_are_weighted_by_nearness_and_a_double_does_not_outvote_all():
    near, far = np.array([[0, 1, 2, 3]]), np.array([[0.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    got = votes(near, far, np.array([0, 1, 1, 1]), 2)
    assert got.sum() == pytest.approx(1)
    assert got[0, 0] < 0.9
    far = np.array([[1.0, 2.0, 2.0, 4.0]], dtype=np.float32)
    assert votes(near, far, np.array([0, 1, 1, 1]), 2)[0, 0] == pytest.approx(1 / 2.25)


def test_a_cell_is_never_its_own_neighbour():
    x, *_ = _clouds(300, 3)
    near, far = Neighbours(x, k=10).own
    assert not (near == np.arange(300)[:, None]).any()
    assert (np.diff(far, axis=1) >= 0).all()
    crowded, distance = np.array([[0, 3, 4], [5, 1, 2], [7, 8, 9]]), np.zeros((3, 3), np.float32)
    kept, _ = without_self(crowded, distance, np.arange(3), 2)
    assert kept.tolist() == [[3, 4], [5, 2], [7, 8]]


def test_cells_that_a_search_left_in_a_wrong_group_are_searched_for_everywhere():
    x, codes, _, _ = _clouds(600, 4)
    search = Neighbours(x, k=10)
    new, *_ = _clouds(50, 4, seed=5)
    near, far = search.of(new)
    lost = np.arange(0, 50, 7)
    wrong = np.flatnonzero(codes == (codes[near[0, 0]] + 1) % 4)
    astray, away = near.copy(), far.copy()
    astray[lost] = np.random.default_rng(0).choice(wrong, (len(lost), 10))
    away[lost] = np.linalg.norm(new[lost, None] - x[astray[lost]], axis=2)
    astray[1, -1], away[1, -1] = -1, np.inf
    mended, distance = search.mended(new, astray, away)
    own = codes[near[:, 0]] != codes[wrong[0]]
    np.testing.assert_array_equal(mended[own], near[own])
    np.testing.assert_allclose(distance[own], far[own], rtol=1e-5)
    assert mended.min() >= 0


@pytest.mark.parametrize("lost", [0, 30])
def test_cells_that_are_far_from_everything_are_not_all_searched_for_everywhere(lost):
    x, *_ = _clouds(600, 4)
    search = Neighbours(x, k=10)
    # Of another batch, which lies away from all groups.
    new = _clouds(500, 4, seed=5)[0] + np.float32(8)
    near, far = search.of(new, k=11)
    # Well found but for the nearest; of some nothing was.
    made, away = near[:, 1:].copy(), far[:, 1:].copy()
    made[:lost] = search.of(_clouds(lost, 4, seed=6)[0][:, ::-1], k=10)[0] if lost else made[:lost]
    away[:lost] = np.linalg.norm(new[:lost, None] - x[made[:lost]], axis=2)
    mended, distance = search.mended(new, made, away)
    exact = (mended == near[:, :10]).all(axis=1)
    assert exact.sum() == (500 if lost else 200)
    np.testing.assert_array_equal(mended[~exact], made[~exact])
    np.testing.assert_allclose(distance, np.where(exact[:, None], far[:, :10], away), rtol=1e-5)


def test_samples_are_drawn_no_less_than_none_times():
    assert resamples(5, None, 0, 0)[0] == []
    with pytest.raises(DataError, match="n_boot is -1"):
        resamples(5, None, -1, 0)


def test_folds_keep_samples_whole_and_thinning_keeps_rare_labels():
    samples = np.repeat(["a", "b", "c", "d", "e", "f"], [50, 10, 10, 10, 10, 10])
    fold = balanced_folds(samples, 3)
    assert all(len(set(fold[samples == s])) == 1 for s in set(samples))
    assert sorted(np.bincount(fold)) == [20, 30, 50]
    codes = np.repeat([0, 1, 2], [900, 90, 10])
    kept = spread(codes, np.arange(1000), 100, 0)
    assert len(kept) == len(set(kept)) == 100
    assert np.bincount(codes[kept]).tolist() == [45, 45, 10]


def test_what_is_drawn_to_be_scored_is_as_common_as_it_is():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [900, 90, 9, 1]))
    kept = proportional(codes, np.arange(1000), 100, 0)
    assert len(kept) == len(set(kept)) == 100
    assert np.bincount(codes[kept]).tolist() == [89, 9, 1, 1]
    assert (proportional(codes, np.arange(1000), 100, 1) != kept).any()
    some = np.flatnonzero(codes < 2)
    assert set(proportional(codes, some, 50, 0)) <= set(some)
    assert len(proportional(np.arange(1000), np.arange(1000), 100, 0)) == 100
    assert proportional(codes, np.arange(1000), 1000, 0).tolist() == list(range(1000))


def test_scores_of_some_cells_are_of_the_population_that_is_there(pbmc68k):
    common = pbmc68k.obs["cell_type"].value_counts().index[0]
    share = float((pbmc68k.obs["cell_type"] == common).mean())
    # A second annotator who differs on the commonest label alone: agreement is one minus its share.
    second = pbmc68k.obs["cell_type"].astype(str)
    pbmc68k.obs["again"] = second.where(second != common, "something else")
    asked = {"second_labels_key": "again", "n_boot": 0, "floors": False, "max_cells": 150, "seen": "flag"}
    for query in (None, pbmc68k):
        scores = sl.evaluate.annotation(pbmc68k, "pca", query=query, **asked)
        score = scores.of("accuracy", "pca")
        assert score.n == 150
        assert score.ceiling == pytest.approx(1 - share, abs=0.01)
        assert "in proportion to their labels (max_cells)" in scores.summary()


def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    truth, guess = rng.choice(list("abcd"), 300), rng.choice([*"abce", "unknown"], 300)
    want = f1_score(truth, guess, average="macro", labels=sorted(set(truth)), zero_division=0)
    assert macro_f1(truth, guess) == pytest.approx(want)


def test_label_names_meet_by_spelling_by_ontology_and_by_hand(tmp_path):
    path = tmp_path / "small.obo"
    path.write_text(OBO, encoding="utf-8")
    names = harmonise_labels(["T cell", "B cells"], ["b cell", "CD4 T", "Platelet"], ontology=path)
    assert names["b cell"] == names["B cells"] == "B cell"
    assert names["CD4 T"] == "T cell"
    assert "CL:0000624 lies under CL:0000084" in names.summary()
    assert names["Platelet"] == "Platelet"
    assert "Platelet (query)" in names.summary()
    assert names.edit({"Platelet": "thrombocyte"})["Platelet"] == "thrombocyte"
    with pytest.raises(DataError, match="Did you mean 'Platelet'"):
        names.edit({"Platelets": "x"})
    with pytest.raises(DataError, match="is not there; give the path"):
        harmonise_labels(["a"], ontology=tmp_path / "none.obo")
    (tmp_path / "bad.obo").write_text("no ontology at all", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as an ontology"):
        harmonise_labels(["a"], ontology=tmp_path / "bad.obo")


def test_a_label_called_unknown_is_a_label(pbmc68k):
    query, reference = pbmc68k[::4].copy(), pbmc68k[1::4].copy()
    b = query.obs["cell_type"] == "CD19+ B"
    wanted = sl.annotate(query.copy(), reference, model="pca", beside=False, progress=False)
    for cells in (query, reference):
        cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("CD19+ B", "unknown")
    found = sl.annotate(query, reference, model="pca", beside=False, progress=False)
    own = wanted.labels == "CD19+ B"
    assert (own & b.to_numpy()).any()
    assert (found.labels[own] == "unknown").all()
    np.testing.assert_array_equal(found.strange, wanted.labels == "unknown")
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-6)
    assert (found.confidence[own] > 0).all()
    assert found.scores == pytest.approx(wanted.scores)
    assert f"{int(wanted.strange.sum())} (" in found.summary()
    assert f"{own.sum()} cells carry the label 'unknown' of the reference itself" in found.summary()
    labels = np.array(["unknown", "a"], dtype=object)
    assert label_scores(labels, labels, np.array([True, False])) == {"accuracy": 0.5, "macro_f1": 0.5}


def test_a_query_is_scored_on_the_cells_that_have_labels(pbmc68k):
    query, reference = pbmc68k[::4].copy(), pbmc68k[1::4].copy()
    truth = query.obs["cell_type"].astype(str).to_numpy()
    query.obs["cell_type"] = query.obs["cell_type"].where(np.arange(query.n_obs) % 5 > 0)
    none = int(query.obs["cell_type"].isna().sum())
    found = sl.annotate(query, reference, model="pca", progress=False)
    known = query.obs["cell_type"].notna().to_numpy()
    assert found.scores["accuracy"] == pytest.approx((found.labels == truth)[known].mean())
    assert found.beside.of("macro-F1", "pca").n == known.sum()
    assert (
        f"{none} of the {query.n_obs} cells have no value in obs['cell_type'], and no score counts them"
        in found.summary()
    )
    query.obs["cell_type"] = np.nan
    alone = sl.annotate(query, reference, model="pca", progress=False)
    assert alone.scores is None
    # All of the reference but the one cell of its label, which no other could teach.
    assert (reference.obs["cell_type"].value_counts() == 1).sum() == 1
    assert alone.beside.of("macro-F1", "pca").n == reference.n_obs - 1


def test_a_floor_that_cannot_be_had_leaves_the_labels(pbmc68k):
    two = pbmc68k[pbmc68k.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B"])].copy()
    mono = (two.obs["cell_type"] == "CD14+ Monocyte").to_numpy()
    # One label is in one donor only: without that donor the training cells have one label.
    two.obs["donor"] = np.where(mono, np.array(["x", "y"])[np.arange(two.n_obs) % 2], "z")
    query = two[::5].copy()
    del query.obs["cell_type"]
    result = sl.annotate(query, two, model="pca", sample_key="donor", progress=False)
    assert (query.obs["cell_type_pca"].astype(str) == result.labels).all()
    # All others are of the label that is left to be guessed; the cells of that donor, which cannot be, are not scored.
    assert result.beside.of("accuracy", "sctop (fitted)").value > 0.9
    assert result.beside.of("accuracy", "sctop (fitted)").n == mono.sum()
    codes = np.zeros(30, dtype=np.int64) + 7
    assert (sctop_codes(two[:30].copy(), codes, two[30:50].copy(), {}) == 7).all()
    # Fewer genes than components.
    genes = np.argsort(-np.asarray(two.X.sum(axis=0)).ravel(), kind="stable")[:25]
    narrow = two[:, np.sort(genes)].copy()
    result = sl.annotate(narrow[::3].copy(), narrow, model="pca", progress=False)
    assert np.isfinite(result.beside.of("macro-F1", "pca (fitted)").value)
    # Too few cells to hold some out, and enough to label after.
    few = two[np.r_[np.flatnonzero(mono)[:9], np.flatnonzero(~mono)[:8]]].copy()
    result = sl.annotate(query, few, model="pca", key_added="few", progress=False)
    assert set(query.obs["few"]) <= {"CD14+ Monocyte", "CD19+ B", "unknown"}
    assert result.beside is None
    assert "Beside parameter-free methods there is no score: Only 1" in result.summary()
    # A floor alone, which finds no gene in three cells.
    sparse = _no_gene_in_common(pbmc68k)
    scores = sl.evaluate.annotation(sparse, "pca", n_boot=0)
    assert "No floor pca (fitted): No principal components can be fitted to" in scores.summary()
    assert scores.of("accuracy", "pca").floor_name == "sctop (fitted)"


def _no_gene_in_common(adata):
    """A hundred cells, none of which shares a gene with another."""
    cells = adata[:100].copy()
    cells.X = sparse_matrix((np.full(700, 3.0, np.float32), (np.arange(700) // 7, np.arange(700))), shape=cells.shape)
    return cells


def _halves(adata):
    donors = np.where(np.arange(adata.n_obs) % 3 == 0, "d1", np.where(np.arange(adata.n_obs) % 3 == 1, "d2", "d3"))
    adata.obs["donor"] = donors
    return adata[donors == "d1"].copy(), adata[donors != "d1"].copy()


def test_labels_stand_beside_what_parameter_free_methods_reach(pbmc68k):
    query, reference = _halves(pbmc68k)
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).str.replace("CD19+ B", "cd19+ b", regex=False)
    result = sl.annotate(
        query, reference, model="pca", method="linear", sample_key="donor", harmonise=True, progress=False
    )
    f1 = {s.model: s for s in result.beside if s.metric == "macro-F1"}
    assert set(f1) == {"pca", "pca (fitted)", "sctop (fitted)"}
    assert all(s.low <= s.value <= s.high for s in f1.values())
    assert f1["pca"].floor == max(f1[m].value for m in ("pca (fitted)", "sctop (fitted)"))
    assert "samples held out" in result.summary()
    assert "pca (fitted)" in result.summary()
    assert "cd19+ b → CD19+ B" in result.summary()
    assert result.scores["accuracy"] > 0.6
    seen = result.labels != "unknown"
    right = (result.labels == result.names.apply(query.obs["cell_type"]))[seen]
    assert expected_calibration_error(result.confidence[seen].astype(float), right) < 0.15
    assert query.uns["scfm"]["cell_type_pca"]["method"] == "linear"
    told = result.beside.of("calibration error", "pca")
    assert told.low <= told.value <= told.high
    assert told.low < told.high
    assert (
        told.interval
        == "95 % bootstrap over cells (fewer than five samples, so that differences between donors are not in it), its bias taken out"
    )
    assert result.beside.provenance["models"]["pca"]["weights_sha256"] == sl.load_model("pca").digest
    assert result.beside.provenance["method"] == "linear"


def test_the_floor_is_trained_as_the_models_are(pbmc68k):
    reference, query = pbmc68k[::8].copy(), pbmc68k[4::8].copy()
    fitted = sl.load_model("pca").fit(reference, n_components=reference.n_obs // 3)
    asked = {"query": query, "n_boot": 0}
    linear = sl.evaluate.annotation(reference, fitted, method="linear", **asked)
    neighbours = sl.evaluate.annotation(reference, fitted, **asked)
    for scores, words in ((linear, "a linear head on their vectors"), (neighbours, "their neighbours")):
        for metric in ("macro-F1", "accuracy"):
            assert scores.of(metric, "pca (fitted)").value == pytest.approx(scores.of(metric, fitted.name).value)
        assert any(f"pca (fitted) are labelled by {words}; sctop" in note for note in scores.notes)
    assert linear.of("macro-F1", "pca (fitted)").value != neighbours.of("macro-F1", "pca (fitted)").value


def test_scores_of_held_out_samples_have_a_ceiling_where_there_is_a_second_annotation(pbmc68k):
    _halves(pbmc68k)
    pbmc68k.obs["again"] = pbmc68k.obs["cell_type"].astype(str)
    pbmc68k.obs.loc[pbmc68k.obs_names[::10], "again"] = "CD34+"
    scores = sl.evaluate.annotation(
        pbmc68k, "pca", sample_key="donor", second_labels_key="again", n_boot=100, floors=False
    )
    score = scores.of("accuracy", "pca")
    assert score.ceiling == pytest.approx(np.mean(pbmc68k.obs["again"] == pbmc68k.obs["cell_type"].astype(str)))
    assert "Whole samples are held out (3 in 3 folds)." in scores.summary()
    assert "fewer than five samples" in score.interval
    mixed = pbmc68k.copy()
    mixed.obs["cell_type"] = np.random.default_rng(0).permutation(mixed.obs["cell_type"].astype(str))
    chance = sl.evaluate.annotation(mixed, "pca", n_boot=50, floors=False)
    assert chance.of("macro-F1").value < 0.2
    assert "Cells are held out, not donors" in chance.summary()
    # Whoever sees the number alone is told.
    assert all("on both sides, which flatters every method" in s.remark for s in chance)
    assert not any("flatters" in s.remark for s in scores)


def test_what_cannot_be_labelled_is_refused_in_words(pbmc68k):
    query, reference = _halves(pbmc68k)
    other = query.copy()
    other.obs["cell_type"] = "neuron"
    cases = [
        (DataError, "There is no method 'nearest'", {"method": "nearest"}),
        (DataError, "unknown_rate is 0.9", {"unknown_rate": 0.9}),
        (DataError, "sample column of the reference 'donr' is not in obs", {"sample_key": "donr"}),
        (DataError, "which is a label of neither", {"harmonise": {"neuron": "nerve"}}),
        (ModelError, "has no head of its own", {"method": "head"}),
    ]
    for error, words, wrong in cases:
        with pytest.raises(error, match=words):
            sl.annotate(query, reference, model="pca", progress=False, **wrong)
    same = dict.fromkeys(map(str, reference.obs["cell_type"].unique()), "cell")
    with pytest.raises(DataError, match="all labels of the reference have one name"):
        sl.annotate(query, reference, model="pca", harmonise=same, progress=False)
    with pytest.raises(DataError, match="No label of the query"):
        sl.evaluate.annotation(reference, "pca", query=other)
    assert "cell_type_pca" not in query.obs


def test_cells_that_are_in_query_and_reference_are_in_no_score(pbmc68k):
    reference = pbmc68k[150:].copy()
    query = pbmc68k[:300].copy()
    # Told by their counts, also where names differ and the query measures fewer genes.
    query.obs_names = [f"q{i}" for i in range(query.n_obs)]
    for cells in (query, query[:, ::2].copy()):
        with pytest.raises(DataError, match="150 of the 300 cells to be scored are among the reference cells too"):
            sl.evaluate.annotation(reference, "pca", query=cells, n_boot=0)
    flagged = sl.evaluate.annotation(reference, "pca", query=query, seen="flag", n_boot=0)
    assert {s.model for s in flagged} == {"pca", "pca (fitted)", "sctop (fitted)"}
    assert all("Flagged: 150 of the 300 scored cells are among the reference cells" in s.remark for s in flagged)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    found = sl.annotate(query, reference, model="pca", k=1, progress=False)
    assert found.scores["accuracy"] == pytest.approx((found.labels == truth)[:150].mean())
    assert (found.labels == truth)[150:].mean() > found.scores["accuracy"] + 0.1
    assert found.beside.of("accuracy", "pca").n == 150
    assert "150 of the 300 cells are among those of the reference: they are labelled" in found.summary()
    again = sl.annotate(pbmc68k[200:300].copy(), reference, model="pca", progress=False)
    assert again.scores is None
    assert again.beside.of("accuracy", "pca").n == reference.n_obs, "held-out cells of the reference instead"
    # Cells that express nothing are all alike, and few genes are soon the same.
    empty = pbmc68k[:40].copy()
    empty.X = empty.X * 0
    assert not also_in(empty, empty).any()
    assert not also_in(query[:, :15].copy(), reference[:, :20].copy()).any()
    assert also_in(query, reference).sum() == 150


def test_donors_on_both_sides_are_told(pbmc68k):
    pbmc68k.obs["donor"] = [f"d{i}" for i in np.random.default_rng(0).integers(0, 3, pbmc68k.n_obs)]
    query, reference = pbmc68k[::2].copy(), pbmc68k[1::2].copy()
    scores = sl.evaluate.annotation(reference, "pca", query=query, sample_key="donor", floors=False, n_boot=0)
    assert all(s.remark == "Cells of one donor are on both sides, which flatters every method" for s in scores)
    assert "flatters every method: d0, d1, d2." in scores.summary()
    result = sl.annotate(query, reference, model="pca", sample_key="donor", beside=False, progress=False)
    assert "Cells of one donor are on both sides, which flatters every method (d0, d1, d2)." in result.summary()
    other = query[query.obs["donor"] == "d0"].copy()
    apart = reference[reference.obs["donor"] != "d0"].copy()
    asked = {"sample_key": "donor", "n_boot": 0, "floors": False}
    assert not any(s.remark for s in sl.evaluate.annotation(apart, "pca", query=other, **asked))
    assert not sl.annotate(other, apart, model="pca", sample_key="donor", beside=False, progress=False).leak


def test_a_label_of_one_held_out_donor_alone_is_counted_and_not_scored_as_wrong(pbmc68k):
    donors = np.random.default_rng(0).integers(0, 3, pbmc68k.n_obs)
    b = (pbmc68k.obs["cell_type"] == "CD19+ B").to_numpy()
    pbmc68k.obs["donor"] = np.where(b, "d0", np.char.add("d", donors.astype(str)))
    pbmc68k.obs["again"] = pbmc68k.obs["cell_type"].astype(str)
    asked = {"sample_key": "donor", "floors": False, "n_boot": 0}
    scores = sl.evaluate.annotation(pbmc68k, "pca", second_labels_key="again", **asked)
    told = f"{b.sum()} cells of labels that only the cells held out with them have (CD19+ B) cannot be labelled"
    assert told in scores.summary()
    for metric in ("macro-F1", "accuracy"):
        assert scores.of(metric).n == (~b).sum()
        assert scores.of(metric).ceiling == 1
    # As good as where the label is there to be learned, and not lower by what nobody can know.
    pbmc68k.obs["donor"] = np.char.add("d", donors.astype(str))
    known = sl.evaluate.annotation(pbmc68k, "pca", **asked)
    assert known.of("macro-F1").n == pbmc68k.n_obs
    assert scores.of("macro-F1").value > known.of("macro-F1").value - 0.05
    pbmc68k.obs["donor"] = pbmc68k.obs["cell_type"].astype(str)
    with pytest.raises(DataError, match="Each label is in one of the held-out parts alone"):
        sl.evaluate.annotation(pbmc68k, "pca", **asked)
