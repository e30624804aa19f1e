"""The order of cells from a root: neighbours, diffusion map, pseudotime, pieces and fates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, did_you_mean, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_MOST_FACTORED = 20_000
_MOST_BLOCKS = 200
_TERMINAL_SHARE = 0.1
_FEWEST_TERMINAL = 5
_CLOSEST_TO_1 = 1e-6
"""Eigenvalues come in float32, in which nearer ones cannot be told from 1."""
_FEWEST_ORDERED = 5
"""Cells of the smallest piece with a diffusion map: scanpy asks for three components, and a piece has two fewer than cells."""


@dataclass(frozen=True)
class Piece:
    """A connected piece of the cells, with a diffusion map of its own."""

    rows: NDArray[np.int64]
    """Its cells."""
    work: AnnData
    """These cells with their neighbours and the map."""


@dataclass
class Graph:
    """Cells with their neighbours, from which any root can be tried."""

    work: AnnData
    labels: NDArray[Any]
    """Group of each cell."""
    group_name: str
    n_dcs: int
    pieces: NDArray[np.int64]
    """Connected piece of each cell, the largest first."""
    seed: int = 0
    _mapped: dict[int, Piece] = field(default_factory=dict, repr=False, compare=False)

    @property
    def connectivities(self) -> csr_matrix:
        """Weights of the neighbours (UMAP's), symmetric."""
        return self.work.obsp["connectivities"].tocsr()

    @property
    def distances(self) -> csr_matrix:
        """Distances to the neighbours."""
        return self.work.obsp["distances"].tocsr()

    def piece(self, number: int) -> Piece:
        """A piece with its diffusion map.

        Every piece has a map of its own: in one of all cells the slow components are those of the most drawn-out piece and say
        nothing of any other, and each piece adds a stationary component, which tells how dense the cells lie.

        Raises
        ------
        DataError
            If its cells are so few that there is no component but the stationary one.
        """
        import scanpy as sc

        if number not in self._mapped:
            rows = np.flatnonzero(self.pieces == number)
            if len(rows) < _FEWEST_ORDERED:
                raise DataError(
                    f"The root lies in a piece of {plural(len(rows), 'cell', 'cells')} ({self.work.obs_names[rows[0]]} and its "
                    "neighbours) that is joined to no other, too few for an order; choose another root, or more n_neighbors."
                )
            work = self.work if len(rows) == self.work.n_obs else self.work[rows].copy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sc.tl.diffmap(work, n_comps=min(self.n_dcs + 1, len(rows) - 2), random_state=self.seed)
            self._mapped[number] = Piece(rows, work)
        return self._mapped[number]

    def n_dcs_used(self, root: int) -> int:
        """Components that the order from a root is made of: those asked for, or as many as its piece has."""
        return min(self.n_dcs, self.piece(int(self.pieces[root])).work.obsm["X_diffmap"].shape[1])

    def diffusion(self, number: int) -> NDArray[np.float32]:
        """Coordinates of a piece's cells without the stationary component; NaN for the cells of other pieces."""
        piece = self.piece(number)
        own = piece.work.obsm["X_diffmap"][:, 1:]
        out = np.full((self.work.n_obs, own.shape[1]), np.nan, dtype=own.dtype)
        out[piece.rows] = own
        return out

    def pseudotime(self, root: int) -> NDArray[np.float32]:
        """Diffusion pseudotime from a cell, scaled to 1 at the farthest; NaN for what cannot be reached.

        The distance of Haghverdi et al. (2016): each component but the stationary one counts λ / (1 − λ), the sum over walks of
        every length. scanpy's own leaves the components above 0.9994 as they are, which are the ones that order a long
        continuum, and adds the stationary one, which is the density.
        """
        piece = self.piece(int(self.pieces[root]))
        used = slice(1, self.n_dcs_used(root))
        values = piece.work.uns["diffmap_evals"][used].astype(np.float64)
        basis = piece.work.obsm["X_diffmap"][:, used].astype(np.float64)
        gap = basis - basis[np.searchsorted(piece.rows, root)]
        far = np.linalg.norm(gap * (values / np.maximum(1 - values, _CLOSEST_TO_1)), axis=1)
        out = np.full(self.work.n_obs, np.nan, dtype=np.float32)
        out[piece.rows] = far / far.max() if far.max() > 0 else np.nan
        return out


def neighbour_graph(
    vectors: NDArray[np.float32],
    obs: pd.DataFrame,
    *,
    groupby: str | None,
    n_neighbors: int,
    n_dcs: int,
    seed: int,
) -> Graph:
    """Neighbours and groups of cells (scanpy's).

    Raises
    ------
    DataError
        If the group column is missing, has one value, or has NaN.
    """
    import anndata as ad
    import scanpy as sc
    from scipy.sparse.csgraph import connected_components

    from scfm_lab.cells.cells import group_column
    from scfm_lab.cells.compiled import keep_code_of_umap

    keep_code_of_umap()
    work = ad.AnnData(np.zeros((len(vectors), 1), np.float32), obs=obs)
    work.obsm["rep"] = vectors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(work, n_neighbors=n_neighbors, use_rep="rep", random_state=seed)
        name = groupby or "leiden"
        if groupby is None:
            sc.tl.leiden(work, flavor="igraph", n_iterations=2, random_state=seed)
        groups = group_column(work, name, min_values=2).astype(str)
        work.obs[name] = groups.astype("category")
    _, piece = connected_components(work.obsp["connectivities"], directed=False)
    rank = np.argsort(np.argsort(-np.bincount(piece), kind="stable"), kind="stable")
    return Graph(work, groups.to_numpy(dtype=object), name, n_dcs, rank[piece].astype(np.int64), seed)


def find_root(graph: Graph, root: str) -> int:
    """Row of the root: the cell so called, or of a group the cell that lies farthest from all other groups of its piece.

    Where the piece holds no other group, farthest is meant by the vectors themselves, from the groups of other pieces.

    Raises
    ------
    DataError
        If it is neither a cell nor a group, or both.
    """
    root, work, labels = str(root), graph.work, graph.labels
    cell, members = _meant(graph, root, "The root ")
    if cell is not None:
        return cell
    if len(members) == 0:
        known = sorted(set(labels))
        raise DataError(
            f"The root {root!r} is neither a cell nor a group of {graph.group_name!r}; groups: {', '.join(known[:12])}."
            + did_you_mean(root, [*known, *work.obs_names[:5000]])
        )
    # A group that lies in several pieces begins where most of it is.
    main = int(np.bincount(graph.pieces[members]).argmax())
    inside = graph.pieces == main
    members = members[inside[members]]
    near = inside & (labels != root)
    space = graph.diffusion(main) if near.any() else work.obsm["rep"]
    near = near if near.any() else labels != root
    centres = np.array([space[near & (labels == g)].mean(axis=0) for g in sorted(set(labels[near]))])
    far = np.linalg.norm(space[members][:, None, :] - centres[None, :, :], axis=2).mean(axis=1)
    return int(members[far.argmax()])


def _meant(graph: Graph, name: str, what: str) -> tuple[int | None, NDArray[np.int64]]:
    """Row of the cell of this name, else rows of the group; ``"cell:3"`` and ``"group:3"`` tell which where both are there."""
    names = graph.work.obs_names
    kind, _, own = name.partition(":")
    if name in names or (graph.labels == name).any():
        kind, own = "", name
    members = np.flatnonzero(graph.labels == own) if kind in ("", "group") else np.empty(0, np.int64)
    cell = int(names.get_loc(own)) if kind in ("", "cell") and own in names else None
    if cell is not None and len(members):
        raise DataError(
            f"{what}{name!r} is the name of a cell and of a group of {graph.group_name!r}; write 'cell:{name}' or "
            f"'group:{name}' to say which is meant."
        )
    return cell, members


def other_roots(graph: Graph, root: int, n: int) -> NDArray[np.int64]:
    """Up to `n` other cells of the root's group and piece that could as well be the root, spread over the group."""
    members = np.flatnonzero((graph.labels == graph.labels[root]) & (graph.pieces == graph.pieces[root]))
    members = members[members != root]
    if not len(members) or n < 1:
        return np.empty(0, np.int64)
    diffusion = graph.diffusion(int(graph.pieces[root]))
    chosen: list[int] = [root]
    # The centre of the group first, then whatever is farthest from those chosen.
    centre = diffusion[members].mean(axis=0)
    chosen.append(int(members[np.linalg.norm(diffusion[members] - centre, axis=1).argmin()]))
    while len(chosen) < min(n, len(members)) + 1:
        gap = np.min([np.linalg.norm(diffusion[members] - diffusion[c], axis=1) for c in chosen], axis=0)
        chosen.append(int(members[gap.argmax()]))
    return np.array(chosen[1 : n + 1], dtype=np.int64)


def terminal_cells(
    labels: NDArray[Any], pseudotime: NDArray[np.float32], ends: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Of each end group the tenth of its cells that is latest, at least five."""
    found = {}
    for end in ends:
        rows = np.flatnonzero((labels == end) & np.isfinite(pseudotime))
        n = min(len(rows), max(_FEWEST_TERMINAL, int(np.ceil(_TERMINAL_SHARE * len(rows)))))
        if n:
            found[end] = rows[np.argsort(-pseudotime[rows], kind="stable")[:n]]
    return found


def directed(connectivities: csr_matrix, pseudotime: NDArray[np.float32]) -> csr_matrix:
    """Transition probabilities that rarely run back: a neighbour one spread earlier counts e⁻² of what it would.

    The spread is the root mean square of a cell's differences in pseudotime to its neighbours. Steps back get unlikely and not
    impossible (as in CellRank's soft threshold, Lange et al. 2022), since pseudotime has small dips where paths part. Cells
    that cannot be reached have no transitions.
    """
    from scipy import sparse

    graph = connectivities.tocoo()
    time = np.asarray(pseudotime, dtype=np.float64)
    known = np.isfinite(time)
    row, column, weight = graph.row, graph.col, graph.data
    keep = known[row] & known[column]
    row, column, weight = row[keep], column[keep], weight[keep]
    n = len(time)
    count = np.maximum(np.bincount(row, minlength=n), 1)
    gap = time[column] - time[row]
    spread = np.sqrt(np.bincount(row, gap**2, minlength=n) / count)
    back = np.minimum(gap, 0) / np.maximum(spread[row], 1e-12)
    return normalised(sparse.csr_matrix((weight * np.exp(2 * back), (row, column)), shape=graph.shape))


def normalised(matrix: csr_matrix) -> csr_matrix:
    """Rows that sum to 1; empty rows stay empty."""
    from scipy import sparse

    total = np.asarray(matrix.sum(axis=1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)
    return sparse.csr_matrix(sparse.diags(scale) @ matrix)


def absorption(transition: csr_matrix, terminal: Mapping[str, NDArray[np.int64]]) -> tuple[pd.DataFrame, float]:
    """Probability of ending in each of some sets of cells, for a walk from every cell.

    The cells of the ends absorb: with Q the steps among all other cells and R those into the ends, the probabilities are
    (1 − Q)⁻¹ R (Kemeny and Snell 1960). Walks that are lost in a dead end count for the ends in proportion to those that
    arrive. Cells from which no end can be reached have NaN.

    Returns
    -------
    (probabilities, lost)
        Rows as in the matrix, columns the ends; and the largest share of a cell's walks that is lost.
    """
    import pandas as pd
    from scipy import sparse

    ends = list(terminal)
    found = np.full((transition.shape[0], len(ends)), np.nan)
    absorbing = np.concatenate([terminal[end] for end in ends])
    inner = np.setdiff1d(np.flatnonzero(_leads_to(transition, absorbing)), absorbing)
    for j, end in enumerate(ends):
        found[terminal[end]] = 0
        found[terminal[end], j] = 1
    lost = 0.0
    if len(inner):
        rows = transition[inner].astype(np.float64)
        into = np.column_stack([np.asarray(rows[:, terminal[end]].sum(axis=1)).ravel() for end in ends])
        arrive = _solve(sparse.csr_matrix(rows[:, inner]), into)
        total = arrive.sum(axis=1, keepdims=True)
        lost = float(max(0.0, 1 - total.min()))
        found[inner] = np.divide(arrive, total, out=np.full_like(arrive, np.nan), where=total > 1e-9)
    return pd.DataFrame(found.astype(np.float32), columns=ends), lost


def _solve(q: csr_matrix, into: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 − Q)⁻¹ R: by sparse factors, or for very many cells by following the walk until nothing changes."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    if q.shape[0] <= _MOST_FACTORED:
        return np.clip(splu((sparse.identity(q.shape[0], format="csc") - q).tocsc()).solve(into), 0, 1)
    arrive = into.copy()
    for _ in range(_MOST_BLOCKS):
        before = arrive
        for _ in range(100):
            arrive = q @ arrive + into
        if np.abs(arrive - before).max() < 1e-4:
            break
    return arrive


def _leads_to(transition: csr_matrix, goals: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Cells from which one of the goals can be reached."""
    backwards = (transition > 0).T.tocsr()
    reach = np.zeros(transition.shape[0], dtype=bool)
    reach[goals] = True
    front = goals
    while len(front):
        near = np.unique(backwards[front].indices)
        front = near[~reach[near]]
        reach[front] = True
    return reach


def walk_between(graph: Graph, start: int, end: int) -> tuple[NDArray[np.int64], float]:
    """Shortest path over the neighbours from one cell to another: its cells, and its length; empty where there is none."""
    from scipy.sparse.csgraph import dijkstra

    length, before = dijkstra(graph.distances, directed=False, indices=start, return_predecessors=True)
    if not np.isfinite(length[end]):
        return np.empty(0, np.int64), float("inf")
    path = [end]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], dtype=np.int64), float(length[end])


def middle_cell(graph: Graph, group: str) -> int:
    """The cell of a group nearest to the group's mean vector, or the cell of that name.

    Raises
    ------
    DataError
        If it is neither, or both.
    """
    cell, members = _meant(graph, group, "")
    if cell is not None:
        return cell
    if not len(members):
        raise DataError(
            f"{group!r} is neither a cell nor a group of {graph.group_name!r}."
            + did_you_mean(group, sorted(set(graph.labels)))
        )
    vectors = graph.work.obsm["rep"][members]
    return int(members[np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmin()])
