"""Write a fine-tuned model: what changed beside its parent, or everything in the family's published format."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, ModelError, StorageError
from scfm_lab.models.files import sha256
from scfm_lab.models.finetuned import WEIGHTS, FineTuning, weights_of, write, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from scfm_lab.models.contract import Model

PUBLISHED = "published"


def save(model: Model, parent: Model | None, changed: Mapping[str, torch.Tensor], folder: Path, *, full: bool) -> Path:
    """See :meth:`scfm_lab.training.finetune_result.FineTuneResult.save`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already and holds something; give the name of a new folder.")
    assert model.finetuning is not None
    unfinished = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        unfinished.mkdir(parents=True)
        if full:
            write_full(model, unfinished)
        else:
            write(unfinished, model.finetuning, changed)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise StorageError(f"The model cannot be written to {folder} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_full(model: Model, folder: Path) -> None:
    """Write all weights in the family's published format, and the record and the head beside them.

    Raises
    ------
    ModelError
        The family has no such writer.
    """
    writers: dict[str, Callable[[Any, Path, Path], None]] = {
        "starter": _starter,
        "scgpt": _scgpt,
        "geneformer": _geneformer,
        "scbert": _scbert,
    }
    writer = writers.get(model.spec.family)
    base = model.base_path or model.path
    if writer is None or base is None:
        raise ModelError(
            f"{model.spec.name} is kept as what changed beside its parent; written in full are {', '.join(writers)}."
        )
    writer(model, folder, base)
    assert model.finetuning is not None
    head = {} if model.head is None else {f"head.{k}": v.cpu().contiguous() for k, v in model.head.state_dict().items()}
    record = {**model.finetuning.record, "storage": "full"}
    write(folder, FineTuning(record, model.finetuning.cells), head)
    # So that the same model is known again, here and as what changed beside its parent, as long as these are its files.
    hashes = {
        path.name: sha256(path).removeprefix("sha256:") for path in folder.iterdir() if path.name.endswith(WEIGHTS)
    }
    write_record(folder, {**record, "whole": {"same_as": model.digest, "files": hashes}})


def _starter(model: Any, folder: Path, base: Path) -> None:
    from safetensors.torch import save_file

    from scfm_lab.models.files import CONFIG
    from scfm_lab.models.files import WEIGHTS as WEIGHTS_FILE
    from scfm_lab.models.fixed_basis import VOCABULARY

    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    genes = str(model.config.get("vocabulary", VOCABULARY))
    shutil.copyfile(base / genes, folder / genes)
    (folder / CONFIG).write_text(json.dumps({**model.config, "family": "starter"}, indent=1) + "\n", encoding="utf-8")


def _scgpt(model: Any, folder: Path, base: Path) -> None:
    from scfm_lab.models.files import read_tensors
    from scfm_lab.models.scgpt import ARGS, VOCAB, WEIGHTS_FILE, _places
    from scfm_lab.models.scgpt_net import canonical_keys

    args, vocabulary, weights = _places(base, _given(model))
    original = read_tensors(weights)
    names, _ = canonical_keys({key: key for key in original})  # type: ignore[misc]
    new = weights_of(model)
    out = {key: tensor for key, tensor in original.items() if not key.startswith("cls_decoder.")}
    out |= _replaced(original, {str(key): new[name] for name, key in names.items() if name in new})
    if model.head_kind == PUBLISHED:
        out |= {f"cls_decoder.{name}": tensor for name, tensor in model.head.state_dict().items()}
    _torch_save(out, folder / WEIGHTS_FILE)
    shutil.copyfile(args, folder / ARGS)
    shutil.copyfile(vocabulary, folder / VOCAB)


def _geneformer(model: Any, folder: Path, base: Path) -> None:
    from safetensors.torch import save_file

    from scfm_lab.models.files import CONFIG, read_config, read_tensors
    from scfm_lab.models.files import WEIGHTS as WEIGHTS_FILE
    from scfm_lab.models.geneformer import _weights
    from scfm_lab.models.geneformer_net import published_keys, published_tensors

    original = read_tensors(base if base.is_file() else _weights(base))
    names, _ = published_keys({key: key for key in original})  # type: ignore[misc]
    new = published_tensors(model.net, {name: original[str(key)] for name, key in names.items()})
    out = dict(original) | _replaced(
        original, {str(names[name]): tensor for name, tensor in new.items() if name in names}
    )
    home = base if base.is_dir() else base.parent
    config = read_config(home)
    if model.head_kind == PUBLISHED:
        # The classifier takes the place of the head that predicts masked genes.
        dropped = ("cls.", "classifier.", "bert.pooler.", "pooler.")
        out = {key: tensor for key, tensor in out.items() if not key.removeprefix("module.").startswith(dropped)}
        bare = not any(key.startswith("bert.") for key in out)
        out = {f"bert.{key}" if bare else key: tensor for key, tensor in out.items()}
        head = model.head.state_dict()
        out |= {f"bert.pooler.dense.{k}": head[f"dense.{k}"] for k in ("weight", "bias")}
        out |= {f"classifier.{k}": head[f"out.{k}"] for k in ("weight", "bias")}
        labels = [str(name) for name in model.classes.names]
        config |= {
            "architectures": ["BertForSequenceClassification"],
            "id2label": {str(i): name for i, name in enumerate(labels)},
            "label2id": {name: i for i, name in enumerate(labels)},
        }
    save_file(
        {k: v.detach().cpu().clone().contiguous() for k, v in out.items()},
        folder / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for source in sorted(model.dictionaries.iterdir()):
        if source.is_file() and ".pkl" in source.name:
            shutil.copyfile(source, folder / source.name)


def _scbert(model: Any, folder: Path, base: Path) -> None:
    import pandas as pd
    from anndata import AnnData

    from scfm_lab.models import converted
    from scfm_lab.models.files import read_tensors
    from scfm_lab.models.scbert_files import GENE_ORDER, LABELS, find_checkpoint

    checkpoint = base if base.is_file() else find_checkpoint(base)
    original = read_tensors(checkpoint or base)
    new = weights_of(model)
    out = dict(original) | _replaced(
        original, {theirs: new[ours] for theirs, ours in model.net.checkpoint_names().items() if theirs in original}
    )
    if model.head_kind == PUBLISHED:
        out = {key: tensor for key, tensor in out.items() if not key.startswith("to_out.")}
        out |= {f"to_out.{name}": tensor for name, tensor in model.head.state_dict().items()}
        converted.write(np.array(model.classes.names, dtype=object), folder / LABELS)
    _torch_save({"model_state_dict": out}, folder / "finetuned.pth")
    genes = pd.DataFrame(index=pd.Index([str(symbol) for symbol in model.vocabulary.symbols]))
    AnnData(var=genes).write_h5ad(folder / GENE_ORDER)


def _replaced(original: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """New values under the file's own names; what is unchanged keeps its own type."""
    import torch

    found = {}
    for key, tensor in new.items():
        tensor = tensor.detach().cpu()
        same = torch.equal(original[key].to(tensor.dtype), tensor)
        found[key] = original[key] if same else tensor
    return found


def _torch_save(content: Any, path: Path) -> None:
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value.detach().cpu().clone().contiguous()

    torch.save(plain(content), path)


def _given(model: Model) -> dict[str, Any]:
    """Files that were named when the model was opened."""
    return dict((model.opened or {}).get("files") or {})
