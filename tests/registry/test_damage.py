"""Directories that cannot be used and databases that are damaged: one sentence, and nothing changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

import scfm_lab as sl
from scfm_lab.errors import ModelError, StorageError
from scfm_registry import Registry
from scfm_registry.store import embedded
from scfm_registry.store.place import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_registry.version import ModelVersion


def _is_one_sentence_or_two(message: str) -> None:
    assert "\n" not in message
    assert "Traceback" not in message
    assert message.endswith((".", "'."))
    assert len(message) < 700


def _state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------------ directories


def test_a_home_below_a_file_is_refused(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StorageError, match="SCFM_HOME") as caught:
        Registry()
    _is_one_sentence_or_two(str(caught.value))
    with pytest.raises(StorageError, match="part of that path is a file"):
        Registry(tmp_path / "file" / "registry")
    assert (tmp_path / "file").read_text() == "x"


def test_a_file_in_the_registrys_place_is_refused_and_kept(home: Path) -> None:
    home.mkdir()
    (home / "registry").write_text("mine")
    with pytest.raises(StorageError, match="there is a file of that name"):
        Registry()
    assert (home / "registry").read_text() == "mine"


def test_a_read_only_directory_is_refused(made_home: Path, disk: Callable[..., Path]) -> None:
    point = disk(32)
    shutil.copytree(made_home / "registry", point / "full")
    # Moved there, and no more: a database that MLflow has opened would keep the disk from becoming read-only.
    embedded.prepare(resolve(point / "full"))
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    for folder in ("new", "full"):
        with pytest.raises(StorageError, match="read-only") as caught:
            Registry(point / folder)
        _is_one_sentence_or_two(str(caught.value))


@pytest.mark.parametrize("mib", [2, 8], ids=["for the database", "for a model"])
def test_a_full_disk_is_said_and_nothing_half_written_stays(mib: int, home: Path, disk: Callable[..., Path]) -> None:
    point = disk(mib)
    with pytest.raises(StorageError, match=r"(?i)free some space") as caught:
        Registry(point / "registry")
    _is_one_sentence_or_two(str(caught.value))
    left = {item.name for item in (point / "registry").iterdir()}
    assert left <= {".lock", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "registry.json", "artifacts", "audit.jsonl"}
    if "mlflow.db" in left:
        # What fitted is whole, and what did not is not there at all.
        subprocess.run(["mount", "-o", "remount,size=64m", str(point)], check=True)
        registry = Registry(point / "registry")
        assert all(registry.verify(item.reference).ok for item in registry.search(all_versions=True))
        assert "starter" in [item.name for item in registry.search()]


@pytest.mark.parametrize(
    "limit",
    [pytest.param(2**22, id="in a file"), pytest.param(2**14, id="in the database", marks=pytest.mark.thorough)],
)
def test_a_write_that_fails_half_way_registers_nothing(
    limit: int,
    made_home: Path,
    basis: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # The system refuses to let files grow beyond a limit, as a quota does: free space does not tell beforehand.
    folder = basis()
    (folder / "notes.txt").write_bytes(bytes(2**23))
    before = _state(made_home / "registry" / "artifacts")
    done = python(f"""
