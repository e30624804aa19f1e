"""Screens: the same numbers as one gene at a time, ranked fairly, and nothing lost when the process dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

import scfm_lab as sl
from scfm_lab.cli import cli
from scfm_lab.errors import Cancelled, DataError, GenesError
from scfm_lab.tasks import neighbours
from scfm_lab.tasks.baseline import Baseline
from scfm_lab.tasks.perturb import Perturber
from scfm_lab.tasks.readouts import make_readouts
from scfm_lab.tasks.screen import Screen

COLUMNS = ["gene", "group", "readout", "effect", "null_mean", "null_sd", "p_value", "q_value", "n_cells"]
GENES = ["CD3D", "LYZ", "MS4A1", "CD79A", "NKG7"]


@pytest.fixture(scope="module")
def small():
    adata = sl.datasets.load("pbmc68k")
    cells = adata.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])
    # Every third gene, and those that are asked about: enough to find comparable ones.
    genes = (np.arange(adata.n_vars) % 3 == 0) | adata.var_names.isin([*GENES, "CD74", "HLA-DPB1"])
    return adata[cells, genes].copy()


@pytest.fixture(scope="module")
def whole(small):
    return sl.screen(small, "pca", groupby="cell_type", target="CD19+ B", progress=False)


def test_every_gene_has_a_row_for_each_group_and_readout(small, whole):
    table = whole.table
    assert list(table.columns) == COLUMNS
    known = sl.load_model("pca").match(Perturber(small, "pca").cells.genes).columns
    expressed = np.asarray((small.X > 0).sum(axis=0)).ravel()[known] > 0
    assert table["gene"].nunique() == expressed.sum()
    assert len(table) == table["gene"].nunique() * 4 * 2
    assert set(table["readout"]) == {"shift", "towards_target"}


@pytest.mark.parametrize("dose", [0.0, 0.5, 2.0])
def test_effects_are_those_of_one_gene_at_a_time(small, dose):
    found = sl.screen(small, "pca", GENES, dose=dose, groupby="cell_type", n_null=19, n_draws=3, progress=False).table
    lab = Perturber(small, "pca", groupby="cell_type")
    for gene in GENES:
        alone = lab.run({gene: dose}, n_draws=3).table.set_index("group")["effect"]
        packed = found[found["gene"] == gene].set_index("group")["effect"]
        np.testing.assert_allclose(packed[alone.index], alone, rtol=2e-4, atol=1e-6)


def test_packed_cells_are_those_of_one_gene_at_a_time_in_a_network_too(small):
    some = small[::6].copy()
    found = sl.screen(some, "starter", GENES[:3], n_null=19, progress=False, max_cells=1000).measured
    lab = Perturber(some, "starter")
    for i, gene in enumerate(GENES[:3]):
        np.testing.assert_allclose(found.effects["shift"].toarray()[i], lab.run({gene: 0.0}).shift, atol=1e-4)


def test_the_best_stand_first_and_p_is_a_rank(whole):
    for _, rows in whole.details.groupby(["readout", "group"], sort=False):
        p = rows["p_value"].to_numpy()
        tested = np.isfinite(p)
        assert not tested[tested.argmin() :].any() or tested.all()
        assert (np.diff(p[tested]) >= 0).all()
        assert (p[tested] >= 1 / (rows["n_null"].to_numpy()[tested] + 1) - 1e-12).all()
        np.testing.assert_allclose(rows["q_value"][tested], stats.false_discovery_control(p[tested]))
    # Most genes are nothing special: about one in twenty is beyond its 5 %.
    shift = whole.details[(whole.details["readout"] == "shift") & (whole.details["group"] == "all")]
    assert 0.01 <= (shift["p_value"] <= 0.05).sum() / shift["p_value"].notna().sum() <= 0.09


def test_a_gene_that_a_model_looks_at_more_than_at_its_like_comes_first(small):
    # The vocabulary's loading of one middling gene times eight.
    import copy

    model = copy.copy(sl.load_model("pca"))
    lab = Perturber(small, model)
    column = small.var_names.get_loc("CD3D")
    place = lab.match.ids[list(lab.match.columns).index(column)]
    model.components = model.components.clone()
    model.components[:, place] *= 8
    model.__dict__.pop("_tables", None)
    row = sl.screen(small, model, progress=False).details.query("gene == 'CD3D'").iloc[0]
    assert row["p_value"] <= 1.01 / (row["n_null"] + 1)
    assert row["z"] > 3


def test_towards_target_is_the_component_along_the_way(small):
    result = sl.screen(small, "pca", ["LYZ"], groupby="cell_type", target="CD19+ B", n_null=19, progress=False)
    run = Perturber(small, "pca").run({"LYZ": 0.0})
    b = (small.obs["cell_type"] == "CD19+ B").to_numpy()
    way = run.baseline[b].mean(axis=0) - run.baseline
    along = ((run.perturbed - run.baseline) * way).sum(axis=1) / np.linalg.norm(way, axis=1)
    rows = result.table[result.table["readout"] == "towards_target"].set_index("group")
    assert rows.loc["all", "effect"] == pytest.approx(along[~b].mean(), rel=1e-4)
    mono = (small.obs["cell_type"] == "CD14+ Monocyte").to_numpy()
    assert rows.loc["CD14+ Monocyte", "effect"] == pytest.approx(along[mono].mean(), rel=1e-4)
    assert rows.loc["CD14+ Monocyte", "effect"] > 0
    assert np.isnan(rows.loc["CD19+ B", "effect"])
    assert rows.loc["CD19+ B", "n_cells"] == 0


def test_a_target_in_a_reference(small):
    reference = small[small.obs["cell_type"] == "CD56+ NK"].copy()
    query = small[small.obs["cell_type"] != "CD56+ NK"].copy()
    result = sl.screen(
        query, "pca", ["LYZ"], target="CD56+ NK", reference=reference, labels_key="cell_type", n_null=19, progress=False
    )
    run = Perturber(query, "pca").run({"LYZ": 0.0})
    way = sl.embed(reference, "pca", progress=False).vectors.mean(axis=0) - run.baseline
    along = ((run.perturbed - run.baseline) * way).sum(axis=1) / np.linalg.norm(way, axis=1)
    row = result.table[result.table["readout"] == "towards_target"].iloc[0]
    assert row["effect"] == pytest.approx(along.mean(), rel=1e-3)
    assert row["n_cells"] == query.n_obs


def test_the_cells_of_a_reference_vote_for_the_label_and_are_read_from_the_layer(small):
    cells, reference = small[::2].copy(), small[1::2].copy()
    counts = (cells.X.copy(), reference.X.copy())
    for adata, own in zip((cells, reference), counts, strict=True):
        adata.layers["molecules"], adata.X = own, own[:, ::-1]
    # Labels that lie side by side, so that many a vote is close; the cells themselves do not have the column.
    rng = np.random.default_rng(0)
    reference.obs["kind"] = rng.choice(list("abcd"), reference.n_obs)
    asked = {"readouts": ["label"], "n_null": 19, "progress": False, "layer": "molecules"}
    table = sl.screen(cells, "pca", ["CD74"], reference=reference, labels_key="kind", **asked).table
    run = Perturber(cells, "pca", layer="molecules").run({"CD74": 0.0})
    vectors = sl.embed(reference, "pca", layer="molecules", progress=False).vectors
    labels = reference.obs["kind"].to_numpy()

    def vote(vector):
        far = np.linalg.norm(vectors - vector, axis=1)
        near = np.argsort(far, kind="stable")[:16]
        return np.argmax([(1 / far[near])[labels[near] == name].sum() for name in "abcd"])

    changed = [vote(after) != vote(before) for before, after in zip(run.baseline, run.perturbed, strict=True)]
    assert 0.02 < np.mean(changed) < 0.9
    assert table["readout"].tolist() == ["label"]
    assert table["effect"][0] == pytest.approx(np.mean(changed), abs=2.5 / len(cells))
    both = sl.perturb(
        cells,
        "pca",
        {"CD74": 0.0},
        readouts=["label"],
        target="a",
        reference=reference,
        labels_key="kind",
        null=False,
        layer="molecules",
        progress=False,
    )
    assert (both.readings["label"] == changed).mean() > 0.98
    assert np.isfinite(both.readings["towards_target"]).all()
    # A cell that is in the reference has no vote for itself.
    cells.obs["kind"] = rng.choice(list("abcd"), cells.n_obs)
    itself = sl.screen(cells, "pca", ["CD74"], labels_key="kind", **asked).table["effect"][0]
    beside = sl.screen(cells, "pca", ["CD74"], labels_key="kind", reference=cells, **asked).table["effect"][0]
    assert 0.02 < itself == pytest.approx(beside, abs=1e-6)
    without = reference.copy()
    del without.layers["molecules"]
    with pytest.raises(DataError, match="The reference has no layer 'molecules'"):
        sl.screen(cells, "pca", ["CD74"], labels_key="kind", reference=without, **asked)
    one = reference[reference.obs["kind"] == "a"].copy()
    with pytest.raises(DataError, match="All cells of the reference have one label"):
        sl.screen(cells, "pca", ["CD74"], labels_key="kind", reference=one, **asked)


# PyNNDescent compiles for more than a minute.
@pytest.mark.thorough
def test_a_large_reference_is_searched_as_annotation_searches_it(small, monkeypatch):
    cells, reference = small[::2].copy(), small[1::2].copy()
    lab = Baseline(cells, "pca")
    asked = {"names": ["label"], "target": None, "reference": reference, "labels_key": "cell_type"}
    (exact,) = make_readouts(lab, cells, **asked)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 100)
    (quick,) = make_readouts(lab, cells, **asked)
    assert (exact.search.approximate, quick.search.approximate) == (False, True)
    assert (quick.before == exact.before).mean() > 0.98


def test_a_group_in_which_the_model_sees_no_cell_is_left_out_and_told(small):
    adata = small.copy()
    x = adata.X.tolil()
    x[:12] = 0
    adata.X = x.tocsr()
    adata.obs["part"] = ["blind"] * 12 + list(adata.obs["cell_type"].astype(str)[12:])
    result = sl.screen(adata, "pca", GENES[:2], groupby="part", n_null=19, progress=False)
    assert list(dict.fromkeys(result.table["group"])) == ["all", "CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
    assert result.table.loc[result.table["group"] == "all", "n_cells"].eq(adata.n_obs - 12).all()
    (note,) = result.notes
    assert note.endswith("sees a gene in none of their cells: blind (12 cells).")
    assert note in result.summary()
    adata.obs["donor"] = [f"d{i % 3}" for i in range(adata.n_obs)]
    adata.obs["when"] = np.where(np.arange(adata.n_obs) % 2, "late", "early")
    told = sl.screen(adata, "pca", GENES[:2], groupby="part", contrast="when", sample_key="donor", progress=False).notes
    assert note in told
    assert not any(one.startswith("blind: ") for one in told)


def test_samples_give_each_effect_an_interval_over_them(small):
    adata = small.copy()
    rng = np.random.default_rng(0)
    donor = np.array([f"d{i}" for i in rng.choice(5, adata.n_obs, p=[0.5, 0.2, 0.15, 0.1, 0.05])])
    donor[np.flatnonzero((adata.obs["cell_type"] == "CD19+ B").to_numpy())[:3]] = "few"
    adata.obs["donor"] = donor
    asked = {"groupby": "cell_type", "n_null": 19, "progress": False}
    plain = sl.screen(adata, "pca", GENES, pairs=2, **asked)
    result = sl.screen(adata, "pca", GENES, pairs=2, sample_key="donor", **asked)
    pd.testing.assert_frame_equal(result.table[COLUMNS], plain.table)
    more = ["effect_samples", "effect_low", "effect_high", "n_samples", "n_samples_few"]
    assert list(result.table) == [*COLUMNS, *more]
    lab = Perturber(adata, "pca", groupby="cell_type", sample_key="donor")
    for gene in result.table["gene"].unique():
        alone = lab.run(dict.fromkeys(gene.split("+"), 0.0)).table.set_index("group")
        own = result.table[result.table["gene"] == gene].set_index("group").loc[alone.index]
        np.testing.assert_allclose(own[more], alone[more].astype(float), rtol=1e-3, atol=1e-6)
    assert (result.table["n_samples_few"] > 0).any()
    assert "Over 5 samples, each counting alike: " in result.summary()
    adata.obs["donor"] = "one"
    alone = sl.screen(adata, "pca", GENES[:1], sample_key="donor", **asked)
    assert "1 sample has enough cells; an interval needs two" in alone.summary()


def test_label_is_the_share_of_cells_whose_neighbours_have_another_label(small):
    result = sl.screen(
        small, "pca", ["CD74", "CD79A"], readouts=["label"], groupby="cell_type", n_null=19, progress=False
    )
    run = Perturber(small, "pca").run({"CD74": 0.0})
    labels = small.obs["cell_type"].astype(str).to_numpy()

    def vote(vector, own):
        far = np.linalg.norm(run.baseline - vector, axis=1)
        near = np.argsort(far, kind="stable")[:16]
        weight = np.where(near == own, 0, 1 / np.maximum(far[near], 1e-9))
        names = sorted(set(labels))
        return names[np.argmax([weight[labels[near] == name].sum() for name in names])]

    changed = [vote(run.perturbed[i], i) != vote(run.baseline[i], i) for i in range(small.n_obs)]
    row = result.table[(result.table["gene"] == "CD74") & (result.table["group"] == "all")].iloc[0]
    assert row["effect"] == pytest.approx(np.mean(changed), abs=2.5 / small.n_obs)
    assert row["readout"] == "label"


def test_expression_is_the_mean_change_of_what_is_predicted_of_the_other_genes(small):
    some = small[::10].copy()
    result = sl.screen(some, "starter", ["LYZ"], readouts="expression", n_null=19, progress=False)
    without = some.copy()
    x = without.X.tolil()
    x[:, without.var_names.get_loc("LYZ")] = 0
    without.X = x.tocsr()
    model = sl.load_model("starter")
    before, after = (np.log1p(sl.impute(a, model, progress=False).values) for a in (some, without))
    change = np.abs(after - before)
    change[:, some.var_names.get_loc("LYZ")] = np.nan
    assert result.table["effect"][0] == pytest.approx(np.nanmean(change), rel=1e-2)
    assert result.table["readout"][0] == "expression"


def test_pairs_among_the_best(small):
    result = sl.screen(small, "pca", GENES, n_null=19, pairs=3, progress=False)
    pairs = result.details[result.details["gene"].str.contains("+", regex=False)]
    assert len(pairs) == 3
    row = pairs.iloc[0]
    a, b = row["gene"].split("+")
    both = Perturber(small, "pca").run({a: 0.0, b: 0.0}).table["effect"][0]
    assert row["effect"] == pytest.approx(both, rel=1e-4)
    # Vectors of pca are a linear function of what a cell expresses: two knockouts move them as both together do.
    np.testing.assert_allclose(pairs["sum_of_singles"], pairs["effect"], rtol=1e-4)
    assert "each does what its two genes add up to" in result.summary()
    # They were chosen for what they do in these cells, which therefore says nothing about them.
    assert pairs["p_value"].isna().all()
    beside = pairs["n_null"] > 0
    assert (pairs["null_low"] < pairs["null_high"])[beside].all()
    assert set(pairs["verdict"][beside]) == {"its genes were chosen by these effects: not tested"}
    singles = result.details[~result.details["gene"].str.contains("+", regex=False)]
    assert f"{singles['p_value'].notna().sum()} genes tested" in result.summary()
    best = singles["gene"].head(3)
    assert set(best) == set("+".join(pairs["gene"]).split("+"))


def test_geneformers_statistic_is_scipys_rank_sum_against_the_pool(whole):
    found = whole.geneformer_statistics().set_index("gene")
    values = whole.by_gene("shift")
    pool = np.concatenate(list(values.values()))
    assert len(pool) <= 100_000
    for gene in ("CD3D", "LYZ"):
        assert found.loc[gene, "p_value"] == pytest.approx(stats.ranksums(pool, values[gene]).pvalue)
    assert found["q_value"].is_monotonic_increasing
    own = whole.geneformer_statistics(null=whole)
    assert (own["difference"] == 0).all()
    assert (own["p_value"] > 0.9).all()


_KILLED = """
import os, signal, sys
import numpy as np
import scfm_lab as sl
from scfm_lab.tasks.screen import Screen
from scfm_lab.tasks import sweep
sweep._FIRST = sweep._FEWEST = sweep._MOST = 32
adata = sl.datasets.load("pbmc68k")
cells = adata.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])
genes = (np.arange(adata.n_vars) % 3 == 0) | adata.var_names.isin([*sys.argv[2].split(","), "CD74", "HLA-DPB1"])
adata = adata[cells, genes].copy()
done = []
def each(gene, effect):
    done.append(gene)
    if len(done) == 3:
        print(*done, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
Screen(adata, "pca", sys.argv[2].split(","), n_null=19, resume=sys.argv[1]).run(each=each)
"""


def test_a_killed_screen_goes_on_where_it_was_and_gives_the_same(small, tmp_path):
    path = tmp_path / "journal.sqlite"
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_KILLED), str(path), ",".join(GENES)], capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    told = died.stdout.split()
    again = Screen(small, "pca", GENES, n_null=19, resume=path)
    assert again.plan().finished >= (small[:, told].X > 0).sum()
    computed = []
    from scfm_lab.tasks import screen as module

    original = module.sweep

    def counting(lab, questions, **kwargs):
        computed.extend(q.name for q in questions)
        return original(lab, questions, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sweep", counting)
        resumed = again.run()
    assert not set(told) & set(computed)
    fresh = sl.screen(small, "pca", GENES, n_null=19, progress=False)
    pd.testing.assert_frame_equal(resumed.table, fresh.table, rtol=1e-4, atol=1e-7)


def test_a_journal_is_of_one_screen_only(small, tmp_path):
    path = tmp_path / "journal.sqlite"
    sl.screen(small, "pca", GENES[:1], n_null=19, resume=path, progress=False)
    # More genes of the same screen may be added.
    sl.screen(small, "pca", GENES[:2], n_null=19, resume=path, progress=False)
    with pytest.raises(DataError, match="the journal of another screen"):
        sl.screen(small, "pca", GENES[:1], n_null=19, resume=path, seed=1, progress=False)
    (tmp_path / "letter.txt").write_text("Dear all, " * 1000)
    with pytest.raises(DataError, match="no journal of a screen"):
        sl.screen(small, "pca", GENES[:1], n_null=19, resume=tmp_path / "letter.txt", progress=False)
    assert (tmp_path / "letter.txt").read_text().startswith("Dear all")


def test_a_cancelled_screen_keeps_what_is_finished(small, tmp_path):
    stop = threading.Event()
    stop.set()
    path = tmp_path / "journal.sqlite"
    with pytest.raises(Cancelled):
        Screen(small, "pca", GENES, n_null=19, resume=path).run(cancel=stop)
    assert path.exists()


def test_the_plan_tells_the_cells_that_change(small):
    plan = Screen(small, "pca", GENES, n_null=19).plan()
    assert plan.n_genes == 5
    assert plan.n_cells == small.n_obs
    assert plan.perturbed_cells > (small[:, GENES].X > 0).sum()
    assert plan.seconds > 0
    assert "about" in plan.summary()


@pytest.mark.parametrize(
    ("genes", "kwargs", "error", "words"),
    [
        (["CD3DD"], {}, GenesError, "Did you mean 'CD3D'"),
        ([], {}, DataError, "list of genes is empty"),
        (["CD3D", "CD3D"], {}, GenesError, "'CD3D' is named twice"),
        (["SILENT"], {}, GenesError, r"The gene \(SILENT\) is expressed in any chosen cell|not expressed"),
        (["CD3D"], {"dose": 1.0}, DataError, "dose is 1, which changes nothing"),
        (["CD3D"], {"target": "CD19+ B"}, DataError, "Name the obs column that holds it"),
        (["CD3D"], {"target": "CD19 B", "groupby": "cell_type"}, DataError, r"Did you mean 'CD19\+ B'"),
        (["CD3D"], {"readouts": ["shifts"]}, DataError, "Did you mean 'shift'"),
        (["CD3D"], {"readouts": ["label"]}, DataError, "needs labels"),
        (["CD3D"], {"readouts": ["towards_target"]}, DataError, "needs a target"),
        (["CD3D"], {"pairs": 1}, DataError, "pairs is 1"),
        (["CD3D"], {"n_null": 5}, DataError, "at least 19 null genes"),
        (["CD3D"], {"contrast": "cell_type"}, DataError, "needs sample_key="),
        (["CD3D"], {"readouts": ["expression"]}, Exception, "pca cannot predict expression"),
    ],
)
def test_bad_questions_are_answered_in_words(small, genes, kwargs, error, words):
    adata = small.copy()
    names = adata.var_names.to_list()
    silent = next(i for i, n in enumerate(names) if n == "HLA-DPB1")
    if genes == ["SILENT"]:
        genes = ["HLA-DPB1"]
        x = adata.X.tolil()
        x[:, silent] = 0
        adata.X = x.tocsr()
        words = r"^The gene \(HLA-DPB1\) is not expressed in any chosen cell, so that a dose of 0 changes nothing"
    with pytest.raises(error, match=words):
        sl.screen(adata, "pca", genes, progress=False, **kwargs)


def test_writing_and_text(small, whole):
    adata = small.copy()
    whole.write(adata)
    assert list(adata.uns["screen_pca"].columns) == COLUMNS
    assert adata.uns["scfm"]["screen_pca"]["dose"] == 0.0
    assert "would be by chance" in whole.summary()
    assert "not measurements" in whole.summary()
    assert "effect" in whole.plot(group="CD19+ B").to_json()


def test_the_command_tells_its_plan_streams_and_writes(small, tmp_path):
    path, out = tmp_path / "cells.h5ad", tmp_path / "screen.csv"
    small.write_h5ad(path)
    (tmp_path / "genes.txt").write_text("CD3D\nLYZ # lysozyme\n\n")
    call = ["screen", str(path), "--model", "pca", "--genes", str(tmp_path / "genes.txt"), "--null-genes", "19"]
    planned = CliRunner().invoke(cli, [*call, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert planned.output.startswith("2 genes and ")
    done = CliRunner().invoke(cli, [*call, "--groupby", "cell_type", "-o", str(out)])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out)
    assert list(table.columns) == COLUMNS
    assert set(table["gene"]) == {"CD3D", "LYZ"}
    assert not (tmp_path / "screen.partial.csv").exists()


def test_a_plan_counts_what_changes_before_anything_is_computed(pbmc68k):
    small = pbmc68k[:60].copy()
    expressing = {gene: int((small[:, gene].X > 0).sum()) for gene in ("CD3D", "LYZ")}
    either = int(((small[:, ["CD3D", "LYZ"]].X > 0).sum(axis=1) > 0).sum())
    one = sl.plan_perturb(small, "pca", ["CD3D", "LYZ"], n_null=0)
    assert (one.n_genes, one.n_cells, one.perturbed_cells, one.draws) == (2, 60, sum(expressing.values()), 1)
    both = sl.plan_perturb(small, "pca", {"CD3D": 0.0, "LYZ": 0.0}, n_null=0)
    assert both.perturbed_cells == either
    half = sl.plan_perturb(small, "pca", {"CD3D": 0.5}, n_draws=3, n_null=0)
    assert (half.perturbed_cells, half.draws) == (3 * expressing["CD3D"], 3)
    assert sl.plan_perturb(small, "pca", {"CD3D": 2.0}, n_draws=3, n_null=0).perturbed_cells == 3 * 60
    nulls = sl.plan_perturb(small, "pca", {"CD3D": 0.0}, n_null=19)
    assert (nulls.n_null, nulls.perturbed_cells) == (19, 20 * expressing["CD3D"])
    assert sl.plan_perturb(small, "pca").perturbed_cells == Screen(small, "pca").plan().perturbed_cells
    assert one.peak_gib > 0
    assert "cells change" in one.summary()
    elsewhere = sl.Hardware("a laptop", cores=8, ram_gib=16, free_gib=7)
    assert "a time that is not known" in sl.plan_perturb(small, "pca", ["CD3D"], hardware=elsewhere).summary()


@pytest.mark.parametrize("more", [{"n_draws": 0}, {"dose": -1.0}, {"n_null": -1}, {"budget_gib": 1e-6}])
def test_a_plan_that_makes_no_sense_is_refused(pbmc68k, more):
    with pytest.raises(DataError):
        sl.plan_perturb(pbmc68k[:20].copy(), "pca", ["CD3D"], **more)


def test_what_a_pair_adds_up_to_is_asked_of_the_movements(small):
    asked = {"groupby": "cell_type", "n_null": 19, "progress": False}
    result = sl.screen(small, "starter", GENES, pairs=2, readouts=["shift", "label"], **asked)
    pairs = result.details[result.details["gene"].str.contains("+", regex=False)]
    a, b = pairs["gene"].iloc[0].split("+")
    both = [sl.perturb(small, "starter", {gene: 0.0}, null=False, progress=False) for gene in (a, b)]
    moved = np.linalg.norm(sum(one.perturbed - one.baseline for one in both), axis=1)
    shift = pairs[pairs["readout"] == "shift"].set_index("group")["sum_of_singles"]
    assert shift["all"] == pytest.approx(moved.mean(), rel=1e-3)
    own = (small.obs["cell_type"] == "CD19+ B").to_numpy()
    assert shift["CD19+ B"] == pytest.approx(moved[own].mean(), rel=1e-3)
    assert pairs.loc[pairs["readout"] == "label", "sum_of_singles"].isna().all()
    assert "furthest from what the two add up to" in result.summary()


def test_of_what_has_a_direction_the_verdict_has_the_direction_of_the_difference(whole):
    rows = whole.details[whole.details["readout"] == "towards_target"]
    there = rows[rows["p_value"] <= 0.05]
    towards = there["verdict"] == "further towards the target than comparable genes"
    assert set(there["verdict"][~towards]) == {"further from the target than comparable genes"}
    assert towards.any()
    assert (there["effect"] > there["null_mean"])[towards].all()
    assert (there["effect"] < there["null_mean"])[~towards].all()
    assert not rows["verdict"].str.startswith("stronger").any()
