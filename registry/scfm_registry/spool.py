"""A spool: where a cluster's node without network puts models, and from where they come into the registry later.

A spool is a folder, and nothing else: no database, so that it may lie on whatever the node shares with the rest of the world.
Each entry is a folder with the files and ``spool.json``, made beside its place and renamed into it when it is complete; several
nodes may write at once.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError
from scfm_registry import annotating, files, importing, manifest, names, people
from scfm_registry.registering import Registrar
from scfm_registry.store.place import make_folder, resolve
from scfm_registry.version import KINDS, Versions, check_licence

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from scfm_registry.version import ModelVersion

#: What describes an entry, the folder of its files, and the folder of entries that have come in.
DESCRIPTION, FILES, DONE = "spool.json", "files", "done"
SCHEMA = 1
_LARGEST = 2**20


class Spool:
    """A folder of models that wait to be registered.

    Parameters
    ----------
    folder
        It is made if it is not there.

    Examples
    --------
    >>> from scfm_registry import Registry, Spool
    >>> spool = Spool("/shared/spool")  # doctest: +SKIP
    >>> entry = spool.put("./run7", "my-model", kind="fine-tuned", project="atlas")  # doctest: +SKIP
    >>> Registry().sync("/shared/spool").registered[0].name  # doctest: +SKIP
    'my-model'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()

    def __repr__(self) -> str:
        return f"<Spool in {self.folder}, {len(self.waiting())} waiting>"

    def waiting(self) -> list[Path]:
        """Entries that have not come in, oldest first."""
        if not self.folder.is_dir():
            return []
        entries = (path for path in self.folder.iterdir() if not path.name.startswith(".") and path.name != DONE)
        return sorted(path for path in entries if _is_entry(path))

    def put(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        kind: str = "pretrained",
        licence: str | None = None,
        card: str | None = None,
        config: Mapping[str, Any] | None = None,
        parent_digest: str = "",
        **said: str,
    ) -> Path:
        """Put a checkpoint's folder into the spool; no network and no database is needed.

        Parameters
        ----------
        path
            The folder, as for :meth:`scfm_registry.Registry.import_checkpoint`.
        name, kind, licence, card, config
            As there.
        parent_digest
            Of the registered version that it was made from.
        **said
            As for :meth:`scfm_registry.Registry.annotate`: owner, project, consent, …

        Returns
        -------
        Path
            The entry.

        Raises
        ------
        ModelError
            Something in the folder is no part of a checkpoint, or a name or value breaks a rule.
        StorageError
            The spool is full or read-only.
        """
        names.check_name(name)
        if kind not in KINDS:
            message = f"There is no kind '{kind}'; kinds are {', '.join(KINDS)}."
            raise ModelError(message)
        check_licence(licence)
        if parent_digest and not manifest.is_digest(parent_digest):
            message = f"parent_digest takes a version's digest (sha256:…), and not {parent_digest[:80]!r}."
            raise ModelError(message)
        for key, value in said.items():
            if key not in annotating.FIELDS:
                message = f"'{key}' is nothing that is said of a version; there are {', '.join(annotating.FIELDS)}."
                raise ModelError(message)
            annotating.check(key, value)
        source = Path(path).expanduser()
        if not source.is_dir():
            message = f"There is no checkpoint's folder at {source}."
            raise ModelError(message)
        wanted, _ = importing.listing(source)
        # What the registry wrote beside a version's files is written anew when it comes in.
        wanted = [item for item in wanted if item.as_posix() not in (manifest.FILENAME, importing.RECORD)]
        family = importing.recognise(source)
        make_folder(self.folder)
        with files.workshop(self.folder) as private:
            inside = private / FILES
            inside.mkdir()
            places = {str(item): source / item for item in wanted}
            importing.copy({**places, **importing.beside(family, source)}, inside, source)
            described = manifest.describe(inside, family.id)
            told = {
                "schema": SCHEMA,
                "name": name,
                "kind": kind,
                "licence": licence,
                "card": card,
                "config": dict(config or {}),
                "parent_digest": parent_digest,
                "said": {"owner": people.who(resolve(self.folder)), **said},
                "files": json.loads(described.canonical()),
                "when": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            }
            (private / DESCRIPTION).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            _flush(private)
            files.open_as(private, self.folder)
            target = self.folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{described.digest[7:19]}-{os.urandom(3).hex()}"
            private.rename(target)
        return target


