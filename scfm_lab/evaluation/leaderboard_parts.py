"""The parts of a leaderboard: what each asks, and which columns of the data it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import subset

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.score import Score
    from scfm_lab.models.contract import Model

    Told = tuple[list[Score], tuple[str, ...]]
    """Scores, and notes on how they came about."""
    _Ordered = tuple[list[Score], NDArray[Any], tuple[str, ...]]

#: Columns that are taken for what they are usually called, where none is named.
USUAL = {
    "labels_key": ("cell_type", "celltype", "cell_types"),
    "batch_key": ("batch", "tech", "technology"),
    "sample_key": ("donor", "sample", "patient"),
    "stage_key": ("stage_order", "stage"),
    "perturbation_key": ("perturbation",),
}


@dataclass(frozen=True)
class Columns:
    """What the data offers."""

    labels_key: str | None = None
    batch_key: str | None = None
    sample_key: str | None = None
    stage_key: str | None = None
    root: str | None = None
    perturbation_key: str | None = None
    control: str = "control"
    layer: str | None = None

    def used(self) -> list[str]:
        """Names of the columns."""
        found = (self.labels_key, self.batch_key, self.sample_key, self.stage_key, self.perturbation_key)
        return [name for name in dict.fromkeys(found) if name]


@dataclass(frozen=True)
class Part:
    """One question of a leaderboard."""

    name: str
    title: str
    ability: str
    """What a model must be able to do."""
    missing: Callable[[AnnData, Columns], str]
    """Why these cells cannot answer it; empty where they can."""
    run: Callable[[AnnData, Model, Columns, int], Told]
    """Scores of a model, and what holds for all of them."""


def parts() -> dict[str, Part]:
    """All parts by name, in the order of the page."""
    found = (
        Part("annotation", "Labels of held-out cells", "embed", _no_labels, _annotation),
        Part("clustering", "Clusters beside known labels", "embed", _no_labels, _clustering),
        Part("integration", "Batches mixed, biology kept", "embed", _no_batches, _integration),
        Part("trajectory", "Pseudotime beside known stages", "embed", _no_stages, _trajectory),
        Part("perturbation", "Perturbations held out", "gene_embeddings", _no_perturbations, _perturbation),
    )
    return {part.name: part for part in found}


def _values(adata: AnnData, key: str) -> int:
    return int(adata.obs[key].nunique())


def _no_labels(adata: AnnData, columns: Columns) -> str:
    if columns.labels_key is None:
        return "no column of cell types is named (labels_key)"
    n = _values(adata, columns.labels_key)
    return "" if n > 1 else f"all cells have one label in {columns.labels_key!r}"


def _no_batches(adata: AnnData, columns: Columns) -> str:
    if columns.batch_key is None:
        return "no column of batches is named (batch_key)"
    return "" if _values(adata, columns.batch_key) > 1 else f"all cells are of one batch in {columns.batch_key!r}"


def _no_stages(adata: AnnData, columns: Columns) -> str:
    from scfm_lab.errors import DataError
    from scfm_lab.tasks.trajectory import known_stages

    if columns.stage_key is None:
        return "no column of known stages is named (stage_key)"
    if _values(adata, columns.stage_key) < 2:
        return f"all cells are of one stage in {columns.stage_key!r}"
    try:
        known_stages(adata, columns.stage_key)
    except DataError as error:
        return str(error).rstrip(".")
    return "" if columns.root else "no root is known: name it (root), or the cell types (labels_key)"


def _no_perturbations(adata: AnnData, columns: Columns) -> str:
    if columns.perturbation_key is None:
        return "no column of measured perturbations is named (perturbation_key)"
    there = (adata.obs[columns.perturbation_key].astype(str) == columns.control).any()
    return "" if there else f"no cell is {columns.control!r} in {columns.perturbation_key!r} (control)"


def _annotation(adata: AnnData, model: Model, columns: Columns, seed: int) -> Told:
    from scfm_lab.evaluation.annotation import annotation

    assert columns.labels_key is not None
    held = columns.sample_key or columns.batch_key
    found = annotation(adata, [model], labels_key=columns.labels_key, sample_key=held, layer=columns.layer, seed=seed)
    return list(found), found.notes


def _clustering(adata: AnnData, model: Model, columns: Columns, seed: int) -> Told:
    from scfm_lab.evaluation.clustering import clustering

    assert columns.labels_key is not None
    keys: dict[str, Any] = {"labels_key": columns.labels_key, "sample_key": columns.sample_key}
    found = clustering(adata, [model], **keys, layer=columns.layer, seed=seed)
    return list(found), found.notes


def _integration(adata: AnnData, model: Model, columns: Columns, seed: int) -> Told:
    from dataclasses import replace

    from scfm_lab.evaluation.mixing import BATCH
    from scfm_lab.evaluation.overlap import check_unseen
    from scfm_lab.tasks.integrate import integrate

    check_unseen([model], adata, layer=columns.layer)
    assert columns.batch_key is not None
    result = integrate(
        subset(adata),
        model,
        batch_key=columns.batch_key,
        labels_key=columns.labels_key,
        layer=columns.layer,
        seed=seed,
        progress=False,
    )
    assert result.scores is not None
    own = result.scores.scores[0].model
    names = {own: model.name, f"{own} + Harmony": f"{model.name} + Harmony"}
    scores = [
        replace(
            score,
            model=names.get(score.model, score.model),
            remark=f"{'batch' if score.metric in BATCH else 'biology'}; read beside the other aspect",
        )
        for score in result.scores
    ]
    return scores, result.scores.notes


def _trajectory(adata: AnnData, model: Model, columns: Columns, seed: int) -> Told:
    from dataclasses import replace

    from scfm_lab.cells.provenance import UNS
    from scfm_lab.evaluation.overlap import check_unseen
    from scfm_lab.tasks.embed import embed

    check_unseen([model], adata, layer=columns.layer)
    own = subset(adata)
    key = embed(own, model, layer=columns.layer, seed=seed, progress=False).key
    # Its training record was read above; the model need not be opened again for it.
    own.uns[UNS].pop(key)
    found, notes = _beside_floor(adata, own, key, columns, seed)
    return [replace(s, model=model.name) if s.model == key else s for s in found], notes


def _beside_floor(adata: AnnData, own: AnnData, key: str, columns: Columns, seed: int) -> Told:
    """Scores of the order by ``own.obsm[key]``, and of the order on principal components of `adata`."""
    from dataclasses import replace

    from scfm_lab.cells.cells import column_of
    from scfm_lab.evaluation.once import once
    from scfm_lab.evaluation.ordering import FLOOR, RESAMPLES, floor_over, gain_over, stage_draws
    from scfm_lab.tasks.trajectory import known_stages

    assert columns.stage_key is not None
    scores, order, notes = _ordered(own, key, columns, seed)
    # The order on principal components of all cells, from a root that lies there: one floor for every model.
    floor = once(("trajectory", columns, seed, tuple(adata.obs_names)), _trajectory_floor, adata, columns, seed)
    if isinstance(floor, str):
        return [_without_floor(s, floor.rstrip(".")) for s in scores], notes
    floors, by_components, _ = floor
    stage = known_stages(adata, columns.stage_key)
    value = floor_over(order, by_components, stage)
    if np.isfinite(value):
        samples = None
        if columns.sample_key is not None:
            samples = column_of(adata, columns.sample_key, what="The sample column").astype(str).to_numpy(dtype=object)
        draws, _ = stage_draws(stage, samples, RESAMPLES, seed)
        low, high = gain_over(order, by_components, stage, draws)
        scores = [replace(s, floor=value, floor_name=FLOOR, gain_low=low, gain_high=high) for s in scores]
    else:
        scores = [_without_floor(s, f"{FLOOR} orders too few of these cells") for s in scores]
    return [*scores, *floors], notes


def _without_floor(score: Score, why: str) -> Score:
    from dataclasses import replace

    return replace(score, missing="; ".join(filter(None, [score.missing, f"no floor: {why}"])))


def _trajectory_floor(adata: AnnData, columns: Columns, seed: int) -> _Ordered | str:
    """Scores of the order on principal components, and that order; in words why there is none."""
    from scfm_lab.evaluation.once import CANNOT_BE_HAD, principal_components
    from scfm_lab.evaluation.ordering import FLOOR

    own = subset(adata)
    try:
        own.obsm[FLOOR] = principal_components(adata, layer=columns.layer)
        return _ordered(own, FLOOR, columns, seed)
    except CANNOT_BE_HAD as error:
        return str(error)


def _ordered(adata: AnnData, key: str, columns: Columns, seed: int) -> _Ordered:
    """Scores of the order of cells by some vectors, beside known stages; the order; and notes on the scores."""
    from scfm_lab.tasks.trajectory import trajectory

    assert columns.root is not None
    result = trajectory(
        adata,
        use_rep=key,
        root=columns.root,
        groupby=columns.labels_key,
        stage_key=columns.stage_key,
        sample_key=columns.sample_key,
        n_roots=0,
        twin=False,
        layer=columns.layer,
        seed=seed,
    )
    found = result.agreement
    return list(found or ()), result.pseudotime, () if found is None else found.notes


def _perturbation(adata: AnnData, model: Model, columns: Columns, seed: int) -> Told:
    from scfm_lab.evaluation.perturbation import perturbation

    assert columns.perturbation_key is not None
    found = perturbation(
        adata,
        [model],
        perturbation_key=columns.perturbation_key,
        control=columns.control,
        layer=columns.layer,
        seed=seed,
        progress=False,
    )
    return list(found), found.notes
