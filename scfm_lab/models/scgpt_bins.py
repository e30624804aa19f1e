"""scGPT's values: each cell's counts cut into bins at their own quantiles.

A value has as its bin the number of quantile edges at or below it. Raw counts are mostly
tied, and then several edges lie on one value: the reference draws the bin uniformly among
them, anew in every run. Here the draw is a number hashed from the cell, the gene and a
seed. All of it runs on flat arrays, block by block, so that they stay in the processor's
cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BINS = 51
"""Bins of the published embedding path, whatever ``args.json`` says; 0 is silence."""
QUANTILES = np.linspace(0, 1, N_BINS - 1)
"""Where the edges of the bins lie."""
_SMALL = 32
_SHORT = 1 << 16


def quantile_edges(
    values: NDArray[np.float32], lengths: NDArray[np.int64], n_bins: int = N_BINS
) -> NDArray[np.float64]:
    """Quantiles of each cell's values at ``linspace(0, 1, n_bins - 1)``, linearly interpolated.

    Bit for bit what ``numpy.quantile`` (2.4) gives for float32 values, for all cells at once.

    Parameters
    ----------
    values
        Positive float32, one cell after the other.
    lengths
        Values of each cell.

    Returns
    -------
    float64, shape (cells, n_bins - 1); infinite for cells without values
    """
    q = np.linspace(0, 1, n_bins - 1)
    out = np.full((len(lengths), len(q)), np.inf)
    starts = np.cumsum(lengths) - lengths
    for first, last in blocks(lengths):
        n = lengths[first:last]
        begin, end = starts[first], starts[last - 1] + n[-1]
        ordered = _sorted_in_cells(values[begin:end], n)
        some = np.flatnonzero(n)
        top = n[some, None] - 1
        virtual = top * q
        below = np.floor(virtual)
        gamma = virtual - below
        at = (starts[first:last][some, None] - begin) + below.astype(np.int64)
        at = np.minimum(at, (starts[first:last] - begin + n - 1)[some, None])
        left = ordered[at]
        # At the last point numpy takes the largest value for both neighbours.
        right = ordered[np.minimum(at + 1, (starts[first:last] - begin + n - 1)[some, None])]
        difference = right - left
        edges = left + difference * gamma
        late = gamma >= 0.5
        edges[late] = (right - difference * (1 - gamma))[late]
        out[first:last][some] = edges
    return out


def _sorted_in_cells(values: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """The positive values, ascending within each cell: one sort of (cell, value)."""
    if len(values) and len(lengths) <= _SHORT and values.max() < _SHORT:
        short = values.astype(np.uint32)
        if (short == values).all():
            short |= np.repeat(np.arange(len(lengths), dtype=np.uint32) << np.uint32(16), lengths)
            short.sort()
            return (short & np.uint32(0xFFFF)).astype(np.float32)
    # Positive floats sort as their bits do.
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    bits |= np.repeat(np.arange(len(lengths), dtype=np.uint64) << np.uint64(32), lengths)
    bits.sort()
    return (bits & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)


def bin_interval(
    values: NDArray[np.float32], lengths: NDArray[np.int64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Edges below each value, and edges at or below it: its bin is above the first and not above the second.

    Parameters
    ----------
    values, lengths
        As for :func:`quantile_edges`.
    edges
        Of each cell.

    Returns
    -------
    low, high
        int16, one per value; low ≤ high.
    """
    low = np.empty(len(values), dtype=np.int16)
    high = np.empty(len(values), dtype=np.int16)
    starts = np.cumsum(lengths) - lengths
    for first, last in blocks(lengths):
        begin, end = int(starts[first]), int(starts[last - 1] + lengths[last - 1])
        x = values[begin:end]
        row = np.repeat(np.arange(last - first, dtype=np.int32), lengths[first:last])
        own = edges[first:last]
        # Most counts are small whole numbers: a table per cell answers for them. An edge lies below a
        # whole number if its floor does, and not above it if its ceiling does not.
        below = _edges_upto(np.floor(own), strict=True)
        upto = _edges_upto(np.ceil(own), strict=False)
        small = np.minimum(x, _SMALL - 1).astype(np.int32)
        place = row * np.int32(_SMALL)
        place += small
        low[begin:end] = below.take(place)
        high[begin:end] = upto.take(place)
        other = np.flatnonzero(small != x)
        for part in np.array_split(other, len(other) // 4096 + 1):
            mine = own[row[part]]
            low[begin + part] = (mine < x[part, None]).sum(axis=1)
            high[begin + part] = (mine <= x[part, None]).sum(axis=1)
    return low, high


def _edges_upto(whole: NDArray[np.float64], *, strict: bool) -> NDArray[np.int16]:
    """Edges below (or up to) each of the numbers 0 … 31, for each cell: (cells, 32)."""
    cells = len(whole)
    kind = np.clip(whole, 0, _SMALL).astype(np.int64)
    kind += np.arange(cells)[:, None] * (_SMALL + 1)
    counts = np.bincount(kind.ravel(), minlength=cells * (_SMALL + 1)).reshape(cells, _SMALL + 1)
    total = counts.cumsum(axis=1).astype(np.int16)
    if not strict:
        return np.ascontiguousarray(total[:, :_SMALL])
    return np.concatenate([np.zeros((cells, 1), np.int16), total[:, : _SMALL - 1]], axis=1)


def draw_bins(low: NDArray[np.int16], high: NDArray[np.int16], uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    """The bin of each value: uniform on {low + 1, …, high}, or `high` where there is nothing to draw; whole float32."""
    bins = uniform * (low - high)
    bins += high
    return np.ceil(bins, out=bins).astype(np.float32)


def preprocessor_bins(
    counts_per_row: NDArray[np.float32],
    lengths: NDArray[np.int64],
    *,
    n_bins: int = N_BINS,
    uniform: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bins of the reference's fine-tuning path (its ``Preprocessor``).

    Parameters
    ----------
    counts_per_row
        Non-zero values (there: log1p of counts per 10,000), one cell after the other.
    lengths
        Values of each cell.
    uniform
        Numbers in [0, 1) that decide ties; None: numpy's legacy stream from `seed`, as the
        reference draws them.

    Returns
    -------
    bins
        int64, 1 … n_bins - 1.
    edges
        float64 (cells, n_bins): 0 and the quantiles.
    """
    values = np.asarray(counts_per_row, np.float32)
    edges = quantile_edges(values, lengths, n_bins)
    low, high = bin_interval(values, lengths, edges)
    if uniform is None:
        uniform = np.random.RandomState(seed).random_sample(len(values))
    return draw_bins(low, high, uniform).astype(np.int64), np.concatenate([np.zeros((len(lengths), 1)), edges], axis=1)
