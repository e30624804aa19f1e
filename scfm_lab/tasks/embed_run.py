"""How :func:`scfm_lab.embed` gets its vectors: planned, from the cache, resumed, streamed, or from a cluster."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, field
from functools import cache as remember
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, ModelError
from scfm_lab.inference import stream
from scfm_lab.inference.cache import VERSION, VectorCache
from scfm_lab.inference.hardware import GIB, Hardware
from scfm_lab.inference.plan import SHARE, cut_among, longest_of, some
from scfm_lab.inference.precision import Precision
from scfm_lab.inference.shards import RunFolder, runs_home
from scfm_lab.models.tokens import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scfm_lab.cells.genes import Genes
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.plan import Sizes
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens


@dataclass
class Asked:
    """What a call of :func:`scfm_lab.embed` asks for."""

    source: Any
    """An AnnData, or :class:`~scfm_lab.cells.stored.StoredCells`."""
    model: Model
    layer: str | None = None
    request: Request = field(default_factory=Request)
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int | None = None
    cache: bool = True
    budget_gib: float | None = None
    chunk_size: int | None = None
    cluster: Any = None


@dataclass(frozen=True)
class Way:
    """How a run is computed, by this machine or by the workers of a cluster."""

    device: str
    """A torch device; of workers, its kind."""
    precision: str
    found: dict[str, Any]
    """How the precision was found (for provenance)."""
    sizes: Sizes
    """How the run is cut."""


@dataclass(frozen=True)
class Done:
    """What came of it."""

    collected: stream.Collected
    job: stream.Job
    device: str
    """What the vectors were computed on; that of the workers, where a cluster computed them."""
    sizes: Sizes
    precision: dict[str, Any]
    """How the precision was found."""
    remarks: list[str]
    folder: RunFolder | None

    def finished(self) -> None:
        """The vectors are where they belong: what was kept for resuming is removed."""
        if self.folder is not None:
            self.folder.remove()


def run(
    asked: Asked,
    *,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
    make: Callable[[int, int], Any] | None = None,
) -> Done:
    """Vectors of all cells.

    Parameters
    ----------
    make
        Makes the array of the vectors from (cells, width); None: in memory.
    """
    model, options = asked.model, asked.options
    full = model.check_options(options)
    reader = model.cell_reader(asked.source, layer=asked.layer, options=full)
    match = model.genes_read(reader.genes, options, lambda: reader().counts)
    alone = model.cells_alone(full)
    if asked.batch_size is not None and asked.batch_size < 1:
        raise DataError(f"batch_size is {asked.batch_size}; a batch holds at least one cell.")
    if asked.cluster is not None:
        from scfm_lab.inference.cluster import check_spreadable

        check_spreadable(asked, reader, alone=alone)
    # Of a few cells alone, the reference's own ways may make nothing.
    tokens = None if full.get("like_reference") else model.tokenize(some(reader), options=full, seed=asked.seed)
    way = (_over_cluster if asked.cluster is not None else _by_this_machine)(
        asked, reader, full, tokens, together=not alone, in_memory=make is None, cancel=cancel
    )
    precision, sizes = Precision.parse(way.precision), way.sizes
    job = stream.Job(
        model, reader, match, full, asked.request, asked.seed, precision, asked.batch_size, sizes.batch_tokens
    )
    n = len(reader)
    collected = stream.Collected(n, model.spec.width, make=make)
    keep = asked.cache and asked.cluster is None and _worth_keeping(n, model.spec.width)
    # Digests of all gene names take a while, and are of no use where nothing is kept.
    depends = None
    if alone and (keep or reader.path is not None):
        depends = depends_on(model, full, asked.request, asked.seed, precision, reader.genes, way.device)
    folder = None
    if depends is not None and reader.path is not None:
        folder = RunFolder.open(runs_home(), {**depends, **_cells_of(reader, asked.layer)}, file_state(reader.path, n))
    cache = None
    if keep and depends is not None:
        cache = VectorCache.at_home(depends)
    try:
        _work(asked, job, folder, cache, collected, way, longest_of(tokens), progress, cancel)
        if folder is not None and reader.path is not None:
            _unchanged(folder, reader.path, n)
    finally:
        if cache is not None:
            cache.close()
        if folder is not None:
            folder.release()
    remarks = [] if folder is None else folder.remarks
    return Done(collected, job, way.device, sizes, way.found, remarks, folder)


def _work(
    asked: Asked,
    job: stream.Job,
    folder: RunFolder | None,
    cache: VectorCache | None,
    collected: stream.Collected,
    way: Way,
    longest: int,
    progress: Callable[..., None] | None,
    cancel: Any,
) -> None:
    n, rows = collected.n, way.sizes.chunk_cells
    spans = stream.chunks(n, rows)
    if folder is not None:
        for part in folder.parts():
            collected.add(part)
        collected.cached = 0
        collected.resumed = collected.filled
        spans = folder.missing(n, rows)
    if asked.cluster is not None:
        from scfm_lab.inference.cluster import spread

        if folder is None:
            raise ModelError(
                f"The workers of a cluster cannot compute this {job.model.spec.name}: nothing tells its weights from others "
                "(it has no digest), so that nobody could see whether they open the same."
            )
        parts = spread(
            job,
            asked,
            spans,
            folder,
            device=way.device,
            longest=longest,
            done=collected.filled,
            progress=progress,
            cancel=cancel,
        )
    else:
        parts = stream.run(
            job,
            spans,
            total=n,
            done=collected.filled,
            cache=cache,
            folder=folder,
            progress=progress,
            cancel=cancel,
        )
    for part in parts:
        collected.add(part)


def _by_this_machine(
    asked: Asked,
    reader: CellReader,
    options: Mapping[str, Any],
    tokens: Tokens | None,
    *,
    together: bool,
    in_memory: bool,
    cancel: Any,
) -> Way:
    """How this machine computes the cells; the precision is verified on cells spread over the whole of them."""
    from scfm_lab.inference.engine import tokens_at_once
    from scfm_lab.inference.precision import FLOAT32, SAMPLE, expected, for_run

    model, n = asked.model, len(reader)
    wanted = expected(model, asked.request, options, tokens, n)
    sizes, left = cut_among(
        model,
        reader,
        wanted,
        device=model.device,
        budget_gib=asked.budget_gib,
        longest=longest_of(tokens),
        chunk_size=asked.chunk_size,
        in_memory=in_memory,
        together=together,
    )
    if left == (FLOAT32,) != wanted:
        return Way(model.device, str(FLOAT32), {}, sizes)
    with tokens_at_once(sizes.batch_tokens):
        precision, found = for_run(
            model,
            asked.request,
            options,
            lambda: model.tokenize(some(reader, SAMPLE), options=options, seed=asked.seed),
            cells=n,
            without=[one for one in wanted if one not in left],
            cancel=cancel,
        )
    return Way(model.device, str(precision), found, sizes)


def _over_cluster(
    asked: Asked,
    reader: CellReader,
    options: Mapping[str, Any],
    tokens: Tokens | None,
    *,
    in_memory: bool,
    cancel: Any,
    **_: Any,
) -> Way:
    """How the workers compute the cells, as one of them says; whether their vectors fit this machine, it says itself."""
    from scfm_lab.inference.cluster import scout

    need, room = 4 * len(reader) * asked.model.spec.width / GIB, SHARE * Hardware.detect().free_gib
    if in_memory and need > room:
        raise DataError(
            f"The vectors of {len(reader):,} cells take {need:.2f} GiB on the machine that asks, of which {room:.2f} GiB may be "
            "taken; free some memory, or have them written to a file as they come: scfm-lab embed -o OUT.h5ad."
        )
    return scout(asked, reader, options, longest_of(tokens), cancel=cancel)


def depends_on(
    model: Model,
    options: Mapping[str, Any],
    request: Request,
    seed: int,
    precision: Precision,
    genes: Genes,
    device: str,
) -> dict[str, Any] | None:
    """Everything besides a cell that its vector depends on; None for a model whose making is not known."""
    import torch

    if model.opened is None or not model.digest or not model.settings_digest:
        return None
    return {
        "version": VERSION,
        "model": model.spec.name,
        "digest": model.digest,
        "family": f"{type(model).__module__}.{type(model).__qualname__}",
        "settings": model.settings_digest,
        "code": _code(inspect.getsourcefile(type(model)) or ""),
        "options": dict(options),
        "hidden_layer": request.hidden_layer,
        "pooling": request.pooling,
        "seed": seed,
        "precision": str(precision),
        "device": device.split(":")[0],
        "torch": torch.__version__,
        "genes": _genes_digest(genes),
    }


def _stat(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@remember
def _code(family: str) -> str:
    """Digest of the programs that make the vectors, the family's own among them: another version may make others."""
    import scfm_lab

    root = Path(scfm_lab.__file__).parent
    files = [path for part in ("cells", "models", "inference") for path in sorted((root / part).glob("*.py"))]
    if family and Path(family) not in files:
        files.append(Path(family))
    digest = hashlib.sha256(scfm_lab.__version__.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _genes_digest(genes: Genes) -> str:
    told = (genes.organism, genes.ensembl_from, genes.symbols_from, *genes.given)
    digest = hashlib.sha256("\n".join(map(str, told)).encode())
    for values in (genes.names, genes.symbols, genes.ensembl, *genes.given.values()):
        digest.update("\n".join(map(str, values)).encode() + b"\0")
    return digest.hexdigest()[:32]


def _cells_of(reader: CellReader, layer: str | None) -> dict[str, Any]:
    """Which cells a run is about."""
    return {"path": str(reader.path), "where": reader.place.where, "layer": layer, "obs": cells_digest(reader)}


def cells_digest(reader: CellReader) -> str:
    """Digest of the cells' names and of the columns that are read."""
    import pandas as pd

    obs = hashlib.sha256("\n".join(f"{name} {kind}" for name, kind in reader.obs.dtypes.items()).encode())
    table = reader.obs.astype({c: str for c in reader.obs.columns if reader.obs[c].dtype.kind not in "biuf"})
    obs.update(np.ascontiguousarray(pd.util.hash_pandas_object(table, index=True).to_numpy()).tobytes())
    return obs.hexdigest()[:32]


def file_state(path: Path, cells: int) -> dict[str, Any]:
    """What tells that a file is as it was: its size, the time of its last change, and its cells."""
    if path.is_dir():
        sizes = [_stat(file) for file in path.rglob("*") if file.is_file()]
        size, changed = sum(s for s, _ in sizes), max((t for _, t in sizes), default=0)
    else:
        size, changed = _stat(path)
    return {"path": str(path), "size": size, "changed": changed, "cells": cells}


def _unchanged(folder: RunFolder, path: Path, cells: int) -> None:
    if path.exists() and file_state(path, cells) == folder.identity["file"]:
        return
    folder.remove()
    raise DataError(f"The file {path} was changed while its cells were read; nothing was written. Run it again.")


def _worth_keeping(cells: int, width: int) -> bool:
    """Whether the vectors of a run may take half of the cache: more would only push each other out."""
    from scfm_lab.inference.cache import limit_bytes

    return cells * (4 * width + 64) <= limit_bytes() // 2


def check_reference(model: Model, like_reference: bool, options: dict[str, Any], batch_size: int | None) -> None:
    """Take ``like_reference`` into the options.

    Raises
    ------
    ModelError
        If the model has no such mode.
    """
    if not like_reference:
        return
    if "like_reference" not in model.spec.options:
        raise ModelError(f"{model.spec.name} has no other reference implementation; leave like_reference out.")
    options["like_reference"] = True
    # Where the reference's vectors depend on the batch, its size is a choice of the model and not of the engine.
    if batch_size and "batch_size" in model.spec.options:
        options.setdefault("batch_size", batch_size)
