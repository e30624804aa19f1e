"""A determinism certificate: what a version made of a fixed panel of real cells, and whether it still does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, ScfmError
from scfm_registry import panel, people

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_registry.store.facade import Store
    from scfm_registry.version import ModelVersion

#: Names of the files of its run, and the tags that lead to it.
DOCUMENT, VECTORS = "certificate.json", "panel.safetensors"
RUN, HASH = "scfm.certificate.run", "scfm.certificate.sha256"
SCHEMA = 1
TASK = "certify"
#: What counts as the same but for rounding: the smallest cosine, and the largest difference as a share of the largest number.
MIN_COSINE, MAX_RELATIVE = 0.99999, 1e-3

SAME, NEAR, OTHER = "same", "within tolerance", "differs"


@dataclass(frozen=True)
class Certificate:
    """What a version made of the panel when it was certified.

    Attributes
    ----------
    version
        Which version.
    record
        Digest of the files, hashes of the stages, settings, who, when.
    vectors
        float32, shape (cells, width).
    run
        Id of the MLflow run that keeps it.
    """

    version: ModelVersion
    record: dict[str, Any]
    vectors: NDArray[np.float32]
    run: str

    @property
    def table(self) -> pd.DataFrame:
        """One row per stage: stage, SHA-256."""
        import pandas as pd

        stages = {"files": self.record["digest"].removeprefix("sha256:"), **self.record["hashes"]}
        return pd.DataFrame({"stage": list(stages), "sha256": list(stages.values())})

    def summary(self) -> str:
        """A few lines for people."""
        used = self.record["settings"]
        lines = [f"  {row.stage}: {row.sha256}" for row in self.table.itertuples()]
        head = (
            f"{self.version.reference} is certified by {self.record['cells']} cells of {panel.SOURCE}: {used['device']}, "
            f"{used['precision']}, {used['threads']} threads, torch {used['packages'].get('torch', '?')}"
        )
        return "\n".join([head, *lines])

    def to_json(self) -> dict[str, Any]:
        """The record and the run that keeps it."""
        return {**self.record, "run": self.run}


@dataclass(frozen=True)
class PanelCheck:
    """How the panel came out now, beside the certificate.

    Attributes
    ----------
    stages
        ``"gene_map"``, ``"tokens"``, ``"vectors"`` → ``"same"``, ``"within tolerance"`` or ``"differs"``.
    agreement
        ``max_abs``, ``max_relative``, ``min_cosine`` of the vectors.
    then, now
        Settings of the certificate, and of this check.
    """

    stages: dict[str, str]
    agreement: dict[str, float]
    then: dict[str, Any]
    now: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every stage is the same, or within tolerance."""
        return OTHER not in self.stages.values()

    @property
    def first(self) -> str:
        """The first stage that is not the same bit by bit; empty where all are."""
        return next((stage for stage in panel.STAGES if self.stages[stage] != SAME), "")

    def summary(self) -> str:
        """What came out, and where it first differed."""
        words = ", ".join(f"{stage.replace('_', ' ')} {state}" for stage, state in self.stages.items())
        then, now = (told.get("device") for told in (self.then, self.now))
        text = f"The panel, computed here and now{'' if then == now else f' on {now}, and then on {then}'}: {words}."
        if self.first:
            far = self.agreement
            text += (
                f" It first differs in the {self.first.replace('_', ' ')}; vectors are off by at most {far['max_abs']:.2g} "
                f"({far['max_relative']:.1g} of the largest number), smallest cosine {far['min_cosine']:.8f}."
            )
            changed = [
                f"{key} {self.then.get(key)} → {self.now.get(key)}"
                for key in ("device", "precision", "threads", "processor", "system")
                if self.then.get(key) != self.now.get(key)
            ]
            before, after = self.then.get("packages", {}), self.now.get("packages", {})
            changed += [
                f"{key} {before.get(key)} → {after.get(key)}" for key in after if before.get(key) != after.get(key)
            ]
            text += f" What else is different: {', '.join(changed) or 'nothing that is recorded'}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ok": self.ok,
            "stages": self.stages,
            "first_difference": self.first or None,
            "agreement": self.agreement,
            "then": self.then,
            "now": self.now,
        }


def make(store: Store, model: Model, found: ModelVersion, folder: Path, cells: int | None = panel.CELLS) -> Certificate:
    """Run a panel of so many cells (None: as many as take some seconds) and keep what comes out; `folder` is a private one."""
    data = panel.cells(panel.affordable(model) if cells is None else cells)
    outcome = panel.run(model, data)
    record = {
        "schema": SCHEMA,
        "digest": found.digest,
        "version": found.reference,
        "weights": model.digest,
        "panel": panel.SOURCE,
        "cells": data.n_obs,
        "hashes": outcome.hashes,
        "settings": outcome.settings,
        "who": people.who(store.place),
        "when": datetime.now(tz=UTC).isoformat(timespec="seconds"),
    }
    return keep(store, found, record, outcome.vectors, folder)


