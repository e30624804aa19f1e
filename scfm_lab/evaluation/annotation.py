"""How well a model's vectors carry labels over, beside what parameter-free methods make of the same cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import column_of, subset
from scfm_lab.errors import DataError, GenesError
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.once import once
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.resampling import ends, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor
from scfm_lab.evaluation.splits import balanced_folds, spread
from scfm_lab.evaluation.vectors import vectors_of
from scfm_lab.tasks.annotate_result import f1_of_codes
from scfm_lab.tasks.label_names import label_map
from scfm_lab.tasks.transfer import METHODS, Transfer, trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

FLOORS = ("pca", "sctop")
#: How a floor is called beside a model of the same family: it is fitted to the training cells.
FITTED = {"pca": "pca (fitted)", "sctop": "sctop (fitted)"}
_FOLDS = 5
_LABELLED_BY = {"neighbours": "their neighbours", "linear": "a linear head on their vectors"}


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
    harmonise
        As for :func:`scfm_lab.annotate`.
    orthologs
        As for :func:`scfm_lab.cells.orthologs.to_human`. Where reference and query are of two species, the floors, which know
        genes by their names alone, are given human names of one-to-one orthologs; models are given the cells as they are.
    max_cells
        Of reference and query each; rare labels are kept first.
    n_boot
        Bootstrap samples: of samples where there are five or more, else of cells.
    seen
        What happens where scored cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    Scores
        A score for each metric and model; the floors are among them. Cells of labels that the reference does not have are
        left out and counted in the notes.

    Raises
    ------
    DataError
        If labels are missing or have one value, no label is shared, or a model was trained on scored cells.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> scores = sl.evaluate.annotation(cells, "pca", n_boot=50)
    >>> 0.3 < scores.of("macro-F1", "pca").value < 1
    True
    """
    from scfm_lab.models.load import as_model

    if method not in METHODS:
        raise DataError(f"There is no method {method!r}; methods: {', '.join(METHODS)}.")
    given: Any = models if isinstance(models, (list, tuple)) else [models]
    opened = [as_model(m) for m in given]
    known = _texts(reference, labels_key, "The label column of the reference", min_values=2)
    truth = None if query is None else _texts(query, labels_key, "The label column of the query")
    names = label_map(harmonise, np.unique(known), () if truth is None else np.unique(truth))
    if names is not None:
        known = names.apply(known)
        truth = None if truth is None else names.apply(truth)
    data = _prepare(reference, known, query, truth, sample_key, max_cells, seed)
    scored = data.reference if data.query is None else data.query
    flags = check_unseen(opened, scored, seen=seen, layer=layer, options=options)
    guesses: dict[str, NDArray[np.int64]] = {}
    told: dict[str, NDArray[np.float64]] = {}
    how = {"layer": layer, "options": dict(options or {}), "seed": seed, "progress": progress, "cancel": cancel}
    # Before anything is encoded, which may take long.
    for_floors, why_not = _for_floors(data, layer, orthologs) if floors else (data, "")
    for name, model in named(opened).items():
        model.require("embed")
        guesses[name], told[name] = _of_model(data, model, method, k, how)
    floor_names = []
    if floors and not why_not:
        for floor in FLOORS:
            name = FITTED[floor]
            guesses[name] = once(("annotation", floor, method), _of_floor, for_floors, floor, method, k, how)
            floor_names.append(name)
    second = None
    if second_labels_key is not None:
        second = _texts(reference if query is None else query, second_labels_key, "The second label column")
        second = (second if names is None else names.apply(second))[data.scored_rows]
    scores = _scores(data, guesses, told, floor_names, second, n_boot=n_boot, seed=seed, method=method, k=k)
    labelled = (
        f"Models and {FITTED['pca']} are labelled by {_LABELLED_BY[method]}; {FITTED['sctop']} by its projection."
    )
    notes = (*scores.notes, *([labelled] if floor_names else []), *([f"No floors: {why_not}"] if why_not else []))
    return replace(scores, scores=flagged(scores, flags), notes=notes)


