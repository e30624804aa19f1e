"""Many perturbations of the same cells: only what changes is computed, and packed into full batches.

The unperturbed cells were encoded once (:class:`~scfm_lab.tasks.baseline.Baseline`). Of each perturbation only the cells
whose counts change are made, and the cells of many perturbations go through the model together.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.dose import changed_counts, count_changes, is_random
from scfm_lab.errors import Cancelled
from scfm_lab.tasks.readouts import Moved, Readout, Shift

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.tasks.baseline import Baseline

_FIRST, _FEWEST, _MOST = 256, 32, 8192
_SECONDS = 1.0
"""Time of a block: what is lost when a run is killed, and how often it can be cancelled."""


@dataclass(frozen=True)
class Question:
    """One perturbation: columns with their doses and levels, and the cells on which it is asked."""

    doses: Mapping[int, float]
    set_to: Mapping[int, float] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None
    """Sorted; None: all cells."""
    name: str = ""

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the genes that are changed."""
        return tuple(sorted({*self.doses, *self.set_to}))

    @property
    def random(self) -> bool:
        """Whether it needs draws."""
        return is_random(self.doses) or bool(self.set_to)

    def cost(self, cells: Cells, draws: int) -> int:
        """Cells that are computed, at most."""
        rows = np.arange(len(cells)) if self.rows is None else self.rows
        if self.set_to or any(d > 1 for d in self.doses.values()):
            return len(rows) * draws
        some = cells.by_gene[:, list(self.columns)]
        changed = np.unique(some.indices)
        n = len(changed) if self.rows is None else len(np.intersect1d(changed, rows, assume_unique=True))
        return n * (draws if self.random else 1)


@dataclass(frozen=True)
class Effect:
    """Effects on the cells that change; all others have an effect of exactly 0."""

    rows: NDArray[np.int64]
    """Sorted."""
    values: NDArray[np.float32]
    """Mean over the draws, (read-outs, rows); a read-out of several numbers takes as many."""

    def over(self, rows: NDArray[np.int64], readout: int) -> NDArray[np.float32]:
        """One read-out over some cells; 0 in those that do not change."""
        out = np.zeros(len(rows), dtype=np.float32)
        place = np.searchsorted(self.rows, rows)
        there = place < len(self.rows)
        there[there] = self.rows[place[there]] == rows[there]
        out[there] = self.values[readout, place[there]]
        return out


@dataclass
class _Running:
    """A question whose cells are on their way through the model."""

    number: int
    question: Question
    draws: int
    left: int
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)

    def effect(self, n_readouts: int) -> Effect:
        if not self.rows:
            return Effect(np.empty(0, np.int64), np.empty((n_readouts, 0), np.float32))
        rows, place = np.unique(np.concatenate(self.rows), return_inverse=True)
        values = np.concatenate(self.values, axis=1)
        # In a draw that leaves a cell as it is the effect is 0.
        sums = np.array([np.bincount(place, weights=v, minlength=len(rows)) for v in values])
        return Effect(rows, (sums / self.draws).astype(np.float32))


@dataclass(frozen=True)
class _Piece:
    """Cells of one question and draw that wait for the model."""

    run: _Running
    rows: NDArray[np.int64]
    change: csr_matrix


