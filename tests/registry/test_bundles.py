"""A version as one file: the same here as there, signed by somebody who is known, or refused with nothing registered."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scfm_lab.cli import main
from scfm_lab.errors import ModelError
from scfm_registry import Registry, certificate, consent, manifest, names, panel
from scfm_registry.sharing import bundle as bundles
from scfm_registry.sharing import parents
from scfm_registry.sharing.keys import Keyring, Signer

if TYPE_CHECKING:
    from collections.abc import Callable

PCA = "pca"


@pytest.fixture(scope="module")
def _shared_home(_made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for this file: what is refused leaves no trace in it."""
    return Path(shutil.copytree(_made_home, tmp_path_factory.mktemp("bundles") / "home"))


@pytest.fixture
def registry(_shared_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    del home  # for the working directory and the environment that it sets
    monkeypatch.setenv("SCFM_HOME", str(_shared_home))
    shutil.rmtree(_shared_home / "keys", ignore_errors=True)
    return Registry()


@pytest.fixture
def exported(registry: Registry, tmp_path: Path) -> bundles.Bundle:
    """A signed bundle of a small version."""
    return registry.export_bundle(PCA, tmp_path / "pca.scfm")


@pytest.fixture
def elsewhere(exported: bundles.Bundle, registry: Registry) -> Registry:
    """Another lab's registry, whose keyring is empty; `exported` is there already."""
    del exported
    shutil.rmtree(Keyring().folder)
    return registry


def _state(registry: Registry) -> dict[str, str]:
    """Everything that is registered, and every file of it."""
    folder = registry.scratch
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "artifacts").rglob("*"))
        if path.is_file()
    }
    found |= {item.reference: json.dumps(item.tags, sort_keys=True) for item in registry.search(all_versions=True)}
    assert not list(folder.glob(".incoming-*"))
    return found


