"""What commands of the registry share: options, and how they open it and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_registry.registry import Registry

KINDS = ("pretrained", "fine-tuned", "baseline")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(function)


def registry_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--registry``, as the argument `uri`."""
    return click.option(
        "--registry",
        "uri",
        metavar="URI",
        help="A folder, sqlite:///FILE, postgresql://… or http(s)://… [default: the environment's].",
    )(function)


def consent_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--consent``: what the donors of the data agreed to."""
    from scfm_registry.annotating import CONSENT

    help_text = "What the data's donors agreed to; all but 'open' keep it in this registry."
    return click.option("--consent", type=click.Choice(CONSENT), help=help_text)(function)


def parent_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--parent``: what a checkpoint was made from."""
    help_text = "The version that it was made from (NAME/3, NAME@alias), whose consent, licence and retraction then hold for it too."
    return click.option("--parent", metavar="REFERENCE", help=help_text)(function)


def certify_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--certify/--no-certify``."""
    help_text = "Record what it makes of a panel of real cells, for 'models verify'."
    return click.option("--certify/--no-certify", default=True, show_default=True, help=help_text)(function)


def leave(*, ok: bool) -> None:
    """Leave with 1 where what was asked was done and the answer is bad news."""
    if not ok:
        click.get_current_context().exit(1)


def opened(uri: str | None) -> Registry:
    """Open the registry that ``--registry`` names."""
    from scfm_registry.registry import Registry

    return Registry(uri)
