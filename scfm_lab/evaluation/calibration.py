"""Confidence that means what it says: of cells labelled with 0.8, eight in ten are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ISOTONIC_FROM = 1000
"""Cells from which isotonic regression is preferred to a logistic curve (scikit-learn's own advice)."""


@dataclass(frozen=True)
class Confidence:
    """A monotone curve from a raw score to the probability of being right."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    method: str
    """``"isotonic"``, ``"logistic"`` or ``"constant"``."""
    ece_before: float
    """Expected calibration error of the raw score."""
    ece: float
    """Expected calibration error after calibration, on cells that the curve was not fitted to."""
    n_cells: int

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of being right for raw scores."""
        return np.interp(raw, self.x, self.y)


def calibrate(
    raw: NDArray[np.float64], right: NDArray[np.bool_], *, samples: NDArray[Any] | None = None, seed: int = 0
) -> Confidence:
    """Fit the curve to held-out cells, and measure its error on halves that it was not fitted to.

    Parameters
    ----------
    raw
        Score of each cell, 0 to 1.
    right
        Whether its label was right.
    samples
        Donors, so that no donor is in both halves; None: halves of cells.
    """
    half = np.random.default_rng(seed).permutation(len(raw)) % 2
    if samples is not None and len(np.unique(samples.astype(str))) > 1:
        from scfm_lab.evaluation.splits import balanced_folds

        half = balanced_folds(samples, 2)
    told = np.zeros(len(raw))
    for h in (0, 1):
        if (half != h).any():
            x, y, _ = _curve(raw[half != h], right[half != h])
            told[half == h] = np.interp(raw[half == h], x, y)
    x, y, method = _curve(raw, right)
    return Confidence(
        x, y, method, expected_calibration_error(raw, right), expected_calibration_error(told, right), len(raw)
    )


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Mean distance between confidence and share of right labels over bins of equally many cells.

    References
    ----------
    Naeini et al. (2015), AAAI; with bins of equal size as in Nixon et al. (2019), CVPR workshops.
    """
    if not len(confidence):
        return float("nan")
    # Equal scores stay in one bin: which of them falls where is no question of calibration.
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, confidence, side="left")
    sizes = np.bincount(bin_of)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.bincount(bin_of, confidence) - np.bincount(bin_of, right.astype(float))) / sizes
    return float(np.nansum(gap * sizes) / len(confidence))


def _curve(raw: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    n, good = len(raw), int(right.sum())
    if good in (0, n) or np.ptp(raw) == 0:
        # Laplace's rule: nobody is right for certain after so many trials.
        share = (good + 1) / (n + 2)
        return np.array([0.0, 1.0]), np.array([share, share]), "constant"
    if n >= _ISOTONIC_FROM:
        from sklearn.isotonic import IsotonicRegression

        fit = IsotonicRegression(y_min=1 / (n + 2), y_max=1 - 1 / (n + 2), out_of_bounds="clip").fit(raw, right)
        return np.asarray(fit.X_thresholds_), np.asarray(fit.y_thresholds_), "isotonic"
    from sklearn.linear_model import LogisticRegression

    grid = np.linspace(0, 1, 201)
    fit = LogisticRegression(C=1e3).fit(_logit(raw)[:, None], right)
    slope = float(fit.coef_[0, 0])
    if slope <= 0:
        # More support cannot mean less trust; with so few cells the sign is noise.
        return np.array([0.0, 1.0]), np.full(2, (good + 1) / (n + 2)), "constant"
    return grid, fit.predict_proba(_logit(grid)[:, None])[:, 1], "logistic"


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))
