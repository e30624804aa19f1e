"""One way to show progress, whoever is looking: a bar, a callable, or nothing."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def as_progress(
    progress: bool | Callable[..., None], description: str, *, unit: str = "cells"
) -> Iterator[Callable[..., None] | None]:
    """A callable ``(done, total)`` that shows how far the work is.

    A bar is drawn in notebooks and terminals only, so that logs stay readable.
    """
    if callable(progress):
        yield progress
        return
    if not progress or not somebody_looks():
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=description, unit=f" {unit}", leave=False) as bar:

        def report(done: int, total: int, *_: Any) -> None:
            if bar.total is None:
                # A notebook's bar is as wide as a letter until it is told how much there is.
                bar.reset(total)
                # What was finished before says nothing about the speed of now.
                bar.initial = bar.n = done
            bar.total = total
            bar.update(done - bar.n)

        yield report


def somebody_looks() -> bool:
    """Whether the work is done in a notebook or at a terminal."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
