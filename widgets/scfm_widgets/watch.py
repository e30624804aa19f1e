"""Whether the cells are still what the browser was told: digests of what of them is shown, taken again before each answer.

A column, a plane or the counts may be changed in any cell of the notebook, in place or anew, and nobody tells the bench.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

#: Values of a matrix that are looked at; to look at all of them takes longer than to answer.
_LOOKED_AT = 4096

#: Most columns of ``obs`` that are watched: the browser keeps no more of them.
_MOST_COLUMNS = 32

#: What is watched: ("obs", column), ("obsm", key), ("genes", "") or ("counts", "").
Thing = tuple[str, str]
GENES: Thing = ("genes", "")
COUNTS: Thing = ("counts", "")


class Watch:
    """What has been told of one AnnData, and whether it still holds.

    Parameters
    ----------
    adata
        Read, never changed.
    """

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        self._told: dict[Thing, Any] = {}

    def note(self, *things: Thing) -> None:
        """Take down how things are as they are told."""
        for thing in things:
            self._told.pop(thing, None)
            self._told[thing] = self.stamp(*thing)
        for column in [thing for thing in self._told if thing[0] == "obs"][:-_MOST_COLUMNS]:
            self._told.pop(column, None)

    def changed(self) -> set[Thing]:
        """What is another than when it was told; from now on it counts as told."""
        found = set()
        for thing, told in list(self._told.items()):
            now = self.stamp(*thing)
            if now != told:
                found.add(thing)
                self._told[thing] = now
        return found

    def stamp(self, kind: str, name: str) -> Any:
        """What tells a thing from what it was; ``None`` where it is not there."""
        adata = self._adata
        if kind == "obs":
            return _of_column(adata.obs[name]) if name in adata.obs else None
        if kind == "obsm":
            return _of_plane(adata.obsm[name]) if name in adata.obsm else None
        if kind == "genes":
            # An index is never changed, only replaced, and is small enough to be kept.
            return _Same(adata.var_names)
        return _of_counts(adata)


class _Same:
    """Equal to another of the very same object, or of an equal index."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        return self._index is other._index or bool(self._index.equals(other._index))

    def __hash__(self) -> int:
        return id(type(self))


def _of_column(values: Any) -> Any:
    import pandas as pd

    if getattr(values, "ndim", 1) != 1 or not isinstance(values, pd.Series):
        return None
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _crc(values.cat.codes.to_numpy()), tuple(map(str, values.cat.categories))
    array = values.to_numpy()
    if array.dtype.kind in "biufc":
        return str(array.dtype), _crc(array)
    try:
        return str(array.dtype), _crc(pd.util.hash_array(np.asarray(values, dtype=object)))
    except TypeError:
        # Lists and their like, which colour nothing.
        return None


def _of_plane(values: Any) -> Any:
    shape = getattr(values, "shape", None)
    try:
        return shape, _crc(np.asarray(values))
    # Ragged arrays and tables of texts are no planes, and nothing is shown of them.
    except (TypeError, ValueError):
        return None


def _of_counts(adata: AnnData) -> Any:
    # What lies in a file, or is cut out anew each time it is looked at, is not changed by hand.
    if getattr(adata, "isbacked", False) or getattr(adata, "is_view", False):
        return None
    found = [_of_matrix(adata.X), *((str(name), _of_matrix(layer)) for name, layer in adata.layers.items())]
    return (*found, None if adata.raw is None else _of_matrix(adata.raw.X))


def _of_matrix(matrix: Any) -> Any:
    if matrix is None:
        return None
    data = getattr(matrix, "data", None) if hasattr(matrix, "indptr") else matrix
    if not isinstance(data, np.ndarray):
        return id(matrix)
    parts = [data, *(getattr(matrix, name, None) for name in ("indices", "indptr"))]
    return (matrix.shape, data.shape, str(data.dtype), *(_crc(_some(part)) for part in parts if part is not None))


def _some(array: NDArray[Any]) -> NDArray[Any]:
    flat = array.ravel(order="K")
    return flat[:: max(1, len(flat) // _LOOKED_AT)]


def _crc(array: NDArray[Any]) -> int:
    if array.dtype.kind == "O":
        message = "not numbers"
        raise TypeError(message)
    own = np.ascontiguousarray(array)
    # Times lend nobody their bytes.
    return zlib.crc32((own.view(np.int64) if own.dtype.kind in "Mm" else own).data)
