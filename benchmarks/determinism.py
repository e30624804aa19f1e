"""How near the deterministic default is to a draw of the reference, beside how near two draws of the reference are.

python benchmarks/determinism.py [--golden FOLDER] [--dataset pbmc3k_raw] [--cells 200] [--draws 6] [--device cuda]

scGPT's reference draws bins of tied counts and a sample of the genes of long cells, UCE's draws genes with replacement and
shuffles chromosomes, each anew in every run. The default replaces their generators by hashed numbers. Here both are drawn
several times on real cells: the mean cosine between the default and a draw of the reference must not be below that between
two draws of the reference by more than 0.001. Besides: the same cells again, in another order, in other batches and in pieces,
and the effect of a knockout, must agree to 1e-5.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LARGEST_LOSS = 0.001
SAME = 1e-5
REFERENCE = {"like_reference": True}
#: Name → checkpoint in the folder of reference outputs, configuration, options.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "scGPT, every gene": ("scgpt/checkpoint", {}, {"max_length": 20_000}),
    "scGPT, 1,200 tokens": ("scgpt/checkpoint", {}, {}),
    "scGPT, 300 tokens": ("scgpt/checkpoint", {}, {"max_length": 300}),
    "UCE": ("uce/model_files", {"nhead": 4}, {}),
}


def nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each cell's two vectors."""
    seen = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    a, b = a[seen].astype(np.float64), b[seen].astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def distances(model: Any, adata: Any, options: dict[str, Any], draws: int) -> dict[str, float]:
    """Mean cosines among draws of the reference, and between the default and those."""
    free = {"batch_size": 1, "filter": False} if "filter" in model.spec.options else {}

    def vectors(chosen: dict[str, Any], seed: int) -> np.ndarray:
        return model.encode(model.tokenize(adata, options=options | chosen, seed=seed)).cell

    reference = [vectors(REFERENCE | free, seed) for seed in range(draws)]
    default = [vectors({}, seed) for seed in range(draws)]
    among = float(np.mean([nearness(a, b).mean() for a, b in combinations(reference, 2)]))
    across = float(np.mean([nearness(a, b).mean() for a, b in product(default, reference)]))
    own = float(np.mean([nearness(a, b).mean() for a, b in combinations(default, 2)]))
    return {"reference_reference": among, "default_reference": across, "default_default": own}


def stability(model: Any, adata: Any, options: dict[str, Any]) -> dict[str, float]:
    """Largest change of a vector, and of a knockout's effect, when cells change places, batches or company."""
    import scfm_lab as sl

    def embed(cells: Any, **more: Any) -> np.ndarray:
        return sl.embed(cells, model, options=options, progress=False, copy=True, cache=False, **more).vectors

    order = np.random.default_rng(0).permutation(adata.n_obs)
    whole = embed(adata)
    pieces = np.concatenate([embed(adata[i : i + 37].copy()) for i in range(0, adata.n_obs, 37)])
    changes = [
        embed(adata[order].copy()) - whole[order],
        embed(adata, batch_size=1) - whole,
        embed(adata, batch_size=7) - whole,
        pieces - whole,
        embed(adata) - whole,
    ]
    known = model.match(model.read_cells(adata).genes).columns
    gene = str(adata.var_names[known[np.argmax(np.asarray((adata.X[:, known] > 0).sum(axis=0)).ravel())]])

    def effect(cells: Any) -> np.ndarray:
        return sl.perturb(cells, model, {gene: 0.0}, options=options, null=False, cache=False, progress=False).shift

    moved = effect(adata)
    effects = [effect(adata[order].copy()) - moved[order], effect(adata[:20].copy()) - moved[:20]]
    return {
        "vector_change": float(max(np.nanmax(np.abs(c)) for c in changes)),
        "effect_change": float(max(np.nanmax(np.abs(e)) for e in effects)),
    }


@click.command(help=__doc__)
@click.option("--golden", type=click.Path(path_type=Path), default=None, help="Folder of the reference outputs.")
@click.option("--dataset", default="pbmc3k_raw", show_default=True, help="A name for sl.datasets.load.")
@click.option("--cells", default=200, show_default=True)
@click.option("--draws", default=6, show_default=True, help="Draws of the reference, and of the default.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(golden: Path | None, dataset: str, cells: int, draws: int, device: str, as_json: bool) -> None:
    """Print the figures; exit with 1 where a bound is not kept."""
    import scfm_lab as sl

    named = os.environ.get("SCFM_GOLDEN")
    golden = golden or (Path(named) if named else ROOT.parent / "shared" / "golden")
    if not golden.is_dir():
        raise click.ClickException(f"There is no folder {golden}; name it with --golden or SCFM_GOLDEN.")
    adata = sl.datasets.load(dataset)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[:cells]].copy()
    rows, kept = [], True
    for name, (path, config, options) in CASES.items():
        model = sl.load_model(golden / path, device=device, precision="float32", config=config or None)
        row = {"case": name, **distances(model, adata, options, draws), **stability(model, adata, options)}
        row["kept"] = (
            row["default_reference"] >= row["reference_reference"] - LARGEST_LOSS
            and max(row["vector_change"], row["effect_change"]) <= SAME
        )
        kept &= row["kept"]
        rows.append(row)
        if not as_json:
            click.echo(
                f"{name:20} reference–reference {row['reference_reference']:.5f}  default–reference "
                f"{row['default_reference']:.5f}  default–default {row['default_default']:.5f}  same cell, same vector "
                f"{row['vector_change']:.0e}, effect {row['effect_change']:.0e}  {'kept' if row['kept'] else 'NOT KEPT'}"
            )
    if as_json:
        click.echo(json.dumps({"dataset": dataset, "cells": adata.n_obs, "draws": draws, "rows": rows}))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
