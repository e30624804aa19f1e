"""The lab's server as it is really started: who may do what, what is refused, what a check says, and its backup."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from mlflow.exceptions import MlflowException

import scfm_lab as sl
from scfm_lab.errors import ModelError, StorageError
from scfm_registry import Registry
from scfm_registry.builtin import shipped
from scfm_registry.checking import check
from scfm_registry.people import who
from scfm_registry.server import recipe, settings
from scfm_registry.server.running import serving
from scfm_registry.server.settings import ADMIN, Settings, secret_key
from scfm_registry.store import database, mounts, people
from scfm_registry.store.place import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfm_registry.version import ModelVersion

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
CREATE = "/api/2.0/mlflow/experiments/create"


@pytest.fixture
def lab(postgres_server: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server on PostgreSQL; the test is its admin."""
    postgres_server.come_in(monkeypatch)
    return postgres_server


def test_the_built_in_models_are_put_there_when_asked(lab: Any) -> None:
    registry = Registry(lab.address)
    with suppress(MlflowException):
        # Another test may have put it there.
        registry.client.delete_registered_model("starter")
    with pytest.raises(ModelError, match=f"Put the built-in models there with 'scfm-lab registry setup {lab.address}'"):
        registry.get("starter")
    found = registry.ensure_builtin()
    assert [item.name for item in found] == list(shipped())
    again = registry.ensure_builtin()
    assert [(item.name, item.version) for item in again] == [(item.name, item.version) for item in found]
    assert registry.load("sctop", device="cpu").digest == sl.load_model("sctop", device="cpu").digest


# ------------------------------------------------------------------------------------ spoofed hosts and pages


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("10.evil.example", 403),
        ("192.168.1.evil.com", 403),
        ("127.0.0.1.evil.example:{port}", 403),
        ("localhost.evil.example:{port}", 403),
        ("evil.example", 403),
        ("127.0.0.1:1", 403),
        ("*", 403),
    ],
)
@pytest.mark.parametrize("path", [SEARCH, "/api/2.0/mlflow-artifacts/artifacts?path=", "/"])
def test_a_request_for_another_host_is_refused(lab: Any, host: str, status: int, path: str) -> None:
    port = lab.address.rpartition(":")[2]
    answer = requests.get(
        lab.address + path, headers={"Host": host.format(port=port)}, auth=(lab.admin, lab.password), timeout=30
    )
    if status == 403:
        assert answer.status_code == 403
        assert "Invalid Host" in answer.text
    else:
        assert answer.status_code != 403


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("{address}", True),
        (None, True),
        ("http://evil.example", False),
        ("null", False),
        ("http://127.0.0.1.evil.example", False),
        ("https://10.evil.example", False),
    ],
)
def test_a_page_of_another_origin_changes_nothing(lab: Any, origin: str | None, allowed: bool) -> None:
    headers = {} if origin is None else {"Origin": origin.format(address=lab.address)}
    name = f"from {origin}"
    answer = requests.post(
        lab.address + CREATE, json={"name": name}, headers=headers, auth=(lab.admin, lab.password), timeout=30
    )
    assert answer.ok is allowed
    found = Registry(lab.address).client.get_experiment_by_name(name)
    assert (found is not None) is allowed


# ----------------------------------------------------------------------------------------------- who comes in


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", SEARCH),
        ("POST", CREATE),
        ("GET", "/api/2.0/mlflow/registered-models/search"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=1"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x.txt"),
        ("POST", "/graphql"),
        ("GET", "/signup"),
        ("GET", "/api/2.0/mlflow/users/list"),
        ("GET", "/"),
    ],
)
@pytest.mark.parametrize("who", [None, (ADMIN, "a wrong password"), (ADMIN, ""), ("nobody", "a wrong password")])
def test_without_the_right_password_nothing_is_told(
    lab: Any, method: str, path: str, who: tuple[str, str] | None
) -> None:
    answer = requests.request(method, lab.address + path, auth=who, json={"name": "x"}, timeout=30)
    assert answer.status_code == 401
    assert "not authenticated" in answer.text