def _parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _put(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def _signed(path: Path, parts: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> tuple[Path, Signer]:
    """A bundle with another document, rightly signed by somebody: what a signer with bad intent can make."""
    keyring = Keyring()
    signer = next((item for item in keyring.own() if item.name == "mallory"), None) or keyring.make("mallory")
    document = json.loads(parts[bundles.DOCUMENT])
    document["signer"] = {"name": signer.name, "public": base64.b64encode(signer.public).decode()}
    change(document)
    content = bundles._json(document)
    signature = base64.b64encode(keyring.sign(signer, bundles._PURPOSE + content)).decode()
    parts = {**parts, bundles.DOCUMENT: content, bundles.SIGNATURE: bundles._json({"signature": signature})}
    return _put(path, parts), signer


def test_the_same_version_and_key_give_the_same_bytes(registry: Registry, tmp_path: Path) -> None:
    first = registry.export_bundle(PCA, tmp_path / "a.scfm")
    registry.export_bundle(PCA, tmp_path / "b.scfm")
    assert (tmp_path / "a.scfm").read_bytes() == (tmp_path / "b.scfm").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.scfm") as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {"files/manifest.json", "files/model.safetensors", "files/card.md", "LICENCE.md"} < set(names)
    assert first.signer is not None
    assert "BSD-3-Clause" in first.summary()
    with pytest.raises(ModelError, match="There is a file"):
        registry.export_bundle(PCA, tmp_path / "a.scfm")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".scfm") == ["a.scfm", "b.scfm"]


def test_a_version_is_the_same_in_another_lab(exported: bundles.Bundle, elsewhere: Registry) -> None:
    assert exported.signer is not None
    asked: list[str] = []

    def yes(signer: Signer) -> bool:
        asked.append(signer.fingerprint)
        return True

    before = _state(elsewhere)
    with pytest.raises(ModelError, match="not known here; nothing was imported") as caught:
        elsewhere.import_bundle(exported.path, name="theirs", ask=lambda _: False)
    assert f"--trust {exported.signer.fingerprint}" in str(caught.value)
    assert _state(elsewhere) == before
    done = elsewhere.import_bundle(exported.path, name="theirs", ask=yes)
    assert asked == [exported.signer.fingerprint]
    original = elsewhere.get(PCA)
    assert (done.digest, done.licence, done.commercial) == (original.digest, original.licence, original.commercial)
    assert done.origin == "bundle"
    assert elsewhere.verify("theirs").ok
    # Who was asked about once is known, by this key and no other.
    [known] = Keyring().all()
    assert (known.name, known.fingerprint, known.own) == (exported.signer.name, exported.signer.fingerprint, False)
    assert bundles.accept(exported, trust=None, ask=None, unsigned=False) is None


def test_a_signers_name_with_another_key_is_refused(exported: bundles.Bundle, elsewhere: Registry) -> None:
    assert exported.signer is not None
    Keyring().trust(Signer(exported.signer.name, bytes(32)))
    before = _state(elsewhere)
    for trust in (None, exported.signer.fingerprint):
        with pytest.raises(ModelError, match="is known here by another key"):
            elsewhere.import_bundle(exported.path, name="theirs", trust=trust, ask=lambda _: True)
    assert _state(elsewhere) == before
    Keyring().forget(exported.signer.name)
    assert bundles.accept(exported, trust=exported.signer.fingerprint, ask=None, unsigned=False) == exported.signer


def test_who_does_not_sign_must_be_taken_so(registry: Registry, tmp_path: Path) -> None:
    bundle = registry.export_bundle(PCA, tmp_path / "pca.scfm", sign=False)
    assert not Keyring().folder.exists(), "nobody needed a key"
    with pytest.raises(ModelError, match="--unsigned"):
        registry.import_bundle(bundle.path, name="theirs", ask=lambda _: True)
    assert bundles.accept(bundle, trust=None, ask=None, unsigned=True) is None


def test_the_licence_in_full_and_the_card_go_with_it(exported: bundles.Bundle) -> None:
    parts = _parts(exported.path)
    licence = parts["LICENCE.md"].decode()
    assert "Commercial use is allowed. Keep the licence" in licence
    assert "Redistributions of source code must retain" in licence
    assert parts["CARD.md"].decode().startswith("# pca/1")


@pytest.fixture
def other_home(_made_home: Path, tmp_path: Path) -> Path:
    """The home of another lab, with an empty keyring."""
    return Path(shutil.copytree(_made_home, tmp_path / "there"))


@pytest.fixture
def grown(registry: Registry) -> Registry:
    """A registry with a version that was made from one that was made from `starter`."""
    there = {item.name for item in registry.search()}
    for parent, name in (("starter", "mother"), ("mother", "daughter")):
        if name in there:
            continue
        model = registry.load(parent, device="cpu", precision="float32")
        model.net.norm.bias.data.add_(0.25)
        registry.register(model, name, parent=parent, certify=False)
    return registry


def test_what_was_fine_tuned_opens_in_a_lab_without_its_parents(
    grown: Registry, other_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pbmc68k: Any
) -> None:
    here = grown.get("daughter")
    made = grown.certify("daughter")
    bundle = grown.export_bundle("daughter", tmp_path / "daughter.scfm")
    thin = grown.export_bundle("daughter", tmp_path / "thin.scfm", parents=False)
    assert [item.name for item in bundle.parents] == [item.name for item in thin.parents] == ["mother", "starter"]
    assert (len(bundle.carried), len(thin.carried)) == (2, 0)
    assert "their files are not in it" in thin.summary()
    tokens = grown.load("daughter", device="cpu").tokenize(pbmc68k[:20].copy())
    vectors = grown.load("daughter", device="cpu").encode(tokens).cell

    # Another lab: its registry knows what comes with scfm-lab, and nobody's key.
    monkeypatch.setenv("SCFM_HOME", str(other_home))
    there = Registry()
    assert bundle.signer is not None
    trust = {"trust": bundle.signer.fingerprint}
    before = _state(there)
    with pytest.raises(ModelError, match="neither in it nor here; nothing was imported"):
        there.import_bundle(thin.path, **trust)
    assert _state(there) == before
    done = there.import_bundle(bundle.path, **trust)
    assert (done.digest, done.kind) == (here.digest, "fine-tuned")
    assert [node.reference for node in there.lineage("daughter").ancestors] == ["mother/1", "starter/1"]
    np.testing.assert_array_equal(there.load("daughter", device="cpu").encode(tokens).cell, vectors)
    # The certificate of the lab that it comes from holds here.
    result = there.verify("daughter")
    assert result.ok
    assert result.panel is not None
    assert there.get("daughter").tags["scfm.certificate.run"] != made.run
    assert "scfm.certificate.run" in there.get("mother").tags, "what came without one was given its own"
    # And so do classrooms: a mirror of the daughter has its parents in it.
    mirrored = there.mirror(tmp_path / "mirror", ["daughter"])
    assert {item.name for item in mirrored.versions} == {"daughter", "mother", "starter"}


def test_a_parents_consent_keeps_its_children_here(grown: Registry, tmp_path: Path) -> None:
    grown.client.set_model_version_tag("mother", "1", consent.TAG, "patient-data")
    with pytest.raises(ModelError, match=r"mother/1 does not leave"):
        grown.export_bundle("daughter", tmp_path / "daughter.scfm")
    with pytest.raises(ModelError, match=r"mother/1 does not leave"):
        grown.export_published("daughter", tmp_path / "files")
    assert not (tmp_path / "files").exists()
    grown.client.delete_model_version_tag("mother", "1", consent.TAG)


def test_a_path_is_no_way_round_consent(grown: Registry, tmp_path: Path) -> None:
    """A folder that is a version here, or was made from one, goes out as that version does, or not at all."""
    from safetensors.numpy import load_file, save_file

    def folder_of(name: str) -> Path:
        path = shutil.copytree(grown.resolve(name).path, tmp_path / name)
        for own in (manifest.FILENAME, manifest.SERVING):
            (path / own).unlink()
        return Path(path)

    saved, plain = folder_of("daughter"), folder_of("starter")
    tensors = load_file(saved / "changes.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, plain.with_name("further.safetensors"))
    further = Path(shutil.copytree(saved, tmp_path / "further"))
    plain.with_name("further.safetensors").replace(further / "changes.safetensors")
    for path, held, named in (
        (saved, "daughter", "daughter"),
        (saved, "mother", "mother"),
        (further, "mother", "mother"),
        (further, "starter", "starter"),
        (plain, "starter", "starter"),
        (grown.resolve("daughter").path, "daughter", "daughter"),
    ):
        grown.client.set_model_version_tag(held, "1", consent.TAG, "patient-data")
        with pytest.raises(ModelError, match=rf"{named}/1 does not leave"):
            grown.export_published(path, tmp_path / "files")
        assert not (tmp_path / "files").exists()
        grown.client.delete_model_version_tag(held, "1", consent.TAG)
    grown.delete("daughter/1")
    grown.client.set_model_version_tag("daughter", "1", consent.TAG, "patient-data")
    with pytest.raises(ModelError, match=r"daughter/1 does not leave"):
        grown.export_published(saved, tmp_path / "files")
    grown.client.delete_model_version_tag("daughter", "1", consent.TAG)
    grown.restore("daughter/1")
    done = grown.export_published(further, tmp_path / "files")
    assert done.duties
    assert done.duties in (tmp_path / "files" / "LICENCE.md").read_text()
    last = grown.audit("mother").entries[-1]
    assert (last["action"], last["reference"]) == ("export", "mother/1")
    assert last["details"] == {"to": "files", "format": "published", "from": "further"}


def test_a_parent_of_which_only_the_digest_is_known_stops_nothing_that_opens_without(
    grown: Registry, tmp_path: Path
) -> None:
    digest = "sha256:" + "1" * 64
    grown.client.set_model_version_tag(PCA, "1", parents.TAG, digest)
    assert parents.places(grown, *grown._find(names.parse(PCA))) == {}, "what a measurement opens beside it"
    assert [item.name for item in grown.mirror(tmp_path / "mirror", [PCA]).versions] == [PCA]
    bundle = grown.export_bundle(PCA, tmp_path / "pca.scfm")
    assert f"Made from {digest}, of which no more is known" in bundle.summary()
    taken = grown.import_bundle(bundle.path, name="orphan")
    assert (taken.digest, taken.tags[parents.TAG]) == (bundle.digest, digest)
    grown.client.delete_model_version_tag(PCA, "1", parents.TAG)
    # What is kept as changes of its parent does not open without it.
    right = grown.get("mother").tags[parents.TAG]
    grown.client.set_model_version_tag("mother", "1", parents.TAG, digest)
    for leave in (grown.export_bundle, lambda name, folder: grown.mirror(folder, [name])):
        with pytest.raises(ModelError, match=f"has the digest {digest}"):
            leave("daughter", tmp_path / "daughter")
    assert not (tmp_path / "daughter").exists()
    grown.client.set_model_version_tag("mother", "1", parents.TAG, right)


def _swap(parts: dict[str, bytes]) -> None:
    parts["files/model.safetensors"] = parts["files/model.safetensors"][:-1] + b"\x01"


def _add(parts: dict[str, bytes]) -> None:
    parts["files/more.json"] = b"{}"


def _add_beside(parts: dict[str, bytes]) -> None:
    parts["code.py"] = b"import os"


def _drop(parts: dict[str, bytes]) -> None:
    del parts["files/card.md"]


def _document(parts: dict[str, bytes]) -> None:
    parts["bundle.json"] = parts["bundle.json"].replace(b'"name":"pca"', b'"name":"pcb"')


def _no_signature(parts: dict[str, bytes]) -> None:
    del parts["signature.json"]


def _doubled_key(parts: dict[str, bytes]) -> None:
    parts["bundle.json"] = b'{"schema":1,' + parts["bundle.json"][1:]


def _manifest(parts: dict[str, bytes]) -> None:
    parts["files/manifest.json"] = parts["files/manifest.json"].replace(b"scfm.pca", b"scfm.sct")


def _no_document(parts: dict[str, bytes]) -> None:
    del parts["bundle.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_swap, r"files/model\.safetensors is not the file that was listed"),
        (_add, r"holds 'files/more\.json', which is not on its list"),
        (_add_beside, r"holds 'code\.py', which is not on its list"),
        (_drop, r"files/card\.md is missing"),
        (_document, "changed after it was signed"),
        (_no_signature, "holds no signature"),
        (_doubled_key, "is no bundle"),
        (_manifest, r"files/manifest\.json is not the file"),
        (_no_document, "is no bundle"),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else "",
)
def test_what_was_changed_on_the_way_is_refused(
    exported: bundles.Bundle, registry: Registry, tmp_path: Path, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    parts = _parts(exported.path)
    change(parts)
    before = _state(registry)
    with pytest.raises(ModelError, match=words) as caught:
        registry.import_bundle(_put(tmp_path / "bad.scfm", parts), name="theirs")
    assert str(tmp_path / "bad.scfm") in str(caught.value)
    assert _state(registry) == before


def _elsewhere(document: dict[str, Any]) -> None:
    document["files"]["../../trap"] = {"sha256": "0" * 64, "size": 1}


def _outside(document: dict[str, Any]) -> None:
    document["files"]["trap"] = document["files"]["LICENCE.md"]


def _plugin(document: dict[str, Any]) -> None:
    document["family"] = "os"


def _kind(document: dict[str, Any]) -> None:
    document["kind"] = "<script>"


def _name(document: dict[str, Any]) -> None:
    document["name"] = "../../etc"


def _digest(document: dict[str, Any]) -> None:
    document["digest"] = "sha256:" + "0" * 64


def _no_such_parent(document: dict[str, Any]) -> None:
    document["tags"]["scfm.parent_digest"] = "sha256:" + "0" * 64


def _licence(document: dict[str, Any]) -> None:
    document["licence"] = "MIT\x1b[2J\n"


def _newer(document: dict[str, Any]) -> None:
    document["schema"] = 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_elsewhere, r"lists '\.\./\.\./trap', which has no place in a bundle"),
        (_outside, "lists 'trap', which has no place"),
        (_plugin, "needs the model plugin 'os', which is not installed"),
        (_kind, "says it is of the kind"),
        (_name, "cannot be a model's name"),
        (_digest, "not the manifest that was registered"),
        (_no_such_parent, "were not made from one another as it says"),
        (_licence, "is no bundle that this scfm-lab reads"),
        (_newer, "is no bundle that this scfm-lab reads"),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else "",
)
def test_a_signature_makes_nothing_true(
    exported: bundles.Bundle, registry: Registry, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    path, signer = _signed(tmp_path / "bad.scfm", _parts(exported.path), change)
    before = _state(registry)
    with pytest.raises(ModelError, match=words):
        registry.import_bundle(path, trust=signer.fingerprint, name=None if change is _name else "theirs")
    assert _state(registry) == before
    assert not (tmp_path / "trap").exists()


def _of_another(record: dict[str, Any], vectors: np.ndarray) -> None:
    del vectors
    record["digest"] = "sha256:" + "0" * 64


def _other_vectors(record: dict[str, Any], vectors: np.ndarray) -> None:
    del record
    vectors += 1


def _no_settings(record: dict[str, Any], vectors: np.ndarray) -> None:
    del record["settings"], vectors


def _fewer_cells(record: dict[str, Any], vectors: np.ndarray) -> None:
    del vectors
    record["cells"] -= 1


def test_a_certificate_that_is_not_the_versions_is_refused(
    exported: bundles.Bundle, registry: Registry, tmp_path: Path
) -> None:
    parts, before = _parts(exported.path), _state(registry)
    for change in (None, _of_another, _other_vectors, _no_settings, _fewer_cells, "no vectors"):
        vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
        record: dict[str, Any] = {
            "schema": certificate.SCHEMA,
            "panel": panel.SOURCE,
            "cells": 4,
            "digest": exported.digest,
            "settings": {"device": "cpu", "precision": "float32"},
            "hashes": {**dict.fromkeys(panel.STAGES, "0" * 64), "vectors": panel._hash(vectors)},
        }
        if callable(change):
            change(record, vectors)
        told = {
            f"{bundles.EVIDENCE}{certificate.DOCUMENT}": json.dumps(record).encode(),
            f"{bundles.EVIDENCE}{certificate.VECTORS}": b"none"
            if change == "no vectors"
            else certificate.packed(vectors),
        }
        listed = {name: {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)} for name, text in told.items()}
        path, signer = _signed(
            tmp_path / "bad.scfm", {**parts, **told}, lambda document, more=listed: document["files"].update(more)
        )
        if change is None:
            (tmp_path / "good").mkdir()
            bundles.unpack(path, tmp_path / "good")
            assert certificate.given(tmp_path / "good" / bundles.EVIDENCE, exported.digest, "") is not None
            continue
        with pytest.raises(ModelError, match="the certificate in it is n") as caught:
            registry.import_bundle(path, trust=signer.fingerprint, name="theirs")
        assert str(path) in str(caught.value)
        assert _state(registry) == before


def test_a_bundle_of_before_parents_were_told_is_read(exported: bundles.Bundle, tmp_path: Path) -> None:
    path, _ = _signed(tmp_path / "old.scfm", _parts(exported.path), lambda document: document.pop("parents"))
    (tmp_path / "unpacked").mkdir()
    assert bundles.unpack(path, tmp_path / "unpacked").digest == exported.digest


def test_measurements_of_another_machine_are_not_taken_over(exported: bundles.Bundle) -> None:
    from scfm_registry.sharing.sharer import _carried

    claimed = {"scfm.speed.cpu.best_cpm": "1e99", "scfm.weights": "sha256:" + "a" * 64, "scfm.parent_digest": "a\nb"}
    forged = bundles.Bundle(**{**vars(exported), "tags": claimed, "commercial": False})
    assert _carried(forged) == {
        "scfm.origin": "bundle",
        "scfm.signer": exported.signer.name if exported.signer else "",
        "scfm.weights": "sha256:" + "a" * 64,
        "scfm.commercial": "false",
    }


def test_a_consent_tag_keeps_a_version_here(registry: Registry, tmp_path: Path) -> None:
    registry.client.set_model_version_tag(PCA, "1", consent.TAG, "no-sharing")
    with pytest.raises(ModelError, match="does not leave this registry"):
        registry.export_bundle(PCA, tmp_path / "pca.scfm")
    with pytest.raises(ModelError, match="does not leave this registry"):
        registry.mirror(tmp_path / "mirror", [PCA])
    assert not (tmp_path / "pca.scfm").exists()
    assert not (tmp_path / "mirror").exists()
    registry.client.set_model_version_tag(PCA, "1", consent.TAG, consent.OPEN)
    registry.export_bundle(PCA, tmp_path / "pca.scfm")
    registry.client.delete_model_version_tag(PCA, "1", consent.TAG)


def test_a_private_key_is_for_its_owner_alone(home: Path) -> None:
    keyring = Keyring()
    signer = keyring.make("ana-lab")
    path = keyring.folder / "ana-lab.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keyring.folder.stat().st_mode) == 0o700
    assert keyring.signer() == signer
    path.chmod(0o644)
    with pytest.raises(ModelError, match="chmod 600"):
        keyring.sign(signer, b"x")
    path.chmod(0o600)
    with pytest.raises(ModelError, match="already"):
        keyring.make("ana-lab")
    keyring.make("ben")
    with pytest.raises(ModelError, match="several keys"):
        keyring.signer()
    for name in ("../x", "Ana", ""):
        with pytest.raises(ModelError, match="cannot be a signer's name"):
            keyring.make(name or "-")
    path.write_text("no key")
    with pytest.raises(ModelError, match="damaged or no key"):
        keyring.own()


def test_the_commands(
    exported: bundles.Bundle, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, err = run("models", "export", "sctop", "-o", str(tmp_path / "sctop.scfm"), "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["digest"] == registry.get("sctop").digest
    assert "Commercial use is allowed" in told["obligations"]
    code, out, _ = run("models", "keys", "--json")
    assert [item["fingerprint"] for item in json.loads(out)["keys"]] == [told["signer"]["fingerprint"]]
    path, signer = _signed(tmp_path / "theirs.scfm", _parts(exported.path), lambda _: None)
    (Keyring().folder / "mallory.key").unlink()
    code, out, err = run("models", "import-bundle", str(path), "--name", "theirs", "--yes")
    assert (code, out) == (1, "")
    assert f"--trust {signer.fingerprint}" in err
    assert run("models", "keys", "--forget", "nobody")[0] == 1
    assert run("models", "keys", "--make", "ana", "--forget", "ben")[0] == 2
