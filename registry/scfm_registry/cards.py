"""A model's card: what the registry has on record, then what came with the files. Markdown, for people and for the bench."""

from __future__ import annotations

import functools
import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_registry import hardware_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Template

    from scfm_registry.version import Evidence, ModelVersion

_UNKNOWN = "not known"
_NOT_SAID = "Nobody has said"
_TEMPLATE = """\
# {{ title }}

{% if retracted -%}
**Retracted: {{ retracted }}**

{% endif -%}
| | |
|---|---|
{% for label, value in rows -%}
| {{ label }} | {{ value }} |
{% endfor %}
{% for heading, text in sections -%}
## {{ heading }}

{{ text }}

{% endfor -%}
{% if body -%}
## The card that came with it

{{ body }}
{% else -%}
This version came without a card of its own: what it was trained on, and what it should not be used for, is not on record.
{% endif %}"""


def render(item: ModelVersion, body: str, about: About | None = None) -> str:
    """Render the card of a version, as Markdown.

    What others wrote (tags, the card among the files) is text: control characters are taken out, and a vertical line cannot
    break the table. Whoever shows Markdown as HTML must still sanitise it.

    Parameters
    ----------
    item
        The version.
    body
        The card that came with its files; empty where none did.
    about
        What is on record elsewhere.
    """
    rows = [(label, _cell(value)) for label, value in facts(item).items()]
    return _template().render(
        title=_cell(str(item)),
        retracted=_cell(item.retracted),
        rows=rows,
        sections=list(sections(item, about or About()).items()),
        body=clean(body).strip(),
    )


@dataclass(frozen=True)
class About:
    """What is on record about a version beside its tags.

    Attributes
    ----------
    scores
        As :meth:`scfm_registry.Registry.scores` gives them.
    measurements
        Runs of measurements.
    parents
        References of the versions that it was made from.
    """

    scores: Sequence[Mapping[str, Any]] = ()
    measurements: Sequence[Evidence] = ()
    parents: Sequence[str] = ()


def sections(item: ModelVersion, about: About) -> dict[str, str]:
    """The parts of a card below its table: heading → Markdown."""
    said = {key: _cell(item.tags.get(f"scfm.{key}", "")) for key in ("data", "use", "limits", "citation")}
    trained = [said["data"]] if said["data"] else []
    if digest := _cell(item.tags.get("scfm.data_digest", "")):
        trained.append(f"Digest of the cells: `{digest}`.")
    return {
        "Data": " ".join(trained) or f"{_NOT_SAID} (`scfm-lab models annotate {item.reference} --data …`).",
        "Licence, and what it forbids": duties(item),
        "Intended use": said["use"] or f"{_NOT_SAID} (`--use …`).",
        "Limits": said["limits"]
        or f"{_NOT_SAID} (`--limits …`). Its organisms and genes, above, are limits in any case.",
        "Evaluation": _evaluation(about.scores),
        "Measured": _measurements(about.measurements),
        "Provenance": _provenance(item, about.parents),
        "Citation": said["citation"] or f"{_NOT_SAID}.",
    }


def duties(item: ModelVersion) -> str:
    """What the licence asks and forbids, and what consent does, in words."""
    named = _cell(item.licence)
    if item.commercial is False:
        text = f"{named or 'A licence'}: no commercial use; this holds for models made from it as well."
    elif not named:
        text = "Not known. Ask its authors before you pass it on or use it commercially."
    elif item.commercial:
        text = f"{named}: commercial use is allowed. Keep the licence and the authors' names with it."
    else:
        text = f"{named}: whether commercial use is allowed is not on record; read the licence."
    if item.consent and item.consent != "open":
        text += f" Consent: {_cell(item.consent)}; it does not leave this registry."
    return text


def _evaluation(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "No scores are on record."
    lines = ["| Score | Value | Interval | Floor | Parent | Cells |", "|---|---|---|---|---|---|"]
    for row in scores:
        ends = [_decimal(row.get(key)) for key in ("low", "high")]
        floor = " ".join(
            filter(None, [_decimal(row.get("floor")), f"({row.get('floor_name')})" if row.get("floor_name") else ""])
        )
        cells = str(row.get("data_digest", "")).removeprefix("sha256:")[:12]
        values = [
            row["metric"],
            _decimal(row["value"]),
            f"{ends[0]} to {ends[1]}" if all(ends) else "",
            floor,
            _decimal(row.get("parent")),
            cells,
        ]
        lines.append(f"| {' | '.join(_cell(str(value)) for value in values)} |")
    return "\n".join(lines)


def _measurements(runs: Sequence[Evidence]) -> str:
    # A run is anybody's who may write to the registry.
    runs = [run for run in runs if hardware_tags.can_be(run.metrics)]
    if not runs:
        return "Not measured; what the table says of memory is an estimate."
    lines = [
        "| Machine | Device | Opens in | Cells a minute | Genes a cell | Peak | Worst cosine to float32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        found = run.metrics
        values = [
            run.tags.get("scfm.machine", ""),
            f"{run.tags.get('scfm.device', '')} {run.tags.get('scfm.precision', '')}",
            f"{found.get('load_seconds', 0):.2f} s",
            f"{found.get('cells_per_minute', 0):,.0f}",
            f"{found.get('tokens_per_cell', 0):,.0f}",
            f"{found.get('peak_mib', 0):,.0f} MiB",
            f"{found.get('worst_cosine_to_float32', 0):.6f}",
        ]
        lines.append(f"| {' | '.join(_cell(value) for value in values)} |")
    return "\n".join(lines)


def _provenance(item: ModelVersion, parents: Sequence[str]) -> str:
    lines = [
        f"Registered {item.created:%Y-%m-%d}"
        + (f" by {_cell(item.tags['scfm.registered_by'])}" if "scfm.registered_by" in item.tags else "")
    ]
    lines += [f"origin: {_cell(item.origin)}"] if item.origin else []
    lines += [f"made from {', '.join(parents)}"] if parents else []
    if not parents and (parent := _cell(item.tags.get("scfm.parent_digest", ""))):
        lines.append(f"made from `{parent}`, which is not here")
    if weights := _cell(item.tags.get("scfm.weights", "")):
        lines.append(f"published weights `{weights}`")
    if run := _cell(item.tags.get("scfm.certificate.run", "")):
        lines.append(f"determinism certificate in run `{run}`")
    return "; ".join(lines) + "."


def _decimal(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) and math.isfinite(value) else ""


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
        "Memory": _per_device(item, "mem", "MiB at its peak"),
        "Speed": _per_device(item, "speed", "cells a minute"),
        "Owner": item.owner or _UNKNOWN,
        **({"Project": item.project} if item.project else {}),
        **({"Consent": item.consent} if item.consent else {}),
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


def _per_device(item: ModelVersion, what: str, unit: str) -> str:
    found = []
    for device in hardware_tags.DEVICES:
        value = hardware_tags.number(item.tags, what, device)
        if value is not None:
            source = item.tags.get(f"scfm.{what}.{device}.source", "measured")
            found.append(f"{value:,} {unit} on {device.upper()} ({source})")
    return "; ".join(found) or "not measured; run `scfm-lab models measure`"
