"""Order cells from a root: diffusion pseudotime, and the graph of their groups (PAGA)."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import check_cell_names, group_column
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, did_you_mean, plural
from scfm_lab.results import Result, charts
from scfm_lab.tasks.layout import Layout, find_plane

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True, repr=False)
class TrajectoryResult(Result):
    """Pseudotime of each cell, and the paths from the root's group to the ends."""

    key: str
    pseudotime: NDArray[np.float32]
    """0 at the root to 1; NaN for cells that cannot be reached from it."""
    branches: NDArray[Any]
    """Path that a cell lies on: the end's name, ``"trunk"`` where paths run together, ``"unreachable"``."""
    paths: list[dict[str, Any]]
    """Each with ``nodes`` (groups from root to end) and ``points`` float32 (nodes, 2) on the plane."""
    table: pd.DataFrame
    """One row per group: n_cells, median_pseudotime, q25, q75, branch."""
    connectivities: pd.DataFrame
    """PAGA's connectivities between groups, 0 to 1."""
    root: str
    """Name of the root cell."""
    root_group: str
    groupby: str
    layout: Layout
    provenance: dict[str, Any]

    @property
    def unreachable(self) -> int:
        """Cells with a vector that cannot be reached from the root."""
        return int(np.isnan(self.pseudotime).sum()) - self.without_vector

    @property
    def without_vector(self) -> int:
        """Cells that were left out because they have no vector."""
        return int(self.provenance["cells_without_vector"])

    def summary(self) -> str:
        """The order of the groups, the paths, and what it does not say."""
        order = self.table.dropna(subset=["median_pseudotime"]).sort_values("median_pseudotime")
        text = " → ".join(f"{r.group} ({r.median_pseudotime:.2f})" for r in order.head(8).itertuples())
        lines = [
            f"{len(self.pseudotime):,} cells ordered along {self.provenance['use_rep']} from {self.root} in "
            f"{self.root_group} (direction assumed from the root): {text}{' → …' if len(order) > 8 else '.'}",
            f"{len(self.paths)} path{'s' if len(self.paths) > 1 else ''}: "
            + "; ".join(" → ".join(p["nodes"]) for p in self.paths[:6])
            + ".",
            "This is an order along the embedding, and no claim about time.",
        ]
        if self.unreachable:
            lines.append(
                f"{plural(self.unreachable, 'cell', 'cells')} cannot be reached from the root: the graph of neighbours falls into "
                "pieces (try more n_neighbors, or another root)."
            )
        if self.without_vector:
            lines.append(
                f"{plural(self.without_vector, 'cell has', 'cells have')} no vector in {self.provenance['use_rep']} "
                f"and {'is' if self.without_vector == 1 else 'are'} left out."
            )
        return "\n".join(lines)

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
        """Write pseudotime and branch to ``obs``."""
        import pandas as pd

        if adata.n_obs != len(self.pseudotime):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.pseudotime):,}.")
        keys = (f"{self.key}_pseudotime", f"{self.key}_branch")
        for key in keys:
            provenance.free_key(adata, "obs", key, given=True)
        for key, values in zip(keys, (self.pseudotime, pd.Categorical(self.branches)), strict=True):
            adata.obs[key] = values
            provenance.record(adata, key, self.provenance, slot="obs")


