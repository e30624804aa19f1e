"""``scfm-lab response-curves``: what a gene's answers are at a few doses, and how well what lies between is guessed."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import TABLE_SUFFIXES, check_target, read_h5ad, write_table
from scfm_lab.cli.output import progress_bar, say


@click.command(
    "response-curves",
    epilog="\b\nExamples:\n  scfm-lab response-curves cells.h5ad --model starter --gene CD3D --gene LYZ -o curves.csv\n"
    "  scfm-lab response-curves cells.h5ad --model starter --gene CD3D --dose 0 --dose 0.5 --dose 2 --check-dose 0.3 --json",
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option(
    "--gene", "genes", metavar="GENE", multiple=True, required=True, help="A gene. May be given several times."
)
@click.option(
    "--dose",
    "doses",
    metavar="DOSE",
    type=click.FloatRange(min=0),
    multiple=True,
    help="A dose to compute; 1 belongs to every curve. Several times: all [default: 0, 0.25, 0.5, 1.5, 2].",
)
@click.option(
    "--check-dose",
    "check_doses",
    metavar="DOSE",
    type=click.FloatRange(min=0),
    multiple=True,
    help="A dose between them at which the interpolation's error is measured. May be given several times.",
)
@click.option(
    "--cells", type=click.IntRange(min=1), default=200, show_default=True, help="Cells, chosen by their digests."
)
@click.option("--groupby", metavar="COL", help="Doses above 1 take the rates of the groups of this obs column.")
@click.option(
    "--null-genes",
    "n_null",
    type=click.IntRange(min=19),
    help="Comparable genes, to tell the error in null standard deviations too [default: none].",
)
@options.out_option("The table to write (.csv or .tsv, also .gz). Without it the table is printed.", required=False)
@click.option("--draws", "n_draws", type=click.IntRange(min=1), default=4, show_default=True, help="Draws per dose.")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def response_curves(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    genes: tuple[str, ...],
    doses: tuple[float, ...],
    check_doses: tuple[float, ...],
    cells: int,
    groupby: str | None,
    n_null: int | None,
    out: str | None,
    n_draws: int,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Compute genes' answers at a few doses, as the bench's sliders follow them.

    The table has the mean shift at each dose; what lies between is interpolated, and how far that is from what is computed there is
    told too.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.response_curves import DOSES

    target = check_target(out, TABLE_SUFFIXES, [path]) if out else None
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    with progress_bar(progress, "doses") as show:
        result = sl.response_curves(
            adata,
            model,
            list(genes),
            doses=doses or DOSES,
            check_doses=check_doses,
            cells=cells,
            groupby=groupby,
            n_draws=n_draws,
            n_null=n_null or 0,
            layer=layer,
            options=model_options or None,
            seed=seed,
            progress=show or False,
        )
    data = {
        **result.to_json(),
        "error": result.error.astype(object).where(result.error.notna(), None).to_dict(orient="records"),
        "provenance": result.provenance,
    }
    if target is None:
        say(f"{result.summary()}\n\n{result.table.to_string(index=False)}", data, as_json=as_json)
        return
    write_table(result.table, target)
    say(f"{result.summary()}\nWritten to {target}.", {**data, "written": str(target)}, as_json=as_json)
