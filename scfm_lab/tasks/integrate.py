"""Bring batches together, and tell what that does to biology."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.evaluation.integration import (
    CORRECTED_FLOOR,
    FLOOR,
    HARMONY,
    MOST_CELLS,
    IntegrationScores,
    columns_of,
    makers_seen,
    no_floor,
    score_integration,
    scored_by,
)
from scfm_lab.evaluation.once import CANNOT_BE_HAD, once, principal_components
from scfm_lab.evaluation.overlap import check_choice, check_unseen, flagged
from scfm_lab.results import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model


@dataclass(frozen=True, repr=False)
class IntegrateResult(Result):
    """Vectors without the batch, and scores before and after."""

    key: str
    vectors: NDArray[np.float32]
    """Corrected vectors, (cells, width); NaN where a cell had none."""
    scores: IntegrationScores | None
    """Before and after, beside the same of principal components; None where ``score=False``, or what made the vectors was
    trained on these cells."""
    provenance: dict[str, Any]
    no_scores: str = ""
    """Why it was not scored, where it was to be."""

    @property
    def table(self) -> pd.DataFrame:
        """representation, aspect, metric, value, low, high, floor, …; empty without scores."""
        return (self.scores or IntegrationScores(())).table

    def summary(self) -> str:
        """What was corrected, and what it did."""
        p = self.provenance
        head = (
            f"{len(self.vectors):,} cells of {p['model']} corrected for {p['batch_key']} by Harmony in obsm[{self.key!r}] "
            f"({p['iterations']} rounds)."
        )
        return "\n".join(filter(None, [head, self.no_scores, "" if self.scores is None else self.scores.summary()]))

    def plot(self) -> Any:
        """Scores before and after (Altair)."""
        if self.scores is None:
            raise DataError(self.no_scores or "The integration was not scored; ask for score=True.")
        return self.scores.plot()

    def write(self, adata: AnnData) -> None:
        """Write the corrected vectors to ``obsm``."""
        if adata.n_obs != len(self.vectors):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.vectors):,}.")
        provenance.free_key(adata, "obsm", self.key, given=True)
        adata.obsm[self.key] = self.vectors
        provenance.record(adata, self.key, self.provenance, slot="obsm")


def integrate(
    adata: AnnData,
    model: Model | str | Path | None = None,
    *,
    batch_key: str,
    labels_key: str | None = None,
    use_rep: str | None = None,
    beside: bool = True,
    score: bool = True,
    max_cells: int = MOST_CELLS,
    layer: str | None = None,
    key_added: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> IntegrateResult:
    """Correct a representation for batches with Harmony, and score it before and after.

    Parameters
    ----------
    adata
        With raw counts, or with the representation in ``obsm``.
    model
        Its vectors are corrected; or name a representation that is there with `use_rep`.
    batch_key
        Column of ``obs`` with the batch.
    labels_key
        Column of ``obs`` with cell types, for the scores of biology. Harmony does not see it.
    use_rep
        Key in ``obsm`` instead of a model.
    beside
        Whether principal components of the same cells are corrected and scored too: the floor of what is corrected is the better of
        them before and after, metric by metric. Where there can be none a note says why.
    score
        Whether to score at all (scib-metrics).
    max_cells
        Scored at most, drawn in proportion to the batches and, within them, the types; all are corrected.
    key_added
        Default ``"<representation>_harmony"``.
    seen
        ``"refuse"`` to score what was made by a model that was trained on some of these cells (they are corrected all the same),
        or ``"flag"`` its scores.

    Returns
    -------
    IntegrateResult
        Also written to ``obsm``.

    Raises
    ------
    DataError
        If a column or representation is missing, there is one batch only, or harmonypy or scib-metrics is not installed.

    References
    ----------
    Korsunsky et al. (2019), Nature Methods 16, 1289.

    Examples
    --------
    >>> import numpy as np, scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    >>> sl.integrate(adata, "pca", batch_key="batch", score=False, progress=False).vectors.shape
    (700, 50)
    """
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.integrate")
    provenance.check_writable(adata)
    check_choice(seen)
    started = time.perf_counter()
    if (model is None) == (use_rep is None):
        raise DataError("Name either a model or a representation in obsm (use_rep=), one of the two.")
    batches, labels = columns_of(adata, batch_key, labels_key)
    opened = [] if model is None else [as_model(model)]
    name, vectors, record = _representation(
        adata, opened[0] if opened else None, use_rep, layer, options, seed, progress, cancel
    )
    key = provenance.free_key(adata, "obsm", key_added or f"{name}_harmony", given=key_added is not None)
    corrected, rounds = harmony(vectors, batches, seed=seed)
    scores, no_scores = None, ""
    flags: dict[str, str] = {}
    if score:
        asked: dict[str, Any] = {"seen": "flag", "layer": layer, "options": options}
        told = makers_seen(adata, [use_rep], **asked) if use_rep else check_unseen(opened, adata, **asked)
        flags = {one: said for said in told.values() for one in (name, f"{name} + Harmony")}
        if flags and seen == "refuse":
            no_scores = (
                f"{name} is not scored, as that would say nothing ({flags[name].removeprefix('Flagged: ')}); leave those cells out, or "
                "have the scores flagged with seen='flag'."
            )
    if score and not no_scores:
        found = {name: vectors, f"{name} + Harmony": corrected}
        without: list[str] = []
        if beside:
            try:
                found |= _floor(adata, batches, layer, seed)
            except CANNOT_BE_HAD as error:
                without.append(no_floor(error))
        scored = score_integration(
            found, batches, labels, corrected=[f"{name} + Harmony"], max_cells=max_cells, seed=seed
        )
        scores = replace(
            scored,
            scores=flagged(scored, flags),
            notes=(*scored.notes, *without, *(f"{name}: {said}." for said in dict.fromkeys(flags.values()))),
            provenance=scored_by(
                {name: record}, batch_key=batch_key, labels_key=labels_key, max_cells=max_cells, layer=layer, seed=seed
            ),
        )
    result = IntegrateResult(
        key=key,
        vectors=corrected,
        scores=scores,
        no_scores=no_scores,
        provenance={
            **record,
            "task": "integrate",
            "method": HARMONY,
            "batch_key": batch_key,
            "iterations": rounds,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )
    result.write(adata)
    return result


def _representation(
    adata: AnnData,
    model: Any,
    use_rep: str | None,
    layer: str | None,
    options: Mapping[str, Any] | None,
    seed: int,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> tuple[str, NDArray[np.float32], dict[str, Any]]:
    from scfm_lab.errors import did_you_mean

    if use_rep is not None:
        if use_rep not in adata.obsm:
            known = ", ".join(map(repr, adata.obsm)) or "none"
            raise DataError(f"obsm has no {use_rep!r}; there are: {known}." + did_you_mean(use_rep, adata.obsm))
        of = dict(dict(adata.uns.get(provenance.UNS, {})).get(use_rep, {}))
        return use_rep, np.asarray(adata.obsm[use_rep], dtype=np.float32), {"model": use_rep, **of}
    from scfm_lab.cells.audit import audit_cells
    from scfm_lab.tasks.progress import as_progress

    opened: Model = model
    opened.require("embed")
    cells = opened.read_cells(adata, layer=layer, options=options)
    match = opened.genes_read(cells.genes, options, lambda: cells.counts)
    audit = audit_cells(cells, match, opened, options=options)
    tokens = opened.tokenize(cells, options=options, seed=seed)
    with as_progress(progress, f"Cells with {opened.spec.name}") as report:
        vectors = opened.encode(tokens, progress=report, cancel=cancel).cell
    record = provenance.of_model(opened, options=opened.check_options(options), **audit.as_provenance())
    return f"X_{opened.name}", vectors, record


def _floor(adata: AnnData, batches: NDArray[Any], layer: str | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """Principal components of the same cells, before and after."""
    vectors = principal_components(adata, layer=layer)
    corrected, _ = once(CORRECTED_FLOOR, harmony, vectors, batches, seed=seed)
    return {FLOOR: vectors, CORRECTED_FLOOR: corrected}


def harmony(vectors: NDArray[np.float32], batches: NDArray[Any], *, seed: int = 0) -> tuple[NDArray[np.float32], int]:
    """Vectors corrected by Harmony, and the rounds it took; cells with NaN stay NaN.

    Raises
    ------
    DataError
        If fewer than two batches have cells with a vector, or harmonypy is not installed.
    """
    import logging

    import pandas as pd

    from scfm_lab.optional import need

    package = need("harmonypy", what="Harmony")
    seen = np.isfinite(vectors).all(axis=1)
    if len(set(batches[seen])) < 2:
        raise DataError("Cells with a vector are of one batch only; there is nothing to correct.")
    logger = logging.getLogger("harmonypy")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        done = package.run_harmony(
            vectors[seen].astype(np.float64),
            pd.DataFrame({"batch": batches[seen].astype(str)}),
            ["batch"],
            random_state=seed,
            verbose=False,
        )
    finally:
        logger.setLevel(level)
    corrected = np.asarray(done.Z_corr)
    # Older harmonypy has components as rows.
    if corrected.shape[0] != int(seen.sum()):
        corrected = corrected.T
    out = np.full(vectors.shape, np.nan, dtype=np.float32)
    out[seen] = corrected
    return out, len(getattr(done, "objective_harmony", ()))
