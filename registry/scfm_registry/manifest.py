"""The canonical manifest: which files a version is made of, and the digest that is its identity.

A name and a number can be reused (delete a model in MLflow and its versions start at 1 again); the digest cannot. It is the
SHA-256 of ``manifest.json``, whose bytes are canonical, so that ``sha256sum manifest.json`` gives it as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scfm_lab.errors import ModelError

#: The manifest's own name, beside the files it lists.
FILENAME = "manifest.json"
#: Layout of the manifest.
SCHEMA = 1
#: What lets MLflow serve the version; no part of the identity, which decides every byte of it.
SERVING = "MLmodel"
#: MLflow writes a version's name and number into this file, beside the others, when it loads one; nothing here reads it.
NOTE = "registered_model_meta"
_LONGEST_NOTE = 4096
#: No checkpoint that is known has more; a folder with more is a mistake or an attack.
MAX_FILES = 2_000

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DAMAGED = "is damaged: its bytes are not those that were registered"


@dataclass(frozen=True)
class FileEntry:
    """One file: its SHA-256 (64 hexadecimal digits) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The files of a version by relative path, and the id of the adapter that opens them.

    Attributes
    ----------
    family
        Id of the adapter, such as ``"scfm.starter"``.
    files
        Relative POSIX path → :class:`FileEntry`.
    """

    family: str
    files: dict[str, FileEntry]

    def canonical(self) -> bytes:
        """Give the one way to write this manifest: UTF-8 JSON, keys sorted, no spaces."""
        document = {
            "family": self.family,
            "files": {path: {"sha256": entry.sha256, "size": entry.size} for path, entry in self.files.items()},
            "schema": SCHEMA,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """``"sha256:<64 hex>"`` of :meth:`canonical`."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def describe(folder: Path, family: str) -> Manifest:
    """Hash every file below `folder`.

    Parameters
    ----------
    folder
        A model's files. A ``manifest.json`` in it is not listed: it is what is being made. Nor is an ``MLmodel``, which
        :func:`serving` writes.
    family
        Id of the adapter that opens them.

    Raises
    ------
    ModelError
        The folder is empty, or holds links, special files, too many files, or names that other systems would confuse.
    """
    files: dict[str, FileEntry] = {}
    folded: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            message = f"{folder}: '{relative}' is a link; a model version is made of plain files only."
            raise ModelError(message)
        if path.is_dir() or relative in (FILENAME, SERVING, NOTE):
            continue
        if not path.is_file():
            message = f"{folder}: '{relative}' is not a plain file."
            raise ModelError(message)
        if not is_safe(relative):
            message = f"{folder}: a file is called {relative!r}; names may hold no control characters or backslashes."
            raise ModelError(message)
        key = unicodedata.normalize("NFC", relative).casefold()
        if key in folded:
            message = (
                f"{folder}: '{folded[key]}' and '{relative}' differ only in case or accents' spelling, and would be one "
                "file on other systems."
            )
            raise ModelError(message)
        folded[key] = relative
        if len(folded) > MAX_FILES:
            message = f"{folder} holds more than {MAX_FILES} files; give the folder of one checkpoint."
            raise ModelError(message)
        files[relative] = FileEntry(sha256(path), path.stat().st_size)
    if not files:
        message = f"{folder} holds no files; give the folder of a checkpoint."
        raise ModelError(message)
    return Manifest(family, files)


