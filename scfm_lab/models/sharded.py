"""Weights in several files: an index that names the file of every tensor, as Hugging Face writes it beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_stored

if TYPE_CHECKING:
    from pathlib import Path

    import torch

ENDING = ".index.json"


def is_index(path: Path) -> bool:
    """Whether a file is, by its name, the index of weights in several files."""
    return path.name.endswith(ENDING)


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → name of its file, beside the index.

    Raises
    ------
    ModelError
        If the index is damaged, or names anything but files beside it.
    """
    from scfm_lab.models.files import read_config

    found = read_config(index.parent, index.name).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ModelError(f"{index} has no weight_map of tensors and files; get the file again.")
    # A path would lead out of the checkpoint.
    strange = sorted({name for name in found.values() if name in ("", ".", "..") or set(name) & set("/\\:\0")})
    if strange:
        raise ModelError(f"{index} names {strange[0]!r}, which is no file beside it; get the file again.")
    return found


def shards(index: Path) -> list[Path]:
    """The files that an index names, sorted.

    Raises
    ------
    ModelError
        If one is missing; as for :func:`weight_map`.
    """
    names = sorted(set(weight_map(index).values()))
    missing = [name for name in names if not is_stored(index.with_name(name))]
    if missing:
        raise ModelError(
            f"{index.parent} has no {missing[0]}, one of the {len(names)} files of weights that {index.name} names; get "
            f"{'them' if len(missing) > 1 else 'it'} too."
        )
    return [index.with_name(name) for name in names]


def read_sharded(index: Path) -> dict[str, torch.Tensor]:
    """All tensors of the files that an index names.

    Raises
    ------
    ModelError
        If a tensor is in no file, in two, or not in the index; as for :func:`scfm_lab.models.files.read_tensors`.
    """
    from scfm_lab.models.files import read_tensors, unwrapped

    told = weight_map(index)
    told = unwrapped(told)
    tensors: dict[str, torch.Tensor] = {}
    home: dict[str, str] = {}
    for path in shards(index):
        for key, tensor in read_tensors(path).items():
            if key in home:
                raise ModelError(f"{key!r} is in {home[key]} and in {path.name}; it is not clear which is meant.")
            home[key], tensors[key] = path.name, tensor
    wrong = [f"{key!r} is not in {name}" for key, name in told.items() if home.get(key) != name]
    wrong += [f"{key!r} of {home[key]} is not in the index" for key in home if key not in told]
    if wrong:
        more = f", and {len(wrong) - 1:,} more like it" if len(wrong) > 1 else ""
        raise ModelError(
            f"{index} does not fit the files of weights beside it: {wrong[0]}{more}. Get all of them again."
        )
    return tensors
