"""An archive becomes a folder: in a locked process, plain files only, no larger than they say."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import workers

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: Bytes for each byte of an archive: text of numbers packs to a tenth, and weights hardly at all.
TIMES, REST = 60, 256 * 2**20
_SECONDS = 3600


def is_archive(path: Path) -> bool:
    """Whether a file is an archive by its name."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path, *, label: str = "", largest: int | None = None) -> None:
    """Unpack an archive into an existing, empty folder.

    Parameters
    ----------
    archive
        A zip or tar file, packed or not.
    folder
        Where to.
    label
        What messages call the archive; its path by default.
    largest
        Bytes that may come out; by default what the archive's own size explains.

    Raises
    ------
    ModelError
        It is damaged, holds anything but plain files below its folder, or more than its size explains.
    StorageError
        The disk is full or read-only.
    """
    called = label or str(archive)
    most = largest if largest is not None else TIMES * archive.stat().st_size + REST
    request = {"archive": str(archive), "folder": str(folder), "label": called, "largest": most}
    command = [*workers.PYTHON, "scfm_registry.sharing.unpack_worker"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{called} was not unpacked after {_SECONDS // 60} minutes; no checkpoint takes that long."
        ) from error
    except OSError as error:
        raise StorageError(f"The process that unpacks {called} could not be started ({error.strerror}).") from error
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"Unpacking {called} was ended by the system or by its limits ({last[:200]}).") from error
    if "error" in answer:
        raise StorageError(answer["error"]) if answer.get("storage") else ModelError(answer["error"])


def inner(folder: Path) -> Path:
    """The folder that holds the files, where an archive has only folders in folders around it."""
    while True:
        items = [item for item in folder.iterdir() if not item.name.startswith(".")]
        if len(items) != 1 or not items[0].is_dir():
            return folder
        folder = items[0]
