"""The Perturb panel: doses in, the cells that move out; response curves and the null of comparable genes follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled, ScfmError
from scfm_widgets import describe
from scfm_widgets.codec import plain
from scfm_widgets.curves import AHEAD, MOST_CURVES, Answers, Curve, Key, Unless, key_of, pack
from scfm_widgets.panels import Panel
from scfm_widgets.watch import COUNTS, GENES
from scfm_widgets.worker import Stopped, abandonable, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from scfm_lab.models.contract import Model
    from scfm_lab.results import Result
    from scfm_lab.tasks.perturb import Perturber
    from scfm_widgets.session import Session
    from scfm_widgets.watch import Thing

#: Draws over which a random dose is averaged: while the slider moves, for response curves, and once it rests.
PREVIEW_DRAWS = 1
CURVE_DRAWS = 2
FINAL_DRAWS = 8
#: What follows an answer, each with a count of its own.
CURVES, NULL = "Response curves", "Comparable genes"
#: Seconds in which the browser draws an answer before what follows takes the processor's cores.
DRAW_FIRST = 0.3


@dataclass(frozen=True)
class _Made:
    """What the cells that are kept ready were made of; digests tell what has the same name and was changed."""

    source: str
    model: Model
    cells: Any
    groupby: str | None
    groups: Any
    layout: str | None
    plane: Any


class PerturbPanel(Panel):
    """Keeps the unperturbed cells ready, and computes only those that a dose changes."""

    title = "Perturb"
    component = "perturb"
    answers = ("perturb",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._ready: Perturber | None = None
        self._made: _Made | None = None
        self._known = Answers()
        self._curves: dict[str, Curve] = {}
        #: The model that was picked when the effect that is shown came.
        self._shown_for: str | None = None
        #: The places after that the browser has.
        self._placed: Any = None
        self._showing = False
        #: The result that Python has set, while it is shown: nobody here can compute it again.
        self._given: Any = None
        self._wanted: Key | None = None
        self._seq = 0
        session.on_result.append(self._show)
        session.on_layout.append(self._follow_plane)
        session.on_cells.append(self._follow_cells)

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``perturb``: all doses, and whether the hand has let go of the slider."""
        doses = check(message["doses"])
        commit = bool(message.get("commit", True))
        if commit:
            self.session.publish(doses=doses)
        return self.perturb(doses, commit=commit)

    def perturb(self, doses: Mapping[str, float], *, commit: bool = True) -> Future[Any]:
        """Compute the effect of doses and show it; with `commit` response curves and the null follow.

        Parameters
        ----------
        doses
            Gene → dose; those at 1 change nothing.
        commit
            False while a slider moves: fewer draws, no null.
        """
        self._seq += 1
        seq = self._seq
        doses = dict(doses)
        draws = FINAL_DRAWS if commit else PREVIEW_DRAWS
        key = self._wanted = key_of(doses, draws)

        def exact(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            # Once more: an answer of the model before may have come while this waited.
            self._leave_model()
            if not key[0]:
                self._clear()
            ready = self._prepare(progress, cancel)
            source = None if self._made is None else self._made.source
            result = self._answer(ready, doses, draws, cancel) if key[0] else None
            if result is not None:
                self._shown_for = source
                self._publish(result, doses, seq, null="pending" if commit else "none")
            if commit and doses and seq == self._seq:
                self._follow(ready, result, doses, seq)
            return {}

        if not doses:
            self._clear()
        self._leave_model()
        self.session.publish(_refused=None)
        future = self.session.submit("perturb", exact, label="Perturbing", lane="perturb", quiet=True, interrupt=commit)
        future.add_done_callback(lambda done: self._settle(done, doses, key))
        return future

    def prepare(self, cancel: Event | None = None) -> Perturber:
        """Give the unperturbed cells, encoded by the picked model; waits for it until `cancel` is set."""
        return self._prepare(lambda *_: None, cancel or Event())

    def expressing(self, genes: Iterable[str]) -> dict[str, int]:
        """In how many cells each gene is found."""
        columns = self.session.columns
        return {
            gene: int(np.count_nonzero(columns.expression(gene))) for gene in genes if columns.gene(gene) is not None
        }

    def together(self) -> list[tuple[dict[str, float], Any]]:
        """Exact answers of several genes at once that are still known, the one that is shown first.

        They are of the model, the groups and the plane for which :meth:`prepare` was called last.
        """
        shown: Any = self.session.results.get("perturb")
        found = {key_of(doses, FINAL_DRAWS): (doses, result) for doses, result in self._known.of_several(FINAL_DRAWS)}
        if shown is not None and self._ready is not None and self.is_own(shown):
            doses = {gene: float(dose) for gene, dose in shown.doses.items() if dose != 1.0}
            if len(doses) > 1 and shown.layout.basis == self._ready.projector.basis:
                key = key_of(doses, FINAL_DRAWS)
                found = {key: (doses, shown), **{other: found[other] for other in found if other != key}}
        return list(found.values())

    def is_own(self, result: Any) -> bool:
        """Whether a result is what the bench itself answers now: of the model and the groups that are picked, and nothing else."""
        told = result.provenance
        asked = dict(told.get("arguments") or {})
        # Of these the bench leaves all as they are by default; samples only add an interval.
        other = bool(result.set_to or told.get("seed") or asked.get("layer") or asked.get("options"))
        return not other and describe.groupby_of(result) == self.session.groupby() and self.session.is_picked(told)

    # ------------------------------------------------------------------------------- computing

    def _prepare(self, progress: Callable[..., None], cancel: Event) -> Perturber:
        """Give the unperturbed cells, encoded by the picked model; once for each model."""
        from scfm_lab.tasks.perturb import Perturber

        session = self.session
        wanted = self._wanted_now(progress, cancel)
        made = self._made
        if self._ready is not None and made == wanted:
            return self._ready
        if self._ready is not None and made and (made.model, made.cells) == (wanted.model, wanted.cells):
            ready = self._ready.regrouped(session.adata, groupby=wanted.groupby, basis=wanted.layout)
        else:
            # What is not needed any more makes room first.
            self._ready = self._made = None
            ready = Perturber(
                session.adata,
                wanted.model,
                groupby=wanted.groupby,
                basis=wanted.layout,
                cache=True,
                progress=lambda done, total, *_: progress(done, total, "the cells as they are"),
                cancel=cancel,
            )
        if session.layout is None:
            session.show_plane(ready.projector.plane, ready.projector.basis)
            self._placed = None
        self._ready, self._made = ready, wanted
        self._known = Answers()
        self._drop_curves()
        return ready

    def _wanted_now(self, progress: Callable[..., None], cancel: Event) -> _Made:
        """What the cells that are kept ready are to be made of."""
        session, watch = self.session, self.session.watch
        source, groupby, layout = session.require_model(), session.groupby(), session.layout
        if session.shelf.get(source) is None:
            progress(0, 0, "opening the model")
        model = session.open_model(source, cancel)
        if groupby is not None:
            # What the browser has of it may be of before; that is for the next look to find.
            watch.follow(("obs", groupby))
        return _Made(
            source=source,
            model=model,
            cells=(watch.stamp(*COUNTS), watch.stamp(*GENES)),
            groupby=groupby,
            groups=None if groupby is None else watch.stamp("obs", groupby),
            layout=layout,
            plane=None if layout is None else watch.stamp("obsm", layout),
        )

    def _answer(self, ready: Perturber, doses: Mapping[str, float], draws: int, cancel: Any) -> Any:
        """Give the exact answer, computed now or a moment ago."""
        key = key_of(doses, draws)
        known = self._known.get(key)
        if known is None:
            known = ready.run({gene: dose for gene, dose in doses.items() if dose != 1.0}, n_draws=draws, cancel=cancel)
            self._known.put(key, known)
        return known

    def _follow(self, ready: Perturber, result: Any, doses: dict[str, float], seq: int) -> None:
        """Compute in the background what the answer needs beside it; anything that a person asks for goes first."""

        def ahead(progress: Callable[..., None], cancel: Event) -> None:
            if cancel.wait(DRAW_FIRST):
                message = "Something else was asked for."
                raise Cancelled(message)
            self._trace(ready, result, doses, cancel, progress)
            if result is None or result.has_null:
                return
            progress(0, 0, label=NULL)
            full = ready.with_null(
                result,
                progress=lambda done, total, *_: progress(done, total, unit="genes", label=NULL),
                cancel=cancel,
            )
            if seq != self._seq:
                message = "Newer doses were set."
                raise Cancelled(message)
            self._known.put(key_of(doses, FINAL_DRAWS), full)
            self._publish(full, doses, seq, null="ready")

        def changed(progress: Callable[..., None], cancel: Event) -> None:
            del progress, cancel
            self._tell_changed(ready, result, doses, seq)

        def follow() -> None:
            # Once what a person asked for is done, if these are still the doses.
            if seq == self._seq:
                computed = self.session.submit(
                    "null", ahead, label=CURVES, lane="null", quiet=True, yields=True, again=follow
                )
                computed.add_done_callback(stopped)

        def stopped(future: Future[Any]) -> None:
            if result is not None and seq == self._seq and isinstance(outcome(future), Stopped):
                self._publish(result, doses, seq, null="stopped")

        if result is not None and result.has_null:
            self._publish(result, doses, seq, null="ready")
        if result is not None and "impute" in ready.model.spec.abilities:
            self.session.submit("changed", changed, label="Genes that change", lane="changed", quiet=True, aside=True)
        follow()

    def _trace(
        self, ready: Perturber, result: Any, doses: Mapping[str, float], cancel: Event, progress: Callable[..., None]
    ) -> None:
        """Compute the response curves of the genes on the bench, that of the one that was added last first."""
        wanted = list(doses)[::-1][:MOST_CURVES]
        # A large answer is not kept; what is shown is one point of a curve.
        shown = {} if result is None else {key_of(doses, FINAL_DRAWS): result}
        # The oldest curves make room; those of the genes on the bench stay.
        for gene in [gene for gene in self._curves if gene not in wanted][: -MOST_CURVES + len(wanted) or None]:
            del self._curves[gene]
        curves = [self._curves.setdefault(gene, Curve(gene)) for gene in wanted]
        missing = [(curve, dose) for curve in curves for dose in AHEAD if dose not in curve.points]
        for number, (curve, dose) in enumerate(missing):
            progress(number, len(missing), unit="doses", label=CURVES)
            self._trace_one(ready, curve, dose, shown, cancel)

    def _trace_one(self, ready: Perturber, curve: Curve, dose: float, shown: Mapping[Key, Any], cancel: Event) -> None:
        asked = {curve.gene: dose}
        key = key_of(asked, CURVE_DRAWS)
        result = shown.get(key)
        if result is None and key[0]:
            # Stopped halfway, the very answer that somebody waits for would have to begin again.
            result = self._answer(ready, asked, CURVE_DRAWS, Unless(cancel, lambda: self._wanted == key))
        elif result is None:
            result = ready.run(asked)
        described = self._described(result, asked, seq=0, null="none")
        curve.points[dose] = (described, self.session.frame.pack(result.layout.after))
        # From knockout to unchanged a slider can move already: the browser need not wait for the other doses.
        if len(curve.points) == 2 or curve.whole or cancel.is_set():
            self._publish_curves()
        if cancel.is_set():
            message = "Something else was asked for."
            raise Cancelled(message)

    # --------------------------------------------------------------------------------- telling

    def _described(self, result: Any, doses: Mapping[str, float], *, seq: int, null: str) -> dict[str, Any]:
        return describe.perturbation(
            result,
            doses,
            seq=seq,
            null=null,
            expressing=self.expressing(doses),
            order=self.session.columns.order(describe.groupby_of(result)),
            of=self.made_by(result),
        )

    def made_by(self, result: Any) -> str | None:
        """The model that made a result, in words, where it is not the one that is picked."""
        told = result.provenance
        return None if self.session.is_picked(told) else str(told.get("version") or told.get("model") or "") or None

    def _publish(self, result: Any, doses: Mapping[str, float], seq: int, *, null: str) -> None:
        session = self.session
        told = self._described(result, doses, seq=seq, null=null)
        known: Any = session.results.get("perturb")
        session.results["perturb"] = result
        session.newest = "perturb"
        if result is not self._given:
            self._given = None
        if known is not None and known.layout is result.layout and self._placed is result.layout:
            # Only the null has come: the cells are where they were, and what is known of each is the same.
            session.publish(_perturbation=told)
        else:
            self._placed = result.layout
            session.show_after(result.layout.after, _perturbation=told, _data_version=session.next_version())

    def _tell_changed(self, ready: Perturber, result: Any, doses: dict[str, float], seq: int) -> None:
        """Tell which genes the model expects to change most."""
        from scfm_lab.tasks.changed_genes import changed_genes

        table = changed_genes(ready.model, result, ready.cells.genes)
        rows = plain(table.to_dict(orient="records"))
        if seq == self._seq:
            self.session.publish(_changed={"doses": doses, "model": ready.model.spec.name, "rows": rows})

    def _settle(self, future: Future[Any], doses: dict[str, float], key: Key) -> None:
        """Wait for an answer no more; where there will be none, tell the browser: the reason is on the screen."""
        if self._wanted is key:
            self._wanted = None
        if not future.cancelled() and isinstance(future.exception(), Exception):
            self.session.publish(_refused=doses)

    def _publish_curves(self) -> None:
        """Tell the browser of the curves."""
        told, places = pack(self._curves.values())
        self.session.publish(_curves=told, _curve_places=places)

    def _show(self, task: str, result: Result) -> None:
        """Show a result that Python has set."""
        if task != "perturb":
            return
        perturbed: Any = result
        self._seq += 1
        session = self.session
        basis = perturbed.layout.basis
        if session.layout != basis and basis in session.adata.obsm:
            self._showing = True
            try:
                session.use_layout(basis)
            finally:
                self._showing = False
        elif session.layout != basis:
            session.layout = None
            session.show_plane(perturbed.layout.before, basis)
            self._placed = None
            self._drop_curves()
        doses = {**dict.fromkeys(session.doses, 1.0), **dict(perturbed.doses)}
        # Whatever follows is told for the same groups.
        groupby = describe.groupby_of(perturbed)
        state = {**session.state, "groupby": groupby} if session.grouping(groupby) == groupby else session.state
        session.publish(doses=doses, state=state, _changed=None)
        self._shown_for, self._given = session.state.get("model"), perturbed
        self._publish(perturbed, doses, self._seq, null="ready" if perturbed.has_null else "none")
        if session.layout == basis:
            self._follow_given(perturbed, doses, self._seq)

    def _follow_given(self, result: Any, doses: dict[str, float], seq: int) -> None:
        """Compute what a result from Python lacks: curves behind its genes, and genes that change.

        The result stays as it was given, also where it has no null. Only the model that made it is asked; where that cannot
        answer any more, the result stands alone.
        """
        session = self.session
        if not session.state.get("model") or not doses:
            return

        def behind(progress: Callable[..., None], cancel: Event) -> None:
            if seq != self._seq or not self.is_own(result):
                return
            try:
                ready = self._prepare(progress, cancel)
                if "impute" in ready.model.spec.abilities:
                    self._tell_changed(ready, result, doses, seq)
                self._trace(ready, None, doses, cancel, progress)
            except Cancelled:
                raise
            except ScfmError:
                # Whoever turns a dose is told why; nobody has asked for anything yet.
                return

        def follow() -> None:
            if seq == self._seq:
                session.submit("null", behind, label=CURVES, lane="null", quiet=True, yields=True, again=follow)

        follow()

    def _follow_plane(self) -> None:
        """Show what is perturbed on another plane; places that were computed ahead lie on the one before."""
        self._placed = None
        self._drop_curves()
        if self._showing:
            return
        if self._given is not None:
            self._lay_out_given()
        elif self.session.doses and self.session.state.get("model"):
            self.perturb(self.session.doses)

    def _lay_out_given(self) -> None:
        """Show a result that Python has set on the plane that is shown now: its vectors are there, and it stays what it was."""
        self._seq += 1
        session, given, seq, key = self.session, self._given, self._seq, self.session.layout
        doses = dict(session.doses)

        def work(progress: Callable[..., None], cancel: Event) -> None:
            from scfm_lab.tasks.layout import Projector, find_plane

            progress(0, 0, "placing the perturbed cells")
            plane, name = find_plane(session.adata, given.baseline, key)
            rows = np.flatnonzero(given.changed)
            moved = abandonable(
                lambda: Projector(given.baseline, plane, basis=name).move(given.perturbed[rows], rows), cancel
            )
            if seq != self._seq:
                return
            self._given = replace(given, layout=moved)
            self._publish(self._given, doses, seq, null="ready" if given.has_null else "none")
            self._follow_given(self._given, doses, seq)

        session.submit("perturb", work, label="Placing the cells", lane="perturb", quiet=True, interrupt=True)

    def _follow_cells(self, changed: set[Thing]) -> None:
        """Somebody has changed the cells: answers were of those before. A result that Python has set stays what it is."""
        session = self.session
        if not changed & {COUNTS, GENES, ("obs", str(session.state.get("groupby")))}:
            return
        if changed & {COUNTS, GENES}:
            # Also where no digest tells: somebody has said so.
            self._made = None
        self._known = Answers()
        self._drop_curves()
        if self._given is None and session.doses and session.state.get("model"):
            self.perturb(session.doses)

    def label(self) -> None:
        """Another model is picked: say by which one a result is that Python has set, for it stays where no dose is."""
        given = self._given
        if given is not None:
            told = self._described(given, self.session.doses, seq=self._seq, null="ready" if given.has_null else "none")
            self.session.publish(_perturbation=told)

    def forget(self) -> None:
        """No model is picked any more: take away what the last one has answered."""
        self._seq += 1
        self._leave_model()

    def _leave_model(self) -> None:
        """Take away what another model than the picked one has answered: the picked one may have no answer."""
        picked = self.session.state.get("model")
        if self._curves and self._made is not None and self._made.source != picked:
            self._drop_curves()
        if self._shown_for not in (None, picked):
            self._clear()

    def _drop_curves(self) -> None:
        self._curves = {}
        self._publish_curves()

    def _clear(self) -> None:
        self._shown_for = self._placed = self._given = None
        self.session.results.pop("perturb", None)
        self.session.show_after(None, _perturbation=None, _changed=None, _data_version=self.session.next_version())


def check(doses: Mapping[str, Any]) -> dict[str, float]:
    """Check doses as the browser or a person gives them.

    Raises
    ------
    DataError
        A dose is no number or below 0.
    """
    from scfm_lab.cells.dose import check_dose

    return {str(gene): check_dose(str(gene), dose) for gene, dose in dict(doses).items()}
