"""The cache of vectors: right or not used; bounded, clearable, shared by processes, and never a reason to fail."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cli import main
from scfm_lab.errors import DataError
from scfm_lab.inference.cache import VectorCache, cache_path, cell_digests, clear, describe

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home of this test's own, with a cache."""
    monkeypatch.delenv("SCFM_CACHE_GB")
    path = tmp_path / "home"
    monkeypatch.setenv("SCFM_HOME", str(path))
    return path


def embedded(adata: ad.AnnData, model: object = "starter", **kwargs: object) -> tuple[np.ndarray, int]:
    """Vectors, and how many of them were known."""
    result = sl.embed(adata, model, progress=False, copy=True, **kwargs)
    return result.vectors, result.provenance["cells_from_cache"]


def test_a_second_run_computes_nothing_and_gives_the_same_bytes(pbmc68k):
    first, known = embedded(pbmc68k)
    assert known == 0
    model = sl.load_model("starter")

    def stop(*_: object) -> None:
        raise AssertionError("the network ran")

    model.net.forward = model.net.encode_cell = stop
    result = sl.embed(pbmc68k, model, progress=False, copy=True)
    assert result.provenance["cells_from_cache"] == 700
    assert result.vectors.tobytes() == first.tobytes()
    assert "700 vectors were known from an earlier run." in result.summary()


def test_only_cells_that_are_new_are_computed(pbmc68k):
    rng = np.random.default_rng(0)
    some = pbmc68k[rng.choice(700, 300, replace=False)].copy()
    embedded(some)
    shuffled = pbmc68k[rng.permutation(700)].copy()
    mixed, known = embedded(shuffled)
    assert known == 300
    plain, none = embedded(shuffled, cache=False)
    assert none == 0
    np.testing.assert_allclose(mixed, plain, atol=1e-5, rtol=0)


def test_what_a_tokeniser_told_of_a_cell_is_known_too(pbmc68k):
    options = {"max_length": 60}
    first = sl.embed(pbmc68k, "starter", options=options, progress=False, copy=True)
    some = pbmc68k[::2].copy()
    again = sl.embed(some, "starter", options=options, progress=False, copy=True)
    plain = sl.embed(some, "starter", options=options, progress=False, copy=True, cache=False)
    assert again.provenance["cells_from_cache"] == 350
    assert first.provenance["cells_truncated"] > again.provenance["cells_truncated"] > 100
    for key in ("cells_truncated", "counts_truncated", "remarks"):
        assert again.provenance[key] == plain.provenance[key]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a.X.data.__setitem__(slice(None), a.X.data + 1), id="counts"),
        pytest.param(lambda a: a.obs.__setitem__("total_counts_all_genes", 1e5), id="library size"),
        pytest.param(lambda a: a.var.drop(columns="ensembl_id", inplace=True), id="identifiers of genes"),
    ],
)
def test_cells_that_changed_are_not_taken_for_known(pbmc68k, change):
    pbmc68k.obs["total_counts_all_genes"] += 1e4
    embedded(pbmc68k, "pca")
    change(pbmc68k)
    vectors, known = embedded(pbmc68k, "pca")
    assert known == 0
    np.testing.assert_array_equal(vectors, embedded(pbmc68k, "pca", cache=False)[0])


def test_a_gene_less_is_another_dataset(pbmc68k):
    # Parameter-free models tell a gene that was not measured from one that was not seen.
    silent = int(np.flatnonzero(np.asarray(pbmc68k.X[:50].sum(axis=0)).ravel() == 0)[0])
    few = pbmc68k[:50].copy()
    embedded(few, "pca")
    without = few[:, np.arange(few.n_vars) != silent].copy()
    vectors, known = embedded(without, "pca")
    assert known == 0
    np.testing.assert_array_equal(vectors, embedded(without, "pca", cache=False)[0])


def test_every_choice_has_vectors_of_its_own(pbmc68k):
    few = pbmc68k[:60].copy()
    calls = [
        ("starter", {}),
        ("starter", {"options": {"max_length": 40}}),
        ("starter", {"options": {"max_length": 40}, "seed": 1}),
        ("starter", {"hidden_layer": 1}),
        ("pca", {}),
        (sl.load_model("starter", precision="bfloat16"), {}),
        (sl.load_model("pca").fit(few, n_components=5), {}),
    ]
    for model, choice in calls:
        assert embedded(few, model, **choice)[1] == 0
    for model, choice in calls[:-1]:
        assert embedded(few, model, **choice)[1] == 60
    # A basis fitted in this session is not one that was opened: nobody else can have its vectors.
    assert embedded(few, calls[-1][0])[1] == 0


