"""The Compare panel: the picked model and another one on the same cells, side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, ModelError
from scfm_widgets import describe
from scfm_widgets.codec import plain
from scfm_widgets.panels import Panel
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event

    from scfm_lab.results import Result
    from scfm_widgets.session import Session


class ComparePanel(Panel):
    """Runs both models and shows how far they agree."""

    title = "Compare"
    component = "compare"
    answers = ("compare",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.on_result.append(self._show)

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``compare``: the other model, and a column of groups."""
        return self.run(str(message["against"]), groupby=self.session.grouping(message.get("groupby")))

    def run(self, against: str, *, groupby: str | None = None) -> Future[Any]:
        """Embed the cells with both models, lay both out, and compare their neighbours.

        Parameters
        ----------
        against
            Source of the model that the picked one is compared with.
        groupby
            Column of ``obs`` with groups that a good model keeps apart.
        """
        session = self.session
        source = session.require_model()

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            from scfm_lab.tasks.compare import compare
            from scfm_lab.tasks.layout import umap_plane, write_plane

            if session.same_model(source, against):
                message = "These are the same model; pick another one to compare with."
                raise ModelError(message)
            pair = []
            for name in (source, against):
                progress(0, 0, f"opening {name}")
                pair.append(session.open_model(name, cancel))
            result = compare(
                session.adata,
                *pair,
                groupby=groupby,
                progress=lambda done, total, *_: progress(done, total, "embedding"),
                cancel=cancel,
            )
            planes = []
            for key in result.keys:
                progress(0, 0, f"laying out {key}")
                plane = abandonable(partial(umap_plane, session.adata.obsm[key]), cancel)
                planes.append(write_plane(session.adata, key, plane))
            session.use_layout(planes[0])
            session.rewritten(*result.keys, *planes)
            session.state = {**session.state, "second": planes[1], "against": against}
            session.add_result("compare", result)
            progress(0, 0, f"Vectors are in obsm[{result.keys[0]!r}] and obsm[{result.keys[1]!r}]")
            return {}

        return session.submit("compare", work, label="Comparing", lane="compare")

    def _show(self, task: str, result: Result) -> None:
        if task != "compare":
            return
        compared: Any = result
        if len(compared.models) != 2:
            message = "A comparison is of two models."
            raise DataError(message)
        self.session.publish(
            _compared={
                "version": self.session.next_version(),
                "models": list(compared.models),
                "groupby": compared.groupby,
                "n_neighbors": compared.n_neighbors,
                "rows": describe.in_order(
                    plain(compared.table.to_dict(orient="records")), self.session.columns.order(compared.groupby)
                ),
                "summary": compared.summary(),
            }
        )
