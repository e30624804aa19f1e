"""Who has which alias, as whoever works with a registry has last seen it: what a promotion expects unless it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_registry.version import ModelVersion

#: What an alias is said to point at that was not looked at, or left the version that was seen with it.
UNKNOWN: Final = -1


class Holders:
    """What one opened registry has shown of aliases."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int | None] = {}
        self._whole: set[str] = set()

    def saw(self, found: Iterable[ModelVersion], *, whole: str = "") -> None:
        """Remember the aliases of versions that were shown; `whole` names a model of which these are all."""
        shown = {(item.name, item.version): item.aliases for item in found}
        for (name, alias), version in list(self._seen.items()):
            if name == whole:
                self._seen[name, alias] = None
            elif version is not None and alias not in shown.get((name, version), (alias,)):
                self._seen[name, alias] = UNKNOWN
        if whole:
            self._whole.add(whole)
        for (name, version), aliases in shown.items():
            self._seen |= {(name, alias): version for alias in aliases}

    def told(self, name: str, alias: str, version: int | None) -> None:
        """Remember what an alias was said to point at; None is nothing."""
        self._seen[name, alias] = version

    def of(self, name: str, alias: str) -> int | None:
        """The version that an alias was last seen at; None where nobody had it, :data:`UNKNOWN` where nobody looked."""
        return self._seen.get((name, alias), None if name in self._whole else UNKNOWN)
