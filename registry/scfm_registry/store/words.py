"""What MLflow and its server say when something is wrong, in one sentence for people."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError
from scfm_registry.version import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_registry.store.place import Place


class Denied(StorageError):
    """A server does not let this person do this."""


def unreachable(place: Place, error: Exception) -> StorageError:
    """Say that a server does not answer, and what to do about it."""
    return StorageError(
        f"The registry at {place.shown} does not answer ({type(error).__name__}). Start the server, or unset "
        "MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI to use the embedded registry."
    )


def in_words(error: Any, where: str) -> StorageError:
    """Put an error of MLflow's, or of its database, into one sentence about the registry at `where`."""
    text = str(error)
    for sign, reason in (
        ("database or disk is full", "the disk is full; free some space and try again"),
        ("disk I/O error", "the disk refused to write; is it full, or over its quota?"),
        ("readonly database", "it is read-only; set SCFM_HOME to a directory you can write to"),
        ("unable to open database", "its database cannot be opened; look at the permissions of its folder"),
        ("database is locked", "another process has kept its database busy; try again"),
    ):
        if sign in text:
            return StorageError(f"The registry in {where} cannot be used: {reason}.")
    if "malformed" in text or "not a database" in text:
        return StorageError(
            f"The registry's database in {where} is damaged. Run 'scfm-lab registry check' to see how to go on."
        )
    code = getattr(error, "error_code", "")
    if code == "UNAUTHENTICATED" or "not authenticated" in text:
        return StorageError(
            f"The registry at {where} wants a name and the right password; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )
    if code == "PERMISSION_DENIED":
        if "Host header" in text or "Cross-origin" in text:
            return StorageError(
                f"The server does not answer under the name {where}; whoever runs it can add it with --allowed-host."
            )
        return Denied(
            f"The registry at {where} does not let you do this; ask its admin (scfm-lab registry add-person), or do it under "
            "a name of your own."
        )
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return StorageError(f"The registry in {where} cannot do this: {shown(first, 500)}")


def is_missing(error: Any) -> bool:
    """Whether MLflow says that there is no such model, version or alias."""
    # An unknown alias of a known model is INVALID_PARAMETER_VALUE to MLflow.
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def is_denied(error: Any) -> bool:
    """Whether a server says that this person may not."""
    return getattr(error, "error_code", "") == "PERMISSION_DENIED"


def tell_denied(what: str, references: Iterable[str], then: str) -> None:
    """Warn of versions of other people whose tags a server does not let this person set.

    Parameters
    ----------
    what
        What was to be done to them, such as ``"flagged"``.
    references
        Which; nothing is said where there are none.
    then
        What holds all the same, or what to do: a sentence.
    """
    if named := ", ".join(references):
        warnings.warn(f"Not {what}, since the server does not let you: {named}. {then}", RuntimeWarning, stacklevel=4)
