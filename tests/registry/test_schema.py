"""A registry that an older MLflow made is migrated, after a copy of it was put beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from scfm_lab.errors import StorageError
from scfm_registry import Registry
from scfm_registry.store import listing
from scfm_registry.store.embedded import mlflow_version
from scfm_registry.store.engine import forget, quiet, revisions

if TYPE_CHECKING:
    from pathlib import Path


def _older(database: Path) -> str:
    """Make a database as an MLflow some releases ago made it, with one registered model in it; gives its revision."""
    with quiet():
        import sqlalchemy
        from alembic import command
        from mlflow.store.db import utils
        from mlflow.store.tracking.dbmodels.initial_models import Base

        head, _ = revisions()
        from alembic.script import ScriptDirectory

        config = utils._get_alembic_config(f"sqlite:///{database}")
        script = ScriptDirectory.from_config(config)
        older = [item.revision for item in script.walk_revisions()][3]
        engine = sqlalchemy.create_engine(f"sqlite:///{database}")
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, older)
        engine.dispose()
    assert older != head
    return older


def _revision(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def old(home: Path) -> tuple[Path, str]:
    folder = home / "registry"
    (folder / "artifacts").mkdir(parents=True)
    revision = _older(folder / "mlflow.db")
    connection = sqlite3.connect(folder / "mlflow.db")
    with connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (0, 'kept from before', 'file:///x', 'active', 'default')"
        )
    connection.close()
    return folder, revision


def _indexes(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


def test_a_version_is_found_by_its_digest_and_not_among_those_of_all_others(made_home: Path) -> None:
    registry, asked = Registry(), []
    digest, engine = registry.get("starter/1").digest, listing.connections(registry.uri)

    def note(_: Any, __: Any, statement: str, given: tuple[Any, ...], *___: Any) -> None:
        asked.append((statement, given))

    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    try:
        assert registry.get(digest).reference == "starter/1"
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", note)
    statement, given = next((text, given) for text, given in asked if digest in given)
    with closing(sqlite3.connect(made_home / "registry" / "mlflow.db")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    assert [step for step in plan if "model_version_tags USING INDEX scfm_digest (value=?)" in step], plan


def test_our_own_is_migrated_and_the_copy_is_the_old_one(old: tuple[Path, str]) -> None:
    folder, revision = old
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("CREATE INDEX scfm_digest ON model_version_tags (value) WHERE key = 'scfm.digest'")
    (folder / "registry.json").write_text(
        f'{{"format": 1, "root": "{(folder / "artifacts").as_uri()}", "mlflow": "3.0"}}'
    )
    registry = Registry()
    assert _revision(folder / "mlflow.db") == revisions()[0]
    assert "scfm_digest" in _indexes(folder / "mlflow.db")
    [copy] = folder.glob("mlflow-before-*.db")
    assert _revision(copy) == revision
    assert registry.client.get_experiment("0").name == "kept from before"
    assert "pca" in [item.name for item in registry.search()]
    assert f'"{mlflow_version()}"' in (folder / "registry.json").read_text()
    Registry()
    assert len(list(folder.glob("mlflow-before-*.db"))) == 1


def test_somebody_elses_is_left_for_them_to_migrate(old: tuple[Path, str]) -> None:
    folder, revision = old
    forget(f"sqlite:///{folder / 'mlflow.db'}")
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(StorageError, match="mlflow db upgrade"):
        Registry(f"sqlite:///{folder / 'mlflow.db'}")
    assert (folder / "mlflow.db").read_bytes() == before
    assert _revision(folder / "mlflow.db") == revision
