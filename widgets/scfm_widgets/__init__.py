"""scfm_widgets: the bench, a notebook surface for single-cell foundation models.

>>> from scfm_widgets import Lab  # doctest: +SKIP
>>> Lab(adata)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_widgets.lab import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from scfm_widgets.lab import Lab

        return Lab
    raise AttributeError(f"module 'scfm_widgets' has no attribute {name!r}")
