"""``scfm-lab models import``."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli.options import config_option
from scfm_lab.cli.output import say
from scfm_registry.cli.common import KINDS, json_option, opened, registry_option


@click.command("import", epilog="\b\nExamples:\n  scfm-lab models import ./my-checkpoint --name my-model")
@click.argument("path", metavar="FOLDER")
@click.option("--name", required=True, help="What the model is called here: lower-case letters, digits, hyphens.")
@click.option("--kind", type=click.Choice(KINDS), default="pretrained", show_default=True, help="What it is.")
@click.option("--licence", help="SPDX expression [default: the family's].")
@config_option
@registry_option
@json_option
def import_(
    path: str, name: str, kind: str, licence: str | None, config: dict[str, Any], uri: str | None, as_json: bool
) -> None:
    """Register the checkpoint in FOLDER, as published.

    The same files twice give the same version. Pickled weights and dictionaries (.pt, .bin, .ckpt, .pkl) are converted to
    safetensors and JSON, in a process without network; nothing in them runs.
    """
    done = opened(uri).import_checkpoint(path, name, kind=kind, licence=licence, config=config)
    text = f"{done.reference} is registered ({done.family}, {done.digest}). Use it as {done.uri}."
    say(text, done.to_dict(), as_json=as_json)


#: What is attached to the group.
COMMANDS = (import_,)
