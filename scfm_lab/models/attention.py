"""Attention weights of cells, one cell at a time: they are heads × tokens × tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from numpy.typing import NDArray

    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens


def attention_of_cells(
    model: Model, tokens: Tokens, hidden_layer: int, weights: Callable[[Batch, int], Iterable[torch.Tensor]]
) -> list[NDArray[np.float32]]:
    """Attention of each cell in one layer.

    Parameters
    ----------
    hidden_layer
        Counted as for :func:`scfm_lab.embed`: 1 the first layer, -1 the last.
    weights
        Gives the attention (heads, tokens, tokens) of each cell of a batch in a layer (0 the first).

    Raises
    ------
    ModelError
        If there is no such layer.
    """
    import torch

    from scfm_lab.inference.engine import make_batch
    from scfm_lab.models.layers import attention_layer

    model.check_tokens(tokens)
    layer = attention_layer(hidden_layer, model.spec.layers, model.spec.name)
    out: list[NDArray[np.float32]] = []
    for row in range(len(tokens)):
        if tokens.lengths[row] == 0:
            out.append(np.empty((model.spec.heads, 0, 0), np.float32))
            continue
        batch, _ = make_batch(tokens, np.array([row]), torch.device(model.device))
        with torch.inference_mode():
            out.extend(w.float().cpu().numpy() for w in weights(batch, layer))
    return out
