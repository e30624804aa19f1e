"""How well batches mix and cell types stay apart, by scib-metrics: two questions, never one average."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.annotation_floors import FITTED
from scfm_lab.evaluation.mixing import BATCH, BIOLOGY, WHAT, measures
from scfm_lab.evaluation.once import CANNOT_BE_HAD, once, principal_components
from scfm_lab.evaluation.overlap import flagged
from scfm_lab.evaluation.resampling import ends, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor
from scfm_lab.evaluation.splits import proportional
from scfm_lab.optional import need
from scfm_lab.results import charts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

FLOOR = FITTED["pca"]
CORRECTED_FLOOR = f"{FLOOR} + Harmony"
HARMONY = "Harmony (harmonypy)"
"""What the provenance of corrected vectors calls their method."""
RESAMPLES = 100
MOST_CELLS = 10_000
"""Cells that are scored at most: silhouettes take all pairs of cells."""
_FEWEST = 30


@dataclass(frozen=True, repr=False)
class IntegrationScores(Scores):
    """Scores of representations, biology and batch apart."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per metric and representation: representation, aspect (``biology`` or ``batch``), metric, value, low, high.

        Values are 0 to 1, higher is better; further columns are those of :class:`~scfm_lab.evaluation.score.Scores`.
        """
        table = super().table.rename(columns={"model": "representation"})
        table["aspect"] = np.where(table["metric"].isin(BATCH), "batch", "biology")
        first = ["representation", "aspect", "metric", "value", "low", "high"]
        return table[[*first, *(c for c in table if c not in first)]]

    def wide(self) -> pd.DataFrame:
        """One row per metric, one column per representation."""
        table = self.table
        wide = table.pivot_table(index=["aspect", "metric"], columns="representation", values="value", sort=False)
        order = list(dict.fromkeys(table["representation"]))
        return wide[[name for name in order if name in wide]]

    def summary(self) -> str:
        """Biology and batch of each representation, metric by metric."""
        lines = []
        for words, of in (("What is kept of biology", BIOLOGY), ("How far batches are mixed", BATCH)):
            own = [s for s in self.scores if s.metric in of]
            if own:
                lines.append(f"{words} (0–1, higher is better):")
            by_metric = {s.metric: [one for one in own if one.metric == s.metric] for s in own}
            lines += [f"  {metric}: " + ", ".join(map(_told, those)) for metric, those in by_metric.items()]
        lines.append(
            "Mixing can be had by destroying biology, and the other way round: read both, and no average of them. No ceiling is known."
        )
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Any:
        """Every metric as a row of points with their intervals, one colour a representation (Altair)."""
        alt = charts()
        base = alt.Chart(self.table).encode(
            y=alt.Y("metric:N", sort=None, title=None), color=alt.Color("representation:N", title=None)
        )
        point = base.mark_point(filled=True, size=70).encode(
            x=alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), title="0–1, higher is better"),
            tooltip=["representation", "metric", *(alt.Tooltip(c, format=".3f") for c in ("value", "low", "high"))],
        )
        rule = base.mark_rule().encode(x="low:Q", x2="high:Q")
        return alt.layer(rule, point).facet(row=alt.Row("aspect:N", title=None)).resolve_scale(y="independent")


def _told(score: Score) -> str:
    """A representation and its number, with the interval where there is one."""
    interval = f" [{score.low:.3f}, {score.high:.3f}]" if np.isfinite(score.low) else ""
    return f"{score.model} {score.value:.3f}{interval}" + (f" (above {score.floor_name})" if score.above_floor else "")


def integration(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    batch_key: str,
    labels_key: str | None = None,
    beside: bool = True,
    max_cells: int = MOST_CELLS,
    n_boot: int = RESAMPLES,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
) -> IntegrationScores:
    """Score representations in ``obsm`` with scib-metrics, beside principal components of the same cells.

    Parameters
    ----------
    keys
        Of ``obsm``.
    batch_key
        Column of ``obs`` with the batch.
    labels_key
        Column of ``obs`` with cell types; without it only the mixing of batches over all cells (iLISI) can be told, which
        also counts it as failure where batches hold different cells.
    beside
        Whether principal components of the same cells are the floor, and for vectors that Harmony has corrected (their provenance says
        so) also those that it has corrected; where there can be none a note says why.
    max_cells
        Scored at most, drawn in proportion to the batches and, within them, the types; the components are those of all cells.
    n_boot
        Bootstrap samples, of batches where there are five or more (more samples then, if ends of 95 % need them), else of cells:
        neighbours and clusters are found once.
    layer, options
        Where the counts are, also those by which a fine-tuned model's training cells are told (None looks for them), and the model's own
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
    columns = columns_of(adata, batch_key, labels_key)
    entries = dict(adata.uns.get(provenance.UNS, {}))
    corrected = [name for name in names if dict(entries.get(name, {})).get("method") == HARMONY]
    without = []
    if beside:
        try:
            found.setdefault(FLOOR, principal_components(adata, layer=layer))
        except CANNOT_BE_HAD as error:
            without.append(no_floor(error))
    if beside and corrected and FLOOR in found:
        from scfm_lab.tasks.integrate import harmony

        try:
            found[CORRECTED_FLOOR], _ = once(CORRECTED_FLOOR, harmony, found[FLOOR], columns[0], seed=seed)
        except CANNOT_BE_HAD as error:
            without.append(f"What Harmony has corrected stands beside components that it has not corrected: {error}")
    scores = score_integration(found, *columns, corrected=corrected, max_cells=max_cells, n_boot=n_boot, seed=seed)
    return replace(
        scores,
        scores=flagged(scores, flags),
        notes=(*scores.notes, *without, *(f"{name}: {said}." for name, said in flags.items())),
        provenance=scored_by(
            {name: dict(entries.get(name, {})) for name in names},
            batch_key=batch_key,
            labels_key=labels_key,
            max_cells=max_cells,
            n_boot=n_boot,
            layer=layer,
            seed=seed,
        ),
    )


