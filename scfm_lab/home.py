"""Where scfm-lab keeps what outlives a session: the user's data directory."""

from __future__ import annotations

import os
from pathlib import Path

from scfm_lab.errors import StorageError


def data_home() -> Path:
    """Directory of the registry, datasets and caches; made when it is not there.

    Returns
    -------
    Path
        ``$SCFM_HOME`` if set, else the platform's user data directory.

    Raises
    ------
    StorageError
        If the directory cannot be made or written to.
    """
    given = os.environ.get("SCFM_HOME")
    if given:
        home = Path(given).expanduser().absolute()
    else:
        import platformdirs

        home = Path(platformdirs.user_data_dir("scfm-lab", appauthor=False))
    if home.exists() and not home.is_dir():
        raise StorageError(f"The data directory {home} is a file. Set SCFM_HOME to a directory you can write to.")
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The data directory {home} cannot be made ({error.strerror}). "
            "Set SCFM_HOME to a directory you can write to."
        ) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise StorageError(f"The data directory {home} is read-only. Set SCFM_HOME to a directory you can write to.")
    return home
