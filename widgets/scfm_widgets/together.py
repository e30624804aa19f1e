"""Answers of several genes at once on a page: those that were computed on the bench, as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scfm_widgets import describe
from scfm_widgets.codec import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scfm_widgets.lab import Lab
    from scfm_widgets.panel_perturb import PerturbPanel
    from scfm_widgets.payload import Payload, Room


def add_together(payload: Payload, lab: Lab, answered: Sequence[str], room: Room) -> None:
    """Put the exact answers of several genes at once on a page, the one that is shown first.

    They are not put together of single genes' answers, so that only what was computed is there. Where the page could not come
    back to the doses on the bench, its sliders begin at 1.

    Parameters
    ----------
    payload
        Of the page; the answers of single genes are on it already.
    lab
        The bench.
    answered
        Genes whose sliders work on the page; an answer of any other gene has nowhere to be shown.
    room
        What is free.
    """
    panel: PerturbPanel = lab.panel("perturb")
    missed = 0
    for doses, result in panel.together():
        if not set(doses) <= set(answered):
            missed += 1
            continue
        item = _answer(lab, panel, doses, result)
        if room.take(item["after"], text=len(json.dumps(plain(item["perturbation"])))):
            payload.together.append(item)
        else:
            missed += 1
    if missed:
        payload.left_out.append(f"{missed} of the answers of several genes together")
    if payload.together:
        payload.kernel_only.append("doses of several genes together, other than those that were computed on the bench")
    on_bench = {gene: dose for gene, dose in lab.doses.items() if dose != 1.0}
    if len(on_bench) > 1:
        held = any(item["doses"] == on_bench for item in payload.together)
        if not held and not missed:
            payload.left_out.append("doses of several genes together")
    else:
        held = set(on_bench) <= set(answered)
    if not held:
        payload.traits["doses"] = dict.fromkeys(lab.doses, 1.0)
        leave_out_effect(payload)


def leave_out_effect(payload: Payload) -> None:
    """Begin a page with the cells as they are."""
    payload.traits["_perturbation"], payload.buffers["_after"] = None, b""
    payload.traits["_after_info"] = {"dtype": "uint16", "n": 0, "version": 0}


def _answer(lab: Lab, panel: PerturbPanel, doses: dict[str, float], result: Any) -> dict[str, Any]:
    session = lab.session
    told = describe.perturbation(
        result,
        doses,
        seq=0,
        null="ready" if result.has_null else "none",
        expressing=panel.expressing(doses),
        order=session.columns.order(describe.groupby_of(result)),
    )
    return {"doses": doses, "perturbation": told, "after": session.frame.pack(result.layout.after)}
