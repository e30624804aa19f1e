"""Cells through a model a chunk at a time: read, tokenised and computed within a bounded memory.

The next chunk is read and tokenised in a thread while the network computes the one before.
Vectors that are in the cache are taken from there; what is finished is kept in the run's
folder, where there is one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.audit import Tally
from scfm_lab.errors import Cancelled
from scfm_lab.inference.cache import Found, cell_digests
from scfm_lab.inference.hardware import give_back_memory
from scfm_lab.inference.shards import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Match
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.cache import VectorCache
    from scfm_lab.inference.precision import Precision
    from scfm_lab.inference.shards import RunFolder
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Request, States, Tokens

_LOOK_EVERY = 0.05
_STOPPED = "Stopped; nothing was written."
_STOPPED_KEPT = "Stopped; nothing was written to the AnnData, and the same call goes on where it stopped."


@dataclass(frozen=True)
class Job:
    """What is asked for each cell: everything that decides its vector, and where cells come from."""

    model: Model
    reader: CellReader
    match: Match
    options: Mapping[str, Any]
    request: Request
    seed: int = 0
    precision: Precision | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    """Tokens of a batch; None: what the device takes."""


@dataclass(frozen=True)
class Prepared:
    """A chunk, read and tokenised."""

    start: int
    stop: int
    tally: Tally
    tokens: Tokens | None
    """Of the cells whose vectors are not known yet; None where all are."""
    rows: NDArray[np.int64]
    """Places of those cells in the chunk."""
    digests: NDArray[Any] | None
    found: Found | None


def prepare(job: Job, start: int, stop: int, cache: VectorCache | None = None) -> Prepared:
    """Read and tokenise the cells `start` to `stop`."""
    whole = start == 0 and stop == len(job.reader)
    cells = job.reader(None if whole else slice(start, stop))
    tally = Tally.of(cells, job.match)
    digests = None if cache is None else cell_digests(cells)
    found = None if cache is None or digests is None else cache.get(digests)
    rows = np.arange(len(cells)) if found is None else np.flatnonzero(~found.there)
    tokens = None
    if len(rows):
        part = cells if len(rows) == len(cells) else cells.take(rows)
        tokens = job.model.tokenize(part, options=job.options, seed=job.seed)
    return Prepared(start, stop, tally, tokens, rows, digests, found)


def compute(
    job: Job,
    chunk: Prepared,
    cache: VectorCache | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: Any = None,
) -> Part:
    """Vectors of a prepared chunk."""
    n = chunk.stop - chunk.start
    known = n - len(chunk.rows)
    if chunk.tokens is None:
        found = chunk.found
        assert found is not None
        if progress is not None:
            progress(n, n)
        return Part(chunk.start, chunk.stop, found.vectors, dict(found.cell), chunk.tally, n)
    states = _encode(
        job,
        chunk.tokens,
        progress=None if progress is None else lambda done, _total: progress(known + done, n),
        cancel=cancel,
    )
    vectors, cell = states.cell, {k: np.asarray(v) for k, v in chunk.tokens.cell.items()}
    if cache is not None and chunk.digests is not None:
        cache.put(chunk.digests[chunk.rows], vectors, cell)
    if known and chunk.found is not None:
        vectors, cell = _merged(chunk.found, chunk.rows, vectors, cell)
    return Part(chunk.start, chunk.stop, vectors, cell, chunk.tally, known)


def _encode(job: Job, tokens: Tokens, **kwargs: Any) -> States:
    from scfm_lab.inference.engine import tokens_at_once

    with tokens_at_once(job.batch_tokens):
        return job.model.encode(
            tokens,
            hidden_layer=job.request.hidden_layer,
            pooling=job.request.pooling,
            precision=job.precision,
            batch_size=job.batch_size,
            **kwargs,
        )


def _merged(
    found: Found, rows: NDArray[np.int64], vectors: NDArray[np.float32], cell: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Vectors and fields of a whole chunk from those that were known and those that were computed."""

    def merge(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        out = np.empty((len(found.there), *old.shape[1:]), dtype=old.dtype)
        out[found.there], out[rows] = old, new
        return out

    width = found.vectors.shape[1]
    if vectors.shape[1] != width:  # none of the new cells can be seen
        vectors = np.full((len(vectors), width), np.nan, dtype=np.float32)
    return merge(found.vectors, vectors), {k: merge(v, cell[k]) for k, v in found.cell.items() if k in cell}


@dataclass
class Collected:
    """All parts put together."""

    n: int
    width: int
    """Of the vectors, where no cell tells."""
    vectors: NDArray[np.float32] | None = None
    cell: dict[str, NDArray[Any]] = field(default_factory=dict)
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """What the audit counts, of all cells."""
    cached: int = 0
    resumed: int = 0
    filled: int = 0
    make: Callable[[int, int], Any] | None = None
    """Makes the array of the vectors (cells, width); None: in memory."""

    def add(self, part: Part) -> None:
        """Take a part."""
        rows = slice(part.start, part.stop)
        if self.vectors is None and np.isfinite(part.vectors).any():
            self._begin(part.vectors.shape[1])
        if self.vectors is not None and self.vectors.shape[1] == part.vectors.shape[1]:
            self.vectors[rows] = part.vectors
        for name, values in part.cell.items():
            if name not in self.cell:
                self.cell[name] = np.zeros((self.n, *values.shape[1:]), dtype=values.dtype)
            self.cell[name][rows] = values
        for name in ("seen", "kept", "total"):
            self.sums.setdefault(name, np.zeros(self.n))[rows] = getattr(part.tally, name)
        self.sums["per_gene"] = self.sums.get("per_gene", 0) + part.tally.per_gene
        self.cached += part.cached
        self.filled += part.stop - part.start

    def finish(self) -> NDArray[np.float32]:
        """The vectors, NaN for cells that cannot be seen."""
        if self.vectors is None:
            self._begin(self.width)
        assert self.vectors is not None
        return self.vectors

    @property
    def tally(self) -> Tally:
        """Of all cells."""
        return Tally(**self.sums)

    def _begin(self, width: int) -> None:
        if self.make is not None:
            self.vectors = self.make(self.n, width)
        else:
            self.vectors = np.full((self.n, width), np.nan, dtype=np.float32)


def joined(parts: Sequence[Part], width: int) -> Part:
    """Neighbouring parts as one; `width` of the vectors, where no cell tells."""
    if len(parts) == 1:
        return parts[0]
    start, stop = parts[0].start, parts[-1].stop
    whole = Collected(stop - start, width)
    for part in parts:
        whole.add(replace(part, start=part.start - start, stop=part.stop - start))
    return Part(start, stop, whole.finish(), whole.cell, whole.tally, whole.cached)


def chunks(n: int, rows: int) -> list[tuple[int, int]]:
    """All cells, `rows` at a time."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def run(
    job: Job,
    spans: Iterable[tuple[int, int]],
    *,
    total: int,
    done: int = 0,
    cache: VectorCache | None = None,
    folder: RunFolder | None = None,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> Iterator[Part]:
    """Work through chunks, the next being prepared while one is computed.

    Parameters
    ----------
    spans
        First and last row (exclusive) of each chunk.
    total
        All cells, for `progress`.
    done
        Cells that are finished already.
    folder
        Where parts are kept as they come.

    Raises
    ------
    Cancelled
        If `cancel` was set, within one batch.
    """
    todo = list(spans)
    if progress is not None:
        progress(done, total)
    # Without anything to overlap, and nobody who might want to stop it, no thread is needed.
    threaded = len(todo) > 1 or (cancel is not None and todo)
    pool = ThreadPoolExecutor(1, thread_name_prefix="scfm-prepare") if threaded else None
    ahead: Future[Prepared] | None = None if pool is None else pool.submit(prepare, job, *todo[0], cache)
    try:
        for i, (start, stop) in enumerate(todo):
            if cancel is not None and cancel.is_set():
                raise Cancelled(_STOPPED)
            chunk = prepare(job, start, stop, cache) if ahead is None else _wait(ahead, cancel)
            # One chunk ahead and no more: that is what the memory was planned for.
            ahead = None if pool is None or i + 1 == len(todo) else pool.submit(prepare, job, *todo[i + 1], cache)
            before = done

            def report(now: int, _n: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + now, total)

            part = compute(job, chunk, cache, progress=report, cancel=cancel)
            del chunk
            done += stop - start
            if folder is not None:
                folder.write(part)
            if len(todo) > 1:
                give_back_memory()
            yield part
    except Cancelled as error:
        raise Cancelled(_STOPPED if folder is None else _STOPPED_KEPT) from error
    finally:
        if pool is not None:
            if ahead is not None:
                ahead.cancel()
            pool.shutdown(wait=False, cancel_futures=True)


def _wait(future: Future[Prepared], cancel: Any) -> Prepared:
    while cancel is not None and not wait([future], timeout=_LOOK_EVERY).done:
        if cancel.is_set():
            raise Cancelled(_STOPPED)
    return future.result()
