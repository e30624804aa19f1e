"""Ways to score edges from regulators to genes: three that read a model, two that read the counts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

_BLOCK = 16
_TREES, _DEPTH, _RATE, _PART, _SHARE = 60, 3, 0.1, 0.9, 0.15
"""Of boosted regression: trees, their depth, learning rate, part of the cells of a tree, share of the regulators of a split."""


@dataclass(frozen=True)
class Asked:
    """Cells, and the genes between which edges are scored."""

    cells: Cells
    model: Model
    regulators: NDArray[np.int64]
    """Columns of the counts."""
    targets: NDArray[np.int64]
    regulator_ids: NDArray[np.int64]
    """Ids in the model's vocabulary."""
    target_ids: NDArray[np.int64]
    options: Mapping[str, Any] | None
    seed: int
    progress: Callable[..., None] | None = None
    cancel: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Regulators × targets."""
        return len(self.regulators), len(self.targets)

    def check(self) -> None:
        """Stop if that was asked for."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("Stopped; nothing was written.")


def embedding(asked: Asked) -> NDArray[np.float64]:
    """Cosine of the two genes in the table that the model reads genes from; it has no direction."""
    asked.model.require_vocabulary(asked.cells.genes, asked.options)
    table = asked.model.gene_embeddings()
    place = {str(name): i for i, name in enumerate(table.index)}
    names = asked.model.vocabulary.names
    ensembl = asked.model.vocabulary.ensembl

    def unit(ids: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = [place.get(str(names[i]), place.get(str(ensembl[i]), -1)) for i in ids]
        found = np.array([table.to_numpy()[r] if r >= 0 else np.full(table.shape[1], np.nan) for r in rows], np.float64)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    return np.asarray(unit(asked.regulator_ids) @ unit(asked.target_ids).T)


def attention(asked: Asked) -> dict[tuple[int, int], NDArray[np.float64]]:
    """How much each target reads each regulator, by layer (from 1) and head (from 1).

    In each cell attention is divided by what even attention over its tokens would be, so that cells with few genes do not count
    for more; the mean is over the cells that express both, 0 where none does.
    """
    asked.model.require("attention")
    asked.model.require_vocabulary(asked.cells.genes, asked.options)
    tokens = asked.model.tokenize(asked.cells, options=asked.options, seed=asked.seed)
    size = len(asked.model.vocabulary)
    regulator, target = np.full(size, -1), np.full(size, -1)
    regulator[asked.regulator_ids] = np.arange(len(asked.regulator_ids))
    target[asked.target_ids] = np.arange(len(asked.target_ids))
    layers, lead = asked.model.spec.layers, asked.model.attention_lead
    total: NDArray[np.float64] | None = None
    seen = np.zeros(asked.shape)
    for start in range(0, len(tokens), _BLOCK):
        asked.check()
        rows = np.arange(start, min(start + _BLOCK, len(tokens)))
        some = tokens.take(rows)
        genes = asked.model.vocabulary_ids(some)
        places = [_places(genes[some.offsets[i] : some.offsets[i + 1]], regulator, target) for i in range(len(rows))]
        for r, _, t, _ in places:
            seen[np.ix_(r, t)] += 1
        for layer in range(layers):
            for weights, (r, r_at, t, t_at) in zip(
                asked.model.attention(some, hidden_layer=layer + 1), places, strict=True
            ):
                if total is None:
                    total = np.zeros((layers, weights.shape[0], *asked.shape))
                if len(r) and len(t):
                    read = weights[:, lead + t_at][:, :, lead + r_at] * weights.shape[-1]
                    total[layer][:, r[:, None], t[None, :]] += read.transpose(0, 2, 1)
        if asked.progress is not None:
            asked.progress(int(rows[-1]) + 1, len(tokens))
    if total is None:
        raise ModelError(f"{asked.model.spec.name} has no layers to read attention from.")
    mean = total / np.maximum(seen, 1)
    return {(i + 1, h + 1): mean[i, h] for i in range(layers) for h in range(mean.shape[1])}


def _places(
    ids: NDArray[np.int64], regulator: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Regulators of a cell and where they stand among its tokens, and the same of targets."""
    inside = np.flatnonzero(ids >= 0)
    # A gene that is drawn more than once is read where it stands first.
    inside = inside[np.sort(np.unique(ids[inside], return_index=True)[1])]
    r_at, t_at = inside[regulator[ids[inside]] >= 0], inside[target[ids[inside]] >= 0]
    return regulator[ids[r_at]], r_at, target[ids[t_at]], t_at


def perturbation(asked: Asked, most: int) -> NDArray[np.float64]:
    """How much knocking a regulator out changes what the model says of each target.

    Of models that predict expression: mean absolute change of log1p of the prediction. Of others: one minus the cosine of the
    target's state before and after, in the cells that express both. Over at most `most` cells that express the regulator, chosen
    by their digests.
    """
    model = asked.model
    model.require("perturb")
    model.require_vocabulary(asked.cells.genes, asked.options)
    by_gene = asked.cells.by_gene
    order = np.argsort(np.argsort(asked.cells.keys, kind="stable"))
    chosen = []
    for column in asked.regulators:
        rows = by_gene.indices[by_gene.indptr[column] : by_gene.indptr[column + 1]]
        chosen.append(np.sort(rows[np.argsort(order[rows], kind="stable")[:most]]))
    used = np.unique(np.concatenate(chosen))
    before = asked.cells.take(used)
    decodes = "impute" in model.spec.abilities
    if not decodes and not model.spec.layers:
        raise ModelError(
            f"{model.spec.name} neither predicts expression nor has states of genes, so that a knockout shows nothing of other "
            "genes; use method='embedding'."
        )
    read = _predicted if decodes else _states
    first = read(asked, before)
    out = np.zeros(asked.shape)
    for number, (column, rows) in enumerate(zip(asked.regulators, chosen, strict=True)):
        asked.check()
        at = np.searchsorted(used, rows)
        some = before.take(at)
        counts = some.counts.copy()
        counts.data[counts.indices == column] = 0
        counts.eliminate_zeros()
        after = read(asked, some.with_counts(counts))
        out[number] = _changed(first[at], after, decodes)
        if asked.progress is not None:
            asked.progress(number + 1, len(chosen))
    return out


def _predicted(asked: Asked, cells: Cells) -> NDArray[np.float32]:
    tokens = asked.model.tokenize(cells, options=asked.options, seed=asked.seed)
    found = asked.model.impute(tokens, asked.target_ids, cancel=asked.cancel)
    return np.asarray(np.log1p(np.maximum(found, 0)))[:, :, None]


def _states(asked: Asked, cells: Cells) -> NDArray[np.float32]:
    """Unit states of the targets, (cells, targets, width); NaN where a cell does not express one."""
    tokens = asked.model.tokenize(cells, options=asked.options, seed=asked.seed)
    states = asked.model.encode(tokens, genes=True, cancel=asked.cancel).genes
    if states is None:
        raise ModelError(f"{asked.model.spec.name} has no states of genes; use another method.")
    target = np.full(len(asked.model.vocabulary), -1)
    target[asked.target_ids] = np.arange(len(asked.target_ids))
    out = np.full((len(tokens), len(asked.targets), states.shape[1]), np.nan, dtype=np.float32)
    ids = asked.model.vocabulary_ids(tokens)
    inside = np.flatnonzero(ids >= 0)
    inside = inside[target[ids[inside]] >= 0]
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    unit = states[inside] / np.maximum(np.linalg.norm(states[inside], axis=1, keepdims=True), 1e-12)
    out[cell[inside], target[ids[inside]]] = unit
    return out


def _changed(before: NDArray[np.float32], after: NDArray[np.float32], decodes: bool) -> NDArray[np.float64]:
    change = np.abs(after - before)[:, :, 0] if decodes else 1 - (before * after).sum(axis=2)
    known = np.isfinite(change)
    return np.asarray(np.where(known, change, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1))


def coexpression(asked: Asked) -> NDArray[np.float64]:
    """Absolute Spearman correlation of log1p of counts per 10,000; 0 where a gene is constant."""
    from scfm_lab.evaluation.set_correlations import spearman

    columns = np.union1d(asked.regulators, asked.targets)
    r = np.abs(np.nan_to_num(spearman(_logged(asked, columns))))
    return r[np.ix_(np.searchsorted(columns, asked.regulators), np.searchsorted(columns, asked.targets))]


def boosting(asked: Asked) -> NDArray[np.float64]:
    """Importance of each regulator in a gradient-boosted regression of each target on all regulators but itself.

    As GRNBoost2, with scikit-learn: the variance of the standardised target that splits on the regulator take away.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    x, y = _logged(asked, asked.regulators), _logged(asked, asked.targets)
    out = np.zeros(asked.shape)
    for j, target in enumerate(asked.targets):
        asked.check()
        values = y[:, j]
        others = np.flatnonzero(asked.regulators != target)
        # A gene that is the only regulator has nothing that explains it.
        if values.std() == 0 or not len(others):
            continue
        fitted = GradientBoostingRegressor(
            n_estimators=_TREES,
            max_depth=_DEPTH,
            learning_rate=_RATE,
            subsample=_PART,
            max_features=max(1, int(np.ceil(_SHARE * len(others)))),
            random_state=asked.seed,
        ).fit(x[:, others], (values - values.mean()) / values.std())
        trees = fitted.estimators_[:, 0]
        out[others, j] = np.sum([t.tree_.compute_feature_importances(normalize=False) for t in trees], axis=0)
        if asked.progress is not None:
            asked.progress(j + 1, len(asked.targets))
    return out


def _logged(asked: Asked, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    from scfm_lab.models.pca import log_normalised

    return np.asarray(log_normalised(asked.cells.counts[:, columns], asked.cells.total).toarray(), dtype=np.float64)
