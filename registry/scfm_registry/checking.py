"""What is wrong with a registry, in words; looking changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scfm_lab.errors import ScfmError, StorageError
from scfm_lab.home import data_home
from scfm_registry import audit, builtin, confining, manifest
from scfm_registry.files import require_family, workshop
from scfm_registry.store import embedded, mounts
from scfm_registry.store.place import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scfm_registry.store.facade import Store
    from scfm_registry.store.place import Place
    from scfm_registry.version import ModelVersion, Record

#: Below this many bytes a disk counts as nearly full.
_LITTLE = 200 * 2**20
#: Seconds without writing after which a folder of no version counts as left over.
_LEFT = 3600


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        What was looked at.
    state
        ``"ok"``, ``"note"`` (works, but worth knowing) or ``"fault"``.
    words
        What was found, and what to do about it.
    """

    what: str
    state: Literal["ok", "note", "fault"]
    words: str


def check(uri: str | os.PathLike[str] | None = None, *, files: bool = False) -> list[Finding]:
    """Look at a registry: where it is, whether it can be written, its database, its versions, and their files if asked.

    Parameters
    ----------
    uri
        As for :class:`scfm_registry.Registry`.
    files
        Also compare every file of every version with its hash, which reads them all.
    """
    try:
        place = resolve(uri)
    except StorageError as error:
        return [Finding("place", "fault", str(error))]
    found = list(_place(place))
    if any(item.state == "fault" for item in found):
        return found
    if not place.read_only:
        found.append(_isolation())
    if any(item.what == "empty" for item in found):
        return found
    try:
        found.extend(_content(place, files=files))
    except ScfmError as error:
        found.append(Finding("versions", "fault", str(error)))
    return found


def _embedded(place: Place) -> Iterator[Finding]:
    folder, database = place.artifacts.parent, place.database
    yield Finding("place", "ok", f"embedded, in {folder}")
    if database is None or (not database.exists() and not (folder / embedded.MARKER).exists()):
        yield _writable(nearest(folder))
        yield Finding("empty", "note", "there is no registry yet; it is made when it is first used")
        return
    try:
        marker = embedded.read_marker(folder)
        if not database.exists() or database.stat().st_size == 0:
            state = "empty" if database.exists() else "missing"
            raise StorageError(f"{database} is {state}. {embedded.recovery(place)}")
        embedded.check_database(place)
    except StorageError as error:
        yield Finding("database", "fault", str(error))
        return
    yield Finding(
        "database", "ok", f"{database.name}, {database.stat().st_size / 2**20:.1f} MiB, passes SQLite's check"
    )
    mode = _journal(database)
    if mode != "wal":
        yield Finding("journal", "note", f"journal mode is {mode}; WAL lets readers go on while somebody writes")
    if marker is not None and marker.get("root") != place.artifacts.as_uri():
        yield Finding("moved", "note", "the folder was moved; its paths are set right when it is next used")
    yield _writable(folder)
    kind = mounts.kind_of(folder)
    if kind in mounts.NETWORK:
        yield Finding(
            "file system",
            "fault",
            f"{folder} is on a network file system ({kind}), where SQLite's locks cannot be relied upon; set SCFM_HOME to a "
            "local disk, or run a server for the lab",
        )


def _place(place: Place) -> Iterator[Finding]:
    if place.read_only:
        yield Finding("place", "ok", f"a mirror, in {place.folder}, which is only read")
    elif place.database is not None:
        yield from _embedded(place)
    elif place.embedded:
        yield from _postgresql(place)
    else:
        from scfm_registry.server.checking import look

        yield from look(place)


def _postgresql(place: Place) -> Iterator[Finding]:
    from scfm_registry.store import database

    folder = place.artifacts.parent
    yield Finding("place", "ok", f"{place.shown}, files in {folder}")
    try:
        kind = database.check(place.uri)
        revision = database.revision(place.uri)
    except StorageError as error:
        yield Finding("database", "fault", str(error))
        return
    if revision is None:
        yield _writable(nearest(folder))
        yield Finding("empty", "note", f"{kind} answers; the registry is made when it is first used")
        return
    from scfm_registry.store.engine import revisions

    head, _ = revisions()
    if revision != head:
        words = (
            f"{kind}: its schema ({revision}) is not that of the installed MLflow {embedded.mlflow_version()} ({head})"
        )
        yield Finding("database", "fault", f"{words}; install the lab's version, or migrate: mlflow db upgrade URI")
        return
    yield Finding("database", "ok", f"{kind}, its schema is that of MLflow {embedded.mlflow_version()}")
    yield _writable(nearest(folder))


