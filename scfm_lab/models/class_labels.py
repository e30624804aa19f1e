"""Labels from the head of a fine-tuned model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, plural
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


UNKNOWN = "unknown"


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """A label for each cell, with the probability that the head gives it."""

    key: str
    classes: NDArray[Any]
    """Names of the classes, in the order of the logits."""
    logits: NDArray[np.float32]
    """Shape (cells, classes); NaN for cells that the model cannot see."""
    labels: NDArray[Any]
    """Most probable class of each cell; ``"unknown"`` below the threshold, and for cells without a vector."""
    confidence: NDArray[np.float32]
    """Probability of the most probable class; 0 for cells without a vector."""
    table: pd.DataFrame
    """One row per label: n_cells, median_confidence."""
    scores: dict[str, float] | None
    """Accuracy and macro-F1 against known labels, where a column was named, of cells that the model was not trained on; None
    where there are none."""
    provenance: dict[str, Any]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, (cells, classes)."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def summary(self) -> str:
        """How many cells got which label."""
        n = len(self.labels)
        blind = int(np.isnan(self.logits).any(axis=1).sum())
        left_out = int(self.provenance["cells_left_out"])
        top = ", ".join(f"{r.label} ({r.n_cells:,})" for r in self.table.head(6).itertuples())
        lines = [f"{n:,} cells labelled by the {len(self.classes)} classes of {self.provenance['model']}: {top}."]
        if not self.provenance["classes_named"]:
            lines.append("The names of the classes are not known (no file of labels beside the checkpoint).")
        unsure = int((self.labels == UNKNOWN).sum()) - blind
        if unsure:
            lines.append(
                f"{plural(unsure, 'cell is', 'cells are')} below the threshold of {self.provenance['threshold']:g}."
            )
        if blind:
            lines.append(
                f"{plural(blind, 'cell has', 'cells have')} no label: no known gene"
                + (f", or left out as the reference does ({left_out:,})." if left_out else ".")
            )
        if self.scores:
            lines.append(
                f"Against the known labels: accuracy {self.scores['accuracy']:.3f}, "
                f"macro-F1 {self.scores['macro_f1']:.3f} (an 'unknown' counts as wrong; floors and intervals: sl.evaluate.annotation)."
            )
        if seen := self.provenance["cells_not_scored"]:
            lines.append(
                f"{plural(seen, 'cell is', 'cells are')} in the training record of the model, and in no score."
            )
        return "\n".join(lines)

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
                    "median_confidence:Q", title="probability", scale=alt.Scale(scheme="cividis", domain=[0, 1])
                ),
                tooltip=["label", "n_cells", alt.Tooltip("median_confidence", format=".2f")],
            )
        )

    def write(self, adata: AnnData) -> None:
        """Write labels and confidences to ``obs``."""
        import pandas as pd

        from scfm_lab.cells import provenance

        if adata.n_obs != len(self.labels):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.labels):,}.")
        adata.obs[self.key] = pd.Categorical(self.labels)
        adata.obs[f"{self.key}_confidence"] = self.confidence
        for key in (self.key, f"{self.key}_confidence"):
            provenance.record(adata, key, self.provenance, slot="obs")


def predict(
    model: Any,
    adata: AnnData,
    *,
    threshold: float | None,
    layer: str | None,
    options: Mapping[str, Any] | None,
    key_added: str | None,
    labels_key: str | None,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> Prediction:
    """See :meth:`scfm_lab.models.trainable.Trainable.predict`."""
    import pandas as pd

    from scfm_lab.cells import provenance
    from scfm_lab.cells.cells import column_of
    from scfm_lab.evaluation.overlap import trained_on
    from scfm_lab.tasks.progress import as_progress

    model.require("predict")
    if threshold is not None and not 0 <= threshold <= 1:
        raise DataError(f"threshold is {threshold!r}; it is a probability, from 0 to 1.")
    started = time.perf_counter()
    known = None if labels_key is None else column_of(adata, labels_key, what="The label column")
    fresh = np.ones(adata.n_obs, dtype=bool)
    if known is not None:
        fresh = ~trained_on(model, adata, layer=layer, options=options)
    key = provenance.free_key(adata, "obs", key_added or model.name, given=key_added is not None)
    tokens = model.tokenize(adata, layer=layer, options=options)
    with as_progress(progress, f"Labelling with {model.spec.name}") as report:
        logits = model.class_logits(tokens, progress=report, cancel=cancel)
    seen = np.isfinite(logits).all(axis=1)
    shifted = np.exp(logits[seen] - logits[seen].max(axis=1, keepdims=True))
    labels = np.full(len(logits), UNKNOWN, dtype=object)
    confidence = np.zeros(len(logits), dtype=np.float32)
    labels[seen] = model.classes.names[logits[seen].argmax(axis=1)]
    confidence[seen] = shifted.max(axis=1) / shifted.sum(axis=1)
    if threshold is not None:
        labels[confidence < threshold] = UNKNOWN
    rows = pd.DataFrame({"label": labels.astype(str), "confidence": confidence})
    table = rows.groupby("label")["confidence"].agg(n_cells="size", median_confidence="median").reset_index()
    record = provenance.of_model(
        model,
        task="predict",
        options=model.check_options(options),
        threshold=threshold,
        classes_named=model.classes.named,
        cells_left_out=int(np.sum(tokens.cell.get("left_out", 0))),
        cells_not_scored=int((~fresh).sum()),
        seconds=time.perf_counter() - started,
    )
    result = Prediction(
        key=key,
        classes=model.classes.names,
        logits=logits,
        labels=labels,
        confidence=confidence,
        table=table.sort_values("n_cells", ascending=False, ignore_index=True),
        scores=None if known is None else _scores(known.astype(str).to_numpy()[fresh], labels.astype(str)[fresh]),
        provenance=record,
    )
    result.write(adata)
    return result


def _scores(truth: NDArray[Any], given: NDArray[Any]) -> dict[str, float] | None:
    from sklearn.metrics import accuracy_score, f1_score

    if not len(truth):
        return None
    return {
        "accuracy": float(accuracy_score(truth, given)),
        "macro_f1": float(f1_score(truth, given, average="macro", labels=sorted(set(truth)), zero_division=0)),
    }
