"""Predictions of perturbations against measured ones, between floors that cost nothing and what replicates reach."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, did_you_mean, plural
from scfm_lab.evaluation import perturbation_floors as floors
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.once import once
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.perturbation_metrics import COLLAPSED, METRICS, ceilings, collapse, scored
from scfm_lab.evaluation.profiles import Profiles
from scfm_lab.evaluation.score import Score, Scores, best_floor, bootstrap_interval, macro

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

_LEAVE_ONE_OUT = 100
_FOLDS = 10
_INTERVAL = "95 % over perturbations (Student's)"
_DOUBLES = " of doubles"
RANDOM = "bilinear, random table"
_FLOORS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "no change": floors.no_change,
    "mean": floors.mean_response,
    "matching mean": floors.matching_mean,
    "shares a target": floors.shared_target,
    "additive": floors.additive,
}


def _no_table() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


@dataclass(frozen=True, repr=False)
class PerturbationScores(Scores):
    """Scores of predicted perturbations."""

    per_perturbation: pd.DataFrame = field(default_factory=_no_table)
    """perturbation, predictor (a floor, a model, or ``"replicates"``), metric, value."""
    targets: pd.DataFrame = field(default_factory=_no_table)
    """perturbation, gene, measured (whether the target is among the genes measured), in_silico (what dosing it answers)."""
    predicted: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Predictor → held-out profiles, (perturbations, genes), mean log1p(counts per 10,000); of the random tables the first's."""


