"""What a run will take, told before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.inference.hardware import Fit, Hardware, Needs, fits

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm_lab.models.contract import Model


@dataclass(frozen=True)
class Plan:
    """Device, precision, memory and time of a run."""

    device: str
    precision: str
    n_cells: int
    median_length: int
    seconds: float
    """Extrapolated from a timed sample of the cells themselves."""
    fit: Fit

    def summary(self) -> str:
        """One line for people."""
        clock = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        return (
            f"{self.n_cells:,} cells (median {self.median_length:,} genes) on {self.device} in {self.precision}: "
            f"about {clock}; {self.fit.verdict}, {self.fit.reason}."
        )


def plan(
    adata: AnnData,
    model: Model | str,
    *,
    layer: str | None = None,
    hardware: Hardware | None = None,
    sample: int = 32,
) -> Plan:
    """Time a sample of the cells and extrapolate.

    Parameters
    ----------
    sample
        Cells that are run to measure the speed, spread over the AnnData.
    hardware
        Whose memory decides whether the model fits; default: this machine.
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.load import as_model

    model = as_model(model)
    rows = np.unique(np.linspace(0, adata.n_obs - 1, min(sample, adata.n_obs)).astype(int))
    cells = Cells.from_anndata(adata, layer=layer, fields=model.fields, rows=rows)
    tokens = model.tokenize(cells)
    model.encode(tokens)  # warm: first calls allocate and choose kernels
    started = time.perf_counter()
    model.encode(model.tokenize(cells))
    seconds = (time.perf_counter() - started) / len(rows) * adata.n_obs
    needs: Any = Needs.of(model.spec)
    return Plan(
        device=model.device,
        precision=model.precision,
        n_cells=adata.n_obs,
        median_length=int(np.median(tokens.genes_seen)),
        seconds=seconds,
        fit=fits(needs, hardware),
    )
