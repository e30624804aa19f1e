"""A home of its own for each test, real checkpoints, a real MLflow server, and disks that really are full or read-only."""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from scfm_registry import Registry
    from scfm_registry.version import ModelVersion

ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every change is tried on SQLite and on a server with PostgreSQL; a server with SQLite has its turn at length."""
    from scfm_registry import confining

    # Where there is no filter, every import says so.
    told = pytest.mark.filterwarnings("ignore:What read .* was not kept from the network:RuntimeWarning")
    open_systems = [] if confining.filters() else [told]
    for item in items:
        for mark in open_systems:
            item.add_marker(mark)
        store = getattr(item, "callspec", None) and item.callspec.params.get("registry")  # type: ignore[attr-defined]
        if store == "http+sqlite":
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session", autouse=True)
def _mlflow_is_imported() -> None:
    """What its stores warn of when they are first imported is the fault of no test, whichever comes first."""
    from scfm_registry.store import engine

    with engine.quiet():
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


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


class Postgres:
    """A PostgreSQL of the tests' own, with a password; `address` makes an empty database in it."""

    def __init__(self, port: int, password: str, binaries: Path) -> None:
        self.port, self.password, self.binaries = port, password, binaries
        self._count = 0

    def address(self, name: str | None = None) -> str:
        """Address of a database, a new one where no name is given."""
        import psycopg

        if name is None:
            self._count += 1
            name = f"registry{self._count}"
            with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://scfm:{self.password}@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, in a folder of its own, under a user who is not root."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'scfm-lab[server]'")
    binaries = _postgres_binaries()
    # Not below pytest's own folder, which only root may enter where the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="scfm-pg-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        name = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        if name is None:
            pytest.skip("needs a user who is not root to run PostgreSQL: there is neither 'postgres' nor 'nobody'")
        user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
    password, port = "a-password/of the%tests", _free_port()
    try:
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            if user:
                shutil.chown(path, user["user"])
        subprocess.run(
            [
                *(binaries / "initdb", "--pgdata", folder / "data", "--username", "scfm", "--auth", "scram-sha-256"),
                *("--pwfile", folder / "password", "--no-sync", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
            **user,
        )
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder}
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
        options = [item for key, value in settings.items() for item in ("-c", f"{key}={value}")]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **user
            )
        try:
            ready = [binaries / "pg_isready", "--quiet", "--host", "127.0.0.1", "--port", str(port)]
            until = time.monotonic() + 60
            while subprocess.run(ready, check=False).returncode and process.poll() is None:
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
            assert process.poll() is None, (folder / "log").read_text()
            yield Postgres(port, quote(password, safe=""), binaries)
        finally:
            # "Fast": it ends its connections and writes everything back.
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: float(folder.parent.name), reverse=True)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready", "pg_dump", "pg_restore")):
            return folder
    pytest.skip("needs PostgreSQL: install the package postgresql")


def _is_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Served:
    """A server that was started with `scfm-lab registry serve`, and what it said of itself."""

    address: str
    admin: str
    password: str
    artifacts: str
    database: str
    said: dict[str, Any]

    def come_in(self, patch: pytest.MonkeyPatch, name: str | None = None, password: str | None = None) -> None:
        """Set the variables with which MLflow's client logs in."""
        patch.setenv("MLFLOW_TRACKING_USERNAME", name or self.admin)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password or self.password)


