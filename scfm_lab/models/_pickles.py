"""A reader of pickles that can build containers, text, numbers and arrays of them, and nothing else."""

from __future__ import annotations

import io
import itertools
import pickle  # noqa: TID251 - this is the module that makes it harmless
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NUMBER = re.compile(r"^[<>|=]?[biuf]\d{1,2}$|^bool$")
_TEXT = re.compile(r"^[<>|=]?U\d{1,6}$")
_OBJECT = re.compile(r"^\|?O\d?$")


class Refused(Exception):
    """The pickle names something that is not plain data."""

    def __init__(self, name: str) -> None:
        super().__init__(f"GLOBAL {name}")


class Endless(ValueError):
    """The content is nothing that could be written down in full."""


_ITSELF = "a container in it holds itself"
_UNDER_WAY = object()
#: Things and letters that any file may unfold to, and how many for each of its bytes.
_MOST, _TIMES = 2**28, 4


class _DType:
    """What a pickled numpy dtype becomes here: a name and a byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else str(name)
        if not (_NUMBER.match(text) or _TEXT.match(text) or _OBJECT.match(text)):
            raise Refused(f"numpy.dtype({text!r})")
        self.dtype = np.dtype("O") if _OBJECT.match(text) else np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _DType) or dtype.dtype.kind not in "biufU":
        raise Refused("numpy.core.multiarray.scalar of something that is neither text nor a number")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if dtype.dtype.kind == "U":
        return str(np.frombuffer(raw, dtype.dtype, count=1)[0]) if raw else ""
    # Native byte order, whatever machine wrote it.
    return np.frombuffer(raw, dtype.dtype, count=1).astype(dtype.dtype.newbyteorder("="))[0]


class _Array:
    """What a pickled numpy array becomes here, until its state is known."""

    value: np.ndarray | None = None

    def __init__(self, kind: Any = None, *_: Any) -> None:
        if kind is not _Array:
            raise Refused("numpy.core.multiarray._reconstruct of something that is no plain array")

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = _array(data, dtype, shape, "F" if by_columns else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise Refused("a numpy array of something that is neither text nor numbers")
    if dtype.dtype.kind == "O":
        flat = np.empty(len(data), dtype=object)
        flat[:] = [str(v) if isinstance(v, str) else _plain(v) for v in data]
    else:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        flat = np.frombuffer(raw, dtype.dtype).astype(dtype.dtype.newbyteorder("="))
    return flat.reshape(tuple(int(n) for n in shape), order="F" if order == "F" else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    made = _Array(_Array)
    made.value = _array(data, dtype, shape, str(order))
    return made


class _Named:
    """What a name becomes here that means no class: the same for every pickle, so none may change it.

    A pickle may give anything on its stack a state, which without ``__setstate__`` would go into its attributes.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"{self.name} with a state")


class _Kind(_Named):
    """What the name of a built-in type becomes here: nothing that could be called."""

    __slots__ = ()

    def __call__(self, *_: Any) -> Any:
        raise Refused(self.name)


class _Call(_Named):
    """A function that a pickle may call."""

    __slots__ = ("_run",)

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        super().__init__(name)
        self._run = run

    def __call__(self, *given: Any) -> Any:
        return self._run(*given)


def _defaultdict(factory: Any = None, *_: Any) -> dict[Any, Any]:
    # What it would make of a key that is not there is not data; its entries follow in the pickle.
    if factory is not None and not isinstance(factory, _Kind):
        raise Refused("collections.defaultdict of something that is no built-in type")
    return {}


def _plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """A value with its arrays finished; what stands in it at several places is made once, and stands there again."""
    if isinstance(value, _Named):
        raise Refused(value.name)
    if isinstance(value, _Array):
        if value.value is None:
            raise Refused("a numpy array without its state")
        return value.value
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return value
    done = {} if done is None else done
    if id(value) in done:
        if done[id(value)] is _UNDER_WAY:
            raise Endless(_ITSELF)
        return done[id(value)]
    done[id(value)] = _UNDER_WAY
    if isinstance(value, dict):
        made: Any = type(value)((_plain(k, done), _plain(v, done)) for k, v in value.items())
    else:
        made = type(value)(_plain(v, done) for v in value)
    done[id(value)] = made
    return made


def check_unfolded(content: Any, size: int) -> None:
    """Refuse content that is small in its file and has no end, or nearly none, where it is written down in full.

    A list may stand in another at two places, that one in a third at two, and so on: thirty such lines are a thousand million
    things to whoever goes into each.

    Parameters
    ----------
    content
        Containers, text, numbers, arrays and tensors.
    size
        Bytes of its file.

    Raises
    ------
    Endless
        It holds itself, or unfolds to more than its bytes explain.
    """
    met = _unfolded(content, {})
    if met > max(_MOST, _TIMES * size):
        raise Endless(f"it unfolds to {met:,} things and letters")


def _unfolded(value: Any, known: dict[int, int | None]) -> int:
    """Things and letters that somebody meets who goes into every container, at every place where it stands."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if isinstance(value, dict):
        parts: Iterable[Any] = itertools.chain(value.keys(), value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif isinstance(value, np.ndarray) and value.dtype == object:
        parts = value.flat
    else:
        return 1 + (value.nbytes if isinstance(value, np.ndarray) else 0)
    if id(value) in known:
        met = known[id(value)]
        if met is None:
            raise Endless(_ITSELF)
        return met
    known[id(value)] = None
    met = 1 + sum(_unfolded(part, known) for part in parts)
    known[id(value)] = met
    return met


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How older protocols spell bytes.
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode({encoding!r})")
    return str(text).encode("latin1")


_KINDS = ("int", "float", "str", "bool", "list", "dict", "set", "tuple")
_FROM_BUFFER = _Call("numpy.core.numeric._frombuffer", _from_buffer)
_SCALAR = _Call("numpy.core.multiarray.scalar", _scalar)
# Nothing here can be changed by a pickle: the two classes take no state themselves, nor do the things of `_Named`.
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, name): _Kind(f"builtins.{name}") for module in ("builtins", "__builtin__") for name in _KINDS},
    ("collections", "OrderedDict"): _Call("collections.OrderedDict", OrderedDict),
    ("collections", "defaultdict"): _Call("collections.defaultdict", _defaultdict),
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("_codecs", "encode"): _Call("_codecs.encode", _encode),
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise Refused(f"persistent object {pid!r}")


def load(data: bytes) -> Any:
    """Read a pickle.

    Raises
    ------
    Refused
        If it names anything but containers, text, numbers and arrays of them.
    Endless
        If a container holds itself, or shared ones unfold to more than its bytes explain.
    """
    content = _plain(_Plain(io.BytesIO(data)).load())
    check_unfolded(content, len(data))
    return content
