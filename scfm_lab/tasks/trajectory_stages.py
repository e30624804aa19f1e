"""How far an order of cells agrees with stages that are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scfm_lab.cells import provenance
from scfm_lab.cells.cells import column_of
from scfm_lab.evaluation.ordering import stage_scores
from scfm_lab.evaluation.overlap import flagged
from scfm_lab.evaluation.score import Scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.tasks.trajectory_result import Twin


def agreement(
    adata: AnnData,
    pseudotime: NDArray[np.float32] | None,
    twin: Twin | None,
    stage: NDArray[np.float64],
    stage_key: str,
    use_rep: str,
    flags: Mapping[str, str],
    *,
    sample_key: str | None,
    layer: str | None,
    seed: int,
) -> Scores:
    """Kendall's tau-b of the order and of the twin's with known stages.

    Parameters
    ----------
    pseudotime
        Of each cell; None where the order is refused a score.
    flags
        Key of the vectors → that what made them was trained on some of the cells.
    """
    orders: dict[str, NDArray[Any]] = {} if pseudotime is None else {use_rep: pseudotime}
    orders |= {} if twin is None else {"pca (fitted)": twin.pseudotime}
    why = () if pseudotime is not None else (f"The order is not scored ({flags[use_rep].removeprefix('Flagged: ')}).",)
    if not orders:
        return Scores((), notes=why)
    samples = None
    if sample_key is not None:
        samples = column_of(adata, sample_key, what="The sample column").astype(str).to_numpy(dtype=object)
    scores = stage_scores(orders, stage, stage_key, samples=samples, seed=seed)
    return replace(
        scores,
        scores=flagged(scores, flags),
        notes=(*scores.notes, *why),
        provenance=provenance.of_vectors(
            {use_rep: dict(adata.uns.get(provenance.UNS, {})).get(use_rep, {})},
            task="stages",
            stage_key=stage_key,
            sample_key=sample_key,
            layer=layer,
            seed=seed,
        ),
    )
