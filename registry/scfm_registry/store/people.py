"""Who may come in: people of a server with log-in.

MLflow lets anybody with a name read, and make models of their own. The files of versions, though, belong to one experiment that
all of them share, and whoever did not make it may put nothing there; so members get a role that lets them.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from scfm_lab.errors import StorageError
from scfm_registry.store.engine import EXPERIMENT, knock, mlflow_module, quiet
from scfm_registry.store.place import resolve
from scfm_registry.store.words import in_words

if TYPE_CHECKING:
    from pathlib import Path

#: MLflow's role that lets people register models.
MEMBERS = "scfm-members"
#: Shorter passwords are refused by MLflow itself.
SHORTEST = 12

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_MAY = {
    "reader": "read models",
    "member": "read models and register their own",
    "admin": "do everything",
}


def add(
    uri: str | None, name: str, *, kind: Literal["reader", "member", "admin"] = "member", file: Path | None = None
) -> dict[str, Any]:
    """Let somebody in.

    Parameters
    ----------
    uri
        The server's address; ``None`` takes the environment's.
    name
        What they are called there.
    kind
        ``"reader"``: may read; ``"member"``: may also register; ``"admin"``: may do everything.
    file
        Holds their password; without it one is made.

    Returns
    -------
    dict
        ``address``, ``name``, ``kind``, ``may`` in words, and ``password`` (``None`` where it came from a file).

    Raises
    ------
    StorageError
        There is no server with log-in, the name is taken or cannot be one, or you are no admin there.
    """
    place = resolve(uri)
    if place.embedded:
        message = (
            f"The registry in {place.shown} is a folder of this machine's; names and passwords belong to a server."
        )
        raise StorageError(message)
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot be somebody's name here: use up to 100 letters, digits, and . _ @ -"
        raise StorageError(message)
    password = secrets.token_urlsafe(18) if file is None else _read(file)
    knock(place)
    with quiet():
        mlflow = mlflow_module()
        from mlflow.server import get_app_client

        server = get_app_client("basic-auth", tracking_uri=place.uri)
        try:
            server.create_user(name, password)
            try:
                if kind == "admin":
                    server.update_user_admin(name, True)
                elif kind == "member":
                    server.assign_role(name, _role(server, mlflow.MlflowClient(place.tracking_uri, place.uri)))
            except BaseException:
                # Nobody was told the password, and the name would be taken for good.
                with suppress(mlflow.MlflowException):
                    server.delete_user(name)
                raise
        except mlflow.MlflowException as error:
            raise _why(error, name, place.shown) from error
    return {
        "address": place.shown,
        "name": name,
        "kind": kind,
        "may": _MAY[kind],
        "password": password if file is None else None,
    }


def _role(server: Any, client: Any) -> int:
    """Find the members' role, or make it, with leave to put files into the experiment that holds them."""
    known = next((role for role in server.list_all_roles() if role.name == MEMBERS), None)
    role = known or server.create_role("default", MEMBERS, "May register models.")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    granted = {(item.resource_type, str(item.resource_pattern)) for item in server.list_role_permissions(role.id)}
    if ("experiment", str(number)) not in granted:
        server.add_role_permission(role.id, "experiment", str(number), "EDIT")
    return int(role.id)


def _read(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"The password cannot be read from {file} ({error})."
        raise StorageError(message) from error
    if len(password) < SHORTEST:
        message = f"The password in {file} has {len(password)} characters; it needs at least {SHORTEST}."
        raise StorageError(message)
    return password


def _why(error: Any, name: str, where: str) -> StorageError:
    code, text = getattr(error, "error_code", ""), str(error)
    if code == "RESOURCE_ALREADY_EXISTS" or "already exists" in text:
        return StorageError(f"Somebody is called '{name}' at {where} already; choose another name.")
    if "404" in text or code == "ENDPOINT_NOT_FOUND":
        return StorageError(f"The server at {where} has no log-in; start it with 'scfm-lab registry serve'.")
    return in_words(error, where)