import resource
from scfm_lab.errors import StorageError
from scfm_registry import Registry
from scfm_registry.store import embedded
from scfm_registry.store.place import resolve
from scfm_registry.store.facade import Store
add = Store.add
def limited(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    try:
        return add(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Store.add = limited
try:
    Registry().import_checkpoint({str(folder)!r}, "mine", certify=False)
except StorageError as error:
    print(error)
""")
    assert (done.returncode, done.stderr) == (0, "")
    _is_one_sentence_or_two(done.stdout.strip())
    assert str(made_home / "registry") in done.stdout
    assert _state(made_home / "registry" / "artifacts") == before
    registry = Registry()
    with pytest.raises(ModelError, match="No model is called 'mine'"):
        registry.get("mine")
    assert registry.import_checkpoint(folder, "mine", certify=False).version == 1, "the import can be repeated"


# ------------------------------------------------------------------------------------------------------- databases


def _overwrite(path: Path) -> None:
    path.write_bytes(b"this is not a database " * 1000)


def _cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 2)


def _garble(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.seek(8192)
        handle.write(bytes(range(256)) * 1200)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _drop(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE model_version_tags")
        database.execute("DROP TABLE model_versions")
    database.close()


@pytest.mark.parametrize("damage", [_overwrite, _cut, _garble, _empty, _drop], ids=lambda f: f.__name__.strip("_"))
def test_a_damaged_database_is_refused_untouched_and_the_way_out_works(
    damage: Callable[[Path], None], made_home: Path, put_in: Callable[..., ModelVersion]
) -> None:
    folder = made_home / "registry"
    put_in(Registry(), "mine")
    # As a process of its own would have left it: one file, no journal.
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    from scfm_registry.store.engine import forget

    forget(f"sqlite:///{folder / 'mlflow.db'}")
    damage(folder / "mlflow.db")
    before = _state(folder)
    for _ in range(2):
        with pytest.raises(StorageError, match=str(folder / "mlflow.db")) as caught:
            Registry()
        _is_one_sentence_or_two(str(caught.value))
        assert "move the folder aside" in str(caught.value)
        after = _state(folder)
        assert {name: after.get(name) for name in before} == before
    folder.rename(folder.with_name("registry.damaged"))
    fresh = Registry()
    assert "pca" in [item.name for item in fresh.search()]
    kept = folder.with_name("registry.damaged") / "artifacts" / "models"
    mine = next(item for item in kept.glob("*/artifacts") if b"pbmc68k" in (item / "config.json").read_bytes())
    assert sl.load_model(mine).spec.width == 8
    if damage is _overwrite:
        # For all of them alike, and an import takes its time.
        assert fresh.import_checkpoint(mine, "mine", certify=False).width == 8


def test_a_missing_database_beside_a_finished_registry_is_no_new_registry(made_home: Path) -> None:
    (made_home / "registry" / "mlflow.db").unlink()
    with pytest.raises(StorageError, match=r"missing, although the registry was set up"):
        Registry()
    assert not (made_home / "registry" / "mlflow.db").exists()


def test_somebody_elses_database_is_not_taken_over(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cells (id INTEGER)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not MLflow's"):
        Registry(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_damaged_note_of_the_place_says_how_to_go_on(made_home: Path) -> None:
    marker = made_home / "registry" / "registry.json"
    marker.write_text("{")
    with pytest.raises(StorageError, match="Delete that one file"):
        Registry()
    marker.unlink()
    assert "pca" in [item.name for item in Registry().search()]


@pytest.mark.parametrize("change", ["layout", "schema"])
def test_a_registry_of_a_newer_version_is_refused_untouched(made_home: Path, change: str) -> None:
    folder = made_home / "registry"
    if change == "layout":
        (folder / "registry.json").write_text('{"format": 99, "root": "", "mlflow": ""}')
    else:
        (folder / "registry.json").write_text('{"format": 1, "root": "", "mlflow": "99.0"}')
        with sqlite3.connect(folder / "mlflow.db") as database:
            database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.close()
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(StorageError, match="newer"):
        Registry()
    assert (folder / "mlflow.db").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing", "added"])
def test_damaged_weights_are_refused_by_name(made_home: Path, damage: str) -> None:
    path = Registry().resolve("pca").path / "model.safetensors"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "one bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        path.unlink()
    else:
        (path.parent / "extra.json").write_text("{}")
    named = "extra.json" if damage == "added" else "model.safetensors"
    for load in (lambda: sl.load_model("models:/pca@champion"), lambda: Registry().load("pca/1")):
        with pytest.raises(ModelError, match=named) as caught:
            load()
        _is_one_sentence_or_two(str(caught.value))
        assert str(path.parent) in str(caught.value)
    assert Registry().load("sctop", device="cpu").spec.family == "sctop", "other models are not touched by it"


# --------------------------------------------------------------------------------------------------------- addresses


def test_a_server_that_is_not_there_is_said_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StorageError, match="does not answer") as caught:
        Registry()
    assert time.monotonic() - start < 60, "MLflow's own retries take minutes"
    _is_one_sentence_or_two(str(caught.value))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["ftp://x/y", "databricks", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "http://", "mysql://h/d"],
)
def test_addresses_that_hold_no_registry_are_refused_with_what_does(
    uri: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI") as caught:
        Registry()
    _is_one_sentence_or_two(str(caught.value))
    assert os.listdir() == []
