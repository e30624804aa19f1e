"""One thread, jobs in order, and a way out of each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import Cancelled, DataError
from scfm_widgets import worker as worker_module
from scfm_widgets.worker import Job, Worker, abandonable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON = 10.0


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def worker(told: list[dict[str, Any]]) -> Iterator[Worker]:
    def report(job: Job) -> None:
        told.append(job.describe())

    made = Worker(report)
    yield made
    made.close()


class Gate:
    """Work that says when it has begun and waits until it is let go or told to stop."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, progress: Any, cancel: threading.Event) -> str:
        self.begun.set()
        while not self.go.wait(0.01):
            if cancel.is_set():
                raise Cancelled("stopped")
        return "done"


def quick(progress: Any, cancel: threading.Event) -> str:
    return "quick"


def test_jobs_run_one_after_the_other_in_order(worker: Worker) -> None:
    order: list[int] = []
    futures = [worker.submit("n", lambda p, c, n=n: order.append(n)) for n in range(20)]
    for future in futures:
        future.result(SOON)
    assert order == list(range(20))


def test_a_job_that_waits_is_replaced_by_a_newer_one_of_its_lane(worker: Worker) -> None:
    gate = Gate()
    running = worker.submit("a", gate, lane="slider")
    gate.begun.wait(SOON)
    waiting = [worker.submit("a", quick, lane="slider") for _ in range(5)]
    other = worker.submit("b", quick, lane="other")
    gate.go.set()
    assert running.result(SOON) == "done", "the one that runs is not touched"
    assert [future.cancelled() for future in waiting] == [True] * 4 + [False]
    assert waiting[-1].result(SOON) == other.result(SOON) == "quick"


def test_interrupt_stops_the_running_job_of_the_same_lane_only(worker: Worker) -> None:
    first, second = Gate(), Gate()
    one = worker.submit("a", first, lane="slider")
    first.begun.wait(SOON)
    worker.submit("a", second, lane="slider", interrupt=True)
    with pytest.raises(Cancelled):
        one.result(SOON)
    second.begun.wait(SOON)
    third = worker.submit("b", quick, lane="other", interrupt=True)
    second.go.set()
    assert third.result(SOON) == "quick"


def test_work_that_yields_goes_when_anything_else_comes(worker: Worker) -> None:
    running, waiting = Gate(), Gate()
    null = worker.submit("null", running, yields=True)
    running.begun.wait(SOON)
    worker.submit("perturb", waiting)
    with pytest.raises(Cancelled):
        null.result(SOON)
    later = worker.submit("null", quick, yields=True)
    worker.submit("perturb", quick)
    waiting.go.set()
    with pytest.raises(CancelledError):
        later.result(SOON)


class TestPutOff:
    def test_what_a_later_job_has_stopped_comes_again_when_nothing_else_waits(self, worker: Worker) -> None:
        order: list[str] = []
        running = Gate()

        def submit(work: Any) -> Any:
            def again() -> None:
                order.append("again")
                submit(lambda p, c: order.append("null"))

            return worker.submit("null", work, lane="null", yields=True, again=again)

        null = submit(running)
        running.begun.wait(SOON)
        other = Gate()
        worker.submit("plan", other)
        with pytest.raises(Cancelled):
            null.result(SOON)
        worker.submit("perturb", lambda p, c: order.append("perturb"))
        other.go.set()
        assert worker.wait(SOON)
        assert order == ["perturb", "again", "null"], "and to wait is to wait for it"

    def test_also_what_was_still_waiting(self, worker: Worker) -> None:
        order: list[str] = []
        gate = Gate()
        worker.submit("plan", gate)
        gate.begun.wait(SOON)
        worker.submit("null", quick, lane="null", yields=True, again=lambda: order.append("again"))
        worker.submit("perturb", lambda p, c: order.append("perturb"))
        gate.go.set()
        assert worker.wait(SOON)
        assert order == ["perturb", "again"]

    def test_not_what_a_newer_one_of_its_lane_replaces_or_a_person_stops(self, worker: Worker) -> None:
        order: list[str] = []
        first, second, gate = Gate(), Gate(), Gate()
        worker.submit("null", first, lane="null", yields=True, again=lambda: order.append("first"))
        first.begun.wait(SOON)
        newer = worker.submit("null", second, lane="null", yields=True, again=lambda: order.append("second"))
        second.begun.wait(SOON)
        worker.cancel()
        with pytest.raises(Cancelled):
            newer.result(SOON)
        worker.submit("plan", gate)
        gate.begun.wait(SOON)
        worker.submit("null", quick, lane="null", yields=True, again=lambda: order.append("third"))
        worker.submit("perturb", quick)
        worker.submit("null", quick, lane="null", yields=True, again=lambda: order.append("fourth"))
        gate.go.set()
        assert worker.wait(SOON)
        assert order == []


