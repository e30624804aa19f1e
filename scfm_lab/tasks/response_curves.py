"""Response curves: what a model answers at a few doses, computed once, so that a slider is answered by interpolation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.dose import check_dose
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, GenesError, did_you_mean
from scfm_lab.evaluation.nulls import check_n_null, features, test_against_null
from scfm_lab.tasks.gene_null import NULL_DRAWS, null_sets, subsample
from scfm_lab.tasks.progress import as_progress
from scfm_lab.tasks.readouts import SCALES, Movement, Shift
from scfm_lab.tasks.response_curves_result import Response, ResponseCurves, interpolated
from scfm_lab.tasks.sweep import Question, effects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.perturb import Perturber

__all__ = ["DOSES", "PANEL", "Response", "ResponseCurves", "interpolated", "response_curves"]

DOSES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
PANEL = 200
_MOST_BYTES = 2 << 30


def response_curves(
    adata: AnnData,
    model: Model | str | Path | Perturber,
    genes: Sequence[str],
    *,
    doses: Sequence[float] = DOSES,
    cells: int | Sequence[Any] | NDArray[Any] | None = None,
    groupby: str | None = None,
    n_draws: int = 4,
    check_doses: Sequence[float] = (),
    n_null: int = 0,
    layer: str | None = None,
    basis: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> ResponseCurves:
    """Compute the answers to some genes at a few doses once, to be interpolated from then on.

    Parameters
    ----------
    adata
        With raw counts; nothing in it is changed.
    model
        An opened model, a source for :func:`scfm_lab.load_model`, or a :class:`~scfm_lab.tasks.perturb.Perturber` of the same
        cells (nothing is encoded again then).
    genes
        Names of genes.
    doses
        Doses that are computed; 1 belongs to every curve and costs nothing.
    cells
        The panel: names of cells, row numbers, a mask, or how many (chosen by their digests); None: 200.
    groupby
        Column of ``obs`` whose groups give the rates of over-expression.
    n_draws
        Draws over which doses other than 0 and 1 are averaged.
    check_doses
        Doses that are computed only to measure the interpolation's error there. Without them each inner dose of the curve is
        left out in turn, which tells the error of a coarser curve.
    n_null
        Comparable genes (at least 19), dosed alike, that give the error in null standard deviations too, the ``null_sd`` that
        :func:`scfm_lab.perturb` tells; 0: none.
    basis
        As for :func:`scfm_lab.perturb`.

    Returns
    -------
    ResponseCurves

    Raises
    ------
    GenesError
        If a gene is not there, not known to the model or named twice.
    DataError
        If there are fewer than two doses besides 1, the panel is empty, or the curves would take more than 2 GiB.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> curves = sl.response_curves(adata, "pca", ["CD3D"], cells=20, progress=False)
    >>> curves.at({"CD3D": 0.4}).shift.shape
    (20,)
    """
    from scfm_lab.tasks.perturb import Perturber

    check_given(adata, model, function="sl.response_curves", call="sl.response_curves(adata, model, genes)")
    started = time.perf_counter()
    genes = [genes] if isinstance(genes, str) else list(genes)
    if not genes:
        raise DataError("No gene was named; give a list such as ['CD3D', 'LYZ'].")
    if n_null:
        check_n_null(n_null)
    if n_draws < 1:
        raise DataError(f"n_draws is {n_draws}; at least one draw is needed.")
    knots = np.unique([1.0, *(check_dose("every gene", d) for d in doses)])
    if len(knots) < 3:
        raise DataError("A curve needs at least two doses besides 1, such as (0, 0.5, 1, 2).")
    between = np.setdiff1d([check_dose("every gene", d) for d in check_doses], knots)
    if len(between) and (between[0] < knots[0] or between[-1] > knots[-1]):
        raise DataError("check_doses lie between the doses of the curve; beyond them nothing is interpolated.")
    if isinstance(model, Perturber):
        lab = model
    else:
        lab = Perturber(
            adata,
            model,
            groupby=groupby,
            layer=layer,
            basis=basis,
            options=options,
            seed=seed,
            progress=progress,
            cancel=cancel,
            tabled=False,
        )
    columns = list(lab.resolve(dict.fromkeys(genes, 0.0), None)[0]) if len(set(genes)) == len(genes) else None
    if columns is None:
        raise GenesError(f"{next(g for g in genes if genes.count(g) > 1)!r} is named twice.")
    rows = _panel(adata, lab, cells)
    size = 4 * len(genes) * len(knots) * len(rows) * lab.baseline.shape[1]
    if size > _MOST_BYTES:
        raise DataError(
            f"{len(genes)} genes × {len(knots)} doses × {len(rows):,} cells × {lab.baseline.shape[1]} numbers take "
            f"{size / 2**30:.1f} GiB; take fewer genes or cells."
        )
    every = np.unique([*knots, *between])
    movement, shift = _computed(lab, columns, every, rows, n_draws, progress, cancel)
    kept, error = np.isin(every, knots), _errors(genes, every, knots, between, shift)
    error["null_sd"] = np.nan
    if n_null:
        error["null_sd"] = _null_sd(lab, dict(zip(map(str, genes), columns, strict=True)), rows, error, n_null, cancel)
    error["in_null_sd"] = error["error"].abs() / error["null_sd"]
    displacement = np.zeros((len(genes), len(knots), len(rows), 2), dtype=np.float32)
    for g in range(len(genes)):
        for d, dose in enumerate(knots):
            if dose != 1:
                vectors = lab.baseline[rows] + movement[g, np.flatnonzero(kept)[d]]
                changed = np.flatnonzero((vectors != lab.baseline[rows]).any(axis=1))
                displacement[g, d, changed] = lab.projector.displaced(vectors[changed], rows[changed])
    record = provenance.of_model(
        lab.model,
        task="response_curves",
        genes=genes,
        doses=knots.tolist(),
        draws=n_draws,
        cells=len(rows),
        seed=lab.seed,
        groupby=lab.groupby,
        options=lab.model.check_options(lab.options),
        seconds=time.perf_counter() - started,
    )
    return ResponseCurves(
        genes=tuple(map(str, genes)),
        doses=knots,
        cells=rows,
        movement=movement[:, kept],
        shift=shift[:, kept],
        displacement=displacement,
        baseline=lab.baseline[rows],
        before=lab.projector.plane[rows],
        basis=lab.projector.basis,
        error=error,
        provenance=record,
    )


def _panel(adata: AnnData, lab: Perturber, cells: Any) -> NDArray[np.int64]:
    n = len(lab.cells)
    if cells is None or isinstance(cells, (int, np.integer)):
        most = PANEL if cells is None else int(cells)
        if most < 1:
            raise DataError(f"cells is {most}; a panel holds at least one cell.")
        return subsample(np.flatnonzero(lab.seen), lab.cells.keys, most)
    given = np.asarray(cells)
    if given.dtype == bool:
        if len(given) != n:
            raise DataError(f"The mask of the panel has {len(given):,} entries for {n:,} cells.")
        rows = np.flatnonzero(given)
    elif given.dtype.kind in "iu":
        rows = np.unique(given)
        if len(rows) and not 0 <= rows[0] <= rows[-1] < n:
            raise DataError(f"The panel names row {rows[-1] if rows[-1] >= n else rows[0]}; there are {n:,} cells.")
    else:
        rows = np.sort(adata.obs_names.get_indexer([str(c) for c in given]))
        if len(rows) and rows[0] < 0:
            lost = next(str(c) for c in given if str(c) not in adata.obs_names)
            raise DataError(f"No cell is called {lost!r}." + did_you_mean(lost, adata.obs_names[:5000]))
    rows = rows[lab.seen[rows]]
    if not len(rows):
        raise DataError("The panel holds no cell in which the model sees a gene.")
    return rows.astype(np.int64)


def _computed(
    lab: Perturber,
    columns: list[int],
    doses: NDArray[np.float64],
    rows: NDArray[np.int64],
    draws: int,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Movement (genes, doses, cells, width) and shift (genes, doses, cells)."""
    width = lab.baseline.shape[1]
    movement = np.zeros((len(columns), len(doses), len(rows), width), dtype=np.float32)
    shift = np.zeros(movement.shape[:3], dtype=np.float32)
    asked = [(g, d) for g in range(len(columns)) for d in range(len(doses)) if doses[d] != 1]
    questions = [Question({columns[g]: float(doses[d])}, rows=rows) for g, d in asked]
    with as_progress(progress, f"Response curves with {lab.model.spec.name}", unit="doses") as report:
        found = effects(
            lab, questions, readouts=[Shift(), Movement(width)], draws=draws, progress=report, cancel=cancel
        )
    for (g, d), effect in zip(asked, found, strict=True):
        place = np.searchsorted(rows, effect.rows)
        shift[g, d, place] = effect.values[0]
        movement[g, d, place] = effect.values[1:].T
    return movement, shift


