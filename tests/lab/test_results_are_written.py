"""Every result writes its table into an AnnData, and where it came from; both outlive a file."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.evaluation.score import Score, Scores
from scfm_lab.tasks.gene_attention import gene_attention
from scfm_lab.tasks.label_names import harmonise_labels


def test_results_outlive_a_file(pbmc68k, tmp_path):
    cells = pbmc68k[::7].copy()
    cells.obs["drug"] = np.where(np.arange(cells.n_obs) % 2, "A", "none")
    cells.obs["half"] = np.where(np.arange(cells.n_obs) % 4 < 2, "x", "y")
    asked = {"treatment_key": "drug", "control": "none", "groupby": "half", "progress": False}
    made = sl.drug_signature(cells, "pca", **asked)
    results = {
        "transfer_signature_pca": sl.transfer_signature(made, source="x", target="y", n_random=5),
        "similar_genes_CD3D_pca": sl.similar_genes("pca", "CD3D", n=3),
        "response_curves_pca": sl.response_curves(cells, "pca", ["LYZ"], progress=False),
        "gene_attention_CD3D_starter": gene_attention(cells, "starter", "CD3D", max_cells=2),
        "harmonise_labels": harmonise_labels(["B cells", "NK"], ["b cell", "T"]),
        "evaluate_made": Scores((Score("a", "m", 0.5), Score("b", "m", 0.2)), provenance={"task": "evaluate.made"}),
    }
    for result in results.values():
        result.write(cells)
        result.write(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    for key, result in results.items():
        assert again.uns["scfm"][key]["slot"] == "uns"
        assert again.uns["scfm"][key]["task"] == result.provenance["task"]
        assert list(again.uns[key].columns) == list(result.table.columns)
        assert len(again.uns[key]) == len(result.table)
    assert f"{next(iter(results))}_2" not in again.uns
    assert len(results["harmonise_labels"].plot().to_dict()["datasets"].popitem()[1]) == 4


def test_scores_of_one_model_are_not_written_over_those_of_another(pbmc68k, tmp_path):
    cells = pbmc68k[::10].copy()
    asked = {"n_boot": 0, "floors": False}
    for model in ("pca", "sctop", ["pca", "sctop"], "pca"):
        sl.evaluate.clustering(cells, model, **asked).write(cells)
    fitted = sl.load_model("pca").fit(cells, n_components=5)
    other = sl.evaluate.clustering(cells, fitted, **asked)
    other.write(cells)
    other.write(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["scfm"]
    shipped = sl.load_model("pca")
    expected = {
        "evaluate_clustering_pca": {"pca": shipped.digest},
        "evaluate_clustering_sctop": {"sctop": sl.load_model("sctop").digest},
        "evaluate_clustering_pca_sctop": {"pca": shipped.digest, "sctop": sl.load_model("sctop").digest},
        # Other weights of a model of the same name.
        "evaluate_clustering_pca_2": {"pca": fitted.digest},
    }
    assert set(again) == set(expected)
    for key, models in expected.items():
        assert {name: one["weights_sha256"] for name, one in again[key]["models"].items()} == models
    told = again["evaluate_clustering_pca"]
    assert told["models"]["pca"]["version"] == shipped.version
    assert told["packages"]["scfm-lab"] == sl.__version__
    assert (told["labels_key"], int(told["max_cells"]), int(told["seed"])) == ("cell_type", 10_000, 0)


def test_scores_of_vectors_are_not_written_over_those_of_other_weights(pbmc68k, tmp_path):
    cells = pbmc68k[::5].copy()
    cells.obs["batch"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    cells.obs["stage"] = np.arange(cells.n_obs) % 3
    # Groups become keys, which cannot hold a slash.
    cells.obs["type"] = cells.obs["cell_type"].astype(str).str.replace("/", " ")
    shipped = sl.load_model("pca")
    fitted = shipped.fit(cells, n_components=5)
    asked = {"root": "CD34+", "groupby": "type", "stage_key": "stage", "n_roots": 0, "twin": False}
    # Beside them what nothing is told of.
    cells.obsm["X_mine"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4)).astype(np.float32)
    for model in (shipped, fitted, fitted):
        sl.embed(cells, model, progress=False, cache=False)
        for keys in ("X_pca", ["X_pca", "X_mine"]):
            sl.evaluate.integration(cells, keys, batch_key="batch", beside=False, n_boot=0).write(cells)
        sl.trajectory(cells, use_rep="X_pca", **asked).agreement.write(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["scfm"]
    found = {key: told["models"] for key, told in again.items() if "models" in told}
    expected = {}
    for number, digest in (("", shipped.digest), ("_2", fitted.digest)):
        expected[f"evaluate_integration_X_pca{number}"] = {"X_pca": digest}
        expected[f"evaluate_integration_X_pca_X_mine{number}"] = {"X_pca": digest, "X_mine": ""}
        expected[f"stages_X_pca{number}"] = {"X_pca": digest}
    assert {
        key: {name: one.get("weights_sha256", "") for name, one in models.items()} for key, models in found.items()
    } == expected


def test_what_has_no_provenance_is_not_written(pbmc68k):
    with pytest.raises(DataError, match="no provenance"):
        Scores((Score("a", "m", 0.5),)).write(pbmc68k)
    assert "scfm" not in pbmc68k.uns
