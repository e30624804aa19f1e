"""How fast a registry of many versions answers: a page of a search by three tags and fit, and opening by digest.

The versions are copies of one real version's row and tags, put into the embedded registry's database directly, since 10,000
registrations would take most of an hour; each has a digest, a parent model of 25 versions and memory sizes of its own.

python benchmarks/registry_search.py
python benchmarks/registry_search.py --versions 1000 --json
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_registry import Registry


@click.command(help=__doc__)
@click.option("--versions", default=10_000, show_default=True)
@click.option("--per-model", default=25, show_default=True, help="Versions of each model.")
@click.option("--page", default=50, show_default=True, help="Versions on a page.")
@click.option("--repeats", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(versions: int, per_model: int, page: int, repeats: int, as_json: bool) -> None:
    """Print the median and the worst of each question, in milliseconds of wall and of processor time."""
    from scfm_lab import Hardware
    from scfm_registry import Registry

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCFM_HOME"] = folder
        registry = Registry(Path(folder) / "registry")
        registry.ensure_builtin()
        digests = fill(Path(folder) / "registry" / "mlflow.db", versions, per_model)
        small = Hardware(name="a laptop", cores=4, ram_gib=8.0, free_gib=3.0)
        three: dict[str, Any] = {"organism": "human", "can": "embed", "kind": "baseline"}
        middle = halfway(registry, three)
        some = [digests[index] for index in np.random.default_rng(0).choice(len(digests), repeats, replace=False)]
        rows = [
            ask("a page: three tags and fit", lambda _: registry.search(**three, fits=small, limit=page), repeats),
            ask(
                "the page in the middle",
                lambda _: registry.search(**three, fits=small, limit=page, page=middle),
                repeats,
            ),
            ask(
                "a page of versions: three tags",
                lambda _: registry.search(**three, all_versions=True, limit=page),
                repeats,
            ),
            ask("open by name and digest", lambda n: registry.by_digest(*some[n]), repeats),
            ask("open by digest alone", lambda n: registry.get(some[n][1]), repeats),
            ask("open by number", lambda n: registry.get(f"{some[n][0]}/3"), repeats),
            ask("open the champion", lambda n: registry.get(f"{some[n][0]}@champion"), repeats),
            ask("everything at once: three tags", lambda _: registry.search(**three), min(3, repeats)),
        ]
    if as_json:
        click.echo(json.dumps({"versions": versions, "page": page, "rows": rows}, indent=1))
        return
    click.echo(f"{versions:,} versions of {versions // per_model} models, pages of {page} versions\n")
    click.echo("| question | found | median ms | worst ms | median CPU ms |\n|---|---|---|---|---|")
    for row in rows:
        click.echo(
            f"| {row['question']} | {row['found']} | {row['median']:.0f} | {row['worst']:.0f} | {row['cpu']:.0f} |"
        )


def halfway(registry: Registry, wanted: dict[str, Any]) -> str | None:
    """What the page before the one in the middle gives as ``next``."""
    left, page = len(registry.search(**wanted, all_versions=True)) // 2, None
    while left > 0:
        found = registry.search(**wanted, all_versions=True, limit=min(left, 1000), page=page)
        left, page = left - len(found), found.next
    return page


def ask(question: str, do: Callable[[int], Any], repeats: int) -> dict[str, Any]:
    """Ask once to warm up, then `repeats` times."""
    answer = do(0)
    wall, cpu = [], []
    for number in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        answer = do(number)
        wall.append((time.perf_counter() - begun) * 1000)
        cpu.append((time.process_time() - used) * 1000)
    found = len(answer) if isinstance(answer, list) else 1
    return {
        "question": question,
        "found": found,
        "median": statistics.median(wall),
        "worst": max(wall),
        "cpu": statistics.median(cpu),
    }


def fill(database: Path, versions: int, per_model: int) -> list[tuple[str, str]]:
    """Copy one version until there are `versions`; gives names and digests."""
    draw = np.random.default_rng(1)
    now = int(time.time() * 1000)
    digests = []
    with closing(sqlite3.connect(database)) as connection, connection:
        names = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases")
        }
        model = connection.execute("SELECT * FROM registered_models WHERE name = 'pca'").fetchone()
        version = connection.execute("SELECT * FROM model_versions WHERE name = 'pca'").fetchone()
        tags = connection.execute("SELECT * FROM model_version_tags WHERE name = 'pca'").fetchall()
        alias = connection.execute("SELECT * FROM registered_model_aliases WHERE name = 'pca'").fetchone()

        def put(table: str, row: tuple[Any, ...], **changes: Any) -> None:
            values = [changes.get(column, value) for column, value in zip(names[table], row, strict=True)]
            marks = ",".join("?" * len(values))
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608 - our own words

        for number in range(versions):
            name, counted = f"model-{number // per_model:05d}", number % per_model + 1
            digest = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
            if counted == 1:
                put("registered_models", model, name=name)
            put("model_versions", version, name=name, version=counted, creation_time=now + number)
            peak = int(draw.choice((300, 900, 3_000, 12_000)))
            other = {
                "scfm.digest": digest,
                "scfm.kind": str(draw.choice(("baseline", "pretrained", "fine-tuned"))),
                "scfm.mem.cpu.peak_mib": str(peak),
                "scfm.mem.cpu.source": "measured",
                **{f"scfm.fits.cpu.{size}gib": str(peak <= size * 1024).lower() for size in (2, 4, 8, 16, 24, 40, 80)},
            }
            for row in tags:
                key = row[names["model_version_tags"].index("key")]
                value = row[names["model_version_tags"].index("value")]
                put("model_version_tags", row, name=name, version=counted, value=other.get(key, value))
            if counted == 1:
                put("registered_model_aliases", alias, name=name, version=counted)
            digests.append((name, digest))
    return digests


if __name__ == "__main__":
    main()
