"""Doses: what a slider does to the counts of a gene.

Defined on counts and not on tokens, so that it means the same for every model. Dose 0 is a
knockout; below 1 counts are thinned binomially; 1 leaves the cell exactly as it is; above 1
Poisson counts at the group's rate of the gene are added. The draws are quantiles of one
hashed uniform per cell and gene, turned on from draw to draw, and so are monotone in the dose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.digest import uniforms
from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells

_DOSE_STREAM = 0x0D05E
_TURN = 0.6180339887498949
MOST_DOSE = 1000.0
"""Above it a dose is a slip of the pen: the gene alone would outweigh everything else in the cell."""


def check_dose(gene: str, dose: float) -> float:
    """The dose as a float.

    Raises
    ------
    DataError
        If it is negative, NaN, infinite or above 1,000.
    """
    try:
        value = float(dose)
    except (TypeError, ValueError):
        raise DataError(f"The dose of {gene} is {dose!r}; it must be a number, 0 (knockout) or above.") from None
    if not np.isfinite(value) or value < 0:
        raise DataError(
            f"The dose of {gene} is {value:g}; it must be 0 (knockout) or above (1 = unchanged, 2 = twice)."
        )
    if value > MOST_DOSE:
        raise DataError(
            f"The dose of {gene} is {value:g}; at most {MOST_DOSE:,.0f} makes sense (1 = unchanged, 2 = twice). "
            "For an absolute level use set_to, in counts per 10,000."
        )
    return value


def check_level(gene: str, level: float) -> float:
    """An absolute level in counts per 10,000 as a float.

    Raises
    ------
    DataError
        If it is no number from 0 to 10,000.
    """
    try:
        value = float(level)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value) or value < 0 or value > 1e4:
        raise DataError(f"set_to of {gene} is {level!r}; it is a level in counts per 10,000, from 0 to 10,000.")
    return value


def check_doses(doses: Any, set_to: Any = None) -> None:
    """Check doses and levels before any work is done: their form and their numbers, not whether the genes are there.

    Raises
    ------
    DataError
        If they are no mapping of genes to numbers, or a number is none that is allowed.
    """
    from collections.abc import Mapping

    for name, given, check in (("doses", doses, check_dose), ("set_to", set_to, check_level)):
        if given is None:
            continue
        if not isinstance(given, Mapping):
            genes = [given] if isinstance(given, str) else given
            first = next((g for g in genes if isinstance(g, str)), "CD3D") if hasattr(genes, "__iter__") else "CD3D"
            example = f"{{{first!r}: 0.0}} for a knockout" if name == "doses" else f"{{{first!r}: 5.0}}"
            raise DataError(f"{name} must say a number for each gene; write {example}.")
        for gene, value in given.items():
            check(str(gene), value)


def check_draws(n_draws: int) -> None:
    """Refuse to average over no draws at all (a DataError)."""
    if n_draws < 1:
        raise DataError(f"n_draws is {n_draws}; at least one draw is needed.")


def is_random(doses: Mapping[Any, float]) -> bool:
    """Whether some dose needs draws (0 and 1 do not)."""
    return any(d not in (0.0, 1.0) for d in doses.values())


def dosed_counts(
    k: NDArray[np.float64],
    dose: float,
    keys: NDArray[np.uint64],
    gene_hash: np.uint64,
    *,
    rate: NDArray[np.float64],
    seed: int,
    draw: int,
) -> NDArray[np.float64]:
    """Counts of one gene at a dose.

    Parameters
    ----------
    k
        Counts of the gene, shape (cells,).
    keys, gene_hash
        Digests of the unperturbed cells, and the gene's hash.
    rate
        Expected count of the gene in each cell: the group's pooled rate times the cell's
        size factor (used above dose 1 only).
    draw
        Number of the draw.

    Returns
    -------
    ndarray of float64, shape (cells,)
    """
    if dose == 1:
        return k.copy()
    if dose == 0:
        return np.zeros_like(k)
    from scipy import stats

    u = _quantiles(keys, gene_hash, seed, draw)
    if dose < 1:
        out = np.zeros_like(k)
        there = k > 0
        out[there] = stats.binom.ppf(u[there], k[there], dose)
        return out
    return k + stats.poisson.ppf(u, (dose - 1) * rate)


def _quantiles(keys: NDArray[np.uint64], gene_hash: np.uint64, seed: int, draw: int) -> NDArray[np.float64]:
    """The uniform numbers of a draw, in (0, 1): one hashed number per cell and gene, turned on by the golden ratio each draw.

    Each draw alone is uniform; together they are spread evenly over (0, 1), so that a mean over n draws is off by about 1 / n
    and not by 1 / √n.
    """
    u = uniforms(keys, np.array([gene_hash], np.uint64), seed, _DOSE_STREAM)
    return np.clip((u + draw * _TURN) % 1.0, 1e-12, 1 - 1e-12)


def group_rates(cells: Cells, columns: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected count of each gene in each cell from its group's pooled rate.

    Parameters
    ----------
    columns
        Columns of the genes.
    groups
        Group number of each cell.

    Returns
    -------
    ndarray of float64, shape (cells, genes)
        Sum of the gene's counts over the group / sum of its library sizes × the cell's library size.
    """
    counts = cells.by_gene[:, columns].toarray().astype(np.float64)
    rates = np.zeros_like(counts)
    for group in np.unique(groups):
        mask = groups == group
        total = cells.total[mask].sum()
        if total > 0:
            rates[mask] = counts[mask].sum(axis=0) / total
    return rates * cells.total[:, None]


