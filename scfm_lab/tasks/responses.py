"""How cells under a treatment differ from control cells of the same sample, in an embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FEWEST = 3
"""Treated, and control, cells of a sample that make a difference worth a mean."""
FEWEST_SAMPLES = 4
"""Samples of an interval: without one of them there are still two unlike halves."""
UNTOLD = -1.0
_PARTS = 4
_MOST_SPLITS = 20


@dataclass(frozen=True)
class Responses:
    """Mean differences between treated and control cells, for each treatment, dose, context and sample.

    Each sample has its own control cells, so that directions of different samples share no noise.
    """

    keys: list[tuple[str, float, str, str]]
    """(treatment, dose, context, sample); the dose is -1 where doses are not told."""
    shift: NDArray[np.float64]
    """Mean of the treated minus mean of the control cells, (keys, width)."""
    weight: NDArray[np.float64]
    """n·m / (n + m) of n treated and m control cells: the inverse of the mean's variance, up to a factor."""
    n_treated: NDArray[np.int64]
    n_control: NDArray[np.int64]
    controls: dict[str, NDArray[np.float64]]
    """Vectors of the control cells of each context."""
    samples: tuple[str, ...]
    replicates: str
    """What the samples are: samples of a column, or random parts of the cells."""
    parts: Responses | None = None
    """Where there are no samples: the same in random parts of the cells. They stand in for replicates alone; directions are of
    all cells, as are the relabelled cells that their lengths stand beside."""

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float32],
        treatment: NDArray[Any],
        control: str,
        context: NDArray[Any],
        sample: NDArray[Any] | None,
        dose: NDArray[np.float64] | None,
        seed: int,
    ) -> Responses:
        """Means of the cells that have a vector.

        Raises
        ------
        DataError
            If there are no control cells, no treatment, or no sample with three of both.
        """
        names = sorted(set(treatment))
        if control not in names:
            raise DataError(
                f"No cell is {control!r} in the treatment column; values there: {', '.join(map(repr, names[:12]))}. Name the "
                f"untreated cells with control=.{did_you_mean(control, names)}"
            )
        if len(names) < 2:
            raise DataError(f"All cells are {control!r}; treated cells are needed beside them.")
        if sample is None or len(set(sample)) < 2:
            what = "random parts of the cells"
            given = (vectors, treatment, control, context)
            parts = cls._by_sample(*given, _parts(treatment, context, dose, seed), dose, what)
            whole = cls._by_sample(*given, np.full(len(treatment), "all cells", dtype=object), dose, what)
            found = replace(whole, parts=parts, samples=parts.samples)
        else:
            found = cls._by_sample(vectors, treatment, control, context, sample, dose, "samples")
        if not found.keys:
            raise DataError(
                f"In no sample and context are there {FEWEST} treated and {FEWEST} control cells; take coarser groups."
            )
        return found

    @classmethod
    def _by_sample(
        cls,
        vectors: NDArray[np.float32],
        treatment: NDArray[Any],
        control: str,
        context: NDArray[Any],
        sample: NDArray[Any],
        dose: NDArray[np.float64] | None,
        replicates: str,
    ) -> Responses:
        """Means of each sample with enough cells; there may be none."""
        seen = np.isfinite(vectors).all(axis=1)
        told = np.full(len(treatment), np.nan) if dose is None else dose
        treated: dict[tuple[str, float, str, str], list[int]] = {}
        untreated: dict[tuple[str, str], list[int]] = {}
        for i in np.flatnonzero(seen).tolist():
            if treatment[i] == control:
                untreated.setdefault((context[i], sample[i]), []).append(i)
            else:
                level = float(told[i]) if np.isfinite(told[i]) else UNTOLD
                treated.setdefault((treatment[i], level, context[i], sample[i]), []).append(i)
        x = vectors.astype(np.float64)
        keys, shift, n_treated, n_control = [], [], [], []
        for key, rows in sorted(treated.items()):
            other = untreated.get(key[2:], [])
            if min(len(rows), len(other)) < FEWEST:
                continue
            keys.append(key)
            shift.append(x[rows].mean(axis=0) - x[other].mean(axis=0))
            n_treated.append(len(rows))
            n_control.append(len(other))
        n, m = np.array(n_treated, dtype=np.int64), np.array(n_control, dtype=np.int64)
        controls = {c: x[seen & (treatment == control) & (context == c)] for c in sorted({k[2] for k in keys})}
        return cls(keys, np.array(shift), n * m / (n + m), n, m, controls, tuple(sorted(set(sample))), replicates)

    @property
    def treatments(self) -> list[str]:
        """Treatments with a direction anywhere."""
        return sorted({k[0] for k in self.keys})

    @property
    def contexts(self) -> list[str]:
        """Contexts with a direction of anything."""
        return sorted({k[2] for k in self.keys})

    @cached_property
    def _index(self) -> dict[tuple[str, str], dict[float, dict[str, int]]]:
        """Treatment and context → dose → sample → row."""
        index: dict[tuple[str, str], dict[float, dict[str, int]]] = {}
        for row, (t, d, c, s) in enumerate(self.keys):
            index.setdefault((t, c), {}).setdefault(d, {})[s] = row
        return index

    def doses(self, treatment: str, context: str) -> list[float]:
        """Doses of a treatment in a context, from low to high."""
        return sorted(self._index.get((treatment, context), {}))

    def top(self, treatment: str, context: str) -> float:
        """The highest dose of a treatment in a context."""
        return max(self._index.get((treatment, context), {}), default=UNTOLD)

    def rows(
        self, treatment: str, context: str, samples: tuple[str, ...] | None = None, dose: float | None = None
    ) -> NDArray[np.int64]:
        """Entries of a treatment in a context, of some samples; of the highest dose where none is named."""
        by_dose = self._index.get((treatment, context), {})
        if dose is None:
            dose = self.top(treatment, context)
        found = by_dose.get(dose, {})
        return np.array([row for s, row in found.items() if samples is None or s in samples], dtype=np.int64)

    def direction(
        self, treatment: str, context: str, samples: tuple[str, ...] | None = None, dose: float | None = None
    ) -> NDArray[np.float64] | None:
        """Weighted mean over samples of treated minus control; None where no sample has enough cells."""
        if self.parts is not None and samples is not None:
            return self.parts.direction(
                treatment, context, samples, self.top(treatment, context) if dose is None else dose
            )
        rows = self.rows(treatment, context, samples, dose)
        if not len(rows):
            return None
        return np.asarray(self.weight[rows] @ self.shift[rows] / self.weight[rows].sum())

    def usable(self, treatment: str, *contexts: str) -> tuple[str, ...]:
        """Samples with a direction in any of the contexts."""
        of = self.parts or self
        return tuple(
            sorted({of.keys[i][3] for c in contexts for i in of.rows(treatment, c, dose=self.top(treatment, c))})
        )


