"""Accuracy and macro-F1 of labels, with intervals from resampled cells or donors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.resampling import ends, enough, resamples, tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Resamples behind an interval.
DRAWS = 1_000
_LEVEL = 0.95


@dataclass(frozen=True)
class LabelScores:
    """How well labels agree with known ones.

    Attributes
    ----------
    macro_f1
        Mean of the F1 of every label that the known labels hold; a label that is never given counts as 0.
    accuracy
        Share of the cells with their known label.
    macro_f1_interval, accuracy_interval
        95 % of the values in resampled samples where five or more are named; else in resampled cells, which tell what chance in the
        choice of these cells does, and not how donors differ.
    n_cells
        Cells that were compared.
    unit
        What was resampled, in words.
    units
        How many whole samples were resampled; 0 where it was cells.
    """

    macro_f1: float
    accuracy: float
    macro_f1_interval: tuple[float, float]
    accuracy_interval: tuple[float, float]
    n_cells: int
    unit: str = "cells"
    units: int = 0

    def to_dict(self) -> dict[str, float]:
        """Flat numbers, for tables and records."""
        return {
            "macro_f1": self.macro_f1,
            "macro_f1_low": self.macro_f1_interval[0],
            "macro_f1_high": self.macro_f1_interval[1],
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_interval[0],
            "accuracy_high": self.accuracy_interval[1],
        }


def label_scores(truth: Any, given: Any, *, samples: Any = None, seed: int = 0, draws: int = DRAWS) -> LabelScores:
    """Compare labels with known ones.

    Parameters
    ----------
    truth, given
        One label per cell.
    samples
        Donor of each cell: where there are five or more they are resampled whole.
    seed
        Of the resampling.
    draws
        Resamples.

    Raises
    ------
    DataError
        There is no cell, or there are not as many labels as known ones.

    Examples
    --------
    >>> from scfm_lab.evaluation.label_scores import label_scores
    >>> label_scores(["a", "a", "b", "b"], ["a", "b", "b", "b"]).accuracy
    0.75
    """
    truth, given = np.asarray(truth).astype(str), np.asarray(given).astype(str)
    if len(truth) == 0 or truth.shape != given.shape:
        raise DataError(f"{len(given):,} labels cannot be compared with {len(truth):,} known ones.")
    names = np.unique(np.concatenate([truth, given]))
    pairs = np.searchsorted(names, truth) * len(names) + np.searchsorted(names, given)
    confusion = np.bincount(pairs, minlength=len(names) ** 2).astype(np.float64)
    drawn, unit, units = _tables(pairs, confusion, samples, seed, draws)
    shape = (-1, len(names), len(names))
    f1, accuracy = _scores(np.concatenate([confusion[None], drawn]).reshape(shape))
    beyond = [tail(units, _LEVEL), 1 - tail(units, _LEVEL)]
    low, high = np.quantile(f1[1:], beyond) if draws else (np.nan, np.nan)
    worst, best = np.quantile(accuracy[1:], beyond) if draws else (np.nan, np.nan)
    return LabelScores(
        float(f1[0]),
        float(accuracy[0]),
        (float(low), float(high)),
        (float(worst), float(best)),
        len(truth),
        unit,
        units,
    )


def _tables(
    pairs: NDArray[np.int64], confusion: NDArray[np.float64], samples: Any, seed: int, draws: int
) -> tuple[NDArray[np.float64], str, int]:
    """Table of pairs of labels in each resample, (draws, pairs), what was resampled, and how many whole samples."""
    given = None if samples is None else np.asarray(samples).astype(str)
    _, unit = resamples(len(pairs), given, 0, seed)
    if given is not None and unit == "samples":
        # The table of a resample is the sum of those of its samples: no cell is looked at again.
        names, code = np.unique(given, return_inverse=True)
        own = np.zeros((len(names), len(confusion)))
        np.add.at(own, (code, pairs), 1)
        weights = np.random.default_rng(seed).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=enough(draws, len(names))
        )
        return weights @ own, unit, len(names)
    # Resampling cells with replacement is one multinomial draw of the table of pairs.
    drawn = np.zeros((draws, len(confusion)))
    there = np.flatnonzero(confusion)
    rng = np.random.default_rng([seed, 0xB007])
    drawn[:, there] = rng.multinomial(len(pairs), confusion[there] / len(pairs), size=draws)
    return drawn, unit, 0


def label_gains(
    truth: Any, given: Any, floor: Any, *, samples: Any = None, seed: int = 0, draws: int = DRAWS
) -> dict[str, float]:
    """How much better labels agree with known ones than a floor's labels do, in the same resamples.

    Parameters
    ----------
    truth, given, floor
        One label per cell.
    samples
        As for :func:`label_scores`.

    Returns
    -------
    dict
        Ends of 95 % intervals of the differences: ``macro_f1_gain_low``, ``macro_f1_gain_high``, and the same of accuracy.

    Examples
    --------
    >>> from scfm_lab.evaluation.label_scores import label_gains
    >>> label_gains(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "b"])["accuracy_gain_high"]
    0.0
    """
    labels = [np.asarray(one).astype(str) for one in (truth, given, floor)]
    names, codes = np.unique(np.stack(labels), return_inverse=True)
    kinds, place, counts = np.unique(codes.reshape(3, -1), axis=1, return_inverse=True, return_counts=True)
    n = len(names)
    drawn, _, units = _tables(place.ravel(), counts.astype(np.float64), samples, seed, draws)
    found = []
    for answer in kinds[1:]:
        tables = np.zeros((n * n, len(drawn)))
        np.add.at(tables, kinds[0] * n + answer, drawn.T)
        found.append(_scores(tables.T.reshape(-1, n, n)))
    return {
        f"{metric}_{end}": value
        for metric, own, beside in zip(("macro_f1", "accuracy"), *found, strict=True)
        for end, value in ends(own, beside, units=units).items()
        if end.startswith("gain")
    }


def _scores(tables: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Macro-F1 and accuracy of tables (draws, known, given)."""
    right = np.diagonal(tables, axis1=1, axis2=2)
    known, given = tables.sum(axis=2), tables.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(known > 0, 2 * right / (known + given), np.nan)
    return np.nanmean(each, axis=1), right.sum(axis=1) / tables.sum(axis=(1, 2))