def sweep(
    lab: Baseline,
    questions: Iterable[Question],
    *,
    readouts: Sequence[Readout] = (),
    draws: int = 1,
    cancel: Any = None,
) -> Iterator[list[tuple[int, Effect]]]:
    """Answer many questions about the same cells.

    Parameters
    ----------
    readouts
        What is read off; none: the shift.
    draws
        Draws over which doses other than 0 and 1 are averaged.

    Yields
    ------
    list of (number, Effect)
        Block by block, the questions that it completed; a block takes about a second, or the cells of one question.

    Raises
    ------
    Cancelled
        If `cancel` was set.
    """
    readouts = list(readouts) or [Shift()]
    numbers = sum(readout.size for readout in readouts)
    codes = None if lab.groups is None else np.unique(lab.groups, return_inverse=True)[1]
    waiting: deque[_Piece] = deque()
    size, pending = _FIRST, 0
    finished: list[tuple[int, Effect]] = []

    def flush(limit: int) -> None:
        nonlocal pending
        taken = 0
        block = []
        while waiting and taken < limit:
            piece = waiting.popleft()
            room = limit - taken
            if len(piece.rows) > room:
                waiting.appendleft(_Piece(piece.run, piece.rows[room:], piece.change[room:]))
                piece = _Piece(piece.run, piece.rows[:room], piece.change[:room])
            taken += len(piece.rows)
            block.append(piece)
        pending -= taken
        for run in _compute(lab, block, readouts, cancel):
            finished.append((run.number, run.effect(numbers)))

    for number, question in enumerate(questions):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped; what was finished is kept.")
        pieces = _pieces(lab, number, question, draws, codes)
        if not pieces:
            empty = _Running(number, question, 1, 0)
            finished.append((number, empty.effect(numbers)))
        waiting.extend(pieces)
        pending += sum(len(p.rows) for p in pieces)
        while pending >= size:
            started = time.perf_counter()
            flush(size)
            speed = size / max(time.perf_counter() - started, 1e-6)
            size = int(np.clip(speed * _SECONDS, _FEWEST, _MOST))
            yield finished
            finished = []
    while pending:
        flush(size)
        yield finished
        finished = []
    if finished:
        yield finished


def effects(
    lab: Baseline,
    questions: Sequence[Question],
    *,
    readouts: Sequence[Readout] = (),
    draws: int = 1,
    progress: Any = None,
    cancel: Any = None,
) -> list[Effect]:
    """All answers of :func:`sweep`, in the order of the questions; progress is told in questions."""
    found: list[Effect | None] = [None] * len(questions)
    done = 0
    for block in sweep(lab, questions, readouts=readouts, draws=draws, cancel=cancel):
        for number, effect in block:
            found[number] = effect
        done += len(block)
        if progress is not None:
            progress(done, len(questions))
    return [effect for effect in found if effect is not None]


def _pieces(
    lab: Baseline, number: int, question: Question, draws: int, codes: NDArray[np.int64] | None
) -> list[_Piece]:
    draws = draws if question.random else 1
    pieces = []
    run = _Running(number, question, draws, 0)
    for draw in range(draws):
        change = count_changes(
            lab.cells, question.doses, groups=codes, set_to=question.set_to, seed=lab.seed, draw=draw
        )
        rows = np.flatnonzero(np.diff(change.indptr))
        if question.rows is not None:
            rows = np.intersect1d(rows, question.rows, assume_unique=True)
        # A cell that the model cannot see before has no effect to measure.
        rows = rows[lab.seen[rows]]
        if len(rows):
            run.left += len(rows)
            pieces.append(_Piece(run, rows, change[rows]))
    return pieces


def _compute(lab: Baseline, block: list[_Piece], readouts: Sequence[Readout], cancel: Any) -> list[_Running]:
    """Run one block through the model; the questions that it completes."""
    from scipy import sparse

    rows = np.concatenate([piece.rows for piece in block])
    some = lab.cells.take(rows)
    counts = changed_counts(some.counts, sparse.vstack([piece.change for piece in block], format="csr"))
    copies = some.with_counts(counts)
    tokens = None
    if any(readout.reads_tokens for readout in readouts):
        tokens = lab.model.tokenize(copies, options=lab.options, seed=lab.seed)
    after = lab.vectors(copies, tokens=tokens, cancel=cancel)
    lengths = [len(piece.rows) for piece in block]
    moved = Moved(
        rows=rows,
        before=lab.baseline[rows],
        after=after,
        tokens=tokens,
        of=np.repeat(np.arange(len(block)), lengths),
        columns=[piece.run.question.columns for piece in block],
    )
    values = np.vstack([readout.values(moved) for readout in readouts]).astype(np.float32, copy=False)
    done = []
    for piece, part in zip(block, np.split(values, np.cumsum(lengths)[:-1], axis=1), strict=True):
        piece.run.rows.append(piece.rows)
        piece.run.values.append(part)
        piece.run.left -= len(piece.rows)
        if piece.run.left == 0:
            done.append(piece.run)
    return done
