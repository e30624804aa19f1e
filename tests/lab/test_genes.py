"""Gene identifiers find their place in a model's vocabulary, and what is lost is told in UMIs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.genes import Genes, Vocabulary
from scfm_lab.errors import DataError, GenesError


def _vocabulary() -> Vocabulary:
    return Vocabulary(
        symbols=np.array(["CD3D", "LYZ", "H2AZ1", "PTPRC"], dtype=object),
        ensembl=np.array(["ENSG00000167286", "ENSG00000090382", "ENSG00000164032", "ENSG00000081237"], dtype=object),
        mouse_symbols=np.array(["Cd3d", "Lyz2", "", "Ptprc"], dtype=object),
        mouse_ensembl=np.array(["ENSMUSG00000032094", "", "", "ENSMUSG00000026395"], dtype=object),
        aliases={"H2AFZ": 2, "CD45": 3},
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["CD3D", "LYZ"], {0: 0, 1: 1}),
        (["ENSG00000167286", "ENSG00000090382.14"], {0: 0, 1: 1}),
        (["H2AFZ", "CD45", "NOT_A_GENE"], {0: 2, 1: 3}),
        (["cd3d", "CD3D", "Lyz", "PTPRC", "H2AZ1", "MS4A1"], {0: 0, 1: 0, 2: 1, 3: 3, 4: 2}),
    ],
    ids=["symbols", "ensembl-with-and-without-version", "aliases", "case-and-duplicates"],
)
def test_human_identifiers(names, expected):
    match = _vocabulary().match(Genes.from_var(pd.DataFrame(index=names), organism="human"))
    assert dict(zip(match.columns.tolist(), match.ids.tolist(), strict=True)) == expected


def test_mouse_genes_go_through_one_to_one_orthologs_only():
    genes = Genes.from_var(pd.DataFrame(index=["Cd3d", "Lyz2", "Lyz1", "H2az1", "Ptprc"]))
    assert genes.organism == "mouse"
    match = _vocabulary().match(genes)
    # H2az1 has no one-to-one ortholog here: an upper-cased name would have matched it.
    assert dict(zip(match.columns.tolist(), match.ids.tolist(), strict=True)) == {0: 0, 1: 1, 4: 3}
    assert match.how["ortholog"] == 3


def test_an_ensembl_id_decides_over_a_symbol():
    var = pd.DataFrame({"ensembl_id": ["ENSG00000090382"]}, index=["CD3D"])
    match = _vocabulary().match(Genes.from_var(var))
    assert match.ids.tolist() == [1]


def test_columns_of_one_gene_are_summed(pbmc68k):
    model = sl.load_model("pca")
    whole = sl.embed(pbmc68k, model, progress=False, copy=True).vectors
    halves = pbmc68k[:, :].copy()
    half = halves.X.copy()
    half.data = np.floor(half.data / 2)
    rest = halves.X - half
    from scipy import sparse

    split = sl.Cells.from_anndata(pbmc68k)
    import anndata as ad

    var = pd.concat([pbmc68k.var, pbmc68k.var.rename(index=lambda n: n + "-copy")])
    doubled = ad.AnnData(sparse.hstack([half, rest]).tocsr(), obs=pbmc68k.obs, var=var)
    result = sl.embed(doubled, model, progress=False)
    np.testing.assert_allclose(result.vectors, whole, atol=1e-5)
    assert result.audit.doubled > 300
    assert len(split) == 700


def test_a_typo_gets_the_nearest_name(pbmc68k):
    genes = Cells.from_anndata(pbmc68k).genes
    assert genes.names[genes.find("CD3D")] == "CD3D"
    assert genes.names[genes.find("ENSG00000167286.9")] == "CD3D"
    with pytest.raises(GenesError, match="Did you mean 'CD79A'"):
        genes.find("CD79AA")


def test_a_symbol_of_two_columns_is_not_guessed_at(pbmc68k):
    adata = pbmc68k[:, :3].copy()
    adata.var_names = ["ENSG00000100001", "ENSG00000100002", "ENSG00000100003"]
    adata.var = adata.var.assign(gene_symbol=["TWICE", "ONCE", "TWICE"])
    genes = Cells.from_anndata(adata).genes
    assert genes.find("ONCE") == 1
    assert genes.find("ENSG00000100003") == 2
    with pytest.raises(GenesError, match="'TWICE' is the name of 2 columns"):
        genes.find("TWICE")


def test_the_audit_counts_umis_and_not_names(pbmc68k):
    model = sl.load_model("pca")
    audit = sl.audit_genes(pbmc68k, model, groupby="cell_type")
    counts = pbmc68k.X.astype(float)
    known = counts[:, model.match(Cells.from_anndata(pbmc68k).genes).columns].sum()
    assert audit.umi_share_lost == pytest.approx(1 - known / counts.sum(), abs=1e-9)
    groups = audit.table.set_index("group")
    assert set(groups.index) == {"all", *pbmc68k.obs["cell_type"]}
    weighted = (groups["umi_share_lost"] * groups["umis"]).drop("all").sum() / groups.loc["all", "umis"]
    assert weighted == pytest.approx(audit.umi_share_lost)
    # What is lost most stands first, with its share of all UMIs.
    assert audit.lost["umis"].is_monotonic_decreasing
    assert audit.lost["share"].sum() <= audit.umi_share_lost + 1e-9


def test_no_known_gene_is_an_error_that_tells_what_the_model_wants(pbmc68k):
    pbmc68k.var_names = [f"gene{i}" for i in range(765)]
    pbmc68k.var = pbmc68k.var[[]]
    with pytest.raises(GenesError, match=r"None of the 765 genes \(such as gene0.*is known to pca"):
        sl.embed(pbmc68k, "pca", progress=False)
    assert "X_pca" not in pbmc68k.obsm


def test_a_cell_without_known_genes_is_nan_and_counted(pbmc68k):
    model = sl.load_model("pca")
    known = model.match(Cells.from_anndata(pbmc68k).genes).columns
    x = pbmc68k.X.tolil()
    x[10, known] = 0
    pbmc68k.X = x.tocsr()
    result = sl.embed(pbmc68k, model, progress=False)
    assert np.isnan(result.vectors[10]).all()
    assert np.isfinite(np.delete(result.vectors, 10, axis=0)).all()
    assert result.audit.cells_without_genes == 1
    assert "1 cell has no known gene; its vector will be NaN." in result.summary()


def test_a_missing_group_column_is_named(pbmc68k):
    with pytest.raises(DataError, match="Did you mean 'cell_type'"):
        sl.audit_genes(pbmc68k, "pca", groupby="celltype")


def test_groups_that_lose_the_same_are_not_compared(pbmc68k):
    """A model that knows every gene loses nothing anywhere: no group stands out."""
    known = sl.load_model("starter").match(Cells.from_anndata(pbmc68k).genes).columns
    all_known = pbmc68k[:, known].copy()
    summary = sl.audit_genes(all_known, "starter", groupby="cell_type").summary()
    assert "It is 0.0% in every group." in summary
    assert " to 0.0%" not in summary
    assert "By group: " in sl.audit_genes(pbmc68k, "pca", groupby="cell_type").summary()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda n: np.linspace(0, 1, n), "holds numbers .700 different ones. and not groups"),
        (lambda n: [f"cell {i}" for i in range(n)], "has 700 groups; at most 200"),
    ],
)
def test_a_column_that_holds_no_groups_is_told(pbmc68k, values, words):
    pbmc68k.obs["measured"] = values(pbmc68k.n_obs)
    with pytest.raises(DataError, match=words):
        sl.audit_genes(pbmc68k, "pca", groupby="measured")
    with pytest.raises(DataError, match=words):
        sl.perturb(pbmc68k, "pca", {"CD3D": 0.0}, groupby="measured", progress=False)
    # Numbers of clusters are groups, also where pandas keeps them as decimals.
    pbmc68k.obs["measured"] = np.arange(pbmc68k.n_obs) % 7 * 1.0
    assert len(sl.audit_genes(pbmc68k, "pca", groupby="measured").table) == 8


def test_an_alias_gives_way_to_the_current_name():
    # H2AFZ is an old name of H2AZ1; beside H2AZ1 itself it must be something else.
    match = _vocabulary().match(Genes.from_var(pd.DataFrame(index=["H2AZ1", "H2AFZ", "CD45"]), organism="human"))
    assert dict(zip(match.columns.tolist(), match.ids.tolist(), strict=True)) == {0: 2, 2: 3}
    assert match.how == {"ensembl": 0, "symbol": 1, "alias": 1, "ortholog": 0}


def test_names_of_other_organisms_are_not_upper_cased():
    names = pd.DataFrame(index=["cd3d", "lyz", "ptprc"])
    assert len(_vocabulary().match(Genes.from_var(names, organism="zebrafish")).columns) == 0


@pytest.mark.parametrize(
    ("prefix", "symbols", "told"),
    [
        ("ENSSSCG", ["CD3D", "LYZ", "ACTB", "GAPDH", "CD74", "NKG7"], "pig"),
        ("ENSRNOG", ["Cd3d", "Lyz", "Actb", "Gapdh", "Cd74", "Nkg7"], None),
        ("FBgn", ["CG123", "CG124", "CG125", "CG126", "CG127", "CG128"], None),
        ("ENSMUSG", ["CD3D", "LYZ", "ACTB", "GAPDH", "CD74", "NKG7"], "mouse"),
        ("", ["CD3D", "LYZ", "ACTB", "GAPDH", "CD74", "NKG7"], "human"),
    ],
)
def test_ids_tell_the_species_before_capitals_do(prefix, symbols, told):
    ids = [f"{prefix}{i:011d}" if prefix else "" for i in range(6)]
    assert Genes.from_var(pd.DataFrame({"ensembl_id": ids}, index=symbols)).organism == told


def test_ids_of_other_databases_stand_beside_one_of_ensembl():
    ids = [*(f"FBgn{i:07d}" for i in range(9)), "ENSG00000167286.9", "unknown", "w11"]
    genes = Genes.from_var(pd.DataFrame({"ensembl_id": ids}, index=[f"w{i}" for i in range(12)]))
    assert genes.ensembl.tolist() == [*ids[:9], "ENSG00000167286", "", ""]
