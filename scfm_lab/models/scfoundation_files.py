"""The files of scFoundation: one checkpoint with several sets of weights, and the order of the genes.

The published ``models.ckpt`` holds ``cell`` (cell vectors), ``rde`` (read-depth enhancement) and
``gene`` (gene states), each with its configuration. A file with one set alone, ``config`` and
``state_dict`` at its top, is read too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_stored, listed, stored
from scfm_lab.models.files import read_torch, require_keys
from scfm_lab.models.performer import shape_of, without_counter
from scfm_lab.models.performer_inputs import known_entries, names_tensors, read_gene_list
from scfm_lab.models.resemblance import tensor_keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from scfm_lab.models.scfoundation_net import ScFoundationNet

PUBLISHED = "models.ckpt"
GENE_INDEX = "OS_scRNA_gene_index.19264.tsv"
_GENE_INDICES = "OS_scRNA_gene_index*.tsv"
_TELLING = ("token_emb.mlp2.weight", "token_emb.emb_mask.weight")
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
ONLY = "only"
"""Name given to the weights of a file that holds one set."""


@dataclass(frozen=True)
class Weights:
    """One set of weights in a file that was read and checked; tensors are taken from it when they are needed."""

    path: Path
    name: str
    shape: dict[str, Any]
    stamp: tuple[int, int]
    """Size and time of the file when it was checked."""

    def identity_parts(self) -> list[Any]:
        """What a network is made with, besides the tensors."""
        return [self.name, self.shape]

    def network(self) -> ScFoundationNet:
        """The network in float32 on the CPU.

        Raises
        ------
        ModelError
            If the file is not the one that was opened any more.
        """
        import torch

        from scfm_lab.models.scfoundation_net import ScFoundationNet

        if not is_stored(self.path) or _stamp(self.path) != self.stamp:
            raise ModelError(f"{self.path} has changed since it was opened; open it again.")
        tensors = _named_tensors(self.path, self.name, _sets(self.path, finite=False)[self.name])
        with torch.device("meta"):
            net = ScFoundationNet(self.shape)
        names = net.checkpoint_names()
        # A copy: the file may be replaced while the model is in use.
        net.load_state_dict(
            {names[k]: v.detach().to(torch.float32, copy=True) for k, v in tensors.items()}, assign=True
        )
        return net.requires_grad_(False).eval()


def _stamp(path: Path) -> tuple[int, int]:
    told = stored(path).stat()
    return told.st_size, told.st_mtime_ns


def is_checkpoint(path: Path) -> bool:
    """Whether a file names the tensors that only scFoundation has."""
    return names_tensors(path, *_TELLING)


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that a path means: the file itself, or the one of a folder; None where there is none."""
    if path.is_file():
        return path if is_checkpoint(path) else None
    for folder in (path, path / "models"):
        if not folder.is_dir():
            continue
        files = sorted((f for f in listed(folder) if f.suffix in _SUFFIXES), key=lambda f: (f.name != PUBLISHED, f))
        found = [f for f in files if is_checkpoint(f)]
        if found and (found[0].name == PUBLISHED or len(found) == 1):
            return found[0]
        if found:
            names = ", ".join(f.name for f in found)
            raise ModelError(
                f"{folder} holds {len(found)} checkpoints of scFoundation ({names}); give the path of one."
            )
    return None


def read_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Weights]:
    """Every set of weights of a checkpoint, checked; no network is built yet.

    Raises
    ------
    ModelError
        If the file is damaged, of another family, or a tensor does not find its place.
    """
    stamp = _stamp(path)
    return {name: _checked(path, name, one, config, stamp) for name, one in _sets(path).items()}


