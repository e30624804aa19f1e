"""How fast a model embeds the bundled cells, loading told apart.

python benchmarks/embed_speed.py --model starter --repeats 5
"""

from __future__ import annotations

import json
import statistics
import time

import click


@click.command(help=__doc__)
@click.option("--model", "name", default="starter", show_default=True, help="A source for sl.load_model.")
@click.option("--dataset", default="pbmc68k", show_default=True, help="A name for sl.datasets.load.")
@click.option("--cells", default=0, help="Only that many cells; 0: all.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(name: str, dataset: str, cells: int, repeats: int, as_json: bool) -> None:
    """Print the seconds of each run, and cells per second."""
    import scfm_lab as sl

    started = time.perf_counter()
    model = sl.load_model(name)
    load = time.perf_counter() - started
    adata = sl.datasets.load(dataset)
    adata = adata[:cells].copy() if cells else adata
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        sl.embed(adata, model, progress=False, copy=True, cache=False)
        seconds.append(time.perf_counter() - started)
    first, *rest = seconds
    figures = {
        "model": name,
        "cells": adata.n_obs,
        "machine": sl.Hardware.detect().describe(),
        "load_s": round(load, 3),
        "first_s": round(first, 3),
        "median_s": round(statistics.median(rest), 3),
        "range_s": [round(min(rest), 3), round(max(rest), 3)],
        "cells_per_s": round(adata.n_obs / statistics.median(rest), 1),
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        click.echo(f"{key:12} {value}")


if __name__ == "__main__":
    main()
