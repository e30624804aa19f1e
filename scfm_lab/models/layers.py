"""Building blocks of the transformers: packed tokens, attention within cells, post-norm layers.

Tokens of several cells lie one after the other in one flat tensor, without padding. Linear
layers see them as one matrix; attention sees one cell at a time, or a run of cells of equal
length at once. What is not asked for is not computed: the last layer can be run for the
first token of each cell alone.

Parameters are named as in :class:`torch.nn.TransformerEncoder`, so that the checkpoints of
several families load as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError
from scfm_lab.models import ragged
from scfm_lab.models.products import Linear, Lowered, current, read_few, to_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

#: Attention scores that are written out at once, where they are: of long cells they would take gigabytes.
MOST_SCORES = 1 << 24

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def embedding(n: int, width: int) -> nn.Embedding:
    """A table of `n` vectors; on the meta device, where it is to be filled from a file, without the drawing of first values.

    PyTorch draws those of an embedding in Python there, for which it imports its compiler: seconds, for nothing.
    """
    if torch.empty(0).device.type == "meta":
        return nn.Embedding.from_pretrained(torch.empty(n, width), freeze=False)
    return nn.Embedding(n, width)


def starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat position of each cell's first token."""
    lengths = np.asarray(lengths, np.int64)
    return np.cumsum(lengths) - lengths


