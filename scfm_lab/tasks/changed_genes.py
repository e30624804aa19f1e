"""Which genes a model expects to change with a perturbation: what it predicts from each cell's vector before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.perturb_result import PerturbResult

#: Most cells over which a mean is taken: more change it less than the perturbation does.
_MOST_CELLS = 400
_BLOCK = 64


def changed_genes(model: Model, result: PerturbResult, genes: Genes, *, n: int = 20) -> pd.DataFrame:
    """The genes whose predicted expression changes most among the cells that a perturbation changes.

    Parameters
    ----------
    model
        That gave the result; it must be able to impute.
    result
        Of :func:`scfm_lab.perturb`.
    genes
        Of the cells: only genes that were measured are told.
    n
        Most genes.

    Returns
    -------
    DataFrame with ``gene``, ``before`` and ``after`` (mean prediction over the changed cells, in the model's own unit: see
    the ``expected_counts`` of its family) and ``log2_fold`` (of the means, after / before), largest change first. The genes
    whose doses were set are left out. Predictions of a model, not measurements.

    Raises
    ------
    ModelError
        The model predicts no expression.

    Examples
    --------
    >>> from scfm_lab.tasks.perturb import Perturber
    >>> lab = Perturber(adata, model)  # doctest: +SKIP
    >>> changed_genes(model, lab.run({"CD3D": 0.0}), lab.cells.genes)  # doctest: +SKIP
    """
    import pandas as pd

    model.require("impute")
    match = model.match(genes)
    ids, first = np.unique(match.ids, return_index=True)
    columns = match.columns[first]
    rows = np.flatnonzero(result.changed & np.isfinite(result.shift))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_CELLS)).astype(int)] if len(rows) else rows
    names = genes.names[columns].astype(str)
    before, after = (_mean(model, vectors[rows], ids) for vectors in (result.baseline, result.perturbed))
    table = pd.DataFrame({"gene": names, "before": before, "after": after})
    # Half of the smallest count per 10,000 that anybody sees keeps genes that are never there from leading.
    floor = 0.5
    table["log2_fold"] = np.log2((table["after"] + floor) / (table["before"] + floor))
    table = table[~table["gene"].isin([*result.doses, *result.set_to]) & np.isfinite(table["log2_fold"])]
    order = table["log2_fold"].abs().sort_values(ascending=False, kind="stable").index[:n]
    return table.loc[order].reset_index(drop=True)


def _mean(model: Model, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[Any]:
    if len(vectors) == 0:
        return np.full(len(ids), np.nan)
    total = np.zeros(len(ids))
    for start in range(0, len(vectors), _BLOCK):
        total += model.expected_counts(vectors[start : start + _BLOCK], ids).sum(axis=0)
    return total / len(vectors)
