"""How well a plan's memory estimate holds: beside the peak that is then measured, in fresh processes.

Measured is the growth of the process above what it holds with PyTorch and AnnData imported and the cells read, from before
the model is opened until all cells are embedded. The estimate shall lie between that and twice that.

python benchmarks/plan_memory.py
python benchmarks/plan_memory.py --golden ../shared/golden --published scgpt --published geneformer-v1-10m
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

GIB = 2**30


@click.command(help=__doc__)
@click.option(
    "--golden", type=click.Path(path_type=Path), default=Path(__file__).resolve().parents[2] / "shared" / "golden"
)
@click.option("--model", "models", multiple=True, help="Further checkpoints.")
@click.option("--dataset", default="pbmc3k_raw", show_default=True, help="Cells, a name for sl.datasets.load.")
@click.option("--cells", default=400, show_default=True)
@click.option("--published", multiple=True, help="A size of published_sizes.py, with drawn weights.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", hidden=True, help="Internal: what a fresh process does.")
def main(
    golden: Path,
    models: tuple[str, ...],
    dataset: str,
    cells: int,
    published: tuple[str, ...],
    as_json: bool,
    child: str | None,
) -> None:
    """Print a row for each model."""
    if child:
        click.echo(json.dumps(work(**json.loads(child))))
        return
    jobs = [{"label": name, "source": name, "config": {}} for name in ("pca", "sctop", "starter", *models)]
    jobs += golden_models(golden)
    with tempfile.TemporaryDirectory() as folder:
        for name in published:
            import published_sizes

            import scfm_lab as sl

            source, config = published_sizes.write(name, Path(folder) / name, sl.datasets.load(dataset))
            jobs.append({"label": f"{name}, as published", "source": str(source), "config": config})
        rows = []
        for job in jobs:
            asked = {"source": job["source"], "config": job["config"], "dataset": dataset, "cells": cells}
            planned, measured = (fresh({**asked, "plan": plan}) for plan in (True, False))
            row = {"model": job["label"], **planned, **measured}
            row["ratio"] = row["planned_gib"] / row["measured_gib"]
            rows.append(row)
            if not as_json:
                click.echo(
                    f"{row['model']:28} planned {row['planned_gib']:6.3f} GiB   measured {row['measured_gib']:6.3f}   "
                    f"ratio {row['ratio']:.2f}   {row['batch_tokens']:,} tokens/batch   {row['chunk_cells']:,} cells/chunk"
                )
        if as_json:
            click.echo(json.dumps(rows))


def golden_models(golden: Path) -> list[dict[str, Any]]:
    """The small checkpoints of every family that lie beside the repository."""
    found = []
    places = {
        "scgpt": ("scgpt/checkpoint", {}),
        "geneformer v1": ("geneformer_v1/checkpoint", {}),
        "geneformer v2": ("geneformer_v2/checkpoint", {}),
        "uce": ("uce/model_files", {"nhead": 4}),
        "transcriptformer": ("transcriptformer/tf_sapiens", {}),
        "scfoundation": ("scfoundation/models", {}),
        "scbert": ("scbert/ckpts", {}),
    }
    for label, (place, config) in places.items():
        fixture = golden / Path(place).parts[0] / "fixture.json"
        if not fixture.exists():
            continue
        found.append({"label": f"{label}, small", "source": str(golden / place), "config": config})
    return found


def fresh(asked: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{asked['source']}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(source: str, config: dict[str, Any], dataset: str, cells: int, plan: bool) -> dict[str, Any]:
    """Plan, or embed and measure."""
    import anndata  # noqa: F401
    import torch  # noqa: F401

    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    adata = adata[: cells or None].copy()
    if plan:
        found = sl.plan(adata, sl.load_model(source, precision="float32", config=config))
        return {"planned_gib": found.peak_gib, "batch_tokens": found.batch_tokens, "chunk_cells": found.chunk_cells}
    before = peak(reset=True)
    model = sl.load_model(source, precision="float32", config=config)
    opened = peak() - before
    sl.embed(adata, model, cache=False, progress=False)
    return {"measured_gib": (peak() - before) / GIB, "opened_gib": opened / GIB}


def peak(*, reset: bool = False) -> int:
    """Largest resident size in bytes, since the last reset where the system can do that."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else size * 1024


if __name__ == "__main__":
    main()
