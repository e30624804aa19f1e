"""The hashes of :mod:`scfm_lab.cells.digest`, compiled, for loops that take one count at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from scfm_lab.cells.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31 = (np.uint64(bits) for bits in (11, 27, 30, 31))


@compiled
def mix(x: Any) -> Any:
    """Splitmix64's finaliser of a uint64, as :func:`scfm_lab.cells.digest.mix64`."""
    x += _GOLDEN
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@compiled
def uniform(x: Any) -> Any:
    """The number in (0, 1) of a uint64, as :func:`scfm_lab.cells.digest.uniforms`."""
    return (np.float64(mix(x) >> _11) + 0.5) * 2.0**-53


@compiled
def digest_rows(first: int, last: int, indptr: Any, indices: Any, data: Any, hashes: Any, salt: Any, out: Any) -> None:
    """Sum over each row's (column, value) pairs of their hashes, into ``out`` (uint64)."""
    value = np.empty(1)
    bits = value.view(np.uint64)
    for row in range(first, last):
        total = np.uint64(0)
        for at in range(indptr[row], indptr[row + 1]):
            value[0] = data[at]
            total += mix(mix(bits[0] + salt) ^ hashes[indices[at]])
        out[row] = total
