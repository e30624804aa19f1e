"""Doing a fine-tuning again from its record, and comparing what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, ModelError
from scfm_lab.results import Result, charts
from scfm_registry import names
from scfm_registry.opening import Opener

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData

    from scfm_lab.training.finetune_result import FineTuneResult
    from scfm_lab.training.recipe import Recipe

#: What a record says of its cells, and the scores that are compared.
_DATA = {"labels_key": str, "sample_key": str, "layer": str, "digest": str, "cells": int, "options": dict}
_SCORES = ("macro_f1", "accuracy")


@dataclass(frozen=True, repr=False)
class Reproduction(Result):
    """A fine-tuning that was done again, beside the version that is on record.

    Attributes
    ----------
    reference
        The version.
    table
        One row per number: metric, recorded, now, difference.
    weights
        Largest difference of a trained weight, and the length of the difference relative to that of the recorded change.
    agreement
        Share of the test cells that both give the same label.
    same_code
        Whether versions of the packages are those of the record.
    """

    reference: str
    table: pd.DataFrame
    weights: tuple[float, float]
    agreement: float
    same_code: bool
    result: FineTuneResult

    @property
    def exact(self) -> bool:
        """Whether every weight is the same, bit for bit."""
        return self.weights[0] == 0

    def summary(self) -> str:
        """Same, near, or not."""
        largest, relative = self.weights
        if self.exact:
            head = f"{self.reference} was reproduced: every weight is the same, bit for bit."
        else:
            head = (
                f"{self.reference} was done again: weights differ by at most {largest:.2g} ({relative:.1%} of what the "
                f"fine-tuning changed), {self.agreement:.1%} of the test cells get the same label."
            )
        lines = [head]
        lines += [f"  {r.metric}: {r.recorded:.4f} on record, {r.now:.4f} now" for r in self.table.itertuples()]
        if not self.same_code:
            lines.append("The packages here are of other versions than those on record.")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Recorded and new numbers side by side (Altair)."""
        alt = charts()
        long = self.table.melt(id_vars="metric", value_vars=["recorded", "now"], var_name="when", value_name="value")
        return alt.Chart(long).mark_bar().encode(x="when:N", y="value:Q", column="metric:N", color="when:N")

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            **super().to_json(),
            "reference": self.reference,
            "exact": self.exact,
            "largest_difference": self.weights[0],
            "relative_difference": self.weights[1],
            "agreement": self.agreement,
            "same_code": self.same_code,
        }


class Reproducer(Opener):
    """What does a version's training again."""

    def reproduce(
        self, reference: str, adata: AnnData, *, progress: bool | Callable[..., None] = True, cancel: Any = None
    ) -> Reproduction:
        """Do a version's fine-tuning again from its record, and compare.

        Parameters
        ----------
        reference
            ``name/3``, ``name@alias`` or ``name``, of a version that :func:`scfm_lab.finetune` made.
        adata
            The cells that it was fine-tuned with.

        Returns
        -------
        Reproduction
            On the same kind of machine with the same number of threads the weights are the same, bit for bit.

        Raises
        ------
        ModelError
            The version was not fine-tuned by scfm-lab, or its record asks for something else than a fine-tuning.
        DataError
            The cells are not those on record.
        """
        import scfm_lab as sl

        found, _ = self._find(names.parse(reference))
        kept = self.load(found.reference)
        record = kept.finetuning.record if kept.finetuning is not None else {}
        if record.get("method") != "finetune":
            message = (
                f"{found.reference} has no record of a fine-tuning by scfm-lab, and cannot be done again from one."
            )
            raise ModelError(message)
        recipe, data = _asked(record, found.reference)
        parent = self.load(record["parent"]["digest"], device=kept.device)
        self._require_same(adata, parent, record, found.reference)
        result = sl.finetune(
            parent,
            adata,
            labels_key=data["labels_key"],
            sample_key=data["sample_key"] or None,
            layer=data["layer"] or None,
            options=data["options"],
            floors=False,
            progress=progress,
            cancel=cancel,
            **recipe.to_dict(),
        )
        return _compared(found.reference, kept, result)

    def _require_same(self, adata: AnnData, parent: Any, record: dict[str, Any], reference: str) -> None:
        from scfm_lab.cells.data_digest import digest_of
        from scfm_lab.training.labelled import read_labelled

        data = record["data"]
        labelled = read_labelled(
            adata,
            parent,
            data["labels_key"],
            data["sample_key"] or None,
            layer=data["layer"] or None,
            options=data["options"],
        )
        now = digest_of(labelled.cells, labelled.annotations)
        if now != data["digest"]:
            message = (
                f"These {len(labelled):,} cells are not those that {reference} was fine-tuned with ({data['cells']:,} cells, "
                f"{data['digest']}; these are {now}): some count, gene or label differs."
            )
            raise DataError(message)


