"""TranscriptFormer's network: causal attention over genes, biased by log counts and capped by a tanh."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError
from scfm_lab.models import capped, ragged
from scfm_lab.models.layers import ACTIVATIONS, embedding
from scfm_lab.models.products import Linear

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_lab.models.transcriptformer_files import Settings

_QUERIES_AT_ONCE = 128
# exp of a capped score needs no maximum taken off first, as long as it stays in float32's range.
_SAFE_CAP = 60.0


class MLP(nn.Module):
    """Linear, ReLU, norm, linear: the norm stands behind the activation."""

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__()
        # The fourth is the reference's dropout.
        self.layers = nn.Sequential(
            nn.Linear(inner, hidden), nn.ReLU(), nn.LayerNorm(hidden), nn.Identity(), nn.Linear(hidden, outer)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, inner) → (…, outer)."""
        return self.layers(x)


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    lengths: NDArray[np.int64],
    *,
    cap: float,
    visible: Tensor | None = None,
    on_diagonal: bool = True,
) -> Tensor:
    """Causal attention of packed cells with scores cap·tanh((q·k/√d + bias of the key)/cap).

    Parameters
    ----------
    query, key, value
        (tokens, heads, head width), one cell after the other.
    bias
        Added to the scores of each key, (tokens,), float32.
    lengths
        Tokens of each cell.
    cap
        0: scores are not capped.
    visible
        Bool (tokens,): keys that may be read; None: all. A query that may read none gets 0.
    on_diagonal
        Whether a token's own score has its bias too.

    Returns
    -------
    Tensor (tokens, heads, head width)
    """
    attend = one_by_one if query.device.type == "cpu" or len(lengths) == 1 else padded
    return attend(query, key, value, bias, lengths, cap, visible, on_diagonal)


def one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    lengths: NDArray[np.int64],
    cap: float,
    visible: Tensor | None,
    on_diagonal: bool,
) -> Tensor:
    """:func:`capped_attention`, one cell after the other."""
    parts, start = [], 0
    for length in lengths.tolist():
        own = slice(start, start + length)
        q, k, v = (x[own].transpose(0, 1) for x in (query, key, value))
        seen = None if visible is None else visible[own][None, None, :]
        out = _blocks(q, k, v, bias[own][None, None, :], cap, seen, on_diagonal)
        parts.append(out.transpose(0, 1))
        start += length
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    lengths: NDArray[np.int64],
    cap: float,
    visible: Tensor | None,
    on_diagonal: bool,
) -> Tensor:
    """:func:`capped_attention` of all cells at once, padded to the longest: on accelerators a launch per cell is dear."""
    n, heads = len(lengths), query.shape[1]
    where = ragged.places(lengths, query.device)
    longest = int(lengths.max())

    def pad(flat: Tensor) -> Tensor:
        full = flat.new_zeros((n, longest, *flat.shape[1:]))
        full[where] = flat
        return full

    def by_head(flat: Tensor) -> Tensor:
        return pad(flat).transpose(1, 2).flatten(0, 1)

    def for_heads(flat: Tensor) -> Tensor:
        return pad(flat).repeat_interleave(heads, dim=0)[:, None, :]

    given = by_head(query), by_head(key), by_head(value), for_heads(bias), cap
    if capped.can(query, cap):
        # Padding comes after the cell, so that no query of it reads any.
        seen = None if visible is None else for_heads(visible)
        out = capped.blocks(*given, seen, on_diagonal, _QUERIES_AT_ONCE)
    else:
        seen = for_heads(torch.ones_like(bias, dtype=torch.bool) if visible is None else visible)
        out = _blocks(*given, seen, on_diagonal)
    return out.unflatten(0, (n, heads)).transpose(1, 2)[where]


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, cap: float, visible: Tensor | None, on_diagonal: bool
) -> Tensor:
    """A block of queries at a time reads the keys up to its own end: (rows, tokens, head width) each."""
    if query.device.type == "cpu" and query.dtype != torch.float32:
        # Processors gain nothing by half precision here, and scores lose.
        return _blocks(query.float(), key.float(), value.float(), bias, cap, visible, on_diagonal).to(query.dtype)
    if torch.is_grad_enabled():
        return _with_gradients(query, key, value, bias, cap, visible, on_diagonal)
    safe = 0 < cap <= _SAFE_CAP
    unit = 1 / cap if safe else 1.0
    query = query * (query.shape[-1] ** -0.5 * unit)
    bias = bias.float() * unit
    length, out = query.shape[1], torch.empty_like(value)
    for start in range(0, length, _QUERIES_AT_ONCE):
        end = min(start + _QUERIES_AT_ONCE, length)
        q, k = query[:, start:end], key[:, :end].transpose(1, 2)
        if query.dtype == torch.float32:
            scores = torch.baddbmm(bias[..., :end], q, k)
        else:
            scores = torch.bmm(q, k).float() + bias[..., :end]
        own = scores[..., start:end]
        if not on_diagonal:
            own.diagonal(dim1=1, dim2=2).sub_(bias[:, 0, start:end])
        if safe:
            scores.tanh_().mul_(cap).exp_()
        else:
            if cap > 0:
                scores.div_(cap).tanh_().mul_(cap)
            hidden = torch.ones_like(own[:1], dtype=torch.bool).triu(1)
            own.masked_fill_(hidden, float("-inf"))
            if visible is not None:
                scores.masked_fill_(~visible[..., :end], float("-inf"))
            scores.sub_(scores.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)).exp_()
        own.tril_()
        if visible is not None:
            scores.mul_(visible[..., :end])
        out[:, start:end] = _averaged(scores, value[:, :end])
    return out


