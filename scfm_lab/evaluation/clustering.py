"""How far clusters of a model's vectors agree with known labels, beside clusters of principal components of the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import column_of, subset
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.annotation_floors import FITTED
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.once import CANNOT_BE_HAD, once, principal_components
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.resampling import ends, resamples
from scfm_lab.evaluation.score import Score, Scores
from scfm_lab.evaluation.vectors import vectors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.resampling import Draws
    from scfm_lab.models.contract import Model

FLOOR = FITTED["pca"]


def clustering(
    adata: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    labels_key: str = "cell_type",
    sample_key: str | None = None,
    floors: bool = True,
    max_cells: int = 10_000,
    n_boot: int = 100,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> Scores:
    """Agreement of k-means clusters with labels: adjusted Rand index and adjusted mutual information.

    There are as many clusters as labels, and ten starts. Both indices are 0 for clusters drawn at random and 1 for the labels
    themselves; the labels are no truth about how many groups there are.

    Parameters
    ----------
    adata
        Annotated cells with raw counts.
    models
        Models or sources.
    labels_key, sample_key
        Columns of ``obs`` with the labels, and the donor or sample over which the interval is taken where there are five or more.
    floors
        Whether principal components of the same cells are clustered beside the models; where there can be none a note says why.
    max_cells
        Clustered at most, drawn by `seed`.
    n_boot
        Bootstrap samples of the cells (or samples) that are compared; clusters are found once. Of few samples more are
        drawn than asked for (1,048 of five, 412 of six), as many as the ends of their intervals take.
    seen
        What happens where the cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    Scores
        Two scores for each model and the floor. There is no ceiling.

    Raises
    ------
    DataError
        If the labels are missing or have one value, or a model was trained on these cells.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> scores = sl.evaluate.clustering(sl.datasets.load("pbmc68k"), "pca", n_boot=20)
    >>> 0 < scores.of("adjusted Rand index", "pca").value < 1
    True
    """
    from scfm_lab.models.load import as_model

    given: Any = models if isinstance(models, (list, tuple)) else [models]
    apart = named(as_model(m) for m in given)
    opened = list(apart.values())
    rng = np.random.default_rng(seed)
    rows = np.arange(adata.n_obs)
    if len(rows) > max_cells:
        rows = np.sort(rng.choice(rows, max_cells, replace=False))
    cells = subset(adata, rows)
    labels = column_of(cells, labels_key, what="The label column", min_values=2).astype(str)
    names, truth = np.unique(labels.to_numpy(dtype=object).astype(str), return_inverse=True)
    units = None
    if sample_key is not None:
        units = column_of(cells, sample_key, what="The sample column").astype(str).to_numpy(dtype=object)
    flags = check_unseen(opened, cells, seen=seen, layer=layer, options=options)
    how: dict[str, Any] = {"layer": layer, "seed": seed, "progress": progress, "cancel": cancel}
    vectors = {name: vectors_of(cells, m, options=options, **how) for name, m in apart.items()}
    without = ""
    if floors:
        try:
            vectors[FLOOR] = principal_components(cells, layer=layer)
        except CANNOT_BE_HAD as error:
            without = f"No floor: {error}"
    good = np.flatnonzero(np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in vectors.values()]))
    if len(good) <= len(names):
        raise DataError(
            f"Only {plural(len(good), 'cell has', 'cells have')} a vector of every model; more than the {len(names)} labels are needed."
        )
    clusters = {name: _clusters(x[good], len(names), seed) for name, x in vectors.items() if name != FLOOR}
    if FLOOR in vectors:
        clusters[FLOOR] = once((FLOOR, good.tobytes()), _clusters, vectors[FLOOR][good], len(names), seed)
    draws, unit = resamples(len(good), None if units is None else units[good], n_boot, seed)
    scores = _scores(clusters, truth[good], draws, unit)
    notes = [f"{len(good):,} cells, {len(names)} labels and as many clusters (k-means); the interval is over {unit}."]
    if len(rows) < adata.n_obs:
        notes.append(f"{len(rows):,} of {adata.n_obs:,} cells are clustered (max_cells).")
    if without:
        notes.append(without)
    return Scores(
        flagged(scores, flags),
        title="Clusters beside known labels.",
        notes=tuple(notes),
        provenance=provenance.of_scores(
            apart,
            task="evaluate.clustering",
            options=options,
            labels_key=labels_key,
            sample_key=sample_key,
            clusters=len(names),
            max_cells=max_cells,
            n_boot=n_boot,
            layer=layer,
            seed=seed,
        ),
    )


def _clusters(vectors: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(k, n_init=10, random_state=seed).fit_predict(vectors.astype(np.float64)), dtype=np.int64)


def _scores(
    clusters: Mapping[str, NDArray[np.int64]],
    truth: NDArray[np.int64],
    draws: Draws,
    unit: str,
) -> list[Score]:
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    found = []
    for metric, measure in (
        ("adjusted Rand index", adjusted_rand_score),
        ("adjusted mutual information", adjusted_mutual_info_score),
    ):
        values = {name: float(measure(truth, codes)) for name, codes in clusters.items()}
        drawn = {name: [measure(truth[i], codes[i]) for i in draws] for name, codes in clusters.items()}
        found += [
            Score(
                metric,
                name,
                values[name],
                **ends(drawn[name], drawn.get(FLOOR), units=draws.units),
                floor=values.get(FLOOR, np.nan),
                floor_name=FLOOR if FLOOR in values else "",
                interval=f"95 % bootstrap over {unit}",
                n=len(truth),
                missing="no ceiling: there is no second annotation",
            )
            for name in clusters
        ]
    return found
