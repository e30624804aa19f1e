"""The card of a model that was trained here, written from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_registry.version import ModelVersion


def title(name: str, record: dict[str, Any]) -> str:
    """What the model is, in a line."""
    labels = record.get("labels", {}).get("names", [])
    return f"{name}: {len(labels)} labels" if labels else f"{name}: a user's own run"


def write(head: str, record: dict[str, Any], parent: ModelVersion) -> str:
    """A card as Markdown: from what, with which cells, how well beside the floors, what it must not be used for."""
    lines = [
        f"# {head}",
        "",
        f"Made from `{parent.reference}` ({parent.digest}) with {_code(record)}, {record.get('when', '')}.",
    ]
    data = record.get("data")
    if data:
        labels = record["labels"]["names"]
        lines += [
            "",
            "## Data",
            "",
            f"{data['cells']:,} cells and {data['genes']:,} genes, labelled by `{data['labels_key']}` "
            f"(`{data['digest']}`), split {record['split']['rule']}: "
            + ", ".join(f"{n:,} {part}" for part, n in record["split"]["cells"].items())
            + ".",
            "",
            f"Labels: {', '.join(labels)}.",
        ]
    rows = record.get("metrics", [])
    if rows:
        lines += [
            "",
            "## Evaluation",
            "",
            f"On {rows[0]['n_cells']:,} cells that were held out; intervals are 95 % over resampled {rows[0].get('unit', 'cells')}.",
            "",
            "| method | macro-F1 | accuracy |",
            "|---|---|---|",
        ]
        lines += [
            f"| {row['method']} | {row['macro_f1']:.3f} [{row['macro_f1_low']:.3f}, {row['macro_f1_high']:.3f}] | "
            f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}] |"
            for row in rows
        ]
    remarks = record.get("remarks", [])
    limits = [
        "It gives one of its labels to every cell, also to cells of a type that it was not shown.",
        *remarks,
    ]
    if data:
        lines += ["", "## Limits", "", *[f"- {text}" for text in limits]]
    licence = f"{parent.licence or 'not known'}" + (", no commercial use" if parent.commercial is False else "")
    lines += ["", "## Licence", "", f"That of what it was made from: {licence}.", ""]
    return "\n".join(lines)


def _code(record: dict[str, Any]) -> str:
    return f"scfm-lab {record.get('code', {}).get('scfm-lab', '')}".strip()
