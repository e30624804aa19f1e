"""What a person takes along from the bench: code that gives the same bench again, methods, a page."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from writers import write_scgpt

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.tasks.compare import compare
from scfm_lab.tasks.layout import umap_plane, write_plane
from scfm_widgets.codec import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from scfm_widgets import Lab
    from tests.widgets.conftest import Bench

MODEL = "models:/pca/1"
GENE = "CD3D"


@pytest.fixture
def worked(bench: Callable[..., Bench], pbmc68k: AnnData) -> Iterator[Bench]:
    """A bench on which something was done: an embedding, a path, a knockout, a selection."""
    opened = bench(model=MODEL)
    opened.ask(type="run", model=MODEL, layout="X_umap")
    opened.ask(600, type="trajectory", root={"group": "CD34+"}, groupby="cell_type")
    opened.ask(600, type="perturb", doses={GENE: 0.0, "LYZ": 1.0})
    opened.lab.selection = np.flatnonzero(pbmc68k.obs["cell_type"] == "CD56+ NK")
    opened.lab.state = {"colour": GENE, "hidden": [], "field": True, "second": "pca:X_pca"}
    return opened


@pytest.fixture
def loaded(_pbmc68k: AnnData) -> AnnData:
    """The same cells once more, untouched: not read anew, as threads of a bench share what a process does with warnings."""
    return _pbmc68k.copy()


@pytest.fixture
def two(tmp_path: Path, pbmc68k: AnnData) -> list[str]:
    """Two small checkpoints of one family."""
    genes = list(pbmc68k.var_names[10:])
    folders = [tmp_path / name for name in ("blood", "brain")]
    return [str(write_scgpt(folder, pbmc68k, genes=genes, seed=seed)) for seed, folder in enumerate(folders)]


def run(code: str, adata: AnnData) -> dict[str, Any]:
    scope: dict[str, Any] = {"adata": adata}
    exec(compile(code, "copied", "exec"), scope)
    return scope


class TestCode:
    def test_gives_the_same_bench_on_the_cells_as_they_were_loaded(self, worked: Bench, loaded: AnnData) -> None:
        lab = worked.lab
        again: Lab = run(lab.code(), loaded)["lab"]
        try:
            again.wait(60)
            assert {**again.state, "model": None, "panel": None} == {**lab.state, "model": None, "panel": None}
            assert again.doses == lab.doses
            assert (again.selection == lab.selection).all()
            assert again.results.keys() == lab.results.keys()
            mine: Any = lab.results
            other: Any = again.results
            np.testing.assert_array_equal(other["embed"].vectors, mine["embed"].vectors)
            np.testing.assert_array_equal(other["perturb"].shift, mine["perturb"].shift)
            np.testing.assert_allclose(other["trajectory"].pseudotime, mine["trajectory"].pseudotime, atol=1e-6)
            assert list(other["perturb"].table["verdict"]) == list(mine["perturb"].table["verdict"])
            assert bytes(again._after) == bytes(lab._after)
        finally:
            again.close()

    def test_names_the_version_and_not_the_alias(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model="models:/pca@champion")
        opened.ask(type="run", model="models:/pca@champion", layout="X_umap")
        assert "sl.load_model('models:/pca/1')" in opened.lab.code()

    def test_keeps_what_results_from_python_were_asked_with(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        for cells in (pbmc68k, loaded):
            cells.obs["donor"] = [f"d{i % 3}" for i in range(cells.n_obs)]
            cells.layers["counts"] = cells.X.copy()
        lab = bench(model="models:/pca@champion", title="Blood").lab
        few, genes = {"progress": False, "layer": "counts"}, [GENE, "LYZ", "MS4A1"]
        lab.result = sl.embed(pbmc68k, MODEL, key_added="X_own", seed=3, **few)
        lab.result = sl.trajectory(
            pbmc68k,
            use_rep="X_own",
            root="CD34+",
            groupby="cell_type",
            n_neighbors=12,
            n_roots=1,
            twin=False,
            key_added="p",
        )
        lab.result = sl.screen(pbmc68k, MODEL, genes, dose=0.5, max_cells=40, n_null=19, n_draws=1, seed=2, **few)
        lab.result = sl.perturb(
            pbmc68k, MODEL, {GENE: 0.5}, set_to={"LYZ": 5.0}, sample_key="donor", n_draws=3, n_null=20, seed=7, **few
        )
        lab.state = {"against": "models:/pca@champion", "panel": "genes"}
        with pytest.raises(Exception, match=r"no panel 'gnes'.*Genes"):
            lab.state = {"panel": "gnes"}
        code = lab.code()
        assert "@champion" not in code
        again: Lab = run(code, loaded)["lab"]
        try:
            again.wait(60)
            mine: Any = lab.results
            other: Any = again.results
            assert other.keys() == mine.keys()
            np.testing.assert_array_equal(other["embed"].vectors, mine["embed"].vectors)
            np.testing.assert_allclose(other["trajectory"].pseudotime, mine["trajectory"].pseudotime, atol=1e-6)
            assert (other["trajectory"].key, len(other["trajectory"].roots)) == ("p", len(mine["trajectory"].roots))
            assert other["trajectory"].twin is None
            for task in ("perturb", "screen"):
                assert other[task].table.equals(mine[task].table), task
                assert other[task].provenance["arguments"] == mine[task].provenance["arguments"]
            assert (again.title, again.state["panel"]) == ("Blood", "genes")
        finally:
            again.close()

    def test_gives_results_with_a_target_again_and_leaves_out_those_against_a_reference(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        import scfm_lab as sl

        few, rest = pbmc68k[::5, :200].copy(), loaded[::5, :200].copy()
        gene = str(few.var_names[np.asarray((few.X > 0).sum(axis=0)).ravel().argmax()])
        asked: dict[str, Any] = {"groupby": "cell_type", "target": "CD19+ B", "progress": False}
        lab = bench(few, model=MODEL).lab
        lab.result = sl.screen(few, MODEL, [gene], n_null=19, **asked)
        lab.result = sl.perturb(few, MODEL, {gene: 0.0}, null=False, **asked)
        again: Lab = run(lab.code(), rest)["lab"]
        again.wait(60)
        for task in ("perturb", "screen"):
            mine: Any = lab.results[task]
            other: Any = again.results[task]
            assert "towards_target" in set(mine.table["readout"])
            assert other.table.equals(mine.table), task
        again.close()
        reference = few[few.obs["cell_type"] == "CD19+ B"].copy()
        asked |= {"reference": reference, "labels_key": "cell_type"}
        lab.result = sl.perturb(few, MODEL, {gene: 0.0}, null=False, **asked)
        code = lab.code()
        assert "sl.perturb(" not in code
        assert "# The perturbation was told against a reference (reference=); it is not repeated here." in code

    def test_sets_the_doses_that_the_sliders_have_where_the_result_is_of_others(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        import scfm_lab as sl

        few = pbmc68k[::5].copy()
        lab = bench(few).lab
        lab.result = sl.perturb(few, MODEL, {GENE: 0.0}, null=False, progress=False)
        assert "lab.doses" not in lab.code()
        # No model is picked that could answer: the result stays that of the former dose.
        lab.publish(doses={GENE: 0.5})
        assert f"lab.doses = {{'{GENE}': 0.5}}" in lab.code()

    def test_and_methods_tell_what_the_genes_panel_has_computed(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        few, rest = pbmc68k[::5].copy(), loaded[::5].copy()
        opened = bench(few, model="models:/starter/1")
        opened.ask(type="alike", gene="LYZ")
        opened.ask(type="alike", gene=GENE)
        opened.ask(type="alike", gene="LYZ")
        opened.ask(type="attention", gene=GENE)
        lab = opened.lab
        scope = run(lab.code(), rest)
        for variable, task in (("attention", "gene_attention"), ("similar", "similar_genes")):
            mine: Any = lab.results[task]
            assert scope[variable].table.equals(mine.table), task
            assert scope[variable].provenance["arguments"] == mine.provenance["arguments"]
        assert scope["similar"].gene == "LYZ", "the gene that was asked about last"
        scope["lab"].wait(60)
        scope["lab"].close()
        text = lab.methods()
        assert "No result" not in text
        assert text.count("Model starter") == 1
        assert f"to and from {GENE} was averaged over its heads and over the 24 cells" in text
        assert "Genes alike to LYZ are the 12 with the largest cosine" in text

    def test_repeats_a_screen_of_the_selected_cells_on_those(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        few, rest = pbmc68k[::5, :60].copy(), loaded[::5, :60].copy()
        opened = bench(few, model=MODEL)
        opened.lab.selection = np.arange(0, 140, 2)
        opened.ask(type="screen", dose=0.0, selected=True, most_cells=20)
        mine: Any = opened.lab.results["screen"]
        again: Lab = run(opened.lab.code(), rest)["lab"]
        assert again.results["screen"].table.equals(mine.table)
        again.wait(60)
        again.close()

    def test_after_a_comparison_gives_both_planes_again(
        self, bench: Callable[..., Bench], two: list[str], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        opened = bench(pbmc68k[::5].copy(), model=two[0])
        opened.ask(600, type="compare", against=two[1], groupby="cell_type")
        lab = opened.lab
        assert lab._errors == []
        first, second = bytes(lab._xy), bytes(lab._second)
        assert first != second
        assert (lab.state["layout"], lab.state["second"]) == ("X_umap_scgpt", "X_umap_scgpt_2")
        again: Lab = run(lab.code(), loaded[::5].copy())["lab"]
        assert again.state == lab.state
        assert (bytes(again._xy), bytes(again._second)) == (first, second)
        assert again.results["compare"].table.equals(lab.results["compare"].table)
        again.wait(60)
        again.close()
        # The other way round the same keys hold the other's planes, and both are shown.
        lab.state = {"model": two[1]}
        opened.ask(600, type="compare", against=two[0])
        assert (bytes(lab._xy), bytes(lab._second)) == (second, first)

    @pytest.mark.parametrize("one_family", [False, True])
    def test_after_two_runs_gives_the_first_ones_plane_again(
        self, bench: Callable[..., Bench], two: list[str], pbmc68k: AnnData, loaded: AnnData, one_family: bool
    ) -> None:
        few, rest = pbmc68k[::5].copy(), loaded[::5].copy()
        first, second = two if one_family else ("sctop", MODEL)
        opened = bench(few, model=first)
        lab = opened.lab
        ran, _ = opened.ask(600, type="run", model=first, layout=None)
        opened.ask(600, type="run", model=second, layout=ran["layout"])
        lab.state = {"model": second, "second": f"pca:{ran['key']}"}
        assert lab._errors == []
        again: Lab = run(lab.code(), rest)["lab"]
        assert again.state == lab.state
        assert (bytes(again._xy), bytes(again._second)) == (bytes(lab._xy), bytes(lab._second))
        for key in (ran["key"], ran["layout"]):
            np.testing.assert_array_equal(rest.obsm[key], few.obsm[key])
            assert rest.uns["scfm"][key]["source"] == few.uns["scfm"][key]["source"]
        mine: Any = lab.results["embed"]
        other: Any = again.results["embed"]
        np.testing.assert_array_equal(other.vectors, mine.vectors)
        again.wait(60)
        again.close()

    def test_does_not_make_again_what_the_cells_came_with(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, loaded: AnnData
    ) -> None:
        few, rest = pbmc68k[::5].copy(), loaded[::5].copy()
        key = sl.embed(few, "sctop", progress=False).key
        write_plane(few, key, umap_plane(few.obsm[key]))
        # From another machine: the model lies elsewhere here.
        foreign = few.copy()
        for written in ("X_sctop", "X_umap_sctop"):
            foreign.uns["scfm"][written]["source"] = "/elsewhere/sctop"
        for cells, fresh in ((few, rest), (foreign, foreign.copy())):
            lab = bench(cells, layout="X_umap_sctop").lab
            lab.state = {"second": "pca:X_sctop"}
            again: Lab = run(lab.code(), fresh)["lab"]
            assert again.state == lab.state
            assert (bytes(again._xy), bytes(again._second)) == (bytes(lab._xy), bytes(lab._second))
            again.wait(60)
            again.close()

    def test_of_a_fresh_bench_is_that_bench(self, bench: Callable[..., Bench], loaded: AnnData) -> None:
        lab = bench().lab
        again: Lab = run(lab.code(), loaded)["lab"]
        assert again.state == lab.state
        again.wait(60)
        again.close()

    def test_names_of_cells_and_genes_cannot_become_code(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        hostile = "'] + [__import__('os').getcwd()] + ['"
        pbmc68k.obs_names = [hostile, *pbmc68k.obs_names[1:]]
        lab = bench().lab
        lab.selection = [0]
        again: Lab = run(lab.code(), pbmc68k)["lab"]
        assert again.selection.nonzero()[0].tolist() == [0]
        again.wait(60)
        again.close()


class TestMethods:
    def test_tell_what_was_done_and_cite_it(self, worked: Bench) -> None:
        answer, _ = worked.ask(type="methods")
        text, bibtex = answer["text"], answer["bibtex"]
        assert "700 cells × 765 genes" in text
        assert f"{GENE} at dose 0" in text
        assert re.search(r"weights SHA-256 [0-9a-f]{12}", text)
        cited = set(re.findall(r"\[([a-z0-9]+)\]", text))
        assert {"haghverdi2016dpt", "wolf2019paga", "benjamini1995fdr"} <= cited
        # Whatever is cited has an entry, and no entry is idle.
        assert set(re.findall(r"^@\w+\{(\w+),", bibtex, re.M)) == cited
        assert bibtex.count("{") == bibtex.count("}")

    def test_name_the_model_of_vectors_that_were_there_before(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        sl.embed(pbmc68k, "sctop", key_added="X_old", progress=False)
        lab = bench().lab
        lab.result = sl.trajectory(pbmc68k, use_rep="X_old", root="CD34+", groupby="cell_type", twin=False)
        told = sl.load_model("sctop")
        assert (
            f"Model sctop [sctop] was used (version {told.version}, weights SHA-256 {told.digest[7:19]}…"
            in lab.methods()
        )

    def test_of_an_idle_bench_say_so(self, bench: Callable[..., Bench]) -> None:
        assert "No result has been computed" in bench().lab.methods()


class TestPage:
    def test_comes_as_one_buffer_and_says_what_it_leaves_out(self, bench: Callable[..., Bench]) -> None:
        answer, buffers = bench(model=MODEL).ask(type="html", genes=[GENE])
        page = buffers[0].decode()
        assert page.startswith("<!doctype html>")
        assert answer["bytes"] == len(buffers[0])
        assert isinstance(answer["left_out"], list)


def test_the_hints_come_once(bench: Callable[..., Bench], private_home: Path) -> None:
    (private_home / "bench.json").unlink(missing_ok=True)
    opened = bench()
    assert opened.lab._meta["tour"] is True
    opened.ask(type="tour")
    assert bench().lab._meta["tour"] is False


def test_scores_of_a_version_stand_beside_their_floor_and_the_newest_counts(bench: Callable[..., Bench]) -> None:
    from scfm_lab.evaluation.score import Score
    from scfm_registry import Registry

    registry, cells = Registry(), "sha256:" + "7" * 64
    for value in (0.61, 0.71):
        score = Score("bench_f1", "pca", value, low=value - 0.05, high=value + 0.05, floor=0.64, floor_name="sctop")
        registry.record_scores("pca/1", [score], data_digest=cells)
    answer, _ = bench().ask(type="scores", reference="pca/1")
    (row,) = [row for row in answer["rows"] if row["metric"] == "bench_f1"]
    assert (row["value"], row["floor"], row["floor_name"], row["data_digest"]) == (0.71, 0.64, "sctop", cells)
    assert row["above"] is True
    # On the same resamples the difference to the floor decides, and not each interval by itself.
    told = {"low": 0.6, "high": 0.8, "floor": 0.64, "floor_name": "sctop"}
    for metric, gains in (("sure_f1", (0.02, 0.1)), ("unsure_f1", (-0.02, 0.1))):
        score = Score(metric, "pca", 0.71, gain_low=gains[0], gain_high=gains[1], **told)
        registry.record_scores("pca/1", [score], data_digest=cells)
    answer, _ = bench().ask(type="scores", reference="pca/1")
    above = {row["metric"]: row["above"] for row in answer["rows"]}
    assert (above["sure_f1"], above["unsure_f1"]) == (True, False)
    answer, _ = bench().ask(type="scores", reference="sctop/1")
    assert [row for row in answer["rows"] if row["metric"] == "bench_f1"] == []


class TestPlanes:
    def test_a_second_one_stands_beside_the_first(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench().lab
        pbmc68k.obsm["X_two"] = pbmc68k.obsm["X_umap"] * 2
        lab.state = {"second": "X_two"}
        assert len(lab._second) == 4 * pbmc68k.n_obs
        assert lab._second_info["key"] == "X_two"
        # Twice as large is the same picture.
        assert lab._second == lab._xy
        lab.state = {"second": None}
        assert lab._second == b""

    def test_principal_components_are_offered_for_the_second_only(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        lab = bench().lab
        pbmc68k.obsm["X_wide"] = np.random.default_rng(0).normal(size=(pbmc68k.n_obs, 7)).astype(np.float32)
        lab.state = {"second": "pca:X_wide"}
        assert lab._second_info["title"] == "PCA of wide"
        with pytest.raises(Exception, match="no plane 'pca:X_wide'"):
            lab.state = {"layout": "pca:X_wide"}


class TestGenes:
    def test_tell_groups_and_neighbours(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model="starter")
        # Groups come at once; the model is opened for its neighbours.
        first, _ = opened.ask(type="gene", gene=GENE)
        assert first["neighbours"] is None
        alike, _ = opened.ask(type="alike", gene=GENE)
        answer, _ = opened.ask(type="gene", gene=GENE)
        assert answer["groups"] == first["groups"]
        assert answer["neighbours"] == alike["neighbours"]
        rows = {row["group"]: row for row in answer["groups"]["rows"]}
        assert rows["all"]["n"] == pbmc68k.n_obs
        assert rows["CD4+/CD25 T Reg"]["mean"] > rows["CD19+ B"]["mean"]
        likeness = [item["likeness"] for item in answer["neighbours"]]
        assert likeness == sorted(likeness, reverse=True)
        assert GENE not in [item["gene"] for item in answer["neighbours"]]
        # They are those of sl.similar_genes, with what else could explain them.
        found = opened.lab.results["similar_genes"]
        assert [item["gene"] for item in answer["neighbours"]] == found.table["gene"].tolist()
        assert "no evidence of a shared function" in answer["beside"]

    def test_without_counts_are_told_in_the_unit_of_their_values(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        counted, _ = bench().ask(type="gene", gene=GENE)
        assert counted["groups"]["unit"] == "log(1 + counts per 10,000)"
        assert all(0 <= row["share"] <= 1 for row in counted["groups"]["rows"])
        scaled = pbmc68k.copy()
        scaled.raw = None
        values = scaled.X.toarray()
        scaled.X = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
        answer, _ = bench(scaled).ask(type="gene", gene=GENE)
        assert answer["groups"]["unit"] == "values in X"
        rows = {row["group"]: row for row in answer["groups"]["rows"]}
        assert rows["CD19+ B"]["mean"] < 0
        assert not any("share" in row for row in rows.values()), (
            "a share of what lies above the mean is none of cells that have it"
        )

    def test_that_two_views_ask_about_are_told_in_both(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        busy = threading.Event()
        lab.session.submit("other", lambda *_: busy.wait(60), aside=True, quiet=True)
        for number, view in ((1, "scfm-1"), (2, "scfm-2"), (3, "scfm-2")):
            lab._handle_custom_msg({"type": "gene", "gene": "LYZ", "view": view, "id": number}, [])
        busy.set()
        lab.wait(60)
        answers = {answer.get("id"): answer for kind, answer, _ in lab.comm.sent if kind == "comm_msg"}
        assert [answers[number].get("gene") for number in (1, 2, 3)] == ["LYZ", None, "LYZ"]
        assert answers[2]["cancelled"]

    def test_attention_goes_both_ways_over_the_cells_that_have_it(self, bench: Callable[..., Bench]) -> None:
        answer, _ = bench(model="starter").ask(type="attention", gene=GENE)
        assert answer["cells"] == 24
        for side in ("to", "from"):
            weights = [item["weight"] for item in answer[side]]
            assert weights == sorted(weights, reverse=True)
            assert 0 < weights[0] < 1
            assert GENE not in [item["gene"] for item in answer[side]]

    def test_a_model_that_has_none_says_so(self, bench: Callable[..., Bench]) -> None:
        answer, _ = bench(model=MODEL).ask(type="attention", gene=GENE)
        assert "attention" in answer["error"]


class TestChanged:
    def test_genes_that_are_expected_to_change_are_told_with_the_doses(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        opened = bench(pbmc68k[::60].copy(), model="starter")
        opened.ask(type="perturb", doses={GENE: 0.0})
        told = opened.lab._changed
        assert told["doses"] == {GENE: 0.0}
        folds = [abs(row["log2_fold"]) for row in told["rows"]]
        assert folds == sorted(folds, reverse=True)
        assert folds[0] > 0
        assert GENE not in [row["gene"] for row in told["rows"]]
        opened.ask(type="perturb", doses={})
        assert opened.lab._changed is None


class TestCompare:
    def test_a_model_agrees_with_itself_and_by_chance_with_noise(self, pbmc68k: AnnData) -> None:
        cells = pbmc68k[::2].copy()
        same = compare(cells, MODEL, MODEL, groupby="cell_type", progress=False)
        assert same.table["overlap"].tolist() == [1.0] * len(same.table)
        assert (same.table["accuracy_a"] == same.table["accuracy_b"]).all()
        other = compare(cells, MODEL, "sctop", groupby="cell_type", progress=False)
        first = other.table.iloc[0]
        assert first["expected_overlap"] < first["overlap"] < 1
        assert "nearest neighbours" in other.summary()
        other.write(cells)
        assert np.nanmean(cells.obs["neighbours_shared"]) == pytest.approx(first["overlap"])

    def test_two_checkpoints_of_one_family_keep_their_vectors_and_names_apart(
        self, two: list[str], pbmc68k: AnnData
    ) -> None:
        cells = pbmc68k[::10].copy()
        cells.obsm["X_scgpt_2"] = np.ones((cells.n_obs, 2))
        found = compare(cells, *two, progress=False)
        assert len(set(found.keys)) == len(set(found.models)) == 2
        assert 0 < found.table["overlap"][0] < 1
        for key, source in zip(found.keys, two, strict=True):
            vectors = sl.embed(pbmc68k[::10].copy(), source, progress=False).vectors
            np.testing.assert_array_equal(cells.obsm[key], vectors)
            assert cells.uns["scfm"][key]["source"] == source
        assert (cells.obsm["X_scgpt_2"] == 1).all()
        # The same keys when it is asked again, and those that are named.
        assert compare(cells, *two, progress=False).keys == found.keys
        assert compare(cells, *two, key_added=("X_a", "X_b"), progress=False).keys == ("X_a", "X_b")
        for wrong in ("X_a", ("X_a",), ("X_a", "X_a")):
            with pytest.raises(DataError, match="key_added must be two keys"):
                compare(cells, *two, key_added=wrong, progress=False)  # type: ignore[arg-type]

    def test_is_shown_when_python_sets_it(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench()
        opened.lab.result = compare(pbmc68k, MODEL, "sctop", progress=False)
        assert opened.lab._compared["models"] == ["pca/1", "scfm.sctop/0.1.0"]
        column, _ = opened.ask(type="column", by="result", name="shared")
        assert column["column"]["missing"] == 0


class TestScreen:
    def test_of_the_selected_cells_is_ranked_and_told(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.lab.selection = np.arange(0, 700, 20)
        opened.ask(type="screen", dose=0.0, selected=True)
        told = opened.lab._screen
        assert told["genes"] > 100
        assert len(told["rows"]) == 100
        assert told["totals"] == {"shift": {"all": told["genes"]}}
        assert {job["unit"] for job in opened.updates("_job") if job and job["note"] == "gene after gene"} == {
            "genes × cells"
        }
        assert told["rows"][0]["p_value"] <= told["rows"][-1]["p_value"]
        assert opened.lab._runs[0]["kind"] == "screen"
        assert opened.lab._runs[0]["status"] == "done"
        text = opened.lab.methods()
        assert f"each of {told['genes']} genes alone at dose 0 in 35 cells" in text
        assert "Model pca" in text

    def test_towards_a_state_is_ranked_by_each_read_out_in_the_order_of_the_groups(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        few = pbmc68k[:120].copy()
        order = ["S", "G2M", "G1"]
        few.obs["phase"] = few.obs["phase"].astype(str).astype("category").cat.set_categories(order)
        opened = bench(few, model=MODEL)
        result = sl.screen(few, MODEL, genes=[GENE, "LYZ", "NKG7"], groupby="phase", target="G1", progress=False)
        opened.lab.result = result
        told = opened.lab._screen
        assert told["target"] == "G1"
        assert set(told["totals"]) == {"shift", "towards_target"}
        for readout, totals in told["totals"].items():
            rows = [row for row in told["rows"] if row["readout"] == readout]
            assert list(dict.fromkeys(row["group"] for row in rows)) == ["all", *order]
            table = result.table[result.table["readout"] == readout]
            for group in ("all", *order):
                expected = table[table["group"] == group]
                assert totals[group] == len(expected)
                assert [row["gene"] for row in rows if row["group"] == group] == expected["gene"].tolist()
                assert [row["effect"] for row in rows if row["group"] == group] == plain(expected["effect"].tolist())

    def test_of_cells_one_of_which_has_no_group_tells_them_together(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        few = pbmc68k[:60].copy()
        few.obs.iloc[0, few.obs.columns.get_loc("cell_type")] = np.nan
        opened = bench(few, model=MODEL)
        # The column stays picked: it still colours the cells, and whoever fills the gap has groups.
        assert opened.lab.state["groupby"] == "cell_type"
        opened.lab.selection = np.arange(10)
        answer, _ = opened.ask(type="screen", dose=0.0, groupby="cell_type", selected=True)
        assert "error" not in answer
        assert set(opened.lab._screen["totals"]["shift"]) == {"all"}
        # Compare and Trajectory ask by the same rule.
        assert [opened.lab.session.grouping(name) for name in ("cell_type", "phase", "nowhere")] == [
            None,
            "phase",
            None,
        ]

    def test_is_of_the_cells_that_were_selected_when_it_was_asked_for(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        opened = bench(pbmc68k[:60].copy(), model=MODEL)
        lab, free = opened.lab, threading.Event()
        lab.session.submit("run", lambda *_: free.wait(60))
        lab.selection = np.arange(20)
        lab._handle_custom_msg({"type": "screen", "dose": 0.0, "selected": True, "id": 1}, [])
        # It waits for what runs, and a hand goes on meanwhile.
        lab.selection = [50]
        free.set()
        lab.wait(120)
        assert lab._errors == []
        assert lab.session.screened is not None
        assert lab.session.screened[1].nonzero()[0].tolist() == list(range(20))

    def test_of_a_selection_that_is_empty_says_what_to_do(self, bench: Callable[..., Bench]) -> None:
        answer, _ = bench(model=MODEL).ask(type="screen", dose=0.0, selected=True)
        assert "No cells are selected" in answer["error"]


def test_history_keeps_how_runs_ended(bench: Callable[..., Bench]) -> None:
    opened = bench(model=MODEL)
    opened.ask(type="run", model=MODEL, layout="X_umap")
    opened.ask(type="trajectory", root={"group": "nowhere"}, groupby="cell_type")
    assert [(run["kind"], run["status"]) for run in opened.lab._runs] == [("trajectory", "failed"), ("embed", "done")]
    # By the model that ran, whichever is picked when it ends.
    opened.lab.run(layout="X_umap")
    opened.lab.state = {"model": "sctop"}
    opened.lab.wait(120)
    assert opened.lab._runs[0]["model"] == MODEL
    # Cells are ordered along the vectors that are there, and not by the model that is picked.
    opened.ask(type="trajectory", root={"group": "nowhere"}, groupby="cell_type")
    # Where no root is given nothing has been looked at.
    opened.ask(type="trajectory", root=None, groupby="cell_type")
    assert [(run["kind"], run["model"]) for run in opened.lab._runs[:2]] == [("trajectory", ""), ("trajectory", MODEL)]
