"""How well batches mix and cell types stay apart, by scib-metrics: two questions, never one average."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.once import once
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

BIOLOGY = (
    "cell types apart (cLISI)",
    "clusters agree with types (NMI)",
    "clusters agree with types (ARI)",
    "silhouette of types",
)
BATCH = (
    "batches mixed (iLISI)",
    "batches mixed within types (kBET)",
    "types connected over batches",
    "batch silhouette within types (BRAS)",
)
_NEIGHBOURS = 90
"""What scIB takes for LISI and kBET; fewer where there are few cells."""


@dataclass(frozen=True, repr=False)
class IntegrationScores(Result):
    """Scores of representations, biology and batch apart."""

    table: pd.DataFrame
    """representation, aspect (``biology`` or ``batch``), metric, value: 0 to 1, higher is better."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def wide(self) -> pd.DataFrame:
        """One row per metric, one column per representation."""
        wide = self.table.pivot_table(index=["aspect", "metric"], columns="representation", values="value", sort=False)
        order = list(dict.fromkeys(self.table["representation"]))
        return wide[[name for name in order if name in wide]]

    def summary(self) -> str:
        """Biology and batch of each representation, metric by metric."""
        lines = []
        for aspect, words in (("biology", "What is kept of biology"), ("batch", "How far batches are mixed")):
            part = self.table[self.table["aspect"] == aspect]
            if len(part):
                lines.append(f"{words} (0–1, higher is better):")
                for metric, rows in part.groupby("metric", sort=False):
                    lines.append(
                        f"  {metric}: " + ", ".join(f"{r.representation} {r.value:.3f}" for r in rows.itertuples())
                    )
        lines.append(
            "Mixing can be had by destroying biology, and the other way round: read both, and no average of them. There is no "
            "interval and no ceiling: each metric is one number of all cells."
        )
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Any:
        """Every metric as a row of points, one colour a representation (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_point(filled=True, size=70)
            .encode(
                x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), title="0–1, higher is better"),
                y=alt.Y("metric:N", sort=None, title=None),
                color=alt.Color("representation:N", title=None),
                row=alt.Row("aspect:N", title=None),
                tooltip=["representation", "metric", alt.Tooltip("value", format=".3f")],
            )
            .resolve_scale(y="independent")
        )


def integration(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    batch_key: str,
    labels_key: str | None = None,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
) -> IntegrationScores:
    """Score representations in ``obsm`` with scib-metrics.

    Parameters
    ----------
    keys
        Of ``obsm``.
    batch_key
        Column of ``obs`` with the batch.
    labels_key
        Column of ``obs`` with cell types; without it only the mixing of batches over all cells (iLISI) can be told, which
        also counts it as failure where batches hold different cells.
    layer, options
        Where the counts are by which a fine-tuned model's training cells are told (None looks for them), and the model's own
        options for reading them.
    seen
        What happens where a fine-tuned model made the vectors (their provenance says so) and the cells are in its training
        record: ``"refuse"``, or ``"flag"`` (a note says so).

    Raises
    ------
    DataError
        If a key or column is missing, has NaN or one value, scib-metrics is not installed, or a model was trained on these cells.

    References
    ----------
    Luecken et al. (2022), Nature Methods 19, 41; scib-metrics (Gayoso et al.).
    """
    from scfm_lab.errors import did_you_mean

    names = [keys] if isinstance(keys, str) else list(keys)
    for name in names:
        if name not in adata.obsm:
            known = ", ".join(map(repr, adata.obsm)) or "none"
            raise DataError(f"obsm has no {name!r}; there are: {known}." + did_you_mean(name, adata.obsm))
    flags = makers_seen(adata, names, seen=seen, layer=layer, options=options)
    found = {name: np.asarray(adata.obsm[name], dtype=np.float32) for name in names}
    scores = score_integration(found, *columns_of(adata, batch_key, labels_key))
    return replace(scores, notes=(*scores.notes, *(f"{name}: {said}." for name, said in flags.items())))


def makers_seen(
    adata: AnnData,
    names: Iterable[str],
    *,
    seen: str,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Key in ``obsm`` → remark, for vectors of fine-tuned models that have seen some of the cells or cannot tell.

    What made the vectors is read from their provenance.

    Raises
    ------
    DataError
        There are such vectors, and `seen` is ``"refuse"``.
    """
    from scfm_lab.cells.provenance import UNS
    from scfm_lab.errors import ScfmError
    from scfm_lab.evaluation.overlap import check_unseen
    from scfm_lab.models.load import load_model

    check_unseen([], adata, seen=seen)
    flags = {}
    for name in names:
        entry = dict(dict(adata.uns.get(UNS, {})).get(name, {}))
        if not entry.get("finetuned"):
            continue
        maker = f"models:/{entry['version']}" if entry.get("version") else str(entry.get("source", ""))
        how: dict[str, Any] = {"layer": layer, "options": options}
        way = "opened to see"
        try:
            model = load_model(maker, device="cpu")
            way = "asked"
            told = check_unseen([model], adata, seen="flag", **how)
        except ScfmError as error:
            why = (
                f"of a fine-tuned model ({maker or 'not kept'}) that cannot be {way} whether these cells are in its training record "
                f"({str(error).rstrip('.')})"
            )
            if seen == "refuse":
                raise DataError(
                    f"obsm[{name!r}] is {why}; register or save it, or have the scores flagged with seen='flag'."
                ) from error
            flags[name] = f"Flagged: {why}"
            continue
        if told:
            check_unseen([model], adata, seen=seen, **how)
            flags[name] = " ".join(told.values())
    return flags


