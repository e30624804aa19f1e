"""What needs a version's card, scores or record alone takes these files, as they were hashed, and no weights."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from scfm_lab.cli import cli
from scfm_lab.errors import ModelError, ScfmError
from scfm_lab.home import data_home
from scfm_registry import Gate, Registry, manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfm_registry.version import ModelVersion

GATE = Gate(metrics=("macro_f1",), above=("floor",))
DATA = "sha256:" + "0" * 64


@pytest.fixture
def added(
    registry: Registry, imported: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> ModelVersion:
    """A version with a card and the record of a fine-tuning, whose weights are nobody else's."""
    name = f"small-{'local' if 'sqlite' in registry.uri else 'server'}-{request.node.originalname.count('_')}"
    folder, tags, _ = imported(8, "pretrained", None)
    own = shutil.copytree(folder, tmp_path / "own")
    rows = [{"what": "model", "macro_f1": 0.9}, {"what": "floor", "macro_f1": 0.4}]
    (own / "finetuning.json").write_text(json.dumps({"metrics": rows, "data": {"digest": DATA}}))
    (own / "card.md").write_text(f"# {name}\n\nWhat it is.\n")
    # What is said of weights is said of every copy, and a server is shared.
    weights = own / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"note": name})
    told = dict.fromkeys(("scfm.weights", "scfm.stored_weights"), f"sha256:{manifest.sha256(weights)}")
    return registry.add_files(name, own, "scfm.pca", {**tags, **told, "scfm.origin": "fine-tuned"}, "")


@pytest.fixture
def stored(registry: Registry, added: ModelVersion, request: pytest.FixtureRequest) -> Path:
    """Where its files are kept: beside the database, or on the disk of the server."""
    record = registry._store.record(added.name, added.version)
    assert record is not None
    folder = registry._store.files(record)
    if folder is None:
        kind = request.node.callspec.params["registry"].removeprefix("http+").replace("postgresql", "postgres")
        artifacts = Path(request.getfixturevalue(f"{kind}_server").artifacts)
        (folder,) = artifacts.rglob(f"{registry._store._model_id(record)}/artifacts")
    return folder


@contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """The file holds something else meanwhile; with None it is gone."""
    before = path.read_bytes()
    path.unlink()
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def test_cards_scores_and_gates_take_no_weights(registry: Registry, added: ModelVersion, stored: Path) -> None:
    with changed(stored / "model.safetensors", None):
        assert "What it is." in registry.card(added.name)
        shown = CliRunner().invoke(cli, ["models", "show", added.name, "--card"])
        assert shown.exit_code == 0, shown.output
        assert "What it is." in shown.stdout
        assert [row["value"] for row in registry.scores(added.name)] == [0.9]
        assert registry.promote(added.reference, gate=GATE).aliases == ("champion",)
        if not registry._place.embedded:
            assert not list(data_home().rglob("*.safetensors"))
        with pytest.raises(ScfmError):
            registry.resolve(added.name)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("card.md", (b"What", b"Else"), r"card\.md is damaged"),
        ("finetuning.json", (b"0.4", b"0.1"), r"finetuning\.json is damaged"),
        ("manifest.json", (b"card.md", b"CARD.md"), "is not the manifest"),
    ],
)
def test_what_was_changed_meanwhile_is_not_shown(
    registry: Registry, added: ModelVersion, stored: Path, name: str, change: tuple[bytes, bytes], words: str
) -> None:
    with changed(stored / name, (stored / name).read_bytes().replace(*change)):
        with pytest.raises(ModelError, match=words):
            registry.card(added.name)
        if name != "card.md":
            with pytest.raises(ModelError, match=words):
                registry.promote(added.reference, gate=GATE)
    assert "What it is." in registry.card(added.name)
    if not registry._place.embedded:
        # A copy that is here already is as good, unless it was damaged; then the server is asked.
        (registry.resolve(added.name).path / "card.md").write_text("# Mine\n\nElse it is.\n")
        assert "What it is." in registry.card(added.name)
