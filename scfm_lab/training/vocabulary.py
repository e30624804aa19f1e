"""The gene table of the shipped models: which genes they know, and by which names.

One row is one human gene: its current symbol and Ensembl id, its one-to-one mouse ortholog,
and the names it had in older annotations (``aliases``: former symbols and retired Ensembl
ids), so that matrices counted against hg19 still find it.

    python -m scfm_lab.training.vocabulary --out DIR
"""

from __future__ import annotations

import gzip
import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import strip_version
from scfm_lab.training.corpus import TRAINING_SETS, data_file, read

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

COLUMNS = ("symbol", "ensembl", "mouse_symbol", "mouse_ensembl", "aliases", "cells", "biotype")

#: Sets that carry a reduced gene panel. Their genes are in the table also where no training
#: cell expresses them, so that an audit can tell "unknown" from "never seen in training".
PANELS = (
    "pbmc_zheng_sorted",
    "kang_ifnb_pbmc",
    "human_m1_10x_141genes",
    "perturb_norman_k562_crispra",
    "perturb_mcfaline_gbm_crispri",
    "mouse_brain_merfish_1000",
    "pancreas_endocrinogenesis",
)

#: Training cells that must express a gene, by biotype, before it earns a row. Coding genes and
#: the segments of immune receptors are what cells are told apart by; long non-coding RNAs must
#: be seen often enough to be learnt; pseudogenes mostly catch reads of their parents.
MIN_CELLS = {"protein_coding": 2, "immune": 2, "lncRNA": 20, "Mt_rRNA": 20, "retired": 20}


@dataclass
class Identities:
    """Which current human gene a symbol or an Ensembl id, current or retired, means."""

    current: pd.DataFrame
    """Index Ensembl id; columns symbol, biotype."""
    by_symbol: dict[str, str]
    """Current symbol → Ensembl id."""
    former: dict[str, str]
    """Former symbol → Ensembl id, where only one gene was called so."""

    def resolve(self, symbol: str, ensembl: str) -> str:
        """Current Ensembl id of a gene, or "" where it has none.

        A current id decides. A retired one is followed through its symbol (``CCL5`` has the
        retired id ENSG00000161570 in hg19 and ENSG00000271503 now).
        """
        ensembl = strip_version(ensembl)
        if ensembl in self.current.index:
            return ensembl
        return self.by_symbol.get(symbol) or self.former.get(symbol, "")


def identities(symbol_tables: list[tuple[np.ndarray, np.ndarray]]) -> Identities:
    """Read the current annotation, and collect former symbols from older gene lists.

    Parameters
    ----------
    symbol_tables
        Pairs of (symbols, Ensembl ids) as older references had them.
    """
    import pandas as pd

    table = pd.read_csv(data_file("genes_human_ensembl"), usecols=["gene_id", "gene_name", "biotype"])
    table["ensembl"] = [strip_version(g) for g in table["gene_id"]]
    # Where two genes carry one name the coding one is meant; after that the lower id, the older gene.
    table["rank"] = (table["biotype"] != "protein_coding").astype(int)
    table = table.sort_values(["rank", "ensembl"], kind="stable").drop_duplicates("ensembl")
    current = table.set_index("ensembl")[["gene_name", "biotype"]].rename(columns={"gene_name": "symbol"})
    current["symbol"] = current["symbol"].fillna("").astype(str)
    by_symbol: dict[str, str] = {}
    for ensembl, symbol in current["symbol"].items():
        if symbol and not symbol.startswith("ENSG"):
            by_symbol.setdefault(symbol, str(ensembl))

    tenx = pd.read_csv(data_file("gene_positions_grch38"), usecols=["response_id", "response_name"])
    lists = [*symbol_tables, (tenx["response_name"].astype(str).to_numpy(), tenx["response_id"].astype(str).to_numpy())]
    meant: dict[str, set[str]] = defaultdict(set)
    for symbols, ensembl in lists:
        for symbol, gene in zip(symbols, ensembl, strict=True):
            gene = strip_version(str(gene))
            if gene in current.index and symbol not in by_symbol and not str(symbol).startswith("ENSG"):
                meant[str(symbol)].add(gene)
    former = {symbol: next(iter(genes)) for symbol, genes in meant.items() if len(genes) == 1}
    return Identities(current, by_symbol, former)


def orthologs(ids: Identities) -> dict[str, tuple[str, str]]:
    """Human Ensembl id → (mouse symbol, mouse Ensembl id), one-to-one pairs only."""
    import pandas as pd

    pairs = pd.read_csv(data_file("orthologs_human_mouse_symbols"), dtype=str).dropna().drop_duplicates()
    pairs.columns = ["human", "mouse"]
    pairs["ensembl"] = [ids.resolve(symbol, "") for symbol in pairs["human"]]
    pairs = pairs[pairs["ensembl"] != ""].drop_duplicates(["ensembl", "mouse"])
    single = ~pairs["ensembl"].duplicated(keep=False) & ~pairs["mouse"].duplicated(keep=False)
    mouse = pd.read_csv(data_file("genes_mouse_ensembl"), usecols=["gene_id", "gene_name"]).dropna()
    mouse = mouse[~mouse["gene_name"].duplicated(keep=False)]
    mouse_id = {n: strip_version(g) for n, g in zip(mouse["gene_name"], mouse["gene_id"], strict=True)}
    return {row.ensembl: (row.mouse, mouse_id.get(row.mouse, "")) for row in pairs[single].itertuples(index=False)}


