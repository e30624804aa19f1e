"""Retracting versions: what should not be used any more, all that was made from it, and the files made with it."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, ModelError
from scfm_registry import names, version
from scfm_registry.reading import Reader
from scfm_registry.store.words import Denied, tell_denied
from scfm_registry.version import RETRACTED, Versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd

    from scfm_registry.version import ModelVersion, Record

#: Set to ``1``: retracted versions open, with a warning.
VARIABLE = "SCFM_ALLOW_RETRACTED"
_LONGEST = 500


@dataclass(frozen=True)
class Affected:
    """Files that were made with certain versions.

    Attributes
    ----------
    rows
        file, key, version, weights, by (what it was recognised by), retracted (why; empty where it is not).
    unread
        Files and folders that could not be read, and why; folders with nothing in them that could be.
    """

    rows: list[dict[str, str]]
    unread: dict[str, str]

    @property
    def table(self) -> pd.DataFrame:
        """One row per result in a file: file, key, version, by, retracted."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["file", "key", "version", "weights", "by", "retracted"])

    def summary(self) -> str:
        """A line per file."""
        lines = []
        for file in dict.fromkeys(row["file"] for row in self.rows):
            told = [f"{row['key']} by {row['version']}" for row in self.rows if row["file"] == file]
            why = next((row["retracted"] for row in self.rows if row["file"] == file and row["retracted"]), "")
            lines.append(f"{file}: {', '.join(told)}" + (f"; retracted: {why}" if why else ""))
        lines += [f"{file} could not be read: {why}" for file, why in self.unread.items()]
        return "\n".join(lines) or "None of these files was made with them."


#: Whether retracted versions are opened without a word: parents of a version that was asked for in so many words.
_allowed: ContextVar[bool] = ContextVar("scfm_even_retracted", default=False)


