"""The first opening of a version that this home has not imported itself.

A mirror, a lab's server or a shared folder holds what somebody else put there, perhaps past every import. So such a version is
opened once by the locked process that reads imports, before it is opened here; its digest is remembered, which is that of its bytes,
wherever they lie.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from scfm_lab.errors import StorageError
from scfm_lab.home import data_home

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_registry.manifest import Manifest
    from scfm_registry.reading import Reader
    from scfm_registry.version import ModelVersion, Record


def remember(digest: str) -> None:
    """Keep in mind that a locked process, or this package, has seen these files: they are opened at once from now on.

    A home that cannot be written forgets.
    """
    with suppress(OSError, StorageError):
        mark = _mark(digest)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def look(folder: Path, listed: Manifest, digest: str, registry: Callable[[], Reader]) -> None:
    """Have a version opened by the locked process, unless this home has imported it or did this before.

    Parameters
    ----------
    folder, listed, digest
        Its files, their list, and that one's digest.
    registry
        Gives the one that has what it was made from.

    Raises
    ------
    ModelError
        It holds a pickle, a file of a kind that no registry keeps, damaged weights, NaN, or does not open.
    """
    from scfm_lab.plugins import discover
    from scfm_registry import importing

    if _seen(digest):
        return
    if listed.family not in {item.id for item in discover().contributions("models")}:
        return  # Nothing here opens it, and whoever tries says so.
    request = {
        "family": listed.family,
        "kind": importing.KINDS[0],
        "licence": None,
        "as_registered": True,
        "hashes": {path: entry.sha256 for path, entry in listed.files.items()},
        "parents": opens_with(folder, registry),
    }
    importing.locked(folder, folder, request)
    remember(digest)


def ready(
    registry: Reader, found: ModelVersion, record: Record, *, weights: bool = True, copies: bool = True
) -> tuple[Path, Manifest]:
    """Give the folder of a version's files and their list, for whoever opens or reads the model in them here.

    Parameters
    ----------
    registry, found, record
        Where, and which version.
    weights, copies
        As for :func:`scfm_registry.files.checked`. A copy that the locked process is to read is hashed in any case: that process can
        fetch nothing.

    Raises
    ------
    ModelError
        As for :func:`scfm_registry.files.checked` and :func:`look`.
    StorageError
        The server or this machine's disk fails.
    """
    from scfm_registry import files, manifest

    folder = files.checked(registry._store, found, record, weights=weights, copies=copies or not _seen(found.digest))  # noqa: SLF001 - the registry's own parts
    listed = manifest.registered(folder, found.digest, found.reference)
    look(folder, listed, found.digest, lambda: registry)
    return folder, listed


def opens_with(folder: Path, registry: Callable[[], Reader]) -> dict[str, dict[str, str]]:
    """Checked files of what the version in a folder opens with, as of :func:`scfm_registry.sharing.parents.places`."""
    from scfm_lab.models import finetuned
    from scfm_registry import files, manifest
    from scfm_registry.sharing import parents

    if not finetuned.is_finetuned(folder):
        return {}
    record = finetuned.read_record(folder)
    if record.get("storage") == "full" or not manifest.is_digest(record["parent"]["digest"]):
        return {}
    asked = registry()
    found, known = asked.find_digest(record["parent"]["digest"])
    own = {"folder": str(files.checked(asked._store, found, known)), "family": found.family}  # noqa: SLF001 - own parts
    return {found.digest: own} | parents.places(asked, found, known)


def _seen(digest: str) -> bool:
    with suppress(StorageError):
        return _mark(digest).exists()
    return False


def _mark(digest: str) -> Path:
    return data_home() / "cache" / "looked-through" / digest.removeprefix("sha256:")
