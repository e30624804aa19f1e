"""Measured perturbations as profiles: mean log-normalised expression of each perturbation, and of halves of its cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.errors import DataError, did_you_mean, plural
from scfm_lab.tasks.baseline import labels_of

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

MIN_CELLS = 10
SEPARATOR = "+"


@dataclass(frozen=True)
class Profiles:
    """Cells of a perturbation experiment, log-normalised, and the mean of each perturbation."""

    names: list[str]
    """Perturbations, without the control."""
    genes: NDArray[Any]
    mean: NDArray[np.float64]
    """Mean log1p(counts per 10,000), (perturbations, genes)."""
    control: NDArray[np.float64]
    """Mean of the real control cells, (genes,)."""
    cells: csr_matrix
    """log1p(counts per 10,000) of each cell."""
    label: NDArray[Any]
    control_name: str
    n_cells: dict[str, int]
    dropped: dict[str, int]
    """Perturbations with too few cells, and how many those have."""
    total: str
    """What counts were divided by, in words."""
    pooled: dict[str, str] = field(default_factory=dict)
    """Labels of perturbations that have another label too, whose cells theirs have joined."""

    @property
    def delta(self) -> NDArray[np.float64]:
        """Difference to the real control, (perturbations, genes)."""
        return self.mean - self.control

    def targets(self, name: str) -> tuple[str, ...]:
        """Genes that a perturbation targets, sorted; ``B+A`` targets two, ``A+ctrl`` one where ``ctrl`` is the control."""
        return targets(name, self.control_name)

    def rows(self, names: list[str]) -> NDArray[np.int64]:
        """Places of perturbations."""
        return np.array([self.names.index(name) for name in names], dtype=np.int64)

    @classmethod
    def of(cls, adata: AnnData, *, perturbation_key: str, control: str, layer: str | None = None) -> Self:
        """Read a perturbation experiment.

        Raises
        ------
        DataError
            If it has no control cells, fewer than two perturbations with 10 cells, or no such column.
        """
        from scipy import sparse

        from scfm_lab.cells.cells import Cells

        label = labels_of(adata, perturbation_key, what="The perturbation column").astype(str)
        pooled = _twice_named(np.unique(label), control)
        label = np.array([pooled.get(name, name) for name in label], dtype=object)
        found, counts = np.unique(label.astype(str), return_counts=True)
        n_cells = dict(zip(found.tolist(), counts.tolist(), strict=True))
        if control not in n_cells:
            usual = [n for n in n_cells if n.casefold() in ("control", "ctrl", "non-targeting", "nt", "unperturbed")]
            hint = f" Did you mean control={usual[0]!r}?" if usual else did_you_mean(control, n_cells)
            raise DataError(
                f"There are no control cells: no cell is {control!r} in obs[{perturbation_key!r}]. Effects are differences to "
                f"measured control cells; name them with control=.{hint}"
            )
        if n_cells[control] < 2 * MIN_CELLS:
            raise DataError(
                f"There are {n_cells[control]} control cells; at least {2 * MIN_CELLS} are needed, since the ceiling needs two "
                "disjoint halves of them."
            )
        dropped = {n: k for n, k in n_cells.items() if k < MIN_CELLS and n != control}
        names = [n for n in n_cells if n != control and n not in dropped]
        if len(names) < 3:
            raise DataError(
                f"{plural(len(names), 'perturbation has', 'perturbations have')} {MIN_CELLS} cells or more; at least three are "
                "needed to hold some out."
            )
        cells = Cells.from_anndata(adata, layer=layer)
        own = np.asarray(cells.counts.sum(axis=1)).ravel()
        whole = np.allclose(own, cells.total)
        total = "the counts of these genes" if whole else "the counts of all genes measured (total_counts_all_genes)"
        size = np.where(cells.total > 0, cells.total, 1.0)
        values = np.log1p(cells.counts.data.astype(np.float64) * np.repeat(1e4 / size, np.diff(cells.counts.indptr)))
        matrix = sparse.csr_matrix((values, cells.counts.indices, cells.counts.indptr), cells.counts.shape)
        mean = np.array([_mean(matrix, label == name) for name in names])
        return cls(
            names,
            np.asarray(cells.genes.names),
            mean,
            _mean(matrix, label == control),
            matrix,
            label,
            control,
            n_cells,
            dropped,
            total,
            pooled,
        )

    def halves(self, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Means of disjoint halves of each perturbation's cells and of the control's.

        Returns
        -------
        (first, second, controls)
            (perturbations, genes) twice, and (2, genes): each half has its own control, since a shared one makes unrelated
            perturbations agree.
        """
        rng = np.random.default_rng(seed)
        parts = []
        for name in [*self.names, self.control_name]:
            rows = rng.permutation(np.flatnonzero(self.label == name))
            parts.append([np.asarray(self.cells[half].mean(axis=0)).ravel() for half in np.array_split(rows, 2)])
        found = np.array(parts)
        return found[:-1, 0], found[:-1, 1], found[-1]


def targets(name: str, control: str) -> tuple[str, ...]:
    """Genes that a label names, sorted: of ``A+B`` and ``B+A`` the same, of ``A+ctrl`` one, of the control none."""
    return () if name == control else tuple(sorted(t for t in name.split(SEPARATOR) if t != control))


def _twice_named(names: NDArray[Any], control: str) -> dict[str, str]:
    """For labels that name a perturbation once more (``ctrl+A`` beside ``A+ctrl``) the one that comes first."""
    first: dict[tuple[str, ...], str] = {(): control}
    seen = {str(name): first.setdefault(targets(str(name), control), str(name)) for name in sorted(names)}
    return {name: other for name, other in seen.items() if name != other}


def _mean(matrix: csr_matrix, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(matrix[np.flatnonzero(mask)].mean(axis=0), dtype=np.float64).ravel()
