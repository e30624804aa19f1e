"""Spearman correlations of genes over cells: plain, with depth partialled out, and within cell types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells

PUBLISHED, PARTIALLED, WITHIN = KINDS = ("as published", "depth partialled", "within cell types")
_FEWEST_OF_TYPE = 10
_FLAT = 1e-9


@dataclass(frozen=True)
class SetCorrelations:
    """The cells of a test, and how correlations are taken over them."""

    cells: Cells
    logged: csr_matrix
    """log1p of counts per 10,000."""
    depth: NDArray[np.float64]
    """Library size and number of genes seen, (cells, 2)."""
    labels: NDArray[Any] | None
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, cells: Cells, labels: NDArray[Any] | None) -> SetCorrelations:
        """Made ready for some cells."""
        from scfm_lab.models.pca import log_normalised

        depth = np.column_stack([cells.total, np.diff(cells.counts.indptr)]).astype(np.float64)
        sizes = np.array([0]) if labels is None else np.unique(labels, return_counts=True)[1]
        kinds = KINDS if sizes.max() >= _FEWEST_OF_TYPE else KINDS[:2]
        return cls(cells, log_normalised(cells.counts, cells.total).tocsc(), depth, labels, kinds)

    def values(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measured values of some genes, (cells, genes)."""
        return np.asarray(self.logged[:, columns].toarray(), dtype=np.float64)

    def matrix(self, values: NDArray[np.float64], kind: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Correlation of each pair of genes over some cells (a cell may come twice), (genes, genes); NaN where a gene is constant."""
        if kind == PUBLISHED:
            return spearman(values[rows])
        if kind == PARTIALLED or self.labels is None:
            return spearman(values[rows], self.depth[rows])
        total = np.zeros((values.shape[1],) * 2)
        weight = np.zeros_like(total)
        labels = self.labels[rows]
        for name in np.unique(labels):
            own = rows[labels == name]
            if len(own) < _FEWEST_OF_TYPE:
                continue
            r = spearman(values[own])
            known = np.isfinite(r)
            total[known] += len(own) * r[known]
            weight[known] += len(own)
        with np.errstate(invalid="ignore"):
            return np.where(weight > 0, total / weight, np.nan)

    def blocks(self, r: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
        """Mean over the pairs within the first set, within the second and between them; NaN where no pair is known."""
        one = np.arange(len(r)) < sizes[0]
        upper = np.triu(np.ones(r.shape, dtype=bool), k=1)
        parts = (one[:, None] & one[None, :], ~one[:, None] & ~one[None, :], one[:, None] & ~one[None, :])
        out = []
        for part in parts:
            known = r[part & upper]
            known = known[np.isfinite(known)]
            out.append(known.mean() if len(known) else np.nan)
        return np.array(out)

    @staticmethod
    def signs_agree(real: NDArray[np.float64], made: NDArray[np.float64]) -> list[bool | None]:
        """Whether the sign of each block is that of the truth; None where the truth does not know it, and 0 has no sign."""
        return [
            bool(r != 0 and np.sign(r) == np.sign(np.nan_to_num(m))) if np.isfinite(r) else None
            for r, m in zip(real, made, strict=True)
        ]

    def compare(
        self, truth: NDArray[np.float64], guess: NDArray[np.float64], sizes: Sequence[int]
    ) -> tuple[float, float]:
        """Share of the signs that agree, of those that the truth knows, and mean absolute error over the pairs that it knows.

        A gene that is predicted as constant goes with nothing: its correlations count as 0, and 0 has no sign. NaN where the truth
        knows nothing.
        """
        agree = self.signs_agree(self.blocks(truth, sizes), self.blocks(np.nan_to_num(guess), sizes))
        known = [one for one in agree if one is not None]
        upper = np.triu(np.isfinite(truth), k=1)
        error = np.abs(np.nan_to_num(guess)[upper] - truth[upper])
        return float(np.mean(known)) if known else np.nan, float(error.mean()) if len(error) else np.nan


def spearman(values: NDArray[np.float64], given: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Spearman correlation of each pair of columns, with the ranks of other columns partialled out where they are given.

    Returns
    -------
    float64 (columns, columns)
        NaN where a column is constant, or is nothing but what is partialled out.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(axis=0)
    before = (ranks**2).sum(axis=0)
    if given is not None:
        other = np.column_stack([np.ones(len(values)), rankdata(given, axis=0)])
        ranks = ranks - other @ np.linalg.lstsq(other, ranks, rcond=None)[0]
    size = (ranks**2).sum(axis=0)
    flat = size <= _FLAT * np.maximum(before, 1)
    unit = ranks / np.sqrt(np.where(flat, 1, size))
    r = np.clip(unit.T @ unit, -1, 1)
    r[flat] = np.nan
    r[:, flat] = np.nan
    return np.asarray(r)
