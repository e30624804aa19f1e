"""UCE: the reference's outputs, small checkpoints of the format on the bundled cells, and files that must be refused."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from writers_protein import write_uce

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.dose import perturb_counts
from scfm_lab.errors import GenesError, ModelError
from scfm_lab.models import uce_readouts
from scfm_lab.models.files import read_torch
from scfm_lab.models.tokens import Tokens
from scfm_lab.models.uce_files import NEW_SPECIES, Positions, UceFiles, _checkpoints
from scfm_lab.models.uce_net import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_lab.models.uce import UCE

# --- the reference's outputs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "uce"


@pytest.fixture(scope="module")
def fixture(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "fixture.json").read_text())


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected.npz"))


@pytest.fixture(scope="module")
def cells(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "cells.h5ad")


@pytest.fixture(scope="module")
def published(folder: Path, fixture: dict[str, Any]) -> UCE:
    return sl.load_model(
        folder / "model_files", device="cpu", precision="float32", config={"nhead": fixture["config"]["nhead"]}
    )


@pytest.fixture(scope="module")
def kept(cells: ad.AnnData, expected: dict[str, np.ndarray]) -> np.ndarray:
    return cells.obs_names.get_indexer(expected["obs_names"])


@pytest.fixture(scope="module")
def reference_tokens(published: UCE, cells: ad.AnnData, fixture: dict[str, Any]) -> Tokens:
    run = fixture["run"]
    options = {"like_reference": True, "batch_size": run["batch_size"], "species": run["species"]}
    return published.tokenize(cells, options=options, seed=run["numpy_global_seed"])


def agree(found: np.ndarray, wanted: np.ndarray, atol: float, rtol: float = 0.0) -> None:
    """Within a tolerance everywhere, and as vectors."""
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=rtol)
    a, b = found.reshape(-1, found.shape[-1]).astype(float), wanted.reshape(-1, wanted.shape[-1]).astype(float)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() >= 0.99999


def stored(expected: dict[str, np.ndarray]) -> Tokens:
    """The reference's sentences without their padding."""
    ids = np.concatenate([row[:n] for row, n in zip(expected["tokens"], expected["seq_len"], strict=True)])
    return Tokens(ids.astype(np.int64), None, np.concatenate([[0], np.cumsum(expected["seq_len"])]).astype(np.int64))


@pytest.mark.golden
def test_sentences_are_the_references(published, reference_tokens, expected, kept, cells):
    np.testing.assert_array_equal(reference_tokens.take(kept).ids, stored(expected).ids)
    np.testing.assert_array_equal(reference_tokens.lengths[kept], expected["seq_len"])
    left_out = np.ones(cells.n_obs, dtype=bool)
    left_out[kept] = False
    np.testing.assert_array_equal(reference_tokens.cell["left_out"], left_out)


@pytest.mark.golden
def test_embed_like_the_reference_writes_the_references_vectors(published, cells, expected, kept, fixture):
    run = fixture["run"]
    adata = cells.copy()
    sl.embed(
        adata,
        published,
        like_reference=True,
        seed=run["numpy_global_seed"],
        batch_size=run["batch_size"],
        progress=False,
    )
    agree(adata.obsm["X_uce"][kept], expected["cell_embedding"], 2e-5)
    assert bool(adata.uns["scfm"]["X_uce"]["options"]["like_reference"])


@pytest.mark.golden
@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_stored_sentences_are_read_without_padding(published, expected, batch_size):
    # All sentences in batches of the engine's own size, some in others.
    some = np.arange(len(expected["tokens"]) if batch_size is None else 8)
    found = published.encode(stored(expected).take(some), batch_size=batch_size).cell
    agree(found, expected["cell_embedding_batch1"][some], 2e-5)
    agree(found, expected["cell_embedding_bool_mask"][some], 2e-5)