def _asked(record: dict[str, Any], reference: str) -> tuple[Recipe, dict[str, Any]]:
    """The settings of a record, and what it says of the cells: of an imported version, anybody's words.

    Raises
    ------
    ModelError
        They are not what scfm-lab writes.
    """
    from scfm_lab.training.recipe import Recipe

    wrong = f"The record of {reference} is not one that scfm-lab wrote, and nothing was done"
    data, metrics, code = (record.get(key) for key in ("data", "metrics", "code"))
    row = metrics[0] if isinstance(metrics, list) and metrics else None
    told = isinstance(data, dict) and all(isinstance(data.get(key), kind) for key, kind in _DATA.items())
    scored = isinstance(row, dict) and all(isinstance(row.get(key), float) for key in _SCORES)
    if not (told and scored and isinstance(code, dict)):
        raise ModelError(f"{wrong}: its cells, scores or packages are not told.")
    try:
        return Recipe.read(record["settings"]), dict(data or {})
    except DataError as error:
        raise ModelError(f"{wrong}: {error}") from error


def _compared(reference: str, kept: Any, result: FineTuneResult) -> Reproduction:
    import pandas as pd
    import torch

    from scfm_lab.cells.provenance import package_versions
    from scfm_lab.models.finetuned import changes

    before = changes(result.parent, kept)
    now = result.changed
    base = {f"net.{name}": tensor for name, tensor in result.parent._trained_net().state_dict().items()}  # noqa: SLF001
    largest, apart, moved = 0.0, 0.0, 0.0
    for name in sorted({*before, *now}):
        origin = base.get(name)
        old = before.get(name, origin)
        new = now.get(name, origin)
        assert old is not None
        assert new is not None
        difference = (old.double().cpu() - new.double().cpu()).abs()
        largest = max(largest, float(difference.max()) if difference.numel() else 0.0)
        apart += float(difference.square().sum())
        step = old.double().cpu() - (origin.double().cpu() if origin is not None else torch.zeros_like(old).double())
        moved += float(step.square().sum())
    recorded, first = kept.finetuning.record["metrics"][0], result.table.iloc[0]
    rows = [
        {
            "metric": metric,
            "recorded": float(recorded[metric]),
            "now": float(first[metric]),
            "difference": float(first[metric]) - float(recorded[metric]),
        }
        for metric in _SCORES
    ]
    return Reproduction(
        reference=reference,
        table=pd.DataFrame(rows),
        weights=(largest, float(np.sqrt(apart / moved)) if moved else 0.0),
        agreement=_agreement(kept, result),
        same_code=kept.finetuning.record["code"].get("packages") == package_versions(),
        result=result,
    )


def _agreement(kept: Any, result: FineTuneResult) -> float:
    """Share of the test cells to which both models give the same label."""
    tokens = result.test_tokens
    said = [np.asarray(model.class_logits(tokens)).argmax(axis=1) for model in (kept, result.model)]
    return float((said[0] == said[1]).mean())
