"""Files in and out of the command line: read in words, written whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scfm_lab.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd
    from anndata import AnnData

TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


def read_h5ad(path: str | Path) -> AnnData:
    """Read an .h5ad file into memory.

    Raises
    ------
    DataError
        The file cannot be read as AnnData; one sentence says why.
    """
    import anndata
    import h5py  # type: ignore[import-untyped]

    from scfm_lab.cells.hdf5 import faults
    from scfm_lab.cells.sound import fault as fault_of

    try:
        with h5py.File(path, "r") as file:
            for fault in faults(file):
                raise ValueError(f"it {fault}")
        adata = anndata.read_h5ad(path)
        for where, matrix in _sparse(adata):
            wrong = fault_of(matrix)
            if wrong:
                raise ValueError(f"{where} is damaged, {wrong}")
        return adata
    except MemoryError as error:
        raise DataError(f"{path} does not fit into this machine's memory.") from error
    # Damaged files fail anywhere between HDF5 and pandas, with any exception; the file is what the user can act on.
    except Exception as error:
        raise DataError(f"{path} cannot be read as an .h5ad file: {_reason(error)}.") from error


def _sparse(adata: AnnData) -> Iterator[tuple[str, Any]]:
    """The sparse matrices of an AnnData in memory, and where they are."""
    raw = {} if adata.raw is None else {"raw.X": adata.raw.X}
    named = ("layers", "obsm", "varm", "obsp", "varp")
    parts = {f"{name}[{key!r}]": value for name in named for key, value in getattr(adata, name).items()}
    for where, matrix in {"X": adata.X, **raw, **parts}.items():
        if getattr(matrix, "format", None) in ("csr", "csc"):
            yield where, matrix


def check_h5ad(path: str | Path) -> None:
    """Check that a file can be opened as HDF5; nothing of it is read.

    Raises
    ------
    DataError
        If it cannot.
    """
    import h5py

    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise DataError(f"{path} cannot be read as an .h5ad file: {_reason(error)}.") from error


def check_target(target: str | Path, suffixes: Iterable[str], inputs: Iterable[str | Path]) -> Path:
    """Check a place to write to, before any work is done.

    Parameters
    ----------
    target
        Where the result shall go.
    suffixes
        Endings that are understood.
    inputs
        Files that were given to read: never overwritten.

    Raises
    ------
    click.UsageError
        The ending is not understood, or the target is one of the inputs.
    StorageError
        Its folder is not there or cannot be written to.
    """
    path = Path(target)
    if not path.name.endswith(tuple(suffixes)):
        message = f"'{path}' must end in {' or '.join(suffixes)}."
        raise click.UsageError(message)
    for given in inputs:
        if path.exists() and path.samefile(given):
            message = f"'{path}' is the input; give another name after -o, the input is never overwritten."
            raise click.UsageError(message)
    folder = path.absolute().parent
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give a file's name.")
    if not folder.is_dir():
        raise StorageError(f"The folder {folder} does not exist; make it first, or write somewhere else.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"The folder {folder} cannot be written to; write somewhere else.")
    return path


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, and put it in place when the block ends well.

    Whatever happens in between, `target` is either as it was or complete.

    Raises
    ------
    StorageError
        The disk is full, or the file cannot be written.
    """
    # The suffix stays, since some writers choose their format by it.
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else _reason(error)
        raise StorageError(f"{target} cannot be written: {why}; nothing was changed.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_h5ad(adata: AnnData, target: Path) -> None:
    """Write an AnnData, whole or not at all."""
    with whole(target) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def write_table(table: pd.DataFrame, target: Path) -> None:
    """Write a table as CSV or TSV, whole or not at all."""
    separator = "\t" if ".tsv" in target.name[-7:] else ","
    with whole(target) as temporary:
        table.to_csv(temporary, sep=separator, index=False)


def _reason(error: Exception) -> str:
    text: Any = error.args[-1] if isinstance(error, OSError) and error.strerror else error
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return " ".join(str(text).split()).rstrip(".")[:300] or type(error).__name__
