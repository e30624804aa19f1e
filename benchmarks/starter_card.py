"""The numbers of the model cards: ``starter`` beside ``pca`` and ``sctop``, on cells that none was fitted to.

    python benchmarks/starter_card.py [--update] [--json FILE]

Everything goes through the public ways in (``sl.load_model``, ``sl.embed``, ``expected_counts``). Macro-F1 is that of
labels taken from the 15 nearest reference cells (cosine); intervals are 95 % bootstrap intervals over the query cells,
and differences to ``pca`` are paired. The named datasets are read from ``SCFM_DATA``, or from ``../shared/data``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.training import corpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

MODELS = ("starter", "pca", "sctop")
NEIGHBOURS = 15
RESAMPLES = 1000
UNLABELLED = "unlabelled"
CARDS = Path(sl.__file__).parent / "models" / "assets"


def vectors(adata: AnnData, model: Any) -> NDArray[np.float32]:
    """Cell vectors; the AnnData is left as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(sl.embed(adata, model, copy=True, progress=False, cache=False).vectors)


def transfer(reference: NDArray[Any], labels: NDArray[Any], query: NDArray[Any]) -> NDArray[Any]:
    """Labels of the query cells by vote of their nearest reference cells."""
    known = np.isfinite(reference).all(axis=1)
    votes = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(reference[known], labels[known])
    return np.asarray(votes.predict(np.nan_to_num(query)))