def runs(*lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of neighbouring cells that are equally long in every argument."""
    n = len(lengths[0])
    if n == 0:
        return
    changes = np.zeros(n - 1, dtype=bool)
    for values in lengths:
        changes |= np.diff(values) != 0
    edges = np.concatenate([[0], np.flatnonzero(changes) + 1, [n]])
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: NDArray[np.int64],
    *,
    query_lengths: NDArray[np.int64] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention of each cell's queries over that cell's own tokens, in the precision of the run.

    Parameters
    ----------
    query
        (queries, heads, head width), the queries of one cell after those of the other.
    key, value
        (tokens, heads, head width).
    lengths
        Tokens of each cell.
    query_lengths
        Queries of each cell; None: as many as tokens.
    scale
        Of the scores; None: 1 / √head width.

    Returns
    -------
    Tensor (queries, heads, head width)
    """
    lengths = np.asarray(lengths, np.int64)
    asked = lengths if query_lengths is None else np.asarray(query_lengths, np.int64)
    # Which of the two is faster depends on machine, width and precision.
    attend = explicit_attention if current().explicit else F.scaled_dot_product_attention
    query, key, value = to_attention(query), to_attention(key), to_attention(value)
    if query.device.type == "cpu" or len(lengths) == 1:
        ends, asked_ends = np.cumsum(lengths), np.cumsum(asked)
        out = []
        for first, last in runs(lengths, asked):
            n = last - first
            t0, t1 = int(ends[first] - lengths[first]), int(ends[last - 1])
            q0, q1 = int(asked_ends[first] - asked[first]), int(asked_ends[last - 1])
            # Cells of one length lie as one block: these are views, nothing is copied.
            q = query[q0:q1].unflatten(0, (n, -1)).transpose(1, 2)
            k = key[t0:t1].unflatten(0, (n, -1)).transpose(1, 2)
            v = value[t0:t1].unflatten(0, (n, -1)).transpose(1, 2)
            out.append(attend(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1))
        return out[0] if len(out) == 1 else torch.cat(out)
    return ragged.attention(query, key, value, lengths, asked, scale=scale, attend=attend, fused=not current().explicit)


def attention_weights(
    query: Tensor, key: Tensor, lengths: NDArray[np.int64], *, scale: float | None = None
) -> list[Tensor]:
    """Attention weights of each cell, (heads, tokens, tokens), float32; every row sums to 1."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    out = []
    for start, length in zip(starts(lengths).tolist(), np.asarray(lengths).tolist(), strict=True):
        q = query[start : start + length].transpose(0, 1).float()
        k = key[start : start + length].transpose(0, 1).float()
        out.append((q @ k.transpose(1, 2) * factor).softmax(-1))
    return out


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """softmax(QKᵀ)V by two matrix products instead of PyTorch's fused kernel, with its arguments.

    At most :data:`MOST_SCORES` of them are in memory at once: cells, then heads, then queries are taken one after the other.
    """
    scores = query.shape[:-1].numel() * key.shape[-2]
    split = next((i for i, n in enumerate(query.shape[:-1]) if n > 1), None)
    if scores > MOST_SCORES and split is not None:
        step = max(1, query.shape[split] * MOST_SCORES // scores)
        queries_only = split == query.ndim - 2
        out = []
        for first in range(0, query.shape[split], step):
            part = slice(first, first + step)
            at = (*[slice(None)] * split, part)
            own = (slice(None),) if queries_only else at
            mask = attn_mask
            if mask is not None and mask.shape[split] > 1:
                mask = mask[at]
            out.append(explicit_attention(query[at], key[own], value[own], attn_mask=mask, scale=scale))
        return torch.cat(out, split)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    found = (query * factor) @ key.transpose(-1, -2)
    if attn_mask is not None:
        found = found.masked_fill(~attn_mask, float("-inf"))
    return found.softmax(-1) @ value


class PackedSelfAttention(Lowered):
    """Multi-head self-attention on packed tokens, with the parameters of ``nn.MultiheadAttention``.

    ``in_proj_weight`` holds the rows of q, then k, then v; heads lie contiguous within each.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"A width of {width} cannot be divided among {heads} attention heads.")
        self.width, self.heads = width, heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def forward(
        self,
        states: Tensor,
        lengths: NDArray[np.int64],
        readers: Tensor | None = None,
        reader_lengths: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """Attend; (tokens, width) → (tokens, width), or (readers, width).

        Parameters
        ----------
        readers
            Flat positions of the tokens to be answered for; None: all.
        reader_lengths
            How many of them each cell has.
        """
        weight, bias = self.lowered("in_proj_weight"), self.lowered("in_proj_bias")
        states = states.to(weight.dtype)
        w = self.width
        if readers is None:
            q, k, v = F.linear(states, weight, bias).chunk(3, dim=-1)
        elif states.device.type == "cpu" and (reader_lengths is None or (np.asarray(reader_lengths) == 1).all()):
            q = self._heads(F.linear(states[readers], weight[:w], bias[:w])).unsqueeze(2)
            ends, out = np.cumsum(lengths), []
            for first, last in runs(lengths):
                cells = states[int(ends[first] - lengths[first]) : int(ends[last - 1])].unflatten(0, (last - first, -1))
                out.append(read_few(q[first:last], cells, weight[w : 2 * w], weight[2 * w :], bias[2 * w :]))
            return self.out_proj(torch.cat(out).flatten(1))
        else:
            q = F.linear(states[readers], weight[:w], bias[:w])
            k, v = F.linear(states, weight[w:], bias[w:]).chunk(2, dim=-1)
        mixed = packed_attention(
            self._heads(q),
            self._heads(k),
            self._heads(v),
            lengths,
            query_lengths=reader_lengths,
        )
        return self.out_proj(mixed.flatten(1))

    def weights(self, states: Tensor, lengths: NDArray[np.int64]) -> list[Tensor]:
        """Attention weights of each cell, (heads, tokens, tokens), float32."""
        w = self.width
        q, k = F.linear(states, self.in_proj_weight[: 2 * w], self.in_proj_bias[: 2 * w]).chunk(2, dim=-1)
        return attention_weights(self._heads(q), self._heads(k), lengths)


class PostNormLayer(nn.Module):
    """x = norm1(x + attention(x)); x = norm2(x + linear2(activation(linear1(x))))."""

    def __init__(self, width: int, heads: int, ffn: int, *, activation: str = "relu", eps: float = 1e-5) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ModelError(f"The activation {activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")
        self.self_attn = PackedSelfAttention(width, heads)
        self.linear1 = Linear(width, ffn)
        self.linear2 = Linear(ffn, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.activation = ACTIVATIONS[activation]

    def forward(
        self,
        states: Tensor,
        lengths: NDArray[np.int64],
        readers: Tensor | None = None,
        reader_lengths: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """One layer on packed tokens; with `readers` only those tokens are computed and returned."""
        kept = states if readers is None else states[readers]
        x = self.norm1(kept + self.self_attn(states, lengths, readers, reader_lengths))
        return self.norm2(x + self.linear2(self.activation(self.linear1(x))))


class PackedEncoder(nn.Module):
    """A stack of post-norm layers on packed tokens (``layers.<i>.…``), without a final norm."""

    def __init__(
        self, n_layers: int, width: int, heads: int, ffn: int, *, activation: str = "relu", eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PostNormLayer(width, heads, ffn, activation=activation, eps=eps) for _ in range(n_layers)
        )

    def forward(
        self,
        states: Tensor,
        lengths: NDArray[np.int64],
        *,
        n_layers: int | None = None,
        readers: Tensor | None = None,
        reader_lengths: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """States after some layers.

        Parameters
        ----------
        states
            (tokens, width), one cell after the other.
        lengths
            Tokens of each cell.
        n_layers
            Layers to run; None: all; 0: the input itself.
        readers
            Flat positions of the tokens that are wanted (in the order of cells); the last layer
            that is run is computed for them alone. None: all tokens.
        reader_lengths
            Wanted tokens of each cell; None: one each.

        Returns
        -------
        Tensor (tokens, width), or (readers, width)
        """
        run = self.layers if n_layers is None else self.layers[:n_layers]
        if readers is not None and reader_lengths is None:
            reader_lengths = np.ones(len(lengths), np.int64)
        if len(run) == 0:
            return states if readers is None else states[readers]
        for layer in run[:-1]:
            states = layer(states, lengths)
        return run[-1](states, lengths, readers, reader_lengths)

    def every(self, states: Tensor, lengths: NDArray[np.int64]) -> list[Tensor]:
        """The input and the states after each layer: n_layers + 1 tensors (tokens, width)."""
        out = [states]
        for layer in self.layers:
            out.append(layer(out[-1], lengths))
        return out

    def attention(self, states: Tensor, lengths: NDArray[np.int64], layer: int) -> list[Tensor]:
        """Attention weights of one layer (0 the first), (heads, tokens, tokens) for each cell."""
        states = self(states, lengths, n_layers=layer)
        chosen = self.layers[layer]
        assert isinstance(chosen, PostNormLayer)
        return chosen.self_attn.weights(states, lengths)


def cell_means(states: Tensor, lengths: NDArray[np.int64]) -> Tensor:
    """Mean over each cell's tokens, (tokens, width) → (cells, width); sums run in float32."""
    if states.device.type == "cuda":
        return ragged.reduce("mean", states, lengths)
    return torch.stack([cell.float().mean(dim=0) for cell in states.split(np.asarray(lengths).tolist())])


def attention_layer(hidden_layer: int, n_layers: int, name: str) -> int:
    """Index of the layer that a `hidden_layer` means where attention is asked for: the layer whose output those states are.

    Raises
    ------
    ModelError
        If there is no such layer: 0 is the input, which no layer made.
    """
    layer = resolve_layer(hidden_layer, n_layers, -1, name)
    if layer == 0:
        raise ModelError(
            f"hidden_layer={hidden_layer} is what enters the first layer of {name}, which has no attention; its layers are 1 to "
            f"{n_layers}, or -{n_layers} to -1."
        )
    return layer - 1


def resolve_layer(hidden_layer: int | None, n_layers: int, published: int, name: str) -> int:
    """Number of layers to run for a `hidden_layer` in Python's counting (-1 the last, 0 … n the states after n layers).

    Raises
    ------
    ModelError
        If there is no such layer.
    """
    layer = published if hidden_layer is None else hidden_layer
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise ModelError(f"hidden_layer must be a whole number or None, not {hidden_layer!r}.")
    if not -n_layers - 1 <= layer <= n_layers:
        raise ModelError(
            f"{name} has {n_layers} layers; hidden_layer={layer} is not between {-n_layers - 1} and {n_layers}."
        )
    return layer % (n_layers + 1)
