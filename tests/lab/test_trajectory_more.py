"""What stands beside an order of cells: other roots, the twin, stages, fates, trends, ways, and knockouts along it."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.evaluation.leaderboard import _columns
from scfm_lab.evaluation.leaderboard_parts import Columns, _beside_floor, _trajectory_floor, parts
from scfm_lab.evaluation.ordering import kendall_tau, stage_scores
from scfm_lab.models.pca import PCA
from scfm_lab.tasks.order import absorption, directed, normalised
from scfm_lab.tasks.perturb import Perturber


@pytest.fixture(scope="module")
def fork():
    """The bundled cells on a made-up fork whose order is known, and its trajectory."""
    adata = sl.datasets.load("pbmc68k")
    rng = np.random.default_rng(0)
    truth, arm = rng.uniform(0, 2, adata.n_obs), rng.integers(0, 2, adata.n_obs)
    x = np.zeros((adata.n_obs, 5))
    x[:, 0] = np.minimum(truth, 1)
    x[:, 1] = np.where(arm == 1, 1, -1) * np.maximum(truth - 1, 0)
    adata.obsm["X_fork"] = (10 * x + rng.normal(scale=0.15, size=x.shape)).astype(np.float32)
    adata.obs["part"] = np.where(truth < 0.5, "start", np.where(truth < 1, "stem", np.where(arm == 1, "up", "down")))
    adata.obs["truth"] = truth
    adata.obs["stage"] = np.where(rng.uniform(size=adata.n_obs) < 0.1, np.nan, np.floor(truth * 2))
    # A gene that rises towards one end only.
    counts = adata.X.toarray()
    rate = np.where(arm == 1, 6 * np.maximum(truth - 1, 0), 0)
    counts[:, adata.var_names.get_loc("CD3D")] = rng.poisson(rate)
    adata.X = sparse.csr_matrix(counts)
    result = sl.trajectory(adata, use_rep="X_fork", root="start", groupby="part", stage_key="stage")
    return adata, result


def test_walks_end_where_they_must():
    # 0 → 1 → {2, 3}: worked out by hand; 4 can reach nothing.
    steps = sparse.csr_matrix(
        np.array([[0, 1, 0, 0, 0], [0, 0, 3, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1.0]])
    )
    found, lost = absorption(normalised(steps), {"a": np.array([2]), "b": np.array([3])})
    np.testing.assert_allclose(found.iloc[:4], [[0.75, 0.25], [0.75, 0.25], [1, 0], [0, 1]], atol=1e-6)
    assert found.iloc[4].isna().all()
    assert lost == pytest.approx(0)


def test_steps_back_are_unlikely_and_not_impossible():
    line = sparse.csr_matrix(np.ones((5, 5)) - np.eye(5))
    time = np.array([0, 0.25, 0.5, 0.75, np.nan], dtype=np.float32)
    steps = directed(line, time).toarray()
    assert 0 < steps[3, 0] < steps[3, 1] < steps[3, 2]
    np.testing.assert_allclose(steps[0, 1:4], 1 / 3)
    spread = np.sqrt(np.mean(np.square([0.25, 0.25, 0.5])))
    assert steps[1, 0] / steps[1, 2] == pytest.approx(np.exp(-2 * 0.25 / spread))
    assert (steps[4] == 0).all()
    assert (steps[:, 4] == 0).all()
    np.testing.assert_allclose(steps[:4].sum(axis=1), 1)


def test_fates_part_where_the_fork_does(fork):
    adata, result = fork
    part = adata.obs["part"].to_numpy()
    assert result.branch_points == ["stem"]
    assert sorted(result.fates) == ["down", "up"]
    np.testing.assert_allclose(result.fates.sum(axis=1), 1, atol=1e-4)
    assert result.fates.loc[part == "up", "up"].median() > 0.95
    assert result.fates.loc[part == "down", "down"].median() > 0.95
    assert 0.2 < result.fates.loc[part == "start", "up"].mean() < 0.8
    assert list(adata.obsm["trajectory_fates"].columns) == list(result.fates)
    assert adata.uns["scfm"]["trajectory_fates"]["direction"] == "assumed from the root"


def test_transitions_that_are_given_decide_the_fates(fork):
    adata, known = fork
    up = np.flatnonzero((adata.obs["part"] == "up").to_numpy())
    last, n = up[known.pseudotime[up].argmax()], adata.n_obs
    to = sparse.csr_matrix((np.ones(n), (np.arange(n), np.full(n, last))), shape=(n, n))
    aside = adata.copy()
    result = sl.trajectory(
        aside, use_rep="X_fork", root="start", groupby="part", transition=to, twin=False, n_roots=0, key_added="v"
    )
    assert result.fates.loc[(aside.obs["part"] == "stem").to_numpy(), "up"].min() > 0.99
    assert "fates by the transitions given" in result.summary()
    with pytest.raises(DataError, match="a row and a column for each"):
        sl.trajectory(aside, use_rep="X_fork", root="start", groupby="part", transition=to[:5, :5], key_added="w")
    assert "w_pseudotime" not in aside.obs


def test_other_roots_and_the_twin_stand_beside_the_order(fork):
    _, result = fork
    roots = result.roots
    assert roots.iloc[0]["why"] == "chosen"
    assert roots.iloc[0]["agreement"] == pytest.approx(1)
    assert (roots["why"] == "same group").sum() == 4
    assert (roots.loc[roots["why"] == "same group", "group"] == "start").all()
    assert (
        roots.loc[roots["why"] == "other end", "agreement"].max()
        < roots.loc[roots["why"] == "same group", "agreement"].min()
    )
    assert -1 <= result.twin.agreement <= 1
    assert result.twin.pseudotime.shape == result.pseudotime.shape
    assert "Nothing in the vectors says which is right" in result.summary()


def test_the_twin_begins_where_its_own_root_lies(pbmc68k):
    from scfm_lab.evaluation.once import principal_components

    pbmc68k.obsm["X_pcs"] = principal_components(pbmc68k)
    # Vectors that know the group, and in which its farthest cell is another than on the components.
    rng = np.random.default_rng(0)
    groups = pbmc68k.obs["cell_type"].astype(str)
    made = rng.normal(size=(len(groups), 6)) + 3 * rng.normal(size=(groups.nunique(), 6))[groups.factorize()[0]]
    pbmc68k.obsm["X_made"] = made.astype(np.float32)
    asked = {"groupby": "cell_type", "n_roots": 0}
    alone = sl.trajectory(pbmc68k, use_rep="X_pcs", root="CD14+ Monocyte", twin=False, key_added="alone", **asked)
    result = sl.trajectory(pbmc68k, use_rep="X_made", root="CD14+ Monocyte", key_added="made", **asked)
    assert result.root != alone.root
    assert result.twin.root == alone.root
    np.testing.assert_allclose(result.twin.pseudotime, alone.pseudotime, atol=1e-6)
    assert f"On principal components of the same cells, from {alone.root}, the order agrees" in result.summary()
    # A cell is the same in both.
    cell = pbmc68k.obs_names[(groups == "CD34+").to_numpy().argmax()]
    assert sl.trajectory(pbmc68k, use_rep="X_made", root=cell, key_added="cell", **asked).twin.root == cell


def test_agreement_with_stages_is_kendalls_tau_with_an_interval(fork):
    adata, result = fork
    scores = {s.model: s for s in result.agreement}
    mine = scores["X_fork"]
    assert mine.value == pytest.approx(kendall_tau(result.pseudotime, adata.obs["stage"].to_numpy()))
    assert mine.value > 0.7
    assert mine.low < mine.value < mine.high
    assert mine.n == int(adata.obs["stage"].notna().sum())
    assert mine.floor == scores["pca (fitted)"].value < 0.3
    shuffled = np.random.default_rng(0).permutation(adata.obs["truth"])
    left = np.where(np.arange(len(shuffled)) < 300, np.nan, result.pseudotime)
    beside = stage_scores(
        {"x": left, "pca (fitted)": result.twin.pseudotime}, adata.obs["stage"].to_numpy(), "stage", n_boot=5
    )
    # An order that reaches some cells only stands beside the floor over the same cells.
    scored = {s.model: s for s in beside}
    own = kendall_tau(result.twin.pseudotime[300:], adata.obs["stage"].to_numpy()[300:])
    assert scored["x"].floor == pytest.approx(own) != scored["pca (fitted)"].floor
    assert scored["pca (fitted)"].floor == scored["pca (fitted)"].value
    chance = stage_scores({"x": shuffled}, adata.obs["stage"].to_numpy(), "stage").of("Kendall's tau-b with stage")
    assert chance.low < 0 < chance.high


def test_a_gene_that_rises_towards_one_end_only_is_seen_to(fork):
    adata, result = fork
    trends = result.trends(adata, ["CD3D"], n_boot=40)
    last = trends.table.groupby("path").last()
    first = trends.table.groupby("path").first()
    assert last.loc["up", "low"] > first.loc["up", "high"]
    assert last.loc["up", "low"] > last.loc["down", "high"]
    assert (trends.table["low"] <= trends.table["high"]).all()
    assert "CD3D towards up" in trends.summary()
    trends.write(adata)
    assert adata.uns["scfm"]["gene_trends"]["trajectory"] == "trajectory"
    assert len(adata.uns["gene_trends"]) == len(trends.table)
    adata.layers["guess"] = adata.X.copy()
    adata.uns["scfm"]["guess"] = {"slot": "layers", "imputed": True}
    with pytest.raises(DataError, match="must not be made of 'guess'"):
        result.trends(adata, ["CD3D"], layer="guess")


def test_the_way_between_two_states_crosses_what_lies_between(fork):
    adata, result = fork
    way = result.between("up", "down")
    assert way.groups[0] == "up"
    assert way.groups[-1] == "down"
    assert "stem" in way.groups
    assert way.length > result.between("start", "stem").length
    assert (adata.obs["part"].to_numpy()[way.rows[[0, -1]]] == ["up", "down"]).all()
    with pytest.raises(DataError, match="neither a cell nor a group"):
        result.between("up", "dwn")


def test_pieces_out_of_reach_are_named(fork):
    adata = fork[0].copy()
    adata.obsm["X_fork"][:60] += 500
    adata.obs["part"] = ["island"] * 60 + list(adata.obs["part"][60:])
    result = sl.trajectory(adata, use_rep="X_fork", root="start", groupby="part", twin=False, n_roots=0, key_added="p")
    away = result.pieces[~result.pieces["reachable"]]
    assert away["n_cells"].tolist() == [60]
    assert "60 in a piece with island (60)" in result.summary()
    assert result.fates.iloc[:60].isna().all().all()
    assert not np.isfinite(result.between("start", "island").length)


@pytest.fixture(scope="module")
def two_pieces():
    """A compact piece of 100 cells, denser towards its start, beside a long one of 2,000; the order within each is known."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(size=100) ** 2, rng.uniform(size=2000)])
    small = np.arange(2100) < 100
    x = rng.normal(scale=0.3, size=(2100, 5))
    x[:, 0] += np.where(small, 500 + 12 * truth, 200 * truth)
    part = np.where(small, np.where(truth < 0.3, "seed", "sprout"), np.where(truth < 0.3, "early", "late"))
    obs = pd.DataFrame({"part": part, "truth": truth, "small": small}, index=[f"c{i}" for i in range(2100)])
    return ad.AnnData(obs=obs, obsm={"X_made": x.astype(np.float32)})