def leave_one_out(cells: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Label of each cell by vote of its nearest others."""
    cells = np.nan_to_num(cells)
    votes = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(cells, labels)
    classes = votes.classes_
    nearest = votes.kneighbors(cells, n_neighbors=NEIGHBOURS + 1, return_distance=False)
    # The cell itself is among its neighbours unless it has exact doubles; drop it, else the farthest.
    kept = [row[row != i][:NEIGHBOURS] for i, row in enumerate(nearest)]
    code = np.searchsorted(classes, labels)
    counts = np.array([np.bincount(code[row], minlength=len(classes)) for row in kept])
    return classes[counts.argmax(axis=1)]


def macro_f1(truth: NDArray[Any], guess: NDArray[Any]) -> float:
    """Mean F1 of the classes that occur in the truth."""
    return float(f1_score(truth, guess, average="macro", labels=np.unique(truth), zero_division=0))


def bootstrap(n: int, statistic: Callable[[NDArray[np.int64]], float]) -> tuple[float, float]:
    """95 % interval of a statistic of resampled rows."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def scored(task: str, truth: NDArray[Any], guesses: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One row per model: macro-F1, its interval, and the paired difference to ``pca``."""
    rows = []
    for name, guess in guesses.items():
        low, high = bootstrap(len(truth), lambda i, g=guess: macro_f1(truth[i], g[i]))
        row = {
            "task": task,
            "model": name,
            "cells": len(truth),
            "macro_f1": macro_f1(truth, guess),
            "low": low,
            "high": high,
        }
        if name != "pca":
            floor = guesses["pca"]
            row["minus_pca"] = row["macro_f1"] - macro_f1(truth, floor)
            row["minus_pca_low"], row["minus_pca_high"] = bootstrap(
                len(truth), lambda i, g=guess, f=floor: macro_f1(truth[i], g[i]) - macro_f1(truth[i], f[i])
            )
        rows.append(row)
    return rows


def panel_of(adata: AnnData, genes: Any) -> AnnData:
    """The same cells seen through a panel; library sizes stay those of all genes."""
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    seen = adata[:, adata.var_names.isin(genes)].copy()
    seen.obs["total_counts_all_genes"] = total
    return seen


def label_transfer(models: dict[str, Any]) -> list[dict[str, Any]]:
    """Held-out fifth of pbmc3k (whole, and through the bundled panel), and sorted PBMCs of another study."""
    pbmc = corpus.read_anndata(corpus.SPLIT_SET)
    out = corpus.held_out(np.asarray(pbmc.obs_names))
    labelled = (pbmc.obs["cell_type"] != UNLABELLED).to_numpy()
    reference, query = np.flatnonzero(labelled & ~out), np.flatnonzero(labelled & out)
    fine = pbmc.obs["cell_type"].astype(str).to_numpy()
    coarse = pbmc.obs["cell_type_coarse"].astype(str).to_numpy()
    bundled = sl.datasets.load("pbmc68k")
    narrow = panel_of(pbmc, bundled.var_names)
    zheng = corpus.read_anndata("pbmc_zheng_sorted")

    whole = {name: vectors(pbmc, model) for name, model in models.items()}
    through = {name: vectors(narrow, model) for name, model in models.items()}
    rows = scored(
        "pbmc3k, held-out fifth, 9 types",
        fine[query],
        {name: transfer(v[reference], fine[reference], v[query]) for name, v in whole.items()},
    )
    rows += scored(
        "the same, query seen through the 765 bundled genes",
        fine[query],
        {name: transfer(whole[name][reference], fine[reference], v[query]) for name, v in through.items()},
    )
    rows += scored(
        "sorted PBMCs (Zheng 2017), coarse types",
        zheng.obs["cell_type_coarse"].astype(str).to_numpy(),
        {name: transfer(whole[name][reference], coarse[reference], vectors(zheng, m)) for name, m in models.items()},
    )
    return rows


def other_tissues(models: dict[str, Any]) -> list[dict[str, Any]]:
    """Sets far from the training cells: leave-one-out within each."""
    rows = []
    for name, what in (
        ("human_brain_darmanis", "human brain (reads, not UMIs), leave-one-out"),
        ("pancreas_endocrinogenesis", "mouse pancreas E15.5 (2,000 genes, by orthologs), leave-one-out"),
        ("baron_pancreas_human_mouse", "pancreatic islets, leave-one-out"),
    ):
        adata = corpus.read_anndata(name)
        truth = adata.obs["cell_type"].astype(str).to_numpy()
        rows += scored(what, truth, {n: leave_one_out(vectors(adata, m), truth) for n, m in models.items()})
    return rows


def imputation(models: dict[str, Any]) -> dict[str, Any]:
    """Half of each held-out cell's molecules predict the other half.

    The likelihood is Poisson, in nats per molecule (lower is better); Pearson's r is that of a gene over the cells,
    the mean over genes with at least 50 hidden molecules.
    """
    import torch

    starter, pca = models["starter"], models["pca"]
    genes = starter.vocabulary
    train = corpus.load(corpus.SPLIT_SET, genes)
    whole = corpus.read_anndata(corpus.SPLIT_SET)
    whole = whole[corpus.held_out(np.asarray(whole.obs_names))].copy()
    half, rest = whole.copy(), whole.copy()
    half.X.data = np.random.default_rng(0).binomial(whole.X.data.astype(np.int64), 0.5).astype(np.float32)
    rest.X.data = whole.X.data - half.X.data
    for part in (half, rest):
        part.X.eliminate_zeros()
    hidden, seen = corpus.over_vocabulary(Cells.from_anndata(rest), genes)
    hidden = hidden.toarray()
    exposure = np.asarray(rest.X.sum(axis=1)) / 1e4
    mean = np.maximum(np.asarray(train.counts.T @ (1e4 / train.total)).ravel() / len(train), 1e-3)

    rates = {"starter": starter.expected_counts(vectors(half, starter), np.arange(len(genes)))}
    at = np.array([genes.id_of(e) for e in pca.vocabulary.ensembl])
    logged = (torch.as_tensor(vectors(half, pca)) @ pca.components + pca.mean).numpy()
    linear = np.tile(mean, (len(hidden), 1))
    linear[:, at] = np.maximum(np.expm1(logged), 1e-3)
    rates["pca, reconstructed"] = linear
    rates["each gene's mean"] = np.tile(mean, (len(hidden), 1))

    often = np.flatnonzero(hidden.sum(axis=0) >= 50)
    measured = np.flatnonzero(seen)
    observed = hidden / exposure
    rows = []
    for name, rate in rates.items():
        loss = (rate * exposure - hidden * np.log(rate))[:, measured].sum(axis=1) / hidden.sum(axis=1)
        low, high = bootstrap(len(loss), lambda i, x=loss: float(x[i].mean()))
        r = np.nan
        if np.ptp(rate[:, often], axis=0).max() > 0:
            r = float(np.nanmean([np.corrcoef(rate[:, g], observed[:, g])[0, 1] for g in often]))
        rows.append({"model": name, "nats_per_molecule": float(loss.mean()), "low": low, "high": high, "pearson": r})
    return {"rows": rows, "genes": len(often), "cells": len(hidden)}


def coverage(models: dict[str, Any]) -> list[dict[str, Any]]:
    """Share of UMIs (or reads) whose gene each model knows, per dataset."""
    rows = []
    for name, dataset in sl.datasets.catalogue().items():
        if dataset.kind != "cells":
            continue
        adata = sl.datasets.load(name) if name == "pbmc68k" else corpus.read_anndata(name)
        cells = Cells.from_anndata(adata)
        counts = np.asarray(cells.counts.sum(axis=0)).ravel()
        row: dict[str, Any] = {"dataset": name, "genes": len(counts)}
        for model_name, model in models.items():
            match = model.vocabulary.match(cells.genes)
            row[model_name] = float(counts[match.columns].sum() / counts.sum())
            row[f"{model_name}_genes"] = len(match.columns)
        rows.append(row)
    return rows


def as_markdown(found: dict[str, Any]) -> str:
    """The tables of the card."""
    lines = [
        "| task | cells | model | macro-F1 | 95 % interval | minus pca (95 % interval) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["label_transfer"] + found["other_tissues"]:
        difference = (
            ""
            if "minus_pca" not in row
            else (f"{row['minus_pca']:+.3f} ({row['minus_pca_low']:+.3f} to {row['minus_pca_high']:+.3f})")
        )
        lines.append(
            f"| {row['task']} | {row['cells']:,} | {row['model']} | {row['macro_f1']:.3f} | "
            f"{row['low']:.3f}–{row['high']:.3f} | {difference} |"
        )
    imputed = found["imputation"]
    lines += [
        "",
        f"Half of the molecules of the {imputed['cells']:,} held-out cells of pbmc3k, predicted from the other half:",
        "",
        "| prediction | Poisson loss, nats per molecule (lower is better) | Pearson's r over cells, mean of "
        f"{imputed['genes']:,} genes |",
        "|---|---|---|",
    ]
    for row in imputed["rows"]:
        r = "none (constant)" if np.isnan(row["pearson"]) else f"{row['pearson']:.3f}"
        lines.append(
            f"| {row['model']} | {row['nats_per_molecule']:.3f} ({row['low']:.3f} to {row['high']:.3f}) | {r} |"
        )
    lines += ["", "Share of counts whose gene is known, and genes known of those in the file:", ""]
    lines += ["| dataset | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    for row in found["coverage"]:
        shares = " | ".join(f"{row[m]:.1%} ({row[f'{m}_genes']:,} of {row['genes']:,})" for m in MODELS)
        lines.append(f"| {row['dataset']} | {shares} |")
    return "\n".join(lines)


def data_table(name: str) -> str:
    """What a shipped model was fitted to, with digests, from its configuration."""
    training = json.loads((CARDS / name / "config.json").read_text(encoding="utf-8"))["training"]
    lines = ["| dataset | cells | genes known | counts known | SHA-256 of the file | SHA-256 of the set of cells |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| {r['dataset']} | {r['cells']:,} | {r['genes_measured']:,} | {r['umi_share_in_vocabulary']:.1%} | "
        f"`{r['file_sha256']}` | `{r['cell_set_sha256']}` |"
        for r in training["data"]
    ]
    return "\n".join(lines)


def update(card: Path, block: str, what: str) -> None:
    """Replace what stands between two markers of a card."""
    text = card.read_text(encoding="utf-8")
    start, end = f"<!-- {what} -->", f"<!-- end of {what} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{card} has no {start} … {end} to put the {what} between.")
    card.write_text(pattern.sub(lambda _: f"{start}\n{block}\n{end}", text), encoding="utf-8")


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the tables into the shipped cards")
    parser.add_argument("--starter", default="starter", help="another starter, by its folder")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    arguments = parser.parse_args()

    models = {name: sl.load_model(name if name != "starter" else arguments.starter, device="cpu") for name in MODELS}
    found = {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "digests": {name: model.digest for name, model in models.items()},
        "label_transfer": label_transfer(models),
        "other_tissues": other_tissues(models),
        "imputation": imputation(models),
        "coverage": coverage(models),
    }
    table = as_markdown(found)
    print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.update:
        for name in MODELS:
            update(CARDS / name / "card.md", data_table(name), "data")
            update(CARDS / name / "card.md", table, "numbers")


if __name__ == "__main__":
    main()
