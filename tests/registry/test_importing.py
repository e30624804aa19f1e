"""A checkpoint that somebody brings: taken when it is data of a known family, refused in words otherwise."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scfm_lab import load_model
from scfm_lab.errors import Cancelled, ModelError
from scfm_registry import Registry, doctor, importing, licences, manifest, measuring, names, tuned, version, workers
from scfm_registry.checking import check
from scfm_registry.serving import _load_pyfunc
from scfm_registry.sharing import parents

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scfm_registry.version import ModelVersion


@pytest.fixture
def registry(made_home: Path) -> Registry:
    return Registry()


@pytest.fixture(scope="module")
def pca_spec() -> Any:
    return load_model("pca").spec


def _nothing_was_registered(registry: Registry) -> None:
    assert "mine" not in [item.name for item in registry.search(all_versions=True)]
    left = [item.name for item in registry.scratch.iterdir()]
    assert not [name for name in left if name.startswith(".incoming-")]


def test_a_folder_is_taken_with_its_subfolders_and_without_hidden_files(
    registry: Registry, basis: Callable[..., Path]
) -> None:
    folder = basis()
    (folder / "notes").mkdir()
    (folder / "notes" / "training.txt").write_text("seed 0")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".DS_Store").write_bytes(b"x")
    registry.import_checkpoint(folder, "mine", certify=False)
    kept = registry.resolve("mine").path
    assert (kept / "notes" / "training.txt").read_text() == "seed 0"
    assert not (kept / ".git").exists()
    assert not (kept / ".DS_Store").exists()


def test_what_is_left_out_does_not_change_what_a_version_is(registry: Registry, basis: Callable[..., Path]) -> None:
    folder = basis()
    plain = registry.import_checkpoint(folder, "mine", certify=False)
    for name in ("training.log", "figure.png", "optimizer.pt"):
        (folder / name).write_bytes(b"state")
    added = registry.import_checkpoint(folder, "mine", certify=False)
    assert (added.reference, added.digest) == ("mine/1", plain.digest)
    assert added.remarks == ("left out: figure.png, optimizer.pt, training.log",)
    other = registry.import_checkpoint(folder, "other", certify=False)
    assert other.digest == plain.digest
    (line,) = [entry for entry in registry.audit("other").entries if entry["action"] == "register"]
    assert line["details"]["left_out"] == ["figure.png", "optimizer.pt", "training.log"]


def test_what_a_checkpoint_is_said_to_be_made_from_holds_for_it(
    registry: Registry, basis: Callable[..., Path], put_in: Callable[..., ModelVersion]
) -> None:
    parent = put_in(registry, "parent", licence="CC-BY-NC-4.0")
    registry.annotate("parent/1", consent="patient-data")
    child = registry.import_checkpoint(basis(width=5), "child", parent="parent/1", certify=False)
    assert child.tags["scfm.parent_digest"] == parent.digest
    assert (child.consent, child.licence, child.commercial) == ("patient-data", "CC-BY-NC-4.0", False)
    assert [node.reference for node in registry.lineage("child").ancestors] == ["parent/1"]
    assert registry.load("child", device="cpu").spec.width == 5
    with pytest.raises(ModelError, match="does not lead in a circle"):
        registry.import_checkpoint(basis(width=8), "again", parent="child/1", certify=False)
    with pytest.raises(ModelError, match="No model is called 'nowhere'"):
        registry.import_checkpoint(basis(width=3), "third", parent="nowhere", certify=False)
    registry.import_checkpoint(basis(width=3), "third", certify=False)
    with pytest.raises(ModelError, match=r"are third/1, which was registered without parent/1"):
        registry.import_checkpoint(basis(width=3), "third", parent="parent/1", certify=False)
    registry.retract("parent/1", because="a test")
    assert "parent/1" in registry.get("child").retracted


def test_what_is_said_of_a_parent_goes_with_a_bundle(
    registry: Registry, basis: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = registry.import_checkpoint(basis(width=5), "child", parent="pca/1", certify=False)
    bundle = registry.export_bundle("child", tmp_path / "child.scfm")
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "elsewhere"))
    there = Registry()
    there.import_bundle(bundle.path, ask=lambda _: True, certify=False)
    assert there.get("child").digest == child.digest
    assert [node.reference for node in there.lineage("child").ancestors] == ["pca/1"]


def test_what_was_registered_does_not_change_with_the_folder_it_came_from(
    registry: Registry, basis: Callable[..., Path]
) -> None:
    folder = basis()
    registry.import_checkpoint(folder, "mine", certify=False)
    (folder / "model.safetensors").write_bytes(b"something else")
    assert registry.verify("mine").ok


def test_a_basis_that_was_fitted_here_is_registered_as_a_baseline(registry: Registry, pbmc68k: AnnData) -> None:
    fitted = load_model("pca").fit(pbmc68k, n_components=5)
    kept = registry.register(fitted, "ours", certify=False)
    assert (kept.kind, kept.family) == ("baseline", "scfm.pca")
    np.testing.assert_array_equal(registry.load("ours").components, fitted.components)
    assert registry.register(fitted, "ours", certify=False).reference == kept.reference
    with pytest.raises(ModelError, match="fitted to cells and made from no other version"):
        registry.register(fitted, "theirs", parent="pca/1")


def test_a_link_within_the_folder_is_taken_as_the_file_it_is(registry: Registry, basis: Callable[..., Path]) -> None:
    folder = basis()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    registry.import_checkpoint(folder, "mine", certify=False)
    assert not (registry.resolve("mine").path / "model.safetensors").is_symlink()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pkl", ".ckpt", ".PTH"])
def test_pickles_with_code_are_refused_and_nothing_of_them_runs(
    registry: Registry,
    basis: Callable[..., Path],
    read_as_an_import: Callable[[Path], None],
    suffix: str,
    tmp_path: Path,
) -> None:
    folder = basis()
    read = functools.partial(registry.import_checkpoint, name="mine") if suffix == ".pt" else read_as_an_import
    trap = tmp_path / "trap"
    # What os.system("touch …") looks like in a pickle.
    (folder / f"model{suffix}").write_bytes(b"cposix\nsystem\n(S'touch " + os.fsencode(trap) + b"'\ntR.")
    with pytest.raises(ModelError, match=r"holds posix\.system, which is code and not data; nothing of it was run"):
        read(folder)
    assert not trap.exists()
    _nothing_was_registered(registry)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "model.py").write_text("print(1)"), "not taken into the registry"),
        (lambda p: (p / "genes.json").symlink_to("/etc/hostname"), "leads out of the folder"),
        (lambda p: os.mkfifo(p / "genes.json"), "not a plain file"),
        (lambda p: (p / "config.json").write_text('{"family": "unheard-of"}'), "of no family known here"),
        (lambda p: (p / "config.json").unlink(), "of no family known here"),
        (lambda p: (p / "vocabulary.csv").unlink(), "vocabulary.*missing"),
        (lambda p: (p / "vocabulary.csv").write_text("symbol,ensembl\nCD3D,ENSG1\n"), "do not belong together"),
    ],
    ids=["code", "link outside", "pipe", "unknown family", "no configuration", "no vocabulary", "another vocabulary"],
)
def test_a_folder_that_is_no_checkpoint_is_refused(
    registry: Registry, basis: Callable[..., Path], spoil: Callable[[Path], object], words: str
) -> None:
    folder = basis()
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        registry.import_checkpoint(folder, "mine", certify=False)
    assert ".incoming-" not in str(caught.value), "the message speaks of the folder that its reader knows"
    _nothing_was_registered(registry)


def _header(document: dict[str, object], data: bytes = b"") -> bytes:
    head = json.dumps(document).encode()
    return len(head).to_bytes(8, "little") + head + data


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"cposix\nsystem\n(S'true'\ntR.",
        (2**63).to_bytes(8, "little") + b"{}",
        _header({"mean": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        _header(
            {
                "components": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
                "mean": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        _header(
            {
                "components": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
                "mean": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
            },
            np.array([1, np.nan, np.inf, 0], "<f4").tobytes(),
        ),
    ],
    ids=["empty", "pickle renamed", "header of 2^63 bytes", "absurd shape", "overlapping offsets", "NaN and infinity"],
)
def test_hostile_weights_are_refused(
    registry: Registry, basis: Callable[..., Path], read_as_an_import: Callable[[Path], None], weights: bytes
) -> None:
    folder = basis()
    read = read_as_an_import if weights else functools.partial(registry.import_checkpoint, name="mine")
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read(folder)
    _nothing_was_registered(registry)


def test_paths_that_are_no_folder_are_refused(registry: Registry, basis: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint at"):
        registry.import_checkpoint(tmp_path / "nowhere", "mine")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        registry.import_checkpoint(basis() / "model.safetensors", "mine")


def test_what_a_killed_import_left_is_cleared_once_it_is_old(registry: Registry, basis: Callable[..., Path]) -> None:
    old, young = registry.scratch / ".incoming-old", registry.scratch / ".incoming-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(old, (0, 0))
    registry.import_checkpoint(basis(), "mine", certify=False)
    assert not old.exists()
    assert young.exists(), "somebody may still be working in it"


def test_an_import_on_a_system_without_the_filter_says_so(
    registry: Registry, basis: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reading process is a real one, and takes its processor for one whose system calls are not known.
    reader = tmp_path / "python"
    code = "import platform, runpy; platform.machine = lambda: 'other'; runpy.run_module('scfm_registry.import_worker', run_name='__main__')"
    reader.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}"\n')
    reader.chmod(0o755)
    monkeypatch.setattr(workers, "PYTHON", (str(reader),))
    monkeypatch.setattr(workers, "_forking", workers.Forking([str(reader)]))
    monkeypatch.setattr("scfm_registry.confining._known", lambda: None)
    with pytest.warns(RuntimeWarning, match="was not kept from the network: this system has no filter"):
        added = registry.import_checkpoint(basis(), "mine", certify=False)
    assert added.tags["scfm.isolation"] == "no network filter"
    entry = registry.audit("mine").entries[0]
    assert (entry["action"], entry["details"]["isolation"]) == ("register", "no network filter")
    assert [state for about, state, _ in doctor.check() if about == "isolation"] == ["note"]
    assert [item.state for item in check() if item.what == "isolation"] == ["note"]


@pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")
def test_where_the_filter_is_nothing_is_said_of_it(registry: Registry, put_in: Callable[..., ModelVersion]) -> None:
    added = put_in(registry, "mine")
    assert "scfm.isolation" not in added.tags
    assert "isolation" not in registry.audit("mine").entries[0]["details"]
    assert [state for about, state, _ in doctor.check() if about == "isolation"] == ["ok"]
    assert [item.state for item in check() if item.what == "isolation"] == ["ok"]


@pytest.mark.parametrize("name", ["Mine", "a..b", "../mine", "x" * 70, ""])
def test_names_are_checked_before_anything_is_read(registry: Registry, name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name"):
        registry.import_checkpoint(tmp_path / "nowhere", name)
    with pytest.raises(ModelError, match="no kind 'mine'"):
        registry.import_checkpoint(tmp_path / "nowhere", "fine", kind="mine")


def test_an_import_that_is_stopped_registers_nothing(
    registry: Registry, basis: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled, match="nothing was registered"):
        registry.import_checkpoint(basis(), "mine", cancel=cancel)
    _nothing_was_registered(registry)
    # Also where it comes once the files have been read, or while they are fetched.
    cancel.clear()
    read = importing.locked

    def late(*given: Any) -> dict[str, Any]:
        answer = read(*given)
        cancel.set()
        return answer

    monkeypatch.setattr(importing, "locked", late)
    with pytest.raises(Cancelled):
        registry.import_checkpoint(basis(), "mine", cancel=cancel)
    _nothing_was_registered(registry)
    with pytest.raises(Cancelled):
        importing.heeding(False, cancel)(1, 2)


def test_a_family_whose_plugin_is_gone_is_said(registry: Registry, put_in: Callable[..., ModelVersion]) -> None:
    put_in(registry, "mine", family="other.family")
    with pytest.raises(ModelError, match=r"needs the model plugin 'other\.family', which is not installed"):
        registry.load("mine")


def _forged(mirror: Path, change: Callable[[Path], object]) -> None:
    """Change the one version of a mirror and everything that tells of its bytes, as who broke into its machine would."""
    index = json.loads((mirror / "mirror.json").read_text())
    (told,) = index["versions"]
    folder = mirror / "versions" / told["tags"]["scfm.digest"].removeprefix("sha256:")
    change(folder)
    described = manifest.describe(folder, told["tags"]["scfm.family"])
    (folder / manifest.FILENAME).write_bytes(described.canonical())
    (folder / manifest.SERVING).write_bytes(manifest.serving(described.digest))
    folder.rename(folder.with_name(described.digest.removeprefix("sha256:")))
    told["tags"]["scfm.digest"] = described.digest
    (mirror / "mirror.json").write_text(json.dumps(index))


def _with_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["mean"][0] = np.nan
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with_nan, "NaN"),
        (
            lambda folder: (folder / "best_model.pt").write_bytes(b"cos\nsystem\n."),
            r"best_model\.pt is of a kind that no",
        ),
        (lambda folder: (folder / "run.py").write_text("1"), r"run\.py is of a kind that no registry keeps"),
    ],
    ids=["NaN", "a pickle", "a program"],
)
def test_what_others_put_into_a_mirror_is_read_by_the_locked_process_first(
    registry: Registry, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    registry.mirror(tmp_path / "mirror", ["pca"])
    _forged(tmp_path / "mirror", change)
    mirror = Registry(tmp_path / "mirror")
    for opened in (
        mirror.load,
        mirror.resolve,
        lambda name: _load_pyfunc(str(mirror._store.files(mirror._find(names.parse(name))[1]))),
    ):
        with pytest.raises(ModelError, match=words):
            opened("pca")


def test_what_others_put_into_a_folder_is_not_measured_compared_or_signed_before_that_process_has_read_it(
    registry: Registry, put_in: Callable[..., ModelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(registry, "mine")
    record = registry._store.record("mine", 1)
    assert record is not None
    folder = registry._store.files(record)
    assert folder is not None
    _with_nan(folder)
    described = manifest.describe(folder, "scfm.pca")
    (folder / manifest.FILENAME).write_bytes(described.canonical())
    (folder / manifest.SERVING).write_bytes(manifest.serving(described.digest))
    registry.client.set_model_version_tag("mine", "1", "scfm.digest", described.digest)
    monkeypatch.setattr(
        measuring, "run", lambda *given, **more: pytest.fail("it was opened in a process that is not locked")
    )
    for use in (
        registry.measure,
        registry.certify,
        lambda name: registry.compare("pca", name, cells=0),
        lambda name: registry.export_bundle(name, tmp_path / "out"),
        lambda name: registry.export_published(name, tmp_path / "out"),
    ):
        with pytest.raises(ModelError, match="NaN"):
            use("mine")
    assert not (tmp_path / "out").exists()


def test_what_this_home_has_not_seen_is_read_by_the_locked_process_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = [], workers.ask
    monkeypatch.setattr(workers, "ask", lambda *given, **more: asked.append(given) or ask(*given, **more))
    registry.load("pca", device="cpu")
    assert not asked, "it was registered here"
    registry.mirror(tmp_path / "mirror", ["pca"])
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "another"))
    mirror = Registry(tmp_path / "mirror")
    for _ in range(2):
        assert mirror.load("pca", device="cpu").spec.width == 50
        assert len(asked) == 1


def test_a_licence_that_is_named_is_never_laxer(made_home: Path) -> None:
    del made_home
    registry = Registry()
    spec, base = registry.load("pca").spec, registry.get("pca")
    about = {"kind": "baseline", "family": "scfm.pca", "origin": "import", "weight_bytes": 1, "peak_mib": 1}
    for allowed, kept, named in ((False, "false", "false"), (True, "true", None), (None, None, None)):
        family = dataclasses.replace(spec, commercial=allowed, licence="CC-BY-NC-4.0")
        parent = dataclasses.replace(base, commercial=allowed)
        for licence, wanted in ((None, kept), ("MIT", named)):
            assert version.tags(family, **about, licence=licence).get("scfm.commercial") == wanted
            own = version.tags(
                dataclasses.replace(spec, commercial=True), **about, licence=licence, inherited="CC-BY-NC-4.0"
            )
            assert tuned.terms(parent, own).get("scfm.commercial") == wanted
    assert version.tags(spec, **about, licence="CC-BY-NC-4.0")["scfm.commercial"] == "false", "its name says so"


@pytest.mark.parametrize(
    ("files", "licence", "allowed"),
    [
        ({"README.md": "---\nlicense: cc-by-nc-4.0\ntags:\n- cells\n---\n# Ours\n", "LICENSE": "Attribution-NonCommercial"}, "CC-BY-NC-4.0", False),
        ({"README.md": "---\r\nlicense: other\r\nlicense_name: our-terms\r\n---\r\n"}, "our-terms", None),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Ask us."}, "MIT", True),
        ({"README.md": "---\nlicense: bsd-3-clause\n---\n"}, "BSD-3-Clause", True),
        ({"README.md": "---\nlicense: [mit, cc-by-nc-sa-4.0]\n---\n"}, "MIT AND CC-BY-NC-SA-4.0", False),
        ({"README.md": "---\nlicense: [mit\n---\n"}, "BSD-3-Clause", True),
        ({"README.md": "---\nlicense: !!python/object/apply:os.system [exit]\n---\n"}, "BSD-3-Clause", True),
        ({"README.md": f"---\nlicense: {'[' * 5_000}\n---\n"}, "BSD-3-Clause", True),
        ({"LICENSE": "Attribution-NonCommercial 4.0 International"}, "see LICENSE (non-commercial)", False),
        ({"LICENSE": "Our own terms."}, "see LICENSE", None),
        ({"LICENSE.txt": "MIT"}, "MIT", True),
        ({"LICENSE": "The MIT"}, "MIT", True),
        ({"LICENSE": "Apache"}, "Apache-2.0", True),
        ({"LICENSE": "MIT", "LICENSE-WEIGHTS.txt": "Non-commercial use only."}, "MIT AND see LICENSE-WEIGHTS.txt (non-commercial)", False),
        ({"LICENSE": "MIT", "LICENSE-WEIGHTS.txt": "Apache"}, "MIT AND Apache-2.0", True),
        ({"LICENSE": "Copyright (c) 2020 Duke University, Durham, NC\nOur own terms."}, "see LICENSE", None),
        ({"NOTICE": "Made with the help of many."}, "BSD-3-Clause", True),
    ],
)  # fmt: skip
def test_the_licence_that_the_files_name_goes_before_the_familys(
    basis: Callable[..., Path], files: dict[str, str], licence: str, allowed: bool | None, pca_spec: Any
) -> None:
    folder = basis()
    known = Path(str(resources.files("scfm_registry.sharing"))) / "licences"
    mit = (known / "MIT.txt").read_text().replace("<year> <copyright holders>", "2026 Ana")
    # As it is often found: with another heading, and without its appendix.
    whole = {"MIT": mit, "The MIT": mit.replace("MIT License", "The MIT License (MIT)", 1)}
    apache, end, _ = (known / "Apache-2.0.txt").read_text().partition("END OF TERMS AND CONDITIONS")
    whole["Apache"] = apache + end
    (folder / "card.md").unlink()
    for name, text in files.items():
        (folder / name).write_text(whole.get(text, text))
    told = {"card": licences.in_cards(folder), "beside": licences.in_file(folder)}
    about = {"kind": "pretrained", "family": "scfm.pca", "origin": "import", "weight_bytes": 1, "peak_mib": 1}
    found = version.tags(pca_spec, **about, **told)
    assert (found["scfm.license"], found.get("scfm.commercial")) == (
        licence,
        None if allowed is None else str(allowed).lower(),
    )
    stricter = version.tags(dataclasses.replace(pca_spec, commercial=False), **about, **told)
    assert stricter["scfm.commercial"] == "false", "what the family forbids stays forbidden"


def test_a_checkpoint_that_was_published_as_non_commercial_is_registered_as_that(
    registry: Registry, basis: Callable[..., Path], tmp_path: Path
) -> None:
    folder = basis()
    (folder / "card.md").rename(folder / "README.md")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Ours\n")
    (folder / "LICENSE").write_text("Attribution-NonCommercial")
    found = registry.import_checkpoint(folder, "mine", certify=False)
    assert (found.licence, found.commercial) == ("CC-BY-NC-4.0", False)
    # Also for who says otherwise.
    again = registry.import_checkpoint(folder, "again", licence="MIT", certify=False)
    assert (again.licence, again.commercial) == ("MIT", False)
    assert "no commercial use" in registry.card("mine")
    assert "Not for commercial use" in registry.export_bundle("mine", tmp_path / "mine.scfm").obligations


def test_a_tag_does_not_choose_the_adapter(made_home: Path, put_in: Callable[..., ModelVersion]) -> None:
    del made_home
    registry = Registry()
    added, below = put_in(registry, "mine"), put_in(registry, "below", width=7)
    registry.client.set_model_version_tag("mine", "1", "scfm.family", "scfm.starter")
    registry.client.set_model_version_tag("below", "1", parents.TAG, added.digest)
    said = r"mine/1 is refused: its tag scfm.family says 'scfm.starter', and its files were registered as 'scfm.pca'"
    with pytest.raises(ModelError, match=said):
        registry.load("mine")
    with pytest.raises(ModelError, match=said):
        registry.measure("mine")
    # Nor for the process that reads what was made from it.
    with pytest.raises(ModelError, match=said):
        parents.places(registry, *registry._find(names.parse(below.reference)))
    assert ("mine/1", "fault") in [(item.what, item.state) for item in check(files=True)]
