"""Which way a treatment moves cells in an embedding, how well replicates agree on it, and whether it grows with the dose."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.integration import makers_seen
from scfm_lab.evaluation.overlap import check_unseen
from scfm_lab.evaluation.score import bootstrap_interval, macro, spearman_brown
from scfm_lab.results import Result, charts
from scfm_lab.tasks.contrast import MIN_DONORS, flips
from scfm_lab.tasks.responses import Responses, cosine, halves, jackknife

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

ALL = "all"
_NULLS = 200


def _interval(low: float, high: float) -> str:
    return f" [{low:.2g}, {high:.2g}]" if np.isfinite(low) and np.isfinite(high) else ""


#: In the provenance: how many of the cells the model was trained on, in words; absent where none are on its record.
SEEN = "training_record"


@dataclass(frozen=True, repr=False)
class DrugSignature(Result):
    """Directions of treatments in an embedding."""

    table: pd.DataFrame
    """treatment, context, n_treated, n_control, n_samples, norm (length of the direction) with norm_low and norm_high (jackknife
    over samples), null_norm and p_value (labels of whole samples exchanged: NaN below six samples), cell_null_norm and cell_p_value
    (labels shuffled among the cells of each sample: cells are the replicates there), replicates with replicates_low and
    replicates_high, dose_tau (Kendall's tau-b of projection and dose among the doses below the highest, 0 where they do not differ)
    with dose_low and dose_high."""
    doses: pd.DataFrame | None
    """treatment, context, dose, sample, projection (0 control, 1 the highest dose elsewhere); None without doses."""
    responses: Responses
    vectors: NDArray[np.float32]
    """The cells' vectors, (cells, width)."""
    cells: tuple[NDArray[Any], NDArray[Any]]
    """Treatment and context of each cell."""
    control: str
    space: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def direction(self, treatment: str, context: str = ALL) -> NDArray[np.float64]:
        """The direction, mean of the treated minus mean of the control cells, (width,).

        Raises
        ------
        DataError
            If there is none.
        """
        found = self.responses.direction(treatment, context)
        if found is None:
            known = ", ".join(f"{r.treatment!r} in {r.context!r}" for r in self.table.itertuples())
            raise DataError(f"There is no direction of {treatment!r} in {context!r}; there are: {known}.")
        return found

    def summary(self) -> str:
        """How far each treatment moves cells, beside chance, and how far replicates agree."""
        lines = [
            f"Directions in {self.space}, treated minus {self.control!r}; replicates are {self.responses.replicates}."
        ]
        for row in self.table.itertuples():
            if np.isfinite(row.p_value):
                more = "more" if row.p_value <= 0.05 else "no more"
                moved = f"{more} than with the labels of samples exchanged (p = {row.p_value:.2g} over {row.n_samples} samples)"
            elif self.responses.parts is not None:
                moved = "without samples, so that there is no p over them"
            else:
                n = plural(row.n_samples, "sample", "samples")
                moved = f"in {n}, too few for a p over them (at least {MIN_DONORS})"
            agree = (
                f"replicates agree at {row.replicates:.2f}{_interval(row.replicates_low, row.replicates_high)} (cosine, stepped up "
                "from halves)"
                if np.isfinite(row.replicates)
                else "replicates: not measured (fewer than two samples with enough cells)"
            )
            text = (
                f"{row.treatment} in {row.context}: moves cells by {row.norm:.3g}{_interval(row.norm_low, row.norm_high)}, {moved}; "
                f"relabelled cells {row.cell_null_norm:.3g} (p over cells = {row.cell_p_value:.2g}); {agree}"
            )
            if np.isfinite(row.dose_tau):
                interval = f" [{row.dose_low:+.2f}, {row.dose_high:+.2f}]" if np.isfinite(row.dose_low) else ""
                text += f"; with the doses below the highest: Kendall's tau-b {row.dose_tau:+.2f}{interval}"
            lines.append(text + ".")
        if told := self.provenance.get(SEEN):
            lines.append(f"{told}.")
        lines.append(
            "p over cells takes cells for replicates: whatever sets treated and control cells of a sample apart, such as their "
            "libraries, passes it. Intervals leave out one sample at a time."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Norm with its interval, against exchanged samples (orange) and relabelled cells (grey); with doses, the projection at each (Altair)."""
        alt = charts()
        if self.doses is not None and len(self.doses):
            base = alt.Chart(self.doses).encode(
                x=alt.X("dose:Q", scale=alt.Scale(type="symlog")), y=alt.Y("mean(projection):Q", title="projection")
            )
            return (base.mark_line() + base.mark_point()).encode(color="treatment:N", detail="context:N")
        table = self.table.assign(what=self.table["treatment"] + " in " + self.table["context"])
        base = alt.Chart(table).encode(y=alt.Y("what:N", sort="-x", title=None))
        bar = base.mark_bar(opacity=0.7).encode(
            x=alt.X("norm:Q", title="distance moved"), tooltip=list(self.table.columns)
        )
        reach = base.mark_rule(color="#0072B2").encode(x="norm_low:Q", x2="norm_high:Q")
        cells = base.mark_tick(color="#757575", thickness=3).encode(x="cell_null_norm:Q")
        return bar + reach + cells + base.mark_tick(color="#D55E00", thickness=3).encode(x="null_norm:Q")

    def write(self, adata: AnnData) -> None:
        """Each cell's place along the direction of each treatment in its own context: 0 the control's mean, 1 the treated's.

        Written to ``obs["signature_<treatment>"]``; NaN where the context has no direction.
        """
        if adata.n_obs != len(self.vectors):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the signature {len(self.vectors):,}.")
        places = {t: f"signature_{t}" for t in self.responses.treatments}
        for key in places.values():
            provenance.free_key(adata, "obs", key, given=True)
        _, context = self.cells
        for treatment, key in places.items():
            along = np.full(len(self.vectors), np.nan)
            for name in self.responses.contexts:
                way = self.responses.direction(treatment, name)
                if way is None or not way.any():
                    continue
                rows = np.flatnonzero(context == name)
                start = self.responses.controls[name].mean(axis=0)
                along[rows] = (self.vectors[rows] - start) @ way / (way @ way)
            adata.obs[key] = along
            provenance.record(adata, key, self.provenance, slot="obs")


def drug_signature(
    adata: AnnData,
    model: Model | str | Path | None = None,
    *,
    treatment_key: str,
    control: str,
    groupby: str | None = None,
    sample_key: str | None = None,
    dose_key: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> DrugSignature:
    """The direction in which each treatment moves cells, in each context.

    A direction is the mean of treated minus the mean of control cells of the same sample, averaged over samples, which are the unit
    of replication. Beside its length stand the length with the labels of whole samples exchanged (p from six samples on), the
    length that relabelled cells give (treated and control shuffled among the cells of each sample: any difference between their
    libraries is beyond it), and how far halves of the replicates agree: samples in halves, each with its own control cells, the
    cosine stepped up by Spearman and Brown. Intervals are a jackknife over samples, from four on.

    Parameters
    ----------
    adata
        With raw counts; nothing is written (the result's ``write`` does).
    model
        A model or source; or name vectors that are there with `use_rep`.
    treatment_key
        Column of ``obs`` with the treatments, and `control` for untreated cells.
    groupby
        Column of contexts, such as cell types or cell lines; None: all cells are one.
    sample_key
        Column of donors, samples or plates: the replicates. Without it random parts of the cells stand in for them, which says
        nothing about differences between donors, so that there is no interval and no p but that over cells.
    dose_key
        Column of doses, numbers (control cells' are not read): directions are then those of the highest dose, and each sample's
        projections on the direction of the *other* samples are compared with the dose by Kendall's tau-b, among the doses below the
        highest: that one lies farthest along its own direction whatever the others do.
    use_rep
        Key of ``obsm``.

    Returns
    -------
    DrugSignature

    Raises
    ------
    DataError
        If the control is not there, or no sample has three treated and three control cells of a context.

    Examples
    --------
    >>> import numpy as np, scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> cells.obs["drug"] = np.where(np.arange(cells.n_obs) % 2, "A", "none")
    >>> found = sl.drug_signature(cells, "pca", treatment_key="drug", control="none", progress=False)
    >>> found.table["treatment"].tolist()
    ['A']
    """
    from scfm_lab.cells.cells import column_of

    check_given(adata, model, function="sl.drug_signature")
    started = time.perf_counter()
    treatment = column_of(adata, treatment_key, what="The treatment column").astype(str).to_numpy(dtype=object)
    context = np.full(adata.n_obs, ALL, dtype=object)
    if groupby is not None:
        context = column_of(adata, groupby, what="The context column").astype(str).to_numpy(dtype=object)
    sample = None
    if sample_key is not None:
        sample = column_of(adata, sample_key, what="The sample column").astype(str).to_numpy(dtype=object)
    dose = None if dose_key is None else _doses(adata, dose_key, treatment, str(control))
    vectors, space, record = _vectors(adata, model, use_rep, layer, options, seed, progress, cancel)
    responses = Responses.of(vectors, treatment, str(control), context, sample, dose, seed)
    doses = None if dose is None else _projections(responses)
    import pandas as pd

    table = pd.DataFrame(
        [
            _row(responses, vectors, treatment, str(control), context, sample, dose, t, c, doses, seed)
            for t in responses.treatments
            for c in responses.contexts
            if responses.direction(t, c) is not None
        ]
    )
    record = {
        **record,
        "task": "drug_signature",
        "treatment_key": treatment_key,
        "control": str(control),
        "groupby": groupby,
        "sample_key": sample_key,
        "seed": seed,
        "seconds": time.perf_counter() - started,
    }
    return DrugSignature(table, doses, responses, vectors, (treatment, context), str(control), space, record)


def _doses(adata: AnnData, key: str, treatment: NDArray[Any], control: str) -> NDArray[np.float64]:
    import pandas as pd

    if key not in adata.obs:
        raise DataError(f"The dose column {key!r} is not in obs.")
    dose = pd.to_numeric(adata.obs[key].astype(object), errors="coerce").to_numpy(dtype=np.float64)
    bad = int((~np.isfinite(dose) & (treatment != control)).sum())
    if bad:
        raise DataError(
            f"{bad:,} treated cells have no number in the dose column {key!r}; fill or drop those cells first."
        )
    return dose


def _vectors(
    adata: AnnData,
    model: Model | str | Path | None,
    use_rep: str | None,
    layer: str | None,
    options: Mapping[str, Any] | None,
    seed: int,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> tuple[NDArray[np.float32], str, dict[str, Any]]:
    """Vectors of the cells, how the space is called, and its provenance."""
    if (model is None) == (use_rep is None):
        raise DataError("Give a model, or name vectors that are there with use_rep: one of the two.")
    if model is None:
        if use_rep not in adata.obsm:
            raise DataError(f"obsm has no {use_rep!r}; keys there: {', '.join(map(repr, adata.obsm)) or 'none'}.")
        key = str(use_rep)
        made = dict(adata.uns.get(provenance.UNS, {}).get(key, {}))
        flags = makers_seen(adata, [key], seen="flag", layer=layer, options=options)
        made |= {"use_rep": use_rep, **({SEEN: flags[key]} if flags else {})}
        return np.asarray(adata.obsm[use_rep], dtype=np.float32), f"obsm[{use_rep!r}]", made
    from scfm_lab.evaluation.vectors import vectors_of
    from scfm_lab.models.load import as_model

    opened = as_model(model)
    opened.require("embed")
    found = vectors_of(adata, opened, layer=layer, options=options, seed=seed, progress=progress, cancel=cancel)
    flags = check_unseen([opened], adata, seen="flag", layer=layer, options=options)
    # In the words of sl.embed: vectors that it wrote are then known to lie in the same space.
    record = provenance.of_model(
        opened,
        options=opened.check_options(options),
        hidden_layer="as published",
        pooling="as published",
        **({SEEN: " ".join(flags.values())} if flags else {}),
    )
    return found, f"the vectors of {opened.name}", record


def _row(
    responses: Responses,
    vectors: NDArray[np.float32],
    treatment: NDArray[Any],
    control: str,
    context: NDArray[Any],
    sample: NDArray[Any] | None,
    dose: NDArray[np.float64] | None,
    name: str,
    where: str,
    doses: pd.DataFrame | None,
    seed: int,
) -> dict[str, Any]:
    way = responses.direction(name, where)
    norm = _length(way)
    own = responses.rows(name, where)
    inside = np.isfinite(vectors).all(axis=1) & (context == where) & np.isin(treatment, [name, control])
    if dose is not None:
        inside &= (treatment == control) | (dose == responses.doses(name, where)[-1])
    cells = _null_norms(vectors, treatment == name, inside, sample, seed)
    swapped, p = _exchanged(responses, own, norm, seed)
    agree = _agreement(responses, name, where, responses.usable(name, where), seed)
    samples = () if responses.parts is not None else tuple(sorted(responses.keys[i][3] for i in own))
    norm_low, norm_high = jackknife(samples, norm, lambda rest: _length(responses.direction(name, where, rest)))
    low, high = jackknife(samples, agree, lambda rest: _agreement(responses, name, where, rest, seed))
    tau, dose_low, dose_high = _monotone(doses, name, where)
    return {
        "treatment": name,
        "context": where,
        "n_treated": int(responses.n_treated[own].sum()),
        "n_control": int(responses.n_control[own].sum()),
        "n_samples": len(own),
        "norm": norm,
        "norm_low": float(np.clip(norm_low, 0, None)),
        "norm_high": norm_high,
        "null_norm": swapped,
        "p_value": p,
        "cell_null_norm": float(np.mean(cells)),
        "cell_p_value": float((1 + np.sum(cells >= norm)) / (1 + len(cells))),
        "replicates": agree,
        "replicates_low": float(np.clip(low, -1, 1)),
        "replicates_high": float(np.clip(high, -1, 1)),
        "dose_tau": tau,
        "dose_low": dose_low,
        "dose_high": dose_high,
    }


def _length(way: NDArray[np.float64] | None) -> float:
    return np.nan if way is None else float(np.linalg.norm(way))


def _agreement(responses: Responses, name: str, where: str, samples: tuple[str, ...], seed: int) -> float:
    """Cosine of halves of some samples, stepped up; NaN where there are no two halves with enough cells."""
    agree = [
        cosine(a, b)
        for one, two in halves(samples, seed)
        if (a := responses.direction(name, where, one)) is not None
        and (b := responses.direction(name, where, two)) is not None
    ]
    return float(spearman_brown(macro(agree))) if agree else np.nan


def _exchanged(responses: Responses, own: NDArray[np.int64], norm: float, seed: int) -> tuple[float, float]:
    """Mean length with the labels of whole samples exchanged, and how often it is as long; NaN below six samples.

    To exchange treated and control of a sample turns its difference round: what every sample does alike is then lost.
    """
    if responses.parts is not None or len(own) < MIN_DONORS:
        return np.nan, np.nan
    weight = responses.weight[own]
    null = np.linalg.norm(flips(len(own), seed) @ (weight[:, None] * responses.shift[own] / weight.sum()), axis=1)
    return float(null.mean()), float((null >= norm * (1 - 1e-12)).mean())


def _null_norms(
    vectors: NDArray[np.float32],
    treated: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    sample: NDArray[Any] | None,
    seed: int,
) -> NDArray[np.float64]:
    """Lengths of the direction with treated and control shuffled among the cells of each sample."""
    from scfm_lab.tasks.responses import FEWEST

    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(inside)
    units = np.zeros(len(rows), dtype=object) if sample is None else sample[rows]
    total, weights = np.zeros((_NULLS, vectors.shape[1])), 0.0
    for unit in np.unique(units):
        own = rows[units == unit]
        n, m = int(treated[own].sum()), int((~treated[own]).sum())
        if min(n, m) < FEWEST:
            continue
        x = vectors[own].astype(np.float64)
        marks = np.array([rng.permutation(n + m) < n for _ in range(_NULLS)], dtype=np.float64)
        weight = n * m / (n + m)
        total += weight * (marks @ x / n - (1 - marks) @ x / m)
        weights += weight
    return np.asarray(np.linalg.norm(total / max(weights, 1e-12), axis=1))


def _projections(responses: Responses) -> pd.DataFrame:
    """Of each sample at each dose, on the direction of the highest dose in the other samples."""
    import pandas as pd

    rows = []
    for t in responses.treatments:
        for c in responses.contexts:
            for s in responses.usable(t, c):
                others = tuple(o for o in responses.samples if o != s)
                way = responses.direction(t, c, others)
                if way is None or not way.any():
                    continue
                for d in responses.doses(t, c):
                    here = responses.direction(t, c, (s,), d)
                    if here is not None:
                        along = float(here @ way / (way @ way))
                        rows.append({"treatment": t, "context": c, "dose": d, "sample": s, "projection": along})
    return pd.DataFrame(rows, columns=["treatment", "context", "dose", "sample", "projection"])


def _monotone(doses: pd.DataFrame | None, treatment: str, context: str) -> tuple[float, float, float]:
    """Mean over samples of Kendall's tau-b of projection and dose below the highest one (of three or more), with its interval over samples.

    The highest dose gave the direction, so that it is the farthest along it: in the tau it would count as a response to the dose where
    the doses below it do nothing.
    """
    from scipy.stats import kendalltau

    if doses is None:
        return np.nan, np.nan, np.nan
    own = doses[(doses["treatment"] == treatment) & (doses["context"] == context)]
    below = own[own["dose"] < own["dose"].max()]
    taus = [kendalltau(p["dose"], p["projection"])[0] for _, p in below.groupby("sample") if p["dose"].nunique() >= 2]
    if not taus:
        return np.nan, np.nan, np.nan
    low, high = bootstrap_interval(taus)
    return float(np.mean(taus)), float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))
