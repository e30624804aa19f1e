"""What was retracted does not open by accident, nor does what was made from it, and files made with it are found."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_registry import Registry, made_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from scfm_registry.version import ModelVersion


def _card(name: str) -> str:
    """A card that no other test has: a server is shared, and a retraction reaches every copy of the same files."""
    return f"# Of {name}\n"


@pytest.fixture
def line(registry: Registry, put: Callable[..., ModelVersion], request: pytest.FixtureRequest) -> tuple[Registry, str]:
    """Three versions, each made from the one before, and a fourth that has nothing to do with them."""
    test = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    name = f"line-{test}"
    added = [put(name, width=width, card=_card(name)) for width in (8, 7, 6, 5)]
    for parent, child in itertools.pairwise(added[:3]):
        registry.client.set_model_version_tag(name, str(child.version), "scfm.parent_digest", parent.digest)
    return registry, name


def test_a_retraction_reaches_all_that_was_made_from_it(
    line: tuple[Registry, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, name = line
    found = registry.retract(f"{name}/2", because="mislabelled cells")
    assert [item.version for item in found] == [2, 3]
    with pytest.raises(ModelError, match=rf"{name}/2 was retracted \(mislabelled cells\)"):
        registry.load(f"{name}/2")
    with pytest.raises(ModelError, match=rf"made from {name}/2, which was retracted: mislabelled cells"):
        sl.load_model(f"models:/{name}/3")
    assert registry.load(f"{name}/1").spec.width == 8
    assert registry.load(f"{name}/4").spec.width == 5
    with pytest.warns(RuntimeWarning, match="was retracted"):
        assert registry.load(f"{name}/2", even_retracted=True).spec.width == 7
    with pytest.raises(ModelError, match="is not promoted"):
        registry.promote(f"{name}/3")
    assert "**Retracted: made from" in registry.card(f"{name}/3")
    assert registry.verify(f"{name}/3").ok, "looking at it is no use of it"
    # Flagged for two reasons, it stays flagged until both are taken back.
    registry.retract(f"{name}/3", because="too small")
    registry.reinstate(f"{name}/2")
    assert registry.get(f"{name}/2").retracted == ""
    assert registry.get(f"{name}/3").retracted == "too small"
    registry.reinstate(f"{name}/3")
    assert registry.load(f"{name}/3").spec.width == 6
    with pytest.raises(ModelError, match="was not retracted itself"):
        registry.reinstate(f"{name}/3")
    actions = [entry["action"] for entry in registry.audit(name).entries][-6:]
    assert actions == ["retract", "retract", "retract", "reinstate", "reinstate", "reinstate"]


def test_what_is_made_later_does_not_open_either_and_circles_end(line: tuple[Registry, str]) -> None:
    registry, name = line
    registry.retract(f"{name}/1", because="no consent")
    first, fourth = registry.get(f"{name}/1"), registry.get(f"{name}/4")
    registry.client.set_model_version_tag(name, "4", "scfm.parent_digest", first.digest)
    with pytest.raises(ModelError, match=rf"made from {name}/1, which was retracted: no consent"):
        registry.load(f"{name}/4")
    made_later = registry.get(f"{name}/4")
    assert made_later.retracted == ""
    assert registry.why_retracted(made_later) == f"made from {name}/1, which was retracted: no consent"
    everyone = [registry.get(f"{name}/{number}") for number in (1, 2, 3, 4)]
    assert registry.why_each_retracted(everyone) == [registry.why_retracted(item) for item in everyone]
    with pytest.raises(ModelError, match=rf"{name}/4 was retracted \(made from .* it is not promoted"):
        registry.promote(f"{name}/4")
    registry.client.set_model_version_tag(name, "1", "scfm.parent_digest", fourth.digest)
    assert len(registry.retract(f"{name}/4", because="a circle")) == 4
    with pytest.raises(ModelError, match="needs a reason"):
        registry.retract(f"{name}/4", because="")


def test_files_made_with_a_retracted_version_are_found(made_home: Path, pbmc68k: AnnData, tmp_path: Path) -> None:
    registry = Registry()
    cells = pbmc68k[:20].copy()
    sl.embed(cells, registry.load("pca"))
    other = pbmc68k[:20].copy()
    sl.embed(other, registry.load("sctop"))
    cells.write_h5ad(tmp_path / "made.h5ad")
    other.write_h5ad(tmp_path / "other.h5ad")
    pbmc68k[:5].copy().write_h5ad(tmp_path / "plain.h5ad")
    (tmp_path / "broken.h5ad").write_bytes(b"no file at all")
    paths = sorted(tmp_path.glob("*.h5ad"))
    assert registry.affected(paths).rows == []
    registry.retract("pca/1", because="a test")
    found = registry.affected([*paths, cells])
    assert [row["file"] for row in found.rows] == [str(tmp_path / "made.h5ad"), "AnnData with 20 cells"]
    assert {(row["key"], row["version"], row["by"], row["retracted"]) for row in found.rows} == {
        ("X_pca_scfm" if "X_pca_scfm" in cells.obsm else next(iter(cells.uns["scfm"])), "pca/1", "weights", "a test")
    }
    assert list(found.unread) == [str(tmp_path / "broken.h5ad")]
    assert "could not be read" in found.summary()
    assert list(registry.affected(paths, "sctop/1").table["file"]) == [str(tmp_path / "other.h5ad")]


def test_folders_that_hold_nothing_or_cannot_be_read_are_told(made_home: Path, tmp_path: Path) -> None:
    del made_home
    (tmp_path / "empty" / "below").mkdir(parents=True)
    found = Registry().affected([tmp_path / "empty"])
    assert list(found.unread) == [str(tmp_path / "empty")]
    assert "holds no .h5ad file" in found.summary()
    # One that is gone when its turn comes cannot be read, whoever asks.
    unread: dict[str, str] = {}
    assert list(made_with.files(tmp_path / "gone", unread)) == []
    assert unread == {str(tmp_path / "gone"): "No such file or directory"}


def test_consent_is_handed_down(line: tuple[Registry, str], basis: Callable[..., Path]) -> None:
    registry, name = line
    registry.annotate(f"{name}/3", consent="open")
    registry.annotate(f"{name}/1", consent="patient-data")
    assert [registry.get(f"{name}/{number}").consent for number in (1, 2, 3, 4)] == [
        "patient-data",
        "patient-data",
        "open",
        "",
    ]
    later = basis(width=4)
    (later / "card.md").write_text(_card(name))
    parent = registry.get(f"{name}/2").digest
    tags = {"scfm.schema": "1", "scfm.kind": "fine-tuned", "scfm.family": "scfm.pca", "scfm.parent_digest": parent}
    assert registry.add_files(name, later, "scfm.pca", tags, "").consent == "patient-data"


@pytest.mark.parametrize("held_first", [True, False])
def test_what_is_said_of_files_counts_under_every_name(
    made_home: Path, put_in: Callable[..., ModelVersion], imported: Callable[..., Any], tmp_path: Path, held_first: bool
) -> None:
    del made_home
    registry = Registry()
    folder, tags, told = imported(8, "pretrained", None)
    held = {**tags, "scfm.consent": "patient-data"}
    for name, said in [("patients", held), ("plain", tags)][:: 1 if held_first else -1]:
        registry.add_files(name, folder, "scfm.pca", dict(said), told)
    assert registry.get("plain").consent == "patient-data"
    # Also where somebody has taken the word away from this one, and put the other into the trash.
    registry.client.delete_model_version_tag("plain", "1", "scfm.consent")
    registry.delete("patients/1")
    for out in (registry.export_bundle, registry.export_published):
        with pytest.raises(ModelError, match=r"plain/1 does not leave .* of patients/1, which has the same files"):
            out("plain", tmp_path / "out")
    with pytest.raises(ModelError, match=r"plain/1 does not leave"):
        registry.mirror(tmp_path / "out", ["plain"])
    assert not (tmp_path / "out").exists()
    assert put_in(registry, "third").consent == "patient-data"
    assert (
        registry.add_files("open", folder, "scfm.pca", {**tags, "scfm.consent": "open"}, told).consent == "patient-data"
    )


def test_files_that_were_retracted_do_not_come_back_under_another_name(
    made_home: Path, put_in: Callable[..., ModelVersion]
) -> None:
    del made_home
    registry = Registry()
    put_in(registry, "a")
    registry.retract("a/1", because="mislabelled")
    registry.delete("a/1")
    copy = put_in(registry, "b")
    assert copy.retracted == "mislabelled"
    # Also where it came in at the moment in which the other one was retracted, and has no flag.
    for key in [key for key in copy.tags if key.startswith("scfm.retracted")]:
        registry.client.delete_model_version_tag("b", "1", key)
    with pytest.raises(ModelError, match=r"its files are those of a/1, which was retracted: mislabelled"):
        registry.load("b/1")
    with pytest.raises(ModelError, match="is not promoted"):
        registry.promote("b/1")


def test_what_is_said_of_weights_counts_whatever_lies_beside_them(
    made_home: Path, imported: Callable[..., Any], tmp_path: Path
) -> None:
    del made_home
    registry = Registry()
    folder, tags, told = imported(8, "pretrained", None)
    noted = shutil.copytree(folder, tmp_path / "noted")
    (noted / "notes.txt").write_text("another file, and so another digest of all files")
    registry.add_files("plain", noted, "scfm.pca", dict(tags), told)
    registry.add_files("patients", folder, "scfm.pca", {**tags, "scfm.consent": "patient-data"}, told)
    assert registry.get("plain").digest != registry.get("patients").digest
    assert registry.get("plain").consent == "patient-data"
    registry.client.delete_model_version_tag("plain", "1", "scfm.consent")
    with pytest.raises(ModelError, match=r"plain/1 does not leave .* of patients/1, which has the same weights"):
        registry.export_bundle("plain", tmp_path / "out")
    # Whoever publishes weights in two versions has not made a circle, whatever they were made from.
    below = {**tags, "scfm.parent_digest": registry.get("patients").digest}
    (noted / "notes.txt").write_text("a third")
    again = [registry.add_files(name, noted, "scfm.pca", dict(below), told).consent for name in ("again", "and-again")]
    assert again == ["patient-data"] * 2

    registry.retract("patients/1", because="mislabelled")
    for name in ("plain", "again"):
        with pytest.raises(ModelError, match="its weights are those of patients/1, which was retracted: mislabelled"):
            registry.load(name)
    (noted / "notes.txt").write_text("a fourth")
    late = registry.add_files("late", noted, "scfm.pca", dict(tags), told)
    assert late.retracted == "its weights are those of patients/1, which was retracted: mislabelled"
    for key in [key for key in late.tags if key.startswith("scfm.retracted")]:
        registry.client.delete_model_version_tag("late", "1", key)
    bare = registry.get("late")
    assert bare.retracted == ""
    assert registry.why_each_retracted([bare]) == [registry.why_retracted(bare)] == [late.retracted]
    with pytest.raises(ModelError, match="was not retracted itself: its weights are those of patients/1"):
        registry.reinstate("plain/1")
    registry.reinstate("patients/1")
    assert registry.load("plain").spec.width == registry.load("late").spec.width == 8
