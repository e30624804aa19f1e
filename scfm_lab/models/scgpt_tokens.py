"""scGPT's tokens: ``<cls>`` and the genes a cell expresses, each with the bin of its count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.digest import uniforms
from scfm_lab.models.contract import Tokens
from scfm_lab.models.published import KnownCounts, known_counts
from scfm_lab.models.scgpt_bins import bin_interval, draw_bins, quantile_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

_TIES, _SAMPLE = 0x5C69B1, 0x5C695A


def tokenize(
    cells: Cells,
    match: Match,
    *,
    cls_id: int,
    cls_value: float,
    limit: int,
    seed: int,
    like_reference: bool,
) -> Tokens:
    """Tokens of cells, genes in the order of the columns.

    Bins, ties and samples of a perturbed copy come from its unperturbed cell: only the tokens
    of the perturbed genes change. (A gene that is new in a cell at its limit is read above it.)

    Parameters
    ----------
    cls_id, cls_value
        Of ``<cls>``, which stands first.
    limit
        Most tokens of a cell, ``<cls>`` among them.
    like_reference
        Draw from numpy's and torch's legacy streams in file order, as the reference does.
    """
    known = known_counts(cells.counts, match)
    if like_reference:
        bins, flat, lengths = _reference_draws(known, limit, seed)
    else:
        bins, flat, lengths = _hashed_draws(cells, match, known, limit, seed)
    ends = np.cumsum(lengths + 1)
    offsets = np.concatenate([[0], ends])
    ids = np.full(offsets[-1], cls_id, dtype=np.int64)
    values = np.full(offsets[-1], cls_value, dtype=np.float32)
    gene = np.ones(offsets[-1], dtype=bool)
    gene[offsets[:-1]] = False
    ids[gene] = known.ids[flat]
    values[gene] = bins[flat]
    truncated = lengths < known.lengths
    lost = np.zeros(len(cells), dtype=np.float32)
    if truncated.any():
        kept = np.bincount(known.rows[flat], weights=known.values[flat], minlength=len(cells))
        all_counts = np.bincount(known.rows, weights=known.values, minlength=len(cells))
        lost = (1 - kept / np.maximum(all_counts, 1)).astype(np.float32)
    return Tokens(
        ids=ids,
        values=values,
        offsets=offsets,
        cell={"n_genes": known.lengths, "truncated": truncated, "share_truncated": lost},
    )


def _hashed_draws(
    cells: Cells, match: Match, known: KnownCounts, limit: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Bins of all known counts, positions of those that are read, and how many each cell has."""
    origin = known if cells.baseline is None else known_counts(cells.baseline.counts, match)
    edges = quantile_edges(origin.values, origin.lengths)
    # A cell that saw nothing before it was perturbed has no edges of its own: those of the copy.
    blind = np.flatnonzero((origin.lengths == 0) & (known.lengths > 0))
    if len(blind):
        edges[blind] = quantile_edges(known.values, known.lengths)[blind]
    low, high = bin_interval(known.values, known.lengths, edges)
    # Below the unperturbed cell's lowest count there is no bin; a copy's count there gets the lowest.
    high = np.maximum(high, 1)
    rows = known.rows
    hashes = cells.gene_hashes
    bins = draw_bins(np.minimum(low, high - 1), high, uniforms(cells.keys[rows], hashes[known.columns], seed, _TIES))
    long = origin.lengths + 1 > limit
    if not long.any():
        return bins, np.arange(len(bins)), known.lengths
    threshold = np.full(len(cells), np.inf)
    some = np.flatnonzero(long)
    of_long = long[origin.rows]
    row = np.repeat(np.arange(len(some)), origin.lengths[some])
    score = uniforms(cells.keys[some][row], hashes[origin.columns[of_long]], seed, _SAMPLE)
    ordered = score[np.lexsort((score, row))]
    threshold[some] = ordered[np.cumsum(origin.lengths[some]) - origin.lengths[some] + limit - 2]
    picked = np.ones(len(bins), dtype=bool)
    in_long = np.flatnonzero(long[rows])
    own = uniforms(cells.keys[rows[in_long]], hashes[known.columns[in_long]], seed, _SAMPLE)
    picked[in_long] = own <= threshold[rows[in_long]]
    flat = np.flatnonzero(picked)
    return bins, flat, np.bincount(rows[flat], minlength=len(cells))


def _reference_draws(
    known: KnownCounts, limit: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """As the reference draws in one process: numpy's stream for bins, torch's for samples, in file order."""
    import torch

    low, high = bin_interval(known.values, known.lengths, quantile_edges(known.values, known.lengths))
    bins = draw_bins(low, high, np.random.RandomState(seed).random_sample(len(low)))
    lengths = np.minimum(known.lengths, limit - 1)
    if np.array_equal(lengths, known.lengths):
        return bins, np.arange(len(bins)), lengths
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for begin, n, kept in zip(known.indptr[:-1].tolist(), known.lengths.tolist(), lengths.tolist(), strict=True):
        order = torch.randperm(n, generator=generator)[:kept].numpy() if n > kept else np.arange(n)
        parts.append(begin + order)
    return bins, np.concatenate(parts), lengths
