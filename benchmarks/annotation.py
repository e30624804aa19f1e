"""Macro-F1 of label transfer for ``starter`` beside ``pca`` and ``sctop``, on pairs that none was fitted to.

    python benchmarks/annotation.py [--models starter pca sctop] [--boot 1000] [--json FILE]

Blood: cells sorted by bead and antibody (Zheng et al. 2017) after pbmc3k, coarse types. Pancreas: human islets with donors held
out, and mouse islets after human ones by one-to-one orthologs (Baron et al. 2016). The named datasets are read from
``SCFM_DATA``. Four fifths of pbmc3k are among the training cells of ``starter`` and of the shipped ``pca`` and ``sctop``, without
their labels; the query is not.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np

import scfm_lab as sl


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starter", "pca", "sctop"])
    parser.add_argument("--boot", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    models = [sl.load_model(name, device="cpu") for name in arguments.models]

    blood = sl.datasets.load("pbmc3k_raw")
    blood = blood[(blood.obs["cell_type_coarse"] != "unlabelled").to_numpy()].copy()
    sorted_ = sl.datasets.load("pbmc_zheng_sorted")
    islets = sl.datasets.load("baron_pancreas_human_mouse")
    human = islets[(islets.obs["organism"] == "human").to_numpy()].copy()
    mouse = islets[(islets.obs["organism"] == "mouse").to_numpy()].copy()
    rows = []
    for task, run in {
        "sorted PBMC after pbmc3k, coarse types": lambda: sl.evaluate.annotation(
            blood, models, query=sorted_, labels_key="cell_type_coarse", n_boot=arguments.boot
        ),
        "human islets, donors held out": lambda: sl.evaluate.annotation(
            human, models, labels_key="cell_type", sample_key="donor", n_boot=arguments.boot
        ),
        "mouse islets after human, orthologs": lambda: sl.evaluate.cross_species(
            human, mouse, models, labels_key="cell_type", n_boot=arguments.boot
        ),
    }.items():
        scores = run()
        for note in scores.notes:
            print(f"  [{task}] {note}")
        rows += [{"task": task, **score.row()} for score in scores]
    print("\n| task | model | macro-F1 | 95 % interval | accuracy | calibration error |\n|---|---|---|---|---|---|")
    for task in dict.fromkeys(r["task"] for r in rows):
        mine = [r for r in rows if r["task"] == task]
        for model in dict.fromkeys(r["model"] for r in mine):
            by = {r["metric"]: r for r in mine if r["model"] == model}
            f1 = by["macro-F1"]
            ece = by.get("calibration error", {}).get("value", np.nan)
            print(
                f"| {task} | {model} | {f1['value']:.3f} | {f1['low']:.3f}–{f1['high']:.3f} | {by['accuracy']['value']:.3f} | "
                f"{'' if np.isnan(ece) else format(ece, '.3f')} |"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
