"""The audit trail, as the registry gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_registry import names
from scfm_registry.reading import Reader

if TYPE_CHECKING:
    from scfm_registry.audit import Trail


class Auditor(Reader):
    """What tells who did what, and when."""

    def audit(self, name: str | None = None) -> Trail:
        """Who did what, when, to which version: lines that are only added, and chained so that a change is noticed.

        Parameters
        ----------
        name
            A model, whose lines are given; all by default. The whole trail is checked in any case.

        Returns
        -------
        Trail
            Lines, and what is wrong with the trail; ``.summary()``, ``.table``, ``.ok``.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> Registry().audit("starter").ok
        True
        """
        from scfm_registry import audit

        return audit.read(self._store, None if name is None else names.parse(name).name)
