"""The bench in a real browser on a page of its own: what a person does by hand, and what may go wrong around it.

The notebooks' tests (``test_bench.py``, ``test_hosts.py``) drive the whole way; here a page is open in a moment, so that
every corner can be looked at.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from driven_bench import Host, hosting
from looking import arrived, other_than, same_as, steady

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
    host.received.clear()
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


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Let the page and this process go on until something is so."""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it does not come about")


def selected(page: Page, lab: Lab, judge: Callable[[int], bool]) -> Any:
    """The selection as Python has it, once as many cells are selected as should be."""
    until(page, lambda: judge(int(lab.selection.sum())))
    return lab.selection


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
    second = steady(plane(page, 1))
    lasso(page, 0)
    page.locator(".sl-selected").wait_for()
    other_than(plane(page, 1), second)
    picked = selected(page, lab, lambda n: 0 < n < 240)
    # Taking away and adding, by button and by key.
    page.get_by_role("button", name=re.compile("^Take away")).click()
    lasso(page, 0)
    selected(page, lab, lambda n: n == 0)
    page.keyboard.press("Control+z")
    assert (selected(page, lab, lambda n: n > 0) == picked).all()
    page.keyboard.press("Control+Shift+z")
    selected(page, lab, lambda n: n == 0)
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
    selected(page, lab, lambda n: 0 < n < 120)


