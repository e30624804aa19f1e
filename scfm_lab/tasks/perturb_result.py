"""The result of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import ALL
from scfm_lab.errors import DataError
from scfm_lab.results import Result, charts
from scfm_lab.tasks.not_read import blind_sentence, truncated_sentence
from scfm_lab.tasks.readouts import SCALES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.tasks.layout import Layout

MIN_CHANGED = 10
"""Fewer changed cells in a group are not tested: their mean says little."""
MIN_CELLS = 5
"""A sample with fewer cells of a group has no mean there that could stand beside those of others."""
MAX_TESTED = 200
"""Cells of a group on which a gene and its null are computed, unless told otherwise: nulls are what takes time."""
_IN_WORDS = {
    "towards_target": "Towards the target (negative: away from it)",
    "expression": "Mean change of the other genes' predicted log expression",
    "label": "Share of cells whose nearest neighbours vote for another label",
}
_AXES = {
    "shift": "shift of the cells' vectors",
    "towards_target": "movement towards the target",
    "expression": "change of predicted log expression",
    "label": "share of cells with another label",
}
_NULL_COLUMNS = ("effect_tested", "null_mean", "null_sd", "null_low", "null_high", "p_value", "q_value")


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
    readings: Mapping[str, NDArray[np.float32]] | None = None,
) -> pd.DataFrame:
    """One row per read-out and group: its mean over the group's cells, and over those that express the gene.

    Parameters
    ----------
    shift
        Of each cell; NaN where the model does not see it.
    readings
        What else was read off each cell, by read-out; NaN where it cannot be read.
    """
    import pandas as pd

    rows = []
    for (readout, values), (group, members) in product(
        {"shift": shift, **(readings or {})}.items(), list(group_rows(groups, len(shift)))
    ):
        seen = members[np.isfinite(values[members])]
        among = seen[expressing[seen]]
        row: dict[str, Any] = {
            "gene": gene,
            "group": group,
            "readout": readout,
            "effect": float(values[seen].mean()) if len(seen) else np.nan,
            "effect_expressing": float(values[among].mean()) if len(among) else np.nan,
            **dict.fromkeys(_NULL_COLUMNS, np.nan),
            "n_null": 0,
            "n_cells": len(seen),
            "n_expressing": len(among),
            "n_changed": int((shift[seen] > 0).sum()),
            "n_tested": 0,
            "n_changed_tested": 0,
        }
        if samples is not None:
            row |= _over_samples(values, seen, samples)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["verdict"] = "null not computed"
    return table


def _over_samples(values: NDArray[np.float32], seen: NDArray[np.int64], samples: NDArray[Any]) -> dict[str, Any]:
    """Mean over the samples' means with its interval: donors are the replicates, not cells, and count alike."""
    names, sizes = np.unique(samples[seen].astype(str), return_counts=True)
    kept = names[sizes >= MIN_CELLS]
    means = np.array([values[seen[samples[seen] == s]].mean() for s in kept])
    found = {name: float(value) for name, value in interval_over_samples(means).items()}
    return {**found, "n_samples": len(kept), "n_samples_few": len(names) - len(kept)}


