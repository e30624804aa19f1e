"""scTOP: ranks to normal scores, cell by cell, projected on a basis of cell types.

The pipeline of Souza and Mehta (2026, arXiv 2602.16696): all genes of a cell are ranked
(ties share their mean rank), p = rank / (G + 1), z = Φ⁻¹(p), z is divided by its length,
and projected without orthogonality on the mean vectors of the reference's types. Nothing
is trained, and no other cell enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.models.contract import aligned_counts
from scfm_lab.models.fixed_basis import BasisModel
from scfm_lab.models.spec import ModelSpec
from scfm_lab.models.tokens import Request, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Vocabulary
    from scfm_lab.inference.engine import Batch


class ScTop(BasisModel):
    """Scores of a cell on a fixed basis of cell types; the types are the dimensions.

    Genes that a dataset does not measure are left out of ranks and basis alike.
    """

    family = "sctop"
    keys = ("basis",)

    def __init__(
        self, basis: torch.Tensor, types: Sequence[str], vocabulary: Vocabulary, *, origin: str, name: str = "sctop"
    ) -> None:
        self.origin = origin
        self.components = basis.float()
        self.types = tuple(map(str, types))
        self.vocabulary = vocabulary
        self.spec = ModelSpec(
            name=name,
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if vocabulary.has_orthologs else ("human",),
            n_genes=len(vocabulary),
            width=len(self.types),
            max_length=0,
            abilities=frozenset({"embed", "perturb", "fit", "gene_embeddings"}),
            licence="BSD-3-Clause",
            citation="Souza, M. and Mehta, P. (2026). arXiv 2602.16696; Yampolskaya, M. et al. (2023). scTOP. "
            "Development 150, dev201873.",
            determinism=f"no chance; ranks within the cell, fixed basis ({origin})",
            parameters=int(basis.numel()),
        )
        self._set_digest(basis=basis)
        self._projections: dict[bytes, torch.Tensor] = {}

    @classmethod
    def _from_parts(
        cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], vocabulary: Vocabulary
    ) -> ScTop:
        return cls(tensors["basis"], config["types"], vocabulary, origin=str(config.get("basis", "shipped")))

    def _parts(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"basis": self.components}, {"basis": self.origin, "types": list(self.types)}

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        match = self.require_genes(cells.genes)
        counts = aligned_counts(cells, match, len(self.vocabulary))
        measured = np.unique(match.ids)
        z, zero, length = normal_scores(counts, len(measured))
        return Tokens(
            ids=counts.indices.astype(np.int64),
            values=(z - np.repeat(zero, np.diff(counts.indptr))).astype(np.float32),
            offsets=counts.indptr.astype(np.int64),
            cell={"zero": zero.astype(np.float32), "length": length.astype(np.float32)},
            measured=measured,
        )

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        device = batch.ids.device
        measured = None if batch.tokens is None else batch.tokens.measured
        projection = self._projection(measured).to(device)
        offsets = torch.as_tensor(batch.offsets[:-1], device=device)
        # z = zero score everywhere + what the seen genes have above it
        summed = torch.nn.functional.embedding_bag(
            batch.ids, projection, offsets, mode="sum", per_sample_weights=batch.values
        )
        summed = summed + batch.cell["zero"][:, None] * projection.sum(dim=0)
        return summed / batch.cell["length"][:, None], None

    def _projection(self, measured: NDArray[np.int64] | None) -> torch.Tensor:
        """Genes × types: what each gene's score adds to each type; 0 for genes not measured."""
        import torch

        key = b"" if measured is None else measured.tobytes()
        if key not in self._projections:
            columns = np.arange(len(self.vocabulary)) if measured is None else measured
            basis = self.components[:, columns].double()
            basis = basis / basis.norm(dim=1, keepdim=True).clamp_min(1e-12)
            table = torch.zeros(len(self.vocabulary), self.spec.width)
            table[columns] = torch.linalg.pinv(basis).float()
            self._projections.clear()
            self._projections[key] = table
        return self._projections[key]

    def scores(self, vectors: NDArray[np.float32]) -> pd.DataFrame:
        """Cell vectors with their dimensions named by cell type."""
        import pandas as pd

        return pd.DataFrame(vectors, columns=list(self.types))

    def fit(
        self, reference: AnnData, *, labels_key: str = "cell_type", layer: str | None = None, min_cells: int = 1
    ) -> ScTop:
        """A scTOP with the types of a reference as its basis.

        Parameters
        ----------
        labels_key
            Column of ``obs`` with the types.
        min_cells
            Types with fewer cells are left out (100 in the paper's atlas).

        Raises
        ------
        DataError
            If the column is missing, has NaN or one value only.
        """
        import torch

        from scfm_lab.cells.cells import Cells, column_of
        from scfm_lab.cells.genes import Vocabulary

        labels = column_of(reference, labels_key, what="The label column", min_values=2).astype(str).to_numpy()
        cells = Cells.from_anndata(reference, layer=layer)
        basis, types = type_basis(cells.counts, labels, min_cells=min_cells)
        model = ScTop(
            torch.as_tensor(basis),
            types,
            Vocabulary(cells.genes.symbols, cells.genes.ensembl),
            origin=f"fitted to {len(cells):,} cells of {len(types)} types",
        )
        model.version, model.source = "fitted", "fit"
        return model


