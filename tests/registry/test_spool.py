"""A node without network puts models into a folder; they come in later, checked, once."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import ModelError
from scfm_registry import Registry, Spool, consent, people
from scfm_registry.spool import DESCRIPTION, FILES
from scfm_registry.store import mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfm_registry.version import ModelVersion


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_what_waits_comes_in_with_what_was_said_of_it(
    made_home: Path, spool: Spool, basis: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "of_system", lambda: "node-user")
    parent = "sha256:" + "a" * 64
    spool.put(basis(), "mine", kind="baseline", project="atlas", consent="patient-data", parent_digest=parent)
    spool.put(basis(width=5), "mine")
    assert [path.suffix for path in spool.folder.rglob("*") if "db" in path.suffix] == [], (
        "no database on a shared disk"
    )
    assert len(spool.waiting()) == 2
    monkeypatch.setattr(people, "of_system", lambda: "anna")
    seen = []

    class Watching(Registry):
        """Looks at a version at the first moment at which anybody can."""

        def note(self, action: str, record: Any = None, details: Any = None, *, must: bool = True) -> None:
            if action == "register":
                seen.append(self.get(record.reference))
            super().note(action, record, details, must=must)

    registry = Watching()
    found = registry.sync(spool.folder, certify=False)
    assert found.ok, found.summary()
    assert [item.version for item in found.registered] == [1, 2]
    first = next(item for item in found.registered if item.width == 8)
    assert (first.kind, first.project, first.consent, first.owner) == ("baseline", "atlas", "patient-data", "node-user")
    assert first.tags["scfm.registered_by"] == "anna"
    assert first.tags["scfm.parent_digest"] == parent
    assert seen == found.registered, "what was said is there from the first moment on"
    again = registry.import_checkpoint(basis(), "mine", consent="open", certify=False)
    assert (again.digest, again.consent) == (first.digest, "patient-data"), (
        "the same as an import of the same files; the stricter word stays"
    )
    assert spool.waiting() == []
    assert [entry["action"] for entry in registry.audit("mine").entries] == ["register", "sync"] * 2
    spool.put(basis(), "mine", project="other")
    again = registry.sync(spool.folder)
    assert [item.reference for item in again.known] == [first.reference]
    assert registry.verify(first.reference).panel is not None, "what comes in is certified, also where it was here"
    assert registry.get(first.reference).project == "atlas"
    assert registry.sync(spool.folder).summary() == "Nothing waits in the spool."


def test_neither_the_trash_nor_a_spool_loosens_what_donors_agreed_to(
    made_home: Path,
    spool: Spool,
    basis: Callable[..., Path],
    imported: Callable[..., Any],
    put_in: Callable[..., ModelVersion],
) -> None:
    seen = []

    class Watching(Registry):
        """Looks at a version when it has come out of the trash."""

        def note(self, action: str, record: Any = None, details: Any = None, *, must: bool = True) -> None:
            if action == "restore":
                seen.append(self.get(record.reference).consent)
            super().note(action, record, details, must=must)

    registry = Watching()
    mine = put_in(registry, "mine")
    copy = put_in(registry, "copy")
    assert mine.digest == copy.digest
    registry.delete("mine/1")
    folder, tags, told = imported(8, "pretrained", None)
    back = registry.add_files("mine", folder, "scfm.pca", {**tags, consent.TAG: "patient-data"}, told)
    assert (back.reference, back.consent) == ("mine/1", "patient-data")
    assert seen == ["patient-data"], "nobody could see it without"
    assert registry.get("copy").consent == "patient-data", "the same files"
    registry.delete("mine/1")
    spool.put(basis(), "mine", consent="open", project="atlas")
    [found] = registry.sync(spool.folder, certify=False).registered
    assert (found.reference, found.project, found.consent) == ("mine/1", "atlas", "patient-data")
    assert seen == ["patient-data"] * 2


def test_what_was_changed_in_the_spool_stays_there_and_the_rest_comes_in(
    made_home: Path, spool: Spool, basis: Callable[..., Path]
) -> None:
    names = ["swapped", "more", "escape", "badname", "licence", "nothing"]
    entries = {name: spool.put(basis(), f"m-{name}") for name in names}
    spool.put(basis(), "benign")
    weights = entries["swapped"] / FILES / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (entries["more"] / FILES / "extra.json").write_text("{}")

    def edit(name: str, change: Callable[[dict[str, object]], None]) -> None:
        path = entries[name] / DESCRIPTION
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    edit("escape", lambda told: told["files"]["files"].update({"../x": {"sha256": "0" * 64, "size": 1}}))  # type: ignore[index]
    edit("badname", lambda told: told.update(name="../../etc"))
    edit("licence", lambda told: told.update(licence="MIT\x1b[2J\n"))
    (entries["nothing"] / DESCRIPTION).write_text("[" * 100_000)
    found = Registry().sync(spool.folder, certify=False)
    assert [item.name for item in found.registered] == ["benign"]
    assert set(found.refused) == {entry.name for entry in entries.values()}
    assert "is damaged" in found.refused[entries["swapped"].name]
    assert "is not part of this version" in found.refused[entries["more"].name]
    assert "A licence is named in one line" in found.refused[entries["licence"].name]
    assert len(spool.waiting()) == len(names)
    assert {item.name for item in Registry().search()} == {"benign", "pca", "sctop", "starter"}


def test_what_cannot_be_registered_is_not_put_there(home: Path, spool: Spool, basis: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name"):
        spool.put(basis(), "Not A Name")
    with pytest.raises(ModelError, match="Did you mean"):
        spool.put(basis(), "mine", consent="patientdata")
    with pytest.raises(ModelError, match="nothing that is said"):
        spool.put(basis(), "mine", colour="red")
    with pytest.raises(ModelError, match="named in one line"):
        spool.put(basis(), "mine", licence="MIT\n")
    with pytest.raises(ModelError, match="a version's digest"):
        spool.put(basis(), "mine", parent_digest="parent\n")
    with pytest.raises(ModelError, match="no checkpoint's folder"):
        spool.put("nowhere", "mine")
    assert spool.waiting() == []
    assert not spool.folder.exists() or not list(spool.folder.iterdir())


#: As clusters and laptops have them.
MOUNTS = r"""
/dev/nvme0n1p2 / ext4 rw,relatime 0 0
proc /proc proc rw,nosuid 0 0
systemd-1 /home autofs rw,relatime,fd=60 0 0
nas01.lab:/export/home /home nfs4 rw,vers=4.2,rsize=1048576,addr=10.0.0.7 0 0
10.0.0.8@o2ib:/scratch /scratch lustre rw,flock,lazystatfs 0 0
//files.lab/share\040one /mnt/share\040one cifs rw,vers=3.1.1 0 0
tmpfs /home/local tmpfs rw 0 0
anna@host:/ /home/anna/far fuse.sshfs rw,user_id=1000 0 0
beegfs_nodev /mnt/beegfs beegfs rw,relatime 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home", "nfs4"),
        ("/home/anna/.local/share/scfm-lab", "nfs4"),
        ("/homework", "ext4"),
        ("/home/local/x", "tmpfs"),
        ("/home/anna/far/x", "fuse.sshfs"),
        ("/scratch/a", "lustre"),
        ("/mnt/share one/x", "cifs"),
        ("/mnt/beegfs/x", "beegfs"),
    ],
)
def test_the_file_system_of_a_folder_is_found(folder: str, kind: str) -> None:
    assert mounts.kind_of(Path(folder), MOUNTS) == kind
    assert (kind in mounts.NETWORK) == (kind not in ("ext4", "tmpfs"))