def _sets(path: Path, *, finite: bool = True) -> dict[str, dict[str, Any]]:
    content = read_torch(path, finite=finite)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not scFoundation's sets of weights.")
    sets = {ONLY: content} if _is_set(content) else {str(k): v for k, v in content.items() if _is_set(v)}
    # The reference asks for a set by its name: notes of a training beside them are nobody's concern, other tensors are.
    rest = {} if _is_set(content) else {str(k): v for k, v in content.items() if not _is_set(v)}
    strange = [name for name, value in rest.items() if any(True for _ in tensor_keys({name: value}))]
    if not sets or strange:
        raise ModelError(
            f"{path} is no checkpoint of scFoundation: its entries {', '.join(map(str, list(content)[:5]))} should be sets "
            "of weights such as 'cell', 'rde' and 'gene', each with 'config' and 'state_dict'."
        )
    return sets


def _is_set(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("state_dict"), dict)


def _named_tensors(path: Path, name: str, one: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    import torch

    tensors = {}
    for key, value in one["state_dict"].items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{path} is no checkpoint of scFoundation: {key!r} of {name!r} is no tensor.")
        own = tensor_name(key)
        if own in tensors:
            raise ModelError(
                f"The weights {name!r} in {path} hold {own!r} twice, under different names; it is not clear which is meant."
            )
        tensors[own] = value
    return without_counter(tensors)


def tensor_name(key: Any) -> str:
    """Name of a tensor without what its training and parallel or compiled models put before it.

    The reference takes what stands behind the first ``model.``, wherever that is; a copy beside the weights (``ema_model.…``)
    would take their place.

    Examples
    --------
    >>> tensor_name("model.norm.weight")
    'norm.weight'
    >>> tensor_name("ema_model.norm.weight")
    'ema_model.norm.weight'
    """
    return re.sub(r"^((module|_orig_mod)\.)*(model\.((module|_orig_mod)\.)*)?", "", str(key))


def _checked(
    path: Path, name: str, one: Mapping[str, Any], config: Mapping[str, Any], stamp: tuple[int, int]
) -> Weights:
    import torch

    from scfm_lab.models.scfoundation_net import ScFoundationNet

    tensors = _named_tensors(path, name, one)
    settings = _merged(one.get("config"), config, path, name)
    try:
        shape = _network_shape(settings, tensors)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        what = f"there is no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise ModelError(
            f"The weights {name!r} in {path} are not those of scFoundation: {what}. What the file does not say can be "
            "given with config={…}."
        ) from error
    with torch.device("meta"):
        net = ScFoundationNet(shape)
    shapes, names = net.state_dict(), net.checkpoint_names()
    require_keys(tensors, {theirs: tuple(shapes[ours].shape) for theirs, ours in names.items()}, path)
    return Weights(path, name, shape, stamp)


