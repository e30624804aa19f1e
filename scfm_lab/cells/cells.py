"""Cells: validated raw counts with gene identifiers, the input of every model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, did_you_mean, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csc_matrix, csr_matrix

    from scfm_lab.cells.genes import Genes


@dataclass(frozen=True)
class Cells:
    """Raw counts of some cells.

    A perturbed copy of cells keeps the library sizes and the digests of the cells it was
    made from, and points to them by `baseline`: every random or rank-based choice of a
    tokeniser is then taken as for the unperturbed cell.
    """

    counts: csr_matrix
    """float32, cells × genes, sorted indices, no explicit zeros."""
    genes: Genes
    total: NDArray[np.float64]
    """Library size over all genes of the unperturbed cell."""
    names: NDArray[Any]
    fields: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Columns of ``obs`` that a model asked for (assay, species, …)."""
    baseline: Cells | None = None
    where: str = "X"
    """Where in the AnnData the counts were found."""

    @cached_property
    def gene_hashes(self) -> NDArray[np.uint64]:
        """Hash of each gene's name."""
        return self.genes.hashes

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """Digest of each cell's unperturbed counts."""
        from scfm_lab.cells.digest import cell_keys

        return self.baseline.keys if self.baseline is not None else cell_keys(self.counts, self.gene_hashes)

    @cached_property
    def by_gene(self) -> csc_matrix:
        """The counts by columns, for questions about single genes."""
        return self.counts.tocsc()

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        fields: Sequence[str] = (),
        rows: slice | NDArray[Any] | None = None,
    ) -> Cells:
        """Find, check and copy the raw counts of an AnnData, which is left as it is.

        Parameters
        ----------
        adata
            In memory or backed; counts in X, a layer or ``.raw``; dense, CSR or CSC.
        layer
            Name of the layer that holds the counts, ``"X"`` or ``"raw"``; None looks for them.
        fields
            Columns of ``obs`` to carry along; those that are not there are left out.
        rows
            Only these cells.

        Raises
        ------
        CountsError, DataError, GenesError
            If there are no raw counts, no cells, or names are doubled.
        """
        from scfm_lab.cells.reader import CellReader

        return CellReader.open(adata, layer=layer, fields=fields)(rows)

    @classmethod
    def chunks(cls, adata: AnnData, size: int, **kwargs: Any) -> Iterator[Cells]:
        """The cells of an AnnData, `size` at a time, in file order."""
        from scfm_lab.cells.reader import CellReader

        read = CellReader.open(adata, **kwargs)
        for start in range(0, len(read), size):
            yield read(slice(start, min(start + size, len(read))))

    def take(self, rows: NDArray[Any] | slice) -> Cells:
        """Some of the cells, in the order given."""
        taken = replace(
            self,
            counts=self.counts[rows],
            total=self.total[rows],
            names=self.names[rows],
            fields={name: values[rows] for name, values in self.fields.items()},
            baseline=None if self.baseline is None else self.baseline.take(rows),
        )
        if "keys" in self.__dict__:
            taken.__dict__["keys"] = self.keys[rows]
        return taken

    def with_counts(self, counts: csr_matrix) -> Cells:
        """A perturbed copy: other counts, everything else as in the unperturbed cell."""
        return replace(self, counts=counts, baseline=self.baseline or self)


def check_cell_names(adata: AnnData) -> None:
    """Refuse an AnnData in which a cell's name occurs twice.

    Raises
    ------
    DataError
        The first such name is told.
    """
    if not adata.obs_names.is_unique:
        doubled = adata.obs_names[adata.obs_names.duplicated()].unique()
        raise DataError(
            f"{plural(len(doubled), 'cell name occurs', 'cell names occur')} more than once in obs_names "
            f"(first: {str(doubled[0])!r}). Make them unique first: adata.obs_names_make_unique()."
        )


def subset(adata: AnnData, rows: NDArray[Any] | None = None) -> AnnData:
    """Some cells (None: all) as an AnnData of their own in memory; also of one that lies in a file, or of a view of it."""
    if not getattr(adata, "isbacked", False):
        return (adata if rows is None else adata[rows]).copy()
    # Of a view into a file no view can be made, only of what is in memory.
    if adata.is_view:
        adata = adata.to_memory()
        return adata if rows is None else adata[rows].copy()
    return (adata if rows is None else adata[rows]).to_memory()


def column_of(adata: AnnData, name: str, *, what: str = "The column", min_values: int = 1) -> Any:
    """A column of ``obs`` as a pandas Series, or a sentence that says what is missing.

    Raises
    ------
    DataError
        If the column is not there, has fewer than `min_values` values, or has NaN.
    """
    if name not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns[:12])) or "none"
        raise DataError(
            f"{what} {name!r} is not in obs; columns there: {known}." + did_you_mean(name, adata.obs.columns)
        )
    column = adata.obs[name]
    missing = int(column.isna().sum())
    if missing:
        raise DataError(
            f"{what} {name!r} has no value in {missing:,} of {len(column):,} cells; fill or drop those cells first."
        )
    if column.nunique() < min_values:
        raise DataError(
            f"{what} {name!r} has one value only ({str(column.iloc[0])!r}); "
            f"at least {min_values} are needed to compare anything."
        )
    return column


#: Most groups for which effects or losses are told, and most values of a column of decimals that still are groups.
MOST_GROUPS = 200
#: How the row of all cells together is called in a table of groups.
ALL = "all"
_MOST_NUMBERS = 50


def group_column(adata: AnnData, name: str, *, min_values: int = 1) -> Any:
    """A column of ``obs`` whose values are groups of cells, as a pandas Series.

    Raises
    ------
    DataError
        As for :func:`column_of`; also if it holds measurements (decimals with more than 50 values) or more than 200 groups.
    """
    import pandas as pd

    column = column_of(adata, name, what="The group column", min_values=min_values)
    n = column.nunique()
    if pd.api.types.is_float_dtype(column) and n > _MOST_NUMBERS:
        raise DataError(
            f"The group column {name!r} holds numbers ({n:,} different ones) and not groups; name a column of labels, or "
            "cut it into classes first (pandas.cut)."
        )
    if n > MOST_GROUPS:
        raise DataError(
            f"The group column {name!r} has {n:,} groups; at most {MOST_GROUPS} can be told apart. Name a coarser column."
        )
    return column


def refuse_all(groups: NDArray[Any], where: str) -> None:
    """Refuse groups one of which would stand in the table under the name of all cells together.

    Raises
    ------
    DataError
        There is one.
    """
    if (groups == ALL).any():
        raise DataError(
            f"{int((groups == ALL).sum()):,} cells are in a group called {ALL!r} in {where}, and so is the row of all cells "
            "together called in the table; rename that group first."
        )