def test_every_panel_opens_by_key_and_shows_hostile_names_as_text(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    page, lab = bench(cells, model="pca", theme="dark")
    settled(page)
    assert page.locator(".scfm-lab").get_attribute("data-theme") == "dark"
    page.get_by_role("tab", name="Models").focus()
    for name in ("Models", "Run", "Perturb", "Trajectory", "Genes", "Compare"):
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        page.locator(".scfm-lab").screenshot(path=pictures / f"{name.lower()}-dark.png")
        page.keyboard.press("ArrowRight")
    page.get_by_role("combobox", name="Colour cells by a column or a gene").fill("img")
    page.get_by_role("option", name=re.compile("onerror")).first.click()
    page.locator(".sl-legend-title", has_text="onerror").wait_for()
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
    page.context.grant_permissions(["clipboard-read"])
    for entry, words in (("Copy as code…", "lab = Lab(adata"), ("Methods and BibTeX…", "240 cells")):
        page.get_by_role("button", name=re.compile("^Share")).click()
        page.get_by_role("menuitem", name=entry).press("Enter")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox").wait_for()
        text = dialog.get_by_role("textbox").input_value()
        assert words in text
        dialog.get_by_role("button", name="Copy", exact=True).click()
        dialog.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()").replace("\r", "") == text
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
    assert lab.code().startswith("import")
    plane(page).locator("[role=application]").focus()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()


def test_cells_are_selected_by_key_alone(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells)
    settled(page)
    plane(page).locator("[role=application]").focus()
    page.keyboard.press("a")
    selected(page, lab, lambda n: n == 240)
    page.keyboard.press("i")
    selected(page, lab, lambda n: n == 0)
    group = page.get_by_role("button", name=re.compile(r"^T cell"))
    group.focus()
    page.keyboard.press("s")
    picked = selected(page, lab, lambda n: n > 0)
    assert (picked == (cells.obs["cell_type"] == "T cell")).all()
    page.get_by_role("button", name=re.compile(r"^B cell")).focus()
    page.keyboard.press("Shift+S")
    selected(page, lab, lambda n: n == 160)
    page.keyboard.press("Alt+s")
    assert (selected(page, lab, lambda n: n == 80) == picked).all()
    # What is hidden is not selected with all that is shown; Enter hides.
    group.press("Enter")
    page.get_by_role("button", name="Clear", exact=True).press("Enter")
    page.get_by_role("button", name="Select all").press("Enter")
    assert not selected(page, lab, lambda n: n == 160)[picked].any()


def test_keys_go_from_cell_to_cell_and_read_and_select_them(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    page, lab = bench(cells, colour="cell_type")
    settled(page)
    before = steady(plane(page))
    plane(page).locator("[role=application]").focus()
    heard = plane(page).locator("p[aria-live=polite]")

    def cell(words: str) -> int:
        """The row of the cell that is read out, once that has been said."""
        said = heard.filter(has_text=re.compile(rf"^{words}$"))
        said.wait_for(state="attached")
        return int(said.text_content().partition("cell")[2].partition(",")[0])

    at = cells.obsm["X_umap"]
    page.keyboard.press("c")
    first = cell(r"cell\d+, cell_type .*, not selected")
    other_than(plane(page), before)
    page.keyboard.press("Space")
    assert selected(page, lab, lambda n: n == 1)[first]
    assert cell(r"cell\d+, .*, selected") == first
    page.keyboard.press("ArrowRight")
    assert at[cell(r"cell\d+, .*, not selected"), 0] > at[first, 0]
    page.keyboard.press("Escape")
    until(page, lambda: heard.text_content() == "")
    # It goes on where it was; a box by its two corners.
    page.keyboard.press("c")
    corner = cell(r"cell\d+, .*, not selected")
    page.keyboard.press("x")
    cell(r"From the corner of a box to cell\d+, .*, not selected")
    for key in ("Shift+ArrowRight", "Shift+ArrowUp"):
        last = heard.text_content()
        page.keyboard.press(key)
        until(page, lambda last=last: heard.text_content() not in ("", last))
    other = cell(r"From the corner of a box to cell\d+, .*, not selected")
    page.locator(".scfm-lab").screenshot(path=pictures / "cell-cursor.png")
    page.keyboard.press("x")
    picked = selected(page, lab, lambda n: n > 1)
    low, high = np.minimum(at[corner], at[other]), np.maximum(at[corner], at[other])
    assert picked[((at >= low) & (at <= high)).all(axis=1)].all()
    assert not picked[((at < low - 0.2) | (at > high + 0.2)).any(axis=1)].any()


def test_what_goes_leaves_the_focus_in_the_bench_and_each_act_is_one_step(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, lab = bench(cells, model="pca", groupby="cell_type")
    settled(page)

    def kept() -> bool:
        return bool(page.evaluate("document.querySelector('.scfm-lab').contains(document.activeElement)"))

    def asked() -> list[dict[str, Any]]:
        contents = [item.get("content", {}) for item in host.received]
        return [content for content in contents if content.get("type") == "perturb"]

    page.get_by_role("tab", name="Perturb").click()
    box = page.get_by_role("combobox", name="Add a gene to perturb")
    for gene in ("CD3D", "LYZ"):
        box.click()
        box.fill(gene)
        box.press("Enter")
        page.get_by_label(gene, exact=True).wait_for()
    # Who has picked goes on by key.
    page.keyboard.press("Control+z")
    page.get_by_label("LYZ", exact=True).wait_for(state="detached")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").press("Escape")
    assert box.evaluate("field => field === document.activeElement")
    # Twenty steps of a key that is held down are one.
    slider = page.get_by_label("CD3D", exact=True)
    slider.focus()
    until(page, lambda: [sorted(item["doses"]) for item in asked()] == [["CD3D"], ["CD3D", "LYZ"], ["CD3D"]])
    host.received.clear()
    for _ in range(20):
        page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    until(page, lambda: lab.doses == {"CD3D": 0.0})
    assert [item["doses"] for item in asked() if item["commit"]] == [{"CD3D": 0.0}]
    page.keyboard.press("Control+z")
    until(page, lambda: lab.doses == {"CD3D": 1.0})
    page.get_by_role("button", name="Remove CD3D").press("Enter")
    slider.wait_for(state="detached")
    assert kept()
    # One group alone, by key and by mouse; then all of them again.
    group = page.get_by_role("button", name=re.compile(r"^T cell"))
    for alone in (lambda: group.press("o"), group.dblclick):
        alone()
        until(page, lambda: len(lab.state["hidden"]) == 2)
        page.keyboard.press("Control+z")
        until(page, lambda: lab.state["hidden"] == [])
    group.press("Enter")
    page.get_by_role("button", name="Show all", exact=True).press("Enter")
    page.get_by_role("button", name="Show all", exact=True).wait_for(state="detached")
    assert kept()
    lab.session.fail(ValueError("No."), "test")
    page.get_by_role("button", name="Dismiss this message").press("Enter")
    page.locator(".sl-notice").wait_for(state="detached")
    assert kept()
    # A click beside the cells clears the selection, unless it was meant to add.
    page.get_by_role("button", name="Select all").press("Enter")
    selected(page, lab, lambda n: n == 240)
    corner = plane(page).bounding_box()
    page.keyboard.down("Shift")
    page.mouse.click(corner["x"] + 0.93 * corner["width"], corner["y"] + 0.12 * corner["height"])
    page.keyboard.up("Shift")
    page.keyboard.press("i")
    selected(page, lab, lambda n: n == 0)
    page.keyboard.press("i")
    selected(page, lab, lambda n: n == 240)
    page.mouse.click(corner["x"] + 0.93 * corner["width"], corner["y"] + 0.12 * corner["height"])
    selected(page, lab, lambda n: n == 0)


def test_a_panel_is_found_as_it_was_left(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells, model="pca")
    settled(page)
    lab.state = {"panel": "screen"}
    half = page.get_by_role("button", name="Half", exact=True)
    half.click()
    for name in ("Run", "Perturb"):
        page.get_by_role("tab", name=name).click()
    page.get_by_role("button", name="Start the screen").wait_for()
    assert half.get_attribute("aria-pressed") == "true"
    until(page, lambda: lab.state["panel"] == "scfm-widgets.screen")
    # Every gene that the model knows at that dose, ranked beside the others; each can be put onto the bench.
    page.get_by_role("button", name="Start the screen").click()
    ranked = page.locator(".sl-ranked")
    ranked.get_by_role("button", name="effect", exact=True).click()
    names = ranked.locator("tbody tr td:first-child")
    told = lab.results["screen"].details.query("group == 'all' and readout == 'shift'")
    strongest = [str(gene) for gene in told.sort_values("effect", ascending=False)["gene"]]
    assert len(strongest) > 1
    until(page, lambda: names.all_inner_texts() == strongest)
    names.first.get_by_role("button").click()
    page.get_by_label(strongest[0], exact=True).wait_for()
    until(page, lambda: lab.doses == {strongest[0]: 0.5})
    page.get_by_role("button", name="Doses", exact=True).click()
    page.get_by_role("combobox", name="Add a gene to perturb").wait_for()


def places(page: Page) -> list[Any]:
    """Where the plane is in benches as narrow as notebooks make them, and at last in a wide one."""
    found = []
    for width in (600, 700, 860, 1280):
        page.set_viewport_size({"width": width, "height": 730})
        page.wait_for_function("width => innerWidth === width", arg=width)
        found.append(plane(page).bounding_box())
    return found


def test_a_person_goes_through_the_panels(bench: Callable[..., Any], cells: AnnData, pictures: Path) -> None:
    # What is compared here is written into the cells.
    page, lab = bench(cells.copy(), model="starter", groupby="cell_type")
    settled(page)
    page.get_by_role("tab", name="Perturb").click()
    until(page, lambda: lab.state["panel"] is not None)
    assert lab.state["panel"] == next(row.id for row in lab.rows if row.component == "perturb")
    box = page.get_by_role("combobox", name="Add a gene to perturb")
    box.click()
    box.fill("CD3D")
    page.get_by_role("option", name=re.compile(r"^CD3D\b")).first.click()
    slider = page.get_by_label("CD3D", exact=True)
    slider.wait_for()
    place = places(page)
    before = steady(plane(page))
    knob = slider.bounding_box()
    page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
    page.mouse.down()
    page.mouse.move(knob["x"] + 1, knob["y"] + knob["height"] / 2, steps=6)
    page.mouse.up()
    page.get_by_text("CD3D knocked out").wait_for()
    until(page, lambda: "perturb" in lab.results and lab.results["perturb"].doses == {"CD3D": 0.0})
    other_than(plane(page), before)
    page.get_by_role("img", name=re.compile("T cell: effect")).wait_for()
    assert page.get_by_role("button", name="After", exact=True).is_visible()
    assert places(page) == place, "the plane stays where it is under the hand"

    page.get_by_role("tab", name="Genes").click()
    box = page.get_by_role("combobox", name="Gene to look at")
    box.click()
    box.fill("CD3D")
    page.get_by_role("option", name=re.compile(r"^CD3D\b")).first.click()
    page.locator(".sl-gene-chip").first.wait_for()
    assert page.locator(".sl-gene-chip").count() == len(lab.results["similar_genes"].table)
    page.get_by_role("button", name=re.compile("^Compute attention")).click()
    page.get_by_role("heading", name="CD3D reads").wait_for()

    page.get_by_role("tab", name="Trajectory").click()
    page.get_by_role("button", name="Pick a cell by clicking").click()
    box = plane(page).bounding_box()
    hint = page.get_by_text("Click the cell where the trajectory begins")
    hint.wait_for()
    # Somewhere on this grid there is a cell.
    for x, y in ((i / 15, j / 15) for j in range(2, 14) for i in range(2, 14)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if hint.count() == 0:
            break
    until(page, lambda: lab.state["root"] is not None)
    assert 0 <= lab.state["root"]["cell"] < 240
    assert page.get_by_role("button", name="Order the cells").is_enabled()
    # The same by key: by a part of the cell's name, and where one cell is selected that one.
    box = page.get_by_role("combobox", name="Begin at a cell by its name")
    until(page, lambda: box.input_value() == f"cell{lab.state['root']['cell']}")
    box.focus()
    box.fill("LL77")
    box.press("Enter")
    until(page, lambda: lab.state["root"] == {"cell": 77})
    until(page, lambda: box.input_value() == "cell77")
    selected_one = page.get_by_role("button", name="Selected cell")
    assert selected_one.is_disabled()
    lab.selection = ["cell9"]
    until(page, selected_one.is_enabled)
    selected_one.press("Enter")
    until(page, lambda: lab.state["root"] == {"cell": 9})
    page.locator(".scfm-lab").screenshot(path=pictures / "went-through.png")

    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Against").select_option(label="pca v1 (floor)")
    page.get_by_role("button", name="Compare on 240 cells").click()
    lead = page.locator(".sl-lead", has_text="nearest neighbours shared")
    lead.wait_for(timeout=240_000)
    compared = lab.results["compare"]
    assert ["starter" in compared.models[0], "pca" in compared.models[1], compared.groupby] == [True, True, "cell_type"]
    # Each model's own plane, side by side.
    page.wait_for_selector(".sl-planes.sl-two")
    assert lead.inner_text().startswith(f"{100 * compared.table['overlap'][0]:.0f} % of {compared.n_neighbors} ")
    rows = page.locator(".sl-found .sl-effect")
    told = {row.locator(".sl-effect-name").inner_text(): row.locator(".sl-number").inner_text() for row in rows.all()}
    assert told["B cell"] == " · ".join(
        f"{100 * value:.0f} %"
        for value in compared.table.set_index("group").loc["B cell", ["accuracy_a", "accuracy_b"]]
    )
    page.get_by_label("Colour by it").check()
    page.locator(".sl-legend-title", has_text="Neighbours that both models share").wait_for()
    page.locator(".scfm-lab").screenshot(path=pictures / "compared.png")


def test_three_hints_come_once(bench: Callable[..., Any], cells: AnnData, private_home: Path) -> None:
    (private_home / "bench.json").unlink(missing_ok=True)
    page, _ = bench(cells, script="0")
    page.get_by_text("1 of 3").wait_for()
    # Whole, however narrow the notebook is.
    for width in (420, 600, 760, 1280):
        page.set_viewport_size({"width": width, "height": 730})
        page.wait_for_function("width => innerWidth === width", arg=width)
        hint, whole = (page.locator(name).bounding_box() for name in (".sl-tour", ".scfm-lab"))
        assert hint["x"] >= whole["x"], width
        assert hint["x"] + hint["width"] <= whole["x"] + whole["width"], width
        assert hint["y"] + hint["height"] <= whole["y"] + whole["height"], width
    page.get_by_role("button", name="Next").click()
    # Who does what a hint says needs it no more, and who goes another way has none in the way.
    page.get_by_text("2 of 3").wait_for()
    page.get_by_role("button", name="Select with a lasso (L)").click()
    plane(page).get_by_role("application").press("a")
    page.get_by_text("3 of 3").wait_for()
    page.get_by_role("tab", name="Run").click()
    page.locator(".sl-tour").wait_for(state="detached")
    arrived(page, (private_home / "bench.json").exists)
    page.reload()
    page.wait_for_selector(".scfm-lab")
    assert page.locator(".sl-tour").count() == 0
    # A new bench in a new browser: what was seen is remembered in Python.
    again, _ = bench(cells, script="0")
    assert again.locator(".sl-tour").count() == 0


def test_labels_of_charts_have_room_in_the_font_of_the_browser(page: Page) -> None:
    import pandas as pd

    from scfm_lab.results import charts

    alt = charts()
    cells = pd.DataFrame({"type": ["CD8+/CD45RA+ Naive Cytotoxic (200 tested)", "All cells"], "effect": [1, 2]})
    bars = alt.Chart(cells).mark_bar()
    along, up = (
        bars.encode(x="effect", y=alt.Y("type:N", title=None)),
        bars.encode(x=alt.X("type:N", title=None), y=alt.Y("effect", title="shift of the vectors of the cells")),
    )
    for chart in (along, up.properties(height=60)):
        page.set_content(chart._repr_mimebundle_()["image/svg+xml"])
        cut, words = page.evaluate(
            """() => {
              const frame = document.querySelector("svg").getBoundingClientRect();
              const texts = [...document.querySelectorAll("svg text")];
              const out = (text) => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom;
              };
              return [texts.filter(out).map((text) => text.textContent), texts.map((text) => text.textContent)];
            }"""
        )
        assert cut == []
        assert any("Naive Cytotoxic" in word for word in words)
        assert chart is not along or "CD8+/CD45RA+ Naive Cytotoxic (200 tested)" in words


def test_pictures_are_saved_with_names_and_legend(bench: Callable[..., Any], cells: AnnData, tmp_path: Path) -> None:
    page, _ = bench(cells)
    settled(page)
    page.locator(".sl-legend-title").first.wait_for()
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
    assert ">T cell</text>" in svg
    assert "<image" not in svg, "names over the cells are text, too"
    assert "<img" not in svg
    import xml.etree.ElementTree as ET

    ET.fromstring(svg)


def test_enter_before_the_suggestions_are_here_picks_the_first(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, lab = bench(cells, model="pca")
    settled(page)
    page.get_by_role("tab", name="Perturb").click()
    host.delay = 0.8
    box = page.get_by_role("combobox", name="Add a gene to perturb")
    box.click()
    box.fill("CD3")
    box.press("Enter")
    page.get_by_label("CD3D", exact=True).wait_for()
    until(page, lambda: lab.doses == {"CD3D": 1.0})


AT_ONCE = """async () => {
  document.querySelector("[aria-label='Select with a lasso (L)']").click();
  await new Promise((go) => setTimeout(go));
  const plane = document.querySelector(".sl-canvas"), box = plane.getBoundingClientRect();
  const corners = [[0.02, 0.02], [0.5, 0.02], [0.5, 0.97], [0.02, 0.97]];
  const told = (type, [x, y]) => plane.dispatchEvent(new PointerEvent(type, {
    pointerId: 1, bubbles: true, clientX: box.x + x * box.width, clientY: box.y + y * box.height }));
  told("pointerdown", corners[0]);
  for (const corner of corners) told("pointermove", corner);
  told("pointerup", corners[3]);
}"""


def test_a_tool_is_there_before_the_next_frame(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells)
    settled(page)
    page.evaluate(AT_ONCE)
    page.locator(".sl-selected").wait_for()
    assert selected(page, lab, lambda n: 0 < n < 240).any()


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
    assert not selected(page, lab, lambda n: n > 100)[::4].any()
    # Of numbers a range can be shown alone, by key and by mouse; what is beyond it is not there to be selected.
    low, high = (page.get_by_label(f"{end} value shown") for end in ("Least", "Greatest"))
    high.focus()
    shown = steady(plane(page))
    for _ in range(5):
        high.press("PageDown")
    until(page, lambda: lab.state["range"] is not None and lab.state["range"][1] < 0.6)
    other_than(plane(page), shown)
    bar = low.bounding_box()
    page.mouse.move(bar["x"] + 7, bar["y"] + bar["height"] / 2)
    page.mouse.down()
    page.mouse.move(bar["x"] + bar["width"] * 0.25, bar["y"] + bar["height"] / 2, steps=4)
    page.mouse.up()
    # Where the hand was on the way is told as well, if it was slow.
    until(
        page, lambda: lab.state["range"][0] == pytest.approx(float(low.get_attribute("aria-valuetext") or 0), abs=0.01)
    )
    assert lab.state["range"][0] > 0.1
    within = holes.obs["score"].between(*lab.state["range"]) & ~np.isnan(holes.obsm["X_umap"][:, 0])
    plane(page).locator("[role=application]").press("a")
    picked = selected(page, lab, lambda n: n < 100)
    # A cell at a thumb's own step may be on either side.
    assert np.abs(picked.astype(int) - within).sum() <= 2
    page.get_by_role("button", name="Show all", exact=True).click()
    until(page, lambda: lab.state["range"] is None)
    plane(page).locator("[role=application]").press("Control+z")
    until(page, lambda: lab.state["range"] is not None)


def test_a_column_that_tells_no_groups_apart_says_why(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    gaps = cells.copy()
    gaps.obs.iloc[0, gaps.obs.columns.get_loc("cell_type")] = np.nan
    page, lab = bench(gaps, model="pca", layout="X_umap")
    settled(page)
    assert lab.state["groupby"] == "cell_type"
    page.get_by_role("tab", name="Perturb").click()
    lab.doses = {"CD3D": 0.0}
    page.get_by_role("img", name=re.compile("^All cells.*: effect")).wait_for()
    groups = page.locator("select[id$=-groupby]")
    assert groups.input_value() == "", "all cells are together"
    named = groups.locator("option", has_text="cell_type")
    assert named.inner_text() == "cell_type (1 cell has no value)"
    assert named.is_disabled()
    page.get_by_text("No groups of cell_type: 1 cell has no value.").wait_for()
    page.locator(".scfm-lab").screenshot(path=pictures / "no-groups.png")


def test_what_is_read_out_is_said_and_a_filled_dot_is_one_that_stays(
    bench: Callable[..., Any], pbmc68k: AnnData, pictures: Path
) -> None:
    import scfm_lab as sl

    cells = pbmc68k.copy()
    page, lab = bench(cells, model="pca", groupby="cell_type", layout="X_umap")
    settled(page)
    page.get_by_role("tab", name="Perturb").click()
    result = sl.perturb(cells, "pca", {"CD3D": 0.0}, groupby="cell_type", target="CD19+ B", n_null=30, progress=False)
    lab.result = result
    readout = page.locator("select[id$=-effects-readout]")
    readout.wait_for()
    assert readout.input_value() == "towards_target"
    page.get_by_text("mean movement towards CD19+ B (negative: away)").wait_for()
    for name in ("towards_target", "shift"):
        readout.select_option(name)
        table = result.table[result.table["readout"] == name].set_index("group")
        rows = page.locator(".sl-effect")
        until(page, lambda table=table, rows=rows: rows.count() == len(table))
        for row in rows.all():
            group = row.locator(".sl-effect-name").inner_text()
            told = table.loc["all" if group == "All cells" else group]
            filled = row.locator(".sl-effect-dot.sl-distinct").count() == 1
            assert filled == (told["q_value"] <= 0.05)
            heard = row.get_by_role("img").get_attribute("aria-label")
            for words in (row.locator(".sl-verdict").inner_text(), heard):
                assert ("q " in words) == np.isfinite(told["q_value"])
                assert ("not after correction" in words) == (told["p_value"] <= 0.05 < told["q_value"])
        assert rows.locator(".sl-effect-dot").count() > 5
        page.locator(".scfm-lab").screenshot(path=pictures / f"effects-{name}.png")
    page.get_by_text("mean shift").wait_for()
    # A notebook beside a file browser.
    page.set_viewport_size({"width": 640, "height": 900})
    page.locator(".sl-effects").screenshot(path=pictures / "effects-narrow.png")
    page.set_viewport_size({"width": 1280, "height": 730})

    lab.result = sl.screen(
        cells, "pca", genes=["CD3D", "LYZ", "NKG7"], groupby="cell_type", target="CD19+ B", n_null=30, progress=False
    )
    table = lab.results["screen"].table
    page.get_by_role("button", name=re.compile("^Screen every gene")).click()
    page.get_by_text("The effect is the mean movement towards CD19+ B (negative: away).").wait_for()
    best = table[(table["readout"] == "towards_target") & (table["group"] == "all")]
    assert page.locator(".sl-ranked tbody tr td:first-child").all_inner_texts() == best["gene"].tolist()
    page.locator(".scfm-lab").screenshot(path=pictures / "screen-towards.png")


def test_on_a_tablet_two_fingers_zoom_and_what_takes_a_tap_is_seen(
    bench: Callable[..., Any], cells: AnnData, pictures: Path
) -> None:
    page, lab = bench(cells)
    settled(page)
    wire = page.context.new_cdp_session(page)
    wire.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})
    area = plane(page).locator("[role=application]")
    area.press("0")
    before = steady(plane(page))
    box = plane(page).bounding_box()
    y = box["y"] + box["height"] / 2

    def touch(kind: str, *xs: float) -> None:
        points = [{"x": box["x"] + x * box["width"], "y": y, "id": i} for i, x in enumerate(xs)]
        wire.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    touch("Start", 0.4)
    touch("Start", 0.4, 0.6)
    for far in (0.02, 0.06, 0.1):
        touch("Move", 0.4 - far, 0.6 + far)
    touch("End")
    other_than(plane(page), before)
    assert lab.selection.sum() == 0
    area.press("0")
    same_as(plane(page), before)

    pick = page.locator(".sl-group-pick").first
    until(page, lambda: pick.evaluate("it => getComputedStyle(it).opacity") == "1")
    count = page.locator(".sl-groups .sl-count").first
    words = count.evaluate(
        "it => { const range = document.createRange(); range.selectNodeContents(it); return range.getBoundingClientRect().right; }"
    )
    assert words <= pick.bounding_box()["x"], "it lies over no count"
    page.locator(".scfm-lab").screenshot(path=pictures / "tablet.png")


def test_five_thousand_categories_can_be_searched(bench: Callable[..., Any]) -> None:
    many = made(10_000)
    many.obs["clone"] = [f"clone {i % 5000}" for i in range(10_000)]
    many.obs["clone"] = many.obs["clone"].astype("category")
    page, _ = bench(many, colour="clone")
    settled(page)
    page.get_by_role("searchbox", name="Find a group in the legend").fill("smaller")
    page.get_by_role("button", name=re.compile(r"4,747 smaller groups")).wait_for()


def test_a_million_cells_are_all_there(bench: Callable[..., Any]) -> None:
    many = made(1_000_000, genes=5)
    page, lab = bench(many, colour="cell_type")
    settled(page)
    page.get_by_role("button", name=re.compile(r"^B cell.*333,333")).wait_for()
    shown = steady(plane(page))
    # Another colour is another picture, and a lasso holds every cell left of its edge and none to the right of it.
    lab.state = {"colour": "LYZ"}
    other_than(plane(page), shown)
    lasso(page, share=0.4)
    picked = selected(page, lab, lambda n: n > 0)
    x = many.obsm["X_umap"][:, 0]
    edge = x[picked].max()
    assert picked[x < edge - 0.01].mean() > 0.999
    assert 200_000 < picked.sum() < 600_000


def test_a_fast_slider_on_a_slow_kernel_ends_at_its_last_place(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, lab = bench(cells, model="pca", groupby="cell_type")
    settled(page)
    page.get_by_role("tab", name="Perturb").click()
    lab.doses = {"CD3D": 1.0}
    lab.wait(60)
    slider = page.get_by_label("CD3D", exact=True)
    slider.wait_for()
    host.delay = 0.25
    host.received.clear()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    began = time.monotonic()
    for step in range(40):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.4 * np.sin(step)), box["y"] + 5)
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 5)
    page.mouse.up()
    moved_for = time.monotonic() - began
    host.delay = 0.0
    page.wait_for_function(
        "() => /changed$/.test(document.querySelector('.sl-morph-text')?.innerText.split(' ·')[0].trim() ?? '')"
        " && !document.querySelector('.sl-morph-text .sl-computing')"
    )
    lab.wait(60)
    shown = float(slider.input_value())
    asked = [item["content"]["doses"] for item in host.received if item.get("content", {}).get("type") == "perturb"]
    # One question at a time, and the last one with the doses at which the hand let go.
    assert len(asked) <= moved_for / 0.25 + 2
    assert asked[-1] == {"CD3D": shown}
    assert shown < 0.5
    assert lab.doses == {"CD3D": shown}
    assert lab.session.results["perturb"].doses == {"CD3D": shown}


def test_the_colours_of_a_result_go_with_it(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells, model="pca", layout="X_umap")
    settled(page)
    lab.doses = {"CD3D": 0.0}
    lab.wait(60)
    lab.state = {"colour": {"by": "result", "name": "shift"}}
    page.locator("[role=application][aria-label*='coloured by How far each cell moved']").wait_for()
    lab.doses = {}
    lab.wait(60)
    page.get_by_text("There is no result yet that says 'shift'").wait_for()
    page.locator("[role=application][aria-label*='coloured by one colour']").wait_for()
    without = steady(plane(page))
    lab.state = {"colour": None}
    page.get_by_text("There is no result yet that says 'shift'").wait_for(state="detached")
    same_as(plane(page), without)


def test_a_kernel_that_dies_is_told_and_the_view_lives_on(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, _ = bench(cells, model="pca")
    settled(page)
    legend = page.get_by_role("button", name=re.compile(r"^B cell"))
    legend.wait_for()
    host.dead = True
    page.get_by_role("tab", name="Genes").click()
    page.get_by_role("combobox", name="Gene to look at").click()
    page.get_by_text("The kernel does not answer").wait_for()
    page.keyboard.press("Escape")
    # What needs no kernel goes on: the legend hides a group.
    before = steady(plane(page))
    legend.click()
    other_than(plane(page), before)


def test_a_kernel_that_dies_in_the_middle_of_a_run_is_told(
    bench: Callable[..., Any], host: Host, cells: AnnData
) -> None:
    page, lab = bench(cells, model="pca")
    settled(page)
    page.get_by_role("tab", name="Run").click()
    # The plan that is made when the panel opens has been told of: where it takes long it is a job, too.
    until(page, lambda: lab._plan["status"] == "ready")
    lab.wait(60)
    lab.publish(
        _job={"id": 1, "kind": "embed", "label": "Running pca", "status": "running", "done": 40, "total": 240, "note": "",
              "rate": 8.0, "left": 25.0, "seconds": 5.0}
    )  # fmt: skip
    page.get_by_role("progressbar", name="Running pca").wait_for()
    # While it runs the kernel is asked whether it is there; as long as it says so, all is well.
    until(page, lambda: any(item.get("content", {}).get("type") == "pulse" for item in host.received))
    assert page.get_by_text("Nothing has been heard").count() == 0
    host.dead = True
    page.get_by_role("alert").filter(has_text="Nothing has been heard of “Running pca”").wait_for()
    page.get_by_text("and with it what was running").wait_for()


def test_two_views_of_one_bench_show_the_same(bench: Callable[..., Any], cells: AnnData) -> None:
    page, lab = bench(cells, views=2)
    settled(page)
    lab.state = {"colour": "LYZ"}
    for view in range(2):
        page.locator(".scfm-lab").nth(view).locator(".sl-legend-title", has_text="LYZ").wait_for()
    # What lies over one of them is its own, and a question of both is answered in both.
    first = page.locator(".scfm-lab").first
    first.get_by_role("button", name=re.compile("^Share")).click()
    first.get_by_role("menuitem", name="Copy as code…").click()
    first.get_by_role("textbox", name="Python").wait_for()
    assert page.get_by_role("dialog").count() == 1
    page.keyboard.press("Escape")
    lab.state = {"panel": "genes", "gene": "LYZ"}
    for view in range(2):
        page.locator(".scfm-lab").nth(view).get_by_role("button", name="Colour by it").wait_for()
    assert page.get_by_role("alert").filter(has_text=re.compile(".")).count() == 0


def serious(page: Page, what: str) -> list[dict[str, Any]]:
    """What axe finds to be in a person's way, once nothing is to come any more: what is still to come is pale, and blinks."""
    coming = page.locator(".sl-computing, .sl-skeleton, .sl-pending, .sl-stale")
    until(page, lambda: coming.count() == 0)
    return [
        {"rule": item["id"], "where": [node["html"][:160] for node in item["nodes"][:3]]}
        for item in page.evaluate(f"axe.run({what})")["violations"]
        if item["impact"] in ("serious", "critical")
    ]


def test_nothing_serious_stands_in_a_persons_way(
    bench: Callable[..., Any], cells: AnnData, repository: Path, private_home: Path
) -> None:
    axe = repository / "widgets" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("needs the front end's packages: npm --prefix widgets ci")
    (private_home / "bench.json").unlink(missing_ok=True)
    page, lab = bench(cells, model="pca", script="0")
    settled(page)
    page.add_script_tag(path=str(axe))

    def look(where: str) -> None:
        for theme, what in (("light", "'.scfm-lab'"), ("dark", "'.scfm-lab', { runOnly: ['color-contrast'] }")):
            page.evaluate("theme => { document.body.className = theme; }", theme)
            page.locator(f".scfm-lab[data-theme={theme}]").wait_for()
            bad = serious(page, what)
            assert bad == [], f"{where}, {theme}: {json.dumps(bad, indent=1)}"

    # As it is at first: hints, and the place of what a dose will show.
    page.get_by_text("1 of 3").wait_for()
    page.get_by_text("Once a dose is set in Perturb").wait_for()
    look("at first")
    page.get_by_role("button", name="No hints").click()
    lab.doses = {"CD3D": 0.0}
    lab.wait(60)
    for name in ("Models", "Run", "Perturb", "Trajectory", "Genes", "Compare"):
        page.get_by_role("tab", name=name).click()
        look(name)
    for entry in ("Copy as code…", "Methods and BibTeX…", "Save as one HTML file…", "Keys…"):
        page.get_by_role("button", name=re.compile("^Share")).click()
        page.get_by_role("menuitem", name=entry).click()
        page.get_by_role("dialog").get_by_role("button").last.wait_for()
        assert serious(page, "'.sl-dialog'") == [], entry
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
