"""A model's card: what the registry has on record, then what came with the files. Markdown, for people and for the bench."""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Template

    from scfm_registry.version import ModelVersion

_UNKNOWN = "not known"
_TEMPLATE = """\
# {{ title }}

| | |
|---|---|
{% for label, value in rows -%}
| {{ label }} | {{ value }} |
{% endfor %}
{% if body -%}
{{ body }}
{% else -%}
This version came without a card of its own: what it was trained on, and what it should not be used for, is not on record.
{% endif %}"""


def render(item: ModelVersion, folder: Path) -> str:
    """Render the card of a version whose files lie in `folder`, as Markdown.

    What others wrote (tags, the card among the files) is text: control characters are taken out, and a vertical line cannot
    break the table. Whoever shows Markdown as HTML must still sanitise it.
    """
    from scfm_registry.importing import card_of

    rows = [(label, _cell(value)) for label, value in facts(item).items()]
    return _template().render(title=_cell(str(item)), rows=rows, body=clean(card_of(folder)).strip())


def facts(item: ModelVersion) -> dict[str, str]:
    """What is on record about a version, label → words."""
    commercial = {None: "", True: " (commercial use allowed)", False: " (no commercial use)"}[item.commercial]
    genes = item.tags.get("scfm.genes", "")
    identifiers = {"symbol": "gene symbols", "ensembl": "Ensembl ids"}.get(item.gene_ids, "identifiers not known")
    return {
        "Kind": item.kind or _UNKNOWN,
        "Family": item.family or _UNKNOWN,
        "Can": ", ".join(sorted(item.abilities)) or _UNKNOWN,
        "Organisms": ", ".join(item.organisms) or _UNKNOWN,
        "Genes": f"{int(genes):,}, {identifiers}" if genes.isdigit() else identifiers,
        "Vector": _UNKNOWN if item.width is None else f"{item.width:,} numbers per cell",
        "Parameters": _UNKNOWN if item.parameters is None else f"{item.parameters:,}",
        "Size": _UNKNOWN if item.size is None else f"{item.size / 2**20:.1f} MiB",
        "Licence": (item.licence or _UNKNOWN) + commercial,
        "Memory": _per_device(item, "mem", "peak_mib", "MiB at its peak"),
        "Speed": _per_device(item, "speed", "best_cpm", "cells a minute"),
        "Registered": item.created.strftime("%Y-%m-%d %H:%M UTC"),
        "Identity": f"`{item.digest}`",
    }


def clean(text: str) -> str:
    """Take out control and formatting characters (ANSI escapes, right-to-left overrides) but for line ends and tabs."""
    return "".join(
        letter
        for letter in text.replace("\r\n", "\n")
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf")
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment

    return Environment(autoescape=False, keep_trailing_newline=True).from_string(_TEMPLATE)  # Markdown, not HTML


def _cell(text: str) -> str:
    """Keep a value inside its cell of the table."""
    return " ".join(clean(text).split()).replace("|", "\\|")


def _per_device(item: ModelVersion, what: str, key: str, unit: str) -> str:
    from scfm_registry.version import number

    found = []
    for device in ("cpu", "cuda", "mps"):
        value = number(item.tags.get(f"scfm.{what}.{device}.{key}"))
        if value is not None:
            source = item.tags.get(f"scfm.{what}.{device}.source", "measured")
            found.append(f"{value:,} {unit} on {device.upper()} ({source})")
    return "; ".join(found) or "not measured; run `scfm-lab models measure`"
