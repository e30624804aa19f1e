"""``scfm-lab lab``: JupyterLab on a copy of the first tutorial."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import click

from scfm_lab.cli.files import whole
from scfm_lab.errors import DataError, StorageError

TUTORIAL = "01_first_knockout.ipynb"
#: What each file was when it was copied: one that is still the same may be replaced by a newer one.
_COPIED = ".copied.json"
#: Settings that hold in the JupyterLab that is started here, where its user has not chosen others.
_DEFAULTS = Path(__file__).with_name("jupyter")


@click.command(
    epilog="\b\nExamples:\n  scfm-lab lab\n  scfm-lab lab --folder ~/scfm-tutorials\n  scfm-lab lab -- --no-browser --port 8899",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where your copy of the tutorials goes [default: 'notebooks' in the data directory].",
)
@click.option("--print-path", is_flag=True, help="Prepare the tutorial and print its path; start nothing.")
@click.argument("jupyter_arguments", nargs=-1, metavar="[-- JUPYTER ARGUMENTS]")
@click.pass_context
def lab(context: click.Context, folder: Path | None, print_path: bool, jupyter_arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first tutorial.

    The tutorials are copied into a folder of yours first; what you have changed there is kept as it is. What stands after
    -- goes to JupyterLab.
    """
    notebook = prepare(folder)
    if print_path:
        click.echo(str(notebook))
        return
    if importlib.util.find_spec("jupyterlab") is None:
        raise DataError(
            f"JupyterLab is not installed here: pip install 'scfm-lab[lab]'. The tutorial is at {notebook} "
            "for any notebook server of yours."
        )
    click.echo(f"Opening your copy, {notebook}, in JupyterLab; stop it with Ctrl-C.", err=True)
    if "--no-browser" not in jupyter_arguments and not _has_browser():
        click.echo(
            "No browser can be opened from here: copy the address that JupyterLab prints below (http://127.0.0.1:…) into one.",
            err=True,
        )
        jupyter_arguments = (*jupyter_arguments, "--no-browser")
    ended = _run_until_it_ends([*jupyter_command(notebook), *jupyter_arguments])
    context.exit(1 if ended else 0)


def jupyter_command(notebook: Path) -> list[str]:
    """Give the command that starts JupyterLab so that the address it prints, and the browser, lead to `notebook`."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={notebook.parent}",
        f"--LabApp.default_url=/lab/tree/{quote(notebook.name)}",
        # Nothing is fetched for news; that nobody is asked about them either is a setting, in `jupyter_environment`.
        "--LabApp.news_url=None",
    ]
    # In a container everybody is root, and JupyterLab then refuses to start.
    return [*command, "--allow-root"] if runs_as_root() else command


def jupyter_environment() -> dict[str, str]:
    """Give the environment in which JupyterLab finds defaults of this package.

    JupyterLab asks every new user whether it may tell of news, in a window that lies over the notebook. What its user has
    set in JupyterLab's own settings goes before these defaults, and so do folders that JUPYTER_CONFIG_PATH names; defaults
    that the user or the machine has in a `labconfig` folder elsewhere come after them.
    """
    others = os.environ.get("JUPYTER_CONFIG_PATH")
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join([*([others] if others else []), str(_DEFAULTS)])}


def runs_as_root() -> bool:
    """Whether this process may do everything, as in most containers; never on Windows."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _has_browser() -> bool:
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _run_until_it_ends(command: list[str]) -> int:
    """Run a program in the foreground; Ctrl-C reaches it from the terminal, and it decides what that means."""
    with subprocess.Popen(command, env=jupyter_environment()) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def prepare(folder: Path | None = None) -> Path:
    """Copy the tutorials to a folder of the user's, since JupyterLab saves into what it opens.

    A file that was changed since it was copied stays; one that was not is replaced when a newer one comes.

    Parameters
    ----------
    folder
        Where the copy goes. ``None``: ``notebooks`` in the data directory.

    Returns
    -------
    Path
        The copy of the first tutorial, absolute.

    Raises
    ------
    DataError
        No tutorial came with this installation.
    StorageError
        The copy cannot be written.
    """
    from scfm_lab.home import data_home

    source = tutorials()
    target = folder.expanduser().absolute() if folder else data_home() / "notebooks"
    try:
        target.mkdir(parents=True, exist_ok=True)
        copied = _read_copied(target / _COPIED)
        for path in sorted(source.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts or ".ipynb_checkpoints" in path.parts:
                continue
            name = path.relative_to(source).as_posix()
            copy = target / name
            # Whoever has worked in a notebook finds it again.
            if copy.exists() and copied.get(name) != _digest(copy):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            with whole(copy) as temporary:
                shutil.copyfile(path, temporary)
            copied[name] = _digest(copy)
        with whole(target / _COPIED) as temporary:
            temporary.write_text(json.dumps(copied, indent=1), encoding="utf-8")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The tutorials cannot be copied to {target} ({error.strerror}); give another place with --folder."
        ) from error
    return target / TUTORIAL


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_copied(path: Path) -> dict[str, str]:
    """What was copied before; a record that cannot be read says nothing, and then everything there is kept."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tutorials() -> Path:
    """Give the folder of the tutorials that came with this checkout or installation.

    Raises
    ------
    DataError
        There is none.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "tutorials"
    in_checkout = (checkout / TUTORIAL).is_file() and (package.parent / "pyproject.toml").is_file()
    source = checkout if in_checkout else package / "tutorials"
    if not (source / TUTORIAL).is_file():
        raise DataError(f"The tutorial {TUTORIAL} is not in this installation; reinstall scfm-lab.")
    return source
