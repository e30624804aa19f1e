"""What it takes to keep track of versions: lines of the audit trail, a certificate, its check, a comparison.

python benchmarks/version_life.py --lines 200 --model starter
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Measure on a registry in a temporary folder, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=200, help="lines to append to the trail")
    parser.add_argument("--model", default="starter", help="a built-in model")
    given = parser.parse_args()

    from scfm_registry import Registry

    def timed(what: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        print(f"| {what} | {time.perf_counter() - start:.3f} s |")

    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(folder)
        other = "pca" if given.model != "pca" else "sctop"

        def lines() -> None:
            for number in range(given.lines):
                registry.note("benchmark", registry._store.record(given.model, 1), {"number": number})  # noqa: SLF001

        print("| what | time |\n|---|---|")
        registry.load(given.model, device="cpu")
        timed(f"{given.lines} lines appended, each on the disk", lines)
        timed(f"trail of {given.lines} lines read and checked", registry.audit)
        timed(f"certificate of {given.model}", lambda: registry.certify(given.model))
        timed(f"verify {given.model}: files and panel", lambda: registry.verify(given.model))
        timed(f"compare {given.model} with itself, 100 cells", lambda: registry.compare(given.model, given.model))
        timed(f"compare {given.model} with {other}, 100 cells", lambda: registry.compare(given.model, other))


if __name__ == "__main__":
    main()
