"""What tells that cells were changed by hand: only that, all of that, and in no time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scfm_widgets import columns as columns_module
from scfm_widgets import watch as watch_module
from scfm_widgets.columns import Columns
from scfm_widgets.watch import COUNTS, GENES, VALUES, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

N = 60_000


@pytest.fixture
def few(pbmc68k: AnnData) -> AnnData:
    """Their counts are a layer beside values that are none."""
    few = pbmc68k[::7].copy()
    few.layers["counts"] = few.X.copy()
    few.X = few.X * 0.3
    return few


class TestCounts:
    def test_only_those_that_models_read_are_counts(self, few: AnnData) -> None:
        watch = Watch(few)
        watch.note(GENES, COUNTS, VALUES)
        few.layers["smooth"] = few.X * 0.5
        assert watch.changed() == set()
        few.X = few.X * 0.5
        assert watch.changed() == {VALUES}
        few.layers["counts"] = few.layers["counts"][::-1]
        assert watch.changed() == {COUNTS}
        few.layers["counts"].data[:] += 1
        assert watch.changed() == {COUNTS}
        # They lie elsewhere, though they are the same.
        few.layers["raw_counts"] = few.layers.pop("counts")
        assert watch.changed() == {COUNTS}
        del few.layers["raw_counts"]
        assert watch.changed() == {COUNTS}
        assert watch.changed() == set()


class TestLooking:
    def test_what_is_told_twice_is_compared_with_the_first_time(self, few: AnnData) -> None:
        watch = Watch(few)
        watch.note(("obs", "phase"))
        few.obs["phase"] = few.obs["phase"].to_numpy()[::-1]
        watch.follow(("obs", "phase"), ("obs", "louvain"))
        assert watch.changed() == {("obs", "phase")}
        few.obs["louvain"] = few.obs["louvain"].to_numpy()[::-1]
        assert watch.changed() == {("obs", "louvain")}

    @pytest.mark.parametrize("error", [KeyError("phase"), RuntimeError("dictionary changed size during iteration")])
    def test_a_thing_that_is_being_changed_hides_no_other(
        self, few: AnnData, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        watch = Watch(few)
        watch.note(("obs", "louvain"), ("obs", "phase"))
        for name in ("louvain", "phase"):
            few.obs[name] = few.obs[name].to_numpy()[::-1]
        stamp = watch.stamp

        def busy(kind: str, name: str) -> Any:
            if name == "phase":
                raise error
            return stamp(kind, name)

        monkeypatch.setattr(watch, "stamp", busy)
        assert watch.changed() == {("obs", "louvain")}
        monkeypatch.undo()
        assert watch.changed() == {("obs", "phase")}

    def test_a_fault_of_the_bench_itself_is_not_taken_for_a_change(
        self, few: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watch = Watch(few)
        watch.note(("obs", "phase"))

        def broken(*_: Any) -> Any:
            raise ValueError("not this one")

        monkeypatch.setattr(watch, "stamp", broken)
        with pytest.raises(ValueError, match="not this one"):
            watch.changed()

    def test_two_threads_find_a_change_once(self, few: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
        watch = Watch(few)
        watch.note(("obs", "phase"))
        few.obs["phase"] = few.obs["phase"].to_numpy()[::-1]
        stamp, looking, go_on = watch.stamp, threading.Event(), threading.Event()

        def slowly(kind: str, name: str) -> Any:
            now = stamp(kind, name)
            looking.set()
            go_on.wait(30)
            return now

        monkeypatch.setattr(watch, "stamp", slowly)
        found: list[set[Any]] = []
        threads = [threading.Thread(target=lambda: found.append(watch.changed())) for _ in range(2)]
        threads[0].start()
        assert looking.wait(30)
        threads[1].start()
        threads[1].join(0.3)
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert found == [{("obs", "phase")}, set()]

    def test_counts_that_are_being_opened_when_others_come_are_not_kept(
        self, few: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        columns, begun, go_on = Columns(few), threading.Event(), threading.Event()
        opened = columns_module.GeneMatrix

        def slowly(adata: AnnData) -> Any:
            matrix = opened(adata)
            begun.set()
            go_on.wait(30)
            return matrix

        monkeypatch.setattr(columns_module, "GeneMatrix", slowly)
        reader = threading.Thread(target=lambda: columns.of_gene("LYZ"))
        reader.start()
        assert begun.wait(30)
        few.layers["counts"] = few.layers["counts"][::-1]
        other = threading.Thread(target=columns.forget)
        other.start()
        other.join(0.3)
        go_on.set()
        reader.join(30)
        other.join(30)
        monkeypatch.undo()
        assert columns.of_gene("LYZ").codes == Columns(few).of_gene("LYZ").codes


class TestLarge:
    """More than is looked at as a whole before each answer."""

    @pytest.fixture(autouse=True)
    def _little_is_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch_module, "_WHOLE", N)
        monkeypatch.setattr(watch_module, "_MOST_OBJECTS", N // 10)

    @pytest.fixture
    def many(self) -> AnnData:
        """Two planes and three columns, of which nobody wants the counts."""
        rng = np.random.default_rng(0)
        numbers, codes = rng.random(N), rng.integers(0, 3, N)
        obs = pd.DataFrame({"score": numbers, "text": np.array(["a", "b", "c"], dtype=object)[codes]})
        obs["group"] = pd.Categorical.from_codes(rng.permutation(codes).astype(np.int16), ["a", "b", "c"])
        obs["group"] = obs["group"].cat.add_categories([f"other {i}" for i in range(200)])
        obs.index = obs.index.astype(str)
        table = pd.DataFrame({"x": numbers, "y": codes}, index=obs.index)
        return AnnData(
            np.zeros((N, 1), dtype=np.float32), obs=obs, obsm={"X_umap": rng.random((N, 2)), "X_table": table}
        )

    THINGS = (("obs", "score"), ("obs", "text"), ("obs", "group"), ("obsm", "X_umap"), ("obsm", "X_table"))

    def test_only_a_part_is_looked_at_and_what_is_replaced_is_seen(
        self, many: AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[int] = []
        crc = watch_module._crc
        monkeypatch.setattr(watch_module, "_crc", lambda array: looked.append(array.nbytes) or crc(array))
        watch = Watch(many)
        watch.note(*self.THINGS)
        assert watch.changed() == set()
        assert len(looked) == 2 * len(self.THINGS)
        assert sum(looked) < 2 * len(self.THINGS) * 10 * watch_module._LOOKED_AT
        # One value of each is another, and none of those that are looked at.
        score, text = many.obs["score"].to_numpy().copy(), many.obs["text"].to_numpy().copy()
        score[1], text[1] = -1.0, "z"
        many.obs["score"], many.obs["text"] = score, text
        plane = many.obsm["X_umap"].copy()
        plane[0, 1] = -1.0
        many.obsm["X_umap"] = plane
        many.obs["group"] = many.obs["group"].cat.rename_categories({"a": "A"})
        assert watch.changed() == {("obs", "score"), ("obs", "text"), ("obs", "group"), ("obsm", "X_umap")}
        assert watch.changed() == set()

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("order", ["C", "F", "strided"])
    def test_what_is_written_into_either_axis_of_a_plane_is_seen(self, many: AnnData, axis: int, order: Any) -> None:
        values = many.obsm["X_umap"]
        plane = np.hstack([values, values])[:, :2] if order == "strided" else np.array(values, order=order)
        many.obsm["X_umap"] = plane
        watch = Watch(many)
        watch.note(("obsm", "X_umap"))
        many.obsm["X_umap"][:, axis] *= 2
        assert watch.changed() == {("obsm", "X_umap")}

    @pytest.mark.parametrize(
        "change",
        [
            lambda obs: obs.__setitem__("score", obs["score"] * 2),
            lambda obs: obs.__setitem__("text", obs["text"].to_numpy()[::-1]),
            lambda obs: obs.__setitem__("group", obs["group"].cat.codes),
        ],
    )
    def test_other_values_of_a_column_are_seen(self, many: AnnData, change: Callable[[Any], None]) -> None:
        watch = Watch(many)
        watch.note(*self.THINGS)
        change(many.obs)
        assert len(watch.changed()) == 1
