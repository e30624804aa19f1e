"""Fine-tuning: splits that leak nothing, digests that notice everything, runs that go on, models that open as they were."""

from __future__ import annotations

import copy
import json
import threading

import numpy as np
import pytest
import torch

import scfm_lab as sl
from scfm_lab.cells.data_digest import DataDigest, digest_of
from scfm_lab.errors import Cancelled, DataError, ModelError
from scfm_lab.evaluation.integration import makers_seen
from scfm_lab.evaluation.label_scores import label_gains, label_scores
from scfm_lab.evaluation.overlap import check_unseen, overlap
from scfm_lab.models.load import open_files
from scfm_lab.training.labelled import read_labelled, split_cells

FAST = {"options": {"max_length": 24}, "progress": False, "floors": False}


@pytest.fixture(scope="module")
def cells(_pbmc68k):
    """Three types, and two made-up samples that have nothing to do with them."""
    few = _pbmc68k[_pbmc68k.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])].copy()
    few.obs["donor"] = np.array(["anna", "ben", "cleo", "dora"])[np.arange(few.n_obs) % 4]
    return few


@pytest.fixture(scope="module")
def starter():
    return sl.load_model("starter", device="cpu")


@pytest.fixture(scope="module")
def tuned(starter, cells):
    """Two epochs, all layers."""
    return sl.finetune(starter, cells, labels_key="cell_type", epochs=2, patience=2, **{**FAST, "floors": True})


@pytest.fixture(scope="module")
def labelled(starter, cells):
    return read_labelled(cells, starter, "cell_type", None)


# --- the digest of the data --------------------------------------------------------------------


def test_the_digest_changes_with_every_cell_and_with_nothing_else(starter, cells):
    read = starter.read_cells(cells)
    labels = list(cells.obs["cell_type"].astype(str))
    whole = digest_of(read, labels)
    for size in (1, 7, 100):
        blocks = DataDigest()
        for start in range(0, len(read), size):
            blocks.add(read.take(slice(start, start + size)), labels[start : start + size])
        assert blocks.hexdigest() == whole
    order = np.random.default_rng(0).permutation(len(read))
    assert digest_of(read.take(order), [labels[i] for i in order]) == whole
    shuffled = cells[:, np.random.default_rng(1).permutation(cells.n_vars)]
    assert digest_of(starter.read_cells(shuffled), labels) == whole
    for row in (0, len(read) // 2, len(read) - 1):
        more = read.counts.copy()
        more.data[more.indptr[row]] += 1
        assert digest_of(read.with_counts(more), labels) != whole
        other = labels.copy()
        other[row] = "something else"
        assert digest_of(read, other) != whole
    assert digest_of(read.take(slice(1, None)), labels[1:]) != whole
    renamed = cells.copy()
    renamed.var_names = ["ANOTHER", *renamed.var_names[1:]]
    assert digest_of(starter.read_cells(renamed), labels) != whole


# --- the split ---------------------------------------------------------------------------------


def test_every_label_is_divided_alike_and_equal_cells_stay_together(starter, cells):
    import anndata as ad

    twice = cells.copy()
    twice.obs_names = [f"again-{name}" for name in twice.obs_names]
    both = ad.concat([cells, twice], merge="same")
    found = read_labelled(both, starter, "cell_type", None)
    split = split_cells(found, np.ones(len(found), bool), validation=0.2, test=0.2, seed=3)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(found)))
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not np.isin(found.cells.keys[one], found.cells.keys[other]).any()
    whole = np.bincount(found.codes) / len(found)
    for part in parts:
        np.testing.assert_allclose(np.bincount(found.codes[part]) / len(part), whole, atol=0.04)


def test_where_a_cell_goes_depends_on_the_cell_and_the_seed_alone(starter, cells, labelled):
    everything = np.ones(len(labelled), bool)
    first = split_cells(labelled, everything, validation=0.2, test=0.2, seed=0)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    shuffled = read_labelled(cells[order], starter, "cell_type", None)
    again = split_cells(shuffled, everything, validation=0.2, test=0.2, seed=0)
    # The same cells, in the same order too.
    assert order[again.test].tolist() == first.test.tolist()
    other = split_cells(labelled, everything, validation=0.2, test=0.2, seed=1)
    assert set(other.test.tolist()) != set(first.test.tolist())


