"""How a server is set up: everything that MLflow is told, in one place, safe where nothing was said."""

from __future__ import annotations

import os
import secrets
import sys
from configparser import ConfigParser
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scfm_lab.errors import StorageError
from scfm_registry.checking import nearest
from scfm_registry.store import database, mounts
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Name of the first person, who may do everything and let others in.
ADMIN = "admin"
#: What people who have a name may do with what is not theirs: see it, or not.
PERMISSIONS = ("READ", "NO_PERMISSIONS")
#: Shorter passwords are refused by MLflow itself.
SHORTEST = 12

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")
#: Seconds for which a password that was right is not hashed again: MLflow's hash takes a quarter of a second of processor
#: time, for each request. A password that was changed may so stay good for a minute on other workers.
_PASSWORD_SECONDS = 60
#: What stores of files need that is no part of this package: scheme → module, and the package that holds it.
_CLIENTS = {"s3": ("boto3", "boto3"), "gs": ("google.cloud.storage", "google-cloud-storage")}
#: What is taken over from the environment: access to stores of files, and nothing that would change what is served.
_KEPT = ("MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_HTTP_", "MLFLOW_ARTIFACT_", "MLFLOW_CRYPTO_")


@dataclass(frozen=True)
class Settings:
    """A server.

    Attributes
    ----------
    folder
        Where it keeps what is its own: secret key, log, and for a trial the databases. Made if it is not there.
    database
        Address of the database, as :func:`scfm_registry.store.database.normal` writes it.
    artifacts
        Where the files of versions go: a folder, or an address that MLflow knows (``s3://…``). People never reach it
        directly; the server hands files through.
    host, port
        Where it listens.
    names
        Further names under which people reach it, such as ``registry.lab`` behind a proxy. A request for any other host is
        refused, which is what keeps a web page from reaching the server through a visitor's browser.
    workers
        Number of processes.
    permission
        ``"READ"``: whoever has a name may read all models; ``"NO_PERMISSIONS"``: only their own, and what they were given.
    """

    folder: Path
    database: str
    artifacts: str
    host: str = "127.0.0.1"
    port: int = 5000
    names: tuple[str, ...] = ()
    workers: int = 2
    permission: str = "READ"
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where people of this machine reach it."""
        host = "127.0.0.1" if self.host in _EVERYWHERE else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def people(self) -> str:
        """Address of the database of people: the same database, or for a trial a file beside it."""
        if database.is_postgresql(self.database):
            return self.database
        return f"sqlite:///{self.folder / 'people.db'}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Exactly those ``Host`` headers that are answered.

        MLflow's own default lets patterns such as ``10.*`` in, and so any name that begins like this.
        """
        own = [] if self.host in _EVERYWHERE else [self.host]
        if self.host in (*_LOOPBACK, *_EVERYWHERE):
            own += _LOOPBACK
        written = [f"[{name}]" if ":" in name else name for name in dict.fromkeys(own)]
        return tuple(
            dict.fromkeys(
                [
                    *(f"{name}:{self.port}" for name in written),
                    *(name for given in self.names for name in (given, f"{given}:{self.port}")),
                ]
            )
        )

    @property
    def origins(self) -> tuple[str, ...]:
        """Exactly those pages that may change something: the server's own, with and without https before it."""
        return tuple(f"{scheme}://{host}" for host in self.hosts for scheme in ("http", "https"))

    def command(self) -> list[str]:
        """Give the command line; it holds no password, since every process of the machine can read it."""
        return [
            *(sys.executable, "-P", "-m", "mlflow", "server"),
            *("--host", self.host, "--port", str(self.port), "--workers", str(self.workers)),
            *("--app-name", "basic-auth", "--artifacts-destination", self.artifacts),
        ]

    def environment(self, password: str | None) -> dict[str, str]:
        """Give the environment that the server is started with.

        Parameters
        ----------
        password
            Of the admin, where there is none yet.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        kept |= {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        found = {
            **kept,
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(self.hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(self.origins),
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "people.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secret_key(self.folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Scheduled jobs of language models: a second process of 235 MB that a registry of checkpoints has no use for.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # The server keeps files and never opens a model in its own process.
            "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
            **self.extra,
        }
        if password is not None:
            found["MLFLOW_AUTH_ADMIN_PASSWORD"] = password
        return found

    def write_people(self) -> None:
        """Write the file that tells MLflow who may do what; it may hold the database's password and is the owner's alone."""
        # The percent signs of a quoted password would be read as references.
        parser = ConfigParser(interpolation=None)
        parser["mlflow"] = {
            "default_permission": self.permission,
            "database_uri": self.people.replace("%", "%%"),
            "admin_username": ADMIN,
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": str(_PASSWORD_SECONDS),
        }
        target = self.folder / "people.ini"
        unfinished = self.folder / f"people.ini.{os.getpid()}"
        try:
            with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as handle:
                parser.write(handle)
            os.replace(unfinished, target)
        except OSError as error:
            raise storage_error(error, target) from error


def _has(module: str) -> bool:
    """Whether a module can be imported; one within a package that is not there cannot."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check(settings: Settings) -> None:
    """Refuse what would be unsafe or could not work, before anything is started.

    Raises
    ------
    StorageError
        A name, number or package; the message says which, and what to do.
    """
    if find_spec("flask_wtf") is None:
        message = (
            "The server's log-in needs the package Flask-WTF, which is not installed; run: pip install "
            "'scfm-lab[server]'."
        )
        raise StorageError(message)
    scheme = settings.artifacts.partition("://")[0].lower() if "://" in settings.artifacts else ""
    if scheme in _CLIENTS and not _has(_CLIENTS[scheme][0]):
        module, package = _CLIENTS[scheme]
        message = (
            f"Files can be kept at {scheme}:// only where the package {package} is, which holds the module {module}; run: pip install "
            f"{package}."
        )
        raise StorageError(message)
    if settings.host in _EVERYWHERE and not settings.names:
        message = (
            f"--host {settings.host} answers to every network; say under which name people reach the server, such as "
            "--allowed-host registry.lab, so that all others are refused."
        )
        raise StorageError(message)
    for name in (settings.host, *settings.names):
        if any(sign in name for sign in "*?[], /") or not name:
            message = (
                f"'{name}' is no exact name of a host; write it as it stands in the address, such as registry.lab."
            )
            raise StorageError(message)
    if not database.is_postgresql(settings.database):
        folder = nearest(Path(settings.database.removeprefix("sqlite:///")).parent)
        if (kind := mounts.kind_of(folder)) in mounts.NETWORK:
            message = (
                f"{folder} is on a network file system ({kind}), where SQLite's locks cannot be relied upon; give a --folder on a "
                "local disk, or a PostgreSQL with --database."
            )
            raise StorageError(message)
    if settings.permission not in PERMISSIONS:
        message = f"There is no permission '{settings.permission}'; it is one of {', '.join(PERMISSIONS)}."
        raise StorageError(message)


def admin_password(people: str, file: Path | None) -> tuple[str | None, bool]:
    """Find the first admin's password: from a file, or a new one.

    Returns
    -------
    password, made
        ``None`` where the admin is there already, whose password stays; whether it was made here and has to be shown.

    Raises
    ------
    StorageError
        The file cannot be read, or holds too short a password.
    """
    if database.has_user(people, ADMIN):
        return None, False
    if file is None:
        return secrets.token_urlsafe(18), True
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"The admin's password cannot be read from {file} ({error})."
        raise StorageError(message) from error
    if len(password) < SHORTEST:
        message = f"The admin's password in {file} has {len(password)} characters; it needs at least {SHORTEST}."
        raise StorageError(message)
    return password, False


def secret_key(folder: Path) -> str:
    """Read the key with which the server signs its forms, or make it; it stays the same over restarts."""
    path = folder / "secret-key"
    make_folder(folder)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise storage_error(error, path) from error
    return path.read_text(encoding="utf-8")
