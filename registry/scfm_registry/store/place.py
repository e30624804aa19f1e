"""Which registry is meant: an embedded one (a folder with SQLite in it) or a server's address."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from scfm_lab.errors import StorageError
from scfm_lab.home import data_home

if TYPE_CHECKING:
    from collections.abc import Iterator

#: File name of an embedded registry's database.
DATABASE = "mlflow.db"
#: File name of a mirror's index.
MIRROR = "mirror.json"
#: A server and its port, as people write it who leave the scheme out.
_SERVER = re.compile(r"[A-Za-z0-9_.-]{2,}:\d{1,5}(/.*)?")
#: Seconds to wait for another process that sets the registry up or writes to it.
LOCK_SECONDS = 180


@dataclass(frozen=True)
class Place:
    """Where a registry is.

    Attributes
    ----------
    uri
        What MLflow is told: ``sqlite:///…``, ``postgresql+psycopg://…`` or ``http(s)://…``.
    tracking_uri
        The same, unless the lab keeps runs and files at another address.
    folder
        The folder that holds the files of a registry whose database is opened directly; ``None`` for a server.
    database
        An embedded registry's SQLite file; ``None`` for a server, and for PostgreSQL.
    """

    uri: str
    tracking_uri: str
    folder: Path | None = None
    database: Path | None = None

    @property
    def embedded(self) -> bool:
        """Whether this machine opens its database and files itself, without a server."""
        return self.folder is not None

    @property
    def read_only(self) -> bool:
        """Whether it is a mirror, which nothing is written to."""
        return self.folder is not None and (self.folder / MIRROR).is_file()

    @property
    def artifacts(self) -> Path:
        """The embedded registry's folder of files."""
        if self.folder is None:
            raise ValueError("a server keeps its own files")
        return self.folder / "artifacts"

    @property
    def shown(self) -> str:
        """What messages call it; a password in an address is left out."""
        if self.folder is not None and self.database is not None:
            return str(self.folder)
        if self.folder is not None:
            from scfm_registry.store import database

            return database.shown(self.uri)
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which this machine's processes change the registry; a thread may hold it twice.

        Raises
        ------
        StorageError
            Another process keeps it, or it cannot be made.
        """
        if self.folder is not None and self.database is None:
            from scfm_registry.store import postgres

            with postgres.locked(self.uri):
                yield
            return
        from filelock import FileLock, Timeout

        if self.read_only:
            from scfm_registry.store.mirror import read_only

            raise read_only(self)
        path = self._lock_path()
        # A singleton per path, so that a second Registry of the same thread does not wait for the first.
        lock = FileLock(path, timeout=LOCK_SECONDS, is_singleton=True)
        try:
            lock.acquire()
        except Timeout as error:
            message = (
                f"Another process has been writing to the registry in {self.shown} for {LOCK_SECONDS} seconds; wait for it "
                "or end it, then try again."
            )
            raise StorageError(message) from error
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            yield
        finally:
            lock.release()

    def _lock_path(self) -> Path:
        if self.folder is not None:
            make_folder(self.folder)
            return self.folder / ".lock"
        folder = data_home() / "locks"
        make_folder(folder)
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        return folder / f"registry-{name}.lock"


def resolve(uri: str | os.PathLike[str] | None = None) -> Place:
    """Find the registry that is meant.

    Parameters
    ----------
    uri
        A folder, ``sqlite:///…``, ``postgresql://…`` or ``http(s)://…``. ``None`` takes ``MLFLOW_REGISTRY_URI`` or ``MLFLOW_TRACKING_URI``, and
        where neither is set, the folder ``registry`` in the user's data directory.

    Raises
    ------
    StorageError
        The address is of a kind that cannot hold a registry, or the data directory cannot be used.
    """
    if uri is not None:
        text = os.fspath(uri)
        return _address(text, "") or _folder(Path(text).expanduser())
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "").strip()
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if registry:
        place = _from_variable(registry, "MLFLOW_REGISTRY_URI")
        if place.embedded or not tracking or tracking == registry:
            return place
        return Place(place.uri, _from_variable(tracking, "MLFLOW_TRACKING_URI").uri)
    if tracking:
        return _from_variable(tracking, "MLFLOW_TRACKING_URI")
    return _folder(data_home() / "registry")


def _from_variable(text: str, variable: str) -> Place:
    """Read MLflow's own variable, where a plain path means a store of files that MLflow has given up."""
    place = _address(text, f" (from {variable})")
    if place is None and (Path(text).expanduser() / MIRROR).is_file():
        return _folder(Path(text).expanduser())
    if place is None:
        message = (
            f"A registry cannot be kept at '{text}' (from {variable}): use sqlite:///FILE or the http(s) address of an MLflow "
            "server, or unset the variable to use the embedded registry."
        )
        raise StorageError(message)
    return place


