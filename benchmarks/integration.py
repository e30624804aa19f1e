"""Batches mixed and biology kept, before and after Harmony: models beside principal components fitted to the same cells.

    python benchmarks/integration.py [--models starter pca sctop] [--dataset NAME --batch COLUMN --labels COLUMN] [--json FILE]

Pancreatic islets of four human and two murine donors (Baron et al. 2016; mouse genes under human names), of which the shipped models have seen
nothing; cells that a model was made from are told. The metrics are those of
scib-metrics (extra ``science``); biology and batch are told apart, and no average is taken. Behind each value stands the 95 % interval of
its difference to the floor on the same resamples, with a star where that lies above 0. ``SCFM_DATA`` names the datasets' folder.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import scfm_lab as sl
from scfm_lab.evaluation.integration import FLOOR
from scfm_lab.evaluation.once import floors_kept


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["starter", "pca", "sctop"])
    parser.add_argument("--dataset", default="baron_pancreas_human_mouse")
    parser.add_argument("--batch", default="donor")
    parser.add_argument("--labels", default="cell_type", help="Empty: batches alone.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = sl.datasets.load(arguments.dataset)
    columns: dict[str, dict[tuple[str, str], Any]] = {}
    with floors_kept():
        for name in arguments.models:
            result = sl.integrate(
                adata,
                name,
                batch_key=arguments.batch,
                labels_key=arguments.labels or None,
                seen="flag",
                progress=False,
            )
            for note in result.scores.notes:
                if "Flagged" in note:
                    print(note)
            for row in result.table.itertuples():
                columns.setdefault(row.representation, {})[row.aspect, row.metric] = row
    names = list(columns)
    print(f"{adata.n_obs:,} cells\n\n| aspect | metric | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    for aspect, metric in columns[names[0]]:
        values = " | ".join(_told(columns[name][aspect, metric]) for name in names)
        print(f"| {aspect} | {metric} | {values} |")
    if arguments.json:
        told = {name: {f"{a}: {m}": row.value for (a, m), row in values.items()} for name, values in columns.items()}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _told(row: Any) -> str:
    """A value, and by how much it is above the floor."""
    if row.representation == FLOOR:
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f} ({row.gain_low:+.3f}, {row.gain_high:+.3f}){' *' if row.gain_low > 0 else ''}"


if __name__ == "__main__":
    main()
