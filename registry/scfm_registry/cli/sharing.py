"""``scfm-lab models export|import-bundle|keys|mirror|adopt``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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

if TYPE_CHECKING:
    from scfm_registry.sharing.keys import Signer


@click.command(
    short_help="Write a version as one signed file, or as its family is published.",
    epilog="\b\nExamples:\n  scfm-lab models export my-model -o my-model.scfm\n"
    "  scfm-lab models export my-model/2 -o my-model.scfm --key ana-lab\n"
    "  scfm-lab models export blood --format published --out blood-files",
)
@click.argument("reference")
@click.option(
    "-o",
    "--output",
    "--out",
    "output",
    required=True,
    type=click.Path(),
    help="The file, such as my-model.scfm; with --format published a new folder.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["bundle", "published"]),
    default="bundle",
    show_default=True,
    help="A bundle for another registry, or the files as the model's family is published, for its own code.",
)
@click.option("--key", "name", help="Which of your keys signs [default: the only one, made on first use].")
@click.option("--unsigned", is_flag=True, help="Do not sign; whoever imports it must take it unsigned.")
@click.option(
    "--parents/--no-parents",
    default=True,
    show_default=True,
    help="Put in what it was made from; without it whoever imports must have that.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@registry_option
@json_option
def export(
    reference: str,
    output: str,
    kind: str,
    name: str | None,
    unsigned: bool,
    parents: bool,
    force: bool,
    uri: str | None,
    as_json: bool,
) -> None:
    """Write the version REFERENCE as one signed file, for another lab.

    It holds the files with their hashes, those of what it was made from, the card, the licence in full and what it obliges to, the
    certificate, and records of measurements. With --format published it is a folder of the files that the family's authors
    publish, of a fine-tuned version too; REFERENCE may then be a folder such as ./blood.
    """
    if kind == "published":
        if name or unsigned or force or not parents:
            message = "--key, --unsigned, --no-parents and --force are for bundles."
            raise click.UsageError(message)
        written = opened(uri).export_published(reference, output)
        say(written.summary(), written.to_dict(), as_json=as_json)
        return
    if Path(output).is_dir():
        message = f"{output} is a folder; name the file to write, or choose --format published."
        raise click.BadParameter(message, param_hint="'-o' / '--output'")
    if name and unsigned:
        message = "--key and --unsigned contradict each other."
        raise click.UsageError(message)
    done = opened(uri).export_bundle(reference, output, sign=name or not unsigned, parents=parents, overwrite=force)
    say(done.summary(), done.to_dict(), as_json=as_json)


@click.command(
    "import-bundle",
    short_help="Register the version in another lab's bundle.",
    epilog="\b\nExamples:\n  scfm-lab models import-bundle my-model.scfm\n"
    "  scfm-lab models import-bundle my-model.scfm --name theirs --trust SHA256:…",
)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--name", help="What the model is called here [default: as there].")
@click.option("--trust", metavar="FINGERPRINT", help="The signer's key, as its owner told you; known from now on.")
@click.option("--unsigned", is_flag=True, help="Take a bundle that nobody signed.")
@click.option("--yes", is_flag=True, help="Ask nothing: a signer who is not known yet is refused without --trust.")
@certify_option
@registry_option
@json_option
def import_bundle(
    file: str,
    name: str | None,
    trust: str | None,
    unsigned: bool,
    yes: bool,
    certify: bool,
    uri: str | None,
    as_json: bool,
) -> None:
    """Register the version in a bundle that another registry has exported.

    Its signature and every file's hash are checked first. A signer who is not known yet is asked about once.
    """
    from scfm_registry.sharing.licensing import obligations

    ask = None if yes or as_json or not sys.stdin.isatty() else _ask
    done = opened(uri).import_bundle(file, name=name, trust=trust, ask=ask, unsigned=unsigned, certify=certify)
    duties = obligations(done.licence, done.commercial)
    text = f"{done.reference} is registered ({done.family}, {done.digest}). Use it as {done.uri}.\n{duties}"
    say(text, {**done.to_dict(), "obligations": duties}, as_json=as_json)


def _ask(signer: Signer) -> bool:
    click.echo(
        f"This bundle is signed by '{signer.name}', who is not known here. The fingerprint of the key is\n  {signer.fingerprint}\n"
        "Compare it with its owner over another way (telephone, in person).",
        err=True,
    )
    return click.confirm(f"Trust '{signer.name}' with this key from now on?", err=True)


@click.command(
    short_help="List the keys that sign bundles.",
    epilog="\b\nExamples:\n  scfm-lab models keys\n  scfm-lab models keys --make ana-lab\n  scfm-lab models keys --forget ben",
)
@click.option("--make", metavar="NAME", help="Make a key of your own, under this name.")
@click.option("--forget", metavar="NAME", help="Forget somebody's key: they are asked about anew.")
@json_option
def keys(make: str | None, forget: str | None, as_json: bool) -> None:
    """List the keys that sign bundles: yours, and those of others that are known here."""
    from scfm_registry.sharing.keys import Keyring

    keyring = Keyring()
    if make and forget:
        message = "Give either --make or --forget."
        raise click.UsageError(message)
    if make:
        made = keyring.make(make)
        say(f"Your key '{made.name}' is made: {made.fingerprint}", made.to_dict(), as_json=as_json)
        return
    if forget:
        gone = keyring.forget(forget)
        say(f"The key of '{gone.name}' ({gone.fingerprint}) is forgotten.", gone.to_dict(), as_json=as_json)
        return
    found = keyring.all()
    lines = [
        f"{item.name}  {item.fingerprint}  {'yours' if item.own else f'known since {item.since}'}" for item in found
    ]
    text = "\n".join(lines) or "There are no keys yet; the first export makes yours."
    say(text, {"keys": [item.to_dict() for item in found]}, as_json=as_json)


@click.command(
    short_help="Make a read-only registry of chosen versions.",
    epilog="\b\nExamples:\n  scfm-lab models mirror /media/usb/models starter my-model\n  scfm-lab models mirror ./classroom --json",
)
@click.argument("folder", type=click.Path(file_okay=False))
@click.argument("references", nargs=-1)
@registry_option
@json_option
def mirror(folder: str, references: tuple[str, ...], uri: str | None, as_json: bool) -> None:
    """Make FOLDER a read-only registry of chosen versions, for machines without network.

    REFERENCES are names (the champion, else the newest version), NAME/3 or NAME@alias [default: one version of each model].
    """
    done = opened(uri).mirror(folder, references or None)
    say(done.summary(), done.to_dict(), as_json=as_json)


@click.command(
    short_help="Find checkpoints below FOLDER and register the new ones.",
    epilog="\b\nExamples:\n  scfm-lab models adopt /home --dry-run\n  scfm-lab models adopt ./old-projects --yes --json",
)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--yes", is_flag=True, help="Register all that are new, without asking.")
@click.option("--dry-run", is_flag=True, help="Only say what is there.")
@click.option("--kind", type=click.Choice(KINDS), default="pretrained", show_default=True, help="What they are.")
@consent_option
@parent_option
@certify_option
@registry_option
@json_option
def adopt(
    folder: str,
    yes: bool,
    dry_run: bool,
    kind: str,
    consent: str | None,
    parent: str | None,
    certify: bool,
    uri: str | None,
    as_json: bool,
) -> None:
    """Find the checkpoints that lie below FOLDER, and register those that are new.

    Copies of one content are told once, and what is registered already is said. Links are not followed, and nothing in FOLDER is
    changed. Exits 1 if one could not be registered.
    """
    from scfm_lab.errors import ScfmError

    registry = opened(uri)
    with progress_bar(None, "folders") as report:
        found = registry.find_strays(folder, progress=report or False)
    if not as_json:
        click.echo(found.summary())
    asking = not (yes or dry_run or as_json) and sys.stdin.isatty()
    adopted: list[dict[str, Any]] = []
    failed: list[str] = []
    for item in found:
        wanted = (
            yes or (asking and click.confirm(f"Register {item.path} as {item.name}?", err=True)) if item.new else False
        )
        if not wanted or dry_run:
            continue
        try:
            done = registry.adopt(item, kind=kind, consent=consent, parent=parent, certify=certify)
        except ScfmError as error:
            failed.append(str(error))
            continue
        adopted.append(done.to_dict())
        if not as_json:
            click.echo(f"{done.reference} is registered ({done.family}, {done.digest}).")
    if as_json:
        say("", {**found.to_dict(), "adopted": adopted, "failed": failed}, as_json=True)
    elif any(item.new for item in found) and not (yes or dry_run or asking):
        click.echo("Nothing was registered; --yes registers what is new.")
    for text in failed:
        click.echo(f"Error: {text}", err=True)
    if failed:
        click.get_current_context().exit(1)


#: What is attached to the group.
COMMANDS = (export, import_bundle, keys, mirror, adopt)
