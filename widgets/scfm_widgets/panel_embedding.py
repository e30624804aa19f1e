"""The Embedding panel: columns, gene names and single cells, as the browser asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_widgets.codec import pack_mask
from scfm_widgets.panels import Panel

if TYPE_CHECKING:
    from scfm_widgets.codec import Column


class EmbeddingPanel(Panel):
    """Answers from what is there; it computes nothing."""

    title = "Embedding"
    component = "embedding"
    answers = ("column", "genes", "cell", "known")

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``column``, ``genes``, ``known`` or ``cell``."""
        kind = message["type"]
        if kind == "column":
            column = self.column(str(message["by"]), str(message["name"]))
            return {"column": column.about}, [column.codes]
        if kind == "genes":
            # A line each: a name cannot hold a line break here, whatever is in the file.
            names = [str(name).replace("\n", " ") for name in self.session.adata.var_names]
            return {"n": len(names)}, ["\n".join(names).encode()]
        if kind == "known":
            return {}, [self._known()]
        row = int(message["cell"])
        if not 0 <= row < self.session.adata.n_obs:
            message_ = f"There is no cell {row}; there are {self.session.adata.n_obs}."
            raise DataError(message_)
        return self.session.columns.cell(row, message.get("colour"), self.session.results)

    def column(self, by: str, name: str) -> Column:
        """A column by where it is: ``"obs"``, ``"gene"`` or ``"result"``."""
        columns = self.session.columns
        if by == "gene":
            return columns.of_gene(name)
        if by == "result":
            return columns.of_result(name, self.session.results)
        return columns.of_obs(name)

    def _known(self) -> bytes:
        """Genes that the picked model knows, one bit each; nothing where it is not open yet."""
        model = self.session.model
        if model is None:
            return b""
        from scfm_lab.cells.genes import Genes

        known = np.zeros(self.session.adata.n_vars, dtype=bool)
        organism = self.session.adata.uns.get("organism")
        genes = Genes.from_var(self.session.adata.var, organism if isinstance(organism, str) else None)
        known[model.match(genes).columns] = True
        return pack_mask(known)
