"""Do imputed genes go together as measured ones do? The published test of signs, and what it takes to believe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.evaluation.covariance_sets import chosen_genes, random_draws, usable_genes
from scfm_lab.evaluation.masked import folds_of, given_values, pca_regression, predict_hidden, seen_values
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.resampling import about, ends, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor, macro
from scfm_lab.evaluation.set_correlations import KINDS, SetCorrelations
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

AGREE, ERROR = "sign agreement", "error of magnitude"
DEPTH, TYPE_MEAN, REGRESSION, HALVES = "depth alone", "cell-type mean", "PCA regression", "halves of the cells"
_SPLITS = 20


@dataclass(frozen=True, repr=False)
class CovarianceSigns(Scores):
    """Scores of the covariance-sign test, with the correlations behind them."""

    correlations: pd.DataFrame | None = None
    """kind, block, model, real, imputed, sign_agrees, error: mean Spearman correlations over the pairs of genes of a block.

    ``sign_agrees`` is None where the measured values tell no correlation of any pair.
    """
    random_sets: pd.DataFrame | None = None
    """draw, kind, model, agreement, error: the same test on random gene sets of the same sizes and detection."""


def covariance_sign(
    adata: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    sets: Mapping[str, Sequence[str]],
    labels_key: str | None = "cell_type",
    sample_key: str | None = None,
    imputed: Mapping[str, Any] | None = None,
    min_cells: int = 10,
    n_random: int = 50,
    n_boot: int = 200,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> CovarianceSigns:
    """Hide two gene sets, predict them, and compare how genes go together with how they really do.

    As published: the mean pairwise Spearman correlation over cells within the first set, within the second and between them, of
    measured and of imputed values; the score is the share of the three signs that agree. Passing says little, since sequencing
    depth alone, and random gene sets, can pass. Beside it stand therefore the same with depth partialled out (ranks of library
    size and of the number of genes seen), the same within cell types (mean over types, weighted by cells), the mean error of the
    correlations over all pairs of genes, and the score of random sets.

    Parameters
    ----------
    adata
        With raw counts.
    models
        That predict expression.
    sets
        Two sets: name → genes. Genes that are not measured, not known to a model, or expressed in fewer than `min_cells` cells
        are left out and named.
    labels_key, sample_key
        Columns of ``obs`` with cell types (None: neither correlations within types nor their floor) and donors or samples.
    imputed
        Values that were predicted elsewhere from cells without these genes: name → table with a column for each gene. Rows of a
        table that is indexed by cell names are matched by them.
    n_random
        Pairs of random sets: same sizes, genes matched by the share of cells that express them. All are hidden at once.
    n_boot
        Bootstrap samples: of samples where there are five or more, else of cells. Of few samples more are
        drawn than asked for (1,048 of five, 412 of six), as many as the ends of their intervals take.
    seen
        What happens where scored cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    CovarianceSigns

    Raises
    ------
    DataError
        If there are not two sets of three usable genes each, an argument does not fit the cells, or a model was trained on them.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> sets = {"T": ["CD3D", "CD3E", "IL32"], "monocytes": ["LYZ", "S100A9", "S100A8"]}
    >>> found = sl.evaluate.covariance_sign(cells, [], sets=sets, n_random=0, n_boot=0)
    >>> found.of("sign agreement (as published)", "cell-type mean").value
    1.0
    """
    from scfm_lab.cells.cells import Cells, column_of
    from scfm_lab.cells.provenance import refuse_imputed
    from scfm_lab.models.load import as_model

    check_given(adata, function="sl.evaluate.covariance_sign")
    if not hasattr(sets, "items") or len(sets) != 2:
        raise DataError(
            "sets must be two named gene sets, such as {'neurons': ['SNAP25', …], 'respiration': ['NDUFA4', …]}."
        )
    if n_random < 0 or n_boot < 0:
        raise DataError(f"n_random and n_boot are {n_random} and {n_boot}; neither may be below 0, which does without.")
    refuse_imputed(adata, layer, what="The truth of the covariance-sign test")
    given: Any = models if isinstance(models, (list, tuple)) else [models]
    apart = named(as_model(m) for m in given)
    opened = list(apart.values())
    for model in opened:
        model.require("impute")
    flags = check_unseen(opened, adata, seen=seen, layer=layer, options=options)
    cells = Cells.from_anndata(adata, layer=layer, fields=sorted({f for model in opened for f in model.fields}))
    labels = (
        None if labels_key is None else column_of(adata, labels_key, what="The label column").astype(str).to_numpy()
    )
    samples = (
        None if sample_key is None else column_of(adata, sample_key, what="The sample column").astype(str).to_numpy()
    )
    usable = usable_genes(cells, opened, min_cells, options)
    chosen, notes = chosen_genes(cells, sets, usable)
    fold, how = folds_of(len(cells), samples, seed, what="The regression is")
    test = SetCorrelations.of(cells, labels)
    columns = np.concatenate(list(chosen.values()))
    genes = [str(g) for g in cells.genes.names[columns]]
    found: dict[str, NDArray[np.float64]] = {}
    for name, model in apart.items():
        with as_progress(progress, f"Hidden sets, with {name}") as report:
            found[name] = predict_hidden(
                model, cells, columns, options=options, seed=seed, progress=report, cancel=cancel
            ).astype(np.float64)
    for name, values in (imputed or {}).items():
        found[name] = given_values(values, genes, adata.obs_names, name)
    real = test.values(columns)
    floors = _floors(test, cells, columns, real, labels, fold, seed)
    random = random_draws(cells, chosen, usable, n_random, seed)
    drawn = None
    if random:
        drawn = _random_scores(
            test, cells, opened, random, [len(c) for c in chosen.values()], options, seed, progress, cancel
        )
    scores = _scored(test, real, found, floors, chosen, drawn, samples, n_boot, seed, [*notes, how])
    record = provenance.of_scores(
        apart,
        task="evaluate.covariance_sign",
        options=options,
        sets={name: [str(g) for g in cells.genes.names[c]] for name, c in chosen.items()},
        labels_key=labels_key,
        sample_key=sample_key,
        imputed=list(imputed or {}),
        min_cells=min_cells,
        n_random=n_random,
        n_boot=n_boot,
        layer=layer,
        seed=seed,
    )
    return replace(scores, scores=flagged(scores, flags), provenance=record)


def _floors(
    test: SetCorrelations,
    cells: Cells,
    columns: NDArray[np.int64],
    real: NDArray[np.float64],
    labels: NDArray[Any] | None,
    fold: NDArray[np.int64],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Values of the hidden genes without a model."""
    # Every gene more in cells with more of everything: one number per cell.
    floors = {DEPTH: np.tile(np.log1p(cells.total)[:, None], (1, len(columns)))}
    if labels is not None:
        # Over all cells of the type: means of folds would differ within it, and their noise would pass for signal there.
        names, code = np.unique(labels, return_inverse=True)
        floors[TYPE_MEAN] = np.vstack([real[code == i].mean(axis=0) for i in range(len(names))])[code]
    seen = seen_values(cells, columns)
    if seen.shape[1] > 1:
        floors[REGRESSION] = pca_regression(seen, real, fold, seed=seed)
    return floors


