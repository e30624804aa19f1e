"""What waiting threads cost: `starter` on the bundled cells with OpenMP's own spinning and with the short one that scfm_lab sets.

Each is measured on the machine as it is and beside other processes that keep one core busy.

python benchmarks/waiting_threads.py --busy 1
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import click

CODE = """
import time
import scfm_lab as sl
adata = sl.datasets.load("pbmc68k")
model = sl.load_model("starter", device="cpu", precision="float32")
tokens = model.tokenize(adata)
model.encode(tokens)
wall, cpu = time.perf_counter(), time.process_time()
model.encode(tokens, batch_size=32)
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
#: 300,000 spins and more are libgomp's default while there are cores for all threads.
WAYS = {"OpenMP's default": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}, "scfm_lab": {}}


@click.command(help=__doc__)
@click.option("--busy", default=1, show_default=True, help="Busy processes beside it.")
@click.option("--repeats", default=5, show_default=True)
def main(busy: int, repeats: int) -> None:
    """Print seconds and CPU seconds of each."""
    for others in (0, busy):
        spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
            for _ in range(repeats):
                for name, settings in WAYS.items():
                    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "KMP_"))}
                    run = subprocess.run(
                        [sys.executable, "-c", CODE], env=clean | settings, check=True, capture_output=True, text=True
                    )
                    wall, cpu = map(float, run.stdout.split())
                    found[name].append((wall, cpu))
        finally:
            for spinner in spinners:
                spinner.kill()
        for name, rows in found.items():
            wall, cpu = (statistics.median(x) for x in zip(*rows, strict=True))
            click.echo(f"{others} busy beside it   {name:18} {wall:6.2f} s   {cpu:6.2f} CPU s")


if __name__ == "__main__":
    main()
