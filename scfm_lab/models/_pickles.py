"""A reader of pickles that can build containers, text and numbers, and nothing else."""

from __future__ import annotations

import io
import pickle  # noqa: TID251 - this is the module that makes it harmless
import re
from collections import OrderedDict
from typing import Any

import numpy as np

_NUMBER = re.compile(r"^[<>|=]?[biuf]\d{1,2}$|^bool$")


class Refused(Exception):
    """The pickle names something that is not plain data."""

    def __init__(self, name: str) -> None:
        super().__init__(f"GLOBAL {name}")


class _DType:
    """What a pickled numpy dtype becomes here: a name and a byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else str(name)
        if not _NUMBER.match(text):
            raise Refused(f"numpy.dtype({text!r})")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _DType):
        raise Refused("numpy.core.multiarray.scalar of something that is no number")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    # Native byte order, whatever machine wrote it.
    return np.frombuffer(raw, dtype.dtype, count=1).astype(dtype.dtype.newbyteorder("="))[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How older protocols spell bytes.
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode({encoding!r})")
    return str(text).encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
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
        If it names anything but containers, text and numbers.
    """
    return _Plain(io.BytesIO(data)).load()
