"""What parameter-free methods reach at labelling the same held-out cells after the same training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells

#: Names of the floors, and what they are.
FLOORS = {
    "pca + logistic regression": "50 principal components of the training cells' log-normalised counts, and a linear layer",
    "sctop": "ranks to normal scores, projected on the training cells' types",
}
_COMPONENTS = 50
_SEEN_IN = 3


def label_floors(
    cells: Cells,
    codes: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    n_labels: int,
    weights: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Labels of test cells by each floor.

    Parameters
    ----------
    cells, codes
        All cells and the numbers of their labels.
    train, validation, test
        Rows. Only training cells are fitted to; validation cells choose the strength of the regularisation.
    n_labels
        Labels in all.
    weights
        Weight of each label in the fit, as the model had it.

    Returns
    -------
    dict
        Name of the floor → number of each test cell's label.
    """
    pca, sctop = FLOORS
    return {
        pca: _pca(cells, codes, train, validation, test, n_labels, weights),
        sctop: _sctop(cells, codes, train, test),
    }


def _pca(
    cells: Cells,
    codes: NDArray[np.int64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    n_labels: int,
    weights: NDArray[np.float64] | None,
) -> NDArray[np.int64]:
    from sklearn.decomposition import PCA

    from scfm_lab.evaluation.linear_probe import fit_probe
    from scfm_lab.models.pca import log_normalised

    seen = np.flatnonzero(np.asarray((cells.counts[train] > 0).sum(axis=0)).ravel() >= _SEEN_IN)
    logged = log_normalised(cells.counts[:, seen], cells.total).astype(np.float64)
    width = max(1, min(_COMPONENTS, len(train) - 1, len(seen) - 1))
    pca = PCA(n_components=width, svd_solver="arpack", random_state=0).fit(logged[train])
    vectors = pca.transform(logged).astype(np.float32)
    probe = fit_probe(
        vectors[train], codes[train], vectors[validation], codes[validation], n_labels=n_labels, weights=weights
    )
    return probe.logits(vectors[test]).argmax(axis=1)


def _sctop(
    cells: Cells, codes: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.int64]:
    from scfm_lab.models.sctop import normal_scores, type_basis

    basis, types = type_basis(cells.counts[train], codes[train].astype(str))
    unit = basis / np.maximum(np.linalg.norm(basis, axis=1, keepdims=True), 1e-12)
    projection = np.linalg.pinv(unit.astype(np.float64))
    counts = cells.counts[test].astype(np.float64)
    z, zero, _ = normal_scores(counts, counts.shape[1])
    # The length of a cell's vector scales all its scores alike, and does not change which is highest.
    counts.data = z - np.repeat(zero, np.diff(counts.indptr))
    scores = counts @ projection + zero[:, None] * projection.sum(axis=0)
    return np.array(types).astype(np.int64)[scores.argmax(axis=1)]
