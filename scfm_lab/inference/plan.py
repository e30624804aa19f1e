"""What a run will take, told before it starts: device, precision, batches, memory and time."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.inference.hardware import GIB, Fit, Hardware, Needs, fits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens

#: Share of the free memory that a run may take, unless it is told otherwise.
SHARE = 0.6
#: Cells of a chunk by the size of the network: small enough that little is lost when a run is killed.
_CHUNKS = ((10_000_000, 4_096), (100_000_000, 1_024), (None, 512))
#: … and by what its device does in about a minute, in floating-point operations.
_MINUTE = {"cpu": 1e13, "mps": 1e14, "cuda": 1e15}
_FEWEST_CELLS = 64
#: Files and tasks that a very long run may be cut into, before its chunks become longer than that.
_MOST_PARTS = 50_000
# Bytes of a count while it is read, checked and tokenised, and while its tokens wait for the network.
_PREPARED, _WAITING = 68, 24
_FEWEST_TOKENS = 512
# What allocators keep for later, and what PyTorch takes on other machines.
_MARGIN = 1.25
#: Cells, spread over all, that tell how long cells are.
LOOKED_AT = 32


@dataclass(frozen=True)
class Sizes:
    """How a run is cut, and the memory that takes in bytes."""

    chunk_cells: int
    """Cells that are read and tokenised together."""
    batch_tokens: int
    """Tokens that the network sees at once."""
    weights: int
    batch: int
    """Activations of a batch."""
    chunk: int
    """Counts and tokens of the chunk that is computed and of the one that is prepared."""
    output: int
    """Vectors of all cells."""
    base: int
    """What libraries take once they work."""
    turned: int = 0
    """Counts by rows that are kept of a matrix that lies by columns."""
    turning: int = 0
    """All of that matrix while it is turned."""
    copies: int = 0
    """Copies of the weights in a lower precision."""

    def peak(self, device: str) -> int:
        """Bytes on a device at most; on the CPU everything is in the same memory."""
        if device.split(":")[0] == "cuda":
            return self.running(device)
        return max(
            self.running(device),
            # While a checkpoint is opened, its weights may be there twice.
            int(_MARGIN * (2 * self.weights + self.base)) + self.chunk + self.output,
            int(_MARGIN * (self.weights + self.copies + self.base)) + self.turning + self.output,
        )

    def running(self, device: str) -> int:
        """Bytes on a device while cells are computed."""
        if device.split(":")[0] == "cuda":
            return int(_MARGIN * (self.weights + self.copies + self.batch))
        working = self.weights + self.copies + self.batch + self.base
        return int(_MARGIN * working) + self.chunk + self.turned + self.output


@dataclass(frozen=True)
class Plan:
    """Device, precision, memory and time of a run."""

    device: str
    precision: str
    n_cells: int
    median_length: int
    seconds: float
    """Extrapolated from a timed sample of the cells, or from what the hardware is said to do; NaN where neither is known."""
    fit: Fit
    batch_tokens: int = 0
    """Tokens that the network sees at once."""
    chunk_cells: int = 0
    """Cells that are read and tokenised together."""
    peak_gib: float = 0.0
    """Memory of the device above what Python and PyTorch take before the model is opened."""
    sizes: Sizes | None = None
    longest: int = 0
    """Tokens of the longest cell that was tried."""
    untried: bool = False
    """Whether ``"auto"`` has still to choose; `precision` is then what a GPU elsewhere would try first, else float32."""

    def summary(self) -> str:
        """One line for people."""
        if not np.isfinite(self.seconds):
            clock = "a time that is not known"
        else:
            clock = "about " + (f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min")
        return (
            f"{self.n_cells:,} cells (median {self.median_length:,} genes) on {self.device} in {self.precision}"
            f"{' (not tried yet)' if self.untried else ''}: "
            f"{clock}, {self.peak_gib:.1f} GiB at most, {self.batch_tokens:,} tokens a batch; "
            f"{self.fit.verdict}, {self.fit.reason}."
        )


def plan(
    adata: AnnData,
    model: Model | str,
    *,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    hardware: Hardware | None = None,
    budget_gib: float | None = None,
    sample: int = 32,
) -> Plan:
    """What :func:`scfm_lab.embed` will take.

    Parameters
    ----------
    adata
        The cells, in memory or in a file.
    options
        The family's own (``spec.options``), as :func:`scfm_lab.embed` will have them.
    hardware
        A machine, which need not be here; default: this one. Its device and free memory decide.
    budget_gib
        Memory the run may take; default: 60 % of what is free.
    sample
        Cells, spread over the AnnData, that are run to measure the speed of this machine.

    Raises
    ------
    DataError
        If the budget does not suffice for one cell.
    """
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.plan")
    return planned(
        adata, as_model(model), layer=layer, options=options, hardware=hardware, budget_gib=budget_gib, sample=sample
    )


def planned(
    adata: AnnData,
    model: Model,
    *,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    hardware: Hardware | None = None,
    budget_gib: float | None = None,
    sample: int = 32,
    own_precision: bool = False,
) -> Plan:
    """:func:`plan`; with `own_precision` for what runs in the model's precision, as perturbations do, not in the one embed chose."""
    from scfm_lab.inference.engine import tokens_at_once
    from scfm_lab.inference.precision import FLOAT32, expected
    from scfm_lab.models.tokens import Request

    options = model.check_options(options)
    reader = model.cell_reader(adata, layer=layer, options=options)
    n = len(reader)
    cells = some(reader, sample)
    tokens = model.tokenize(cells, options=options)
    here = hardware is None
    hardware = hardware or with_loaded(model)
    device = model.device if here else hardware.device
    longest = longest_of(tokens)
    precision, untried = (
        (model.compute, False) if own_precision else _precision(model, options, None if here else hardware, n)
    )
    wanted = expected(model, Request(), options, tokens, n) if here and untried else (precision,)
    sizes, left = cut_among(
        model,
        reader,
        wanted,
        device=device,
        hardware=hardware,
        budget_gib=budget_gib,
        longest=longest,
        together=not model.cells_alone(options),
    )
    if left == (FLOAT32,) != wanted:
        precision, untried = FLOAT32, False
    if here:
        with tokens_at_once(sizes.batch_tokens):
            model.encode(tokens, precision=precision)  # warm: first calls allocate and choose kernels
            started = time.perf_counter()
            # What lies by columns is read once for all of a run's cells, and not for these again.
            again = cells if reader.by_columns else some(reader, sample)
            model.encode(model.tokenize(again, options=options), precision=precision)
        seconds = (time.perf_counter() - started) / len(cells) * n
    else:
        seconds = _seconds(model, hardware, tokens.lengths) / len(cells) * n
    peak = sizes.peak(device) / GIB
    needs: Any = Needs(model.spec.parameters, model.spec.width, estimated_gib=peak)
    return Plan(
        device=device,
        precision=str(precision),
        n_cells=n,
        median_length=int(np.median(tokens.genes_seen)),
        seconds=seconds,
        fit=fits(needs, hardware),
        batch_tokens=sizes.batch_tokens,
        chunk_cells=sizes.chunk_cells,
        peak_gib=peak,
        sizes=sizes,
        longest=longest,
        untried=untried,
    )


