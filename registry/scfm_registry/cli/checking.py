"""``scfm-lab models verify|measure``."""

from __future__ import annotations

import click

from scfm_lab.cli.output import say
from scfm_registry.cli.common import json_option, leave, opened, registry_option


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models verify starter@champion\n  scfm-lab models verify my-model/2 --json"
)
@click.argument("reference")
@registry_option
@json_option
def verify(reference: str, uri: str | None, as_json: bool) -> None:
    """Check the files of REFERENCE against their hashes.

    Every file is compared with the hash under which it was registered; exits 1 if one differs.
    """
    result = opened(uri).verify(reference)
    data = {
        "version": result.version.reference,
        "digest": result.version.digest,
        "ok": result.ok,
        "files": result.files,
    }
    say(result.summary(), data, as_json=as_json)
    leave(ok=result.ok)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab models measure starter\n  scfm-lab models measure my-model/2 --cells 64 --json"
)
@click.argument("reference")
@click.option("--device", default="auto", show_default=True, help="cuda, mps, cpu or auto.")
@click.option("--precision", default="auto", show_default=True, help="float32, bfloat16, float16 or auto.")
@click.option("--cells", type=click.IntRange(min=1), default=256, show_default=True, help="Cells in each repeat.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Repeats after a warm-up.")
@registry_option
@json_option
def measure(
    reference: str, device: str, precision: str, cells: int, repeats: int, uri: str | None, as_json: bool
) -> None:
    """Run REFERENCE on this machine and record its speed and memory."""
    result = opened(uri).measure(reference, device=device, precision=precision, cells=cells, repeats=repeats)
    say(result.summary(), {**result.evidence, "run": result.run}, as_json=as_json)


#: What is attached to the group.
COMMANDS = (verify, measure)
