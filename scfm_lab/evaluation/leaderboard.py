"""All models on a lab's own data: every question that the data allows, each score between floor and ceiling."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import Cells, check_cell_names, column_of
from scfm_lab.cells.given import check_given
from scfm_lab.errors import Cancelled, DataError, ModelError, ScfmError, StorageError, did_you_mean
from scfm_lab.evaluation.leaderboard_parts import USUAL, Columns, Part, parts
from scfm_lab.evaluation.leaderboard_store import Finished, Store
from scfm_lab.evaluation.naming import Identity, on_record, told_apart
from scfm_lab.evaluation.once import floors_kept
from scfm_lab.evaluation.score import Score, Scores
from scfm_lab.results import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from scfm_lab.models.contract import Model

_FORMAT = 6


@dataclass(frozen=True, repr=False)
class Leaderboard(Result):
    """Scores of several models on the same cells, part by part."""

    finished: tuple[Finished, ...]
    left_out: pd.DataFrame
    """part (empty: all of them) or column, model (empty: all of them), why."""
    titles: dict[str, str]
    """Part → what it asks."""
    provenance: dict[str, Any]

    def scores(self, part: str) -> Scores:
        """Scores of one part, floors once, best first within each metric; models of one name by their versions.

        Raises
        ------
        DataError
            The part has none.
        """
        called = told_apart(one.identity for one in self.finished)
        found: dict[tuple[str, str], Score] = {}
        for one in self.finished:
            for score in one.scores if one.part == part else ():
                own, *more = score.model.split(" + ")
                name = " + ".join([called[one.identity] if own == one.model else own, *more])
                found.setdefault((score.metric, name), replace(score, model=name))
        if not found:
            known = ", ".join(dict.fromkeys(one.part for one in self.finished)) or "none"
            raise DataError(f"There are no scores of {part!r}; parts here: {known}.")
        metrics = list(dict.fromkeys(metric for metric, _ in found))
        ordered = sorted(found.values(), key=lambda s: (metrics.index(s.metric), _badness(s)))
        # Those of the data are the same for every model, and told once.
        notes = dict.fromkeys(note for one in self.finished if one.part == part for note in one.notes)
        return Scores(tuple(ordered), title=self.titles.get(part, part), notes=tuple(notes))

    @property
    def parts(self) -> list[str]:
        """Parts that have scores, in the order of the page."""
        there = {one.part for one in self.finished}
        return [part for part in self.titles if part in there]

    @property
    def table(self) -> pd.DataFrame:
        """The scores of all parts: part, then the columns of :class:`~scfm_lab.evaluation.score.Scores`."""
        import pandas as pd

        tables = [self.scores(part).table.assign(part=part) for part in self.parts]
        columns = ["part", *Score("", "", 0.0).row()]
        return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)

    def summary(self) -> str:
        """Each part's scores in a line each with its notes, and what was left out and why."""
        lines = []
        for part in self.parts:
            scores = self.scores(part)
            lines += [f"{self.titles[part]} ({part})", *(f"  {score}." for score in scores)]
            lines += [f"  {note}" for note in scores.notes]
        if not self.finished:
            lines.append("No part could be scored.")
        again = sum(one.resumed for one in self.finished)
        if again:
            lines.append(f"{again} of {len(self.finished)} parts were finished before and are not computed anew.")
        for row in self.left_out.itertuples():
            lines.append(f"Left out: {' of '.join(filter(None, [row.part, row.model]))}: {row.why}")
        lines.append(
            "There is no overall rank: parts ask different questions, and a model that is no better than the floor adds nothing there."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Each part's scores on bars from floor to ceiling, one below the other (Altair)."""
        from scfm_lab.results import charts

        alt = charts()
        if not self.parts:
            raise DataError("No part could be scored; there is nothing to draw.")
        return alt.vconcat(*[self.scores(part).plot().properties(title=self.titles[part]) for part in self.parts])

    def to_json(self) -> dict[str, Any]:
        """Give the table, what was left out, and the runs that keep the scores."""
        runs = [{"part": one.part, "version": one.version, "run": one.run} for one in self.finished if one.run]
        return {
            **super().to_json(),
            "notes": {part: list(self.scores(part).notes) for part in self.parts},
            "left_out": self.left_out.to_dict(orient="records"),
            "runs": runs,
            "resumed": sum(one.resumed for one in self.finished),
            "provenance": self.provenance,
        }


@floors_kept()
def leaderboard(
    adata: AnnData,
    models: Model | str | Path | Sequence[Model | str | Path] | None = None,
    *,
    parts: str | Sequence[str] | None = None,
    labels_key: str | None = None,
    batch_key: str | None = None,
    sample_key: str | None = None,
    stage_key: str | None = None,
    root: str | None = None,
    perturbation_key: str | None = None,
    control: str = "control",
    layer: str | None = None,
    record: bool = True,
    resume: str | Path | None = None,
    fresh: bool = False,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> Leaderboard:
    """Score models on annotation, clustering, integration, trajectory and perturbation, as far as the data allows.

    Each part of each model is kept as soon as it is finished: the same call goes on after a kill, and a model that is added
    later does not have the others computed again.

    Parameters
    ----------
    adata
        With raw counts.
    models
        Models or sources; None: all models of the registry that give vectors.
    parts
        Some of ``"annotation"``, ``"clustering"``, ``"integration"``, ``"trajectory"``, ``"perturbation"``; None: all.
    labels_key, batch_key, sample_key, stage_key, perturbation_key
        Columns of ``obs``. Where one is None, a column that is called as usual (``cell_type``, ``batch``, ``donor``,
        ``stage_order``, ``perturbation``) is taken if it is there.
    root
        Cell or group where the trajectory begins; None: the group with the lowest mean stage.
    control
        Name of the control cells among the perturbations.
    record
        Whether scores of registered versions are kept in the registry as evaluations of these versions.
    resume
        Folder for finished parts; None: one in the data directory.
    fresh
        Compute everything anew.
    progress
        ``progress(done, total, note)``, by parts.

    Returns
    -------
    Leaderboard
        ``left_out`` tells which parts the data does not allow, which models cannot be opened, what a model cannot do, and what
        was refused, as where a model was trained on these very cells.

    Raises
    ------
    DataError
        A column or part that was named is not there.
    ModelError
        No model can be opened, or there is none.
    StorageError
        A finished part cannot be kept.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")[::3].copy()
    >>> board = sl.evaluate.leaderboard(cells, "pca", parts="clustering", record=False)
    >>> board.parts
    ['clustering']
    """
    check_given(adata, function="sl.evaluate.leaderboard", call="sl.evaluate.leaderboard(adata, models)")
    check_cell_names(adata)
    started = time.perf_counter()
    asked = _asked(parts)
    given = {
        "labels_key": labels_key,
        "batch_key": batch_key,
        "sample_key": sample_key,
        "stage_key": stage_key,
        "perturbation_key": perturbation_key,
    }
    columns, left = _columns(adata, given, root=root, control=control, layer=layer)
    sources = _sources(models)
    digest = _data_digest(adata, columns)
    store = Store.at(resume)
    usable = []
    for part in asked:
        why = part.missing(adata, columns)
        if why:
            left.append((part.name, "", f"{why}."))
        else:
            usable.append(part)
    done: list[Finished] = []
    total = len(sources) * len(usable)
    closed: list[ScfmError] = []
    for i, source in enumerate(sources):
        try:
            model = _opened(source, record)
        except StorageError:
            raise
        except ScfmError as error:
            left.append(("", str(source), str(error)))
            closed.append(error)
            continue
        for j, part in enumerate(usable):
            if cancel is not None and cancel.is_set():
                raise Cancelled(
                    f"Stopped on request; {len(done)} finished parts are kept, and the same call goes on from there."
                )
            if progress is not None:
                progress(i * len(usable) + j, total, f"{part.name} of {model.name}")
            try:
                model.require(part.ability)
                found = _finished(store, part, model, adata, columns, digest, seed, fresh)
            except StorageError:
                raise
            except ScfmError as error:
                left.append((part.name, model.version or model.name, str(error)))
                continue
            done.append(_recorded(store, found, digest) if record and model.registered_as else found[1])
    if closed and len(closed) == len(sources):
        raise closed[0]
    if progress is not None and total:
        progress(total, total, "")
    import pandas as pd

    used = {f.name: getattr(columns, f.name) for f in fields(columns) if getattr(columns, f.name)}
    return Leaderboard(
        finished=tuple(done),
        left_out=pd.DataFrame(left, columns=["part", "model", "why"]),
        titles={part.name: part.title for part in asked},
        provenance={
            "task": "evaluate.leaderboard",
            "models": on_record(one.identity for one in done),
            "cells": adata.n_obs,
            "genes": adata.n_vars,
            "data_digest": digest,
            "columns": used,
            "seed": seed,
            "packages": provenance.package_versions(),
            "seconds": time.perf_counter() - started,
        },
    )


def _asked(names: str | Sequence[str] | None) -> list[Part]:
    known = parts()
    wanted = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise DataError(f"There is no part {name!r}; parts: {', '.join(known)}.{did_you_mean(name, known)}")
    return [part for part in known.values() if part.name in wanted]


def _columns(
    adata: AnnData, given: Mapping[str, str | None], *, root: str | None, control: str, layer: str | None
) -> tuple[Columns, list[tuple[str, str, str]]]:
    """What the data offers, and usual columns that are left out."""
    keys: dict[str, str | None] = {}
    left = []
    for what, name in given.items():
        if name is None:
            there = {one: int(adata.obs[one].isna().sum()) for one in USUAL[what] if one in adata.obs}
            keys[what] = next((one for one, missing in there.items() if not missing), None)
            if keys[what] is None:
                why = "{} of {:,} cells have no value in it, so that it is not taken as {}; fill or drop those cells first."
                left += [(f"obs[{one!r}]", "", why.format(n, adata.n_obs, what)) for one, n in there.items()]
        else:
            column_of(adata, name, what=f"The column of {what}")
            keys[what] = name
    columns = Columns(**keys, root=root, control=control, layer=layer)
    if root is None and columns.stage_key and columns.labels_key:
        import pandas as pd

        from scfm_lab.tasks.trajectory import known_stages

        # Stages without an order, and one stage only, are told where the part is left out.
        with contextlib.suppress(DataError):
            stage = pd.Series(known_stages(adata, columns.stage_key), index=adata.obs_names)
            first = str(stage.groupby(adata.obs[columns.labels_key].astype(str)).mean().idxmin())
            columns = replace(columns, root=f"group:{first}" if first in adata.obs_names else first)
    return columns, left


def _sources(models: Any) -> list[Any]:
    from pathlib import Path

    from scfm_lab.models.contract import Model
    from scfm_lab.training.tracking import tracker

    if models is None:
        found = list(tracker().versions())
        if not found:
            raise ModelError("The registry has no model that gives vectors; import one, or name models.")
        return found
    return [models] if isinstance(models, (str, Path, Model)) else list(models)


def _opened(source: Any, record: bool) -> Model:
    """The model; a plain name is the registry's where it has one of that name, so that scores find their version."""
    from scfm_lab.models.load import as_model
    from scfm_lab.training.tracking import tracker

    if record and isinstance(source, str) and not {"/", ":"} & set(source):
        # Where no registry can be used the model itself still can.
        with contextlib.suppress(ScfmError):
            source = getattr(tracker(), "source_of", str)(source)
    return as_model(source)


def _data_digest(adata: AnnData, columns: Columns) -> str:
    """Of the counts and of the columns that are read."""
    from scfm_lab.cells.data_digest import digest_of

    cells = Cells.from_anndata(adata, layer=columns.layer)
    told = [adata.obs[name].astype(str).to_numpy(dtype=object) for name in columns.used()]
    return digest_of(cells, list(zip(*told, strict=True)) if told else None)


def _finished(
    store: Store,
    part: Part,
    model: Model,
    adata: AnnData,
    columns: Columns,
    digest: str,
    seed: int,
    fresh: bool,
) -> tuple[str, Finished]:
    """A part of a model as it was kept, else computed and kept now."""
    from scfm_lab import __version__
    from scfm_lab.tasks.journal import digest as key_of

    identity = {
        "format": _FORMAT,
        "part": part.name,
        "data": digest,
        "columns": asdict(columns),
        "model": [*Identity.of(model), model.spec.family],
        "seed": seed,
        "scfm-lab": __version__,
    }
    key = key_of(identity)
    kept = None if fresh else store.read(key)
    if kept is not None:
        return key, kept
    started = time.perf_counter()
    scores, notes = part.run(adata, model, columns, seed)
    seconds = time.perf_counter() - started
    found = Finished(part.name, Identity.of(model), tuple(scores), seconds, resumed=False, notes=tuple(notes))
    store.write(key, found)
    return key, found


def _recorded(store: Store, kept: tuple[str, Finished], digest: str) -> Finished:
    """The part of a registered version with its scores in the registry; kept once."""
    from scfm_lab.training.tracking import tracker

    key, found = kept
    own = [s for s in found.scores if s.model == found.model and np.isfinite(s.value)]
    keep = getattr(tracker(), "record", None) if own and not found.run else None
    if keep is None:
        return found
    found = replace(found, run=str(keep(found.version, own, data_digest=digest)))
    store.write(key, found)
    return found


def _badness(score: Score) -> float:
    if not np.isfinite(score.value):
        return np.inf
    return -score.value if score.higher_is_better else score.value
