"""The Screen panel: every gene in turn at one dose, ranked beside comparable genes; a row goes onto the bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError
from scfm_widgets import describe
from scfm_widgets.codec import plain
from scfm_widgets.panels import Panel

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event

    from scfm_lab.results import Result
    from scfm_widgets.session import Session

#: Rows that go to the browser, by read-out and group: the strongest effects; the whole table is in ``lab.results["screen"].table``.
MOST_ROWS = 100
_FIELDS = ("gene", "group", "readout", "effect", "null_mean", "null_sd", "p_value", "q_value", "n_cells")


class ScreenPanel(Panel):
    """Runs a screen beside the notebook, and shows one that Python has set."""

    title = "Screen"
    component = "screen"
    answers = ("screen",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.on_result.append(self._show)

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``screen``: dose, and whether only the selected cells take part."""
        return self.run(
            float(message.get("dose", 0.0)),
            groupby=self.session.grouping(message.get("groupby")),
            selected=bool(message.get("selected")),
            most_cells=int(message["most_cells"]) if message.get("most_cells") else None,
        )

    def run(
        self, dose: float, *, groupby: str | None = None, selected: bool = False, most_cells: int | None = None
    ) -> Future[Any]:
        """Screen all genes that the model knows.

        Parameters
        ----------
        dose
            Of each gene in turn.
        groupby
            Column of ``obs`` for whose groups effects are told too.
        selected
            Only the selected cells.
        most_cells
            Most cells of each group; ``None``: all.
        """
        session = self.session
        source = session.require_model()
        # Those that are selected now: until the work begins a hand may select others.
        mask = session.selection
        if selected and not mask.any():
            message = "No cells are selected; draw a lasso around some, or screen all of them."
            raise DataError(message)

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            from scfm_lab.tasks.screen import Screen

            cells = session.adata[mask].copy() if selected else session.adata
            progress(0, 0, "opening the model")
            model = session.open_model(source, cancel)
            screen = Screen(
                cells,
                model,
                dose=dose,
                groupby=groupby,
                max_cells=most_cells,
                progress=lambda done, total, *_: progress(done, total, "the cells as they are"),
                cancel=cancel,
            )
            speed: dict[str, Any] = {"unit": "genes × cells", "each": len(screen.used)}
            result = screen.run(
                progress=lambda done, total, *_: progress(done, total, "gene after gene", **speed), cancel=cancel
            )
            session.screened = (result, mask) if selected else None
            session.add_result("screen", result)
            progress(0, 0, "The table is lab.results['screen'].table")
            return {}

        return session.submit("screen", work, label="Screening", lane="screen")

    def _show(self, task: str, result: Result) -> None:
        if task != "screen":
            return
        screen: Any = result
        details = screen.details
        by = details.groupby(["readout", "group"], sort=False, observed=True)
        totals: dict[str, dict[str, int]] = {}
        for (readout, group), n in by.size().items():
            totals.setdefault(str(readout), {})[str(group)] = int(n)
        rows = plain(by.head(MOST_ROWS)[list(_FIELDS)].to_dict(orient="records"))
        groupby = describe.groupby_of(screen)
        self.session.publish(
            _screen={
                "version": self.session.next_version(),
                "dose": float(screen.dose),
                "model": str(screen.provenance["model"]),
                "target": screen.target,
                "summary": screen.summary(),
                "genes": int(screen.provenance["genes"]),
                "totals": totals,
                "rows": describe.in_order(rows, self.session.columns.order(groupby)),
            }
        )
