"""What a version was made from, on its way to another lab: found here, put into a bundle, and opened there."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import files, manifest, names, version
from scfm_registry.sharing.licensing import licence_of
from scfm_registry.version import KINDS, TRASHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scfm_lab.models.contract import Model
    from scfm_registry.reading import Reader
    from scfm_registry.source import ResolvedSource
    from scfm_registry.version import ModelVersion, Record

TAG = "scfm.parent_digest"
#: No chain is longer; one that is leads in circles.
_LONGEST_CHAIN = 32


@dataclass(frozen=True)
class Parent:
    """A version that another one was made from, as a bundle tells of it; it has no family where only its digest is known."""

    name: str
    digest: str
    family: str
    kind: str
    licence: str
    commercial: bool | None
    tags: dict[str, str]

    @property
    def folder(self) -> str:
        """Where its files lie in a bundle."""
        return f"parents/{self.digest.removeprefix('sha256:')}/"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def unknown(cls, digest: str) -> Parent:
        """One that was not there where the bundle was made, and that nothing needs."""
        return cls(f"unknown-{digest[7:15]}", digest, "", "", "", None, {})

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Parent:
        """Read what :meth:`to_dict` wrote; raises whatever a document of another form gives."""
        digest = str(said["digest"])
        if not manifest.is_digest(digest) or said["kind"] not in (KINDS if said["family"] else ("",)):
            raise ValueError(digest)
        return cls(
            name=names.check_name(said["name"]),
            digest=digest,
            family=str(said["family"]),
            kind=str(said["kind"]),
            licence=licence_of(said),
            commercial={True: True, False: False, None: None}[said["commercial"]],
            tags={str(key): str(value) for key, value in said["tags"].items()},
        )


def of(registry: Reader, found: ModelVersion, record: Record) -> list[tuple[ModelVersion, Record]]:
    """Versions that one was made from, nearest first, up to one that is not here and that opening does not take.

    Raises
    ------
    ModelError
        One that opening takes is not here, or they lead in a circle.
    """
    chain = [(found, record)]
    seen = {found.digest}
    while digest := chain[-1][0].tags.get(TAG, ""):
        if digest in seen or len(chain) > _LONGEST_CHAIN:
            raise ModelError(f"The lineage of {found.reference} leads in a circle, by its tag {TAG}.")
        seen.add(digest)
        try:
            chain.append(registry.find_digest(digest))
        except ModelError:
            if _takes_parent(registry, *chain[-1]):
                raise
            break
    return chain[1:]


def kept(registry: Reader, model: Model, path: Path) -> list[tuple[ModelVersion, Record]]:
    """Versions that a model of files is, by its list of files or its weights, and those that it was made from; nearest first.

    Copies under other names, and versions in the trash, are among them.

    Parameters
    ----------
    registry
        Where they are looked for.
    model
        As it was opened.
    path
        Its folder or file.

    Raises
    ------
    ModelError
        As for :func:`of`.
    """
    listed = path / manifest.FILENAME
    wanted = [(f"sha256:{manifest.sha256(listed)}" if listed.is_file() else "", model.digest)]
    for tuning in model.finetuning.chain if model.finetuning is not None else ():
        told = tuning.record["parent"]
        wanted.append((str(told["digest"]), str(told.get("weights", ""))))
    found: dict[str, tuple[ModelVersion, Record]] = {}
    for digest, weights in wanted:
        for record in _holders(registry, digest, weights):
            item = version.read(record) or version.read(record, trashed=True)
            if item is not None and item.reference not in found:
                found[item.reference] = item, record
                for parent in of(registry, item, record):
                    found.setdefault(parent[0].reference, parent)
    return list(found.values())


def _holders(registry: Reader, digest: str, weights: str) -> list[Record]:
    """Versions with a digest or with weights, those in the trash last."""
    store = registry._store  # noqa: SLF001 - the registry's own parts
    keys = {"scfm.digest": digest, "scfm.weights": weights, "scfm.stored_weights": weights}
    records = [r for key, value in keys.items() if manifest.is_digest(value) for r in store.records(tags={key: value})]
    return sorted(records, key=lambda record: (TRASHED in record.tags, record.created))


def _takes_parent(registry: Reader, found: ModelVersion, record: Record) -> bool:
    """Whether a version is kept as what changed, and not whole."""
    from scfm_lab.models.finetuned import RECORD

    told = files.contents(registry._store, found, record, RECORD.__eq__).get(RECORD)  # noqa: SLF001 - the registry's own parts
    if told is None:
        return False
    try:
        return bool(json.loads(told)["storage"] != "full")
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def places(registry: Reader, found: ModelVersion, record: Record) -> dict[str, dict[str, str]]:
    """Checked files of what a version was made from, for a process that opens it: digest → ``folder``, ``family``."""
    store = registry._store  # noqa: SLF001 - the registry's own parts
    return {
        item.digest: {"folder": str(files.checked(store, item, known)), "family": item.family}
        for item, known in of(registry, found, record)
    }


def name_for(parent: Parent, taken: list[str]) -> str:
    """What a parent is called where its name may mean another model: its own name, or that and a part of its digest."""
    from scfm_registry import builtin

    if parent.name not in taken and parent.name not in builtin.shipped():
        return parent.name
    return f"{parent.name[:50]}-{parent.digest[7:15]}"


@dataclass(frozen=True)
class Beside:
    """Stands for a registry while a version is opened whose parents lie in folders: checked files by digest."""

    folders: Mapping[str, tuple[Path, str]]
    """Digest → folder, id of the adapter."""

    def resolve_to_open(self, reference: str) -> ResolvedSource:
        """Find the files that ``models:/sha256:…`` means; nothing else has a meaning here.

        Raises
        ------
        ModelError
            They are not among the folders, or not what they were.
        """
        from scfm_registry.importing import config_of
        from scfm_registry.source import ResolvedSource

        digest = names.parse(reference).digest or ""
        if digest not in self.folders:
            raise ModelError(f"{reference} was not given.")
        folder, adapter = self.folders[digest]
        listed = manifest.registered(folder, digest, reference)
        # Whoever opens them hashes the weights as they are read.
        files.require_ok(manifest.compare(folder, listed, deferred=".safetensors"), folder, reference)
        hashes = {path: entry.sha256 for path, entry in listed.files.items()}
        return ResolvedSource(folder, "parent", 1, None, digest, adapter, config_of(folder), hashes)


@contextmanager
def beside(given: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Open what was made from versions in these folders in the block: digest → ``folder``, ``family``."""
    from scfm_registry import source

    with source.using(Beside({key: (Path(item["folder"]), item["family"]) for key, item in given.items()})):
        yield
