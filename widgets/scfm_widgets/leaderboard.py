"""``scfm-lab benchmark``: models on a lab's own data, and one page of what they reached.

It is here and not in ``scfm_lab`` because its page is made by the report, which lies above the science.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

import scfm_lab as sl
from scfm_lab.cli import options
from scfm_lab.cli.files import check_target, read_h5ad
from scfm_lab.cli.output import progress_bar, say

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_lab.evaluation.leaderboard import Leaderboard
    from scfm_lab.evaluation.score import Score

PARTS = ("annotation", "clustering", "integration", "trajectory", "perturbation")


@click.command(
    epilog="\b\nExamples:\n  scfm-lab benchmark cells.h5ad\n"
    "  scfm-lab benchmark cells.h5ad --model starter --model models:/scgpt-human --labels cell_type --sample donor -o board.html"
)
@options.h5ad_argument("path", "DATA.h5ad")
@click.option(
    "--model",
    "models",
    metavar="SOURCE",
    multiple=True,
    help="A model; several times: all of them [default: every registered model that gives vectors].",
)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this question; several times: these."
)
@click.option("--labels", "labels_key", metavar="COL", help="The obs column of cell types [default: cell_type].")
@click.option("--batch", "batch_key", metavar="COL", help="The obs column of batches [default: batch].")
@click.option(
    "--sample", "sample_key", metavar="COL", help="The obs column of donors or samples [default: donor, sample]."
)
@click.option(
    "--stage", "stage_key", metavar="COL", help="The obs column of known stages [default: stage_order, stage]."
)
@click.option("--root", metavar="GROUP", help="Where the trajectory begins [default: the type of the lowest stage].")
@click.option("--perturbation", "perturbation_key", metavar="COL", help="The obs column of measured perturbations.")
@click.option("--control", default="control", show_default=True, help="Name of the control cells in it.")
@click.option("-o", "--out", default="scfm-lab-benchmark.html", show_default=True, metavar="FILE", help="The page.")
@click.option(
    "--record/--no-record", default=True, show_default=True, help="Keep scores of registered versions in MLflow."
)
@click.option("--fresh", is_flag=True, help="Compute everything anew, also what was finished before.")
@options.layer_option
@options.seed_option
@options.report_options
def benchmark(
    path: str,
    models: tuple[str, ...],
    parts: tuple[str, ...],
    out: str,
    as_json: bool,
    progress: bool | None,
    **settings: Any,
) -> None:
    """Score models on your own cells, between floors and ceilings.

    Annotation, clustering, integration, trajectory and perturbation, as far as the columns allow; what is left out is said. A
    finished part is kept: after a kill the same command goes on. The page is one file that opens with no network.
    """
    target = check_target(out, (".html", ".htm"), [path])
    adata = read_h5ad(path)
    with progress_bar(progress, "parts") as show:
        found = sl.evaluate.leaderboard(
            adata, list(models) or None, parts=list(parts) or None, progress=show, **settings
        )
    write_page(found, target, name=path)
    say(
        f"{found.summary()}\n\nThe page is {target}; open it in any browser.",
        {**found.to_json(), "page": str(target)},
        as_json=as_json,
    )


def write_page(found: Leaderboard, target: Path, *, name: str) -> None:
    """Write a leaderboard as one page that needs nothing beside it.

    Parameters
    ----------
    found
        From :func:`scfm_lab.evaluate.leaderboard`.
    target
        The file.
    name
        What the data is called on the page.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    from pathlib import PurePath

    from scfm_widgets.export import write_report

    data = found.provenance
    models = list(dict.fromkeys(one.version or one.model for one in found.finished))
    write_report(
        target,
        title=f"Models on {PurePath(name).name}",
        lead=(
            f"{data['cells']:,} cells, {data['genes']:,} genes; {', '.join(models) or 'no model'}. Each score stands between the best "
            "method that learned nothing (the floor) and what replicates reach (the ceiling), where these can be had. There is no "
            "overall rank: the questions differ, and a model that is no better than the floor adds nothing there."
        ),
        sections=_sections(found),
    )


def _sections(found: Leaderboard) -> list[dict[str, Any]]:
    from scfm_widgets.charts import svg

    sections: list[dict[str, Any]] = []
    for part in found.parts:
        scores = found.scores(part)
        sections.append(
            {
                "heading": scores.title,
                "svg": svg(scores.plot(), width=420)["light"],
                "alt": f"{scores.title}: each model's scores from floor to ceiling",
                "table": [
                    ["metric", "model", "score", "interval", "floor", "ceiling", "verdict", "remark"],
                    *map(_row, scores),
                ],
                "text": "\n".join(scores.notes),
            }
        )
    if len(found.left_out):
        rows = [[row.part or "all", row.model or "all", row.why] for row in found.left_out.itertuples()]
        sections.append({"heading": "Left out, and why", "table": [["part", "model", "why"], *rows]})
    data = found.provenance
    facts = {
        "data": data["data_digest"],
        "columns": ", ".join(f"{what} {name}" for what, name in data["columns"].items()),
        "seed": data["seed"],
        "runs": ", ".join(f"{one.part} of {one.version}: {one.run}" for one in found.finished if one.run)
        or "none kept",
        "packages": ", ".join(f"{package} {version}" for package, version in data["packages"].items()),
    }
    sections.append(
        {"heading": "Where this comes from", "table": [["what", "which"], *([k, str(v)] for k, v in facts.items())]}
    )
    return sections


def _row(score: Score) -> list[str]:
    interval = f" [{score.low:.3f}, {score.high:.3f}]" if np.isfinite(score.low) else ""
    floor = f"{score.floor:.3f} ({score.floor_name})" if np.isfinite(score.floor) else "–"
    # What the verdict goes by: the value's own interval may well hold the floor.
    floor += f"; minus it {score.difference}" if score.difference else ""
    ceiling = f"{score.ceiling:.3f} ({score.ceiling_name})" if np.isfinite(score.ceiling) else "–"
    value = f"{score.value:.3f}{interval}" if np.isfinite(score.value) else "not measured"
    remark = ". ".join(filter(None, [score.missing, score.remark]))
    # What it is over says what it is worth: cells of two donors hide how donors differ.
    over = score.interval if interval or score.difference else "–"
    return [score.metric, score.model, value, over or "–", floor, ceiling, score.verdict, remark]
