"""Columns on their way to the browser: quantised, one small array of bytes each, with a descriptor beside it.

A place takes four bytes per cell, a colour or a value one. Nothing here decides what is shown; it only packs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

#: Highest code of a value; one more would be :data:`MISSING_CODE`.
MAX_CODE = 254
#: Code of a value that is not there.
MISSING_CODE = 255
#: Most categories that get a code of their own; the rest share the next one.
MAX_CATEGORIES = 254
#: Place of a cell that has none.
MISSING_PLACE = 65535
_MAX_PLACE = 65000
#: Room around the base layout, as a share of its longer side: perturbed cells may come to lie outside of it.
_MARGIN = 0.04


@dataclass(frozen=True)
class Frame:
    """How places on a plane become pairs of uint16.

    Attributes
    ----------
    low
        Lower left corner, in units of the plane.
    side
        Length of the unit square's side, in units of the plane; both axes share it, so that shapes stay true.
    extent
        Part of the unit square that the cells take, (across, up).
    """

    low: tuple[float, float]
    side: float
    extent: tuple[float, float]

    @classmethod
    def around(cls, plane: NDArray[np.floating[Any]]) -> Frame:
        """Frame around places, float (cells, 2), with a margin; places that are not finite do not count."""
        known = plane[np.isfinite(plane).all(axis=1)]
        if len(known) == 0:
            return cls((0.0, 0.0), 1.0, (1.0, 1.0))
        low, high = known.min(axis=0).astype(float), known.max(axis=0).astype(float)
        longest = float((high - low).max()) or 1.0
        low, high = low - _MARGIN * longest, high + _MARGIN * longest
        side = float((high - low).max())
        across, up = (high - low) / side
        return cls((float(low[0]), float(low[1])), side, (float(across), float(up)))

    def pack(self, plane: NDArray[np.floating[Any]]) -> bytes:
        """Places, float (cells, 2), as little-endian uint16 pairs. What lies outside comes to lie on the edge."""
        finite = np.isfinite(plane).all(axis=1)
        scaled = (np.where(finite[:, None], plane, 0.0) - np.array(self.low)) / self.side * 65535.0
        packed = np.clip(np.rint(scaled), 0, _MAX_PLACE).astype("<u2")
        packed[~finite] = MISSING_PLACE
        return packed.tobytes()

    def unpack(self, data: bytes) -> NDArray[np.float64]:
        """Undo :meth:`pack`, to within half a step of the grid; NaN where a cell has no place."""
        packed = np.frombuffer(data, dtype="<u2").reshape(-1, 2)
        plane = packed / 65535.0 * self.side + np.array(self.low)
        plane[(packed == MISSING_PLACE).all(axis=1)] = np.nan
        return plane


@dataclass(frozen=True)
class Column:
    """One value per cell as a code of one byte, and what the codes mean.

    Attributes
    ----------
    codes
        One byte per cell; :data:`MISSING_CODE` where there is no value.
    about
        Plain values for the browser: ``kind``, ``title``, ``missing`` and, by kind, ``labels`` and ``counts`` or ``min``
        and ``max``.
    """

    codes: bytes
    about: dict[str, Any]


def pack_numbers(
    values: ArrayLike, *, title: str, scale: str = "amount", unit: str = "", low: float | None = None
) -> Column:
    """Pack numbers into 255 steps between their least and their greatest.

    Parameters
    ----------
    values
        One number per cell; what is not finite counts as missing.
    title, unit
        For the legend.
    scale
        Colour scale: ``"amount"``, ``"order"`` or ``"change"``.
    low
        Value of the first step; default the least value.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    least = float(array[known].min()) if known.any() else 0.0
    least = least if low is None else min(low, least)
    greatest = float(array[known].max()) if known.any() else least
    span = greatest - least
    steps = np.zeros(len(array)) if span == 0 else (np.where(known, array, least) - least) / span * MAX_CODE
    codes = np.rint(steps).astype(np.uint8)
    codes[~known] = MISSING_CODE
    about = {
        "kind": "number",
        "title": title,
        "unit": unit,
        "scale": scale,
        "min": least,
        "max": greatest,
        "missing": int((~known).sum()),
    }
    return Column(codes.tobytes(), about)


def pack_categories(values: pd.Series[Any], *, title: str) -> Column:
    """Pack categories; where there are too many, all beyond the largest share one code.

    Parameters
    ----------
    values
        One category per cell; categories keep their order, other values are sorted.
    title
        For the legend.
    """
    import pandas as pd

    categorical = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("category")
    codes = categorical.cat.codes.to_numpy().astype(np.int64)
    labels = [str(label) for label in categorical.cat.categories]
    counts = np.bincount(codes[codes >= 0], minlength=len(labels))
    other = None
    if len(labels) > MAX_CATEGORIES:
        order = np.argsort(-counts, kind="stable")
        kept = np.sort(order[: MAX_CATEGORIES - 1])
        other = len(kept)
        place = np.full(len(labels), other)
        place[kept] = np.arange(len(kept))
        codes = np.where(codes >= 0, place[codes], -1)
        counts = np.append(counts[kept], counts.sum() - counts[kept].sum())
        labels = [*(labels[i] for i in kept), f"{len(labels) - len(kept):,} smaller groups"]
    else:
        # Groups without a cell would only fill the legend.
        used = np.flatnonzero(counts)
        place = np.full(len(labels) + 1, -1)
        place[used] = np.arange(len(used))
        codes, counts, labels = place[codes], counts[used], [labels[i] for i in used]
    missing = codes < 0
    packed = np.where(missing, MISSING_CODE, codes).astype(np.uint8)
    about = {
        "kind": "category",
        "title": title,
        "labels": labels,
        "counts": [int(count) for count in counts],
        "missing": int(missing.sum()),
        "other": other,
    }
    return Column(packed.tobytes(), about)


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """Pack a bool per cell into bits, lowest first."""
    return np.packbits(mask, bitorder="little").tobytes()


def unpack_mask(data: bytes, n: int) -> NDArray[np.bool_]:
    """Undo :func:`pack_mask` for `n` cells; bits that are not there are False."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[:n].astype(bool)
    return np.concatenate([bits, np.zeros(n - len(bits), dtype=bool)])


def plain(value: Any) -> Any:
    """Give a value as JSON can hold it: numpy's numbers as Python's, what is not finite as ``None``."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
