"""What a fine-tuning will take, told before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.inference.hardware import GIB
from scfm_lab.inference.plan import with_loaded

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from scfm_lab.models.contract import Model
    from scfm_lab.training.finetune import Job

_SHARE = 0.6
_MARGIN = 1.25
#: Bytes of a trained weight beside itself: gradient, two moments of AdamW, the best so far.
_PER_WEIGHT = 16
_FEWEST_TOKENS = 512


@dataclass(frozen=True)
class FineTunePlan:
    """Cells, weights, memory and time of a fine-tuning."""

    model: str
    device: str
    cells: dict[str, int]
    """Of training, validation and test."""
    labels: int
    trained: int
    """Weights that are trained, the head's not counted."""
    parameters: int
    epochs: int
    steps: int
    """Steps of all epochs, if it is not stopped early."""
    tokens_at_once: int
    """Tokens that go through the network while gradients are kept."""
    peak_gib: float
    """Memory at most, estimated."""
    seconds: float
    """If all epochs are run, measured on a part of a step."""

    def summary(self) -> str:
        """One line for people."""
        clock = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        what = f"{self.trained:,} of {self.parameters:,} weights" if self.trained else "the head alone"
        how = f"{self.epochs} epochs ({self.steps:,} steps) at most" if self.steps else "one pass over the cells"
        return (
            f"Fine-tuning {self.model} to {self.labels} labels on {self.device}: {what}, {self.cells['train']:,} cells "
            f"({self.cells['validation']:,} for validation, {self.cells['test']:,} for the test), {how}: about {clock}, "
            f"{self.peak_gib:.1f} GiB."
        )


def plan_finetune(
    model: Model | str | Path,
    adata: AnnData,
    *,
    labels_key: str,
    sample_key: str | None = None,
    budget_gib: float | None = None,
    layer: str | None = None,
    options: Any = None,
    **settings: Any,
) -> FineTunePlan:
    """What :func:`scfm_lab.finetune` will take with the same arguments; nothing is trained.

    Raises
    ------
    ModelError, DataError
        What :func:`scfm_lab.finetune` would refuse before it begins.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> cells = cells[cells.obs["cell_type"].isin(["CD14+ Monocyte", "Dendritic"])].copy()
    >>> sl.plan_finetune("starter", cells, labels_key="cell_type", freeze="all").trained
    0
    """
    from scfm_lab.training.finetune import prepare
    from scfm_lab.training.recipe import Recipe

    unknown = sorted(set(settings) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise DataError(f"Fine-tuning has no setting {unknown[0]!r}; it has {', '.join(Recipe.__dataclass_fields__)}.")
    recipe = Recipe(**settings).check()
    return plan_of(
        prepare(model, adata, recipe, labels_key, sample_key, layer=layer, options=options), budget_gib=budget_gib
    )


def plan_of(job: Job, *, budget_gib: float | None = None) -> FineTunePlan:
    """Memory by the sizes of things, time by part of a step that is really taken (and undone).

    Raises
    ------
    DataError
        If the memory does not suffice for one cell.
    """
    from scfm_lab.training.fitting import TOKENS_AT_ONCE
    from scfm_lab.training.recipe import ALL, trainable

    model, recipe, split = job.model, job.recipe, job.split
    parameters = trainable(model, recipe.freeze)
    weights = sum(p.numel() for p in parameters.values())
    alone = recipe.freeze == ALL
    kind = model.device.split(":")[0]
    hardware = with_loaded(model)
    free = hardware.free_gib if kind == "cpu" else hardware.room_gib
    if budget_gib is not None and not 0 < budget_gib < float("inf"):
        raise DataError(f"budget_gib is {budget_gib!r}; give the GiB of memory that the run may take.")
    budget = (_SHARE * free if budget_gib is None else budget_gib) * GIB
    longest = int(job.tokens.lengths.max(initial=1))
    layers = len(model._stack()[0])  # noqa: SLF001 - the contract's own
    # Activations of every layer are kept until the gradients have come back to it.
    depth = 1 if alone else layers + 1
    counts = job.labelled.cells.counts
    held = int(counts.data.nbytes + counts.indices.nbytes) * 2 + job.tokens.ids.nbytes * 2
    fixed = int(_MARGIN * (2 * model.weight_bytes() + _PER_WEIGHT * weights + model.base_bytes()))
    fixed += held if kind == "cpu" else 0
    tokens = TOKENS_AT_ONCE.get(kind, TOKENS_AT_ONCE["cpu"])
    whole_step = recipe.batch_size * longest
    tokens = max(min(tokens, whole_step), longest)

    def activations(n: int) -> int:
        return int(_MARGIN * depth * model.batch_bytes(n, longest))

    while tokens > max(_FEWEST_TOKENS, longest) and fixed + activations(tokens) > budget:
        tokens = max(tokens // 2, longest)
    peak = fixed + activations(tokens)
    if peak > budget:
        raise DataError(
            f"Fine-tuning {model.spec.name} takes {peak / GIB:.1f} GiB for its weights and one cell of {longest:,} tokens, and "
            f"{budget / GIB:.1f} GiB may be taken; freeze more layers, read fewer genes (options={{'max_length': …}}), or give a "
            "larger budget_gib."
        )
    steps = 0 if alone and recipe.head == "linear" else recipe.epochs * -(-len(split.train) // recipe.batch_size)
    return FineTunePlan(
        model=model.spec.name,
        device=model.device,
        cells={"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        labels=len(job.labelled.names),
        trained=weights,
        parameters=model.spec.parameters,
        epochs=recipe.epochs,
        steps=steps,
        tokens_at_once=tokens,
        peak_gib=peak / GIB,
        seconds=_seconds(job, tokens, alone=alone),
    )


def _seconds(job: Job, tokens: int, *, alone: bool) -> float:
    """Seconds of a forward pass over all cells, and of training, by one part of a step."""
    import torch

    from scfm_lab.inference.engine import make_batch
    from scfm_lab.training.recipe import trainable

    model, split, recipe = job.model, job.split, job.recipe
    lengths = job.tokens.lengths
    # Some cells of middling length, as many as are taken at once.
    order = split.train[np.argsort(lengths[split.train], kind="stable")]
    count = int(max(1, min(len(order), 16, tokens // max(int(np.median(lengths[order])), 1))))
    middle = max(0, len(order) // 2 - count // 2)
    rows = order[middle : middle + count]
    batch, _ = make_batch(job.tokens, rows, torch.device(model.device))
    parameters = [] if alone else list(trainable(model, recipe.freeze).values())
    before = [p.requires_grad for p in parameters]
    with torch.no_grad():
        model._head_inputs(batch, recipe.head)  # noqa: SLF001 - warm: first calls allocate and choose kernels
        started = time.perf_counter()
        model._head_inputs(batch, recipe.head)  # noqa: SLF001
        forward = (time.perf_counter() - started) / count
    per_cell = 0.0
    if parameters:
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            started = time.perf_counter()
            found = model._head_inputs(batch, recipe.head)  # noqa: SLF001
            torch.autograd.grad(found.float().square().mean(), parameters, allow_unused=True)
            per_cell = (time.perf_counter() - started) / count
        finally:
            for parameter, wanted in zip(parameters, before, strict=True):
                parameter.requires_grad_(wanted)
    work = lengths.astype(np.float64) / max(float(lengths[rows].mean()), 1.0)
    once = forward * float(work.sum())
    epoch = per_cell * float(work[split.train].sum()) + forward * float(work[split.validation].sum())
    return once + (0.0 if alone else recipe.epochs * epoch)
