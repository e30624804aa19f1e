"""Whether the cells are still what the browser was told: digests of what of them is shown, taken again before each answer.

A column, a plane or the counts may be changed in any cell of the notebook, in place or anew, and nobody tells the bench.
"""

from __future__ import annotations

import math
import threading
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.counts import find_counts
from scfm_lab.errors import ScfmError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

#: Bytes up to which a column or plane is looked at as a whole; that takes milliseconds.
_WHOLE = 1 << 22
#: Objects take longer than their pointers' bytes tell.
_MOST_OBJECTS = 1 << 16

#: Values of anything larger, and of a matrix, that are looked at; to look at all of them takes longer than to answer.
_LOOKED_AT = 4096

#: Most columns of ``obs`` that are watched: the browser keeps no more of them.
_MOST_COLUMNS = 32

#: What is watched: ("obs", column), ("obsm", key), ("genes", ""), ("counts", "") or ("X", "").
Thing = tuple[str, str]
GENES: Thing = ("genes", "")
#: Raw counts, wherever they lie: what models read.
COUNTS: Thing = ("counts", "")
#: What genes without raw counts colour the cells by.
VALUES: Thing = ("X", "")


class Watch:
    """What has been told of one AnnData, and whether it still holds; any thread may ask.

    Parameters
    ----------
    adata
        Read, never changed.
    """

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        self._told: dict[Thing, Any] = {}
        self._lock = threading.RLock()
        #: Where the counts lay when the matrices looked as they do here: to find them, many rows are read.
        self._found: tuple[Any, str | None] | None = None

    def note(self, *things: Thing) -> None:
        """Take down how things are as they are told anew, whatever they were before."""
        with self._lock:
            for thing in things:
                self._told.pop(thing, None)
                self._told[thing] = self.stamp(*thing)
            self._forget_oldest()

    def follow(self, *things: Thing) -> None:
        """Watch things from now on; what was told of one already is still to be compared with."""
        with self._lock:
            for thing in things:
                told = self._told.pop(thing) if thing in self._told else self.stamp(*thing)
                self._told[thing] = told
            self._forget_oldest()

    def changed(self) -> set[Thing]:
        """What is another than when it was told; from now on it counts as told."""
        with self._lock:
            found: dict[Thing, Any] = {}
            for thing, told in self._told.items():
                try:
                    now = self.stamp(*thing)
                # Whoever changes the cells is in the middle of that: a column went between two looks at it, or a layer came
                # while they were listed. The next answer looks again.
                except (KeyError, RuntimeError):
                    continue
                if now != told:
                    found[thing] = now
            self._told |= found
            return set(found)

    def stamp(self, kind: str, name: str) -> Any:
        """What tells a thing from what it was; ``None`` where it is not there."""
        adata = self._adata
        if kind == "obs":
            return _of_column(adata.obs[name]) if name in adata.obs else None
        if kind == "obsm":
            # A view of other cells gives its arrays anew each time.
            kept = not getattr(adata, "is_view", False)
            return _of_plane(adata.obsm[name], kept=kept) if name in adata.obsm else None
        if kind == "genes":
            # An index is never changed, only replaced, and is small enough to be kept.
            return _Same(adata.var_names)
        # What lies in a file, or is cut out anew each time it is looked at, is not changed by hand.
        if getattr(adata, "isbacked", False) or getattr(adata, "is_view", False):
            return None
        return _of_matrix(adata.X) if kind == "X" else self._of_counts()

    def _of_counts(self) -> Any:
        """Where the raw counts lie, and a digest of them alone; other layers are nobody's counts."""
        adata = self._adata
        now = {f"layers[{str(name)!r}]": _of_matrix(layer) for name, layer in adata.layers.items()}
        now["X"] = _of_matrix(adata.X)
        now["raw.X"] = None if adata.raw is None else _of_matrix(adata.raw.X)
        with self._lock:
            if self._found is None or self._found[0] != now:
                try:
                    where = find_counts(adata).where
                # There are none, or they are damaged; models say so.
                except ScfmError:
                    where = None
                self._found = (now, where)
            where = self._found[1]
        return where and (where, now.get(where))

    def _forget_oldest(self) -> None:
        for column in [thing for thing in self._told if thing[0] == "obs"][:-_MOST_COLUMNS]:
            self._told.pop(column, None)


class _Same:
    """Equal to another of the very same object, or of an equal index or column."""

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
        return _of_array(values.array.codes), _Same(values.cat.categories)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biufc":
        return _of_array(values.to_numpy())
    about: tuple[Any, ...] = (str(values.dtype), len(values))
    if len(values) > _MOST_OBJECTS:
        plain = isinstance(values.dtype, np.dtype)
        about += (_place(values.to_numpy()) if plain else _Same(values.array),)
        values = values.iloc[:: _step(len(values), 1)]
    array = values.to_numpy()
    if array.dtype.kind in "biufc":
        return *about, _crc(array)
    try:
        return *about, _crc(pd.util.hash_array(np.asarray(values, dtype=object)))
    except (TypeError, ValueError):
        # Lists and their like, which colour nothing.
        return None


def _of_plane(values: Any, *, kept: bool) -> Any:
    shape = getattr(values, "shape", None)
    try:
        # Of a table only the rows that are looked at are put together.
        if hasattr(values, "iloc") and values.size > _MOST_OBJECTS:
            values = values.iloc[:: _step(len(values), 1)]
        return shape, _of_array(np.asarray(values), kept=kept and isinstance(values, np.ndarray))
    # Ragged arrays and tables of texts are no planes, and nothing is shown of them.
    except (TypeError, ValueError):
        return None


def _of_array(array: NDArray[Any], *, kept: bool = True) -> Any:
    """A digest of the whole; of what is large, where it lies (unless it is put together anew for each look) and a part of it."""
    if array.nbytes <= _WHOLE:
        return array.shape, str(array.dtype), _crc(array)
    return array.shape, str(array.dtype), _place(array) if kept else None, _crc(_some(array))


def _place(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _of_matrix(matrix: Any) -> Any:
    if matrix is None:
        return None
    data = getattr(matrix, "data", None) if hasattr(matrix, "indptr") else matrix
    if not isinstance(data, np.ndarray):
        return id(matrix)
    parts = [data, *(getattr(matrix, name, None) for name in ("indices", "indptr"))]
    return (matrix.shape, data.shape, str(data.dtype), *(_crc(_some(part)) for part in parts if part is not None))


def _some(array: NDArray[Any]) -> NDArray[Any]:
    """Values spread over an array and over all its columns; nothing large is copied."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return array[:: max(1, min(array.size // _LOOKED_AT, len(array) // 16))]
    return array.ravel(order="K")[:: _step(array.size, array.shape[-1] if array.ndim else 1)]


def _step(size: int, width: int) -> int:
    """From one value that is looked at to the next; where it shared a divisor with the width, it would pass columns over."""
    step = max(1, size // _LOOKED_AT)
    while math.gcd(step, width) > 1:
        step += 1
    return step


def _crc(array: NDArray[Any]) -> int:
    if array.dtype.kind == "O":
        message = "not numbers"
        raise TypeError(message)
    own = np.ascontiguousarray(array)
    # Times lend nobody their bytes.
    return zlib.crc32((own.view(np.int64) if own.dtype.kind in "Mm" else own).data)
