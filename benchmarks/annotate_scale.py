"""Time and recall of label transfer from 100,000 to 100,000 cells.

    python benchmarks/annotate_scale.py [--cells 100000] [--threads 2] [--shift 3]

Real vectors (``starter``, of the bundled and the named blood cells), each copied with jitter of a tenth of its distance to its
nearest neighbour's until there are enough. Timed is what ``sl.annotate`` does with vectors: the index, calibration and threshold
on held-out cells, the labels. Recall is that of the 15 neighbours, against all distances, for 1,000 query cells. Then the same
query cells as if of another batch: all moved one way, by so many times the median distance to a neighbour. All seem far from
everything then, and not all may be searched for among all.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--model", default="starter")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    warnings.simplefilter("ignore")

    import numpy as np

    import scfm_lab as sl
    from scfm_lab.tasks.neighbours import Neighbours, nearest
    from scfm_lab.tasks.transfer import Transfer, trust

    adata = sl.datasets.load("pbmc68k")
    vectors = sl.embed(adata, arguments.model, copy=True, progress=False, cache=False).vectors
    codes = np.unique(adata.obs["cell_type"].astype(str), return_inverse=True)[1]
    spacing = Neighbours(vectors, k=5).own[1].mean(axis=1)
    rng = np.random.default_rng(0)

    def copies(n: int) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(0, len(vectors), n)
        noise = rng.normal(size=(n, vectors.shape[1])) / np.sqrt(vectors.shape[1])
        return (vectors[rows] + 0.5 * spacing[rows, None] * noise).astype(np.float32), codes[rows]

    reference, known = copies(arguments.cells)
    query, truth = copies(arguments.cells)
    started = time.perf_counter()
    transfer = Transfer(reference, known, int(codes.max()) + 1)
    _ = transfer.search.own
    built = time.perf_counter()
    trusted = trust(transfer, transfer.held_out(), unknown_rate=0.01)
    calibrated = time.perf_counter()
    found = transfer.label(query)
    ended = time.perf_counter()

    sample = rng.choice(len(query), min(1000, len(query)), replace=False)

    def recall(cells: np.ndarray) -> tuple[float, float]:
        near = transfer.search.of(cells)[0][sample]
        began = time.perf_counter()
        exact = nearest(reference, cells[sample], 15)[0]
        seconds = time.perf_counter() - began
        shared = [len(set(a) & set(b)) / len(b) for a, b in zip(near.tolist(), exact.tolist(), strict=True)]
        return float(np.mean(shared)), seconds

    way = rng.normal(size=vectors.shape[1])
    moved = (query + arguments.shift * np.median(spacing) * way / np.linalg.norm(way)).astype(np.float32)
    began = time.perf_counter()
    shifted = transfer.label(moved)
    took = time.perf_counter() - began
    (own_recall, _), (moved_recall, exact) = recall(query), recall(moved)
    print(
        f"{arguments.cells:,} query × {arguments.cells:,} reference cells, {vectors.shape[1]}-d, {arguments.threads} threads"
    )
    print(f"index {built - started:.1f} s, calibration {calibrated - built:.1f} s, labels {ended - calibrated:.1f} s")
    print(f"together {ended - started:.1f} s; recall of 15 neighbours {own_recall:.4f}; load {os.getloadavg()[0]:.1f}")
    print(
        f"labels agree with those of the copied cells: {(found.codes == truth).mean():.3f}; ECE {trusted.confidence.ece:.3f}"
    )
    print(
        f"moved by {arguments.shift:g}: {(shifted.strange > 1.5).mean():.0%} of the cells far from everything, labels {took:.1f} s (all "
        f"distances: about {exact * len(moved) / len(sample):.0f} s), recall {moved_recall:.4f}, labels agree "
        f"{(shifted.codes == truth).mean():.3f}"
    )


if __name__ == "__main__":
    main()
