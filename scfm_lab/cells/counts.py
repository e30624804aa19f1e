"""Find the raw counts in an AnnData, and tell them from what is not counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.cells.sound import checked, in_file, rows_of
from scfm_lab.errors import CountsError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

_COUNT_LAYERS = ("counts", "raw_counts", "count", "spliced_counts")
TOTAL_COLUMN = "total_counts_all_genes"
_INTEGER_TOLERANCE = 1e-3
_PROBE_ROWS = 600
_PROBE_VALUES = 1 << 17
_DENSE_BLOCK = 1 << 24
_MOST = float(np.finfo(np.float32).max)
_NO_MATRIX = "it is no matrix"


@dataclass(frozen=True)
class CountsPlace:
    """Where in an AnnData the raw counts lie."""

    where: str
    """``"X"``, ``"layers['counts']"`` or ``"raw.X"``."""
    matrix: Any
    var: Any
    """The data frame that describes the matrix's columns."""


def find_counts(adata: AnnData, layer: str | None = None) -> CountsPlace:
    """Place of the raw counts, looked for in X, in layers named so, then in ``.raw``.

    Parameters
    ----------
    layer
        A layer's name, or ``"X"`` or ``"raw"``; only that place is looked at.

    Raises
    ------
    CountsError
        If no place holds raw counts; the message says what X looks like.
    DataError
        If the AnnData is empty or the layer does not exist.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DataError(
            f"The AnnData is empty ({adata.n_obs} cells × {adata.n_vars} genes); "
            "load cells before you run a model on them."
        )
    if layer is not None:
        place = named_place(adata, layer)
        fault = describe_fault(place.matrix)
        if fault:
            raise CountsError(f"{place.where} does not hold raw counts: {fault}.{_advice(adata, fault)}")
        return place

    candidates = _candidates(adata)
    if not candidates:
        raise DataError("The AnnData has neither X nor a layer named 'counts'; name the counts with layer=.")
    faults = []
    for place in candidates:
        fault = describe_fault(place.matrix)
        if fault is None:
            return place
        if _is_broken(fault):
            raise CountsError(f"{place.where} cannot be counts: {fault}.{_advice(adata, fault)}")
        faults.append((place.where, fault))
    where, fault = faults[0]
    others = "".join(f"; {w}: {f}" for w, f in faults[1:])
    raise CountsError(f"{where} does not hold raw counts: {fault}{others}.{_advice(adata, fault)}")


def named_place(adata: AnnData, layer: str) -> CountsPlace:
    """A layer, or ``"X"`` or ``"raw"``, whatever it holds.

    Raises
    ------
    DataError
        If it is not there.
    """
    if layer == "X":
        return CountsPlace("X", adata.X, adata.var)
    if layer == "raw":
        if adata.raw is None:
            raise DataError("layer='raw' was asked for, but the AnnData has no .raw.")
        return CountsPlace("raw.X", adata.raw.X, adata.raw.var)
    if layer not in adata.layers:
        known = ", ".join(map(repr, adata.layers)) or "none"
        raise DataError(
            f"The AnnData has no layer {layer!r}; its layers are: {known}." + did_you_mean(layer, adata.layers)
        )
    return CountsPlace(f"layers[{layer!r}]", adata.layers[layer], adata.var)


def _candidates(adata: AnnData) -> list[CountsPlace]:
    found = []
    if adata.X is not None:
        found.append(CountsPlace("X", adata.X, adata.var))
    found += [
        CountsPlace(f"layers[{name!r}]", adata.layers[name], adata.var)
        for name in _COUNT_LAYERS
        if name in adata.layers
    ]
    if adata.raw is not None:
        found.append(CountsPlace("raw.X", adata.raw.X, adata.raw.var))
    return found


def _is_broken(fault: str) -> bool:
    return fault.startswith(("it has NaN", "it has infinite"))


def _advice(adata: AnnData, fault: str) -> str:
    if _is_broken(fault):
        return " Remove or repair those entries first."
    if fault == _NO_MATRIX:
        return " Get the file again, or name a place that holds raw counts with layer=."
    text = " Models need raw counts: keep them before normalising (adata.layers['counts'] = adata.X.copy())"
    if adata.layers:
        text += ", or name the layer that holds them with layer="
    return text + "."


def describe_fault(matrix: Any) -> str | None:
    """What tells that a matrix does not hold raw counts, in words; None if it does.

    The values of up to 600 rows spread over the matrix are looked at here;
    :func:`to_csr` checks every value that is read.
    """
    # What a file holds in a matrix's place may be a group of anything.
    if len(getattr(matrix, "shape", None) or ()) != 2:
        return _NO_MATRIX
    return _fault_of(_sample_values(matrix), total_rows=matrix.shape[0])


def _fault_of(values: np.ndarray, total_rows: int) -> str | None:
    if values.dtype == object or values.dtype.kind not in "biuf":
        return f"its values are of type {values.dtype}, not numbers"
    if values.size == 0:
        return None
    if (
        values.min() >= 0
        and values.max() <= _MOST
        and (values.dtype.kind in "biu" or (np.rint(values) == values).all())
    ):
        return None
    values = values.astype(np.float64, copy=False)
    if np.isnan(values).any():
        return f"it has NaN values ({int(np.isnan(values).sum()):,} in the {total_rows:,} cells looked at)"
    if np.isinf(values).any():
        return f"it has infinite values ({int(np.isinf(values).sum()):,})"
    low, high = float(values.min()), float(values.max())
    if high > _MOST:
        return f"it has values that no count reaches (largest {high:.4g})"
    fractional = np.abs(values - np.rint(values)) > _INTEGER_TOLERANCE
    if low < 0:
        if not fractional.any():
            return f"it has negative values (smallest {low:g})"
        return f"it looks scaled or centred (values from {low:.3g} to {high:.3g})"
    if fractional.any():
        share = float(fractional.mean())
        if high < 20:
            return f"it looks log-normalised ({share:.0%} of the values are not whole, largest {high:.3g})"
        return f"it looks normalised ({share:.0%} of the values are not whole, largest {high:.4g})"
    return None


def _sample_values(matrix: Any) -> np.ndarray:
    import scipy.sparse as sp

    n = matrix.shape[0]
    if n > _PROBE_ROWS:
        # Three contiguous stretches: backed matrices read these fast.
        third = _PROBE_ROWS // 3
        if in_file(matrix) and matrix.format == "csc":
            # Rows would be read out of all of it.
            data = matrix.group["data"]
            m = data.shape[0]
            last = max(0, m - _PROBE_VALUES)
            return np.concatenate([np.asarray(data[a : a + _PROBE_VALUES]) for a in sorted({0, last // 2, last})])
        starts = (0, (n - third) // 2, n - third)
        if sp.issparse(matrix) and matrix.format == "csr":
            return np.concatenate([matrix.data[matrix.indptr[a] : matrix.indptr[a + third]] for a in starts])
        if sp.issparse(matrix):
            checked(matrix, "The matrix")
        return np.concatenate([_sample_values(matrix[a : a + third]) for a in starts])
    if in_file(matrix):
        return np.asarray(rows_of(matrix, slice(0, n)).data)
    block = _in_memory(matrix if isinstance(matrix, np.ndarray) or sp.issparse(matrix) else matrix[0:n])
    return np.asarray(block.data) if sp.issparse(block) else np.asarray(block).ravel()


def to_csr(matrix: Any, rows: slice | np.ndarray | None = None, where: str = "X") -> csr_matrix:
    """Counts of some rows as a canonical CSR matrix of float32, every value checked.

    A new matrix is made; what is in the AnnData stays as it is.

    Raises
    ------
    CountsError
        If a value is negative, NaN, infinite or not whole.
    """
    import scipy.sparse as sp

    try:
        csr = read_csr(matrix, rows)
    except CountsError:
        raise
    except ValueError as e:  # scipy's, of arrays that make no matrix
        raise CountsError(f"{where} is damaged, or of a type that holds no counts: {str(e).rstrip('.')}.") from e
    pointers, columns, data = csr.indptr, csr.indices, csr.data[: csr.nnz]
    if (np.diff(pointers) < 0).any():
        raise CountsError(f"{where} is damaged: its rows end before they begin.")
    values, own_columns = np.empty(csr.nnz, np.float32), np.empty_like(columns[: csr.nnz])

    def block(first: int, last: int) -> tuple[bool, bool]:
        part = slice(pointers[first], pointers[last])
        own_columns[part] = here = columns[part]
        if len(here) and not (here.min() >= 0 and here.max() < csr.shape[1]):
            raise CountsError(f"{where} is damaged: it names columns that it does not have.")
        rising = here[1:] > here[:-1]
        starts = pointers[first + 1 : last] - pointers[first]
        rising[starts[(starts > 0) & (starts < len(here))] - 1] = True  # the next row begins where it likes
        return _take_whole(data[part], values[part]), bool(rising.all())

    found = over_blocks(block, np.diff(pointers))
    whole = all(fine for fine, _ in found)
    if not whole:
        # Something that is not a positive whole number: a fault, rounding, or a zero that was stored.
        fault = _fault_of(data, csr.shape[0])
        if fault:
            raise CountsError(f"{where} does not hold raw counts: {fault}.")
        np.rint(data.astype(np.float32), out=values)
    counts = sp.csr_matrix((values, own_columns, pointers.copy()), shape=csr.shape)
    if not all(rising for _, rising in found):
        counts.sum_duplicates()
    if not whole:
        counts.eliminate_zeros()
    # scipy would look again.
    counts.has_canonical_format = True
    return counts


def _take_whole(values: np.ndarray, out: np.ndarray) -> bool:
    """Copy values; False if one is not a positive whole number."""
    if values.dtype.kind not in "biuf":
        return False
    with np.errstate(over="ignore"):  # found below, and told
        out[:] = values
    if not len(values):
        return True
    whole = values if values.dtype.kind in "biu" else np.rint(values)
    return bool(whole.min() > 0 and np.isfinite(out.max()) and (whole is values or (whole == values).all()))


def read_csr(matrix: Any, rows: slice | np.ndarray | None = None, *, where: str = "The matrix") -> csr_matrix:
    """Some rows of a matrix in memory, in an HDF5 file, in Zarr or of Dask, as CSR with values as they are.

    A dense matrix is read a few rows at a time, so that its zeros are never all in memory.
    """
    import scipy.sparse as sp

    if sp.issparse(matrix):
        # What lies by rows is looked at when its values are; what lies by columns, before it is turned.
        sound = checked(matrix, where) if matrix.format == "csc" else matrix
        return sp.csr_matrix(sound if rows is None else sound[rows])
    n = matrix.shape[0]
    if in_file(matrix):
        return sp.csr_matrix(rows_of(matrix, rows))
    if isinstance(rows, np.ndarray):
        return sp.csr_matrix(_in_memory(matrix[rows]))
    start, stop, _ = (rows or slice(None)).indices(n)
    # Dask reads whole chunks of its own; asked for pieces of them, it would read each several times.
    step = n if hasattr(matrix, "compute") else max(1, _DENSE_BLOCK // max(1, matrix.shape[1]))
    blocks = [sp.csr_matrix(_in_memory(matrix[a : min(a + step, stop)])) for a in range(start, stop, step)]
    if not blocks:
        return sp.csr_matrix((0, matrix.shape[1]), dtype=np.float32)
    return blocks[0] if len(blocks) == 1 else sp.csr_matrix(sp.vstack(blocks, format="csr"))


def _in_memory(block: Any) -> Any:
    import scipy.sparse as sp

    if hasattr(block, "compute"):
        block = block.compute()
    if hasattr(block, "to_memory"):
        block = block.to_memory()
    if sp.issparse(block):
        return block
    block = np.asarray(block)
    # scipy makes no sparse matrix of these: half precision, and the byte order of another machine.
    if block.dtype.kind == "f" and block.dtype.itemsize == 2:
        return block.astype(np.float32)
    return block if block.dtype.isnative else block.astype(block.dtype.newbyteorder("="))


def library_sizes(obs: pd.DataFrame, counts: csr_matrix) -> np.ndarray:
    """Counts of each cell over all genes, float64.

    ``obs["total_counts_all_genes"]`` is taken where it is there: a panel of genes
    holds only part of a cell's counts.

    Raises
    ------
    DataError
        If that column is not numeric, has NaN, or is smaller than the counts seen.
    """
    seen = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    if TOTAL_COLUMN not in obs:
        return seen
    try:
        total = np.asarray(obs[TOTAL_COLUMN], dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"obs[{TOTAL_COLUMN!r}] is not numeric; repair or drop that column.") from None
    bad = ~np.isfinite(total) | (total < seen - 0.5)
    if bad.any():
        raise DataError(
            f"obs[{TOTAL_COLUMN!r}] is missing or below the counts that are there in {int(bad.sum()):,} cells; "
            "it must be each cell's count over all genes. Repair or drop that column."
        )
    return total
