"""What fine-tuning adds: macro-F1 on held-out cells beside the head alone and the parameter-free floors.

    SCFM_DATA=FOLDER python benchmarks/finetune.py --data sorted --cells 1000

Each row is one way of training; all are scored on the same test cells, with the floors fitted to the same training cells.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

import scfm_lab as sl

DATA = {
    # name: (dataset, labels, samples, dropped label)
    "pbmc3k": ("pbmc3k_raw", "cell_type", None, "unlabelled"),
    "pbmc68k": ("pbmc68k", "cell_type", None, None),
    "celllines": ("celllines_3x2tech_mixology", "cell_type", "batch", None),
    "brain": ("human_brain_darmanis", "cell_type", "donor", "hybrid"),
    "sorted": ("pbmc_zheng_sorted", "cell_type", None, None),
}
WAYS = {
    "head alone": {"freeze": "all"},
    "top layer": {"freeze": 1},
    "all layers": {"freeze": "embeddings"},
    "everything": {"freeze": None},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=DATA, default="sorted")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--cells", type=int, default=1000, help="Cells, drawn at random.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4])
    parser.add_argument("--head-rate", type=float, default=None)
    parser.add_argument("--length", type=int, default=512, help="Most genes of a cell that are read.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    name, labels, sample, dropped = DATA[args.data]
    adata = sl.datasets.load(name)
    adata = adata[adata.obs[labels].astype(str) != str(dropped)]
    counts = adata.obs[labels].value_counts()
    adata = adata[adata.obs[labels].isin(counts.index[counts >= 10])]
    rng = np.random.default_rng(args.seed)
    adata = adata[np.sort(rng.permutation(adata.n_obs)[: args.cells])].copy()
    counts = adata.obs[labels].value_counts()
    adata = adata[adata.obs[labels].isin(counts.index[counts >= 5])].copy()
    model = sl.load_model(args.model)
    print(
        f"{args.data}: {adata.n_obs:,} cells, {adata.obs[labels].nunique()} labels, {torch.get_num_threads()} threads"
    )
    found = []
    for i, (way, rate) in enumerate((w, r) for w in args.ways for r in (args.rates if w != "head alone" else [0.0])):
        started = time.perf_counter()
        more = {} if not rate else {"learning_rate": rate, "head_rate": args.head_rate or 1e-3}
        result = sl.finetune(
            model,
            adata,
            labels_key=labels,
            sample_key=sample,
            epochs=args.epochs,
            seed=args.seed,
            floors=i == 0,
            options={"max_length": args.length} if "max_length" in model.spec.options else None,
            progress=False,
            **WAYS[way],
            **more,
        )
        seconds = time.perf_counter() - started
        rows = result.table.to_dict("records")
        first = rows[0]
        name = way if not rate else f"{way}, rate {rate:g}"
        found.append({"way": name, "seconds": seconds, "best_epoch": result.record["best_epoch"], **first})
        print(
            f"{name:28s} {first['macro_f1']:.3f} [{first['macro_f1_low']:.3f}, {first['macro_f1_high']:.3f}]  accuracy "
            f"{first['accuracy']:.3f}  best epoch {result.record['best_epoch']}  {seconds:.0f} s (planned "
            f"{result.plan.seconds:.0f} s)",
            flush=True,
        )
        if i == 0:
            print("\n".join(result.record["remarks"]))
        for row in rows[1:] if i == 0 else []:
            found.append({"way": row["method"], **row})
            print(
                f"{row['method']:28s} {row['macro_f1']:.3f} [{row['macro_f1_low']:.3f}, {row['macro_f1_high']:.3f}]  accuracy "
                f"{row['accuracy']:.3f}",
                flush=True,
            )
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
