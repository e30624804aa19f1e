"""Searching a registry of thousands of versions: a page at a time, so that nothing fetches everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_registry.store.facade import Store
    from scfm_registry.version import Record

#: Most versions that MLflow gives at once.
MOST = 1_000


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
    if page is not None and not (isinstance(page, str) and page.isascii() and page.isdigit() and len(page) < 10):
        message = f"page={page!r} was not given by a search; take the `next` of the page before."
        raise ModelError(message)
    begin = int(page or 0)
    # One more than asked for: it says whether the last model goes on.
    found = store.page(tags, begin, limit + 1)
    more = len(found) > limit
    if not more:
        return found, None
    end = limit
    while whole_models and end < len(found) and found[end].name == found[end - 1].name:
        end += 1
        if end == len(found):
            found += store.page(tags, begin + end, limit)
    return found[:end], str(begin + end) if end < len(found) else None
