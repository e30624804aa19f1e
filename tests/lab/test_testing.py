"""The kit for authors finds what is wrong with a model, and says which check found it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scfm_lab._model_checks import ModelChecks
from scfm_lab.cells.genes import Vocabulary
from scfm_lab.errors import PluginError
from scfm_lab.inference import engine
from scfm_lab.models.contract import Model, aligned_counts
from scfm_lab.models.spec import ModelSpec, Option
from scfm_lab.models.tokens import Tokens
from scfm_lab.testing import CheckFailed, Fault, NotApplicable, check_model, check_panel, run_checks

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = "the digest of the settings"
GENES = np.array([f"GENE{i}" for i in range(40)], dtype=object)


class Plain(Model):
    """Random projection of log-normalised counts: the least a model can be."""

    family = "plain"

    def __init__(self) -> None:
        self.vocabulary = Vocabulary(GENES, np.array([""] * len(GENES), dtype=object))
        self.table = np.random.default_rng(0).normal(size=(len(GENES), 4)).astype(np.float32)
        self.digest = "sha256:" + hashlib.sha256(self.table.tobytes()).hexdigest()
        self.spec = ModelSpec(
            name="plain",
            family="plain",
            genes="symbol",
            organisms=("human",),
            n_genes=len(GENES),
            width=4,
            max_length=0,
            abilities=frozenset({"embed", "perturb"}),
            licence="BSD-3-Clause",
            citation="none",
            determinism="no chance",
        )

    def _tokenize(self, cells, options, seed):
        counts = aligned_counts(cells, self.require_genes(cells.genes), len(self.vocabulary))
        values = np.log1p(counts.data * np.repeat(1e4 / np.maximum(cells.total, 1), np.diff(counts.indptr)))
        return Tokens(counts.indices.astype(np.int64), values.astype(np.float32), counts.indptr.astype(np.int64))

    def _forward(self, batch, request):
        import torch

        table = torch.as_tensor(self.table)
        out = torch.zeros(len(batch), 4, dtype=torch.float64)
        cell = torch.as_tensor(np.repeat(np.arange(len(batch)), batch.lengths))
        out.index_add_(0, cell, (table[batch.ids] * batch.values[:, None]).double())
        return out.float(), None


class MeanOfBatch(Plain):
    """Takes the batch's mean away, as batch normalisation in training mode does."""

    def _forward(self, batch, request):
        cells, genes = super()._forward(batch, request)
        return cells - cells.mean(dim=0), genes


class GenesInFileOrder(Plain):
    """Takes the first twenty columns of the file, whichever they are."""

    def _tokenize(self, cells, options, seed):
        tokens = super()._tokenize(cells, options, seed)
        first = self.require_genes(cells.genes).ids[:20]
        values = np.where(np.isin(tokens.ids, first), tokens.values, 0).astype(np.float32)
        return replace(tokens, values=values)


class GlobalChance(Plain):
    """Draws from numpy's global state, without effect on its vectors."""

    def _forward(self, batch, request):
        np.random.random()  # noqa: NPY002 - the fault
        return super()._forward(batch, request)


class Chance(Plain):
    """Adds noise of its own."""

    generator = np.random.default_rng()

    def _forward(self, batch, request):
        cells, genes = super()._forward(batch, request)
        return cells + float(self.generator.normal(scale=0.1)), genes


class ZerosForTheBlind(Plain):
    """Gives a vector to cells of which it sees nothing."""

    def encode(self, tokens, **options):
        states = super().encode(tokens, **options)
        return replace(states, cell=np.nan_to_num(states.cell))


class OwnLoop(Plain):
    """Encodes without the engine, and so hears nobody."""

    def encode(self, tokens, *, genes=False, batch_size=None, progress=None, cancel=None, **_):
        return engine.encode(self, tokens, engine_request(), batch_size=batch_size)


class PerturbedDepth(Plain):
    """Normalises by what is left of the cell, so that a knockout moves every other gene; and the silent too."""

    def _forward(self, batch, request):
        cells, genes = super()._forward(batch, request)
        return cells, genes

    def _tokenize(self, cells, options, seed):
        left = np.asarray(cells.counts.sum(axis=1)).ravel() + (0 if cells.baseline is None else 50)
        return super()._tokenize(replace(cells, total=left.astype(np.float64)), options, seed)


class Hoarder(Plain):
    """Keeps every result."""

    kept: list[np.ndarray]

    def __init__(self) -> None:
        super().__init__()
        self.kept = []

    def _forward(self, batch, request):
        self.kept.append(np.ones(200_000))
        return super()._forward(batch, request)


class WritesIntoTheCells(Plain):
    """Leaves a column behind."""

    def tokenize(self, data, **options):
        if hasattr(data, "obs"):
            data.obs["seen"] = 1
        return super().tokenize(data, **options)


class Doubles(Plain):
    """Gives float64."""

    def encode(self, tokens, **options):
        states = super().encode(tokens, **options)
        return replace(states, cell=states.cell.astype(np.float64))


class IncompleteSpec(Plain):
    """Says too little, and too much."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = ""
        self.spec = replace(
            self.spec,
            licence="",
            n_genes=7,
            abilities=frozenset({"embed", "fly"}),
            options={"depth": Option(int, "deep", "how deep")},
        )


class HoldsATime(Plain):
    """Holds what is another thing in every opening."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        HoldsATime.made += 1
        self.opened_at = HoldsATime.made

    @classmethod
    def open(cls, path, *, config=None, files=None):
        return cls()


