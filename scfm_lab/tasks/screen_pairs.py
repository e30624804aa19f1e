"""The best genes of a screen, two by two: each pair beside pairs of comparable genes, and beside what its genes add up to.

A pair has no p-value. Its genes were chosen for what they do alone in the very cells, so that it does more than other pairs
whether or not the two have anything to do with each other.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.evaluation.nulls import N_NULL, NO_NULL, NullTest, test_against_null
from scfm_lab.tasks.gene_null import null_sets
from scfm_lab.tasks.perturb_result import ALL, CHOSEN, MIN_CHANGED
from scfm_lab.tasks.readouts import SCALES, Movement
from scfm_lab.tasks.screen_tests import Measured, ranked, rows_of
from scfm_lab.tasks.sweep import Question, effects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.tasks.screen import Screen
    from scfm_lab.tasks.screen_tests import Group
    from scfm_lab.tasks.sweep import Effect

#: Movements of all chosen genes that are held at once.
_MOST_BYTES = 256 << 20


def pair_rows(
    screen: Screen,
    details: pd.DataFrame,
    singles: Measured,
    answer: Callable[[list[Question]], Mapping[str, Effect]],
    *,
    cancel: Any = None,
) -> pd.DataFrame:
    """The table with the pairs of its best genes in it.

    Best is what stands first in the first read-out over all cells. A pair's null sets are pairs of genes, each comparable
    with one of the two; ``sum_of_singles`` is what the pair would do if what the two do added up: of the shift the length of
    both movements together, of ``towards_target`` the sum; NaN of what does not add up (``expression``, ``label``).
    """
    import pandas as pd

    first = details["readout"].iloc[0]
    best = details[(details["group"] == ALL) & (details["readout"] == first)]["gene"].head(screen.pairs)
    place = {name: i for i, name in enumerate(singles.names)}
    chosen = sorted(place[name] for name in best)
    pairs = list(combinations(chosen, 2))
    asked = [_question(screen, [*singles.columns[a], *singles.columns[b]], screen.used) for a, b in pairs]
    sets, wanted = _null_of(screen, asked)
    null = [_question(screen, list(one), np.unique(np.concatenate(rows))) for one, rows in sorted(wanted.items())]
    found = answer([*asked, *null])
    measured = Measured.of(screen.lab, asked, [found[screen.text(q)] for q in asked], screen.readouts)
    others = Measured.of(screen.lab, null, [found[screen.text(q)] for q in null], screen.readouts)
    at = {q.columns: i for i, q in enumerate(null)}
    names = [f"{singles.names[a]}+{singles.names[b]}" for a, b in pairs]
    together = _added_up(screen, singles, chosen, pairs, cancel) if "shift" in singles.effects else {}
    parts = [details]
    for group in screen.groups:
        x = group.features(screen.lab).matrix()
        expressing = [_expressing(screen, group, q.columns) for q in asked]
        for readout in singles.effects:
            effect, changed, n = measured.means(readout, group.rows)
            other = others.means(readout, group.rows)[0] if null else np.empty(0)
            alone = singles.means(readout, group.rows)[0]
            tests = [
                _beside(
                    float(effect[i]),
                    x,
                    q.columns,
                    sets[group.name, i],
                    other[[at[one] for one in sets[group.name, i]]],
                    SCALES[readout],
                )
                if changed[i] >= MIN_CHANGED and sets[group.name, i]
                else NO_NULL
                for i, q in enumerate(asked)
            ]
            rows = rows_of(
                names,
                group.name,
                readout,
                effect,
                tests,
                n_cells=n,
                n_expressing=expressing,
                n_changed=changed,
                over_samples=measured.over_samples(readout, group.rows, screen.lab.samples),
            )
            if readout == "shift":
                rows["sum_of_singles"] = together[group.name]
            elif readout == "towards_target":
                rows["sum_of_singles"] = [alone[a] + alone[b] for a, b in pairs]
            rows.loc[rows["n_null"] > 0, "verdict"] = CHOSEN
            parts.append(rows)
    return ranked(pd.concat(parts, ignore_index=True))


def _question(screen: Screen, columns: list[int], rows: NDArray[np.int64]) -> Question:
    return Question(dict.fromkeys(columns, screen.dose), rows=rows)


def _null_of(
    screen: Screen, asked: list[Question]
) -> tuple[dict[tuple[str, int], list[tuple[int, ...]]], dict[tuple[int, ...], list[NDArray[np.int64]]]]:
    """Null sets of each pair in each group, and the cells that each set is asked about in."""
    sets: dict[tuple[str, int], list[tuple[int, ...]]] = {}
    wanted: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}
    n = min(screen.n_null, N_NULL)
    for group in screen.groups:
        for i, q in enumerate(asked):
            found = null_sets(screen.lab, list(q.columns), group.rows, n, f=group.features(screen.lab))[1]
            sets[group.name, i] = [tuple(sorted(one)) for one in found]
            for one in sets[group.name, i]:
                wanted.setdefault(one, []).append(group.rows)
    return sets, wanted


def _added_up(
    screen: Screen, singles: Measured, chosen: list[int], pairs: list[tuple[int, int]], cancel: Any
) -> dict[str, NDArray[np.float64]]:
    """Mean length of the two movements of each pair put together, by group.

    Of doses that are drawn it is of one draw, as long on average as of any.
    """
    from scipy import sparse

    lab = screen.lab
    width, n = lab.baseline.shape[1], len(lab.cells)
    member = np.zeros((n, len(screen.groups)), dtype=np.float32)
    for number, group in enumerate(screen.groups):
        member[group.rows, number] = 1
    member[~lab.seen] = 0
    sums = np.zeros((len(pairs), len(screen.groups)))
    place = {gene: i for i, gene in enumerate(chosen)}
    step = max(1, _MOST_BYTES // (4 * width * len(chosen)))
    for begin in range(0, len(screen.used), step):
        rows = screen.used[begin : begin + step]
        asked = [_question(screen, list(singles.columns[gene]), rows) for gene in chosen]
        moved = np.zeros((len(chosen), len(rows), width), dtype=np.float32)
        for i, effect in enumerate(effects(lab, asked, readouts=[Movement(width)], cancel=cancel)):
            moved[i, np.searchsorted(rows, effect.rows)] = effect.values.T
        some = sparse.csr_matrix(member[rows])
        for i, (a, b) in enumerate(pairs):
            sums[i] += np.linalg.norm(moved[place[a]] + moved[place[b]], axis=1) @ some
    cells = member.sum(axis=0)
    means = np.divide(sums, cells, out=np.full_like(sums, np.nan), where=cells > 0)
    return {group.name: means[:, number] for number, group in enumerate(screen.groups)}


def _beside(
    effect: float,
    x: NDArray[np.float64],
    columns: tuple[int, ...],
    sets: list[tuple[int, ...]],
    null: NDArray[np.float64],
    scale: str,
) -> NullTest:
    null_x = np.array([x[list(one)].mean(axis=0) for one in sets])
    found = test_against_null(effect, x[list(columns)].mean(axis=0), null, null_x, scale=scale)
    return replace(found, p_value=np.nan)


def _expressing(screen: Screen, group: Group, columns: tuple[int, ...]) -> int:
    some: Any = screen.lab.cells.by_gene[:, list(columns)][group.rows]
    return int((np.asarray((some > 0).sum(axis=1)).ravel() > 0).sum())
