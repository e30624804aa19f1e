"""Who did what: recorded on every kind of store, and a line that is changed or gone is noticed."""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import Registry
from scfm_registry.checking import check
from scfm_registry.store import trail as lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_registry.version import ModelVersion


def test_what_is_done_to_a_version_is_on_record_in_order(registry: Registry, put: Callable[..., ModelVersion]) -> None:
    name = f"audited-{'local' if 'sqlite' in registry.uri else 'server'}"
    added = put(name)
    registry.promote(added.reference, "candidate")
    registry.annotate(added.reference, project="atlas", consent="patient-data")
    registry.delete(added.reference, because="wrong labels", force=True)
    registry.restore(added.reference)
    found = registry.audit(name)
    assert found.ok, found.problems
    assert [entry["action"] for entry in found.entries] == ["register", "promote", "annotate", "delete", "restore"]
    assert {entry["digest"] for entry in found.entries} == {added.digest}
    assert found.entries[3]["details"] == {"because": "wrong labels", "aliases": ["candidate"]}
    assert len({entry["who"] for entry in found.entries} | {added.owner}) == 1
    assert "delete" in found.summary()
    assert list(found.table["action"]) == [entry["action"] for entry in found.entries]
    item = registry.get(added.reference)
    assert (item.project, item.consent) == ("atlas", "patient-data")
    assert registry.annotate(added.reference, project="").project == ""
    with pytest.raises(ModelError, match=r"Did you mean 'patient-data'"):
        registry.annotate(added.reference, consent="patient data")
    with pytest.raises(ModelError, match="one line"):
        registry.annotate(added.reference, owner="a\nb")
    assert added.reference not in str(registry.audit(name).notes)


@pytest.fixture
def trail(made_home: Path) -> tuple[Registry, Path]:
    registry = Registry()
    registry.promote("pca/1", "candidate")
    registry.promote("pca/1", "other")
    return registry, made_home / "registry" / "audit.jsonl"


def test_a_changed_line_is_noticed(trail: tuple[Registry, Path]) -> None:
    registry, path = trail
    assert registry.audit().ok
    path.write_text(path.read_text().replace('"alias":"candidate"', '"alias":"champion"'))
    found = registry.audit("starter")
    assert not found.ok
    assert any("promote pca/1" in problem and "was changed" in problem for problem in found.problems)


@pytest.mark.parametrize("which", [0, 2, -2, -1], ids=["first", "middle", "last but one", "last"])
def test_a_line_that_is_taken_away_is_noticed(trail: tuple[Registry, Path], which: int) -> None:
    registry, path = trail
    lines = path.read_text().splitlines()
    del lines[which]
    path.write_text("\n".join(lines) + "\n")
    assert not registry.audit().ok


def test_a_forged_line_with_a_right_hash_does_not_fit_into_the_chain(trail: tuple[Registry, Path]) -> None:
    from scfm_registry import audit

    registry, path = trail
    lines = path.read_text().splitlines()
    entry = json.loads(lines[-2])
    entry["who"] = "somebody"
    entry["hash"] = audit._hash(entry)
    lines[-2] = json.dumps(entry)
    path.write_text("\n".join(lines) + "\n")
    assert not registry.audit().ok


def test_a_line_that_was_cut_off_while_it_was_written_is_no_change(trail: tuple[Registry, Path]) -> None:
    registry, path = trail
    with path.open("a") as file:
        file.write('{"action":"prom')
    registry.promote("pca/1", "third")
    assert registry.audit().ok
    assert registry.audit().entries[-1]["details"]["alias"] == "third"


def test_of_a_line_that_the_system_takes_in_part_nothing_is_left(trail: tuple[Registry, Path]) -> None:
    registry, path = trail
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(StorageError, match="larger than this system allows"):
            lines.append(registry._store, {"action": "promote"}, "x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert registry.audit().ok


def test_a_registration_whose_process_was_ended_before_its_line_gets_it_with_the_next(
    made_home: Path, put_in: Callable[..., ModelVersion]
) -> None:
    class Ended(Registry):
        def note(self, action: str, *given: Any, **more: Any) -> None:
            """Nothing is written any more."""

    put_in(Ended(), "mine")
    registry = Registry()
    assert "mine/1" in str(registry.audit().notes)
    [said] = [item for item in check() if item.what == "audit trail"]
    assert said.state == "note"
    assert said.words.startswith("no line tells of the registration of mine/1, as after a process that was ended")
    for _ in range(2):
        assert put_in(registry, "mine").version == 1
    assert [entry["action"] for entry in registry.audit("mine").entries] == ["register"]
    assert "mine/1" not in str(registry.audit().notes)
    assert "audit trail" not in [item.what for item in check()]


def test_a_built_in_model_whose_line_is_missing_gets_it_when_its_registration_is_finished(
    trail: tuple[Registry, Path],
) -> None:
    registry, path = trail
    # As a process leaves it that was ended between registering it and the line.
    for alias in registry.get("pca/1").aliases:
        registry.client.delete_registered_model_alias("pca", alias)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"name":"pca"' not in line))
    registry = Registry()
    assert [entry["action"] for entry in registry.audit("pca").entries] == ["register", "promote"]
    assert registry.audit().notes == []