def _averaged(weights: Tensor, value: Tensor) -> Tensor:
    """Means of values under float32 weights of any sum, which are overwritten; 0 where all weights are."""
    total = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    if value.dtype == torch.float32:
        return torch.bmm(weights, value) / total
    # Sums of weights up to e^cap are beyond float16: they become shares before they are rounded.
    return torch.bmm(weights.div_(total).to(value.dtype), value)


def _with_gradients(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, cap: float, visible: Tensor | None, on_diagonal: bool
) -> Tensor:
    """The same in one piece, without overwriting what a gradient needs."""
    length = query.shape[1]
    own = torch.eye(length, dtype=torch.bool, device=query.device)
    bias = bias.float().expand(-1, length, -1)
    bias = bias if on_diagonal else bias.masked_fill(own, 0.0)
    scores = (query * query.shape[-1] ** -0.5).float() @ key.float().transpose(1, 2) + bias
    if cap > 0:
        scores = torch.tanh(scores / cap) * cap
    seen = torch.ones_like(own).tril()[None]
    if visible is not None:
        seen = seen & visible
    # A finite floor instead of minus infinity: a row that may read nothing then gives 0, and no NaN.
    weights = scores.masked_fill(~seen, torch.finfo(torch.float32).min).softmax(-1) * seen
    return (weights @ value.float()).to(value.dtype)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)) for linear in list(self.linears)[:3])
        return self.linears[3](attend(q, k, v).flatten(1))


