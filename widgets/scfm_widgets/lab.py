"""The bench as a widget: its traits, and the way from the browser to the panels. What it shows is decided in the panels."""

from __future__ import annotations

import base64
import inspect
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import anywidget
import numpy as np
import traitlets

from scfm_lab.errors import DataError, PluginError, ScfmError, did_you_mean, nearest
from scfm_widgets.cell import replace_former
from scfm_widgets.checked_state import STATE, checked, colour_of
from scfm_widgets.checks import as_mask, check_adata, check_groupby, groups_or_gaps, task_of
from scfm_widgets.codec import pack_mask, unpack_mask
from scfm_widgets.desk import Desk
from scfm_widgets.kept import kept_doses, kept_state
from scfm_widgets.messages import Messages
from scfm_widgets.panel_perturb import check
from scfm_widgets.panels import PanelRow, open_panels
from scfm_widgets.saved import bring_back, read_saved
from scfm_widgets.session import Session
from scfm_widgets.shelf import is_moving
from scfm_widgets.still import Still, put_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.results import Result

_STATIC = Path(__file__).parent / "static"


def _to_bytes(value: Any, _: Any) -> bytes:
    """What comes from the browser is a view of a larger message."""
    return bytes(value) if value is not None else b""


class _Bytes(traitlets.Bytes):
    """Bytes that travel as one buffer."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.tag(sync=True, from_json=_to_bytes)


def _synced(trait: Any) -> Any:
    return trait.tag(sync=True)


def _refuse_setting(name: str, value: Any, *, there: bool) -> None:
    """Refuse what would be taken for a setting of the bench and be none."""
    if name == "layout" and isinstance(value, str):
        message = f"lab.layout is the widget's own (ipywidgets.Layout: its width and height); the plane is lab.state = {{'layout': {value!r}}}."
        raise DataError(message)
    hit = name if name in STATE and name != "layout" else None
    if hit is None and not there and not name.startswith("_"):
        hit = next(iter(nearest(name, STATE, n=1)), None)
    if hit is not None:
        message = f"lab.{name} sets nothing on the bench; assign: lab.state = {{{hit!r}: {value!r}}}."
        raise DataError(message)


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    for name in given:
        known = [known for known in inspect.signature(Lab).parameters if known != "unknown"]
        message = f"Lab has no {name!r}; it has {', '.join(known)}.{did_you_mean(name, known)}"
        raise DataError(message)


class Lab(anywidget.AnyWidget):
    """The bench: pick a model, run it, turn genes' doses, and see the cells move.

    Parameters
    ----------
    adata
        With raw counts (in ``X``, a layer or ``.raw``). Results are added under new keys; nothing else is changed.
    model
        The model to begin with: a name, a registry reference such as ``"models:/starter@champion"``, a path, or an opened
        model.
    colour
        What colours the cells: a column of ``obs`` or a gene. Default: the column of cell types, if there is one.
    groupby
        Column of ``obs`` for whose groups effects are told. Default: the column of cell types, if there is one.
    layout
        Key in ``obsm`` of the plane to begin with. Default: ``"X_umap"``, else another plane that is there.
    title
        Stands above the bench.
    state
        How to begin: some keys of :attr:`state`, or the notebook (``"analysis.ipynb"``) in which a bench of these cells was
        saved, whose state, doses and selection come back; results are computed again.

    Attributes
    ----------
    state
        What is picked and shown, as a dictionary of plain values: ``model``, ``colour`` (``{"by": "obs" | "gene" |
        "result", "name": ...}``, or just a name), ``hidden`` (groups), ``range`` (least and greatest value shown), ``groupby``,
        ``layout``, ``panel``, ``labels``, ``paths``, ``root``, ``second`` (a plane beside the first), ``field`` (arrows),
        ``density``, ``gene``, ``follow`` (genes along a trajectory), ``by_path``, ``against``. Assign some of its keys to change
        those.
    doses
        Gene → dose. Assign it and the effect is computed.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from scfm_widgets import Lab
    >>> lab = Lab(sl.datasets.load("pbmc68k"), model="starter")  # doctest: +SKIP
    >>> lab.doses = {"CD3D": 0.0}  # doctest: +SKIP
    >>> lab.result  # doctest: +SKIP
    """

    _esm = _STATIC / "index.js"
    _css = _STATIC / "index.css"

    state = _synced(traitlets.Dict())
    doses = _synced(traitlets.Dict())

    _uid = _synced(traitlets.Unicode())
    _meta = _synced(traitlets.Dict())
    _panels = _synced(traitlets.List())
    _models = _synced(traitlets.Dict())
    _hardware = _synced(traitlets.Unicode())
    _plan = _synced(traitlets.Dict({"model": None, "status": "none"}))
    _layouts = _synced(traitlets.List())
    _job = _synced(traitlets.Dict(None, allow_none=True))
    _perturbation = _synced(traitlets.Dict(None, allow_none=True))
    _refused = _synced(traitlets.Dict(None, allow_none=True))
    _curves = _synced(traitlets.List())
    _curve_places = _Bytes()
    _trajectory = _synced(traitlets.Dict(None, allow_none=True))
    _errors = _synced(traitlets.List())
    _xy = _Bytes()
    _xy_info = _synced(traitlets.Dict())
    _compared = _synced(traitlets.Dict(None, allow_none=True))
    _changed = _synced(traitlets.Dict(None, allow_none=True))
    _screen = _synced(traitlets.Dict(None, allow_none=True))
    _runs = _synced(traitlets.List())
    _after = _Bytes()
    _after_info = _synced(traitlets.Dict())
    _second = _Bytes()
    _second_info = _synced(traitlets.Dict())
    _selection = _Bytes()
    _data_version = _synced(traitlets.Int(0))
    #: Grows when columns, planes or counts of the cells are others than they were told.
    _cells_version = _synced(traitlets.Int(0))

    #: Everything the browser is told, for exporting it.
    SHARED: ClassVar[tuple[str, ...]] = (
        "state", "doses", "_meta", "_layouts", "_panels", "_models", "_hardware", "_plan", "_perturbation", "_trajectory",
        "_compared", "_changed", "_screen", "_runs", "_errors", "_xy_info", "_after_info", "_second_info", "_data_version", "_cells_version",
    )  # fmt: skip
    BYTES: ClassVar[tuple[str, ...]] = ("_xy", "_after", "_second", "_selection")

    # Set here already: a bench whose making fails is still taken away by Python.
    _session: Session | None = None
    #: Cell of the notebook that has made it, and the run of that cell.
    made_in: tuple[str, str] = ("", "")
    is_open = True
    #: The selection and the result of which observers have heard.
    _told: tuple[Any, Any] = (b"", None)
    rows: list[PanelRow] = []  # noqa: RUF012 - replaced as a whole, never changed

    def __init__(
        self,
        adata: AnnData,
        *,
        model: str | Model | None = None,
        colour: str | None = None,
        groupby: str | None = None,
        layout: str | None = None,
        title: str = "scfm-lab",
        state: Mapping[str, Any] | str | Path | None = None,
        **unknown: NoReturn,
    ) -> None:
        check_adata(adata)
        _refuse_unknown(unknown)
        self.lock = threading.RLock()
        self._here = threading.local()
        super().__init__()
        self._session = session = Session(adata, self)
        self._desk = Desk(self)
        self._still = Still(self)
        favourite = session.columns.favourite()
        if groupby is not None:
            check_groupby(adata, groupby)
        planes = session.layouts()
        self.publish(
            # A Dict trait begins as an empty dictionary, whatever its default; nothing is there yet.
            _job=None,
            _perturbation=None,
            _refused=None,
            _trajectory=None,
            _compared=None,
            _changed=None,
            _screen=None,
            doses={},
            _uid=uuid.uuid4().hex,
            _meta={
                "n": adata.n_obs,
                "n_genes": len(session.columns.names),
                "symbols": bool(session.columns.labels),
                "title": title,
                "obs": session.columns.describe(),
                "static": False,
                "tour": self._desk.wants_tour(),
            },
            _selection=pack_mask(np.zeros(adata.n_obs, dtype=bool)),
            state={
                **STATE,
                "model": session.adopt(model),
                "colour": colour_of(session, colour if colour is not None else favourite),
                "groupby": groupby or (favourite if groups_or_gaps(adata, favourite) else None),
            },
        )
        if layout is not None or planes:
            session.use_layout(layout if layout is not None else planes[0]["key"])
        self.rows = open_panels(session)
        session.on_result.append(self._follow_result)
        self.publish(_panels=[row.describe() for row in self.rows])
        self.on_msg(Messages(self).take)
        self.observe(self._on_state, "state")
        self.observe(self._on_doses, "doses")
        replace_former(self)
        if isinstance(state, str | Path):
            bring_back(self, read_saved(state, adata.n_obs))
        elif state is not None:
            self.state = dict(state)

    # ------------------------------------------------------------------------------- for people

    @property
    def session(self) -> Session:
        """What the panels share."""
        if self._session is None:
            message = "The bench is not ready yet."
            raise PluginError(message)
        return self._session

    @property
    def adata(self) -> AnnData:
        """The cells."""
        return self.session.adata

    @property
    def selection(self) -> NDArray[np.bool_]:
        """Selected cells, one bool each. Assign a mask, positions, or names of cells; ``None`` selects none.

        It is read-only, since the bench would not notice a change in place: change a copy, ``lab.selection.copy()``, and assign it.
        """
        self.session.check_cells()
        mask = unpack_mask(self._selection, self.adata.n_obs)
        mask.flags.writeable = False
        return mask

    @selection.setter
    def selection(self, value: ArrayLike | None) -> None:
        self.session.check_cells()
        self.publish(_selection=pack_mask(as_mask(value, self.adata)))

    @property
    def result(self) -> Result | None:
        """The newest result. Assign one (of ``sl.embed``, ``sl.perturb``, ``sl.trajectory`` or a comparison) to show it.

        ``None`` where there is none, and where there is no answer to the doses that are set: :attr:`faults` says why.
        """
        session = self.session
        return None if session.newest == "perturb" and self._is_unanswered else session.result

    @result.setter
    def result(self, value: Result) -> None:
        self.look_again()
        task = task_of(value, self.adata.n_obs)
        self.session.add_result(task, value)

    @property
    def title(self) -> str:
        """What stands above the bench."""
        return str(self._meta["title"])

    @property
    def results(self) -> dict[str, Result]:
        """The newest result of each task; none of other doses than those that are set."""
        results = dict(self.session.results)
        if self._is_unanswered:
            results.pop("perturb", None)
        return results

    @property
    def _is_unanswered(self) -> bool:
        """Whether the model has refused the doses, or was stopped: what the browser shows is of those before, and it says so."""
        shown = dict(self._perturbation or {}).get("doses")
        return self._refused is not None and self._refused == self.doses and shown != self._refused

    @property
    def faults(self) -> list[str]:
        """What stands above the bench in words: what went wrong, and was not dismissed."""
        return [str(fault["text"]) for fault in self.session.faults]

    def run(self, model: str | None = None, *, layout: str | None = None) -> Future[Any]:
        """Run a model on the cells, as the Run button does.

        Parameters
        ----------
        model
            Default: the one that is picked.
        layout
            Key in ``obsm`` of a plane to keep; ``None`` makes a UMAP of the model's vectors.

        Returns
        -------
        A future; :meth:`wait` waits for it.
        """
        if model is not None:
            self.state = {"model": model}
        self.look_again()
        source = self.session.require_model()
        future: Future[Any] = self.panel("run").run(source, layout=layout)
        return future

    def code(self) -> str:
        """Python that reproduces what is on the bench, for a cell of its own; `adata` is the cells as they were loaded.

        Examples
        --------
        >>> print(lab.code())  # doctest: +SKIP
        """
        from scfm_widgets.code import code_of

        return code_of(self)

    def methods(self) -> str:
        """A paragraph for a paper, and the BibTeX of what it cites, from the provenance of the results on the bench."""
        from scfm_widgets.methods import methods_of

        text, bibtex = methods_of(self)
        return f"{text}\n\n{bibtex}"

    def refresh(self) -> None:
        """Show the cells as they are now: columns, planes, genes and counts are read anew, and the effect is computed again.

        The bench looks by itself before it answers and when it is shown; this is for what it does not see, such as single counts
        that were changed in place.
        """
        self.look_again(at_all=True)

    def look_again(self, *, at_all: bool = False) -> None:
        """Follow what was changed of the cells in Python; see :meth:`scfm_widgets.session.Session.look_again`."""
        if self.session.look_again(at_all=at_all):
            self._tell_columns()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs any more; False where `timeout` seconds were not enough."""
        return self.session.wait(timeout)

    def to_html(self, path: str | Path, *, genes: Iterable[str] | str = (), title: str | None = None) -> Path:
        """Write the bench as one HTML file that works with no kernel and no network.

        Parameters
        ----------
        path
            The file; an existing one is replaced.
        genes
            Genes, or one gene, whose answers at doses 0, 0.5, 1 and 2 go along, so that their sliders work; those on the bench
            do anyway.
        title
            Default: the bench's.

        Returns
        -------
        The path.
        """
        from scfm_widgets.export import write_html

        return write_html(path, title=title or self.title, lab_or_payload=self, genes=genes)

    def close(self) -> None:
        """Stop what runs and take the bench away."""
        if self._session is not None:
            self.is_open = False
            self._still.close()
            self._session.close()
        super().close()

    @property
    def shown_in(self) -> set[str]:
        """Ids of the notebook's cells that show the bench."""
        return self._still.cells

    # ------------------------------------------------------------------------------- for panels

    def publish(self, **traits: Any) -> None:
        """Set several traits as one message to the browser; may be called from any thread."""
        with self.lock:
            before, self._here.publishing = self._inside, True
            try:
                with self.hold_sync():
                    for name, value in traits.items():
                        setattr(self, name, value)
            finally:
                self._here.publishing = before
        if not before:
            self._tell()

    def _tell(self) -> None:
        """Tell who observes ``"selection"`` or ``"result"``, which are no traits, that they are others.

        It comes once all is set: what an observer raises cannot leave half of it out, and stands above the bench.
        """
        if self._session is None:
            return
        with self.lock:
            before: tuple[Any, Any] = self._told
            now: tuple[Any, Any] = (self._selection, self.result)
            self._told = now
        for name, old, new in zip(("selection", "result"), before, now, strict=True):
            if old is new or (name == "selection" and old == new):
                continue
            values = [unpack_mask(one, self.adata.n_obs) for one in (old, new)] if name == "selection" else [old, new]
            change = traitlets.Bunch(name=name, old=values[0], new=values[1], owner=self, type="change")
            try:
                # Not the widget's own: what is held back there are traits.
                traitlets.HasTraits.notify_change(self, change)
            # Whatever an observer raises; see above.
            except Exception as error:  # noqa: BLE001
                self._session.fail(error, f"observe {name}")

    @property
    def _inside(self) -> bool:
        """Whether this thread is publishing: what other threads set meanwhile is a person's wish."""
        return bool(getattr(self._here, "publishing", False))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; what a person may assign waits until no other thread is in the middle of telling the browser."""
        if name not in ("state", "doses"):
            _refuse_setting(name, value, there=hasattr(type(self), name))
            super().__setattr__(name, value)
            return
        if self._session is not None and not self._inside:
            # What is set may be of the cells as they are now; and to look takes no lock.
            self.look_again()
        with self.lock:
            super().__setattr__(name, value)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take traits from the browser, one message at a time.

        A state that cannot be is told in words, and what was before holds: traitlets would apply it all the same, as its own
        check comes after the value.
        """
        of_cells = sync_data.keys() & {"state", "doses"}
        refused = of_cells if of_cells and not self._are_the_same() else set()
        with self.lock:
            if "state" in of_cells - refused and not self._takes(sync_data["state"]):
                refused = {"state"}
            super().set_state({name: value for name, value in sync_data.items() if name not in refused})
            if refused:
                self.send_state(refused)
        self._tell()

    def take_state(self, change: dict[str, Any]) -> None:
        """Take what a hand has changed of the state in the browser.

        Only that: the rest may have been set here since, of which the browser has not heard yet.
        """
        self.state = change

    def take_selection(self, bits: str) -> None:
        """Take the cells that a hand has selected in the browser: :func:`pack_mask`'s bytes in base64.

        It is a message and no trait, so that it comes before the questions that are asked about it: a host holds changed traits
        back while the kernel has not answered the last ones, and lets messages pass.
        """
        self.selection = unpack_mask(base64.b64decode(bits, validate=True), self.adata.n_obs)

    def _are_the_same(self) -> bool:
        """Follow what was changed of the cells; where they are others, whoever looks at the bench is told there."""
        try:
            self.look_again()
        except DataError as error:
            self.session.fail(error, "cells")
            return False
        return True

    def _takes(self, state: dict[str, Any]) -> bool:
        try:
            self._checked(state)
        except ScfmError as error:
            self.session.fail(error, "state")
            return False
        return True

    # --------------------------------------------------------------------------------- internal

    def __repr__(self) -> str:
        """What is on the bench, and how to see it where no notebook shows it."""
        if self._session is None:
            return "<Lab, not ready yet>"
        model = self.state.get("model")
        return (
            f"<Lab: {self.adata.n_obs:,} cells × {self.adata.n_vars:,} genes, {f'model {model!r}' if model else 'no model picked'}>"
            '\nShown in a notebook where it is the last line of a cell; elsewhere: lab.to_html("bench.html").'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget and, for where no widget can be shown any more, a picture of it."""
        same = self._offer()
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        picture = self._still.png() if same else None
        if picture is not None:
            data = {**data, "image/png": base64.b64encode(picture).decode()}
        return data, metadata

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Show the bench, after a picture of it: a notebook shows nothing of a widget whose kernel is gone."""
        # Of other cells no picture is drawn.
        shown = self._offer() and self._still.show(self._uid)
        # The picture is drawn once: beside the widget, or else inside its bundle.
        bundle = super()._repr_mimebundle_(**kwargs) if shown else self._repr_mimebundle_(**kwargs)
        if bundle is not None:
            put_out(bundle[0], bundle[1])

    def _offer(self) -> bool:
        """Offer the columns and planes that have been added since, and those that were changed as they are now.

        Returns
        -------
        Whether the cells are still those that the bench was opened with.
        """
        same = self._are_the_same()
        if same:
            self._tell_columns()
        return same

    def _follow_result(self, *_: Any) -> None:
        self._offer()

    def _tell_columns(self) -> None:
        session = self.session
        about = {"n_genes": len(session.columns.names), "symbols": bool(session.columns.labels)}
        self.publish(_meta={**self._meta, **about, "obs": session.columns.describe()}, _layouts=session.all_planes())

    @traitlets.validate("state")
    def _check_state(self, proposal: Any) -> dict[str, Any]:
        return kept_state(self._checked(proposal["value"]))

    def _checked(self, value: Any) -> dict[str, Any]:
        """The whole state with what is given."""
        given = dict(value)
        if self._session is not None:
            given = checked(given, self.state, self._session, self.rows)
        return {**STATE, **self.state, **given}

    @traitlets.validate("doses")
    def _check_doses(self, proposal: Any) -> dict[str, float]:
        doses = check(proposal["value"])
        if self._session is not None:
            for gene in doses:
                self._session.genes.find(gene)
        return kept_doses(doses)

    def _on_state(self, change: Any) -> None:
        old, new = dict(change["old"] or {}), change["new"]

        def changed(key: str) -> bool:
            return bool(old.get(key) != new.get(key))

        if self._session is None:
            return
        self._follow_models(old, new)
        if changed("layout") and new["layout"] and new["layout"] != self._session.layout:
            self._session.use_layout(new["layout"])
        if changed("second"):
            self._session.show_second(new["second"])
        if self._inside or not (changed("model") or changed("groupby")):
            return
        if not self.doses:
            if changed("model"):
                # A bench whose own panel could not be opened has no such result either.
                with suppress(PluginError):
                    self.panel("perturb").label()
        elif new["model"]:
            self.panel("perturb").perturb(self.doses)
        else:
            self.panel("perturb").forget()

    def _follow_models(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """An alias that is picked means what it means now, until another model is picked."""
        named = {new.get("model"), new.get("against")}
        for key in ("model", "against"):
            source = old.get(key)
            if source and source not in named:
                self.session.shelf.forget(source)
                if self._plan.get("model") == source and is_moving(source):
                    self.publish(_plan={"model": None, "status": "none"})
        picked = new.get("model")
        if picked and picked != old.get("model") and is_moving(picked) and self.rows:
            # The list says which version that is; somebody may have promoted another one since it was read.
            with suppress(PluginError):
                self.panel("models").refresh()

    def _on_doses(self, change: Any) -> None:
        if not self._inside:
            self.panel("perturb").perturb(change["new"])

    def panel(self, kind: str) -> Any:
        """Give the bench's own panel that answers a kind of message, such as ``"perturb"``."""
        if kind in Desk.answers:
            return self._desk
        for row in self.rows:
            if kind in getattr(row.panel, "answers", ()):
                return row.panel
        faults = " ".join(row.error for row in self.rows if row.error)
        message = f"No panel of this bench answers '{kind}'. {faults}".strip()
        raise PluginError(message)
