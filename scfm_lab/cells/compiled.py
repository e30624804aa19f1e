"""Loops that numba compiles: what arrays of all counts cannot do in one pass.

The machine code is kept where Python keeps its own (``__pycache__`` beside the module, else numba's folder of the user),
so that only the first process after an installation compiles. Where neither can be written to, on a full disk, and where
what was kept is damaged, the process compiles for itself.
Modules with such loops are imported inside the functions that call them.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from numba import njit
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable


#: What umap compiles in every process anew, nine seconds before the first plane or trajectory.
_UMAPS = {
    "umap.umap_": ("smooth_knn_dist", "compute_membership_strengths"),
    "umap.layouts": ("_nb_optimize_layout_euclidean_single_epoch",),
}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled when it is first called; it runs without the interpreter's lock."""
    return _kept(njit(nogil=True)(function))


def keep_code_of_umap() -> None:
    """Keep the machine code of umap's loops for the next process too; to be called before scanpy calls them."""
    for module, names in _UMAPS.items():
        for name in names:
            function: Any = getattr(import_module(module), name, None)
            # Another version may have other functions, or keep their code itself.
            if isinstance(function, Dispatcher) and isinstance(getattr(function, "_cache", None), NullCache):
                _kept(function)


def _kept(dispatcher: Any) -> Any:
    try:
        dispatcher.enable_caching()
    # numba says so when it finds no folder to write to.
    except RuntimeError:
        return dispatcher
    # numba has no setting for it, and would stop with the error of the file.
    dispatcher._cache = _Forgiving(dispatcher._cache)  # noqa: SLF001
    return dispatcher


class _Forgiving:
    """numba's cache of one function, of which nothing that goes wrong with its files is a reason to fail."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Kept machine code; None where there is none that can be read."""
        try:
            return self._cache.load_overload(signature, target)
        except Exception:  # noqa: BLE001 - a damaged file may raise anything
            # The index goes as well, so that what is compiled now can be kept.
            with contextlib.suppress(OSError):
                self._cache.flush()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep machine code, if there is room for it."""
        with contextlib.suppress(OSError):
            self._cache.save_overload(signature, data)
