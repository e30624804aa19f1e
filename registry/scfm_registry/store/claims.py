"""One at a time on a server: who may look at an alias and then move it.

MLflow sets an alias without looking at where it points. What it does do atomically is to create a registered model, since names
are unique; so the model ``scfm.claim.<what>`` is a claim: whoever creates it goes on, the others wait until it is gone. A claim
of a process that died is put aside after a minute, by whoever creates the claim on that very claim first. What is promised: of several people who promote at once and expect the same
holder, at most one succeeds, as long as none of them stands still for a minute between looking and setting, and all use
scfm-lab. Whoever sets aliases through MLflow itself is not bound by claims.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow import MlflowClient

PREFIX = "scfm.claim."
_WAIT, _OLD = 90.0, 60.0


@contextmanager
def claimed(client: MlflowClient, what: str, errors: type[Exception]) -> Iterator[Callable[[], None]]:
    """Hold the claim on `what`; what is given raises StorageError once it is lost, and is to be called just before the change.

    Parameters
    ----------
    client
        MLflow's.
    what
        Such as ``"scgpt-human.champion"``.
    errors
        MLflow's kind of exception.

    Raises
    ------
    StorageError
        Somebody holds it for longer than a minute and a half.
    """
    name, token = PREFIX + what, secrets.token_hex(8)
    until, seen = time.monotonic() + _WAIT, ("", time.monotonic())
    while not _create(client, name, token, errors):
        holder = _holder(client, name, errors)
        if holder != seen[0]:
            seen = (holder, time.monotonic())
        elif holder and time.monotonic() - seen[1] > _OLD:
            # Its process died. It is measured by this machine's clock alone, since others' may be wrong.
            _put_aside(client, name, holder, errors)
        if time.monotonic() > until:
            message = (
                f"Somebody has been changing {what} for {_WAIT:.0f} seconds; nothing was changed. If nobody is, an admin "
                f"can delete the registered model '{name}' in MLflow."
            )
            raise StorageError(message)
        time.sleep(0.05)

    def sure() -> None:
        if _holder(client, name, errors) != token:
            message = f"Changing {what} took so long that somebody else may be at it; nothing was changed. Try again."
            raise StorageError(message)

    try:
        yield sure
    finally:
        with suppress(errors):
            # Who stood still for too long has lost it, and must not take away another's.
            if _holder(client, name, errors) == token:
                client.delete_registered_model(name)


def _put_aside(client: MlflowClient, name: str, holder: str, errors: type[Exception]) -> None:
    """Delete the claim of a holder who died, and no other's: of several who wait one does it, and looks again before."""
    mine = f"{name}.{holder}"
    with suppress(errors):
        if _create(client, mine, holder, errors):
            try:
                if _holder(client, name, errors) == holder:
                    client.delete_registered_model(name)
            finally:
                client.delete_registered_model(mine)


def _create(client: MlflowClient, name: str, token: str, errors: type[Exception]) -> bool:
    try:
        client.create_registered_model(name, tags={"scfm.claim": token})
    except errors as error:
        # A server that finds the name taken looks its model up to say so, and does not find it where the claim was just given back.
        if getattr(error, "error_code", "") in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            return False
        raise
    return True


def _holder(client: MlflowClient, name: str, errors: type[Exception]) -> str:
    try:
        found: Any = client.get_registered_model(name)
    except errors:
        return ""
    return str((found.tags or {}).get("scfm.claim", ""))
