"""Is this gene special? Its effect against that of comparable genes.

The effect of a perturbation grows with how much, how often and how high in the ranks a
gene is expressed, whatever the gene does. So the effect (on the log scale) is compared
with what a regression on these three predicts from comparable genes. The residual of the
gene and those of the null genes are all taken the same way, each gene predicted from all
others, so that they can be exchanged under the null hypothesis and the p-value is that of
a rank: never below 1 / (m + 1) with m null genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

MIN_NULL_GENES = 19
"""Fewer null genes cannot give a p of 0.05."""
N_NULL = 59
"""How many are taken unless somebody says otherwise: p can be 0.05 exactly, (1 + 2) / 60, so that a test at 5 % is one. With 50 it is
one at 3.9 %, which costs power (`benchmarks/null_calibration.py --planted`)."""
_MEAN_CALIPER = np.log(2.0)
_DETECTION_CALIPER = 0.15
_RIDGE = 1e-6


@dataclass(frozen=True)
class Features:
    """How each gene is expressed in some cells; all arrays have shape (genes,)."""

    log_mean: NDArray[np.float64]
    """log of the mean count per 10,000 (−inf for a gene that is not seen)."""
    detection: NDArray[np.float64]
    """Share of the cells in which the gene is seen."""
    rank: NDArray[np.float64]
    """Mean rank among the genes seen in the same cell, 0 (lowest) to 1 (highest); 0 if never seen."""

    def matrix(self) -> NDArray[np.float64]:
        """Columns of the regression: log mean, detection, rank."""
        return np.column_stack([self.log_mean, self.detection, self.rank])


def features(counts: csr_matrix, total: NDArray[np.float64]) -> Features:
    """Expression features of every gene over some cells.

    Parameters
    ----------
    counts
        Raw counts, cells × genes.
    total
        Library size of each cell.
    """
    from scipy import sparse

    from scfm_lab.models.sctop import ragged_ranks

    n = max(counts.shape[0], 1)
    lengths = np.diff(counts.indptr)
    size = np.where(total > 0, total, 1.0)
    scaled = sparse.csr_matrix(
        (counts.data * np.repeat(1e4 / size, lengths), counts.indices, counts.indptr), counts.shape
    )
    seen = np.bincount(counts.indices, minlength=counts.shape[1])
    ranks = ragged_ranks(counts.data, counts.indptr) / np.repeat(np.maximum(lengths, 1), lengths)
    rank_sum = np.bincount(counts.indices, weights=ranks, minlength=counts.shape[1])
    # Of no cells there is no mean; no gene is seen in them.
    mean = np.asarray(scaled.mean(axis=0)).ravel() if counts.shape[0] else np.zeros(counts.shape[1])
    with np.errstate(divide="ignore"):
        log_mean = np.log(mean)
    return Features(log_mean, seen / n, rank_sum / np.maximum(seen, 1))


def comparable_genes(f: Features, gene: int, *, candidates: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """The genes most like a gene in expression, at most `n`, nearest first.

    Comparable is a gene whose mean lies within a factor of two and whose detection rate
    lies within 0.15. Where there are none, as for a gene as high as MALAT1, the answer is
    empty.
    """
    if not np.isfinite(f.log_mean[gene]):
        return np.empty(0, np.int64)
    with np.errstate(invalid="ignore"):
        by_mean = np.abs(f.log_mean - f.log_mean[gene]) / _MEAN_CALIPER
    by_detection = np.abs(f.detection - f.detection[gene]) / _DETECTION_CALIPER
    near = candidates & (by_mean <= 1) & (by_detection <= 1)
    near[gene] = False
    found = np.flatnonzero(near)
    by_rank = np.abs(f.rank[found] - f.rank[gene]) / 0.15
    distance = by_mean[found] ** 2 + by_detection[found] ** 2 + by_rank**2
    return found[np.argsort(distance, kind="stable")][:n]


@dataclass(frozen=True)
class NullTest:
    """A gene's effect against its null."""

    p_value: float
    """NaN where there is no valid null."""
    null_mean: float
    """Effect predicted for a comparable gene."""
    null_sd: float
    """Its standard deviation, on the scale of the effect."""
    null_low: float
    null_high: float
    """Middle 90 % of what comparable genes do, on the scale of the effect."""
    n_null: int
    z: float = np.nan
    """The gene's residual in standard deviations of the null genes' residuals, on the scale of the regression."""


