"""Versions straight from MLflow's tables: its own search groups all tags of the registry twice for every page.

Only reading, and only where the database is opened directly; a server is asked through MLflow. One question finds the versions,
each condition by the primary key of the tags; a second one reads the tags of those that were found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_registry.version import Record, when

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Numbers of versions that one question about tags names; SQLite takes 32,766 values at once.
_MOST = 5_000
#: Tags that few versions share: those are found by their values, and not by looking at every version.
_TELLING = ("digest", ".weights")


def read(
    store: Any, name: str | None, tags: Mapping[str, str], begin: int = 0, count: int | None = None
) -> list[Record]:
    """Versions by name and newest first, without their aliases.

    Parameters
    ----------
    store
        MLflow's store of models on a database.
    name
        Of one model only.
    tags
        All must be equal.
    begin, count
        Which of them: `count`, from the one numbered `begin`; all by default.
    """
    from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag as Tag
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelTag as ModelTag
    from sqlalchemy import exists, select, tuple_

    columns = (Version.name, Version.version, Version.description, Version.source, Version.creation_time)
    query: Any = select(*columns).where(
        *store._get_workspace_clauses(Version),  # noqa: SLF001 - MLflow has no such question
        Version.current_stage != STAGE_DELETED_INTERNAL,
        # MLflow keeps prompts as models too.
        ~exists().where(
            *(ModelTag.workspace == Version.workspace, ModelTag.name == Version.name),
            *(ModelTag.key == "mlflow.prompt.is_prompt", ModelTag.value == "true"),
        ),
    )
    if name is not None:
        query = query.where(Version.name == name)
    for key, value in tags.items():
        if name is None and key.endswith(_TELLING):
            here = store._get_workspace_clauses(Tag)  # noqa: SLF001
            same: Any = select(Tag.name, Tag.version).where(*here, Tag.key == key, Tag.value == value)
            query = query.where(tuple_(Version.name, Version.version).in_(same))
            continue
        of_version = (Tag.workspace == Version.workspace, Tag.name == Version.name, Tag.version == Version.version)
        query = query.where(exists().where(*of_version, Tag.key == key, Tag.value == value))
    query = query.order_by(Version.name, Version.version.desc()).offset(begin or None).limit(count)
    with store.ManagedSessionMaker() as session:
        rows = session.execute(query).all()
        known = _tags(session, store, [(row.name, row.version) for row in rows])
    return [
        Record(
            name=row.name,
            version=int(row.version),
            aliases=(),
            tags=known.get((row.name, row.version), {}),
            description=row.description or "",
            source=row.source or "",
            created=when(int(row.creation_time)),
        )
        for row in rows
    ]


def _tags(session: Any, store: Any, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], dict[str, str]]:
    """Tags of versions by name and number."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag as Tag
    from sqlalchemy import select, tuple_

    found: dict[tuple[str, int], dict[str, str]] = {}
    for begin in range(0, len(wanted), _MOST):
        some = wanted[begin : begin + _MOST]
        # Two lists beside the pairs: SQLite uses MLflow's index over names and numbers for lists only.
        query: Any = select(Tag.name, Tag.version, Tag.key, Tag.value).where(
            *store._get_workspace_clauses(Tag),  # noqa: SLF001
            Tag.name.in_({name for name, _ in some}),
            Tag.version.in_({version for _, version in some}),
            tuple_(Tag.name, Tag.version).in_(some),
        )
        for name, version, key, value in session.execute(query):
            found.setdefault((name, version), {})[str(key)] = str(value)
    return found
