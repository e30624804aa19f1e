"""``scfm-lab models …`` and ``scfm-lab registry …``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scfm_lab.cli.options import config_option
from scfm_lab.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_registry.registry import Registry
    from scfm_registry.version import ModelVersion, Versions

_KINDS = ("pretrained", "fine-tuned", "baseline")


def _json(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(function)


def _registry(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--registry", "uri", metavar="URI", help="A folder, sqlite:///FILE or http(s)://… [default: the environment's]."
    )(function)


def _exit(*, ok: bool) -> None:
    """Leave with 1 where what was asked was done and the answer is bad news."""
    if not ok:
        click.get_current_context().exit(1)


def _open(uri: str | None) -> Registry:
    from scfm_registry.registry import Registry

    return Registry(uri)


@click.group(
    epilog="\b\nExamples:\n  scfm-lab models list --can perturb --fits\n  scfm-lab models show starter@champion\n"
    "  scfm-lab models import ./my-checkpoint --name my-model"
)
def models() -> None:
    """List, import, check and measure registered models."""


@models.command(
    "list", epilog="\b\nExamples:\n  scfm-lab models list\n  scfm-lab models list --organism human --fits --json"
)
@click.argument("words", nargs=-1)
@click.option("--name", help="All versions of this model.")
@click.option("--organism", help="Only models for this organism.")
@click.option(
    "--can", "abilities", multiple=True, metavar="ABILITY", help="Only models that can do this. Several times: all."
)
@click.option("--family", help="Only this family.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only this kind.")
@click.option("--fits", "fitting", is_flag=True, help="Only models that fit this machine's free memory.")
@click.option("--all", "all_versions", is_flag=True, help="Every version, and not one per model.")
@click.option("--trash", "deleted", is_flag=True, help="Deleted versions, and nothing else.")
@_registry
@_json
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
    """List models; WORDS must stand in the name, tags or card."""
    opened = _open(uri)
    if deleted:
        found = opened.trash()
    elif name is not None:
        found = opened.versions(name)
    else:
        found = opened.search(
            text=" ".join(words) or None,
            organism=organism,
            can=abilities,
            family=family,
            kind=kind,
            fits="this machine" if fitting else None,
            all_versions=all_versions,
        )
    say(_table(found), {"models": [item.to_dict() for item in found]}, as_json=as_json)


@models.command(epilog="\b\nExamples:\n  scfm-lab models show starter\n  scfm-lab models show starter/1 --json")
@click.argument("reference")
@_registry
@_json
def show(reference: str, uri: str | None, as_json: bool) -> None:
    """Print the card of REFERENCE: a name, NAME/3 or NAME@alias."""
    opened = _open(uri)
    card = opened.card(reference)
    say(card.rstrip(), {**opened.get(reference).to_dict(), "card": card}, as_json=as_json)


@models.command(
    epilog="\b\nExamples:\n  scfm-lab models promote my-model/2\n  scfm-lab models promote my-model/2 --alias candidate --expect 1"
)
@click.argument("reference")
@click.option("--alias", default="champion", show_default=True, help="The alias to point at it.")
@click.option(
    "--expect", metavar="VERSION", help="Do it only if the alias points at this version now ('none': at no version)."
)
@_registry
@_json
def promote(reference: str, alias: str, expect: str | None, uri: str | None, as_json: bool) -> None:
    """Point an alias at REFERENCE."""
    from scfm_registry.registry import ANYTHING

    wanted = {None: ANYTHING, "none": None}.get(expect, expect)
    done = _open(uri).promote(reference, alias, expect=wanted)
    say(f"{alias} of {done.name} is now {done.reference}.", done.to_dict(), as_json=as_json)


@models.command(
    epilog="\b\nExamples:\n  scfm-lab models verify starter@champion\n  scfm-lab models verify my-model/2 --json"
)
@click.argument("reference")
@_registry
@_json
def verify(reference: str, uri: str | None, as_json: bool) -> None:
    """Check the files of REFERENCE against their hashes.

    Every file is compared with the hash under which it was registered; exits 1 if one differs.
    """
    result = _open(uri).verify(reference)
    data = {
        "version": result.version.reference,
        "digest": result.version.digest,
        "ok": result.ok,
        "files": result.files,
    }
    say(result.summary(), data, as_json=as_json)
    _exit(ok=result.ok)


@models.command(
    epilog="\b\nExamples:\n  scfm-lab models measure starter\n  scfm-lab models measure my-model/2 --cells 64 --json"
)
@click.argument("reference")
@click.option("--device", default="auto", show_default=True, help="cuda, mps, cpu or auto.")
@click.option("--precision", default="auto", show_default=True, help="float32, bfloat16, float16 or auto.")
@click.option("--cells", type=click.IntRange(min=1), default=256, show_default=True, help="Cells in each repeat.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Repeats after a warm-up.")
@_registry
@_json
def measure(
    reference: str, device: str, precision: str, cells: int, repeats: int, uri: str | None, as_json: bool
) -> None:
    """Run REFERENCE on this machine and record its speed and memory."""
    result = _open(uri).measure(reference, device=device, precision=precision, cells=cells, repeats=repeats)
    say(result.summary(), {**result.evidence, "run": result.run}, as_json=as_json)


@models.command(
    epilog="\b\nExamples:\n  scfm-lab models delete my-model/1 --because 'trained on the wrong labels'\n"
    "  scfm-lab models restore my-model/1"
)
@click.argument("reference")
@click.option("--because", default="", help="Why, in one line.")
@click.option("--force", is_flag=True, help="Also if it has aliases, which it loses.")
@click.option("--purge", is_flag=True, help="Delete a version that is in the trash, and its files, for good.")
@_registry
@_json
def delete(reference: str, because: str, force: bool, purge: bool, uri: str | None, as_json: bool) -> None:
    """Put the version REFERENCE (NAME/3) into the trash."""
    opened = _open(uri)
    if purge:
        opened.purge(reference)
        say(f"{reference} and its files are deleted.", {"purged": reference}, as_json=as_json)
        return
    done = opened.delete(reference, because=because, force=force)
    text = f"{done.reference} is in the trash; scfm-lab models restore {done.reference} brings it back."
    say(text, done.to_dict(), as_json=as_json)


@models.command(epilog="\b\nExamples:\n  scfm-lab models restore my-model/1\n  scfm-lab models list --trash")
@click.argument("reference")
@_registry
@_json
def restore(reference: str, uri: str | None, as_json: bool) -> None:
    """Take the version REFERENCE (NAME/3) out of the trash."""
    done = _open(uri).restore(reference)
    say(f"{done.reference} is back, without an alias.", done.to_dict(), as_json=as_json)


@models.command(epilog="\b\nExamples:\n  scfm-lab models catalog\n  scfm-lab models catalog geneformer --json")
@click.argument("words", nargs=-1)
@_registry
@_json
def catalog(words: tuple[str, ...], uri: str | None, as_json: bool) -> None:
    """List published checkpoints, and which of them are here.

    It says where to get each, its size, licence, and what else it needs. WORDS must stand in what is said of one.
    """
    found = [
        item
        for item in _open(uri).catalog()
        if all(word.casefold() in str(item.to_dict()).casefold() for word in words)
    ]
    lines = []
    for item in found:
        sizes = [f"{item.parameters / 1e6:,.0f} M parameters"] if item.parameters else []
        sizes += [f"weights of {item.size / 2**20:,.0f} MiB"] if item.size else []
        use = "; not for commercial use" if item.commercial is False else ""
        lines += [
            f"{item.id}: {item.title}, {item.trained_on}" + (f" ({', '.join(sizes)})" if sizes else ""),
            f"  get {', '.join(item.files)} from {item.where}" + (f"; beside it {item.beside}" if item.beside else ""),
            f"  licence: {item.licence}{use}",
        ]
        lines += [f"  here: {', '.join(item.here)}"] if item.here else []
    say("\n".join(lines) or "None is like that.", {"checkpoints": [item.to_dict() for item in found]}, as_json=as_json)


@models.command("import", epilog="\b\nExamples:\n  scfm-lab models import ./my-checkpoint --name my-model")
@click.argument("path", metavar="FOLDER")
@click.option("--name", required=True, help="What the model is called here: lower-case letters, digits, hyphens.")
@click.option("--kind", type=click.Choice(_KINDS), default="pretrained", show_default=True, help="What it is.")
@click.option("--licence", help="SPDX expression [default: the family's].")
@config_option
@_registry
@_json
def import_(
    path: str, name: str, kind: str, licence: str | None, config: dict[str, Any], uri: str | None, as_json: bool
) -> None:
    """Register the checkpoint in FOLDER, as published.

    The same files twice give the same version. Pickled weights and dictionaries (.pt, .bin, .ckpt, .pkl) are converted to
    safetensors and JSON, in a process without network; nothing in them runs.
    """
    done = _open(uri).import_checkpoint(path, name, kind=kind, licence=licence, config=config)
    text = f"{done.reference} is registered ({done.family}, {done.digest}). Use it as {done.uri}."
    say(text, done.to_dict(), as_json=as_json)


@click.group(
    epilog="\b\nExamples:\n  scfm-lab registry check\n  scfm-lab registry check http://registry.lab:5000 --json"
)
def registry() -> None:
    """Set up and check the registry itself."""


@registry.command(
    epilog="\b\nExamples:\n  scfm-lab registry check\n  scfm-lab registry check --files\n"
    "  scfm-lab registry check http://registry.lab:5000 --json"
)
@click.argument("uri", required=False)
@click.option("--files", is_flag=True, help="Also check every file of every version, which reads them all.")
@_json
def check(uri: str | None, files: bool, as_json: bool) -> None:
    """Say what is wrong with a registry.

    Nothing is changed; exits 1 if something is wrong.
    """
    from scfm_registry.checking import check as look

    found = look(uri, files=files)
    ok = all(item.state != "fault" for item in found)
    signs = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
    text = "\n".join(f"{signs[item.state]}  {item.what}: {item.words}" for item in found)
    say(text, {"ok": ok, "findings": [vars(item) for item in found]}, as_json=as_json)
    _exit(ok=ok)


@registry.command(epilog="\b\nExamples:\n  scfm-lab registry setup\n  scfm-lab registry setup http://registry.lab:5000")
@click.argument("uri", required=False)
@_json
def setup(uri: str | None, as_json: bool) -> None:
    """Make the registry, with the built-in models in it.

    What is there already stays.
    """
    opened = _open(uri)
    found = opened.ensure_builtin()
    say(f"{opened!r}\n{_table(found)}", {"models": [item.to_dict() for item in found]}, as_json=as_json)


def _table(found: Versions) -> str:
    """Lay versions out in columns for a terminal."""
    if not found:
        return "No model matches."
    rows = [
        ("NAME", "VERSION", "ALIASES", "KIND", "CAN", "ORGANISMS", "LICENCE", "SIZE", "FITS"),
        *(_row(item) for item in found),
    ]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _licence(item: ModelVersion) -> str:
    """The licence's name, and whether it forbids commercial use."""
    name = (item.licence or "unknown").split(" (")[0].split(";")[0]
    return f"{name} (non-commercial)" if item.commercial is False else name


def _row(item: ModelVersion) -> tuple[str, ...]:
    return (
        item.name,
        str(item.version),
        ",".join(item.aliases),
        item.kind,
        ",".join(sorted(item.abilities)),
        ",".join(item.organisms),
        _licence(item),
        "" if item.size is None else f"{item.size / 2**20:.1f} MiB",
        "" if item.fit is None else f"{item.fit.verdict}: {item.fit.reason}",
    )
