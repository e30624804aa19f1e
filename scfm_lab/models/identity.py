"""What an opened model's vectors depend on besides its weights, as one digest.

The digest of the weights does not tell two folders apart whose settings, vocabularies or dictionaries differ. Whatever of
that decides over a vector is held by the opened model, or lies in a file that it holds the path of; so everything that it
holds is looked through, and no family has to remember to name it. Large tensors are told by their shapes alone: they are the
weights, whose digest stands beside this one.
"""

from __future__ import annotations

import hashlib
import json
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scfm_lab.models.contract import Model

# Of larger tensors and files the shape or the size is told: what they hold is for the digest of the weights to say.
_TENSOR_BYTES, _FILE_BYTES = 1 << 20, 1 << 26
_SCALARS = (type(None), bool, int, float, complex, str, bytes)


def settings_digest(model: Model) -> str:
    """``sha256:<hex>`` of all that a model holds as it was opened: settings, vocabularies, dictionaries; the same on every machine.

    An object that keeps what can be made anew, or that knows where files lie, may say what of it counts with a method
    ``identity_parts()``; fields of data classes that take no part in comparisons are left out.
    """
    held = {name: value for name, value in vars(model).items() if name not in type(model).places}
    return f"sha256:{_Reader().of(held)}"


def digest_of_attribute(model: Model, name: str) -> str:
    """Digest of one attribute alone, to tell which of them differ."""
    return _Reader().of(getattr(model, name, None))


class _Reader:
    """Feeds values into a digest, each with its kind; an object that is met again is named by its number."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        # Kept, so that no other object gets the address of one that was seen.
        self._seen: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> str:
        self._read(value)
        return self._digest.hexdigest()

    def _say(self, kind: str, content: bytes | memoryview | str = b"") -> None:
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self._digest.update(f"{kind} {len(raw)}\n".encode())
        self._digest.update(raw)

    def _read(self, value: Any) -> None:
        if isinstance(value, _SCALARS) and not isinstance(value, Enum):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._say("again", str(self._seen[id(value)][0]))
            return
        self._seen[id(value)] = (len(self._seen), value)
        for kinds, read in self._kinds:
            if isinstance(value, kinds):
                read(value)
                return
        self._object(value)

    @cached_property
    def _kinds(self) -> list[tuple[Any, Callable[[Any], None]]]:
        import pandas as pd
        import torch

        functions = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)
        return [
            (Enum, lambda v: self._say("enum", f"{_name(type(v))}.{v.name}")),
            (np.generic, lambda v: self._say(f"scalar {v.dtype.str}", v.tobytes())),
            (np.ndarray, self._array),
            (torch.nn.Module, self._module),
            (torch.Tensor, self._tensor),
            (dict, self._dict),
            (types.MappingProxyType, lambda v: self._dict(dict(v))),
            ((list, tuple), self._list),
            ((set, frozenset), lambda v: self._list(sorted(_Reader().of(one) for one in v))),
            (Path, self._path),
            (partial, lambda v: self._list([v.func, list(v.args), dict(v.keywords)])),
            (types.MethodType, lambda v: self._list([v.__func__, v.__self__])),
            (functions, self._function),
            ((torch.dtype, torch.device, np.dtype), lambda v: self._say("dtype", str(v))),
            (
                pd.DataFrame,
                lambda v: self._list([list(v.columns), v.index.to_numpy(), *(v[c].to_numpy() for c in v.columns)]),
            ),
            (pd.Series, lambda v: self._list([v.index.to_numpy(), v.to_numpy()])),
            (pd.Index, lambda v: self._array(v.to_numpy())),
        ]

    def _plain(self, value: Any) -> bool:
        """Whether a container held nothing but plain values, and was read as one text."""
        try:
            text = json.dumps(value, ensure_ascii=True, check_circular=False)
        except (TypeError, ValueError, RecursionError):
            return False
        self._say("plain", text)
        return True

    def _dict(self, value: Mapping[Any, Any]) -> None:
        if self._plain(value):
            return
        self._say("dict", str(len(value)))
        for key, one in value.items():
            self._read(key)
            self._read(one)

    def _list(self, value: Any) -> None:
        if self._plain(value):
            return
        self._say("list", str(len(value)))
        for one in value:
            self._read(one)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        self._say("array", f"{value.dtype.kind} {value.shape}")
        if value.dtype.kind in "OT":
            self._list(value.ravel().tolist())
        else:
            self._say(value.dtype.str, np.ascontiguousarray(value).tobytes())

    def _tensor(self, value: Any) -> None:
        import torch

        self._say("tensor", f"{value.dtype} {tuple(value.shape)}")
        small = value.numel() * value.element_size() <= _TENSOR_BYTES
        if small and value.layout == torch.strided and value.device.type != "meta" and value.numel():
            plain = value.detach().cpu()
            # A tensor of one number counts as contiguous whatever its stride; a clone has none but 1.
            if not plain.is_contiguous() or value.numel() == 1:
                plain = plain.clone(memory_format=torch.contiguous_format)
            self._say("values", plain.reshape(-1).view(torch.uint8).numpy().data)

    def _module(self, value: Any) -> None:
        import torch

        bare = vars(torch.nn.Module())
        self._say("module", _name(type(value)))
        self._read({name: one for name, one in vars(value).items() if name not in bare})
        for part in ("_parameters", "_buffers", "_modules"):
            self._read(dict(getattr(value, part)))

    def _path(self, value: Path) -> None:
        files = sorted(value.iterdir()) if value.is_dir() else [value] if value.is_file() else []
        self._say("files", str(len(files)))
        for file in files:
            size = file.stat().st_size
            self._say(file.name, str(size))
            if file.is_file() and size <= _FILE_BYTES:
                with file.open("rb") as content:
                    self._say("content", hashlib.file_digest(content, "sha256").digest())

    def _function(self, value: Any) -> None:
        self._say("function", _name(value))
        if isinstance(value, types.FunctionType):
            # Nameless functions are told apart by what they call and with what.
            code = value.__code__
            self._list([*code.co_names, *(repr(c) for c in code.co_consts if isinstance(c, _SCALARS))])
            self._list([cell.cell_contents for cell in value.__closure__ or ()])
            self._list(list(value.__defaults__ or ()))

    def _object(self, value: Any) -> None:
        kind = type(value)
        self._say("object", _name(kind))
        if hasattr(kind, "identity_parts"):
            self._read(value.identity_parts())
        elif is_dataclass(value):
            self._read({f.name: getattr(value, f.name) for f in fields(value) if f.compare})
        else:
            # What is worked out when it is first asked for is not there yet in every process.
            lazy = {name for base in kind.__mro__ for name, v in vars(base).items() if isinstance(v, cached_property)}
            slots = [name for base in kind.__mro__ for name in _slots(base)]
            held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(
                value, "__dict__", {}
            )
            self._read({name: one for name, one in held.items() if name not in lazy})


def _slots(kind: type) -> tuple[str, ...]:
    named = vars(kind).get("__slots__", ())
    return tuple(n for n in ((named,) if isinstance(named, str) else named) if n not in ("__dict__", "__weakref__"))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
