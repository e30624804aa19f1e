"""How far each gene moved where another was perturbed: cosines by the pair of the perturbed and the affected token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_PENDING = 1 << 22
"""Cosines that are held before those of the same pair are put together."""


class PairTally:
    """Sums of cosines by (perturbed token, affected token), as the reference keys them, and the cosines themselves if wanted.

    Parameters
    ----------
    n_tokens
        Tokens of the vocabulary.
    keep
        Whether each cosine is kept.
    """

    def __init__(self, n_tokens: int, *, keep: bool = False) -> None:
        self.n_tokens = n_tokens
        self.keep = keep
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._pending = 0

    def add(self, perturbed: NDArray[np.int64], affected: NDArray[np.int64], cosines: NDArray[np.float32]) -> None:
        """Add the cosines of some pairs; a perturbed token of -1 stands for several, perturbed together."""
        keys = (perturbed + 1) * self.n_tokens + affected
        self._parts.append(_together(keys, cosines.astype(np.float64), np.ones(len(keys), np.int64)))
        self._pending += len(self._parts[-1][0])
        if self._pending > _PENDING:
            self._parts = [self._sums()]
            self._pending = 0
        if self.keep:
            self._kept.append((keys, cosines))

    def table(self) -> pd.DataFrame:
        """One row per pair: token (affected), cosine (mean), n_cells, perturbed."""
        import pandas as pd

        keys, sums, times = self._sums()
        perturbed, affected = self._names(keys)
        return pd.DataFrame({"token": affected, "cosine": sums / times, "n_cells": times, "perturbed": perturbed})

    def lists(self) -> dict[tuple[int, int], NDArray[np.float32]]:
        """(perturbed token, affected token) → the cosine in each cell, float32, in the order of the cells."""
        keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in self._kept)])
        cosines = np.concatenate([np.empty(0, np.float32), *(cosines for _, cosines in self._kept)])
        order = np.argsort(keys, kind="stable")
        found, first = np.unique(keys[order], return_index=True)
        pairs = zip(*(names.tolist() for names in self._names(found)), strict=True)
        return dict(zip(pairs, np.split(cosines[order], first[1:]), strict=False))

    def _names(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return keys // self.n_tokens - 1, keys % self.n_tokens

    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        keys, sums, times = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return _together(keys, sums, times)


def _together(
    keys: NDArray[np.int64], sums: NDArray[np.float64], times: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    found, which = np.unique(keys, return_inverse=True)
    n = len(found)
    added = np.bincount(which, weights=times, minlength=n).astype(np.int64)
    return found, np.bincount(which, weights=sums, minlength=n).astype(np.float64), added
