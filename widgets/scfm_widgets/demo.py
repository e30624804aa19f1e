"""``scfm-lab demo``: the whole main job on bundled cells, headless, and one report of it.

It is here and not in ``scfm_lab`` because it needs the registry and the report, which lie above the science.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import scfm_lab as sl
from scfm_lab.cli.files import check_target
from scfm_lab.cli.output import progress_bar, say
from scfm_lab.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from scfm_lab.cells.audit import AuditResult
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.embed import EmbedResult
    from scfm_lab.tasks.perturb_result import PerturbResult
    from scfm_lab.tasks.trajectory import TrajectoryResult
    from scfm_registry.version import Versions

DATASET = "pbmc68k"
LABELS = "cell_type"
#: Parameter-free models that every other model has to stand above.
FLOORS = ("pca", "sctop")
#: Every fifth cell of each type is labelled from the others.
HELD_OUT = 5
STEPS = 7


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes
    ----------
    adata
        The bundled cells, with everything that was written to them.
    versions
        The registry's models that can perturb.
    model
        The one that was picked, opened.
    audit
        What it sees of the cells.
    embedding, perturbation, trajectory
        Results of the tasks.
    annotation
        One row per model: model, macro_f1, accuracy, each with ``_low`` and ``_high`` (95 % over resampled cells), n_query,
        n_reference, right (of each cell); on held-out cells.
    seconds
        Of each step.
    """

    adata: AnnData
    versions: Versions
    model: Model
    audit: AuditResult
    embedding: EmbedResult
    annotation: pd.DataFrame
    perturbation: PerturbResult
    trajectory: TrajectoryResult
    seconds: dict[str, float]

    def verdict(self) -> str:
        """Say in one sentence how the model stands against the best floor on these cells."""
        return verdict(self.model.spec.name, self.annotation)

    def summary(self) -> str:
        """Put what was found on half a page of text."""
        scores = [
            f"{row.model:<8}  accuracy {_within(row, 'accuracy', 2)}   macro F1 {_within(row, 'macro_f1', 2)}"
            for row in self.annotation.itertuples()
        ]
        first = self.annotation.iloc[0]
        parts = {
            "Models in the registry": "\n".join(str(item) for item in self.versions),
            "Embedding": self.embedding.summary(),
            f"Cell types of {first.n_query} held-out cells, from the other {first.n_reference}": "\n".join(
                [*scores, self.verdict()]
            ),
            "Knockout": self.perturbation.summary(),
            "Trajectory": self.trajectory.summary(),
        }
        return "\n\n".join(f"{title}\n{_indented(text)}" for title, text in parts.items())

    def to_json(self) -> dict[str, Any]:
        """Give the same as plain values."""
        return {
            "models": [item.reference for item in self.versions],
            "model": self.model.version,
            "audit": self.audit.to_json(),
            "annotation": self.annotation.drop(columns="right").to_dict(orient="records"),
            "verdict": self.verdict(),
            "perturbation": self.perturbation.to_json(),
            "trajectory": self.trajectory.to_json(),
            "seconds": self.seconds,
        }


@click.command(
    epilog="\b\nExamples:\n  scfm-lab demo\n  scfm-lab demo --model pca --gene LYZ --out lyz.html",
)
@click.option("--out", default="scfm-lab-report.html", show_default=True, metavar="FILE", help="Where the report goes.")
@click.option("--model", default="starter", show_default=True, help="Which of the registry's models to use.")
@click.option("--gene", default="CD3D", show_default=True, help="The gene to knock out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every random draw.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show bars [default: when a terminal is there]; steps are always told.",
)
def demo(out: str, model: str, gene: str, seed: int, as_json: bool, progress: bool | None) -> None:
    """Run the whole main job on bundled cells and write an HTML report.

    700 real blood cells: a model is picked from the registry, every cell gets its vector, held-out cells get their type
    beside what the parameter-free floors say, a gene is knocked out beside its null, and a trajectory is inferred. The
    report is one file that opens with no network.
    """
    target = check_target(out, (".html", ".htm"), ())
    found = run(model, gene, seed=seed, bars=progress)
    with _step(STEPS, "the report", found.seconds):
        write_report(found, target)
    say(
        f"\n{found.summary()}\n\nThe report is {target}; open it in any browser.",
        {**found.to_json(), "report": str(target)},
        as_json=as_json,
    )


