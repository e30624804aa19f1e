"""Files whose hashes are known: what is read of them is what was hashed, or nothing is opened.

A hash that was compared a moment ago says nothing about the bytes that are read now: between the two somebody can put another
file into its place. So weights are read once, into memory of their own, and it is that memory which is hashed and of which the
tensors are made. The other files are hashed afterwards, and it is seen that none was touched meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

_CHUNK = 1 << 26


class ChangedFileError(ModelError):
    """A file is not what its hash says.

    Attributes
    ----------
    path
        Which file.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


_NOW: ContextVar[Pins | None] = ContextVar("scfm_pinned_files", default=None)


class Pins:
    """The files of one model that is being opened.

    Parameters
    ----------
    hashes
        Path → SHA-256, 64 hexadecimal digits.
    label
        What messages call the model.
    known
        Whether their numbers were looked through before, when they were registered or opened first.
    """

    def __init__(self, hashes: Mapping[Path, str], label: str, *, known: bool = True) -> None:
        self._hashes, self._label, self.known = dict(hashes), label, known
        self._stamps = {path: _stamp(path) for path in self._hashes}
        self._read: set[Path] = set()
        self._metadata: dict[Path, dict[str, str]] = {}
        self._coming: dict[Path, Future[tuple[NDArray[np.uint8], str]]] = {}

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Within, the weights are read while settings and vocabularies are, where they are one file, which will be asked for."""
        weights = [path for path in self._hashes if path.suffix == ".safetensors"]
        with ThreadPoolExecutor(1) as beside:
            if len(weights) == 1:
                self._coming[weights[0]] = beside.submit(_read, weights[0])
            try:
                yield
            finally:
                self._coming.clear()

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def hash_of(self, path: Path) -> str | None:
        """The hash that a file has, since it would be refused otherwise; ``None`` for a file that is not pinned."""
        return self._hashes.get(path)

    def tensors(self, path: Path) -> dict[str, torch.Tensor]:
        """Read a safetensors file once: the bytes that were hashed are the memory of the tensors.

        Raises
        ------
        ChangedFileError
            Its hash is another one.
        ModelError
            It is no safetensors file.
        """
        coming = self._coming.pop(path, None)
        content, digest = _read(path) if coming is None else coming.result()
        if digest != self._hashes[path]:
            raise self._refused(path)
        self._read.add(path)
        try:
            found, self._metadata[path] = _parsed(content)
            return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, RuntimeError) as error:
            message = f"{path} is damaged or no safetensors file ({len(content):,} bytes; {error!r:.200}). Get the file again."
            raise ModelError(message) from error

    def metadata(self, path: Path) -> dict[str, str]:
        """What stands beside the tensors in a safetensors file that was read here: of the bytes that were hashed."""
        return self._metadata[path]

    def confirm(self) -> None:
        """See that nothing was changed while the model was opened.

        Raises
        ------
        ChangedFileError
            A file was.
        """
        for path, expected in self._hashes.items():
            # What was not read here may have been changed before it was looked at here, and weights were not hashed before.
            unread = path not in self._read
            if _stamp(path) != self._stamps[path] or (unread and _sha256(path) != expected):
                raise self._refused(path)

    def _refused(self, path: Path) -> ChangedFileError:
        message = (
            f"{self._label} is refused: {path} is damaged: its bytes are not those that were registered. Restore the file from a "
            "backup, or register the model again."
        )
        return ChangedFileError(message, path)


@contextmanager
def pinned(hashes: Mapping[Path, str], label: str, *, known: bool = True) -> Iterator[None]:
    """Within, these files are read as what their hashes say; refused at the end if one was changed meanwhile.

    Parameters
    ----------
    hashes, label, known
        As for :class:`Pins`.

    Raises
    ------
    ChangedFileError
        A file is not what its hash says; also where the block has failed for another reason, which that explains.
    """
    pins = Pins(hashes, label, known=known)
    token = _NOW.set(pins)
    try:
        with pins.ahead():
            yield
    except ChangedFileError:
        raise
    except Exception:
        # What was not read through the pins is damaged in words of its own, from which nobody would know that its bytes changed.
        pins.confirm()
        raise
    finally:
        _NOW.reset(token)
    pins.confirm()


def pins_of(path: Path) -> Pins | None:
    """What pins a file just now, if anything does."""
    pins = _NOW.get()
    return pins if pins is not None and pins.hash_of(path) is not None else None


def owned() -> bool:
    """Whether what is read just now lies in memory of its own already, and not in a mapped file that it must outlive."""
    pins = _NOW.get()
    return pins is not None and bool(pins)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with any change of a file: which one it is, its size and its times."""
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[NDArray[np.uint8], str]:
    """The bytes of a file, and the hash of these very bytes; each part is hashed while the next one is read."""
    content = np.empty(path.stat().st_size, dtype=np.uint8)
    view, digest, done = content.data, hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as beside, path.open("rb", buffering=0) as file:
        while count := file.readinto(view[done : done + _CHUNK]):
            beside.submit(digest.update, view[done : done + count])
            done += count
    # Of a file that has become shorter the rest of the memory was never written, and is no part of the hash either.
    return content, digest.hexdigest() if done == len(content) else ""


def _sha256(path: Path) -> str:
    """Of a file's bytes; of one that is not there, or cannot be read, nothing that any file has."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _parsed(content: NDArray[np.uint8]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file that lies in memory, which share it, and what stands beside them.

    The safetensors library would copy each tensor out of what it is given. What it refuses is refused here too; a name that stands
    there twice, of which it takes one, besides.
    """
    import torch

    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(content[8:start].tobytes(), object_pairs_hook=once)
    beside = header.pop("__metadata__", {})
    _check_places(header, len(content) - start)
    whole = torch.from_numpy(content)
    found = {}
    for name, about in header.items():
        dtype, shape, (begin, end) = _dtypes()[about["dtype"]], about["shape"], about["data_offsets"]
        if begin == end:
            found[name] = torch.empty(shape, dtype=dtype)
            continue
        part = whole[start + begin : start + end]
        # Tensors stand where their numbers can be read from, but for files of other writers.
        found[name] = (part if (start + begin) % dtype.itemsize == 0 else part.clone()).view(dtype).reshape(shape)
    return found, beside


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names are all different: of two of one name, two readers would take different ones.

    Raises
    ------
    ValueError
        They are not.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names something twice")
    return found


def _check_places(header: Mapping[str, Any], size: int) -> None:
    """See that the tensors fill the bytes behind the header one after the other, each as many as its shape takes."""
    done = 0
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (begin, end) = about["shape"], about["data_offsets"]
        plain = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        if not plain or begin != done or end - begin != math.prod(shape) * _dtypes()[about["dtype"]].itemsize:
            raise ValueError(f"{name[:80]!r} does not lie where its shape says")
        done = end
    if done != size:
        raise ValueError(f"its tensors take {done:,} bytes of {size:,}")


def _dtypes() -> dict[str, torch.dtype]:
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
