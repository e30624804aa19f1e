"""Geneformer's own statistics of in-silico perturbation, offered beside ours by their name.

They are those of ``InSilicoPerturberStats`` in the reference implementation of Theodoris et al. (2023): the Wilcoxon rank-sum
test of a gene's effects on single cells against those of all genes pooled, or against the same gene's effects in cells that
serve as a null, with the false discovery rate of Benjamini and Hochberg. Cells are taken for replicates, so that with many
cells almost any difference is significant, and nothing accounts for how highly a gene is expressed:
:func:`scfm_lab.screen`'s own p-values do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.nulls import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

POOL = 100_000


def against_pool(effects: Mapping[str, ArrayLike], *, seed: int = 42) -> pd.DataFrame:
    """Wilcoxon rank-sum test of each gene's effects on cells against the pool of all genes' effects.

    Parameters
    ----------
    effects
        Gene → effect on each cell that it changes.
    seed
        Of the sample of 100,000 effects that a larger pool is cut to.

    Returns
    -------
    DataFrame
        gene, effect (mean), p_value, q_value, n_cells; smallest p first.
    """
    import pandas as pd

    values = {gene: np.asarray(v, dtype=np.float64) for gene, v in effects.items()}
    pool = np.concatenate([*values.values(), np.empty(0)])
    if not len(pool):
        raise DataError("No gene changes any cell, so that there is nothing to compare.")
    if len(pool) > POOL:
        pool = np.random.default_rng(seed).choice(pool, POOL, replace=False)
    ordered = np.sort(pool)
    rows = [
        {
            "gene": gene,
            "effect": v.mean() if len(v) else np.nan,
            "p_value": _rank_sum_p(ordered, v) if len(v) else np.nan,
            "n_cells": len(v),
        }
        for gene, v in values.items()
    ]
    return _corrected(pd.DataFrame(rows))


def against_null(effects: Mapping[str, ArrayLike], null: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Wilcoxon rank-sum test of each gene's effects on cells against its own effects on null cells (``vs_null``).

    Returns
    -------
    DataFrame
        gene, effect, null_mean, difference, p_value, q_value, n_cells, n_null_cells; smallest p first. Genes that only one of
        the two has are left out.

    Raises
    ------
    DataError
        If they have no gene in common.
    """
    import pandas as pd
    from scipy.stats import ranksums

    rows: list[dict[str, Any]] = []
    for gene in effects:
        if gene not in null:
            continue
        own, other = np.asarray(effects[gene], np.float64), np.asarray(null[gene], np.float64)
        if len(own) and len(other):
            rows.append(
                {
                    "gene": gene,
                    "effect": own.mean(),
                    "null_mean": other.mean(),
                    "difference": own.mean() - other.mean(),
                    "p_value": float(ranksums(own, other).pvalue),
                    "n_cells": len(own),
                    "n_null_cells": len(other),
                }
            )
    if not rows:
        raise DataError("The two screens have no gene in common that changes cells in both.")
    return _corrected(pd.DataFrame(rows))


def _rank_sum_p(pool: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """What ``scipy.stats.ranksums(pool, values).pvalue`` gives, for a pool that is sorted once for all genes."""
    from scipy.stats import norm

    n, m = len(pool), len(values)
    below = np.searchsorted(pool, values, side="left") + np.searchsorted(pool, values, side="right")
    u = n * m - below.sum() / 2
    z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return float(2 * norm.sf(abs(z)))


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    table.insert(table.columns.get_loc("p_value") + 1, "q_value", benjamini_hochberg(table["p_value"].to_numpy()))
    return table.sort_values(["p_value", "gene"], ignore_index=True)
