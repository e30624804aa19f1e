"""The Performer: linear attention by positive random features (FAVOR+), never length × length.

A layer keeps one table per head, features × (head width + 1), that sums what all positions
have to say; the last column sums the weights themselves. Positions are walked through in
chunks, once to fill the table and once to read it, so that memory does not grow with
length × features either.

The keys' features are stabilised by the largest score among all keys. The published models
take it over the whole tensor, so that a cell's states depend slightly on the cells beside it;
here it is taken within each cell, which equals the reference on one cell at a time. With
``shared=True`` it is taken over the batch, as there. The random projections are read from the
checkpoint and never drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.models.products import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

#: What FAVOR+ adds to every feature, so that no weight is zero.
FLOOR = 1e-4
# Positions of all cells of a batch that are walked through at once: the features of a chunk stay in a core's cache
# on a CPU, and fill an accelerator.
_CHUNK = {"cpu": 256, "mps": 4_096, "cuda": 16_384}


class RandomFeatures(nn.Module):
    """The stored random projections of one layer."""

    projection: Tensor

    def __init__(self, features: int, head_width: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.empty(features, head_width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [..., features] and half squared lengths [..., 1] of queries or keys, float32."""
        x = x.float()
        scale = x.shape[-1] ** -0.25
        return x @ (self.projection * scale).T, x.square().sum(-1, keepdim=True) * (0.5 * scale**2)


def _exp(scores: Tensor, offset: Tensor) -> Tensor:
    """exp(scores − offset), in the memory of `scores` where no gradient is wanted."""
    return (scores - offset).exp() if scores.requires_grad else scores.sub_(offset).exp_()


class PerformerLayer(nn.Module):
    """x += attention(norm(x)); x += w2(gelu(w1(norm(x))))."""

    def __init__(self, width: int, heads: int, head_width: int, features: int, ffn: int, *, qkv_bias: bool) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_q = Linear(width, inner, bias=qkv_bias)
        self.to_k = Linear(width, inner, bias=qkv_bias)
        self.to_v = Linear(width, inner, bias=qkv_bias)
        self.to_out = Linear(inner, width)
        self.features = RandomFeatures(features, head_width)
        self.norm_ffn = nn.LayerNorm(width)
        self.w1 = Linear(width, ffn)
        self.w2 = Linear(ffn, width)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def table(self, states: Tensor, chunk: int, *, shared: bool = False) -> tuple[Tensor, Tensor]:
        """What all positions of each cell say, [B, heads, features, head width + 1], and the stabiliser [B, 1, 1, 1]."""
        peak = states.new_full((len(states), 1, 1, 1), float("-inf"), dtype=torch.float32)
        summed: Tensor | float = 0.0
        plain: Tensor | float = 0.0
        for part in states.split(chunk, dim=1):
            normed = self.norm_attention(part)
            value = self._heads(self.to_v(normed)).float()
            value = F.pad(value, (0, 1), value=1.0)
            scores, half = self.features(self._heads(self.to_k(normed)))
            higher = torch.maximum(peak, scores.detach().amax(dim=(1, 2, 3), keepdim=True))
            weights = _exp(scores, half + higher)
            # Summed under the largest score so far, and scaled when a larger one comes.
            summed = summed * (peak - higher).exp() + weights.permute(0, 2, 3, 1) @ value.transpose(1, 2)
            plain = plain + value.sum(dim=1)
            peak = higher
        final = peak.amax(dim=0, keepdim=True).expand_as(peak) if shared else peak
        assert isinstance(summed, torch.Tensor)
        assert isinstance(plain, torch.Tensor)
        return summed * (peak - final).exp() + FLOOR * plain.unsqueeze(2), final

    def _query(self, part: Tensor) -> Tensor:
        scores, half = self.features(self._heads(self.to_q(self.norm_attention(part))))
        return _exp(scores, half + scores.detach().amax(dim=-1, keepdim=True))

    def read(self, part: Tensor, table: Tensor) -> Tensor:
        """The layer's output for some positions [B, c, width] of each cell."""
        mixed = self._query(part).transpose(1, 2) @ table + FLOOR * table.sum(dim=2, keepdim=True)
        mixed = (mixed[..., :-1] / mixed[..., -1:]).transpose(1, 2).flatten(2)
        part = part + self.to_out(mixed.to(part.dtype))
        return part + self.w2(F.gelu(self.w1(self.norm_ffn(part))))

    def weights(self, states: Tensor, readers: Tensor, chunk: int) -> Tensor:
        """Attention of some positions of one cell over all, [heads, readers, L], float32; rows sum to 1."""
        table, peak = self.table(states, chunk)
        query = self._query(states[:, readers])[0].transpose(0, 1) + FLOOR
        rows = []
        for part in states.split(chunk, dim=1):
            scores, half = self.features(self._heads(self.to_k(self.norm_attention(part))))
            key = _exp(scores, half + peak)[0] + FLOOR
            rows.append(query @ key.permute(1, 2, 0))
        return torch.cat(rows, dim=-1) / (query @ table[0, :, :, -1:])


