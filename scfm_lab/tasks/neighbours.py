"""Nearest neighbours among vectors: exactly where that is quick, by PyNNDescent where it is not."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Found = tuple[NDArray[np.int64], NDArray[np.float32]]

EXACT_UP_TO = 20_000
"""Cells up to which all distances are taken."""
_DOUBTFUL = 1.5
"""How much farther from its neighbours than these are from their own a cell is before the search is not believed."""
_PROBE = 200
"""Such cells for which all distances are taken in any case."""
_ASTRAY = 0.005
"""Share of them that may have ended in a wrong place without all distances being taken for the rest."""


class Neighbours:
    """Reference vectors, ready to be searched by Euclidean distance.

    Parameters
    ----------
    vectors
        Float32 (cells, width), all finite.
    k
        Neighbours that are asked for; at most ``len(vectors) - 1``.
    approximate
        None: by PyNNDescent (McInnes et al., NN-descent of Dong et al. 2011) above 20,000 cells.
    seed
        Of PyNNDescent's start.
    """

    def __init__(self, vectors: NDArray[np.float32], *, k: int, approximate: bool | None = None, seed: int = 0) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.k, self._seed = min(k, len(vectors) - 1), seed
        self.approximate = len(vectors) > EXACT_UP_TO if approximate is None else approximate

    @cached_property
    def own(self) -> Found:
        """Each reference cell's `k` nearest others: rows (cells, k) and distances, nearest first."""
        if self.approximate:
            near, far = self._index.neighbor_graph
            return without_self(near.astype(np.int64), far, np.arange(len(near)), self.k)
        far, near = self._exact.kneighbors(n_neighbors=self.k)
        return near, far.astype(np.float32)

    def of(self, new: NDArray[np.float32], k: int | None = None) -> Found:
        """The nearest reference cells of new vectors: rows (new, k) and distances, nearest first."""
        k = self.k if k is None else min(k, len(self.vectors))
        if self.approximate:
            new = np.ascontiguousarray(new, dtype=np.float32)
            near, far = self._index.query(new, k=k, epsilon=0.12)
            return self.mended(new, near.astype(np.int64), far.astype(np.float32))
        far, near = self._exact.kneighbors(new, n_neighbors=k)
        return near, far.astype(np.float32)

    def mended(self, new: NDArray[np.float32], near: NDArray[np.int64], far: NDArray[np.float32]) -> Found:
        """Found neighbours, with all distances taken for cells that seem far from everything.

        A search that walks a graph cannot leave the piece of it in which it began: where the reference falls into groups, one
        cell in fifty ended in a wrong one, and would be called unlike the reference. Such cells are told by their distance. But
        cells of another batch are all far away, and their neighbours may well have been found: of many such cells a random few
        are looked into first, and the others only where more than one in two hundred of these had gone astray.
        """
        own = np.maximum(self.own[1].mean(axis=1), 1e-12)
        with np.errstate(invalid="ignore"):
            ratio = far.mean(axis=1) / own[near].mean(axis=1)
        lost = (near < 0).any(axis=1)
        near, far = near.copy(), far.copy()
        doubtful = np.random.default_rng(self._seed).permutation(np.flatnonzero(~(ratio <= _DOUBTFUL) & ~lost))
        astray = self._searched(doubtful[:_PROBE], new, near, far)
        rest = doubtful[_PROBE:] if astray.mean() > _ASTRAY else doubtful[:0]
        self._searched(np.r_[rest, np.flatnonzero(lost)], new, near, far)
        return near, far

    def _searched(
        self, rows: NDArray[np.int64], new: NDArray[np.float32], near: NDArray[np.int64], far: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Take all distances for some cells; of each, whether less than half of what was found for it is as near as what is."""
        if not len(rows):
            return np.zeros(1, dtype=bool)
        found = far[rows]
        near[rows], far[rows] = nearest(self.vectors, new[rows], near.shape[1])
        # By distance, as doubles are as good as each other; with room for how either search rounds.
        return np.asarray((found <= far[rows][:, -1:] * (1 + 1e-3)).mean(axis=1) < 0.5)

    @cached_property
    def _exact(self):  # type: ignore[no-untyped-def]
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(self.vectors)

    @cached_property
    def _index(self):  # type: ignore[no-untyped-def]
        from pynndescent import NNDescent

        return NNDescent(self.vectors, n_neighbors=max(30, self.k + 1), random_state=self._seed, n_jobs=-1)


def without_self(near: NDArray[np.int64], far: NDArray[np.float32], own: NDArray[np.int64], k: int) -> Found:
    """The first `k` neighbours of each cell that are not the cell itself (row `own`)."""
    # Where doubles push the cell out of its own list, the farthest neighbour drops out instead.
    drop = near == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    keep = ~drop
    shape = (len(near), near.shape[1] - 1)
    return near[keep].reshape(shape)[:, :k], far[keep].reshape(shape)[:, :k].astype(np.float32)


def nearest(reference: NDArray[np.float32], new: NDArray[np.float32], k: int) -> Found:
    """The exact nearest reference cells of a few new vectors."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(reference))
    far, near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference).kneighbors(new)
    return near, far.astype(np.float32)
