"""A fixed panel of real cells, and what a model makes of it, stage by stage: genes, tokens, vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens

#: The dataset that the cells are from, and how many of them, evenly spaced, are the panel.
SOURCE, CELLS = "pbmc68k", 64
#: Fewest cells of a panel that is made without being asked for, and what it may cost (floating-point operations): some ten seconds
#: on two cores. A model of hundreds of millions of parameters would otherwise keep whoever imports it waiting for an hour.
_FEWEST, _COST = 4, 2e12
#: The stages of a model's work, in order: what differs in one shows in all that follow.
STAGES = ("gene_map", "tokens", "vectors")


@dataclass(frozen=True)
class Outcome:
    """What a model made of the panel.

    Attributes
    ----------
    hashes
        Stage → SHA-256 of what came out of it; ``cells`` holds the panel's own.
    vectors
        float32, shape (cells, width); NaN where the model sees no gene.
    settings
        Device, precision, threads, and the software that ran.
    """

    hashes: dict[str, str]
    vectors: NDArray[np.float32]
    settings: dict[str, Any]


def cells(count: int = CELLS) -> AnnData:
    """The panel: `count` evenly spaced cells of the bundled dataset."""
    data = _source()
    return data[np.linspace(0, data.n_obs - 1, min(count, data.n_obs)).astype(int)].copy()


@cache
def _source() -> AnnData:
    import scfm_lab as sl

    return sl.datasets.load(SOURCE)


def affordable(model: Model) -> int:
    """How many cells a panel has that nobody asked for: all, or as many as a large model does in some seconds."""
    spec = model.spec
    layer = 4 * spec.width**2 + 2 * spec.width * (spec.feed_forward or 4 * spec.width)
    length = float(np.mean(model.tokenize(cells()).lengths)) if spec.layers else 0.0
    cost = 2 * spec.layers * layer * length
    return CELLS if cost == 0 else int(np.clip(_COST // cost, _FEWEST, CELLS))


def run(model: Model, data: AnnData) -> Outcome:
    """Let a model work on `data`, and hash every stage.

    Parameters
    ----------
    model
        Where it is and in the precision that it has.
    data
        Raw counts in ``X``.

    Raises
    ------
    ScfmError
        The model knows none of the genes.
    """
    from scfm_lab.cells.cells import Cells

    read = Cells.from_anndata(data)
    match = model.known_genes(read.genes)
    tokens = model.tokenize(data)
    vectors = np.ascontiguousarray(model.encode(tokens).cell, "<f4")
    counts = read.counts.tocsr()
    hashes = {
        "cells": _hash(counts.data.astype("<f4"), counts.indices.astype("<i8"), counts.indptr.astype("<i8")),
        "gene_map": _hash(
            match.columns.astype("<i8"),
            match.ids.astype("<i8"),
            np.frombuffer("\n".join(map(str, read.genes.names)).encode(), "u1"),
        ),
        "tokens": _tokens_hash(tokens),
        "vectors": _hash(vectors),
    }
    return Outcome(hashes, vectors, settings(model))


def settings(model: Model) -> dict[str, Any]:
    """What decides a vector's last bits, beside the model: device, precision, threads, software, processor."""
    import platform

    import torch

    from scfm_lab.cells.provenance import package_versions

    return {
        "device": model.device,
        "precision": model.precision,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": package_versions(),
    }


def _tokens_hash(tokens: Tokens) -> str:
    parts = [tokens.ids.astype("<i8"), tokens.offsets.astype("<i8")]
    parts += [] if tokens.values is None else [tokens.values.astype("<f4")]
    parts += [part.astype("<i8") for part in (tokens.positions, tokens.measured) if part is not None]
    for name in sorted(tokens.cell):
        field = np.asarray(tokens.cell[name])
        parts += [
            np.frombuffer(name.encode(), "u1"),
            field if field.dtype.kind in "biuf" else np.char.encode(field.astype(str)),
        ]
    return _hash(*parts)


def _hash(*parts: NDArray[Any]) -> str:
    """SHA-256 of arrays, each with its type and shape before it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype.str}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, float]:
    """How far vectors are from those that were expected: largest difference, and smallest cosine of a cell.

    A cell that has a vector in one only counts as cosine -1.
    """
    seen, also = np.isfinite(expected).all(axis=1), np.isfinite(found).all(axis=1)
    both = seen & also
    a, b = expected[both].astype(np.float64), found[both].astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(norms, 1e-300)
    scale = float(np.abs(a).max(initial=0.0))
    largest = float(np.abs(a - b).max(initial=0.0))
    return {
        "max_abs": largest,
        "max_relative": largest / scale if scale else 0.0,
        "min_cosine": -1.0 if (seen != also).any() else float(min(1.0, cosines.min(initial=1.0))),
    }
