"""The difference of two versions: config, data, scores, weights, and what they make of the same cells."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_registry.version import ModelVersion

#: Tags that tell what a version is; measured ones and the registry's own bookkeeping are not among them.
TAGS = [
    "kind",
    "family",
    "license",
    "commercial",
    "origin",
    "owner",
    "project",
    "consent",
    "params",
    "width",
    "layers",
    "heads",
    "feed_forward",
    "max_length",
    "genes",
    "gene_ids",
    "organism",
    "parent_digest",
    "data_digest",
]
#: JSON files above this size are vocabularies and the like, not settings.
_LARGEST = 2**18
#: What of the registry's own records is a setting; the rest is history: who, when, on what machine, with what result.
_PARTS = {"import.json": ("config",), "finetuning.json": ("method", "settings", "labels", "split", "data")}
_NEIGHBOURS = 10


@dataclass(frozen=True)
class Comparison(Result):
    """How two versions differ.

    Attributes
    ----------
    a, b
        The versions.
    relation
        What they are to each other, in words.
    record
        Entry → (value of a, value of b), of what is on record and differs.
    config
        The same of the settings among their files, flattened: ``"config.json: n_layers"``. Of two fine-tuned versions also how
        they were trained: ``"finetuning.json: settings.learning_rate"``.
    metrics
        One row per score or measurement: metric, a, a_low, a_high, b, b_low, b_high, same_data, apart.
    tensors
        One row per tensor of both: tensor, layer, relative (norm of the change over the norm of a's), and remark.
    cells
        One row per cell of the panel: cell, cosine (NaN where vectors are not comparable), overlap (share of nearest
        neighbours that are the same).
    remarks
        What could not be compared, and why.
    """

    a: ModelVersion
    b: ModelVersion
    relation: str
    record: dict[str, tuple[Any, Any]]
    config: dict[str, tuple[Any, Any]]
    metrics: pd.DataFrame
    tensors: pd.DataFrame
    cells: pd.DataFrame
    remarks: list[str] = field(default_factory=list)

    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer, in the order of the model: layer, relative, largest, tensors, moved."""
        import numpy as np
        import pandas as pd

        columns = ["layer", "relative", "largest", "tensors", "moved"]
        rows = []
        for layer, part in self.tensors[self.tensors["remark"] == ""].groupby("layer", sort=False):
            norm = np.sqrt((part["norm"] ** 2).sum())
            change = np.sqrt((part["change"] ** 2).sum())
            rows.append(
                [
                    layer,
                    change / norm if norm else 0.0,
                    part["relative"].max(),
                    len(part),
                    int((part["change"] > 0).sum()),
                ]
            )
        return pd.DataFrame(rows, columns=columns)

    @property
    def table(self) -> pd.DataFrame:
        """One row per difference: part, what, a, b, difference."""
        import pandas as pd

        rows = [("record", key, before, after, "") for key, (before, after) in self.record.items()]
        rows += [("config", key, before, after, "") for key, (before, after) in self.config.items()]
        rows += [("metrics", row.metric, row.a, row.b, row.b - row.a) for row in self.metrics.itertuples()]
        rows += [("weights", row.layer, "", "", row.relative) for row in self.layers.itertuples()]
        return pd.DataFrame(rows, columns=["part", "what", "a", "b", "difference"])

    def summary(self) -> str:
        """What differs, in a few lines."""
        lines = [f"{self.b.reference} beside {self.a.reference}: {self.relation}."]
        told = {**self.record, **self.config}
        lines += [f"  {key}: {_told(before)} → {_told(after)}" for key, (before, after) in list(told.items())[:20]]
        lines += [f"  … and {len(told) - 20} more entries (.record, .config)"] if len(told) > 20 else []
        for row in self.metrics.itertuples():
            lines.append(
                f"  {row.metric}: {_interval(row.a, row.a_low, row.a_high)} → {_interval(row.b, row.b_low, row.b_high)}{_apart(row)}"
            )
        lines += self._weights() + self._cells()
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks)])

    def _weights(self) -> list[str]:
        if not len(self.tensors):
            return []
        moved = self.layers.sort_values("relative", ascending=False, kind="stable")
        moved = moved[moved["moved"] > 0]
        other = self.tensors[self.tensors["remark"] != ""]
        if not len(moved):
            lines = ["  weights: every tensor of both is the same"]
        else:
            most = ", ".join(f"{row.layer} {row.relative:.2%}" for row in list(moved.itertuples())[:5])
            lines = [f"  weights: {len(moved)} of {len(self.layers)} layers moved, most: {most}"]
        return lines + ([f"  {len(other)} tensors are in one only or have another shape"] if len(other) else [])

    def _cells(self) -> list[str]:
        if not len(self.cells):
            return []
        cosine, overlap = self.cells["cosine"], self.cells["overlap"]
        text = f"  {len(self.cells)} cells: {overlap.mean():.0%} of the {_NEIGHBOURS} nearest neighbours are the same"
        if cosine.notna().any():
            text += f"; cosine of a cell's vectors {cosine.median():.6f} in the middle, {cosine.min():.6f} at worst"
        return [text]

    def plot(self) -> Any:
        """How much each layer moved (Altair); where weights are not comparable, the overlap of neighbourhoods."""
        alt = charts()
        layers = self.layers
        if len(layers):
            return (
                alt.Chart(layers)
                .mark_bar()
                .encode(
                    x=alt.X("relative:Q", title="norm of the change / norm of the weights", axis=alt.Axis(format="%")),
                    y=alt.Y("layer:N", sort=None, title=None),
                    tooltip=["layer", "relative", "largest", "tensors", "moved"],
                )
            )
        return (
            alt.Chart(self.cells)
            .mark_bar()
            .encode(
                x=alt.X("overlap:Q", bin=alt.Bin(maxbins=20), title="share of neighbours that are the same"),
                y=alt.Y("count()", title="cells"),
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the single cells, as plain values."""

        def rows(frame: pd.DataFrame) -> Any:
            return json.loads(frame.to_json(orient="records", double_precision=12))

        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "relation": self.relation,
            "record": {key: list(value) for key, value in self.record.items()},
            "config": {key: list(value) for key, value in self.config.items()},
            "metrics": rows(self.metrics),
            "layers": rows(self.layers),
            "tensors": rows(self.tensors.drop(columns=["norm", "change"], errors="ignore")),
            "cells": rows(self.cells),
            "remarks": self.remarks,
            "summary": self.summary(),
        }


def relation(a: ModelVersion, b: ModelVersion) -> str:
    """What two versions are to each other, in words."""
    if a.digest == b.digest:
        return "the same files"
    parents = [item.tags.get("scfm.parent_digest", "") for item in (a, b)]
    if parents[1] == a.digest:
        return f"made from {a.reference}"
    if parents[0] == b.digest:
        return f"{a.reference} was made from it"
    if parents[0] and parents[0] == parents[1]:
        return "both made from the same parent"
    return "of the same family" if a.family == b.family else f"of another family ({a.family}, {b.family})"


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries whose values differ, or that one of two lacks (``None``)."""
    keys = [*a, *(key for key in b if key not in a)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def tags_of(item: ModelVersion) -> dict[str, str]:
    """What a version is, from its tags."""
    return {key: item.tags[f"scfm.{key}"] for key in TAGS if item.tags.get(f"scfm.{key}")}


def settings_of(folder: Path) -> dict[str, Any]:
    """Settings among a version's files, and what ``config=`` said when it was imported, flattened.

    Vocabularies and the rest of the registry's own records are left out.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name in ("manifest.json", *_PARTS) or path.stat().st_size > _LARGEST:
            continue
        content = _object(path)
        if len(content) <= 500:
            found.update(_flat(content, f"{path.relative_to(folder).as_posix()}: "))
    return found | _said("import.json", folder)


def tuning_of(folder: Path) -> dict[str, Any]:
    """How a fine-tuned version was trained: settings, labels, split and data of its record, flattened."""
    return _said("finetuning.json", folder)


def _said(name: str, folder: Path) -> dict[str, Any]:
    """What of one of the registry's own records is a setting, flattened."""
    content = _object(folder / name)
    return dict(_flat({key: content[key] for key in _PARTS[name] if key in content}, f"{name}: "))


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _flat(content: dict[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and depth < 8:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def metrics(a: list[dict[str, Any]], b: list[dict[str, Any]], measured: list[tuple[str, Any, Any]]) -> pd.DataFrame:
    """Put scores of two versions beside each other, and what was measured of them.

    Scores on the same data are put together; where there are none, the newest of each, and `same_data` says no. `apart` tells
    whether the intervals do not meet.
    """
    import pandas as pd

    from scfm_registry.scores import key

    rows = []
    for metric in dict.fromkeys(key(row["metric"]) for row in [*a, *b]):
        left, right = ([row for row in side if key(row["metric"]) == metric] for side in (a, b))
        pairs = [
            (x, y) for x in reversed(left) for y in reversed(right) if x.get("data_digest") == y.get("data_digest")
        ]
        first, second = pairs[0] if pairs else (left[-1] if left else {}, right[-1] if right else {})
        apart = None
        if pairs and None not in (ends := [first.get("low"), first.get("high"), second.get("low"), second.get("high")]):
            apart = bool(ends[1] < ends[2] or ends[3] < ends[0])  # type: ignore[operator]
        row = {"metric": metric, "same_data": bool(pairs), "apart": apart}
        for side, score in (("a", first), ("b", second)):
            row |= {side: score.get("value"), f"{side}_low": score.get("low"), f"{side}_high": score.get("high")}
        rows.append(row)
    rows += [{"metric": name, "a": x, "b": y, "same_data": True, "apart": None} for name, x, y in measured]
    columns = ["metric", "a", "a_low", "a_high", "b", "b_low", "b_high", "same_data", "apart"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(columns[1:7], float))


def vectors(a: NDArray[Any], b: NDArray[Any], names: list[str], *, comparable: bool) -> pd.DataFrame:
    """Compare what two models make of the same cells.

    Parameters
    ----------
    a, b
        float32, shape (cells, width of each).
    names
        Of the cells.
    comparable
        Whether numbers at the same place of a vector mean the same, as in models of one family and width.

    Returns
    -------
    DataFrame
        cell, cosine, overlap; cells that one of them cannot see are left out.
    """
    import numpy as np
    import pandas as pd

    seen = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    x, y = a[seen].astype(np.float64), b[seen].astype(np.float64)
    cosine = np.full(len(x), np.nan)
    if comparable and len(x):
        cosine = (x * y).sum(axis=1) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-300)
    count = min(_NEIGHBOURS, len(x) - 1)
    near, also = (_neighbours(part, count) for part in (x, y))
    overlap = [len(set(p) & set(q)) / count if count > 0 else np.nan for p, q in zip(near, also, strict=True)]
    return pd.DataFrame({"cell": np.asarray(names, dtype=object)[seen], "cosine": cosine, "overlap": overlap})


def _neighbours(x: NDArray[Any], count: int) -> NDArray[Any]:
    """Rows of the nearest cells by cosine, each cell itself left out; ties go to the lower row."""
    import numpy as np

    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, : max(count, 0)]


def _told(value: Any) -> str:
    from scfm_registry.version import shown

    return "nothing" if value is None else shown(value, 60)


def _interval(value: float, low: float, high: float) -> str:
    import math

    if value is None or math.isnan(value):
        return "not recorded"
    return f"{value:,.4g}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and not math.isnan(low) else "")


def _apart(row: Any) -> str:
    if not row.same_data:
        return " (on other cells: not to be compared)"
    return {True: "", False: " (intervals meet)", None: ""}[row.apart]
