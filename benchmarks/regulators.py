"""Edges read off a model in three ways against DoRothEA (A to C): early precision over the degree null, with its interval.

SCFM_DATA=... python benchmarks/regulators.py --model starter
"""

from __future__ import annotations

import json

import click


@click.command(help=__doc__)
@click.option("--model", default="starter", show_default=True)
@click.option("--dataset", default="kang_ifnb_pbmc", show_default=True)
@click.option("--genes", default=250, show_default=True, help="Most variable genes, beside all transcription factors.")
@click.option("--cells", default=150, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(model: str, dataset: str, genes: int, cells: int, as_json: bool) -> None:
    """Print the scores of every method, and of every layer and head."""
    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    factors = sl.datasets.load("dorothea_human")
    known = factors[factors["confidence"].isin(["A", "B", "C"])]["tf"].unique().tolist()
    named = [gene for gene in known if gene in set(adata.var_names)]
    found = sl.regulators(adata, model, regulators=named, n_genes=genes, max_cells=cells, progress=False)
    scores = sl.evaluate.regulators(found, n_boot=300)
    if as_json:
        print(json.dumps(scores.to_json()))
        return
    print(found.summary(), f"\n({found.provenance['seconds']:.0f} s)\n")
    print(
        scores.table[["metric", "model", "value", "low", "high", "floor", "gain_low", "gain_high", "verdict", "remark"]]
        .round(3)
        .to_string()
    )
    print("\n".join(scores.notes))
    if scores.heads is not None:
        print(scores.heads.round(3).to_string())


if __name__ == "__main__":
    main()
