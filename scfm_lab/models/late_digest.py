"""A digest that is worked out when it is first asked for, of the files as they were when the model was opened.

Hashing the gigabytes that UCE and TranscriptFormer map into memory would take longer than opening them. A file that was replaced
meanwhile is another one: its hash would name weights that nothing was computed with.
"""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Stamps = Mapping[Path, tuple[int, ...]]


class LateDigest:
    """Part of a model whose digest comes late; what opens it gives :attr:`opened_files`."""

    opened_files: Stamps = MappingProxyType({})
    """Stamps of the files that the digest is of, taken before they were read (:func:`stamps`)."""

    if TYPE_CHECKING:

        def published_digest(self, published: Mapping[Path, str]) -> str:
            """As :meth:`scfm_lab.models.contract.Model.published_digest`, which every family with a late digest has its own of."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files that tensors were read from.

        Raises
        ------
        ModelError
            One of them was deleted, replaced or written to since the model was opened.
        """
        for path, stamp in self.opened_files.items():
            if _stamp(path) != stamp:
                raise ModelError(f"{path} has changed since the model was opened; open it again.")
        return self.published_digest({})


def stamps(paths: Iterable[Path]) -> Stamps:
    """What tells a file from one that replaces it: number, size and time."""
    return {path: _stamp(path) for path in map(stored, paths)}


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        told = path.stat()
    except FileNotFoundError:
        return ()
    return told.st_ino, told.st_size, told.st_mtime_ns
