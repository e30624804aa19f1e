"""Order cells from a root: diffusion pseudotime, the graph of their groups (PAGA), and where each cell may end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import check_cell_names, subset
from scfm_lab.cells.given import check_given
from scfm_lab.errors import CountsError, DataError, GenesError, did_you_mean, plural
from scfm_lab.evaluation.integration import makers_seen
from scfm_lab.evaluation.overlap import check_choice
from scfm_lab.tasks.layout import Layout, find_plane, principal_plane
from scfm_lab.tasks.order import (
    Graph,
    absorption,
    directed,
    find_root,
    neighbour_graph,
    normalised,
    other_roots,
    terminal_cells,
)
from scfm_lab.tasks.trajectory_paths import connectivities_table, find_paths, group_table, paga, pieces_table
from scfm_lab.tasks.trajectory_result import TrajectoryResult, Twin
from scfm_lab.tasks.trajectory_stages import agreement

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["TrajectoryResult", "trajectory"]

_MOST_ENDS = 4
"""Ends from which the order is tried the other way round."""


def trajectory(
    adata: AnnData,
    *,
    use_rep: str,
    root: str,
    groupby: str | None = None,
    stage_key: str | None = None,
    sample_key: str | None = None,
    n_roots: int = 4,
    twin: bool = True,
    transition: Any = None,
    n_neighbors: int = 15,
    n_dcs: int = 10,
    basis: str | None = None,
    layer: str | None = None,
    key_added: str = "trajectory",
    seen: str = "refuse",
    seed: int = 0,
) -> TrajectoryResult:
    """Diffusion pseudotime from a root (on scanpy's diffusion map), PAGA's graph of the groups (scanpy's), and fate probabilities.

    The direction is assumed from the root: nothing in an embedding says which way time runs. So other plausible roots are tried
    beside it, and the same is done on principal components of the same cells.

    Parameters
    ----------
    adata
        With the representation in ``obsm``.
    use_rep
        Key in ``obsm``, such as ``"X_starter"``.
    root
        Name of a cell, or of a group of `groupby`: its cell farthest from all other groups
        is then the root. Where a cell and a group have the same name, ``"cell:3"`` or ``"group:3"`` says which.
    groupby
        Column of ``obs`` whose values are the nodes of the graph; None clusters the cells
        (Leiden).
    stage_key
        Column of ``obs`` with known stages (numbers, or ordered categories): Kendall's tau-b with pseudotime is told, beside
        that of the twin. Cells without a stage are left out of it.
    sample_key
        Column of ``obs`` with the donor or sample, over which the interval of tau-b is taken where there are five or more.
    n_roots
        Other cells of the root's group that are tried as roots; 0 for none.
    twin
        Whether to do the same on principal components (needs raw counts): from the same cell where the root is one, from the
        cell farthest from all other groups there where it is a group.
    transition
        Transition probabilities between cells, sparse (cells, cells), of something that knows the direction, such as
        ``cellrank.kernels.VelocityKernel(...).transition_matrix``. None: neighbours, without edges back in pseudotime.
    n_neighbors, n_dcs
        Of the graph of neighbours and of the diffusion map of the root's piece, of which the first component is the stationary
        one. The record tells how many were used, should the piece have fewer.
    basis
        Plane for the paths; None takes ``X_umap``, else principal components.
    layer
        Where the counts of the twin are; None looks for them.
    key_added
        ``obs[key_added + "_pseudotime"]``, ``obs[key_added + "_branch"]`` and ``obsm[key_added + "_fates"]`` are written.
    seen
        ``"refuse"`` to score the order by known stages where what made the vectors was trained on some of these cells (the order
        itself is there, and the twin's score), or ``"flag"`` the score.

    Returns
    -------
    TrajectoryResult
        Also asked for gene trends (``.trends``), ways between states (``.between``) and knockouts (``.knockout``).

    Raises
    ------
    DataError
        If the representation, the column or the root is not there, or too few cells have a vector.

    References
    ----------
    Haghverdi et al. (2016), Nature Methods 13, 845; Wolf et al. (2019), Genome Biology 20, 59; Setty et al. (2019), Nature
    Biotechnology 37, 451.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> _ = sl.embed(adata, "sctop", progress=False)
    >>> result = sl.trajectory(adata, use_rep="X_sctop", root="CD34+", groupby="cell_type")
    >>> result.root_group
    'CD34+'
    """
    started = time.perf_counter()
    check_given(adata, function="sl.trajectory")
    check_cell_names(adata)
    check_choice(seen)
    vectors, held = _vectors(adata, use_rep, n_neighbors, n_dcs)
    stage = None if stage_key is None else known_stages(adata, stage_key)
    for name in ("pseudotime", "branch"):
        provenance.free_key(adata, "obs", f"{key_added}_{name}", given=True)
    provenance.free_key(adata, "obsm", f"{key_added}_fates", given=True)

    how: dict[str, Any] = {"n_neighbors": n_neighbors, "n_dcs": n_dcs, "seed": seed}
    graph = neighbour_graph(vectors[held], adata.obs.iloc[held].copy(), groupby=groupby, **how)
    labels, at = graph.labels, find_root(graph, root)
    time_seen = graph.pseudotime(at)
    names = paga(graph)
    plane, basis_name = find_plane(adata, vectors, basis)
    paths, branch_of = find_paths(graph, names, labels[at], time_seen, plane[held])
    ends = [path["nodes"][-1] for path in paths]
    fates, lost = _fates(graph, time_seen, ends, transition, held, adata.n_obs)
    twinned, missing = _twin(adata, graph, held, root, time_seen, layer, how) if twin else (None, "")
    flags = {} if stage is None else makers_seen(adata, [use_rep], seen="flag", layer=layer)
    refused = bool(flags) and seen == "refuse"
    roots = _roots(graph, at, time_seen, ends, n_roots, None if stage is None or refused else stage[held])
    branches = np.full(adata.n_obs, "unreachable", dtype=object)
    branches[held] = [branch_of.get(g, "unreachable") for g in labels]
    pseudotime = _spread_out(time_seen, held, adata.n_obs)
    branches[np.isnan(pseudotime)] = "unreachable"
    result = TrajectoryResult(
        key=key_added,
        pseudotime=pseudotime,
        branches=branches,
        paths=paths,
        table=group_table(labels, time_seen, branch_of, paths, fates),
        connectivities=connectivities_table(graph, names),
        root=str(graph.work.obs_names[at]),
        root_group=str(labels[at]),
        groupby=graph.group_name,
        layout=Layout(plane, plane, np.zeros(len(plane), np.float32), basis_name),
        provenance={
            "task": "trajectory",
            "use_rep": use_rep,
            "of": dict(adata.uns.get(provenance.UNS, {})).get(use_rep, ""),
            "root": str(graph.work.obs_names[at]),
            "groupby": graph.group_name,
            "direction": "assumed from the root" if transition is None else "given",
            "fate_share_lost": lost,
            "n_neighbors": n_neighbors,
            "n_dcs": graph.n_dcs_used(at),
            "cells_without_vector": int(adata.n_obs - len(held)),
            "seed": seed,
            "arguments": provenance.arguments(
                stage_key=stage_key,
                sample_key=sample_key,
                n_roots=n_roots,
                twin=twin,
                n_neighbors=n_neighbors,
                n_dcs=n_dcs,
                layer=layer,
                key_added=key_added,
                seed=seed,
            ),
            "packages": provenance.package_versions(),
        },
        fates=None if fates is None else _all_rows(fates, held, adata.n_obs),
        roots=roots,
        pieces=pieces_table(graph, at),
        twin=twinned,
        twin_missing=missing,
        agreement=None
        if stage is None
        else agreement(
            adata,
            None if refused else pseudotime,
            twinned,
            stage,
            str(stage_key),
            use_rep,
            flags,
            sample_key=sample_key,
            layer=layer,
            seed=seed,
        ),
        graph=graph,
        rows=held,
    )
    result.provenance["seconds"] = time.perf_counter() - started
    result.write(adata)
    return result


def _vectors(
    adata: AnnData, use_rep: str, n_neighbors: int, n_dcs: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if n_neighbors < 2 or n_dcs < 2:
        raise DataError(
            f"n_neighbors is {n_neighbors} and n_dcs {n_dcs}; at least 2 of each are needed (the first diffusion component is "
            "the stationary one, which orders nothing)."
        )
    if use_rep not in adata.obsm:
        known = ", ".join(map(repr, adata.obsm)) or "none"
        raise DataError(
            f"obsm has no {use_rep!r}; there are: {known}. Run sl.embed first." + did_you_mean(use_rep, adata.obsm)
        )
    vectors = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    seen = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    least = max(10, n_neighbors + 1)
    if len(seen) < least:
        raise DataError(
            f"Only {plural(len(seen), 'cell has', 'cells have')} a vector in {use_rep!r}; at least {least} are needed."
        )
    return vectors, seen


def known_stages(adata: AnnData, key: str) -> NDArray[np.float64]:
    """Known stages as numbers; NaN where there is none."""
    import pandas as pd

    if key not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns[:12])) or "none"
        raise DataError(
            f"The stage column {key!r} is not in obs; columns there: {known}." + did_you_mean(key, adata.obs)
        )
    column = adata.obs[key]
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered:
        values = column.cat.codes.to_numpy(dtype=float)
        values[values < 0] = np.nan
    else:
        try:
            values = pd.to_numeric(column.astype(object)).to_numpy(dtype=float)
        except (ValueError, TypeError):
            raise DataError(
                f"The stage column {key!r} holds names, and names have no order; give numbers, or ordered categories "
                "(pandas.Categorical(..., ordered=True))."
            ) from None
    if len(np.unique(values[np.isfinite(values)])) < 2:
        raise DataError(f"The stage column {key!r} has fewer than two stages; there is no order to compare with.")
    return values


def _fates(
    graph: Graph,
    pseudotime: NDArray[np.float32],
    ends: list[str],
    transition: Any,
    seen: NDArray[np.int64],
    n: int,
) -> tuple[pd.DataFrame | None, float]:
    """Probability of each end for each cell with a vector, and the largest share of a cell's walks that is lost."""
    from scipy import sparse

    terminal = terminal_cells(graph.labels, pseudotime, ends)
    if transition is None:
        matrix = directed(graph.connectivities, pseudotime)
    else:
        given = sparse.csr_matrix(transition)
        if given.shape != (n, n):
            raise DataError(
                f"transition is {given.shape[0]:,} × {given.shape[1]:,}; it needs a row and a column for each of the {n:,} cells."
            )
        if given.nnz and given.data.min() < 0:
            raise DataError(
                "transition has negative entries; probabilities are wanted, such as a kernel's transition_matrix."
            )
        matrix = normalised(given[seen][:, seen])
    if not terminal:
        return None, 0.0
    return absorption(matrix, terminal)


def _twin(
    adata: AnnData,
    graph: Graph,
    seen: NDArray[np.int64],
    root: str,
    pseudotime: NDArray[np.float32],
    layer: str | None,
    how: dict[str, Any],
) -> tuple[Twin | None, str]:
    """The same on principal components. Of a root that is a group it has a root of its own: the model's is the model's finding."""
    from scfm_lab.evaluation.once import principal_components

    try:
        vectors = principal_components(subset(adata, seen), layer=layer)
    except (CountsError, GenesError, DataError, AttributeError) as error:
        return None, f"there are no raw counts to take them from ({str(error).split('.', maxsplit=1)[0]})"
    known = np.isfinite(vectors).all(axis=1)
    if not known.all():
        return None, f"{plural(int((~known).sum()), 'cell has', 'cells have')} no counts"
    obs = graph.work.obs[[graph.group_name]].copy()
    try:
        beside = neighbour_graph(vectors, obs, groupby=graph.group_name, **how)
        at = find_root(beside, root)
        other = beside.pseudotime(at)
    except DataError as error:
        return None, f"there it cannot be had ({str(error).split(';', maxsplit=1)[0]})"
    time_ = _spread_out(other, seen, adata.n_obs)
    plane = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    plane[seen] = principal_plane(vectors)
    layout = Layout(plane, plane, np.zeros(len(plane), np.float32), "principal components of the counts")
    return Twin(time_, _spearman(pseudotime, other), layout, str(graph.work.obs_names[at])), ""


def _roots(
    graph: Graph,
    at: int,
    pseudotime: NDArray[np.float32],
    ends: list[str],
    n_roots: int,
    stage: NDArray[np.float64] | None,
) -> pd.DataFrame:
    """What the order would be from other roots: more cells of the root's group, and the ends."""
    import pandas as pd

    tries = [(at, "chosen"), *((int(r), "same group") for r in other_roots(graph, at, n_roots))]
    last = terminal_cells(graph.labels, pseudotime, [e for e in ends if e != graph.labels[at]][:_MOST_ENDS])
    if n_roots:
        tries += [(int(rows[0]), "other end") for rows in last.values()]
    rows = []
    for row, why in tries:
        other = pseudotime if row == at else graph.pseudotime(row)
        rows.append(
            {
                "root": str(graph.work.obs_names[row]),
                "group": str(graph.labels[row]),
                "why": why,
                "agreement": _spearman(pseudotime, other),
                "tau": np.nan if stage is None else kendall(other, stage),
                "unreachable": int(np.isnan(other).sum()),
            }
        )
    return pd.DataFrame(rows)


def kendall(pseudotime: NDArray[Any], stage: NDArray[np.float64]) -> float:
    """Kendall's tau-b of the cells that have both; NaN where it means nothing."""
    from scfm_lab.evaluation.ordering import kendall_tau

    return kendall_tau(pseudotime, stage)


def _spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    from scipy import stats

    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return np.nan
    return float(stats.spearmanr(a[both], b[both])[0])


def _spread_out(values: NDArray[np.float32], rows: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    out = np.full(n, np.nan, dtype=np.float32)
    out[rows] = values
    return out


def _all_rows(table: pd.DataFrame, rows: NDArray[np.int64], n: int) -> pd.DataFrame:
    import pandas as pd

    out = np.full((n, table.shape[1]), np.nan, dtype=np.float32)
    out[rows] = table.to_numpy()
    return pd.DataFrame(out, columns=table.columns)
