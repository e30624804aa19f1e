"""Workers of a Dask cluster, real processes: the same vectors as one machine, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cli import main
from scfm_lab.errors import DataError, ModelError
from scfm_lab.inference.shards import list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'scfm-lab[cluster]'")

# Dask's own sockets and loops, at the end of a process.
pytestmark = [
    pytest.mark.alone,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home of this test's own, shared with its workers."""
    path = tmp_path / "home"
    monkeypatch.setenv("SCFM_HOME", str(path))
    return path


@pytest.fixture
def cells(pbmc68k: ad.AnnData, tmp_path: Path) -> Path:
    """A file with the bundled cells."""
    path = tmp_path / "cells.h5ad"
    pbmc68k.write_h5ad(path)
    return path


@contextmanager
def cluster(tmp_path: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers as a lab starts them; its address and the workers' processes."""
    base = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with (tmp_path / "cluster.log").open("wb") as log:
        started = [subprocess.Popen([*base, *options], env=environment, stdout=log, stderr=log)]
        try:
            while not file.exists():
                assert started[0].poll() is None, (tmp_path / "cluster.log").read_text()
                time.sleep(0.1)
            worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny"]
            worker += ["--no-dashboard", "--nthreads", "1", "--local-directory", str(tmp_path / "scratch")]
            started += [subprocess.Popen(worker, env=environment, stdout=log, stderr=log) for _ in range(workers)]
            with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
                if workers:
                    client.wait_for_workers(workers, timeout=60)
                yield client.scheduler.address, started[1:]
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()


def same(found, wanted):
    """A worker may run other threads than this process: matrix products then add in another order."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_two_workers_one_killed_give_what_one_machine_gives(home, cells, tmp_path):
    serial = sl.embed(cells, "starter", cache=False, chunk_size=50, progress=False)
    seen: list[int] = []
    with cluster(tmp_path) as (address, workers):

        def progress(done: int, total: int) -> None:
            if len(seen) == 3:
                workers[0].send_signal(signal.SIGKILL)
            seen.append(done)

        adata = ad.read_h5ad(cells, backed="r")
        result = sl.embed(adata, "starter", cache=False, chunk_size=50, progress=progress, cluster=address)
        assert workers[0].wait(timeout=10) == -signal.SIGKILL
        assert workers[1].poll() is None
    same(result.vectors, serial.vectors)
    np.testing.assert_array_equal(adata.obsm["X_starter"], result.vectors)
    assert result.audit.table.equals(serial.audit.table)
    assert seen == sorted(seen)
    assert seen[-1] == 700
    assert list_runs() == []


@pytest.mark.thorough
def test_what_a_cluster_had_finished_one_machine_goes_on_from(home, cells, tmp_path):
    import threading

    stop = threading.Event()

    def progress(done: int, total: int) -> None:
        if done >= 200:
            stop.set()

    with cluster(tmp_path) as (address, _):
        with distributed.Client(address, set_as_default=False) as client, pytest.raises(sl.errors.Cancelled):
            sl.embed(cells, "starter", chunk_size=50, progress=progress, cancel=stop, cluster=client)
        # Opened by a function that workers cannot repeat; another file than the one that was asked for.
        fitted = sl.load_model("pca").fit(ad.read_h5ad(cells), n_components=4)
        with pytest.raises(ModelError, match=r"cannot open this pca anew"):
            sl.embed(cells, fitted, progress=False, cluster=address)
        renamed = ad.read_h5ad(cells, backed="r")
        renamed.obs_names = [f"other {i}" for i in range(700)]
        with pytest.raises(DataError, match="annotations were changed in memory"):
            sl.embed(renamed, "pca", progress=False, cluster=address)
    left = sum(run["cells"] for run in list_runs() if run["model"] == "starter")
    assert left >= 200
    result = sl.embed(cells, "starter", cache=False, chunk_size=50, progress=False)
    assert result.provenance["cells_resumed"] >= left
    same(result.vectors, sl.embed(cells, "starter", cache=False, chunk_size=50, progress=False).vectors)


def test_what_cannot_be_spread_is_a_sentence(home, cells, pbmc68k, tmp_path):
    with pytest.raises(DataError, match=r"cluster= needs cells that lie in a file .* backed='r'"):
        sl.embed(pbmc68k, "pca", progress=False, cluster="tcp://127.0.0.1:8786")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="'nonsense://x'; give its address, such as 'tcp://host:8786'"):
            sl.embed(cells, "pca", progress=False, cluster="nonsense://x")
    with cluster(tmp_path, workers=0) as (address, _), pytest.raises(DataError, match="has no workers; start some"):
        sl.embed(cells, "pca", progress=False, cluster=address)


@pytest.mark.thorough
def test_the_command_line_takes_a_cluster(home, cells, tmp_path):
    out = tmp_path / "out.h5ad"
    with cluster(tmp_path, workers=1) as (address, _):
        words = ["embed", str(cells), "--model", "pca", "-o", str(out), "--cluster", address]
        assert main(words) == 0
    expected = sl.embed(cells, "pca", cache=False, progress=False)
    same(ad.read_h5ad(out).obsm["X_pca"], expected.vectors)
