"""A model of gene modules: each dimension of a cell's vector is the mean log-expression of one module."""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells.genes import Vocabulary
from scfm_lab.errors import ModelError
from scfm_lab.models.contract import Model, aligned_counts
from scfm_lab.models.spec import ModelSpec
from scfm_lab.models.tokens import Request, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    import torch

    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.engine import Batch

#: Counts are scaled to this library size before the logarithm.
SCALE = 1e4
HEADER = ["module", "gene"]


class GeneModules(Model):
    """Mean of log1p(counts per 10,000) over the genes of each module that the dataset measures.

    A gene may belong to several modules. A module of which nothing is measured is 0 in every cell.
    """

    family = "gene-modules"

    def __init__(self, members: Mapping[str, list[str]], digest: str) -> None:
        self.modules = list(members)
        genes = sorted({gene for module in members.values() for gene in module})
        place = {gene: i for i, gene in enumerate(genes)}
        #: Genes × modules, 1 where the gene belongs to the module.
        self.membership = np.zeros((len(genes), len(self.modules)), dtype=np.float32)
        for column, module in enumerate(self.modules):
            self.membership[[place[gene] for gene in members[module]], column] = 1
        self.vocabulary = Vocabulary(np.array(genes, dtype=object), np.array([""] * len(genes), dtype=object))
        self.digest = digest
        self.spec = ModelSpec(
            name="modules",
            family=self.family,
            genes="symbol",
            organisms=("human",),
            n_genes=len(genes),
            width=len(self.modules),
            max_length=0,
            abilities=frozenset({"embed", "perturb", "gene_embeddings"}),
            licence="BSD-3-Clause",
            citation="The modules are textbook markers of human blood and of general cell states.",
            determinism="no chance; a sum over the genes that a cell expresses",
        )

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a table of modules; reads its first line only."""
        if path.suffix != ".csv" or not path.is_file():
            return False
        with path.open(encoding="utf-8") as file:
            return file.readline().strip().split(",") == HEADER

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Self:
        """Open a table with the columns ``module`` and ``gene``.

        Raises
        ------
        ModelError
            If there is no such table, or it holds no module.
        """
        if path is None or not cls.recognises(path):
            raise ModelError(f"{path} is no table of gene modules; give a CSV file whose first line is 'module,gene'.")
        members: dict[str, list[str]] = {}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                members.setdefault(row["module"], []).append(row["gene"])
        if not members:
            raise ModelError(f"{path} holds no module; give at least one line such as 't cell,CD3D'.")
        return cls(members, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        """One token per gene that a cell expresses; its value is log1p(counts per 10,000)."""
        match = self.require_genes(cells.genes)
        counts = aligned_counts(cells, match, len(self.vocabulary))
        # The library size is that of the unperturbed cell and of all genes, known or not: cells.total.
        size = SCALE / np.maximum(cells.total, 1.0)
        values = np.log1p(counts.data * np.repeat(size, np.diff(counts.indptr)))
        return Tokens(
            ids=counts.indices.astype(np.int64),
            values=values.astype(np.float32),
            offsets=counts.indptr.astype(np.int64),
            # A gene that was not measured must not count as one that is silent.
            measured=np.unique(match.ids),
        )

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cell vectors (cells, modules), and each gene's share of them if asked for."""
        import torch

        measured = None if batch.tokens is None else batch.tokens.measured
        table = torch.as_tensor(self.weights(measured), device=batch.ids.device)
        offsets = torch.as_tensor(batch.offsets[:-1], device=batch.ids.device)
        cells = torch.nn.functional.embedding_bag(
            batch.ids, table, offsets, mode="sum", per_sample_weights=batch.values
        )
        shares = table[batch.ids] * batch.values[:, None] if request.genes and batch.values is not None else None
        return cells, shares

    def weights(self, measured: np.ndarray | None = None) -> np.ndarray:
        """Genes × modules, float32: what one unit of a gene's log-expression adds to each module's mean.

        Parameters
        ----------
        measured
            Vocabulary ids that the dataset measures; None: all.
        """
        seen = np.zeros((len(self.vocabulary), 1), dtype=np.float32)
        seen[slice(None) if measured is None else measured] = 1
        there = self.membership * seen
        return (there / np.maximum(there.sum(axis=0, keepdims=True), 1)).astype(np.float32)

    def gene_embeddings(self) -> pd.DataFrame:
        """Genes × modules, float32: the weight of each gene in each module."""
        import pandas as pd

        return pd.DataFrame(self.weights(), index=pd.Index(self.vocabulary.names, name="gene"), columns=self.modules)
