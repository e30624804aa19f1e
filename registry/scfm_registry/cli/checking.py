"""``scfm-lab models verify|measure``."""

from __future__ import annotations

import click

from scfm_lab.cli.output import say
from scfm_registry.cli.common import json_option, leave, opened, registry_option


@click.command(
    short_help="Check that a version still is what was registered.",
    epilog="\b\nExamples:\n  scfm-lab models verify starter@champion\n  scfm-lab models verify my-model/2 --json",
)
@click.argument("reference")
@click.option("--files-only", is_flag=True, help="Do not compute the panel of its certificate.")
@click.option("--device", help="Where to compute it [default: where the certificate was made, or the CPU].")
@registry_option
@json_option
def verify(reference: str, files_only: bool, device: str | None, uri: str | None, as_json: bool) -> None:
    """Check that REFERENCE is what was registered, and does the same.

    Every file is compared with the hash under which it was registered; then a panel of real cells is computed and compared with
    the version's certificate. Where it has none, the vectors are not compared, which is told. Exits 1 if something differs.
    """
    result = opened(uri).verify(reference, recompute=not files_only, device=device)
    data = {
        "version": result.version.reference,
        "digest": result.version.digest,
        "ok": result.ok,
        "first_difference": result.first_difference or None,
        "files": result.files,
        "panel": result.panel.to_dict() if result.panel else None,
        "not_compared": result.not_compared or None,
        "copy_of": result.copy_of or None,
    }
    say(result.summary(), data, as_json=as_json)
    leave(ok=result.ok)


@click.command(epilog="\b\nExamples:\n  scfm-lab models certify my-model/2\n  scfm-lab models certify starter --json")
@click.argument("reference")
@click.option("--device", default="cpu", show_default=True, help="cuda, mps, cpu or auto.")
@click.option("--precision", default="float32", show_default=True, help="float32, bfloat16, float16 or auto.")
@registry_option
@json_option
def certify(reference: str, device: str, precision: str, uri: str | None, as_json: bool) -> None:
    """Record what REFERENCE makes of a fixed panel of real cells.

    'models verify' compares with it, on any machine, at any later time.
    """
    made = opened(uri).certify(reference, device=device, precision=precision)
    say(made.summary(), made.to_json(), as_json=as_json)


@click.command(
    short_help="Run a version here; record its speed and memory.",
    epilog="\b\nExamples:\n  scfm-lab models measure starter\n  scfm-lab models measure my-model/2 --cells 64 --json",
)
@click.argument("reference")
@click.option("--device", default="auto", show_default=True, help="cuda, mps, cpu or auto.")
@click.option("--precision", default="auto", show_default=True, help="float32, bfloat16, float16 or auto.")
@click.option("--cells", type=click.IntRange(min=1), default=256, show_default=True, help="Cells in each repeat.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Repeats after a warm-up.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="When to give up.",
)
@registry_option
@json_option
def measure(
    reference: str,
    device: str,
    precision: str,
    cells: int,
    repeats: int,
    timeout: float,
    uri: str | None,
    as_json: bool,
) -> None:
    """Run REFERENCE on this machine and record its speed and memory."""
    result = opened(uri).measure(
        reference, device=device, precision=precision, cells=cells, repeats=repeats, timeout=timeout
    )
    say(result.summary(), {**result.evidence, "run": result.run}, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models compare my-model/1 my-model/2\n  scfm-lab models compare starter pca --json"
)
@click.argument("a")
@click.argument("b")
@click.option("--cells", type=click.IntRange(min=0), default=100, show_default=True, help="Cells that both embed.")
@registry_option
@json_option
def compare(a: str, b: str, cells: int, uri: str | None, as_json: bool) -> None:
    """Show how version B differs from version A.

    Records, settings, scores with intervals, weights layer by layer, and vectors and neighbours of the same real cells.
    """
    found = opened(uri).compare(a, b, cells=cells)
    say(found.summary(), found.to_json() if as_json else {}, as_json=as_json)


#: What is attached to the group.
COMMANDS = (verify, certify, compare, measure)