def _merged(stored: Any, given: Mapping[str, Any], path: Path, name: str) -> dict[str, Any]:
    """The inner dictionaries of a stored configuration, those of the data winning, and then the user's."""
    stored = stored if isinstance(stored, dict) else {}
    if not isinstance(stored.get("model_config", {}), dict) or not isinstance(stored.get("dataset_config", {}), dict):
        raise ModelError(f"The configuration of {name!r} in {path} is damaged; get the file again.")
    model = stored.get("model_config", {}).get(str(stored.get("model")), stored if "encoder" in stored else {})
    data = stored.get("dataset_config", {}).get("rnaseq", {})
    settings = {**(model if isinstance(model, dict) else {}), **(data if isinstance(data, dict) else {})}
    known_entries(given, _KNOWN, "config=", "scFoundation")
    for part, known in _KNOWN.items():
        if known and isinstance(given.get(part), dict):
            known_entries(given[part], known, f"config={{{part!r}: …}}", "scFoundation")
    for key, value in given.items():
        inner = settings.get(key)
        settings[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    return settings


#: What is read of a configuration, and of its parts; the files hold more, which nothing reads.
_KNOWN: dict[str, tuple[str, ...]] = {
    "encoder": ("hidden_dim", "depth", "heads", "module_type", "seq_len"),
    "decoder": ("hidden_dim", "depth", "heads", "dim_head", "module_type"),
    **dict.fromkeys(("bin_num", "bin_alpha", "pad_token_id", "mask_token_id", "seq_len"), ()),
}


def _network_shape(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    encoder, decoder = settings["encoder"], settings["decoder"]
    for part, wanted in ((encoder, "transformer"), (decoder, "performer")):
        kind = part.get("module_type", wanted)
        if kind != wanted:
            raise ValueError(f"the module_type {kind!r} is not {wanted!r}, the only published one")
    n_layers = len({k.split(".")[2] for k in tensors if k.startswith("encoder.transformer_encoder.")})
    performer = shape_of(tensors, "decoder.performer.")
    rows = len(tensors["pos_emb.weight"]) - 1
    # Sizes are compared before anything of that size is made.
    bins, width = tensors["token_emb.emb.weight"].shape
    for what, told, seen in (
        ("encoder depth", encoder["depth"], n_layers),
        ("encoder hidden_dim", encoder["hidden_dim"], width),
        ("decoder depth", decoder["depth"], performer["n_layers"]),
        ("decoder hidden_dim", decoder["hidden_dim"], performer["width"]),
        ("decoder dim_head", decoder.get("dim_head", performer["head_width"]), performer["head_width"]),
        ("decoder heads", decoder.get("heads", performer["heads"]), performer["heads"]),
        ("bin_num", settings["bin_num"], bins),
        ("seq_len", settings.get("seq_len", encoder.get("seq_len", rows)), rows),
    ):
        if int(told) != int(seen):
            raise ValueError(f"the configuration says {what} {told}, the tensors {seen}")
    heads = int(encoder["heads"])
    if heads < 1 or width % heads:
        raise ValueError(f"a width of {width} cannot be divided among {heads} attention heads")
    if rows < 3:
        raise ValueError("there are positions for read depth, and none for genes")
    return {
        "n_genes": rows - 2,
        "bins": bins,
        "alpha": float(settings.get("bin_alpha", 1.0)),
        "mask_value": float(settings["mask_token_id"]),
        "pad_value": float(settings["pad_token_id"]),
        "encoder": {
            "width": width,
            "layers": n_layers,
            "heads": heads,
            "ffn": len(tensors["encoder.transformer_encoder.0.linear1.weight"]),
        },
        "decoder": performer,
    }


def gene_index_name(n_genes: int) -> str:
    """Name of the list of so many genes."""
    return GENE_INDEX.replace("19264", str(n_genes))


def gene_indices(folder: Path) -> list[Path]:
    """Lists of scFoundation's genes in a folder."""
    return sorted(folder.glob(_GENE_INDICES))


def read_genes(checkpoint: Path, files: Mapping[str, Any], n_genes: int) -> NDArray[Any]:
    """The genes in the order of the positions.

    Raises
    ------
    ModelError
        If the list is missing or damaged, or does not have as many genes as positions.
    """
    source = files.get("gene_index")
    if source is None:
        found = [f for folder in (checkpoint.parent, checkpoint.parent.parent) for f in gene_indices(folder)]
        # Of several, the one that says the right number.
        found.sort(key=lambda f: f".{n_genes}." not in f.name)
        source = found[0] if found else None
    if source is None:
        raise ModelError(
            f"{checkpoint} looks like scFoundation and has no {GENE_INDEX} beside it or one folder up: it says nothing about "
            f"its {n_genes:,} genes, whose order that file is; name it with files={{'gene_index': …}}."
        )
    genes = read_gene_list(source, "scFoundation")
    if len(genes) != n_genes:
        raise ModelError(
            f"{source if isinstance(source, str) or hasattr(source, 'name') else 'The gene index given'} has "
            f"{len(genes):,} genes, the checkpoint {checkpoint} has {n_genes:,}; the files do not belong together."
        )
    return genes
