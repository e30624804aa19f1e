"""From TranscriptFormer's tokens to sequences, states and sums: what all of its outputs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is needed)

from scfm_lab.errors import ModelError
from scfm_lab.models import ragged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.protein_table import EncodedRows
    from scfm_lab.models.transcriptformer_genes import TokenIds
    from scfm_lab.models.transcriptformer_net import TfNet


@dataclass(frozen=True)
class Sequences:
    """What enters the first layer: labels, the start token, then the genes, one place behind the gene they predict."""

    states: Tensor
    """(places, width)."""
    counts: Tensor
    """(places,): 1 at labels and start."""
    lengths: NDArray[np.int64]
    """Places of each cell."""
    first: NDArray[np.int64]
    """Flat place of each cell's start token."""
    visible: Tensor | None
    """Bool (places,): False where nothing may read; None: all may be read."""
    real: Tensor
    """Bool (tokens,): False at tokens that are padding and take no part."""
    genes: NDArray[np.int64]
    """Tokens of each cell that take part."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """Flat place behind each cell's last."""
        return np.cumsum(self.lengths)

    def token_places(self) -> Tensor:
        """The place that predicts each token that takes part, flat."""
        at = np.arange(int(self.genes.sum())) + np.repeat(self.first - (np.cumsum(self.genes) - self.genes), self.genes)
        return torch.as_tensor(at, device=self.states.device)

    def sums(self, states: Tensor) -> Tensor:
        """Sum over each cell's start and genes, labels left out; (places, …) → (cells, …), float32."""
        if states.device.type == "cuda":
            return self._sums_at_once(states)
        return torch.stack(
            [states[a:b].float().sum(0) for a, b in zip(self.first.tolist(), self.ends.tolist(), strict=True)]
        )

    def _sums_at_once(self, states: Tensor) -> Tensor:
        """The same in one launch: labels and genes in turn, of which every second sum is kept."""
        labels = self.first - (self.ends - self.lengths)
        turns = np.stack([labels, self.lengths - labels], axis=1).ravel()
        return ragged.reduce("sum", states, turns)[1::2]


def sequences(
    net: TfNet,
    rows: EncodedRows,
    ids: TokenIds,
    aux: Mapping[str, Mapping[str, int]],
    batch: Batch,
    *,
    whole: bool = False,
) -> Sequences:
    """Lay the tokens of a batch out as the network reads them.

    Parameters
    ----------
    whole
        Keep also what cannot be read (labels that are unknown, padding), hidden from the others,
        as the reference computes it; else it is left out, which changes no other state.

    Raises
    ------
    ModelError
        If the tokens have no counts, or a label has no number.
    """
    if batch.values is None:
        raise ModelError("transcriptformer needs the counts of its tokens (values); make them with model.tokenize.")
    device, seq_len = batch.ids.device, net.settings.seq_len
    tokens, counts, lengths = batch.ids, batch.values, batch.lengths
    real = tokens != ids.hidden
    shown = np.add.reduceat(real.cpu().numpy().astype(np.int64), batch.offsets[:-1])
    if not whole and int(shown.sum()) < len(tokens):
        tokens, counts, lengths = tokens[real], counts[real], shown
    n_inputs = np.minimum(lengths, seq_len - 1)
    if not whole and "n_inputs" in batch.cell:
        n_inputs = np.minimum(batch.cell["n_inputs"].cpu().numpy().reshape(-1), lengths)
    labels, unknown = _labels(net, aux, batch)
    kept_labels = np.ones_like(unknown) if whole else ~unknown
    before = kept_labels.sum(axis=1)
    total = before + 1 + n_inputs
    ends = np.cumsum(total)
    first = ends - total + before

    # Inputs are the tokens but for those that are only predicted, one place later than they stand.
    starts = np.cumsum(lengths) - lengths
    within = np.arange(int(n_inputs.sum())) - np.repeat(np.cumsum(n_inputs) - n_inputs, n_inputs)
    source = torch.as_tensor(within + np.repeat(starts, n_inputs), device=device)
    target = torch.as_tensor(within + np.repeat(first + 1, n_inputs), device=device)
    begin = torch.as_tensor(first, device=device)
    flat = torch.full((int(ends[-1]),), ids.start, dtype=torch.int64, device=device)
    flat[target] = tokens[source]
    told = counts.new_ones(len(flat))
    told[target] = counts[source]
    is_gene = torch.zeros(len(flat), dtype=torch.bool, device=device)
    is_gene[target] = True
    is_gene[begin] = True
    states = net.any_weight.new_empty((len(flat), net.settings.embed_dim))
    states[is_gene] = rows(flat[is_gene])
    visible = torch.ones(len(flat), dtype=torch.bool, device=device)
    visible[target] = tokens[source] != ids.hidden
    offset = first - before
    for column, (name, values) in enumerate(labels.items()):
        cells = np.flatnonzero(kept_labels[:, column])
        at = torch.as_tensor(offset[cells] + kept_labels[cells, :column].sum(axis=1), device=device)
        states[at] = net.aux_embeddings[name](torch.as_tensor(values[cells], device=device))
        visible[at] = torch.as_tensor(~unknown[cells, column], device=device)
    return Sequences(
        states=states,
        counts=told,
        lengths=total,
        first=first,
        visible=visible if whole else None,
        real=torch.ones_like(real) if whole else real,
        genes=lengths,
    )


