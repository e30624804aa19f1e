"""Genes hidden from a model and predicted by it, and what parameter-free methods make of the same cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, GenesError
from scfm_lab.evaluation.splits import balanced_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

_COMPONENTS = 20
_FOLDS = 5


def without_genes(cells: Cells, columns: NDArray[np.int64]) -> Cells:
    """The cells as if some genes had never been measured: neither their counts nor their part of the library size are left."""
    keep = np.setdiff1d(np.arange(len(cells.genes)), columns)
    genes = cells.genes
    hidden = np.asarray(cells.counts[:, columns].sum(axis=1)).ravel()
    return replace(
        cells,
        counts=cells.counts[:, keep],
        genes=genes.take(keep),
        total=cells.total - hidden,
        baseline=None,
    )


def predict_hidden(
    model: Model,
    cells: Cells,
    columns: NDArray[np.int64],
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> NDArray[np.float32]:
    """What a model expects of genes that it does not see.

    Parameters
    ----------
    columns
        Genes to hide and to predict; other columns that the model sums into one of them are hidden too.

    Returns
    -------
    float32 (cells, columns), in the model's ``decode_unit``; NaN for cells in which it then sees no gene

    Raises
    ------
    ModelError
        If the model does not predict expression.
    GenesError
        If it does not know one of the genes.
    """
    model.require("impute")
    match = model.known_genes(cells.genes, options)
    id_of = dict(zip(match.columns.tolist(), match.ids.tolist(), strict=True))
    unknown = [str(cells.genes.names[c]) for c in columns if int(c) not in id_of]
    if unknown:
        raise GenesError(
            f"{model.spec.name} does not know {', '.join(unknown[:8])}, so it cannot predict them; leave them out."
        )
    ids = np.array([id_of[int(c)] for c in columns], dtype=np.int64)
    hidden = np.union1d(columns, match.columns[np.isin(match.ids, ids)])
    seen = without_genes(cells, hidden)
    tokens = model.tokenize(seen, options=options, seed=seed)
    return model.impute(tokens, ids, progress=progress, cancel=cancel)


def folds_of(
    n: int, samples: NDArray[Any] | None, seed: int, *, what: str = "Floors are"
) -> tuple[NDArray[np.int64], str]:
    """Fold of each cell, whole samples where they are known, and a sentence that tells which (of `what`)."""
    if samples is not None and len(set(samples)) > 1:
        return balanced_folds(samples, _FOLDS), f"{what} fitted to samples other than those predicted."
    fold = np.random.default_rng(seed).permutation(n) % _FOLDS
    return fold, f"{what} fitted to cells other than those predicted, of the same samples (name them with sample_key)."


def seen_values(cells: Cells, columns: NDArray[np.int64]) -> csr_matrix:
    """log1p of counts per 10,000 of the genes that are not hidden, without those that hardly any cell expresses."""
    from scfm_lab.models.pca import log_normalised

    seen = without_genes(cells, columns)
    often = np.flatnonzero(np.bincount(seen.counts.indices, minlength=len(seen.genes)) >= max(3, len(cells) // 50))
    return log_normalised(seen.counts[:, often], seen.total).astype(np.float64)


def type_means(values: NDArray[Any], labels: NDArray[Any], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of each gene over the cells of the same type in other folds; over all of these where the type is not there."""
    out = np.empty(values.shape, dtype=np.float64)
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        out[test] = values[train].mean(axis=0)
        for name in np.unique(labels[test]):
            same = train & (labels == name)
            if same.any():
                out[test & (labels == name)] = values[same].mean(axis=0)
    return out


def pca_regression(
    seen: csr_matrix, targets: NDArray[Any], fold: NDArray[np.int64], *, seed: int = 0
) -> NDArray[np.float64]:
    """Targets predicted from the principal components of what is seen, out of fold.

    Parameters
    ----------
    seen
        log1p of counts per 10,000 of the genes that are not hidden, (cells, genes).
    targets
        (cells, n): numbers (ridge regression), or bools (logistic regression, the probability of True).

    Returns
    -------
    float64 (cells, n)
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    out = np.empty(targets.shape, dtype=np.float64)
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        width = min(_COMPONENTS, int(train.sum()) - 1, seen.shape[1] - 1)
        if width < 1:
            raise DataError("Too few cells to fit a regression on principal components; at least a dozen are needed.")
        # Of sparse values, which are never made dense.
        pca = PCA(width, svd_solver="arpack", random_state=seed)
        scale = StandardScaler()
        x, y = scale.fit_transform(pca.fit_transform(seen[train])), targets[train]
        at = scale.transform(pca.transform(seen[test]))
        if targets.dtype != np.bool_:
            out[test] = Ridge(alpha=1.0).fit(x, y).predict(at).reshape(len(at), -1)
            continue
        for j in range(y.shape[1]):
            both = 0 < y[:, j].sum() < len(y)
            out[test, j] = (
                LogisticRegression(max_iter=1000).fit(x, y[:, j]).predict_proba(at)[:, 1] if both else y[:, j].mean()
            )
    return out


def given_values(given: Any, names: Sequence[str], obs_names: Sequence[str], what: str) -> NDArray[np.float64]:
    """Values that were predicted elsewhere, (cells, names), checked.

    The rows of a table that is indexed by cell names are put in the order of `obs_names`; other rows are taken in theirs.

    Raises
    ------
    DataError
        If they have another shape or are no numbers, a table lacks a column, or its index names other cells.
    """
    if hasattr(given, "columns"):
        missing = [name for name in names if name not in given.columns]
        if missing:
            raise DataError(f"The prediction {what!r} has no column for {', '.join(missing[:8])}.")
        given = given[list(names)]
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The prediction {what!r} cannot be read as numbers ({error}); give a table or an array of numbers, a row per cell."
        ) from error
    if values.shape != (len(obs_names), len(names)):
        raise DataError(
            f"The prediction {what!r} has the shape {values.shape}; it must have a row for each of the {len(obs_names):,} cells and a "
            f"column for each of {', '.join(map(str, names[:6]))}{', …' if len(names) > 6 else ''}."
        )
    index = getattr(given, "index", None) if hasattr(given, "columns") else None
    return values if index is None else values[_rows_of(index, obs_names, what)]


def _rows_of(index: Any, obs_names: Sequence[str], what: str) -> NDArray[np.int64]:
    """Row of a table for each cell: by its name, or by its place where the rows are merely counted."""
    import pandas as pd

    place = np.arange(len(obs_names))
    if pd.api.types.is_integer_dtype(index) and np.array_equal(index, place):
        return place
    told, cells = pd.Index(index).astype(str), pd.Index(obs_names).astype(str)
    if told.equals(cells):
        return place
    rows = told.get_indexer(cells) if told.is_unique and cells.is_unique else np.array([-1])
    if (rows < 0).any():
        other = [str(name) for name in told if name not in cells]
        raise DataError(
            f"The rows of the prediction {what!r} are not named as the cells are"
            + (f" (no cell is called {', '.join(map(repr, other[:3]))})" if other else " (names come twice)")
            + "; index it by obs_names, or reset its index where its rows are in the order of the cells."
        )
    return np.asarray(rows, dtype=np.int64)
