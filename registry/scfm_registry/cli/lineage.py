"""``scfm-lab models lineage|reproduce|made-with``."""

from __future__ import annotations

import click

from scfm_lab.cli.output import progress_bar, say
from scfm_registry.cli.common import json_option, leave, opened, registry_option


@click.command(
    short_help="Show what a version was made from, and what from it.",
    epilog="\b\nExamples:\n  scfm-lab models lineage my-model\n  scfm-lab models lineage starter/1 --json",
)
@click.argument("reference")
@registry_option
@json_option
def lineage(reference: str, uri: str | None, as_json: bool) -> None:
    """Show what REFERENCE was made from, and what was made from it."""
    found = opened(uri).lineage(reference)
    say(found.summary(), found.to_json(), as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models reproduce my-model/2 --data cells.h5ad\n"
    "  scfm-lab models reproduce my-model/2 --data cells.h5ad --json"
)
@click.argument("reference")
@click.option(
    "--data",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="The .h5ad file it was fine-tuned with.",
)
@click.option("--progress/--no-progress", default=None, help="Show progress [default: when a terminal is there].")
@registry_option
@json_option
def reproduce(reference: str, path: str, progress: bool | None, uri: str | None, as_json: bool) -> None:
    """Do the fine-tuning of REFERENCE again and compare.

    Exits 1 if fewer than 99 % of the test cells get the same label.
    """
    from scfm_lab.cli.files import read_h5ad

    adata = read_h5ad(path)
    with progress_bar(progress, "cells") as show:
        found = opened(uri).reproduce(reference, adata, progress=show or False)
    say(found.summary(), found.to_json(), as_json=as_json)
    leave(ok=found.agreement >= 0.99)


@click.command(
    "made-with",
    short_help="Say which versions made what is in data files.",
    epilog="\b\nExamples:\n  scfm-lab models made-with ./results\n  scfm-lab models made-with ./results --model my-model/2",
)
@click.argument("path", metavar="FILE_OR_FOLDER")
@click.option("--model", "reference", metavar="REFERENCE", help="Only what was made with this version.")
@registry_option
@json_option
def made_with(path: str, reference: str | None, uri: str | None, as_json: bool) -> None:
    """Say which versions made what is in .h5ad files and Zarr folders, as far as is recorded in them."""
    found = opened(uri).made_with(path, reference)
    say(found.summary(), {**found.to_json(), "skipped": found.skipped}, as_json=as_json)


#: What is attached to the group.
COMMANDS = (lineage, reproduce, made_with)
