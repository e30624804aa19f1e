"""Genes of one species by the names of another, through one-to-one orthologs, with an audit of what is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, GenesError
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

BUNDLED = "one-to-one orthologs of the bundled vocabulary"


@dataclass(frozen=True, repr=False)
class OrthologAudit(Result):
    """What a change of species costs."""

    table: pd.DataFrame
    """group (``all`` first), n_cells, umi_share_lost."""
    genes_total: int
    genes_kept: int
    genes_many: int
    """Genes left out because they have several partners, or share one."""
    lost: pd.DataFrame
    """Genes lost, by the share of counts they hold: gene, share, why."""
    source: str

    def summary(self) -> str:
        """Genes kept, and the share of counts on those that are not."""
        groups = self.table.iloc[1:].sort_values("umi_share_lost")
        lines = [
            f"{self.genes_kept:,} of {self.genes_total:,} genes have a one-to-one ortholog ({self.source}); {self.genes_many:,} "
            f"have several and are left out. {self.table['umi_share_lost'].iloc[0]:.1%} of the counts are lost."
        ]
        if len(groups):
            low, high = groups.iloc[0], groups.iloc[-1]
            lines.append(
                f"By group: {low['umi_share_lost']:.1%} in {low['group']} to {high['umi_share_lost']:.1%} in {high['group']}."
            )
        if len(self.lost):
            lines.append(
                "Most counts are lost with: "
                + ", ".join(f"{r.gene} ({r.share:.1%})" for r in self.lost.head(5).itertuples())
                + "."
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Share of counts lost per group (Altair)."""
        alt = charts()
        table = self.table if len(self.table) == 1 else self.table.iloc[1:]
        return (
            alt.Chart(table)
            .mark_bar()
            .encode(
                x=alt.X("umi_share_lost:Q", title="share of counts lost", axis=alt.Axis(format="%")),
                y=alt.Y("group:N", sort="-x", title=None),
            )
        )


def to_human(
    adata: AnnData,
    *,
    orthologs: Mapping[str, str] | pd.DataFrame | None = None,
    groupby: str | None = None,
    layer: str | None = None,
) -> tuple[AnnData, OrthologAudit]:
    """A copy of the cells with the human names of their genes; other genes are left out, and counted.

    Parameters
    ----------
    adata
        With raw counts, of another species than human.
    orthologs
        Pairs, gene of this species → human symbol, as a dict or a table of two columns (human first); many-to-many pairs are
        dropped. None: the mouse orthologs that come with scfm-lab.
    groupby
        Column of ``obs``: the loss is told for each group too.

    Returns
    -------
    (AnnData, OrthologAudit)
        Library sizes stay those of all genes (``obs["total_counts_all_genes"]``).

    Raises
    ------
    DataError
        `groupby` holds no groups, or one called ``all``.
    GenesError
        If no gene has an ortholog.
    """
    import anndata as ad
    import pandas as pd

    from scfm_lab.cells.cells import Cells, group_column, refuse_all

    groups = None if groupby is None else group_column(adata, groupby).astype(str).to_numpy(dtype=object)
    if groups is not None:
        refuse_all(groups, f"obs[{groupby!r}]")
    cells = Cells.from_anndata(adata, layer=layer)
    pairs, many, source = _pairs(orthologs)
    name_of: list[str] = []
    for name, symbol, ensembl in zip(cells.genes.names, cells.genes.symbols, cells.genes.ensembl, strict=True):
        name_of.append(next((pairs[key] for key in (ensembl, symbol, name) if key and key in pairs), ""))
    names = np.array(name_of, dtype=object)
    # Two columns for one human gene: which is meant is not known.
    values, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    double = set(values[counts > 1])
    kept = np.array([n != "" and n not in double for n in names])
    if not kept.any():
        raise GenesError(
            f"None of the {len(names):,} genes (such as {', '.join(map(str, cells.genes.names[:3]))}) has a one-to-one human "
            f"ortholog ({source}); are they genes of that species, by symbol or Ensembl id?"
        )
    columns = np.flatnonzero(kept)
    obs = adata.obs.copy()
    obs["total_counts_all_genes"] = cells.total
    human = names[columns].astype(str)
    out = ad.AnnData(cells.counts[:, columns], obs=obs, var=pd.DataFrame({"gene_symbol": human}, index=pd.Index(human)))
    out.uns["organism"] = "human"
    several = sum(
        1
        for n, keys in zip(
            names, zip(cells.genes.ensembl, cells.genes.symbols, cells.genes.names, strict=True), strict=True
        )
        if n in double or (n == "" and any(key in many for key in keys))
    )
    return out, _audit(cells, kept, names, double, groups, several, source)


def _pairs(orthologs: Any) -> tuple[dict[str, str], set[str], str]:
    """Gene → human symbol of one-to-one pairs; the genes with several partners; and where they are from."""
    if orthologs is None:
        from scfm_lab.models.load import load_model

        vocabulary = load_model("starter").vocabulary
        pairs: dict[str, str] = {}
        for values in (vocabulary.mouse_symbols, vocabulary.mouse_ensembl):
            if values is not None:
                pairs |= {str(m): str(h) for m, h in zip(values, vocabulary.names, strict=True) if m}
        return pairs, set(), BUNDLED
    if hasattr(orthologs, "columns"):
        if orthologs.shape[1] < 2:
            raise DataError("The table of orthologs needs two columns: human genes, and those of the other species.")
        listed = [(str(o), str(h)) for h, o in zip(orthologs.iloc[:, 0], orthologs.iloc[:, 1], strict=True) if h and o]
    else:
        listed = [(str(o), str(h)) for o, h in orthologs.items()]
    unique = sorted(set(listed))
    others, humans = [o for o, _ in unique], [h for _, h in unique]
    twice = {o for o in set(others) if others.count(o) > 1} if len(others) < 1000 else _doubled(others)
    shared = _doubled(humans)
    single = {o: h for o, h in unique if o not in twice and h not in shared}
    return single, {o for o, _ in unique if o not in single}, "the pairs given"


def _doubled(names: list[str]) -> set[str]:
    values, counts = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
    return set(values[counts > 1].tolist())


def _audit(
    cells: Any,
    kept: NDArray[np.bool_],
    names: NDArray[Any],
    double: set[str],
    groups: NDArray[Any] | None,
    several: int,
    source: str,
) -> OrthologAudit:
    import pandas as pd

    from scfm_lab.cells.cells import ALL

    away = np.flatnonzero(~kept)
    per_cell = np.asarray(cells.counts[:, away].sum(axis=1)).ravel()
    all_ = np.asarray(cells.counts.sum(axis=1)).ravel()
    rows = [(ALL, np.arange(len(cells)))]
    if groups is not None:
        rows += [(str(g), np.flatnonzero(groups == g)) for g in sorted(set(groups))]
    table = pd.DataFrame(
        {
            "group": [g for g, _ in rows],
            "n_cells": [len(r) for _, r in rows],
            "umi_share_lost": [float(per_cell[r].sum() / max(all_[r].sum(), 1)) for _, r in rows],
        }
    )
    held = np.asarray(cells.counts[:, away].sum(axis=0)).ravel() / max(all_.sum(), 1)
    order = np.argsort(-held, kind="stable")[:50]
    lost = pd.DataFrame(
        {
            "gene": cells.genes.names[away[order]],
            "share": held[order],
            "why": ["shares its ortholog" if names[away[i]] in double else "no one-to-one ortholog" for i in order],
        }
    )
    return OrthologAudit(table, len(kept), int(kept.sum()), several, lost, source)