def no_floor(error: Exception) -> str:
    """The note that says why there are no principal components beside the scores."""
    return f"There is no floor: {error}"


def scored_by(made: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The provenance of scores of representations: of each how it was made, as far as that is known, and the packages."""
    return provenance.of_vectors(made, task="evaluate.integration", packages=("scib-metrics", "harmonypy"), **more)


def makers_seen(
    adata: AnnData,
    names: Iterable[str],
    *,
    seen: str,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Key in ``obsm`` → remark, for vectors of models with a training record that have seen some of the cells or cannot tell.

    What made the vectors is read from their provenance.

    Raises
    ------
    DataError
        There are such vectors, and `seen` is ``"refuse"``.
    """
    from scfm_lab.cells.provenance import UNS
    from scfm_lab.errors import ScfmError
    from scfm_lab.evaluation.overlap import check_choice, check_unseen
    from scfm_lab.models.load import load_model
    from scfm_lab.models.training_cells import shipped_weights

    check_choice(seen)
    flags = {}
    for name in names:
        entry = dict(dict(adata.uns.get(UNS, {})).get(name, {}))
        told_so = entry.get("finetuned") or entry.get("cells_on_record")
        if not told_so and entry.get("weights_sha256") not in shipped_weights():
            continue
        maker = str(entry.get("source") or (f"models:/{entry['version']}" if entry.get("version") else ""))
        how: dict[str, Any] = {"layer": layer, "options": options}
        way = "opened to see"
        try:
            model = load_model(maker, device="cpu")
            way = "asked"
            told = check_unseen([model], adata, seen="flag", **how)
        except ScfmError as error:
            why = (
                f"of a {'fine-tuned ' * bool(entry.get('finetuned'))}model ({maker or 'not kept'}) that cannot be {way} whether these cells are in its training record "
                f"({str(error).rstrip('.')})"
            )
            way_out = "register or save it" if entry.get("finetuned") else "name the layer of the raw counts"
            if seen == "refuse":
                raise DataError(
                    f"obsm[{name!r}] is {why}; {way_out}, or have the scores flagged with seen='flag'."
                ) from error
            flags[name] = f"Flagged: {why}"
            continue
        said = " ".join(told.values())
        if told and seen == "refuse":
            whose = f"in the training record of {model.version or model.name}"
            why = said.removeprefix("Flagged: ").replace("in its training record", whose)
            raise DataError(
                f"obsm[{name!r}] is not scored: {why}, so that a score on them says nothing; leave those cells out "
                "(scfm_lab.evaluation.overlap tells which), or have it flagged with seen='flag'."
            )
        if told:
            flags[name] = said
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
    found: Mapping[str, NDArray[np.float32]],
    batches: NDArray[Any],
    labels: NDArray[Any] | None,
    *,
    corrected: Collection[str] = (),
    max_cells: int = MOST_CELLS,
    n_boot: int = RESAMPLES,
    seed: int = 0,
) -> IntegrationScores:
    """Score representations; cells that one of them has no vector for are left out of all.

    Above `max_cells` some are drawn, in proportion to the batches and types. The one called ``"pca (fitted)"`` is the floor of all
    others. Those that were `corrected` by Harmony owe part of a score to it: their floor is, metric by metric, the better of those
    components and of ``"pca (fitted) + Harmony"``, where it is there. Differences to the floor are drawn on the same resamples.
    """
    need("scib_metrics", what=WHAT)
    if max_cells < _FEWEST:
        raise DataError(f"max_cells is {max_cells}; at least {_FEWEST} cells have to be scored.")
    seen = np.flatnonzero(np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in found.values()]))
    if len(seen) < _FEWEST:
        raise DataError(
            f"Only {plural(len(seen), 'cell has', 'cells have')} a vector in every representation; at least {_FEWEST} are needed."
        )
    codes, words = _strata(batches, labels, seen, max_cells)
    rows = proportional(codes, seen, max_cells, seed)
    n = len(rows)
    given, batches, labels = batches, batches[rows], None if labels is None else labels[rows]
    draws, unit = resamples(n, batches, n_boot, seed, units_are="batches")
    drawn: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, vectors in found.items():
        # Told by their values: a floor that stands beside several models is scored once.
        key = ("scib-metrics", n_boot, seed, hashlib.sha256(vectors[rows].tobytes() + rows.tobytes()).hexdigest())
        drawn[name] = once(key, _drawn, vectors[rows], batches, labels, draws)
    scores = []
    for name, by_metric in drawn.items():
        others = [FLOOR, CORRECTED_FLOOR] if name in corrected and name != CORRECTED_FLOOR else [FLOOR]
        for metric, values in by_metric.items():
            floor_name, floor = best_floor({f: float(drawn[f][metric][0]) for f in others if f in drawn})
            scores.append(
                Score(
                    metric,
                    name,
                    float(values[0]),
                    **ends(values[1:], drawn[floor_name][metric][1:] if floor_name else None, units=draws.units),
                    floor=floor,
                    floor_name=floor_name,
                    interval=f"95 % bootstrap over {unit}",
                    n=n,
                    missing="no ceiling is known",
                )
            )
    notes = [
        f"{n:,} cells in {len(set(batches))} batches; intervals are over {unit}, neighbours and clusters found once."
    ]
    if CORRECTED_FLOOR in drawn:
        notes.append(
            f"The floor is {FLOOR}; of what Harmony has corrected it is, metric by metric, the better of that and {CORRECTED_FLOOR}."
        )
    if labels is None:
        notes.append("Biology is not measured: name the cell types with labels_key.")
    if n < len(seen):
        notes.append(f"{n:,} of {len(seen):,} cells are scored, in proportion to the {words} (max_cells).")
    if len(seen) < len(given):
        notes.append(f"{len(given) - len(seen):,} cells without a vector are left out.")
    return IntegrationScores(tuple(scores), notes=tuple(notes))


def _strata(
    batches: NDArray[Any], labels: NDArray[Any] | None, seen: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], str]:
    """Of each cell the number of the part that it is drawn from, and by what cells are parted.

    Each type within each batch is a part, so that none is lost; types or batches alone are where there is no room for all.
    """
    batch = np.unique(batches.astype(str), return_inverse=True)[1]
    if labels is None:
        return batch, "batches"
    label = np.unique(labels.astype(str), return_inverse=True)[1]
    # By number: names that are strung together can be those of another pair.
    both = np.unique(np.column_stack([batch, label]), axis=0, return_inverse=True)[1]
    for codes, words in ((both, "batches and types"), (label, "types")):
        if len(np.unique(codes[seen])) <= most:
            return codes, words
    return batch, "batches"


def _drawn(
    vectors: NDArray[np.float32],
    batches: NDArray[Any],
    labels: NDArray[Any] | None,
    draws: Sequence[NDArray[np.int64]],
) -> dict[str, NDArray[np.float64]]:
    """Metric → that of all cells, and of each resample."""
    rows = [np.arange(len(vectors)), *draws]
    return {name: np.array([measure(r) for r in rows]) for name, measure in measures(vectors, batches, labels).items()}
