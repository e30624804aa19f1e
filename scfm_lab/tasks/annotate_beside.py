"""What labels of a query are worth: against its own, and beside what parameter-free methods make of the same cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scfm_lab.cells.cells import subset
from scfm_lab.evaluation.annotation_cells import LEAK, donors_on_both_sides
from scfm_lab.evaluation.once import CANNOT_BE_HAD
from scfm_lab.evaluation.overlap import trained_on
from scfm_lab.tasks.annotate_result import label_scores
from scfm_lab.tasks.label_names import labelled, own_labels

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.annotate_result import AnnotateResult
    from scfm_lab.tasks.label_names import LabelMap


def scored_against(
    truth: NDArray[Any] | None,
    labels: NDArray[Any],
    strange: NDArray[np.bool_],
    fresh: NDArray[np.bool_],
    names: LabelMap | None,
) -> dict[str, float] | None:
    """Scores on the cells that have a label of their own and that nothing was learned from; None without such cells."""
    rows = labelled(truth, len(labels)) & fresh
    if truth is None or not rows.any():
        return None
    own = truth[rows] if names is None else names.apply(truth[rows])
    return label_scores(own, labels[rows], strange[rows])


def shared_donors(query: AnnData, reference: AnnData | None, sample_key: str | None) -> str:
    """That cells of one donor are on both sides, and of which; empty where none are or they are not named."""
    if reference is None or sample_key is None or sample_key not in query.obs:
        return ""
    sides = (side.obs[sample_key].dropna().astype(str).to_numpy() for side in (reference, query))
    both = donors_on_both_sides(*sides)
    return f"{LEAK} ({', '.join(both[:6])}{' …' if len(both) > 6 else ''})" if both else ""


def unscored(
    model: Model, fresh: NDArray[np.bool_], twice: NDArray[np.bool_], truth: NDArray[Any] | None, labels_key: str
) -> str:
    """Which cells are in no score, and why; empty where none is scored at all, as none has a label.

    Parameters
    ----------
    fresh
        Cells that the model was not trained on.
    twice
        Cells that are among those of the reference.
    """
    if truth is None:
        return ""
    told = []
    n = len(fresh) - int(fresh.sum())
    if n:
        of = f"{n:,} of the {len(fresh):,} cells are in the training record of {model.version or model.name}"
        told.append(f"{of}: they are labelled, and no score counts them.")
    if twice.any():
        of = f"{int(twice.sum()):,} of the {len(twice):,} cells are among those of the reference"
        told.append(f"{of}: they are labelled, and no score counts them.")
    without = len(fresh) - int(labelled(truth, len(fresh)).sum())
    if without:
        told.append(
            f"{without:,} of the {len(fresh):,} cells have no value in obs[{labels_key!r}], and no score counts them."
        )
    return " ".join(told)


def with_floors(
    query: AnnData,
    reference: AnnData | None,
    model: Model,
    result: AnnotateResult,
    how: Any,
    fresh: NDArray[np.bool_],
    labels_key: str,
    sample_key: str | None,
    layer: str | None,
) -> AnnotateResult:
    """The result with what the model and simple methods reach on the same cells, none of which anything was learned from."""
    from scfm_lab.evaluation.annotation import annotation

    if reference is None:
        told = "Nothing parameter-free stands beside the head: pca and sctop are fitted to annotated cells; give them as the reference."
        return replace(result, no_floor=told)
    truth, names = own_labels(query, labels_key), result.names
    rows = labelled(truth, len(fresh)) & fresh
    scored: AnnData | None = None
    if truth is not None and rows.any():
        known = reference.obs[labels_key].astype(str).to_numpy(dtype=object)
        own = truth[rows]
        shared = set(own) & set(known) if names is None else set(names.apply(own)) & set(names.apply(known))
        # A query of other labels than the reference's has no right answer here; the reference itself has.
        if shared:
            scored = query if rows.all() else subset(query, rows)
    if scored is None and (seen := trained_on(model, reference, layer=layer, options=how.options)).any():
        told = f"Beside parameter-free methods there is no score: {int(seen.sum()):,} of the {len(seen):,} reference cells are in "
        return replace(result, no_floor=f"{told}its training record.")
    try:
        beside = annotation(
            reference,
            [model],
            query=scored,
            labels_key=labels_key,
            sample_key=sample_key,
            method=how.method,
            k=how.k,
            harmonise=False if names is None else names,
            layer=layer,
            options=how.options,
            seed=how.seed,
            progress=how.progress,
            cancel=how.cancel,
        )
    # The cells are labelled by now, and stay so.
    except CANNOT_BE_HAD as error:
        return replace(result, no_floor=f"Beside parameter-free methods there is no score: {error}")
    return replace(result, beside=beside)
