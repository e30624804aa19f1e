"""A user's own type checker, at its strictest, knows what the public names are."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import scfm_lab as sl
from scfm_registry import Registry
from scfm_widgets import Lab

cells = sl.datasets.load("pbmc68k")
model = sl.load_model("starter", device="cpu")
reveal_type(model)
reveal_type(sl.audit_genes(cells, model))
reveal_type(sl.embed(cells, model))
reveal_type(sl.annotate(cells, cells, model=model))
reveal_type(sl.perturb(cells, model, {"CD3D": 0.0}))
reveal_type(sl.trajectory(cells, use_rep="X_starter", root="CD34+"))
reveal_type(Registry().load("starter@champion"))
reveal_type(Lab(cells))
"""
REVEALED = [
    "Model",
    "AuditResult",
    "EmbedResult",
    "AnnotateResult",
    "PerturbResult",
    "TrajectoryResult",
    "Model",
    "Lab",
]


@pytest.mark.thorough
def test_the_public_surface_is_typed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-color-output", "program.py"]
    paths = os.pathsep.join(str(repository / folder) for folder in ("", "registry", "widgets"))
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MYPYPATH": paths}
    )
    notes = [line.split('"')[1].rpartition(".")[2] for line in result.stdout.splitlines() if "Revealed type" in line]
    assert notes == REVEALED, result.stdout
    assert "error" not in result.stdout, result.stdout
