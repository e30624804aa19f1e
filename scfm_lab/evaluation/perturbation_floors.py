"""What costs nothing to predict: no change, means, sums of singles, and a linear model with any gene table in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_lab.evaluation.profiles import Profiles

K, RIDGE = 10, 0.1
N_RANDOM = 20
"""Tables of random embeddings, whose mean is the floor: one alone is a lucky or an unlucky draw."""


def no_change(data: Profiles, train: Sequence[str], test: Sequence[str]) -> NDArray[np.float64]:
    """The real control for every perturbation, (test, genes)."""
    return np.tile(data.control, (len(test), 1))


def mean_response(data: Profiles, train: Sequence[str], test: Sequence[str]) -> NDArray[np.float64]:
    """The mean over the training perturbations, for every one."""
    return np.tile(data.mean[data.rows(list(train))].mean(axis=0), (len(test), 1))


def matching_mean(data: Profiles, train: Sequence[str], test: Sequence[str]) -> NDArray[np.float64]:
    """Systema's matching mean: of a double the mean of its two singles, of a single the mean over the training perturbations.

    That mean also stands for a single of a double that is not in training.
    """
    everything = mean_response(data, train, test)
    singles = _singles(data, train)
    for i, name in enumerate(test):
        parts = data.targets(name)
        if len(parts) > 1:
            mean = everything[i].copy()
            everything[i] = np.mean([data.mean[singles[p]] if p in singles else mean for p in parts], axis=0)
    return everything


def shared_target(data: Profiles, train: Sequence[str], test: Sequence[str]) -> NDArray[np.float64]:
    """The mean over all training perturbations that share a target, doubles too; where there is none, over all of them."""
    everything = mean_response(data, train, test)
    for i, name in enumerate(test):
        like = [n for n in train if set(data.targets(n)) & set(data.targets(name))]
        if like:
            everything[i] = data.mean[data.rows(like)].mean(axis=0)
    return everything


def additive(data: Profiles, train: Sequence[str], test: Sequence[str]) -> NDArray[np.float64]:
    """The two singles' effects added up; NaN for what is no double whose singles were both in training."""
    out = np.full((len(test), len(data.genes)), np.nan)
    singles = _singles(data, train)
    for i, name in enumerate(test):
        parts = data.targets(name)
        if len(parts) == 2 and all(p in singles for p in parts):
            out[i] = data.control + data.delta[[singles[p] for p in parts]].sum(axis=0)
    return out


def _singles(data: Profiles, train: Sequence[str]) -> dict[str, int]:
    """Target → row of the training perturbation of it alone."""
    return {data.targets(n)[0]: int(data.rows([n])[0]) for n in train if len(data.targets(n)) == 1}


def bilinear(
    data: Profiles,
    train: Sequence[str],
    test: Sequence[str],
    table: dict[str, NDArray[np.float64]],
    *,
    k: int = K,
    ridge: float = RIDGE,
) -> NDArray[np.float64]:
    """The linear model of Ahlmann-Eltze et al. 2025 (Nat Methods 22:1657): Y ≈ G·W·Pᵀ + b.

    G are `k` principal components of the training profiles over genes, P the embeddings of the perturbed genes (of a double
    their sum), b the mean training profile, and W has the closed form of a ridge regression from both sides.

    Parameters
    ----------
    table
        Gene → embedding; perturbations with a target that is not there get the mean response.

    Returns
    -------
    ndarray of float64, (test, genes)
    """
    return bilinear_of(data, train, test, [table], k=k, ridge=ridge)[0]


def bilinear_of(
    data: Profiles,
    train: Sequence[str],
    test: Sequence[str],
    tables: Sequence[dict[str, NDArray[np.float64]]],
    *,
    k: int = K,
    ridge: float = RIDGE,
) -> list[NDArray[np.float64]]:
    """:func:`bilinear` with each of several tables of the same genes; what does not depend on the table is worked out once."""
    everything = mean_response(data, train, test)
    known = [n for n in train if all(t in tables[0] for t in data.targets(n))]
    asked = [i for i, n in enumerate(test) if all(t in tables[0] for t in data.targets(n))]
    if len(known) < 2 or not asked:
        return [everything for _ in tables]
    y = data.mean[data.rows(known)].T
    b = y.mean(axis=1, keepdims=True)
    g = np.linalg.svd(y - b, full_matrices=False)[0][:, : min(k, len(known) - 1)]
    left = np.linalg.solve(g.T @ g + ridge * np.eye(g.shape[1]), g.T @ (y - b))
    out = []
    for table in tables:
        made = everything.copy()
        made[asked] = (
            g @ _weights(data, known, left, table, ridge) @ _of(data, [test[i] for i in asked], table).T + b
        ).T
        out.append(made)
    return out


def _weights(
    data: Profiles, known: Sequence[str], left: NDArray[np.float64], table: dict[str, NDArray[np.float64]], ridge: float
) -> NDArray[np.float64]:
    p = _of(data, known, table)
    return left @ p @ np.linalg.inv(p.T @ p + ridge * np.eye(p.shape[1]))


def reduced(table: Any, *, k: int = K) -> NDArray[np.float64]:
    """A table of gene embeddings as its first `k` principal components, (genes, k), each gene's of length about 1.

    Parameters
    ----------
    table
        DataFrame, genes × width.
    """
    values = table.to_numpy(dtype=np.float64)
    centred = values - values.mean(axis=0)
    # Of the width only, as vocabularies are long.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    scores = centred @ vectors[:, ::-1][:, :k]
    scores /= max(np.sqrt((scores**2).sum(axis=1).mean()), 1e-12)
    return np.asarray(scores, dtype=np.float64)


def random_table(genes: Sequence[str], *, k: int = K, seed: int | Sequence[int] = 0) -> dict[str, NDArray[np.float64]]:
    """Random embeddings: what the linear model makes of a table that knows nothing."""
    rng = np.random.default_rng(seed)
    return dict(zip(genes, rng.normal(size=(len(genes), k)) / np.sqrt(k), strict=True))


def _of(data: Profiles, names: Sequence[str], table: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Embedding of each perturbation: of a double the sum of its targets'."""
    return np.array([np.sum([table[t] for t in data.targets(name)], axis=0) for name in names])
