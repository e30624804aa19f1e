"""How far along a trajectory, or off it, a perturbation pushes cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import ALL, refuse_all
from scfm_lab.errors import Cancelled, DataError
from scfm_lab.evaluation.nulls import N_NULL, NO_NULL, NullTest, check_n_null, test_against_null
from scfm_lab.results import Result, charts
from scfm_lab.tasks.gene_null import null_sets, subsample
from scfm_lab.tasks.neighbours import nearest
from scfm_lab.tasks.perturb_result import MIN_CHANGED
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.perturb import Perturber
    from scfm_lab.tasks.trajectory_result import TrajectoryResult

_NEIGHBOURS = 15
_MOST_CELLS = 500
_DRAWS = 4
"""Of a dose other than 0 and 1, for the gene as for those comparable to it: placing the mean of more draws is another measure."""


@dataclass(frozen=True, repr=False)
class TrajectoryShift(Result):
    """Where perturbed cells come to lie on a trajectory."""

    gene: str
    table: pd.DataFrame
    """gene, group, readout (``along``: change in pseudotime; ``off``: change in distance from the manifold, 1 = the usual
    distance between neighbours), effect, null_mean, null_sd, p_value, n_null, n_cells, n_changed."""
    along: NDArray[np.float32]
    """Change in pseudotime of each cell; 0 where nothing changes, NaN where a cell was not looked at."""
    off: NDArray[np.float32]
    """Change in distance from the manifold of each cell."""
    provenance: dict[str, Any]

    def summary(self) -> str:
        """How far along and how far off, beside comparable genes."""
        told = self.table[self.table["group"] == ALL].set_index("readout")
        along, off = told.loc["along"], told.loc["off"]
        lines = [
            f"{self.gene}: {int(along['n_changed']):,} of {int(along['n_cells']):,} cells change. Mean shift along the trajectory "
            f"{along['effect']:+.4f} of its length{_beside(along)}; off the manifold {off['effect']:+.3f}{_beside(off)}."
        ]
        if off["effect"] > max(0.5, 10 * abs(along["effect"])):
            lines.append(
                "Cells leave the manifold rather than move along it: their place on the trajectory means little."
            )
        lines.append(
            "This is what the model's vectors do, placed by the nearest unperturbed other cells, in a direction assumed from the "
            "root; it is no prediction of a cell's fate."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Shift along the trajectory per group (Altair)."""
        alt = charts()
        table = self.table[self.table["readout"] == "along"]
        return (
            alt.Chart(table)
            .mark_bar()
            .encode(
                x=alt.X("effect:Q", title="mean change in pseudotime"),
                y=alt.Y("group:N", sort=None, title=None),
                tooltip=["group", "effect", "null_mean", "null_sd", "p_value", "n_cells", "n_changed"],
            )
        )


def _beside(row: Any) -> str:
    if row["n_changed"] < MIN_CHANGED:
        return " (too few cells to test)"
    if not np.isfinite(row["p_value"]):
        return " (no valid null)" if row["n_null"] == 0 else ""
    return f" (comparable genes {row['null_mean']:+.4f} ± {row['null_sd']:.4f}, p = {row['p_value']:.3g})"