@pytest.mark.golden
def test_padding_that_was_stored_with_the_sentences_is_not_read(published, expected):
    n, length = expected["tokens"].shape
    padded = Tokens(expected["tokens"].ravel().astype(np.int64), None, np.arange(n + 1) * length)
    states = published.encode(padded.take(np.arange(4)), genes=True)
    agree(states.cell, expected["cell_embedding_batch1"][:4], 2e-5)
    np.testing.assert_array_equal(np.isnan(states.genes[:, 0]), expected["tokens"][:4].ravel() == 0)


@pytest.mark.golden
@pytest.mark.parametrize(("layer", "name"), [(-1, "encoder_output_first2"), (None, "decoder_output_first2")])
def test_states_of_all_tokens_are_the_references(published, reference_tokens, expected, kept, layer, name):
    two = reference_tokens.take(kept[:2])
    states = published.encode(two, genes=True, hidden_layer=layer).genes
    for i in range(2):
        n, start = expected["seq_len"][i], two.offsets[i]
        agree(states[start : start + n], expected[name][:n, i], 2e-4, 1e-3)


@pytest.mark.golden
def test_the_default_is_as_near_to_a_reference_draw_as_reference_draws_are_to_each_other(published, cells):
    cells = cells[::4].copy()
    free = {"like_reference": True, "batch_size": 1, "filter": False}
    reference = [published.encode(published.tokenize(cells, options=free, seed=s)).cell for s in range(4)]
    default = [published.encode(published.tokenize(cells, seed=s)).cell for s in range(4)]

    def nearness(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum(axis=1).mean())

    among = np.mean([nearness(reference[i], reference[j]) for i in range(4) for j in range(i)])
    across = np.mean([nearness(a, b) for a in default for b in reference])
    assert across >= among - 0.001


# --- small checkpoints of the format, on the bundled cells -------------------------------------


@pytest.fixture(scope="module")
def bundled() -> ad.AnnData:
    adata = sl.datasets.load("pbmc68k")
    return adata[:: adata.n_obs // 20].copy()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, bundled: ad.AnnData) -> Path:
    return write_uce(tmp_path_factory.mktemp("uce"), list(bundled.var_names[10:]))


@pytest.fixture(scope="module")
def model(written: Path) -> UCE:
    return sl.load_model(written, device="cpu", precision="float32", config={"nhead": 3})


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "uce"))


def test_sizes_are_those_of_the_file(model):
    spec = model.spec
    assert (spec.layers, spec.heads, spec.feed_forward, spec.width, spec.max_length) == (2, 3, 40, 20, 1536)
    assert spec.organisms == ("human", "mouse")
    assert model.digest.startswith("sha256:")


def test_a_csv_that_lost_rows_is_refused(copied):
    """Chromosome codes count over the complete file: without the mouse, every human chromosome would be another one."""
    table = pd.read_csv(copied / "species_chrom.csv")
    table[table["species"] == "mouse"].to_csv(copied / "species_chrom.csv", index=False)
    assert "do not belong together" in refused(copied)


def test_other_sizes_names_and_json_offsets(tmp_path, bundled):
    folder = write_uce(
        tmp_path / "big",
        list(bundled.var_names),
        d=40,
        heads=20,
        layers=5,
        out=32,
        name="33l_8ep_1024t_1280.torch",
        offsets="species_offsets.json",
    )
    model = sl.load_model(folder, device="cpu", precision="float32")  # 40 is divisible by the published 20
    assert (model.spec.layers, model.spec.heads, model.spec.width) == (5, 20, 32)
    vectors = model.encode(model.tokenize(bundled)).cell
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_file_itself_the_folder_above_and_files_elsewhere(written, bundled, tmp_path, model):
    wanted = model.encode(model.tokenize(bundled[:3].copy())).cell
    Path(shutil.copytree(written, tmp_path / "home" / "model_files"))
    alone = tmp_path / "alone.bin"
    shutil.copy(written / "4layer_model.torch", alone)
    elsewhere = {
        "chrom": written / "species_chrom.csv",
        "offsets": written / "species_offsets.pkl",
        "protein_embeddings": written / "protein_embeddings",
    }
    for source, files in ((written / "4layer_model.torch", {}), (tmp_path / "home", {}), (alone, elsewhere)):
        other = sl.load_model(source, device="cpu", precision="float32", config={"nhead": 3}, files=files)
        np.testing.assert_array_equal(other.encode(other.tokenize(bundled[:3].copy())).cell, wanted)