def _random_scores(
    test: SetCorrelations,
    cells: Cells,
    models: Sequence[Model],
    draws: list[NDArray[np.int64]],
    sizes: list[int],
    options: Mapping[str, Any] | None,
    seed: int,
    progress: bool | Callable[..., None],
    cancel: Any,
) -> pd.DataFrame:
    """The test on random sets, of each model and of depth alone."""
    import pandas as pd

    columns = np.unique(np.concatenate(draws))
    made = {DEPTH: np.tile(np.log1p(cells.total)[:, None], (1, len(columns)))}
    for name, model in named(models).items():
        with as_progress(progress, f"Random sets, with {name}") as report:
            made[name] = predict_hidden(
                model, cells, columns, options=options, seed=seed, progress=report, cancel=cancel
            ).astype(np.float64)
    rows = []
    for number, draw in enumerate(draws):
        at = np.searchsorted(columns, draw)
        real = test.values(draw)
        for name, values in made.items():
            good = np.flatnonzero(np.isfinite(values).all(axis=1))
            for kind in test.kinds:
                truth = test.matrix(real, kind, good)
                guess = test.matrix(values[:, at], kind, good)
                agreement, error = test.compare(truth, guess, sizes)
                rows.append({"draw": number, "kind": kind, "model": name, "agreement": agreement, "error": error})
    return pd.DataFrame(rows)


