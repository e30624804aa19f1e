"""Vectors of cells and of their perturbed copies that were computed before: what was asked once costs nothing again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens


@dataclass
class KnownVectors:
    """The vectors that one model makes, under one set of options, of the same genes."""

    depends: dict[str, Any]
    room: int
    """Bytes that may still be kept: more would push out what was kept first."""
    n_known: int = field(default=0, init=False)
    """Cells and copies that were not computed."""

    @classmethod
    def of(cls, model: Model, options: Mapping[str, Any], seed: int, genes: Genes) -> KnownVectors | None:
        """None where nothing is kept.

        The cache is switched off, how the model was made is not known, or it has no layers and is quicker than the cache.
        """
        from scfm_lab.inference.cache import limit_bytes
        from scfm_lab.models.tokens import Request
        from scfm_lab.tasks.embed_run import depends_on

        room = limit_bytes() // 2
        full = model.check_options(options)
        if not room or not model.spec.layers or not model.cells_alone(full):
            return None
        depends = depends_on(model, full, Request(), seed, model.compute, genes, model.device)
        return None if depends is None else cls({**depends, "kept": "copies"}, room)

    def vectors(
        self,
        model: Model,
        cells: Cells,
        tokens: Callable[[NDArray[np.int64] | None], Tokens],
        *,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """Vectors of cells or of copies, (cells, width); only those that are not known are computed.

        `tokens` gives those of some of the cells (None: of all). What a copy's vector depends on besides its counts is its
        unperturbed cell: which of its genes are read, and its numbers. Both are in the digest by which it is kept.
        """
        from scfm_lab.inference.cache import VectorCache, cell_digests

        # The model may have been moved since.
        here = {"precision": str(model.compute), "device": model.device.split(":")[0]}
        cache = VectorCache.at_home({**self.depends, **here})
        if cache is None:
            return model.encode(tokens(None), progress=progress, cancel=cancel).cell
        try:
            digests = cell_digests(cells)
            found = cache.get(digests)
            rows = np.flatnonzero(~found.there)
            known = len(cells) - len(rows)
            self.n_known += known
            if not len(rows):
                _told(progress, len(cells), len(cells))
                return found.vectors
            states = model.encode(
                tokens(rows if known else None),
                progress=lambda done, _: _told(progress, known + done, len(cells)),
                cancel=cancel,
            )
            size = len(rows) * (4 * states.cell.shape[1] + 64)
            if size <= self.room:
                self.room -= size
                cache.put(digests[rows], states.cell, {})
        finally:
            cache.close()
        if not known:
            return states.cell
        out = np.empty((len(cells), states.cell.shape[1]), dtype=np.float32)
        out[found.there], out[rows] = found.vectors, states.cell
        return out


def _told(progress: Callable[..., None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
