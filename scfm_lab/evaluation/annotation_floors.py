"""The floors of label transfer: what parameter-free methods make of the training cells, fitted to these alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import GenesError
from scfm_lab.evaluation.once import CANNOT_BE_HAD, once
from scfm_lab.evaluation.vectors import vectors_of
from scfm_lab.tasks.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.annotation_cells import Asked

_COMPONENTS = 50
FLOORS = ("pca", "sctop")
#: How a floor is called beside a model of the same family: it is fitted to the training cells.
FITTED = {"pca": "pca (fitted)", "sctop": "sctop (fitted)"}


def floor_codes(
    data: Asked, method: str, k: int, how: Mapping[str, Any], orthologs: Any
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """What each floor labels the scored cells; and, of those that cannot be had, why."""
    data, why_not = readable(data, how.get("layer"), orthologs)
    if why_not:
        return {}, [f"No floors: {why_not}"]
    found, lacking = {}, []
    for floor in FLOORS:
        try:
            found[FITTED[floor]] = once(("annotation", floor, method), _of_floor, data, floor, method, k, how)
        except CANNOT_BE_HAD as error:
            lacking.append(f"No floor {FITTED[floor]}: {error}")
    return found, lacking


def readable(data: Asked, layer: str | None, orthologs: Any) -> tuple[Asked, str]:
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


def _of_floor(data: Asked, floor: str, method: str, k: int, how: Mapping[str, Any]) -> NDArray[np.int64]:
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

    wanted = max(2, min(_COMPONENTS, cells.n_obs // 3))
    pca = load_model("pca").fit(cells, n_components=wanted, fewer=True, layer=how.get("layer"))
    plain = {**how, "options": {}}
    reference, query = vectors_of(cells, pca, **plain), vectors_of(test, pca, **plain)
    good: NDArray[np.bool_] = np.asarray(np.isfinite(reference).all(axis=1))
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(query).all(axis=1))
    out = np.full(len(query), -1, dtype=np.int64)
    out[seen] = Transfer(reference[good], codes[good], n_types, method=method, k=k).label(query[seen]).codes
    return out


def sctop_codes(cells: AnnData, codes: NDArray[np.int64], test: AnnData, how: Mapping[str, Any]) -> NDArray[np.int64]:
    """Labels by the best projection on the training cells' types: the published scTOP; of one type there is that alone."""
    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.load import load_model

    if len(np.unique(codes)) == 1:
        counts = Cells.from_anndata(test, layer=how.get("layer")).counts
        return np.where(np.diff(counts.indptr) > 0, codes[0], -1)
    cells.obs["scfm_code"] = [f"{c:06d}" for c in codes]
    model: Any = load_model("sctop").fit(cells, labels_key="scfm_code", layer=how.get("layer"))
    vectors = vectors_of(test, model, **{**how, "options": {}})
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    out = np.full(len(vectors), -1, dtype=np.int64)
    out[seen] = np.array([int(t) for t in model.types])[vectors[seen].argmax(axis=1)]
    return out
