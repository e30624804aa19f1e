"""What is opened is what was hashed: nothing fits between the check and the reading."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from scfm_lab.errors import ModelError
from scfm_lab.models.files import read_safetensors, sha256
from scfm_lab.models.pinned import pinned

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "w": torch.randn(5, 3),
        "half": torch.randn(7).to(torch.bfloat16),
        "ids": torch.arange(4),
        "mask": torch.tensor([True, False, True]),
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tensors_are_those_of_the_library(weights: Path) -> None:
    with pinned({weights: _hash(weights)}, "mine/1"):
        found = read_safetensors(weights)
        assert sha256(weights) == f"sha256:{_hash(weights)}"
    expected = load_file(weights)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    kept = {name: tensor.clone() for name, tensor in expected.items()}
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items()), "the tensors outlive their file"


def test_another_file_in_its_place_is_refused_before_it_is_parsed(weights: Path) -> None:
    expected = _hash(weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with (
        pytest.raises(ModelError, match=r"mine/1 is refused: .*model\.safetensors is damaged"),
        pinned({weights: expected}, "mine/1"),
    ):
        read_safetensors(weights)


@pytest.mark.parametrize("read", [True, False], ids=["after it was read", "unread"])
def test_a_file_that_is_changed_meanwhile_is_refused(weights: Path, read: bool) -> None:
    beside = weights.with_name("config.json")
    beside.write_text("{}")
    hashes = {weights: _hash(weights), beside: _hash(beside)}
    with pytest.raises(ModelError, match=r"config\.json is damaged"), pinned(hashes, "mine/1"):  # noqa: PT012
        if read:
            read_safetensors(weights)
        other = beside.with_name("other.json")
        other.write_text("[]")
        other.replace(beside)
    hashes[beside] = _hash(beside)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"), pinned(hashes, "mine/1"):  # noqa: PT012
        if read:
            read_safetensors(weights)
        weights.write_bytes(weights.read_bytes())
    with pytest.raises(ModelError, match=r"is damaged"), pinned({**hashes, weights: "0" * 64}, "mine/1"):
        pass  # nobody read the weights, and they are hashed all the same


def test_outside_nothing_is_pinned(weights: Path) -> None:
    with pinned({weights: _hash(weights)}, "mine/1"):
        pass
    weights.write_bytes(b"no longer")
    with pytest.raises(ModelError, match="damaged or no safetensors file"):
        read_safetensors(weights)
