"""Whether the contrast between conditions is fair: p-values where labels say nothing, through the complete path.

Real cells; each real donor is cut at random into several, since no set at hand has six donors. Labels are drawn anew within
each donor for every permutation, so that conditions never differ. Power is that for three null standard deviations planted
into the tested condition of every donor, by the gene's own null.

SCFM_DATA=... python benchmarks/contrast_calibration.py --permutations 20 --genes 200
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np


@click.command(help=__doc__)
@click.option("--model", "name", default="pca", show_default=True)
@click.option("--dataset", default="kang_ifnb_pbmc", show_default=True)
@click.option("--donor", "donor_key", default="donor", show_default=True)
@click.option("--parts", default=3, show_default=True, help="Parts that each donor is cut into.")
@click.option("--permutations", default=20, show_default=True)
@click.option("--genes", default=200, show_default=True)
@click.option("--cells", default=0, help="Most cells; 0: all.")
@click.option("--seed", default=0, show_default=True)
def main(
    name: str, dataset: str, donor_key: str, parts: int, permutations: int, genes: int, cells: int, seed: int
) -> None:
    """Print the false-positive rate, the distance from uniform and the power."""
    from scipy import stats

    import scfm_lab as sl
    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.contrast import Conditions, Design, design, exchange_test
    from scfm_lab.tasks.screen import Screen

    rng = np.random.default_rng(seed)
    adata = sl.datasets.load(dataset)
    if cells and adata.n_obs > cells:
        adata = adata[np.sort(rng.choice(adata.n_obs, cells, replace=False))].copy()
    real = adata.obs[donor_key].astype(str) if donor_key in adata.obs else np.full(adata.n_obs, "one")
    adata.obs["part"] = [f"{d}.{p}" for d, p in zip(real, rng.integers(0, parts, adata.n_obs), strict=True)]
    model = sl.load_model(name)
    lab = Baseline(adata, model)
    seen = np.bincount(lab.cells.counts.indices, minlength=adata.n_vars) / adata.n_obs
    usable = np.flatnonzero(lab.known & (seen > 0.05))
    picked = rng.choice(usable, min(genes, len(usable)), replace=False)
    names = [str(lab.cells.genes.names[g]) for g in picked]
    p, found, tried = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for k in range(permutations):
            label = np.empty(adata.n_obs, dtype=object)
            for part in sorted(set(adata.obs["part"])):
                rows = np.flatnonzero(adata.obs["part"] == part)
                label[rng.permutation(rows)] = np.where(np.arange(len(rows)) % 2, "stim", "control")
            adata.obs["label"] = label
            # The effects do not depend on the labels: the journal keeps them from one permutation to the next.
            screen = Screen(
                adata,
                model,
                names,
                contrast="label",
                sample_key="part",
                resume=Path(folder) / "journal.sqlite",
                seed=seed,
            )
            result = screen.run()
            p += result.details["p_value"].tolist()
            conditions = Conditions.of(adata, "label", "part")
            if k == 0:
                shifts = _shifts(sl, adata, model, names)
            plan = design(conditions, np.arange(adata.n_obs), np.ones(adata.n_obs, bool))
            assert isinstance(plan, Design)
            for values in shifts:
                first, second = (plan.indicator[side] @ values for side in (0, 1))
                sd = exchange_test(first, second, plan).null_sd
                planted = exchange_test(first + 3 * sd, second, plan)
                tried += 1
                found += planted.p_value <= 0.05
    values = np.array(p)
    told = {
        "model": name,
        "dataset": dataset,
        "donors": len(set(adata.obs["part"])),
        "permutations": permutations,
        "genes": len(names),
        "tests": len(values),
        "false_positive_rate_at_5%": round(float((values <= 0.05).mean()), 4),
        "ks_distance_from_uniform": round(float(stats.kstest(values, "uniform").statistic), 4),
        "power_at_3_null_sd": round(found / tried, 3),
    }
    print(json.dumps(told))


def _shifts(sl: object, adata: object, model: object, names: list[str]) -> list[np.ndarray]:
    """Shift of every cell by every gene."""
    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.sweep import Question, effects

    lab = Baseline(adata, model)  # type: ignore[arg-type]
    columns = [lab.cells.genes.find(n) for n in names]
    out = []
    for effect in effects(lab, [Question({c: 0.0}) for c in columns]):
        values = np.zeros(len(lab.cells))
        values[effect.rows] = effect.values[0]
        out.append(values)
    return out


if __name__ == "__main__":
    main()
