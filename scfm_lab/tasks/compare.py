"""Two models on the same cells: whether they see the same neighbours, and how well each keeps known groups apart."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, plural
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

#: Most cells whose neighbours are compared; the same ones for both models.
_MOST_CELLS = 5_000


@dataclass(frozen=True, repr=False)
class CompareResult(Result):
    """How two models see the same cells."""

    models: tuple[str, str]
    """With their versions."""
    keys: tuple[str, str]
    """Where their vectors lie in ``obsm``."""
    overlap: NDArray[np.float32]
    """Share of each cell's nearest neighbours that both models agree on, (cells,); NaN where a cell was not compared."""
    table: pd.DataFrame
    """group, n_cells, overlap, expected_overlap (of neighbours drawn at random) and, where there are groups, accuracy_a and
    accuracy_b: how often a cell's neighbours, without itself, vote for its own group, among cells that neither model was
    trained on (NaN where there are none). First row: all cells."""
    groupby: str | None
    n_neighbors: int
    provenance: dict[str, Any]

    def summary(self) -> str:
        """Agreement, and which model keeps the groups apart."""
        a, b = self.models
        row = self.table.iloc[0]
        lines = [
            f"Of {self.n_neighbors} nearest neighbours of a cell, {a} and {b} share {row['overlap']:.0%} "
            f"(by chance {row['expected_overlap']:.1%}; {int(row['n_cells']):,} cells compared)."
        ]
        if self.groupby and np.isfinite(row["accuracy_a"]):
            lines.append(
                f"Neighbours vote for a cell's own {self.groupby} in {row['accuracy_a']:.0%} of cells with {a} and in "
                f"{row['accuracy_b']:.0%} with {b} (no floor and no interval: sl.evaluate.annotation has both)."
            )
            groups = self.table.iloc[1:].dropna(subset=["accuracy_a", "accuracy_b"])
            if len(groups):
                gap = groups["accuracy_a"] - groups["accuracy_b"]
                most = groups.loc[gap.abs().idxmax()]
                lines.append(
                    f"They differ most in {most['group']}: {most['accuracy_a']:.0%} and {most['accuracy_b']:.0%} "
                    f"of {int(most['n_cells']):,} cells."
                )
        if self.groupby and (seen := self.provenance["cells_not_scored"]):
            lines.append(
                f"{plural(seen, 'cell is', 'cells are')} in the training record of a model, and no votes are counted of them."
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Accuracy of both models for each group (Altair)."""
        alt = charts()
        groups = self.table.iloc[1:] if len(self.table) > 1 else self.table
        fields = ["accuracy_a", "accuracy_b"] if self.groupby else ["overlap", "expected_overlap"]
        names = dict(zip(fields, self.models if self.groupby else ("found", "by chance"), strict=True))
        long = groups.melt(["group"], fields, "model", "value").replace({"model": names})
        return (
            alt.Chart(long)
            .mark_point(filled=True, size=70)
            .encode(
                x=alt.X("value:Q", title="neighbours of the same group" if self.groupby else "shared neighbours"),
                y=alt.Y("group:N", title=None),
                color=alt.Color("model:N", scale=alt.Scale(range=["#0072B2", "#E69F00"]), title=None),
                shape=alt.Shape("model:N", title=None),
            )
        )

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the share of agreed neighbours of each cell to ``obs``."""
        if adata.n_obs != len(self.overlap):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.overlap):,}.")
        name = key_added or "neighbours_shared"
        key = provenance.free_key(adata, "obs", name, given=key_added is not None)
        adata.obs[key] = self.overlap
        provenance.record(adata, key, self.provenance, slot="obs")


