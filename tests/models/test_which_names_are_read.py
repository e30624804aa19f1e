"""Where the names of genes are read: of several columns of ``var`` the one whose names a model knows, told to the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from writers_protein import write_uce

import scfm_lab as sl
from scfm_lab.cells.genes import Genes
from scfm_lab.errors import GenesError
from scfm_lab.models.geneformer_files import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

KNOWN = 755
"""Bundled genes that a family's small checkpoint knows."""


def named(index: Any, **columns: Any) -> Genes:
    return Genes.from_var(pd.DataFrame({k: list(v) for k, v in columns.items()}, index=[str(name) for name in index]))


@pytest.fixture(scope="module")
def naming(_pbmc68k: AnnData) -> dict[str, Genes]:
    """The bundled genes as the columns of others call them."""
    symbols = _pbmc68k.var_names.astype(str).to_numpy(dtype=object)
    ensembl = _pbmc68k.var["ensembl_id"].astype(str).to_numpy(dtype=object)
    n = len(symbols)
    numbers = [f"g{i}" for i in range(n)]
    descriptions = [f"Interleukin {i} receptor" for i in range(n)]
    one_right = [*descriptions[:200], symbols[200], *descriptions[201:]]
    junk = [*numbers[:200], symbols[200], *numbers[201:]]
    every_second = np.where(np.arange(n) % 2 == 0, ensembl, symbols)
    gaps = ensembl.copy()
    gaps[::3] = np.nan
    return {
        "descriptions": named(symbols, gene_name=descriptions),
        "descriptions but one": named(symbols, gene_name=one_right),
        "a later column": named(numbers, gene_symbol=junk, gene_name=symbols),
        "small letters": named(symbols, gene_symbols=[s.lower() for s in symbols]),
        "transcripts": named(symbols, ensembl_id=[e.replace("ENSG", "ENST") for e in ensembl]),
        "transcripts but one": named(
            symbols, ensembl_id=[e if i == 200 else e.replace("ENSG", "ENST") for i, e in enumerate(ensembl)]
        ),
        "Entrez": named(symbols, ensembl_id=[str(1000 + i) for i in range(n)]),
        "ids and junk": named(ensembl, gene_symbol=junk),
        "ids": named(ensembl),
        "gaps": named(symbols, ensembl_id=gaps),
        "mixed index": named(every_second),
        "mixed index and symbols": named(every_second, gene_symbol=symbols),
    }


def test_no_gene_is_lost_to_a_column_of_other_names(model, naming):
    lost = {how: n for how, genes in naming.items() if (n := len(model.known_genes(genes, {}).columns)) != KNOWN}
    assert lost == {}


def test_the_column_that_was_read_is_told(every_opened: Callable[[str], Any], naming, few):
    scgpt = every_opened("scgpt")
    assert scgpt.match(naming["descriptions"]).told_source == "var_names"
    assert scgpt.match(naming["a later column"]).told_source == "var['gene_name']"
    cells = few.copy()
    cells.var = pd.DataFrame(
        {"feature_name": cells.var_names.astype(str)}, index=[f"g{i}" for i in range(cells.n_vars)]
    )
    audit = sl.audit_genes(cells, scgpt)
    assert "by the names in var['feature_name']" in audit.summary()
    assert audit.as_provenance()["names_from"] == "var['feature_name']"


def test_gene_column_is_any_column_of_text(every_opened: Callable[[str], Any], few):
    scgpt, cells = every_opened("scgpt"), few[:3].copy()
    wanted = scgpt.tokenize(cells).ids
    symbols = cells.var_names.astype(str)
    cells.var = pd.DataFrame({"Symbol of HGNC": symbols, "length": 7}, index=symbols[::-1])
    read = scgpt.tokenize(cells, options={"gene_column": "Symbol of HGNC"})
    np.testing.assert_array_equal(read.ids, wanted)
    with pytest.raises(GenesError, match=r"gene_column is 'length'; .*'Symbol of HGNC', 'index'"):
        scgpt.tokenize(cells, options={"gene_column": "length"})


