"""Screens: genes × cells a second through the complete path, and of those the cells that a gene changes.

A gene changes only the cells that express it; the others are told at once, with an effect of exactly 0. The second rate is
that of cells that really go through the model, beside plain embedding of as many cells on the same machine.

python benchmarks/sweep_speed.py --model starter --genes 50 --cells 100
"""

from __future__ import annotations

import json
import time

import click
import numpy as np


@click.command(help=__doc__)
@click.option("--model", "name", default="starter", show_default=True)
@click.option("--dataset", default="pbmc68k", show_default=True)
@click.option("--genes", default=50, show_default=True)
@click.option("--cells", default=100, show_default=True)
@click.option("--dose", default=0.0, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(name: str, dataset: str, genes: int, cells: int, dose: float, device: str) -> None:
    """Print the rates."""
    import scfm_lab as sl
    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.sweep import Question, effects

    adata = sl.datasets.load(dataset)
    adata = adata[np.linspace(0, adata.n_obs - 1, min(cells, adata.n_obs)).astype(int)].copy()
    lab = Baseline(adata, sl.load_model(name, device=device))
    seen = np.bincount(lab.cells.counts.indices, minlength=adata.n_vars)
    usable = np.flatnonzero(lab.known & (seen > 0))
    asked = usable[np.linspace(0, len(usable) - 1, min(genes, len(usable))).astype(int)]
    questions = [Question({int(g): dose}) for g in asked]
    effects(lab, questions[:2])
    wall, cpu = time.perf_counter(), time.process_time()
    found = effects(lab, questions)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    pairs = sum(len(e.rows) for e in found)
    wall_plain, cpu_plain = time.perf_counter(), time.process_time()
    some = lab.cells.take(np.arange(pairs) % len(lab.cells)) if pairs <= 20_000 else lab.cells
    lab.encode(some)
    wall_plain, cpu_plain = time.perf_counter() - wall_plain, time.process_time() - cpu_plain
    told = {
        "model": name,
        "device": lab.model.device,
        "genes": len(asked),
        "cells": len(lab.cells),
        "dose": dose,
        "gene_x_cell_per_s": round(len(asked) * len(lab.cells) / wall, 1),
        "gene_x_cell_per_cpu_s": round(len(asked) * len(lab.cells) / cpu, 1),
        "changed_cells": pairs,
        "changed_cells_per_s": round(pairs / wall, 1),
        "changed_cells_per_cpu_s": round(pairs / cpu, 1),
        "plain_embedding_cells_per_s": round(len(some) / wall_plain, 1),
        "plain_embedding_cells_per_cpu_s": round(len(some) / cpu_plain, 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