def compare(
    adata: AnnData,
    model: Model | str | Path,
    against: Model | str | Path,
    *,
    groupby: str | None = None,
    layer: str | None = None,
    n_neighbors: int = 15,
    key_added: tuple[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    options_against: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> CompareResult:
    """Compare two models, or two versions of one, on the same cells.

    Both models' vectors are written to ``adata.obsm`` as :func:`scfm_lab.embed` does, under two keys; vectors that were
    computed before come from the cache.

    Parameters
    ----------
    adata
        With raw counts.
    model, against
        Opened models or their sources.
    groupby
        Column of ``obs`` with groups that a good model keeps apart.
    layer
        Where the counts are; default: found.
    n_neighbors
        How many nearest neighbours of each cell are compared (Euclidean distance of the vectors).
    key_added
        Keys in ``obsm`` of both models' vectors; default ``"X_<model's name>"``. Where both are called the same the version is
        added (``"X_blood_v1"``, ``"X_blood_v2"``), or a number to the second one's key if there is none.
    options, options_against
        Options of the families of `model` and of `against`, as for :func:`scfm_lab.embed`.
    seed
        Draws the cells where there are more than 5,000.
    progress, cancel
        As for :func:`scfm_lab.embed`.

    Raises
    ------
    DataError
        There are too few cells, `groupby` holds no groups or one called ``all``, or `key_added` is not two keys that can be written.
    ModelError
        A model cannot be opened, or has no such option.

    Examples
    --------
    >>> from scfm_lab.tasks.compare import compare
    >>> compare(adata, "starter", "pca", groupby="cell_type").summary()  # doctest: +SKIP
    """
    from scfm_lab.cells.cells import group_column, refuse_all
    from scfm_lab.cells.given import check_given
    from scfm_lab.evaluation.overlap import trained_on
    from scfm_lab.models.load import as_model
    from scfm_lab.tasks.embed import embed

    began = time.perf_counter()
    labels = None if groupby is None else group_column(adata, groupby).astype(str).to_numpy(dtype=object)
    if labels is not None:
        refuse_all(labels, f"obs[{groupby!r}]")
    pair = [as_model(model), as_model(against)]
    check_given(adata, function="compare", call="compare(adata, model, against)")
    # Of both, before the first one's vectors are written.
    for one, asked in zip(pair, (options, options_against), strict=True):
        one.require("embed")
        one.check_options(asked)
    # With other options one model's vectors are two models' as far as a key goes.
    alike = dict(options or {}) == dict(options_against or {})
    keys = _keys(adata, *pair, alike=alike, given=key_added)
    found = [
        embed(adata, one, layer=layer, key_added=key, options=asked, progress=progress, cancel=cancel)
        for one, key, asked in zip(pair, keys, (options, options_against), strict=True)
    ]
    seen = np.flatnonzero(np.isfinite(found[0].vectors).all(axis=1) & np.isfinite(found[1].vectors).all(axis=1))
    if len(seen) <= n_neighbors:
        message = (
            f"{len(seen)} cells have vectors of both models; more than {n_neighbors} are needed to compare neighbours."
        )
        raise DataError(message)
    if len(seen) > _MOST_CELLS:
        seen = np.sort(np.random.default_rng(seed).choice(seen, _MOST_CELLS, replace=False))
    near = [_neighbours(result.vectors[seen], n_neighbors) for result in found]
    shared = np.array([len(np.intersect1d(a, b)) for a, b in zip(*near, strict=True)]) / n_neighbors
    overlap = np.full(adata.n_obs, np.nan, dtype=np.float32)
    overlap[seen] = shared
    right, not_scored = None, 0
    if labels is not None:
        trained = np.zeros(adata.n_obs, dtype=bool)
        for one, asked in zip(pair, (options, options_against), strict=True):
            trained |= trained_on(one, adata, layer=layer, options=asked)
        not_scored = int(trained[seen].sum())
        right = [np.where(trained[seen], np.nan, _votes(labels[seen], one)) for one in near]
    names = [str(result.provenance.get("version") or result.provenance["model"]) for result in found]
    if names[0] == names[1] and keys[0] != keys[1]:
        # Two checkpoints of one family: by where their vectors are.
        names = [key.removeprefix("X_") for key in keys]
    return CompareResult(
        models=(names[0], names[1]),
        keys=(found[0].key, found[1].key),
        overlap=overlap,
        table=_table(shared, right, None if labels is None else labels[seen], n_neighbors),
        groupby=groupby,
        n_neighbors=n_neighbors,
        provenance={
            "task": "compare",
            "of": [result.provenance for result in found],
            "groupby": groupby or "",
            "n_neighbors": n_neighbors,
            "cells_compared": len(seen),
            "cells_not_scored": not_scored,
            "seed": seed,
            "arguments": provenance.arguments(
                layer=layer, n_neighbors=n_neighbors, options=options, options_against=options_against, seed=seed
            ),
            "packages": provenance.package_versions(),
            "seconds": time.perf_counter() - began,
        },
    )


def _keys(adata: AnnData, a: Model, b: Model, *, alike: bool, given: tuple[str, str] | None) -> tuple[str, str]:
    """Keys in ``obsm`` for the vectors of both models: one for each, unless it is one model twice."""
    told = ("version", "digest", "settings_digest", "precision")
    same = alike and (a is b or (bool(a.digest) and all(getattr(a, name) == getattr(b, name) for name in told)))
    if given is not None:
        if isinstance(given, str) or len(given) != 2 or (given[0] == given[1] and not same):
            raise DataError(f"key_added must be two keys, one for the vectors of each model; it is {given!r}.")
        return given[0], given[1]
    names = [f"X_{one.name}" for one in (a, b)]
    if names[0] == names[1] and not same:
        versions = [one.version.rpartition("/")[2] for one in (a, b)]
        names = [f"{name}_v{version}" if version else name for name, version in zip(names, versions, strict=True)]
    first, second = (provenance.free_key(adata, "obsm", name, given=False) for name in names)
    number = 2
    while second == first and not same:
        second = provenance.free_key(adata, "obsm", f"{names[1]}_{number}", given=False)
        number += 1
    return first, second


def _neighbours(vectors: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Each row's nearest others, (rows, n)."""
    from sklearn.neighbors import NearestNeighbors

    found: NDArray[np.int64] = NearestNeighbors(n_neighbors=n).fit(vectors).kneighbors(return_distance=False)
    return found


def _votes(labels: NDArray[Any], near: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the most frequent label of each cell's neighbours is its own; a tie counts as no."""
    names, codes = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(labels), len(names)), dtype=np.int64)
    np.add.at(counts, (np.arange(len(labels))[:, None], codes[near]), 1)
    own = counts[np.arange(len(labels)), codes].copy()
    counts[np.arange(len(labels)), codes] = -1
    return own > counts.max(axis=1) if len(names) > 1 else np.ones(len(labels), dtype=bool)


def _table(
    shared: NDArray[np.float64], right: list[NDArray[np.float64]] | None, labels: NDArray[Any] | None, n: int
) -> pd.DataFrame:
    import pandas as pd

    from scfm_lab.cells.cells import ALL

    members = [(ALL, np.arange(len(shared)))]
    if labels is not None:
        members += [(str(group), np.flatnonzero(labels == group)) for group in sorted(set(labels))]
    rows = [
        {
            "group": group,
            "n_cells": len(rows),
            "overlap": float(shared[rows].mean()),
            "expected_overlap": n / (len(shared) - 1),
            "accuracy_a": np.nan if right is None else _mean(right[0][rows]),
            "accuracy_b": np.nan if right is None else _mean(right[1][rows]),
        }
        for group, rows in members
    ]
    return pd.DataFrame(rows)


def _mean(values: NDArray[np.float64]) -> float:
    """Of those that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