def type_basis(
    counts: csr_matrix, labels: NDArray[Any], *, min_cells: int = 1
) -> tuple[NDArray[np.float32], list[str]]:
    """Mean unit vector of normal scores of each type, float32 (types, genes)."""
    from scipy import sparse

    from scfm_lab.errors import DataError

    types = [t for t in sorted(set(labels)) if (labels == t).sum() >= min_cells]
    if len(types) < 2:
        raise DataError(f"Fewer than two labels have {min_cells} cells or more; a basis needs at least two types.")
    z, zero, length = normal_scores(counts, counts.shape[1])
    lengths = np.diff(counts.indptr)
    above = sparse.csr_matrix(
        ((z - np.repeat(zero, lengths)) / np.repeat(length, lengths), counts.indices, counts.indptr), shape=counts.shape
    )
    rows = []
    for t in types:
        mask = labels == t
        rows.append(np.asarray(above[mask].mean(axis=0)).ravel() + (zero[mask] / length[mask]).mean())
    return np.array(rows, dtype=np.float32), types


def normal_scores(
    counts: csr_matrix, n_genes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Normal scores of ranks within each cell.

    Returns
    -------
    z
        Scores of the genes that are seen, in the order of ``counts.data``.
    zero
        Score shared by the genes with no counts, one per cell.
    length
        Euclidean length of the cell's whole vector of scores.
    """
    from scipy.special import ndtri

    lengths = np.diff(counts.indptr)
    unseen = n_genes - lengths
    ranks = ragged_ranks(counts.data, counts.indptr) + np.repeat(unseen, lengths)
    z = ndtri(ranks / (n_genes + 1))
    zero = ndtri(((unseen + 1) / 2) / (n_genes + 1))
    squares = np.concatenate([[0.0], np.cumsum(z**2)])
    total = squares[counts.indptr[1:]] - squares[counts.indptr[:-1]] + unseen * zero**2
    return z, np.where(unseen > 0, zero, 0.0), np.sqrt(np.maximum(total, 1e-12))


def ragged_ranks(values: NDArray[Any], indptr: NDArray[Any]) -> NDArray[np.float64]:
    """Mean ranks (1 = smallest) within each row of ragged values."""
    lengths = np.diff(indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((values, row))
    sorted_values, sorted_rows = values[order], row[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (sorted_values[1:] != sorted_values[:-1]) | (sorted_rows[1:] != sorted_rows[:-1])
    run = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(values))
    mean_position = (starts + ends - 1) / 2
    ranks = np.empty(len(values))
    ranks[order] = mean_position[run] - indptr[sorted_rows] + 1
    return ranks
