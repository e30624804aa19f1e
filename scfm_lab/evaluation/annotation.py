"""How well a model's vectors carry labels over, beside what parameter-free methods make of the same cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, ModelError
from scfm_lab.evaluation.annotation_cells import prepare, texts_of
from scfm_lab.evaluation.annotation_floors import FITTED, floor_codes
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.overlap import check_apart, check_choice, check_unseen, flagged
from scfm_lab.evaluation.resampling import about, ends, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor
from scfm_lab.evaluation.vectors import vectors_of
from scfm_lab.tasks.annotate_result import f1_of_codes
from scfm_lab.tasks.label_names import label_map
from scfm_lab.tasks.transfer import METHODS, Transfer, trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.annotation_cells import Asked
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.label_names import LabelMap

_HEAD = "head"
_LABELLED_BY = {
    "neighbours": f"Models and {FITTED['pca']} are labelled by their neighbours",
    "linear": f"Models and {FITTED['pca']} are labelled by a linear head on their vectors",
    _HEAD: f"Models are labelled by their own fine-tuned heads, {FITTED['pca']} by its neighbours",
}


def annotation(
    reference: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    query: AnnData | None = None,
    labels_key: str = "cell_type",
    sample_key: str | None = None,
    second_labels_key: str | None = None,
    method: str = "neighbours",
    k: int = 15,
    harmonise: Any = False,
    floors: bool = True,
    orthologs: Any = None,
    max_cells: int = 10_000,
    n_boot: int = 1000,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> Scores:
    """Macro-F1 and accuracy of label transfer, between floor and ceiling, with bootstrap intervals.

    The floors are fitted to the training cells alone: ``pca``, 50 components and the same method; ``sctop``, the training
    cells' types as basis and the best projection (Souza and Mehta 2026).

    Parameters
    ----------
    reference
        Annotated cells with raw counts.
    models
        Models or sources.
    query
        Annotated cells that are labelled after the reference. None: parts of the reference are held out instead, whole
        samples where `sample_key` names them.
    labels_key, sample_key
        Columns of ``obs`` with the labels, and the donor, sample or batch.
    second_labels_key
        Labels of the scored cells by someone else: how far two annotators agree is the ceiling.
    method
        ``"neighbours"`` or ``"linear"``: for models and for ``pca`` alike, so that the floor has as much training as they have.
        ``"head"``: the heads that models were fine-tuned with, beside ``pca`` by its neighbours.
    harmonise
        As for :func:`scfm_lab.annotate`.
    orthologs
        As for :func:`scfm_lab.cells.orthologs.to_human`. Where reference and query are of two species, the floors, which know
        genes by their names alone, are given human names of one-to-one orthologs; models are given the cells as they are.
    max_cells
        Of reference and query each. Cells that are scored are drawn in proportion to their labels, so that a score is one of the
        cells given; of a reference that labels a query rare labels are kept first.
    n_boot
        Bootstrap samples: of samples where there are five or more, else of cells. Of few samples more are
        drawn than asked for (1,048 of five, 412 of six), as many as the ends of their intervals take.
    seen
        What happens where scored cells are in a model's training record, or query cells among those of the reference:
        ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    Scores
        A score for each metric and model; the floors are among them. Cells of labels that the reference does not have, or of held-out
        cells those that they are held out from, are left out and counted in the notes, and so is a floor that cannot be fitted to
        these cells. Where donors are on both sides every score says so.

    Raises
    ------
    DataError
        If labels are missing or have one value, no label is shared, a model was trained on scored cells, or cells of the query are those
        of the reference.
    ModelError
        If a model has no head of its own and ``method="head"``.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> scores = sl.evaluate.annotation(cells, "pca", n_boot=50)
    >>> 0.3 < scores.of("macro-F1", "pca").value < 1
    True
    """
    from scfm_lab.models.load import as_model

    if method not in (*METHODS, _HEAD):
        raise DataError(f"There is no method {method!r}; methods: {', '.join((*METHODS, _HEAD))}.")
    given: Any = models if isinstance(models, (list, tuple)) else [models]
    apart = named(as_model(m) for m in given)
    opened = list(apart.values())
    for model in opened:
        _require(model, method)
    known = texts_of(reference, labels_key, "The label column of the reference", min_values=2)
    truth = None if query is None else texts_of(query, labels_key, "The label column of the query")
    heads = [str(c) for m in opened if m.classes for c in m.classes.names] if method == _HEAD else []
    names = label_map(harmonise, np.unique([*known.astype(str), *heads]), () if truth is None else np.unique(truth))
    if names is not None:
        known = names.apply(known)
        truth = None if truth is None else names.apply(truth)
    check_choice(seen)
    data = prepare(reference, known, query, truth, sample_key, max_cells, seed)
    if data.query is not None and (told_twice := check_apart(data.query, data.reference, seen=seen, layer=layer)):
        data = replace(data, leak=". ".join(filter(None, [told_twice, data.leak])))
    flags = check_unseen(opened, data.scored, seen=seen, layer=layer, options=options)
    how = {"layer": layer, "options": dict(options or {}), "seed": seed, "progress": progress, "cancel": cancel}
    fits: tuple[dict[str, NDArray[np.int64]], list[str]] = ({}, [])
    if floors:
        fits = floor_codes(data, METHODS[0] if method == _HEAD else method, k, how, orthologs)
    guesses: dict[str, NDArray[np.int64]] = {}
    told: dict[str, NDArray[np.float64]] = {}
    notes: list[str] = []
    for name, model in apart.items():
        if method == _HEAD:
            guesses[name], told[name], said = _of_head(data, name, model, names, how)
            notes += said
        else:
            guesses[name], told[name] = _of_model(data, model, method, k, how)
    guesses |= fits[0]
    second = None
    if second_labels_key is not None:
        second = texts_of(reference if query is None else query, second_labels_key, "The second label column")
        second = (second if names is None else names.apply(second))[data.scored_rows]
    scores = _scores(data, guesses, told, fits, second, n_boot=n_boot, seed=seed)
    by = [f"{_LABELLED_BY[method]}; {FITTED['sctop']} by its projection."] if fits[0] else []
    return replace(
        scores,
        scores=flagged(scores, flags),
        notes=(*scores.notes, *notes, *by, *fits[1]),
        provenance=provenance.of_scores(
            apart,
            task="evaluate.annotation",
            options=options,
            method=method,
            k=k,
            labels_key=labels_key,
            sample_key=sample_key,
            layer=layer,
            max_cells=max_cells,
            n_boot=n_boot,
            seed=seed,
            harmonised={} if names is None else names.as_dict(),
        ),
    )


def _require(model: Model, method: str) -> None:
    if method != _HEAD:
        model.require("embed")
    elif model.classes is None:
        raise ModelError(
            f"{model.spec.name} has no head of its own for labels; fine-tune it first (sl.finetune), or choose the method "
            "'neighbours' or 'linear'."
        )


def _of_model(
    data: Asked, model: Model, method: str, k: int, how: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Guess and calibrated confidence of each scored cell; -1 and 0 where the model does not see it."""
    reference = vectors_of(data.reference, model, **how)
    query = reference if data.query is None else vectors_of(data.query, model, **how)
    guess = np.full(len(data.truth), -1, dtype=np.int64)
    told = np.full(len(data.truth), np.nan)
    good: NDArray[np.bool_] = np.asarray(np.isfinite(reference).all(axis=1))
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(query).all(axis=1))
    if not seen.any():
        raise DataError(f"In none of the {len(seen):,} scored cells does {model.spec.name} see a gene.")
    for train, at in data.splits():
        train, at = train[good[train]], at[seen[at]]
        if not len(at):
            continue
        if len(train) <= k:
            raise DataError(f"Only {len(train)} training cells have a vector; more than k = {k} are needed.")
        samples = None if data.samples is None else data.samples[train]
        if samples is not None and len(set(samples)) < 2:
            samples = None
        transfer = Transfer(
            reference[train], data.codes[train], len(data.types), samples=samples, method=method, k=k, seed=how["seed"]
        )
        found = transfer.label(query[at])
        guess[at] = found.codes
        if data.fold is None:
            told[at] = trust(transfer, transfer.held_out(), unknown_rate=0.01).confidence(found.share)
    return guess, told


