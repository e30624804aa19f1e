"""Checkpoints as published become versions: pickles converted in a locked process, nothing in them run."""

from __future__ import annotations

import functools
import json
import os
import pickle  # noqa: TID251 - to write what must not be read
import shutil
import subprocess
import sys
import textwrap
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from families import FAMILIES, Family, write_family
from safetensors.torch import load_file

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_lab.models import converted
from scfm_lab.models.files import read_torch
from scfm_registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture
def registry(made_home: Path) -> Registry:
    return Registry()


@pytest.fixture
def publish(tmp_path: Path, pbmc68k: AnnData) -> Callable[[str], Family]:
    """A small checkpoint of a family in its published format."""
    return lambda name: write_family(name, tmp_path / "published", pbmc68k)


@pytest.fixture(params=FAMILIES)
def written(request: pytest.FixtureRequest, publish: Callable[[str], Family]) -> Family:
    return publish(request.param)


def _folder(family: Family) -> Path:
    return family.path if family.path.is_dir() else family.path.parent


def _is_empty(registry: Registry) -> bool:
    return "mine" not in [item.name for item in registry.search(all_versions=True)] and not [
        item for item in registry.scratch.iterdir() if item.name.startswith(".incoming-")
    ]


def test_a_published_checkpoint_becomes_a_version_that_gives_the_same_vectors(
    registry: Registry, written: Family, pbmc68k: AnnData
) -> None:
    found = registry.import_checkpoint(_folder(written), "mine", config=written.config, certify=False)
    kept = registry.resolve("mine").path
    assert not [path for path in kept.rglob("*") if converted.is_pickle(path)]
    assert list(kept.rglob("*.safetensors"))
    few = pbmc68k[::200].copy()
    published, registered = written.open(), registry.load("mine", device="cpu", precision="float32")
    tokens = published.tokenize(few)
    np.testing.assert_array_equal(registered.tokenize(few).ids, tokens.ids)
    np.testing.assert_array_equal(registered.encode(tokens).cell, published.encode(tokens).cell)
    assert found.tags["scfm.weights"] == published.digest, "the published weights are what is on record"
    result = sl.embed(few, registered, progress=False)
    assert result.key == "X_mine"
    # What was published is on record.
    record = json.loads((kept / "import.json").read_text())
    for name, told in record["converted"].items():
        assert (kept / name).with_name(told["stored_as"]).is_file()
        assert len(told["sha256"]) == 64
    registry.certify("mine", cells=4)
    checked = registry.verify("mine")
    assert (checked.ok, checked.not_compared) == (True, "")
    _goes_back_as_it_was_published(registry, written, published, few)
    if found.family == "scfm.scgpt":
        few.write_h5ad(written.root / "few.h5ad")
        assert list(registry.made_with(written.root / "few.h5ad").table["registered"]) == ["mine/1"]
        assert registry.affected([written.root / "few.h5ad"], "mine").rows[0]["by"] == "weights"
        # For all of them alike, and an import takes its time.
        again = registry.import_checkpoint(_folder(written), "mine", certify=False)
        assert again.reference == found.reference, "the same files twice are one version"


def _goes_back_as_it_was_published(registry: Registry, written: Family, published: Any, few: AnnData) -> None:
    """By its name in the registry, into files that hold what the published ones hold."""
    done = registry.export_published("mine", written.root.parent / "back")
    back = sl.load_model(done.folder, device="cpu", precision="float32", config=written.config or None)
    np.testing.assert_array_equal(back.encode(back.tokenize(few)).cell, published.encode(published.tokenize(few)).cell)
    assert f"config={written.config!r}" in done.summary() or not written.config
    names = [path.name for path in converted.listed(done.folder)]
    again = done.folder / next(n for n in names if n in (written.weights.name, "model.safetensors", "models.ckpt"))
    told = [read_torch(path) if path.suffix != ".safetensors" else load_file(path) for path in (written.weights, again)]
    assert _plain(told[0]) == _plain(told[1])
    assert "LICENCE.md" in done.written.files


def _plain(content: Any) -> Any:
    """Names, types, shapes and values; what a training alone reads is left out, as at the import."""
    if isinstance(content, dict):
        kept = converted.without_training(content)[0]
        content = kept.get("model_state_dict", kept)
        return {key: _plain(value) for key, value in content.items() if key not in ("epoch", "losses")}
    return (content.dtype, content.tolist()) if isinstance(content, torch.Tensor) else content


