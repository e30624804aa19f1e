"""The network of Geneformer: BERT on ranked genes, on packed tokens.

A token's position is its rank; a cell's tokens attend to each other. The published tensors'
names are translated once, when a file is opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (this module is imported only where a network is needed)
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError
from scfm_lab.models.layers import ACTIVATIONS, PackedEncoder, embedding

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_TIED_BIAS = "cls.predictions.decoder.bias"
#: Heads of fine-tuning and tied copies that no embedding reads: known, and left aside.
_ASIDE = (
    "bert.pooler.",
    "classifier.",
    "cls.seq_relationship.",
    "cls.predictions.decoder.",
    "bert.embeddings.position_ids",
)
_BLOCK = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


@dataclass(frozen=True)
class GeneformerShape:
    """Sizes of a network, from ``config.json``."""

    vocabulary: int
    width: int
    heads: int
    ffn: int
    layers: int
    positions: int
    types: int = 2
    activation: str = "relu"
    eps: float = 1e-12
    mlm: bool = True
    """Whether the file holds the head that predicts masked genes."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, mlm: bool) -> GeneformerShape:
        """Read and check a BERT configuration.

        Raises
        ------
        ModelError
            Naming the entry that is missing or makes no sense.
        """

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name, default)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000_000:
                raise ModelError(f"config.json says {name}={value!r}; it must be a whole number of at least 1.")
            return value

        kind = config.get("position_embedding_type", "absolute")
        if kind != "absolute":
            raise ModelError(f"config.json says position_embedding_type={kind!r}; Geneformer has absolute positions.")
        # What BertConfig takes where a configuration does not say; the published ones do.
        activation = str(config.get("hidden_act", "gelu"))
        if activation not in ACTIVATIONS:
            raise ModelError(f"config.json says hidden_act={activation!r}; known are {', '.join(ACTIVATIONS)}.")
        eps = config.get("layer_norm_eps", 1e-12)
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
            raise ModelError(f"config.json says layer_norm_eps={eps!r}; it must be a small positive number.")
        shape = cls(
            vocabulary=size("vocab_size"),
            width=size("hidden_size"),
            heads=size("num_attention_heads"),
            ffn=size("intermediate_size"),
            layers=size("num_hidden_layers"),
            positions=size("max_position_embeddings"),
            types=size("type_vocab_size", 2),
            activation=activation,
            eps=eps,
            mlm=mlm,
        )
        if shape.width % shape.heads:
            raise ModelError(
                f"config.json says hidden_size={shape.width} and num_attention_heads={shape.heads}; the first must be "
                "a multiple of the second."
            )
        return shape

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Published name → shape of every tensor that the network needs."""
        d = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "bert.embeddings.word_embeddings.weight": (self.vocabulary, d),
            "bert.embeddings.position_embeddings.weight": (self.positions, d),
            "bert.embeddings.token_type_embeddings.weight": (self.types, d),
        }

        def linear(name: str, rows: int, columns: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (d,)

        norm("bert.embeddings.LayerNorm")
        for i in range(self.layers):
            layer = f"bert.encoder.layer.{i}."
            for part in ("query", "key", "value"):
                linear(f"{layer}attention.self.{part}", d, d)
            linear(layer + "attention.output.dense", d, d)
            norm(layer + "attention.output.LayerNorm")
            linear(layer + "intermediate.dense", self.ffn, d)
            linear(layer + "output.dense", d, self.ffn)
            norm(layer + "output.LayerNorm")
        if self.mlm:
            linear("cls.predictions.transform.dense", d, d)
            norm("cls.predictions.transform.LayerNorm")
            shapes["cls.predictions.bias"] = (self.vocabulary,)
        return shapes


def published_keys(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under their published names, and the names of those that no embedding reads.

    Files of parallel training, of a bare ``BertModel`` and of TensorFlow's time spell some names
    differently.
    """
    bare = not any(re.match(r"((module|_orig_mod)\.)*(bert|cls)\.", key) for key in tensors)
    out: dict[str, Tensor] = {}
    aside = []
    for key, tensor in tensors.items():
        name = re.sub(r"^((module|_orig_mod)\.)+", "", key)
        if bare and name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = "bert." + name
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name == _TIED_BIAS and not any(other.endswith("cls.predictions.bias") for other in tensors):
            # The same tensor under its other name.
            name = "cls.predictions.bias"
        if name.startswith(_ASIDE):
            aside.append(name)
        elif name in out:
            raise ModelError(f"The weights hold {name!r} twice, under different names; it is not clear which is meant.")
        else:
            out[name] = tensor
    return out, aside