class TfLayer(nn.Module):
    """x = norm1(x); x = x + attention(x); x = norm2(x); x = x + linear2(activation(linear1(x))).

    The residual starts from the normalised value, unlike in a pre-norm transformer.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.embed_dim
        self.self_attn = _Attention(width, settings.num_heads, settings.attn_bias)
        self.linear1 = Linear(width, settings.model_dim, bias=settings.fw_bias)
        self.linear2 = Linear(settings.model_dim, width, bias=settings.fw_bias)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.activation = ACTIVATIONS[settings.activation]

    def _halfway(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        x = self.norm1(x)
        x = self.norm2(x + self.self_attn(x, attend))
        return x, self.activation(self.linear1(x))

    def forward(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """One layer on packed tokens, (tokens, width)."""
        x, hidden = self._halfway(x, attend)
        return x + self.linear2(hidden)

    def sums(
        self,
        x: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        of: Callable[[Tensor], Tensor],
        counts: Tensor,
    ) -> Tensor:
        """Sums over tokens of what :meth:`forward` gives: the last product is taken of the sums, once for each cell."""
        x, hidden = self._halfway(x, attend)
        weight = self.linear2.weight
        out = of(x) + of(hidden) @ weight.float().T
        return out if self.linear2.bias is None else out + counts[:, None] * self.linear2.bias.float()


class _GeneVectors(nn.Module):
    def __init__(self, table_width: int, width: int) -> None:
        super().__init__()
        self.mlp = MLP(table_width, width, width)


class _CountHead(nn.Module):
    def __init__(self, settings: Settings, n_tokens: int) -> None:
        super().__init__()
        self.gene_embedding = embedding(n_tokens, 1)
        self.mlp = MLP(2 * settings.embed_dim, settings.embed_dim // 2, 1)


class _Encoder(nn.Module):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.encoder_layers = nn.ModuleList(TfLayer(settings) for _ in range(settings.num_layers))


class TfNet(nn.Module):
    """Everything of the checkpoint but the protein embeddings; parameters are named as published.

    Parameters
    ----------
    settings
        The configuration.
    table_width
        Width of the protein embeddings.
    n_tokens
        Rows of the vocabulary, special tokens among them.
    aux_sizes
        Labels of each auxiliary column.
    """

    def __init__(self, settings: Settings, table_width: int, n_tokens: int, aux_sizes: dict[str, int]) -> None:
        super().__init__()
        if settings.activation not in ACTIVATIONS:
            raise ModelError(f"The activation {settings.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")
        self.settings = settings
        self.gene_embeddings = _GeneVectors(table_width, settings.embed_dim)
        self.aux_embeddings = nn.ModuleDict({name: embedding(n, settings.embed_dim) for name, n in aux_sizes.items()})
        self.transformer_encoder = _Encoder(settings)
        self.mu = _CountHead(settings, n_tokens)

    @property
    def layers(self) -> list[TfLayer]:
        """The transformer's layers."""
        return [cast("TfLayer", layer) for layer in self.transformer_encoder.encoder_layers]

    @property
    def any_weight(self) -> Tensor:
        """A parameter, which has the device and type of all."""
        return cast("Tensor", self.gene_embeddings.mlp.layers[0].weight)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Protein embeddings (rows, table width) → gene vectors (rows, width)."""
        weight = self.any_weight
        return self.gene_embeddings.mlp(rows.to(weight.device, weight.dtype))

    def attend(
        self, counts: Tensor, lengths: NDArray[np.int64], visible: Tensor | None, *, training: bool
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The attention of these cells; `training`: a token's own score has no count bias."""
        bias = torch.log1p(counts.float() + self.settings.log_counts_eps)

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return capped_attention(
                q, k, v, bias, lengths, cap=self.settings.softcap, visible=visible, on_diagonal=not training
            )

        return attention

    def count_logits(self, states: Tensor, genes: Tensor, ids: Tensor) -> Tensor:
        """Logit of each token's count, (tokens,), float32.

        Parameters
        ----------
        states
            The state that predicts each token, (tokens, width).
        genes
            Gene vector of each token, (tokens, width).
        ids
            Token ids, for the bias of each gene.
        """
        conditioned = torch.cat([states, genes], dim=-1)
        return (self.mu.mlp(conditioned) + self.mu.gene_embedding(ids)).squeeze(-1).float()


def link(name: str, logits: Tensor) -> Tensor:
    """Rates of one cell's genes from their logits; ``softmax`` gives shares."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda x: x.softmax(0),
        "sigmoid": torch.sigmoid,
        "softplus": F.softplus,
        "relu": torch.relu,
        "linear": lambda x: x,
        "exp": torch.exp,
        "log": torch.log,
        "tanh": torch.tanh,
    }
    return functions[name](logits)


def negative_log_likelihood(rate: Tensor, counts: Tensor, *, eps: float, approximate: bool) -> Tensor:
    """Of a Poisson distribution without its zero, for each gene.

    Parameters
    ----------
    rate, counts
        (tokens,), float32; counts are clipped already.
    approximate
        The reference's approximation of log(exp(rate) - 1) by rate - softplus(-rate).
    """
    counts = counts.clamp_min(eps)
    rate = rate + eps
    if approximate:
        norm = (rate - F.softplus(-rate)).clamp_min(0)
    else:
        norm = torch.where(rate <= 5, torch.log1p(torch.expm1(rate)), rate).clamp_min(0)
    return -counts * rate.log() + norm + torch.lgamma(counts + 1)