def test_fields_that_a_model_reads_are_part_of_a_cell(pbmc68k):
    cells = sl.Cells.from_anndata(pbmc68k, fields=("louvain", "S_score"))
    before = cell_digests(cells)
    assert len(np.unique(before)) == 700
    order = np.random.default_rng(0).permutation(700)
    np.testing.assert_array_equal(cell_digests(cells.take(order)), before[order])
    for name in cells.fields:
        changed = pbmc68k.copy()
        changed.obs[name] = changed.obs[name].to_numpy()[::-1]
        other = cell_digests(sl.Cells.from_anndata(changed, fields=("louvain", "S_score")))
        same = np.asarray(changed.obs[name]) == np.asarray(pbmc68k.obs[name])
        np.testing.assert_array_equal(other == before, same)


def test_numbers_of_another_precision_are_another_cell(pbmc68k):
    pbmc68k.obs["n_counts"] = np.arange(1000, 1700, dtype=np.float64)
    pbmc68k.obs["assay"] = pbmc68k.obs["louvain"].astype(str)
    digests = {}
    for kind in ("float64", "float32", "int64"):
        pbmc68k.obs["n_counts"] = pbmc68k.obs["n_counts"].astype(kind)
        digests[kind] = cell_digests(sl.Cells.from_anndata(pbmc68k, fields=("n_counts", "assay")))
    # The very same numbers: but what is divided by them is rounded otherwise.
    assert not (digests["float64"] == digests["float32"]).any()
    assert not (digests["int64"] == digests["float32"]).any()
    # Words are the same words, however they are kept.
    words = sl.Cells.from_anndata(pbmc68k, fields=("assay",))
    pbmc68k.obs["assay"] = pbmc68k.obs["assay"].astype("category")
    np.testing.assert_array_equal(cell_digests(words), cell_digests(sl.Cells.from_anndata(pbmc68k, fields=("assay",))))


def test_it_is_switched_off_where_asked(pbmc68k, monkeypatch):
    monkeypatch.setenv("SCFM_CACHE_GB", "0")
    embedded(pbmc68k, "pca")
    assert embedded(pbmc68k, "pca")[1] == 0
    assert not cache_path().exists()
    monkeypatch.setenv("SCFM_CACHE_GB", "much")
    with pytest.raises(DataError, match="SCFM_CACHE_GB is 'much'; give the gigabytes"):
        embedded(pbmc68k, "pca")


def records(kind: int, n: int, width: int = 64) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(kind)
    digests = np.frombuffer(rng.bytes(16 * n), dtype="V16")
    cell = {"n_genes": rng.integers(0, 9, n), "share": rng.random(n, dtype=np.float32), "two": rng.random((n, 2))}
    return digests, rng.random((n, width), dtype=np.float32), cell


def test_it_keeps_within_its_bound_and_forgets_what_was_asked_for_longest_ago(tmp_path):
    limit = 2_000_000
    for kind in range(12):
        cache = VectorCache(tmp_path / "v.sqlite", {"model": str(kind)}, limit)
        digests, vectors, cell = records(kind, 1500)
        cache.put(digests, vectors, cell)
        cache.close()
        assert (tmp_path / "v.sqlite").stat().st_size <= 1.2 * limit
    newest = VectorCache(tmp_path / "v.sqlite", {"model": "11"}, limit)
    found = newest.get(digests)
    assert found.there.all()
    np.testing.assert_array_equal(found.vectors, vectors)
    for name, values in cell.items():
        np.testing.assert_array_equal(found.cell[name], values)
    assert not VectorCache(tmp_path / "v.sqlite", {"model": "0"}, limit).get(records(0, 1500)[0]).there.any()


@pytest.mark.parametrize("damage", ["text", "truncated", "zeroed", "value", "schema"])
def test_a_damaged_cache_is_replaced_and_no_reason_to_fail(pbmc68k, damage):
    expected, _ = embedded(pbmc68k, "pca")
    path = cache_path()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage == "value":
            db.execute("UPDATE vectors SET value = zeroblob(length(value)) WHERE rowid % 2 = 0")
        if damage == "schema":
            db.execute("DROP TABLE vectors")
            db.execute("CREATE TABLE vectors (something TEXT)")
        db.commit()
    content = path.read_bytes()
    if damage == "text":
        path.write_text("this is no database\n" * 1000)
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "zeroed":
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    vectors, known = embedded(pbmc68k, "pca")
    assert known == (350 if damage == "value" else 0)
    np.testing.assert_array_equal(vectors, expected)
    embedded(pbmc68k, "pca")
    assert embedded(pbmc68k, "pca")[1] == 700


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(pbmc68k, home):
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    vectors, known = embedded(pbmc68k, "pca")
    assert known == 0
    assert np.isfinite(vectors).all()


