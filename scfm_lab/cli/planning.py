"""What a run will take, told before it: ``scfm-lab embed --plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.cli.output import say

if TYPE_CHECKING:
    from scfm_lab.models.contract import Model


def tell_plan(
    path: str, model: Model, *, layer: str | None, model_options: dict[str, Any], budget: float | None, as_json: bool
) -> None:
    """Print the plan of embedding a file, as the Run panel of the bench shows it; a few of its cells are timed.

    Raises
    ------
    DataError
        The file does not hold cells, or the budget does not suffice for one.
    """
    from scfm_lab.cells import provenance
    from scfm_lab.cells.stored import open_stored
    from scfm_lab.inference.plan import planned

    model.require("embed")
    plan: Any = planned(open_stored(path), model, layer=layer, options=model_options, budget_gib=budget)
    asked = provenance.arguments(layer=layer, options=model_options, budget_gib=budget)
    data = {
        "summary": plan.summary(),
        "device": plan.device,
        "precision": plan.precision,
        "cells": plan.n_cells,
        "genes_per_cell": plan.median_length,
        "seconds": plan.seconds,
        "peak_gib": plan.peak_gib,
        "batch_tokens": plan.batch_tokens,
        "chunk_cells": plan.chunk_cells,
        "fit": {"verdict": plan.fit.verdict, "reason": plan.fit.reason},
        "provenance": provenance.of_model(model, task="plan", arguments=asked),
    }
    say(plan.summary(), data, as_json=as_json)
