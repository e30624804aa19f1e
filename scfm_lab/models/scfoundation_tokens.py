"""What scFoundation reads of a cell: log-normalised values of its expressed genes, and two tokens of read depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import column_of
from scfm_lab.cells.counts import named_place
from scfm_lab.cells.reader import CellReader
from scfm_lab.errors import CountsError, DataError, ModelError
from scfm_lab.models.performer_inputs import before_and_now, library_sizes
from scfm_lab.models.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

SCALE = 1e4
TOTAL = "total_counts"
"""Column of ``obs`` with the totals of pre-normalised cells (option ``pre_normalized="A"``), as scanpy's QC writes it."""
_MARK = "pre_normalized"


@dataclass(frozen=True)
class Target:
    """The read depth that is aimed at: ``t4`` is log10 = 4, ``f2`` twice the cell's, ``a1`` ten times the cell's."""

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read an option such as ``"t4"``.

        Raises
        ------
        ModelError
            If it is none.
        """
        kind, number = str(text).strip()[:1], str(text).strip()[1:]
        try:
            value = float(number)
        except ValueError:
            value = np.nan
        if kind not in ("t", "f", "a") or not np.isfinite(value) or (kind == "f" and value <= 0):
            raise ModelError(
                f"tgthighres is {text!r}; give 't4' (log10 of the depth aimed at), 'f2' (times the cell's own) or 'a1' "
                "(added to the log10 of the cell's own)."
            )
        return cls(kind, value)

    def of(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """log10 of the depth aimed at, for cells of these totals (above 0)."""
        if self.kind == "t":
            return np.full(len(total), self.value)
        return np.log10(total * self.value) if self.kind == "f" else np.log10(total) + self.value


@dataclass(frozen=True)
class NormalisedReader(CellReader):
    """Cells whose values are normalised already; what they are is not checked beyond being finite and not negative."""

    option: str = "T"

    @classmethod
    def of(cls, adata: AnnData, option: str, *, layer: str | None) -> NormalisedReader:
        """Find the values of an AnnData.

        Parameters
        ----------
        option
            ``"T"``, or ``"A"``: the total of each cell is in ``obs["total_counts"]``.
        layer
            Where the values are; None: X.

        Raises
        ------
        CountsError, DataError
            If a value is negative or not finite, or totals are missing.
        """
        if adata.n_obs == 0 or adata.n_vars == 0:
            raise DataError(f"The AnnData is empty ({adata.n_obs} cells × {adata.n_vars} genes).")
        if option == "A":
            column_of(adata, TOTAL, what="pre_normalized='A' needs each cell's total; the column")
        found = cls.locate(adata, lambda source: named_place(source, layer or "X"), (TOTAL,) if option == "A" else ())
        return replace(found, place=replace(found.place, where=f"{found.place.where} (normalised)"), option=option)

    def __call__(self, rows: slice | NDArray[Any] | None = None) -> Cells:
        """Some cells.

        Raises
        ------
        CountsError
            If a value is negative or not finite.
        """
        values = self.matrix(rows).astype(np.float32)
        if not np.isfinite(values.data).all() or (values.data < 0).any():
            raise CountsError(
                f"{self.place.where} has negative, NaN or infinite values; normalised expression has none."
            )
        values.sum_duplicates()
        values.eliminate_zeros()
        values.sort_indices()
        total = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        return self.cells(values, total, rows, **{_MARK: np.full(values.shape[0], self.option, dtype=object)})


def tokenize(cells: Cells, match: Match, n_genes: int, options: Mapping[str, Any], version: int) -> Tokens:
    """Tokens of cells: positions in ``ids``, values in ``values``, T and S last in each cell.

    Parameters
    ----------
    version
        Code of the set of weights, carried with the tokens.
    """
    given = str(options["pre_normalized"])
    if given != "F" and _MARK not in cells.fields:
        raise ModelError(
            f"pre_normalized={given!r} reads values that are normalised already, which only model.tokenize and sl.embed of an "
            "AnnData can; perturbations change raw counts."
        )
    like_reference = bool(options["like_reference"])
    before, now = before_and_now(cells, match, n_genes)
    library = library_sizes(cells, before, like_reference=like_reference)
    if options["input_type"] == "bulk":
        values, source, aim = _bulk(before, now, library, given)
    else:
        values, source, aim = _single(cells, before, now, library, given, Target.parse(str(options["tgthighres"])))
    depths = np.stack([aim, source], axis=1).astype(np.float32)
    return _packed(values, now, depths, n_genes, version, like_reference)


def _single(
    cells: Cells, before: csr_matrix, now: csr_matrix, library: NDArray[np.float64], given: str, target: Target
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Values, S and T of single cells."""
    if given == "A":
        total = _totals(cells, now)
    elif given == "T":
        total = np.asarray(before.sum(axis=1, dtype=np.float64)).ravel()
    else:
        total = library
    values = now.data if given != "F" else _log1p(now, library / SCALE)
    safe = np.where(total > 0, total, 1.0)
    return values, np.log10(safe), np.where(total > 0, target.of(safe), 0.0)


