"""The embedded registry's folder: made once, checked on opening, moved as a whole.

MLflow left to itself fails in three ways that this module prevents. Processes that open an empty database at once race its
migrations and can ruin it, so the database is made under a lock, beside its place, and renamed into it when it is complete.
It stores absolute paths, so a folder that was moved is noticed by what ``registry.json`` says and its paths are rewritten.
And it retries a damaged database for minutes and then says little, so SQLite's own check comes first, reading only.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import quote

from scfm_lab.errors import StorageError
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_registry.store.place import Place

#: Says that the folder holds a finished registry, of which layout, and where it was last.
MARKER = "registry.json"
#: Layout of the folder.
FORMAT = 1

#: MLflow has no index by which a tag's value is found, and versions are opened by their digests. It lies in databases that are made
#: here only.
_INDEX = "scfm_digest"
_INDEXED = f"CREATE INDEX IF NOT EXISTS {_INDEX} ON model_version_tags (value) WHERE key = 'scfm.digest'"
_MAKING = ".making-"
#: Bytes that must be free for an empty database and its journal.
_ROOM = 4 * 2**20
#: Every column in which MLflow keeps an absolute place of files.
_PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def prepare(place: Place) -> None:
    """Make the registry if it is not there, and leave it ready for MLflow to open.

    Raises
    ------
    StorageError
        The folder cannot be written, or the database is damaged, incomplete or of a newer version. Nothing is deleted or
        repaired without being asked.
    """
    if place.database is None:
        # PostgreSQL, opened directly: its own lock, and nothing that SQLite needs.
        from scfm_registry.store import postgres

        postgres.prepare(place)
        return
    folder, database = _paths(place)
    make_folder(folder)
    if _is_ready(place):
        check_database(place)
        return
    with place.locked():
        if _is_ready(place):
            check_database(place)
            return
        _clear_unfinished(folder)
        marker = read_marker(folder)
        if not database.exists() or database.stat().st_size == 0:
            if marker is not None and database == folder / database.name:
                message = (
                    f"The registry's database {database} is {'empty' if database.exists() else 'missing'}, although the "
                    f"registry was set up. {recovery(place)}"
                )
                raise StorageError(message)
            _create(place)
        else:
            check_database(place)
            if marker is None or marker.get("mlflow") != mlflow_version():
                _bring_up_to_date(place, owned=marker is not None)
            if marker is not None and marker.get("root") != _root(place):
                _relocate(database, str(marker.get("root")), _root(place))
        write_marker(place, root=_root(place), mlflow=mlflow_version())


def check_database(place: Place) -> None:
    """Let SQLite check the database, reading only.

    Raises
    ------
    StorageError
        It is damaged, or it is not MLflow's. The message says how to go on.
    """
    _, database = _paths(place)
    try:
        with _connect(database, "ro") as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            reason = str(error) if os.access(database.parent, os.W_OK) else "its folder is read-only"
            message = (
                f"The registry's database {database} cannot be opened: {reason}. Look at the permissions of it and of its "
                "folder, or set SCFM_HOME to a directory you can write to."
            )
            raise StorageError(message) from error
        raise _damaged(place, str(error)) from error
    if verdict != "ok":
        raise _damaged(place, " ".join(str(verdict).split()))
    if "alembic_version" not in tables and tables:
        message = f"{database} is a SQLite database, but not MLflow's; give the registry another file or folder."
        raise StorageError(message)
    if not {"registered_models", "model_versions", "logged_models"} <= tables and tables:
        raise _damaged(place, "tables are missing, as after a first start that was cut off")


def read_marker(folder: Path) -> dict[str, object] | None:
    """Read what ``registry.json`` says, or ``None`` where there is none.

    Raises
    ------
    StorageError
        It is there and cannot be read.
    """
    path = folder / MARKER
    try:
        marker = json.loads(path.read_bytes())
        layout = int(marker["format"])
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"The registry's {path} cannot be read ({error.strerror}). Look at its permissions."
        raise StorageError(message) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"The registry's {path} is damaged. Delete that one file: it is written anew, and the models stay registered."
        raise StorageError(message) from error
    if layout > FORMAT:
        message = f"The registry in {folder} was made by a newer scfm-lab; install that version or newer."
        raise StorageError(message)
    return dict(marker)


def mlflow_version() -> str:
    """The version of MLflow that is installed, found without importing it."""
    return metadata.version("mlflow")


def _paths(place: Place) -> tuple[Path, Path]:
    if place.folder is None or place.database is None:
        raise ValueError("only an embedded registry has a folder")
    return place.folder, place.database


def _root(place: Place) -> str:
    return place.artifacts.as_uri()


def _is_ready(place: Place) -> bool:
    """Whether nothing needs doing before MLflow opens it: the usual case, and the one that takes no lock."""
    folder, database = _paths(place)
    marker = read_marker(folder)
    return (
        marker is not None
        and marker.get("root") == _root(place)
        and marker.get("mlflow") == mlflow_version()
        and database.exists()
        and database.stat().st_size > 0
    )


def _clear_unfinished(folder: Path) -> None:
    """Remove what a killed process left of a database in the making; under the lock, nobody is making one."""
    for leftover in folder.glob(f"{_MAKING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _create(place: Place) -> None:
    from scfm_registry.store import engine

    folder, database = _paths(place)
    workshop = folder / f"{_MAKING}{os.getpid()}"
    try:
        workshop.mkdir()
        # MLflow would retry a full disk for minutes; an empty database takes about this much.
        room = workshop / "room"
        room.write_bytes(bytes(_ROOM))
        room.unlink()
        unfinished = workshop / database.name
        engine.create_database(unfinished, _root(place))
        # WAL is a property of the file, kept from now on: readers and a writer do not wait for each other. Closing the
        # only connection writes everything back, so that one file can be renamed into place.
        with _connect(unfinished, "rw") as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(_INDEXED)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        place.artifacts.mkdir(exist_ok=True)
        engine.forget(place.uri)
        os.replace(unfinished, database)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, folder) from error
    except sqlite3.Error as error:
        message = f"The registry's database cannot be made in {folder} ({error}). Is the disk full or read-only?"
        raise StorageError(message) from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _bring_up_to_date(place: Place, *, owned: bool) -> None:
    """Migrate the database to the installed MLflow's schema, after a copy of it was put beside it."""
    from scfm_registry.store import engine

    folder, database = _paths(place)
    with _connect(database, "ro") as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = row[0] if row else ""
    head, known = engine.revisions()
    if revision == head:
        return
    if revision not in known:
        message = (
            f"The registry's database {database} was written by a newer MLflow than the installed {mlflow_version()}; "
            "install that version or newer."
        )
        raise StorageError(message)
    if not owned:
        message = f"{database} has the schema of an older MLflow. Back it up, then run: mlflow db upgrade {place.uri}"
        raise StorageError(message)
    copy = folder / f"{database.stem}-before-{revision}-{time.strftime('%Y%m%dT%H%M%S')}.db"
    try:
        with _connect(database, "ro") as source, _connect(copy, "rwc") as target:
            source.backup(target)
    except sqlite3.Error as error:
        copy.unlink(missing_ok=True)
        message = (
            f"The registry's database cannot be copied to {copy} before its migration ({error}). Is the disk full?"
        )
        raise StorageError(message) from error
    # A migration that makes a table anew is not to meet an index that MLflow does not know.
    with _connect(database, "rw") as connection:
        wanted = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?"
        had = connection.execute(wanted, (_INDEX,)).fetchone() is not None
        connection.execute(f"DROP INDEX IF EXISTS {_INDEX}")
    engine.upgrade_database(place.uri)
    if had:
        with _connect(database, "rw") as connection:
            connection.execute(_INDEXED)


