"""Checkpoints of several people, found, told apart and registered."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from families import write_family

from scfm_lab.cli import main
from scfm_lab.errors import ModelError
from scfm_registry import Registry
from scfm_registry.sharing import adopting

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture
def registry(made_home: Path) -> Registry:
    return Registry()


@pytest.fixture
def homes(tmp_path: Path, _pbmc68k: AnnData) -> Path:
    """Two people's folders: two checkpoints, one of them twice, and much that is none."""
    root = tmp_path / "homes"
    scgpt = write_family("scgpt", root / "ana" / "scgpt-lung", _pbmc68k)
    write_family("geneformer_v2", root / "ben" / "geneformer", _pbmc68k)
    shutil.copytree(scgpt.path, root / "ben" / "from-ana")
    (root / "ben" / "from-ana" / "README.md").write_text("# copied from Ana\n")
    (root / "ben" / "from-ana" / "notes.txt").write_text("seed 3 was the best\n")
    (root / "ben" / "from-ana" / "LICENSE").write_text("MIT\n")
    (root / "ben" / "from-ana" / "train.py").write_text("print('mine')\n")
    (root / "ben" / "from-ana" / "wandb").mkdir()
    (root / "ben" / "from-ana" / "wandb" / "config.yaml").write_text("x: 1\n")
    (root / "ana" / "other").mkdir()
    (root / "ana" / "other" / "resnet.pt").write_bytes(b"no checkpoint")
    (root / "ana" / "data").mkdir()
    (root / "ana" / "data" / "cells.h5ad").write_bytes(b"cells")
    return root


def test_what_lies_about_is_found_once_and_registered(
    registry: Registry, homes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = registry.find_strays(homes)
    by_family = {item.family: item for item in found}
    assert sorted(by_family) == ["scfm.geneformer", "scfm.scgpt"]
    scgpt = by_family["scfm.scgpt"]
    assert {scgpt.path, *scgpt.copies} == {homes / "ana" / "scgpt-lung" / "checkpoint", homes / "ben" / "from-ana"}
    assert all(item.new for item in found)
    assert len({item.name for item in found}) == 2
    assert found.unknown == [homes / "ana" / "other"]
    assert list(found.table["here"]) == [[], []]
    assert "mine" not in [item.name for item in registry.search()], "looking changes nothing"
    adopted = registry.adopt(scgpt, name="mine", consent="no-sharing")
    assert (adopted.consent, "scfm.certificate.run" in adopted.tags) == ("no-sharing", True)
    assert not (registry.resolve("mine").path / "wandb").exists()
    assert not (registry.resolve("mine").path / "train.py").exists()
    # Not asked, it says what is there and registers nothing.
    assert main(["models", "adopt", str(homes)]) == 0
    out = capsys.readouterr().out
    assert "is mine/1 already" in out
    assert "Nothing was registered" in out
    assert main(["models", "adopt", str(homes), "--dry-run", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["adopted"] == []
    assert [item["here"] for item in told["checkpoints"] if item["family"] == "scfm.scgpt"] == [["mine/1"]]
    # What they were made from can be said, and its consent holds for them too.
    words = ["models", "adopt", str(homes), "--yes", "--no-certify", "--json", "--parent"]
    assert main([*words, "nowhere"]) == 1
    assert "No model is called 'nowhere'" in json.loads(capsys.readouterr().out)["failed"][0]
    assert main([*words, "mine/1"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["adopted"]
    other = registry.get(told["name"])
    assert (other.tags["scfm.parent_digest"], other.consent) == (adopted.digest, "no-sharing")


def test_circles_closed_doors_and_strange_trees_are_told(registry: Registry, homes: Path, tmp_path: Path) -> None:
    (homes / "ana" / "loop").symlink_to(homes)
    (homes / "ana" / "scgpt-lung" / "checkpoint" / "self").symlink_to(".")
    (homes / "ana" / "outside.pt").symlink_to("/etc/hostname")
    shutil.rmtree(homes / "ben")
    deep = homes / "deep"
    deep.mkdir()
    for _ in range(100):
        deep = deep / "d"
        os.mkdir(deep)
    (deep / "model.pt").write_bytes(b"x")
    (homes / "venv" / "lib").mkdir(parents=True)
    (homes / "venv" / "pyvenv.cfg").write_text("")
    (homes / "venv" / "lib" / "weights.pt").write_bytes(b"x")
    found = registry.find_strays(homes)
    assert [item.family for item in found] == ["scfm.scgpt"]
    assert found.links == 2
    assert homes / "venv" / "lib" not in found.unknown
    assert found.looked_at < 90
    with pytest.raises(ModelError, match="There is no folder"):
        registry.find_strays(tmp_path / "nowhere")


def test_a_folder_that_may_not_be_read_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("open", "closed"):
            (root / folder).mkdir()
            (root / folder / "model.pt").write_bytes(b"x")
        root.chmod(0o755)
        (root / "closed").chmod(0)
        told = adopting.Strays()
        # Nothing is closed to root, who looks as somebody else for a moment.
        as_root = os.geteuid() == 0
        if as_root:
            os.seteuid(65534)
        try:
            found = list(adopting._candidates(root, told, set()))
        finally:
            if as_root:
                os.seteuid(0)
            (root / "closed").chmod(0o755)
        assert found == [root / "open"]
        assert told.unread == [f"{root / 'closed'} (Permission denied)"]


def test_a_damaged_checkpoint_is_told_and_costs_no_other(
    registry: Registry, homes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(homes / "ben")
    (homes / "ana" / "scgpt-lung" / "checkpoint" / "vocab.json").write_text("{")
    assert main(["models", "adopt", str(homes), "--yes", "--json"]) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["adopted"] == []
    assert "vocab.json" in " ".join(told["failed"])
    assert captured.err.startswith("Error: ")


def test_the_same_weights_with_another_configuration_are_told_so() -> None:
    def item(name: str, content: str, weights: str) -> adopting.Stray:
        return adopting.Stray(Path(name), "scfm.scgpt", "", 1, (), content=content, weights=frozenset({weights}))

    found = adopting.Strays(
        adopting._grouped([item("a", "1", "w"), item("b", "2", "w"), item("c", "2", "w"), item("d", "3", "v")])
    )
    assert [(str(one.path), [*map(str, one.copies)], [*map(str, one.alike)]) for one in found] == [
        ("a", [], ["b"]),
        ("b", ["c"], ["a"]),
        ("d", [], []),
    ]
    assert "the same weights, other files: b" in found.summary()
