"""The bench in the notebooks that people use beside JupyterLab: Notebook 7 and marimo; and a notebook without its kernel."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from driven_jupyter import open_notebook, run_cell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from driven_jupyter import Server, Watch
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SHOW = """\
import scfm_lab as sl
from scfm_widgets import Lab
adata = sl.datasets.load("pbmc68k")
lab = Lab(adata, model="pca")
lab"""


def try_out(page: Page) -> None:
    """Colour by a gene, hide a group, go to another tab: the wire works both ways."""
    page.wait_for_selector(".scfm-lab .sl-plane canvas.sl-points", timeout=120_000)
    hints = page.get_by_role("button", name="No hints")
    if hints.count():
        hints.click()
    box = page.get_by_role("combobox", name="Colour cells by a column or a gene")
    box.click()
    box.fill("LYZ")
    page.get_by_role("option", name=re.compile("^LYZ")).first.click(timeout=60_000)
    page.locator(".sl-legend-title", has_text="LYZ").wait_for(timeout=60_000)
    page.locator(".scfm-lab").get_by_role("tab", name="Genes").click()
    page.get_by_role("combobox", name="Gene to look at").wait_for()
    # What is selected is known to Python before it is asked about it.
    page.locator(".scfm-lab .sl-plane [role=application]").focus()
    page.keyboard.press("a")
    page.locator(".sl-selected", has_text="700").wait_for()
    page.get_by_role("button", name=re.compile("^Share")).click()
    page.get_by_role("menuitem", name="Copy as code…").press("Enter")
    text = page.get_by_role("dialog").get_by_role("textbox")
    text.wait_for(timeout=60_000)
    assert "# the 700 cells that are selected" in text.input_value()
    page.keyboard.press("Escape")


@pytest.mark.skipif(find_spec("notebook") is None, reason="needs the package notebook")
def test_notebook_7(jupyter: Server, page: Page, watch: Watch, pictures: Path) -> None:
    address = jupyter.notebook("seven", SHOW).replace("/lab/tree/", "/notebooks/").replace("?reset", "")
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", timeout=90_000
    )
    run_cell(page, 0)
    try_out(page)
    page.locator(".scfm-lab").screenshot(path=pictures / "notebook7.png")
    assert watch.errors_of_ours == []
    assert watch.foreign == []


@contextlib.contextmanager
def marimo(folder: Path, home: Path) -> Iterator[str]:
    """Serve a marimo app with a bench."""
    lines = "\n".join(f"    {line}" for line in SHOW.splitlines()[:-1])
    (folder / "app.py").write_text(
        f"import marimo\n\napp = marimo.App(width='full')\n\n\n@app.cell\ndef _():\n{lines}\n    lab\n    return\n\n\n"
        'if __name__ == "__main__":\n    app.run()\n'
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "--quiet", "run", "app.py", "--headless", "--no-token", f"--port={port}"]
    environment = {**os.environ, "SCFM_HOME": str(home), "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    log = (folder / "marimo.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.25)
        else:
            raise RuntimeError(f"marimo did not answer:\n{(folder / 'marimo.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        log.close()


@pytest.mark.skipif(find_spec("marimo") is None, reason="needs the package marimo")
def test_marimo(chromium: str, page: Page, watch: Watch, tmp_path: Path, private_home: Path, pictures: Path) -> None:
    with marimo(tmp_path, private_home) as address:
        page.goto(address)
        try_out(page)
        page.locator(".scfm-lab").screenshot(path=pictures / "marimo.png")
    # What marimo itself asks of the network is its own; the bench's page asks nobody.
    assert watch.errors_of_ours == []


def test_a_notebook_that_is_opened_again_shows_a_picture(jupyter: Server, page: Page, pictures: Path) -> None:
    open_notebook(page, jupyter.notebook("again", SHOW, "lab.state = {'colour': 'LYZ'}"))
    page.keyboard.press("Control+b")
    run_cell(page, 0)
    page.wait_for_selector(".scfm-lab .sl-plane canvas.sl-points", timeout=120_000)
    # While the bench lives its picture is not in the way, and follows what it shows.
    still = page.locator(".scfm-still img")
    still.wait_for(state="attached")
    assert not still.is_visible()
    first = still.get_attribute("src")
    run_cell(page, 1)
    page.wait_for_function("was => document.querySelector('.scfm-still img')?.src !== was", arg=first)
    assert not still.is_visible()
    # Also from within the bench the notebook is saved: keys that the bench has no use for are the notebook's.
    page.locator(".scfm-lab [role=application]").focus()
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "again.ipynb" in answer.url):
        page.keyboard.press("Control+s")
    # The same file where no kernel knows the bench.
    shutil.copy(jupyter.folder / "again.ipynb", jupyter.folder / "later.ipynb")
    page.goto(jupyter.address("later"))
    still.wait_for(state="visible", timeout=60_000)
    assert still.evaluate("image => image.naturalWidth") > 400
    assert still.get_attribute("src") != first
    # Below it stands how to come back.
    page.locator(".scfm-still summary").click()
    assert "'name': 'LYZ'" in page.locator(".scfm-still pre").inner_text()
    page.screenshot(path=pictures / "again.png")