def perturbation(
    adata: AnnData,
    models: Model | str | Path | Sequence[Model | str | Path] | None = None,
    *,
    perturbation_key: str = "perturbation",
    control: str = "control",
    predictions: Mapping[str, pd.DataFrame] | None = None,
    folds: int | None = None,
    splits: int = 10,
    cell_eval: bool = False,
    layer: str | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
) -> PerturbationScores:
    """Score predictions of perturbations that were held out.

    Profiles are mean log1p(counts per 10,000 of the counts of all genes measured); changes are differences to the real control
    cells, also those of predictions. Models enter through their gene embeddings in the bilinear model of Ahlmann-Eltze et al.
    2025, trained on the other perturbations, and so does a table of random numbers: what a model's table is worth is what it
    adds to that. Labels are taken as they are written by GEARS too: ``A+ctrl`` is the single A where ``ctrl`` is the control,
    and ``A+B`` is ``B+A``. Predictions made elsewhere are taken as they are.

    Parameters
    ----------
    adata
        Measured perturbations, with raw counts. ``obs[perturbation_key]`` names them, ``A+B`` for two genes together. Of a
        reduced panel of genes, ``obs["total_counts_all_genes"]`` is what counts are divided by.
    models
        Opened models or sources that have gene embeddings.
    control
        Name of the control cells.
    predictions
        Name → DataFrame of perturbations × genes, predicted mean log1p(counts per 10,000). A row for the control is not
        read: changes are told from the real one. That these perturbations were held out is yours to see to.
    folds
        Parts of the perturbations, each predicted from the others; None: each perturbation alone, above 100 of them ten parts.
    splits
        Random halvings for the ceiling.
    cell_eval
        Whether to compute the six metrics of cell-eval2 as well (needs the extra ``science``; minutes).
    seen
        What happens where scored cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    PerturbationScores

    Raises
    ------
    DataError
        If there are no control cells, too few perturbations, or a model was trained on these cells.
    ModelError
        If a model has no gene embeddings.

    Notes
    -----
    Floors: no change; the mean of the training perturbations; Systema's matching mean (of a double the mean of its two
    singles, where one is not in training that mean for it; of a single that mean); the mean of all that share a target; for
    doubles the sum of the two singles' changes; the bilinear model with random embeddings, the mean over 20 such tables. The
    best of them is the floor, and a model is better where the interval of its difference to that floor, over the same
    perturbations, is. Ceiling: halves of each perturbation's cells, with disjoint halves of the control (a shared control makes
    unrelated perturbations agree), stepped up by Spearman and Brown. Pearson-Δ is that of Ahlmann-Eltze et al. 2025; against
    the perturbed centroid, and centroid accuracy, are those of Systema (Viñas Torné et al. 2025), the accuracy without the genes that
    any of the perturbations targets, as cell-eval2's pds_cosine is: a target that was set tells its perturbation, and nothing of what
    follows from it.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("perturb_norman_k562_crispra")  # doctest: +SKIP
    >>> print(sl.evaluate.perturbation(cells, ["starter", "pca"]).summary())  # doctest: +SKIP
    """
    from scfm_lab.models.load import as_model

    check_given(adata, function="sl.evaluate.perturbation", call="sl.evaluate.perturbation(adata, models)")
    started = time.perf_counter()
    apart = named(as_model(m) for m in _listed(models))
    opened = list(apart.values())
    for model in opened:
        model.require("gene_embeddings")
    if splits < 1:
        raise DataError(f"splits is {splits}; at least one halving is needed for a ceiling.")
    data = once("profiles", Profiles.of, adata, perturbation_key=perturbation_key, control=control, layer=layer)
    flags = check_unseen(opened, adata, seen=seen, layer=layer)
    given = {name: _aligned(name, frame, data) for name, frame in (predictions or {}).items()}
    genes = sorted({t for name in data.names for t in data.targets(name)})
    tables = {name: _table_of(model, genes) for name, model in apart.items()}
    parts = _parts(data, folds, seed)
    predicted, centroid = _held_out(data, tables, parts)
    skip = _skipped(data)
    chance, spread, predicted[RANDOM] = once("random tables", _by_chance, data, parts, genes, centroid, skip, seed)
    predicted |= given
    per = {
        name: chance if name == RANDOM else scored(values, data.mean, data.control, centroid, skip)
        for name, values in predicted.items()
    }
    ceiling = once("ceilings", ceilings, data, skip, splits=splits, seed=seed)
    notes = _notes(data, tables, genes, spread)
    scores = _scores(data, per, ceiling, [*tables, *given], tables, predicted)
    if cell_eval:
        from scfm_lab.evaluation.cell_eval import s_scores

        asked = {n: predicted[n] for n in [*tables, *given, "mean"]}
        more, more_notes = s_scores(data, asked, seed=seed)
        scores += more
        notes += more_notes
    record = provenance.of_scores(
        apart,
        task="evaluate.perturbation",
        perturbation_key=perturbation_key,
        control=control,
        perturbations=len(data.names),
        predictions=list(given),
        folds=folds or ("each alone" if len(data.names) <= _LEAVE_ONE_OUT else _FOLDS),
        splits=splits,
        normalised_by=data.total,
        layer=layer,
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    return PerturbationScores(
        scores=flagged(scores, flags),
        title=f"{len(data.names)} perturbations held out, {len(data.genes):,} genes, counts per 10,000 of {data.total}.",
        notes=tuple(notes),
        provenance=record,
        per_perturbation=_long(data, per, ceiling),
        targets=_targets(data),
        predicted=predicted,
    )


def _table_of(model: Model, genes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """A model's embedding of each target that it knows, by the name that the data has for the gene."""
    table = model.gene_embeddings()
    literal, by_id = (
        {key: row for row, key in reversed(list(enumerate(keys)))}
        for keys in (table.index.astype(str), model.vocabulary.ids_of(table.index).tolist())
    )
    # A table may name its genes by Ensembl id and the data by symbol, or by one that is out of use.
    rows = {gene: literal.get(gene, by_id.get(model.vocabulary.id_of(gene))) for gene in genes}
    vectors = floors.reduced(table)
    return {gene: vectors[row] for gene, row in rows.items() if row is not None}


def _listed(models: Any) -> list[Any]:
    from pathlib import Path

    from scfm_lab.models.contract import Model

    if models is None:
        return []
    return [models] if isinstance(models, (str, Path, Model)) else list(models)


def _aligned(name: str, frame: Any, data: Profiles) -> NDArray[np.float64]:
    """A prediction's rows and columns in the order of the data; NaN where it has none."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"The prediction {name!r} must be a DataFrame of perturbations × genes, not a {type(frame).__name__}."
        )
    names = {data.targets(n): n for n in data.names}
    index = [names.get(data.targets(str(n)), str(n)) for n in frame.index]
    if not set(index) & set(data.names):
        raise DataError(
            f"The prediction {name!r} has none of the perturbations (its first row is {str(frame.index[0])!r}, the data's "
            f"{data.names[0]!r})."
        )
    twice = [n for n in data.names if index.count(n) > 1]
    if twice:
        same = [str(given) for given, n in zip(frame.index, index, strict=True) if n == twice[0]]
        raise DataError(
            f"The prediction {name!r} has {len(same)} rows for {twice[0]!r} ({', '.join(same)}); leave one."
        )
    missing = [g for g in data.genes if g not in frame.columns]
    if missing:
        raise DataError(
            f"The prediction {name!r} lacks {plural(len(missing), 'gene', 'genes')} of the data, such as {missing[0]!r}."
            + did_you_mean(str(missing[0]), frame.columns)
        )
    if name in (*_FLOORS, RANDOM):
        raise DataError(f"{name!r} is the name of a floor; call the prediction something else.")
    return frame.set_axis(index, axis=0).reindex(index=data.names, columns=data.genes).to_numpy(dtype=np.float64)


def _skipped(data: Profiles) -> NDArray[np.bool_]:
    """Where a perturbation's own target is among the genes."""
    place = {str(g): i for i, g in enumerate(data.genes)}
    skip = np.zeros(data.mean.shape, dtype=bool)
    for i, name in enumerate(data.names):
        for target in data.targets(name):
            if target in place:
                skip[i, place[target]] = True
    return skip


def _parts(data: Profiles, folds: int | None, seed: int) -> list[NDArray[np.int64]]:
    """Perturbations of each fold."""
    n = len(data.names)
    folds = folds or (n if n <= _LEAVE_ONE_OUT else _FOLDS)
    if not 2 <= folds <= n:
        raise DataError(f"folds is {folds}; with {n} perturbations it must be 2 to {n}.")
    return np.array_split(np.random.default_rng(seed).permutation(n), folds)


def _split(data: Profiles, part: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    test = [data.names[i] for i in part]
    return [name for name in data.names if name not in test], test


def _by_chance(
    data: Profiles,
    parts: Sequence[NDArray[np.int64]],
    genes: Sequence[str],
    centroid: NDArray[np.float64],
    skip: NDArray[np.bool_],
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, tuple[float, float]], NDArray[np.float64]]:
    """What the bilinear model makes of random tables.

    Returns
    -------
    (scores, spread, profiles)
        The mean over the tables of each perturbation's score, by metric; mean and standard deviation between tables of the
        mean score; what the first table predicts.
    """
    tables = [floors.random_table(genes, seed=[seed, i]) for i in range(floors.N_RANDOM)]
    made = np.full((len(tables), *data.mean.shape), np.nan, dtype=np.float32)
    for part in parts:
        for i, profiles in enumerate(floors.bilinear_of(data, *_split(data, part), tables)):
            made[i, part] = profiles
    each = [scored(one.astype(np.float64), data.mean, data.control, centroid, skip) for one in made]
    found, spread = {}, {}
    for metric in METRICS:
        values = np.array([one[metric] for one in each])
        found[metric] = values.mean(axis=0)
        means = [macro(row.tolist()) for row in values]
        spread[metric] = (float(np.mean(means)), float(np.std(means, ddof=1)))
    return found, spread, made[0].astype(np.float64)


def _held_out(
    data: Profiles, tables: Mapping[str, Any], parts: Sequence[NDArray[np.int64]]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Every predictor's profiles, each perturbation predicted from those outside its fold; and the centroid of those."""
    makers = dict(_FLOORS)
    for name, table in tables.items():
        makers[name] = lambda d, train, test, table=table: floors.bilinear(d, train, test, table)
    out = {name: np.full(data.mean.shape, np.nan) for name in makers}
    centroid = np.empty(data.mean.shape)
    for part in parts:
        train, test = _split(data, part)
        centroid[part] = data.mean[data.rows(train)].mean(axis=0)
        for name, make in makers.items():
            made = make(data, train, test) if name in tables else once((name, *test), make, data, train, test)
            out[name][part] = made
    return out, centroid


def _scores(
    data: Profiles,
    per: Mapping[str, Mapping[str, NDArray[np.float64]]],
    ceiling: Mapping[str, NDArray[np.float64]],
    asked: Sequence[str],
    tables: Mapping[str, Any],
    predicted: Mapping[str, NDArray[np.float64]],
) -> list[Score]:
    doubles = np.isfinite(per["additive"][METRICS[0]])
    known_floors = [n for n in per if n not in asked]
    out = []
    for scope, mask in (("", np.ones(len(data.names), dtype=bool)), (_DOUBLES, doubles)):
        if scope and not mask.any():
            continue
        for metric in METRICS:
            names = known_floors if scope else [n for n in known_floors if n != "additive"]
            for name in asked or ([_best(per, names, metric, mask)[0]] if not scope else []):
                # What stands beside a predictor is taken over the perturbations that it predicts.
                there = mask & np.isfinite(per[name][metric])
                if not there.any():
                    continue
                own = per[name][metric][there]
                floor_name, floor = _best(per, names, metric, there)
                low, high = np.clip(bootstrap_interval(own), 0 if metric == METRICS[2] else -1, 1).tolist()
                # Both are of the same perturbations, whose differences in difficulty then cancel.
                gain = (np.nan, np.nan)
                if name in asked and floor_name:
                    gain = bootstrap_interval(own - per[floor_name][metric][there])
                remark = _remark(name, tables, predicted, data)
                out.append(
                    Score(
                        metric=metric + scope,
                        model=name,
                        value=macro(own.tolist()),
                        low=low,
                        high=high,
                        floor=floor,
                        floor_name=floor_name,
                        ceiling=macro(ceiling[metric][there].tolist()),
                        ceiling_name="replicate halves" if metric == METRICS[2] else "replicates",
                        interval=_INTERVAL if np.isfinite(low) else "",
                        n=len(own),
                        missing="" if np.isfinite(low) else "fewer than three perturbations give no interval",
                        remark=remark,
                        gain_low=gain[0],
                        gain_high=gain[1],
                        units=len(own),
                    )
                )
    return out


def _best(
    per: Mapping[str, Mapping[str, NDArray[np.float64]]], names: Sequence[str], metric: str, mask: NDArray[np.bool_]
) -> tuple[str, float]:
    """Name and value of the best floor over some of the perturbations."""
    return best_floor({name: macro(per[name][metric][mask].tolist()) for name in names})


def _remark(name: str, tables: Mapping[str, Any], predicted: Mapping[str, NDArray[np.float64]], data: Profiles) -> str:
    said = []
    if name in tables:
        n = sum(all(t in tables[name] for t in data.targets(p)) for p in data.names)
        if n < len(data.names):
            said.append(
                f"Its table holds the targets of {n} of {len(data.names)} perturbations; the others get the mean"
            )
    values = predicted[name]
    n = int(np.isfinite(values).all(axis=1).sum())
    if n < len(data.names):
        said.append(f"It predicts {n} of {len(data.names)} perturbations; floor and ceiling are over the same ones")
    r = collapse(values, data.control)
    if r > COLLAPSED:
        flat = np.allclose(values[np.isfinite(values).all(axis=1)], data.control)
        said.append(
            "Collapsed: it predicts no change whatever is perturbed"
            if flat
            else f"Collapsed: its predictions are nearly one profile (mean correlation between perturbations {r:.3f})"
        )
    return ". ".join(said)


def _notes(
    data: Profiles,
    tables: Mapping[str, Any],
    genes: Sequence[str],
    spread: Mapping[str, tuple[float, float]],
) -> list[str]:
    measured = set(map(str, data.genes))
    there = [g for g in genes if g in measured]
    notes = [
        "Split by perturbation. Changes are told from the real control; correlations leave out a perturbation's own target, centroid "
        "accuracy those of all.",
        f"{len(there)} of {len(genes)} targets are among the genes measured; in-silico dosing of the others answers 'target not "
        "measured', so that models enter through their gene embeddings only.",
    ]
    if tables:
        notes.append(
            "Gene embeddings enter as the 10 first components of a model's table in the bilinear model of Ahlmann-Eltze et al."
        )
    by_chance = ", ".join(f"{metric} {mean:.3f} ± {sd:.3f}" for metric, (mean, sd) in spread.items())
    notes.append(
        f"The same model with {floors.N_RANDOM} random tables (mean ± standard deviation of tables): {by_chance}."
    )
    if data.pooled:
        pairs = ", ".join(f"{name} with {other}" for name, other in list(data.pooled.items())[:6])
        notes.append(
            f"{plural(len(data.pooled), 'label names', 'labels name')} a perturbation otherwise named too; "
            f"taken together: {pairs}."
        )
    if data.dropped:
        notes.append(
            f"Left out with too few cells: {', '.join(f'{n} ({k})' for n, k in list(data.dropped.items())[:6])}."
        )
    return notes


def _targets(data: Profiles) -> pd.DataFrame:
    import pandas as pd

    measured = set(map(str, data.genes))
    rows = [
        {
            "perturbation": name,
            "gene": gene,
            "measured": gene in measured,
            "in_silico": "can be dosed" if gene in measured else "target not measured",
        }
        for name in data.names
        for gene in data.targets(name)
    ]
    return pd.DataFrame(rows)


def _long(data: Profiles, per: Mapping[str, Any], ceiling: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    parts = [
        pd.DataFrame({"perturbation": data.names, "predictor": name, "metric": metric, "value": values})
        for name, by_metric in {**per, "replicates": ceiling}.items()
        for metric, values in by_metric.items()
    ]
    return pd.concat(parts, ignore_index=True)
