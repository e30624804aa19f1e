"""Checks of the bench's small state that need more than a name: the range of values that are shown, and genes that are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_widgets.columns import Columns

#: Genes that are followed along a trajectory together; more curves cannot be told apart.
MOST_FOLLOWED = 4
#: Results that put cells into groups and give them no number.
_GROUPED = ("branch",)


def check_range(value: Any, colour: Mapping[str, str] | None, columns: Columns) -> list[float]:
    """Check the least and the greatest value of the colour that is shown; cells beyond are hidden as a group's are.

    Raises
    ------
    DataError
        It is no such pair, or what colours the cells are groups.
    """
    try:
        low, high = (float(part) for part in value)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not low <= high or not np.isfinite([low, high]).all():
        message = f"'range' is the least and the greatest value to show, such as [0.5, 2.0], or None; it was given as {value!r}."
        raise DataError(message)
    kinds = {column["name"]: column["kind"] for column in columns.describe()}
    by, name = (colour["by"], colour["name"]) if colour else ("", "")
    if not colour or (by == "obs" and kinds.get(name) == "category") or (by == "result" and name in _GROUPED):
        message = (
            f"'range' is of numbers, and the cells are coloured by {name!r}, which are groups; 'hidden' names groups to hide."
            if colour
            else "'range' is of the numbers that colour the cells, and nothing colours them; set 'colour' with it."
        )
        raise DataError(message)
    return [low, high]


def check_followed(value: Any, columns: Columns) -> list[str]:
    """Check genes that are followed along a trajectory, in the names of the cells.

    Raises
    ------
    DataError
        One is not there, or there are too many.
    """
    genes = list(dict.fromkeys(columns.require_gene(str(gene)) for gene in value))
    if len(genes) > MOST_FOLLOWED:
        message = f"At most {MOST_FOLLOWED} genes are followed together; there are {len(genes)} in 'follow'."
        raise DataError(message)
    return genes