def interval_over_samples(means: NDArray[Any]) -> dict[str, Any]:
    """Mean over the last axis, the samples, with its 95 % t-interval; NaN where there are too few of them."""
    from scipy import stats

    n = means.shape[-1]
    nothing = np.full(means.shape[:-1], np.nan)
    mean = means.mean(axis=-1) if n else nothing
    half = stats.t.ppf(0.975, n - 1) * means.std(axis=-1, ddof=1) / np.sqrt(n) if n >= 2 else nothing
    return {"effect_samples": mean, "effect_low": mean - half, "effect_high": mean + half}


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
    """gene, group, readout, effect (over all cells of the group), effect_expressing, effect_tested (over the cells tested, at
    most `max_cells`: what the null and p are about), null_mean, null_sd, null_low, null_high, p_value, q_value, n_null, n_cells,
    n_expressing, n_changed, n_tested, n_changed_tested, verdict; with samples also effect_samples (the mean over the samples'
    means, every sample counting alike) with its 95 % interval effect_low and effect_high, n_samples, and n_samples_few (left out
    with fewer than 5 cells of the group)."""
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
    readings: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """What else was read off each cell, by read-out (``towards_target``, ``expression``, ``label``), each (cells,); 0 where
    nothing changes, NaN where it cannot be read."""

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
            groups = self.table[self.table["readout"] == row["readout"]].iloc[1:]
            strong = groups[groups["p_value"] <= 0.05].sort_values("effect_tested", ascending=False)
            if len(groups):
                names = ", ".join(f"{r.group} ({_number(r.effect_tested)})" for r in strong.head(4).itertuples())
                tested = int(groups["p_value"].notna().sum())
                kept = int((groups["q_value"] <= 0.05).sum())
                word = "different from" if SCALES[row["readout"]] == "signed" else "stronger than"
                lines.append(
                    "No group has enough changed cells, or comparable genes, to be tested."
                    if not tested
                    else f"Groups in which it is {word} comparable genes (p ≤ 0.05): {names or 'none'}; "
                    f"{kept} of {tested} groups stay so after correction for their number (q ≤ 0.05)."
                )
                blind = int((groups["verdict"] == "no valid null").sum())
                if blind:
                    lines.append(f"In {blind} of {len(groups)} groups there is no valid null.")
            main = self.table[self.table["readout"] == row["readout"]]
            short = main[(main["n_tested"] > 0) & (main["n_changed_tested"] < MIN_CHANGED)]
            if len(short):
                lines.append(
                    f"In {', '.join(map(str, short['group'].head(4)))}{' and others' if len(short) > 4 else ''} "
                    f"fewer than {MIN_CHANGED} of the cells tested change (at most {int(short['n_tested'].max()):,} of a "
                    "group are); max_cells= takes more."
                )
        else:
            lines.append("The null of comparable genes was not computed.")
        for one in self.table[self.table["group"] == ALL].iloc[1:].to_dict("records"):
            told = f": {_sentence(one)}" if self.has_null else ""
            lines.append(f"{_IN_WORDS[one['readout']]}, over all cells: {_number(one['effect'])}{told}.")
        if np.isfinite(row.get("effect_low", np.nan)):
            lines.append(
                f"Over {int(row['n_samples'])} samples, each counting alike, the mean is {_number(row['effect_samples'])} "
                f"[{_number(row['effect_low'])}, {_number(row['effect_high'])}]: how the model's answers differ between them, "
                "not how wrong it is."
            )
        blind = int(np.isnan(self.shift).sum())
        lines += filter(None, (blind_sentence(blind, "shift", self.provenance), truncated_sentence(self.provenance)))
        error = np.nanmedian(self.layout.error)
        lines.append(
            f"On the plane ({self.layout.basis}) places are known to within {error:.2g} (median projection error)."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Effect per group over the grey band of comparable genes, a chart for each read-out (Altair)."""
        parts = [self._plot_of(str(name), part) for name, part in self.table.groupby("readout", sort=False)]
        return parts[0] if len(parts) == 1 else charts().vconcat(*parts)

    def _plot_of(self, readout: str, table: pd.DataFrame) -> Any:
        alt = charts()

        table = (table if len(table) == 1 else table.iloc[1:]).copy()
        # What stands on the band must be of the cells that the band is of; where there is none, of all.
        table["shown"] = table["effect_tested"].where(_has_band(table)).fillna(table["effect"])
        table["cells"] = [_of_which_cells(row) for row in table.to_dict("records")]
        shown = {verdict: colour for verdict, colour in VERDICT_COLOURS.items() if verdict in set(table["verdict"])}
        base = alt.Chart(table).encode(y=alt.Y("cells:N", sort="-x", title=None))
        band = base.mark_bar(color="#bdbdbd", opacity=0.7, height=14).encode(
            x=alt.X("null_low:Q", title=_AXES[readout]), x2="null_high:Q"
        )
        middle = base.mark_tick(color="#757575", thickness=2, height=14).encode(x="null_mean:Q")
        points = base.mark_point(filled=True, size=80).encode(
            x="shown:Q",
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=[*shown], range=[*shown.values()]),
                legend=alt.Legend(title=None, orient="bottom", columns=1, labelLimit=320),
            ),
            tooltip=[
                "group",
                "effect",
                "effect_tested",
                "null_mean",
                "p_value",
                "q_value",
                "n_cells",
                "n_tested",
                "n_expressing",
                "verdict",
            ],
        )
        return band + middle + points

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the shift of each cell, and what else was read off it, to ``obs`` and the new vectors to ``obsm``."""
        if adata.n_obs != len(self.shift):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.shift):,}.")
        name = key_added or f"{self.provenance['model']}_{self.gene}"
        shift_key = provenance.free_key(adata, "obs", f"shift_{name}", given=key_added is not None)
        vector_key = provenance.free_key(adata, "obsm", f"X_{name}", given=key_added is not None)
        others = {
            provenance.free_key(adata, "obs", f"{readout}_{name}", given=key_added is not None): values
            for readout, values in self.readings.items()
        }
        for key, values in {shift_key: self.shift, **others}.items():
            adata.obs[key] = values
        adata.obsm[vector_key] = self.perturbed
        for key in (shift_key, *others):
            provenance.record(adata, key, self.provenance, slot="obs")
        provenance.record(adata, vector_key, self.provenance, slot="obsm")


