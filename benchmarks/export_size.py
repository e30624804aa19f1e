"""How large one HTML file of the bench becomes, and whether it opens: many cells with the sliders of two genes.

The cells are the bundled ones drawn again and again, their counts thinned so that no two are alike, with a plane and a column of
types; the answers of the genes at the page's doses are computed by a parameter-free model.

python benchmarks/export_size.py --cells 100000
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np


def cells(n: int) -> Any:
    """Many cells made of the bundled ones."""
    import anndata as ad
    from scipy import sparse

    import scfm_lab as sl

    few = sl.datasets.load("pbmc68k")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, few.n_obs, n)
    counts = sparse.csr_matrix(few.layers.get("counts", few.X))[rows]
    counts.data = rng.binomial(counts.data.astype(int), 0.9).astype(np.float32)
    counts.eliminate_zeros()
    obs = few.obs.iloc[rows].reset_index(drop=True)
    obs.index = [f"cell{i}" for i in range(n)]
    plane = few.obsm["X_umap"][rows] + rng.normal(scale=0.08, size=(n, 2))
    return ad.AnnData(counts, obs=obs, var=few.var.copy(), obsm={"X_umap": plane.astype(np.float32)})


def opened(path: Path, gene: str) -> float:
    """Seconds until the page shows the knockout of a gene, in a real Chromium without a network."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("SCFM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        page.set_default_timeout(120_000)
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.get_by_label(gene, exact=True).press("Home")
        page.get_by_text(f"{gene} knocked out").wait_for()
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


@click.command()
@click.option("--cells", "n", default=100_000, show_default=True)
@click.option("--gene", "genes", multiple=True, default=("CD3D", "LYZ"), show_default=True)
@click.option("--model", default="pca", show_default=True)
def main(n: int, genes: tuple[str, ...], model: str) -> None:
    """Write the page and measure it."""
    from scfm_widgets import Lab
    from scfm_widgets.export import payload_of, write_html

    os.environ.setdefault("SCFM_HOME", tempfile.mkdtemp(prefix="scfm-export-"))
    began = time.perf_counter()
    lab = Lab(cells(n), model=model)
    made = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        payload = payload_of(lab, genes=list(genes))
        path = write_html(Path(folder) / "page.html", title="size", lab_or_payload=payload)
        found = {
            "cells": n,
            "genes": list(genes),
            "bench_s": round(made, 1),
            "page_s": round(time.perf_counter() - began, 1),
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "left_out": payload.left_out,
            "opens_s": round(opened(path, genes[0]), 1),
            "load": os.getloadavg()[0],
        }
    lab.close()
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
