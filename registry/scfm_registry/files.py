"""A version's files: checked, fetched from a server, refused when they are not what was registered."""

from __future__ import annotations

import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_lab.home import data_home
from scfm_registry import manifest, version
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd

    from scfm_registry.certificate import PanelCheck
    from scfm_registry.manifest import Manifest
    from scfm_registry.store.facade import Store
    from scfm_registry.version import ModelVersion, Record


#: Why most versions' vectors are not compared.
NO_CERTIFICATE = "no certificate"
#: Why those of a built-in version are not compared the first time.
MADE_NOW = "its certificate was made just now, and is what they are compared with from now on"


@dataclass(frozen=True)
class Verification:
    """What a check of a version's files found.

    Attributes
    ----------
    version
        Which version was checked.
    files
        File → ``"ok"``, or what is wrong with it.
    panel
        What the panel of its certificate gave; ``None`` where it was not computed.
    not_compared
        Why the panel was not computed: ``"no certificate"``, ``"not asked for"``, …; empty where it was.
    copy_of
        The server whose files these are a copy of, on this machine; empty where the files themselves were compared.
    """

    version: ModelVersion
    files: dict[str, str]
    panel: PanelCheck | None = None
    not_compared: str = ""
    copy_of: str = ""

    @property
    def ok(self) -> bool:
        """Whether every file is what was registered, and the panel the same or within tolerance."""
        return all(state == "ok" for state in self.files.values()) and (self.panel is None or self.panel.ok)

    @property
    def first_difference(self) -> str:
        """The first stage that differs, ``"files"``, ``"gene_map"``, ``"tokens"`` or ``"vectors"``; empty where none does."""
        if any(state != "ok" for state in self.files.values()):
            return "files"
        return self.panel.first if self.panel is not None else ""

    @property
    def table(self) -> pd.DataFrame:
        """One row per file: file, state."""
        import pandas as pd

        return pd.DataFrame({"file": list(self.files), "state": list(self.files.values())})

    def summary(self) -> str:
        """One line for people, and one more per file that is wrong."""
        wrong = [f"  {file} {state}" for file, state in self.files.items() if state != "ok"]
        where = "in this machine's copy " if self.copy_of else ""
        head = f"{self.version.reference}: {len(self.files) - len(wrong)} of {len(self.files)} files {where}are as registered"
        if self.panel is not None:
            last = self.panel.summary()
        elif wrong:
            last = "It first differs in its files, which are not opened."
        else:
            last = f"Its vectors were not compared: {self.not_compared or NO_CERTIFICATE}."
            if self.not_compared in ("", NO_CERTIFICATE):
                last += f" Make one: scfm-lab models certify {self.version.reference}"
        lines = [f"{head} ({self.version.digest}).", *wrong, last]
        if self.copy_of:
            lines.append(f"The server's own files are compared by: scfm-lab registry check {self.copy_of} --files")
        return "\n".join(lines)


def require_ok(states: dict[str, str], folder: Path, label: str) -> None:
    """Refuse a version with a wrong file, naming the first one.

    Raises
    ------
    ModelError
        One of the states is not ``"ok"``.
    """
    for file, state in states.items():
        if state != "ok":
            message = f"{label} is refused: {folder / file} {state}. Restore the file from a backup, or register the model again."
            raise ModelError(message)


def local(store: Store, found: ModelVersion, record: Record) -> Path:
    """Give the folder where a version's files lie on this machine, unchecked; a server's are fetched first.

    Raises
    ------
    ModelError
        What the server sent is not what was registered.
    StorageError
        The server or this machine's disk fails.
    """
    folder = store.files(record)
    if folder is not None:
        return folder
    target = _kept(found)
    if not target.is_dir():
        _fetch_first(store, found, record, target)
    return target


def checked(store: Store, found: ModelVersion, record: Record, *, weights: bool = True, copies: bool = True) -> Path:
    """Give the same folder, every file of it checked; a fetched copy that was damaged since is fetched again.

    Parameters
    ----------
    store, found, record
        Where, and which version.
    weights
        False: of the weights on this machine only the size is looked at, since whoever opens them hashes what is read
        (:mod:`scfm_lab.models.pinned`).
    copies
        False: the same of the weights in a copy of a server's version. Whoever opens them calls :func:`renew` where they are damaged.

    Raises
    ------
    ModelError
        A file is not what was registered, and the message names it; or the version's tag names another family than its files.
    StorageError
        The server or this machine's disk fails.
    """
    own, kept = store.files(record), _kept(found)
    folder = own or kept
    if own is None and not kept.is_dir():
        # All of it is compared with its hashes there.
        _fetch_first(store, found, record, kept)
    else:
        deferred = "" if (weights if own is not None else copies) else ".safetensors"
        try:
            states = manifest.check(folder, found.digest, found.reference, deferred=deferred)
            require_ok(states, folder, found.reference)
        except ModelError:
            if own is not None:
                raise
            renew(store, found, record)
    require_family(manifest.registered(folder, found.digest, found.reference), found)
    return folder


