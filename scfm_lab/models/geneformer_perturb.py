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
from scfm_lab.inference.precision import SAMPLE, Precision, for_effects
from scfm_lab.models.geneformer_pairs import NothingToPerturb, Pairs, Specials, deleted, each, overexpressed
from scfm_lab.models.geneformer_tally import PairTally
from scfm_lab.models.tokens import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from scfm_lab.models.geneformer import Geneformer
    from scfm_lab.models.tokens import Tokens

_CHUNK = 1 << 16
"""Tokens whose states are held at a time where genes are compared."""
_COPIES = 1 << 21
"""Tokens of perturbed cells that are made at a time."""
_MOST_KEPT = 1 << 22
"""Tokens of perturbed cells that a result keeps."""
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
    """Affected token, mean cosine of its states, number of cells, and the token that was perturbed (-1: several together)."""
    cosines: dict[tuple[int, int], NDArray[np.float32]] | None = None
    """(perturbed token, affected token) → cosine in each cell, where ``per_gene="lists"`` asked for them."""
    tokens: Tokens | None = None
    """The perturbed cells; None where they are more than four million tokens."""
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
        ``per_gene`` (True: also every affected gene, by the gene that was perturbed; ``"lists"``: and its cosine in each
        cell, which takes memory), ``precision`` (a name that is taken without a trial), ``progress``
        (told cells done, and all), ``cancel``.

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
    ids, specials = token_ids(model, genes), _specials(model)
    return _evaluate(model, "delete", tokens, lambda some, _=None: [deleted(some, ids, specials)], **options)


