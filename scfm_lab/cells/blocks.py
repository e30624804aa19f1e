"""Cells in blocks: what is done to millions of counts, a cacheful at a time.

Whole arrays of all counts do not fit into a processor's cache, and every step over them
would run at the speed of memory. Digests and tokenisers therefore take some dozens of cells
through all their steps, then the next. numpy releases the interpreter in each step, so that blocks run
side by side in threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

BLOCK = 1 << 17
"""Counts of a block."""
_WORTH_THREADS = 1 << 18
_THREADS = 4


def blocks(lengths: NDArray[np.integer], size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """First and last cell (exclusive) of blocks that hold about `size` entries each, at least one cell."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + size, side="right")), first + 1)
        yield first, last
        first = last


def over_blocks(work: Callable[[int, int], Any], lengths: NDArray[np.integer], size: int = BLOCK) -> list[Any]:
    """``work(first, last)`` of every block, in order; side by side where there is enough to do."""
    # No cells at all are a block as well, so that there is something to join.
    spans = list(blocks(lengths, size)) or [(0, 0)]
    threads = min(_cores(), _THREADS, len(spans))
    if threads < 2 or int(np.sum(lengths)) < _WORTH_THREADS:
        return [work(first, last) for first, last in spans]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda span: work(*span), spans))


def _cores() -> int:
    # Whoever limits OpenMP's threads means all of them.
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
