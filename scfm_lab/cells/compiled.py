"""Loops that numba compiles: what arrays of all counts cannot do in one pass.

The machine code is kept where Python keeps its own (``__pycache__`` beside the module, else numba's folder of the user),
so that only the first process after an installation compiles. Where neither can be written to, every process does.
Modules with such loops are imported inside the functions that call them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled when it is first called; it runs without the interpreter's lock."""
    try:
        return njit(nogil=True, cache=True)(function)
    # numba says so when it finds no folder to write to.
    except RuntimeError:
        return njit(nogil=True)(function)
