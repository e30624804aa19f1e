"""The result of labelling cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, plural
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.score import Scores
    from scfm_lab.tasks.label_names import LabelMap
    from scfm_lab.tasks.transfer import Trust

UNKNOWN = "unknown"


@dataclass(frozen=True, repr=False)
class AnnotateResult(Result):
    """A label for each query cell, with the probability that it is right."""

    key: str
    labels: NDArray[Any]
    """Label of each cell; ``"unknown"`` for cells unlike the reference (`strange`)."""
    confidence: NDArray[np.float32]
    """Probability that the label is right, as calibrated on held-out reference cells; 0 for cells unlike the reference."""
    distance: NDArray[np.float32]
    """Strangeness of each cell in units of the reference's own threshold; above 1 is unknown. NaN where a fine-tuned head
    labels without a reference."""
    table: pd.DataFrame
    """One row per label: n_cells, median_confidence."""
    scores: dict[str, float] | None
    """Accuracy and macro-F1 against the query's own labels, where it has them and the model was not trained on the cells."""
    provenance: dict[str, Any]
    strange: NDArray[np.bool_]
    """Which cells are unlike the reference, or have no gene that the model knows. A reference may itself have a label that is called
    ``"unknown"``: cells that get it are not among these, and have a confidence."""
    trust: Trust | None = None
    """Calibration and threshold, as chosen on the reference."""
    beside: Scores | None = None
    """Macro-F1 of the model, of ``pca`` and of ``sctop``, with intervals."""
    names: LabelMap | None = None
    """How labels were harmonised."""
    unscored: str = ""
    """Which of the cells are in no score, since the model was trained on them, they are among those of the reference, or they have no
    label of their own; empty where none is."""
    no_floor: str = ""
    """Why nothing stands in `beside`; empty where something does, or was not asked for."""
    leak: str = ""
    """Which donors are in query and reference, where there are scores; empty where none is or they are not named."""

    def summary(self) -> str:
        """How many cells got which label, how far that can be believed, and what simple methods reach."""
        n = len(self.labels)
        unknown = int(self.strange.sum())
        top = ", ".join(f"{r.label} ({r.n_cells:,})" for r in self.table.head(6).itertuples())
        by = self.provenance
        if self.trust is None:
            head = f"{n:,} cells labelled by the {by['classes']:,} classes of {by['model']}'s own head; {unknown:,} unknown."
        else:
            head = (
                f"{n:,} cells labelled with {by['model']} after {by['reference_cells']:,} reference cells; {unknown:,} "
                f"({unknown / n:.0%}) are unlike the reference."
            )
        lines = [head, f"Labels: {top}."]
        own = int(((self.labels == UNKNOWN) & ~self.strange).sum())
        if own:
            lines.append(
                f"{plural(own, 'cell carries', 'cells carry')} the label {UNKNOWN!r} of the reference itself; those that are unlike the "
                "reference are the ones of confidence 0."
            )
        if self.trust is not None:
            lines += self._trust(self.trust)
        else:
            lines.append("Confidence is the head's own probability; nothing here says whether it is calibrated.")
        if self.scores:
            lines.append(
                f"Against the query's own labels: accuracy {self.scores['accuracy']:.3f}, "
                f"macro-F1 {self.scores['macro_f1']:.3f} (an 'unknown' counts as wrong)."
            )
            lines += [f"{self.leak}."] if self.leak else []
        if self.unscored:
            lines.append(self.unscored)
        if self.beside is not None:
            lines.append(self._beside(self.beside))
        if self.no_floor:
            lines.append(self.no_floor)
        if self.names is not None:
            lines.append("Label names: " + self.names.summary())
        return "\n".join(lines)

    def _trust(self, trust: Trust) -> list[str]:
        c = trust.confidence
        lines = [
            f"Confidence is calibrated on {c.n_cells:,} reference cells ({trust.split}): {trust.accuracy:.0%} of them get "
            f"their own label; expected calibration error {c.ece:.3f}, before calibration {c.ece_before:.3f}."
        ]
        if seen := self.provenance.get("reference_cells_trained_on"):
            lines.append(
                f"Flagged: {seen:,} of the reference cells are in the training record of the model, so that what they say of its labels "
                "may be too good."
            )
        if np.isfinite(trust.novel_found):
            lines.append(
                f"Of cells whose type is left out of the reference {trust.novel_found:.0%} would be called unknown "
                f"(AUROC {trust.novel_auroc:.2f}): types that resemble one of the reference's get its name."
            )
        return lines

    @staticmethod
    def _beside(scores: Scores) -> str:
        f1 = [s for s in scores if s.metric == "macro-F1"]
        told = ", ".join(f"{s.model} {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in f1)
        gain = " ".join(dict.fromkeys(f"{s.remark}." for s in f1 if s.remark))
        return f"Without 'unknown', macro-F1 beside parameter-free methods: {told}. {gain} {' '.join(scores.notes)}"

    def plot(self) -> Any:
        """Cells per label, with the median confidence as colour (Altair)."""
        alt = charts()

        return (
            alt.Chart(self.table)
            .mark_bar()
            .encode(
                x=alt.X("n_cells:Q", title="cells"),
                y=alt.Y("label:N", sort="-x", title=None),
                color=alt.Color(
                    "median_confidence:Q", title="confidence", scale=alt.Scale(scheme="cividis", domain=[0, 1])
                ),
                tooltip=["label", "n_cells", alt.Tooltip("median_confidence", format=".2f")],
            )
        )

    def write(self, adata: AnnData) -> None:
        """Write labels and confidences to ``obs``."""
        import pandas as pd

        if adata.n_obs != len(self.labels):
            raise DataError(f"The AnnData has {plural(adata.n_obs, 'cell', 'cells')}, the result {len(self.labels):,}.")
        keys = (self.key, f"{self.key}_confidence")
        for key in keys:
            provenance.free_key(adata, "obs", key, given=True)
        for key, values in zip(keys, (pd.Categorical(self.labels), self.confidence), strict=True):
            adata.obs[key] = values
            provenance.record(adata, key, self.provenance, slot="obs")


def label_table(labels: NDArray[Any], confidence: NDArray[np.float32], strange: NDArray[np.bool_]) -> pd.DataFrame:
    """Cells and median confidence of each label, largest first; the reference's own ``"unknown"`` beside that of strange cells."""
    import pandas as pd

    names = labels.astype(str).astype(object)
    own = (names == UNKNOWN) & ~strange
    if strange.any():
        names[own] = f"{UNKNOWN} (a label of the reference)"
    table = pd.DataFrame({"label": names, "confidence": confidence})
    grouped = table.groupby("label")["confidence"].agg(n_cells="size", median_confidence="median").reset_index()
    return grouped.sort_values("n_cells", ascending=False, ignore_index=True)


def label_scores(
    truth: NDArray[Any], labels: NDArray[Any], strange: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Accuracy, and the mean F1 of the labels that occur in the truth; strange cells are wrong whatever they are called."""
    strange = np.zeros(len(labels), dtype=bool) if strange is None else strange
    right = (truth.astype(str) == labels.astype(str)) & ~strange
    return {"accuracy": float(right.mean()), "macro_f1": macro_f1(truth, labels, strange)}


def macro_f1(truth: NDArray[Any], labels: NDArray[Any], strange: NDArray[np.bool_] | None = None) -> float:
    """Mean F1 of the labels that occur in the truth; strange cells are wrong, and so is any other label."""
    names = np.unique(truth.astype(str))
    place = {name: i for i, name in enumerate(names)}
    want = np.array([place[t] for t in truth.astype(str)], dtype=np.int64)
    got = np.array([place.get(g, len(names)) for g in labels.astype(str)], dtype=np.int64)
    if strange is not None:
        got[strange] = len(names)
    return float(f1_of_codes(want, got, len(names)))


def f1_of_codes(want: NDArray[np.int64], got: NDArray[np.int64], n: int) -> float:
    """Macro-F1 of codes below `n` that occur in `want`; other codes in `got` are wrong."""
    true = np.bincount(want, minlength=n)[:n]
    told = np.bincount(got, minlength=n)[:n]
    hit = np.bincount(want[want == got], minlength=n)[:n]
    there = true > 0
    return float((2 * hit[there] / (true[there] + told[there])).mean())
