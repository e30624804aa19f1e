"""The result of ordering cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.nulls import N_NULL
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.score import Scores
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.gene_trends import TrendResult
    from scfm_lab.tasks.layout import Layout
    from scfm_lab.tasks.order import Graph
    from scfm_lab.tasks.trajectory_shift import TrajectoryShift


@dataclass(frozen=True)
class Twin:
    """The same order taken from principal components of the same cells."""

    pseudotime: NDArray[np.float32]
    """NaN for cells that cannot be reached there, and those without a vector."""
    agreement: float
    """Spearman correlation of both pseudotimes; NaN where it means nothing."""
    layout: Layout
    root: str = ""
    """Name of the cell that it begins at: of a root that is a group the one that lies farthest from all others there."""


@dataclass(frozen=True)
class Walk:
    """The shortest way over neighbouring cells from one state to another."""

    rows: NDArray[np.int64]
    """Cells on the way; empty where there is none."""
    groups: list[str]
    """Groups in the order in which they are crossed."""
    length: float
    """In units of the embedding; infinite where there is no way."""


@dataclass(frozen=True, repr=False)
class TrajectoryResult(Result):
    """Pseudotime of each cell, the paths from the root's group to the ends, and what else could be told from them."""

    key: str
    pseudotime: NDArray[np.float32]
    """0 at the root to 1; NaN for cells that cannot be reached from it."""
    branches: NDArray[Any]
    """Path that a cell lies on: the end's name, ``"trunk"`` where paths run together, ``"unreachable"``."""
    paths: list[dict[str, Any]]
    """Each with ``nodes`` (groups from root to end) and ``points`` float32 (nodes, 2) on the plane."""
    table: pd.DataFrame
    """One row per group: n_cells, median_pseudotime, q25, q75, branch, branch_point, unreachable, and fate_<end>: the mean
    probability of each end."""
    connectivities: pd.DataFrame
    """PAGA's connectivities between groups, 0 to 1."""
    root: str
    """Name of the root cell."""
    root_group: str
    groupby: str
    layout: Layout
    provenance: dict[str, Any]
    fates: pd.DataFrame | None = None
    """Probability of each end for each cell (rows sum to 1; NaN where no end can be reached)."""
    roots: pd.DataFrame | None = None
    """Other plausible roots: root, group, why, agreement (Spearman with the chosen root's order), tau, unreachable."""
    pieces: pd.DataFrame | None = None
    """Connected pieces of the graph of neighbours: piece, n_cells, groups, example (a cell of it), reachable."""
    twin: Twin | None = None
    """The same on principal components; None where there are no counts (`twin_missing` says so)."""
    twin_missing: str = ""
    agreement: Scores | None = None
    """Kendall's tau-b with known stages, beside that of the twin."""
    graph: Graph | None = field(default=None, compare=False)
    rows: NDArray[np.int64] | None = None
    """Rows of the AnnData that have a vector: those of the graph."""

    @property
    def unreachable(self) -> int:
        """Cells with a vector that cannot be reached from the root."""
        return int(np.isnan(self.pseudotime).sum()) - self.without_vector

    @property
    def without_vector(self) -> int:
        """Cells that were left out because they have no vector."""
        return int(self.provenance["cells_without_vector"])

    @property
    def branch_points(self) -> list[str]:
        """Groups at which paths part."""
        return [str(g) for g in self.table.loc[self.table["branch_point"], "group"]]

    def summary(self) -> str:
        """The order of the groups, the paths, what other roots and principal components make of it, and what it does not say."""
        order = self.table.dropna(subset=["median_pseudotime"]).sort_values("median_pseudotime")
        text = " → ".join(f"{r.group} ({r.median_pseudotime:.2f})" for r in order.head(8).itertuples())
        given = self.provenance.get("direction") == "given"
        direction = "fates by the transitions given" if given else "direction assumed from the root"
        lines = [
            f"{len(self.pseudotime):,} cells ordered along {self.provenance['use_rep']} from {self.root} in "
            f"{self.root_group} ({direction}): {text}{' → …' if len(order) > 8 else '.'}",
            f"{len(self.paths)} path{'s' if len(self.paths) > 1 else ''}: "
            + "; ".join(" → ".join(p["nodes"]) for p in self.paths[:6])
            + (f". They part at {', '.join(self.branch_points)}." if self.branch_points else "."),
            "This is an order along the embedding, and no claim about time.",
            *self._beside(),
        ]
        if self.unreachable:
            lines.append(self._out_of_reach())
        if self.without_vector:
            lines.append(
                f"{plural(self.without_vector, 'cell has', 'cells have')} no vector in {self.provenance['use_rep']} "
                f"and {'is' if self.without_vector == 1 else 'are'} left out."
            )
        return "\n".join(lines)

    def _beside(self) -> list[str]:
        lines = []
        if self.twin is not None:
            lines.append(
                f"On principal components of the same cells, from {self.twin.root}, the order agrees with it to Spearman "
                f"{self.twin.agreement:.2f}."
            )
        elif self.twin_missing:
            lines.append(f"No twin on principal components: {self.twin_missing}.")
        if self.agreement is not None:
            lines.append(self.agreement.summary())
        if self.roots is not None and len(self.roots):
            same = self.roots.loc[self.roots["why"] == "same group", "agreement"].dropna()
            if len(same):
                lines.append(
                    f"{plural(len(same), 'other root', 'other roots')} in {self.root_group} would give orders that agree with "
                    f"this one to Spearman {same.min():.2f}–{same.max():.2f}."
                )
            ends = self.roots[self.roots["why"] == "other end"].dropna(subset=["agreement"])
            if len(ends):
                told = ", ".join(f"{r.group} ({r.agreement:+.2f})" for r in ends.itertuples())
                lines.append(
                    f"From an end instead, the agreement would be: {told}. Nothing in the vectors says which is right."
                )
        return lines

    def _out_of_reach(self) -> str:
        told = ""
        if self.pieces is not None:
            away = self.pieces[~self.pieces["reachable"]]
            names = "; ".join(f"{r.n_cells:,} in a piece with {r.groups}" for r in away.head(4).itertuples())
            told = f" ({names}{'; …' if len(away) > 4 else ''})" if names else ""
        return (
            f"{plural(self.unreachable, 'cell', 'cells')} cannot be reached from the root{told}: the graph of neighbours falls "
            f"into pieces (try more n_neighbors, or another root). They are 'unreachable' in obs['{self.key}_branch']."
        )

    def plot(self) -> Any:
        """Pseudotime by group as boxes (Altair)."""
        alt = charts()

        order = self.table.sort_values("median_pseudotime")["group"].tolist()
        base = alt.Chart(self.table).encode(y=alt.Y("group:N", sort=order, title=None))
        bars = base.mark_bar(height=10).encode(
            x=alt.X("q25:Q", title="pseudotime (middle half of the cells)", scale=alt.Scale(domain=[0, 1])),
            x2="q75:Q",
            color=alt.Color("median_pseudotime:Q", scale=alt.Scale(scheme="viridis"), legend=None),
            tooltip=["group", "n_cells", alt.Tooltip("median_pseudotime", format=".2f"), "branch"],
        )
        return bars + base.mark_tick(thickness=2, height=16, color="#333").encode(x="median_pseudotime:Q")

    def write(self, adata: AnnData) -> None:
        """Write pseudotime and branch to ``obs``, and fates to ``obsm``."""
        import pandas as pd

        if adata.n_obs != len(self.pseudotime):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.pseudotime):,}.")
        keys = (f"{self.key}_pseudotime", f"{self.key}_branch")
        for key in keys:
            provenance.free_key(adata, "obs", key, given=True)
        fates_key = f"{self.key}_fates"
        if self.fates is not None:
            provenance.free_key(adata, "obsm", fates_key, given=True)
        for key, values in zip(keys, (self.pseudotime, pd.Categorical(self.branches)), strict=True):
            adata.obs[key] = values
            provenance.record(adata, key, self.provenance, slot="obs")
        if self.fates is not None:
            adata.obsm[fates_key] = self.fates.set_axis(adata.obs_names, axis=0)
            provenance.record(adata, fates_key, self.provenance, slot="obsm")

    # --- what can be asked of it --------------------------------------------------------

    def between(self, start: str, end: str) -> Walk:
        """The shortest way over neighbouring cells between two states: groups (their middle cell) or cells.

        Raises
        ------
        DataError
            If one of them is neither a group nor a cell, or is both (``"cell:3"`` or ``"group:3"`` says which).
        """
        from scfm_lab.tasks.order import middle_cell, walk_between

        graph, rows = self._graph()
        way, length = walk_between(graph, middle_cell(graph, str(start)), middle_cell(graph, str(end)))
        crossed = [str(g) for g in graph.labels[way]]
        return Walk(rows[way], [g for i, g in enumerate(crossed) if i == 0 or g != crossed[i - 1]], length)

    def trends(
        self,
        adata: AnnData,
        genes: Sequence[str],
        *,
        sample_key: str | None = None,
        layer: str | None = None,
        n_points: int = 50,
        n_boot: int = 100,
        seed: int = 0,
    ) -> TrendResult:
        """Expression of genes along each path, with an interval (see :func:`scfm_lab.tasks.gene_trends.gene_trends`)."""
        from scfm_lab.tasks.gene_trends import gene_trends

        return gene_trends(
            self, adata, genes, sample_key=sample_key, layer=layer, n_points=n_points, n_boot=n_boot, seed=seed
        )

    def knockout(
        self,
        adata: AnnData,
        model: Model | str | Path,
        doses: Mapping[str, float],
        *,
        null: bool = True,
        n_null: int = N_NULL,
        layer: str | None = None,
        seed: int = 0,
        progress: bool = False,
        cancel: Any = None,
    ) -> TrajectoryShift:
        """How far along, or off, a perturbation pushes cells (:func:`scfm_lab.tasks.trajectory_shift.trajectory_shift`)."""
        from scfm_lab.tasks.trajectory_shift import trajectory_shift

        return trajectory_shift(
            self,
            adata,
            model,
            doses,
            null=null,
            n_null=n_null,
            layer=layer,
            seed=seed,
            progress=progress,
            cancel=cancel,
        )

    def _graph(self) -> tuple[Graph, NDArray[np.int64]]:
        if self.graph is None or self.rows is None:
            raise DataError("This trajectory was read back without its graph of neighbours; run sl.trajectory again.")
        return self.graph, self.rows
