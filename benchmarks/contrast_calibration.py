"""Whether the contrast between conditions is fair: p-values where labels say nothing, through the complete path.

Real cells; each real donor is cut at random into several, since no set at hand has donors enough. Labels are drawn anew for every
permutation, within each donor or (``--unpaired``) for whole donors, half of them in each condition, so that conditions never differ.
Power is that for three null standard deviations planted into the tested condition of every donor, by the gene's own null. Genes of
one permutation share its labels and are not independent: the standard error is that of the means of permutations.

SCFM_DATA=... python benchmarks/contrast_calibration.py --permutations 20 --genes 200 [--unpaired]
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
@click.option("--unpaired", is_flag=True, help="Each donor is of one condition.")
@click.option("--permutations", default=20, show_default=True)
@click.option("--genes", default=200, show_default=True)
@click.option("--check", default=20, show_default=True, help="Genes that also go through the complete path.")
@click.option("--cells", default=0, help="Most cells; 0: all.")
@click.option("--seed", default=0, show_default=True)
def main(
    name: str,
    dataset: str,
    donor_key: str,
    parts: int,
    unpaired: bool,
    permutations: int,
    genes: int,
    check: int,
    cells: int,
    seed: int,
) -> None:
    """Print the false-positive rate, the distance from uniform and the power."""
    from scipy import stats

    import scfm_lab as sl
    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.contrast import Conditions, Design, design, exchange_test

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
    shifts = _shifts(adata, model, names)
    p, found, tried = [], 0, 0
    for k in range(permutations):
        adata.obs["label"] = _labels(adata.obs["part"].to_numpy(), rng, unpaired=unpaired)
        conditions = Conditions.of(adata, "label", "part")
        plan = design(conditions, np.arange(adata.n_obs), np.ones(adata.n_obs, bool))
        assert isinstance(plan, Design)
        assert plan.paired != unpaired
        sides = [plan.indicator[side] @ shifts.T for side in (0, 1)]
        tests = [exchange_test(first, second, plan) for first, second in zip(sides[0].T, sides[1].T, strict=True)]
        if k == 0:
            # Effects do not depend on labels: one permutation through the complete path shows that all else is the same.
            with tempfile.TemporaryDirectory() as folder:
                whole = sl.screen(
                    adata,
                    model,
                    names[:check],
                    contrast="label",
                    sample_key="part",
                    resume=Path(folder) / "journal.sqlite",
                    seed=seed,
                    progress=False,
                )
            by_gene = whole.details.set_index("gene")["p_value"]
            np.testing.assert_allclose([by_gene[n] for n in names[:check]], [t.p_value for t in tests[:check]])
        p += [t.p_value for t in tests]
        for test, first, second in zip(tests, sides[0].T, sides[1].T, strict=True):
            tried += 1
            found += exchange_test(first + 3 * test.null_sd, second, plan).p_value <= 0.05
    values = np.array(p)
    rates = (values.reshape(permutations, -1) <= 0.05).mean(axis=1)
    told = {
        "model": name,
        "dataset": dataset,
        "design": "unpaired" if unpaired else "paired",
        "donors": len(set(adata.obs["part"])),
        "permutations": permutations,
        "genes": len(names),
        "tests": len(values),
        "false_positive_rate_at_5%": round(float(rates.mean()), 4),
        "its_standard_error": round(float(rates.std(ddof=1) / np.sqrt(permutations)), 4) if permutations > 1 else None,
        "ks_distance_from_uniform": round(float(stats.kstest(values, "uniform").statistic), 4),
        "by_permutation": [round(float(v), 3) for v in rates],
        "power_at_3_null_sd": round(found / tried, 3),
    }
    print(json.dumps(told))


def _labels(part: np.ndarray, rng: np.random.Generator, *, unpaired: bool) -> np.ndarray:
    """Conditions that mean nothing: half of each donor's cells, or half of the donors."""
    names = np.array(sorted(set(part)))
    if unpaired:
        return np.where(np.isin(part, rng.permutation(names)[: len(names) // 2]), "stim", "control").astype(object)
    label = np.empty(len(part), dtype=object)
    for name in names:
        rows = np.flatnonzero(part == name)
        label[rng.permutation(rows)] = np.where(np.arange(len(rows)) % 2, "stim", "control")
    return label


def _shifts(adata: object, model: object, names: list[str]) -> np.ndarray:
    """Shift of every cell by every gene, (genes, cells)."""
    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.sweep import Question, effects

    lab = Baseline(adata, model)  # type: ignore[arg-type]
    columns = [lab.cells.genes.find(n) for n in names]
    out = np.zeros((len(names), len(lab.cells)))
    for values, effect in zip(out, effects(lab, [Question({c: 0.0}) for c in columns]), strict=True):
        values[effect.rows] = effect.values[0]
    return out


if __name__ == "__main__":
    main()
