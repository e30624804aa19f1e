"""The Run panel: the plan and the audit before, the run with its layout, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import Cancelled
from scfm_widgets import describe
from scfm_widgets.panels import Panel, aside
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event


class RunPanel(Panel):
    """Plans and runs the model that is picked."""

    title = "Run"
    component = "run"
    answers = ("plan", "run", "cancel")

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``plan``, ``run`` or ``cancel``."""
        if message["type"] == "cancel":
            self.session.cancel(message.get("job"))
            return {}
        if message["type"] == "plan":
            return self.plan(str(message["model"]))
        return self.run(str(message["model"]), layout=message.get("layout"))

    def plan(self, source: str) -> Future[Any]:
        """Open the model, time a sample of the cells, and count the genes it knows."""
        session = self.session

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            import scfm_lab as sl

            session.publish(_plan={"model": source, "status": "loading"})
            progress(0, 0, "opening the model")
            model = session.open_model(source, cancel)
            groupby = session.groupby()
            progress(0, 0, "counting the genes that it knows")
            audit = abandonable(lambda: sl.audit_genes(session.adata, model, groupby=groupby), cancel)
            progress(0, 0, "timing some of the cells")
            planned = abandonable(lambda: sl.plan(session.adata, model), cancel)
            session.publish(
                _plan=describe.plan(planned, audit, source, groupby=groupby, order=session.columns.order(groupby))
            )
            return {}

        future = session.submit("plan", work, label="Planning", lane="plan", quiet=True)
        future.add_done_callback(lambda done: self._forget_plan(done, source))
        return future

    def run(self, source: str, *, layout: str | None = None) -> Future[Any]:
        """Embed the cells and lay them out.

        Parameters
        ----------
        source
            The model.
        layout
            Key in ``obsm`` of a plane to keep; ``None`` makes a new UMAP of the model's vectors, kept in ``obsm`` too.
        """
        session = self.session

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            import pandas as pd

            import scfm_lab as sl
            from scfm_lab.tasks.layout import umap_plane, write_plane

            if layout is not None:
                # Before the cells are embedded, which takes long.
                session.plane_at(layout)
            progress(0, 0, "opening the model")
            model = session.open_model(source, cancel)

            def tell(done: int, total: int, *_: Any) -> None:
                # Of a run that was left behind nothing is told any more.
                if not cancel.is_set():
                    progress(done, total, "embedding")

            cells = session.adata
            if cells.isbacked or not isinstance(cells.obs, pd.DataFrame):
                result = sl.embed(cells, model, progress=tell, cancel=cancel)
            else:
                # A batch of a large model takes many seconds on a CPU: it is not waited for.
                held = aside(cells)
                result = abandonable(lambda: sl.embed(held, model, progress=tell, cancel=cancel), cancel)
                result.write(cells)
            key = layout
            if key is None:
                progress(0, 0, "laying the cells out (UMAP)")
                try:
                    plane = abandonable(lambda: umap_plane(result.vectors), cancel)
                except Cancelled:
                    session.add_result("embed", result)
                    message = f"Stopped; the vectors are in obsm[{result.key!r}] already, the layout is as it was."
                    raise Cancelled(message) from None
                key = write_plane(session.adata, result.key, plane)
            session.use_layout(key)
            session.rewritten(result.key, key)
            session.add_result("embed", result)
            n = len(result.vectors)
            progress(n, n, f"Vectors are in obsm[{result.key!r}], places in obsm[{key!r}]")
            return {"key": result.key, "layout": key}

        return session.submit("embed", work, label="Running the model", lane="embed", of=source)

    def _forget_plan(self, future: Future[Any], source: str) -> None:
        if future.cancelled() or future.exception() is None:
            return
        # What went wrong is on the screen; the panel offers to ask again.
        status = "stopped" if isinstance(future.exception(), Cancelled) else "none"
        self.session.publish(_plan={"model": source, "status": status})
