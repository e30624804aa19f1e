"""The cells that the shipped models learn from.

Exactly these sets, and of ``pbmc3k_raw`` exactly four fifths. Everything else that the
project scores models on stays out whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import Cells
from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.genes import Vocabulary

TRAINING_SETS = (
    "pbmc3k_raw",
    "celllines_3x2tech_mixology",
    "citeseq_pbmc10k_protein_v3_200",
    "citeseq_eccite_pbmc_500",
    "mouse_brain_merfish_1000",
)
#: The set of which a fifth of the cells is held out.
SPLIT_SET = "pbmc3k_raw"


def data_file(name: str) -> Path:
    """Path of a dataset's file.

    ``sl.datasets`` finds it (the folder named by ``SCFM_DATA``, the cache); a checkout with
    ``../shared/data`` beside it needs no variable.
    """
    from scfm_lab import datasets

    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / datasets.catalogue()[name].file
    if datasets.mirror() is None and beside.is_file():
        return beside
    return datasets.locate(name)


def read_anndata(name: str) -> AnnData:
    """A dataset by name, from :func:`data_file`."""
    import anndata

    return anndata.read_h5ad(data_file(name))


def held_out(barcodes: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells of the split set are never trained on: the fifth whose barcodes hash lowest.

    The choice depends on the barcodes alone, not on their order or on a random generator.
    """
    hashed = [hashlib.sha256(str(b).encode()).digest() for b in barcodes]
    order = sorted(range(len(hashed)), key=hashed.__getitem__)
    mask = np.zeros(len(hashed), dtype=bool)
    mask[order[: len(hashed) // 5]] = True
    return mask


def read(name: str, *, training_cells: bool = False) -> Cells:
    """Counts of a dataset; with `training_cells` without the held-out fifth."""
    cells = Cells.from_anndata(read_anndata(name))
    if training_cells and name == SPLIT_SET:
        cells = cells.take(np.flatnonzero(~held_out(cells.names)))
    return cells


@dataclass(frozen=True)
class CellSet:
    """Cells of one dataset over the vocabulary."""

    name: str
    counts: csr_matrix
    """float32 [cells, vocabulary]."""
    total: NDArray[np.float64]
    """Library size over all genes of the dataset, also those outside the vocabulary."""
    measured: NDArray[np.bool_]
    """[vocabulary]: genes that the dataset could have seen."""
    labels: NDArray[Any]
    """Published cell types, ``""`` where the set has none."""
    record: dict[str, Any]
    """For the model card: file and cell digests, number of cells, share of counts covered."""

    def __len__(self) -> int:
        return int(self.counts.shape[0])


def over_vocabulary(cells: Cells, vocabulary: Vocabulary) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Counts [cells, vocabulary] (columns of one gene summed) and the mask of measured genes."""
    from scipy.sparse import csr_matrix

    match = vocabulary.match(cells.genes)
    onto = csr_matrix(
        (np.ones(len(match.ids), np.float32), (match.columns, match.ids)),
        shape=(len(cells.genes), len(vocabulary)),
    )
    counts = (cells.counts @ onto).tocsr().astype(np.float32)
    counts.sort_indices()
    measured = np.zeros(len(vocabulary), dtype=bool)
    measured[match.ids] = True
    return counts, measured


def cell_set_digest(keys: NDArray[np.uint64]) -> str:
    """SHA-256 of a set of cells, whatever their order."""
    return hashlib.sha256(np.sort(keys).astype("<u8").tobytes()).hexdigest()


def load(name: str, vocabulary: Vocabulary, *, part: str = "train") -> CellSet:
    """One training set over the vocabulary.

    Parameters
    ----------
    name
        One of :data:`TRAINING_SETS`.
    vocabulary
        The genes of the model.
    part
        ``"train"``, or ``"held out"`` for the fifth of :data:`SPLIT_SET` that is never trained on.
    """
    if name not in TRAINING_SETS:
        raise DataError(f"{name!r} is not a training set; those are: {', '.join(TRAINING_SETS)}.")
    cells = Cells.from_anndata(read_anndata(name), fields=("cell_type",))
    out = held_out(cells.names) if name == SPLIT_SET else np.zeros(len(cells), dtype=bool)
    cells = cells.take(np.flatnonzero(out if part == "held out" else ~out))
    counts, measured = over_vocabulary(cells, vocabulary)
    record = {
        "dataset": name,
        "file_sha256": hashlib.sha256(data_file(name).read_bytes()).hexdigest(),
        "cell_set_sha256": cell_set_digest(cells.keys),
        "cells": len(cells),
        "genes_measured": int(measured.sum()),
        "umi_share_in_vocabulary": round(float(counts.sum() / cells.counts.sum()), 4),
        "organism": cells.genes.organism,
    }
    labels = np.asarray(cells.fields.get("cell_type", np.full(len(cells), ""))).astype(str)
    return CellSet(name, counts, cells.total, measured, labels, record)