def _ordered(adata, root, **more):
    asked = {"use_rep": "X_made", "groupby": "part", "twin": False, "n_roots": 0}
    return sl.trajectory(adata.copy(), root=root, **{**asked, **more})


@pytest.mark.parametrize(("root", "end", "small"), [("seed", "sprout", True), ("early", "late", False)])
def test_the_order_within_a_piece_is_that_of_its_own_cells(two_pieces, root, end, small):
    own = (two_pieces.obs["small"] == small).to_numpy()
    truth = two_pieces.obs["truth"].to_numpy()
    result = _ordered(two_pieces, root, n_roots=4)
    assert np.isfinite(result.pseudotime[own]).all()
    assert np.isnan(result.pseudotime[~own]).all()
    assert stats.spearmanr(result.pseudotime[own], truth[own])[0] > 0.95
    # It is the order of these cells alone, and so are the root and the others that could be it.
    alone = _ordered(two_pieces[own], root, n_roots=4)
    assert result.root == alone.root
    assert truth[two_pieces.obs_names.get_loc(result.root)] < 0.1
    np.testing.assert_allclose(result.pseudotime[own], alone.pseudotime, atol=1e-3)
    assert result.roots["root"].tolist() == alone.roots["root"].tolist()
    late = result.fates.loc[own & (two_pieces.obs["part"] == end).to_numpy(), end]
    assert late.min() > 0.9


