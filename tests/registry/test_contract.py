"""What a registry does on every kind of store: SQLite directly, and SQLite and PostgreSQL behind the lab's server."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

import scfm_lab as sl
from scfm_lab.errors import ModelError, ScfmError, StorageError
from scfm_lab.home import data_home
from scfm_lab.inference.hardware import Hardware
from scfm_lab.models import pinned
from scfm_registry import Registry, manifest, names
from scfm_registry.cli.tables import table
from scfm_registry.sharing.licensing import obligations
from scfm_registry.version import Versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from scfm_registry.version import ModelVersion, Record

pytestmark = pytest.mark.usefixtures("registry")
SMALL = Hardware(name="a machine", cores=2, ram_gib=0.5, free_gib=0.15)
SERVED = pytest.mark.parametrize("registry", ["http+postgresql"], indirect=True)
LARGE = Hardware(name="a machine", cores=2, ram_gib=64.0, free_gib=48.0)


def _name(test: str, registry: Registry) -> str:
    """One name per test and kind of store, since the server outlives a test."""
    return f"{test}-{'local' if 'sqlite' in registry.uri else 'server'}"


def test_what_goes_in_comes_out_byte_for_byte(registry: Registry, basis: Callable[..., Path]) -> None:
    folder = basis()
    added = registry.import_checkpoint(
        folder, _name("bytes", registry), kind="baseline", licence="CC-BY-4.0", certify=False
    )
    source = registry.resolve(f"{added.name}/1")
    for file in folder.iterdir():
        assert (source.path / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in source.path.iterdir()} == {file.name for file in folder.iterdir()} | {
        manifest.FILENAME,
        manifest.SERVING,
    }
    assert (added.version, added.kind, added.family, added.licence) == (1, "baseline", "scfm.pca", "CC-BY-4.0")
    assert (added.width, added.parameters, added.organisms) == (8, 0, ("human",))
    assert {"embed", "perturb"} <= added.abilities
    assert added.size == sum(file.stat().st_size for file in folder.iterdir())
    assert added.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert added.commercial is None, "whether a licence given by hand allows commercial use is not known"


def test_the_same_files_give_the_same_version_and_others_the_next(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("same", registry)
    first = put(name)
    assert put(name) == first
    second = put(name, width=5)
    assert (first.version, second.version) == (1, 2)
    assert first.digest != second.digest
    assert [item.version for item in registry.versions(name)] == [2, 1]


@pytest.mark.parametrize("registry", ["http+postgresql"], indirect=True)
def test_a_server_is_asked_each_thing_once(
    registry: Registry, put: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    put(_name("before", registry), width=4)
    asked: list[tuple[str, str, str]] = []
    ask = requests.Session.request

    def counted(session: requests.Session, method: str, url: str, **given: Any) -> requests.Response:
        what = url.partition("/api/2.0/")[2].partition("?")[0]
        asked.append((method, what, str(given.get("params") or given.get("json") or "")))
        return ask(session, method, url, **given)

    monkeypatch.setattr(requests.Session, "request", counted)
    added = put(_name("asked", registry), width=3)
    files = [what for method, what, _ in asked if method == "PUT"]
    assert len(files) == len(set(files)) == 6
    # Copies by three marks, and what has this name and these files, before and after; it is stored in five steps, and recorded in four.
    rest = [item for item in asked if item[0] != "PUT"]
    again = sorted({item for item in rest if rest.count(item) > 1})
    assert [what for _, what, _ in again] == ["mlflow/model-versions/search"]
    assert len(rest) == 3 + 2 + 5 + 4
    # MLflow's client would ask before every tag and alias whether the model is a prompt.
    asked.clear()
    registry.annotate(added.reference, project="blood", limits="adults")
    changed = [what for method, what, _ in asked if method != "GET" and "runs" not in what]
    assert changed == [*["mlflow/model-versions/set-tag"] * 2, "mlflow/registered-models/set-tag"]
    assert [what for method, what, _ in asked if method == "GET"] == ["mlflow/model-versions/get"] * 2


def test_a_request_that_is_sent_again_costs_nobody_files(
    registry: Registry, imported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is lost, and MLflow's client asks again, or gives up: the version is there, once, with its files."""
    create = registry.client.create_model_version
    folder, tags, told = imported(8, "pretrained", None)

    def sent_again(*args: Any, **kwargs: Any) -> Any:
        create(*args, **kwargs)
        return create(*args, **kwargs)

    def given_up(*args: Any, **kwargs: Any) -> Any:
        create(*args, **kwargs)
        raise ConnectionError("no answer")

    for case, way in (("again", sent_again), ("given-up", given_up)):
        name = _name(case, registry)
        monkeypatch.setattr(registry.client, "create_model_version", way)
        with nullcontext() if way is sent_again else pytest.raises(StorageError):
            added = registry.add_files(name, folder, "scfm.pca", dict(tags), told)
            assert added.version == 1
        monkeypatch.setattr(registry.client, "create_model_version", create)
        assert [item.version for item in registry.versions(name)] == [1]
        assert registry.verify(name, recompute=False).ok
        logged = registry._store._model_id(registry._store.record(name, 1))
        assert registry.client.get_logged_model(logged).model_id == logged
        assert registry.add_files(name, folder, "scfm.pca", dict(tags), told).version == 1
    lines = registry.audit(_name("again", registry)).entries
    assert [(line["action"], line["reference"].rpartition("/")[2]) for line in lines] == [("register", "1")]


