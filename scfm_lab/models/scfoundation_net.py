"""The network of scFoundation: values as soft bins, an encoder over the expressed genes, a Performer over all.

Positions 0 … n − 1 are the genes, then come the two tokens of read depth: T, the depth that
is aimed at, and S, the depth of the cell. The encoder reads the positions whose value is
above zero; the decoder reads all of them, those that the encoder read as it left them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.models import ragged
from scfm_lab.models.layers import PackedEncoder, PostNormLayer, embedding
from scfm_lab.models.performer import Performer, checkpoint_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class SoftBins(nn.Module):
    """A value as a mixture of bins."""

    def __init__(self, bins: int, width: int, *, alpha: float, mask_value: float, pad_value: float) -> None:
        super().__init__()
        self.alpha, self.mask_value, self.pad_value = alpha, mask_value, pad_value
        self.mlp = nn.Linear(1, bins)
        self.mlp2 = nn.Linear(bins, bins)
        self.emb = embedding(bins, width)
        self.emb_mask = embedding(1, width)
        self.emb_pad = embedding(1, width)

    def forward(self, values: Tensor) -> Tensor:
        """Values (tokens,) → (tokens, width), float32."""
        values = values.float()
        hidden = F.leaky_relu(self.mlp(values.unsqueeze(-1)), 0.1)
        out = (self.alpha * hidden + self.mlp2(hidden)).softmax(-1) @ self.emb.weight
        # Two values stand for themselves; the published ones are never reached by log counts.
        out = torch.where((values == self.mask_value).unsqueeze(-1), self.emb_mask.weight, out)
        return torch.where((values == self.pad_value).unsqueeze(-1), self.emb_pad.weight, out)


class ScFoundationNet(nn.Module):
    """scFoundation.

    Parameters
    ----------
    shape
        ``n_genes``, ``bins``, ``alpha``, ``mask_value``, ``pad_value``; ``encoder``: ``width``, ``layers``,
        ``heads``, ``ffn``; ``decoder``: arguments of :class:`~scfm_lab.models.performer.Performer`.
    """

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        encoder, decoder = shape["encoder"], shape["decoder"]
        width, inner = int(encoder["width"]), int(decoder["width"])
        self.n_genes = int(shape["n_genes"])
        self.token_emb = SoftBins(
            int(shape["bins"]),
            width,
            alpha=float(shape["alpha"]),
            mask_value=float(shape["mask_value"]),
            pad_value=float(shape["pad_value"]),
        )
        self.pos_emb = embedding(self.n_genes + 3, width)
        self.encoder = PackedEncoder(int(encoder["layers"]), width, int(encoder["heads"]), int(encoder["ffn"]))
        # Norms come last whatever `norm_first` of the configuration says: the reference never reads it.
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.decoder = Performer(**decoder)
        self.decoder_norm = nn.LayerNorm(inner)
        self.norm = nn.LayerNorm(inner)
        self.to_final = nn.Linear(inner, 1)
        self._silent: Tensor | None = None

    def checkpoint_names(self) -> dict[str, str]:
        """Name in a checkpoint (without ``model.``) → name here, for every tensor."""
        names = {}
        for name in self.state_dict():
            if name.startswith("encoder.layers."):
                names[name.replace("encoder.layers.", "encoder.transformer_encoder.", 1)] = name
            elif name.startswith(("encoder_norm.", "decoder_norm.")):
                names[name.replace("_norm.", ".norm.", 1)] = name
            elif not name.startswith("decoder."):
                names[name] = name
        return {**names, **checkpoint_names(self.decoder, "decoder.performer.", "decoder.")}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the layers."""
        return self.decoder_embed.weight.dtype

    def _apply(self, fn: Any, recurse: bool = True) -> ScFoundationNet:
        self._silent = None
        return super()._apply(fn, recurse)

    def embed(self, positions: Tensor, values: Tensor) -> Tensor:
        """What enters the encoder, (tokens, width)."""
        return self.token_emb(values).to(self.dtype) + self.pos_emb(positions)

    def encode(
        self, positions: Tensor, values: Tensor, lengths: NDArray[np.int64], *, n_layers: int | None = None
    ) -> Tensor:
        """States of the expressed genes, T and S, packed (tokens, width); normed after the last layer."""
        states = self.encoder(self.embed(positions, values), lengths, n_layers=n_layers)
        if n_layers is None or n_layers == len(self.encoder.layers):
            return self.encoder_norm(states)
        return states

    def decode(
        self,
        positions: Tensor,
        values: Tensor,
        lengths: NDArray[np.int64],
        depths: Tensor,
        readers: Tensor,
        *,
        shared: bool = False,
    ) -> Tensor:
        """States of genes after the decoder and its norms.

        Parameters
        ----------
        positions, values
            Packed: the positions above zero, as for :meth:`encode`.
        depths
            T and S of each cell, (cells, 2), also where they are not above zero.
        readers
            Positions of the genes that are wanted.
        shared
            Whether attention is stabilised over the whole batch, as in the reference.

        Returns
        -------
        Tensor (cells, readers, decoder width)
        """
        encoded = self.encode(positions, values, lengths) + self.pos_emb(positions)
        full = self._silent_positions().repeat(len(lengths), 1, 1)
        last = torch.arange(self.n_genes, self.n_genes + 2, device=positions.device)
        spread = self.embed(last.repeat(len(lengths)), depths.flatten())
        full[:, -2:] = self.decoder_embed(spread).unflatten(0, (-1, 2))
        full[_rows(lengths, positions.device), positions] = self.decoder_embed(encoded)
        return self.norm(self.decoder_norm(self.decoder(full, readers=readers, shared=shared)))

    def depths_of(self, positions: Tensor, values: Tensor, lengths: NDArray[np.int64]) -> Tensor:
        """T and S of each cell as its tokens say them, (cells, 2); 0 where they are not above zero, and so no tokens."""
        told = positions >= self.n_genes
        depths = values.new_zeros((len(lengths), 2))
        depths[_rows(lengths, positions.device)[told], positions[told] - self.n_genes] = values[told]
        return depths

    def _silent_positions(self) -> Tensor:
        """What enters the decoder for a value of zero, (positions, decoder width); the same for all cells, and kept."""
        if self._silent is None:
            zero = self.token_emb(self.pos_emb.weight.new_zeros(1)).to(self.dtype)
            self._silent = self.decoder_embed(self.pos_emb.weight[: self.n_genes + 2] + zero)
        return self._silent

    def final(self, states: Tensor) -> Tensor:
        """ln(1 + counts per 10,000) of each gene, (cells, genes, decoder width) → (cells, genes)."""
        return self.to_final(states).squeeze(-1)

    def attention(self, positions: Tensor, values: Tensor, lengths: NDArray[np.int64], layer: int) -> Iterator[Tensor]:
        """Attention weights of one encoder layer (0 the first), (heads, tokens, tokens) for each cell."""
        states = self.encoder(self.embed(positions, values), lengths, n_layers=layer)
        chosen = self.encoder.layers[layer]
        assert isinstance(chosen, PostNormLayer)
        yield from chosen.self_attn.weights(states, lengths)