@pytest.mark.filterwarnings("ignore:.*which files= names, stands for it")
@pytest.mark.parametrize("name", ["geneformer", "scbert", "uce", "transcriptformer"])
def test_weights_in_several_pickles_go_by_the_published_digest(name: str, tmp_path: Path, pbmc68k: AnnData) -> None:
    from scfm_registry import import_worker

    family = write_family("geneformer_v1" if name == "geneformer" else name, tmp_path / "published", pbmc68k)
    given: dict[str, Any] = {}
    if name == "geneformer":
        tensors = torch.load(family.weights, weights_only=True)  # noqa: TID251
        told = {key: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, key in enumerate(tensors)}
        for part in sorted(set(told.values())):
            torch.save({key: tensors[key] for key in told if told[key] == part}, family.path / part)
        (family.path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": told}))
        family.weights.unlink()
    elif name == "scbert":
        # Its positions are in a table that is named.
        content = torch.load(family.weights, weights_only=True)  # noqa: TID251
        positions = content["model_state_dict"].pop("pos_emb.emb.weight").numpy()
        torch.save(content, family.weights)
        given = {"files": {"gene2vec": family.root / "data" / "gene2vec_16906.npy"}}
        np.save(given["files"]["gene2vec"], positions[:-1])
    before = family.open(**given).digest
    done = import_worker.convert(family.root)
    after = family.open(**given)
    assert after.digest != before
    assert after.published_digest(import_worker.hashes(family.root, done)) == before


def test_what_lies_beside_the_folder_comes_along(registry: Registry, publish: Callable[[str], Family]) -> None:
    family = publish("geneformer_v2")
    shutil.move(family.path / "dictionaries", family.root / "dictionaries")
    registry.import_checkpoint(family.path, "mine", certify=False)
    names = {path.name for path in (registry.resolve("mine").path / "dictionaries").iterdir()}
    assert any(name.startswith("token_dictionary") and name.endswith(".pkl.json") for name in names)


def test_a_listed_species_is_found_when_its_file_was_converted(publish: Callable[[str], Family]) -> None:
    from scfm_registry import import_worker

    family = publish("uce")
    (mouse,) = (family.path / "protein_embeddings").glob("Mus_musculus*")
    mouse.rename(mouse.with_name("mine.pt"))
    (family.path / "new_species_protein_embeddings.csv").write_text("species,path\nmouse,protein_embeddings/mine.pt\n")
    assert "mouse" in family.open().spec.organisms
    import_worker.convert(family.root)
    assert "mouse" in family.open().spec.organisms


def test_states_of_training_and_pictures_are_left_out_and_told(
    registry: Registry, publish: Callable[[str], Family]
) -> None:
    family = publish("geneformer_v2")
    for name in ("training_args.bin", "optimizer.pt", "figure.png", "pytorch_model.bin"):
        (family.path / name).write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    added = registry.import_checkpoint(family.path, "mine", certify=False)
    left_out = ["figure.png", "optimizer.pt", "pytorch_model.bin", "training_args.bin"]
    assert added.remarks == (f"left out: {', '.join(left_out)}",)
    assert not {path.name for path in registry.resolve("mine").path.rglob("*")} & set(left_out)


class _Runs:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trap}",)


def _hostile(path: Path, how: str, trap: Path) -> None:
    state = torch.load(path, weights_only=True)  # noqa: TID251
    if how == "code":
        path.write_bytes(pickle.dumps(_Runs(trap)))
    elif how == "code after the weights":
        torch.save({**state, "more": _Runs(trap)}, path)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "stride 0":
        key = next(iter(state))
        torch.save({**state, key: torch.zeros(1).expand(10**9)}, path)
    elif how == "NaN":
        key = next(k for k, v in state.items() if v.is_floating_point())
        torch.save({**state, key: state[key] * float("nan")}, path)
    elif how == "another format's name":
        path.with_name(path.name + ".safetensors").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("code", r"best_model\.pt holds posix\.system, which is code"),
        ("code after the weights", r"best_model\.pt holds posix\.system, which is code"),
        ("truncated", r"best_model\.pt is damaged"),
        ("stride 0", r"best_model\.pt declares 4,000,000,000 bytes"),
        ("NaN", r"best_model\.pt holds NaN"),
        ("another format's name", "lies there twice"),
    ],
)
def test_hostile_weights_are_named_and_leave_nothing(
    registry: Registry,
    tmp_path: Path,
    publish: Callable[[str], Family],
    read_as_an_import: Callable[[Path], None],
    how: str,
    words: str,
) -> None:
    family = publish("scgpt")
    trap = tmp_path / "trap"
    _hostile(family.weights, how, trap)
    whole = how in ("code", "stride 0")
    read = functools.partial(registry.import_checkpoint, name="mine") if whole else read_as_an_import
    with pytest.raises(ModelError, match=words) as caught:
        read(family.path)
    assert str(family.path) in str(caught.value)
    assert ".incoming-" not in str(caught.value)
    assert not trap.exists()
    assert _is_empty(registry)


