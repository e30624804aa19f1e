"""The null of a perturbation: the same doses given to comparable genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.dose import is_random
from scfm_lab.evaluation.nulls import (
    MIN_NULL_GENES,
    NO_NULL,
    Features,
    NullTest,
    comparable_genes,
    features,
    test_against_null,
)
from scfm_lab.tasks.perturb_result import MIN_CHANGED, group_rows
from scfm_lab.tasks.progress import as_progress
from scfm_lab.tasks.readouts import SCALES, Shift
from scfm_lab.tasks.sweep import Effect, Question, effects

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.readouts import Readout

NULL_DRAWS = 2
"""Of each null gene at a dose that needs draws: the mean shift does not depend on their number, only its noise does."""


@dataclass(frozen=True)
class Tested:
    """A test, and what it was made of: the null costs time, so that it may be of some of a group's cells only."""

    test: NullTest
    effect: float
    """Mean effect over the cells tested: what the null stands beside."""
    n_cells: int
    n_changed: int


def gene_null(
    lab: Baseline,
    doses: Mapping[int, float],
    set_to: Mapping[int, float],
    shift: NDArray[np.float32],
    *,
    n_null: int,
    max_cells: int,
    skip: Collection[str] = (),
    readouts: Sequence[Readout] = (),
    readings: Sequence[NDArray[np.float32]] = (),
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> dict[tuple[str, str], Tested]:
    """Test of the effect in each group (``"all"`` among them) against comparable genes; groups to `skip` are left out.

    Of several genes changed together each is replaced by a comparable one; a null set is
    such a set of replacements. Where fewer than 10 of the cells tested change there is no test.

    Parameters
    ----------
    shift
        Of each cell; NaN where the model does not see it.
    readouts, readings
        What else is tested on the same cells, and what was read off each; NaN where it cannot be read.

    Returns
    -------
    dict
        By read-out and group.
    """
    targets = sorted({*doses, *set_to})
    plans = {}
    for group, rows in group_rows(lab.groups, len(lab.cells)):
        if group in skip:
            continue
        chosen = subsample(rows[np.isfinite(shift[rows])], lab.cells.keys, max_cells)
        enough = int((shift[chosen] > 0).sum()) >= MIN_CHANGED
        plans[group] = (chosen, *(null_sets(lab, targets, chosen, n_null) if enough else (None, [])))
    # Each null set is computed on the cells of the groups that it is a null for, once.
    wanted: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}
    for chosen, _, sets in plans.values():
        for one in sets:
            wanted.setdefault(one, []).append(chosen)
    work = {one: np.unique(np.concatenate(rows)) for one, rows in wanted.items()}
    read = [Shift(), *readouts]
    null = _null_readings(lab, doses, set_to, targets, work, read, progress, cancel)
    out = {}
    for i, (readout, values) in enumerate(zip(read, [shift, *readings], strict=True)):
        for group, (rows, *plan) in plans.items():
            there = rows[np.isfinite(values[rows])]
            out[readout.name, group] = _test(values, shift, targets, (there, *plan), null, i, SCALES[readout.name])
    return out


def subsample(rows: NDArray[np.int64], keys: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """At most `n` of the rows, chosen by digest, so that the choice does not depend on the order of the cells."""
    if len(rows) <= n:
        return rows
    return np.sort(rows[np.argsort(keys[rows], kind="stable")[:n]])


def null_sets(
    lab: Baseline, targets: list[int], rows: NDArray[np.int64], n: int, f: Features | None = None
) -> tuple[Features, list[tuple[int, ...]]]:
    """Features of the genes in some cells, and at most `n` sets of genes comparable with the targets, one for one."""
    f = f or features(lab.cells.counts[rows], lab.cells.total[rows])
    candidates = lab.known.copy()
    # A column that is only part of what the model takes for a gene would have part of its effect.
    candidates[list(lab.summed)] = False
    candidates[targets] = False
    matches = [comparable_genes(f, target, candidates=candidates, n=n) for target in targets]
    m = min(len(found) for found in matches)
    if m < MIN_NULL_GENES:
        return f, []
    if len(targets) == 1:
        return f, [(int(g),) for g in matches[0]]
    # Pair the k-th comparable gene of one target with another of the next, never a gene with itself.
    sets = []
    for k in range(m):
        one = tuple(int(found[(k + 7 * i) % m]) for i, found in enumerate(matches))
        if len(set(one)) == len(one):
            sets.append(one)
    return f, sets if len(sets) >= MIN_NULL_GENES else []


def _null_readings(
    lab: Baseline,
    doses: Mapping[int, float],
    set_to: Mapping[int, float],
    targets: list[int],
    work: dict[tuple[int, ...], NDArray[np.int64]],
    readouts: Sequence[Readout],
    progress: bool | Callable[..., None],
    cancel: Any,
) -> dict[tuple[int, ...], Effect]:
    """Of each null set what is read off each cell that it changes; a row for all cells would be gigabytes."""
    draws = NULL_DRAWS if is_random(doses) or set_to else 1
    asked = sorted(work.items())
    questions = []
    for one, rows in asked:
        swap = dict(zip(targets, one, strict=True))
        questions.append(
            Question({swap[t]: d for t, d in doses.items()}, {swap[t]: d for t, d in set_to.items()}, rows=rows)
        )
    with as_progress(progress, "Comparable genes", unit="genes") as report:
        found = effects(lab, questions, readouts=readouts, draws=draws, progress=report, cancel=cancel)
    return {one: effect for (one, _), effect in zip(asked, found, strict=True)}


def _test(
    values: NDArray[np.float32],
    shift: NDArray[np.float32],
    targets: list[int],
    plan: tuple[NDArray[np.int64], Features | None, list[tuple[int, ...]]],
    null: Mapping[tuple[int, ...], Effect],
    readout: int,
    scale: str,
) -> Tested:
    rows, f, sets = plan
    effect = float(values[rows].mean()) if len(rows) else np.nan
    n_changed = int((shift[rows] > 0).sum())
    test = NO_NULL
    if f is not None and sets and n_changed >= MIN_CHANGED:
        x = f.matrix()
        test = test_against_null(
            effect,
            x[targets].mean(axis=0),
            np.array([null[s].over(rows, readout).mean() for s in sets]),
            np.array([x[list(s)].mean(axis=0) for s in sets]),
            scale=scale,
        )
    return Tested(test, effect, len(rows), n_changed)
