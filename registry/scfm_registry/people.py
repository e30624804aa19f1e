"""Who is at work: the name that goes into records."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scfm_registry.store.place import Place

_LONGEST = 100


def who(place: Place) -> str:
    """Name of whoever uses the registry: the one a server was logged into with, else the system's.

    A server with log-in checks that name; in a folder of one's own it is what the system says, and nobody checks it.

    Examples
    --------
    >>> from scfm_registry.store.place import resolve
    >>> who(resolve())                                          # doctest: +SKIP
    'anna'
    """
    name = "" if place.embedded else _logged_in()
    if not name:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):
            # A container's user need not have a name.
            name = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return "".join(letter for letter in name if letter.isprintable())[:_LONGEST] or "unknown"


def _logged_in() -> str:
    from scfm_registry.store import login

    return login.name()
