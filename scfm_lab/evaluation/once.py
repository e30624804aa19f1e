"""What models are scored beside does not depend on them: a board that scores one after the other works it out once."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from scfm_lab.errors import CountsError, DataError, GenesError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

P = ParamSpec("P")
T = TypeVar("T")
_KEPT: ContextVar[dict[Hashable, Any] | None] = ContextVar("_KEPT", default=None)
_COMPONENTS = 50
#: What a floor raises that cannot be had: a model's own scores stand without it, and say why it is not there.
CANNOT_BE_HAD = (CountsError, DataError, GenesError)


@contextmanager
def floors_kept() -> Iterator[None]:
    """Within it, where only the model changes from call to call, what :func:`once` made is kept."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def once(key: Hashable, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `make` makes; within :func:`floors_kept` what it made before under the same key.

    Parameters
    ----------
    key
        What is made, and what of the model it depends on, such as the cells that the model sees.

    Examples
    --------
    >>> from scfm_lab.evaluation.once import floors_kept, once
    >>> with floors_kept():
    ...     once("floor", list) is once("floor", list)
    True
    """
    kept = _KEPT.get()
    if kept is None:
        return make(*args, **kwargs)
    if key not in kept:
        kept[key] = make(*args, **kwargs)
    made: T = kept[key]
    return made


def principal_components(cells: AnnData, *, layer: str | None = None) -> NDArray[Any]:
    """Vectors of cells by principal components that are fitted to the same cells, float32 (cells, components).

    Raises
    ------
    CountsError, DataError, GenesError
        There are no raw counts of known genes, or too few of them.
    """
    return once(("principal components", layer, tuple(cells.obs_names)), _principal_components, cells, layer)


def _principal_components(cells: AnnData, layer: str | None) -> NDArray[Any]:
    from scfm_lab.models.load import load_model

    pca: Any = load_model("pca")
    size = max(2, min(_COMPONENTS, cells.n_obs // 3, cells.n_vars // 3))
    fitted = pca.fit(cells, n_components=size, fewer=True, layer=layer)
    vectors: NDArray[Any] = fitted.encode(fitted.tokenize(cells, layer=layer)).cell
    return vectors