def test_samples_stay_whole(starter, cells):
    found = read_labelled(cells, starter, "cell_type", "donor")
    split = split_cells(found, np.ones(len(found), bool), validation=0.2, test=0.2, seed=0)
    held = {part: set(found.samples[getattr(split, part)]) for part in ("train", "validation", "test")}
    assert all(held.values())
    assert len(set.union(*held.values())) == sum(map(len, held.values())) == 4
    assert held == {part: set(names) for part, names in split.samples.items()}
    two = cells[cells.obs["donor"].isin(["anna", "ben"])].copy()
    found = read_labelled(two, starter, "cell_type", "donor")
    split = split_cells(found, np.ones(len(found), bool), validation=0.2, test=0.2, seed=0)
    assert len(set(found.samples[split.test])) == 1
    assert set(found.samples[split.test]).isdisjoint(found.samples[np.concatenate([split.train, split.validation])])
    assert len(split.validation) > 0


LABELS = {
    "one label": (lambda n: ["one"] * n, "has one value only"),
    "no label": (lambda n: [None] * 3 + ["a", "b"] * n, "has no value in 3"),
    "too few": (lambda n: ["rare"] * 3 + ["often"] * n, r"'rare' \(3 cells\)"),
    "measurements": (lambda n: np.linspace(0, 1, n), "holds numbers"),
    "no column": (None, "is not in obs"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_learnt_are_refused_in_a_sentence(starter, cells, case):
    make, words = LABELS[case]
    spoiled = cells.copy()
    spoiled.obs = spoiled.obs.drop(columns="cell_type")
    if make is not None:
        spoiled.obs["cell_type"] = make(spoiled.n_obs)[: spoiled.n_obs]
    with pytest.raises(DataError, match=words):
        sl.finetune(starter, spoiled, labels_key="cell_type", **FAST)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": "most"}, "freeze is 'most'"),
        ({"freeze": 3}, "starter has 2 layers"),
        ({"freeze": ["blocks.9"]}, "has no part 'blocks.9'"),
        ({"head": "published"}, "has no head 'published'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"test": 1.5}, "test is 1.5"),
        ({"class_weight": "even"}, "class_weight is 'even'"),
        ({"budget_gib": 0.001}, "Fine-tuning starter takes"),
        ({"sample_key": "cell_type"}, "are both 'cell_type'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_named(starter, cells, settings, words):
    with pytest.raises((DataError, ModelError), match=words):
        sl.finetune(starter, cells, labels_key="cell_type", **{**FAST, **settings})


def test_models_that_cannot_are_told_which_can(cells):
    with pytest.raises(ModelError, match=r"pca cannot be fine-tuned; models that can: .*scfm\.starter"):
        sl.finetune("pca", cells, labels_key="cell_type", **FAST)
    with pytest.raises(ModelError, match="has no head of its own"):
        sl.annotate(cells.copy(), model="starter", method="head", progress=False)


# --- training ----------------------------------------------------------------------------------


def test_the_parent_stays_and_the_layers_learn(starter, cells, tuned):
    fresh = sl.load_model("starter", device="cpu")
    for name, tensor in starter.net.state_dict().items():
        assert torch.equal(tensor, fresh.net.state_dict()[name])
    assert starter.classes is None
    assert "predict" not in starter.spec.abilities
    history = tuned.record["history"]
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2]
    assert history[2]["training_loss"] < history[1]["training_loss"]
    # The classes stand far apart: whatever does not tell them is broken.
    assert tuned.table.set_index("method")["accuracy"].min() > 0.8


def test_the_table_sets_the_floors_beside_on_the_same_cells(tuned):
    table = tuned.table
    assert list(table["what"]) == ["model", "head", "floor", "floor"]
    assert table["n_cells"].nunique() == 1
    assert (table["macro_f1_low"] <= table["macro_f1"]).all()
    assert (table["macro_f1"] <= table["macro_f1_high"]).all()
    assert "Against the best floor" in tuned.summary()
    score = tuned.scores.of("macro-F1")
    assert score.floor == table[table["what"] == "floor"]["macro_f1"].max()
    assert score.gain_low <= score.value - score.floor <= score.gain_high
    # That all labels might be right is no ceiling that anybody has measured.
    assert np.isnan(score.ceiling)
    assert np.isnan(score.position)
    assert "no second annotation" in str(score)


def test_the_same_seed_gives_the_same_weights_and_a_killed_run_goes_on(starter, cells, tuned, tmp_path):
    stop = threading.Event()
    asked = []

    def watch(done, total):
        asked.append(done)
        if done > cells.n_obs + tuned.plan.cells["train"]:
            stop.set()  # in the second epoch

    same = {"labels_key": "cell_type", "epochs": 2, "patience": 2, **FAST, "checkpoint": tmp_path}
    with pytest.raises(Cancelled, match="goes on from"):
        sl.finetune(starter, cells, **{**same, "progress": watch, "cancel": stop})
    again = sl.finetune(starter, cells, **same)
    assert asked == sorted(asked)
    assert again.model.digest == tuned.model.digest
    for name, tensor in tuned.changed.items():
        assert torch.equal(tensor, again.changed[name])
    with pytest.raises(DataError, match="is the state of another run"):
        sl.finetune(starter, cells, **{**same, "learning_rate": 1e-3})


def test_freezing_keeps_what_it_says(starter, cells):
    settings = {"labels_key": "cell_type", "epochs": 1, "learning_rate": 0.01, **FAST}
    cells = cells[::2].copy()
    one = sl.finetune(starter, cells, **{**settings, "freeze": 1})
    moved = {name for name in one.changed if name.startswith("net.")}
    if one.record["best_epoch"]:
        assert moved
    assert not any(name.startswith(("net.blocks.0", "net.embedding", "net.values", "net.pool")) for name in moved)
    head = sl.finetune(starter, cells, **{**settings, "freeze": "all"})
    assert all(name.startswith("head.") for name in head.changed)
    tokens = starter.tokenize(cells)
    np.testing.assert_array_equal(head.model.encode(tokens).cell, starter.encode(tokens).cell)


def test_plan_tells_and_leaves_no_trace(starter, cells):
    before = {name: p.requires_grad for name, p in starter.net.named_parameters()}
    plan = sl.plan_finetune(starter, cells, labels_key="cell_type", freeze=1, options={"max_length": 24})
    block = sum(p.numel() for module in (starter.net.blocks[1], starter.net.norm) for p in module.parameters())
    assert plan.trained == block
    assert plan.seconds > 0
    assert "GiB" in plan.summary()
    assert {name: p.requires_grad for name, p in starter.net.named_parameters()} == before
    with pytest.raises(DataError, match="no setting 'learning'"):
        sl.plan_finetune(starter, cells, labels_key="cell_type", learning=1)


# --- labels ------------------------------------------------------------------------------------


def test_a_fine_tuned_model_labels_without_a_reference(cells, tuned):
    found = sl.annotate(cells.copy(), model=tuned.model, progress=False, options={"max_length": 24})
    assert set(found.labels) <= set(tuned.model.classes.names)
    test = tuned.parts == "test"
    assert list(found.labels[test]) == list(tuned.labels[test])
    assert found.scores["accuracy"] > 0.8
    some = np.random.default_rng(0).permutation(cells.n_obs)[:20]
    alone = tuned.model.predict(cells[some].copy(), progress=False, options={"max_length": 24})
    np.testing.assert_allclose(alone.probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(alone.confidence, found.confidence[some], atol=1e-4)


def test_a_head_stands_beside_parameter_free_methods_where_there_is_a_reference(cells, tuned):
    trained = (tuned.parts == "train") | (tuned.parts == "validation")
    how = {"model": tuned.model, "method": "head", "progress": False, "options": {"max_length": 24}}
    alone = sl.annotate(cells[~trained].copy(), **how)
    assert alone.beside is None
    assert "pca and sctop are fitted to annotated cells; give them as the reference" in alone.summary()
    assert "reference" not in sl.annotate(cells[~trained].copy(), beside=False, **how).summary()
    query, reference = cells[~trained].copy(), cells[trained].copy()
    found = sl.annotate(query, reference, **how)
    assert found.labels.tolist() == alone.labels.tolist()
    assert {s.model for s in found.beside if s.metric == "macro-F1"} == {"starter", "pca (fitted)", "sctop (fitted)"}
    # The head's own labels are scored, and not those of its neighbours.
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert found.beside.of("accuracy", "starter").value == pytest.approx((found.labels == truth).mean())
    assert found.beside.of("calibration error", "starter").n == len(truth)
    # A label that it was not taught is wrong, and told.
    other = reference.obs["cell_type"].astype(str).replace("CD19+ B", "CD19+ B cell of blood")
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).replace("CD19+ B", "CD19+ B cell of blood")
    reference.obs["cell_type"] = other
    lost = sl.annotate(query, reference, **how, key_added="lost")
    assert "starter's head does not know CD19+ B cell of blood" in lost.summary()
    names = {"CD19+ B cell of blood": "B", "CD19+ B": "B"}
    again = sl.annotate(query, reference, **how, key_added="again", harmonise=names)
    assert again.beside.of("accuracy", "starter").value == found.beside.of("accuracy", "starter").value
    assert "B" in set(again.labels)


def test_write_tells_the_parts(cells, tuned):
    own = cells.copy()
    tuned.write(own, key_added="told")
    assert own.obs["told_part"].value_counts().to_dict() == {k: v for k, v in tuned.plan.cells.items() if v}
    assert own.obs["told"].notna().sum() == tuned.plan.cells["test"]
    assert own.uns["scfm"]["told"]["weights_sha256"] == tuned.model.digest
    with pytest.raises(DataError, match="not the cells"):
        tuned.write(own[::-1].copy())


def test_overlap_finds_the_cells_that_were_seen(starter, cells, tuned, pbmc68k):
    found = overlap(tuned.model, cells)
    assert list(np.where(found.parts == "", "unseen", found.parts)) == list(tuned.parts)
    with pytest.raises(DataError, match="were used to train"):
        found.require_none()
    # Fewer genes, but all that the model knows; and other genes beside.
    known = starter.match(starter.read_cells(cells).genes).columns
    fewer = cells[:, known].copy()
    assert (overlap(tuned.model, fewer).parts == found.parts).all()
    others = pbmc68k[~pbmc68k.obs_names.isin(cells.obs_names)]
    assert overlap(tuned.model, others).share == 0
    assert overlap(starter, cells).share == 0


@pytest.mark.parametrize("full", [False, True])
def test_what_a_parent_was_made_from_stays_on_record(tuned, shared_data, tmp_path, full):
    lines = sl.datasets.load("celllines_3x2tech_mixology")[:9].copy()
    assert overlap(tuned.model, lines).share == 1
    tuned.save(tmp_path / "kept", full=full)
    assert overlap(sl.load_model(tmp_path / "kept"), lines).share == 1


def test_cells_of_the_training_record_are_in_no_score(cells, tuned, tmp_path):
    fresh = (tuned.parts != "train") & (tuned.parts != "validation")
    own = cells.copy()
    truth = own.obs["cell_type"].astype(str).to_numpy()
    found = sl.annotate(own, model=tuned.model, progress=False, options={"max_length": 24})
    assert found.scores["accuracy"] == pytest.approx((found.labels == truth)[fresh].mean())
    assert "in the training record" in found.summary()
    again = sl.annotate(own[~fresh].copy(), model=tuned.model, progress=False, options={"max_length": 24})
    assert again.scores is None
    by_head = tuned.model.predict(own.copy(), labels_key="cell_type", progress=False, options={"max_length": 24})
    assert by_head.scores["accuracy"] == pytest.approx((by_head.labels == truth)[fresh].mean())
    assert f"{(~fresh).sum()} cells are in the training record" in by_head.summary()
    short = {"options": {"max_length": 24}, "n_boot": 5, "floors": False}
    with pytest.raises(DataError, match="in the training record"):
        sl.evaluate.annotation(own, tuned.model, **short)
    flags = [s.remark for s in sl.evaluate.annotation(own, tuned.model, seen="flag", **short)]
    assert all("Flagged" in remark for remark in flags)
    unseen = sl.evaluate.annotation(own[~fresh].copy(), tuned.model, query=own[fresh].copy(), **short)
    assert not any("Flagged" in s.remark for s in unseen)
    with pytest.raises(DataError, match="in the training record"):
        sl.evaluate.imputation(own, tuned.model, options={"max_length": 24})
    with pytest.raises(DataError, match="in the training record"):
        sl.evaluate.xor(own, tuned.model, markers=("CD79A", "CST3"), groups=None, options={"max_length": 24})
    with pytest.raises(DataError, match="in the training record"):
        sl.evaluate.covariance_sign(own, tuned.model, sets={"a": ["CD3D"], "b": ["LYZ"]}, options={"max_length": 24})
    own.obs["perturbation"] = np.where(np.arange(own.n_obs) % 4, [f"g{i % 4}" for i in range(own.n_obs)], "control")
    with pytest.raises(DataError, match="in the training record"):
        sl.evaluate.perturbation(own, tuned.model, progress=False)
    # Vectors remember that a fine-tuned model made them; one that is kept nowhere cannot be asked.
    key = sl.embed(own, tuned.model, progress=False, options={"max_length": 24}).key
    with pytest.raises(DataError, match="cannot be opened to see whether"):
        sl.evaluate.integration(own, key, batch_key="donor")
    own.obs["stage"] = (own.obs["cell_type"] != "CD19+ B").astype(float)
    columns = {"labels_key": "cell_type", "stage_key": "stage"}
    board = sl.evaluate.leaderboard(
        own,
        tuned.model,
        parts=["integration", "trajectory"],
        batch_key="donor",
        record=False,
        resume=tmp_path,
        **columns,
    )
    assert board.left_out["part"].tolist() == ["integration", "trajectory"]
    assert board.left_out["why"].str.contains("in the training record").all()
    # Outside of a board such vectors are flagged; counts of a layer tell the training cells where X holds none.
    tuned.save(tmp_path / "kept")
    key = sl.embed(own, str(tmp_path / "kept"), progress=False, options={"max_length": 24}, key_added="X_kept").key
    own = own[::3].copy()
    own.layers["molecules"] = own.X.copy()
    own.X = own.X.log1p()
    way = {"use_rep": key, "root": "CD19+ B", "groupby": "cell_type", "stage_key": "stage"}
    assert len(sl.trajectory(own, n_roots=0, twin=False, layer="molecules", **way).agreement) == 0
    ordered = sl.trajectory(own, n_roots=0, twin=False, layer="molecules", seen="flag", key_added="told", **way)
    assert [s.remark[:8] for s in ordered.agreement] == ["Flagged:"]
    assert "scored cells are in its training record" in ordered.agreement.scores[0].remark
    assert makers_seen(own, [key], seen="flag", layer="molecules")[key].startswith("Flagged:")
    assert "cannot be asked whether" in makers_seen(own, [key], seen="flag")[key]
    with pytest.raises(DataError, match=r"cannot be asked whether .* no option 'max_lenght'"):
        makers_seen(own, [key], seen="refuse", layer="molecules", options={"max_lenght": 24})
    with pytest.raises(DataError, match="are in the training record"):
        makers_seen(own, [key], seen="refuse", layer="molecules")
    # Another version of the model, of the same name, is told for itself.
    other = copy.copy(tuned.model)
    other.version = "tuned/2"
    told = check_unseen([tuned.model, other], own, seen="flag", layer="molecules")
    assert len(told) == 2
    assert "tuned/2" in told


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["changes", "full"])
def test_a_saved_model_opens_as_it_was(cells, tuned, tmp_path, full):
    folder = tuned.save(tmp_path / "model", full=full)
    opened = sl.load_model(folder, device="cpu")
    tokens = tuned.model.tokenize(cells[::5].copy())
    np.testing.assert_array_equal(opened.encode(tokens).cell, tuned.model.encode(tokens).cell)
    np.testing.assert_array_equal(opened.class_logits(tokens), tuned.model.class_logits(tokens))
    assert list(opened.classes.names) == list(tuned.model.classes.names)
    assert opened.finetuning.record["data"] == tuned.record["data"]
    if not full:
        assert opened.digest == tuned.model.digest
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert size < 0.2 * 4 * opened.spec.parameters
    with pytest.raises(DataError, match="is there already"):
        tuned.save(folder)


def test_another_parent_is_refused(tuned, tmp_path):
    folder = tuned.save(tmp_path / "model")
    record = json.loads((folder / "finetuning.json").read_text())
    record["parent"]["tensors"] = "sha256:" + "0" * 64
    (folder / "finetuning.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="fine-tuned from other weights"):
        open_files(folder, None)
    record["parent"]["source"] = str(tmp_path / "nowhere")
    (folder / "finetuning.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="cannot be had here"):
        open_files(folder, None)


# --- scores ------------------------------------------------------------------------------------


def test_scores_agree_with_scikit_learn_and_intervals_cover_the_truth():
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 200, p=[0.6, 0.3, 0.1])
    given = np.where(rng.random(200) < 0.8, truth, rng.choice(["a", "b", "d"], 200))
    found = label_scores(truth, given)
    wanted = f1_score(truth, given, average="macro", labels=sorted(set(truth)), zero_division=0)
    assert found.macro_f1 == pytest.approx(wanted)
    assert found.accuracy == pytest.approx(accuracy_score(truth, given))
    # A floor that is right where the labels are, and in half of the other cells: each resample has it so.
    floor = np.where((given != truth) & (rng.random(200) < 0.5), truth, given)
    gains = label_gains(truth, given, floor)
    assert gains["accuracy_gain_low"] < accuracy_score(truth, given) - accuracy_score(truth, floor) < 0
    assert gains["accuracy_gain_high"] < 0
    assert gains["macro_f1_gain_high"] < 0
    low, high = found.accuracy_interval
    assert high - low > gains["accuracy_gain_high"] - gains["accuracy_gain_low"], "what both are wrong about cancels"
    assert set(label_gains(truth, given, given).values()) == {0.0}
    covered = 0
    for seed in range(100):
        right = np.random.default_rng(seed).random(100) < 0.7
        low, high = label_scores(np.ones(100), np.where(right, 1.0, 2.0), seed=seed, draws=300).accuracy_interval
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100


def test_intervals_are_over_donors_where_five_are_held_out():
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b"], 400)
    samples = np.repeat([f"d{i}" for i in range(8)], 50)
    # Donors that are labelled well and donors that are not: resampled cells do not see them.
    right = rng.random(400) < np.repeat([0.95, 0.5, 0.9, 0.6, 0.95, 0.5, 0.9, 0.6], 50)
    given = np.where(right, truth, np.where(truth == "a", "b", "a"))
    cells, donors = label_scores(truth, given), label_scores(truth, given, samples=samples)
    assert donors.unit == "samples"
    assert (donors.macro_f1, donors.accuracy) == (cells.macro_f1, cells.accuracy)
    assert np.diff(donors.accuracy_interval) > 2 * np.diff(cells.accuracy_interval)
    # A floor that is as good in every donor differs between them by nothing.
    gains = label_gains(truth, given, given, samples=samples)
    assert set(gains.values()) == {0.0}
    worse = np.where(samples == "d0", "a", given)
    gains = label_gains(truth, given, worse, samples=samples)
    assert gains["accuracy_gain_low"] < 0 < gains["accuracy_gain_high"], "one donor of eight tells nothing apart"
    assert "fewer than five samples" in label_scores(truth, given, samples=np.where(samples < "d4", "x", "y")).unit
