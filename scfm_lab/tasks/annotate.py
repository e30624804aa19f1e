"""Label cells after an annotated reference."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import AuditResult, audit_cells
from scfm_lab.cells.cells import column_of
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.results import Result, charts
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model

UNKNOWN = "unknown"
_EXACT_UP_TO = 20_000


@dataclass(frozen=True, repr=False)
class AnnotateResult(Result):
    """A label for each query cell, with the share of its neighbours that agree."""

    key: str
    labels: NDArray[Any]
    """Label of each cell; ``"unknown"`` for cells unlike the reference."""
    confidence: NDArray[np.float32]
    """Distance-weighted share of the neighbours that carry the label, 0 to 1; 0 for unknown cells."""
    distance: NDArray[np.float32]
    """Mean distance to the neighbours in units of the reference's own threshold; above 1 is unknown."""
    table: pd.DataFrame
    """One row per label: n_cells, median_confidence."""
    scores: dict[str, float] | None
    """Accuracy and macro-F1 against the query's own labels, where it has them."""
    provenance: dict[str, Any]

    def summary(self) -> str:
        """How many cells got which label, and how well that agrees with known ones."""
        n = len(self.labels)
        unknown = int((self.labels == UNKNOWN).sum())
        top = ", ".join(f"{r.label} ({r.n_cells:,})" for r in self.table.head(6).itertuples())
        lines = [
            f"{n:,} cells labelled with {self.provenance['model']} after {self.provenance['reference_cells']:,} "
            f"reference cells; {unknown:,} ({unknown / n:.0%}) are unlike the reference.",
            f"Labels: {top}.",
        ]
        if self.scores:
            lines.append(
                f"Against the query's own labels: accuracy {self.scores['accuracy']:.3f}, "
                f"macro-F1 {self.scores['macro_f1']:.3f} (an 'unknown' counts as wrong)."
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
                    "median_confidence:Q", title="confidence", scale=alt.Scale(scheme="cividis", domain=[0, 1])
                ),
                tooltip=["label", "n_cells", alt.Tooltip("median_confidence", format=".2f")],
            )
        )

    def write(self, adata: AnnData) -> None:
        """Write labels and confidences to ``obs``."""
        import pandas as pd

        if adata.n_obs != len(self.labels):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.labels):,}.")
        keys = (self.key, f"{self.key}_confidence")
        for key in keys:
            provenance.free_key(adata, "obs", key, given=True)
        for key, values in zip(keys, (pd.Categorical(self.labels), self.confidence), strict=True):
            adata.obs[key] = values
            provenance.record(adata, key, self.provenance, slot="obs")


