"""How well a plan's memory estimate holds: beside the peak that is then measured, in fresh processes.

Measured is the growth of the process above what it holds with PyTorch and AnnData imported and the cells read, from before
the model is opened until all cells are embedded. At published sizes the estimate shall lie between that and twice that; of small
checkpoints what every run takes is most of it, and the estimate is larger than that. A model that fails has a row that says why,
and stops no other; the exit code is 1 if one failed, or a published size is outside of 1 to 2.

python benchmarks/plan_memory.py
python benchmarks/plan_memory.py --golden ../shared/golden --only scbert
python benchmarks/plan_memory.py --golden ../shared/golden --published all --cells 64
python benchmarks/plan_memory.py --published all --only scgpt --cells 1000 --device cuda --precision auto

On a GPU, measured is what PyTorch's tensors took of its memory at most.
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
@click.option("--published", multiple=True, help="A size of published_sizes.py, with drawn weights; all of them: all.")
@click.option("--only", multiple=True, help="Only models whose label begins so.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--precision", default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", hidden=True, help="Internal: what a fresh process does.")
def main(
    golden: Path,
    models: tuple[str, ...],
    dataset: str,
    cells: int,
    published: tuple[str, ...],
    only: tuple[str, ...],
    device: str,
    precision: str,
    as_json: bool,
    child: str | None,
) -> None:
    """Print a row for each model."""
    if child:
        click.echo(json.dumps(work(**json.loads(child))))
        return
    jobs = [{"label": name, "source": name, "config": {}} for name in ("pca", "sctop", "starter", *models)]
    jobs += golden_models(golden)
    if "all" in published:
        import published_sizes

        published = tuple(published_sizes.SIZES)
    # Gigabytes each: one at a time is on disk.
    jobs += [{"label": f"{name}, as published", "size": name} for name in published]
    asked = {"dataset": dataset, "cells": cells, "device": device, "precision": precision}
    rows = [row_of(job, asked) for job in jobs if not only or job["label"].startswith(only)]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        click.echo(table(rows))
    wrong = [row for row in rows if "failed" in row or (row["published"] and not 1 <= row["ratio"] <= 2)]
    if wrong or not rows:
        raise SystemExit(1)


def row_of(job: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What was planned and what was measured of one model, or why it was not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if "size" in job:
                import published_sizes

                import scfm_lab as sl

                written = published_sizes.write(
                    job["size"], Path(folder) / job["size"], sl.datasets.load(asked["dataset"])
                )
                job = {**job, "source": str(written[0]), "config": written[1]}
            asked = {**asked, "source": job["source"], "config": job["config"]}
            planned, measured = (fresh({**asked, "plan": plan}) for plan in (True, False))
        except Exception as error:  # noqa: BLE001 - one that fails is a row
            return {"model": job["label"], "failed": f"{type(error).__name__}: {error}"}
    return {
        "model": job["label"],
        "published": "size" in job,
        **planned,
        **measured,
        "ratio": planned["planned_gib"] / measured["measured_gib"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, aligned."""
    lines = [
        f"{'model':34} {'planned':>8} {'measured':>9} {'ratio':>6} {'1 to 2':>7} {'tokens/batch':>13} {'cells/chunk':>12}"
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['model']:34} {row['failed']}")
            continue
        lines.append(
            f"{row['model']:34} {row['planned_gib']:7.3f}G {row['measured_gib']:8.3f}G {row['ratio']:6.2f} "
            f"{'yes' if 1 <= row['ratio'] <= 2 else 'NO':>7} {row['batch_tokens']:13,} {row['chunk_cells']:12,}"
        )
    return "\n".join(lines)


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
            click.echo(f"{golden / place} is not there; {label} is not measured.", err=True)
            continue
        found.append({"label": f"{label}, small", "source": str(golden / place), "config": config})
    return found


def fresh(asked: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{asked['source']}: {(done.stderr.strip().splitlines() or ['it was killed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(
    source: str, config: dict[str, Any], dataset: str, cells: int, plan: bool, device: str, precision: str
) -> dict[str, Any]:
    """Plan, or embed and measure."""
    import anndata  # noqa: F401
    import torch

    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    adata = adata[: cells or None].copy()
    if plan:
        found = sl.plan(adata, sl.load_model(source, device=device, precision=precision, config=config))
        return {"planned_gib": found.peak_gib, "batch_tokens": found.batch_tokens, "chunk_cells": found.chunk_cells}
    if device == "cuda":
        model = sl.load_model(source, device=device, precision=precision, config=config)
        opened = torch.cuda.max_memory_allocated()
        sl.embed(adata, model, cache=False, progress=False)
        return {"measured_gib": torch.cuda.max_memory_allocated() / GIB, "opened_gib": opened / GIB}
    before = peak(reset=True)
    model = sl.load_model(source, device=device, precision=precision, config=config)
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