def test_who_is_second_with_the_same_files_is_heard_on_its_donors(
    registry: Registry, put: Callable[..., ModelVersion], imported: Callable[..., Any]
) -> None:
    class Late(Registry):
        """Does not see at first what another machine has registered, as when both do so at once."""

        looked = False

        def _held(self, name: str, digest: str, *, aliases: bool = True) -> list[Record]:
            first, self.looked = not self.looked, True
            return [] if first else super()._held(name, digest, aliases=aliases)

    name = _name("second", registry)
    put(name)
    folder, tags, told = imported(8, "pretrained", None)
    late = Late()
    late.looked = False  # an embedded registry has looked for its built-in models
    found = late.add_files(name, folder, "scfm.pca", {**tags, "scfm.consent": "patient-data"}, told)
    assert (found.version, found.consent) == (1, "patient-data")
    assert [item.version for item in registry.versions(name)] == [1]
    assert registry.verify(name, recompute=False).ok


def test_a_registered_model_gives_the_vectors_of_the_files_it_came_from(
    registry: Registry, put: Callable[..., ModelVersion], basis: Callable[..., Path], pbmc68k: AnnData
) -> None:
    added = put(_name("vectors", registry))
    expected = sl.load_model(basis(), device="cpu")
    tokens = expected.tokenize(pbmc68k)
    for model in (registry.load(added.reference, device="cpu"), sl.load_model(added.uri, device="cpu")):
        np.testing.assert_array_equal(model.encode(tokens).cell, expected.encode(tokens).cell)
        assert model.version == added.reference
        assert model.digest == expected.digest


