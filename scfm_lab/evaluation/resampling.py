"""Resamples of cells, or of donors where there are enough of them, behind the intervals of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_FEWEST_SAMPLES = 5


def resamples(
    n: int, units: NDArray[Any] | None, n_boot: int, seed: int, *, units_are: str = "samples"
) -> tuple[list[NDArray[np.int64]], str]:
    """Rows of bootstrap samples, and what was resampled: samples (or other units) where there are five or more, else cells.

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
        return [rng.integers(0, n, n) for _ in range(n_boot)], why
    rows = [np.flatnonzero(units == u) for u in names]
    return [np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))]) for _ in range(n_boot)], units_are


def ends(drawn: ArrayLike, floor: ArrayLike | None = None) -> dict[str, Any]:
    """Ends of 95 % intervals, by the names of :class:`~scfm_lab.evaluation.score.Score`.

    Parameters
    ----------
    drawn
        A score of each resample; NaN where it could not be had.
    floor
        The floor's, of the same resamples.

    Returns
    -------
    dict
        ``low`` and ``high``, and ``gain_low`` and ``gain_high`` of the difference to the floor; NaN where nothing was drawn.
    """
    values = np.asarray(drawn, dtype=np.float64)
    gains = np.full(0, np.nan) if floor is None else values - np.asarray(floor, dtype=np.float64)
    found: dict[str, Any] = {}
    for (low, high), spread in ((("low", "high"), values), (("gain_low", "gain_high"), gains)):
        known = spread[np.isfinite(spread)]
        a, b = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        found |= {low: float(a), high: float(b)}
    return found


def about(drawn: ArrayLike, value: float) -> NDArray[np.float64]:
    """A magnitude in resamples, set about its value over all cells.

    A mean of magnitudes is larger in every resample, since noise adds to it whatever its sign: percentiles may lie wholly above
    the value. Their spread is kept, and the bias is not.
    """
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    return values - known.mean() + value if len(known) else values
