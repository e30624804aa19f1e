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

    A server with log-in checks that name; in a folder it is the system's for the user whose process this is.

    Examples
    --------
    >>> from scfm_registry.store.place import resolve
    >>> who(resolve())                                          # doctest: +SKIP
    'anna'
    """
    name = "" if place.embedded else _logged_in()
    if not name:
        name = of_system()
    return "".join(letter for letter in name if letter.isprintable())[:_LONGEST] or "unknown"


def of_system() -> str:
    """Name of the user whose process this is: the system's word, and no variable's (``LOGNAME``) that anybody can set."""
    if not hasattr(os, "getuid"):
        return getpass.getuser()
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container's user need not have a name.
        return f"uid-{os.getuid()}"


def _logged_in() -> str:
    from scfm_registry.store import login

    return login.name()
