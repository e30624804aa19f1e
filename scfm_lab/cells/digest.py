"""Digests of cells, and random numbers that depend on nothing but a cell, a gene and a seed.

A cell's digest is a commutative sum over its (gene, count) pairs, so that it does not
change with the order of cells or of genes, nor with the matrix format. Random numbers
are hashed from it (counter-based, as in Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"), so that a cell meets the same numbers in every batch and every run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells.blocks import over_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64's finaliser: a bijection on 64 bits that scatters near inputs."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return x ^ (x >> np.uint64(31))


def hash_names(names: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit hash of each gene name, the same on every machine and in every process."""
    return np.fromiter(
        (int.from_bytes(hashlib.blake2b(str(n).encode(), digest_size=8).digest(), "little") for n in names),
        dtype=np.uint64,
    )


def cell_keys(counts: csr_matrix, gene_hashes: NDArray[np.uint64], salt: int = 0) -> NDArray[np.uint64]:
    """Digest of each row of a canonical CSR matrix of counts.

    Parameters
    ----------
    counts
        Raw counts, cells × genes, without explicit zeros.
    gene_hashes
        One hash per column (:func:`hash_names`).
    salt
        Another salt gives an independent digest; two of them make 128 bits.

    Returns
    -------
    ndarray of uint64, shape (cells,)
    """
    from scfm_lab.cells.hashing import digest_rows

    sums = np.empty(counts.shape[0], np.uint64)
    arrays = counts.indptr, counts.indices, counts.data, gene_hashes, np.uint64(salt)
    over_blocks(lambda first, last: digest_rows(first, last, *arrays, sums), np.diff(counts.indptr))
    return mix64(sums ^ np.uint64(salt))


def _mix_in_place(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """:func:`mix64` without temporaries but one."""
    shifted = np.empty_like(x)
    with np.errstate(over="ignore"):
        x += _GOLDEN
        for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
            np.right_shift(x, np.uint64(shift), out=shifted)
            x ^= shifted
            x *= factor
        np.right_shift(x, np.uint64(31), out=shifted)
        x ^= shifted
    return x


def cell_stream(cells: NDArray[np.uint64], seed: int, stream: int) -> NDArray[np.uint64]:
    """What the numbers of a cell's genes are hashed from: the cell's digest, the seed and the stream, mixed."""
    with np.errstate(over="ignore"):
        key = mix64(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)) + mix64(
            np.asarray([stream], np.uint64) ^ _MIX_1
        )
        return mix64(np.asarray(cells, np.uint64) ^ key)


def ragged_uniforms(
    cells: NDArray[np.uint64], lengths: NDArray[np.integer], genes: NDArray[np.uint64], seed: int, stream: int = 0
) -> NDArray[np.float64]:
    """The numbers of :func:`uniforms` for ragged entries: `genes` holds `lengths` hashes for each cell, one cell after the other."""
    x = np.repeat(cell_stream(cells, seed, stream), lengths)
    x ^= genes
    _mix_in_place(x)
    x >>= np.uint64(11)
    out = x.astype(np.float64)
    out += 0.5
    out *= 2.0**-53
    return out


def uniforms(cells: NDArray[np.uint64], genes: NDArray[np.uint64], seed: int, stream: int = 0) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), one per broadcast pair of cell digest and gene hash.

    `stream` keeps apart the numbers that one gene of one cell needs for several
    purposes (draws of a dose, ties of a tokeniser).
    """
    x = mix64(cell_stream(cells, seed, stream) ^ np.asarray(genes, np.uint64))
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
