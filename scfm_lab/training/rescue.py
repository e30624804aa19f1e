"""A model that took hours to train and could not be registered: it is kept in a folder, which the message names."""

from __future__ import annotations

import shlex
import tempfile
import time
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ScfmError, StorageError
from scfm_lab.home import data_home

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_lab.training.finetune_result import FineTuneResult


def register(result: FineTuneResult, name: str, *, consent: str | None = None, written: Path | None = None) -> Any:
    """Register what was trained; where that fails, say where the model lies.

    Parameters
    ----------
    result, name, consent
        As for :meth:`scfm_lab.training.finetune_result.FineTuneResult.register`.
    written
        Where it was written already; otherwise it is written now if it cannot be registered.

    Raises
    ------
    ScfmError
        Of the kind that the registry raised, with the folder and the commands that go on from it.
    """
    try:
        return result.register(name, consent=consent)
    # Also somebody's Ctrl-C, who does not wait any longer for a server.
    except (Exception, KeyboardInterrupt) as error:
        folder = written or _saved(result, name)
        kind = type(error) if isinstance(error, ScfmError) else StorageError
        why = (
            str(error) if isinstance(error, ScfmError) else f"It was not registered ({error or type(error).__name__})."
        )
        said = f" --name {name}" + (f" --consent {consent}" if consent else "")
        place = shlex.quote(str(folder))
        raise kind(
            f"{why} The trained model is kept in {folder}: 'scfm-lab models import {place}{said}' registers it later, and "
            f"'scfm-lab models spool {place}{said} --to SPOOL' where there is no network."
        ) from error


def _saved(result: FineTuneResult, name: str) -> Path:
    """Write it into the data directory, or, where that is full or closed, among the system's temporary files."""
    try:
        return result.save(data_home() / "rescued" / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}")
    except OSError:
        return result.save(tempfile.mkdtemp(prefix="scfm-rescued-"))
