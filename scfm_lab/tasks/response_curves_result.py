"""Answers between the doses that were computed, and how far they are from what is computed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.dose import check_dose
from scfm_lab.errors import DataError, GenesError, did_you_mean, plural
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Response:
    """What the curves answer at some doses: an estimate until exact inference confirms it."""

    shift: NDArray[np.float32]
    """Distance of each cell of the panel, (cells,)."""
    vectors: NDArray[np.float32]
    """(cells, width)."""
    places: NDArray[np.float32]
    """On the plane, (cells, 2)."""
    additive: bool
    """Whether several genes' movements were added up, which leaves out how they act on each other."""


@dataclass(frozen=True, repr=False)
class ResponseCurves(Result):
    """A model's answers to several genes at several doses, over a panel of cells.

    Between the doses lie piecewise cubic Hermite interpolants that do not overshoot (PCHIP, Fritsch and Butland 1984;
    scipy's), one below and one above dose 1: there the answer is exactly no change, and the curves may have a kink, as taking
    counts away and adding them are two different things.
    """

    genes: tuple[str, ...]
    doses: NDArray[np.float64]
    """Ascending, 1 among them, (doses,)."""
    cells: NDArray[np.int64]
    """Rows of the panel's cells in the AnnData, (cells,)."""
    movement: NDArray[np.float32]
    """New minus old vectors, mean over the draws, (genes, doses, cells, width)."""
    shift: NDArray[np.float32]
    """Mean distance over the draws, (genes, doses, cells)."""
    displacement: NDArray[np.float32]
    """Movement on the plane, (genes, doses, cells, 2)."""
    baseline: NDArray[np.float32]
    """Vectors before, (cells, width)."""
    before: NDArray[np.float32]
    """Places before, (cells, 2)."""
    basis: str
    """Name of the plane."""
    error: pd.DataFrame
    """gene, dose, how (``"dose of the curve left out"`` or ``"dose between"``), exact, interpolated, error (of the mean shift
    over the panel), cell_error (mean over cells of the error of each), null_sd, in_null_sd (NaN without null genes)."""
    provenance: dict[str, Any]

    # --- answers ------------------------------------------------------------------------

    def at(self, doses: Mapping[str, float]) -> Response:
        """The answer at some doses, by interpolation, at the rate of a display.

        Raises
        ------
        GenesError
            If a gene has no curve.
        DataError
            If a dose lies outside of the curve.
        """
        if not doses:
            raise DataError("No gene was named; give doses such as {'CD3D': 0.5}.")
        movement = np.zeros(self.baseline.shape, dtype=np.float32)
        moved = np.zeros(self.before.shape, dtype=np.float32)
        shift: NDArray[np.float32] | None = None
        for gene, dose in doses.items():
            g = self._index(gene)
            movement += self._between(self.movement[g], gene, dose)
            moved += self._between(self.displacement[g], gene, dose)
            shift = self._between(self.shift[g], gene, dose)
        if len(doses) > 1 or shift is None:
            shift = np.linalg.norm(movement, axis=1)
        return Response(np.maximum(shift, 0), self.baseline + movement, self.before + moved, len(doses) > 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The curves as plain arrays that a widget can evaluate without Python.

        Returns
        -------
        dict
            ``doses`` float32 (D,); ``cells`` int32 (C,), rows of the AnnData; ``before`` float32 (C, 2);
            ``shift_coefficients`` float32 (G, D − 1, 4, C); ``place_coefficients`` float32 (G, D − 1, 4, C, 2).
            Between ``doses[i]`` and ``doses[i + 1]``, with t = dose − doses[i], a value is
            ((c[0]·t + c[1])·t + c[2])·t + c[3]; places are added to ``before``. Several genes: add their places (a start, to be
            confirmed). The genes' names are in ``self.genes``, in order.
        """
        return {
            "doses": self.doses.astype(np.float32),
            "cells": self.cells.astype(np.int32),
            "before": self.before.astype(np.float32),
            "shift_coefficients": _coefficients(self.doses, self.shift),
            "place_coefficients": _coefficients(self.doses, self.displacement),
        }

    def _index(self, gene: str) -> int:
        if gene not in self.genes:
            raise GenesError(f"{gene!r} has no response curve here." + did_you_mean(gene, self.genes))
        return self.genes.index(gene)

    def _between(self, values: NDArray[np.float32], gene: str, dose: float) -> NDArray[np.float32]:
        value = check_dose(gene, dose)
        if not self.doses[0] <= value <= self.doses[-1]:
            raise DataError(
                f"The curve of {gene} goes from dose {self.doses[0]:g} to {self.doses[-1]:g}; {value:g} has to be computed "
                "(sl.perturb), or the curve made with that dose."
            )
        return interpolated(self.doses, values, value)

    # --- what every result has ----------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """gene, dose, effect (mean shift over the panel), n_cells, n_changed."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "gene": gene,
                    "dose": float(dose),
                    "effect": float(self.shift[g, d].mean()),
                    "n_cells": len(self.cells),
                    "n_changed": int((self.shift[g, d] > 0).sum()),
                }
                for g, gene in enumerate(self.genes)
                for d, dose in enumerate(self.doses)
            ]
        )

    def summary(self) -> str:
        """What was computed, and how far interpolation is from it."""
        p = self.provenance
        lines = [
            f"{plural(len(self.genes), 'gene', 'genes')} at {len(self.doses)} doses ({self.doses[0]:g} to {self.doses[-1]:g}) in "
            f"{plural(len(self.cells), 'cell', 'cells')} with {p['model']}, in {p['seconds']:.0f} s."
        ]
        if len(self.error):
            kind = str(self.error["how"].iloc[0])
            share = (self.error["error"].abs() / self.error["exact"].abs().clip(lower=1e-12)).median()
            told = f"Interpolation, measured at a {kind}: median error {share:.1%} of the effect"
            if self.error["in_null_sd"].notna().any():
                told += f", {self.error['in_null_sd'].mean():.2f} null standard deviations on average"
            lines.append(told + ".")
        lines.append(
            "Several genes start from the sum of their movements, which leaves out how they act on each other."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """The mean shift of each gene against its dose; computed doses as points (Altair)."""
        import pandas as pd

        alt = charts()
        fine = np.unique(np.concatenate([np.linspace(self.doses[0], self.doses[-1], 81), self.doses]))
        lines = pd.DataFrame(
            [
                {"gene": gene, "dose": d, "effect": float(interpolated(self.doses, self.shift[g], d).mean())}
                for g, gene in enumerate(self.genes)
                for d in fine
            ]
        )
        colour = alt.Color("gene:N", title=None)
        curve = (
            alt.Chart(lines)
            .mark_line()
            .encode(x=alt.X("dose:Q"), y=alt.Y("effect:Q", title="mean shift of the panel"), color=colour)
        )
        points = (
            alt.Chart(self.table)
            .mark_point(filled=True, size=40)
            .encode(x="dose:Q", y="effect:Q", color=colour, tooltip=["gene", "dose", "effect", "n_changed"])
        )
        return curve + points


def interpolated(doses: NDArray[np.float64], values: NDArray[Any], dose: float) -> NDArray[np.float32]:
    """Values at a dose from those at the doses of a curve, (doses, …) → (…): PCHIP on either side of dose 1."""
    from scipy.interpolate import PchipInterpolator

    side = doses <= 1 if dose <= 1 else doses >= 1
    if side.sum() == 1:
        return np.asarray(values[side][0], dtype=np.float32)
    found: NDArray[np.float32] = PchipInterpolator(doses[side], values[side], axis=0)(dose).astype(np.float32)
    return found


def _coefficients(doses: NDArray[np.float64], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(genes, doses, …) → (genes, doses − 1, 4, …)."""
    from scipy.interpolate import PchipInterpolator

    parts = []
    for side in (doses <= 1, doses >= 1):
        if side.sum() > 1:
            c = PchipInterpolator(doses[side], values[:, side], axis=1).c
            # scipy has the powers first, then the intervals, then the other axes.
            parts.append(np.moveaxis(c, (0, 1), (2, 1)))
    return np.concatenate(parts, axis=1).astype(np.float32)
