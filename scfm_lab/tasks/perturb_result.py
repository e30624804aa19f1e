"""The result of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.tasks.layout import Layout

ALL = "all"
MIN_CHANGED = 10
"""Fewer changed cells in a group are not tested: their mean says little."""
_NULL_COLUMNS = ("null_mean", "null_sd", "null_low", "null_high", "p_value", "q_value")


def group_rows(groups: NDArray[Any] | None, n: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """``"all"`` with every row, then each group with its rows."""
    yield ALL, np.arange(n)
    if groups is not None:
        for group in sorted(set(groups)):
            yield str(group), np.flatnonzero(groups == group)


def effect_table(
    gene: str,
    shift: NDArray[np.float32],
    expressing: NDArray[np.bool_],
    groups: NDArray[Any] | None,
    samples: NDArray[Any] | None,
) -> pd.DataFrame:
    """One row per group: mean shift over its cells, and over those that express the gene."""
    import pandas as pd

    rows = []
    for group, members in group_rows(groups, len(shift)):
        seen = members[np.isfinite(shift[members])]
        among = seen[expressing[seen]]
        row: dict[str, Any] = {
            "gene": gene,
            "group": group,
            "readout": "shift",
            "effect": float(shift[seen].mean()) if len(seen) else np.nan,
            "effect_expressing": float(shift[among].mean()) if len(among) else np.nan,
            **dict.fromkeys(_NULL_COLUMNS, np.nan),
            "n_null": 0,
            "n_cells": len(seen),
            "n_expressing": len(among),
            "n_changed": int((shift[seen] > 0).sum()),
        }
        if samples is not None:
            row |= _over_samples(shift, seen, samples)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["verdict"] = "null not computed"
    return table


def _over_samples(shift: NDArray[np.float32], seen: NDArray[np.int64], samples: NDArray[Any]) -> dict[str, Any]:
    """Mean over samples with a 95 % t-interval: donors are the replicates, not cells."""
    from scipy import stats

    means = np.array([shift[seen[samples[seen] == s]].mean() for s in sorted(set(samples[seen]))])
    n = len(means)
    out = {"n_samples": n, "effect_low": np.nan, "effect_high": np.nan}
    if n >= 2:
        half = stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n)
        out |= {"effect_low": float(means.mean() - half), "effect_high": float(means.mean() + half)}
    return out


@dataclass(frozen=True, repr=False)
class PerturbResult(Result):
    """Effect of a perturbation on every cell and group, beside its null.

    The effect is the Euclidean distance that the model moves a cell's vector; a cell whose
    counts do not change has exactly 0.
    """

    gene: str
    doses: Mapping[str, float]
    set_to: Mapping[str, float]
    table: pd.DataFrame
    """gene, group, readout, effect, effect_expressing, null_mean, null_sd, null_low, null_high, p_value,
    q_value, n_null, n_cells, n_expressing, n_changed, verdict."""
    baseline: NDArray[np.float32]
    """Vectors before, (cells, width)."""
    perturbed: NDArray[np.float32]
    """Vectors after, mean over the draws, (cells, width)."""
    shift: NDArray[np.float32]
    """Distance of each cell, (cells,); NaN where the model does not see the cell."""
    changed: NDArray[np.bool_]
    """Cells whose counts changed in some draw."""
    layout: Layout
    groups: NDArray[Any] | None
    provenance: dict[str, Any]
    has_null: bool = False

    @property
    def n_expressing(self) -> int:
        """Cells that express the gene (any of the genes)."""
        return int(self.table["n_expressing"].iloc[0])

    def summary(self) -> str:
        """The effect, the verdict, and the groups that stand out."""
        row = self.table.iloc[0]
        doses = ", ".join(
            [f"{g} at dose {d:g}" for g, d in self.doses.items()]
            + [f"{g} set to {v:g} per 10,000" for g, v in self.set_to.items()]
        )
        lines = [
            f"{doses}: {int(row['n_expressing']):,} of {int(row['n_cells']):,} cells express "
            f"{'it' if len(self.doses) + len(self.set_to) == 1 else 'one of them'}; "
            f"{int(row['n_changed']):,} change, by {_number(row['effect'])} on average over all cells "
            f"({_number(row['effect_expressing'])} among those that express)."
        ]
        if self.has_null:
            lines.append("Over all cells: " + _sentence(row) + ".")
            groups = self.table.iloc[1:]
            strong = groups[groups["p_value"] <= 0.05].sort_values("effect", ascending=False)
            if len(groups):
                names = ", ".join(f"{r.group} ({_number(r.effect)})" for r in strong.head(4).itertuples())
                tested = int(groups["p_value"].notna().sum())
                kept = int((groups["q_value"] <= 0.05).sum())
                lines.append(
                    "No group has enough changed cells, or comparable genes, to be tested."
                    if not tested
                    else f"Groups in which it is stronger than comparable genes (p ≤ 0.05): {names or 'none'}; "
                    f"{kept} of {tested} groups stay so after correction for their number (q ≤ 0.05)."
                )
                blind = int((groups["verdict"] == "no valid null").sum())
                if blind:
                    lines.append(f"In {blind} of {len(groups)} groups there is no valid null.")
        else:
            lines.append("The null of comparable genes was not computed.")
        error = np.nanmedian(self.layout.error)
        lines.append(
            f"On the plane ({self.layout.basis}) places are known to within {error:.2g} (median projection error)."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Effect per group over the grey band of comparable genes (Altair)."""
        alt = charts()

        table = self.table if len(self.table) == 1 else self.table.iloc[1:]
        shown = {verdict: colour for verdict, colour in VERDICT_COLOURS.items() if verdict in set(table["verdict"])}
        base = alt.Chart(table).encode(y=alt.Y("group:N", sort="-x", title=None))
        band = base.mark_bar(color="#bdbdbd", opacity=0.7, height=14).encode(
            x=alt.X("null_low:Q", title="shift of the cells' vectors"), x2="null_high:Q"
        )
        middle = base.mark_tick(color="#757575", thickness=2, height=14).encode(x="null_mean:Q")
        points = base.mark_point(filled=True, size=80).encode(
            x="effect:Q",
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=[*shown], range=[*shown.values()]),
                legend=alt.Legend(title=None, orient="bottom", columns=1, labelLimit=320),
            ),
            tooltip=["group", "effect", "null_mean", "p_value", "q_value", "n_cells", "n_expressing", "verdict"],
        )
        return band + middle + points

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the shift of each cell to ``obs`` and the new vectors to ``obsm``."""
        if adata.n_obs != len(self.shift):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.shift):,}.")
        name = key_added or f"{self.provenance['model']}_{self.gene}"
        shift_key = provenance.free_key(adata, "obs", f"shift_{name}", given=key_added is not None)
        vector_key = provenance.free_key(adata, "obsm", f"X_{name}", given=key_added is not None)
        adata.obs[shift_key] = self.shift
        adata.obsm[vector_key] = self.perturbed
        provenance.record(adata, shift_key, self.provenance, slot="obs")
        provenance.record(adata, vector_key, self.provenance, slot="obsm")


#: Of verdicts, told apart by people who do not see every colour.
VERDICT_COLOURS = {
    "stronger than comparable genes": "#D55E00",
    "not distinguishable from comparable genes": "#0072B2",
    "no valid null": "#E69F00",
    "too few cells to test": "#999999",
    "nothing changes": "#cccccc",
    "null not computed": "#56B4E9",
}


def _number(value: float) -> str:
    return "nothing" if not np.isfinite(value) else f"{value:.3g}"


def _sentence(row: Any) -> str:
    if not np.isfinite(row["p_value"]):
        return f"{row['verdict']} (no comparable genes)" if row["verdict"] == "no valid null" else str(row["verdict"])
    return (
        f"{row['verdict']} (p = {row['p_value']:.3g} against {int(row['n_null'])} of them, "
        f"whose effect would be {_number(row['null_mean'])} ± {_number(row['null_sd'])})"
    )


def verdict(row: Any) -> str:
    """What a row of effects and their test says, in words."""
    if row.n_cells and not row.n_changed:
        return "nothing changes"
    if row.n_changed < MIN_CHANGED:
        return "too few cells to test"
    if not np.isfinite(row.p_value):
        return "no valid null"
    if row.p_value <= 0.05:
        return "stronger than comparable genes"
    return "not distinguishable from comparable genes"
