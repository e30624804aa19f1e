"""Tags that mean something only together: whoever reads a version sees all of them as they were, or all as they are now.

A database that is opened directly sets them in one transaction. A server sets them one by one; there they are first written down
whole, in one tag, which counts from then on, whether the others are there yet or not.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scfm_registry.store.facade import Store
    from scfm_registry.version import Record

#: Tag that holds those that are just being set, as JSON.
UNFINISHED = "scfm.unfinished"
#: What can be set so: what a measurement or a certificate tells. No search of ours asks for these.
_PREFIXES = tuple(f"scfm.{what}." for what in ("certificate", "device", "dtype", "fits", "mem", "speed"))


def settled(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a version with those that are just being set.

    Examples
    --------
    >>> settled({"scfm.mem.cpu.peak_mib": "400", "scfm.unfinished": '{"scfm.mem.cpu.peak_mib": "500"}'})
    {'scfm.mem.cpu.peak_mib': '500'}
    """
    if UNFINISHED not in tags:
        return dict(tags)
    return {key: value for key, value in tags.items() if key != UNFINISHED} | _unfinished(tags)


@contextmanager
def alone(store: Store, record: Record) -> Iterator[Record]:
    """Give a version as it is now, while nobody else writes such tags of it.

    Raises
    ------
    StorageError
        Somebody does, for too long.
    """
    with store.exclusive(f"{record.name}.{record.version}.tags") as sure:
        current = store.record(record.name, record.version) or record
        sure()
        yield current


def write(store: Store, record: Record, tags: Mapping[str, str]) -> None:
    """Set tags of a version; what an earlier process did not get to is set first.

    Parameters
    ----------
    store
        Where.
    record
        The version, from :func:`alone`.
    tags
        About hardware, or of a certificate.

    Raises
    ------
    ModelError
        A value is no line of text.
    StorageError
        The server or the disk refuses.
    """
    left = _unfinished(record.tags)
    if store.place.embedded:
        store.set_tags(record, {**left, **tags, **({UNFINISHED: ""} if UNFINISHED in record.tags else {})})
    else:
        store.set_tags(record, left)
        store.set_tags(record, {UNFINISHED: json.dumps(dict(tags), separators=(",", ":"))})
        store.set_tags(record, tags)
    if UNFINISHED in record.tags or not store.place.embedded:
        store.drop_tags(record, [UNFINISHED])


def _unfinished(tags: Mapping[str, str]) -> dict[str, str]:
    """What is just being set. Whoever may write tags can write anything there, as into the tags themselves."""
    from scfm_registry.version import is_line

    try:
        told = json.loads(tags.get(UNFINISHED) or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {key: value for key, value in told.items() if key.startswith(_PREFIXES) and is_line(value)}
