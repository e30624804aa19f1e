"""Cells of a file stream through a model: the same vectors, whatever the way, after any kill, within the memory given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata.io import read_elem, sparse_dataset

import scfm_lab as sl
from scfm_lab.errors import Cancelled, CountsError, DataError, StorageError
from scfm_lab.inference.shards import list_runs, runs_home
from scfm_lab.tasks.embed_file import embed_file

if TYPE_CHECKING:
    from pathlib import Path

MODELS = ["pca", "starter"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home of this test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("SCFM_HOME", str(path))
    return path


@pytest.fixture
def pbmc68k(pbmc68k: ad.AnnData) -> ad.AnnData:
    """As many of the bundled cells as make some parts."""
    return pbmc68k[:420].copy()


@pytest.fixture
def cells(pbmc68k: ad.AnnData, tmp_path: Path) -> Path:
    """A file with the bundled cells."""
    path = tmp_path / "cells.h5ad"
    pbmc68k.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    """Vectors of the bundled cells, all at once, in memory, without a cache."""
    adata = sl.datasets.load("pbmc68k")[:420].copy()
    return {m: sl.embed(adata, m, progress=False, cache=False, copy=True).vectors for m in MODELS}


def zarr_of(adata: ad.AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        adata.write_zarr(path)
    return path


def stored_sparse(path: Path, adata: ad.AnnData) -> ad.AnnData:
    import zarr

    root = zarr.open_group(str(zarr_of(adata, path / "cells.zarr")), mode="r")
    return ad.AnnData(X=sparse_dataset(root["X"]), obs=read_elem(root["obs"]), var=read_elem(root["var"]))


def lazy(path: Path, adata: ad.AnnData) -> ad.AnnData:
    pytest.importorskip("xarray", reason="needs xarray, which anndata reads lazily with")
    return ad.experimental.read_lazy(str(zarr_of(adata, path / "cells.zarr")))


def backed(path: Path, adata: ad.AnnData) -> ad.AnnData:
    adata.write_h5ad(path / "b.h5ad")
    return ad.read_h5ad(path / "b.h5ad", backed="r")


def backed_dense(path: Path, adata: ad.AnnData) -> ad.AnnData:
    dense = adata.copy()
    dense.X = dense.X.toarray()
    return backed(path, dense)


def backed_by_columns(path: Path, adata: ad.AnnData) -> ad.AnnData:
    columns = adata.copy()
    columns.X = columns.X.tocsc()
    return backed(path, columns)


def in_layer(path: Path, adata: ad.AnnData) -> Path:
    other = adata.copy()
    other.layers["counts"] = other.X.copy()
    other.X = other.X.log1p()
    other.write_h5ad(path / "layer.h5ad")
    return path / "layer.h5ad"


def in_raw(path: Path, adata: ad.AnnData) -> ad.AnnData:
    other = adata.copy()
    other.raw = adata
    other = other[:, 100:].copy()
    other.X = other.X.log1p()
    return backed(path, other)


@pytest.mark.parametrize(
    "opened", [backed, backed_dense, backed_by_columns, in_layer, in_raw, stored_sparse, lazy], ids=lambda f: f.__name__
)
def test_vectors_are_those_of_memory_wherever_the_counts_lie(home, pbmc68k, tmp_path, plain, opened):
    source = opened(tmp_path, pbmc68k)
    # How counts are read does not depend on the model.
    for name in MODELS if opened in (backed, lazy) else MODELS[:1]:
        result = sl.embed(source, name, progress=False, cache=False, chunk_size=97)
        np.testing.assert_allclose(result.vectors, plain[name], atol=1e-5, rtol=0)
        if isinstance(source, ad.AnnData):
            np.testing.assert_array_equal(source.obsm[f"X_{name}"], result.vectors)
            assert source.uns["scfm"][f"X_{name}"]["genes_matched"] == result.audit.genes_matched
    # What was kept for resuming is gone.
    assert list_runs() == []


def test_the_audit_of_parts_is_that_of_all(home, pbmc68k, cells):
    whole = sl.embed(pbmc68k, "starter", progress=False, cache=False, options={"max_length": 60}, copy=True)
    parts = sl.embed(cells, "starter", progress=False, cache=False, options={"max_length": 60}, chunk_size=33)
    assert parts.audit.table.equals(whole.audit.table)
    assert parts.audit.lost.equals(whole.audit.lost)
    assert parts.audit.panel_share == whole.audit.panel_share
    assert whole.provenance["cells_truncated"] > 100
    for key in ("cells_truncated", "counts_truncated", "umi_share_lost", "cells_without_genes", "remarks"):
        assert parts.provenance[key] == whole.provenance[key]


def test_cells_that_no_model_sees_have_nan_in_every_part(home, pbmc68k, tmp_path):
    pbmc68k = pbmc68k[:300].copy()
    dense = pbmc68k.X.toarray()
    dense[:150] = 0
    pbmc68k.X = dense
    vectors = sl.embed(backed(tmp_path, pbmc68k), "starter", progress=False, chunk_size=50).vectors
    assert np.isnan(vectors[:150]).all()
    assert np.isfinite(vectors[150:]).all()


CHILD = """
import os, signal, sys
import scfm_lab as sl
path, after, model = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def progress(done, total):
    if done >= after:
        os.kill(os.getpid(), signal.SIGKILL)
