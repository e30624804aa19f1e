"""From the effects on cells to a table of genes: means over groups, and each gene against comparable ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.evaluation.nulls import (
    NO_NULL,
    Features,
    NullTest,
    benjamini_hochberg,
    comparable_genes,
    features,
    test_against_null,
)
from scfm_lab.tasks.perturb_result import MIN_CELLS, MIN_CHANGED, interval_over_samples, verdict
from scfm_lab.tasks.readouts import SCALES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.readouts import Readout
    from scfm_lab.tasks.sweep import Effect, Question

COLUMNS = ("gene", "group", "readout", "effect", "null_mean", "null_sd", "p_value", "q_value", "n_cells")
SAMPLE_COLUMNS = ("effect_samples", "effect_low", "effect_high", "n_samples", "n_samples_few")
"""What is told besides where samples are named."""


@dataclass
class Group:
    """Some cells, and how each gene is expressed in them."""

    name: str
    rows: NDArray[np.int64]
    _features: Features | None = field(default=None, repr=False)

    def features(self, lab: Baseline) -> Features:
        """Expression of every gene in these cells; computed once."""
        if self._features is None:
            self._features = features(lab.cells.counts[self.rows], lab.cells.total[self.rows])
        return self._features

    def testable(self, lab: Baseline, question: Question, dose: float) -> bool:
        """Whether enough of its cells can change to be tested."""
        if dose > 1:
            return len(self.rows) >= MIN_CHANGED
        return float(self.features(lab).detection[list(question.columns)].max()) * len(self.rows) >= MIN_CHANGED


@dataclass(frozen=True)
class Measured:
    """Effects of several perturbations on the cells."""

    names: list[str]
    columns: list[tuple[int, ...]]
    effects: dict[str, csr_matrix]
    """By read-out: perturbations × cells; NaN where there is none to be read."""
    applies: dict[str, NDArray[np.bool_]]
    """By read-out: cells in which it can be read at all."""
    changed: csr_matrix
    """1 where a cell changed."""

    @classmethod
    def of(
        cls, lab: Baseline, questions: Sequence[Question], effects: Sequence[Effect], readouts: Sequence[Readout]
    ) -> Measured:
        """Collect the effects of some questions."""
        from scipy import sparse

        n = len(lab.cells)
        rows = [e.rows for e in effects]
        indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
        indices = np.concatenate([*rows, np.empty(0, np.int64)])
        shape = (len(questions), n)

        def matrix(data: NDArray[np.float32]) -> csr_matrix:
            return sparse.csr_matrix((data, indices, indptr), shape=shape)

        by_readout, applies = {}, {}
        for i, readout in enumerate(readouts):
            by_readout[readout.name] = matrix(
                np.concatenate([*(e.values[i] for e in effects), np.empty(0, np.float32)])
            )
            applies[readout.name] = readout.applies(n) & lab.seen
        return cls(
            [q.name for q in questions],
            [q.columns for q in questions],
            by_readout,
            applies,
            matrix(np.ones(len(indices), np.float32)),
        )

    def means(self, readout: str, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
        """Mean effect over some cells and number of changed cells of each perturbation, and number of the cells."""
        mask = np.zeros(self.changed.shape[1])
        mask[rows] = 1
        mask *= self.applies[readout]
        n = int(mask.sum())
        values = self.effects[readout]
        total = values.multiply(mask[None, :]).tocsr()
        # Where a read-out does not apply the mask is 0, and NaN × 0 is no number.
        total.data = np.nan_to_num(total.data, nan=0.0)
        sums = np.asarray(total.sum(axis=1), dtype=np.float64).ravel()
        return sums / n if n else np.full(len(sums), np.nan), (self.changed @ mask).astype(np.int64), n

    def over_samples(
        self, readout: str, rows: NDArray[np.int64], samples: NDArray[Any] | None
    ) -> dict[str, NDArray[Any] | int]:
        """Mean over the samples' means of each perturbation with its interval, over some cells; empty without samples.

        Samples with fewer than five of the cells are left out and counted.
        """
        from scipy import sparse

        if samples is None:
            return {}
        rows = rows[self.applies[readout][rows]]
        names, code, sizes = np.unique(samples[rows].astype(str), return_inverse=True, return_counts=True)
        share = sparse.csr_matrix((1 / sizes[code], (rows, code)), shape=(self.changed.shape[1], len(names)))
        values = self.effects[readout].astype(np.float64)
        values.data = np.nan_to_num(values.data, nan=0.0)
        kept = sizes >= MIN_CELLS
        means = np.asarray((values @ share).todense())[:, kept]
        n = int(kept.sum())
        return {**interval_over_samples(means), "n_samples": n, "n_samples_few": len(names) - n}


def tested(
    lab: Baseline, groups: Sequence[Group], asked: Measured, null: Measured, *, n_null: int, dose: float
) -> pd.DataFrame:
    """One row per gene, group and read-out, ranked.

    Parameters
    ----------
    asked
        The genes asked about.
    null
        The genes that may be null genes; `asked` itself where all genes are screened.
    """
    import pandas as pd

    parts = []
    null_columns = np.array([c[0] for c in null.columns], dtype=np.int64)
    # A gene that lies in several columns is not comparable by one of them.
    single = np.array([len(c) == 1 for c in null.columns], dtype=bool)
    place = np.full(len(lab.known), -1)
    place[null_columns] = np.arange(len(null_columns))
    for group in groups:
        f = group.features(lab)
        x = f.matrix()
        candidates = np.zeros(len(lab.known), dtype=bool)
        candidates[null_columns[single]] = True
        expressing = np.rint(f.detection * len(group.rows)).astype(np.int64)
        sets: list[NDArray[np.int64]] = []
        for columns in asked.columns:
            usable = candidates.copy()
            usable[list(columns)] = False
            sets.append(comparable_genes(f, columns[0], candidates=usable, n=n_null))
        for readout in asked.effects:
            effect, changed, n = asked.means(readout, group.rows)
            null_effect = null.means(readout, group.rows)[0]
            tests = [
                test_against_null(
                    effect[i], x[columns[0]], null_effect[place[sets[i]]], x[sets[i]], scale=SCALES[readout]
                )
                if changed[i] >= MIN_CHANGED
                else NO_NULL
                for i, columns in enumerate(asked.columns)
            ]
            parts.append(
                rows_of(
                    asked.names,
                    group.name,
                    readout,
                    effect,
                    tests,
                    n_cells=n,
                    n_expressing=[int(expressing[list(c)].max()) for c in asked.columns],
                    n_changed=changed,
                    over_samples=asked.over_samples(readout, group.rows, lab.samples),
                )
            )
    return ranked(pd.concat(parts, ignore_index=True))


def rows_of(
    names: Sequence[str],
    group: str,
    readout: str,
    effect: NDArray[np.float64],
    tests: Sequence[NullTest],
    *,
    n_cells: int,
    n_expressing: Sequence[int],
    n_changed: NDArray[np.int64],
    over_samples: Mapping[str, Any],
) -> pd.DataFrame:
    """The rows of one group and read-out, p-values corrected over them."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "gene": list(names),
            "group": group,
            "readout": readout,
            "effect": effect,
            **{
                name: [getattr(test, name) for test in tests]
                for name in ("null_mean", "null_sd", "p_value", "null_low", "null_high", "n_null", "z")
            },
            "n_cells": n_cells,
            "n_expressing": np.asarray(n_expressing, dtype=np.int64),
            "n_changed": np.asarray(n_changed, dtype=np.int64),
            **over_samples,
        }
    )
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy(dtype=float))
    table["verdict"] = [verdict(row) for row in table.itertuples()]
    return table


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Best first within each read-out and group; those keep their order, and what could not be tested comes last."""
    table = table.copy()
    order: dict[Any, int] = {}
    for key in zip(table["readout"], table["group"], strict=True):
        order.setdefault(key, len(order))
    table["_block"] = [order[key] for key in zip(table["readout"], table["group"], strict=True)]
    table["_z"] = table["z"].abs()
    table["_size"] = table["effect"].abs()
    by = ["_block", "p_value", "_z", "_size", "gene"]
    table = table.sort_values(by, ascending=[True, True, False, False, True], na_position="last", ignore_index=True)
    rest = [c for c in table.columns if c not in COLUMNS and not c.startswith("_")]
    return table[[*COLUMNS, *rest]]
