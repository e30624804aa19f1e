"""scGPT's tokens: ``<cls>`` and the genes a cell expresses, each with the bin of its count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.cells.digest import cell_stream, ragged_uniforms
from scfm_lab.models.published import KnownCounts, arrays_of, known_counts, lengths_known, places
from scfm_lab.models.scgpt_bins import QUANTILES, bin_interval, draw_bins, quantile_edges
from scfm_lab.models.tokens import Tokens, offsets_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

_TIES, _SAMPLE = 0x5C69B1, 0x5C695A
_SCORE_BITS = np.uint64(44)
_ALL = ~np.uint64(0)
_LONG_AT_ONCE = 1 << 14


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
    from scfm_lab.models.kernels import bin_cells

    counts = arrays_of(cells.counts)
    origin = counts if cells.baseline is None else arrays_of(cells.baseline.counts)
    known_of = lengths_known(counts, place)
    kept, weakest = _sampled(cells, place, known_of, rules)
    offsets = offsets_of(kept + 1)
    ids, values = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.float32)
    lost = np.empty(len(cells), np.float32)
    keys = tuple(cell_stream(cells.keys, rules.seed, stream) for stream in (_TIES, _SAMPLE))

    def block(first: int, last: int) -> None:
        # fmt: off
        bin_cells(
            first, last, counts, origin, cells.baseline is None, place, cells.gene_hashes, *keys, weakest, QUANTILES,
            rules.cls_id, rules.cls_value, offsets, ids, values, lost,
        )
        # fmt: on

    over_blocks(block, np.diff(counts[0]))
    cell = {"n_genes": known_of, "truncated": kept < known_of, "share_truncated": lost}
    return Tokens(ids=ids, values=values, offsets=offsets, cell=cell)


def _sampled(
    cells: Cells, place: NDArray[np.int32], lengths: NDArray[np.int64], rules: Rules
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Genes that are read of each cell, and the largest score of a gene that is read.

    Of each long cell those with the smallest numbers are read: the largest that is kept decides for its copies too.
    """
    kept, weakest = lengths.copy(), np.full(len(cells), _ALL, np.uint64)
    origin = cells.baseline
    long = np.flatnonzero(
        (lengths if origin is None else lengths_known(arrays_of(origin.counts), place)) >= rules.limit
    )
    if not len(long):
        return kept, weakest
    # The number of a cell has the bits beside its genes' scores.
    for some in np.array_split(long, len(long) // _LONG_AT_ONCE + 1):
        score, many = _scores(cells if origin is None else origin, some, place, rules.seed)
        ordered = score | np.repeat(np.arange(len(some), dtype=np.uint64) << _SCORE_BITS, many)
        ordered.sort()
        last = ordered[np.cumsum(many) - many + rules.limit - 2]
        weakest[some] = last & ((np.uint64(1) << _SCORE_BITS) - np.uint64(1))
        if origin is not None:
            score, many = _scores(cells, some, place, rules.seed)
        read = score <= np.repeat(weakest[some], many)
        kept[some] = np.bincount(np.repeat(np.arange(len(some)), many), weights=read, minlength=len(some)).astype(
            np.int64
        )
    return kept, weakest


def _scores(
    cells: Cells, rows: NDArray[np.int64], place: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A number of 44 bits for each known count of some cells, by which genes are sampled, and the counts of each cell."""
    known = known_counts(cells.counts[rows], place)
    uniform = ragged_uniforms(cells.keys[rows], known.lengths, cells.gene_hashes.take(known.columns), seed, _SAMPLE)
    return (uniform * 2.0 ** int(_SCORE_BITS)).astype(np.uint64), known.lengths


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
    offsets = offsets_of(lengths + 1)
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
    sums = np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=counts, minlength=len(lengths))
    return np.asarray(sums, np.float64)


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
