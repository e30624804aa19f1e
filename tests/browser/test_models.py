"""The Models panel: by key, with scores and lineage of the picked model, and a checkpoint that is imported."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from driven_bench import hosting

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from driven_jupyter import Watch
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
#: What would run where a card was taken for HTML: in the beginning that the list shows, a heading, a table and a link's address.
CARD = """# Grown <img src="nowhere" onerror="window.ran = 'heading'">

Made of <img src="nowhere" onerror="window.ran = 'list'"> starter <script>window.ran = 'script'</script>

<script>window.ran = 'paragraph'</script>

| <svg onload="window.ran = 'table'"> | [open](javascript:window.ran='link') |
|---|---|
| <iframe srcdoc="<script>parent.ran = 'frame'</script>"> | `<b onclick="window.ran = 'code'">` |
"""


def test_the_models_panel(
    pbmc68k: AnnData,
    page: Page,
    watch: Watch,
    repository: Path,
    private_home: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    import scfm_lab as sl
    from scfm_lab.evaluation.score import Score
    from scfm_registry import Registry
    from scfm_widgets import Lab

    assert private_home
    page.add_init_script("localStorage.setItem('scfm-lab.tour', '1')")
    Registry().search()
    Registry().retract("sctop/1", because="a test")
    try:
        score = Score("shown_f1", "starter", 0.71, low=0.66, high=0.76, floor=0.8, floor_name="sctop")
        Registry().record_scores("starter/1", [score], data_digest="sha256:" + "5" * 64)
        grown = sl.load_model("starter")
        grown.net.norm.bias.data.add_(0.25)
        Registry().register(grown, "grown", parent="starter", card=CARD, certify=False)
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
            page.keyboard.press("Escape")
            # What stands in somebody's card is text, in the list and in the card itself.
            grown_one = page.locator(".sl-model").filter(has=page.get_by_role("button", name="Card of grown/1"))
            assert """<img src="nowhere" onerror="window.ran = 'list'">""" in grown_one.inner_text()
            grown_one.get_by_role("button", name="Card of grown/1").click()
            text = page.get_by_role("dialog", name="grown/1").locator(".sl-card-text")
            text.wait_for()
            shown = text.inner_text()
            for what in ("'heading'", "'list'", "'script'", "'paragraph'", "'table'", "'frame'", "'code'"):
                assert shown.count(what) == 1, what
            assert "javascript:" not in shown, "of a link only its words are shown"
            for place in (grown_one, text):
                assert place.locator("script, img, svg[onload], iframe, a, [onclick], [onerror]").count() == 0
            assert page.evaluate("window.ran") is None
            page.keyboard.press("Escape")
            # The picked one tells what it reached, beside its floor, and what was made of it.
            page.get_by_role("radio", name=re.compile("^starter")).click()
            picked = page.locator(".sl-model").filter(has=page.get_by_role("radio", checked=True))
            scores = picked.get_by_role("table", name="Scores of evaluations")
            scores.wait_for()
            assert scores.get_by_role("row").nth(1).inner_text().split() == [
                *("shown", "f1", "0.71", "0.66–0.76", "0.8", "sctop", "not", "above", "it"),
            ]
            drawn = picked.get_by_role("img", name=re.compile("^Lineage: .*starter.1.*grown.1"))
            drawn.wait_for()
            assert drawn.locator("rect").count() == 2
            assert drawn.locator("line").count() == 1
            page.locator(".scfm-lab").screenshot(path=pictures / "models-picked.png")
            # A folder that is no checkpoint is refused in words; one that is becomes a model to pick.
            page.get_by_role("button", name="Import a checkpoint's folder…").click()
            form = page.get_by_role("form", name="Import a checkpoint")
            folder = form.get_by_label("Folder on the machine of the kernel")
            folder.fill(str(tmp_path / "nothing here"))
            assert form.get_by_label("Name in the registry").input_value() == "nothing-here"
            form.get_by_role("button", name="Import", exact=True).click()
            page.locator(".sl-notice").filter(has_text="nothing here").wait_for()
            shutil.copytree(repository / "scfm_lab" / "models" / "assets" / "pca", tmp_path / "Other-Basis")
            folder.fill(str(tmp_path / "Other-Basis"))
            form.get_by_role("button", name="Import", exact=True).press("Enter")
            form.get_by_text("It is other-basis/1 now").wait_for()
            page.get_by_role("radio", name=re.compile("^other-basis")).click()
            until_picked = page.get_by_role("radio", name=re.compile("^other-basis"), checked=True)
            until_picked.wait_for()
            lab.close()
    finally:
        Registry().reinstate("sctop/1")
        for reference in ("grown/1", "other-basis/1"):
            if reference.split("/")[0] in {item.name for item in Registry().search()}:
                Registry().delete(reference)
    assert watch.errors == []
