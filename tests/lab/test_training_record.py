"""Shipped models are not scored on the cells that they were made from, whichever way a score is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.evaluation.overlap import overlap
from scfm_lab.models import training_cells
from scfm_lab.tasks.compare import compare
from scfm_lab.training.corpus import SPLIT_SET, cell_set_digest, held_out

SHIPPED = ("pca", "sctop", "starter")
REFUSED = "are in the training record of scfm"


@pytest.fixture(scope="module")
def lines(shared_data):
    """Some of the cell lines, which all three were made from."""
    return sl.datasets.load("celllines_3x2tech_mixology")[::7].copy()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_sets_that_a_configuration_names_are_those_whose_cells_are_kept(name):
    model = sl.load_model(name)
    records = training_cells.trained_cells(model)
    assert tuple(cell_set_digest(record["train"]) for record in records) == model.learnt_from
    assert len(model.learnt_from) == {"pca": 4, "sctop": 2, "starter": 5}[name]
    for record in records:
        assert len(record["train.known"]) == len(record["train"])


@pytest.mark.parametrize("name", SHIPPED)
def test_each_knows_its_own_cells_and_no_others(name, lines, pbmc68k):
    model = sl.load_model(name)
    assert overlap(model, lines).share == 1
    assert "were trained on by scfm" in overlap(model, lines).summary()
    # Also where a file holds the genes that the model knows, and no others.
    known = lines[:, np.sort(model.match(model.read_cells(lines).genes).columns)].copy()
    assert known.n_vars < lines.n_vars
    assert overlap(model, known).share == 1
    bundled = overlap(model, pbmc68k)
    assert bundled.known
    assert bundled.complete
    assert bundled.share == 0


def test_the_fifth_that_was_held_out_is_unseen(shared_data):
    cells = sl.datasets.load(SPLIT_SET)
    out = held_out(np.asarray(cells.obs_names))
    np.testing.assert_array_equal(overlap(sl.load_model("sctop"), cells).trained, ~out)


def test_what_is_fitted_to_other_cells_has_seen_none_and_a_copy_as_much_as_the_original(lines, pbmc68k, tmp_path):
    model = sl.load_model("pca")
    assert not overlap(model.fit(pbmc68k, n_components=5), lines).known
    copied = sl.load_model(model.save(tmp_path / "copy"))
    assert overlap(copied, lines).share == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_scores_on_them_are_refused_or_flagged(name, lines):
    with pytest.raises(DataError, match=REFUSED):
        sl.evaluate.annotation(lines, name, n_boot=5)
    with pytest.raises(DataError, match=REFUSED):
        sl.evaluate.clustering(lines, name)
    if name == "pca":
        scores = sl.evaluate.clustering(lines, name, seen="flag", n_boot=5)
        remarks = {score.model: score.remark for score in scores}
        assert remarks.pop("pca").startswith(f"Flagged: {lines.n_obs} of the {lines.n_obs} scored cells")
        assert remarks
        assert not any("Flagged" in remark for remark in remarks.values())


def test_vectors_know_that_a_shipped_model_made_them(lines):
    own = lines.copy()
    sl.embed(own, "pca", progress=False)
    with pytest.raises(DataError, match=REFUSED):
        sl.evaluate.integration(own, "X_pca", batch_key="batch")


def test_a_board_leaves_out_what_it_may_not_score(lines, tmp_path):
    fitted = sl.load_model("pca").fit(lines, n_components=5)
    board = sl.evaluate.leaderboard(
        lines, ["sctop", fitted], parts="clustering", labels_key="cell_type", record=False, resume=tmp_path
    )
    assert set(board.table["model"]) == {"pca", "pca (fitted)"}
    # The board says itself which weights it scored.
    assert board.provenance["models"]["pca"]["weights_sha256"] == fitted.digest
    (left,) = board.left_out.itertuples()
    assert left.model.startswith("scfm.sctop/")
    assert REFUSED in left.why


def test_edges_found_in_them_are_not_scored(lines):
    how = {"beside": True, "n_genes": 25, "max_cells": 40, "progress": False}
    edges = sl.regulators(lines, "starter", "embedding", regulators=["JUN", "MYC", "STAT1"], **how)
    truth = [(gene, target) for gene in ("JUN", "MYC", "STAT1") for target in edges.targets[:9]]
    with pytest.raises(DataError, match=f"40 of the 40 cells to be scored {REFUSED}"):
        sl.evaluate.regulators(edges, truth, n_null=19, n_boot=5)
    told = {s.model: s.remark for s in sl.evaluate.regulators(edges, truth, n_null=19, n_boot=5, seen="flag")}
    assert "Flagged: 40 of the 40" in told["embedding"]
    assert "Flagged" not in told["coexpression"]


@pytest.mark.parametrize("by", ["model", "vectors"])
def test_directions_found_in_them_are_not_carried_elsewhere(by, lines):
    own = lines.copy()
    own.obs["drug"] = np.where(np.arange(own.n_obs) % 2, "A", "none")
    sl.embed(own, "sctop", progress=False)
    which = {"model": "sctop"} if by == "model" else {"use_rep": "X_sctop"}
    made = sl.drug_signature(own, **which, treatment_key="drug", control="none", groupby="cell_type", progress=False)
    assert f"Flagged: {own.n_obs} of the {own.n_obs} scored cells" in made.summary()
    with pytest.raises(DataError, match="in its training record"):
        sl.transfer_signature(made, n_random=20)
    told = sl.transfer_signature(made, n_random=20, seen="flag")
    assert "Flagged" in told.summary()


def test_what_integrates_and_orders_them_gives_no_score_unless_it_is_flagged(lines):
    own = lines.copy()
    own.obs["stage"] = np.arange(own.n_obs) % 4
    sl.embed(own, "sctop", progress=False)
    way = {
        "use_rep": "X_sctop",
        "root": str(own.obs_names[0]),
        "groupby": "cell_type",
        "stage_key": "stage",
        "n_roots": 0,
    }
    ordered = sl.trajectory(own, **way, n_neighbors=10)
    assert [score.model for score in ordered.agreement] == ["pca (fitted)"]
    assert "The order is not scored" in ordered.summary()
    assert ordered.roots["tau"].isna().all()
    told = sl.trajectory(own, **way, n_neighbors=10, seen="flag", key_added="told")
    assert told.agreement.of("Kendall's tau-b with stage", "X_sctop").remark.startswith("Flagged")
    corrected = sl.integrate(own, "sctop", batch_key="batch", beside=False, progress=False)
    assert corrected.scores is None
    assert "X_sctop is not scored" in corrected.summary()
    # Vectors that were written before their provenance told more are known by the weights that made them.
    del own.uns["scfm"]["X_sctop"]["cells_on_record"]
    with pytest.raises(DataError, match=REFUSED):
        sl.evaluate.integration(own, "X_sctop", batch_key="batch")


def test_labels_and_votes_are_counted_of_other_cells_only(lines, pbmc68k):
    own = lines.copy()
    result = compare(own, "pca", "sctop", groupby="cell_type", progress=False)
    assert result.table[["accuracy_a", "accuracy_b"]].isna().all().all()
    assert np.isfinite(result.table["overlap"]).all()
    assert f"{own.n_obs} cells are in the training record" in result.summary()
    found = sl.annotate(own[::2].copy(), own[1::2].copy(), model="sctop", progress=False, beside=False)
    assert found.scores is None
    assert "of the reference cells are in the training record" in found.summary()
    others = compare(pbmc68k[:200].copy(), "pca", "sctop", groupby="cell_type", progress=False)
    assert np.isfinite(others.table["accuracy_a"].iloc[0])
