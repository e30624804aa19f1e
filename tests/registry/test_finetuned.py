"""Fine-tuned versions: kept with their parent, opened as they were, done again, and never left without a parent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

import scfm_lab as sl
from scfm_lab.cli import cli
from scfm_lab.errors import DataError, ModelError, ScfmError
from scfm_lab.home import data_home
from scfm_lab.models import load
from scfm_registry import Gate, Registry, Spool, gates, manifest, names, scores
from scfm_registry import tuned as training
from scfm_registry.sharing import parents

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

HOW = {"labels_key": "cell_type", "options": {"max_length": 16}, "floors": False, "progress": False}


@pytest.fixture(scope="module")
def cells(_pbmc68k):
    """Twenty cells of each of two types."""
    types = _pbmc68k.obs["cell_type"]
    some = np.concatenate([np.flatnonzero(types == name)[:20] for name in ("CD14+ Monocyte", "CD56+ NK")])
    return _pbmc68k[some].copy()


@pytest.fixture
def here(made_home) -> Registry:
    return Registry()


def test_a_head_alone_passes_a_gate_above_the_floor_and_is_compared_on_the_same_cells_only(here, cells):
    here.set_gate("starter", "trusted", Gate(metrics=("macro-F1",)))
    assert here.gate("starter", "trusted").metrics == ("macro_f1",), "as records of fine-tunings call it"
    for seed in (0, 1):
        how = {**HOW, "floors": True, "freeze": "all", "seed": seed}
        sl.finetune("starter", cells, register=f"seed-{seed}", **how)
    # The same data, and other cells of it held out.
    assert here.get("seed-0").tags["scfm.data_digest"] == here.get("seed-1").tags["scfm.data_digest"]
    assert not here.compare("seed-0", "seed-1", cells=0).metrics["same_data"].any()
    # Nobody can record a score of a parent that knows no labels.
    found, record = here._find(names.parse("seed-0/1"))
    gate = Gate(metrics=("macro-F1",), above=("parent",))
    (said,) = gates.floor_alone(here, found, record, gate)
    assert said.startswith(
        "macro_f1 was compared with the floor alone: starter/1, which it was made from, knows no labels"
    )
    lacks = gates.missing(here, found, record, "trusted", gate)
    assert not [word for word in lacks if "of the parent" in word]
    # Who beats no floor does not pass for that.
    beaten = scores.lead(here.scores("seed-0")[0]) > 0
    assert bool(lacks) != beaten
    if beaten:
        assert here.promote("seed-0/1", "trusted", gate=gate).remarks == (said,)
    else:
        with pytest.raises(ModelError, match=r"macro_f1 above the floor.*knows no labels"):
            here.promote("seed-0/1", "trusted", gate=gate)


def test_a_fine_tuned_version_from_training_to_purge(here, cells, tmp_path):
    tuned = sl.finetune("starter", cells, register="blood", epochs=1, learning_rate=0.01, head_rate=1e-5, **HOW)
    assert tuned.registered == "blood/1"
    found = here.get("blood")
    parent = here.get("starter/1")
    assert (found.kind, found.family) == ("fine-tuned", "scfm.starter")
    assert found.tags["scfm.parent_digest"] == parent.digest
    assert found.tags["scfm.data_digest"] == tuned.record["data"]["digest"]
    assert found.commercial == parent.commercial
    shown = json.loads(CliRunner().invoke(cli, ["models", "show", "blood", "--json"]).stdout)["training"]
    for key in ("split", "data", "vocabulary", "settings"):
        assert shown[key] == tuned.record[key]
    assert (shown["labels"], shown["seed"]) == (tuned.record["labels"]["names"], 0)
    # What changed, and not the parent once more.
    assert found.size < parent.size / 2
    verified = here.verify("blood")
    assert verified.ok
    assert verified.panel is not None, "what was fine-tuned is certified"

    opened = sl.load_model("models:/blood", device="cpu")
    tokens = tuned.model.tokenize(cells)
    np.testing.assert_array_equal(opened.encode(tokens).cell, tuned.model.encode(tokens).cell)
    np.testing.assert_array_equal(opened.class_logits(tokens), tuned.model.class_logits(tokens))
    assert opened.digest == tuned.model.digest
    # Also as its family is published, by its name; of that folder nothing but the folder is needed.
    told = CliRunner().invoke(
        cli, ["models", "export", "blood", "--format", "published", "--out", str(tmp_path / "files"), "--json"]
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["reference"] == "blood/1"
    assert "starter's format has no place for a linear head" in told.stdout
    files = sl.load_model(tmp_path / "files", device="cpu")
    np.testing.assert_array_equal(files.encode(tokens).cell, tuned.model.encode(tokens).cell)
    np.testing.assert_array_equal(files.class_logits(tokens), tuned.model.class_logits(tokens))
    assert here.register(tuned, "blood").reference == "blood/1"
    assert here.get("blood").consent == ""
    assert here.register(tuned, "blood", consent="patient-data", certify=False).consent == "patient-data"
    assert here.register(tuned, "blood", consent="open").consent == "patient-data", "the stricter word stays"

    run = here.client.get_run(found.tags["scfm.run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["labels_key"] == "cell_type"
    assert run.data.tags["scfm.version"] == "blood/1"
    losses = here.client.get_metric_history(run.info.run_id, "validation_loss")
    assert [point.step for point in losses] == [0, 1]
    assert run.inputs.dataset_inputs[0].dataset.digest in tuned.record["data"]["digest"]

    second = sl.finetune("models:/blood", cells, register="blood-again", freeze="all", consent="no-sharing", **HOW)
    assert here.get("blood-again").consent == "no-sharing"
    graph = here.lineage("blood")
    assert [node.reference for node in graph.ancestors] == ["starter/1"]
    assert [node.reference for node in graph.descendants] == ["blood-again/1"]
    assert len(graph.edges) == 2
    assert graph.edges[0].data == tuned.record["data"]["digest"]
    assert [item.reference for item in here.children("starter")] == ["blood/1"]
    compared = here.compare("starter/1", "blood-again/1", cells=0)
    assert compared.config == {}, "what a version has from its parent is not gone"
    assert compared.record["kind"] == ("pretrained", "fine-tuned")
    trained = here.compare("blood/1", "blood-again/1", cells=0).config
    assert trained["finetuning.json: settings.freeze"] == ("embeddings", "all")
    assert trained["finetuning.json: settings.learning_rate"][0] == 0.01
    assert {key.split(".")[1] for key in trained} == {"json: settings"}, "same labels, split and data; history is none"
    assert here.compare("blood/1", "blood-again/1", cells=0).metrics["same_data"].all(), "the same cells were held out"
    assert (compared.layers["moved"] > 0).any()
    chained = here.load("blood-again", device="cpu")
    np.testing.assert_array_equal(chained.class_logits(tokens), second.model.class_logits(tokens))
    assert len(chained.finetuning.chain) == 2
    _what_lies_beside_a_parents_network_is_hashed(here, tmp_path / "copy")
    _a_record_asks_for_nothing_but_a_fine_tuning(here, cells, tmp_path / "forged")

    embedded = cells[:20].copy()
    sl.embed(embedded, opened, progress=False)
    embedded.write_h5ad(tmp_path / "one.h5ad")
    (tmp_path / "broken.h5ad").write_bytes(b"nothing")
    made = here.made_with(tmp_path, "blood/1")
    assert list(made.table["key"]) == ["X_blood"]
    assert "broken.h5ad" in made.skipped
    assert here.made_with(tmp_path, "starter/1").table.empty

    again = here.reproduce("blood", cells[::-1].copy(), progress=False)
    assert again.agreement == 1
    assert again.weights[1] < 1e-3
    other = cells.copy()
    other.X.data[0] += 1
    with pytest.raises(DataError, match="are not those that blood/1 was fine-tuned with"):
        here.reproduce("blood", other, progress=False)

    here.delete("blood/1")
    # In the trash it is still what the other was made from.
    assert here.load("blood-again", device="cpu").version == "blood-again/1"
    with pytest.raises(ModelError, match=r"blood-again/1 was made from it"):
        here.purge("blood/1")
    here.delete("blood-again/1")
    here.purge("blood-again/1")
    here.purge("blood/1")
    _what_was_saved_comes_in(here, tuned, found.tags, cells, tmp_path)


def _a_record_asks_for_nothing_but_a_fine_tuning(here: Registry, cells: AnnData, folder: Path) -> None:
    """Whose settings are read is whoever wrote the record."""
    family = here.get("blood").family
    shutil.copytree(here.resolve("blood").path, folder)
    for name in (manifest.FILENAME, manifest.SERVING):
        (folder / name).unlink()
    record = json.loads((folder / "finetuning.json").read_text())
    tags = {"scfm.family": family, "scfm.kind": "fine-tuned"}
    planted = [
        ({"settings": {**record["settings"], "register": "planted"}}, "'register' is no setting of a fine-tuning"),
        ({"settings": {**record["settings"], "epochs": "9"}}, "epochs is '9'"),
        ({"metrics": []}, "its cells, scores or packages are not told"),
    ]
    for number, (change, why) in enumerate(planted):
        (folder / "finetuning.json").write_text(json.dumps({**record, **change}))
        here.add_files(f"forged-{number}", folder, family, dict(tags), "")
        with pytest.raises(ModelError, match=why):
            here.reproduce(f"forged-{number}", cells, progress=False)
    assert "planted" not in here._store.names()


def _what_lies_beside_a_parents_network_is_hashed(here: Registry, copy: Path) -> None:
    """The cells that a parent has seen are among its tensors, and none of its network."""
    places = parents.places(here, *here._find(names.parse("blood-again")))
    child = here.resolve("blood-again").path
    seen = here.resolve("blood").path / "cells.safetensors"
    kept = seen.read_bytes()
    # One is still a file of tensors, of the other the list of them cannot be read.
    value, header = kept[:-1] + bytes([kept[-1] ^ 1]), kept[:8] + b"?" + kept[9:]
    for wrong in (value, header):
        seen.write_bytes(wrong)
        for reference in ("blood/1", "blood-again"):
            with pytest.raises(ModelError, match=r"blood/1 is refused: .*cells\.safetensors is damaged: its bytes"):
                here.load(reference, device="cpu")
        with pytest.raises(ModelError, match=r"blood/1 is refused: .*cells\.safetensors is damaged: its bytes"):
            sl.load_model("models:/blood-again", device="cpu")
        with pytest.raises(ModelError, match=r"refused: .*cells\.safetensors is damaged"), parents.beside(places):
            load.open_files(child, None)
    seen.write_bytes(kept)
    with parents.beside(places):
        assert len(load.open_files(child, None).finetuning.chain) == 2
    # The copy of a server's version is fetched again, whoever finds it damaged.
    shutil.copytree(seen.parent, copy)
    (copy / seen.name).write_bytes(header)
    served = replace(here.resolve("blood"), path=copy, anew=lambda: (copy / seen.name).write_bytes(kept))
    assert load.open_resolved(served).digest == here.load("blood", device="cpu").digest


def _what_was_saved_comes_in(here: Registry, tuned, registered: dict[str, str], cells, tmp_path) -> None:
    """By a spool as what changed, by adoption with everything in it: the same model, of the same origin and terms."""
    homes, spool = tmp_path / "homes", Spool(tmp_path / "spool")
    changed, whole = tuned.save(homes / "run"), tuned.save(homes / "whole", full=True)
    spool.put(changed, "from-node")
    came = here.sync(spool.folder, certify=False)
    assert came.ok, came.summary()
    strays = {item.path: item for item in here.find_strays(homes)}
    assert strays.keys() == {changed, whole}
    assert strays[changed].here == ("from-node/1",)
    assert strays[whole].here == ("from-node/1",), "with everything in it, it is the same model"
    here.adopt(strays[whole], name="whole", certify=False)
    assert {item.path: item.here for item in here.find_strays(homes)}[whole] == ("from-node/1", "whole/1")
    shutil.copytree(whole, tmp_path / "more" / "trained-on")
    head = tmp_path / "more" / "trained-on" / "changes.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + bytes([head.read_bytes()[-1] ^ 1]))
    assert [item.new for item in here.find_strays(tmp_path / "more")] == [True], "another head is another model"
    told = ("parent_digest", "data_digest", "labels", "by", "code", "made", "kind", "family", "license", "commercial")
    tokens = tuned.model.tokenize(cells)
    for name in ("from-node", "whole"):
        tags = here.get(name).tags
        assert {key: tags.get(f"scfm.{key}") for key in told} == {key: registered.get(f"scfm.{key}") for key in told}
        opened = here.load(name, device="cpu")
        np.testing.assert_array_equal(opened.class_logits(tokens), tuned.model.class_logits(tokens))
    assert [node.reference for node in here.lineage("from-node").ancestors] == ["starter/1"]
    assert here.get("from-node").tags["scfm.weights"] == registered["scfm.weights"]

    record = json.loads((changed / "finetuning.json").read_text())
    for wrong, words in (
        (
            {"digest": "sha256:" + "0" * 64},
            "from 'scfm.starter/.*', which is not in this registry; import that version first",
        ),
        ({"digest": "starter/1"}, "is not in this registry"),
        ({"family": "scfm.pca"}, "says that it is of the family 'scfm.pca'"),
        ({"family": "os.system"}, "fine-tuned from a model of the family 'os.system'"),
    ):
        text = json.dumps({**record, "parent": {**record["parent"], **wrong}})
        (changed / "finetuning.json").write_text(text)
        with pytest.raises(ModelError, match=words):
            here.import_checkpoint(changed, "wrong")
    (changed / "finetuning.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"finetuning\.json is not readable JSON"):
        here.import_checkpoint(changed, "wrong")


def test_what_a_record_tells_is_not_believed_blindly() -> None:
    when, digest = "2026-03-01T12:00:00+00:00", "sha256:" + "0" * 64
    good = {"who": "ana", "when": when, "data": {"digest": digest}, "labels": {"names": ["a", "b"]}}
    told = {"scfm.by": "ana", "scfm.made": when, "scfm.data_digest": digest, "scfm.labels": "2"}
    assert training.tags(good) == told
    for key, wrong in (
        ("who", "ana\nb"),
        ("who", ["ana"]),
        ("who", "a" * 10_000),
        ("when", "yesterday"),
        ("when", 3),
        ("data", {"digest": "sha256:\x1b[2J"}),
        ("data", {"digest": [digest]}),
        ("data", [digest]),
        ("labels", {"names": {"a": 1}}),
        ("code", {"scfm-lab": "1\x1b[2J"}),
    ):
        found = training.tags({**good, key: wrong})
        assert found.items() <= told.items(), key
        assert key == "code" or len(found) == 3


def test_names_and_parents_are_checked_before_any_work(here, cells, tmp_path):
    with pytest.raises(ModelError, match="cannot be a model's name"):
        sl.finetune("starter", cells, register="Not A Name", **HOW)
    with pytest.raises(ModelError, match="comes with scfm-lab"):
        sl.finetune("starter", cells, register="starter", **HOW)
    with pytest.raises(ModelError, match=r"consent='patientdata' is not known.*Did you mean 'patient-data'"):
        sl.finetune("starter", cells, register="mine", consent="patientdata", **HOW)
    with pytest.raises(DataError, match="consent= is said of a version"):
        sl.finetune("starter", cells, consent="open", **HOW)
    from scfm_registry.builtin import shipped

    shutil.copytree(shipped()["starter"][1], tmp_path / "mine")
    mine = sl.load_model(tmp_path / "mine", device="cpu")
    mine.net.norm.bias.data.add_(1)
    mine.digest = "sha256:" + "1" * 64
    with pytest.raises(ModelError, match="is not in the registry"):
        sl.finetune(mine, cells, register="lost", **HOW)


def test_a_model_that_cannot_be_registered_is_kept(made_home, cells, tmp_path, monkeypatch):
    (tmp_path / "no-registry").write_text("")

    def the_registry_goes_away(*_: object) -> None:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", str(tmp_path / "no-registry"))

    with pytest.raises(ScfmError, match="The trained model is kept in") as caught:
        sl.finetune(
            "starter",
            cells,
            register="blood",
            consent="open",
            freeze="all",
            **{**HOW, "progress": the_registry_goes_away},
        )
    [kept] = (data_home() / "rescued").iterdir()
    assert f"'scfm-lab models spool {kept} --name blood --consent open --to SPOOL'" in str(caught.value)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert set(sl.load_model(kept, device="cpu").classes.names) == set(cells.obs["cell_type"])


def test_a_users_own_run_is_registered_with_its_parent(here):
    model = here.load("starter", device="cpu")
    with pytest.raises(ModelError, match="name it with parent="):
        here.register(model, "own")
    with pytest.raises(ModelError, match="there is nothing to register"):
        here.register(model, "own", parent="starter")
    model.net.norm.bias.data.add_(0.5)
    run = here.client.create_run(here.client.create_experiment("mine")).info.run_id
    with pytest.raises(ModelError, match="There is no run"):
        here.register(model, "own", parent="starter", run="0" * 32)
    seen = []

    class Watching(Registry):
        """Looks at a version at the first moment at which anybody can."""

        def note(self, action, record=None, details=None, *, must=True):
            if action == "register":
                seen.append(self.get(record.reference).consent)
            super().note(action, record, details, must=must)

    made = Watching().register(model, "own", parent="starter", run=run, consent="patient-data", certify=False)
    assert made.kind == "fine-tuned"
    assert seen == ["patient-data"], "nobody sees the version without it"
    assert made.tags["scfm.run"] == run
    assert here.client.get_run(run).data.tags["scfm.version"] == "own/1"
    opened = here.load("own", device="cpu")
    assert bool((opened.net.norm.bias == model.net.norm.bias).all())
    assert made.tags["scfm.weights"] == opened.digest != model.digest, "what results made with it will name"
    assert [node.reference for node in here.lineage("own").ancestors] == ["starter/1"]


def test_a_circle_of_tags_is_refused(here):
    model = here.load("starter", device="cpu")
    model.net.norm.bias.data.add_(0.5)
    made = here.register(model, "own", parent="starter", certify=False)
    parent = here.get("starter/1")
    here.client.set_model_version_tag("starter", "1", "scfm.parent_digest", made.digest)
    for reference in ("own", "starter"):
        with pytest.raises(ModelError, match="leads in a circle"):
            here.lineage(reference)
    here.client.set_model_version_tag("starter", "1", "scfm.parent_digest", parent.digest)
    with pytest.raises(ModelError, match="leads in a circle"):
        here.lineage("starter")


def test_the_command_line(here, cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    given = [str(tmp_path / "cells.h5ad"), "--model", "starter", "--labels", "cell_type", "--freeze", "all"]
    given += ["--option", "max_length=16"]
    done = CliRunner().invoke(cli, ["finetune", *given, "--register", "blood", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["registered"] == "blood/1"
    plan = CliRunner().invoke(cli, ["finetune", *given, "--plan"])
    assert "the head alone" in plan.output
    assert CliRunner().invoke(cli, ["finetune", *given]).exit_code == 2
    graph = CliRunner().invoke(cli, ["models", "lineage", "blood", "--json"])
    assert {node["reference"] for node in json.loads(graph.stdout)["nodes"]} == {"starter/1", "blood/1"}
    again = CliRunner().invoke(cli, ["models", "reproduce", "blood", "--data", str(tmp_path / "cells.h5ad"), "--json"])
    assert json.loads(again.stdout)["exact"]
