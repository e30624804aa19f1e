"""What authors publish, and which of it is here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from families import write_family

from scfm_lab.cli import main
from scfm_lab.plugins import discover
from scfm_registry import Registry
from scfm_registry.catalog import catalog
from scfm_registry.names import check_name

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_sizes_and_memory_stand_where_the_shapes_are_published_and_nowhere_else() -> None:
    found = {item.id: item for item in catalog()}
    organs = {f"scgpt-{organ}" for organ in ("brain", "blood", "heart", "lung", "kidney", "pan-cancer")}
    assert {name for name, item in found.items() if item.weights_mib is None} == organs
    assert {name for name, item in found.items() if item.memory_mib is None} == organs | {"tf-exemplar", "tf-metazoa"}
    table = 145_469 * 5_120 * 4
    for name, item in found.items():
        assert item.reckoned
        if item.parameters is None or item.weights_mib is None:
            continue
        # UCE's table counts as no parameters; scFoundation has three sets; scBERT's positions are 64-bit numbers.
        more = {"scfm.uce": table, "scfm.scfoundation": 8 * item.parameters, "scfm.scbert": 16_907 * 200 * 4}
        reckoned = 4 * item.parameters + more.get(item.family, 0)
        assert item.weights_mib == pytest.approx(reckoned / 2**20, rel=0.01), name
        assert item.memory_mib is None or item.memory_mib > item.weights_mib
    assert catalog().table.set_index("id").loc["scgpt-human", "memory_mib"] == found["scgpt-human"].memory_mib


def test_the_weights_of_uce_are_of_its_published_shapes() -> None:
    import torch

    from scfm_lab.models.uce_net import UceNet

    shape = {"token_width": 5120, "width": 1280, "heads": 20, "ffn": 5120, "positions": 1536}
    decoders = {"decoder": [1280, 1024, 1280, 1280, 1280], "binary_decoder": [2560, 2048, 512, 128, 1]}
    found = {item.id: item for item in catalog()}
    for layers in (4, 33):
        with torch.device("meta"):
            net = UceNet(layers=layers, **shape, **decoders)  # type: ignore[arg-type]
        numbers = sum(tensor.numel() for tensor in net.state_dict().values()) + 145_469 * 5120
        assert round(4 * numbers / 2**20) == found[f"uce-{layers}"].weights_mib


def _geneformer_v1(folder: Path) -> Path:
    import anndata
    import pandas as pd
    import writers

    # The writer leaves ten genes out.
    ids = [f"ENSG{number:011}" for number in range(25_424 + 10)]
    genes = anndata.AnnData(var=pd.DataFrame({"ensembl_id": ids}, index=[f"G{number}" for number in range(len(ids))]))
    return writers.write_geneformer(folder, genes, version="V1", positions=2048, layers=6, d=256, heads=4, f=512)


def _scgpt(folder: Path) -> Path:
    import writers

    genes = [f"GENE{number}" for number in range(60_694)]
    return writers.write_scgpt(folder, None, genes=genes, layers=12, d=512, heads=8, f=512)  # type: ignore[arg-type]


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "write"), [("geneformer-v1-10m", _geneformer_v1), ("scgpt-human", _scgpt)])
def test_the_memory_is_what_the_registry_estimates_of_such_a_checkpoint(
    made_home: Path, tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    del made_home
    (said,) = (item for item in catalog() if item.id == name)
    found = Registry().import_checkpoint(write(tmp_path / "published"), "mine", certify=False)
    assert int(found.tags["scfm.mem.cpu.peak_mib"]) == said.memory_mib
    assert round((found.weight_bytes or 0) / 2**20) == said.weights_mib
    assert found.parameters == pytest.approx(said.parameters, rel=0.005)


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
    found = registry.catalog()
    here = {item.id: item.here for item in found}
    assert {item.id: item.here_by for item in found if item.here} == {
        "scgpt-human": "SHA-256",
        "scgpt-blood": "address",
    }
    assert here["scgpt-human"] == ("mine/1",)
    assert here["scgpt-blood"] == ("mine/1",)
    assert here["tf-sapiens"] is None, "another family's"
    assert here["geneformer-v2-104m"] == ()
    assert here["scbert"] is None, "no hash is published to compare with"
    assert registry.catalog().table.set_index("id").loc["scgpt-human", "here"] == "mine/1"


@pytest.mark.usefixtures("made_home")
def test_where_no_hash_is_published_what_bears_the_name_in_the_catalogue_is_here_by_its_name(
    tmp_path: Path, pbmc68k: AnnData, capsys: pytest.CaptureFixture[str]
) -> None:
    family, registry = write_family("scgpt", tmp_path / "published", pbmc68k), Registry()
    for name in ("scgpt-human", "scbert", "blood"):
        registry.import_checkpoint(family.path, name, certify=False)
    here = {item.id: (item.here, item.here_by) for item in registry.catalog()}
    assert here["scgpt-human"] == (("scgpt-human/1",), "name")
    assert here["scbert"] == (None, ""), "one of another family is not it, whatever its name"
    assert here["scgpt-blood"] == (None, "")
    assert main(["models", "catalog", "scgpt-human"]) == 0
    assert "here: scgpt-human/1 by its name (no SHA-256 is published to compare with)\n" in capsys.readouterr().out


@pytest.mark.usefixtures("made_home")
def test_the_command_lists_what_is_asked_for() -> None:
    command = [sys.executable, "-m", "scfm_lab", "models", "catalog"]
    done = subprocess.run([*command, "geneformer", "104m", "--json"], capture_output=True, text=True, check=True)
    assert {item["id"] for item in json.loads(done.stdout)["checkpoints"]} >= {
        "geneformer-v2-104m",
        "geneformer-v2-104m-clcancer",
    }
    done = subprocess.run([*command, "scfoundation"], capture_output=True, text=True, check=True)
    memory = "needs: about 3,162 MiB of memory on a CPU (the registry's estimate for 12 and 6 layers"
    for said in ("not for commercial use", "organisms: human", "cite: Hao, M.", "here: not known", memory):
        assert said in done.stdout
