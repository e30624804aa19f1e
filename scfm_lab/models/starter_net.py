"""The network of ``starter``: a small transformer over the genes that a cell expresses.

A cell is a ``<cls>`` token and one token per expressed gene, in no order: the gene's
embedding, scaled and shifted by its expression. ``<cls>`` starts from what the cell
expresses above and below the mean of the training cells, summed over the gene embeddings of
all genes that are measured, and gathers from the tokens in every layer; its last state is
the cell's vector, from which a bilinear decoder reads the expected counts of every gene,
measured or not.

*Query* tokens ask for a gene whose value is hidden. They read the cell and nobody reads
them, so that asking changes nothing about the cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

import torch  # noqa: TID253  (this module is imported only where a network is needed)
import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253

from scfm_lab.models.layers import embedding
from scfm_lab.models.products import Linear, read_few, to_attention

#: Token id of ``<cls>``; a gene's token id is its vocabulary id + 1.
CLS = 0


class ValueEncoder(nn.Module):
    """Expression → scale and shift of a gene embedding."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(1, hidden)
        self.outer = nn.Linear(hidden, 2 * width)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, L] → scale and shift [B, L, width] each."""
        scale, shift = self.outer(F.gelu(self.inner(values.unsqueeze(-1)))).chunk(2, dim=-1)
        return scale, shift


class Block(nn.Module):
    """A pre-norm transformer layer without positions."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.project = Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.expand = Linear(width, ffn)
        self.contract = Linear(ffn, width)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, states: Tensor, keys: Tensor, readers: int | None = None) -> Tensor:
        """One layer.

        Parameters
        ----------
        states
            [B, L, width].
        keys
            Attention mask, bool, broadcastable to [B, heads, L, L]: True where a token may be read.
        readers
            Only the first `readers` tokens are updated and returned; None for all.
        """
        normed = self.norm_attention(states)
        reading = states if readers is None else states[:, :readers]
        if readers == 1:
            query = self._split(self.query(normed[:, :1]))
            (key, value), (_, bias) = (self.key_value.lowered(x).chunk(2) for x in ("weight", "bias"))
            mixed = read_few(query, normed.to(key.dtype), key, value, bias, keys[:, 0, 0])
        else:
            query = to_attention(self._split(self.query(normed if readers is None else normed[:, :readers])))
            key, value = (to_attention(self._split(x)) for x in self.key_value(normed).chunk(2, dim=-1))
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        reading = reading + self.project(mixed.transpose(1, 2).flatten(2))
        return reading + self.contract(F.gelu(self.expand(self.norm_ffn(reading))))

    def attention(self, states: Tensor, keys: Tensor) -> Tensor:
        """Attention weights [B, heads, L, L] of this layer, rows summing to 1."""
        normed = self.norm_attention(states)
        query = self._split(self.query(normed))
        key, _ = (self._split(x) for x in self.key_value(normed).chunk(2, dim=-1))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.masked_fill(~keys, float("-inf")).softmax(-1)


