"""Labels after a reference, and the order of cells from a root."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import scfm_lab as sl
from scfm_lab.errors import DataError


def _split(adata):
    rows = np.arange(adata.n_obs) % 4 == 0
    return adata[rows].copy(), adata[~rows].copy()


def test_labels_come_back_and_are_scored(pbmc68k):
    query, reference = _split(pbmc68k)
    result = sl.annotate(query, reference, model="pca", progress=False)
    assert result.scores["accuracy"] > 0.6
    assert (query.obs["cell_type_pca"].astype(str) == result.labels.astype(str)).all()
    assert query.obs["cell_type_pca_confidence"].between(0, 1).all()
    assert query.uns["scfm"]["cell_type_pca"]["reference_cells"] == reference.n_obs
    audit = sl.audit_genes(query, "pca")
    assert query.uns["scfm"]["cell_type_pca"]["genes_matched"] == audit.genes_matched
    assert query.uns["scfm"]["cell_type_pca_confidence"]["umi_share_matched"] == 1 - audit.umi_share_lost
    right = result.labels == query.obs["cell_type"].astype(str).to_numpy()
    assert result.confidence[right].mean() > result.confidence[~right].mean()


def test_cells_unlike_the_reference_are_unknown(pbmc68k):
    is_b = (pbmc68k.obs["cell_type"] == "CD19+ B").to_numpy()
    monocytes = pbmc68k[(pbmc68k.obs["louvain"] == "1").to_numpy() & ~is_b].copy()
    monocytes.obs["cell_type"] = np.where(np.arange(monocytes.n_obs) % 2, "one", "two")
    b_cells = pbmc68k[is_b].copy()
    strangers = sl.annotate(b_cells, monocytes, model="pca", progress=False)
    assert (strangers.labels == "unknown").mean() > 0.5
    forced = sl.annotate(b_cells, monocytes, model="pca", unknown=False, key_added="forced", progress=False)
    assert (forced.labels != "unknown").all()


def test_query_and_reference_may_measure_different_genes(pbmc68k):
    query, reference = _split(pbmc68k)
    narrow = query[:, ::2].copy()
    result = sl.annotate(narrow, reference, model="starter", progress=False)
    assert result.scores["accuracy"] > 0.4


def _blank_first(reference):
    labels = reference.obs["cell_type"].copy()
    labels.iloc[0] = np.nan
    reference.obs["cell_type"] = labels


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda r: r.obs.drop(columns="cell_type", inplace=True),
            "label column of the reference 'cell_type' is not in obs",
        ),
        (lambda r: r.obs.__setitem__("cell_type", "T"), "one value only"),
        (_blank_first, "no value in 1"),
    ],
)
def test_bad_references_are_refused_in_words(pbmc68k, spoil, words):
    query, reference = _split(pbmc68k)
    spoil(reference)
    with pytest.raises(DataError, match=words):
        sl.annotate(query, reference, model="pca", progress=False)
    assert "cell_type_pca" not in query.obs


def test_a_query_that_cannot_be_labelled_is_refused_in_words(pbmc68k):
    query, reference = _split(pbmc68k)
    with pytest.raises(DataError, match="k is 0"):
        sl.annotate(query, reference, model="pca", k=0, progress=False)
    query.X = query.X * 0
    with pytest.raises(DataError, match="none of the 175 query cells"):
        sl.annotate(query, reference, model="pca", progress=False)
    assert "cell_type_pca" not in query.obs


@pytest.fixture
def line(pbmc68k):
    """The bundled cells with a made-up representation: a fork whose order is known."""
    rng = np.random.default_rng(0)
    n = pbmc68k.n_obs
    truth = rng.uniform(0, 2, n)
    arm = rng.integers(0, 2, n)
    x = np.zeros((n, 5))
    x[:, 0] = np.minimum(truth, 1)
    x[:, 1] = np.where(arm == 1, 1, -1) * np.maximum(truth - 1, 0)
    pbmc68k.obsm["X_fork"] = (10 * x + rng.normal(scale=0.15, size=x.shape)).astype(np.float32)
    pbmc68k.obs["part"] = np.where(truth < 0.5, "start", np.where(truth < 1, "stem", np.where(arm == 1, "up", "down")))
    pbmc68k.obs["truth"] = truth
    return pbmc68k


def test_pseudotime_follows_a_known_order_and_paths_follow_a_known_fork(line):
    result = sl.trajectory(line, use_rep="X_fork", root="start", groupby="part")
    assert stats.spearmanr(result.pseudotime, line.obs["truth"])[0] > 0.9
    assert result.root_group == "start"
    assert sorted(tuple(p["nodes"]) for p in result.paths) == [("start", "stem", "down"), ("start", "stem", "up")]
    assert all(p["points"].shape == (3, 2) for p in result.paths)
    parts = line.obs["part"].to_numpy()
    assert set(result.branches[parts == "up"]) == {"up"}
    assert set(result.branches[parts == "stem"]) == {"trunk"}
    np.testing.assert_array_equal(line.obs["trajectory_pseudotime"], result.pseudotime)
    assert line.uns["scfm"]["trajectory_pseudotime"]["use_rep"] == "X_fork"
    assert "direction assumed from the root" in result.summary()


def test_paths_never_run_back_in_pseudotime(pbmc68k):
    sl.embed(pbmc68k, "sctop", progress=False)
    result = sl.trajectory(pbmc68k, use_rep="X_sctop", root="CD34+", groupby="cell_type")
    time = result.table.set_index("group")["median_pseudotime"]
    assert {group for path in result.paths for group in path["nodes"]} == set(time.dropna().index)
    for path in result.paths:
        assert path["nodes"][0] == "CD34+"
        assert (np.diff([time[group] for group in path["nodes"][1:]]) > 0).all(), path["nodes"]


def test_a_name_of_a_cell_and_of_a_group_must_say_which(line):
    adata = line.copy()
    adata.obs_names = [str(i) for i in range(adata.n_obs)]
    groups = list(dict.fromkeys(adata.obs["part"].astype(str)))
    adata.obs["part"] = [str(groups.index(g)) for g in adata.obs["part"].astype(str)]
    asked = {"use_rep": "X_fork", "groupby": "part", "twin": False, "n_roots": 0}
    with pytest.raises(DataError, match=r"The root '1' is the name of a cell and of a group of 'part'; write 'cell:1'"):
        sl.trajectory(adata, root="1", **asked)
    cell = sl.trajectory(adata, root="cell:1", **asked)
    assert cell.root == "1"
    group = sl.trajectory(adata, root="group:1", **asked)
    assert group.root_group == "1"
    with pytest.raises(DataError, match="'0' is the name of a cell and of a group"):
        group.between("0", "group:1")
    way = group.between("group:0", "cell:7")
    assert adata.obs["part"].iloc[way.rows[0]] == "0"
    assert way.rows[-1] == 7
    with pytest.raises(DataError, match="'group:7000' is neither a cell nor a group"):
        group.between("group:7000", "cell:7")


def test_the_root_may_be_a_cell_and_turns_the_direction(line):
    last = line.obs_names[np.argmax(line.obs["truth"])]
    result = sl.trajectory(line, use_rep="X_fork", root=last, groupby="part")
    assert result.root == last
    assert result.pseudotime[line.obs_names.get_loc(last)] == 0
    own = line.obs["part"][last]
    other = {"up": "down", "down": "up"}[own]
    median = result.table.set_index("group")["median_pseudotime"]
    assert median[own] < min(median["stem"], median["start"], median[other]) / 2


def test_cells_out_of_reach_are_nan_and_counted(line):
    line.obsm["X_fork"][:60] += 500
    line.obs["part"] = ["island"] * 60 + list(line.obs["part"][60:])
    result = sl.trajectory(line, use_rep="X_fork", root="start", groupby="part")
    assert result.unreachable == 60
    assert np.isnan(result.pseudotime[:60]).all()
    assert set(result.branches[:60]) == {"unreachable"}
    assert "60 cells cannot be reached" in result.summary()


def test_cells_without_a_vector_are_told_apart_from_those_out_of_reach(line):
    line.obsm["X_fork"][:25] = np.nan
    result = sl.trajectory(line, use_rep="X_fork", root="start", groupby="part")
    assert (result.unreachable, result.without_vector) == (0, 25)
    assert np.isnan(result.pseudotime[:25]).all()
    assert np.isfinite(result.pseudotime[25:]).all()
    assert "25 cells have no vector" in result.summary()
    assert "cannot be reached" not in result.summary()


def test_a_doubled_cell_name_is_refused_before_anything_is_written(line):
    line.obs_names = [line.obs_names[1], *line.obs_names[1:]]
    with pytest.raises(DataError, match=r"^1 cell name occurs more than once in obs_names"):
        sl.trajectory(line, use_rep="X_fork", root=line.obs_names[0], groupby="part")
    assert "trajectory_pseudotime" not in line.obs


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"use_rep": "X_fork", "root": "start", "groupby": "part", "n_neighbors": 0}, "n_neighbors is 0"),
        ({"use_rep": "X_forks", "root": "start", "groupby": "part"}, "Did you mean 'X_fork'"),
        ({"use_rep": "X_fork", "root": "begin", "groupby": "part"}, "neither a cell nor a group"),
        ({"use_rep": "X_fork", "root": "start", "groupby": "parts"}, "Did you mean 'part'"),
    ],
)
def test_bad_trajectories_are_refused_in_words(line, kwargs, words):
    with pytest.raises(DataError, match=words):
        sl.trajectory(line, **kwargs)
    assert "trajectory_pseudotime" not in line.obs
