"""Batches mixed and biology kept, before and after Harmony: models beside principal components fitted to the same cells.

    python benchmarks/integration.py [--models starter pca sctop] [--json FILE]

Three lung cancer lines by CEL-seq2 and Drop-seq (Tian et al. 2019), whose lines are known by genotype. The metrics are those of
scib-metrics (extra ``science``); biology and batch are told apart, and no average is taken. ``SCFM_DATA`` names the datasets' folder.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import scfm_lab as sl


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starter", "pca", "sctop"])
    parser.add_argument("--dataset", default="celllines_3x2tech_mixology")
    parser.add_argument("--batch", default="batch")
    parser.add_argument("--labels", default="cell_type")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = sl.datasets.load(arguments.dataset)
    columns: dict[str, dict[tuple[str, str], float]] = {}
    for i, name in enumerate(arguments.models):
        result = sl.integrate(
            adata, name, batch_key=arguments.batch, labels_key=arguments.labels, beside=i == 0, progress=False
        )
        for row in result.table.itertuples():
            columns.setdefault(row.representation, {})[row.aspect, row.metric] = row.value
    names = list(columns)
    print(f"{adata.n_obs:,} cells\n\n| aspect | metric | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    for aspect, metric in columns[names[0]]:
        values = " | ".join(f"{columns[name][aspect, metric]:.3f}" for name in names)
        print(f"| {aspect} | {metric} | {values} |")
    if arguments.json:
        told = {name: {f"{a}: {m}": v for (a, m), v in values.items()} for name, values in columns.items()}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
