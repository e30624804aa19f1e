"""Geneformer's in-silico deletion: genes × cells, each precision against float32, and the work against bare layers.

Weights are drawn, in a file of the published size; cells are real (`pbmc3k_raw`). A pair is a gene in a cell that
expresses it; the others have nothing to delete. The limit is one pass of bare layers over each perturbed cell.

SCFM_DATA=... python benchmarks/in_silico.py --model geneformer-v1-10m --precision float32 --precision auto
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from published_sizes import SIZES, write
from speed import bare, clock


@click.command(help=__doc__)
@click.option(
    "--model",
    "name",
    default="geneformer-v1-10m",
    show_default=True,
    type=click.Choice([n for n in SIZES if n.startswith("geneformer")]),
)
@click.option("--genes", default=200, show_default=True)
@click.option("--cells", default=50, show_default=True)
@click.option("--precision", "precisions", multiple=True, default=["float32", "auto"], show_default=True)
def main(name: str, genes: int, cells: int, precisions: tuple[str, ...]) -> None:
    """Print a row for each precision."""
    import torch
    from scipy.stats import spearmanr

    import scfm_lab as sl

    adata = sl.datasets.load("pbmc3k_raw")
    adata = adata[np.linspace(0, adata.n_obs - 1, cells).astype(int)].copy()
    exact: Any = None
    with tempfile.TemporaryDirectory() as folder:
        path, config = write(name, Path(folder) / "checkpoint", adata)
        for precision in precisions:
            model: Any = sl.load_model(path, device="cpu", precision=precision, config=config or None)
            tokens = model.tokenize(adata)
            known = np.unique(tokens.ids[tokens.ids > 4])
            wanted = np.random.default_rng(0).choice(known, min(genes, len(known)), replace=False)
            model.encode(tokens.take(np.arange(2)))
            result: list[Any] = []

            def ours(
                model: Any = model, tokens: Any = tokens, wanted: Any = wanted, result: list[Any] = result
            ) -> None:
                result[:] = [model.perturb_each(tokens, "delete", genes=wanted.tolist())]

            wall, cpu = clock(ours)
            found = result[0]
            lengths = tokens.lengths[found.cells].tolist()
            with torch.inference_mode():
                limit, _ = clock(bare(SIZES[name], [(1, n) for n in lengths], torch.float32, explicit=False))
            effect = 1 - found.cosine
            exact = effect if precision == "float32" else exact
            told = {
                "model": name,
                "asked": precision,
                "precision": found.precision,
                **found.precision_found,
                "cells": cells,
                "genes": len(wanted),
                "pairs": len(lengths),
                "seconds": round(wall, 2),
                "pairs_per_s": round(len(lengths) / wall, 2),
                "cpu_s_per_pair": round(cpu / len(lengths), 4),
                "of_float32_limit": round(limit / wall, 3),
            }
            if exact is not None:
                by_gene = [[e[found.genes == g].mean() for g in np.unique(found.genes)] for e in (exact, effect)]
                told["effect_median"] = float(np.median(exact))
                told["effect_error_median"] = float(np.median(np.abs(effect - exact)))
                told["spearman_pairs"] = round(float(spearmanr(exact, effect).statistic), 5)
                told["spearman_genes"] = round(float(spearmanr(*by_gene).statistic), 5)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