def test_only_rows_that_cells_ask_for_are_read_from_the_table(model, bundled):
    fresh = model.to("cpu", "float32")
    tokens = fresh.tokenize(bundled[:2].copy())
    fresh.encode(tokens)
    assert fresh._rows._used == len(np.unique(tokens.ids))
    # The table itself stays mapped: it is a view of the file's bytes, not of memory of its own.
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(fresh.species.files.checkpoint) in maps.read_text()


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_hidden_layers_are_the_states_of_the_first_token(model, bundled, layer):
    tokens = model.tokenize(bundled[:4].copy())
    states = model.encode(tokens, genes=True, hidden_layer=layer)
    np.testing.assert_allclose(states.cell, states.genes[tokens.offsets[:-1]], atol=1e-6)
    # Where only the first token is asked for, the last layer is computed for it alone.
    np.testing.assert_allclose(model.encode(tokens, hidden_layer=layer).cell, states.cell, atol=1e-5)


def test_sentences_hold_each_cells_genes_by_chromosome_and_start(model, bundled):
    tokens = model.tokenize(bundled)
    genes = model.species.genes("human")
    place = {row: i for i, row in enumerate(genes.rows.tolist())}
    for cell in range(5):
        ids = tokens.ids[tokens.offsets[cell] : tokens.offsets[cell + 1]].tolist()
        assert ids[0] == 3
        runs, at = [], 1
        while at < len(ids):
            end = ids.index(2, at)
            runs.append((ids[at], [place[i] for i in ids[at + 1 : end]]))
            at = end + 1
        assert sum(len(run) for _, run in runs) == 1024
        assert len({chromosome for chromosome, _ in runs}) == len(runs)
        for chromosome, run in runs:
            assert {genes.chromosome_row + genes.chromosomes[i] for i in run} == {chromosome}
            assert (np.diff(genes.starts[run]) >= 0).all()
        expressed = {s.upper() for s in bundled.var_names[bundled.X[cell].toarray().ravel() > 0]}
        assert {symbol for _, run in runs for symbol in genes.symbols[run]} <= expressed


