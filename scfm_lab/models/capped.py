"""TranscriptFormer's capped causal attention on accelerators, where every pass over the scores is a walk through memory."""

from __future__ import annotations

import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253

# exp of a capped score needs no maximum taken off first, as long as it is a number of the type that it is kept in.
_SAFE_CAP = {torch.float32: 60.0, torch.bfloat16: 60.0, torch.float16: 11.0}
# Columns that are added to the heads: kernels of matrix products want a multiple of 8.
_MORE = 8


def can(query: torch.Tensor, cap: float) -> bool:
    """Whether :func:`blocks` computes this."""
    return not torch.is_grad_enabled() and 0 < cap <= _SAFE_CAP.get(query.dtype, 0.0)


def blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    cap: float,
    visible: torch.Tensor | None,
    on_diagonal: bool,
    at_once: int,
) -> torch.Tensor:
    """Means of values under exp(cap · tanh((q·k/√width + bias) / cap)), for a block of queries at a time.

    Parameters
    ----------
    query, key, value
        (rows, tokens, head width).
    bias
        Of the scores of each key, (rows, 1, tokens), float32.
    visible
        Bool (rows, 1, tokens): keys that may be read; None: all. A query that may read none gets 0.
    on_diagonal
        Whether a token's own score has its bias too.
    at_once
        Queries of a block.

    Returns
    -------
    Tensor (rows, tokens, head width)
    """
    dtype, length = query.dtype, query.shape[1]
    bias = bias.float() / cap
    # The bias enters with the product, as two further columns: what one number of a lower precision leaves over of it
    # is in the other.
    high = bias.to(dtype)
    both = torch.cat([high, (bias - high.float()).to(dtype)], 1).transpose(1, 2)
    key = torch.cat([key, F.pad(both, (0, _MORE - 2))], -1)
    ones = F.pad(torch.ones_like(both), (0, _MORE - 2))
    query = torch.cat([query * (query.shape[-1] ** -0.5 / cap), ones], -1)
    out = torch.empty_like(value)
    for start in range(0, length, at_once):
        end = min(start + at_once, length)
        scores = _product(query[:, start:end], key[:, :end].transpose(1, 2))
        if not on_diagonal:
            scores[..., start:end].diagonal(dim1=1, dim2=2).sub_(bias[:, 0, start:end])
        scores.tanh_().mul_(cap)
        weights = (
            scores.exp_() if dtype == torch.float32 else torch.exp(scores, out=torch.empty_like(scores, dtype=dtype))
        )
        weights[..., start:end].tril_()
        if visible is not None:
            weights.mul_(visible[..., :end])
        total = weights.sum(-1, keepdim=True, dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny)
        out[:, start:end] = _product(weights, value[:, :end]) / total
    return out


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Batched matrix product, its sums in float32 and so returned."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.device.type == "cuda" and "dtype" in torch.ops.aten.bmm.overloads():
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
