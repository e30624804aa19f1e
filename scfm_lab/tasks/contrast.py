"""Do two conditions respond differently to a perturbation? Donors are the unit, and labels are exchanged within them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, product
from math import comb
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.dose import check_draws
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.nulls import benjamini_hochberg
from scfm_lab.tasks.baseline import Baseline, labels_of
from scfm_lab.tasks.contrast_result import MIN_DONORS, WHAT_INTERVALS_ARE, ContrastResult
from scfm_lab.tasks.perturb_result import MIN_CELLS, group_rows
from scfm_lab.tasks.readouts import Shift
from scfm_lab.tasks.screen_tests import Group, Measured, ranked
from scfm_lab.tasks.sweep import Question, effects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

__all__ = [
    "MIN_CELLS",
    "MIN_DONORS",
    "WHAT_INTERVALS_ARE",
    "Conditions",
    "ContrastResult",
    "Design",
    "Exchange",
    "contrast_of_one",
    "contrasted",
    "design",
    "exchange_test",
    "flips",
]

_MOST_EXCHANGES = 9999


@dataclass(frozen=True)
class Conditions:
    """Two conditions and the donors in which they were seen."""

    column: str
    tested: str
    baseline: str
    label: NDArray[Any]
    """Condition of each cell."""
    donor: NDArray[Any]

    @property
    def text(self) -> str:
        """The contrast in words."""
        return f"{self.column}: {self.tested} minus {self.baseline}"

    @classmethod
    def of(cls, adata: AnnData, contrast: str | tuple[str, str, str], sample_key: str | None) -> Self:
        """Read a contrast: a column of two values, or (column, condition, baseline condition).

        Raises
        ------
        DataError
            If there is no sample column, or the conditions are not there or not two.
        """
        if sample_key is None:
            raise DataError(
                "A contrast needs sample_key=, the obs column of donors or samples: they are the replicates."
            )
        named = not isinstance(contrast, str)
        column = str(contrast[0]) if named else str(contrast)
        if named and len(contrast) != 3:
            raise DataError("contrast is a column of two conditions, or (column, condition, baseline condition).")
        label = labels_of(adata, column, what="The contrast column")
        values = sorted(set(label))
        if named:
            tested, baseline = str(contrast[1]), str(contrast[2])
            for value in (tested, baseline):
                if value not in values:
                    raise DataError(
                        f"No cell is {value!r} in obs[{column!r}]; values there: {', '.join(map(repr, values[:12]))}."
                    )
            if tested == baseline:
                raise DataError(f"The contrast names {tested!r} twice; name two conditions.")
        elif len(values) != 2:
            raise DataError(
                f"obs[{column!r}] has {plural(len(values), 'condition', 'conditions')}; a contrast compares two: write "
                f"contrast=({column!r}, {values[-1]!r}, {values[0]!r})."
            )
        else:
            usual = [
                v
                for v in values
                if v.casefold() in ("control", "ctrl", "untreated", "healthy", "normal", "unstimulated")
            ]
            baseline = usual[0] if len(usual) == 1 else values[0]
            tested = next(v for v in values if v != baseline)
        return cls(column, tested, baseline, label, labels_of(adata, sample_key, what="The sample column"))


@dataclass(frozen=True)
class Exchange:
    """Test of a difference between conditions over donors."""

    effect: float
    low: float
    high: float
    """95 % t-interval over donors."""
    null_mean: float
    null_sd: float
    """Of the differences when labels are exchanged."""
    p_value: float
    """NaN below six donors."""
    n_donors: int
    paired: bool


@dataclass(frozen=True)
class Design:
    """Which donors can be compared in a group of cells, and how."""

    donors: list[str]
    indicator: NDArray[np.float64]
    """Donor means of each condition as weights of cells, (2, donors, cells); NaN-free, 0 where a donor lacks a condition."""
    paired: bool
    groups: NDArray[np.bool_]
    """Unpaired: whether each donor is one of the tested condition."""
    dropped: list[str]
    """Donors with too few cells of a condition."""
    left_out: list[str] = field(default_factory=list)
    """Donors with enough cells for which this design has no place."""


def design(conditions: Conditions, rows: NDArray[np.int64], applies: NDArray[np.bool_]) -> Design | None:
    """The donors of some cells: those seen in both conditions are compared with themselves.

    Where fewer than six donors were seen in both, and more were seen in one condition only, these are compared with each other.
    None: neither way has two donors a side.
    """
    rows = rows[applies[rows]]
    label, donor = conditions.label[rows], conditions.donor[rows]
    there: dict[str, list[NDArray[np.int64]]] = {}
    dropped = []
    for name in sorted(set(donor)):
        cells = [rows[(donor == name) & (label == c)] for c in (conditions.tested, conditions.baseline)]
        enough = [len(c) >= MIN_CELLS for c in cells]
        if any(0 < len(c) < MIN_CELLS for c in cells):
            dropped.append(name)
        if any(enough):
            there[name] = [c if ok else c[:0] for c, ok in zip(cells, enough, strict=True)]
    both = [n for n, (a, b) in there.items() if len(a) and len(b)]
    # A donor of both conditions cannot stand on one side only.
    single = [n for n in there if n not in both]
    tested = sum(len(there[n][0]) > 0 for n in single)
    unpaired = min(tested, len(single) - tested) >= 2
    paired = len(both) >= 2 and (len(both) >= MIN_DONORS or not unpaired or len(both) >= len(single))
    if not paired and not unpaired:
        return None
    names, others = (both, single) if paired else (single, both)
    sides = np.array([len(there[n][0]) > 0 for n in names], dtype=bool)
    weights = np.zeros((2, len(names), len(conditions.label)))
    for i, name in enumerate(names):
        for side, own in enumerate(there[name]):
            if len(own):
                weights[side, i, own] = 1 / len(own)
    left_out = [n for n in others if n not in dropped]
    return Design(names, weights, paired, sides, dropped, left_out)


def exchange_test(first: NDArray[np.float64], second: NDArray[np.float64], plan: Design, *, seed: int = 0) -> Exchange:
    """Difference between conditions, its interval over donors, and how rare it is when labels are exchanged.

    Parameters
    ----------
    first, second
        Mean effect of each donor in the tested and in the baseline condition, shape (donors,). In an unpaired design the
        one that a donor lacks is not read.

    Notes
    -----
    Paired: the two labels of a donor are exchanged for all of its cells together, which changes the sign of its difference;
    with n donors there are 2^(n−1) different outcomes, the least p of five is 1/16. Unpaired: the donors' conditions are
    dealt out anew.
    """
    from scipy import stats

    n = len(plan.donors)
    if plan.paired:
        values = first - second
        effect = float(values.mean())
        half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n >= 2 else np.nan
        null = flips(n, seed) @ values / n
        centre, spread = 0.0, float(np.sqrt((null**2).mean()))
        least = 2.0 ** (1 - n)
    else:
        values = np.where(plan.groups, first, second)
        a, b = values[plan.groups], values[~plan.groups]
        effect = float(a.mean() - b.mean())
        va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        welch = (va + vb) ** 2 / max(va**2 / (len(a) - 1) + vb**2 / (len(b) - 1), 1e-300)
        half = float(stats.t.ppf(0.975, max(welch, 1)) * np.sqrt(va + vb))
        dealt = _dealt(n, len(a), seed)
        if comb(n, len(a)) > _MOST_EXCHANGES:
            # Of what is drawn the first is the real one, so that no p is 0; what is kept for other genes stays as it is.
            dealt = dealt.copy()
            dealt[0] = plan.groups
        null = dealt @ values / len(a) - (1 - dealt) @ values / len(b)
        centre, spread = float(null.mean()), float(null.std())
        least = (2 if 2 * len(a) == n else 1) / comb(n, len(a))
    scale = np.abs(values).max(initial=0)
    p = float((np.abs(null) >= abs(effect) - 1e-12 * scale).mean())
    if n < MIN_DONORS or least > 0.05:
        p = np.nan
    return Exchange(effect, effect - half, effect + half, centre, spread, p, n, plan.paired)


@lru_cache(maxsize=8)
def flips(n: int, seed: int) -> NDArray[np.float64]:
    """Signs of the donors, (exchanges, donors), the real one first: all of them, or 9,999 drawn."""
    if 2 ** (n - 1) <= _MOST_EXCHANGES:
        # A row and its negative give the same two-sided answer, so that the first donor keeps its sign.
        return np.array([(1, *rest) for rest in product((1, -1), repeat=n - 1)], dtype=np.float64)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_MOST_EXCHANGES + 1, n))
    signs[0] = 1
    return signs


@lru_cache(maxsize=8)
def _dealt(n: int, k: int, seed: int) -> NDArray[np.float64]:
    if comb(n, k) <= _MOST_EXCHANGES:
        out = np.zeros((comb(n, k), n))
        for row, chosen in enumerate(combinations(range(n), k)):
            out[row, list(chosen)] = 1
        return out
    rng = np.random.default_rng(seed)
    return (np.argsort(rng.random((_MOST_EXCHANGES + 1, n)), axis=1) < k).astype(np.float64)


def contrasted(
    lab: Baseline, groups: Sequence[Group], measured: Measured, conditions: Conditions
) -> tuple[pd.DataFrame, list[str]]:
    """One row per gene, group and read-out; and what could not be compared, in sentences."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    for group in groups:
        for readout, values in measured.effects.items():
            plan = design(conditions, group.rows, measured.applies[readout])
            if plan is None:
                notes.append(
                    f"{group.name}: fewer than two donors of each condition have {MIN_CELLS} cells; nothing to compare."
                )
                continue
            if readout == next(iter(measured.effects)):
                notes += _who_is_left_out(group.name, plan)
            table = _rows(measured.names, values, plan, lab.seed)
            cells = (plan.indicator > 0).any(axis=(0, 1))
            table.insert(1, "group", group.name)
            table.insert(2, "readout", readout)
            table["n_cells"] = int(cells.sum())
            table["n_changed"] = (measured.changed @ cells.astype(float)).astype(np.int64)
            table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy(dtype=float))
            table["verdict"] = [_verdict(row) for row in table.itertuples()]
            parts.append(table)
    if not parts:
        raise DataError(
            f"In no group do two donors of each condition have {MIN_CELLS} cells or more, so that {conditions.text} cannot be "
            "compared; take larger groups (groupby=) or other samples (sample_key=)."
        )
    return ranked(pd.concat(parts, ignore_index=True)), list(dict.fromkeys(notes))


