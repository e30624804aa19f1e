"""How near predicted profiles of perturbations are to measured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.evaluation.score import spearman_brown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.evaluation.profiles import Profiles

METRICS = ("Pearson-Δ", "Pearson-Δ against the perturbed centroid", "centroid accuracy")
COLLAPSED = 0.99


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of each pair of rows; 0 where one of them is constant, as a prediction of no change is; else NaN for NaN."""
    out = np.full(len(a), np.nan)
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    if not good.any():
        return out
    a, b = (x[good] - x[good].mean(axis=1, keepdims=True) for x in (a, b))
    # Rounding makes constant rows vary in the last digits.
    tiny = 1e-9 * max(np.abs(a).max(), np.abs(b).max(), 1.0)
    flat = (np.abs(a).max(axis=1) <= tiny) | (np.abs(b).max(axis=1) <= tiny)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    out[good] = np.where(flat, 0.0, np.vecdot(a, b) / np.where(flat, 1.0, norms))
    return out


def centroid_accuracy(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the other measured profiles that are farther from each prediction than its own (Systema); ties count half.

    Parameters
    ----------
    predicted, measured
        Row i of one belongs to row i of the other, (perturbations, genes); predictions that are NaN get NaN.
    """
    from scipy.spatial.distance import cdist

    n = len(measured)
    out = np.full(n, np.nan)
    good = np.flatnonzero(np.isfinite(predicted).all(axis=1))
    if n < 2 or not len(good):
        return out
    far = cdist(predicted[good], measured)
    own = far[np.arange(len(good)), good][:, None]
    beyond = (far > own).sum(axis=1) + ((far == own).sum(axis=1) - 1) / 2
    out[good] = beyond / (n - 1)
    return out


def scored(
    predicted: NDArray[np.float64],
    measured: NDArray[np.float64],
    control: NDArray[np.float64],
    centroid: NDArray[np.float64],
    skip: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    """Each metric of each perturbation.

    Parameters
    ----------
    control
        The measured control, (genes,): deltas of both sides are to it.
    centroid
        Mean of the perturbations that a prediction could have seen, (perturbations, genes).
    skip
        Genes that are targeted themselves and measured: their change is known from the label alone, (perturbations, genes). Correlations
        leave out a perturbation's own; accuracy leaves out those of all, since any one of them tells its own perturbation from the
        others.
    """
    kept = ~skip.any(axis=0)
    delta = [np.where(skip, 0, x - control) for x in (predicted, measured)]
    against = [np.where(skip, 0, x - centroid) for x in (predicted, measured)]
    return {
        METRICS[0]: correlation(*delta),
        METRICS[1]: correlation(*against),
        METRICS[2]: centroid_accuracy(predicted[:, kept], measured[:, kept]),
    }


def ceilings(data: Profiles, skip: NDArray[np.bool_], *, splits: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """What replicates reach, per perturbation: halves of the cells with disjoint halves of the control.

    Correlations are stepped up to all cells by Spearman and Brown's formula; the accuracy stays that of halves.
    """
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in METRICS}
    n = len(data.names)
    kept = ~skip.any(axis=0)
    for split in range(splits):
        first, second, controls = data.halves(seed + split)
        deltas = [np.where(skip, 0, half - control) for half, control in zip((first, second), controls, strict=True)]
        # Of each half, the centroid of the other perturbations' same half.
        others = [(half.sum(axis=0) - half) / (n - 1) for half in (first, second)]
        against = [np.where(skip, 0, half - other) for half, other in zip((first, second), others, strict=True)]
        found[METRICS[0]].append(correlation(*deltas))
        found[METRICS[1]].append(correlation(*against))
        found[METRICS[2]].append(centroid_accuracy(first[:, kept], second[:, kept]))
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    return {name: v if name == METRICS[2] else spearman_brown(v) for name, v in means.items()}


def collapse(predicted: NDArray[np.float64], control: NDArray[np.float64]) -> float:
    """Mean correlation between the predicted changes of different perturbations; 1 means one profile for all.

    Two predictions of no change are the same profile too; one of no change and one of some are not.
    """
    delta = predicted[np.isfinite(predicted).all(axis=1)] - control
    if len(delta) < 2:
        return np.nan
    delta -= delta.mean(axis=1, keepdims=True)
    size = np.linalg.norm(delta, axis=1)
    flat = size <= 1e-9
    unit = np.where(flat[:, None], 0, delta / np.where(flat, 1, size)[:, None])
    r = unit @ unit.T + np.outer(flat, flat)
    return float(r[np.triu_indices(len(r), 1)].mean())
