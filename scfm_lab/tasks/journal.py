"""What a screen has finished, on disk: after a crash it goes on where it was.

One SQLite file holds the effects of each finished perturbation on each cell that it changed. A block is committed whole or
not at all, so that a process that is killed loses what it was working on and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, StorageError
from scfm_lab.tasks.sweep import Effect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_FORMAT = 1


class Journal:
    """Finished effects of one screen.

    Parameters
    ----------
    path
        Of the file; made, with its folder, where it is not there.
    identity
        What the effects depend on: model, cells, seed, read-outs.

    Raises
    ------
    DataError
        If the file is of another screen, or no journal.
    StorageError
        If it cannot be written, or another process is at it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(path.name + ".lock"))
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StorageError(
                f"Another process is at the screen of {path} now; wait for it, or name another file."
            ) from None
        except OSError as error:
            raise StorageError(
                f"The journal {path} cannot be written ({error.strerror}); name another place."
            ) from error
        try:
            self._db = self._open(digest(identity))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, key: str) -> sqlite3.Connection:
        new = not self.path.exists() or self.path.stat().st_size == 0
        db = sqlite3.connect(self.path)
        try:
            if new:
                with db:
                    db.execute("CREATE TABLE screen (format INTEGER, key TEXT)")
                    db.execute("CREATE TABLE effects (question TEXT PRIMARY KEY, rows BLOB, readings BLOB)")
                    db.execute("INSERT INTO screen VALUES (?, ?)", (_FORMAT, key))
            found = db.execute("SELECT format, key FROM screen").fetchone()
        except sqlite3.DatabaseError as error:
            db.close()
            raise DataError(
                f"{self.path} is no journal of a screen ({error}); name another file, or remove it to begin anew."
            ) from None
        if found != (_FORMAT, key):
            db.close()
            raise DataError(
                f"{self.path} is the journal of another screen (other cells, model, read-outs or seed); name another file, or "
                "remove it to begin anew."
            )
        return db

    def finished(self, n_readouts: int) -> dict[str, Effect]:
        """The effects that are there, by the question's text."""
        found = {}
        for question, rows, readings in self._db.execute("SELECT question, rows, readings FROM effects"):
            place = np.frombuffer(rows, dtype="<i8")
            found[question] = Effect(place, np.frombuffer(readings, dtype="<f4").reshape(n_readouts, len(place)))
        return found

    def add(self, effects: Iterable[tuple[str, Effect]]) -> None:
        """Keep some effects: all of them or, where this fails, none.

        Raises
        ------
        StorageError
            If the disk is full or the file cannot be written.
        """
        rows = [(q, e.rows.astype("<i8").tobytes(), e.values.astype("<f4").tobytes()) for q, e in effects]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO effects VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise StorageError(
                f"The journal {self.path} cannot be written ({error}); what it holds is kept, and the same call goes on from there."
            ) from error

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; with `remove` it is not needed any more."""
        self._db.close()
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        self._lock.release()
        if remove:
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of what effects depend on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
