"""Locks around a process that reads untrusted files: no network, no programs, limits on memory, time and disk.

On Linux a seccomp filter refuses, for this process and all its threads, the system calls that open a socket of whatever kind,
start a program, trace another process, read or write its memory, or take its open files (see seccomp(2)). Sockets of this
machine's own processes are among them: whoever connects to the one of Docker, of the desktop's bus or of an SSH agent has
others work for them. Elsewhere the limits on resources hold as far as the system has them. What was locked is told, so that
nobody believes in more.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_MIB = 2**20
#: Of each architecture its own number, that of seccomp(2), and those of the system calls that are refused. Pairs of sockets,
#: which threads' libraries use, are made by another call (socketpair).
_CALLS = {
    "x86_64": (
        0xC000003E,
        317,
        {
            "socket": 41,
            "execve": 59,
            "execveat": 322,
            "ptrace": 101,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "pidfd_getfd": 438,
            "io_uring_setup": 425,
        },
    ),
    "aarch64": (
        0xC00000B7,
        277,
        {
            "socket": 198,
            "execve": 221,
            "execveat": 281,
            "ptrace": 117,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "pidfd_getfd": 438,
            "io_uring_setup": 425,
        },
    ),
}
_NO_NEW_PRIVILEGES, _DUMPABLE = 38, 4
_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
#: What :func:`lock` says where the filter holds.
NO_NETWORK = "no network"


def lock(*, memory: int, written: int, seconds: int) -> list[str]:
    """Lock this process for the rest of its life.

    Parameters
    ----------
    memory
        Bytes that it may use beyond what it has now.
    written
        Size in bytes up to which it may write a file.
    seconds
        Seconds of processor time it may use.

    Returns
    -------
    list of str
        What holds from now on, in words.
    """
    held = _limits(memory, written, seconds)
    if _seccomp():
        held += [NO_NETWORK, "no other programs"]
    return held


def hide() -> None:
    """Keep the memory of this process, and of those that it forks, from other processes of the same user.

    On Linux only, and not from root; a process that forks for others' files is not to be changed by its own children.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


def filters() -> bool:
    """Whether this system has the filter that keeps a reading process from the network; asking locks nothing."""
    known = _known()
    if known is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    # No program is given, which only a system that takes programs notices.
    return libc.syscall(known[1], _FILTER, _ALL_THREADS, None) == -1 and ctypes.get_errno() == errno.EFAULT


def finding() -> tuple[str, str]:
    """``"ok"`` or ``"note"``, and in words what this system keeps a process from that reads what somebody brings."""
    if filters():
        return "ok", "files that are brought are read in a process without network that starts no programs"
    return "note", (
        "this system has no filter that keeps the process that reads brought files from the network; its readers take plain data "
        "only, but bring files of strangers in on Linux"
    )


def _limits(memory: int, written: int, seconds: int) -> list[str]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    held = []
    wanted = [
        ("RLIMIT_FSIZE", written, "size of files"),
        ("RLIMIT_CPU", seconds, "processor time"),
        ("RLIMIT_CORE", 0, ""),
    ]
    now = _address_space()
    if now:
        wanted.append(("RLIMIT_AS", now + memory, "memory"))
    for name, value, word in wanted:
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):
            continue
        if word:
            held.append(f"limited {word}")
    return held


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * 4096
    except (OSError, ValueError):
        return 0


def _known() -> tuple[int, int, dict[str, int]] | None:
    return _CALLS.get(platform.machine()) if sys.platform == "linux" else None


def _seccomp() -> bool:
    """Install the filter; False where there is none to be had."""
    known = _known()
    if known is None:
        return False
    architecture, seccomp, calls = known

    def step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    load, equal, answer = 0x20, 0x15, 0x06
    program = [step(load, 4), step(equal, architecture, 1, 0), step(answer, _REFUSE), step(load, 0)]
    # Numbers of the other calling convention of this processor (x32) are refused as well.
    program += [step(0x35, 0x40000000, 0, 1), step(answer, _REFUSE)]
    for number in calls.values():
        program += [step(equal, number, 0, 1), step(answer, _REFUSE)]
    program += [step(answer, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(program))
    libc = ctypes.CDLL(None, use_errno=True)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    given = Program(len(program), ctypes.addressof(code))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return libc.syscall(seccomp, _FILTER, _ALL_THREADS, ctypes.byref(given)) == 0
