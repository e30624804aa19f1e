"""What decides a fine-tuning besides its cells, checked; and which weights it trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, ModelError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from scfm_lab.models.contract import Model

EMBEDDINGS, ALL = "embeddings", "all"


@dataclass(frozen=True)
class Recipe:
    """Settings of a fine-tuning; see :func:`scfm_lab.finetune`."""

    head: str = "linear"
    freeze: Any = EMBEDDINGS
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    head_rate: float = 1e-3
    layer_decay: float = 0.8
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 3
    class_weight: str | None = None
    validation: float = 0.15
    test: float = 0.2
    seed: int = 0

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Recipe:
        """The settings of a record, which may be anybody's: what :meth:`to_dict` writes, and nothing else.

        Raises
        ------
        DataError
            Naming what is no setting of a fine-tuning, or makes no sense.
        """
        known = [item.name for item in fields(cls)]
        for name in told:
            if name not in known:
                raise DataError(f"{str(name)[:80]!r} is no setting of a fine-tuning; those are {', '.join(known)}.")
        return cls(**told).check()

    def check(self) -> Recipe:
        """Refuse settings that make no sense.

        Raises
        ------
        DataError
            Naming the setting.
        """
        if not isinstance(self.head, str):
            raise DataError(f"head is {self.head!r}; it is a name, such as 'linear'.")
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise DataError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        for name, top in (
            ("learning_rate", 1.0),
            ("head_rate", 1.0),
            ("layer_decay", 1.0),
            ("weight_decay", 10.0),
            ("warmup", 1.0),
        ):
            value = getattr(self, name)
            lowest = name in ("weight_decay", "warmup")
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not (0 <= value <= top)
                or (value == 0 and not lowest)
            ):
                raise DataError(f"{name} is {value!r}; it must lie between 0 and {top:g}.")
        if self.class_weight not in (None, "balanced"):
            raise DataError(f"class_weight is {self.class_weight!r}; it is None or 'balanced'.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise DataError(f"seed is {self.seed!r}; it must be a whole number.")
        return self

    def to_dict(self) -> dict[str, Any]:
        """For a record: what :func:`scfm_lab.finetune` is called with to do the same again."""
        found = asdict(self)
        if isinstance(self.freeze, (tuple, list)):
            found["freeze"] = [str(name) for name in self.freeze]
        return found


def trainable(model: Model, freeze: Any) -> dict[str, torch.nn.Parameter]:
    """Name → parameter of what is trained under `freeze`, in the order of the network.

    Raises
    ------
    DataError
        `freeze` names no part of the network, or more layers than there are.
    """
    net = model._trained_net()  # noqa: SLF001 - the contract's own
    blocks, after = model._stack()  # noqa: SLF001
    named = {name: parameter for name, parameter in net.named_parameters() if parameter.is_floating_point()}
    # What is computed once for every gene, and kept, stays as it is.
    named = {name: p for name, p in named.items() if not name.startswith(model.fixed_parts)}
    what = f"freeze is {freeze!r}; it is None, 'embeddings', a number of layers, 'all', or names of parts"
    if freeze is None:
        return named
    if isinstance(freeze, str) and freeze == ALL:
        return {}
    if isinstance(freeze, str) and freeze == EMBEDDINGS:
        freeze = 0
    if isinstance(freeze, bool) or not isinstance(freeze, (int, np.integer, list, tuple)):
        raise DataError(what + "." + (did_you_mean(freeze, (EMBEDDINGS, ALL)) if isinstance(freeze, str) else ""))
    if isinstance(freeze, (list, tuple)):
        for part in freeze:
            if not isinstance(part, str) or not any(name.startswith(part) for name in named):
                tops = sorted({name.split(".")[0] for name in named})
                raise DataError(f"{what}. {model.spec.name} has no part {part!r}; its parts: {', '.join(tops)}.")
        return {name: p for name, p in named.items() if not name.startswith(tuple(freeze))}
    if not 0 <= freeze <= len(blocks):
        raise DataError(f"freeze is {freeze}; {model.spec.name} has {len(blocks)} layers.")
    kept = {id(p) for module in [*blocks[freeze:], *after] for p in module.parameters()}
    return {name: p for name, p in named.items() if id(p) in kept}


def groups(
    model: Model, trained: dict[str, torch.nn.Parameter], head: torch.nn.Module, recipe: Recipe
) -> list[dict[str, Any]]:
    """Parameters with their rates: the head learns fastest, each layer below a little slower than the one above.

    Matrices of layers decay; norms, biases and tables of genes do not.
    """
    blocks, after = model._stack()  # noqa: SLF001 - the contract's own
    depth = {id(p): len(blocks) - i for i, block in enumerate(blocks) for p in block.parameters()}
    depth |= {id(p): 0 for module in after for p in module.parameters()}
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    tables = _tables(model)
    for parameter in trained.values():
        rate = recipe.learning_rate * recipe.layer_decay ** depth.get(id(parameter), len(blocks) + 1)
        decay = recipe.weight_decay if parameter.ndim >= 2 and id(parameter) not in tables else 0.0
        found.setdefault((rate, decay), []).append(parameter)
    for parameter in head.parameters():
        decay = recipe.weight_decay if parameter.ndim >= 2 else 0.0
        found.setdefault((recipe.head_rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in found.items()
    ]


def _tables(model: Model) -> set[int]:
    import torch

    net = model._trained_net()  # noqa: SLF001 - the contract's own
    return {id(m.weight) for m in net.modules() if isinstance(m, torch.nn.Embedding)}


def check_model(model: Model) -> None:
    """Refuse a model that cannot be fine-tuned, naming those that can.

    Raises
    ------
    ModelError
        It cannot.
    """
    model.require("finetune")
    if not model._stack()[0]:  # noqa: SLF001 - the contract's own
        raise ModelError(f"This {model.spec.name} has no layers to train.")
