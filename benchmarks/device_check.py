"""Does a device give the CPU's answers, and how fast? For owners of a Mac (MPS) or of a CUDA card: the machines that the checks do not have.

Small checkpoints of every published family (drawn weights) and `starter` embed the bundled cells on the CPU in float32 and
on the device in each precision that it has. Paste the table into an issue, and docs/speed.md can be completed.

python benchmarks/device_check.py --device mps
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests" / "models"


def row(name: str, device: str, precision: str, open_model: Any, adata: Any, truth: np.ndarray[Any, Any]) -> str:
    """One line: worst cosine to the CPU's float32, its largest difference, cells per second; or why not."""
    import scfm_lab as sl

    try:
        model = open_model(device, precision)
        sl.embed(adata[:20].copy(), model, progress=False, cache=False)
        started = time.perf_counter()
        result = sl.embed(adata, model, progress=False, copy=True, cache=False)
    # Whatever a device cannot do is what this program is there to find out.
    except Exception as error:  # noqa: BLE001
        return f"{name:18} {precision:10} {type(error).__name__}: {str(error).splitlines()[0]}"
    seconds = time.perf_counter() - started
    norms = np.linalg.norm(truth, axis=1) * np.linalg.norm(result.vectors, axis=1)
    cosine = float(np.nanmin((truth * result.vectors).sum(1) / norms))
    largest = float(np.nanmax(np.abs(truth - result.vectors)))
    told = result.provenance["precision"]
    return f"{name:18} {precision:10} {told:10} {cosine:.7f}  {largest:.1e}  {adata.n_obs / seconds:8.1f} cells/s"


@click.command(help=__doc__)
@click.option("--device", default="mps", show_default=True)
def main(device: str) -> None:
    """Print the table."""
    import torch

    import scfm_lab as sl

    sys.path.insert(0, str(TESTS))
    from conftest import FAMILIES, write_family

    adata = sl.datasets.load("pbmc68k")
    click.echo(f"{platform.platform()}, torch {torch.__version__}, {sl.Hardware.detect().describe()}")
    click.echo(f"{'model':18} {'asked':10} {'taken':10} worst cosine  largest difference  speed")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("starter", *FAMILIES):
            written = None if name == "starter" else write_family(name, Path(folder) / name, adata)

            def open_model(device: str, precision: str, written: Any = written) -> Any:
                source, config = ("starter", None) if written is None else (written.path, written.config or None)
                return sl.load_model(source, device=device, precision=precision, config=config)

            truth = sl.embed(adata, open_model("cpu", "float32"), progress=False, copy=True, cache=False).vectors
            for precision in ("float32", "float16", "bfloat16", "auto"):
                click.echo(row(name, device, precision, open_model, adata, truth))


if __name__ == "__main__":
    main()
