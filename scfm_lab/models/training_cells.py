"""Which cells the shipped models have learnt from: a score on those says nothing.

A configuration names each set of cells by its digest (``training.data[].cell_set_sha256``). The digests of the single cells
lie beside the models, for every set by all counts of a cell, and for every vocabulary by those of genes that it has. They
are found for a shipped model, for a copy of it, and for what was fine-tuned from it.
:mod:`scfm_lab.training.shipped_cells` makes the file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

FILE = Path(__file__).parent / "assets" / "training_cells.safetensors"


def sets_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Digests of the sets of cells that a configuration names; empty where it names none."""
    training = config.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    named = [item.get("cell_set_sha256") for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    return tuple(name for name in named if isinstance(name, str))


def naming(sets: Iterable[str]) -> dict[str, Any]:
    """What a configuration holds so that :func:`sets_of` finds these sets."""
    return {"training": {"data": [{"cell_set_sha256": name} for name in sets]}}


def known_name(cell_set: str, vocabulary: str) -> str:
    """Name in the file of a set's cells by the genes of one vocabulary (``sha256:…``)."""
    return f"{cell_set}/{vocabulary.removeprefix('sha256:')}"


def trained_cells(model: Model) -> list[dict[str, NDArray[np.uint64]]]:
    """Digests of the cells that a model has learnt from, one entry per set, as a fine-tuning has them.

    Returns
    -------
    list of dict
        ``"train"`` by all counts of a cell, and ``"train.known"`` by those of genes that the model knows; uint64. Empty for a
        model whose configuration names no set of which the cells are known.
    """
    if not model.learnt_from:
        return []
    from scfm_lab.training.finetune_record import vocabulary_digest

    there, vocabulary = _read(), vocabulary_digest(model)
    empty = np.empty(0, np.uint64)
    return [
        {"train": there[name], "train.known": there.get(known_name(name, vocabulary), empty)}
        for name in model.learnt_from
        if name in there
    ]


@cache
def shipped_weights() -> frozenset[str]:
    """Digests of the weights of the shipped models, as provenance has them: vectors that were written before it told more."""
    from scfm_lab.models.files import WEIGHTS, sha256

    return frozenset(sha256(weights) for weights in FILE.parent.glob(f"*/{WEIGHTS}"))


@cache
def _read() -> dict[str, NDArray[np.uint64]]:
    from safetensors.numpy import load_file

    return dict(load_file(FILE))
