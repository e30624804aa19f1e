"""The shipped bases of ``pca`` and ``sctop``, fitted to cells that ``starter`` is trained on.

    python -m scfm_lab.training.bases --out scfm_lab/models/assets

The fitting is that of the models' own ``fit`` (:func:`~scfm_lab.models.pca.fit_components`,
:func:`~scfm_lab.models.sctop.type_basis`); here are only the choice of cells and genes and
the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.training import corpus
from scfm_lab.training.vocabulary import to_bytes

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Vocabulary

#: Whole-transcriptome sets. The MERFISH panel is left out of both bases: its 1,122 genes are too few
#: for ranks over the transcriptome, and for a mean of genes that it never measured.
HUMAN_SETS = tuple(name for name in corpus.TRAINING_SETS if name != "mouse_brain_merfish_1000")
LABELLED_SETS = ("pbmc3k_raw", "celllines_3x2tech_mixology")
UNLABELLED = "unlabelled"
COMPONENTS = 50


def joined(names: tuple[str, ...], vocabulary: Vocabulary) -> tuple[Cells, NDArray[np.int64], list[dict[str, Any]]]:
    """Cells of several whole-transcriptome sets over the genes that the first of them measures.

    The first lists every gene of its reference. The others come without the genes that none of
    their cells expresses, so that a gene missing there counts as 0.

    Returns
    -------
    cells
        Training cells; ``fields["cell_type"]`` holds their labels, ``""`` where there are none.
    genes
        Vocabulary ids of the columns.
    records
        One per set, for the card.
    """
    from scipy.sparse import csr_matrix, vstack

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes

    sets = [corpus.load(name, vocabulary) for name in names]
    genes = np.flatnonzero(sets[0].measured)
    counts = csr_matrix(vstack([s.counts[:, genes] for s in sets]))
    counts.sort_indices()
    found = Genes(vocabulary.ensembl[genes], vocabulary.symbols[genes], vocabulary.ensembl[genes], "human")
    labels = np.concatenate([s.labels for s in sets])
    cells = Cells(
        counts=counts,
        genes=found,
        total=np.concatenate([s.total for s in sets]),
        names=np.arange(counts.shape[0]).astype(str).astype(object),
        fields={"cell_type": labels},
    )
    return cells, genes, [s.record for s in sets]


@dataclass(frozen=True)
class Basis:
    """What goes into the folder of a basis."""

    tensors: dict[str, NDArray[Any]]
    config: dict[str, Any]
    genes: NDArray[np.int64]
    """Vocabulary id of each column."""

    def write(self, folder: Path, table: pd.DataFrame) -> None:
        """Write weights, configuration, and those rows of the gene table that the basis has."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: np.ascontiguousarray(v) for k, v in self.tensors.items()}, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        (folder / "vocabulary.csv.gz").write_bytes(to_bytes(table.iloc[self.genes]))


def pca_basis(vocabulary: Vocabulary) -> Basis:
    """Components of all human training cells; components in half precision."""
    from scfm_lab.models.pca import fit_components

    cells, columns, records = joined(HUMAN_SETS, vocabulary)
    # All expressed genes, not the most variable ones: a reduced panel then still meets most of the basis.
    components, mean, kept = fit_components(cells, n_components=COMPONENTS)
    place = {ensembl: i for i, ensembl in enumerate(vocabulary.ensembl)}
    config = {
        "family": "pca",
        "format": 1,
        "vocabulary": "vocabulary.csv.gz",
        "basis": f"shipped: {len(cells):,} human training cells",
        "training": {"data": records, "genes_considered": len(columns)},
    }
    tensors = {"components": components.astype(np.float16), "mean": mean}
    return Basis(tensors, config, np.array([place[e] for e in kept.ensembl]))


def sctop_basis(vocabulary: Vocabulary) -> Basis:
    """Mean scores of the types of the labelled training cells."""
    from scfm_lab.models.sctop import type_basis

    cells, columns, records = joined(LABELLED_SETS, vocabulary)
    labels = cells.fields["cell_type"].astype(str)
    labelled = np.flatnonzero(labels != UNLABELLED)
    basis, types = type_basis(cells.counts[labelled], labels[labelled])
    config = {
        "family": "sctop",
        "format": 1,
        "vocabulary": "vocabulary.csv.gz",
        "types": types,
        "basis": f"shipped: {len(labelled):,} labelled training cells of {len(types)} types",
        "cells_per_type": {t: int((labels == t).sum()) for t in types},
        "training": {"data": records},
    }
    return Basis({"basis": basis}, config, columns)


def main() -> None:
    """Fit both bases and write their folders."""
    import click

    @click.command(help="Fit the shipped bases of pca and sctop.")
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="Gets the folders pca and sctop.")
    @click.option("--vocabulary", default=None, type=click.Path(path_type=Path, exists=True), help="Table of genes.")
    def command(out: Path, vocabulary: Path | None) -> None:
        import pandas as pd

        from scfm_lab.cells.genes import Vocabulary

        shipped = Path(__file__).resolve().parents[1] / "models" / "assets" / "starter" / "vocabulary.csv.gz"
        path = vocabulary or shipped
        genes = Vocabulary.from_csv(path)
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        for name, fit in (("pca", pca_basis), ("sctop", sctop_basis)):
            basis = fit(genes)
            basis.write(out / name, table)
            click.echo(f"{name}: {len(basis.genes):,} genes, {basis.config['basis'].removeprefix('shipped: ')}")

    command()


if __name__ == "__main__":
    main()
