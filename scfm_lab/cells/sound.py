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
    """Some rows of a sparse matrix in a file, checked; of one that lies there by columns, all is read first.

    Raises
    ------
    CountsError
        The matrix in the file is damaged.
    """
    whole = matrix.format == "csc" or rows is None
    try:
        block = matrix.to_memory() if whole else matrix[rows]
    except ValueError as error:
        if not matrix.group:  # of a file that was closed
            raise
        # scipy's, of arrays that make no matrix
        raise CountsError(f"{_place(matrix)} is damaged: {str(error).rstrip('.')}. Get the file again.") from error
    checked(block, _place(matrix))
    return block[rows] if whole and rows is not None else block


def _place(matrix: Any) -> str:
    group = matrix.group
    file = getattr(group, "file", None)
    return f"{group.name} of {group.store if file is None else file.filename}"
