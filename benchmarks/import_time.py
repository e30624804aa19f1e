"""How long a person waits before anything happens: ``import scfm_lab`` and ``scfm-lab --help``.

Each is run in a fresh interpreter, many times; the first runs, which fill the file cache, are not counted.

    python benchmarks/import_time.py [--runs 20] [--json]

Targets on 2 cores: 0.3 s for the import, 0.5 s for the help.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

WARM_UP = 3
CASES = {
    "python (empty)": ([sys.executable, "-c", "pass"], None),
    "import scfm_lab": ([sys.executable, "-c", "import scfm_lab"], 0.3),
    "scfm-lab --help": ([sys.executable, "-m", "scfm_lab", "--help"], 0.5),
}


def measure(command: list[str], runs: int) -> list[float]:
    """Seconds of each run of a command, the warming ones left out."""
    seconds = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def main() -> None:
    """Measure all cases and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs that count, per case")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    rows = []
    for name, (command, target) in CASES.items():
        seconds = measure(command, arguments.runs)
        ordered = sorted(seconds)
        rows.append(
            {
                "case": name,
                "median_s": round(statistics.median(seconds), 3),
                "p95_s": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3),
                "target_s": target,
            }
        )
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "runs": arguments.runs,
    }
    if arguments.json:
        print(json.dumps({"machine": machine, "results": rows}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for row in rows:
        target = f"target {row['target_s']} s" if row["target_s"] else ""
        print(f"{row['case']:<18} median {row['median_s']:.3f} s   p95 {row['p95_s']:.3f} s   {target}")


if __name__ == "__main__":
    main()
