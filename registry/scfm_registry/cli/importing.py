"""``scfm-lab models import``: folders, archives, addresses."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli.options import config_option
from scfm_lab.cli.output import progress_bar, say
from scfm_registry.cli.common import (
    KINDS,
    certify_option,
    consent_option,
    json_option,
    opened,
    parent_option,
    registry_option,
)

_CERTIFIED = "It is certified: 'scfm-lab models verify' tells whether it still does the same."


@click.command(
    "import",
    epilog="\b\nExamples:\n  scfm-lab models import ./my-checkpoint --name my-model\n"
    "  scfm-lab models import geneformer-v1-10m\n"
    "  scfm-lab models import ./tumours --name tumours --consent patient-data\n"
    "  scfm-lab models import ./run7 --name blood --kind fine-tuned --parent scgpt-human/1\n"
    "  scfm-lab models import hf://ctheodoris/Geneformer/Geneformer-V2-104M --name geneformer\n"
    "  scfm-lab models import https://files.lab/model.tar.gz --name my-model --allow-host files.lab",
)
@click.argument("path", metavar="SOURCE")
@click.option(
    "--name",
    help="What the model is called here: lower-case letters, digits, hyphens [default: its name in the catalogue].",
)
@click.option("--kind", type=click.Choice(KINDS), default="pretrained", show_default=True, help="What it is.")
@click.option("--licence", help="SPDX expression [default: the family's].")
@click.option(
    "--sha256",
    metavar="HEX",
    help="SHA-256 of the archive, of the file at an https address, or of a repository's weights, as its authors publish it.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Your lab's own server, which may have a private address.",
)
@consent_option
@parent_option
@certify_option
@config_option
@registry_option
@json_option
def import_(
    path: str,
    name: str | None,
    kind: str,
    licence: str | None,
    sha256: str | None,
    hosts: tuple[str, ...],
    consent: str | None,
    parent: str | None,
    certify: bool,
    config: dict[str, Any],
    uri: str | None,
    as_json: bool,
) -> None:
    """Register the checkpoint that SOURCE is.

    SOURCE is a folder as published, an archive of it, hf://ORG/REPO[@REVISION][/FOLDER], an https:// address, or a name from
    'scfm-lab models catalog'. The same files twice give the same version. Pickled weights and dictionaries (.pt, .bin, .ckpt,
    .pkl) are converted to safetensors and JSON, in a process without network; nothing in them runs.
    """
    from scfm_registry import certificate

    registry = opened(uri)
    with progress_bar(None, "MiB") as report:
        done = registry.import_checkpoint(
            path,
            name,
            kind=kind,
            licence=licence,
            config=config,
            sha256=sha256,
            allow_hosts=hosts,
            consent=consent,
            parent=parent,
            certify=False,
            progress=report or False,
        )
    text = f"{done.reference} is registered ({done.family}, {done.digest}). Use it as {done.uri}."
    remarks = list(done.remarks)
    if certify:
        known = certificate.RUN in done.tags
        done, missing = registry.certify_new(done)
        text += " It has its certificate." if known else f" {missing or _CERTIFIED}"
    text = " ".join([text, *(f"{remark[:1].upper()}{remark[1:]}." for remark in remarks)])
    say(text, {**done.to_dict(), "remarks": remarks}, as_json=as_json)


#: What is attached to the group.
COMMANDS = (import_,)
