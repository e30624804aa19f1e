"""Checking versions: the part of a registry that says whether a version still is what was registered."""

from __future__ import annotations

from scfm_registry import files, manifest, names
from scfm_registry.files import Verification
from scfm_registry.reading import Reader


class Verifier(Reader):
    """What compares a version with what is on record about it."""

    def verify(self, reference: str) -> Verification:
        """Compare every file of a version with the hash under which it was registered.

        Raises
        ------
        ModelError
            The version is unknown, or its manifest itself is missing or not the one on record.
        """
        found, record = self._find(names.parse(reference))
        folder = files.local(self._store, found, record)
        return Verification(found, manifest.check(folder, found.digest, found.reference))
