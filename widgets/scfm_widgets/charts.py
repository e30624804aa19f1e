"""Altair charts as SVG, drawn here and shown as pictures: no Vega in the browser, and no network."""

from __future__ import annotations

from typing import Any

from scfm_lab.charts import drawable, with_room

_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
_INK = {"light": "#1b232e", "dark": "#e8ebef"}
_MUTED = {"light": "#596473", "dark": "#a0abb9"}
_LINE = {"light": "#e0e4e9", "dark": "#2c333e"}

THEMES = ("light", "dark")


def themed(chart: Any, theme: str, *, width: int | None = None) -> Any:
    """Give an Altair chart the bench's look.

    Parameters
    ----------
    chart
        The chart; it is not changed.
    theme
        ``"light"`` or ``"dark"``. Marks that are drawn in a dark grey are drawn in the theme's ink.
    width
        Of the plot, in pixels.
    """
    axis = {
        "labelColor": _MUTED[theme],
        "titleColor": _MUTED[theme],
        "titleFontWeight": "normal",
        "gridColor": _LINE[theme],
        "domainColor": _LINE[theme],
        "tickColor": _LINE[theme],
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": 118,
    }
    # Titles are longer than the small plots are wide: they end where the plot ends and reach back under the labels.
    along = {"titleAnchor": "end", "titleLimit": 300}
    drawn = chart.properties(width=width) if width is not None else chart
    return (
        drawn.configure(
            background="transparent",
            font=_FONT,
            axis=axis,
            axisX=along,
            padding={"left": 10, "top": 5, "right": 8, "bottom": 5},
        )
        .configure_view(stroke=None)
        .configure_legend(labelColor=_INK[theme], titleColor=_MUTED[theme])
    )


def svg(chart: Any, *, width: int | None = None) -> dict[str, str]:
    """Draw a chart once for each theme.

    Parameters
    ----------
    chart
        An Altair chart.
    width
        Of the plot, in pixels.

    Returns
    -------
    SVG by theme.
    """
    import vl_convert

    found = {}
    for theme in THEMES:
        spec = drawable(themed(chart, theme, width=width).to_dict())
        found[theme] = _inked(with_room(vl_convert.vegalite_to_svg(spec)), theme)
    return found


def _inked(text: str, theme: str) -> str:
    """Charts draw their middles in a dark grey that a dark page would swallow."""
    return text if theme == "light" else text.replace('"#333"', f'"{_INK[theme]}"')
