"""Which cells a fine-tuned model was trained on: an evaluation on those says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.naming import named
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.score import Score
    from scfm_lab.models.contract import Model

#: Strongest use first: a cell that was in several fine-tunings counts as what it was used for most.
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, repr=False)
class Overlap(Result):
    """Cells that took part in a model's fine-tuning, or in that of a model it was made from.

    Attributes
    ----------
    parts
        ``"train"``, ``"validation"``, ``"test"`` or ``""`` for each cell.
    known
        Whether the model has a record of its cells; what a pre-trained model saw is not on record.
    """

    model: str
    parts: NDArray[Any]
    known: bool

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Whether the model was trained on each cell, or the cell decided when training stopped."""
        return np.asarray(np.isin(self.parts, ("train", "validation")))

    @property
    def share(self) -> float:
        """Share of the cells that the model was trained on, or that decided when training stopped."""
        return float(self.trained.mean()) if len(self.parts) else 0.0

    @property
    def table(self) -> pd.DataFrame:
        """One row per part: part, n_cells, share."""
        import pandas as pd

        rows = [(part or "not seen", int((self.parts == part).sum())) for part in (*PARTS, "")]
        return pd.DataFrame(
            [{"part": part, "n_cells": n, "share": n / max(len(self.parts), 1)} for part, n in rows],
        )

    def summary(self) -> str:
        """How many cells the model has seen."""
        if not self.known:
            return (
                f"{self.model} has no record of the cells it was trained on; whether these are among them is not known."
            )
        counts = {part: int((self.parts == part).sum()) for part in PARTS}
        if not any(counts.values()):
            return f"None of the {len(self.parts):,} cells took part in the fine-tuning of {self.model}."
        return (
            f"Of {len(self.parts):,} cells {counts['train']:,} were trained on by {self.model}, {counts['validation']:,} decided "
            f"when it stopped, and {counts['test']:,} were its test cells; scores on the first two say nothing."
        )

    def plot(self) -> Any:
        """Cells by part (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_bar()
            .encode(x=alt.X("n_cells:Q", title="cells"), y=alt.Y("part:N", sort=None, title=None))
        )

    def require_none(self) -> None:
        """Refuse cells that the model was trained on.

        Raises
        ------
        DataError
            There are such cells.
        """
        seen = int(self.trained.sum())
        if seen:
            raise DataError(
                f"{seen:,} of the {len(self.parts):,} cells were used to train {self.model}; leave them out "
                "(overlap(model, adata).parts says which), or evaluate on other cells."
            )


def overlap(model: Model, adata: AnnData, *, layer: str | None = None, options: Any = None) -> Overlap:
    """Which cells took part in a model's fine-tuning.

    Cells are told by their counts: by all of them, or by those of the genes that the model knows. A file with other counts of
    the same cells (fewer genes, other processing) is not recognised.

    Parameters
    ----------
    model
        An opened model.
    adata
        Cells with raw counts.

    Returns
    -------
    Overlap

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from scfm_lab.evaluation.overlap import overlap
    >>> overlap(sl.load_model("starter"), sl.datasets.load("pbmc68k")).known
    False
    """
    from scfm_lab.training.finetune_record import known_keys

    full = model.check_options(options)
    cells = model.read_cells(adata, layer=layer, options=full)
    parts = np.full(len(cells), "", dtype=object)
    tunings = model.finetuning.chain if model.finetuning is not None else []
    if tunings:
        keys, known = cells.keys, known_keys(model, cells, full)
        # Cells without counts on the model's genes are all alike, and told by all their counts only.
        visible = np.asarray(model.tokenize(cells, options=full).genes_seen) > 0
        for part in reversed(PARTS):
            for tuning in tunings:
                hit = np.isin(keys, tuning.cells.get(part, np.empty(0, np.uint64)))
                hit |= np.isin(known, tuning.cells.get(f"{part}.known", np.empty(0, np.uint64))) & visible
                parts[hit] = part
    recorded = any(tuning.cells for tuning in tunings)
    return Overlap(model.version or model.name, parts, recorded)


def trained_on(
    model: Model, adata: AnnData, *, layer: str | None = None, options: Mapping[str, Any] | None = None
) -> NDArray[np.bool_]:
    """Which cells stand in a model's training record: it was trained on them, or they decided when training stopped.

    Nothing is read of the cells where the model has no record.
    """
    if getattr(model, "finetuning", None) is None:
        return np.zeros(adata.n_obs, dtype=bool)
    return overlap(model, adata, layer=layer, options=options).trained


def check_unseen(
    models: Iterable[Model],
    adata: AnnData,
    *,
    seen: str = "refuse",
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Refuse to score models on cells of their training record, or say what their scores must be flagged with.

    Parameters
    ----------
    models
        Opened models.
    adata
        The cells that are scored.
    seen
        ``"refuse"``, or ``"flag"``: score all the same, and say so with every score.

    Returns
    -------
    dict
        What the model is called (:func:`~scfm_lab.evaluation.naming.named`) → remark, for those that have seen some of the
        cells.

    Raises
    ------
    DataError
        A model was trained on some of the cells, and `seen` is ``"refuse"``.
    """
    if seen not in ("refuse", "flag"):
        raise DataError(
            f"seen is {seen!r}; cells of a model's training record are refused ('refuse') or flagged ('flag')."
        )
    flags: dict[str, str] = {}
    for name, model in named(models).items():
        trained = trained_on(model, adata, layer=layer, options=options)
        n = int(trained.sum())
        if not n:
            continue
        if seen == "refuse":
            raise DataError(
                f"{n:,} of the {len(trained):,} cells to be scored are in the training record of {model.version or model.name}, so "
                "that a score on them says nothing; leave them out (scfm_lab.evaluation.overlap tells which), or have the score "
                "flagged with seen='flag'."
            )
        flags[name] = f"Flagged: {n:,} of the {len(trained):,} scored cells are in its training record"
    return flags


def flagged(scores: Iterable[Score], flags: Mapping[str, str]) -> tuple[Score, ...]:
    """Scores with the remark that :func:`check_unseen` gave for their model."""
    return tuple(
        replace(s, remark=". ".join(filter(None, [flags[s.model], s.remark]))) if s.model in flags else s
        for s in scores
    )