@pytest.mark.parametrize(
    ("family", "column"), [("scgpt", "feature_name"), ("scfoundation", "gene_name"), ("scbert", ""), ("uce", "")]
)
def test_like_reference_reads_the_column_of_the_reference_alone(
    every_opened: Callable[[str], Any], pbmc68k: AnnData, family: str, column: str
):
    model, exact = every_opened(family), {"like_reference": True}
    symbols = pbmc68k.var_names.astype(str)
    few_names = [name if i < 40 else f"g{i}" for i, name in enumerate(symbols)]
    own = {column: few_names} if column else {}
    genes = named(symbols if column else few_names, **own, gene_symbol=symbols)
    assert len(model.known_genes(genes, {}).columns) == KNOWN
    strict = model.known_genes(genes, exact)
    assert (strict.columns < 40).all()
    assert strict.told_source == (f"var['{column}']" if column else "var_names")
    if family != "uce":
        none = (
            named(symbols, **{column: ["x"] * len(symbols)}) if column else named(few_names[40:], symbol=symbols[40:])
        )
        with pytest.raises(GenesError, match=r"like_reference reads var.* alone, .* without it \d+ genes are"):
            model.known_genes(none, exact)


def test_symbols_beside_empty_ids_are_translated_for_geneformer_v1_and_told(every_opened: Callable[[str], Any], naming):
    geneformer = every_opened("geneformer_v1")
    match = geneformer.match(naming["gaps"])
    assert match.how[BY_NAME] > 200
    assert match.told_source == "var_names"
    assert len(geneformer.known_genes(naming["gaps"], {"like_reference": True}).columns) < KNOWN - 200


def test_ids_of_another_species_are_not_hidden_by_symbols(every_opened: Callable[[str], Any], pbmc68k: AnnData):
    cells = pbmc68k[:5].copy()
    cells.uns.pop("organism", None)
    cells.var = pd.DataFrame(
        {"gene_symbol": cells.var_names.astype(str)},
        index=cells.var["ensembl_id"].astype(str).str.replace("ENSG", "ENSMMUG").to_numpy(),
    )
    cells.var_names_make_unique()
    told = "The genes are those of macaca_mulatta, which scgpt does not know: they are read as its own (human)"
    assert told in sl.audit_genes(cells, every_opened("scgpt")).summary()
    for family in ("geneformer_v1", "transcriptformer"):
        with pytest.raises(GenesError):
            every_opened(family).require_genes(Genes.from_var(cells.var))
    assert "does not know" not in sl.audit_genes(pbmc68k, every_opened("scgpt")).summary()


def test_the_audit_is_of_what_like_reference_reads(every_opened: Callable[[str], Any], pbmc68k: AnnData):
    exact = {"like_reference": True}
    cells, scbert = pbmc68k[:40].copy(), every_opened("scbert")
    # A gene that stands there a second time, by its id.
    twice = cells.copy()
    names = twice.var_names.astype(str).to_numpy(dtype=object)
    names[300] = twice.var["ensembl_id"].iloc[200]
    twice.var = pd.DataFrame(index=names)
    assert "1 column is summed" in sl.audit_genes(twice, scbert).summary()
    audit = sl.audit_genes(twice, scbert, options=exact)
    assert (audit.genes_matched, audit.doubled) == (KNOWN - 1, 0)

    uce = every_opened("uce")
    rare = np.asarray((cells.X > 0).sum(axis=0)).ravel() < 10
    known = uce.match(Genes.from_var(cells.var)).columns
    audit = sl.audit_genes(cells, uce, options=exact)
    assert audit.genes_matched == int((~rare[known]).sum()) < KNOWN
    assert f"{int(rare[known].sum())} genes that it knows are not read: the reference's filter" in audit.summary()
    assert sum(audit.how.values()) == audit.genes_matched
    kept = sl.audit_genes(cells, uce, options={**exact, "filter": False})
    assert kept.genes_matched == KNOWN
    embedded = sl.embed(cells, uce, options={**exact, "sample_size": 64}, copy=True)
    assert embedded.audit.genes_matched == audit.genes_matched


@pytest.mark.parametrize(("family", "scales"), [("scgpt", False), ("uce", False), ("geneformer_v1", True)])
def test_library_sizes_are_named_where_they_are_used(
    every_opened: Callable[[str], Any], pbmc68k: AnnData, family: str, scales: bool
):
    summary = sl.audit_genes(pbmc68k[:5].copy(), every_opened(family)).summary()
    assert "of a cell's counts (median)" in summary
    assert ("library sizes are taken over all genes" in summary) == scales


def test_heads_that_nothing_tells_are_told(tmp_path: Path, few: AnnData):
    write_uce(tmp_path, list(few.var_names[:60]), d=40, heads=4)
    few_genes = few[:3, :60].copy()
    for config, told in ((None, True), ({"nhead": 4}, False)):
        model = sl.load_model(tmp_path, device="cpu", precision="float32", config=config)
        result = sl.embed(few_genes, model, options={"sample_size": 16}, copy=True)
        assert ("Heads assumed: 20, the published number; this file is 40 wide" in result.summary()) == told
        assert result.provenance["heads"] == (20 if told else 4)
