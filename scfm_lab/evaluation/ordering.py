"""How well an order of cells agrees with stages that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.evaluation.resampling import Draws, ends, resamples
from scfm_lab.evaluation.score import Score, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FLOOR = "pca (fitted)"
RESAMPLES = 200


def kendall_tau(order: NDArray[Any], stage: NDArray[np.float64]) -> float:
    """Kendall's tau-b over the cells that have both; NaN with fewer than two values of either."""
    from scipy import stats

    both = np.isfinite(order) & np.isfinite(stage)
    if both.sum() < 3 or np.ptp(order[both]) == 0 or np.ptp(stage[both]) == 0:
        return np.nan
    return float(stats.kendalltau(order[both], stage[both], variant="b").statistic)


def floor_over(order: NDArray[Any], floor: NDArray[Any], stage: NDArray[np.float64]) -> float:
    """Kendall's tau-b of the floor's order over the cells that another order reaches, which may be the easier ones."""
    return kendall_tau(np.where(np.isfinite(order), floor, np.nan), stage)


def gain_over(
    order: NDArray[Any], floor: NDArray[Any], stage: NDArray[np.float64], draws: Draws
) -> tuple[float, float]:
    """95 % interval of tau-b minus that of the floor over the same cells, drawn together; NaN without draws."""
    drawn = [(kendall_tau(order[i], stage[i]), floor_over(order[i], floor[i], stage[i])) for i in draws]
    found = ends([own for own, _ in drawn], [beside for _, beside in drawn], units=draws.units)
    return found["gain_low"], found["gain_high"]


def stage_draws(stage: NDArray[np.float64], samples: NDArray[Any] | None, n_boot: int, seed: int) -> tuple[Draws, str]:
    """Resamples of the cells whose stage is known, and what was resampled."""
    known = np.flatnonzero(np.isfinite(stage))
    draws, unit = resamples(len(known), None if samples is None else samples[known], n_boot, seed)
    return Draws((known[i] for i in draws), draws.units), unit


def stage_scores(
    orders: Mapping[str, NDArray[Any]],
    stage: NDArray[np.float64],
    stage_key: str,
    *,
    samples: NDArray[Any] | None = None,
    n_boot: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Kendall's tau-b of several orders of the same cells with known stages.

    Cells that an order does not reach are left out of its score and of the floor beside it, and counted. The order called
    ``"pca (fitted)"`` is the floor; the difference to it is drawn on the same resamples.

    Parameters
    ----------
    orders
        Name → pseudotime of each cell.
    stage
        Known stage of each cell; NaN where there is none.
    samples
        Donor of each cell: the bootstrap is over donors where there are five or more, else over cells.
    """
    known = np.flatnonzero(np.isfinite(stage))
    draws, unit = stage_draws(stage, samples, n_boot, seed)
    found = []
    for name, order in orders.items():
        drawn = [kendall_tau(order[i], stage[i]) for i in draws]
        beside = [floor_over(order[i], orders[FLOOR][i], stage[i]) for i in draws] if FLOOR in orders else None
        lost = int(np.isnan(order[known]).sum())
        floor = floor_over(order, orders[FLOOR], stage) if FLOOR in orders else np.nan
        found.append(
            Score(
                f"Kendall's tau-b with {stage_key}",
                name,
                kendall_tau(order, stage),
                **ends(drawn, beside if name != FLOOR else None, units=draws.units),
                floor=floor,
                floor_name=FLOOR if np.isfinite(floor) else "",
                interval=f"95 % bootstrap over {unit}",
                n=len(known) - lost,
                missing="no ceiling: stages tie cells, so that 1 cannot be reached",
                remark=f"{lost:,} cells out of reach are not scored" if lost else "",
            )
        )
    return Scores(tuple(found), notes=(f"The interval is over {unit}.",), provenance={"task": "stages", "seed": seed})
