"""Finished parts of a run on disk, so that a run which was stopped goes on where it was.

A run over cells in a file has a folder under the data home: a manifest that says what the
run is, and one file for each part, written under another name and then renamed. A part is
there whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_lab.cells.audit import Tally
from scfm_lab.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MANIFEST = "manifest.json"
_TALLY = ("seen", "kept", "total", "per_gene")


@dataclass(frozen=True)
class Part:
    """What was worked out for the cells `start` to `stop` (exclusive)."""

    start: int
    stop: int
    vectors: NDArray[np.float32]
    cell: dict[str, NDArray[Any]]
    """Per-cell fields of their tokens."""
    tally: Tally
    cached: int = 0
    """Cells whose vectors were known before."""


@dataclass
class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path
        Of the folder.
    identity
        What the run is: cells and their file, model, options.
    """

    SIGN: ClassVar[str] = ".wanted-"
    """Begin of the names of files that say, to workers elsewhere, that a process waits for parts."""
    path: Path
    identity: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    _lock: Any = None

    @classmethod
    def open(cls, home: Path, asked: Mapping[str, Any], file: Mapping[str, Any]) -> RunFolder:
        """The folder of a run, made if it is not there.

        Parameters
        ----------
        home
            Of all runs.
        asked
            What was called for; the same call finds the same folder.
        file
            What the file is now (size, time of its last change, shape). Parts of a file that has changed since are thrown
            away, and a remark says so.

        Raises
        ------
        StorageError
            If the folder cannot be written to, or another process is at this very run.
        """
        from filelock import FileLock, Timeout

        name = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:24]
        folder = cls(home / name, {"asked": json.loads(json.dumps(asked, default=str)), "file": dict(file)})
        with folder.writing():
            home.mkdir(parents=True, exist_ok=True)
            lock = FileLock(home / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise StorageError(
                    "Another process is computing these very vectors now; wait for it, its results are then written there."
                ) from None
            folder._lock = lock
            try:
                folder._begin()
            except BaseException:
                folder.release()
                raise
        return folder

    def _begin(self) -> None:
        known = self._manifest()
        if known is not None and known.get("file") != json.loads(json.dumps(self.identity["file"])):
            parts = len(list(self.path.glob("rows-*.npz")))
            shutil.rmtree(self.path)
            if parts:
                self.remarks.append(
                    f"The file has changed since an earlier run was stopped; its {parts:,} finished parts were thrown away and "
                    "all cells computed anew."
                )
            known = None
        if known is None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            self._replace(_MANIFEST, json.dumps({**self.identity, "begun": time.time()}, indent=1).encode())
        # Whoever was here before was killed: nobody waits for what its workers are at.
        for left in (*self.path.glob(".writing-*"), *self.path.glob(f"{self.SIGN}*")):
            left.unlink(missing_ok=True)

    def _manifest(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    # --- parts -------------------------------------------------------------------------

    def done(self) -> list[tuple[int, int]]:
        """Rows of the parts that are there and sound, ascending; what is not sound is removed."""
        found: list[tuple[int, int]] = []
        for file in sorted(self.path.glob("rows-*.npz")):
            start, stop = (int(text) for text in file.stem.split("-")[1:])
            if _sound(file) and (not found or start >= found[-1][1]):
                found.append((start, stop))
            else:
                file.unlink(missing_ok=True)
        return found

    def missing(self, n: int, rows: int) -> list[tuple[int, int]]:
        """What of `n` cells is still to be computed, cut at multiples of `rows`."""
        gaps, at = [], 0
        for start, stop in [*self.done(), (n, n)]:
            while at < start:
                end = min((at // rows + 1) * rows, start)
                gaps.append((at, end))
                at = end
            at = max(at, stop)
        return gaps

    def write(self, part: Part) -> None:
        """Keep a part.

        Raises
        ------
        StorageError
            If the disk is full or cannot be written to.
        """
        with self.writing():
            write_part(self.path, part)

    def read(self, start: int, stop: int) -> Part:
        """A part that is there."""
        with np.load(part_path(self.path, start, stop), allow_pickle=False) as file:
            return Part(
                start,
                stop,
                file["vectors"],
                {name[5:]: file[name] for name in file.files if name.startswith("cell.")},
                Tally(*(file[name] for name in _TALLY)),
                int(file["cached"]),
            )

    def parts(self) -> Iterator[Part]:
        """All parts, in the order of the cells."""
        for start, stop in self.done():
            yield self.read(start, stop)

    def remove(self) -> None:
        """Remove the folder: the run is done."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()
        with contextlib.suppress(OSError):
            self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)

    def release(self) -> None:
        """Let other processes at the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the disk says into a sentence."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(
                    f"The disk that holds {self.path.parent} is full. Free some space, or set SCFM_HOME to a larger one; the "
                    "same call then goes on where it stopped."
                ) from error
            raise StorageError(
                f"The run cannot be kept in {self.path.parent} ({error.strerror or error}). Set SCFM_HOME to a directory you "
                "can write to."
            ) from error

    def _replace(self, name: str, content: bytes) -> None:
        _put(self.path, name, lambda file: file.write(content))


def part_path(folder: Path, start: int, stop: int) -> Path:
    """File of a part; names sort in the order of the cells."""
    return folder / f"rows-{start:012d}-{stop:012d}.npz"


def write_part(folder: Path, part: Part) -> Path:
    """Write a part under another name, then rename it."""
    arrays: dict[str, Any] = {f"cell.{name}": v for name, v in part.cell.items() if np.asarray(v).dtype.kind in "biufU"}
    arrays |= {name: getattr(part.tally, name) for name in _TALLY}
    place = part_path(folder, part.start, part.stop)
    _put(
        folder,
        place.name,
        lambda file: np.savez(file, allow_pickle=False, vectors=part.vectors, cached=np.int64(part.cached), **arrays),
    )
    return place


def _put(folder: Path, name: str, write: Any) -> None:
    temporary = folder / f".writing-{os.getpid()}-{name}"
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sound(file: Path) -> bool:
    """Whether every byte of a part is as it was written (its archive holds checksums)."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None and "vectors.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def runs_home() -> Path:
    """Where the folders of runs are."""
    from scfm_lab.home import data_home

    return data_home() / "runs"


def list_runs() -> list[dict[str, Any]]:
    """Runs that were stopped: path, cells done, bytes, and the file."""
    found = []
    for folder in sorted(runs_home().glob("*/")):
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            manifest = {}
        files = sorted(folder.glob("rows-*.npz"))
        rows = [[int(text) for text in file.stem.split("-")[1:]] for file in files]
        found.append(
            {
                "path": str(folder),
                "file": manifest.get("file", {}).get("path", ""),
                "model": manifest.get("asked", {}).get("model", ""),
                "cells": sum(stop - start for start, stop in rows),
                "bytes": sum(file.stat().st_size for file in files),
            }
        )
    return found


def clear_runs() -> int:
    """Remove the folders of stopped runs, other than those that a process is at; bytes that were freed."""
    from filelock import FileLock, Timeout

    freed = 0
    for run in list_runs():
        folder = Path(run["path"])
        with contextlib.suppress(Timeout, OSError):
            lock = folder.with_name(folder.name + ".lock")
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder)
                freed += int(run["bytes"])
            lock.unlink(missing_ok=True)
    return freed
