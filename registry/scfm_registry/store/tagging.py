"""Tags of a version, all of them or none, where the database is opened directly.

MLflow sets one tag at a time, each in a transaction of its own: what ends its process in between leaves a part of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import StorageError
from scfm_registry.store import listing
from scfm_registry.store.words import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_registry.store.place import Place

_THERE = (
    "SELECT 1 FROM model_versions WHERE workspace = :workspace AND name = :name AND version = :version "
    "AND current_stage <> :deleted"
)
_SET = (
    "INSERT INTO model_version_tags (workspace, name, version, key, value) "
    "VALUES (:workspace, :name, :version, :key, :value) "
    "ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value"
)


def write(place: Place, name: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a version in one transaction.

    Raises
    ------
    StorageError
        There is no such version, or the database cannot be written; then none of them is set.
    """
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    if not tags:
        return
    meant = {"workspace": listing.WORKSPACE, "name": name, "version": version}
    try:
        with listing.connections(place.uri).begin() as connection:
            if connection.execute(text(_THERE), {**meant, "deleted": listing.DELETED}).first() is None:
                message = f"{name}/{version} is not in the registry in {place.shown} any more; nothing was changed."
                raise StorageError(message)
            connection.execute(text(_SET), [{**meant, "key": key, "value": value} for key, value in tags.items()])
    except SQLAlchemyError as error:
        raise in_words(error, place.shown) from error
