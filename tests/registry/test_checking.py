"""`registry check` looks and says; it changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from scfm_registry import Registry, checking
from scfm_registry.checking import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_registry.version import ModelVersion


def _words(found: list, what: str) -> tuple[str, str]:
    [(state, words)] = [(item.state, item.words) for item in found if item.what == what]
    return state, words


def test_a_registry_that_is_not_there_yet_is_not_made_by_looking(home: Path) -> None:
    state, words = _words(check(), "empty")
    assert state == "note"
    assert "made when it is first used" in words
    assert not (home / "registry").exists()


def test_files_that_belong_to_no_version_are_a_note(made_home: Path) -> None:
    stray = made_home / "registry" / "artifacts" / "models" / "m-0000" / "artifacts"
    stray.mkdir(parents=True)
    (stray / "model.safetensors").write_bytes(bytes(2**20))
    assert "left over" not in [item.what for item in check()], "somebody may be importing it just now"
    for path in (stray / "model.safetensors", stray, stray.parent):
        os.utime(path, (0, time.time() - 3700))
    state, words = _words(check(), "left over")
    assert state == "note"
    assert words.startswith("1 folders")
    assert "(1.0 MiB)" in words
    assert stray.exists()


def test_files_that_are_registered_while_others_are_looked_at_belong_to_a_version(
    made_home: Path, put_in: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, look = Registry(), checking._hashes

    def looked(folder: Path, found: ModelVersion) -> checking.Finding:
        if found.name == "pca":
            kept = registry.resolve(put_in(registry, "mine").reference).path
            for path in (*kept.rglob("*"), kept, kept.parent):
                os.utime(path, (0, time.time() - 3700))
        return look(folder, found)

    monkeypatch.setattr(checking, "_hashes", looked)
    assert "left over" not in [item.what for item in check(files=True)]
    assert registry.get("mine")


def test_files_that_are_gone_are_a_fault(made_home: Path) -> None:
    import shutil

    shutil.rmtree(Registry().resolve("pca").path)
    state, words = _words(check(), "pca/1")
    assert state == "fault"
    assert "missing" in words


def test_a_moved_folder_is_a_note_until_it_is_used(made_home: Path) -> None:
    assert _words(check(), "moved")[0] == "note"
    Registry()
    assert "moved" not in [item.what for item in check()]


def test_a_nearly_full_disk_is_a_note(made_home: Path, disk: Callable[..., Path]) -> None:
    point = disk(64)
    shutil.copytree(made_home / "registry", point / "registry")
    state, words = _words(check(point / "registry"), "disk")
    assert state == "note"
    assert "free some space" in words


def test_a_read_only_disk_is_a_fault(home: Path, disk: Callable[..., Path]) -> None:
    point = disk(8)
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    assert "fault" in [item.state for item in check(point / "registry")]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "ftp://x"])
def test_an_address_where_nothing_answers_is_a_fault(home: Path, uri: str) -> None:
    assert [item.state for item in check(uri)] == ["fault"]
