"""One background thread for the work of a bench, so that the notebook and the sliders stay free.

Jobs run one after the other. A job in a *lane* replaces those of its lane that still wait. Cancelling sets an event that the
work looks at between batches; what cannot look (somebody else's code that takes long) is run by :func:`abandonable`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from scfm_lab.errors import Cancelled, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Stopped(Cancelled):
    """A person has stopped it; where something else has come in between, it is a plain :class:`Cancelled`."""


#: Least time between two reports of a job's progress, in seconds.
REPORT_EVERY = 0.1
#: A quiet job is shown only once it has taken this long, in seconds.
QUIET_FOR = 1.0


@dataclass
class Job:
    """A piece of work, and how far it is.

    Attributes
    ----------
    kind, label
        What it is, for programs and for people.
    quiet
        Whether it is shown only if it takes long.
    yields
        Whether a job that is handed in later stops it (it can be done again).
    again
        See :meth:`Worker.submit`.
    put_off
        Whether it is a later job that has stopped it.
    by_hand
        Whether it is a person who has stopped it.
    of
        What it is done with, for whoever lists it; where only the work finds that out, what gives it once it has ended.
    unit, each
        What the rate counts, in words, and how many of them one step is.
    status
        ``"waiting"``, ``"running"``, ``"cancelling"``, ``"done"``, ``"cancelled"`` or ``"failed"``.
    done, total, note
        How far it is; a total of 0 where nobody knows.
    stage
        Since when the stage under way has counted, and from how many; ``None`` before it counts anything.
    """

    id: int
    kind: str
    label: str
    work: Callable[[Callable[..., None], threading.Event], Any]
    lane: str | None = None
    quiet: bool = False
    yields: bool = False
    again: Callable[[], None] | None = None
    put_off: bool = False
    by_hand: bool = False
    of: str | Callable[[], str] = ""
    unit: str = "cells"
    each: float = 1.0
    status: str = "waiting"
    done: int = 0
    total: int = 0
    note: str = ""
    stage: tuple[float, int] | None = None
    started: float = 0.0
    ended: float = 0.0
    cancel: threading.Event = field(default_factory=threading.Event)
    future: Future[Any] = field(default_factory=Future)
    reported: float = 0.0
    shown: threading.Timer | None = None

    def tell(self, done: int, total: int, note: str, *, unit: str, each: float, label: str = "") -> None:
        """Take down how far it is; where another stage begins, its speed is counted anew."""
        named = label not in ("", self.label)
        if self.stage is None or (total, unit) != (self.total, self.unit) or done < self.done or named:
            # Steps that a stage begins with were done before, or nobody knows how long they took.
            self.stage = (time.monotonic(), done)
        # What was said of another stage does not hold for one that has a name of its own.
        self.done, self.total, self.note = done, total, note or ("" if label else self.note)
        self.unit, self.each, self.label = unit, each, label or self.label

    def describe(self) -> dict[str, Any]:
        """Give what a progress bar shows, as plain values; rate in units per second, times in seconds."""
        now = self.ended or time.monotonic()
        seconds = now - self.started if self.started else 0.0
        since, before = self.stage or (now, 0)
        rate = (self.done - before) / (now - since) if self.done > before and now > since else None
        left = (self.total - self.done) / rate if rate and self.total > self.done else None
        return {
            "id": self.id,
            "kind": self.kind,
            "label": self.label,
            "status": self.status,
            "done": int(self.done),
            "total": int(self.total),
            "note": self.note,
            "rate": rate and rate * self.each,
            "unit": self.unit,
            "left": left,
            "seconds": seconds,
        }


class Worker:
    """Runs jobs in one daemon thread.

    Parameters
    ----------
    report
        Called with a job whenever there is something new to show of it; from the worker's thread.
    first
        Number of the first job.
    """

    def __init__(self, report: Callable[[Job], None], *, first: int = 1) -> None:
        self._report = report
        self._ids = itertools.count(first)
        self._waiting: deque[Job] = deque()
        self._put_off: list[Job] = []
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self,
        kind: str,
        work: Callable[[Callable[..., None], threading.Event], Any],
        *,
        label: str = "",
        lane: str | None = None,
        quiet: bool = False,
        yields: bool = False,
        interrupt: bool = False,
        again: Callable[[], None] | None = None,
        of: str | Callable[[], str] = "",
    ) -> Future[Any]:
        """Hand in a job.

        Parameters
        ----------
        kind, label
            What it is, for programs and for people.
        work
            Called as ``work(progress, cancel)``; ``progress(done, total, note="")`` shows how far it is, and `cancel` is a
            :class:`threading.Event` to look at. What it returns or raises is the future's. Where a step is no cell,
            ``progress(..., unit="genes × cells", each=700)`` says what the rate counts, and ``progress(..., label=...)`` gives
            a stage that is another thing to wait for a name of its own.
        lane
            Jobs of the same lane that still wait are dropped.
        quiet
            Show it only if it takes long.
        yields
            Let any later job stop this one.
        interrupt
            Stop the running job if it is of the same lane.
        again
            For a job that yields: called once nothing else is left to do, if a later job of another lane has stopped it. It
            may hand the work in again; it must return at once.
        of
            What it is done with, or what gives that once it has ended.

        Returns
        -------
        A future. It is cancelled if the job is dropped before it runs; it raises
        :class:`~scfm_lab.errors.Cancelled` if it is stopped while it runs, :class:`Stopped` if a person did it.

        Raises
        ------
        DataError
            The bench was closed: nobody would run it.
        """
        job = Job(next(self._ids), kind, label or kind, work, lane, quiet, yields, again, of=of)
        dropped: list[Job] = []
        with self._wake:
            if self._closed:
                message = (
                    "This bench was closed, by lab.close() or because the cell that had made it ran again; open a new one: "
                    "Lab(adata)."
                )
                raise DataError(message)
            # A newer job of the same lane takes the place of what was put off, too.
            self._put_off = [other for other in self._put_off if not lane or other.lane != lane]
            for other in [other for other in self._waiting if other.yields or (lane and other.lane == lane)]:
                self._waiting.remove(other)
                if not (lane and other.lane == lane):
                    self._put_off.append(other)
                dropped.append(other)
            running = self._running
            if running is not None and (running.yields or (interrupt and lane and running.lane == lane)):
                running.put_off = not (lane and running.lane == lane)
                running.cancel.set()
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="scfm-bench", daemon=True)
                self._thread.start()
            self._wake.notify_all()
        _drop(dropped)
        return job.future

    def cancel(self, job_id: int | None = None) -> None:
        """Stop the running job, or only if it is the one with this id."""
        with self._wake:
            job = self._running
            if job is None or (job_id is not None and job.id != job_id):
                return
            job.put_off, job.by_hand = False, True
            # One that has just ended, or was told before, has nothing new to say.
            runs = job.status == "running"
            if runs:
                # Its end is told too, even of one that nobody has seen so far.
                job.status, job.reported = "cancelling", time.monotonic()
        try:
            if runs:
                self._report(job)
        finally:
            # Only now: its end would be told first, and the bench would say for good that it is being stopped.
            job.cancel.set()

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        with self._wake:
            return self._running is not None or bool(self._waiting)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs and nothing waits; False where `timeout` seconds were not enough."""
        with self._wake:
            return self._wake.wait_for(lambda: self._running is None and not self._waiting, timeout)

    def close(self) -> None:
        """Drop what waits, stop what runs, and end the thread."""
        with self._wake:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            self._put_off.clear()
            if self._running is not None:
                self._running.cancel.set()
            self._wake.notify_all()
        _drop(dropped)

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            self._run(job)
            # Until it has come again it counts as running: whoever waits, waits for that too.
            self._resume()
            with self._wake:
                self._running = None
                self._wake.notify_all()

    def _resume(self) -> None:
        """Where nothing waits any more, let what was put off come again."""
        with self._wake:
            if self._waiting or self._closed:
                return
            put_off, self._put_off = self._put_off, []
        for job in put_off:
            if job.again is not None:
                # The bench may be closed meanwhile, and nobody waits for it then.
                with suppress(DataError):
                    job.again()

    def _run(self, job: Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        job.started, job.status = time.monotonic(), "running"
        self._show(job)

        def progress(
            done: int, total: int, note: str = "", *, unit: str = "cells", each: float = 1.0, label: str = ""
        ) -> None:
            before = job.label
            job.tell(done, total, note, unit=unit, each=each, label=label)
            if job.label != before or time.monotonic() - job.reported >= REPORT_EVERY:
                self._show(job)

        if job.quiet:
            # Not all work says how far it is, and only what is shown can be stopped.
            job.shown = threading.Timer(QUIET_FOR, self._show_unseen, [job])
            job.shown.daemon = True
            job.shown.start()
        try:
            outcome = job.work(progress, job.cancel)
        except Cancelled as error:
            job.note = str(error)
            if job.put_off:
                with self._wake:
                    self._put_off.append(job)
            self._end(job, "cancelled")
            job.future.set_exception(Stopped(job.note) if job.by_hand else error)
        # Whatever the work raises belongs to whoever waits for it, and the thread goes on to the next job.
        except BaseException as error:  # noqa: BLE001
            self._end(job, "failed")
            job.future.set_exception(error)
        else:
            self._end(job, "done")
            job.future.set_result(outcome)

    def _end(self, job: Job, status: str) -> None:
        if job.shown is not None:
            job.shown.cancel()
            # What it may be telling just now is told before the end, and not after it.
            job.shown.join()
        with self._wake:
            job.ended, job.status = time.monotonic(), status
            if status == "done":
                job.done = job.total
        if not job.quiet or job.reported:
            self._report(job)

    def _show(self, job: Job) -> None:
        if job.quiet and time.monotonic() - job.started < QUIET_FOR:
            return
        self._show_at_last(job)

    def _show_unseen(self, job: Job) -> None:
        if not job.reported:
            self._show_at_last(job)

    def _show_at_last(self, job: Job) -> None:
        job.reported = time.monotonic()
        self._report(job)


def _drop(jobs: list[Job]) -> None:
    """Tell whoever waits for jobs that they will not run; with no lock held, as that calls what others have left to be called."""
    for job in jobs:
        job.future.cancel()


def abandonable(work: Callable[[], T], cancel: threading.Event, *, every: float = 0.05) -> T:
    """Run what cannot be stopped, and leave it behind when `cancel` is set.

    Parameters
    ----------
    work
        Must only compute and return: where it is left behind it still runs to its end, and nobody takes what it returns.
    cancel
        Looked at every `every` seconds.

    Raises
    ------
    Cancelled
        `cancel` was set before `work` came to its end.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        # Passed on to whoever waits.
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run, name="scfm-bench-step", daemon=True).start()
    while True:
        try:
            return future.result(timeout=every)
        except TimeoutError:
            # The work may raise one too, and that is its own.
            if future.done():
                raise
        if cancel.is_set():
            message = "Stopped; nothing was written."
            raise Cancelled(message)


def outcome(future: Future[Any]) -> BaseException | None:
    """What went wrong with a future that is done; ``None`` where nothing did or it was dropped."""
    try:
        return future.exception(timeout=0)
    except CancelledError:
        return None
