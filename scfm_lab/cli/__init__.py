"""The command line: ``scfm-lab`` and ``python -m scfm_lab``.

Every command is a contribution of some plugin's manifest, scfm-lab's own included. The list of commands and their help
lines are read from the manifests; a command's code is imported when that command is run.

Exit codes are 0 on success, 2 for a command line that makes no sense, and 1 for a failure, with one sentence on standard
error; ``--debug``, anywhere on the line, shows the traceback too.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from scfm_lab import plugins
from scfm_lab.errors import PluginError, ScfmError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cli", "main"]

_EPILOG = """\b
Examples:
  scfm-lab demo
  scfm-lab embed cells.h5ad --model starter -o embedded.h5ad
  scfm-lab perturb cells.h5ad --model starter --gene CD3D=0 -o effects.csv"""


#: Three packages bring our own commands; people read them in one order.
_ORDER = (
    "demo",
    "doctor",
    "lab",
    "models",
    "audit",
    "embed",
    "annotate",
    "perturb",
    "screen",
    "response-curves",
    "impute",
    "trajectory",
    "trends",
    "similar-genes",
    "changed-genes",
    "attention",
    "compare",
    "finetune",
    "benchmark",
)


class LazyGroup(click.Group):
    """A group whose commands come from plugin manifests and are imported when they are run."""

    def invoke(self, ctx: click.Context) -> None:
        """Run the command; what its function returns is nobody's exit code, only ``ctx.exit`` sets one."""
        super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all contributed commands, in the manifests' order."""
        return list(_contributed())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; a command that cannot be imported is an error in words."""
        contribution = _contributed().get(cmd_name)
        if contribution is None:
            return None
        command = contribution.load()
        if not isinstance(command, click.Command):
            message = (
                f"Plugin '{contribution.plugin}': {contribution.target} is not a click command, "
                f"so '{cmd_name}' cannot be run."
            )
            raise PluginError(message)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named first in `args`; for an unknown one suggest the nearest."""
        name = args[0]
        if name not in _contributed() and not name.startswith("-"):
            known = ", ".join(_contributed())
            ctx.fail(f"There is no command '{name}'.{did_you_mean(name, _contributed())} Commands: {known}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the manifests alone, and say where a plugin has an error."""
        rows = [(name, str(item.data["help"])) for name, item in _contributed().items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        failed = [row.name for row in plugins.discover().plugins if row.error]
        if failed:
            formatter.write_paragraph()
            formatter.write_text(f"Plugins with an error: {', '.join(failed)}. See 'scfm-lab plugins list'.")


def _contributed() -> dict[str, plugins.Contribution]:
    """Give all contributed commands by name: ours in the order of the work they do, then everybody else's."""
    found = {str(item.data["name"]): item for item in plugins.discover().contributions("commands")}
    return {name: found[name] for name in (*(name for name in _ORDER if name in found), *found)}


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from scfm_lab import __version__

        click.echo(f"scfm-lab {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback when something fails.")
def cli() -> None:
    """Bench for single-cell foundation models: load, compare, perturb and see them on your own cells."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        0 on success, 2 on a usage error, 1 on a failure.
    """
    debug, arguments = _take_debug(list(sys.argv[1:] if argv is None else argv))
    with _quiet_warnings(debug):
        return _run(arguments, debug)


def _run(arguments: list[str], debug: bool) -> int:
    """Run one command line; every way in which it can fail is a sentence and an exit code."""
    try:
        # Not standalone: click would turn every error into its own format and leave through sys.exit.
        outcome = cli.main(args=arguments, prog_name="scfm-lab", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "scfm-lab"
        return _failed(f"{_sentence(error.format_message())} See '{path} --help'.", debug, code=2)
    except click.ClickException as error:
        return _failed(_sentence(error.format_message()), debug)
    except (click.Abort, KeyboardInterrupt):
        return _failed(
            "Stopped; nothing was written. What a run over a file had finished is kept: the same command goes on there.",
            debug,
        )
    except ScfmError as error:
        return _failed(str(error), debug)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it closes stdout.
        sys.stderr.close()
        return 1
    except MemoryError:
        return _failed("There is not enough memory for this. Use a smaller --batch-size or fewer cells.", debug)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one sentence, and the traceback on request
        reason = " ".join(str(error).split()) or "no message"
        return _failed(
            f"Something went wrong that should not have: {type(error).__name__}: {reason}. "
            "Run the command again with --debug to see where.",
            debug,
        )
    return outcome if isinstance(outcome, int) else 0


def _take_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Take ``--debug`` out of the line wherever it stands, so that no command has to declare it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [word for word in arguments[:end] if word != "--debug"]
    return len(own) < end, own + arguments[end:]


@contextmanager
def _quiet_warnings(debug: bool) -> Iterator[None]:
    """Keep standard error for people: a warning is one line, and those meant for programmers need ``--debug``."""

    def show(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        click.echo(f"Warning: {_sentence(str(message))}", err=True)

    with warnings.catch_warnings():
        if not debug:
            for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = show
        yield


def _failed(message: str, debug: bool, *, code: int = 1) -> int:
    if debug:
        traceback.print_exc()
    from scfm_lab.cli.output import harmless

    click.echo(f"Error: {harmless(message)}", err=True)
    return code


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
