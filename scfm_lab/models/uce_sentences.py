"""UCE's sentences: which genes of a cell are drawn, and in which order they are read.

The reference draws genes with replacement, weighted by log1p(count), and shuffles the
chromosomes, both from numpy's global generator. By default both come from hashed numbers
here:

* draw *j* of a cell is the quantile of one number hashed from (digest of the unperturbed
  cell, *j*, seed): 1,024 independent draws from exactly the reference's distribution;
* a chromosome's place is a number hashed from (digest, chromosome, seed);
* a perturbed copy starts from its cell's draws. A draw of a gene whose probability fell is
  kept with the ratio of the two probabilities (a second hashed number decides), else it is
  drawn anew (a third) from the genes whose probability rose. That is the maximal coupling of
  the two distributions: the copy's draws are distributed as the reference's would be, and no
  draw changes that neither left nor joined a perturbed gene.

Weights are rounded to multiples of 2⁻²⁴, so that their sums are exact and do not depend on
which cells stand beside a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.digest import hash_names, mix64, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

PAD, CHROMOSOME_END, CLS = 0, 2, 3
_DRAW, _KEEP, _REDRAW, _ORDER = 0x0CE1, 0x0CE2, 0x0CE3, 0x0CE4
_WEIGHT_UNIT = 2.0**24
_EXCESS_UNIT = 2.0**40
_CELLS_AT_ONCE = 1024
_PLACE_BITS = np.uint64(24)


@dataclass(frozen=True)
class SpeciesGenes:
    """The genes of one species, in the order of its rows in the token table."""

    name: str
    symbols: NDArray[Any]
    """Upper case."""
    rows: NDArray[np.int64]
    """Row of each gene in the token table."""
    chromosomes: NDArray[np.int64]
    """Code of each gene's chromosome."""
    starts: NDArray[np.int64]
    chromosome_row: int
    """Row in the token table of the chromosome with code 0."""
    chromosome_names: NDArray[Any]
    """Name of each code."""

    def __len__(self) -> int:
        return len(self.symbols)


@dataclass(frozen=True)
class Sentences:
    """Token ids of some cells, one cell after the other."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    lost: NDArray[np.float32]
    """Share of a cell's draws beyond the longest sentence."""


def whole_counts(counts: csr_matrix) -> csr_matrix:
    """Counts without their fractions, as the reference stores them."""
    counts = counts.copy()
    np.trunc(counts.data, out=counts.data)
    counts.eliminate_zeros()
    return counts


def hashed_sentences(
    counts: csr_matrix,
    before: csr_matrix | None,
    keys: NDArray[np.uint64],
    genes: SpeciesGenes,
    *,
    size: int,
    longest: int,
    seed: int,
) -> Sentences:
    """Sentences from hashed numbers.

    Parameters
    ----------
    counts
        Counts of the species' genes, cells × genes.
    before
        The same of the unperturbed cells, for perturbed copies; else None.
    keys
        Digests of the unperturbed cells.
    size
        Draws per cell.
    longest
        Most tokens of a sentence.
    """
    parts = []
    for start in range(0, counts.shape[0], _CELLS_AT_ONCE):
        rows = slice(start, start + _CELLS_AT_ONCE)
        drawn = _draw(counts[rows], None if before is None else before[rows], keys[rows], size, seed)
        parts.append(_sentences(drawn, keys[rows], genes, longest, seed))
    if not parts:
        return Sentences(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Sentences(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "lengths", "lost")))


def _weights(counts: csr_matrix) -> NDArray[np.int64]:
    """log1p of the whole counts in units of 2⁻²⁴."""
    return np.rint(np.log1p(np.trunc(counts.data.astype(np.float64))) * _WEIGHT_UNIT).astype(np.int64)


