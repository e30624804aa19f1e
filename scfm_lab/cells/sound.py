"""Sparse matrices out of files: looked at before anything follows their pointers, which could lead anywhere in memory.

scipy follows the pointers and indices of a matrix without a look at them when it takes rows of it or turns columns into rows;
those of a damaged file make it write where it should not, or end the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import CountsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Counts of the columns that are in memory at once.
_BLOCK = 1 << 22


def fault(matrix: Any) -> str | None:
    """What is wrong with the pointers or indices of a CSR or CSC matrix in memory, in words; None where all is well."""
    by_rows = matrix.format == "csr"
    major, minor = matrix.shape if by_rows else matrix.shape[::-1]
    own, other = ("rows", "columns") if by_rows else ("columns", "rows")
    pointers = np.asarray(matrix.indptr)
    if len(pointers) != major + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        return f"its {own} end before they begin"
    if pointers[-1] > min(len(matrix.indices), len(matrix.data)):
        return f"its {own} end behind its values"
    used = matrix.indices[: pointers[-1]]
    if len(used) and (used.min() < 0 or used.max() >= minor):
        return f"it names {other} that it does not have"
    return None


def checked(matrix: Any, where: str) -> Any:
    """Return a sparse matrix in memory; only CSR and CSC have pointers that are looked at.

    Raises
    ------
    CountsError
        They lead out of the matrix.
    """
    wrong = fault(matrix) if matrix.format in ("csr", "csc") else None
    if wrong:
        raise CountsError(f"{where} is damaged: {wrong}. Get the file again.")
    return matrix


def in_file(matrix: Any) -> bool:
    """Whether a matrix is a sparse one that lies in HDF5 or Zarr."""
    return getattr(matrix, "format", None) in ("csr", "csc") and hasattr(matrix, "group")


def rows_of(matrix: Any, rows: slice | NDArray[Any] | None) -> Any:
    """Some rows of a sparse matrix in a file, checked; of one that lies there by columns, all is read, some columns at a time.

    Raises
    ------
    CountsError
        The matrix in the file is damaged.
    """
    try:
        if matrix.format == "csc" and rows is not None:
            return _picked(matrix, rows)
        return checked(matrix.to_memory() if rows is None else matrix[rows], _place(matrix))
    except CountsError:
        raise
    except ValueError as error:
        if not matrix.group:  # of a file that was closed
            raise
        # scipy's, of arrays that make no matrix
        raise CountsError(f"{_place(matrix)} is damaged: {str(error).rstrip('.')}. Get the file again.") from error


def _picked(matrix: Any, rows: slice | NDArray[Any]) -> Any:
    """Some rows of a matrix that lies in a file by columns; never more of it in memory than a block of columns."""
    from scipy import sparse

    group, (n, columns) = matrix.group, matrix.shape
    pointers = np.asarray(group["indptr"][:], dtype=np.int64)
    frame = sparse.csc_matrix((n, columns), dtype=group["data"].dtype)
    if len(pointers) != columns + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        raise CountsError(f"{_place(matrix)} is damaged: its columns end before they begin. Get the file again.")
    if pointers[-1] > min(group["indices"].shape[0], group["data"].shape[0]):
        raise CountsError(f"{_place(matrix)} is damaged: its columns end behind its values. Get the file again.")
    blocks, first = [frame[rows][:, :0].tocsc()], 0
    while first < columns:
        last = max(int(np.searchsorted(pointers, pointers[first] + _BLOCK, side="right")) - 1, first + 1)
        part = slice(int(pointers[first]), int(pointers[last]))
        block = sparse.csc_matrix((n, last - first), dtype=group["data"].dtype)
        # Set, not given: what makes a matrix looks at all of it, in words of its own.
        block.data, block.indices = np.asarray(group["data"][part]), np.asarray(group["indices"][part])
        block.indptr = (pointers[first : last + 1] - pointers[first]).astype(block.indices.dtype)
        blocks.append(checked(block, _place(matrix))[rows].tocsc())
        first = last
    return sparse.hstack(blocks, format="csr")


def _place(matrix: Any) -> str:
    group = matrix.group
    file = getattr(group, "file", None)
    return f"{group.name} of {group.store if file is None else file.filename}"
