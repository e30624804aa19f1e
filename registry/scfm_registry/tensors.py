"""How much the tensors of one model differ from another's, read one at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    import torch

    from scfm_lab.models.contract import Model

_PIECE = 2**22
_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h|net)\.(\d+)(?:\.|$)")


def moved(a: Mapping[str, torch.Tensor] | Tensors, b: Mapping[str, torch.Tensor] | Tensors) -> pd.DataFrame:
    """How much each tensor moved, one at a time and in pieces.

    Parameters
    ----------
    a, b
        Name → tensor; :class:`Tensors` reads them from files as they are asked for.

    Returns
    -------
    DataFrame
        tensor, layer, relative, norm, change, remark.
    """
    import pandas as pd

    rows = []
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            rows.append([name, layer_of(name), None, None, None, f"only in {'a' if name in a else 'b'}"])
            continue
        first, second = a[name], b[name]
        if tuple(first.shape) != tuple(second.shape):
            rows.append([name, layer_of(name), None, None, None, f"{list(first.shape)} and {list(second.shape)}"])
            continue
        norm, change = _norms(first, second)
        rows.append([name, layer_of(name), change / norm if norm else float(change > 0), norm, change, ""])
    return pd.DataFrame(rows, columns=["tensor", "layer", "relative", "norm", "change", "remark"])


def _norms(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Norm of a tensor, and of the difference of two, in float64, piece by piece."""
    a, b = first.reshape(-1), second.reshape(-1)
    norm = change = 0.0
    for start in range(0, len(a), _PIECE):
        x, y = (part[start : start + _PIECE].detach().cpu().double() for part in (a, b))
        norm += float((x * x).sum())
        change += float(((y - x) ** 2).sum())
    return norm**0.5, change**0.5


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to: its number, else the first part of its name."""
    match = _LAYER.search(name)
    if match:
        return f"layer {match.group(1)}"
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


class Tensors:
    """The tensors in a folder's safetensors files by name, each read when it is asked for: no model is held in memory."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._where: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._where.update(dict.fromkeys(file.keys(), path))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._where[name], framework="pt") as file:
            return file.get_tensor(name)


def opened(model: Model) -> dict[str, torch.Tensor]:
    """The tensors of an opened model by name."""
    found = {}
    for number, module in enumerate(model._modules()):  # noqa: SLF001 - the contract's own
        found.update({f"{number}.{name}" if number else name: tensor for name, tensor in module.state_dict().items()})
    return found
