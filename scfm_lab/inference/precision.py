"""The precision of a run: named in one string, chosen by what is fast, and verified on the user's own cells."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, ScfmError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Request, Tokens

DTYPES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
_SUFFIX = "-attention"

#: What a lower precision must keep of float32's answer, on a sample of the user's cells.
MIN_OVERLAP, MIN_COSINE = 0.95, 0.9995
NEIGHBOURS = 15
SAMPLE = 64
"""Cells, or perturbed cells, that a precision is tried on."""
MAX_EFFECT_ERROR = 0.02
"""What a lower precision may change in the effects of perturbations: root mean square, over their standard deviation."""
_FEWEST = 8
# Below this many times float32's speed, a lower precision costs more trust than it saves time; so it does in small
# networks, where a run is short in any case.
_WORTH = 1.3
_SMALL = 5_000_000


@dataclass(frozen=True)
class Precision:
    """What products and attention are computed in. Sums, norms and embeddings are float32 always.

    ``str()`` gives the name that ``precision=`` reads: ``"float32"``, ``"bfloat16"``,
    ``"bfloat16+float32-attention"``, ``"bfloat16+explicit-attention"``.
    """

    products: str = "float32"
    attention: str = "float32"
    explicit: bool = False
    """softmax(QKᵀ)V as two matrix products, where that is faster than PyTorch's fused kernel."""

    def __str__(self) -> str:
        parts = [] if self.attention == self.products else [self.attention]
        parts += ["explicit"] if self.explicit else []
        return self.products + (f"+{'-'.join(parts)}{_SUFFIX}" if parts else "")

    @classmethod
    def parse(cls, name: str) -> Precision:
        """Read a precision's name.

        Raises
        ------
        ModelError
            If it is none.
        """
        products, plus, rest = str(name).partition("+")
        products = _SHORT.get(products, products)
        words = rest.removesuffix(_SUFFIX).split("-") if rest else []
        explicit = words[-1:] == ["explicit"]
        words = words[:-1] if explicit else words
        attention = words[0] if words else products
        if products not in DTYPES or attention not in DTYPES or len(words) > 1 or (plus and not rest.endswith(_SUFFIX)):
            raise ModelError(
                f"precision={name!r} is not known; use 'auto', {', '.join(map(repr, DTYPES))}, or what the provenance of "
                "an earlier run says." + did_you_mean(products, DTYPES)
            )
        return cls(products, attention, explicit)


FLOAT32 = Precision()


@dataclass(frozen=True)
class Verified:
    """How a precision stood against float32 on a sample of cells."""

    precision: str
    """What was tried."""
    overlap: float
    """Share of 15 nearest neighbours that are the same, mean over cells."""
    cosine: float
    """Between the vectors of a cell, the worst cell's."""
    cells: int
    speedup: float
    """Measured on those cells."""
    failed: str = ""
    """Why it does not run here; ``""`` where it does."""

    @property
    def holds(self) -> bool:
        """Whether it runs, is close enough to float32, and faster."""
        close = self.overlap >= MIN_OVERLAP and self.cosine >= MIN_COSINE
        return not self.failed and close and self.speedup >= _WORTH

    @property
    def says_enough(self) -> bool:
        """Whether so many cells were looked at that all their neighbours were: what fewer show says little of the next dataset."""
        return self.cells > 3 * NEIGHBOURS

    @property
    def choice(self) -> Precision:
        """The precision itself if it holds, else float32."""
        return Precision.parse(self.precision) if self.holds else FLOAT32

    def as_provenance(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "precision_tried": self.precision + (f" (does not run here: {self.failed})" if self.failed else ""),
            "precision_overlap": round(self.overlap, 4),
            "precision_cosine": round(self.cosine, 6),
            "precision_cells": self.cells,
            "precision_speedup": round(self.speedup, 2),
        }


def may_be_lower(model: Model, options: Mapping[str, Any]) -> bool:
    """Whether ``"auto"`` leaves a choice: not in small networks, and not where the reference's own numbers are wanted."""
    return (
        model.auto_precision
        and bool(model.spec.heads)
        and model.spec.parameters >= _SMALL
        and not options.get("like_reference")
    )


