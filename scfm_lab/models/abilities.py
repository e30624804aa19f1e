"""What a model may be able to do besides giving cells vectors; what it cannot do it says, naming the models that can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.spec import ABILITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.models.contract import Model
    from scfm_lab.models.spec import ModelSpec
    from scfm_lab.models.tokens import Tokens


class Able:
    """The part of :class:`~scfm_lab.models.contract.Model` that a family fills in for the abilities its spec names."""

    spec: ModelSpec
    decode_pooling: str | None = None
    """Pooling of the vectors that :meth:`expected_counts` reads; None: as published."""
    decode_unit: str = "counts per 10,000"
    """What :meth:`expected_counts` predicts."""
    attention_lead: int = 0
    """Positions of :meth:`attention` before a cell's first token, where the model puts the cell itself there."""

    def require(self, ability: str) -> None:
        """Raise unless the model can do something.

        Raises
        ------
        ModelError
            Naming the models that can.
        """
        if ability in self.spec.abilities:
            return
        if ability == "predict":
            raise ModelError(
                f"{self.spec.name} is pre-trained only and has no labels to give; fine-tune it (sl.finetune), or label cells "
                "after a reference (sl.annotate)."
            )
        from scfm_lab.models.load import models_that_can

        able = models_that_can(ability)
        raise ModelError(
            f"{self.spec.name} cannot {ABILITIES.get(ability, ability)}"
            + (f"; models that can: {', '.join(able)}." if able else "; no model that is installed can.")
        )

    def _without(self, ability: str) -> NoReturn:
        """Refuse what the spec does not name, and what it names although the family has no method for it."""
        self.require(ability)
        raise ModelError(
            f"{self.spec.name} names the ability {ability!r} and has no method for it; its plugin is at fault."
        )

    def gene_embeddings(self) -> pd.DataFrame:
        """One row per gene (index: symbol, or Ensembl id), float32."""
        self._without("gene_embeddings")

    def attention(self, tokens: Tokens, *, hidden_layer: int = -1) -> Any:
        """Attention between the tokens of each cell."""
        self._without("attention")

    def generate(self, n_cells: int, *, condition: Mapping[str, Any] | None = None, seed: int = 0) -> csr_matrix:
        """Counts of cells that the model makes up, (cells, vocabulary)."""
        self._without("generate")

    def fit(self, *args: Any, **options: Any) -> Model:
        """A new model with a basis fitted to a reference (first argument); this one stays as it is."""
        self._without("fit")

    def expected_counts(self, cell: NDArray[np.float32], genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Expected counts per 10,000 of some vocabulary genes given cell vectors, float32 (cells, genes)."""
        self._without("impute")

    def impute(
        self,
        tokens: Tokens,
        genes: NDArray[np.int64],
        *,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> NDArray[np.float32]:
        """Expected counts per 10,000 (or what `decode_unit` says) of some vocabulary genes in tokenised cells.

        Returns
        -------
        float32 (cells, genes); NaN for cells without a known gene
        """
        self.require("impute")
        states = self.encode(  # type: ignore[attr-defined]
            tokens, pooling=self.decode_pooling, progress=progress, cancel=cancel
        )
        seen = np.isfinite(states.cell).all(axis=1)
        out = np.full((len(tokens), len(genes)), np.nan, dtype=np.float32)
        out[seen] = self.expected_counts(states.cell[seen], genes)
        return out
