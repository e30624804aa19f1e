"""Many machines: parts of a file computed by the workers of a Dask cluster.

A worker is told where the file is, which rows, and which model by source and digest; it opens
model and file once, computes rows as one machine would, and writes them into the run's
folder under another name before it renames them. Cells never pass through the scheduler.
What a lost worker was at is given to another; what it had finished is there.

The machine that asks may be another kind than the workers are: a head node has no GPU. One
worker therefore says first what device all are to have, which precision is fast there, and how
many cells are a part; each cuts its batches for the memory that it has itself.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import Cancelled, DataError, ModelError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scfm_lab.cells.genes import Match
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.plan import Sizes
    from scfm_lab.inference.shards import Part, RunFolder
    from scfm_lab.inference.stream import Job
    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.embed_run import Way

_CONNECT_SECONDS = 20
_LOOK_EVERY = 0.2
# Waiting for the next part, a worker has one in hand: more would be lost with it.
_AHEAD = 2
_opened: dict[str, Here] = {}
_opening = threading.Lock()


@dataclass(frozen=True)
class Here:
    """What a worker opens once in its process, and how it cuts its batches."""

    model: Model
    reader: CellReader
    match: Match
    sizes: Sizes
    roomy: bool
    """Whether there is room for what the lower precisions take that a run may choose; `sizes` are for float32 if not."""


def scout(asked: Any, reader: CellReader, options: Mapping[str, Any], longest: int, *, cancel: Any = None) -> Way:
    """Have one worker open the model and the file, and say how it would compute them.

    Parameters
    ----------
    asked
        The call (:class:`~scfm_lab.tasks.embed_run.Asked`); its ``cluster`` is an address or a ``distributed.Client``.
    options
        Complete ones.
    longest
        Tokens of the longest cell, as far as is known.

    Raises
    ------
    DataError
        If the cluster cannot be reached, or has no workers, or the cells do not lie in a file.
    ModelError
        If workers cannot open the same model.
    """
    order = _order(asked, reader, options, longest)
    with _client(asked.cluster) as client:
        from distributed import as_completed

        _workers(client)
        waiting = as_completed([client.submit(look, order, pure=False, retries=2)], loop=client.loop)
        try:
            for future in _as_they_come(waiting, cancel):
                found: Way = _result(future)
                return found
        except BaseException:  # an interrupt from the keyboard too: workers would compute on for nobody
            client.cancel(list(waiting.futures), force=True)
            raise
    raise DataError("No worker of the cluster answered; see whether they run, then run it again.")


def spread(
    job: Job,
    asked: Any,
    spans: Sequence[tuple[int, int]],
    folder: RunFolder,
    *,
    device: str,
    longest: int,
    done: int = 0,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> Iterator[Part]:
    """Have the parts of a run computed by a cluster, and read them as they are finished.

    Parameters
    ----------
    asked
        The call.
    spans
        First and last row (exclusive) of each part that is missing.
    folder
        Where the workers write, at the same path for all.
    device, longest
        Of :func:`scout`.

    Raises
    ------
    DataError, ModelError
        As :func:`scout`.
    """
    total = len(job.reader)
    if progress is not None:
        progress(done, total)
    if not spans:
        return
    order = _order(asked, job.reader, job.options, longest)
    with _client(asked.cluster) as client, _wanted(folder) as sign:
        from distributed import as_completed

        order |= {"folder": str(folder.path), "wanted": sign, "device": device, "precision": str(job.precision)}
        todo = list(spans)
        workers = _workers(client)
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
        except BaseException:  # an interrupt from the keyboard too: workers would compute on for nobody
            client.cancel(list(waiting.futures), force=True)
            raise


def look(order: dict[str, Any]) -> Way:
    """What a worker says before a run: its device, the precision that is fast there, and how it cuts the cells.

    Parameters
    ----------
    order
        Of :func:`_order`.
    """
    from scfm_lab.inference.engine import tokens_at_once
    from scfm_lab.inference.plan import some
    from scfm_lab.inference.precision import FLOAT32, SAMPLE, for_run, kind_of_machine
    from scfm_lab.models.tokens import Request
    from scfm_lab.tasks.embed_run import Way

    here = _here(order)
    kind = here.model.device.split(":")[0]
    if not here.roomy:
        return Way(kind, str(FLOAT32), {}, here.sizes)
    with tokens_at_once(here.sizes.batch_tokens):
        precision, found = for_run(
            here.model,
            Request(**order["request"]),
            order["options"],
            lambda: here.model.tokenize(some(here.reader, SAMPLE), options=order["options"], seed=order["seed"]),
            cells=len(here.reader),
            # Whichever worker of this kind is asked the next time gives the same answer.
            machine=f"workers {kind_of_machine(here.model.device)}",
        )
    return Way(kind, str(precision), found, here.sizes)


def work(order: dict[str, Any], start: int, stop: int) -> tuple[int, int]:
    """One part of a run, on a worker: computed and written.

    Parameters
    ----------
    order
        Of :func:`_order`, with the run's folder, device and precision.
    """
    from scfm_lab.inference.precision import FLOAT32, Precision
    from scfm_lab.inference.shards import write_part
    from scfm_lab.inference.stream import Job, chunks, compute, joined, prepare
    from scfm_lab.models.tokens import Request

    folder = Path(order["folder"])
    if not folder.is_dir():
        raise DataError(
            f"A worker does not see the folder of the run, {folder}; give SCFM_HOME the same path on all machines, on a file system "
            "that they share."
        )
    here = _here(order)
    kind, stopped = here.model.device.split(":")[0], _NotWanted(folder / order["wanted"])
    if kind != order["device"]:
        raise ModelError(
            f"A worker computes on {kind} where another computes on {order['device']}, so that the vectors would differ; let all "
            "workers have the same, or open the model with the device that all of them have (device='cpu')."
        )
    precision = Precision.parse(order["precision"])
    if precision != FLOAT32 and not here.roomy:
        raise DataError(
            f"A worker has no room for what {precision} takes beside the model, which another has; free some of its memory, "
            "or open the model with precision='float32'."
        )
    job = Job(
        here.model,
        here.reader,
        here.match,
        order["options"],
        Request(**order["request"]),
        order["seed"],
        precision,
        order["batch_size"],
        here.sizes.batch_tokens,
    )
    parts = []
    for first, last in chunks(stop - start, here.sizes.chunk_cells):
        stopped.check()
        parts.append(compute(job, prepare(job, start + first, start + last), cancel=stopped))
    stopped.check()
    write_part(folder, joined(parts, here.model.spec.width))
    return start, stop


class _NotWanted:
    """Set once nobody waits for a part any more: the driver's sign is gone from the run's folder."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def is_set(self) -> bool:
        """Whether to stop, asked between batches."""
        return not self.sign.exists()

    def check(self) -> None:
        """Stop if so."""
        if self.is_set():
            raise Cancelled("Stopped; the run that this part was for is over.")


