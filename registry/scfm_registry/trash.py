"""Versions that were deleted: out of sight, and back on request, until they are purged.

MLflow's own deletion cannot be undone, so a deleted version stays where it is and carries a tag; the registry passes over
versions with that tag. Purging is MLflow's deletion, with the files.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_registry import builtin, files, names, version
from scfm_registry.lineage import PARENT, children_of
from scfm_registry.version import BECAUSE, TRASHED, Versions

if TYPE_CHECKING:
    from scfm_registry.store.facade import Store
    from scfm_registry.version import ModelVersion, Record

_LONGEST = 500


def delete(store: Store, found: ModelVersion, record: Record, because: str, *, force: bool) -> ModelVersion:
    """Put a version into the trash; see :meth:`scfm_registry.Registry.delete`."""
    if found.origin == builtin.ORIGIN:
        message = f"{found.reference} comes with scfm-lab and would come back; it cannot be deleted."
        raise ModelError(message)
    if found.aliases and not force:
        message = (
            f"{found.reference} is {' and '.join(repr(alias) for alias in found.aliases)}: whoever asks for "
            f"'{found.name}@{found.aliases[0]}' would find nothing. Promote another version first, or delete it with force."
        )
        raise ModelError(message)
    if len(because) > _LONGEST or not because.isprintable():
        message = f"A reason is one line of at most {_LONGEST} printable characters; this one has {len(because)}."
        raise ModelError(message)
    # Aliases go first: whatever ends this in between, none of them leads into the trash.
    for alias in found.aliases:
        with store.exclusive(f"{found.name}.{alias}") as sure:
            holder = store.record_by_alias(found.name, alias)
            if holder is not None and holder.version == found.version:
                sure()
                store.drop_alias(found.name, alias)
    now = datetime.now(tz=UTC).isoformat(timespec="seconds")
    store.set_tags(record, {TRASHED: now, **({BECAUSE: because} if because else {})})
    return found


def listed(store: Store, name: str | None = None) -> Versions:
    """What is in the trash."""
    records = store.records(name)
    return Versions(found for record in records if (found := version.read(record, trashed=True)) is not None)


def restore(store: Store, reference: str) -> Record:
    """Take a version out of the trash; its aliases stay with whoever has them now."""
    record = _trashed(store, reference)
    store.drop_tags(record, [key for key in (TRASHED, BECAUSE) if key in record.tags])
    return record


def purge(store: Store, reference: str) -> tuple[Record, str]:
    """Delete a version that is in the trash, and its files, for good; the second says why files stay, and is empty where none do."""
    record = _trashed(store, reference)
    digest = record.tags["scfm.digest"]
    others = [
        item
        for item in store.records(tags={"scfm.digest": digest})
        if (item.name, item.version) != (record.name, record.version)
    ]
    children = children_of(store.records(tags={PARENT: digest}), digest)
    if children and not others:
        message = (
            f"{reference} cannot be deleted for good: {', '.join(children)} {'was' if len(children) == 1 else 'were'} made from "
            "it and cannot be opened without it. Purge those first, or leave it in the trash."
        )
        raise ModelError(message)
    stays = store.remove(record)
    files.forget(digest)
    return record, stays


def _trashed(store: Store, reference: str) -> Record:
    asked = names.parse(reference)
    if asked.version is None:
        message = f"'{reference}' does not say which version; write its number, as in '{asked.name}/1'."
        raise ModelError(message)
    record = store.record(asked.name, asked.version)
    if record is None or version.read(record, trashed=True) is None:
        there = ", ".join(item.reference for item in listed(store))
        message = f"{reference} is not in the trash; {f'there are: {there}' if there else 'it is empty'}."
        raise ModelError(message)
    return record
