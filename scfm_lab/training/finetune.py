"""Fine-tune a model to the labels of some cells."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.given import check_given, looks_like_cells
from scfm_lab.errors import DataError, ScfmError
from scfm_lab.models.heads import LINEAR, check_kind
from scfm_lab.tasks.progress import as_progress, somebody_looks
from scfm_lab.training.labelled import read_labelled, split_cells
from scfm_lab.training.recipe import ALL, EMBEDDINGS, Recipe, check_model, trainable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.linear_probe import Probe
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens
    from scfm_lab.training.finetune_plan import FineTunePlan
    from scfm_lab.training.finetune_result import FineTuneResult
    from scfm_lab.training.labelled import Labelled, Split


def finetune(
    model: Model | str | Path,
    adata: AnnData,
    *,
    labels_key: str,
    sample_key: str | None = None,
    register: str | None = None,
    consent: str | None = None,
    head: str = LINEAR,
    freeze: int | str | Sequence[str] | None = EMBEDDINGS,
    epochs: int = 10,
    learning_rate: float = 1e-4,
    head_rate: float = 1e-3,
    layer_decay: float = 0.8,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    batch_size: int = 32,
    patience: int = 3,
    class_weight: str | None = None,
    validation: float = 0.15,
    test: float = 0.2,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    floors: bool = True,
    budget_gib: float | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> FineTuneResult:
    """Teach a model the labels of some cells, and say how well it does on cells that it has not seen.

    The head is fitted first, on the model's vectors as they are (logistic regression, for the head ``"linear"``); then head
    and layers learn together, at small rates, until the loss on the validation cells has not fallen for `patience` epochs.
    The weights that did best there are kept, those before the first step among them. The test cells are looked at once, at
    the end, beside what a head alone and the parameter-free floors do with the same cells. The model that was given stays as
    it is.

    Parameters
    ----------
    model
        An opened model or a source for :func:`scfm_lab.load_model`. `model` and `adata` may come in either order.
    adata
        Cells with raw counts.
    labels_key
        Column of ``obs`` to be learnt: at least two labels, at least 5 cells of each, no NaN.
    sample_key
        Column of ``obs`` with the donor or sample. Whole samples are then held out, and the scores tell how the model does on
        donors that it has not seen; without it cells of every label are held out alike.
    register
        Name under which the result becomes a version of the registry, its parent being the model's version there.
    consent
        With `register`: what the donors of the cells agreed to: ``"open"``, ``"no-sharing"`` or ``"patient-data"``. All but
        ``"open"`` keep the version in the registry, from its first moment on; default: what is said of the parent.
    head
        ``"linear"`` on the model's vector, or ``"published"``: what the family's authors fine-tune with (scGPT, Geneformer,
        scBERT).
    freeze
        What is not trained: ``"embeddings"`` (whatever lies below the first layer), a number of layers from the bottom (the
        embeddings with them), ``"all"`` (the head alone is fitted: right for few cells), None (nothing), or names of parts.
    epochs, patience
        Most passes over the training cells, and how many without improvement end it.
    learning_rate, head_rate, layer_decay
        Highest rate of the top layer and of the head; each layer below learns `layer_decay` times as fast as the one above.
    weight_decay, warmup, batch_size
        Of AdamW, on matrices; share of the steps in which the rate rises; cells of a step.
    class_weight
        ``"balanced"``: each label weighs as much as any other in the loss, however few its cells.
    validation, test
        Shares of the cells that are held out.
    layer, options
        As for :func:`scfm_lab.embed`.
    checkpoint
        Folder for the run's state; the same call goes on from it after a kill.
    floors
        Whether the floors are computed.
    budget_gib
        Memory the run may take; default: 60 % of what is free. Steps are cut into parts that fit.
    seed
        Of the split, the head, the order of the cells and the intervals. On a CPU with the same number of threads the same
        seed gives the same weights.
    progress
        Whether a bar is shown, with the time left; or a callable that is given cells done and cells in all.
    cancel
        A ``threading.Event``; once set, the work stops.

    Returns
    -------
    FineTuneResult
        ``.model`` labels cells without a reference (:func:`scfm_lab.annotate`, ``model.predict``); ``.table`` has the scores;
        ``.save(folder)`` and ``.register(name)`` keep it.

    Raises
    ------
    ModelError
        The model cannot be fine-tuned (the message names those that can), or has no such head.
    DataError
        Labels, shares or settings make no sense, or the memory does not suffice.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> cells = cells[cells.obs["cell_type"].isin(["CD14+ Monocyte", "Dendritic", "CD56+ NK"])].copy()
    >>> tuned = sl.finetune("starter", cells, labels_key="cell_type", freeze="all", floors=False, progress=False)
    >>> list(tuned.table["method"])
    ['fine-tuned starter']
    >>> sorted(tuned.model.classes.names)
    ['CD14+ Monocyte', 'CD56+ NK', 'Dendritic']
    """
    recipe = Recipe(
        head=head,
        freeze=freeze,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_rate=head_rate,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
        warmup=warmup,
        patience=patience,
        class_weight=class_weight,
        validation=validation,
        test=test,
        seed=seed,
    ).check()
    started = time.perf_counter()
    job = prepare(
        model, adata, recipe, labels_key, sample_key, layer=layer, options=options, register=register, consent=consent
    )
    from scfm_lab.training.finetune_plan import plan_of

    plan = plan_of(job, budget_gib=budget_gib)
    if progress and somebody_looks():
        sys.stderr.write(plan.summary() + "\n")
    with as_progress(progress, f"Fine-tuning {job.model.spec.name}") as report:
        trained = _train(job, plan, None if checkpoint is None else Path(checkpoint).expanduser(), report, cancel)
    from scfm_lab.training import rescue
    from scfm_lab.training.finetune_result import finish

    result = finish(job, trained, plan, floors=floors, seconds=time.perf_counter() - started)
    if register is not None:
        rescue.register(result, register, consent=consent)
    return result


@dataclass(frozen=True)
class Job:
    """A fine-tuning that was checked and can begin."""

    model: Model
    recipe: Recipe
    labelled: Labelled
    tokens: Tokens
    split: Split
    weights: NDArray[np.float64] | None
    options: dict[str, Any]
    layer: str | None

    @property
    def identity(self) -> str:
        """Changes with the cells, their labels, the model and the settings."""
        from scfm_lab.cells.data_digest import digest_of
        from scfm_lab.models.finetuned import tensors_digest, weights_of

        told = [
            digest_of(self.labelled.cells, self.labelled.annotations),
            tensors_digest(weights_of(self.model)),
            json.dumps([self.recipe.to_dict(), self.options], sort_keys=True, default=str),
        ]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def prepare(
    model: Model | str | Path,
    adata: AnnData,
    recipe: Recipe,
    labels_key: str,
    sample_key: str | None,
    *,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    register: str | None = None,
    consent: str | None = None,
) -> Job:
    """Check everything that can be wrong before any work is done."""
    from scfm_lab.models.load import as_model

    given: Any = adata
    if looks_like_cells(model) and not looks_like_cells(adata):
        model, given = given, model
    check_given(given, model, function="sl.finetune", call="sl.finetune(model, adata, labels_key=…)")
    opened = as_model(model)
    check_model(opened)
    check_kind(recipe.head, opened.head_kinds, opened.spec.name)
    trainable(opened, recipe.freeze)
    if consent is not None and register is None:
        raise DataError("consent= is said of a version; name one with register=.")
    if register is not None:
        from scfm_lab.training.tracking import said, tracker

        tracker().check(register, opened, **said(consent))
    full = opened.check_options(options)
    if not opened.cells_alone(full):
        raise DataError(
            "Fine-tuning takes each cell by itself; leave out like_reference and what makes cells depend on each other."
        )
    labelled = read_labelled(given, opened, labels_key, sample_key, layer=layer, options=full)
    tokens = opened.tokenize(labelled.cells, options=full, seed=recipe.seed)
    usable = np.asarray(tokens.genes_seen) > 0
    if not usable.any():
        raise DataError(f"{opened.spec.name} sees a gene in none of the {len(usable):,} cells.")
    split = split_cells(labelled, usable, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    learnt = np.unique(labelled.codes[split.train])
    if len(learnt) < 2:
        raise DataError(
            f"The training cells have one label only ({labelled.names[learnt[0]]!r}); another seed, or a coarser sample_key, "
            "divides the samples otherwise."
        )
    return Job(opened, recipe, labelled, tokens, split, _weights(labelled, split, recipe), full, layer)


def _weights(labelled: Labelled, split: Split, recipe: Recipe) -> NDArray[np.float64] | None:
    if recipe.class_weight is None:
        return None
    counts = np.bincount(labelled.codes[split.train], minlength=len(labelled.names)).astype(np.float64)
    weights = np.where(counts > 0, len(split.train) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)
    return np.asarray(weights)


@dataclass(frozen=True)
class Trained:
    """What training leaves."""

    model: Model
    head: torch.nn.Module
    history: list[dict[str, Any]]
    best_epoch: int
    probe: Probe | None
    """The head alone, where it was fitted first."""
    probe_logits: NDArray[np.float32] | None
    """What it says of the test cells."""


def _train(
    job: Job, plan: FineTunePlan, checkpoint: Path | None, report: Callable[..., None] | None, cancel: Any
) -> Trained:
    from scfm_lab.inference.precision import FLOAT32
    from scfm_lab.models.heads import draw
    from scfm_lab.training.fitting import Run

    recipe, split = job.recipe, job.split
    clone = job.model._copy()  # noqa: SLF001 - the contract's own
    clone.compute, clone.auto_precision = FLOAT32, False
    clone._trained_net().requires_grad_(False)  # noqa: SLF001
    head: Any = draw(clone._new_head(recipe.head, len(job.labelled.names)), recipe.seed)  # noqa: SLF001
    alone = recipe.freeze == ALL
    n = len(job.tokens)
    whole = n if alone and recipe.head == LINEAR else n + recipe.epochs * len(split.train)

    def shifted(done: int, _total: int) -> None:
        if report is not None:
            report(done, whole)

    def later(done: int, _total: int) -> None:
        if report is not None:
            report(n + done, whole)

    features = probe = said = None
    if alone or recipe.head == LINEAR:
        features = _features(clone, job.tokens, recipe.head, shifted, cancel)
    if recipe.head == LINEAR and features is not None:
        probe = _probe(job, features)
        said = probe.logits(features[split.test])
        _load(head, probe)
        if alone:
            return Trained(clone, head.to(clone.device), [], 0, probe, said)
    run = Run(
        clone,
        head,
        job.tokens,
        job.labelled.codes,
        split,
        recipe,
        job.weights,
        features=features if alone else None,
        tokens_at_once=plan.tokens_at_once,
        identity="" if checkpoint is None else job.identity,
    )
    run.fit(checkpoint=checkpoint, progress=later, cancel=cancel)
    return Trained(clone, run.head, run.history, run.best_epoch, probe, said)


def _features(model: Model, tokens: Tokens, kind: str, report: Callable[..., None], cancel: Any) -> NDArray[np.float32]:
    """What the head reads of every cell, (cells, width); cells that the model cannot see stay 0."""
    from scfm_lab.models.trainable import head_inputs

    out: NDArray[np.float32] | None = None
    for rows, inputs in head_inputs(model, tokens, kind, progress=report, cancel=cancel):
        if inputs.ndim != 2:
            raise DataError(
                f"The published head of {model.spec.name} reads every gene of a cell, and is not fitted alone; use head='linear' "
                "with freeze='all'."
            )
        if out is None:
            out = np.zeros((len(tokens), inputs.shape[1]), np.float32)
        out[rows] = inputs.float().cpu().numpy()
    assert out is not None
    if not np.isfinite(out).all():
        raise ScfmError(f"{model.spec.name} gives vectors that are not finite for some of these cells.")
    return out


def _probe(job: Job, features: NDArray[np.float32]) -> Probe:
    from scfm_lab.evaluation.linear_probe import fit_probe

    split, codes = job.split, job.labelled.codes
    return fit_probe(
        features[split.train],
        codes[split.train],
        features[split.validation],
        codes[split.validation],
        n_labels=len(job.labelled.names),
        weights=job.weights,
    )


def _load(head: Any, probe: Probe) -> None:
    import torch

    with torch.no_grad():
        for target, value in (
            (head.mean, probe.mean),
            (head.scale, probe.scale),
            (head.out.weight, probe.weight),
            (head.out.bias, probe.bias),
        ):
            target.copy_(torch.from_numpy(value))
