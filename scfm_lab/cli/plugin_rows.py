"""``scfm-lab plugins``: what is installed beside scfm-lab, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scfm_lab import _manifest
from scfm_lab import plugins as known
from scfm_lab.cli.output import say
from scfm_lab.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from scfm_lab.plugins import Catalogue, Contribution, Plugin


@click.group(epilog="\b\nExample:\n  scfm-lab plugins list")
def plugins() -> None:
    """List installed plugins and check them."""


@plugins.command("list", epilog="\b\nExamples:\n  scfm-lab plugins list\n  scfm-lab plugins list --json")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def list_(as_json: bool) -> None:
    """List plugins, what they contribute, and their errors. Runs no plugin's code."""
    catalogue = known.discover()
    say(_table(catalogue.plugins), {"plugins": [_row(catalogue, row) for row in catalogue.plugins]}, as_json=as_json)


@plugins.command(
    epilog="\b\nExamples:\n  scfm-lab plugins validate\n  scfm-lab plugins validate my-fm\n"
    "  scfm-lab plugins validate src/my_fm/scfm.toml"
)
@click.argument("which", metavar="[PLUGIN|MANIFEST.toml]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def validate(context: click.Context, which: tuple[str, ...], as_json: bool) -> None:
    """Check manifests and import everything they name.

    Says what is wrong in all installed plugins, unless some are named. A path to a manifest is checked as a file, before its package is
    installed. Exits with 1 where anything is wrong.
    """
    reports = _reports(which)
    lines = []
    for name, problems in reports.items():
        lines.append(f"{name}: " + ("ok" if not problems else f"{len(problems)} wrong"))
        lines.extend(f"  - {problem}" for problem in problems)
    sound = not any(reports.values())
    say("\n".join(lines), {"ok": sound, "problems": reports}, as_json=as_json)
    if not sound:
        context.exit(1)


def _reports(which: tuple[str, ...]) -> dict[str, list[str]]:
    """Give what is wrong with each plugin or manifest file that was asked for."""
    catalogue = known.discover()
    names = [row.name for row in catalogue.plugins]
    reports: dict[str, list[str]] = {}
    for asked in which or dict.fromkeys(names):
        if asked.endswith(".toml"):
            manifest = _manifest.read(Path(asked))
            reports[asked] = [*manifest.faults, *manifest.notes]
        elif asked in names:
            reports[asked] = _problems(catalogue, asked)
        else:
            message = (
                f"No plugin is called '{asked}'.{did_you_mean(asked, names)} Installed: {', '.join(names)}. "
                "To check a file, give its path with .toml at the end."
            )
            raise PluginError(message)
    return reports


def _problems(catalogue: Catalogue, name: str) -> list[str]:
    """Check one plugin: its manifest, and that all it names can be imported and is of the right sort."""
    problems: list[str] = []
    # Before anything is imported, so that a failed import is told once, by the contribution it belongs to.
    for row in catalogue.plugins:
        if row.name == name:
            problems.extend([*row.faults, *row.warnings])
    for kind in known.KINDS:
        for contribution in catalogue.contributions(kind):
            if contribution.plugin == name:
                problem = _problem(contribution)
                if problem:
                    problems.append(problem)
    for of in ("doctor", *known.KINDS):
        for check in catalogue.checks(of):
            if check.plugin == name:
                try:
                    check.load()
                except PluginError as error:
                    problems.append(str(error))
    return problems


def _problem(contribution: Contribution) -> str | None:
    try:
        found = contribution.load()
    except PluginError as error:
        return str(error)
    wanted = _wanted(contribution.kind, found)
    return f"'{contribution.id}': {contribution.target} is not {wanted}" if wanted else None


def _wanted(kind: str, found: Any) -> str | None:
    """Say what `found` should have been, or ``None`` where it is."""
    if kind == "commands":
        return None if isinstance(found, click.Command) else "a click command"
    if kind == "models":
        from scfm_lab.models.contract import Model

        good = isinstance(found, type) and issubclass(found, Model)
        return None if good else "a subclass of scfm_lab.models.contract.Model"
    return None if callable(found) else "callable"


def _row(catalogue: Catalogue, row: Plugin) -> dict[str, Any]:
    mine = {
        kind: [item.id for item in catalogue.contributions(kind) if item.plugin == row.name] for kind in known.KINDS
    }
    return {
        "name": row.name,
        "version": row.version,
        "package": row.package,
        "distribution": row.distribution,
        # A second claimant of a name has a row of its own and none of the first one's contributions.
        "contributions": {kind: ids for kind, ids in mine.items() if ids} if row.counts else {},
        "error": row.error,
        "warnings": list(row.warnings),
    }


def _table(rows: tuple[Plugin, ...]) -> str:
    cells = [("PLUGIN", "VERSION", "PACKAGE", "CONTRIBUTES")]
    cells += [(row.name, row.version, row.package, _contributes(row)) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    lines = []
    for line, row in zip(cells, (None, *rows), strict=True):
        padded = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=False))
        lines.append(f"{padded}  {line[3]}".rstrip())
        if row is not None:
            lines.extend(f"    error: {fault}" for fault in row.faults)
            lines.extend(f"    warning: {note}" for note in row.warnings)
    return "\n".join(lines)


def _contributes(row: Plugin) -> str:
    parts = [f"{n} {kind if n != 1 else kind.removesuffix('s')}" for kind, n in row.counts.items()]
    return ", ".join(parts) or "nothing"
