"""What scBERT reads of a cell: a bin for every gene of the model, expressed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.performer_inputs import before_and_now, library_sizes
from scfm_lab.models.tokens import Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

MIN_GENES = 200
"""Cells with fewer genes are left out by the reference."""
SCALE = 1e4


def tokenize(
    cells: Cells, match: Match, n_genes: int, bin_num: int, *, like_reference: bool, batch_size: int
) -> Tokens:
    """Tokens of cells: the bin of gene j at position j, and 0 at one more position.

    Parameters
    ----------
    like_reference
        Leave out cells with fewer than 200 genes, and take the sum over the model's genes for the library size.
    batch_size
        Cells that the reference would run together.
    """
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}; at least one cell is run at a time.")
    before, now = before_and_now(cells, match, n_genes)
    values = log2_normalised(now, library_sizes(cells, before, like_reference=like_reference))
    n, length = len(cells), n_genes + 1
    ids = np.zeros((n, length), dtype=np.int64)
    rows = np.repeat(np.arange(n), np.diff(now.indptr))
    ids[rows, now.indices] = np.minimum(values.data, bin_num).astype(np.int64)
    left_out = np.diff(before.indptr) < (MIN_GENES if like_reference else 0)
    return Tokens(
        ids=ids.ravel(),
        values=None,
        offsets=np.arange(n + 1, dtype=np.int64) * length,
        cell={
            "n_genes": np.where(left_out, 0, np.diff(now.indptr)),
            "left_out": left_out,
            "together": np.full(n, batch_size if like_reference else 1, dtype=np.int64),
        },
        measured=np.unique(match.ids),
    )


def log2_normalised(counts: csr_matrix, total: NDArray[np.float64]) -> csr_matrix:
    """log2(1 + counts / library size × 10,000), float32, rounded at each step as the reference rounds.

    Bins are the whole parts of these values, so that a value at a bin's edge must not fall on the
    other side: quotient and log1p are float32, the division by ln 2 is float64.
    """
    scale = (total.astype(np.float32) / np.float32(SCALE)).astype(np.float32)
    scale[scale == 0] = 1
    out = counts.copy().astype(np.float32)
    data = np.log1p(out.data / np.repeat(scale, np.diff(out.indptr)))
    out.data = (data.astype(np.float64) / np.log(2)).astype(np.float32)
    return out
