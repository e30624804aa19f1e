"""Predicted perturbations between floors and replicates on measured screens: models through their gene embeddings.

The set of McFaline-Figueroa et al. is at noise level (its replicates agree at about 0.1): it is there to show that this is told.

SCFM_DATA=... python benchmarks/perturbation_scores.py --model starter --model pca --model sctop --cell-eval
"""

from __future__ import annotations

import json

import click
import numpy as np


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, default=["starter", "pca", "sctop"], show_default=True)
@click.option("--dataset", default="perturb_norman_k562_crispra", show_default=True)
@click.option("--cell-eval", is_flag=True, help="The six metrics of cell-eval2 as well (minutes).")
@click.option("--splits", default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(models: tuple[str, ...], dataset: str, cell_eval: bool, splits: int, as_json: bool) -> None:
    """Print the scores, and the mean of every predictor."""
    import scfm_lab as sl

    adata = sl.datasets.load(dataset)
    result = sl.evaluate.perturbation(adata, list(models), splits=splits, cell_eval=cell_eval, progress=False)
    if as_json:
        print(json.dumps(result.to_json()))
        return
    print(result.summary())
    # The place between floor and ceiling, with the interval of the difference to the floor in the same unit.
    scores = result.table
    way = (scores["ceiling"] - scores["floor"]).where(scores["position"].notna())
    ends = np.sort(np.stack([scores["gain_low"] / way, scores["gain_high"] / way]), axis=0)
    scores = scores.assign(position_low=ends[0], position_high=ends[1])
    told = ["metric", "model", "floor", "value", "ceiling", "low", "high", "gain_low", "gain_high"]
    told += ["position", "position_low", "position_high", "verdict"]
    print(scores[told].round(3).to_string())
    table = result.per_perturbation.groupby(["predictor", "metric"])["value"].agg(["mean", "count"])
    print(table["mean"].unstack().round(3).to_string())


if __name__ == "__main__":
    main()
