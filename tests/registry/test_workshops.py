"""What a killed process leaves goes at once, what somebody works in stays, and nobody judges another machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from scfm_registry import workshops
from scfm_registry.files import workshop

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DIES = """
import os, signal, sys
from pathlib import Path
from scfm_registry import workshops
with workshops.opened(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _left_by_a_killed_process(parent: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", DIES, str(parent)], check=False, timeout=60)
    assert done.returncode == -9
    [folder] = [path for path in parent.glob(".incoming-*") if path.is_dir()]
    assert (folder / "model.safetensors").exists()
    return folder


def test_a_dead_processs_folder_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    left = _left_by_a_killed_process(tmp_path)
    with workshop(tmp_path) as first:
        assert not left.exists()
        (first / "weights").write_bytes(b"x")
        os.utime(first, (0, 0))
        with workshop(tmp_path) as second:
            workshops.clear(tmp_path)
            assert (first / "weights").exists(), "somebody works in it, however old it is"
            assert second.exists()
            second.rename(tmp_path / "done")
    assert [path.name for path in tmp_path.iterdir()] == ["done"], "no folder and no lock is left"


def test_another_machines_folder_is_left_until_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = _left_by_a_killed_process(tmp_path)
    monkeypatch.setattr(workshops, "_system", lambda: "another")
    workshops.clear(tmp_path)
    assert left.exists(), "over a shared disk nothing is known of its locks"
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    workshops.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_now_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As over NFS, where a file that somebody reads stays until he is done.
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with workshop(tmp_path) as folder:
            (folder / "weights").write_bytes(b"x")
        with workshop(tmp_path):
            assert folder.exists()
    assert len(list(tmp_path.glob("*.lock"))) == 2, "each says that nobody is in its folder"
    workshops.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with workshop(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name], (
            "no lock that would say that nobody is there"
        )
        workshops.clear(tmp_path)
        assert folder.exists()
    assert list(tmp_path.iterdir()) == []
