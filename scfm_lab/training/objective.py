"""Masked gene modelling on counts: what is hidden from the network, and how it is scored.

Two ways of hiding are combined in every cell. Whole genes are hidden (masked ones, those
outside a random panel, and those beyond the length limit); and of the genes that stay, part
of the molecules may be hidden by binomial thinning. The network sees the rest, and the
Poisson likelihood of exactly the hidden molecules is the loss. Nothing it is scored on was
in its input, so that copying noise does not pay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_lab.models.starter_net import StarterNet
    from scfm_lab.training.corpus import CellSet

#: Rates are never below this many counts per 10,000, so that genes without a count stay finite.
FLOOR = 1e-3


@dataclass(frozen=True)
class Masking:
    """How much is hidden."""

    masked: tuple[float, float] = (0.15, 0.4)
    """Share of all measured genes that is hidden, drawn per cell."""
    thin: float = 0.5
    """Share of the cells that are thinned, to between 0.3 and 1 of their molecules."""
    panel: float = 0.4
    """Share of the cells that are seen through a random gene panel."""
    lengths: tuple[int, ...] = (64, 96, 128, 192, 256, 448)
    """Length limits in tokens; one is drawn per batch."""
    queries: int = 32
    """Hidden genes asked of the token head, per cell."""


@dataclass(frozen=True)
class Batch:
    """What one step sees. B cells, L tokens, V genes, Q queries."""

    ids: Tensor
    values: Tensor
    mask: Tensor
    query: Tensor
    measured: Tensor
    """bool [B, V]: genes that the network is told to be measured."""
    hidden: Tensor
    """float32 [B, V]: hidden molecules."""
    exposure: Tensor
    """float32 [B, V]: library size (in 10,000) of what was hidden; 0 where nothing was."""
    asked: Tensor
    """int64 [B, Q]: vocabulary ids of the queries."""
    weight: Tensor
    """float32 [B, Q]: inverse of how often a gene is asked for."""


def mean_rates(sets: list[CellSet]) -> NDArray[np.float64]:
    """Mean counts per 10,000 of each gene over the cells that measure it, at least :data:`FLOOR`."""
    summed = np.zeros(len(sets[0].measured))
    cells = np.zeros_like(summed)
    for cellset in sets:
        weights = 1e4 / cellset.total
        summed += np.asarray(cellset.counts.T @ weights).ravel()
        cells += cellset.measured * len(cellset)
    return np.maximum(summed / np.maximum(cells, 1), FLOOR)


def moments(sets: list[CellSet]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of log1p(counts per 10,000) of each gene over the cells that measure it."""
    first = np.zeros(len(sets[0].measured))
    second, cells = np.zeros_like(first), np.zeros_like(first)
    for cellset in sets:
        logged = cellset.counts.multiply(1e4 / cellset.total[:, None]).tocsr().log1p()
        first += np.asarray(logged.sum(0)).ravel()
        second += np.asarray(logged.multiply(logged).sum(0)).ravel()
        cells += cellset.measured * len(cellset)
    n = np.maximum(cells, 1)
    mean = first / n
    return mean, np.maximum(second / n - mean**2, 0.0)


