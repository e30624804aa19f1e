"""The twin of a trajectory beside the cells: the order and the places that principal components of the counts give.

It is what :func:`scfm_lab.trajectory` has computed (``result.twin``), without any model, and not principal components of the
model's vectors: what stands beside a model's order must not be made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_lab.results import Result
    from scfm_widgets.session import Session

#: By which ``lab.state["second"]`` names it.
TWIN = "twin"
TITLE = "Principal components of the counts"


def twin_of(results: Mapping[str, Result]) -> Any:
    """Give the twin of the trajectory on the bench; ``None`` where there is none."""
    return getattr(results.get("trajectory"), "twin", None)


def twin_plane(session: Session) -> NDArray[np.float64] | None:
    """Where the twin has the cells, float (cells, 2); a plane of that name in ``obsm`` comes first."""
    twin = None if TWIN in session.adata.obsm else twin_of(session.results)
    return None if twin is None else np.asarray(twin.layout.before, dtype=np.float64)


def follow_twin(session: Session) -> None:
    """A new order has come: show its twin where that of the former one stands, and offer no twin that is not there."""
    session.publish(_layouts=session.all_planes())
    if session.state.get("second") != TWIN or TWIN in session.adata.obsm:
        return
    if twin_of(session.results) is None:
        session.state = {**session.state, "second": None}
    else:
        session.show_second(TWIN)


def twin_times(result: Any, labels: NDArray[Any]) -> dict[str, float]:
    """Median of the twin's pseudotime by group; NaN for a group that cannot be reached there."""
    times = np.asarray(result.twin.pseudotime, dtype=float)
    found = {}
    for group in sorted(set(labels)):
        known = times[(labels == group) & np.isfinite(times)]
        found[str(group)] = float(np.median(known)) if len(known) else float("nan")
    return found
