"""Response curves: exact where they were computed, near in between, and open about it."""

from __future__ import annotations

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError, GenesError
from scfm_lab.tasks.perturb import Perturber

GENES = ["LYZ", "CD74"]


@pytest.fixture(scope="module")
def small():
    return sl.datasets.load("pbmc68k")[::8].copy()


@pytest.fixture(scope="module")
def lab(small):
    return Perturber(small, "pca")


@pytest.fixture(scope="module")
def curves(small, lab):
    return sl.response_curves(
        small, lab, GENES, cells=40, n_draws=8, check_doses=(0.4, 1.25), n_null=19, progress=False
    )


@pytest.mark.parametrize("dose", [0.0, 0.25, 1.0, 2.0])
def test_at_its_doses_a_curve_is_exact(lab, curves, dose):
    answer = curves.at({"LYZ": dose})
    exact = lab.run({"LYZ": dose}, n_draws=8)
    np.testing.assert_allclose(answer.shift, exact.shift[curves.cells], atol=1e-4)
    np.testing.assert_allclose(answer.vectors, exact.perturbed[curves.cells], atol=1e-4)
    np.testing.assert_allclose(answer.places, exact.layout.after[curves.cells], atol=1e-3)
    assert not answer.additive
    assert (answer.shift == 0).all() == (dose == 1)


def test_between_its_doses_it_is_near_and_tells_how_near(lab, curves):
    exact = lab.run({"LYZ": 0.4}, n_draws=8).shift[curves.cells].mean()
    row = curves.error.query("gene == 'LYZ' and dose == 0.4").iloc[0]
    assert row["exact"] == pytest.approx(exact, rel=1e-4)
    assert row["interpolated"] == pytest.approx(curves.at({"LYZ": 0.4}).shift.mean(), rel=1e-4)
    assert abs(row["error"]) < 0.1 * exact
    assert row["how"] == "dose between"
    assert set(curves.error["dose"]) == {0.4, 1.25}


def test_the_error_is_told_in_the_null_deviations_that_a_perturbation_tells(small, lab):
    asked = {"n_draws": 3, "n_null": 25}
    genes = ["CD3D", "IL32"]
    curves = sl.response_curves(small, lab, genes, cells=small.n_obs, check_doses=(0.4,), progress=False, **asked)
    for gene in genes:
        row = curves.error.query("gene == @gene").iloc[0]
        told = lab.with_null(lab.run({gene: 0.4}, n_draws=3), n_null=25, max_cells=small.n_obs).table
        assert row["null_sd"] == pytest.approx(told.set_index("group").loc["all", "null_sd"], rel=1e-4)
        assert row["in_null_sd"] == pytest.approx(abs(row["error"]) / row["null_sd"])


def test_the_mean_shift_falls_to_nothing_at_dose_1_and_grows_again(curves):
    for gene in GENES:
        below = [curves.at({gene: d}).shift.mean() for d in np.linspace(0, 1, 21)]
        above = [curves.at({gene: d}).shift.mean() for d in np.linspace(1, 2, 21)]
        assert (np.diff(below) < 0).all()
        assert (np.diff(above) > 0).all()


def test_several_genes_start_from_the_sum_and_say_so(lab, curves):
    both = curves.at({"LYZ": 0.0, "CD74": 0.0})
    assert both.additive
    # PCA is linear, so that here the sum is the answer.
    exact = lab.run({"LYZ": 0.0, "CD74": 0.0})
    np.testing.assert_allclose(both.vectors, exact.perturbed[curves.cells], atol=1e-3)
    np.testing.assert_allclose(both.shift, exact.shift[curves.cells], atol=1e-3)


def test_a_widget_gets_the_same_from_plain_arrays(curves):
    arrays = curves.arrays()
    doses = arrays["doses"]
    for dose in (0.1, 0.6, 1.0, 1.3, 1.9):
        i = min(int(np.searchsorted(doses, dose, side="right")) - 1, len(doses) - 2)
        t = dose - doses[i]
        c = arrays["shift_coefficients"][1, i]
        np.testing.assert_allclose(
            ((c[0] * t + c[1]) * t + c[2]) * t + c[3], curves.at({"CD74": dose}).shift, atol=1e-4
        )
        c = arrays["place_coefficients"][1, i]
        places = arrays["before"] + ((c[0] * t + c[1]) * t + c[2]) * t + c[3]
        np.testing.assert_allclose(places, curves.at({"CD74": dose}).places, atol=1e-3)
    assert all(a.dtype.itemsize == 4 for a in arrays.values())


def test_without_doses_between_the_inner_ones_are_left_out(small, lab):
    curves = sl.response_curves(small, lab, ["LYZ"], cells=small.obs_names[:30], progress=False)
    assert set(curves.error["dose"]) == {0.25, 0.5, 1.5}
    assert "left out" in curves.summary()
    np.testing.assert_array_equal(curves.cells, np.arange(30))
    assert "dose" in curves.plot().to_json()
    assert len(curves.table) == 6


@pytest.mark.parametrize(
    ("genes", "kwargs", "error", "words"),
    [
        (["LYZZ"], {}, GenesError, "Did you mean 'LYZ'"),
        ([], {}, DataError, "No gene was named"),
        (["LYZ", "LYZ"], {}, GenesError, "'LYZ' is named twice"),
        (["LYZ"], {"doses": (0.0,)}, DataError, "at least two doses besides 1"),
        (["LYZ"], {"doses": (0, -1, 2)}, DataError, "it must be 0"),
        (["LYZ"], {"check_doses": (3,)}, DataError, "between the doses of the curve"),
        (["LYZ"], {"cells": ["nobody"]}, DataError, "No cell is called 'nobody'"),
        (["LYZ"], {"cells": 0}, DataError, "at least one cell"),
        (["LYZ"], {"n_null": 3}, DataError, "at least 19"),
    ],
)
def test_bad_questions_are_answered_in_words(small, lab, genes, kwargs, error, words):
    with pytest.raises(error, match=words):
        sl.response_curves(small, lab, genes, progress=False, **kwargs)


def test_what_has_no_curve_is_not_guessed(curves):
    with pytest.raises(GenesError, match="has no response curve"):
        curves.at({"CD3D": 0.5})
    with pytest.raises(DataError, match="goes from dose 0 to 2; 3 has to be computed"):
        curves.at({"LYZ": 3.0})
