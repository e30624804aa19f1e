"""A panel of the bench: what the selected cells express, module by module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm_lab as sl

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event


class ModuleProfile:
    """Mean score of each gene module, in the selected cells and in all of them."""

    title = "Module profile"
    esm = Path(__file__).with_name("panel.js")

    def __init__(self, session: Any) -> None:
        self.session = session
        self._scores: np.ndarray | None = None
        #: Grows when the cells are others: scores of those before, which a job may be computing, are not kept.
        self._version = 0
        session.on_cells.append(self._follow_cells)
        self._modules: list[str] = []

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``{"of": "selection"}``, or ``{"of": "highest", "module": name}``.

        Returns
        -------
        For the selection ``modules`` (names), ``selected`` and ``all`` (means, one per module) and ``n`` (cells selected).
        For the highest ``n`` and, as a buffer, one byte per cell: 1 for the tenth of the cells with the highest scores.
        Either as a future as long as the scores are not there: a model is opened and reads all cells, which the notebook does
        not wait for.
        """
        asked = message.get("of")
        if asked == "highest":
            return self._once_scored(lambda scores: self._highest(scores, str(message.get("module"))))
        if asked != "selection":
            raise ValueError('this panel answers {"of": "selection"} and {"of": "highest", "module": name}')
        # Who is selected is read here: by the time the scores are there it may be others.
        selected = np.asarray(self.session.selection, dtype=bool)
        return self._once_scored(lambda scores: self._profile(scores, selected))

    def _follow_cells(self, changed: set[tuple[str, str]]) -> None:
        """Somebody has changed the cells in Python; columns and planes have no part in the scores."""
        if {kind for kind, _ in changed} & {"genes", "counts"}:
            self._version += 1
            self._scores = None

    def _once_scored(self, tell: Callable[[np.ndarray], Any]) -> Any:
        """What is told of the scores: at once where they are there, else by a job that shows how far it is and can be stopped."""
        known = self._scores
        if known is not None:
            return tell(known)

        def work(progress: Callable[..., None], cancel: Event) -> Any:
            return tell(self.scores(progress, cancel))

        # A lane: of several questions that wait, only the newest is answered.
        return self.session.submit("modules", work, label="Scoring modules", lane="modules", quiet=True, of="")

    def _profile(self, scores: np.ndarray, selected: np.ndarray) -> dict[str, Any]:
        # Nothing selected means everything: a profile of no cells tells nothing.
        rows = selected if selected.any() else np.ones(len(scores), dtype=bool)
        return {
            "modules": self._modules,
            "selected": np.nanmean(scores[rows], axis=0).round(4).tolist(),
            "all": np.nanmean(scores, axis=0).round(4).tolist(),
            "n": int(rows.sum()),
        }

    def _highest(self, scores: np.ndarray, module: str) -> tuple[dict[str, Any], list[bytes]]:
        if module not in self._modules:
            raise ValueError(f"there is no module {module!r}; there are {', '.join(self._modules)}")
        values = scores[:, self._modules.index(module)]
        mask = values >= np.nanquantile(values, 0.9)
        return {"n": int(mask.sum())}, [mask.astype(np.uint8).tobytes()]

    def scores(self, progress: Callable[..., None] | None = None, cancel: Event | None = None) -> np.ndarray:
        """Cells × modules, float32; computed once, until the genes or counts are others.

        Parameters
        ----------
        progress, cancel
            As a job is given them by ``session.submit``.
        """
        known, version = self._scores, self._version
        if known is None:
            model = sl.load_model("example.modules", device="cpu")
            tokens = model.tokenize(self.session.adata)
            # The engine looks at `cancel` between batches and raises where it is set.
            states = model.encode(
                tokens,
                progress=progress and (lambda done, total, *_: progress(done, total, "scoring the cells")),
                cancel=cancel,
            )
            known, self._modules = states.cell, list(model.modules)
            if version == self._version:
                self._scores = known
        return known
