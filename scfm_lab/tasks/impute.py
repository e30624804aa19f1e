"""Predict expression: what a model expects of each gene in each cell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import audit_cells
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, GenesError
from scfm_lab.results import Result, charts
from scfm_lab.tasks.not_read import blind_sentence, not_read, truncated_sentence
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

_LARGEST = 500_000_000


@dataclass(frozen=True, repr=False)
class ImputeResult(Result):
    """Expected counts per 10,000 of genes in cells. Predictions, not measurements."""

    key: str
    genes: NDArray[Any]
    values: NDArray[np.float32]
    """Shape (cells, genes); NaN for genes and cells that the model cannot see."""
    all_genes: bool
    provenance: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """Per gene: mean and standard deviation of the expected counts per 10,000."""
        import pandas as pd

        known = np.isfinite(self.values).any(axis=0)
        mean = np.full(len(self.genes), np.nan)
        sd = np.full(len(self.genes), np.nan)
        mean[known] = np.nanmean(self.values[:, known], axis=0)
        sd[known] = np.nanstd(self.values[:, known], axis=0)
        return pd.DataFrame({"gene": self.genes, "mean": mean, "sd": sd})

    def summary(self) -> str:
        """What was predicted and where it lies."""
        known = int(np.isfinite(self.values).any(axis=0).sum())
        place = f"layers[{self.key!r}]" if self.all_genes else f"obsm[{self.key!r}]"
        blind = int(np.isnan(self.values).all(axis=1).sum()) if known else 0
        lines = [
            f"{self.provenance['model']} predicts {known:,} of {len(self.genes):,} genes in {len(self.values):,} cells, "
            f"as expected {self.provenance['unit']} in {place}. Predictions: keep them out of tests of differential expression.",
            blind_sentence(blind, "prediction", self.provenance),
            truncated_sentence(self.provenance),
        ]
        return "\n".join(line for line in lines if line)

    def plot(self) -> Any:
        """Spread of the predictions against their mean, a point a gene (Altair)."""
        alt = charts()

        table = self.table.dropna()
        return (
            alt.Chart(table.nlargest(3000, "mean"))
            .mark_circle(size=18, opacity=0.6)
            .encode(
                x=alt.X("mean:Q", scale=alt.Scale(type="log"), title="mean expected count per 10,000"),
                y=alt.Y("sd:Q", scale=alt.Scale(type="log"), title="standard deviation over cells"),
                tooltip=["gene", "mean", "sd"],
            )
        )

    def write(self, adata: AnnData) -> None:
        """Write to ``layers`` (all genes) or ``obsm`` (some genes)."""
        import pandas as pd

        if adata.n_obs != len(self.values):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.values):,}.")
        slot = "layers" if self.all_genes else "obsm"
        provenance.free_key(adata, slot, self.key, given=True)
        if self.all_genes:
            adata.layers[self.key] = self.values
        else:
            adata.obsm[self.key] = pd.DataFrame(self.values, index=adata.obs_names, columns=self.genes)
        provenance.record(adata, self.key, self.provenance, slot=slot)


def impute(
    adata: AnnData,
    model: Model | str | Path,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> ImputeResult:
    """Predict the expression of genes from what the model sees of each cell.

    Parameters
    ----------
    genes
        Genes to predict, also such as the AnnData does not measure; None: the genes of the
        AnnData, written as a layer.
    key_added
        Default ``"imputed_<model's name>"``.

    Returns
    -------
    ImputeResult
        Expected counts per 10,000 (or what else the model predicts: the provenance's ``unit``), marked as
        imputed in the provenance.

    Raises
    ------
    ModelError
        If the model does not predict expression.
    GenesError
        If a named gene is unknown to the model.
    """
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.impute")
    if isinstance(genes, str):
        genes = [genes]
    model = as_model(model)
    model.require("impute")
    started = time.perf_counter()
    cells = model.read_cells(adata, layer=layer, options=options)
    match = model.known_genes(cells.genes, options)
    names, ids = _wanted(genes, model, cells, match)
    if len(cells) * len(names) > _LARGEST:
        raise DataError(
            f"{len(cells):,} cells × {len(names):,} genes would take {4 * len(cells) * len(names) / 2**30:.0f} GiB; "
            "name the genes you need with genes=."
        )
    slot = "layers" if genes is None else "obsm"
    key = provenance.free_key(adata, slot, key_added or f"imputed_{model.spec.name}", given=key_added is not None)
    tokens = model.tokenize(cells, options=options, seed=seed)
    with as_progress(progress, f"Predicting with {model.spec.name}") as report:
        there = np.flatnonzero(ids >= 0)
        found = model.impute(tokens, ids[there], progress=report, cancel=cancel)
    values = np.full((len(cells), len(names)), np.nan, dtype=np.float32)
    values[:, there] = found
    record = provenance.of_model(
        model,
        task="impute",
        imputed=True,
        unit=model.decode_unit,
        options=model.check_options(options),
        **audit_cells(cells, match, model, options=options).as_provenance(),
        **not_read(tokens.cell, cells, match),
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    result = ImputeResult(key, names, values, genes is None, record)
    result.write(adata)
    return result


def _wanted(
    genes: Sequence[str] | None, model: Model, cells: Cells, match: Any
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if genes is None:
        ids = np.full(len(cells.genes), -1, dtype=np.int64)
        ids[match.columns] = match.ids
        return cells.genes.names, ids
    from scfm_lab.errors import did_you_mean

    found = []
    for gene in genes:
        hit = model.vocabulary.id_of(str(gene))
        if hit is None:
            raise GenesError(
                f"{model.spec.name} does not know the gene {gene!r}." + did_you_mean(str(gene), model.vocabulary.names)
            )
        found.append(hit)
    return np.array([str(g) for g in genes], dtype=object), np.array(found, dtype=np.int64)
