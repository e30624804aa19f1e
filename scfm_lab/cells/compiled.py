"""Loops that numba compiles: what arrays of all counts cannot do in one pass.

The machine code is kept where Python keeps its own (``__pycache__`` beside the module, else numba's folder of the user),
so that only the first process after an installation compiles. Where neither can be written to, on a full disk, and where
what was kept is damaged, the process compiles for itself.
Modules with such loops are imported inside the functions that call them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled when it is first called; it runs without the interpreter's lock."""
    try:
        dispatcher: Any = njit(nogil=True, cache=True)(function)
    # numba says so when it finds no folder to write to.
    except RuntimeError:
        return njit(nogil=True)(function)
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
