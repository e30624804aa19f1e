"""Tokenisers' inner loops, compiled: each takes some cells from their counts to their tokens in one pass.

Counts come as the three arrays of a CSR matrix whose indices are in range; ``place`` is the token id of each column, -1 where
the model does not know it. Results are written into arrays of the caller, so that threads can take cells side by side.
No sum is re-ordered and no product fused, so that every number is what numpy gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scfm_lab.cells.compiled import compiled
from scfm_lab.cells.hashing import uniform

_33 = np.uint64(33)
_NO_SIGN = np.uint32(0x7FFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_SMALL = 64
"""Whole counts below are counted, the few above sorted."""
_BUCKETS = 1 << 11
_LOWER, _UPPER, _DIGIT = np.uint64(42), np.uint64(53), np.uint64(_BUCKETS - 1)


@compiled
def known_lengths(first: int, last: int, indptr: Any, indices: Any, known: Any, lengths: Any) -> None:
    """How many counts of each cell lie in columns that are ``known`` (uint8, 0 or 1), into ``lengths``."""
    for cell in range(first, last):
        n = 0
        for at in range(indptr[cell], indptr[cell + 1]):
            n += known[indices[at]]
        lengths[cell] = n


# --- scGPT: bins ------------------------------------------------------------------------


@compiled
def _sort_few(values: Any, n: int) -> None:
    """The first values, ascending (Shell's sort)."""
    gap = n // 2
    while gap > 0:
        for i in range(gap, n):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
        gap = gap // 2 if gap < 5 else gap * 5 // 11


@compiled
def _sorted_known(begin: int, end: int, indices: Any, data: Any, place: Any, others: Any, ordered: Any) -> int:
    """The known counts of one cell, ascending, into ``ordered``; how many there are."""
    seen = np.zeros(_SMALL, np.int64)
    few = 0
    for at in range(begin, end):
        if place[indices[at]] >= 0:
            x = data[at]
            if x < _SMALL and x == np.floor(x):
                seen[int(x)] += 1
            else:
                others[few] = x
                few += 1
    _sort_few(others, few)
    n = taken = 0
    for value in range(_SMALL):
        while taken < few and others[taken] < value:
            ordered[n] = others[taken]
            n, taken = n + 1, taken + 1
        for _ in range(seen[value]):
            ordered[n] = value
            n += 1
    while taken < few:
        ordered[n] = others[taken]
        n, taken = n + 1, taken + 1
    return n


@compiled
def bin_cells(
    first: int,
    last: int,
    counts: Any,
    origin: Any,
    is_origin: bool,
    place: Any,
    hashes: Any,
    tie_keys: Any,
    sample_keys: Any,
    weakest: Any,
    quantiles: Any,
    cls_id: int,
    cls_value: float,
    offsets: Any,
    ids: Any,
    values: Any,
    lost: Any,
) -> None:
    """Tokens and bins of scGPT, of the cells `first` to `last`.

    Parameters
    ----------
    counts, origin
        (indptr, indices, data), of the cells and of the unperturbed ones, at whose quantiles is cut.
    is_origin
        Whether these are the same.
    hashes
        uint64 of each column.
    tie_keys, sample_keys
        uint64 of each cell, from which the numbers of its genes are hashed.
    weakest
        uint64 of each cell: a gene whose score (44 bits) is above is not sampled; the largest number: all are read.
    quantiles
        float64, where edges lie.
    offsets
        int64 (cells + 1,) of the tokens, ``<cls>`` among them.
    ids, values, lost
        To be filled: int64 and float32 of each token; float32 of each cell, the share of known counts not sampled.
    """
    indptr, indices, data = counts
    o_indptr, o_indices, o_data = origin
    longest = 0
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell], o_indptr[cell + 1] - o_indptr[cell])
    others, ordered = np.empty(longest, np.float32), np.empty(longest, np.float32)
    edges = np.empty(len(quantiles))
    below, upto = np.empty(_SMALL + 1, np.int64), np.empty(_SMALL + 1, np.int64)
    everything = ~np.uint64(0)

    for cell in range(first, last):
        begin, end = indptr[cell], indptr[cell + 1]
        n = _sorted_known(o_indptr[cell], o_indptr[cell + 1], o_indices, o_data, place, others, ordered)
        if n == 0:
            # A cell that saw nothing before it was perturbed has no edges of its own: those of the copy.
            n = _sorted_known(begin, end, indices, data, place, others, ordered)
        below[:] = 0
        upto[:] = 0
        if n > 0:
            for i in range(len(quantiles)):
                virtual = (n - 1) * quantiles[i]
                under = int(np.floor(virtual))
                gamma = virtual - under
                left, right = ordered[under], ordered[min(under + 1, n - 1)]
                step = right - left
                edge = left + step * gamma if gamma < 0.5 else right - step * (1 - gamma)
                edges[i] = edge
                if edge < _SMALL:
                    below[int(np.floor(edge)) + 1] += 1
                    upto[int(np.ceil(edge))] += 1
            for i in range(_SMALL):
                below[i + 1] += below[i]
                upto[i + 1] += upto[i]

        to = offsets[cell]
        ids[to], values[to] = cls_id, cls_value
        tie_key, sample_key, limit = tie_keys[cell], sample_keys[cell], weakest[cell]
        all_counts = kept_counts = 0.0
        for at in range(begin, end):
            column = indices[at]
            token = place[column]
            if token < 0:
                continue
            x = data[at]
            all_counts += x
            if limit != everything and np.uint64(uniform(sample_key ^ hashes[column]) * 2.0**44) > limit:
                continue
            kept_counts += x
            if x < _SMALL and x == np.floor(x):
                low, high = below[int(x)], upto[int(x)]
            else:
                low = high = 0
                for edge in edges:
                    low += edge < x
                    high += edge <= x
            if not is_origin:
                # Below the unperturbed cell's lowest count there is no bin; a copy's count there gets the lowest.
                high = max(high, 1)
            to += 1
            ids[to] = token
            if low == high:
                values[to] = high
            else:
                values[to] = np.ceil(uniform(tie_key ^ hashes[column]) * (low - high) + high)
        lost[cell] = 1 - kept_counts / max(all_counts, 1.0) if kept_counts < all_counts else 0


