"""Takes pictures of every panel: a real bench in a real Chromium, on the bundled cells, taken one by one.

python scripts/gallery.py --out docs/images
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "widgets" / "scfm_widgets" / "static"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]
#: Pictures worth a page; --every takes all, in light and dark.
ON_THE_PAGE = {"models", "run", "perturb", "perturb-dark", "screen", "trajectory", "trends", "genes", "compare"}
#: A busy machine may take its time.
PATIENCE_MS = 600_000


class Gallery:
    """A bench on a page, and where its pictures go; of those that are named only."""

    def __init__(self, page: Any, lab: Any, out: Path, theme: str, kept: set[str] | None) -> None:
        self.page, self.lab, self.out, self.theme, self.kept = page, lab, out, theme, kept

    def tab(self, name: str) -> None:
        """Open a panel."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def shot(self, name: str) -> None:
        """Take a picture of the bench as it is."""
        name = name if self.theme == "light" else f"{name}-dark"
        if self.kept is not None and name not in self.kept:
            return
        self.page.wait_for_timeout(900)
        path = self.out / f"gallery-{name}.png"
        self.page.locator(".scfm-lab").first.screenshot(path=path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def scenes(gallery: Gallery) -> None:
    """The panels one after the other, as a person goes through them."""
    page, lab = gallery.page, gallery.lab
    page.get_by_role("radio", name=re.compile(r"^starter\b")).click()
    page.locator(".sl-lineage, .sl-link").first.wait_for()
    gallery.shot("models")
    gallery.tab("Run")
    lab.run(layout="X_umap").result()
    page.get_by_text(re.compile("^Done in")).wait_for()
    gallery.shot("run")
    gallery.tab("Perturb")
    lab.doses = {"CD3D": 0.0}
    lab.wait()
    lab.state = {"field": True}
    gallery.shot("perturb")
    lab.state = {"field": False}
    page.get_by_role("button", name="Screen every gene").click()
    lab.state = {"model": "models:/pca@champion"}
    lab.doses = {}
    lab.wait()
    page.get_by_role("button", name="Start the screen").click()
    page.locator(".sl-job-end").get_by_text("The table is").wait_for()
    gallery.shot("screen")
    lab.state = {"model": "models:/starter@champion"}
    lab.wait()
    gallery.tab("Trajectory")
    page.get_by_label("Root").select_option(label="CD34+")
    page.get_by_role("button", name="Order the cells").click()
    page.get_by_role("img", name=re.compile("^Pseudotime from")).wait_for()
    page.get_by_label(re.compile("Its twin")).check()
    gallery.shot("trajectory")
    box = page.get_by_role("combobox", name="Gene to follow along pseudotime")
    for gene in ("SPINK2", "LYZ"):
        box.click()
        box.fill(gene)
        page.get_by_role("listbox").get_by_role("option", name=re.compile(f"^{gene}")).first.click()
    page.get_by_label("A curve for each path").check()
    page.get_by_text("Splines through").wait_for()
    page.get_by_text("Splines through").scroll_into_view_if_needed()
    gallery.shot("trends")
    lab.state = {"second": None, "paths": False, "colour": "cell_type", "gene": "CD3D"}
    gallery.tab("Genes")
    page.get_by_role("button", name=re.compile("^Compute attention")).click()
    page.get_by_text("Last layer").wait_for()
    gallery.shot("genes")
    gallery.tab("Compare")
    lab.state = {"against": "models:/pca@champion"}
    page.get_by_role("button", name=re.compile("^Compare on")).click()
    page.get_by_text("nearest neighbours shared").wait_for()
    gallery.shot("compare")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "images", show_default=True)
@click.option("--every", is_flag=True, help="Each panel in light and dark, not only those of the page.")
def main(out: Path, every: bool) -> None:
    """Take the pictures."""
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from driven_bench import hosting
    from playwright.sync_api import sync_playwright

    import scfm_lab as sl
    from scfm_widgets import Lab

    chromium = os.environ.get("SCFM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("Chromium is not here; install it, or set SCFM_CHROMIUM to its path.")
    os.environ.setdefault("SCFM_HOME", tempfile.mkdtemp(prefix="scfm-gallery-"))
    out.mkdir(parents=True, exist_ok=True)
    with hosting(STATIC) as host, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=PATIENCE_MS)
        for theme in ("light", "dark"):
            lab = Lab(sl.datasets.load("pbmc68k"), model="models:/starter@champion")
            page = browser.new_page(viewport={"width": 1280, "height": 730})
            page.set_default_timeout(PATIENCE_MS)
            page.add_init_script("localStorage.setItem('scfm-lab.tour', '1')")
            page.goto(host.serve(lab, theme=theme))
            page.wait_for_selector("canvas.sl-points")
            scenes(Gallery(page, lab, out, theme, None if every else ON_THE_PAGE))
            page.close()
            lab.close()
        browser.close()


if __name__ == "__main__":
    main()