def test_a_dictionary_with_code_is_named(registry: Registry, tmp_path: Path, publish: Callable[[str], Family]) -> None:
    family = publish("geneformer_v1")
    trap = tmp_path / "trap"
    token = next((family.path / "dictionaries").glob("token_dictionary*.pkl"))
    token.write_bytes(pickle.dumps(_Runs(trap)))
    with pytest.raises(ModelError, match=r"token_dictionary.*holds posix\.system, which is code"):
        registry.import_checkpoint(family.path, "mine", certify=False)
    assert not trap.exists()
    assert _is_empty(registry)


@pytest.mark.parametrize("how", ["link", "storage"])
def test_a_file_that_reads_other_files_is_refused(
    registry: Registry, tmp_path: Path, publish: Callable[[str], Family], how: str
) -> None:
    family = publish("transcriptformer")
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.arange(3)
    with h5py.File(next((family.path / "vocabs").glob("*.h5")), "a") as file:
        if how == "link":
            file["more"] = h5py.ExternalLink(str(other), "/x")
        else:
            file.create_dataset("more", (3,), "i4", external=[(str(other), 0, 12)])
    with pytest.raises(ModelError, match="another file"):
        registry.import_checkpoint(family.path, "mine", certify=False)
    assert _is_empty(registry)


