"""What can go wrong, in words.

Every error that a user can cause is a :class:`ScfmError` whose message says what
is wrong, where, and what to do. The standard base beside it keeps ``except
ValueError`` working.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ScfmError(Exception):
    """Base of all errors that scfm-lab raises on purpose."""


class CountsError(ScfmError, ValueError):
    """The matrix is not one of raw counts."""


class GenesError(ScfmError, ValueError):
    """Genes are unknown, doubled or missing."""


class ModelError(ScfmError, ValueError):
    """A model is unknown, damaged, or cannot do what was asked."""


class DataError(ScfmError, ValueError):
    """An AnnData, a column or an argument does not fit the question."""


class StorageError(ScfmError, OSError):
    """A directory, file or database cannot be used."""


class PluginError(ScfmError):
    """A plugin's manifest or code is at fault."""


class Cancelled(ScfmError):
    """The work was stopped on request; nothing was written."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Names of `known` most like `name`, case ignored, best first."""
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(str(candidate).casefold(), str(candidate))
    hits = difflib.get_close_matches(str(name).casefold(), list(folded), n=n, cutoff=0.6)
    return [folded[hit] for hit in hits]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'CD3D'?``, or an empty text where nothing is near."""
    hits = nearest(name, known)
    if not hits:
        return ""
    return " Did you mean " + " or ".join(repr(hit) for hit in hits) + "?"


def plural(n: int, one: str, many: str) -> str:
    """``1 cell has`` or ``1,200 cells have``: a number with the words that go with it."""
    return f"{n:,} {one if n == 1 else many}"
