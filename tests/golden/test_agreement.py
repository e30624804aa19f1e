"""Every array that a reference left behind is compared, or named with the reason why not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = ("scgpt", "geneformer_v1", "geneformer_v2", "uce", "transcriptformer", "scfoundation", "scbert")


# The tests of each family hold most of these arrays too; the others are compared all together before a release.
@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "uce" else pytest.mark.thorough) for name in FIXTURES],
)
def test_every_array_agrees(golden: Path, repository: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import agreement

    rows, left = agreement.compare_run(golden / name)
    assert not [row for row in rows if not row.agrees]
    assert set(left.values()) <= {"only which cells or positions the arrays beside them hold"}
    assert len(rows) >= 13
    page = agreement.as_markdown({name: (rows, left)})
    assert f"{len(rows)} of {len(rows)} |" in page
    assert "differs" not in page
    for module in ("agreement", "agreement_runs", "agreement_more"):
        sys.modules.pop(module, None)


def test_a_difference_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import agreement

    wanted = np.arange(12, dtype=np.float32).reshape(3, 4)
    near, far, turned = wanted + 5e-5, wanted + 2e-4, wanted.copy()
    turned[0] = [1e-6, -1e-6, 1e-6, -1e-6]
    assert agreement.compare("x", near, wanted + 0, 1e-4).agrees
    assert not agreement.compare("x", far, wanted, 1e-4).agrees
    assert not agreement.compare("x", wanted[:2], wanted, 1e-4).agrees
    assert not agreement.compare("ids", wanted.astype(int), wanted.astype(int) + 1, 0).agrees
    assert not agreement.compare("names", np.array(["a"]), np.array(["b"]), 0).agrees
    small = wanted.copy()
    small[0] = [1e-6, 1e-6, 1e-6, 1e-6]
    row = agreement.compare("x", turned, small, 1e-4)
    assert row.worst <= 1e-4
    assert not row.agrees, "rows that are small and point elsewhere do not agree"
