"""What the panels of a bench share: the cells, the model, the plane, the results, and one thread to work in."""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scfm_lab.errors import Cancelled, DataError, ModelError, ScfmError, did_you_mean
from scfm_widgets.checks import has_groups
from scfm_widgets.codec import Frame
from scfm_widgets.columns import Columns
from scfm_widgets.shelf import Shelf
from scfm_widgets.twin import TITLE, TWIN, twin_plane
from scfm_widgets.watch import COUNTS, GENES, VALUES, Watch
from scfm_widgets.worker import Job, Worker, abandonable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from scfm_lab.cells.genes import Genes
    from scfm_lab.models.contract import Model
    from scfm_lab.results import Result
    from scfm_widgets.watch import Thing

#: Most messages that stand on the screen together; older ones go.
_MAX_FAULTS = 4
#: Before the key of vectors: the plane of their first two principal components.
PRINCIPAL = "pca:"
#: The view of the bench that has asked what is answered now: its jobs take no other view's place.
ASKER: ContextVar[str] = ContextVar("asker", default="")
#: Most runs of which the history tells.
_MAX_RUNS = 20


class Board(Protocol):
    """What a session needs of the widget: its public state, and a way to tell the browser."""

    state: dict[str, Any]
    doses: dict[str, float]
    selection: Any

    def publish(self, **traits: Any) -> None:
        """Set several traits as one message; may be called from any thread."""