class HidesWhatDecides(Plain):
    """Says of its table that it only tells where something lies."""

    places = Model.places | {"table"}


class KnowsItsFiles(Plain):
    """Keeps where each of its files lies, by what it is."""

    places = Model.places | {"tables"}

    def __init__(self) -> None:
        super().__init__()
        self.tables = {"genes": Path("genes.tsv"), "medians": Path("medians.tsv")}


class Scaled(Plain):
    """Opened with a scale."""

    @classmethod
    def open(cls, path, *, config=None, files=None):
        made = cls()
        made.scale = (config or {}).get("scale", 1.0)
        return made


class ForgetsItsScale(Scaled):
    """Its vectors depend on a scale, and nothing that names them does."""

    @classmethod
    def open(cls, path, *, config=None, files=None):
        made = super().open(path, config=config)
        made.settings_digest = "sha256:always the same"
        return made


class EmptyPromise(Plain):
    """Says that it can give gene embeddings, and cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, abilities=frozenset({"embed", "gene_embeddings"}))


def engine_request():
    from scfm_lab.models.tokens import Request

    return Request()


def test_a_right_model_passes_every_check_that_applies():
    report = check_model(Plain())
    assert report.passed
    assert [check.name for check in report.checks if check.state == "skipped"] == ["the manifest agrees with the spec"]
    assert report.summary().startswith("plain: 16 checks passed.")
    assert check_model(KnowsItsFiles()).passed


@pytest.mark.parametrize(
    ("model", "found_by"),
    [
        (
            MeanOfBatch,
            {"a cell's vector does not depend on the batch", "a cell's vector does not depend on the cells beside it"},
        ),
        (GenesInFileOrder, {"a cell's vector does not depend on the genes' order"}),
        (GlobalChance, {"the same input gives the same vectors"}),
        (Chance, {"the same input gives the same vectors", "a cell's vector does not depend on the cells' order"}),
        (ZerosForTheBlind, {"genes and cells it does not know"}),
        (OwnLoop, {"progress", "cancelling within one batch"}),
        (PerturbedDepth, {"doses"}),
        (Hoarder, {"memory is released"}),
        (WritesIntoTheCells, {"the cells stay as they are"}),
        (Doubles, {"shapes and types"}),
        (IncompleteSpec, {"the spec is complete"}),
        (EmptyPromise, {"abilities"}),
        (HoldsATime, {SETTINGS}),
        (HidesWhatDecides, {SETTINGS}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_each_fault_is_found_by_its_check(model: Callable[[], Model], found_by: set[str]):
    with pytest.raises(CheckFailed) as caught:
        check_model(model())
    failed = {check.name for check in caught.value.report.failed}
    assert found_by <= failed
    for name in failed:
        assert name in str(caught.value)


def test_another_configuration_has_another_digest():
    def seen(model):
        return ModelChecks.of(model, None, config={"scale": 2.0}).settings()

    assert seen(Scaled.open(None)) == "opened twice; another one with config="
    with pytest.raises(Fault, match=r"scale.* has the same settings_digest"):
        seen(ForgetsItsScale.open(None))
    with pytest.raises(Fault, match=r"opened_at is not the same in both"):
        ModelChecks.of(HoldsATime(), None).settings()


def test_faults_do_not_raise_alarm_elsewhere():
    for model, only in ((GlobalChance, "the same input gives the same vectors"), (Hoarder, "memory is released")):
        with pytest.raises(CheckFailed) as caught:
            check_model(model())
        assert [check.name for check in caught.value.report.failed] == [only]


def test_the_spec_names_all_that_is_wrong_with_it():
    with pytest.raises(CheckFailed) as caught:
        check_model(IncompleteSpec())
    detail = next(check.detail for check in caught.value.report.checks if check.name == "the spec is complete")
    for said in ("licence", "n_genes is 7, the vocabulary holds 40", "'fly'", "'depth'", "sha256"):
        assert said in detail


def test_the_model_is_given_back_as_it_was(pbmc68k):
    model = Plain()
    model.to("cpu", "bfloat16")
    check_model(model)
    assert (model.device, model.precision) == ("cpu", "bfloat16")


def test_all_checks_run_whatever_one_of_them_does():
    ran = []

    def check(outcome: Exception | None) -> Callable[[], None]:
        def run() -> None:
            ran.append(outcome)
            if outcome is not None:
                raise outcome

        return run

    with pytest.raises(CheckFailed) as caught:
        run_checks(
            "x",
            [
                ("a", check(Fault("bad"))),
                ("b", check(ValueError("worse"))),
                ("c", check(NotApplicable("no"))),
                ("d", check(None)),
            ],
        )
    assert len(ran) == 4
    assert [(c.name, c.state) for c in caught.value.report.checks] == [
        ("a", "failed"),
        ("b", "failed"),
        ("c", "skipped"),
        ("d", "passed"),
    ]
    assert "ValueError: worse" in str(caught.value)


@pytest.mark.parametrize("name", ["pca", "sctop", "starter"])
def test_our_own_models_pass(name):
    report = check_model(f"scfm.{name}", process=name == "starter")
    digest = next(check for check in report.checks if check.name == SETTINGS)
    assert digest.detail == "opened twice" + (", and in another process" if name == "starter" else "")
    assert {check.state for check in report.checks} <= {"passed", "skipped"}


def test_an_unknown_panel_is_an_error_in_words():
    with pytest.raises(PluginError, match=r"No plugin contributes 'no-such\.panel' to panels"):
        check_panel("no-such.panel")
