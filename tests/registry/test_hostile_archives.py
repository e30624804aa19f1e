"""Archives that would write elsewhere, or without end: refused with nothing written, beside ones that are taken."""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from scfm_lab.cli import main
from scfm_lab.errors import ModelError
from scfm_registry import Registry
from scfm_registry.sharing import unpacking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], packed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def _link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("model.pt")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def _many(path: Path) -> Path:
    """A zip that lists a million files, as its end says."""
    _zip(path, ("a.json", b"{}"))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\5\6")
    struct.pack_into("<HHI", content, at + 8, 65_000, 65_000, 2**30)
    path.write_bytes(content)
    return path


HOSTILE: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "15 climbing name": ("a.zip", lambda p: _zip(p, ("../trap", b"x")), "outside its folder"),
    "15 climbing name, tar": ("a.tar.gz", lambda p: _tar(p, (_member("a/../../trap"), b"x")), "outside its folder"),
    "16 absolute name": ("a.zip", lambda p: _zip(p, ("/tmp/trap", b"x")), "outside its folder"),
    "16 absolute name, tar": ("a.tar.gz", lambda p: _tar(p, (_member("/tmp/trap"), b"x")), "outside its folder"),
    "16 backslashes": ("a.zip", lambda p: _zip(p, ("a\\..\\trap", b"x")), "outside its folder"),
    "17 link, then written through": (
        "a.tar.gz",
        lambda p: _tar(p, (_member("out", tarfile.SYMTYPE, ".."), b""), (_member("out/trap"), b"x")),
        "is a link or no plain file",
    ),
    "17 link in a zip": ("a.zip", lambda p: _zip(p, (_link_in_zip(), b"/etc/passwd")), "is a link or no plain file"),
    "18 hard link": (
        "a.tar.gz",
        lambda p: _tar(p, (_member("model.pt", tarfile.LNKTYPE, "/etc/passwd"), b"")),
        "is a link or no plain file",
    ),
    "18 device": ("a.tar.gz", lambda p: _tar(p, (_member("model.pt", tarfile.CHRTYPE), b"")), "is a link or no plain"),
    "18 pipe": ("a.tar.gz", lambda p: _tar(p, (_member("model.pt", tarfile.FIFOTYPE), b"")), "is a link or no plain"),
    "19 neighbour of the same beginning": (
        "a.zip",
        lambda p: _zip(p, ("../in-evil/trap", b"x")),
        "outside its folder",
    ),
    "20 bomb": (
        "a.zip",
        lambda p: _zip(p, ("model.pt", bytes(300 * 2**20)), packed=True),
        "more than its own .* explain",
    ),
    "20 a million files": ("a.zip", _many, "lists 65,000 files and more"),
    "20 many files": (
        "a.tar.gz",
        lambda p: _tar(p, *((_member(f"{i}.json"), b"") for i in range(2_100))),
        "more than 2,000 files",
    ),
    "21 names of one spelling": ("a.zip", lambda p: _zip(p, ("a.json", b""), ("A.json", b"")), "differ only in case"),
    "21 accents of two spellings": (
        "a.zip",
        lambda p: _zip(p, ("\u00e9.json", b""), ("e\u0301.json", b"")),
        "differ only in case or accents",
    ),
    "21 one name twice": (
        "a.tar.gz",
        lambda p: _tar(p, (_member("a.json"), b"1"), (_member("a.json"), b"2")),
        "'a.json' twice",
    ),
    "4 truncated": (
        "a.zip",
        lambda p: (_zip(p, ("a.json", b"{}" * 99)), p.write_bytes(p.read_bytes()[:60]), p)[-1],
        "damaged",
    ),
    "no archive": (
        "a.tar.gz",
        lambda p: (p.write_bytes(b"cposix\nsystem\n(S'true'\ntR."), p)[-1],
        "damaged or no archive",
    ),
    "nothing in it": ("a.zip", lambda p: _zip(p), "holds no files"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_write_elsewhere_or_without_end_is_refused(tmp_path: Path, what: str) -> None:
    name, make, words = HOSTILE[what]
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make(tmp_path / name)
    with pytest.raises(ModelError, match=words) as caught:
        unpacking.unpack(archive, folder)
    assert str(caught.value).isprintable()
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"in", name}, "nothing was written beside the folder"
    assert not (folder.parent / "trap").exists()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2**20


def test_the_import_of_one_registers_nothing_and_says_why(
    made_home: Path, tmp_path: Path, basis: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    del made_home
    registry = Registry()
    published = basis(tmp_path / "published")
    taken = tmp_path / "taken.tar.gz"
    with tarfile.open(taken, "w:gz") as archive:
        archive.add(published, "models/mine")
    trap = tmp_path / "trap"
    (published / "model.pt").write_bytes(b"cposix\nsystem\n(S'touch " + os.fsencode(trap) + b"'\ntR.")
    code = tmp_path / "code.tar.gz"
    with tarfile.open(code, "w:gz") as archive:
        archive.add(published, "models/mine")
    said = {code: r"model\.pt holds posix\.system, which is code and not data; nothing of it was run"}
    for number, what in enumerate(("15 climbing name", "17 link, then written through", "20 bomb")):
        name, make, words = HOSTILE[what]
        said[make(tmp_path / f"{number}-{name}")] = words
    for hostile, words in said.items():
        assert main(["models", "import", str(hostile), "--name", "mine", "--no-certify"]) == 1, hostile
        out, err = capsys.readouterr()
        assert not out
        assert re.fullmatch(rf"Error: [^\n]*{words}[^\n]*\n", err), err
        assert "mine" not in [item.name for item in registry.search(all_versions=True)]
        assert not list(registry.scratch.glob(".incoming-*"))
    assert not trap.exists()
    assert main(["models", "import", str(taken), "--name", "mine", "--no-certify"]) == 0
    assert registry.load("mine", device="cpu").spec.width == 8


def test_what_people_pack_is_taken(tmp_path: Path) -> None:
    for name, make in (
        ("a.zip", lambda p: _zip(p, ("models/x/config.json", b"{}"), ("models/x/vocabs/a.h5", b"y"), packed=True)),
        (
            "a.tar.gz",
            lambda p: _tar(p, (_member("./models/x/config.json"), b"{}"), (_member("models/x/vocabs/a.h5"), b"y")),
        ),
        (
            "b.zip",
            lambda p: _zip(p, ("models/x/config.json", b"{}"), ("models/x/vocabs/a.h5", b"y"), ("__MACOSX/._a", b"")),
        ),
    ):
        folder = tmp_path / f"in-{name}"
        folder.mkdir()
        unpacking.unpack(make(tmp_path / name), folder)
        inner = unpacking.inner(folder)
        assert inner == folder / "models" / "x"
        assert (inner / "config.json").read_bytes() == b"{}"
        assert (inner / "vocabs" / "a.h5").read_bytes() == b"y"