WRITER = """
import sys
import numpy as np
from pathlib import Path
from scfm_lab.inference.cache import VectorCache
cache = VectorCache(Path(sys.argv[1]), {"model": "shared"}, 10**9)
rng = np.random.default_rng(int(sys.argv[2]))
for _ in range(20):
    digests = np.frombuffer(rng.bytes(16 * 200), dtype="V16")
    cache.put(digests, np.repeat(np.frombuffer(digests.tobytes(), "<u2").reshape(200, 8)[:, :1].astype("f4"), 32, axis=1), {})
    print(digests.tobytes().hex(), flush=True)
"""


def test_processes_write_side_by_side_and_may_be_killed(tmp_path):
    path = tmp_path / "v.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    # One is killed in the middle of its work; what it said was written is there.
    said = [writers[0].stdout.readline() for _ in range(5)]  # type: ignore[union-attr]
    writers[0].kill()
    writers[0].communicate()
    said += [line for writer in writers[1:] for line in writer.communicate()[0].splitlines()]
    assert [w.returncode for w in writers[1:]] == [0, 0]
    assert len(said) == 45
    digests = np.concatenate([np.frombuffer(bytes.fromhex(line.strip()), dtype="V16") for line in said])
    found = VectorCache(path, {"model": "shared"}, 10**9).get(digests)
    assert found.there.all()
    expected = np.frombuffer(digests.tobytes(), "<u2").reshape(-1, 8)[:, 0]
    np.testing.assert_array_equal(found.vectors, np.repeat(expected[:, None], 32, axis=1))


@pytest.mark.parametrize("depends", ["{", "[]", None], ids=["cut off", "a list", "nothing"])
def test_a_damaged_row_is_told_in_one_sentence(depends, capsys):
    VectorCache(cache_path(), {"model": "m"}, 10**9).close()
    with closing(sqlite3.connect(cache_path())) as db, db:
        db.execute("UPDATE runs SET depends = ?", (depends,))
    assert main(["cache", "show"]) == 1
    said = capsys.readouterr().err
    assert "is damaged" in said
    assert "scfm-lab cache clear" in said
    assert len(said.strip().splitlines()) == 1
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "show"]) == 0


def test_what_rows_differ_in_is_said_in_words(capsys):
    same = {"model": "m", "family": "scfm_lab.models.m.M", "options": {"top": 2}}
    for more in ({"torch": "2.1", "settings": "0" * 64}, {"torch": "2.2", "settings": "1" * 64}):
        VectorCache(cache_path(), {**same, **more}, 10**9).close()
    assert main(["cache", "show"]) == 0
    said = sorted(re.findall(r"vectors of m \((.*)\)", capsys.readouterr().out))
    assert said == [
        "cells as they are; settings of the model 00000000; PyTorch 2.1",
        "cells as they are; settings of the model 11111111; PyTorch 2.2",
    ]


def test_it_is_shown_and_cleared(pbmc68k, capsys):
    embedded(pbmc68k, "pca")
    embedded(pbmc68k[:10].copy(), "sctop")
    found = describe()
    assert [(run["model"], run["cells"]) for run in found["runs"]] == [("sctop", 10), ("pca", 700)]
    assert main(["cache", "show"]) == 0
    assert "700 vectors of pca (cells as they are), " in capsys.readouterr().out
    # What is of the same model is told apart: by what the vectors are of, and by what was asked otherwise.
    few = pbmc68k[:30].copy()
    sl.perturb(few, "starter", {"CD3D": 0.0}, null=False, progress=False)
    sl.embed(few, "starter", progress=False)
    sl.embed(few, "starter", hidden_layer=-2, progress=False)
    assert main(["cache", "show"]) == 0
    out = capsys.readouterr().out
    assert sorted(re.findall(r"\d vectors of starter \((.*)\)", out)) == [
        "cells as they are; layer -2",
        "cells as they are; layer as published",
        "cells for perturbations, and their copies",
    ]
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 100_000
    assert describe()["runs"] == []
    assert clear() >= 0
    assert embedded(pbmc68k, "pca")[1] == 0


