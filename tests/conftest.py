"""What every test shares: a private home, the bundled cells, and the way to data that lies beside the repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parents[1]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ON_MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
#: WebGL in software, so that the tests see the same backend on every machine; nothing is fetched in the background.
BROWSER_FLAGS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with something slow come first: a long test that starts last would keep the other cores waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _beside(variable: str, folder: str) -> Path | None:
    """Folder named by an environment variable, else the one beside the repository, else None."""
    named = os.environ.get(variable)
    path = Path(named) if named else REPOSITORY.parent / "shared" / folder
    return path if path.is_dir() else None


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nobody's own registry is read or written by a test, and named datasets come from the local mirror."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCFM_HOME", str(home))
        patch.setenv("MPLBACKEND", "Agg")
        # Tests mean what they compute; those of the cache switch it on.
        patch.setenv("SCFM_CACHE_GB", "0")
        data = _beside("SCFM_DATA", "data")
        if data is not None:
            patch.setenv("SCFM_DATA", str(data))
        yield home


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the named datasets."""
    path = _beside("SCFM_DATA", "data")
    if path is None:
        pytest.skip("needs the named datasets: set SCFM_DATA to their folder (they are not in this checkout)")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference outputs of published models."""
    path = _beside("SCFM_GOLDEN", "golden")
    if path is None:
        pytest.skip("needs the reference outputs: set SCFM_GOLDEN to their folder (they are not in this checkout)")
    return path


@pytest.fixture(scope="session")
def _pbmc68k() -> AnnData:
    import scfm_lab as sl

    return sl.datasets.load("pbmc68k")


@pytest.fixture
def pbmc68k(_pbmc68k: AnnData) -> AnnData:
    """The 700 bundled cells, a fresh copy for each test."""
    return _pbmc68k.copy()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium that can be driven."""
    named = os.environ.get("SCFM_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None and CHROMIUM_ON_MACOS.exists():
        found = str(CHROMIUM_ON_MACOS)
    if found is None:
        pytest.skip("needs Chromium: install the package chromium, or set SCFM_CHROMIUM to its path")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A real Chromium, closed before the next module: playwright allows one plain interface at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER_FLAGS))
        yield found
        found.close()
