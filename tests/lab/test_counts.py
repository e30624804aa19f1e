"""Raw counts are found wherever they lie, and nothing else is taken for them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from scfm_lab.cells.cells import Cells
from scfm_lab.cells.counts import find_counts, to_csr
from scfm_lab.errors import CountsError, DataError, GenesError


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "int"])
def test_every_matrix_format_gives_the_same_cells(pbmc68k, kind):
    expected = Cells.from_anndata(pbmc68k)
    x = pbmc68k.X
    pbmc68k.X = {
        "dense": lambda: x.toarray(),
        "csr": lambda: x,
        "csc": lambda: sparse.csc_matrix(x),
        "int": lambda: x.astype(np.int64),
    }[kind]()
    found = Cells.from_anndata(pbmc68k)
    assert (found.counts != expected.counts).nnz == 0
    assert found.counts.dtype == np.float32
    np.testing.assert_array_equal(found.keys, expected.keys)


def test_backed_cells_are_the_same(pbmc68k, tmp_path):
    expected = Cells.from_anndata(pbmc68k)
    pbmc68k.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    chunks = list(Cells.chunks(backed, 256))
    assert [len(c) for c in chunks] == [256, 256, 188]
    np.testing.assert_array_equal(np.concatenate([c.keys for c in chunks]), expected.keys)
    np.testing.assert_array_equal(np.concatenate([c.total for c in chunks]), expected.total)


def test_counts_are_found_in_a_layer_and_in_raw(pbmc68k):
    counts = pbmc68k.X.copy()
    layered = pbmc68k.copy()
    layered.layers["counts"] = counts
    sc.pp.log1p(layered)
    assert find_counts(layered).where == "layers['counts']"
    raw = pbmc68k.copy()
    raw.raw = raw.copy()
    raw.X = raw.X.toarray()
    sc.pp.scale(raw)
    raw = raw[:, :100].copy()
    cells = Cells.from_anndata(raw)
    assert cells.where == "raw.X"
    assert cells.counts.shape == (700, 765)


def test_what_is_there_is_left_as_it_is(pbmc68k):
    before = pbmc68k.X.copy()
    before.data[:] = pbmc68k.X.data
    cells = Cells.from_anndata(pbmc68k)
    cells.counts.data[:] = 7
    np.testing.assert_array_equal(pbmc68k.X.data, before.data)


def _log(a):
    sc.pp.normalize_total(a)
    sc.pp.log1p(a)


def _scale(a):
    _log(a)
    a.X = a.X.toarray()
    sc.pp.scale(a)


def _set(value):
    def change(a):
        x = a.X.tolil()
        x[3, 5] = value
        a.X = x.tocsr()

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_log, "log-normalised"),
        (lambda a: sc.pp.normalize_total(a, target_sum=1e6), "normalised"),
        (_scale, "scaled or centred"),
        (_set(-1.0), "negative"),
        (_set(np.nan), "NaN"),
        (_set(np.inf), "infinite"),
    ],
    ids=["log", "cpm", "scaled", "negative", "nan", "infinite"],
)
def test_what_is_not_counts_is_refused_in_words(pbmc68k, spoil, words):
    spoil(pbmc68k)
    with pytest.raises(CountsError, match=words) as caught:
        Cells.from_anndata(pbmc68k)
    assert str(caught.value).startswith("X ")


def test_a_bad_value_far_from_the_rows_looked_at_first_is_still_found(pbmc68k):
    big = ad.concat([pbmc68k] * 6, index_unique="-")
    x = big.X.tolil()
    x[1_700, 5] = 0.5
    big.X = x.tocsr()
    with pytest.raises(CountsError, match="not whole"):
        Cells.from_anndata(big)


def test_an_empty_anndata_is_refused(pbmc68k):
    for empty in (pbmc68k[:0], pbmc68k[:, :0]):
        with pytest.raises(DataError, match="empty"):
            Cells.from_anndata(empty)


def test_doubled_names_are_refused(pbmc68k):
    doubled = pbmc68k.copy()
    doubled.obs_names = ["one"] * doubled.n_obs
    with pytest.raises(DataError, match="obs_names_make_unique"):
        Cells.from_anndata(doubled)
    doubled = pbmc68k.copy()
    doubled.var_names = ["CD3D", *doubled.var_names[1:-1], "CD3D"]
    with pytest.raises(GenesError, match=r"'CD3D'.*var_names_make_unique"):
        Cells.from_anndata(doubled)


def test_an_unknown_layer_is_named(pbmc68k):
    pbmc68k.layers["counts"] = pbmc68k.X
    with pytest.raises(DataError, match="Did you mean 'counts'"):
        Cells.from_anndata(pbmc68k, layer="count")


def test_library_sizes_come_from_all_genes(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    np.testing.assert_array_equal(cells.total, pbmc68k.obs["total_counts_all_genes"])
    seen = np.asarray(cells.counts.sum(axis=1)).ravel()
    assert 0.15 < np.median(seen / cells.total) < 0.25
    del pbmc68k.obs["total_counts_all_genes"]
    np.testing.assert_array_equal(Cells.from_anndata(pbmc68k).total, seen)
    pbmc68k.obs["total_counts_all_genes"] = 1.0
    with pytest.raises(DataError, match="total_counts_all_genes"):
        Cells.from_anndata(pbmc68k)


def test_digests_follow_the_cell_and_not_its_place(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(700), rng.permutation(765)
    moved = Cells.from_anndata(pbmc68k[rows][:, columns].copy())
    np.testing.assert_array_equal(moved.keys, cells.keys[rows])
    assert len(np.unique(cells.keys)) == 700
    other = pbmc68k.copy()
    x = other.X.tolil()
    x[0, 0] += 1
    other.X = x.tocsr()
    changed = Cells.from_anndata(other).keys != cells.keys
    assert changed.sum() == 1


def odd_matrix() -> sparse.csr_matrix:
    """Rows without counts (also the first and the last), columns out of order and twice, stored zeros, 3.0001 for 3."""
    values = np.array([1, 2, 0, 4, 3.0001, 1, 7, 2], dtype=np.float64)
    columns = np.array([3, 1, 2, 0, 4, 4, 1, 0])
    return sparse.csr_matrix((values, columns, [0, 0, 3, 3, 6, 8, 8]), shape=(6, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_counts_come_out_in_order_once_and_without_zeros(dtype):
    matrix = odd_matrix().astype(dtype)
    kept = matrix.copy()
    found = to_csr(matrix)
    np.testing.assert_array_equal(found.toarray(), np.rint(kept.toarray()))
    assert found.dtype == np.float32
    assert (found.data > 0).all()
    assert sparse.csr_matrix((found.data, found.indices, found.indptr), shape=found.shape).has_canonical_format
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(kept, name))
        assert not np.shares_memory(getattr(matrix, name), getattr(found, name))
    np.testing.assert_array_equal(to_csr(matrix, np.array([4, 1])).toarray(), found.toarray()[[4, 1]])


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_matrix_that_names_columns_it_does_not_have_is_refused(wrong):
    matrix = odd_matrix()
    matrix.indices[-1] = wrong
    with pytest.raises(CountsError, match="names columns that it does not have"):
        to_csr(matrix)


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">f8", "f2"])
def test_dense_counts_of_another_byte_order_or_half_precision_are_read(pbmc68k, dtype):
    expected = to_csr(pbmc68k.X)
    assert (to_csr(pbmc68k.X.toarray().astype(dtype)) != expected).nnz == 0


def test_a_value_beyond_all_counts_is_refused(pbmc68k):
    counts = pbmc68k.X.astype(np.float64)
    counts.data[1000] = 1e39
    with pytest.raises(CountsError, match="no count reaches"):
        to_csr(counts)


def test_pointers_beyond_the_counts_are_refused(pbmc68k):
    counts = pbmc68k.X.copy()
    counts.indptr = counts.indptr.copy()
    counts.indptr[-1] += 10
    with pytest.raises(CountsError, match="damaged"):
        to_csr(counts)
