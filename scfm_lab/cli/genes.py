"""``scfm-lab similar-genes | attention | changed-genes | trends``: what the bench's panels tell of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import TABLE_SUFFIXES, check_target, read_h5ad, write_table
from scfm_lab.cli.output import progress_bar, say

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

_TABLE = "The table to write (.csv or .tsv, also .gz). Without it the table is printed."


@click.command(
    "similar-genes",
    epilog="\b\nExamples:\n  scfm-lab similar-genes CD3D --model starter\n"
    "  scfm-lab similar-genes CD3D --model starter --cells cells.h5ad --gene-sets human_hallmark --json",
)
@click.argument("gene")
@options.model_option
@options.model_options
@click.option(
    "--cells",
    "path",
    metavar="IN.h5ad",
    type=click.Path(exists=True, dir_okay=False),
    help="Cells, to tell how much expression explains; needed for --kind contextual.",
)
@click.option(
    "--kind", type=click.Choice(["input", "contextual"]), default="input", show_default=True, help="Which vectors."
)
@click.option("--n", type=click.IntRange(min=1), default=20, show_default=True, help="Neighbours.")
@click.option("--gene-sets", metavar="GMT", help="A GMT file or a named dataset, to test what the neighbours share.")
@options.out_option(_TABLE, required=False)
@options.layer_option
@options.seed_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def similar_genes(
    gene: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    path: str | None,
    kind: str,
    n: int,
    gene_sets: str | None,
    out: str | None,
    layer: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Tell which genes a model holds to be alike.

    Similar vectors are a hint and no evidence of a shared function: with --cells it is told how far they go with how often a gene is
    detected.
    """
    import scfm_lab as sl

    target = _target(out, path)
    adata = read_h5ad(path) if path else None
    model = sl.load_model(source, config=config or None)
    result = sl.similar_genes(
        model,
        gene,
        kind=kind,
        adata=adata,
        n=n,
        gene_sets=gene_sets,
        layer=layer,
        options=model_options or None,
        seed=seed,
    )
    data = {**result.to_json(), "provenance": result.provenance}
    _tell(result.summary(), result.table, data, target, as_json=as_json)