#: Of pairs among a screen's best genes: that their genes do much in these cells is what they were chosen for.
CHOSEN = "its genes were chosen by these effects: not tested"
#: Of verdicts, told apart by people who do not see every colour.
VERDICT_COLOURS = {
    "stronger than comparable genes": "#D55E00",
    "further towards the target than comparable genes": "#D55E00",
    "further from the target than comparable genes": "#CC79A7",
    "not distinguishable from comparable genes": "#0072B2",
    "no valid null": "#E69F00",
    CHOSEN: "#999999",
    "too few cells to test": "#999999",
    "nothing changes": "#cccccc",
    "null not computed": "#56B4E9",
}


def _has_band(rows: Any) -> Any:
    """Whether a row, or each of a table's, has comparable genes to stand beside."""
    return np.isfinite(rows["null_low"]) & np.isfinite(rows["null_high"])


def _of_which_cells(row: Any) -> str:
    """A group, and how many of its cells were tested where the effect beside the null is of those alone."""
    name = "All cells" if row["group"] == ALL else str(row["group"])
    part = _has_band(row) and np.isfinite(row["effect_tested"]) and row["n_tested"] < row["n_cells"]
    return f"{name} ({int(row['n_tested']):,} tested)" if part else name


def _number(value: float) -> str:
    return "nothing" if not np.isfinite(value) else f"{value:.3g}"


def _sentence(row: Any) -> str:
    if not np.isfinite(row["p_value"]):
        return f"{row['verdict']} (no comparable genes)" if row["verdict"] == "no valid null" else str(row["verdict"])
    part = int(row["n_tested"]) < int(row["n_cells"])
    tested = f"{_number(row['effect_tested'])} in the {int(row['n_tested']):,} cells tested; " if part else ""
    return (
        f"{row['verdict']} ({tested}p = {row['p_value']:.3g} against {int(row['n_null'])} of them, "
        f"whose effect would be {_number(row['null_mean'])} ± {_number(row['null_sd'])})"
    )


def verdict(row: Any) -> str:
    """What a row of effects and their test says, in words."""
    if row.n_cells and not row.n_changed:
        return "nothing changes"
    # Of a screen all cells are tested.
    if min(row.n_changed, getattr(row, "n_changed_tested", row.n_changed)) < MIN_CHANGED:
        return "too few cells to test"
    if not np.isfinite(row.p_value):
        return "no valid null"
    if row.p_value <= 0.05 and SCALES[row.readout] != "signed":
        return "stronger than comparable genes"
    if row.p_value <= 0.05:
        # Of what has a direction: the difference has one too, whatever that of the effect itself.
        beside = row.effect_tested if np.isfinite(getattr(row, "effect_tested", np.nan)) else row.effect
        return f"further {'towards' if beside > row.null_mean else 'from'} the target than comparable genes"
    return "not distinguishable from comparable genes"
