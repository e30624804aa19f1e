"""``scfm-lab registry check|setup``."""

from __future__ import annotations

import click

from scfm_lab.cli.output import say
from scfm_registry.cli.common import json_option, leave, opened
from scfm_registry.cli.tables import table


@click.command(
    epilog="\b\nExamples:\n  scfm-lab registry check\n  scfm-lab registry check --files\n"
    "  scfm-lab registry check http://registry.lab:5000 --json"
)
@click.argument("uri", required=False)
@click.option("--files", is_flag=True, help="Also check every file of every version, which reads them all.")
@json_option
def check(uri: str | None, files: bool, as_json: bool) -> None:
    """Say what is wrong with a registry.

    Nothing is changed (a small file that is sent to a server is taken away again); exits 1 if something is wrong.
    """
    from scfm_registry.checking import check as look

    found = look(uri, files=files)
    ok = all(item.state != "fault" for item in found)
    signs = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
    text = "\n".join(f"{signs[item.state]}  {item.what}: {item.words}" for item in found)
    say(text, {"ok": ok, "findings": [vars(item) for item in found]}, as_json=as_json)
    leave(ok=ok)


@click.command(epilog="\b\nExamples:\n  scfm-lab registry setup\n  scfm-lab registry setup http://registry.lab:5000")
@click.argument("uri", required=False)
@json_option
def setup(uri: str | None, as_json: bool) -> None:
    """Make the registry, with the built-in models in it.

    What is there already stays.
    """
    here = opened(uri)
    found = here.ensure_builtin()
    say(f"{here!r}\n{table(found)}", {"models": [item.to_dict() for item in found]}, as_json=as_json)


#: What is attached to the group.
COMMANDS = (check, setup)
