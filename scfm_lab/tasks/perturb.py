"""What a model expects of cells in which some genes are at another dose."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.dose import changed_counts, check_doses, check_draws, count_changes, is_random
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.evaluation.nulls import N_NULL, NO_NULL, benjamini_hochberg, check_n_null
from scfm_lab.tasks.baseline import Baseline, groups_of
from scfm_lab.tasks.gene_null import Tested, gene_null
from scfm_lab.tasks.layout import Layout, Projector, find_plane
from scfm_lab.tasks.perturb_plan import WAITING_COPIES
from scfm_lab.tasks.perturb_result import MAX_TESTED, MIN_CHANGED, PerturbResult, effect_table, verdict
from scfm_lab.tasks.readouts import make_readouts
from scfm_lab.tasks.sweep import Question, effects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.readouts import Readout


def perturb(
    adata: AnnData,
    model: Model | str | Path,
    doses: Mapping[str, float] | None = None,
    *,
    groupby: str | None = None,
    sample_key: str | None = None,
    contrast: str | tuple[str, str, str] | None = None,
    set_to: Mapping[str, float] | None = None,
    target: str | None = None,
    reference: AnnData | None = None,
    labels_key: str | None = None,
    readouts: Sequence[str] | None = None,
    n_draws: int = 8,
    null: bool = True,
    n_null: int = N_NULL,
    max_cells: int = MAX_TESTED,
    layer: str | None = None,
    basis: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    cache: bool = True,
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
    contrast
        A column of two conditions, or (column, condition, baseline condition): asks instead whether the conditions respond
        differently, over the samples of `sample_key` (see :class:`~scfm_lab.tasks.contrast.ContrastResult`).
    set_to
        Gene → absolute level in counts per 10,000, for genes that are silent.
    target
        A group (of `labels_key`, else `groupby`), or a label of the `reference`: adds the read-out ``towards_target``.
    reference
        Cells, annotated in `labels_key`, among which the target is, and which then vote for the read-out ``label``. Their counts
        are where those of the cells are (`layer`).
    readouts
        Besides ``"shift"``, which is always told: ``"towards_target"``, ``"expression"`` (models that predict expression),
        ``"label"`` (whether the label of the nearest cells changes; `labels_key`, else `groupby`; of the reference where there
        is one). Each has rows of its own.
    n_draws
        Draws over which a dose other than 0 or 1 is averaged.
    null
        Whether to compute the null of comparable genes.
    n_null
        Most null genes for each group; at least 19, as fewer cannot give a p of 0.05.
    max_cells
        Most cells of each group on which the gene is tested, and the null computed (chosen by their digests): what takes time.
        Effects are of all cells; ``effect_tested`` and ``n_tested`` tell what stands beside the null. A gene that few cells
        express needs more cells, as ten of those tested must change.
    basis
        Key in ``obsm`` of the plane for ``result.layout``; None takes ``X_umap``, else the
        principal components of the model's vectors.
    seed
        Seed of the draws (common random numbers: the same for every dose).
    cache
        Take vectors of cells and of perturbed copies that were computed before, and keep new ones, as :func:`scfm_lab.embed`
        does: the same question again costs next to nothing.

    Returns
    -------
    PerturbResult
        With `contrast`, a :class:`~scfm_lab.tasks.contrast.ContrastResult`.

    Raises
    ------
    GenesError
        If a gene is not in the AnnData (the nearest names are told), not known to the model, or
        one of several columns that the model sums, of which others are not named.
    DataError
        If a dose is negative or above 1,000, a column is missing or holds no groups, `n_null` is below 19, or `max_cells` below 10.
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
    wants_more = target is not None or reference is not None or readouts is not None
    if contrast is not None:
        if wants_more:
            raise DataError(
                "A contrast compares the shift between conditions; leave out target=, reference= and readouts=, or contrast=."
            )
        from scfm_lab.tasks.contrast import contrast_of_one

        # Whoever names a contrast gets its result; types tell the usual one.
        return contrast_of_one(  # type: ignore[return-value]
            adata,
            model,
            doses or {},
            contrast=contrast,
            set_to=set_to,
            n_draws=n_draws,
            groupby=groupby,
            sample_key=sample_key,
            layer=layer,
            options=options,
            seed=seed,
            cache=cache,
            progress=progress,
            cancel=cancel,
        )
    if null:
        check_n_null(n_null)
        _check_max_cells(max_cells)
    lab = Perturber(
        adata,
        model,
        groupby=groupby,
        sample_key=sample_key,
        layer=layer,
        basis=basis,
        options=options,
        seed=seed,
        cache=cache,
        progress=progress,
        cancel=cancel,
    )
    others: list[Readout] = []
    if wants_more:
        made = make_readouts(
            lab,
            adata,
            names=readouts,
            target=target,
            reference=reference,
            labels_key=labels_key,
            progress=progress,
            cancel=cancel,
        )
        others = [one for one in made if one.name != "shift"]
        asked = provenance.arguments(
            target=target, labels_key=labels_key, readouts=None if readouts is None else [one.name for one in made]
        )
        lab.arguments = {**lab.arguments, **asked}
        lab.reference_given = reference is not None
    result = lab.run(doses or {}, set_to=set_to, readouts=others, n_draws=n_draws, cancel=cancel)
    if null:
        result = lab.with_null(
            result, readouts=others, n_null=n_null, max_cells=max_cells, progress=progress, cancel=cancel
        )
    return result


def _check_max_cells(max_cells: int) -> None:
    if max_cells < MIN_CHANGED:
        raise DataError(f"max_cells is {max_cells}; at least {MIN_CHANGED} cells that change are needed for a test.")


class Perturber(Baseline):
    """Cells and a model made ready once, to be perturbed many times.

    The unperturbed cells are encoded here; each :meth:`run` then computes only the cells that
    change, and :meth:`with_null` adds the null to a result.

    Parameters are those of :func:`perturb`.
    """

    def __init__(self, adata: AnnData, model: Model | str | Path, *, basis: str | None = None, **options: Any) -> None:
        super().__init__(adata, model, **options)
        plane, name = find_plane(adata, self.baseline, basis)
        self.projector = Projector(self.baseline, plane, basis=name)
        #: Other cells are no argument that a record can hold; that there were some it tells.
        self.reference_given = False

    def run(
        self,
        doses: Mapping[str, float],
        *,
        set_to: Mapping[str, float] | None = None,
        readouts: Sequence[Readout] = (),
        n_draws: int = 8,
        cancel: Any = None,
    ) -> PerturbResult:
        """The exact effect of a perturbation, without its null; `readouts` are read off besides the shift."""
        check_doses(doses, set_to)
        check_draws(n_draws)
        started, known = time.perf_counter(), self.n_from_cache
        by_column, levels, names = self.resolve(doses, set_to)
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
        readings = self._readings(Question(by_column, levels), readouts, shifts, draws, cancel)
        table = effect_table(label, shifts, expressing, self.groups, self.samples, readings)
        record = provenance.of_model(
            self.model,
            task="perturb",
            doses={names[c]: d for c, d in by_column.items()},
            set_to={names[c]: d for c, d in levels.items()},
            draws=draws,
            seed=self.seed,
            groupby=self.groupby,
            options=self.model.check_options(self.options),
            arguments={**self.arguments, "n_draws": n_draws},
            reference_given=self.reference_given,
            **self.audit.as_provenance(),
            **self.not_read,
            vectors_from_cache=self.n_first_from_cache + self.n_from_cache - known,
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
            readings=readings,
        )

    def _readings(
        self,
        question: Question,
        readouts: Sequence[Readout],
        shift: NDArray[np.float32],
        draws: int,
        cancel: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """What is read off each cell: 0 where it does not change, NaN where it cannot be read."""
        if not readouts:
            return {}
        (found,) = effects(self, [question], readouts=readouts, draws=draws, cancel=cancel)
        out = {}
        for readout, values in zip(readouts, found.values, strict=True):
            there = readout.applies(len(self.cells)) & np.isfinite(shift)
            out[readout.name] = np.where(there, 0.0, np.nan).astype(np.float32)
            out[readout.name][found.rows] = np.where(there[found.rows], values, np.nan)
        return out

    def with_null(
        self,
        result: PerturbResult,
        *,
        readouts: Sequence[Readout] = (),
        n_null: int = N_NULL,
        max_cells: int = MAX_TESTED,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
    ) -> PerturbResult:
        """The result with its null: the same doses given to comparable genes.

        Parameters
        ----------
        readouts
            Those of the result.
        n_null
            Most null genes for each group; at least 19.
        max_cells
            Most cells of a group on which nulls are computed (chosen by their digests);
            the gene itself is then tested on the same cells.
        """
        check_n_null(n_null)
        _check_max_cells(max_cells)
        before = self.n_from_cache
        by_column, levels, _ = self.resolve(result.doses, result.set_to)
        table = result.table.copy()
        main = table[table["readout"] == "shift"]
        few = set(main["group"][main["n_changed"] < MIN_CHANGED])
        tests = gene_null(
            self,
            by_column,
            levels,
            result.shift,
            n_null=n_null,
            max_cells=max_cells,
            skip=few,
            readouts=readouts,
            readings=[result.readings[readout.name] for readout in readouts],
            progress=progress,
            cancel=cancel,
        )
        asked = zip(table["readout"], table["group"], strict=True)
        found = [tests.get(one, Tested(NO_NULL, np.nan, 0, 0)) for one in asked]
        for name in ("p_value", "null_mean", "null_sd", "null_low", "null_high", "n_null"):
            table[name] = [getattr(one.test, name) for one in found]
        table["effect_tested"] = [one.effect for one in found]
        table["n_tested"] = [one.n_cells for one in found]
        table["n_changed_tested"] = [one.n_changed for one in found]
        # The groups are one family of tests; all cells together are a question of its own.
        for _, part in table.groupby("readout"):
            p = part["p_value"].to_numpy(dtype=float)
            table.loc[part.index, "q_value"] = np.concatenate([p[:1], benjamini_hochberg(p[1:])])
        table["verdict"] = [verdict(row) for row in table.itertuples()]
        known = result.provenance.get("arguments", {})
        record = {**result.provenance, "arguments": {**known, "n_null": n_null, "max_cells": max_cells}}
        record["vectors_from_cache"] = record.get("vectors_from_cache", 0) + self.n_from_cache - before
        return replace(result, table=table, has_null=True, provenance=record)

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
        other.groups, other.groupby = groups_of(adata, groupby), groupby
        other.arguments = {**self.arguments, "groupby": groupby}
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
        changes = [self._changes(doses, set_to, draw=d, rows=rows) for d in range(draws)]
        touched = np.unique(np.concatenate([changed for changed, _ in changes]))
        before = self.baseline[touched]
        total = np.zeros((len(touched), self.baseline.shape[1]), dtype=np.float64)
        shift = np.zeros(len(touched))
        for changed, change in changes:
            # Never more perturbed copies at a time than the plan says, however many cells and draws there are.
            for first in range(0, len(changed), WAITING_COPIES):
                block = slice(first, first + WAITING_COPIES)
                own = changed[block]
                delta = self.vectors(self._moved(own, change[block]), cancel=cancel) - self.baseline[own]
                at = np.searchsorted(touched, own)
                total[at] += delta
                shift[at] += np.linalg.norm(delta, axis=1)
        return touched, (before + total / draws).astype(np.float32), (shift / draws).astype(np.float32)

    def _changes(
        self,
        doses: Mapping[int, float],
        set_to: Mapping[int, float],
        *,
        draw: int,
        rows: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], csr_matrix]:
        """Rows whose counts change at one draw, and what is added to theirs."""
        codes = None if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        change = count_changes(self.cells, doses, groups=codes, set_to=set_to, seed=self.seed, draw=draw)
        changed = np.flatnonzero(np.diff(change.indptr))
        if rows is not None:
            changed = np.intersect1d(changed, rows)
        # A cell that the model cannot see before has no effect to measure.
        changed = changed[self.seen[changed]]
        return changed, change[changed]

    def _moved(self, rows: NDArray[np.int64], change: csr_matrix) -> Cells:
        """Perturbed copies of some cells."""
        some = self.cells.take(rows)
        return some.with_counts(changed_counts(some.counts, change))

    def _layout(self, after: NDArray[np.float32], rows: NDArray[np.int64]) -> Layout:
        return self.projector.move(after[rows], rows)
