"""Cells by their names, as somebody types them."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Most cells that are told at once.
MOST_CELLS = 40


def find_cells(names: Sequence[str], typed: str, selected: Iterable[int] = (), *, most: int = MOST_CELLS) -> list[int]:
    """Rows of cells whose names begin with or hold what was typed, in that order; case is ignored.

    Where nothing is typed, cells that are selected come first.

    Examples
    --------
    >>> find_cells(["TTAC-1", "ACGT-1", "acca-2"], "ac")
    [1, 2, 0]
    """
    query = typed.strip().lower()
    if not query:
        first = list(islice(selected, most))
        return list(islice(dict.fromkeys(chain(first, range(min(len(names), most)))), most))
    begins: list[int] = []
    holds: list[int] = []
    for row, name in enumerate(names):
        at = name.lower().find(query)
        if at == 0:
            begins.append(row)
            if len(begins) == most:
                break
        elif at > 0 and len(holds) < most:
            holds.append(row)
    return [*begins, *holds][:most]
