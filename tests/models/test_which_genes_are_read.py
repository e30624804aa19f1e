"""Which columns scGPT and Geneformer read as which of their genes, on a vocabulary of a few."""

from __future__ import annotations

import pickle  # noqa: TID251 - a published format
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scfm_lab.cells.cells import Cells
from scfm_lab.cells.genes import Genes
from scfm_lab.errors import GenesError
from scfm_lab.models import _pickles
from scfm_lab.models.geneformer_files import BY_NAME, UNVERSIONED, Dictionaries, EnsemblVocabulary
from scfm_lab.models.geneformer_rank import seen_counts
from scfm_lab.models.symbols import SymbolVocabulary, symbol_vocabulary

A, B, C = "ENSG00000141510", "ENSG00000012048", "ENSG00000139618"
RETIRED = "ENSG00000999999"
TOKENS = {"<pad>": 0, "<mask>": 1, A: 2, B: 3, C: 4}


def vocabulary(tokens: dict[str, int] | None = None, **mapping: str) -> EnsemblVocabulary:
    """Geneformer's, whose mapping knows one symbol and a retired id."""
    tokens = tokens or TOKENS
    genes = {gene: gene for gene in tokens if gene[0] != "<"}
    mapping = mapping or ({"TP53": A, RETIRED: B} if A in tokens else {})
    return EnsemblVocabulary.of(Dictionaries(tokens, dict.fromkeys(genes, 1.0), {**genes, **mapping}, {}, Path(), {}))


def read(ids: list[Any] | None, index: list[str] = ["g1", "g2", "g3"], **var: Any) -> Genes:  # noqa: B006
    columns = var if ids is None else {"ensembl_id": ids, **var}
    return Genes.from_var(pd.DataFrame(columns, index=index))


@pytest.mark.parametrize("like_reference", [False, True])
def test_an_ensembl_id_is_looked_up_as_it_stands_in_capitals(like_reference):
    for ids in (["TP53", B, C], [A.lower(), B, C], ["tp53", B, C]):
        match = vocabulary().match(read(ids), like_reference=like_reference)
        assert match.ids.tolist() == [2, 3, 4]
        assert not match.summed


def test_what_stands_in_the_column_is_not_replaced_by_another_name():
    genes = read(["x1", B, C], index=[A, "g2", "g3"])
    for like_reference in (False, True):
        assert vocabulary().match(genes, like_reference=like_reference).columns.tolist() == [1, 2]


def test_an_empty_id_is_read_by_its_name_by_default_told_and_touches_no_other_column():
    # A retired name of B beside B twice, which stay two tokens as in the reference.
    genes = read([np.nan, B, B, C], index=[RETIRED, "g2", "g3", "g4"])
    match = vocabulary().match(genes)
    assert match.ids.tolist() == [3, 3, 3, 4]
    assert match.how[BY_NAME] == 1
    assert not match.summed
    assert match.onto.tolist() == [1, 1, 2, 3]
    assert match.doubled == 1
    strict = vocabulary().match(genes, like_reference=True)
    assert (strict.columns.tolist(), strict.doubled, strict.how[BY_NAME]) == ([1, 2, 3], 0, 0)


def test_columns_are_summed_where_the_mapping_holds_both_ids_as_they_are_written():
    apart = vocabulary().match(read(["TP53", "tp53", C.lower()]))
    assert not apart.summed
    assert apart.ids.tolist() == [2, 2, 4]
    together = vocabulary().match(read(["TP53", A, C]))
    assert together.summed
    assert together.doubled == 1


def test_a_version_is_left_out_by_default_told_and_doubles_no_exact_id(few):
    genes = read([A, A + ".7", B + ".12"])
    match = vocabulary().match(genes)
    assert match.how[UNVERSIONED] == 2
    assert match.ids.tolist() == [2, 2, 3]
    cells = Cells.from_anndata(few[:2, :3].copy())
    counts, place = seen_counts(cells, match)
    assert place.tolist() == [2, 3], "one token for each gene"
    np.testing.assert_array_equal(counts.toarray()[:, 0], cells.counts.toarray()[:, :2].sum(axis=1))
    assert vocabulary().match(genes, like_reference=True).columns.tolist() == [0]
    alone = read(None, index=[A + ".1", B + ".2", "x"])
    assert vocabulary().match(alone).how[UNVERSIONED] == 2
    assert len(vocabulary().match(alone, like_reference=True).columns) == 0


def symbols(*names: str) -> SymbolVocabulary:
    return symbol_vocabulary(np.array(names, dtype=object))


def test_names_that_look_like_those_of_a_mouse_are_read_by_a_vocabulary_that_has_them():
    names = [f"Gene{i}" for i in range(20)]
    genes = read(None, index=names)
    assert genes.organism == "mouse"
    assert symbols(*names).match(genes).ids.tolist() == list(range(20))
    tokens = {name: i for i, name in enumerate(["<pad>", "<mask>", *names])}
    assert vocabulary(tokens).match(genes).ids.tolist() == list(range(2, 22))
    # A model of both species knows most of them; one of human genes some by chance.
    both = symbols(*names[:10], *(f"GENE{i}" for i in range(10)))
    assert len(both.match(genes).columns) == 10
    human = symbols("Gene0", "Gene1", *(f"GENE{i}" for i in range(20)))
    assert len(human.match(genes).columns) == 0
    mouse = read(None, index=["Trp53", "Brca1", "Brca2", "Cd3d", "Lyz2", "Ptprc"])
    assert len(vocabulary(BRCA1=B).match(mouse).columns) == 0


def test_scgpt_reads_feature_name_first_or_the_column_that_is_named():
    known = symbols("TP53", "BRCA1", "BRCA2", "CD3D", A)
    var = {"gene_symbol": ["BRCA1", "BRCA2", "CD3D"], "feature_name": ["TP53", A, "x"]}
    genes = read(None, index=["CD3D", "y", "z"], **var)
    assert known.match(genes).ids.tolist() == [1, 2, 3]
    # A name in the form of an Ensembl id is a token like any other.
    assert known.match_in(genes, prefer="feature_name").ids.tolist() == [0, 4]
    for column, ids in (("gene_symbol", [1, 2, 3]), ("Feature_Name", [0, 4]), ("index", [3])):
        assert known.match_in(genes, column=column, prefer="feature_name").ids.tolist() == ids
    with pytest.raises(GenesError, match=r"gene_column is 'other'; .*'feature_name', 'index'"):
        known.match_in(genes, column="other")
    useless = read(None, feature_name=["a", "b", "c"], gene_symbol=["TP53", "BRCA1", "x"])
    assert known.match_in(useless, prefer="feature_name").ids.tolist() == [0, 1]


def test_text_that_numpy_pickled_is_text():
    for protocol in (2, 4):
        found = _pickles.load(pickle.dumps({np.str_("TP53"): np.str_(A)}, protocol=protocol))
        assert found == {"TP53": A}
        assert {type(x) for pair in found.items() for x in pair} == {str}
    assert _pickles.load(pickle.dumps(np.str_(""), protocol=4)) == ""
