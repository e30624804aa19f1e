"""Two markers that exclude each other, hidden and predicted: whether a model knows that it is one or the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, ModelError, did_you_mean
from scfm_lab.evaluation.masked import folds_of, given_values, pca_regression, predict_hidden, seen_values, type_means
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.resampling import ends, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

PER_10K = "counts per 10,000"
MARKERS, QUANTILE, GROUPS = ("RBFOX3", "GFAP"), 0.6, ("neurons", "astrocytes")
BALANCED, AUROC, ALL = "balanced accuracy", "AUROC", "all cells"
CONSTANT, TYPE_MEAN, REGRESSION = "constant", "cell-type mean", "PCA regression"


@dataclass(frozen=True, repr=False)
class XorScores(Scores):
    """Scores of the exclusive-or of two markers, with their confusion matrices."""

    confusion: pd.DataFrame | None = None
    """part, model, truth, predicted, n_cells."""
    probabilities: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Of exactly one marker being above its threshold, for each predictor (cells,)."""


def xor(
    adata: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    markers: tuple[str, str] = MARKERS,
    quantile: float = QUANTILE,
    labels_key: str | None = "cell_type",
    groups: str | Sequence[str] | None = GROUPS,
    sample_key: str | None = None,
    predictions: Mapping[str, Any] | None = None,
    n_boot: int = 1000,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> XorScores:
    """Hide two markers, and score the probability that exactly one of them is above its threshold.

    A marker is on where its log1p of counts per 10,000 is strictly greater than its quantile over all cells given. With p and q
    the probabilities of the two, exactly one is on with p(1 − q) + q(1 − p): this takes the two for independent given what is
    seen, which is an assumption. A predictor says yes above 0.5. One that says the same of every cell scores 0.500 and 0.500.

    A model that predicts counts gives the probability by the Poisson distribution of its expected count: the likelihood that
    count models are trained with, and overconfident on read counts.

    Parameters
    ----------
    adata
        With raw counts.
    models
        That predict expression as counts.
    markers
        Two genes.
    quantile
        Of the threshold; 0.6 as published.
    labels_key
        Column of cell types; None: no floor of cell-type means, and no groups.
    groups
        Cell types that are also scored alone (with the same thresholds); None: none.
    sample_key
        Donors or samples: floors are fitted to others, and the interval is over them where there are five or more.
    predictions
        Probabilities made elsewhere: name → (cells, 2), a table with a column for each marker or an array. Rows of a table that
        is indexed by cell names are matched by them.
    n_boot
        Bootstrap samples. Of few samples more are
        drawn than asked for (1,048 of five, 412 of six), as many as the ends of their intervals take.
    seen
        What happens where scored cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    XorScores
        Balanced accuracy and AUROC of each predictor on all cells and on the groups alone; ``.confusion`` has the counts. Beside
        the models stand a constant, the mean of the cell's type, and a logistic regression on principal components.

    Raises
    ------
    DataError
        If the truth is the same in all cells, an argument does not fit the cells, or a model was trained on some of them.
    ModelError
        If a model does not predict counts.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> half = {"coin": [[0.5, 0.5]] * cells.n_obs}
    >>> scores = sl.evaluate.xor(cells, [], markers=("CD79A", "CST3"), groups=None, predictions=half, n_boot=0)
    >>> scores.of("AUROC (all cells)", "coin").value
    0.5
    """
    from scfm_lab.cells.cells import Cells, column_of
    from scfm_lab.cells.provenance import refuse_imputed
    from scfm_lab.models.load import as_model
    from scfm_lab.models.pca import log_normalised

    check_given(adata, function="sl.evaluate.xor")
    if not 0 <= quantile < 1:
        raise DataError(
            f"quantile is {quantile}; it is the part of the cells at or below the threshold, from 0 to below 1."
        )
    if isinstance(markers, str) or len(markers) != 2 or markers[0] == markers[1]:
        raise DataError("markers must be two different genes, such as ('RBFOX3', 'GFAP').")
    if n_boot < 0:
        raise DataError(f"n_boot is {n_boot}; give a number of bootstrap samples, or 0 for no intervals.")
    groups = (groups,) if isinstance(groups, str) else groups
    refuse_imputed(adata, layer, what="The truth of the XOR")
    given: Any = models if isinstance(models, (list, tuple)) else [models]
    apart = named(as_model(m) for m in given)
    opened = list(apart.values())
    for model in opened:
        _require_counts(model)
    flags = check_unseen(opened, adata, seen=seen, layer=layer, options=options)
    cells = Cells.from_anndata(adata, layer=layer, fields=sorted({f for model in opened for f in model.fields}))
    columns = np.array([cells.genes.find(gene) for gene in markers])
    labels = (
        None if labels_key is None else column_of(adata, labels_key, what="The label column").astype(str).to_numpy()
    )
    samples = (
        None if sample_key is None else column_of(adata, sample_key, what="The sample column").astype(str).to_numpy()
    )
    values = log_normalised(cells.counts[:, columns], cells.total).toarray().astype(np.float64)
    threshold = np.quantile(values, quantile, axis=0)
    on = values > threshold
    parts = _parts(labels, groups, labels_key, len(cells))
    fold, how = folds_of(len(cells), samples, seed)
    found: dict[str, NDArray[np.float64]] = {}
    for name, model in apart.items():
        with as_progress(progress, f"Hidden markers, with {name}") as report:
            rate = predict_hidden(model, cells, columns, options=options, seed=seed, progress=report, cancel=cancel)
        found[name] = _probabilities(rate, threshold, cells)
    for name, made in (predictions or {}).items():
        found[name] = given_values(made, list(markers), adata.obs_names, name)
        if np.nanmin(found[name]) < 0 or np.nanmax(found[name]) > 1:
            raise DataError(f"The prediction {name!r} holds values outside of 0 to 1; XOR needs probabilities.")
    floors = _floors(cells, columns, on, labels, fold, seed)
    scores = _scored(found, floors, on, parts, samples, tuple(markers), threshold, quantile, how, n_boot, seed)
    record = provenance.of_scores(
        apart,
        task="evaluate.xor",
        options=options,
        markers=list(markers),
        quantile=quantile,
        labels_key=labels_key,
        groups=None if groups is None else list(groups),
        sample_key=sample_key,
        predictions=list(predictions or {}),
        n_boot=n_boot,
        layer=layer,
        seed=seed,
    )
    return replace(scores, scores=flagged(scores, flags), provenance=record)


def exactly_one(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that exactly one of two independent things holds."""
    return p * (1 - q) + q * (1 - p)


def balanced_accuracy(truth: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """Mean of the shares of true and of false cells that are told right; yes is above 0.5. NaN where one kind is not there."""
    said = probability > 0.5
    if truth.all() or not truth.any():
        return np.nan
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def auroc(truth: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """Chance that a true cell has a higher probability than a false one, ties counting half; NaN where one kind is not there."""
    from scipy.stats import rankdata

    n = int(truth.sum())
    if n in (0, len(truth)):
        return np.nan
    return float((rankdata(probability)[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


_METRICS: dict[str, Callable[[NDArray[np.bool_], NDArray[np.float64]], float]] = {
    BALANCED: balanced_accuracy,
    AUROC: auroc,
}


def _require_counts(model: Model) -> None:
    model.require("impute")
    if model.decode_unit != PER_10K:
        raise ModelError(
            f"{model.spec.name} predicts {model.decode_unit}, of which no probability of a marker follows; give probabilities "
            "of your own with predictions=."
        )


def _probabilities(rate: NDArray[np.float32], threshold: NDArray[np.float64], cells: Cells) -> NDArray[np.float64]:
    """Of each marker being above its threshold, by the Poisson distribution of the expected count."""
    from scipy.stats import poisson

    size = cells.total[:, None] / 1e4
    least = np.floor(np.expm1(threshold)[None, :] * size + 1e-6)
    return np.asarray(poisson.sf(least, rate.astype(np.float64) * size), dtype=np.float64)


def _parts(
    labels: NDArray[Any] | None, groups: Sequence[str] | None, labels_key: str | None, n: int
) -> dict[str, NDArray[np.bool_]]:
    parts = {ALL: np.ones(n, dtype=bool)}
    if labels is None or groups is None:
        return parts
    known = sorted(set(labels))
    for name in groups:
        if name not in known:
            raise DataError(
                f"No cell is {name!r} in obs[{labels_key!r}]; values there: {', '.join(map(repr, known[:12]))}. Name the cell types "
                f"to score alone with groups=, or none with groups=None.{did_you_mean(name, known)}"
            )
    parts[" and ".join(groups)] = np.isin(labels, list(groups))
    return parts


def _floors(
    cells: Cells,
    columns: NDArray[np.int64],
    on: NDArray[np.bool_],
    labels: NDArray[Any] | None,
    fold: NDArray[np.int64],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of both markers without a model."""
    floors = {CONSTANT: np.full(on.shape, 0.5)}
    if labels is not None:
        floors[TYPE_MEAN] = type_means(on.astype(np.float64), labels, fold)
    seen = seen_values(cells, columns)
    if seen.shape[1] > 1:
        floors[REGRESSION] = pca_regression(seen, on, fold, seed=seed)
    return floors


def _scored(
    found: dict[str, NDArray[np.float64]],
    floors: dict[str, NDArray[np.float64]],
    on: NDArray[np.bool_],
    parts: dict[str, NDArray[np.bool_]],
    samples: NDArray[Any] | None,
    markers: tuple[str, ...],
    threshold: NDArray[np.float64],
    quantile: float,
    how: str,
    n_boot: int,
    seed: int,
) -> XorScores:
    import pandas as pd

    truth = on[:, 0] ^ on[:, 1]
    if truth.all() or not truth.any():
        raise DataError(
            f"Exactly one of {markers[0]} and {markers[1]} is above its threshold in {'all' if truth.all() else 'none'} of the "
            f"{len(truth):,} cells, so that nothing can be told apart; choose other markers or another quantile."
        )
    probabilities = {m: exactly_one(p[:, 0], p[:, 1]) for m, p in {**found, **floors}.items()}
    usable = np.all([np.isfinite(p) for p in probabilities.values()], axis=0)
    scores, confusion, notes = [], [], []
    for part, inside in parts.items():
        rows = np.flatnonzero(inside & usable)
        y = truth[rows]
        draws, unit = resamples(len(rows), None if samples is None else samples[rows], n_boot, seed)
        for metric, measure in _METRICS.items():
            floor = best_floor({m: measure(y, probabilities[m][rows]) for m in floors})
            drawn = {m: [measure(y[i], p[rows][i]) for i in draws] for m, p in probabilities.items()}
            for m, p in probabilities.items():
                scores.append(
                    Score(
                        f"{metric} ({part})",
                        m,
                        measure(y, p[rows]),
                        **ends(drawn[m], drawn.get(floor[0]), units=draws.units),
                        floor=floor[1],
                        floor_name=floor[0],
                        interval=f"95 % bootstrap over {unit}",
                        n=len(rows),
                        missing="no ceiling is known"
                        if 0 < y.sum() < len(y)
                        else "the truth is the same in all of these cells",
                    )
                )
        for m, p in probabilities.items():
            said = p[rows] > 0.5
            confusion += [
                {"part": part, "model": m, "truth": t, "predicted": s, "n_cells": int(((y == t) & (said == s)).sum())}
                for t in (True, False)
                for s in (True, False)
            ]
        notes.append(f"Exactly one marker is on in {int(y.sum()):,} of {len(rows):,} cells ({part}).")
    told = ", ".join(f"{g} above {t:.3g}" for g, t in zip(markers, threshold, strict=True))
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} cells without a prediction are left out.")
    notes += [
        f"On: {told} (log1p of counts per 10,000, quantile {quantile:g} of all cells, strictly greater). Both markers are hidden.",
        "p(1 − q) + q(1 − p) takes the two markers for independent given the rest of the cell: an assumption.",
        how,
    ]
    return XorScores(
        tuple(scores),
        title=f"{markers[0]} or {markers[1]}, and not both.",
        notes=tuple(notes),
        confusion=pd.DataFrame(confusion),
        probabilities=probabilities,
    )
