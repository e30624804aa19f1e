"""What the README shows runs as it stands there, and every page it leads to exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: The bundled cells thinned: comparable genes in all of them take a minute and a half, which the tutorial spends already.
FEWER = """
from scfm_lab import datasets
all_of = datasets.load
datasets.load = lambda name: all_of(name)[::10].copy()
"""
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "tutorials", "benchmarks", "examples")


@pytest.mark.slow
def test_the_ten_lines_run(repository: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    statements = [line for line in program.splitlines() if line.strip()]
    assert len(statements) == 10
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", FEWER + program],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SCFM_HOME": str(tmp_path / "home"), "SCFM_CACHE_GB": "2"},
    )
    assert result.returncode == 0, result.stderr
    audit, knockout = result.stdout.split("CD3D at dose 0")
    assert "starter knows" in audit
    assert "comparable genes" in knockout


def pages(repository: Path) -> list[Path]:
    """The Markdown pages of the repository."""
    found = [repository / name for name in PAGES]
    return [page for path in found for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]


def test_every_link_between_pages_leads_somewhere(repository: Path) -> None:
    broken = []
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target or target.startswith("#"):
                continue
            if not (page.parent / target.partition("#")[0]).exists():
                broken.append(f"{page.relative_to(repository)}: {target}")
    assert broken == []
