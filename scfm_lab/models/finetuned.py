"""Fine-tuned models as files: what changed beside the parent, the head, the record, and the cells that were seen.

A fine-tuned model is kept as the tensors that differ from its parent's and the head that reads its cells; opening it
opens the parent first and compares its weights with those it was fine-tuned from. The vectors are those of the model
in memory, bit for bit. Nothing in the files is code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, ScfmError
from scfm_lab.models.files import read_config, read_safetensors
from scfm_lab.models.pinned import pinned
from scfm_lab.models.spec import Classes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

RECORD, CHANGES, CELLS = "finetuning.json", "changes.safetensors", "cells.safetensors"
SCHEMA = 1
#: No chain of fine-tunings is longer; one that is leads in circles.
_LONGEST_CHAIN = 32
PARTS = ("train", "validation", "test")
#: How the names of files with weights end, whoever publishes them.
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".torch")


@dataclass(frozen=True)
class FineTuning:
    """How a model was fine-tuned.

    Attributes
    ----------
    record
        Parent, data, labels, split, settings, history, metrics, code, who, when and where, as in ``finetuning.json``.
    cells
        Digests of the cells, uint64: ``"train"``, ``"validation"``, ``"test"`` by all their counts, and with
        ``".known"`` by the counts of genes that the model knows.
    parent
        The parent's own fine-tuning, where it had one.
    """

    record: dict[str, Any]
    cells: dict[str, NDArray[np.uint64]] = field(default_factory=dict, repr=False)
    parent: FineTuning | None = None

    @property
    def chain(self) -> list[FineTuning]:
        """This fine-tuning, its parent's, and so on."""
        return [self, *(self.parent.chain if self.parent is not None else [])]


def is_finetuned(path: Path) -> bool:
    """Whether a folder holds a fine-tuned model."""
    return path.is_dir() and (path / RECORD).is_file()


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """``sha256:<hex>`` of tensors by name, type, shape and content, in whatever file they lie."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """Tensors of the network that fine-tuning changes, by name."""
    return dict(model._trained_net().state_dict())  # noqa: SLF001 - the contract's own


def changes(parent: Model, model: Model) -> dict[str, torch.Tensor]:
    """Tensors of a fine-tuned model that differ from its parent's (``net.…``), and its head (``head.…``)."""
    import torch

    before = weights_of(parent)
    found = {
        f"net.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in weights_of(model).items()
        if name not in before or not torch.equal(before[name].cpu(), tensor.detach().cpu())
    }
    if model.head is not None:
        found |= {
            f"head.{name}": tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()
        }
    return found


def digest_of(parent_tensors: str, changed: Mapping[str, torch.Tensor], labels: list[str]) -> str:
    """Identity of a fine-tuned model's weights: those of its parent, what changed, and what the logits mean."""
    text = "\n".join([parent_tensors, tensors_digest(changed), *labels])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def identity(folder: Path) -> str:
    """Identity of a fine-tuned model's weights, by its files alone; empty for one that is kept whole.

    Raises
    ------
    ModelError
        A file is missing or damaged.
    """
    record = read_record(folder)
    if record.get("storage") == "full":
        return ""
    names = [str(name) for name in record.get("labels", {}).get("names", [])]
    return digest_of(record["parent"]["tensors"], read_safetensors(folder / CHANGES), names)


def same_as(folder: Path, hashes: Mapping[str, str]) -> str:
    """What :attr:`Model.digest` was of a fine-tuned model that was written whole; empty where its files are no longer those.

    Parameters
    ----------
    folder, hashes
        As of :func:`whole_identity`. It is the record's word, and tells no more than that nobody needs the model a second time.

    Raises
    ------
    ModelError
        Its record is damaged.
    """
    whole = read_record(folder).get("whole")
    weights = {name: digest for name, digest in hashes.items() if name.endswith(WEIGHTS)}
    told = whole if isinstance(whole, dict) and whole.get("files") == weights else {}
    return str(told.get("same_as", ""))


