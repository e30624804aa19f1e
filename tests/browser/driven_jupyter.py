"""A real JupyterLab with a notebook, and a real browser that drives it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

#: Requests that leave no machine.
_INNER_SCHEMES = ("data", "blob", "file", "about", "chrome", "devtools")
_LOCAL_HOSTS = ("127.0.0.1", "localhost")
#: The cell that shows a bench.
SHOW = """\
import scfm_lab as sl
from scfm_widgets import Lab
adata = sl.datasets.load("pbmc68k")
lab = Lab(adata)
lab"""


@dataclass
class Watch:
    """What a page did that it should not have done."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Listen to a page's errors and requests."""
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack or ''}"))
        page.on("request", lambda request: self._judge(request.url))

    @property
    def errors_of_ours(self) -> list[str]:
        """Errors out of the module that a host has loaded for the widget; hosts have errors of their own, when they like."""
        return [error for error in self.errors if any(place in error for place in ("blob:", "/@file/", "data:text"))]

    def _judge(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _INNER_SCHEMES and parts.hostname not in _LOCAL_HOSTS:
            self.foreign.append(url)


@dataclass(frozen=True)
class Server:
    """A running JupyterLab.

    Its notebooks have one kernel, so that what is imported once is there for all of them.
    """

    url: str
    folder: Path
    _kernels: list[str] = field(default_factory=list)

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook, join it to the kernel, and return its address."""
        import nbformat

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.folder / f"{name}.ipynb")
        if not self._kernels:
            self._kernels.append(self._post("kernels", {"name": "python3"})["id"])
        kernel = {"id": self._kernels[0]}
        self._post("sessions", {"path": f"{name}.ipynb", "type": "notebook", "name": name, "kernel": kernel})
        return self.address(name)

    def address(self, name: str) -> str:
        """Where a notebook of the folder is opened."""
        return f"{self.url}/lab/tree/{name}.ipynb?reset"

    def _post(self, what: str, content: dict[str, Any]) -> dict[str, Any]:
        body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/api/{what}", body, kind)) as answer:
            made: dict[str, Any] = json.load(answer)
        return made


@contextlib.contextmanager
def serve(folder: Path, home: Path) -> Iterator[Server]:
    """Start JupyterLab on a free port of this machine, without login, and stop it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "SCFM_HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_DATA_DIR": str(folder / ".data"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
    }
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"checkForUpdates": False, "doNotDisturbMode": True, "fetchNews": "false"})
    )
    options = (
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.news_url=None",
        f"--ServerApp.root_dir={folder}",
    )
    log = (folder / "jupyter.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(url, process, folder / "jupyter.log")
        yield Server(url, folder)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        log.close()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab stopped:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/api").close()
            return
        time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not answer:\n{log.read_text()[-2000:]}")


def open_notebook(page: Page, address: str) -> None:
    """Open a notebook and wait until its kernel can be asked."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.add_locator_handler(page.locator(".jp-Dialog"), lambda: page.locator(".jp-Dialog .jp-mod-accept").click())
    page.wait_for_function(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", timeout=90_000
    )


def run_cell(page: Page, number: int) -> None:
    """Run a cell by its number."""
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").nth(number).click()
    page.keyboard.press("Control+Enter")


def output_text(page: Page, number: int) -> str:
    """Text that a cell printed."""
    return re.sub(
        r"\s+", " ", page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-OutputArea").inner_text()
    )


def tab(page: Page, name: str) -> None:
    """Open a panel of the bench."""
    page.locator(".scfm-lab").get_by_role("tab", name=name, exact=True).click()


def pick_model(page: Page, name: str) -> None:
    """Pick a model in its panel."""
    tab(page, "Models")
    page.get_by_role("radio", name=re.compile(rf"^{name}\b")).click()
