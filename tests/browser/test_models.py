"""The Models panel by key: also of a model that cannot be picked the card can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from driven_bench import hosting

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from driven_jupyter import Watch
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_the_card_of_a_retracted_model_opens_by_key(
    pbmc68k: AnnData, page: Page, watch: Watch, repository: Path, private_home: Path
) -> None:
    from scfm_registry import Registry
    from scfm_widgets import Lab

    assert private_home
    page.add_init_script("localStorage.setItem('scfm-lab.tour', '1')")
    Registry().search()
    Registry().retract("sctop/1", because="a test")
    try:
        with hosting(repository / "widgets" / "scfm_widgets" / "static") as host:
            lab = Lab(pbmc68k, model="pca")
            page.goto(host.serve(lab))
            page.get_by_role("tab", name="Models").click()
            blocked = page.locator(".sl-model").filter(has_text="Retracted: a test.")
            card = blocked.get_by_role("button", name="Card of sctop/1")
            card.wait_for()
            assert blocked.get_by_role("radio").get_by_role("button").count() == 0
            # From the search above the list Tab alone comes there.
            page.get_by_label("Search the models").focus()
            for _ in range(10 + page.locator(".sl-model").count()):
                page.keyboard.press("Tab")
                if card.evaluate("it => it === document.activeElement"):
                    break
            # Arrows pick models, but not from here.
            page.keyboard.press("ArrowDown")
            assert card.evaluate("it => it === document.activeElement")
            page.keyboard.press("Enter")
            text = page.get_by_role("dialog", name="sctop/1").locator(".sl-card-text")
            text.wait_for()
            assert text.inner_text().strip() != "This version has no card."
            assert lab.state["model"] == "pca"
            lab.close()
    finally:
        Registry().reinstate("sctop/1")
    assert watch.errors == []
