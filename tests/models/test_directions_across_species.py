"""A direction of one species is carried into another by one model that reads both; how cells are sampled is not what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from writers_protein import write_tf

import scfm_lab as sl
from scfm_lab.errors import DataError
from scfm_lab.evaluation.cross_species import HUMAN_NAMES, OWN_GENES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from families import Family


def test_a_direction_of_human_cells_is_carried_into_cells_of_the_mouse(
    every_opened: Callable[[str], Any], few: AnnData
) -> None:
    model = every_opened("uce")
    few.obs["drug"] = np.where(np.arange(few.n_obs) % 2, "a", "none")
    mouse = few.copy()
    mouse.var_names = [name.title() for name in mouse.var_names]
    mouse.var = mouse.var[[]]

    def signature(cells: AnnData, **options: Any) -> Any:
        given = {"sample_size": 32, **options}
        asked = {"treatment_key": "drug", "control": "none", "progress": False}
        return sl.drug_signature(cells, model, options=given, **asked)

    human = signature(few, species="human")
    there = signature(mouse, species="mouse")
    assert there.provenance["options_of_cells"] == ["species"]
    assert np.isfinite(sl.transfer_signature(human, into=there, n_random=5).table["cosine"].item())
    with pytest.raises(DataError, match="what differs: options"):
        sl.transfer_signature(human, into=signature(mouse, species="mouse", sample_size=16))


def test_models_that_know_the_mouse_are_given_its_own_genes(
    every_written: Callable[[str], Family], pbmc68k: AnnData
) -> None:
    model = every_written("uce").open(config={"sample_size": 32})
    human, mouse = pbmc68k[::5].copy(), pbmc68k[1::5].copy()
    mouse.var_names = [name.title() for name in mouse.var_names]
    mouse.var = mouse.var[[]]
    mouse.uns["organism"] = "mouse"
    scores = sl.evaluate.cross_species(human, mouse, [model, "pca"], n_boot=0)
    alone = sl.evaluate.annotation(human, model, query=mouse, floors=False, n_boot=0)
    assert scores.of("accuracy", "uce").value == alone.of("accuracy", "uce").value
    assert OWN_GENES in scores.of("accuracy", "uce").remark
    assert HUMAN_NAMES in scores.of("accuracy", "pca").remark
    assert scores.table["model"].value_counts()["pca (fitted)"] == 2
    told = sl.evaluate.cross_species(human, mouse, model, options={"species": "human"}, n_boot=0, floors=False)
    assert HUMAN_NAMES in told.of("accuracy", "uce").remark


def test_a_transcriptformer_of_both_species_is_given_the_mouses_own_ids(tmp_path: Path, pbmc68k: AnnData) -> None:
    human, mouse = pbmc68k[::5].copy(), pbmc68k[1::5].copy()
    mouse.var_names = [name.title() for name in mouse.var_names]
    mouse.var = mouse.var[[]]
    mouse.var["ensembl_id"] = [f"ENSMUSG{number:011d}" for number in range(mouse.n_vars)]
    mouse.uns["organism"] = "mouse"
    ids = {
        "homo_sapiens_gene.h5": sorted(
            one for one in set(human.var["ensembl_id"].astype(str)) if one.startswith("ENSG")
        ),
        "mus_musculus_gene.h5": mouse.var["ensembl_id"].tolist(),
    }
    write_tf(tmp_path / "tf", ids)
    model = sl.load_model(tmp_path / "tf", device="cpu", precision="float32")
    assert set(model.spec.organisms) == {"human", "mouse"}
    scores = sl.evaluate.cross_species(human, mouse, [model, "pca"], n_boot=0)
    alone = sl.evaluate.annotation(human, model, query=mouse, floors=False, n_boot=0)
    assert scores.of("accuracy", "transcriptformer").value == alone.of("accuracy", "transcriptformer").value
    assert OWN_GENES in scores.of("accuracy", "transcriptformer").remark
    assert HUMAN_NAMES in scores.of("accuracy", "pca").remark
