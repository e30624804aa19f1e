"""Geneformer's tokens: a cell's genes, ranked by their counts over what is usual for the gene.

A gene's value is its counts per 10,000 over the gene's non-zero median in the training
corpus. Cells are ranked by a compiled loop (:func:`scfm_lab.models.kernels.rank_cells`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.errors import DataError
from scfm_lab.models.published import arrays_of, known_counts, lengths_known, places
from scfm_lab.models.tokens import Tokens, offsets_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.published import PublishedMatch

TARGET_SUM = 10_000


@dataclass(frozen=True)
class Ranked:
    """Genes of each cell, the strongest first."""

    ids: NDArray[np.int64]
    """Token ids."""
    values: NDArray[np.float64]
    """Counts per 10,000 over the gene's median."""
    counts: NDArray[np.float32]
    """Raw counts."""
    lengths: NDArray[np.int64]
    """Genes of each cell."""

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Cell of each gene."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each gene in its cell, from 0."""
        return np.arange(len(self.ids)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    def keep(self, kept: NDArray[np.bool_]) -> Ranked:
        """Some of the genes."""
        lengths = np.bincount(self.rows[kept], minlength=len(self.lengths))
        return Ranked(self.ids[kept], self.values[kept], self.counts[kept], lengths)


class Ranker:
    """Ranks the genes of cells by falling value; of exactly equal values the smaller token id comes first.

    Parameters
    ----------
    match
        Its ids are token ids.
    medians
        Of each token id; NaN where there is none.
    """

    def __init__(self, cells: Cells, match: PublishedMatch, medians: NDArray[np.float64]) -> None:
        self._counts, self._place = seen_counts(cells, match)
        self._arrays = arrays_of(self._counts)
        # As the reference does in the h5ad path: sparse division multiplies by reciprocals, in float64
        # (in float32 as far as the column of totals is float32).
        total = totals(cells)
        self._share = (1 / total).astype(total.dtype)
        self._scale = (1 / medians)[self._place]
        self.known = lengths_known(self._arrays, self._place)
        """Known genes of each cell."""

    def __call__(self) -> Ranked:
        """All known genes."""
        offsets = offsets_of(self.known)
        values, counts = np.empty(offsets[-1]), np.empty(offsets[-1], np.float32)
        ids = np.empty(offsets[-1], np.int64)
        self._rank(offsets, (0, 0), None, ids, values, counts)
        return Ranked(ids, values, counts, self.known)

    def weakest(self, room: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Value and token of the last gene that each cell has room for; -inf where there is room for all."""
        value, token = np.full(len(self.known), -np.inf), np.zeros(len(self.known), np.int64)
        full = np.flatnonzero(self.known > room)
        if len(full):
            ranked = self()
            at = (np.cumsum(self.known) - self.known)[full] + room - 1
            value[full], token[full] = ranked.values[at], ranked.ids[at]
        return value, token

    def tokens(self, rules: Rules, least: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None) -> Tokens:
        """Tokens of the strongest genes that there is room for, without those behind `least` (of :meth:`weakest`)."""
        head, tail = int(rules.first is not None), int(rules.last is not None)
        offsets = offsets_of(np.minimum(self.known, rules.room) + head + tail)
        ids = np.empty(offsets[-1], np.int64)
        lengths, lost = self._rank(offsets, (head, tail), least, ids, np.empty(0), np.empty(0, np.float32))
        if least is not None and (short := lengths + head + tail < np.diff(offsets)).any():
            kept = np.ones(len(ids), dtype=bool)
            for row in np.flatnonzero(short).tolist():
                kept[offsets[row] + head + lengths[row] : offsets[row + 1] - tail] = False
            ids, offsets = ids[kept], offsets_of(lengths + head + tail)
        if rules.first is not None:
            ids[offsets[:-1]] = rules.first
        if rules.last is not None:
            ids[offsets[1:] - 1] = rules.last
        cell = {"n_genes": self.known, "truncated": lengths < self.known, "share_truncated": lost}
        return Tokens(ids=ids, values=None, offsets=offsets, cell=cell)

    def _rank(
        self,
        offsets: NDArray[np.int64],
        edges: tuple[int, int],
        least: tuple[NDArray[np.float64], NDArray[np.int64]] | None,
        *out: NDArray[Any],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Fill ids, and values and counts where they are wanted; genes of each cell, and the share of counts left out."""
        from scfm_lab.models.kernels import rank_cells

        n = len(self.known)
        if least is None:
            least = np.full(n, -np.inf), np.zeros(n, np.int64)
        lengths, lost = np.empty(n, np.int64), np.empty(n, np.float32)
        target = self._share.dtype.type(TARGET_SUM)
        ids, values, counts = out

        def block(first: int, last: int) -> None:
            # fmt: off
            rank_cells(
                first, last, self._arrays, self._place, self._scale, self._share, target, *least,
                offsets, *edges, ids, lengths, lost, values, counts,
            )
            # fmt: on

        over_blocks(block, np.diff(self._arrays[0]))
        return lengths, lost


def seen_counts(
    cells: Cells, match: PublishedMatch, *, like_reference: bool = False
) -> tuple[csr_matrix, NDArray[np.int32]]:
    """Counts, and the token id of each of their columns (-1: unknown); columns of one gene are summed if they are to be."""
    if not match.doubled:
        return cells.counts, places(match, cells.counts.shape[1])
    from scipy import sparse

    # The reference moves summed columns behind the others; the order matters to its unstable sort alone.
    first, which, times = np.unique(match.onto, return_inverse=True, return_counts=True)
    tokens = match.ids[first]
    place = np.lexsort((first, times > 1)) if like_reference else np.arange(len(tokens))
    column = np.empty(len(tokens), dtype=np.int64)
    column[place] = np.arange(len(tokens))
    target = column[which]
    onto = sparse.csr_matrix(
        (np.ones(len(target), np.float32), (match.columns, target)), shape=(cells.counts.shape[1], len(tokens))
    )
    summed = sparse.csr_matrix(cells.counts @ onto, dtype=np.float32)
    summed.eliminate_zeros()
    summed.sort_indices()
    return summed, tokens[place].astype(np.int32)


def _like_numpy(cells: Cells, match: PublishedMatch, medians: NDArray[np.float64]) -> Ranked:
    """All known genes, the order of exactly equal values left to numpy's unstable sort, as the reference leaves it."""
    known = known_counts(*seen_counts(cells, match, like_reference=True))
    total = totals(cells)
    values = known.values * np.repeat((1 / total).astype(total.dtype), known.lengths)
    values *= TARGET_SUM
    values = values * (1 / medians).take(known.ids)
    parts = [np.empty(0, np.int64)]
    for begin, n in zip(known.starts.tolist(), known.lengths.tolist(), strict=True):
        parts.append(begin + np.argsort(-values[begin : begin + n]))
    order = np.concatenate(parts)
    return Ranked(known.ids[order].astype(np.int64), values[order], known.values[order], known.lengths)


def totals(cells: Cells) -> NDArray[np.floating]:
    """Counts of each cell: ``obs["n_counts"]`` as given where that column is there, else library sizes.

    Raises
    ------
    DataError
        If the column has no numbers, or one that cannot be a total.
    """
    given = cells.fields.get("n_counts")
    if given is None:
        total: NDArray[np.floating] = cells.total
    else:
        told = np.asarray(given)
        if told.dtype.kind not in "iuf":
            raise DataError(
                "Geneformer takes each cell's total from obs['n_counts'], which holds no numbers; rename the column, or put "
                "totals there."
            )
        total = told if told.dtype == np.float32 else told.astype(np.float64)
        origin = cells if cells.baseline is None else cells.baseline
        expresses = np.diff(origin.counts.indptr) > 0
        bad = ~np.isfinite(total) | (total < 0) | ((total == 0) & expresses)
        if bad.any():
            raise DataError(
                f"Geneformer takes each cell's total from obs['n_counts'], which is {total[bad][0]} for cell "
                f"{cells.names[bad][0]!r}; correct the column, or drop it to have library sizes."
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
    if rules.like_reference:
        return _like_reference(cells, match, medians, rules)
    least = None if cells.baseline is None else Ranker(cells.baseline, match, medians).weakest(rules.room)
    return Ranker(cells, match, medians).tokens(rules, least)


def _like_reference(cells: Cells, match: PublishedMatch, medians: NDArray[np.float64], rules: Rules) -> Tokens:
    """As the reference makes them: ties in numpy's order, only cells whose ``filter_pass`` is 1."""
    seen = _like_numpy(cells, match, medians)
    if cells.baseline is not None:
        seen_before = _like_numpy(cells.baseline, match, medians)
        mine = _as_strong(seen, seen_before, rules.room)
    else:
        mine = seen
    mine = mine.keep(mine.ranks < rules.room)
    passed = np.ones(len(cells), dtype=bool)
    if "filter_pass" in cells.fields:
        passed = np.asarray(cells.fields["filter_pass"] == 1)
    left_out = ~passed & (seen.lengths > 0)
    mine, seen = mine.keep(passed[mine.rows]), seen.keep(passed[seen.rows])
    made = _tokens(mine, seen, rules)
    return replace(made, cell={**made.cell, "left_out": left_out}) if "filter_pass" in cells.fields else made


def _tokens(ranked: Ranked, seen: Ranked, rules: Rules) -> Tokens:
    before, after = int(rules.first is not None), int(rules.last is not None)
    offsets = offsets_of(ranked.lengths + before + after)
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[
        np.arange(len(ranked.ids)) + before + np.repeat(np.arange(len(offsets) - 1) * (before + after), ranked.lengths)
    ] = ranked.ids
    if rules.first is not None:
        ids[offsets[:-1]] = rules.first
    if rules.last is not None:
        ids[offsets[1:] - 1] = rules.last
    kept = np.bincount(ranked.rows, weights=ranked.counts, minlength=len(ranked.lengths))
    known = np.bincount(seen.rows, weights=seen.counts, minlength=len(ranked.lengths))
    lost = (1 - kept / np.maximum(known, 1)).astype(np.float32)
    truncated = ranked.lengths < seen.lengths
    cell = {
        "n_genes": seen.lengths,
        "truncated": truncated,
        "share_truncated": np.where(truncated, lost, np.float32(0)),
    }
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
