"""Scored edges against a known network, over what the degrees of that network alone would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.overlap import check_counted, flagged
from scfm_lab.evaluation.resampling import ends
from scfm_lab.evaluation.score import Score, Scores

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.tasks.regulators import RegulatorResult

RATIO, EPR, AUPRC = "EPR over the degree null", "EPR", "AUPRC"
_TRUTHS = {"human": "dorothea_human", "mouse": "dorothea_mouse"}
_TRADES = 5
"""Trades per regulator of one rewiring."""


@dataclass(frozen=True, repr=False)
class RegulatorScores(Scores):
    """Scores of each method, and of each layer and head."""

    heads: pd.DataFrame | None = None
    """layer, head, epr, over_null, p_value, remark: choosing the best of them after the fact is no test."""


def regulators(
    found: RegulatorResult,
    truth: pd.DataFrame | Iterable[tuple[str, str]] | None = None,
    *,
    confidence: str = "ABC",
    n_null: int = 200,
    n_boot: int = 500,
    seen: str = "refuse",
    seed: int = 0,
) -> RegulatorScores:
    """Early precision and area under the precision-recall curve of each method's edges.

    EPR, the early precision ratio, is the precision among the k first edges over that of random edges, with k the number of true
    edges (as BEELINE). A method that merely knows which genes have many edges does well at it; the degree null tells how well: the
    true network is rewired, every regulator and every target keeping its number of edges (the curveball algorithm of Strona et
    al. 2014), and the same edges are scored against it. Intervals are a bootstrap over regulators, in which the rewired networks are
    scored on the same regulators: the difference to them decides whether the floor is beaten.

    Parameters
    ----------
    found
        Of :func:`scfm_lab.regulators`.
    truth
        True edges: a table with the columns ``tf`` and ``target`` (and ``confidence``), or pairs. None: DoRothEA of the organism.
    confidence
        Levels that count, where the truth tells them.
    n_null
        Rewired networks, at least 19.
    n_boot
        Bootstrap samples.
    seen
        ``"refuse"`` edges that were found in cells of the model's training record, or ``"flag"`` their scores.

    Returns
    -------
    RegulatorScores
        Regulators without a true edge among the targets are left out. The floor is the degree null, never co-expression.

    Raises
    ------
    DataError
        If fewer than three regulators have a true edge, the truth has no such columns, or the model was trained on some of the
        cells and `seen` is ``"refuse"``.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> named = ["SPI1", "IRF8", "JUNB"]
    >>> edges = sl.regulators(cells, "starter", "embedding", beside=False, regulators=named, n_genes=60, progress=False)
    >>> known = [(gene, target) for gene in named for target in edges.targets[:20]]
    >>> sl.evaluate.regulators(edges, known, n_null=19, n_boot=20).of("EPR", "embedding").value > 0
    True
    """
    import pandas as pd

    from scfm_lab.tasks.regulators import BESIDE

    if n_null < 19:
        raise DataError(f"n_null is {n_null}; at least 19 rewired networks are needed for a p of 0.05.")
    if n_boot < 0:
        raise DataError(f"n_boot is {n_boot}; give a number of bootstrap samples, or 0 for no intervals.")
    made = found.provenance
    remark = check_counted(
        str(made.get("version") or made.get("model", "")),
        int(made.get("cells_trained_on", 0)),
        int(made.get("cells", 0)),
        seen=seen,
    )
    known = _network(found, truth, confidence)
    edges = found.regulators[:, None] != found.targets[None, :]
    kept = np.flatnonzero((known & edges).any(axis=1))
    if len(kept) < 3:
        raise DataError(
            f"{len(kept)} of the {len(found.regulators):,} regulators have a known target among the {len(found.targets):,} genes; at "
            "least three are needed. Score more genes (n_genes), or name another truth."
        )
    net, edges = (known & edges)[kept], edges[kept]
    rng = np.random.default_rng(seed)
    rewired = [_rewired(net, edges, rng) for _ in range(n_null)]
    draws = [np.bincount(rng.integers(0, len(kept), len(kept)), minlength=len(kept)) for _ in range(n_boot)]
    scores = []
    for method, values in found.scores.items():
        scores += _of_method(method, _Ranked.of(values[kept], edges, net, rewired, rng), draws, len(kept))
    heads = []
    for (layer, head), values in found.heads.items():
        told = _Ranked.of(values[kept], edges, net, rewired, rng).told()
        value, null = told[EPR]
        heads.append(
            {
                "layer": layer,
                "head": head,
                "epr": value,
                "over_null": told[RATIO][0],
                "p_value": _chance(value, null),
            }
        )
    notes = (
        f"{int(net.sum()):,} true edges of {len(kept)} regulators among {int(edges.sum()):,} possible ones "
        f"({net.sum() / edges.sum():.2%}); {len(found.regulators) - len(kept)} regulators without a true edge are left out.",
        "The floor is what the same edges reach against networks rewired with all degrees kept. Co-expression and boosted regression "
        "stand beside, and are no yardstick: co-expression itself is near chance.",
        "The known network is neither complete nor of these cells, so that no ceiling is known.",
    )
    # What the counts alone say is no model's, and nothing was learnt for it.
    flags = {method: remark for method in found.scores if remark and method not in BESIDE}
    return RegulatorScores(
        flagged(scores, flags),
        title=f"Edges against the known network ({'DoRothEA ' + confidence if truth is None else 'given'}).",
        notes=notes,
        # The seed of the edges stays beside that of the rewired networks and resamples.
        provenance={
            **found.provenance,
            "task": "evaluate.regulators",
            "confidence": confidence,
            "n_null": n_null,
            "n_boot": n_boot,
            "seen": seen,
            "evaluation_seed": seed,
        },
        heads=pd.DataFrame(heads).assign(remark=remark) if heads else None,
    )


def _network(
    found: RegulatorResult, truth: pd.DataFrame | Iterable[tuple[str, str]] | None, confidence: str
) -> NDArray[np.bool_]:
    """Known edges, bool (regulators, targets)."""
    from scfm_lab import datasets

    if truth is None:
        organism = found.organism or "human"
        if organism not in _TRUTHS:
            raise DataError(f"No known network of {organism} comes along; give one with truth=.")
        try:
            truth = datasets.load(_TRUTHS[organism])
        except DataError as error:
            raise DataError(f"{error} Or give a network of your own with truth=.") from error
    known: Any = truth
    if hasattr(known, "columns"):
        missing = {"tf", "target"} - set(known.columns)
        if missing:
            raise DataError(f"The truth has no column {' and '.join(sorted(missing))}; it needs 'tf' and 'target'.")
        if "confidence" in known.columns:
            known = known[known["confidence"].isin(list(confidence))]
        known = zip(known["tf"], known["target"], strict=True)
    pairs = [(str(a), str(b)) for a, b in known]
    rows, columns = _places(found.regulators), _places(found.targets)
    out = np.zeros((len(found.regulators), len(found.targets)), dtype=bool)
    for a, b in pairs:
        if a.upper() in rows and b.upper() in columns:
            out[np.ix_(rows[a.upper()], columns[b.upper()])] = True
    return out


def _places(symbols: NDArray[Any]) -> dict[str, list[int]]:
    """Where each symbol is: several genes may share one."""
    places: dict[str, list[int]] = {}
    for place, symbol in enumerate(symbols):
        places.setdefault(str(symbol).upper(), []).append(place)
    return places


def _rewired(net: NDArray[np.bool_], edges: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A network with the same number of edges at every regulator and every target, none where there can be none."""
    out = net.copy()
    n = len(out)
    for _ in range(_TRADES * n):
        a, b = rng.choice(n, 2, replace=False)
        # What only one of the two has, and either may have.
        free = np.flatnonzero((out[a] ^ out[b]) & edges[a] & edges[b])
        if len(free) < 2:
            continue
        own = int(out[a, free].sum())
        dealt = rng.permutation(free)
        out[a, free], out[b, free] = False, False
        out[a, dealt[:own]] = True
        out[b, dealt[own:]] = True
    return out