def test_chunks_and_the_order_of_cells_change_nothing(model, bundled):
    whole = model.tokenize(bundled)
    order = np.random.default_rng(0).permutation(bundled.n_obs)
    shuffled = model.tokenize(bundled[order].copy())
    np.testing.assert_array_equal(shuffled.ids, whole.take(order).ids)
    parts = [model.tokenize(bundled[i : i + 7].copy()).ids for i in range(0, bundled.n_obs, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.ids)
    assert not np.array_equal(model.tokenize(bundled, seed=1).ids, whole.ids)


def genes_of(tokens: Tokens, cell: int, rows: np.ndarray) -> Counter[int]:
    ids = tokens.ids[tokens.offsets[cell] : tokens.offsets[cell + 1]]
    return Counter(ids[np.isin(ids, rows)].tolist())


@pytest.mark.parametrize("dose", [0.0, 0.5, 3.0])
def test_only_draws_that_hit_the_perturbed_gene_change(model, bundled, dose):
    cells = Cells.from_anndata(bundled)
    known = model.match(cells.genes).columns
    column = int(known[np.argmax(np.asarray(cells.counts[:, known].sum(axis=0)).ravel())])
    genes = model.species.genes("human")
    row = int(genes.rows[list(genes.symbols).index(cells.genes.names[column])])
    before, after = model.tokenize(cells), model.tokenize(perturb_counts(cells, {column: dose}))
    moved = 0
    for cell in range(len(cells)):
        was, now = genes_of(before, cell, genes.rows), genes_of(after, cell, genes.rows)
        gained, lost = now - was, was - now
        # Every draw that changes leaves the gene, or joins it.
        assert set(lost) <= {row} or set(gained) <= {row}
        if dose == 0:
            assert row not in now
            assert sum(lost.values()) == was[row]
        moved += sum(lost.values())
    assert moved > 0


def test_draws_of_perturbed_copies_are_distributed_as_fresh_draws(model, bundled):
    """Of a cell with one gene knocked out and another raised, over many seeds, against the exact probabilities."""
    cells = Cells.from_anndata(bundled).take(np.arange(1))
    known = model.match(cells.genes).columns
    counts = cells.counts.toarray().ravel()
    out, up = known[np.argsort(-counts[known])[:2]]
    changed = cells.counts.tolil()
    changed[0, out], changed[0, up] = 0, counts[up] * 20
    copy = cells.with_counts(changed.tocsr().astype(np.float32))
    genes = model.species.genes("human")
    n_seeds = 60
    drawn = np.concatenate([model.tokenize(copy, seed=s).ids for s in range(n_seeds)])
    found = np.array([(drawn == row).sum() for row in genes.rows])
    new = copy.counts.toarray().ravel()
    column = {s.upper(): i for i, s in enumerate(bundled.var_names)}
    weights = np.log1p([new[column[s]] for s in genes.symbols])
    wanted = weights / weights.sum() * 1024 * n_seeds
    there = wanted > 0
    assert found[~there].sum() == 0
    chi2 = ((found[there] - wanted[there]) ** 2 / wanted[there]).sum()
    freedom = there.sum() - 1
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_silent_cells_are_nan_and_fractions_are_cut(model, bundled):
    adata = bundled[:4].copy()
    counts = adata.X.tolil()
    counts[1] = 0
    counts[1, 0] = 7  # a gene that the model does not know
    adata.X = counts.tocsr()
    result = sl.embed(adata, model, progress=False)
    assert np.isnan(result.vectors[1]).all()
    assert np.isfinite(result.vectors[[0, 2, 3]]).all()
    assert result.audit.cells_without_genes == 1
    assert "1 cell has no known gene" in result.summary()


def test_the_reference_filter_counts_whom_it_leaves_out(model, bundled):
    adata = bundled.copy()
    counts = adata.X.tolil()
    counts[2, 20:] = 0
    adata.X = counts.tocsr()
    result = sl.embed(adata, model, like_reference=True, progress=False)
    assert np.isnan(result.vectors[2]).all()
    assert "1 cell has no vector because the reference leaves it out." in result.summary()
    free = sl.embed(adata, model, like_reference=True, options={"filter": False}, progress=False)
    assert np.isfinite(free.vectors[2]).all()


def test_like_reference_cannot_measure_a_perturbation(model, bundled):
    cells = Cells.from_anndata(bundled)
    with pytest.raises(ModelError, match="told from chance"):
        model.tokenize(cells.with_counts(cells.counts.copy()), options={"like_reference": True})


# --- species ----------------------------------------------------------------------------------


def as_mouse(adata: ad.AnnData) -> ad.AnnData:
    mouse = adata.copy()
    mouse.var = mouse.var[[]]
    mouse.var_names = [name.title() for name in adata.var_names]
    mouse.uns.pop("organism", None)
    return mouse


def test_a_species_is_told_by_its_genes_or_asked_for(model, bundled):
    mouse = as_mouse(bundled)
    told, asked = model.tokenize(mouse), model.tokenize(mouse, options={"species": "Mus musculus"})
    np.testing.assert_array_equal(told.ids, asked.ids)
    assert np.isin(told.ids[1:2], np.arange(len(model.species.table))).all()
    rows = model.species.genes("mouse").rows
    assert np.isin(told.ids, rows).sum() == 1024 * bundled.n_obs
    result = sl.embed(mouse, model, options={"species": "mouse"}, progress=False)
    assert result.audit.genes_matched == len(rows)
    assert "symbol (mouse)" in result.audit.how


def test_a_species_that_nothing_tells_has_to_be_named(model, bundled):
    odd = as_mouse(bundled)
    odd.var_names = [name.lower() for name in bundled.var_names]
    with pytest.raises(GenesError, match=r"options=\{'species'"):
        model.tokenize(odd)
    assert len(model.tokenize(odd, options={"species": "human"})) == odd.n_obs
    with pytest.raises(ModelError, match="hold no species 'rat'"):
        model.tokenize(odd, options={"species": "rat"})
    fixed = sl.load_model(model.path, device="cpu", precision="float32", config={"nhead": 3, "species": "human"})
    assert len(fixed.tokenize(odd)) == odd.n_obs


def test_ensembl_ids_are_translated(model, bundled):
    other = bundled.copy()
    ensembl = other.var["ensembl_id"].astype(str).to_numpy()
    other = other[:, pd.Series(ensembl).str.startswith("ENSG") & ~pd.Series(ensembl).duplicated()].copy()
    other.var_names = other.var["ensembl_id"].astype(str)
    other.var = other.var[[]]
    match = model.match(Cells.from_anndata(other).genes)
    assert match.how["Ensembl id translated to a symbol"] > 0.8 * other.n_vars


@pytest.fixture
def rat(tmp_path: Path) -> dict[str, Any]:
    """Files of a new species: protein embeddings, positions, taxonomy id."""
    names = [f"Rat{i}" for i in range(60)]
    generator = torch.Generator().manual_seed(5)
    torch.save({n: torch.randn(12, generator=generator) for n in names}, tmp_path / "rat.pt")
    random = np.random.default_rng(5)
    pd.DataFrame(
        {
            "gene_symbol": [n.upper() for n in names],
            "chromosome": random.choice(["1", "2", "X"], 60),
            "start": random.permutation(60),
            "species": "rat",
        }
    ).to_csv(tmp_path / "rat.csv", index=False)
    return {"protein_embeddings": tmp_path / "rat.pt", "chrom": tmp_path / "rat.csv", "taxon": 10116}


def test_a_new_species_is_read_as_from_the_files_of_the_authors_notebook(written, tmp_path, rat):
    """Rows added on the fly, and a table written as the notebook does, give the same vectors."""
    random = np.random.default_rng(1)
    adata = ad.AnnData(random.poisson(1.0, (6, 60)).astype(np.float32))
    adata.var_names = [f"Rat{i}" for i in range(60)]
    added = sl.load_model(
        written, device="cpu", precision="float32", config={"nhead": 3}, files={"species": {"rat": rat}}
    )
    assert "rat" in added.spec.organisms
    found = added.encode(added.tokenize(adata, options={"species": "rat"})).cell

    own = read_torch(written / "4layer_model.torch")[TABLE]
    proteins = read_torch(rat["protein_embeddings"])
    seeded = torch.Generator().manual_seed(rat["taxon"])
    torch.save(
        torch.vstack(
            [own[:4], torch.stack(list(proteins.values())), torch.normal(0.0, 1.0, (3, 12), generator=seeded)]
        ),
        tmp_path / "t.torch",
    )
    (tmp_path / "offsets.pkl").write_bytes(pickle.dumps({"rat": 4}))
    (tmp_path / "new_species_protein_embeddings.csv").write_text("species,path\nrat,rat.pt\n")
    files = {
        "tokens": tmp_path / "t.torch",
        "chrom": rat["chrom"],
        "offsets": tmp_path / "offsets.pkl",
        "new_species": tmp_path / "new_species_protein_embeddings.csv",
    }
    replaced = sl.load_model(written, device="cpu", precision="float32", config={"nhead": 3}, files=files)
    assert replaced.replaced
    assert replaced.species.chromosome_row == 64
    np.testing.assert_allclose(replaced.encode(replaced.tokenize(adata)).cell, found, atol=1e-6)
    assert (
        len(
            {
                added.digest,
                replaced.digest,
                sl.load_model(written, device="cpu", precision="float32", config={"nhead": 3}).digest,
            }
        )
        == 3
    )


def test_proteins_beside_their_list_come_before_those_of_the_working_directory(copied, tmp_path, rat, monkeypatch):
    (copied / NEW_SPECIES).write_text("species,path\nrat,rat.pt\n")
    monkeypatch.chdir(rat["protein_embeddings"].parent)
    assert UceFiles.find(copied, None).proteins["rat"] == Path("rat.pt"), "as the reference's own scripts have it"
    torch.save({"Other": torch.ones(12)}, copied / "rat.pt")
    assert list(UceFiles.find(copied, None).read_proteins("rat")) == ["Other"]


def test_a_token_file_that_is_named_is_no_second_checkpoint_and_a_longer_table_takes_the_place(copied, tmp_path, rat):
    """The published table with a species more behind its own, in the folder of the checkpoint, with a table and offsets to match."""
    (copied / "all_tokens.torch").unlink()
    own = read_torch(copied / "4layer_model.torch")[TABLE]
    positions = pd.read_csv(copied / "species_chrom.csv", dtype=str)
    n = (positions["species"] + positions["chromosome"]).nunique()
    proteins = torch.stack(list(read_torch(rat["protein_embeddings"]).values()))
    table = torch.vstack([own[:-n], proteins, own[-n:], torch.ones(3, 12)])
    torch.save(table, copied / "more_tokens.torch")
    pd.concat([positions, pd.read_csv(rat["chrom"], dtype=str)]).to_csv(copied / "species_chrom.csv", index=False)
    offsets = pickle.loads((copied / "species_offsets.pkl").read_bytes()) | {"rat": len(own) - n}
    (copied / "species_offsets.pkl").write_bytes(pickle.dumps(offsets))
    # The reference's scripts run above the folder of the list.
    shutil.copy(rat["protein_embeddings"], copied.parent / "of_rats.pt")
    (copied / NEW_SPECIES).write_text("species,path\nrat,of_rats.pt\n")
    files = {"tokens": copied / "more_tokens.torch"}
    model = sl.load_model(copied, device="cpu", precision="float32", config={"nhead": 3}, files=files)
    assert model.replaced
    assert model.species.chromosome_row == len(own) - n + 60
    torch.testing.assert_close(model.species.table.take(model.species.genes("rat").rows), proteins)
    # Without being named it is told apart by what it holds.
    assert [p.name for p in _checkpoints(copied)] == ["4layer_model.torch"]


def test_positions_that_are_missing_are_none_as_for_pandas(tmp_path):
    path = tmp_path / "chrom.csv"
    path.write_text(
        "gene_symbol,chromosome,start,species\nA,2,5,human\nNA,10,7,human\nB,,9,human\nC,NA,9,human\nD,2,,human\nE,3,4,\n"
    )
    positions = Positions.read(path)
    assert positions.names.tolist() == ["human_10", "human_2"]
    codes, starts = positions.of("human", np.array(["A", "NA", "B", "C", "D", "E"], dtype=object))
    assert codes.tolist() == [1, 0, -1, -1, -1, -1]
    assert starts[:2].tolist() == [5, 7]


def test_expression_logits_in_parts_are_those_of_each_pair(model, bundled, monkeypatch):
    monkeypatch.setattr(uce_readouts, "GENES_AT_ONCE", 3)
    monkeypatch.setattr(uce_readouts, "PAIRS_AT_ONCE", 6)
    cells = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    genes = model.species.genes("human").symbols[:8].tolist()
    found = model.expression_logits(cells, genes)
    each = [[model.expression_logits(cell[None], [gene])[0, 0] for gene in genes] for cell in cells]
    np.testing.assert_allclose(found, each, atol=1e-5)
    assert model.expression_logits(cells, []).shape == (5, 0)


# --- files that must be refused ----------------------------------------------------------------


def refused(folder: Path, **kwargs: Any) -> str:
    with pytest.raises(ModelError) as caught:
        sl.load_model(folder, device="cpu", precision="float32", **{"config": {"nhead": 3}} | kwargs)
    return str(caught.value)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    path = folder / "4layer_model.torch"
    tensors = {name: value.clone() for name, value in read_torch(path).items()}
    path.unlink()
    torch.save(change(tensors), path)
    return folder


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def poisoned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors["decoder.3.bias"][0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("decoder.1.1.bias"), "missing decoder.1.1.bias"),
        (lambda t: t | {"extra.weight": torch.zeros(3)}, "unknown extra.weight"),
        (lambda t: t | {"encoder.0.bias": torch.zeros(7)}, "encoder.0.bias is (7,), not (24,)"),
        (poisoned, "NaN or infinite values in 'decoder.3.bias'"),
        (lambda t: t | {TABLE: t[TABLE][:-3]}, "do not"),
        (lambda t: t | {TABLE: t[TABLE][:40]}, "do not belong together"),
        (lambda t: t | {TABLE: torch.zeros(len(t[TABLE]), 5)}, "encoder.0.weight is (24, 12), not (24, 5)"),
        (lambda t: t[TABLE], "not a state dict"),
        (lambda t: {"bert.embeddings.weight": t[TABLE]}, "holds no UCE"),
    ],
    ids=["missing", "extra", "shape", "nan", "rows", "few rows", "protein width", "no dict", "other family"],
)
def test_checkpoints_that_do_not_fit_are_refused_by_name(copied, change, said):
    assert said in refused(rewritten(copied, change))


