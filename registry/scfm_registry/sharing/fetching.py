"""What ``import`` is given (a folder, an archive, an address, a name from the catalogue) becomes a folder on this machine."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from scfm_lab.errors import ModelError, StorageError
from scfm_lab.home import data_home
from scfm_registry import files, importing, manifest
from scfm_registry.sharing import hub, unpacking
from scfm_registry.sharing.addresses import Policy, shown
from scfm_registry.sharing.downloading import Client, Wanted, fetch
from scfm_registry.store.place import make_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from scfm_registry.catalog import Published

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAYS_KEPT = 14
#: Endings of files of weights, as families are published.
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".torch")


@dataclass(frozen=True)
class Found:
    """A checkpoint on this machine, as it came.

    Attributes
    ----------
    path
        Its folder.
    source
        Where it was fetched from; empty for what was here already.
    name
        What it is called in the catalogue; empty where it is not in there.
    licence
        The one that its authors name on the hub; empty where they name none there.
    """

    path: Path
    source: str = ""
    name: str = ""
    licence: str = ""


@contextmanager
def local(
    given: str | os.PathLike[str],
    *,
    scratch: Path,
    sha256: str | None = None,
    hosts: Iterable[str] = (),
    progress: bool | Callable[..., None] = False,
) -> Iterator[Found]:
    """Give the folder of a checkpoint, fetched and unpacked if need be; what was fetched is gone afterwards.

    What an interrupted download has brought stays for two weeks, so that the same call goes on with it.

    Parameters
    ----------
    given
        A folder; an archive (zip, tar, tar.gz …); ``hf://ORG/REPO[@REVISION][/FOLDER]``; ``https://…`` of a file or archive;
        or an id of the catalogue.
    scratch
        Folder for what is unpacked.
    sha256
        Of the file at an address, of an archive on this machine, or of the one file of weights in a repository, as its authors
        publish it.
    hosts
        A lab's own hosts, by their exact names.
    progress
        As in :func:`scfm_lab.embed`.

    Raises
    ------
    ModelError
        The address is refused, does not answer, or gives another file than it should; `sha256` is given, and there is no one
        file that it could be of.
    StorageError
        The disk is full.
    """
    text = str(given)
    entry = _published(text)
    scheme = _SCHEME.match(text)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ModelError(f"{ascii(sha256)[:80]} is no SHA-256: it is written with 64 digits 0-9 and a-f.")
    if scheme is None and entry is None:
        if sha256 is not None:
            _compare(Path(given).expanduser(), sha256)
        with _archive(Path(given).expanduser(), scratch) as folder:
            yield Found(folder)
        return
    if scheme is not None and scheme.group(1).lower() not in ("hf", "https", "http"):
        raise ModelError(f"{shown(text)} is not fetched; give a folder, an archive, hf://ORG/REPO/FOLDER or https://…")
    parts = _parts(text, entry, sha256)
    with _place(text) as work:
        source, folder, licence = _download(parts, work, Policy.of(hosts), progress)
        with _archive(folder, scratch) as unpacked:
            yield Found(unpacked, source, entry.id if entry is not None else "", licence)


def _published(text: str) -> Published | None:
    """The entry of the catalogue with this id, or whose files lie at this address."""
    from scfm_registry.catalog import catalog

    if Path(text).exists():
        return None
    for item in catalog():
        if text == item.id or (item.get and text.rstrip("/") == item.get[0]["from"]):
            return item
    return None


def _parts(text: str, entry: Published | None, sha256: str | None) -> list[dict[str, Any]]:
    """What is fetched: addresses, and what is known of each."""
    if entry is None:
        return [{"from": text, "sha256": sha256 or "", "given": True}]
    if not entry.get:
        raise ModelError(
            f"The authors of {entry.id} publish it on a page, and not at an address of files: get {', '.join(entry.files)} from "
            f"{entry.where}, then run: scfm-lab models import FOLDER --name {entry.id}"
        )
    first: dict[str, Any] = {"sha256": entry.sha256, "size": entry.size, **entry.get[0]}
    if sha256 is not None:
        first |= {"sha256": sha256, "given": True}
    return [first, *entry.get[1:]]


def _compare(path: Path, sha256: str) -> None:
    """Refuse an archive on this machine that is another file than its authors publish.

    Raises
    ------
    ModelError
        It is, or there is no file to compare.
    """
    if path.is_dir():
        raise ModelError(
            f"A SHA-256 is of one file, and {path} is a folder, so that nothing would be compared; leave it out, or give the "
            "archive that it is of."
        )
    try:
        found = manifest.sha256(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    if found != sha256:
        raise ModelError(f"{path} is another file: its SHA-256 is {found}, and not {sha256}. Nothing was registered.")


@contextmanager
def _place(text: str) -> Iterator[Path]:
    """The folder of one address's download, held by this process; gone when what was fetched has been used."""
    from filelock import FileLock, Timeout

    root = data_home() / "cache" / "downloads"
    make_folder(root)
    _clear(root)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    lock = FileLock(root / f"{key}.lock", timeout=1)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"Another process is fetching {shown(text)} just now; wait for it, then run this again."
        ) from error
    try:
        work = root / key
        make_folder(work)
        yield work
        shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def _clear(root: Path) -> None:
    for item in root.iterdir():
        with suppress(OSError):
            if time.time() - item.stat().st_mtime > _DAYS_KEPT * 86_400:
                shutil.rmtree(item) if item.is_dir() else item.unlink()


