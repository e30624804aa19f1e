"""Columns that colour the cells: of ``obs``, of results, and the expression of any gene."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, GenesError, ScfmError, did_you_mean
from scfm_widgets.checks import genes_of, why_no_groups
from scfm_widgets.codec import Column, pack_categories, pack_numbers
from scfm_widgets.gene_matrix import AS_IT_IS, GeneMatrix

if TYPE_CHECKING:
    from threading import Event

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes
    from scfm_lab.results import Result
    from scfm_widgets.gene_matrix import Progress

#: Columns that people colour by and group by first, where they are there.
PREFERRED = ("cell_type", "celltype", "CellType", "cell_types", "labels", "label", "leiden", "louvain", "cluster")
#: A column of texts with more values than this share of the cells names cells and does not group them.
_TOO_MANY = 0.5

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
        self._matrix: GeneMatrix | None = None
        self._opening = threading.Lock()

    def forget(self) -> None:
        """Read genes and counts anew: they are others than before."""
        # One that is being opened is of before, too.
        with self._opening:
            for name in ("genes", "names", "labels", "_known"):
                self.__dict__.pop(name, None)
            self._matrix = None

    @cached_property
    def genes(self) -> Genes:
        """Names, symbols and Ensembl ids of the genes of the raw counts."""
        return genes_of(self.adata)

    @cached_property
    def names(self) -> list[str]:
        """Genes that can be looked at: those of the raw counts (of ``.raw``, where they lie there), then what else X has."""
        own = [str(name) for name in self.adata.var_names]
        try:
            counted = [str(name) for name in self.genes.names]
        except GenesError:
            # A name that occurs twice is told where a gene is asked for.
            return own
        known = set(counted)
        return [*counted, *(name for name in own if name not in known)]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Symbols of the genes whose names are Ensembl ids; with the id, where several share one."""
        from scfm_lab.cells.genes import strip_version

        try:
            genes = self.genes
        except GenesError:
            return {}
        shared = Counter(map(str, genes.symbols))
        return {
            str(name): str(symbol) if shared[str(symbol)] == 1 else f"{symbol} ({name})"
            for name, symbol, ensembl in zip(genes.names, genes.symbols, genes.ensembl, strict=True)
            if symbol and ensembl and strip_version(str(name)) == ensembl
        }

    def gene(self, name: str) -> str | None:
        """Name of the gene that is called so by its name, symbol or Ensembl id; ``None`` where none is.

        Raises
        ------
        GenesError
            Several are.
        """
        if name in self._known:
            return name
        genes = self.genes
        try:
            return str(genes.names[genes.find(name)])
        except GenesError:
            if name in genes.index:
                raise
            return None

    def require_gene(self, name: str) -> str:
        """As :meth:`gene`, and refuse what no gene is called.

        Raises
        ------
        DataError
            The nearest names are told.
        GenesError
            Several are called so.
        """
        found = self.gene(name)
        if found is None:
            message = f"There is no gene {name!r} in these cells.{self.near(name)}"
            raise DataError(message)
        return found

    def near(self, name: str, *others: str) -> str:
        """What somebody may have meant: genes by name or symbol, and `others`."""
        return did_you_mean(name, [*others, *self.names, *self.labels.values()])

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def describe(self) -> list[dict[str, Any]]:
        """Columns of ``obs`` that can colour cells.

        Each with its name, its kind (``"category"`` or ``"number"``), and whether effects can be told for its groups; of
        labels for which they cannot, also why.
        """
        found = []
        for name in self.adata.obs.columns:
            kind = self._kind(name)
            if kind:
                why = why_no_groups(self.adata, name) if kind == "category" else ""
                told = {"name": str(name), "kind": kind, "groups": kind == "category" and not why}
                found.append(told | {"why": why} if why else told)
        return found

    def favourite(self) -> str | None:
        """The column of groups to begin with."""
        groups = [str(name) for name in self.adata.obs.columns if self._kind(name) == "category"]
        for name in PREFERRED:
            if name in groups:
                return name
        return groups[0] if groups else None

    def order(self, name: str | None) -> list[str]:
        """Groups of a column as its legend has them; none of texts, which are sorted there as everywhere."""
        import pandas as pd

        values = None if name is None else self.adata.obs.get(name)
        if values is None or getattr(values, "ndim", 1) != 1:
            return []
        if isinstance(values.dtype, pd.CategoricalDtype):
            return [str(group) for group in values.cat.categories]
        return [str(group) for group in np.unique(values)] if pd.api.types.is_numeric_dtype(values) else []

    def checked(self, colour: dict[str, Any]) -> dict[str, str]:
        """Refuse a colour that can never be; a result that says it may still come.

        Raises
        ------
        DataError
            In words.
        """
        by, name = colour.get("by"), colour.get("name")
        there: dict[Any, Any] = {"obs": self.adata.obs.columns, "gene": (), "result": RESULTS}
        if by not in there or not isinstance(name, str) or len(colour) != 2:
            message = f"A colour is a name, or {{'by': 'obs', 'gene' or 'result', 'name': …}}; it was given as {dict(colour)!r}."
            raise DataError(message)
        if by == "gene":
            return {"by": "gene", "name": self.require_gene(name)}
        if name not in there[by] and not (by == "result" and name.startswith(FATE)):
            place = {"obs": "obs has no column", "result": "No result says"}[str(by)]
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
        values, kind = self.adata.obs[name], self._kind(name)
        if kind == "number":
            return pack_numbers(values.to_numpy(dtype=float, na_value=np.nan), title=name)
        if not kind and not is_texts(values):
            message = f"obs[{name!r}] holds neither numbers nor groups, so it colours no cells."
            raise DataError(message)
        return pack_categories(values, title=name)

    def of_gene(self, name: str, *, progress: Progress | None = None, cancel: Event | None = None) -> Column:
        """Expression of a gene: log(1 + counts per 10,000), or the values of ``X`` where there are no raw counts.

        Parameters
        ----------
        progress, cancel
            Of a job: to read a gene out of a large file takes time.

        Raises
        ------
        DataError
            There is no such gene; the nearest names are told.
        Cancelled
            `cancel` was set.
        """
        name = self.require_gene(name)
        values = self.expression(name, progress=progress, cancel=cancel)
        return pack_numbers(values, title=self.labels.get(name, name), low=0.0, unit=self.unit(name))

    def unit(self, name: str) -> str:
        """Of the expression of a gene, as :meth:`of_gene` shows it."""
        matrix = self._genes()
        return matrix.unit if self.require_gene(name) in matrix.place else AS_IT_IS

    def of_result(self, name: str, results: dict[str, Result]) -> Column:
        """What a result says of each cell.

        It is ``"shift"``, ``"error"``, ``"pseudotime"``, ``"twin"`` (pseudotime on principal components), ``"branch"``,
        ``"fate:<end>"`` or ``"shared"``.

        Raises
        ------
        DataError
            There is no such result yet.
        """
        values, title, more = self._result(name, results)
        if "kind" in more:
            return pack_categories(values, title=title)
        return pack_numbers(values, title=title, low=0.0, **more)

    def _result(self, name: str, results: dict[str, Result]) -> tuple[Any, str, dict[str, str]]:
        """Values by cell, what they are in words, and how they are packed."""
        import pandas as pd

        perturbed: Any = results.get("perturb")
        ordered: Any = results.get("trajectory")
        compared: Any = results.get("compare")
        if perturbed is not None and name == "shift":
            return perturbed.shift, "How far each cell moved", {"scale": "change"}
        if perturbed is not None and name == "error":
            how = {"scale": "change", "unit": "in units of the layout"}
            return perturbed.layout.error, "Projection error", how
        if ordered is not None and name == "pseudotime":
            return ordered.pseudotime, "Pseudotime", {"scale": "order"}
        if ordered is not None and name == "branch":
            return pd.Series(ordered.branches), "Branch", {"kind": "category"}
        if ordered is not None and ordered.twin is not None and name == "twin":
            return ordered.twin.pseudotime, "Pseudotime on principal components", {"scale": "order"}
        end = name.removeprefix(FATE)
        if ordered is not None and ordered.fates is not None and end != name and end in ordered.fates:
            return ordered.fates[end].to_numpy(dtype=float), f"Probability of {end}", {"scale": "change"}
        if compared is not None and name == "shared":
            return compared.overlap, "Neighbours that both models share", {"scale": "order"}
        message = f"There is no result yet that says {name!r} of each cell."
        raise DataError(message)

    def at_hand(self, name: str) -> bool:
        """Whether the expression of a gene is there, or is read in no time."""
        matrix = self._matrix
        return matrix is not None and name in matrix.place and matrix.at_hand(matrix.place[name])

    def expression(
        self, name: str, *, progress: Progress | None = None, cancel: Event | None = None
    ) -> NDArray[np.float64]:
        """Expression of a gene in each cell, as :meth:`of_gene` shows it."""
        matrix = self._genes()
        name = self.require_gene(name)
        if name not in matrix.place:
            values = self.adata.X[:, int(np.flatnonzero(self.adata.var_names == name)[0])]
            return np.asarray(values.todense() if hasattr(values, "todense") else values, dtype=np.float64).ravel()
        return matrix.column(matrix.place[name], progress=progress, cancel=cancel)

    def spread(self) -> NDArray[np.float64]:
        """Variance of each of :attr:`names` over the cells as :meth:`of_gene` shows it; 0 for what has no counts."""
        matrix = self._genes()
        found = matrix.spread()
        return np.array([found[matrix.place[name]] if name in matrix.place else 0.0 for name in self.names])

    def cell(self, row: int, colour: dict[str, str] | None, results: dict[str, Result]) -> dict[str, Any]:
        """Name of a cell, and its exact value of the colour and of the first groups."""
        fields: list[list[str]] = []
        # What cannot be had any more (a column was taken away, a perturbation was undone) is not told.
        with contextlib.suppress(ScfmError):
            fields += self._coloured(row, colour, results)
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

    def _coloured(self, row: int, colour: dict[str, str] | None, results: dict[str, Result]) -> list[list[str]]:
        """The value that colours a cell, with what it is; none where :meth:`cell` tells it anyway."""
        by, name = (colour.get("by"), colour["name"]) if colour else (None, "")
        if by == "gene":
            name = self.require_gene(name)
            if not self.at_hand(name):
                return []
            return [[self.labels.get(name, name), _shown(self.expression(name)[row])]]
        if by == "obs" and name in self.adata.obs:
            return [[name, _shown(self.adata.obs[name].iloc[row])]]
        if by == "result" and name not in ("shift", "pseudotime"):
            values, title, _ = self._result(name, results)
            return [[title, _shown(np.asarray(values)[row])]]
        return []

    def _kind(self, name: Any) -> str:
        """``"category"``, ``"number"``, or nothing for what colours no cells: names, lists, a name that two columns share."""
        import pandas as pd

        values = self.adata.obs[name]
        if getattr(values, "ndim", 1) != 1:
            return ""
        if isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(values):
            return "category"
        if pd.api.types.is_complex_dtype(values):
            return ""
        if pd.api.types.is_numeric_dtype(values):
            return "number"
        try:
            return "category" if values.nunique() <= max(20, _TOO_MANY * len(values)) else ""
        # Values that are no texts: lists, dictionaries, arrays.
        except TypeError:
            return ""

    def _genes(self) -> GeneMatrix:
        """The expression of all genes, to be read gene by gene."""
        with self._opening:
            if self._matrix is None:
                self._matrix = GeneMatrix(self.adata)
                if self._matrix.unit == AS_IT_IS:
                    self.names = [str(name) for name in self.adata.var_names]
                    self.__dict__.pop("_known", None)
            return self._matrix


def is_texts(values: Any) -> bool:
    """Whether a column holds one text, or one other plain value, per cell."""
    if getattr(values, "ndim", 1) != 1:
        return False
    try:
        values.nunique()
    except TypeError:
        return False
    return not np.iscomplexobj(values)


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if not np.isfinite(value) else f"{value:.3g}"
    return str(value)
