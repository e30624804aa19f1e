"""The cell of a notebook that is running: by its id, what a former run of it has left behind is told from what is still in use.

IPython is loaded by whoever has cells; nothing else here needs it.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_widgets.lab import Lab

#: Benches by the cell that has made them.
_made: dict[str, list[weakref.ref[Lab]]] = {}


def shell() -> Any:
    """IPython's shell with a kernel behind it, else ``None``."""
    ipython: Any = sys.modules.get("IPython")
    found = None if ipython is None else ipython.get_ipython()
    return found if getattr(found, "kernel", None) is not None else None


def running_cell() -> tuple[str, str]:
    """Id of the cell that is running, and of this run of it; empty where the front end does not tell."""
    here = shell()
    parent = dict(getattr(here, "parent_header", None) or {}) if here is not None else {}
    cell = dict(parent.get("metadata") or {}).get("cellId") or ""
    run = dict(parent.get("header") or {}).get("msg_id") or ""
    return (str(cell), str(run)) if cell and run else ("", "")


def replace_former(lab: Lab) -> None:
    """Close the benches that a former run of this cell has made, once nothing leads to them any more.

    A bench holds cells, a model and threads, and ipywidgets keeps every widget until it is closed. One is closed where its cell
    runs again, after that run, unless a variable still holds it, another cell shows it, or it is of other cells.
    """
    cell, run = running_cell()
    here = shell()
    if not cell or here is None:
        return
    lab.made_in = (cell, run)
    there = [ref for ref in _made.get(cell, []) if ref() is not None]
    _made[cell] = [*there, weakref.ref(lab)]
    former = [one for ref in there if (one := ref()) is not None and one.made_in[1] != run]
    if not former:
        return
    mine = weakref.ref(lab)

    def after(*_: Any) -> None:
        here.events.unregister("post_run_cell", after)
        new = mine()
        for one in former:
            if new is not None and is_left_behind(one, new, cell, here.user_ns):
                one.close()
        _made[cell] = [ref for ref in _made.get(cell, []) if ref() is not None and ref() not in former]

    here.events.register("post_run_cell", after)


def is_left_behind(one: Lab, new: Lab, cell: str, names: dict[str, Any]) -> bool:
    """Whether nobody can reach a bench any more that another one of the same cells has followed in its cell."""
    # What the notebook keeps of outputs has names of its own: "_", "_12", "Out".
    held = any(value is one for name, value in names.items() if not name.startswith("_"))
    return not held and one.is_open and one.shown_in <= {cell} and one.adata is new.adata
