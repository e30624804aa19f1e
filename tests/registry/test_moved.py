"""The embedded registry's folder can be moved, copied and renamed as a whole."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import scfm_lab as sl
from scfm_registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from scfm_registry.version import ModelVersion


def test_a_moved_home_serves_and_takes_models_at_its_new_place(
    made_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_in: Callable[..., ModelVersion]
) -> None:
    before = put_in(Registry(), "mine")
    run = Registry().measure("mine", device="cpu", cells=5, repeats=1).run
    moved = tmp_path / "a new plâce"
    shutil.move(made_home, moved)
    monkeypatch.setenv("SCFM_HOME", str(moved))
    registry = Registry()
    assert registry.get("mine/1").digest == before.digest
    assert registry.verify("mine/1").ok
    assert sl.load_model("models:/mine/1", device="cpu").spec.width == 8
    assert registry.resolve("mine/1").path.is_relative_to(moved)
    assert registry.evidence(run)["digest"] == before.digest
    after = put_in(registry, "mine", width=5)
    assert registry.resolve(after.reference).path.is_relative_to(moved)
    assert not made_home.exists(), "nothing is written at the old place again"
    with sqlite3.connect(moved / "registry" / "mlflow.db") as database:
        text = "\n".join(database.iterdump())
    assert str(made_home) not in text
    assert made_home.as_uri() not in text


def test_a_copy_is_a_registry_of_its_own(made_home: Path, tmp_path: Path, put_in: Callable[..., ModelVersion]) -> None:
    original = Registry()
    put_in(original, "mine")
    shutil.copytree(made_home, tmp_path / "copy")
    copy = Registry(tmp_path / "copy" / "registry")
    put_in(copy, "mine", width=5)
    assert copy.resolve("mine/1").path.is_relative_to(tmp_path / "copy")
    assert [item.version for item in original.versions("mine")] == [1]
    assert original.verify("mine/1").ok


def test_paths_of_other_peoples_experiments_are_left_alone(made_home: Path, tmp_path: Path) -> None:
    elsewhere = (tmp_path / "home2" / "registry" / "artifacts").as_uri()
    Registry().client.create_experiment("elsewhere", artifact_location=elsewhere)
    shutil.move(made_home, tmp_path / "moved")
    moved = Registry(tmp_path / "moved" / "registry")
    assert moved.client.get_experiment_by_name("elsewhere").artifact_location == elsewhere


def test_plain_mlflow_finds_the_files_after_a_move(made_home: Path, tmp_path: Path) -> None:
    shutil.move(made_home, tmp_path / "moved")
    registry = Registry(tmp_path / "moved" / "registry")
    source = registry.client.get_model_version("pca", "1").source
    assert source.startswith((tmp_path / "moved").as_uri())
    assert registry.client.get_model_version_download_uri("pca", "1") == source