def test_heads_that_the_file_does_not_hold_have_to_be_given(written):
    assert "config={'nhead': …}" in refused(written, config=None)
    assert "divided among 7" in refused(written, config={"nhead": 7})
    assert "Did you mean 'nhead'" in refused(written, config={"nheads": 3})
    assert "d_model = 1280" in refused(written, config={"nhead": 3, "d_model": 1280})
    assert "positive whole number" in refused(written, config={"nhead": 0})


@pytest.mark.parametrize(
    "name", ["4layer_model.torch", "species_chrom.csv", "species_offsets.pkl", "protein_embeddings"]
)
def test_a_missing_file_is_named(copied, name):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert name in refused(copied)


@pytest.mark.parametrize(
    "name",
    [
        "4layer_model.torch",
        "species_chrom.csv",
        "species_offsets.pkl",
        "protein_embeddings/Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt",
    ],
)
def test_truncated_files_are_refused(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 3 + 20])
    assert Path(name).name.split(".")[0] in refused(copied)


@pytest.mark.parametrize("part", ["a name of a gene", "a name in the archive"])
def test_damaged_proteins_of_a_species_that_is_not_asked_for_are_refused(copied, part):
    path = next((copied / "protein_embeddings").glob("Mus_musculus*"))
    content = bytearray(path.read_bytes())
    at = content.index(str(next(iter(read_torch(path)))).encode() if part == "a name of a gene" else b"data.pkl")
    content[at] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refused(copied, config={"nhead": 3})


