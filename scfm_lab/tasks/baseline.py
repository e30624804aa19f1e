"""Cells and a model made ready once, to be asked many questions about doses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import audit_cells
from scfm_lab.cells.cells import Cells, column_of, group_column, refuse_all
from scfm_lab.cells.dose import check_dose, check_level
from scfm_lab.errors import DataError, GenesError, did_you_mean
from scfm_lab.tasks.not_read import not_read
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Match
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens


class Baseline:
    """Unperturbed cells with their vectors, and what may be asked of them.

    Parameters
    ----------
    adata, model, groupby, sample_key, layer, options, seed, progress, cancel
        As for :func:`scfm_lab.perturb`.
    cache
        Whether vectors that were computed before are taken, and those that are computed kept.
    tabled
        Whether there will be tables of the groups, which have a row of all cells: a group of that name is then refused.
    """

    def __init__(
        self,
        adata: AnnData,
        model: Model | str | Path,
        *,
        groupby: str | None = None,
        sample_key: str | None = None,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        cache: bool = False,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
        tabled: bool = True,
    ) -> None:
        from scfm_lab.models.load import as_model
        from scfm_lab.tasks.known_vectors import KnownVectors

        self.model = as_model(model)
        self.model.require("perturb")
        self.model.require_independence(options)
        self.groups = groups_of(adata, groupby, tabled=tabled)
        self.samples = None if sample_key is None else _texts(column_of(adata, sample_key, what="The sample column"))
        self.groupby, self.sample_key = groupby, sample_key
        self.options, self.seed, self.layer = dict(options or {}), seed, layer
        self.arguments = provenance.arguments(
            groupby=groupby, sample_key=sample_key, layer=layer, options=self.options, seed=seed
        )
        self.cells = Cells.from_anndata(adata, layer=layer, fields=self.model.fields)
        self.match = self.model.known_genes(self.cells.genes, self.options)
        self.audit = audit_cells(self.cells, self.match, self.model, options=self.options)
        self.known = np.zeros(len(self.cells.genes), dtype=bool)
        self.known[self.match.columns] = True
        self.summed = _summed_columns(self.match, self.cells)
        self.kept = KnownVectors.of(self.model, self.options, seed, self.cells.genes) if cache else None
        with as_progress(progress, f"Cells before, with {self.model.spec.name}") as report:
            self.baseline = self._first(report, cancel)
        self.n_first_from_cache = self.n_from_cache
        """Of the unperturbed cells how many were not computed: what every answer has in common."""
        self.seen = np.asarray(np.isfinite(self.baseline).all(axis=1))
        """Cells in which the model sees a gene."""

    def _first(self, report: Callable[..., None] | None, cancel: Any) -> NDArray[np.float32]:
        """Vectors of the cells as they are; what of them is not read is kept for the records."""
        self.not_read: dict[str, Any] = {}
        if len(self.cells) == 0:
            return self.vectors(self.cells)
        tokens = self.model.tokenize(self.cells, options=self.options, seed=self.seed)
        self.not_read = not_read(tokens.cell, self.cells, self.match)
        return self.vectors(self.cells, tokens=tokens, progress=report, cancel=cancel)

    def vectors(
        self,
        cells: Cells,
        *,
        tokens: Tokens | None = None,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """Vectors of cells or of perturbed copies, (cells, width), in the model's own precision; what is kept is not computed.

        Parameters
        ----------
        tokens
            Those of the cells, where they were made for something else.
        """

        def made(rows: NDArray[np.int64] | None) -> Tokens:
            if tokens is not None:
                return tokens if rows is None else tokens.take(rows)
            some = cells if rows is None else cells.take(rows)
            return self.model.tokenize(some, options=self.options, seed=self.seed)

        if len(cells) == 0:
            return np.empty((0, self.model.spec.width), np.float32)
        if self.kept is None:
            return self.model.encode(made(None), progress=progress, cancel=cancel).cell
        return self.kept.vectors(self.model, cells, made, progress=progress, cancel=cancel)

    @property
    def n_from_cache(self) -> int:
        """Vectors that were not computed, so far."""
        return 0 if self.kept is None else self.kept.n_known

    def resolve(
        self, doses: Mapping[str, float], set_to: Mapping[str, float] | None
    ) -> tuple[dict[int, float], dict[int, float], dict[int, str]]:
        """Columns with their doses, columns with their levels, and the names by which they were asked for.

        Raises
        ------
        GenesError
            If a gene is not there, unknown to the model, named twice, or only part of what the model takes for a gene.
        """
        if not doses and not set_to:
            raise DataError("No gene was named; give doses such as {'CD3D': 0.0}.")
        names: dict[int, str] = {}

        def columns(values: Mapping[str, float], what: str) -> dict[int, float]:
            found = {}
            for gene, value in values.items():
                column = self.cells.genes.find(gene)
                if column in names:
                    raise GenesError(f"{gene!r} and {names[column]!r} are the same gene; name it once.")
                if not self.known[column]:
                    raise GenesError(
                        f"{self.model.spec.name} does not know {gene!r}, so changing it would change nothing."
                        + did_you_mean(gene, self.cells.genes.names[self.known])
                    )
                names[column] = str(gene)
                found[column] = check_dose(gene, value) if what == "dose" else check_level(gene, value)
            return found

        found = columns(doses, "dose"), columns(set_to or {}, "level"), names
        for column, gene in names.items():
            others = [str(self.cells.genes.names[i]) for i in self.summed.get(column, ()) if i not in names]
            if others:
                raise GenesError(
                    f"{self.model.spec.name} sums the columns of {gene!r} and {', '.join(map(repr, others))} into one gene, so "
                    f"that changing {gene!r} alone would change part of it; give {'both' if len(others) == 1 else 'all'} a dose."
                )
        return found


def _summed_columns(match: Match, cells: Cells) -> dict[int, list[int]]:
    """Other columns with counts that the model sums into the same gene, for each column that has such."""
    seen = np.asarray(cells.counts.sum(axis=0)).ravel() > 0
    by_id: dict[int, list[int]] = {}
    for column, gene in zip(match.columns.tolist(), match.ids.tolist(), strict=True):
        by_id.setdefault(gene, []).append(column)
    return {
        column: others
        for columns in by_id.values()
        if len(columns) > 1
        for column in columns
        if (others := [c for c in columns if c != column and seen[c]])
    }


def groups_of(adata: AnnData, key: str | None, *, tabled: bool = True) -> NDArray[Any] | None:
    """The group of each cell as text; None where no column is named.

    Raises
    ------
    DataError
        As for :func:`~scfm_lab.cells.cells.group_column`; also if a group is called as the row of all cells is, where they are
        `tabled`.
    """
    if key is None:
        return None
    groups = _texts(group_column(adata, key))
    if tabled:
        refuse_all(groups, f"obs[{key!r}]")
    return groups


def _texts(column: Any) -> NDArray[Any]:
    texts: NDArray[Any] = column.astype(str).to_numpy(dtype=object)
    return texts


def labels_of(adata: AnnData, key: str, *, what: str = "The label column") -> NDArray[Any]:
    """A column of labels as text."""
    return _texts(column_of(adata, key, what=what))
