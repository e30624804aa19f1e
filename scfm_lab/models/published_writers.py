"""Write an opened model back as its family is published: the same files, names and shapes, so that the family's own code reads them.

What a file holds and no vector depends on (decoders, notes of a training) stays as it was. Tensors that fine-tuning has not
touched keep their own type, bit for bit. Of a registered version, whose pickles are kept as safetensors and JSON, files of
tensors become torch archives again; dictionaries stay JSON, since no pickle of objects is written here.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_converted, stored
from scfm_lab.models.finetuned import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from scfm_lab.models.contract import Model

PUBLISHED = "published"


def families() -> tuple[str, ...]:
    """Families that have a published format."""
    return tuple(_WRITERS)


def write_published(model: Model, folder: Path) -> list[str]:
    """Write all weights of a model, and the files that belong to them, into an existing folder.

    Parameters
    ----------
    model
        As it was opened, or fine-tuned. Its ``"published"`` head is written where the family's format has a place for it.

    Returns
    -------
    list of str
        Sentences about what the format has no place for.

    Raises
    ------
    ModelError
        The family has no published format, or the model was opened with files that have no place in it.
    """
    writer = _WRITERS.get(model.spec.family)
    base = model.base_path or model.path
    if writer is None or base is None:
        raise ModelError(f"{model.spec.name} has no published format; written in one are {', '.join(families())}.")
    notes = writer(model, folder, base)
    config = _config(model)
    if config:
        notes.append(f"The files do not say what the model was opened with; give config={config!r} with them.")
    if any(is_converted(path) and path.suffix == ".json" for path in folder.rglob("*.json")):
        notes.append(
            "Dictionaries that are published as pickles are JSON here (their name and .json), since none is written."
        )
    return notes


def writes_head(model: Model) -> bool:
    """Whether the head of a fine-tuned model has its place in the family's format."""
    return model.head is not None and model.head_kind == PUBLISHED and model.spec.family in _HEADS


def _config(model: Model) -> dict[str, Any]:
    """What was said beside the files when the model, or what it was fine-tuned from, was opened."""
    told = dict((model.opened or {}).get("config") or {})
    if model.finetuning is not None:
        told |= dict(model.finetuning.record["parent"].get("config") or {})
    return told


# --- one for each family ---------------------------------------------------------------------


def _starter(model: Any, folder: Path, base: Path) -> list[str]:
    from safetensors.torch import save_file

    from scfm_lab.models.files import CONFIG, WEIGHTS
    from scfm_lab.models.fixed_basis import VOCABULARY

    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    genes = str(model.config.get("vocabulary", VOCABULARY))
    shutil.copyfile(base / genes, folder / genes)
    (folder / CONFIG).write_text(json.dumps({**model.config, "family": "starter"}, indent=1) + "\n", encoding="utf-8")
    return []


def _scgpt(model: Any, folder: Path, base: Path) -> list[str]:
    from scfm_lab.models.files import read_tensors
    from scfm_lab.models.scgpt_files import ARGS, VOCAB, WEIGHTS_FILE, places
    from scfm_lab.models.scgpt_net import canonical_keys

    args, vocabulary, weights = places(base, _given(model))
    original = read_tensors(weights)
    names, _ = canonical_keys({key: key for key in original})  # type: ignore[misc]
    new = weights_of(model)
    # A head for other labels is none of the fine-tuned model's.
    kept = {k: t for k, t in original.items() if model.finetuning is None or not k.startswith("cls_decoder.")}
    out = kept | _replaced(original, {str(key): new[name] for name, key in names.items() if name in new})
    if writes_head(model):
        out |= {f"cls_decoder.{name}": tensor for name, tensor in model.head.state_dict().items()}
    _torch_save(out, folder / WEIGHTS_FILE)
    shutil.copyfile(args, folder / ARGS)
    shutil.copyfile(vocabulary, folder / VOCAB)
    return []