def whole_identity(folder: Path, hashes: Mapping[str, str]) -> str:
    """Identity of a fine-tuned model that is kept whole, by the files of its weights and its head; empty for any other model.

    Parameters
    ----------
    folder
        Of the model.
    hashes
        SHA-256 of its files as they were written, by their names.

    Raises
    ------
    ModelError
        Its record is damaged.
    """
    if not is_finetuned(folder) or read_record(folder).get("storage") != "full":
        return ""
    weights = sorted((name, digest) for name, digest in hashes.items() if name.endswith(WEIGHTS))
    return f"sha256:{hashlib.sha256(json.dumps(weights).encode()).hexdigest()}"


def attach(
    model: Model,
    tuning: FineTuning,
    changed: Mapping[str, torch.Tensor],
    where: str,
    head: torch.nn.Module | None = None,
) -> Model:
    """Make an opened parent (a copy of its own) into the fine-tuned model that a record and its tensors describe.

    Raises
    ------
    ModelError
        A tensor does not find its place.
    """
    import torch

    record = tuning.record
    net = model._trained_net()  # noqa: SLF001 - the contract's own
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    own = {name.removeprefix("net."): t for name, t in changed.items() if name.startswith("net.")}
    wrong = [name for name, t in own.items() if shapes.get(name) != tuple(t.shape)]
    if wrong:
        raise ModelError(f"{where} changes {wrong[0]!r}, which its parent does not have in that shape.")
    device = next(iter(net.state_dict().values())).device
    with torch.no_grad():
        for name, target in net.state_dict().items():
            if name in own:
                target.copy_(own[name].to(device))
    # Copies in lower precisions are made anew of the new weights.
    net.to(device).eval().requires_grad_(False)
    names = [str(name) for name in record["labels"]["names"]] if "labels" in record else []
    if names and head is None:
        kind = str(record["settings"]["head"])
        if kind not in model.head_kinds:
            raise ModelError(f"{where} has a head {kind!r}, which {model.spec.name} has not; get its files again.")
        head = model._new_head(kind, len(names))  # noqa: SLF001 - the contract's own
        given = {name.removeprefix("head."): t for name, t in changed.items() if name.startswith("head.")}
        wanted = {name: tuple(t.shape) for name, t in head.state_dict().items()}
        if {name: tuple(t.shape) for name, t in given.items()} != wanted:
            raise ModelError(
                f"{where} does not hold the head of {len(names)} labels that it tells of; get its files again."
            )
        head.load_state_dict(given)
    if head is not None:
        model.head = head.to(device).eval().requires_grad_(False)
        model.head_kind = str(record["settings"]["head"])
        model.classes = Classes(np.array(names, dtype=object))
        model.spec = replace(model.spec, abilities=model.spec.abilities | {"predict"})
    model.finetuning = tuning
    model.digest = digest_of(record["parent"]["tensors"], changed, names)
    model.base_path = model.base_path or model.path
    model.version = model.registered_as = model.registered_digest = model.source = ""
    model.path = None
    return model


# --- files -----------------------------------------------------------------------------


