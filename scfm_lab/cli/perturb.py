"""``scfm-lab perturb``: doses in, effects beside their null out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import TABLE_SUFFIXES, check_target, read_h5ad, write_table
from scfm_lab.cli.output import progress_bar, say

if TYPE_CHECKING:
    from scfm_lab.tasks.perturb_result import PerturbResult


@click.command(
    epilog="\b\nExamples:\n  scfm-lab perturb cells.h5ad --model starter --gene CD3D=0 -o effects.csv\n"
    "  scfm-lab perturb cells.h5ad --model starter --gene GATA1=0 --gene SPI1=2 --groupby cell_type -o effects.csv"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@options.doses_option
@options.levels_option
@click.option("--groupby", metavar="COL", help="Measure the effect in each group of this obs column.")
@click.option(
    "--sample", "sample_key", metavar="COL", help="The obs column of donors or samples: the unit of replication."
)
@click.option("--target", metavar="GROUP", help="Measure the shift towards this group too.")
@click.option(
    "--readout",
    "readouts",
    metavar="NAME",
    multiple=True,
    help="towards_target, expression or label, besides the shift. Several: all.",
)
@options.out_option("The table to write (.csv or .tsv, also .gz). Without it the table is printed.", required=False)
@click.option("--draws", "n_draws", type=click.IntRange(min=1), default=8, show_default=True, help="Draws per dose.")
@click.option(
    "--null-genes", "n_null", type=click.IntRange(min=19), default=59, show_default=True, help="Genes of the null."
)
@click.option(
    "--max-cells",
    type=click.IntRange(min=10),
    default=200,
    show_default=True,
    help="Most cells of each group on which the gene is tested beside its null.",
)
@click.option("--null/--no-null", default=True, help="Measure comparable genes too [default: yes].")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Take vectors that were computed before.")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def perturb(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    doses: dict[str, float],
    levels: dict[str, float],
    groupby: str | None,
    sample_key: str | None,
    target: str | None,
    readouts: tuple[str, ...],
    out: str | None,
    n_draws: int,
    n_null: int,
    max_cells: int,
    null: bool,
    cache: bool,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Change genes' doses and measure the effect against its null.

    Dose 0 knocks a gene out, 1 leaves it, 2 doubles it. Each effect is compared with what genes of the same expression and
    detection do; where no such genes exist the verdict says so.
    """
    import scfm_lab as sl

    if not doses and not levels:
        message = "Give at least one gene, such as --gene CD3D=0."
        raise click.UsageError(message)
    file = check_target(out, TABLE_SUFFIXES, [path]) if out else None
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    with progress_bar(progress, "cells") as show:
        result = sl.perturb(
            adata,
            model,
            doses,
            set_to=levels or None,
            groupby=groupby,
            sample_key=sample_key,
            target=target,
            readouts=readouts or None,
            layer=layer,
            options=model_options,
            n_draws=n_draws,
            n_null=n_null,
            max_cells=max_cells,
            null=null,
            seed=seed,
            cache=cache,
            progress=show or False,
        )
    data = {**result.to_json(), "provenance": result.provenance}
    if file is None:
        say(f"{result.summary()}\n\n{_printed(result)}", data, as_json=as_json)
        return
    write_table(result.table, file)
    say(f"{result.summary()}\nWritten to {file}.", {**data, "written": str(file)}, as_json=as_json)


def _printed(result: PerturbResult) -> str:
    """The table for a terminal: columns that hold nothing are left out."""
    table = result.table.dropna(axis=1, how="all")
    if not result.has_null:
        table = table.drop(columns=["n_null", "n_tested", "n_changed_tested", "verdict"])
    return table.to_string(index=False)
