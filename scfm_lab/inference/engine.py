"""The engine of one machine: packs ragged cells by length, runs a model, keeps order.

Cells are sorted by length and cut into batches of about equal numbers of tokens, so that
short cells do not wait for long ones. What a cell's vector is does not depend on its
batch: models attend within a cell only.
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import Cancelled, DataError
from scfm_lab.inference.hardware import give_back_memory
from scfm_lab.models.tokens import States, ragged_take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from numpy.typing import NDArray

    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Request, Tokens

TOKENS_PER_BATCH = {"cpu": 8_192, "mps": 32_768, "cuda": 131_072}
_CELLS_PER_BATCH = 1_024
_TRIM_EVERY = 4

#: Tokens of a batch, where a plan says so; None: what is fast on the device.
planned_tokens: ContextVar[int | None] = ContextVar("planned_tokens", default=None)

# One forward pass at a time in a process: PyTorch's threads are shared, and two passes side
# by side are slower than one after the other.
_turn = threading.Lock()


@contextlib.contextmanager
def tokens_at_once(tokens: int | None) -> Iterator[None]:
    """Have batches hold so many tokens meanwhile; None: what is fast on the device."""
    planned = planned_tokens.set(tokens)
    try:
        yield
    finally:
        planned_tokens.reset(planned)


@dataclass(frozen=True)
class Batch:
    """Some cells, flat: the tokens of one after those of the other."""

    ids: torch.Tensor
    """int64 (tokens,)."""
    values: torch.Tensor | None
    """float32 (tokens,)."""
    lengths: NDArray[np.int64]
    """Tokens of each cell."""
    offsets: NDArray[np.int64]
    positions: torch.Tensor | None = None
    cell: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens: Tokens | None = None
    """The tokens the batch was taken from (for what is one value for all cells)."""

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, flat: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """Flat (tokens, …) → padded (cells, longest, …)."""
        rows, columns = self._places(flat.device)
        shape = (len(self), int(self.lengths.max(initial=0)), *flat.shape[1:])
        out = flat.new_full(shape, fill)
        out[rows, columns] = flat
        return out

    def flat(self, padded: torch.Tensor) -> torch.Tensor:
        """Padded (cells, longest, …) → flat (tokens, …)."""
        rows, columns = self._places(padded.device)
        return padded[rows, columns]

    def mask(self) -> torch.Tensor:
        """Bool (cells, longest): True at tokens, False at padding."""
        import torch

        longest = int(self.lengths.max(initial=0))
        lengths = torch.as_tensor(self.lengths, device=self.ids.device)
        return torch.arange(longest, device=self.ids.device)[None, :] < lengths[:, None]

    def _places(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        rows = np.repeat(np.arange(len(self)), self.lengths)
        columns = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)
        return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def batches(lengths: NDArray[np.int64], *, tokens: int, cells: int = _CELLS_PER_BATCH) -> Iterator[NDArray[np.int64]]:
    """Rows of each batch: sorted by length, at most `tokens` padded tokens and `cells` cells."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order):
            yield order[start:end]
            return
        longest = max(int(lengths[order[end]]), 1)
        if (end - start + 1) * longest > tokens or end - start >= cells:
            yield order[start:end]
            start = end


def encode(
    model: Model,
    tokens: Tokens,
    request: Request,
    *,
    batch_size: int | None = None,
    precision: Precision | None = None,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> States:
    """Run a model on tokens.

    Parameters
    ----------
    batch_size
        Most cells of a batch; the number of tokens is bounded too.
    precision
        None: the model's own.
    progress
        Called as ``progress(done, total)`` in cells after each batch.
    cancel
        A ``threading.Event``; once set, the work stops before the next batch.

    Returns
    -------
    States

    Raises
    ------
    Cancelled
        If `cancel` was set.
    """
    import torch

    from scfm_lab.models.products import running

    if batch_size is not None and batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; a batch holds at least one cell.")
    device = torch.device(model.device)
    n = len(tokens)
    # A hidden layer may be wider or narrower than the cell's vector, so that the first batch tells the widths.
    cell = genes = None
    visible = np.flatnonzero(tokens.genes_seen > 0)
    lengths = tokens.lengths[visible]
    done = n - len(visible)
    _report(progress, done, n)
    limit = planned_tokens.get() or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    coming: _Coming | None = None

    def keep(found: _Coming) -> None:
        nonlocal cell, genes, done
        cell_states, gene_states = found.wait()
        if cell is None:
            cell = np.full((n, cell_states.shape[1]), np.nan, dtype=np.float32)
        cell[found.rows] = cell_states
        if gene_states is not None:
            if genes is None:
                genes = np.full((len(tokens.ids), gene_states.shape[1]), np.nan, dtype=np.float32)
            genes[found.places] = gene_states
        done += len(found.rows)
        _report(progress, done, n)

    for number, picked in enumerate(batches(lengths, tokens=limit, cells=batch_size or _CELLS_PER_BATCH)):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped; nothing was written.")
        rows = visible[picked]
        batch, places = make_batch(tokens, rows, device)
        with _turn, torch.inference_mode(), _quiet(), running(precision or model.compute):
            cell_states, gene_states = model._forward(batch, request)
        before, coming = coming, _Coming(rows, places, cell_states, gene_states if request.genes else None)
        if before is not None:
            keep(before)
        # A GPU works on while the next batch is made ready; states of all tokens would fill its memory meanwhile.
        if device.type != "cuda" or request.genes:
            keep(coming)
            coming = None
        if number % _TRIM_EVERY == _TRIM_EVERY - 1:
            give_back_memory()
    if coming is not None:
        keep(coming)
    if cell is None:
        cell = np.full((n, model.spec.width), np.nan, dtype=np.float32)
    if request.genes and genes is None:
        genes = np.full((len(tokens.ids), model.spec.width), np.nan, dtype=np.float32)
    return States(cell, genes)


class _Coming:
    """States of a batch on their way from the device."""

    def __init__(
        self, rows: NDArray[np.int64], places: NDArray[np.int64], cell: torch.Tensor, genes: torch.Tensor | None
    ) -> None:
        import torch

        self.rows, self.places = rows, places
        self._event = None
        self._states = [None if states is None else states.float() for states in (cell, genes)]
        if cell.device.type == "cuda":
            self._states = [None if states is None else states.to("cpu", non_blocking=True) for states in self._states]
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Of cells and of tokens, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        cell, genes = (None if states is None else states.cpu().numpy() for states in self._states)
        assert cell is not None
        return cell, genes


def make_batch(tokens: Tokens, rows: NDArray[np.int64], device: torch.device) -> tuple[Batch, NDArray[np.int64]]:
    """A batch of some cells on a device, and the flat places of its tokens."""
    from scfm_lab.models.ragged import over

    places, offsets = ragged_take(tokens.offsets, rows)

    def move(values: NDArray[Any]) -> torch.Tensor:
        if values.dtype == np.float64:
            values = values.astype(np.float32)  # MPS has no float64
        return over(values, device)

    batch = Batch(
        ids=move(tokens.ids[places]),
        values=None if tokens.values is None else move(tokens.values[places]),
        lengths=np.diff(offsets),
        offsets=offsets,
        positions=None if tokens.positions is None else move(tokens.positions[places]),
        cell={
            name: move(values[rows]) for name, values in tokens.cell.items() if np.asarray(values).dtype.kind in "biuf"
        },
        tokens=tokens,
    )
    return batch, places


def _report(progress: Callable[..., None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # PyTorch's prototype warnings (nested tensors) tell users nothing.
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors.*")
        yield
