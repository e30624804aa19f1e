"""From a slider's move to the painted frame, in a real JupyterLab and a real browser.

For each of several genes, chosen only then, the dose is moved once. Counted from the input
event: until the page acknowledges it (the dose beside the slider is repainted), and until the
last frame of the cells' move to their new places has been painted.

python benchmarks/slider_latency.py --model starter --genes 20
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import click

TESTS = Path(__file__).resolve().parents[1] / "tests" / "browser"

#: WebGL in software, as on a machine without a graphics card.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]

#: Records when the dose's text is painted, and when each frame of the plane is drawn and what it shows.
WATCH = """
() => {
  const bench = document.querySelector('.scfm-lab');
  const plane = bench.querySelector('[data-frame]');
  const log = { input: 0, told: 0, frames: [], shown: [] };
  window.__log = log;
  const small = new OffscreenCanvas(360, 240).getContext('2d', { willReadFrequently: true });
  // Read before the frame is composed: afterwards the drawing buffer is empty.
  const picture = () => {
    small.clearRect(0, 0, 360, 240);
    small.drawImage(bench.querySelector('canvas.sl-points'), 0, 0, 360, 240);
    return small.getImageData(0, 0, 360, 240).data.reduce((hash, value) => (hash * 31 + value) | 0, 7);
  };
  document.addEventListener('input', (event) => {
    if (event.target.matches?.('.sl-range-dose')) Object.assign(log, { input: performance.now(), told: 0, frames: [], shown: [] });
  }, true);
  new MutationObserver(() => {
    if (log.input && !log.told) requestAnimationFrame(() => { log.told ||= performance.now(); });
  }).observe(bench.querySelector('.sl-side'), { subtree: true, childList: true, characterData: true });
  new MutationObserver(() => {
    if (!log.input) return;
    log.frames.push(performance.now());
    log.shown.push(picture());
  })
    .observe(plane, { attributes: true, attributeFilter: ['data-frame'] });
}
"""
SETTLED = """
() => {
  const log = window.__log;
  const busy = document.querySelector('.scfm-lab .sl-morph-text .sl-computing');
  return log.told && !busy && log.frames.length && performance.now() - log.frames.at(-1) > 700;
}
"""


def measure(model: str, genes: list[str], chromium: str) -> list[dict[str, float]]:
    """Milliseconds to the acknowledgement and to the last frame, for each gene."""
    sys.path.insert(0, str(TESTS))
    from driven_jupyter import open_notebook, run_cell, serve
    from playwright.sync_api import sync_playwright

    code = (
        "import scfm_lab as sl\nfrom scfm_widgets import Lab\n"
        f"lab = Lab(sl.datasets.load('pbmc68k'), model={model!r}, groupby=None)\nlab"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        work, home = Path(folder) / "work", Path(folder) / "home"
        work.mkdir()
        home.mkdir()
        with serve(work, home) as server:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.set_default_timeout(120_000)
            open_notebook(page, server.notebook("latency", code))
            run_cell(page, 0)
            bench = page.locator(".scfm-lab")
            bench.locator(".sl-plane canvas").first.wait_for()
            bench.get_by_role("tab", name="Run", exact=True).click()
            page.locator("button", has_text="Run on").click()
            page.get_by_text("Done in").wait_for()
            bench.get_by_role("tab", name="Perturb", exact=True).click()
            page.wait_for_timeout(2_000)
            page.evaluate(WATCH)
            for gene in genes:
                box = page.get_by_role("combobox", name="Add a gene to perturb")
                box.click()
                box.fill(gene)
                page.get_by_role("option", name=re.compile(rf"^{re.escape(gene)}\b")).first.click()
                page.wait_for_timeout(1_500)
                slider = page.locator(".sl-range-dose").last
                edge = slider.bounding_box()
                page.mouse.click(edge["x"] + 2, edge["y"] + edge["height"] / 2)
                page.wait_for_function(SETTLED, polling=100)
                log = page.evaluate("window.__log")
                # The first frame that shows what all later ones show: the cells have come to their new places.
                last = len(log["shown"]) - 1
                while last and log["shown"][last - 1] == log["shown"][-1]:
                    last -= 1
                rows.append({"told": log["told"] - log["input"], "painted": log["frames"][last] - log["input"]})
                page.get_by_role("button", name=f"Remove {gene}").click()
                page.wait_for_timeout(1_500)
            browser.close()
    return rows


@click.command(help=__doc__)
@click.option("--model", default="starter", show_default=True)
@click.option("--genes", default=20, show_default=True, help="Genes, one move each, drawn at random.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(model: str, genes: int, seed: int, as_json: bool) -> None:
    """Print medians and 95th percentiles."""
    import numpy as np

    import scfm_lab as sl

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise click.ClickException("Needs Chromium; install the package chromium.")
    adata = sl.datasets.load("pbmc68k")
    seen = np.flatnonzero(np.asarray((adata.X > 0).sum(axis=0)).ravel() > 20)
    chosen = np.random.default_rng(seed).choice(seen, genes, replace=False)
    names = [str(adata.var_names[i]) for i in chosen]
    rows = measure(model, names, chromium)
    figures: dict[str, object] = {"model": model, "moves": len(rows), "machine": sl.Hardware.detect().describe()}
    for key in ("told", "painted"):
        values = [row[key] for row in rows]
        figures[f"{key}_ms_p50"] = round(float(np.median(values)))
        figures[f"{key}_ms_p95"] = round(float(np.quantile(values, 0.95)))
    click.echo(json.dumps(figures, indent=None if as_json else 2))


if __name__ == "__main__":
    main()
