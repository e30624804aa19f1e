"""TranscriptFormer's tokens: the expressed genes of a cell in an order, with clipped counts.

The model reads genes one after the other, so that their order is part of its input. The
reference takes the columns as they stand in the file; so does the default here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.digest import uniforms
from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match

_SHUFFLE = 0x7F01


@dataclass(frozen=True)
class GeneTokens:
    """Expressed genes of some cells, flat: one cell's after those of the other."""

    genes: NDArray[np.int64]
    """Number of each gene in the vocabulary, without the special tokens."""
    counts: NDArray[np.float32]
    lengths: NDArray[np.int64]
    inputs: NDArray[np.int64]
    """How many of a cell's genes the model reads: all but the last of a full cell, which is only predicted."""
    expressed: NDArray[np.int64]
    """Known genes that each cell expresses, before it is cut."""
    lost: NDArray[np.float32]
    """Share of the counts on known genes that is cut off."""


def check_reading(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other, or that no count could be read with.

    Raises
    ------
    ModelError
        Naming the option.
    """
    if options["sort_genes"] and options["randomize_genes"]:
        raise ModelError("sort_genes and randomize_genes ask for two orders of the same genes; choose one.")
    clip, scale = options["clip_counts"], options["normalize_to_scale"]
    if clip is not None and not clip > 0:
        raise ModelError(
            f"clip_counts is {clip}, above which no count is read; give a positive number, or None to clip nothing."
        )
    if not 0 <= scale < np.inf:
        raise ModelError(
            f"normalize_to_scale is {scale}; give the sum that counts are scaled to, or 0 to leave them as they are."
        )
    if options["min_expressed_genes"] < 0:
        raise ModelError(f"min_expressed_genes is {options['min_expressed_genes']}; it is at least 0.")


def gene_tokens(cells: Cells, match: Match, options: Mapping[str, Any], seq_len: int, seed: int) -> GeneTokens:
    """Order, cut, scale and clip the counts.

    A perturbed copy keeps what its cell keeps: genes that were cut off stay away, the gene that
    is only predicted stays only predicted, a gene that was silent before comes in addition, and
    counts are scaled by the unperturbed sum.

    Parameters
    ----------
    options
        ``gene_order``, ``sort_genes``, ``randomize_genes``, ``normalize_to_scale``,
        ``clip_counts``, ``like_reference``; as in the model's spec.
    seq_len
        Genes that are read.
    """
    ranks, genes = _ranks(match, options["gene_order"])
    counts = _by_rank(cells.counts, match.columns, ranks, len(genes))
    before = counts if cells.baseline is None else _by_rank(cells.baseline.counts, match.columns, ranks, len(genes))
    order = _order(counts, genes, cells, options, seed)
    expressed = np.diff(counts.indptr).astype(np.int64)
    n_before = np.diff(before.indptr).astype(np.int64)
    keep = np.ones(len(order), dtype=bool)
    last = np.zeros(len(order), dtype=bool)
    full = n_before >= seq_len
    if full.any():
        cut = _cut(before, _order(before, genes, cells, options, seed), seq_len)
        columns = counts.indices[order]
        rows = np.repeat(np.arange(len(expressed)), expressed)
        state = np.asarray(cut[rows, columns]).ravel()
        keep, last = state != _AWAY, state == _LAST
        # What is only predicted stands behind everything that is read.
        again = np.lexsort((np.arange(len(order)), last, rows))
        order, keep, last = order[again], keep[again], last[again]
    lengths = (
        np.add.reduceat(np.append(keep, False).astype(np.int64), counts.indptr[:-1]) if len(expressed) else expressed
    )
    lengths = np.where(expressed > 0, lengths, 0)
    n_last = (
        np.add.reduceat(np.append(last, False).astype(np.int64), counts.indptr[:-1]) if len(expressed) else expressed
    )
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    picked = order[keep]
    values = counts.data[picked].astype(np.float32)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    kept = np.bincount(rows, weights=values, minlength=len(lengths))
    if options["normalize_to_scale"] > 0:
        values = _scaled(
            values, rows, before, n_before, cut if full.any() else None, float(options["normalize_to_scale"])
        )
    if options["clip_counts"] is not None:
        values = np.clip(values, 0, np.float32(options["clip_counts"]))
    return GeneTokens(
        genes=genes[counts.indices[picked]],
        counts=values,
        lengths=lengths,
        inputs=lengths - np.where(expressed > 0, n_last, 0),
        expressed=expressed,
        lost=np.where(lengths < expressed, 1 - kept / np.maximum(total, 1e-9), 0).astype(np.float32),
    )


_AWAY, _LAST = 1, 2


def _ranks(match: Match, gene_order: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of each matched column, and the gene of each rank; columns of one gene share the first one's rank."""
    genes, first, inverse = np.unique(match.ids, return_index=True, return_inverse=True)
    if gene_order == "vocabulary":
        return inverse.astype(np.int64), genes
    by_column = np.argsort(first, kind="stable")
    rank = np.empty(len(genes), np.int64)
    rank[by_column] = np.arange(len(genes))
    return rank[inverse], genes[by_column]


def _by_rank(counts: csr_matrix, columns: NDArray[np.int64], ranks: NDArray[np.int64], n: int) -> csr_matrix:
    from scipy import sparse

    place = sparse.csr_matrix((np.ones(len(columns), np.float32), (columns, ranks)), shape=(counts.shape[1], n))
    out = sparse.csr_matrix(counts @ place)
    out.eliminate_zeros()
    out.sort_indices()
    return out


def _order(
    counts: csr_matrix, genes: NDArray[np.int64], cells: Cells, options: Mapping[str, Any], seed: int
) -> NDArray[np.int64]:
    """Flat positions in reading order."""
    lengths = np.diff(counts.indptr)
    if not options["sort_genes"] and not options["randomize_genes"]:
        return np.arange(len(counts.data))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if options["sort_genes"] and options["like_reference"]:
        return _torch_order(counts)
    if options["sort_genes"]:
        return np.lexsort((counts.indices, -counts.data, rows))
    numbers = uniforms(cells.keys[rows], genes[counts.indices].astype(np.uint64), seed, _SHUFFLE)
    return np.lexsort((numbers, rows))


def _torch_order(counts: csr_matrix, at_once: int = 256) -> NDArray[np.int64]:
    """Most counts first, ties as PyTorch's sort happens to leave them on this machine."""
    import torch

    parts = []
    for start in range(0, counts.shape[0], at_once):
        block = counts[start : start + at_once]
        columns = torch.argsort(torch.from_numpy(block.toarray()), dim=1, descending=True).numpy()
        places = np.full(block.shape, -1, np.int64)
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        places[rows, block.indices] = np.arange(len(block.data)) + counts.indptr[start]
        ordered = np.take_along_axis(places, columns, axis=1)
        parts.append(ordered[ordered >= 0])
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _cut(before: csr_matrix, order: NDArray[np.int64], seq_len: int) -> csr_matrix:
    """For cells with `seq_len` genes or more: which are cut off, and which is the last."""
    from scipy import sparse

    lengths = np.diff(before.indptr)
    position = np.arange(len(order)) - np.repeat(before.indptr[:-1], lengths)
    state = np.where(position >= seq_len, _AWAY, np.where(position == seq_len - 1, _LAST, 0)).astype(np.int8)
    told = state > 0
    rows = np.repeat(np.arange(len(lengths)), lengths)[told]
    return sparse.csr_matrix((state[told], (rows, before.indices[order[told]])), shape=before.shape)


def _scaled(
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    before: csr_matrix,
    n_before: NDArray[np.int64],
    cut: csr_matrix | None,
    scale: float,
) -> NDArray[np.float32]:
    """Counts per `scale` of what the unperturbed cell keeps."""
    kept = before.data.astype(np.float64)
    at = np.repeat(np.arange(len(n_before)), n_before)
    if cut is not None:
        kept = kept * (np.asarray(cut[at, before.indices]).ravel() != _AWAY)
    sums = np.bincount(at, weights=kept, minlength=len(n_before)).astype(np.float32)
    return (values / np.maximum(sums[rows], np.finfo(np.float32).tiny) * np.float32(scale)).astype(np.float32)
