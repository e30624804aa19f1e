"""What changing genes will take, told before it starts: cells, draws, time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.dose import check_dose, check_doses
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, GenesError, plural
from scfm_lab.evaluation.nulls import N_NULL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.hardware import Hardware
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.sweep import Question

#: Perturbed copies that wait for the network at most (here and in :mod:`scfm_lab.tasks.sweep`).
WAITING_COPIES = 8192
# Bytes of a count that is in memory with what is made of it, as in scfm_lab.inference.plan.
_PREPARED = 68


@dataclass(frozen=True)
class PerturbPlan:
    """What a perturbation or a screen will take."""

    n_genes: int
    n_null: int
    """Genes that are computed besides, as their null."""
    n_cells: int
    perturbed_cells: int
    """Copies of cells that go through the model: each cell that a gene changes, once for each draw."""
    finished: int
    """… of which a journal holds so many already."""
    seconds: float
    """Measured on some cells; NaN for a machine whose speed is not known."""
    device: str
    draws: int = 1
    """Draws of each dose; 1 for doses 0 and 1, which need no more."""
    peak_gib: float = float("nan")
    """Memory of the device above what Python and PyTorch take before the model is opened."""

    def summary(self) -> str:
        """One sentence for people."""
        if not np.isfinite(self.seconds):
            clock = "a time that is not known"
        elif self.seconds < 120:
            clock = f"about {self.seconds:.0f} s"
        else:
            clock = "about " + (
                f"{self.seconds / 60:.0f} min" if self.seconds < 7200 else f"{self.seconds / 3600:.1f} h"
            )
        null = f" and {plural(self.n_null, 'null gene', 'null genes')}" if self.n_null else ""
        draws = f", {self.draws} draws each" if self.draws > 1 else ""
        done = f", {self.finished:,} of them finished before" if self.finished else ""
        memory = f", {self.peak_gib:.1f} GiB at most" if np.isfinite(self.peak_gib) else ""
        return (
            f"{plural(self.n_genes, 'gene', 'genes')}{null} in {plural(self.n_cells, 'cell', 'cells')}{draws}: "
            f"{self.perturbed_cells:,} cells change{done}; {clock} on {self.device}{memory}."
        )


def plan_perturb(
    adata: AnnData,
    model: Model | str | Path,
    genes: Mapping[str, float] | Sequence[str] | None = None,
    *,
    dose: float = 0.0,
    n_draws: int | None = None,
    n_null: int = N_NULL,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    hardware: Hardware | None = None,
    budget_gib: float | None = None,
    sample: int = 32,
) -> PerturbPlan:
    """What :func:`scfm_lab.perturb` or :func:`scfm_lab.screen` will take; only a few cells are run.

    Parameters
    ----------
    genes
        Doses of genes that are changed together, as for :func:`scfm_lab.perturb`; or genes that are changed one by one,
        as for :func:`scfm_lab.screen`, None being all that the model knows and the cells express.
    dose
        Of each gene of a list.
    n_draws
        Draws of a dose other than 0 and 1; None: 8 for doses, 2 for a list, as these functions have it.
    n_null
        Null genes of each gene; 0: none. (Of all genes each other's null is there anyway.)
    hardware, budget_gib, sample
        As for :func:`scfm_lab.plan`.

    Returns
    -------
    PerturbPlan
        The unperturbed cells are in its time. Null genes are counted to cost what the genes themselves do (they are chosen to
        be detected as often), on all cells: for groups above 200 cells, :func:`scfm_lab.perturb` computes fewer.

    Raises
    ------
    GenesError
        If a gene is not there, or not known to the model.
    DataError
        If a dose cannot be, or the budget does not suffice for one cell.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> plan = sl.plan_perturb(adata, "pca", {"CD3D": 0.0}, n_null=0)
    >>> plan.perturbed_cells == int((adata[:, "CD3D"].X > 0).sum())
    True
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.plan import planned
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.plan_perturb")
    together = isinstance(genes, Mapping)
    if together:
        check_doses(genes)
    else:
        check_dose("every gene", dose)
    draws = (8 if together else 2) if n_draws is None else n_draws
    for name, value, least in (("n_draws", draws, 1), ("n_null", n_null, 0), ("sample", sample, 1)):
        if value < least:
            raise DataError(f"{name} is {value}; it must be at least {least}.")
    model = as_model(model)
    model.require("perturb")
    cells = Cells.from_anndata(adata, layer=layer, fields=model.fields)
    known = np.zeros(len(cells.genes), dtype=bool)
    known[model.known_genes(cells.genes, model.check_options(options)).columns] = True
    questions = _questions(cells, known, genes, dose, model.spec.name)
    changed = sum(question.cost(cells, draws) for question in questions)
    others = max(0, int((known & (np.diff(cells.by_gene.indptr) > 0)).sum()) - len(questions))
    null = 0 if genes is None else min(n_null, others)
    n_null = min(null * len(questions), others)
    copies = changed + (round(changed * n_null / len(questions)) if questions else 0)
    once = planned(
        adata,
        model,
        layer=layer,
        options=options,
        hardware=hardware,
        budget_gib=budget_gib,
        sample=sample,
        own_precision=True,
    )
    return PerturbPlan(
        n_genes=len(genes) if together else len(questions),  # type: ignore[arg-type]
        n_null=n_null,
        n_cells=len(cells),
        perturbed_cells=copies,
        finished=0,
        seconds=once.seconds / max(1, len(cells)) * (len(cells) + copies),
        device=f"{once.device} in {once.precision}",
        draws=draws if any(q.random for q in questions) else 1,
        peak_gib=peak_gib(model, cells, copies, longest=once.longest, hardware=hardware, budget_gib=budget_gib),
    )


@dataclass(frozen=True)
class _InMemory:
    """Of cells that are in memory, what the planner asks a reader."""

    cells: Cells
    turned_bytes: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def counts_per_cell(self) -> float:
        return self.cells.counts.nnz / max(1, len(self.cells))


def peak_gib(
    model: Model,
    cells: Cells,
    copies: int,
    *,
    longest: int,
    hardware: Hardware | None = None,
    budget_gib: float | None = None,
) -> float:
    """Memory of the device with all cells in it, and the copies that wait for the network; `longest` is in tokens."""
    from scfm_lab.inference.hardware import GIB
    from scfm_lab.inference.plan import cut

    reader: Any = _InMemory(cells)
    device = model.device if hardware is None else hardware.device
    sizes = cut(model, reader, device=device, hardware=hardware, budget_gib=budget_gib, longest=longest)
    waiting = min(copies, WAITING_COPIES) * reader.counts_per_cell
    return replace(sizes, chunk=int(_PREPARED * (cells.counts.nnz + waiting))).peak(device) / GIB


def _questions(
    cells: Cells, known: Any, genes: Mapping[str, float] | Sequence[str] | None, dose: float, name: str
) -> list[Question]:
    from scfm_lab.tasks.sweep import Question

    def column(gene: str) -> int:
        found = cells.genes.find(str(gene))
        if not known[found]:
            raise GenesError(f"{name} does not know {gene!r}, so changing it would change nothing.")
        return found

    if isinstance(genes, Mapping):
        return [Question({column(gene): float(value) for gene, value in genes.items()})] if genes else []
    if genes is None:
        expressed = np.diff(cells.by_gene.indptr) > 0
        return [Question({i: dose}) for i in np.flatnonzero(known & expressed).tolist()]
    return [Question({column(gene): dose}) for gene in ([genes] if isinstance(genes, str) else genes)]
