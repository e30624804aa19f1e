"""How far response curves are from exact inference at doses that they did not see, in null standard deviations.

The null standard deviation of a gene at a dose is the one that ``sl.perturb`` tells beside its effect on these cells: what comparable
genes at that very dose do, their expression accounted for.

python benchmarks/surrogate_error.py --model pca --genes 50 --cells 50
"""

from __future__ import annotations

import json

import click
import numpy as np

LEFT_OUT = (0.1, 0.375, 0.75, 1.25, 1.75)


@click.command(help=__doc__)
@click.option("--model", "name", default="pca", show_default=True)
@click.option("--dataset", default="pbmc68k", show_default=True)
@click.option("--genes", default=50, show_default=True)
@click.option("--cells", default=50, show_default=True)
@click.option("--draws", default=4, show_default=True)
@click.option("--null-genes", "n_null", default=30, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(name: str, dataset: str, genes: int, cells: int, draws: int, n_null: int, seed: int) -> None:
    """Print the error by dose."""
    import scfm_lab as sl
    from scfm_lab.evaluation.nulls import MIN_NULL_GENES, comparable_genes, features
    from scfm_lab.tasks.perturb import Perturber

    adata = sl.datasets.load(dataset)
    lab = Perturber(adata, name, seed=seed)
    rng = np.random.default_rng(seed)
    panel = np.sort(rng.choice(len(lab.cells), cells, replace=False))
    f = features(lab.cells.counts[panel], lab.cells.total[panel])
    names = []
    for g in rng.permutation(np.flatnonzero(lab.known & (f.detection * cells >= 10))).tolist():
        found = comparable_genes(f, g, candidates=lab.known & (np.arange(len(lab.known)) != g), n=n_null)
        if len(found) >= MIN_NULL_GENES:
            names.append(str(lab.cells.genes.names[g]))
        if len(names) == genes:
            break
    how = {"n_draws": draws, "check_doses": LEFT_OUT, "n_null": n_null, "progress": False}
    curves = sl.response_curves(adata, lab, names, cells=panel, **how)
    error = curves.error.dropna(subset="in_null_sd")
    by_dose = error.groupby("dose")["in_null_sd"].agg(["mean", "max"])
    told = {
        "model": name,
        "dataset": dataset,
        "genes": error["gene"].nunique(),
        "cells": cells,
        "draws": draws,
        "mean_error_in_null_sd": round(float(error["in_null_sd"].mean()), 4),
        "95%": round(float(error["in_null_sd"].quantile(0.95)), 4),
        "largest": round(float(error["in_null_sd"].max()), 4),
        "by_dose": {
            f"{d:g}": [round(float(v), 4) for v in row]
            for d, row in zip(by_dose.index, by_dose.to_numpy(), strict=True)
        },
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
