"""How much memory 100,000 cells take that stream from a file through a model, and whether speed holds.

The cells are real ones, each thinned binomially by a share of its own until there are as many as asked for, so that no two
are equal; the cache is off. Memory is the peak above the process with its model open. Each size runs in a fresh process.

python benchmarks/stream_memory.py
python benchmarks/stream_memory.py --cells 2000 --cells 10000 --model pca
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from plan_memory import GIB, peak

_STEP = 5_000


@click.command(help=__doc__)
@click.option("--cells", "sizes", multiple=True, type=int, default=(10_000, 100_000), show_default=True)
@click.option("--model", "name", default="starter", show_default=True)
@click.option("--dataset", default="pbmc3k_raw", show_default=True, help="Real cells, a name for sl.datasets.load.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where the file is written (some GB); default: a temporary one."
)
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", hidden=True, help="Internal: what a fresh process does.")
def main(
    sizes: tuple[int, ...], name: str, dataset: str, folder: Path | None, as_json: bool, child: str | None
) -> None:
    """Print the peak and the speed of each size."""
    if child:
        click.echo(json.dumps(work(**json.loads(child))))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "cells.h5ad"
        write(path, dataset, max(sizes))
        for size in sorted(sizes):
            asked = {"path": str(path), "name": name, "cells": size, "home": scratch}
            command = [sys.executable, __file__, "--child", json.dumps(asked)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise click.ClickException(done.stderr.strip().splitlines()[-1])
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            if not as_json:
                click.echo(
                    f"{row['cells']:>9,} cells   {row['seconds']:8.1f} s   {row['cells_per_s']:8.1f} cells/s   "
                    f"peak above the model {row['peak_gib']:.2f} GiB"
                )
    ratio = rows[-1]["cells_per_s"] / rows[0]["cells_per_s"]
    if as_json:
        click.echo(json.dumps({"rows": rows, "speed_ratio": ratio}))
    else:
        click.echo(f"speed of the largest by that of the smallest: {ratio:.3f}")


def write(path: Path, dataset: str, n: int) -> None:
    """Write `n` different cells, some thousands at a time."""
    import anndata as ad
    import h5py
    import pandas as pd
    from anndata.io import write_elem
    from scipy import sparse

    import scfm_lab as sl

    source = sl.datasets.load(dataset)
    counts = sparse.csr_matrix(source.X)
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        empty = ad.AnnData(
            X=sparse.csr_matrix((0, source.n_vars), dtype=np.float32),
            obs=pd.DataFrame(index=pd.Index([], dtype=str)),
            var=source.var[[c for c in source.var.columns if source.var[c].dtype.kind in "OSU"]],
        )
        write_elem(file, "/", empty)
        write_elem(file, "obs", pd.DataFrame(index=[f"cell {i}" for i in range(n)]))
        matrix = None
        for start in range(0, n, _STEP):
            rows = np.arange(start, min(start + _STEP, n)) % source.n_obs
            block = counts[rows].astype(np.float32)
            kept = np.repeat(random.uniform(0.6, 0.95, len(rows)), np.diff(block.indptr))
            block.data = random.binomial(block.data.astype(np.int64), kept).astype(np.float32)
            block.eliminate_zeros()
            if matrix is None:
                del file["X"]
                write_elem(file, "X", block)
                matrix = ad.io.sparse_dataset(file["X"])
            else:
                matrix.append(block)


def work(path: str, name: str, cells: int, home: str) -> dict[str, Any]:
    """Stream the first cells of the file."""
    import os

    os.environ["SCFM_HOME"] = home
    import scfm_lab as sl
    from scfm_lab.cells.stored import open_stored

    model = sl.load_model(name, precision="float32")
    # First calls allocate and choose kernels: part of what a process with an open model takes.
    model.encode(model.tokenize(sl.datasets.load("pbmc68k")[:20].copy()))
    stored = open_stored(path)
    some = stored.take(np.arange(cells), None) if cells < stored.n_obs else stored
    before = peak(reset=True)
    started = time.perf_counter()
    from scfm_lab.tasks.embed_run import Asked, run

    done = run(Asked(some, model, cache=False))
    vectors = done.collected.finish()
    seconds = time.perf_counter() - started
    done.finished()
    return {
        "cells": len(vectors),
        "seconds": seconds,
        "cells_per_s": len(vectors) / seconds,
        "peak_gib": (peak() - before) / GIB,
        "chunk_cells": done.sizes.chunk_cells,
        "batch_tokens": done.sizes.batch_tokens,
        "machine": sl.Hardware.detect().describe(),
    }


if __name__ == "__main__":
    main()
