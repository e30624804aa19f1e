"""In-silico knockouts against knockouts whose outcome is known: a simulated regulatory network (scanpy's simulator).

The network of Krumsiek et al. 2011 is simulated whole and with each gene in turn taken away. The parameter-free model is fitted
to counts drawn from the whole network, and asked what a knockout does. Told are the rank correlation between the sizes of the
model's change and of what truly changes in other genes, and the mean cosine between their directions with the knocked-out gene left
out. The floor is the gene's own mean expression: the more a gene is expressed, the more there is to lose. The size of the change that two simulations of the whole network differ by is told beside them.

python benchmarks/simulated_network.py --cells 600
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np

GENES = ("Gata2", "Gata1", "Fog1", "EKLF", "Fli1", "SCL", "Cebpa", "Pu.1", "cJun", "EgrNab", "Gfi1")
STARTS_ON = ("Gata2", "Pu.1", "Cebpa")
STEPS, WALKS = 800, 8
"""Of one realisation, and realisations: each ends in one of the network's fates."""


@click.command(help=__doc__)
@click.option("--cells", default=600, show_default=True)
@click.option("--depth", default=20.0, show_default=True, help="Counts of a gene that is fully on.")
@click.option("--seed", default=0, show_default=True)
def main(cells: int, depth: float, seed: int) -> None:
    """Print the agreement."""
    from scipy.stats import spearmanr

    import scfm_lab as sl
    from scfm_lab.tasks.perturb import Perturber

    whole = _simulated(None, cells, depth, seed)
    model = sl.load_model("pca").fit(whole, n_components=5)
    lab = Perturber(whole, model)
    log = _log(whole)
    again = _log(_simulated(None, cells, depth, seed + 1)).mean(axis=0) - log.mean(axis=0)
    told = []
    for gene in GENES:
        true = _log(_simulated(gene, cells, depth, seed + 1)).mean(axis=0) - log.mean(axis=0)
        run = lab.run({gene: 0.0})
        # Back from the components to the genes: what the model's movement says of each.
        said = (run.perturbed - run.baseline).mean(axis=0) @ model.gene_embeddings().loc[
            list(whole.var_names)
        ].to_numpy().T
        others = whole.var_names != gene
        norm = np.linalg.norm(true[others]) * np.linalg.norm(said[others])
        told.append(
            {
                "gene": gene,
                "true_size": float(np.linalg.norm(true[others])),
                "mean_expression": float(log.mean(axis=0)[~others][0]),
                "shift": float(run.table["effect"][0]),
                "cosine_of_the_others": float(true[others] @ said[others] / norm) if norm > 1e-12 else float("nan"),
            }
        )
    sizes = np.array([[t["true_size"], t["shift"], t["mean_expression"]] for t in told])
    rank, floor = spearmanr(sizes[:, 0], sizes[:, 1]), spearmanr(sizes[:, 0], sizes[:, 2])
    print(
        json.dumps(
            {
                "cells": cells,
                "size_between_two_of_the_whole": round(float(np.linalg.norm(again)), 3),
                "spearman_of_sizes": round(float(rank.statistic), 3),
                "spearman_of_expression_alone": round(float(floor.statistic), 3),
                "p": round(float(rank.pvalue), 3),
                "mean_cosine_of_the_others": round(float(np.nanmean([t["cosine_of_the_others"] for t in told])), 3),
                "genes": [{k: v if isinstance(v, str) else round(v, 3) for k, v in t.items()} for t in told],
            }
        )
    )


def _simulated(knocked_out: str | None, cells: int, depth: float, seed: int) -> object:
    """Counts drawn from a simulation, with one gene's rule taken away and the gene absent from the beginning."""
    import anndata
    import pandas as pd
    from scanpy import sim_models
    from scanpy.tools import _sim

    lines = (Path(sim_models.__file__).parent / "krumsiek11.txt").read_text(encoding="utf-8").splitlines()
    if knocked_out is not None:
        # A rule that is never true, of the same genes as its couplings name: the gene decays and is not made.
        own, rule = next((i, s.split(" = ")[1]) for i, s in enumerate(lines) if s.startswith(f"{knocked_out} = "))
        lines[own] = f"{knocked_out} = ({rule}) and not ({rule})"
    with tempfile.TemporaryDirectory() as folder:
        # scanpy.tl.sim looks a model up by its name among its own; the simulator behind it takes a path.
        Path(folder, "krumsiek11.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        network = _sim.GRNsim(dim=11, model=str(Path(folder, "krumsiek11")), params={"seed": seed})
    names = list(network.varNames)
    start = np.array([0.8 if name in STARTS_ON and name != knocked_out else 0.0 for name in names])
    levels = np.concatenate([network.sim_model(STEPS, X0=start, noiseDyn=0.001)[::5] for _ in range(WALKS)])
    if knocked_out is not None:
        levels[:, names.index(knocked_out)] = 0
    rng = np.random.default_rng(seed)
    x = np.clip(levels[rng.choice(len(levels), cells, replace=cells > len(levels))], 0, None)
    # A steady rest, so that a cell's library says nothing about the network.
    counts = rng.poisson(np.column_stack([x * depth, np.full(cells, 500.0)])).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(cells)])
    names = [*names, "REST"]
    return anndata.AnnData(counts, obs, pd.DataFrame({"gene_symbol": names}, index=names))


def _log(adata: object) -> np.ndarray:
    x = np.asarray(adata.X)  # type: ignore[attr-defined]
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)


if __name__ == "__main__":
    main()
