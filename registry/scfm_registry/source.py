"""How ``sl.load_model("models:/starter@champion")`` reaches the registry."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from scfm_lab.models.contract import Model
    from scfm_registry.registry import Registry


@dataclass(frozen=True)
class ResolvedSource:
    """A version's files on this machine, checked against their hashes, and what to say about where they came from.

    Attributes
    ----------
    path
        Folder of the files.
    name, version, alias
        Which version; `alias` is the one it was found by, or ``None``.
    digest
        ``"sha256:<64 hex>"``: its identity.
    adapter
        Id of the model plugin that opens it.
    config
        What the files do not say, as it was given when they were imported.
    hashes
        SHA-256 of every file, by its relative path: who opens them reads them under :func:`scfm_lab.models.pinned.pinned`, since
        weights that are read into memory are hashed there, and not twice.
    provenance
        The same as a flat dictionary, for results.
    anew
        Puts this machine's copy of a server's version aside and fetches it again, for whoever finds it damaged; ``None`` where the
        files themselves lie here.
    """

    path: Path
    name: str
    version: int
    alias: str | None
    digest: str
    adapter: str
    config: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict, repr=False)
    provenance: dict[str, Any] = field(default_factory=dict)
    anew: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def family(self) -> str:
        """The same as `adapter`."""
        return self.adapter


def open_source(reference: str) -> ResolvedSource:
    """Find what ``models:/name@alias`` or ``models:/name/3`` means in the registry that the environment names.

    Raises
    ------
    ModelError
        There is no such version, or one of its files is damaged.
    StorageError
        The registry cannot be used.
    """
    return environment().resolve_to_open(reference)


def environment() -> Registry:
    """The registry in use: the one whose version is being opened, else the one that the environment names."""
    from scfm_registry.store.place import resolve

    here = _current.get()
    return here if here is not None else _registry(resolve().uri)


#: The registry whose version is being opened: what it was made from is looked for there.
_current: ContextVar[Any] = ContextVar("scfm_registry", default=None)


@contextmanager
def using(registry: Any) -> Iterator[None]:
    """References that are opened in the block are looked up in `registry`, and not in the environment's."""
    token = _current.set(registry)
    try:
        yield
    finally:
        _current.reset(token)


@functools.lru_cache(maxsize=4)
def _registry(uri: str) -> Registry:
    """One opened registry per address and process: opening one again costs a check of its database."""
    from scfm_registry.registry import Registry

    del uri  # the key; the registry finds the same address from the same environment
    return Registry()


def open_model(
    source: ResolvedSource, device: str = "auto", precision: str = "auto", config: Mapping[str, Any] | None = None
) -> Model:
    """Open a resolved version with the installed adapter of its family; a tag never decides what code runs.

    Raises
    ------
    ModelError
        No installed plugin has that adapter, or what was opened is not what was checked.
    """
    from scfm_lab.plugins import discover

    adapters = {item.id: item for item in discover().contributions("models")}
    label = f"{source.name}/{source.version}"
    if source.adapter not in adapters:
        message = (
            f"{label} needs the model plugin '{source.adapter}', which is not installed; installed are "
            f"{', '.join(sorted(adapters))}."
        )
        raise ModelError(message)
    from scfm_lab.models.load import open_resolved

    settings = {**source.config, **(config or {})}
    model = open_resolved(source, config=settings or None)
    model.path, model.version, model.source = source.path, label, f"models:/{label}"
    model.registered_as, model.registered_digest = source.name, source.digest
    # As sl.load_model tells: what a model was opened with decides whether vectors that were computed before are its own.
    model.opened = {"config": settings, "files": {}}
    model.asked = {"config": dict(config)} if config else {}
    return model.to(device, precision)
