"""One digest of annotated cells, which changes with any count, gene or label.

Each cell is hashed by itself, from its counts by gene and its label; the digest of the data is the hash of the sorted
hashes. It is the same in whatever order cells and genes lie, in memory or on disk, and however many cells are read at
a time; one molecule more in one cell, a gene of another name or one changed label gives another digest.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells

SCHEMA = b"scfm-lab annotated cells 1\n"


class DataDigest:
    """Takes cells in blocks and ends as one digest.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from scfm_lab.cells.data_digest import DataDigest
    >>> cells = sl.Cells.from_anndata(sl.datasets.load("pbmc68k"))
    >>> digest = DataDigest()
    >>> digest.add(cells.take(slice(0, 300)))
    >>> digest.add(cells.take(slice(300, 700)))
    >>> whole = DataDigest()
    >>> whole.add(cells)
    >>> digest.hexdigest() == whole.hexdigest()
    True
    """

    def __init__(self) -> None:
        self._cells: list[bytes] = []
        self._genes: bytes | None = None

    def add(self, cells: Cells, labels: Sequence[Any] | NDArray[Any] | None = None) -> None:
        """Take some cells, with what each is annotated with (text, or one row of texts)."""
        names = [f"{name}\t{ensembl}" for name, ensembl in zip(cells.genes.names, cells.genes.ensembl, strict=True)]
        order = np.argsort(np.array(names, dtype=object))
        genes = hashlib.sha256("\n".join(names[i] for i in order).encode()).digest()
        if self._genes not in (None, genes):
            # Blocks of one file have the same genes; blocks of several are told apart by their hash.
            self._cells.append(genes)
        self._genes = self._genes or genes
        counts = cells.counts[:, order].tocsr()
        counts.sort_indices()
        indices, values = counts.indices.astype("<i4"), counts.data.astype("<f8")
        told = [b""] * len(cells) if labels is None else [_text(label) for label in labels]
        totals = np.asarray(cells.total, dtype="<f8")
        for row in range(len(cells)):
            part = slice(counts.indptr[row], counts.indptr[row + 1])
            cell = hashlib.sha256(genes)
            cell.update(indices[part].tobytes())
            cell.update(values[part].tobytes())
            cell.update(totals[row].tobytes())
            cell.update(told[row])
            self._cells.append(cell.digest())

    def hexdigest(self) -> str:
        """``sha256:<64 hex>`` of the cells taken so far."""
        digest = hashlib.sha256(SCHEMA + (self._genes or b""))
        digest.update(len(self._cells).to_bytes(8, "little"))
        for cell in sorted(self._cells):
            digest.update(cell)
        return f"sha256:{digest.hexdigest()}"


def digest_of(cells: Cells, labels: Iterable[Any] | None = None) -> str:
    """The digest of some cells at once; see :class:`DataDigest`."""
    digest = DataDigest()
    digest.add(cells, None if labels is None else list(labels))
    return digest.hexdigest()


def _text(label: Any) -> bytes:
    parts = label if isinstance(label, tuple) else (label,)
    return b"\x00".join(str(part).encode() for part in parts)
