"""Expression of genes along the paths of a trajectory, with an interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.resampling import Draws
    from scfm_lab.tasks.trajectory_result import TrajectoryResult

_KNOTS = 5
_RIDGE = 1.0
_FEWEST = 20


@dataclass(frozen=True, repr=False)
class TrendResult(Result):
    """Smoothed expression along each path."""

    table: pd.DataFrame
    """gene, path (its end), pseudotime, mean, low, high: log1p of counts per 10,000 with a 95 % bootstrap interval."""
    unit: str
    """What the bootstrap is over."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """Of each gene and path how expression goes from the start to the end."""
        told = bool(self.table["low"].notna().any())
        interval = f"intervals are a bootstrap over {self.unit}" if told else "without intervals (n_boot=0)"
        lines = [f"log1p of counts per 10,000 along pseudotime; {interval}."]
        for (gene, path), part in self.table.groupby(["gene", "path"], sort=False):
            first, last = part.iloc[0], part.iloc[-1]
            apart = last["low"] > first["high"] or last["high"] < first["low"]
            lines.append(
                f"{gene} towards {path}: {first['mean']:.2f} → {last['mean']:.2f}"
                + ("." if apart or not told else " (intervals of start and end overlap).")
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """A curve with its band for each path, one panel a gene (Altair)."""
        alt = charts()
        base = alt.Chart(self.table).encode(x=alt.X("pseudotime:Q"), color=alt.Color("path:N", title="towards"))
        band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title="log1p(counts per 10,000)"), y2="high:Q")
        return (band + base.mark_line().encode(y="mean:Q")).properties(width=220, height=140).facet("gene:N", columns=3)


def gene_trends(
    trajectory: TrajectoryResult,
    adata: AnnData,
    genes: Sequence[str],
    *,
    sample_key: str | None = None,
    layer: str | None = None,
    n_points: int = 50,
    n_boot: int = 100,
    seed: int = 0,
) -> TrendResult:
    """Smooth the expression of genes along each path, cells weighted by their probability of that path's end.

    A cubic spline with five knots and a ridge penalty (scikit-learn's spline basis) is fitted to log1p of counts per 10,000.
    Imputed values are refused: a model's predictions are no measurement.

    Parameters
    ----------
    trajectory
        Of the same cells.
    genes
        Names, symbols or Ensembl ids.
    sample_key
        Donors or samples: where there are five or more, the interval is over them, else over cells.
    n_points
        Points on each curve.
    n_boot
        Bootstrap samples; with 0 there is no interval (NaN). Of few samples more are
        drawn than asked for (1,048 of five, 412 of six), as many as the ends of their intervals take.

    Raises
    ------
    GenesError
        If a gene is not there.
    DataError
        If fewer than 20 cells lie on a path, or the layer is imputed.
    """
    import pandas as pd

    from scfm_lab.cells.cells import Cells, column_of
    from scfm_lab.evaluation.resampling import resamples
    from scfm_lab.models.pca import log_normalised

    if adata.n_obs != len(trajectory.pseudotime):
        raise DataError(f"The AnnData has {adata.n_obs:,} cells, the trajectory {len(trajectory.pseudotime):,}.")
    provenance.refuse_imputed(adata, layer, what="Gene trends")
    cells = Cells.from_anndata(adata, layer=layer)
    names = [genes] if isinstance(genes, str) else list(genes)
    columns = [cells.genes.find(gene) for gene in names]
    values = log_normalised(cells.counts, cells.total)[:, columns].toarray().astype(np.float64)
    samples = None
    if sample_key is not None:
        samples = column_of(adata, sample_key, what="The sample column").astype(str).to_numpy(dtype=object)
    rows, unit = [], "cells"
    for end, weight in _path_weights(trajectory).items():
        on = np.flatnonzero((weight > 0.05) & np.isfinite(trajectory.pseudotime))
        if len(on) < _FEWEST:
            raise DataError(
                f"Only {len(on)} cells lie on the path to {end!r}; at least {_FEWEST} are needed for a curve."
            )
        draws, unit = resamples(len(on), None if samples is None else samples[on], n_boot, seed)
        grid, mean, low, high = _curve(trajectory.pseudotime[on], values[on], weight[on], draws, n_points)
        for g, gene in enumerate(names):
            rows.append(
                pd.DataFrame(
                    {
                        "gene": gene,
                        "path": end,
                        "pseudotime": grid,
                        "mean": mean[:, g],
                        "low": low[:, g],
                        "high": high[:, g],
                    }
                )
            )
    told = {
        "task": "gene_trends",
        "trajectory": trajectory.key,
        "genes": names,
        "unit": unit,
        "arguments": provenance.arguments(
            sample_key=sample_key, layer=layer, n_points=n_points, n_boot=n_boot, seed=seed
        ),
        "packages": provenance.package_versions(),
    }
    return TrendResult(pd.concat(rows, ignore_index=True), unit, told)


def _path_weights(trajectory: TrajectoryResult) -> dict[str, NDArray[np.float64]]:
    """How much each cell belongs to each path."""
    if trajectory.fates is not None:
        return {end: np.nan_to_num(trajectory.fates[end].to_numpy(dtype=np.float64)) for end in trajectory.fates}
    graph, rows = trajectory.graph, trajectory.rows
    if graph is None or rows is None:
        raise DataError("This trajectory was read back without its graph of neighbours; run sl.trajectory again.")
    out = {}
    for path in trajectory.paths:
        weight = np.zeros(len(trajectory.pseudotime))
        weight[rows] = np.isin(graph.labels.astype(str), path["nodes"])
        out[path["nodes"][-1]] = weight
    return out


def _curve(
    time: NDArray[np.float32],
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    draws: Draws,
    n_points: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.preprocessing import SplineTransformer

    t = np.asarray(time, dtype=np.float64)[:, None]
    spline = SplineTransformer(
        n_knots=_KNOTS, degree=3, knots="quantile" if len(np.unique(t)) > 2 * _KNOTS else "uniform"
    )
    basis = spline.fit_transform(t)
    grid = np.linspace(t.min(), t.max(), n_points)
    at = spline.transform(grid[:, None])

    def fit(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        b, w = basis[rows], weight[rows]
        # The penalty is on differences between neighbouring coefficients, so that a flat gene stays flat at its own level.
        rough = np.diff(np.eye(b.shape[1]), axis=0)
        left = (b * w[:, None]).T @ b + _RIDGE * rough.T @ rough + 1e-9 * np.eye(b.shape[1])
        return at @ np.linalg.solve(left, (b * w[:, None]).T @ values[rows])

    mean = fit(np.arange(len(t)))
    if not draws:
        return grid, mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    drawn = np.array([fit(rows) for rows in draws])
    from scfm_lab.evaluation.resampling import tail

    beyond = 100 * tail(draws.units)
    low, high = np.percentile(drawn, [beyond, 100 - beyond], axis=0)
    return grid, mean, low, high
