"""One HTML file of the bench: it holds what it says, nothing hostile runs in it, and it asks nobody for anything."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from looking import other_than, steady

import scfm_lab as sl
from scfm_lab.errors import DataError, GenesError, ModelError, StorageError
from scfm_widgets import export
from scfm_widgets.export import DOSES, payload_of, write_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData
    from playwright.sync_api import Browser, Page

    from tests.widgets.conftest import Bench

MODEL = "sctop"
GENE = "CD3D"
EVIL = "</script><img src=x onerror=\"document.title='owned'\">"


def read(payload: str) -> tuple[dict[str, Any], bytes]:
    """What the browser makes of a payload."""
    document = json.loads(payload)
    return document, zlib.decompress(base64.b64decode(document["data"]))


class Reader(HTMLParser):
    """Elements and text of a page as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside[-1] if self.inside else "", []).append(data)


class TestPayload:
    @pytest.fixture
    def pbmc68k(self, pbmc68k: AnnData) -> AnnData:
        """Half of them: answers and nulls take half of the time."""
        return pbmc68k[::2].copy()

    def test_holds_places_and_columns_as_they_are_on_the_bench(self, bench: Callable[..., Bench]) -> None:
        lab = bench(model=MODEL).lab
        document, data = read(payload_of(lab).to_json())
        part = document["bytes"]["_xy"]
        assert data[part["offset"] : part["offset"] + part["length"]] == lab._xy
        reply = document["replies"]["column:obs:cell_type"]
        codes = data[reply["buffer"]["offset"] :][: reply["buffer"]["length"]]
        assert codes == lab.session.columns.of_obs("cell_type").codes
        assert "column:gene:LYZ" in document["replies"], "all genes of a small dataset go along"

    def test_holds_a_genes_answers_at_each_dose(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench(model=MODEL).lab
        document, data = read(payload_of(lab, genes=[GENE]).to_json())
        responses = {item["dose"]: item for item in document["responses"]}
        assert sorted(responses) == sorted(DOSES)
        expected = sl.perturb(pbmc68k, MODEL, {GENE: 0.0}, groupby="cell_type", null=False, progress=False)
        after = responses[0.0]["after"]
        assert after["offset"] % 2 == 0, "places are read as uint16 where they lie"
        places = np.frombuffer(data[after["offset"] :][: after["length"]], "<u2").tobytes()
        assert places == lab.session.frame.pack(expected.layout.after)
        effects = {row["group"]: row["effect"] for row in responses[0.0]["perturbation"]["rows"]}
        assert effects == pytest.approx(dict(zip(expected.table["group"], expected.table["effect"], strict=True)))

    def test_keeps_the_null_that_was_computed(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        document, _ = read(payload_of(opened.lab).to_json())
        knockout = next(item for item in document["responses"] if item["dose"] == 0.0)["perturbation"]
        assert knockout["null"] == "ready"
        assert knockout["rows"] == opened.lab._perturbation["rows"]
        # One that was still being computed is not waited for on a page; of the registry it names the picked model alone.
        opened.lab.publish(_perturbation={**opened.lab._perturbation, "null": "pending"})
        traits = payload_of(opened.lab).traits
        assert traits["_perturbation"]["null"] == "none"
        assert len(opened.lab._models["rows"]) > 2
        assert [row["name"] for row in traits["_models"]["rows"]] == [MODEL]

    def test_one_slider_is_of_one_model_and_its_groups(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        few = pbmc68k[::7].copy()
        lab = bench(few, model="pca").lab
        others = [
            sl.perturb(few, MODEL, {GENE: 0.0}, groupby="cell_type", null=False, progress=False),
            sl.perturb(few, "pca", {GENE: 0.0}, set_to={"LYZ": 5}, groupby="cell_type", null=False, progress=False),
        ]
        for other in others:
            lab.result = other
            lab.wait(60)
            # Alone it goes along as it is, without sliders that would be answered otherwise.
            alone = payload_of(lab)
            assert alone.responses == alone.together == []
            assert alone.traits["_perturbation"] == lab._perturbation
            assert alone.buffers["_after"] == lab._after
            assert "other doses than those that are shown" in alone.kernel_only
            assert "perturb" in [row["component"] for row in alone.traits["_panels"]]
            # Asked for by name, all answers are the picked model's.
            asked = payload_of(lab, genes=[GENE])
            own = sl.perturb(few, "pca", {GENE: 0.0}, groupby="cell_type", null=False, progress=False)
            (knockout,) = [item for item in asked.responses if item["dose"] == 0.0]
            told = {row["group"]: row["effect"] for row in knockout["perturbation"]["rows"]}
            assert told == pytest.approx(dict(zip(own.table["group"], own.table["effect"], strict=True)))
            assert asked.traits["_perturbation"] is None
            assert any("set from Python" in words for words in asked.left_out)
        # Several genes at once neither.
        lab.result = sl.perturb(few, MODEL, {GENE: 0.0, "LYZ": 0.0}, groupby="cell_type", null=False, progress=False)
        lab.wait(60)
        assert payload_of(lab, genes=["MS4A1"]).together == []

    def test_without_a_model_a_result_from_python_goes_along(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        few = pbmc68k[::7].copy()
        lab = bench(few).lab
        lab.result = sl.perturb(few, MODEL, {GENE: 0.0}, groupby="cell_type", null=False, progress=False)
        payload = payload_of(lab)
        assert payload.traits["_perturbation"]["rows"]
        assert "other doses than those that are shown" in payload.kernel_only
        with pytest.raises(ModelError, match="No model is picked"):
            payload_of(lab, genes=["LYZ"])

    def test_ends_beyond_the_first_are_listed(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab = bench().lab
        found = sl.trajectory(pbmc68k, use_rep="X_umap", root="CD34+", groupby="cell_type", basis="X_umap", twin=False)
        lab.result = found
        monkeypatch.setattr(export, "_MOST_ENDS", 0)
        payload = payload_of(lab)
        ends = [f"fate:{end}" for end in found.fates]
        assert not {f"column:result:{end}" for end in ends} & payload.replies.keys()
        assert f"of the trajectory: {', '.join(ends)}" in payload.left_out

    def test_a_gene_that_is_not_there_is_an_error_in_words(self, bench: Callable[..., Bench]) -> None:
        with pytest.raises(GenesError, match="CD33D"):
            payload_of(bench(model=MODEL).lab, genes=["CD33D"])

    def test_a_single_gene_is_one_gene(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench(pbmc68k[::20].copy(), model=MODEL).lab
        assert payload_of(lab, genes=GENE).traits["_meta"]["responses"] == [GENE]
        with pytest.raises(GenesError, match="'CD33D'"):
            payload_of(lab, genes="CD33D")

    def test_beyond_its_size_it_leaves_genes_out_and_says_so(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "GENE_BYTES", 20 * pbmc68k.n_obs)
        payload = payload_of(bench(model=MODEL).lab, genes=["TNFRSF4"])
        genes = [key for key in payload.replies if key.startswith("column:gene:")]
        assert len(genes) == 20
        assert "column:gene:TNFRSF4" in genes, "a gene that was asked for stays, however little it varies"
        assert payload.left_out == ["745 of 765 genes"]

    def test_its_answers_have_the_groups_in_the_order_of_the_legend(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        order = [str(i) for i in range(12)]
        leiden = np.resize(order, pbmc68k.n_obs)
        pbmc68k.obs["leiden"] = leiden
        pbmc68k.obs["leiden"] = pbmc68k.obs["leiden"].astype("category").cat.reorder_categories(order)
        payload = payload_of(bench(model=MODEL, groupby="leiden", colour="leiden").lab, genes=[GENE])
        told = [[row["group"] for row in item["perturbation"]["rows"]] for item in payload.responses]
        assert told == [["all", *order]] * len(DOSES)

    def test_stays_below_its_size_as_a_whole_and_lists_what_it_leaves_out(
        self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        whole = len(export.page(payload_of(opened.lab), title="t").encode())
        limit = whole + export._RESERVED - 120_000
        monkeypatch.setattr(export, "PAGE_BYTES", limit)
        payload = payload_of(opened.lab, genes=["LYZ"])
        assert len(export.page(payload, title="t").encode()) <= limit
        # First what is on the screen and was asked for, then the rest.
        assert {"column:obs:cell_type", f"column:gene:{GENE}", "column:gene:LYZ"} <= payload.replies.keys()
        assert {item["gene"] for item in payload.responses} == {GENE, "LYZ"}
        (genes,) = [words for words in payload.left_out if words.endswith("of 765 genes")]
        assert 0 < int(genes.split()[0]) < 765
        # Where there is no room at all places remain, and everything else is in the list.
        monkeypatch.setattr(export, "PAGE_BYTES", 0)
        bare = payload_of(opened.lab)
        assert bare.buffers["_xy"] == opened.lab._xy
        assert bare.traits["doses"] == {}
        assert bare.left_out[0] == f"the answers of {GENE}"
        assert {"765 of 765 genes", "the cells' names"} <= set(bare.left_out)
        page = Reader(export.page(bare, title="t"))
        assert set(bare.left_out) | set(bare.kernel_only) <= set(page.texts["li"])
        assert "the panels Models" in bare.kernel_only[0]

    @pytest.mark.parametrize("dense", [False, True])
    def test_variable_genes_are_those_of_what_is_shown(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, dense: bool
    ) -> None:
        few = pbmc68k[:200, :50].copy()
        if dense:
            few.X = few.X.toarray()
        columns = bench(few).lab.session.columns
        expected = [np.var(columns.expression(name)) for name in few.var_names]
        np.testing.assert_allclose(columns.spread(), expected, rtol=1e-6, atol=1e-9)

    def test_is_not_coloured_by_what_holds_at_one_dose_alone(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        for name, words in (("shift", "how far each cell moved"), ("error", "the projection error")):
            chosen = {"by": "result", "name": name}
            opened.lab.state = {"colour": chosen}
            payload = payload_of(opened.lab)
            assert f"column:result:{name}" not in payload.replies
            assert name not in payload.traits["_meta"]["results"]
            assert payload.traits["state"]["colour"] == {"by": "obs", "name": "cell_type"}
            assert f"colouring the cells by {words}" in payload.kernel_only
            assert opened.lab.state["colour"] == chosen, "the bench itself stays as it is"

    def test_leaves_out_panels_that_need_a_kernel(self, bench: Callable[..., Bench]) -> None:
        lab = bench(model=MODEL).lab
        assert [row["component"] for row in payload_of(lab).traits["_panels"]] == ["embedding"]
        with_gene = payload_of(lab, genes=[GENE]).traits["_panels"]
        assert [row["component"] for row in with_gene] == ["embedding", "perturb"]


class TestFile:
    def test_escapes_what_others_wrote(self, bench: Callable[..., Bench], pbmc68k: AnnData, tmp_path: Path) -> None:
        pbmc68k.obs["cell_type"] = pbmc68k.obs["cell_type"].cat.rename_categories({"CD34+": EVIL})
        sections = [{"heading": EVIL, "text": f"{EVIL}\nsecond"}, {"heading": "T", "table": [["a"], [EVIL]]}]
        path = write_html(tmp_path / "page.html", title=EVIL, lab_or_payload=bench().lab, sections=sections, lead=EVIL)
        page = Reader(path.read_text(encoding="utf-8"))
        assert not [tag for tag, _ in page.elements if tag == "img"]
        assert page.texts["title"] == [EVIL]
        assert EVIL in page.texts["td"]
        payload = next(text for text in page.texts["script"] if text.startswith("{"))
        reply = json.loads(payload)["replies"]["column:obs:cell_type"]
        assert EVIL in reply["content"]["column"]["labels"]

    def test_names_no_other_place(self, bench: Callable[..., Bench], tmp_path: Path) -> None:
        text = write_html(tmp_path / "page.html", title="t", lab_or_payload=bench().lab).read_text(encoding="utf-8")
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<)]*", text))
        assert {a for a in addresses if "www.w3.org" not in a} == set()
        page = Reader(text)
        assert not [tag for tag, attrs in page.elements if attrs.get("src") or tag == "link"]
        policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")

    def test_pictures_lie_inside(self, bench: Callable[..., Bench], tmp_path: Path) -> None:
        svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>é</text></svg>'
        path = write_html(
            tmp_path / "p.html",
            title="t",
            lab_or_payload=bench().lab,
            sections=[{"heading": "h", "svg": svg, "alt": "a chart"}],
        )
        source = next(a for tag, a in Reader(path.read_text(encoding="utf-8")).elements if tag == "img")
        assert base64.b64decode(source["src"].removeprefix("data:image/svg+xml;base64,")).decode() == svg
        assert source["alt"] == "a chart"

    def test_a_mistyped_section_is_refused(self, bench: Callable[..., Bench], tmp_path: Path) -> None:
        with pytest.raises(DataError, match="'txt'"):
            write_html(tmp_path / "p.html", title="t", lab_or_payload=bench().lab, sections=[{"txt": "x"}])
        assert list(tmp_path.iterdir()) == []

    def test_that_cannot_be_written_is_an_error_in_words_and_leaves_nothing(
        self, bench: Callable[..., Bench], tmp_path: Path
    ) -> None:
        with pytest.raises(StorageError, match=r"cannot be written to .*missing"):
            write_html(tmp_path / "missing" / "p.html", title="t", lab_or_payload=bench().lab)
        taken = tmp_path / "taken"
        taken.mkdir()
        with pytest.raises(StorageError):
            write_html(taken, title="t", lab_or_payload=bench().lab)
        assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[Path], tuple[Page, list[str]]]]:
    """Opens a file as a double click does; also gives its errors and requests."""
    pages: list[Page] = []

    def open_file(path: Path, query: str = "") -> tuple[Page, list[str]]:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        pages.append(page)
        seen: list[str] = []
        page.on("pageerror", lambda error: seen.append(f"error {error}"))
        page.on("console", lambda said: seen.append(f"console {said.text}") if said.type == "error" else None)
        page.on("request", lambda request: seen.append(request.url))
        page.goto(path.as_uri() + query)
        page.wait_for_selector(".scfm-lab .sl-plane canvas")
        return page, seen

    yield open_file
    for page in pages:
        page.close()


class TestInTheBrowser:
    def test_opens_from_disk_and_asks_nobody(
        self, bench: Callable[..., Bench], visit: Callable[..., Any], tmp_path: Path
    ) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="run", model=MODEL, layout="X_umap")
        opened.ask(type="trajectory", root={"group": "CD34+"}, groupby="cell_type")
        path = write_html(tmp_path / "page.html", title="Blood", lab_or_payload=opened.lab, genes=[GENE])
        page, seen = visit(path)
        page.get_by_role("tab", name="Trajectory").click()
        page.get_by_role("img", name=re.compile("Pseudotime from CD34")).wait_for()
        steady(page.locator(".scfm-lab"))
        assert [url for url in seen if not url.startswith(("blob:null/", path.as_uri()))] == []

    def test_the_slider_moves_the_cells(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, visit: Callable[..., Any], tmp_path: Path
    ) -> None:
        few = pbmc68k[::3].copy()
        lab = bench(few, model=MODEL).lab
        both = {GENE: 0.0, "LYZ": 2.0}
        lab.result = sl.perturb(few, MODEL, both, groupby="cell_type", null=False, n_draws=8, progress=False)
        payload = payload_of(lab)
        page, seen = visit(write_html(tmp_path / "page.html", title="Blood", lab_or_payload=payload))
        plane = page.locator(".sl-plane")
        # Two genes together stand there as they were computed, and can be come back to.
        (pair,) = payload.together
        assert (pair["doses"], pair["after"]) == (both, lab._after)
        together = page.get_by_role("button", name=f"{GENE} knocked out, LYZ 2 × its counts")
        assert together.get_attribute("aria-pressed") == "true"
        shown = steady(plane)
        page.get_by_role("group", name=f"Presets for {GENE}").get_by_role("button", name="Unchanged").click()
        before = other_than(plane, shown)
        slider = page.get_by_label(GENE, exact=True)
        slider.focus()
        slider.press("Home")
        page.get_by_text(f"{GENE} knocked out", exact=True).wait_for()
        knocked_out = other_than(plane, before)
        slider.press("PageUp")
        page.get_by_text("between computed doses").wait_for()
        half = other_than(plane, before, knocked_out)
        page.get_by_role("button", name="Before", exact=True).click()
        other_than(plane, half)
        # The page holds each gene alone: another one puts this one back.
        page.get_by_label("LYZ", exact=True).press("Home")
        page.get_by_text("LYZ knocked out", exact=True).wait_for()
        assert slider.input_value() == "1"
        together.click()
        page.get_by_role("button", name="After", exact=True).click()
        assert (slider.input_value(), page.get_by_label("LYZ", exact=True).input_value()) == ("0", "2")
        other_than(plane, before, knocked_out, half)
        assert [item for item in seen if item.startswith(("error", "console"))] == []

    def test_both_backends_draw_the_same_cells(
        self, bench: Callable[..., Bench], visit: Callable[..., Any], tmp_path: Path
    ) -> None:
        from PIL import Image

        path = write_html(tmp_path / "page.html", title="Blood", lab_or_payload=bench().lab)
        drawn = {}
        for backend in ("webgl2", "raster"):
            page, _ = visit(path, f"?scfm-renderer={backend}")
            plane = page.locator(".sl-canvas")
            steady(plane)
            assert plane.get_attribute("data-renderer") == backend, plane.get_attribute("data-refused")
            picture = Image.open(io.BytesIO(plane.screenshot())).convert("RGB")
            drawn[backend] = np.asarray(picture, dtype=float)
        inked = {name: (pixels < 240).any(axis=2).mean() for name, pixels in drawn.items()}
        assert inked["raster"] > 0.02
        assert inked["webgl2"] == pytest.approx(inked["raster"], rel=0.15)
        # Edges are smoothed differently; the cells lie in the same places in the same colours.
        assert np.abs(drawn["webgl2"] - drawn["raster"]).mean() < 2.0

    def test_a_lost_graphics_context_is_replaced_by_the_raster(
        self, bench: Callable[..., Bench], visit: Callable[..., Any], tmp_path: Path
    ) -> None:
        path = write_html(tmp_path / "page.html", title="Blood", lab_or_payload=bench().lab)
        page, seen = visit(path, "?scfm-renderer=webgl2")
        page.wait_for_selector("[data-renderer=webgl2] canvas.sl-points")
        page.evaluate(
            "document.querySelector('canvas.sl-points').getContext('webgl2')"
            ".getExtension('WEBGL_lose_context').loseContext()"
        )
        page.wait_for_selector("[data-renderer=raster] canvas.sl-points")
        assert page.locator("canvas.sl-points").count() == 1
        assert [item for item in seen if item.startswith("error")] == []

    def test_hostile_names_are_shown_as_text(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, visit: Callable[..., Any], tmp_path: Path
    ) -> None:
        pbmc68k.obs["cell_type"] = pbmc68k.obs["cell_type"].cat.rename_categories({"CD34+": EVIL})
        page, seen = visit(write_html(tmp_path / "page.html", title=EVIL, lab_or_payload=bench().lab))
        page.locator(".sl-group-name", has_text="onerror").wait_for()
        page.get_by_role("combobox", name="Colour cells").click()
        page.get_by_role("listbox").wait_for()
        assert page.title() == EVIL
        assert page.locator("img").count() == 0
        assert [item for item in seen if item.startswith(("error", "console"))] == []
