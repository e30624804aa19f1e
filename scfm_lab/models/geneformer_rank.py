"""Geneformer's tokens: a cell's genes, ranked by their counts over what is usual for the gene.

A gene's value is its counts per 10,000 over the gene's non-zero median in the training
corpus. The order is found for all cells at once: positive floats sort as their bits do, so
that one sort of (cell, value) keys ranks every cell, and only values that agree in 24 bits
are looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.models.contract import Tokens
from scfm_lab.models.published import known_counts
from scfm_lab.models.scgpt_bins import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.published import PublishedMatch

TARGET_SUM = 10_000
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Ranked:
    """Genes of each cell, the strongest first."""

    ids: NDArray[np.int64]
    values: NDArray[np.float64]
    """Counts per 10,000 over the gene's median."""
    counts: NDArray[np.float32]
    lengths: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Cell of each entry."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each entry in its cell, from 0."""
        return np.arange(len(self.ids)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    def keep(self, kept: NDArray[np.bool_]) -> Ranked:
        """Some of the entries."""
        return Ranked(
            self.ids[kept],
            self.values[kept],
            self.counts[kept],
            np.bincount(self.rows[kept], minlength=len(self.lengths)),
        )


def rank(
    cells: Cells,
    match: PublishedMatch,
    medians: NDArray[np.float64],
    *,
    like_reference: bool = False,
) -> Ranked:
    """All known genes of each cell by falling value.

    Parameters
    ----------
    match
        Its ids are token ids.
    medians
        Of each token id; NaN where there is none.
    like_reference
        Leave the order of exactly equal values to numpy's unstable sort, as the reference does;
        else the smaller token id comes first.
    """
    ids, counts, lengths = _entries(cells, match, in_file_order=like_reference)
    # As the reference does in the h5ad path: sparse division multiplies by reciprocals, in float64
    # (in float32 as far as the column of totals is float32).
    per_cell = (1 / totals(cells)).astype(totals(cells).dtype)
    values = np.empty(len(ids), dtype=np.float64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    step = 1 << 16
    reciprocal = 1 / medians
    for begin in range(0, len(ids), step):
        part = slice(begin, begin + step)
        values[part] = (counts[part] * per_cell[rows[part]] * TARGET_SUM) * reciprocal[ids[part]]
    order = _like_numpy(values, lengths) if like_reference else _order(values, ids, lengths)
    return Ranked(ids[order], values[order], counts[order], lengths)


def totals(cells: Cells) -> NDArray[np.floating]:
    """Counts of each cell: ``obs["n_counts"]`` as given, where it is there and positive; else the library sizes."""
    given = cells.fields.get("n_counts")
    total: NDArray[np.floating] = cells.total
    if given is not None and np.asarray(given).dtype.kind in "iuf":
        given = np.asarray(given)
        usable = given if given.dtype == np.float32 else given.astype(np.float64)
        if np.isfinite(usable).all() and (usable > 0).all():
            total = usable
    return np.where(total > 0, total, total.dtype.type(1))


def tokenize(
    cells: Cells,
    match: PublishedMatch,
    medians: NDArray[np.float64],
    *,
    limit: int,
    first: int | None,
    last: int | None,
    like_reference: bool = False,
) -> Tokens:
    """Tokens of cells.

    A perturbed copy is ranked anew, among the genes that its unperturbed cell has room for: what
    was cut off there stays cut off, so that other genes only move up or down.

    Parameters
    ----------
    limit
        Most tokens of a cell, special ones among them.
    first, last
        Ids of ``<cls>`` and ``<eos>``; None: there are none.
    """
    ranked = rank(cells, match, medians, like_reference=like_reference)
    room = limit - (first is not None) - (last is not None)
    seen = ranked
    if cells.baseline is not None:
        origin = rank(cells.baseline, match, medians, like_reference=like_reference)
        ranked = ranked.keep(_as_strong(ranked, origin, room))
    ranked = ranked.keep(ranked.ranks < room)
    if like_reference and "filter_pass" in cells.fields:
        passed = np.asarray(cells.fields["filter_pass"] == 1)
        ranked = ranked.keep(passed[ranked.rows])
        seen = seen.keep(passed[seen.rows])

    before, after = int(first is not None), int(last is not None)
    lengths = ranked.lengths + before + after
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[np.repeat(offsets[:-1] + before, ranked.lengths) + ranked.ranks] = ranked.ids
    if first is not None:
        ids[offsets[:-1]] = first
    if last is not None:
        ids[offsets[1:] - 1] = last
    kept = np.bincount(ranked.rows, weights=ranked.counts, minlength=len(cells))
    known = np.bincount(seen.rows, weights=seen.counts, minlength=len(cells))
    return Tokens(
        ids=ids,
        values=None,
        offsets=offsets,
        cell={
            "n_genes": seen.lengths,
            "truncated": ranked.lengths < seen.lengths,
            "share_truncated": (1 - kept / np.maximum(known, 1)).astype(np.float32),
        },
    )


def _as_strong(ranked: Ranked, origin: Ranked, room: int) -> NDArray[np.bool_]:
    """Entries that are not weaker than the last gene the unperturbed cell has room for."""
    kept = np.ones(len(ranked.ids), dtype=bool)
    full = np.flatnonzero(origin.lengths > room)
    if not len(full):
        return kept
    at = np.cumsum(origin.lengths)[full] - origin.lengths[full] + room - 1
    weakest = np.full(len(origin.lengths), -np.inf)
    token = np.zeros(len(origin.lengths), dtype=np.int64)
    weakest[full], token[full] = origin.values[at], origin.ids[at]
    row = ranked.rows
    return (ranked.values > weakest[row]) | ((ranked.values == weakest[row]) & (ranked.ids <= token[row]))


def _entries(
    cells: Cells, match: PublishedMatch, *, in_file_order: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Token id and count of each non-zero entry, and entries of each cell; columns of one gene summed if they are to be."""
    if not match.summed or not match.doubled:
        known = known_counts(cells.counts, match)
        return known.ids, known.values, known.lengths
    from scipy import sparse

    # The reference moves summed columns behind the others; the order matters to its unstable sort alone.
    tokens, first, times = np.unique(match.ids, return_index=True, return_counts=True)
    place = np.lexsort((first, times > 1)) if in_file_order else np.arange(len(tokens))
    column = np.empty(len(tokens), dtype=np.int64)
    column[place] = np.arange(len(tokens))
    target = column[np.searchsorted(tokens, match.ids)]
    shape = (cells.counts.shape[1], len(tokens))
    summed = cells.counts @ sparse.csr_matrix((np.ones(len(target), np.float32), (match.columns, target)), shape=shape)
    summed = sparse.csr_matrix(summed)
    summed.eliminate_zeros()
    summed.sort_indices()
    return (
        tokens[place][summed.indices],
        summed.data.astype(np.float32, copy=False),
        np.diff(summed.indptr).astype(np.int64),
    )


def _like_numpy(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    parts = [np.empty(0, np.int64)]
    begin = 0
    for n in lengths.tolist():
        parts.append(begin + np.argsort(-values[begin : begin + n]))
        begin += n
    return np.concatenate(parts)


def _order(values: NDArray[np.float64], ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the entries, cell by cell, by falling value and then rising token id."""
    order = np.empty(len(values), dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    for first, last in blocks(lengths):
        begin, end = int(starts[first]), int(starts[last - 1] + lengths[last - 1])
        n = end - begin
        if n == 0:
            continue
        x = values[begin:end]
        width = np.uint64(max(1, (n - 1).bit_length()))
        if int(width) + max(1, (last - first - 1).bit_length()) > 32:
            # Thousands of nearly empty cells, or a cell of millions of genes: rare, and the plain way.
            row = np.repeat(np.arange(last - first), lengths[first:last])
            order[begin:end] = begin + np.lexsort((ids[begin:end], -x, row))
            continue
        # Key: cell, falling value rounded to float32, entry.
        key = (_LOW - x.astype(np.float32).view(np.uint32)) << width
        key |= np.repeat(np.arange(last - first, dtype=np.uint64) << (np.uint64(32) + width), lengths[first:last])
        key |= np.arange(n, dtype=np.uint64)
        key.sort()
        mine = (key & ((np.uint64(1) << width) - np.uint64(1))).astype(np.int64)
        same = np.flatnonzero(key[1:] >> width == key[:-1] >> width)
        if len(same):
            # Equal to 24 bits: by the exact value, then by the token.
            group = np.zeros(n, dtype=bool)
            group[same] = group[same + 1] = True
            at = np.flatnonzero(group)
            run = np.cumsum(np.concatenate([[True], (key[at][1:] >> width) != (key[at][:-1] >> width)]))
            some = mine[at]
            mine[at] = some[np.lexsort((ids[begin:end][some], -x[some], run))]
        order[begin:end] = begin + mine
    return order
