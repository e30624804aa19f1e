"""How near a published model's embedding comes to the limit of its bare layers, on real cells, in one run.

The limit: encoder layers of the same size in plain PyTorch on cells of the same lengths, one cell after the other (or
four of equal length), with nothing around them, in the faster of PyTorch's fused attention and two matrix products. The
weights are drawn, in files of the published format and size; loading is told apart and tokenising is in our figure.

On a GPU, where a launch for each cell is dear, the limit is the fastest of one cell after the other and groups of cells of
16,384 and 131,072 tokens, in which all cells are taken to be equally long: nothing is padded, masked or looked up.

SCFM_DATA=... python benchmarks/speed.py --model scgpt --precision float32 --precision auto
SCFM_DATA=... python benchmarks/speed.py --model all --cells 1000 --device cuda
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from published_sizes import SIZES, Size, write

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def bare(
    size: Size, groups: list[tuple[int, int]], dtype: torch.dtype, explicit: bool, device: str = "cpu"
) -> Callable[[], Any]:
    """The limit's work, on groups of (cells, length)."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    d, h, f = size.width, size.heads, size.ffn
    inner = size.more.get("head_width", d // h) * h

    def matrix(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (torch.randn(rows, columns, device=device) * 0.02).to(dtype), torch.zeros(
            rows, dtype=dtype, device=device
        )

    parts = [(matrix(3 * inner, d), matrix(d, inner), matrix(f, d), matrix(d, f)) for _ in range(size.layers)]
    ones, zeros = torch.ones(d, dtype=dtype, device=device), torch.zeros(d, dtype=dtype, device=device)
    features = torch.randn(size.more.get("features", 1), inner // h, device=device)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if size.kind == "performer":
            scale = q.shape[-1] ** -0.25
            q, k = ((x.float() * scale) @ features.T for x in (q, k))
            q = (q - q.amax(-1, keepdim=True)).exp() + 1e-4
            k = (k - k.amax()).exp() + 1e-4
            return ((q @ (k.transpose(-1, -2) @ v.float())) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2))).to(
                v.dtype
            )
        if size.kind == "causal":
            # The capped scores that this model asks for; no fused kernel has them.
            scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
            scores = torch.tanh(scores / 10).mul_(10)
            scores += torch.full_like(scores[0, 0], float("-inf")).triu(1)
            return scores.softmax(-1).to(v.dtype) @ v
        if explicit:
            return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        return F.scaled_dot_product_attention(q, k, v)

    def run() -> None:
        for n, length in groups:
            x = torch.randn(n, length, d, dtype=dtype, device=device)
            for (qw, qb), (ow, ob), (w1, b1), (w2, b2) in parts:
                q, k, v = (t.view(n, length, h, -1).transpose(1, 2) for t in F.linear(x, qw, qb).chunk(3, -1))
                mixed = attend(q, k, v).transpose(1, 2).flatten(2)
                x = F.layer_norm(x + F.linear(mixed, ow, ob), (d,), ones, zeros)
                x = F.layer_norm(x + F.linear(F.relu(F.linear(x, w1, b1)), w2, b2), (d,), ones, zeros)

    return run


def grouped(lengths: list[int], tokens: int) -> list[tuple[int, int]]:
    """Groups of about so many tokens of cells in the order of their lengths, each as long as their mean: (cells, length)."""
    parts: list[list[int]] = [[]]
    for length in sorted(lengths):
        if parts[-1] and sum(parts[-1]) + length > tokens:
            parts.append([])
        parts[-1].append(length)
    return [(len(part), round(sum(part) / len(part))) for part in parts]


def ways_of(size: Size, lengths: list[int], dtype: torch.dtype, device: str) -> list[Callable[[], Any]]:
    """What the limit is the fastest of."""
    groups = [[(1, length) for length in lengths]]
    if device != "cpu":
        groups += [grouped(lengths, tokens) for tokens in (16_384, 131_072)]
    explicit = (False, True) if size.kind == "encoder" and device == "cpu" else (False,)
    return [bare(size, some, dtype, e, device) for some in groups for e in explicit]


def settle() -> None:
    """Wait for the GPU, where there is one at work."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def clock(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call, and the processor's seconds, which other programs disturb less."""
    settle()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    settle()
    return time.perf_counter() - wall, time.process_time() - cpu


def gpu_peak_mib(work: Callable[[], Any]) -> int:
    """The most GPU memory that tensors take meanwhile, what was there before among it."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() >> 20


def measure(
    name: str, precisions: list[str], cells: int, repeats: int, device: str = "cpu", at: Path | None = None
) -> list[dict[str, Any]]:
    """One row for each precision."""
    import torch

    import scfm_lab as sl

    size = SIZES[name]
    cells = cells or size.cells
    everything = sl.datasets.load("pbmc3k_raw")
    adata = everything[np.linspace(0, everything.n_obs - 1, cells).astype(int)].copy()
    rows = []
    with contextlib.ExitStack() as stack:
        folder = at / name if at else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "checkpoint"
        path, config = write_once(name, folder, everything) if at else write(name, folder, adata)
        for precision in precisions:
            started = time.perf_counter()
            model = sl.load_model(path, device=device, precision=precision, config=config or None)
            settle()
            loading = time.perf_counter() - started
            lengths = np.sort(model.tokenize(adata).lengths).tolist()
            result: list[Any] = []

            def ours(model: Any = model, result: list[Any] = result) -> None:
                result[:] = [sl.embed(adata, model, progress=False, copy=True, cache=False)]

            first, _ = clock(ours)
            chosen = result[0].provenance["precision"]
            low = getattr(torch, chosen.partition("+")[0])
            peaks = {} if device == "cpu" else {"peak_mib": gpu_peak_mib(ours)}
            with torch.inference_mode():
                ways = ways_of(size, lengths, low, device)
                # Other programs share the processor, but not the GPU.
                way = min(ways, key=lambda way: clock(way)[device == "cpu"]) if len(ways) > 1 else ways[0]
                if device != "cpu":
                    peaks["limit_grows_mib"] = gpu_peak_mib(way) - (torch.cuda.memory_allocated() >> 20)
                times, limits = [], []
                for _ in range(repeats):
                    limits.append(clock(way))
                    times.append(clock(ours))
            mine, limit = (statistics.median(wall for wall, _ in x) for x in (times, limits))
            mine_cpu, limit_cpu = (statistics.median(cpu for _, cpu in x) for x in (times, limits))
            ratios = sorted(a / b for (a, _), (b, _) in zip(limits, times, strict=True))
            told = result[0].provenance
            row = {
                "model": name,
                "cells": cells,
                "median_length": int(np.median(lengths)),
                "device": device if device == "cpu" else torch.cuda.get_device_name(),
                "threads": torch.get_num_threads(),
                "asked": precision,
                "precision": chosen,
                "load_s": round(loading, 2),
                "first_s": round(first, 2),
                "cells_per_s": round(cells / mine, 2),
                "limit_cells_per_s": round(cells / limit, 2),
                "of_limit": round(limit / mine, 3),
                "of_limit_range": [round(ratios[0], 3), round(ratios[-1], 3)],
                "cpu_s_per_cell": round(mine_cpu / cells, 4),
                "of_limit_cpu": round(limit_cpu / mine_cpu, 3),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                **peaks,
            }
            if device != "cpu":
                del row["of_limit_cpu"]
                row["limit_way"] = ways.index(way)
            rows.append({**row, **{k: v for k, v in told.items() if k.startswith("precision_")}})
            print(json.dumps(rows[-1]), flush=True)
            del ways, way, model
    return rows


def write_once(name: str, folder: Path, adata: Any) -> tuple[Path, dict[str, Any]]:
    """Write a checkpoint where none was written yet; its path and configuration."""
    told = folder.with_suffix(".json")
    if not told.exists():
        path, config = write(name, folder, adata)
        told.write_text(json.dumps([str(path), config]))
    path, config = json.loads(told.read_text())
    return Path(path), config


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=["scgpt"], type=click.Choice([*SIZES, "all"]))
@click.option("--precision", "precisions", multiple=True, default=["float32", "auto"], show_default=True)
@click.option("--cells", default=0, help="0: as many as take some ten seconds on two cores.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--at", type=click.Path(path_type=Path), help="Keep checkpoints here and use them again.")
def main(
    names: tuple[str, ...], precisions: tuple[str, ...], cells: int, repeats: int, device: str, at: Path | None
) -> None:
    """Print a row for each model and precision."""
    for name in SIZES if "all" in names else names:
        measure(name, list(precisions), cells, repeats, device, at)


if __name__ == "__main__":
    main()
