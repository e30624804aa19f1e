"""Geneformer's tokens: a cell's genes, ranked by their counts over what is usual for the gene.

A gene's value is its counts per 10,000 over the gene's non-zero median in the training
corpus. The order is found for all cells at once: positive floats sort as their bits do, so
that one sort of (cell, value) keys ranks every cell, and only values that agree in 24 bits
are looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.errors import DataError
from scfm_lab.models.published import known_counts, places
from scfm_lab.models.tokens import Tokens, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.published import PublishedMatch

TARGET_SUM = 10_000


@dataclass(frozen=True)
class Ranked:
    """Genes of each cell, the strongest first."""

    entries: Entries
    order: NDArray[np.int64]
    """Which entries, cell by cell, in the order of their rank."""
    strength: NDArray[np.float64]
    """Of each entry: counts per 10,000 over the gene's median."""
    lengths: NDArray[np.int64]
    """Genes of each cell."""

    @cached_property
    def ids(self) -> NDArray[np.integer]:
        """Token ids."""
        return self.entries.ids.take(self.order)

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """Counts per 10,000 over the gene's median."""
        return self.strength.take(self.order)

    @cached_property
    def counts(self) -> NDArray[np.float32]:
        """Raw counts."""
        return self.entries.counts.take(self.order)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Cell of each gene."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each gene in its cell, from 0."""
        return np.arange(len(self.order)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    def keep(self, kept: NDArray[np.bool_]) -> Ranked:
        """Some of the genes."""
        lengths = np.bincount(self.rows[kept], minlength=len(self.lengths))
        return replace(self, order=self.order[kept], lengths=lengths)


@dataclass(frozen=True)
class Entries:
    """The non-zero counts of some cells on known genes, one cell's after those of the other."""

    ids: NDArray[np.integer]
    """Token ids."""
    counts: NDArray[np.float32]
    lengths: NDArray[np.int64]
    """Entries of each cell."""


class Ranker:
    """Ranks the genes of cells, some cells at a time.

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

    def __init__(
        self, cells: Cells, match: PublishedMatch, medians: NDArray[np.float64], *, like_reference: bool = False
    ) -> None:
        self._cells, self._match, self._like_reference = cells, match, like_reference
        self._place = places(match, cells.counts.shape[1])
        self._scale = 1 / medians

    def __call__(self, first: int = 0, last: int | None = None) -> Ranked:
        """All known genes of the cells `first` to `last` by falling value."""
        last = len(self._cells) if last is None else last
        entries = self._entries(first, last)
        # As the reference does in the h5ad path: sparse division multiplies by reciprocals, in float64
        # (in float32 as far as the column of totals is float32).
        total = totals(self._cells, first, last)
        values = entries.counts * np.repeat((1 / total).astype(total.dtype), entries.lengths)
        values *= TARGET_SUM
        values = values * self._scale.take(entries.ids)
        order = _like_numpy if self._like_reference else _order
        return Ranked(entries, order(values, entries.ids, entries.lengths), values, entries.lengths)

    def _entries(self, first: int, last: int) -> Entries:
        """Columns of one gene are summed if they are to be."""
        match, counts = self._match, self._cells.counts
        if not match.summed or not match.doubled:
            known = known_counts(counts, self._place, first, last)
            return Entries(known.ids, known.values, known.lengths)
        from scipy import sparse

        # The reference moves summed columns behind the others; the order matters to its unstable sort alone.
        tokens, begin, times = np.unique(match.ids, return_index=True, return_counts=True)
        place = np.lexsort((begin, times > 1)) if self._like_reference else np.arange(len(tokens))
        column = np.empty(len(tokens), dtype=np.int64)
        column[place] = np.arange(len(tokens))
        target = column[np.searchsorted(tokens, match.ids)]
        onto = sparse.csr_matrix(
            (np.ones(len(target), np.float32), (match.columns, target)), shape=(counts.shape[1], len(tokens))
        )
        summed = sparse.csr_matrix(counts[first:last] @ onto)
        summed.eliminate_zeros()
        summed.sort_indices()
        return Entries(
            tokens[place][summed.indices],
            summed.data.astype(np.float32, copy=False),
            np.diff(summed.indptr).astype(np.int64),
        )


def totals(cells: Cells, first: int, last: int) -> NDArray[np.floating]:
    """Counts of the cells `first` to `last`: ``obs["n_counts"]`` as given where that column is there, else library sizes.

    Raises
    ------
    DataError
        If the column has no numbers, or one that cannot be a total.
    """
    given = cells.fields.get("n_counts")
    if given is None:
        total: NDArray[np.floating] = cells.total[first:last]
    else:
        told = np.asarray(given)
        if told.dtype.kind not in "iuf":
            raise DataError(
                "Geneformer takes each cell's total from obs['n_counts'], which holds no numbers; rename the column, or put "
                "totals there."
            )
        total = told[first:last] if told.dtype == np.float32 else told[first:last].astype(np.float64)
        origin = cells if cells.baseline is None else cells.baseline
        expresses = np.diff(origin.counts.indptr[first : last + 1]) > 0
        bad = ~np.isfinite(total) | (total < 0) | ((total == 0) & expresses)
        if bad.any():
            raise DataError(
                f"Geneformer takes each cell's total from obs['n_counts'], which is {total[bad][0]} for cell "
                f"{cells.names[first:last][bad][0]!r}; correct the column, or drop it to have library sizes."
            )
    return np.where(total > 0, total, total.dtype.type(1))


@dataclass(frozen=True)
class Rules:
    """What decides the tokens besides the counts."""

    limit: int
    """Most tokens of a cell, special ones among them."""
    first: int | None
    """Id of ``<cls>``; None: there is none."""
    last: int | None
    """Id of ``<eos>``; None: there is none."""
    like_reference: bool = False

    @property
    def room(self) -> int:
        """Most genes of a cell."""
        return self.limit - (self.first is not None) - (self.last is not None)


def tokenize(cells: Cells, match: PublishedMatch, medians: NDArray[np.float64], rules: Rules) -> Tokens:
    """Tokens of cells.

    A perturbed copy is ranked anew, among the genes that its unperturbed cell has room for: what
    was cut off there stays cut off, so that other genes only move up or down.
    """
    rank = Ranker(cells, match, medians, like_reference=rules.like_reference)
    origin = None
    if cells.baseline is not None:
        origin = Ranker(cells.baseline, match, medians, like_reference=rules.like_reference)

    def block(first: int, last: int) -> Tokens:
        seen = mine = rank(first, last)
        if origin is not None:
            mine = _as_strong(mine, origin(first, last), rules.room)
        if mine.lengths.max(initial=0) > rules.room:
            mine = mine.keep(mine.ranks < rules.room)
        if rules.like_reference and "filter_pass" in cells.fields:
            passed = np.asarray(cells.fields["filter_pass"] == 1)[first:last]
            left_out = ~passed & (seen.lengths > 0)
            mine, seen = mine.keep(passed[mine.rows]), seen.keep(passed[seen.rows])
            made = _tokens(mine, seen, rules)
            return replace(made, cell={**made.cell, "left_out": left_out})
        return _tokens(mine, seen, rules)

    return joined(over_blocks(block, np.diff(cells.counts.indptr)))


def _tokens(ranked: Ranked, seen: Ranked, rules: Rules) -> Tokens:
    before, after = int(rules.first is not None), int(rules.last is not None)
    lengths = ranked.lengths + before + after
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if before or after:
        ids = np.empty(offsets[-1], dtype=np.int64)
        gene = np.ones(offsets[-1], dtype=bool)
        for token, at in ((rules.first, offsets[:-1]), (rules.last, offsets[1:] - 1)):
            if token is not None:
                gene[at] = False
                ids[at] = token
        ids[gene] = ranked.ids
    else:
        ids = ranked.ids.astype(np.int64)
    truncated = ranked.lengths < seen.lengths
    lost = np.zeros(len(lengths), dtype=np.float32)
    if truncated.any():
        kept = np.bincount(ranked.rows, weights=ranked.counts, minlength=len(lengths))
        known = np.bincount(seen.rows, weights=seen.counts, minlength=len(lengths))
        lost = (1 - kept / np.maximum(known, 1)).astype(np.float32)
    cell = {"n_genes": seen.lengths, "truncated": truncated, "share_truncated": lost}
    return Tokens(ids=ids, values=None, offsets=offsets, cell=cell)


def _as_strong(ranked: Ranked, origin: Ranked, room: int) -> Ranked:
    """Without the entries that are weaker than the last gene the unperturbed cell has room for."""
    full = np.flatnonzero(origin.lengths > room)
    if not len(full):
        return ranked
    at = np.cumsum(origin.lengths)[full] - origin.lengths[full] + room - 1
    weakest = np.full(len(origin.lengths), -np.inf)
    token = np.zeros(len(origin.lengths), dtype=np.int64)
    weakest[full], token[full] = origin.values[at], origin.ids[at]
    row = ranked.rows
    strong = (ranked.values > weakest[row]) | ((ranked.values == weakest[row]) & (ranked.ids <= token[row]))
    return ranked.keep(strong)


def _like_numpy(values: NDArray[np.float64], ids: NDArray[np.integer], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    parts = [np.empty(0, np.int64)]
    begin = 0
    for n in lengths.tolist():
        parts.append(begin + np.argsort(-values[begin : begin + n]))
        begin += n
    return np.concatenate(parts)


def _order(values: NDArray[np.float64], ids: NDArray[np.integer], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the entries, cell by cell, by falling value and then rising token id."""
    n = len(values)
    width = max(1, (n - 1).bit_length())
    row = np.arange(len(lengths))
    if width + max(1, (len(lengths) - 1).bit_length()) > 32:
        # Far more than a block.
        return np.lexsort((ids, -values, np.repeat(row, lengths)))
    # Key: cell, falling value rounded to float32, entry.
    key = (~values.astype(np.float32).view(np.uint32)).astype(np.uint64)
    key <<= np.uint64(width)
    key |= np.repeat(row.astype(np.uint64) << np.uint64(32 + width), lengths)
    key |= np.arange(n, dtype=np.uint64)
    key.sort()
    order = (key & np.uint64((1 << width) - 1)).view(np.int64)
    key >>= np.uint64(width)
    same = np.flatnonzero(key[1:] == key[:-1])
    if len(same):
        # Equal to 24 bits: by the exact value, then by the token.
        group = np.zeros(n, dtype=bool)
        group[same] = group[same + 1] = True
        at = np.flatnonzero(group)
        run = np.cumsum(np.concatenate([[True], key[at][1:] != key[at][:-1]]))
        some = order[at]
        order[at] = some[np.lexsort((ids[some], -values[some], run))]
    return order
