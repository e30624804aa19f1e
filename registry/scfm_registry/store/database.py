"""The database behind a server: how its address is written, and whether it answers.

MLflow retries a database that does not answer for more than a minute before it says so, and reads ``postgresql://`` as a
driver that is most often not installed. Here the driver is named, and the first question is asked with a limit of seconds.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from scfm_lab.errors import StorageError
from scfm_registry.store.place import make_folder, sqlite_uri, storage_error

if TYPE_CHECKING:
    from psycopg import Connection

#: What MLflow and SQLAlchemy call PostgreSQL through the driver that comes with ``scfm-lab[server]``.
DRIVER = "postgresql+psycopg"
#: Seconds to wait for a database's answer.
PATIENCE = 5

_SPELLINGS = ("postgresql", "postgres", DRIVER, "postgresql+psycopg2")


def is_postgresql(uri: str) -> bool:
    """Whether an address is one of PostgreSQL, however its scheme is spelt."""
    return uri.partition("://")[0].lower() in _SPELLINGS


def normal(uri: str) -> str:
    """Write a database's address as MLflow reads it.

    Parameters
    ----------
    uri
        ``postgresql://USER@HOST/NAME`` or ``sqlite:///FILE``.

    Raises
    ------
    StorageError
        It is the address of another kind of database, or names none.

    Examples
    --------
    >>> normal("postgresql://scfm@db.lab/registry")
    'postgresql+psycopg://scfm@db.lab/registry'
    """
    scheme, sign, rest = uri.strip().partition("://")
    if sign and scheme.lower() in _SPELLINGS:
        if not urlsplit(f"postgresql://{rest}").path.strip("/"):
            message = f"'{shown(uri)}' names no database; write it like postgresql://scfm@db.lab/registry."
            raise StorageError(message)
        return f"{DRIVER}://{rest}"
    if scheme.lower() == "sqlite" and rest.startswith("/") and rest.strip("/") and "?" not in rest:
        return sqlite_uri(Path(rest[1:]).absolute())
    message = (
        f"'{shown(uri)}' is no address of a database for a server: write postgresql://USER@HOST/NAME, or sqlite:///FILE for a "
        "trial."
    )
    raise StorageError(message)


def shown(uri: str) -> str:
    """Give an address without the password in it."""
    return re.sub(r"(//[^/@:]*):[^/]*@", r"\1@", uri.replace(f"{DRIVER}://", "postgresql://"))


def has_password(uri: str) -> bool:
    """Whether an address holds a password."""
    return bool(re.search(r"//[^/@:]*:[^/]*@", uri))


def connect(uri: str) -> Connection[Any]:
    """Open a PostgreSQL database, within seconds or not at all.

    Raises
    ------
    StorageError
        The driver is missing, or the database does not answer or refuses.
    """
    if find_spec("psycopg") is None:
        message = "PostgreSQL needs the package psycopg, which is not installed; run: pip install 'scfm-lab[server]'."
        raise StorageError(message)
    import psycopg

    try:
        return psycopg.connect(uri.replace(f"{DRIVER}://", "postgresql://"), connect_timeout=PATIENCE, autocommit=True)
    except psycopg.Error as error:
        raise StorageError(f"The database {shown(uri)} {_why(str(error))}") from error


def _why(text: str) -> str:
    """Say in words why PostgreSQL did not let us in."""
    for sign, words in (
        ("password authentication failed", "refuses the user or the password; look at the address, or at ~/.pgpass."),
        ("no password supplied", "wants a password; put it into ~/.pgpass, or into the file of --database-file."),
        ("does not exist", "is not there: {detail}; make it with createuser and createdb, then try again."),
        ("no pg_hba.conf entry", "does not let this machine in; add it to pg_hba.conf."),
        ("too many clients", "has no connection left (max_connections); end some, or raise it."),
    ):
        if sign in text:
            detail = text.strip().splitlines()[-1].rpartition("FATAL:")[2].strip()
            return words.format(detail=detail)
    first = next((line for line in reversed(text.strip().splitlines()) if line.strip()), "no answer")
    return f"does not answer ({first.strip()[:160]}); is it running, and is the address right?"


def check(uri: str) -> str:
    """Ask a database whether it can be written, and give its kind and version.

    Parameters
    ----------
    uri
        From :func:`normal`. A SQLite file that is not there is made, in WAL mode, so that readers and a writer do not wait
        for each other.

    Raises
    ------
    StorageError
        It does not answer, or may not be written.
    """
    if is_postgresql(uri):
        with closing(connect(uri)) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version'), has_schema_privilege(current_user, current_schema(), 'CREATE'), "
                "pg_is_in_recovery()"
            ).fetchone()
        version, may_create, replica = row if row is not None else ("", False, False)
        if replica:
            message = f"The database {shown(uri)} is a replica and cannot be written; give the address of the primary."
            raise StorageError(message)
        if not may_create:
            message = (
                f"The database {shown(uri)} does not let this user make tables; make the user its owner: "
                "ALTER DATABASE … OWNER TO …"
            )
            raise StorageError(message)
        return f"PostgreSQL {str(version).split()[0]}"
    database = Path(uri.removeprefix("sqlite:///"))
    make_folder(database.parent)
    if database.exists() and not os.access(database, os.W_OK):
        message = f"The database {database} is read-only for you; look at its permissions, or give another file."
        raise StorageError(message)
    try:
        with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.Error as error:
        message = f"The database {database} cannot be used ({error}); look at its permissions, or give another file."
        raise StorageError(message) from error
    except OSError as error:
        raise storage_error(error, database) from error
    return f"SQLite {sqlite3.sqlite_version}"


def revision(uri: str) -> str | None:
    """Revision of MLflow's schema in a PostgreSQL database; ``None`` where it has no tables yet."""
    with closing(connect(uri)) as connection:
        if connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone() != (True,):
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def has_user(uri: str, name: str) -> bool:
    """Whether MLflow's list of people, in the database at `uri`, holds this name; no list yet holds nobody."""
    if is_postgresql(uri):
        with closing(connect(uri)) as connection:
            there = connection.execute("SELECT to_regclass('users') IS NOT NULL").fetchone()
            if not there or not there[0]:
                return False
            return connection.execute("SELECT 1 FROM users WHERE username = %s", (name,)).fetchone() is not None
    database = Path(uri.removeprefix("sqlite:///"))
    if not database.exists():
        return False
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'users'").fetchone():
            return False
        return connection.execute("SELECT 1 FROM users WHERE username = ?", (name,)).fetchone() is not None


def read_address(file: Path) -> str:
    """Read a database's address from a file that only its owner should read.

    Raises
    ------
    StorageError
        The file cannot be read or holds nothing.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"The database's address cannot be read from {file} ({error}); give a text file with one line."
        raise StorageError(message) from error
    if not text:
        message = f"{file} is empty; it should hold one line, such as postgresql://scfm:PASSWORD@db.lab/registry."
        raise StorageError(message)
    return text.splitlines()[0].strip()