def perturb_counts(
    cells: Cells,
    doses: Mapping[int, float],
    *,
    groups: NDArray[np.int64] | None = None,
    set_to: Mapping[int, float] | None = None,
    seed: int = 0,
    draw: int = 0,
) -> Cells:
    """A copy of the cells with some genes at another dose.

    Parameters
    ----------
    cells
        The unperturbed cells.
    doses
        Column of a gene → dose.
    groups
        Group number of each cell, for the rates of over-expression; None: one group.
    set_to
        Column of a gene → absolute level in counts per 10,000; a Poisson count at that
        level replaces the cell's own (for genes that are silent in these cells).
    seed, draw
        Which uniform numbers.

    Returns
    -------
    Cells
        Library sizes and digests are those of the unperturbed cells.
    """
    change = count_changes(cells, doses, groups=groups, set_to=set_to, seed=seed, draw=draw)
    return cells.with_counts(changed_counts(cells.counts, change))


def changed_counts(counts: csr_matrix, change: csr_matrix) -> csr_matrix:
    """Counts with what is added to them, in the form that :class:`~scfm_lab.cells.cells.Cells` has them."""
    from scipy import sparse

    out = sparse.csr_matrix(counts + change)
    out.eliminate_zeros()
    out.sort_indices()
    return out


def count_changes(
    cells: Cells,
    doses: Mapping[int, float],
    *,
    groups: NDArray[np.int64] | None = None,
    set_to: Mapping[int, float] | None = None,
    seed: int = 0,
    draw: int = 0,
) -> csr_matrix:
    """What :func:`perturb_counts` adds to the counts: float32, cells × genes, without explicit zeros."""
    from scipy import sparse, stats

    set_to = dict(set_to or {})
    columns = np.array(sorted({*doses, *set_to}), dtype=np.int64)
    groups = np.zeros(len(cells), np.int64) if groups is None else groups
    before = cells.by_gene[:, columns].toarray().astype(np.float64)
    # Only what is added needs rates.
    more = any(dose > 1 for dose in doses.values())
    rates = group_rates(cells, columns, groups) if more else np.zeros_like(before)
    delta = np.zeros_like(before)
    for j, column in enumerate(columns.tolist()):
        gene_hash = cells.gene_hashes[column]
        if column in set_to:
            u = _quantiles(cells.keys, gene_hash, seed, draw)
            after = stats.poisson.ppf(u, set_to[column] / 1e4 * cells.total)
        else:
            after = dosed_counts(
                before[:, j], doses[column], cells.keys, gene_hash, rate=rates[:, j], seed=seed, draw=draw
            )
        delta[:, j] = after - before[:, j]
    rows, cols = np.nonzero(delta)
    return sparse.csr_matrix((delta[rows, cols].astype(np.float32), (rows, columns[cols])), shape=cells.counts.shape)
