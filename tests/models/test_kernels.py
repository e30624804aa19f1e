"""The compiled tokenisers against what they stand for, written plainly: numpy's quantiles and sorts, one cell at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from scfm_lab.cells.cells import Cells
from scfm_lab.cells.digest import cell_keys, mix64, uniforms
from scfm_lab.models import geneformer_rank, scgpt_tokens
from scfm_lab.models.published import PublishedMatch

GENES = 700


def random_cells(seed: int, *, total_type: type = np.float64) -> tuple[Cells, Cells, PublishedMatch]:
    """Cells with many ties, few genes, many genes, large counts and none at all; a perturbed copy; what a model knows."""
    random = np.random.default_rng(seed)
    counts = random.poisson(random.gamma(0.3, 2.0, GENES), (24, GENES)).astype(np.float32)
    counts[random.random(counts.shape) < 0.02] *= 977  # far above what is counted in a table
    counts[3] = 0
    counts[4, 1:] = 0
    counts[5] = 1
    genes = SimpleNamespace(hashes=random.integers(0, 2**63, GENES).astype(np.uint64))
    total = counts.sum(axis=1).astype(total_type)
    fields = {"n_counts": total} if total_type is np.float32 else {}
    cells = Cells(sparse.csr_matrix(counts), genes, counts.sum(axis=1, dtype=np.float64), np.arange(24), fields)  # type: ignore[arg-type]
    other = counts.copy()
    hit = random.random(counts.shape) < 0.2
    other[hit] = random.poisson(1.0, hit.sum())
    other[3, :5] = 2
    columns = np.flatnonzero(random.random(GENES) < 0.8)
    ids = random.permutation(5 * GENES)[: len(columns)] + 4
    match = PublishedMatch(columns, ids, {}, GENES, summed=False)
    return cells, cells.with_counts(sparse.csr_matrix(other)), match


@pytest.mark.parametrize("limit", [5, 120, 1200])
@pytest.mark.parametrize("seed", range(3))
def test_scgpt_tokens_are_those_of_numpys_quantiles(seed: int, limit: int) -> None:
    cells, copy, match = random_cells(seed)
    rules = scgpt_tokens.Rules(cls_id=0, cls_value=-2.0, limit=limit, seed=7)
    points = np.linspace(0, 1, 50)
    for some in (cells, copy):
        found = scgpt_tokens.tokenize(some, match, rules)
        for row in range(len(cells)):
            before, mine = (x.counts[row].toarray()[0, match.columns] for x in (cells, some))
            key, hashes = cells.keys[row : row + 1], cells.gene_hashes[match.columns]
            read = np.flatnonzero(mine)
            if (before > 0).sum() + 1 > limit:
                score = (uniforms(key, hashes, 7, 0x5C695A) * 2.0**44).astype(np.uint64)
                weakest = np.sort(score[before > 0])[limit - 2]
                read = read[score[read] <= weakest]
            values = np.full(0, -2.0)
            if len(read):
                own = before[before > 0] if before.any() else mine[mine > 0]
                edges = np.quantile(own, points)
                low, high = np.digitize(mine[read], edges, right=True), np.digitize(mine[read], edges)
                high = high if some is cells else np.maximum(high, 1)
                values = np.ceil(uniforms(key, hashes[read], 7, 0x5C69B1) * (low - high) + high)
            part = slice(found.offsets[row], found.offsets[row + 1])
            assert found.ids[part].tolist() == [0, *match.ids[read]]
            assert found.values is not None
            assert found.values[part].tolist() == [-2.0, *values]
            assert found.cell["n_genes"][row] == (mine > 0).sum()
            lost = (
                1 - mine[read].sum(dtype=float) / max(mine.sum(dtype=float), 1) if len(read) < (mine > 0).sum() else 0
            )
            assert found.cell["share_truncated"][row] == np.float32(lost)


@pytest.mark.parametrize("room", [3, 150, 2000])
@pytest.mark.parametrize(("seed", "total_type"), [(0, np.float64), (1, np.float64), (2, np.float32)])
def test_geneformer_ranks_are_those_of_a_full_sort(seed: int, total_type: type, room: int) -> None:
    cells, copy, match = random_cells(seed, total_type=total_type)
    # Few different medians, so that many values are equal, and some that differ beyond float32 only.
    medians = np.full(match.ids.max() + 1, np.nan)
    medians[match.ids] = np.random.default_rng(seed).choice([0.5, 1.0, 1.0 + 1e-12, 3.1], len(match.ids))
    rules = geneformer_rank.Rules(limit=room + 2, first=2, last=3)
    total = np.where(cells.total > 0, cells.total, 1).astype(total_type)
    share = (1 / total).astype(total_type)
    for some in (cells, copy):
        found = geneformer_rank.tokenize(some, match, medians, rules)
        for row in range(len(cells)):

            def ranked(counts: np.ndarray, row: int = row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                seen = np.flatnonzero(counts)
                value = (counts[seen] * share[row] * total_type(10_000)) * (1 / medians)[match.ids[seen]]
                order = np.lexsort((match.ids[seen], -value))
                return match.ids[seen][order], value[order], counts[seen][order]

            before, mine = (x.counts[row].toarray()[0, match.columns] for x in (cells, some))
            ids, values, counts = ranked(mine)
            kept = np.ones(len(ids), dtype=bool)
            if (before > 0).sum() > room:
                limit_ids, limit_values, _ = ranked(before)
                last = limit_values[room - 1], limit_ids[room - 1]
                kept = (values > last[0]) | ((values == last[0]) & (ids <= last[1]))
            part = slice(found.offsets[row], found.offsets[row + 1])
            assert found.ids[part].tolist() == [2, *ids[kept][:room], 3]
            assert found.cell["n_genes"][row] == len(ids)
            lost = (
                1 - counts[kept][:room].sum(dtype=float) / max(counts.sum(dtype=float), 1)
                if min(kept.sum(), room) < len(ids)
                else 0
            )
            assert found.cell["share_truncated"][row] == np.float32(lost)


def test_a_digest_is_the_sum_of_its_hashed_pairs() -> None:
    cells, _, _ = random_cells(0)
    counts, hashes = cells.counts, cells.gene_hashes
    for salt in (0, 1):
        with np.errstate(over="ignore"):
            pairs = mix64(
                mix64(counts.data.astype(np.float64).view(np.uint64) + np.uint64(salt)) ^ hashes[counts.indices]
            )
        rows = np.split(pairs, counts.indptr[1:-1])
        sums = np.array([row.sum(dtype=np.uint64) for row in rows]) ^ np.uint64(salt)
        assert cell_keys(counts, hashes, salt).tolist() == mix64(sums).tolist()


def test_long_cells_are_sampled_alike_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, copy, match = random_cells(1)
    rules = scgpt_tokens.Rules(cls_id=0, cls_value=-2.0, limit=60, seed=7)
    together = [scgpt_tokens.tokenize(some, match, rules) for some in (cells, copy)]
    monkeypatch.setattr(scgpt_tokens, "_LONG_AT_ONCE", 1)
    for some, before in zip((cells, copy), together, strict=True):
        after = scgpt_tokens.tokenize(some, match, rules)
        assert after.ids.tolist() == before.ids.tolist()
        assert after.offsets.tolist() == before.offsets.tolist()


def test_blocks_in_threads_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from scfm_lab.cells import blocks

    cells, _, match = random_cells(2)
    medians = np.full(match.ids.max() + 1, np.nan)
    medians[match.ids] = 1.0

    def made() -> list[object]:
        bins = scgpt_tokens.tokenize(cells, match, scgpt_tokens.Rules(0, -2.0, 200, 7))
        ranks = geneformer_rank.tokenize(cells, match, medians, geneformer_rank.Rules(100, 2, 3))
        keys = cell_keys(cells.counts, cells.gene_hashes)
        return [
            x.tolist() for x in (bins.ids, bins.values, bins.offsets, ranks.ids, ranks.offsets, keys) if x is not None
        ]

    alone = made()
    monkeypatch.setattr(blocks, "_WORTH_THREADS", 1)
    monkeypatch.setattr(blocks, "_cores", lambda: 4)
    monkeypatch.setattr(blocks.over_blocks, "__defaults__", (100,))
    assert made() == alone


def test_machine_code_is_kept_for_the_next_process(tmp_path) -> None:
    code = (
        "import numpy as np, scipy.sparse as sp\n"
        "from scfm_lab.cells import digest, hashing\n"
        "counts = sp.csr_matrix(np.ones((1, 1), np.float32))\n"
        "digest.cell_keys(counts, np.ones(1, np.uint64))\n"
        "print(sum(hashing.digest_rows.stats.cache_hits.values()))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def hits() -> int:
        return int(
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout
        )

    assert [hits(), hits()] == [0, 1]
    # What a full disk or a lost write leaves behind is compiled anew, and kept again.
    for index in tmp_path.rglob("*.nbi"):
        index.write_bytes(b"")
    assert [hits(), hits()] == [0, 1]


def test_the_machine_code_of_umap_is_kept_for_the_next_process() -> None:
    # Where Python keeps it: in a folder of its own all that scanpy imports would be compiled as well.
    code = (
        "import numpy as np, umap.layouts, umap.umap_\n"
        "from scfm_lab.tasks.layout import umap_plane\n"
        "umap_plane(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))\n"
        "loops = (umap.umap_.smooth_knn_dist, umap.layouts._nb_optimize_layout_euclidean_single_epoch)\n"
        "print([sum(loop.stats.cache_hits.values()) for loop in loops])\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in "12"]
    assert runs[1].stdout.split("\n")[-2] == "[1, 1]"


def test_machine_code_that_cannot_be_kept_runs_all_the_same(tmp_path) -> None:
    code = (
        "import resource, numpy as np, scipy.sparse as sp\n"
        "from scfm_lab.cells import digest\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print(digest.cell_keys(sp.csr_matrix(np.ones((1, 1), np.float32)), np.ones(1, np.uint64))[0])\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert int(told.stdout) == cell_keys(sparse.csr_matrix(np.ones((1, 1), np.float32)), np.ones(1, np.uint64))[0]
    assert not [p for p in tmp_path.rglob("*.nbi") if p.stat().st_size]


def test_numba_leaves_pytorch_the_threads_that_it_was_told():
    # They share one OpenMP: after UMAP, or any other parallel loop of numba's, all cores were taken.
    program = (
        "import scfm_lab, numba, numpy as np, torch\n"
        "@numba.njit(parallel=True)\n"
        "def doubled(x):\n    for i in numba.prange(len(x)):\n        x[i] *= 2\n    return x\n"
        "doubled(np.ones(8)); print(torch.get_num_threads(), numba.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "1"]
