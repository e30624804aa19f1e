"""What UCE says beside a cell's vector: which genes the cell expresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.errors import GenesError, did_you_mean
from scfm_lab.models.published import PublishedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_lab.models.uce_net import UceNet
    from scfm_lab.models.uce_species import Species

GENES_AT_ONCE, PAIRS_AT_ONCE = 2048, 1 << 14
"""Genes, and pairs of a cell and a gene, that the expression decoder reads at once: some hundred megabytes at the published sizes."""


class Readouts(PublishedModel):
    """The readout of a UCE; what it reads is set where it is opened."""

    net: UceNet
    species: Species

    def expression_logits(
        self, cell: NDArray[np.float32], genes: Sequence[str], *, species: str | None = None, normalised: bool = True
    ) -> NDArray[np.float32]:
        """Logit that each gene is expressed in each cell, from the checkpoint's expression decoder.

        Parameters
        ----------
        cell
            Cell vectors, (cells, width).
        genes
            Symbols.
        normalised
            Whether protein embeddings are scaled to length 1 first, as in the sentences; what
            training did is not published.

        Returns
        -------
        float32, (cells, genes)

        Raises
        ------
        GenesError
            If a gene is unknown.
        """
        import torch
        import torch.nn.functional as F  # noqa: N812

        known = self.species.genes(self.species.check(species) if species else self.species.first)
        place = {symbol: i for i, symbol in enumerate(known.symbols)}
        missing = [g for g in genes if g.upper() not in place]
        if missing:
            raise GenesError(f"UCE knows no gene {missing[0]!r} of {known.name}." + did_you_mean(missing[0], place))
        if len(cell) == 0 or len(genes) == 0:
            return np.empty((len(cell), len(genes)), np.float32)
        rows = known.rows[[place[g.upper()] for g in genes]]
        vectors = []
        with torch.inference_mode():
            weight = self.net.any_weight
            for start in range(0, len(rows), GENES_AT_ONCE):
                part = self.species.table.take(rows[start : start + GENES_AT_ONCE])
                part = F.normalize(part, dim=-1) if normalised else part
                vectors.append(self.net.gene_embedding_layer(part.to(weight)))
            cells = torch.as_tensor(cell).to(weight).split(PAIRS_AT_ONCE // GENES_AT_ONCE)
            out = [torch.cat([self.net.expression_logits(some, v) for v in vectors], dim=1) for some in cells]
        return torch.cat(out).float().cpu().numpy()
