"""A folder with chosen versions that is only read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import ModelError, StorageError
from scfm_registry import Registry
from scfm_registry.checking import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


@pytest.fixture(scope="module")
def _shared_home(_made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for this file: mirroring changes nothing in it."""
    return Path(shutil.copytree(_made_home, tmp_path_factory.mktemp("mirrors") / "home"))


@pytest.fixture
def registry(_shared_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    del home  # for the working directory and the environment that it sets
    monkeypatch.setenv("SCFM_HOME", str(_shared_home))
    return Registry()


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in (folder, *folder.rglob("*"))
    }


def test_a_mirror_holds_what_was_chosen_and_is_never_written_to(
    registry: Registry,
    disk: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
    pbmc68k: AnnData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = disk(32)
    made = registry.mirror(point / "class", ["starter@champion", "pca"])
    assert [item.reference for item in made.versions] == ["starter/1", "pca/1"]
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    mirror = Registry(point / "class")
    assert [str(item) for item in mirror.search()] == ["pca/1 (champion)", "starter/1 (champion)"]
    assert mirror.get("starter").digest == registry.get("starter").digest
    assert mirror.verify("starter").ok
    few = pbmc68k[::70].copy()
    here = registry.load("pca", device="cpu", precision="float32").encode
    tokens = registry.load("pca", device="cpu").tokenize(few)
    np.testing.assert_array_equal(
        here(tokens).cell, mirror.load("pca", device="cpu", precision="float32").encode(tokens).cell
    )
    assert {item.state for item in check(point / "class", files=True)} == {"ok"}
    # As students have it: a machine of its own, the mirror named in the environment, and no MLflow at all.
    done = python(
        "import sys, scfm_lab as sl\n"
        "print(sl.load_model('models:/pca@champion', device='cpu').spec.name, 'mlflow' in sys.modules)",
        MLFLOW_REGISTRY_URI=str(point / "class"),
    )
    assert (done.stdout, done.returncode) == ("pca False\n", 0), done.stderr
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", str(point / "class"))
    assert sl.load_model("models:/starter", device="cpu").spec.name == "starter"


def test_everything_that_would_write_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.mirror(tmp_path / "mirror", ["pca"])
    before = _state(tmp_path / "mirror")
    mirror = Registry(tmp_path / "mirror")
    for change in (
        lambda: mirror.promote("pca/1", "candidate"),
        lambda: mirror.delete("pca/1", force=True),
        lambda: mirror.ensure_builtin(),
        lambda: mirror.client,
    ):
        with pytest.raises((StorageError, ModelError)) as caught:
            change()
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="No model is called 'starter'"):
        mirror.load("starter")
    assert _state(tmp_path / "mirror") == before


def test_made_again_it_holds_what_is_chosen_then(registry: Registry, tmp_path: Path) -> None:
    first = registry.mirror(tmp_path / "mirror", ["pca", "sctop"])
    assert first.copied == 2
    kept = Registry(tmp_path / "mirror").resolve("pca").path
    damaged = Registry(tmp_path / "mirror").resolve("sctop").path / "model.safetensors"
    inode = (kept / "model.safetensors").stat().st_ino
    damaged.write_bytes(b"")
    assert registry.mirror(tmp_path / "mirror", ["pca", "sctop"]).copied == 1, "what is damaged is copied anew"
    assert Registry(tmp_path / "mirror").verify("sctop").ok
    last = registry.mirror(tmp_path / "mirror", ["pca"])
    assert (last.copied, [item.name for item in Registry(tmp_path / "mirror").search()]) == (0, ["pca"])
    assert (kept / "model.safetensors").stat().st_ino == inode
    assert not damaged.exists()
    # Everybody may read it, whoever made it.
    assert all(os.stat(path).st_mode & 0o044 for path in (tmp_path / "mirror").rglob("*"))


def test_a_folder_that_is_something_else_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds something that is no mirror"):
        registry.mirror(tmp_path / "mine", ["pca"])
    with pytest.raises(ModelError, match="No model is called"):
        registry.mirror(tmp_path / "new", ["nothing"])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["versions"][0].update(name="../x"), "is damaged"),
        (lambda d: d["versions"][0]["tags"].update({"scfm.digest": "sha256:../../../etc"}), "is damaged"),
        (lambda d: d["versions"][0].update(aliases=["latest"]), "is damaged"),
        (lambda d: d.update(schema=2), "newer scfm-lab"),
        (lambda d: d.pop("versions"), "is damaged"),
    ],
    ids=["climbing name", "climbing digest", "reserved alias", "newer", "cut"],
)
def test_what_an_index_says_is_checked(
    registry: Registry, tmp_path: Path, change: Callable[[dict[str, object]], object], words: str
) -> None:
    registry.mirror(tmp_path / "mirror", ["pca"])
    path = tmp_path / "mirror" / "mirror.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(StorageError, match=words):
        Registry(tmp_path / "mirror")


def test_changed_files_of_a_mirror_are_refused_by_name(registry: Registry, tmp_path: Path) -> None:
    registry.mirror(tmp_path / "mirror", ["pca"])
    mirror = Registry(tmp_path / "mirror")
    weights = mirror.resolve("pca").path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        mirror.load("pca")
