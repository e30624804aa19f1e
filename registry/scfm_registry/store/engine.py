"""MLflow as a library: imported late and quietly, its tables made and migrated, its connections closed.

MLflow's telemetry is switched off before it is first imported, and its and alembic's log lines are held back while one of
these functions runs.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import StorageError
from scfm_registry.store.database import shown
from scfm_registry.store.place import sqlite_uri
from scfm_registry.store.words import in_words, unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scfm_registry.store.place import Place

#: The MLflow experiment that holds the files of versions and the runs of measurements.
EXPERIMENT = "scfm-registry"

_quiet_lock = threading.Lock()
_quiet_depth = 0
_levels: dict[str, int] = {}
#: What MLflow writes to the terminal: progress bars, and the address of each run that ends on a server.
_TALK = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_talk: dict[str, str | None] = {}
_warnings: warnings.catch_warnings[None] | None = None


def mlflow_module() -> Any:
    """Import MLflow with its telemetry off."""
    # Starting a run looks up a telemetry address; only this value, before the import, prevents it.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        # Deprecations inside MLflow are its authors' business, also where a program turns warnings into errors.
        warnings.simplefilter("ignore")
        import mlflow

    return mlflow


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back log lines, warnings, progress bars and addresses of MLflow and what it uses; counted, so that threads may overlap."""
    global _quiet_depth, _warnings
    with _quiet_lock:
        if _quiet_depth == 0:
            _warnings = warnings.catch_warnings()
            _warnings.__enter__()
            warnings.simplefilter("ignore")
            mlflow_module()
            _talk.update({name: os.environ.get(name) for name in _TALK})
            os.environ.update(_TALK)
            for name in ("mlflow", "alembic"):
                logger = logging.getLogger(name)
                _levels[name] = logger.level
                logger.setLevel(logging.CRITICAL + 1)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                for name, level in _levels.items():
                    logging.getLogger(name).setLevel(level)
                for name, value in _talk.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
                if _warnings is not None:
                    _warnings.__exit__(None, None, None)


def knock(place: Place) -> None:
    """Ask a server whether it is there; MLflow's own calls would retry for minutes before they say that it is not.

    Raises
    ------
    StorageError
        It does not answer, or is no MLflow server.
    """
    with quiet():
        from mlflow.exceptions import MlflowException
        from mlflow.tracking._tracking_service.utils import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        for uri in dict.fromkeys((place.uri, place.tracking_uri)):
            try:
                answer = http_request(get_default_host_creds(uri), "/health", "GET", timeout=10, max_retries=0)
            except (MlflowException, OSError) as error:
                raise unreachable(place, error) from error
            if answer.status_code != 200:
                message = (
                    f"{place.shown} answers, but not as an MLflow server does (/health: {answer.status_code}). Check the "
                    "address."
                )
                raise StorageError(message)


def create_database(database: Path, artifacts: str) -> None:
    """Make MLflow's tables in a new SQLite file, with our experiment in it, and close it.

    Raises
    ------
    StorageError
        The database cannot be written.
    """
    where = str(database.parent.parent)
    with quiet():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            empty = _empty_database()
        except (MlflowException, SQLAlchemyError) as error:
            raise in_words(error, where) from error
    database.write_bytes(empty)
    create_tables(sqlite_uri(database), artifacts, where=where)


@cache
def _empty_database() -> bytes:
    """A SQLite file with MLflow's tables: its seventy migrations are run once in a process, however many registries it makes."""
    # MLflow knows which tables belong to it once both of its stores are imported.
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from mlflow.store.db import utils
    from sqlalchemy import event

    with TemporaryDirectory(prefix="scfm-registry-") as folder:
        database = Path(folder) / "empty.db"
        engine = utils.create_sqlalchemy_engine(sqlite_uri(database))
        # Nobody needs this file after a crash, so that nothing waits for the disk.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        try:
            utils._safe_initialize_tables(engine)  # noqa: SLF001 - what its stores call on an empty database
        finally:
            engine.dispose()
        return database.read_bytes()


def create_tables(uri: str, artifacts: str, *, where: str = "") -> None:
    """Make MLflow's tables where a database has none, and our experiment in it, and close it.

    Parameters
    ----------
    uri
        The database, as SQLAlchemy reads it.
    artifacts
        Where the experiment's files go, as an address.
    where
        What messages call the registry; by default the address without its password.

    Raises
    ------
    StorageError
        The database cannot be written.
    """
    with quiet():
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.exc import SQLAlchemyError

        try:
            SqlAlchemyStore(uri, artifacts).create_experiment(EXPERIMENT, artifact_location=artifacts)
        except (MlflowException, SQLAlchemyError) as error:
            raise in_words(error, where or shown(uri)) from error
        finally:
            forget(uri)


def upgrade_database(uri: str) -> None:
    """Migrate a SQLite database to the installed MLflow's schema.

    Raises
    ------
    StorageError
        The database cannot be written.
    """
    with quiet():
        from mlflow.exceptions import MlflowException
        from mlflow.store.db import utils
        from sqlalchemy.exc import SQLAlchemyError

        engine = utils.create_sqlalchemy_engine(uri)
        try:
            utils._upgrade_db(engine)  # noqa: SLF001 - what `mlflow db upgrade` calls
        except (MlflowException, SQLAlchemyError) as error:
            raise in_words(error, uri.removeprefix("sqlite:///")) from error
        finally:
            engine.dispose()


def revisions() -> tuple[str, frozenset[str]]:
    """Schema revision of the installed MLflow, and all that lead up to it."""
    with quiet():
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils

        script = ScriptDirectory.from_config(utils._get_alembic_config(db_url=""))  # noqa: SLF001
        head = script.get_current_head() or ""
        return head, frozenset(item.revision for item in script.walk_revisions())


def forget(uri: str) -> None:
    """Close this process's connections to a database that is about to be replaced or moved."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for kind in (SqlAlchemyStore, RegistryStore):
        engine = kind._engine_map.get(uri)  # noqa: SLF001 - MLflow caches engines and offers no way to close them
        if engine is not None:
            engine.dispose()
