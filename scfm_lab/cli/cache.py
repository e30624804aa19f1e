"""``scfm-lab cache``: what is kept on this machine so that nothing is computed twice."""

from __future__ import annotations

from datetime import UTC, datetime

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
    for run in found["runs"]:
        when = datetime.fromtimestamp(run["used"], tz=UTC).astimezone()
        lines.append(
            f"  {run['cells']:,} vectors of {run['model']}, {_size(run['bytes'])}, last asked for {when:%Y-%m-%d %H:%M}"
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


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
