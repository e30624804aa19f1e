"""The bench from Python's side: what it shows, what it computes, and what it says when something is wrong."""

from __future__ import annotations

import base64
import copy
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.inference.hardware import Hardware
from scfm_lab.tasks.perturb import Perturber
from scfm_widgets import curves, panel_models
from scfm_widgets.codec import Frame, pack_mask
from scfm_widgets.export import payload_of
from scfm_widgets.worker import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from tests.widgets.conftest import Bench

MODEL = "sctop"
GENE = "CD3D"


def shown_rows(bench: Bench) -> dict[str, dict[str, Any]]:
    return {row["group"]: row for row in bench.lab._perturbation["rows"]}


class TestOpening:
    def test_shows_the_cells_at_once(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench().lab
        assert lab.state["colour"] == {"by": "obs", "name": "cell_type"}
        frame = Frame.around(pbmc68k.obsm["X_umap"])
        assert lab._xy == frame.pack(pbmc68k.obsm["X_umap"])
        assert lab._xy_info["n"] == 2 * pbmc68k.n_obs

    def test_changes_nothing_in_the_anndata(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        before = (list(pbmc68k.obs), list(pbmc68k.obsm), list(pbmc68k.uns), list(pbmc68k.var))
        counts = pbmc68k.X.copy()
        opened = bench()
        opened.ask(type="column", by="gene", name=GENE)
        assert (list(pbmc68k.obs), list(pbmc68k.obsm), list(pbmc68k.uns), list(pbmc68k.var)) == before
        assert (counts != pbmc68k.X).nnz == 0

    def test_what_is_not_there_is_refused_in_words(self, bench: Callable[..., Bench]) -> None:
        with pytest.raises(ModelError) as of_load:
            sl.load_model("scgtp")
        with pytest.raises(ModelError, match=r"Did you mean .*'scgpt'") as of_bench:
            bench(model="scgtp")
        assert str(of_bench.value) == str(of_load.value)
        with pytest.raises(ModelError, match="whose weights do not come with scfm-lab"):
            bench(model="scgpt")
        with pytest.raises(ModelError, match="There is no checkpoint at nowhere"):
            bench(model="./nowhere")
        words = r"'celltype' is neither a column of obs \('cell_type', .* nor one of the 765 genes .*Did you mean 'cell_type'"
        with pytest.raises(DataError, match=words):
            bench(colour="celltype")
        lab = bench(model=MODEL).lab
        with pytest.raises(ModelError, match="Did you mean 'starter'"):
            lab.state = {"model": "startr"}
        assert lab.state["model"] == MODEL

    def test_says_what_it_is_where_no_notebook_shows_it(self, bench: Callable[..., Bench]) -> None:
        text = repr(bench(model=MODEL).lab)
        assert text.startswith("<Lab: 700 cells × 765 genes, model 'sctop'>")
        assert "lab.to_html(" in text
        assert "no model picked" in repr(bench().lab)

    def test_lists_the_registrys_models_with_what_decides_about_them(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.wait(120)
        rows = {row["name"]: row for row in lab._models["rows"]}
        assert {"pca", "sctop", "starter"} <= set(rows)
        row = rows["starter"]
        assert row["source"] == "models:/starter/1", "by its number: an alias may be moved"
        assert row["aliases"] == ["champion"]
        assert row["fit"]["verdict"] in ("fits", "tight", "does not fit")
        assert row["fit"]["source"] in ("measured", "estimated")
        assert (row["licence"], row["commercial"]) == ("BSD-3-Clause", True)
        assert row["kind"] == "pretrained"

    def test_the_picked_one_is_one_row_by_whatever_name_and_the_list_is_read_again(
        self, bench: Callable[..., Bench]
    ) -> None:
        from scfm_registry import Registry

        opened = bench(model="models:/starter@champion")
        opened.lab.wait(60)
        before = opened.lab._models["rows"]
        rows = opened.ask(type="models")[0]["rows"]
        assert [row["reference"] for row in rows] == [row["reference"] for row in before]
        for name in ("models:/starter@champion", "models:/starter/1", "starter", "scfm.starter"):
            assert [row["reference"] for row in rows if name in row["sources"]] == ["starter/1"], name
            assert opened.lab.session.same_model(name, "models:/starter/1")
        assert not opened.lab.session.same_model("starter", "sctop")
        twice = replace(Registry().get("starter@champion"), aliases=("aaa", "champion"))
        named = panel_models._row(twice, Hardware.detect(), set(), "")["sources"]
        assert {"models:/starter@aaa", "models:/starter@champion", "models:/starter/1"} <= set(named)
        # While the list is read again, what was read before stands.
        statuses = [(told["status"], len(told["rows"])) for told in opened.updates("_models")]
        assert ("loading", 0) not in statuses[1:]

    def test_greys_out_what_was_retracted(self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
        from scfm_registry import Registry

        opened = bench()

        def row(name: str) -> dict[str, Any]:
            opened.ask(type="panel", panel="scfm-widgets.models", message={"type": "models"})
            return next(row for row in opened.lab._models["rows"] if row["name"] == name)

        Registry().retract("sctop/1", because="a test")
        try:
            assert row("sctop")["blocked"] == "Retracted: a test."
            assert "retracted" in row("sctop")["tags"]
            assert "retracted" not in row("pca")["tags"]
            # Whoever has allowed it can pick it; the registry warns when it opens.
            monkeypatch.setenv("SCFM_ALLOW_RETRACTED", "1")
            assert "Retracted" not in str(row("sctop")["blocked"])
        finally:
            Registry().reinstate("sctop/1")

    def test_has_its_panels_through_the_manifest(self, bench: Callable[..., Bench]) -> None:
        own = [row for row in bench().lab._panels if row["plugin"] == "scfm-widgets"]
        assert [row["component"] for row in own] == [
            "models", "run", "embedding", "perturb", "screen", "trajectory", "genes", "compare",
        ]  # fmt: skip
        assert all(row["error"] is None for row in own)

    @pytest.mark.parametrize(
        ("thing", "words"), [({"X": 1}, "needs an AnnData.*dict"), (None, "NoneType")], ids=["dict", "None"]
    )
    def test_refuses_what_is_no_anndata(self, thing: Any, words: str) -> None:
        from scfm_widgets import Lab

        with pytest.raises(DataError, match=words):
            Lab(thing)

    def test_an_unknown_option_is_refused_with_the_nearest(self, pbmc68k: AnnData) -> None:
        from scfm_widgets import Lab

        with pytest.raises(DataError, match=r"Lab has no 'color'; it has adata, .*Did you mean 'colour'"):
            Lab(pbmc68k, color=GENE)  # type: ignore[arg-type]

    def test_refuses_an_empty_one(self, pbmc68k: AnnData) -> None:
        from scfm_widgets import Lab

        with pytest.raises(DataError, match="empty"):
            Lab(pbmc68k[:0].copy())

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"colour": "cell_typ"}, "cell_typ"),
            ({"groupby": "cell_typ"}, "Did you mean 'cell_type'"),
            ({"layout": "X_tsne"}, "X_umap"),
        ],
        ids=["colour", "groupby", "layout"],
    )
    def test_says_what_is_wrong_with_an_option(self, pbmc68k: AnnData, options: dict[str, str], words: str) -> None:
        from scfm_widgets import Lab

        with pytest.raises(DataError, match=words):
            Lab(pbmc68k, **options)

    def test_without_a_layout_waits_for_one(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        del pbmc68k.obsm["X_umap"]
        lab = bench().lab
        assert lab._xy == b""
        assert lab._repr_mimebundle_()[0].keys() >= {"application/vnd.jupyter.widget-view+json", "text/plain"}


class TestState:
    def test_takes_some_keys_and_keeps_the_others(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.state = {"hidden": ["CD19+ B"]}
        assert lab.state["hidden"] == ["CD19+ B"]
        assert lab.state["groupby"] == "cell_type"

    def test_a_mistyped_key_is_refused_with_a_hint(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        with pytest.raises(DataError, match=r"no 'color'.*Did you mean 'colour'"):
            lab.state = {"color": GENE}
        assert lab.state["colour"] == {"by": "obs", "name": "cell_type"}

    @pytest.mark.parametrize(
        ("given", "words"), [({"groupby": "cell_tipe"}, "cell_type"), ({"layout": "X_pca"}, "planes there: 'X_umap'")]
    )
    def test_what_is_not_there_is_refused_and_nothing_changes(
        self, bench: Callable[..., Bench], given: dict[str, str], words: str
    ) -> None:
        lab = bench().lab
        before = dict(lab.state)
        with pytest.raises(DataError, match=words):
            lab.state = given
        assert lab.state == before

    def test_a_panel_is_one_that_can_be_opened(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.state = {"panel": "screen"}
        with pytest.raises(DataError, match=r"The cells are always shown; .*: Models, Run, Perturb, Screen"):
            lab.state = {"panel": "embedding"}
        with pytest.raises(DataError, match=r"no panel 'gens'.*Did you mean 'Genes'"):
            lab.state = {"panel": "gens"}
        assert lab.state["panel"] == "screen"

    def test_a_colour_may_be_just_a_name(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.state = {"colour": GENE}
        assert lab.state["colour"] == {"by": "gene", "name": GENE}
        lab.state = {"colour": "phase"}
        assert lab.state["colour"] == {"by": "obs", "name": "phase"}
        with pytest.raises(DataError, match=r"nor one of the 765 genes in var_names\. Did you mean 'CD3D'"):
            lab.state = {"colour": "CD33D"}
        lab.state = {"colour": {"by": "result", "name": "fate:CD34+"}}
        for colour, words in (
            ({"by": "gene", "name": "CD33D"}, "Did you mean 'CD3D'"),
            ({"by": "obs", "name": "cell_typ"}, "Did you mean 'cell_type'"),
            ({"by": "result", "name": "shifts"}, "Did you mean 'shift'"),
            ({"by": "colour", "name": "phase"}, "A colour is a name, or"),
            ({"by": "obs"}, "A colour is a name, or"),
        ):
            with pytest.raises(DataError, match=words):
                lab.state = {"colour": colour}
        assert lab.state["colour"] == {"by": "result", "name": "fate:CD34+"}

    def test_a_column_that_holds_no_groups_is_no_grouping(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        with pytest.raises(DataError, match="'percent_mito' holds numbers"):
            bench(groupby="percent_mito")
        pbmc68k.obs["cell_type"] = [f"type {i % 300}" for i in range(pbmc68k.n_obs)]
        lab = bench().lab
        assert lab.state["colour"] == {"by": "obs", "name": "cell_type"}
        assert lab.session.groupby() is None

    def test_from_the_browser_reaches_python(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.set_state({"state": {**lab.state, "labels": False}})
        assert lab.state["labels"] is False

    def test_from_the_browser_that_cannot_be_is_told_and_what_was_before_holds(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.obs["clone"] = pd.Categorical([f"clone {i % 300}" for i in range(pbmc68k.n_obs)])
        pbmc68k.obs["gaps"] = pd.Categorical(["a", None] * (pbmc68k.n_obs // 2))
        opened = bench()
        lab = opened.lab
        groups = {column["name"]: column["groups"] for column in lab._meta["obs"]}
        assert [name for name, told in groups.items() if told] == ["cell_type", "phase", "louvain"]
        # Those of labels that tell no groups are named with what is in the way.
        assert {column["name"]: column["why"] for column in lab._meta["obs"] if "why" in column} == {
            "clone": "holds 300 groups, more than 200",
            "gaps": "350 cells have no value",
        }
        lab.set_state({"state": {**lab.state, "groupby": "clone"}})
        assert lab.state["groupby"] == "cell_type"
        assert opened.updates("state")[-1]["groupby"] == "cell_type", "and the browser is told"
        assert "has 300 groups" in lab._errors[0]["text"]
        # A column that is taken away stops nothing else.
        lab.state = {"groupby": "phase"}
        del pbmc68k.obs["phase"]
        lab.set_state({"state": {**lab.state, "labels": False}})
        lab.publish(state={**lab.state, "paths": False})
        assert (lab.state["labels"], lab.state["paths"]) == (False, False)
        assert len(lab._errors) == 1

    def test_a_change_from_the_browser_leaves_what_has_been_set_here_since(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.obsm["X_other"] = pbmc68k.obsm["X_umap"][:, ::-1]
        opened = bench()
        lab = opened.lab
        lab.state = {"layout": "X_other", "colour": GENE, "second": "X_umap"}
        before = dict(lab.state)
        answer, _ = opened.ask(type="state", change={"panel": "genes"})
        assert "error" not in answer
        assert lab.state == {**before, "panel": "genes"}
        assert opened.updates("state")[-1] == lab.state
        answer, _ = opened.ask(type="state", change={"groupby": "cell_tipe", "labels": False})
        assert "cell_type" in answer["error"]
        assert lab.state == {**before, "panel": "genes"}

    def test_a_range_is_one_of_the_colours_numbers_and_goes_with_it(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.state = {"colour": GENE, "range": (0.5, 2)}
        assert lab.state["range"] == [0.5, 2.0]
        lab.state = {"labels": False}
        assert lab.state["range"] == [0.5, 2.0]
        for wrong, words in (([2, 1], "least and the greatest"), (3, "given as 3"), ([0, float("nan")], "nan")):
            with pytest.raises(DataError, match=words):
                lab.state = {"range": wrong}
        assert lab.state["range"] == [0.5, 2.0]
        lab.state = {"colour": "cell_type"}
        assert lab.state["range"] is None
        with pytest.raises(DataError, match="'cell_type', which are groups"):
            lab.state = {"range": [0, 1]}

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"labels": "no"}, "'labels' is True or False; it was given as 'no'"),
            ({"density": 1}, "'density' is True, False or None"),
            ({"hidden": "CD34+"}, r"write \['CD34\+'\]"),
            ({"hidden": 3}, "'hidden' is a list of groups"),
            ({"hidden": ["CD34"]}, r"'cell_type' has no group 'CD34' to hide\. Did you mean 'CD34\+'"),
            ({"colour": GENE, "hidden": ["CD34+"]}, "coloured by 'CD3D', which are numbers"),
            ({"colour": None, "hidden": ["CD34+"]}, "nothing colours them"),
            ({"follow": GENE}, r"'follow' is a list of genes; write \['CD3D'\]"),
            ({"root": "CD34"}, r"obs\['cell_type'\] has no group 'CD34' for a root\. Did you mean 'CD34\+'"),
            ({"root": {"group": "CD34"}}, "Did you mean"),
            ({"root": {"cell": 700}}, "from 0 to 699"),
            ({"root": 5}, "'root' is a group"),
            ({"groupby": None, "root": "CD34+"}, "in no groups; set 'groupby'"),
            ({"against": "startr"}, "Did you mean 'starter'"),
            ({"gene": 5}, "'gene' is a name or None"),
            ({"model": 5}, "'model' is a name"),
            ({"range": []}, "least and the greatest"),
        ],
    )
    def test_what_cannot_be_is_refused_with_what_is_there(
        self, bench: Callable[..., Bench], given: dict[str, Any], words: str
    ) -> None:
        lab = bench().lab
        before = dict(lab.state)
        with pytest.raises((DataError, ModelError), match=words):
            lab.state = given
        assert lab.state == before

    def test_none_is_how_it_begins_and_values_are_plain(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        pbmc68k.obs["few"] = pd.Categorical([str(i % 3) if i else None for i in range(pbmc68k.n_obs)])
        lab = bench(colour="few").lab
        lab.state = {"hidden": (2, "(no value)"), "labels": np.bool_(False), "follow": (GENE,), "density": True}
        assert lab.state["hidden"] == ["2", "(no value)"]
        assert (lab.state["labels"], lab.state["follow"], lab.state["density"]) == (False, [GENE], True)
        lab.state = dict.fromkeys(("hidden", "labels", "follow", "density"))
        assert (lab.state["hidden"], lab.state["labels"], lab.state["follow"]) == ([], True, [])
        assert lab.state["density"] is None
        # Of very many groups the legend shows the largest, and the others as one.
        pbmc68k.obs["clone"] = [f"clone {i % 300}" for i in range(pbmc68k.n_obs)]
        (together,) = [
            label for label in lab.session.columns.of_obs("clone").about["labels"] if "smaller groups" in label
        ]
        lab.state = {"colour": "clone", "hidden": [together]}
        assert lab.state["hidden"] == [together]

    def test_a_root_is_a_group_or_a_cell_by_its_name(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench().lab
        lab.state = {"root": "CD34+"}
        assert lab.state["root"] == {"group": "CD34+"}
        lab.state = {"groupby": "phase"}
        assert lab.state["root"] is None, "a group of other groups is none"
        lab.state = {"root": str(pbmc68k.obs_names[7])}
        assert lab.state["root"] == {"cell": 7}
        lab.state = {"groupby": "cell_type"}
        assert lab.state["root"] == {"cell": 7}

    def test_what_was_hidden_goes_with_the_groups_that_it_is_of(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.obs["coarse"] = pd.Categorical(
            pbmc68k.obs["cell_type"].astype(str).where(np.arange(700) > 350, "CD34+")
        )
        lab = bench().lab
        lab.state = {"hidden": ["CD34+", "CD19+ B"]}
        few = pbmc68k.obs["coarse"].cat.categories
        lab.state = {**lab.state, "colour": "coarse"}
        assert lab.state["hidden"] == [name for name in ("CD34+", "CD19+ B") if name in few]
        lab.state = {"colour": GENE, "range": [0.5, 2]}
        assert lab.state["hidden"] == []
        lab.state = {**lab.state, "colour": "cell_type"}
        assert lab.state["range"] is None
        # So the whole of it can be given to another bench.
        assert bench(state=dict(lab.state)).lab.state == lab.state

    def test_is_not_changed_in_place_and_copies_are_plain(self, bench: Callable[..., Bench]) -> None:
        lab = bench(model=MODEL).lab
        with pytest.raises(DataError, match=r"assign: lab\.doses = \{\*\*lab\.doses, 'CD3D': 0\.0\}"):
            lab.doses[GENE] = 0.0
        lab.doses = {GENE: 0.0}
        assert lab.wait(120)
        assert lab.result.doses == {GENE: 0.0}
        with pytest.raises(DataError, match=r"assign: lab\.state = \{'colour': 'LYZ'\}"):
            lab.state["colour"] = "LYZ"
        changes: list[Callable[[], Any]] = [
            lambda: lab.state["colour"].update(name="LYZ"),
            lambda: lab.state["hidden"].append("CD34+"),
            lambda: lab.doses.pop(GENE),
            lambda: lab.doses.clear(),
            lambda: lab.doses.setdefault("LYZ", 1.0),
            lambda: lab.doses.__delitem__(GENE),
        ]
        for change in changes:
            with pytest.raises(DataError, match="is not changed in place"):
                change()
        assert (lab.doses, lab.state["hidden"]) == ({GENE: 0.0}, [])
        for held in (lab.state, lab.doses):
            assert json.loads(json.dumps(held)) == held
            for own in (
                dict(held),
                {**held},
                held.copy(),
                copy.copy(held),
                copy.deepcopy(held),
            ):
                assert type(own) is dict
                own["new"] = 1
                assert "new" not in held
        own = copy.deepcopy(lab.state)
        own["hidden"].append("CD34+")
        own["colour"]["name"] = "phase"
        lab.doses |= {"LYZ": 1.0}
        assert lab.doses == {GENE: 0.0, "LYZ": 1.0}

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("colour", GENE, r"lab\.colour sets nothing on the bench; assign: lab\.state = \{'colour': 'CD3D'\}"),
            ("groupby", None, r"lab\.state = \{'groupby': None\}"),
            ("panel", "genes", r"lab\.state = \{'panel': 'genes'\}"),
            ("color", GENE, r"lab\.state = \{'colour': 'CD3D'\}"),
            ("layout", "X_umap", r"the widget's own .*lab\.state = \{'layout': 'X_umap'\}"),
        ],
    )
    def test_is_set_as_a_whole_and_no_attribute_is_taken_for_it(
        self, bench: Callable[..., Bench], name: str, value: Any, words: str
    ) -> None:
        lab = bench().lab
        with pytest.raises(DataError, match=words):
            setattr(lab, name, value)
        lab.layout.width = "50%"
        lab.note = "a person's own"

    def test_followed_genes_are_those_of_the_cells(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        lab.state = {"follow": [GENE, "LYZ", GENE], "by_path": True}
        assert lab.state["follow"] == [GENE, "LYZ"]
        for wrong, words in (
            (["CD33D"], "Did you mean"),
            ("LYZ", r"write \['LYZ'\]"),
            (list(lab.adata.var_names[:5]), "At most 4"),
        ):
            with pytest.raises(DataError, match=words):
                lab.state = {"follow": wrong}
        assert f"'follow': ['{GENE}', 'LYZ'], 'by_path': True" in lab.code()

    def test_what_is_added_later_is_offered_when_it_is_shown(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        lab = bench().lab
        pbmc68k.obs["later"] = np.arange(pbmc68k.n_obs)
        pbmc68k.obsm["X_later"] = pbmc68k.obsm["X_umap"][:, ::-1]
        lab._repr_mimebundle_()
        assert {"name": "later", "kind": "number", "groups": False} in lab._meta["obs"]
        assert "X_later" in [item["key"] for item in lab._layouts]


class TestSelection:
    def test_from_the_browser_is_a_mask(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench().lab
        mask = np.arange(pbmc68k.n_obs) % 7 == 0
        # A buffer arrives as a view of a larger message.
        lab.set_state({"_selection": memoryview(b"xx" + pack_mask(mask))[2:]})
        assert (lab.selection == mask).all()

    def test_comes_as_a_message_ahead_of_what_is_asked_about_it(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        opened = bench()
        mask = np.arange(pbmc68k.n_obs) % 7 == 0
        opened.lab.comm.sent.clear()
        answer, _ = opened.ask(type="selection", bits=base64.b64encode(pack_mask(mask)).decode())
        assert "error" not in answer
        assert (opened.lab.selection == mask).all()
        code, _ = opened.ask(type="code")
        assert "lab.selection = " in code["text"]
        # The browser's other views, and a notebook that is saved, have it too.
        told = [buffers for _, data, buffers in opened.lab.comm.sent if data.get("buffer_paths") == [["_selection"]]]
        assert told == [[pack_mask(mask)]]

    def test_may_be_a_mask_positions_or_names(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        lab = bench().lab
        wanted = np.zeros(pbmc68k.n_obs, bool)
        wanted[[2, 5, 699]] = True
        for given in (wanted, [2, 5, 699], [2, 5, -1], pbmc68k.obs_names[[2, 5, 699]], pd.Series(wanted)):
            lab.selection = given
            assert (lab.selection == wanted).all()
        lab.selection = None
        assert not lab.selection.any()

    def test_is_not_changed_in_place(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        with pytest.raises(ValueError, match="read-only"):
            lab.selection[3] = True
        own = lab.selection.copy()
        own[3] = True
        lab.selection = own
        assert lab.selection.nonzero()[0].tolist() == [3]

    def test_and_results_are_told_to_who_observes_them(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        few = pbmc68k[::10].copy()
        opened = bench(few, model=MODEL)
        lab = opened.lab
        selected: list[Any] = []
        found: list[Any] = []
        lab.observe(lambda change: selected.append((change["old"].sum(), change["new"].sum())), "selection")
        lab.observe(lambda change: found.append(change["new"]), "result")
        lab.selection = [1, 2]
        lab.selection = [2, 1]
        opened.ask(type="selection", bits=base64.b64encode(pack_mask(np.arange(70) < 5)).decode())
        lab.set_state({"_selection": memoryview(pack_mask(np.arange(70) < 4))})
        assert selected == [(0, 2), (2, 5), (5, 4)]
        lab.result = result = sl.perturb(few, MODEL, {GENE: 0.5}, null=False, progress=False)
        assert found == [result]
        lab.doses = {GENE: 0.0}
        lab.wait(120)
        assert found[-1] is lab.result
        assert len({id(one) for one in found}) == len(found) == 3, "the effect, and then its null"
        lab.doses = {}
        lab.wait(120)
        assert found[-1] is None

        def fails(_: Any) -> None:
            message = "mine"
            raise ValueError(message)

        lab.observe(fails, "selection")
        lab.selection = [0]
        assert lab.selection.sum() == 1
        assert "mine" in lab.faults[-1]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ([700], "below 700"),
            ([True, False], "2 values"),
            (["no such cell"], "'no such cell'"),
            ([[1], [2]], "one-dimensional"),
        ],
        ids=["position", "mask", "name", "shape"],
    )
    def test_that_does_not_fit_is_refused_in_words(self, bench: Callable[..., Bench], given: Any, words: str) -> None:
        lab = bench().lab
        lab.selection = [1]
        with pytest.raises(DataError, match=words):
            lab.selection = given
        assert lab.selection.sum() == 1, "what was selected stays"


class TestColumns:
    def test_of_obs_come_as_codes(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        answer, buffers = bench().ask(type="column", by="obs", name="cell_type")
        labels = np.array([*answer["column"]["labels"]])
        assert (labels[np.frombuffer(buffers[0], np.uint8)] == pbmc68k.obs["cell_type"].astype(str)).all()

    def test_of_genes_are_normalised_by_the_whole_library(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        answer, buffers = bench().ask(type="column", by="gene", name="LYZ")
        counts = np.asarray(pbmc68k[:, "LYZ"].X.todense()).ravel()
        expected = np.log1p(counts / pbmc68k.obs["total_counts_all_genes"].to_numpy() * 1e4)
        about = answer["column"]
        shown = about["min"] + np.frombuffer(buffers[0], np.uint8) / 254 * (about["max"] - about["min"])
        assert np.abs(shown - expected).max() <= 0.5 * about["max"] / 254 + 1e-6
        assert about["min"] == 0.0

    def test_of_cells_without_raw_counts_are_shown_as_they_are(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.X = np.log1p(pbmc68k.X.toarray() * 1.37)
        answer, _ = bench().ask(type="column", by="gene", name="LYZ")
        assert answer["column"]["unit"] == "values in X"

    def test_are_of_the_gene_that_was_asked_for_where_raw_has_other_genes_in_another_order(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        """Scanpy's usual layout: variable genes in X, normalised; the counts of all genes in ``.raw``."""
        counts = pbmc68k.copy()
        cells = pbmc68k[:, 300:].copy()
        cells.X = np.log1p(cells.X)
        cells.raw = pbmc68k[:, ::-1].copy()
        gene = str(cells.var_names[0])
        opened = bench(cells, colour=gene)
        columns = opened.lab.session.columns
        only_raw = str(pbmc68k.var_names[0])
        for name in (gene, only_raw):
            found = np.asarray(counts[:, name].X.todense()).ravel() > 0
            assert (columns.expression(name) > 0).tolist() == found.tolist()
            assert opened.lab.panel("perturb").expressing([name]) == {name: found.sum()}
        told, _ = opened.ask(type="gene", gene=gene)
        assert told["groups"]["rows"][0]["share"] == pytest.approx((counts[:, gene].X > 0).sum() / counts.n_obs)
        # As scanpy plots them: all genes of raw.
        assert opened.ask(type="genes")[1][0].decode().split("\n") == list(cells.raw.var_names)
        assert opened.lab.session.genes_by_id[pbmc68k.var["ensembl_id"].iloc[0]] == only_raw
        reordered = columns.spread()[list(cells.raw.var_names).index(gene)]
        assert reordered == pytest.approx(np.var(columns.expression(gene)))

    def test_of_genes_named_by_ids_are_found_and_titled_by_their_symbols(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        """As every file of CELLxGENE names them."""
        cells = pbmc68k.copy()
        cells.var = cells.var.rename(columns={"gene_symbol": "feature_name"}).set_index("ensembl_id")
        gene = str(cells.var_names[pbmc68k.var_names == GENE][0])
        opened = bench(cells, colour=GENE)
        assert opened.lab.state["colour"] == {"by": "gene", "name": gene}
        opened.lab.state = {"gene": GENE}
        assert opened.lab.state["gene"] == gene
        assert opened.ask(type="column", by="gene", name=gene)[0]["column"]["title"] == GENE
        told, buffers = opened.ask(type="genes")
        assert told["labels"]
        assert f"{gene}\t{GENE}" in buffers[0].decode().split("\n")
        assert opened.ask(type="cell", cell=3, colour={"by": "gene", "name": gene})[0]["fields"][0][0] == GENE
        assert payload_of(opened.lab).replies["genes"][1] == buffers[0]

    def test_of_what_only_x_holds_beside_raw_counts_are_its_values(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        cells = pbmc68k.copy()
        cells.X = np.log1p(cells.X)
        cells.raw = pbmc68k[:, 1:].copy()
        gene = str(cells.var_names[0])
        opened = bench(cells, colour=gene)
        assert opened.ask(type="column", by="gene", name=gene)[0]["column"]["unit"] == "values in X"
        shown = opened.lab.session.columns.expression(gene)
        assert np.array_equal(shown, np.asarray(cells[:, gene].X.todense()).ravel())

    def test_a_gene_that_is_not_there_is_answered_where_it_was_asked(self, bench: Callable[..., Bench]) -> None:
        opened = bench()
        answer, _ = opened.ask(type="column", by="gene", name="CD33D")
        assert "no gene 'CD33D'" in answer["error"]
        assert "Did you mean 'CD3D'" in answer["error"]
        assert opened.lab._errors == []

    def test_gene_names_come_as_one_buffer(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        _, buffers = bench().ask(type="genes")
        assert buffers[0].decode().split("\n") == list(pbmc68k.var_names)

    def test_a_cell_under_the_pointer_is_told_exactly(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        answer, _ = bench().ask(type="cell", cell=17, colour={"by": "obs", "name": "percent_mito"})
        assert answer["name"] == pbmc68k.obs_names[17]
        fields = dict(answer["fields"])
        assert float(fields["percent_mito"]) == pytest.approx(pbmc68k.obs["percent_mito"].iloc[17], rel=5e-3)
        assert fields["cell_type"] == pbmc68k.obs["cell_type"].iloc[17]

    def test_a_cell_under_the_pointer_tells_the_result_that_colours_it(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        lab = bench().lab
        found = sl.trajectory(pbmc68k, use_rep="X_umap", root="CD34+", groupby="cell_type", basis="X_umap")
        end = next(iter(found.fates))
        row = int(np.flatnonzero(np.isfinite(found.fates[end]))[0])

        def told(name: str) -> dict[str, str]:
            colour = {"by": "result", "name": name}
            return dict(lab.session.columns.cell(row, colour, {"trajectory": found})["fields"])

        assert float(told(f"fate:{end}")[f"Probability of {end}"]) == pytest.approx(
            found.fates[end].iloc[row], rel=5e-3
        )
        assert told("branch")["Branch"] == str(found.branches[row])
        assert "Projection error" not in told("error")

    def test_hostile_names_go_through_as_they_are(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        evil = "<img src=x onerror=alert(1)>"
        pbmc68k.obs[evil] = pd.Categorical(np.where(np.arange(700) % 2, "a\nb", "</script>"))
        pbmc68k.var_names = [evil, "two\nlines", *pbmc68k.var_names[2:]]
        opened = bench()
        assert opened.ask(type="column", by="obs", name=evil)[0]["column"]["labels"] == ["</script>", "a\nb"]
        assert opened.ask(type="column", by="gene", name=evil)[0]["column"]["title"] == evil
        names = opened.ask(type="genes")[1][0].decode().split("\n")
        assert len(names) == 765
        assert names[:2] == [evil, "two lines"]


class TestRunning:
    def test_embeds_and_lays_out_under_new_keys(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        umap = pbmc68k.obsm["X_umap"].copy()
        answer, _ = opened.ask(type="run", model=MODEL, layout=None)
        lab = opened.lab
        assert lab._errors == []
        assert answer["key"] == "X_sctop"
        assert pbmc68k.obsm["X_sctop"].shape[0] == 700
        assert (pbmc68k.obsm["X_umap"] == umap).all()
        assert lab._xy == Frame.around(pbmc68k.obsm["X_umap_sctop"]).pack(pbmc68k.obsm["X_umap_sctop"])
        assert {"X_sctop", "X_umap_sctop"} <= set(pbmc68k.uns["scfm"])
        assert type(lab.result).__name__ == "EmbedResult"
        done = [job for job in opened.updates("_job") if job]
        assert done[-1]["status"] == "done"
        assert max(job["done"] for job in done) == 700

    def test_offers_the_new_layout_and_moves_the_perturbed_cells_onto_it(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        opened.ask(type="run", model=MODEL, layout=None)
        lab = opened.lab
        assert [item["key"] for item in lab._layouts if not item.get("second")] == ["X_umap", "X_umap_sctop"]
        assert lab.state["layout"] == "X_umap_sctop"
        assert lab.result.layout.basis == "X_umap_sctop"
        assert len(lab._after) == len(lab._xy)
        lab.state = {"layout": "X_umap"}
        lab.wait(120)
        assert lab.result.layout.basis == "X_umap"
        assert lab._xy_info["title"] == "UMAP"

    def test_keeps_a_layout_that_is_named(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="run", model=MODEL, layout="X_umap")
        assert "X_umap_sctop" not in pbmc68k.obsm
        assert opened.lab.session.layout == "X_umap"

    def test_a_layout_that_is_not_there_is_refused_before_the_run(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        answer, _ = bench(model=MODEL).ask(type="run", model=MODEL, layout="pca:X_pca")
        assert "no plane 'pca:X_pca'" in answer["error"]
        assert "X_sctop" not in pbmc68k.obsm

    def test_cancelled_writes_nothing(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        before = list(pbmc68k.obsm)
        future = opened.lab.run()
        while not future.done():
            opened.lab.session.cancel()
        opened.lab.wait(60)
        last = opened.updates("_job")[-1]
        assert last["status"] == "cancelled"
        # Stopped while the cells are laid out, the vectors are there already, and the note says so.
        assert list(pbmc68k.obsm) == before or "X_sctop" in last["note"]
        assert "X_umap_sctop" not in pbmc68k.obsm
        assert opened.lab._errors == []

    def test_plans_before_with_the_share_of_counts_lost(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="plan", model=MODEL)
        plan = opened.lab._plan
        audit = sl.audit_genes(pbmc68k, MODEL, groupby="cell_type")
        assert plan["device"]
        assert plan["seconds"] > 0
        assert plan["audit"]["overall"]["matched"] == audit.genes_matched
        lost = {row["group"]: row["lost"] for row in plan["audit"]["rows"]}
        assert lost == pytest.approx(audit.table.set_index("group")["umi_share_lost"].drop("all").to_dict())

    def test_tells_groups_in_the_order_of_the_legend(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        order = [str(i) for i in range(12)]
        pbmc68k.obs["leiden"] = pd.Categorical([order[i % 12] for i in range(pbmc68k.n_obs)], categories=order)
        opened = bench(model=MODEL, groupby="leiden", colour="leiden")
        column, _ = opened.ask(type="column", by="obs", name="leiden")
        assert column["column"]["labels"] == order
        opened.ask(type="plan", model=MODEL)
        assert [row["group"] for row in opened.lab._plan["audit"]["rows"]] == order
        answer, _ = opened.ask(type="gene", gene=GENE)
        assert [row["group"] for row in answer["groups"]["rows"]] == ["all", *order]
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=False)
        assert [row["group"] for row in opened.lab._perturbation["rows"]] == ["all", *order]

    def test_an_unknown_model_is_an_error_in_words_in_the_bench(self, bench: Callable[..., Bench]) -> None:
        opened = bench()
        answer, _ = opened.ask(type="run", model="startr", layout=None)
        assert "startr" in answer["error"]
        assert opened.lab._errors[0]["text"] == answer["error"]
        opened.ask(type="dismiss", fault=opened.lab._errors[0]["id"])
        assert opened.lab._errors == []

    def test_cells_that_are_not_counts_are_an_error_in_words(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.X = np.log1p(pbmc68k.X.toarray() * 1.37)
        opened = bench(model=MODEL)
        answer, _ = opened.ask(type="run", model=MODEL, layout=None)
        assert "counts" in answer["error"]
        assert "Traceback" not in answer["error"]

    def test_without_a_model_says_what_to_do(self, bench: Callable[..., Bench]) -> None:
        with pytest.raises(ModelError, match="No model is picked"):
            bench().lab.run()


class TestPerturbing:
    @pytest.fixture
    def pbmc68k(self, pbmc68k: AnnData) -> AnnData:
        """A third of them: an answer, its null and its curves take a third of the time."""
        return pbmc68k[::3].copy()

    def test_agrees_with_sl_perturb(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        expected = sl.perturb(pbmc68k, MODEL, {GENE: 0.0}, groupby="cell_type", progress=False)
        rows = shown_rows(opened)
        for row in expected.table.itertuples():
            shown = rows[row.group]
            assert shown["effect"] == pytest.approx(row.effect, rel=1e-5)
            assert shown["verdict"] == row.verdict
            assert shown["p_value"] == (None if np.isnan(row.p_value) else pytest.approx(row.p_value))
        frame = opened.lab.session.frame
        after = frame.unpack(opened.lab._after)
        assert np.abs(after - expected.layout.after).max() <= frame.side / 65535
        assert type(opened.lab.result).__name__ == "PerturbResult"

    def test_shows_the_effect_before_its_null(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        told = [value["null"] for value in opened.updates("_perturbation") if value]
        assert told == ["pending", "ready"]

    def test_what_is_shown_is_not_computed_again_for_its_curve(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As of very many cells: no answer is small enough to be kept.
        monkeypatch.setattr(curves, "_MOST_BYTES", 0)
        asked: list[Any] = []
        run = Perturber.run

        def counted(self: Perturber, doses: Any, **options: Any) -> Any:
            asked.append(dict(doses))
            return run(self, doses, **options)

        monkeypatch.setattr(Perturber, "run", counted)
        opened = bench(pbmc68k[::7].copy(), model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0})
        assert asked.count({GENE: 0.0}) == 1
        assert len(opened.lab._curves[0]["points"]) == len(curves.AHEAD)
        assert opened.lab.panel("perturb")._wanted is None, "and a stop in the middle of a curve is heeded again"

    def test_moves_only_cells_that_change(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=False)
        places = [np.frombuffer(data, "<u2").reshape(-1, 2) for data in (opened.lab._xy, opened.lab._after)]
        moved = (places[0] != places[1]).any(axis=1)
        expresses = np.asarray(pbmc68k[:, GENE].X.todense()).ravel() > 0
        assert moved.any()
        assert not (moved & ~expresses).any()
        assert opened.lab._perturbation["expressing"] == {GENE: int(expresses.sum())}

    def test_a_slider_that_still_moves_gets_no_null_and_sets_no_doses(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.3}, commit=False)
        assert opened.lab._perturbation["null"] == "none"
        assert opened.lab.doses == {}

    def test_at_dose_1_nothing_is_after(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0}, commit=True)
        opened.ask(type="perturb", doses={GENE: 1.0}, commit=True)
        assert opened.lab._after == b""
        assert opened.lab._perturbation is None
        assert opened.lab.doses == {GENE: 1.0}

    def test_from_python_is_computed_too(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.lab.doses = {GENE: 0.0}
        opened.lab.wait(120)
        assert opened.lab._perturbation["doses"] == {GENE: 0.0}
        assert opened.lab.result.doses == {GENE: 0.0}

    def test_other_groups_are_told_anew_with_the_same_shifts(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.lab.doses = {GENE: 0.0}
        opened.lab.wait(120)
        by_type = shown_rows(opened)
        opened.lab.state = {"groupby": "phase"}
        opened.lab.wait(120)
        by_phase = shown_rows(opened)
        assert set(by_phase) == {"all", "G1", "G2M", "S"}
        assert by_phase["all"]["effect"] == pytest.approx(by_type["all"]["effect"])

    def test_the_curve_of_a_gene_is_that_of_response_curves(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[tuple[Any, ...]] = []
        tell = Job.tell

        def listen(job: Job, done: int, total: int, note: str, **how: Any) -> None:
            tell(job, done, total, note, **how)
            heard.append((job.kind, job.label, done, total, job.note, how["unit"]))

        monkeypatch.setattr(Job, "tell", listen)
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 1.0}, commit=True)
        # At dose 1 no null follows, and nothing is said of any.
        told_of = [one[1:] for one in heard if one[0] == "null"]
        assert told_of == [("Response curves", number, 6, "", "doses") for number in range(6)]
        (told,), places = opened.lab._curves, opened.lab._curve_places
        curves = sl.response_curves(
            pbmc68k, MODEL, [GENE], cells=len(pbmc68k), groupby="cell_type", n_draws=2, progress=False
        )
        assert [point["dose"] for point in told["points"]] == curves.doses.tolist()
        part = [places[p["offset"] : p["offset"] + p["length"]] for p in told["points"]]
        for d in range(len(curves.doses)):
            moved = np.frombuffer(part[d], "<u2").astype(int)
            expected = np.frombuffer(opened.lab.session.frame.pack(curves.before + curves.displacement[0, d]), "<u2")
            assert np.abs(moved - expected).max() <= 1
            row = told["points"][d]["perturbation"]["rows"][0]
            assert row["effect"] == pytest.approx(float(curves.shift[0, d].mean()), rel=1e-5)
        # What was computed ahead is what is answered.
        heard.clear()
        opened.ask(type="perturb", doses={GENE: 0.0, "LYZ": 1.0}, commit=True)
        assert part[0] == opened.lab._after
        # The curves are counted, and then the null, each by its own name and from its own beginning.
        told_of = [one[1:] for one in heard if one[0] == "null"]
        of_null = told_of[6:]
        assert told_of[:6] == [("Response curves", number, 6, "", "doses") for number in range(6)]
        assert of_null[0] == ("Comparable genes", 0, 0, "", "cells")
        assert {(label, note, unit) for label, _, _, note, unit in of_null[1:]} == {("Comparable genes", "", "genes")}
        counted = [done for _, done, *_ in of_null]
        assert counted == sorted(counted)

    def test_each_gene_on_the_bench_has_its_curve(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="perturb", doses={GENE: 0.0, "LYZ": 1.0}, commit=True)
        told = {curve["gene"]: [point["dose"] for point in curve["points"]] for curve in opened.lab._curves}
        assert told == {GENE: [0.0, 0.25, 0.5, 1.0, 1.5, 2.0], "LYZ": [0.0, 0.25, 0.5, 1.0, 1.5, 2.0]}

    def test_curves_and_places_are_of_the_plane_that_is_shown(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        pbmc68k.obsm["X_two"] = pbmc68k.obsm["X_umap"][:, ::-1] * [1.0, 0.5]
        opened = bench(model=MODEL)
        lab = opened.lab

        def off() -> int:
            """How far the curve's places at dose 1 are from those of the cells, in steps of the grid."""
            lab.wait(120)
            (point,) = [point for curve in lab._curves for point in curve["points"] if point["dose"] == 1.0]
            places = lab._curve_places[point["offset"] : point["offset"] + point["length"]]
            shown, own = (np.frombuffer(data, "<u2").astype(int) for data in (lab._xy, places))
            return int(np.abs(shown - own).max())

        lab.doses = {GENE: 1.0}
        assert off() <= 1
        told = len(opened.updates("_curves"))
        lab.state = {"layout": "X_two"}
        assert opened.updates("_curves")[told] == [], "gone at once"
        assert off() <= 1
        lab.doses = {GENE: 0.0}
        lab.wait(120)
        after = lab._after
        assert len(after) == len(lab._xy)
        # The same plane once more, as a run that keeps it does.
        lab.session.use_layout("X_two")
        lab.wait(120)
        assert lab._after == after
        # A result that Python sets brings its own plane.
        lab.result = sl.perturb(pbmc68k, MODEL, {GENE: 0.5}, basis="X_umap", null=False, progress=False)
        assert lab._curves == []
        assert lab.state["layout"] == "X_umap"
        assert lab._xy_info["title"] == "UMAP"

    def test_what_was_put_off_for_other_work_comes_after_it(self, bench: Callable[..., Bench]) -> None:
        lab = bench(model=MODEL).lab
        planned: list[Any] = []

        def plan(change: Any) -> None:
            # In the middle of the work ahead, as opening the Run panel does.
            if change["new"] and not planned:
                planned.append(lab.panel("run").plan(MODEL))

        lab.observe(plan, "_curves")
        lab.doses = {GENE: 0.0}
        assert lab.wait(120)
        assert planned[0].done()
        assert lab._perturbation["null"] == "ready"
        assert [len(curve["points"]) for curve in lab._curves] == [6]

    def test_what_another_model_has_answered_goes_with_it(self, bench: Callable[..., Bench]) -> None:
        opened = bench(model=MODEL)
        lab = opened.lab
        lab.doses = {GENE: 0.0}
        lab.wait(120)
        told = len(opened.updates("_perturbation"))
        lab.state = {"model": "pca"}
        assert opened.updates("_perturbation")[told] is None, "before the other one has answered"
        lab.wait(120)
        assert lab._perturbation["model"] == "pca"
        lab.state = {"model": None}
        assert (lab._perturbation, lab._changed, lab._curves, lab._after) == (None, None, [], b"")

    @pytest.mark.parametrize(
        ("doses", "words"),
        [({GENE: -1.0}, "-1"), ({"NOTAGENE": 0.0}, "NOTAGENE"), ({GENE: float("nan")}, "dose")],
        ids=["negative", "unknown gene", "not a number"],
    )
    def test_what_cannot_be_is_told_in_words(
        self, bench: Callable[..., Bench], doses: dict[str, float], words: str
    ) -> None:
        opened = bench(model=MODEL)
        answer, _ = opened.ask(type="perturb", doses=doses, commit=True)
        assert words in answer["error"]
        assert opened.lab._errors[0]["text"] == answer["error"]

    def test_what_the_model_refuses_is_not_waited_for(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        pbmc68k.var_names = ["NOVEL1", *pbmc68k.var_names[1:]]
        pbmc68k.var["gene_symbol"] = pbmc68k.var_names
        pbmc68k.var["ensembl_id"] = ["", *pbmc68k.var["ensembl_id"][1:]]
        lab = bench(model=MODEL).lab
        lab.doses = {"NOVEL1": 0.0}
        lab.wait(120)
        assert lab._refused == {"NOVEL1": 0.0}

    def test_no_result_is_that_of_doses_before_those_that_were_refused(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        few = pbmc68k[::3].copy()
        few.var_names = ["NOVEL1", *few.var_names[1:]]
        few.var["gene_symbol"] = few.var_names
        few.var["ensembl_id"] = ["", *few.var["ensembl_id"][1:]]
        lab = bench(few, model=MODEL).lab
        lab.doses = {GENE: 0.0}
        assert lab.wait(120)
        assert lab.result is not None
        lab.doses = {"NOVEL1": 0.0}
        assert lab.wait(120)
        assert (lab.result, lab.results.get("perturb")) == (None, None)
        assert "NOVEL1" in lab.faults[-1]
        code = lab.code()
        assert "sl.perturb(" not in code
        assert "lab.doses = {'NOVEL1': 0.0}" in code
        assert payload_of(lab).traits["_meta"]["responses"] == []
        lab.doses = {GENE: 0.0}
        assert lab.wait(120)
        assert lab.result.doses == {GENE: 0.0}

    def test_a_gene_that_is_not_there_is_refused_where_it_is_assigned(self, bench: Callable[..., Bench]) -> None:
        lab = bench(model=MODEL).lab
        lab.doses = {GENE: 1.0}
        with pytest.raises(GenesError, match=r"No gene called 'CD33D'.*Did you mean 'CD3D'"):
            lab.doses = {"CD33D": 0.0}
        assert lab.doses == {GENE: 1.0}
        # By any of its names.
        lab.doses = {"ENSG00000167286": 1.0}
        assert lab.doses == {"ENSG00000167286": 1.0}

    def test_with_no_model_picked_says_what_to_do(self, bench: Callable[..., Bench]) -> None:
        answer, _ = bench().ask(type="perturb", doses={GENE: 0.0}, commit=True)
        assert "pick one in the Models panel" in answer["error"]


class TestTrajectory:
    def test_from_a_group_colours_the_cells_and_draws_the_paths(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="run", model=MODEL, layout="X_umap")
        opened.ask(type="trajectory", root={"group": "CD34+"}, groupby="cell_type")
        lab = opened.lab
        assert lab._errors == []
        assert "trajectory_pseudotime" in pbmc68k.obs
        assert lab.state["colour"] == {"by": "result", "name": "pseudotime"}
        found = lab._trajectory
        assert found["paths"]
        assert all(0 <= value <= 1 for path in found["paths"] for value in path["points"])
        assert found["charts"]["light"].startswith("<svg")
        assert found["charts"]["light"] != found["charts"]["dark"]
        # Beside it: the same on principal components, and where cells are likely to end.
        result: Any = lab.result
        assert found["twin"]["agreement"] == pytest.approx(result.twin.agreement)
        assert found["ends"] == [str(end) for end in result.fates]
        assert found["parting"] == result.branch_points
        assert [node["name"] for node in found["nodes"] if node["parting"]] == [
            node["name"] for node in found["nodes"] if node["name"] in result.branch_points
        ]
        for row in found["groups"]:
            if None not in row["fates"]:
                assert sum(row["fates"]) == pytest.approx(1, abs=1e-3)
        answer, _ = opened.ask(type="column", by="result", name=f"fate:{found['ends'][0]}")
        assert 0 <= answer["column"]["min"] <= answer["column"]["max"] <= 1
        answer, _ = opened.ask(type="trends", genes=[GENE, "LYZ"])
        assert {(c["gene"], c["path"]) for c in answer["curves"]} == {
            (gene, end) for gene in (GENE, "LYZ") for end in found["ends"]
        }
        assert all(low <= high for c in answer["curves"] for low, high in zip(c["low"], c["high"], strict=True))
        answer, buffers = opened.ask(type="column", by="result", name="pseudotime")
        codes = np.frombuffer(buffers[0], np.uint8)
        root = pbmc68k.obs_names.get_loc(lab.result.root)
        assert codes[root] == 0
        assert answer["column"]["scale"] == "order"
        # On another plane the paths are where their groups are there.
        pbmc68k.obsm["X_two"] = pbmc68k.obsm["X_umap"][:, ::-1] * [1.0, 0.5]
        lab.state = {"layout": "X_two"}
        frame, moved = lab.session.frame, lab._trajectory
        assert [node["name"] for node in moved["nodes"]] == [node["name"] for node in found["nodes"]]
        for node in moved["nodes"]:
            middle = np.median(pbmc68k.obsm["X_two"][pbmc68k.obs["cell_type"] == node["name"]], axis=0)
            assert [node["x"], node["y"]] == pytest.approx(list((middle - frame.low) / frame.side), abs=1e-6)
        assert moved["version"] > found["version"]
        # The plane of the twin is that of the counts, made without the model, with the groups' times of its order.
        lab.state = {"second": "twin"}
        twin, beside = result.twin, lab._trajectory["second"]
        assert lab._second == lab.session.second_frame.pack(twin.layout.before)
        assert lab._second_info["title"] == "Principal components of the counts"
        assert [node["time"] for node in beside["nodes"]] == pytest.approx(
            [np.nanmedian(twin.pseudotime[pbmc68k.obs["cell_type"] == node["name"]]) for node in beside["nodes"]]
        )
        by_model = {node["name"]: node["time"] for node in found["nodes"]}
        assert any(node["time"] != pytest.approx(by_model[node["name"]]) for node in beside["nodes"])
        # An order that has none takes it away, and it is offered no more.
        lab.result = replace(result, twin=None, twin_missing="there are no raw counts")
        assert lab.state["second"] is None
        assert "twin" not in [plane["key"] for plane in lab._layouts]

    def test_a_root_is_found_by_its_name(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench()
        name = pbmc68k.obs_names[42]
        answer, _ = opened.ask(type="find", typed=f" {name.lower()} ")
        assert answer["cells"][0] == {"cell": 42, "name": name, "group": str(pbmc68k.obs["cell_type"].iloc[42])}
        # Where nothing is typed, what is selected comes first.
        opened.lab.selection = [699]
        answer, _ = opened.ask(type="find", typed="")
        assert [cell["cell"] for cell in answer["cells"]] == [699, *range(39)]
        answer, _ = opened.ask(type="find", typed="no such cell")
        assert answer["cells"] == []

    def test_from_a_cell_begins_there(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="run", model=MODEL, layout="X_umap")
        opened.ask(type="trajectory", root={"cell": 42}, groupby="cell_type")
        assert opened.lab.result.root == pbmc68k.obs_names[42]
        assert opened.lab.result.pseudotime[42] == 0.0

    @pytest.mark.parametrize(
        ("root", "words"), [(None, "No root is picked"), ({"group": "CD34"}, "CD34"), ({"cell": 9999}, "9999")]
    )
    def test_a_root_that_is_not_there_is_told_in_words(
        self, bench: Callable[..., Bench], pbmc68k: AnnData, root: Any, words: str
    ) -> None:
        opened = bench(model=MODEL)
        opened.ask(type="run", model=MODEL, layout="X_umap")
        answer, _ = opened.ask(type="trajectory", root=root, groupby="cell_type")
        assert words in answer["error"]
        assert not [name for name in pbmc68k.obs if name.startswith("trajectory")]

    def test_before_a_run_says_what_to_do(self, bench: Callable[..., Bench]) -> None:
        answer, _ = bench().ask(type="trajectory", root={"group": "CD34+"}, groupby="cell_type")
        assert "run a model first" in answer["error"]


class TestResults:
    def test_set_from_python_are_shown(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        result = sl.perturb(pbmc68k, MODEL, {GENE: 0.5}, groupby="cell_type", null=False, progress=False)
        lab = bench(model=MODEL).lab
        lab.result = result
        assert lab.doses == {GENE: 0.5}
        assert lab._perturbation["moved"] == int(result.changed.sum())
        assert lab.result is result

    def test_a_perturbation_has_curves_and_changed_genes_behind_it(
        self, bench: Callable[..., Bench], pbmc68k: AnnData
    ) -> None:
        few = pbmc68k[:60].copy()
        asked = {"groupby": "cell_type", "null": False, "progress": False}
        lab, result = bench(few, model="starter").lab, sl.perturb(few, "starter", {GENE: 0.5}, **asked)
        lab.result = result
        lab.wait(120)
        assert lab._errors == []
        (curve,) = lab._curves
        assert [point["dose"] for point in curve["points"]] == sorted(curves.AHEAD)
        told = {row["group"]: row["effect"] for row in curve["points"][0]["perturbation"]["rows"]}
        knockout = sl.perturb(few, "starter", {GENE: 0.0}, **asked).table
        assert told == pytest.approx(dict(zip(knockout["group"], knockout["effect"], strict=True)))
        assert lab._changed["doses"] == {GENE: 0.5}
        # What was given stays, without a null that nobody has asked for; another model's is not mixed with it.
        assert lab.result is result
        lab = bench(few, model=MODEL).lab
        lab.result = result
        lab.wait(120)
        assert (lab._curves, lab._changed, lab._errors) == ([], None, [])

    def test_of_other_cells_are_refused(self, bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
        result = sl.embed(pbmc68k[:100].copy(), MODEL, progress=False)
        lab = bench().lab
        with pytest.raises(DataError, match="100 cells, the bench 700"):
            lab.result = result

    def test_of_another_kind_are_refused(self, bench: Callable[..., Bench]) -> None:
        lab = bench().lab
        with pytest.raises(DataError, match="not a list"):
            lab.result = []


def test_the_still_picture_shows_every_group_in_its_colour(bench: Callable[..., Bench]) -> None:
    from PIL import Image

    from scfm_widgets.picture import CATEGORIES

    data, _ = bench().lab._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
    seen = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.getcolors(1_000_000)}
    assert seen >= set(CATEGORIES[:10])
    assert set(CATEGORIES[10:]).isdisjoint(seen)


def test_the_still_picture_has_the_scale_of_the_column_and_greek_letters() -> None:
    from scfm_widgets.picture import _colours, _font

    about = {"kind": "number", "min": 0.0, "max": 1.0}
    for scale, first in (("amount", "#e3e6ea"), ("order", "#440154"), ("change", "#e3e6ea")):
        assert _colours({**about, "scale": scale})[0] == first
    last = {_colours({**about, "scale": scale})[254] for scale in ("amount", "order", "change")}
    assert len(last) == 3
    drawn = [bytes(_font(24).getmask(letter)) for letter in ("γ", "δ", "\U0010ffff")]
    assert len(set(drawn)) == 3


def test_the_still_picture_does_without_what_cannot_be_had(bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
    lab = bench().lab
    lab.state = {"colour": {"by": "result", "name": "shift"}}
    assert "image/png" in lab._repr_mimebundle_()[0]
    pbmc68k.obsm["X_umap"][:] = np.nan
    assert "image/png" not in lab._repr_mimebundle_()[0]


def test_two_benches_share_nothing(bench: Callable[..., Bench], pbmc68k: AnnData) -> None:
    one, two = bench(pbmc68k.copy()).lab, bench(pbmc68k.copy()).lab
    one.selection = [1]
    one.state = {"hidden": ["CD34+"]}
    assert not two.selection.any()
    assert two.state["hidden"] == []
    assert one._uid != two._uid
