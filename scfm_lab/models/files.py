"""Read the files of a checkpoint: configurations, safetensors, digests. No code is run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def sha256(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """A checkpoint's JSON configuration.

    Raises
    ------
    ModelError
        If it is missing or not a JSON object.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"The checkpoint {folder} has no {name}; give the folder as published.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); get the file again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object; get the file again.")
    return config


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not in that format, or holds NaN or infinity.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise ModelError(f"The checkpoint {path.parent} has no {path.name}; give the folder as published.")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"{path} is damaged or no safetensors file ({path.stat().st_size:,} bytes; {error}). Get the file again."
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path} holds NaN or infinite values in {name!r}; the weights cannot be used.")
    return tensors


def require_keys(tensors: dict[str, Any], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    """Refuse a file whose tensors are not those expected.

    Raises
    ------
    ModelError
        Naming the keys that are missing, left over or of another shape.
    """
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    faults = []
    if missing:
        faults.append(f"missing {', '.join(missing)}")
    if extra:
        faults.append(f"unknown {', '.join(extra)}")
    faults += wrong
    if faults:
        raise ModelError(f"The weights in {path} do not match the model: {'; '.join(faults)}.")
