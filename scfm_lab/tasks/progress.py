"""One way to show progress, whoever is looking: a bar, a callable, or nothing."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
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
    with _bar(description, unit) as bar:

        def report(done: int, total: int, *_: Any) -> None:
            if bar.total is None:
                # A notebook's bar is as wide as a letter until it is told how much there is.
                bar.reset(total)
                # What was finished before says nothing about the speed of now.
                bar.initial = bar.n = done
            bar.total = total
            bar.update(done - bar.n)

        yield report


@contextlib.contextmanager
def _bar(description: str, unit: str) -> Iterator[Any]:
    """A bar that is there while the work is done; of work that has failed a line says how far it came."""
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    how: dict[str, Any] = {"desc": description, "unit": f" {unit}", "leave": False}
    if not issubclass(tqdm, tqdm_notebook):
        with tqdm(**how) as bar:
            yield bar
        return
    # IPython is there where notebooks are, and nothing else here needs it.
    display: Any = import_module("IPython.display").display
    # A notebook keeps what was displayed first, as text too, and that said "0 cells" for ever.
    with tqdm(**how, display=False) as bar:
        handle = display(bar.container, display_id=True)
        left = ""
        try:
            yield bar
        except BaseException:
            if bar.total:
                left = f"{description}: {bar.n:,} of {bar.total:,} {unit}"
            raise
        finally:
            if handle is not None:
                handle.update({"text/plain": left} if left else {"text/plain": "", "text/html": ""}, raw=True)


def somebody_looks() -> bool:
    """Whether the work is done in a notebook or at a terminal."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
