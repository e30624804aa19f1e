"""What fine-tuning asks of a model: what its head reads, its layers in order, a copy of its own, and labels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_lab.errors import Cancelled, ModelError
from scfm_lab.models.tokens import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.class_labels import Prediction
    from scfm_lab.models.finetuned import FineTuning
    from scfm_lab.models.spec import Classes
    from scfm_lab.models.tokens import Tokens


class Trainable:
    """The part of :class:`~scfm_lab.models.contract.Model` that fine-tuning and labelling use.

    A family that can be fine-tuned names the ability ``"finetune"``, keeps its network in ``net`` (or
    overrides :meth:`_trained_net` and :meth:`_copy`), and gives :meth:`_stack`.
    """

    head_kinds: ClassVar[tuple[str, ...]] = ("linear",)
    """Heads that the family has (:mod:`scfm_lab.models.heads`)."""
    fixed_parts: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of parameters that are never trained: what they compute is kept for every gene."""
    classes: Classes | None = None
    """Labels that the model gives, where it was fine-tuned to some."""
    head: torch.nn.Module | None = None
    """What reads a cell and gives one logit per label."""
    head_kind: str = "linear"
    base_path: Path | None = None
    """Where the published files lie that a fine-tuned model began with."""
    finetuning: FineTuning | None = None
    """How it was fine-tuned, and from what; None: it was not, or not here."""
    learnt_from: tuple[str, ...] = ()
    """Digests of the sets of cells that its configuration names as those of its training
    (:mod:`scfm_lab.models.training_cells`)."""

    # --- what a family implements ------------------------------------------------------

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        """The layers in order, and what follows them on the way to a cell's vector (a norm, a projection)."""
        raise NotImplementedError

    def _trained_net(self) -> torch.nn.Module:
        """The network that is trained."""
        return self.net  # type: ignore[attr-defined]

    def _copy(self) -> Self:
        """A copy with a network of its own."""
        other = copy.copy(self)
        other.net = copy.deepcopy(self._trained_net())  # type: ignore[attr-defined]
        return other

    def _head_inputs(self, batch: Batch, kind: str) -> torch.Tensor:
        """What a head of this kind reads, (cells, …): for ``"linear"`` the cell's vector as published."""
        return self._forward(batch, Request())[0]  # type: ignore[attr-defined]

    def _new_head(self, kind: str, labels: int) -> torch.nn.Module:
        """A head of a kind for so many labels, its weights not yet drawn."""
        from scfm_lab.models.heads import LinearHead

        return LinearHead(self.spec.width, labels)  # type: ignore[attr-defined]

    # --- labels ------------------------------------------------------------------------

    def class_logits(
        self, tokens: Tokens, *, progress: Callable[..., None] | None = None, cancel: Any = None
    ) -> NDArray[np.float32]:
        """Logits of a fine-tuned model's labels.

        Returns
        -------
        float32 (cells, labels); NaN for cells without a gene

        Raises
        ------
        ModelError
            If the model was not fine-tuned.
        """
        import torch

        self.require("predict")  # type: ignore[attr-defined]
        if self.head is None or self.classes is None:
            raise ModelError(f"This {self.spec.name} has no head for labels.")  # type: ignore[attr-defined]
        head = self.head
        out = np.full((len(tokens), len(self.classes.names)), np.nan, dtype=np.float32)
        for rows, inputs in head_inputs(self, tokens, self.head_kind, progress=progress, cancel=cancel):
            with torch.inference_mode():
                out[rows] = head(inputs).float().cpu().numpy()
        return out

    def predict(
        self,
        adata: AnnData,
        *,
        threshold: float | None = None,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        key_added: str | None = None,
        labels_key: str | None = None,
        progress: bool | Callable[..., None] = True,
        cancel: Any = None,
    ) -> Prediction:
        """Label cells by the head of a fine-tuned model, written to ``obs``; no reference is needed.

        Parameters
        ----------
        adata
            With raw counts.
        threshold
            Cells whose most probable label is below it get ``"unknown"``; None: every cell gets its most
            probable label.
        key_added
            Columns of ``obs``: the label, and ``<key_added>_confidence``; default: the model's name.
        labels_key
            Column of ``obs`` with known labels to compare with.

        Returns
        -------
        Prediction

        Raises
        ------
        ModelError
            If the model was not fine-tuned.
        """
        from scfm_lab.models.class_labels import predict

        return predict(
            self,
            adata,
            threshold=threshold,
            layer=layer,
            options=options,
            key_added=key_added,
            labels_key=labels_key,
            progress=progress,
            cancel=cancel,
        )


def head_inputs(
    model: Any,
    tokens: Tokens,
    kind: str,
    *,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> Any:
    """What a head reads of the cells that the model can see: pairs of rows and a tensor, batch by batch.

    Raises
    ------
    Cancelled
        If `cancel` was set.
    """
    import torch

    from scfm_lab.inference.engine import TOKENS_PER_BATCH, _turn, batches, make_batch
    from scfm_lab.models.products import running

    model.check_tokens(tokens)
    device = torch.device(model.device)
    visible = np.flatnonzero(tokens.genes_seen > 0)
    done = len(tokens) - len(visible)
    limit = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    for picked in batches(tokens.lengths[visible], tokens=limit):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped; nothing was written.")
        rows = visible[picked]
        batch, _ = make_batch(tokens, rows, device)
        with _turn, torch.inference_mode(), running(model.compute):
            inputs = model._head_inputs(batch, kind)  # noqa: SLF001 - a family implements it for this
        yield rows, inputs
        done += len(rows)
        if progress is not None:
            progress(done, len(tokens))
