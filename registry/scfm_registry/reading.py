"""Finding versions: the part of a registry that changes nothing."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from scfm_lab.errors import ModelError, did_you_mean
from scfm_lab.home import data_home
from scfm_registry import names, paging, searching, version
from scfm_registry.looking import Holders
from scfm_registry.names import CHAMPION
from scfm_registry.version import ModelVersion, Record, Versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scfm_lab.inference.hardware import Hardware
    from scfm_registry.store.facade import Store
    from scfm_registry.store.place import Place


class Reader:
    """What can be asked of a registry without changing it."""

    _place: Place
    _store: Store

    def search(
        self,
        *,
        text: str | None = None,
        organism: str | None = None,
        can: str | Iterable[str] = (),
        fits: Hardware | Literal["this machine"] | None = None,
        family: str | None = None,
        kind: str | None = None,
        all_versions: bool = False,
        limit: int | None = None,
        page: str | None = None,
    ) -> Versions:
        """Find model versions; every condition must hold.

        Parameters
        ----------
        text
            Words that stand in the name, family, tags or card; case is ignored.
        organism
            Such as ``"human"``.
        can
            One ability or several, such as ``"perturb"``.
        fits
            ``"this machine"``, or a :class:`scfm_lab.Hardware` for somebody else's: leaves out what does not fit its free
            memory, and puts the answer, which says whether it was measured or estimated, into each version's ``fit``.
        family
            Id of an adapter, such as ``"scfm.starter"`` (``"starter"`` for short).
        kind
            ``"pretrained"``, ``"fine-tuned"`` or ``"baseline"``.
        all_versions
            Give every version. Otherwise each model comes once: its champion if that one matches, else its newest that does.
        limit
            Look at so many versions (and at all those of the last model), and no more; by default at all.
        page
            The ``next`` of the page before.

        Returns
        -------
        Versions
            A list, by name, that has a ``.table``; with `limit`, its ``next`` is the next call's `page`, or ``None`` at the end.
        """
        wanted = searching.conditions(organism=organism, can=can, family=family, kind=kind)
        following: str | None = None
        if limit is None:
            records = self._store.records(tags=wanted)
        else:
            records, following = paging.read(self._store, wanted, limit, page, whole_models=not all_versions)
        found = self._read(records)
        if text:
            found = searching.with_words(found, text)
        if fits is not None:
            found = searching.fitting(found, fits)
        answer = Versions(found if all_versions else searching.one_each(found))
        answer.next = following
        self._holders.saw(answer)
        return answer

    def versions(self, name: str) -> Versions:
        """All versions of a model, newest first.

        Raises
        ------
        ModelError
            No model is called so; the message lists those there are.
        """
        found = self._versions(name)
        self._holders.saw(found, whole=name)
        return found

    def get(self, reference: str) -> ModelVersion:
        """Find the version that ``name/3``, ``name@alias`` or ``name`` (its champion, else its newest) means.

        Raises
        ------
        ModelError
            There is no such model, version or alias; the message lists those there are.
        """
        found = self._find(names.parse(reference))[0]
        self._holders.saw([found])
        return found

    def everything(self) -> list[ModelVersion]:
        """All versions, for what shows nobody's aliases: they may be missing, which spares a server a question for each model."""
        return self._read(self._store.records(aliases=False))

    def by_digest(self, name: str, digest: str) -> ModelVersion | None:
        """Find the first version of `name` whose files have this digest."""
        return oldest(self._held(name, digest))

    def with_digest(self, digest: str) -> list[ModelVersion]:
        """Versions, of whatever name, whose files have this digest."""
        return self._read(self._store.records(tags={"scfm.digest": digest})) if digest else []

    def find_digest(self, digest: str) -> tuple[ModelVersion, Record]:
        """Find the version whose files have a digest, whatever its name; also in the trash, where it is not elsewhere.

        Raises
        ------
        ModelError
            There is none.
        """
        return self._by_identity(digest)

    def copies_of(
        self,
        tags: Mapping[str, str],
        among: Mapping[tuple[str, str], list[Record]] | None = None,
        *,
        aliases: bool = True,
    ) -> list[Record]:
        """Versions with the files or the weights of one, deleted ones too, each once.

        Parameters
        ----------
        tags
            Those of the one; it need not be registered.
        among
            All versions by mark (:meth:`records_by_mark`, :meth:`each_mark_once`); by default they are looked up one after the
            other.
        aliases
            False: their aliases may be missing, which spares a server a question for each model.
        """
        found: dict[str, Record] = {}
        waiting, seen = sorted(version.marks(tags)), set()
        while waiting:
            mark = waiting.pop(0)
            if mark in seen:
                continue
            seen.add(mark)
            for item in self._store.records(tags=dict([mark]), aliases=aliases) if among is None else among[mark]:
                # What somebody registered through MLflow itself has no digest, and is none of ours.
                if item.tags.get("scfm.digest"):
                    found.setdefault(item.reference, item)
                    waiting += sorted(version.marks(item.tags))
        return list(found.values())

    def family_of(self, digest: str) -> list[Record]:
        """Copies of what has this digest and all that were made from them, deleted ones too, each once; circles end."""
        found: dict[str, Record] = {}
        waiting, seen = [digest], set()
        while waiting:
            current = waiting.pop(0)
            if current in seen:
                continue
            seen.add(current)
            children = self._store.records(tags={"scfm.parent_digest": current})
            for item in [*self.copies_of({"scfm.digest": current}), *children]:
                if item.tags.get("scfm.digest"):
                    found.setdefault(item.reference, item)
                    waiting.append(item.tags["scfm.digest"])
        return list(found.values())

    def records_by_mark(self) -> dict[tuple[str, str], list[Record]]:
        """All versions by what copies are known by, deleted ones too: asked once, where many are asked about."""
        found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for item in self._store.records():
            for mark in version.marks(item.tags) & set(item.tags.items()):
                found[mark].append(item)
        return found

    def each_mark_once(self) -> dict[tuple[str, str], list[Record]]:
        """As :meth:`records_by_mark`, but each is looked up when it is first asked for, and never again; aliases may be missing."""
        return _Asked(lambda mark: self._store.records(tags=dict([mark]), aliases=False))

    def line_of(
        self, *told: Mapping[str, str], among: Mapping[tuple[str, str], list[Record]] | None = None
    ) -> list[Record]:
        """Copies of versions and all that they were made from, nearest first, deleted ones too, each once; circles end.

        Their aliases may be missing. Every copy of the same files or weights counts: what one of them was said to be made from is what all were made from.

        Parameters
        ----------
        told
            Tags of the versions, which need not be registered: those of :func:`scfm_registry.version.marks` are looked at.
        among
            As in :meth:`copies_of`.
        """
        found: dict[str, Record] = {}
        waiting, seen = list(told), {""}
        while waiting:
            for item in self.copies_of(waiting.pop(0), among, aliases=False):
                found.setdefault(item.reference, item)
                parent = item.tags.get("scfm.parent_digest", "")
                if parent not in seen:
                    seen.add(parent)
                    waiting.append({"scfm.digest": parent})
        return list(found.values())

    @property
    def scratch(self) -> Path:
        """Folder for private copies, on the disk where their files will stay."""
        own = None if self._place.read_only else self._place.folder
        return own if own is not None else data_home() / "cache"

    def check_writable(self) -> None:
        """Refuse a mirror, before anything is computed that could not be kept.

        Raises
        ------
        StorageError
            It is one.
        """
        if self._place.read_only:
            from scfm_registry.store.mirror import read_only

            raise read_only(self._place)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock under which this machine's processes change the registry."""
        return self._place.locked()

    def note(
        self,
        action: str,
        record: Record | None = None,
        details: dict[str, Any] | None = None,
        *,
        must: bool = True,
    ) -> None:
        """Add a line to the audit trail; for the package's own use, see :func:`scfm_registry.audit.note`."""
        from scfm_registry import audit

        audit.note(self._store, action, record, details, must=must)

    @cached_property
    def _holders(self) -> Holders:
        return Holders()

    def _held(self, name: str, digest: str, *, aliases: bool = True) -> list[Record]:
        """Versions of `name` whose files have this digest, newest first, deleted ones too."""
        return self._store.records(name, {"scfm.digest": digest}, aliases=aliases)

    def _versions(self, name: str) -> Versions:
        found = self._read(self._store.records(names.check_name(name)))
        if not found:
            raise self._unknown(name)
        return Versions(found)

    def _read(self, records: Iterable[Record]) -> list[ModelVersion]:
        return [found for record in records if (found := version.read(record)) is not None]

    def _find(self, reference: names.Reference) -> tuple[ModelVersion, Record]:
        if reference.digest is not None:
            return self._by_identity(reference.digest)
        if reference.version is not None:
            record = self._store.record(reference.name, reference.version)
        elif reference.alias is not None:
            record = self._store.record_by_alias(reference.name, reference.alias)
        else:
            record = self._store.record_by_alias(reference.name, CHAMPION)
            if record is None or version.read(record) is None:
                known = self._store.records(reference.name)
                record = next((item for item in known if version.read(item) is not None), None)
        found = version.read(record) if record is not None else None
        if record is None or found is None:
            raise self._missing(reference)
        return found, record

    def _by_identity(self, digest: str) -> tuple[ModelVersion, Record]:
        """The version whose files have a digest, whatever its name; what was made from one in the trash still needs it."""
        records = self._store.records(tags={"scfm.digest": digest})
        for trashed in (False, True):
            for record in sorted(records, key=lambda item: item.created):
                found = version.read(record, trashed=trashed)
                if found is not None:
                    return found, record
        message = f"No version in the registry in {self._place.shown} has the digest {digest}."
        raise ModelError(message)

    def _missing(self, reference: names.Reference) -> ModelError:
        known = self._read(self._store.records(reference.name))
        if not known:
            return self._unknown(reference.name)
        if reference.alias is not None:
            aliases = sorted({alias for item in known for alias in item.aliases})
            there = f"its aliases: {', '.join(aliases)}" if aliases else "it has no aliases"
            return ModelError(
                f"No version of '{reference.name}' has the alias '{reference.alias}'; {there}."
                f"{did_you_mean(reference.alias, aliases)}"
            )
        numbers = ", ".join(str(item.version) for item in reversed(known))
        return ModelError(f"'{reference.name}' has no version {reference.version}; its versions: {numbers}.")

    def _unknown(self, name: str) -> ModelError:
        from scfm_registry import builtin

        known = self._store.names()
        there = f"models there: {', '.join(known)}" if known else "it is empty"
        hint = ""
        if not self._place.embedded and name in builtin.shipped():
            hint = f" Put the built-in models there with 'scfm-lab registry setup {self._place.shown}'."
        return ModelError(
            f"No model is called '{name}' in the registry in {self._place.shown}; {there}.{did_you_mean(name, known)}{hint}"
        )


def oldest(records: Iterable[Record], *, trashed: bool = False) -> ModelVersion | None:
    """Of versions the one with the lowest number; of those in the trash, or of all others."""
    found = [item for record in records if (item := version.read(record, trashed=trashed)) is not None]
    return min(found, key=lambda item: item.version, default=None)


class _Asked(dict[tuple[str, str], list[Record]]):
    """Versions by mark, each asked for once."""

    def __init__(self, ask: Callable[[tuple[str, str]], list[Record]]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, mark: tuple[str, str]) -> list[Record]:
        self[mark] = self._ask(mark)
        return self[mark]
