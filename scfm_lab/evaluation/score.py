"""A score as it is told everywhere: between a parameter-free floor and a replicate ceiling, with an interval.

A number alone says little. Beside it stand what the best method without a learned parameter reaches on the same cells (the
floor), and how well replicates of the truth agree with each other (the ceiling). What cannot be had is said, not left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.resampling import FEWEST_TO_RANK, students, tail
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 2000
_FEWEST_UNITS = 3

CANNOT_RANK = "cannot rank models: the floor reaches the ceiling"


@dataclass(frozen=True)
class Score:
    """One metric of one model: floor, value, ceiling and interval.

    Examples
    --------
    >>> score = Score("Pearson-Δ", "starter", 0.61, low=0.52, high=0.70, floor=0.55, floor_name="mean", ceiling=0.90)
    >>> round(score.position, 3)
    0.171
    >>> print(score)
    Pearson-Δ of starter 0.610 [0.520, 0.700]; floor (mean) 0.550, ceiling (replicates) 0.900
    """

    metric: str
    model: str
    value: float
    """NaN where it could not be had; `missing` says why."""
    low: float = np.nan
    high: float = np.nan
    """Ends of the interval that `interval` describes; NaN where there is none."""
    floor: float = np.nan
    floor_name: str = ""
    """Which parameter-free method gives the floor: the best one."""
    ceiling: float = np.nan
    ceiling_name: str = "replicates"
    interval: str = ""
    """What the interval is over, such as ``"95 % bootstrap over perturbations"``."""
    higher_is_better: bool = True
    n: int = 0
    """Units that the score is taken over (perturbations, donors, …)."""
    missing: str = ""
    """Why the value, the floor, the ceiling or the interval could not be had."""
    remark: str = ""
    """What else whoever reads the number must know, such as cells of the training data among those scored."""
    gain_low: float = np.nan
    gain_high: float = np.nan
    """Ends of the interval of value − floor over the same resamples of the same units, which the floor's own noise is in; NaN
    where they were not drawn together. Where it is there it decides whether the floor is beaten."""
    units: int = 0
    """Whole units (donors, batches, perturbations) that the interval is over; 0 where it is over cells, or not known. Below six nothing
    is said to be better than the floor, and `missing` says so."""

    def __post_init__(self) -> None:
        why = f"{self.units} units tell nothing to be better than the floor, which takes {FEWEST_TO_RANK}"
        if self.too_few and np.isfinite(self.floor) and self.model != self.floor_name and why not in self.missing:
            object.__setattr__(self, "missing", "; ".join(filter(None, [self.missing, why])))

    @property
    def too_few(self) -> bool:
        """Whether the interval is over so few units that the floor cannot be told to be beaten."""
        return 0 < self.units < FEWEST_TO_RANK

    @property
    def can_rank(self) -> bool | None:
        """Whether there is room between floor and ceiling; None where one of them is not known."""
        if not (np.isfinite(self.floor) and np.isfinite(self.ceiling)):
            return None
        return bool(self.floor < self.ceiling) if self.higher_is_better else bool(self.floor > self.ceiling)

    @property
    def position(self) -> float:
        """Where the value stands: 0 at the floor, 1 at the ceiling; NaN where that means nothing."""
        return float((self.value - self.floor) / (self.ceiling - self.floor)) if self.can_rank else np.nan

    @property
    def lead(self) -> float:
        """How much better than the floor the score is at the worse end of its interval; NaN where that is not known.

        The interval is that of value − floor where it was drawn, else the value's own; without one it is the value.
        """
        sign = 1 if self.higher_is_better else -1
        gain = self.gain_low if self.higher_is_better else self.gain_high
        if np.isfinite(gain) and np.isfinite(self.floor):
            return float(sign * gain)
        worst = self.low if self.higher_is_better else self.high
        return float(sign * ((worst if np.isfinite(worst) else self.value) - self.floor))

    @property
    def above_floor(self) -> bool | None:
        """Whether the floor is beaten at the worse end of the interval (`lead`); None where that is not known, or units are too few."""
        if self.too_few and self.lead > 0:
            return None
        return bool(self.lead > 0) if np.isfinite(self.lead) else None

    @property
    def difference(self) -> str:
        """In words the interval of value − floor, by which the floor is beaten or not; empty where there is none, and for the floor."""
        if not np.isfinite(self.gain_low) or self.model == self.floor_name:
            return ""
        return f"{self.value - self.floor:+.3f} [{self.gain_low:+.3f}, {self.gain_high:+.3f}]"

    @property
    def verdict(self) -> str:
        """What the triple says, in a few words."""
        if not np.isfinite(self.value):
            return "not measured"
        if self.can_rank is False:
            return CANNOT_RANK
        if self.above_floor is None:
            return "too few units to tell from the floor" if np.isfinite(self.lead) else "no floor to compare with"
        if self.above_floor:
            known = np.isfinite([self.gain_low, self.low if self.higher_is_better else self.high]).any()
            return "better than the floor" if known else "above the floor, without an interval"
        better = self.value > self.floor if self.higher_is_better else self.value < self.floor
        return "not distinguishable from the floor" if better else "no better than the floor"

    def __str__(self) -> str:
        interval = f" [{_told(self.low)}, {_told(self.high)}]" if np.isfinite(self.low) else ""
        floor = f"floor ({self.floor_name}) {_told(self.floor)}" if np.isfinite(self.floor) else "no floor"
        floor += f", minus it {self.difference}" if self.difference else ""
        ceiling = f"ceiling ({self.ceiling_name}) {_told(self.ceiling)}" if np.isfinite(self.ceiling) else "no ceiling"
        text = f"{self.metric} of {self.model} {_told(self.value)}{interval}; {floor}, {ceiling}"
        if self.can_rank is False:
            text += f"; {CANNOT_RANK}"
        return text + (f" ({self.missing})" if self.missing else "") + (f". {self.remark}" if self.remark else "")

    def row(self) -> dict[str, Any]:
        """The score as a row of a table."""
        return {
            "metric": self.metric,
            "model": self.model,
            "floor": self.floor,
            "value": self.value,
            "ceiling": self.ceiling,
            "low": self.low,
            "high": self.high,
            "gain_low": self.gain_low,
            "gain_high": self.gain_high,
            "position": self.position,
            "n": self.n,
            "units": self.units,
            "floor_name": self.floor_name,
            "ceiling_name": self.ceiling_name,
            "interval": self.interval,
            "verdict": self.verdict,
            "missing": self.missing,
            "remark": self.remark,
        }


@dataclass(frozen=True, repr=False)
class Scores(Result):
    """Several scores: of metrics, of models, or of both."""

    scores: tuple[Score, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    """What holds for all of them: how the data was split, what could not be measured."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def of(self, metric: str, model: str | None = None) -> Score:
        """The score of a metric (and a model, where there are several).

        Raises
        ------
        DataError
            If there is none; those that there are are named.
        """
        for score in self.scores:
            if score.metric == metric and model in (None, score.model):
                return score
        known = ", ".join(dict.fromkeys(f"{s.metric!r} of {s.model!r}" for s in self.scores)) or "none"
        wanted = repr(metric) + (f" of {model!r}" if model else "")
        raise DataError(f"There is no score {wanted}; scores here: {known}.")

    @property
    def table(self) -> pd.DataFrame:
        """One row per score: metric, model, floor, value, ceiling, low, high, gain_low, gain_high, position, n, units, …, verdict, missing, remark."""
        import pandas as pd

        return pd.DataFrame([score.row() for score in self.scores], columns=list(Score("", "", 0.0).row()))

    def summary(self) -> str:
        """A line for each score, and the notes."""
        head = [self.title] if self.title else []
        return "\n".join([*head, *(f"{score}." for score in self.scores), *self.notes])

    def plot(self) -> Any:
        """Each score on a bar from its floor to its ceiling (Altair)."""
        alt = charts()
        table = self.table
        several = table["model"].nunique() > 1
        table["what"] = table["metric"] + (" · " + table["model"] if several else "")
        base = alt.Chart(table).encode(y=alt.Y("what:N", sort=None, title=None))
        band = base.mark_bar(color="#bdbdbd", opacity=0.6, height=14).encode(
            x=alt.X("floor:Q", title="floor … ceiling", scale=alt.Scale(zero=False)), x2="ceiling:Q"
        )
        ends = [
            base.mark_tick(color=colour, thickness=3, height=18).encode(x=f"{name}:Q")
            for name, colour in (("floor", "#616161"), ("ceiling", "#009E73"))
        ]
        rule = base.mark_rule(color="#0072B2", strokeWidth=2).encode(x="low:Q", x2="high:Q")
        point = base.mark_point(filled=True, size=80, color="#0072B2").encode(
            x="value:Q",
            tooltip=["metric", "model", "floor", "value", "ceiling", "low", "high", "gain_low", "gain_high", "verdict"],
        )
        return alt.layer(band, *ends, rule, point)


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a statistic over units of replication: of a mean Student's, of another statistic a bootstrap of the units.

    Parameters
    ----------
    values
        One value (or row) per unit of replication (a perturbation, a donor), never per cell; units that are NaN are left out.
    statistic
        ``statistic(values, axis=0)`` of one resample, such as ``numpy.mean``; resamples of which it is NaN are left out.

    Returns
    -------
    (low, high)
        NaN with fewer than three units: they say nothing about spread. The percentiles of a bootstrap are those of
        :func:`~scfm_lab.evaluation.resampling.tail`; below six units, where these are no wider than the values, its spread is taken.
    """
    given = np.asarray(values, dtype=np.float64)
    given = given[np.isfinite(given.reshape(len(given), -1)).all(axis=1)]
    n = len(given)
    if n < _FEWEST_UNITS:
        return np.nan, np.nan
    if statistic is np.mean and given.ndim == 1:
        return students(float(given.mean()), float(given.std(ddof=1)) / np.sqrt(n), n, level)
    rng = np.random.default_rng(seed)
    drawn = (statistic(given[rng.integers(0, n, n)], axis=0) for _ in range(resamples))
    known = [value for value in drawn if np.isfinite(value)]
    if not known:
        return np.nan, np.nan
    if n < FEWEST_TO_RANK:
        return students(float(statistic(given, axis=0)), float(np.std(known)) * np.sqrt(n / (n - 1)), n, level)
    beyond = tail(n, level)
    low, high = np.quantile(np.asarray(known, dtype=np.float64), [beyond, 1 - beyond])
    return float(low), float(high)


def best_floor(floors: dict[str, float], *, higher_is_better: bool = True) -> tuple[str, float]:
    """Name and value of the best of several floors; ``("", nan)`` where none is known."""
    known = {name: value for name, value in floors.items() if np.isfinite(value)}
    if not known:
        return "", np.nan
    name = (max if higher_is_better else min)(known, key=lambda one: known[one])
    return name, known[name]


def spearman_brown(half: ArrayLike) -> NDArray[np.float64]:
    """Agreement of two whole replicates from that of two halves: 2r / (1 + r); NaN at r ≤ −1."""
    r = np.asarray(half, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(r > -1, 2 * r / (1 + r), np.nan)


def macro(values: Sequence[float]) -> float:
    """Mean over units, those that are NaN left out; NaN where none is left."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else np.nan


def _told(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "not measured"
