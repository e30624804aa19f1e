"""The six metrics of the Virtual Cell Challenge 2026, computed by cell-eval2 itself.

cell-eval2 puts 0 at the mean response and 1 at a replicate, both measured on the data at hand: here they are the floor and
the ceiling of a :class:`~scfm_lab.evaluation.score.Score`, and its ``position`` is cell-eval2's s.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.score import Score, bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.profiles import Profiles

_KEY = "perturbation"
_PREFIX = "cell-eval2 "
_MOST_SCALED = 2.0


def s_scores(
    data: Profiles, predicted: Mapping[str, NDArray[np.float64]], *, splits: int = 5, seed: int = 0
) -> tuple[list[Score], list[str]]:
    """Score predicted profiles with cell-eval2.

    cell-eval2 compares cells. A predicted profile becomes cells by taking the real control cells, as many as the perturbation
    has, and multiplying each gene (at most by two; the rest is added) so that its mean is the predicted one.

    Parameters
    ----------
    predicted
        Predictor → mean log1p(counts per 10,000), (perturbations, genes); perturbations that are NaN are left out, also of
        the floor and the ceiling beside that predictor.
    splits
        Halvings behind the replicate.

    Returns
    -------
    scores, notes

    Raises
    ------
    DataError
        If cell-eval2 is not installed.
    """
    ce = _cell_eval2()
    # Its own baseline resamples raw counts; the mean response is made into cells here as every prediction is.
    response = np.tile(data.mean.mean(axis=0), (len(data.names), 1))
    ends: dict[tuple[int, ...], _Ends] = {}
    found: dict[str, tuple[_Ends, _Measured]] = {}
    with warnings.catch_warnings():
        # Its own advice on backends and input types is about choices that are made here.
        warnings.simplefilter("ignore")
        for name, values in predicted.items():
            rows = np.flatnonzero(np.isfinite(values).all(axis=1))
            if not len(rows):
                continue
            if tuple(rows) not in ends:
                ends[tuple(rows)] = _ends(ce, data, rows, response, splits=splits, seed=seed)
            beside = ends[tuple(rows)]
            found[name] = beside, _measured(ce, data, rows, values, beside.config)
    scores = []
    for metric, higher in members().items():
        for name, (beside, own) in found.items():
            each, other = own.of(metric), beside.floor.of(metric)
            low, high = bootstrap_interval(each, statistic=_over, seed=seed)
            gain = bootstrap_interval(np.hstack([each, other]), statistic=_gained, seed=seed)
            scores.append(
                Score(
                    metric=_PREFIX + metric,
                    model=name,
                    value=_number(own.means.get(metric)),
                    low=low,
                    high=high,
                    floor=_number(beside.floor.means.get(metric)),
                    floor_name="mean response",
                    ceiling=_number(beside.ceiling.get(metric)),
                    ceiling_name="replicate halves",
                    interval="95 % bootstrap over perturbations" if np.isfinite(low) else "",
                    higher_is_better=higher,
                    n=int(np.isfinite(each).all(axis=1).sum()),
                    missing=_missing(metric, beside, low),
                    gain_low=gain[0],
                    gain_high=gain[1],
                    units=int(np.isfinite(np.hstack([each, other])).all(axis=1).sum()),
                )
            )
    from importlib.metadata import version

    note = (
        f"cell-eval2 {version('cell-eval2')} on log-normalised cells, differential expression by scanpy's Wilcoxon test; position "
        "is its s: 0 the mean response, 1 a replicate half. Predicted cells are as many as were measured: the control cells in turn, "
        "from the first again where they do not suffice, scaled to the predicted mean, so that they vary as control cells do."
    )
    return scores, [note]


def members() -> dict[str, bool]:
    """The six scored metrics, and whether higher is better."""
    _cell_eval2()
    from cell_eval2.catalog import CATALOG
    from cell_eval2.competition import competition_members

    lower = ("mse", "mae", "nmae")
    return {m: not any(part in lower for part in m.split("_")) for m in competition_members() if m in CATALOG}


def cells_of(data: Profiles, names: list[str], profiles: NDArray[np.float64] | None = None) -> AnnData:
    """Log-normalised cells of perturbations and of the control; predicted ones where `profiles` are given, a row per name."""
    import anndata
    import pandas as pd
    from scipy import sparse

    control = data.cells[np.flatnonzero(data.label == data.control_name)]
    parts, labels = [control], [data.control_name] * control.shape[0]
    for i, name in enumerate(names):
        n = data.n_cells[name]
        if profiles is None:
            part = data.cells[np.flatnonzero(data.label == name)]
        else:
            part = _scaled(control[np.arange(n) % control.shape[0]], profiles[i])
        parts.append(part)
        labels += [name] * part.shape[0]
    obs = pd.DataFrame({_KEY: pd.Categorical(labels)}, index=[f"cell {i}" for i in range(len(labels))])
    matrix = sparse.csr_matrix(sparse.vstack(parts), dtype=np.float32)
    return anndata.AnnData(matrix, obs, pd.DataFrame(index=pd.Index(data.genes.astype(str))))


def _scaled(cells: Any, profile: NDArray[np.float64]) -> Any:
    from scipy import sparse

    dense = cells.toarray()
    mean = dense.mean(axis=0)
    wanted = np.maximum(profile, 0)
    # No cell is scaled out of all proportion: what doubling does not reach is added to every cell alike.
    factor = np.minimum(np.divide(wanted, mean, out=np.zeros_like(mean), where=mean > 0), _MOST_SCALED)
    return sparse.csr_matrix(np.maximum(dense * factor + (wanted - mean * factor), 0))


def _config(ce: Any, data: Profiles) -> Any:
    from dataclasses import replace

    measured = set(map(str, data.genes))
    # One gene per label: of a double the first that is measured.
    targets = {n: next((t for t in data.targets(n) if t in measured), None) for n in data.names}
    if not any(targets.values()):
        targets = {"*": None}
    config = replace(
        ce.EvalConfig.from_preset("vcc2026"),
        pert_col=_KEY,
        control=data.control_name,
        input_type="lognorm",
        num_threads=1,
        gather_threads=1,
        device="cpu",
        cache_strict=False,
        target_gene_map=targets,
    )
    return replace(config, de=replace(config.de, backend="scanpy"))


@dataclass(frozen=True)
class _Measured:
    """What cell-eval2 says of a prediction of some perturbations."""

    means: dict[str, float]
    """Metric → its value over them all."""
    each: dict[str, NDArray[np.float64]]
    """Metric, or part of one → that of each perturbation; NaN where there is none."""
    n: int
    """Perturbations."""

    def of(self, metric: str) -> NDArray[np.float64]:
        """The metric of each perturbation (perturbations, 1), or numerator and denominator (perturbations, 2) of a ratio of sums."""
        from cell_eval2.catalog import CATALOG

        ratio = CATALOG[metric].derived
        parts = (metric,) if ratio is None else (ratio.numerator, ratio.denominator)
        nothing = np.full(self.n, np.nan)
        return np.column_stack([self.each.get(part, nothing) for part in parts])


def _over(rows: NDArray[np.float64], axis: int = 0) -> float:
    """A metric over perturbations: the mean, or the ratio of sums; NaN where nothing real is left to divide by."""
    if rows.shape[1] == 1:
        return float(rows.mean())
    above, below = rows.sum(axis=axis)
    return float(above / below) if below > 0 else np.nan


def _gained(rows: NDArray[np.float64], axis: int = 0) -> float:
    """A metric over perturbations minus that of the floor, whose columns come second."""
    own, floor = np.hsplit(rows, 2)
    return _over(own, axis) - _over(floor, axis)


@dataclass(frozen=True)
class _Ends:
    """Where 0 and 1 are over some of the perturbations."""

    floor: _Measured
    ceiling: dict[str, float]
    config: Any
    left_out: str
    """The metric that cannot be had, and not for want of predictions."""
    without: str
    """Why there is no ceiling."""


def _ends(
    ce: Any, data: Profiles, rows: NDArray[np.int64], response: NDArray[np.float64], *, splits: int, seed: int
) -> _Ends:
    from cell_eval2.anchor import compute_replicate_anchor

    real, config = cells_of(data, [data.names[i] for i in rows]), _config(ce, data)
    left_out = without = ""
    ceiling: dict[str, float] = {}
    for _ in range(2):
        try:
            _, anchor = compute_replicate_anchor(real, config=config, n_splits=splits, base_seed=seed)
        except ValueError as error:
            if "lfc_nmae" in str(error) and not left_out:
                # Too few genes change significantly for its error of fold changes; the other five stand.
                left_out = next(m for m in members() if "lfc_nmae" in m)
                config = _without(config, left_out)
                continue
            if len(rows) == len(data.names):
                raise DataError(f"cell-eval2 cannot score these perturbations: {error}") from error
            # A prediction of a few perturbations alone is scored all the same.
            without = (
                f"no ceiling: cell-eval2 makes no replicate of {plural(len(rows), 'perturbation', 'perturbations')}"
            )
        else:
            ceiling = dict(zip(anchor["metric"].to_list(), anchor["replicate"].to_list(), strict=True))
        break
    return _Ends(_measured(ce, data, rows, response, config), ceiling, config, left_out, without)


def _measured(ce: Any, data: Profiles, rows: NDArray[np.int64], values: NDArray[np.float64], config: Any) -> _Measured:
    names = [data.names[i] for i in rows]
    table = ce.compute_metrics(cells_of(data, names, values[rows]), cells_of(data, names), config=config)
    means = ce.aggregate_metrics(table)
    place = {name: i for i, name in enumerate(names)}
    each: dict[str, NDArray[np.float64]] = {}
    for metric, name, value in table.select("metric", "perturbation", "value").iter_rows():
        each.setdefault(metric, np.full(len(names), np.nan))[place[str(name)]] = _number(value)
    return _Measured(dict(zip(means["metric"].to_list(), means["mean"].to_list(), strict=True)), each, len(names))


def _without(config: Any, metric: str) -> Any:
    from dataclasses import replace

    from cell_eval2.catalog import PROFILES

    return replace(config, metrics=[m for m in PROFILES["vcc2026"] if m != metric])


def _missing(metric: str, beside: _Ends, low: float) -> str:
    if metric == beside.left_out:
        return "fewer than 10 genes change significantly in every perturbation"
    without = "" if np.isfinite(low) else "fewer than three perturbations give no interval"
    return "; ".join(filter(None, [without, beside.without]))


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _cell_eval2() -> Any:
    try:
        import cell_eval2
    except ImportError as error:
        raise DataError(
            "The metrics of the Virtual Cell Challenge are computed by the package cell-eval2, which is not installed; install "
            "scfm-lab[science], or leave cell_eval out."
        ) from error
    return cell_eval2
