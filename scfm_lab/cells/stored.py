"""Cells that lie in a file: opened without reading the matrix, in .h5ad and in Zarr."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import hdf5
from scfm_lab.cells.sound import in_file, rows_of
from scfm_lab.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RowsOf:
    """Some rows and columns of a matrix in a file, read when they are asked for."""

    matrix: Any
    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self.rows), int(self.matrix.shape[1]) if self.columns is None else len(self.columns)

    def __getitem__(self, rows: Any) -> Any:
        wanted = self.rows[rows]
        # HDF5 reads ascending rows only.
        order, back = np.unique(wanted, return_inverse=True)
        if len(order) and order[-1] - order[0] + 1 == len(order):
            block = self._read(slice(int(order[0]), int(order[-1]) + 1))
        else:
            block = self._read(order)
        block = block[back]
        return block if self.columns is None else block[:, self.columns]

    def _read(self, rows: Any) -> Any:
        return rows_of(self.matrix, rows) if in_file(self.matrix) else self.matrix[rows]


def is_stored(matrix: Any) -> bool:
    """Whether a matrix lies in a file (or is worked out when asked for), not in memory."""
    from scipy import sparse

    return not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix))


def file_behind(matrix: Any) -> Path | None:
    """The .h5ad file or Zarr folder that a matrix is read from; None where that cannot be told."""
    if isinstance(matrix, RowsOf):
        matrix = matrix.matrix
    node = getattr(matrix, "group", matrix)
    store = getattr(getattr(node, "store", None), "root", None)
    if store is not None:
        return Path(str(store)).absolute()
    name = getattr(getattr(node, "file", None), "filename", None)
    return Path(str(name)).absolute() if name else None


@dataclass(frozen=True)
class StoredCells:
    """What of an AnnData a model reads, with matrices that stay in their file."""

    path: Path
    X: Any
    layers: dict[str, Any]
    raw: Any
    """With ``X`` and ``var``; None where there is none."""
    obs: pd.DataFrame
    var: pd.DataFrame
    uns: dict[str, Any]
    """``organism`` and ``scfm``, where they are there."""
    obsm: tuple[str, ...] = ()
    """Names of what lies in ``obsm``."""
    root: Any = None
    """The file or folder that was opened."""

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Genes."""
        return len(self.var)

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells."""
        return self.obs.index

    @property
    def var_names(self) -> pd.Index:
        """Names of the genes."""
        return self.var.index

    def close(self) -> None:
        """Close the file, so that others may write it: a traceback that a notebook keeps would hold it open.

        Matrices cannot be read any more, nor those of what was taken from these cells. A Zarr folder has nothing to close.
        """
        if hasattr(self.root, "close"):
            self.root.close()

    def take(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> StoredCells:
        """Some cells and genes; nothing is read."""
        return replace(
            self,
            X=None if self.X is None else RowsOf(self.X, rows, columns),
            layers={name: RowsOf(matrix, rows, columns) for name, matrix in self.layers.items()},
            raw=None if self.raw is None else SimpleNamespace(X=RowsOf(self.raw.X, rows, None), var=self.raw.var),
            obs=self.obs.iloc[rows],
            var=self.var if columns is None else self.var.iloc[columns],
        )


def open_stored(path: str | Path) -> StoredCells:
    """Open an .h5ad file or a Zarr folder: annotations of cells and genes are read, matrices are not.

    Raises
    ------
    DataError
        If it is not there, or cannot be read as AnnData.
    """
    from anndata.io import read_elem

    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    try:
        root = _root(path)
        if "obs" not in root or "var" not in root:
            raise ValueError("it has no 'obs' and 'var'")
        raw, uns = root.get("raw", None), root.get("uns", {})
        if not hasattr(raw, "keys"):  # Zarr keeps "no raw" as an empty array
            raw = None
        obs, var = read_elem(root["obs"]), read_elem(root["var"])
        if not hasattr(obs, "index") or not hasattr(var, "index"):
            raise ValueError("its 'obs' and 'var' are no tables")
        return StoredCells(
            path=path,
            X=_two_dimensional(root["X"], "X") if "X" in root else None,
            layers={name: _matrix(root["layers"][name]) for name in _names(root["layers"])} if "layers" in root else {},
            raw=None
            if raw is None
            else SimpleNamespace(X=_two_dimensional(raw["X"], "raw.X"), var=read_elem(raw["var"])),
            obs=obs,
            var=var,
            uns={name: read_elem(uns[name]) for name in ("organism", "scfm") if name in uns},
            obsm=tuple(_names(root["obsm"])) if "obsm" in root else (),
            root=root,
        )
    # Damaged files fail anywhere between HDF5, Zarr and pandas, with any exception; the file is what can be acted on.
    except Exception as error:
        why = " ".join(str(error).split()).rstrip(".")[:300]
        kind = "a Zarr folder of AnnData" if path.is_dir() else "an .h5ad file"
        raise DataError(f"{path} cannot be read as {kind}: {why}.") from error


def open_view(view: AnnData) -> StoredCells:
    """The cells and genes of a view of a backed AnnData, whose own X would be read whole.

    Raises
    ------
    DataError
        If the file is not there any more, or its names are others.
    """
    whole = open_stored(str(view.filename))
    rows, columns = whole.obs_names.get_indexer(view.obs_names), whole.var_names.get_indexer(view.var_names)
    if (rows < 0).any() or (columns < 0).any():
        raise DataError(f"The names of this view are not those of its file {view.filename}; read the file again.")
    every = np.array_equal(columns, np.arange(whole.n_vars))
    uns = {name: view.uns[name] for name in ("organism", "scfm") if name in view.uns}
    return replace(whole.take(rows, None if every else columns), obs=view.obs, var=view.var, uns=uns)


def _root(path: Path) -> Any:
    if path.is_dir():
        import zarr

        return zarr.open_group(str(path), mode="r")
    import h5py  # type: ignore[import-untyped]

    file = h5py.File(path, "r")
    for fault in hdf5.faults(file):
        file.close()
        raise ValueError(f"it {fault}")
    return file


def _matrix(node: Any) -> Any:
    from anndata.io import sparse_dataset

    encoding = str(node.attrs.get("encoding-type", ""))
    if encoding in ("csr_matrix", "csc_matrix") or "h5sparse_format" in node.attrs:
        missing = [name for name in ("data", "indices", "indptr") if name not in node]
        if missing:
            raise ValueError(f"its matrix has no {missing[0]!r}")
        return sparse_dataset(node)
    return node


def _two_dimensional(node: Any, where: str) -> Any:
    """A matrix, or None as anndata writes it; a group of anything else may lie there. Layers are looked at when asked for."""
    if node.attrs.get("encoding-type") == "null":
        return None
    matrix = _matrix(node)
    if len(getattr(matrix, "shape", None) or ()) != 2:
        raise ValueError(f"its {where} is no matrix")
    return matrix


def _names(group: Any) -> list[str]:
    return [str(name) for name in group]
