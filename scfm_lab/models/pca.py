"""PCA: the linear floor. Log-normalised counts projected on principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.models.contract import aligned_counts
from scfm_lab.models.fixed_basis import BasisModel
from scfm_lab.models.spec import ModelSpec
from scfm_lab.models.tokens import Request, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Vocabulary
    from scfm_lab.inference.engine import Batch

SCALE = 1e4


class PCA(BasisModel):
    """Principal components of log1p(counts per 10,000), with a fixed basis.

    A gene that a dataset does not measure adds nothing, as if it had the mean of the
    reference; a gene that is measured and not seen counts as 0.
    """

    family = "pca"
    keys = ("components", "mean")

    def __init__(
        self, components: torch.Tensor, mean: torch.Tensor, vocabulary: Vocabulary, *, basis: str, name: str = "pca"
    ) -> None:
        self.basis = basis
        self.components = components.float()
        self.mean = mean.float()
        self.vocabulary = vocabulary
        self.spec = ModelSpec(
            name=name,
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if vocabulary.has_orthologs else ("human",),
            n_genes=len(vocabulary),
            width=int(components.shape[0]),
            max_length=0,
            abilities=frozenset({"embed", "perturb", "fit", "gene_embeddings"}),
            licence="BSD-3-Clause",
            citation="Pearson, K. (1901). On lines and planes of closest fit. Philosophical Magazine 2, 559-572.",
            determinism=f"no chance; fixed basis ({basis})",
            parameters=int(components.numel() + mean.numel()),
        )
        self._set_digest(components=components, mean=mean)

    @classmethod
    def _from_parts(cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], vocabulary: Vocabulary) -> PCA:
        return cls(tensors["components"], tensors["mean"], vocabulary, basis=str(config.get("basis", "shipped")))

    def _parts(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"components": self.components, "mean": self.mean}, {"basis": self.basis}

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        match = self.require_genes(cells.genes)
        counts = aligned_counts(cells, match, len(self.vocabulary))
        values = log_normalised(counts, cells.total).data
        return Tokens(
            ids=counts.indices.astype(np.int64),
            values=values.astype(np.float32),
            offsets=counts.indptr.astype(np.int64),
            measured=np.unique(match.ids),
        )

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        table = self._table("components", batch.ids.device)
        offsets = torch.as_tensor(batch.offsets[:-1], device=batch.ids.device)
        summed = torch.nn.functional.embedding_bag(
            batch.ids, table, offsets, mode="sum", per_sample_weights=batch.values
        )
        measured = None if batch.tokens is None else batch.tokens.measured
        mean = self.mean if measured is None else self.mean[measured]
        components = self.components if measured is None else self.components[:, measured]
        return summed - (components @ mean).to(summed), None

    def fit(
        self,
        reference: AnnData,
        *,
        n_components: int = 50,
        n_genes: int | None = None,
        fewer: bool = False,
        layer: str | None = None,
    ) -> PCA:
        """A PCA with a basis fitted to a reference.

        Parameters
        ----------
        reference
            With raw counts.
        n_components
            Length of a cell's vector.
        n_genes
            Only the most variable genes (scanpy's ``seurat`` flavour) enter the fit; None: all that
            are seen in three cells or more.
        fewer
            Fit as many components as cells and genes allow where that is fewer than `n_components`.

        Raises
        ------
        DataError
            If there are fewer cells or genes than components; with `fewer`, if there are not two of each.
        """
        from scfm_lab.cells.cells import Cells

        cells = Cells.from_anndata(reference, layer=layer)
        components, mean, vocabulary = fit_components(cells, n_components=n_components, n_genes=n_genes, fewer=fewer)
        import torch

        model = PCA(
            torch.as_tensor(components), torch.as_tensor(mean), vocabulary, basis=f"fitted to {len(cells):,} cells"
        )
        model.version, model.source = "fitted", "fit"
        return model


def log_normalised(counts: csr_matrix, total: np.ndarray) -> csr_matrix:
    """log1p(counts / library size × 10,000), float32; cells without counts stay 0."""
    out = counts.copy().astype(np.float32)
    size = np.where(total > 0, total, 1.0)
    out.data = np.log1p(counts.data * np.repeat(SCALE / size, np.diff(counts.indptr))).astype(np.float32)
    return out


def fit_components(
    cells: Cells, *, n_components: int = 50, n_genes: int | None = None, fewer: bool = False
) -> tuple[np.ndarray, np.ndarray, Vocabulary]:
    """Components (float32, components × genes), mean (float32) and vocabulary fitted to cells; see :meth:`PCA.fit`."""
    import anndata as ad
    import scanpy as sc
    from sklearn.decomposition import PCA as SkPCA

    from scfm_lab.cells.genes import Vocabulary

    expressed = np.flatnonzero(np.asarray((cells.counts > 0).sum(axis=0)).ravel() >= 3)
    limit = min(len(cells), len(expressed))
    if limit < 2:
        raise DataError(
            f"No principal components can be fitted to {len(cells):,} cells with {len(expressed):,} genes seen in at least three of "
            "them; two of each are needed at least."
        )
    if fewer:
        n_components = min(n_components, limit - 1)
    if n_components >= limit:
        raise DataError(
            f"{n_components} components cannot be fitted to {len(cells):,} cells with {len(expressed):,} genes seen "
            f"in at least three of them; use n_components below {limit}."
        )
    x = log_normalised(cells.counts[:, expressed], cells.total)
    if n_genes is not None and len(expressed) > n_genes:
        chosen = sc.pp.highly_variable_genes(ad.AnnData(x), n_top_genes=n_genes, inplace=False)
        keep = np.flatnonzero(chosen["highly_variable"].to_numpy())
        x, expressed = x[:, keep], expressed[keep]
    pca = SkPCA(n_components=n_components, svd_solver="arpack", random_state=0).fit(x.astype(np.float64))
    genes = cells.genes
    vocabulary = Vocabulary(genes.symbols[expressed], genes.ensembl[expressed])
    return pca.components_.astype(np.float32), pca.mean_.astype(np.float32), vocabulary
