"""What of the cells a model did not read: counts beyond its length, and whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match


def truncation(cell: Mapping[str, NDArray[Any]], kept: NDArray[np.float64]) -> dict[str, Any]:
    """How many cells were cut, and which share of their counts on known genes that left out."""
    truncated = np.asarray(cell.get("truncated", np.zeros(len(kept), dtype=bool)), dtype=bool)
    if not truncated.any():
        return {"cells_truncated": 0, "counts_truncated": 0.0}
    seen = kept[truncated]
    lost = np.asarray(cell["share_truncated"], dtype=np.float64)[truncated]
    return {"cells_truncated": int(truncated.sum()), "counts_truncated": float((seen * lost).sum() / seen.sum())}


def not_read(cell: Mapping[str, NDArray[Any]], cells: Cells, match: Match) -> dict[str, Any]:
    """What a record keeps of it: ``cells_truncated``, ``counts_truncated``, ``cells_left_out``.

    Parameters
    ----------
    cell
        What the tokens say of each cell.
    """
    kept = np.asarray(cells.counts[:, match.columns].sum(axis=1, dtype=np.float64)).ravel()
    return {**truncation(cell, kept), "cells_left_out": int(np.sum(cell.get("left_out", 0)))}


def truncated_sentence(record: Mapping[str, Any]) -> str:
    """How many cells were cut; ``""`` where none was."""
    n = int(record.get("cells_truncated", 0))
    if not n:
        return ""
    return (
        f"{plural(n, 'cell has', 'cells have')} more genes than the model reads; {record['counts_truncated']:.1%} of "
        f"{'its' if n == 1 else 'their'} counts on known genes are left out."
    )


def blind_sentence(blind: int, what: str, record: Mapping[str, Any]) -> str:
    """How many cells have NaN in the place of `what`, and why; ``""`` where none has."""
    if not blind:
        return ""
    left_out = int(record.get("cells_left_out", 0))
    why = f", or left out as the reference does ({left_out:,})" if left_out else ""
    return f"{plural(blind, 'cell has', 'cells have')} no {what} (NaN): no known gene{why}."
