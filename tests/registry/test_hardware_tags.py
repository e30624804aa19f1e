"""Numbers about hardware that cannot be are not believed, and not recorded."""

from __future__ import annotations

import pytest

from scfm_lab.errors import ModelError
from scfm_lab.inference.hardware import Hardware
from scfm_registry import Registry, hardware_tags, searching

TRUE = {"scfm.mem.cpu.peak_mib": "600", "scfm.mem.cpu.source": "measured", "scfm.speed.cpu.best_cpm": "900"}


@pytest.mark.parametrize("forged", ["1e99", "NaN", "inf", "-5", "0", "9" * 18, "9" * 40, "٣", "1_000", "12.5", ""])
@pytest.mark.parametrize("key", ["scfm.mem.cpu.peak_mib", "scfm.speed.cpu.best_cpm"])
def test_a_forged_number_counts_as_not_said(key: str, forged: str) -> None:
    what = key.split(".")[1]
    assert hardware_tags.number(TRUE, what, "cpu") == int(TRUE[key])
    tags = {**TRUE, key: forged}
    assert hardware_tags.number(tags, what, "cpu") is None
    assert not [name for name in hardware_tags.believable(tags) if name.startswith(what)]
    assert hardware_tags.believable(TRUE)[key.removeprefix("scfm.")] == TRUE[key]


def test_a_peak_below_the_weights_does_not_make_a_model_fit(made_home: object) -> None:
    registry = Registry()
    for key, value in {
        "scfm.weight_bytes": str(40 * 2**30),
        "scfm.mem.cpu.peak_mib": "10",
        "scfm.mem.cpu.source": "measured",
    }.items():
        registry.client.set_model_version_tag("pca", "1", key, value)
    small = Hardware(name="a laptop", cores=4, ram_gib=16.0, free_gib=8.0)
    assert "pca" not in [item.name for item in registry.search(fits=small)]
    assert searching.needs(registry.get("pca")).measured_gib is None


@pytest.mark.parametrize(
    "forged", [{"cells_per_minute_best": 1e99}, {"peak_mib": float("nan")}, {"load_seconds": -1.0}]
)
def test_a_measurement_that_cannot_be_is_refused(forged: dict[str, float]) -> None:
    fine = {"load_seconds": 0.2, "peak_mib": 500, "cells_per_minute": 90.0, "cells_per_minute_best": 99.0}
    hardware_tags.check_measured({**fine, "worst_cosine_to_float32": -0.1}, "m/1")
    with pytest.raises(ModelError, match="cannot be"):
        hardware_tags.check_measured({**fine, **forged}, "m/1")


def test_a_forged_run_does_not_stand_in_the_card(made_home: object) -> None:
    registry = Registry()
    tags = {"scfm.task": "measure", "scfm.digest": registry.get("pca").digest, "scfm.machine": "a workstation"}
    for forged in ({"cells_per_minute": 1e99}, {"peak_mib": -5.0}, {"load_seconds": float("inf")}):
        registry._store.log_run("measure pca/1", tags | {"scfm.machine": "a forger"}, forged)
    assert "Not measured; what the table" in registry.card("pca")
    registry._store.log_run("measure pca/1", tags, {"cells_per_minute": 5200.0, "peak_mib": 150.0, "load_seconds": 0.4})
    card = registry.card("pca")
    assert "a workstation" in card
    assert "forger" not in card
