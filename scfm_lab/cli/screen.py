"""``scfm-lab screen``: every gene in turn, ranked."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import TABLE_SUFFIXES, check_target, read_h5ad, write_table
from scfm_lab.cli.output import progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfm_lab.tasks.screen import Screen


@click.command(
    epilog="\b\nExamples:\n  scfm-lab screen cells.h5ad --model starter --max-cells 100 -o screen.csv\n"
    "  scfm-lab screen cells.h5ad --model starter --genes kinases.txt --groupby cell_type --target CD19+B -o screen.csv\n"
    "  scfm-lab screen cells.h5ad --model starter --plan"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option(
    "--genes",
    "genes_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Genes to ask about, one a line [default: all that the model knows and the cells express].",
)
@click.option("--dose", type=float, default=0.0, show_default=True, help="0 is a knockout, 2 twice the level.")
@click.option("--groupby", metavar="COL", help="Measure effects in each group of this obs column too.")
@click.option(
    "--sample", "sample_key", metavar="COL", help="The obs column of donors or samples: the unit of replication."
)
@click.option(
    "--contrast", metavar="COL", help="Ask whether the two conditions of this obs column respond differently."
)
@click.option("--target", metavar="GROUP", help="Measure the shift towards this group too.")
@click.option(
    "--readout",
    "readouts",
    metavar="NAME",
    multiple=True,
    help="shift, towards_target, expression or label. Several: all.",
)
@options.out_option(
    "The table to write (.csv or .tsv, also .gz). Without it the best genes are printed.", required=False
)
@click.option(
    "--null-genes",
    "n_null",
    type=click.IntRange(min=19),
    help="Genes of the null [default: 59; of a full screen up to 500].",
)
@click.option(
    "--pairs", type=click.IntRange(min=0), default=0, help="Change the so many best genes two by two as well."
)
@click.option("--max-cells", type=click.IntRange(min=1), help="Most cells of each group [default: all].")
@click.option("--draws", "n_draws", type=click.IntRange(min=1), default=2, show_default=True, help="Draws per dose.")
@click.option(
    "--resume",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Keep what is finished in this file and go on from there [default: in the data directory].",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would take, and do nothing.")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def screen(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    genes_file: str | None,
    out: str | None,
    only_plan: bool,
    layer: str | None,
    device: str,
    precision: str,
    as_json: bool,
    progress: bool | None,
    readouts: tuple[str, ...],
    **asked: Any,
) -> None:
    """Give every gene another dose in turn and rank the effects.

    Each effect is compared with what genes of the same expression and detection do. What it takes is told before it starts;
    a screen that was stopped goes on where it was when it is started again. While it runs, OUT.partial.csv holds the effects
    of the genes that are done.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.screen import Screen

    target = check_target(out, TABLE_SUFFIXES, [path]) if out else None
    genes = None if genes_file is None else _genes(Path(genes_file))
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    lab = Screen(adata, model, genes, readouts=readouts or None, layer=layer, options=model_options, **asked)
    plan = lab.plan()
    if only_plan:
        say(plan.summary(), {"summary": plan.summary(), **plan.__dict__}, as_json=as_json)
        return
    click.echo(plan.summary(), err=True)
    with progress_bar(progress, "genes") as show, _partial(target, lab) as each:
        result = lab.run(progress=show or False, each=each)
    data = {**result.to_json(), "provenance": result.provenance}
    if target is None:
        best = result.details.groupby(["readout", "group"], sort=False).head(10)
        say(f"{result.summary()}\n\n{best[list(result.table.columns)].to_string(index=False)}", data, as_json=as_json)
        return
    write_table(result.table, target)
    _partial_path(target).unlink(missing_ok=True)
    say(f"{result.summary()}\nWritten to {target}.", {**data, "written": str(target)}, as_json=as_json)


def _genes(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        message = f"'{path}' names no gene; write one a line."
        raise click.UsageError(message)
    return found


def _partial_path(target: Path) -> Path:
    return target.with_name(target.name.split(".")[0] + ".partial.csv")


@contextmanager
def _partial(target: Path | None, lab: Screen) -> Iterator[Callable[..., None] | None]:
    """What is told of each gene while the screen runs: effects so far; their null is known at the end."""
    if target is None:
        yield None
        return
    with _partial_path(target).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["gene", *(readout.name for readout in lab.readouts), "n_cells", "n_changed"])
        n = len(lab.used)

        def each(gene: str, effect: Any) -> None:
            rows.writerow([gene, *(f"{v.sum() / n:.6g}" for v in effect.values), n, len(effect.rows)])
            file.flush()

        yield each