def run(name: str = "starter", gene: str = "CD3D", *, seed: int = 0, bars: bool | None = None) -> Demo:
    """Do the main job on the bundled cells.

    Parameters
    ----------
    name
        One of the registry's models.
    gene
        The gene to knock out.
    seed
        Of every random draw.
    bars
        Whether to draw progress bars; ``None``: in a terminal.

    Raises
    ------
    ModelError, GenesError
        The model or the gene is unknown.
    """
    from scfm_lab.tasks.layout import umap_plane, write_plane
    from scfm_registry import Registry

    seconds: dict[str, float] = {}
    with _step(1, "700 blood cells", seconds):
        adata = sl.datasets.load(DATASET)
        if gene not in adata.var_names:
            raise DataError(f"The bundled cells have no gene {gene!r}." + did_you_mean(gene, adata.var_names))
    with _step(2, "the registry and its models", seconds):
        registry = Registry()
        versions = registry.search(can="perturb", fits="this machine")
        model = registry.load(name)
        audit = sl.audit_genes(adata, model, groupby=LABELS)
    with _step(3, f"every cell's vector, by {model.spec.name}", seconds), progress_bar(bars, "cells") as bar:
        embedding = sl.embed(adata, model, seed=seed, progress=bar or False)
        plane = write_plane(adata, embedding.key, umap_plane(embedding.vectors))
    with _step(4, "the type of held-out cells, beside the floors", seconds):
        annotation = _annotations(registry, adata, model, seed)
    with _step(5, f"{gene} knocked out, and comparable genes", seconds), progress_bar(bars, "genes") as bar:
        perturbation = sl.perturb(
            adata, model, {gene: 0.0}, groupby=LABELS, basis=plane, seed=seed, progress=bar or False
        )
        perturbation.write(adata)
    with _step(6, "a trajectory", seconds):
        trajectory = sl.trajectory(adata, use_rep=embedding.key, root="CD34+", groupby=LABELS, basis=plane, seed=seed)
    return Demo(adata, versions, model, audit, embedding, annotation, perturbation, trajectory, seconds)


