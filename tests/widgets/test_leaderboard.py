"""``scfm-lab benchmark``: two baselines on a few cells, in process."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells import provenance
from scfm_lab.cli import main
from scfm_lab.errors import DataError, ModelError, StorageError
from scfm_lab.evaluation import once
from scfm_lab.evaluation.leaderboard_parts import parts
from scfm_widgets.leaderboard import PARTS, write_page


@pytest.fixture(scope="module")
def few(_pbmc68k):
    """Cells of three types, with stages that follow from the types, from three lanes that each have all types."""
    some = _pbmc68k[_pbmc68k.obs["cell_type"].isin(["CD34+", "CD14+ Monocyte", "CD19+ B"])][::2].copy()
    some.obs["stage"] = (some.obs["cell_type"] != "CD34+").astype(float)
    some.obs["lane"] = np.resize(["one", "two", "three"], some.n_obs)
    return some


def _board(capfd, path, out, *more):
    models = ["--model", "pca", "--model", "sctop"]
    code = main(["benchmark", str(path), *models, "--batch", "lane", "-o", str(out), "--json", *more])
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.slow
def test_two_baselines_are_scored_kept_recorded_and_shown(few, tmp_path, capfd, private_home):
    from scfm_registry import Registry

    path, out = tmp_path / "cells.h5ad", tmp_path / "board.html"
    few.write_h5ad(path)
    asked = ["--part", "annotation", "--part", "clustering", "--part", "trajectory", "--part", "perturbation"]
    first = _board(capfd, path, out, *asked)
    assert {row["part"] for row in first["table"]} == {"annotation", "clustering", "trajectory"}
    assert [(row["part"], row["model"]) for row in first["left_out"]] == [("perturbation", "")]
    assert "perturbation_key" in first["left_out"][0]["why"]
    by = {(row["part"], row["metric"], row["model"]): row for row in first["table"]}
    one = by["clustering", "adjusted Rand index", "sctop"]
    assert one["floor_name"] == "pca (fitted)"
    assert one["floor"] == by["clustering", "adjusted Rand index", "pca (fitted)"]["value"]
    page = out.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert all(words in page for words in ("Labels of held-out cells", "Left out, and why", "pca (fitted)", "<img"))
    # What a number is worth stands beside it: what its interval is over, and how the cells were split.
    over = "95 % bootstrap over cells (fewer than five samples, so that differences between donors are not in it)"
    assert f"<td>{over}</td>" in page
    assert any("Whole samples are held out" in note for note in first["notes"]["annotation"])
    for part, notes in first["notes"].items():
        assert len(set(notes)) == len(notes), f"notes of {part} are told once for both models"
        assert all(html.escape(note) in html.escape(html.unescape(page)) for note in notes)
        assert all(f"  {note}" in first["summary"] for note in notes)

    # Each part of each model is an evaluation of that version, and the same call computes and records nothing again.
    assert len(first["runs"]) == 6
    registry = Registry()
    kept = [row for row in registry.scores("sctop/1") if row["data_digest"] == first["provenance"]["data_digest"]]
    assert {row["metric"] for row in kept} >= {"macro-F1", "adjusted Rand index", "Kendall's tau-b with stage"}
    again = _board(capfd, path, out, *asked)
    assert (again["resumed"], again["runs"], again["table"]) == (6, first["runs"], first["table"])
    assert again["notes"] == first["notes"]
    # What a kill would have lost is the one part that was not finished.
    lost = max((private_home / "leaderboards").glob("*.json"), key=lambda p: p.stat().st_mtime)
    lost.unlink()
    assert _board(capfd, path, out, *asked)["resumed"] == 5


def test_what_flatters_every_method_is_told_with_every_score(few, tmp_path):
    own = few[::2].copy()
    asked = {"parts": "annotation", "record": False, "resume": tmp_path}
    board = sl.evaluate.leaderboard(own, "pca", **asked)
    leak = "Cells of one donor are on both sides, which flatters every method"
    assert all(score.remark == leak for score in board.scores("annotation"))
    assert board.table["remark"].tolist() == [leak] * len(board.table)
    write_page(board, tmp_path / "board.html", name="cells")
    page = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert page.count(f"{leak}</td>") == len(board.table)
    assert "Name the donors with sample_key." in page
    # As it was kept, and as it was computed.
    again = sl.evaluate.leaderboard(own, "pca", **asked)
    assert again.finished[0].resumed
    assert again.scores("annotation").notes == board.scores("annotation").notes


def test_parts_and_columns_that_are_not_there_are_told(few):
    with pytest.raises(DataError, match="Did you mean 'clustering'"):
        sl.evaluate.leaderboard(few, "pca", parts="clusterin")
    with pytest.raises(DataError, match="'types' is not in obs"):
        sl.evaluate.leaderboard(few, "pca", labels_key="types")


def test_parts_are_called_alike_in_python_on_the_command_line_and_in_the_docs(repository):
    section = (
        (repository / "docs/evaluation.md").read_text(encoding="utf-8").split("## A leaderboard")[1].split("\n## ")[0]
    )
    rows = re.findall(r"^\| (\w+) \|", section, flags=re.MULTILINE)
    assert tuple(parts()) == PARTS == tuple(rows[1:])
    assert all(f'``"{part}"``' in sl.evaluate.leaderboard.__doc__ for part in PARTS)


@pytest.fixture(scope="module")
def lines(shared_data):
    """Three cell lines by two technologies, of 600 genes."""
    cells = sl.datasets.load("celllines_3x2tech_mixology")[::3]
    most = np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel(), kind="stable")[:600]
    return cells[:, np.sort(most)].copy()


@pytest.fixture(scope="module")
def versions(lines):
    """Two versions of one model, which were fitted to cells of one technology each."""
    found = []
    for number, batch in enumerate(lines.obs["batch"].unique(), start=1):
        model = sl.load_model("pca").fit(lines[lines.obs["batch"] == batch].copy(), n_components=12)
        model.version = f"mine/{number}"
        found.append(model)
    return found


@pytest.mark.thorough
def test_two_versions_of_a_model_stand_beside_one_floor(lines, versions, tmp_path, monkeypatch):
    fitted = []
    make = once._principal_components
    monkeypatch.setattr(once, "_principal_components", lambda *given: (fitted.append(1), make(*given))[1])
    asked = {"record": False, "resume": tmp_path}
    board = sl.evaluate.leaderboard(lines, versions, parts="clustering", **asked)
    # Types would have kBET measured, which is compiled first for a minute.
    bare = lines.copy()
    bare.obs = bare.obs[["batch"]]
    mixed = sl.evaluate.leaderboard(bare, versions, parts="integration", **asked)
    assert len(fitted) == 2, "one for each board"
    for table, own in (
        (board.table, {"mine/1", "mine/2", "pca (fitted)"}),
        (
            mixed.table,
            {f"{name}{more}" for name in ("mine/1", "mine/2", "pca (fitted)") for more in ("", " + Harmony")},
        ),
    ):
        assert set(table["model"]) == own
        assert table.groupby(["metric", "model"]).size().eq(1).all()
        value = table.set_index(["metric", "model"])["value"]
        for row in table.itertuples():
            # What Harmony has corrected is beside the better of the components before and after it.
            both = row.model.startswith("mine") and row.model.endswith("+ Harmony")
            among = ["pca (fitted)", *(["pca (fitted) + Harmony"] if both else [])]
            assert row.floor == max(value[row.metric, name] for name in among)
    # What was kept of the first is not in the scores of the second.
    alone = sl.evaluate.clustering(lines, versions[1])
    by = board.scores("clustering")
    for score in alone:
        name = "mine/2" if score.model == "pca" else score.model
        assert by.of(score.metric, name).value == score.value
    # One that was opened with other settings is another model.
    other = copy.copy(versions[0])
    other.settings_digest = "sha256:other settings"
    again = sl.evaluate.leaderboard(lines, [versions[0], other], parts="clustering", **asked)
    assert [one.resumed for one in again.finished] == [True, False]
    assert len(again.scores("clustering")) == 6


def test_what_cannot_be_opened_is_left_out_and_the_rest_scored(lines, versions, tmp_path):
    own = lines.copy()
    own.obs["donor"] = ["anna", None] * (own.n_obs // 2)
    asked = {"parts": "clustering", "resume": tmp_path / "parts"}
    board = sl.evaluate.leaderboard(own, ["noodle", versions[0], tmp_path], **asked)
    assert board.parts == ["clustering"]
    left = board.left_out.set_index("model")["why"]
    assert "No model is called 'noodle'" in left["noodle"]
    assert str(tmp_path) in left.index
    assert "75 of 150 cells have no value in it, so that it is not taken as sample_key" in left[""]
    assert "Left out: obs['donor']: 75 of" in board.summary()
    with pytest.raises(ModelError, match="No model is called 'noodle'"):
        sl.evaluate.leaderboard(own, "noodle", **asked)
    # A disk that keeps nothing is no matter of one part.
    with pytest.raises(StorageError, match="cannot be kept"):
        sl.evaluate.leaderboard(
            own, versions[0], fresh=True, progress=lambda *_: shutil.rmtree(tmp_path / "parts"), **asked
        )


def test_a_board_stands_beside_an_earlier_trajectory(few, tmp_path):
    own = few[::2].copy()
    own.obs["trajectory_pseudotime"] = 0.0
    provenance.record(own, "trajectory_pseudotime", {"task": "trajectory"}, slot="obs")
    board = sl.evaluate.leaderboard(own, "pca", parts="trajectory", record=False, resume=tmp_path)
    assert board.parts == ["trajectory"], board.summary()

    # The floor is that of the cells, whichever model comes first; and every model stands beside it.
    def floor(some):
        rows = some.table.set_index("model")
        assert set(rows["floor"]) == {rows.loc["pca (fitted)", "value"]}
        return rows.loc["pca (fitted)", ["value", "low", "high"]].tolist()

    other = sl.evaluate.leaderboard(own, ["sctop", "pca"], parts="trajectory", record=False, resume=tmp_path)
    assert set(other.table["model"]) == {"sctop", "pca", "pca (fitted)"}
    assert floor(other) == floor(board)