def known(model: Model, request: Request, cells: int = SAMPLE, *, machine: str | None = None) -> Verified | None:
    """What was found on this machine for this kind of output.

    Parameters
    ----------
    cells
        Of the run: what was found on a few cells is an answer for as few only.
    machine
        What stands for this machine; None: its own name and parts.

    Returns
    -------
    Verified or None
        None where nothing was tried yet that says enough.
    """
    found = _load().get(_where(model, request, machine))
    with contextlib.suppress(ScfmError, TypeError):
        if found is not None:
            verified = Verified(**found)
            Precision.parse(verified.precision)
            return verified if verified.says_enough or cells <= verified.cells else None
    return None


def all_that_may_be(model: Model, options: Mapping[str, Any]) -> tuple[Precision, ...]:
    """The precisions that take the most memory of those that a run may take, before anything is known of it."""
    if not may_be_lower(model, options):
        return (model.compute,)
    return (Precision("bfloat16", "float32", explicit=model.device == "cpu"),)


def expected(
    model: Model, request: Request, options: Mapping[str, Any], tokens: Tokens | None, cells: int
) -> tuple[Precision, ...]:
    """The precisions that a run of so many `cells` here may take: the one that was found, or those that it will try."""
    if tokens is None or not may_be_lower(model, options):
        return (model.compute,)
    found = known(model, request, cells)
    if found is not None:
        return (found.choice,)
    # So few are not tried, and what is fast need not be timed for them.
    return (FLOAT32,) if cells < _FEWEST else (*candidates(model, tokens), FLOAT32)


def for_run(
    model: Model,
    request: Request,
    options: Mapping[str, Any],
    sample: Callable[[], Tokens],
    *,
    cells: int,
    machine: str | None = None,
    without: Collection[Precision] = (),
    cancel: Any = None,
) -> tuple[Precision, dict[str, Any]]:
    """Precision of a run, and how it was found (for provenance).

    What the model was opened with, unless that was ``"auto"``: then the lower precision that is
    fast on this machine, if it holds on a sample of the run's cells, else float32. Networks of
    less than 5 million parameters and ``like_reference`` stay in float32. The choice is kept per
    machine, PyTorch, model and kind of output, so that the same call gives the same answer again;
    one that was found on 45 cells or fewer is tried again when a run has more.

    Parameters
    ----------
    sample
        Gives the tokens of :data:`SAMPLE` cells of the run, or of all; called only if something has to be tried.
    cells
        Of the run.
    machine
        What stands for this machine, where others take what is found here; None: its own name and parts.
    without
        Those that there is no room for now; they are not tried.
    """
    if not may_be_lower(model, options):
        return model.compute, {}
    verified = known(model, request, cells, machine=machine)
    earlier = verified is not None
    if verified is None:
        tokens = sample()
        rows = np.flatnonzero(tokens.genes_seen > 0)
        if len(rows) < _FEWEST:
            return FLOAT32, {}
        tried = [one for one in candidates(model, tokens) if one not in without] or [FLOAT32]
        for one in tried:
            found = verify(model, tokens.take(rows), request, one, cancel=cancel)
            verified = found if verified is None or found.holds else max(verified, found, key=lambda v: v.overlap)
            if found.holds:
                break
            # Copies of the weights in a precision that is not taken would stay for nothing.
            model.forget_copies()
        assert verified is not None
        # What few cells seem to lose says little about the next dataset; a failure, or a want of room, may be one of the moment.
        if (verified.holds or (verified.says_enough and not without)) and not verified.failed:
            _keep(_where(model, request, machine), asdict(verified))
    # What was kept was found on other cells, as far as anybody knows.
    found_on = "cells of an earlier run" if earlier else "cells of this run"
    return verified.choice, verified.as_provenance() | {"precision_found_on": found_on}


def verify(model: Model, tokens: Tokens, request: Request, precision: Precision, *, cancel: Any = None) -> Verified:
    """Run cells in float32 and in another precision, and compare speed and vectors.

    A precision that does not run on this device, in any of its operators, does not hold.
    """
    from scfm_lab.inference.engine import encode

    n = len(tokens)
    if precision == FLOAT32:
        return Verified(str(precision), 1.0, 1.0, n, 1.0)
    if model.device != "cpu" and (why := fails_on(model.device, precision)):
        return Verified(str(precision), 0.0, 0.0, n, 0.0, why)
    # First calls allocate, choose kernels and make the copies of the weights. A GPU chooses and loads kernels for each size,
    # which takes longer than the cells themselves; there the whole is computed twice.
    few = tokens if model.device != "cpu" else tokens.take(np.arange(min(n, 2)))
    vectors, seconds = [], []
    for one in (FLOAT32, precision):
        try:
            encode(model, few, request, precision=one, cancel=cancel)
            started = time.perf_counter()
            vectors.append(encode(model, tokens, request, precision=one, cancel=cancel).cell)
        # An operator or a dtype that the device lacks, or too little memory: whatever it is, float32 remains.
        except _NOT_RUN as error:
            if one == FLOAT32:
                raise
            return Verified(str(precision), 0.0, 0.0, n, 0.0, _in_short(error))
        seconds.append(time.perf_counter() - started)
    exact, low = (np.asarray(v, dtype=np.float64) for v in vectors)
    if not np.isfinite(low).all():
        return Verified(str(precision), 0.0, 0.0, n, seconds[0] / seconds[1])
    cosine = (exact * low).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(low, axis=1)).clip(1e-30)
    return Verified(
        str(precision), neighbour_overlap(exact, low), float(cosine.min()), n, seconds[0] / max(seconds[1], 1e-9)
    )


