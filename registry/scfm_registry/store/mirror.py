"""A mirror: chosen versions in a folder that nothing is ever written to, without MLflow and without a database."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from scfm_lab.errors import ModelError, StorageError
from scfm_registry.names import check_alias, check_name
from scfm_registry.store.place import MIRROR
from scfm_registry.version import Evidence, Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scfm_registry.paging import Mark
    from scfm_registry.store.place import Place

SCHEMA = 1
VERSIONS, EVIDENCE = "versions", "evidence"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LARGEST = 256 * 2**20


class Mirror:
    """What :class:`scfm_registry.store.facade.Store` is for a registry that can be written: its reading half.

    Parameters
    ----------
    place
        The mirror's folder.

    Raises
    ------
    StorageError
        Its index cannot be read, or was made by a newer scfm-lab.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._records = _read(place)

    def names(self) -> list[str]:
        """Names of all models."""
        return sorted({record.name for record in self._records})

    def records(
        self,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        aliases: bool = True,
    ) -> list[Record]:
        """Versions, newest first within a name; `tags` must all be equal."""
        wanted = (tags or {}).items()
        return [
            record
            for record in self._records
            if name in (None, record.name) and all(record.tags.get(key) == value for key, value in wanted)
        ]

    def page(self, tags: Mapping[str, str], after: Mark | None, count: int) -> list[Record]:
        """Some of the versions whose `tags` are all equal: `count` of those after `after`."""
        begin = after.read if after else 0
        return self.records(tags=tags)[begin : begin + count]

    def record(self, name: str, version: int) -> Record | None:
        """One version by number, or ``None``."""
        return next((item for item in self._records if (item.name, item.version) == (name, version)), None)

    def record_by_alias(self, name: str, alias: str) -> Record | None:
        """The version that an alias points at, or ``None``."""
        return next((item for item in self._records if item.name == name and alias in item.aliases), None)

    def files(self, record: Record) -> Path:
        """Where a version's files lie: found by its digest, and never by a path that somebody wrote down."""
        return folder_of(self._folder, record.tags["scfm.digest"])

    def document(self, run: str, name: str, target: Path) -> Path:
        """The record of a measurement."""
        del target  # it lies here already
        path = self._folder / EVIDENCE / f"{run}.json"
        if not _RUN.fullmatch(run) or not path.is_file():
            message = f"The mirror {self.place.shown} holds no record {run[:80]!r} ({name})."
            raise ModelError(message)
        return path

    def runs(
        self, task: str, tags: Mapping[str, str] | None = None, *, newest: int = 0, cut: bool = False
    ) -> list[Evidence]:
        """None: runs stay with the registry that the mirror was made from."""
        del task, tags, newest, cut
        return []

    def model_tag(self, name: str, key: str) -> str:
        """Nothing: gates and the like stay there too."""
        del name, key
        return ""

    @property
    def _folder(self) -> Path:
        assert self.place.folder is not None
        return self.place.folder

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse everything else that a store can do: it would write, or ask MLflow."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise read_only(self.place)


def read_only(place: Place) -> StorageError:
    """Say that a mirror is not written to."""
    return StorageError(
        f"The registry in {place.shown} is a mirror, which is only read; import into a registry of your own (Registry(), or "
        "--registry FOLDER)."
    )


def folder_of(folder: Path, digest: str) -> Path:
    """Where a mirror in `folder` keeps the files of a version."""
    return folder / VERSIONS / digest.removeprefix("sha256:")


def index(records: list[Record], made: datetime) -> bytes:
    """Write down what a mirror holds."""
    document = {
        "schema": SCHEMA,
        "made": made.isoformat(timespec="seconds"),
        "versions": [
            {
                "name": record.name,
                "version": record.version,
                "aliases": list(record.aliases),
                "tags": record.tags,
                "description": record.description,
                "created": record.created.isoformat(),
            }
            for record in records
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _read(place: Place) -> list[Record]:
    assert place.folder is not None
    path = place.folder / MIRROR
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too long")
        document = json.loads(path.read_bytes())
        if document["schema"] > SCHEMA:
            message = f"The mirror {place.shown} was made by a newer scfm-lab; install that version or newer."
            raise StorageError(message)
        found = [_record(item) for item in document["versions"]]
    except StorageError:
        raise
    except OSError as error:
        message = f"The mirror's {path} cannot be read ({error.strerror}). Look at its permissions."
        raise StorageError(message) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"The mirror's {path} is damaged ({error}); make the mirror again."
        raise StorageError(message) from error
    return sorted(found, key=lambda record: (record.name, -record.version))


def _record(item: dict[str, Any]) -> Record:
    tags = {str(key): str(value) for key, value in item["tags"].items()}
    if not _DIGEST.fullmatch(tags["scfm.digest"]):
        raise ValueError("a digest is none")
    return Record(
        name=check_name(item["name"]),
        version=int(item["version"]),
        aliases=tuple(check_alias(alias) for alias in item["aliases"]),
        tags=tags,
        description=str(item["description"]),
        source="",
        created=datetime.fromisoformat(item["created"]),
    )
