"""The files of scBERT: a ``.pth`` with the network, the order of genes, and the classes of a fine-tuned model.

The hyper-parameters are not in the files; all of them can be read from the shapes of the tensors.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_stored, listed
from scfm_lab.models.files import read_pickle, read_torch, require_keys, unwrapped
from scfm_lab.models.performer import shape_of, without_counter
from scfm_lab.models.performer_inputs import names_tensors, read_gene_list
from scfm_lab.models.resemblance import whose
from scfm_lab.models.spec import Classes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    from scfm_lab.models.scbert_net import ScBertNet

PUBLISHED = "panglao_pretrain.pth"
GENE_ORDER, GENE2VEC, LABELS, LABEL_CODES = "panglao_10000.h5ad", "gene2vec_16906.npy", "label_dict", "label"
AUXILIARY = {"gene_order": GENE_ORDER, "gene2vec": GENE2VEC, "label_dict": LABELS, "label": LABEL_CODES}
FILES = tuple(AUXILIARY)
POSITIONS = "pos_emb.emb.weight"
_STATE = "model_state_dict"
# Not the embedding of positions: a network that was trained without gene2vec has none.
_TELLING = ("token_emb.weight", "performer.net.layers", "fast_attention.projection_matrix")


def is_checkpoint(path: Path) -> bool:
    """Whether a file names the tensors that only scBERT has."""
    return names_tensors(path, *_TELLING) and not any(
        names_tensors(path, name) for name in ("token_emb.mlp2", "decoder.")
    )


def find_checkpoint(path: Path, *, told: bool = False) -> Path | None:
    """The checkpoint that a path means: the file itself, or the one of a folder; None where there is none.

    Parameters
    ----------
    told
        Warn where a folder holds others beside the published one, which is taken.

    Raises
    ------
    ModelError
        If a folder holds several, and none of them has the published name.
    """
    if path.is_file():
        return path if is_checkpoint(path) else None
    for folder in (path, path / "ckpts"):
        if not folder.is_dir():
            continue
        found = sorted(f for f in listed(folder) if f.suffix in (".pth", ".pt", ".ckpt", ".bin") and is_checkpoint(f))
        named = [f for f in found if f.name == PUBLISHED]
        if told and named and len(found) > 1:
            others = ", ".join(str(f) for f in found if f != named[0])
            warnings.warn(
                f"{folder} holds {len(found)} checkpoints of scBERT; the pre-trained {PUBLISHED} is opened. Give the path of the "
                f"file to have another: {others}.",
                stacklevel=4,
            )
        if named or len(found) == 1:
            return (named or found)[0]
        if found:
            names = ", ".join(f.name for f in found)
            raise ModelError(f"{folder} holds {len(found)} checkpoints of scBERT ({names}); give the path of one.")
    return None


def read_network(checkpoint: Path, files: Mapping[str, Any]) -> tuple[ScBertNet, Path | None]:
    """The network of a checkpoint, in float32 on the CPU, and the table that completed its tensors, if one did.

    Parameters
    ----------
    files
        As they were named when the model was opened.

    Raises
    ------
    ModelError
        If the file is damaged, of another family, or a tensor does not find its place.
    """
    import torch

    from scfm_lab.models.scbert_net import ScBertNet

    tensors = _state(read_torch(checkpoint), checkpoint)
    completed = None
    try:
        n_tokens, width = tensors["token_emb.weight"].shape
        if POSITIONS not in tensors:
            tensors[POSITIONS], completed = _positions(checkpoint, files, tensors, width)
        length = len(tensors[POSITIONS])
        performer = shape_of(tensors, "performer.")
        head = None
        if "to_out.fc1.weight" in tensors:
            one, two, classes = (len(tensors[f"to_out.fc{i}.weight"]) for i in (1, 2, 3))
            head = one, two, classes
        performer["width"] = width
        if n_tokens < 3 or length < 2:
            raise ValueError("there are too few tokens or positions")
    except (KeyError, ValueError, TypeError) as error:
        what = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        family = whose(tensors)
        some = f"they are {family}'s" if family and family != "scBERT" else f"such as {', '.join(list(tensors)[:3])}"
        raise ModelError(
            f"{checkpoint} is no checkpoint of scBERT ({what} among its {len(tensors)} tensors; {some})."
        ) from error
    with torch.device("meta"):
        net = ScBertNet(n_tokens, length, performer, head)
    shapes, names = net.state_dict(), net.checkpoint_names()
    require_keys(tensors, {theirs: tuple(shapes[ours].shape) for theirs, ours in names.items()}, checkpoint)
    # A copy: the file may be replaced while the model is in use.
    net.load_state_dict(
        {names[name]: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True
    )
    return net.requires_grad_(False).eval(), completed


def _state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(content, dict) and isinstance(content.get(_STATE), dict):
        content = content[_STATE]
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path} holds a {type(content).__name__}, not the state of a network.")
    strange = [str(k) for k, v in content.items() if not isinstance(k, str) or not isinstance(v, torch.Tensor)]
    if strange:
        raise ModelError(f"{path} is no checkpoint of scBERT: {', '.join(strange[:5])} are no tensors.")
    return without_counter(unwrapped(content))


def _positions(
    checkpoint: Path, files: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], width: int
) -> tuple[torch.Tensor, Path | None]:
    """What stands for the positions of a network without them: zeros, as in the reference, unless a table is named."""
    import torch

    if "gene2vec" in files:
        table = Path(locate(checkpoint, files, "gene2vec", GENE2VEC))
        warnings.warn(f"{checkpoint} has no {POSITIONS!r}; {table}, which files= names, stands for it.", stacklevel=5)
        return _read_gene2vec(table), table
    near = locate(checkpoint, {}, "gene2vec", GENE2VEC)
    if near is not None:
        warnings.warn(
            f"{checkpoint} has no {POSITIONS!r}: it was trained without gene2vec, and {near} is not read. If it belongs to it "
            "all the same, name it with files={'gene2vec': …}.",
            stacklevel=5,
        )
    head = tensors.get("to_out.fc1.weight")
    genes = read_genes(checkpoint, files, None if head is None else head.shape[-1] - 1)
    return torch.zeros(len(genes) + 1, width), None


def _read_gene2vec(path: Path) -> torch.Tensor:
    import torch

    try:
        table = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ModelError(f"The table {path} is missing; give the files as published.") from None
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} is damaged or no table of numbers ({error}); get the file again.") from error
    if table.ndim != 2 or table.dtype.kind != "f" or not np.isfinite(table).all():
        raise ModelError(f"{path} is no table of finite numbers, genes × width; get the file again.")
    # The appended token has no gene: its row is zero.
    return torch.as_tensor(np.vstack([table, np.zeros((1, table.shape[1]), table.dtype)]))


def locate(checkpoint: Path, files: Mapping[str, Any], key: str, name: str) -> Any:
    """Where an auxiliary file is: as given, beside the checkpoint, or in ``../data``; None where it is not."""
    if key in files:
        if key in ("gene2vec", "label") and not isinstance(files[key], (str, Path)):
            raise ModelError(f"files[{key!r}] is a path, not {files[key]!r}.")
        return files[key]
    folder = checkpoint.parent
    for place in (folder, folder.parent / "data", folder / "data", folder.parent):
        if is_stored(place / name):
            return place / name
    return None


def read_genes(checkpoint: Path, files: Mapping[str, Any], positions: int | None = None) -> NDArray[Any]:
    """The genes in the order of the positions; of how many, where nothing else says it, None.

    Raises
    ------
    ModelError
        If the file is missing or damaged, or there are not as many genes as positions.
    """
    source = locate(checkpoint, files, "gene_order", GENE_ORDER)
    if source is None:
        raise ModelError(
            f"{checkpoint} looks like scBERT and has no {GENE_ORDER} beside it or in {checkpoint.parent.parent / 'data'}: it "
            f"says nothing about its {'' if positions is None else f'{positions:,} '}genes, whose order the var_names of that file are; name it with "
            "files={'gene_order': …}."
        )
    genes = read_gene_list(source, "scBERT")
    if positions is not None and len(genes) != positions:
        where = source if isinstance(source, (str, Path)) else "The gene order given"
        raise ModelError(
            f"{where} has {len(genes):,} genes, the checkpoint {checkpoint} has {positions:,} positions; the files do not "
            "belong together."
        )
    return genes


def read_classes(checkpoint: Path, files: Mapping[str, Any], n: int) -> Classes:
    """Names of the classes of a fine-tuned model, in the order of its logits.

    Raises
    ------
    ModelError
        If a label file is damaged, holds code, or does not have that many classes.
    """
    source = locate(checkpoint, files, "label_dict", LABELS)
    codes = locate(checkpoint, files, "label", LABEL_CODES)
    if codes is not None:
        known = np.asarray(read_pickle(Path(codes)))
        if known.ndim != 1 or known.dtype.kind not in "iu" or (len(known) and not 0 <= known.min() <= known.max() < n):
            raise ModelError(
                f"{codes} does not hold the classes 0 to {n - 1} of cells; the files do not belong together."
            )
    if source is None:
        return Classes(np.array([f"class {i}" for i in range(n)], dtype=object), named=False)
    given = source if not isinstance(source, (str, Path)) else read_pickle(Path(source))
    names = np.array([str(name) for name in np.asarray(given, dtype=object).ravel()], dtype=object)
    if len(names) != n:
        raise ModelError(
            f"{source if isinstance(source, (str, Path)) else 'label_dict'} names {len(names)} classes, the head of "
            f"{checkpoint} has {n}; the files do not belong together."
        )
    return Classes(names, named=True)
