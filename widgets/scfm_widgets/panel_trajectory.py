"""The Trajectory panel: from a root on, in order; paths over the cells and a chart beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_widgets import charts, describe
from scfm_widgets.code import exact_source
from scfm_widgets.panels import Panel, aside
from scfm_widgets.twin import TWIN, follow_twin, twin_plane, twin_times
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from threading import Event

    from numpy.typing import NDArray

    from scfm_lab.results import Result
    from scfm_widgets.session import Session

#: Width of the chart's plot in pixels; its labels come on top.
CHART_WIDTH = 165
#: Points on a curve of a gene, and draws of the bootstrap for its interval.
TREND_POINTS = 40
TREND_DRAWS = 100


class TrajectoryPanel(Panel):
    """Orders the cells along the newest embedding."""

    title = "Trajectory"
    component = "trajectory"
    answers = ("trajectory", "trends")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._told: dict[str, Any] | None = None
        session.on_result.append(self._show)
        session.on_second.append(self._follow)
        session.on_layout.append(self._follow)

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``trajectory`` (a root and a column of groups) or ``trends`` (genes)."""
        if message["type"] == "trends":
            return self.trends([str(gene) for gene in message["genes"]])
        return self.run(message.get("root"), groupby=self.session.grouping(message.get("groupby")))

    def run(self, root: Mapping[str, Any] | None, *, groupby: str | None = None) -> Future[Any]:
        """Order the cells from a root.

        Parameters
        ----------
        root
            ``{"group": name}`` or ``{"cell": row}``.
        groupby
            Column of ``obs`` whose groups the paths connect; ``None`` clusters the cells.
        """
        session = self.session
        # Known once the work has chosen its vectors: a run that still waits may write others.
        maker: list[str] = []

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            import scfm_lab as sl

            name = self._root_name(root, groupby)
            use_rep = self._representation()
            maker.append(self._maker(use_rep))
            progress(0, 0, f"ordering the cells along {use_rep}")
            cells = aside(session.adata)
            result = abandonable(
                lambda: sl.trajectory(cells, use_rep=use_rep, root=name, groupby=groupby, basis=session.layout), cancel
            )
            result.write(session.adata)
            session.add_result("trajectory", result)
            session.state = {
                **session.state,
                "colour": {"by": "result", "name": "pseudotime"},
                "hidden": [],
                "range": None,
                "paths": True,
            }
            progress(0, 0, f"Pseudotime is in obs[{result.key + '_pseudotime'!r}]")
            return {}

        return session.submit(
            "trajectory", work, label="Ordering the cells", lane="trajectory", of=lambda: "".join(maker)
        )

    def trends(self, genes: Sequence[str]) -> Future[Any]:
        """Smooth the expression of genes along each path, with an interval; the answer holds the curves."""
        session = self.session

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            del progress
            result: Any = session.results.get("trajectory")
            if result is None:
                message = "There is no trajectory to follow genes along; order the cells first."
                raise DataError(message)
            found = abandonable(
                lambda: result.trends(session.adata, genes, n_points=TREND_POINTS, n_boot=TREND_DRAWS), cancel
            )
            return {"curves": describe.trends(found), "unit": found.unit}

        return session.submit("trends", work, label="Genes along the paths", lane="trends", quiet=True)

    def _root_name(self, root: Mapping[str, Any] | None, groupby: str | None) -> str:
        if not root:
            message = "No root is picked; pick a group, or click the cell where the process begins."
            raise DataError(message)
        if root.get("cell") is not None:
            row = int(root["cell"])
            if not 0 <= row < self.session.adata.n_obs:
                message = f"There is no cell {row}; there are {self.session.adata.n_obs}."
                raise DataError(message)
            kind, name = "cell", str(self.session.adata.obs_names[row])
        else:
            kind, name = "group", str(root["group"])
        # What was clicked is known; only a name that cells and groups share has to say it. Without a column the groups are
        # clusters, whose names are numbers.
        obs = self.session.adata.obs
        groups = set(obs[groupby].astype(str)) if groupby else set()
        shared = name in groups and name in obs.index
        return f"{kind}:{name}" if shared or (kind == "cell" and not groupby and name.isdigit()) else name

    def _representation(self) -> str:
        """The vectors to order cells along: those of the last run here, else of one in an earlier session."""
        embedded: Any = self.session.results.get("embed")
        if embedded is not None:
            return str(embedded.key)
        adata = self.session.adata
        written = [
            key
            for key, record in dict(adata.uns.get("scfm", {})).items()
            if key in adata.obsm and str(dict(record).get("task")) == "embed"
        ]
        if written:
            return str(written[-1])
        if "X_pca" in adata.obsm:
            return "X_pca"
        message = "There are no vectors to order cells along; run a model first."
        raise DataError(message)

    def _maker(self, key: str) -> str:
        """Source of the model that made the vectors at a key; empty where none is known."""
        record = dict(dict(self.session.adata.uns.get("scfm", {})).get(key, {}))
        return exact_source(record) if record.get("model") else ""

    def _show(self, task: str, result: Result) -> None:
        if task == "trajectory":
            session = self.session
            drawn = charts.svg(result.plot(), width=CHART_WIDTH)
            self._told = describe.trajectory(result, session.frame, drawn, version=session.next_version())
            follow_twin(session)
            self._follow()

    def _follow(self) -> None:
        """Tell the trajectory on the plane that is shown, and on the second one where there is one."""
        session = self.session
        result: Any = session.results.get("trajectory")
        if result is None or self._told is None:
            return
        labels = self._labels(result)
        key, frame = session.state.get("second"), session.second_frame
        second: dict[str, Any] | None = None
        drawn: dict[str, Any] = {}
        if key and frame is not None and labels is not None:
            times = twin_times(result, labels) if key == TWIN and twin_plane(session) is not None else None
            plane = session.plane_at(key, twins=True)
            second = describe.paths_on(result, plane, frame, labels, key=key, times=times)
        if session.layout is not None and labels is not None:
            drawn = describe.paths_on(
                result, session.plane_at(session.layout), session.frame, labels, key=session.layout
            )
            del drawn["key"]
        elif session.layout != result.layout.basis:
            # Where its groups lie on this plane nobody knows.
            drawn = {"nodes": [], "edges": [], "paths": []}
        self._told = {**self._told, **drawn, "second": second, "version": session.next_version()}
        session.publish(_trajectory=self._told)

    def _labels(self, result: Any) -> NDArray[Any] | None:
        """Group of each cell, ``None`` where they are not known; cells that are not in order are in no group."""
        obs = self.session.adata.obs
        if result.graph is not None and result.rows is not None:
            labels = np.full(len(obs), "", dtype=object)
            labels[result.rows] = result.graph.labels
            return labels
        return obs[result.groupby].astype(str).to_numpy(dtype=object) if result.groupby in obs else None