def test_a_group_that_is_a_piece_begins_where_it_is_farthest_from_the_others(two_pieces):
    adata = two_pieces.copy()
    adata.obs["part"] = np.where(adata.obs["small"], "island", adata.obs["part"])
    result = _ordered(adata, "island")
    # The others lie below 200, this one from 500 on.
    assert adata.obs["truth"][result.root] > 0.9
    assert result.pseudotime[adata.obs_names.get_loc(result.root)] == 0


@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_root_in_a_piece_too_small_for_an_order_is_refused(two_pieces, n):
    adata = two_pieces[: 100 + n].copy()
    adata.obsm["X_made"][100:] += 9000 + np.arange(n)[:, None]
    if n < 5:
        with pytest.raises(DataError, match=rf"The root lies in a piece of {n} cells \(c100 and its neighbours\)"):
            _ordered(adata, "c100", n_neighbors=n)
    else:
        assert np.isfinite(_ordered(adata, "c100", n_neighbors=n).pseudotime).sum() == n


def test_the_record_tells_the_components_that_were_used(two_pieces):
    adata = two_pieces[:100].copy()
    many, few = _ordered(adata, "seed", n_dcs=20), _ordered(adata, "seed", n_dcs=14)
    assert (many.provenance["n_dcs"], few.provenance["n_dcs"]) == (20, 14)
    assert (many.pseudotime != few.pseudotime).any()
    # A piece of 12 cells has ten.
    short = two_pieces[:112].copy()
    short.obsm["X_made"][100:] += 9000
    result = _ordered(short, "c105", n_dcs=40, n_neighbors=5)
    assert np.isfinite(result.pseudotime).sum() == 12
    assert result.provenance["n_dcs"] == 10
    assert result.provenance["arguments"]["n_dcs"] == 40
    with pytest.raises(DataError, match="n_dcs 1; at least 2"):
        _ordered(adata, "seed", n_dcs=1)


