"""Versions straight from MLflow's tables, where the database is opened directly; a server is asked through MLflow.

Only reading. MLflow itself takes seconds to import, which a process that only looks need not wait for, and its own search groups all
tags of the registry twice for every page. Here one question finds the versions, each condition by the primary key of the tags;
a second one reads the tags of those that were found, and a third their aliases.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from scfm_registry.store.words import in_words
from scfm_registry.version import Record, when

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Engine, TableClause

    from scfm_registry.store.place import Place

#: Numbers of versions that one question about tags names; SQLite takes 32,766 values at once.
_MOST = 5_000
#: Names of models that one question about aliases names; of more, all aliases are read.
_NAMED = 1_000
#: The tag that the registry's own index of a SQLite database is over.
_DIGEST = "scfm.digest"
#: Tags that few versions share: those are found by their values, and not by looking at every version.
_TELLING = ("digest", ".weights")
#: MLflow's word for a version that was deleted, its tag of prompts, which it keeps as versions too, and the one workspace of a
#: database that no server divides.
DELETED, _PROMPT, WORKSPACE = "Deleted_Internal", "mlflow.prompt.is_prompt", "default"


@cache
def connections(uri: str) -> Engine:
    """Connections to a database. A file is opened for each question, so that it may be moved or replaced in between."""
    from sqlalchemy import NullPool, create_engine

    if uri.startswith("sqlite"):
        return create_engine(uri, poolclass=NullPool, connect_args={"timeout": 30})
    return create_engine(uri, pool_pre_ping=True)


@contextmanager
def _asking(place: Place) -> Iterator[Connection]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with connections(place.uri).connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise in_words(error, place.shown) from error


def _table(name: str, *columns: str) -> TableClause:
    from sqlalchemy import column, table

    return table(name, *map(column, ("workspace", "name", *columns)))


def read(
    place: Place,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    version: int | None = None,
    after: tuple[str, int] | None = None,
    count: int | None = None,
) -> list[Record]:
    """Versions by name and newest first.

    Parameters
    ----------
    place
        A registry whose database is opened directly.
    name, version
        Of one model only, and of its versions only one.
    tags
        All must be equal.
    after, count
        Only so many, after the version of this name and number; all by default.

    Raises
    ------
    StorageError
        The database cannot be read.
    """
    from sqlalchemy import exists, literal_column, select, tuple_

    versions = _table("model_versions", "version", "description", "source", "creation_time", "current_stage")
    own, tag = versions.c, _table("model_version_tags", "version", "key", "value")
    of_version = (tag.c.workspace == own.workspace, tag.c.name == own.name, tag.c.version == own.version)
    query = select(own.name, own.version, own.description, own.source, own.creation_time).where(
        own.workspace == WORKSPACE,
        own.current_stage != DELETED,
        ~exists().where(*of_version, tag.c.key == _PROMPT, tag.c.value == "true"),
    )
    if name is not None:
        query = query.where(own.name == name)
    if version is not None:
        query = query.where(own.version == version)
    for key, value in (tags or {}).items():
        if name is None and key.endswith(_TELLING):
            # SQLite takes that index only where the key stands in the question itself, and is not given beside it.
            named = literal_column(f"'{_DIGEST}'") if key == _DIGEST else key
            same = select(tag.c.name, tag.c.version).where(
                tag.c.workspace == WORKSPACE, tag.c.key == named, tag.c.value == value
            )
            query = query.where(tuple_(own.name, own.version).in_(same))
            continue
        query = query.where(exists().where(*of_version, tag.c.key == key, tag.c.value == value))
    if after is not None:
        # By name first, so that SQLite begins there and reads nothing that lies before.
        query = query.where(own.name >= after[0], ~((own.name == after[0]) & (own.version >= after[1])))
    query = query.order_by(own.name, own.version.desc()).limit(count)
    with _asking(place) as connection:
        rows = connection.execute(query).all()
        known = _tags(connection, [(row.name, row.version) for row in rows])
        aliases = _aliases(connection, {row.name for row in rows})
    return [
        Record(
            name=row.name,
            version=int(row.version),
            aliases=tuple(sorted(aliases.get((row.name, row.version), ()))),
            tags=known.get((row.name, row.version), {}),
            description=row.description or "",
            source=row.source or "",
            created=when(int(row.creation_time)),
        )
        for row in rows
    ]


def aliased(place: Place, name: str, alias: str) -> int | None:
    """Number of the version that an alias points at."""
    from sqlalchemy import select

    table = _table("registered_model_aliases", "alias", "version").c
    query = select(table.version).where(table.workspace == WORKSPACE, table.name == name, table.alias == alias)
    with _asking(place) as connection:
        return connection.execute(query).scalar()


def model_tag(place: Place, name: str, key: str) -> str:
    """A tag of a model; empty where there is no such model or tag."""
    from sqlalchemy import select

    table = _table("registered_model_tags", "key", "value").c
    query = select(table.value).where(table.workspace == WORKSPACE, table.name == name, table.key == key)
    with _asking(place) as connection:
        return str(connection.execute(query).scalar() or "")


def _tags(connection: Connection, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], dict[str, str]]:
    """Tags of versions by name and number."""
    from sqlalchemy import select, tuple_

    table = _table("model_version_tags", "version", "key", "value").c
    found: dict[tuple[str, int], dict[str, str]] = {}
    for begin in range(0, len(wanted), _MOST):
        some = wanted[begin : begin + _MOST]
        # Two lists beside the pairs: SQLite uses MLflow's index over names and numbers for lists only.
        query: Any = select(table.name, table.version, table.key, table.value).where(
            table.workspace == WORKSPACE,
            table.name.in_({name for name, _ in some}),
            table.version.in_({version for _, version in some}),
            tuple_(table.name, table.version).in_(some),
        )
        for name, version, key, value in connection.execute(query):
            found.setdefault((name, version), {})[str(key)] = str(value)
    return found


def _aliases(connection: Connection, names: set[str]) -> dict[tuple[str, int], list[str]]:
    """Aliases by name and version: a model asked of MLflow by name would bring all its versions along."""
    from sqlalchemy import select

    table = _table("registered_model_aliases", "alias", "version").c
    query = select(table.name, table.alias, table.version).where(table.workspace == WORKSPACE)
    if len(names) <= _NAMED:
        query = query.where(table.name.in_(names))
    found: dict[tuple[str, int], list[str]] = {}
    for name, alias, version in connection.execute(query):
        found.setdefault((name, version), []).append(alias)
    return found