def _labels(
    net: TfNet, aux: Mapping[str, Mapping[str, int]], batch: Batch
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.bool_]]:
    """Ids of the cells' labels by column, and where they are unknown, (cells, columns)."""
    labels: dict[str, NDArray[np.int64]] = {}
    unknown = np.zeros((len(batch), len(aux)), dtype=bool)
    for column, (name, vocabulary) in enumerate(aux.items()):
        told = batch.cell.get(name)
        values = np.full(len(batch), vocabulary["unknown"]) if told is None else told.cpu().numpy().reshape(-1)
        size = len(vocabulary)
        if len(values) != len(batch) or values.min(initial=0) < 0 or values.max(initial=0) >= size:
            raise ModelError(f"The tokens name labels of {name} that are not among its {size}.")
        labels[name] = values.astype(np.int64)
        # Any column's number for "unknown" hides a label of every column, as in the reference.
        unknown[:, column] = np.isin(values, [v["unknown"] for v in aux.values()])
    return labels, unknown


def run(
    net: TfNet, seq: Sequences, n_layers: int, *, training: bool = False, every: list[Tensor] | None = None
) -> Tensor:
    """States after some layers, (places, width); `every` receives those after each."""
    attend = net.attend(seq.counts, seq.lengths, seq.visible, training=training)
    states = seq.states
    for layer in net.layers[:n_layers]:
        states = layer(states, attend)
        if every is not None:
            every.append(states)
    return states


def run_sums(net: TfNet, seq: Sequences, n_layers: int) -> Tensor:
    """Sums of the states after some layers over each cell, (cells, width), float32, with less work than :func:`run`."""
    if n_layers == 0:
        return seq.sums(seq.states)
    states = run(net, seq, n_layers - 1)
    attend = net.attend(seq.counts, seq.lengths, seq.visible, training=False)
    counts = torch.as_tensor(seq.ends - seq.first, device=states.device)
    return net.layers[n_layers - 1].sums(states, attend, seq.sums, counts)


def expand(states: Tensor, real: Tensor) -> Tensor:
    """States of the tokens that take part → of all tokens, NaN at padding."""
    if len(states) == len(real):
        return states
    return states.new_full((len(real), states.shape[1]), torch.nan).masked_scatter(real[:, None], states)


def fill(
    ids: NDArray[np.int64], counts: NDArray[np.float32], lengths: NDArray[np.int64], seq_len: int, pad: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Fill every cell up to `seq_len` tokens with padding."""
    full = np.maximum(lengths, seq_len)
    at = np.arange(len(ids)) + np.repeat(np.cumsum(full) - full - (np.cumsum(lengths) - lengths), lengths)
    out = np.full(int(full.sum()), pad, np.int64)
    values = np.zeros(len(out), np.float32)
    out[at], values[at] = ids, counts
    return out, values, full