@dataclass(frozen=True)
class _Ranked:
    """Possible edges from the highest score to the lowest, and where among them the edges of networks are."""

    rows: NDArray[np.int64]
    """Regulator of each."""
    places: NDArray[np.int64]
    """Places of the edges of the known network in the first row, of the rewired ones in the others: all have as many."""

    @classmethod
    def of(
        cls,
        values: NDArray[np.float64],
        edges: NDArray[np.bool_],
        net: NDArray[np.bool_],
        rewired: list[NDArray[np.bool_]],
        rng: np.random.Generator,
    ) -> _Ranked:
        """Ties are broken by chance, scores that are not there come last."""
        r, c = np.nonzero(edges)
        order = np.lexsort((rng.random(len(r)), -np.nan_to_num(values[r, c], nan=-np.inf)))
        r, c = r[order], c[order]
        return cls(r, np.stack([np.flatnonzero(one[r, c]) for one in (net, *rewired)]))

    def told(self, weight: NDArray[np.int64] | None = None) -> dict[str, tuple[float, NDArray[np.float64]]]:
        """Metric → that of the known network, and of each rewired one; each regulator counts as often as its weight says."""
        w = np.ones(len(self.rows)) if weight is None else weight[self.rows].astype(np.float64)
        total = np.cumsum(w)
        own = w[self.places]
        hits = np.cumsum(own, axis=1)
        # Every network has as many edges at every regulator, and so the same weight of them; none of them has no edge.
        true = hits[0, -1]
        first = total <= true
        found = (own * first[self.places]).sum(axis=1)
        epr = found / total[first][-1] / (true / total[-1])
        auprc = (own * hits / np.maximum(total[self.places], 1)).sum(axis=1) / true
        chance = found[1:].mean()
        ratio = found / chance if chance > 0 else np.full(len(found), np.nan)
        return {name: (float(v[0]), v[1:]) for name, v in ((RATIO, ratio), (EPR, epr), (AUPRC, auprc))}


def _chance(value: float, null: NDArray[np.float64]) -> float:
    """Share of networks, the known one among them, that score as high."""
    return float((1 + np.sum(null >= value - 1e-12)) / (1 + len(null)))


def _of_method(method: str, ranked: _Ranked, draws: list[NDArray[np.int64]], n: int) -> list[Score]:
    drawn = [ranked.told(weight) for weight in draws]
    return [
        Score(
            metric,
            method,
            value,
            **ends([d[metric][0] for d in drawn], [d[metric][1].mean() for d in drawn], units=n),
            floor=float(null.mean()),
            floor_name="degree null",
            interval="95 % bootstrap over regulators",
            n=n,
            missing="no ceiling is known",
            remark=f"p = {_chance(value, null):.2g} against {len(null)} rewired networks",
        )
        for metric, (value, null) in ranked.told().items()
    ]