def _address(text: str, origin: str) -> Place | None:
    """Read an address; ``None`` for what is a path."""
    scheme = text.partition(":")[0].lower() if ":" in text else ""
    if scheme in ("http", "https"):
        if not urlsplit(text).hostname:
            message = f"'{text}'{origin} names no server; write it like http://registry.lab:5000."
            raise StorageError(message)
        return Place(text.rstrip("/"), text.rstrip("/"))
    if scheme == "sqlite":
        return _sqlite(text, origin)
    if scheme.startswith("postgres"):
        return _postgresql(text)
    if _SERVER.fullmatch(text) and not Path(text).exists():
        message = f"'{text}'{origin} is no folder that is there; for the server of a lab write http://{text}."
        raise StorageError(message)
    # One letter is a drive, and a path may hold a colon.
    if len(scheme) > 1 and scheme.isalnum() and not Path(text).exists():
        message = (
            f"A registry cannot be kept at '{scheme}:'{origin}: use a folder, sqlite:///FILE, or the http(s) address of an "
            "MLflow server."
        )
        raise StorageError(message)
    return None


def _folder(folder: Path) -> Place:
    folder = folder.absolute()
    uri = sqlite_uri(folder / DATABASE)
    return Place(uri, uri, folder, folder / DATABASE)


def _sqlite(text: str, origin: str) -> Place:
    path = text[len("sqlite:") :]
    if not path.startswith("///") or path in ("///", "///:memory:") or "?" in path:
        message = f"'{text}'{origin} names no database file; write it like sqlite:////home/me/registry/{DATABASE}."
        raise StorageError(message)
    database = Path(path[3:]).absolute()
    if database.name == DATABASE and (database.parent / "registry.json").exists():
        return _folder(database.parent)
    # Somebody's own MLflow database: our files go beside it, into a folder of our own.
    uri = sqlite_uri(database)
    return Place(uri, uri, database.parent / f"{database.stem}-scfm", database)


def _postgresql(text: str) -> Place:
    """Read PostgreSQL's address; ``?artifacts=FOLDER`` says where the files are, a folder that all who use it can reach."""
    from scfm_registry.store import database

    parts = urlsplit(database.normal(text))
    options = dict(parse_qsl(parts.query))
    given = options.pop("artifacts", None)
    uri = urlunsplit(parts._replace(query=urlencode(options)))
    name = hashlib.sha256(f"{parts.hostname}:{parts.port}{parts.path}".encode()).hexdigest()[:16]
    folder = Path(given).expanduser().absolute() if given else data_home() / "databases" / name
    return Place(uri, uri, folder)


def sqlite_uri(database: Path) -> str:
    """Write a database file's absolute path as MLflow and SQLAlchemy read it."""
    text = database.as_posix()
    # SQLAlchemy 2.0 and 2.1 disagree about quoting, and MLflow does not quote at all.
    if any(sign in text for sign in "?#%"):
        message = (
            f"The registry cannot be kept at {database}: a name in that path holds '?', '#' or '%', which database "
            "addresses cannot. Set SCFM_HOME to another directory."
        )
        raise StorageError(message)
    return f"sqlite:///{text}"


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises
    ------
    StorageError
        It cannot be made; the message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error


def storage_error(error: OSError, where: Path | str, *, what: str = "") -> StorageError:
    """Say in words why the system refused to write at `where`: the registry, or `what` goes to a place that somebody named."""
    if isinstance(error, StorageError):
        return error
    code = error.errno
    if code is None:
        # shutil.copytree collects what went wrong as texts.
        told = re.search(r"\[Errno (\d+)\]", str(error))
        code = int(told.group(1)) if told else 0
    reasons = {
        errno.EROFS: "it is on a read-only disk",
        errno.EACCES: "you have no permission to write there",
        errno.EPERM: "you have no permission to write there",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "your disk quota is used up",
        errno.EFBIG: "the file would be larger than this system allows",
        errno.ENOTDIR: "part of that path is a file",
        errno.EEXIST: "there is a file of that name",
    }
    reason = reasons.get(code, error.strerror or str(error))
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if what:
        advice = (
            "Free some space, or name a place on a larger disk."
            if full
            else "Name a folder that is there and that you can write to."
        )
        return StorageError(f"{what} cannot be written to {where}: {reason}. {advice}")
    advice = (
        "Free some space, or set SCFM_HOME to a directory on a larger disk."
        if full
        else "Set SCFM_HOME to a directory you can write to."
    )
    return StorageError(f"The registry cannot write to {where}: {reason}. {advice}")
