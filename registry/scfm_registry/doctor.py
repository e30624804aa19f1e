"""What ``scfm-lab doctor`` asks the registry: whether it opens, and what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def check() -> Iterator[tuple[str, str, str]]:
    """Look at what protects an import here, and open the registry that the environment names, as any notebook would.

    Yields
    ------
    What was looked at, ``"ok"`` or ``"note"``, and what was found.

    Raises
    ------
    StorageError
        The registry cannot be used; the doctor tells why.
    """
    from scfm_registry import confining
    from scfm_registry.registry import Registry
    from scfm_registry.store.place import resolve

    yield "isolation", *confining.finding()
    found = Registry().search()
    # Not the address itself, which may hold a password.
    where = resolve().shown
    names = ", ".join(sorted(item.name for item in found)[:8])
    if found:
        yield "registry", "ok", f"{len(found)} models at {where}: {names}{', …' if len(found) > 8 else ''}"
    else:
        yield "registry", "note", f"No models at {where} yet; bring one with `scfm-lab models import`."
