"""What files of weights say of themselves: names of tensors, and of code; nothing of them is opened or run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_converted, names, stored
from scfm_lab.models.sharded import is_index, weight_map

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_HEADER = 1 << 26


def tensor_names(path: Path) -> frozenset[str]:
    """Names of the tensors in a safetensors file or torch archive, without opening them; empty if it is neither.

    For a torch archive they are all texts in its pickle, which is taken apart and not run.
    """
    import pickletools

    if is_index(path):
        return frozenset(weight_map(path)) if path.is_file() else frozenset()
    path = stored(path)
    if is_converted(path):
        return names(path)
    found: set[str] = set()
    try:
        if is_safetensors(path):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                return frozenset(json.loads(file.read(size))) if size < _LARGEST_HEADER else frozenset()
        data = pickle_of(path)
        # Files of torch < 1.6 are several pickles, one behind the other; the fourth holds the names.
        for _ in range(5):
            end = 0
            for _, value, at in pickletools.genops(data):
                end = at or 0
                if isinstance(value, str):
                    found.add(value)
            data = data[end + 1 :]
            if not data:
                break
    # What was read before the damage, or before the tensors' own bytes begin, counts.
    except Exception:  # noqa: BLE001
        return frozenset(found)
    return frozenset(found)


def is_safetensors(path: Path) -> bool:
    """Whether a file is of that format by its name, or by its first bytes, whatever it is called."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            # The length of the header in eight bytes, then its JSON.
            return file.read(9)[4:] == b"\0\0\0\0{"
    except OSError:
        return False


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, be it a damaged one; torch >= 1.6 writes such."""
    import zipfile

    try:
        return zipfile.is_zipfile(path)
    # An end of the archive that was found, and says what no archive of torch does.
    except zipfile.BadZipFile:
        return True


def pickle_of(path: Path) -> bytes:
    """The pickle of a torch archive, or the beginning of a file that is none; it is not run.

    Raises
    ------
    ModelError
        If the archive is damaged.
    """
    import zipfile

    if not is_archive(path):
        with path.open("rb") as file:
            return file.read(_LARGEST_HEADER)
    try:
        with zipfile.ZipFile(path) as archive:
            index = [e for e in archive.infolist() if e.filename.endswith("data.pkl") and e.file_size < _LARGEST_HEADER]
            return archive.read(index[0]) if index and index[0].compress_type == zipfile.ZIP_STORED else b""
    # Names, sizes and checksums of a damaged archive each fail in their own way.
    except Exception as error:
        raise ModelError(f"{path} is damaged ({error}); get the file again.") from error


def named_code(path: Path) -> str:
    """The first thing that a pickle names and that is neither torch's nor numpy's, as ``GLOBAL <name>``; ``""`` without one.

    The pickle is taken apart and not run, whatever its protocol.
    """
    import pickletools

    try:
        data = pickle_of(path)
    except (OSError, ModelError):
        return ""
    texts: list[str] = []
    try:
        while data:
            end = 0
            for code, value, at in pickletools.genops(data):
                name = str(value).replace(" ", ".") if code.name in ("GLOBAL", "INST") else ""
                if code.name == "STACK_GLOBAL":
                    name = ".".join(texts[-2:])
                elif isinstance(value, str):
                    texts.append(value)
                if name and name.split(".")[0] not in ("torch", "numpy", "collections", "_codecs"):
                    return f" GLOBAL {name}"
                end = at or 0
            data = data[end + 1 :]
    # A damaged pickle names nothing any more.
    except Exception:  # noqa: BLE001
        return ""
    return ""
