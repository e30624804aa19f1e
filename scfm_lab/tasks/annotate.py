"""Label cells after an annotated reference."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import AuditResult, audit_cells
from scfm_lab.cells.cells import column_of
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, ModelError
from scfm_lab.evaluation.overlap import also_in, trained_among, trained_on
from scfm_lab.tasks.annotate_beside import scored_against, shared_donors, unscored, with_floors
from scfm_lab.tasks.annotate_result import UNKNOWN, AnnotateResult, label_table
from scfm_lab.tasks.label_names import LabelMap, label_map, own_labels
from scfm_lab.tasks.progress import as_progress
from scfm_lab.tasks.transfer import METHODS, Transfer, trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model


def annotate(
    query: AnnData,
    reference: AnnData | None = None,
    *,
    model: Model | str | Path,
    labels_key: str = "cell_type",
    method: str = "neighbours",
    sample_key: str | None = None,
    k: int = 15,
    unknown: bool = True,
    unknown_rate: float = 0.01,
    harmonise: bool | Mapping[str, str] | str | Path | LabelMap = False,
    beside: bool = True,
    layer: str | None = None,
    key_added: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> AnnotateResult:
    """Label query cells after a reference, in a model's space.

    Confidence is the probability that a label is right, given that the cell is of some type of the reference. It is calibrated
    on reference cells that the labels were not learned from; so is the threshold beyond which a cell is ``"unknown"``.

    Parameters
    ----------
    query, reference
        With raw counts; they may measure different genes. Without a reference a fine-tuned model's own head labels
        (``method="head"``).
    model
        An opened model or a source for :func:`scfm_lab.load_model`.
    labels_key
        Column of ``reference.obs`` with the labels.
    method
        ``"neighbours"``: the nearest reference cells vote, no training; ``"linear"``: logistic regression on the vectors,
        for few labelled cells; ``"head"``: the head that the model was fine-tuned with (:func:`scfm_lab.finetune`).
    sample_key
        Column of ``reference.obs`` with the donor, sample or batch. Confidence and threshold are then chosen on held-out
        samples, so that differences between them are part of what is told; without it, on cells left out, which makes
        labels look surer than they are for cells of another donor. Where the query has the column too and shares donors with the
        reference, its scores say so.
    k
        Neighbours that vote, weighted by nearness.
    unknown
        Whether cells unlike the reference get ``"unknown"``: those that are farther from their neighbours, in units of the
        neighbours' own distances, than `unknown_rate` of the held-out reference cells are.
    unknown_rate
        Share of reference cells that may be called unknown wrongly.
    harmonise
        Bring label names of query and reference to common ones: True by spelling; a dict label → name; the path of an
        ontology or ``"cell_ontology"``; or an edited :class:`~scfm_lab.tasks.label_names.LabelMap`. The mapping is
        ``result.names``.
    beside
        Also what ``pca`` and ``sctop`` reach on the same cells, with intervals (:func:`scfm_lab.evaluate.annotation`): on the
        query's cells that have labels, else on held-out cells of the reference. They are fitted to the reference, also beside a
        model's own head; without one there are none, and the result says so (``result.no_floor``).
    key_added
        Column of ``query.obs``; default ``"<labels_key>_<model's name>"``.

    Returns
    -------
    AnnotateResult
        Also written to ``query.obs``.

    Raises
    ------
    DataError
        If the labels are missing, have NaN, or are all the same.
    ModelError
        If the model has no head of its own and one is asked for.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> query, reference = adata[::5].copy(), adata[1::5].copy()
    >>> sl.annotate(query, reference, model="pca", progress=False).labels.shape
    (140,)
    """
    from scfm_lab.models.load import as_model

    call = "sl.annotate(query, reference, model=...)"
    check_given(query, model, function="sl.annotate", call=call)
    if method not in (*METHODS, "head"):
        raise DataError(f"There is no method {method!r}; methods: {', '.join((*METHODS, 'head'))}.")
    model = as_model(model)
    if reference is None and method == METHODS[0] and model.classes is not None:
        # Nothing to look for neighbours in, and a head that needs none.
        method = "head"
    if method != "head" or reference is not None:
        check_given(reference, model, function="sl.annotate", call=call)
    started = time.perf_counter()
    how = _How(method, k, unknown, unknown_rate, seed, dict(options or {}), progress, cancel)
    how.check()
    fresh, twice = np.ones(query.n_obs, dtype=bool), np.zeros(query.n_obs, dtype=bool)
    if own_labels(query, labels_key) is not None:
        fresh = ~trained_on(model, query, layer=layer, options=how.options)
        twice = twice if reference is None else also_in(query, reference, layer=layer)
    key = provenance.free_key(query, "obs", key_added or f"{labels_key}_{model.spec.name}", given=key_added is not None)
    provenance.free_key(query, "obs", f"{key}_confidence", given=True)
    asked: dict[str, Any] = {"layer": layer, "key": key, "labels_key": labels_key, "harmonise": harmonise}
    if method == "head":
        known = None if reference is None else _known(reference, labels_key, sample_key)[0]
        result = _by_head(query, known, model, how, fresh & ~twice, **asked)
    else:
        assert reference is not None
        result = _by_reference(query, reference, model, how, fresh & ~twice, sample_key=sample_key, **asked)
    told = unscored(model, fresh, twice, own_labels(query, labels_key), labels_key)
    result = replace(result, unscored=told, leak=shared_donors(query, reference, sample_key) if result.scores else "")
    if beside:
        result = with_floors(query, reference, model, result, how, fresh & ~twice, labels_key, sample_key, layer)
    result.provenance["seconds"] = time.perf_counter() - started
    result.write(query)
    return result


@dataclass(frozen=True)
class _How:
    """What was asked for."""

    method: str
    k: int
    unknown: bool
    unknown_rate: float
    seed: int
    options: dict[str, Any]
    progress: bool | Callable[..., None]
    cancel: Any

    def check(self) -> None:
        if self.k < 1:
            raise DataError(f"k is {self.k}; at least one neighbour has to vote.")
        if not 0 < self.unknown_rate < 0.5:
            raise DataError(f"unknown_rate is {self.unknown_rate}; it is a share of the reference, such as 0.01.")


def _by_reference(
    query: AnnData,
    reference: AnnData,
    model: Model,
    how: _How,
    fresh: NDArray[np.bool_],
    *,
    layer: str | None,
    key: str,
    labels_key: str,
    sample_key: str | None,
    harmonise: bool | Mapping[str, str] | str | Path | LabelMap,
) -> AnnotateResult:
    model.require("embed")
    known, samples = _known(reference, labels_key, sample_key)
    truth = own_labels(query, labels_key)
    names = label_map(harmonise, np.unique(known), _named(truth))
    labels_of = known if names is None else names.apply(known)
    if len(set(labels_of)) < 2:
        raise DataError("After harmonising all labels of the reference have one name; edit the mapping (harmonise=).")

    vectors: list[NDArray[np.float32]] = []
    audits: list[AuditResult] = []
    for what, adata in (("reference", reference), ("query", query)):
        cells = model.read_cells(adata, layer=layer, options=how.options)
        audits.append(_audit(cells, model, how.options))
        if what == "reference":
            trained = trained_among(model, cells, how.options)
        tokens = model.tokenize(cells, options=how.options, seed=how.seed)
        with as_progress(how.progress, f"The {what} with {model.spec.name}") as report:
            vectors.append(model.encode(tokens, progress=report, cancel=how.cancel).cell)
    ref, new = vectors
    good = np.isfinite(ref).all(axis=1)
    if good.sum() <= how.k:
        raise DataError(f"The reference has {int(good.sum())} usable cells; more than k = {how.k} are needed.")
    types, codes = np.unique(labels_of[good].astype(str), return_inverse=True)
    transfer = Transfer(
        ref[good],
        codes,
        len(types),
        samples=None if samples is None else samples[good],
        method=how.method,
        k=how.k,
        seed=how.seed,
    )
    labels, confidence, distance, strange, trusted = label_cells(transfer, types, new, how)
    record = provenance.of_model(
        model,
        task="annotate",
        method=how.method,
        labels_key=labels_key,
        sample_key=sample_key,
        reference_cells=int(good.sum()),
        reference_cells_trained_on=int(trained[good].sum()),
        k=how.k,
        options=model.check_options(how.options),
        seed=how.seed,
        held_out=trusted.split,
        calibration=trusted.confidence.method,
        expected_calibration_error=trusted.confidence.ece,
        unknown_threshold=trusted.threshold if how.unknown else None,
        harmonised={} if names is None else names.as_dict(),
        **audits[1].as_provenance(),
        reference_genes_matched=audits[0].genes_matched,
        reference_umi_share_lost=audits[0].umi_share_lost,
    )
    return AnnotateResult(
        key=key,
        labels=labels,
        confidence=confidence,
        distance=distance,
        table=label_table(labels, confidence, strange),
        scores=scored_against(truth, labels, strange, fresh, names),
        provenance=record,
        strange=strange,
        trust=trusted,
        names=names,
    )


def _known(reference: AnnData, labels_key: str, sample_key: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Labels of the reference, and the donor of each cell where they are named."""
    known = column_of(reference, labels_key, what="The label column of the reference", min_values=2)
    samples = None
    if sample_key is not None:
        samples = column_of(reference, sample_key, what="The sample column of the reference", min_values=2)
        samples = samples.astype(str).to_numpy(dtype=object)
    return known.astype(str).to_numpy(dtype=object), samples


