"""Vectors of cells for a score: nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model


def vectors_of(
    adata: AnnData,
    model: Model,
    *,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> NDArray[np.float32]:
    """Vectors of cells; nothing is written into the AnnData."""
    from scfm_lab.tasks.progress import as_progress

    cells = model.read_cells(adata, layer=layer, options=options)
    tokens = model.tokenize(cells, options=options, seed=seed)
    with as_progress(progress, f"Cells with {model.spec.name}") as report:
        return model.encode(tokens, progress=report, cancel=cancel).cell
