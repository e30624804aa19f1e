"""Cells that a model makes up: refused where none can, marked where one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells.provenance import is_imputed, refuse_imputed
from scfm_lab.errors import DataError, ModelError
from scfm_lab.models.pca import PCA


class _Urn(PCA):
    """Draws every gene's count from a Poisson distribution of its mean."""

    halves = False

    def generate(self, n_cells, *, condition=None, seed=0):
        rate = np.expm1(np.maximum(self.mean.numpy(), 0)) * (condition or {}).get("depth", 1)
        counts = np.random.default_rng(seed).poisson(rate, size=(n_cells, len(rate)))
        return counts / 2 if self.halves else counts


@pytest.fixture(scope="module")
def urn():
    pca = sl.load_model("pca")
    made = _Urn(pca.components, pca.mean, pca.vocabulary, basis="shipped")
    made.spec = replace(made.spec, abilities=made.spec.abilities | {"generate"})
    return made


@pytest.mark.parametrize("name", ["starter", "pca", "sctop"])
def test_no_model_that_comes_along_pretends_to(name):
    with pytest.raises(ModelError, match=f"{name} cannot generate cells"):
        sl.generate(name)


def test_what_a_plugin_makes_up_is_marked_and_repeats_with_its_seed(urn):
    made = sl.generate(urn, 50, condition={"depth": 2}, seed=1)
    assert made.shape == (50, len(urn.vocabulary))
    assert (made.X != sl.generate(urn, 50, condition={"depth": 2}, seed=1).X).nnz == 0
    assert made.X.sum() == pytest.approx(2 * sl.generate(urn, 50, seed=2).X.sum(), rel=0.1)
    assert is_imputed(made, "X")
    with pytest.raises(DataError, match="must not be made of 'X'"):
        refuse_imputed(made, "X", what="Regulators")


def test_values_that_are_no_counts_are_refused(urn):
    urn.halves = True
    with pytest.raises(ModelError, match="gave no counts"):
        sl.generate(urn, 5)
    urn.halves = False
    with pytest.raises(DataError, match="at least one cell"):
        sl.generate(urn, 0)


def test_an_ability_that_is_named_and_not_there_is_the_plugins_fault(urn):
    pca = PCA(urn.components, urn.mean, urn.vocabulary, basis="shipped")
    pca.spec = urn.spec
    with pytest.raises(ModelError, match="names the ability 'generate' and has no method for it"):
        sl.generate(pca, 5)
