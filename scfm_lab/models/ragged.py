"""Attention and sums of packed cells on accelerators, all cells of a batch in one launch.

A launch for each cell is dear there, and so is every table of places that is copied over while
the device waits: those of a batch are made once and kept for all of its layers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is needed)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

# Layers of one batch ask for the same tables; those of a few batches at most are in use at once.
_KEPT = 8
# What the kernels that read cells of any length take without a copy.
_ALIGNED, _WIDEST = 8, 256
_FLASH_SINCE = (8, 0)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: NDArray[np.int64],
    asked: NDArray[np.int64],
    *,
    scale: float | None,
    attend: Callable[..., Tensor],
    fused: bool,
) -> Tensor:
    """:func:`scfm_lab.models.layers.packed_attention` of all cells at once.

    Parameters
    ----------
    asked
        Queries of each cell.
    attend
        Attention of padded cells under a mask, (cells, heads, tokens, head width).
    fused
        Whether `attend` is PyTorch's fused attention, so that its kernel for cells of any length may take its place.
    """
    if fused and not torch.is_grad_enabled() and _has_varlen(query):
        return _varlen(query, key, value, lengths, asked, scale)
    return padded(query, key, value, lengths, asked, scale=scale, attend=attend)


def _has_varlen(query: Tensor) -> bool:
    """Whether there are kernels for cells of any length, on NVIDIA's cards."""
    width = query.shape[-1]
    return bool(torch.version.cuda) and query.device.type == "cuda" and width % _ALIGNED == 0 and width <= _WIDEST


def _has_flash(query: Tensor) -> bool:
    return (
        query.dtype != torch.float32
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= _FLASH_SINCE
    )


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: NDArray[np.int64],
    asked: NDArray[np.int64],
    scale: float | None,
) -> Tensor:
    """Without padding, by the kernels behind PyTorch's fused attention of nested tensors.

    They are called by their own names, as nested tensors cannot be made of what inference mode gave.
    """
    key_ends, query_ends = ends(lengths, query.device), ends(asked, query.device)
    longest, most = int(lengths.max()), int(asked.max())
    if _has_flash(query):
        found = torch.ops.aten._flash_attention_forward(  # noqa: SLF001
            query, key, value, query_ends, key_ends, most, longest, 0.0, False, False, scale=scale
        )
        return found[0]
    found = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001
        query[None], key[None], value[None], None, query_ends, key_ends, most, longest, 0.0, 0, False, scale=scale
    )
    return found[0][0]


def padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: NDArray[np.int64],
    asked: NDArray[np.int64],
    *,
    scale: float | None,
    attend: Callable[..., Tensor],
) -> Tensor:
    """Padded to the longest cell, the padding masked."""
    token_places, query_places = places(lengths, query.device), places(asked, query.device)
    longest, most = int(lengths.max()), int(asked.max())
    mask = torch.arange(longest, device=query.device) < over(lengths, query.device)[:, None]

    def pad(flat: Tensor, where: tuple[Tensor, Tensor], length: int) -> Tensor:
        full = flat.new_zeros((len(lengths), length, *flat.shape[1:]))
        full[where] = flat
        return full.transpose(1, 2)

    mixed = attend(
        pad(query, query_places, most),
        pad(key, token_places, longest),
        pad(value, token_places, longest),
        attn_mask=mask[:, None, None, :],
        scale=scale,
    )
    return mixed.transpose(1, 2)[query_places]


def places(lengths: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cell of each packed token, and its place within that cell."""
    return _places(np.asarray(lengths, np.int64).tobytes(), device)


def ends(lengths: NDArray[np.int64], device: torch.device) -> Tensor:
    """Where each packed cell begins, and at the end where the last one ends, int32 (cells + 1,)."""
    return _ends(np.asarray(lengths, np.int64).tobytes(), device)


def reduce(kind: str, states: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """``"sum"``, ``"mean"`` or ``"max"`` over each cell's tokens, (tokens, width) → (cells, width), in float32."""
    # One token after the other, so that the same cell gives the same vector.
    own = over(np.asarray(lengths, np.int64), states.device)
    return torch.segment_reduce(states.float(), kind, lengths=own, unsafe=True)


@lru_cache(_KEPT)
def _places(packed: bytes, device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = np.frombuffer(packed, np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return _kept(rows, device), _kept(columns, device)


@lru_cache(_KEPT)
def _ends(packed: bytes, device: torch.device) -> Tensor:
    lengths = np.frombuffer(packed, np.int64)
    return _kept(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), device)


def over(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array on a device; a GPU is not waited for."""
    # A copy of PyTorch's own: NumPy's memory begins anywhere, and where it begins decides how sums are rounded.
    copy = torch.tensor(np.ascontiguousarray(values))
    return copy.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else copy.to(device)


def _kept(values: NDArray[Any], device: torch.device) -> Tensor:
    # Outside of inference mode, so that what is kept can be used anywhere.
    with torch.inference_mode(False):
        return over(values, device)