def _group(biotype: str) -> str:
    if biotype.startswith(("IG_", "TR_")) and "pseudogene" not in biotype:
        return "immune"
    return biotype


def build() -> pd.DataFrame:
    """The gene table, sorted by Ensembl id.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`; ``cells`` is the number of training cells that express the
        gene (0: known, but never seen in training).
    """
    import pandas as pd
    import scanpy as sc

    training = {name: read(name, training_cells=True) for name in TRAINING_SETS}
    human = {name: cells for name, cells in training.items() if cells.genes.organism != "mouse"}
    ids = identities([(c.genes.symbols, c.genes.ensembl) for c in human.values()])
    pairs = orthologs(ids)
    of_mouse: dict[str, str] = {}
    for ensembl, (mouse_symbol, mouse_ensembl) in pairs.items():
        of_mouse[mouse_symbol] = ensembl
        if mouse_ensembl:
            of_mouse[mouse_ensembl] = ensembl

    seen: Counter[str] = Counter()
    names: dict[str, set[str]] = defaultdict(set)
    retired_symbol: dict[str, str] = {}

    def identity(symbol: str, ensembl: str, mouse: bool) -> str:
        if mouse:
            return of_mouse.get(ensembl) or of_mouse.get(symbol, "")
        gene = ids.resolve(symbol, ensembl)
        if gene:
            names[gene].update(n for n in (symbol, ensembl) if n)
        elif ensembl.startswith("ENSG"):
            gene = ensembl
            retired_symbol[gene] = "" if symbol.startswith("ENSG") else symbol
        return gene

    for cells in training.values():
        mouse = cells.genes.organism == "mouse"
        expressing = np.asarray((cells.counts > 0).sum(axis=0)).ravel()
        columns = zip(cells.genes.names, cells.genes.symbols, cells.genes.ensembl, expressing, strict=True)
        for name, symbol, ensembl, n in columns:
            gene = identity(str(symbol), str(ensembl), mouse)
            if gene:
                seen[gene] += int(n)
                if not mouse:
                    # Names made unique (TMBIM4-1) live on in processed files.
                    names[gene].add(str(name))

    wanted = set()
    for name in PANELS:
        genes = read(name).genes
        for symbol, ensembl in zip(genes.symbols, genes.ensembl, strict=True):
            wanted.add(identity(str(symbol), str(ensembl), genes.organism == "mouse"))
    kept = [str(g) for g in sc.datasets.pbmc68k_reduced().var_names]
    hg19 = human["pbmc3k_raw"].genes
    in_hg19 = {n: (s, e) for n, s, e in zip(hg19.names, hg19.symbols, hg19.ensembl, strict=True)}
    shipped = [in_hg19.get(name, (name, "")) for name in kept]
    always = {identity(str(symbol), str(ensembl), mouse=False) for symbol, ensembl in shipped}
    wanted.discard("")
    always.discard("")

    rows: list[dict[str, Any]] = []
    for gene in sorted(set(seen) | wanted | always):
        known = gene in ids.current.index
        biotype = str(ids.current.at[gene, "biotype"]) if known else "retired"
        group = _group(biotype)
        enough = seen[gene] >= MIN_CELLS.get(group, 10**9)
        if not (enough or gene in always or (gene in wanted and group in ("protein_coding", "immune"))):
            continue
        symbol = str(ids.current.at[gene, "symbol"]) if known else retired_symbol.get(gene, "")
        mouse_symbol, mouse_ensembl = pairs.get(gene, ("", ""))
        rows.append(
            {
                "symbol": "" if symbol.startswith("ENSG") else symbol,
                "ensembl": gene,
                "mouse_symbol": mouse_symbol,
                "mouse_ensembl": mouse_ensembl,
                "aliases": sorted(names[gene] | {s for s, g in ids.former.items() if g == gene}),
                "cells": seen[gene],
                "biotype": biotype,
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    # A symbol names one row only; the doubled ones (rare: genes with two ids) stay with the gene seen most.
    order = table.sort_values("cells", ascending=False, kind="stable")
    table.loc[order.index[order["symbol"].duplicated() & (order["symbol"] != "")], "symbol"] = ""
    table["aliases"] = _unambiguous(table)
    return table


def _unambiguous(table: pd.DataFrame) -> list[str]:
    """Aliases that are no current name of any gene and the alias of one gene only, joined by ``|``."""
    names = set(table["symbol"]) | set(table["ensembl"]) | {""}
    owners = Counter(alias for aliases in table["aliases"] for alias in set(aliases))
    return ["|".join(a for a in aliases if a not in names and owners[a] == 1) for aliases in table["aliases"]]


def to_bytes(table: pd.DataFrame) -> bytes:
    """The table as gzipped CSV; the same table gives the same bytes."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(text)
    return buffer.getvalue()


def main() -> None:
    """Write ``vocabulary.csv.gz`` and say what it covers."""
    from pathlib import Path

    import click

    @click.command(help="Build the gene table of the shipped models.")
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder that gets vocabulary.csv.gz.")
    def command(out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        table = build()
        (out / "vocabulary.csv.gz").write_bytes(to_bytes(table))
        click.echo(f"{len(table):,} genes, {(table['cells'] == 0).sum():,} of them never seen in training")

    command()


if __name__ == "__main__":
    main()
