"""The null of comparable genes: ranks that are fair, and silence where there is nothing to compare with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scfm_lab.cells.cells import Cells
from scfm_lab.cli import perturb as cli
from scfm_lab.evaluation import nulls


def _simulated(rng, m, effect_sd=0.3, planted=0.0):
    """Genes whose log effect is linear in their expression plus noise; the first is the gene asked about."""
    x = rng.normal(size=(m + 1, 3))
    y = x @ np.array([0.8, 0.3, -0.2]) - 1 + rng.normal(scale=effect_sd, size=m + 1)
    y[0] += planted * effect_sd
    return np.exp(y[0]), x[0], np.exp(y[1:]), x[1:]


@pytest.mark.parametrize("m", [19, nulls.N_NULL])
def test_p_is_uniform_when_the_gene_is_like_the_others(m):
    rng = np.random.default_rng(0)
    p = np.array([nulls.test_against_null(*_simulated(rng, m)).p_value for _ in range(2000)])
    # p is discrete: compare with the uniform distribution on its steps.
    steps = np.arange(1, m + 2) / (m + 1)
    observed = np.searchsorted(np.sort(p), steps + 1e-12) / len(p)
    assert np.abs(observed - steps).max() < 0.03
    assert np.mean(p <= 0.05) == pytest.approx(np.floor(0.05 * (m + 1)) / (m + 1), abs=0.012)


def test_as_many_as_are_taken_by_default_make_a_test_at_5_percent():
    assert 3 / (nulls.N_NULL + 1) == 0.05
    defaults = {parameter.name: parameter.default for parameter in cli.perturb.params}
    assert defaults["n_null"] == nulls.N_NULL


def test_a_planted_effect_of_three_standard_deviations_is_found():
    rng = np.random.default_rng(1)
    p = np.array([nulls.test_against_null(*_simulated(rng, nulls.N_NULL, planted=3.0)).p_value for _ in range(500)])
    assert np.mean(p <= 0.05) >= 0.8


def test_expression_alone_is_not_taken_for_an_effect():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(300):
        effect, x, others, other_x = _simulated(rng, 50)
        # A gene higher than its null genes, with just the effect that its expression predicts.
        x = other_x.mean(axis=0) + np.array([1.0, 0.5, 0.5])
        effect = np.exp(x @ np.array([0.8, 0.3, -0.2]) - 1 + rng.normal(scale=0.3))
        p.append(nulls.test_against_null(effect, x, others, other_x).p_value)
    assert np.mean(np.array(p) <= 0.05) < 0.08


def test_p_never_falls_below_its_smallest_step():
    rng = np.random.default_rng(3)
    _, x, others, other_x = _simulated(rng, 30)
    test = nulls.test_against_null(1e9, x, others, other_x)
    assert test.p_value == pytest.approx(1 / 31)
    assert test.n_null == 30
    assert test.null_low < test.null_mean < test.null_high


def test_too_few_null_genes_give_no_p():
    rng = np.random.default_rng(4)
    test = nulls.test_against_null(*_simulated(rng, nulls.MIN_NULL_GENES - 1))
    assert np.isnan(test.p_value)


def test_features_match_their_definitions(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    f = nulls.features(cells.counts, cells.total)
    dense = cells.counts.toarray()
    g = cells.genes.find("LYZ")
    assert f.detection[g] == pytest.approx((dense[:, g] > 0).mean())
    assert f.log_mean[g] == pytest.approx(np.log((dense[:, g] / cells.total * 1e4).mean()))
    ranks = [
        stats.rankdata(row[row > 0])[np.flatnonzero(np.flatnonzero(row > 0) == g)[0]] / (row > 0).sum()
        for row in dense
        if row[g] > 0
    ]
    assert f.rank[g] == pytest.approx(np.mean(ranks))


def test_of_no_cells_no_gene_is_seen(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    f = nulls.features(cells.counts[:0], cells.total[:0])
    assert (f.detection == 0).all()
    assert np.isneginf(f.log_mean).all()


def test_comparable_genes_are_comparable_and_do_not_hold_the_gene(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    f = nulls.features(cells.counts, cells.total)
    everything = np.ones(765, dtype=bool)
    g = cells.genes.find("CD3D")
    found = nulls.comparable_genes(f, g, candidates=everything, n=50)
    assert len(found) == 50
    assert g not in found
    assert np.abs(f.log_mean[found] - f.log_mean[g]).max() <= np.log(2) + 1e-9
    assert np.abs(f.detection[found] - f.detection[g]).max() <= 0.15 + 1e-9


def test_a_gene_far_above_all_others_has_no_comparable_ones(pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    x = cells.counts.tolil()
    g = cells.genes.find("CD3D")
    x[:, g] = 500
    f = nulls.features(x.tocsr(), cells.total)
    assert len(nulls.comparable_genes(f, g, candidates=np.ones(765, dtype=bool), n=50)) == 0


def test_nothing_is_never_more_than_what_comparable_genes_do():
    # Shares that are mostly 0: the line through them may predict less than nothing.
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 3))
    shares = np.maximum(0, x[:, 0] - 1.5)
    found = nulls.test_against_null(0.0, np.array([-2.5, 0.0, 0.0]), shares, x, scale="linear")
    assert found.p_value == 1
    assert found.null_low >= 0
    assert found.null_mean >= 0
    # What has a direction may well be 0 where others are not.
    assert nulls.test_against_null(0.0, np.zeros(3), 1 + 0.01 * shares, x, scale="signed").p_value < 0.05
