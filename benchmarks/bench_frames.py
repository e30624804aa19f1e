"""How fast the bench draws, in a real headless Chromium with WebGL in software.

A page holds a real ``Lab`` over a web socket (``tests/browser/driven_bench.py``). Every figure is from what a person does
(a key, a slider, a lasso) until the picture that answers it has been read back from the canvas, and a frame counts only if
its picture differs from the one before. With --peer jupyter-scatter (pip install jupyter-scatter) is measured on the same cells in
the same run, by the same measure.

python benchmarks/bench_frames.py --cells 100000 --cells 1000000 --peer 100000
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "widgets" / "scfm_widgets" / "static"
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--js-flags=--expose-gc",
]

#: The hints have come already; and what WebGL has drawn can be read after the frame, which a browser else throws away.
BEFORE = """
localStorage.setItem('scfm-lab.tour', '1');
const context = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, given) {
  return context.call(this, kind, kind.startsWith("webgl") ? { ...given, preserveDrawingBuffer: true } : given);
};
"""
#: Reads pictures back and waits for one that is new.
TOOLS = """
globalThis.tools = (() => {
  const small = new OffscreenCanvas(180, 120).getContext("2d", { willReadFrequently: true });
  const canvas = (nth = 0) => document.querySelectorAll("canvas.sl-points")[nth] ?? document.querySelector("canvas");
  const hash = () => {
    const from = canvas();
    if (!from) return 0;
    small.clearRect(0, 0, 180, 120);
    small.drawImage(from, 0, 0, 180, 120);
    return small.getImageData(0, 0, 180, 120).data.reduce((sum, value) => (sum * 31 + value) | 0, 7);
  };
  const frame = () => new Promise(requestAnimationFrame);
  // Do something, and wait until another picture can be read: milliseconds from the deed to the bytes.
  const until = async (deed, most = 20000) => {
    const before = hash();
    const begin = performance.now();
    deed();
    while (performance.now() - begin < most) {
      await frame();
      if (hash() !== before) return performance.now() - begin;
    }
    return NaN;
  };
  const settled = async (quiet = 400) => {
    let last = hash(), since = performance.now();
    while (performance.now() - since < quiet) {
      await frame();
      const now = hash();
      if (now !== last) { last = now; since = performance.now(); }
    }
    return since;
  };
  return { hash, frame, until, settled, canvas };
})();
"""
PAN = """async (repeats) => {
  const plane = document.querySelector(".sl-canvas"), times = [];
  for (let i = 0; i < repeats; i++) {
    const key = i %% 2 ? "ArrowLeft" : "ArrowRight";
    const time = await tools.until(() => plane.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })));
    if (i > 1) times.push(time);
  }
  return times;
}""".replace("%%", "%")
RECOLOUR = """async (repeats) => {
  const { model } = bench, times = [];
  for (let i = 0; i < repeats; i++) {
    const name = i % 2 ? "cell_type" : "batch";
    const state = { ...model.get("state"), colour: { by: "obs", name } };
    const time = await tools.until(() => model.set("state", state));
    if (i > 3) times.push(time);
    await tools.settled(150);
  }
  return times;
}"""
MORPH = """async () => {
  document.querySelector("[aria-label='Play from before to after']").click();
  const begin = performance.now();
  let last = tools.hash(), changed = 0, end = begin;
  while (performance.now() - begin < 1400) {
    await tools.frame();
    const now = tools.hash();
    if (now !== last) { changed++; last = now; end = performance.now(); }
  }
  return changed / ((end - begin) / 1000);
}"""
SLIDER = """async (repeats) => {
  const slider = document.querySelector(".sl-range-dose"), times = [];
  await tools.settled(300);
  for (let i = 0; i < repeats; i++) {
    slider.value = String(0.1 + 0.8 * ((i * 7) % 10) / 10);
    const time = await tools.until(() => slider.dispatchEvent(new Event("input", { bubbles: true })));
    if (i > 1) times.push(time);
    await tools.settled(180);
  }
  return times;
}"""
#: When another picture is there; null where none comes.
PAINTED = """async (before) => {
  const begin = performance.now();
  while (tools.hash() === before && performance.now() - begin < 20000) await tools.frame();
  return tools.hash() === before ? null : performance.timeOrigin + performance.now();
}"""
LASSO_UP = """() => {
  globalThis.up = 0;
  addEventListener("pointerup", () => { globalThis.up = performance.timeOrigin + performance.now(); }, true);
}"""


def cells(n: int) -> Any:
    """Cells in twelve heaps with three genes."""
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    group = rng.integers(0, 12, n)
    places = rng.normal(scale=4, size=(12, 2))[group] + rng.normal(size=(n, 2))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(group, [f"type {i}" for i in range(12)]),
            "batch": pd.Categorical.from_codes(rng.integers(0, 5, n), list("abcde")),
        }
    )
    obs.index = obs.index.astype(str)
    counts = sparse.csr_matrix(rng.poisson(1.0, size=(n, 3)).astype(np.float32))
    var = pd.DataFrame(index=["CD3D", "LYZ", "NKG7"])
    return ad.AnnData(counts, obs=obs, var=var, obsm={"X_umap": places.astype(np.float32)})


def spread(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    known = [value for value in times if value == value]
    if not known:
        raise click.ClickException("What was done led to no other picture in 20 s, not once.")
    return {"median": float(np.median(known)), "p95": float(np.percentile(known, 95)), "n": len(known)}


def sent(lab: Any, trait: str) -> int:
    """Bytes of a trait on the wire."""
    return len(getattr(lab, trait))


def drawn(browser: Any, host: Any, n: int, repeats: int, renderer: str) -> dict[str, Any]:
    """Measure one bench of `n` cells."""
    from scfm_widgets import Lab

    adata = cells(n)
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(120_000)
    page.add_init_script(BEFORE)
    foreign: list[str] = []
    errors: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((host.url, "blob:", "data:")) else foreign.append(request.url),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    began = time.time()
    lab = Lab(adata)
    made = time.time() - began
    page.goto(host.serve(lab) + (f"&scfm-renderer={renderer}" if renderer != "auto" else ""))
    page.add_script_tag(content=TOOLS)
    page.wait_for_selector("canvas.sl-points")
    stable = page.evaluate("tools.settled().then((at) => performance.timeOrigin + at)") / 1000
    found: dict[str, Any] = {
        "cells": n,
        "renderer": page.locator(".sl-canvas").first.get_attribute("data-renderer"),
        "lab_ms": 1000 * made,
        "paint_ms": 1000 * (stable - began),
        "bytes_per_cell": (sent(lab, "_xy") + n) / n,
    }
    lab.state = {"density": False}
    page.evaluate("tools.settled()")
    found["points_renderer"] = page.locator(".sl-canvas").first.get_attribute("data-renderer")
    found["pan_ms"] = spread(page.evaluate(PAN, repeats + 2))
    lab.state = {"density": True}
    page.evaluate("tools.settled()")
    found["pan_density_ms"] = spread(page.evaluate(PAN, repeats + 2))
    lab.state = {"density": False}
    page.evaluate("tools.settled()")
    found["recolour_ms"] = spread(page.evaluate(RECOLOUR, repeats + 4))
    found["lasso_ms"] = lasso(page, lab, host, max(3, repeats // 4))
    lab.selection = None
    after = adata.obsm["X_umap"].copy()
    after[::3] += [1.0, 0.5]
    # The doses stand for an answer; what is drawn is all that counts here.
    effect = {"seq": 1, "doses": {"CD3D": 0.0}, "rows": [], "null": "none", "moved": n // 3, "error_median": 0.1}
    told = {**effect, "seconds": 0.0, "model": "", "groupby": None}
    # The sliders say the same, or the answer is taken for one that is still to come.
    lab.session.show_after(after, _perturbation=told, doses=told["doses"])
    # What keeps its place before there is anything to play looks much the same.
    page.get_by_role("button", name="Play from before to after", disabled=False).wait_for()
    page.evaluate("tools.settled()")
    found["morph_fps"] = float(np.median([page.evaluate(MORPH) for _ in range(3)]))
    found |= {"hosts": len(foreign), "page_errors": len(errors)}
    page.close()
    lab.close()
    return found


def lasso(page: Any, lab: Any, host: Any, repeats: int) -> dict[str, float]:
    """From letting the lasso go until the kernel has the selection and the page has painted it."""
    page.evaluate(LASSO_UP)
    page.get_by_role("button", name="Select with a lasso (L)").click()
    box = page.locator(".sl-plane").first.bounding_box()
    times = []
    for i in range(repeats):
        # One half and then the other: what is selected, and the picture, is another one each time.
        left, right = (0.05, 0.5) if i % 2 == 0 else (0.5, 0.95)
        corners = [(left, 0.05), (right, 0.05), (right, 0.9), (left, 0.9)]
        spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        before = lab.selection
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot, steps=2)
            page.wait_for_timeout(70)
        # The outline is on the picture by now; it goes in the frame that shows the selection.
        drawn_before = page.evaluate("tools.settled(150).then(tools.hash)")
        page.mouse.up()
        painted = page.evaluate(PAINTED, drawn_before)
        until = time.monotonic() + 20
        while (lab.selection == before).all() and time.monotonic() < until:
            time.sleep(0.002)
        if painted is None or (lab.selection == before).all():
            raise click.ClickException("A lasso selects nothing, or what it selects is not painted.")
        arrived = max((at for at, name in host.told if name == "_selection"), default=0.0)
        times.append(max(painted, 1000 * arrived) - page.evaluate("globalThis.up"))
    return spread(times)


#: Zooming by a wheel is what both widgets do; each frame that counts is another picture.
WHEEL = """async (repeats) => {
  const canvas = tools.canvas(), box = canvas.getBoundingClientRect(), times = [];
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, cancelable: true };
  for (let i = 0; i < repeats; i++) {
    const deltaY = i % 2 ? 40 : -40;
    const time = await tools.until(() => canvas.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY })));
    if (i > 1) times.push(time);
    await tools.settled(120);
  }
  return times;
}"""


def told(page: Any, deed: Any) -> float:
    """Milliseconds from something done in Python until another picture has been painted."""
    before = page.evaluate("tools.hash()")
    began = time.time()
    deed()
    painted = page.evaluate(PAINTED, before)
    if painted is None:
        raise click.ClickException("Another colour is not painted.")
    page.evaluate("tools.settled(200)")
    return painted - 1000 * began


def side_by_side(browser: Any, static: Path, n: int, repeats: int, *, peer: bool) -> dict[str, Any]:
    """The bench, or jupyter-scatter, on the same cells, by the same measure, in points and not as a density."""
    from driven_bench import hosting

    adata = cells(n)
    with hosting(static) as host:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(240_000)
        page.add_init_script(BEFORE)
        began = time.time()
        if peer:
            import jscatter

            frame = adata.obs.assign(x=adata.obsm["X_umap"][:, 0], y=adata.obsm["X_umap"][:, 1])
            scatter = jscatter.Scatter(data=frame, x="x", y="y", color_by="cell_type", height=600)
            widget: Any = scatter.widget
            widget.lock = threading.RLock()
            recolour = lambda name: scatter.color(by=name)  # noqa: E731
        else:
            from scfm_widgets import Lab

            widget = Lab(adata)
            widget.state = {"density": False}
            recolour = lambda name: setattr(widget, "state", {"colour": name})  # noqa: E731
        # As in JupyterLab: jupyter-scatter reads the whole memory that a buffer lies in.
        page.goto(host.serve(widget) + "&own")
        page.add_script_tag(content=TOOLS)
        page.wait_for_selector("canvas" if peer else "canvas.sl-points")
        stable = page.evaluate("tools.settled(800).then((at) => performance.timeOrigin + at)") / 1000
        found: dict[str, Any] = {"paint_ms": 1000 * (stable - began)}
        found["zoom_ms"] = spread(page.evaluate(WHEEL, repeats + 2))
        times = [told(page, lambda name=name: recolour(name)) for name in ["batch", "cell_type"] * (repeats // 2 + 1)]
        found["recolour_ms"] = spread(times[2:])
        page.close()
        widget.close()
    return found


def against_peer(browser: Any, n: int, repeats: int) -> dict[str, Any]:
    """Both, and how many times slower jupyter-scatter is."""
    import jscatter

    ours = side_by_side(browser, STATIC, n, repeats, peer=False)
    with tempfile.TemporaryDirectory() as folder:
        # Under the names by which the page asks for a widget's files.
        for ending in ("js", "css"):
            shutil.copy(Path(jscatter.__file__).with_name(f"bundle.{ending}"), Path(folder) / f"index.{ending}")
        theirs = side_by_side(browser, Path(folder), n, repeats, peer=True)
    ratio = {
        "paint": theirs["paint_ms"] / ours["paint_ms"],
        "zoom_p95": theirs["zoom_ms"]["p95"] / ours["zoom_ms"]["p95"],
        "recolour_median": theirs["recolour_ms"]["median"] / ours["recolour_ms"]["median"],
    }
    return {"cells": n, "bench": ours, "jupyter_scatter": theirs, "ratio": ratio}


def slid(browser: Any, host: Any, repeats: int) -> dict[str, float]:
    """From a slider's move to moved cells, of 2,000 real cells with a response curve."""
    import anndata as ad

    import scfm_lab as sl
    from scfm_widgets import Lab

    adata = ad.concat([sl.datasets.load("pbmc68k")] * 3, index_unique="-", merge="same")[:2000].copy()
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.add_init_script(BEFORE)
    lab = Lab(adata, model="pca")
    lab.state = {"panel": "scfm-widgets.perturb"}
    lab.doses = {"CD3D": 0.0}
    lab.wait(600)
    page.goto(host.serve(lab))
    page.add_script_tag(content=TOOLS)
    page.wait_for_selector(".sl-range-dose")
    found = spread(page.evaluate(SLIDER, repeats + 2))
    page.close()
    lab.close()
    return found