def test_a_registry_on_a_network_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda1 / ext4 rw 0 0\nnas:/lab {str(tmp_path).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    with pytest.warns(RuntimeWarning, match=r"network file system \(nfs4\).*SCFM_HOME"):
        mounts.tell(tmp_path / "home")
    table.write_text("/dev/sda1 / ext4 rw 0 0\n")
    mounts.tell(tmp_path / "home")


def test_no_lineage_is_taken_in_that_leads_in_a_circle(
    made_home: Path, put_in: Callable[..., ModelVersion], imported: Callable[..., Any]
) -> None:
    del made_home
    registry = Registry()
    (first, tags, told), (second, _, _) = (imported(width, "pretrained", None) for width in (8, 7))
    unknown = "sha256:" + "a" * 64

    def add(name: str, folder: Path, parent: str) -> ModelVersion:
        return registry.add_files(name, folder, "scfm.pca", {**tags, "scfm.parent_digest": parent}, told)

    own = put_in(registry, "mine").digest
    below = add("below", second, own).digest
    for parent in (own, below):
        with pytest.raises(ModelError, match="does not lead in a circle"):
            add("again", first, parent)
    assert [item.name for item in registry.family_of(own)] == ["mine", "below"], "nothing was registered"
    registry.purge(registry.delete("below/1").reference)
    assert add("below", second, unknown).tags["scfm.parent_digest"] == unknown, "one that is not here is no circle"


def test_an_entry_that_cannot_be_put_away_holds_up_no_other(
    made_home: Path, spool: Spool, basis: Callable[..., Path]
) -> None:
    del made_home
    entries = {spool.put(basis(width=width), f"m-{width}").name for width in (2, 3)}
    (spool.folder / "done").write_text("in the way")
    found = Registry().sync(spool.folder, certify=False)
    assert {item.name for item in found.registered} == {"m-2", "m-3"}
    assert set(found.refused) == entries
    assert "it is registered (m-2/1), but cannot be put away" in found.summary()
    (spool.folder / "done").unlink()
    assert len(Registry().sync(spool.folder, certify=False).known) == 2
    assert spool.waiting() == []


@contextmanager
def _as_somebody_else() -> Iterator[None]:
    """Who runs the tests as root may read everything: within, as a user who may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_entry_has_the_rights_of_its_spool_and_a_closed_one_is_said(
    made_home: Path, basis: Callable[..., Path]
) -> None:
    registry = Registry()
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name) / "spool")
        spool.folder.mkdir()
        Path(name).chmod(0o755)
        for rights, expected in ((0o770, (0o770, 0o660)), (0o777, (0o775, 0o664)), (0o755, (0o755, 0o644))):
            spool.folder.chmod(rights)
            entry = spool.put(basis(), "mine")
            found = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (entry, *entry.rglob("*"))}
            assert (found[True], found[False]) == expected
        closed, file, last = spool.waiting()
        closed.chmod(0)
        (file / FILES / "model.safetensors").chmod(0)
        (last / DESCRIPTION).unlink()
        with _as_somebody_else():
            told = registry.sync(spool.folder)
            assert len(spool.waiting()) == 2
        closed.chmod(0o755)
    assert list(told.refused) == [closed.name, file.name]
    assert "may not be read" in told.refused[closed.name]
    assert "model.safetensors" in told.refused[file.name]