# --- Geneformer: ranks ------------------------------------------------------------------


@compiled
def _sort_keys(keys: Any, spare: Any, n: int, seen: Any) -> None:
    """The first keys by their bits 42 to 63, ascending: a radix sort of two passes.

    ``seen`` holds how many keys have each value of the lower, and of the upper, half of these bits.
    """
    for digit in range(2):
        total = 0
        for bucket in range(_BUCKETS):
            total, seen[digit, bucket] = total + seen[digit, bucket], total
        shift = _LOWER if digit == 0 else _UPPER
        for i in range(n):
            bucket = (keys[i] >> shift) & _DIGIT
            spare[seen[digit, bucket]] = keys[i]
            seen[digit, bucket] += 1
        keys, spare = spare, keys


@compiled
def _sort_ties(order: Any, begin: int, end: int, strength: Any, tokens: Any) -> None:
    """Entries of nearly equal strength by the exact one, falling, then by token and place (Shell's sort)."""
    gap = (end - begin) // 2
    while gap > 0:
        for i in range(begin + gap, end):
            entry, j = order[i], i
            while j >= begin + gap:
                other = order[j - gap]
                ahead = tokens[other] < tokens[entry] or (tokens[other] == tokens[entry] and other < entry)
                if strength[other] > strength[entry] or (strength[other] == strength[entry] and ahead):
                    break
                order[j] = other
                j -= gap
            order[j] = entry
        gap = gap // 2 if gap < 5 else gap * 5 // 11


@compiled
def rank_cells(
    first: int,
    last: int,
    counts: Any,
    place: Any,
    scale: Any,
    share: Any,
    target: Any,
    least: Any,
    least_token: Any,
    offsets: Any,
    head: int,
    tail: int,
    ids: Any,
    lengths: Any,
    lost: Any,
    strengths: Any,
    ranked_counts: Any,
) -> None:
    """Genes of the cells `first` to `last`, the strongest first.

    Parameters
    ----------
    counts
        (indptr, indices, data).
    scale
        float64 of each column: 1 / median of its gene.
    share
        1 / total of each cell, in the precision in which totals are given.
    target
        Counts to which cells are scaled, in the same precision.
    least, least_token
        Of each cell: genes that rank behind this strength and token are left out.
    offsets
        int64 (cells + 1,): a cell has room for as many tokens, the first `head` and the last `tail` of which are not genes.
    ids, lengths, lost
        To be filled: int64 of each gene at its place; int64 and float32 of each cell, the genes written, and the share of
        known counts left out.
    strengths, ranked_counts
        To be filled as `ids`, float64 and float32; empty: not wanted.
    """
    indptr, indices, data = counts
    longest = 0
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    keys, spare = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    order, tokens = np.empty(longest, np.int64), np.empty(longest, np.int32)
    strength, rounded = np.empty(longest), np.empty(1, np.float32)
    bits = rounded.view(np.uint32)
    seen = np.empty((2, _BUCKETS), np.int32)
    wanted = len(strengths) > 0

    for cell in range(first, last):
        begin = indptr[cell]
        n = 0
        all_counts = kept_counts = 0.0
        seen[:] = 0
        for entry in range(indptr[cell + 1] - begin):
            column, x = indices[begin + entry], data[begin + entry]
            token = place[column]
            if token < 0:
                continue
            all_counts += x
            value = np.float64(x * share[cell] * target) * scale[column]
            if value < least[cell] or (value == least[cell] and token > least_token[cell]):
                continue
            tokens[entry], strength[entry] = token, value
            # Positive floats sort as their bits do, the complement falling; the sign is no news.
            rounded[0] = value
            key = (np.uint64(~bits[0] & _NO_SIGN) << _33) | np.uint64(entry)
            keys[n] = key
            seen[0, (key >> _LOWER) & _DIGIT] += 1
            seen[1, key >> _UPPER] += 1
            n += 1
        _sort_keys(keys, spare, n, seen)
        # Keys that agree in these 22 bits are few, and looked at again.
        i = 0
        while i < n:
            order[i] = np.int64(keys[i] & _LOW)
            j = i + 1
            while j < n and keys[j] >> _LOWER == keys[i] >> _LOWER:
                order[j] = np.int64(keys[j] & _LOW)
                j += 1
            if j - i > 1:
                _sort_ties(order, i, j, strength, tokens)
            i = j
        to = offsets[cell] + head
        lengths[cell] = min(n, offsets[cell + 1] - tail - to)
        for i in range(lengths[cell]):
            entry = order[i]
            ids[to + i] = tokens[entry]
            kept_counts += data[begin + entry]
            if wanted:
                strengths[to + i], ranked_counts[to + i] = strength[entry], data[begin + entry]
        lost[cell] = 1 - kept_counts / max(all_counts, 1.0) if kept_counts < all_counts else 0