def test_the_same_knockout_again_computes_nothing(pbmc68k):
    asked = {"doses": {"CD79A": 0.0}, "groupby": "cell_type", "n_null": 19, "max_cells": 20, "progress": False}
    cells = pbmc68k[::4].copy()
    first = sl.perturb(cells, "starter", **asked)
    assert first.provenance["vectors_from_cache"] == 0
    model = sl.load_model("starter")

    def stop(*_: object) -> None:
        raise AssertionError("the network ran")

    model.net.forward = model.net.encode_cell = stop
    again = sl.perturb(cells, model, **asked)
    assert again.provenance["vectors_from_cache"] > len(cells), "copies, and those of comparable genes, too"
    assert again.perturbed.tobytes() == first.perturbed.tobytes()
    assert again.table.equals(first.table)
    assert sl.perturb(cells, "starter", **asked, cache=False).provenance["vectors_from_cache"] == 0


def test_a_model_of_the_registry_has_the_vectors_of_the_same_model_by_its_address(pbmc68k):
    from scfm_registry import Registry

    cells = pbmc68k[:40].copy()
    assert embedded(cells, Registry().load("starter@champion"))[1] == 0
    assert embedded(cells, Registry().load("starter/1"))[1] == 40
    assert embedded(cells, "models:/starter@champion")[1] == 40


def test_a_copy_is_kept_by_its_cell_too(pbmc68k):
    """Two cells that a knockout makes alike keep genes of their own where not all are read: their copies have two vectors."""
    import anndata as ad
    import scipy.sparse as sp

    counts = pbmc68k.X[:1].toarray()
    seen = np.flatnonzero(counts[0])
    one, other = counts.copy(), counts.copy()
    one[0, seen[0]], other[0, seen[0]] = 50, 0
    more = pbmc68k.X[100:105].toarray()
    both = ad.AnnData(sp.csr_matrix(np.vstack([one, other, more])), var=pbmc68k.var.copy())
    gene = str(pbmc68k.var_names[seen[0]])
    options = {"max_length": len(seen) - 1}
    asked = {"options": options, "null": False, "progress": False}
    # What `other` is, is what `one` becomes; but `one` had read the gene in the place of another.
    sl.perturb(both[1:].copy(), "starter", {gene: 0.0}, **asked)
    kept = sl.perturb(both, "starter", {gene: 0.0}, **asked)
    fresh = sl.perturb(both, "starter", {gene: 0.0}, **asked, cache=False)
    assert kept.provenance["vectors_from_cache"] >= 6
    np.testing.assert_allclose(kept.perturbed, fresh.perturbed, atol=1e-5)
    assert np.abs(kept.perturbed[0] - kept.baseline[1]).max() > 1e-4


def test_a_dose_between_is_kept_draw_by_draw(pbmc68k):
    cells = pbmc68k[:60].copy()
    asked = {"doses": {"LYZ": 0.5}, "n_draws": 3, "null": False, "progress": False}
    first = sl.perturb(cells, "starter", **asked)
    again = sl.perturb(cells, "starter", **asked)
    assert again.provenance["vectors_from_cache"] > 60
    assert again.shift.tobytes() == first.shift.tobytes()
    other = sl.perturb(cells, "starter", **{**asked, "doses": {"LYZ": 0.25}})
    assert other.provenance["vectors_from_cache"] < again.provenance["vectors_from_cache"]
    # Draws that leave a cell with the same counts are one copy; the cells themselves are computed anew.
    assert sl.perturb(cells, "starter", **asked, seed=1).provenance["vectors_from_cache"] < 60


def test_each_answer_counts_its_own_copies(pbmc68k):
    from scfm_lab.tasks.perturb import Perturber

    cells = pbmc68k[:60].copy()
    first = Perturber(cells, "starter", cache=True)
    counts = [first.run({"LYZ": 0.0}).provenance["vectors_from_cache"] for _ in range(3)]
    changed = int(first.run({"LYZ": 0.0}).changed.sum())
    assert counts == [0, changed, changed]
    # What was computed in another precision is not what the model gives now.
    first.model.to("cpu", "bfloat16")
    assert first.run({"LYZ": 0.0}).provenance["vectors_from_cache"] == 0


def test_what_is_quicker_than_the_cache_is_not_kept(pbmc68k):
    for _ in range(2):
        result = sl.perturb(pbmc68k[:60].copy(), "pca", {"LYZ": 0.0}, null=False, progress=False)
        assert result.provenance["vectors_from_cache"] == 0
    assert not cache_path().exists()
