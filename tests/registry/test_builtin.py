"""The models that come with scfm-lab are versions like any other."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

import scfm_lab as sl
from scfm_lab import plugins
from scfm_lab.errors import ModelError
from scfm_registry import Registry, builtin
from scfm_registry.names import CHAMPION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ["pca", "sctop", "starter"]


def test_every_shipped_model_is_registered_and_champion(made_home: Path) -> None:
    registry = Registry()
    found = registry.search()
    assert sorted(builtin.shipped()) == NAMES
    assert [(item.name, item.version, item.aliases) for item in found] == [(name, 1, (CHAMPION,)) for name in NAMES]
    assert [item.kind for item in found] == ["baseline", "baseline", "pretrained"]
    assert {item.origin for item in found} == {"built-in"}


@pytest.mark.parametrize("name", NAMES)
def test_its_tags_say_what_the_opened_model_says(made_home: Path, name: str) -> None:
    item, spec = Registry().get(name), sl.load_model(name, device="cpu").spec
    assert item.family == f"scfm.{name}"
    assert (item.width, item.gene_ids, item.organisms) == (spec.width, spec.genes, spec.organisms)
    assert (item.licence, item.commercial) == (spec.licence, spec.commercial)
    assert item.abilities >= spec.abilities
    assert item.parameters == (spec.parameters if name == "starter" else 0)
    assert item.hardware["device.cpu"] == "declared"
    assert item.hardware["mem.cpu.source"] == "estimated"


@pytest.mark.parametrize("reference", ["models:/{}@champion", "models:/{}/1"])
@pytest.mark.parametrize("name", NAMES)
def test_it_loads_from_the_registry_as_it_does_by_name(made_home: Path, name: str, reference: str) -> None:
    from_registry, by_name = sl.load_model(reference.format(name), device="cpu"), sl.load_model(name, device="cpu")
    assert from_registry.digest == by_name.digest
    assert from_registry.version == f"{name}/1", "the resolved version, never only an alias"
    assert from_registry.path is not None
    assert from_registry.path.is_relative_to(made_home)


def test_opening_again_registers_nothing_new(made_home: Path) -> None:
    Registry()
    assert [len(Registry().versions(name)) for name in NAMES] == [1, 1, 1]


@pytest.fixture
def other_release(tmp_path: Path, basis: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the package ship another basis as `pca`, as a later release may."""
    [contribution] = [item for item in plugins.discover().contributions("models") if item.id == "scfm.pca"]

    def ship(width: int) -> None:
        folder = basis(tmp_path / f"release-{width}", width)
        monkeypatch.setattr(builtin, "shipped", lambda: {"pca": (contribution, folder)})

    return ship


def test_a_new_release_adds_a_version_and_its_champion_follows(
    made_home: Path, other_release: Callable[[int], None]
) -> None:
    other_release(6)
    registry = Registry()
    assert [(item.version, item.aliases) for item in registry.versions("pca")] == [(2, (CHAMPION,)), (1, ())]
    assert registry.load("pca", device="cpu").spec.width == 6
    assert [item.version for item in Registry().versions("pca")] == [2, 1]


def test_what_a_user_promoted_stays_champion(made_home: Path, other_release: Callable[[int], None]) -> None:
    registry = Registry()
    other_release(6)
    registry.ensure_builtin()
    registry.promote("pca/1", CHAMPION, expect=2)
    assert Registry().get(f"pca@{CHAMPION}").version == 2, "an older built-in version gives way to the installed one"
    registry.promote("pca/1", "mine")
    other_release(5)
    Registry()
    assert registry.get("pca@mine").version == 1


def test_a_model_that_does_not_open_costs_only_itself(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = builtin.shipped()
    contribution, folder = shipped["pca"]
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(builtin, "shipped", lambda: {"pca": (contribution, damaged), "sctop": shipped["sctop"]})
    with pytest.warns(RuntimeWarning, match=rf"'pca' could not be registered: {damaged}.*damaged"):
        registry = Registry()
    assert [item.name for item in registry.search()] == ["sctop"]


def test_their_names_are_kept_for_them(made_home: Path, basis: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="comes with scfm-lab"):
        Registry().import_checkpoint(basis(), "starter")


def test_the_manifest_of_the_registry_contributes_its_source_and_commands() -> None:
    catalogue = plugins.discover()
    assert catalogue.get("sources", "scfm-registry.models").data["prefix"] == "models:"
    assert {item.data["name"] for item in catalogue.contributions("commands") if item.plugin == "scfm-registry"} >= {
        "models",
        "registry",
    }
    assert json.dumps([row.error for row in catalogue.plugins if row.own]) == json.dumps(
        [None] * sum(row.own for row in catalogue.plugins)
    )
