"""``scfm-lab cache``: what is kept on this machine so that nothing is computed twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from scfm_lab.cli.output import say

_EXAMPLES = "\b\nExamples:\n  scfm-lab cache show\n  scfm-lab cache clear --runs"


@click.group(epilog=_EXAMPLES)
def cache() -> None:
    """Show or clear the vectors that are kept on this machine.

    Vectors of cells are kept by model, options and cell (at most SCFM_CACHE_GB gigabytes, 2 by default; 0 switches the cache
    off). Runs over files that were stopped keep what they had finished, until the same call ends.
    """


@cache.command(epilog="\b\nExample:\n  scfm-lab cache show")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def show(as_json: bool) -> None:
    """Say what is kept, and how large it is."""
    from scfm_lab.inference.cache import describe
    from scfm_lab.inference.shards import list_runs

    found = {**describe(), "stopped": list_runs()}
    lines = [f"{_size(found['bytes'])} of {_size(found['limit'])} in use, {found['path']}"]
    for run, what in zip(found["runs"], told_apart(found["runs"]), strict=True):
        when = datetime.fromtimestamp(run["used"], tz=UTC).astimezone()
        lines.append(
            f"  {run['cells']:,} vectors of {run['model']} ({what}), {_size(run['bytes'])}, last asked for {when:%Y-%m-%d %H:%M}"
        )
    if found["stopped"]:
        lines.append("Stopped runs, which go on when the same call is made again:")
    lines += [f"  {r['cells']:,} cells of {r['file']} by {r['model']}, {_size(r['bytes'])}" for r in found["stopped"]]
    say("\n".join(lines), found, as_json=as_json)


@cache.command(epilog="\b\nExamples:\n  scfm-lab cache clear\n  scfm-lab cache clear --runs")
@click.option("--runs", is_flag=True, help="What stopped runs had finished, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def clear(runs: bool, as_json: bool) -> None:
    """Remove the vectors that are kept."""
    from scfm_lab.inference.cache import clear as clear_vectors
    from scfm_lab.inference.shards import clear_runs

    freed = clear_vectors() + (clear_runs() if runs else 0)
    say(f"{_size(freed)} freed.", {"bytes": freed}, as_json=as_json)


_KEPT = {"cells": "cells as they are", "copies": "cells for perturbations, and their copies"}
#: Keys of `depends_on` that no one outside the program knows, in words; a model's options are called as they are asked for.
_DEPENDS = {
    "code": "code of scfm-lab",
    "device": "on",
    "digest": "weights",
    "family": "implementation",
    "genes": "gene names",
    "hidden_layer": "layer",
    "settings": "settings of the model",
    "torch": "PyTorch",
    "version": "form of the cache",
}
_SHOWN_OF_A_DIGEST = 8


def told_apart(runs: list[dict[str, Any]]) -> list[str]:
    """Say of each row what its vectors are, and in what it differs from other rows of the same model."""
    said = []
    for run in runs:
        alike = [other for other in runs if (other["model"], other["kept"]) == (run["model"], run["kept"])]
        own = {key: _words(value) for key, value in _flat(run["depends"]).items()}
        others = [{key: _words(value) for key, value in _flat(other["depends"]).items()} for other in alike]
        names = sorted({name for one in others for name in one})
        differ = [name for name in names if len({one.get(name) for one in others}) > 1]
        parts = [f"{_DEPENDS.get(name, name)} {own.get(name, 'as usual')}" for name in differ]
        said.append("; ".join([_KEPT.get(run["kept"], run["kept"]), *parts]))
    return said


def _flat(depends: dict[str, Any]) -> dict[str, Any]:
    options = depends.get("options")
    return {
        **{key: value for key, value in depends.items() if key != "options"},
        **(options if isinstance(options, dict) else {}),
    }


def _words(value: Any) -> str:
    text = "as published" if value is None else str(value)
    return text[:_SHOWN_OF_A_DIGEST] if re.fullmatch("[0-9a-f]{16,}", text) else text


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