def _scored(
    test: SetCorrelations,
    real: NDArray[np.float64],
    found: dict[str, NDArray[np.float64]],
    floors: dict[str, NDArray[np.float64]],
    chosen: dict[str, NDArray[np.int64]],
    drawn: pd.DataFrame | None,
    samples: NDArray[Any] | None,
    n_boot: int,
    seed: int,
    notes: list[str],
) -> CovarianceSigns:
    import pandas as pd

    sizes = [len(c) for c in chosen.values()]
    first, second = chosen
    blocks = (f"within {first}", f"within {second}", "between")
    everything = {**found, **floors}
    good = np.flatnonzero(np.all([np.isfinite(v).all(axis=1) for v in everything.values()], axis=0))
    samples = None if samples is None else samples[good]
    draws, unit = resamples(len(good), samples, n_boot, seed)
    halves = _halves(test, real, good, sizes, seed)
    scores: list[Score] = []
    rows = []
    for kind in test.kinds:
        truth = test.matrix(real, kind, good)
        at = {m: test.matrix(v, kind, good) for m, v in everything.items()}
        told = {m: test.compare(truth, r, sizes) for m, r in at.items()}
        boot: dict[str, list[tuple[float, float]]] = {m: [] for m in everything}
        for draw in draws:
            measured = test.matrix(real, kind, good[draw])
            for m, v in everything.items():
                boot[m].append(test.compare(measured, test.matrix(v, kind, good[draw]), sizes))
        for place, metric in enumerate((AGREE, ERROR)):
            floor = best_floor({m: told[m][place] for m in floors}, higher_is_better=place == 0)
            # Of the error, a mean of magnitudes; signs have no such bias.
            drawn_of = {m: np.array([b[place] for b in boot[m]], dtype=np.float64) for m in everything}
            again = {m: about(v, told[m][place]) if place else v for m, v in drawn_of.items()}
            scores += [
                Score(
                    f"{metric} ({kind})",
                    m,
                    told[m][place],
                    **_interval(again[m], again.get(floor[0]), magnitude=place == 1, units=draws.units),
                    floor=floor[1],
                    floor_name=floor[0],
                    ceiling=halves[kind][place],
                    ceiling_name=HALVES,
                    higher_is_better=place == 0,
                    interval=f"95 % bootstrap over {unit}" + (", its bias taken out" if place else ""),
                    n=len(good),
                    remark=_beside_random(drawn, kind, m, told[m], place),
                )
                for m in everything
            ]
        real_means = test.blocks(truth, sizes)
        for m, r in at.items():
            means, errors = test.blocks(r, sizes), test.blocks(np.abs(np.nan_to_num(r) - truth), sizes)
            agrees = test.signs_agree(real_means, means)
            for b, name in enumerate(blocks):
                rows.append(
                    {
                        "kind": kind,
                        "block": name,
                        "model": m,
                        "real": real_means[b],
                        "imputed": means[b],
                        "sign_agrees": agrees[b],
                        "error": errors[b],
                    }
                )
    notes = [
        *notes,
        "The score is the share of the signs that the measured values tell (three at most); a share of 1 as published is passed by depth alone wherever all three are positive.",
        f"The ceiling is the agreement of random halves of the cells, which are noisier than all of them; n = {len(good):,} cells.",
    ]
    if drawn is not None:
        notes.append(f"Random sets: {drawn['draw'].nunique()} draws, matched by detection, all hidden at once.")
    if TYPE_MEAN in floors:
        notes.append(
            "The cell-type mean is one value per type, over all of its cells: it tells nothing within types, and flatters itself a "
            "little between them."
        )
    if len(good) < len(real):
        notes.append(f"{len(real) - len(good):,} cells without a prediction are left out.")
    if KINDS[2] not in test.kinds:
        notes.append(
            "Correlations within cell types are not measured: no column of cell types with ten cells each was named."
        )
    return CovarianceSigns(
        tuple(scores),
        title=f"Signs of correlation of {first} and {second}, imputed from cells without them.",
        notes=tuple(notes),
        correlations=pd.DataFrame(rows),
        random_sets=drawn,
    )


def _interval(
    drawn: NDArray[np.float64], floor: NDArray[np.float64] | None, *, magnitude: bool, units: int
) -> dict[str, Any]:
    """95 % intervals of a score, and of its difference to the floor in the same resamples; no magnitude is below 0."""
    found = ends(drawn, floor, units=units)
    return found | {k: max(0.0, found[k]) for k in ("low", "high") if magnitude and np.isfinite(found[k])}


def _halves(
    test: SetCorrelations, real: NDArray[np.float64], good: NDArray[np.int64], sizes: list[int], seed: int
) -> dict[str, tuple[float, float]]:
    """Agreement and error of measured values in one half of the cells after the other."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in test.kinds}
    for _ in range(_SPLITS):
        one, two = np.array_split(rng.permutation(good), 2)
        for kind in test.kinds:
            found[kind].append(test.compare(test.matrix(real, kind, one), test.matrix(real, kind, two), sizes))
    return {kind: (macro([a for a, _ in v]), macro([e for _, e in v])) for kind, v in found.items()}


def _beside_random(drawn: pd.DataFrame | None, kind: str, model: str, told: tuple[float, float], place: int) -> str:
    """What random sets reach with the same model."""
    if drawn is None:
        return ""
    own = drawn[(drawn["kind"] == kind) & (drawn["model"] == model)]
    own = own[np.isfinite(own[["agreement", "error"]]).all(axis=1)]
    if own.empty or not np.isfinite(told[place]):
        return ""
    if place:
        return f"Random sets: {own['error'].mean():.3f} on average"
    at_least = (own["agreement"] >= told[0] - 1e-9).mean()
    return f"Random sets: {own['agreement'].mean():.3f} on average, {at_least:.0%} of them as good"
