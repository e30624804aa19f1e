"""The bench in a real browser on a page of its own: what a person does by hand, and what may go wrong around it.

The notebooks' tests (``test_bench.py``, ``test_hosts.py``) drive the whole way; here a page is open in a moment, so that
every corner can be looked at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from driven_bench import Host, hosting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData
    from driven_jupyter import Watch
    from playwright.sync_api import Browser, Page

    from scfm_widgets import Lab

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def host(repository: Path, private_home: Path) -> Iterator[Host]:
    """Serves benches of this process, whose registry is there already."""
    from scfm_registry import Registry

    assert private_home
    Registry().search()
    with hosting(repository / "widgets" / "scfm_widgets" / "static") as found:
        yield found


@pytest.fixture
def bench(host: Host, browser: Browser, watch: Watch) -> Iterator[Callable[..., tuple[Page, Lab]]]:
    """Opens a bench on a page; ends with no error of the page and no request elsewhere."""
    from scfm_widgets import Lab

    contexts: list[Any] = []
    labs: list[Lab] = []

    def open_bench(
        adata: AnnData, *, theme: str = "light", script: str = "", views: int = 1, **options: Any
    ) -> tuple[Page, Lab]:
        lab = Lab(adata, **options)
        labs.append(lab)
        context = browser.new_context(viewport={"width": 1280, "height": 730}, device_scale_factor=1)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        watch.follow(page)
        # The hints have a test of their own.
        page.add_init_script(script or "localStorage.setItem('scfm-lab.tour', '1')")
        page.goto(host.serve(lab, theme=theme, views=views))
        page.wait_for_selector(".scfm-lab")
        return page, lab

    host.delay, host.dead = 0.0, False
    yield open_bench
    for context in contexts:
        context.close()
    for lab in labs:
        lab.session.cancel()
        lab.close()
    assert watch.errors == []
    assert watch.foreign == []


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Few cells with counts and a plane, made in a moment."""
    return made(240)


def made(n: int, *, genes: int = 30) -> AnnData:
    """Cells in three heaps, with raw counts."""
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    group = np.arange(n) % 3
    names = ["CD3D", "LYZ", "MS4A1", "NKG7", HOSTILE, *(f"GENE{i}" for i in range(genes - 5))][:genes]
    counts = rng.poisson(1 + 4 * (np.arange(genes) % 3 == group[:, None])).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(group, ["T cell", HOSTILE, "B cell"]), "score": rng.random(n)},
        index=[f"cell{i}" for i in range(n)],
    )
    plane = np.array([[0, 0], [6, 0], [3, 5]])[group] + rng.normal(size=(n, 2))
    return ad.AnnData(
        sparse.csr_matrix(counts),
        obs=obs,
        var=pd.DataFrame(index=names),
        obsm={"X_umap": plane, "X_other": plane[:, ::-1] * [1, 0.5]},
    )


def plane(page: Page, nth: int = 0) -> Any:
    return page.locator(".sl-plane").nth(nth)


def settled(page: Page) -> None:
    page.wait_for_selector(".sl-plane canvas.sl-points")
    page.wait_for_timeout(350)


def lasso(page: Page, nth: int = 0, *, share: float = 0.5) -> None:
    """Draw a loop around the left part of a plane."""
    page.get_by_role("button", name="Select with a lasso (L)").click()
    box = plane(page, nth).bounding_box()
    assert box is not None
    corners = [(0.02, 0.02), (share, 0.02), (share, 0.97), (0.02, 0.97)]
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=3)
    page.mouse.up()


def test_a_selection_in_one_plane_is_the_selection_in_the_other(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    page, lab = bench(cells)
    settled(page)
    page.get_by_role("button", name="A second plane beside this one").click()
    page.locator(".sl-two canvas.sl-points").nth(1).wait_for()
    page.wait_for_timeout(300)
    second = plane(page, 1).screenshot()
    lasso(page, 0)
    page.locator(".sl-selected").wait_for()
    page.wait_for_timeout(400)
    assert plane(page, 1).screenshot() != second
    picked = lab.selection
    assert 0 < picked.sum() < 240
    # Taking away and adding, by button and by key.
    page.get_by_role("button", name=re.compile("^Take away")).click()
    lasso(page, 0)
    page.wait_for_timeout(300)
    assert lab.selection.sum() == 0
    page.keyboard.press("Control+z")
    page.wait_for_timeout(300)
    assert (lab.selection == picked).all()
    page.keyboard.press("Control+Shift+z")
    page.wait_for_timeout(300)
    assert lab.selection.sum() == 0
    page.locator(".scfm-lab").screenshot(path=pictures / "two-planes.png")


def test_a_brush_selects_what_it_touches(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells)
    settled(page)
    plane(page).locator("[role=application]").focus()
    page.keyboard.press("r")
    box = plane(page).bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] * 0.8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.8, steps=8)
    page.mouse.up()
    page.locator(".sl-selected").wait_for()
    page.wait_for_timeout(300)
    assert 0 < lab.selection.sum() < 120


