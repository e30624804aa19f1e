"""What the bench's small state may hold: each key checked when it changes, in words that say what is there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, did_you_mean, nearest
from scfm_widgets.checks import check_groupby
from scfm_widgets.small_state import check_followed, check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scfm_widgets.panels import PanelRow
    from scfm_widgets.session import Session

#: What the bench's small state holds, and how it begins.
STATE: dict[str, Any] = {
    "model": None,
    "colour": None,
    "hidden": [],
    "range": None,
    "groupby": None,
    "layout": None,
    "panel": None,
    "labels": True,
    "paths": True,
    "root": None,
    "second": None,
    "field": False,
    "density": None,
    "gene": None,
    "follow": [],
    "by_path": False,
    "against": None,
}
#: Of these ``None`` is what they begin as.
_SWITCHES, _LISTS = ("labels", "paths", "field", "by_path"), ("hidden", "follow")
#: What the legend calls cells without a value.
NO_VALUE = "(no value)"


def check_keys(given: Mapping[str, Any]) -> None:
    """Refuse keys that the state does not have.

    Raises
    ------
    DataError
        The nearest one is told.
    """
    for key in given:
        if key not in STATE:
            hits = nearest(str(key), STATE, n=1)
            hint = f" Did you mean {hits[0]!r}?" if hits else ""
            message = f"lab.state has no {key!r}; it has {', '.join(STATE)}.{hint}"
            raise DataError(message)


def checked(
    value: Mapping[str, Any], now: Mapping[str, Any], session: Session, rows: Sequence[PanelRow]
) -> dict[str, Any]:
    """Check what is given of the state.

    What does not change is not checked, for a column may have gone since; what is of another colour or other groups goes with
    those.

    Parameters
    ----------
    value
        Some keys, or all.
    now
        The state as it is.
    session
        What the bench's panels share.
    rows
        The panels; none while the bench is being made.

    Returns
    -------
    What is given, as plain values, and what goes with it.

    Raises
    ------
    DataError, ModelError, GenesError
        Something cannot be.
    """
    check_keys(value)
    given = {key: _shaped(key, item) for key, item in value.items()}
    if isinstance(given.get("colour"), str):
        given["colour"] = colour_of(session, given["colour"])
    new = {key: item for key, item in given.items() if item != now.get(key)}
    for key, check in _CHECKS.items():
        if new.get(key) is not None:
            given[key] = check(session, new[key])
    if new.get("panel") is not None and rows:
        _check_panel(given["panel"], rows)
    colour = given.get("colour", now.get("colour"))
    if colour != now.get("colour"):
        _follow_colour(given, new, now, session)
    if new.get("range") is not None:
        given["range"] = check_range(new["range"], colour, session.columns)
    if new.get("hidden"):
        # What is hidden already may be a group that has been renamed since.
        known = [] if colour != now.get("colour") else list(now.get("hidden") or [])
        _check_hidden([name for name in given["hidden"] if name not in known], colour, session)
    groupby = given.get("groupby", now.get("groupby"))
    if new.get("root") is not None:
        given["root"] = _root(new["root"], groupby, session)
    elif "groupby" in new:
        given["root"] = _root_among(given.get("root", now.get("root")), groupby, session)
    return given


def _shaped(key: str, value: Any) -> Any:
    """A value in the shape that its key has; ``None`` is how it begins."""
    if value is None or (isinstance(value, str) and not value and key not in _LISTS):
        return list(STATE[key]) if key in _LISTS else STATE[key]
    if key in _SWITCHES or key == "density":
        if isinstance(value, bool | np.bool_):
            return bool(value)
        words = "True, False or None" if key == "density" else "True or False"
        raise DataError(f"{key!r} is {words}; it was given as {value!r}.")
    if key in _LISTS:
        return _listed(key, value)
    if key in ("colour", "root", "range", "model"):
        return value
    if isinstance(value, str | Path | np.str_):
        return str(value)
    raise DataError(f"{key!r} is a name or None; it was given as {value!r}.")


def _listed(key: str, value: Any) -> list[str]:
    what = {"hidden": "groups", "follow": "genes"}[key]
    if isinstance(value, str):
        raise DataError(f"{key!r} is a list of {what}; write [{value!r}].")
    try:
        return list(dict.fromkeys(str(item) for item in value))
    except TypeError:
        raise DataError(f"{key!r} is a list of {what}; it was given as {value!r}.") from None


def colour_of(session: Session, value: Any) -> dict[str, str] | None:
    """A colour from a name, or as it is.

    Raises
    ------
    DataError
        It is nowhere.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        return session.columns.checked(value)
    name = str(value)
    if name in session.adata.obs:
        return {"by": "obs", "name": name}
    gene = session.columns.gene(name)
    if gene is not None:
        return {"by": "gene", "name": gene}
    columns, genes = [str(column) for column in session.adata.obs.columns], session.columns.names
    place = "in var_names" if genes == list(session.adata.var_names) else "of these cells"
    message = (
        f"{name!r} is neither a column of obs ({', '.join(map(repr, columns[:12])) or 'there are none'}) nor one of the "
        f"{len(genes):,} genes {place}.{session.columns.near(name, *columns)}"
    )
    raise DataError(message)