def write_report(found: Demo, target: Path) -> None:
    """Write what was found as one page that needs nothing beside it: the bench with its answers, then the numbers.

    Parameters
    ----------
    found
        From :func:`run`.
    target
        The file.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    from scfm_widgets.export import write_html
    from scfm_widgets.lab import Lab

    gene, name = found.perturbation.gene, found.model.spec.name
    lab = Lab(found.adata, model=found.model, colour=LABELS, groupby=LABELS, title=f"{name} on {DATASET}")
    try:
        lab.result = found.trajectory
        lab.result = found.perturbation
        write_html(
            target,
            title=f"{gene} knocked out in {found.adata.n_obs} blood cells",
            lead=(
                f"Every cell as {name} sees it. Turn the dose of {gene} and watch which cells move; colour them by a column "
                "or by a gene. Below are the numbers, each beside what it has to be compared with."
            ),
            lab_or_payload=lab,
            sections=_sections(found),
        )
    finally:
        lab.close()


def _sections(found: Demo) -> list[dict[str, Any]]:
    from scfm_widgets.charts import svg

    gene, provenance = found.perturbation.gene, found.embedding.provenance
    first = found.annotation.iloc[0]
    scores = [["model", "accuracy [95 %]", "macro F1 [95 %]"]]
    scores += [
        [row.model, _within(row, "accuracy", 3), _within(row, "macro_f1", 3)] for row in found.annotation.itertuples()
    ]
    facts = {
        "cells": f"{DATASET}: {found.adata.n_obs} peripheral blood cells, Zheng et al. 2017, as bundled with scanpy",
        "model": found.model.version,
        "weights": provenance["weights_sha256"],
        "machine": f"{provenance['device']}, {provenance['precision']}",
        "packages": ", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
    }
    return [
        {"heading": f"{gene}, and comparable genes", "text": found.perturbation.summary()},
        {
            "heading": "Effect per cell type",
            "text": "The grey band is the middle 90 % of what comparable genes do.",
            "svg": svg(found.perturbation.plot(), width=420)["light"],
            "alt": f"Effect of {gene} per cell type over the band of comparable genes",
        },
        {
            "heading": f"Cell types of {first.n_query} held-out cells, from the other {first.n_reference}",
            "text": f"{found.verdict()} An 'unknown' counts as wrong.",
            "table": scores,
        },
        {
            "heading": "Trajectory",
            "text": f"{found.trajectory.summary()}\nBlood holds the ends of many roads and little of the way between them.",
            "svg": svg(found.trajectory.plot(), width=420)["light"],
            "alt": "Pseudotime per cell type",
        },
        {"heading": "What the model sees of these cells", "text": found.audit.summary()},
        {
            "heading": "Where this comes from",
            "table": [["what", "which"], *([key, str(value)] for key, value in facts.items())],
        },
    ]


def _annotations(registry: Any, adata: AnnData, model: Model, seed: int) -> pd.DataFrame:
    """Label every fifth cell of each type from the others, with the model and with the floors."""
    import pandas as pd

    from scfm_lab.evaluation.label_scores import label_scores

    held = held_out(adata.obs[LABELS])
    rows = []
    for name in dict.fromkeys((model.spec.name, *FLOORS)):
        one = model if name == model.spec.name else registry.load(name)
        query, reference = adata[held].copy(), adata[~held].copy()
        result = sl.annotate(query, reference, model=one, labels_key=LABELS, seed=seed, progress=False)
        truth = query.obs[LABELS].astype(str).to_numpy()
        sizes = {"n_query": query.n_obs, "n_reference": reference.n_obs}
        scores = label_scores(truth, result.labels, seed=seed).to_dict()
        rows.append({"model": name, **scores, **sizes, "right": result.labels == truth})
    return pd.DataFrame(rows)


def _within(row: Any, metric: str, digits: int) -> str:
    """A score with its 95 % interval."""
    value, low, high = (getattr(row, f"{metric}{end}") for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def held_out(labels: pd.Series) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark every fifth cell of each label, in file order; a label with fewer than five cells has none."""
    place = labels.groupby(labels, observed=True).cumcount().to_numpy()
    return np.asarray(place % HELD_OUT == HELD_OUT - 1)


def _more(difference: int) -> str:
    return f"{abs(difference)} {'fewer' if difference < 0 else 'more'}"


def verdict(name: str, annotation: pd.DataFrame) -> str:
    """Say in one sentence how a model stands against the best floor.

    The interval is that of a difference of paired shares, from the cells that only one of the two labels rightly.

    Parameters
    ----------
    name
        Of the model.
    annotation
        As of :class:`Demo`.
    """
    scores = annotation.set_index("model")
    floor = scores.loc[[floor for floor in FLOORS if floor != name], "accuracy"].idxmax()
    own, other = (np.asarray(scores.loc[one, "right"], dtype=bool) for one in (name, floor))
    cells, more, fewer = len(own), int((own & ~other).sum()), int((other & ~own).sum())
    half = 1.96 * np.sqrt(more + fewer - (more - fewer) ** 2 / cells)
    low, high = round(more - fewer - half), round(more - fewer + half)
    counted = f"{_more(more - fewer)} of {cells} cells (95 % interval: {_more(low)} to {_more(high)})"
    if low > 0:
        return f"{name} is above the floor here, {floor}: it labels {counted} rightly."
    if high < 0:
        return f"{name} is below its floor here, {floor}: it labels {counted} rightly."
    return f"{name} cannot be told apart from the floor, {floor}: it labels {counted} rightly."


@contextmanager
def _step(number: int, what: str, seconds: dict[str, float]) -> Iterator[None]:
    """Tell on standard error what is being done and how long it took."""
    click.echo(f"[{number}/{STEPS}] {what} …", err=True)
    started = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - started, 2)
    click.echo(f"      {seconds[what]:.1f} s", err=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