def heap(browser: Any, host: Any) -> dict[str, float]:
    """Megabytes of JavaScript's heap before and after 50 mounts and unmounts."""
    from scfm_widgets import Lab

    page = browser.new_page()
    lab = Lab(cells(20_000))
    page.goto(host.serve(lab))
    page.wait_for_selector("canvas.sl-points")
    page.evaluate("bench.unmount.forEach((end) => end())")
    session = page.context.new_cdp_session(page)

    def rounds(n: int) -> float:
        page.evaluate(
            "async (n) => { for (let i = 0; i < n; i++) { const end = bench.mount();"
            " await new Promise(requestAnimationFrame); end(); } }",
            n,
        )
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    found = {"after_10_mb": rounds(10), "after_60_mb": rounds(50)}
    page.close()
    lab.close()
    return found


@click.command()
@click.option("--cells", "sizes", type=int, multiple=True, default=(100_000, 1_000_000), show_default=True)
@click.option("--repeats", default=24, show_default=True, help="Frames of each kind.")
@click.option("--renderer", type=click.Choice(["auto", "webgl2", "raster"]), default="auto", show_default=True)
@click.option("--slider/--no-slider", default=True, show_default=True)
@click.option("--peer", "peers", type=int, multiple=True, help="Cells on which jupyter-scatter is measured too.")
@click.option("--json", "as_json", is_flag=True)
def main(
    sizes: tuple[int, ...], repeats: int, renderer: str, slider: bool, peers: tuple[int, ...], as_json: bool
) -> None:
    """Measure the bench's frames."""
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from driven_bench import hosting
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("SCFM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("Chromium is not here; install it, or set SCFM_CHROMIUM to its path.")
    os.environ.setdefault("SCFM_HOME", tempfile.mkdtemp(prefix="scfm-bench-"))
    script = (STATIC / "index.js").read_bytes()
    found: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "javascript_kb": len(script) / 1000,
        "javascript_gzip_kb": len(gzip.compress(script, 9)) / 1000,
        "benches": [],
    }
    with hosting(STATIC) as host, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        found["browser"] = browser.version
        # A browser draws its first page several times as slowly as those that follow.
        drawn(browser, host, 2_000, 4, renderer)
        for n in sizes:
            found["benches"].append(drawn(browser, host, n, repeats, renderer))
            if not as_json:
                click.echo(json.dumps(found["benches"][-1], indent=1))
        if slider:
            found["slider_ms"] = slid(browser, host, repeats)
        found["heap"] = heap(browser, host)
        browser.close()
    # Hosts of their own: each serves one widget's files.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        # Both are warm.
        if peers:
            against_peer(browser, 2_000, 4)
        found["peer"] = [against_peer(browser, n, repeats) for n in peers]
        browser.close()
    found["load_at_the_end"] = os.getloadavg()[0]
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
