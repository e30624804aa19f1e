"""Columns that colour the cells: of ``obs``, of results, and the expression of any gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import CountsError, DataError, did_you_mean
from scfm_widgets.checks import has_groups
from scfm_widgets.codec import Column, pack_categories, pack_numbers

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.results import Result

#: Columns that people colour by and group by first, where they are there.
PREFERRED = ("cell_type", "celltype", "CellType", "cell_types", "labels", "label", "leiden", "louvain", "cluster")
#: A column of texts with more values than this share of the cells names cells and does not group them.
_TOO_MANY = 0.5

#: Genes whose variance is taken together.
_BLOCK = 1024

#: Before the name of an end of a trajectory: the probability of each cell to come there.
FATE = "fate:"
#: What else results say of each cell; see :meth:`Columns.of_result`.
RESULTS = ("shift", "error", "pseudotime", "twin", "branch", "shared")


class Columns:
    """The columns of one AnnData, packed when they are asked for.

    Parameters
    ----------
    adata
        Read, never changed.
    """

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata
        self._matrix: Any = None
        self._unit = ""
        self._sizes: NDArray[np.float64] | None = None

    def describe(self) -> list[dict[str, Any]]:
        """Columns of ``obs`` that can colour cells.

        Each with its name, its kind (``"category"`` or ``"number"``), and whether effects can be told for its groups.
        """
        found = []
        for name in self.adata.obs.columns:
            kind = self._kind(name)
            if kind:
                groups = kind == "category" and has_groups(self.adata, name)
                found.append({"name": str(name), "kind": kind, "groups": groups})
        return found

    def favourite(self) -> str | None:
        """The column of groups to begin with."""
        groups = [str(name) for name in self.adata.obs.columns if self._kind(name) == "category"]
        for name in PREFERRED:
            if name in groups:
                return name
        return groups[0] if groups else None

    def checked(self, colour: dict[str, Any]) -> dict[str, str]:
        """Refuse a colour that can never be; a result that says it may still come.

        Raises
        ------
        DataError
            In words.
        """
        by, name = colour.get("by"), colour.get("name")
        there: dict[Any, Any] = {"obs": self.adata.obs.columns, "gene": self.adata.var_names, "result": RESULTS}
        if by not in there or not isinstance(name, str) or len(colour) != 2:
            message = f"A colour is a name, or {{'by': 'obs', 'gene' or 'result', 'name': …}}; it was given as {dict(colour)!r}."
            raise DataError(message)
        if name not in there[by] and not (by == "result" and name.startswith(FATE)):
            place = {"obs": "obs has no column", "gene": "var_names has no gene", "result": "No result says"}[str(by)]
            message = f"{place} {name!r}.{did_you_mean(name, there[by])}"
            raise DataError(message)
        return {"by": str(by), "name": name}

    def of_obs(self, name: str) -> Column:
        """A column of ``obs``.

        Raises
        ------
        DataError
            There is no such column.
        """
        if name not in self.adata.obs:
            known = ", ".join(map(repr, self.adata.obs.columns[:12])) or "none"
            message = f"obs has no column {name!r}; there are: {known}.{did_you_mean(name, self.adata.obs.columns)}"
            raise DataError(message)
        values = self.adata.obs[name]
        if self._kind(name) == "number":
            return pack_numbers(values.to_numpy(dtype=float, na_value=np.nan), title=name)
        return pack_categories(values, title=name)

    def of_gene(self, name: str) -> Column:
        """Expression of a gene: log(1 + counts per 10,000), or the values of ``X`` where there are no raw counts.

        Raises
        ------
        DataError
            There is no such gene; the nearest names are told.
        """
        values = self.expression(name)
        return pack_numbers(values, title=name, low=0.0, unit=self._unit)

    def of_result(self, name: str, results: dict[str, Result]) -> Column:
        """What a result says of each cell.

        It is ``"shift"``, ``"error"``, ``"pseudotime"``, ``"twin"`` (pseudotime on principal components), ``"branch"``,
        ``"fate:<end>"`` or ``"shared"``.

        Raises
        ------
        DataError
            There is no such result yet.
        """
        import pandas as pd

        perturbed: Any = results.get("perturb")
        ordered: Any = results.get("trajectory")
        if perturbed is not None and name == "shift":
            return pack_numbers(perturbed.shift, title="How far each cell moved", scale="change", low=0.0)
        if perturbed is not None and name == "error":
            return pack_numbers(
                perturbed.layout.error, title="Projection error", scale="change", low=0.0, unit="in units of the layout"
            )
        if ordered is not None and name == "pseudotime":
            return pack_numbers(ordered.pseudotime, title="Pseudotime", scale="order", low=0.0)
        if ordered is not None and name == "branch":
            return pack_categories(pd.Series(ordered.branches), title="Branch")
        if ordered is not None and ordered.twin is not None and name == "twin":
            title = "Pseudotime on principal components"
            return pack_numbers(ordered.twin.pseudotime, title=title, scale="order", low=0.0)
        end = name.removeprefix(FATE)
        if ordered is not None and ordered.fates is not None and end != name and end in ordered.fates:
            values = ordered.fates[end].to_numpy(dtype=float)
            return pack_numbers(values, title=f"Probability of {end}", scale="change", low=0.0)
        compared: Any = results.get("compare")
        if compared is not None and name == "shared":
            return pack_numbers(compared.overlap, title="Neighbours that both models share", scale="order", low=0.0)
        message = f"There is no result yet that says {name!r} of each cell."
        raise DataError(message)

    def expression(self, name: str) -> NDArray[np.float64]:
        """Expression of a gene in each cell, as :meth:`of_gene` shows it."""
        matrix = self._genes()
        found = np.flatnonzero(self.adata.var_names == name)
        if len(found) == 0:
            message = f"There is no gene {name!r} in var_names.{did_you_mean(name, self.adata.var_names)}"
            raise DataError(message)
        column = matrix[:, [int(found[0])]]
        values = np.asarray(column.todense() if hasattr(column, "todense") else column, dtype=np.float64).ravel()
        if self._sizes is None:
            return values
        return np.log1p(values / self._sizes * 1e4)

    def spread(self) -> NDArray[np.float64]:
        """Variance of each gene over the cells as :meth:`of_gene` shows it, (genes,); some genes at a time."""
        matrix = self._genes()
        found = np.zeros(matrix.shape[1])
        for start in range(0, matrix.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            found[part] = self._spread_of(matrix[:, part])
        return found

    def _spread_of(self, block: Any) -> NDArray[np.float64]:
        n, genes = block.shape
        if not hasattr(block, "indptr"):
            values = np.asarray(block, dtype=np.float64)
            shown = values if self._sizes is None else np.log1p(values / self._sizes[:, None] * 1e4)
            dense: NDArray[np.float64] = np.nan_to_num(shown.var(axis=0))
            return dense
        values = block.data.astype(np.float64)
        if self._sizes is not None:
            values = np.log1p(values / self._sizes[block.indices] * 1e4)
        # What is not stored is 0, so that it counts in the number of cells alone.
        gene = np.repeat(np.arange(genes), np.diff(block.indptr))
        mean = np.bincount(gene, values, genes) / n
        variance: NDArray[np.float64] = np.bincount(gene, values**2, genes) / n - mean**2
        return variance

    def cell(self, row: int, colour: dict[str, str] | None, results: dict[str, Result]) -> dict[str, Any]:
        """Name of a cell, and its exact value of the colour and of the first groups."""
        fields: list[list[str]] = []
        if colour and colour.get("by") == "gene":
            fields.append([colour["name"], _shown(self.expression(colour["name"])[row])])
        elif colour and colour.get("by") == "obs" and colour["name"] in self.adata.obs:
            fields.append([colour["name"], _shown(self.adata.obs[colour["name"]].iloc[row])])
        groups = self.favourite()
        if groups is not None and (not colour or colour.get("name") != groups):
            fields.append([groups, _shown(self.adata.obs[groups].iloc[row])])
        perturbed: Any = results.get("perturb")
        if perturbed is not None:
            fields.append(["moved", _shown(perturbed.shift[row])])
        ordered: Any = results.get("trajectory")
        if ordered is not None:
            fields.append(["pseudotime", _shown(ordered.pseudotime[row])])
        return {"name": str(self.adata.obs_names[row]), "fields": fields}

    def _kind(self, name: str) -> str:
        import pandas as pd

        values = self.adata.obs[name]
        if isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(values):
            return "category"
        if pd.api.types.is_numeric_dtype(values):
            return "number"
        return "category" if values.nunique() <= max(20, _TOO_MANY * len(values)) else ""

    def _genes(self) -> Any:
        """The matrix by columns: raw counts where there are any, else ``X`` as it is."""
        if self._matrix is None:
            from scfm_lab.cells.cells import Cells

            try:
                cells = Cells.from_anndata(self.adata)
            except (CountsError, DataError):
                # Cells of which there are no raw counts can still be looked at; models will say what is missing.
                matrix, self._unit = self.adata.X, "values in X"
            else:
                matrix, self._unit = cells.counts, "log(1 + counts per 10,000)"
                self._sizes = np.maximum(cells.total, 1.0)
            self._matrix = matrix.tocsc() if hasattr(matrix, "tocsc") else np.asarray(matrix)
        return self._matrix


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if not np.isfinite(value) else f"{value:.3g}"
    return str(value)
