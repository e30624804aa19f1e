"""Archives that would write elsewhere, or without end: refused with nothing written, beside ones that are taken."""

from __future__ import annotations

import io
import os
import re
import shutil
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
    from collections.abc import Callable, Iterator
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
    "16 absolute name": ("a.zip", lambda p: _zip(p, (f"{p.parent}/trap", b"x")), "outside its folder"),
    "16 absolute name, tar": ("a.tar.gz", lambda p: _tar(p, (_member(f"{p.parent}/trap"), b"x")), "outside its folder"),
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


@pytest.fixture(scope="module")
def busy_home(_made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all of these imports, of which none leaves anything."""
    home = tmp_path_factory.mktemp("busy") / "home"
    shutil.copytree(_made_home, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCFM_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.delenv(name, raising=False)
        yield home


def _refused(archive: Path, words: str, home: Path, said: pytest.CaptureFixture[str]) -> None:
    """Import it as somebody would: nothing is registered, nothing stays of it, and one line says why."""
    assert main(["models", "import", str(archive), "--name", "mine", "--no-certify"]) == 1
    out, err = said.readouterr()
    assert not out
    assert re.fullmatch(rf"Error: [^\n]*{words}[^\n]*\n", err), err
    assert err[:-1].isprintable()
    registry = Registry()
    assert "mine" not in [item.name for item in registry.search(all_versions=True)]
    assert registry.scratch.is_relative_to(home)
    assert not list(registry.scratch.glob(".incoming-*"))
    # On systems that know backslashes, a name with them leads somewhere as well.
    written = [path for top in (home, archive.parent) for path in top.rglob("*") if path.name.endswith("trap")]
    assert not written, "nothing was written anywhere"


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_write_elsewhere_or_without_end_is_not_imported(
    busy_home: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = HOSTILE[what]
    _refused(make(tmp_path / name), words, busy_home, capsys)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("what", [what for what in HOSTILE if what.startswith("20")])
def test_what_would_fill_the_disk_is_not_written_first(tmp_path: Path, what: str) -> None:
    name, make, words = HOSTILE[what]
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make(tmp_path / name)
    with pytest.raises(ModelError, match=words):
        unpacking.unpack(archive, folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2**20


def test_an_archive_with_code_is_not_imported_and_the_same_without_it_is(
    made_home: Path, tmp_path: Path, basis: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    published = basis(tmp_path / "published")
    taken, code = tmp_path / "taken.tar.gz", tmp_path / "code.tar.gz"
    with tarfile.open(taken, "w:gz") as archive:
        archive.add(published, "models/mine")
    (published / "model.pt").write_bytes(b"cposix\nsystem\n(S'touch " + os.fsencode(tmp_path / "trap") + b"'\ntR.")
    with tarfile.open(code, "w:gz") as archive:
        archive.add(published, "models/mine")
    _refused(
        code, r"model\.pt holds posix\.system, which is code and not data; nothing of it was run", made_home, capsys
    )
    assert main(["models", "import", str(taken), "--name", "mine", "--no-certify"]) == 0
    assert Registry().load("mine", device="cpu").spec.width == 8


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