class StarterNet(nn.Module):
    """The network of ``starter``.

    Parameters
    ----------
    config
        ``n_genes``, ``width``, ``layers``, ``heads``, ``ffn``, ``value_hidden`` and
        ``decoder_width``, as in the shipped ``config.json``.
    """

    # What torch keeps by name only, for type checkers.
    mean: Tensor
    variance: Tensor
    blocks: Sequence[Block]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        n_genes, width = int(config["n_genes"]), int(config["width"])
        self.width = width
        self.embedding = embedding(n_genes + 1, width)
        self.values = ValueEncoder(width, int(config["value_hidden"]))
        self.hidden_value = nn.Parameter(torch.zeros(width))
        self.pool = nn.Linear(width, width)
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("variance", torch.ones(n_genes))
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            Block(width, int(config["heads"]), int(config["ffn"])) for _ in range(int(config["layers"]))
        )
        self.norm = nn.LayerNorm(width)
        self.decoder_query = nn.Linear(width, int(config["decoder_width"]))
        self.decoder_genes = embedding(n_genes, int(config["decoder_width"]))
        self.bias = nn.Parameter(torch.zeros(n_genes))
        self.token_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def expected(self, measured: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What an average cell adds up to over the measured genes, and how much cells vary there.

        Parameters
        ----------
        measured
            bool [V] or [B, V]: genes that could have been seen; None for all.

        Returns
        -------
        sum, spread
            float32 [width] and [1], or [B, width] and [B, 1].
        """
        if measured is None:
            measured = torch.ones_like(self.mean, dtype=torch.bool)
        there = measured.to(self.mean.dtype)
        total = (there * self.mean) @ self.gene_table()
        return total, (there @ self.variance.unsqueeze(-1)).clamp_min(1e-6).sqrt()

    def tokens(
        self, ids: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None, measured: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What enters the first layer [B, L, width], and the mask of readable tokens [B, 1, 1, L]."""
        readable = mask if query is None else mask & ~query
        genes = self.embedding(ids)
        scale, shift = self.values(values)
        told = genes * (1 + scale) + shift
        if query is not None:
            told = torch.where(query.unsqueeze(-1), genes + self.hidden_value, told)
        expressed = torch.einsum("bl,bld->bd", (values * readable)[:, 1:], genes[:, 1:])
        expected, spread = self.expected(measured)
        first = genes[:, 0] + self.pool((expressed - expected) / spread)
        return torch.cat([first.unsqueeze(1), told[:, 1:]], dim=1), readable[:, None, None, :]

    def forward(
        self, ids: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None, measured: Tensor | None = None
    ) -> Tensor:
        """States of all tokens after the last layer and its norm.

        Parameters
        ----------
        ids
            int64 [B, L]; :data:`CLS` at position 0, then vocabulary id + 1 of each gene.
        values
            float32 [B, L]; log1p(count / library size · 10,000); what stands at ``<cls>``, padding
            and queries is not read.
        mask
            bool [B, L]; False at padding.
        query
            bool [B, L]; True where the value is hidden and asked for; None if nowhere.
        measured
            bool [V] or [B, V]; genes that the dataset could have seen, in the order of the vocabulary;
            None for all. It tells a gene that was not measured from one that was not expressed.

        Returns
        -------
        Tensor, float32 [B, L, width]
        """
        states, keys = self.tokens(ids, values, mask, query, measured)
        for block in self.blocks:
            states = block(states, keys)
        return self.norm(states)

    def hidden(self, ids: Tensor, values: Tensor, mask: Tensor, measured: Tensor | None = None) -> list[Tensor]:
        """States entering the first layer and after each layer, [B, L, width] each, not normed."""
        states, keys = self.tokens(ids, values, mask, measured=measured)
        out = [states]
        for block in self.blocks:
            states = block(states, keys)
            out.append(states)
        return out

    def embed_cell(self, states: Tensor) -> Tensor:
        """The cell's vector [B, width]: the normed state of ``<cls>``."""
        return states[:, 0]

    def encode_cell(self, ids: Tensor, values: Tensor, mask: Tensor, measured: Tensor | None = None) -> Tensor:
        """The cell's vector [B, width] alone.

        Equals ``embed_cell(forward(...))``, but the last layer is computed for ``<cls>`` only, which
        saves a good part of the work.
        """
        states, keys = self.tokens(ids, values, mask, measured=measured)
        for block in self.blocks[:-1]:
            states = block(states, keys)
        states = self.blocks[-1](states, keys, readers=1)
        return self.norm(states[:, 0])

    def attention(
        self, ids: Tensor, values: Tensor, mask: Tensor, layer: int, measured: Tensor | None = None
    ) -> Tensor:
        """Attention weights [B, heads, L, L] of a layer; row = reader, column = token read."""
        states, keys = self.tokens(ids, values, mask, measured=measured)
        for block in self.blocks[:layer]:
            states = block(states, keys)
        return self.blocks[layer].attention(states, keys)

    def rate(self, cell: Tensor, genes: Tensor | None = None) -> Tensor:
        """Log of the expected counts per 10,000 of the library.

        Parameters
        ----------
        cell
            Cell vectors [B, width].
        genes
            Vocabulary ids [K] (not token ids); None for all genes.

        Returns
        -------
        Tensor [B, K]; the expected count of a cell is ``library size / 10,000 · exp(rate)``.
        """
        table: Tensor = self.decoder_genes.weight
        bias: Tensor = self.bias
        if genes is not None:
            table, bias = table[genes], bias[genes]
        return self.decoder_query(cell) @ table.T + bias

    def token_rate(self, states: Tensor, genes: Tensor) -> Tensor:
        """The same quantity read from gene states [B, K, width] of the genes [B, K] (vocabulary ids)."""
        return self.token_head(states).squeeze(-1) + self.bias[genes]

    def gene_table(self) -> Tensor:
        """Gene embeddings [n_genes, width], in the order of the vocabulary."""
        return self.embedding.weight[1:]


def initialise(net: StarterNet, seed: int) -> None:
    """Draw all weights from `seed`, whatever the state of torch's global generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        # Deep layers start as small corrections, so that the first steps train the bag of genes.
        for block in net.blocks:
            block.project.weight.mul_(0.3)
            block.contract.weight.mul_(0.3)
        net.values.outer.weight.mul_(0.3)
        net.hidden_value.normal_(std=net.width**-0.5, generator=generator)
        last = net.token_head[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.1)
        net.decoder_query.weight.mul_(0.3)