@contextmanager
def _serving(folder: Path, database: str | None = None) -> Iterator[Served]:
    """Start the lab's server as a person would, read what it says, and end it as a person would."""
    pytest.importorskip("flask_wtf", reason="needs Flask-WTF: pip install 'scfm-lab[server]'")
    port = _free_port()
    command = [sys.executable, "-m", "scfm_lab", "registry", "serve", "--port", str(port), "--workers", "1", "--json"]
    command += ["--folder", str(folder)]
    if database is not None:
        folder.mkdir()
        (folder / "database").write_text(f"{database}\n")
        command += ["--database-file", str(folder / "database")]
    process = subprocess.Popen(
        command,
        env=_environment(folder / "home"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
    )
    try:
        lines: list[str] = []
        assert process.stdout is not None
        while line := process.stdout.readline():
            lines.append(line)
            if line.startswith("}"):
                break
        else:
            raise AssertionError(f"the server did not start: {process.communicate()[1]}")
        said = json.loads("".join(lines))
        used = database or f"sqlite:///{folder / 'registry.db'}"
        yield Served(said["address"], said["admin"], said["password"], said["artifacts"], used, said)
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), "it ends cleanly when it is asked to"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing of it is left"


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The lab's server on SQLite, once for all tests, which use names of their own."""
    with _serving(tmp_path_factory.mktemp("server") / "sqlite") as served:
        yield served


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Served]:
    """The lab's server on PostgreSQL, once for all tests, which use names of their own."""
    with _serving(tmp_path_factory.mktemp("server") / "postgres", postgres.address()) as served:
        yield served


@pytest.fixture(params=["sqlite", "http+sqlite", "http+postgresql"])
def registry(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry on each kind of store; the servers' are shared by tests, so that they use names of their own."""
    from scfm_registry import Registry

    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("_made_home"), home)
    else:
        kind = {"http+sqlite": "sqlite_server", "http+postgresql": "postgres_server"}[request.param]
        served: Served = request.getfixturevalue(kind)
        served.come_in(monkeypatch)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", served.address)
    return Registry()


@pytest.fixture(scope="session")
def imported(
    basis: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict[str, str], str]]:
    """What an import makes of a checkpoint, made once for each: its files, tags and card."""
    from scfm_registry import importing

    @functools.cache
    def take(width: int, kind: str, licence: str | None) -> tuple[Path, dict[str, str], str]:
        path, private = basis(width=width), tmp_path_factory.mktemp("imported")
        shutil.copytree(path, private, dirs_exist_ok=True)
        request = {"family": "scfm.pca", "kind": kind, "licence": licence, "config": {}}
        return private, importing.locked(private, path, request)["tags"], importing.card_of(private)

    return take


def own_weights(folder: Path, note: str) -> dict[str, str]:
    """Give a basis weights that are nobody else's, and the tags that tell of them: what is said of weights is said of every copy."""
    from safetensors.numpy import load_file, save_file

    from scfm_registry import manifest

    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"note": note})
    return dict.fromkeys(("scfm.weights", "scfm.stored_weights"), f"sha256:{manifest.sha256(path)}")


@pytest.fixture
def put_in(imported: Callable[..., Any], tmp_path: Path) -> Callable[..., ModelVersion]:
    """Register a basis as an import does, without the import's process: most tests are about what comes after."""
    from scfm_registry import importing

    def add(
        registry: Registry,
        name: str,
        *,
        width: int = 8,
        kind: str = "pretrained",
        licence: str | None = None,
        card: str | None = None,
        family: str = "scfm.pca",
    ) -> ModelVersion:
        folder, tags, told = imported(width, kind, licence)
        if card is not None:
            folder = Path(shutil.copytree(folder, tempfile.mkdtemp(dir=tmp_path), dirs_exist_ok=True))
            (folder / "card.md").write_text(card)
            told = importing.card_of(folder)
            tags = {**tags, **own_weights(folder, card)}
        return registry.add_files(name, folder, family, {**tags, "scfm.family": family}, told)

    return add


@pytest.fixture
def read_as_an_import() -> Callable[[Path], None]:
    """Read a checkpoint as the import's process does, but in this one, which is quicker to start."""
    from scfm_lab.models.load import load_model
    from scfm_registry import import_worker

    def read(folder: Path) -> None:
        import_worker.convert(folder)
        load_model(folder)

    return read


@pytest.fixture
def put(registry: Registry, put_in: Callable[..., ModelVersion]) -> Callable[..., ModelVersion]:
    """Register a basis in the registry of the test's store."""
    return functools.partial(put_in, registry)


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
