"""Two versions side by side: which layers moved, by how much, and what that does to real cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import scfm_lab as sl
from scfm_lab.evaluation.score import Score
from scfm_lab.tasks.compare import compare
from scfm_lab.tasks.layout import write_plane
from scfm_registry import Registry, comparison, tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from scfm_registry.version import ModelVersion


@pytest.fixture
def two(made_home: Path, basis: Callable[..., Path], put_in: Callable[..., ModelVersion]) -> Registry:
    """Version 2 is version 1 with its components half as long again, and another setting."""
    from safetensors.numpy import load_file, save_file

    registry = Registry()
    put_in(registry, "mine")
    folder = basis()
    arrays = load_file(folder / "model.safetensors")
    arrays["components"] *= np.float32(1.5)
    save_file(arrays, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "basis": "another"}))
    registry.import_checkpoint(folder, "mine", licence="CC-BY-4.0", certify=False)
    return registry


def test_what_moved_is_found_and_told(two: Registry) -> None:
    first = two.get("mine/1")
    two.client.set_model_version_tag("mine", "2", "scfm.parent_digest", first.digest)
    for version, value, low, high in ((1, 0.6, 0.5, 0.65), (2, 0.8, 0.7, 0.9)):
        score = Score("macro_f1", "m", value, low=low, high=high)
        two.record_scores(f"mine/{version}", [score], data_digest="sha256:1")
    found = two.compare("mine/1", "mine/2", cells=50)
    assert found.relation == "made from mine/1"
    assert found.config == {"config.json: basis": ("pbmc68k", "another")}
    assert found.record["license"][1] == "CC-BY-4.0"
    moved = found.layers.set_index("layer")["relative"]
    assert moved["components"] == pytest.approx(0.5, abs=1e-6)
    assert moved["mean"] == 0
    # A longer basis turns no vector, and nobody's neighbours change.
    assert found.cells["cosine"].min() == pytest.approx(1, abs=1e-5)
    assert found.cells["overlap"].mean() == pytest.approx(1, abs=0.02)
    (row,) = found.metrics.itertuples()
    assert (row.a, row.b, row.apart, row.same_data) == (0.6, 0.8, True, True)
    assert "components 50.00%" in found.summary()
    assert set(found.table["part"]) == {"record", "config", "metrics", "weights"}
    told = found.to_json()
    json.dumps(told)
    assert told["layers"][0]["layer"] in moved.index
    assert found.plot().to_dict()["mark"]["type"] == "bar"


def test_a_version_beside_itself_differs_in_nothing(two: Registry) -> None:
    found = two.compare("mine/1", "mine/1", cells=20)
    assert found.relation == "the same files"
    assert (found.record, found.config) == ({}, {})
    assert not found.layers["moved"].any()
    assert (found.cells["overlap"] == 1).all()
    assert "every tensor of both is the same" in found.summary()


def test_other_families_are_compared_by_their_neighbours_alone(two: Registry) -> None:
    found = two.compare("pca", "sctop", cells=30)
    assert found.cells["cosine"].isna().all()
    assert 0 < found.cells["overlap"].mean() < 1
    assert not len(found.tensors)
    assert "not comparable" in found.summary()
    found.plot().to_dict()


def test_settings_of_an_import_and_of_a_training_are_told_and_their_history_is_not(tmp_path: Path) -> None:
    for name, rate, labels in (("a", 0.01, ["B", "NK"]), ("b", 0.02, ["B", "T"])):
        folder = tmp_path / name
        folder.mkdir()
        record = {
            "settings": {"rate": rate},
            "split": {"seed": 1},
            "labels": {"names": labels},
            "when": name,
            "who": name,
        }
        (folder / "finetuning.json").write_text(json.dumps(record))
        (folder / "import.json").write_text(json.dumps({"config": {"layers": rate}, "converted": [name]}))
    a, b = tmp_path / "a", tmp_path / "b"
    assert comparison.differing(comparison.settings_of(a), comparison.settings_of(b)) == {
        "import.json: config.layers": (0.01, 0.02)
    }
    assert comparison.differing(comparison.tuning_of(a), comparison.tuning_of(b)) == {
        "finetuning.json: settings.rate": (0.01, 0.02),
        "finetuning.json: labels.names": (["B", "NK"], ["B", "T"]),
    }
    (a / "import.json").write_text("[1]")
    assert comparison.settings_of(a) == {}


def test_scores_on_other_cells_are_not_compared() -> None:
    def score(value: float, data: str) -> dict[str, object]:
        return {"metric": "f1", "value": value, "low": value - 0.1, "high": value + 0.1, "data_digest": data}

    apart = comparison.metrics([score(0.5, "x")], [score(0.9, "y")], []).iloc[0]
    assert not apart["same_data"]
    meeting = comparison.metrics([score(0.5, "x"), score(0.7, "y")], [score(0.6, "x")], []).iloc[0]
    assert (meeting["a"], meeting["apart"]) == (0.5, False)
    shown = comparison.metrics(
        [score(0.5, "x") | {"metric": "macro-F1"}], [score(0.6, "x") | {"metric": "macro_f1"}], []
    )
    assert shown["same_data"].tolist() == [True], "one metric, whoever has written its name"


def test_tensors_are_compared_one_by_one_whatever_their_kind_and_shape() -> None:
    a = {
        "blocks.3.w": torch.ones(10, 10),
        "only": torch.ones(2),
        "shape": torch.ones(2),
        "half": torch.zeros(3, dtype=torch.bfloat16),
    }
    b = {
        "blocks.3.w": torch.ones(10, 10) * 3,
        "shape": torch.ones(3),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "more": torch.tensor(1),
    }
    found = tensors.moved(a, b).set_index("tensor")
    assert found.loc["blocks.3.w", ["layer", "relative"]].to_list() == ["layer 3", 2.0]
    assert found.loc["only", "remark"] == "only in a"
    assert found.loc["more", "remark"] == "only in b"
    assert found.loc["shape", "remark"] == "[2] and [3]"
    assert found.loc["half", "relative"] == 1


def test_vectors_and_planes_of_two_versions_are_kept_apart(
    made_home: Path, put_in: Callable[..., ModelVersion], pbmc68k: AnnData
) -> None:
    registry = Registry()
    for width in (8, 4):
        put_in(registry, "mine", width=width)
    first, second = "models:/mine/1", "models:/mine/2"
    cells = pbmc68k[::10].copy()
    sl.embed(cells, second, progress=False)
    found = compare(cells, first, second, progress=False)
    assert found.keys == ("X_mine_v1", "X_mine_v2")
    assert found.models == ("mine/1", "mine/2")
    assert [cells.obsm[key].shape[1] for key in ("X_mine", *found.keys)] == [4, 8, 4]
    planes = [write_plane(cells, key, cells.obsm[key][:, :2]) for key in found.keys]
    assert planes == ["X_umap_mine_v1", "X_umap_mine_v2"]
    assert [cells.uns["scfm"][key]["version"] for key in planes] == ["mine/1", "mine/2"]
    # One version twice is one model.
    assert compare(cells, first, first, progress=False).keys == ("X_mine", "X_mine")
