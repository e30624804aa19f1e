"""The metrics of scib-metrics as functions of drawn cells, so that intervals can be had of them.

scib-metrics gives one number of all cells. Here each cell's part in it is kept (by scib-metrics' own functions wherever it has
one for cells): neighbours, distances and clusters are found once, over all cells, and what is averaged is drawn.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.optional import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Measure = Callable[[NDArray[np.int64]], float]

BIOLOGY = (
    "cell types apart (cLISI)",
    "clusters agree with types (NMI)",
    "clusters agree with types (ARI)",
    "silhouette of types",
)
BATCH = (
    "batches mixed (iLISI)",
    "batches mixed within types (kBET)",
    "types connected over batches",
    "batch silhouette within types (BRAS)",
)
WHAT = "Scoring an integration"
_NEIGHBOURS = 90
"""What scIB takes for LISI and kBET; fewer where there are few cells."""
_KBET, _CONNECTED = 50, 15
_ALPHA, _FEWEST, _MOST_NEAR, _LEAST_NEAR, _COMPONENTS, _ENOUGH = 0.05, 10, 70, 10, 100, 0.75
"""Of kBET, as scib-metrics has them."""


def measures(vectors: NDArray[np.float32], batches: NDArray[Any], labels: NDArray[Any] | None) -> dict[str, Measure]:
    """Metric → its value over some cells, by their rows; a cell may come twice.

    Parameters
    ----------
    vectors
        Finite, (cells, width).
    batches, labels
        Of each cell; without labels only how far batches mix over all cells (iLISI).

    Returns
    -------
    dict
        Over ``numpy.arange(cells)`` each is what scib-metrics says; 0 to 1 (ARI: at least −0.5), higher is better.

    Raises
    ------
    DataError
        If scib-metrics is not installed.
    """
    scib = need("scib_metrics", what=WHAT)
    utils = need("scib_metrics.utils", what=WHAT)
    results = need("scib_metrics.nearest_neighbors", what=WHAT).NeighborsResults
    near, far = _with_self(vectors, min(_NEIGHBOURS, len(vectors) // 3))
    batch = np.unique(batches.astype(str), return_inverse=True)[1]

    def graph(k: int) -> Any:
        return results(indices=near[:, :k].copy(), distances=far[:, :k].copy())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {BATCH[0]: _lisi(scib.lisi_knn(graph(_NEIGHBOURS), batch), int(batch.max()) + 1, mixed=True)}
        if labels is None:
            return found
        code = np.unique(labels.astype(str), return_inverse=True)[1]
        n = int(code.max()) + 1
        clusters = np.asarray(utils.KMeans(n).fit(vectors.copy()).labels_)
        width = np.asarray(utils.silhouette_samples(vectors, code), dtype=np.float64)
        return {
            **found,
            BATCH[1]: _of_types(_accepted(scib, utils, graph(_KBET), batch, code), code),
            BATCH[2]: _of_types(_connected(graph(_CONNECTED).knn_graph_distances, code), code),
            BATCH[3]: _of_types(_overlap(utils, vectors, batch, code), code),
            BIOLOGY[0]: _lisi(scib.lisi_knn(graph(_NEIGHBOURS), code), n, mixed=False),
            **_agreement(clusters, code),
            BIOLOGY[3]: lambda rows: float((width[rows].mean() + 1) / 2),
        }


def _lisi(index: NDArray[Any], n: int, *, mixed: bool) -> Measure:
    """Scaled median of the local inverse Simpson index, of n batches or types."""

    def measure(rows: NDArray[np.int64]) -> float:
        median = np.nanmedian(np.asarray(index)[rows])
        return float((median - 1 if mixed else n - median) / (n - 1))

    return measure


def _agreement(clusters: NDArray[np.int64], code: NDArray[np.int64]) -> dict[str, Measure]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        BIOLOGY[1]: lambda rows: float(normalized_mutual_info_score(code[rows], clusters[rows])),
        BIOLOGY[2]: lambda rows: float(adjusted_rand_score(code[rows], clusters[rows])),
    }


def _of_types(values: NDArray[np.float64], code: NDArray[np.int64]) -> Measure:
    """Mean over types of the mean over their cells; cells that are NaN are left out, and types of nothing else."""

    def measure(rows: NDArray[np.int64]) -> float:
        drawn = rows[np.isfinite(values[rows])]
        n = np.bincount(code[drawn])
        total = np.bincount(code[drawn], weights=values[drawn])
        return float((total[n > 0] / n[n > 0]).mean()) if len(drawn) else np.nan

    return measure


def _connected(graph: Any, code: NDArray[np.int64]) -> NDArray[np.float64]:
    """Whether each cell is in the largest part of its type that hangs together."""
    inside = np.zeros(len(code))
    for rows in _types(code):
        parts = _parts(graph, rows)
        inside[rows] = parts == np.bincount(parts).argmax()
    return inside


def _overlap(
    utils: Any, vectors: NDArray[np.float32], batch: NDArray[np.int64], code: NDArray[np.int64]
) -> NDArray[np.float64]:
    """One minus how far each cell lies from other batches of its type; NaN in types of one batch, or of one cell each."""
    values = np.full(len(code), np.nan)
    for rows in _types(code):
        if 1 < len(np.unique(batch[rows])) < len(rows):
            how = {"metric": "cosine", "between_cluster_distances": "mean_other"}
            values[rows] = 1 - np.abs(utils.silhouette_samples(vectors[rows], batch[rows], **how))
    return values


def _accepted(
    scib: Any, utils: Any, near: Any, batch: NDArray[np.int64], code: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Whether batches are about each cell as in its type (``scib_metrics.kbet_per_label``, which keeps the share alone)."""
    values = np.full(len(code), np.nan)
    graph = near.knn_graph_connectivities.tocsr()
    for rows in _types(code):
        sizes = np.bincount(batch[rows])
        if len(rows) < _FEWEST or (sizes > 0).sum() == 1:
            continue
        k = min(_MOST_NEAR, max(_LEAST_NEAR, int(sizes[sizes > 0].mean() / 4)))
        parts = _parts(graph, rows)
        used = rows if parts.max() == 0 else rows[np.bincount(parts)[parts] >= 3 * k]
        values[rows] = 0
        if len(used) < _ENOUGH * len(rows):
            continue
        own = graph[used][:, used]
        own.sort_indices()
        try:
            about = utils.diffusion_nn(own, k=k, n_comps=min(_COMPONENTS, len(used) - 1))
        except ValueError:
            continue
        values[rows] = np.nan
        values[used] = np.asarray(scib.kbet(about, batches=batch[used], alpha=_ALPHA)[2]) >= _ALPHA
    return values


def _types(code: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(code == i) for i in range(int(code.max()) + 1)]


def _parts(graph: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which part of the graph each of some cells is in, told by the edges between these alone."""
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(graph[rows][:, rows], connection="strong")[1], dtype=np.int64)


def _with_self(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each cell with its neighbours, itself first, as scib-metrics wants them."""
    from scfm_lab.tasks.neighbours import Neighbours

    near, far = Neighbours(vectors, k=k - 1).own
    own = np.arange(len(vectors))[:, None]
    return np.hstack([own, near]), np.hstack([np.zeros((len(vectors), 1), np.float32), far])
