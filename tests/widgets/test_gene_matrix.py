"""A gene's expression wherever the counts lie: the same values, and nothing copied that can be read as it is."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest

from scfm_lab.errors import Cancelled
from scfm_widgets import gene_matrix
from scfm_widgets.columns import Columns
from scfm_widgets.gene_matrix import GeneMatrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from tests.widgets.conftest import Bench

GENE = "LYZ"


@pytest.fixture
def few(pbmc68k: AnnData) -> AnnData:
    """A tenth of the cells, with and without the column of library sizes below."""
    return pbmc68k[::10].copy()


def stored(adata: AnnData, path: Path) -> AnnData:
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


@pytest.mark.parametrize("whole_library", [True, False])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "csr in a file", "csc in a file", "dense in a file"])
def test_is_the_same_wherever_the_counts_lie(
    few: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, whole_library: bool
) -> None:
    monkeypatch.setattr(gene_matrix, "_VALUES", 9_000)
    if not whole_library:
        del few.obs["total_counts_all_genes"]
    counts = few.X.toarray()
    sizes = few.obs["total_counts_all_genes"].to_numpy() if whole_library else counts.sum(axis=1)
    expected = np.log1p(counts / np.maximum(sizes, 1)[:, None] * 1e4)
    form, _, place = kind.partition(" ")
    few.X = {"csr": few.X.tocsr, "csc": few.X.tocsc, "dense": few.X.toarray}[form]()
    columns = Columns(stored(few, tmp_path / "cells.h5ad") if place else few)
    at = few.var_names.get_loc(GENE)
    np.testing.assert_allclose(columns.expression(GENE), expected[:, at], rtol=1e-5)
    np.testing.assert_allclose(columns.spread(), expected.var(axis=0), rtol=1e-4, atol=1e-7)
    assert columns.of_gene(GENE).about["unit"] == "log(1 + counts per 10,000)"


def test_what_lies_by_columns_is_not_copied_and_what_is_large_is_not_turned(
    few: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rows = GeneMatrix(few)
    monkeypatch.setattr(gene_matrix, "_SHARE", 0.0)
    first = by_rows.column(3)
    assert by_rows._matrix is few.X
    monkeypatch.undo()
    by_rows._kept.clear()
    np.testing.assert_array_equal(by_rows.column(3), first)
    assert by_rows._matrix.format == "csc", "small, it is turned once"
    few.X = few.X.tocsc()
    by_columns = GeneMatrix(few)
    np.testing.assert_array_equal(by_columns.column(3), first)
    assert by_columns._matrix is few.X


def test_reading_out_of_a_file_tells_how_far_it_is_and_can_be_stopped(
    few: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gene_matrix, "_VALUES", 10 * few.n_vars)
    del few.obs["total_counts_all_genes"]
    matrix = GeneMatrix(stored(few, tmp_path / "cells.h5ad"))
    told: list[tuple[int, int]] = []
    matrix.column(3, progress=lambda done, total: told.append((done, total)))
    assert told[:7] == [(10 * i, 70) for i in range(1, 8)]
    stop = threading.Event()
    with pytest.raises(Cancelled):
        matrix.column(4, progress=lambda *_: stop.set(), cancel=stop)
    # What was stopped is read anew.
    assert matrix.column(4).shape == (70,)


def test_the_bench_reads_a_gene_beside_the_notebook(bench: Callable[..., Bench], few: AnnData, tmp_path: Path) -> None:
    opened = bench(stored(few, tmp_path / "cells.h5ad"))
    panel: Any = opened.lab.panel("column")
    question = {"type": "column", "by": "gene", "name": GENE}
    asked = panel.handle(question)
    assert isinstance(asked, Future)
    told, (codes,) = asked.result(60)
    # Once it is there it is given at once, as it was.
    assert panel.handle(question) == ({"column": told["column"]}, [codes])
    assert opened.ask(**question)[1] == [codes]
    # Under the pointer no other gene is read for one cell.
    fields = opened.ask(type="cell", cell=3, colour={"by": "gene", "name": "CD3D"})[0]["fields"]
    assert "CD3D" not in dict(fields)
    assert GENE in dict(opened.ask(type="cell", cell=3, colour={"by": "gene", "name": GENE})[0]["fields"])