def neighbour_overlap(one: NDArray[Any], other: NDArray[Any], k: int = NEIGHBOURS) -> float:
    """Mean share of each cell's `k` nearest neighbours (Euclidean) that are the same in two embeddings.

    Of few cells fewer neighbours are looked at, a third of the others at most.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, max(1, (len(one) - 1) // 3))
    sets = [NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False) for x in (one, other)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*sets, strict=True)]))


def for_effects(
    model: Model, tokens: Tokens, measure: Callable[[Precision], Sequence[NDArray[Any]]]
) -> tuple[Precision, dict[str, Any]]:
    """Precision of a model's own in-silico perturbation, and how it was found.

    As :func:`for_run`, but what has to hold are the effects: against float32 they may err by
    :data:`MAX_EFFECT_ERROR`. That is tried anew in each run, since effects differ in size; which precision is fast here is
    found once per machine and model, so that a busy machine does not change the answer.

    Parameters
    ----------
    tokens
        Some of the perturbed cells.
    measure
        Gives the effects on these cells, one array for each read-out, in the precision asked for.
    """
    if not may_be_lower(model, {}):
        return model.compute, {}
    from scfm_lab.models.tokens import Request

    if not (fast := candidates(model, tokens)):
        return FLOAT32, {}
    where = f"{_where(model, Request())} perturbations"
    before = _load().get(where, {})
    tried = Precision.parse(before["precision"]) if before else fast[0]
    found, seconds = [], []
    for one in (FLOAT32, tried):
        try:
            # As for a run's cells: neither is to be timed with its first calls, and a GPU chooses kernels for each size.
            model.encode(tokens.take(np.arange(1)), precision=one)
            if not before and model.device != "cpu":
                measure(one)
            started = time.perf_counter()
            found.append([np.asarray(effects, np.float64) for effects in measure(one)])
        except _NOT_RUN as fault:
            if one == FLOAT32:
                raise
            return FLOAT32, {"precision_tried": f"{tried} (does not run here: {_in_short(fault)})"}
        seconds.append(time.perf_counter() - started)
    error = max(_effect_error(exact, low) for exact, low in zip(*found, strict=True))
    speedup = float(before["speedup"]) if before else seconds[0] / max(seconds[1], 1e-9)
    if not before:
        _keep(where, {"precision": str(tried), "speedup": speedup})
    told = {
        "precision_tried": str(tried),
        "precision_effect_error": round(error, 5),
        "precision_cells": len(tokens),
        "precision_speedup": round(speedup, 2),
    }
    return (tried if error <= MAX_EFFECT_ERROR and speedup >= _WORTH else FLOAT32), told


def _effect_error(exact: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    known = np.isfinite(exact)
    if not np.isfinite(low[known]).all() or known.sum() < _FEWEST or not exact[known].std():
        return float("inf")
    return float(np.sqrt(np.mean((low - exact)[known] ** 2)) / exact[known].std())


# --- what is fast here -------------------------------------------------------------------------


def candidates(model: Model, tokens: Tokens) -> tuple[Precision, ...]:
    """The lower precisions to try, the fastest first: dtypes and attention as they are fast here, at this model's sizes."""
    import torch

    kind = torch.device(model.device).type
    if kind != "cpu":
        return on_accelerator(kind, bf16=kind == "cuda" and torch.cuda.is_bf16_supported())
    spec = model.spec
    # Powers of two, so that datasets of about the same length share a measurement.
    length = 1 << int(np.clip(np.log2(max(float(np.median(tokens.lengths)), 1.0)).round(), 6, 12))
    hidden = model.hidden_width or spec.width
    return fast_on_cpu(hidden, spec.heads, spec.feed_forward, length)


