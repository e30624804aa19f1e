"""Which genes regulate which, read off a model in three ways, beside what the counts alone say."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, GenesError, ModelError, did_you_mean
from scfm_lab.evaluation.overlap import trained_among
from scfm_lab.results import Result, charts
from scfm_lab.tasks import regulator_scores as score
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match
    from scfm_lab.models.contract import Model

METHODS = ("embedding", "attention", "perturbation")
BESIDE = ("coexpression", "boosting")
_FEWEST = 10
_KNOCKED_OUT = 30
_WRITTEN = 10_000
_FACTORS = {"human": "tf_human_pyscenic", "mouse": "tf_mouse_pyscenic"}


@dataclass(frozen=True, repr=False)
class RegulatorResult(Result):
    """Scores of edges from regulators to genes, one matrix per method."""

    regulators: NDArray[Any]
    targets: NDArray[Any]
    scores: dict[str, NDArray[np.float64]]
    """Method → (regulators, targets); larger is more likely an edge, NaN from a gene to itself. No method's unit is another's."""
    heads: dict[tuple[int, int], NDArray[np.float64]]
    """(layer, head), both from 1 → attention of each target to each regulator over even attention."""
    notes: tuple[str, ...] = ()
    organism: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """One row per edge: gene (the regulator), target, and a column with the score of each method."""
        import pandas as pd

        r, t = np.nonzero(self._edges)
        columns = {name: values[r, t] for name, values in self.scores.items()}
        return pd.DataFrame({"gene": self.regulators[r], "target": self.targets[t], **columns})

    @property
    def _edges(self) -> NDArray[np.bool_]:
        """Where there can be an edge: not from a gene to itself."""
        return np.asarray(self.regulators[:, None] != self.targets[None, :])

    def top(self, method: str, n: int = 20) -> pd.DataFrame:
        """The `n` edges of highest score by a method: gene, target, score.

        Raises
        ------
        DataError
            If that method was not asked for.
        """
        if method not in self.scores:
            raise DataError(f"No edges were scored by {method!r}; methods here: {', '.join(self.scores)}.")
        found = self.table[["gene", "target", method]].rename(columns={method: "score"})
        return found.nlargest(n, "score").reset_index(drop=True)

    def overlap(self, n: int | None = None) -> pd.DataFrame:
        """Share of the `n` first edges (None: one in a hundred) that each two methods have in common."""
        import pandas as pd

        edges = self._edges
        n = max(1, int(edges.sum()) // 100) if n is None else n
        first = {m: set(np.argsort(-v[edges], kind="stable")[:n].tolist()) for m, v in self.scores.items()}
        return pd.DataFrame({a: {b: len(first[a] & first[b]) / n for b in first} for a in first})

    def summary(self) -> str:
        """The first edges of each of the model's extractors, and how far methods agree."""
        p = self.provenance
        lines = [
            f"{len(self.regulators):,} regulators × {len(self.targets):,} genes in {p.get('cells', 0):,} cells with {p.get('model')}."
        ]
        for method in METHODS:
            if method in self.scores:
                edges = ", ".join(f"{r.gene} → {r.target}" for r in self.top(method, 6).itertuples())
                lines.append(f"{method}: {edges}.")
        if len(self.scores) > 1:
            shared = self.overlap()
            pairs = [
                f"{a} and {b} {shared.loc[a, b]:.0%}"
                for i, a in enumerate(self.scores)
                for b in list(self.scores)[i + 1 :]
            ]
            lines.append(f"First edges (one in a hundred) that two methods share: {'; '.join(pairs)}.")
        lines += self.notes
        lines.append(
            "Edges are hints and no evidence of regulation: sl.evaluate.regulators tells whether a method is better than the "
            "degrees of the known network, which co-expression alone hardly is."
        )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Share of first edges that methods have in common (Altair)."""
        alt = charts()
        import pandas as pd

        shared = self.overlap()
        rows = [{"method": a, "other": b, "shared": shared.loc[a, b]} for a in shared for b in shared]
        base = alt.Chart(pd.DataFrame(rows)).encode(
            x=alt.X("method:N", sort=None, title=None), y=alt.Y("other:N", sort=None, title=None)
        )
        boxes = base.mark_rect().encode(
            color=alt.Color("shared:Q", scale=alt.Scale(scheme="cividis", domain=[0, 1]), title="first edges shared")
        )
        return boxes + base.mark_text(color="white").encode(text=alt.Text("shared:Q", format=".0%"))

    def write(self, adata: AnnData, key_added: str | None = None) -> None:
        """Write the edges that are among the 10,000 first of some method to ``uns``, with their provenance."""
        table = self.table
        kept = np.zeros(len(table), dtype=bool)
        for method in self.scores:
            kept[np.argsort(-table[method].to_numpy(), kind="stable")[:_WRITTEN]] = True
        key = key_added or f"regulators_{self.provenance.get('model', 'model')}"
        provenance.write_table(adata, table[kept], key, self.provenance, key_added is not None)


def regulators(
    adata: AnnData,
    model: Model | str | Path,
    method: str | Sequence[str] = "all",
    *,
    beside: bool = True,
    regulators: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    n_genes: int = 500,
    max_cells: int = 300,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> RegulatorResult:
    """Score edges from regulators to genes.

    Parameters
    ----------
    adata
        With raw counts; nothing is written (the result's ``write`` does). Imputed layers are refused.
    model
        An opened model or a source.
    method
        ``"embedding"``: cosine of two genes in the table that the model reads genes from. ``"attention"``: how much the target
        reads the regulator, over even attention, per layer and head; the score is the mean over them. ``"perturbation"``: how
        much knocking the regulator out changes what the model predicts of the target (its state, where nothing is predicted).
        ``"all"``: all that the model can; or several.
    beside
        Also score by co-expression (absolute Spearman correlation) and gradient-boosted regression: what the counts alone say.
    regulators
        Genes; None: the transcription factors of the dataset ``tf_human_pyscenic`` (or ``tf_mouse_pyscenic``).
    targets
        Genes; None: the `n_genes` most variable ones, and the regulators.
    max_cells
        Cells that are read, chosen by their digests.

    Returns
    -------
    RegulatorResult
        Genes that fewer than ten of the cells express, or that the model does not know, are left out; of named ones notes tell
        which.

    Raises
    ------
    ModelError
        If the model cannot do what was asked for.
    GenesError
        If no regulator or target is left, or a named one is not there.
    DataError
        If the layer is imputed, or a method is unknown.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> cells = sl.datasets.load("pbmc68k")
    >>> found = sl.regulators(
    ...     cells, "starter", "embedding", beside=False, regulators=["SPI1", "IRF8"], n_genes=50, progress=False
    ... )
    >>> found.top("embedding", 3).columns.tolist()
    ['gene', 'target', 'score']
    """
    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.load import as_model

    check_given(adata, model, function="sl.regulators")
    wanted, strict = _methods(method)
    if n_genes < 2 or max_cells < _FEWEST:
        raise DataError(f"n_genes must be at least 2 and max_cells at least {_FEWEST}, not {n_genes} and {max_cells}.")
    provenance.refuse_imputed(adata, layer, what="Regulators")
    opened = as_model(model)
    started = time.perf_counter()
    cells = Cells.from_anndata(adata, layer=layer, fields=opened.fields)
    cells = cells.take(np.sort(np.argsort(cells.keys, kind="stable")[:max_cells]))
    asked, notes = _asked(cells, opened, regulators, targets, n_genes, options, seed, cancel)
    scores: dict[str, NDArray[np.float64]] = {}
    heads: dict[tuple[int, int], NDArray[np.float64]] = {}
    for name in [*wanted, *(BESIDE if beside else ())]:
        with as_progress(progress, f"Edges by {name}", unit=_UNITS[name]) as report:
            now = replace(asked, progress=report)
            try:
                if name == "attention":
                    heads = score.attention(now)
                    scores[name] = np.mean(list(heads.values()), axis=0)
                elif name == "perturbation":
                    scores[name] = score.perturbation(now, _KNOCKED_OUT)
                elif name == "embedding":
                    opened.require("gene_embeddings")
                    scores[name] = score.embedding(now)
                else:
                    scores[name] = getattr(score, name)(now)
            except ModelError as error:
                if strict:
                    raise
                notes.append(f"Not by {name}: {error}")
    if not any(name in scores for name in wanted):
        raise ModelError(" ".join(notes))
    # Known networks are told in symbols.
    names = np.where(cells.genes.symbols != "", cells.genes.symbols, cells.genes.names).astype(object)
    itself = asked.regulators[:, None] == asked.targets[None, :]
    for values in (*scores.values(), *heads.values()):
        values[itself] = np.nan
    record = provenance.of_model(
        opened,
        task="regulators",
        methods=list(scores),
        cells=len(cells),
        cells_trained_on=int(trained_among(opened, cells, options).sum()),
        knocked_out=_KNOCKED_OUT if "perturbation" in scores else 0,
        rule=provenance.rule(opened, dict(options or {}), seed),
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    return RegulatorResult(
        names[asked.regulators], names[asked.targets], scores, heads, tuple(notes), cells.genes.organism, record
    )


_UNITS = {
    "embedding": "genes",
    "attention": "cells",
    "perturbation": "regulators",
    "coexpression": "genes",
    "boosting": "genes",
}


def _methods(method: str | Sequence[str]) -> tuple[list[str], bool]:
    """The extractors, and whether one that the model cannot do is an error."""
    if isinstance(method, str) and method == "all":
        return list(METHODS), False
    wanted = [method] if isinstance(method, str) else list(dict.fromkeys(method))
    for name in wanted:
        if name not in METHODS:
            raise DataError(
                f"There is no method {name!r}; methods: {', '.join(METHODS)}, or 'all'."
                + did_you_mean(str(name), METHODS)
            )
    if not wanted:
        raise DataError(f"No method was named; methods: {', '.join(METHODS)}, or 'all'.")
    return wanted, True


def _asked(
    cells: Cells,
    model: Model,
    regulators: Sequence[str] | None,
    targets: Sequence[str] | None,
    n_genes: int,
    options: Mapping[str, Any] | None,
    seed: int,
    cancel: Any,
) -> tuple[score.Asked, list[str]]:
    """The columns and the model's ids of regulators and targets, and which of the named genes were left out."""
    match = model.known_genes(cells.genes, options)
    # Of several columns that the model takes for one gene the first is read.
    ids, first = np.unique(match.ids, return_index=True)
    id_of = dict(zip(match.columns[first].tolist(), ids.tolist(), strict=True))
    often = set(np.flatnonzero(np.diff(cells.by_gene.indptr) >= _FEWEST).tolist()) & set(id_of)
    notes: list[str] = []
    if regulators is not None:
        sources, left = _named(cells, regulators, often)
        notes += _left_out("regulators", left, set(id_of), match, cells, model)
    else:
        sources = _factors(cells, often)
    if targets is not None:
        goals, left = _named(cells, targets, often)
        notes += _left_out("targets", left, set(id_of), match, cells, model)
    else:
        goals = np.union1d(_variable(cells, np.array(sorted(often)), n_genes), sources)
    for what, found in (("regulator", sources), ("target", goals)):
        if not len(found):
            raise GenesError(
                f"No {what} is known to {model.spec.name} and expressed in {_FEWEST} of the {len(cells):,} cells; give more cells "
                f"(max_cells) or name other genes ({what}s=)."
            )
    both = [np.array([id_of[int(c)] for c in columns], dtype=np.int64) for columns in (sources, goals)]
    return score.Asked(cells, model, sources, goals, both[0], both[1], options, seed, cancel=cancel), notes


def _named(
    cells: Cells, genes: str | Sequence[str], often: set[int]
) -> tuple[NDArray[np.int64], list[tuple[str, int]]]:
    """Columns of named genes that can be scored, and name and column of those that cannot."""
    found = {cells.genes.find(str(g)): str(g) for g in ([genes] if isinstance(genes, str) else genes)}
    left = [(name, column) for column, name in found.items() if column not in often]
    return np.array([c for c in found if c in often], dtype=np.int64), left


def _left_out(
    what: str, left: list[tuple[str, int]], read: set[int], match: Match, cells: Cells, model: Model
) -> list[str]:
    """A sentence for those that the model does not know, and others for those that it does but cannot be scored."""
    known = set(match.columns.tolist())
    reasons = {
        f"unknown to {model.spec.name}": [name for name, column in left if column not in known],
        f"read by {model.spec.name} from another column": [n for n, column in left if column in known - read],
        f"expressed in fewer than {_FEWEST} of the {len(cells):,} cells": [n for n, column in left if column in read],
    }
    return [
        f"Left out of the named {what}, {why}: {', '.join(names[:8])}{f', … ({len(names):,} in all)' if len(names) > 8 else ''}."
        for why, names in reasons.items()
        if names
    ]


def _factors(cells: Cells, often: set[int]) -> NDArray[np.int64]:
    """Columns of transcription factors."""
    from scfm_lab import datasets

    organism = cells.genes.organism or "human"
    if organism not in _FACTORS:
        raise DataError(
            f"No list of transcription factors of {organism} is known; name the regulators with regulators=."
        )
    try:
        known = datasets.load(_FACTORS[organism])
    except DataError as error:
        raise DataError(f"{error} Or name the regulators yourself with regulators=.") from error
    index = cells.genes.index
    return np.array(sorted({index[g] for g in known if index.get(g) in often}), dtype=np.int64)


def _variable(cells: Cells, columns: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The most variable of some genes (scanpy's ``seurat`` flavour)."""
    import anndata as ad
    import scanpy as sc

    from scfm_lab.models.pca import log_normalised

    if len(columns) <= n:
        return columns
    logged = ad.AnnData(log_normalised(cells.counts[:, columns], cells.total))
    chosen = sc.pp.highly_variable_genes(logged, n_top_genes=n, inplace=False)
    return columns[chosen["highly_variable"].to_numpy()]
