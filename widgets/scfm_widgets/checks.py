"""What a person may hand to the bench, checked: cells, selections, results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import MOST_GROUPS, group_column
from scfm_lab.errors import CountsError, DataError, plural

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes


def check_adata(adata: Any) -> None:
    """Check that it is an AnnData with something in it.

    Raises
    ------
    DataError
        It is not, or it is empty.
    """
    for name in ("obs", "var_names", "obsm", "n_obs"):
        if not hasattr(adata, name):
            message = f"Lab needs an AnnData; it was given a {type(adata).__name__}."
            raise DataError(message)
    if adata.n_obs == 0 or adata.n_vars == 0:
        message = f"The AnnData is empty ({adata.n_obs} cells, {adata.n_vars} genes); there is nothing to show."
        raise DataError(message)


def check_groupby(adata: AnnData, name: str) -> None:
    """Refuse a column that is not there or that holds no groups; one with gaps is kept, and cells are not told apart by it.

    Raises
    ------
    DataError
        In words.
    """
    if name not in adata.obs or not adata.obs[name].isna().any():
        group_column(adata, name)


def groups_or_gaps(adata: AnnData, name: str | None) -> bool:
    """Whether :func:`check_groupby` takes a column."""
    if name is None:
        return False
    try:
        check_groupby(adata, name)
    except DataError:
        return False
    return True


def has_groups(adata: AnnData, name: str) -> bool:
    """Whether effects can be told for the values of a column of ``obs``."""
    try:
        group_column(adata, name)
    except DataError:
        return False
    return True


def why_no_groups(adata: AnnData, name: str) -> str:
    """Why effects cannot be told for the values of a column of labels, in a few words; nothing where they can."""
    if has_groups(adata, name):
        return ""
    column = adata.obs[name]
    missing = int(column.isna().sum())
    if missing:
        return f"{plural(missing, 'cell has', 'cells have')} no value"
    return f"holds {column.nunique():,} groups, more than {MOST_GROUPS}"


def genes_of(adata: AnnData) -> Genes:
    """The genes that a dose can be given: those of the raw counts."""
    from scfm_lab.cells.genes import Genes
    from scfm_lab.cells.reader import CellReader

    try:
        return CellReader.open(adata).genes
    except (CountsError, DataError):
        # Without raw counts no model runs, which it says itself; the names are those that are shown.
        return Genes.from_var(adata.var)


def as_mask(value: Any, adata: AnnData) -> NDArray[np.bool_]:
    """A selection from a mask, positions or names of cells.

    Raises
    ------
    DataError
        It fits none of these.
    """
    mask = np.zeros(adata.n_obs, dtype=bool)
    if value is None:
        return mask
    given = np.asarray(value)
    if given.size == 0:
        return mask
    if given.ndim != 1:
        message = f"A selection is one-dimensional; this one has shape {given.shape}."
        raise DataError(message)
    if given.dtype == bool:
        if len(given) != adata.n_obs:
            message = f"The mask has {len(given):,} values, the bench {adata.n_obs:,} cells."
            raise DataError(message)
        return given.copy()
    if np.issubdtype(given.dtype, np.integer):
        if given.min() < -adata.n_obs or given.max() >= adata.n_obs:
            message = f"Positions must lie below {adata.n_obs:,}; the largest is {given.max():,}."
            raise DataError(message)
        mask[given] = True
        return mask
    rows = adata.obs_names.get_indexer(given.astype(str))
    if (rows < 0).any():
        unknown = str(given[int(np.argmax(rows < 0))])
        message = (
            f"There is no cell {unknown!r} in obs_names ({int((rows < 0).sum()):,} of {len(given):,} are unknown)."
        )
        raise DataError(message)
    mask[rows] = True
    return mask


def task_of(result: Any, n: int) -> str:
    """Say which task a result is of.

    Parameters
    ----------
    result
        Of ``sl.embed``, ``sl.perturb`` or ``sl.trajectory``.
    n
        How many cells there are.

    Raises
    ------
    DataError
        It is none of these, or it is of other cells.
    """
    from scfm_lab.tasks.compare import CompareResult
    from scfm_lab.tasks.embed import EmbedResult
    from scfm_lab.tasks.perturb_result import PerturbResult
    from scfm_lab.tasks.screen_result import ScreenResult
    from scfm_lab.tasks.trajectory import TrajectoryResult

    if isinstance(result, EmbedResult):
        task, cells = "embed", len(result.vectors)
    elif isinstance(result, PerturbResult):
        task, cells = "perturb", len(result.shift)
    elif isinstance(result, TrajectoryResult):
        task, cells = "trajectory", len(result.pseudotime)
    elif isinstance(result, ScreenResult):
        # A screen may be of some of the cells.
        task, cells = "screen", n
    elif isinstance(result, CompareResult):
        task, cells = "compare", len(result.overlap)
    else:
        message = f"The bench shows results of sl.embed, sl.perturb, sl.screen, sl.trajectory and of comparisons, not a {type(result).__name__}."
        raise DataError(message)
    if cells != n:
        message = f"The result has {cells:,} cells, the bench {n:,}; they must be the same cells."
        raise DataError(message)
    return task