def test_a_board_reads_ordered_categories_as_stages_and_says_why_it_cannot_read_names(fork):
    adata = fork[0]
    words = np.array(["early", "later", "late", "last"])[np.floor(adata.obs["truth"] * 2).astype(int)]
    given = dict.fromkeys(("batch_key", "sample_key", "perturbation_key"))
    given |= {"labels_key": "part", "stage_key": "words"}
    how = {"root": None, "control": "control", "layer": None}
    own = ad.AnnData(
        obs=adata.obs.assign(words=pd.Categorical(words, ["early", "later", "late", "last"], ordered=True))
    )
    columns, _ = _columns(own, given, **how)
    assert columns.root == "start"
    assert not parts()["trajectory"].missing(own, columns)
    own.obs_names = ["start", *own.obs_names[1:]]
    assert _columns(own, given, **how)[0].root == "group:start"
    own.obs["words"] = words
    columns, _ = _columns(own, given, **how)
    assert "names have no order" in parts()["trajectory"].missing(own, columns)


def test_without_a_bootstrap_trends_have_no_band(fork):
    adata, result = fork
    trends = result.trends(adata, ["CD3D"], n_boot=0)
    assert trends.table[["low", "high"]].isna().all(axis=None)
    assert trends.table["mean"].notna().all()
    assert "without intervals" in trends.summary()


def test_a_board_has_the_floor_over_the_cells_in_reach_or_says_why_there_is_none(fork):
    adata = fork[0].copy()
    own = adata.copy()
    own.obsm["X_fork"][:60] += 500
    own.obs["part"] = ["island"] * 60 + list(own.obs["part"][60:])
    columns = Columns(labels_key="part", stage_key="stage", root="start")
    scores = {s.model: s for s in _beside_floor(adata, own, "X_fork", columns, 0)[0]}
    floor = _trajectory_floor(adata, columns, 0)
    assert not isinstance(floor, str)
    order = floor[1]
    stage = adata.obs["stage"].to_numpy()
    assert scores["X_fork"].floor == pytest.approx(kendall_tau(order[60:], stage[60:]))
    assert scores["pca (fitted)"].floor == scores["pca (fitted)"].value == pytest.approx(kendall_tau(order, stage))
    assert scores["X_fork"].floor != scores["pca (fitted)"].floor
    gain = scores["X_fork"].value - scores["X_fork"].floor
    assert scores["X_fork"].gain_low < gain < scores["X_fork"].gain_high
    adata.X = adata.X * 0.3
    ((alone,), _) = _beside_floor(adata, own, "X_fork", columns, 0)
    assert "no floor: " in alone.missing
    assert "raw counts" in alone.missing


def test_comparable_genes_are_drawn_as_often_as_the_gene(pbmc68k, monkeypatch):
    cells = pbmc68k[::3].copy()
    sl.embed(cells, "pca", progress=False)
    path = sl.trajectory(cells, use_rep="X_pca", root="CD34+", groupby="cell_type", n_roots=0, twin=False)
    draws = []
    effects = Perturber.effects

    def told(self, *args, **more):
        draws.append(more["draws"])
        return effects(self, *args, **more)

    monkeypatch.setattr(Perturber, "effects", told)
    shift = path.knockout(cells, "pca", {"PARK7": 0.5}, n_null=19)
    assert (shift.table.query("group == 'all'")["n_null"] == 19).all()
    assert len(draws) == 20
    assert len(set(draws)) == 1


