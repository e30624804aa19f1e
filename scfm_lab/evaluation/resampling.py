"""Resamples of cells, or of donors where there are enough of them, behind the intervals of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

_FEWEST_SAMPLES = 5
FEWEST_TO_RANK = 6
"""Units below which nothing is told to be better than another thing: with five, even all of them on one side have p = 1/16 (signs)."""


class Draws(list["NDArray[np.int64]"]):
    """Rows of each resample, and how many whole units were resampled: 0 where it was single cells."""

    def __init__(self, rows: Iterable[NDArray[np.int64]], units: int = 0) -> None:
        super().__init__(rows)
        self.units = units


def tail(units: int, level: float = 0.95) -> float:
    """Share of resamples beyond each end of a percentile interval over `units` units: less than 2.5 %, as few vary too little.

    A percentile bootstrap takes the normal distribution for Student's, and the spread of the resamples (n − 1) / n of the variance for
    all of it. The level that makes up for both is that of Hesterberg (2015), The American Statistician 69, 371; 0 units are many.
    """
    from scipy import stats

    if units < 1:
        return (1 - level) / 2
    if units == 1:
        return 0.0
    return float(stats.norm.cdf(-stats.t.ppf((1 + level) / 2, units - 1) * np.sqrt(units / (units - 1))))


def enough(n_boot: int, units: int) -> int:
    """Bootstrap samples of which one at least lies beyond the ends that :func:`tail` widens; none where none are wanted."""
    return max(n_boot, int(np.ceil(1 / tail(units)))) if n_boot else 0


def resamples(
    n: int, units: NDArray[Any] | None, n_boot: int, seed: int, *, units_are: str = "samples"
) -> tuple[Draws, str]:
    """Rows of bootstrap samples, and what was resampled: samples (or other units) where there are five or more, else cells.

    Of few units there are at least as many bootstrap samples as it takes for one to lie beyond the ends that :func:`tail` widens, if
    there are to be any.

    Raises
    ------
    DataError
        If `n_boot` is negative.
    """
    if n_boot < 0:
        raise DataError(f"n_boot is {n_boot}; give a number of bootstrap samples, or 0 for no intervals.")
    rng = np.random.default_rng(seed)
    names = [] if units is None else sorted(set(units))
    if len(names) < _FEWEST_SAMPLES:
        between = "donors" if units_are == "samples" else units_are
        why = f"cells (fewer than five {units_are}, so that differences between {between} are not in it)"
        return Draws(rng.integers(0, n, n) for _ in range(n_boot)), why
    rows = [np.flatnonzero(units == u) for u in names]
    n_boot = enough(n_boot, len(rows))
    drawn = (np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))]) for _ in range(n_boot))
    return Draws(drawn, len(rows)), units_are


def ends(drawn: ArrayLike, floor: ArrayLike | None = None, *, units: int = 0) -> dict[str, Any]:
    """Ends of 95 % intervals, by the names of :class:`~scfm_lab.evaluation.score.Score`.

    Of a score they are percentiles, at the level that :func:`tail` widens, so that no end lies where no score can be. Of a difference
    over few units they are Student's, with the spread of the resamples: percentiles are still somewhat narrow there.

    Parameters
    ----------
    drawn
        A score of each resample; NaN where it could not be had.
    floor
        The floor's, of the same resamples.
    units
        How many whole units were resampled (:class:`Draws` knows); 0: single cells, or so many that it makes no difference.

    Returns
    -------
    dict
        ``low`` and ``high``, and ``gain_low`` and ``gain_high`` of the difference to the floor; NaN where nothing was drawn. And
        ``units``, where there are some.
    """
    beyond = 100 * tail(units)
    values = np.asarray(drawn, dtype=np.float64)
    gains = np.full(0, np.nan) if floor is None else values - np.asarray(floor, dtype=np.float64)
    found: dict[str, Any] = {"units": units} if units else {}
    for (low, high), spread in ((("low", "high"), values), (("gain_low", "gain_high"), gains)):
        known = spread[np.isfinite(spread)]
        a, b = np.percentile(known, [beyond, 100 - beyond]) if len(known) else (np.nan, np.nan)
        if low == "gain_low" and units > 1 and len(known):
            a, b = students(float(known.mean()), float(known.std()) * np.sqrt(units / (units - 1)), units)
        found |= {low: float(a), high: float(b)}
    return found


def students(mean: float, error: float, units: int, level: float = 0.95) -> tuple[float, float]:
    """Student's interval from a mean, its standard error and how many units it is over."""
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, units - 1)) * error
    return mean - half, mean + half


def about(drawn: ArrayLike, value: float) -> NDArray[np.float64]:
    """A magnitude in resamples, set about its value over all cells.

    A mean of magnitudes is larger in every resample, since noise adds to it whatever its sign: percentiles may lie wholly above
    the value. Their spread is kept, and the bias is not.
    """
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    return values - known.mean() + value if len(known) else values
