"""A certificate tells whether a version still does the same, and where it first differs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from scfm_lab.cells.genes import Vocabulary
from scfm_lab.errors import ModelError
from scfm_registry import Registry, certificate, files, panel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_registry.version import ModelVersion


def test_a_certified_version_is_the_same_here_and_now(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = f"certified-{'local' if 'sqlite' in registry.uri else 'server'}"
    added = put(name)
    bare = registry.verify(name)
    assert (bare.panel, bare.not_compared) == (None, "no certificate")
    assert "were not compared: no certificate. Make one: scfm-lab models certify" in bare.summary()
    made = registry.certify(name)
    assert made.record["digest"] == added.digest
    assert made.vectors.shape == (64, 8)
    result = registry.verify(name)
    assert result.ok
    assert result.panel is not None
    assert result.panel.stages == {"gene_map": "same", "tokens": "same", "vectors": "same"}
    assert (result.first_difference, result.not_compared) == ("", "")
    assert registry.audit(name).entries[-1]["action"] == "certify"
    # Somebody puts another certificate in its place.
    registry.client.set_model_version_tag(name, "1", certificate.HASH, "0" * 64)
    with pytest.raises(ModelError, match="its hash differs"):
        registry.verify(name)
    unasked = registry.verify(name, recompute=False)
    assert (unasked.ok, unasked.not_compared) == (True, "not asked for")
    assert "certify" not in unasked.summary(), "it has one"


@pytest.fixture
def certified(made_home: Path, put_in: Callable[..., ModelVersion]) -> tuple[certificate.Certificate, Registry]:
    registry = Registry()
    put_in(registry, "mine")
    return registry.certify("mine"), registry


def test_each_stage_that_differs_is_the_first_one_named(certified: tuple[certificate.Certificate, Registry]) -> None:
    made, registry = certified
    model: Any = registry.load("mine", device="cpu", precision="float32")

    def again(components: Any = model.components, vocabulary: Vocabulary = model.vocabulary) -> certificate.PanelCheck:
        return certificate.check(made, type(model)(components, model.mean, vocabulary, basis="another"))

    assert again().first == ""
    near = again(model.components * (1 + 1e-6))
    assert (near.ok, near.stages["vectors"], near.first) == (True, "within tolerance", "vectors")
    assert 0 < near.agreement["max_abs"] < 1e-3
    assert "nothing that is recorded" in near.summary()
    far = again(-model.components)
    assert (far.ok, far.stages["tokens"], far.first) == (False, "same", "vectors")
    assert far.agreement["min_cosine"] == pytest.approx(-1)
    # Two genes swap their names, so that counts go to the wrong rows.
    known = [model.vocabulary.symbols.copy(), model.vocabulary.ensembl.copy()]
    for names in known:
        names[:2] = names[1::-1]
    assert again(vocabulary=Vocabulary(*known)).first == "gene_map"


def test_a_certificate_of_a_device_that_is_not_here_is_compared_or_told(
    certified: tuple[certificate.Certificate, Registry],
) -> None:
    made, registry = certified
    device = "mps" if torch.cuda.is_available() else "cuda:1"
    there = device.partition(":")[0]

    def told(precision: str) -> files.Verification:
        settings = {**made.record["settings"], "device": device, "precision": precision}
        registry.keep_certificate(made.version, {**made.record, "settings": settings}, made.vectors, "another lab")
        return registry.verify("mine")

    same = told("float32")
    assert same.panel is not None
    assert (same.ok, same.first_difference) == (True, "")
    assert f"computed here and now on cpu, and then on {device}:" in same.summary()
    other = told("bfloat16")
    assert (other.ok, other.panel) == (True, None)
    assert other.not_compared.startswith(f"it was certified on {there} in bfloat16, and this machine has no {there}; ")
    assert registry.verify("mine", device="cpu").panel is not None, "who names a device is given it"
    with pytest.raises(ModelError, match="not available on this machine"):
        registry.verify("mine", device=device)
    unknown = told("float17")
    assert (unknown.ok, "'float17' is not known" in unknown.not_compared) == (True, True)


def test_damaged_files_are_not_opened(certified: tuple[certificate.Certificate, Registry]) -> None:
    _, registry = certified
    path = registry.resolve("mine").path / "vocabulary.csv"
    path.write_text(path.read_text() + "X,Y\n")
    result = registry.verify("mine")
    assert (result.ok, result.first_difference, result.panel) == (False, "files", None)


def test_agreement_counts_a_cell_that_only_one_sees_as_the_worst() -> None:
    here = np.ones((3, 2), np.float32)
    there = here.copy()
    there[1] = np.nan
    assert panel.agreement(here, there)["min_cosine"] == -1
    both = panel.agreement(there, there)
    assert (both["min_cosine"], both["max_abs"]) == (pytest.approx(1), 0)
    tilted = panel.agreement(np.float32([[1, 0]]), np.float32([[1, 1]]))
    assert tilted["min_cosine"] == pytest.approx(2**-0.5)
    assert tilted["max_relative"] == 1


def test_a_certificate_is_plain_json_and_numbers(certified: tuple[certificate.Certificate, Registry]) -> None:
    made, _ = certified
    assert json.loads(json.dumps(made.to_json()))["hashes"] == made.record["hashes"]
    assert made.record["settings"]["device"] == "cpu"
    assert {"files", "cells", "gene_map", "tokens", "vectors"} == set(made.table["stage"])


def test_a_version_that_comes_in_is_certified_and_registered_in_any_case(
    made_home: Path, put_in: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    added = put_in(registry, "mine")
    assert registry.came_in(added, certify=False) == added
    certified = registry.came_in(added, certify=True)
    assert registry.verify("mine").panel is not None
    run = certified.tags[certificate.RUN]
    assert registry.came_in(certified, certify=True).tags[certificate.RUN] == run, "one is enough"

    gone, other = put_in(registry, "gone", family="gone.family"), put_in(registry, "other")
    with pytest.warns(RuntimeWarning, match=r"gone/1 has no certificate: .*needs the model plugin 'gone\.family'"):
        assert registry.came_in(gone, certify=True) == gone

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a family's own\nmistake")

    monkeypatch.setattr(panel, "run", broken)
    with pytest.warns(RuntimeWarning, match="other/1 has no certificate: ZeroDivisionError: a family's own mistake$"):
        registry.came_in(other, certify=True)
    assert registry.verify("other").not_compared == "no certificate"


def test_a_certificate_whose_process_was_ended_between_its_tags_is_made_again(
    certified: tuple[certificate.Certificate, Registry],
) -> None:
    made, registry = certified
    registry.client.delete_model_version_tag("mine", "1", certificate.HASH)
    found, missing = registry.certify_new(registry.get("mine"))
    assert missing == ""
    assert found.tags[certificate.RUN] != made.run
    assert registry.verify("mine").ok


def test_a_built_in_model_gets_its_certificate_when_somebody_first_asks(made_home: Path) -> None:
    registry = Registry()
    assert certificate.RUN not in registry.get("sctop").tags, "opening a registry waits for no panel"
    first = registry.verify("sctop")
    assert (first.ok, first.panel) == (True, None)
    assert "Its vectors were not compared: its certificate was made just now" in first.summary()
    second = registry.verify("sctop")
    assert second.panel is not None
    assert second.panel.stages["vectors"] == "same"


def test_a_large_models_panel_is_small_unless_somebody_asks_for_all(made_home: Path) -> None:
    model: Any = Registry().load("starter", device="cpu", precision="float32")
    assert panel.affordable(model) == panel.CELLS
    model.spec = replace(model.spec, layers=33, width=1280, feed_forward=5120)
    few = panel.affordable(model)
    assert 4 <= few < 16
    model.spec = replace(model.spec, layers=400)
    assert panel.affordable(model) == 4
    assert len(panel.cells(few)) == few
