"""Searching a registry of thousands of versions: a page at a time, so that nothing fetches everything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_registry.store.facade import Store
    from scfm_registry.version import Record

#: Most versions that MLflow gives at once.
MOST = 1_000


@dataclass(frozen=True)
class Mark:
    """Where a page ended: how many versions were read, and the last of them."""

    read: int
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.read}:{self.version}:{self.name}"

    @classmethod
    def parse(cls, page: str) -> Mark:
        """Read what a search gave as ``next``."""
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9}):(.+)", page, re.ASCII) if isinstance(page, str) else None
        if match is None:
            raise ModelError(f"page={page!r} was not given by a search; take the `next` of the page before.")
        return cls(int(match[1]), match[3], int(match[2]))


def read(
    store: Store, tags: Mapping[str, str], limit: int, page: str | None, *, whole_models: bool
) -> tuple[list[Record], str | None]:
    """Read the next versions, by name and newest first.

    Parameters
    ----------
    store
        Where from.
    tags
        All must be equal.
    limit
        How many to read.
    page
        What the page before gave; ``None`` begins.
    whole_models
        Read on to the end of the last model, so that all its versions are on one page.

    Returns
    -------
    records, next
        `next` is what to give as `page`, or ``None`` at the end.

    Raises
    ------
    ModelError
        `limit` or `page` is none.
    """
    if not isinstance(limit, int) or not 1 <= limit <= MOST:
        message = f"limit={limit!r} is not a number of versions from 1 to {MOST}."
        raise ModelError(message)
    after = None if page is None else Mark.parse(page)
    begin = after.read if after else 0
    # One more than asked for: it says whether the last model goes on.
    found = store.page(tags, after, limit + 1)
    more = len(found) > limit
    if not more:
        return found, None
    end = limit
    while whole_models and end < len(found) and found[end].name == found[end - 1].name:
        end += 1
        if end == len(found):
            found += store.page(tags, Mark(begin + end, found[-1].name, found[-1].version), limit)
    last = found[end - 1]
    return found[:end], str(Mark(begin + end, last.name, last.version)) if end < len(found) else None
