"""The cell of a notebook that is running: by its id, what a former run of it has left behind is told from what is still in use.

IPython is loaded by whoever has cells; nothing else here needs it.
"""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any

from traitlets import HasTraits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_widgets.lab import Lab

#: Names that IPython gives a notebook; what it keeps of outputs begins with "_" or lies in "Out".
_IPYTHONS = ("In", "Out", "exit", "quit", "get_ipython")
#: From a variable to a bench in it, through lists, dictionaries and attributes: most steps, and most things looked at.
_MOST_STEPS = 4
_MOST_THINGS = 100_000

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
    runs again, after that run, unless a variable still holds it (also in a list, a dictionary or an attribute), another cell
    shows it, or it is of other cells.
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
    if not (one.is_open and one.shown_in <= {cell} and one.adata is new.adata):
        return False
    own = [value for name, value in names.items() if not name.startswith("_") and name not in _IPYTHONS]
    return not leads_to(one, own, past=[names, names.get("Out"), shell()])


def leads_to(wanted: Any, values: Iterable[Any], *, past: Iterable[Any] = ()) -> bool:
    """Whether one of some values is what is wanted or holds it; also where they hold too much to look through.

    Parameters
    ----------
    past
        What is not looked into.
    """
    seen = {id(value) for value in past}
    within = list(values)
    for _ in range(_MOST_STEPS + 1):
        fresh = {id(value): value for value in within if id(value) not in seen}
        if id(wanted) in fresh:
            return True
        seen |= fresh.keys()
        within = []
        for value in fresh.values():
            # Numbers and texts, of which there may be millions, hold nothing.
            within += filter(gc.is_tracked, _held_by(value))
            if len(within) > _MOST_THINGS:
                return True
    return False


def _held_by(value: Any) -> list[Any]:
    """What lies in a container or in the attributes of an object, also of a class."""
    if isinstance(value, ModuleType):
        return []
    if isinstance(value, HasTraits):
        # A box shows other widgets; all else that a widget has leads to every widget there is.
        children = getattr(value, "children", None)
        return list(children) if isinstance(children, list | tuple) else []
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    try:
        return list(vars(value).values())
    # Numbers, arrays, and what keeps its attributes in slots.
    except TypeError:
        return []
