"""The result of a screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, did_you_mean, plural
from scfm_lab.results import Result, charts
from scfm_lab.tasks.perturb_result import ALL, VERDICT_COLOURS
from scfm_lab.tasks.screen_tests import COLUMNS, SAMPLE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.tasks.screen_tests import Measured

_DRAWN = 2500


@dataclass(frozen=True, repr=False)
class ScreenResult(Result):
    """Genes ranked by their effect, each beside comparable genes."""

    details: pd.DataFrame
    """The table with more columns: null_low and null_high (middle 90 % of comparable genes), n_null, z (the residual in
    standard deviations of the null genes' residuals), n_expressing, n_changed, verdict; for pairs sum_of_singles (what both would do if it added up; NaN
    where that cannot be said)."""
    measured: Measured = field(repr=False)
    """Effect on every cell: ``measured.effects[readout]`` is a sparse matrix of genes × cells."""
    dose: float
    target: str | None
    n_null: int
    whole: bool
    """Whether all genes were screened, so that they are each other's null genes."""
    skipped: dict[str, str]
    """Genes of the list that were left out, and why."""
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What of the cells could not be asked, in sentences."""

    @property
    def table(self) -> pd.DataFrame:
        """gene, group, readout, effect, null_mean, null_sd, p_value, q_value, n_cells; best first.

        Where samples were named also effect_samples (the mean over the samples' means) with its 95 % interval effect_low and
        effect_high, n_samples, and n_samples_few (left out with fewer than 5 cells of the group).
        """
        return self.details[[*COLUMNS, *(c for c in SAMPLE_COLUMNS if c in self.details)]]

    def best(self, n: int = 10, *, readout: str | None = None, group: str = ALL) -> pd.DataFrame:
        """The first rows of a read-out (None: the first one) in a group."""
        return self._rows(readout, group).head(n)

    def _rows(self, readout: str | None, group: str) -> pd.DataFrame:
        readout = readout or str(self.details["readout"].iloc[0])
        for name, value in (("readout", readout), ("group", group)):
            known = list(dict.fromkeys(self.details[name]))
            if value not in known:
                raise DataError(
                    f"The screen has no {name} {value!r}; it has: {', '.join(known)}." + did_you_mean(value, known)
                )
        rows = self.details
        return rows[(rows["readout"] == readout) & (rows["group"] == group)]

    def summary(self) -> str:
        """What was screened, which genes stand out, and what the numbers can say."""
        p = self.provenance
        lines = [
            f"{plural(p['genes'], 'gene', 'genes')} at dose {self.dose:g} in {plural(p['cells'], 'cell', 'cells')} with "
            f"{p['model']}."
        ]
        for readout in dict.fromkeys(self.details["readout"]):
            rows = self._rows(readout, ALL)
            can = rows[np.isfinite(rows["p_value"])]
            if not len(can):
                lines.append(f"{readout}: no gene has enough changed cells, or comparable genes, to be tested.")
                continue
            found = int((can["q_value"] <= 0.05).sum())
            names = ", ".join(f"{r.gene} (p = {r.p_value:.2g})" for r in can.head(5).itertuples())
            lines.append(
                f"{readout}: {plural(len(can), 'gene', 'genes')} tested against comparable genes, "
                f"{int((can['p_value'] <= 0.05).sum())} with p ≤ 0.05 ({0.05 * len(can):.0f} would be by chance), {found} with "
                f"q ≤ 0.05; first {names}."
            )
            smallest = 1 / (int(can["n_null"].max()) + 1)
            if found == 0 and smallest * len(can) > 0.05:
                lines.append(
                    f"  No p is below {smallest:.2g} (1 / (null genes + 1)), so that q ≤ 0.05 needs many genes at that limit: read "
                    "the list as a ranking."
                )
            lines += [*self._over_samples(can.head(5)), *_of_pairs(rows)]
        if self.whole:
            lines.append(
                "All genes were screened, so that they are each other's null: most are taken to be nothing special."
            )
        if self.skipped:
            some = list(self.skipped)
            lines.append(
                f"Left out, as no chosen cell expresses {'it' if len(some) == 1 else 'them'}: {', '.join(some[:8])}"
                + (" …." if len(some) > 8 else ".")
            )
        lines += [*self.notes, "These are the model's answers, not measurements."]
        return "\n".join(lines)

    def _over_samples(self, rows: pd.DataFrame) -> list[str]:
        if "effect_low" not in rows:
            return []
        n = int(rows["n_samples"].max())
        if n < 2:
            return [f"  {plural(n, 'sample has', 'samples have')} enough cells; an interval needs two."]
        told = ", ".join(
            f"{r.gene} {r.effect_samples:.3g} [{r.effect_low:.3g}, {r.effect_high:.3g}]" for r in rows.itertuples()
        )
        return [
            f"  Over {n} samples, each counting alike: {told}; how the model's answers differ between them, not how wrong it is."
        ]

    def plot(self, *, readout: str | None = None, group: str = ALL) -> Any:
        """Each gene's effect against that expected of a comparable gene (Altair)."""
        alt = charts()
        rows = self._rows(readout, group)
        rows = rows[np.isfinite(rows["null_mean"])].head(_DRAWN)
        signed = bool((rows["effect"] < 0).any())
        log = not signed and bool((rows["effect"] > 0).all() and (rows["null_mean"] > 0).all())
        scale = alt.Scale(type="log" if log else "linear", nice=True)
        shown = {v: c for v, c in VERDICT_COLOURS.items() if v in set(rows["verdict"])}
        points = (
            alt.Chart(rows[[*COLUMNS, "n_null", "n_changed", "verdict"]])
            .mark_circle(size=36, opacity=0.75)
            .encode(
                x=alt.X("null_mean:Q", scale=scale, title="effect of comparable genes"),
                y=alt.Y("effect:Q", scale=scale, title=f"effect ({rows['readout'].iloc[0] if len(rows) else ''})"),
                color=alt.Color(
                    "verdict:N",
                    scale=alt.Scale(domain=[*shown], range=[*shown.values()]),
                    legend=alt.Legend(title=None, orient="bottom", columns=1, labelLimit=320),
                ),
                tooltip=["gene", "effect", "null_mean", "p_value", "q_value", "n_null", "n_changed", "verdict"],
            )
        )
        names = (
            alt.Chart(rows[rows["p_value"] <= 0.05].head(12))
            .mark_text(align="left", dx=6, fontSize=11)
            .encode(x="null_mean:Q", y="effect:Q", text="gene:N")
        )
        return points + names

    def geneformer_statistics(self, *, readout: str = "shift", null: ScreenResult | None = None) -> pd.DataFrame:
        """Geneformer's own statistic of these effects, by its name and with its caveats.

        See :func:`scfm_lab.evaluation.geneformer_stats.against_pool` and
        :func:`~scfm_lab.evaluation.geneformer_stats.against_null`.

        Parameters
        ----------
        null
            A screen of the same genes in other cells, to compare with (``vs_null``); None: the pool of all genes.
        """
        from scfm_lab.evaluation.geneformer_stats import against_null, against_pool

        own = self.by_gene(readout)
        return against_pool(own) if null is None else against_null(own, null.by_gene(readout))

    def by_gene(self, readout: str = "shift") -> dict[str, NDArray[np.float32]]:
        """Gene → its effect on each cell that it changes."""
        known = self.measured.effects
        if readout not in known:
            raise DataError(f"The screen has no readout {readout!r}; it has: {', '.join(known)}.")
        values = known[readout]
        parts = np.split(values.data, values.indptr[1:-1])
        return {name: part[np.isfinite(part)] for name, part in zip(self.measured.names, parts, strict=True)}

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the table to ``uns``, with its provenance."""
        provenance.write_table(
            adata, self.table, key_added or f"screen_{self.provenance['model']}", self.provenance, key_added is not None
        )


def _of_pairs(rows: pd.DataFrame) -> list[str]:
    """How far pairs are from what their genes add up to."""
    pairs = rows[rows["sum_of_singles"].notna()] if "sum_of_singles" in rows else rows.iloc[:0]
    if not len(pairs):
        return []
    off = (pairs["effect"] - pairs["sum_of_singles"]).abs()
    told = f"  {plural(len(pairs), 'pair', 'pairs')} of the best genes, without a p since these very effects chose the genes: "
    if (off <= 1e-3 * pairs["sum_of_singles"].abs()).all():
        return [told + "each does what its two genes add up to."]
    names = ", ".join(
        f"{r.gene} {r.effect:.3g} ({r.sum_of_singles:.3g})" for r in pairs.loc[off.nlargest(3).index].itertuples()
    )
    return [f"{told}furthest from what the two add up to (in brackets) {names}."]