def overexpress_genes(model: Geneformer, tokens: Tokens, genes: Sequence[str | int], **options: Any) -> InSilico:
    """Put some genes in front of every cell's ranking, also where they were absent.

    Parameters are those of :func:`delete_genes`.
    """
    ids, specials, most = token_ids(model, genes), _specials(model), model.spec.max_length
    return _evaluate(
        model,
        "overexpress",
        tokens,
        lambda some, _=None: [overexpressed(some, ids, specials, max_length=most)],
        **options,
    )


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
    wanted, specials = None if genes is None else token_ids(model, genes), _specials(model)
    copies = int(tokens.lengths.max(initial=1)) if wanted is None else len(wanted)

    def make(some: Tokens, spread: int | None = None) -> Iterator[Pairs]:
        return each(some, kind, specials, wanted, most=_COPIES, spread=spread)

    return _evaluate(model, kind, tokens, make, copies=copies, **options)


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

    Raises
    ------
    DataError
        If the model sees a gene in no cell of a state.
    """
    names = np.asarray([str(s) for s in states], dtype=object)
    if len(names) != len(tokens):
        raise DataError(f"{len(names):,} states were given for {len(tokens):,} cells.")
    if statistic not in ("mean", "median"):
        raise DataError(f"statistic is {statistic!r}; it is 'mean' or 'median'.")
    vectors = model.encode(tokens, hidden_layer=hidden_layer).cell
    seen = np.isfinite(vectors).all(axis=1)
    empty = sorted(set(names) - set(names[seen]))
    if empty:
        raise DataError(
            f"{model.spec.name} sees a gene in no cell of the state {str(empty[0])!r}; leave that state out."
        )
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
    tokens: Tokens,
    make: Callable[..., Iterable[Pairs]],
    *,
    copies: int = 1,
    hidden_layer: int | None = None,
    states: Mapping[str, NDArray[np.float32]] | None = None,
    per_gene: bool | str = False,
    precision: str | None = None,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> InSilico:
    """Perturb some cells at a time, so that their copies are never all in memory.

    Parameters
    ----------
    make
        Gives the perturbed cells of some of the tokens, some at a time; or about so many of them, spread over all.
    copies
        Perturbed cells that one cell has at most.
    """
    if per_gene not in (True, False, "lists"):
        raise DataError(f"per_gene is {per_gene!r}; it is True, False or 'lists'.")
    options: dict[str, Any] = {"hidden_layer": hidden_layer, "states": states, "cancel": cancel}
    cost = tokens.lengths * np.minimum(copies, tokens.lengths)
    chosen, found = _precision(model, kind, tokens, make, cost, precision, options)
    tally = PairTally(len(model.vocabulary), keep=per_gene == "lists") if per_gene else None
    parts: list[InSilico] = []
    kept: list[Tokens] | None = []
    nothing: DataError | None = None
    for first, last in blocks(cost, _COPIES):
        try:
            for pairs in make(tokens.take(np.arange(first, last))):
                part = _measure(model, kind, pairs, precision=chosen, tally=tally, **options)
                parts.append(replace(part, cells=part.cells + first))
                if kept is not None:
                    kept.append(pairs.after)
                    kept = kept if sum(len(some.ids) for some in kept) <= _MOST_KEPT else None
        except NothingToPerturb as error:
            nothing = error
            continue
        if progress is not None:
            progress(last, len(tokens))
    if not parts:
        raise nothing or NothingToPerturb("There are no cells to be perturbed.")
    return InSilico(
        kind,
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.genes for part in parts]),
        np.concatenate([part.cosine for part in parts]),
        {name: np.concatenate([part.shift[name] for part in parts]) for name in parts[0].shift},
        None if tally is None else tally.table(),
        None if tally is None or not tally.keep else tally.lists(),
        None if kept is None else joined(kept),
        str(chosen),
        found,
    )


def _precision(
    model: Geneformer,
    kind: str,
    tokens: Tokens,
    make: Callable[..., Iterable[Pairs]],
    cost: NDArray[np.int64],
    asked: str | None,
    options: Mapping[str, Any],
) -> tuple[Precision, dict[str, Any]]:
    """What was asked for, else what keeps the effects in some perturbed cells of cells all over the tokens."""
    if asked is not None and asked != "auto":
        return Precision.parse(asked), {}
    if not len(tokens):
        return model.compute, {}
    few = int(np.clip(_COPIES // max(cost.max(), 1), 1, SAMPLE))
    rows = np.unique(np.linspace(0, len(tokens) - 1, few).astype(np.int64))
    try:
        pairs = next(iter(make(tokens.take(rows), 4 * SAMPLE)))
    except NothingToPerturb:
        return model.compute, {}
    if len(pairs.cells) < 4 * SAMPLE and len(pairs.cells) / len(rows) * len(tokens) < 4 * SAMPLE:
        return model.compute, {}
    sample = pairs.take(np.unique(np.linspace(0, len(pairs.cells) - 1, SAMPLE).astype(np.int64)))

    def effects(precision: Precision) -> list[NDArray[np.float32]]:
        tried = _measure(model, kind, sample, precision=precision, **options)
        return [tried.cosine, *tried.shift.values()]

    return for_effects(model, sample.after, effects)


def _measure(
    model: Geneformer,
    kind: str,
    pairs: Pairs,
    *,
    precision: Precision,
    hidden_layer: int | None,
    states: Mapping[str, NDArray[np.float32]] | None,
    tally: PairTally | None = None,
    cancel: Any = None,
) -> InSilico:
    """Cells before and after; the cosines of affected genes are added to `tally`."""
    options = {"hidden_layer": hidden_layer, "cancel": cancel, "precision": precision}
    by_gene = tally is not None or not model.has_cls
    cosine = np.empty(len(pairs.cells), dtype=np.float32)
    after = np.empty((len(pairs.cells), model.spec.width), dtype=np.float32)
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
            if tally is not None:
                tally.add(pairs.genes[segment], pairs.after.ids[here], similar)
    vectors = before.cell[pairs.of]
    if model.has_cls:
        cosine = _cosine(after, vectors)
    shift = {}
    for name, goal in (states or {}).items():
        vector = np.asarray(goal, np.float32)
        if vector.shape != (model.spec.width,):
            raise DataError(f"The vector of state {name!r} has the shape {vector.shape}, not ({model.spec.width},).")
        shift[str(name)] = _cosine(after, vector[None]) - _cosine(vectors, vector[None])
    return InSilico(kind, pairs.cells, pairs.genes, cosine, shift, precision=str(precision))


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
