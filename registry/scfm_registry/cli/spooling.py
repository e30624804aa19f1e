"""``scfm-lab models spool|sync``."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli.options import config_option
from scfm_lab.cli.output import say
from scfm_registry.cli.common import KINDS, certify_option, consent_option, json_option, leave, opened, registry_option


@click.command(
    short_help="Put a checkpoint aside, to be registered later.",
    epilog="\b\nExamples:\n  scfm-lab models spool ./my-checkpoint --name my-model --to /shared/spool\n"
    "  scfm-lab models spool ./run7 --name my-model --to /shared/spool --kind fine-tuned --project atlas",
)
@click.argument("path", metavar="FOLDER")
@click.option("--name", required=True, help="What the model will be called.")
@click.option("--to", "spool", required=True, metavar="SPOOL", help="The spool's folder.")
@click.option("--kind", type=click.Choice(KINDS), default="pretrained", show_default=True, help="What it is.")
@click.option("--licence", help="SPDX expression [default: the family's].")
@click.option(
    "--parent", "parent_digest", default="", metavar="DIGEST", help="Digest of the version that it was made from."
)
@click.option("--owner", help="Who answers for it [default: you].")
@click.option("--project", help="What it was made for.")
@consent_option
@config_option
@json_option
def spool(
    path: str,
    name: str,
    spool: str,
    kind: str,
    licence: str | None,
    parent_digest: str,
    config: dict[str, Any],
    as_json: bool,
    **said: str | None,
) -> None:
    """Put the checkpoint in FOLDER into a spool, from where it is registered later.

    For a cluster's node without network: no server and no database is needed.
    """
    from scfm_registry.spool import Spool

    given = {key: value for key, value in said.items() if value is not None}
    entry = Spool(spool).put(
        path, name, kind=kind, licence=licence, config=config, parent_digest=parent_digest, **given
    )
    text = f"{name} waits in {entry}; 'scfm-lab models sync {spool}' registers it."
    say(text, {"entry": str(entry), "name": name}, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models sync /shared/spool\n  scfm-lab models sync /shared/spool --json"
)
@click.argument("spool")
@certify_option
@registry_option
@json_option
def sync(spool: str, certify: bool, uri: str | None, as_json: bool) -> None:
    """Register what waits in SPOOL.

    It can be repeated: the same files give the same version. Exits 1 if something was refused; that stays in the spool.
    """
    found = opened(uri).sync(spool, certify=certify)
    data = {
        "registered": [item.to_dict() for item in found.registered],
        "known": [item.to_dict() for item in found.known],
        "refused": found.refused,
    }
    say(found.summary(), data, as_json=as_json)
    leave(ok=found.ok)


#: What is attached to the group.
COMMANDS = (spool, sync)