def _named(truth: NDArray[Any] | None) -> list[str]:
    """Labels that the query has."""
    return sorted({str(label) for label in truth if label is not None}) if truth is not None else []


def label_cells(
    transfer: Transfer, types: NDArray[Any], new: NDArray[np.float32], how: Any
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Any]:
    """Labels, calibrated confidence, distance (1 = the threshold) and strangeness of new vectors, and the trust behind them."""
    seen = np.isfinite(new).all(axis=1)
    if not seen.any():
        raise DataError(f"In none of the {len(new):,} query cells does the model see a gene; nothing can be labelled.")
    trusted = trust(transfer, transfer.held_out(), unknown_rate=how.unknown_rate)
    found = transfer.label(new[seen])
    labels = np.full(len(new), UNKNOWN, dtype=object)
    confidence = np.zeros(len(new), dtype=np.float32)
    distance = np.full(len(new), np.inf, dtype=np.float32)
    labels[seen] = types[found.codes]
    confidence[seen] = trusted.confidence(found.share)
    distance[seen] = found.strange / max(trusted.threshold, 1e-12)
    # Not told by the label: a reference may have one that is called so.
    strange: NDArray[np.bool_] = np.asarray(~seen | (distance > 1) if how.unknown else ~seen)
    labels[strange] = UNKNOWN
    confidence[strange] = 0
    return labels, confidence, distance, strange, trusted