def _errors(
    genes: Sequence[str],
    every: NDArray[np.float64],
    knots: NDArray[np.float64],
    between: NDArray[np.float64],
    shift: NDArray[np.float32],
) -> pd.DataFrame:
    """How far interpolation is from what was computed, at doses that it did not see."""
    import pandas as pd

    inner = [d for d in knots[1:-1] if d != 1]
    tried = [(d, knots) for d in between] or [(d, knots[knots != d]) for d in inner]
    how = "dose between" if len(between) else "dose of the curve left out"
    rows = []
    for g, gene in enumerate(genes):
        for dose, known in tried:
            exact = shift[g, np.searchsorted(every, dose)]
            guess = interpolated(known, shift[g, np.isin(every, known)], float(dose))
            rows.append(
                {
                    "gene": gene,
                    "dose": float(dose),
                    "how": how,
                    "exact": float(exact.mean()),
                    "interpolated": float(guess.mean()),
                    "error": float(guess.mean() - exact.mean()),
                    "cell_error": float(np.abs(guess - exact).mean()),
                }
            )
    columns = ["gene", "dose", "how", "exact", "interpolated", "error", "cell_error"]
    return pd.DataFrame(rows, columns=columns)


def _null_sd(
    lab: Perturber, columns: Mapping[str, int], rows: NDArray[np.int64], error: pd.DataFrame, n: int, cancel: Any
) -> NDArray[np.float64]:
    """Of each row's gene and dose the null's standard deviation, the one that ``sl.perturb`` tells of these cells.

    NaN where there are fewer than 19 comparable genes.
    """
    f = features(lab.cells.counts[rows], lab.cells.total[rows])
    x = f.matrix()
    sets = {c: np.array(null_sets(lab, [c], rows, n, f)[1], dtype=np.int64).ravel() for c in columns.values()}
    wanted = sorted({int(g) for some in sets.values() for g in some})
    asked = [(g, dose) for dose in sorted(set(error["dose"])) for g in wanted]
    found = effects(lab, [Question({g: dose}, rows=rows) for g, dose in asked], draws=NULL_DRAWS, cancel=cancel)
    mean = {one: float(e.values[0].sum()) / len(rows) for one, e in zip(asked, found, strict=True)}
    out = []
    for row in error.itertuples():
        column = columns[row.gene]
        some = sets[column]
        beside = np.array([mean[int(g), row.dose] for g in some])
        out.append(test_against_null(row.exact, x[column], beside, x[some], scale=SCALES["shift"]).null_sd)
    return np.array(out)
