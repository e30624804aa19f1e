"""A person at the bench: a real browser drives a real JupyterLab from the first cell to a trajectory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from driven_jupyter import SHOW, open_notebook, output_text, pick_model, run_cell, tab
from looking import other_than, same_as, steady

if TYPE_CHECKING:
    from pathlib import Path

    from driven_jupyter import Server, Watch
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def run_model(page: Page) -> None:
    tab(page, "Run")
    page.get_by_role("button", name=re.compile(r"^Run on")).click(timeout=90_000)
    page.get_by_text(re.compile(r"^Done in")).wait_for(timeout=180_000)


def colour_by(page: Page, name: str) -> None:
    box = page.get_by_role("combobox", name="Colour cells by a column or a gene")
    box.click()
    box.fill(name)
    page.get_by_role("option", name=re.compile(rf"^{re.escape(name)}\b")).first.click()
    # A cell under the pointer has a ring, which is no other colour.
    page.mouse.move(0, 0)
    page.locator(".sl-legend-title", has_text=name).first.wait_for()


def add_gene(page: Page, name: str) -> None:
    box = page.get_by_role("combobox", name="Add a gene to perturb")
    box.click()
    box.fill(name)
    page.get_by_role("option", name=re.compile(rf"^{re.escape(name)}\b")).first.click()


def test_the_whole_bench(jupyter: Server, page: Page, watch: Watch, pictures: Path) -> None:
    open_notebook(
        page,
        jupyter.notebook(
            "bench",
            # Half of them: everything that is computed takes half as long, and is said of as many groups.
            SHOW.replace('load("pbmc68k")', 'load("pbmc68k")[::2].copy()'),
            "print(lab.state['model'], lab.doses, sorted(adata.obsm))",
            "r = lab.result; print(type(r).__name__, r.doses, r.n_expressing, r.table['verdict'][0])",
            "print('follow' + 's', lab.state['follow'], lab.state['second'])",
        ),
    )
    page.keyboard.press("Control+b")
    run_cell(page, 0)
    page.wait_for_selector(".scfm-lab .sl-plane canvas", timeout=120_000)
    plane = page.locator(".scfm-lab .sl-plane")

    # Pick a model from the registry, with its tags and whether it fits, and run it.
    pick_model(page, "starter")
    card = page.get_by_role("radio", name=re.compile(r"^starter\b"))
    assert card.get_attribute("aria-checked") == "true"
    assert re.search(r"fits|tight", card.inner_text())
    assert "BSD-3-Clause" in card.inner_text()
    run_model(page)
    assert re.search(r"\d.*% of the counts|of the counts", page.locator(".sl-side").inner_text())
    run_cell(page, 1)
    page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[1].innerText.includes('X_starter')")
    assert "starter" in output_text(page, 1)

    # Colour by a gene that is found by typing.
    before = steady(plane)
    colour_by(page, "LYZ")
    by_gene = other_than(plane, before)
    colour_by(page, "cell_type")
    other_than(plane, by_gene)

    # Knock a gene out: cells move, the null stands beside the effect.
    tab(page, "Perturb")
    # A gene that is not there gets the nearest, and the list leaves what to do in sight.
    box = page.get_by_role("combobox", name="Add a gene to perturb")
    box.click()
    box.fill("CD3X")
    said = page.get_by_role("option", name=re.compile(r"No gene name contains “CD3X”\. Did you mean CD3[DEG]"))
    said.wait_for(timeout=60_000)
    hint = page.get_by_text("Add a gene, then turn its dose").bounding_box()
    opened = said.bounding_box()
    assert hint is not None
    assert opened is not None
    assert hint["y"] + hint["height"] <= opened["y"]
    box.press("Escape")
    # Of genes with comparable ones one that few cells express: the fewest cells to compute.
    add_gene(page, "CD8A")
    # Eight groups with a null each take eight times as long as one.
    page.locator("select[id$=-groupby]").select_option(label="All cells together")
    unchanged = steady(plane)
    page.get_by_role("button", name="Knock out").click()
    page.locator(".sl-effect").first.wait_for(timeout=60_000)
    moved = other_than(plane, unchanged)
    page.get_by_role("img", name=re.compile("comparable genes")).first.wait_for(timeout=300_000)
    page.locator(".scfm-lab").screenshot(path=pictures / "bench.png")
    run_cell(page, 2)
    page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[2].innerText.includes('PerturbResult')")
    assert "{'CD8A': 0.0}" in output_text(page, 2)

    # Back to dose 1 the cells return to where they were.
    page.get_by_role("button", name="Unchanged").click()
    other_than(plane, moved)

    # A root and its trajectory.
    tab(page, "Trajectory")
    page.locator("select[id$=-groupby]").select_option(label="cell_type")
    page.get_by_label("Root").select_option(label="CD34+")
    page.get_by_role("button", name="Order the cells").click()
    chart = page.get_by_role("img", name=re.compile("^Pseudotime from"))
    chart.wait_for(timeout=120_000)
    assert chart.evaluate("image => image.naturalWidth") > 100
    # Cells appear along it, and genes rise and fall. Its colours are asked of the kernel once it is here: they come later.
    page.get_by_role("application", name=re.compile("coloured by Pseudotime")).wait_for()
    # What scrolls below a pointer that stays has it hover.
    page.mouse.move(0, 0)
    whole = steady(plane)
    page.get_by_label("Cells up to a pseudotime").fill("0.3")
    other_than(plane, whole)
    page.get_by_label("Cells up to a pseudotime").fill("1")
    page.get_by_label("Cells up to a pseudotime").blur()
    same_as(plane, whole)
    box = page.get_by_role("combobox", name="Gene to follow along pseudotime")
    for gene in ("SPINK2", "LYZ"):
        box.click()
        box.fill(gene)
        page.get_by_role("option", name=re.compile(f"^{gene}")).first.click()
    over_all = page.get_by_role("img", name=re.compile(r"^Along pseudotime: SPINK2 from \d.*; LYZ from \d"))
    over_all.wait_for()
    assert over_all.locator("polyline").count() == 2
    page.get_by_label("A curve for each path").check()
    along = page.get_by_role("img", name=re.compile(r"^Along pseudotime: LYZ to "))
    along.wait_for()
    assert along.locator("polyline").count() == page.locator(".sl-end-name").count() // 2
    # Beside it stands its twin, which knows no model.
    page.get_by_label("Its twin on principal components of the counts").check()
    beside = page.get_by_label("Layout of the second plane")
    beside.wait_for()
    assert beside.locator("option:checked").inner_text() == "Principal components of the counts"
    # Its colours are asked of the kernel; only one plane has them.
    of_twin = page.get_by_role("application", name=re.compile("by Pseudotime on principal components"))
    of_twin.wait_for()
    assert of_twin.count() == 1
    page.screenshot(path=pictures / "trajectory.png")
    # All of it is state: undone one by one, and in Python.
    page.keyboard.press("Control+z")
    beside.wait_for(state="detached")
    page.keyboard.press("Control+z")
    over_all.wait_for()
    page.keyboard.press("Control+z")
    over_all.wait_for(state="detached")
    run_cell(page, 3)
    page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[3].innerText.includes('follows')")
    assert "follows ['SPINK2'] None" in output_text(page, 3)

    assert watch.errors == []
    assert watch.foreign == []


def test_an_error_is_told_in_the_widget_in_words(jupyter: Server, page: Page, watch: Watch) -> None:
    logged = SHOW.replace(
        "lab = Lab", "import scanpy as sc\nsc.pp.normalize_total(adata)\nsc.pp.log1p(adata)\nlab = Lab"
    )
    open_notebook(page, jupyter.notebook("error", logged))
    run_cell(page, 0)
    page.wait_for_selector(".scfm-lab", timeout=120_000)
    pick_model(page, "pca")
    tab(page, "Run")
    notice = page.locator(".sl-notice", has_text="log-normalised")
    notice.first.wait_for(timeout=60_000)
    assert "adata.layers['counts']" in notice.first.inner_text()
    notice.first.get_by_role("button", name="Dismiss this message").click()
    notice.first.wait_for(state="detached")
    assert watch.errors == []
    assert watch.foreign == []
