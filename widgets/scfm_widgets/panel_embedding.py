"""The Embedding panel: columns, gene names and single cells, as the browser asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled, DataError
from scfm_widgets.codec import pack_mask
from scfm_widgets.find_cells import find_cells
from scfm_widgets.panels import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from threading import Event

    from scfm_widgets.codec import Column
    from scfm_widgets.columns import Columns


class EmbeddingPanel(Panel):
    """Answers from what is there; it computes nothing."""

    title = "Embedding"
    component = "embedding"
    answers = ("column", "genes", "cell", "find", "known")

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``column``, ``genes``, ``known``, ``find`` (cells by name) or ``cell``."""
        kind = message["type"]
        if kind == "column":
            by, name = str(message["by"]), str(message["name"])
            if by == "gene" and not self.session.columns.at_hand(self.session.columns.require_gene(name)):
                return self._read(name)
            if by == "obs":
                # First this: what is changed while it is read is another then.
                self.session.watch.follow((by, name))
            column = self.column(by, name)
            return {"column": column.about}, [column.codes]
        if kind == "genes":
            about, lines = gene_lines(self.session.columns, self.session.columns.names)
            return about, [lines]
        if kind == "known":
            return {}, [self._known()]
        if kind == "find":
            return {"cells": self._find(str(message["typed"]))}
        row = int(message["cell"])
        if not 0 <= row < self.session.adata.n_obs:
            message_ = f"There is no cell {row}; there are {self.session.adata.n_obs}."
            raise DataError(message_)
        return self.session.columns.cell(row, message.get("colour"), self.session.results)

    def _read(self, name: str) -> Future[Any]:
        """Read a gene beside the notebook: what lies by rows, or in a file, is gone through as a whole."""
        columns = self.session.columns

        def work(progress: Callable[..., None], cancel: Event) -> Any:
            try:
                column = columns.of_gene(
                    name, progress=lambda done, total: progress(done, total, f"reading {name}"), cancel=cancel
                )
            except Cancelled as error:
                # Else the browser would ask again at once.
                message = f"Reading {name} was stopped; lab.refresh() lets it be asked for again."
                raise DataError(message) from error
            return {"column": column.about}, [column.codes]

        return self.session.submit("column", work, label=f"Reading {name}", quiet=True, aside=True)

    def column(self, by: str, name: str) -> Column:
        """A column by where it is: ``"obs"``, ``"gene"`` or ``"result"``."""
        columns = self.session.columns
        if by == "gene":
            return columns.of_gene(name)
        if by == "result":
            return columns.of_result(name, self.session.results)
        return columns.of_obs(name)

    def _find(self, typed: str) -> list[dict[str, Any]]:
        """Cells by what is typed of their names, each with its row and its group."""
        session = self.session
        names = [str(name) for name in session.adata.obs_names]
        groupby = session.groupby() or session.columns.favourite()
        groups = None if groupby is None else session.adata.obs[groupby]
        return [
            {"cell": row, "name": names[row], "group": "" if groups is None else str(groups.iloc[row])}
            for row in find_cells(names, typed, np.flatnonzero(session.selection).tolist())
        ]

    def _known(self) -> bytes:
        """Genes that the picked model knows, one bit each; nothing where it is not open yet."""
        model = self.session.model
        if model is None:
            return b""
        known = np.zeros(len(self.session.columns.names), dtype=bool)
        # The genes of the counts come first among the names.
        known[model.match(self.session.genes).columns] = True
        return pack_mask(known)


def gene_lines(columns: Columns, names: Sequence[str]) -> tuple[dict[str, Any], bytes]:
    """Names of genes for the browser, a line each; where any has a label, each name is followed by a tab and its label.

    A name cannot hold a line break here, whatever is in the file.
    """
    lines = [name.replace("\n", " ") for name in names]
    labels = columns.labels
    if labels:
        found = [labels.get(name, "").replace("\n", " ").replace("\t", " ") for name in names]
        lines = [f"{name}\t{label}" for name, label in zip(lines, found, strict=True)]
    return {"n": len(lines), "labels": bool(labels)}, "\n".join(lines).encode()
