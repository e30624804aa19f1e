"""Importing a checkpoint of scGPT's size into the registry, certifying and opening the version: seconds beside reading its bytes.

python benchmarks/registry_import.py --repeats 5

"materialise" reads every file of the version into memory, hashes it and makes tensors of its own of the weights: what anybody
must do who wants to have exactly the bytes that were hashed. Wall seconds and processor seconds are both told, since other
programs change the first and not the second.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import published_sizes

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command(help=__doc__)
@click.option("--model", "name", default="scgpt", show_default=True, type=click.Choice(sorted(published_sizes.SIZES)))
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(name: str, repeats: int, as_json: bool) -> None:
    """Print the seconds of the import, of opening, and of materialising."""
    import scfm_lab as sl
    from scfm_registry import Registry

    with tempfile.TemporaryDirectory() as work:
        os.environ["SCFM_HOME"] = work
        checkpoint = Path(work) / "published"
        checkpoint.mkdir()
        adata = sl.datasets.load("pbmc68k")
        path, config = published_sizes.write(name, checkpoint, adata)
        folder = path if path.is_dir() else path.parent
        registry = Registry()
        wall, cpu = time.perf_counter(), _processor()
        done = registry.import_checkpoint(folder, "measured", config=config, certify=False)
        imported = {"wall_s": time.perf_counter() - wall, "processor_s": _processor() - cpu}
        wall, cpu = time.perf_counter(), _processor()
        done, missing = registry.certify_new(done)
        certified = {"wall_s": time.perf_counter() - wall, "processor_s": _processor() - cpu}
        if missing:
            raise click.ClickException(missing)
        kept = registry.resolve("measured").path
        pairs: dict[str, Callable[[], object]] = {
            "open": lambda: registry.load("measured", device="cpu", precision="float32"),
            "materialise": lambda: materialise(kept),
        }
        seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in pairs}
        for number in range(repeats + 1):
            for what, call in pairs.items():
                taken = timed(call)
                if number:  # the first one fills the page cache and imports modules
                    seconds[what].append(taken)
    figures: dict[str, Any] = {
        "machine": sl.Hardware.detect().describe(),
        "load_average": round(os.getloadavg()[0], 1),
        "checkpoint": f"{name}, {(done.size or 0) / 2**20:.0f} MiB as registered",
        "import": {key: round(value, 1) for key, value in imported.items()},
        "certificate": {key: round(value, 1) for key, value in certified.items()},
    }
    for what, runs in seconds.items():
        figures[what] = {
            "wall_s": round(statistics.median(wall for wall, _ in runs), 3),
            "processor_s": round(statistics.median(cpu for _, cpu in runs), 3),
        }
    for key in ("wall_s", "processor_s"):
        figures[f"open / materialise, {key}"] = round(figures["open"][key] / figures["materialise"][key], 2)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        click.echo(f"{key:34} {value}")


def materialise(folder: Path) -> list[Any]:
    """Every byte of a folder in memory and hashed, and the weights as tensors that own their memory."""
    from safetensors.torch import load

    held: list[Any] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            hashlib.sha256(content).hexdigest()
            held.append(load(content) if path.suffix == ".safetensors" else content)
    return held


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call; what it gave is dropped."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _processor() -> float:
    """Processor seconds of this process and of those that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


if __name__ == "__main__":
    main()