def renew(store: Store, found: ModelVersion, record: Record) -> None:
    """Fetch a server's version again, whose copy on this machine was damaged.

    The copy is put aside, not deleted, for whoever wants to know what happened. A sound one stays: it was only touched, or another
    process has fetched it again meanwhile.

    Raises
    ------
    ModelError
        What the server sent is not what was registered.
    StorageError
        The server or this machine's disk fails.
    """
    copy = _kept(found)
    with _alone(found):
        if copy.is_dir():
            if _is_sound(copy, found):
                return
            # Of two copies that are put aside in one second neither may get the other's name.
            name = f"{copy.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
            with storing(copy):
                copy.rename(copy.with_name(name))
        _fetch(store, found, record, copy)


def _is_sound(folder: Path, found: ModelVersion) -> bool:
    with suppress(ModelError, OSError):
        return all(state == "ok" for state in manifest.check(folder, found.digest, found.reference).values())
    return False


@contextmanager
def _alone(found: ModelVersion) -> Iterator[None]:
    """Let one process of this machine at a time fetch a version; the others wait for what it brings."""
    from filelock import FileLock

    folder = data_home() / "locks"
    make_folder(folder)
    lock = FileLock(folder / f"copy-{found.digest.removeprefix('sha256:')}.lock")
    # On a disk without locks two may fetch the same: each renames a whole folder into place, and the second one is not needed.
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def contents(store: Store, found: ModelVersion, record: Record, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Give the bytes of some of a version's files, each as it was hashed, by relative path.

    Of a server's version nothing else is fetched, and on this machine nothing else is hashed: who reads a card or a record needs no
    weights for that.

    Parameters
    ----------
    store, found, record
        Where, and which version.
    wanted
        Of which of the files that the version has.

    Raises
    ------
    ModelError
        One of them is not what was registered, or the version's tag names another family than its files.
    StorageError
        The server or this machine's disk fails.
    """
    folder = store.files(record)
    if folder is not None:
        return _read(folder, found, wanted)
    if (kept := _kept(found)).is_dir():
        # A copy that was damaged since is put aside by whoever opens it; here the server is asked.
        with suppress(ModelError, OSError):
            return _read(kept, found, wanted)
    with workshop(data_home() / "cache") as private:
        store.download(record, private, [manifest.FILENAME])
        listed = manifest.registered(private, found.digest, found.reference)
        if asked := list(filter(wanted, listed.files)):
            store.download(record, private, asked)
        return _read(private, found, wanted)


def _read(folder: Path, found: ModelVersion, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    listed = manifest.registered(folder, found.digest, found.reference)
    require_family(listed, found)
    told = {}
    for name in filter(wanted, listed.files):
        told[name], state = manifest.read(folder / name, listed.files[name])
        require_ok({name: state}, folder, found.reference)
    return told


def require_family(listed: Manifest, found: ModelVersion) -> None:
    """Refuse a version whose tag names another family than its manifest: the tag, which is not hashed, chooses no adapter.

    Raises
    ------
    ModelError
        They differ.
    """
    if found.family != listed.family:
        message = (
            f"{found.reference} is refused: its tag scfm.family says {version.shown(found.family or 'nothing')!r}, and its files were "
            f"registered as {version.shown(listed.family)!r}. Somebody has changed the tag; set it to that again."
        )
        raise ModelError(message)


def _kept(found: ModelVersion) -> Path:
    """Where the copy of a server's version is kept, by digest: two servers' same files are one copy."""
    return data_home() / "cache" / "models" / found.digest.removeprefix("sha256:")


def forget(digest: str) -> None:
    """Take away this machine's copies of a server's version, also one that was put aside; whoever still needs it fetches it."""
    kept = data_home() / "cache" / "models"
    name = digest.removeprefix("sha256:")
    for copy in [kept / name, *kept.glob(f"{name}.damaged-*")]:
        shutil.rmtree(copy, ignore_errors=True)


def _fetch_first(store: Store, found: ModelVersion, record: Record, target: Path) -> None:
    with _alone(found):
        if not target.is_dir():
            _fetch(store, found, record, target)


def _fetch(store: Store, found: ModelVersion, record: Record, target: Path) -> None:
    with workshop(target.parent) as folder:
        store.download(record, folder)
        require_ok(manifest.check(folder, found.digest, found.reference), folder, found.reference)
        try:
            folder.rename(target)
        except OSError:
            # Another process was quicker; its copy was checked as well.
            if not target.is_dir():
                raise


def open_as(folder: Path, place: Path) -> None:
    """Give a private folder the rights of the place that it goes to: who may look in there, reads what is in it.

    Others than the owner and the group never write.
    """
    rights = place.stat().st_mode & 0o775
    for item in (folder, *folder.rglob("*")):
        item.chmod(rights if item.is_dir() else rights & 0o664)


@contextmanager
def storing(where: Path) -> Iterator[None]:
    """Put into words what the system says when it cannot write at `where`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


@contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """Give a new folder in `parent`, gone afterwards unless it was renamed.

    Raises
    ------
    StorageError
        The disk is full or read-only, then or while the block writes into the folder.
    """
    from scfm_registry import workshops

    make_folder(parent)
    with storing(parent), workshops.opened(parent) as folder:
        yield folder
