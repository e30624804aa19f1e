"""How well a model predicts expression that it has not seen, by thinning the molecules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import DataError
from scfm_lab.evaluation.naming import named
from scfm_lab.evaluation.overlap import check_unseen, flagged
from scfm_lab.evaluation.resampling import ends, enough, resamples
from scfm_lab.evaluation.score import Score, Scores, best_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

PER_10K = "counts per 10,000"
LOSS, CORRELATION = "Poisson loss (nats per molecule)", "Pearson's r over cells (mean of genes)"
_LEAST_RATE = 1e-3
_COMPONENTS = 30
#: Resamples of the correlations, which take the time.
_FEW = 100
#: Cells of the gene's mean that are added to a cell's neighbours: of few molecules most genes have none, which is no rate of 0.
_ADDED = 3


def imputation(
    adata: AnnData,
    models: Model | str | Sequence[Model | str] = ("starter",),
    *,
    share: float = 0.5,
    n_neighbors: int = 15,
    min_molecules: int = 50,
    max_cells: int = 2000,
    sample_key: str | None = None,
    n_boot: int = 500,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seen: str = "refuse",
    seed: int = 0,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> Scores:
    """Split the molecules of each cell in two; predict one half from the other.

    Binomial thinning makes two independent halves of Poisson counts. Everything is taken from the first half alone: what the
    model reads, the neighbours, the size factors, the means. Floors are each gene's mean, and the mean of a cell's neighbours
    among principal components of the first halves (the cell itself among them), to whom three cells of the gene's mean are added. Rates
    are per 10,000 molecules of the cell's library, of which the genes that are there may be a part.

    Parameters
    ----------
    adata
        With raw counts.
    models
        That can impute.
    share
        Of the molecules in the half that is seen.
    min_molecules
        Genes with fewer molecules in the hidden half are not scored.
    max_cells
        Scored, chosen by their digests.
    sample_key
        Column of ``obs`` with the donor or sample: intervals are over samples where there are five or more.
    seen
        What happens where scored cells are in a model's training record: ``"refuse"``, or ``"flag"`` (every score of it says so).

    Returns
    -------
    Scores
        Poisson loss (only where the model predicts counts) and Pearson's r, with bootstrap intervals over samples or cells. There is
        no ceiling: how well counts can be predicted is not known.

    Raises
    ------
    ModelError
        If a model cannot impute.
    DataError
        If no gene has enough molecules, the sample column is not there, or a model was trained on scored cells.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> scores = sl.evaluate.imputation(sl.datasets.load("pbmc68k"), "starter", max_cells=100, n_boot=20)
    >>> len(scores) > 0
    True
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.load import as_model

    if not 0 < share < 1:
        raise DataError(f"share is {share}; it is the part of the molecules that is seen, between 0 and 1.")
    given: Any = models if isinstance(models, (list, tuple)) else [models]
    apart = named(as_model(m) for m in given)
    opened = list(apart.values())
    for model in opened:
        model.require("impute")
    cells = Cells.from_anndata(adata, layer=layer)
    rows = np.sort(np.argsort(cells.keys, kind="stable")[:max_cells])
    samples = None if sample_key is None else _samples(adata, sample_key)[rows]
    cells = cells.take(rows)
    flags = check_unseen(opened, adata[rows], seen=seen, layer=layer, options=options)
    half, hidden = thinned(cells, share, seed)
    known = [_columns(model, cells, options) for model in opened]
    scored = np.flatnonzero(np.asarray(hidden.sum(axis=0)).ravel() >= min_molecules)
    for match in known:
        scored = np.intersect1d(scored, match[0])
    if not len(scored):
        raise DataError(
            f"No gene that all models know has {min_molecules} hidden molecules in these cells; lower min_molecules or give more."
        )
    total = half.total.astype(np.float64)
    rates: dict[str, NDArray[np.float64]] = {}
    for (name, model), (columns, ids) in zip(apart.items(), known, strict=True):
        tokens = model.tokenize(half, options=options, seed=seed)
        at = {int(c): int(i) for c, i in zip(columns, ids, strict=True)}
        wanted = np.array([at[int(c)] for c in scored], dtype=np.int64)
        rates[name] = model.impute(tokens, wanted, progress=None, cancel=cancel).astype(np.float64)
    floors = _floors(half.counts, total, scored, n_neighbors)
    units = {name: model.decode_unit for name, model in apart.items()}
    exposure = total * (1 - share) / share / 1e4
    measured = hidden[:, scored].toarray().astype(np.float64)
    found = _scores(rates, floors, units, measured, exposure, samples, n_boot, seed, share)
    record = provenance.of_scores(
        apart,
        task="evaluate.imputation",
        options=options,
        share=share,
        n_neighbors=n_neighbors,
        min_molecules=min_molecules,
        max_cells=max_cells,
        sample_key=sample_key,
        n_boot=n_boot,
        layer=layer,
        seed=seed,
    )
    return replace(found, scores=flagged(found, flags), provenance=record)


def thinned(cells: Cells, share: float, seed: int) -> tuple[Cells, csr_matrix]:
    """Cells with a part of their molecules, and the counts of the rest; by cell, so that order does not matter."""
    counts = cells.counts
    seen = counts.copy()
    drawn = np.empty(len(counts.data), dtype=np.float32)
    for row, key in enumerate(cells.keys.tolist()):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        rng = np.random.default_rng([int(key), seed])
        drawn[part] = rng.binomial(counts.data[part].astype(np.int64), share)
    seen.data = drawn
    rest = counts - seen
    seen.eliminate_zeros()
    rest.eliminate_zeros()
    # Size factors are those of the half that is seen; a panel keeps its share of all genes.
    inside = np.asarray(counts.sum(axis=1)).ravel()
    now = np.asarray(seen.sum(axis=1)).ravel()
    ratio = np.divide(now, inside, out=np.zeros(len(now)), where=inside > 0)
    return replace(cells, counts=seen, total=cells.total * ratio), rest.tocsr()