result = sl.embed(path, model, progress=progress, cache=False, chunk_size=50)
"""


def killed(cells: Path, after: int, model: str = "pca") -> None:
    command = [sys.executable, "-c", CHILD, str(cells), str(after), model]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


class Stopped(Exception):
    pass


def stopped(cells: Path, after: int, model: str = "pca") -> None:
    """Leave a run as a kill does, without a process of its own: that kills leave the same is told below."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stopped

    with pytest.raises(Stopped):
        sl.embed(cells, model, progress=progress, cache=False, chunk_size=50)


def test_after_kills_the_same_call_goes_on_where_it_was(home, cells, plain):
    for after in (1, 350):
        killed(cells, after, "starter")
    (run,) = list_runs()
    assert run["cells"] >= 300
    # What a kill leaves of a part that was being written.
    folder = next(runs_home().glob("*/"))
    parts = sorted(folder.glob("rows-*.npz"))
    (folder / ".writing-1-rows.npz").write_bytes(parts[0].read_bytes()[:100])
    seen = []
    result = sl.embed(cells, "starter", cache=False, chunk_size=50, progress=lambda done, total: seen.append(done))
    assert result.provenance["cells_resumed"] == run["cells"] == seen[0]
    np.testing.assert_allclose(result.vectors, plain["starter"], atol=1e-5, rtol=0)
    assert list_runs() == []
    uninterrupted = sl.embed(cells, "starter", cache=False, chunk_size=50, progress=False)
    np.testing.assert_array_equal(result.vectors, uninterrupted.vectors)
    assert result.audit.table.equals(uninterrupted.audit.table)


def test_a_part_that_was_damaged_is_computed_anew(home, cells):
    stopped(cells, 350)
    folder = next(runs_home().glob("*/"))
    first, second, *_ = sorted(folder.glob("rows-*.npz"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-20])
    left = list_runs()[0]["cells"]
    result = sl.embed(cells, "pca", cache=False, chunk_size=50, progress=False)
    assert result.provenance["cells_resumed"] == left - 100
    uninterrupted = sl.embed(cells, "pca", cache=False, chunk_size=50, progress=False)
    np.testing.assert_array_equal(result.vectors, uninterrupted.vectors)


def test_another_chunk_size_resumes_too(home, cells, plain):
    stopped(cells, 160)
    left = list_runs()[0]["cells"]
    assert left >= 150
    result = sl.embed(cells, "pca", cache=False, chunk_size=64, progress=False)
    assert result.provenance["cells_resumed"] == left
    np.testing.assert_allclose(result.vectors, plain["pca"], atol=1e-5, rtol=0)


def test_a_file_that_changed_is_computed_anew_and_told(home, cells, pbmc68k):
    stopped(cells, 160)
    pbmc68k.X.data[pbmc68k.X.data > 1] -= 1
    pbmc68k.write_h5ad(cells)
    result = sl.embed(cells, "pca", cache=False, chunk_size=50, progress=False)
    assert result.provenance["cells_resumed"] == 0
    assert "The file has changed since an earlier run was stopped" in result.summary()
    expected = sl.embed(pbmc68k, "pca", cache=False, progress=False).vectors
    np.testing.assert_allclose(result.vectors, expected, atol=1e-5, rtol=0)


