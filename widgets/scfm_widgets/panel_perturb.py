"""The Perturb panel: doses in, the cells that move out; the null of comparable genes follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled
from scfm_widgets import describe
from scfm_widgets.panels import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future
    from threading import Event

    from scfm_lab.results import Result
    from scfm_lab.tasks.perturb import Perturber
    from scfm_widgets.session import Session

#: Draws over which a random dose is averaged while the slider moves, and once it rests.
PREVIEW_DRAWS = 2
FINAL_DRAWS = 8


class PerturbPanel(Panel):
    """Keeps the unperturbed cells ready, and computes only those that a dose changes."""

    title = "Perturb"
    component = "perturb"
    answers = ("perturb",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._ready: Perturber | None = None
        self._ready_for: tuple[str, str | None, str | None] | None = None
        self._seq = 0
        session.on_result.append(self._show)

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``perturb``: all doses, and whether the hand has let go of the slider."""
        doses = check(message["doses"])
        commit = bool(message.get("commit", True))
        if commit:
            self.session.publish(doses=doses)
        return self.perturb(doses, commit=commit)

    def perturb(self, doses: Mapping[str, float], *, commit: bool = True) -> Future[Any]:
        """Compute the effect of doses and show it; with `commit` its null follows.

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
        changed = {gene: dose for gene, dose in doses.items() if dose != 1.0}

        def exact(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            ready = self._prepare(progress, cancel)
            if not changed:
                self._clear()
                return {}
            result = ready.run(changed, n_draws=FINAL_DRAWS if commit else PREVIEW_DRAWS, cancel=cancel)
            self._publish(result, doses, seq, null="pending" if commit else "none")
            if commit and seq == self._seq:
                self._follow(ready, result, doses, seq)
            return {}

        if not doses:
            self._clear()
        return self.session.submit("perturb", exact, label="Perturbing", lane="perturb", quiet=True, interrupt=commit)

    def prepare(self) -> Perturber:
        """Give the unperturbed cells, encoded by the picked model; waits for it."""
        from threading import Event

        return self._prepare(lambda *_: None, Event())

    def _follow(self, ready: Perturber, result: Any, doses: dict[str, float], seq: int) -> None:
        """Compute the null of a result in the background; anything else goes before it."""

        def null(progress: Callable[..., None], cancel: Event) -> None:
            full = ready.with_null(
                result, progress=lambda done, total, *_: progress(done, total, "comparable genes"), cancel=cancel
            )
            if seq != self._seq:
                message = "Newer doses were set."
                raise Cancelled(message)
            self._publish(full, doses, seq, null="ready")

        self.session.submit("null", null, label="Comparable genes", lane="null", quiet=True, yields=True)

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
            model = session.open_model(source)
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
        self._ready, self._ready_for = ready, wanted
        return ready

    def _publish(self, result: Any, doses: Mapping[str, float], seq: int, *, null: str) -> None:
        session = self.session
        session.results["perturb"] = result
        session.newest = "perturb"
        session.show_after(
            result.layout.after,
            _perturbation=describe.perturbation(
                result, doses, seq=seq, null=null, expressing=self.expressing(doses), groupby=session.groupby()
            ),
            _data_version=session.next_version(),
        )

    def _show(self, task: str, result: Result) -> None:
        """Show a result that Python has set."""
        if task != "perturb":
            return
        perturbed: Any = result
        self._seq += 1
        session = self.session
        if session.layout != perturbed.layout.basis:
            session.layout = perturbed.layout.basis if perturbed.layout.basis in session.adata.obsm else None
            session.show_plane(perturbed.layout.before, perturbed.layout.basis)
        doses = {**dict.fromkeys(session.doses, 1.0), **dict(perturbed.doses)}
        session.publish(doses=doses)
        self._publish(perturbed, doses, self._seq, null="ready" if perturbed.has_null else "none")

    def _clear(self) -> None:
        self.session.results.pop("perturb", None)
        self.session.show_after(None, _perturbation=None, _data_version=self.session.next_version())

    def expressing(self, genes: Iterable[str]) -> dict[str, int]:
        """In how many cells each gene is found."""
        columns = self.session.columns
        known = set(self.session.adata.var_names)
        return {gene: int(np.count_nonzero(columns.expression(gene))) for gene in genes if gene in known}


def check(doses: Mapping[str, Any]) -> dict[str, float]:
    """Check doses as the browser or a person gives them.

    Raises
    ------
    DataError
        A dose is no number or below 0.
    """
    from scfm_lab.cells.dose import check_dose

    return {str(gene): check_dose(str(gene), dose) for gene, dose in dict(doses).items()}
