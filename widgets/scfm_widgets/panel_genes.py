"""The Genes panel: where a gene is found, which genes the model holds to be like it, and attention to and from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from scfm_lab.errors import GenesError, ModelError
from scfm_widgets import describe
from scfm_widgets.codec import plain
from scfm_widgets.gene_matrix import LOG_COUNTS
from scfm_widgets.panels import Panel
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event

    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_widgets.session import Session

NEIGHBOURS = 12
PARTNERS = 8
#: Cells over which attention is averaged: those with most counts of the gene.
ATTENTION_CELLS = 24


class GenesPanel(Panel):
    """Answers about one gene at a time."""

    title = "Genes"
    component = "genes"
    answers = ("gene", "alike", "attention")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        #: What is told and the result, by model and gene; no model is kept for it.
        self._similar: WeakKeyDictionary[Model, dict[str, tuple[dict[str, Any], Any]]] = WeakKeyDictionary()

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``gene`` (expression by group; neighbours where the model is open), ``alike`` or ``attention``."""
        gene, kind = str(message["gene"]), str(message["type"])
        tell, label = {
            "gene": (self._tell, f"About {gene}"),
            "alike": (self._neighbours, f"Genes like {gene}"),
            "attention": (self._attention, f"Attention to and from {gene}"),
        }[kind]
        # To open a model is work: it would hold up all that is only read, and could not be stopped there.
        return self._submit(kind, lambda cancel: tell(gene, cancel), label, aside=kind == "gene")

    def _submit(self, kind: str, work: Callable[[Event], dict[str, Any]], label: str, *, aside: bool) -> Future[Any]:
        def job(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            del progress
            return work(cancel)

        return self.session.submit("gene", job, label=label, lane=kind, quiet=True, aside=aside)

    def _tell(self, gene: str, cancel: Event) -> dict[str, Any]:
        session = self.session
        groups = self._groups(session.columns.expression(gene), session.columns.unit(gene))
        told: dict[str, Any] = {"gene": gene, "groups": groups, "neighbours": None}
        if session.state.get("model") and session.model is None:
            return told
        return told | self._neighbours(gene, cancel)

    def _groups(self, values: NDArray[np.float64], unit: str) -> dict[str, Any]:
        """Mean expression by group; of counts also the share of cells in which the gene is found, which other values hide."""
        session = self.session
        groupby = session.groupby() or session.columns.favourite()
        members: dict[str, NDArray[Any]] = {"all": np.arange(len(values))}
        if groupby is not None:
            labels = session.adata.obs[groupby].astype(str).to_numpy(dtype=object)
            members |= {str(group): np.flatnonzero(labels == group) for group in sorted(set(labels))}
        rows: list[dict[str, Any]] = [
            {"group": group, "n": len(at), "mean": plain(float(np.nanmean(values[at])))}
            for group, at in members.items()
        ]
        if unit == LOG_COUNTS:
            for row in rows:
                row["share"] = float((values[members[row["group"]]] > 0).mean())
        return {"groupby": groupby, "unit": unit, "rows": describe.in_order(rows, session.columns.order(groupby))}

    def _neighbours(self, gene: str, cancel: Event) -> dict[str, Any]:
        """Genes whose embeddings point the same way, or why there are none."""
        session = self.session
        source = session.state.get("model")
        if not source:
            return {"neighbours": [], "note": "Pick a model to see which genes it holds to be alike."}
        model = session.open_model(str(source), cancel)
        known = self._similar.setdefault(model, {})
        if gene not in known:
            known[gene] = self._told_similar(model, gene)
        told, result = known[gene]
        if result is not None:
            session.results["similar_genes"] = result
        return told

    def _told_similar(self, model: Model, gene: str) -> tuple[dict[str, Any], Any]:
        """What :func:`scfm_lab.similar_genes` finds, in the names of the cells, and its result where there is one."""
        from scfm_lab.tasks.similar_genes import similar_genes

        session = self.session
        try:
            model.require("gene_embeddings")
            known = next((name for name in _names_of(gene, session) if model.vocabulary.id_of(name) is not None), gene)
            result = similar_genes(model, known, n=NEIGHBOURS, adata=session.adata)
        except (ModelError, GenesError) as error:
            return {"neighbours": [], "note": str(error)}, None
        names = [session.genes_by_id.get(str(name), str(name)) for name in result.table["gene"]]
        found = [
            {
                "gene": name,
                "likeness": float(row["cosine"]),
                "hubness": float(row["hubness"]),
                "measured": session.columns.gene(name) is not None,
            }
            for name, row in zip(names, result.table.to_dict(orient="records"), strict=True)
        ]
        # The first line names the neighbours, which are on the screen already.
        beside = " ".join(result.summary().splitlines()[1:])
        return {"neighbours": found, "note": "", "model": model.spec.name, "beside": beside}, result

    def _attention(self, gene: str, cancel: Event) -> dict[str, Any]:
        """What :func:`scfm_lab.tasks.gene_attention.gene_attention` finds, both ways."""
        from scfm_lab.tasks.gene_attention import gene_attention

        session = self.session
        model = session.open_model(session.require_model(), cancel)
        found = abandonable(
            lambda: gene_attention(session.adata, model, gene, n=PARTNERS, max_cells=ATTENTION_CELLS), cancel
        )
        session.results["gene_attention"] = found
        sides = {
            side: found.table.loc[found.table["direction"] == direction, ["gene", "weight", "cells"]]
            for side, direction in (("to", "reads"), ("from", "is read by"))
        }
        told = {side: plain(rows.to_dict(orient="records")) for side, rows in sides.items()}
        return {"gene": gene, "cells": found.cells, "model": model.spec.name, **told}


def _names_of(gene: str, session: Session) -> list[str]:
    """All names under which a model may keep a gene of the cells."""
    genes = session.genes
    at = genes.index.get(gene)
    if at is None:
        return [gene]
    return [gene, *(str(names[at]) for names in (genes.symbols, genes.ensembl) if names is not None and names[at])]
