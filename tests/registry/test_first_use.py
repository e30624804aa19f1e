"""The first use of a registry: by several processes at once, without noise, and without touching what is not ours."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from families import write_family

from scfm_lab.errors import ModelError
from scfm_registry import Registry, workers
from scfm_registry.builtin import shipped
from scfm_registry.checking import check

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from anndata import AnnData

    from scfm_registry.version import ModelVersion

OPEN_AND_LIST = """
import json
from scfm_registry import Registry
print(json.dumps([[v.name, v.version, v.aliases, v.digest] for v in Registry().search(all_versions=True)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_processes_that_open_an_empty_registry_at_once_all_get_the_same_one(
    count: int, together: Callable[[str, int], list[tuple[int, str, str]]], home: Path
) -> None:
    results = together(OPEN_AND_LIST, count)
    assert [code for code, _, _ in results] == [0] * count, [err for _, _, err in results]
    assert [err for _, _, err in results] == [""] * count
    answers = [json.loads(out) for _, out, _ in results]
    assert all(answer == answers[0] for answer in answers)
    assert [(name, version, aliases) for name, version, aliases, _ in answers[0]] == [
        (name, 1, ["champion"]) for name in sorted(shipped())
    ]
    with sqlite3.connect(home / "registry" / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM model_versions").fetchone() == (len(shipped()),)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    kept = list((home / "registry" / "artifacts" / "models").iterdir())
    assert len(kept) == len(shipped()), "no process left files behind that belong to no version"


@pytest.mark.thorough
def test_of_processes_that_register_and_promote_the_same_files_none_overwrites_another(
    together: Callable[[str, int], list[tuple[int, str, str]]], made_home: Path, basis: Callable[..., Path]
) -> None:
    code = f"""
import os
from scfm_lab.errors import ModelError
from scfm_registry import Registry
registry = Registry()
for folder in {[str(basis()), str(basis(width=5))]!r}:
    print(registry.import_checkpoint(folder, "mine", certify=False).version)
try:
    print("won", registry.promote(f"mine/{{1 + os.getpid() % 2}}", "champion", expect=None).version)
except ModelError as error:
    print("lost", error)
"""
    results = together(code, 3)
    assert [code for code, _, _ in results] == [0] * 3, [err for _, _, err in results]
    lines = [out.splitlines() for _, out, _ in results]
    assert {tuple(sorted(said[:2])) for said in lines} == {("1", "2")}
    registry = Registry()
    assert [item.version for item in registry.versions("mine")] == [2, 1]
    won = [said[2] for said in lines if said[2].startswith("won")]
    assert won == [f"won {registry.get('mine@champion').version}"]
    lost = [said[2] for said in lines if said[2].startswith("lost")]
    assert all(f"points at mine/{won[0].split()[1]}, where nobody was expected to have it" in said for said in lost)


def test_nothing_is_printed_and_nothing_is_written_outside_the_home(
    python: Callable[..., subprocess.CompletedProcess[str]], home: Path
) -> None:
    done = python(
        "from scfm_registry import Registry\nRegistry().verify('pca', recompute=False)\nRegistry().search(text='pca')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir() == []
    assert sorted(item.name for item in home.iterdir()) == ["cache", "registry"]
    # Once it is there, who only looks and loads does not wait for MLflow's import.
    done = python("""
import sys
from scfm_registry import Registry
registry = Registry()
assert [item.reference for item in registry.search(can="embed")] == ["pca/1", "sctop/1", "starter/1"]
assert registry.get("pca@champion").digest == registry.get("pca/1").digest
registry.load("pca")
assert "mlflow" not in sys.modules
""")
    assert done.returncode == 0, done.stderr


def test_the_database_is_in_wal_mode(made_home: Path) -> None:
    with sqlite3.connect(made_home / "registry" / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_no_address_is_looked_up_not_even_by_a_run(
    python: Callable[..., subprocess.CompletedProcess[str]], made_home: Path
) -> None:
    # MLflow looks a telemetry address up when a run starts; it does not under pytest, so this is a clean process.
    done = python("""
import sys
calls = []
sys.addaudithook(lambda name, args: calls.append((name, args)) if name in ("socket.getaddrinfo", "socket.connect") else None)
from scfm_registry import Registry
registry = Registry()
registry._store.log_run("test", {}, {"x": 1.0}, {"z.json": {"y": 2}})
import time
time.sleep(3)
print(calls)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_the_users_own_mlflow_goes_where_it_always_went(
    python: Callable[..., subprocess.CompletedProcess[str]], made_home: Path, tmp_path: Path
) -> None:
    own = f"sqlite:///{tmp_path / 'own.db'}"
    done = python(f"""
import mlflow
before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
from scfm_registry import Registry
registry = Registry()
registry.verify("pca", recompute=False)
assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
mlflow.set_tracking_uri({own!r})
registry.load("pca", device="cpu")
registry.promote("pca/1", "mine")
with mlflow.start_run() as run:
    mlflow.log_metric("x", 1)
assert mlflow.get_tracking_uri() == {own!r}
assert [v.name for v in mlflow.search_registered_models()] == []
assert "pca" in [item.name for item in registry.search()]
""")
    assert done.returncode == 0, done.stderr


def test_what_a_user_creates_through_the_client_lies_in_the_registrys_folder(made_home: Path) -> None:
    registry = Registry()
    experiment = registry.client.create_experiment("mine")
    run = registry.client.create_run(experiment)
    registry.client.log_dict(run.info.run_id, {"a": 1}, "a.json")
    assert list((made_home / "registry" / "artifacts").rglob("a.json"))
    assert os.listdir() == []


def test_an_address_given_in_words_wins_over_the_environment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'own.db'}")
    assert "pca" in [item.name for item in Registry(tmp_path / "other").search()]
    assert (tmp_path / "other" / "mlflow.db").exists()
    assert not (tmp_path / "own.db").exists()


def test_a_users_own_mlflow_database_is_taken_as_it_is(home: Path, tmp_path: Path, basis: Callable[..., Path]) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'own.db'}"
    MlflowClient(uri).create_experiment("theirs", artifact_location=(tmp_path / "theirs").as_uri())
    registry = Registry(uri)
    registry.import_checkpoint(basis(), "mine", certify=False)
    assert Registry(uri).load("mine", device="cpu").spec.width == 8
    assert (tmp_path / "own-scfm" / "artifacts").is_dir()
    assert MlflowClient(uri).get_experiment_by_name("theirs").artifact_location == (tmp_path / "theirs").as_uri()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "count"),
    [
        pytest.param("sqlite3.connect", 2, id="tables", marks=pytest.mark.thorough),
        pytest.param("os.rename", 1, id="database in place", marks=pytest.mark.thorough),
        pytest.param("os.rename", 2, id="registry complete", marks=pytest.mark.thorough),
        pytest.param("shutil.copyfile", 7, id="model half copied"),
        pytest.param("os.chmod", 5, id="model copied, not registered", marks=pytest.mark.thorough),
    ],
)
def test_a_first_use_that_was_killed_can_be_repeated(
    event: str, count: int, python: Callable[..., subprocess.CompletedProcess[str]], home: Path
) -> None:
    killed = python(f"""
import os, signal, sys
seen = 0
def hook(name, args):
    global seen
    if name == {event!r} and "registry" in repr(args):
        seen += 1
        if seen == {count}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from scfm_registry import Registry
Registry()
""")
    assert killed.returncode == -9, "the process was to be killed at that moment"
    registry = Registry()
    found = registry.search(all_versions=True)
    assert [(item.name, item.version, item.aliases) for item in found] == [
        (name, 1, ("champion",)) for name in sorted(shipped())
    ]
    assert all(registry.verify(item.reference, recompute=False).ok for item in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"),
    [
        pytest.param("/.incoming-", 2, id="own copy half made", marks=pytest.mark.thorough),
        pytest.param("/artifacts/", 3, id="files half stored"),
    ],
)
def test_an_import_that_was_killed_leaves_what_was_there_and_can_be_repeated(
    place: str,
    count: int,
    python: Callable[..., subprocess.CompletedProcess[str]],
    made_home: Path,
    basis: Callable[..., Path],
    put_in: Callable[..., ModelVersion],
) -> None:
    earlier = put_in(Registry(), "mine")
    killed = python(f"""
import os, signal, sys
from scfm_registry import Registry
registry, seen = Registry(), 0
def hook(name, args):
    global seen
    if name == "shutil.copyfile" and {place!r} in str(args[1]):
        seen += 1
        if seen == {count}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
registry.import_checkpoint({str(basis(width=5))!r}, "mine")
""")
    assert killed.returncode == -9, "the process was to be killed at that moment"
    assert [path for path in (made_home / "registry").glob(".incoming-*") if path.is_dir()], "what it leaves"
    registry = Registry()
    assert not list(registry.scratch.glob(".incoming-*")), "is cleared by the next who opens the registry"
    assert list(registry.versions("mine")) == [earlier]
    assert registry.verify("mine/1").ok
    assert "fault" not in [item.state for item in check()]
    again = put_in(registry, "mine", width=5)
    assert again.reference == "mine/2"
    assert registry.verify("mine/2").ok
    assert registry.audit().ok


#: Reads imports as the true process does. The first time that it has written half of what it converts, it or who asked is killed.
HALF_CONVERTED = """
import os, signal, sys, time
from scfm_lab.models import converted
from scfm_registry import import_worker
asker, true = os.getppid(), converted.write
def write(content, path):
    written = true(content, path)
    if not os.path.exists({told!r}):
        written.write_bytes(written.read_bytes()[:1000])
        with open({told!r}, "w") as file:
            print(os.getpid(), written, file=file)
        os.kill(asker if {who!r} == "asker" else os.getpid(), signal.SIGKILL)
        time.sleep(600)
    return written
converted.write = write
sys.exit(import_worker.main(["--serve", sys.argv[1]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each import starts a process of its own")
@pytest.mark.parametrize("who", ["reader", pytest.param("asker", marks=pytest.mark.thorough)])
def test_an_import_that_was_killed_while_a_pickle_was_converted_leaves_what_was_there_and_can_be_repeated(
    who: str,
    python: Callable[..., subprocess.CompletedProcess[str]],
    made_home: Path,
    tmp_path: Path,
    pbmc68k: AnnData,
    put_in: Callable[..., ModelVersion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    earlier = put_in(Registry(), "mine")
    published, told = write_family("scgpt", tmp_path / "published", pbmc68k).path, tmp_path / "told"
    command = [sys.executable, "-P", "-c", HALF_CONVERTED.format(told=str(told), who=who)]
    forking = workers.Forking(command)
    monkeypatch.setattr(workers, "_forking", forking)
    if who == "asker":
        killed = python(f"""
from scfm_registry import Registry, workers
workers._forking = workers.Forking({command!r})
Registry().import_checkpoint({str(published)!r}, "mine")
""")
        assert killed.returncode == -9, killed.stderr
    else:
        with pytest.raises(ModelError, match=r"was ended by the system or by its limits.*nothing was registered"):
            Registry().import_checkpoint(published, "mine")
    reader, half = told.read_text().split()
    assert (made_home / "registry") in Path(half).parents, "it was converted in a private folder"
    assert half.endswith("best_model.pt.safetensors")
    registry = Registry()
    assert not list(registry.scratch.glob(".incoming-*")), "is cleared by the next who opens the registry"
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{reader}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{reader}"), "nobody reads on for who is gone"
    assert not list(registry.scratch.glob(".incoming-*")), "and it has written nothing more"
    assert list(registry.versions("mine")) == [earlier]
    assert registry.verify("mine/1", recompute=False).ok
    assert "fault" not in [item.state for item in check()]
    again = registry.import_checkpoint(published, "mine", certify=False)
    forking.end()
    assert again.reference == "mine/2"
    assert registry.verify("mine/2", recompute=False).ok


def test_an_import_that_was_killed_while_making_the_database_leaves_nothing_in_the_way(home: Path) -> None:
    leftover = home / "registry" / ".making-12345"
    leftover.mkdir(parents=True)
    (leftover / "mlflow.db").write_bytes(b"half a database")
    assert "pca" in [item.name for item in Registry().search()]
    assert not leftover.exists()
