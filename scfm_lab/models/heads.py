"""Heads that read a cell and answer with one logit for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (this module is imported only where a network is needed)
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

#: Kinds of heads: one linear layer on the cell's vector, or what the family's authors fine-tune with.
LINEAR, PUBLISHED = "linear", "published"
KINDS = (LINEAR, PUBLISHED)


class LinearHead(nn.Module):
    """Cell vector, standardised by the training cells' mean and spread, → logits."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.out = nn.Linear(width, labels)

    def forward(self, cells: Tensor) -> Tensor:
        """[cells, width] → [cells, labels]."""
        return self.out((cells.float() - self.mean) / self.scale)


class PoolerHead(nn.Module):
    """BERT's classifier (``BertForSequenceClassification``): a dense layer with tanh, then a linear one."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, labels)

    def forward(self, cells: Tensor) -> Tensor:
        """[cells, width] → [cells, labels]."""
        return self.out(torch.tanh(self.dense(cells.float())))


class StackedHead(nn.Module):
    """scGPT's ``ClsDecoder``: layers of linear, ReLU and norm, then a linear one; named as there."""

    def __init__(self, width: int, labels: int, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)]
        self._decoder = nn.ModuleList(parts)
        self.out_layer = nn.Linear(width, labels)

    def forward(self, cells: Tensor) -> Tensor:
        """[cells, width] → [cells, labels]."""
        x = cells.float()
        for part in self._decoder:
            x = part(x)
        return self.out_layer(x)


def draw(head: nn.Module, seed: int) -> nn.Module:
    """Draw a head's weights from `seed`, as PyTorch draws them by default, but from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                bound = module.weight[0].numel() ** -0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
    return head


def check_kind(kind: Any, known: tuple[str, ...], name: str) -> str:
    """A kind of head that a model has.

    Raises
    ------
    ModelError
        It has not.
    """
    if kind not in known:
        raise ModelError(
            f"{name} has no head {kind!r}; its heads: {', '.join(known)}." + did_you_mean(str(kind), known)
        )
    return str(kind)
