"""Promotion: nobody overwrites another unseen, and a gate says what is missing."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowException

from scfm_lab.errors import ModelError, StorageError
from scfm_lab.evaluation.score import Score
from scfm_registry import Gate, Registry, people
from scfm_registry.store import claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scfm_registry.version import ModelVersion

DATA = "sha256:" + "0" * 64


def _name(test: str, registry: Registry) -> str:
    return f"{test}-{'local' if 'sqlite' in registry.uri else 'server'}"


def _as(monkeypatch: pytest.MonkeyPatch, person: str) -> None:
    monkeypatch.setattr(people, "of_system", lambda: person)


def test_of_two_people_on_two_machines_one_promotes(
    registry: Registry, put: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    name = _name("race", registry)
    for width in (8, 5, 3):
        put(name, width=width)
    registry.promote(f"{name}/1")
    # On a server, each has a home, and so a lock, of its own: what keeps them apart is the server alone.
    local = "sqlite" in registry.uri
    code = (
        "import sys\nfrom scfm_lab.errors import ModelError\nfrom scfm_registry import Registry\n"
        "registry, won = Registry(), 0\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        f"for round in range(3):\n    sys.stdin.readline()\n    try:\n        registry.promote('{name}/' + sys.argv[1], expect=1)\n"
        "        won = 1\n    except ModelError as error:\n        won = 0\n        assert 'points at' in str(error), error\n"
        "    print(won, flush=True)\n"
    )
    processes = []
    for number in (2, 3):
        variables = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if not local:
            variables["SCFM_HOME"] = str(tmp_path / f"person{number}")
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(number)],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _tell(process)
    for _ in range(3):
        registry.promote(f"{name}/1")
        for process in processes:
            _tell(process)
        won = [int(process.stdout.readline()) for process in processes if process.stdout is not None]
        assert sum(won) == 1
        assert registry.get(name).version == 2 + won.index(1)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    claims = [item.name for item in registry.client.search_registered_models() if item.name.startswith("scfm.claim")]
    assert claims == []
    assert registry.audit(name).ok


def test_a_promotion_that_is_told_nothing_expects_what_was_seen_last(
    registry: Registry, put: Callable[..., ModelVersion]
) -> None:
    name = _name("seen", registry)
    for width in (8, 5, 3):
        put(name, width=width)
    registry.promote(f"{name}/1", "other", expect=None)
    other = Registry()
    assert "champion" not in [alias for item in registry.versions(name) for alias in item.aliases]
    assert other.promote(f"{name}/1").instead_of == ""
    with pytest.raises(ModelError, match=rf"points at {name}/1; when it was last looked at here, nobody had it"):
        registry.promote(f"{name}/2")
    assert registry.get(name).version == 1
    # Who was told has seen it, and decides again.
    assert str(registry.promote(f"{name}/2")) == f"{name}/2 (champion; instead of {name}/1)"
    with pytest.raises(ModelError, match=rf"points at {name}/2; when it was last looked at here, {name}/1 had it"):
        other.promote(f"{name}/3")
    assert other.holder(name) == f"{name}/2"
    assert other.promote(f"{name}/3").instead_of == f"{name}/2"
    # Who wants what is there already, or has not looked at all, overwrites nobody unseen either: it is told.
    assert registry.promote(f"{name}/3").instead_of == ""
    assert Registry().promote(f"{name}/1").instead_of == f"{name}/3"
    assert registry.promote(f"{name}/2", expect="anything").instead_of == f"{name}/1"
    # What happens behind a call shows nobody anything: a model that is opened, a version that loses its alias by one's own hand.
    assert registry.versions(name)[0].version == 3
    other.promote(f"{name}/1", expect="anything")
    registry.resolve(f"{name}/1")
    with pytest.raises(ModelError, match=rf"points at {name}/1; when it was last looked at here, {name}/2 had it"):
        registry.promote(f"{name}/3")
    registry.delete(f"{name}/1", force=True)
    assert registry.promote(f"{name}/3").instead_of == ""


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_gate_says_what_is_missing_and_opens_when_it_is_there(
    made_home: Path, put_in: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, name = Registry(), "gated"
    _as(monkeypatch, "anna")
    parent = put_in(registry, name)
    child = put_in(registry, name, width=5)
    registry.client.set_model_version_tag(name, "2", "scfm.parent_digest", parent.digest)
    registry.set_gate(name, "champion", Gate(metrics=("macro_f1",), approvals=1))
    with pytest.raises(ModelError, match=r"missing: a recorded score 'macro_f1'; 1 more of other people's word"):
        registry.promote(child.reference)
    with pytest.raises(ModelError, match=r"was registered by you \(anna\)"):
        registry.approve(child.reference)

    def score(reference: str, value: float, low: float, data: str = DATA, **more: Any) -> None:
        given = Score("macro_f1", "m", value, low=low, high=0.9, floor=0.6, floor_name="pca", **more)
        registry.record_scores(reference, [given], data_digest=data)

    score(child.reference, 0.9, 0.8, remark="Flagged: 3 of the 9 scored cells are in its training record")
    with pytest.raises(ModelError, match="on cells that are not in its training record"):
        registry.promote(child.reference)
    score(child.reference, 0.7, 0.55)
    with pytest.raises(ModelError, match=r"above the floor: 0\.550.*of the parent on the same cells, which was not"):
        registry.promote(child.reference)
    # The difference on the same resamples says more than the value's own interval.
    score(child.reference, 0.7, 0.65, gain_low=-0.02, gain_high=0.2)
    with pytest.raises(ModelError, match=r"above the floor: 0\.580 at the worse end"):
        registry.promote(child.reference)
    # Five donors cannot tell it, whatever their interval says.
    score(child.reference, 0.7, 0.55, gain_low=0.01, gain_high=0.2, units=5)
    with pytest.raises(ModelError, match="macro_f1 above the floor over 6 units or more: it is over 5"):
        registry.promote(child.reference)
    score(child.reference, 0.7, 0.55, gain_low=0.01, gain_high=0.2, units=6)
    with pytest.raises(ModelError, match=r"missing: macro_f1 of the parent on the same cells"):
        registry.promote(child.reference)
    score(parent.reference, 0.9, 0.8, data="sha256:other")
    score(child.reference, 0.7, 0.65)
    with pytest.raises(ModelError, match="of the parent on the same cells, which was not recorded"):
        registry.promote(child.reference)
    score(parent.reference, 0.71, 0.6)
    with pytest.raises(ModelError, match=r"above the parent: 0\.700 is not better than 0\.710"):
        registry.promote(child.reference)
    score(child.reference, 0.75, 0.65)
    _as(monkeypatch, "ben")
    assert registry.approve(child.reference) == ["ben"]
    _as(monkeypatch, "anna")
    assert registry.promote(child.reference).aliases == ("champion",)
    with pytest.raises(ModelError, match="approvals"):
        registry.promote(parent.reference, "candidate", gate=Gate(approvals=-1))
    with pytest.raises(ModelError, match="other people's word"):
        registry.promote(parent.reference, "candidate", gate=Gate(approvals=1))
    # Nor does one person pass by taking the gate away meanwhile: that takes as many others, and each word counts once.
    registry.set_gate(name, "champion", Gate(metrics=("macro_f1", "accuracy"), approvals=1))
    assert registry.agree(name) == ["anna"]
    for looser in (None, Gate(metrics=("macro_f1", "accuracy")), Gate(approvals=1)):
        with pytest.raises(ModelError, match="so does making it looser; missing: 1 more"):
            registry.set_gate(name, "champion", looser)
    _as(monkeypatch, "ben")
    assert registry.agree(name) == ["anna", "ben"]
    _as(monkeypatch, "anna")
    registry.set_gate(name, "champion", Gate(approvals=1))
    with pytest.raises(ModelError, match="so does making it looser"):
        registry.set_gate(name, "champion", None)
    _as(monkeypatch, "ben")
    registry.agree(name)
    _as(monkeypatch, "anna")
    registry.set_gate(name, "champion", None)
    assert registry.promote(parent.reference).version == 1
    assert registry.audit(name).ok


def test_nobody_is_somebody_else_by_a_variable(made_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del made_home
    me = people.of_system()
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "professor")
    assert people.who(Registry()._place) == me == pwd.getpwuid(os.getuid()).pw_name != "professor"


def test_scores_that_cannot_be_or_that_came_with_a_file_open_no_gate(
    made_home: Path, imported: Callable[..., Any], put_in: Callable[..., ModelVersion], tmp_path: Path
) -> None:
    registry, gate = Registry(), Gate(metrics=("macro_f1",))
    plain = put_in(registry, "plain")
    odd = {"metric": "macro_f1", "value": 0.01, "floor": float("nan"), "parent": -1, "data_digest": DATA}
    document = {"schema": 1, "digest": plain.digest, "scores": [odd]}
    tags = {"scfm.task": "evaluate", "scfm.digest": plain.digest, "scfm.version": plain.reference}
    registry._store.log_run("evaluate plain/1", tags, {"macro_f1": 0.01}, {"scores.json": document})
    assert registry.scores("plain/1") == []
    with pytest.raises(ModelError, match="missing: a recorded score 'macro_f1'"):
        registry.promote("plain/1", gate=gate)
    # Whoever brings a model writes its record, with its scores, floors and parent.
    folder, tags, told = imported(8, "pretrained", None)
    own = shutil.copytree(folder, tmp_path / "own")
    rows = [{"what": "model", "macro_f1": 1.0}, {"what": "floor", "macro_f1": 0.0}, {"what": "head", "macro_f1": 0.0}]
    (own / "finetuning.json").write_text(json.dumps({"metrics": rows, "data": {"digest": DATA}}))
    brought = registry.add_files("brought", own, "scfm.pca", {**tags, "scfm.origin": "import"}, told)
    assert [row["value"] for row in registry.scores(brought.reference)] == [1.0], "it is shown, and where it is from"
    with pytest.raises(ModelError, match="missing: a recorded score 'macro_f1'"):
        registry.promote(brought.reference, gate=gate)


def test_what_the_products_own_evaluations_give_opens_a_gate(
    made_home: Path, put_in: Callable[..., ModelVersion]
) -> None:
    registry = Registry()
    plain = put_in(registry, "plain")
    given = Score("macro-F1", "m", 0.9, low=0.8, high=0.95, floor=0.6, floor_name="pca")
    registry.record_scores(plain.reference, [given], data_digest=DATA)
    told = registry.scores(plain.reference)
    assert [(row["metric"], row["key"]) for row in told] == [("macro-F1", "macro_f1")]
    # Also those that were kept before.
    other = put_in(registry, "plain", width=5)
    document = {
        "schema": 1,
        "digest": other.digest,
        "scores": [{"metric": "macro-F1", "value": 0.7, "floor": 0.6, "low": 0.65}],
    }
    tags = {"scfm.task": "evaluate", "scfm.digest": other.digest, "scfm.version": other.reference}
    registry._store.log_run("evaluate plain/2", tags, {"macro-F1": 0.7}, {"scores.json": document})
    gate = Gate(metrics=("macro_f1",))
    for version in (plain, other):
        assert registry.promote(version.reference, "trusted", gate=gate).reference == version.reference


def test_a_score_that_is_no_number_is_not_kept(made_home: Path) -> None:
    with pytest.raises(ModelError, match="is no number"):
        Registry().record_scores("pca/1", [Score("macro_f1", "m", float("nan"), missing="no cells")], data_digest=DATA)


def test_what_is_retracted_while_others_have_their_turn_is_not_promoted(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    turn = registry._store.exclusive

    @contextmanager
    def later(what: str) -> Iterator[None]:
        Registry().retract("pca/1", because="meanwhile")
        with turn(what):
            yield

    monkeypatch.setattr(registry._store, "exclusive", later)
    with pytest.raises(ModelError, match=r"pca/1 was retracted \(meanwhile\); it is not promoted"):
        registry.promote("pca/1", "candidate")
    assert registry.get("pca/1").aliases == ("champion",)


def test_a_gate_that_cannot_be_read_lets_nobody_through(made_home: Path) -> None:
    registry = Registry()
    registry.client.set_registered_model_tag("pca", "scfm.gate.candidate", "{}")
    with pytest.raises(ModelError, match="cannot be read"):
        registry.promote("pca/1", "candidate")


def test_what_was_cut_while_it_was_recorded_counts_for_nothing(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del made_home
    registry = Registry()
    digest = registry.get("pca/1").digest
    client = registry.client

    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(type(client), "log_dict", full)
        with pytest.raises(StorageError):
            registry.record_scores("pca/1", [Score("macro_f1", "m", 0.5)], data_digest=DATA)
    experiment = client.search_experiments(filter_string="name = 'scfm-registry'")[0].experiment_id
    about = {"scfm.digest": digest, "scfm.version": "pca/1", "scfm.device": "cpu"}
    # Killed: neither finished nor failed. And one whose document somebody has deleted.
    client.create_run(experiment, tags={**about, "scfm.task": "measure"})
    client.create_run(experiment, tags={**about, "scfm.task": "evaluate"})
    gone = client.create_run(experiment, tags={**about, "scfm.task": "evaluate"}).info.run_id
    client.set_terminated(gone, "FINISHED")
    assert registry.scores("pca/1") == []
    card = registry.card("pca/1")
    assert "No scores are on record." in card
    assert "Not measured" in card


def test_of_several_who_wait_behind_a_dead_claim_none_takes_away_a_living_one(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, name = Registry().client, claims.PREFIX + "m.champion"
    monkeypatch.setattr(claims, "_OLD", 0.1)
    assert claims._create(client, name, "dead", MlflowException)
    # One has put it aside and holds it now; another, who waited behind the dead one too, comes later.
    with claims.claimed(client, "m.champion", MlflowException) as sure:
        claims._put_aside(client, name, "dead", MlflowException)
        sure()
        # And while one is at it, another leaves it alone.
        client.set_registered_model_tag(name, "scfm.claim", "dead")
        claims._create(client, f"{name}.dead", "dead", MlflowException)
        claims._put_aside(client, name, "dead", MlflowException)
        assert claims._holder(client, name, MlflowException) == "dead"
        with pytest.raises(StorageError, match="nothing was changed"):
            sure()
        client.delete_registered_model(f"{name}.dead")
        claims._put_aside(client, name, "dead", MlflowException)
    assert not [item.name for item in client.search_registered_models() if item.name.startswith(claims.PREFIX)]


def test_a_claim_that_is_given_back_while_mlflow_looks_for_it_is_taken(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, name = Registry().client, claims.PREFIX + "m.champion"
    assert claims._create(client, name, "another's", MlflowException)
    store = type(client._get_registry_client().store)
    find = store.get_registered_model
    taken = ["by another"]

    def late(self: Any, wanted: str) -> Any:
        if wanted == name and taken:
            taken.pop()
            client.delete_registered_model(name)
        return find(self, wanted)

    # The name is taken, MLflow looks the model up to say so, and it is gone.
    monkeypatch.setattr(store, "get_registered_model", late)
    with claims.claimed(client, "m.champion", MlflowException) as sure:
        sure()
    assert not taken
    assert not [item.name for item in client.search_registered_models() if item.name.startswith(claims.PREFIX)]


def test_a_delete_that_is_cut_off_leaves_the_model_where_its_name_finds_it(
    made_home: Path, put_in: Callable[..., ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    del made_home
    registry = Registry()
    for width in (8, 5):
        put_in(registry, "mine", width=width)
    registry.promote("mine/2")

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    for step in ("drop_alias", "set_tags"):
        with monkeypatch.context() as cut:
            cut.setattr(registry._store, step, killed)
            with pytest.raises(KeyboardInterrupt):
                registry.delete("mine/2", force=True)
        assert registry.get("mine").reference == "mine/2"
    assert registry.get("mine").aliases == ()
    # As MLflow's own clients can leave it: the alias leads into the trash.
    registry.promote("mine/2")
    registry.client.set_model_version_tag("mine", "2", "scfm.trashed", "2026-01-01T00:00:00+00:00")
    assert registry.get("mine").reference == "mine/1"
    with pytest.raises(ModelError, match="No version of 'mine' has the alias 'champion'"):
        registry.get("mine@champion")
