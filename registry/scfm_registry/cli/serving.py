"""``scfm-lab registry serve`` and what belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scfm_lab.cli.output import say
from scfm_lab.errors import StorageError
from scfm_registry.cli.common import json_option

_PASSWORDS = "the address holds a password, which every process of this machine could read from the command line"


@click.command(
    short_help="Run the lab's registry on a server.",
    epilog="\b\nExamples:\n  scfm-lab registry serve\n"
    "  scfm-lab registry serve --database postgresql://scfm@db.lab/registry --host 0.0.0.0 --allowed-host registry.lab\n"
    "  scfm-lab registry serve --write-recipe ./lab-registry",
)
@click.option(
    "--database",
    "uri",
    metavar="URI",
    help="postgresql://USER@HOST/NAME; its password belongs into ~/.pgpass. [default: SQLite in the folder, for a trial]",
)
@click.option(
    "--database-file", type=click.Path(path_type=Path, dir_okay=False), help="A file that holds the database's address."
)
@click.option("--artifacts", metavar="PLACE", help="Where files go: a folder, or s3://… [default: in the folder]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the server keeps its own. [default: server, in the data directory]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Where to listen.")
@click.option(
    "--allowed-host", "names", multiple=True, metavar="NAME", help="A name people reach it under. Several times."
)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Number of processes.")
@click.option(
    "--permission",
    type=click.Choice(["READ", "NO_PERMISSIONS"]),
    default="READ",
    show_default=True,
    help="What people may do with models of others: read them, or not even that.",
)
@click.option(
    "--admin-password-file",
    "password_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The first admin's password. [default: one is made and shown once]",
)
@click.option("--log-to-stderr", is_flag=True, help="Say there what the server says, and not in server.log.")
@click.option(
    "--write-recipe",
    "recipe",
    type=click.Path(path_type=Path, file_okay=False),
    help="Start nothing; write what a lab needs to run it for good: compose file, systemd units, backup, restore.",
)
@json_option
def serve(
    *,
    uri: str | None,
    database_file: Path | None,
    artifacts: str | None,
    folder: Path | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    workers: int,
    permission: str,
    password_file: Path | None,
    log_to_stderr: bool,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Run the lab's registry: MLflow's server, with people who log in.

    It ends with Ctrl-C or SIGTERM.
    """
    if recipe is not None:
        from scfm_registry.server.recipe import write

        written = write(recipe)
        text = (
            f"Written into {recipe}:\n" + "\n".join(f"  {name}" for name in written) + "\nREADME.md is where to begin."
        )
        say(text, {"folder": str(recipe), "files": written}, as_json=as_json)
        return
    from scfm_lab.home import data_home
    from scfm_registry.server.running import serve as run
    from scfm_registry.server.settings import Settings

    place = (folder or data_home() / "server").expanduser().absolute()
    settings = Settings(
        folder=place,
        database=_database(uri, database_file, place),
        artifacts=_artifacts(artifacts, place),
        host=host,
        port=port,
        names=names,
        workers=workers,
        permission=permission,
    )
    run(
        settings,
        lambda running: say(running.summary(), running.to_dict(), as_json=as_json),
        password_file=password_file,
        log=not log_to_stderr,
    )


def _database(uri: str | None, file: Path | None, folder: Path) -> str:
    from scfm_registry.store import database

    if uri is not None and file is not None:
        raise click.UsageError("Give --database or --database-file, not both.")
    if file is not None:
        return database.normal(database.read_address(file))
    if uri is None:
        return database.normal(f"sqlite:///{folder / 'registry.db'}")
    if database.has_password(uri):
        message = (
            f"--database {database.shown(uri)}: {_PASSWORDS}; put the whole address into a file, for --database-file."
        )
        raise StorageError(message)
    return database.normal(uri)


def _artifacts(given: str | None, folder: Path) -> str:
    if given is None:
        return str(folder / "artifacts")
    return given if "://" in given else str(Path(given).expanduser().absolute())


@click.command(
    "add-person",
    short_help="Let a person into the lab's server.",
    epilog="\b\nExamples:\n  scfm-lab registry add-person ada --registry http://registry.lab:5000\n"
    "  scfm-lab registry add-person class --reader",
)
@click.argument("name")
@click.option("--reader", is_flag=True, help="May read models, and register none.")
@click.option("--admin", is_flag=True, help="May do everything, and let others in.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Their password. [default: one is made and shown once]",
)
@click.option("--registry", "uri", metavar="URI", help="The server's address. [default: the environment's]")
@json_option
def add_person(
    name: str, *, reader: bool, admin: bool, password_file: Path | None, uri: str | None, as_json: bool
) -> None:
    """Let NAME into the lab's server, with a password that is shown once.

    You have to be an admin there (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD).
    """
    from scfm_registry.store.people import add

    if reader and admin:
        raise click.UsageError("Give --reader or --admin, not both.")
    done: dict[str, Any] = add(
        uri, name, kind="admin" if admin else "reader" if reader else "member", file=password_file
    )
    told = "" if done["password"] is None else f", with the password {done['password']}; it is shown this once"
    say(f"{name} may {done['may']} at {done['address']}{told}.", done, as_json=as_json)


#: What is attached to the group.
COMMANDS = (serve, add_person)
