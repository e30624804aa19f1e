"""``scfm-lab compare``: two models on the same cells, as the bench's Compare panel has them."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import TABLE_SUFFIXES, check_target, read_h5ad, write_table
from scfm_lab.cli.output import progress_bar, say


@click.command(
    epilog="\b\nExamples:\n  scfm-lab compare cells.h5ad --model starter --against pca --groupby cell_type\n"
    "  scfm-lab compare cells.h5ad --model models:/blood/2 --against models:/blood/1 -o groups.csv\n"
    "  scfm-lab compare cells.h5ad --model scGPT_human --option max_length=2048 --against scGPT_human --against-option max_length=1200"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option("--against", metavar="SOURCE", required=True, help="The other model, named as for --model.")
@click.option(
    "--against-config",
    metavar="KEY=VALUE",
    multiple=True,
    callback=options.parse_settings,
    help="As --config, for the other model.",
)
@click.option(
    "--against-option",
    "against_options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=options.parse_settings,
    help="As --option, for the other model.",
)
@click.option("--groupby", metavar="COL", help="An obs column with groups that a good model keeps apart.")
@click.option(
    "--neighbours", type=click.IntRange(min=1), default=15, show_default=True, help="Neighbours of a cell to compare."
)
@options.out_option("The table to write (.csv or .tsv, also .gz). Without it the table is printed.", required=False)
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def compare(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    against: str,
    against_config: dict[str, Any],
    against_options: dict[str, Any],
    groupby: str | None,
    neighbours: int,
    out: str | None,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Compare two models, or two versions of one, on the same cells.

    Tells how many of a cell's nearest neighbours both models share, beside what chance would give, and how often the neighbours
    vote for the cell's own group with each.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.compare import compare as compare_models

    target = check_target(out, TABLE_SUFFIXES, [path]) if out else None
    adata = read_h5ad(path)
    pair = [
        sl.load_model(one, device=device, precision=precision, config=said or None)
        for one, said in ((source, config), (against, against_config))
    ]
    with progress_bar(progress, "cells") as show:
        result = compare_models(
            adata,
            *pair,
            groupby=groupby,
            layer=layer,
            n_neighbors=neighbours,
            options=model_options or None,
            options_against=against_options or None,
            seed=seed,
            progress=show or False,
        )
    data = {"models": result.models, **result.to_json(), "provenance": result.provenance}
    if target is None:
        shown = result.table.dropna(axis=1, how="all").to_string(index=False)
        say(f"{result.summary()}\n\n{shown}", data, as_json=as_json)
        return
    write_table(result.table, target)
    say(f"{result.summary()}\nWritten to {target}.", {**data, "written": str(target)}, as_json=as_json)