def test_a_wrong_password_is_said_in_words(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.come_in(monkeypatch, ADMIN, "a wrong password")
    with pytest.raises(StorageError, match="wants a name and the right password"):
        Registry(lab.address).search()
    with pytest.raises(StorageError, match="right password"):
        people.add(lab.address, "eve")
    found = {item.what: item for item in check(lab.address)}
    assert found["log-in"].state == "fault"
    assert "is refused" in found["log-in"].words


def test_members_register_their_own_and_readers_only_read(
    lab: Any, monkeypatch: pytest.MonkeyPatch, imported: Callable[..., Any]
) -> None:
    admin = Registry(lab.address)
    folder, tags, card = imported(8, "pretrained", None)
    theirs = admin.add_files("of-the-admin", folder, "scfm.pca", dict(tags), card)
    member, reader = people.add(lab.address, "ada"), people.add(lab.address, "bob", kind="reader")
    assert (member["kind"], reader["kind"]) == ("member", "reader")
    with pytest.raises(StorageError, match="Somebody is called 'ada'"):
        people.add(lab.address, "ada")

    lab.come_in(monkeypatch, "ada", member["password"])
    ada = Registry(lab.address)
    assert ada.load("of-the-admin", device="cpu").spec.width == 8
    assert ada.add_files("of-ada", folder, "scfm.pca", dict(tags), card).version == 1
    with pytest.raises(StorageError, match="does not let you"):
        ada.promote(theirs.reference)
    with pytest.raises(StorageError, match="does not let you"):
        people.add(lab.address, "carol")

    lab.come_in(monkeypatch, "bob", reader["password"])
    bob = Registry(lab.address)
    assert bob.get("of-ada").digest == theirs.digest
    with pytest.raises(StorageError, match="does not let you"):
        bob.add_files("of-bob", folder, "scfm.pca", dict(tags), card)
    with pytest.raises(ModelError, match="No model is called"):
        bob.get("of-bob")


def test_who_could_not_be_let_in_whole_is_not_left_without_a_password(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowException

    lab.come_in(monkeypatch)

    def refused(*_: object) -> int:
        raise MlflowException("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr(people, "_role", refused)
        with pytest.raises(StorageError, match="the server went away"):
            people.add(lab.address, "zoe")
    assert people.add(lab.address, "zoe")["password"], "the name is free"


def test_what_belongs_to_others_is_named_and_is_refused_all_the_same(
    lab: Any, monkeypatch: pytest.MonkeyPatch, imported: Callable[..., Any], tmp_path: Path
) -> None:
    def add(name: str, parent: str = "") -> ModelVersion:
        folder, tags, card = imported(6, "pretrained", None)
        copy = shutil.copytree(folder, tmp_path / name)
        (copy / "card.md").write_text(f"# {name}\n")
        more = {"scfm.parent_digest": parent} if parent else {}
        return registry.add_files(name, copy, "scfm.pca", {**tags, **more}, card)

    registry = Registry(lab.address)
    person = people.add(lab.address, "eve")
    lab.come_in(monkeypatch, "eve", person["password"])
    hers = add("of-eve")
    lab.come_in(monkeypatch)
    theirs = add("made-of-eves", hers.digest)
    lab.come_in(monkeypatch, "eve", person["password"])
    with pytest.warns(RuntimeWarning, match="Not told of the consent.*: made-of-eves/1"):
        registry.annotate(hers.reference, consent="patient-data")
    with pytest.raises(ModelError, match=r"does not leave this registry: the tag scfm\.consent of of-eve/1"):
        registry.export_bundle(theirs.reference, tmp_path / "out.scfm")
    with pytest.warns(RuntimeWarning, match="Not flagged.*: made-of-eves/1"):
        assert [item.reference for item in registry.retract(hers.reference, because="a test")] == [hers.reference]
    with pytest.raises(ModelError, match=r"its weights are those of of-eve/1, which was retracted: a test"):
        registry.load(theirs.reference, device="cpu")
    assert registry.reinstate(hers.reference).retracted == ""
    actions = [entry["action"] for entry in registry.audit("of-eve").entries]
    assert actions == ["register", "annotate", "retract", "reinstate"]
    # What she finds out about somebody else's version is evidence all the same.
    with pytest.warns(RuntimeWarning, match=r"made-of-eves/1\. Its certificate is kept"):
        registry.certify(theirs.reference, cells=2)
    checked = registry.verify(theirs.reference)
    assert checked.panel is not None
    assert checked.ok
    assert "in this machine's copy" in checked.summary()


def test_a_page_is_full_also_where_a_server_hides_models(
    lab: Any, monkeypatch: pytest.MonkeyPatch, imported: Callable[..., Any]
) -> None:
    from mlflow.server import get_app_client

    registry = Registry(lab.address)
    folder, tags, card = imported(4, "pretrained", None)
    for number in range(6):
        registry.add_files(f"hidden-{number}", folder, "scfm.pca", {**tags, "scfm.organism.axolotl": "true"}, card)
    person = people.add(lab.address, "dan")
    server = get_app_client("basic-auth", tracking_uri=lab.address)
    role = server.create_role("default", "not-all", "Does not see all.")
    for number in (0, 1, 3):
        server.add_role_permission(role.id, "registered_model", f"hidden-{number}", "DENY")
    server.assign_role("dan", role.id)
    lab.come_in(monkeypatch, "dan", person["password"])
    seen, page = [], None
    while True:
        found = registry.search(organism="axolotl", limit=1, page=page)
        seen += [item.name for item in found]
        assert len(found) == 1
        page = found.next
        if page is None:
            break
    assert seen == ["hidden-2", "hidden-4", "hidden-5"]
    # Whose last was deleted meanwhile goes on after it.
    assert [item.name for item in registry.search(organism="axolotl", limit=9, page="1:1:hidden-3")] == seen[1:]


def test_a_log_in_in_mlflows_own_file_is_known(lab: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{what}")
    monkeypatch.setenv("HOME", str(home))
    (home / ".mlflow").mkdir(parents=True)
    told = f"[mlflow]\nmlflow_tracking_username = {lab.admin}\nmlflow_tracking_password = {lab.password}\n"
    (home / ".mlflow" / "credentials").write_text(told)
    found = {item.what: item for item in check(lab.address)}
    assert found["log-in"].words == f"the server wants a name and knows you as '{lab.admin}'"
    assert who(resolve(lab.address)) == lab.admin


@pytest.mark.parametrize(
    ("uri", "name", "words"),
    [("folder", "ada", "belong to a server"), (None, "a b", "cannot be somebody's name"), (None, "", "cannot be")],
)
def test_people_without_a_server_or_a_name_are_refused(
    lab: Any, tmp_path: Path, uri: str | None, name: str, words: str
) -> None:
    with pytest.raises(StorageError, match=words):
        people.add(str(tmp_path / uri) if uri else lab.address, name)


# -------------------------------------------------------------------------------------------------- the check


def test_nothing_is_wrong_with_a_server_that_was_started_here(lab: Any) -> None:
    Registry(lab.address).ensure_builtin()
    found = {item.what: item for item in check(lab.address, files=True)}
    general = {"server", "version", "clock", "encryption", "names", "log-in", "telemetry", "files", "versions"}
    # Other tests leave versions on the same server, and some of them are damaged on purpose.
    told = {what: item for what, item in found.items() if what in general or what.split("/")[0] in shipped()}
    assert [item for item in told.values() if item.state != "ok"] == []
    assert general <= set(told)
    silent = found["audit trail"].words if "audit trail" in found else ""
    assert not [name for name in shipped() if f"{name}/1" in silent]
    assert {f"{name}/1" for name in shipped()} <= set(told), "each version's files were fetched and compared"
    assert not list(Path(lab.artifacts).rglob("scfm-check*")), "what was sent to find out is gone"


def test_a_file_that_changed_on_the_server_is_named(lab: Any, imported: Callable[..., Any]) -> None:
    registry = Registry(lab.address)
    folder, tags, card = imported(5, "pretrained", None)
    added = registry.add_files("to-be-damaged", folder, "scfm.pca", dict(tags), card)
    source = registry.client.get_model_version(added.name, "1").source
    (stored,) = Path(lab.artifacts).rglob(f"{source.rpartition('/')[2]}/artifacts/model.safetensors")
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + b"\0")
    try:
        found = {item.what: item for item in check(lab.address, files=True)}
    finally:
        stored.write_bytes(good)
    assert found[added.reference].state == "fault"
    assert "model.safetensors is damaged" in found[added.reference].words


@pytest.fixture
def open_door() -> Iterator[str]:
    """A real server that answers everybody under every name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/half/") and not self.path.endswith("/health"):
                return  # the connection ends without an answer
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_server_that_answers_everybody_is_called_a_fault(open_door: str, home: Path) -> None:
    found = {item.what: item for item in check(open_door)}
    assert found["names"].state == "fault"
    assert "DNS rebinding" in found["names"].words
    assert "there is none" in found["log-in"].words
    found = {item.what: item for item in check(f"{open_door}/half")}
    assert found["server"].state == "fault"
    assert "stopped answering (ConnectionError)" in found["server"].words


# ------------------------------------------------------------------------------------- what is refused at once


def _settings(folder: Path, **changes: Any) -> Settings:
    settings = Settings(
        folder=folder, database=f"sqlite:///{folder / 'r.db'}", artifacts=str(folder / "a"), port=_port()
    )
    return replace(settings, **changes)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(settings: Settings, **more: Any) -> None:
    with serving(settings, **more):
        raise AssertionError("it started")


def test_a_port_in_use_is_named(lab: Any, tmp_path: Path) -> None:
    port = int(lab.address.rpartition(":")[2])
    with pytest.raises(StorageError, match=f"Port {port} of 127.0.0.1 is in use"):
        _start(_settings(tmp_path / "s", port=port))
    assert not (tmp_path / "s").exists()


def test_a_database_that_does_not_let_us_in_is_told_at_once(postgres: Any, tmp_path: Path) -> None:
    good = postgres.address("postgres")
    for address, words in (
        (good.replace(f":{postgres.port}/", f":{_port()}/"), "does not answer"),
        (good.replace(postgres.password, "wrong"), "refuses the user or the password"),
        (good.replace("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
    ):
        with pytest.raises(StorageError, match=words) as caught:
            _start(_settings(tmp_path / "s", database=database.normal(address)))
        assert postgres.password not in str(caught.value)
        assert not (tmp_path / "s" / "server.log").exists(), "nothing was started"


@pytest.mark.parametrize("package", ["psycopg", "flask_wtf"])
def test_a_missing_package_is_named_with_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StorageError, match=r"pip install 'scfm-lab\[server\]'"):
        _start(_settings(tmp_path / "s", database=database.normal("postgresql://x@127.0.0.1/x")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "under which name"),
        ({"names": ("10.*",)}, "no exact name"),
        ({"names": ("*",)}, "no exact name"),
        ({"names": ("a.lab,evil.example",)}, "no exact name"),
        ({"permission": "EDIT"}, "no permission 'EDIT'"),
    ],
)
def test_what_would_be_unsafe_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=words):
        _start(_settings(tmp_path / "s", **changes))


def test_a_short_password_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("short")
    with pytest.raises(StorageError, match="at least 12"):
        _start(_settings(tmp_path / "s"), password_file=tmp_path / "password")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mysql://x@db/registry", "no address of a database"),
        ("registry.db", "no address of a database"),
        ("postgresql://scfm@db.lab", "names no database"),
        ("sqlite://", "no address of a database"),
    ],
)
def test_another_kind_of_database_is_refused(uri: str, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        database.normal(uri)


def test_a_password_in_the_command_line_is_refused_and_not_repeated(home: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scfm_lab",
            "registry",
            "serve",
            "--database",
            "postgresql://scfm:secret@db.lab/registry",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "--database-file" in done.stderr
    assert "secret" not in done.stderr


def test_no_password_is_in_the_command_line_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    settings = _settings(tmp_path, database="postgresql+psycopg://scfm:se%cret@db.lab/registry")
    settings.write_people()
    key = secret_key(tmp_path)
    assert key == secret_key(tmp_path), "forms stay good over a restart"
    assert "cret" not in " ".join(settings.command())
    told = settings.environment("the admin's password")
    assert told["MLFLOW_BACKEND_STORE_URI"] == settings.database
    assert told["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert told["MLFLOW_AUTH_ADMIN_PASSWORD"] == "the admin's password"
    for name in ("people.ini", "secret-key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_an_environment_that_would_open_the_door_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "somebody else's")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://minio.lab:9000")
    told = _settings(tmp_path).environment(None)
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in told
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in told
    assert told["MLFLOW_S3_ENDPOINT_URL"] == "http://minio.lab:9000"


def test_names_are_exact_for_each_way_to_listen(tmp_path: Path) -> None:
    assert _settings(tmp_path, host="127.0.0.1", port=5000).hosts == ("127.0.0.1:5000", "localhost:5000", "[::1]:5000")
    lab = _settings(tmp_path, host="10.1.2.3", port=5000, names=("registry.lab",))
    assert lab.hosts == ("10.1.2.3:5000", "registry.lab", "registry.lab:5000")
    assert "https://registry.lab" in lab.origins
    assert not any("*" in name for name in (*lab.hosts, *lab.origins))


# --------------------------------------------------------------------------------- PostgreSQL, opened directly


@pytest.mark.thorough
def test_processes_that_open_an_empty_postgresql_at_once_all_get_the_same_one(
    together: Callable[[str, int], list[tuple[int, str, str]]],
    postgres: Any,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = postgres.address()
    code = f"""
from scfm_lab.errors import ModelError
from scfm_registry import Registry
registry = Registry({address!r})
print(sorted((v.name, v.version) for v in registry.search(all_versions=True)))
try:
    print("won", registry.promote("pca/1", "mine", expect=None).version)
except ModelError as error:
    print("lost")
"""
    results = together(code, 2)
    assert [code for code, _, _ in results] == [0, 0], [err for _, _, err in results]
    lines = [out.splitlines() for _, out, _ in results]
    assert {said[0] for said in lines} == {str(sorted((name, 1) for name in shipped()))}
    assert sorted(said[1].split()[0] for said in lines) == ["lost", "won"]
    # Its files may lie on a disk that machines share; no warning is due, since PostgreSQL's locks hold there.
    table = home.with_name("mounts")
    table.write_text("nas:/lab / nfs4 rw 0 0\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    registry = Registry(address)
    assert registry.verify("pca/1").ok
    assert postgres.password not in repr(registry)
    assert {item.state for item in check(address)} == {"ok"}
    with pytest.raises(StorageError, match=r"are kept in .*\?artifacts=FOLDER"):
        Registry(f"{address}?artifacts={home / 'elsewhere'}")


def test_the_database_of_a_server_is_not_opened_past_it(lab: Any) -> None:
    Registry(lab.address).ensure_builtin()
    with pytest.raises(StorageError, match="use the server's address"):
        Registry(lab.database)


# ------------------------------------------------------------------------------------------ recipe and backup


def test_the_recipe_is_written_whole_and_reads_as_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    written = recipe.write(folder)
    assert {"README.md", "compose/compose.yaml", "backup.sh", "restore.sh", "constraints.txt"} <= set(written)
    assert {"systemd/scfm-registry.service", "systemd/nginx.conf", "systemd/Caddyfile"} <= set(written)
    compose = yaml.safe_load((folder / "compose" / "compose.yaml").read_text())
    for service in ("database", "server"):
        assert compose["services"][service]["healthcheck"]["test"]
    assert ":latest" not in (folder / "compose" / "compose.yaml").read_text()
    named = set(compose["secrets"])
    assert all(set(service.get("secrets", ())) <= named for service in compose["services"].values())
    from scfm_registry.cli.serving import serve

    known = {option for parameter in serve.params for option in parameter.opts}
    told = [word.partition("=")[0] for word in compose["services"]["server"]["command"]]
    unit = (folder / "systemd" / "scfm-registry.service").read_text()
    told += [word for word in unit.partition("ExecStart=")[2].partition("Restart=")[0].split() if word.startswith("--")]
    assert set(told) <= known, "what the recipes call is what the command takes"
    restore = compose["services"]["restore"]
    assert {"artifacts:/srv/artifacts", "backups:/srv/backups:ro"} <= set(restore["volumes"])
    assert "$(" not in str(compose).replace("$$", ""), "what is the shell's is not compose's"
    shell = [word.replace("$$", "$").replace("/srv/", f"{tmp_path}/") for word in restore["entrypoint"]]
    (tmp_path / "restore.sh").write_text('echo "$DATABASE $1"')
    (tmp_path / "address").write_text("postgresql://there")
    told = [
        *(word.replace("/run/secrets/database-address", f"{tmp_path}/address") for word in shell),
        "20260101T030000Z",
    ]
    done = subprocess.run(told, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["postgresql://there", f"{tmp_path}/backups/20260101T030000Z"]
    for made in (tmp_path / "restore.sh", tmp_path / "address"):
        made.unlink()
    (backups,) = [
        line.partition("=")[2]
        for line in (folder / "systemd" / "registry.env").read_text().splitlines()
        if line.startswith("BACKUPS=")
    ]
    readme = (folder / "README.md").read_text()
    assert f"install -d -m 700 -o scfm-registry -g scfm-registry {backups}" in readme
    assert "sudo -u scfm-registry env DATABASE=" in readme
    # Nothing of the project's name is taken from an index, on which it is not.
    told = [
        line
        for line in (readme + (folder / "compose" / "Dockerfile").read_text()).splitlines()
        if "pip install" in line
    ]
    assert len(told) == 2
    assert all("wheel" in line for line in told)
    assert "pip wheel" in (folder / "wheels" / "README.md").read_text()
    for script in folder.rglob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        assert os.access(script, os.X_OK)
    assert "mlflow==" in (folder / "constraints.txt").read_text()
    # These are the packages of this Python.
    python = f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"
    assert python in (folder / "compose" / "Dockerfile").read_text().splitlines()
    (kept,) = [
        line.partition("=")[2]
        for line in (folder / "systemd" / "registry.env").read_text().splitlines()
        if line.startswith("ARTIFACTS=")
    ]
    assert f"ReadWritePaths=-{kept}" in unit.splitlines()
    with pytest.raises(StorageError, match="not empty"):
        recipe.write(folder)
    assert list(tmp_path.iterdir()) == [folder], "nothing half-written is left"


def test_secrets_are_made_once_and_lie_in_a_closed_folder(tmp_path: Path) -> None:
    recipe.write(tmp_path / "lab")
    compose = tmp_path / "lab" / "compose"
    subprocess.run(["sh", compose / "make-secrets.sh"], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (compose / "secrets").iterdir()}
    assert set(made) == set(yaml.safe_load((compose / "compose.yaml").read_text())["secrets"])
    assert len(made["admin-password"].strip()) >= 32
    assert database.normal(made["database-address"].strip()).endswith("@database/registry")
    assert stat.S_IMODE((compose / "secrets").stat().st_mode) == 0o700
    subprocess.run(["sh", compose / "make-secrets.sh"], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (compose / "secrets").iterdir()} == made


def test_a_backup_brings_back_what_was_deleted_and_damaged(
    lab: Any, postgres: Any, tmp_path: Path, imported: Callable[..., Any]
) -> None:
    registry = Registry(lab.address)
    folder, tags, card = imported(3, "pretrained", None)
    kept = registry.add_files("backed-up", folder, "scfm.pca", dict(tags), card)
    environment = {
        **os.environ,
        "PATH": f"{postgres.binaries}{os.pathsep}{os.environ['PATH']}",
        "DATABASE": lab.database,
        "ARTIFACTS": lab.artifacts,
        "BACKUPS": str(tmp_path / "backups"),
    }

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", recipe.templates() / script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    done = run("backup.sh")
    assert (done.returncode, done.stderr) == (0, "")
    backup = Path(done.stdout.strip())
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [backup.name], "and nothing unfinished"

    registry.delete(kept.reference)
    registry.purge(kept.reference)
    registry.add_files("after-the-backup", folder, "scfm.pca", dict(tags), card)
    with pytest.raises(ModelError):
        registry.get("backed-up")

    # A damaged backup first: it changes nothing.
    dump = backup / "database.dump"
    good = dump.read_bytes()
    dump.chmod(0o600)
    dump.write_bytes(good[:-7] + bytes(7))
    refused = run("restore.sh", str(backup))
    assert refused.returncode == 1
    assert "is damaged; nothing was changed" in refused.stderr
    assert registry.get("after-the-backup").version == 1
    dump.write_bytes(good)

    done = run("restore.sh", str(backup))
    assert done.returncode == 0, done.stderr
    assert registry.get(kept.reference).digest == kept.digest
    # What this machine keeps of it is not asked: the server's own files are.
    found = {item.what: item for item in check(lab.address, files=True)}
    assert found[kept.reference].state == "ok"
    with pytest.raises(ModelError, match="No model is called"):
        registry.get("after-the-backup")
    assert registry.add_files("after-the-backup", folder, "scfm.pca", dict(tags), card).version == 1


def test_a_backup_without_rsync_links_what_is_the_same_and_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    programs, artifacts, backups = (tmp_path / name for name in ("programs", "artifacts", "backups"))
    (artifacts / "1" / "gone").mkdir(parents=True)
    programs.mkdir()
    for folder in (Path("/bin"), Path("/usr/bin")):
        for program in folder.iterdir():
            if program.name not in ("rsync", "date", "pg_dump") and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    for name, does in {"date": 'echo "$NOW"', "pg_dump": 'for last; do :; done; echo dump >"${last#--file=}"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    files = {"same": "weights", "longer": "a", "later": "b", "earlier": "c", "gone/away": "d"}
    for name, text in files.items():
        (artifacts / "1" / name).write_text(text)

    def backup(now: str) -> Path:
        given = {
            "PATH": str(programs),
            "DATABASE": "x",
            "ARTIFACTS": str(artifacts),
            "BACKUPS": str(backups),
            "NOW": now,
        }
        script = recipe.templates() / "backup.sh"
        done = subprocess.run(["sh", script], env=given, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        made = Path(done.stdout.strip())
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, check=True)
        return made / "artifacts" / "1"

    first = backup("20260101T030000Z")
    before = (artifacts / "1" / "longer").stat()
    (artifacts / "1" / "longer").write_text("aa")
    os.utime(artifacts / "1" / "longer", ns=(before.st_atime_ns, before.st_mtime_ns))
    for name, seconds in (("later", 60), ("earlier", -60)):
        (artifacts / "1" / name).write_text(name[0])
        os.utime(artifacts / "1" / name, (before.st_mtime + seconds,) * 2)
    (artifacts / "1" / "gone" / "away").unlink()
    (artifacts / "1" / "gone").rmdir()
    (artifacts / "1" / "new").mkdir()
    (artifacts / "1" / "new" / "one").write_text("e")
    second = backup("20260102T030000Z")
    assert (second / "same").stat().st_ino == (first / "same").stat().st_ino, "it takes no room twice"
    told = {path.relative_to(second).as_posix(): path.read_text() for path in second.rglob("*") if path.is_file()}
    assert told == {"same": "weights", "longer": "aa", "later": "l", "earlier": "e", "new/one": "e"}
    assert not (second / "gone").exists()
    told = {path.relative_to(first).as_posix(): path.read_text() for path in first.rglob("*") if path.is_file()}
    assert told == files, "the one before is as it was"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=first.parents[1], check=True)


@pytest.mark.parametrize(
    ("place", "package"), [("s3://bucket/models", "boto3"), ("gs://bucket", "google-cloud-storage")]
)
def test_a_store_that_nothing_here_can_reach_is_told_before_anything_starts(
    place: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings.Settings(folder=tmp_path, database=f"sqlite:///{tmp_path / 'r.db'}", artifacts=place)
    clients = {scheme: ("no_such_package.client", named) for scheme, (_, named) in settings._CLIENTS.items()}
    monkeypatch.setattr(settings, "_CLIENTS", clients)
    with pytest.raises(StorageError, match=f"pip install {package}"):
        settings.check(given)
    # Where it is, nothing is said.
    monkeypatch.setattr(settings, "_CLIENTS", {scheme: ("json", named) for scheme, (_, named) in clients.items()})
    settings.check(given)


@pytest.mark.parametrize(
    ("script", "environment", "words"),
    [
        ("backup.sh", {}, "set DATABASE"),
        ("backup.sh", {"DATABASE": "x", "ARTIFACTS": "/nowhere/at/all"}, "set ARTIFACTS"),
        ("backup.sh", {"DATABASE": "x", "ARTIFACTS": ".", "BACKUPS": "b", "KEEP": "none"}, "KEEP is 'none'"),
        ("restore.sh", {}, "which backup"),
    ],
)
def test_scripts_say_what_they_lack(script: str, environment: dict[str, str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", recipe.templates() / script],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
