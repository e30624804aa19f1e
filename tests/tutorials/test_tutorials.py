"""Every tutorial runs from top to bottom, and goes into git without what a run leaves behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from notebooks import FIRST, NOTEBOOKS, run_notebook

if TYPE_CHECKING:
    from pathlib import Path


def test_there_is_a_first_tutorial() -> None:
    assert FIRST in [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_git_has_no_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["outputs"] for cell in code if cell["outputs"]] == []
    assert {cell["execution_count"] for cell in code} == {None}


# A machine that does other things at the same time may need much longer than the two minutes of an idle one.
@pytest.mark.timeout(900)
@pytest.mark.tutorial
@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != FIRST], ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    """As a student runs it: a fresh kernel, an empty directory, an empty home."""
    directory = tmp_path / "work"
    directory.mkdir()
    run_notebook(path, tmp_path / "home", directory)