def keep(
    store: Store, found: ModelVersion, record: dict[str, Any], vectors: NDArray[np.float32], folder: Path
) -> Certificate:
    """Keep a certificate as a run; `folder` is a private one."""
    (folder / VECTORS).write_bytes(packed(vectors))
    tags = {"scfm.task": TASK, "scfm.digest": found.digest, "scfm.version": found.reference}
    run = store.log_run(f"certify {found.reference}", tags, {}, {DOCUMENT: record}, [folder / VECTORS])
    return Certificate(found, record, vectors, run)


def packed(vectors: NDArray[np.float32]) -> bytes:
    """The vectors as a safetensors file."""
    from safetensors.numpy import save

    return bytes(save({"vectors": vectors}))


def given(folder: Path, digest: str, label: str) -> tuple[dict[str, Any], NDArray[np.float32]] | None:
    """Read the certificate that came in a bundle; ``None`` where there is none.

    Raises
    ------
    ModelError
        It is not one of the version with this digest, or its vectors are not those it tells of.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / DOCUMENT).is_file():
        return None
    try:
        record = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        vectors = load_file(folder / VECTORS)["vectors"]
        fine = _is_whole(record, vectors, digest)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
        raise ModelError(f"{label} is refused: the certificate in it is none ({type(error).__name__}).") from error
    if not fine:
        raise ModelError(f"{label} is refused: the certificate in it is not one of the version in it.")
    return record, vectors


def _is_of(record: dict[str, Any], vectors: NDArray[np.float32], digest: str) -> bool:
    """Whether a record is of the version with this digest, and the vectors are those that it tells of."""
    told = record["hashes"]["vectors"]
    return bool(record["digest"] == digest and panel._hash(np.ascontiguousarray(vectors, "<f4")) == told)  # noqa: SLF001


def _is_whole(record: dict[str, Any], vectors: NDArray[np.float32], digest: str) -> bool:
    """Whether somebody else's record is a certificate of the version with this digest; raises whatever one of another form gives."""
    settings, hashes = record["settings"], record["hashes"]
    return (
        _is_of(record, vectors, digest)
        and (record["schema"], record["panel"], record["cells"]) == (SCHEMA, panel.SOURCE, len(vectors))
        and all(isinstance(settings[key], str) for key in ("device", "precision"))
        and all(isinstance(hashes[stage], str) for stage in panel.STAGES)
    )


def digest_of(record: dict[str, Any]) -> str:
    """SHA-256 of a certificate's record, which a version's tag holds."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(store: Store, found: ModelVersion, folder: Path) -> Certificate | None:
    """Read a version's certificate; `folder` is a private one to fetch it into. ``None`` where it has none.

    Where its tags name none, the newest that somebody made of it counts: who may not write to a version may certify it.

    Raises
    ------
    ModelError
        It is not the one that the version's tags name, or its vectors are not those it tells of.
    """
    from safetensors import SafetensorError

    run = found.tags.get(RUN)
    if not run:
        return _untagged(store, found, folder)
    damaged = f"The certificate of {found.reference} (run {run}) is not the one that was made"
    try:
        record, vectors = _fetched(store, run, folder)
        fine = digest_of(record) == found.tags.get(HASH) and _is_of(record, vectors, found.digest)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        message = f"{damaged} ({type(error).__name__}). Make it again: scfm-lab models certify {found.reference}"
        raise ModelError(message) from error
    if not fine:
        message = f"{damaged}: its hash differs. Make it again: scfm-lab models certify {found.reference}"
        raise ModelError(message)
    return Certificate(found, record, vectors, run)


def _untagged(store: Store, found: ModelVersion, folder: Path) -> Certificate | None:
    """The newest certificate that somebody made of a version whose tags they may not set; ``None`` where that is none."""
    from safetensors import SafetensorError

    for made in store.runs(TASK, {"scfm.digest": found.digest, "scfm.version": found.reference}, newest=1):
        try:
            record, vectors = _fetched(store, made.run, folder)
            if _is_whole(record, vectors, found.digest):
                return Certificate(found, record, vectors, made.run)
        except (ScfmError, OSError, ValueError, KeyError, TypeError, SafetensorError):
            # Anybody may write a run; what is no certificate is none.
            continue
    return None


def _fetched(store: Store, run: str, folder: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    from safetensors.numpy import load_file

    record = json.loads(store.document(run, DOCUMENT, folder).read_text(encoding="utf-8"))
    return record, load_file(store.document(run, VECTORS, folder))["vectors"]


def check(certificate: Certificate, model: Model) -> PanelCheck:
    """Run the panel again and compare."""
    outcome = panel.run(model, panel.cells(certificate.record["cells"]))
    then = certificate.record["hashes"]
    stages = {stage: SAME if outcome.hashes[stage] == then[stage] else OTHER for stage in panel.STAGES}
    if outcome.vectors.shape == certificate.vectors.shape:
        far = panel.agreement(certificate.vectors, outcome.vectors)
    else:
        far = {"max_abs": float("inf"), "max_relative": float("inf"), "min_cosine": -1.0}
    near = far["min_cosine"] >= MIN_COSINE and far["max_relative"] <= MAX_RELATIVE
    if stages["vectors"] == OTHER and near:
        stages["vectors"] = NEAR
    return PanelCheck(stages, far, certificate.record["settings"], outcome.settings)
