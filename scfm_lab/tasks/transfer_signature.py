"""A treatment's direction, learnt in one context and applied in another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.provenance import storable
from scfm_lab.errors import DataError, did_you_mean, plural
from scfm_lab.evaluation.nulls import benjamini_hochberg
from scfm_lab.evaluation.overlap import check_choice
from scfm_lab.evaluation.score import bootstrap_interval, macro
from scfm_lab.results import Result, charts
from scfm_lab.tasks.drug_signature import SEEN
from scfm_lab.tasks.responses import FEWEST_SAMPLES, cosine, halves, jackknife

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.tasks.drug_signature import DrugSignature
    from scfm_lab.tasks.responses import Responses

_MOST_CONTROLS = 2000
_SPACE = {
    "weights_sha256": "weights",
    "settings_sha256": "settings",
    "hidden_layer": "hidden_layer",
    "pooling": "pooling",
    "options": "options",
    "precision": "precision",
    "method": "what was done to the vectors",
}
"""What of a provenance record tells in which space vectors lie, and how that is called."""
_COLUMNS = (
    "treatment",
    "source",
    "target",
    "cosine",
    "low",
    "high",
    "mean_treatment",
    "random",
    "random_high",
    "p_value",
    "q_value",
    "above_mean_treatment",
    "above_random",
    "ceiling",
    "relative_error",
    "n_splits",
    "missing",
)


@dataclass(frozen=True, repr=False)
class TransferResult(Result):
    """Cosines of transferred and measured directions, between floors and the agreement of replicates."""

    table: pd.DataFrame
    """One row per treatment, source and target: cosine with low and high (jackknife over samples), mean_treatment (that floor's
    cosine), random (the mean over random directions, near 0, as they lie either way) and random_high (what one in twenty of them
    reaches: the floor), p_value, q_value (Benjamini–Hochberg over the rows), above_mean_treatment and above_random (cosine minus
    mean_treatment, and minus random_high),
    ceiling, relative_error (length of predicted minus measured over that of the measured; no change gives 1), n_splits, missing (what
    could not be had, and why), remark (that the model was trained on some of the cells)."""
    space: str
    replicates: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """The mean over pairs of contexts, each pair, and what could not be had."""
        known = self.table[np.isfinite(self.table["cosine"])]
        lines = [
            f"Directions learnt in one context and applied in another, in {self.space}; halves are of {self.replicates}."
        ]
        for treatment, own in known.groupby("treatment", sort=False):
            over = own.groupby("target")[
                ["cosine", "random_high", "mean_treatment", "ceiling", "relative_error"]
            ].mean()
            low, high = np.clip(bootstrap_interval(over["cosine"].to_numpy()), -1, 1)
            interval = f" [{low:.2f}, {high:.2f}] over targets" if np.isfinite(low) else ""
            floor = over["mean_treatment"].mean()
            mean = f"{floor:.2f}" if np.isfinite(floor) else "not measured (one treatment)"
            lines.append(
                f"{treatment}: cosine {over['cosine'].mean():.2f}{interval}; one random direction in twenty reaches "
                f"{over['random_high'].mean():.2f}, the mean of the other treatments {mean}; replicates {over['ceiling'].mean():.2f}; relative error "
                f"{over['relative_error'].mean():.2f} (no change: 1)."
            )
        lines += [
            f"{r.treatment}, {r.source} → {r.target}: {r.cosine:.2f} (replicates {r.ceiling:.2f}, random {r.random_high:.2f}, "
            f"p = {r.p_value:.2g}, q = {r.q_value:.2g})."
            for r in known.head(12).itertuples()
        ]
        if len(known) > 12:
            lines.append(f"… and {len(known) - 12} more in .table.")
        short = known["missing"].str.contains("interval: ")
        if short.any():
            lines.append(
                f"{plural(int(short.sum()), 'pair has', 'pairs have')} no interval, as that takes {FEWEST_SAMPLES} samples with enough "
                "cells; .table says of each what is missing."
            )
        lost = self.table[self.table["missing"] != ""]
        lines += [
            f"{r.treatment}, {r.source} → {r.target}: {r.missing}."
            for r in lost.head(5).itertuples()
            if not np.isfinite(r.cosine)
        ]
        if told := self.provenance.get(SEEN):
            lines.append(f"{told}.")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Each pair's cosine on a bar from what one random direction in twenty reaches to the replicates (Altair)."""
        alt = charts()
        table = self.table.dropna(subset=["cosine"])
        table = table.assign(pair=table["treatment"] + ": " + table["source"] + " → " + table["target"])
        base = alt.Chart(table).encode(y=alt.Y("pair:N", sort="-x", title=None))
        band = base.mark_bar(color="#bdbdbd", opacity=0.6, height=10).encode(
            x=alt.X("random_high:Q", title="cosine: random (95 %) … replicates"), x2="ceiling:Q"
        )
        rule = base.mark_rule(color="#0072B2").encode(x="low:Q", x2="high:Q")
        return (
            band
            + rule
            + base.mark_point(filled=True, color="#0072B2").encode(x="cosine:Q", tooltip=list(_COLUMNS[:-1]))
        )