def test_every_panel_opens_by_key_and_shows_hostile_names_as_text(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    page, lab = bench(cells, model="pca", theme="dark")
    settled(page)
    assert page.locator(".scfm-lab").get_attribute("data-theme") == "dark"
    page.get_by_role("tab", name="Models").focus()
    for name in ("Models", "Run", "Perturb", "Trajectory", "Genes", "Compare"):
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        page.wait_for_timeout(250)
        page.locator(".scfm-lab").screenshot(path=pictures / f"{name.lower()}-dark.png")
        page.keyboard.press("ArrowRight")
    page.get_by_role("combobox", name="Colour cells by a column or a gene").fill("img")
    page.get_by_role("option", name=re.compile("onerror")).first.click()
    page.wait_for_timeout(400)
    lab.session.fail(ValueError(HOSTILE), "test")
    page.locator(".sl-notice", has_text="onerror").wait_for()
    assert page.locator(".scfm-lab img[src=x]").count() == 0
    assert page.title() == "bench"
    # Whatever has the focus shows it.
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_code_methods_and_keys_open_and_close_by_key(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells)
    settled(page)
    for entry, words in (("Copy as code…", "lab = Lab(adata"), ("Methods and BibTeX…", "240 cells")):
        page.get_by_role("button", name=re.compile("^Share")).click()
        page.get_by_role("menuitem", name=entry).press("Enter")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox").wait_for()
        assert words in dialog.get_by_role("textbox").input_value()
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
    assert lab.code().startswith("import")
    plane(page).locator("[role=application]").focus()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()


def test_three_hints_come_once(
    bench: Callable[..., Any], cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    page, _ = bench(cells, script="0")
    for step in range(3):
        page.get_by_text(f"{step + 1} of 3").wait_for()
        page.get_by_role("button", name="Done" if step == 2 else "Next").click()
    page.wait_for_timeout(300)
    assert page.locator(".sl-tour").count() == 0
    page.reload()
    page.wait_for_selector(".scfm-lab")
    assert page.locator(".sl-tour").count() == 0
    again, _ = bench(cells, script="0")
    assert again.locator(".sl-tour").count() == 0


def test_pictures_are_saved_with_names_and_legend(bench: Callable[..., Any], cells: AnnData, tmp_path: Path) -> None:
    page, _ = bench(cells)
    settled(page)
    for entry, name in (("PNG, twice the size", "embedding.png"), ("SVG, to edit", "embedding.svg")):
        page.get_by_role("button", name="Save as a picture").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=entry).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    from PIL import Image

    with Image.open(tmp_path / "embedding.png") as picture:
        assert picture.width > 1600
        assert len(picture.convert("RGB").resize((200, 100)).getcolors(100_000)) > 20
    svg = (tmp_path / "embedding.svg").read_text()
    assert svg.count("h0") >= 240
    assert "T cell" in svg
    assert "<img" not in svg
    import xml.etree.ElementTree as ET

    ET.fromstring(svg)


NO_WEBGL = """localStorage.setItem('scfm-lab.tour', '1');
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind.startsWith("webgl") ? null : get.call(this, kind, ...more);
};"""


def test_without_webgl_the_raster_draws(bench: Callable[..., Any], cells: AnnData) -> None:
    page, _ = bench(cells, script=NO_WEBGL)
    settled(page)
    canvas = page.locator(".sl-canvas").first
    assert canvas.get_attribute("data-renderer") == "raster"
    assert "WebGL2" in (canvas.get_attribute("data-refused") or "")


def test_places_that_are_not_there_leave_the_others_where_they_are(bench: Callable[..., Any], cells: AnnData) -> None:
    holes = cells.copy()
    holes.obsm["X_umap"][::4] = np.nan
    holes.obs.loc[holes.obs_names[:9], "score"] = np.nan
    page, lab = bench(holes, colour="score")
    settled(page)
    page.get_by_text("9 cells without a value").wait_for()
    lasso(page, share=0.97)
    page.locator(".sl-selected").wait_for()
    page.wait_for_timeout(300)
    assert not lab.selection[::4].any()
    assert lab.selection.sum() > 100


def test_five_thousand_categories_can_be_searched(bench: Callable[..., Any]) -> None:
    many = made(10_000)
    many.obs["clone"] = [f"clone {i % 5000}" for i in range(10_000)]
    many.obs["clone"] = many.obs["clone"].astype("category")
    page, _ = bench(many, colour="clone")
    settled(page)
    page.get_by_role("searchbox", name="Find a group in the legend").fill("smaller")
    page.get_by_role("button", name=re.compile(r"4,747 smaller groups")).wait_for()


def test_a_kernel_that_dies_is_told_and_the_view_lives_on(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, _ = bench(cells, model="pca")
    settled(page)
    host.dead = True
    page.get_by_role("tab", name="Genes").click()
    page.get_by_role("combobox", name="Gene to look at").click()
    page.get_by_text("The kernel does not answer").wait_for(timeout=15_000)
    page.keyboard.press("Escape")
    # What needs no kernel goes on: the legend hides a group.
    before = plane(page).screenshot()
    page.get_by_role("button", name=re.compile(r"^B cell")).click()
    page.wait_for_timeout(400)
    assert plane(page).screenshot() != before


def test_two_views_of_one_bench_show_the_same(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells, views=2)
    settled(page)
    lab.state = {"colour": "LYZ"}
    for view in range(2):
        page.locator(".scfm-lab").nth(view).locator(".sl-legend-title", has_text="LYZ").wait_for()
