"""Which cells are held out together, and which are kept where not all can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def balanced_folds(samples: NDArray[Any], n_folds: int) -> NDArray[np.int64]:
    """Fold of each cell: samples stay whole, and the largest go to the fold with fewest cells so far."""
    names, place, sizes = np.unique(samples.astype(str), return_inverse=True, return_counts=True)
    fold_of = np.zeros(len(names), dtype=np.int64)
    held = np.zeros(min(n_folds, len(names)), dtype=np.int64)
    for i in np.argsort(-sizes, kind="stable"):
        fold_of[i] = held.argmin()
        held[fold_of[i]] += sizes[i]
    return fold_of[place]


def spread(codes: NDArray[np.int64], rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of the rows, rare labels kept before common ones are thinned."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    # The i-th cell of each label goes before the (i+1)-th of any.
    order = np.argsort(codes[shuffled], kind="stable")
    grouped = codes[shuffled][order]
    start = np.searchsorted(grouped, grouped, side="left")
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - start
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:most]])


def proportional(codes: NDArray[Any], rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of the rows, with as large a share of each label as it has among all of them.

    A label of which not one cell would be drawn keeps one, as far as there is room: what is scored is the population, and none
    of its labels is lost.
    """
    if len(rows) <= most:
        return np.sort(rows)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    _, place, sizes = np.unique(codes[shuffled], return_inverse=True, return_counts=True)
    if len(sizes) > most:
        return np.sort(shuffled[:most])
    exact = sizes * (most / len(rows))
    quota = np.maximum(np.floor(exact).astype(np.int64), 1)
    for i in np.argsort(quota - exact, kind="stable")[: max(0, most - int(quota.sum()))]:
        quota[i] += 1
    # Labels that keep one cell all the same are paid for by the largest.
    while quota.sum() > most:
        quota[np.argmax(quota)] -= 1
    order = np.argsort(place, kind="stable")
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(shuffled[turn < quota[place]])
