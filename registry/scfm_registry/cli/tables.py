"""Versions in columns, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_registry.version import shown

if TYPE_CHECKING:
    from scfm_registry.version import ModelVersion, Versions


def table(found: Versions) -> str:
    """Lay versions out in columns for a terminal."""
    if not found:
        return "No model matches."
    rows = [
        ("NAME", "VERSION", "ALIASES", "OWNER", "PROJECT", "KIND", "CAN", "ORGANISMS", "LICENCE", "SIZE", "FITS"),
        # Tags may be anybody's words.
        *(tuple(shown(value, 300) for value in _row(item)) for item in found),
    ]
    # Columns that would be empty are left out.
    filled = [index for index in range(len(rows[0])) if any(row[index] for row in rows[1:])]
    rows = [tuple(row[index] for index in filled) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _licence(item: ModelVersion) -> str:
    """The licence's name, and whether it forbids commercial use."""
    name = (item.licence or "unknown").split(" (")[0].split(";")[0]
    return f"{name} (non-commercial)" if item.commercial is False else name


def _row(item: ModelVersion) -> tuple[str, ...]:
    return (
        item.name,
        str(item.version),
        ",".join(item.aliases) + (" RETRACTED" if item.retracted else ""),
        item.owner,
        item.project + (f" ({item.consent})" if item.consent else ""),
        item.kind,
        ",".join(sorted(item.abilities)),
        ",".join(item.organisms),
        _licence(item),
        "" if item.size is None else f"{item.size / 2**20:.1f} MiB",
        "" if item.fit is None else f"{item.fit.verdict}: {item.fit.reason}",
    )
