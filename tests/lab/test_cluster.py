"""Workers of a Dask cluster, real processes: the same vectors as one machine, also when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells.provenance import of_model
from scfm_lab.cells.stored import open_stored
from scfm_lab.cli import main
from scfm_lab.errors import Cancelled, DataError, ModelError
from scfm_lab.inference import cluster as worker
from scfm_lab.inference import hardware
from scfm_lab.inference.hardware import GIB, Hardware
from scfm_lab.inference.plan import SHARE, cut
from scfm_lab.inference.shards import RunFolder, list_runs, runs_home
from scfm_lab.tasks.embed_file import embed_file
from scfm_lab.tasks.embed_run import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture
def order(home, cells, monkeypatch):
    """What the workers are told, as :func:`scfm_lab.embed` tells them, with a run's folder."""

    def make(**given):
        model = given.pop("model", None) or sl.load_model("starter", precision="float32")
        asked = Asked(open_stored(cells), model, options=model.check_options(None), cluster="", **given)
        reader = model.cell_reader(asked.source)
        told = worker._order(asked, reader, asked.options, longest=1000)
        folder = RunFolder.open(runs_home(), {"run": "this"}, told["file"])
        (folder.path / ".wanted-now").write_text("")
        folder.release()
        return told | {
            "folder": str(folder.path),
            "wanted": ".wanted-now",
            "device": "cpu",
            "precision": "float32",
        }

    yield make
    worker._opened.clear()


def machine(monkeypatch, free_gib: float) -> None:
    """Have this process be a worker on a machine with so much free memory."""
    there = Hardware("a worker", cores=2, ram_gib=512, free_gib=free_gib, device_gib=512, device_free_gib=free_gib)
    monkeypatch.setattr(Hardware, "detect", classmethod(lambda cls: there))
    worker._opened.clear()


def test_a_worker_cuts_its_batches_for_its_own_memory(order, cells, monkeypatch):
    serial = sl.embed(cells, "starter", cache=False, progress=False).vectors
    told = order()
    machine(monkeypatch, 200)
    roomy = worker._here(told)
    need = (
        cut(roomy.model, roomy.reader, device="cpu", longest=1000, chunk_size=1, in_memory=False).running("cpu") / GIB
    )
    machine(monkeypatch, (need + 0.005) / SHARE - roomy.model.held_bytes() / GIB)
    small = worker._here(told)
    assert small.sizes.chunk_cells < 350 < roomy.sizes.chunk_cells
    assert small.sizes.batch_tokens < roomy.sizes.batch_tokens
    # A part that is more than this worker holds at once is computed in pieces, and is the part it should be.
    assert worker.work(told, 100, 700) == (100, 700)
    part = RunFolder(Path(told["folder"]), {}).read(100, 700)
    same(part.vectors, serial[100:])
    assert part.tally.seen.shape == (600,)
    # The budget that the user gave is one of the workers, too.
    machine(monkeypatch, 200)
    assert worker._here(order(budget_gib=need + 0.005)).sizes.batch_tokens == small.sizes.batch_tokens


def test_each_worker_takes_the_device_that_was_asked_for(order, monkeypatch):
    assert order(model=sl.load_model("starter", device="cpu"))["model"]["device"] == "cpu"
    told = order()
    assert told["model"]["device"] == "auto"
    # A worker whose best device is another than that of the machine that asks.
    monkeypatch.setattr(hardware, "choose_device", lambda device: {"auto": "meta", "cpu": "cpu"}[device])
    worker._opened.clear()
    assert worker._here(told).model.device == "meta"
    assert worker.look(told).device == "meta"
    # One run is computed on one kind of device.
    with pytest.raises(ModelError, match=r"A worker computes on meta where another computes on cpu, .*device='cpu'"):
        worker.work(told, 0, 10)


def test_a_worker_stops_within_a_batch_once_nobody_waits(order):
    told = order(batch_size=10)
    here = worker._here(told)
    forward, sign, batches = here.model._forward, Path(told["folder"]) / ".wanted-now", []

    def step(*args):
        batches.append(1)
        if len(batches) == 3:
            sign.unlink()
        return forward(*args)

    here.model._forward = step
    with pytest.raises(Cancelled):
        worker.work(told, 0, 700)
    assert len(batches) == 3
    assert not list(Path(told["folder"]).glob("rows-*"))
    # Whoever opens the run next has its workers alone: those of a driver that was killed have lost their sign.
    sign.write_text("")
    RunFolder.open(runs_home(), {"run": "this"}, told["file"]).release()
    assert not sign.exists()


def test_a_worker_that_does_not_see_the_folder_of_the_run_says_so(order, tmp_path):
    told = order() | {"folder": str(tmp_path / "not shared")}
    with pytest.raises(DataError, match=r"the folder of the run, \S+/not shared; give SCFM_HOME the same path on all"):
        worker.work(told, 0, 10)


def test_vectors_must_fit_the_machine_that_asks_or_be_written_as_they_come(home, cells, tmp_path, monkeypatch):
    vectors = 4 * 700 * 50 / GIB
    elsewhere = {"progress": False, "cluster": "nonsense://x"}
    machine(monkeypatch, vectors / SHARE * 0.9)
    with pytest.raises(DataError, match=r"The vectors of 700 cells take .* scfm-lab embed -o OUT\.h5ad"):
        sl.embed(cells, "pca", **elsewhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="give its address"):
            embed_file(cells, tmp_path / "out.h5ad", sl.load_model("pca"), cluster="nonsense://x")
        machine(monkeypatch, vectors / SHARE * 1.1)
        with pytest.raises(DataError, match="give its address"):
            sl.embed(cells, "pca", **elsewhere)


@pytest.mark.parametrize(("device", "asked"), [("cuda", {"device": "cuda"}), ("cpu", {"device": "cpu"}), ("auto", {})])
def test_the_record_says_which_device_the_workers_were_asked_for(home, cells, tmp_path, monkeypatch, device, asked):
    opened = []

    def embedded(path, target, model, **given):
        opened.append(model)
        raise DataError("Enough.")

    monkeypatch.setattr("scfm_lab.tasks.embed_file.embed_file", embedded)
    words = ["embed", str(cells), "--model", "pca", "-o", str(tmp_path / "out.h5ad"), "--cluster", "tcp://head:8786"]
    assert main([*words, "--device", device]) != 0
    [model] = opened
    assert (model.device, model.asked_device) == ("cpu", device)
    assert json.loads(of_model(model).get("asked", "{}")) == asked


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
    # What tells the workers that somebody waits is gone, so that those at work stop.
    assert not [*runs_home().glob("*/.wanted-*")]
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
