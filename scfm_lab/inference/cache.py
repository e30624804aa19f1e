"""Vectors that were computed before, on disk: a second run, or an unchanged cell, costs nothing.

One SQLite database under the data home holds vectors by (what they depend on, digest of the
cell). It is bounded, can be cleared at any time, and is never needed: where it cannot be
read or written, cells are computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.digest import cell_keys, hash_names, mix64
from scfm_lab.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells

VERSION = 3
DEFAULT_GB = 2.0
_VARIABLE = "SCFM_CACHE_GB"
_CHECK = 8
_ASKED_AT_ONCE = 500
_BUSY_SECONDS = 20
# After clearing out, so much of the limit is in use: room for the next runs.
_KEPT = 0.8
_OUTSIDE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, key TEXT UNIQUE, model TEXT, depends TEXT, layout TEXT, used REAL);
CREATE TABLE IF NOT EXISTS vectors (run INTEGER, cell BLOB, value BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS cells ON vectors (run, cell);
"""


def limit_bytes() -> int:
    """Bytes that the cache may take: ``SCFM_CACHE_GB`` (default 2; 0: no cache).

    Raises
    ------
    DataError
        If the variable is not a number of at least 0.
    """
    text = os.environ.get(_VARIABLE, "").strip()
    try:
        given = float(text) if text else DEFAULT_GB
    except ValueError:
        given = -1.0
    if not 0 <= given < float("inf"):
        raise DataError(f"{_VARIABLE} is {text!r}; give the gigabytes that cached vectors may take, or 0 for no cache.")
    return int(given * 1e9)


def cell_digests(cells: Cells) -> NDArray[Any]:
    """128-bit digest of each cell: counts by gene, library size, and the fields that the model reads; dtype ``S16``-like void."""
    one, other = cells.keys, cell_keys(cells.counts, cells.gene_hashes, salt=1)
    values = [cells.total.astype(np.float64).view(np.uint64)]
    values += [_hashed(name, cells.fields[name]) for name in sorted(cells.fields)]
    for i, value in enumerate(values):
        one = mix64(one ^ mix64(value + np.uint64(2 * i)))
        other = mix64(other ^ mix64(value + np.uint64(2 * i + 1)))
    return np.ascontiguousarray(np.stack([one, other], axis=1)).view("V16").ravel()


def _hashed(name: str, values: NDArray[Any]) -> NDArray[np.uint64]:
    values = np.asarray(values)
    text = values.astype(str)
    unique, places = np.unique(text, return_inverse=True)
    # A model computes with numbers as they are: in float32 otherwise than in float64.
    if values.dtype.kind in "biufc":
        name = f"{name}:{values.dtype.str}"
    return hash_names([f"{name}={value}" for value in unique])[places.ravel()]


@dataclass(frozen=True)
class Found:
    """What the cache knows of some cells."""

    there: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    """Of the cells that are there, in their order."""
    cell: dict[str, NDArray[Any]]
    """Their tokens' per-cell fields."""


