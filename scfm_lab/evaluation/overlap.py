"""Which cells a model was trained on, as far as it is on record: an evaluation on those says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.naming import named
from scfm_lab.models.training_cells import trained_cells
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.evaluation.score import Score
    from scfm_lab.models.contract import Model

#: Strongest use first: a cell that was in several trainings counts as what it was used for most.
PARTS = ("train", "validation", "test")
#: Cells that are read at once: those of a file need not fit into memory.
_AT_ONCE = 50_000
#: Uses that decided what a model became.
TRAINED = PARTS[:2]
#: Genes that a cell must express among those that two files share, to be told by these alone: few are soon the same by chance.
_FEWEST_SHARED = 20


@dataclass(frozen=True, repr=False)
class Overlap(Result):
    """Cells that took part in a model's training, or in that of a model it was made from.

    Attributes
    ----------
    parts
        ``"train"``, ``"validation"``, ``"test"`` or ``""`` for each cell.
    known
        Whether the model has a record of its cells: the shipped models have, what was fine-tuned here has; a published file
        does not say which cells it was trained on.
    complete
        Whether all of its training is on record: not what a published file was trained on, nor a user's own run.
    """

    model: str
    parts: NDArray[Any]
    known: bool
    complete: bool = True

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Whether the model was trained on each cell, or the cell decided when training stopped."""
        return np.asarray(np.isin(self.parts, TRAINED))

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
        rest = "" if self.complete else " Not all of its training is on record."
        if not any(counts.values()):
            return f"None of the {len(self.parts):,} cells is in the training record of {self.model}.{rest}"
        return (
            f"Of {len(self.parts):,} cells {counts['train']:,} were trained on by {self.model}, {counts['validation']:,} decided "
            f"when it stopped, and {counts['test']:,} were its test cells; scores on the first two say nothing.{rest}"
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
    """Which cells took part in a model's training: of a shipped one, and of each fine-tuning that led to it.

    Cells are told by their counts: by all of them, or by those of the genes that the model knows. A file with other counts of
    the same cells (fewer of those genes, other processing) is not recognised.

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
    >>> seen = overlap(sl.load_model("starter"), sl.datasets.load("pbmc68k"))
    >>> seen.known, seen.share
    (True, 0.0)
    """
    full = model.check_options(options)
    read = model.cell_reader(adata, layer=layer, options=full)
    parts = [_parts(model, read(slice(at, at + _AT_ONCE)), full) for at in range(0, adata.n_obs, _AT_ONCE)]
    return Overlap(
        model.version or model.name,
        np.concatenate([np.empty(0, object), *parts]),
        known=bool(_records(model)),
        complete=_complete(model),
    )


def _parts(model: Model, cells: Cells, options: Mapping[str, Any]) -> NDArray[Any]:
    from scfm_lab.training.finetune_record import NOTHING_KNOWN, known_keys

    parts = np.full(len(cells), "", dtype=object)
    records = _records(model)
    if not records:
        return parts
    keys, known = cells.keys, known_keys(model, cells, options)
    for part in reversed(PARTS):
        for record in records:
            hit = np.isin(keys, record.get(part, np.empty(0, np.uint64)))
            # Cells without counts on the model's genes are all alike, and told by all their counts only.
            hit |= np.isin(known, record.get(f"{part}.known", np.empty(0, np.uint64))) & (known != NOTHING_KNOWN)
            parts[hit] = part
    return parts


def _records(model: Model) -> list[dict[str, NDArray[np.uint64]]]:
    """Digests of cells by part, of each training that is on record."""
    tunings = model.finetuning.chain if model.finetuning is not None else []
    return [*(tuning.cells for tuning in tunings if tuning.cells), *trained_cells(model)]


def trained_on(
    model: Model, adata: AnnData, *, layer: str | None = None, options: Mapping[str, Any] | None = None
) -> NDArray[np.bool_]:
    """Which cells stand in a model's training record: it was trained on them, or they decided when training stopped.

    Nothing is read of the cells where the model has no record.
    """
    if not _records(model):
        return np.zeros(adata.n_obs, dtype=bool)
    return overlap(model, adata, layer=layer, options=options).trained


def _complete(model: Model) -> bool:
    """Whether the cells of each training that led to a model are on record."""
    tunings = model.finetuning.chain if model.finetuning is not None else []
    return 0 < len(model.learnt_from) == len(trained_cells(model)) and all(tuning.cells for tuning in tunings)


def trained_among(model: Model, cells: Cells, options: Mapping[str, Any] | None = None) -> NDArray[np.bool_]:
    """As :func:`trained_on`, of cells that were read already."""
    return np.asarray(np.isin(_parts(model, cells, model.check_options(options)), TRAINED))


def also_in(query: AnnData, reference: AnnData, *, layer: str | None = None) -> NDArray[np.bool_]:
    """Which cells of a query are among those of a reference too: what is labelled after itself is always right.

    Cells are told by their counts of the genes that both files have. Those of which these tell too little (no counts, few shared
    genes) are not among them, and none is where one of the files has no raw counts.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from scfm_lab.evaluation.overlap import also_in
    >>> cells = sl.datasets.load("pbmc68k")
    >>> int(also_in(cells[:20], cells[15:]).sum())
    5
    """
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.evaluation.once import CANNOT_BE_HAD

    try:
        here, there = (CellReader.open(adata, layer=layer) for adata in (query, reference))
        shared = np.intersect1d(here.genes.hashes, there.genes.hashes)
        fewest = 1 if len(shared) == len(here.genes) == len(there.genes) else _FEWEST_SHARED
        known = np.unique(np.concatenate(list(_shared_keys(there, shared, fewest))))
        return np.concatenate([np.isin(keys, known[known > 0]) for keys in _shared_keys(here, shared, fewest)])
    # What reads these cells to label them says what they lack.
    except CANNOT_BE_HAD:
        return np.zeros(query.n_obs, dtype=bool)


def _shared_keys(reader: CellReader, shared: NDArray[np.uint64], fewest: int) -> Iterator[NDArray[np.uint64]]:
    """Digests of cells by some genes, part by part; 0 of those that express fewer than `fewest` of them."""
    from scfm_lab.cells.digest import cell_keys

    columns = np.flatnonzero(np.isin(reader.genes.hashes, shared))
    for at in range(0, len(reader), _AT_ONCE):
        counts = reader(slice(at, at + _AT_ONCE)).counts
        if len(columns) < counts.shape[1]:
            counts = counts[:, columns]
        keys = cell_keys(counts, reader.genes.hashes[columns])
        yield np.where(np.diff(counts.indptr) >= fewest, keys, np.uint64(0))


def check_apart(query: AnnData, reference: AnnData, *, seen: str = "refuse", layer: str | None = None) -> str:
    """Refuse to score cells that are learned from too, or say what every score of theirs must be flagged with; empty without any.

    Raises
    ------
    DataError
        There are such cells, and `seen` is ``"refuse"``.
    """
    check_choice(seen)
    n = int(also_in(query, reference, layer=layer).sum())
    if not n:
        return ""
    if seen == "refuse":
        raise DataError(
            f"{n:,} of the {query.n_obs:,} cells to be scored are among the reference cells too, so that a score on them says nothing; "
            "leave them out (scfm_lab.evaluation.overlap.also_in tells which), or have the score flagged with seen='flag'."
        )
    return f"Flagged: {n:,} of the {query.n_obs:,} scored cells are among the reference cells too, which flatters every method"


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
    check_choice(seen)
    flags: dict[str, str] = {}
    for name, model in named(models).items():
        trained = trained_on(model, adata, layer=layer, options=options)
        if told := check_counted(model.version or model.name, int(trained.sum()), len(trained), seen=seen):
            flags[name] = told
    return flags


def check_counted(model: str, trained: int, cells: int, *, seen: str = "refuse") -> str:
    """As :func:`check_unseen`, where it was counted before how many of the scored cells stand in the model's training record.

    Returns
    -------
    str
        The remark; empty where there are none.

    Raises
    ------
    DataError
        There are some, and `seen` is ``"refuse"``.
    """
    check_choice(seen)
    if not trained:
        return ""
    if seen == "refuse":
        raise DataError(
            f"{trained:,} of the {cells:,} cells to be scored are in the training record of {model}, so that a score on them says "
            "nothing; leave them out (scfm_lab.evaluation.overlap tells which), or have the score flagged with seen='flag'."
        )
    return f"Flagged: {trained:,} of the {cells:,} scored cells are in its training record"


def check_choice(seen: str) -> None:
    """Refuse a `seen` that is neither ``"refuse"`` nor ``"flag"``."""
    if seen not in ("refuse", "flag"):
        raise DataError(
            f"seen is {seen!r}; cells of a model's training record are refused ('refuse') or flagged ('flag')."
        )


def flagged(scores: Iterable[Score], flags: Mapping[str, str]) -> tuple[Score, ...]:
    """Scores with the remark that :func:`check_unseen` gave for their model."""
    return tuple(
        replace(s, remark=". ".join(filter(None, [flags[s.model], s.remark]))) if s.model in flags else s
        for s in scores
    )
