"""``scfm-lab models …`` and ``scfm-lab registry …``: a module for each group of commands, attached by one line here."""

from __future__ import annotations

import click

from scfm_registry.cli import (
    changing,
    checking,
    finding,
    importing,
    lineage,
    records,
    serving,
    setting_up,
    sharing,
    spooling,
)


@click.group(
    epilog="\b\nExamples:\n  scfm-lab models list --can perturb --fits\n  scfm-lab models show starter@champion\n"
    "  scfm-lab models import ./my-checkpoint --name my-model"
)
def models() -> None:
    """List, import, check and measure registered models."""


@click.group(
    epilog="\b\nExamples:\n  scfm-lab registry check\n  scfm-lab registry check http://registry.lab:5000 --json"
)
def registry() -> None:
    """Set up and check the registry itself."""


for _command in (
    *finding.COMMANDS,
    *importing.COMMANDS,
    *checking.COMMANDS,
    *changing.COMMANDS,
    *lineage.COMMANDS,
    *sharing.COMMANDS,
    *records.COMMANDS,
    *spooling.COMMANDS,
):
    models.add_command(_command)

for _command in (*setting_up.COMMANDS, *serving.COMMANDS):
    registry.add_command(_command)
