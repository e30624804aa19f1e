"""Rows of a large table of protein embeddings, read and encoded where they are met first.

The tables of UCE and TranscriptFormer hold gigabytes, of which a dataset of one species asks
for a few ten thousand rows. They stay mapped into memory; what the network makes of a row
before the first layer does not depend on the cell, so that it is computed once and kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

_ROWS_AT_ONCE = 2048


class ProteinTable:
    """Rows of one width from several places, numbered through.

    Parameters
    ----------
    parts
        Tensors (rows, width), or sequences of tensors (width,), one after the other.
    mapped
        File that they, and the weights beside them, are mapped from.
    """

    def __init__(self, *parts: torch.Tensor | Sequence[torch.Tensor], mapped: Path | None = None) -> None:
        self._parts = list(parts)
        self._mapped = None if mapped is None else stored(mapped)
        self._stamp = None if self._mapped is None else _stamp(self._mapped)
        self._ends = np.cumsum([len(part) for part in parts])
        first = parts[0]
        self.width = int(first[0].shape[-1])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def identity_parts(self) -> list[int]:
        """Its size: the rows are the weights' own, or in their digest."""
        return [self.width, len(self)]

    def check(self) -> None:
        """Refuse to read a mapped file that was written to since: the process would be stopped, or read other numbers.

        Raises
        ------
        ModelError
            If so. (A file that was deleted, or replaced by another, stays mapped as it was.)
        """
        if self._mapped is None or self._stamp is None or not self._mapped.exists():
            return
        now = _stamp(self._mapped)
        if now[0] == self._stamp[0] and now != self._stamp:
            raise ModelError(f"{self._mapped} was written to while the model was in use; open it again.")

    def append(self, part: torch.Tensor | Sequence[torch.Tensor]) -> int:
        """Add rows at the end; returns the number of the first of them."""
        start = len(self)
        self._parts.append(part)
        self._ends = np.append(self._ends, start + len(part))
        return start

    def take(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Some rows, float32 (rows, width), on the CPU; nothing else of the table is read.

        Raises
        ------
        ModelError
            If there is no such row.
        """
        import torch

        self.check()
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            worst = int(rows.max()) if rows.max() >= len(self) else int(rows.min())
            raise ModelError(
                f"Token {worst:,} is asked for, but the table has {len(self):,} rows; these tokens are another model's."
            )
        out = torch.empty((len(rows), self.width), dtype=torch.float32)
        which = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(which == number)
            if len(here) == 0:
                continue
            local = rows[here] - (self._ends[number] - len(part))
            if isinstance(part, torch.Tensor):
                found = part[torch.from_numpy(local)]
            else:
                found = torch.stack([part[i] for i in local.tolist()])
            out[torch.from_numpy(here)] = found.float()
        return out


def _stamp(path: Path) -> tuple[int, int, int]:
    told = path.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _distinct(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Each row once, in order; by counting, where all are among `n`."""
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= n:
        return np.unique(rows)
    return np.flatnonzero(np.bincount(rows))


class EncodedRows:
    """What the network makes of rows of a table, kept from their first use on.

    Parameters
    ----------
    table
        Where the rows come from.
    encode
        (rows, table width) on the CPU in float32 → (rows, width) on the network's device.
    """

    def __init__(self, table: ProteinTable, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._table = table
        self._encode = encode
        self._slots = np.full(len(table), -1, np.int64)
        self._used = 0
        self._kept: torch.Tensor | None = None

    def identity_parts(self) -> None:
        """Nothing: what is kept is made anew of the table and the network."""

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Encoded rows of token ids (tokens,) → (tokens, width)."""
        from scfm_lab.models.ragged import over

        self._table.check()
        asked = ids.cpu().numpy()
        if len(self._slots) < len(self._table):  # rows were appended
            more = np.full(len(self._table) - len(self._slots), -1, np.int64)
            self._slots = np.concatenate([self._slots, more])
        self._require(_distinct(asked, len(self._slots)))
        assert self._kept is not None
        return self._kept[over(self._slots[asked], self._kept.device)]

    def _require(self, rows: NDArray[np.int64]) -> None:
        import torch

        if len(rows) and (rows[0] < 0 or rows[-1] >= len(self._slots)):
            self._table.take(rows[[0, -1]])  # says which row is not there
        missing = rows[self._slots[rows] < 0]
        for start in range(0, len(missing), _ROWS_AT_ONCE):
            part = missing[start : start + _ROWS_AT_ONCE]
            # Outside of inference mode, so that what is kept can be used where gradients are taken.
            with torch.inference_mode(False), torch.no_grad():
                encoded = self._encode(self._table.take(part))
            if not bool(torch.isfinite(encoded).all()):
                raise ModelError("The protein embeddings of some genes of these cells hold NaN or infinite values.")
            with torch.inference_mode(False):
                self._store(part, encoded)

    def _store(self, rows: NDArray[np.int64], encoded: torch.Tensor) -> None:
        end = self._used + len(rows)
        if self._kept is None or end > len(self._kept):
            room = encoded.new_empty((min(max(2 * end, _ROWS_AT_ONCE), max(len(self._slots), end)), encoded.shape[1]))
            if self._kept is not None:
                room[: self._used] = self._kept[: self._used]
            self._kept = room
        self._kept[self._used : end] = encoded
        self._slots[rows] = np.arange(self._used, end)
        self._used = end
