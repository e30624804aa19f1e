"""Geneformer's own in-silico perturbation: genes deleted from, or put in front of, a cell's ranking.

These functions follow the reference to the letter, on tokens: which cells take part, what
overflows, what is compared with what. (Graded doses on counts, comparable between models,
are :func:`scfm_lab.perturb`'s.)

Read-outs: with ``<cls>`` (V2) the cosine of a cell's ``<cls>`` states before and after;
without (V1) the mean over the remaining genes of the cosine of each gene's states before and
after. Towards goal states: how much nearer the cell's vector comes to each state's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.blocks import blocks
from scfm_lab.errors import DataError, GenesError, did_you_mean
from scfm_lab.inference.precision import SAMPLE, for_effects
from scfm_lab.models.geneformer_pairs import Pairs, Specials, deleted, each, overexpressed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.geneformer import Geneformer
    from scfm_lab.models.tokens import Tokens

_CHUNK = 1 << 16
"""Tokens whose states are held at a time where genes are compared."""
_PIECE = 256


@dataclass(frozen=True)
class InSilico:
    """Cells before and after, and how far they moved."""

    kind: str
    """``"delete"`` or ``"overexpress"``."""
    cells: NDArray[np.int64]
    """Row (in the tokens given) of each perturbed cell."""
    genes: NDArray[np.int64]
    """Token that was perturbed in it; -1 where several were, together."""
    cosine: NDArray[np.float32]
    """Cosine before–after of each perturbed cell, by the family's read-out."""
    shift: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """For each goal state: cosine to it after minus before; positive: moved towards it."""
    per_gene: pd.DataFrame | None = None
    """Affected token, mean cosine of its states, and number of cells."""
    tokens: Tokens | None = None
    """The perturbed cells."""
    precision: str = "float32"
    """What it was computed in, a name that ``precision=`` of :func:`scfm_lab.load_model` reads."""
    precision_found: dict[str, Any] = field(default_factory=dict)
    """How a lower precision stood against float32, where one was tried."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per perturbed cell: cell, token, cosine, and a column per goal state."""
        import pandas as pd

        columns = {"cell": self.cells, "token": self.genes, "cosine": self.cosine}
        return pd.DataFrame({**columns, **{f"shift_{name}": values for name, values in self.shift.items()}})


def delete_genes(model: Geneformer, tokens: Tokens, genes: Sequence[str | int], **options: Any) -> InSilico:
    """Delete some genes together; cells that lack any of them take no part.

    Parameters
    ----------
    tokens
        Of ``model.tokenize``.
    genes
        Ensembl ids, symbols, or token ids.
    **options
        ``hidden_layer`` (None: as published), ``states`` (name → vector, :func:`state_embeddings`),
        ``per_gene`` (True: also every affected gene), ``progress``, ``cancel``.

    Returns
    -------
    InSilico
        Cells in the order of the tokens.

    Raises
    ------
    GenesError
        If a gene is unknown.
    DataError
        If no cell holds all of the genes.
    """
    return _evaluate(model, "delete", deleted(tokens, token_ids(model, genes), _specials(model)), **options)


def overexpress_genes(model: Geneformer, tokens: Tokens, genes: Sequence[str | int], **options: Any) -> InSilico:
    """Put some genes in front of every cell's ranking, also where they were absent.

    Parameters are those of :func:`delete_genes`.
    """
    ids = token_ids(model, genes)
    pairs = overexpressed(tokens, ids, _specials(model), max_length=model.spec.max_length)
    return _evaluate(model, "overexpress", pairs, **options)


def perturb_each(
    model: Geneformer,
    tokens: Tokens,
    kind: str = "delete",
    *,
    genes: Sequence[str | int] | None = None,
    **options: Any,
) -> InSilico:
    """Delete, or put in front, every gene of each cell in turn (the reference's mode ``all``).

    Parameters
    ----------
    kind
        ``"delete"`` or ``"overexpress"``; a gene that is in front already is not put there.
    genes
        Only these; None: all.
    **options
        As for :func:`delete_genes`.
    """
    if kind not in ("delete", "overexpress"):
        raise DataError(f"kind is {kind!r}; it is 'delete' or 'overexpress'.")
    wanted = None if genes is None else token_ids(model, genes)
    return _evaluate(model, kind, each(tokens, kind, _specials(model), wanted), **options)