def _model(session: Session, value: Any) -> str:
    if isinstance(value, str | Path):
        session.check_model(str(value))
        return str(value)
    if hasattr(value, "spec") and hasattr(value, "asked"):
        return str(session.adopt(value))
    raise DataError(f"'model' is a name, a registry reference, a path or an opened model; it was given as {value!r}.")


def _groupby(session: Session, name: str) -> str:
    check_groupby(session.adata, name)
    return name


def _layout(session: Session, key: str) -> str:
    session.plane_at(key)
    return key


def _second(session: Session, key: str) -> str:
    session.plane_at(key, twins=True)
    return key


def _against(session: Session, source: str) -> str:
    session.check_model(source)
    return source


def _gene(session: Session, name: str) -> str:
    return session.columns.require_gene(name)


def _follow(session: Session, genes: list[str]) -> list[str]:
    return check_followed(genes, session.columns)


_CHECKS: dict[str, Callable[[Session, Any], Any]] = {
    "colour": colour_of,
    "model": _model,
    "groupby": _groupby,
    "layout": _layout,
    "second": _second,
    "gene": _gene,
    "follow": _follow,
    "against": _against,
}


def _check_panel(name: str, rows: Sequence[PanelRow]) -> None:
    rows = [row for row in rows if not row.error]
    stage = [row for row in rows if row.component == "embedding"]
    rows = [row for row in rows if row not in stage]
    words = {str(word).lower() for row in rows for word in (row.component, row.title) if word}
    if name.lower() not in words and name not in [row.id for row in rows]:
        titles = [row.title for row in rows]
        if any(name.lower() in (row.id, row.component, row.title.lower()) for row in stage):
            message = f"The cells are always shown; 'panel' names what stands beside them: {', '.join(titles)}."
            raise DataError(message)
        message = f"This bench has no panel {name!r}; it has {', '.join(titles)}.{did_you_mean(name, titles)}"
        raise DataError(message)


def _follow_colour(given: dict[str, Any], new: Mapping[str, Any], now: Mapping[str, Any], session: Session) -> None:
    """Other values colour the cells: what was hidden of those before goes, but for groups that are there too."""
    colour = given["colour"]
    if "range" not in new:
        shown = given.pop("range", None)
        given["range"] = None
        if shown is not None:
            # It was given along with the colour, and is the same as before.
            with suppress(DataError):
                given["range"] = check_range(shown, colour, session.columns)
    if "hidden" not in new and now.get("hidden"):
        labels = legend_labels(colour, session)
        given["hidden"] = [name for name in now["hidden"] if labels is None or name in labels]


def legend_labels(colour: Mapping[str, str] | None, session: Session) -> list[str] | None:
    """Groups in the legend; none where numbers colour the cells, ``None`` where it is not known yet."""
    if not colour or colour["by"] == "gene":
        return []
    try:
        of_obs = colour["by"] == "obs"
        column = (
            session.columns.of_obs(colour["name"])
            if of_obs
            else session.columns.of_result(colour["name"], session.results)
        )
    except DataError:
        return None
    if column.about["kind"] != "category":
        return []
    return [*column.about["labels"], NO_VALUE]


def _check_hidden(names: Sequence[str], colour: Mapping[str, str] | None, session: Session) -> None:
    labels = legend_labels(colour, session)
    unknown = [] if labels is None else [name for name in names if name not in labels]
    if not unknown:
        return
    if not colour:
        message = "'hidden' names groups of what colours the cells, and nothing colours them; set 'colour' with it."
    elif not labels:
        message = (
            f"'hidden' names groups, and the cells are coloured by {colour['name']!r}, which are numbers; 'range' says which of "
            "them are shown."
        )
    else:
        message = f"{colour['name']!r} has no group {unknown[0]!r} to hide.{did_you_mean(unknown[0], labels)}"
    raise DataError(message)


def _root(value: Any, groupby: str | None, session: Session) -> dict[str, Any]:
    """Where a trajectory begins: ``{"group": name}`` or ``{"cell": row}``, of which a name alone is made."""
    from scfm_lab.cells.cells import group_column

    column = session.grouping(groupby)
    groups = [] if column is None else sorted(map(str, group_column(session.adata, column).unique()))
    names = session.adata.obs_names
    if isinstance(value, str):
        if value not in groups and value in names:
            return {"cell": int(np.flatnonzero(names == value)[0])}
        value = {"group": value}
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("group", "cell"):
        message = (
            f"'root' is a group, the name of a cell, {{'group': name}} or {{'cell': row}}; it was given as {value!r}."
        )
        raise DataError(message)
    if "cell" in value:
        row = value["cell"]
        if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < len(names):
            message = f"'root' is a cell by its row, from 0 to {len(names) - 1:,}; it was given as {row!r}."
            raise DataError(message)
        return {"cell": int(row)}
    group = str(value["group"])
    if group in groups:
        return {"group": group}
    if column is None:
        message = (
            f"'root' cannot be the group {group!r}: the cells are in no groups; set 'groupby' with it, or give a cell."
        )
    else:
        message = f"obs[{column!r}] has no group {group!r} for a root.{did_you_mean(group, groups)}"
    raise DataError(message)


def _root_among(root: Mapping[str, Any] | None, groupby: str | None, session: Session) -> dict[str, Any] | None:
    """The same root in other groups; a group that is not among them is none."""
    with suppress(DataError):
        return None if root is None else _root(dict(root), groupby, session)
    return None