def some(reader: CellReader, n: int = LOOKED_AT) -> Cells:
    """Cells spread over all."""
    return reader(np.unique(np.linspace(0, len(reader) - 1, min(n, len(reader))).astype(np.int64)))


def longest_of(tokens: Tokens | None) -> int:
    """Tokens of the longest cell, by which a run is cut: as its plan says, and as it is; 0 where nothing is known."""
    return 0 if tokens is None else int(tokens.lengths.max(initial=1))


def with_loaded(model: Model) -> Hardware:
    """This machine with the memory that is free now, and with what an opened model takes of it: a plan counts that again."""
    hardware = Hardware.detect()
    held = model.held_bytes() / GIB
    if model.device.split(":")[0] == "cuda":
        return replace(hardware, device_free_gib=min(hardware.device_gib, hardware.device_free_gib + held))
    free = min(hardware.ram_gib, hardware.free_gib + held)
    if hardware.device == "cuda":
        return replace(hardware, free_gib=free)
    return replace(hardware, free_gib=free, device_free_gib=min(hardware.device_gib, hardware.device_free_gib + held))


def _precision(
    model: Model, options: Mapping[str, Any], elsewhere: Hardware | None, cells: int
) -> tuple[Precision, bool]:
    """What :func:`scfm_lab.embed` takes, as far as that is known before it has tried anything; whether it has still to choose.

    Of a machine that is not here the first that it would try; what a processor would try is timed there and not known.
    """
    from scfm_lab.inference.precision import known, may_be_lower, on_accelerator
    from scfm_lab.models.tokens import Request

    if not may_be_lower(model, options):
        return model.compute, False
    if elsewhere is not None:
        first = on_accelerator(elsewhere.device.split(":")[0], bf16=elsewhere.bf16)
        return (first[0] if first else model.compute), True
    found = known(model, Request(), cells)
    return (model.compute, True) if found is None else (found.choice, False)


