"""An editable install leads to the checkout, and to nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_an_editable_install_holds_no_folder_that_hides_the_checkout(repository: Path, tmp_path: Path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(tmp_path), "--editable", str(repository)], check=True)
    assert (tmp_path / "_editable_impl_scfm_lab.pth").is_file()
    packages = [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name.isidentifier()]
    assert [name for name in packages if name.startswith("scfm")] == []