def _download(
    parts: Sequence[dict[str, Any]], work: Path, policy: Policy, progress: bool | Callable[..., None]
) -> tuple[str, Path, str]:
    """Fetch all parts into one folder: where the first was, the folder or archive that holds the checkpoint, and its licence there."""
    from scfm_lab.tasks.progress import as_progress

    plan: list[tuple[Client, Wanted]] = []
    source, main, licence = "", work, ""
    for index, part in enumerate(parts):
        if part["from"].startswith(hub.PREFIX):
            asked = hub.Repository.parse(part["from"])
            speaker = hub.client(policy)
            told = hub.listing(speaker, asked)
            wanted = told.files
            if index == 0:
                source, main = str(replace(asked, revision=told.commit)), work / asked.folder
                licence = told.licence
                wanted = _as_published(wanted, part)
        else:
            speaker = Client(policy)
            policy.check(part["from"])
            wanted = [_single(part)]
            if index == 0:
                source = shown(part["from"])
                main = work / wanted[0].name if unpacking.is_archive(Path(wanted[0].name)) else work
        plan += [(speaker, item) for item in wanted]
    done, total = 0, sum(item.size or 0 for _, item in plan)
    with as_progress(progress, f"downloading {source}", unit="MiB") as report:
        for speaker, item in plan:

            def show(now: int, size: int, before: int = done) -> None:
                if report is not None:
                    report((before + now) >> 20, max(total, before + size) >> 20)

            path = fetch(speaker, item, work, progress=show)
            done += path.stat().st_size
    fetched = {PurePosixPath(item.name).parts[0] for _, item in plan}
    for _, item in plan[1:]:
        if unpacking.is_archive(Path(item.name)):
            _unpack_beside(work / item.name, work, fetched)
    return source, main, licence


def _as_published(wanted: list[Wanted], part: dict[str, Any]) -> list[Wanted]:
    """Hold what the hub lists against the SHA-256 that was given, or that the catalogue has on record, of the weights.

    Raises
    ------
    ModelError
        They are another file, or it cannot be told of which file that is.
    """
    known, size = part.get("sha256", ""), part.get("size")
    if not known:
        return wanted
    weights = [item for item in wanted if item.name.endswith("model.safetensors")]
    weights = weights or [item for item in wanted if item.name.lower().endswith(_WEIGHTS)]
    if len(weights) != 1:
        raise ModelError(
            f"A SHA-256 is of one file, and {shown(part['from'])} has {len(weights) or 'no'} files of weights"
            f"{': ' if weights else ''}{', '.join(item.name for item in weights[:5])}; nothing was fetched. Leave it out: each file is "
            "compared with the hash that the hub tells of it."
        )
    (item,) = weights
    if item.sha256 and item.sha256 != known:
        whose = "the one that you gave the hash of" if part.get("given") else "the catalogue has on record"
        raise ModelError(
            f"{shown(item.url)} is another file than {whose} (SHA-256 {item.sha256} instead of {known}); it was not fetched."
        )
    held = replace(item, sha256=known, size=size if size is not None else item.size)
    return [held if other is item else other for other in wanted]


def _single(part: dict[str, Any]) -> Wanted:
    """The one file at an address."""
    url = part["from"]
    name = part.get("to") or PurePosixPath(unquote(urlsplit(url).path)).name
    path = Path(name)
    if path.suffix == ".scfm":
        raise ModelError(f"{shown(url)} is a bundle: download it, then run: scfm-lab models import-bundle {name}")
    if not unpacking.is_archive(path) and not importing.is_taken(path):
        raise ModelError(
            f"{shown(url)} does not tell by its name what it is; give the address of an archive ({', '.join(unpacking.ENDINGS)}) or of a "
            "weights file, or download it and give its folder."
        )
    return Wanted(url, name, size=part.get("size"), sha256=part.get("sha256") or "")


@contextmanager
def _archive(path: Path, scratch: Path) -> Iterator[Path]:
    """The folder that an archive holds; what is no archive is given as it is."""
    if path.suffix == ".scfm" and path.is_file():
        raise ModelError(f"{path} is a bundle of another registry; run: scfm-lab models import-bundle {path}")
    if not (path.is_file() and unpacking.is_archive(path)):
        yield path
        return
    with files.workshop(scratch) as folder:
        unpacking.unpack(path, folder)
        yield unpacking.inner(folder)


def _unpack_beside(archive: Path, work: Path, fetched: set[str]) -> None:
    with files.workshop(work) as folder:
        unpacking.unpack(archive, folder)
        for item in folder.iterdir():
            if item.name in fetched:
                raise ModelError(f"{archive.name} holds {item.name}, which is another file's name; it was not taken.")
            target = work / item.name
            # Of an earlier try that went no further.
            shutil.rmtree(target, ignore_errors=True)
            item.replace(target)
        archive.unlink()
