"""What a bench hands out of its state and its doses: to be read, and changed by assigning.

A change in place would reach nobody: the bench hears of what is assigned, and would take the same dictionary, changed, for no
change at all. So a change in place is an error that says what to assign; every copy is a plain dictionary of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Kept(dict[str, Any]):
    """A dictionary that is not changed in place.

    Parameters
    ----------
    values
        What it holds.
    name
        As what a person reads it: ``"lab.doses"``.
    assign
        What to assign instead, with ``{}`` where the changed item goes.
    """

    __slots__ = ("_assign", "_name")

    def __init__(self, values: Mapping[str, Any], name: str, assign: str) -> None:
        super().__init__(values)
        self._name, self._assign = name, assign

    def _refuse(self, *given: Any, **more: Any) -> NoReturn:
        del more
        changed = f"{given[0]!r}: {given[1]!r}" if len(given) == 2 else "…"
        raise _in_place(self._name, self._assign.replace("{}", changed))

    __setitem__ = _refuse
    __delitem__ = _refuse
    setdefault = _refuse

    def clear(self) -> NoReturn:
        """Refuse; see the class."""
        self._refuse()

    def pop(self, *_: Any) -> NoReturn:
        """Refuse; see the class."""
        self._refuse()

    def popitem(self) -> NoReturn:
        """Refuse; see the class."""
        self._refuse()

    def update(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse; see the class."""
        self._refuse()

    def __ior__(self, other: Any) -> dict[str, Any]:  # type: ignore[override,misc]
        """Give a new dictionary, which ``lab.doses |= {...}`` assigns."""
        return dict(self) | dict(other)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Copies and what is stored are plain."""
        return dict, (dict(self),)


class KeptList(list[Any]):
    """A list within a :class:`Kept`, which is not changed in place either."""

    __slots__ = ("_assign", "_name")

    def __init__(self, values: Sequence[Any], name: str, assign: str) -> None:
        super().__init__(values)
        self._name, self._assign = name, assign

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise _in_place(self._name, self._assign)

    __setitem__ = _refuse
    __delitem__ = _refuse
    __iadd__ = _refuse
    __imul__ = _refuse
    append = _refuse
    extend = _refuse
    insert = _refuse
    pop = _refuse
    remove = _refuse
    clear = _refuse
    sort = _refuse
    reverse = _refuse

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Copies and what is stored are plain."""
        return list, (list(self),)


def kept_doses(doses: Mapping[str, float]) -> dict[str, float]:
    """Doses as they are handed out."""
    return Kept(doses, "lab.doses", "lab.doses = {**lab.doses, {}}")


def kept_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it is handed out, its lists and dictionaries too."""
    held = {key: _held(key, value) for key, value in state.items()}
    return Kept(held, "lab.state", "lab.state = {{}}")


def _held(key: str, value: Any) -> Any:
    name = f"lab.state[{key!r}]"
    if isinstance(value, dict):
        return Kept(value, name, f"lab.state = {{{key!r}: {{**{name}, {{}}}}}}")
    if isinstance(value, list | tuple):
        return KeptList(value, name, f"lab.state = {{{key!r}: […]}}")
    return value


def _in_place(name: str, assign: str) -> DataError:
    return DataError(f"{name} is not changed in place, for the bench would not notice it; assign: {assign}.")
