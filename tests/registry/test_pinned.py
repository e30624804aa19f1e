"""What is opened is what was hashed: nothing fits between the check and the reading."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_lab.models import converted
from scfm_lab.models.files import read_pickle, read_safetensors, read_torch, sha256
from scfm_lab.models.pinned import ChangedFileError, Pins, owned, pinned
from scfm_registry import Registry, files
from scfm_registry.serving import _load_pyfunc

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
        assert owned()
        with pinned({}, "a file of no version"):
            assert not owned(), "what is read here is mapped"
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


def _tensor(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        json.dumps({"a": _tensor(0, 4), "b": _tensor(0, 4)}),
        json.dumps({"a": _tensor(0, 4), "b": _tensor(4, 8)}).replace('"b"', '"a"'),
        json.dumps({"a": _tensor(-4, 0), "b": _tensor(0, 8, [2])}),
        json.dumps({"a": _tensor(0, 4)}),
        json.dumps({"a": _tensor(0, 8, [-1, -2])}),
        json.dumps({"a": _tensor(0, 8, [3])}),
        json.dumps({"a": _tensor(0, 2**62, [2**60])}),
        json.dumps({"a": _tensor(0, 8, [1], "OBJECT")}),
        json.dumps({"a": {"shape": [2]}}),
        "[" * 100_000,
        "[]",
    ],
    ids=["overlapping", "doubled", "negative", "left over", "shape", "short", "huge", "kind", "cut", "deep", "a list"],
)
def test_a_list_of_tensors_that_lies_is_refused_in_words_though_its_hash_is_right(tmp_path: Path, header: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(ModelError, match="damaged or no safetensors file"), pinned({path: _hash(path)}, "mine/1"):
        read_safetensors(path)


@pytest.mark.parametrize("published", [None, "model.pt"], ids=["safetensors", "converted"])
def test_nan_is_refused_where_the_numbers_were_not_looked_through_before(tmp_path: Path, published: str | None) -> None:
    path, weights = tmp_path / "model.safetensors", {"w": torch.tensor([1.0, float("nan")])}
    if published is None:
        save_file(weights, path)
    else:
        path = converted.write(weights, tmp_path / published)
    read = read_safetensors if published is None else read_torch
    with pytest.raises(ModelError, match="NaN"), pinned({path: _hash(path)}, "mine/1", known=False):
        read(path)
    with pinned({path: _hash(path)}, "mine/1"):
        assert read(path)["w"][0] == 1


def test_no_pickle_is_read_where_a_version_is_opened(weights: Path) -> None:
    torch.save({"w": torch.ones(1)}, weights.with_name("best_model.pt"))
    weights.with_name("genes.pkl").write_bytes(b"\x80\x02}q\x00.")
    readers = {read_torch: "best_model.pt", read_pickle: "genes.pkl"}
    for read, name in readers.items():
        assert isinstance(read(weights.with_name(name)), dict), "elsewhere it is"
        with pytest.raises(ModelError, match=rf"{name} is a pickle"), pinned({weights: _hash(weights)}, "mine/1"):
            read(weights.with_name(name))


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


def test_what_was_converted_and_damaged_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = converted.write({"weights": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(ModelError) as caught, pinned({path: "0" * 64}, "mine/1"):
        converted.read(path)
    assert str(caught.value).startswith(f"mine/1 is refused: {path} is damaged")
    assert str(caught.value).count("refused") == str(caught.value).count("is damaged") == 1


def test_what_another_reader_says_of_changed_bytes_is_told_as_the_change(weights: Path) -> None:
    expected, true = _hash(weights), weights.read_bytes()
    weights.write_bytes(true[:8] + b"?" + true[9:])
    with pytest.raises(ChangedFileError, match=r"mine/1 is refused: .*model\.safetensors is damaged") as caught:  # noqa: SIM117
        with pinned({weights: expected}, "mine/1"):
            load_file(weights)
    assert (caught.value.path, caught.value.__context__ is not None) == (weights, True)
    weights.write_bytes(true)
    with pytest.raises(ModelError, match=r"^another fault$") as other, pinned({weights: expected}, "mine/1"):
        raise ModelError("another fault")
    assert not isinstance(other.value, ChangedFileError)
    weights.unlink()
    with pytest.raises(ChangedFileError), pinned({weights: expected}, "mine/1"):
        pass


def test_the_outline_of_what_was_converted_is_of_the_bytes_that_were_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = converted.write({"weights": torch.ones(3), "epoch": 1}, tmp_path / "model.pt"), Pins.tensors
    found: dict[str, Any] = {}

    def then_another(pins: Pins, where: Path) -> dict[str, torch.Tensor]:
        tensors = read(pins, where)
        where.write_bytes(where.read_bytes().replace(b"epoch", b"forth"))
        return tensors

    monkeypatch.setattr(Pins, "tensors", then_another)
    with pytest.raises(ChangedFileError), pinned({path: _hash(path)}, "mine/1"):
        found |= converted.read(path)
    assert (found.keys(), found["epoch"]) == ({"weights", "epoch"}, 1)
    assert b"forth" in path.read_bytes()


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


def test_a_version_whose_file_is_swapped_between_check_and_reading_is_refused(
    made_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, check = Registry(), files.require_ok
    folder = registry.resolve("starter/1").path

    def swap(name: str, content: bytes) -> None:
        """Have a file replaced at the moment when all of them were found to be right."""

        def checked(*given: Any) -> None:
            check(*given)
            (tmp_path / "other").write_bytes(content)
            (tmp_path / "other").replace(folder / name)

        monkeypatch.setattr(files, "require_ok", checked)

    ways = {
        "registry": lambda: registry.load("starter/1", device="cpu").spec,
        "name": lambda: sl.load_model("models:/starter/1", device="cpu").spec,
        "MLflow": lambda: _load_pyfunc(str(folder), {"device": "cpu"}).model.spec,
    }
    settings, tensors = ((folder / name).read_bytes() for name in ("config.json", "model.safetensors"))
    shorter = settings.replace(b'"max_length": 2048', b'"max_length": 1024')
    assert shorter != settings
    other = tensors[:-1] + bytes([tensors[-1] ^ 1])
    for name, kept, wrong in (("config.json", settings, shorter), ("model.safetensors", tensors, other)):
        for way, opened in ways.items():
            swap(name, wrong)
            with pytest.raises(ModelError, match=rf"refused: .*{name} is damaged"):
                opened()
            assert (folder / name).read_bytes() == wrong, f"{way} swapped it"
            swap(name, kept)
            (folder / name).write_bytes(kept)
            assert opened().max_length == 2048, "the same bytes are the same file"


def test_outside_nothing_is_pinned(weights: Path) -> None:
    with pinned({weights: _hash(weights)}, "mine/1"):
        pass
    weights.write_bytes(b"no longer")
    with pytest.raises(ModelError, match="damaged or no safetensors file"):
        read_safetensors(weights)
