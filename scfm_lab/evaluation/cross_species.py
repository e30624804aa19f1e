"""Labels carried from a human reference to cells of another species."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import column_of
from scfm_lab.errors import DataError, GenesError
from scfm_lab.evaluation.annotation import annotation
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.overlap import check_unseen, flagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scfm_lab.evaluation.score import Scores
    from scfm_lab.models.contract import Model


def cross_species(
    reference: AnnData,
    query: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    labels_key: str = "cell_type",
    orthologs: Any = None,
    harmonise: Any = False,
    layer: str | None = None,
    seen: str = "refuse",
    **more: Any,
) -> Scores:
    """Macro-F1 on the labels that both species have, between floors on one-to-one orthologs.

    Models that read several species themselves (UCE, TranscriptFormer) are given the query as it is, by their option
    ``species``; :func:`scfm_lab.evaluate.annotation` does that for one model. Here all read the human names of the query's
    genes, so that they see the same.

    Parameters
    ----------
    reference
        Annotated human cells.
    query
        Annotated cells of another species, or cells whose genes were mapped to human names before
        (``uns["organism"]`` or their names say human).
    models
        Models or sources.
    orthologs
        As for :func:`scfm_lab.cells.orthologs.to_human`.
    seen, more
        As for :func:`scfm_lab.evaluate.annotation`; cells are looked for in a training record by their own genes' names and by
        the human ones.

    Returns
    -------
    Scores
        The notes tell the labels shared, and what the change of species costs.

    Raises
    ------
    DataError
        If the species share no label, or the reference is not human.
    GenesError
        If no gene has an ortholog.
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.orthologs import to_human
    from scfm_lab.models.load import as_model
    from scfm_lab.tasks.label_names import label_map

    given: Any = models if isinstance(models, (list, tuple)) else [models]
    opened = [as_model(m) for m in given]
    for what, adata in (("reference", reference), ("query", query)):
        column_of(adata, labels_key, what=f"The label column of the {what}")
    if Cells.from_anndata(reference, layer=layer).genes.organism not in ("human", None):
        raise DataError(
            "The reference is not human; give the human cells first, and those of the other species as the query."
        )
    organism = Cells.from_anndata(query, layer=layer).genes.organism
    notes: list[str] = []
    if organism in ("human", None):
        notes.append("The query's genes carry human names already: what their mapping lost cannot be told from here.")
        mapped, place = query, layer
    else:
        mapped, audit = to_human(query, orthologs=orthologs, groupby=labels_key, layer=layer)
        place = None
        notes.append(f"{organism}: {audit.summary()}")
    if place != layer and layer is not None:
        # The mapped query has its counts in X; so shall the reference.
        reference = reference.copy()
        reference.X = Cells.from_anndata(reference, layer=layer).counts
    names = label_map(
        harmonise, reference.obs[labels_key].astype(str).unique(), mapped.obs[labels_key].astype(str).unique()
    )
    ours = np.unique(reference.obs[labels_key].astype(str) if names is None else names.apply(reference.obs[labels_key]))
    theirs = np.unique(mapped.obs[labels_key].astype(str) if names is None else names.apply(mapped.obs[labels_key]))
    shared = np.intersect1d(ours, theirs)
    if len(shared) < 2:
        raise DataError(
            f"Both species share {len(shared)} labels ({', '.join(map(str, shared)) or 'none'}); at least two are needed. Bring "
            "names together with harmonise=."
        )
    labels = reference.obs[labels_key].astype(str).to_numpy(dtype=object)
    labels = labels if names is None else names.apply(labels)
    kept = reference[np.isin(labels.astype(str), shared.astype(str))].copy()
    notes.append(
        f"{len(shared)} labels are shared: {', '.join(map(str, shared))}. Cells of other labels are left out on both sides."
    )
    flags: dict[str, str] = {}
    for name, model in named(opened if mapped is not query else ()).items():
        # A model that does not read the species cannot have been trained on it.
        with suppress(GenesError):
            for said in check_unseen([model], query, seen=seen, layer=layer, options=more.get("options")).values():
                flags[name] = said
    scores = annotation(
        kept,
        opened,
        query=mapped,
        labels_key=labels_key,
        harmonise=False if names is None else names,
        layer=place,
        seen=seen,
        **more,
    )
    return replace(
        scores,
        scores=flagged(scores, flags),
        title="Labels of the other species after the human reference.",
        notes=(*notes, *scores.notes),
    )