def test_references_find_the_version_they_name(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = _name("refs", registry)
    put(name)
    put(name, width=5)
    assert registry.get(name).version == 2, "without a champion the newest is meant"
    registry.promote(f"{name}/1", "champion")
    assert registry.get(name).version == 1
    assert registry.get(f"models:/{name}@champion").aliases == ("champion",)
    assert registry.get(f"{name}/2").version == 2
    assert registry.resolve(name).alias == "champion"
    assert registry.resolve(f"{name}/1").alias is None


def test_promotion_is_refused_when_somebody_else_was_quicker(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("promote", registry)
    first = put(name)
    put(name, width=5)
    put(name, width=3)
    assert registry.promote(f"{name}/1", "candidate", expect=None).aliases == ("candidate",)
    registry.promote(f"{name}/2", "candidate", expect=first.digest)
    with pytest.raises(ModelError, match=f"points at {name}/2, where {name}/1 was expected"):
        registry.promote(f"{name}/3", "candidate", expect=1)
    with pytest.raises(ModelError, match="where nobody was expected to have it"):
        registry.promote(f"{name}/3", "candidate", expect=None)
    assert registry.get(f"{name}@candidate").version == 2
    assert registry.promote(f"{name}/3", "candidate", expect=f"{name}/2").version == 3
    assert registry.promote(f"{name}/1", "candidate").version == 1, "without an expectation nothing is compared"


def test_search_takes_every_condition_at_once(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = _name("search", registry)
    put(name, kind="fine-tuned")
    put(name, width=5, kind="pretrained")

    def found(**conditions: object) -> list[int]:
        return [item.version for item in registry.search(**conditions) if item.name == name]  # type: ignore[arg-type]

    assert found() == [2]
    assert found(all_versions=True) == [2, 1]
    assert found(kind="fine-tuned") == [1]
    assert found(organism="Human", can=["embed", "perturb"], family="pca", text="BLOOD cells") == [2]
    assert found(organism="mouse") == []
    assert found(can="impute") == []
    assert found(family="starter") == []
    assert found(text="blood neutron") == []
    with pytest.raises(ModelError, match="Did you mean 'pretrained'"):
        registry.search(kind="pretraned")


def test_pages_hold_every_version_once_in_the_order_of_the_whole(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("pages", registry)
    for width in (4, 5, 6):
        put(name, width=width)
    for every in (True, False):
        whole = [item.reference for item in registry.search(kind="baseline", all_versions=every)]
        for limit in (2, 5):
            found, page = [], None
            while True:
                some = registry.search(kind="baseline", all_versions=every, limit=limit, page=page)
                found += [item.reference for item in some]
                assert len(some) <= limit or not every
                page = some.next
                if page is None:
                    break
            assert found == whole
    with pytest.raises(ModelError, match="was not given by a search"):
        registry.search(limit=2, page="7")


def test_search_answers_whether_a_model_fits(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = _name("fits", registry)
    put(name)
    answers = {item.name: item.fit for item in registry.search(fits=LARGE)}
    assert answers[name] is not None
    assert (answers[name].verdict, answers[name].source) == ("fits", "estimated")
    assert name not in [item.name for item in registry.search(fits=SMALL)]
    assert name in [item.name for item in registry.search(fits="this machine")]
    with pytest.raises(ModelError, match="this machine"):
        registry.search(fits="my laptop")  # type: ignore[arg-type]


def test_the_table_has_a_row_per_version(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = _name("table", registry)
    put(name)
    table = registry.versions(name).table
    assert table.loc[0, ["name", "version", "family", "width"]].to_list() == [name, 1, "scfm.pca", 8]
    assert registry.search(text="no such word anywhere").table.empty


def test_unknown_things_are_named_beside_what_there_is(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = _name("unknown", registry)
    put(name)
    registry.promote(f"{name}/1", "champion")
    with pytest.raises(ModelError, match=f"models there: .*{name}.*Did you mean '{name}'"):
        registry.get(name.replace("unk", "unkk"))
    with pytest.raises(ModelError, match=r"has no version 7; its versions: 1\."):
        registry.get(f"{name}/7")
    with pytest.raises(ModelError, match=r"aliases: champion\. Did you mean 'champion'"):
        sl.load_model(f"models:/{name}@champoin")


def test_a_card_says_what_is_on_record_and_what_came_with_the_files(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("card", registry)
    added = put(name, licence="CC-BY-NC-4.0")
    card = registry.card(name)
    assert card.startswith(f"# {name}/1\n")
    for line in (
        "| Vector | 8 numbers per cell |",
        "| Licence | CC-BY-NC-4.0 (no commercial use) |",
        f"`{added.digest}`",
        "Fitted to 700 blood",
    ):
        assert line in card
    assert added.card.startswith("# A basis")


BREAKING = "MIT |\n| Kind | verified"
ONE_LINE = "LicenseRef-Zürich | non-commercial"


def test_what_is_said_of_a_version_is_one_line_that_can_be_shown(
    registry: Registry, put: Callable[..., ModelVersion], basis: Callable[..., Path]
) -> None:
    name = _name("lines", registry)
    for licence in (BREAKING, "MIT\x00", "MIT\x1b[2J", "MIT \u202egnp.exe", "x" * 3_000):
        with pytest.raises(ModelError, match=r"A licence is named in one line.*a file LICENSE"):
            registry.import_checkpoint(basis(), name, licence=licence)
        with pytest.raises(ModelError, match=r"tag scfm\.license takes one line"):
            registry.add_files(name, basis(), "scfm.pca", {"scfm.license": licence}, "")
    assert name not in [item.name for item in registry.search(all_versions=True)]
    added = put(name, licence=ONE_LINE, card="# Mine\n\nCards have\nmany lines.\n")
    assert added.licence == ONE_LINE
    assert "Cards have\nmany lines." in registry.card(name)
    record = registry._find(names.parse(added.reference))[1]
    with pytest.raises(ModelError, match=r"tag scfm\.b takes one line"):
        registry._store.set_tags(record, {"scfm.a": "fine", "scfm.b": "not\nfine"})
    assert "scfm.a" not in registry.get(added.reference).tags, "all of them or none"


def test_words_that_somebody_put_there_past_us_cannot_break_out(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    card = "# Mine\n\x1b[31mred\x1b[0m \u202egnp.exe\n"
    added = put(_name("breaking", registry), licence=ONE_LINE, card=card)
    lies = {"license": BREAKING, "owner": "\x1b[2Janna", "kind": "base\nline", "parent_digest": "sha256:" + "a" * 64}
    for key, value in {**lies, "by": "\x1b[2Jben", "retracted": "now", "retracted_because.a": "\x1b[2J"}.items():
        registry.client.set_model_version_tag(added.name, "1", f"scfm.{key}", value)
    card, found = registry.card(added.name), registry.get(added.reference)
    assert "| Licence | MIT \\| \\| Kind \\| verified (no commercial use) |" in card
    assert "\u202e" not in card
    with pytest.raises(ModelError, match="was retracted") as caught:
        registry.load(added.reference)
    lineage = registry.lineage(added.reference).summary()
    told = obligations(found.licence, found.commercial)
    for text in (card, table(Versions([found])), lineage, told, found.retracted, str(caught.value)):
        assert "\x1b" not in text
    assert table(Versions([found])).count("\n") == 1
    assert lineage.count("\n") == 1
    assert "\n" not in told


def test_the_evidence_of_a_measurement_is_kept_with_its_machine(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("measure", registry)
    added = put(name)
    estimated = int(added.hardware["mem.cpu.peak_mib"])
    result = registry.measure(name, device="cpu", cells=50, repeats=2)
    tags = registry.get(name).tags
    assert 1 <= estimated / result.evidence["memory"]["peak_mib"] <= 2, "Python and PyTorch count as well"
    assert tags["scfm.device.cpu"] == "verified"
    assert tags["scfm.mem.cpu.source"] == "measured"
    assert int(tags["scfm.mem.cpu.peak_mib"]) == result.evidence["memory"]["peak_mib"]
    assert tags["scfm.speed.cpu.run"] == result.run
    kept = registry.evidence(result.run)
    assert kept == result.evidence
    assert kept["digest"] == added.digest
    assert kept["cells"]["count"] == 50
    assert len(kept["repeats"]) == 2
    assert registry.client.get_run(result.run).data.metrics["load_seconds"] == pytest.approx(kept["load_seconds"])
    assert next(item for item in registry.search(fits=LARGE) if item.name == name).fit.source == "measured"  # type: ignore[union-attr]


def test_verify_reads_every_file(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    added = put(_name("verify", registry))
    assert registry.verify(added.reference).ok
    path = registry.resolve(added.reference).path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    result = registry.verify(added.reference)
    assert not result.ok
    assert "damaged" in result.files["model.safetensors"]
    assert "model.safetensors is damaged" in result.summary()
    if "sqlite" in registry.uri:
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
            registry.load(added.reference)
    else:
        # What lies here is a copy; the server still has the files.
        assert registry.load(added.reference).spec.width == 8
        assert registry.verify(added.reference).ok


def test_weights_are_hashed_once_each_time_they_are_opened_and_a_damaged_copy_is_fetched_again(
    registry: Registry, put: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    added = put(_name("hashed", registry))
    hashed: list[Path] = []

    def counting(where: Any, name: str, at: int) -> None:
        true = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *given: (hashed.append(given[at]), true(*given))[1])

    counting(manifest, "sha256", 0)
    counting(pinned, "_sha256", 0)
    counting(pinned.Pins, "tensors", 1)

    def times(opened: Callable[[], Any]) -> int:
        hashed.clear()
        assert opened().spec.width == 8
        # What comes with scfm-lab is compared when a registry is opened.
        return [path.name for path in hashed if path.is_relative_to(data_home())].count("model.safetensors")

    ways = (
        lambda: registry.load(added.reference, device="cpu"),
        lambda: sl.load_model(f"models:/{added.reference}", device="cpu"),
    )
    local = "sqlite" in registry.uri
    assert times(ways[0]) == (1 if local else 2), "what a server sends is looked at before it is kept"
    assert [times(way) for way in ways] == [1, 1]
    path = registry.resolve(added.reference).path / "model.safetensors"
    true = path.read_bytes()
    wrong = true[:-1] + bytes([true[-1] ^ 1])
    for way in ways:
        path.write_bytes(wrong)
        if local:
            with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
                way()
            continue
        assert times(way) == 4, "the damaged copy, the same as it is put aside, what was sent, and what was opened"
        assert path.read_bytes() == true
        (aside,) = path.parent.parent.glob(f"{path.parent.name}.damaged-*")
        assert (aside / path.name).read_bytes() == wrong
        shutil.rmtree(aside)


@pytest.fixture
def downloads(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """What is fetched from the server from now on."""
    kind, asked = type(registry._store), []
    true = kind.download
    monkeypatch.setattr(kind, "download", lambda *given: (asked.append(given[1]), true(*given))[1])
    return asked


@SERVED
def test_a_copy_that_was_only_touched_stays(
    registry: Registry,
    put: Callable[..., ModelVersion],
    downloads: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added = put(_name("touched", registry))
    path, backup = registry.resolve(added.reference).path / "model.safetensors", tmp_path / "backup"
    read = pinned.Pins.tensors

    def touched(pins: pinned.Pins, where: Path) -> dict[str, Any]:
        """As a backup of hard links does while the model is opened."""
        found = read(pins, where)
        if not backup.exists():
            os.link(path, backup)
        return found

    monkeypatch.setattr(pinned.Pins, "tensors", touched)
    downloads.clear()
    assert registry.load(added.reference, device="cpu").spec.width == 8
    assert backup.samefile(path), "it is the copy that was there"
    assert not downloads
    assert not list(path.parent.parent.glob("*.damaged-*"))


@SERVED
def test_of_two_that_open_one_damaged_copy_one_fetches_it_again(
    registry: Registry, put: Callable[..., ModelVersion], downloads: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    added = put(_name("together", registry))
    path, both = registry.resolve(added.reference).path / "model.safetensors", threading.Barrier(2)
    read, true = pinned.Pins.tensors, path.read_bytes()

    def opened(_: int = 0) -> int:
        return registry.load(added.reference, device="cpu").spec.width

    def at_once(pins: pinned.Pins, where: Path) -> dict[str, Any]:
        try:
            return read(pins, where)
        except pinned.ChangedFileError:
            both.wait(60)
            raise

    def late(pins: pinned.Pins, where: Path) -> dict[str, Any]:
        """Before this one says what it has found, another one has opened, and fetched again, the same copy."""
        try:
            return read(pins, where)
        except pinned.ChangedFileError:
            monkeypatch.setattr(pinned.Pins, "tensors", read)
            assert opened() == 8
            raise

    for number, (way, times) in enumerate(((at_once, 2), (late, 1)), 1):
        path.write_bytes(true[:-1] + bytes([true[-1] ^ 1]))
        monkeypatch.setattr(pinned.Pins, "tensors", way)
        downloads.clear()
        with ThreadPoolExecutor(times) as pool:
            assert list(pool.map(opened, range(times))) == [8] * times
        assert path.read_bytes() == true
        assert len(downloads) == 1, way
        # Both are put aside within a second or so.
        assert len(list(path.parent.parent.glob(f"{path.parent.name}.damaged-*"))) == number


def test_a_version_of_somebody_elses_making_stays_out_of_sight(registry: Registry) -> None:
    name = _name("foreign", registry)
    registry.client.create_registered_model(name)
    assert name not in [item.name for item in registry.search(all_versions=True)]
    with pytest.raises(ModelError, match="No model is called"):
        registry.get(name)


def _say(registry: Registry, request: pytest.FixtureRequest, model: str, address: str) -> None:
    """Have the database say that the files of a version lie somewhere else."""
    import sqlalchemy

    if "sqlite" in registry.uri:
        database = registry.uri
    else:
        kind = request.node.callspec.params["registry"].removeprefix("http+").replace("postgresql", "postgres")
        database = request.getfixturevalue(f"{kind}_server").database.replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        told = {"address": address, "model": model}
        done = connection.execute(
            sqlalchemy.text("UPDATE logged_models SET artifact_location = :address WHERE model_id = :model"), told
        )
    engine.dispose()
    assert done.rowcount == 1


def test_files_that_are_said_to_lie_elsewhere_are_not_read(
    registry: Registry, put: Callable[..., ModelVersion], imported: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    name = _name("elsewhere", registry)
    added = put(name)
    # The same files, so that their hashes would tell nothing.
    copy = imported(8, "pretrained", None)[0]
    assert manifest.check(copy, added.digest, "the copy")["model.safetensors"] == "ok"
    for source in (copy.as_uri(), f"s3://theirs/models/m-{'0' * 32}/artifacts"):
        with suppress(MlflowException):  # a server takes no folder
            forged = registry.client.create_model_version(name, source, tags={"scfm.digest": added.digest})
            with pytest.raises(ScfmError):
                registry.resolve(f"{name}/{forged.version}")
    assert int(forged.version) > 1
    model = registry.client.get_model_version(name, "1").source.removesuffix("/artifacts").rpartition("/")[2]
    true = registry.client.get_logged_model(model).artifact_location
    for address in (copy.as_uri(), "s3://theirs/files", f"mlflow-artifacts://127.0.0.1:9/models/{model}/artifacts"):
        _say(registry, request, model, address)
        if "sqlite" in registry.uri:
            assert registry.resolve(added.reference).path.is_relative_to(registry.scratch), (
                "where files lie is not asked"
            )
            continue
        with pytest.raises(ModelError, match="and not with itself; nothing was read"):
            registry.resolve(added.reference)
    _say(registry, request, model, true)
    assert registry.verify(added.reference).ok


def test_a_digest_is_a_reference_without_a_name(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    first, second = (put(_name(f"digest-{which}", registry), card="of this test") for which in ("a", "b"))
    assert first.digest == second.digest
    assert registry.get(first.digest) == first, "the oldest of several"
    assert sl.load_model(f"models:/{first.digest}", device="cpu").version == first.reference
    registry.delete(first.reference)
    assert registry.get(first.digest) == second, "one that is not in the trash"
    registry.delete(second.reference)
    assert registry.resolve(first.digest).digest == first.digest, "what was made from one in the trash still opens"
    with pytest.raises(ModelError, match=f"No version in the registry in .* has the digest sha256:{'0' * 64}"):
        registry.get("sha256:" + "0" * 64)


def test_a_deleted_version_is_out_of_sight_until_it_is_restored(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("deleted", registry)
    first, second = (put(name, width=width) for width in (8, 5))
    registry.promote(f"{name}/2")
    with pytest.raises(ModelError, match=rf"{name}/2 is 'champion'.*would find nothing"):
        registry.delete(f"{name}/2")
    gone = registry.delete(f"{name}/2", because="trained on the wrong labels", force=True)
    assert gone.reference == second.reference
    assert [item.version for item in registry.versions(name)] == [1]
    assert registry.get(name) == first
    assert name not in [item.name for item in registry.search(text="wrong labels", all_versions=True)]
    for reference in (f"{name}/2", f"{name}@champion"):
        with pytest.raises(ModelError):
            registry.resolve(reference)
    (listed,) = [item for item in registry.trash() if item.name == name]
    assert (listed.reference, listed.tags["scfm.trashed_because"]) == (f"{name}/2", "trained on the wrong labels")
    back = registry.restore(f"{name}/2")
    assert (back.version, back.aliases, back.digest) == (2, (), second.digest)
    assert not [key for key in back.tags if key.startswith("scfm.trashed")]
    assert registry.verify(f"{name}/2").ok
    assert not [item for item in registry.trash() if item.name == name]


def test_registering_deleted_files_again_brings_their_version_back(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("again", registry)
    first = put(name)
    registry.delete(f"{name}/1")
    with pytest.raises(ModelError, match="No model is called"):
        registry.get(name)
    assert put(name) == first


def test_purging_is_for_good_and_takes_only_what_was_deleted(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("purged", registry)
    put(name)
    with pytest.raises(ModelError, match=rf"{name}/1 is not in the trash"):
        registry.purge(f"{name}/1")
    registry.delete(f"{name}/1")
    record = registry._store.record(name, 1)
    assert record is not None
    folder, logged = registry._store.files(record), registry._store._model_id(record)
    if folder is None:
        there = registry._store._repository(registry.client.get_logged_model(logged).artifact_location).list_artifacts
    else:
        there = folder.exists
    copy = data_home() / "cache" / "models" / record.tags["scfm.digest"].removeprefix("sha256:")
    copy.mkdir(parents=True, exist_ok=True)
    assert there()
    assert registry.purge(f"{name}/1") == "", "no files stay"
    assert not there()
    assert not copy.exists()
    with pytest.raises(ModelError, match="is not in the trash"):
        registry.restore(f"{name}/1")
    # Numbers are not used again for other files.
    assert put(name, width=5).version >= 1
    assert registry.versions(name)[0].width == 5


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.delete("starter/1"), "comes with scfm-lab"),
        (lambda r: r.delete("starter"), "does not say which version"),
        (lambda r: r.restore("starter"), "does not say which version"),
        (lambda r: r.delete("nobody/1"), "No model is called 'nobody'"),
    ],
    ids=["built-in", "no number", "no number to restore", "unknown"],
)
def test_what_cannot_be_deleted_is_said(registry: Registry, ask: Callable[[Registry], object], words: str) -> None:
    registry.ensure_builtin()
    with pytest.raises(ModelError, match=words):
        ask(registry)
