"""Directions of interferon beta in one cell type applied in another, across donors: each model between chance and replicates.

There is one treatment in this set: the mean-treatment floor and doses are not measured here, by lack of data.

SCFM_DATA=... python benchmarks/drug_transfer.py --model starter --model pca --model sctop
"""

from __future__ import annotations

import json

import click

#: Derived labels; the others have too few cells of every donor.
TYPES = ("B", "CD4 T", "CD8 T", "Monocyte", "NK")


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, default=["starter", "pca", "sctop"], show_default=True)
@click.option("--dataset", default="kang_ifnb_pbmc", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(models: tuple[str, ...], dataset: str, as_json: bool) -> None:
    """Print the mean over pairs of cell types, and the matrix of cosines of each model."""
    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    adata = adata[adata.obs["cell_type_derived"].isin(TYPES)].copy()
    results = {}
    for model in models:
        made = sl.drug_signature(
            adata,
            model,
            treatment_key="condition",
            control="control",
            groupby="cell_type_derived",
            sample_key="donor",
            progress=False,
        )
        results[model] = (made, sl.transfer_signature(made))
    if as_json:
        print(json.dumps({m: [made.to_json(), moved.to_json()] for m, (made, moved) in results.items()}))
        return
    for model, (made, moved) in results.items():
        print(model, "\n" + made.summary())
        print("\n".join(moved.summary().splitlines()[:2]))
        print(moved.table.pivot(index="source", columns="target", values="cosine").round(2).to_string())
        print(
            moved.table.groupby("target")[["cosine", "random", "random_high", "ceiling", "relative_error", "p_value"]]
            .mean()
            .round(3)
            .to_string(),
            "\n",
        )


if __name__ == "__main__":
    main()
