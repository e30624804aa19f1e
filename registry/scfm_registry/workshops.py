"""Private folders for files in the making, and what a killed process leaves of them.

Beside each folder lies a lock file that its process holds as long as it lives. The system lets go of it when the process ends,
however it ends, so that whoever can take it knows that nobody works in the folder any more. Its name says which system's lock it is:
over a shared disk one machine learns nothing of another's locks, and leaves its folders alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How folders in the making are called, and how the files that are held beside them end.
PREFIX, LOCK = ".incoming-", ".lock"
#: Age in days at which the folder of a process that nothing is known of counts as left behind.
_DAYS_OLD = 2
_TRIES = 16
#: Instead of a descriptor: somebody else holds the lock; there are none here.
_BUSY, _NO_LOCKS = -1, -2


@contextmanager
def opened(parent: Path) -> Iterator[Path]:
    """Give a new folder in `parent`, gone afterwards unless it was renamed; what killed processes left there goes first.

    Raises
    ------
    OSError
        It cannot be made.
    """
    clear(parent)
    for _ in range(_TRIES):
        folder = parent / f"{PREFIX}{uuid.uuid4().hex[:12]}"
        # Held before the folder is there, so that nobody finds it without.
        held = _take(_lock(folder), make=True)
        if held != _BUSY:
            break
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(_lock(folder), held, keep=folder.exists())


def clear(parent: Path) -> None:
    """Remove the folders whose process, of this system, is dead, and all others when they are so old that nobody is in them."""
    known = set()
    for lock in parent.glob(f"{PREFIX}*.{_system()}{LOCK}"):
        folder = parent / lock.name.removesuffix(f".{_system()}{LOCK}")
        held = _take(lock)
        if held in (_BUSY, _NO_LOCKS):
            known |= {folder, lock}
            continue
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(lock, held, keep=folder.exists())
    for path in set(parent.glob(f"{PREFIX}*")) - known:
        # Another process may finish with it, or clear it, meanwhile.
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAYS_OLD * 86_400:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{_system()}{LOCK}")


@cache
def _system() -> str:
    """A name for the running system, the same for all its processes and containers, and for no other's, nor after a restart."""
    try:
        told = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        told = f"{platform.node()}:{uuid.getnode()}"
    return hashlib.sha256(told.strip().encode()).hexdigest()[:16]


def _take(path: Path, *, make: bool = False) -> int:
    """Take the lock of a file: a descriptor that holds it, or :data:`_BUSY`, or :data:`_NO_LOCKS`."""
    try:
        import fcntl

        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if make else 0)
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return _BUSY
    except (ImportError, OSError):
        return _NO_LOCKS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return _BUSY
        if make:
            # Without locks it would say that its process is dead.
            with suppress(OSError):
                path.unlink()
        return _NO_LOCKS
    # Somebody who cleared up may have taken it first, and deleted it.
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return _BUSY
    return descriptor


def _let_go(path: Path, descriptor: int, *, keep: bool) -> None:
    """Let go of the lock, which stays beside what could not be removed: the next one who clears up tries that again."""
    if descriptor in (_BUSY, _NO_LOCKS):
        return
    if not keep:
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)
