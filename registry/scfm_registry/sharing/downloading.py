"""One file from the network: resumed where it broke off, no longer than it may be, checked, and only then there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import get_environ_proxies

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import manifest
from scfm_registry.sharing.addresses import PinnedAdapter, Policy, shown
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: Bytes beyond which no published file goes; what says it is larger is a mistake or an endless stream.
LARGEST = 200 * 2**30
#: Bytes that stay free on the disk.
_RESERVE = 256 * 2**20
#: Small enough that what a connection brought before it broke is kept.
_CHUNK = 2**16
_HOPS = 10
_TIMEOUT = (20, 60)
#: Seconds to wait before each further try that follows one which brought nothing.
_PAUSES = (0.5, 2, 5, 10)
_LARGEST_DOCUMENT = 16 * 2**20


@dataclass(frozen=True)
class Wanted:
    """A file as a catalogue or server describes it.

    Attributes
    ----------
    url
        Its address.
    name
        Relative path that it gets.
    size, sha256
        Bytes, and SHA-256 as 64 hexadecimal digits, where they are told.
    blob
        Git's SHA-1 of it, where only that is told.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str = ""
    blob: str = ""


class Client:
    """Fetches files and small documents over https.

    Parameters
    ----------
    policy
        Where it may go.
    token, token_host
        A secret that is shown to this host alone (name, and port where it has one), and only over https or to a host that the
        policy names.
    """

    def __init__(self, policy: Policy, *, token: str = "", token_host: str = "") -> None:
        self.policy = policy
        self._token, self._token_host = token, token_host.lower()
        self._session = requests.Session()
        # Proxies and certificates of the environment are taken below; passwords from ~/.netrc are not.
        self._session.trust_env = False
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, PinnedAdapter(policy))

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """Ask for an address, following its redirects as far as the policy lets them.

        Raises
        ------
        ModelError
            The address or where it leads is refused, or the server refuses.
        """
        before = None
        for _ in range(_HOPS):
            self.policy.check(url, before=before)
            answer = self._session.get(
                url,
                headers={
                    "Accept-Encoding": "identity",
                    "User-Agent": "scfm-lab",
                    **(headers or {}),
                    **self._secret(url),
                },
                stream=True,
                allow_redirects=False,
                timeout=_TIMEOUT,
                proxies=get_environ_proxies(url),
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
            )
            with answer:
                if answer.is_redirect:
                    before, url = url, urljoin(url, answer.headers["Location"])
                    continue
                yield answer
                return
        raise ModelError(f"{shown(url)} leads on and on, and to no file.")

    def document(self, url: str) -> tuple[Any, str]:
        """Read a JSON document, and the address of its next page (or nothing).

        Raises
        ------
        ModelError
            The server does not answer, refuses, or sends something else.
        """
        with speaking(url), self.open(url) as answer:
            refuse_status(answer, url)
            content = b""
            for chunk in answer.iter_content(_CHUNK):
                content += chunk
                if len(content) > _LARGEST_DOCUMENT:
                    break
            following = answer.links.get("next", {}).get("url", "")
        try:
            if len(content) > _LARGEST_DOCUMENT:
                raise ValueError("it is too long")
            return json.loads(content), urljoin(url, following) if following else ""
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{shown(url)} does not answer as it should ({error}); try again later.") from error

    def _secret(self, url: str) -> dict[str, str]:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or parts.hostname in self.policy.hosts
        if not self._token or not safe or parts.netloc.lower() != self._token_host:
            return {}
        return {"Authorization": f"Bearer {self._token}"}