def _samples(adata: AnnData, sample_key: str) -> NDArray[Any]:
    from scfm_lab.cells.cells import column_of

    found: NDArray[Any] = column_of(adata, sample_key, what="The sample column").astype(str).to_numpy()
    return found


def _columns(
    model: Model, cells: Cells, options: Mapping[str, Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    match = model.known_genes(cells.genes, options)
    return match.columns, match.ids


def _floors(
    counts: csr_matrix, total: NDArray[np.float64], scored: NDArray[np.int64], n_neighbors: int
) -> dict[str, NDArray[np.float64]]:
    """Rates per 10,000 molecules of the library from the seen halves alone."""
    from sklearn.decomposition import TruncatedSVD

    from scfm_lab.models.pca import log_normalised
    from scfm_lab.tasks.neighbours import nearest

    size = np.maximum(total, 1)
    mean = np.asarray(counts[:, scored].sum(axis=0)).ravel() / size.sum() * 1e4
    out = {"each gene's mean": np.tile(mean, (counts.shape[0], 1))}
    logged = log_normalised(counts, total)
    width = max(2, min(_COMPONENTS, min(counts.shape) - 1))
    vectors = TruncatedSVD(width, random_state=0).fit_transform(logged).astype(np.float32)
    near = nearest(vectors, vectors, min(n_neighbors + 1, len(vectors)))[0]
    of = counts[:, scored].toarray()
    added = _ADDED * size.mean()
    molecules = of[near].sum(axis=1) + added * mean / 1e4
    out["mean of neighbours"] = molecules / (size[near].sum(axis=1) + added)[:, None] * 1e4
    return out


def _scores(
    rates: dict[str, NDArray[np.float64]],
    floors: dict[str, NDArray[np.float64]],
    units: Mapping[str, str],
    hidden: NDArray[np.float64],
    exposure: NDArray[np.float64],
    samples: NDArray[Any] | None,
    n_boot: int,
    seed: int,
    share: float,
) -> Scores:
    good = (exposure > 0) & (hidden.sum(axis=1) > 0)
    for rate in rates.values():
        good &= np.isfinite(rate).all(axis=1)
    rows = np.flatnonzero(good)
    draws, over = resamples(len(rows), None if samples is None else samples[rows], n_boot, seed)
    few = enough(min(n_boot, _FEW), draws.units)
    observed = np.log1p(hidden[rows] / exposure[rows, None])
    made = {**rates, **floors}
    loss = {m: _loss(np.maximum(r[rows], _LEAST_RATE), hidden[rows], exposure[rows]) for m, r in made.items()}
    for m, unit in units.items():
        if unit != PER_10K:
            loss[m] = np.full(len(rows), np.nan)
    logged = {
        m: np.log1p(np.maximum(r[rows], 0)) if units.get(m, PER_10K) == PER_10K else r[rows] for m, r in made.items()
    }
    found = []
    floor_loss = best_floor({m: float(loss[m].mean()) for m in floors}, higher_is_better=False)
    correlation = {m: _pearson(x, observed) for m, x in logged.items()}
    floor_r = best_floor({m: correlation[m] for m in floors})
    losses = {m: [loss[m][i].mean() for i in draws] for m in made}
    correlations = {m: [_pearson(x[i], observed[i]) for i in draws[:few]] for m, x in logged.items()}
    for m in made:
        why = (
            f"it predicts {units[m]}, of which no count follows"
            if m in units and units[m] != PER_10K
            else "no ceiling is known"
        )
        common: dict[str, Any] = {"interval": f"95 % bootstrap over {over}", "n": len(rows)}
        found.append(
            Score(
                LOSS,
                m,
                float(loss[m].mean()),
                **ends(losses[m], losses.get(floor_loss[0]), units=draws.units),
                floor=floor_loss[1],
                floor_name=floor_loss[0],
                higher_is_better=False,
                missing=why,
                **common,
            )
        )
        flat = "constant over cells" if not np.isfinite(correlation[m]) else "no ceiling is known"
        found.append(
            Score(
                CORRELATION,
                m,
                correlation[m],
                **ends(correlations[m], correlations.get(floor_r[0]), units=draws.units),
                floor=floor_r[1],
                floor_name=floor_r[0],
                missing=flat,
                **common,
            )
        )
    notes = (
        f"{hidden.shape[1]:,} genes in {len(rows):,} cells; {share:.0%} of the molecules are seen, the rest are predicted. "
        "Neighbours, sizes and means are those of the seen half.",
    )
    return Scores(tuple(found), title="Hidden molecules predicted.", notes=notes)


def _loss(rate: NDArray[np.float64], hidden: NDArray[np.float64], exposure: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each cell, without the part that depends on the counts alone."""
    expected = rate * exposure[:, None]
    # Nobody is judged by how many molecules are hidden in all: that is known beforehand.
    expected *= hidden.sum() / expected.sum()
    return (expected - hidden * np.log(expected)).sum(axis=1) / hidden.sum(axis=1)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Mean over genes of the correlation over cells; genes that are constant in either are left out."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    some = scale > 1e-9
    return float(((x * y).sum(axis=0)[some] / scale[some]).mean()) if some.any() else np.nan
