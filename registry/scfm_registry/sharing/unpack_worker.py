"""The process that unpacks what somebody brings: ``python -m scfm_registry.sharing.unpack_worker < request``.

It locks itself before it reads the first byte: no network, no programs, limits on memory, time and the size of what it writes.
"""

from __future__ import annotations

import json
import stat
import struct
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 2**20
_MEMORY = 2**30
_SECONDS, _BYTES_A_SECOND = 120, 4 * 2**20
#: Bytes that the list at the end of a zip has for each of its files, at most: a name, and what systems add.
_ENTRY = 4096


class Refused(Exception):
    """What is wrong with an archive, as the end of a sentence that begins with its name."""


def main() -> int:
    """Read a request from standard input, print the answer."""
    request = json.loads(sys.stdin.read())
    label = request["label"]
    try:
        answer: dict[str, Any] = {"files": work(request)}
    except Refused as error:
        answer = {"error": f"{label} {error}"}
    except (MemoryError, RecursionError):
        answer = {"error": f"{label} needs more memory than its size explains; it was not unpacked."}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        answer = {"error": f"{label} is damaged or no archive ({_first(error)}). Get it again."}
    except OSError as error:
        if error.errno is None:  # gzip's and lzma's own
            answer = {"error": f"{label} is damaged or no archive ({_first(error)}). Get it again."}
        else:
            answer = {"error": f"{error.filename or request['folder']}: {error.strerror}.", "storage": True}
    except Exception as error:  # noqa: BLE001 - zlib.error, lzma.LZMAError and what else a damaged stream raises
        answer = {"error": f"{label} is damaged or no archive ({type(error).__name__}: {_first(error)}). Get it again."}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _first(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def work(request: dict[str, Any]) -> int:
    """Unpack; the number of files."""
    import bz2  # noqa: F401 - what has to be imported is imported before the locks close
    import gzip  # noqa: F401
    import lzma  # noqa: F401
    import zlib  # noqa: F401

    from scfm_registry import confining, manifest

    archive, folder, largest = Path(request["archive"]), Path(request["folder"]), int(request["largest"])
    confining.lock(memory=_MEMORY, written=largest, seconds=_SECONDS + largest // _BYTES_A_SECOND)
    seen: dict[str, str] = {}
    left = largest
    entries = _zip(archive) if zipfile.is_zipfile(archive) else _tar(archive)
    for name, size, source in entries:
        _check_name(name, seen, manifest.is_safe(name))
        if len(seen) > manifest.MAX_FILES:
            raise Refused(f"holds more than {manifest.MAX_FILES:,} files; no checkpoint has as many.")
        if size > left:
            raise Refused(
                f"unpacks to more than {largest:,} bytes, which is more than its own {archive.stat().st_size:,} explain; it "
                "was not unpacked."
            )
        left -= _write(source, folder / name, size)
    if not seen:
        raise Refused("holds no files.")
    return len(seen)


def _check_name(name: str, seen: dict[str, str], safe: bool) -> None:
    if not safe or len(name.encode()) > 1024 or any(part in (".", "..") for part in name.split("/")):
        raise Refused(
            f"holds a file called {name[:120]!r}, which would lie outside its folder or cannot be written; it was not unpacked."
        )
    key = unicodedata.normalize("NFC", name).casefold()
    if key in seen:
        twice = "twice" if seen[key] == name else f"and {seen[key]!r}, which differ only in case or accents' spelling"
        raise Refused(f"holds {name!r} {twice}; it was not unpacked.")
    seen[key] = name


def _write(source: IO[bytes], target: Path, size: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > size:
                raise Refused(f"holds more of {target.name!r} than it says; it was not unpacked.")
            file.write(chunk)
    return done


def _zip(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    from scfm_registry import manifest

    count, index = _end_of_zip(path)
    if count > 2 * manifest.MAX_FILES or index > 2 * manifest.MAX_FILES * _ENTRY:
        raise Refused(f"lists {count:,} files and more; no checkpoint has more than {manifest.MAX_FILES:,}.")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir() or _is_rubbish(entry.filename):
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise Refused(f"holds {entry.filename!r}, which is a link or no plain file; it was not unpacked.")
            if entry.flag_bits & 1:
                raise Refused("is locked with a password; unpack it yourself and give the folder.")
            # zipfile cuts a name at a null byte; what stood behind it is told by the name as it was written.
            if entry.orig_filename != entry.filename:
                raise Refused(f"holds a file called {entry.orig_filename[:120]!r}; it was not unpacked.")
            yield entry.filename, entry.file_size, archive.open(entry)


def _end_of_zip(path: Path) -> tuple[int, int]:
    """How many files a zip lists, and the bytes of that list; looked at before anything is built from it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_557))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise Refused("is damaged or no archive. Get it again.")
    count, index = struct.unpack_from("<H", tail, at + 10)[0], struct.unpack_from("<I", tail, at + 12)[0]
    wide = tail.rfind(b"PK\6\6", 0, at)
    if wide >= 0 and len(tail) >= wide + 48:
        count, index = struct.unpack_from("<Q", tail, wide + 32)[0], struct.unpack_from("<Q", tail, wide + 40)[0]
    return count, index


def _tar(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(path, "r:*") as archive:
        passed = 0
        for member in archive:
            passed += 1
            if passed > 10_000:
                raise Refused("holds more than 10,000 entries; no checkpoint has as many.")
            if member.isdir() or _is_rubbish(member.name):
                continue
            source = archive.extractfile(member) if member.isreg() else None
            if source is None or member.issparse():
                raise Refused(f"holds {member.name!r}, which is a link or no plain file; it was not unpacked.")
            yield member.name.removeprefix("./"), member.size, source


def _is_rubbish(name: str) -> bool:
    """What macOS puts beside files."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


if __name__ == "__main__":
    sys.exit(main())