def test_cancel_stops_within_a_step_and_says_so(worker: Worker, told: list[dict[str, Any]]) -> None:
    gate = Gate()
    future = worker.submit("embed", gate, label="Running the model")
    gate.begun.wait(SOON)
    started = time.monotonic()
    worker.cancel()
    with pytest.raises(Cancelled):
        future.result(SOON)
    assert time.monotonic() - started < SOON / 2
    assert [job["status"] for job in told] == ["running", "cancelling", "cancelled"]


@pytest.mark.parametrize("fails", [False, True])
def test_that_a_job_is_being_stopped_is_told_before_its_end_and_is_no_condition_of_it(fails: bool) -> None:
    told: list[str] = []

    def report(job: Job) -> None:
        status = job.status
        if status == "cancelling":
            # Whoever tells it may be slow, or have nobody to tell.
            time.sleep(0.2)
            if fails:
                raise OSError("nobody listens")
        told.append(status)

    worker, gate = Worker(report), Gate()
    future = worker.submit("embed", gate)
    gate.begun.wait(SOON)
    with pytest.raises(OSError, match="nobody") if fails else nullcontext():
        worker.cancel()
    with pytest.raises(Cancelled):
        future.result(SOON)
    worker.close()
    assert told == ["running", *([] if fails else ["cancelling"]), "cancelled"]


def test_cancel_of_another_job_does_nothing(worker: Worker) -> None:
    gate = Gate()
    future = worker.submit("embed", gate)
    gate.begun.wait(SOON)
    worker.cancel(10_000)
    gate.go.set()
    assert future.result(SOON) == "done"


def test_an_error_is_the_futures_and_the_thread_goes_on(worker: Worker, told: list[dict[str, Any]]) -> None:
    def fails(progress: Any, cancel: Any) -> None:
        raise DataError("a sentence")

    with pytest.raises(DataError, match="a sentence"):
        worker.submit("x", fails).result(SOON)
    assert worker.submit("y", quick).result(SOON) == "quick"
    assert worker.wait(SOON)
    assert [job["status"] for job in told if job["kind"] == "x"] == ["running", "failed"]


def test_progress_is_told_with_rate_and_time_left_and_not_too_often(worker: Worker, told: list[dict[str, Any]]) -> None:
    def counts(progress: Any, cancel: Any) -> None:
        for done in range(1, 2001):
            progress(done, 4000, "cells")
        time.sleep(0.15)
        progress(2000, 4000)

    worker.submit("embed", counts).result(SOON)
    worker.wait(SOON)
    running = [job for job in told if job["done"] and job["status"] == "running"]
    assert len(running) < 20
    last = running[-1]
    assert (last["done"], last["total"], last["note"]) == (2000, 4000, "cells")
    # From the first report on, which has told of one cell; how fast exactly is asked below, by a clock that stands still.
    assert last["rate"] * last["seconds"] >= 1999
    assert last["rate"] * last["left"] == pytest.approx(2000)
    assert told[-1]["status"] == "done"


class TestRate:
    """How fast a job is, and how long it still takes, is told of the stage that is under way."""

    @pytest.fixture
    def told_at(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[float | None, float | None]]:
        """Tell a job that began at 100 s how far it is at a time; give its rate and the time left."""
        clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(worker_module, "time", clock)
        job = Job(1, "compare", "Comparing", quick, started=clock.now)

        def tell(
            at: float, done: int, total: int, *, unit: str = "cells", each: float = 1.0, label: str = ""
        ) -> tuple[float | None, float | None]:
            clock.now = at
            job.tell(done, total, "", unit=unit, each=each, label=label)
            described = job.describe()
            assert described["seconds"] == at - 100.0, "of the whole job, all the same"
            return described["rate"], described["left"]

        return tell

    def test_opening_the_model_slows_nothing(self, told_at: Callable[..., Any]) -> None:
        assert told_at(100, 0, 0) == (None, None)
        assert told_at(160, 0, 1000) == (None, None)
        assert told_at(170, 500, 1000) == (50.0, 10.0)
        assert told_at(190, 900, 1000) == (30.0, pytest.approx(100 / 30))

    @pytest.mark.parametrize(
        ("first", "total", "unit"),
        [
            pytest.param(0, 500, "cells", id="another total"),
            pytest.param(0, 1000, "cells", id="the second model of the same cells"),
            pytest.param(1000, 4000, "genes", id="another unit, and no less"),
        ],
    )
    def test_another_stage_is_counted_anew(
        self, told_at: Callable[..., Any], first: int, total: int, unit: str
    ) -> None:
        told_at(100, 0, 1000)
        assert told_at(101, 1000, 1000) == (1000.0, None)
        assert told_at(111, first, total, unit=unit) == (None, None), "nobody knows it yet"
        assert told_at(115, first + 20, total, unit=unit) == (5.0, (total - first - 20) / 5)

    def test_what_was_computed_before_is_not_counted_as_speed(self, told_at: Callable[..., Any]) -> None:
        assert told_at(120, 900, 1000, unit="genes × cells", each=700) == (None, None)
        assert told_at(130, 910, 1000, unit="genes × cells", each=700) == (700.0, 90.0)

    def test_what_has_another_name_is_another_stage_though_it_counts_as_many(self, told_at: Callable[..., Any]) -> None:
        told_at(100, 0, 6, label="Response curves")
        assert told_at(106, 3, 6, label="Response curves") == (0.5, 6.0)
        assert told_at(110, 3, 6, label="Comparable genes") == (None, None)
        assert told_at(111, 5, 6, label="Comparable genes") == (2.0, 0.5)


