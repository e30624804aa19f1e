"""Results as the browser shows them: plain values and packed places, taken from result objects and nothing computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import ALL
from scfm_lab.errors import plural
from scfm_widgets.codec import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_lab.inference.plan import Plan
    from scfm_widgets.codec import Frame

#: PAGA's connectivities below this are not drawn: nearly all groups of real cells are linked a little.
_WEAKEST_LINK = 0.1

_EFFECT_FIELDS = (
    "gene",
    "group",
    "readout",
    "effect",
    "effect_expressing",
    "effect_tested",
    "null_mean",
    "null_sd",
    "null_low",
    "null_high",
    "p_value",
    "q_value",
    "n_cells",
    "n_expressing",
    "n_changed",
    "n_tested",
    "verdict",
)


def perturbation(
    result: Any,
    doses: Mapping[str, float],
    *,
    seq: int,
    null: str,
    expressing: Mapping[str, int],
    order: Sequence[str] = (),
    of: str | None = None,
) -> dict[str, Any]:
    """Describe a :class:`~scfm_lab.tasks.perturb_result.PerturbResult`.

    Parameters
    ----------
    result
        The result.
    doses
        All doses on the bench, those that are 1 included.
    seq
        Number of the question it answers.
    null
        ``"pending"``, ``"ready"`` or ``"none"``.
    expressing
        For each gene of `doses`, in how many cells it is found.
    order
        Of the groups, as the legend has them.
    of
        The model that made it, in words, where it is another than the one that is picked.
    """
    fields = [name for name in _EFFECT_FIELDS if name in result.table]
    rows = in_order(plain(result.table[fields].to_dict(orient="records")), order)
    for row in rows:
        if row["verdict"] == "null not computed":
            row["verdict"] = ""
    error = np.asarray(result.layout.error)
    return {
        "seq": seq,
        "doses": dict(doses),
        "rows": rows,
        "target": dict(result.provenance.get("arguments") or {}).get("target"),
        "null": null,
        "moved": int(np.asarray(result.changed).sum()),
        "error_median": plain(float(np.nanmedian(error))) if np.isfinite(error).any() else None,
        "seconds": plain(float(result.provenance.get("seconds", np.nan))),
        "model": str(result.provenance.get("model", "")),
        "of": of,
        "groupby": groupby_of(result),
        "set_to": {str(gene): float(level) for gene, level in dict(result.set_to).items()},
        "expressing": dict(expressing),
    }


def in_order(rows: list[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by group as the legend has them, all cells together first; what is alike in read-out and group stays as it was."""
    place = {ALL: -1} | {group: at for at, group in enumerate(order)}
    readouts = {readout: at for at, readout in enumerate(dict.fromkeys(row.get("readout") for row in rows))}
    return sorted(rows, key=lambda row: (readouts[row.get("readout")], place.get(row["group"], len(order))))


def groupby_of(result: Any) -> str | None:
    """The column whose groups the rows of a result are; it is the result's own, whatever is picked on the bench."""
    return str(result.provenance.get("groupby") or "") or None


def trajectory(result: Any, frame: Frame, charts: Mapping[str, str] | None, *, version: int) -> dict[str, Any]:
    """Describe a :class:`~scfm_lab.tasks.trajectory.TrajectoryResult` on the plane that is shown.

    Parameters
    ----------
    result
        The result.
    frame
        Of the plane.
    charts
        SVG by theme, ``"light"`` and ``"dark"``.
    version
        Grows with each new trajectory.
    """
    return {
        "version": version,
        "root": f"{result.root_group} (cell {result.root})",
        "summary": result.summary(),
        **_drawn(result, _nodes(result, frame)),
        **_beside(result),
        "second": None,
        "charts": dict(charts) if charts else None,
    }


def _beside(result: Any) -> dict[str, Any]:
    """Give the ends, each group's probability of them, where paths part, and the same order on principal components."""
    ends = [] if result.fates is None else [str(end) for end in result.fates]
    table = result.table.sort_values("median_pseudotime")
    groups = [
        {
            "group": str(row["group"]),
            "n": int(row["n_cells"]),
            "time": plain(row["median_pseudotime"]),
            "fates": [plain(row.get(f"fate_{end}", np.nan)) for end in ends],
        }
        for row in table.to_dict(orient="records")
    ]
    twin = result.twin
    return {
        "ends": ends,
        "groups": groups,
        "parting": list(result.branch_points),
        "twin": None if twin is None else {"agreement": plain(float(twin.agreement))},
        "twin_missing": str(result.twin_missing),
    }


