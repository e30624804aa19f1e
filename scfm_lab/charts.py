"""Pictures of charts whose labels have room, whatever font they are shown in.

A chart is laid out here, with the fonts that are at hand, and shown in a browser, with its own. Where that one's letters are
wider, labels at the edge would be cut off: a picture shows nothing beyond its frame.
"""

from __future__ import annotations

import re
from cmath import exp
from math import pi
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

#: Widths of letters in the widest of the usual fonts (DejaVu Sans, Verdana), in font sizes.
_NARROW, _SLIM, _USUAL, _CAPITAL, _WIDE = 0.37, 0.46, 0.63, 0.79, 1.0
_WIDTHS = {
    **dict.fromkeys("ijlI'|", _NARROW),
    **dict.fromkeys(" .,:;!frt()[]-/\\J", _SLIM),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ+<>=_~^", _CAPITAL),
    **dict.fromkeys("mwMW%@…—", _WIDE),
}
_BOLD = 1.12
_EDGE = 2.0
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: How long a label beside an axis may be: names of cell types are longer than Vega lets them be.
LABEL_LIMIT = 320


def charts() -> Any:
    """Altair, drawing its charts as pictures where nobody has chosen a renderer.

    Altair's own default fetches Vega from the network each time a chart is shown. Whoever wants
    charts that can be touched says ``altair.renderers.enable("html")``.
    """
    import altair as alt

    if alt.renderers.active == "default":
        alt.renderers.enable("svg")
        draw: Any = alt.renderers.get()

        def picture(spec: dict[str, Any], **metadata: Any) -> Any:
            drawn = draw(_longer_labels(drawable(spec)), **metadata)
            bundle, *rest = drawn if isinstance(drawn, tuple) else (drawn,)
            bundle = {kind: with_room(text) if kind == "image/svg+xml" else text for kind, text in bundle.items()}
            return (bundle, *rest) if rest else bundle

        alt.renderers.register("scfm", picture)
        alt.renderers.enable("scfm")
    return alt


def _longer_labels(spec: dict[str, Any]) -> dict[str, Any]:
    config = dict(spec.get("config") or {})
    config["axisY"] = {"labelLimit": LABEL_LIMIT, **config.get("axisY", {})}
    return {**spec, "config": config}


def drawable(part: Any) -> Any:
    """Give a chart's description, or a part of it, with a mark in the place of each character that no picture can hold.

    Vega's converter ends the whole process at a control character, and with it the notebook's kernel.
    """
    if isinstance(part, str):
        return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", part)
    if isinstance(part, dict):
        return {drawable(key): drawable(value) for key, value in part.items()}
    return [drawable(value) for value in part] if isinstance(part, list) else part


def with_room(svg: str) -> str:
    """Give a chart's picture with its frame so large that no label is cut off in a font with wider letters.

    Parameters
    ----------
    svg
        As Vega draws it. One that no reader of XML takes, since a name in it holds a control character, is given back as it is.
    """
    from xml.etree.ElementTree import ParseError, fromstring

    found = re.match(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+">', svg)
    if found is None:
        return svg
    wide, high = float(found[1]), float(found[2])
    try:
        drawn = fromstring(svg)  # noqa: S314 - it was drawn here
    except ParseError:
        return svg
    ends = list(_ends(drawn, 0j, 1 + 0j))
    left = min([0.0, *(end.real - _EDGE for end in ends)])
    right = max([wide, *(end.real + _EDGE for end in ends)])
    top = min([0.0, *(end.imag - _EDGE for end in ends)])
    bottom = max([high, *(end.imag + _EDGE for end in ends)])
    if (left, top, right, bottom) == (0.0, 0.0, wide, high):
        return svg
    size = f'width="{right - left:.0f}" height="{bottom - top:.0f}"'
    place = f'x="{left:.0f}" y="{top:.0f}" {size}'
    head = re.sub(
        r" width=.*>$", f' {size} viewBox="{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}">', found[0]
    )
    rest = svg[found.end() :]
    # The background, where there is one.
    return head + re.sub(rf'^<rect width="{found[1]}" height="{found[2]}"', f"<rect {place}", rest)


def _width(letter: str) -> float:
    """How wide a letter is, in font sizes; Chinese, Japanese and Korean ones and emoji fill a square."""
    square = east_asian_width(letter) in ("W", "F")
    return _WIDTHS.get(letter, _WIDE if square else _USUAL)


def _ends(element: Element, at: complex, turn: complex) -> Iterator[complex]:
    """Where the texts in an element begin and end."""
    for what, given in re.findall(r"(translate|rotate)\(([^)]*)\)", element.get("transform", "")):
        x, y, *_ = [*map(float, re.split(r"[ ,]+", given.strip())), 0.0]
        if what == "translate":
            at += turn * complex(x, y)
        else:
            turn *= exp(1j * pi * x / 180)
    if element.tag.endswith("}text") and element.get("opacity") != "0":
        size = float(re.match(r"[\d.]+", element.get("font-size", "11"))[0])  # type: ignore[index]
        size *= _BOLD if element.get("font-weight") == "bold" else 1.0
        lines = [part for part in element.itertext() if part.strip()]
        width = size * max((sum(map(_width, line)) for line in lines), default=0.0)
        before = {"end": 1.0, "middle": 0.5}.get(element.get("text-anchor", ""), 0.0)
        for x in (-before * width, (1 - before) * width):
            yield at + turn * x
    for child in element:
        yield from _ends(child, at, turn)