def _who_is_left_out(group: str, plan: Design) -> list[str]:
    said = []
    if plan.dropped:
        said.append(f"{group}: too few cells of a condition in {', '.join(plan.dropped[:6])}; left out there.")
    if plan.left_out:
        n, first = len(plan.left_out), ", ".join(plan.left_out[:6])
        more = f" and {n - 6} more" if n > 6 else ""
        why = (
            "seen in one condition only" if plan.paired else "seen in both conditions, and too few to be compared alone"
        )
        said.append(f"{group}: left out as {why}: {plural(n, 'donor', 'donors')} ({first}{more}).")
    return said


def _rows(names: Sequence[str], values: Any, plan: Design, seed: int) -> pd.DataFrame:
    import pandas as pd

    clean = values.copy()
    clean.data = np.nan_to_num(clean.data, nan=0.0).astype(np.float64)
    # (genes, donors) for each side.
    sides = [np.asarray(clean @ plan.indicator[side].T) for side in (0, 1)]
    rows = []
    for gene, first, second in zip(names, *sides, strict=True):
        t = exchange_test(first, second, plan, seed=seed)
        a, b = (first, second) if plan.paired else (first[plan.groups], second[~plan.groups])
        rows.append(
            {
                "gene": gene,
                "effect": t.effect,
                "null_mean": t.null_mean,
                "null_sd": t.null_sd,
                "p_value": t.p_value,
                "low": t.low,
                "high": t.high,
                "effect_tested": float(a.mean()),
                "effect_baseline": float(b.mean()),
                "n_donors": t.n_donors,
                "paired": t.paired,
                "z": t.effect / t.null_sd if t.null_sd > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _verdict(row: Any) -> str:
    if row.n_changed == 0:
        return "nothing changes"
    if np.isfinite(row.p_value):
        return "responds differently" if row.p_value <= 0.05 else "no difference to be seen"
    return "too few donors for a p: interval only"


def contrast_of_one(
    adata: AnnData,
    model: Model | str | Path,
    doses: Mapping[str, float],
    *,
    contrast: str | tuple[str, str, str],
    set_to: Mapping[str, float] | None,
    n_draws: int,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
    **options: Any,
) -> ContrastResult:
    """Whether conditions respond differently to one perturbation; parameters are those of :func:`scfm_lab.perturb`."""
    started = time.perf_counter()
    check_draws(n_draws)
    conditions = Conditions.of(adata, contrast, options.get("sample_key"))
    lab = Baseline(adata, model, progress=progress, cancel=cancel, **options)
    by_column, levels, names = lab.resolve(doses, set_to)
    columns = sorted({*by_column, *levels})
    name = "+".join(names[c] for c in columns)
    question = Question(by_column, levels, name=name)
    found = effects(lab, [question], draws=n_draws, cancel=cancel)
    groups = [Group(group, rows[lab.seen[rows]]) for group, rows in group_rows(lab.groups, len(lab.cells))]
    measured = Measured.of(lab, [question], found, [Shift()])
    details, notes = contrasted(lab, groups, measured, conditions)
    record = provenance.of_model(
        lab.model,
        task="perturb, contrast",
        genes=1,
        doses={names[c]: d for c, d in by_column.items()},
        set_to={names[c]: d for c, d in levels.items()},
        contrast=conditions.text,
        groupby=lab.groupby,
        sample_key=lab.sample_key,
        draws=n_draws,
        seed=lab.seed,
        options=lab.model.check_options(lab.options),
        arguments={**lab.arguments, "contrast": contrast, "n_draws": n_draws},
        **lab.audit.as_provenance(),
        seconds=time.perf_counter() - started,
    )
    dose = next(iter({**by_column, **levels}.values()))
    return ContrastResult(details, conditions, float(dose), {}, tuple(notes), record)
