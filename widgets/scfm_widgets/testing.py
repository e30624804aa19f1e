"""The kit behind :func:`scfm_lab.testing.check_panel`: opens a panel in a real session and mounts it in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.testing import Fault, NotApplicable, Report, run_checks
from scfm_widgets.lab import Lab
from scfm_widgets.panels import SESSION_API, PanelRow, open_panels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

_KIT = Path(__file__).with_name("panel_kit.js")
_PAGE = "http://localhost/panel-kit"
_REPLY_SECONDS = 60.0
_MOUNTS = 10
#: Milliseconds in which a panel has to show something.
_DRAWN_WITHIN_MS = 10_000
# Names of XML namespaces are no addresses that anything is fetched from.
_ADDRESS = re.compile(r"(?:https?|wss?):(?:\\?/){2}(?!www\.w3\.org/)[^\s\"'`)<>]+|url\(\s*[\"']?//[^)]+", re.IGNORECASE)
_IMPORT = re.compile(
    r"^\s*(?:import|export)\b[^;\n]*?\bfrom\s*[\"'][^\"']+[\"']|^\s*import\s*[\"'][^\"']+[\"']|\bimport\s*\(", re.M
)


class _Given:
    """A factory dressed as the contribution that the bench opens."""

    plugin = "the plugin under test"

    def __init__(self, name: str, factory: Callable[..., Any]) -> None:
        self.id, self.name, self._factory = name, name.rpartition(".")[2], factory
        self.data: dict[str, Any] = {}

    def load(self) -> Callable[..., Any]:
        return self._factory


def check_panel(
    subject: str, factory: Callable[..., Any], *, adata: AnnData | None = None, browser: Any = None
) -> Report:
    """Run the checks; see :func:`scfm_lab.testing.check_panel`."""
    if adata is None:
        from scfm_lab import datasets

        adata = datasets.load("pbmc68k")
    lab = Lab(adata)
    try:
        checks = _PanelChecks(_Given(subject, factory), lab, browser)
        return run_checks(subject, checks.all())
    finally:
        # A bench begins to read its registry at once; that ends before the bench does.
        lab.wait(_REPLY_SECONDS)
        lab.close()


class _PanelChecks:
    """One factory, a bench to open it in, and the checks as methods."""

    def __init__(self, given: _Given, lab: Lab, browser: Any) -> None:
        self.given, self.lab, self.browser = given, lab, browser
        self.row: PanelRow | None = None
        self.before = self._seen()

    def all(self) -> list[tuple[str, Callable[[], str | None]]]:
        """The checks by name, in order: later ones use what the first opens."""
        return [
            ("it opens", self.opens),
            ("opening changes nothing", self.changes_nothing),
            ("two benches have a panel each", self.two),
            ("no address of another host", self.no_address),
            ("no imports", self.no_imports),
            ("a message that it does not know", self.unknown_message),
            ("it can be mounted and unmounted in a browser", self.mounts),
        ]

    @property
    def opened(self) -> PanelRow:
        if self.row is None or self.row.panel is None:
            raise NotApplicable("it does not open")
        return self.row

    @property
    def esm(self) -> str:
        if self.opened.esm is None:
            raise NotApplicable("its face is part of the bench's own bundle")
        return self.opened.esm

    def open(self) -> PanelRow:
        return open_panels(self.lab.session, [self.given])[0]  # type: ignore[list-item]

    # ------------------------------------------------------------------------------------ in Python

    def opens(self) -> str:
        self.row = self.open()
        if self.row.error:
            raise Fault(self.row.error)
        for name in ("esm", "css", "component"):
            if not isinstance(getattr(self.row, name), str | None):
                raise Fault(f"its {name} must be a text or a path, it is {type(getattr(self.row, name)).__name__}")
        if not self.row.title.strip():
            raise Fault("it has no title")
        return self.row.title

    def changes_nothing(self) -> None:
        assert self.opened
        for (what, old), new in zip(self.before.items(), self._seen().values(), strict=True):
            if old != new:
                raise Fault(f"{what} is not what it was before the panel was opened")

    def _seen(self) -> dict[str, str]:
        adata, session = self.lab.adata, self.lab.session
        data = getattr(adata.X, "data", adata.X)
        return {
            "adata.X": str(hash(np.ascontiguousarray(data).tobytes())),
            "adata.obs": str([*adata.obs]),
            "adata.var": str([*adata.var]),
            "adata.obsm": str([*adata.obsm]),
            "adata.uns": str([*adata.uns]),
            "adata.layers": str([*adata.layers]),
            "session.doses": json.dumps(session.doses),
            "session.state": json.dumps(session.state, default=str),
            "session.selection": str(session.selection.tobytes()),
        }

    def two(self) -> None:
        if self.open().panel is self.opened.panel:
            raise Fault("the factory gives the same object twice; each bench needs one of its own")

    def no_address(self) -> None:
        found = [address for text in (self.esm, self.opened.css or "") for address in _ADDRESS.findall(text)]
        if found:
            raise Fault(f"it names {', '.join(sorted(set(found))[:3])}; the bench works offline, so bring it along")

    def no_imports(self) -> None:
        found = _IMPORT.search(self.esm)
        if found:
            raise Fault(f"the module imports something ({found.group(0).strip()[:60]}); bundle it into one module")

    def unknown_message(self) -> str:
        if not callable(getattr(self.opened.panel, "handle", None)):
            raise NotApplicable("it answers no messages")
        reply = self.answer({"of": "no such question", "type": "no such question"})
        return f"it says: {reply['error']}" if reply.get("error") else "it answers"

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer as the bench does: content and buffers, or an error in words."""
        try:
            reply = self.opened.panel.handle(message)
            if isinstance(reply, Future):
                reply = reply.result(timeout=_REPLY_SECONDS)
        # Whatever a panel raises is told in words, here as in the bench.
        except Exception as error:  # noqa: BLE001
            return {"error": str(error) or type(error).__name__}
        content, buffers = reply if isinstance(reply, tuple) else (reply, [])
        try:
            json.dumps(content)
        except (TypeError, ValueError) as error:
            raise Fault(f"its reply to {message} is no JSON: {error}") from error
        return {"content": content, "buffers": [base64.b64encode(bytes(item)).decode() for item in buffers]}

    # ------------------------------------------------------------------------------- in the browser

    def mounts(self) -> str:
        assert self.esm
        if self.browser is False:
            raise NotApplicable("asked not to")
        if self.browser is not None and self.browser is not True:
            return self._mount(self.browser)
        path = _browser_path()
        if path is None:
            missing = "playwright and a Chromium are needed: pip install playwright, and install Chromium"
            if self.browser:
                raise Fault(missing)
            raise NotApplicable(missing)
        outcome: list[BaseException | str] = []

        def work() -> None:
            try:
                outcome.append(self._mount_in_new(path))
            except BaseException as error:  # noqa: BLE001 - handed on to the thread that asked
                outcome.append(error)

        # In a thread of its own: playwright's plain interface refuses to run where an event loop does, as in a notebook.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _mount_in_new(self, path: str) -> str:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            try:
                return self._mount(browser)
            finally:
                browser.close()

    def _mount(self, browser: Any) -> str:
        from playwright.sync_api import Error

        trouble: list[str] = []
        replies: list[Fault] = []
        page = browser.new_page()
        page.route("**/*", lambda route: self._serve(route, trouble))
        page.on("pageerror", lambda error: trouble.append(f"an error in the page: {error.message}"))
        page.on("console", lambda line: trouble.append(f"console: {line.text}") if line.type == "error" else None)
        page.expose_function("kitSend", lambda message: self._reply(message, replies))
        try:
            page.goto(_PAGE)
            for step in self._steps():
                page.evaluate(*step)
            page.wait_for_function("() => kit.drawn()", timeout=_DRAWN_WITHIN_MS)
            page.evaluate("async () => { await kit.disturb(); await kit.unmount() }")
            before = page.evaluate("() => kit.surroundings()")
            page.evaluate(
                f"async () => {{ for (let i = 0; i < {_MOUNTS}; i++) {{ await kit.mount(); await kit.unmount() }} }}"
            )
            after = page.evaluate("() => kit.surroundings()")
        except Error as error:
            raise Fault(f"{error.message.splitlines()[0]}; {'; '.join(trouble)}".rstrip("; ")) from error
        finally:
            page.close()
        if replies:
            raise replies[0]
        if trouble:
            raise Fault("; ".join(dict.fromkeys(trouble)))
        for what, count in before.items():
            if after[what] != count:
                raise Fault(
                    f"mounting and unmounting it {_MOUNTS} times leaves {after[what] - count} {what} in the page"
                )
        return f"{_MOUNTS + 1} times"

    def _steps(self) -> Iterator[tuple[str, Any]]:
        session, lab = self.lab.session, self.lab
        plane = np.zeros((lab.adata.n_obs, 2)) if session.layout is None else lab.adata.obsm[session.layout][:, :2]
        span = np.ptp(plane, axis=0).max() or 1.0
        given = {
            "esm": self.esm,
            "version": SESSION_API,
            "values": {
                "n": lab.adata.n_obs,
                "state": dict(session.state),
                "doses": dict(session.doses),
                "selection": session.selection.astype(int).tolist(),
                "positions": ((plane - plane.min(axis=0)) / span).ravel().round(5).tolist(),
                "model": session.state.get("model"),
                "job": None,
            },
        }
        load = (
            "async ({ code, given }) => {"
            " const url = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));"
            " window.kit = (await import(url)).kit(given, kitSend); }"
        )
        yield load, {"code": _KIT.read_text(encoding="utf-8"), "given": given}
        if self.opened.css:
            yield (
                "css => document.head.append(Object.assign(document.createElement('style'), { textContent: css }))",
                self.opened.css,
            )
        yield "() => kit.mount()", None

    def _reply(self, message: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
        try:
            return self.answer(message)
        except Fault as fault:
            faults.append(fault)
            return {"error": str(fault)}

    @staticmethod
    def _serve(route: Any, trouble: list[str]) -> None:
        url = route.request.url
        if url == _PAGE:
            route.fulfill(body="<!doctype html><title>panel</title>", content_type="text/html")
        elif url.startswith(("blob:", "data:")):
            route.continue_()
        else:
            # Browsers ask for a page's icon by themselves.
            if not url.endswith("/favicon.ico"):
                trouble.append(f"it asked for {url}; the bench works offline")
            route.abort()


def _browser_path() -> str | None:
    """Path of a Chromium that playwright can drive, or ``None``."""
    if find_spec("playwright") is None:
        return None
    named = os.environ.get("SCFM_CHROMIUM")
    if named:
        return named
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    return str(mac) if mac.exists() else None
