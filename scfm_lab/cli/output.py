"""What commands say: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def say(text: str, data: Any, *, as_json: bool) -> None:
    """Print a result: `text` for people, or `data` as one JSON object."""
    click.echo(json.dumps(plain(data), indent=2, ensure_ascii=False) if as_json else harmless(text))


def harmless(text: str) -> str:
    """Write a text so that a terminal shows it and does nothing else: names of files and a server's words may be anybody's."""
    lines = text.replace("\r\n", "\n")
    return "".join("·" if unicodedata.category(letter) == "Cc" and letter not in "\n\t" else letter for letter in lines)


def plain(value: Any) -> Any:
    """Turn numpy and pandas values, paths and sets into what JSON knows; what is not a number becomes ``null``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


@contextmanager
def progress_bar(wanted: bool | None, label: str) -> Iterator[Callable[..., None] | None]:
    """Give a progress callback ``(done, total, note="")`` that draws on standard error, or ``None``.

    Parameters
    ----------
    wanted
        ``True`` or ``False``; ``None`` means: only if standard error is a terminal, so that logs stay clean.
    label
        What stands before the bar.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(desc=label, file=sys.stderr, dynamic_ncols=True)

    def show(done: int, total: int, note: str = "") -> None:
        if bar.total is None:
            # What was finished before says nothing about the speed of now.
            bar.initial = bar.n = done
            bar.total = total
        if total != bar.total:
            # A new stage with another amount of work starts its own count.
            bar.reset(total=total)
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()
