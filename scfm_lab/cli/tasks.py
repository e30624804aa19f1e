"""``scfm-lab audit | embed | annotate | impute | trajectory``: an .h5ad file in, an .h5ad file or a report out."""

from __future__ import annotations

from typing import Any

import click

from scfm_lab.cli import options
from scfm_lab.cli.files import check_h5ad, check_target, read_h5ad, write_h5ad
from scfm_lab.cli.output import progress_bar, say
from scfm_lab.cli.planning import tell_plan

_H5AD = (".h5ad",)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab audit cells.h5ad --model starter\n"
    "  scfm-lab audit cells.h5ad --model models:/starter@champion --groupby cell_type --json\n"
    "  scfm-lab audit mouse.h5ad --model ./scGPT_human --option orthologs=true"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option("--groupby", metavar="COL", help="Tell the loss for each value of this obs column too.")
@options.layer_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def audit(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    groupby: str | None,
    layer: str | None,
    as_json: bool,
) -> None:
    """Say how much of your data a model can see.

    Counts the genes it knows and, more telling, the share of UMIs on genes that it does not know.
    """
    import scfm_lab as sl
    from scfm_lab.cells import provenance

    model = sl.load_model(source, config=config or None)
    result = sl.audit_genes(read_h5ad(path), model, groupby=groupby, layer=layer, options=model_options or None)
    # An audit keeps no record of its own: it is a part of those of other results.
    asked = provenance.arguments(groupby=groupby, layer=layer, options=model_options)
    record = provenance.of_model(model, task="audit", arguments=asked, **result.as_provenance())
    say(result.summary(), {**result.to_json(), "provenance": record}, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab embed cells.h5ad --model starter -o embedded.h5ad\n"
    "  scfm-lab embed cells.h5ad --model ./scGPT_human --device cuda --key X_scgpt -o embedded.h5ad\n"
    "  scfm-lab embed atlas.h5ad --model ./scGPT_human --plan\n"
    "  scfm-lab embed atlas.h5ad --model ./scGPT_human --cluster tcp://head:8786 -o embedded.h5ad"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@options.out_option("The .h5ad file to write: your cells with the vectors in obsm.", required=False)
@click.option("--plan", "only_plan", is_flag=True, help="Tell device, precision, memory and time, and compute nothing.")
@click.option("--umap", "with_umap", is_flag=True, help="Lay the vectors out too, into obsm as X_umap_ and their name.")
@click.option("--key", metavar="K", help="Name in obsm [default: X_ and the model's name].")
@options.layer_option
@options.machine_options
@click.option(
    "--cluster", metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786, whose workers compute parts."
)
@click.option("--budget", type=float, metavar="GIB", help="Memory the run may take [default: 60 % of what is free].")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Take vectors that were computed before.")
@options.seed_option
@options.report_options
def embed(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    out: str | None,
    only_plan: bool,
    with_umap: bool,
    key: str | None,
    layer: str | None,
    device: str,
    precision: str,
    batch_size: int | None,
    cluster: str | None,
    budget: float | None,
    cache: bool,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Give every cell a model's vector.

    The input stays as it is; the output is a copy of it with the vectors in obsm and their provenance in uns. Cells are
    read some at a time, so that the file may be larger than the memory; a run that was stopped goes on where it was when it
    is started again.
    """
    import scfm_lab as sl
    from scfm_lab.tasks.embed_file import embed_file

    if out is None and not only_plan:
        message = "Missing option '-o' / '--out'; with --plan nothing is written."
        raise click.UsageError(message)
    target = None if out is None else check_target(out, _H5AD, [path])
    check_h5ad(path)
    # The workers of a cluster have the device, and this machine may have none of the kind.
    by_workers = cluster is not None and not only_plan and device.split(":")[0] in ("auto", "cpu", "cuda", "mps")
    here = "cpu" if by_workers else device
    model = sl.load_model(source, device=here, precision=precision, config=config or None)
    model.note_asked(device=device)
    if target is None or only_plan:
        tell_plan(path, model, layer=layer, model_options=model_options, budget=budget, as_json=as_json)
        return
    with progress_bar(progress, "cells") as show:
        result = embed_file(
            path,
            target,
            model,
            layer=layer,
            options=model_options,
            key_added=key,
            seed=seed,
            batch_size=batch_size,
            cache=cache,
            budget_gib=budget,
            cluster=cluster,
            progress=show,
        )
    data = {
        "summary": result.summary(),
        "key": result.key,
        "cells": len(result.vectors),
        "width": result.vectors.shape[1],
        "audit": result.audit.to_json(),
        "provenance": result.provenance,
        "written": str(target),
    }
    text = result.summary()
    if with_umap:
        from scfm_lab.tasks.layout_file import add_umap

        data["layout"] = add_umap(target, result.key, result.vectors, seed=seed)
        text += f"\nTheir UMAP is in obsm[{data['layout']!r}]."
    say(f"{text}\nWritten to {target}.", data, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab annotate query.h5ad --reference atlas.h5ad --labels cell_type --model starter -o labelled.h5ad\n"
    "  scfm-lab annotate query.h5ad --reference atlas.h5ad --labels cell_type --sample donor --method linear --model starter -o labelled.h5ad\n"
    "  scfm-lab annotate query.h5ad --model models:/blood -o labelled.h5ad"
)
@options.h5ad_argument("path", "QUERY.h5ad")
@click.option(
    "--reference",
    metavar="REF.h5ad",
    type=click.Path(exists=True, dir_okay=False),
    help="Annotated cells to learn the labels from [default: none; a fine-tuned model gives its own].",
)
@click.option("--labels", metavar="COL", help="The reference's obs column that holds the labels.")
@options.model_option
@options.model_options
@options.out_option("The .h5ad file to write: the query with labels and confidence in obs.")
@click.option("--key", metavar="K", help="Name in obs [default: the library's].")
@click.option(
    "--neighbours", "k", type=click.IntRange(min=1), default=15, show_default=True, help="Neighbours that vote."
)
@click.option(
    "--method",
    type=click.Choice(["neighbours", "linear", "head"]),
    help="What labels: neighbours in the reference, a linear head fitted to it, or the head that the model was fine-tuned with "
    "[default: neighbours, and the model's own head without a reference].",
)
@click.option(
    "--sample", "sample_key", metavar="COL", help="The reference's donor or batch column: held out to calibrate."
)
@click.option(
    "--harmonise",
    metavar="FILE",
    help="An ontology (.obo, .owl; or cell_ontology) by which label names are brought together.",
)
@click.option("--beside/--no-beside", default=True, show_default=True, help="Tell what pca and sctop reach too.")
@options.device_options
@options.seed_option
@options.report_options
def annotate(
    path: str,
    reference: str | None,
    labels: str | None,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    out: str,
    key: str | None,
    k: int,
    method: str | None,
    sample_key: str | None,
    harmonise: str | None,
    beside: bool,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Label cells after an annotated reference, or by a fine-tuned model.

    Cells that resemble nothing in the reference are called "unknown"; a fine-tuned model knows only its own labels.
    """
    import scfm_lab as sl

    if reference is not None and labels is None:
        message = "--reference needs --labels COL, the column of it that holds the labels."
        raise click.UsageError(message)
    if reference is None and (sample_key or method in ("neighbours", "linear")):
        message = f"{'--sample' if sample_key else f'--method {method}'} needs --reference REF.h5ad, which it is about."
        raise click.UsageError(message)
    target = check_target(out, _H5AD, [path] if reference is None else [path, reference])
    query = read_h5ad(path)
    atlas = None if reference is None else read_h5ad(reference)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    with progress_bar(progress, "cells") as show:
        result = sl.annotate(
            query,
            atlas,
            labels_key=labels or "cell_type",
            model=model,
            method=method or ("neighbours" if atlas is not None else "head"),
            sample_key=sample_key,
            k=k,
            harmonise=harmonise or False,
            beside=beside,
            options=model_options,
            key_added=key,
            seed=seed,
            progress=show or False,
        )
    write_h5ad(query, target)
    _tell(result, target, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n  scfm-lab impute cells.h5ad --model starter --gene CD3D --gene LYZ -o imputed.h5ad\n"
    "  scfm-lab impute cells.h5ad --model starter -o imputed.h5ad"
)
@options.h5ad_argument("path", "IN.h5ad")
@options.model_option
@options.model_options
@click.option(
    "--gene",
    "genes",
    metavar="GENE",
    multiple=True,
    help="A gene to predict, measured or not, into obsm. Several times: all. Without it: every measured gene, as a layer.",
)
@options.out_option("The .h5ad file to write: your cells with the predictions.")
@click.option("--key", metavar="K", help="Name in obsm or layers [default: imputed_ and the model's name].")
@options.layer_option
@options.device_options
@options.seed_option
@options.report_options
def impute(
    path: str,
    source: str,
    config: dict[str, Any],
    model_options: dict[str, Any],
    genes: tuple[str, ...],
    out: str,
    key: str | None,
    layer: str | None,
    device: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Predict the expression of genes from what a model sees.

    Expected counts per 10,000, or what else the model predicts (the result says which). Predictions are no measurements: keep
    them out of tests of differential expression.
    """
    import scfm_lab as sl

    if len(set(genes)) < len(genes):
        message = "The same --gene is given twice; name each gene once."
        raise click.UsageError(message)
    target = check_target(out, _H5AD, [path])
    adata = read_h5ad(path)
    model = sl.load_model(source, device=device, precision=precision, config=config or None)
    with progress_bar(progress, "cells") as show:
        result = sl.impute(
            adata,
            model,
            genes=list(genes) or None,
            layer=layer,
            options=model_options,
            key_added=key,
            seed=seed,
            progress=show or False,
        )
    write_h5ad(adata, target)
    data = {**result.to_json(), "key": result.key, "provenance": result.provenance, "written": str(target)}
    say(f"{result.summary()}\nWritten to {target}.", data, as_json=as_json)


@click.command(
    epilog='\b\nExample:\n  scfm-lab trajectory embedded.h5ad --rep X_starter --root "CD34+" --groupby cell_type --basis X_umap -o ordered.h5ad'
)
@options.h5ad_argument("path", "IN.h5ad")
@click.option("--rep", metavar="KEY", required=True, help="The embedding in obsm to walk on.")
@click.option("--root", metavar="GROUP", required=True, help="Where it starts: a group of --groupby, or a cell's name.")
@click.option("--groupby", metavar="COL", help="The obs column that --root and the branches refer to.")
@options.out_option("The .h5ad file to write: your cells with pseudotime and branches in obs.")
@click.option("--key", "key_added", metavar="K", default="trajectory", show_default=True, help="Name in obs.")
@click.option(
    "--stage", "stage_key", metavar="COL", help="The obs column with known stages, to compare the order with."
)
@click.option(
    "--basis", metavar="KEY", help="The plane in obsm on which paths are laid [default: principal components of --rep]."
)
@click.option("--twin/--no-twin", default=True, show_default=True, help="Do the same on principal components.")
@options.seed_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def trajectory(
    path: str,
    rep: str,
    root: str,
    groupby: str | None,
    out: str,
    key_added: str,
    stage_key: str | None,
    basis: str | None,
    twin: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Order cells from a root along pseudotime and branches.

    The direction is that of the root: nothing in an embedding says which way time runs.
    """
    import scfm_lab as sl

    target = check_target(out, _H5AD, [path])
    adata = read_h5ad(path)
    result = sl.trajectory(
        adata,
        use_rep=rep,
        root=root,
        groupby=groupby,
        stage_key=stage_key,
        basis=basis,
        twin=twin,
        key_added=key_added,
        seed=seed,
    )
    write_h5ad(adata, target)
    _tell(result, target, as_json=as_json)


def _tell(result: Any, target: Any, *, as_json: bool) -> None:
    """Print a result and where it went."""
    data = {**result.to_json(), "provenance": result.provenance, "written": str(target)}
    say(f"{result.summary()}\nWritten to {target}.", data, as_json=as_json)