def trends(result: Any) -> list[dict[str, Any]]:
    """Describe a :class:`~scfm_lab.tasks.gene_trends.TrendResult`: a curve with its interval for each gene and path."""
    return [
        {
            "gene": str(gene),
            "path": str(path),
            **{k: plain(part[k].to_numpy()) for k in ("pseudotime", "mean", "low", "high")},
        }
        for (gene, path), part in result.table.groupby(["gene", "path"], sort=False)
    ]


def _drawn(
    result: Any, place: dict[str, tuple[float, float]], times: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Give nodes, links and paths at places in the unit square, with the groups' times where they are not the result's own."""
    table = result.table.set_index("group")
    times = table["median_pseudotime"] if times is None else times
    counts = table["n_cells"]
    largest = max(counts, default=1)
    size = {group: float(np.sqrt(counts.get(group, 0) / largest)) for group in place}
    names = list(place)
    links = result.connectivities
    edges = [
        {"from": i, "to": j, "weight": float(links.loc[a, b])}
        for i, a in enumerate(names)
        for j, b in enumerate(names[:i])
        if links.loc[a, b] > _WEAKEST_LINK
    ]
    paths = [
        {"name": str(path["nodes"][-1]), "points": [value for group in path["nodes"] for value in place[group]]}
        for path in result.paths
        if all(group in place for group in path["nodes"])
    ]
    return {
        "nodes": [
            {
                "name": name,
                "x": place[name][0],
                "y": place[name][1],
                "size": size[name],
                "time": plain(float(times[name])) if name in times else None,
                "parting": name in result.branch_points,
            }
            for name in names
        ],
        "edges": edges,
        "paths": paths,
    }


def paths_on(
    result: Any,
    plane: NDArray[np.float64],
    frame: Frame,
    labels: Any,
    *,
    key: str,
    times: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Give the same nodes, links and paths on another plane.

    Parameters
    ----------
    result
        The trajectory.
    plane
        Places of the cells, (cells, 2).
    frame
        Of that plane.
    labels
        Group of each cell.
    key
        Of the plane in ``obsm``.
    times
        Pseudotime of each group there, where it is another order's than the trajectory's own.
    """
    place = {
        str(group): _in_square(np.nanmedian(plane[labels == group], axis=0), frame)
        for group in sorted(set(labels))
        if np.isfinite(plane[labels == group]).all(axis=1).any()
    }
    on_path = [str(group) for path in result.paths for group in path["nodes"]]
    place = {group: place[group] for group in dict.fromkeys(on_path) if group in place}
    return {"key": key, **_drawn(result, place, times)}


def _nodes(result: Any, frame: Frame) -> dict[str, tuple[float, float]]:
    """Give places of the groups in the unit square.

    A path's points are the middles of its groups; a group on no path has no place and is not drawn.
    """
    place: dict[str, tuple[float, float]] = {}
    for path in result.paths:
        for group, point in zip(path["nodes"], path["points"], strict=True):
            place[str(group)] = _in_square(point, frame)
    return place


def _in_square(point: Any, frame: Frame) -> tuple[float, float]:
    x, y = (np.asarray(point, dtype=float) - np.array(frame.low)) / frame.side
    return float(x), float(y)


def plan(found: Plan, audit: Any, source: str, *, groupby: str | None, order: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the plan of a run and the audit of genes beside it, by group in the legend's `order`."""
    table = audit.table
    rows = [
        {
            "group": str(row.group),
            "cells": int(row.n_cells),
            "matched": None,
            "total": None,
            "lost": plain(float(row.umi_share_lost)),
        }
        for row in table.iloc[1:].itertuples()
    ]
    overall = {
        "group": "all",
        "cells": int(table["n_cells"].iloc[0]),
        "matched": int(audit.genes_matched),
        "total": int(audit.genes_total),
        "lost": plain(float(audit.umi_share_lost)),
    }
    notes = []
    if audit.panel_share < 0.95:
        notes.append(
            f"The measured genes hold {audit.panel_share:.0%} of a cell's counts; library sizes are taken over all genes."
        )
    if audit.cells_without_genes:
        blind = plural(audit.cells_without_genes, "cell has", "cells have")
        they = "it gets" if audit.cells_without_genes == 1 else "they get"
        notes.append(f"{blind} no gene that the model knows; {they} no vector.")
    return {
        "model": source,
        "status": "ready",
        "device": _device(found.device),
        "precision": found.precision,
        "memory": f"{found.fit.verdict}: {found.fit.reason}",
        "seconds": plain(float(found.seconds)),
        "notes": [f"{found.median_length:,} genes per cell (median) go into the model."],
        "audit": {"rows": in_order(rows, order), "overall": overall, "groupby": groupby, "note": " ".join(notes)},
    }


def _device(name: str) -> str:
    kind, _, number = name.partition(":")
    words = {"cpu": "CPU", "cuda": "CUDA GPU", "mps": "Apple GPU"}.get(kind, kind)
    return f"{words} {number}".strip()
