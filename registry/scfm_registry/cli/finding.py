"""``scfm-lab models list|show|catalog``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scfm_lab.cli.output import say
from scfm_registry.cli.common import KINDS, json_option, opened, registry_option
from scfm_registry.cli.tables import table

if TYPE_CHECKING:
    from scfm_registry.catalog import Published


@click.command(
    "list", epilog="\b\nExamples:\n  scfm-lab models list\n  scfm-lab models list --organism human --fits --json"
)
@click.argument("words", nargs=-1)
@click.option("--name", help="All versions of this model.")
@click.option("--organism", help="Only models for this organism.")
@click.option(
    "--can", "abilities", multiple=True, metavar="ABILITY", help="Only models that can do this. Several times: all."
)
@click.option("--family", help="Only this family.")
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
@click.option("--fits", "fitting", is_flag=True, help="Only models that fit this machine's free memory.")
@click.option("--all", "all_versions", is_flag=True, help="Every version, and not one per model.")
@click.option("--trash", "deleted", is_flag=True, help="Deleted versions, and nothing else.")
@registry_option
@json_option
def list_(
    words: tuple[str, ...],
    name: str | None,
    organism: str | None,
    abilities: tuple[str, ...],
    family: str | None,
    kind: str | None,
    fitting: bool,
    all_versions: bool,
    deleted: bool,
    uri: str | None,
    as_json: bool,
) -> None:
    """List models; WORDS must stand in the name, tags or card. Every condition must hold."""
    from scfm_registry.version import Versions

    here = opened(uri)
    if deleted and (words or organism or abilities or family or kind or fitting):
        raise click.UsageError("--trash lists what was deleted, of one model with --name; it takes no other condition.")
    if name is not None and not deleted:
        # One that is not there is told, with what is.
        here.versions(name)
    found = (
        here.trash()
        if deleted
        else here.search(
            text=" ".join(words) or None,
            organism=organism,
            can=abilities,
            family=family,
            kind=kind,
            fits="this machine" if fitting else None,
            all_versions=all_versions or name is not None,
        )
    )
    found = Versions(item for item in found if name in (None, item.name))
    say(table(found), {"models": [item.to_dict() for item in found]}, as_json=as_json)


@click.command(
    short_help="Tell what is on record about a version.",
    epilog="\b\nExamples:\n  scfm-lab models show starter\n  scfm-lab models show starter/1 --card > card.md",
)
@click.argument("reference")
@click.option("--card", "whole", is_flag=True, help="The whole card as Markdown: data, licence, use, limits, scores, …")
@registry_option
@json_option
def show(reference: str, whole: bool, uri: str | None, as_json: bool) -> None:
    """Tell what is on record about REFERENCE: a name, NAME/3 or NAME@alias."""
    here = opened(uri)
    card = here.card(reference)
    text = (
        card
        if whole
        else f"{card.partition(chr(10) + '## ')[0].rstrip()}\n\nMore: scfm-lab models show {reference} --card"
    )
    found = here.get(reference)
    data = {
        **found.to_dict(),
        "card": card,
        "tags": found.tags,
        "training": here.training(reference) if as_json else None,
    }
    say(text.rstrip(), data, as_json=as_json)


@click.command(epilog="\b\nExamples:\n  scfm-lab models catalog\n  scfm-lab models catalog geneformer --json")
@click.argument("words", nargs=-1)
@registry_option
@json_option
def catalog(words: tuple[str, ...], uri: str | None, as_json: bool) -> None:
    """List published checkpoints, and which of them are here.

    It says where to get each, its size, the memory that it needs, hash, organisms, licence, what to cite, and what belongs to it. WORDS must stand in what
    is said of one.
    """
    found = [
        item
        for item in opened(uri).catalog()
        if all(word.casefold() in str(item.to_dict()).casefold() for word in words)
    ]
    lines = [line for item in found for line in _lines(item)]
    say("\n".join(lines) or "None is like that.", {"checkpoints": [item.to_dict() for item in found]}, as_json=as_json)


def _lines(item: Published) -> list[str]:
    """What is said of a published checkpoint."""
    sizes = [f"{item.parameters / 1e6:,.0f} M parameters"] if item.parameters else []
    sizes += [f"weights of {item.weights_mib:,} MiB"] if item.weights_mib else []
    memory = (
        f"about {item.memory_mib:,} MiB of memory on a CPU"
        if item.memory_mib
        else "memory not known before it is imported"
    )
    use = "; not for commercial use" if item.commercial is False else ""
    here = "not known (no SHA-256 is published to compare with)" if item.here is None else ", ".join(item.here) or "no"
    if item.here_by == "name":
        here += " by its name (no SHA-256 is published to compare with)"
    return [
        f"{item.id}: {item.title}, {item.trained_on}" + (f" ({', '.join(sizes)})" if sizes else ""),
        f"  organisms: {', '.join(item.organisms)}",
        f"  needs: {memory} ({item.reckoned})",
        f"  get {', '.join(item.files)} from {item.where}" + (f"; beside it {item.beside}" if item.beside else ""),
        *([f"  or run: scfm-lab models import {item.id}"] if item.get else []),
        *([f"  SHA-256 of the weights: {item.sha256}"] if item.sha256 else []),
        f"  licence: {item.licence}{use}",
        f"  cite: {item.citation}",
        f"  here: {here}",
    ]


#: What is attached to the group.
COMMANDS = (list_, show, catalog)
