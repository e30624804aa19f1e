"""On which kind of file system a folder lies: SQLite's locks hold on a machine's own disk, and not over a network."""

from __future__ import annotations

import os
import warnings
from pathlib import Path, PurePosixPath

#: Kinds that several machines share. What the kernel calls ``fuse`` is told apart by what stands after it.
NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.gpfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "smbfs",
        "wekafs",
    ]
)
_MOUNTS = Path("/proc/mounts")


def kind_of(folder: Path, mounts: str | None = None) -> str:
    r"""Kind of the file system that a folder lies on, such as ``"ext4"`` or ``"nfs4"``; empty where the system does not tell.

    Parameters
    ----------
    folder
        Absolute; it need not exist yet.
    mounts
        Lines as in ``/proc/mounts``; this machine's by default, which only Linux has.

    Examples
    --------
    >>> kind_of(Path("/home/anna/lab"), "/dev/sda1 / ext4 rw 0 0\nnas:/home /home nfs4 rw,vers=4.2 0 0\n")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
        folder = Path(os.path.realpath(folder))
    best, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = PurePosixPath(_plain(fields[1]))
        # A later line of the same place lies over an earlier one; autofs waits there for what it mounts.
        if (point == PurePosixPath(folder) or point in PurePosixPath(folder).parents) and fields[2] != "autofs":
            depth = len(point.parts)
            if depth >= best:
                best, found = depth, fields[2]
    return found


def is_network(folder: Path) -> bool:
    """Whether a folder lies on a file system that several machines share."""
    return kind_of(folder) in NETWORK


def tell(folder: Path) -> None:
    """Warn of a registry on a file system that several machines share."""
    kind = kind_of(folder)
    # 9p is also how some containers and virtual machines see the disk of their own machine.
    if kind in NETWORK - {"9p"}:
        warnings.warn(
            f"The registry in {folder} lies on a network file system ({kind}), where two machines that write at once can ruin its "
            "database. Set SCFM_HOME to a disk of this machine, run a server for the lab (scfm-lab registry serve), or put "
            "models into a spool (scfm-lab models spool).",
            RuntimeWarning,
            stacklevel=3,
        )


def _plain(text: str) -> str:
    """Undo the kernel's way of writing spaces, tabs, line ends and backslashes in names."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text
