"""Expression gene by gene, read from where the counts lie: nothing is copied that can be read as it is.

By columns (CSC, dense, also in a file) a gene is read alone. What lies by rows is turned once where that takes little of the free
memory; else, and in a file, it is gone through some rows at a time, which can be stopped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.counts import library_sizes, read_csr
from scfm_lab.cells.reader import CellReader
from scfm_lab.cells.sound import checked, in_file
from scfm_lab.errors import Cancelled, CountsError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Progress = Callable[[int, int], None]

#: Unit of genes of which there are no raw counts, and of others.
AS_IT_IS = "values in X"
LOG_COUNTS = "log(1 + counts per 10,000)"
#: Values that are read at a time.
_VALUES = 1 << 23
#: A matrix by rows is turned where its copy takes at most this share of the free memory.
_SHARE = 0.1
#: Genes whose expression is kept.
_KEPT = 6
#: Genes whose variance is taken together.
_BLOCK = 1024


class GeneMatrix:
    """Raw counts where there are any, log-normalised by the whole library; else ``X`` as it is.

    Parameters
    ----------
    adata
        Read, never changed; in memory or in a file.

    Attributes
    ----------
    names
        Genes, in the order of the matrix's columns.
    place
        Column of each.
    unit
        Of the values.
    """

    def __init__(self, adata: AnnData) -> None:
        self._lock = threading.RLock()
        self._kept: OrderedDict[int, NDArray[np.float64]] = OrderedDict()
        self._sizes: NDArray[np.float64] | None = None
        try:
            reader = CellReader.open(adata)
        except (CountsError, DataError):
            # Cells of which there are no raw counts can still be looked at; models will say what is missing.
            self._see_as_it_is(adata)
        else:
            self._matrix, self.unit, names = reader.place.matrix, LOG_COUNTS, reader.genes.names
            self._rows: Callable[[slice], csr_matrix] = reader.matrix
            self._obs: Any = reader.obs
            self.names = [str(name) for name in names]
            if not reader.stored:
                try:
                    self._sizes = np.maximum(library_sizes(reader.obs, self._in_memory()), 1.0)
                except (CountsError, DataError):
                    self._see_as_it_is(adata)
        self.place = {name: at for at, name in enumerate(self.names)}
        n, genes = self._matrix.shape
        in_memory = hasattr(self._matrix, "nnz") and not in_file(self._matrix)
        self._per_cell = max(1, self._matrix.nnz // max(n, 1) if in_memory else genes)

    def _see_as_it_is(self, adata: AnnData) -> None:
        self._matrix, self.unit, self._obs = adata.X, AS_IT_IS, None
        self._rows = lambda rows: read_csr(adata.X, rows)
        self.names = [str(name) for name in adata.var_names]

    def at_hand(self, column: int) -> bool:
        """Whether a gene is there without reading on."""
        matrix = self._matrix
        by_columns = isinstance(matrix, np.ndarray) or (hasattr(matrix, "indptr") and matrix.format == "csc")
        return column in self._kept or (by_columns and not in_file(matrix))

    def column(
        self, column: int, *, progress: Progress | None = None, cancel: Event | None = None
    ) -> NDArray[np.float64]:
        """Expression of the gene of one column in each cell.

        Raises
        ------
        Cancelled
            `cancel` was set.
        """
        with self._lock:
            if column in self._kept:
                self._kept.move_to_end(column)
                return self._kept[column]
            values = self._read(column, progress, cancel)
            if self.unit == LOG_COUNTS:
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = np.log1p(values / self._library(progress, cancel) * 1e4)
            self._kept[column] = values
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return values

    def spread(self) -> NDArray[np.float64]:
        """Variance of each column over the cells, as :meth:`column` shows it."""
        matrix = self._matrix
        if isinstance(matrix, np.ndarray):
            starts = range(0, matrix.shape[1], _BLOCK)
            parts = [self._shown(np.asarray(matrix[:, a : a + _BLOCK], dtype=np.float64)) for a in starts]
            dense: NDArray[np.float64] = np.nan_to_num(np.concatenate([part.var(axis=0) for part in parts]))
            return dense
        if hasattr(matrix, "indptr") and matrix.format == "csc" and not in_file(matrix):
            return self._spread_by_columns(matrix)
        n, genes = matrix.shape
        total, squares = np.zeros(genes), np.zeros(genes)
        sizes = self._library(None, None) if self.unit == LOG_COUNTS else None
        for start, block in self._blocks(None, None):
            values = block.data.astype(np.float64)
            if sizes is not None:
                own = np.repeat(sizes[start : start + block.shape[0]], np.diff(block.indptr))
                values = np.log1p(values / own * 1e4)
            # What is not stored is 0, so that it counts in the number of cells alone.
            total += np.bincount(block.indices, values, genes)
            squares += np.bincount(block.indices, values**2, genes)
        variance: NDArray[np.float64] = squares / n - (total / n) ** 2
        return variance

    def _spread_by_columns(self, matrix: Any) -> NDArray[np.float64]:
        n, genes = matrix.shape
        sizes = self._library(None, None) if self.unit == LOG_COUNTS else None
        found = np.zeros(genes)
        for start in range(0, genes, _BLOCK):
            block = matrix[:, start : start + _BLOCK]
            values = block.data.astype(np.float64)
            if sizes is not None:
                values = np.log1p(values / sizes[block.indices] * 1e4)
            gene = np.repeat(np.arange(block.shape[1]), np.diff(block.indptr))
            mean = np.bincount(gene, values, block.shape[1]) / n
            found[start : start + block.shape[1]] = np.bincount(gene, values**2, block.shape[1]) / n - mean**2
        return found

    # -------------------------------------------------------------------------------- reading

    def _shown(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.unit != LOG_COUNTS:
            return values
        shown: NDArray[np.float64] = np.log1p(values / self._library(None, None)[:, None] * 1e4)
        return shown

    def _read(self, column: int, progress: Progress | None, cancel: Event | None) -> NDArray[np.float64]:
        matrix = self._in_memory()
        if isinstance(matrix, np.ndarray):
            return np.asarray(matrix[:, column], dtype=np.float64)
        if hasattr(matrix, "indptr") and not in_file(matrix) and (matrix.format == "csc" or not _is_small(matrix)):
            return _dense(matrix[:, [column]])
        if hasattr(matrix, "indptr") and not in_file(matrix):
            self._matrix = matrix.tocsc()
            return _dense(self._matrix[:, [column]])
        if in_file(matrix) and matrix.format == "csc":
            return _dense(matrix[:, column : column + 1])
        found = np.zeros(matrix.shape[0])
        for start, block in self._blocks(progress, cancel):
            found[start : start + block.shape[0]] = _dense(block[:, [column]])
        return found

    def _in_memory(self) -> Any:
        """The matrix; of a sparse one in memory its pointers have been looked at, and it lies by rows or columns."""
        matrix = self._matrix
        if hasattr(matrix, "tocsr") and not in_file(matrix) and getattr(matrix, "format", "") not in ("csr", "csc"):
            self._matrix = matrix = matrix.tocsr()
        if hasattr(matrix, "indptr") and not in_file(matrix) and not getattr(self, "_sound", False):
            checked(matrix, "The matrix")
            self._sound = True
        return matrix

    def _library(self, progress: Progress | None, cancel: Event | None) -> NDArray[np.float64]:
        """Counts of each cell over all genes; at least 1."""
        if self._sizes is None:
            parts = [
                library_sizes(self._obs.iloc[start : start + block.shape[0]], block)
                for start, block in self._blocks(progress, cancel)
            ]
            self._sizes = np.maximum(np.concatenate(parts), 1.0)
        return self._sizes

    def _blocks(self, progress: Progress | None, cancel: Event | None) -> Iterator[tuple[int, csr_matrix]]:
        """Rows, some at a time, with the number of the first of them."""
        n = self._matrix.shape[0]
        step = max(1, _VALUES // self._per_cell)
        for start in range(0, n, step):
            if cancel is not None and cancel.is_set():
                message = "Stopped while the counts were read."
                raise Cancelled(message)
            yield start, self._rows(slice(start, min(start + step, n)))
            if progress is not None:
                progress(min(start + step, n), n)


def _is_small(matrix: Any) -> bool:
    """Whether a copy of a matrix takes little of what is free."""
    from scfm_lab.inference.hardware import GIB, Hardware

    need = matrix.data.nbytes + matrix.indices.nbytes
    return bool(need <= _SHARE * Hardware.detect().free_gib * GIB)


def _dense(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.todense() if hasattr(column, "todense") else column, dtype=np.float64).ravel()
