"""How many cells a second become tokens: from an AnnData in memory, and from cells that were read already.

Checkpoints of published size with drawn weights, real cells (`pbmc3k_raw`, 2,700 of them).

SCFM_DATA=... python benchmarks/tokenising.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from published_sizes import SIZES, write

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median of some runs, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


@click.command(help=__doc__)
@click.option(
    "--model",
    "names",
    multiple=True,
    type=click.Choice(list(SIZES)),
    default=("scgpt", "geneformer-v1-10m", "geneformer-v2-104m"),
    show_default=True,
)
@click.option("--repeats", default=9, show_default=True)
def main(names: tuple[str, ...], repeats: int) -> None:
    """Print a row for each model."""
    import scfm_lab as sl

    adata = sl.datasets.load("pbmc3k_raw")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path, config = write(name, Path(folder) / "checkpoint", adata)
            model = sl.load_model(path, device="cpu", config=config or None)
            cells = model.read_cells(adata)
            whole = seconds(lambda model=model: model.tokenize(adata), repeats)  # type: ignore[misc]
            alone = seconds(lambda model=model, cells=cells: model.tokenize(cells), repeats)  # type: ignore[misc]
            row = {
                "model": name,
                "cells": adata.n_obs,
                "cells_per_s": round(adata.n_obs / whole),
                "cells_per_s_once_read": round(adata.n_obs / alone),
                "machine": sl.Hardware.detect().describe(),
            }
            click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
