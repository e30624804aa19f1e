"""Give each cell a vector."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import AuditResult, audit_cells
from scfm_lab.errors import DataError, ModelError
from scfm_lab.results import Result
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Match
    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.contract import Model, Tokens


@dataclass(frozen=True, repr=False)
class EmbedResult(Result):
    """Cell vectors, with the audit of genes and the provenance."""

    key: str
    """Key in ``obsm``."""
    vectors: NDArray[np.float32]
    """Shape (cells, width); NaN for cells in which the model sees no gene."""
    audit: AuditResult
    provenance: dict[str, Any]
    adata: AnnData | None = None
    """With ``copy=True``, the copy that was written to."""

    @property
    def table(self) -> pd.DataFrame:
        """The vectors with their dimensions as columns."""
        import pandas as pd

        return pd.DataFrame(self.vectors, columns=[f"{self.key}_{i + 1}" for i in range(self.vectors.shape[1])])

    def summary(self) -> str:
        """Two lines and the audit."""
        p = self.provenance
        n = len(self.vectors)
        speed = n / p["seconds"] if p["seconds"] > 0 else float("inf")
        return (
            f"{n:,} cells as {self.vectors.shape[1]}-d vectors of {p['model']} in obsm[{self.key!r}] "
            f"({p['seconds']:.1f} s, {speed:,.0f} cells/s on {p['device']} in {p['precision']}).\n"
            + self.audit.summary()
            + (
                f"\n{p['cells_truncated']:,} cells have more genes than the model reads; {p['counts_truncated']:.1%} of "
                "their counts on known genes are left out."
                if p["cells_truncated"]
                else ""
            )
            + (
                f"\n{p['cells_left_out']:,} cells have no vector because the reference leaves them out."
                if p["cells_left_out"]
                else ""
            )
            + "".join(f"\n{remark}" for remark in p["remarks"])
        )

    def plot(self) -> Any:
        """The first two principal components of the vectors (Altair)."""
        import altair as alt
        import pandas as pd
        from sklearn.decomposition import PCA

        known = np.isfinite(self.vectors).all(axis=1)
        plane = PCA(n_components=2, random_state=0).fit_transform(self.vectors[known])
        table = pd.DataFrame(plane, columns=["PC 1", "PC 2"])
        if len(table) > 5000:
            table = table.sample(5000, random_state=0)
        return alt.Chart(table).mark_circle(size=12, opacity=0.6).encode(x="PC 1", y="PC 2")

    def write(self, adata: AnnData) -> None:
        """Write the vectors and their provenance into another AnnData of the same cells."""
        if adata.n_obs != len(self.vectors):
            raise DataError(f"The AnnData has {adata.n_obs:,} cells, the result {len(self.vectors):,}.")
        provenance.free_key(adata, "obsm", self.key, given=True)
        adata.obsm[self.key] = self.vectors
        provenance.record(adata, self.key, self.provenance, slot="obsm")


def embed(
    adata: AnnData,
    model: Model | str | Path,
    *,
    layer: str | None = None,
    key_added: str | None = None,
    hidden_layer: int | None = None,
    pooling: str | None = None,
    options: Mapping[str, Any] | None = None,
    like_reference: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
    copy: bool = False,
) -> EmbedResult:
    """Give each cell a vector, written to ``adata.obsm``.

    The vector of a cell depends on its counts and on nothing else: not on the other cells,
    their order, or the batch size.

    Parameters
    ----------
    adata
        With raw counts in X, a layer or ``.raw``; only new keys are added.
    model
        An opened model or a source for :func:`scfm_lab.load_model`.
    layer
        Where the counts are; None looks for them.
    key_added
        Key in ``obsm``; default ``"X_<model's name>"``.
    hidden_layer
        None: as published; else Python's counting (-1 the last, -2 the one before).
    pooling
        None: as published; ``"cls"`` or ``"mean"`` where the family has them.
    options
        The family's own (``model.spec.options``).
    like_reference
        Take the reference implementation's own random choices, from `seed`.
    seed
        Seed of whatever depends on chance.
    batch_size
        Most cells of a batch; changes speed and memory only.
    progress
        True shows a bar, False nothing; or a callable ``(done, total)``.
    cancel
        A ``threading.Event``; once set, the work stops within one batch and writes nothing.
    copy
        Write to a copy, returned as ``result.adata``.

    Returns
    -------
    EmbedResult

    Raises
    ------
    CountsError, GenesError, DataError, ModelError
        On bad input, each with a sentence that says what to do.
    Cancelled
        If `cancel` was set.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> sl.embed(adata, "pca", progress=False).vectors.shape
    (700, 50)
    """
    from scfm_lab.inference.precision import for_run
    from scfm_lab.models.contract import Request
    from scfm_lab.models.load import as_model

    model = as_model(model)
    model.require("embed")
    if like_reference and "like_reference" not in model.spec.options:
        raise ModelError(f"{model.spec.name} has no other reference implementation; leave like_reference out.")
    started = time.perf_counter()
    cells = model.read_cells(adata, layer=layer, options=options)
    match = model.known_genes(cells.genes, options)
    audit = audit_cells(cells, match, model.spec.name)
    target = adata.copy() if copy else adata
    key = provenance.free_key(target, "obsm", key_added or f"X_{model.spec.name}", given=key_added is not None)

    options = dict(options or {})
    if like_reference:
        options["like_reference"] = True
        # Where the reference's vectors depend on the batch, its size is a choice of the model and not of the engine.
        if batch_size and "batch_size" in model.spec.options:
            options.setdefault("batch_size", batch_size)
    tokens = model.tokenize(cells, options=options, seed=seed)
    precision: Precision = model.compute
    verified: dict[str, Any] = {}
    if not like_reference:
        request = Request(hidden_layer=hidden_layer, pooling=pooling)
        precision, verified = for_run(model, tokens, request, cancel=cancel)
    with as_progress(progress, f"Embedding with {model.spec.name}", unit="cells") as report:
        states = model.encode(
            tokens,
            hidden_layer=hidden_layer,
            pooling=pooling,
            batch_size=batch_size,
            precision=precision,
            progress=report,
            cancel=cancel,
        )
    chosen = model.check_options(options)
    rule = provenance.rule(model, chosen, seed)
    mixed = provenance.other_rules(target, key, model.spec.family, rule)
    record = provenance.of_model(
        model,
        task="embed",
        options=chosen,
        rule=rule,
        precision=str(precision),
        **verified,
        hidden_layer="as published" if hidden_layer is None else hidden_layer,
        pooling="as published" if pooling is None else pooling,
        seed=seed,
        seconds=time.perf_counter() - started,
        **audit.as_provenance(),
        cells_left_out=int(np.sum(tokens.cell.get("left_out", 0))),
        remarks=[*model.remarks(tokens), *mixed],
        **_truncation(tokens, cells, match),
    )
    result = EmbedResult(key, states.cell, audit, record, target if copy else None)
    result.write(target)
    for sentence in mixed:
        warnings.warn(sentence, stacklevel=2)
    return result


def _truncation(tokens: Tokens, cells: Cells, match: Match) -> dict[str, Any]:
    """How many cells were cut, and which share of their counts on known genes that left out."""
    truncated = np.asarray(tokens.cell.get("truncated", np.zeros(len(tokens), dtype=bool)), dtype=bool)
    if not truncated.any():
        return {"cells_truncated": 0, "counts_truncated": 0.0}
    seen = np.asarray(cells.counts[:, match.columns].sum(axis=1, dtype=np.float64)).ravel()[truncated]
    lost = np.asarray(tokens.cell["share_truncated"], dtype=np.float64)[truncated]
    return {"cells_truncated": int(truncated.sum()), "counts_truncated": float((seen * lost).sum() / seen.sum())}
