"""What scFoundation says beside a cell's vector, from its decoder: states and expected expression of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, GenesError, ModelError, did_you_mean
from scfm_lab.models.performer_inputs import run_groups
from scfm_lab.models.published import check_ids
from scfm_lab.models.symbols import SymbolModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.performer_inputs import SummedSymbols
    from scfm_lab.models.scfoundation_files import Weights
    from scfm_lab.models.scfoundation_net import ScFoundationNet
    from scfm_lab.models.tokens import Tokens

GENE = "gene"


class Readouts(SymbolModel):
    """The readouts of an scFoundation; what they read is set where it is opened."""

    weights: Mapping[str, Weights]
    vocabulary: SummedSymbols

    def _inputs(self, batch: Batch, part: str) -> tuple[ScFoundationNet, torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def gene_states(
        self,
        tokens: Tokens,
        *,
        genes: Sequence[str] | NDArray[np.int64] | None = None,
        batch_size: int = 1,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """States of genes in each cell, from the decoder: contextual gene embeddings.

        Parameters
        ----------
        genes
            Symbols, or vocabulary ids; None: all of the model's (at the published size 39 MB a cell).
        batch_size
            Cells that are decoded together; changes results only with the option ``like_reference``.

        Returns
        -------
        float32 (cells, genes, decoder width); NaN for cells without a known gene

        Raises
        ------
        GenesError
            If a gene is unknown to the model.
        DataError
            If the result would not fit the memory that is free, or `batch_size` is below 1.
        """
        ids = self._gene_ids(genes)
        width = int(self.weights[next(iter(self.weights))].shape["decoder"]["width"])
        out = self._room((len(tokens), len(ids), width))

        def step(batch: Batch, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            out[rows] = self._decoded(batch, ids)[1].float().cpu().numpy()

        run_groups(self, tokens, batch_size, step, progress=progress, cancel=cancel)
        return out

    def gene_expression(
        self,
        tokens: Tokens,
        *,
        genes: Sequence[str] | NDArray[np.int64] | None = None,
        batch_size: int = 1,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """Expected expression of genes in each cell at the read depth aimed at, as the network gives it.

        Parameters are those of :meth:`gene_states`.

        Returns
        -------
        float32 (cells, genes)
            On the scale of the training targets, ln(1 + counts per 10,000); NaN for cells without a known gene.
        """
        ids = self._gene_ids(genes)
        out = self._room((len(tokens), len(ids)))

        def step(batch: Batch, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            net, states = self._decoded(batch, ids)
            out[rows] = net.final(states).float().cpu().numpy()

        run_groups(self, tokens, batch_size, step, progress=progress, cancel=cancel)
        return out

    def impute(
        self,
        tokens: Tokens,
        genes: NDArray[np.int64],
        *,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """Expected counts per 10,000 of some vocabulary genes: exp(:meth:`gene_expression`) − 1, not below 0."""
        found = self.gene_expression(tokens, genes=genes, progress=progress, cancel=cancel)
        return np.expm1(np.maximum(found, 0))

    def expected_counts(self, cell: NDArray[np.float32], genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Not to be had from cell vectors: scFoundation's decoder reads tokens.

        Raises
        ------
        ModelError
            Always, with what to use instead.
        """
        raise ModelError(
            "scfoundation predicts expression from tokens, not from cell vectors; use model.impute or sl.impute."
        )

    def _decoded(self, batch: Batch, ids: NDArray[np.int64]) -> tuple[ScFoundationNet, torch.Tensor]:
        import torch

        net, positions, values = self._inputs(batch, GENE)
        depths, shared = batch.cell.get("depths"), batch.cell.get("like_reference")
        states = net.decode(
            positions,
            values,
            batch.lengths,
            net.depths_of(positions, values, batch.lengths) if depths is None else depths,
            torch.as_tensor(ids, device=positions.device),
            shared=shared is not None and bool(shared.any()),
        )
        return net, states

    def _gene_ids(self, genes: Sequence[str] | NDArray[np.int64] | None) -> NDArray[np.int64]:
        if genes is None:
            return np.arange(len(self.vocabulary))
        if isinstance(genes, np.ndarray) and genes.dtype.kind in "iu":
            check_ids(genes, len(self.vocabulary), "scfoundation")
            return genes.astype(np.int64)
        found = []
        for gene in genes:
            hit = self.vocabulary.id_of(str(gene))
            if hit is None:
                raise GenesError(
                    f"scfoundation does not know the gene {gene!r}." + did_you_mean(str(gene), self.vocabulary.names)
                )
            found.append(hit)
        return np.array(found, dtype=np.int64)

    @staticmethod
    def _room(shape: tuple[int, ...]) -> NDArray[np.float32]:
        from scfm_lab.inference.hardware import GIB, Hardware

        need, free = 4 * float(np.prod(shape, dtype=np.float64)) / GIB, Hardware.detect().free_gib
        if need > 0.8 * free:
            raise DataError(
                f"{' × '.join(f'{n:,}' for n in shape)} numbers would take {need:.1f} GiB of the {free:.1f} GiB that are "
                "free; name the genes you need with genes=, or take fewer cells at a time."
            )
        return np.full(shape, np.nan, dtype=np.float32)