NO_NULL = NullTest(np.nan, np.nan, np.nan, np.nan, np.nan, 0)


def test_against_null(
    effect: float,
    x: NDArray[np.float64],
    null_effects: NDArray[np.float64],
    null_x: NDArray[np.float64],
    *,
    scale: str = "log",  # noqa: PT028 - no test
) -> NullTest:
    """Rank a gene's residual among those of its null genes.

    Parameters
    ----------
    effect
        The gene's effect.
    x
        Its features, shape (features,).
    null_effects, null_x
        Those of the null genes, shapes (m,) and (m, features).
    scale
        ``"log"`` for distances (null effects of 0 say nothing there and are left out), ``"linear"`` for what is often 0,
        ``"signed"`` for what has a direction.

    Returns
    -------
    NullTest
        Small p means a stronger effect than comparable genes have; of what has a direction, in either direction.
    """
    good = np.isfinite(null_effects) & np.isfinite(null_x).all(axis=1)
    if scale == "log":
        good &= null_effects > 0
    null_effects, null_x = null_effects[good], null_x[good]
    m = len(null_effects)
    if m < MIN_NULL_GENES or not (np.isfinite(x).all() and np.isfinite(effect)):
        return NO_NULL
    if scale != "log":
        return _on_linear_scale(effect, x, null_effects, null_x, signed=scale == "signed")
    floor = np.log(null_effects).min() - 10.0
    y = np.concatenate([[np.log(effect) if effect > 0 else floor], np.log(null_effects)])
    design = np.vstack([x, null_x])
    residuals, fitted = _left_out_residuals(design, y)
    p = (1 + int((residuals[1:] >= residuals[0]).sum())) / (m + 1)
    centre = y[0] - residuals[0] if effect > 0 else fitted[0]
    spread = residuals[1:]
    low, high = np.exp(centre + np.quantile(spread, [0.05, 0.95]))
    values = np.exp(centre + spread)
    z = float(residuals[0] / max(spread.std(ddof=1), 1e-12)) if effect > 0 else -np.inf
    return NullTest(p, float(values.mean()), float(values.std(ddof=1)), float(low), float(high), m, z)


def _on_linear_scale(
    effect: float,
    x: NDArray[np.float64],
    null_effects: NDArray[np.float64],
    null_x: NDArray[np.float64],
    *,
    signed: bool,
) -> NullTest:
    residuals, _ = _left_out_residuals(np.vstack([x, null_x]), np.concatenate([[effect], null_effects]))
    m, spread = len(null_effects), residuals[1:]
    ranked = np.abs(residuals) if signed else residuals
    p = (1 + int((ranked[1:] >= ranked[0]).sum())) / (m + 1)
    values = effect - residuals[0] + spread
    if not signed:
        # The line may predict less than nothing, above which nothing is no effect.
        p, values = p if effect > 0 else 1.0, np.maximum(values, 0.0)
    low, high = np.quantile(values, [0.05, 0.95])
    sd = float(spread.std(ddof=1))
    z = float(residuals[0]) / sd if sd > 0 else np.nan
    return NullTest(p, float(values.mean()), sd, float(low), float(high), m, z)


# pytest must not take the function for a test when it is imported into one.
test_against_null.__test__ = False  # type: ignore[attr-defined]


def _left_out_residuals(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Residual of each row predicted from all others, and the prediction with the row in."""
    centred = x - x.mean(axis=0)
    scale = centred.std(axis=0)
    # A feature that hardly varies would get a wild slope.
    centred = centred[:, scale > 1e-9] / scale[scale > 1e-9]
    design = np.column_stack([np.ones(len(y)), centred])
    gram = design.T @ design + _RIDGE * len(y) * np.eye(design.shape[1])
    hat = design @ np.linalg.solve(gram, design.T)
    fitted = hat @ y
    return (y - fitted) / np.maximum(1 - np.diag(hat), 1e-6), fitted


def check_n_null(n_null: int) -> None:
    """Refuse so few null genes that no answer is possible.

    Raises
    ------
    DataError
        If there are fewer than 19: the smallest p of m null genes is 1 / (m + 1).
    """
    if n_null < MIN_NULL_GENES:
        raise DataError(
            f"n_null is {n_null}; at least {MIN_NULL_GENES} null genes are needed for a p of 0.05 (or ask for null=False)."
        )


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values (scipy's); NaN stays NaN and does not count."""
    from scipy.stats import false_discovery_control

    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q
