"""Genes that a model holds for alike, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.blocks import blocks
from scfm_lab.errors import DataError, GenesError, ModelError, did_you_mean
from scfm_lab.evaluation.nulls import benjamini_hochberg
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

KINDS = ("input", "contextual")
_FEWEST_CELLS = 10
_HUB_QUERIES = 1000
_STATES = 1 << 16
"""Tokens whose states are held at a time."""


@dataclass(frozen=True, repr=False)
class SimilarGenes(Result):
    """The genes nearest to a gene."""

    gene: str
    table: pd.DataFrame
    """gene, cosine, hubness (how often the gene is among the nearest of other genes, 1 = as often as any) and, where cells were
    given, detection (share of cells that express it)."""
    enrichment: pd.DataFrame | None
    """gene_set, n_set (genes of it that the model knows), overlap, expected, p_value, q_value, genes."""
    embedding: str
    """Which vectors were compared."""
    expression_correlation: float
    """Spearman correlation of all genes' cosine with how often they are detected; NaN without cells."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """The neighbours, the sets they are enriched in, and what else could explain them."""
        near = ", ".join(f"{r.gene} ({r.cosine:.2f})" for r in self.table.head(8).itertuples())
        lines = [f"Nearest to {self.gene} in {self.embedding}: {near}."]
        if self.enrichment is not None:
            hits = self.enrichment[self.enrichment["q_value"] <= 0.05]
            named = ", ".join(
                f"{r.gene_set} ({r.overlap} where {r.expected:.1f} are expected, q = {r.q_value:.2g})"
                for r in hits.head(4).itertuples()
            )
            lines.append(
                f"Enriched in {named}."
                if named
                else f"Enriched in none of {len(self.enrichment):,} gene sets (q ≤ 0.05)."
            )
        if np.isfinite(self.expression_correlation):
            lines.append(
                f"Over all genes the cosine goes with how often a gene is detected (Spearman {self.expression_correlation:+.2f}): "
                "so much of it may be expression alone."
            )
        hubs = int((self.table["hubness"] > 5).sum())
        if hubs:
            lines.append(f"{hubs} of the {len(self.table)} are hubs, near to very many genes (hubness above 5).")
        lines.append("Similar vectors are a hint and no evidence of a shared function or regulation.")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Cosine of the neighbours (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_bar()
            .encode(
                x=alt.X("cosine:Q"),
                y=alt.Y("gene:N", sort="-x", title=None),
                color=alt.Color("hubness:Q", scale=alt.Scale(scheme="cividis")),
                tooltip=list(self.table.columns),
            )
        )