@dataclass(frozen=True)
class _Data:
    """Cells to learn from and cells to score."""

    reference: AnnData
    query: AnnData | None
    types: NDArray[Any]
    codes: NDArray[np.int64]
    """Of the reference."""
    truth: NDArray[np.int64]
    """Of the scored cells."""
    scored_rows: NDArray[np.int64]
    """Rows of the given query (or reference) that are scored."""
    samples: NDArray[Any] | None
    """Of the reference."""
    units: NDArray[Any] | None
    """Sample of each scored cell."""
    fold: NDArray[np.int64] | None
    """Fold of each reference cell, where parts of it are held out."""
    notes: tuple[str, ...]

    def splits(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Reference rows to learn from, and places among the scored cells."""
        if self.fold is None:
            yield np.arange(len(self.codes)), np.arange(len(self.truth))
            return
        for f in np.unique(self.fold):
            yield np.flatnonzero(self.fold != f), np.flatnonzero(self.fold == f)

    def test(self, at: NDArray[np.int64]) -> AnnData:
        return (self.reference if self.query is None else self.query)[at]


def _prepare(
    reference: AnnData,
    known: NDArray[Any],
    query: AnnData | None,
    truth: NDArray[Any] | None,
    sample_key: str | None,
    max_cells: int,
    seed: int,
) -> _Data:
    samples = None if sample_key is None else _texts(reference, sample_key, "The sample column of the reference")
    notes: list[str] = []
    types, codes = np.unique(known.astype(str), return_inverse=True)
    rows = spread(codes, np.arange(len(codes)), max_cells, seed) if len(codes) > max_cells else np.arange(len(codes))
    if len(rows) < len(codes):
        notes.append(f"{len(rows):,} of {len(codes):,} reference cells are used (max_cells).")
    reference, codes = subset(reference, rows), codes[rows]
    samples = None if samples is None else samples[rows]
    if query is None or truth is None:
        fold, split = _held_out(codes, samples, seed)
        notes.insert(0, split)
        return _Data(reference, None, types, codes, codes, rows, samples, samples, fold, tuple(notes))
    shared: NDArray[np.bool_] = np.asarray(np.isin(truth.astype(str), types))
    if not shared.any():
        raise DataError(
            f"No label of the query ({', '.join(sorted(set(truth))[:5])}) is a label of the reference "
            f"({', '.join(types[:5])}); bring them to common names with harmonise=."
        )
    if (~shared).any():
        names = ", ".join(sorted(set(truth[~shared]))[:6])
        notes.append(
            f"{int((~shared).sum()):,} query cells of labels that the reference does not have ({names}) are left out."
        )
    at = np.flatnonzero(shared)
    place = np.searchsorted(types, truth[at].astype(str))
    if len(at) > max_cells:
        kept = spread(place, np.arange(len(at)), max_cells, seed)
        notes.append(f"{len(kept):,} of {len(at):,} query cells are scored (max_cells).")
        at, place = at[kept], place[kept]
    units = None
    if sample_key is not None and sample_key in query.obs and not query.obs[sample_key].isna().any():
        units = query.obs[sample_key].astype(str).to_numpy(dtype=object)[at]
    return _Data(reference, subset(query, at), types, codes, place, at, samples, units, None, tuple(notes))


def _for_floors(data: _Data, layer: str | None, orthologs: Any) -> tuple[_Data, str]:
    """The cells as the floors can read them; and, where two species have no ortholog in common, why they cannot."""
    from scfm_lab.cells.reader import CellReader

    if data.query is None:
        return data, ""
    species = [CellReader.open(cells, layer=layer).genes.organism for cells in (data.reference, data.query)]
    if None in species or len(set(species)) == 1:
        return data, ""
    try:
        reference, query = (
            cells if organism == "human" else _by_human_names(cells, layer, orthologs)
            for organism, cells in zip(species, (data.reference, data.query), strict=True)
        )
    except GenesError as error:
        return data, str(error)
    return replace(data, reference=reference, query=query), ""


def _by_human_names(cells: AnnData, layer: str | None, orthologs: Any) -> AnnData:
    """The same cells with the human names of their genes, and their counts where they were."""
    from scfm_lab.cells.orthologs import to_human

    human, _ = to_human(cells, orthologs=orthologs, layer=layer)
    if layer == "raw":
        human.raw = human.copy()
    elif layer not in (None, "X"):
        human.layers[layer] = human.X
    return human


def _held_out(codes: NDArray[np.int64], samples: NDArray[Any] | None, seed: int) -> tuple[NDArray[np.int64], str]:
    if samples is not None and len(set(samples)) > 1:
        fold = balanced_folds(samples, _FOLDS)
        return fold, f"Whole samples are held out ({len(set(samples))} in {len(set(fold))} folds)."
    # Each label is dealt out over the folds, so that rare ones are in all.
    order = np.random.default_rng(seed).permutation(len(codes))
    fold = np.empty(len(codes), dtype=np.int64)
    fold[order[np.argsort(codes[order], kind="stable")]] = np.arange(len(codes)) % _FOLDS
    return fold, (
        "Cells are held out, not donors: cells of one donor are on both sides, which flatters every method. Name the donors "
        "with sample_key."
    )


def _of_model(
    data: _Data, model: Model, method: str, k: int, how: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Guess and calibrated confidence of each scored cell; -1 and 0 where the model does not see it."""
    reference = vectors_of(data.reference, model, **how)
    query = reference if data.query is None else vectors_of(data.query, model, **how)
    guess = np.full(len(data.truth), -1, dtype=np.int64)
    told = np.full(len(data.truth), np.nan)
    good: NDArray[np.bool_] = np.asarray(np.isfinite(reference).all(axis=1))
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(query).all(axis=1))
    for train, at in data.splits():
        train, at = train[good[train]], at[seen[at]]
        if len(train) <= k or not len(at):
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


def _of_floor(data: _Data, floor: str, method: str, k: int, how: Mapping[str, Any]) -> NDArray[np.int64]:
    guess = np.full(len(data.truth), -1, dtype=np.int64)
    for train, at in data.splits():
        cells, test = data.reference[train].copy(), data.test(at).copy()
        labels = data.codes[train]
        if floor == "sctop":
            guess[at] = sctop_codes(cells, labels, test, how)
        else:
            guess[at] = pca_codes(cells, labels, test, len(data.types), k, how, method=method)
    return guess


