"""Processes that read what somebody brings: one for each import, which ends with it (:mod:`scfm_registry.import_worker`).

Starting Python with PyTorch takes longer than reading most checkpoints. On Linux a process does that once and forks a child for each
import, which locks itself before it reads the first byte. A child has nothing of the one before it, and no way to the next: what it is
asked and what it answers lies in files in memory that are made for it alone. Elsewhere, where forking is not safe beside the
system's libraries, and while another import is under way, an import starts a process of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Python's own folders and the user's, never the one that somebody happens to work in: it may be the checkpoint's.
PYTHON = (sys.executable, "-P", "-m")
_WORKER = "scfm_registry.import_worker"
#: Starts what forks for imports.
SERVER = (sys.executable, "-P", "-W", "ignore", "-m", _WORKER, "--serve")
#: Seconds without an import after which the process that forks ends; it holds some 200 MiB.
_IDLE = 60
_STATUS_BYTES = 16
#: Seconds between two looks at a child where the system does not tell of its end.
_GLANCE = 0.05


def ask(request: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Let a process of its own answer a request.

    Parameters
    ----------
    request
        For :func:`scfm_registry.import_worker.main`.
    timeout
        Seconds that it may take.

    Returns
    -------
    subprocess.CompletedProcess
        With what it printed; a negative status is the signal that ended it.

    Raises
    ------
    subprocess.TimeoutExpired
        It took longer, and was ended.
    OSError
        No process could be started.
    """
    if sys.platform == "linux":
        found = _forking.ask(request, timeout)
        if found is not None:
            return found
    return subprocess.run(
        [*PYTHON, _WORKER], input=request, capture_output=True, text=True, timeout=timeout, check=False
    )


def prepare() -> None:
    """Start what forks, so that it is ready when :func:`ask` is called; nothing waits for it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            _forking.start()


class Forking:
    """A process that forks a child for each request, as the process that asks it sees it.

    Parameters
    ----------
    command
        Starts a process that calls :func:`serve` with its last argument.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0

    @property
    def process(self) -> int | None:
        """Number of the process that forks, or None where there is none."""
        return self._process.pid if self._process is not None else None

    def ask(self, request: str, timeout: float) -> subprocess.CompletedProcess[str] | None:
        """Let a child answer; None where there is none to be had: one is at work, or the process that forks went away.

        Parameters
        ----------
        request, timeout
            As for :func:`ask`.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._start()
            return self._ask(request, timeout)
        finally:
            self._lock.release()

    def start(self) -> None:
        """Start the process unless it runs, or somebody else is at it."""
        if self._lock.acquire(blocking=False):
            try:
                self._start()
            finally:
                self._lock.release()

    def _ask(self, request: str, timeout: float) -> subprocess.CompletedProcess[str] | None:
        assert self._control is not None
        told = {"request": request, "environment": dict(os.environ), "directory": _directory()}
        files = [os.memfd_create(name) for name in ("request", "answer", "errors")]
        child = 0
        try:
            _write(files[0], json.dumps(told).encode())
            self._control.settimeout(timeout)
            socket.send_fds(self._control, [b"1"], files)
            child = int(self._control.recv(_STATUS_BYTES) or 0)
            code = int(self._control.recv(_STATUS_BYTES) or -signal.SIGKILL) if child else 0
            answered = subprocess.CompletedProcess(self._command, code, _read(files[1]), _read(files[2]))
        except TimeoutError as error:
            self.end(child)
            raise subprocess.TimeoutExpired(self._command, timeout) from error
        except ConnectionError:
            self.end(child)
            # What a child has begun cannot be begun again on the same files.
            return subprocess.CompletedProcess(self._command, -signal.SIGKILL, "", "") if child else None
        except BaseException:
            # Ctrl-C does not reach the child, which has a session of its own.
            self.end(child)
            raise
        finally:
            for file in files:
                os.close(file)
        if not child:
            self.end()
        return answered if child else None

    def _start(self) -> None:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        self.end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Ctrl-C reaches whoever asked, and who asked ends the child.
                start_new_session=True,
            )
        self._control, self._owner = ours, os.getpid()

    def end(self, child: int = 0) -> None:
        """End that process, and a child that it has; a fork of this process leaves them to the one that started them."""
        process, control, owner = self._process, self._control, self._owner
        self._process = self._control = None
        if process is not None and owner == os.getpid():
            # Before the socket is closed, at which it would end the child itself, whose number could then be another's.
            process.kill()
            process.wait()
            if child:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        if control is not None:
            control.close()


_forking = Forking(SERVER)
atexit.register(_forking.end)


def serve(descriptor: int, answer: Callable[[str], int]) -> int:
    """Fork a child for each request that comes, until whoever asks is gone or has not asked for a minute.

    A child whose asker is gone is ended: the folder that it reads and writes is then anybody's to clear.

    Parameters
    ----------
    descriptor
        Of the socket that requests come over.
    answer
        Prints the answer to a request and returns the exit status.
    """
    from scfm_registry import confining

    confining.hide()
    control = socket.socket(fileno=descriptor)
    control.settimeout(_IDLE)
    while True:
        try:
            message, files, _, _ = socket.recv_fds(control, 1, 3)
        except (TimeoutError, ConnectionError):
            return 0
        if not message:
            return 0
        child = os.fork()
        if not child:
            _be_child(control, files, answer)
        for file in files:
            os.close(file)
        with contextlib.suppress(ConnectionError):
            control.send(str(child).encode())
        status = _ended(child, control)
        with contextlib.suppress(ConnectionError):
            control.send(str(os.waitstatus_to_exitcode(status)).encode())


def _ended(child: int, control: socket.socket) -> int:
    """Wait until a child has ended, and end it once whoever asked is gone; its status as the system has it."""
    try:
        ends = [os.pidfd_open(child)]
    except (AttributeError, OSError):  # Linux before 5.3, containers that forbid it, Pythons built for older systems
        ends = []
    try:
        while True:
            ready = select.select([control.fileno(), *ends], [], [], None if ends else _GLANCE)[0]
            # Nothing is asked while a child is at work: there is something to read only where the other end was closed.
            if control.fileno() in ready:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0 if ready else os.WNOHANG)
            if done:
                return status
    finally:
        for end in ends:
            os.close(end)


def _be_child(control: socket.socket, files: list[int], answer: Callable[[str], int]) -> NoReturn:
    code = 1
    try:
        control.close()
        os.dup2(files[1], 1)
        os.dup2(files[2], 2)
        told: dict[str, Any] = json.loads(_read(files[0]))
        for file in files:
            os.close(file)
        os.environ.clear()
        os.environ.update(told["environment"])
        with contextlib.suppress(OSError):
            os.chdir(told["directory"])
        code = answer(told["request"])
    except BaseException:  # noqa: BLE001 - a child never goes on as its parent
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _write(file: int, content: bytes) -> None:
    with open(file, "wb", closefd=False) as stream:
        stream.write(content)


def _read(file: int) -> str:
    with open(file, "rb", closefd=False) as stream:
        stream.seek(0)
        return stream.read().decode(errors="replace")
