"""Set-up says in one sentence what it lacks."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def setup(repository: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up script; the environment it would make goes where `extra` says."""
    return subprocess.run(
        ["sh", str(repository / "scripts/setup.sh"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **extra},
    )


def test_an_interpreter_that_does_not_start_is_named(repository: Path, tmp_path: Path) -> None:
    missing = tmp_path / "python3"
    result = setup(repository, "base", PYTHON=str(missing), SCFM_VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert result.stderr == (
        f"make: PYTHON={missing} does not start or is older than 3.11; name one that is 3.11 or newer.\n"
    )
    assert not (tmp_path / "venv").exists()


def test_a_machine_without_python_is_told_what_to_do(repository: Path, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "dirname", "cat", "sed", "sort", "tail"):
        (commands / name).symlink_to(
            next(path for path in ("/bin/" + name, "/usr/bin/" + name) if os.path.exists(path))
        )
    result = setup(repository, "base", PATH=str(commands), PYTHON="", SCFM_VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert result.stderr.startswith("make: no Python 3.11 or newer was found")
    assert not (tmp_path / "venv").exists()


def test_an_unknown_kind_is_a_usage_error(repository: Path) -> None:
    result = setup(repository, "everything")
    assert result.returncode == 2
    assert "base, lab or all" in result.stderr


def test_missing_system_packages_are_named_where_they_cannot_be_installed(repository: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        ["/bin/sh", str(repository / "scripts/system-packages.sh"), "chromium", "fonts-dejavu-core"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "chromium fonts-dejavu-core" in result.stderr