def test_a_stage_with_a_name_of_its_own_is_shown_by_it_at_once(worker: Worker, told: list[dict[str, Any]]) -> None:
    def work(progress: Any, cancel: Any) -> None:
        progress(0, 0, "opening the model")
        progress(1, 6, label="Response curves")
        # As soon after the last report as this, what is only a step would not be told.
        progress(2, 6, label="Response curves")
        progress(0, 20, label="Comparable genes")

    worker.submit("null", work, label="Response curves").result(SOON)
    worker.wait(SOON)
    names = [(job["label"], job["note"]) for job in told]
    assert ("Comparable genes", "") in [
        name for name, job in zip(names, told, strict=True) if job["status"] == "running"
    ]
    assert names[-1] == ("Comparable genes", "")


def test_a_quiet_job_is_not_shown_unless_it_takes_long(worker: Worker, told: list[dict[str, Any]]) -> None:
    worker.submit("perturb", quick, quiet=True).result(SOON)
    worker.wait(SOON)
    assert told == []


def test_a_quiet_job_that_never_says_how_far_it_is_is_shown_all_the_same(
    worker: Worker, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "QUIET_FOR", 0.01)
    gate = Gate()
    future = worker.submit("plan", gate, quiet=True)
    deadline = time.monotonic() + SOON
    while not told:
        assert time.monotonic() < deadline, "nobody could stop it"
        time.sleep(0.005)
    worker.cancel(told[0]["id"])
    with pytest.raises(Cancelled):
        future.result(SOON)
    assert worker.wait(SOON)
    assert [job["status"] for job in told] == ["running", "cancelling", "cancelled"]


def test_a_quiet_job_that_is_stopped_before_it_is_shown_is_not_left_stopping(
    worker: Worker, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "QUIET_FOR", 600.0)
    gate = Gate()
    future = worker.submit("plan", gate, quiet=True)
    gate.begun.wait(SOON)
    worker.cancel()
    with pytest.raises(Cancelled):
        future.result(SOON)
    assert worker.wait(SOON)
    assert [job["status"] for job in told] == ["cancelling", "cancelled"]


def test_wait_says_whether_it_was_enough(worker: Worker) -> None:
    gate = Gate()
    worker.submit("a", gate)
    assert not worker.wait(0.05)
    gate.go.set()
    assert worker.wait(SOON)


def test_close_drops_what_waits_and_stops_what_runs(worker: Worker) -> None:
    gate = Gate()
    running = worker.submit("a", gate)
    gate.begun.wait(SOON)
    waiting = worker.submit("b", quick)
    worker.close()
    with pytest.raises(Cancelled):
        running.result(SOON)
    assert waiting.cancelled()


def test_what_is_handed_in_after_the_end_is_refused_and_nobody_waits_for_it(worker: Worker) -> None:
    worker.close()
    with pytest.raises(DataError, match=r"This bench was closed, .* open a new one"):
        worker.submit("a", quick)
    assert worker.wait(SOON)


def test_what_would_come_again_after_the_end_does_not(worker: Worker) -> None:
    gate, ended = Gate(), threading.Event()

    def again() -> None:
        worker.close()
        try:
            worker.submit("a", quick)
        finally:
            ended.set()

    worker.submit("a", gate, yields=True, again=again)
    gate.begun.wait(SOON)
    worker.submit("b", quick)
    assert ended.wait(SOON)
    assert worker.wait(SOON)


class TestAbandonable:
    def test_gives_what_the_work_gives(self) -> None:
        assert abandonable(lambda: 42, threading.Event()) == 42

    def test_passes_an_error_on_even_one_that_looks_like_waiting(self) -> None:
        def fails() -> None:
            raise TimeoutError("the server's, not ours")

        with pytest.raises(TimeoutError, match="the server's"):
            abandonable(fails, threading.Event())

    def test_leaves_the_work_behind_when_cancelled(self) -> None:
        release, cancel = threading.Event(), threading.Event()
        threading.Timer(0.1, cancel.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            abandonable(lambda: release.wait(SOON), cancel)
        assert time.monotonic() - started < SOON / 2
        release.set()
