"""Models of equal weights and other settings, vocabularies or dictionaries never get each other's vectors."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from families import Family, write_family
from writers_protein import write_vectors

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_lab.inference import cluster, precision
from scfm_lab.models.identity import _Reader
from scfm_lab.models.load import _from_here
from scfm_lab.models.tokens import Request
from scfm_lab.models.transcriptformer import TranscriptFormer

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


def _json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Family], dict[str, Any]]:
    def apply(family: Family) -> dict[str, Any]:
        path = family.path / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return {}

    return apply


def _swap(vocabulary: dict[str, int]) -> None:
    genes = [name for name in vocabulary if not name.startswith("<")]
    vocabulary.update(dict(zip(genes, [vocabulary[name] for name in genes][::-1], strict=True)))


def _medians(family: Family, folder: Path) -> None:
    path = next(folder.glob("gene_median*.pkl"))
    medians = pickle.loads(path.read_bytes())
    values = list(medians.values())
    path.write_bytes(pickle.dumps(dict(zip(medians, values[::-1], strict=True))))


def _own_medians(family: Family) -> dict[str, Any]:
    _medians(family, family.path / "dictionaries")
    return {}


def _other_medians(family: Family) -> dict[str, Any]:
    folder = shutil.copytree(family.path / "dictionaries", family.root / "other")
    _medians(family, folder)
    return {"files": {"dictionaries": folder}}


def _positions(family: Family) -> dict[str, Any]:
    path = family.path / "species_chrom.csv"
    table = pd.read_csv(path)
    table["start"] = table["start"].to_numpy()[::-1]
    table.to_csv(path, index=False)
    return {}


def _proteins(family: Family) -> dict[str, Any]:
    path = next((family.path / "protein_embeddings").glob("Homo*"))
    content = torch.load(path, weights_only=True)  # noqa: TID251 - written by this test
    torch.save(dict(zip(reversed(content), content.values(), strict=True)), path)
    return {}


def _order(family: Family) -> dict[str, Any]:
    path = family.root / "data" / "panglao_10000.h5ad"
    ad.read_h5ad(path)[:, ::-1].copy().write_h5ad(path)
    return {}


def _order_given(family: Family) -> dict[str, Any]:
    return {"files": {"gene_order": list(ad.read_h5ad(family.root / "data" / "panglao_10000.h5ad").var_names[::-1])}}


def _index(family: Family) -> pd.DataFrame:
    return pd.read_csv(next(family.root.glob("OS_scRNA_gene_index*")), sep="\t")


def _index_given(family: Family) -> dict[str, Any]:
    return {"files": {"gene_index": list(_index(family).sort_values("index")["gene_name"][::-1])}}


def _index_in_folder(family: Family) -> dict[str, Any]:
    table = _index(family)
    table["gene_name"] = table["gene_name"].to_numpy()[::-1]
    table.to_csv(next(family.root.glob("OS_scRNA_gene_index*")), sep="\t", index=False)
    return {}


CHANGES: dict[str, tuple[str, Callable[[Family], dict[str, Any]]]] = {
    "scgpt heads": ("scgpt", _json("args.json", lambda c: c.update(nheads=4))),
    "scgpt pad_value": ("scgpt", _json("args.json", lambda c: c.update(pad_value=-1))),
    "scgpt vocabulary": ("scgpt", _json("vocab.json", _swap)),
    "geneformer activation": ("geneformer_v2", _json("config.json", lambda c: c.update(hidden_act="gelu"))),
    "geneformer dictionaries": ("geneformer_v2", _own_medians),
    "geneformer dictionaries given": ("geneformer_v1", _other_medians),
    "transcriptformer softcap": (
        "transcriptformer",
        _json("config.json", lambda c: c["model"]["model_config"].update(softcap=1)),
    ),
    "uce positions": ("uce", _positions),
    "uce proteins": ("uce", _proteins),
    "scbert order": ("scbert", _order),
    "scbert order given": ("scbert", _order_given),
    "scfoundation index": ("scfoundation", _index_in_folder),
    "scfoundation index given": ("scfoundation", _index_given),
}


@pytest.fixture
def caching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCFM_CACHE_GB", "1")


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.usefixtures("caching")
def test_equal_weights_with_something_else_changed_never_share_vectors(
    case: str, tmp_path: Path, pbmc68k: AnnData
) -> None:
    name, change = CHANGES[case]
    family = write_family(name, tmp_path / "model", pbmc68k)
    cells = pbmc68k[::150].copy()
    one = family.open()
    first = sl.embed(cells, one, progress=False).vectors
    other = family.open(**change(family))
    assert other.digest == one.digest
    got = sl.embed(cells, other, progress=False)
    true = sl.embed(cells, other, cache=False, progress=False).vectors
    assert got.provenance["cells_from_cache"] == 0
    np.testing.assert_array_equal(got.vectors, true)
    assert np.abs(first - true).max() > 1e-4
    # What was found out about precision is another's too.
    assert precision._where(one, Request()) != precision._where(other, Request())
    # The same files, opened again by what the model says of itself, are known.
    again = sl.load_model(other.path, device="cpu", precision="float32", **other.opened)
    assert sl.embed(cells, again, progress=False).provenance["cells_from_cache"] == len(cells)


def _new_species(family: Family) -> dict[str, Any]:
    human = next((family.path / "protein_embeddings").glob("Homo*"))
    content = torch.load(human, weights_only=True)  # noqa: TID251 - written by this test
    torch.save({name.upper(): vector for name, vector in content.items()}, family.root / "rat.pt")
    table = pd.read_csv(family.path / "species_chrom.csv").query("species == 'human'").assign(species="rat")
    table.to_csv(family.root / "rat.csv", index=False)
    return {
        "species": {
            "rat": {"protein_embeddings": family.root / "rat.pt", "chrom": family.root / "rat.csv", "taxon": 10116}
        }
    }


def _embeddings(family: Family) -> dict[str, Any]:
    names = [f"ENSRNOG{i:011d}" for i in range(50)]
    return {"pretrained_embedding": [write_vectors(family.root / "rattus_gene.h5", names, 10)]}


@pytest.mark.parametrize(("name", "given"), [("uce", _new_species), ("transcriptformer", _embeddings)])
def test_files_are_kept_as_they_were_given_so_that_they_open_again(
    name: str, given: Callable[[Family], dict[str, Any]], tmp_path: Path, pbmc68k: AnnData
) -> None:
    family = write_family(name, tmp_path / "model", pbmc68k)
    one = family.open(files=given(family))
    again = sl.load_model(one.path, device="cpu", **one.opened)
    assert (again.digest, again.settings_digest) == (one.digest, one.settings_digest)
    assert one.settings_digest != family.open().settings_digest or one.digest != family.open().digest


@pytest.mark.parametrize(("name", "given"), [("uce", _new_species), ("transcriptformer", _embeddings)])
def test_files_given_from_the_working_directory_open_from_another(
    name: str,
    given: Callable[[Family], dict[str, Any]],
    tmp_path: Path,
    pbmc68k: AnnData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = write_family(name, tmp_path / "model", pbmc68k)

    def from_here(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value.relative_to(family.root))
        if isinstance(value, dict):
            return {key: from_here(one) for key, one in value.items()}
        return [from_here(one) for one in value] if isinstance(value, list) else value

    files = from_here(given(family))
    monkeypatch.chdir(family.root)
    one = family.open(files=files)
    # As the workers of a cluster do, and the readers of a provenance.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = sl.load_model(one.path, device="cpu", **one.opened)
    assert (again.digest, again.settings_digest) == (one.digest, one.settings_digest)


def test_files_named_in_the_configuration_open_from_another_working_directory(
    tmp_path: Path, pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = write_family("transcriptformer", tmp_path / "model", pbmc68k)
    [path] = _embeddings(family)["pretrained_embedding"]
    config = {"pretrained_embedding": path.name}
    monkeypatch.chdir(path.parent)
    one, direct = family.open(config=config), TranscriptFormer.open(family.path, config=config)
    assert one.opened["config"] == one.asked["config"] == {"pretrained_embedding": str(path)}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = sl.load_model(one.path, device="cpu", **one.opened)
    assert again.digest == one.digest == direct.digest


def test_paths_in_a_home_are_in_that_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _from_here({"checkpoint": Path("~/model.pt")}) == {"checkpoint": tmp_path / "model.pt"}
    assert _from_here([Path("~/one.h5"), Path("~/other.h5")]) == [tmp_path / "one.h5", tmp_path / "other.h5"]
    with pytest.raises(
        ModelError, match=r"~nobody-has-this-name/model\.pt is in the home of a user who is not known here"
    ):
        sl.load_model("starter", files={"checkpoint": Path("~nobody-has-this-name/model.pt")})


def test_names_among_files_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CD3D").write_text("")
    genes = {"gene_order": ["CD3D", "CD4"], "taxon": 9606, "label": "somewhere else", "table": "CD3D"}
    assert _from_here(genes) == genes | {"table": str(tmp_path / "CD3D")}


def test_vectors_of_one_model_under_other_settings_in_one_anndata_are_warned_about(
    every_written: Callable[[str], Family], few: AnnData, recwarn: pytest.WarningsRecorder
) -> None:
    family = every_written("scgpt")
    model = family.open()
    sl.embed(few, model, progress=False)
    sl.embed(few, model, key_added="X_again", progress=False)
    sl.embed(few, model, key_added="X_mean", pooling="mean", progress=False)
    sl.embed(few, "pca", progress=False)
    assert not len(recwarn), "another pooling is asked for, and other models are other models"
    keys = "obsm['X_padded'] and obsm['X_scgpt'] are vectors of the same weights of scgpt made with other settings"
    with pytest.warns(UserWarning, match="other settings") as told:
        result = sl.embed(few, family.open(config={"pad_value": -3}), key_added="X_padded", progress=False)
    assert str(told[0].message).startswith(f"{keys} (what the model was opened with); do not compare")
    assert keys in result.summary()
    half = sl.load_model(family.path, device="cpu", precision="bfloat16")
    with pytest.warns(UserWarning, match=r"\(precision: .*bfloat16.* and float32\)"):
        sl.embed(few, half, key_added="X_half", progress=False)


def test_what_the_rows_of_a_table_are_called_counts() -> None:
    table = pd.DataFrame({"value": [1.0, 2.0]}, index=["A", "B"])
    for one in (table, table["value"]):
        assert _Reader().of(one) == _Reader().of(one.copy())
        assert _Reader().of(one) != _Reader().of(one.set_axis(["B", "A"]))


def test_species_that_are_no_dictionary_are_refused(tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("uce", tmp_path, pbmc68k)
    with pytest.raises(ModelError, match="protein_embeddings"):
        family.open(files={"species": "rat"})


def test_a_worker_that_finds_other_settings_refuses(tmp_path: Path, pbmc68k: AnnData) -> None:
    model = write_family("scgpt", tmp_path, pbmc68k).open()
    wanted = {
        "source": str(model.path),
        "device": "cpu",
        "precision": "float32",
        "digest": model.digest,
        **model.opened,
    }
    with pytest.raises(ModelError, match="other settings"):
        cluster._open({"model": wanted | {"settings": "sha256:" + "0" * 64}})


def test_imputing_and_perturbing_tell_what_was_not_read(few: AnnData) -> None:
    gene = str(few.var_names[np.asarray(few.X.sum(axis=0)).ravel().argmax()])
    few.X = few.X.multiply(np.arange(few.n_obs)[:, None] != 3).tocsr()
    options = {"max_length": 20}
    imputed = sl.impute(few, "starter", genes=[gene], options=options, progress=False)
    moved = sl.perturb(few, "starter", {gene: 0.0}, options=options, null=False, progress=False)
    for result, what in ((imputed, "prediction"), (moved, "shift")):
        assert result.provenance["options"]["max_length"] == 20
        assert result.provenance["cells_truncated"] == few.n_obs - 1
        assert 0 < result.provenance["counts_truncated"] < 1
        assert f"1 cell has no {what} (NaN): no known gene." in result.summary()
        assert f"{few.n_obs - 1} cells have more genes than the model reads" in result.summary()