def _rows(lengths: NDArray[np.int64], device: torch.device) -> Tensor:
    """Cell of each token."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.as_tensor(lengths, device=device))


def pool(states: Tensor, lengths: NDArray[np.int64], pooling: str) -> Tensor:
    """Cell vectors from packed states.

    Parameters
    ----------
    pooling
        ``"all"``: last (S), last but one (T), maximum and mean of the genes, one after the other;
        ``"max"``: maximum over everything, S and T too; ``"mean"``: mean of the genes.

    Returns
    -------
    Tensor (cells, width); NaN for cells of fewer than three tokens
    """
    if states.device.type == "cuda":
        return _pool_at_once(states, lengths, pooling)
    out = []
    for cell in states.split([int(n) for n in lengths]):
        if len(cell) < 3:
            out.append(cell.new_full((cell.shape[1] * (4 if pooling == "all" else 1),), float("nan")))
            continue
        if pooling == "max":
            out.append(cell.amax(dim=0))
            continue
        genes = cell[:-2]
        mean = genes.float().mean(dim=0).to(cell)
        out.append(mean if pooling == "mean" else torch.cat([cell[-1], cell[-2], genes.amax(dim=0), mean]))
    return torch.stack(out)


def _pool_at_once(states: Tensor, lengths: NDArray[np.int64], pooling: str) -> Tensor:
    """:func:`pool` without a launch for each cell: genes, then T and S, in turn, of which every second part is kept."""
    if pooling == "max":
        return ragged.reduce("max", states, lengths).to(states.dtype)
    turns = np.stack([np.asarray(lengths) - 2, np.full(len(lengths), 2)], axis=1).ravel()
    mean = ragged.reduce("mean", states, turns)[::2].to(states.dtype)
    if pooling == "mean":
        return mean
    last = ragged.over(np.cumsum(lengths) - 1, states.device)
    return torch.cat(
        [states[last], states[last - 1], ragged.reduce("max", states, turns)[::2].to(states.dtype), mean], 1
    )