def own_decoder(held: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file's head that predicts masked genes is another than the embedding (`tensors`: of :func:`published_keys`)."""
    words = tensors.get("bert.embeddings.word_embeddings.weight")
    heads = [tensor for key, tensor in held.items() if key.endswith("cls.predictions.decoder.weight")]
    return words is not None and any(not torch.equal(head, words) for head in heads)


def published_tensors(net: GeneformerNet, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network under their published names, beside those it was opened from.

    A file keeps positions and token types apart, the network holds their sum: where that was trained, the sum becomes
    the positions and the type of every token 0.
    """
    state = net.state_dict()
    found = {
        "bert.embeddings.word_embeddings.weight": state["words.weight"],
        "bert.embeddings.LayerNorm.weight": state["norm.weight"],
        "bert.embeddings.LayerNorm.bias": state["norm.bias"],
    }
    types = original["bert.embeddings.token_type_embeddings.weight"]
    before = original["bert.embeddings.position_embeddings.weight"].float() + types[0].float()
    if not torch.equal(before, state["positions.weight"].cpu()):
        found["bert.embeddings.position_embeddings.weight"] = state["positions.weight"]
        found["bert.embeddings.token_type_embeddings.weight"] = torch.cat([torch.zeros_like(types[:1]), types[1:]])
    for i in range(net.shape.layers):
        old, new = f"bert.encoder.layer.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = state[f"{new}self_attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{old}attention.self.{name}.{kind}"] = part
            for published, ours in _BLOCK.items():
                found[f"{old}{published}.{kind}"] = state[f"{new}{ours}.{kind}"]
    return found


class _Head(nn.Module):
    """Predicts the gene at a position."""

    def __init__(self, shape: GeneformerShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))
        self.activation = ACTIVATIONS[shape.activation]

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(states))) @ words.T + self.bias


class GeneformerNet(nn.Module):
    """Geneformer at inference."""

    def __init__(self, shape: GeneformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = embedding(shape.vocabulary, shape.width)
        # The published type of every token is 0: it is added to the positions once.
        self.positions = embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.encoder = PackedEncoder(
            shape.layers, shape.width, shape.heads, shape.ffn, activation=shape.activation, eps=shape.eps
        )
        self.head = _Head(shape) if shape.mlm else None

    @classmethod
    def from_tensors(cls, shape: GeneformerShape, tensors: Mapping[str, Tensor]) -> GeneformerNet:
        """The network with its weights in float32, from tensors under their published names."""
        with torch.device("meta"):
            net = cls(shape)

        def take(name: str) -> Tensor:
            # Copies, so that the weights outlive their file.
            return tensors[name].to(torch.float32, copy=True)

        table = take("bert.embeddings.position_embeddings.weight")
        state = {
            "words.weight": take("bert.embeddings.word_embeddings.weight"),
            "positions.weight": table + tensors["bert.embeddings.token_type_embeddings.weight"][0].float(),
            "norm.weight": take("bert.embeddings.LayerNorm.weight"),
            "norm.bias": take("bert.embeddings.LayerNorm.bias"),
        }
        for i in range(shape.layers):
            old, new = f"bert.encoder.layer.{i}.", f"encoder.layers.{i}."
            for kind in ("weight", "bias"):
                parts = [tensors[f"{old}attention.self.{p}.{kind}"].float() for p in ("query", "key", "value")]
                state[f"{new}self_attn.in_proj_{kind}"] = torch.cat(parts)
                for published, ours in _BLOCK.items():
                    state[f"{new}{ours}.{kind}"] = take(f"{old}{published}.{kind}")
        if shape.mlm:
            for kind in ("weight", "bias"):
                state[f"head.dense.{kind}"] = take(f"cls.predictions.transform.dense.{kind}")
                state[f"head.norm.{kind}"] = take(f"cls.predictions.transform.LayerNorm.{kind}")
            state["head.bias"] = take("cls.predictions.bias")
        net.load_state_dict(state, assign=True)
        return net.eval().requires_grad_(False)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Input of the encoder: (tokens,), (tokens,) → (tokens, width)."""
        return self.norm(self.words(ids) + self.positions(positions))

    def states(
        self,
        ids: Tensor,
        positions: Tensor,
        lengths: NDArray[np.int64],
        *,
        n_layers: int | None = None,
        readers: Tensor | None = None,
    ) -> Tensor:
        """States after `n_layers` layers, of all tokens or of one reader per cell."""
        return self.encoder(self.embed(ids, positions), lengths, n_layers=n_layers, readers=readers)

    def logits(self, states: Tensor) -> Tensor:
        """Logit of each token id at each position: last states (tokens, width) → (tokens, vocabulary)."""
        if self.head is None:
            raise ModelError(
                "This checkpoint has no head that predicts masked genes (it was fine-tuned as a classifier)."
            )
        return self.head(states, self.words.weight)
