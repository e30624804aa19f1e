"""Attention to and from one gene, over the cells that hold most of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import ModelError
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model


@dataclass(frozen=True, repr=False)
class GeneAttention(Result):
    """Genes that a gene reads most, and that read it most."""

    gene: str
    table: pd.DataFrame
    """direction (``"reads"``: the gene attends to the other; ``"is read by"``: the other attends to it), gene, weight (mean over
    heads and cells, 0 to 1), cells (that hold both); strongest first within a direction."""
    cells: int
    """Cells over which the mean is taken: those with most counts of the gene."""
    provenance: dict[str, Any]

    def summary(self) -> str:
        """The strongest partners each way, and what attention is not."""
        if self.cells == 0:
            return f"{self.gene} is in none of the cells."
        lines = []
        for direction, rows in self.table.groupby("direction", sort=False):
            names = ", ".join(f"{row.gene} ({row.weight:.3f})" for row in rows.head(5).itertuples())
            lines.append(f"{self.gene} {direction} {names}.")
        lines.append(
            f"Mean over the heads of the last layer and the {self.cells} cells with most counts of {self.gene}. Attention says "
            "where a model looks and is no evidence of regulation."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Weights of the partners, one panel for each direction (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_bar()
            .encode(x=alt.X("weight:Q"), y=alt.Y("gene:N", sort="-x", title=None), tooltip=list(self.table.columns))
            .facet("direction:N")
            .resolve_scale(y="independent")
        )


def gene_attention(
    adata: AnnData,
    model: Model | str | Path,
    gene: str,
    *,
    n: int = 8,
    max_cells: int = 24,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> GeneAttention:
    """Attention of the last layer to and from a gene, mean over its heads and over the cells that hold most of the gene.

    Parameters
    ----------
    adata
        With raw counts.
    model
        An opened model or a source; it must give its attention.
    gene
        Symbol, Ensembl id or alias.
    n
        Most partners each way. One counts only if at least a quarter of the cells hold it too: one cell alone says little.
    max_cells
        Most cells, those with most counts of the gene.
    layer
        Where the counts are; None looks for them.
    options
        The family's own (``model.spec.options``).

    Returns
    -------
    GeneAttention

    Raises
    ------
    GenesError
        The gene is not among the cells' genes; the nearest names are told.
    ModelError
        The model has no attention to give, or does not know the gene.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from scfm_lab.tasks.gene_attention import gene_attention
    >>> found = gene_attention(sl.datasets.load("pbmc68k"), "starter", "CD3D", max_cells=4)
    >>> found.cells
    4
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.load import as_model

    opened = as_model(model)
    opened.require("attention")
    opened.require_independence(options)
    cells = Cells.from_anndata(adata, layer=layer, fields=opened.fields)
    column = cells.genes.find(gene)
    match = opened.known_genes(cells.genes, options)
    known = np.flatnonzero(match.columns == column)
    if len(known) == 0:
        message = f"{opened.spec.name} does not know {gene}."
        raise ModelError(message)
    counts = np.asarray(cells.counts[:, [column]].todense()).ravel()
    rows = np.argsort(-counts, kind="stable")[:max_cells]
    rows = rows[counts[rows] > 0]
    names = dict(zip(match.ids.tolist(), cells.genes.names[match.columns].astype(str), strict=True))
    reads: list[dict[str, Any]] = []
    if len(rows):
        tokens = opened.tokenize(cells.take(rows), options=options)
        weights = opened.attention(tokens, hidden_layer=-1)
        opened.require_vocabulary(cells.genes, options)
        genes = np.split(opened.vocabulary_ids(tokens), tokens.offsets[1:-1])
        reads = _partners(genes, weights, int(match.ids[known[0]]), names, n)
    record = provenance.of_model(
        opened,
        task="gene_attention",
        gene=gene,
        cells=len(rows),
        arguments=provenance.arguments(n=n, max_cells=max_cells, layer=layer, options=options),
        options=opened.check_options(dict(options or {})),
        hidden_layer=-1,
    )
    return GeneAttention(gene, _table(reads), len(rows), record)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=["direction", "gene", "weight", "cells"])


def _partners(
    genes: list[NDArray[np.int64]], weights: list[NDArray[np.float32]], wanted: int, names: dict[int, str], n: int
) -> list[dict[str, Any]]:
    """Partners each way by their mean weight over the cells that hold both."""
    sums: dict[int, list[float]] = {}
    for ids, weight in zip(genes, weights, strict=True):
        mean = weight.mean(axis=0)
        # Positions before the genes are the cell itself and the like.
        mean = mean[len(mean) - len(ids) :, len(mean) - len(ids) :]
        at = np.flatnonzero(ids == wanted)
        if len(at) == 0:
            continue
        for i, other in enumerate(ids.tolist()):
            if other != wanted:
                entry = sums.setdefault(other, [0.0, 0.0, 0.0])
                entry[0] += float(mean[at[0], i])
                entry[1] += float(mean[i, at[0]])
                entry[2] += 1
    least = max(1, len(weights) // 4)
    kept = {other: entry for other, entry in sums.items() if entry[2] >= least and other in names}
    rows = []
    for which, direction in enumerate(("reads", "is read by")):
        ranked = sorted(kept, key=lambda other: -kept[other][which] / kept[other][2])[:n]
        rows += [
            {
                "direction": direction,
                "gene": names[other],
                "weight": kept[other][which] / kept[other][2],
                "cells": int(kept[other][2]),
            }
            for other in ranked
        ]
    return rows
