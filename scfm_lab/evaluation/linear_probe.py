"""Logistic regression on cell vectors, its strength chosen on held-out cells: the probe of a model and of its floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Inverse strengths of the regularisation that are tried.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Probe:
    """One linear layer on standardised vectors."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    """(labels, width)."""
    bias: NDArray[np.float32]
    strength: float
    """The inverse regularisation that did best on the validation cells."""

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(cells, width) → (cells, labels)."""
        return (((vectors - self.mean) / self.scale) @ self.weight.T + self.bias).astype(np.float32)


def fit_probe(
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    validation: NDArray[np.float32],
    validation_codes: NDArray[np.int64],
    *,
    n_labels: int,
    weights: NDArray[np.float64] | None = None,
) -> Probe:
    """Fit logistic regression; labels without a training cell are never given.

    Parameters
    ----------
    vectors, codes
        Training cells and the numbers of their labels.
    validation, validation_codes
        Cells whose log loss chooses the strength of the regularisation.
    n_labels
        Labels in all.
    weights
        Weight of each label; None: all alike.
    """
    from sklearn.linear_model import LogisticRegression

    mean = vectors.mean(axis=0)
    scale = np.where(vectors.std(axis=0) > 1e-6, vectors.std(axis=0), 1.0)
    x, y = (vectors - mean) / scale, (validation - mean) / scale
    best: tuple[float, Probe] | None = None
    of_cell = None if weights is None else weights[codes]
    for strength in STRENGTHS:
        # No warning where a strength needs more steps: the validation cells decide what is kept.
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=Warning, module="sklearn")
            found = LogisticRegression(C=strength, max_iter=500).fit(x.astype(np.float64), codes, sample_weight=of_cell)
        weight = np.zeros((n_labels, x.shape[1]), np.float32)
        bias = np.full(n_labels, -1e4, np.float32)
        if len(found.classes_) == 2:
            weight[found.classes_[1]], bias[found.classes_] = found.coef_[0], (0.0, found.intercept_[0])
        else:
            weight[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
        probe = Probe(mean.astype(np.float32), scale.astype(np.float32), weight, bias, strength)
        loss = log_loss((y @ weight.T + bias).astype(np.float64), validation_codes, weights)
        if best is None or loss < best[0]:
            best = loss, probe
    assert best is not None
    return best[1]


def log_loss(
    logits: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """Mean negative log-probability of the known labels; cells weigh as their labels do."""
    if len(codes) == 0:
        return float("nan")
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(codes)), codes]
    of_cell = np.ones(len(codes)) if weights is None else weights[codes]
    return float((loss * of_cell).sum() / of_cell.sum())
