"""What a model expects of cells in which some genes are at another dose."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import audit_cells
from scfm_lab.cells.cells import Cells, column_of, group_column
from scfm_lab.cells.dose import check_dose, check_doses, check_level, is_random, perturb_counts
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, GenesError, did_you_mean
from scfm_lab.evaluation.nulls import NO_NULL, benjamini_hochberg, check_n_null
from scfm_lab.tasks.gene_null import gene_null
from scfm_lab.tasks.layout import Layout, Projector, find_plane
from scfm_lab.tasks.perturb_result import PerturbResult, effect_table
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Match
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import States

MIN_CHANGED = 10
"""Fewer changed cells in a group are not tested: their mean says little."""


def perturb(
    adata: AnnData,
    model: Model | str | Path,
    doses: Mapping[str, float] | None = None,
    *,
    groupby: str | None = None,
    sample_key: str | None = None,
    set_to: Mapping[str, float] | None = None,
    n_draws: int = 8,
    null: bool = True,
    n_null: int = 50,
    layer: str | None = None,
    basis: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> PerturbResult:
    """Change the doses of genes and measure how far the model moves the cells.

    Parameters
    ----------
    adata
        With raw counts; nothing in it is changed.
    model
        An opened model or a source for :func:`scfm_lab.load_model`.
    doses
        Gene → dose: 0 knockout, 1 unchanged, between them binomial thinning of the counts,
        above 1 Poisson counts at the group's rate are added. Several genes are changed
        together.
    groupby
        Column of ``obs``: effects and nulls are told for each of its values too, and its
        groups give the rates of over-expression.
    sample_key
        Column of ``obs`` with the donor or sample, the unit of replication: adds an interval
        over samples.
    set_to
        Gene → absolute level in counts per 10,000, for genes that are silent.
    n_draws
        Draws over which a dose other than 0 or 1 is averaged.
    null
        Whether to compute the null of comparable genes.
    n_null
        Most null genes for each group; at least 19, as fewer cannot give a p of 0.05.
    basis
        Key in ``obsm`` of the plane for ``result.layout``; None takes ``X_umap``, else the
        principal components of the model's vectors.
    seed
        Seed of the draws (common random numbers: the same for every dose).

    Returns
    -------
    PerturbResult

    Raises
    ------
    GenesError
        If a gene is not in the AnnData (the nearest names are told), not known to the model, or
        one of several columns that the model sums, of which others are not named.
    DataError
        If a dose is negative or above 1,000, a column is missing or holds no groups, or `n_null` is below 19.
    Cancelled
        If `cancel` was set.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> result = sl.perturb(adata, "pca", {"CD3D": 0.0}, null=False, progress=False)
    >>> bool(result.changed.sum() == (adata[:, "CD3D"].X > 0).sum())
    True
    """
    check_given(adata, model, function="sl.perturb")
    check_doses(doses, set_to)
    if null:
        check_n_null(n_null)
    lab = Perturber(
        adata,
        model,
        groupby=groupby,
        sample_key=sample_key,
        layer=layer,
        basis=basis,
        options=options,
        seed=seed,
        progress=progress,
        cancel=cancel,
    )
    result = lab.run(doses or {}, set_to=set_to, n_draws=n_draws, cancel=cancel)
    if null:
        result = lab.with_null(result, n_null=n_null, progress=progress, cancel=cancel)
    return result


class Perturber:
    """Cells and a model made ready once, to be perturbed many times.

    The unperturbed cells are encoded here; each :meth:`run` then computes only the cells that
    change, and :meth:`with_null` adds the null to a result.

    Parameters are those of :func:`perturb`.
    """

    def __init__(
        self,
        adata: AnnData,
        model: Model | str | Path,
        *,
        groupby: str | None = None,
        sample_key: str | None = None,
        layer: str | None = None,
        basis: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
    ) -> None:
        from scfm_lab.models.load import as_model

        self.model = as_model(model)
        self.model.require("perturb")
        self.groups = _groups(adata, groupby)
        self.samples = None if sample_key is None else _texts(column_of(adata, sample_key, what="The sample column"))
        self.groupby, self.options, self.seed = groupby, dict(options or {}), seed
        self.cells = Cells.from_anndata(adata, layer=layer, fields=self.model.fields)
        match = self.model.known_genes(self.cells.genes, self.options)
        self.audit = audit_cells(self.cells, match, self.model.spec.name)
        self.known = np.zeros(len(self.cells.genes), dtype=bool)
        self.known[match.columns] = True
        self.summed = _summed_columns(match, self.cells)
        with as_progress(progress, f"Cells before, with {self.model.spec.name}") as report:
            self.baseline = self._encode(self.cells, progress=report, cancel=cancel).cell
        plane, name = find_plane(adata, self.baseline, basis)
        self.projector = Projector(self.baseline, plane, basis=name)

    def run(
        self,
        doses: Mapping[str, float],
        *,
        set_to: Mapping[str, float] | None = None,
        n_draws: int = 8,
        cancel: Any = None,
    ) -> PerturbResult:
        """The exact effect of a perturbation, without its null."""
        check_doses(doses, set_to)
        started = time.perf_counter()
        by_column, levels, names = self._resolve(doses, set_to)
        if n_draws < 1:
            raise DataError(f"n_draws is {n_draws}; at least one draw is needed.")
        random = is_random(by_column) or bool(levels)
        draws = n_draws if random else 1
        rows, perturbed, shift = self.effects(by_column, levels, draws=draws, cancel=cancel)
        after = self.baseline.copy()
        after[rows] = perturbed
        shifts = np.where(np.isfinite(self.baseline).all(axis=1), 0.0, np.nan).astype(np.float32)
        shifts[rows] = shift
        changed = np.zeros(len(self.cells), dtype=bool)
        changed[rows] = True
        columns = np.array(sorted({*by_column, *levels}), dtype=np.int64)
        expressing = np.asarray((self.cells.counts[:, columns] > 0).sum(axis=1)).ravel() > 0
        label = "+".join(names[c] for c in columns)
        table = effect_table(label, shifts, expressing, self.groups, self.samples)
        record = provenance.of_model(
            self.model,
            task="perturb",
            doses={names[c]: d for c, d in by_column.items()},
            set_to={names[c]: d for c, d in levels.items()},
            draws=draws,
            seed=self.seed,
            groupby=self.groupby,
            options=self.model.check_options(self.options),
            **self.audit.as_provenance(),
            seconds=time.perf_counter() - started,
        )
        return PerturbResult(
            gene=label,
            doses={names[c]: d for c, d in by_column.items()},
            set_to={names[c]: d for c, d in levels.items()},
            table=table,
            baseline=self.baseline,
            perturbed=after,
            shift=shifts,
            changed=changed,
            layout=self._layout(after, rows),
            groups=self.groups,
            provenance=record,
        )

    def with_null(
        self,
        result: PerturbResult,
        *,
        n_null: int = 50,
        max_cells: int = 200,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
    ) -> PerturbResult:
        """The result with its null: the same doses given to comparable genes.

        Parameters
        ----------
        n_null
            Most null genes for each group; at least 19.
        max_cells
            Most cells of a group on which nulls are computed (chosen by their digests);
            the gene itself is then tested on the same cells.
        """
        check_n_null(n_null)
        by_column, levels, _ = self._resolve(result.doses, result.set_to)
        table = result.table.copy()
        few = set(table["group"][table["n_changed"] < MIN_CHANGED])
        tests = gene_null(
            self,
            by_column,
            levels,
            result.shift,
            n_null=n_null,
            max_cells=max_cells,
            skip=few,
            progress=progress,
            cancel=cancel,
        )
        tests |= dict.fromkeys(few, NO_NULL)
        for name in ("p_value", "null_mean", "null_sd", "null_low", "null_high", "n_null"):
            table[name] = [getattr(tests[group], name) for group in table["group"]]
        # The groups are one family of tests; all cells together are a question of its own.
        p = table["p_value"].to_numpy(dtype=float)
        table["q_value"] = np.concatenate([p[:1], benjamini_hochberg(p[1:])])
        table["verdict"] = [_verdict(row) for row in table.itertuples()]
        return replace(result, table=table, has_null=True)

    def regrouped(self, adata: AnnData, *, groupby: str | None, basis: str | None) -> Perturber:
        """The same cells and model with other groups or another plane; nothing is encoded again.

        Parameters
        ----------
        adata
            The one this was made from.
        groupby, basis
            As for :func:`perturb`.
        """
        other = copy(self)
        other.groups, other.groupby = _groups(adata, groupby), groupby
        plane, name = find_plane(adata, self.baseline, basis)
        other.projector = Projector(self.baseline, plane, basis=name)
        return other

    # --- the inner steps, which the null uses too ----------------------------------------

    def effects(
        self,
        doses: Mapping[int, float],
        set_to: Mapping[int, float],
        *,
        draws: int = 1,
        rows: NDArray[np.int64] | None = None,
        cancel: Any = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Rows that change, their mean new vectors, and their mean shift over the draws.

        The shift is the Euclidean distance between a cell's vectors before and after; it is
        averaged over draws after taking the distance, so that its expectation does not
        depend on how many draws are taken.
        """
        parts = [self.perturbed(doses, set_to, draw=d, rows=rows) for d in range(draws)]
        states = self.encode_many([cells for _, cells in parts], cancel=cancel)
        touched = np.unique(np.concatenate([r for r, _ in parts])) if parts else np.empty(0, np.int64)
        place = np.full(len(self.cells), -1)
        place[touched] = np.arange(len(touched))
        before = self.baseline[touched]
        total = np.zeros((len(touched), self.baseline.shape[1]), dtype=np.float64)
        shift = np.zeros(len(touched))
        for (changed, _), vectors in zip(parts, states, strict=True):
            at = place[changed]
            delta = vectors - self.baseline[changed]
            total[at] += delta
            shift[at] += np.linalg.norm(delta, axis=1)
        return touched, (before + total / draws).astype(np.float32), (shift / draws).astype(np.float32)

    def perturbed(
        self,
        doses: Mapping[int, float],
        set_to: Mapping[int, float],
        *,
        draw: int,
        rows: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], Cells]:
        """Rows whose counts change at one draw, and those cells perturbed."""
        codes = None if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        cells = perturb_counts(self.cells, doses, groups=codes, set_to=set_to, seed=self.seed, draw=draw)
        columns = np.array(sorted({*doses, *set_to}), dtype=np.int64)
        difference = (cells.counts[:, columns] != self.cells.counts[:, columns]).tocsr()
        changed = np.flatnonzero(np.diff(difference.indptr))
        if rows is not None:
            changed = np.intersect1d(changed, rows)
        # A cell that the model cannot see before has no effect to measure.
        changed = changed[np.isfinite(self.baseline[changed]).all(axis=1)]
        return changed, cells.take(changed)

    def encode_many(self, parts: list[Cells], *, cancel: Any = None) -> list[NDArray[np.float32]]:
        """Vectors of several sets of cells."""
        return [self._encode(part, cancel=cancel).cell for part in parts]

    def _encode(self, cells: Cells, *, progress: Callable[..., None] | None = None, cancel: Any = None) -> States:
        if len(cells) == 0:
            from scfm_lab.models.tokens import States

            return States(np.empty((0, self.model.spec.width), np.float32))
        tokens = self.model.tokenize(cells, options=self.options, seed=self.seed)
        return self.model.encode(tokens, progress=progress, cancel=cancel)

    def _layout(self, after: NDArray[np.float32], rows: NDArray[np.int64]) -> Layout:
        return self.projector.move(after[rows], rows)

    def _resolve(
        self, doses: Mapping[str, float], set_to: Mapping[str, float] | None
    ) -> tuple[dict[int, float], dict[int, float], dict[int, str]]:
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


def _groups(adata: AnnData, key: str | None) -> NDArray[Any] | None:
    return None if key is None else _texts(group_column(adata, key))


def _texts(column: Any) -> NDArray[Any]:
    texts: NDArray[Any] = column.astype(str).to_numpy(dtype=object)
    return texts


def _verdict(row: Any) -> str:
    if row.n_cells and not row.n_changed:
        return "nothing changes"
    if row.n_changed < MIN_CHANGED:
        return "too few cells to test"
    if not np.isfinite(row.p_value):
        return "no valid null"
    if row.p_value <= 0.05:
        return "stronger than comparable genes"
    return "not distinguishable from comparable genes"