def test_a_gene_that_does_not_push_where_all_comparable_ones_do_stands_out(pbmc68k):
    cells = pbmc68k[::3].copy()
    shipped = sl.load_model("pca")
    components = shipped.components.clone() * 0
    components[0] = 0.1
    components[0, shipped.vocabulary.id_of("PARK7")] = 0
    model = PCA(components, shipped.mean, shipped.vocabulary, basis="every gene pushes the same way")
    vectors = sl.embed(cells, model, progress=False).vectors
    path = sl.trajectory(cells, use_rep="X_pca", root="CD34+", groupby="cell_type", n_roots=0, twin=False)
    along = vectors[:, 0] - vectors[:, 0].min()
    path = replace(path, pseudotime=(along / along.max()).astype(np.float32))
    told = path.knockout(cells, model, {"PARK7": 0.0}, n_null=19).table.query("group == 'all' and readout == 'along'")
    row = told.iloc[0]
    assert row["effect"] == 0
    assert row["null_mean"] < 0
    assert row["p_value"] == pytest.approx(1 / 20)
    rare = next(g for g in cells.var_names if 0 < (cells[:, g].X > 0).sum() < 10)
    shift = path.knockout(cells, model, {rare: 0.0}, n_null=19)
    assert shift.table["p_value"].isna().all()
    assert "too few cells to test" in shift.summary()


def test_knockouts_are_placed_on_the_trajectory_beside_comparable_genes(pbmc68k):
    sl.embed(pbmc68k, "pca", progress=False)
    path = sl.trajectory(pbmc68k, use_rep="X_pca", root="CD34+", groupby="cell_type", n_roots=0)
    assert path.twin is not None
    shift = path.knockout(pbmc68k, "pca", {"LYZ": 0.0}, n_null=19)
    told = shift.table[shift.table["group"] == "all"].set_index("readout")
    assert told.loc["along", "n_null"] in (0, 19)
    silent = np.flatnonzero((pbmc68k[:, "LYZ"].X.toarray().ravel() == 0) & np.isfinite(shift.along))
    assert (shift.along[silent] == 0).all()
    assert np.abs(shift.along[np.isfinite(shift.along)]).max() > 0
    assert told.loc["along", "effect"] == pytest.approx(np.nanmean(shift.along), abs=1e-6)
    assert "no prediction of a cell's fate" in shift.summary()
    shift.write(pbmc68k)
    assert pbmc68k.uns["scfm"]["trajectory_shift_LYZ_pca"]["trajectory"] == "trajectory"
    same = path.knockout(pbmc68k, "pca", {"LYZ": 1.0}, null=False)
    assert (same.along[np.isfinite(same.along)] == 0).all()
    with pytest.raises(DataError, match="does not hold the vectors of sctop"):
        path.knockout(pbmc68k, "sctop", {"LYZ": 0.0}, null=False)
    path.graph.labels[:5] = "all"
    with pytest.raises(DataError, match=r"5 cells are in a group called 'all' in obs\['cell_type'\]"):
        path.knockout(pbmc68k, "pca", {"LYZ": 0.0}, null=False)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (pd.Categorical(["a", "b"] * 350), "names have no order"),
        ([1.0] * 700, "fewer than two stages"),
        (None, "Did you mean 'part'|is not in obs"),
    ],
)
def test_stages_that_have_no_order_are_refused(fork, stage, words):
    adata = fork[0].copy()
    if stage is not None:
        adata.obs["when"] = stage
    with pytest.raises(DataError, match=words):
        sl.trajectory(adata, use_rep="X_fork", root="start", groupby="part", stage_key="when", key_added="q")
    assert "q_pseudotime" not in adata.obs


def test_one_group_only_and_groups_with_nan_are_refused(fork):
    adata = fork[0].copy()
    adata.obs["one"] = "same"
    with pytest.raises(DataError, match="one value only"):
        sl.trajectory(adata, use_rep="X_fork", root="same", groupby="one", key_added="q")
    adata.obs["part"] = adata.obs["part"].where(adata.obs["part"] != "up")
    with pytest.raises(DataError, match="has no value in"):
        sl.trajectory(adata, use_rep="X_fork", root="start", groupby="part", key_added="q")


def test_cells_without_counts_have_no_twin_and_say_so(fork):
    adata = fork[0]
    aside = ad.AnnData(obs=adata.obs[["part"]].copy(), obsm={"X_fork": adata.obsm["X_fork"]})
    result = sl.trajectory(aside, use_rep="X_fork", root="start", groupby="part", n_roots=0)
    assert result.twin is None
    assert "No twin on principal components: there are no raw counts" in result.summary()
