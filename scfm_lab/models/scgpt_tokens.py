"""scGPT's tokens: ``<cls>`` and the genes a cell expresses, each with the bin of its count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.cells.digest import ragged_uniforms
from scfm_lab.models.published import KnownCounts, known_counts, places
from scfm_lab.models.scgpt_bins import bin_interval, draw_bins, quantile_edges
from scfm_lab.models.tokens import Tokens, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

_TIES, _SAMPLE = 0x5C69B1, 0x5C695A
_SCORE_BITS = np.uint64(44)


@dataclass(frozen=True)
class Rules:
    """What decides the tokens besides the counts."""

    cls_id: int
    cls_value: float
    limit: int
    """Most tokens of a cell, ``<cls>`` among them."""
    seed: int


def tokenize(cells: Cells, match: Match, rules: Rules, *, like_reference: bool = False) -> Tokens:
    """Tokens of cells, genes in the order of the columns.

    Bins, ties and samples of a perturbed copy come from its unperturbed cell: only the tokens
    of the perturbed genes change. (A gene that is new in a cell at its limit is read above it.)

    Parameters
    ----------
    like_reference
        Draw from numpy's and torch's legacy streams in file order, as the reference does.
    """
    place = places(match, cells.counts.shape[1])
    if like_reference:
        known = known_counts(cells.counts, place)
        return _tokens(known, *_reference_draws(known, rules), rules)

    def block(first: int, last: int) -> Tokens:
        known = known_counts(cells.counts, place, first, last)
        origin = known if cells.baseline is None else known_counts(cells.baseline.counts, place, first, last)
        return _tokens(known, *_hashed_draws(known, origin, cells.keys[first:last], cells.gene_hashes, rules), rules)

    return joined(over_blocks(block, np.diff(cells.counts.indptr)))


def _tokens(
    known: KnownCounts,
    bins: NDArray[np.float32],
    flat: NDArray[np.int64] | None,
    lengths: NDArray[np.int64],
    rules: Rules,
) -> Tokens:
    """Tokens from bins, the positions that are read (None: all) and their number in each cell."""
    ids = known.ids
    truncated = lengths < known.lengths
    lost = np.zeros(len(lengths), dtype=np.float32)
    if flat is not None:
        kept = _sums(known.values.take(flat), lengths)
        lost = (1 - kept / np.maximum(_sums(known.values, known.lengths), 1)).astype(np.float32)
        ids, bins = ids.take(flat), bins.take(flat)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + 1)])
    gene = np.ones(offsets[-1], dtype=bool)
    gene[offsets[:-1]] = False
    all_ids = np.full(offsets[-1], rules.cls_id, dtype=np.int64)
    values = np.full(offsets[-1], rules.cls_value, dtype=np.float32)
    all_ids[gene] = ids
    values[gene] = bins
    cell = {"n_genes": known.lengths, "truncated": truncated, "share_truncated": lost}
    return Tokens(ids=all_ids, values=values, offsets=offsets, cell=cell)


def _sums(counts: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of each cell's counts."""
    sums = np.zeros(len(lengths))
    some = np.flatnonzero(lengths)
    if len(some):
        sums[some] = np.add.reduceat(counts, (np.cumsum(lengths) - lengths)[some], dtype=np.float64)
    return sums


def _hashed_draws(
    known: KnownCounts, origin: KnownCounts, keys: NDArray[np.uint64], hashes: NDArray[np.uint64], rules: Rules
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.int64]]:
    """Bins of all known counts, positions of those that are read (None: all), and how many each cell has.

    `origin` are the counts of the unperturbed cells: their quantiles, and their samples, hold.
    """
    edges = quantile_edges(origin.values, origin.lengths)
    if origin is not known:
        # A cell that saw nothing before it was perturbed has no edges of its own: those of the copy.
        blind = np.flatnonzero((origin.lengths == 0) & (known.lengths > 0))
        if len(blind):
            edges[blind] = quantile_edges(known.values, known.lengths)[blind]
    low, high = bin_interval(known.values, known.lengths, edges)
    if origin is not known:
        # Below the unperturbed cell's lowest count there is no bin; a copy's count there gets the lowest.
        high = np.maximum(high, 1)
    genes = hashes.take(known.columns)
    bins = draw_bins(low, high, ragged_uniforms(keys, known.lengths, genes, rules.seed, _TIES))
    long = np.flatnonzero(origin.lengths + 1 > rules.limit)
    if not len(long):
        return bins, None, known.lengths
    # Of each long cell the genes with the smallest numbers: the largest that is kept decides for its copies too.
    score, lengths, at = _scores(origin, long, keys, hashes, rules.seed)
    ordered = score | np.repeat(np.arange(len(long), dtype=np.uint64) << _SCORE_BITS, lengths)
    ordered.sort()
    weakest = ordered[np.cumsum(lengths) - lengths + rules.limit - 2] & ((np.uint64(1) << _SCORE_BITS) - np.uint64(1))
    if origin is not known:
        score, lengths, at = _scores(known, long, keys, hashes, rules.seed)
    read = np.ones(len(bins), dtype=bool)
    read[at] = score <= np.repeat(weakest, lengths)
    flat = np.flatnonzero(read)
    ends = np.cumsum(known.lengths)
    return bins, flat, np.diff(np.searchsorted(flat, np.concatenate([[0], ends])))


def _scores(
    known: KnownCounts, cells: NDArray[np.int64], keys: NDArray[np.uint64], hashes: NDArray[np.uint64], seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """A number of 44 bits for each count of some cells, by which genes are sampled; counts of each cell; their places."""
    chosen = np.zeros(len(keys), dtype=bool)
    chosen[cells] = True
    at = np.flatnonzero(np.repeat(chosen, known.lengths))
    lengths = known.lengths[cells]
    uniform = ragged_uniforms(keys[cells], lengths, hashes.take(known.columns[at]), seed, _SAMPLE)
    return (uniform * 2.0 ** int(_SCORE_BITS)).astype(np.uint64), lengths, at


def _reference_draws(
    known: KnownCounts, rules: Rules
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.int64]]:
    """As the reference draws in one process: numpy's stream for bins, torch's for samples, in file order."""
    import torch

    low, high = bin_interval(known.values, known.lengths, quantile_edges(known.values, known.lengths))
    bins = draw_bins(low, high, np.random.RandomState(rules.seed).random_sample(len(low)))
    lengths = np.minimum(known.lengths, rules.limit - 1)
    if np.array_equal(lengths, known.lengths):
        return bins, None, lengths
    generator = torch.Generator().manual_seed(rules.seed)
    parts = []
    for begin, n, kept in zip(known.starts.tolist(), known.lengths.tolist(), lengths.tolist(), strict=True):
        order = torch.randperm(n, generator=generator)[:kept].numpy() if n > kept else np.arange(n)
        parts.append(begin + order)
    return bins, np.concatenate(parts), lengths
