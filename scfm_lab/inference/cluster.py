"""Many machines: parts of a file computed by the workers of a Dask cluster.

A worker is told where the file is, which rows, and which model by source and digest; it opens
model and file once, computes rows as one machine would, and writes them into the run's
folder under another name before it renames them. Cells never pass through the scheduler.
What a lost worker was at is given to another; what it had finished is there.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import Cancelled, DataError, ModelError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scfm_lab.inference.shards import Part, RunFolder
    from scfm_lab.inference.stream import Job
    from scfm_lab.models.contract import Model

_CONNECT_SECONDS = 20
_LOOK_EVERY = 0.2
# Waiting for the next part, a worker has one in hand: more would be lost with it.
_AHEAD = 2
_opened: dict[str, Job] = {}
_opening = threading.Lock()


def spread(
    job: Job,
    asked: Any,
    spans: Sequence[tuple[int, int]],
    folder: RunFolder,
    *,
    done: int = 0,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> Iterator[Part]:
    """Have the parts of a run computed by a cluster, and read them as they are finished.

    Parameters
    ----------
    asked
        The call (:class:`~scfm_lab.tasks.embed_run.Asked`); its ``cluster`` is an address or a ``distributed.Client``.
    spans
        First and last row (exclusive) of each part that is missing.
    folder
        Where the workers write, at the same path for all.

    Raises
    ------
    DataError
        If the cluster cannot be reached, or has no workers.
    ModelError
        If workers cannot open the same model.
    """
    total = len(job.reader)
    if progress is not None:
        progress(done, total)
    if not spans:
        return
    order = _order(job, asked, folder)
    with _client(asked.cluster) as client:
        from distributed import as_completed

        todo = list(spans)
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if workers == 0:
            raise DataError(
                f"The Dask cluster at {client.scheduler.address} has no workers; start some, then run it again."
            )
        # Not pure: a part that was removed as unsound is computed anew, and not taken from the scheduler's memory.
        first = [client.submit(work, order, *span, pure=False, retries=2) for span in todo[: _AHEAD * workers]]
        left = iter(todo[len(first) :])
        waiting = as_completed(first, loop=client.loop)
        try:
            for future in _as_they_come(waiting, cancel):
                start, stop = _result(future)
                for span in left:
                    waiting.add(client.submit(work, order, *span, pure=False, retries=2))
                    break
                done += stop - start
                part = folder.read(start, stop)
                if progress is not None:
                    progress(done, total)
                yield part
        except BaseException:
            client.cancel(list(waiting.futures), force=True)
            raise


def work(order: dict[str, Any], start: int, stop: int) -> tuple[int, int]:
    """One part of a run, on a worker: computed and written.

    Parameters
    ----------
    order
        Of :func:`_order`.
    """
    from scfm_lab.inference.shards import write_part
    from scfm_lab.inference.stream import compute, prepare

    job = _job(order)
    write_part(Path(order["folder"]), compute(job, prepare(job, start, stop)))
    return start, stop


def check_model(model: Model) -> None:
    """Refuse a model that workers cannot open.

    Raises
    ------
    ModelError
        If it was made in this session.
    """
    if model.opened is None or not model.source:
        raise ModelError(
            f"The workers of a cluster cannot open this {model.spec.name} anew, because it was not opened by sl.load_model; "
            "give the source of the model instead."
        )


def _order(job: Job, asked: Any, folder: RunFolder) -> dict[str, Any]:
    """What a worker is told, as plain values."""
    model = job.model
    assert model.opened is not None
    return {
        "path": str(job.reader.path),
        "file": folder.identity["file"],
        "cells": folder.identity["asked"]["obs"],
        "layer": asked.layer,
        "model": {
            "source": str(model.path) if model.path is not None else model.source,
            "digest": model.digest,
            "settings": model.settings_digest,
            "device": model.device,
            "precision": str(job.precision),
            **model.opened,
        },
        "options": dict(job.options),
        "request": {"hidden_layer": job.request.hidden_layer, "pooling": job.request.pooling},
        "seed": job.seed,
        "batch_size": job.batch_size,
        "batch_tokens": job.batch_tokens,
        "folder": str(folder.path),
    }


def _job(order: dict[str, Any]) -> Job:
    """The model and the file of an order, opened once in a process."""
    import json

    key = json.dumps({k: v for k, v in order.items() if k != "folder"}, sort_keys=True, default=str)
    with _opening:
        if key not in _opened:
            _opened.clear()
            _opened[key] = _open(order)
        return _opened[key]


def _open(order: dict[str, Any]) -> Job:
    from scfm_lab.cells.stored import open_stored
    from scfm_lab.inference.precision import Precision
    from scfm_lab.inference.stream import Job
    from scfm_lab.models.load import load_model
    from scfm_lab.models.tokens import Request
    from scfm_lab.tasks.embed_run import cells_digest, file_state

    wanted = order["model"]
    model = load_model(
        wanted["source"],
        device=wanted["device"],
        precision=wanted["precision"],
        config=wanted["config"],
        files=wanted["files"],
    )
    if model.digest != wanted["digest"]:
        raise ModelError(
            f"A worker finds other weights at {wanted['source']} than the machine that asked ({model.digest[:19]}… and "
            f"{wanted['digest'][:19]}…); let all of them open the same files."
        )
    if model.settings_digest != wanted["settings"]:
        raise ModelError(
            f"A worker finds other settings, vocabularies or dictionaries at {wanted['source']} than the machine that asked, beside "
            "the same weights; let all of them open the same files."
        )
    options = order["options"]
    reader = model.cell_reader(open_stored(order["path"]), layer=order["layer"], options=options)
    there = file_state(Path(order["path"]), len(reader))
    if there != order["file"] or cells_digest(reader) != order["cells"]:
        raise DataError(
            f"A worker finds another {order['path']} than the machine that asked, or its annotations were changed in memory; "
            "let all of them see the same file."
        )
    return Job(
        model,
        reader,
        model.known_genes(reader.genes, options),
        options,
        Request(**order["request"]),
        order["seed"],
        Precision.parse(wanted["precision"]),
        order["batch_size"],
        order["batch_tokens"],
    )


@contextmanager
def _client(cluster: Any) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise DataError("cluster= needs Dask: pip install 'scfm-lab[cluster]'.") from None
    if isinstance(cluster, Client):
        yield cluster
        return
    try:
        client = Client(str(cluster), timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"No Dask scheduler answers at {cluster!r}; give its address, such as 'tcp://host:8786'."
        ) from error
    try:
        yield client
    finally:
        client.close()


def _as_they_come(waiting: Any, cancel: Any) -> Iterator[Any]:
    import time

    while not waiting.is_empty():
        while not waiting.has_ready():
            if cancel is not None and cancel.is_set():
                raise Cancelled(
                    "Stopped; nothing was written to the AnnData, and the same call goes on where it stopped."
                )
            time.sleep(_LOOK_EVERY if cancel is None else min(_LOOK_EVERY, 0.05))
            if waiting.is_empty():
                return
        yield next(waiting)


def _result(future: Any) -> tuple[int, int]:
    try:
        start, stop = future.result()
        return start, stop
    except ScfmError:
        raise
    # A worker's fault can be any exception; it is told with its name.
    except Exception as error:
        raise DataError(
            f"A worker of the cluster failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}); what is finished is "
            "kept, and the same call goes on from there."
        ) from error
