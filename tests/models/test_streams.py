"""Every family streams: the same vectors and the same remarks, whatever the chunks, from the cache or anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from families import FAMILIES

import scfm_lab as sl
from scfm_lab.inference.plan import cut
from scfm_lab.tasks.embed_run import Asked, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_do_not_depend_on_chunks_or_the_cache(
    every_opened: Callable[[str], Any], name: str, pbmc68k: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SCFM_CACHE_GB")
    model = every_opened(name)
    cells = pbmc68k[:45].copy()
    # One cell that no model sees, alone in its chunk.
    dense = cells.X.toarray()
    dense[18] = 0
    cells.X = dense
    cells.write_h5ad(tmp_path / "cells.h5ad")
    whole = sl.embed(cells, model, progress=False, cache=False, copy=True)
    assert np.isnan(whole.vectors[18]).all()
    parts = sl.embed(tmp_path / "cells.h5ad", model, progress=False, cache=False, chunk_size=6)
    sl.embed(cells[5:30].copy(), model, progress=False)
    mixed = sl.embed(cells, model, progress=False, chunk_size=20, copy=True)
    known = sl.embed(cells, model, progress=False, copy=True)
    assert mixed.provenance["cells_from_cache"] == 25
    assert known.provenance["cells_from_cache"] == 45
    for result in (parts, mixed, known):
        np.testing.assert_allclose(result.vectors, whole.vectors, atol=1e-5, rtol=0)
        for told in ("cells_truncated", "counts_truncated", "cells_left_out", "cells_without_genes", "remarks"):
            assert result.provenance[told] == whole.provenance[told], told
        assert result.audit.table.equals(whole.audit.table)


def test_plans_and_precisions_reckon_with_the_width_between_the_layers(model):
    layers, _ = model._stack()
    # The feed-forward part is wider than the layer's input and output, and nothing has fewer biases or scales than those.
    width = min(len(vector) for vector in layers[0].parameters() if vector.ndim == 1)
    assert (model.hidden_width or model.spec.width) == width


@pytest.mark.parametrize("name", FAMILIES)
def test_cells_are_cut_as_the_plan_says(every_opened: Callable[[str], Any], name: str, pbmc68k: AnnData) -> None:
    model = every_opened(name)
    # As few counts as cells of a panel have: families that read every gene, or draw so many, have as many tokens as ever.
    cells = pbmc68k[:, np.arange(pbmc68k.n_vars) % 4 == 0][:60].copy()
    planned = sl.plan(cells, model, budget_gib=4.0)
    done = run(Asked(cells, model, cache=False, budget_gib=4.0))
    assert done.sizes == planned.sizes
    longest = int(done.job.model.tokenize(cells).lengths.max())
    assert planned.longest <= longest
    # A batch is planned for what a cell has tokens, and not for what it has counts.
    assert done.sizes.batch >= model.batch_bytes(planned.longest, planned.longest)


def test_a_network_of_many_tokens_loses_a_minute_at_most(every_opened: Callable[[str], Any], pbmc68k: AnnData) -> None:
    """scBERT reads all of its genes whatever a cell expresses; at its published size 423 cells took a quarter of an hour."""
    model = every_opened("scbert")
    small = model.spec
    try:
        model.spec = replace(small, parameters=9_000_000, layers=6, width=200, heads=10, feed_forward=800)
        tokens = 16_907
        reader = model.cell_reader(pbmc68k)
        few = cut(model, reader, device="cpu", budget_gib=8.0, longest=tokens)
        counts = cut(model, reader, device="cpu", budget_gib=8.0)
    finally:
        model.spec = small
    assert few.chunk_cells == 64 < counts.chunk_cells