def columns_of(adata: AnnData, batch_key: str, labels_key: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Batches and labels as texts."""
    from scfm_lab.cells.cells import column_of

    batches = column_of(adata, batch_key, what="The batch column", min_values=2).astype(str).to_numpy(dtype=object)
    if labels_key is None:
        return batches, None
    labels = column_of(adata, labels_key, what="The label column", min_values=2)
    return batches, labels.astype(str).to_numpy(dtype=object)


def score_integration(
    found: Mapping[str, NDArray[np.float32]], batches: NDArray[Any], labels: NDArray[Any] | None
) -> IntegrationScores:
    """Score representations; cells that one of them has no vector for are left out of all."""
    import pandas as pd

    from scfm_lab.optional import need

    scib = need("scib_metrics", what="Scoring an integration")
    seen = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in found.values()])
    n = int(seen.sum())
    if n < 30:
        raise DataError(
            f"Only {plural(n, 'cell has', 'cells have')} a vector in every representation; at least 30 are needed."
        )
    rows = []
    columns = batches[seen], None if labels is None else labels[seen]
    for name, vectors in found.items():
        # Told by their values: a floor that stands beside several models is scored once.
        key = ("scib-metrics", hashlib.sha256(vectors[seen].tobytes() + seen.tobytes()).hexdigest())
        for aspect, metric, value in once(key, _metrics, scib, vectors[seen], *columns):
            rows.append({"representation": name, "aspect": aspect, "metric": metric, "value": value})
    notes = [f"{n:,} cells in {len(set(batches[seen]))} batches."]
    if labels is None:
        notes.append("Biology is not measured: name the cell types with labels_key.")
    if n < len(seen):
        notes.append(f"{len(seen) - n:,} cells without a vector are left out.")
    return IntegrationScores(pd.DataFrame(rows), tuple(notes), {"task": "evaluate.integration"})


def _metrics(
    scib: Any, vectors: NDArray[np.float32], batches: NDArray[Any], labels: NDArray[Any] | None
) -> list[tuple[str, str, float]]:
    import warnings

    from scfm_lab.optional import need

    results = need("scib_metrics.nearest_neighbors", what="Scoring an integration").NeighborsResults
    k = min(_NEIGHBOURS, len(vectors) // 3)
    near, far = _with_self(vectors, k)
    graph = results(indices=near, distances=far)
    batch = np.unique(batches.astype(str), return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = [("batch", BATCH[0], float(scib.ilisi_knn(graph, batch)))]
        if labels is None:
            return out
        code = np.unique(labels.astype(str), return_inverse=True)[1]
        few = results(indices=near[:, :15].copy(), distances=far[:, :15].copy())
        clusters = scib.nmi_ari_cluster_labels_kmeans(vectors, code)
        out += [
            (
                "batch",
                BATCH[1],
                float(
                    scib.kbet_per_label(results(indices=near[:, :50].copy(), distances=far[:, :50].copy()), batch, code)
                ),
            ),
            ("batch", BATCH[2], float(scib.graph_connectivity(few, code))),
            ("batch", BATCH[3], float(scib.bras(vectors, code, batch))),
            ("biology", BIOLOGY[0], float(scib.clisi_knn(graph, code))),
            ("biology", BIOLOGY[1], float(clusters["nmi"])),
            ("biology", BIOLOGY[2], float(clusters["ari"])),
            ("biology", BIOLOGY[3], float(scib.silhouette_label(vectors, code))),
        ]
    return out


def _with_self(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each cell with its neighbours, itself first, as scib-metrics wants them."""
    from scfm_lab.tasks.neighbours import Neighbours

    near, far = Neighbours(vectors, k=k - 1).own
    own = np.arange(len(vectors))[:, None]
    return np.hstack([own, near]), np.hstack([np.zeros((len(vectors), 1), np.float32), far])
