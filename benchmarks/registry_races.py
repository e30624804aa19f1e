"""Whether a registry loses, doubles or refuses anything when processes use it at once, from an empty beginning.

In each trial all processes open the same empty registry at one moment and register their versions under one name. Then it is
looked at from outside: every process's versions are there once, under the number it was told, numbered without a gap, with their
files as registered; the built-in models are there once; nothing lies around. The processes are started once; each trial has a
registry of its own.

python benchmarks/registry_races.py --trials 20
python benchmarks/registry_races.py --trials 20 --postgresql postgresql://postgres@localhost/postgres
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

NAME = "raced"


@click.command(help=__doc__)
@click.option("--trials", default=20, show_default=True)
@click.option("--processes", default=8, show_default=True)
@click.option("--versions", default=25, show_default=True, help="Versions that each process registers.")
@click.option("--postgresql", metavar="URI", help="A database whose user may make databases; each trial has one.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", hidden=True, help="Internal: what each process does.")
def main(trials: int, processes: int, versions: int, postgresql: str | None, as_json: bool, child: str | None) -> None:
    """Print a row for each trial, and their sum."""
    if child:
        work(int(child), versions)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        started = [start(number, versions, Path(folder)) for number in range(processes)]
        try:
            for process in started:
                answer_of(process)
            if not as_json:
                click.echo(
                    "| trial | seconds | versions | lost | doubled | failed | other faults |\n|---|---|---|---|---|---|---|"
                )
            for trial in range(trials):
                rows.append(race(trial, started, versions, Path(folder), postgresql))
                if postgresql is not None:
                    drop_database(postgresql, trial)
                if not as_json:
                    click.echo("| " + " | ".join(str(value) for value in rows[-1].values()) + " |")
        finally:
            for process in started:
                process.stdin.close()
                process.wait(timeout=60)
    total = {key: sum(row[key] for row in rows) for key in ("versions", "lost", "doubled", "failed", "other")}
    if as_json:
        click.echo(json.dumps({"trials": rows, "total": total}, indent=1))
    else:
        click.echo(f"\n{trials} trials of {processes} processes: {total}")
    sys.exit(any(total[key] for key in ("lost", "doubled", "failed", "other")))


def start(number: int, versions: int, folder: Path) -> Any:
    """Start one process; it says "ready" when everything that takes long to import is imported."""
    return subprocess.Popen(
        [sys.executable, __file__, "--child", str(number), "--versions", str(versions)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SCFM_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
    )


def answer_of(process: Any) -> Any:
    """Read one line of JSON."""
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"A process ended with {process.wait()}.")
    return json.loads(line)


def race(trial: int, started: list[Any], versions: int, folder: Path, postgresql: str | None) -> dict[str, Any]:
    """Let all go at once on a registry that is not there yet, and look at what came of it."""
    place = folder / f"trial{trial}"
    uri = str(place) if postgresql is None else new_database(postgresql, trial, place)
    begun = time.perf_counter()
    for process in started:
        process.stdin.write(json.dumps(uri) + "\n")
        process.stdin.flush()
    told = [answer_of(process) for process in started]
    seconds = time.perf_counter() - begun
    return {"trial": trial + 1, "seconds": round(seconds, 1), **look(uri, place, told, len(started) * versions)}


def look(uri: str, place: Path, told: list[Any], expected: int) -> dict[str, int]:
    """Compare what the registry holds with what the processes were told."""
    from scfm_registry import Registry
    from scfm_registry.builtin import shipped
    from scfm_registry.checking import check

    registry = Registry(uri)
    found = registry.versions(NAME)
    held = {item.digest: item.version for item in found}
    answered = {digest: version for one in told for digest, version in one["done"].items()}
    faults = [item for item in check(uri, files=True) if item.state != "ok"]
    if place.exists():
        models = sum(1 for _ in (place / "artifacts" / "models").iterdir())
        faults += ["files that belong to no version"] * (models != len(found) + len(shipped()))
    gaps = sorted(held.values()) != list(range(1, len(held) + 1))
    builtin = len(registry.search(all_versions=True)) - len(found) != len(shipped())
    for item in faults:
        click.echo(f"  {item}", err=True)
    for one in told:
        for text in one["failed"]:
            click.echo(f"  {text}", err=True)
    return {
        "versions": len(found),
        "lost": sum(held.get(digest) != version for digest, version in answered.items()) + expected - len(answered),
        "doubled": len(found) - len(held),
        "failed": sum(len(one["failed"]) for one in told),
        "other": len(faults) + gaps + builtin,
    }


def new_database(admin: str, trial: int, place: Path) -> str:
    """Make an empty database for one trial."""
    import psycopg

    name = database_of(trial)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{admin.rpartition('/')[0]}/{name}?artifacts={place}"


def drop_database(admin: str, trial: int) -> None:
    """Take a trial's database away, and the connections that MLflow keeps to it: the next trials need them."""
    import psycopg

    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {database_of(trial)} WITH (FORCE)")


def database_of(trial: int) -> str:
    """The name of a trial's database."""
    return f"scfm_race_{os.getpid()}_{trial}"


def work(number: int, versions: int) -> None:
    """Wait for an address, open what is there, register, and say what came of it; until there is no more."""
    import mlflow  # noqa: F401 - before the start, so that what follows really happens at once
    import torch  # noqa: F401

    from scfm_lab.errors import ScfmError
    from scfm_registry import Registry

    tags = {"scfm.schema": "1", "scfm.kind": "baseline", "scfm.family": "scfm.pca", "scfm.origin": "import"}
    click.echo(json.dumps("ready"))
    for line in sys.stdin:
        done: dict[str, int] = {}
        failed: list[str] = []
        try:
            registry = Registry(json.loads(line))
            for count in range(versions):
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "config.json").write_text(json.dumps({"process": number, "count": count}))
                    added = registry.add_files(NAME, Path(folder), "scfm.pca", dict(tags), f"# {number}.{count}\n")
                    done[added.digest] = added.version
        except (ScfmError, OSError) as error:
            failed.append(f"process {number}: {type(error).__name__}: {error}")
        click.echo(json.dumps({"done": done, "failed": failed}))


if __name__ == "__main__":
    main()
