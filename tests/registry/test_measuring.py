"""What a measurement means for a version's tags."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import Registry, hardware_tags, measuring, searching, together, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _result(
    found: version.ModelVersion, peak: float, rates: tuple[float, float], device: str = "cpu"
) -> measuring.Measurement:
    evidence: dict[str, Any] = {
        "settings": {"device": device, "precision": "float32", "threads": 2},
        "machine": {"description": "a machine"},
        "load_seconds": 0.5,
        "memory": {"peak_mib": peak},
        "cells_per_minute": {"median": rates[0], "best": rates[1]},
        "cells": {"count": 10, "mean_length": 240.4},
        "output": {"worst_cosine_to_float32": 1.0},
        "repeats": [1.0],
    }
    return measuring.Measurement(found, evidence)


@pytest.fixture
def found(made_home: Path) -> version.ModelVersion:
    return Registry().get("pca")


def test_a_first_measurement_replaces_the_estimate(found: version.ModelVersion) -> None:
    tags = measuring.tags(_result(found, 150.2, (900, 1000.9)), "run1", found.tags)
    assert tags["scfm.mem.cpu.peak_mib"] == "151", "rounded up: it must not promise too little"
    assert tags["scfm.mem.cpu.source"] == "measured"
    assert tags["scfm.speed.cpu.best_cpm"] == "1000", "rounded down: it must not promise too much"
    assert tags["scfm.speed.cpu.length"] == "240"
    assert tags["scfm.device.cpu"] == "verified"


def test_what_was_estimated_of_the_opened_model_is_what_a_search_asks_for(found: version.ModelVersion) -> None:
    needs = searching.needs(found)
    assert (needs.measured_gib, needs.estimate_gib()) == (None, int(found.tags["scfm.mem.cpu.peak_mib"]) / 1024)
    assert searching.needs(found, "cuda").estimated_gib is None, "a GPU has memory of its own"


def test_of_several_measurements_the_larger_peak_and_the_better_speed_stay(found: version.ModelVersion) -> None:
    first = {**found.tags, **measuring.tags(_result(found, 3000, (900, 1000)), "run1", found.tags)}
    second = {**first, **measuring.tags(_result(found, 2500, (100, 200)), "run2", first)}
    assert second["scfm.mem.cpu.peak_mib"] == "3000"
    assert (second["scfm.speed.cpu.best_cpm"], second["scfm.speed.cpu.run"]) == ("1000", "run1")
    assert second["scfm.mem.cpu.run"] == "run1", "the evidence of a peak is the run in which it was seen"
    third = {**second, **measuring.tags(_result(found, 2500, (2000, 2500)), "run3", second)}
    assert (third["scfm.speed.cpu.best_cpm"], third["scfm.speed.cpu.run"]) == ("2500", "run3")


def test_sizes_are_cumulative_flags(found: version.ModelVersion) -> None:
    tags = measuring.tags(_result(found, 5000, (1, 1)), "run", found.tags)
    flags = {size: tags[f"scfm.fits.cpu.{size}gib"] for size in version.SIZES_GIB}
    assert flags == {2: "false", 4: "false", 8: "true", 16: "true", 24: "true", 40: "true", 80: "true"}


def test_another_device_has_tags_of_its_own(found: version.ModelVersion) -> None:
    tags = measuring.tags(_result(found, 900, (10, 10), device="cuda:0"), "run", found.tags)
    assert tags["scfm.mem.cuda.peak_mib"] == "900"
    assert not [key for key in tags if ".cpu" in key]


def test_only_what_was_measured_on_a_device_counts_as_measured_there(found: version.ModelVersion) -> None:
    from dataclasses import replace

    tags = {**found.tags, **measuring.tags(_result(found, 2048, (10, 10)), "run", found.tags)}
    item = replace(found, tags=tags)
    assert searching.needs(item, "cpu").measured_gib == 2.0
    assert searching.needs(item, "cuda").measured_gib is None


@pytest.mark.parametrize("forged", ["1e99", "NaN", "-5", "٣", "9" * 40, ""])
def test_forged_numbers_count_as_unknown(found: version.ModelVersion, forged: str) -> None:
    from dataclasses import replace

    item = replace(found, tags={**found.tags, "scfm.mem.cpu.source": "measured", "scfm.mem.cpu.peak_mib": forged})
    assert searching.needs(item, "cpu").measured_gib is None
    tags = measuring.tags(_result(found, 100, (5, 6)), "run", {"scfm.speed.cpu.best_cpm": forged})
    assert tags["scfm.speed.cpu.best_cpm"] == "6"


@pytest.mark.thorough
def test_the_same_model_measured_twice_gives_the_same_vectors(made_home: Path, basis: Callable[..., Path]) -> None:
    registry = Registry()
    registry.import_checkpoint(basis(), "mine", certify=False)
    first, second = (registry.measure("mine", device="cpu", cells=20, repeats=1) for _ in range(2))
    assert first.evidence["output"] == second.evidence["output"]
    assert first.evidence["machine"]["id"] == second.evidence["machine"]["id"]
    assert first.run != second.run
    memory = first.evidence["memory"]
    assert 0 < memory["bare_mib"] < memory["before_mib"] <= memory["host_peak_mib"] == memory["peak_mib"]
    assert first.table["cells_per_minute"].iloc[0] == pytest.approx(60 * 20 / first.evidence["repeats"][0])
    assert "cells a minute" in first.summary()
    output = first.evidence["output"]
    assert f"vectors {output['digest']}, cosine to those in float32 at worst 1.000000" in first.summary()


def test_what_cannot_be_measured_is_said_and_recorded_nowhere(made_home: Path) -> None:
    registry = Registry()
    before = registry.get("pca").tags
    with pytest.raises(ModelError, match="pca/1 could not be measured: device='mps' is not available"):
        registry.measure("pca", device="mps", cells=5, repeats=1)
    with pytest.raises(ModelError, match="not done after 0 seconds"):
        registry.measure("pca", device="cpu", cells=5, repeats=1, timeout=0.01)
    with pytest.raises(ModelError, match="at least one cell"):
        registry.measure("pca", cells=0)
    assert registry.get("pca").tags == before


def test_what_is_measured_is_what_was_hashed(
    made_home: Path, put_in: Callable[..., version.ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, run = Registry(), measuring.run
    put_in(registry, "mine")

    def swapped(folder: Path, *given: Any, **more: Any) -> measuring.Measurement:
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
        return run(folder, *given, **more)

    monkeypatch.setattr(measuring, "run", swapped)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        registry.measure("mine", device="cpu", cells=2, repeats=1)


@contextmanager
def _cut(registry: Registry, keys: list[str], step: int) -> Iterator[None]:
    """Whoever sets tags is ended when `step` of them are set."""
    if registry._place.database is None:
        client, done = type(registry._store._plain), iter(range(step))

        def ended(self: Any, *given: Any) -> None:
            if next(done, None) is None:
                raise KeyboardInterrupt
            true(self, *given)

        true = client.set_model_version_tag
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "set_model_version_tag", ended)
            with pytest.raises(KeyboardInterrupt):
                yield
        return
    with sqlite3.connect(registry._place.database) as database:
        database.execute(
            f"CREATE TRIGGER cut BEFORE INSERT ON model_version_tags WHEN NEW.key = '{keys[step]}' "
            "BEGIN SELECT RAISE(ABORT, 'ended'); END"
        )
    try:
        with pytest.raises(StorageError):
            yield
    finally:
        with sqlite3.connect(registry._place.database) as database:
            database.execute("DROP TRIGGER cut")


def test_a_measurement_that_is_cut_off_leaves_all_as_it_was_or_all_as_it_is_now(
    registry: Registry, put: Callable[..., version.ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cut-{'local' if 'sqlite' in registry.uri else 'server'}"
    put(name)
    seen = set()
    # On a server what was left is set first, and what is new after it.
    for step in (0, 1, 7, 13) if registry._place.embedded else (0, 1, 20):
        item = registry.get(name)
        result = _result(item, 9_000 - 2_000 * (step == 0) + step, (900 + step, 1_000 + step))
        monkeypatch.setattr(measuring, "run", lambda *given, result=result, **more: result)
        keys = list(measuring.tags(result, "", item.tags))
        with _cut(registry, keys, step):
            registry.measure(name)
        now = registry.get(name).hardware
        told = {key: value for key, value in now.items() if not key.endswith(".run")}
        wanted = {**item.hardware, **hardware_tags.believable({**item.tags, **measuring.tags(result, "", item.tags)})}
        new = told == {key: value for key, value in wanted.items() if not key.endswith(".run")}
        assert new or now == item.hardware
        if new:
            assert now["mem.cpu.run"] == now["speed.cpu.run"] != item.hardware.get("mem.cpu.run")
        seen.add(new)
    # A server has no transaction: there the new ones count as soon as they are written down whole.
    assert seen == ({False} if registry._place.embedded else {False, True})
    result = _result(registry.get(name), 10_000, (5_000, 6_000))
    monkeypatch.setattr(measuring, "run", lambda *given, **more: result)
    registry.measure(name)
    record = registry._store.record(name, 1)
    assert record is not None
    assert record.tags["scfm.mem.cpu.peak_mib"] == "10000"
    assert together.UNFINISHED not in record.tags
