"""Who did what, when, to which version: lines that are only added, chained by their hashes.

Each line holds the hashes of the lines that were the last when it was written, and its own. A line that is changed no longer
has its hash, and one that is taken away is missed by those that came after it. The last line about a model is also noted at
the model itself, so that cutting off the end is noticed too. Two people on a server may write at once: then two lines follow
the same one, and the next follows both.

What this is worth: it shows changes, it does not prevent them. Whoever may write everything in the registry could write the
whole trail anew; against that, keep :attr:`Trail.head` somewhere else from time to time.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError
from scfm_registry import people, version
from scfm_registry.store import trail

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from scfm_registry.store.facade import Store
    from scfm_registry.version import Record

SCHEMA = 1
_LONGEST = 4_000


@dataclass(frozen=True)
class Trail:
    """The lines about a model, or about all, and whether they are as they were written.

    Attributes
    ----------
    entries
        Lines, oldest first: when, who, action, reference, digest, details, previous, hash.
    problems
        What is wrong with the trail, in words; about the whole of it, whatever part is shown.
    notes
        What is not in the trail and is no sign of a change, such as versions older than it.
    head
        Hash of the last line of all; empty where there is none. Kept elsewhere, it shows whether the trail was written anew.
    """

    entries: list[dict[str, Any]]
    problems: list[str]
    notes: list[str]
    head: str

    @property
    def ok(self) -> bool:
        """Whether every line is there, and as it was written."""
        return not self.problems

    @property
    def table(self) -> pd.DataFrame:
        """One row per line: when, who, action, version, digest, details."""
        import pandas as pd

        columns = ["when", "who", "action", "reference", "digest", "details"]
        rows = [{column: entry.get(column, "") for column in columns} for entry in self.entries]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> str:
        """A line for each line, and whether the trail is whole."""
        lines = [
            f"{entry['when'][:19].replace('T', ' ')}  {entry['who']}  {entry['action']} {entry['reference']}{_told(entry['details'])}"
            for entry in self.entries
        ]
        state = [f"WRONG: {problem}" for problem in self.problems] or ["No line is missing or changed."]
        return "\n".join([*(lines or ["Nothing is on record."]), *state, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """The lines and what is wrong with them, as plain values."""
        return {
            "ok": self.ok,
            "head": self.head,
            "problems": self.problems,
            "notes": self.notes,
            "entries": self.entries,
        }


def note(
    store: Store, action: str, record: Record | None = None, details: dict[str, Any] | None = None, *, must: bool = True
) -> None:
    """Add a line.

    Parameters
    ----------
    store
        The registry's.
    action
        A word, such as ``"promote"``.
    record
        The version it was done to.
    details
        Plain values that say more.
    must
        Whether a trail that cannot be written is an error; False for what only reads, which a reader may do.

    Raises
    ------
    StorageError
        The line cannot be written.
    """
    if store.place.read_only:
        return
    try:
        with store.place.locked():
            _add(store, action, record, details or {})
    except StorageError:
        if must:
            raise


def _add(store: Store, action: str, record: Record | None, details: dict[str, Any]) -> None:
    newest = [entry for entry in map(_parsed, trail.last(store)) if entry]
    followed = {item for entry in newest for item in entry["previous"]}
    entry: dict[str, Any] = {
        "schema": SCHEMA,
        "when": datetime.now(tz=UTC).isoformat(timespec="microseconds"),
        "who": people.who(store.place),
        "action": action,
        "name": record.name if record else "",
        "reference": f"{record.name}/{record.version}" if record else "",
        "digest": record.tags.get("scfm.digest", "") if record else "",
        "details": _short(details),
        "previous": sorted({entry["hash"] for entry in newest} - followed),
    }
    entry["hash"] = _hash(entry)
    trail.append(store, entry, json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    if record is not None:
        # Whoever approves somebody else's model need not be allowed to write to it.
        with suppress(StorageError):
            store.set_model_tag(record.name, trail.ANCHOR, entry["hash"])


def about(store: Store, digest: str) -> list[dict[str, Any]]:
    """Lines about the version with this digest that are as they were written, oldest first."""
    return [entry for entry in _checked(trail.lines(store, digest))[0] if entry["digest"] == digest]


def read(store: Store, name: str | None = None) -> Trail:
    """Read the trail, all of it checked; `name` chooses whose lines are given."""
    if store.place.read_only:
        return Trail([], [], ["A mirror has no trail; it is with the registry that it was made from."], "")
    entries, problems = _checked(trail.lines(store))
    by_hash = {entry["hash"]: entry for entry in entries}
    records = store.records()
    for model in sorted({record.name for record in records}):
        anchor = store.model_tag(model, trail.ANCHOR)
        if anchor and anchor not in by_hash:
            problems.append(f"the last line about {model} ({anchor[:12]}…) is missing")
    silent = _without_line(records, entries)
    notes = [f"No line tells of the registration of {', '.join(silent)}."] if silent else []
    followed = {item for entry in entries for item in entry["previous"]}
    heads = [entry["hash"] for entry in entries if entry["hash"] not in followed]
    shown = [entry for entry in entries if name is None or entry["name"] == name]
    return Trail(shown, problems, notes, heads[-1] if heads else "")


def without_line(store: Store, records: Iterable[Record]) -> list[str]:
    """Which of these versions no line tells the registration of: its process was ended in between, or they are older than the trail."""
    ours = [record for record in records if "scfm.digest" in record.tags]
    # A server on which nothing was registered has no place for lines yet, and reading them would make one.
    if not ours or store.place.read_only:
        return []
    return _without_line(ours, _checked(trail.lines(store))[0])


def _without_line(records: Iterable[Record], entries: Iterable[dict[str, Any]]) -> list[str]:
    known = {(entry["name"], entry["digest"]) for entry in entries if entry["action"] == "register"}
    ours = [record for record in records if "scfm.digest" in record.tags]
    return [record.reference for record in ours if (record.name, record.tags["scfm.digest"]) not in known]


def _checked(lines: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Parse lines, in the order of the chain, and say what is wrong with it."""
    entries: dict[str, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        entry = _parsed(line)
        if entry is None:
            problems.append(f"line {number} cannot be read")
        elif _hash(entry) != entry["hash"]:
            problems.append(
                f"line {number} ({entry['action']} {entry['reference']}, {entry['when'][:19]}) was changed after it was written"
            )
        elif entry["hash"] in entries:
            problems.append(f"line {number} is there twice")
        else:
            entries[entry["hash"]] = entry
    for entry in entries.values():
        missing = [item for item in entry["previous"] if item not in entries]
        if missing:
            problems.append(
                f"{len(missing)} before '{entry['action']} {entry['reference']}' of {entry['when'][:19]} missing"
            )
    beginnings = [entry for entry in entries.values() if not entry["previous"]]
    if len(beginnings) > 1:
        problems.append(f"the trail begins {len(beginnings)} times")
    return sorted(entries.values(), key=lambda entry: entry["when"]), problems


def _parsed(line: str) -> dict[str, Any] | None:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        entry = json.loads(line)
        texts = ("when", "who", "action", "name", "reference", "digest", "hash")
        fine = all(isinstance(entry[key], str) and entry[key].isprintable() for key in texts)
        if fine and isinstance(entry["details"], dict) and all(isinstance(item, str) for item in entry["previous"]):
            return dict(entry)
    return None


def _hash(entry: dict[str, Any]) -> str:
    body = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(details: dict[str, Any]) -> dict[str, Any]:
    """Details that a line can hold."""
    text = json.dumps(details, ensure_ascii=False)
    return details if len(text) <= _LONGEST else {"cut": text[:_LONGEST]}


def _told(details: dict[str, Any]) -> str:
    said = ", ".join(
        f"{key} {version.shown(value)}" for key, value in details.items() if value not in ("", None, [], {})
    )
    return f" ({said})" if said else ""
