"""The audit of genes: how much of each cell a model can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import ALL, Cells, group_column, refuse_all
from scfm_lab.cells.given import check_given
from scfm_lab.errors import plural
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes, Match
    from scfm_lab.models.contract import Model


@dataclass(frozen=True, repr=False)
class AuditResult(Result):
    """Genes matched, and the share of UMIs that the model cannot see."""

    model: str
    table: pd.DataFrame
    """One row per group (``"all"`` first): n_cells, umis, umi_share_lost, cells_without_genes, median_share_lost."""
    genes_matched: int
    genes_total: int
    how: dict[str, int]
    """Matched columns by what they were matched by."""
    doubled: int
    """Columns that are summed into a gene which another column holds too."""
    lost: pd.DataFrame
    """The unmatched genes that hold most UMIs: gene, umis, share."""
    where: str
    panel_share: float
    """Median share of a cell's library that the measured genes hold (1 where nothing else is known)."""
    names_from: str = ""
    """Where the names were read that the model looked up (``"var['gene_name']"``); ``""``: from several columns."""
    remarks: tuple[str, ...] = ()
    """What else should be known about the genes, a sentence each."""
    takes_library: bool = True
    """Whether the model scales by library sizes over all genes."""

    @property
    def umi_share_lost(self) -> float:
        """Share of all UMIs that lie on genes unknown to the model, 0 to 1."""
        return float(self.table["umi_share_lost"].iloc[0])

    @property
    def cells_without_genes(self) -> int:
        """Cells in which no known gene is seen; their vectors are NaN."""
        return int(self.table["cells_without_genes"].iloc[0])

    def summary(self) -> str:
        """Two to five lines for people."""
        lines = [
            f"{self.model} knows {self.genes_matched:,} of {self.genes_total:,} genes; "
            f"{self.umi_share_lost:.1%} of the UMIs are lost (counts from {self.where})."
        ]
        if len(self.table) > 2:
            groups = self.table.iloc[1:].sort_values("umi_share_lost")
            best, worst = groups.iloc[0], groups.iloc[-1]
            low, high = f"{best['umi_share_lost']:.1%}", f"{worst['umi_share_lost']:.1%}"
            # Where all are alike, naming two of them would say that they differ.
            lines.append(
                f"It is {low} in every group."
                if low == high
                else f"By group: {low} lost in {best['group']} to {high} in {worst['group']}."
            )
        ways = ", ".join(f"{n:,} by {way}" for way, n in self.how.items() if n)
        if ways:
            lines.append(
                f"Matched {ways}"
                + (f", by the names in {self.names_from}" if self.names_from else "")
                + (f"; {plural(self.doubled, 'column is', 'columns are')} summed." if self.doubled else ".")
            )
        lines += self.remarks
        if self.cells_without_genes:
            blind = plural(
                self.cells_without_genes,
                "cell has no known gene; its vector",
                "cells have no known gene; their vectors",
            )
            lines.append(f"{blind} will be NaN.")
        if self.panel_share < 0.95:
            lines.append(
                f"The measured genes hold {self.panel_share:.0%} of a cell's counts (median)"
                + ("; library sizes are taken over all genes." if self.takes_library else ".")
            )
        if len(self.lost) and self.umi_share_lost > 0.01:
            top = ", ".join(
                f"{g} ({s:.1%})" for g, s in zip(self.lost["gene"][:5], self.lost["share"][:5], strict=False)
            )
            lines.append(f"Most UMIs are lost with: {top}.")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Bars of the share of UMIs lost per group (Altair)."""
        alt = charts()

        table = self.table if len(self.table) == 1 else self.table.iloc[1:]
        return (
            alt.Chart(table)
            .mark_bar()
            .encode(
                x=alt.X("umi_share_lost", title="share of UMIs lost", axis=alt.Axis(format="%")),
                y=alt.Y("group", sort="-x", title=None),
                tooltip=["group", "n_cells", alt.Tooltip("umi_share_lost", format=".2%")],
            )
        )

    def as_provenance(self) -> dict[str, Any]:
        """What a key's provenance keeps of the audit."""
        return {
            "genes_matched": self.genes_matched,
            "genes_total": self.genes_total,
            "umi_share_lost": self.umi_share_lost,
            "umi_share_matched": 1.0 - self.umi_share_lost,
            "cells_without_genes": self.cells_without_genes,
            "counts_from": self.where,
            **({"names_from": self.names_from} if self.names_from else {}),
        }


