"""What goes over the wire comes back as it was, to within the step of its grid."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scfm_widgets.codec import (
    MAX_CODE,
    MISSING_CODE,
    MISSING_PLACE,
    Frame,
    pack_categories,
    pack_mask,
    pack_numbers,
    plain,
    unpack_mask,
)


@pytest.fixture
def plane() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(500, 2)) * [3.0, 40.0] + [100.0, -7.0]


class TestPlaces:
    def test_come_back_to_within_half_a_step(self, plane: np.ndarray) -> None:
        frame = Frame.around(plane)
        back = frame.unpack(frame.pack(plane))
        assert np.abs(back - plane).max() <= 0.5 * frame.side / 65535 + 1e-9

    def test_take_four_bytes_a_cell(self, plane: np.ndarray) -> None:
        assert len(Frame.around(plane).pack(plane)) == 4 * len(plane)

    def test_keep_their_shape(self, plane: np.ndarray) -> None:
        """Both axes share one scale: a long plane stays long."""
        frame = Frame.around(plane)
        spread = np.ptp(plane, axis=0)
        assert frame.extent[1] == pytest.approx(1.0)
        margins = 0.08 * spread.max()
        assert frame.extent[0] == pytest.approx((spread[0] + margins) / (spread[1] + margins))

    def test_of_cells_without_one_are_marked(self, plane: np.ndarray) -> None:
        plane[[3, 7]] = np.nan
        plane[9, 0] = np.inf
        packed = np.frombuffer(Frame.around(plane).pack(plane), "<u2").reshape(-1, 2)
        assert (packed == MISSING_PLACE).all(axis=1).nonzero()[0].tolist() == [3, 7, 9]

    def test_beyond_the_frame_lie_on_its_edge_and_are_not_taken_for_missing(self, plane: np.ndarray) -> None:
        frame = Frame.around(plane)
        far = np.array([[1e9, -1e9], [-1e9, 1e9]])
        packed = np.frombuffer(frame.pack(far), "<u2").reshape(-1, 2)
        assert packed.min() == 0
        assert packed.max() < MISSING_PLACE

    @pytest.mark.parametrize(
        "few", [np.zeros((1, 2)), np.full((3, 2), np.nan), np.zeros((0, 2))], ids=["one", "none known", "none"]
    )
    def test_of_few_cells_are_no_error(self, few: np.ndarray) -> None:
        frame = Frame.around(few)
        assert frame.side > 0
        assert len(frame.pack(few)) == 4 * len(few)


class TestNumbers:
    def test_come_back_to_within_half_a_step(self) -> None:
        values = np.random.default_rng(1).exponential(size=1000)
        column = pack_numbers(values, title="x")
        low, high = column.about["min"], column.about["max"]
        back = low + np.frombuffer(column.codes, np.uint8) / MAX_CODE * (high - low)
        assert np.abs(back - values).max() <= 0.5 * (high - low) / MAX_CODE + 1e-9

    def test_missing_and_infinite_ones_are_marked_and_counted(self) -> None:
        column = pack_numbers([0.0, np.nan, 1.0, np.inf], title="x")
        assert list(column.codes) == [0, MISSING_CODE, MAX_CODE, MISSING_CODE]
        assert column.about["missing"] == 2

    @pytest.mark.parametrize("values", [[2.0, 2.0], [np.nan, np.nan], []], ids=["all the same", "all missing", "none"])
    def test_without_a_spread_are_no_error(self, values: list[float]) -> None:
        column = pack_numbers(values, title="x")
        assert len(column.codes) == len(values)
        json.dumps(column.about, allow_nan=False)


class TestCategories:
    def test_keep_the_order_of_the_categorical(self) -> None:
        values = pd.Series(pd.Categorical(["b", "a", None, "b"], categories=["b", "a", "never"]))
        column = pack_categories(values, title="x")
        assert column.about["labels"] == ["b", "a"]
        assert column.about["counts"] == [2, 1]
        assert list(column.codes) == [0, 1, MISSING_CODE, 0]

    def test_of_texts_booleans_and_numbers_are_labels(self) -> None:
        assert pack_categories(pd.Series([True, False]), title="x").about["labels"] == ["False", "True"]
        assert pack_categories(pd.Series(["y", "x"]), title="x").about["labels"] == ["x", "y"]

    def test_that_are_too_many_share_a_code_beyond_the_largest(self) -> None:
        sizes = np.arange(1, 5001)
        values = pd.Series(np.repeat([f"g{i}" for i in sizes], sizes % 7 + 1)).astype("category")
        column = pack_categories(values, title="x")
        codes = np.frombuffer(column.codes, np.uint8)
        other = column.about["other"]
        assert len(column.about["labels"]) == len(column.about["counts"]) == other + 1
        assert sum(column.about["counts"]) == len(values)
        assert np.bincount(codes, minlength=256)[: other + 1].tolist() == column.about["counts"]
        assert min(column.about["counts"][:other]) == 7, "the largest groups keep a code of their own"
        assert (codes != MISSING_CODE).all()


class TestMask:
    @pytest.mark.parametrize("n", [0, 1, 8, 9, 700])
    def test_comes_back(self, n: int) -> None:
        mask = np.random.default_rng(n).random(n) < 0.5
        assert (unpack_mask(pack_mask(mask), n) == mask).all()

    def test_shorter_than_the_cells_selects_none_of_the_rest(self) -> None:
        assert unpack_mask(b"\xff", 12).tolist() == [True] * 8 + [False] * 4


def test_plain_values_are_what_json_can_hold() -> None:
    given = {"a": np.float32("nan"), 2: [np.int64(3), np.bool_(True), float("inf")], "t": (np.arange(2),)}
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == {"a": None, "2": [3, True, None], "t": [[0, 1]]}
