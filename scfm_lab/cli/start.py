"""``scfm-lab lab``: JupyterLab on the first tutorial."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import click

from scfm_lab.cli.files import whole
from scfm_lab.errors import DataError, StorageError

TUTORIAL = "01_first_knockout.ipynb"


@click.command(
    epilog="\b\nExamples:\n  scfm-lab lab\n  scfm-lab lab --folder ~/scfm-tutorials\n  scfm-lab lab -- --no-browser --port 8899",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where your copy of the tutorials goes [default: the checkout's own, else ./scfm-tutorials].",
)
@click.option("--print-path", is_flag=True, help="Prepare the tutorial and print its path; start nothing.")
@click.argument("jupyter_arguments", nargs=-1, metavar="[-- JUPYTER ARGUMENTS]")
@click.pass_context
def lab(context: click.Context, folder: Path | None, print_path: bool, jupyter_arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the first tutorial.

    In a checkout the notebook is opened where it is. From an installed package the tutorials are copied into a folder of
    yours first; notebooks that are there already are kept as they are. What stands after -- goes to JupyterLab.
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
    click.echo(f"Opening {notebook} in JupyterLab; stop it with Ctrl-C.", err=True)
    if "--no-browser" not in jupyter_arguments and not _has_browser():
        click.echo(
            "No browser can be opened from here: copy the address that JupyterLab prints below (http://127.0.0.1:…) into one.",
            err=True,
        )
        jupyter_arguments = (*jupyter_arguments, "--no-browser")
    ended = _run_until_it_ends([sys.executable, "-m", "jupyterlab", str(notebook), *jupyter_arguments])
    context.exit(1 if ended else 0)


def _has_browser() -> bool:
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _run_until_it_ends(command: list[str]) -> int:
    """Run a program in the foreground; Ctrl-C reaches it from the terminal, and it decides what that means."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def prepare(folder: Path | None = None) -> Path:
    """Find the first tutorial, copying the tutorials to a folder of the user's where they are not in a checkout.

    Parameters
    ----------
    folder
        Where the copy goes. ``None``: the checkout's own tutorials, or ``./scfm-tutorials`` for an installed package.

    Returns
    -------
    Path
        The notebook to open, absolute.

    Raises
    ------
    DataError
        No tutorial came with this installation.
    StorageError
        The copy cannot be written.
    """
    source, in_checkout = _source()
    if in_checkout and folder is None:
        return source / TUTORIAL
    target = (folder or Path("scfm-tutorials")).expanduser().absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts or ".ipynb_checkpoints" in path.parts:
                continue
            copy = target / path.relative_to(source)
            # Whoever has worked in a notebook finds it again.
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                with whole(copy) as temporary:
                    shutil.copyfile(path, temporary)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The tutorials cannot be copied to {target} ({error.strerror}); give another place with --folder."
        ) from error
    return target / TUTORIAL


def tutorials() -> Path:
    """Give the folder of the tutorials that came with this checkout or installation.

    Raises
    ------
    DataError
        There is none.
    """
    return _source()[0]


def _source() -> tuple[Path, bool]:
    """Give the folder of the tutorials, and whether it is a checkout's own."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "tutorials"
    in_checkout = (checkout / TUTORIAL).is_file() and (package.parent / "pyproject.toml").is_file()
    source = checkout if in_checkout else package / "tutorials"
    if not (source / TUTORIAL).is_file():
        raise DataError(f"The tutorial {TUTORIAL} is not in this installation; reinstall scfm-lab.")
    return source, in_checkout
