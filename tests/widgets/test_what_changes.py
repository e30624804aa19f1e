"""What is changed elsewhere while a bench is open: the cells, what an alias means, doses from another thread, its own cell."""

from __future__ import annotations

import base64
import gc
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.tasks.perturb import Perturber
from scfm_widgets import cell as notebook
from scfm_widgets import lab as lab_module
from scfm_widgets import shelf, still
from scfm_widgets.codec import Frame, pack_mask, plain
from scfm_widgets.export import payload_of
from scfm_widgets.session import _width

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from tests.widgets.conftest import Bench

MODEL = "sctop"
GENE = "CD3D"


@pytest.fixture
def few(pbmc68k: AnnData) -> AnnData:
    """Enough cells to answer."""
    return pbmc68k[::7].copy()


class TestModels:
    def test_a_promotion_changes_neither_what_runs_nor_what_is_said_to_run(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        from scfm_registry import Registry

        registry = Registry()
        for width in (4, 5):
            fitted = sl.load_model("pca").fit(few, n_components=width)
            registry.register(fitted, "moving", certify=False)
        registry.promote("moving/1")
        source = "models:/moving@champion"
        opened = bench(few, model=source)
        lab: Any = opened.lab

        def picked() -> list[str]:
            opened.ask(type="models")
            return [row["reference"] for row in lab._models["rows"] if source in row["sources"]]

        def width() -> int:
            opened.ask(type="run", model=lab.state["model"], layout="X_umap")
            return int(lab.result.vectors.shape[1])

        assert (picked(), width()) == (["moving/1"], 4)
        registry.promote("moving/2")
        assert (picked(), width()) == (["moving/1"], 4)
        assert "moving@champion means moving/2 since; this bench goes on with moving/1" in lab._models["note"]
        assert lab.result.provenance["version"] == "moving/1"
        assert "Lab(adata, model=model)" in lab.code()
        assert "sl.load_model('models:/moving/1')" in lab.code()
        assert not lab.session.same_model(source, "models:/moving/2")
        # Each row is picked by its number.
        (row,) = [row for row in lab._models["rows"] if row["reference"] == "moving/2"]
        lab.state = {"model": row["source"]}
        assert width() == 5
        # Who picks the alias again means what it means then.
        lab.state = {"model": source}
        assert (picked(), width()) == (["moving/2"], 5)

    def test_only_a_few_are_kept_and_what_was_handed_in_always(self) -> None:
        own = shelf.Shelf()
        given = sl.load_model("pca")
        assert own.adopt(given) == "pca"
        first = weakref.ref(own.open("models:/pca/1"))
        for source in ("models:/sctop/1", "scfm.sctop", "sctop"):
            own.open(source)
        gc.collect()
        assert first() is None
        assert own.get("sctop") is not None
        assert own.get("pca") is given

    def test_code_opens_them_as_they_were_opened(self, bench: Callable[..., Bench], few: AnnData) -> None:
        fitted = sl.load_model("pca").fit(few, n_components=4)
        lab: Any = bench(few, model=fitted).lab
        assert lab.state["model"] == "pca (made in Python)"
        lab.panel("run").run(lab.state["model"], layout="X_umap").result(60)
        other = sl.load_model("pca").fit(few, n_components=6)
        lab.result = sl.perturb(few, other, {GENE: 0.0}, null=False, progress=False)
        code = lab.code()
        assert "load_model('fit')" not in code
        assert code.count("cannot be written down here: call it") == 2
        scope: dict[str, Any] = {"adata": few.copy(), "model": fitted, "model_2": other}
        exec(compile(code, "copied", "exec"), scope)
        again = scope["lab"]
        assert again.results["embed"].vectors.shape == (100, 4)
        assert again.results["perturb"].baseline.shape == (100, 6)
        again.wait(60)
        again.close()
        with pytest.raises(NameError, match="model"):
            exec(compile(code, "copied", "exec"), {"adata": few.copy()})

    def test_code_keeps_what_they_were_asked_with(self, bench: Callable[..., Bench], few: AnnData) -> None:
        exact = sl.load_model("pca", device="cpu", precision="float32")
        lab: Any = bench(few).lab
        lab.result = sl.embed(few, exact, progress=False)
        assert "model = sl.load_model('pca', device='cpu', precision='float32')" in lab.code()
        # Also as the cells keep it, and of a model that is only picked.
        assert few.uns["scfm"]["X_pca"]["asked"] == '{"device": "cpu", "precision": "float32"}'
        exact.asked = {"config": {"nhead": 3}, "files": {"gene2vec": "/here/gene2vec"}}
        picked: Any = bench(few, model=exact).lab
        assert picked.state["model"] == "pca (with config= and files=)"
        assert not picked.session.same_model(picked.state["model"], "pca")
        code = picked.code()
        assert "model = sl.load_model('pca', config={'nhead': 3}, files={'gene2vec': '/here/gene2vec'})" in code
        assert "Lab(adata, model=model)" in code


class TestCells:
    def test_a_column_that_was_renamed_is_told_anew_with_all_that_it_groups(
        self, bench: Callable[..., Bench], few: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = bench(few, model=MODEL)
        lab: Any = opened.lab
        opened.ask(type="perturb", doses={GENE: 0.0})
        opened.ask(type="column", by="obs", name="cell_type")
        told = lab._cells_version
        opened.ask(type="column", by="obs", name="cell_type")
        assert lab._cells_version == told
        made: list[Any] = []
        monkeypatch.setattr(Perturber, "__init__", lambda *given, **_: made.append(given))
        few.obs["cell_type"] = few.obs["cell_type"].cat.rename_categories(str.upper)
        lab._repr_mimebundle_()
        lab.wait(60)
        assert lab._cells_version > told, "the browser drops what it has"
        answer, _ = opened.ask(type="column", by="obs", name="cell_type")
        names = set(map(str.upper, answer["column"]["labels"]))
        assert set(answer["column"]["labels"]) == names
        assert {row["group"] for row in lab._perturbation["rows"]} - {"all"} == names
        assert made == [], "and no cell is encoded again for it"

    def test_what_was_changed_in_place_is_seen_before_an_answer(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        opened = bench(few)
        _, before = opened.ask(type="column", by="obs", name="percent_mito")
        few.obs.loc[few.obs_names[:50], "percent_mito"] = 0.5
        told = opened.lab._cells_version
        opened.ask(type="genes")
        assert opened.lab._cells_version > told
        assert opened.ask(type="column", by="obs", name="percent_mito")[1] != before

    def test_a_plane_that_another_bench_has_rewritten_is_shown_with_the_effect_on_it(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        opened = bench(few, model=MODEL)
        lab: Any = opened.lab
        lab.state = {"second": "X_umap"}
        opened.ask(type="perturb", doses={GENE: 0.0})
        before = lab._after
        few.obsm["X_umap"] = few.obsm["X_umap"][:, ::-1] * [1.0, 0.5]
        opened.ask(type="genes")
        frame = Frame.around(few.obsm["X_umap"])
        assert lab._xy == lab._second == frame.pack(few.obsm["X_umap"])
        assert lab._after != before
        assert lab._after == frame.pack(lab.result.layout.after)

    def test_other_counts_are_read_and_answered_for(self, bench: Callable[..., Bench], few: AnnData) -> None:
        opened = bench(few, model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0})
        _, before = opened.ask(type="column", by="gene", name=GENE)
        few.X = few.X[::-1]
        few.obs["total_counts_all_genes"] = few.obs["total_counts_all_genes"].to_numpy()[::-1]
        opened.lab.doses = {GENE: 0.0, "LYZ": 1.0}
        opened.lab.wait(60)
        _, after = opened.ask(type="column", by="gene", name=GENE)
        assert after == [before[0][::-1]]
        expected = sl.perturb(few, MODEL, {GENE: 0.0}, groupby="cell_type", null=False, progress=False)
        np.testing.assert_allclose(opened.lab.result.shift, expected.shift, rtol=1e-5)

    def test_refresh_sees_what_no_digest_does(
        self, bench: Callable[..., Bench], few: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = bench(few)
        monkeypatch.setattr(opened.lab.session.watch, "changed", set)
        _, before = opened.ask(type="column", by="gene", name="LYZ")
        few.X = few.X[::-1]
        few.obs["total_counts_all_genes"] = few.obs["total_counts_all_genes"].to_numpy()[::-1]
        opened.lab.refresh()
        assert opened.ask(type="column", by="gene", name="LYZ")[1] == [before[0][::-1]]

    def test_other_cells_are_refused_in_words(self, bench: Callable[..., Bench], few: AnnData, tmp_path: Path) -> None:
        opened = bench(few, model=MODEL)
        lab: Any = opened.lab
        before = (dict(lab.state), dict(lab.doses), lab._selection)
        few._inplace_subset_obs(np.arange(100) < 60)
        bits = base64.b64encode(pack_mask(np.ones(100, dtype=bool))).decode()
        for question in (
            {"type": "column", "by": "obs", "name": "cell_type"},
            {"type": "cell", "cell": 0},
            {"type": "selection", "bits": bits},
            {"type": "state", "change": {"labels": False}},
            {"type": "perturb", "doses": {GENE: 0.0}, "commit": False},
        ):
            answer, _ = opened.ask(**question)
            assert "has 60 cells now, and had 100 when this bench was opened" in answer["error"], question
        for ask in (
            lab.refresh,
            lambda: lab.selection,
            lambda: setattr(lab, "selection", [0]),
            lambda: setattr(lab, "doses", {GENE: 0.0}),
            lambda: setattr(lab, "state", {"labels": False}),
            lambda: lab.to_html(tmp_path / "bench.html"),
        ):
            with pytest.raises(DataError, match="open a new one"):
                ask()
        lab.set_state({"doses": {GENE: 0.0}, "state": {"labels": False}})
        assert (lab.state, lab.doses, lab._selection) == before
        assert "has 60 cells now" in lab.session.faults[-1]["text"]
        # What says nothing of the cells is taken all the same.
        opened.ask(type="dismiss")
        assert lab.session.faults == []

    def test_an_answer_that_nobody_has_looked_for_hides_no_change(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        opened = bench(few, model=MODEL)
        lab: Any = opened.lab
        for look in (
            # A slider that is still held is answered of what is there.
            lambda: opened.ask(type="perturb", doses={GENE: 0.5}, commit=False),
            lambda: payload_of(lab, wait=False),
        ):
            opened.ask(type="column", by="obs", name="cell_type")
            told = lab._cells_version
            few.obs["cell_type"] = few.obs["cell_type"].cat.rename_categories(lambda name: f"{name}.")
            look()
            assert lab._cells_version == told
            opened.ask(type="genes")
            assert lab._cells_version > told, "the browser has it as it was before"

    def test_what_is_set_is_checked_against_the_cells_as_they_are(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        lab: Any = bench(few, model=MODEL).lab

        def rename(old: str, new: str) -> None:
            few.var_names = [new if name == old else name for name in few.var_names]

        rename("LYZ", "ONE")
        lab.doses = {"ONE": 0.0}
        rename("ONE", "TWO")
        lab.state = {"gene": "TWO"}
        rename("TWO", "THREE")
        lab.set_state({"state": {**lab.state, "gene": "THREE"}})
        assert lab.session.faults == []
        assert lab.state["gene"] == "THREE"

    def test_another_layer_has_nothing_computed_again(
        self, bench: Callable[..., Bench], few: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = bench(few, model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0})
        made: list[Any] = []
        init = Perturber.__init__

        def count(self: Any, *given: Any, **more: Any) -> None:
            made.append(self)
            init(self, *given, **more)

        monkeypatch.setattr(Perturber, "__init__", count)
        few.layers["smooth"] = few.X * 0.5
        opened.ask(type="perturb", doses={GENE: 0.5})
        assert made == []
        few.X = few.X[::-1]
        opened.ask(type="perturb", doses={GENE: 0.0})
        assert made != []

    def test_a_page_is_of_the_cells_as_they_are(
        self, bench: Callable[..., Bench], few: AnnData, tmp_path: Path
    ) -> None:
        opened = bench(few, model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0})
        few.obs["cell_type"] = few.obs["cell_type"].cat.rename_categories(str.upper)
        names = set(few.obs["cell_type"].cat.categories)
        traits = payload_of(opened.lab).traits
        assert {row["group"] for row in traits["_perturbation"]["rows"]} - {"all"} == names
        few.obs["cell_type"] = few.obs["cell_type"].cat.rename_categories(lambda name: f"{name} again")
        opened.lab.to_html(tmp_path / "bench.html")
        assert {row["group"] for row in opened.lab._perturbation["rows"]} - {"all"} == {
            f"{name} again" for name in names
        }


class TestUnusual:
    def test_what_is_no_plane_and_no_group_stops_nothing(self, bench: Callable[..., Bench], few: AnnData) -> None:
        import pandas as pd

        few.obs["lists"] = [[i] for i in range(few.n_obs)]
        few.obs["waves"] = np.arange(few.n_obs) * 1j
        few.obsm["table"] = pd.DataFrame({"a": ["x"] * few.n_obs, "b": ["y"] * few.n_obs}, index=few.obs_names)
        few.obsm["X_table"] = pd.DataFrame({"a": ["x"] * few.n_obs, "b": 1.0, "c": 2.0}, index=few.obs_names)
        few.obsm["X_cube"] = np.zeros((few.n_obs, 2, 3))
        opened = bench(few)
        lab: Any = opened.lab
        assert [plane["key"] for plane in lab._layouts if not plane.get("second")] == ["X_umap"]
        # As those of Awkward Array, which may not be asked for a width.
        assert _width(types.SimpleNamespace()) == _width(types.SimpleNamespace(shape=None)) == 0
        assert not {"lists", "waves"} & {column["name"] for column in lab._meta["obs"]}
        answer, _ = opened.ask(type="column", by="obs", name="lists")
        assert "neither numbers nor groups" in answer["error"]
        for key in ("table", "X_cube"):
            with pytest.raises(DataError, match=f"no plane '{key}'"):
                lab.state = {"layout": key}
        with pytest.raises(DataError, match="no principal components"):
            lab.state = {"second": "pca:X_table"}


class TestThreads:
    def test_doses_that_a_cell_sets_while_a_job_publishes_are_computed(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        lab: Any = bench(few, model=MODEL).lab
        inside, go_on = threading.Event(), threading.Event()

        def hold(_: Any) -> None:
            inside.set()
            go_on.wait(1)

        lab.observe(hold, "_runs")
        job = threading.Thread(target=lambda: lab.publish(_runs=[{"id": 1}]))
        job.start()
        assert inside.wait(30)
        threading.Timer(0.2, go_on.set).start()
        lab.doses = {GENE: 0.0}
        job.join(30)
        lab.wait(60)
        assert lab._perturbation["doses"] == {GENE: 0.0}

    def test_answers_of_jobs_that_are_dropped_wait_for_no_lock_of_the_worker(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        """A question that takes another's place tells it so, while a cell sets doses: neither waits for the other."""
        lab: Any = bench(few, model=MODEL).lab
        session, gate, begun = lab.session, threading.Event(), threading.Event()
        session.submit("held", lambda progress, cancel: begun.set() or gate.wait(30), quiet=True)
        assert begun.wait(30)
        waiting = session.submit("first", lambda progress, cancel: None, lane="x", quiet=True)
        told: list[bool] = []

        def answered(_: Any) -> None:
            # As the bench sends an answer, under its lock; a cell that holds it hands in work meanwhile.
            other = threading.Thread(target=lambda: session._worker.submit("cells", lambda progress, cancel: None))
            other.start()
            other.join(5)
            told.append(other.is_alive())

        waiting.add_done_callback(answered)
        session.submit("second", lambda progress, cancel: None, lane="x", quiet=True)
        gate.set()
        assert lab.wait(60)
        assert told == [False]


class TestGiven:
    def test_a_perturbation_from_python_is_told_with_its_own_groups_and_model(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        lab: Any = bench(few, model="pca").lab
        result = sl.perturb(
            few, MODEL, {GENE: 0.5}, groupby="phase", sample_key="louvain", null=False, seed=3, progress=False
        )
        lab.result = result
        lab.wait(60)
        assert {row["group"] for row in lab._perturbation["rows"]} == {"all", *few.obs["phase"]}
        assert lab._perturbation["groupby"] == lab.state["groupby"] == "phase"
        assert lab._perturbation["of"] == result.provenance["version"]
        # On another plane it is placed, and stays what it was.
        few.obsm["X_two"] = few.obsm["X_umap"][:, ::-1] * [1.0, 0.5]
        lab.state = {"layout": "X_two"}
        lab.wait(60)
        assert lab.result.table is result.table
        assert lab.result.provenance is result.provenance
        assert lab.result.layout.basis == "X_two"
        expected = sl.perturb(few, MODEL, {GENE: 0.5}, basis="X_two", null=False, seed=3, progress=False)
        np.testing.assert_allclose(lab.result.layout.after, expected.layout.after, atol=1e-4)
        assert lab._after == lab.session.frame.pack(lab.result.layout.after)

    def test_a_perturbation_towards_a_state_is_told_by_each_read_out(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        lab: Any = bench(few, model=MODEL).lab
        target = str(few.obs["phase"].iloc[0])
        result = sl.perturb(few, MODEL, {GENE: 0.0}, groupby="phase", target=target, null=False, progress=False)
        lab.result = result
        lab.wait(60)
        told = lab._perturbation
        assert told["target"] == target
        assert {row["readout"] for row in told["rows"]} == {"shift", "towards_target"}
        # In the target's own group there is no way towards it.
        effects = {(row.readout, row.group): plain(row.effect) for row in result.table.itertuples()}
        assert {(row["readout"], row["group"]): row["effect"] for row in told["rows"]} == effects

    def test_levels_are_told_on_the_bench_and_in_the_methods(self, bench: Callable[..., Bench], few: AnnData) -> None:
        lab: Any = bench(few, model=MODEL).lab
        lab.result = sl.perturb(few, MODEL, {}, set_to={"LYZ": 5}, null=False, progress=False)
        lab.wait(60)
        assert lab._perturbation["set_to"] == {"LYZ": 5.0}
        assert lab._perturbation["of"] is None
        assert "Perturbation in silico: LYZ set to 5 counts per 10,000 (draws" in lab.methods()

    def test_levels_stay_and_are_told_with_their_model_when_another_is_picked(
        self, bench: Callable[..., Bench], few: AnnData
    ) -> None:
        lab: Any = bench(few, model=MODEL).lab
        result = sl.perturb(few, MODEL, {}, set_to={"LYZ": 5}, null=False, progress=False)
        lab.result = result
        told = []
        for model in ("pca", MODEL, None):
            lab.state = {"model": model}
            lab.wait(60)
            assert lab.results["perturb"] is result
            told.append(lab._perturbation["of"])
        assert told == [result.provenance["version"], None, result.provenance["version"]]


class TestMemory:
    @pytest.fixture
    def kernel(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Stands where IPython's shell with a kernel would: the cell that runs, its variables, and what waits for its end."""
        waiting: list[Any] = []
        events = types.SimpleNamespace(
            register=lambda _, call: waiting.append(call), unregister=lambda _, call: waiting.remove(call)
        )
        here = types.SimpleNamespace(kernel=object(), user_ns={}, events=events, parent_header={}, runs=0)

        def begin(cell: str) -> None:
            here.runs += 1
            here.parent_header = {"metadata": {"cellId": cell}, "header": {"msg_id": f"run {here.runs}"}}

        def end() -> None:
            for call in waiting.copy():
                call()

        here.begin, here.end = begin, end
        monkeypatch.setattr(notebook, "shell", lambda: here)
        monkeypatch.setattr(still, "shell", lambda: here)
        here.outputs = []

        def put_out(*_: Any, display_id: bool = False, **__: Any) -> Any:
            """An output, with the cell it is in; what can be updated is kept."""
            output = types.SimpleNamespace(of=here.parent_header.get("metadata", {}).get("cellId"), pages=[])
            output.update = lambda page, **_: output.pages.append(page)
            here.outputs += [output] if display_id else []
            return output

        for module in (still, lab_module):
            monkeypatch.setattr(module, "put_out", put_out)
        monkeypatch.setattr(still, "_RESTS", 3600)
        return here

    def test_a_cell_that_runs_again_closes_the_bench_that_it_has_replaced(
        self, bench: Callable[..., Bench], few: AnnData, kernel: Any
    ) -> None:
        def run(cell: str, name: str, adata: AnnData = few, *, shown_in: str = "") -> Any:
            kernel.begin(cell)
            kernel.user_ns[name] = lab = bench(adata).lab
            kernel.user_ns["_3"] = lab
            lab._ipython_display_()
            kernel.end()
            if shown_in:
                kernel.begin(shown_in)
                lab._ipython_display_()
                kernel.end()
            return lab

        first = run("a", "lab")
        second = run("a", "lab")
        assert (first.is_open, second.is_open) == (False, True)
        # Under another name both are in use; of other cells it may be wanted yet; another cell shows it.
        third = run("a", "other")
        assert second.is_open
        fourth = run("a", "other", few.copy())
        assert third.is_open
        fifth = run("b", "lab", shown_in="c")
        run("b", "lab")
        assert fourth.is_open
        assert fifth.is_open

    def test_only_the_last_output_of_a_cell_is_kept_up_to_date(
        self, bench: Callable[..., Bench], few: AnnData, kernel: Any
    ) -> None:
        lab: Any = bench(few).lab
        for cell in ("a", "b", "a", "a"):
            kernel.begin(cell)
            lab._ipython_display_()
        assert lab._still.cells == {"a", "b"}
        kernel.parent_header = {}
        for _ in range(9):
            lab._ipython_display_()
        outputs = kernel.outputs
        assert [output.of for output in outputs] == ["a", "b", "a", "a", *[None] * 9]
        lab.selection = [0]
        lab._still._update()
        # Of a cell the last one; of outputs that nobody knows the place of, the newest.
        live = [outputs[1], outputs[3], *outputs[-still._MOST_UNKNOWN :]]
        assert [output for output in outputs if output.pages] == live
        assert all(len(output.pages) == 1 for output in live)

    def test_a_bench_that_something_holds_stays_open(
        self, bench: Callable[..., Bench], few: AnnData, kernel: Any
    ) -> None:
        kept: dict[str, list[Any]] = {"benches": []}
        kernel.user_ns.update(kept=kept, Out={1: kept["benches"]}, ip=kernel)

        def run() -> Any:
            kernel.begin("a")
            kernel.user_ns["lab"] = lab = bench(few).lab
            kept["benches"].append(lab)
            lab._ipython_display_()
            kernel.end()
            return lab

        first, second = run(), run()
        assert first.is_open
        kept["benches"].clear()
        third = run()
        assert (second.is_open, third.is_open) == (False, True)
        with pytest.raises(DataError, match="the cell that had made it ran again"):
            second.run("pca")
        assert second.wait(60)