class Session:
    """What the panels share.

    Parameters
    ----------
    adata
        The cells. Tasks add their results to it under new keys; nothing else in it is changed.
    board
        The widget.

    Attributes
    ----------
    adata
        The cells.
    found
        Records of what scfm-lab had written to them before the bench was opened, by key.
    columns
        What can colour and group them.
    results
        The newest result of each task: ``"embed"``, ``"perturb"``, ``"trajectory"``.
    layout
        Key in ``obsm`` of the plane that is shown, or ``None``.
    frame
        Where that plane lies in the browser's unit square.
    newest
        Which of the results is the newest.
    on_result
        Called with task and result when a result is set from Python or by another panel.
    on_layout
        Called when another plane is shown.
    on_second
        Called when the plane beside it changes.
    on_cells
        Called with what of the cells was changed by somebody else; see :meth:`look_again`.
    watch
        What of the cells has been told.
    """

    def __init__(self, adata: AnnData, board: Board) -> None:
        self.adata = adata
        written = adata.uns.get("scfm")
        self.found: dict[str, Any] = dict(written) if hasattr(written, "keys") else {}
        self.columns = Columns(adata)
        self.watch = Watch(adata)
        self.watch.note(GENES, COUNTS, VALUES)
        self._n = adata.n_obs
        self.results: dict[str, Result] = {}
        self.layout: str | None = None
        self.frame = Frame.around(np.zeros((0, 2)))
        self._board = board
        self.newest: str | None = None
        self.shelf = Shelf()
        self._worker = Worker(self._report)
        # Its numbers are no jobs' of the other one: what is stopped is the one that is shown.
        self._reader = Worker(self._report_reading, first=1_000_000)
        #: Of the last that was told.
        self._shown_job = 0
        self._faults: list[dict[str, Any]] = []
        self._fault_ids = 0
        self._versions = 0
        self.on_result: list[Callable[[str, Result], None]] = []
        self.on_layout: list[Callable[[], None]] = []
        self.on_second: list[Callable[[], None]] = []
        self.on_cells: list[Callable[[set[Thing]], None]] = []
        self.second_frame: Frame | None = None
        self._plane: tuple[Any, NDArray[np.float64]] | None = None
        self._runs: list[dict[str, Any]] = []
        #: Models as the Models panel has read them last.
        self.listed: list[dict[str, Any]] = []
        #: The last screen of selected cells here, and which those were.
        self.screened: tuple[Result, NDArray[np.bool_]] | None = None

    # ------------------------------------------------------------------------------- shared state

    @property
    def state(self) -> dict[str, Any]:
        """The bench's small state; assign a whole dictionary to change it."""
        return self._board.state

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        self._board.state = dict(value)

    @property
    def doses(self) -> dict[str, float]:
        """Gene → dose; assign to compute the effect."""
        return self._board.doses

    @doses.setter
    def doses(self, value: Mapping[str, float]) -> None:
        self._board.doses = dict(value)

    @property
    def selection(self) -> NDArray[np.bool_]:
        """Selected cells, one bool each; assign a mask, positions or names of cells."""
        selected: NDArray[np.bool_] = self._board.selection
        return selected

    @selection.setter
    def selection(self, value: ArrayLike | None) -> None:
        self._board.selection = value

    @property
    def model(self) -> Model | None:
        """The model that is picked, if it has been opened already."""
        return self.shelf.get(self.state.get("model") or "")

    @property
    def result(self) -> Result | None:
        """The newest result."""
        return self.results.get(self.newest or "")

    def add_result(self, task: str, result: Result) -> None:
        """Keep a result as the newest of its task and show it."""
        self.results[task] = result
        self.newest = task
        for show in self.on_result:
            show(task, result)
        self.publish(_data_version=self.next_version())

    # ----------------------------------------------------------------------------------- models

    def open_model(self, source: str, cancel: threading.Event | None = None) -> Model:
        """Open a model, or give it where it is open already. Takes long: call it from a job.

        Parameters
        ----------
        source
            As for :func:`scfm_lab.load_model`.
        cancel
            Once set it is not waited for any more. What has been begun comes to its end all the same, and is there when
            the model is asked for again.

        Raises
        ------
        ModelError
            It is unknown or its files are damaged.
        Cancelled
            `cancel` was set.
        """
        known = self.shelf.get(source)
        if known is not None:
            return known
        return abandonable(lambda: self.shelf.open(source), cancel or threading.Event())

    def version_of(self, source: str) -> str | None:
        """The version in the registry, ``name/3``, that a source meant when it was picked, or means now; else ``None``."""
        return self.shelf.version_of(source)

    def same_model(self, one: str, other: str) -> bool:
        """Whether two sources mean the same model: the same text, or the same version in the registry."""
        one, other = self.shelf.exact(one), self.shelf.exact(other)
        if one == other or any({one, other} <= set(row["sources"]) for row in self.listed):
            return True
        version = self.version_of(one)
        return version is not None and version == self.version_of(other)

    def is_picked(self, record: Mapping[str, Any]) -> bool:
        """Whether the model that is picked made what a record tells of."""
        from scfm_widgets.code import exact_source, opens_anew

        source = self.state.get("model")
        if not source:
            return False
        model = self.shelf.get(source)
        if model is not None and model.digest and record.get("weights_sha256"):
            told = (str(record["weights_sha256"]), str(record.get("settings_sha256") or model.settings_digest))
            return told == (model.digest, model.settings_digest)
        return opens_anew(record) and self.same_model(source, exact_source(record))

    def adopt(self, model: str | Model | None) -> str | None:
        """Take a model that is open already, or the source of one; give the source by which the bench calls it.

        Raises
        ------
        ModelError
            No model is called so.
        """
        if model is None:
            return None
        if isinstance(model, str):
            self.check_model(model)
            return model
        return self.shelf.adopt(model)

    def check_model(self, source: str) -> None:
        """Refuse the source of a model that is nowhere, as :func:`scfm_lab.load_model` does; no weights are opened."""
        from scfm_lab.models.load import check_source

        if self.shelf.get(source) is None:
            check_source(source)

    @cached_property
    def genes_by_id(self) -> dict[str, str]:
        """From Ensembl ids and symbols to the names of the genes."""
        names = [str(name) for name in self.genes.names]
        found: dict[str, str] = {}
        for other in (self.genes.ensembl, self.genes.symbols):
            if other is not None:
                found |= {str(key): name for key, name in zip(other, names, strict=True) if key}
        return found

    @property
    def genes(self) -> Genes:
        """Names, symbols and Ensembl ids of the genes that a dose can be given."""
        return self.columns.genes

    def groupby(self) -> str | None:
        """The column of ``obs`` whose groups effects are told for; ``None`` where it is not there, has gaps or no groups."""
        return self.grouping(self.state.get("groupby"))

    def grouping(self, name: Any) -> str | None:
        """A column of ``obs`` as the browser names it, by the rule of :meth:`groupby`: without groups cells stay together."""
        return str(name) if name and has_groups(self.adata, str(name)) else None

    def require_model(self) -> str:
        """Give the source of the model that is picked.

        Raises
        ------
        ModelError
            None is picked.
        """
        source = self.state.get("model")
        if not source:
            message = "No model is picked; pick one in the Models panel, or set lab.state = {'model': 'starter'}."
            raise ModelError(message)
        return str(source)

    # ------------------------------------------------------------------------- what others change

    def check_cells(self) -> None:
        """Refuse to answer for other cells than those the bench was opened with.

        Raises
        ------
        DataError
            There are more or fewer.
        """
        if self.adata.n_obs != self._n:
            message = (
                f"The AnnData has {self.adata.n_obs:,} cells now, and had {self._n:,} when this bench was opened; open a new one: "
                "Lab(adata)."
            )
            raise DataError(message)

    def look_again(self, *, at_all: bool = False) -> bool:
        """Follow what was changed of the cells in Python since it was told: columns, planes, genes, counts.

        Parameters
        ----------
        at_all
            Tell everything anew, also what seems to be as it was.

        Returns
        -------
        Whether anything was.

        Raises
        ------
        DataError
            There are more or fewer cells than when the bench was opened.
        """
        self.check_cells()
        changed = self.watch.changed()
        if not changed and not at_all:
            return False
        if at_all:
            changed |= {GENES, COUNTS, ("obsm", str(self.layout)), ("obs", str(self.state.get("groupby")))}
        if changed & {GENES, COUNTS, VALUES}:
            self.columns.forget()
        if changed & {GENES, COUNTS}:
            self.__dict__.pop("genes_by_id", None)
            self.publish(_plan={"model": None, "status": "none"})
        self.publish(_cells_version=self.next_version())
        if self.layout is not None and ("obsm", self.layout) in changed:
            # One that was taken away stays as it was shown.
            with suppress(DataError):
                self.use_layout(self.layout)
        second = self.state.get("second")
        if second and (at_all or ("obsm", second.removeprefix(PRINCIPAL)) in changed):
            self._plane = None
            with suppress(DataError):
                self.show_second(second)
        for follow in self.on_cells:
            follow(changed)
        return True

    # ------------------------------------------------------------------------------------- plane

    def layouts(self) -> list[dict[str, str]]:
        """Planes in ``obsm`` that can be shown: two columns, not a model's vectors."""
        found = []
        for key, values in self.adata.obsm.items():
            if _width(values) == 2:
                plane = _numbers(values)
                if plane is not None and np.isfinite(plane).any():
                    found.append({"key": str(key), "title": plane_title(str(key))})
        return sorted(found, key=lambda item: "umap" not in item["key"].lower())

    def all_planes(self) -> list[dict[str, Any]]:
        """Planes for the browser: those of :meth:`layouts`, and principal components that only the second plane offers."""
        wide = [str(key) for key, values in self.adata.obsm.items() if str(key).startswith("X_") and _width(values) > 2]
        twins = [{"key": f"{PRINCIPAL}{key}", "title": plane_title(f"X_pca_{key.removeprefix('X_')}")} for key in wide]
        for twin in twins:
            twin["title"] = twin["title"].replace("PCA of pca", "PCA")
        if twin_plane(self) is not None:
            twins.append({"key": TWIN, "title": TITLE})
        return [*self.layouts(), *({**twin, "second": True} for twin in twins)]

    def plane_at(self, key: str, *, twins: bool = False) -> NDArray[np.float64]:
        """Places of the cells at ``obsm[key]``, float (cells, 2).

        With `twins` also ``"pca:<key>"`` of vectors there, and ``"twin"``: where the trajectory's twin has them.

        Raises
        ------
        DataError
            There is no such plane.
        """
        wide = key.removeprefix(PRINCIPAL)
        if twins and key != wide and wide in self.adata.obsm:
            return self._principal(wide)
        counts = twin_plane(self) if twins and key == TWIN else None
        if counts is not None:
            return counts
        there = self.adata.obsm.get(key)
        values = _numbers(there) if _width(there) >= 2 else None
        if values is None:
            known = ", ".join(repr(item["key"]) for item in self.layouts()) or "none"
            message = f"obsm has no plane {key!r}; planes there: {known}.{did_you_mean(key, self.adata.obsm)}"
            raise DataError(message)
        return values[:, :2]

    def _principal(self, key: str) -> NDArray[np.float64]:
        """First two principal components of vectors; PCA's own are there already."""
        from scfm_lab.tasks.layout import principal_plane

        numbers = _numbers(self.adata.obsm[key])
        if numbers is None:
            message = f"obsm[{key!r}] holds more than numbers, so it has no principal components."
            raise DataError(message)
        if key == "X_pca":
            return numbers[:, :2]
        values = numbers.astype(np.float32)
        if self._plane is None or self._plane[0] is not self.adata.obsm[key]:
            self._plane = (self.adata.obsm[key], principal_plane(values).astype(np.float64))
        return self._plane[1]

    def use_layout(self, key: str) -> None:
        """Show the plane at ``obsm[key]``; what was before and after on another plane goes.

        Raises
        ------
        DataError
            There is no such plane.
        """
        self.watch.note(("obsm", key))
        plane = self.plane_at(key)
        self.layout = key
        self.publish(_layouts=self.all_planes(), state={**self.state, "layout": key})
        title = next((item["title"] for item in self.layouts() if item["key"] == key), key)
        self.show_plane(plane, title)
        for follow in self.on_layout:
            follow()

    def show_plane(self, plane: NDArray[np.floating[Any]], title: str) -> None:
        """Show places, float (cells, 2), as the base layout."""
        self.frame = Frame.around(plane)
        self.publish(
            _xy=self.frame.pack(plane),
            _xy_info=self._places(len(plane), extent=list(self.frame.extent), title=title),
            _after=b"",
            _after_info=self._places(0),
        )

    def show_second(self, key: str | None) -> None:
        """Show the plane at ``obsm[key]`` beside the first; ``None`` takes it away."""
        if key is None:
            self.second_frame = None
            self.publish(_second=b"", _second_info=self._places(0))
        else:
            self.watch.note(("obsm", key.removeprefix(PRINCIPAL)))
            plane = self.plane_at(key, twins=True)
            self.second_frame = Frame.around(plane)
            title = next((item["title"] for item in self.all_planes() if item["key"] == key), plane_title(key))
            about = {"extent": list(self.second_frame.extent), "title": title, "key": key}
            self.publish(_second=self.second_frame.pack(plane), _second_info=self._places(len(plane), **about))
        for follow in self.on_second:
            follow()

    def rewritten(self, *keys: str) -> None:
        """Show the second plane anew where it is one of these keys of ``obsm``, or of the vectors there."""
        second = self.state.get("second")
        if second and second.removeprefix(PRINCIPAL) in keys:
            self.show_second(second)

    def show_after(self, plane: NDArray[np.floating[Any]] | None, **more: Any) -> None:
        """Show where the cells are after a perturbation; ``None`` takes it away. `more` goes with the same message."""
        self.publish(
            _after=b"" if plane is None else self.frame.pack(plane),
            _after_info=self._places(0 if plane is None else len(plane)),
            **more,
        )

    def _places(self, n: int, **more: Any) -> dict[str, Any]:
        return {"dtype": "uint16", "n": 2 * n, "version": self.next_version(), **more}

    # -------------------------------------------------------------------------------------- work

    def submit(
        self,
        kind: str,
        work: Callable[[Callable[..., None], threading.Event], Any],
        *,
        label: str = "",
        lane: str | None = None,
        quiet: bool = False,
        yields: bool = False,
        interrupt: bool = False,
        aside: bool = False,
        again: Callable[[], None] | None = None,
        of: str | Callable[[], str] | None = None,
    ) -> Future[Any]:
        """Run `work` beside the notebook; what goes wrong is shown in words.

        Parameters
        ----------
        kind, label
            What it is, for programs and for people; the label stands beside the progress bar.
        work
            Called as ``work(progress, cancel)``; ``progress(done, total, note="")`` shows how far it is, `cancel` is a
            :class:`threading.Event` to look at between steps (then raise :class:`~scfm_lab.errors.Cancelled`).
        lane, quiet, yields, interrupt, again
            See :meth:`scfm_widgets.worker.Worker.submit`. What a view asks for its own has a lane of its own.
        aside
            Do not wait for the work that is under way: for reading, not for computing.
        of
            Source of the model that works, for the history, or what gives it at the end; ``""`` where none does; default: the
            one that is picked now.

        Returns
        -------
        A future.
        """
        if lane and ASKER.get():
            lane = f"{lane} of {ASKER.get()}"
        if aside:
            future = self._reader.submit(kind, work, label=label, lane=lane, quiet=quiet)
        else:
            future = self._worker.submit(
                kind,
                work,
                label=label,
                lane=lane,
                quiet=quiet,
                yields=yields,
                interrupt=interrupt,
                again=again,
                of=str(self.state.get("model") or "") if of is None else of,
            )
        future.add_done_callback(lambda done: self._show_fault(done, kind))
        return future

    def cancel(self, job_id: int | None = None) -> None:
        """Stop what runs."""
        self._worker.cancel(job_id)
        if job_id is not None:
            self._reader.cancel(job_id)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs any more; False where `timeout` seconds were not enough."""
        return self._reader.wait(timeout) and self._worker.wait(timeout)

    def close(self) -> None:
        """Stop everything, end the threads, and let the models go."""
        self._worker.close()
        self._reader.close()
        self.shelf.close()

    def _report(self, job: Job) -> None:
        told = job.describe()
        self._shown_job = job.id
        self.publish(_job=told)
        if job.status in ("done", "cancelled", "failed") and not job.quiet:
            run = {key: told[key] for key in ("id", "kind", "label", "status", "note", "seconds", "done")}
            model = job.of() if callable(job.of) else job.of
            run |= {"model": model, "at": datetime.now().astimezone().strftime("%H:%M")}
            self._runs = [run, *self._runs][:_MAX_RUNS]
            self.publish(_runs=self._runs)

    def _report_reading(self, job: Job) -> None:
        """Of what is only read large columns are shown, while nothing else is."""
        if job.kind != "column":
            return
        ended = job.status in ("done", "cancelled", "failed")
        if self._shown_job == job.id if ended else not self._worker.busy:
            self._shown_job = job.id
            self.publish(_job=job.describe())

    # ------------------------------------------------------------------------------------ telling

    def publish(self, **traits: Any) -> None:
        """Tell the browser; may be called from any thread."""
        self._board.publish(**traits)

    def fail(self, error: BaseException, where: str) -> str:
        """Show an error in the bench, in words.

        Parameters
        ----------
        error
            What was raised. Errors that scfm-lab raises on purpose are sentences already; others name their type too.
        where
            What was being done.

        Returns
        -------
        The sentence.
        """
        text = sentence(error)
        if all(fault["text"] != text for fault in self._faults):
            self._fault_ids += 1
            fault = {"id": self._fault_ids, "text": text, "where": where, "trace": _trace(error)}
            self._faults = [*self._faults, fault][-_MAX_FAULTS:]
            self._publish_faults()
        return text

    def dismiss(self, fault: int | None = None) -> None:
        """Take a message off the screen; all of them without a number."""
        self._faults = [other for other in self._faults if fault is not None and other["id"] != fault]
        self._publish_faults()

    @property
    def faults(self) -> list[dict[str, Any]]:
        """Messages on the screen: id, text, where, and the traceback for whoever looks for the cause."""
        return list(self._faults)

    def next_version(self) -> int:
        """Give a number that was not given before."""
        self._versions += 1
        return self._versions

    def _publish_faults(self) -> None:
        self.publish(_errors=[{key: fault[key] for key in ("id", "text", "where")} for fault in self._faults])

    def _show_fault(self, future: Future[Any], kind: str) -> None:
        try:
            error = future.exception()
        except CancelledError:
            return
        if error is not None and not isinstance(error, Cancelled):
            self.fail(error, kind)


def _width(values: Any) -> int:
    """Columns of what lies in ``obsm``; 0 of what is no table of one row per cell."""
    shape = getattr(values, "shape", ())
    return int(shape[1]) if isinstance(shape, tuple) and len(shape) == 2 else 0


def _numbers(values: Any) -> NDArray[np.float64] | None:
    """What lies in ``obsm`` as numbers; ``None`` where it holds texts or rows of several lengths."""
    try:
        return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=float)
    except (TypeError, ValueError):
        return None


def plane_title(key: str) -> str:
    """Name of a plane for people, from its key in ``obsm``."""
    method, _, of = key.removeprefix("X_").partition("_")
    words = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA", "diffmap": "Diffusion map", "draw": "Force-directed graph"}
    name = words.get(method.lower(), method)
    return f"{name} of {of}" if of else name


def sentence(error: BaseException) -> str:
    """An error in words."""
    text = str(error).strip()
    if isinstance(error, ScfmError) and text:
        return text
    kind = type(error).__name__
    return f"Something went wrong ({kind}: {text})." if text else f"Something went wrong ({kind})."


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
