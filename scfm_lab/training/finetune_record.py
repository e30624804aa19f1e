"""The record of a fine-tuning: all that is needed to know what it is, and to do it again."""

from __future__ import annotations

import getpass
import math
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.digest import cell_keys, mix64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.training.finetune import Job, Trained


#: Keeps digests by known genes apart from those by all counts.
_KNOWN = 1


def parent_of(model: Model) -> dict[str, Any]:
    """What a record says of a parent; its digest in a registry is empty where it was opened from elsewhere."""
    from scfm_lab.models.finetuned import tensors_digest, weights_of

    opened = model.opened or {}
    source = model.source
    if source and not model.registered_as and Path(source).expanduser().exists() and "/" in source:
        source = str(Path(source).expanduser().resolve())
    return {
        "family": family_id(model),
        "reference": model.version,
        "digest": model.registered_digest,
        "source": source,
        "weights": model.digest,
        "tensors": tensors_digest(weights_of(model)),
        "config": dict(opened.get("config") or {}),
    }


def family_id(model: Model) -> str:
    """Id of the plugin's contribution that opens models of this class."""
    from scfm_lab.plugins import discover

    names = {f"{cls.__module__}:{cls.__qualname__}" for cls in type(model).__mro__}
    for item in discover().contributions("models"):
        if item.target in names:
            return item.id
    return f"scfm.{model.spec.family}"


def cell_digests(job: Job) -> dict[str, NDArray[np.uint64]]:
    """Digests of the cells of each part, by all their counts and by those of genes that the model knows."""
    known = known_keys(job.model, job.labelled.cells, job.options)
    found: dict[str, NDArray[np.uint64]] = {}
    for part in ("train", "validation", "test"):
        rows = getattr(job.split, part)
        found[part] = np.sort(job.labelled.cells.keys[rows])
        found[f"{part}.known"] = np.sort(known[rows])
    return found


#: :func:`known_keys` of a cell that has no count on the model's genes.
NOTHING_KNOWN = mix64(np.asarray([_KNOWN], np.uint64))[0]


def known_keys(model: Model, cells: Any, options: Any = None) -> NDArray[np.uint64]:
    """Digest of each cell by the genes that the model knows, whatever others a file holds."""
    from scfm_lab.models.contract import aligned_counts

    match = model.known_genes(cells.genes, options)
    size = int(match.ids.max(initial=0)) + 1
    return cell_keys(aligned_counts(cells, match, size), mix64(np.arange(size, dtype=np.uint64)), salt=_KNOWN)


def make_record(
    job: Job, trained: Trained, metrics: list[dict[str, Any]], *, seconds: float, remarks: list[str]
) -> dict[str, Any]:
    """The record as it is written to ``finetuning.json``."""
    from scfm_lab.cells.data_digest import digest_of

    labelled, split = job.labelled, job.split
    counts = {
        part: np.bincount(labelled.codes[getattr(split, part)], minlength=len(labelled.names)).tolist()
        for part in ("train", "validation", "test")
    }
    return _plain(
        {
            "schema": 1,
            "method": "finetune",
            "parent": parent_of(job.model),
            "data": {
                "digest": digest_of(labelled.cells, labelled.annotations),
                "cells": len(labelled),
                "genes": len(labelled.cells.genes),
                "organism": labelled.cells.genes.organism or "",
                "counts_in": labelled.cells.where,
                "layer": job.layer or "",
                "labels_key": labelled.labels_key,
                "sample_key": labelled.sample_key or "",
                "options": job.options,
            },
            "labels": {"names": [str(name) for name in labelled.names], "cells": counts},
            "vocabulary": vocabulary_digest(job.model),
            "split": split.to_dict(),
            "settings": job.recipe.to_dict(),
            "history": trained.history,
            "best_epoch": trained.best_epoch,
            "metrics": metrics,
            "remarks": remarks,
            "code": code_version(),
            "who": who(),
            "when": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "hardware": hardware(job.model.device),
        }
    )


def own_record(model: Model, parent_tensors: str) -> dict[str, Any]:
    """The record of a model that a user's own run made: what is known of it without that run."""
    # A head goes with its labels, else nobody could read it again.
    names = [] if model.head is None or model.classes is None else [str(name) for name in model.classes.names]
    return _plain(
        {
            "schema": 1,
            "method": "own run",
            "parent": {**parent_of(model), "tensors": parent_tensors},
            "settings": {"head": model.head_kind} if names else {},
            **({"labels": {"names": names}} if names else {}),
            "vocabulary": vocabulary_digest(model),
            "code": code_version(),
            "who": who(),
            "when": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "hardware": hardware(model.device),
        }
    )


def vocabulary_digest(model: Model) -> str:
    """``sha256:<hex>`` of the model's genes in their order."""
    import hashlib

    digest = hashlib.sha256()
    for symbol, ensembl in zip(model.vocabulary.symbols, model.vocabulary.ensembl, strict=True):
        digest.update(f"{symbol}\t{ensembl}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def who() -> str:
    """Name of the user on this machine; empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def hardware(device: str) -> dict[str, Any]:
    """The machine, as far as it decides numbers and time."""
    import torch

    from scfm_lab.inference.hardware import Hardware

    here = Hardware.detect()
    return {
        "machine": here.name,
        "cores": here.cores,
        "ram_gib": round(here.ram_gib, 1),
        "device": device,
        "device_name": here.device_name,
        "threads": torch.get_num_threads(),
    }


def code_version() -> dict[str, Any]:
    """Versions of what computed, and the commit where the package runs from a checkout."""
    from scfm_lab import __version__
    from scfm_lab.cells.provenance import package_versions

    return {"scfm-lab": __version__, "packages": package_versions(), **_commit()}


@cache
def _commit() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        told = [
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": told[0].strip(), "changed": bool(told[1].strip())}


def _plain(value: Any) -> Any:
    """Values as JSON has them; a number that is none becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
