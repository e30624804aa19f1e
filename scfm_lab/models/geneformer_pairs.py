"""Tokens of Geneformer's cells before and after a perturbation, exactly as the reference makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import blocks
from scfm_lab.errors import DataError
from scfm_lab.models.tokens import Tokens, ragged_take

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Specials = tuple[int | None, int | None]
"""Ids of ``<cls>`` and ``<eos>``; None: there are none."""


class NothingToPerturb(DataError):
    """None of the cells holds what is to be perturbed."""


@dataclass(frozen=True)
class Pairs:
    """Perturbed cells, the originals they are compared with, and which positions stand for the same gene.

    Special tokens, and the perturbed genes themselves, are in no pair.
    """

    cells: NDArray[np.int64]
    """Row of each perturbed cell in the tokens given."""
    genes: NDArray[np.int64]
    after: Tokens
    before: Tokens
    """Originals, shortened where the reference shortens them."""
    of: NDArray[np.int64]
    """Original of each perturbed cell."""
    here: NDArray[np.int64]
    """Flat positions in `after` …"""
    there: NDArray[np.int64]
    """… and the positions of the same genes in their original (counted from its begin)."""
    segments: NDArray[np.int64]
    """Perturbed cell of each pair, ascending."""

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """Some of the perturbed cells, ascending, with the originals that they need."""
        originals, of = np.unique(self.of[rows], return_inverse=True)
        after = self.after.take(rows)
        mine = np.isin(self.segments, rows)
        segments = np.searchsorted(rows, self.segments[mine])
        here = self.here[mine] - self.after.offsets[rows[segments]] + after.offsets[segments]
        return Pairs(
            self.cells[rows], self.genes[rows], after, self.before.take(originals), of, here, self.there[mine], segments
        )


def deleted(tokens: Tokens, genes: NDArray[np.int64], specials: Specials) -> Pairs:
    """Cells that hold all of the genes, without them.

    Parameters
    ----------
    specials
        Ids of ``<cls>`` and ``<eos>``; None: there are none.
    """
    first = _first(tokens, genes)
    rows = np.flatnonzero((first >= 0).all(axis=1))
    if not len(rows):
        raise NothingToPerturb("No cell holds all of the genes to be deleted.")
    before = tokens.take(rows)
    kept = np.ones(len(before.ids), dtype=bool)
    kept[(before.offsets[:-1, None] + first[rows]).ravel()] = False
    lengths = before.lengths - len(genes)
    after = _cells(before, before.ids[kept], lengths, specials)
    cell, local = _places(before)
    plain = kept & _plain(before, local, specials)
    label = np.full(len(rows), genes[0] if len(genes) == 1 else -1)
    here = (np.cumsum(kept) - 1)[plain]
    return Pairs(rows, label, after, before, np.arange(len(rows)), here, local[plain], cell[plain])


def overexpressed(tokens: Tokens, genes: NDArray[np.int64], specials: Specials, *, max_length: int) -> Pairs:
    """All cells with the genes in front (after ``<cls>``), cut to the longest input."""
    first = _first(tokens, genes)
    n, k = len(tokens), len(genes)
    head, tail = int(specials[0] is not None), int(specials[1] is not None)
    present = (first >= 0).sum(axis=1)
    rest = np.ones(len(tokens.ids), dtype=bool)
    rest[(tokens.offsets[:-1, None] + first)[first >= 0]] = False
    cell, local = _places(tokens)
    middle = rest & _plain(tokens, local, specials)
    full = tokens.lengths - present + k
    lengths = np.minimum(full, max_length)
    # The reference counts the overflow from the length that holds the insertion already.
    overflow = np.maximum(lengths + (k - present) - max_length, 0)
    if k > max_length - head - tail or (tokens.lengths - overflow < head + tail).any():
        raise DataError(
            f"{k:,} genes put in front leave nothing of some cells to be compared, as a cell has {max_length:,} tokens at most; "
            "over-express fewer at a time."
        )

    # The genes that stay, in their order; those beyond the room are cut.
    place = np.cumsum(middle) - 1
    counts = np.bincount(cell[middle], minlength=n)
    place -= np.repeat(np.cumsum(counts) - counts, tokens.lengths)
    stays = middle & (place < np.repeat(lengths - head - tail - k, tokens.lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[(offsets[:-1, None] + head + np.arange(k)).ravel()] = np.tile(genes, n)
    if head:
        ids[offsets[:-1]] = tokens.ids[tokens.offsets[:-1]]
    if tail:
        ids[offsets[1:] - 1] = tokens.ids[tokens.offsets[1:] - 1]
    target = offsets[cell] + head + k + place
    ids[target[stays]] = tokens.ids[stays]
    after = _cells(tokens, ids, lengths, specials)

    shortened = tokens.lengths - overflow
    last = np.repeat(shortened - tail, tokens.lengths)
    kept = (local < last) | (local >= np.repeat(tokens.lengths - tail, tokens.lengths))
    before = _cells(tokens, tokens.ids[kept], shortened, specials)
    # Genes that are on both sides.
    both = stays & (local < last)
    here, there, segments = target[both], local[both], cell[both]
    label = np.full(n, genes[0] if k == 1 else -1)
    return Pairs(np.arange(n), label, after, before, np.arange(n), here, there, segments)


def each(
    tokens: Tokens,
    kind: str,
    specials: Specials,
    genes: NDArray[np.int64] | None = None,
    *,
    most: int = 1 << 21,
    spread: int | None = None,
) -> Iterator[Pairs]:
    """Every gene of each cell deleted, or put in front, in turn.

    Parameters
    ----------
    genes
        Only these; None: all.
    most
        Tokens of perturbed cells that are made at a time, so that the copies of one long cell are not all in memory.
    spread
        Only so many of the perturbed cells, spread evenly over all.
    """
    head = int(specials[0] is not None)
    cell, local = _places(tokens)
    genuine = _plain(tokens, local, specials)
    chosen = genuine & (local >= head + (kind == "overexpress"))
    if genes is not None:
        chosen &= np.isin(tokens.ids, genes)
    at = np.flatnonzero(chosen)
    if not len(at):
        raise NothingToPerturb("No cell holds any of the genes to be perturbed.")
    if spread is not None:
        at = at[np.unique(np.linspace(0, len(at) - 1, min(spread, len(at))).astype(np.int64))]
    for first, last in blocks(tokens.lengths[cell[at]], most):
        yield _copies(tokens, kind, specials, genuine, at[first:last])


def _copies(tokens: Tokens, kind: str, specials: Specials, genuine: NDArray[np.bool_], at: NDArray[np.int64]) -> Pairs:
    """A copy of its cell for each of some tokens, without it, or with it in front, and the originals of these copies."""
    head = int(specials[0] is not None)
    originals, rows = np.unique(np.searchsorted(tokens.offsets, at, side="right") - 1, return_inverse=True)
    whole, tokens = tokens, tokens.take(originals)
    genuine = genuine[ragged_take(whole.offsets, originals)[0]]
    where = at - whole.offsets[originals[rows]]
    flat, offsets = ragged_take(tokens.offsets, rows)
    inner = np.arange(len(flat)) - np.repeat(offsets[:-1], np.diff(offsets))
    moved = np.repeat(where, np.diff(offsets))
    copy = np.repeat(np.arange(len(rows)), np.diff(offsets))
    others = inner != moved
    paired = others & genuine[flat]
    if kind == "delete":
        after = _cells(tokens, tokens.ids[flat][others], tokens.lengths[rows] - 1, specials, rows)
        here = (np.cumsum(others) - 1)[paired]
    else:
        ids = np.empty(len(flat), dtype=np.int64)
        # What stands between the front and the gene moves one back.
        target = offsets[copy] + inner + ((inner >= head) & (inner < moved))
        target[~others] = offsets[:-1] + head
        ids[target] = tokens.ids[flat]
        after = _cells(tokens, ids, tokens.lengths[rows], specials, rows)
        here = target[paired]
    return Pairs(originals[rows], whole.ids[at], after, tokens, rows, here, inner[paired], copy[paired])


def _first(tokens: Tokens, genes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each gene in each cell, (cells, genes); -1 where it is absent."""
    cell, local = _places(tokens)
    out = np.full((len(tokens), len(genes)), -1, dtype=np.int64)
    for j, gene in enumerate(genes.tolist()):
        hits = np.flatnonzero(tokens.ids == gene)[::-1]
        out[cell[hits], j] = local[hits]
    return out


def _places(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cell of each token, and its place in the cell."""
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    return cell, np.arange(len(tokens.ids)) - tokens.offsets[:-1][cell]


def _plain(tokens: Tokens, local: NDArray[np.int64], specials: Specials) -> NDArray[np.bool_]:
    """Tokens that are genes."""
    genes = np.ones(len(tokens.ids), dtype=bool)
    if specials[0] is not None:
        genes &= local > 0
    if specials[1] is not None:
        genes &= local < np.repeat(tokens.lengths - 1, tokens.lengths)
    return genes


def _cells(
    tokens: Tokens,
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    specials: Specials,
    rows: NDArray[np.int64] | None = None,
) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    fields = {name: values if rows is None else values[rows] for name, values in tokens.cell.items()}
    fields["n_genes"] = lengths - sum(special is not None for special in specials)
    return replace(tokens, ids=ids, offsets=offsets, cell=fields, rows=None)
