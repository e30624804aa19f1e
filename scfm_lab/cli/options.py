"""Options that many commands take, spelled and explained once."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scfm_lab.cells.dose import MOST_DOSE

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def h5ad_argument(name: str, metavar: str) -> Callable[[F], F]:
    """Give an argument that must be an existing file."""
    return click.argument(name, metavar=metavar, type=click.Path(exists=True, dir_okay=False))


def model_option(function: F) -> F:
    """Add ``--model``."""
    return click.option(
        "--model",
        "source",
        metavar="SOURCE",
        required=True,
        help="A built-in model (pca, sctop, starter), a checkpoint's folder or file, or models:/name@alias.",
    )(function)


def config_option(function: F) -> F:
    """Add ``--config KEY=VALUE``, what a checkpoint's files do not say."""
    return click.option(
        "--config",
        metavar="KEY=VALUE",
        multiple=True,
        callback=parse_settings,
        help="What the model's files do not say, such as nhead=20 or orthologs=true. Several times: all.",
    )(function)


def model_options(function: F) -> F:
    """Add ``--config`` and ``--option KEY=VALUE``, the options of a family."""
    function = click.option(
        "--option",
        "model_options",
        metavar="KEY=VALUE",
        multiple=True,
        callback=parse_settings,
        help="An option of the model's family, such as max_length=2048 or orthologs=true. Several times: all.",
    )(function)
    return config_option(function)


def parse_settings(
    _ctx: click.Context | None, _param: click.Parameter | None, given: tuple[str, ...]
) -> dict[str, Any]:
    """Turn ``("nhead=20", "orthologs=true")`` into ``{"nhead": 20, "orthologs": True}``: values are JSON, or else text.

    Raises
    ------
    click.BadParameter
        One has no ``=``, or a key stands there twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            message = f"'{text}' is not KEY=VALUE; write nhead=20, for example."
            raise click.BadParameter(message)
        if key in found:
            message = f"'{key}' is given twice."
            raise click.BadParameter(message)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def machine_options(function: F) -> F:
    """Add ``--device``, ``--precision`` and ``--batch-size``."""
    size = click.option(
        "--batch-size", type=click.IntRange(min=1), help="Most cells per batch [default: what the device takes]."
    )
    return device_options(size(function))


def device_options(function: F) -> F:
    """Add ``--device`` and ``--precision``."""
    function = click.option(
        "--precision", default="auto", show_default=True, help="float32, bfloat16, float16 or auto."
    )(function)
    return click.option("--device", default="auto", show_default=True, help="cuda, mps, cpu or auto.")(function)


def layer_option(function: F) -> F:
    """Add ``--layer``."""
    return click.option("--layer", help="Where the raw counts are: a layer, X or raw [default: looked for].")(function)


def seed_option(function: F) -> F:
    """Add ``--seed``."""
    return click.option("--seed", type=int, default=0, show_default=True, help="Seed of every random draw.")(function)


def out_option(help_text: str, *, required: bool = True) -> Callable[[F], F]:
    """Give ``-o/--out``."""
    return click.option("-o", "--out", type=click.Path(), required=required, help=help_text)


def report_options(function: F) -> F:
    """Add ``--json`` and ``--progress/--no-progress``."""
    function = click.option(
        "--progress/--no-progress", default=None, help="Show progress [default: when a terminal is there]."
    )(function)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(function)


def doses_option(function: F) -> F:
    """Add ``--gene GENE=DOSE``, as often as there are genes."""
    return click.option(
        "--gene",
        "doses",
        metavar="GENE=DOSE",
        multiple=True,
        callback=parse_doses,
        help="A gene and its dose: 0 is a knockout, 1 no change, 2 twice the level. May be given several times.",
    )(function)


def levels_option(function: F) -> F:
    """Add ``--set GENE=LEVEL``, for genes that are silent and so have no level to multiply."""
    return click.option(
        "--set",
        "levels",
        metavar="GENE=LEVEL",
        multiple=True,
        callback=parse_doses,
        help="A gene and the level to set it to, in counts per 10,000. May be given several times.",
    )(function)


def parse_doses(_ctx: click.Context | None, param: click.Parameter | None, given: tuple[str, ...]) -> dict[str, float]:
    """Turn ``("GATA1=0", "SPI1=2")`` into ``{"GATA1": 0.0, "SPI1": 2.0}``.

    Raises
    ------
    click.BadParameter
        No gene or no number in one of them, a number that is not finite, is below 0 or a dose above 1,000, a gene given
        twice.
    """
    what = "level" if param is not None and param.name == "levels" else "dose"
    meaning = "counts per 10,000" if what == "level" else "0 is a knockout, 1 no change"
    found: dict[str, float] = {}
    for text in given:
        # From the right: some identifiers hold a "=", no number does.
        gene, equals, amount = (part.strip() for part in text.rpartition("="))
        if not equals or not gene or not amount:
            message = f"'{text}' is not GENE={what.upper()}; write CD3D=0, for example."
            raise click.BadParameter(message)
        try:
            value = float(amount)
        except ValueError:
            message = f"the {what} of {gene} must be a number such as 0, 0.5 or 2; it is '{amount}'."
            raise click.BadParameter(message) from None
        if not math.isfinite(value) or value < 0:
            message = f"the {what} of {gene} must be 0 or more ({meaning}); it is {amount}."
            raise click.BadParameter(message)
        if what == "dose" and value > MOST_DOSE:
            message = f"the dose of {gene} is {amount}; at most {MOST_DOSE:,.0f} makes sense, 2 is twice the level."
            raise click.BadParameter(message)
        if gene in found:
            message = f"{gene} is given twice; give each gene one {what}."
            raise click.BadParameter(message)
        found[gene] = value
    return found
