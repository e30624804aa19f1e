"""Whether the null of comparable genes is fair: p-values of genes that nobody picked.

Genes are drawn at random from each decile of mean expression and knocked out one by one through `sl.perturb`'s path, or all genes
at once through `sl.screen` (--screen), where each is tested against at most --n-null comparable ones; if the null is fair, p is
uniform. Power is that for an effect of three null standard deviations on top of what was seen, beyond the null's 95 %; with
--planted the gene's loading in `pca` is made so much stronger that the model itself has this effect, and cells, model and null go
the whole path again.

A sample of n uniform numbers is itself about 0.87/√n from uniform (0.06 for 200, 0.03 for 750), and with 59 null genes p has
steps of 1/60: a distance of 0.05 can be told with all genes only.

python benchmarks/null_calibration.py --model pca --genes 200
python benchmarks/null_calibration.py --model starter --screen --cells 300
"""

from __future__ import annotations

import json

import click


@click.command(help=__doc__)
@click.option("--model", "name", default="pca", show_default=True)
@click.option("--dataset", default="pbmc68k", show_default=True)
@click.option("--genes", default=200, show_default=True, help="Genes tested, spread evenly over the deciles.")
@click.option("--screen", "whole", is_flag=True, help="All genes, in one screen.")
@click.option("--cells", default=0, help="Most cells; 0: all.")
@click.option("--n-null", default=59, show_default=True)
@click.option("--planted", is_flag=True, help="Plant the effect into the model, gene by gene (pca, not in a screen).")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    name: str, dataset: str, genes: int, whole: bool, cells: int, n_null: int, planted: bool, seed: int, as_json: bool
) -> None:
    """Print how p-values of genes that nobody picked are distributed."""
    import numpy as np
    from scipy import stats

    import scfm_lab as sl
    from scfm_lab.evaluation.nulls import features
    from scfm_lab.tasks.perturb import Perturber

    adata = sl.datasets.load(dataset)
    rng = np.random.default_rng(seed)
    if cells and adata.n_obs > cells:
        adata = adata[np.sort(rng.choice(adata.n_obs, cells, replace=False))].copy()
    lab = Perturber(adata, name, seed=seed)
    f = features(lab.cells.counts, lab.cells.total)
    seen = np.flatnonzero(lab.known & (f.detection * len(lab.cells) >= 10))
    # Every cell is tested, so that no gene is left out for few of them.
    tested = max(len(lab.cells), 10)
    deciles = np.array_split(seen[np.argsort(f.log_mean[seen])], 10)
    if planted and (whole or lab.model.family != "pca"):
        raise click.UsageError(
            "--planted goes with --model pca and without --screen: it makes a gene's loading stronger."
        )
    rows, through = [], []
    if whole:
        rows = _of_screen(adata, lab, deciles, n_null, seed)
        deciles = []
    for number, decile in enumerate(deciles, start=1):
        for gene in rng.choice(decile, min(genes // 10, len(decile)), replace=False):
            symbol = str(lab.cells.genes.names[gene])
            row = lab.with_null(lab.run({symbol: 0.0}), n_null=n_null, max_cells=tested).table.iloc[0]
            # An effect of three null standard deviations on top of what was seen, against the same null.
            stronger = row["effect_tested"] + 3 * row["null_sd"] if np.isfinite(row["p_value"]) else np.nan
            rows.append((number, row["p_value"], stronger, row["null_high"]))
            if planted and np.isfinite(stronger) and row["effect_tested"] > 0:
                model = _with_stronger_loading(lab.model, symbol, stronger / row["effect_tested"])
                again = Perturber(adata, model, seed=seed)
                row = again.with_null(again.run({symbol: 0.0}), n_null=n_null, max_cells=tested).table.iloc[0]
                assert np.isclose(row["effect_tested"], stronger, rtol=0.02), (symbol, row["effect_tested"], stronger)
                through.append(row["p_value"])
        click.echo(f"decile {number}: {len(rows)} genes", err=True)
    table = np.array(rows, dtype=float)
    valid = np.isfinite(table[:, 1])
    p = table[valid, 1]
    figures = {
        "model": name,
        "dataset": dataset,
        "path": "one screen" if whole else "one by one",
        "cells": adata.n_obs,
        "genes": len(table),
        "no_valid_null": int((~valid).sum()),
        "false_positive_rate_at_5%": round(float((p <= 0.05).mean()), 4),
        "ks_distance_from_uniform": round(float(stats.kstest(p, "uniform").statistic), 4),
        "share_of_planted_above_the_null's_95%": round(float((table[valid, 2] > table[valid, 3]).mean()), 3),
        **(
            {
                "planted_through_the_path": len(through),
                "power_at_5%": round(float(np.mean(np.array(through) <= 0.05)), 3),
            }
            if planted
            else {}
        ),
        "by_decile": {
            int(d): {
                "tested": int((table[valid, 0] == d).sum()),
                "p<=0.05": round(float((p[table[valid, 0] == d] <= 0.05).mean()), 3)
                if (table[valid, 0] == d).any()
                else None,
            }
            for d in range(1, 11)
        },
    }
    click.echo(json.dumps(figures, indent=None if as_json else 2))


def _with_stronger_loading(model: object, symbol: str, times: float) -> object:
    """`pca` in which a gene moves a cell so many times as far."""
    from scfm_lab.models.pca import PCA

    components = model.components.clone()
    components[:, model.vocabulary.id_of(symbol)] *= times
    return PCA(components, model.mean, model.vocabulary, basis=f"shipped, {symbol} {times:.3g} times as strong")


def _of_screen(adata: object, lab: object, deciles: list, n_null: int, seed: int) -> list[tuple]:
    """Decile, p, planted effect and upper end of the null of every gene of a screen."""
    import tempfile
    from pathlib import Path

    import scfm_lab as sl

    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "screen.sqlite"
        result = sl.screen(adata, lab.model, n_null=n_null, seed=seed, resume=journal, progress=False)
    table = result.details[result.details["readout"] == "shift"].set_index("gene")
    rows = []
    for number, decile in enumerate(deciles, start=1):
        for gene in decile:
            name = str(lab.cells.genes.names[gene])
            if name in table.index:
                row = table.loc[name]
                rows.append((number, row["p_value"], row["effect"] + 3 * row["null_sd"], row["null_high"]))
    return rows


if __name__ == "__main__":
    main()
