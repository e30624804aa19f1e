"""Every published family can be fine-tuned, kept as what changed, and where it has a format for it, written in full."""

from __future__ import annotations

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import ModelError

FULL = ("scgpt", "geneformer", "scbert")


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
    if written.family not in FULL:
        with pytest.raises(ModelError, match="kept as what changed"):
            tuned.save(tmp_path / "full", full=True)
        return
    folder = tuned.save(tmp_path / "full", full=True)
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
