"""Write a bundle's zip: nothing in it is packed, and everything has its order and one date."""

from __future__ import annotations

import hashlib
import os
import zipfile
from typing import IO, TYPE_CHECKING

from scfm_lab.errors import ModelError, StorageError
from scfm_registry.store.place import storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scfm_registry.manifest import FileEntry

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20


def write(target: Path, texts: Mapping[str, bytes], files: Mapping[str, tuple[Path, FileEntry]]) -> None:
    """Write a file that is there whole or not at all.

    Parameters
    ----------
    target
        The file.
    texts
        Path in the zip → content.
    files
        Path in the zip → a file, and what it must hold.

    Raises
    ------
    ModelError
        A file has changed meanwhile.
    StorageError
        The place cannot be written.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(unfinished, "x", zipfile.ZIP_STORED) as archive:
            for path in sorted({*texts, *files}):
                info = zipfile.ZipInfo(path, _EPOCH)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                if path in texts:
                    archive.writestr(info, texts[path])
                    continue
                source, entry = files[path]
                info.file_size = entry.size
                with archive.open(info, "w", force_zip64=entry.size > 2**31) as out:
                    _copy(source, out, entry)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, target, what="The bundle") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(source: Path, out: IO[bytes], entry: FileEntry) -> None:
    """Copy a file; what is written is what was hashed."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    if (digest.hexdigest(), size) != (entry.sha256, entry.size):
        raise ModelError(f"{source} was changed while it was exported; nothing was written. Verify the version.")