def audit_genes(
    adata: AnnData,
    model: Model,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> AuditResult:
    """Match the genes of an AnnData to a model and tell what is lost.

    Parameters
    ----------
    adata
        With raw counts (:meth:`Cells.from_anndata`); nothing in it is changed.
    model
        An opened model, or a source for :func:`scfm_lab.load_model`.
    groupby
        A column of ``obs``: the share of UMIs lost is told for each of its values too.
    layer
        Where the counts are; None looks for them.
    options
        The family's own (``spec.options``): a species, or orthologs, may decide which genes are known.

    Returns
    -------
    AuditResult

    Raises
    ------
    CountsError, DataError, GenesError
        On input that is not raw counts, an empty AnnData, a column that is not there or has a group called ``all``.
    """
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.audit_genes")
    model = as_model(model)
    groups = None if groupby is None else group_column(adata, groupby)
    if groups is not None:
        refuse_all(groups.astype(str).to_numpy(dtype=object), f"obs[{groupby!r}]")
    cells = Cells.from_anndata(adata, layer=layer)
    # Without options a dataset none of whose genes is known has an audit too; options are refused where they do not fit.
    full = model.check_options(options) if options else None
    match = model.match(cells.genes) if full is None else model.genes_read(cells.genes, full, lambda: cells.counts)
    return audit_cells(cells, match, model, options=full, groups=groups)


@dataclass(frozen=True)
class Tally:
    """What the audit counts in some cells; those of parts put together are that of all."""

    seen: NDArray[np.float64]
    """UMIs of each cell."""
    kept: NDArray[np.float64]
    """UMIs of each cell on known genes."""
    total: NDArray[np.float64]
    """Library size of each cell."""
    per_gene: NDArray[np.float64]
    """UMIs of each gene."""

    @classmethod
    def of(cls, cells: Cells, match: Match) -> Tally:
        """Count."""
        return cls(
            seen=np.asarray(cells.counts.sum(axis=1, dtype=np.float64)).ravel(),
            kept=np.asarray(cells.counts[:, match.columns].sum(axis=1, dtype=np.float64)).ravel(),
            total=cells.total,
            per_gene=np.asarray(cells.counts.sum(axis=0, dtype=np.float64)).ravel(),
        )


def audit_cells(
    cells: Cells, match: Match, model: Model, *, options: Mapping[str, Any] | None, groups: Any = None
) -> AuditResult:
    """The audit of cells whose genes are matched already (:meth:`Model.genes_read` under these options)."""
    tally = Tally.of(cells, match)
    return audit_tally(tally, cells.genes, match, model, options=options, where=cells.where, groups=groups)


def audit_tally(
    tally: Tally,
    genes: Genes,
    match: Match,
    model: Model,
    *,
    options: Mapping[str, Any] | None,
    where: str,
    groups: Any = None,
) -> AuditResult:
    """The audit of cells that were counted before."""
    import pandas as pd

    known = np.zeros(len(genes), dtype=bool)
    known[match.columns] = True
    seen, kept, per_gene = tally.seen, tally.kept, tally.per_gene
    blind = kept == 0

    def row(name: str, mask: np.ndarray) -> dict[str, Any]:
        umis = seen[mask].sum()
        shares = 1 - kept[mask] / np.maximum(seen[mask], 1)
        return {
            "group": name,
            "n_cells": int(mask.sum()),
            "umis": float(umis),
            "umi_share_lost": float(1 - kept[mask].sum() / umis) if umis else 0.0,
            "median_share_lost": float(np.median(shares)) if mask.any() else 0.0,
            "cells_without_genes": int(blind[mask].sum()),
        }

    rows = [row(ALL, np.ones(len(seen), dtype=bool))]
    if groups is not None:
        labels = np.asarray(groups.astype(str))
        rows += [row(name, labels == name) for name in sorted(set(labels))]
    missing = np.flatnonzero(~known & (per_gene > 0))
    missing = missing[np.argsort(-per_gene[missing], kind="stable")][:50]
    lost = pd.DataFrame(
        {
            "gene": genes.names[missing],
            "umis": per_gene[missing],
            "share": per_gene[missing] / max(per_gene.sum(), 1),
        }
    )
    return AuditResult(
        model=model.spec.name,
        table=pd.DataFrame(rows),
        genes_matched=len(match.columns),
        genes_total=match.n_genes,
        how=match.how,
        doubled=match.doubled,
        lost=lost,
        where=where,
        panel_share=float(np.median(seen / np.maximum(tally.total, 1))),
        names_from=match.told_source,
        remarks=(*match.remarks, *_other_species(genes, match, model)),
        takes_library=model.takes_library(options),
    )


def _other_species(genes: Genes, match: Match, model: Model) -> list[str]:
    """That genes of a species which the model does not know are read by their names; of mouse genes it is asked first."""
    by_name = sum(n for way, n in match.how.items() if way != "ensembl")
    if genes.organism in (None, "mouse") or not by_name or model.reads_organism(genes.organism):
        return []
    return [
        f"The genes are those of {genes.organism}, which {model.spec.name} does not know: they are read as its own "
        f"({', '.join(model.spec.organisms)}) of the same names."
    ]
