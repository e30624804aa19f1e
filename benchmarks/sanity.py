"""The two published sanity checks of imputation on human brain cells: signs of covariance, and the exclusive-or of two markers.

Both hide genes from the model and predict them. Parameter-free methods, sequencing depth and random gene sets stand beside it.

SCFM_DATA=... python benchmarks/sanity.py --model starter
"""

from __future__ import annotations

import json

import click

#: Respiration is encoded in the nucleus here: the cells have no mitochondrial genes.
SETS = {
    "synapse": [
        "SNAP25",
        "SYT1",
        "STMN2",
        "SYN1",
        "SNCB",
        "GABRB2",
        "NRXN1",
        "RAB3A",
        "VSNL1",
        "SYP",
        "STXBP1",
        "CPLX1",
    ],
    "respiration": [
        "NDUFA4",
        "NDUFB9",
        "NDUFS5",
        "COX4I1",
        "COX5B",
        "COX6C",
        "COX7C",
        "UQCRB",
        "UQCRH",
        "ATP5PF",
        "ATP5J",
        "SDHB",
    ],
    "astrocytes": ["AQP4", "SLC1A2", "SLC1A3", "GJA1", "ALDOC", "SOX9", "CLU", "NDRG2", "GLUL", "AGT"],
}
PAIRS = (("synapse", "respiration"), ("synapse", "astrocytes"))
PARTS = ("xor", *(second for _, second in PAIRS))


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, default=["starter"], show_default=True)
@click.option("--dataset", default="human_brain_darmanis", show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, show_default=True)
@click.option("--random", "n_random", default=20, show_default=True, help="Pairs of random gene sets.")
@click.option("--boot", "n_boot", default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    models: tuple[str, ...], dataset: str, parts: tuple[str, ...], n_random: int, n_boot: int, as_json: bool
) -> None:
    """Print the scores of both checks."""
    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    made = {"models": list(models), "sample_key": "donor", "n_boot": n_boot, "progress": False}
    results = [sl.evaluate.xor(adata, **made)] if "xor" in parts else []
    pairs = [pair for pair in PAIRS if pair[1] in parts]
    results += [
        sl.evaluate.covariance_sign(adata, sets={name: SETS[name] for name in pair}, n_random=n_random, **made)
        for pair in pairs
    ]
    if as_json:
        print(json.dumps([result.to_json() for result in results]))
        return
    for result in results:
        print(result.title)
        print(
            result.table[
                ["metric", "model", "value", "low", "high", "floor", "gain_low", "gain_high", "ceiling", "verdict"]
            ]
            .round(3)
            .to_string()
        )
        correlations = getattr(result, "correlations", None)
        if correlations is not None:
            print(correlations.round(3).to_string())
        print("\n".join(result.notes), "\n")


if __name__ == "__main__":
    main()
