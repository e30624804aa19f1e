"""What every result object can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.charts import charts as charts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Result:
    """Base of the results: a short text, a table, a plot, and writing into an AnnData."""

    table: pd.DataFrame

    def summary(self) -> str:
        """A few lines for people."""
        raise NotImplementedError

    def plot(self) -> Any:
        """An Altair chart, shown as a picture without a network (see :func:`scfm_lab.charts.charts`)."""
        raise NotImplementedError

    def write(self, adata: AnnData) -> None:
        """Write the result, with its provenance, under new keys of an AnnData.

        Where a result says no other, the table goes to ``uns``, under the name of the task, the gene and the model, and the
        provenance to ``uns["scfm"]`` under the same key. What other weights of a model of the same name gave stays, and the key gets
        a number.

        Raises
        ------
        DataError
            If nothing is known of where the result came from, as of scores that were put together by hand.
        """
        from scfm_lab.cells import provenance
        from scfm_lab.errors import DataError

        told = getattr(self, "provenance", None)
        if not told or "task" not in told:
            raise DataError(
                f"This {type(self).__name__} has no provenance, and so nothing to write into an AnnData; use .table."
            )
        parts = (told["task"], getattr(self, "gene", ""), told.get("model", ""))
        key = "_".join(str(part) for part in parts if part).replace(".", "_").replace("/", "|")
        provenance.write_table(adata, self.table, provenance.key_of_models(adata, key, told), told, False)

    def to_json(self) -> dict[str, Any]:
        """The table and the summary as plain values (the CLI's ``--json``)."""
        import json

        return {
            "summary": self.summary(),
            "table": json.loads(self.table.to_json(orient="records", double_precision=12)),
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>\n{self.summary()}"