def transfer_signature(
    signature: DrugSignature,
    *,
    treatment: str | None = None,
    source: str | None = None,
    target: str | None = None,
    into: DrugSignature | None = None,
    n_random: int = 1000,
    seen: str = "refuse",
    seed: int = 0,
) -> TransferResult:
    """Compare directions learnt in a source context with those measured in a target context.

    Samples (or parts of the cells) are dealt into halves in every way: the direction is learnt in the source's one half and
    measured in the target's other half. The ceiling is learnt in the target itself, in that first half: what replicates reach on
    the same terms. Floors are the mean direction of the *other* treatments in the source, and random directions of the same
    length, drawn as the control cells of the target vary, which is harder than drawing in all directions alike. Random directions lie
    either way, so that their mean says nothing: what one in twenty of them reaches is the floor. With one treatment the first cannot be had.

    Parameters
    ----------
    signature
        Of :func:`scfm_lab.drug_signature`, with contexts (``groupby=``).
    treatment, source, target
        None: each. A source that is the target asks how the direction carries to other samples.
    into
        Another signature, of the same model and options (or of the same key of ``obsm``, where nothing tells what made it), in
        which the targets are: a direction of one dataset in another. All of the source is then learnt from. Options that say what
        the cells are (UCE's ``species``, ``orthologs``, TranscriptFormer's ``assay``) may differ: a mouse in a human, by one model.
    n_random
        Random directions.
    seen
        ``"refuse"`` signatures of cells that the model was trained on, or ``"flag"`` the result.

    Returns
    -------
    TransferResult

    Raises
    ------
    DataError
        If a name is not there, the signatures are of different models or options, or the model was trained on some of their
        cells and `seen` is ``"refuse"``.

    Examples
    --------
    >>> import numpy as np, scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> cells.obs["drug"] = np.where(np.arange(cells.n_obs) % 2, "A", "none")
    >>> cells.obs["half"] = np.where(np.arange(cells.n_obs) % 4 < 2, "x", "y")
    >>> made = sl.drug_signature(cells, "pca", treatment_key="drug", control="none", groupby="half", progress=False)
    >>> len(sl.transfer_signature(made, source="x", target="y", n_random=20).table)
    1
    """
    import pandas as pd

    where = signature if into is None else into
    flags = _training_record(signature, where, seen)
    if into is not None:
        _check_same_space(signature, into)
    here, there = signature.responses, where.responses
    treatments = [t for t in here.treatments if t in there.treatments]
    _check_named(treatment, treatments, "treatment")
    _check_named(source, here.contexts, "source")
    _check_named(target, there.contexts, "target")
    if n_random < 1:
        raise DataError(f"n_random is {n_random}; at least one random direction is needed for a floor.")
    # Random parts of cells are no samples: an interval over them would say nothing of how samples differ.
    named = where.provenance.get("sample_key")
    unnamed = "" if there.parts is None else "one sample only" if named else "no samples were named"
    rng = np.random.default_rng(seed)
    noise = {c: _like_cells(there.controls[c], n_random, rng) for c in there.contexts if target in (None, c)}
    rows = [
        _pair(here, there, t, a, b, noise[b], seed, unnamed)
        for t in treatments
        for a in here.contexts
        for b in noise
        if t == (treatment or t) and a == (source or a) and (into is not None or source is not None or a != b)
    ]
    if not rows:
        raise DataError(
            "There is one context only, so nothing to transfer to; name contexts with groupby= in sl.drug_signature, or the same "
            "source= and target= to carry a direction to other samples."
        )
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).assign(remark=flags.get(SEEN, ""))
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy(dtype=np.float64))
    record = {**signature.provenance, "task": "transfer_signature", "n_random": n_random, "seed": seed, **flags}
    if into is not None:
        record["into"] = dict(into.provenance)
    return TransferResult(table, signature.space, there.replicates, record)


def _training_record(source: DrugSignature, target: DrugSignature, seen: str) -> dict[str, str]:
    """What the result is flagged with, for its provenance; refused where that was asked for."""
    check_choice(seen)
    told = list(dict.fromkeys(str(one.provenance[SEEN]) for one in (source, target) if SEEN in one.provenance))
    if told and seen == "refuse":
        raise DataError(
            f"Directions in {source.space} are not scored: {'; '.join(told).replace('Flagged: ', '')}. Make the signatures of other "
            "cells, or have the result flagged with seen='flag'."
        )
    return {SEEN: "; ".join(told)} if told else {}


def _check_same_space(one: DrugSignature, two: DrugSignature) -> None:
    here, there = _space(one), _space(two)
    other = [name for name in dict.fromkeys((*here, *there)) if here.get(name) != there.get(name)]
    if not other and one.vectors.shape[1] != two.vectors.shape[1]:
        other = ["width"]
    if other:
        raise DataError(
            f"The signatures lie in different spaces ({one.space}, {two.space}; what differs: {', '.join(other)}); make both with the "
            "same version of a model and the same options."
        )


