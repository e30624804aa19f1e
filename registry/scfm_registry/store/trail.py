"""Where the lines of the audit trail are kept: a file beside an embedded registry, runs on a server.

MLflow has nothing that can only grow. A file can, as long as everybody appends under the registry's lock; on a server each
line is a run of its own, and what makes its loss noticeable is in the lines themselves (:mod:`scfm_registry.audit`).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from scfm_registry.store.place import storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_registry.store.facade import Store

#: Name of the file in an embedded registry's folder.
FILE = "audit.jsonl"
#: Task of the runs that are lines, and the tag that holds one.
TASK, TAG = "audit", "scfm.audit.line"
#: Tag of a registered model that holds the hash of its last line, so that cutting off the end is noticed.
ANCHOR = "scfm.audit"

_TAIL = 2**16


def lines(store: Store, digest: str = "") -> list[str]:
    """Lines as they were written, oldest first; `digest` may leave out those about other versions."""
    if store.place.embedded:
        try:
            return _path(store).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, _path(store)) from error
    # A line is in the run's tags, and there from the first moment on.
    found = store.runs(TASK, {"scfm.digest": digest} if digest else None, cut=True)
    return [run.tags[TAG] for run in found if TAG in run.tags]


def last(store: Store) -> list[str]:
    """The newest lines, enough to find those that no other refers to."""
    if not store.place.embedded:
        return [run.tags[TAG] for run in store.runs(TASK, newest=20, cut=True) if TAG in run.tags]
    try:
        with _path(store).open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - _TAIL))
            tail = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, _path(store)) from error
    # Two, since the last may be what a killed process wrote of one.
    return tail.splitlines()[-2:]


def append(store: Store, entry: dict[str, Any], line: str) -> None:
    """Add a line; on an embedded registry the caller holds its lock, and the line is on the disk afterwards.

    Raises
    ------
    StorageError
        The disk is full or read-only, or the server refuses.
    """
    if not store.place.embedded:
        tags = {"scfm.task": TASK, "scfm.digest": str(entry.get("digest", "")), TAG: line}
        store.log_run(f"{entry['action']} {entry.get('reference', '')}".strip(), tags, {})
        return
    path = _path(store)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _mend(handle)
            _write_whole(handle, line.encode() + b"\n")
        finally:
            os.close(handle)
    except OSError as error:
        raise storage_error(error, path) from error


def _write_whole(handle: int, content: bytes) -> None:
    """Write a line through to the disk, or nothing of it: the system may take a part and refuse the rest."""
    before = os.fstat(handle).st_size
    try:
        while content:
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def _mend(handle: int) -> None:
    """Take away what a killed process wrote of a line: nobody was told that it is there."""
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _TAIL, max(0, size - _TAIL))
    if tail and not tail.endswith(b"\n"):
        rest = tail[tail.rfind(b"\n") + 1 :]
        try:
            json.loads(rest)
        except ValueError:
            os.ftruncate(handle, size - len(rest))
        else:
            os.write(handle, b"\n")


def _path(store: Store) -> Path:
    if store.place.folder is None:
        raise ValueError("only an embedded registry has a folder")
    return store.place.folder / FILE
