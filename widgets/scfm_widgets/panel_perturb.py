"""The Perturb panel: doses in, the cells that move out; response curves and the null of comparable genes follow."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled, ScfmError
from scfm_widgets import describe
from scfm_widgets.code import exact_source
from scfm_widgets.codec import plain
from scfm_widgets.curves import AHEAD, MOST_CURVES, Answers, Curve, Key, Unless, key_of, pack
from scfm_widgets.panels import Panel
from scfm_widgets.worker import Stopped, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from scfm_lab.results import Result
    from scfm_lab.tasks.perturb import Perturber
    from scfm_widgets.session import Session

#: Draws over which a random dose is averaged: while the slider moves, for response curves, and once it rests.
PREVIEW_DRAWS = 1
CURVE_DRAWS = 2
FINAL_DRAWS = 8
#: Seconds in which the browser draws an answer before what follows takes the processor's cores.
DRAW_FIRST = 0.3


class PerturbPanel(Panel):
    """Keeps the unperturbed cells ready, and computes only those that a dose changes."""

    title = "Perturb"
    component = "perturb"
    answers = ("perturb",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._ready: Perturber | None = None
        self._ready_for: tuple[str, str | None, str | None] | None = None
        self._known = Answers()
        self._curves: dict[str, Curve] = {}
        #: The model that was picked when the effect that is shown came.
        self._shown_for: str | None = None
        #: The places after that the browser has.
        self._placed: Any = None
        self._showing = False
        self._wanted: Key | None = None
        self._seq = 0
        session.on_result.append(self._show)
        session.on_layout.append(self._follow_plane)

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
            source = None if self._ready_for is None else self._ready_for[0]
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
        if shown is not None and not shown.set_to and self._ready is not None:
            doses = {gene: float(dose) for gene, dose in shown.doses.items() if dose != 1.0}
            if len(doses) > 1 and shown.layout.basis == self._ready.projector.basis:
                key = key_of(doses, FINAL_DRAWS)
                found = {key: (doses, shown), **{other: found[other] for other in found if other != key}}
        return list(found.values())

    # ------------------------------------------------------------------------------- computing

    def _prepare(self, progress: Callable[..., None], cancel: Event) -> Perturber:
        """Give the unperturbed cells, encoded by the picked model; once for each model."""
        from scfm_lab.tasks.perturb import Perturber

        session = self.session
        source = session.require_model()
        wanted = (source, session.groupby(), session.layout)
        if self._ready is not None and self._ready_for == wanted:
            return self._ready
        if self._ready is not None and self._ready_for is not None and self._ready_for[0] == source:
            ready = self._ready.regrouped(session.adata, groupby=wanted[1], basis=wanted[2])
        else:
            progress(0, 0, "opening the model")
            model = session.open_model(source, cancel)
            ready = Perturber(
                session.adata,
                model,
                groupby=wanted[1],
                basis=wanted[2],
                progress=lambda done, total, *_: progress(done, total, "the cells as they are"),
                cancel=cancel,
            )
        if session.layout is None:
            session.show_plane(ready.projector.plane, ready.projector.basis)
            self._placed = None
        self._ready, self._ready_for = ready, wanted
        self._known = Answers()
        self._drop_curves()
        return ready

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
            self._trace(ready, result, doses, cancel)
            if result is None or result.has_null:
                return
            full = ready.with_null(
                result,
                progress=lambda done, total, *_: progress(done, total, "comparable genes", unit="genes"),
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
                    "null", ahead, label="Comparable genes", lane="null", quiet=True, yields=True, again=follow
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

    def _trace(self, ready: Perturber, result: Any, doses: Mapping[str, float], cancel: Event) -> None:
        """Compute the response curves of the genes on the bench, that of the one that was added last first."""
        wanted = list(doses)[::-1][:MOST_CURVES]
        # A large answer is not kept; what is shown is one point of a curve.
        shown = {} if result is None else {key_of(doses, FINAL_DRAWS): result}
        # The oldest curves make room; those of the genes on the bench stay.
        for gene in [gene for gene in self._curves if gene not in wanted][: -MOST_CURVES + len(wanted) or None]:
            del self._curves[gene]
        for gene in wanted:
            curve = self._curves.setdefault(gene, Curve(gene))
            if not curve.whole:
                self._trace_one(ready, curve, shown, cancel)

    def _trace_one(self, ready: Perturber, curve: Curve, shown: Mapping[Key, Any], cancel: Event) -> None:
        for dose in AHEAD:
            if dose in curve.points:
                continue
            asked = {curve.gene: dose}
            key = key_of(asked, CURVE_DRAWS)
            result = shown.get(key)
            if result is None and key[0]:
                # Stopped halfway, the very answer that somebody waits for would have to begin again.
                result = self._answer(ready, asked, CURVE_DRAWS, Unless(cancel, lambda key=key: self._wanted == key))
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
            result, doses, seq=seq, null=null, expressing=self.expressing(doses), groupby=self.session.groupby()
        )

    def _publish(self, result: Any, doses: Mapping[str, float], seq: int, *, null: str) -> None:
        session = self.session
        told = self._described(result, doses, seq=seq, null=null)
        known: Any = session.results.get("perturb")
        session.results["perturb"] = result
        session.newest = "perturb"
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
        session.publish(doses=doses, _changed=None)
        self._shown_for = session.state.get("model")
        self._publish(perturbed, doses, self._seq, null="ready" if perturbed.has_null else "none")
        if session.layout == basis and session.state.get("model") and not perturbed.set_to:
            self._follow_given(perturbed, doses, self._seq)

    def _follow_given(self, result: Any, doses: dict[str, float], seq: int) -> None:
        """Compute what a result from Python lacks: curves behind its genes, and genes that change.

        The result stays as it was given, also where it has no null. Only the model that made it is asked; where that cannot
        answer any more, the result stands alone.
        """
        session = self.session

        def behind(progress: Callable[..., None], cancel: Event) -> None:
            if seq != self._seq or not session.same_model(session.require_model(), exact_source(result.provenance)):
                return
            try:
                ready = self._prepare(progress, cancel)
                if "impute" in ready.model.spec.abilities:
                    self._tell_changed(ready, result, doses, seq)
                self._trace(ready, None, doses, cancel)
            except Cancelled:
                raise
            except ScfmError:
                # Whoever turns a dose is told why; nobody has asked for anything yet.
                return

        def follow() -> None:
            if seq == self._seq:
                session.submit(
                    "null", behind, label="Response curves", lane="null", quiet=True, yields=True, again=follow
                )

        follow()

    def _follow_plane(self) -> None:
        """Show what is perturbed on another plane; places that were computed ahead lie on the one before."""
        self._placed = None
        self._drop_curves()
        if not self._showing and self.session.doses and self.session.state.get("model"):
            self.perturb(self.session.doses)

    def forget(self) -> None:
        """No model is picked any more: take away what the last one has answered."""
        self._seq += 1
        self._leave_model()

    def _leave_model(self) -> None:
        """Take away what another model than the picked one has answered: the picked one may have no answer."""
        picked = self.session.state.get("model")
        if self._curves and self._ready_for is not None and self._ready_for[0] != picked:
            self._drop_curves()
        if self._shown_for not in (None, picked):
            self._clear()

    def _drop_curves(self) -> None:
        self._curves = {}
        self._publish_curves()

    def _clear(self) -> None:
        self._shown_for = self._placed = None
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