def trajectory(
    adata: AnnData,
    *,
    use_rep: str,
    root: str,
    groupby: str | None = None,
    n_neighbors: int = 15,
    n_dcs: int = 10,
    basis: str | None = None,
    key_added: str = "trajectory",
    seed: int = 0,
) -> TrajectoryResult:
    """Diffusion pseudotime from a root, and PAGA's graph of the groups (both scanpy's).

    The direction is assumed from the root: nothing in an embedding says which way time runs.

    Parameters
    ----------
    adata
        With the representation in ``obsm``.
    use_rep
        Key in ``obsm``, such as ``"X_starter"``.
    root
        Name of a cell, or of a group of `groupby`: its cell farthest from all other groups
        is then the root.
    groupby
        Column of ``obs`` whose values are the nodes of the graph; None clusters the cells
        (Leiden).
    n_neighbors, n_dcs
        Of the graph of neighbours and of the diffusion map.
    basis
        Plane for the paths; None takes ``X_umap``, else principal components.
    key_added
        ``obs[key_added + "_pseudotime"]`` and ``obs[key_added + "_branch"]`` are written.

    Returns
    -------
    TrajectoryResult

    Raises
    ------
    DataError
        If the representation, the column or the root is not there, or too few cells have a vector.

    References
    ----------
    Haghverdi et al. (2016), Nature Methods 13, 845; Wolf et al. (2019), Genome Biology 20, 59.
    """
    import anndata as ad
    import scanpy as sc

    started = time.perf_counter()
    check_given(adata, function="sl.trajectory")
    check_cell_names(adata)
    if n_neighbors < 2 or n_dcs < 1:
        raise DataError(f"n_neighbors is {n_neighbors} and n_dcs {n_dcs}; at least 2 and 1 are needed.")
    if use_rep not in adata.obsm:
        known = ", ".join(map(repr, adata.obsm)) or "none"
        raise DataError(
            f"obsm has no {use_rep!r}; there are: {known}. Run sl.embed first." + did_you_mean(use_rep, adata.obsm)
        )
    vectors = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    seen = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(seen) < max(10, n_neighbors + 1):
        raise DataError(
            f"Only {plural(len(seen), 'cell has', 'cells have')} a vector in {use_rep!r}; at least {max(10, n_neighbors + 1)} are needed."
        )
    for name in ("pseudotime", "branch"):
        provenance.free_key(adata, "obs", f"{key_added}_{name}", given=True)

    work = ad.AnnData(np.zeros((len(seen), 1), np.float32), obs=adata.obs.iloc[seen].copy())
    work.obsm["rep"] = vectors[seen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(work, n_neighbors=n_neighbors, use_rep="rep", random_state=seed)
        group_name = groupby or "leiden"
        if groupby is None:
            sc.tl.leiden(work, flavor="igraph", n_iterations=2, random_state=seed)
        groups = group_column(work, group_name, min_values=2).astype(str)
        work.obs[group_name] = groups.astype("category")
        sc.tl.diffmap(work, n_comps=min(n_dcs + 1, len(seen) - 2, 15), random_state=seed)
        labels = groups.to_numpy(dtype=object)
        at = _root_row(work, root, labels, group_name)
        work.uns["iroot"] = at
        sc.tl.dpt(work, n_dcs=min(n_dcs, work.obsm["X_diffmap"].shape[1]))
        sc.tl.paga(work, groups=group_name)

    time_seen = work.obs["dpt_pseudotime"].to_numpy(dtype=np.float32)
    time_seen = np.where(np.isfinite(time_seen), time_seen, np.nan)
    pseudotime = np.full(adata.n_obs, np.nan, dtype=np.float32)
    pseudotime[seen] = time_seen
    plane, basis_name = find_plane(adata, vectors, basis)
    names = list(work.obs[group_name].cat.categories)
    paths, branch_of = _paths(work, names, labels, labels[at], time_seen, plane[seen])
    branches = np.full(adata.n_obs, "unreachable", dtype=object)
    branches[seen] = [branch_of.get(g, "unreachable") for g in labels]
    branches[np.isnan(pseudotime)] = "unreachable"
    result = TrajectoryResult(
        key=key_added,
        pseudotime=pseudotime,
        branches=branches,
        paths=paths,
        table=_group_table(labels, time_seen, branch_of),
        connectivities=_connectivities(work, names),
        root=str(work.obs_names[at]),
        root_group=str(labels[at]),
        groupby=group_name,
        layout=Layout(plane, plane, np.zeros(len(plane), np.float32), basis_name),
        provenance={
            "task": "trajectory",
            "use_rep": use_rep,
            "of": dict(adata.uns.get(provenance.UNS, {})).get(use_rep, ""),
            "root": str(work.obs_names[at]),
            "groupby": group_name,
            "n_neighbors": n_neighbors,
            "n_dcs": n_dcs,
            "cells_without_vector": int(adata.n_obs - len(seen)),
            "seed": seed,
            "packages": provenance.package_versions(),
            "seconds": time.perf_counter() - started,
        },
    )
    result.write(adata)
    return result


def _root_row(work: AnnData, root: str, labels: NDArray[Any], group_name: str) -> int:
    root = str(root)
    if root in work.obs_names:
        return int(work.obs_names.get_loc(root))
    members = np.flatnonzero(labels == root)
    if len(members) == 0:
        known = sorted(set(labels))
        raise DataError(
            f"The root {root!r} is neither a cell nor a group of {group_name!r}; groups: {', '.join(known[:12])}."
            + did_you_mean(root, [*known, *work.obs_names[:5000]])
        )
    diffusion = work.obsm["X_diffmap"][:, 1:]
    others = np.flatnonzero(labels != root)
    centres = np.array([diffusion[labels == g].mean(axis=0) for g in sorted(set(labels[others]))])
    far = np.linalg.norm(diffusion[members][:, None, :] - centres[None, :, :], axis=2).mean(axis=1)
    return int(members[far.argmax()])


def _paths(
    work: AnnData,
    names: list[str],
    labels: NDArray[Any],
    root_group: str,
    pseudotime: NDArray[np.float32],
    plane: NDArray[np.float32],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Paths from the root's group through PAGA's graph, never back in pseudotime.

    Each group is reached from the earlier group that it is connected to best; the ends are the
    groups from which nothing is reached.
    """
    connected = work.uns["paga"]["connectivities"].toarray()

    def median_time(node: int) -> float:
        values = pseudotime[labels == names[node]]
        return float(np.nanmedian(values)) if np.isfinite(values).any() else np.inf

    start = names.index(root_group)
    times = np.array([median_time(node) for node in range(len(names))])
    # Where the root's group is not the first by its median, it is all the same where the paths begin.
    times[start] = -np.inf
    routes = {start: [start]}
    for node in np.argsort(times, kind="stable")[1:].tolist():
        earlier = [other for other in routes if times[other] < times[node] and connected[other, node] > 0]
        if np.isfinite(times[node]) and earlier:
            routes[node] = [*routes[max(earlier, key=lambda other: connected[other, node])], node]
    inner = {node for route in routes.values() for node in route[:-1]}
    ends = [node for node in routes if node not in inner]
    centre = {g: np.nanmedian(plane[labels == g], axis=0).astype(np.float32) for g in names}
    paths: list[dict[str, Any]] = [
        {
            "nodes": [names[i] for i in routes[end]],
            "points": np.array([centre[names[i]] for i in routes[end]], dtype=np.float32),
        }
        for end in ends
    ]
    on: dict[str, list[str]] = {}
    for path in paths:
        for node in path["nodes"]:
            on.setdefault(node, []).append(path["nodes"][-1])
    return paths, {node: ends_[0] if len(ends_) == 1 else "trunk" for node, ends_ in on.items()}


def _group_table(labels: NDArray[Any], pseudotime: NDArray[np.float32], branch_of: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for group in sorted(set(labels)):
        values = pseudotime[labels == group]
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (np.nan,) * 3
        rows.append(
            {
                "group": group,
                "n_cells": len(values),
                "median_pseudotime": middle,
                "q25": low,
                "q75": high,
                "branch": branch_of.get(group, "unreachable"),
            }
        )
    return pd.DataFrame(rows).sort_values("median_pseudotime", ignore_index=True)


def _connectivities(work: AnnData, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(work.uns["paga"]["connectivities"].toarray(), index=names, columns=names)
