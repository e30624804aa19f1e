"""Fixtures of the browser tests: one JupyterLab, one browser, a page for each test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from driven_jupyter import Server, Watch, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def jupyter(chromium: str, tmp_path_factory: pytest.TempPathFactory, private_home: Path) -> Iterator[Server]:
    """A real JupyterLab."""
    with serve(tmp_path_factory.mktemp("jupyter"), private_home) as server:
        yield server


@pytest.fixture
def watch() -> Watch:
    """Errors and foreign requests of the pages of a test."""
    return Watch()


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    """A fresh page whose errors and requests are watched."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, device_scale_factor=1)
    page = context.new_page()
    page.set_default_timeout(60_000)
    watch.follow(page)
    yield page
    context.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: the folder that SCFM_SCREENSHOTS names, or a temporary one."""
    named = os.environ.get("SCFM_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
