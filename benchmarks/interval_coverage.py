"""How often intervals over few donors, batches or perturbations hold what they should, beside plain percentiles of the same resamples.

Means of normal values over so many units, and differences to a floor of cells within so many donors, whose true value is 0: an interval
of 95 % holds it in 95 % of the draws, and in 2.5 % of them the model would be called better than its floor.

python benchmarks/interval_coverage.py
python benchmarks/interval_coverage.py --times 200 --json
"""

from __future__ import annotations

import json

import click
import numpy as np

UNITS = (3, 5, 6, 8, 12)


@click.command(help=__doc__)
@click.option("--times", default=600, show_default=True, help="Draws of data for each number of units.")
@click.option("--json", "as_json", is_flag=True)
def main(times: int, as_json: bool) -> None:
    """Print coverage and false claims, as they are told and by plain percentiles."""
    from scfm_lab.evaluation.resampling import ends, resamples
    from scfm_lab.evaluation.score import bootstrap_interval

    rng = np.random.default_rng(0)
    rows = []
    for n in UNITS:
        told: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for k in range(times):
            values = rng.normal(size=n)
            drawn = [values[i].mean() for i in np.random.default_rng(k).integers(0, n, (400, n))]
            told.setdefault(("means over units", "told"), []).append(bootstrap_interval(values))
            told.setdefault(("means over units", "percentiles"), []).append(_percentiles(drawn))
            if n < 5:
                continue
            donors = np.repeat(np.arange(n), 40)
            own, floor = _labelled(rng, donors)
            picked, _ = resamples(len(donors), donors, 200, k)
            gains = [own[i].mean() - floor[i].mean() for i in picked]
            found = ends([own[i].mean() for i in picked], [floor[i].mean() for i in picked], units=picked.units)
            told.setdefault(("cells of donors", "told"), []).append((found["gain_low"], found["gain_high"]))
            told.setdefault(("cells of donors", "percentiles"), []).append(_percentiles(gains))
        for (what, how), intervals in told.items():
            low, high = np.array(intervals).T
            rows.append(
                {
                    "units": n,
                    "what": what,
                    "interval": how,
                    "holds": round(float(np.mean((low <= 0) & (high >= 0))), 3),
                    "falsely better": round(float(np.mean(low > 0)), 3),
                }
            )
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(
            "{units:>3} {what:17} {interval:12} holds {holds:.3f}, falsely better {falsely better:.3f}".format(**row)
        )


def _percentiles(drawn: list[float]) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _labelled(rng: np.random.Generator, donors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which cells a model and its floor label rightly: each is better in some donors, and neither is on the whole."""
    effect = rng.normal(size=donors.max() + 1)[donors] * 0.05
    drawn = rng.random((2, len(donors)))
    return (drawn[0] < 0.7 + effect).astype(float), (drawn[1] < 0.7 - effect).astype(float)


if __name__ == "__main__":
    main()
