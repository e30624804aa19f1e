"""The network of scBERT: one token per gene of the vocabulary, a Performer over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F  # noqa: N812, TID253
from torch import nn  # noqa: TID253  (this module is imported only where a network is needed)

from scfm_lab.models.layers import embedding
from scfm_lab.models.performer import Performer, checkpoint_names

if TYPE_CHECKING:
    from torch import Tensor


class ClassHead(nn.Module):
    """Encodings of all positions → class logits: one number per position, then three linear layers."""

    def __init__(self, width: int, length: int, hidden: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, (1, width))
        self.fc1 = nn.Linear(length, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, encodings: Tensor) -> Tensor:
        """[B, L, width] → [B, classes]."""
        # A product, as the convolution is one: GPUs convolve in TF32 unless they are told otherwise.
        x = F.linear(encodings, self.conv1.weight.flatten(1), self.conv1.bias).squeeze(-1).relu()
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class ScBertNet(nn.Module):
    """scBERT, with the head that its checkpoint has.

    Parameters
    ----------
    n_tokens
        Rows of the token table: bins 0 … ``bin_num``, and the mask.
    length
        Positions: genes + 1.
    performer
        Arguments of :class:`~scfm_lab.models.performer.Performer`.
    head
        ``(hidden, hidden, classes)`` of a fine-tuned model; None: the pre-trained token head.
    """

    def __init__(
        self, n_tokens: int, length: int, performer: dict[str, Any], head: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        width = int(performer["width"])
        self.token_emb = embedding(n_tokens, width)
        self.pos_emb = embedding(length, width)
        self.performer = Performer(**performer)
        self.norm = nn.LayerNorm(width)
        self.to_out: nn.Module = (
            nn.Linear(width, n_tokens) if head is None else ClassHead(width, length, head[:2], head[2])
        )

    @property
    def length(self) -> int:
        """Positions of a cell."""
        return self.pos_emb.num_embeddings

    def checkpoint_names(self) -> dict[str, str]:
        """Name in a checkpoint → name here, for every tensor."""
        names = {name: name for name in self.state_dict() if not name.startswith(("performer.", "pos_emb."))}
        names["pos_emb.emb.weight"] = "pos_emb.weight"
        return {**names, **checkpoint_names(self.performer, "performer.", "performer.")}

    def embed(self, tokens: Tensor) -> Tensor:
        """What enters the first layer, [B, L] → [B, L, width]."""
        return self.token_emb(tokens) + self.pos_emb.weight

    def forward(
        self, tokens: Tensor, *, n_layers: int | None = None, readers: Tensor | None = None, shared: bool = False
    ) -> Tensor:
        """Encodings after the final norm, [B, L, width]; of earlier layers, not normed.

        Parameters
        ----------
        tokens
            int64 [B, L].
        n_layers, readers, shared
            As in :meth:`~scfm_lab.models.performer.Performer.forward`.
        """
        states = self.performer(self.embed(tokens), n_layers=n_layers, readers=readers, shared=shared)
        if n_layers is None or n_layers == len(self.performer.layers):
            return self.norm(states)
        return states

    def attention(self, tokens: Tensor, layer: int, readers: Tensor) -> Tensor:
        """Attention of some positions of one cell [1, L] over all, [heads, readers, L], float32."""
        return self.performer.attention(self.embed(tokens), layer, readers)