@click.command(epilog="\b\nExample:\n  scfm-lab attention cells.h5ad --model starter --gene CD3D --json")
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option("--gene", metavar="GENE", required=True, help="The gene.")
@click.option("--n", type=click.IntRange(min=1), default=8, show_default=True, help="Partners each way.")
@click.option(
    "--max-cells", type=click.IntRange(min=1), default=24, show_default=True, help="Cells, those with most of the gene."
)
@options.out_option(_TABLE, required=False)
@options.layer_option
@options.device_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def attention(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    gene: str,
    n: int,
    max_cells: int,
    out: str | None,
    layer: str | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Tell which genes a gene reads, and which read it.

    Attention of the last layer, mean over its heads and over the cells that hold most of the gene.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.gene_attention import gene_attention

    target = _target(out, path)
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    result = gene_attention(adata, model, gene, n=n, max_cells=max_cells, layer=layer, options=model_options or None)
    data = {**result.to_json(), "cells": result.cells, "provenance": result.provenance}
    _tell(result.summary(), result.table, data, target, as_json=as_json)


@click.command(
    "changed-genes",
    epilog="\b\nExample:\n  scfm-lab changed-genes cells.h5ad --model starter --gene CD3D=0 -o changed.csv",
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@options.doses_option
@click.option(
    "--groupby",
    metavar="COL",
    help="Measure the effect in each group of this obs column; doses above 1 take the group's own rates.",
)
@click.option("--n", type=click.IntRange(min=1), default=20, show_default=True, help="Most genes.")
@options.out_option(_TABLE, required=False)
@click.option("--draws", "n_draws", type=click.IntRange(min=1), default=8, show_default=True, help="Draws per dose.")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def changed_genes(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    doses: dict[str, float],
    groupby: str | None,
    n: int,
    out: str | None,
    n_draws: int,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Tell which genes a model expects to change most with a perturbation.

    Predictions of the model, mean over the cells that the doses change; no measurements.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.changed_genes import changed_genes as find
    from scfm_lab.tasks.perturb import Perturber

    if not doses:
        message = "Give at least one gene, such as --gene CD3D=0."
        raise click.UsageError(message)
    target = _target(out, path)
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    model.require("impute")
    with progress_bar(progress, "cells") as show:
        ready = Perturber(
            adata,
            model,
            groupby=groupby,
            layer=layer,
            options=model_options or None,
            seed=seed,
            progress=show or False,
        )
        result = ready.run(doses, n_draws=n_draws)
    table = find(model, result, ready.cells.genes, n=n)
    cells = int(result.changed.sum())
    given = ", ".join(f"{gene} at dose {dose:g}" for gene, dose in doses.items())
    summary = f"Predicted by {model.spec.name} in the {cells:,} cells that {given} changes; not measured."
    rows = table.to_dict(orient="records")
    data = {"summary": summary, "table": rows, "cells": cells, "provenance": result.provenance}
    _tell(summary, table, data, target, as_json=as_json)


@click.command(
    epilog='\b\nExample:\n  scfm-lab trends embedded.h5ad --rep X_starter --root "CD34+" --groupby cell_type --gene CD34 -o trends.csv'
)
@options.h5ad_argument("path", "IN.h5ad")
@click.option("--rep", metavar="KEY", required=True, help="The embedding in obsm to walk on.")
@click.option("--root", metavar="GROUP", required=True, help="Where it starts: a group of --groupby, or a cell's name.")
@click.option("--groupby", metavar="COL", help="The obs column that --root and the paths refer to.")
@click.option(
    "--gene", "genes", metavar="GENE", multiple=True, required=True, help="A gene. May be given several times."
)
@click.option("--sample", "sample_key", metavar="COL", help="The obs column of donors: the bootstrap is over them.")
@click.option("--points", type=click.IntRange(min=2), default=50, show_default=True, help="Points on each curve.")
@click.option("--draws", type=click.IntRange(min=1), default=100, show_default=True, help="Draws of the bootstrap.")
@options.out_option(_TABLE, required=False)
@options.layer_option
@options.seed_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def trends(
    path: str,
    rep: str,
    root: str,
    groupby: str | None,
    genes: tuple[str, ...],
    sample_key: str | None,
    points: int,
    draws: int,
    out: str | None,
    layer: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Follow the expression of genes along the paths of a trajectory.

    The cells are ordered as scfm-lab trajectory does; measured expression is smoothed along each path, with a bootstrap interval.
    """
    import scfm_lab as sl

    target = _target(out, path)
    adata = read_h5ad(path)
    ordered = sl.trajectory(adata, use_rep=rep, root=root, groupby=groupby, twin=False, layer=layer, seed=seed)
    result = ordered.trends(
        adata, list(genes), sample_key=sample_key, layer=layer, n_points=points, n_boot=draws, seed=seed
    )
    # The order that they follow is written nowhere else here.
    data = {**result.to_json(), "provenance": {**ordered.provenance, **result.provenance}}
    _tell(result.summary(), result.table, data, target, as_json=as_json)


def _target(out: str | None, path: str | None) -> Path | None:
    return check_target(out, TABLE_SUFFIXES, [path] if path else []) if out else None


def _tell(summary: str, table: pd.DataFrame, data: dict[str, Any], target: Path | None, *, as_json: bool) -> None:
    """Print a summary with its table, or write the table and say where it went."""
    if target is None:
        say(f"{summary}\n\n{table.to_string(index=False)}", data, as_json=as_json)
        return
    write_table(table, target)
    say(f"{summary}\nWritten to {target}.", {**data, "written": str(target)}, as_json=as_json)