@contextmanager
def _wanted(folder: RunFolder) -> Iterator[str]:
    """Name of a file in the run's folder that is there as long as the driver waits.

    Dask takes no thread from what it runs: without this, workers would compute on after the driver has left, beside those
    that a repeated call asks for the same rows.
    """
    sign = folder.path / f"{folder.SIGN}{uuid.uuid4().hex}"
    with folder.writing():
        sign.write_text(str(os.getpid()), encoding="utf-8")
    try:
        yield sign.name
    finally:
        with suppress(OSError):
            sign.unlink(missing_ok=True)


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


def check_spreadable(asked: Any, reader: CellReader, *, alone: bool) -> None:
    """Refuse what the workers of a cluster could not compute.

    Raises
    ------
    ModelError, DataError
        The model was made in this session, or the cells do not lie in a file.
    """
    check_model(asked.model)
    if reader.path is None or not alone:
        raise DataError(
            "cluster= needs cells that lie in a file which the workers can open: give the path of an .h5ad file or a Zarr "
            "folder, or an AnnData opened with backed='r' (and no like_reference)."
        )


def _order(asked: Any, reader: CellReader, options: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """What a worker is told, as plain values."""
    from scfm_lab.tasks.embed_run import cells_digest, file_state

    model = asked.model
    assert model.opened is not None
    assert reader.path is not None
    return {
        "path": str(reader.path),
        "file": file_state(reader.path, len(reader)),
        "cells": cells_digest(reader),
        "layer": asked.layer,
        "model": {
            "source": str(model.path) if model.path is not None else model.source,
            "digest": model.digest,
            "settings": model.settings_digest,
            # As the user gave them: what "auto" means, each worker finds for itself.
            "device": model.asked_device,
            "precision": "auto" if model.auto_precision else str(model.compute),
            **model.opened,
        },
        "options": dict(options),
        "request": {"hidden_layer": asked.request.hidden_layer, "pooling": asked.request.pooling},
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        "budget_gib": asked.budget_gib,
        "chunk_size": asked.chunk_size,
        "longest": longest,
    }


_OF_A_RUN = ("folder", "wanted", "device", "precision", "request", "seed", "batch_size")


def _here(order: dict[str, Any]) -> Here:
    """The model and the file of an order, opened once in a process."""
    import json

    key = json.dumps({k: v for k, v in order.items() if k not in _OF_A_RUN}, sort_keys=True, default=str)
    with _opening:
        if key not in _opened:
            _opened.clear()
            _opened[key] = _open(order)
        return _opened[key]


def _open(order: dict[str, Any]) -> Here:
    from scfm_lab.cells.stored import open_stored
    from scfm_lab.inference.plan import cut_among
    from scfm_lab.inference.precision import all_that_may_be
    from scfm_lab.models.load import load_model
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
    may_be = all_that_may_be(model, options)
    sizes, left = cut_among(
        model,
        reader,
        may_be,
        device=model.device,
        budget_gib=order["budget_gib"],
        longest=order["longest"],
        chunk_size=order["chunk_size"],
        in_memory=False,
    )
    return Here(model, reader, model.known_genes(reader.genes, options), sizes, left == may_be)


def _workers(client: Any) -> int:
    """Workers of a cluster, at least one."""
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    if workers == 0:
        raise DataError(
            f"The Dask cluster at {client.scheduler.address} has no workers; start some, then run it again."
        )
    return workers


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


def _result(future: Any) -> Any:
    try:
        return future.result()
    except ScfmError:
        raise
    # A worker's fault can be any exception; it is told with its name.
    except Exception as error:
        raise DataError(
            f"A worker of the cluster failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}); what is finished is "
            "kept, and the same call goes on from there."
        ) from error
