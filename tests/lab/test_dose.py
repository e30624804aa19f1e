"""A dose means the same for every model: it is defined on counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm_lab.cells.cells import Cells
from scfm_lab.cells.dose import check_dose, dosed_counts, group_rates, perturb_counts
from scfm_lab.errors import DataError

KEYS = np.random.default_rng(0).integers(0, 2**63, 4000).astype(np.uint64)
GENE = np.uint64(1234567)


def _dose(k, dose, draw=0, rate=1.5, seed=0):
    k = np.asarray(k, dtype=np.float64)
    return dosed_counts(k, dose, KEYS[: len(k)], GENE, rate=np.full(len(k), rate), seed=seed, draw=draw)


def test_dose_0_is_a_knockout_and_dose_1_is_exactly_unchanged():
    k = np.arange(50.0)
    np.testing.assert_array_equal(_dose(k, 0), 0)
    np.testing.assert_array_equal(_dose(k, 1), k)


@pytest.mark.parametrize("dose", [0.1, 0.5, 0.9])
def test_below_1_counts_are_thinned_binomially(dose):
    k = np.full(4000, 8.0)
    thinned = _dose(k, dose)
    sd = np.sqrt(8 * dose * (1 - dose))
    assert abs(thinned.mean() - 8 * dose) < 4 * sd / np.sqrt(4000)
    assert thinned.std() == pytest.approx(sd, rel=0.05)
    ones = _dose(np.ones(4000), dose)
    assert set(np.unique(ones)) == {0.0, 1.0}
    assert ones.mean() == pytest.approx(dose, abs=0.035)


def test_above_1_poisson_counts_are_added_also_where_the_gene_was_not_seen():
    added = _dose(np.zeros(4000), 1.8, rate=2.5)
    assert added.mean() == pytest.approx(0.8 * 2.5, abs=0.1)
    assert added.var() == pytest.approx(0.8 * 2.5, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=2, max_size=6), st.integers(0, 5), st.integers(0, 3))
def test_counts_are_monotone_in_the_dose(doses, seed, draw):
    k = np.tile([0.0, 1.0, 3.0, 40.0], 25)
    counts = [_dose(k, d, draw=draw, seed=seed) for d in sorted(doses)]
    for less, more in itertools.pairwise(counts):
        assert (less <= more).all()


def test_draws_and_seeds_differ_and_repeat():
    k = np.full(500, 5.0)
    first = _dose(k, 0.5, draw=0)
    np.testing.assert_array_equal(first, _dose(k, 0.5, draw=0))
    assert (first != _dose(k, 0.5, draw=1)).any()
    assert (first != _dose(k, 0.5, seed=1)).any()
    assert abs(np.corrcoef(first, _dose(k, 0.5, seed=1))[0, 1]) < 0.15


def test_each_draw_is_binomial_and_their_mean_is_nearer_than_independent_draws_would_be():
    from scipy import stats

    k = np.full(4000, 1.0)
    draws = np.array([_dose(k, 0.3, draw=d) for d in range(8)])
    for one in draws:
        assert stats.binomtest(int(one.sum()), 4000, 0.3).pvalue > 1e-4
    # Independent draws would have a variance of 0.3 · 0.7 / 8 = 0.026.
    assert draws.mean(axis=0).var() < 0.026 / 3


@pytest.mark.parametrize("dose", [-0.1, float("nan"), float("inf"), "high", None, 1e9, 1000.5])
def test_a_dose_that_is_none_is_refused(dose):
    with pytest.raises(DataError, match="dose of CD3D"):
        check_dose("CD3D", dose)


def test_a_perturbed_copy_differs_in_that_gene_and_nowhere_else(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    column = cells.genes.find("LYZ")
    changed = perturb_counts(cells, {column: 0.4})
    difference = (changed.counts != cells.counts).tocsc()
    assert set(np.flatnonzero(np.diff(difference.indptr))) == {column}
    np.testing.assert_array_equal(changed.total, cells.total)
    np.testing.assert_array_equal(changed.keys, cells.keys)
    assert changed.baseline is cells
    assert (changed.counts.data == np.rint(changed.counts.data)).all()


def test_the_dose_of_a_cell_does_not_depend_on_its_neighbours(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    column = cells.genes.find("LYZ")
    rows = np.random.default_rng(1).permutation(700)[:50]
    alone = perturb_counts(cells.take(rows), {column: 0.4}).counts
    assert (alone != perturb_counts(cells, {column: 0.4}).counts[rows]).nnz == 0


def test_rates_are_the_groups_share_times_the_library(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    column = cells.genes.find("LYZ")
    groups = (np.arange(700) % 2).astype(np.int64)
    rates = group_rates(cells, np.array([column]), groups)[:, 0]
    k = cells.counts[:, column].toarray().ravel()
    for group in (0, 1):
        mask = groups == group
        assert rates[mask].sum() == pytest.approx(k[mask].sum())
        np.testing.assert_allclose(rates[mask], cells.total[mask] * k[mask].sum() / cells.total[mask].sum())


def test_a_silent_gene_can_be_set_to_a_level(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    column = cells.genes.find("CD79A")
    changed = perturb_counts(cells, {}, set_to={column: 20.0})
    k = changed.counts[:, column].toarray().ravel()
    assert k.mean() == pytest.approx(20e-4 * cells.total.mean(), rel=0.1)
