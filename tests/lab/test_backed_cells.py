"""Questions about cells that lie in a file: answered as for cells in memory, or refused in a sentence."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells.cells import subset
from scfm_lab.errors import DataError


@pytest.fixture
def file(pbmc68k, tmp_path):
    """A few cells with vectors, in memory and in a file."""
    cells = pbmc68k[::10].copy()
    cells.obsm["X_some"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4)).astype(np.float32)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return cells, tmp_path / "cells.h5ad"


def test_some_cells_of_a_file_are_those_of_the_cells_in_memory(file):
    cells, path = file
    backed = ad.read_h5ad(path, backed="r")
    rows = np.arange(0, 40, 3)
    for source, expected in ((backed, cells), (backed[5:], cells[5:].copy())):
        some = subset(source, rows)
        assert not some.isbacked
        assert not some.is_view
        np.testing.assert_array_equal(some.obs_names, expected.obs_names[rows])
        assert (expected.X[rows] != some.X).sum() == 0
        assert subset(source).n_obs == expected.n_obs


def test_scores_of_cells_in_a_file_are_those_of_the_cells_in_memory(file):
    cells, path = file
    backed = ad.read_h5ad(path, backed="r")
    asked = {"labels_key": "cell_type", "n_boot": 0}
    for evaluate, source in ((sl.evaluate.annotation, backed), (sl.evaluate.clustering, backed[:])):
        assert evaluate(source, "pca", **asked).table.equals(evaluate(cells, "pca", **asked).table)


def test_cells_in_a_file_have_a_twin_and_a_floor(file):
    _, path = file
    backed = ad.read_h5ad(path, backed="r")
    found = sl.trajectory(backed, use_rep="X_some", root="Dendritic", groupby="cell_type", n_neighbors=5)
    assert found.twin is not None
    board = sl.evaluate.leaderboard(
        backed,
        "pca",
        parts="trajectory",
        labels_key="cell_type",
        stage_key="percent_mito",
        root="Dendritic",
        record=False,
    )
    assert len(board.left_out) == 0


def test_nothing_is_written_into_a_view_of_cells_in_a_file(file):
    cells, path = file
    view = ad.read_h5ad(path, backed="r")[:30]
    for ask in (
        lambda: sl.trajectory(view, use_rep="X_some", root="Dendritic", groupby="cell_type"),
        lambda: sl.annotate(view, cells, model="pca", progress=False),
        lambda: sl.integrate(view, "pca", batch_key="louvain", progress=False),
    ):
        with pytest.raises(DataError, match=r"view of a backed AnnData; .*to_memory\(\)"):
            ask()
