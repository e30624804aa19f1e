"""A run that is cancelled, and one whose kernel dies: after all others in a notebook, since the next kernel imports everything anew."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from driven_jupyter import SHOW, open_notebook, output_text, pick_model, run_cell, tab
from looking import other_than, steady

if TYPE_CHECKING:
    from driven_jupyter import Server, Watch
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_cancel_stops_a_run_and_writes_nothing(jupyter: Server, page: Page, watch: Watch) -> None:
    many = SHOW.replace(
        "lab = Lab",
        "import anndata as ad\nadata = ad.concat([adata] * 40, index_unique='-', merge='same')\nlab = Lab",
    )
    told = "import os; print(sorted(adata.obsm), 'scfm' in adata.uns, 'kernel', os.getpid())"
    open_notebook(page, jupyter.notebook("cancel", many, told))
    run_cell(page, 0)
    page.wait_for_selector(".scfm-lab .sl-plane canvas", timeout=120_000)
    pick_model(page, "starter")
    tab(page, "Run")
    page.get_by_role("button", name=re.compile(r"^Run on")).click(timeout=90_000)
    page.get_by_role("progressbar", name="Running the model").wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("Stopped; nothing was written.").first.wait_for()
    run_cell(page, 1)
    page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[1].innerText.match(/kernel \\d+/)")
    assert "['X_umap'] False" in output_text(page, 1)
    assert watch.errors == []
    # A run whose kernel dies is told of, and what needs no kernel goes on.
    kernel = int(output_text(page, 1).partition("kernel ")[2])
    page.get_by_role("button", name=re.compile(r"^Run on")).click()
    page.get_by_role("progressbar", name="Running the model").wait_for()
    # JupyterLab's own word on it lies over all: it is read and put away.
    page.remove_locator_handler(page.locator(".jp-Dialog"))
    # Until a question of the bench has been answered: with the next one the host has lost the kernel already.
    page.wait_for_timeout(1500)
    os.kill(kernel, signal.SIGKILL)
    page.locator(".jp-Dialog").get_by_text("appears to have died").wait_for()
    told = page.locator(".scfm-lab .sl-failed").filter(has_text="Nothing has been heard of “Running the model”")
    told.wait_for(timeout=60_000)
    page.locator(".jp-Dialog .jp-mod-accept").click()
    plane = page.locator(".scfm-lab .sl-plane")
    before = steady(plane)
    page.locator(".scfm-lab").get_by_role("button", name=re.compile(r"^CD19\+ B")).click()
    other_than(plane, before)
    assert watch.foreign == []
