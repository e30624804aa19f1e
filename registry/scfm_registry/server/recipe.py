"""Writing out what a lab needs to run the registry for good: a compose file, systemd units, backup and restore."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from scfm_lab.errors import StorageError
from scfm_registry.store.place import make_folder, storage_error

#: What comes from the machine that writes it, and not from a template.
_CONSTRAINTS = "constraints.txt"
_FROM = re.compile(r"^(FROM python:)[0-9.]+(-\S+)$", re.MULTILINE)


def templates() -> Path:
    """Folder of the recipe: within the installed package, or in a checkout beside it.

    Raises
    ------
    StorageError
        The installation lacks it.
    """
    package = Path(__file__).parent
    for folder in (package / "recipe", package.parents[1] / "server"):
        if (folder / "compose" / "compose.yaml").is_file():
            return folder
    message = "This installation of scfm-lab lacks the server's recipe; install it again."
    raise StorageError(message)


def write(folder: Path) -> list[str]:
    """Write the recipe into a new or empty folder, whole or not at all.

    Parameters
    ----------
    folder
        Made if it is not there.

    Returns
    -------
    list of str
        The files, relative to `folder`.

    Raises
    ------
    StorageError
        There is something in it already, or it cannot be written.
    """
    folder = folder.expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            message = f"{folder} is there and not empty; name a new folder for the recipe."
            raise StorageError(message)
        make_folder(folder.parent)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(unfinished)
            # As other folders of this person, and not closed as a temporary one is.
            unfinished.chmod(0o777 & ~_umask())
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, folder) from error
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def constraints() -> str:
    """List the versions of all installed packages, as ``pip install --constraint`` reads them."""
    found = {
        item.name.lower().replace("_", "-"): item.version.partition("+")[0]
        for item in metadata.distributions()
        if item.name and item.name != "scfm-lab"
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _fill(folder: Path) -> None:
    for source in sorted(templates().rglob("*")):
        target = folder / source.relative_to(templates())
        if source.is_dir():
            target.mkdir()
            continue
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.suffix == ".sh" else 0o644)
    (folder / _CONSTRAINTS).write_text(constraints(), encoding="utf-8")
    # The packages of this machine are those of its Python: of another one they may not even be there.
    build = folder / "compose" / "Dockerfile"
    text, count = _FROM.subn(rf"\g<1>{sys.version_info.major}.{sys.version_info.minor}\g<2>", build.read_text("utf-8"))
    if count != 1:
        message = f"The server's recipe names no Python in {build.name}; install scfm-lab again."
        raise StorageError(message)
    build.write_text(text, encoding="utf-8")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
