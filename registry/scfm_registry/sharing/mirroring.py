"""Make a mirror: a folder with chosen versions, for machines without network and for disks that are only read."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import files, manifest, workshops
from scfm_registry.store import mirror
from scfm_registry.store.place import MIRROR, storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scfm_registry.version import ModelVersion, Record


@dataclass(frozen=True)
class Mirrored:
    """What a mirror holds now.

    Attributes
    ----------
    folder
        Where it is: give it to ``Registry(folder)``.
    versions
        What is in it.
    copied, size
        How many of them were copied just now, and the bytes of all files.
    """

    folder: Path
    versions: tuple[ModelVersion, ...]
    copied: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "versions": [item.reference for item in self.versions],
            "copied": self.copied,
            "size": self.size,
        }

    def summary(self) -> str:
        """A few lines for people."""
        named = ", ".join(item.reference for item in self.versions)
        return (
            f"{self.folder} mirrors {named} ({self.size / 2**20:.1f} MiB, {self.copied} copied now).\n"
            f"Open it with Registry({str(self.folder)!r}), or set MLFLOW_REGISTRY_URI to it; it is only read."
        )


def write(folder: Path, chosen: Sequence[tuple[ModelVersion, Record, Path]], evidence: Mapping[str, Path]) -> Mirrored:
    """Make `folder` a mirror of these versions and no others; what is there already and whole stays as it is.

    Parameters
    ----------
    folder
        Empty or new, or an earlier mirror.
    chosen
        Versions, their records and their checked files.
    evidence
        Records of measurements: id of the run → file.

    Raises
    ------
    ModelError
        The folder holds something else.
    StorageError
        It cannot be written.
    """
    if folder.exists() and not (folder / MIRROR).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} holds something that is no mirror; give a new folder.")
    try:
        copied = [found for found, _, source in chosen if _copy_version(folder, found, source)]
        _copy_evidence(folder, evidence)
        _write_index(folder, [record for _, record, _ in chosen])
        _clear(folder, {found.digest for found, _, _ in chosen}, set(evidence))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, folder, what="The mirror") from error
    versions = tuple(found for found, _, _ in chosen)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Mirrored(folder, versions, len(copied), size)


def _copy_version(folder: Path, found: ModelVersion, source: Path) -> bool:
    """Copy a version's files beside their place, check them there, and rename; whether that was needed."""
    target = mirror.folder_of(folder, found.digest)
    if target.is_dir():
        try:
            files.require_ok(manifest.check(target, found.digest, found.reference), target, found.reference)
        except ModelError:
            shutil.rmtree(target)
        else:
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with workshops.opened(target.parent) as private:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                place = private / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        files.require_ok(manifest.check(private, found.digest, found.reference), private, found.reference)
        # Everybody who can enter the mirror reads it; the private folder was nobody else's.
        for item in (private, *private.rglob("*")):
            item.chmod(0o755 if item.is_dir() else 0o644)
        private.rename(target)
    return True


def _copy_evidence(folder: Path, evidence: Mapping[str, Path]) -> None:
    target = folder / mirror.EVIDENCE
    target.mkdir(parents=True, exist_ok=True)
    for run, path in evidence.items():
        shutil.copyfile(path, target / f"{run}.json")


def _write_index(folder: Path, records: list[Record]) -> None:
    """Last, whole or not at all: before it, the mirror is what it was."""
    unfinished = folder / f"{MIRROR}.{os.getpid()}"
    try:
        unfinished.write_bytes(mirror.index(records, datetime.now(tz=UTC)))
        os.replace(unfinished, folder / MIRROR)
    finally:
        unfinished.unlink(missing_ok=True)


def _clear(folder: Path, digests: set[str], runs: set[str]) -> None:
    """Remove what the mirror does not list any more."""
    kept = {mirror.folder_of(folder, digest) for digest in digests}
    for item in (folder / mirror.VERSIONS).iterdir():
        if item not in kept and not item.name.startswith("."):
            shutil.rmtree(item, ignore_errors=True)
    for item in (folder / mirror.EVIDENCE).iterdir():
        if item.stem not in runs:
            item.unlink(missing_ok=True)