def state_embeddings(
    model: Geneformer,
    tokens: Tokens,
    states: Sequence[str],
    *,
    statistic: str = "mean",
    hidden_layer: int | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Vector of each state: exact mean or median of its cells' vectors.

    Parameters
    ----------
    states
        State of each cell.
    statistic
        ``"mean"`` or ``"median"``.
    """
    names = np.asarray([str(s) for s in states], dtype=object)
    if len(names) != len(tokens):
        raise DataError(f"{len(names):,} states were given for {len(tokens):,} cells.")
    if statistic not in ("mean", "median"):
        raise DataError(f"statistic is {statistic!r}; it is 'mean' or 'median'.")
    vectors = model.encode(tokens, hidden_layer=hidden_layer).cell
    pool = np.nanmean if statistic == "mean" else np.nanmedian
    return {str(name): pool(vectors[names == name], axis=0).astype(np.float32) for name in sorted(set(names))}


def token_ids(model: Geneformer, genes: Sequence[str | int]) -> NDArray[np.int64]:
    """Token ids of genes.

    Raises
    ------
    GenesError
        If a gene is unknown; the nearest names are told.
    """
    found = []
    for gene in [genes] if isinstance(genes, (str, int)) else genes:
        token = int(gene) if isinstance(gene, (int, np.integer)) else model.vocabulary.id_of(str(gene))
        if token is None or not 0 <= token < len(model.vocabulary) or not model.vocabulary.ensembl[token]:
            raise GenesError(
                f"{model.spec.name} does not know the gene {gene!r}." + did_you_mean(str(gene), model.vocabulary.names)
            )
        if token in found:
            raise GenesError(f"{gene!r} is named twice.")
        found.append(token)
    if not found:
        raise GenesError("No gene was named.")
    return np.array(found, dtype=np.int64)


# --- states before and after -----------------------------------------------------------


def _evaluate(
    model: Geneformer,
    kind: str,
    pairs: Pairs,
    *,
    hidden_layer: int | None = None,
    states: Mapping[str, NDArray[np.float32]] | None = None,
    per_gene: bool = False,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> InSilico:
    options: dict[str, Any] = {"hidden_layer": hidden_layer, "states": states}

    def effects(precision: Precision) -> list[NDArray[np.float32]]:
        tried = _measure(model, kind, sample, precision=precision, cancel=cancel, **options)
        return [tried.cosine, *tried.shift.values()]

    precision, found = model.compute, dict[str, Any]()
    n = len(pairs.cells)
    if n >= 4 * SAMPLE:
        sample = pairs.take(np.linspace(0, n - 1, SAMPLE).astype(np.int64))
        precision, found = for_effects(model, sample.after, effects)
    result = _measure(
        model, kind, pairs, precision=precision, per_gene=per_gene, progress=progress, cancel=cancel, **options
    )
    return replace(result, precision_found=found)


def _measure(
    model: Geneformer,
    kind: str,
    pairs: Pairs,
    *,
    precision: Precision,
    hidden_layer: int | None,
    states: Mapping[str, NDArray[np.float32]] | None,
    per_gene: bool = False,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> InSilico:
    options = {"hidden_layer": hidden_layer, "cancel": cancel, "precision": precision}
    by_gene = per_gene or not model.has_cls
    cosine = np.empty(len(pairs.cells), dtype=np.float32)
    after = np.empty((len(pairs.cells), model.spec.width), dtype=np.float32)
    sums = np.zeros(len(model.vocabulary))
    seen = np.zeros(len(model.vocabulary), dtype=np.int64)
    before = model.encode(pairs.before, genes=by_gene, **options)
    for first, last in blocks(pairs.after.lengths, _CHUNK if by_gene else 64 * _CHUNK):
        part = pairs.after.take(np.arange(first, last))
        found = model.encode(part, genes=by_gene, **options)
        after[first:last] = found.cell
        if by_gene:
            assert found.genes is not None
            assert before.genes is not None
            low, high = np.searchsorted(pairs.segments, (first, last))
            here, segment = pairs.here[low:high], pairs.segments[low:high]
            there = pairs.before.offsets[pairs.of[segment]] + pairs.there[low:high]
            similar = _cosine_of(found.genes, here - pairs.after.offsets[first], before.genes, there)
            counts = np.bincount(segment - first, minlength=last - first)
            summed = np.bincount(segment - first, weights=similar, minlength=last - first)
            # A cell that has no other gene has nothing to be compared.
            cosine[first:last] = np.where(counts > 0, summed / np.maximum(counts, 1), np.nan)
            if per_gene:
                affected = pairs.after.ids[here]
                sums += np.bincount(affected, weights=similar, minlength=len(sums))
                seen += np.bincount(affected, minlength=len(seen))
        if progress is not None:
            progress(last, len(pairs.cells))
    vectors = before.cell[pairs.of]
    if model.has_cls:
        cosine = _cosine(after, vectors)
    shift = {}
    for name, goal in (states or {}).items():
        vector = np.asarray(goal, np.float32)
        if vector.shape != (model.spec.width,):
            raise DataError(f"The vector of state {name!r} has the shape {vector.shape}, not ({model.spec.width},).")
        shift[str(name)] = _cosine(after, vector[None]) - _cosine(vectors, vector[None])
    table = None
    if per_gene:
        import pandas as pd

        affected = np.flatnonzero(seen)
        table = pd.DataFrame({"token": affected, "cosine": sums[affected] / seen[affected], "n_cells": seen[affected]})
    return InSilico(kind, pairs.cells, pairs.genes, cosine, shift, table, pairs.after, str(precision))


def _cosine_of(
    a: NDArray[np.float32], rows: NDArray[np.int64], b: NDArray[np.float32], others: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosine of each pair of rows, in pieces that stay in the processor's cache."""
    out = np.empty(len(rows), dtype=np.float32)
    for begin in range(0, len(rows), _PIECE):
        part = slice(begin, begin + _PIECE)
        out[part] = _cosine(a[rows[part]], b[others[part]])
    return out


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.sqrt(np.vecdot(a, a) * np.vecdot(b, b))
    return (np.vecdot(a, b) / np.maximum(norms, 1e-12)).astype(np.float32)


def _specials(model: Geneformer) -> Specials:
    return model.cls_id, model.eos_id