def _row_sums(indptr: NDArray[Any], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Running sums over all rows, and the sum before each row's first value (one more at the end)."""
    running = np.cumsum(values)
    return running, np.concatenate([np.zeros(1, np.int64), running])[indptr]


def _pick(indptr: NDArray[Any], values: NDArray[np.int64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Flat position at each uniform number's quantile of its row's values; rows that sum to 0 must not be asked."""
    running, edges = _row_sums(indptr, values)
    total = np.diff(edges)[:, None]
    at = np.minimum((numbers * total).astype(np.int64), total - 1)
    return np.searchsorted(running, edges[:-1, None] + at, side="right")


def _draw(
    counts: csr_matrix, before: csr_matrix | None, keys: NDArray[np.uint64], size: int, seed: int
) -> NDArray[np.int64]:
    """Drawn genes, (cells, size); -1 throughout for cells that express none."""
    base = counts if before is None else before
    draws = np.arange(size, dtype=np.uint64)[None, :]
    drawn = np.full((counts.shape[0], size), -1, np.int64)
    weights = _weights(base)
    sums = np.diff(_row_sums(base.indptr, weights)[1])
    there = np.flatnonzero(sums > 0)
    if len(there):
        numbers = uniforms(keys[there, None], draws, seed, _DRAW)
        rows = base[there]
        drawn[there] = rows.indices[_pick(rows.indptr, _weights(rows), numbers)]
    if before is None:
        return drawn
    changed = np.flatnonzero(np.diff((counts != before).tocsr().indptr))
    if len(changed):
        drawn[changed] = _couple(drawn[changed], before[changed], counts[changed], keys[changed], seed)
    return drawn


def _couple(
    drawn: NDArray[np.int64], before: csr_matrix, after: csr_matrix, keys: NDArray[np.uint64], seed: int
) -> NDArray[np.int64]:
    """Draws of perturbed copies from those of their cells (maximal coupling)."""
    n_genes = after.shape[1]
    size = drawn.shape[1]
    draws = np.arange(size, dtype=np.uint64)[None, :]
    new, old = _weights(after), _weights(before)
    new_sum = np.diff(_row_sums(after.indptr, new)[1])
    old_sum = np.diff(_row_sums(before.indptr, old)[1])
    drawn = drawn.copy()
    drawn[new_sum == 0] = -1
    fresh = np.flatnonzero((old_sum == 0) & (new_sum > 0))
    if len(fresh):
        rows = after[fresh]
        drawn[fresh] = rows.indices[_pick(rows.indptr, _weights(rows), uniforms(keys[fresh, None], draws, seed, _DRAW))]

    # Both probabilities on the genes that either copy expresses.
    cells = np.arange(len(drawn), dtype=np.int64)
    new_places = np.repeat(cells, np.diff(after.indptr)) * n_genes + after.indices
    old_places = np.repeat(cells, np.diff(before.indptr)) * n_genes + before.indices
    places = np.union1d(new_places, old_places)
    cell_of = places // n_genes
    p_new, p_old = np.zeros(len(places)), np.zeros(len(places))
    safe_new, safe_old = np.maximum(new_sum, 1), np.maximum(old_sum, 1)
    p_new[np.searchsorted(places, new_places)] = new / safe_new[new_places // n_genes]
    p_old[np.searchsorted(places, old_places)] = old / safe_old[old_places // n_genes]

    open_rows = np.flatnonzero((old_sum > 0) & (new_sum > 0))
    if len(open_rows) == 0:
        return drawn
    at = np.searchsorted(places, cells[open_rows, None] * n_genes + drawn[open_rows])
    kept = uniforms(keys[open_rows, None], draws, seed, _KEEP) * p_old[at] < p_new[at]
    indptr = np.searchsorted(cell_of, np.arange(len(drawn) + 1))
    excess = np.rint(np.maximum(p_new - p_old, 0) * _EXCESS_UNIT).astype(np.int64)
    rows, columns = np.nonzero(~kept)
    if len(rows):
        running, edges = _row_sums(indptr, excess)
        total = np.diff(edges)[open_rows[rows]]
        numbers = uniforms(keys[open_rows[rows]], columns.astype(np.uint64), seed, _REDRAW)
        spot = edges[open_rows[rows]] + np.minimum((numbers * total).astype(np.int64), total - 1)
        # Where no probability rose by more than rounding there is nowhere to go: the draw stays.
        moves = total > 0
        found = places[np.searchsorted(running, spot[moves], side="right")] % n_genes
        drawn[open_rows[rows[moves]], columns[moves]] = found
    return drawn


def _sentences(
    drawn: NDArray[np.int64], keys: NDArray[np.uint64], genes: SpeciesGenes, longest: int, seed: int
) -> Sentences:
    """Order the drawn genes by hashed chromosome order, then by start, and put the chromosome tokens around them."""
    lengths = np.zeros(len(drawn), np.int64)
    lost = np.zeros(len(drawn), np.float32)
    there = np.flatnonzero(drawn[:, 0] >= 0) if drawn.shape[1] else np.empty(0, np.int64)
    if len(there) == 0:
        return Sentences(np.empty(0, np.int64), lengths, lost)
    order = np.lexsort((genes.rows, genes.starts, genes.chromosomes))
    place = np.empty(len(genes), np.uint64)
    place[order] = np.arange(len(genes), dtype=np.uint64)
    # 40 hashed bits order the chromosomes; genes of one chromosome stay together even where two are alike.
    codes, of_gene = np.unique(genes.chromosomes, return_inverse=True)
    turn = mix64(
        mix64(keys[there, None] ^ mix64(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + np.uint64(_ORDER)))
        ^ hash_names(genes.chromosome_names[codes])[None, :]
    )
    turn = (turn >> _PLACE_BITS) << _PLACE_BITS
    picked = drawn[there]
    mixed = np.take_along_axis(turn, of_gene[picked], axis=1) | place[picked]
    mixed.sort(axis=1)
    picked = order[(mixed & ((np.uint64(1) << _PLACE_BITS) - np.uint64(1))).astype(np.int64)]
    return _assemble(picked, there, lengths, lost, genes, longest)


def _assemble(
    picked: NDArray[np.int64],
    there: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lost: NDArray[np.float32],
    genes: SpeciesGenes,
    longest: int,
) -> Sentences:
    """Sentences of cells `there` from their genes in reading order, (cells, size)."""
    size = picked.shape[1]
    chromosome = genes.chromosomes[picked]
    first = np.ones_like(picked, dtype=bool)
    first[:, 1:] = chromosome[:, 1:] != chromosome[:, :-1]
    segment = np.cumsum(first, axis=1) - 1
    full = 1 + size + 2 * (segment[:, -1] + 1)
    base = np.concatenate([np.zeros(1, np.int64), np.cumsum(full)])
    ids = np.full(base[-1], CHROMOSOME_END, np.int64)
    ids[base[:-1]] = CLS
    at = base[:-1, None] + 2 + np.arange(size)[None, :] + 2 * segment
    ids[at] = genes.rows[picked]
    ids[at[first] - 1] = genes.chromosome_row + chromosome[first]
    over = full > longest
    if over.any():
        inside = np.arange(base[-1]) - np.repeat(base[:-1], full) < longest
        lost[there] = (at - base[:-1, None] >= longest).mean(axis=1)
        ids = ids[inside]
    lengths[there] = np.minimum(full, longest)
    return Sentences(ids, lengths, lost)
