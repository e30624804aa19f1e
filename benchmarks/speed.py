"""How near a published model's embedding comes to the limit of its bare layers, on real cells, in one run.

The limit: encoder layers of the same size in plain PyTorch on cells of the same lengths, one cell after the other (or
four of equal length), with nothing around them, in the faster of PyTorch's fused attention and two matrix products. The
weights are drawn, in files of the published format and size; loading is told apart and tokenising is in our figure.

SCFM_DATA=... python benchmarks/speed.py --model scgpt --precision float32 --precision auto
"""

from __future__ import annotations

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


def bare(size: Size, lengths: list[int], dtype: torch.dtype, explicit: bool) -> Callable[[], Any]:
    """The limit's work."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    d, h, f = size.width, size.heads, size.ffn
    inner = size.more.get("head_width", d // h) * h

    def matrix(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (torch.randn(rows, columns) * 0.02).to(dtype), torch.zeros(rows, dtype=dtype)

    parts = [(matrix(3 * inner, d), matrix(d, inner), matrix(f, d), matrix(d, f)) for _ in range(size.layers)]
    ones, zeros = torch.ones(d, dtype=dtype), torch.zeros(d, dtype=dtype)
    features = torch.randn(size.more.get("features", 1), inner // h)

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
        for length in lengths:
            x = torch.randn(1, length, d, dtype=dtype)
            for (qw, qb), (ow, ob), (w1, b1), (w2, b2) in parts:
                q, k, v = (t.view(1, length, h, -1).transpose(1, 2) for t in F.linear(x, qw, qb).chunk(3, -1))
                mixed = attend(q, k, v).transpose(1, 2).flatten(2)
                x = F.layer_norm(x + F.linear(mixed, ow, ob), (d,), ones, zeros)
                x = F.layer_norm(x + F.linear(F.relu(F.linear(x, w1, b1)), w2, b2), (d,), ones, zeros)

    return run


def clock(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call, and the processor's seconds, which other programs disturb less."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, precisions: list[str], cells: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each precision."""
    import torch

    import scfm_lab as sl

    size = SIZES[name]
    cells = cells or size.cells
    adata = sl.datasets.load("pbmc3k_raw")
    adata = adata[np.linspace(0, adata.n_obs - 1, cells).astype(int)].copy()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, config = write(name, Path(folder) / "checkpoint", adata)
        for precision in precisions:
            started = time.perf_counter()
            model = sl.load_model(path, device="cpu", precision=precision, config=config or None)
            loading = time.perf_counter() - started
            lengths = np.sort(model.tokenize(adata).lengths).tolist()
            result: list[Any] = []

            def ours(model: Any = model, result: list[Any] = result) -> None:
                result[:] = [sl.embed(adata, model, progress=False, copy=True, cache=False)]

            first, _ = clock(ours)
            chosen = result[0].provenance["precision"]
            low = torch.bfloat16 if chosen.startswith("bfloat16") else torch.float32
            with torch.inference_mode():
                ways = [bare(size, lengths, low, e) for e in ((False, True) if size.kind == "encoder" else (False,))]
                way = min(ways, key=lambda way: clock(way)[1]) if len(ways) > 1 else ways[0]
                times, limits = [], []
                for _ in range(repeats):
                    limits.append(clock(way))
                    times.append(clock(ours))
            mine, limit = (statistics.median(wall for wall, _ in x) for x in (times, limits))
            mine_cpu, limit_cpu = (statistics.median(cpu for _, cpu in x) for x in (times, limits))
            ratios = sorted(a / b for (a, _), (b, _) in zip(limits, times, strict=True))
            told = result[0].provenance
            rows.append(
                {
                    "model": name,
                    "cells": cells,
                    "median_length": int(np.median(lengths)),
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
                    **{k: v for k, v in told.items() if k.startswith("precision_")},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=["scgpt"], type=click.Choice([*SIZES, "all"]))
@click.option("--precision", "precisions", multiple=True, default=["float32", "auto"], show_default=True)
@click.option("--cells", default=0, help="0: as many as take some ten seconds on two cores.")
@click.option("--repeats", default=5, show_default=True)
def main(names: tuple[str, ...], precisions: tuple[str, ...], cells: int, repeats: int) -> None:
    """Print a row for each model and precision."""
    for name in SIZES if "all" in names else names:
        measure(name, list(precisions), cells, repeats)


if __name__ == "__main__":
    main()
