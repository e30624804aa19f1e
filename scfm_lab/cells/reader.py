"""Read the cells of an AnnData some at a time: where the counts lie and what the genes are is found once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import Cells, check_cell_names
from scfm_lab.cells.counts import TOTAL_COLUMN, CountsPlace, find_counts, library_sizes, read_csr, to_csr
from scfm_lab.cells.genes import Genes
from scfm_lab.cells.sound import checked, in_file, rows_of
from scfm_lab.cells.stored import StoredCells, file_behind, is_stored, open_view
from scfm_lab.errors import DataError, ScfmError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_PROBED = 1_000


@dataclass(frozen=True)
class CellReader:
    """Cells of an AnnData, read by rows: ``reader(slice(0, 1000))``."""

    place: CountsPlace
    genes: Genes
    obs: pd.DataFrame
    """The columns that are read: the library size, and what the model asked for."""
    fields: tuple[str, ...] = ()
    parent: Any = field(default=None, repr=False)
    """What was opened; a backed AnnData must outlive its matrix."""

    @classmethod
    def open(cls, adata: AnnData | StoredCells, *, layer: str | None = None, fields: Sequence[str] = ()) -> CellReader:
        """Find the raw counts of an AnnData and read the names of its genes.

        Parameters
        ----------
        adata
            In memory, backed, a view of a backed one, lazy (:func:`anndata.experimental.read_lazy`), with matrices
            that lie in HDF5 or Zarr (:func:`anndata.io.sparse_dataset`), or :class:`StoredCells`.
        layer
            Name of the layer that holds the counts, ``"X"`` or ``"raw"``; None looks for them.
        fields
            Columns of ``obs`` to carry along; those that are not there are left out.

        Raises
        ------
        CountsError, DataError, GenesError
            If there are no raw counts, no cells, or names are doubled.
        StorageError
            If the file behind the AnnData cannot be read.
        """
        return cls.locate(adata, lambda source: find_counts(source, layer), fields)

    @classmethod
    def locate(cls, adata: Any, find: Callable[[Any], CountsPlace], fields: Sequence[str]) -> Self:
        """A reader of the place that `find` gives, with some columns of ``obs``."""
        source = _source(adata)
        try:
            check_cell_names(source)
            place = find(source)
        except OSError as error:
            raise _unreadable(source, error) from error
        organism = source.uns.get("organism")
        genes = Genes.from_var(_frame(place.var), _organism_name(organism) if isinstance(organism, str) else None)
        wanted = [c for c in dict.fromkeys((TOTAL_COLUMN, *fields)) if c in source.obs]
        return cls(place, genes, _frame(source.obs[wanted]), tuple(c for c in fields if c in wanted), source)

    def __len__(self) -> int:
        return len(self.obs)

    def __call__(self, rows: slice | NDArray[Any] | None = None) -> Cells:
        """Some cells, checked.

        Raises
        ------
        CountsError, DataError
            If they are not raw counts.
        StorageError
            If the file cannot be read.
        """
        counts = to_csr(self.matrix(rows), where=self.place.where)
        obs = self.obs if rows is None else self.obs.iloc[rows]
        return self.cells(counts, library_sizes(obs, counts), rows)

    def matrix(self, rows: slice | NDArray[Any] | None = None) -> csr_matrix:
        """Some rows, values as they are.

        Raises
        ------
        StorageError
            If the file cannot be read.
        """
        try:
            # Single rows of a matrix by columns are picked, of a file while it is read: no copy of all is made for them.
            picked = isinstance(rows, np.ndarray) and self.by_columns and "_by_rows" not in self.__dict__
            matrix = self.place.matrix if rows is None or picked else self._by_rows
            return read_csr(matrix, rows, where=self.place.where)
        # HDF5 tells of a damaged chunk and of a file that was closed by other exceptions than the system's.
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, ScfmError) or not self.stored:
                raise
            raise _unreadable(self.parent, error) from error

    def cells(
        self, counts: csr_matrix, total: NDArray[np.float64], rows: slice | NDArray[Any] | None, **more: NDArray[Any]
    ) -> Cells:
        """Cells of these counts, with the names and fields of their rows; `more` fields are added."""
        obs = self.obs if rows is None else self.obs.iloc[rows]
        return Cells(
            counts=counts,
            genes=self.genes,
            total=total,
            names=np.asarray(obs.index.astype(str), dtype=object),
            fields={**{name: obs[name].to_numpy() for name in self.fields}, **more},
            where=self.place.where,
        )

    @property
    def stored(self) -> bool:
        """Whether the counts are read from a file."""
        return is_stored(self.place.matrix)

    @cached_property
    def path(self) -> Path | None:
        """The file or Zarr folder that the counts are read from; None for counts in memory."""
        return file_behind(self.place.matrix) if self.stored else None

    @property
    def by_columns(self) -> bool:
        """Whether the counts lie by columns (CSC), so that some rows cost a look at all of them."""
        return getattr(self.place.matrix, "format", None) == "csc"

    @cached_property
    def counts_per_cell(self) -> float:
        """Non-zero counts of a cell; where a file does not say how many it holds, of up to 1,000 spread over it."""
        matrix = self.place.matrix
        n = len(self)
        if in_file(matrix):
            return float(matrix.group["data"].shape[0] / max(n, 1))
        if not self.stored and hasattr(matrix, "nnz"):
            return float(matrix.nnz / max(n, 1))
        third = max(1, min(_PROBED, n) // 3)
        starts = {0, (n - third) // 2, n - third}
        nnz = [read_csr(matrix, slice(start, start + third)).nnz for start in starts]
        return float(sum(nnz) / (len(nnz) * third))

    @cached_property
    def turned_bytes(self) -> tuple[int, int]:
        """Bytes of the copy by rows that is kept once some rows of a matrix by columns were read, and what its making takes.

        0 of any other matrix, whose rows are read as they are.
        """
        matrix = self.place.matrix
        if not self.by_columns:
            return 0, 0
        parts = [matrix.group[name] if self.stored else getattr(matrix, name) for name in ("data", "indices", "indptr")]
        data, indices, pointers = parts
        copy = (
            data.shape[0] * (data.dtype.itemsize + indices.dtype.itemsize) + (len(self) + 1) * pointers.dtype.itemsize
        )
        # In a file, what lies there is read whole first.
        return int(copy), int(copy * (2 if self.stored else 1))

    @cached_property
    def _by_rows(self) -> Any:
        """The matrix in a form of which rows are read fast."""
        matrix = self.place.matrix
        if not self.by_columns:
            return matrix
        if not self.stored:
            return checked(matrix, self.place.where).tocsr()
        from scfm_lab.inference.hardware import GIB, Hardware

        need, free = self.turned_bytes[1] / GIB, Hardware.detect().free_gib
        if need > free:
            raise DataError(
                f"{self.place.where} is stored by columns (CSC): its rows can be read only with all of it in memory, which "
                f"takes {need:.1f} GiB of the {free:.1f} GiB free. Store it by rows first (CSR)."
            )
        return rows_of(matrix, None).tocsr()


def _source(adata: Any) -> Any:
    if getattr(adata, "isbacked", False) and adata.is_view:
        return open_view(adata)
    return adata


def _frame(table: Any) -> pd.DataFrame:
    """A data frame, also of what is read lazily."""
    return table.to_memory() if hasattr(table, "to_memory") else table


def _unreadable(source: Any, error: Exception) -> StorageError:
    name = getattr(source, "filename", None) or getattr(source, "path", None) or "behind this AnnData"
    why = (getattr(error, "strerror", None) or " ".join(str(error).split())).rstrip(".")[:300]
    return StorageError(f"The file {name} cannot be read any more ({why}); open the AnnData anew.")


def _organism_name(organism: str) -> str:
    known = {"homo sapiens": "human", "mus musculus": "mouse", "hsapiens": "human", "mmusculus": "mouse"}
    name = organism.strip().lower().replace("_", " ")
    return known.get(name, name)