@contextmanager
def allowing() -> Iterator[None]:
    """Open retracted versions in the block, for what looks at them and does not use them."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


class Retractor(Reader):
    """What says that a version should not be used, and finds what was made with it."""

    def retract(self, reference: str, *, because: str) -> Versions:
        """Say that a version should not be used any more; all versions made from it are flagged with it.

        They stay where they are and keep their aliases, but do not open unless asked for in so many words
        (``load(…, even_retracted=True)``, or ``SCFM_ALLOW_RETRACTED=1``), are not promoted, and say so in cards and lists.
        Versions that are made from it later do not open either.

        Parameters
        ----------
        reference
            Which version; copies of its files or weights under other names are meant too.
        because
            One line that says why.

        Returns
        -------
        Versions
            All that are flagged, the version itself first.

        Warns
        -----
        RuntimeWarning
            A server does not let you flag somebody else's versions; they are refused all the same.

        Raises
        ------
        ModelError
            The version is unknown, or there is no reason.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> registry = Registry()
        >>> [str(item) for item in registry.retract("sctop/1", because="a test")]
        ['sctop/1 (champion)']
        >>> registry.reinstate("sctop/1").retracted
        ''
        """
        if not because or len(because) > _LONGEST or not because.isprintable():
            message = f"A retraction needs a reason: one line of at most {_LONGEST} printable characters."
            raise ModelError(message)
        with self._place.locked():
            found, record = self._find(names.parse(reference))
            now = datetime.now(tz=UTC).isoformat(timespec="seconds")
            others = [item for item in self.family_of(found.digest) if item.reference != record.reference]
            # Its own flag, then the line, then the others: whatever ends this in between, the retraction holds and is on record.
            self._store.set_tags(record, {RETRACTED: now, _key(found.digest): because})
            self.note("retract", record, {"because": because, "also": [item.reference for item in others]})
            flagged, denied = [record], []
            for item in others:
                told = because if item.tags["scfm.digest"] == found.digest else _told(record, because, item.tags)
                try:
                    self._store.set_tags(item, {RETRACTED: now, _key(found.digest): told})
                except Denied:
                    denied.append(item.reference)
                    continue
                flagged.append(item)
                how = "a copy of" if version.marks(item.tags) & version.marks(record.tags) else "made from"
                self.note("retract", item, {"because": f"{how} {found.reference}"})
            tell_denied("flagged", denied, "They do not open either; whoever they belong to can retract them as well.")
        return Versions(self.get(item.reference) for item in flagged if version.TRASHED not in item.tags)

    def reinstate(self, reference: str, *, because: str = "") -> ModelVersion:
        """Take a retraction back, of a version and of all that were flagged with it.

        Raises
        ------
        ModelError
            It was not retracted itself; the message says what was.
        """
        with self._place.locked():
            found, record = self._find(names.parse(reference))
            key = _key(found.digest)
            if key not in record.tags:
                why = f": {found.retracted}" if found.retracted else ""
                message = f"{found.reference} was not retracted itself{why}; nothing was changed."
                raise ModelError(message)
            others = [item for item in self._store.records() if key in item.tags and item.reference != found.reference]
            denied = []
            for item in [record, *others]:
                left = [
                    other for other in item.tags if other.startswith(f"{version.RETRACTED_BECAUSE}.") and other != key
                ]
                try:
                    self._store.drop_tags(item, [key] if left else [key, RETRACTED])
                except Denied:
                    if item is record:
                        raise
                    denied.append(item.reference)
                    continue
                self.note("reinstate", item, {"because": because} if because else {})
            tell_denied("taken back", denied, "Whoever they belong to can take their flags away.")
        return self.get(found.reference)

    def affected(self, files: Iterable[Any], reference: str | None = None) -> Affected:
        """Find which files were made with retracted versions, by the provenance that scfm-lab writes into them.

        Parameters
        ----------
        files
            ``.h5ad`` files, Zarr folders, folders of such, or AnnData objects. Only their provenance is read, and nothing is
            changed. :meth:`made_with` tells of all versions.
        reference
            A version: find instead what was made with it and with versions made from it, retracted or not.

        Returns
        -------
        Affected
            ``.table``, ``.summary()``. Versions are recognised by the hash of their weights; where that is not on record, by
            name and number.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> Registry().affected([]).rows
        []
        """
        if reference is None:
            meant = [item for item in self._store.records() if RETRACTED in item.tags]
        else:
            found, record = self._find(names.parse(reference))
            meant = [record, *self.family_of(found.digest)]
        rows: list[dict[str, str]] = []
        unread: dict[str, str] = {}
        for file in _each(files, unread):
            name = str(file) if isinstance(file, (str, os.PathLike)) else f"AnnData with {file.n_obs} cells"
            try:
                told = provenance(file)
            except DataError as error:
                unread[name] = str(error)
                continue
            for key, entry in told.items():
                hit = next(((item, by) for item in meant if (by := _made_by(entry, item))), None)
                if hit is not None:
                    item = version.read(hit[0]) or version.read(hit[0], trashed=True)
                    why = item.retracted if item else ""
                    row = {"file": name, "key": key, "version": hit[0].reference, "by": hit[1], "retracted": why}
                    rows.append({**row, "weights": str(entry.get("weights_sha256", ""))})
        return Affected(rows, unread)

    def check_usable(self, found: ModelVersion, *, even_retracted: bool = False) -> None:
        """Refuse a retracted version, or warn of it where that was asked for.

        Raises
        ------
        ModelError
            It was retracted, or something that it was made from.
        """
        if _allowed.get():
            return
        why = self.why_retracted(found)
        if not why:
            return
        if not (even_retracted or os.environ.get(VARIABLE) == "1"):
            message = (
                f"{found.reference} was retracted ({why}). Use another version; to open it all the same, say "
                f"load(…, even_retracted=True) or set {VARIABLE}=1."
            )
            raise ModelError(message)
        warnings.warn(f"{found.reference} was retracted: {why}", RuntimeWarning, stacklevel=4)

    def check_files_usable(self, tags: Mapping[str, str], label: str) -> None:
        """Refuse files for what is said here against them: they need not be registered, and go by the rule by which they would be.

        For the package's own use.

        Parameters
        ----------
        tags
            The digest of the files, that of their weights, and that of what they were made from.
        label
            What messages call them.

        Raises
        ------
        ModelError
            A version with these files or weights was retracted, or something that it or they were made from.
        """
        flags = inherited(self, tags, tags["scfm.digest"])
        said = (why for key, why in sorted(flags.items()) if key.startswith(f"{version.RETRACTED_BECAUSE}."))
        if not (why := version.shown("; ".join(said), 2_000)) or _allowed.get():
            return
        if os.environ.get(VARIABLE) != "1":
            message = f"{label} was retracted ({why}). Use another version; to open it all the same, set {VARIABLE}=1."
            raise ModelError(message)
        warnings.warn(f"{label} was retracted: {why}", RuntimeWarning, stacklevel=4)

    def why_retracted(self, found: ModelVersion) -> str:
        """Why a version should not be used: that it was retracted, or something that it was made from; else nothing."""
        return reason(self, found)

    def why_each_retracted(self, found: Iterable[ModelVersion]) -> list[str]:
        """As :meth:`why_retracted` for each of many versions, in one question to the store."""
        among = self.records_by_mark()
        return [reason(self, item, among) for item in found]


def reason(registry: Reader, found: ModelVersion, among: Mapping[tuple[str, str], list[Record]] | None = None) -> str:
    """Why a version should not be used; empty where nothing is said against it."""
    return version.shown(found.retracted or _elsewhere(registry, found, among), 2_000)


def inherited(
    registry: Reader,
    tags: Mapping[str, str],
    digest: str,
    among: Mapping[tuple[str, str], list[Record]] | None = None,
) -> dict[str, str]:
    """Flags that a version takes over when it is made: of its copies, and of what it was made from.

    Parameters
    ----------
    registry
        Where it comes in.
    tags
        What is said of it.
    digest
        Of its files.
    among
        As in :meth:`scfm_registry.reading.Reader.copies_of`.
    """
    flags: dict[str, str] = {}
    own = {**tags, "scfm.digest": digest}
    for record in registry.line_of(own, {"scfm.digest": tags.get("scfm.parent_digest", "")}, among=among):
        for key, why in record.tags.items():
            if not key.startswith(f"{version.RETRACTED_BECAUSE}."):
                continue
            other = key == _key(record.tags["scfm.digest"]) and record.tags["scfm.digest"] != digest
            flags.setdefault(key, _told(record, why, own) if other else why)
            flags.setdefault(RETRACTED, record.tags.get(RETRACTED, ""))
    return flags


def _elsewhere(registry: Reader, found: ModelVersion, among: Mapping[tuple[str, str], list[Record]] | None) -> str:
    """Why other versions speak against one without a flag of its own: its copies, or what it was made from."""
    for record in registry.line_of(found.tags, among=among):
        if why := record.tags.get(_key(record.tags["scfm.digest"]), ""):
            return _told(record, why, found.tags)
    return ""


def _told(record: Record, why: str, tags: Mapping[str, str]) -> str:
    """What the retraction of `record` means for the version with these tags: a copy of it, or made from one."""
    how = "made from"
    if record.tags["scfm.digest"] == tags["scfm.digest"]:
        how = "its files are those of"
    elif version.marks(record.tags) & version.marks(tags):
        how = "its weights are those of"
    return f"{how} {record.reference}, which was retracted: {why}"


def _each(given: Iterable[Any], unread: dict[str, str]) -> Iterator[Any]:
    """Files, those in folders one by one."""
    from scfm_registry import made_with

    for item in given:
        if isinstance(item, (str, os.PathLike)) and Path(item).is_dir():
            inside = made_with.files(Path(item), unread)
            first = next(inside, None)
            if first is None:
                unread.setdefault(str(item), "it holds no .h5ad file and no Zarr folder")
                continue
            yield first
            yield from inside
        else:
            yield item


def provenance(file: Any) -> dict[str, dict[str, Any]]:
    """Read what scfm-lab wrote into a file about how its results were made: key → record.

    Raises
    ------
    DataError
        It is no file that can be read.
    """
    from scfm_lab.cells.provenance import UNS

    if not isinstance(file, (str, os.PathLike)):
        return {str(key): dict(entry) for key, entry in file.uns.get(UNS, {}).items() if hasattr(entry, "items")}
    from scfm_registry import made_with

    path = Path(file)
    try:
        return made_with.provenance(path)
    # Damaged files fail anywhere between HDF5, Zarr and AnnData, with any exception.
    except Exception as error:
        message = f"{path} is no AnnData file that can be read ({' '.join(str(error).split())[:200]})."
        raise DataError(message) from error


def _made_by(entry: dict[str, Any], item: Record) -> str:
    """By what a record is recognised as made with a version; empty where it is not."""
    weights, known = str(entry.get("weights_sha256") or ""), version.weights(item.tags)
    if weights and known:
        return "weights" if weights in known else ""
    return "name and number" if entry.get("version") == item.reference else ""


def _key(digest: str) -> str:
    """Tag that holds the reason of one retraction: a version can be flagged because of several."""
    return f"{version.RETRACTED_BECAUSE}.{digest.removeprefix('sha256:')[:16]}"
