"""Embed the cells of a file into a copy of it, without ever holding its counts or its vectors in memory."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.cells import provenance
from scfm_lab.cells.stored import open_stored
from scfm_lab.errors import DataError, StorageError
from scfm_lab.inference.shards import runs_home
from scfm_lab.tasks.embed import describe
from scfm_lab.tasks.embed_run import Asked, check_reference, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.embed import EmbedResult


def embed_file(
    path: str | Path,
    target: str | Path,
    model: Model,
    *,
    key_added: str | None = None,
    like_reference: bool = False,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
    **asked: Any,
) -> EmbedResult:
    """Write a copy of an .h5ad file with a model's vectors in ``obsm``.

    Parameters
    ----------
    path
        The file to read.
    target
        The file to write; it is there whole, or as it was before.
    **asked
        ``layer``, ``options``, ``seed``, ``batch_size``, ``cache``, ``budget_gib``, ``chunk_size`` and ``cluster``, as for
        :func:`scfm_lab.embed`.

    Returns
    -------
    EmbedResult
        Its vectors stay in the file that was written, and are read from there when they are asked for.

    Raises
    ------
    StorageError
        If the disk is full; what is finished is kept, and the same call goes on from there.
    """
    model.require("embed")
    path, target = Path(path), Path(target)
    source = open_stored(path)
    if path.is_dir():
        raise DataError(f"{path} is a Zarr folder; only .h5ad files are written. Open it in Python and use sl.embed.")
    key = provenance.free_key(source, "obsm", key_added or f"X_{model.name}", given=key_added is not None)
    asked["options"] = dict(asked.get("options") or {})
    check_reference(model, like_reference, asked["options"], asked.get("batch_size"))
    started = time.perf_counter()
    call = Asked(source, model, **asked)
    with _place_beside(target) as temporary:
        writer = _Writer(path, temporary, key)
        try:
            done = run(call, progress=progress, cancel=cancel, make=writer.make)
            result, mixed = describe(call, done, key, source, seconds=time.perf_counter() - started)
            writer.finish({**result.provenance, "remarks": [*result.provenance["remarks"], *mixed]})
            temporary.replace(target)
            done.finished()
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
            why = "the disk is full" if full else error.strerror or str(error)
            raise StorageError(f"{target} cannot be written: {why}; nothing was changed.") from error
        finally:
            writer.close()
            source.close()
    return writer.opened(result, target)


@contextmanager
def _place_beside(target: Path) -> Iterator[Path]:
    """A name beside the target, the same for every process that writes it, and this one the only one at it.

    What a process that was killed has left there is removed, which under a name of its own it never would be: a copy of all cells.
    """
    from filelock import FileLock, Timeout

    home = runs_home()
    # Locks lie under the data home; whoever has another one has another name too.
    name = hashlib.sha256(f"{home.resolve()}\n{target.resolve()}".encode()).hexdigest()[:12]
    # The suffix stays, since some readers choose the format by it.
    temporary = target.with_name(f".{name}.{target.name}")
    lock = FileLock(home / f"{name}.file.lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(f"Another process is writing {target} now; wait for it, or name another file.") from None
    except OSError as error:
        raise StorageError(
            f"The run cannot be kept in {home} ({error.strerror or error}). Set SCFM_HOME to a directory you can write to."
        ) from error
    try:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        lock.release()


class _Writer:
    """A copy of the file, to which vectors are added as they come."""

    def __init__(self, path: Path, temporary: Path, key: str) -> None:
        self.path, self.temporary, self.key = path, temporary, key
        self.file: Any = None
        self.offset, self.shape = 0, (0, 0)

    def make(self, cells: int, width: int) -> Any:
        """The array of the vectors, in the file."""
        import h5py  # type: ignore[import-untyped]
        import numpy as np

        shutil.copyfile(self.path, self.temporary)
        self.file = h5py.File(self.temporary, "r+")
        obsm = self._group("obsm")
        if self.key in obsm:
            del obsm[self.key]
        # In one piece: what reads the vectors later maps them from the file.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        vectors = obsm.create_dataset(self.key, shape=(cells, width), dtype=np.float32, fillvalue=np.nan, dcpl=layout)
        vectors.attrs["encoding-type"], vectors.attrs["encoding-version"] = "array", "0.2.0"
        self.shape = (cells, width)
        return vectors

    def finish(self, record: dict[str, Any]) -> None:
        """Add the provenance and close."""
        from anndata.io import write_elem

        entries = self._group("uns").require_group(provenance.UNS)
        _as_dict(entries)
        if self.key in entries:
            del entries[self.key]
        write_elem(entries, self.key, provenance.storable({**record, "slot": "obsm"}))
        self.file.flush()
        self.offset = int(self.file["obsm"][self.key].id.get_offset() or 0)
        self.close()
        with self.temporary.open("rb") as written:
            os.fsync(written.fileno())

    def opened(self, result: EmbedResult, target: Path) -> EmbedResult:
        """The result with its vectors in the written file."""
        from dataclasses import replace

        import numpy as np

        return replace(result, vectors=np.memmap(target, np.float32, "r", self.offset, self.shape))

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _group(self, name: str) -> Any:
        group = self.file.require_group(name)
        _as_dict(group)
        return group


def _as_dict(group: Any) -> None:
    if "encoding-type" not in group.attrs:
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "dict", "0.1.0"
