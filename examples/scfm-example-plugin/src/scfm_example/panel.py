"""A panel of the bench: what the selected cells express, module by module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import scfm_lab as sl


class ModuleProfile:
    """Mean score of each gene module, in the selected cells and in all of them."""

    title = "Module profile"
    esm = Path(__file__).with_name("panel.js")

    def __init__(self, session: Any) -> None:
        self.session = session
        self._scores: np.ndarray | None = None
        self._modules: list[str] = []

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``{"of": "selection"}``, or ``{"of": "highest", "module": name}``.

        Returns
        -------
        For the selection ``modules`` (names), ``selected`` and ``all`` (means, one per module) and ``n`` (cells selected).
        For the highest ``n`` and, as a buffer, one byte per cell: 1 for the tenth of the cells with the highest scores.
        """
        if message.get("of") == "highest":
            return self._highest(str(message.get("module")))
        if message.get("of") != "selection":
            raise ValueError('this panel answers {"of": "selection"} and {"of": "highest", "module": name}')
        scores = self.scores()
        # Nothing selected means everything: a profile of no cells tells nothing.
        selected = np.asarray(self.session.selection, dtype=bool)
        rows = selected if selected.any() else np.ones(len(scores), dtype=bool)
        return {
            "modules": self._modules,
            "selected": np.nanmean(scores[rows], axis=0).round(4).tolist(),
            "all": np.nanmean(scores, axis=0).round(4).tolist(),
            "n": int(rows.sum()),
        }

    def _highest(self, module: str) -> tuple[dict[str, Any], list[bytes]]:
        scores = self.scores()
        if module not in self._modules:
            raise ValueError(f"there is no module {module!r}; there are {', '.join(self._modules)}")
        values = scores[:, self._modules.index(module)]
        mask = values >= np.nanquantile(values, 0.9)
        return {"n": int(mask.sum())}, [mask.astype(np.uint8).tobytes()]

    def scores(self) -> np.ndarray:
        """Cells × modules, float32; computed once, since a session's cells do not change."""
        if self._scores is None:
            model = sl.load_model("example.modules", device="cpu")
            self._scores = model.encode(model.tokenize(self.session.adata)).cell
            self._modules = list(model.modules)
        return self._scores