def similar_genes(
    model: Model | str | Path,
    gene: str,
    *,
    kind: str = "input",
    adata: AnnData | None = None,
    hidden_layer: int | None = None,
    n: int = 20,
    gene_sets: Mapping[str, Iterable[str]] | str | Path | None = None,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SimilarGenes:
    """The genes whose vectors are nearest to a gene's, by cosine.

    Parameters
    ----------
    model
        A model or source.
    gene
        Symbol, Ensembl id or alias.
    kind
        ``"input"``: the table that the model reads genes from. ``"contextual"``: the mean state of each gene over the cells of
        `adata` that express it (ten or more).
    adata
        Cells with raw counts: needed for contextual vectors; with input vectors, to tell how much expression explains.
    hidden_layer
        Of contextual states: None the last, else Python's counting (-2 the one before).
    n
        Neighbours.
    gene_sets
        Tests for enrichment: a dict name → genes, the path of a GMT file, or a named dataset such as ``"human_hallmark"``. The
        test is hypergeometric among all genes that were compared, with Benjamini–Hochberg correction; it takes genes for
        independent draws, which they are not.

    Returns
    -------
    SimilarGenes

    Raises
    ------
    GenesError
        If the model does not know the gene, or too few cells express it.
    ModelError
        If the model has no such vectors.
    DataError
        If a kind is unknown, or cells or gene sets are missing.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> sl.similar_genes("starter", "CD3D", n=5).table.shape[0]
    5
    """
    from scfm_lab.models.load import as_model

    if kind not in KINDS:
        raise DataError(f"There is no kind {kind!r}; kinds: {', '.join(KINDS)}.")
    if n < 1:
        raise DataError(f"n is {n}; at least one neighbour has to be asked for.")
    opened = as_model(model)
    sets = None if gene_sets is None else read_gene_sets(gene_sets)
    cells = None
    if adata is not None:
        cells = opened.read_cells(adata, layer=layer, options=opened.check_options(options))
        opened.require_vocabulary(cells.genes, options)
    if kind == "input":
        if hidden_layer is not None:
            raise DataError(
                "hidden_layer is one of contextual states; ask for kind='contextual' and give cells (adata=)."
            )
        table = opened.gene_embeddings()
        ids, vectors = opened.vocabulary.ids_of(table.index), table.to_numpy(dtype=np.float32)
        names = np.where(ids >= 0, opened.vocabulary.names[ids], table.index.astype(str)).astype(object)
        embedding = f"the input embedding of {opened.name}"
    else:
        ids, vectors = contextual_embeddings(opened, cells, hidden_layer=hidden_layer, options=options, seed=seed)
        names = opened.vocabulary.names[ids].astype(object)
        which = "the last layer" if hidden_layer is None else f"layer {hidden_layer}"
        embedding = f"the states of {opened.name} ({which}) over {0 if adata is None else adata.n_obs:,} cells"
    at = _place(opened, gene, ids, names)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit[at]
    cosine[at] = -np.inf
    near = np.argsort(-cosine, kind="stable")[: min(n, len(names) - 1)]
    detection = None if cells is None else _detection(opened, cells, ids, options)
    import pandas as pd

    found = pd.DataFrame(
        {"gene": names[near], "cosine": cosine[near], "hubness": _hubness(unit, len(near), seed)[near]}
    )
    correlation = np.nan
    if detection is not None:
        found["detection"] = detection[near]
        correlation = _correlation(np.delete(cosine, at), np.delete(detection, at))
    return SimilarGenes(
        gene=str(names[at]),
        table=found,
        enrichment=None if sets is None else enrichment(names[near], np.delete(names, at), sets),
        embedding=embedding,
        expression_correlation=correlation,
        provenance=provenance.of_model(
            opened,
            task="similar_genes",
            gene=str(names[at]),
            embedding=embedding,
            arguments=provenance.arguments(
                kind=kind, n=n, hidden_layer=hidden_layer, layer=layer, options=options, seed=seed
            ),
        ),
    )


def contextual_embeddings(
    model: Model,
    data: AnnData | Cells | None,
    *,
    hidden_layer: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Vocabulary ids and mean states, float32 (genes, width), of the genes that ten or more cells express.

    Where a model reads a gene of a cell several times, the cell counts once, with the mean of its states.

    Raises
    ------
    ModelError
        If the model has no states of genes.
    """
    if data is None:
        raise DataError("Contextual vectors are states of genes in cells; give the cells with adata=.")
    if not model.spec.layers:
        raise _no_states(model)
    tokens = model.tokenize(data, options=options, seed=seed)
    size = len(model.vocabulary)
    total, seen = np.zeros((size, 0)), np.zeros(size, dtype=np.int64)
    # The states of all genes in all cells would be gigabytes; where cells depend on each other they have to stay together.
    apart = not model.depends_on_others(model.check_options(options))
    for first, last in blocks(tokens.lengths, _STATES) if apart else [(0, len(tokens))]:
        some = tokens.take(np.arange(first, last))
        states = model.encode(some, genes=True, hidden_layer=hidden_layer).genes
        if states is None:
            raise _no_states(model)
        if not total.size:
            total = np.zeros((size, states.shape[1]))
        ids = model.vocabulary_ids(some)
        # Cells that are not read have tokens and no states.
        read = np.flatnonzero((ids >= 0) & np.isfinite(states[:, 0]))
        cell = np.repeat(np.arange(len(some)), some.lengths)
        pairs, which, times = np.unique(cell[read] * size + ids[read], return_inverse=True, return_counts=True)
        seen += np.bincount(pairs % size, minlength=size)
        np.add.at(total, ids[read], states[read] / times[which, None])
    often = np.flatnonzero(seen >= _FEWEST_CELLS)
    if len(often) < 3:
        raise GenesError(f"Fewer than three genes are expressed in {_FEWEST_CELLS} cells; give more cells.")
    return often, (total[often] / seen[often, None]).astype(np.float32)


def _no_states(model: Model) -> ModelError:
    return ModelError(f"{model.spec.name} has no state of a gene in a cell; ask for kind='input'.")


def read_gene_sets(source: Mapping[str, Iterable[str]] | str | Path) -> dict[str, list[str]]:
    """Gene sets of a dict, a GMT file or a named dataset.

    Raises
    ------
    DataError
        If there are none.
    """
    if hasattr(source, "items"):
        return {str(k): [str(g) for g in v] for k, v in source.items()}
    path = Path(source).expanduser()
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a GMT file ({error}).") from error
        found = {p[0]: [g for g in p[2:] if g] for p in (line.split("\t") for line in lines) if len(p) > 2}
        if not found:
            raise DataError(
                f"{path} holds no gene sets; a GMT file has a line for each: name, description, genes, tabs between."
            )
        return found
    if path.suffix:
        raise DataError(f"There is no file {path}; give a GMT file, a dict, or a dataset such as 'human_hallmark'.")
    from scfm_lab import datasets

    loaded = datasets.load(str(source))
    if not isinstance(loaded, dict):
        raise DataError(f"The dataset {source!r} holds no gene sets; 'human_hallmark' does.")
    return loaded


def enrichment(chosen: Iterable[str], universe: Iterable[str], sets: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Hypergeometric test of some genes against gene sets, within a universe of genes, best first."""
    import pandas as pd
    from scipy import stats

    picked, all_ = {str(g).upper() for g in chosen}, {str(g).upper() for g in universe}
    rows = []
    for name, genes in sets.items():
        members = {str(g).upper() for g in genes} & all_
        if not members:
            continue
        both = sorted(picked & members)
        rows.append(
            {
                "gene_set": name,
                "n_set": len(members),
                "overlap": len(both),
                "expected": len(picked) * len(members) / len(all_),
                "p_value": float(stats.hypergeom.sf(len(both) - 1, len(all_), len(members), len(picked))),
                "genes": ", ".join(both),
            }
        )
    if not rows:
        raise DataError("None of the genes in the gene sets is known to the model; do the names belong together?")
    table = pd.DataFrame(rows)
    table.insert(5, "q_value", benjamini_hochberg(table["p_value"].to_numpy()))
    return table.sort_values("p_value", ignore_index=True)


def _place(model: Model, gene: str, ids: NDArray[np.int64], names: NDArray[Any]) -> int:
    hit = model.vocabulary.id_of(str(gene))
    found = np.flatnonzero(names == str(gene) if hit is None else ids == hit)
    if len(found):
        return int(found[0])
    if hit is not None:
        raise GenesError(
            f"{model.vocabulary.names[hit]} is expressed in fewer than {_FEWEST_CELLS} of the cells given; its vector there would "
            "be noise."
        )
    raise GenesError(f"{model.spec.name} does not know the gene {gene!r}." + did_you_mean(str(gene), names))


def _hubness(unit: NDArray[np.float32], n: int, seed: int) -> NDArray[np.float64]:
    """How often each gene is among the `n` nearest of other genes, over what chance would give."""
    rng = np.random.default_rng(seed)
    asked = np.arange(len(unit)) if len(unit) <= _HUB_QUERIES else rng.choice(len(unit), _HUB_QUERIES, replace=False)
    counts = np.zeros(len(unit))
    for part in np.array_split(asked, max(1, len(asked) // 250)):
        cosine = unit[part] @ unit.T
        cosine[np.arange(len(part)), part] = -np.inf
        np.add.at(counts, np.argpartition(-cosine, n - 1, axis=1)[:, :n].ravel(), 1)
    return counts / (len(asked) * n / max(len(unit) - 1, 1))


def _detection(
    model: Model, cells: Cells, ids: NDArray[np.int64], options: Mapping[str, Any] | None
) -> NDArray[np.float64]:
    match = model.known_genes(cells.genes, options)
    share = np.bincount(cells.counts.indices, minlength=len(cells.genes)) / max(len(cells), 1)
    found = np.full(len(model.vocabulary) + 1, np.nan)
    found[match.ids] = share[match.columns]
    # A row without a vocabulary id (-1) reads the last place, which is nobody's.
    return found[ids]


def _correlation(cosine: NDArray[Any], detection: NDArray[Any]) -> float:
    from scipy import stats

    both = np.isfinite(cosine) & np.isfinite(detection)
    if both.sum() < 10 or np.ptp(detection[both]) == 0:
        return np.nan
    return float(stats.spearmanr(cosine[both], detection[both])[0])