def _space(signature: DrugSignature) -> dict[str, Any]:
    """What tells a space: the model that made the vectors and how, and their name where no weights are known."""
    record = signature.provenance
    told = {name: _plain(storable(record.get(key))) for key, name in _SPACE.items()}
    # Cells of another species or assay are read otherwise, into the same space.
    beside = set(map(str, _listed(_plain(storable(record.get("options_of_cells"))))))
    if isinstance(told["options"], dict):
        told["options"] = {name: value for name, value in told["options"].items() if name not in beside}
    return told if record.get("weights_sha256") else {**told, "name": signature.space}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    """As Python has it, so that a record that has been in a file equals one that has not."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _check_named(name: str | None, known: list[str], what: str) -> None:
    if name is not None and name not in known:
        raise DataError(
            f"There is no {what} {name!r}; there are: {', '.join(map(repr, known))}.{did_you_mean(name, known)}"
        )


def _like_cells(controls: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors in random directions, drawn with the covariance of the cells; in all directions alike below three cells."""
    width = controls.shape[1]
    drawn = rng.normal(size=(n, width))
    if len(controls) > _MOST_CONTROLS:
        controls = controls[rng.choice(len(controls), _MOST_CONTROLS, replace=False)]
    if len(controls) >= 3:
        drawn = rng.normal(size=(n, len(controls))) @ (controls - controls.mean(axis=0))
    return np.asarray(drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12))


def _pair(
    here: Responses,
    there: Responses,
    treatment: str,
    source: str,
    target: str,
    noise: NDArray[np.float64],
    seed: int,
    unnamed: str,
) -> dict[str, Any]:
    """A row of the table; `unnamed` says why the target has no samples, where it has none."""
    samples = there.usable(treatment, target)
    if here is there:
        samples = there.usable(treatment, source, target)
    found = _over_halves(here, there, treatment, source, target, samples, noise, seed)
    common: dict[str, Any] = {"treatment": treatment, "source": source, "target": target}
    if found is None:
        empty = dict.fromkeys(_COLUMNS[3:-2], np.nan)
        why = "no two halves of the replicates have enough treated and control cells in both contexts"
        return {**common, **empty, "n_splits": 0, "missing": why}

    def without(rest: tuple[str, ...]) -> float:
        again = _over_halves(here, there, treatment, source, target, rest, noise[:1], seed)
        return np.nan if again is None else float(again["cosine"])

    low, high = (np.nan, np.nan) if unnamed else jackknife(samples, found["cosine"], without)
    missing = [] if len(here.treatments) > 1 else ["mean treatment: there is one treatment only"]
    if unnamed:
        missing.append(f"interval: {unnamed}")
    elif len(samples) < FEWEST_SAMPLES:
        missing.append(f"interval: {len(samples)} samples, and {FEWEST_SAMPLES} are needed")
    elif not np.isfinite(low):
        missing.append("interval: without one of the samples too few cells are left for halves")
    return {
        **common,
        **found,
        "low": float(np.clip(low, -1, 1)),
        "high": float(np.clip(high, -1, 1)),
        "above_mean_treatment": found["cosine"] - found["mean_treatment"],
        "above_random": found["cosine"] - found["random_high"],
        "missing": "; ".join(missing),
    }


def _over_halves(
    here: Responses,
    there: Responses,
    treatment: str,
    source: str,
    target: str,
    samples: tuple[str, ...],
    noise: NDArray[np.float64],
    seed: int,
) -> dict[str, Any] | None:
    """Means over the ways to deal samples into halves; None where no way leaves enough cells."""
    rows = []
    for one, two in halves(samples, seed):
        learnt = here.direction(treatment, source, one if here is there else None)
        own = there.direction(treatment, target, one)
        measured = there.direction(treatment, target, two)
        if learnt is None or own is None or measured is None or not measured.any():
            continue
        mean = _mean_treatment(here, treatment, source, one if here is there else None)
        chance = noise @ measured / np.linalg.norm(measured)
        value = cosine(learnt, measured)
        rows.append(
            {
                "cosine": value,
                "mean_treatment": np.nan if mean is None else cosine(mean, measured),
                "random": float(chance.mean()),
                "random_high": float(np.quantile(chance, 0.95)),
                "p_value": float((1 + np.sum(chance >= value)) / (1 + len(chance))),
                "ceiling": cosine(own, measured),
                "relative_error": float(np.linalg.norm(learnt - measured) / np.linalg.norm(measured)),
            }
        )
    if not rows:
        return None
    found: dict[str, Any] = {name: macro([r[name] for r in rows]) for name in rows[0]}
    # Splits share cells, so that their p-values do not add up: the middle one stands for all.
    found["p_value"] = float(np.median([r["p_value"] for r in rows]))
    return {**found, "n_splits": len(rows)}


def _mean_treatment(
    here: Responses, treatment: str, source: str, samples: tuple[str, ...] | None
) -> NDArray[np.float64] | None:
    """Mean direction of the other treatments in the source."""
    others = [here.direction(t, source, samples) for t in here.treatments if t != treatment]
    known = [d for d in others if d is not None]
    return np.mean(known, axis=0) if known else None