def _totals(cells: Cells, values: csr_matrix) -> NDArray[np.float64]:
    """Totals that were given with normalised cells.

    Raises
    ------
    DataError
        If they are no numbers, or a cell that expresses genes has none above 0.
    """
    told = np.asarray(cells.fields[TOTAL])
    if told.dtype.kind not in "iuf":
        raise DataError(
            f"pre_normalized='A' takes each cell's total from obs[{TOTAL!r}], which holds no numbers; put totals there."
        )
    total = told.astype(np.float64)
    bad = ~np.isfinite(total) | ((total <= 0) & (np.diff(values.indptr) > 0))
    if bad.any():
        raise DataError(
            f"pre_normalized='A' takes each cell's total from obs[{TOTAL!r}], which is {told[bad][0]} for cell "
            f"{cells.names[bad][0]!r}; totals are numbers above 0."
        )
    return total


def _bulk(
    before: csr_matrix, now: csr_matrix, library: NDArray[np.float64], given: str
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Values, S and T of bulk samples: scaled to the median total of the samples given."""
    if given == "A":
        raise ModelError("pre_normalized='A' is for single cells; bulk samples are 'F' (counts) or 'T' (normalised).")
    if given == "T":
        total = np.asarray(before.sum(axis=1, dtype=np.float64)).ravel()
        return now.data, total, total
    size = library / np.median(library[library > 0]) if (library > 0).any() else library
    start = before.copy().astype(np.float64)
    start.data = _log1p(before, size).astype(np.float64)
    total = np.asarray(start.sum(axis=1)).ravel()
    depth = np.log10(np.where(total > 0, total, 1.0))
    return _log1p(now, size), depth, depth


def _log1p(counts: csr_matrix, size: NDArray[np.float64]) -> NDArray[np.float32]:
    safe = np.where(size > 0, size, 1.0)
    return np.log1p(counts.data.astype(np.float64) / np.repeat(safe, np.diff(counts.indptr))).astype(np.float32)


def _packed(
    values: NDArray[np.float32],
    counts: csr_matrix,
    depths: NDArray[np.float32],
    n_genes: int,
    version: int,
    like_reference: bool,
) -> Tokens:
    """Genes in ascending order, then T and S; whatever is not above zero is not read."""
    n, lengths = counts.shape[0], np.diff(counts.indptr)
    row = np.concatenate([np.repeat(np.arange(n), lengths), np.repeat(np.arange(n), 2)])
    ids = np.concatenate([counts.indices.astype(np.int64), np.tile([n_genes, n_genes + 1], n)])
    all_values = np.concatenate([values.astype(np.float32), depths.ravel()])
    read = all_values > 0
    row, ids, all_values = row[read], ids[read], all_values[read]
    order = np.lexsort((ids, row))
    tokens = np.bincount(row, minlength=n)
    # The reference takes the last two tokens apart and pools the others: with fewer than three it has no vector.
    expressed = np.bincount(row[ids < n_genes], minlength=n)
    genes = np.where(tokens > 2, expressed, 0)
    return Tokens(
        ids=ids[order],
        values=all_values[order],
        offsets=np.concatenate([[0], np.cumsum(tokens)]).astype(np.int64),
        cell={
            "n_genes": genes,
            "left_out": (genes == 0) & (expressed > 0),
            "depths": depths,
            "version": np.full(n, version, dtype=np.int64),
            "like_reference": np.full(n, like_reference),
        },
    )
