"""The picture in a notebook's file: there once there is a layout, and below it the code that brings the bench back."""

from __future__ import annotations

import base64
import html
import io
import json
import queue
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import DataError
from scfm_widgets import lab as lab_module
from scfm_widgets import still

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from scfm_widgets import Lab
    from tests.widgets.conftest import Bench

MODEL = "sctop"
GENE = "CD3D"
EVIL = "</pre></details><script>document.title='owned'</script>"


@dataclass
class Output:
    """Where a notebook's cell shows the picture: every page that was put there, in order."""

    pages: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    #: What the notebook's file would hold of it.
    data: dict[str, Any] = field(default_factory=dict)

    def display(self, data: dict[str, Any], metadata: Any = None, **more: Any) -> Output:
        """Take what a cell puts out; the widget itself is of no interest here."""
        del metadata, more
        if "text/html" in data:
            self.pages.put(data["text/html"])
        return self

    def update(self, data: dict[str, Any], *, raw: bool) -> None:
        """Take what stands in its place now."""
        assert raw
        self.data = data
        self.pages.put(data["text/html"])

    def until(self, holds: Callable[[str], bool]) -> str:
        """Give the first page from now on of which something holds."""
        while not holds(page := self.pages.get(timeout=60)):
            pass
        return page


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Stands where IPython would show an output; the picture follows at once."""
    place = Output()
    monkeypatch.setattr(still, "in_notebook", lambda: True)
    monkeypatch.setattr(still, "put_out", place.display)
    monkeypatch.setattr(lab_module, "put_out", place.display)
    monkeypatch.setattr(still, "_RESTS", 0.01)
    return place


def code_in(page: str) -> str:
    """What a person finds below the picture; empty where nothing is."""
    found = re.search(r"<details>.*<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    return html.unescape(found[1]) if found else ""


def rest(lab: Lab) -> None:
    """Wait until no picture is to be drawn any more."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.function == lab._still._update:
            thread.join(60)


def test_cells_without_a_layout_get_their_picture_once_a_model_has_run(
    bench: Callable[..., Bench], output: Output, pbmc68k: AnnData
) -> None:
    from PIL import Image

    few = pbmc68k[:150].copy()
    few.obsm.clear()
    opened = bench(few, model=MODEL)
    opened.lab._ipython_display_()
    first = output.until(bool)
    assert "No layout yet" in first
    assert "<img" not in first
    opened.ask(type="run", model=MODEL, layout=None)
    page = output.until(lambda page: "<img" in page and code_in(page) == opened.lab.code())
    assert "No layout yet" not in page
    assert "umap_plane" in code_in(page)
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(source))).getcolors(1_000_000) is not None


def test_the_code_below_follows_doses_and_selection_and_is_only_text(
    bench: Callable[..., Bench], output: Output, pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = pbmc68k[:150].copy()
    few.obs_names = [EVIL, *few.obs_names[1:]]
    lab = bench(few, model=MODEL, groupby="cell_type").lab
    lab._ipython_display_()
    output.until(lambda page: code_in(page) == lab.code())
    lab.doses = {GENE: 0.0}
    lab.wait(60)
    output.until(lambda page: GENE in code_in(page) and code_in(page) == lab.code())
    rest(lab)
    drawn: list[Any] = []
    monkeypatch.setattr(still, "draw", lambda *given: drawn.append(given))
    lab.selection = [0]
    page = output.until(lambda page: "lab.selection" in code_in(page))
    assert code_in(page) == lab.code()
    assert EVIL in lab.code()
    assert "<script" not in page
    assert page.count("</details>") == 1
    rest(lab)
    assert drawn == [], "what is not in the picture draws none anew"


def test_the_picture_stands_without_code_that_cannot_be_told_or_is_too_long(
    bench: Callable[..., Bench], output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = bench().lab
    lab._ipython_display_()
    output.until(lambda page: code_in(page) == lab.code())
    lab.adata.uns["scfm"] = 5
    with pytest.raises(TypeError):
        lab.code()
    lab.selection = [1]
    page = output.until(lambda page: not code_in(page))
    assert "<img" in page
    assert "How to come back to this cannot be told. Something went wrong (TypeError" in html.unescape(page)
    del lab.adata.uns["scfm"]
    lab.selection = [2]
    output.until(lambda page: code_in(page) == lab.code())
    monkeypatch.setattr(still, "_MOST_LETTERS", 100)
    lab.selection = [3]
    page = output.until(lambda page: not code_in(page))
    assert "<img" in page
    assert "<details" not in page
    assert "too many for a notebook: lab.code() gives it" in page


def test_a_bench_comes_back_from_the_saved_notebook_as_it_was_left(
    bench: Callable[..., Bench], output: Output, pbmc68k: AnnData, tmp_path: Path
) -> None:
    few = pbmc68k[:150].copy()
    few.obsm["X_two"] = few.obsm["X_umap"][:, ::-1]
    lab = bench(few, model=MODEL, groupby="cell_type").lab
    lab._ipython_display_()
    lab.state = {"colour": GENE, "range": [0.5, 3], "second": "X_two", "follow": [GENE], "panel": "perturb"}
    lab.selection = [3, 149]
    lab.doses = {GENE: 1.0, "LYZ": 0.5}
    lab.wait(60)
    output.until(lambda page: "LYZ" in code_in(page) and code_in(page) == lab.code())
    rest(lab)
    cells = [{"outputs": []}, {"outputs": [{"data": json.loads(json.dumps(output.data))}]}, {"source": "text"}]
    path = tmp_path / "analysis.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    again = bench(few.copy(), state=path).lab
    again.wait(60)
    assert (again.state, again.doses) == (lab.state, lab.doses)
    assert (again.selection == lab.selection).all()
    assert again.results["perturb"].doses == {"LYZ": 0.5}
    assert again.session.faults == []
    # What is not in the cells any more is told, and the rest comes back.
    other = few.copy()
    del other.obsm["X_two"]
    again = bench(other, state=str(path)).lab
    assert (again.state["second"], again.state["colour"]) == (None, lab.state["colour"])
    (fault,) = again.session.faults
    assert fault["text"].startswith("The bench is as it was left but for second:")
    with pytest.raises(DataError, match="had 150 cells; these are 20"):
        bench(few[:20].copy(), state=path)
    path.write_text("{}")
    with pytest.raises(DataError, match="not a notebook"):
        bench(few, state=path)
    with pytest.raises(DataError, match="has no 'colours'"):
        bench(few, state={"colours": GENE})
    assert bench(few, state={"colour": "LYZ"}).lab.state["colour"] == {"by": "gene", "name": "LYZ"}