class VectorCache:
    """The vectors of one run's kind: one model, one set of options.

    Parameters
    ----------
    path
        The database.
    depends
        Everything besides the cell that a vector depends on, as plain values.
    limit
        Bytes that the database may take.
    """

    def __init__(self, path: Path, depends: Mapping[str, Any], limit: int) -> None:
        self.path, self.limit = path, limit
        self._depends = json.dumps(depends, sort_keys=True, default=str)
        self.key = hashlib.sha256(self._depends.encode()).hexdigest()
        self.model = str(depends.get("model", ""))
        self._lock = threading.Lock()
        self._dtype: np.dtype[Any] | None = None
        self._run = -1
        self._db: sqlite3.Connection | None = None
        try:
            self._begin()
        except sqlite3.DatabaseError as error:
            if _damaged(error) and self._replace():
                with contextlib.suppress(sqlite3.Error, OSError):
                    self._begin()
        except OSError:
            self._db = None

    @classmethod
    def at_home(cls, depends: Mapping[str, Any]) -> VectorCache | None:
        """The cache under the data home; None where it is switched off or the home cannot be written to."""
        limit = limit_bytes()
        if limit == 0:
            return None
        try:
            return cls(cache_path(), depends, limit)
        except StorageError:
            return None

    def get(self, digests: NDArray[Any]) -> Found:
        """What is known of some cells."""
        with self._lock:
            try:
                return self._get(digests)
            except sqlite3.Error as error:
                if _damaged(error):
                    self._replace()
                return _nothing(len(digests))

    def put(self, digests: NDArray[Any], vectors: NDArray[np.float32], cell: Mapping[str, NDArray[Any]]) -> None:
        """Keep the vectors of some cells, if there is room and the disk lets us."""
        fields = {name: np.asarray(v) for name, v in cell.items() if np.asarray(v).dtype.kind in "biuf"}
        # Vectors of cells that no model sees do not tell how wide those of others are.
        if self._db is None or not len(digests) or not np.isfinite(vectors).any():
            return
        layout = [["", "<f4", [int(vectors.shape[1])]]]
        layout += [[name, v.dtype.str, list(v.shape[1:])] for name, v in sorted(fields.items())]
        with self._lock, contextlib.suppress(OSError):
            try:
                self._put(digests, vectors, fields, layout)
            except sqlite3.Error as error:
                if _damaged(error):
                    self._replace()

    def close(self) -> None:
        """Close the database."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._db is not None:
                self._db.close()
        self._db = None

    # --- inside ------------------------------------------------------------------------

    def _begin(self) -> None:
        self._db = _connect(self.path)
        with self._db:
            self._db.execute(
                "INSERT INTO runs (key, model, depends, layout, used) VALUES (?, ?, ?, '', ?) "
                "ON CONFLICT (key) DO UPDATE SET used = excluded.used",
                (self.key, self.model, self._depends, time.time()),
            )
        self._run, layout = self._db.execute("SELECT id, layout FROM runs WHERE key = ?", (self.key,)).fetchone()
        self._dtype = _dtype(json.loads(layout)) if layout else None

    def _get(self, digests: NDArray[Any]) -> Found:
        if self._db is None:
            return _nothing(len(digests))
        if self._dtype is None:
            row = self._db.execute("SELECT layout FROM runs WHERE id = ?", (self._run,)).fetchone()
            if row is None or not row[0]:
                return _nothing(len(digests))
            self._dtype = _dtype(json.loads(row[0]))
        keys = [bytes(d) for d in digests]
        known: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            part = keys[start : start + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            query = f"SELECT cell, value FROM vectors WHERE run = ? AND cell IN ({marks})"  # noqa: S608 - question marks
            known.update(self._db.execute(query, (self._run, *part)))
        size = self._dtype.itemsize
        good = {
            cell: value[_CHECK:]
            for cell, value in known.items()
            if len(value) == size + _CHECK and value[:_CHECK] == _check(cell, value[_CHECK:])
        }
        there = np.fromiter((key in good for key in keys), dtype=bool, count=len(keys))
        if not there.any():
            return _nothing(len(digests))
        records = np.frombuffer(b"".join(good[key] for key in keys if key in good), dtype=self._dtype)
        names = self._dtype.names or ()
        return Found(there, records[names[0]].copy(), {n[2:]: records[n].copy() for n in names[1:]})

    def _put(
        self, digests: NDArray[Any], vectors: NDArray[np.float32], fields: dict[str, NDArray[Any]], layout: list[Any]
    ) -> None:
        db = self._db
        if db is None:
            return
        dtype = _dtype(layout)
        if self._dtype is not None and self._dtype != dtype:
            return
        records = np.empty(len(digests), dtype=dtype)
        names = dtype.names or ()
        records[names[0]] = vectors
        for name in names[1:]:
            records[name] = fields[name[2:]]
        rows = []
        for digest, record in zip(digests, records, strict=True):
            cell, value = bytes(digest), record.tobytes()
            rows.append((self._run, cell, _check(cell, value) + value))
        with db:
            # Whoever cleared the cache meanwhile removed the run too.
            db.execute(
                "INSERT INTO runs (id, key, model, depends, layout, used) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET layout = excluded.layout",
                (self._run, self.key, self.model, self._depends, json.dumps(layout), time.time()),
            )
            db.executemany("INSERT OR REPLACE INTO vectors (run, cell, value) VALUES (?, ?, ?)", rows)
        self._dtype = dtype
        if _used(db) > self.limit:
            _evict(db, int(self.limit * _KEPT))

    def _replace(self) -> bool:
        """Put a new database in the place of a damaged one; whether that was possible."""
        with contextlib.suppress(sqlite3.Error):
            if self._db is not None:
                self._db.close()
        self._db = None
        return _remove(self.path)


def cache_path() -> Path:
    """The database under the data home."""
    from scfm_lab.home import data_home

    return data_home() / "cache" / "vectors.sqlite"


def describe() -> dict[str, Any]:
    """What the cache holds: its path, bytes in use and allowed, and a row for each model and set of options.

    A row tells the model, of what its vectors are (``kept``: ``"cells"`` as they are, or perturbed ``"copies"``), and all that
    they depend on besides the cell (``depends``).
    """
    path = cache_path()
    found: dict[str, Any] = {"path": str(path), "bytes": 0, "limit": limit_bytes(), "runs": []}
    if not path.exists():
        return found
    try:
        with contextlib.closing(_connect(path)) as db:
            found["bytes"] = _used(db)
            query = (
                "SELECT model, depends, used, COUNT(vectors.rowid), COALESCE(SUM(LENGTH(value)), 0) FROM runs "
                "LEFT JOIN vectors ON run = id GROUP BY id ORDER BY used DESC"
            )
            found["runs"] = [
                {
                    "model": model,
                    "kept": "cells",
                    "used": used,
                    "cells": cells,
                    "bytes": size,
                    "depends": _read(depends),
                }
                for model, depends, used, cells, size in db.execute(query)
            ]
            for run in found["runs"]:
                run["kept"] = run["depends"].pop("kept", run["kept"])
    except sqlite3.Error as error:
        raise StorageError(
            f"The cache {path} cannot be read ({error}); remove it with: scfm-lab cache clear."
        ) from error
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"The cache {path} is damaged: it does not say what its vectors depend on; remove it with: scfm-lab cache clear."
        ) from error
    return found


def _read(depends: Any) -> dict[str, Any]:
    found = json.loads(depends)
    if not isinstance(found, dict):
        raise TypeError(found)
    return found


def clear() -> int:
    """Remove all cached vectors.

    Returns
    -------
    int
        Bytes that were freed.

    Raises
    ------
    StorageError
        If the files cannot be removed.
    """
    path = cache_path()
    size = sum(p.stat().st_size for p in _files(path) if p.exists())
    if not _remove(path, even_if_sound=True):
        raise StorageError(f"The cache {path} cannot be removed; another program may have it open.")
    return size


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if db.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
            raise sqlite3.DatabaseError("made by another version")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def _remove(path: Path, *, even_if_sound: bool = False) -> bool:
    """Remove a database; not one that another process has put in order meanwhile."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(path.name + ".lock"), timeout=_BUSY_SECONDS):
            if not even_if_sound:
                with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect(path)) as db:
                    if db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                        return True
            for file in _files(path):
                file.unlink(missing_ok=True)
        return True
    except (OSError, Timeout):
        return False


