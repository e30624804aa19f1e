"""What every result object can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def charts() -> Any:
    """Altair, drawing its charts as pictures where nobody has chosen a renderer.

    Altair's own default fetches Vega from the network each time a chart is shown. Whoever wants
    charts that can be touched says ``altair.renderers.enable("html")``.
    """
    import altair as alt

    if alt.renderers.active == "default":
        alt.renderers.enable("svg")
    return alt


class Result:
    """Base of the results: a short text, a table, a plot, and writing into an AnnData."""

    table: pd.DataFrame

    def summary(self) -> str:
        """A few lines for people."""
        raise NotImplementedError

    def plot(self) -> Any:
        """An Altair chart, shown as a picture without a network (see :func:`charts`)."""
        raise NotImplementedError

    def write(self, adata: AnnData) -> None:
        """Write the result, with its provenance, under new keys of an AnnData."""
        from scfm_lab.errors import DataError

        raise DataError(f"A {type(self).__name__} has nothing to write into an AnnData; use .table.")

    def to_json(self) -> dict[str, Any]:
        """The table and the summary as plain values (the CLI's ``--json``)."""
        import json

        return {
            "summary": self.summary(),
            "table": json.loads(self.table.to_json(orient="records", double_precision=12)),
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>\n{self.summary()}"
