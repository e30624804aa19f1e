"""``scfm-lab models annotate|log``."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli.output import say
from scfm_registry.annotating import CONSENT
from scfm_registry.cli.common import json_option, leave, opened, registry_option


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models annotate my-model/2 --project atlas --owner anna\n"
    "  scfm-lab models annotate my-model/2 --consent patient-data --limits 'blood only'"
)
@click.argument("reference")
@click.option("--owner", help="Who answers for it.")
@click.option("--project", help="What it was made for.")
@click.option(
    "--consent", type=click.Choice([*CONSENT, ""]), help="What the data's donors agreed to; all but open block export."
)
@click.option("--data", help="What it was trained on.")
@click.option("--use", help="What it is meant for.")
@click.option("--limits", help="What it should not be used for.")
@click.option("--citation", help="What to cite.")
@registry_option
@json_option
def annotate(reference: str, uri: str | None, as_json: bool, **said: str | None) -> None:
    """Say something of REFERENCE, for its card and for lists.

    An empty text takes it away.
    """
    done = opened(uri).annotate(reference, **said)
    told = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
    say(f"{done.reference}: {told or 'nothing was said'}.", done.to_dict(), as_json=as_json)


@click.command(
    short_help="Tell who did what, when: the audit trail.",
    epilog="\b\nExamples:\n  scfm-lab models log\n  scfm-lab models log my-model --json",
)
@click.argument("name", required=False)
@registry_option
@json_option
def log(name: str | None, uri: str | None, as_json: bool) -> None:
    """Tell who did what, when: the audit trail, of NAME or of all.

    Exits 1 if a line of it is missing or was changed.
    """
    found = opened(uri).audit(name)
    say(found.summary(), found.to_json(), as_json=as_json)
    leave(ok=found.ok)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models retract my-model/2 --because 'trained on mislabelled cells'\n"
    "  scfm-lab models retract my-model/2 --because 'wrong labels' --files results --files atlas.h5ad\n"
    "  scfm-lab models retract my-model/2 --undo"
)
@click.argument("reference")
@click.option("--because", default="", help="Why, in one line.")
@click.option("--undo", is_flag=True, help="Take the retraction back.")
@click.option(
    "--files",
    "files",
    multiple=True,
    metavar="PATH",
    help="Tell which of these files (.h5ad, Zarr, or folders of them) were made with it. Several times: all.",
)
@registry_option
@json_option
def retract(reference: str, because: str, undo: bool, files: tuple[str, ...], uri: str | None, as_json: bool) -> None:
    """Say that REFERENCE should not be used any more.

    All versions made from it are flagged with it; none of them opens unless asked for in so many words.
    """
    here = opened(uri)
    if undo and files:
        raise click.UsageError("--files tells what was made with a version that is retracted; it takes no --undo.")
    if undo:
        back = here.reinstate(reference, because=because)
        say(f"{back.reference} is no longer retracted.", back.to_dict(), as_json=as_json)
        return
    found = here.retract(reference, because=because)
    text = f"Retracted: {', '.join(item.reference for item in found)}."
    data: dict[str, Any] = {"retracted": [item.to_dict() for item in found]}
    if files:
        told = here.affected(files, reference)
        text += f"\n{told.summary()}"
        data |= {"results": told.rows, "unread": told.unread}
    else:
        text += "\nWhich data files were made with it: scfm-lab models affected FILES"
    say(text, data, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models affected results/*.h5ad\n  scfm-lab models affected a.h5ad --by my-model/2 --json"
)
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--by", "reference", help="Made with this version, or with one made from it [default: with retracted ones]."
)
@registry_option
@json_option
def affected(files: tuple[str, ...], reference: str | None, uri: str | None, as_json: bool) -> None:
    """Find which FILES were made with retracted versions.

    FILES are .h5ad, Zarr, or folders of them. Nothing in them is changed; 'models made-with' tells of all versions. Exits 1 if a
    retracted version was used, or a file could not be read.
    """
    found = opened(uri).affected(files, reference)
    say(found.summary(), {"results": found.rows, "unread": found.unread}, as_json=as_json)
    leave(ok=not found.unread and not any(row["retracted"] for row in found.rows))


#: What is attached to the group.
COMMANDS = (annotate, log, retract, affected)