def _operations(model: Model, length: int) -> float:
    """Floating-point operations of a cell of so many tokens, about: products and attention of all layers."""
    spec = model.spec
    width = model.hidden_width or spec.width
    products = 2 * length * (4 * width**2 + 2 * width * spec.feed_forward)
    return max(1.0, spec.layers * (products + 4.0 * length**2 * width))


def cut_among(
    model: Model, reader: CellReader, precisions: Sequence[Precision], *, device: str, **limits: Any
) -> tuple[Sizes, tuple[Precision, ...]]:
    """:func:`cut` for those of some precisions that there is room for.

    A run is not refused for what copies of the weights, or written-out scores, would take in a precision that it need not take.

    Returns
    -------
    Sizes, and the precisions that they are for: the model's own where there is room for none.
    """
    limits["hardware"] = limits.get("hardware") or with_loaded(model)
    sizes: Sizes | None = None
    left: tuple[Precision, ...] = ()
    for one in precisions:
        with suppress(DataError):
            sizes = cut(model, reader, device=device, precisions=(*left, one), **limits)
            left = (*left, one)
    if sizes is None:
        left = (model.compute,)
        sizes = cut(model, reader, device=device, precisions=left, **limits)
    return sizes, left


def cut(
    model: Model,
    reader: CellReader,
    *,
    device: str,
    hardware: Hardware | None = None,
    budget_gib: float | None = None,
    longest: int | None = None,
    chunk_size: int | None = None,
    in_memory: bool = True,
    together: bool = False,
    precisions: Sequence[Precision] = (),
) -> Sizes:
    """Chunks and batches that keep within the memory.

    Parameters
    ----------
    hardware
        Whose free memory counts; default: this machine's, and what the model has taken of it already.
    budget_gib
        Memory the run may take; default: 60 % of what is free.
    longest
        Tokens of the longest cell, as far as is known.
    chunk_size
        Cells of a chunk at most; default: by the size of the network.
    in_memory
        Whether all vectors are to be in memory.
    together
        Whether all cells must be tokenised together.
    precisions
        Those that the run may take; default: the model's own.

    Raises
    ------
    DataError
        If the budget does not suffice for one cell, or for what must be together.
    """
    from scfm_lab.inference.engine import TOKENS_PER_BATCH

    hardware = hardware or with_loaded(model)
    precisions = precisions or (model.compute,)
    kind = device.split(":")[0]
    budget = _budget(budget_gib, hardware.free_gib)
    on_device = budget if kind == "cpu" else _budget(budget_gib, hardware.room_gib)
    n, spec = len(reader), model.spec
    per_cell = max(1.0, reader.counts_per_cell)
    length = longest or int(min(per_cell * 2, spec.max_length or np.inf)) + 4
    weights = model.weight_bytes()
    copies = max(model.copies_bytes(one) for one in precisions)
    output = 4 * n * spec.width if in_memory else 0
    base = model.base_bytes()

    if chunk_size is not None and chunk_size < 1:
        raise DataError(f"chunk_size is {chunk_size}; a chunk holds at least one cell.")
    usual = next(c for limit, c in _CHUNKS if limit is None or spec.parameters <= limit)
    a_minute = int(_MINUTE.get(kind, _MINUTE["cpu"]) / _operations(model, length))
    usual = min(usual, max(_FEWEST_CELLS, a_minute, n // _MOST_PARTS))
    rows = n if together else min(n, chunk_size or usual)
    resident = output + int(_MARGIN * (base + (weights + copies if kind == "cpu" else 0)))

    def forward_bytes(tokens: int, longest: int) -> int:
        work = model.gpu_batch_bytes if kind == "cuda" else model.batch_bytes
        return work(tokens, longest) + max(model.scores_bytes(one, tokens, longest) for one in precisions)

    def batch_bytes(tokens: int) -> int:
        return int(_MARGIN * forward_bytes(tokens, length))

    def chunk(cells: int) -> int:
        ahead = 1 if cells < n else 0
        return int(cells * per_cell * (_PREPARED + ahead * _WAITING))

    on_host = resident + chunk(1) + (batch_bytes(length) if kind == "cpu" else 0)
    one = int(_MARGIN * (weights + copies)) + batch_bytes(length)
    if on_host > budget or (kind != "cpu" and one > on_device):
        need = (on_host if kind == "cpu" else max(one, on_host)) / GIB
        raise DataError(
            f"The budget of {min(budget, on_device) / GIB:.2f} GiB is too small for one cell: {spec.name} needs {need:.2f} GiB "
            f"for its weights{', all vectors' if in_memory else ''} and a cell of {length:,} tokens. Give a larger budget_gib, "
            "or free some memory."
        )
    room = budget - resident - (batch_bytes(length) if kind == "cpu" else 0)
    if together and chunk(n) > room:
        raise DataError(
            f"The {n:,} cells must be tokenised together (like_reference, or bulk samples), which takes {chunk(n) / GIB:.1f} GiB "
            f"of the {budget / GIB:.1f} GiB allowed; take fewer cells, or leave that option out."
        )
    turned = turning = 0
    if rows < n or chunk(rows) > room:
        # Some rows of a matrix by columns are read of a copy of it by rows, which is kept.
        turned, turning = reader.turned_bytes
        if turned and (turned + chunk(1) > room or resident + turning > budget):
            raise DataError(
                f"{reader.place.where} is stored by columns (CSC): its rows can be read only with all of it in memory, which takes "
                f"{turning / GIB:.2f} GiB beside the {(on_host - chunk(1)) / GIB:.2f} GiB of the model{' and all vectors' if in_memory else ''}; "
                f"{budget / GIB:.2f} GiB may be taken. Store it by rows first (CSR), or give a larger budget_gib."
            )
    resident, room = resident + turned, room - turned
    while not together and rows > 1 and chunk(rows) > room:
        rows = (rows + 1) // 2
    tokens = TOKENS_PER_BATCH.get(kind, TOKENS_PER_BATCH["cpu"])
    free = (budget - resident - chunk(rows)) if kind == "cpu" else on_device - _MARGIN * (weights + copies)
    while tokens > _FEWEST_TOKENS and batch_bytes(tokens) > free:
        tokens //= 2
    # Few cells do not fill a batch.
    filled = int(min(tokens, max(length, rows * min(per_cell, length))))
    return Sizes(
        chunk_cells=rows,
        batch_tokens=tokens,
        weights=weights,
        batch=forward_bytes(max(filled, length), length),
        chunk=chunk(rows),
        output=output,
        base=base,
        turned=turned,
        turning=turning,
        copies=copies,
    )


def _budget(given: float | None, free_gib: float) -> float:
    if given is not None and not 0 < given < float("inf"):
        raise DataError(f"budget_gib is {given!r}; give the GiB of memory that the run may take.")
    return (SHARE * free_gib if given is None else given) * GIB


def _seconds(model: Model, hardware: Hardware, lengths: Any) -> float:
    """Seconds for cells of these lengths by the speed that the hardware is said to have."""
    if not hardware.tflops:
        return float("nan")
    spec = model.spec
    hidden = model.hidden_width or spec.width
    products = spec.layers * (4 * hidden * hidden + 2 * hidden * (spec.feed_forward or 4 * hidden))
    lengths = np.asarray(lengths, dtype=np.float64)
    flops = 2 * (products * lengths + 2 * spec.layers * hidden * lengths**2)
    return float(flops.sum() / (hardware.tflops * 1e12))
