"""Every published family can be fine-tuned, kept as what changed, and written in full as it is published."""

from __future__ import annotations

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.models.converted import listed
from scfm_lab.models.files import read_tensors, read_torch
from scfm_lab.models.finetuned_files import save_published

#: Beginnings of the names of heads that predict in pre-training, whose place a published head of labels takes.
PRETRAINING = ("cls.", "to_out.")
#: And of heads of labels, as their families publish them.
HEADS = ("cls_decoder.", "classifier.", "bert.pooler.", "to_out.fc", "to_out.conv1.")


@pytest.fixture(scope="module")
def labelled(_pbmc68k):
    """Forty cells of two types."""
    two = _pbmc68k[_pbmc68k.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B"])]
    return two[:: max(1, two.n_obs // 40)].copy()


def test_a_family_learns_and_opens_as_it_was(name, written, model, labelled, tmp_path):
    before = {key: tensor.clone() for key, tensor in model._trained_net().state_dict().items()}
    head = "published" if "published" in model.head_kinds else "linear"
    tuned = sl.finetune(
        model,
        labelled,
        labels_key="cell_type",
        head=head,
        epochs=2,
        patience=2,
        learning_rate=0.01,
        head_rate=0.01,
        floors=False,
        progress=False,
    )
    for key, tensor in model._trained_net().state_dict().items():
        assert bool((tensor == before[key]).all())
    tokens = model.tokenize(labelled)
    if tuned.record["best_epoch"]:
        assert any(key.startswith("net.") for key in tuned.changed)
    opened = sl.load_model(tuned.save(tmp_path / "changes"), device="cpu")
    np.testing.assert_array_equal(opened.encode(tokens).cell, tuned.model.encode(tokens).cell)
    np.testing.assert_array_equal(opened.class_logits(tokens), tuned.model.class_logits(tokens))
    done = save_published(tuned.model, tmp_path / "full")
    folder = done.folder
    assert ("head of the labels" in done.summary()) == (head == "linear"), "what has no place is said"
    _names_and_shapes_are_those_published(written, folder, head)
    whole = sl.load_model(folder, device="cpu")
    np.testing.assert_array_equal(whole.encode(tokens).cell, tuned.model.encode(tokens).cell)
    np.testing.assert_array_equal(whole.class_logits(tokens), tuned.model.class_logits(tokens))
    # And by the family's files alone, as its own code would see them.
    (folder / "finetuning.json").unlink()
    (folder / "changes.safetensors").unlink()
    (folder / "cells.safetensors").unlink()
    alone = sl.load_model(folder, device="cpu", config=written.config or None)
    np.testing.assert_array_equal(alone.encode(tokens).cell, tuned.model.encode(tokens).cell)
    if name == "scbert":
        np.testing.assert_allclose(alone.class_logits(tokens), tuned.model.class_logits(tokens), atol=1e-5)
        assert list(alone.classes.names) == list(tuned.model.classes.names)
    if name == "transcriptformer":
        logits = model.gene_logits(tokens, first=1)
        assert [one.shape for one in tuned.model.gene_logits(tokens, first=1)] == [one.shape for one in logits]


def _names_and_shapes_are_those_published(written, folder, head):
    """Every tensor of the published file is there under its name; a head of labels takes the place of that of pre-training."""

    def shapes(path):
        if path.suffix == ".ckpt":
            sets = read_torch(path)
            return {f"{one}/{k}": v.shape for one, content in sets.items() for k, v in content["state_dict"].items()}
        return {key: tensor.shape for key, tensor in read_tensors(path).items()}

    (weights,) = [
        path
        for path in listed(folder)
        if path.suffix in (".ckpt", ".pth", ".pt", ".torch", ".safetensors")
        and path.name not in ("all_tokens.torch", "changes.safetensors", "cells.safetensors")
    ]
    before, after = shapes(written.weights), shapes(weights)
    if head == "published":
        own = {key for key in after if key.startswith(HEADS)}
        assert own, "the head has its place"
        before = {k: v for k, v in before.items() if not k.startswith((*PRETRAINING, *HEADS))}
        after = {k: v for k, v in after.items() if k not in own}
        after = {k: v for k, v in after.items() if not k.startswith(PRETRAINING)}
    assert after == before