def annotate(
    query: AnnData,
    reference: AnnData,
    *,
    model: Model | str | Path,
    labels_key: str = "cell_type",
    k: int = 15,
    unknown: bool = True,
    layer: str | None = None,
    key_added: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> AnnotateResult:
    """Label query cells by their neighbours in a reference, in a model's space.

    Parameters
    ----------
    query, reference
        With raw counts; they may measure different genes.
    model
        An opened model or a source for :func:`scfm_lab.load_model`.
    labels_key
        Column of ``reference.obs`` with the labels.
    k
        Neighbours that vote, weighted by nearness.
    unknown
        Whether cells farther from the reference than 99 % of the reference's cells are from
        each other get ``"unknown"``.
    key_added
        Column of ``query.obs``; default ``"<labels_key>_<model's name>"``.

    Returns
    -------
    AnnotateResult
        Also written to ``query.obs``.

    Raises
    ------
    DataError
        If the labels are missing, have NaN, or are all the same.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> query, reference = adata[::5].copy(), adata[1::5].copy()
    >>> sl.annotate(query, reference, model="pca", progress=False).labels.shape
    (140,)
    """
    from scfm_lab.models.load import as_model

    check_given(query, model, function="sl.annotate", call="sl.annotate(query, reference, model=...)")
    check_given(reference, model, function="sl.annotate", call="sl.annotate(query, reference, model=...)")
    model = as_model(model)
    model.require("embed")
    started = time.perf_counter()
    if k < 1:
        raise DataError(f"k is {k}; at least one neighbour has to vote.")
    known = column_of(reference, labels_key, what="The label column of the reference", min_values=2)
    known = known.astype(str).to_numpy(dtype=object)
    key = provenance.free_key(query, "obs", key_added or f"{labels_key}_{model.spec.name}", given=key_added is not None)
    provenance.free_key(query, "obs", f"{key}_confidence", given=True)

    vectors: list[NDArray[np.float32]] = []
    audits: list[AuditResult] = []
    for what, adata in (("reference", reference), ("query", query)):
        cells = model.read_cells(adata, layer=layer, options=options)
        audits.append(audit_cells(cells, model.known_genes(cells.genes, options), model.spec.name))
        tokens = model.tokenize(cells, options=options, seed=seed)
        with as_progress(progress, f"The {what} with {model.spec.name}") as report:
            vectors.append(model.encode(tokens, progress=report, cancel=cancel).cell)
    ref, new = vectors
    good = np.isfinite(ref).all(axis=1)
    if good.sum() <= k:
        raise DataError(f"The reference has {int(good.sum())} usable cells; more than k = {k} are needed.")
    labels, confidence, distance = _vote(ref[good], known[good], new, k=k, unknown=unknown)
    record = provenance.of_model(
        model,
        task="annotate",
        labels_key=labels_key,
        reference_cells=int(good.sum()),
        k=k,
        options=model.check_options(options),
        seed=seed,
        seconds=time.perf_counter() - started,
        **audits[1].as_provenance(),
        reference_genes_matched=audits[0].genes_matched,
        reference_umi_share_lost=audits[0].umi_share_lost,
    )
    result = AnnotateResult(
        key=key,
        labels=labels,
        confidence=confidence,
        distance=distance,
        table=_label_table(labels, confidence),
        scores=_scores(query, labels_key, labels),
        provenance=record,
    )
    result.write(query)
    return result


def _vote(
    ref: NDArray[np.float32], known: NDArray[Any], new: NDArray[np.float32], *, k: int, unknown: bool
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    types, codes = np.unique(known.astype(str), return_inverse=True)
    seen = np.isfinite(new).all(axis=1)
    if not seen.any():
        raise DataError(f"In none of the {len(new):,} query cells does the model see a gene; nothing can be labelled.")
    own, near, far = _neighbours(ref, new[seen], k)
    # Own distances are each reference cell's to its k nearest others.
    threshold = float(np.quantile(own.mean(axis=1), 0.99))
    weights = 1.0 / np.maximum(far, 1e-9)
    votes = np.zeros((len(near), len(types)))
    np.add.at(votes, (np.arange(len(near))[:, None], codes[near]), weights)
    votes /= votes.sum(axis=1, keepdims=True)

    labels = np.full(len(new), UNKNOWN, dtype=object)
    confidence = np.zeros(len(new), dtype=np.float32)
    distance = np.full(len(new), np.inf, dtype=np.float32)
    labels[seen] = types[votes.argmax(axis=1)]
    confidence[seen] = votes.max(axis=1)
    distance[seen] = far.mean(axis=1) / max(threshold, 1e-12)
    if unknown:
        stranger = distance > 1
        labels[stranger] = UNKNOWN
        confidence[stranger] = 0
    return labels, confidence, distance


def _neighbours(
    ref: NDArray[np.float32], new: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Distances of reference cells to their k nearest others; neighbours of new cells and their distances."""
    if len(ref) <= _EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=k).fit(ref)
        own = search.kneighbors()[0]
        far, near = search.kneighbors(new)
        return own, near, far
    from pynndescent import NNDescent

    index = NNDescent(ref, n_neighbors=max(30, k + 1), random_state=0, n_jobs=-1)
    own = index.neighbor_graph[1][:, 1 : k + 1]
    near, far = index.query(new, k=k, epsilon=0.2)
    return own, near, far


def _label_table(labels: NDArray[Any], confidence: NDArray[np.float32]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame({"label": labels.astype(str), "confidence": confidence})
    grouped = table.groupby("label")["confidence"].agg(n_cells="size", median_confidence="median").reset_index()
    return grouped.sort_values("n_cells", ascending=False, ignore_index=True)


def _scores(query: AnnData, labels_key: str, labels: NDArray[Any]) -> dict[str, float] | None:
    if labels_key not in query.obs or query.obs[labels_key].isna().any():
        return None
    from sklearn.metrics import accuracy_score, f1_score

    truth = query.obs[labels_key].astype(str).to_numpy()
    given = labels.astype(str)
    return {
        "accuracy": float(accuracy_score(truth, given)),
        "macro_f1": float(f1_score(truth, given, average="macro", labels=sorted(set(truth)), zero_division=0)),
    }
