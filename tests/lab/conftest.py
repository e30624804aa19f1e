"""What the tests of scfm_lab share."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def plugins_folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which pip has installed the two example plugins, as a user would, but without a network."""
    folder = tmp_path_factory.mktemp("plugins")
    examples = [repository / "examples" / name for name in ("scfm-example-plugin", "scfm-broken-plugin")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder), *map(str, examples)], check=True)
    return folder


@pytest.fixture
def example_plugins(plugins_folder: Path) -> Iterator[Path]:
    """The two example plugins are installed for this process while the test runs."""
    from scfm_lab import plugins

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(plugins_folder))
        plugins.discover(refresh=True)
        yield plugins_folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("scfm_example", "scfm_broken"):
            del sys.modules[name]
    importlib.invalidate_caches()
    plugins.discover(refresh=True)
