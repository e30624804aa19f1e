"""Kendall's tau-b of pseudotime with known stages on pancreatic endocrinogenesis.

    python benchmarks/trajectory.py [--models starter pca sctop] [--cells 1500]

Bastidas-Ponce et al. (2019), E15.5: ductal cells to endocrine cells in five stages. The root is the ductal group's cell that
lies farthest from all others, in each representation its own; the twin is PCA fitted to the same cells, from its own root too. The named datasets are read from ``SCFM_DATA``.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

import scfm_lab as sl


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starter", "pca", "sctop"])
    parser.add_argument("--cells", type=int, default=0, help="a part of the cells; 0: all")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = sl.datasets.load("pancreas_endocrinogenesis")
    if arguments.cells:
        adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, arguments.cells, replace=False))].copy()
    first = adata.obs.loc[adata.obs["stage_order"].astype(float).idxmin(), "cell_type"]
    rows = []
    for name in arguments.models:
        key = sl.embed(adata, name, progress=False, cache=False).key
        result = sl.trajectory(
            adata,
            use_rep=key,
            root=str(first),
            groupby="cell_type",
            stage_key="stage_order",
            twin=name == arguments.models[0],
        )
        rows += [(s.model, s) for s in result.agreement]
        same = result.roots[result.roots["why"] == "same group"]["tau"]
        ends = result.roots[result.roots["why"] == "other end"]["tau"]
        print(
            f"{key}: other roots in {first}: tau {same.min():.3f}–{same.max():.3f}; from the ends {ends.min():.3f}–{ends.max():.3f}"
        )
    print("\n| representation | cells | tau-b | 95 % interval |\n|---|---|---|---|")
    for model, score in rows:
        print(f"| {model} | {score.n:,} | {score.value:.3f} | {score.low:.3f}–{score.high:.3f} |")


if __name__ == "__main__":
    main()
