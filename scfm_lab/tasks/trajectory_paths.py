"""The graph of the groups, the paths through it, and what is told of each group and each piece."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.tasks.order import Graph


def paga(graph: Graph) -> list[str]:
    """Lay PAGA's graph over the groups (scanpy's); their names, in its order."""
    import scanpy as sc
    from scipy import sparse

    groups = graph.work.obs[graph.group_name].cat
    near = graph.work.obsp["connectivities"].tocoo()
    if (groups.codes.to_numpy()[near.row] == groups.codes.to_numpy()[near.col]).all():
        # Groups of which no cell is near one of another: igraph has no matrix for a graph without edges.
        nothing = sparse.csr_matrix((len(groups.categories),) * 2)
        graph.work.uns["paga"] = {"connectivities": nothing, "connectivities_tree": nothing}
        return list(groups.categories)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.paga(graph.work, groups=graph.group_name)
    return list(groups.categories)


def find_paths(
    graph: Graph, names: list[str], root_group: str, pseudotime: NDArray[np.float32], plane: NDArray[np.float32]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Paths from the root's group through PAGA's graph, never back in pseudotime.

    Each group is reached from the earlier group that it is connected to best; the ends are the
    groups from which nothing is reached.
    """
    labels, connected = graph.labels, graph.work.uns["paga"]["connectivities"].toarray()

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


def _branch_points(paths: list[dict[str, Any]]) -> set[str]:
    """Groups from which paths go on to more than one group."""
    following: dict[str, set[str]] = {}
    for path in paths:
        for here, there in zip(path["nodes"], path["nodes"][1:], strict=False):
            following.setdefault(here, set()).add(there)
    return {group for group, others in following.items() if len(others) > 1}


def pieces_table(graph: Graph, at: int) -> pd.DataFrame:
    """The pieces that the cells fall into, and which of them the root reaches."""
    import pandas as pd

    rows = []
    for piece in np.unique(graph.pieces):
        members = np.flatnonzero(graph.pieces == piece)
        groups, counts = np.unique(graph.labels[members].astype(str), return_counts=True)
        most = np.argsort(-counts, kind="stable")[:3]
        rows.append(
            {
                "piece": int(piece),
                "n_cells": len(members),
                "groups": ", ".join(f"{groups[i]} ({counts[i]:,})" for i in most),
                "example": str(graph.work.obs_names[members[0]]),
                "reachable": bool(piece == graph.pieces[at]),
            }
        )
    return pd.DataFrame(rows)


def group_table(
    labels: NDArray[Any],
    pseudotime: NDArray[np.float32],
    branch_of: dict[str, str],
    paths: list[dict[str, Any]],
    fates: pd.DataFrame | None,
) -> pd.DataFrame:
    """Pseudotime, branch and fates of each group."""
    import pandas as pd

    parting = _branch_points(paths)
    rows = []
    for group in sorted(set(labels)):
        members = labels == group
        values = pseudotime[members]
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (np.nan,) * 3
        row = {
            "group": group,
            "n_cells": len(values),
            "median_pseudotime": middle,
            "q25": low,
            "q75": high,
            "branch": branch_of.get(group, "unreachable"),
            "branch_point": group in parting,
            "unreachable": len(values) - len(known),
        }
        if fates is not None:
            row |= {f"fate_{end}": float(fates.loc[members, end].mean()) for end in fates}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("median_pseudotime", ignore_index=True)


def connectivities_table(graph: Graph, names: list[str]) -> pd.DataFrame:
    """PAGA's connectivities of the groups."""
    import pandas as pd

    return pd.DataFrame(graph.work.uns["paga"]["connectivities"].toarray(), index=names, columns=names)
