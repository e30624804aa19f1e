"""``scfm-lab finetune``: labelled cells in, a version of the registry (or a folder) out."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import read_h5ad
from scfm_lab.cli.output import progress_bar, say


@click.command(
    epilog="\b\nExamples:\n  scfm-lab finetune cells.h5ad --model starter --labels cell_type --register blood\n"
    "  scfm-lab finetune cells.h5ad --model models:/scgpt-human --labels cell_type --sample donor --freeze 10 "
    "--register blood\n"
    "  scfm-lab finetune cells.h5ad --model starter --labels cell_type --plan"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option("--labels", "labels_key", metavar="COL", required=True, help="The obs column to be learnt.")
@click.option(
    "--sample", "sample_key", metavar="COL", help="The obs column with donors or samples: whole ones are held out."
)
@click.option("--register", metavar="NAME", help="Keep the result as a version of NAME in the registry.")
@click.option(
    "--consent",
    metavar="WORD",
    help="With --register: what the cells' donors agreed to: open, no-sharing or patient-data. All but open keep the model in the "
    "registry.",
)
@click.option("-o", "--out", type=click.Path(), help="Write the model into this new folder.")
@click.option("--full", is_flag=True, help="With --out: all weights, in the family's published format.")
@click.option(
    "--head",
    type=click.Choice(["linear", "published"]),
    default="linear",
    show_default=True,
    help="What reads the cell's vector: a linear layer, or what the family's authors use.",
)
@click.option(
    "--freeze",
    metavar="WHAT",
    default="embeddings",
    show_default=True,
    help="What is not trained: embeddings, a number of layers, all (the head alone learns), none, or names of parts.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Most passes over the cells.")
@click.option(
    "--patience", type=click.IntRange(min=1), default=3, show_default=True, help="Epochs without improvement."
)
@click.option(
    "--rate", "learning_rate", type=float, default=1e-4, show_default=True, help="Highest rate of the layers."
)
@click.option("--head-rate", type=float, default=1e-3, show_default=True, help="Highest rate of the head.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Cells of a step.")
@click.option("--balanced", is_flag=True, help="Each label weighs alike in the loss, however few its cells.")
@click.option(
    "--validation", type=float, default=0.15, show_default=True, help="Share held out to decide when to stop."
)
@click.option("--test", type=float, default=0.2, show_default=True, help="Share held out for the scores.")
@click.option("--checkpoint", metavar="DIR", help="Keep the run's state here; the same command goes on after a kill.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it will take, and do nothing.")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def finetune(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    labels_key: str,
    sample_key: str | None,
    register: str | None,
    consent: str | None,
    out: str | None,
    full: bool,
    head: str,
    freeze: str,
    epochs: int,
    patience: int,
    learning_rate: float,
    head_rate: float,
    batch_size: int,
    balanced: bool,
    validation: float,
    test: float,
    checkpoint: str | None,
    only_plan: bool,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Teach a model the labels of your cells.

    Says how well it does on cells that it has not seen, beside what parameter-free methods do with the same cells.
    """
    import scfm_lab as sl
    from scfm_lab.training import rescue, tracking

    if not (register or out or only_plan):
        message = "Say where the result goes: --register NAME, or -o FOLDER."
        raise click.UsageError(message)
    if full and not out:
        message = "--full is for -o FOLDER; the registry keeps what changed beside the parent."
        raise click.UsageError(message)
    if consent and not register:
        message = "--consent is for --register NAME; a folder has no such tag."
        raise click.UsageError(message)
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    settings: dict[str, Any] = {
        "head": head,
        "freeze": _freeze(freeze),
        "epochs": epochs,
        "patience": patience,
        "learning_rate": learning_rate,
        "head_rate": head_rate,
        "batch_size": batch_size,
        "class_weight": "balanced" if balanced else None,
        "validation": validation,
        "test": test,
        "seed": seed,
    }
    columns: dict[str, Any] = {
        "labels_key": labels_key,
        "sample_key": sample_key,
        "layer": layer,
        "options": model_options,
    }
    if only_plan:
        plan = sl.plan_finetune(model, adata, **columns, **settings)
        say(plan.summary(), {"summary": plan.summary(), **vars(plan)}, as_json=as_json)
        return
    if register:
        tracking.tracker().check(register, model, **tracking.said(consent))
    with progress_bar(progress, "cells") as show:
        result = sl.finetune(
            model,
            adata,
            **columns,
            **settings,
            checkpoint=checkpoint,
            progress=show or False,
        )
    lines, data = [result.summary()], {**result.to_json(), "record": result.record}
    # The folder first: whatever the registry says, the training is not lost.
    written = result.save(out, full=full) if out else None
    if register:
        rescue.register(result, register, consent=consent, written=written)
        lines.append(f"Registered as {result.registered}; use it as models:/{result.registered}.")
        data["registered"] = result.registered
    if written:
        lines.append(f"Written to {written}.")
        data["written"] = str(written)
    say("\n".join(lines), data, as_json=as_json)


def _freeze(text: str) -> Any:
    """``all``, ``embeddings``, ``none``, a number, or names with commas between."""
    if text in ("all", "embeddings"):
        return text
    if text == "none":
        return None
    if text.isdigit():
        return int(text)
    return [part.strip() for part in text.split(",") if part.strip()]