def _used(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _evict(db: sqlite3.Connection, target: int) -> None:
    """Remove the vectors of the kinds that were asked for longest ago, oldest first."""
    for (run,) in db.execute("SELECT id FROM runs ORDER BY used").fetchall():
        while (excess := _used(db) - target) > 0:
            mean = db.execute(
                "SELECT AVG(LENGTH(value)) FROM (SELECT value FROM vectors WHERE run = ? LIMIT 100)", (run,)
            )
            size = mean.fetchone()[0]
            if size is None:
                break
            with db:
                db.execute(
                    "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors WHERE run = ? ORDER BY rowid LIMIT ?)",
                    (run, max(64, int(excess / size))),
                )
    db.execute("PRAGMA incremental_vacuum").fetchall()


def _dtype(layout: list[Any]) -> np.dtype[Any]:
    return np.dtype(
        [(f"{'v' if i == 0 else 'c'}_{name}", kind, tuple(shape)) for i, (name, kind, shape) in enumerate(layout)]
    )


def _damaged(error: sqlite3.Error) -> bool:
    """Whether an error tells of a damaged file, and not of a lock, a full disk or missing rights."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code not in _OUTSIDE


def _check(cell: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(cell + value, digest_size=_CHECK).digest()


def _nothing(n: int) -> Found:
    return Found(np.zeros(n, dtype=bool), np.zeros((0, 0), dtype=np.float32), {})
