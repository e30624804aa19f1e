"""The process that a measurement runs in: ``python -m scfm_registry.measure_worker ANSWER < request``.

Its own process, so that the peak of its memory is the model's and not the notebook's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens


def main() -> int:
    """Read a request from standard input, write the answer to the file named on the command line."""
    from scfm_lab.errors import ScfmError

    request = json.loads(sys.stdin.read())
    try:
        answer = measure(request)
    except ScfmError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "there is not enough memory"}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Open, tokenize, run; returns the evidence without its head."""
    bare = _rss_mib()
    import numpy as np
    import torch

    import scfm_lab as sl
    from scfm_lab.inference import engine

    cells = sl.datasets.load("pbmc68k")
    cells = cells[np.arange(request["cells"]) % cells.n_obs].copy()
    # The file repeats cells beyond its 700; each copy is tokenised and run like any other cell.
    cells.obs_names_make_unique()
    before = _rss_mib()
    start = time.perf_counter()
    model: Model = _open(request, request["device"], request["precision"])
    load_seconds = time.perf_counter() - start
    start = time.perf_counter()
    tokens = model.tokenize(cells)
    tokenize_seconds = time.perf_counter() - start
    kind = model.device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    warm_up, vectors = _timed(model, tokens, kind)
    seconds = [_timed(model, tokens, kind)[0] for _ in range(request["repeats"])]
    memory = {
        "bare_mib": bare,
        "before_mib": before,
        "host_peak_mib": _peak_mib(),
        **_accelerator_mib(kind),
    }
    memory["peak_mib"] = memory.get("device_peak_mib", memory["host_peak_mib"])
    rates = [60 * request["cells"] / value for value in seconds]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": _machine(),
        "software": {
            "python": platform.python_version(),
            "scfm-lab": sl.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda or "",
        },
        "settings": {
            "device": model.device,
            "precision": model.precision,
            "threads": torch.get_num_threads(),
            "batch_tokens": engine.TOKENS_PER_BATCH.get(kind, engine.TOKENS_PER_BATCH["cpu"]),
            "attention": "fused" if hasattr(torch.nn.functional, "scaled_dot_product_attention") else "plain",
        },
        "cells": {
            "source": "pbmc68k",
            "count": request["cells"],
            "genes": int(cells.n_vars),
            "mean_length": float(tokens.lengths.mean()),
            "max_length": int(tokens.lengths.max(initial=0)),
        },
        "load_seconds": load_seconds,
        "tokenize_seconds": tokenize_seconds,
        "warm_up_seconds": warm_up,
        "repeats": seconds,
        "cells_per_minute": {"median": statistics.median(rates), "best": max(rates)},
        "memory": memory,
        "output": {
            "width": int(vectors.shape[1]),
            "digest": "sha256:" + hashlib.sha256(np.ascontiguousarray(vectors, "<f4").tobytes()).hexdigest(),
            "worst_cosine_to_float32": _worst_cosine(model, request, tokens, vectors),
        },
    }


def _open(request: dict[str, Any], device: str, precision: str) -> Model:
    from scfm_lab.models.load import open_files
    from scfm_lab.models.pinned import pinned
    from scfm_registry.importing import config_of
    from scfm_registry.sharing.parents import beside

    folder = Path(request["folder"])
    # As it is opened by whoever loads it: what is read was hashed. What it was made from is where the registry that asks has it, and
    # not where the environment would look.
    pins = {folder / path: digest for path, digest in request["hashes"].items()}
    with beside(request["parents"]), pinned(pins, request["label"]):
        model: Model = open_files(folder, request["family"], config=config_of(folder) or None)
    return model.to(device, precision)


def _timed(model: Model, tokens: Tokens, kind: str) -> tuple[float, Any]:
    import torch

    start = time.perf_counter()
    vectors = model.encode(tokens).cell
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start, vectors


def _worst_cosine(model: Model, request: dict[str, Any], tokens: Tokens, vectors: Any) -> float:
    """Smallest cosine between a cell's vector and the same cell's on the CPU in float32; 1 where that is what ran."""
    import numpy as np

    if model.device == "cpu" and model.precision == "float32":
        return 1.0
    exact = _open(request, "cpu", "float32").encode(tokens).cell
    seen = np.isfinite(exact).all(axis=1) & np.isfinite(vectors).all(axis=1)
    a, b = exact[seen].astype(np.float64), vectors[seen].astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min(initial=1.0))


def _machine() -> dict[str, Any]:
    from scfm_lab.inference.hardware import Hardware

    here = Hardware.detect()
    return {
        "id": _machine_id(),
        "description": here.describe(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": here.cores,
        "ram_gib": round(here.ram_gib, 1),
        "device": here.device,
        "device_name": here.device_name,
        "device_gib": round(here.device_gib, 1),
    }


def _machine_id() -> str:
    """The same for two measurements of one machine in one home, and no clue to which machine it is."""
    import uuid

    from scfm_lab.home import data_home

    path = data_home() / "machine-salt"
    if not path.exists():
        path.write_text(uuid.uuid4().hex, encoding="ascii")
    salt = path.read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{salt}:{platform.node()}:{uuid.getnode()}".encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _rss_mib() -> int:
    import psutil

    return round(psutil.Process(os.getpid()).memory_info().rss / 2**20)


def _peak_mib() -> int:
    """Largest resident memory of this process so far, in MiB."""
    try:
        # getrusage would give the parent's peak too: Linux carries it over fork and exec, and VmHWM not.
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / (2**20 if sys.platform == "darwin" else 1024))


def _accelerator_mib(kind: str) -> dict[str, int]:
    import torch

    if kind == "cuda":
        return {
            "device_peak_mib": round(torch.cuda.max_memory_reserved() / 2**20),
            "device_allocated_mib": round(torch.cuda.max_memory_allocated() / 2**20),
        }
    if kind == "mps":
        return {"device_peak_mib": round(torch.mps.driver_allocated_memory() / 2**20)}
    return {}


if __name__ == "__main__":
    sys.exit(main())
