"""``scfm-lab benchmark``: two baselines on a few cells, in process."""

from __future__ import annotations

import json
import re

import pytest

import scfm_lab as sl
from scfm_lab.cli import main
from scfm_lab.errors import DataError


@pytest.fixture(scope="module")
def few(_pbmc68k):
    """Cells of three types, with stages that follow from the types, and no batches."""
    some = _pbmc68k[_pbmc68k.obs["cell_type"].isin(["CD34+", "CD14+ Monocyte", "CD19+ B"])][::2].copy()
    some.obs["stage"] = (some.obs["cell_type"] != "CD34+").astype(float)
    return some


def _board(capfd, path, out, *more):
    models = ["--model", "pca", "--model", "sctop"]
    code = main(["benchmark", str(path), *models, "--batch", "cell_type", "-o", str(out), "--json", *more])
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

    # Each part of each model is an evaluation of that version, and the same call computes and records nothing again.
    assert len(first["runs"]) == 6
    registry = Registry()
    kept = [row for row in registry.scores("sctop/1") if row["data_digest"] == first["provenance"]["data_digest"]]
    assert {row["metric"] for row in kept} >= {"macro-F1", "adjusted Rand index", "Kendall's tau-b with stage"}
    again = _board(capfd, path, out, *asked)
    assert (again["resumed"], again["runs"], again["table"]) == (6, first["runs"], first["table"])
    # What a kill would have lost is the one part that was not finished.
    lost = max((private_home / "leaderboards").glob("*.json"), key=lambda p: p.stat().st_mtime)
    lost.unlink()
    assert _board(capfd, path, out, *asked)["resumed"] == 5


def test_parts_and_columns_that_are_not_there_are_told(few):
    with pytest.raises(DataError, match="Did you mean 'clustering'"):
        sl.evaluate.leaderboard(few, "pca", parts="clusterin")
    with pytest.raises(DataError, match="'types' is not in obs"):
        sl.evaluate.leaderboard(few, "pca", labels_key="types")
