from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from scfm_lab.errors import ModelError
from scfm_registry import manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    (path / "sub").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)))
    (path / "sub" / "genes.csv").write_text("symbol\nCD3D\n")
    return path


def _registered(folder: Path) -> str:
    described = manifest.describe(folder, "scfm.pca")
    (folder / manifest.FILENAME).write_bytes(described.canonical())
    return described.digest


def test_the_identity_is_the_hash_of_the_manifest_as_it_lies_there(folder: Path) -> None:
    digest = _registered(folder)
    content = (folder / manifest.FILENAME).read_bytes()
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    entry = manifest.parse(content, "here").files["model.safetensors"]
    assert entry == manifest.FileEntry(hashlib.sha256(bytes(range(256))).hexdigest(), 256)


def test_the_identity_does_not_depend_on_the_order_or_time_of_writing(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    (other / "sub" / "genes.csv").write_text("symbol\nCD3D\n")
    (other / "model.safetensors").write_bytes(bytes(range(256)))
    os.utime(other / "model.safetensors", (0, 0))
    assert manifest.describe(other, "scfm.pca").digest == manifest.describe(folder, "scfm.pca").digest


@pytest.mark.parametrize("change", ["one byte", "a name", "the family", "one more file"])
def test_the_identity_changes_with_anything_that_matters(folder: Path, change: str) -> None:
    before = manifest.describe(folder, "scfm.pca").digest
    family = "scfm.pca"
    if change == "one byte":
        (folder / "model.safetensors").write_bytes(bytes(range(255)) + b"\x00")
    elif change == "a name":
        (folder / "sub" / "genes.csv").rename(folder / "sub" / "gene.csv")
    elif change == "the family":
        family = "scfm.sctop"
    else:
        (folder / "extra.json").write_text("{}")
    assert manifest.describe(folder, family).digest != before


def test_files_as_registered_pass(folder: Path) -> None:
    assert set(manifest.check(folder, _registered(folder), "x/1").values()) == {"ok"}


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (
            lambda p: (p / "model.safetensors").write_bytes(bytes(range(200))),
            "model.safetensors",
            "truncated: 200 bytes",
        ),
        (lambda p: (p / "model.safetensors").write_bytes(bytes(300)), "model.safetensors", "too long"),
        (lambda p: (p / "model.safetensors").write_bytes(bytes(256)), "model.safetensors", "damaged"),
        (lambda p: (p / "sub" / "genes.csv").unlink(), "sub/genes.csv", "missing"),
        (lambda p: (p / "sub" / "new.csv").write_text("x"), "sub/new.csv", "not part"),
    ],
    ids=["truncated", "too long", "changed", "missing", "added"],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(folder: Path, damage: object, file: str, words: str) -> None:
    digest = _registered(folder)
    damage(folder)  # type: ignore[operator]
    states = manifest.check(folder, digest, "x/1")
    assert words in states.pop(file)
    assert set(states.values()) == {"ok"}


def test_a_link_in_place_of_a_file_is_refused_even_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    digest = _registered(folder)
    aside = tmp_path / "aside"
    (folder / "model.safetensors").rename(aside)
    (folder / "model.safetensors").symlink_to(aside)
    assert manifest.check(folder, digest, "x/1")["model.safetensors"] != "ok"
    with pytest.raises(ModelError, match="link"):
        manifest.describe(folder, "scfm.pca")


def test_another_manifest_is_refused_even_if_it_fits_the_files(folder: Path) -> None:
    digest = _registered(folder)
    (folder / "model.safetensors").write_bytes(bytes(256))
    _registered(folder)
    with pytest.raises(ModelError, match=r"not the manifest that was registered"):
        manifest.check(folder, digest, "x/1")


def test_a_missing_manifest_is_said(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json"):
        manifest.check(folder, "sha256:" + "0" * 64, "x/1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"family":"x","files":{},"schema":2}',
        b'{"schema":1,"family":"x","files":{}}',
        b'{"family":"x","family":"y","files":{},"schema":1}',
        b'{"family":"x","files":{"../a":{"sha256":"0","size":1}},"schema":1}',
        b'{"family":"x","files":{"/a":{"sha256":"0","size":1}},"schema":1}',
        b'{"family":"x","files":{"a":{"sha256":"0","size":"many"}},"schema":1}',
    ],
    ids=["empty", "cut", "list", "schema", "order", "doubled key", "climbing path", "absolute path", "size"],
)
def test_what_is_not_a_canonical_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="not a manifest"):
        manifest.parse(content, "here")


def test_names_that_other_systems_confuse_are_refused(folder: Path) -> None:
    (folder / "MODEL.safetensors").write_text("x")
    with pytest.raises(ModelError, match="differ only in case"):
        manifest.describe(folder, "scfm.pca")


@pytest.mark.parametrize("name", ["a\nb.json", "a\x1b[2Jb.json", "a\\b.json", "a\u202eb.json"], ids=ascii)
def test_file_names_with_control_characters_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("x")
    with pytest.raises(ModelError, match="control characters") as caught:
        manifest.describe(folder, "scfm.pca")
    assert str(caught.value).isprintable()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no files"):
        manifest.describe(tmp_path, "scfm.pca")
