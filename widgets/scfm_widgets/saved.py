"""What a person has set on a bench, kept in the notebook's file beside the picture, and brought back from there.

It is the small state, the doses and the selection: what code below the picture sets too, for programs to read. Results are not
kept: they are computed again, by that code or by hand.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, ScfmError
from scfm_widgets.codec import pack_mask, unpack_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scfm_widgets.lab import Lab

#: By which it stands among a cell's outputs; notebooks keep what they cannot show.
MIME = "application/vnd.scfm-lab.bench+json"
#: Most letters of a selection; of millions of cells it may take more and is left out.
_MOST_LETTERS = 200_000


def saved_of(lab: Lab) -> dict[str, Any]:
    """Give what is set on a bench, as plain values."""
    mask = lab.selection
    packed = base64.b64encode(zlib.compress(pack_mask(mask), 9)).decode() if mask.any() else ""
    return {
        "version": 1,
        "cells": lab.adata.n_obs,
        "state": dict(lab.state),
        "doses": {gene: float(dose) for gene, dose in lab.doses.items()},
        "selection": packed if len(packed) <= _MOST_LETTERS else "",
    }


def read_saved(path: str | Path, n: int) -> dict[str, Any]:
    """Read what a notebook's last bench of so many cells had.

    Raises
    ------
    DataError
        The file is no notebook, or it holds no such bench.
    """
    path = Path(path).expanduser()
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found = [saved for saved in _kept(notebook) if saved.get("version") == 1]
    except OSError as error:
        message = f"The notebook {path} cannot be read: {error.strerror or error}."
        raise DataError(message) from error
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        message = f"{path} is not a notebook (.ipynb), in which a bench keeps what was set on it."
        raise DataError(message) from error
    if not found:
        message = f"{path} holds no bench; it does once one has been shown in it and the notebook has been saved."
        raise DataError(message)
    fitting = [saved for saved in found if saved.get("cells") == n]
    if not fitting:
        message = f"The last bench in {path} had {found[-1].get('cells')} cells; these are {n:,}."
        raise DataError(message)
    return fitting[-1]


def bring_back(lab: Lab, saved: dict[str, Any]) -> list[str]:
    """Set on a bench what was saved, and say on it what cannot be had any more; give the latter too."""
    missed = [*_state(lab, dict(saved.get("state") or {}))]
    for name in ("selection", "doses"):
        value = saved.get(name)
        if not value:
            continue
        try:
            if name == "selection":
                lab.selection = unpack_mask(zlib.decompress(base64.b64decode(value)), lab.adata.n_obs)
            else:
                lab.doses = value
        except (ScfmError, ValueError, zlib.error):
            missed.append(name)
    if missed:
        message = (
            f"The bench is as it was left but for {', '.join(missed)}: what that needs is not in these cells. The code below "
            "the picture in the notebook computes it again."
        )
        lab.session.fail(DataError(message), "state")
    return missed


def _state(lab: Lab, state: dict[str, Any]) -> Iterator[str]:
    """Set all that can be set, one thing after the other where not all can."""
    try:
        lab.state = state
    except ScfmError:
        # A range, and what is hidden, are of the colour before them, and a root may be of the groups.
        order = sorted(state, key=lambda key: key in ("range", "hidden", "root"))
        for key in order:
            try:
                lab.state = {key: state[key]}
            except ScfmError:
                yield key


def _kept(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs") or []:
            kept = (output.get("data") or {}).get(MIME)
            if kept is not None:
                yield json.loads(kept) if isinstance(kept, str) else dict(kept)
