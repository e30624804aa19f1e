"""Cells that a model makes up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from scfm_lab.models.contract import Model


def generate(
    model: Model | str | Path, n_cells: int = 100, *, condition: Mapping[str, Any] | None = None, seed: int = 0
) -> AnnData:
    """Let a model make up cells.

    None of the models that come along can: they read cells and predict genes of them, and have no distribution of whole cells to
    draw from. The door is open for a plugin's model, which names the ability ``"generate"`` and has a method of that name.

    Parameters
    ----------
    model
        A model or source.
    n_cells
        How many.
    condition
        What the cells are to be, as the model understands it (``{"cell_type": "B cell"}``).
    seed
        Of the draws.

    Returns
    -------
    AnnData
        Counts in X (CSR float32), cells × the model's genes; ``uns["scfm"]["X"]`` marks them as imputed (made by a model), so that
        what needs measurements can refuse them.

    Raises
    ------
    ModelError
        If the model cannot generate, or gives something else than counts.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> sl.generate("starter")
    Traceback (most recent call last):
    ...
    scfm_lab.errors.ModelError: starter cannot generate cells; no model that is installed can.
    """
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    from scfm_lab.models.load import as_model

    if n_cells < 1:
        raise DataError(f"n_cells is {n_cells}; at least one cell has to be asked for.")
    opened = as_model(model)
    opened.require("generate")
    started = time.perf_counter()
    counts = sparse.csr_matrix(opened.generate(n_cells, condition=condition, seed=seed), dtype=np.float32)
    wanted = (n_cells, len(opened.vocabulary))
    if counts.shape != wanted or (counts.data < 0).any() or (counts.data != np.rint(counts.data)).any():
        raise ModelError(
            f"{opened.spec.name} gave no counts of {wanted[0]:,} cells × {wanted[1]:,} genes; its plugin is at fault."
        )
    made = ad.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"{opened.spec.name}_{i + 1}" for i in range(n_cells)]),
        var=pd.DataFrame(index=pd.Index(opened.vocabulary.names.astype(str))),
    )
    record = provenance.of_model(
        opened,
        task="generate",
        imputed=True,
        condition=dict(condition or {}),
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    provenance.record(made, "X", record, slot="X")
    return made