def _geneformer(model: Any, folder: Path, base: Path) -> list[str]:
    from safetensors.torch import save_file

    from scfm_lab.models.files import CONFIG, WEIGHTS, read_config, read_tensors
    from scfm_lab.models.geneformer_files import published_names, weights_file
    from scfm_lab.models.geneformer_net import published_keys, published_tensors

    original = read_tensors(base if base.is_file() else weights_file(base))
    names, _ = published_keys({key: key for key in original})  # type: ignore[misc]
    new = published_tensors(model.net, {name: original[str(key)] for name, key in names.items()})
    out = dict(original) | _replaced(
        original, {str(names[name]): tensor for name, tensor in new.items() if name in names}
    )
    home = base if base.is_dir() else base.parent
    config = read_config(home)
    if writes_head(model):
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
        {k: v.detach().cpu().clone().contiguous() for k, v in out.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    # Those alone that the model was opened with: beside them may lie whatever else somebody keeps there.
    for kind, name in published_names(model.dictionary_files).items():
        source = stored(model.dictionary_files[kind])
        shutil.copyfile(source, folder / (name + source.suffix if is_converted(source) else name))
    return []


def _uce(model: Any, folder: Path, base: Path) -> list[str]:
    import pandas as pd

    from scfm_lab.models.files import read_tensors
    from scfm_lab.models.uce_files import CHROM, NEW_SPECIES, PUBLISHED, TOKENS

    files = model.species.files
    if files.added:
        raise ModelError(
            f"UCE's published folder has no place for species that were added with files= ({', '.join(files.added)}); keep what "
            "changed beside its parent instead (save without full=True, or a bundle)."
        )
    original = read_tensors(files.checkpoint)
    _torch_save(original | _replaced(original, weights_of(model)), folder / files.checkpoint.name)
    if files.tokens is not None:
        _published_copy(files.tokens, folder / TOKENS)
    shutil.copyfile(files.chrom, folder / CHROM)
    # The format of a mirror of the published files, which is no pickle.
    (folder / "species_offsets.json").write_text(json.dumps(files.read_offsets()) + "\n", encoding="utf-8")
    proteins = folder / "protein_embeddings"
    proteins.mkdir()
    new = {}
    for species, path in files.proteins.items():
        name = f"{species}_{path.name}" if (proteins / path.name).exists() else path.name
        _published_copy(path, proteins / name)
        if species not in PUBLISHED or not name.startswith(PUBLISHED[species]):
            new[species] = f"{proteins.name}/{name}"
    if new:
        pd.DataFrame({"species": list(new), "path": list(new.values())}).to_csv(folder / NEW_SPECIES, index=False)
    return ["The offsets are species_offsets.json, as a mirror of UCE has them, in the place of the published pickle."]


def _transcriptformer(model: Any, folder: Path, base: Path) -> list[str]:
    from scfm_lab.models.files import CONFIG, read_tensors
    from scfm_lab.models.transcriptformer_files import VOCABS, WEIGHTS_FILE

    files = model.files
    if files.pretrained:
        raise ModelError(
            "TranscriptFormer's published folder has no place for protein embeddings of other species (pretrained_embedding); keep "
            "what changed beside its parent instead (save without full=True, or a bundle)."
        )
    original = read_tensors(files.weights)
    _torch_save(original | _replaced(original, weights_of(model)), folder / WEIGHTS_FILE)
    shutil.copyfile(files.config, folder / CONFIG)
    (folder / VOCABS).mkdir()
    vocabularies = {f"{column}_vocab.json" for column in model.aux}
    for name in sorted({*model.settings.esm2_mappings, *vocabularies}):
        source = stored(files.vocabs / name)
        shutil.copyfile(source, folder / VOCABS / source.name)
    return []


def _scfoundation(model: Any, folder: Path, base: Path) -> list[str]:
    import pandas as pd

    from scfm_lab.models.files import read_torch
    from scfm_lab.models.scfoundation_files import ONLY, PUBLISHED, find_checkpoint, gene_index_name, tensor_name

    checkpoint = base if base.is_file() else find_checkpoint(base)
    assert checkpoint is not None
    content = read_torch(checkpoint)
    trained = model.trained_version
    one = content if trained == ONLY else content[trained]
    tensors, new = one["state_dict"], weights_of(model)
    ours = model._trained_net().checkpoint_names()  # noqa: SLF001 - the contract's own
    keys = {key: ours[tensor_name(key)] for key in tensors if tensor_name(key) in ours}
    one["state_dict"] = dict(tensors) | _replaced(tensors, {key: new[name] for key, name in keys.items()})
    _torch_save(content, folder / PUBLISHED)
    genes = [str(symbol) for symbol in model.vocabulary.symbols]
    table = pd.DataFrame({"gene_name": genes, "index": range(len(genes))})
    table.to_csv(folder / gene_index_name(len(genes)), sep="\t", index=False)
    others = [name for name in model.weights if name != trained]
    if model.finetuning is None or not others:
        return []
    return [
        f"Of the sets of weights {trained!r} is the fine-tuned one; {', '.join(map(repr, others))} are as they were."
    ]


def _scbert(model: Any, folder: Path, base: Path) -> list[str]:
    import pandas as pd
    from anndata import AnnData

    from scfm_lab.models import converted
    from scfm_lab.models.files import read_tensors
    from scfm_lab.models.scbert_files import GENE_ORDER, LABELS, POSITIONS, find_checkpoint

    checkpoint = (base if base.is_file() else find_checkpoint(base)) or base
    original = read_tensors(checkpoint)
    new = {theirs: weights_of(model)[ours] for theirs, ours in model.net.checkpoint_names().items()}
    if POSITIONS not in original and not bool(new[POSITIONS].any()):
        del new[POSITIONS]  # trained without any
    # Positions may lie in a table that was named; the published format has them in it.
    out = new | dict(original) | _replaced(original, {key: tensor for key, tensor in new.items() if key in original})
    if writes_head(model):
        out = {key: tensor for key, tensor in out.items() if not key.startswith("to_out.")}
        out |= {f"to_out.{name}": tensor for name, tensor in model.head.state_dict().items()}
    own = model.finetuning is None or writes_head(model)
    if own and model.classes is not None and model.classes.named:
        converted.write(np.array(model.classes.names, dtype=object), folder / LABELS)
    _torch_save({"model_state_dict": out}, folder / ("finetuned.pth" if model.finetuning else checkpoint.name))
    genes = pd.DataFrame(index=pd.Index([str(symbol) for symbol in model.vocabulary.symbols]))
    AnnData(var=genes).write_h5ad(folder / GENE_ORDER)
    return []


_WRITERS: dict[str, Callable[[Any, Path, Path], list[str]]] = {
    "starter": _starter,
    "scgpt": _scgpt,
    "geneformer": _geneformer,
    "uce": _uce,
    "transcriptformer": _transcriptformer,
    "scfoundation": _scfoundation,
    "scbert": _scbert,
}
#: Families whose published format has a place for a head of labels.
_HEADS = frozenset({"scgpt", "geneformer", "scbert"})


# --- files -----------------------------------------------------------------------------------


def _replaced(original: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """New values under the file's own names; what is unchanged keeps its own type."""
    import torch

    found = {}
    for key, tensor in new.items():
        tensor = tensor.detach().cpu()
        same = torch.equal(original[key].to(tensor.dtype), tensor)
        found[key] = original[key] if same else tensor
    return found


def _published_copy(path: Path, target: Path) -> None:
    """Copy a file of tensors; one that was converted becomes the torch archive that it was."""
    from scfm_lab.models.files import read_torch

    if is_converted(stored(path)):
        _torch_save(read_torch(path), target)
    else:
        shutil.copyfile(path, target)


def _torch_save(content: Any, path: Path) -> None:
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(plain(item) for item in value)
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, torch.Tensor):
            return value
        tensor = value.detach().cpu().contiguous()
        # A view would take its whole storage along; what is alone in its own is not copied once more.
        own = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if own else tensor.clone()

    torch.save(plain(content), path)


def _given(model: Model) -> dict[str, Any]:
    """Files that were named when the model was opened."""
    return dict((model.opened or {}).get("files") or {})
