"""Linear layers and attention in the precision of the run.

Weights stay in float32. While :func:`running` says so, the products of the transformer's
layers are taken of copies in a lower precision, which are made once; sums along the residual
stream, norms and embeddings stay in float32. A thread that runs in a lower precision changes
nothing for another.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.inference.hardware import mapped_files
from scfm_lab.inference.precision import FLOAT32, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


class _Run(threading.local):
    precision: Precision = FLOAT32


_run = _Run()


@contextlib.contextmanager
def running(precision: Precision) -> Iterator[None]:
    """Take products in this precision meanwhile, in this thread."""
    before, _run.precision = _run.precision, precision
    try:
        yield
    finally:
        _run.precision = before


def current() -> Precision:
    """The precision that products are taken in."""
    return _run.precision


class Lowered(nn.Module):
    """A module that keeps copies of its parameters in lower precisions, made when they are first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[tuple[str, torch.dtype], Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Lowered:
        self._copies.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self._copies.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def lowered(self, name: str) -> Tensor:
        """A parameter in the precision of the run; itself where that is its own or gradients are wanted."""
        weight: Tensor = getattr(self, name)
        dtype = getattr(torch, _run.precision.products)
        if weight.dtype == dtype:
            return weight
        if weight.requires_grad and torch.is_grad_enabled():
            return weight.to(dtype)
        key = (name, dtype)
        if key not in self._copies:
            # Outside of inference mode, so that what is kept can be used anywhere.
            with torch.inference_mode(False), torch.no_grad():
                self._copies[key] = weight.detach().to(dtype)
        return self._copies[key]


def copies_bytes(modules: Sequence[nn.Module], precision: Precision) -> int:
    """Bytes of all copies that products in a precision are taken of."""
    dtype = getattr(torch, precision.products)
    held = {
        parameter.data_ptr(): parameter.numel() * dtype.itemsize
        for module in _lowered(modules)
        for parameter in module.parameters(recurse=False)
        if parameter.dtype != dtype
    }
    return sum(held.values())


def held_bytes(modules: Sequence[nn.Module]) -> int:
    """Bytes of weights and of the copies that were made; not of weights that are mapped from a file, whose memory is free."""
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    tensors += [copy for module in _lowered(modules) for copy in module._copies.values()]  # noqa: SLF001
    mapped = mapped_files() if any(t.device.type == "cpu" for t in tensors) else []
    held = {
        t.data_ptr(): t.numel() * t.element_size()
        for t in tensors
        if t.device.type != "cpu" or not any(first <= t.data_ptr() < last for first, last in mapped)
    }
    return sum(held.values())


def forget(modules: Sequence[nn.Module]) -> None:
    """Drop all copies."""
    for module in _lowered(modules):
        module._copies.clear()  # noqa: SLF001


def _lowered(modules: Sequence[nn.Module]) -> list[Lowered]:
    return [part for module in modules for part in module.modules() if isinstance(part, Lowered)]


class Linear(Lowered, nn.Linear):
    """``nn.Linear`` in the precision of the run; what comes out has that precision too."""

    def __init__(self, inner: int, outer: int, *, bias: bool = True) -> None:
        nn.Linear.__init__(self, inner, outer, bias=bias)
        self._copies = {}

    def forward(self, x: Tensor) -> Tensor:
        """(…, inner) → (…, outer)."""
        weight = self.lowered("weight")
        return F.linear(x.to(weight.dtype), weight, None if self.bias is None else self.lowered("bias"))


def to_attention(x: Tensor) -> Tensor:
    """Queries, keys or values in the precision that attention runs in."""
    return x.to(getattr(torch, _run.precision.attention))


def read_few(
    query: Tensor, states: Tensor, key: Tensor, value: Tensor, value_bias: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention of a few readers over many tokens, without the keys and values of those tokens.

    q·(Wx + b) is (Wᵀq)·x plus what is the same for all tokens and falls out of the softmax, and a
    mean of values is the value of a mean: both projections are taken once for each reader instead
    of once for each token, with the same result up to rounding.

    Parameters
    ----------
    query
        (cells, heads, readers, head width).
    states
        (cells, tokens, width).
    key, value
        Rows of the projections, (heads · head width, width).
    value_bias
        (heads · head width,).
    mask
        Bool, (cells, tokens): True where a token may be read; None: everywhere.

    Returns
    -------
    Tensor (cells, heads, readers, head width)
    """
    heads, width = query.shape[1], query.shape[-1]
    folded = torch.einsum("nhre,hed->nhrd", query * width**-0.5, key.unflatten(0, (heads, width)))
    scores = (folded.flatten(1, 2) @ states.transpose(1, 2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, :], float("-inf"))
    mean = (scores.softmax(-1).to(states.dtype) @ states).unflatten(1, (heads, -1))
    mixed = torch.einsum("nhrd,hed->nhre", mean, value.unflatten(0, (heads, width)))
    return mixed + value_bias.unflatten(0, (heads, 1, width))