def _content(place: Place, *, files: bool) -> Iterator[Finding]:
    from scfm_registry import version
    from scfm_registry.store import opened

    store = opened(place)
    all_records = store.records()
    records = [(record, found) for record in all_records if (found := version.read(record)) is not None]
    deleted = [record for record in all_records if version.read(record, trashed=True) is not None]
    names = {record.name for record, _ in records}
    yield Finding(
        "versions", "ok", f"{len(records)} versions of {len(names)} models: {', '.join(sorted(names)) or 'none'}"
    )
    if deleted:
        shown = ", ".join(f"{record.name}/{record.version}" for record in deleted)
        yield Finding("trash", "note", f"{shown}; 'scfm-lab models delete --purge' frees their space")
    missing = sorted(set(builtin.shipped()) - names)
    if missing and not place.read_only:
        yield Finding(
            "built-in models", "note", f"not registered here: {', '.join(missing)}; 'scfm-lab registry setup' does it"
        )
    for record, found in records:
        folder = store.files(record)
        if folder is None:
            if files:
                yield _served(store, record, found)
            continue
        if not (folder / manifest.FILENAME).is_file():
            yield Finding(
                found.reference,
                "fault",
                f"its files are missing from {folder}; restore them, or register the model again",
            )
        elif files:
            yield _hashes(folder, found)
    if silent := audit.without_line(store, all_records):
        yield Finding(
            "audit trail",
            "note",
            f"no line tells of the registration of {', '.join(silent)}, as after a process that was ended in between; it is added "
            "when the same files are registered again under that name",
        )
    if place.embedded and not place.read_only and (place.artifacts / "models").is_dir():
        strays = _strays(store, place.artifacts / "models")
        if strays:
            size = sum(file.stat().st_size for item in strays for file in item.rglob("*") if file.is_file())
            yield Finding(
                "left over",
                "note",
                f"{len(strays)} folders in {place.artifacts / 'models'} ({size / 2**20:.1f} MiB) belong to no version, as after "
                "an import that was cut off; they can be deleted",
            )


def _strays(store: Store, folder: Path) -> list[Path]:
    """Folders that belong to no version and in which nobody has written for an hour; those of an import under way are none."""
    there = sorted(folder.iterdir())
    # What is looked for is what is known after the folders were listed: hashing took its time, and others go on registering.
    known = {place.parent.name for record in store.records() if (place := store.files(record)) is not None}
    return [item for item in there if item.name not in known and time.time() - _last_written(item) > _LEFT]


def _last_written(folder: Path) -> float:
    times = [time.time()] if not folder.exists() else [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _hashes(folder: Path, found: ModelVersion) -> Finding:
    try:
        listed = manifest.registered(folder, found.digest, found.reference)
        states = manifest.compare(folder, listed)
        require_family(listed, found)
    except ScfmError as error:
        return Finding(found.reference, "fault", str(error))
    wrong = [f"{file} {state}" for file, state in states.items() if state != "ok"]
    if wrong:
        return Finding(found.reference, "fault", f"{'; '.join(wrong)} ({folder})")
    return Finding(found.reference, "ok", f"{len(states)} files are as registered")


def _served(store: Store, record: Record, found: ModelVersion) -> Finding:
    """Fetch a version's files from the server anew and compare them; what this machine keeps of it is left alone."""
    try:
        with workshop(data_home() / "cache") as folder:
            store.download(record, folder)
            return _hashes(folder, found)
    except ScfmError as error:
        return Finding(found.reference, "fault", str(error))


def _isolation() -> Finding:
    state, words = confining.finding()
    return Finding("isolation", "ok" if state == "ok" else "note", words)


def _writable(folder: Path) -> Finding:
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", "fault", f"{folder} is read-only for you; set SCFM_HOME to a directory you can write to")
    free = shutil.disk_usage(folder).free
    words = f"{free / 2**30:.1f} GiB free"
    return Finding(
        "disk", "note" if free < _LITTLE else "ok", f"only {words}; free some space" if free < _LITTLE else words
    )


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _journal(database: Path) -> str:
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        connection.close()