def on_accelerator(kind: str, *, bf16: bool) -> tuple[Precision, ...]:
    """The lower precisions to try on a ``"cuda"`` or ``"mps"`` device, the fastest first; none for another."""
    half = Precision("float16", "float16")
    if kind == "cuda":
        # Both are fast; float16 keeps three more bits, and overflows sooner.
        return (Precision("bfloat16", "bfloat16"), half) if bf16 else (half,)
    return (half,) if kind == "mps" else ()


# What PyTorch raises where a device lacks an operator (NotImplementedError among them) or a dtype, or has too little memory.
_NOT_RUN = (RuntimeError, TypeError)


@cache
def fails_on(device: str, precision: Precision) -> str:
    """Why a layer of a transformer does not run on a device in a precision, tried on a small one; ``""`` where it does."""
    import torch

    from scfm_lab.models.layers import PackedEncoder
    from scfm_lab.models.products import running

    lengths = np.array([4, 7], np.int64)
    try:
        # Weights are drawn, and nobody's random numbers are to be others for that.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), running(precision):
            layer = PackedEncoder(1, 32, 4, 64, activation="gelu").to(device).eval()
            states = layer(torch.zeros(int(lengths.sum()), 32, device=device), lengths)
            return "" if bool(torch.isfinite(states.float()).all().cpu()) else "a small layer gives no numbers"
    except _NOT_RUN as error:
        return _in_short(error)


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@cache
def fast_on_cpu(width: int, heads: int, feed_forward: int, length: int) -> tuple[Precision, ...]:
    """Time products and attention of these sizes in each dtype (some 100 ms); the fastest first.

    Of each dtype the fastest attention, and the fastest in float32, as far as a layer gains by them.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    from scfm_lab.models.layers import explicit_attention

    def timed(work: Callable[[], Any]) -> float:
        work()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return min(times)

    tokens = max(length, 1024)
    # Products of a layer over those of the one that is timed; and cells that have so many tokens.
    products, cells = (4 * width + 2 * feed_forward) / feed_forward, tokens / length
    linear, attention = {}, {}
    with torch.inference_mode():
        x, weight = torch.randn(tokens, width), torch.randn(feed_forward, width)
        q = torch.randn(1, heads, length, max(width // heads, 1))
        for name in DTYPES:
            dtype = getattr(torch, name)
            linear[name] = products * timed(partial(F.linear, x.to(dtype), weight.to(dtype)))
            if name != "float32" and linear[name] * _WORTH > linear["float32"]:
                continue
            given = (q.to(dtype),) * 3
            attention[name, False] = cells * timed(partial(F.scaled_dot_product_attention, *given))
            attention[name, True] = cells * timed(partial(explicit_attention, *given))
    exact = linear["float32"] + min(attention["float32", explicit] for explicit in (False, True))
    layer = {}
    for name in DTYPES[1:]:
        for of in (name, "float32"):
            if (name, False) in attention and (of, False) in attention:
                explicit = attention[of, True] < attention[of, False]
                layer[Precision(name, of, explicit)] = linear[name] + attention[of, explicit]
    return tuple(sorted((one for one in layer if layer[one] * _WORTH < exact), key=layer.__getitem__))


# --- what was found before ---------------------------------------------------------------------


@cache
def kind_of_machine(device: str) -> str:
    """What a precision's speed on a device depends on, and which machines of one kind have in common: parts and PyTorch."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        name = torch.cuda.get_device_name(device)
    elif kind == "mps":
        name = platform.processor()
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind} {name} torch {torch.__version__}"


@cache
def _machine(device: str) -> str:
    import torch

    threads = f" x{torch.get_num_threads()}" if torch.device(device).type not in ("cuda", "mps") else ""
    return f"{platform.node()} {kind_of_machine(device)}{threads}"


def _where(model: Model, request: Request, machine: str | None = None) -> str:
    made = f"{model.digest} {model.settings_digest}"
    return f"{machine or _machine(model.device)} {made} {request.hidden_layer} {request.pooling} {request.genes}"


def _store() -> Path:
    from scfm_lab.home import data_home

    return data_home() / "precision.json"


def _load() -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(_store().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(where: str, found: dict[str, Any]) -> None:
    path = _store()
    # Two processes may both have measured: whoever writes last is right enough, and a home that cannot be written
    # to costs only another measurement.
    with contextlib.suppress(OSError):
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(json.dumps({**_load(), where: found}, indent=1), encoding="utf-8")
        new.replace(path)
