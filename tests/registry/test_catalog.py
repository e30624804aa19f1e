"""What authors publish, and which of it is here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from families import write_family

from scfm_lab.plugins import discover
from scfm_registry import Registry
from scfm_registry.catalog import catalog
from scfm_registry.names import check_name

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


def test_every_family_that_needs_files_is_there_with_its_licence() -> None:
    found = catalog()
    families = {item.id for item in discover().contributions("models") if item.data.get("needs_files")}
    assert {item.family for item in found} == {name for name in families if name.startswith("scfm.")}
    assert len({item.id for item in found}) == len(found)
    for item in found:
        check_name(item.id)
        assert item.licence
        assert re.search(r"\(20\d\d\)", item.citation)
        assert item.where.startswith("https://")
        assert item.files
        assert item.here is None
        assert re.fullmatch(r"([0-9a-f]{64})?", item.sha256)
    assert {item.id for item in found if item.commercial is False} == {"scfoundation"}


def test_what_is_registered_is_told_by_its_weights(
    made_home: Path, tmp_path: Path, pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scfm_registry import catalog as module

    family = write_family("scgpt", tmp_path / "published", pbmc68k)
    registry = Registry()
    registry.import_checkpoint(family.path, "mine", certify=False)
    digest = registry.get("mine").tags["scfm.weights"].removeprefix("sha256:")
    # What was fetched from the authors' address is theirs, although they publish no hash.
    address = "https://models.example/blood.tar.gz"
    registry.client.set_model_version_tag("mine", "1", "scfm.source", address)
    known = {
        "scgpt-human": {"sha256": digest},
        "scgpt-blood": {"get": [{"from": f"{address}?signature=1"}]},
        "tf-sapiens": {"get": [{"from": address}]},
    }
    entries = tuple({**entry, **known.get(entry["id"], {})} for entry in module._read())
    monkeypatch.setattr(module, "_read", lambda: entries)
    here = {item.id: item.here for item in registry.catalog()}
    assert here["scgpt-human"] == ("mine/1",)
    assert here["scgpt-blood"] == ("mine/1",)
    assert here["tf-sapiens"] is None, "another family's"
    assert here["geneformer-v2-104m"] == ()
    assert here["scbert"] is None, "no hash is published to compare with"
    assert registry.catalog().table.set_index("id").loc["scgpt-human", "here"] == "mine/1"


@pytest.mark.usefixtures("made_home")
def test_the_command_lists_what_is_asked_for() -> None:
    command = [sys.executable, "-m", "scfm_lab", "models", "catalog"]
    done = subprocess.run([*command, "geneformer", "104m", "--json"], capture_output=True, text=True, check=True)
    assert {item["id"] for item in json.loads(done.stdout)["checkpoints"]} >= {
        "geneformer-v2-104m",
        "geneformer-v2-104m-clcancer",
    }
    done = subprocess.run([*command, "scfoundation"], capture_output=True, text=True, check=True)
    for said in ("not for commercial use", "organisms: human", "cite: Hao, M.", "here: not known"):
        assert said in done.stdout