def random_panel(rng: np.random.Generator, dispersion: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A gene panel: half the time random genes, half the time mostly variable ones, as panels are made."""
    n_genes = len(dispersion)
    if rng.random() < 0.5:
        return rng.random(n_genes) < np.exp(rng.uniform(np.log(0.05), 0.0))
    size = int(n_genes * np.exp(rng.uniform(np.log(0.03), np.log(0.3))))
    score = np.log(dispersion + 1e-6) + rng.gumbel(size=n_genes)
    panel = np.zeros(n_genes, dtype=bool)
    panel[np.argpartition(-score, size)[:size]] = True
    return panel


def make_batch(
    cellset: CellSet,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    masking: Masking,
    rates: NDArray[np.float64],
    dispersion: NDArray[np.float64],
) -> Batch:
    """Hide parts of some cells of one set; every random choice is drawn from `rng`."""
    import torch

    n_genes = len(cellset.measured)
    limit = int(rng.choice(masking.lengths))
    hidden = np.zeros((len(rows), n_genes), dtype=np.float32)
    exposure = np.zeros_like(hidden)
    asked = np.zeros((len(rows), masking.queries), dtype=np.int64)
    weight = np.zeros(asked.shape, dtype=np.float32)
    measured = np.zeros(hidden.shape, dtype=bool)
    shown: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    for b, row in enumerate(rows):
        span = slice(cellset.counts.indptr[row], cellset.counts.indptr[row + 1])
        genes = cellset.counts.indices[span].astype(np.int64)
        counts = cellset.counts.data[span].astype(np.int64)
        total = float(cellset.total[row])
        share = rng.uniform(0.3, 1.0) if rng.random() < masking.thin else 1.0
        seen = rng.binomial(counts, share) if share < 1 else counts
        visible = rng.random(n_genes) >= rng.uniform(*masking.masked)
        if rng.random() < masking.panel:
            visible &= random_panel(rng, dispersion)
        kept = (seen > 0) & visible[genes]
        if kept.sum() > limit:
            visible &= rng.random(n_genes) < limit / kept.sum()
            kept &= visible[genes]
        measured[b] = cellset.measured & visible
        exposure[b] = cellset.measured * np.where(visible, total * (1 - share), total) / 1e4
        hidden[b, genes] = np.where(visible[genes], counts - seen, counts)
        shown.append((genes[kept], np.log1p(seen[kept] / (total * share) * 1e4).astype(np.float32)))
        # Half of the queries by what was hidden, half by how common a gene is: both signs of the likelihood.
        wholly = cellset.measured & ~visible
        common = np.where(wholly, rates, 0.0)
        here = np.zeros(n_genes)
        here[genes] = counts * wholly[genes]
        chance = common / max(common.sum(), 1e-12)
        if here.sum() > 0:
            chance = 0.5 * chance + 0.5 * here / here.sum()
        asked[b] = np.searchsorted(np.cumsum(chance)[:-1], rng.random(masking.queries) * chance.sum())
        weight[b] = 1.0 / (masking.queries * np.maximum(chance[asked[b]], 1e-12))

    longest = max(len(g) for g, _ in shown)
    length = 1 + longest + masking.queries
    ids = np.zeros((len(rows), length), dtype=np.int64)
    values = np.zeros(ids.shape, dtype=np.float32)
    mask = np.zeros(ids.shape, dtype=bool)
    query = np.zeros(ids.shape, dtype=bool)
    mask[:, 0] = True
    for b, (genes, v) in enumerate(shown):
        ids[b, 1 : 1 + len(genes)] = genes + 1
        values[b, 1 : 1 + len(genes)] = v
        mask[b, 1 : 1 + len(genes)] = True
    ids[:, 1 + longest :] = asked + 1
    mask[:, 1 + longest :] = True
    query[:, 1 + longest :] = True
    parts = (ids, values, mask, query, measured, hidden, exposure, asked, weight)
    return Batch(*(torch.from_numpy(p) for p in parts))


def losses(net: StarterNet, batch: Batch, baseline: Tensor, gene_weight: Tensor) -> dict[str, Any]:
    """Poisson loss of the hidden molecules, in nats per expected (weighted) molecule.

    Parameters
    ----------
    baseline
        log of :func:`mean_rates`, float32 [V].
    gene_weight
        float32 [V]. The best rate of a gene does not depend on its weight; how much of the
        network's small capacity it gets does.

    Returns
    -------
    dict
        ``cell`` (from the cell's vector), ``token`` (from the queries), and ``floor``: the loss
        of predicting each gene's mean rate, on the scale of ``cell``.
    """
    states = net(batch.ids, batch.values, batch.mask, batch.query, batch.measured)
    weighted = gene_weight * baseline.exp()
    mean = batch.exposure @ weighted
    expected = mean.clamp_min(0.1)
    # exp of more than the whole library would only overflow.
    rate = net.rate(net.embed_cell(states)).clamp(max=9.2)
    cell = ((batch.exposure * rate.exp() - batch.hidden * rate) @ gene_weight) / expected
    floor = (mean - batch.hidden @ (gene_weight * baseline)) / expected

    asked = net.token_rate(states[:, -batch.asked.shape[1] :], batch.asked).clamp(max=9.2)
    counts, exposed = batch.hidden.gather(1, batch.asked), batch.exposure.gather(1, batch.asked)
    weight = batch.weight * gene_weight[batch.asked]
    library = batch.exposure.amax(1, keepdim=True)
    wholly = ((batch.exposure * (batch.exposure >= library)) @ weighted).clamp_min(0.1)
    token = (weight * (exposed * asked.exp() - counts * asked)).sum(1) / wholly
    return {"cell": cell.mean(), "token": token.mean(), "floor": floor.mean()}
