"""What scBERT says beside a cell's vector: logits of its heads, attention of chosen genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import GenesError, ModelError, did_you_mean
from scfm_lab.models.performer_inputs import run_groups
from scfm_lab.models.symbols import SymbolModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.performer_inputs import SummedSymbols
    from scfm_lab.models.scbert_net import ScBertNet
    from scfm_lab.models.spec import Classes
    from scfm_lab.models.tokens import Tokens


class Readouts(SymbolModel):
    """The readouts of an scBERT; what they read is set where it is opened."""

    net: ScBertNet
    vocabulary: SummedSymbols
    classes: Classes | None
    bin_num: int

    def _positions(self, batch: Batch) -> torch.Tensor:
        if (batch.lengths != self.net.length).any():
            raise ModelError(
                f"scbert reads {self.net.length:,} positions a cell, these tokens have "
                f"{int(batch.lengths[batch.lengths != self.net.length][0]):,}; make them with model.tokenize."
            )
        return batch.ids.view(len(batch), -1)

    @staticmethod
    def _shared(batch: Batch) -> bool:
        return bool((batch.cell["together"] > 1).any()) if "together" in batch.cell else False

    def token_logits(
        self, tokens: Tokens, *, progress: Callable[..., None] | None = None, cancel: Any = None
    ) -> NDArray[np.float32]:
        """Logits of the pre-trained head at every position, float32 (tokens, bins + 2); NaN for cells without a gene.

        Raises
        ------
        ModelError
            If the checkpoint was fine-tuned to classes.
        """
        if self.classes is not None:
            raise ModelError("This scBERT was fine-tuned to classes and has no head for tokens; use model.predict.")
        out = np.full((len(tokens.ids), self.bin_num + 2), np.nan, dtype=np.float32)

        def step(batch: Batch, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            states = self.net(self._positions(batch), shared=self._shared(batch))
            out[places] = self.net.to_out(states).flatten(0, 1).float().cpu().numpy()

        run_groups(self, tokens, together(tokens), step, progress=progress, cancel=cancel)
        return out

    def class_logits(
        self, tokens: Tokens, *, progress: Callable[..., None] | None = None, cancel: Any = None
    ) -> NDArray[np.float32]:
        """Logits of a fine-tuned model's classes, float32 (cells, classes); NaN for cells without a gene.

        Raises
        ------
        ModelError
            If the checkpoint was not fine-tuned.
        """
        if self.head is not None or self.classes is None:
            return super().class_logits(tokens, progress=progress, cancel=cancel)
        out = np.full((len(tokens), len(self.classes.names)), np.nan, dtype=np.float32)

        def step(batch: Batch, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            states = self.net(self._positions(batch), shared=self._shared(batch))
            out[rows] = self.net.to_out(states).float().cpu().numpy()

        run_groups(self, tokens, together(tokens), step, progress=progress, cancel=cancel)
        return out

    def vocabulary_ids(self, tokens: Tokens) -> NDArray[np.int64]:
        """The gene of each token, told by its position; -1 where it is read as silent, and at the position without a gene."""
        self.check_tokens(tokens)
        length = len(self.vocabulary) + 1
        places = np.arange(len(tokens.ids)) % length
        return np.where((tokens.ids > 0) & (places < length - 1), places, -1)

    def attention_of(
        self, tokens: Tokens, genes: Sequence[str], *, hidden_layer: int = -1
    ) -> list[NDArray[np.float32]]:
        """Attention of some genes over all positions, in float32.

        All positions over all would be 16907² weights a head, so that only the genes asked for are
        computed.

        Parameters
        ----------
        hidden_layer
            Counted as for :func:`scfm_lab.embed`: 1 the first layer, -1 the last.

        Returns
        -------
        list of float32 arrays, one per cell, (heads, genes, positions)
            Every row sums to 1; the last position is the appended token.
        """
        import torch

        from scfm_lab.inference.engine import make_batch
        from scfm_lab.models.layers import attention_layer

        layer = attention_layer(hidden_layer, self.spec.layers, "scbert")
        places = []
        for gene in genes:
            hit = self.vocabulary.id_of(str(gene))
            if hit is None:
                raise GenesError(
                    f"scbert does not know the gene {gene!r}." + did_you_mean(str(gene), self.vocabulary.names)
                )
            places.append(hit)
        readers = torch.tensor(places, device=self.device)
        out = []
        for row in range(len(tokens)):
            batch, _ = make_batch(tokens, np.array([row]), torch.device(self.device))
            with torch.inference_mode():
                weights = self.net.attention(self._positions(batch), layer, readers)
            out.append(weights.cpu().numpy())
        return out


def together(tokens: Tokens) -> int:
    """Cells that are run together, as the tokens were made."""
    sizes = tokens.cell.get("together")
    return 1 if sizes is None or len(sizes) == 0 else int(sizes[0])
