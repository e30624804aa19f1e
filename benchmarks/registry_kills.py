"""kill -9 at points spread evenly over the import of a large checkpoint, with an earlier version there.

python benchmarks/registry_kills.py --points 50 --mib 200
python benchmarks/registry_kills.py --points 10 --pickled

After each kill: the earlier version still verifies, the registry opens, nothing half-registered can be seen. At the end the import
can be repeated, and no process lives that read for one that was killed. The points are spread over the time that one whole import
takes, measured first; each starts from where the last one left the registry, so that what one kill leaves behind is what the next one
meets.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import published_sizes

CODE = """
import sys
from scfm_registry import Registry
registry = Registry()
print("ready", flush=True)
sys.stdin.readline()
print(registry.import_checkpoint(sys.argv[1], sys.argv[2], certify=False).digest, flush=True)
"""

#: Seconds after which a process has noticed that nobody waits for its answer.
GRACE = 5


@click.command(help=__doc__)
@click.option("--points", default=50, show_default=True)
@click.option("--mib", default=200, show_default=True, help="Size of the checkpoint's weights.")
@click.option("--pickled", is_flag=True, help="A scGPT of published size instead, whose pickle is converted.")
@click.option("--json", "as_json", is_flag=True)
def main(points: int, mib: int, pickled: bool, as_json: bool) -> None:
    """Print what was found after each kill, and how many of them left something wrong."""
    from scfm_registry import Registry
    from scfm_registry.checking import check

    with tempfile.TemporaryDirectory() as work:
        os.environ["SCFM_HOME"] = str(Path(work) / "home")
        checkpoint = write(Path(work) / "checkpoint", mib, 0) if not pickled else write_pickled(Path(work) / "pickled")
        earlier = Registry().import_checkpoint(write(Path(work) / "earlier", 4, 1), "mine")
        sizes = [path for path in checkpoint.iterdir() if path.suffix in (".safetensors", ".pt")]
        whole = run(checkpoint, "other", None)[0]
        faults: list[str] = []
        readers: dict[int, int] = {}
        ended_before = 0
        for number in range(points):
            at = whole * (number + 0.5) / points
            _, finished = run(checkpoint, "mine", at, readers)
            ended_before += finished
            registry = Registry()
            found = {item.reference: item for item in registry.search(all_versions=True) if item.name == "mine"}
            wrong = []
            if not registry.verify("mine/1").ok or found["mine/1"].digest != earlier.digest:
                wrong.append("the earlier version does not verify")
            wrong += [
                f"{item.reference} does not verify" for item in found.values() if not registry.verify(item.reference).ok
            ]
            if len(found) > 1 and not finished:
                # The kill came after the version was there and before the process could say so.
                wrong += [] if len(found) == 2 else ["versions are doubled"]
            wrong += [f"{item.what}: {item.words}" for item in check() if item.state == "fault"]
            faults += [f"at {at:.2f} s: {text}" for text in wrong]
            if len(found) > 1:
                registry.delete("mine/2")
                registry.purge("mine/2")
            click.echo(f"{number + 1:3} killed at {at:6.2f} s: {'; '.join(wrong) or 'nothing wrong'}", err=True)
        until = time.monotonic() + GRACE
        while (living := alive(readers)) and time.monotonic() < until:
            time.sleep(0.1)
        faults += [f"process {number}, which read for a killed import, lives on" for number in living]
        again = Registry().import_checkpoint(checkpoint, "mine")
        left = sum(f.stat().st_size for f in Path(work, "home").rglob("*") if f.is_file() and ".incoming-" in str(f))
        if not Registry().verify(again.reference).ok:
            faults.append("the import could not be repeated")
        weights = sum(path.stat().st_size for path in sizes)
    figures = {
        "points": points,
        "weights_mib": round(weights / 2**20),
        "import_s": round(whole, 2),
        "load_average": round(os.getloadavg()[0], 1),
        "ended before their kill": ended_before,
        "processes that read for them": len(readers),
        "faults": faults,
        "left in private folders after the last import (MiB)": round(left / 2**20, 1),
    }
    click.echo(json.dumps(figures) if as_json else "\n".join(f"{key:56} {value}" for key, value in figures.items()))
    sys.exit(1 if faults else 0)


def write(folder: Path, mib: int, seed: int) -> Path:
    """A checkpoint of the PCA family with weights of about so many MiB."""
    import numpy as np
    import pandas as pd
    from safetensors.numpy import save_file

    import scfm_lab as sl

    folder.mkdir(parents=True)
    genes = sl.datasets.load("pbmc68k").var
    width = max(1, mib * 2**18 // len(genes))
    components = np.random.default_rng(seed).standard_normal((width, len(genes)), dtype=np.float32)
    mean = np.zeros(len(genes), dtype=np.float32)
    save_file({"components": components, "mean": mean}, folder / "model.safetensors")
    config = {"family": "pca", "basis": "drawn", "vocabulary": "vocabulary.csv"}
    (folder / "config.json").write_text(json.dumps(config))
    table = pd.DataFrame({"symbol": genes["gene_symbol"], "ensembl": genes["ensembl_id"]})
    table.to_csv(folder / "vocabulary.csv", index=False)
    return folder


def write_pickled(folder: Path) -> Path:
    """A checkpoint of scGPT's published size and format, with drawn weights."""
    import scfm_lab as sl

    folder.mkdir()
    path, _ = published_sizes.write("scgpt", folder, sl.datasets.load("pbmc68k"))
    return path if path.is_dir() else path.parent


def run(
    checkpoint: Path, name: str, kill_after: float | None, readers: dict[int, int] | None = None
) -> tuple[float, bool]:
    """Import in a process group of its own, which is killed after so many seconds; seconds, and whether it was done before.

    `readers` gets the processes that it has started, as of :func:`below`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(checkpoint), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    process.stdin.write("\n")
    process.stdin.flush()
    if kill_after is None:
        assert process.stdout.readline().startswith("sha256:")
        process.wait()
        return time.perf_counter() - started, True
    try:
        process.wait(timeout=kill_after)
        finished = process.returncode == 0
    except subprocess.TimeoutExpired:
        finished = False
    # The process that reads the files is in a session of its own, so that this does not reach it; it ends when it finds the socket
    # to its asker closed.
    if readers is not None:
        readers |= below(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return time.perf_counter() - started, finished


def processes() -> dict[int, tuple[int, int]]:
    """Parent and moment of birth of each process that has not ended; none where the system does not tell."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # Its name, in brackets, may hold blanks and brackets.
            state, parent, *rest = place.read_text().rpartition(")")[2].split()
            if state not in "ZX":
                found[int(place.parent.name)] = int(parent), int(rest[17])
    return found


def below(process: int) -> dict[int, int]:
    """The processes that one has started, and theirs, each with its moment of birth, since numbers are used again."""
    known, found, todo = processes(), {}, [process]
    while todo:
        parent = todo.pop()
        for number, (above, born) in known.items():
            if above == parent:
                found[number] = born
                todo.append(number)
    return found


def alive(started: dict[int, int]) -> list[int]:
    """Which of these processes have not ended."""
    known = processes()
    return [number for number, born in started.items() if number in known and known[number][1] == born]


if __name__ == "__main__":
    main()