def parse(content: bytes, where: str) -> Manifest:
    """Read a manifest's bytes; they must be canonical, since their hash is the identity.

    Raises
    ------
    ModelError
        They are not a manifest that this version reads.
    """
    damaged = f"{where} is not a manifest that this scfm-lab reads; restore the version's files or register them again."
    try:
        document = json.loads(content)
        files = {path: FileEntry(str(entry["sha256"]), int(entry["size"])) for path, entry in document["files"].items()}
        manifest = Manifest(str(document["family"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(damaged) from error
    if (
        document.get("schema") != SCHEMA
        or manifest.canonical() != content
        or not all(map(is_safe, files))
        or SERVING in files
    ):
        raise ModelError(damaged)
    return manifest


def is_safe(relative: str) -> bool:
    """Whether a relative path stays inside its folder and has a name that every system can write."""
    parts = PurePosixPath(relative).parts
    return (
        bool(parts)
        and not relative.startswith("/")
        and ".." not in parts
        and "\\" not in relative
        and not any(unicodedata.category(letter).startswith("C") for letter in relative)
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check(folder: Path, digest: str, label: str, *, deferred: str = "") -> dict[str, str]:
    """Compare the files in `folder` with the manifest whose digest is `digest`.

    Parameters
    ----------
    folder
        Where the files and their ``manifest.json`` lie.
    digest
        The identity that the registry has on record.
    label
        What messages call the version, such as ``"starter/1"``.
    deferred
        Ending of files that are hashed later, by whoever reads them; their sizes are compared.

    Returns
    -------
    dict of str to str
        File → ``"ok"``, or what is wrong with it in words. Files that the manifest does not list are wrong as well.

    Raises
    ------
    ModelError
        There is no manifest, or it is not the one on record.
    """
    return compare(folder, registered(folder, digest, label), deferred=deferred)


def compare(folder: Path, manifest: Manifest, *, deferred: str = "") -> dict[str, str]:
    """Compare the files in `folder` with those that `manifest` lists; see :func:`check`."""
    found = {item.relative_to(folder).as_posix() for item in folder.rglob("*") if not item.is_dir()} - {FILENAME}
    states = {
        relative: _state(folder / relative, entry, hashed=not deferred or not relative.endswith(deferred))
        for relative, entry in sorted(manifest.files.items())
    }
    found -= {name for name in (SERVING, NOTE) if name in found and is_of_mlflow(folder / name, manifest.digest)}
    states.update(dict.fromkeys(sorted(found - set(manifest.files)), "is not part of this version"))
    return states


def read(path: Path, entry: FileEntry) -> tuple[bytes, str]:
    """Read a file that is listed as `entry`: its bytes, which are those that were hashed, and ``"ok"``; else nothing, and what is wrong."""
    state = _state(path, entry, hashed=False)
    content = path.read_bytes() if state == "ok" else b""
    if state == "ok" and hashlib.sha256(content).hexdigest() != entry.sha256:
        state = _DAMAGED
    return (content if state == "ok" else b""), state


def registered(folder: Path, digest: str, label: str) -> Manifest:
    """Read the manifest in `folder`, which must be the one whose digest is `digest`.

    Raises
    ------
    ModelError
        There is none, or it is another.
    """
    path = folder / FILENAME
    try:
        content = path.read_bytes()
    except OSError as error:
        message = (
            f"{label} cannot be read: {path} ({error.strerror}). Restore the file from a backup, or register the model "
            "again."
        )
        raise ModelError(message) from error
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        message = (
            f"{label} is refused: {path} is not the manifest that was registered ({digest}). Restore it from a backup, "
            "or register the model again."
        )
        raise ModelError(message)
    return parse(content, str(path))


def is_of_mlflow(path: Path, digest: str) -> bool:
    """Whether a file that lets MLflow serve the version is what it should be."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.name == NOTE:
        return path.stat().st_size <= _LONGEST_NOTE
    # It names code to load, so that not a byte of it may be anybody else's.
    return path.read_bytes() == serving(digest)


def serving(digest: str) -> bytes:
    """Write the ``MLmodel`` of a version: it names the loader in this package, and no code of the version's own.

    Parameters
    ----------
    digest
        The version's identity.
    """
    return (
        "# Lets MLflow serve this version with the installed scfm-lab; see scfm_registry.serving.\n"
        "flavors:\n"
        "  python_function:\n"
        "    loader_module: scfm_registry.serving\n"
        "metadata:\n"
        f"  scfm_digest: {digest}\n"
    ).encode()


def is_digest(text: str) -> bool:
    """Whether `text` is ``sha256:`` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _state(path: Path, entry: FileEntry, *, hashed: bool) -> str:
    if path.is_symlink() or not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.size:
        kind = "truncated" if size < entry.size else "too long"
        return f"is {kind}: {size} bytes instead of {entry.size}"
    if hashed and sha256(path) != entry.sha256:
        return _DAMAGED
    return "ok"