def test_a_file_may_be_written_once_its_run_has_stopped(home, cells, pbmc68k):
    def progress(done: int, total: int) -> None:
        raise Stopped

    # A notebook keeps the last traceback, and with it all that was open; HDF5 writes into no open file.
    with pytest.raises(Stopped) as kept:
        sl.embed(cells, "pca", cache=False, chunk_size=50, progress=progress)
    pbmc68k.write_h5ad(cells)
    assert kept.traceback


def test_a_file_that_changes_while_it_is_read_is_refused(home, cells):
    def progress(done: int, total: int) -> None:
        if done >= 300:
            os.utime(cells)

    with pytest.raises(
        DataError, match=r"was changed while its cells were read; nothing was written\. Run it again\.$"
    ):
        sl.embed(cells, "pca", cache=False, chunk_size=50, progress=progress)
    assert list_runs() == []


def test_other_options_are_another_run(home, cells):
    stopped(cells, 160, "starter")
    result = sl.embed(cells, "starter", cache=False, chunk_size=50, progress=False, options={"max_length": 40})
    assert result.provenance["cells_resumed"] == 0
    assert len(list_runs()) == 1


def test_two_processes_are_not_at_one_run_together(home, cells):
    from filelock import FileLock

    stopped(cells, 160)
    folder = next(runs_home().glob("*/"))
    with (
        FileLock(folder.with_name(folder.name + ".lock"), is_singleton=False),
        pytest.raises(StorageError, match="Another process is computing these very vectors now"),
    ):
        sl.embed(cells, "pca", cache=False, chunk_size=50, progress=False)


def test_cancelling_stops_within_a_batch_and_keeps_what_is_finished(home, cells):
    stop = threading.Event()
    seen: list[tuple[int, float]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, time.monotonic()))
        if done >= 250:
            stop.set()

    adata = ad.read_h5ad(cells, backed="r")
    with pytest.raises(Cancelled, match="the same call goes on where it stopped"):
        sl.embed(adata, "starter", cache=False, chunk_size=100, batch_size=10, progress=progress, cancel=stop)
    assert [done for done, _ in seen if done > 250] == []
    assert "X_starter" not in adata.obsm
    result = sl.embed(adata, "starter", cache=False, chunk_size=100, batch_size=10, progress=False)
    assert result.provenance["cells_resumed"] == 200


def test_a_budget_too_small_for_one_cell_is_a_sentence(cells):
    with pytest.raises(DataError, match=r"The budget of 0\.01 GiB is too small for one cell: starter needs .* GiB"):
        sl.embed(cells, "starter", budget_gib=0.01, progress=False)
    with pytest.raises(DataError, match="budget_gib is -1"):
        sl.embed(cells, "starter", budget_gib=-1, progress=False)
    with pytest.raises(DataError, match="chunk_size is 0"):
        sl.embed(cells, "starter", chunk_size=0, progress=False)


