"""A PostgreSQL database that is opened directly, without a server between: for a lab's cluster with a shared folder.

Where an embedded registry takes a lock on a file, this one takes a lock in the database, so that processes of all machines
take turns: first use, and comparing and setting an alias, are one step for everybody.
"""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError
from scfm_registry.store import database, embedded
from scfm_registry.store.place import LOCK_SECONDS, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from scfm_registry.store.place import Place

#: Number of the lock, within the database: the first eight bytes of the SHA-256 of "scfm-registry", as PostgreSQL counts.
LOCK = int.from_bytes(bytes.fromhex("272da7ad67a0c419"), "big", signed=True)

_held = threading.local()


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Hold the lock under which processes of all machines change the registry; a thread may hold it twice.

    Raises
    ------
    StorageError
        Somebody keeps it, or the database does not answer.
    """
    depths: dict[str, int] = _held.__dict__.setdefault("depths", {})
    if depths.get(uri):
        depths[uri] += 1
        try:
            yield
        finally:
            depths[uri] -= 1
        return
    # The lock ends with the connection, also where the process is killed.
    with closing(database.connect(uri)) as connection:
        _take(connection, uri)
        depths[uri] = 1
        try:
            yield
        finally:
            depths[uri] = 0


def _take(connection: Connection[Any], uri: str) -> None:
    import psycopg

    try:
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    except psycopg.errors.LockNotAvailable as error:
        message = (
            f"Somebody has been writing to the registry in {database.shown(uri)} for {LOCK_SECONDS} seconds; try again "
            "when they are done."
        )
        raise StorageError(message) from error


def prepare(place: Place) -> None:
    """Make MLflow's tables if they are not there, and see that the files are where the database says.

    Raises
    ------
    StorageError
        The database does not answer, is a server's, is of another MLflow, or its files are kept somewhere else.
    """
    if place.folder is None:
        raise ValueError("a database that is opened directly has a folder for its files")
    make_folder(place.artifacts)
    root = place.artifacts.as_uri()
    marker = embedded.read_marker(place.folder)
    known = {"root": root, "mlflow": embedded.mlflow_version(), "database": place.shown}
    if marker is not None and known.items() <= marker.items() and database.revision(place.uri) is not None:
        return
    with locked(place.uri):
        _bring_up(place, root)
        embedded.write_marker(place, **known)


def _bring_up(place: Place, root: str) -> None:
    """Make or check the tables; the caller holds the lock."""
    from scfm_registry.store import engine

    database.check(place.uri)
    with closing(database.connect(place.uri)) as connection:
        there = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone() == (True,)
        if not there:
            engine.create_tables(place.uri, root)
            return
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        head, known = engine.revisions()
        if row is None or row[0] not in known:
            message = (
                f"The database {place.shown} was written by a newer MLflow than the installed {embedded.mlflow_version()}; "
                "install that version or newer."
            )
            raise StorageError(message)
        if row[0] != head:
            message = f"The database {place.shown} has the schema of an older MLflow. Back it up, then run: mlflow db upgrade URI"
            raise StorageError(message)
        location = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = %s", (engine.EXPERIMENT,)
        ).fetchone()
    if location is not None and location[0] != root:
        where = str(location[0])
        message = (
            f"The database {place.shown} is a server's, which keeps its files; use the server's address."
            if where.startswith("mlflow-artifacts:")
            else f"The files of {place.shown} are kept in {where}; open it as …?artifacts=FOLDER, with that folder as this "
            "machine sees it."
        )
        raise StorageError(message)
