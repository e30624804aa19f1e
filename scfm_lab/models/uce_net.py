"""UCE's network: sentences of genes and chromosomes through a post-norm transformer, read at its first token."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError
from scfm_lab.models import ragged
from scfm_lab.models.layers import PackedEncoder, PostNormLayer, runs, starts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

TABLE = "pe_embedding.weight"


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, outer), nn.LayerNorm(outer), nn.GELU())


def _decoder(widths: Sequence[int]) -> nn.Sequential:
    """Blocks between all widths but the last two, then a linear layer."""
    blocks = [_block(a, b) for a, b in pairwise(widths[:-1])]
    return nn.Sequential(*blocks, nn.Linear(widths[-2], widths[-1]))


class _Positions(nn.Module):
    pe: Tensor

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.empty(positions, 1, width))


class UceNet(nn.Module):
    """Everything of the checkpoint but the token table; parameters are named as published.

    Parameters
    ----------
    token_width
        Width of the protein embeddings.
    width, layers, heads, ffn
        Of the transformer.
    decoder, binary_decoder
        Widths from input to output.
    positions
        Longest sentence.
    """

    def __init__(
        self,
        *,
        token_width: int,
        width: int,
        layers: int,
        heads: int,
        ffn: int,
        decoder: Sequence[int],
        binary_decoder: Sequence[int],
        positions: int,
    ) -> None:
        super().__init__()
        self.width = width
        self.output_width = int(decoder[-1])
        self.heads = heads
        # By the names that the reference gives them.
        self.sizes = {
            "token_dim": token_width,
            "d_model": width,
            "d_hid": ffn,
            "nlayers": layers,
            "output_dim": self.output_width,
            "pad_length": positions,
        }
        self.pos_encoder = _Positions(positions, width)
        self.encoder = nn.Sequential(nn.Linear(token_width, width), nn.GELU(), nn.LayerNorm(width))
        self.transformer_encoder = PackedEncoder(layers, width, heads, ffn, activation="relu")
        self.decoder = _decoder(decoder)
        self.binary_decoder = _decoder(binary_decoder)
        self.gene_embedding_layer = nn.Sequential(nn.Linear(token_width, width), nn.GELU(), nn.LayerNorm(width))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], heads: int | None, usual_heads: int, path: Path) -> UceNet:
        """The network whose sizes the tensors tell, without its values (on the meta device).

        Parameters
        ----------
        heads
            Attention heads, which no tensor tells; None: `usual_heads`.

        Raises
        ------
        ModelError
            If a tensor that tells a size is missing or has another number of dimensions, or the
            width cannot be divided among the heads.
        """

        def size(name: str, axis: int, dims: int = 2) -> int:
            if name not in tensors or tensors[name].ndim != dims:
                found = f"has {tensors[name].ndim} dimensions, not {dims}" if name in tensors else "is missing"
                raise ModelError(f"{path} is no UCE checkpoint: {name} {found}.")
            return int(tensors[name].shape[axis])

        prefix = "transformer_encoder.layers."
        layers = len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
        if not layers:
            raise ModelError(f"{path} is no UCE checkpoint: it has no {prefix}….")
        width = size("encoder.0.weight", 0)
        if width % (heads or usual_heads):
            raise ModelError(
                f"{path} is {width} wide, which cannot be divided among {heads or usual_heads} attention heads"
                + (
                    "."
                    if heads
                    else ", the published number; the file does not hold it: give it with config={'nhead': …}."
                )
            )
        with torch.device("meta"):
            return cls(
                token_width=size(TABLE, 1),
                width=width,
                layers=layers,
                heads=heads or usual_heads,
                ffn=size(f"{prefix}0.linear1.weight", 0),
                decoder=[
                    size("decoder.0.0.weight", 1),
                    *(size(f"decoder.{i}.0.weight", 0) for i in range(3)),
                    size("decoder.3.weight", 0),
                ],
                binary_decoder=[
                    size("binary_decoder.0.0.weight", 1),
                    *(size(f"binary_decoder.{i}.0.weight", 0) for i in range(3)),
                    size("binary_decoder.3.weight", 0),
                ],
                positions=size("pos_encoder.pe", 0, 3),
            )

    @property
    def any_weight(self) -> Tensor:
        """A parameter, which has the device and type of all."""
        return cast("Tensor", self.encoder[0].weight)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Rows of the token table, (rows, token width) float32, as they enter the sentence (before positions)."""
        weight = self.any_weight
        rows = F.normalize(rows.to(weight.device), dim=-1).to(weight.dtype)
        return self.encoder(rows) * self.width**0.5

    def place(self, encoded: Tensor, lengths: NDArray[np.int64]) -> Tensor:
        """Add the positions within each sentence."""
        longest = int(lengths.max(initial=0))
        if longest > self.sizes["pad_length"]:
            raise ModelError(f"A sentence has {longest:,} tokens; UCE reads at most {self.sizes['pad_length']:,}.")
        at = np.arange(int(lengths.sum())) - np.repeat(starts(lengths), lengths)
        return encoded + self.pos_encoder.pe[ragged.over(at, encoded.device), 0]

    def leaky(self, states: Tensor, lengths: NDArray[np.int64], known: NDArray[np.int64], n_layers: int) -> Tensor:
        """The encoder as the reference runs it: padding is read, and preferred.

        The reference hands a float mask to PyTorch, 1 at padding, which is added to the scores.

        Parameters
        ----------
        states
            Sentences with their padding, (tokens, width).
        lengths
            Tokens of each, padding included.
        known
            Tokens of each without padding.
        """
        for layer in self.transformer_encoder.layers[:n_layers]:
            states = _leaky_layer(cast("PostNormLayer", layer), states, lengths, known)
        return states

    def decode(self, states: Tensor) -> Tensor:
        """States → the space of the cell's vector (not normalised)."""
        return self.decoder(states)

    def expression_logits(self, cell: Tensor, genes: Tensor) -> Tensor:
        """Logit that a gene is expressed; cell vectors (cells, output width) and what `gene_embedding_layer` makes of gene rows."""
        pairs = torch.cat([cell[:, None].expand(-1, len(genes), -1), genes[None].expand(len(cell), -1, -1)], dim=-1)
        return self.binary_decoder(pairs).squeeze(-1)


def _leaky_layer(layer: PostNormLayer, states: Tensor, lengths: NDArray[np.int64], known: NDArray[np.int64]) -> Tensor:
    attention = layer.self_attn
    q, k, v = F.linear(states, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    ends, mixed = np.cumsum(lengths), []
    for first, last in runs(lengths):
        flat = slice(int(ends[first] - lengths[first]), int(ends[last - 1]))
        length = int(lengths[first])
        real = torch.as_tensor(known[first:last], device=states.device)
        bias = (torch.arange(length, device=states.device)[None, :] >= real[:, None]).to(states.dtype)
        queries, keys, values = (
            x[flat].view(last - first, length, attention.heads, -1).transpose(1, 2) for x in (q, k, v)
        )
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias[:, None, None, :])
        mixed.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    x = layer.norm1(states + attention.out_proj(torch.cat(mixed)))
    return layer.norm2(x + layer.linear2(layer.activation(layer.linear1(x))))