class Performer(nn.Module):
    """A stack of Performer layers, without a final norm."""

    def __init__(
        self, n_layers: int, width: int, heads: int, head_width: int, features: int, ffn: int, *, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PerformerLayer(width, heads, head_width, features, ffn, qkv_bias=qkv_bias) for _ in range(n_layers)
        )

    @property
    def stack(self) -> list[PerformerLayer]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, PerformerLayer)]

    def forward(
        self, states: Tensor, *, n_layers: int | None = None, readers: Tensor | None = None, shared: bool = False
    ) -> Tensor:
        """States after some layers.

        Parameters
        ----------
        states
            [B, L, width]; without gradients its memory is used for the layers' outputs.
        n_layers
            Layers to run; None: all.
        readers
            Positions that are wanted; the last layer is computed for them alone. None: all.
        shared
            Whether the keys are stabilised over the whole batch (the reference's way) and not
            within each cell.

        Returns
        -------
        Tensor [B, L, width], or [B, readers, width]
        """
        run = self.stack if n_layers is None else self.stack[:n_layers]
        chunk = chunk_of(states)
        for i, layer in enumerate(run):
            table, _ = layer.table(states, chunk, shared=shared)
            if i == len(run) - 1 and readers is not None:
                return torch.cat([layer.read(part, table) for part in states[:, readers].split(chunk, dim=1)], dim=1)
            if torch.is_grad_enabled():  # training: nothing that a gradient needs is overwritten
                states = torch.cat([layer.read(part, table) for part in states.split(chunk, dim=1)], dim=1)
                continue
            for part in states.split(chunk, dim=1):
                part.copy_(layer.read(part, table))
        return states if readers is None else states[:, readers]

    def attention(self, states: Tensor, layer: int, readers: Tensor) -> Tensor:
        """Attention of some positions of one cell [1, L, width] in one layer, [heads, readers, L]."""
        states = self(states, n_layers=layer)
        return self.stack[layer].weights(states, readers, chunk_of(states))


def chunk_of(states: Tensor) -> int:
    """Positions of each cell that are walked through at once."""
    return max(1, _CHUNK.get(states.device.type, _CHUNK["cpu"]) // len(states))


# --- the names in checkpoints -----------------------------------------------------------------

_NAMES = {
    "0.norm": "norm_attention",
    "0.fn.to_q": "to_q",
    "0.fn.to_k": "to_k",
    "0.fn.to_v": "to_v",
    "0.fn.to_out": "to_out",
    "1.norm": "norm_ffn",
    "1.fn.fn.w1": "w1",
    "1.fn.fn.w2": "w2",
}
_COUNTER = "calls_since_last_redraw"


def checkpoint_names(performer: Performer, prefix: str, own: str) -> dict[str, str]:
    """Name in a checkpoint → name here, for every tensor of a Performer.

    Parameters
    ----------
    prefix
        Where the checkpoint keeps its ``performer`` (``"decoder.performer."``).
    own
        Where the network here keeps it (``"decoder."``).
    """
    names = {}
    for i in range(len(performer.layers)):
        there, here = f"{prefix}net.layers.{i}.", f"{own}layers.{i}."
        names[f"{there}0.fn.fast_attention.projection_matrix"] = f"{here}features.projection"
        for theirs, ours in _NAMES.items():
            linear = getattr(performer.layers[i], ours)
            names[f"{there}{theirs}.weight"] = f"{here}{ours}.weight"
            if linear.bias is not None:
                names[f"{there}{theirs}.bias"] = f"{here}{ours}.bias"
    return names


def without_counter(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the counter that training keeps; nothing reads it here."""
    return {name: value for name, value in tensors.items() if not name.endswith(f"performer.{_COUNTER}")}


def shape_of(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Layers, heads, widths and features of a Performer, read from the shapes of its tensors.

    Raises
    ------
    KeyError
        Naming the tensor that is missing.
    ValueError
        If a tensor has not the number of dimensions that it should have, or heads do not come out even.
    """
    start = f"{prefix}net.layers."
    layers = {name[len(start) :].split(".", 1)[0] for name in tensors if name.startswith(start)}
    features, head_width = tensors[f"{start}0.0.fn.fast_attention.projection_matrix"].shape
    inner, width = tensors[f"{start}0.0.fn.to_q.weight"].shape
    if not head_width or inner < head_width or inner % head_width:
        raise ValueError(f"{inner} rows of queries cannot be divided among heads of {head_width}")
    ffn, _ = tensors[f"{start}0.1.fn.fn.w1.weight"].shape
    return {
        "n_layers": len(layers),
        "width": width,
        "heads": inner // head_width,
        "head_width": head_width,
        "features": features,
        "ffn": ffn,
        "qkv_bias": f"{start}0.0.fn.to_q.bias" in tensors,
    }
