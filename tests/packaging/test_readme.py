"""Every page that a page leads to exists. What the README shows runs in ``tests/tutorials/test_first_hour.py``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "tutorials", "benchmarks", "examples")


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
