"""Labels carried from a human reference to cells of another species."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import column_of, subset
from scfm_lab.errors import DataError, GenesError
from scfm_lab.evaluation.annotation import annotation
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.once import floors_kept
from scfm_lab.evaluation.overlap import check_unseen, flagged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scfm_lab.cells.genes import Genes
    from scfm_lab.evaluation.score import Scores
    from scfm_lab.models.contract import Model

OWN_GENES = "Given the query's own genes, which it knows"
HUMAN_NAMES = "Given the human names of the query's genes"


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

    Models that know genes of the query's species themselves (UCE, TranscriptFormer) are given the query as it is; other models
    and the floors read the human names of its genes. Every score of a model says which it was. A model whose option ``species``
    or ``orthologs`` is named is given human names, too.

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
    query_genes = Cells.from_anndata(query, layer=layer).genes
    organism = query_genes.organism
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
        reference = subset(reference)
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
    kept = subset(reference, np.isin(labels.astype(str), shared.astype(str)))
    notes.append(
        f"{len(shared)} labels are shared: {', '.join(map(str, shared))}. Cells of other labels are left out on both sides."
    )
    flags: dict[str, str] = {}
    ways: dict[str, str] = {}
    called = named(opened)
    if mapped is not query:
        for name, model in called.items():
            own = _knows(model, query_genes, more.get("options"))
            ways[name] = OWN_GENES if own else HUMAN_NAMES
            other, at = (mapped, place) if own else (query, layer)
            # A model that does not read the genes by those names cannot have been trained on them.
            with suppress(GenesError):
                for said in check_unseen([model], other, seen=seen, layer=at, options=more.get("options")).values():
                    flags[name] = said
    asked: dict[str, Any] = {
        "labels_key": labels_key,
        "harmonise": False if names is None else names,
        "orthologs": orthologs,
        "seen": seen,
        **more,
    }
    own_way = {name: model for name, model in called.items() if ways.get(name) == OWN_GENES}
    rest = {name: model for name, model in called.items() if name not in own_way}
    found = []
    # The floors are the same beside all.
    with floors_kept():
        if own_way:
            found.append(_called(annotation(kept, list(own_way.values()), query=query, layer=layer, **asked), own_way))
        if rest or not own_way:
            found.append(_called(annotation(kept, list(rest.values()), query=mapped, layer=place, **asked), rest))
    by_name = {(s.metric, s.model): s for scores in found for s in scores}
    told = {name: ". ".join(filter(None, [flags.get(name), ways.get(name)])) for name in called}
    return replace(
        found[0],
        scores=flagged(by_name.values(), {name: said for name, said in told.items() if said}),
        title="Labels of the other species after the human reference.",
        notes=(*notes, *dict.fromkeys(note for scores in found for note in scores.notes)),
        provenance={
            **found[0].provenance,
            **provenance.of_scores(called, task="evaluate.cross_species", options=more.get("options")),
            "organism": organism or "not known",
            "labels": [str(label) for label in shared],
        },
    )


def _knows(model: Model, genes: Genes, options: Mapping[str, Any] | None) -> bool:
    """Whether a model knows genes of another species as such, and not by their human orthologs."""
    said = {**((model.opened or {}).get("config") or {}), **(options or {})}
    if genes.organism not in model.spec.organisms or {"species", "orthologs"} & set(said):
        return False
    try:
        match = model.known_genes(genes, options)
    except GenesError:
        return False
    return not any("ortholog" in how for how, n in match.how.items() if n)


def _called(scores: Scores, models: Mapping[str, Model]) -> Scores:
    """Scores under the names that their models have beside all others."""
    names = dict(zip(named(models.values()), models, strict=True))
    return replace(scores, scores=tuple(replace(s, model=names.get(s.model, s.model)) for s in scores))
