"""UCE's sentences as its reference makes them: draws from numpy's global generator, its filter, the padding of its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import GenesError, ModelError
from scfm_lab.models.uce_sentences import CHROMOSOME_END, CLS, Sentences, whole_counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.published import PublishedMatch
    from scfm_lab.models.uce_sentences import SpeciesGenes

MIN_CELLS, MIN_GENES = 10, 25
"""Cells that a gene, and genes that a cell needs to pass the reference's filter."""


def as_reference(
    cells: Cells, match: PublishedMatch, genes: SpeciesGenes, options: Mapping[str, Any], *, longest: int, seed: int
) -> tuple[Sentences, NDArray[np.bool_]]:
    """The reference's sentences, and which cells its filter keeps.

    Parameters
    ----------
    options
        ``filter`` and ``sample_size``.
    longest
        Most tokens of a sentence.

    Raises
    ------
    ModelError
        Of perturbed copies, whose draws would not be those of their cells.
    GenesError
        If the filter leaves no gene.
    """
    if cells.baseline is not None:
        raise ModelError(
            "like_reference draws anew in every call, so that an effect could not be told from chance; perturb without it."
        )
    if not 0 <= seed < 1 << 32:
        raise ModelError(
            f"seed is {seed}; with like_reference it seeds numpy's generator, which takes 0 to {(1 << 32) - 1:,}."
        )
    there = cells.counts > 0
    columns = np.ones(cells.counts.shape[1], dtype=bool)
    kept = np.ones(len(cells), dtype=bool)
    if options["filter"]:
        columns = seen_often(cells.counts)
        kept = np.asarray(there[:, columns].sum(axis=1)).ravel() >= MIN_GENES
    use = columns[match.columns]
    if not use.any():
        raise GenesError(
            f"The reference keeps genes seen in at least {MIN_CELLS} cells, and none of these is; leave out like_reference, "
            "or pass options={'filter': False}."
        )
    counts = whole_counts(cells.counts[:, match.columns[use]])
    kept &= np.diff(counts.indptr) > 0
    made = reference_sentences(
        counts, match.ids[use], ~kept, genes, size=options["sample_size"], longest=longest, seed=seed
    )
    return made, kept


def seen_often(counts: csr_matrix) -> NDArray[np.bool_]:
    """Which columns pass the reference's filter of genes."""
    return np.asarray((counts > 0).sum(axis=0)).ravel() >= MIN_CELLS


def padding(lengths: NDArray[np.int64], kept: NDArray[np.bool_], batch_size: int) -> NDArray[np.int64]:
    """Length to which the reference pads each cell: the longest of its batch, in the order of the kept cells."""
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}; at least one cell is needed.")
    out = lengths.astype(np.int64, copy=True)
    rows = np.flatnonzero(kept)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        out[part] = lengths[part].max()
    return out


def reference_weights(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities with which the reference draws the genes of one cell, from its counts (genes,)."""
    import torch

    logged = torch.log1p(torch.from_numpy(np.trunc(counts)).float())
    weights = (logged / logged.sum()).numpy()
    # Twice normalised; the second sum runs from left to right in float32.
    return weights / np.cumsum(weights, dtype=np.float32)[-1]


def reference_sentences(
    counts: csr_matrix,
    columns: NDArray[np.int64],
    skipped: NDArray[np.bool_],
    genes: SpeciesGenes,
    *,
    size: int,
    longest: int,
    seed: int,
) -> Sentences:
    """Sentences as the reference draws them after ``numpy.random.seed(seed)``, cell after cell.

    Parameters
    ----------
    counts
        Cells × kept columns, in the order of the file.
    columns
        Gene of each kept column.
    skipped
        Cells that the reference's filter removes: they draw nothing.
    """
    random = np.random.RandomState(seed)
    n = counts.shape[0]
    lengths = np.zeros(n, np.int64)
    lost = np.zeros(n, np.float32)
    parts = []
    for i in np.flatnonzero(~skipped & (np.diff(counts.indptr) > 0)).tolist():
        # One generator runs on from cell to cell, so that the cells have to wait for each other.
        weights = reference_weights(counts[i].toarray().ravel())
        drawn = columns[random.choice(len(columns), size=size, p=weights, replace=True)]
        chromosomes = np.unique(genes.chromosomes[drawn])
        random.shuffle(chromosomes)
        sentence = [np.array([CLS])]
        for code in chromosomes:
            of_code = drawn[genes.chromosomes[drawn] == code]
            of_code = of_code[np.argsort(genes.starts[of_code])]
            sentence += [np.array([genes.chromosome_row + code]), genes.rows[of_code], np.array([CHROMOSOME_END])]
        ids = np.concatenate(sentence)
        lengths[i] = min(len(ids), longest)
        if len(ids) > longest:
            lost[i] = 1 - np.isin(ids[:longest], genes.rows).sum() / size
        parts.append(ids[:longest])
    return Sentences(np.concatenate(parts) if parts else np.empty(0, np.int64), lengths, lost)