def trajectory_shift(
    trajectory: TrajectoryResult,
    adata: AnnData,
    model: Model | str | Path,
    doses: Mapping[str, float],
    *,
    null: bool = True,
    n_null: int = N_NULL,
    max_cells: int = _MOST_CELLS,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> TrajectoryShift:
    """Change the doses of genes and see where on the trajectory the cells come to lie.

    A cell is placed by its nearest unperturbed *other* cells, before and after, so that a cell that does not change does not
    move. The same is done with comparable genes, and p is that of the residual from a regression on mean, detection and rank, as for
    :func:`scfm_lab.perturb`: along the trajectory in either direction, off the manifold away from it only; with fewer than ten
    cells that change there is none. Per group only effects are told, as genes comparable over all cells need not be so within
    one group.

    Parameters
    ----------
    trajectory
        Along the vectors of this very model, of these cells.
    adata, model, doses, layer, options, seed
        As for :func:`scfm_lab.perturb`.
    null
        Whether comparable genes are computed.
    n_null
        Most of them; at least 19.
    max_cells
        Cells that are looked at, chosen by their digests.

    Raises
    ------
    DataError
        If the trajectory does not run along this model's vectors.
    GenesError
        If a gene is not there or the model does not know it.
    """
    from scfm_lab.tasks.perturb import Perturber

    if null:
        check_n_null(n_null)
    if adata.n_obs != len(trajectory.pseudotime):
        raise DataError(f"The AnnData has {adata.n_obs:,} cells, the trajectory {len(trajectory.pseudotime):,}.")
    labels = _labels(trajectory)
    refuse_all(labels, f"obs[{trajectory.groupby!r}]")
    lab = Perturber(adata, model, layer=layer, options=options, seed=seed, progress=progress, cancel=cancel)
    _check_space(trajectory, adata, lab)
    placer = _Placer(lab.baseline, trajectory.pseudotime)
    seen = placer.known
    rows = subsample(seen, lab.cells.keys, max_cells)
    result = lab.run(doses, n_draws=_DRAWS, cancel=cancel)
    changed = np.intersect1d(np.flatnonzero(result.changed), rows)
    along, off = np.full((2, adata.n_obs), np.nan, dtype=np.float32)
    along[rows] = off[rows] = 0
    along[changed], off[changed] = placer.moved(changed, result.perturbed[changed])
    columns = [lab.cells.genes.find(gene) for gene in doses]
    draws = int(result.provenance["draws"])
    tests = (NO_NULL, NO_NULL)
    if null and len(changed) >= MIN_CHANGED:
        means = (float(along[rows].mean()), float(off[rows].mean()))
        tests = _tests(lab, placer, means, columns, list(doses.values()), draws, rows, n_null, progress, cancel)
    return TrajectoryShift(
        gene=result.gene,
        table=_table(result.gene, along, off, rows, changed, labels, tests),
        along=along,
        off=off,
        provenance={**result.provenance, "task": "trajectory_shift", "trajectory": trajectory.key, "cells": len(rows)},
    )


def _check_space(trajectory: TrajectoryResult, adata: AnnData, lab: Perturber) -> None:
    rep = str(trajectory.provenance["use_rep"])
    name = lab.model.name
    given = None if rep not in adata.obsm else np.asarray(adata.obsm[rep], dtype=np.float32)
    seen = np.flatnonzero(np.isfinite(lab.baseline).all(axis=1))[:50]
    if (
        given is None
        or given.shape != lab.baseline.shape
        or not np.allclose(
            given[seen], lab.baseline[seen], rtol=1e-2, atol=1e-2 * float(np.abs(lab.baseline[seen]).max())
        )
    ):
        raise DataError(
            f"The trajectory runs along {rep!r}, which does not hold the vectors of {name} for these cells; embed them "
            f"(sl.embed) and run sl.trajectory with use_rep='X_{name}' first."
        )


class _Placer:
    """Pseudotime of any vector, by its nearest unperturbed cells."""

    def __init__(self, baseline: NDArray[np.float32], pseudotime: NDArray[np.float32]) -> None:
        from scfm_lab.tasks.neighbours import Neighbours

        self.known = np.flatnonzero(np.isfinite(baseline).all(axis=1) & np.isfinite(pseudotime))
        if len(self.known) <= _NEIGHBOURS + 1:
            raise DataError(
                f"Only {len(self.known)} cells lie on the trajectory; more than {_NEIGHBOURS + 1} are needed."
            )
        self.vectors, self.time = baseline[self.known], pseudotime[self.known].astype(np.float64)
        self.own = Neighbours(self.vectors, k=_NEIGHBOURS).own[1].mean(axis=1)
        self._baseline = baseline

    def place(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pseudotime and strangeness of vectors; the cell itself (its row) never votes."""
        from scfm_lab.tasks.neighbours import without_self

        own = np.searchsorted(self.known, rows)
        near, far = without_self(*nearest(self.vectors, vectors, _NEIGHBOURS + 1), own, _NEIGHBOURS)
        weights = np.exp(-4 * (far / np.maximum(far[:, -1:], 1e-12)) ** 2) + 1e-6
        weights /= weights.sum(axis=1, keepdims=True)
        usual = np.maximum(self.own[near].mean(axis=1), 1e-12)
        return (weights * self.time[near]).sum(axis=1), far.mean(axis=1) / usual

    def moved(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Change in pseudotime and in strangeness of cells whose vectors change."""
        if not len(rows):
            return np.empty(0), np.empty(0)
        before, after = self.place(self._baseline[rows], rows), self.place(vectors, rows)
        return after[0] - before[0], after[1] - before[1]


def _tests(
    lab: Perturber,
    placer: _Placer,
    effect: tuple[float, float],
    columns: list[int],
    doses: list[float],
    draws: int,
    rows: NDArray[np.int64],
    n_null: int,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> tuple[NullTest, NullTest]:
    """Mean shifts along and off against those of comparable genes at the same doses."""
    f, sets = null_sets(lab, columns, rows, n_null)
    if not sets:
        return NO_NULL, NO_NULL
    along, off = [], []
    with as_progress(progress, "Comparable genes", unit="genes") as report:
        for done, one in enumerate(sets):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Stopped; nothing was written.")
            given = dict(zip(one, doses, strict=True))
            touched, vectors, _ = lab.effects(given, {}, draws=draws, rows=rows, cancel=cancel)
            a, o = placer.moved(touched, vectors)
            along.append(a.sum() / len(rows))
            off.append(o.sum() / len(rows))
            if report is not None:
                report(done + 1, len(sets))
    x = f.matrix()
    mine, others = x[columns].mean(axis=0), np.array([x[list(one)].mean(axis=0) for one in sets])
    # Along: either way counts. Off: only away from the manifold does.
    return (
        test_against_null(effect[0], mine, np.array(along), others, scale="signed"),
        test_against_null(effect[1], mine, np.array(off), others, scale="linear"),
    )


def _labels(trajectory: TrajectoryResult) -> NDArray[Any]:
    labels = np.full(len(trajectory.pseudotime), "", dtype=object)
    if trajectory.graph is not None and trajectory.rows is not None:
        labels[trajectory.rows] = trajectory.graph.labels
    return labels


def _table(
    gene: str,
    along: NDArray[np.float32],
    off: NDArray[np.float32],
    rows: NDArray[np.int64],
    changed: NDArray[np.int64],
    labels: NDArray[Any],
    tests: tuple[NullTest, NullTest],
) -> pd.DataFrame:
    import pandas as pd

    out = []
    for group in [ALL, *sorted(set(labels[rows]) - {""})]:
        members = rows if group == ALL else rows[labels[rows] == group]
        for i, (readout, values) in enumerate((("along", along), ("off", off))):
            row: dict[str, Any] = {
                "gene": gene,
                "group": group,
                "readout": readout,
                "effect": float(values[members].mean()),
                "null_mean": np.nan,
                "null_sd": np.nan,
                "p_value": np.nan,
                "n_null": 0,
                "n_cells": len(members),
                "n_changed": int(np.isin(members, changed).sum()),
            }
            if group == ALL:
                row |= {name: getattr(tests[i], name) for name in ("null_mean", "null_sd", "p_value", "n_null")}
            out.append(row)
    return pd.DataFrame(out)
