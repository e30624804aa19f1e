"""The kit for panels finds what is wrong with one, in Python and in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.testing import CheckFailed, check_panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

BROWSER = "it can be mounted and unmounted in a browser"
DRAWS = "export function render({ session, el }) { el.textContent = session.get('n') + ' cells'; }"


class Right:
    """Says how many cells there are, and how many are selected."""

    title = "Right"
    esm = """
    export function render({ session, el }) {
      const show = async () => {
        const { content } = await session.send({ of: "selection" });
        el.textContent = `${content.n} of ${session.get("n")}, ${session.theme}`;
      };
      show();
      return session.on("selection", show);
    }
    """

    def __init__(self, session: Any) -> None:
        self.session = session

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("of") != "selection":
            raise ValueError("ask for the selection")
        return {"n": int(self.session.selection.sum())}


def panel(esm: str | None = DRAWS, **attributes: Any) -> Callable[[Any], Any]:
    """A factory of panels with this face."""

    def factory(session: Any) -> Any:
        made = type("Made", (), {"title": "Made", "esm": esm, **attributes})()
        made.session = session
        return made

    return factory


def failures(factory: Callable[[Any], Any], **options: Any) -> dict[str, str]:
    with pytest.raises(CheckFailed) as caught:
        check_panel(factory, **options)
    return {check.name: check.detail for check in caught.value.report.failed}


@pytest.fixture
def few(pbmc68k: AnnData) -> AnnData:
    return pbmc68k[:40].copy()


def raises(session: Any) -> Any:
    raise RuntimeError("no licence found")


class WritesIntoTheCells:
    title = "Writes"
    esm = DRAWS

    def __init__(self, session: Any) -> None:
        session.adata.obs["seen"] = 1


class TurnsDoses:
    title = "Turns"
    esm = DRAWS

    def __init__(self, session: Any) -> None:
        session.state = {"labels": not session.state["labels"]}


ONE = panel()(None)


@pytest.mark.parametrize(
    ("factory", "check", "said"),
    [
        pytest.param(raises, "it opens", "RuntimeError: no licence found", id="raises"),
        pytest.param(panel(None), "it opens", "has no face", id="no face"),
        pytest.param(panel(7), "it opens", "its esm must be a text or a path, it is int", id="face of a number"),
        pytest.param(WritesIntoTheCells, "opening changes nothing", "adata.obs", id="writes into the cells"),
        pytest.param(TurnsDoses, "opening changes nothing", "session.state", id="changes the state"),
        pytest.param(lambda session: ONE, "two benches have a panel each", "the same object twice", id="one object"),
        pytest.param(
            panel(DRAWS + "\nfetch('https://cdn.example.org/d3.js')"),
            "no address of another host",
            "cdn.example.org",
            id="CDN",
        ),
        pytest.param(
            panel(css="@font-face { src: url(//fonts.example.org/a.woff) }"),
            "no address of another host",
            "fonts",
            id="font",
        ),
        pytest.param(
            panel("import * as d3 from 'd3';\n" + DRAWS), "no imports", "import * as d3 from 'd3'", id="import"
        ),
        pytest.param(panel("const d3 = await import('d3');\n" + DRAWS), "no imports", "import(", id="dynamic import"),
        pytest.param(
            panel(handle=lambda self, message: {"n": {1, 2}}),
            "a message that it does not know",
            "is no JSON",
            id="no JSON",
        ),
    ],
)
def test_faults_that_need_no_browser(few, factory, check, said):
    found = failures(factory, adata=few, browser=False)
    assert said in found[check]


def test_addresses_of_namespaces_are_no_addresses(few):
    drawing = (
        "export function render({ el }) { el.append(document.createElementNS('http://www.w3.org/2000/svg', 'svg')); }"
    )
    assert check_panel(panel(drawing), adata=few, browser=False).passed


def test_a_right_panel_passes(few, chromium, monkeypatch):
    monkeypatch.setenv("SCFM_CHROMIUM", chromium)
    report = check_panel(Right, adata=few, browser=True)
    assert {check.name: check.state for check in report.checks} == dict.fromkeys(
        [check.name for check in report.checks], "passed"
    )
    assert next(check.detail for check in report.checks if "message" in check.name) == "it says: ask for the selection"


@pytest.mark.parametrize(
    ("esm", "said"),
    [
        pytest.param("export const other = 1;", "exports no render function", id="no render"),
        pytest.param("export function render(", "SyntaxError", id="syntax"),
        pytest.param("export function render() { throw new Error('no canvas'); }", "no canvas", id="render throws"),
        pytest.param(
            "export function render({ el }) { el.textContent = 'x'; return 7; }",
            "returned a number",
            id="returns a number",
        ),
        pytest.param("export function render() {}", "Timeout", id="shows nothing"),
        pytest.param(
            DRAWS.replace("el.textContent", "window['x' + Math.random()] = 1; el.textContent"),
            "10 globals",
            id="globals",
        ),
        pytest.param(
            DRAWS.replace("el.textContent", "document.body.append(document.createElement('div')); el.textContent"),
            "10 elements",
            id="leaves elements",
        ),
        pytest.param(
            DRAWS.replace("; }", "; session.on('theme', () => { throw new Error('dark'); }); }"),
            "dark",
            id="throws later",
        ),
        pytest.param(
            DRAWS.replace("; }", "; return () => { throw new Error('stuck'); }; }"), "stuck", id="cleanup throws"
        ),
        pytest.param(
            DRAWS.replace("el.textContent", "fetch('ht' + 'tps://cdn.example.org/x').catch(() => 0); el.textContent"),
            "it asked for https://cdn.example.org/x",
            id="hidden request",
        ),
        pytest.param(DRAWS.replace("; }", "; session.get('secrets'); }"), "session has no", id="unknown name"),
    ],
)
def test_faults_that_a_browser_finds(few, browser, monkeypatch, esm, said):
    if said == "Timeout":
        monkeypatch.setattr("scfm_widgets.testing._DRAWN_WITHIN_MS", 500)
    found = failures(panel(esm), adata=few, browser=browser)
    assert browser.contexts == [], "the browser is left as it was"
    assert list(found) == [BROWSER]
    assert said in found[BROWSER]


def test_our_own_panels_pass(few):
    from scfm_lab import plugins

    for contribution in plugins.discover(refresh=True).contributions("panels"):
        if contribution.plugin == "scfm-widgets":
            assert check_panel(contribution.id, adata=few).passed
