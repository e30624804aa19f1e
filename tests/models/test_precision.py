"""The precision of a run: its name, its numbers, and the choice that is verified on the user's own cells."""

from __future__ import annotations

import json
import platform
from dataclasses import replace

import numpy as np
import pytest
import torch
import writers
from torch.utils._python_dispatch import TorchDispatchMode

import scfm_lab as sl
from scfm_lab.cells.stored import open_stored
from scfm_lab.errors import DataError, ModelError
from scfm_lab.inference import cluster
from scfm_lab.inference import precision as p
from scfm_lab.inference.hardware import GIB, Hardware
from scfm_lab.inference.plan import cut, longest_of, some
from scfm_lab.inference.precision import FLOAT32, Precision, Verified, neighbour_overlap, verify
from scfm_lab.models import layers
from scfm_lab.models.layers import MOST_SCORES
from scfm_lab.models.tokens import Request
from scfm_lab.tasks.embed_run import Asked

LOW = Precision("bfloat16", "float32", explicit=True)
NAMES = [
    "float32",
    "bfloat16",
    "float16",
    "bfloat16+float32-attention",
    "bfloat16+explicit-attention",
    "bfloat16+float32-explicit-attention",
    "float32+explicit-attention",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_all_and_is_read_back(name):
    assert str(Precision.parse(name)) == name


def test_short_names_are_understood():
    assert Precision.parse("bf16") == Precision("bfloat16", "bfloat16")


@pytest.mark.parametrize("name", ["bfloat", "float64", "bfloat16+", "bfloat16+fast-attention", "bfloat16+explicit", ""])
def test_what_is_no_precision_is_refused_with_those_that_are(name):
    with pytest.raises(ModelError, match=r"not known; use 'auto', 'float32', 'bfloat16', 'float16'"):
        sl.load_model("starter", precision=name)


def test_neighbours_are_compared_cell_by_cell():
    points = np.random.default_rng(0).normal(size=(100, 5))
    assert neighbour_overlap(points, points * 3) == 1.0
    other = np.random.default_rng(1).normal(size=(100, 5))
    # Of 99 others, 15 drawn twice share 15/99.
    assert neighbour_overlap(points, other) == pytest.approx(15 / 99, abs=0.06)


@pytest.fixture(scope="module")
def large(tmp_path_factory, _pbmc68k):
    """More than 5 million parameters, nearly all of them in the table of tokens: quick all the same."""
    names = [*_pbmc68k.var_names, *(f"GENE{i}" for i in range(60_000))]
    folder = tmp_path_factory.mktemp("large") / "scgpt"

    def tame(tensors):
        return {k: v * 0.1 if v.ndim == 2 else v for k, v in tensors.items()}

    return writers.write_scgpt(folder, _pbmc68k, d=96, heads=4, f=96, genes=names, change=tame)


def test_lower_precision_is_near_and_the_weights_stay(large, few):
    exact = sl.load_model(large, device="cpu", precision="float32")
    tokens = exact.tokenize(few)
    truth = exact.encode(tokens).cell
    for name in ("bfloat16", "bfloat16+float32-attention", "bfloat16+explicit-attention", "float32+explicit-attention"):
        model = sl.load_model(large, device="cpu", precision=name)
        assert model.precision == name
        found = model.encode(tokens).cell
        cosine = (truth * found).sum(1)
        assert cosine.min() > 0.999, name
        assert not np.array_equal(found, truth), name
        np.testing.assert_array_equal(model.encode(tokens, precision=FLOAT32).cell, truth)


def test_auto_takes_what_was_verified_and_says_so(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    model = sl.load_model(large, device="cpu", precision="auto")
    assert model.precision == "float32"
    told = sl.embed(pbmc68k, model, progress=False, copy=True, cache=False).provenance
    verified = Verified(
        told["precision_tried"],
        told["precision_overlap"],
        told["precision_cosine"],
        told["precision_cells"],
        told["precision_speedup"],
    )
    assert told["precision"] == (verified.precision if verified.holds else "float32")
    # What was found is kept, and the precision in the provenance asks for the same again.
    kept = json.loads((tmp_path / "precision.json").read_text())
    assert [entry["precision"] for entry in kept.values()] == [told["precision_tried"]]
    again = sl.embed(pbmc68k, model, progress=False, copy=True, cache=False)
    assert told["precision_found_on"] == "cells of this run"
    assert again.provenance["precision_found_on"] == "cells of an earlier run"
    named = sl.load_model(large, device="cpu", precision=told["precision"])
    same = sl.embed(pbmc68k, named, progress=False, copy=True, cache=False)
    np.testing.assert_array_equal(again.vectors, same.vectors)
    # A perturbation is float32 whatever was found.
    shift = sl.perturb(pbmc68k[:40].copy(), model, {"CD74": 0.0}, null=False, progress=False)
    assert shift.provenance["precision"] == "float32"


def test_a_precision_that_loses_the_answer_is_not_taken(tmp_path, pbmc68k):
    def huge(tensors):
        return {k: v * 3e4 if k.endswith("linear1.weight") else v for k, v in tensors.items()}

    folder = writers.write_scgpt(tmp_path / "scgpt", pbmc68k, d=24, heads=3, f=40, change=huge)
    model = sl.load_model(folder, device="cpu", precision="auto")
    tokens = model.tokenize(pbmc68k[:64].copy())
    found = verify(model, tokens, Request(), Precision("float16", "float16"))
    assert not found.holds
    assert found.overlap < p.MIN_OVERLAP
    assert found.cells == 64


def test_the_plan_tells_the_precision_that_was_found(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    model = sl.load_model(large, device="cpu", precision="auto")
    assert sl.plan(pbmc68k, model).precision == "float32"
    found = Verified("bfloat16", overlap=0.97, cosine=0.9999, cells=64, speedup=2.0)
    p._keep(p._where(model, Request()), vars(found))
    assert sl.plan(pbmc68k, model).precision == "bfloat16"
    told = sl.embed(pbmc68k, model, progress=False, copy=True).provenance
    assert (told["precision"], told["precision_speedup"]) == ("bfloat16", 2.0)
    p._keep(p._where(model, Request()), vars(Verified("bfloat16", overlap=0.94, cosine=0.9999, cells=64, speedup=2.0)))
    assert sl.plan(pbmc68k, model).precision == "float32"


def test_the_plan_knows_its_options_and_what_a_gpu_elsewhere_tries_first(large, few, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    model = sl.load_model(large, device="cpu", precision="auto")
    assert "float32 (not tried yet)" in sl.plan(few, model, sample=2).summary()
    p._keep(p._where(model, Request()), vars(Verified("bfloat16", overlap=1.0, cosine=1.0, cells=64, speedup=9.0)))
    exact, gpu = (
        {"like_reference": True},
        Hardware("there", 8, 64, 60, "cuda", device_gib=80, device_free_gib=78, bf16=True),
    )

    def told(model, **more):
        plan = sl.plan(few, model, sample=2, **more)
        return plan.precision, plan.untried

    assert told(model) == ("bfloat16", False)
    assert told(model, options=exact) == ("float32", False)
    assert told(model, hardware=gpu) == ("bfloat16", True)
    assert told(model, hardware=replace(gpu, bf16=False)) == ("float16", True)
    assert told(model, hardware=replace(gpu, device="cpu")) == ("float32", True)
    assert told(model, hardware=gpu, options=exact) == ("float32", False)
    assert told(sl.load_model(large, device="cpu", precision="float32"), hardware=gpu) == ("float32", False)


def test_the_references_way_is_exact_whatever_was_found(large, few, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    model = sl.load_model(large, device="cpu", precision="auto")
    p._keep(p._where(model, Request()), vars(Verified("bfloat16", overlap=1.0, cosine=1.0, cells=64, speedup=9.0)))
    told = sl.embed(few, model, like_reference=True, progress=False, copy=True).provenance
    assert told["precision"] == "float32"
    assert "precision_tried" not in told


def test_small_networks_stay_exact(model, few):
    model.to("cpu", "auto")
    told = sl.embed(few, model, progress=False, copy=True).provenance
    assert told["precision"] == "float32"
    assert "precision_tried" not in told


def test_what_few_cells_showed_is_tried_again_on_more(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    model = sl.load_model(large, device="cpu", precision="auto")
    few = Verified("bfloat16", overlap=1.0, cosine=1.0, cells=8, speedup=9.0)
    p._keep(p._where(model, Request()), vars(few))
    assert p.known(model, Request(), 8) == few
    assert p.known(model, Request(), 9) is None
    assert sl.plan(pbmc68k[:8].copy(), model).precision == "bfloat16"
    assert sl.plan(pbmc68k, model).untried
    told = sl.embed(pbmc68k, model, progress=False, copy=True, cache=False).provenance
    assert told["precision_found_on"] == "cells of this run"
    assert told["precision_cells"] == p.SAMPLE
    assert p.known(model, Request(), 10**6).cells == p.SAMPLE


def test_a_few_cells_are_not_tried_and_no_kernel_is_timed_for_them(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    timed = []
    monkeypatch.setattr(p, "candidates", lambda model, tokens: timed.append(len(tokens)) or (LOW,))
    model = sl.load_model(large, device="cpu", precision="auto")
    few, more = pbmc68k[:7].copy(), pbmc68k[:8].copy()
    assert sl.embed(few, model, progress=False, copy=True).provenance["precision"] == "float32"
    assert timed == []
    tokens = model.tokenize(more)
    assert p.expected(model, Request(), {}, tokens, 8) == (LOW, FLOAT32)
    # What was found on as many is an answer.
    p._keep(p._where(model, Request()), vars(Verified("bfloat16", overlap=1.0, cosine=1.0, cells=8, speedup=9.0)))
    assert p.expected(model, Request(), {}, tokens, 7) == (Precision("bfloat16", "bfloat16"),)


@pytest.fixture
def tight(large, pbmc68k, monkeypatch, tmp_path):
    """Some cells, their file, and a budget that is enough for float32 and too little for the scores of another precision."""
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(p, "candidates", lambda model, tokens: (LOW,))
    cells = pbmc68k[:60].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    model = sl.load_model(large, device="cpu", precision="auto")
    reader = model.cell_reader(cells)
    longest = longest_of(model.tokenize(some(reader)))
    exact, low = (
        cut(model, reader, device="cpu", longest=longest, chunk_size=1, precisions=(one,)).running("cpu") / GIB
        for one in (FLOAT32, LOW)
    )
    assert low - exact > 0.001
    return cells, tmp_path / "cells.h5ad", (exact + low) / 2, longest


def test_a_precision_without_room_refuses_no_run_that_fits_in_float32(large, tight):
    cells, _, budget, _ = tight
    model = sl.load_model(large, device="cpu", precision="auto")

    def told(**more):
        plan = sl.plan(cells, model, **more)
        return plan.precision, plan.untried

    assert told() == ("float32", True)
    assert told(budget_gib=budget) == ("float32", False)
    asked = {"progress": False, "copy": True, "budget_gib": budget}
    found = sl.embed(cells, model, **asked)
    assert found.provenance["precision"] == "float32"
    assert p.known(model, Request()) is None, "with more memory it is tried"
    p._keep(p._where(model, Request()), vars(Verified(str(LOW), overlap=1.0, cosine=1.0, cells=64, speedup=9.0)))
    assert told() == (str(LOW), False)
    assert told(budget_gib=budget) == ("float32", False)
    np.testing.assert_array_equal(sl.embed(cells, model, **asked).vectors, found.vectors)
    # What somebody names is what they get.
    with pytest.raises(DataError, match="too small for one cell"):
        sl.embed(cells, sl.load_model(large, device="cpu", precision=str(LOW)), **asked)


def test_one_of_the_precisions_may_have_room(large, pbmc68k, tight, monkeypatch):
    cells, _, budget, _ = tight
    half = Precision("bfloat16", "bfloat16")
    tried = []
    monkeypatch.setattr(p, "candidates", lambda model, tokens: (LOW, half))
    monkeypatch.setattr(p, "verify", lambda m, t, r, one, **k: tried.append(one) or Verified(str(one), 0, 0, 64, 0))
    model = sl.load_model(large, device="cpu", precision="auto")
    asked = {"progress": False, "copy": True}
    assert sl.embed(cells, model, budget_gib=budget, **asked).provenance["precision"] == "float32"
    assert tried == [half]
    assert p.known(model, Request()) is None, "not all of them were tried"
    sl.embed(cells, model, **asked)
    assert tried == [half, LOW, half]
    assert p.known(model, Request()).choice == FLOAT32


@pytest.fixture
def order(large, tight):
    """What a worker is told."""

    def make(**given):
        _, path, _, longest = tight
        model = sl.load_model(large, device="cpu", precision="auto")
        asked = Asked(open_stored(path), model, options=model.check_options(None), cluster="", **given)
        return cluster._order(asked, model.cell_reader(asked.source), asked.options, longest)

    cluster._opened.clear()
    yield make
    cluster._opened.clear()


def test_a_worker_without_room_says_float32_and_computes_nothing_else(order, tight, tmp_path):
    told = order(budget_gib=tight[2])
    found = cluster.look(told)
    assert (found.precision, found.found) == ("float32", {})
    told |= {"folder": str(tmp_path), "wanted": "cells.h5ad", "device": "cpu", "precision": str(LOW)}
    with pytest.raises(DataError, match=r"A worker has no room for what bfloat16\+float32-explicit-attention takes"):
        cluster.work(told, 0, 10)
    assert cluster.work(told | {"precision": "float32"}, 0, 10) == (0, 10)


def test_a_worker_tries_once_for_all_of_its_kind(order, tmp_path, monkeypatch):
    explicit, verified, tried = Precision("float32", "float32", explicit=True), p.verify, []

    def verify(*args, **given):
        tried.append(args[-1])
        return verified(*args, **given)

    # Near enough on every machine; how fast it is there is nothing to the point.
    monkeypatch.setattr(p, "candidates", lambda model, tokens: (explicit,))
    monkeypatch.setattr(p, "_WORTH", 0.0)
    monkeypatch.setattr(p, "verify", verify)
    told = order()
    first, again = cluster.look(told), cluster.look(told)
    assert first.precision == again.precision == "float32+explicit-attention"
    assert [way.found["precision_found_on"] for way in (first, again)] == [
        "cells of this run",
        "cells of an earlier run",
    ]
    assert tried == [explicit]

    def kept():
        return list(json.loads((tmp_path / "home" / "precision.json").read_text()))

    parts = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"
    [key] = kept()
    assert key.startswith(f"workers cpu {parts} sha256:")
    # What is fast on one kind is not known of another.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    p.kind_of_machine.cache_clear()
    try:
        cluster.look(told)
    finally:
        p.kind_of_machine.cache_clear()
    assert tried == [explicit, explicit]
    assert len(kept()) == 2


class Lacks(TorchDispatchMode):
    """A device that lacks an operator in some dtype, as MPS does: its name, and what PyTorch says."""

    def __init__(self, operator: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.operator, self.dtype = operator, dtype

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, torch.Tensor)]
        if self.operator in str(func) and any(a.dtype == self.dtype for a in given):
            raise NotImplementedError(
                f"The operator '{func}' is not currently implemented for the MPS device. If you want this op to be added"
            )
        return func(*args, **(kwargs or {}))


def test_a_precision_that_does_not_run_is_not_taken_and_told(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    monkeypatch.setattr(p, "candidates", lambda model, tokens: p.on_accelerator("mps", bf16=False))
    model = sl.load_model(large, device="cpu", precision="auto")
    exact = sl.embed(pbmc68k, sl.load_model(large, precision="float32"), progress=False, copy=True, cache=False)
    with Lacks("linear", torch.float16):
        found = sl.embed(pbmc68k, model, progress=False, copy=True, cache=False)
    assert found.provenance["precision"] == "float32"
    tried = found.provenance["precision_tried"]
    assert tried.startswith("float16 (does not run here: NotImplementedError: The operator 'aten.linear")
    np.testing.assert_array_equal(found.vectors, exact.vectors)
    # It may have been a fault of the moment, such as a full memory: nothing is kept.
    assert p.known(model, Request()) is None
    # What float32 cannot do, nothing can.
    with Lacks("linear", torch.float32), pytest.raises(NotImplementedError):
        sl.embed(pbmc68k, model, progress=False, copy=True, cache=False)


def test_a_device_is_asked_once_whether_it_runs_a_layer(monkeypatch):
    half = Precision("float16", "float16")
    p.fails_on.cache_clear()
    before = torch.get_rng_state()
    try:
        assert p.fails_on("cpu", half) == ""
        assert torch.equal(torch.get_rng_state(), before)
        with Lacks("", torch.float16):
            assert p.fails_on("cpu", half) == "", "asked before"
            p.fails_on.cache_clear()
            why = p.fails_on("cpu", half)
            assert why.startswith("NotImplementedError: The operator")
            assert p.fails_on("cpu", FLOAT32) == ""
    finally:
        p.fails_on.cache_clear()


def test_cells_are_not_tried_where_a_layer_does_not_run(large, few, monkeypatch):
    model = sl.load_model(large, device="cpu", precision="auto")
    tokens = model.tokenize(few)
    monkeypatch.setattr(p, "fails_on", lambda device, precision: f"{device} has no {precision}")
    model.device = "mps"
    found = verify(model, tokens, Request(), Precision("float16", "float16"))
    assert found.failed == "mps has no float16"
    assert found.choice == FLOAT32


def test_effects_are_float32_where_a_precision_does_not_run(geneformer, pbmc68k, monkeypatch):
    monkeypatch.setattr(p, "candidates", lambda model, tokens: p.on_accelerator("mps", bf16=False))
    model = sl.load_model(geneformer, device="cpu", precision="auto")
    tokens = model.tokenize(pbmc68k[:2].copy())
    with Lacks("linear", torch.float16):
        precision, told = p.for_effects(model, tokens, lambda precision: [np.arange(20.0)])
    assert precision == FLOAT32
    assert "does not run here: NotImplementedError" in told["precision_tried"]


def test_effects_are_timed_after_first_calls_of_either_precision(large, pbmc68k, monkeypatch, tmp_path):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path))
    monkeypatch.setattr(p, "candidates", lambda model, tokens: (LOW,))
    model = sl.load_model(large, device="cpu", precision="auto")
    tokens, encode, calls = model.tokenize(pbmc68k[:2].copy()), model.encode, []

    def encoded(tokens, *, precision):
        calls.append(("encode", precision))
        return encode(tokens, precision=precision)

    def measured(precision):
        calls.append(("measure", precision))
        return [np.arange(20.0)]

    model.encode = encoded
    p.for_effects(model, tokens, measured)
    assert calls == [(what, one) for one in (FLOAT32, LOW) for what in ("encode", "measure")]


def test_copies_of_weights_and_scores_of_attention_are_in_the_plan(geneformer, pbmc68k, monkeypatch):
    low = Precision("bfloat16", "float32", explicit=True)
    model = sl.load_model(geneformer, device="cpu", precision="auto")
    held = model.held_bytes()
    assert held == model.weight_bytes()
    # The layer that is the last as published is not the network's last.
    model.encode(model.tokenize(pbmc68k[:2].copy()), precision=low, hidden_layer=-1)
    assert model.copies_bytes(FLOAT32) == 0
    assert model.held_bytes() - held == model.copies_bytes(low) > 0.2 * held
    model.forget_copies()
    assert model.held_bytes() == held
    reader = model.cell_reader(pbmc68k)
    there = Hardware("there", 8, 64, 60)
    sizes = {
        one: cut(model, reader, device="cpu", hardware=there, longest=4096, precisions=(one,)) for one in (FLOAT32, low)
    }
    assert sizes[low].copies == model.copies_bytes(low)
    assert sizes[low].batch - sizes[FLOAT32].batch == 8 * MOST_SCORES
    more = 1.25 * (sizes[low].copies + 8 * MOST_SCORES)
    assert sizes[low].running("cpu") - sizes[FLOAT32].running("cpu") == pytest.approx(more, abs=2)
    # What is not known yet is planned with all that may be tried.
    monkeypatch.setattr(p, "candidates", lambda model, tokens: (low,))
    assert sl.plan(pbmc68k, model).sizes.copies == model.copies_bytes(low)


class Largest(TorchDispatchMode):
    """The largest scores that a softmax was taken of."""

    scores = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "softmax" in str(func):
            self.scores = max(self.scores, args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("most", [1 << 24, 5000, 2000, 100])
def test_explicit_attention_never_holds_more_scores_than_that(monkeypatch, most):
    monkeypatch.setattr(layers, "MOST_SCORES", most)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 4, 40, 8, generator=generator) for _ in range(3))
    mask = torch.rand(3, 1, 1, 40, generator=generator) > 0.2
    for given in (None, mask):
        with Largest() as largest:
            found = layers.explicit_attention(query, key, value, attn_mask=given)
        torch.testing.assert_close(
            found,
            torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given),
            atol=1e-5,
            rtol=0,
        )
        assert 0 < largest.scores <= most


@pytest.fixture(scope="module", params=["V1", "V2"])
def geneformer(request, tmp_path_factory, _pbmc68k):
    """More than 5 million parameters in a few wide layers."""
    folder = tmp_path_factory.mktemp("geneformer") / "large"

    def tame(tensors):
        return {k: v * 0.02 / v.std().clamp_min(1e-9) if v.ndim == 2 else v for k, v in tensors.items()}

    return writers.write_geneformer(
        folder, _pbmc68k, version=request.param, d=512, heads=8, f=1024, layers=3, change=tame
    )


def test_a_models_own_perturbation_takes_a_precision_that_keeps_its_effects(geneformer, pbmc68k):
    exact = sl.load_model(geneformer, device="cpu", precision="float32")
    model = sl.load_model(geneformer, device="cpu", precision="auto")
    faster = bool(p.candidates(model, exact.tokenize(pbmc68k[:2].copy())))
    # Where no lower precision is faster, there is nothing to try on many cells.
    tokens = exact.tokenize(pbmc68k[: 40 if faster else 4].copy())
    genes = np.bincount(tokens.ids[tokens.ids > 4]).argsort()[::-1][:12].tolist()
    truth, found = (m.perturb_each(tokens, "delete", genes=genes) for m in (exact, model))
    assert (truth.precision, truth.precision_found) == ("float32", {})
    told = found.precision_found
    if not faster:
        assert (found.precision, told) == ("float32", {}), "no lower precision is faster on this machine"
        return
    holds = told["precision_effect_error"] <= p.MAX_EFFECT_ERROR and told["precision_speedup"] >= 1.3
    assert found.precision == (told["precision_tried"] if holds else "float32")
    named = sl.load_model(geneformer, device="cpu", precision=told["precision_tried"])
    low = named.perturb_each(tokens, "delete", genes=genes)
    error = np.sqrt(np.mean((low.cosine - truth.cosine) ** 2)) / truth.cosine.std()
    # The error that was found on a sample is that of all.
    assert error == pytest.approx(told["precision_effect_error"], rel=0.5)
    assert error > 0


def test_few_perturbed_cells_are_not_worth_a_trial(geneformer, pbmc68k):
    model = sl.load_model(geneformer, device="cpu", precision="auto")
    tokens = model.tokenize(pbmc68k[:1].copy())
    found = model.perturb_each(tokens, "delete", genes=tokens.ids[tokens.ids > 4][:8].tolist())
    assert (found.precision, found.precision_found) == ("float32", {})


def test_some_of_the_perturbed_cells_are_those_of_all(geneformer, pbmc68k):
    from scfm_lab.models.geneformer_pairs import each, overexpressed
    from scfm_lab.models.geneformer_perturb import _measure, _specials

    model = sl.load_model(geneformer, device="cpu", precision="float32")
    tokens = model.tokenize(pbmc68k[:6].copy())
    few = {"hidden_layer": None, "states": None, "precision": FLOAT32}
    for pairs in (
        *each(tokens, "delete", _specials(model), np.arange(20, 30)),
        overexpressed(tokens, np.array([20]), _specials(model), max_length=model.spec.max_length),
    ):
        rows = np.arange(1, len(pairs.cells), 2)
        whole = _measure(model, "", pairs, **few)
        some = _measure(model, "", pairs.take(rows), **few)
        np.testing.assert_array_equal(some.cells, whole.cells[rows])
        np.testing.assert_array_equal(some.genes, whole.genes[rows])
        np.testing.assert_allclose(some.cosine, whole.cosine[rows], atol=1e-6)
