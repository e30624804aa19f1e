"""A home of its own for each test, real checkpoints, a real MLflow server, and disks that really are full or read-only."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from scfm_registry import Registry

ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory; the working directory is another one, which must stay empty."""
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def _made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a registry, made once by a process of its own."""
    home = tmp_path_factory.mktemp("made") / "home"
    code = "from scfm_registry import Registry; Registry()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(home), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def made_home(_made_home: Path, home: Path) -> Path:
    """A home with a registry in it: a copy, which is also a registry that was moved."""
    shutil.copytree(_made_home, home)
    return home


@pytest.fixture(scope="session")
def basis(tmp_path_factory: pytest.TempPathFactory, _pbmc68k: AnnData) -> Callable[..., Path]:
    """Write a checkpoint of the PCA family: a basis of `width` components, fitted to bundled cells."""
    import pandas as pd
    from safetensors.numpy import save_file

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.pca import fit_components

    components, mean, genes = fit_components(Cells.from_anndata(_pbmc68k), n_components=8, n_genes=765)

    def write(folder: Path | None = None, width: int = 8) -> Path:
        folder = folder or tmp_path_factory.mktemp("basis")
        folder.mkdir(exist_ok=True)
        save_file({"components": components[:width].copy(), "mean": mean}, folder / "model.safetensors")
        config = {"family": "pca", "basis": "pbmc68k", "vocabulary": "vocabulary.csv"}
        (folder / "config.json").write_text(json.dumps(config))
        pd.DataFrame({"symbol": genes.symbols, "ensembl": genes.ensembl}).to_csv(folder / "vocabulary.csv", index=False)
        (folder / "card.md").write_text("# A basis\n\nFitted to 700 blood cells.\n")
        return folder

    return write


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real MLflow server on SQLite that keeps its own files."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=_environment(folder / "home"),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            # The server has children of its own; the group is this process's alone.
            os.killpg(process.pid, 15)
            process.wait(timeout=30)


@pytest.fixture(params=["sqlite", "http+sqlite"])
def registry(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry on each kind of store; the server's is shared by tests, so that they use names of their own."""
    from scfm_registry import Registry

    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("_made_home"), home)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    return Registry()


@pytest.fixture
def python(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in a clean process: no pytest, no CI variables, its own home."""

    def run(code: str, *, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=_environment(home) | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def together(home: Path) -> Callable[[str, int], list[tuple[int, str, str]]]:
    """Start the same code in several processes and let them go at one moment: (exit code, stdout, stderr) of each."""
    # What takes seconds to import is imported before the gate, so that what follows it really happens at once.
    gate = (
        "import sys, torch, mlflow, scfm_registry.store.facade, scfm_registry.registry\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )

    def run(code: str, count: int) -> list[tuple[int, str, str]]:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", gate + code],
                env=_environment(home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        results = []
        for process in started:
            out, err = process.communicate(timeout=500)
            results.append((process.returncode, out, err))
        return results

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a small file system, optionally read-only later; skips where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(mib: int) -> Path:
        point = tmp_path / f"disk{len(mounted)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(point)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs to mount a small file system, which takes root on Linux")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", "--lazy", str(point)], check=False)


def _environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing but the home."""
    hidden = ("PYTEST_", "MLFLOW_", "GITHUB_", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {
        **kept,
        "SCFM_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _wait_for(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.3)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-2000:]}")