def _as_is(value: Any) -> Any:
    """Comparable with ==: arrays and tensors as lists with their dtype."""
    if isinstance(value, torch.Tensor):
        return "tensor", str(value.dtype), value.tolist()
    if isinstance(value, np.ndarray):
        return "array", value.dtype.kind, value.tolist()
    if isinstance(value, dict):
        return [(_as_is(k), _as_is(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_as_is(v) for v in value]
    return value


@pytest.mark.parametrize(
    "content",
    [
        {"b": 1, "a": 2.5, "c": "text", "d": None, "e": True},
        {"x": "one key that looks like a tensor's name"},
        {"d": [["not", "ours"]]},
        {0: "zero", 1: "one"},
        {"labels": np.array(["B cell", "T cell"], dtype=object), "n": np.int64(3)},
        ["a", ("b", 1), []],
        {"cell": {"state_dict": OrderedDict(w=torch.arange(6).reshape(2, 3).T), "config": {"layers": 2}}, "step": 7},
        {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
        {"half": torch.ones(2, dtype=torch.bfloat16), "codes": np.arange(3, dtype=np.int16), "none": torch.empty(0, 4)},
        np.arange(4.0),
        torch.tensor(3),
    ],
    ids=str,
)
def test_what_is_converted_is_read_back_as_it_was(tmp_path: Path, content: Any) -> None:
    path = converted.write(content, tmp_path / "some.pt")
    assert path.parent == tmp_path
    assert path.name in ("some.pt.safetensors", "some.pt.json")
    found = converted.read(path)
    if isinstance(content, OrderedDict):
        content = dict(content)
    assert _as_is(found) == _as_is(content)
    assert converted.listed(tmp_path, "*.pt") == [tmp_path / "some.pt"]
    assert converted.is_stored(tmp_path / "some.pt")


def test_what_a_file_says_of_its_own_origin_is_not_believed(
    registry: Registry, publish: Callable[[str], Family]
) -> None:
    from safetensors.torch import save_file

    from scfm_lab.models.files import sha256

    family = publish("geneformer_v2")
    claimed = {"scfm.published": "sha256:" + "a" * 64, "published": "sha256:" + "a" * 64}
    save_file({"w": torch.ones(2)}, family.path / "more.pt.safetensors", metadata=claimed)
    assert "a" * 64 not in sha256(family.path / "more.pt")
    (family.path / "import.json").write_text(json.dumps({"converted": {"model.safetensors": {"sha256": "a" * 64}}}))
    found = registry.import_checkpoint(family.path, "mine", certify=False)
    assert found.tags["scfm.weights"] == sha256(family.weights)
    record = json.loads((registry.resolve("mine").path / "import.json").read_text())
    assert "a" * 64 not in json.dumps(record)


def test_what_only_a_training_reads_is_left_out() -> None:
    import torch

    weights = {"optimizer.weight": torch.ones(2)}
    content = {
        "epoch": 3,
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": {0: torch.ones(9)}},
        "lr": 0.1,
    }
    kept, left = converted.without_training(content)
    assert left == ["optimizer_state_dict"]
    assert kept == {"epoch": 3, "model_state_dict": weights, "lr": 0.1}
    # Tensors that are only called so stay, and so does a file that holds nothing else.
    for other in (weights, {"optimizer": [1, 2]}, [1, 2]):
        assert converted.without_training(other) == (other, [])


def test_what_is_no_plain_data_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds a complex at a/1"):
        converted.write({"a": [1, 1j]}, tmp_path / "some.pt")
    assert not list(tmp_path.iterdir())


def test_damage_after_the_conversion_is_said(tmp_path: Path) -> None:
    path = converted.write({"w": torch.ones(3)}, tmp_path / "some.pt")
    path.write_bytes(path.read_bytes().replace(b"scfm.tree", b"scfm.root"))
    with pytest.raises(ModelError, match=r"some\.pt\.safetensors is damaged"):
        converted.read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")
def test_the_process_that_reads_files_is_locked() -> None:
    code = """
        import ctypes, json, os, socket, subprocess, sys, threading
        from scfm_registry import confining
        wait = threading.Event()
        said = {}
        def tried(name, what):
            try:
                what()
                said[name] = "done"
            except (OSError, MemoryError) as error:
                said[name] = type(error).__name__
        # A thread from before is locked as well.
        early = threading.Thread(target=lambda: (wait.wait(), tried("early thread", socket.socket)))
        early.start()
        said["locks"] = confining.lock(memory=1 << 29, written=1 << 20, seconds=60)
        wait.set(); early.join()
        tried("socket", socket.socket)
        tried("this machine's socket", lambda: socket.socket(socket.AF_UNIX))
        tried("pair", socket.socketpair)
        libc = ctypes.CDLL(None, use_errno=True)
        def call(number):
            if libc.syscall(number, -1, 0, 0, 0, 0, 0) == -1:
                raise OSError(ctypes.get_errno(), "")
        for name in ("process_vm_readv", "process_vm_writev", "pidfd_getfd"):
            tried(name, lambda: call(confining._known()[2][name]))
        tried("program", lambda: subprocess.run(["true"]))
        tried("memory", lambda: bytearray(1 << 30))
        tried("large file", lambda: open(sys.argv[1] + "/large", "wb").write(bytes(2 << 20)))
        tried("small file", lambda: open(sys.argv[1] + "/small", "wb").write(bytes(1 << 10)))
        print(json.dumps(said))
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), folder],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    said = json.loads(done.stdout)
    assert "no network" in said.pop("locks")
    assert said == {
        "early thread": "PermissionError",
        "socket": "PermissionError",
        "this machine's socket": "PermissionError",
        "pair": "done",
        "process_vm_readv": "PermissionError",
        "process_vm_writev": "PermissionError",
        "pidfd_getfd": "PermissionError",
        "program": "PermissionError",
        "memory": "MemoryError",
        "large file": "OSError",
        "small file": "done",
    }


@pytest.mark.usefixtures("made_home")
@pytest.mark.parametrize("name", ["mine", "mine/1", "mine@champion"])
def test_a_registered_name_without_its_prefix_is_told_how_to_be_written(name: str) -> None:
    with pytest.raises(ModelError, match=rf"'models:/{name}'"):
        sl.load_model(name)


@pytest.mark.thorough
@pytest.mark.usefixtures("made_home")
def test_the_command_keeps_what_the_files_do_not_say(publish: Callable[[str], Family]) -> None:
    family = publish("uce")
    command = [
        sys.executable,
        "-m",
        "scfm_lab",
        "models",
        "import",
        str(family.path),
        "--name",
        "mine",
        "--no-certify",
        "--json",
    ]
    done = subprocess.run([*command, "--config", "nhead=3"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["family"] == "scfm.uce"
    assert sl.load_model("models:/mine/1", device="cpu").spec.heads == 3
    done = subprocess.run([*command, "--config", "nhead"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not KEY=VALUE" in done.stderr


def test_a_folder_without_pickles_has_no_record(registry: Registry, basis: Callable[..., Path]) -> None:
    registry.import_checkpoint(basis(), "mine", certify=False)
    assert not (registry.resolve("mine").path / "import.json").exists()