def test_a_data_home_that_cannot_be_written_to_is_a_sentence(cells, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Set SCFM_HOME to a directory you can write to"):
        sl.embed(cells, "pca", progress=False)
    # Cells in memory need no folder.
    assert len(sl.embed(ad.read_h5ad(cells), "pca", progress=False).vectors) == 420


def test_a_full_disk_is_a_sentence_and_what_is_finished_stays(home, cells):
    code = f"""
import resource, signal
import scfm_lab as sl
from scfm_lab.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def progress(done, total):
    if done >= 200:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    sl.embed({str(cells)!r}, "starter", cache=False, chunk_size=100, progress=progress)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "The run cannot be kept in" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list_runs()[0]["cells"] == 100
    result = sl.embed(cells, "starter", cache=False, chunk_size=100, progress=False)
    assert result.provenance["cells_resumed"] == 100


def test_a_backed_file_that_is_gone_or_closed(home, cells):
    adata = ad.read_h5ad(cells, backed="r")
    adata.file.close()
    # AnnData opens it again by itself.
    assert len(sl.embed(adata, "pca", progress=False).vectors) == 420
    adata.file.close()
    cells.unlink()
    with pytest.raises(
        StorageError, match=r"The file .*cells\.h5ad cannot be read any more \(.*\); open the AnnData anew\.$"
    ):
        sl.embed(adata, "pca", progress=False, key_added="again")


def test_views_and_copies_of_backed_cells_are_refused_in_a_sentence(cells):
    adata = ad.read_h5ad(cells, backed="r")
    for source, copy in ((adata[:100], False), (adata, True)):
        with pytest.raises(DataError, match=r"copy or a view of a backed AnnData; .*to_memory\(\)"):
            sl.embed(source, "pca", progress=False, copy=copy)


def test_a_view_of_backed_cells_is_read_by_its_rows(cells, pbmc68k):
    rows = np.array([400, 3, 3 + 1, 77, 350])
    view = ad.read_h5ad(cells, backed="r")[rows, 10:]
    read = sl.Cells.from_anndata(view)
    expected = sl.Cells.from_anndata(pbmc68k[rows, 10:].copy())
    assert (read.counts != expected.counts).nnz == 0
    np.testing.assert_array_equal(read.keys, expected.keys)
    np.testing.assert_array_equal(read.names, expected.names)


def test_values_that_are_no_counts_are_found_in_the_middle_of_a_file(home, cells):
    with h5py.File(cells, "a") as file:
        file["X/data"][file["X/indptr"][350]] = 0.5
    with pytest.raises(CountsError, match="X does not hold raw counts"):
        sl.embed(cells, "pca", progress=False, chunk_size=50)


def test_a_file_is_embedded_into_its_copy(home, cells, pbmc68k, plain, tmp_path):
    target = tmp_path / "out.h5ad"
    model = sl.load_model("starter")
    stop = threading.Event()

    def progress(done: int, total: int) -> None:
        if done >= 200:
            stop.set()

    with pytest.raises(Cancelled):
        embed_file(cells, target, model, cache=False, chunk_size=100, progress=progress, cancel=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "home"]
    result = embed_file(cells, target, model, cache=False, chunk_size=100)
    assert result.provenance["cells_resumed"] == 200
    np.testing.assert_allclose(result.vectors, plain["starter"], atol=1e-5, rtol=0)
    written = ad.read_h5ad(target)
    np.testing.assert_array_equal(written.obsm["X_starter"], result.vectors)
    np.testing.assert_array_equal(written.obsm["X_umap"], pbmc68k.obsm["X_umap"])
    assert written.uns["scfm"]["X_starter"]["slot"] == "obsm"
    assert (written.X != pbmc68k.X).nnz == 0
    # Written by us, it may be written anew by us.
    again = embed_file(target, tmp_path / "again.h5ad", sl.load_model("pca"), key_added="X_starter", cache=False)
    assert ad.read_h5ad(tmp_path / "again.h5ad").obsm["X_starter"].shape == again.vectors.shape == (420, 50)
    assert list_runs() == []


WRITING = """
import os, signal, sys
import scfm_lab as sl
from scfm_lab.tasks.embed_file import embed_file
def progress(done, total):
    if done >= 100:
        os.kill(os.getpid(), signal.SIGKILL)
embed_file(sys.argv[1], sys.argv[2], sl.load_model("pca"), cache=False, chunk_size=50, progress=progress)
"""


def test_what_a_killed_process_was_writing_does_not_stay(home, cells, tmp_path):
    target = tmp_path / "written" / "out.h5ad"
    target.parent.mkdir()
    for _ in range(2):
        command = [sys.executable, "-c", WRITING, str(cells), str(target)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
        # A copy of all cells, of which there is never more than one.
        assert len(list(target.parent.iterdir())) == 1
    embed_file(cells, target, sl.load_model("starter"), cache=False)
    assert list(target.parent.iterdir()) == [target]


def test_two_processes_do_not_write_one_file(home, cells, tmp_path):
    from scfm_lab.tasks.embed_file import _place_beside

    target = tmp_path / "out.h5ad"
    code = f"""
from pathlib import Path
from scfm_lab.tasks.embed_file import _place_beside
with _place_beside(Path({str(target)!r})):
    print("in", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(StorageError, match=r"Another process is writing .*out\.h5ad now"):
            embed_file(cells, target, sl.load_model("pca"))
        with _place_beside(tmp_path / "other.h5ad"):
            other.communicate(b"\n")
    embed_file(cells, target, sl.load_model("pca"))
