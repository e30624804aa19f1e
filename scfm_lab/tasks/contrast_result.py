"""The result of asking whether two conditions respond differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.cells import provenance
from scfm_lab.errors import plural
from scfm_lab.results import Result, charts
from scfm_lab.tasks.screen_tests import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scfm_lab.tasks.contrast import Conditions

MIN_DONORS = 6
"""Exchanging the labels of five donors cannot give a p of 0.05: intervals only."""
WHAT_INTERVALS_ARE = "Intervals describe how the model's answers differ between donors, not how wrong the model is."


@dataclass(frozen=True, repr=False)
class ContrastResult(Result):
    """Whether two conditions respond differently, gene by gene; donors are the unit of replication."""

    details: pd.DataFrame
    """The table with more columns: low and high (95 % interval over donors), effect_tested, effect_baseline, n_donors,
    paired, z, n_changed, verdict."""
    conditions: Conditions
    dose: float
    skipped: dict[str, str]
    notes: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """gene, group, readout, effect (the difference), null_mean, null_sd (labels exchanged), p_value, q_value, n_cells."""
        return self.details[list(COLUMNS)]

    def summary(self) -> str:
        """Which genes differ, over how many donors, and what the intervals are."""
        d = self.details
        p = self.provenance
        within = "within" if d["paired"].all() else "within or between" if d["paired"].any() else "between"
        lines = [
            f"{self.conditions.text}, {plural(p['genes'], 'gene', 'genes')} at dose {self.dose:g} with {p['model']}; labels "
            f"exchanged {within} donors, donors are the replicates."
        ]
        for (group, readout), rows in d.groupby(["group", "readout"], sort=False):
            n = int(rows["n_donors"].max())
            how = "seen in both conditions" if bool(rows["paired"].all()) else "of one condition each"
            if rows["p_value"].notna().any():
                few = int((rows["q_value"] <= 0.05).sum())
                names = ", ".join(f"{r.gene} (p = {r.p_value:.2g})" for r in rows.head(3).itertuples())
                lines.append(f"{group}, {readout}: {n} donors {how}; {few} genes with q ≤ 0.05; first {names}.")
            else:
                first = rows.iloc[0]
                why = f"too few for a p (at least {MIN_DONORS})"
                if n >= MIN_DONORS:
                    why = "dealt in too few ways for a p of 0.05 (3 and 4, 2 and 5, or 4 and 4 would do)"
                lines.append(
                    f"{group}, {readout}: {n} donors {how}, {why}: intervals only; first "
                    f"{first['gene']} {first['effect']:.3g} [{first['low']:.3g}, {first['high']:.3g}]."
                )
        lines += [*self.notes, WHAT_INTERVALS_ARE]
        lines.append("A gene that one condition expresses more has more to lose there: that alone makes a difference.")
        return "\n".join(lines)

    def plot(self, *, n: int = 25) -> Any:
        """The first genes' differences with their intervals over donors (Altair)."""
        alt = charts()
        first = self.details["readout"].iloc[0]
        rows = self.details[self.details["readout"] == first]
        rows = rows.groupby("group", sort=False).head(n)
        base = alt.Chart(rows).encode(y=alt.Y("gene:N", sort=None, title=None))
        title = f"{first}, {self.conditions.tested} minus {self.conditions.baseline}"
        bars = base.mark_rule(color="#0072B2").encode(x=alt.X("low:Q", title=title), x2="high:Q")
        points = base.mark_point(filled=True, size=50, color="#0072B2").encode(
            x="effect:Q", tooltip=["gene", "group", "effect", "low", "high", "p_value", "n_donors", "verdict"]
        )
        zero = alt.Chart(rows).mark_rule(color="#757575", strokeDash=[3, 3]).encode(x=alt.datum(0))
        return (zero + bars + points).facet(column=alt.Column("group:N", title=None)).resolve_scale(y="independent")

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the table to ``uns``, with its provenance."""
        key = key_added or f"contrast_{self.provenance['model']}"
        provenance.write_table(adata, self.table, key, self.provenance, key_added is not None)