def test_proteins_of_a_species_that_the_table_holds_are_named_where_they_are_missing(copied, bundled):
    next((copied / "protein_embeddings").glob("Homo_sapiens*")).unlink()
    said = r"protein embeddings of human \(Homo_sapiens\.\*.*\) are missing; put them into protein_embeddings"
    model = sl.load_model(copied, device="cpu", precision="float32", config={"nhead": 3})
    with pytest.raises(GenesError, match=f"look like human genes, but the {said}.*of another species.*: mouse"):
        model.tokenize(bundled)
    with pytest.raises(ModelError, match=f"The {said}"):
        model.tokenize(bundled, options={"species": "Homo sapiens"})
    assert re.search(said, refused(copied, config={"nhead": 3, "species": "human"}))
    assert len(model.tokenize(as_mouse(bundled))) == bundled.n_obs


@pytest.mark.parametrize(
    "name",
    [
        "4layer_model.torch",
        "all_tokens.torch",
        "species_offsets.pkl",
        "protein_embeddings/Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt",
    ],
)
def test_code_in_files_is_named_and_never_run(copied, tmp_path, name):
    mark = tmp_path / "ran"
    if name.endswith(".pkl"):
        (copied / name).write_bytes(pickle.dumps({"human": Hostile(mark)}))
    else:
        torch.save({"human": Hostile(mark)}, copied / name)
    assert "code" in refused(copied)
    assert not mark.exists()


