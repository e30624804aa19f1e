"""``scfm-lab models promote|delete|restore``."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from scfm_lab.cli.output import say
from scfm_registry.cli.common import json_option, opened, registry_option


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models promote my-model/2\n  scfm-lab models promote my-model/2 --alias candidate --expect 1"
)
@click.argument("reference")
@click.option("--alias", default="champion", show_default=True, help="The alias to point at it.")
@click.option(
    "--expect",
    metavar="VERSION",
    help="Only if the alias points at this version ('none': at none) [default: what it is now].",
)
@click.option("--yes", is_flag=True, help="Do not ask before another version loses the alias.")
@registry_option
@json_option
def promote(reference: str, alias: str, expect: str | None, yes: bool, uri: str | None, as_json: bool) -> None:
    """Point an alias at REFERENCE.

    At a terminal you are asked before another version loses it; what somebody promotes meanwhile is not overwritten.
    """
    here = opened(uri)
    found = here.get(reference)
    before = here.holder(found.name, alias)
    other = before if before != found.reference else None
    if other and expect is None and not (yes or as_json) and sys.stdin.isatty():
        click.confirm(
            f"'{alias}' of {found.name} is {other}. Is it to be {found.reference} instead?", abort=True, err=True
        )
    done = here.promote(found.reference, alias, expect={None: before, "none": None}.get(expect, expect))
    text = (
        f"{alias} of {done.name} is now {done.reference}{f', instead of {done.instead_of}' if done.instead_of else ''}."
    )
    text = " ".join([text, *(f"{remark[:1].upper()}{remark[1:]}." for remark in done.remarks)])
    told = {"instead_of": done.instead_of or None, "remarks": list(done.remarks)}
    say(text, {**done.to_dict(), **told}, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models approve my-model/2\n  scfm-lab models approve my-model/2 --alias trusted --withdraw"
)
@click.argument("reference")
@click.option("--alias", default="champion", show_default=True, help="For which alias.")
@click.option("--withdraw", is_flag=True, help="Take it back.")
@registry_option
@json_option
def approve(reference: str, alias: str, withdraw: bool, uri: str | None, as_json: bool) -> None:
    """Give your word that REFERENCE may have an alias.

    A gate can ask for it; whoever registered a version cannot approve it.
    """
    said = opened(uri).approve(reference, alias, withdraw=withdraw)
    say(
        f"Approved for '{alias}' by {', '.join(said) or 'nobody'}.",
        {"alias": alias, "approved_by": said},
        as_json=as_json,
    )


@click.command(
    short_help="Say what a version must show to get an alias.",
    epilog="\b\nExamples:\n  scfm-lab models gate my-model --alias champion --metric macro_f1 --approvals 1\n"
    "  scfm-lab models gate my-model --metric accuracy --above floor\n  scfm-lab models gate my-model --none",
)
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The gate of which alias.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="A recorded score that must be above floor and parent. Several times: all.",
)
@click.option(
    "--above",
    "above",
    multiple=True,
    type=click.Choice(["floor", "parent"]),
    help="What scores must be above. Several times: all [default: floor and parent].",
)
@click.option("--approvals", type=click.IntRange(min=0), help="How many other people must have approved.")
@click.option("--none", "gone", is_flag=True, help="Take the gate away.")
@click.option("--agree", is_flag=True, help="Give your word that somebody else may make the gate looser, once.")
@registry_option
@json_option
def gate(
    name: str,
    alias: str,
    metrics: tuple[str, ...],
    above: tuple[str, ...],
    approvals: int | None,
    gone: bool,
    agree: bool,
    uri: str | None,
    as_json: bool,
) -> None:
    """Say what a version of NAME must show to get an alias; without options, show the gate.

    What is not named stays as it is. A gate that asks for other people's word asks for as many before it is made looser.
    """
    from scfm_lab.errors import ModelError
    from scfm_registry.gates import Gate

    here = opened(uri)
    if agree:
        here.agree(name, alias)
    elif gone:
        here.set_gate(name, alias, None)
    elif metrics or above or approvals is not None:
        known = Gate()
        with suppress(ModelError):  # one that cannot be read is set anew
            known = here.gate(name, alias) or known
        if above and not (metrics or known.metrics):
            raise click.UsageError("--above is about scores; name one as well, such as --metric macro_f1.")
        kept = {"metrics": metrics or known.metrics, "above": above or known.above}
        here.set_gate(name, alias, Gate(**kept, approvals=known.approvals if approvals is None else approvals))
    found = here.gate(name, alias)
    asks = [f"{metric} above {' and '.join(found.above)}" for metric in found.metrics] if found else []
    asks += [f"{found.approvals} approvals"] if found and found.approvals else []
    text = f"'{alias}' of {name} asks for {' and '.join(asks) or 'nothing'}."
    say(text, {"name": name, "alias": alias, "gate": found.to_dict() if found else None}, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models delete my-model/1 --because 'trained on the wrong labels'\n"
    "  scfm-lab models delete my-model/1 --purge"
)
@click.argument("reference")
@click.option("--because", default="", help="Why, in one line.")
@click.option("--force", is_flag=True, help="Also if it has aliases, which it loses.")
@click.option("--purge", is_flag=True, help="Delete a version that is in the trash, and its files, for good.")
@registry_option
@json_option
def delete(reference: str, because: str, force: bool, purge: bool, uri: str | None, as_json: bool) -> None:
    """Put the version REFERENCE (NAME/3) into the trash."""
    here = opened(uri)
    if purge:
        stays = here.purge(reference)
        text = (
            f"{reference} is deleted. Its files stay: {stays}." if stays else f"{reference} and its files are deleted."
        )
        say(text, {"purged": reference, "files_stay": stays or None}, as_json=as_json)
        return
    done = here.delete(reference, because=because, force=force)
    text = f"{done.reference} is in the trash; scfm-lab models restore {done.reference} brings it back."
    say(text, done.to_dict(), as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models restore my-model/1\n  scfm-lab models restore my-model/1 --json"
)
@click.argument("reference")
@registry_option
@json_option
def restore(reference: str, uri: str | None, as_json: bool) -> None:
    """Take the version REFERENCE (NAME/3) out of the trash."""
    done = opened(uri).restore(reference)
    say(f"{done.reference} is back, without an alias.", done.to_dict(), as_json=as_json)


#: What is attached to the group.
COMMANDS = (promote, approve, gate, delete, restore)