def _by_head(
    query: AnnData,
    known: NDArray[Any] | None,
    model: Model,
    how: _How,
    fresh: NDArray[np.bool_],
    *,
    layer: str | None,
    key: str,
    labels_key: str,
    harmonise: bool | Mapping[str, str] | str | Path | LabelMap,
) -> AnnotateResult:
    """Labels of the model's own fine-tuned head."""
    head: Any = model
    classes = getattr(model, "classes", None)
    if classes is None:
        raise ModelError(
            f"{model.spec.name} has no head of its own for labels; fine-tune it first (sl.finetune), or label after a "
            "reference: method='neighbours' or 'linear'."
        )
    cells = model.read_cells(query, layer=layer, options=how.options)
    audit = _audit(cells, model, how.options)
    tokens = model.tokenize(cells, options=how.options, seed=how.seed)
    with as_progress(how.progress, f"Labelling with {model.spec.name}") as report:
        logits = head.class_logits(tokens, progress=report, cancel=how.cancel)
    seen = np.isfinite(logits).all(axis=1)
    labels = np.full(len(logits), UNKNOWN, dtype=object)
    confidence = np.zeros(len(logits), dtype=np.float32)
    raised = np.exp(logits[seen] - logits[seen].max(axis=1, keepdims=True))
    truth = own_labels(query, labels_key)
    names = label_map(
        harmonise, np.unique([*map(str, classes.names), *(() if known is None else known)]), _named(truth)
    )
    called = np.asarray(classes.names, dtype=object) if names is None else names.apply(classes.names)
    labels[seen] = called[logits[seen].argmax(axis=1)]
    confidence[seen] = raised.max(axis=1) / raised.sum(axis=1)
    record = provenance.of_model(
        model,
        task="annotate",
        method="head",
        labels_key=labels_key,
        classes=logits.shape[1],
        options=model.check_options(how.options),
        seed=how.seed,
        harmonised={} if names is None else names.as_dict(),
        **audit.as_provenance(),
    )
    return AnnotateResult(
        key=key,
        labels=labels,
        confidence=confidence,
        distance=np.full(len(logits), np.nan, dtype=np.float32),
        table=label_table(labels, confidence, ~seen),
        scores=scored_against(truth, labels, ~seen, fresh, names),
        provenance=record,
        strange=~seen,
        names=names,
    )


def _audit(cells: Cells, model: Model, options: Mapping[str, Any] | None) -> AuditResult:
    match = model.genes_read(cells.genes, options, lambda: cells.counts)
    return audit_cells(cells, match, model, options=options)