def test_renamed_and_mixed_up_files_are_refused(copied):
    shutil.copy(copied / "species_chrom.csv", copied / "species_offsets.pkl")
    assert "species_offsets.pkl" in refused(copied)
    shutil.copy(copied / "all_tokens.torch", copied / "4layer_model.torch")
    assert "not a state dict" in refused(copied)


def test_two_checkpoints_in_one_folder_are_a_question(copied):
    shutil.copy(copied / "4layer_model.torch", copied / "33l_8ep_1024t_1280.torch")
    assert "give the path of the one you mean" in refused(copied)
    assert (
        sl.load_model(copied / "4layer_model.torch", device="cpu", precision="float32", config={"nhead": 3}).spec.layers
        == 2
    )


def test_proteins_of_another_table_are_refused(copied):
    path = copied / "protein_embeddings" / "Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt"
    many = {f"G{i}": torch.zeros(12) for i in range(5000)}
    torch.save(many, path)
    assert "do not belong together" in refused(copied)
    torch.save({"G1": torch.zeros(5)}, path)
    assert "do not belong together" in refused(copied)


def test_proteins_of_several_widths_and_seeds_that_numpy_does_not_take_are_refused(
    written, tmp_path, rat, model, bundled
):
    torch.save({f"Rat{i}": torch.ones(12 + i % 2) for i in range(60)}, rat["protein_embeddings"])
    opened = {"device": "cpu", "precision": "float32", "config": {"nhead": 3}, "files": {"species": {"rat": rat}}}
    adata = ad.AnnData(np.ones((2, 60), np.float32))
    adata.var_names = [f"Rat{i}" for i in range(60)]
    with pytest.raises(ModelError, match="2 widths"):
        sl.load_model(written, **opened).tokenize(adata, options={"species": "rat"})
    for seed in (-1, 1 << 32):
        with pytest.raises(ModelError, match=f"seed is {seed}"):
            model.tokenize(bundled, options={"like_reference": True}, seed=seed)


def test_options_that_make_no_sense_are_refused(model, bundled):
    for options in ({"sample_size": 0}, {"sample_size": 1536}, {"sample_sise": 5}):
        with pytest.raises(ModelError):
            model.tokenize(bundled, options=options)
    assert (model.tokenize(bundled, options={"sample_size": 64}).lengths < 64 + 1 + 2 * 30).all()


def test_a_sentence_too_long_is_cut_and_told(tmp_path, bundled):
    short = write_uce(tmp_path / "short", list(bundled.var_names), positions=1040)
    model = sl.load_model(short, device="cpu", precision="float32", config={"nhead": 3})
    tokens = model.tokenize(bundled)
    assert tokens.lengths.max() == 1040
    assert tokens.cell["truncated"].any()
    assert (tokens.cell["share_truncated"][tokens.cell["truncated"]] > 0).all()
    assert np.isfinite(model.encode(tokens).cell).all()