def write(folder: Path, tuning: FineTuning, changed: Mapping[str, torch.Tensor]) -> None:
    """Write a fine-tuned model into an existing folder: ``finetuning.json``, ``changes.safetensors``, ``cells.safetensors``."""
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    save_file({name: changed[name] for name in sorted(changed)}, folder / CHANGES)
    if tuning.cells:
        save_arrays({name: np.ascontiguousarray(keys) for name, keys in sorted(tuning.cells.items())}, folder / CELLS)
    write_record(folder, tuning.record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``finetuning.json``."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a fine-tuned model's folder.

    Raises
    ------
    ModelError
        It is missing or damaged, or was written by a newer version.
    """
    record = read_config(folder, RECORD)
    parent, settings = record.get("parent"), record.get("settings")
    told = isinstance(parent, dict) and all(isinstance(parent.get(k), str) for k in ("tensors", "family", "digest"))
    if not told or not isinstance(settings, dict) or not isinstance(record.get("labels", {}), dict):
        raise ModelError(f"{folder / RECORD} does not say what the model was fine-tuned from; get the file again.")
    if record.get("schema") != SCHEMA:
        raise ModelError(f"{folder / RECORD} was written by another version of scfm-lab; install the newest.")
    return record


def read_tuning(folder: Path) -> FineTuning:
    """The record and the cells of a fine-tuned model's folder; its parent is not looked for.

    Raises
    ------
    ModelError
        A file is missing or damaged, or was written by a newer version.
    """
    record = read_record(folder)
    cells = {}
    if (folder / CELLS).is_file():
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            cells = load_file(folder / CELLS)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{folder / CELLS} is damaged ({error}); get the file again.") from error
        if any(keys.dtype != np.uint64 or keys.ndim != 1 for keys in cells.values()):
            raise ModelError(f"{folder / CELLS} does not hold digests of cells; get the file again.")
    return FineTuning(record, cells)


def open_folder(path: Path, *, config: Mapping[str, Any] | None = None, depth: int = 0) -> Model:
    """Open a fine-tuned model, its parent first.

    Parameters
    ----------
    config
        Besides what the parent was opened with.

    Raises
    ------
    ModelError
        The parent is not here or not the one that was fine-tuned, or a file is damaged.
    """
    if depth > _LONGEST_CHAIN:
        raise ModelError(f"{path} was fine-tuned from itself, by what its records say; get the files again.")
    tuning = read_tuning(path)
    changed = read_safetensors(path / CHANGES)
    told = tuning.record["parent"]
    settings = {**dict(told.get("config") or {}), **(config or {})}
    if tuning.record.get("storage") == "full":
        model = _adapter(told["family"], path).open(path, config=settings or None)
        changed = {name: tensor for name, tensor in changed.items() if name.startswith("head.")}
        # Identified by all of its weights: what a record says of them is nobody's word.
        tuning.record["parent"] = {**told, "tensors": tensors_digest(weights_of(model))}
        opened = attach(model, tuning, changed, str(path))
        opened.path = opened.base_path = path
        return opened
    parent = open_parent(tuning.record, path, settings, depth)
    found = tensors_digest(weights_of(parent))
    if found != told["tensors"]:
        raise ModelError(
            f"{path} was fine-tuned from other weights than those of {told.get('reference') or told['family']} found here "
            f"({found}, not {told['tensors']}); get that parent."
        )
    tuning = replace(tuning, parent=parent.finetuning)
    model = attach(parent, tuning, changed, str(path))
    model.path = path
    return model


def open_parent(record: Mapping[str, Any], where: Path, config: Mapping[str, Any], depth: int = 0) -> Model:
    """Open what a model was fine-tuned from: by its digest in the registry, else by the name or path that was given.

    Raises
    ------
    ModelError
        It is not here.
    """
    from scfm_lab.models import load

    told = record["parent"]
    name = str(told.get("reference") or told.get("source") or told["family"])
    if told["digest"]:
        try:
            resolved = load.from_source(f"models:/{told['digest']}")
        except ScfmError as error:
            raise ModelError(
                f"{where} was fine-tuned from {name} ({told['digest']}), which cannot be had here: {error} Import that "
                "version, or ask for the fine-tuned model with everything in it (save(…, full=True))."
            ) from error
        if resolved is None:
            raise ModelError(f"{where} was fine-tuned from {name} of a registry, and no plugin here opens registries.")
        settings = {**dict(getattr(resolved, "config", {}) or {}), **config}
        return load.open_resolved(resolved, config=settings or None, depth=depth + 1)
    try:
        # The hashes of the model that was fine-tuned are none of these files.
        with pinned({}, name):
            if load.is_name(str(told.get("source", ""))):
                return load.open_name(str(told["source"]), config=dict(config) or None)
            return load.open_files(
                load.existing(str(told.get("source", ""))), None, config=dict(config) or None, depth=depth + 1
            )
    except ScfmError as error:
        raise ModelError(f"{where} was fine-tuned from {name}, which cannot be had here: {error}") from error


def _adapter(family: str, path: Path) -> Any:
    from scfm_lab.plugins import discover

    known = {item.id: item for item in discover().contributions("models")}
    if family not in known:
        raise ModelError(f"{path} needs the model plugin {family!r}, which is not installed.")
    return known[family].load()
