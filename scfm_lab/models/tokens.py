"""What goes through a model: tokens in, states out, and what a forward pass is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tokens:
    """Tokenised cells, ragged: no padding.

    Parameters
    ----------
    ids
        What the model reads each token by, int64, shape (tokens,); which gene that is says
        :meth:`Model.vocabulary_ids <scfm_lab.models.contract.Model.vocabulary_ids>`.
    values
        float32, shape (tokens,), or None for models of ids alone.
    offsets
        int64, shape (cells + 1,): cell i has tokens ``offsets[i]:offsets[i + 1]``.
    positions
        Positions of the tokens where a model has them.
    cell
        Per-cell fields, each of shape (cells, …).
    rows
        Row of the AnnData behind each cell; None: in order.
    measured
        Vocabulary ids that the dataset measures; None: all. Parameter-free models tell
        a gene that was not measured from one that was not seen.
    family
        Family of the model that made them; ``""``: not told.
    vocabulary
        Digest of what the ids mean (:attr:`Model.vocabulary_digest
        <scfm_lab.models.contract.Model.vocabulary_digest>`); ``""``: not told.
    """

    ids: NDArray[np.int64]
    values: NDArray[np.float32] | None
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64] | None = None
    cell: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None
    measured: NDArray[np.int64] | None = None
    family: str = ""
    vocabulary: str = ""

    def __post_init__(self) -> None:
        if len(self.offsets) == 0 or self.offsets[-1] != len(self.ids):
            raise DataError("The offsets of these Tokens do not end at the number of ids.")
        if self.values is not None and len(self.values) != len(self.ids):
            raise DataError("These Tokens have not as many values as ids.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each cell."""
        return np.diff(self.offsets)

    @property
    def genes_seen(self) -> NDArray[np.int64]:
        """Known genes of each cell, special tokens not counted; 0: the model cannot see the cell."""
        return np.asarray(self.cell["n_genes"]) if "n_genes" in self.cell else self.lengths

    def take(self, rows: NDArray[np.int64]) -> Tokens:
        """Some of the cells, in the order given."""
        rows = np.asarray(rows)
        flat, offsets = ragged_take(self.offsets, rows)
        return replace(
            self,
            ids=self.ids[flat],
            values=None if self.values is None else self.values[flat],
            offsets=offsets,
            positions=None if self.positions is None else self.positions[flat],
            cell={name: values[rows] for name, values in self.cell.items()},
            rows=rows if self.rows is None else self.rows[rows],
        )


def ragged_take(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions, and new offsets, of some rows of a ragged array."""
    lengths = np.diff(offsets)[rows]
    new = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    flat = np.arange(new[-1]) + np.repeat(offsets[:-1][rows] - new[:-1], lengths)
    return flat, new


def offsets_of(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each cell begins, and the last ends: int64 (cells + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def joined(parts: list[Tokens]) -> Tokens:
    """The tokens of several blocks of cells as one."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    values = [part.values for part in parts if part.values is not None]
    return Tokens(
        ids=np.concatenate([part.ids for part in parts]),
        values=np.concatenate(values) if values else None,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        cell={name: np.concatenate([part.cell[name] for part in parts]) for name in parts[0].cell},
        family=parts[0].family,
        vocabulary=parts[0].vocabulary,
    )


@dataclass(frozen=True)
class States:
    """What the engine returns."""

    cell: NDArray[np.float32]
    """Shape (cells, width); NaN where the model sees no gene."""
    genes: NDArray[np.float32] | None = None
    """Shape (tokens, width of the states), where asked for; a cell's vector may join several states."""


@dataclass(frozen=True)
class Request:
    """What a forward pass is asked for; only that is computed."""

    genes: bool = False
    hidden_layer: int | None = None
    pooling: str | None = None
