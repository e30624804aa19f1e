"""Which gene a token, a state and a row of a table are of, in families whose tokens do not count as their vocabularies do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import GenesError, ModelError
from scfm_lab.models.contract import aligned_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from families import Family


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_gene_of_each_token_is_one_that_its_cell_expresses(model, few):
    cells = Cells.from_anndata(few[:5].copy())
    tokens = model.tokenize(cells)
    counts = aligned_counts(cells, model.match(cells.genes), len(model.vocabulary))
    for cell, ids in enumerate(np.split(model.vocabulary_ids(tokens), tokens.offsets[1:-1])):
        read = set(ids[ids >= 0].tolist())
        assert len(read) > 20
        assert read <= set(counts[cell].indices.tolist())
        assert all(model.vocabulary.names[i] for i in read)
        # UCE draws genes, scBERT's lowest bin holds what is silent too.
        if model.family not in ("uce", "scbert") and not tokens.cell.get("truncated", np.zeros(5, bool))[cell]:
            assert len(read) == counts[cell].nnz


@pytest.mark.parametrize("name", ["transcriptformer"])
def test_states_and_rows_of_transcriptformer_go_by_symbol_and_by_id(model, pbmc68k):
    cells = pbmc68k[:40].copy()
    found = sl.similar_genes(model, "CST3", kind="contextual", adata=cells, n=3)
    every = model.contextual_gene_embeddings(cells)
    ensembl = dict(zip(model.vocabulary.symbols, model.vocabulary.ensembl, strict=True))
    mean = [
        every.embeddings[every.gene_names == ensembl[gene]].mean(axis=0) for gene in ("CST3", found.table["gene"][0])
    ]
    assert found.table["cosine"][0] == pytest.approx(cosine(*mean), abs=1e-4)

    table = model.gene_embeddings()
    by_symbol = sl.similar_genes(model, "CD3D", adata=cells, n=3)
    assert by_symbol.table.equals(sl.similar_genes(model, ensembl["CD3D"], adata=cells, n=3).table)
    near = by_symbol.table["gene"][0]
    assert by_symbol.table["cosine"][0] == pytest.approx(
        cosine(table.loc[ensembl["CD3D"]], table.loc[ensembl.get(near, near)]), abs=1e-4
    )
    assert np.isfinite(by_symbol.table["detection"]).any()


def test_states_of_uce_are_those_of_the_rows_of_a_gene(every_opened: Callable[[str], Any], pbmc68k: AnnData):
    model, cells = every_opened("uce"), pbmc68k[:30].copy()
    found = sl.similar_genes(model, "CST3", kind="contextual", adata=cells, n=3, options={"sample_size": 100})
    tokens = model.tokenize(cells, options={"sample_size": 100})
    states = model.encode(tokens, genes=True).genes
    genes = model.species.genes("human")
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    mean = []
    for gene in ("CST3", found.table["gene"][0]):
        here = tokens.ids == genes.rows[list(genes.symbols).index(gene)]
        mean.append(np.mean([states[here & (cell == i)].mean(axis=0) for i in np.unique(cell[here])], axis=0))
    assert found.table["cosine"][0] == pytest.approx(cosine(*mean), abs=1e-4)


def test_a_knocked_out_regulator_changes_states_of_the_targets_named(every_opened: Callable[[str], Any], pbmc68k):
    """Of TranscriptFormer a gene is read by those behind it alone, so that a regulator in the last column changes no target."""
    model = every_opened("transcriptformer")
    known = model.match(Cells.from_anndata(pbmc68k).genes).columns
    often = known[np.asarray((pbmc68k.X[:, known] > 0).sum(axis=0)).ravel() > 300]
    first, target, last = (str(pbmc68k.var_names[c]) for c in (often[0], often[len(often) // 2], often[-1]))
    cells = pbmc68k[:, [c for c in range(pbmc68k.n_vars) if c <= often[-1]]][:60].copy()
    found = sl.regulators(
        cells,
        model,
        method="perturbation",
        regulators=[first, last],
        targets=[target],
        beside=False,
        max_cells=60,
        progress=False,
    ).scores["perturbation"][:, 0]
    assert found[0] > 1e-6
    assert found[1] == pytest.approx(0, abs=1e-6)


def test_gene_vectors_of_another_species_are_no_answer(every_written: Callable[[str], Family], pbmc68k: AnnData):
    written = every_written("uce")
    mouse, few = pbmc68k[:40, 10:].copy(), {"sample_size": 100}
    mouse.var = mouse.var[[]]
    mouse.var_names = [str(name).title() for name in mouse.var_names]
    mouse.uns.pop("organism", None)
    own = written.open(config={"species": "mouse"})
    table = own.gene_embeddings()
    known = [g for g in mouse.var_names if g.upper() in table.index and (mouse[:, g].X > 0).sum() >= 25][:3]
    human = written.open()
    for call in (
        lambda: sl.regulators(
            mouse, human, method="embedding", regulators=known[:2], targets=known[2:], beside=False, progress=False
        ),
        lambda: sl.similar_genes(human, known[0], kind="contextual", adata=mouse),
    ):
        with pytest.raises(ModelError, match=r"read as mouse, .* shown for human.*config=\{'species': 'mouse'\}"):
            call()
    found = sl.regulators(
        mouse,
        own,
        method=["embedding", "perturbation"],
        regulators=known[:2],
        targets=known[2:],
        beside=False,
        options=few,
        progress=False,
    )
    assert found.scores["embedding"][0, 0] == pytest.approx(
        cosine(table.loc[known[0].upper()], table.loc[known[2].upper()]), abs=1e-5
    )
    assert (found.scores["perturbation"] > 0).any()
    assert sl.similar_genes(own, known[0], kind="contextual", adata=mouse, n=2, options=few).gene == known[0].upper()


def test_genes_of_uce_are_required_in_a_sentence(every_opened: Callable[[str], Any], pbmc68k: AnnData):
    model = every_opened("uce")
    genes = Cells.from_anndata(pbmc68k).genes
    assert model.require_genes(genes) is model.match(genes)
    other = pbmc68k[:3].copy()
    other.var = other.var[[]]
    other.var_names = [f"Qq{i}" for i in range(other.n_vars)]
    with pytest.raises(GenesError, match="None of the"):
        model.require_genes(Cells.from_anndata(other).genes)


@pytest.mark.parametrize("name", ["transcriptformer"])
def test_targets_are_found_in_a_table_by_id_whatever_the_data_calls_them(model, pbmc68k):
    vocabulary = model.vocabulary
    alias, number = next(
        (a, i) for a, i in vocabulary.aliases.items() if vocabulary.symbols[i] not in ("", "CST3", "CD3D")
    )
    ids = [vocabulary.id_of(gene) for gene in ("CST3", "CD3D", "LYZ")]
    called = {"symbols": ["CST3", "CD3D", "LYZ", alias], "ids": [str(vocabulary.ensembl[i]) for i in (*ids, number)]}
    groups = np.arange(pbmc68k.n_obs) % 5
    found = {}
    for way, genes in called.items():
        pbmc68k.obs["perturbation"] = np.array(["control", *genes], dtype=object)[groups]
        scores = sl.evaluate.perturbation(pbmc68k, model, splits=1, progress=False)
        assert "Its table holds the targets" not in scores.of("Pearson-Δ", model.name).remark
        order = [list(dict.fromkeys(scores.targets["perturbation"])).index(gene) for gene in genes]
        found[way] = {who: scores.predicted[who][order] for who in (model.name, "mean")}
    np.testing.assert_allclose(found["symbols"][model.name], found["ids"][model.name], atol=1e-6)
    # It is not the mean of the others, which is what a gene without an embedding gets.
    apart = np.abs(found["symbols"][model.name] - found["symbols"]["mean"]).max(axis=1)
    assert (apart > 1e-4).all()
    assert scores.provenance["models"][model.name]["weights_sha256"] == model.digest
