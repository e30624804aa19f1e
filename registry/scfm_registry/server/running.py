"""Starting a lab's server, waiting until it answers, and stopping it cleanly."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError
from scfm_registry.server.settings import ADMIN, Settings, admin_password, check
from scfm_registry.store import database
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds within which the server has to answer; a fresh database takes longest.
PATIENCE = 300
#: Seconds within which it has to end when it is asked to.
GRACE = 20


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes
    ----------
    settings
        What it was started with.
    database
        Kind and version of its database.
    admin
        Name of the first person.
    password
        Its password where it was made just now, and is shown this once; ``None`` otherwise.
    """

    settings: Settings
    database: str
    admin: str
    password: str | None

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON-ready values."""
        return {
            "address": self.settings.address,
            "hosts": list(self.settings.hosts),
            "database": database.shown(self.settings.database),
            "database_version": self.database,
            "artifacts": self.settings.artifacts,
            "permission": self.settings.permission,
            "admin": self.admin,
            "password": self.password,
            "log": str(self.settings.log),
        }

    def summary(self) -> str:
        """Say where it is, and what comes next."""
        address = self.settings.address
        lines = [
            f"The registry is served at {address}",
            f"  database  {database.shown(self.settings.database)} ({self.database})",
            f"  files     {self.settings.artifacts}",
            f"  names     {', '.join(self.settings.hosts)}; a request for any other host is refused",
            f"  people    whoever has a name may {_may(self.settings.permission)}; nobody else sees anything",
        ]
        if self.password is not None:
            lines += [
                f"  admin     {self.admin}, with the password {self.password}",
                "            It is shown this once and kept nowhere: write it down.",
            ]
        lines += [
            "Next, in another terminal:",
            f"  export MLFLOW_TRACKING_URI={address} MLFLOW_TRACKING_USERNAME={self.admin}",
            "  read -rs MLFLOW_TRACKING_PASSWORD && export MLFLOW_TRACKING_PASSWORD",
            "  scfm-lab registry setup                 # the built-in models",
            "  scfm-lab registry add-person NAME       # a name and a password for each of the lab",
            "  scfm-lab registry check                 # what is wrong, if anything is",
        ]
        if not self.settings.address.startswith("https") and not _is_loopback(self.settings.host):
            lines.append(
                "Passwords travel readable over http: put https before it (scfm-lab registry serve --write-recipe)."
            )
        return "\n".join(lines)


@contextmanager
def serving(
    settings: Settings, *, password_file: Path | None = None, log: bool = True, patience: float = PATIENCE
) -> Iterator[tuple[Running, subprocess.Popen[bytes]]]:
    """Start a server and wait until it answers; it is stopped when the block ends.

    Parameters
    ----------
    settings
        What to start.
    password_file
        Holds the first admin's password; without it one is made.
    log
        Write what the server says to ``server.log`` in its folder; else it goes to standard error.
    patience
        Seconds to wait for its first answer.

    Raises
    ------
    StorageError
        Something is missing, taken or unreachable, or the server ended at once; the message says what and what to do.
    """
    check(settings)
    _refuse_taken_port(settings)
    make_folder(settings.folder)
    with _alone(settings):
        kind = database.check(settings.database)
        if "://" not in settings.artifacts:
            make_folder(Path(settings.artifacts))
        password, made = admin_password(settings.people, password_file)
        settings.write_people()
        with ExitStack() as stack:
            output: Any = stack.enter_context(settings.log.open("ab")) if log else sys.stderr
            begin = settings.log.stat().st_size if log else 0
            process = subprocess.Popen(
                settings.command(),
                env=settings.environment(password),
                cwd=settings.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if log else output,
                # A Ctrl-C reaches this process, which then ends the server; not both at once.
                start_new_session=True,
            )
            try:
                _wait(settings, process, patience, begin if log else None)
                yield Running(settings, kind, ADMIN, password if made else None), process
            finally:
                stop(process)


def serve(
    settings: Settings, ready: Callable[[Running], None], *, password_file: Path | None = None, log: bool = True
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Parameters
    ----------
    settings, password_file, log
        As for :func:`serving`.
    ready
        Called once, when the server answers.

    Raises
    ------
    StorageError
        It could not be started, or ended by itself.
    """
    asked = False

    def end(number: int, frame: object) -> None:
        nonlocal asked
        if not asked:
            # Only the first: a second must not interrupt the stopping.
            asked = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(settings, password_file=password_file, log=log) as (running, process):
            ready(running)
            process.wait()
            if not asked:
                where = f"; the end of {settings.log} says why" if log else ""
                raise StorageError(f"The server ended by itself with code {process.returncode}{where}.")
    except KeyboardInterrupt:
        # That is how it is meant to end.
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server with all its workers: first asked, then, if it does not, killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()
    # A worker that outlived its parent would keep the port.
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        # The group is the server's alone: it was started as the leader of a session of its own.
        os.killpg(process.pid, number)


def _refuse_taken_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server itself will: what a stopped one left behind in the system does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"Port {settings.port} of {settings.host} is in use; end what listens there, or take another with --port."
            elif error.errno == errno.EACCES:
                message = f"Port {settings.port} is for the system's own services; take one above 1023 with --port."
            else:
                message = f"This machine cannot listen at {settings.host}:{settings.port} ({error.strerror or error})."
            raise StorageError(message) from error


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the folder: two servers on one would write each other's settings."""
    from filelock import FileLock, Timeout

    lock = FileLock(settings.folder / ".serving", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        message = f"Another server runs from {settings.folder}; end it, or give this one another --folder."
        raise StorageError(message) from error
    except OSError as error:
        raise storage_error(error, settings.folder) from error
    try:
        yield
    finally:
        lock.release()


def _wait(settings: Settings, process: subprocess.Popen[bytes], patience: float, begin: int | None) -> None:
    """Wait for the first answer.

    Raises
    ------
    StorageError
        The server ended, or did not answer in time; the message has the last line that it said.
    """
    import requests

    until = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < until:
        try:
            if requests.get(f"{settings.address}/health", timeout=2).status_code == requests.codes.ok:
                return
        except requests.RequestException:
            pass
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    what = "ended" if process.poll() is not None else f"did not answer within {patience:.0f} seconds"
    said = ""
    if begin is not None:
        with settings.log.open("rb") as handle:
            handle.seek(begin)
            lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
        said = f": {lines[-1].strip()[:300]} (all of it in {settings.log})" if lines else ""
    raise StorageError(f"The server {what} before it could be used{said}")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _may(permission: str) -> str:
    return "read all models and change their own" if permission == "READ" else "see their own and what they were given"