def _parts(treatment: NDArray[Any], context: NDArray[Any], dose: NDArray[np.float64] | None, seed: int) -> NDArray[Any]:
    """A random part for each cell, the parts equally large within each treatment, dose and context."""
    rng = np.random.default_rng(seed)
    told = np.zeros(len(treatment)) if dose is None else dose
    group = np.array([f"{t}\t{c}\t{d}" for t, c, d in zip(treatment, context, told, strict=True)])
    part = np.empty(len(treatment), dtype=object)
    for name in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == name))
        part[rows] = [f"part {i % _PARTS + 1}" for i in range(len(rows))]
    return part


def halves(samples: tuple[str, ...], seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Ways to deal samples into two halves, each way in both orders: all of them, or twenty drawn."""
    n = len(samples)
    if n < 2:
        return []
    if comb(n, n // 2) > _MOST_SPLITS:
        firsts = _drawn(samples, _MOST_SPLITS // 2, seed)
        firsts += [tuple(s for s in samples if s not in first) for first in firsts]
        return [(first, tuple(s for s in samples if s not in first)) for first in firsts]
    firsts = list(combinations(samples, n // 2))
    if n % 2:
        firsts += [tuple(s for s in samples if s not in first) for first in firsts]
    return [(first, tuple(s for s in samples if s not in first)) for first in firsts]


def _drawn(samples: tuple[str, ...], n_draws: int, seed: int) -> list[tuple[str, ...]]:
    """Different halves. Of an even number they all hold the first sample: none is what another leaves."""
    rng = np.random.default_rng(seed)
    fixed = 1 - len(samples) % 2
    drawn: dict[tuple[str, ...], None] = {}
    while len(drawn) < n_draws:
        rest = rng.choice(np.arange(fixed, len(samples)), len(samples) // 2 - fixed, replace=False)
        drawn[tuple(samples[i] for i in sorted([*range(fixed), *rest.tolist()]))] = None
    return list(drawn)


def jackknife(
    samples: tuple[str, ...], value: float, without: Callable[[tuple[str, ...]], float]
) -> tuple[float, float]:
    """95 % interval of a value by leaving out one sample at a time, with Student's quantile; NaN with fewer than four samples.

    Parameters
    ----------
    without
        The value from the samples that are left.
    """
    from scipy.stats import t

    n = len(samples)
    if n < FEWEST_SAMPLES:
        return np.nan, np.nan
    left = np.array([without(tuple(s for s in samples if s != out)) for out in samples])
    reach = float(t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2)))
    return value - reach, value + reach


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine of two vectors; NaN where one has no length."""
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 0 else np.nan