def _of_head(
    data: Asked, name: str, model: Any, names: LabelMap | None, how: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Guess of a model's own head for each scored cell, its probability, and what a reader has to know of its labels."""
    from scfm_lab.tasks.progress import as_progress

    cells = model.read_cells(data.scored, layer=how["layer"], options=how["options"])
    tokens = model.tokenize(cells, options=how["options"], seed=how["seed"])
    with as_progress(how["progress"], f"Labelling with {model.spec.name}") as report:
        logits = model.class_logits(tokens, progress=report, cancel=how["cancel"]).astype(np.float64)
    called = model.classes.names if names is None else names.apply(model.classes.names)
    place = {t: i for i, t in enumerate(data.types)}
    code = np.array([place.get(str(c), -1) for c in called], dtype=np.int64)
    guess = np.full(len(logits), -1, dtype=np.int64)
    told = np.full(len(logits), np.nan)
    seen = np.isfinite(logits).all(axis=1)
    guess[seen] = code[logits[seen].argmax(axis=1)]
    raised = np.exp(logits[seen] - logits[seen].max(axis=1, keepdims=True))
    told[seen] = raised.max(axis=1) / raised.sum(axis=1)
    lacks = [str(data.types[i]) for i in np.setdiff1d(data.truth, code)]
    said = f"{name}'s head does not know {', '.join(lacks)}: it is wrong on all cells of these labels."
    return guess, told, [said] if lacks else []


def _scores(
    data: Asked,
    guesses: Mapping[str, NDArray[np.int64]],
    told: Mapping[str, NDArray[np.float64]],
    fits: tuple[Mapping[str, NDArray[np.int64]], Sequence[str]],
    second: NDArray[Any] | None,
    *,
    n_boot: int,
    seed: int,
) -> Scores:
    from scfm_lab.evaluation.calibration import expected_calibration_error

    rows = data.counted
    truth, units = data.truth[rows], None if data.units is None else data.units[rows]
    guesses = {m: guess[rows] for m, guess in guesses.items()}
    told = {m: confidence[rows] for m, confidence in told.items()}
    draws, unit = resamples(len(truth), units, n_boot, seed)
    n = len(data.types)
    ceiling: dict[str, float] = {}
    if second is not None:
        place = {t: i for i, t in enumerate(data.types)}
        other = np.array([place.get(str(s), -1) for s in second[rows]], dtype=np.int64)
        ceiling = {name: metric(truth, other, n) for name, metric in _METRICS.items()}
    found: list[Score] = []
    floor_names, lacking = fits
    missing = [] if ceiling else ["no second annotation that would give a ceiling"]
    if not floor_names:
        missing += [why[0].lower() + why[1:].rstrip(".") for why in lacking]
    for name, metric in _METRICS.items():
        values = {m: metric(truth, g, n) for m, g in guesses.items()}
        floor_name, floor = best_floor({m: values[m] for m in floor_names})
        for m, g in guesses.items():
            drawn = [metric(truth[i], g[i], n) for i in draws]
            beside = None
            if m not in floor_names and floor_name:
                beside = [metric(truth[i], guesses[floor_name][i], n) for i in draws]
            found.append(
                Score(
                    name,
                    m,
                    values[m],
                    **ends(drawn, beside, units=draws.units),
                    floor=floor,
                    floor_name=floor_name,
                    ceiling=ceiling.get(name, np.nan),
                    ceiling_name="second annotation",
                    interval=f"95 % bootstrap over {unit}",
                    n=len(truth),
                    missing="; ".join(missing),
                    remark=data.leak,
                )
            )
    for m, confidence in told.items():
        seen = np.isfinite(confidence)
        if seen.any():
            right = guesses[m] == truth
            drawn_seen = [i[seen[i]] for i in draws]
            ece = expected_calibration_error(confidence[seen], right[seen])
            again = [expected_calibration_error(confidence[i], right[i]) for i in drawn_seen]
            spread = ends(about(again, ece), units=draws.units)
            # No error is below 0.
            low, high = (max(0.0, end) if np.isfinite(end) else end for end in (spread["low"], spread["high"]))
            found.append(
                Score(
                    "calibration error",
                    m,
                    ece,
                    low,
                    high,
                    higher_is_better=False,
                    interval=f"95 % bootstrap over {unit}, its bias taken out" if len(draws) else "",
                    n=int(seen.sum()),
                    missing="no floor: parameter-free methods give no probability; 0 would be perfect",
                    remark=data.leak,
                )
            )
    notes = [
        *data.notes,
        f"{len(truth):,} cells of {len(np.unique(truth))} labels are scored; the interval is over {unit}.",
    ]
    title = "Labels of held-out cells." if data.fold is not None else "Labels of the query after the reference."
    return Scores(tuple(found), title=title, notes=tuple(notes))


def _accuracy(truth: NDArray[np.int64], guess: NDArray[np.int64], n: int) -> float:
    return float((truth == guess).mean())


def _macro_f1(truth: NDArray[np.int64], guess: NDArray[np.int64], n: int) -> float:
    return f1_of_codes(truth, np.where(guess < 0, n, guess), n)


_METRICS = {"macro-F1": _macro_f1, "accuracy": _accuracy}