def _relocate(database: Path, old: str, new: str) -> None:
    """Rewrite the absolute places that MLflow stored, from the old root to the new one, in one transaction."""
    with _connect(database, "rw") as connection:
        for table, column in _PATH_COLUMNS:
            connection.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "  # noqa: S608 - our constants
                f"WHERE substr({column}, 1, length(:old) + 1) = :old || '/' OR {column} = :old",
                {"new": new, "old": old},
            )


def write_marker(place: Place, **said: str) -> None:
    """Write ``registry.json`` last, whole or not at all."""
    folder = place.artifacts.parent
    content = {"format": FORMAT, **said}
    unfinished = folder / f"{MARKER}.{os.getpid()}"
    try:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, folder / MARKER)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise storage_error(error, folder) from error


class _connect:  # noqa: N801 - used as a function
    """``with _connect(path, mode) as connection``: commits or rolls back, and closes, which sqlite3's own does not."""

    def __init__(self, path: Path, mode: str) -> None:
        self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=30)

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.commit()
            else:
                self._connection.rollback()
        finally:
            self._connection.close()


def _damaged(place: Place, what: str) -> StorageError:
    _, database = _paths(place)
    return StorageError(
        f"The registry's database {database} is damaged ({what}). Nothing was changed. {recovery(place)}"
    )


def recovery(place: Place) -> str:
    """Say how to go on without losing anything."""
    folder, database = _paths(place)
    return (
        f"Put back a backup of {database.name}; or move the folder aside (mv '{folder}' '{folder}.damaged') and run again: "
        f"a fresh registry is made, and models can be imported again from '{folder}.damaged/artifacts'."
    )
