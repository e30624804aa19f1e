"""A still picture of the bench, for where no kernel answers any more: on paper, on a web page, in a reopened notebook."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ScfmError
from scfm_widgets.codec import MAX_CODE, MISSING_CODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_widgets.codec import Column
    from scfm_widgets.session import Session

_SIZE = (900, 560)
_LEGEND = 250
#: Drawn at twice the size and shrunk, which smooths the edges.
_FINE = 2
_MOST_CELLS = 60_000
_MOST_ROWS = 22
_INK = "#1b232e"
_MUTED = "#596473"
_GREY = "#c9ccd1"

#: Okabe and Ito's eight, then Paul Tol's muted ones; the same as in the browser.
CATEGORIES = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a800", "#4d4d4d",
    "#332288", "#882255", "#44aa99", "#999933", "#aa4499", "#117733", "#88ccee", "#cc6677",
)  # fmt: skip
#: The same scales as in the browser, on a light background.
_SCALES = {
    "amount": ("#e3e6ea", "#c5d3e2", "#8fb8d8", "#4d8fc4", "#2a61a6", "#2b2f78"),
    "order": ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#d8d21a"),
    "change": ("#e3e6ea", "#f2d3a4", "#ecaa55", "#d8752b", "#a8431b", "#5f1f0d"),
}


def draw(session: Session, column_of: Callable[[str, str], Column]) -> bytes | None:
    """Draw the plane with its colours and legend, as PNG.

    Parameters
    ----------
    session
        Whose plane is drawn.
    column_of
        Gives the column by where it is and its name.

    Returns
    -------
    The PNG, or ``None`` where there is no plane yet, or no cell has a place on it.
    """
    from PIL import Image, ImageDraw

    if session.layout is None or session.layout not in session.adata.obsm:
        return None
    plane = np.asarray(session.adata.obsm[session.layout], dtype=float)[:, :2]
    if not np.isfinite(plane).all(axis=1).any():
        return None
    colour = session.state.get("colour")
    column = None
    # What cannot be had (a column was taken away, a perturbation was undone) leaves the cells without colours.
    with contextlib.suppress(ScfmError):
        column = column_of(colour["by"], colour["name"]) if colour else None
    codes = np.zeros(len(plane), np.uint8) if column is None else np.frombuffer(column.codes, np.uint8)
    about: dict[str, Any] = {} if column is None else column.about

    image = Image.new("RGB", (_SIZE[0] * _FINE, _SIZE[1] * _FINE), "white")
    pen = ImageDraw.Draw(image)
    places = _on_paper(plane)
    radius = _FINE * float(np.clip(26 / np.sqrt(max(len(plane), 1)) * 4, 0.7, 3.6))
    order = np.random.default_rng(0).permutation(len(plane))[:_MOST_CELLS]
    colours = _colours(about)
    for row in order:
        x, y = places[row]
        if np.isfinite(x) and np.isfinite(y):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[codes[row]])
    _legend(pen, about, colours)
    small = image.resize(_SIZE, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _on_paper(plane: np.ndarray) -> np.ndarray:
    known = plane[np.isfinite(plane).all(axis=1)]
    low, high = known.min(axis=0), known.max(axis=0)
    room = np.array([_SIZE[0] - _LEGEND, _SIZE[1]]) * _FINE
    margin = 24 * _FINE
    scale = float(((room - 2 * margin) / np.maximum(high - low, 1e-9)).min())
    middle = (low + high) / 2
    x = room[0] / 2 + (plane[:, 0] - middle[0]) * scale
    y = room[1] / 2 - (plane[:, 1] - middle[1]) * scale
    return np.column_stack([x, y])


def _colours(about: dict[str, Any]) -> list[str]:
    if about.get("kind") == "category":
        colours = [CATEGORIES[code % len(CATEGORIES)] for code in range(256)]
        if about.get("other") is not None:
            colours[about["other"]] = _GREY
    elif about.get("kind") == "number":
        scale = _SCALES[about.get("scale", "amount")]
        stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in scale])
        at = np.minimum(np.arange(256) / MAX_CODE, 1) * (len(stops) - 1)
        mixed = np.column_stack([np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)])
        colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed.round().astype(int)]
    else:
        colours = ["#6b7684"] * 256
    colours[MISSING_CODE] = _GREY
    return colours


def _legend(pen: Any, about: dict[str, Any], colours: list[str]) -> None:
    font, bold = _font(12 * _FINE), _font(13 * _FINE)
    left, line = (_SIZE[0] - _LEGEND + 8) * _FINE, 20 * _FINE
    pen.text((left, 20 * _FINE), about.get("title", ""), fill=_INK, font=bold)
    top = 46 * _FINE
    if about.get("kind") == "category":
        labels = about["labels"]
        for code, label in enumerate(labels[:_MOST_ROWS]):
            y = top + code * line
            pen.ellipse((left, y + 2 * _FINE, left + 11 * _FINE, y + 13 * _FINE), fill=colours[code])
            pen.text((left + 18 * _FINE, y), label[:32], fill=_INK, font=font)
        if len(labels) > _MOST_ROWS:
            more = f"and {len(labels) - _MOST_ROWS} more"
            pen.text((left, top + _MOST_ROWS * line), more, fill=_MUTED, font=font)
    elif about.get("kind") == "number":
        width = (_LEGEND - 40) * _FINE
        for x in range(width):
            pen.line((left + x, top, left + x, top + 12 * _FINE), fill=colours[int(x / width * MAX_CODE)])
        pen.text((left, top + 18 * _FINE), f"{about['min']:.3g}", fill=_MUTED, font=font)
        end = f"{about['max']:.3g}"
        pen.text((left + width - pen.textlength(end, font=font), top + 18 * _FINE), end, fill=_MUTED, font=font)


def _font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and has the Greek letters of names of cells."""
    from pathlib import Path

    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