@dataclass(frozen=True)
class Sync:
    """What came in from a spool.

    Attributes
    ----------
    registered
        Versions that are new.
    known
        Versions that were here already.
    refused
        Entry → why it stays in the spool.
    """

    registered: Versions = field(default_factory=Versions)
    known: Versions = field(default_factory=Versions)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was refused."""
        return not self.refused

    @property
    def table(self) -> pd.DataFrame:
        """The versions that came in."""
        return Versions([*self.registered, *self.known]).table

    def summary(self) -> str:
        """A line per entry."""
        lines = [f"{item.reference} is registered ({item.digest})." for item in self.registered]
        lines += [f"{item.reference} was here already." for item in self.known]
        lines += [f"{entry} stays in the spool: {why}" for entry, why in self.refused.items()]
        return "\n".join(lines) or "Nothing waits in the spool."


class Syncer(Registrar):
    """What takes in what waits in a spool."""

    def sync(self, spool: str | os.PathLike[str], *, certify: bool = True) -> Sync:
        """Register what waits in a spool; entries that are in go to its folder ``done``, what is refused stays.

        Every file is compared with its hash at the time it was put there, and is then read as any import is: in a process without
        network, and nothing in it runs. It can be repeated at any time: the same files give the same version.

        Parameters
        ----------
        spool
            The folder.
        certify
            As for :meth:`import_checkpoint`.

        Returns
        -------
        Sync
            ``.registered``, ``.known``, ``.refused``, ``.summary()``.

        Raises
        ------
        ModelError
            There is no such folder.
        """
        folder = Path(spool).expanduser().absolute()
        if not folder.is_dir():
            message = f"There is no spool at {folder}."
            raise ModelError(message)
        found = Sync()
        for entry in Spool(folder).waiting():
            try:
                told = _read(entry)
                version, new = self._take(entry, told)
            # One entry that the system does not let anybody read holds up no other.
            except (ScfmError, OSError) as error:
                found.refused[entry.name] = str(error)
                continue
            (found.registered if new else found.known).append(self.came_in(version, certify=certify))
            try:
                _put_away(entry, folder / DONE)
            except ScfmError as error:
                # It is in; the next time it is known, and the others need not wait for that.
                found.refused[entry.name] = f"it is registered ({version.reference}), but cannot be put away. {error}"
        return found

    def _take(self, entry: Path, told: dict[str, Any]) -> tuple[ModelVersion, bool]:
        states = manifest.compare(entry / FILES, told["manifest"])
        files.require_ok(states, entry / FILES, f"Entry {entry.name}")
        before = {item.reference for item in self._read(self._store.records(told["name"]))}
        tags = {f"scfm.{key}": value for key, value in told["said"].items() if value}
        if told["parent_digest"]:
            tags["scfm.parent_digest"] = told["parent_digest"]
        # They come with the files, so that nobody sees a version without what was said of its cells.
        version = importing.import_checkpoint(
            self,
            entry / FILES,
            told["name"],
            kind=told["kind"],
            licence=told["licence"],
            card=told["card"],
            config=told["config"],
            tags=tags,
        )
        with self._place.locked():
            record = self._find(names.parse(version.reference))[1]
            tags |= annotating.inherited(self, tags, version.digest)
            fresh = version.reference not in before
            # One that was here already keeps what people have said of it since; one out of the trash is as good as new.
            known = {key for key in tags if record.tags.get(key) == tags[key]} if fresh else set(record.tags)
            # Of two words about its donors the stricter was kept when its files came in.
            known |= {"scfm.consent"} & set(record.tags)
            new = {key: value for key, value in tags.items() if key not in known}
            if new:
                self._store.set_tags(record, new)
            if new or fresh:
                by = {"from": entry.name, "put_there": told["when"], "by": told["said"].get("owner", "")}
                self.note("sync", record, by)
        return self.get(version.reference), fresh


def _is_entry(path: Path) -> bool:
    try:
        return stat.S_ISREG((path / DESCRIPTION).stat().st_mode)
    except PermissionError:
        return True  # somebody else's, who has closed it: that is to be said
    except OSError:
        return False


def _read(entry: Path) -> dict[str, Any]:
    """Read an entry's description, each value checked: whoever can write to the spool can write anything.

    Raises
    ------
    ModelError
        It is not one.
    """
    path = entry / DESCRIPTION
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"it is of layout {told['schema']!r}")
        content = json.dumps(told["files"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        described = manifest.parse(content, str(path))
        said = {
            str(key): annotating.check(str(key), value)
            for key, value in told["said"].items()
            if key in annotating.FIELDS
        }
        parent = str(told["parent_digest"])
        if parent and not manifest.is_digest(parent):
            raise ValueError("its parent's digest is none")
        texts = [told["licence"], told["card"]]
        check_licence(told["licence"])
        if any(text is not None and not isinstance(text, str) for text in texts) or told["kind"] not in KINDS:
            raise ValueError("a value in it is of the wrong kind")
        when = datetime.fromisoformat(str(told["when"])).isoformat(timespec="seconds")
        return {
            "name": names.check_name(told["name"]),
            "kind": told["kind"],
            "licence": told["licence"],
            "card": told["card"],
            "config": dict(told["config"]),
            "parent_digest": parent,
            "said": said,
            "manifest": described,
            "when": when,
        }
    except PermissionError as error:
        message = f"{path} may not be read ({error.strerror}). Ask whoever put it there for: chmod -R g+rX {entry}"
        raise ModelError(message) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{path} cannot be read ({error}); put the model into the spool again."
        raise ModelError(message) from error


def _flush(folder: Path) -> None:
    """Have every file on the disk before its place has a name."""
    for path in [*folder.rglob("*")]:
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _put_away(entry: Path, done: Path) -> None:
    """Keep the description of what came in, and let its files go: the registry has them."""
    make_folder(done)
    with files.storing(done):
        entry.rename(done / entry.name)
    # What cannot be deleted takes room, and nothing else.
    with suppress(OSError):
        shutil.rmtree(done / entry.name / FILES)
