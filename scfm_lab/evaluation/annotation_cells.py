"""Which cells label transfer learns from, and which are scored: a query, or parts of the reference that are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import column_of, subset
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.splits import balanced_folds, proportional, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

_FOLDS = 5
LEAK = "Cells of one donor are on both sides, which flatters every method"


@dataclass(frozen=True)
class Asked:
    """Cells to learn from and cells to score."""

    reference: AnnData
    query: AnnData | None
    types: NDArray[Any]
    codes: NDArray[np.int64]
    """Of the reference."""
    truth: NDArray[np.int64]
    """Of the scored cells."""
    scored_rows: NDArray[np.int64]
    """Rows of the given query (or reference) that are scored."""
    samples: NDArray[Any] | None
    """Of the reference."""
    units: NDArray[Any] | None
    """Sample of each scored cell."""
    fold: NDArray[np.int64] | None
    """Fold of each reference cell, where parts of it are held out."""
    notes: tuple[str, ...]
    leak: str = ""
    """What flatters every method on these cells; empty where nothing does."""
    lost: NDArray[np.bool_] | None = None
    """Which of the scored cells have a label that none of those they are held out from has: no method can give it."""

    @property
    def counted(self) -> NDArray[np.int64]:
        """Places among the scored cells that scores are taken over."""
        return np.arange(len(self.truth)) if self.lost is None else np.flatnonzero(~self.lost)

    @property
    def scored(self) -> AnnData:
        """The cells whose labels are guessed."""
        return self.reference if self.query is None else self.query

    def splits(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Reference rows to learn from, and places among the scored cells."""
        if self.fold is None:
            yield np.arange(len(self.codes)), np.arange(len(self.truth))
            return
        for f in np.unique(self.fold):
            yield np.flatnonzero(self.fold != f), np.flatnonzero(self.fold == f)

    def test(self, at: NDArray[np.int64]) -> AnnData:
        """Some of the scored cells."""
        return self.scored[at]


def prepare(
    reference: AnnData,
    known: NDArray[Any],
    query: AnnData | None,
    truth: NDArray[Any] | None,
    sample_key: str | None,
    max_cells: int,
    seed: int,
) -> Asked:
    """The cells that are learned from and scored, at most `max_cells` of each.

    Parameters
    ----------
    reference, known
        Annotated cells and their labels.
    query, truth
        Cells to score and their labels; None: parts of the reference are held out.

    Raises
    ------
    DataError
        If the query has none of the reference's labels, no label is in two of the parts that are held out, or the sample column is not
        there.
    """
    samples = None if sample_key is None else texts_of(reference, sample_key, "The sample column of the reference")
    notes: list[str] = []
    types, codes = np.unique(known.astype(str), return_inverse=True)
    # Rare labels are worth most as examples; what is scored has to be as common as it is.
    draw, words = (proportional, "in proportion to their labels") if query is None else (spread, "rare labels first")
    rows = draw(codes, np.arange(len(codes)), max_cells, seed) if len(codes) > max_cells else np.arange(len(codes))
    if len(rows) < len(codes):
        notes.append(f"{len(rows):,} of {len(codes):,} reference cells are used, {words} (max_cells).")
    reference, codes = subset(reference, rows), codes[rows]
    samples = None if samples is None else samples[rows]
    if query is None or truth is None:
        fold, split, leak = _held_out(codes, samples, seed)
        notes.insert(0, split)
        lost = _labels_lost(codes, fold)
        if lost.all():
            raise DataError("Each label is in one of the held-out parts alone, so that no other cell could teach it.")
        if lost.any():
            names = ", ".join(types[np.unique(codes[lost])][:6])
            notes.append(
                f"{plural(int(lost.sum()), 'cell', 'cells')} of labels that only the cells held out with them have ({names}) cannot be "
                "labelled after the others, and are left out of every score."
            )
        return Asked(reference, None, types, codes, codes, rows, samples, samples, fold, tuple(notes), leak, lost)
    shared: NDArray[np.bool_] = np.asarray(np.isin(truth.astype(str), types))
    if not shared.any():
        raise DataError(
            f"No label of the query ({', '.join(sorted(set(truth))[:5])}) is a label of the reference "
            f"({', '.join(types[:5])}); bring them to common names with harmonise=."
        )
    if (~shared).any():
        names = ", ".join(sorted(set(truth[~shared]))[:6])
        notes.append(
            f"{int((~shared).sum()):,} query cells of labels that the reference does not have ({names}) are left out."
        )
    at = np.flatnonzero(shared)
    place = np.searchsorted(types, truth[at].astype(str))
    if len(at) > max_cells:
        kept = proportional(place, np.arange(len(at)), max_cells, seed)
        notes.append(f"{len(kept):,} of {len(at):,} query cells are scored, in proportion to their labels (max_cells).")
        at, place = at[kept], place[kept]
    units = None
    if sample_key is not None and sample_key in query.obs and not query.obs[sample_key].isna().any():
        units = query.obs[sample_key].astype(str).to_numpy(dtype=object)[at]
    leak = ""
    if both := donors_on_both_sides(samples, units):
        leak = LEAK
        notes.append(f"{LEAK}: {', '.join(both[:6])}{' …' if len(both) > 6 else ''}.")
    return Asked(reference, subset(query, at), types, codes, place, at, samples, units, None, tuple(notes), leak)


def donors_on_both_sides(reference: NDArray[Any] | None, query: NDArray[Any] | None) -> list[str]:
    """Donors of which cells are learned from and scored; none where one side does not name them."""
    return [] if reference is None or query is None else sorted(set(reference) & set(query))


def _labels_lost(codes: NDArray[np.int64], fold: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Cells whose label is in their own fold alone."""
    lost = np.zeros(len(codes), dtype=bool)
    for f in np.unique(fold):
        lost |= (fold == f) & ~np.isin(codes, codes[fold != f])
    return lost


def _held_out(codes: NDArray[np.int64], samples: NDArray[Any] | None, seed: int) -> tuple[NDArray[np.int64], str, str]:
    """Fold of each cell, how they were made, and what flatters every method by that."""
    if samples is not None and len(set(samples)) > 1:
        fold = balanced_folds(samples, _FOLDS)
        return fold, f"Whole samples are held out ({len(set(samples))} in {len(set(fold))} folds).", ""
    # Each label is dealt out over the folds, so that rare ones are in all.
    order = np.random.default_rng(seed).permutation(len(codes))
    fold = np.empty(len(codes), dtype=np.int64)
    fold[order[np.argsort(codes[order], kind="stable")]] = np.arange(len(codes)) % _FOLDS
    return (
        fold,
        f"Cells are held out, not donors: {LEAK[0].lower()}{LEAK[1:]}. Name the donors with sample_key.",
        LEAK,
    )


def texts_of(adata: AnnData, key: str, what: str, *, min_values: int = 1) -> NDArray[Any]:
    """A column of ``obs`` as text, in which every cell has a value."""
    texts: NDArray[Any] = column_of(adata, key, what=what, min_values=min_values).astype(str).to_numpy(dtype=object)
    return texts