def fetch(client: Client, wanted: Wanted, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a file into `folder`, going on with what an earlier try left there.

    Parameters
    ----------
    client
        What speaks to the network.
    wanted
        Which file.
    folder
        Where it goes; ``NAME.part`` and ``NAME.part.json`` are there until it is whole.
    progress
        Called with bytes that are there, and bytes in all (0 where that is not known).

    Returns
    -------
    Path
        The file, whole, with the size and hash that were told, written through to the disk.

    Raises
    ------
    ModelError
        The server refuses, breaks off again and again, sends another file than was told, or does not end.
    StorageError
        The disk is full or read-only.
    """
    if not manifest.is_safe(wanted.name):
        raise ModelError(f"{shown(wanted.url)} gives its file the name {wanted.name!r}, which is none.")
    target = folder / wanted.name
    if target.is_file() and not faults(target, wanted):
        return target
    make_folder(target.parent)
    part = Part(target)
    try:
        _complete(client, wanted, part, progress)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, target) from error
    wrong = faults(part.path, wanted)
    if wrong:
        part.forget()
        raise ModelError(f"{shown(wanted.url)} sent another file than it should: {wrong}. Nothing was kept of it.")
    part.finish(target)
    return target


def faults(path: Path, wanted: Wanted) -> str:
    """In which way a file is not the one that was told; an empty text where it is."""
    size = path.stat().st_size
    if wanted.size is not None and size != wanted.size:
        return f"{size:,} bytes instead of {wanted.size:,}"
    if wanted.sha256 and (found := manifest.sha256(path)) != wanted.sha256:
        return f"its SHA-256 is {found} instead of {wanted.sha256}"
    if wanted.blob and not wanted.sha256 and (found := _blob(path)) != wanted.blob:
        return f"its Git hash is {found} instead of {wanted.blob}"
    return ""


class Part:
    """A file that is not whole yet, and which state of the server's file it is a part of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str:
        """What the server called the state of the file that this is a part of."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["url"] == shown(url) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def note(self, url: str, answer: requests.Response) -> None:
        """Write down which state is being fetched. A weak ETag does not promise the same bytes."""
        etag = answer.headers.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
        self._note.write_text(json.dumps({"url": shown(url), "validator": strong}), encoding="utf-8")

    def forget(self) -> None:
        """Delete what is there."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Put the whole file in its place, written through to the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        sync_folder(target.parent)
        self._note.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries through to the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(client: Client, wanted: Wanted, part: Part, progress: Callable[[int, int], None] | None) -> None:
    """Try until the part is whole, as long as tries bring something."""
    idle = 0
    while True:
        before, reason = part.size, "it broke off"
        try:
            with speaking(wanted.url, passing=True):
                if _try(client, wanted, part, progress):
                    return
        except _Broken as error:
            reason = str(error)
        idle = 0 if part.size > before else idle + 1
        if idle > len(_PAUSES):
            raise ModelError(
                f"{shown(wanted.url)} could not be fetched ({reason}). Check the connection and run the same again: it goes on "
                f"with the {part.size:,} bytes that are there."
            )
        if idle:
            time.sleep(_PAUSES[idle - 1])


def _try(client: Client, wanted: Wanted, part: Part, progress: Callable[[int, int], None] | None) -> bool:
    """One request; whether the file is whole."""
    have, validator = part.size, part.validator(wanted.url)
    # Without a name for its state, only a hash that is known tells whether two halves belong together.
    resumable = bool(have) and bool(validator or wanted.sha256 or wanted.blob)
    if have and wanted.size == have:
        return True
    headers = {"Range": f"bytes={have}-"} if resumable else {}
    if resumable and validator:
        headers["If-Range"] = validator
    with client.open(wanted.url, headers) as answer:
        if answer.status_code == 416:
            part.forget()
            return False
        refuse_status(answer, wanted.url)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(
                f"{shown(wanted.url)} sends the file packed although it was asked not to; it was not kept."
            )
        start = have if answer.status_code == 206 and resumable else 0
        total = _total(answer, start)
        if answer.status_code == 206 and _start(answer) != start:
            part.forget()
            return False
        if wanted.size is not None and total is not None and total != wanted.size:
            raise ModelError(
                f"{shown(wanted.url)} has {total:,} bytes, and {wanted.size:,} are on record; it was not fetched."
            )
        if not start:
            part.forget()
            part.note(wanted.url, answer)
        most = wanted.size if wanted.size is not None else total
        _room(part, (most or 0) - start, wanted)
        return _receive(answer, wanted, part, most, progress)


def _receive(
    answer: requests.Response,
    wanted: Wanted,
    part: Part,
    most: int | None,
    progress: Callable[[int, int], None] | None,
) -> bool:
    limit = LARGEST if most is None else most
    with part.path.open("ab") as file:
        done = file.tell()
        for chunk in answer.iter_content(_CHUNK):
            done += len(chunk)
            if done > limit:
                file.close()
                part.forget()
                raise ModelError(
                    f"{shown(wanted.url)} sends more than {limit:,} bytes, and does not end; it was not kept."
                )
            if most is None:
                _room(part, _CHUNK, wanted)
            file.write(chunk)
            if progress is not None:
                progress(done, most or 0)
    return most is None or done == most


def _room(part: Part, need: int, wanted: Wanted) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if need + _RESERVE > free:
        raise StorageError(
            f"{shown(wanted.url)} takes {need / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free at {part.path.parent}. "
            "Free some space, or set SCFM_HOME to a directory on a larger disk."
        )


def _total(answer: requests.Response, start: int) -> int | None:
    """Bytes of the whole file, as the server says."""
    told = re.fullmatch(r"bytes \d+-\d+/(\d{1,18})", answer.headers.get("Content-Range", ""))
    if told:
        return int(told.group(1))
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _start(answer: requests.Response) -> int | None:
    told = re.match(r"bytes (\d{1,18})-", answer.headers.get("Content-Range", ""))
    return int(told.group(1)) if told else None


def refuse_status(answer: requests.Response, url: str) -> None:
    """Say in words what a server answers instead of the file.

    Raises
    ------
    ModelError
        It refuses; what may be better in a moment is tried again.
    """
    code = answer.status_code
    if code in (200, 206):
        return
    if code in (401, 403):
        raise ModelError(
            f"{shown(url)} is not given to everybody (the server answers {code}). Accept its terms on its page, then set "
            "HF_TOKEN to a token of your account."
        )
    if code in (404, 410):
        raise ModelError(f"{shown(url)} is not there (the server answers {code}). Check the address.")
    if code in (408, 425, 429, 500, 502, 503, 504):
        raise _Broken(f"the server answers {code}")
    raise ModelError(f"{shown(url)} could not be fetched (the server answers {code}).")


class _Broken(ModelError):
    """What another try may mend."""


@contextmanager
def speaking(url: str, *, passing: bool = False) -> Iterator[None]:
    """Put what the network says into words; `passing` marks what another try may mend."""
    from requests import exceptions as http

    kind = _Broken if passing else ModelError
    try:
        yield
    except http.SSLError as error:
        raise ModelError(
            f"The certificate of {shown(url)} is not accepted; nothing was fetched. {_last(error)}"
        ) from error
    except http.Timeout as error:
        raise kind(f"{shown(url)} does not answer in time.") from error
    except http.ConnectionError as error:
        raise kind(f"{shown(url)}: no connection.") from error
    except http.ChunkedEncodingError as error:
        raise kind(f"{shown(url)} broke off.") from error
    except http.RequestException as error:
        raise ModelError(f"{shown(url)} could not be fetched ({_last(error)}).") from error


def _last(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[-160:]}".rstrip(".") + "." if text else type(error).__name__


def _blob(path: Path) -> str:
    """Git's name for a file's content."""
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
