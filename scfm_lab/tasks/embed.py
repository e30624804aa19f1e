"""Give each cell a vector."""

from __future__ import annotations

import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.audit import AuditResult, audit_tally
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError, plural
from scfm_lab.models.tokens import Request, Tokens
from scfm_lab.results import Result, charts
from scfm_lab.tasks.embed_run import Asked, Done, check_reference, run
from scfm_lab.tasks.not_read import truncated_sentence, truncation
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model


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
        blank = int(np.isnan(self.vectors[:, 0]).sum())
        head = f"{n:,} cells as" if blank < n else f"No cell of {n:,} has a vector; only NaN for the"
        return (
            f"{head} {self.vectors.shape[1]}-d vectors of {p['model']} in obsm[{self.key!r}] "
            f"({p['seconds']:.1f} s, {speed:,.0f} cells/s on {p['device']} in {p['precision']}).\n"
            + self.audit.summary()
            + (f"\n{truncated_sentence(p)}" if p["cells_truncated"] else "")
            + (
                f"\n{plural(p['cells_left_out'], 'cell has', 'cells have')} no vector because the reference leaves "
                f"{'it' if p['cells_left_out'] == 1 else 'them'} out."
                if p["cells_left_out"]
                else ""
            )
            + (
                f"\n{plural(p['cells_from_cache'], 'vector was', 'vectors were')} known from an earlier run."
                if p["cells_from_cache"]
                else ""
            )
            + (
                f"\n{plural(p['cells_resumed'], 'vector was', 'vectors were')} finished before the run was stopped."
                if p["cells_resumed"]
                else ""
            )
            + "".join(f"\n{remark}" for remark in p["remarks"])
        )

    def plot(self) -> Any:
        """The first two principal components of the vectors (Altair)."""
        alt = charts()
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
    adata: AnnData | str | Path,
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
    cache: bool = True,
    budget_gib: float | None = None,
    chunk_size: int | None = None,
    cluster: Any = None,
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
        With raw counts in X, a layer or ``.raw``; only new keys are added. In memory, backed, or read lazily from Zarr: cells
        of a file are read some at a time, and a run that was stopped goes on where it was when the same call is made again.
        Or the path of an .h5ad file or a Zarr folder, to which nothing is written.
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
    cache
        Take the vectors of cells that this model has seen before, under the same options, from the cache on this machine
        (``SCFM_CACHE_GB``, ``scfm-lab cache``).
    budget_gib
        Memory that the run may take; default: 60 % of what is free.
    chunk_size
        Cells that are read and tokenised together, and kept together where a run can be resumed; default: by the size of the
        network and the memory.
    cluster
        Address of a Dask scheduler, or a ``distributed.Client``: parts of the file are computed by its workers, which must
        see the file, the model and the data directory (``SCFM_HOME``) at the same paths. Each computes on the device that the
        model was opened with: with ``"auto"`` on its own best one, also where this machine has no GPU; batches, and
        `budget_gib`, are for the memory of each worker.
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
    CountsError, GenesError, DataError, ModelError, StorageError
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
    from scfm_lab.cells.stored import StoredCells, open_stored
    from scfm_lab.models.load import as_model
    from scfm_lab.models.options import as_given

    check_given(adata, model, function="sl.embed", paths=True)
    model = as_model(model)
    model.require("embed")
    options = as_given(options)
    check_reference(model, like_reference, options, batch_size)
    started = time.perf_counter()
    source = open_stored(adata) if isinstance(adata, (str, Path)) else adata
    # What was opened here is closed here, also where the run is stopped.
    with closing(source) if source is not adata else nullcontext():
        if getattr(source, "isbacked", False) and (copy or getattr(source, "is_view", False)):
            raise DataError(
                "Vectors cannot be written into a copy or a view of a backed AnnData; embed the backed AnnData itself, or "
                "bring the cells into memory first (adata.to_memory())."
            )
        target = None if isinstance(source, StoredCells) else source.copy() if copy else source
        given = key_added is not None
        key = provenance.free_key(source, "obsm", key_added or f"X_{model.name}", given=given)
        asked = Asked(
            source,
            model,
            layer=layer,
            request=Request(hidden_layer=hidden_layer, pooling=pooling),
            options=options,
            seed=seed,
            batch_size=batch_size,
            cache=cache,
            budget_gib=budget_gib,
            chunk_size=chunk_size,
            cluster=cluster,
        )
        with as_progress(progress, f"Embedding with {model.spec.name}", unit="cells") as report:
            done = run(asked, progress=report, cancel=cancel)
        result, mixed = describe(asked, done, key, source, seconds=time.perf_counter() - started)
        if target is not None:
            result = replace(result, adata=target if copy else None)
            result.write(target)
        done.finished()
    for sentence in mixed:
        warnings.warn(sentence, stacklevel=2)
    return result


def describe(asked: Asked, done: Done, key: str, target: Any, *, seconds: float) -> tuple[EmbedResult, list[str]]:
    """The result of a run, with its audit and provenance, and what the user should be warned about."""
    model, job, collected = asked.model, done.job, done.collected
    vectors, tally, cell = collected.finish(), collected.tally, collected.cell
    audit = audit_tally(tally, job.reader.genes, job.match, model, options=job.options, where=job.reader.place.where)
    chosen = dict(job.options)
    rule = provenance.rule(model, chosen, asked.seed)
    mixed = provenance.other_rules(target, key, model.spec.family, rule)
    n = collected.n
    # What a family says about tokens, it says about cells: their ids are not kept.
    cells = Tokens(np.zeros(0, np.int64), None, np.zeros(n + 1, np.int64), cell=cell)
    request = asked.request
    record = provenance.of_model(
        model,
        task="embed",
        options=chosen,
        rule=rule,
        hidden_layer="as published" if request.hidden_layer is None else request.hidden_layer,
        pooling="as published" if request.pooling is None else request.pooling,
        seed=asked.seed,
        seconds=seconds,
        **audit.as_provenance(),
        cells_left_out=int(np.sum(cell.get("left_out", 0))),
        cells_from_cache=collected.cached,
        cells_resumed=collected.resumed,
        remarks=[*model.remarks(cells), *done.remarks, *mixed],
        **truncation(cell, tally.kept),
        **done.precision,
    )
    record["precision"], record["device"] = str(job.precision), done.device
    record["arguments"] = provenance.arguments(
        layer=asked.layer,
        hidden_layer=request.hidden_layer,
        pooling=request.pooling,
        options=asked.options,
        seed=asked.seed,
    )
    settings = provenance.other_settings(target, key, record)
    if settings:
        record["remarks"], mixed = [*record["remarks"], *settings], [*mixed, *settings]
    return EmbedResult(key, vectors, audit, record), mixed