def pca_codes(
    cells: AnnData,
    codes: NDArray[np.int64],
    test: AnnData,
    n_types: int,
    k: int,
    how: Mapping[str, Any],
    *,
    method: str = "neighbours",
) -> NDArray[np.int64]:
    """Labels from the principal components of the training cells, by neighbours or a linear head."""
    from scfm_lab.models.load import load_model

    pca = load_model("pca").fit(cells, n_components=max(2, min(50, cells.n_obs // 3)), layer=how.get("layer"))
    plain = {**how, "options": {}}
    reference, query = vectors_of(cells, pca, **plain), vectors_of(test, pca, **plain)
    good: NDArray[np.bool_] = np.asarray(np.isfinite(reference).all(axis=1))
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(query).all(axis=1))
    out = np.full(len(query), -1, dtype=np.int64)
    out[seen] = Transfer(reference[good], codes[good], n_types, method=method, k=k).label(query[seen]).codes
    return out


def sctop_codes(cells: AnnData, codes: NDArray[np.int64], test: AnnData, how: Mapping[str, Any]) -> NDArray[np.int64]:
    """Labels by the best projection on the training cells' types: the published scTOP."""
    from scfm_lab.models.load import load_model

    cells.obs["scfm_code"] = [f"{c:06d}" for c in codes]
    model: Any = load_model("sctop").fit(cells, labels_key="scfm_code", layer=how.get("layer"))
    vectors = vectors_of(test, model, **{**how, "options": {}})
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    out = np.full(len(vectors), -1, dtype=np.int64)
    out[seen] = np.array([int(t) for t in model.types])[vectors[seen].argmax(axis=1)]
    return out


def _scores(
    data: _Data,
    guesses: Mapping[str, NDArray[np.int64]],
    told: Mapping[str, NDArray[np.float64]],
    floor_names: Sequence[str],
    second: NDArray[Any] | None,
    *,
    n_boot: int,
    seed: int,
    method: str,
    k: int,
) -> Scores:
    from scfm_lab.evaluation.calibration import expected_calibration_error

    draws, unit = resamples(len(data.truth), data.units, n_boot, seed)
    n = len(data.types)
    ceiling: dict[str, float] = {}
    if second is not None:
        place = {t: i for i, t in enumerate(data.types)}
        other = np.array([place.get(str(s), -1) for s in second], dtype=np.int64)
        ceiling = {name: metric(data.truth, other, n) for name, metric in _METRICS.items()}
    found: list[Score] = []
    missing = "" if ceiling else "no second annotation that would give a ceiling"
    for name, metric in _METRICS.items():
        values = {m: metric(data.truth, g, n) for m, g in guesses.items()}
        floor_name, floor = best_floor({m: values[m] for m in floor_names})
        for m, g in guesses.items():
            drawn = [metric(data.truth[i], g[i], n) for i in draws]
            beside = None
            if m not in floor_names and floor_name:
                beside = [metric(data.truth[i], guesses[floor_name][i], n) for i in draws]
            found.append(
                Score(
                    name,
                    m,
                    values[m],
                    **ends(drawn, beside),
                    floor=floor,
                    floor_name=floor_name,
                    ceiling=ceiling.get(name, np.nan),
                    ceiling_name="second annotation",
                    interval=f"95 % bootstrap over {unit}",
                    n=len(data.truth),
                    missing=missing,
                )
            )
    for m, confidence in told.items():
        seen = np.isfinite(confidence)
        if seen.any():
            ece = expected_calibration_error(confidence[seen], guesses[m][seen] == data.truth[seen])
            found.append(
                Score(
                    "calibration error",
                    m,
                    ece,
                    higher_is_better=False,
                    n=int(seen.sum()),
                    missing="no floor: parameter-free methods give no probability; 0 would be perfect",
                )
            )
    notes = [
        *data.notes,
        f"{len(data.truth):,} cells of {len(np.unique(data.truth))} labels are scored; the interval is over {unit}.",
    ]
    title = "Labels of held-out cells." if data.fold is not None else "Labels of the query after the reference."
    return Scores(
        tuple(found),
        title=title,
        notes=tuple(notes),
        provenance={"task": "evaluate.annotation", "method": method, "k": k, "seed": seed},
    )


def _accuracy(truth: NDArray[np.int64], guess: NDArray[np.int64], n: int) -> float:
    return float((truth == guess).mean())


def _macro_f1(truth: NDArray[np.int64], guess: NDArray[np.int64], n: int) -> float:
    return f1_of_codes(truth, np.where(guess < 0, n, guess), n)


_METRICS = {"macro-F1": _macro_f1, "accuracy": _accuracy}


def _texts(adata: AnnData, key: str, what: str, *, min_values: int = 1) -> NDArray[Any]:
    texts: NDArray[Any] = column_of(adata, key, what=what, min_values=min_values).astype(str).to_numpy(dtype=object)
    return texts
