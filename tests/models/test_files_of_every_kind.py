"""What every published family does with files that are damaged, renamed, incomplete, another family's, or hold code."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - what is refused
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from families import FAMILIES, write_family

import scfm_lab as sl
from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

TITLES = {
    "scgpt": "scGPT",
    "geneformer": "Geneformer",
    "uce": "UCE",
    "transcriptformer": "TranscriptFormer",
    "scfoundation": "scFoundation",
    "scbert": "scBERT",
}


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refused(path: Path, **more) -> str:
    """What is said, in one line."""
    with pytest.raises(ModelError) as raised:
        sl.load_model(path, device="cpu", **more)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def told(family) -> str:
    """What is said against opening it; nothing where it opens."""
    try:
        family.open()
    except ModelError as error:
        return str(error)
    return ""


def test_opening_does_not_import_the_compiler_of_pytorch(tmp_path, pbmc68k):
    """It takes longer to import than a checkpoint to open, and is never used."""
    written = [write_family(name, tmp_path / name, pbmc68k[:20].copy()) for name in FAMILIES]
    asked = [("starter", {})] + [(str(family.path), family.config) for family in written]
    program = (
        "import json, sys, scfm_lab as sl\n"
        "for path, config in json.loads(sys.argv[1]):\n"
        "    sl.load_model(path, device='cpu', precision='float32', config=config or None)\n"
        "    assert 'torch._dynamo' not in sys.modules, path\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_weights_is_named_and_not_run(fresh, protocol):
    trap = fresh.root / "ran"
    if fresh.weights.suffix == ".safetensors":
        fresh.weights.unlink()
        weights = fresh.weights.with_name("pytorch_model.bin")
    else:
        weights = fresh.weights
    weights.write_bytes(pickle.dumps({"weights": Runs(trap)}, protocol=protocol))
    for path in (fresh.path, weights):
        assert "mkdir, which is code" in refused(path)
    for archive in (True, False):
        torch.save({"weights": Runs(trap)}, weights, _use_new_zipfile_serialization=archive)
        assert "mkdir, which is code" in refused(weights)
    assert not trap.exists()


def test_weights_that_were_cut_off_are_said_to_be_damaged(fresh):
    data = fresh.weights.read_bytes()
    for end in (len(data) // 2, len(data) - 40, 100, 0):
        fresh.weights.write_bytes(data[:end])
        for path in (fresh.path, fresh.weights):
            said = refused(path)
            assert "damaged" in said or "is missing" in said
            assert TITLES[fresh.family] in said or str(fresh.weights) in said


def test_nan_in_weights_is_named(fresh):
    if fresh.weights.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        tensors = load_file(fresh.weights)
        name = next(n for n, t in tensors.items() if t.is_floating_point())
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, fresh.weights)
    else:
        content = torch.load(fresh.weights, weights_only=True)  # noqa: TID251
        inner = content
        for key in ("cell", "model_state_dict", "state_dict"):
            inner = inner.get(key, inner)
        name = next(n for n, t in inner.items() if isinstance(t, torch.Tensor) and t.is_floating_point() and t.numel())
        inner[name].view(-1)[0] = float("inf")
        torch.save(content, fresh.weights)
    said = refused(fresh.path, config=fresh.config or None)
    assert "NaN or infinite" in said
    assert name in said


_NO_FLOATS = {
    "int8": lambda t: t.to(torch.int8),
    "bool": lambda t: t > 0,
    "complex64": lambda t: torch.full(t.shape, complex(float("nan"), 0)),
    "beyond float32": lambda t: torch.full(t.shape, 1e300, dtype=torch.float64),
}


def test_weights_that_are_no_numbers_of_float32_are_refused_by_name(fresh):
    from safetensors.torch import load_file, save_file

    is_safetensors = fresh.weights.suffix == ".safetensors"
    content = load_file(fresh.weights) if is_safetensors else torch.load(fresh.weights, weights_only=True)  # noqa: TID251
    inner = content
    for key in ("cell", "model_state_dict", "state_dict"):
        inner = inner.get(key, inner)
    name = next(n for n, t in inner.items() if isinstance(t, torch.Tensor) and t.is_floating_point() and t.ndim == 2)
    whole = inner[name]
    for kind, change in _NO_FLOATS.items():
        inner[name] = change(whole)
        fresh.weights.unlink()
        save_file(content, fresh.weights) if is_safetensors else torch.save(content, fresh.weights)
        said = refused(fresh.path, config=fresh.config or None)
        assert name.removeprefix("model.") in said
        assert "NaN or infinite" in said if kind == "beyond float32" else f"holds {kind}, not floating-point" in said


def test_a_tensor_of_absurd_size_is_refused_before_anything_is_allocated(fresh):
    if fresh.weights.suffix == ".safetensors":
        size = int.from_bytes(fresh.weights.read_bytes()[:8], "little")
        header = json.loads(fresh.weights.read_bytes()[8 : 8 + size])
        first = next(n for n in header if n != "__metadata__")
        header[first]["shape"] = [10**12, 10**3]
        text = json.dumps(header).encode()
        fresh.weights.write_bytes(len(text).to_bytes(8, "little") + text + fresh.weights.read_bytes()[8 + size :])
    else:
        content = torch.load(fresh.weights, weights_only=True)  # noqa: TID251
        inner = content
        for key in ("cell", "model_state_dict", "state_dict"):
            inner = inner.get(key, inner)
        name = next(n for n, t in inner.items() if isinstance(t, torch.Tensor) and t.ndim == 2)
        inner[name] = torch.zeros(1).expand(10**12, 10**3)
        torch.save(content, fresh.weights)
    said = refused(fresh.path, config=fresh.config or None)
    assert "declares" in said or "damaged" in said


@pytest.mark.parametrize("other", FAMILIES)
def test_the_weights_of_another_family_are_told(fresh, other, every_written):
    theirs = every_written(other)
    if theirs.family == fresh.family or theirs.weights.suffix == ".safetensors":
        pytest.skip("the same family, or the same names of files")
    if fresh.weights.suffix == ".safetensors":
        fresh.weights.unlink()
        target = fresh.weights.with_name("pytorch_model.bin")
    else:
        target = fresh.weights
    shutil.copy(theirs.weights, target)
    assert TITLES[theirs.family] in refused(fresh.path)


def test_an_incomplete_folder_says_whose_it_is_and_what_is_missing(fresh):
    """Each file away in turn: what is needed is named, with the family; what is not needed changes nothing."""
    needed = 0
    for file in sorted(p for p in fresh.root.rglob("*") if p.is_file()):
        away = file.with_name(file.name + ".away")
        file.rename(away)
        said = told(fresh)
        away.rename(file)
        if said:
            needed += 1
            assert TITLES[fresh.family] in said or file.name in said
            assert file.stem.split(".")[0].split("_gc")[0][:9] in said
    assert needed >= 2


def test_one_file_alone_says_whose_it_is(fresh, tmp_path_factory):
    lone = tmp_path_factory.mktemp("above") / "lone"
    lone.mkdir()
    shutil.copy(fresh.weights, lone)
    said = refused(lone)
    assert TITLES[fresh.family] in said
    assert "missing" in said or "has no" in said


def test_broken_settings_are_told_as_such(fresh):
    files = [p for p in fresh.root.rglob("*.json") if p.parent == fresh.path]
    if not files:
        pytest.skip("this family has no configuration beside its weights")
    for file in files:
        whole = file.read_bytes()
        for text in (whole[: len(whole) // 2], b"", b"[1, 2]", b"\xff\xfe"):
            file.write_bytes(text)
            said = refused(fresh.path)
            assert file.name in said
            assert "no family" not in said
            assert "JSON" in said
        if file.name in ("config.json", "args.json"):
            alone = fresh.root / "alone"
            alone.mkdir(exist_ok=True)
            shutil.copy(file, alone)
            said = refused(alone)
            assert f"{file.name} is not readable JSON" in said
            assert "no family" not in said
        file.write_bytes(whole)


def test_a_folder_above_the_checkpoint_points_below(every_written):
    for name in ("scgpt", "geneformer_v2", "transcriptformer"):
        made = every_written(name)
        assert f"The folder checkpoint in it looks like {TITLES[made.family]}" in refused(made.root)


def test_renamed_weights_are_found_where_nothing_else_can_be_meant(fresh, few):
    if fresh.family not in ("scgpt", "uce", "scfoundation", "scbert"):
        pytest.skip("this family's weights have one name")
    before = fresh.open()
    renamed = fresh.weights.rename(fresh.weights.with_name(f"mine{fresh.weights.suffix}"))
    for path in (fresh.path, renamed):
        after = sl.load_model(path, device="cpu", precision="float32", config=fresh.config or None)
        tokens = before.tokenize(few)
        np.testing.assert_array_equal(after.encode(tokens).cell, before.encode(tokens).cell)


@pytest.mark.parametrize("how", ["half", "bfloat16", "double", "legacy", "wrapped", "parallel"])
def test_weights_stored_in_other_ways_are_the_same_weights(fresh, few, how):
    if fresh.weights.suffix == ".safetensors":
        pytest.skip("Hugging Face stores them in one way")
    model = fresh.open()
    tokens = model.tokenize(few)
    before = model.encode(tokens).cell
    content = torch.load(fresh.weights, weights_only=True)  # noqa: TID251

    def each(value, change):
        if isinstance(value, dict):
            return {key: each(inner, change) for key, inner in value.items()}
        return change(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    if how in ("half", "bfloat16", "double"):
        content = each(content, lambda t: getattr(t, how)())
    elif how == "wrapped":
        if "model_state_dict" in content or "cell" in content:
            pytest.skip("it is wrapped as published")
        content = {"epoch": 3, "model_state_dict": content, "optimizer_state_dict": {"lr": 0.1}}
    elif how == "parallel":
        if "cell" in content:
            pytest.skip("its names are cut out of longer ones already")
        inner = content.get("model_state_dict", content)
        named = {f"module.{name}": tensor for name, tensor in inner.items()}
        content = {**content, "model_state_dict": named} if "model_state_dict" in content else named
    other = fresh.weights.with_name("other")
    torch.save(content, other, _use_new_zipfile_serialization=how != "legacy")
    other.replace(fresh.weights)
    for path in (fresh.path, fresh.weights):
        after = sl.load_model(path, device="cpu", precision="float32", config=fresh.config or None)
        tolerance = 0.2 if how in ("half", "bfloat16") else 1e-6
        np.testing.assert_allclose(after.encode(tokens).cell, before, atol=tolerance)


def test_weights_that_are_written_to_while_they_are_in_use_do_no_harm(fresh, few):
    model = fresh.open()
    tokens = model.tokenize(few)
    before = model.encode(tokens).cell
    fresh.weights.write_bytes(fresh.weights.read_bytes()[:-4000])
    if fresh.family in ("uce", "transcriptformer"):
        with pytest.raises(ModelError, match="was written to while the model was in use"):
            model.encode(tokens)
    else:
        np.testing.assert_array_equal(model.encode(tokens).cell, before)
