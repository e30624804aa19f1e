"""Files of published models as people have them: in several parts, with odd entries, with a table beside them."""

from __future__ import annotations

import collections
import json
import os
import pickle  # noqa: TID251 - a published format
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import writers
import writers_performer
import writers_protein
from safetensors.torch import load_file, save_file

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_lab.models import _pickles, converted
from scfm_lab.models.files import read_pickle, read_torch
from scfm_lab.models.published_writers import write_published
from scfm_lab.models.scgpt import ScGPT
from scfm_lab.models.transcriptformer import TranscriptFormer
from scfm_lab.models.uce import UCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


def opened(path: Path, **more: Any) -> Any:
    return sl.load_model(path, device="cpu", precision="float32", **more)


def dictionary(folder: Path, kind: str, change: Callable[[dict[Any, Any]], Any] | None) -> Path:
    path = next((folder / "dictionaries").glob(f"{kind}*.pkl"))
    content = pickle.loads(path.read_bytes())
    if change is None:
        path.unlink()
    else:
        path.write_bytes(pickle.dumps(change(content) or content))
    return path


# --- weights in several files --------------------------------------------------------------------


def in_parts(folder: Path, name: str) -> dict[str, str]:
    """Split the weights of a folder into three files with an index; what the index says."""
    whole = folder / name
    tensors = load_file(whole) if name.endswith("safetensors") else torch.load(whole, weights_only=True)  # noqa: TID251
    stem, ending = name.rsplit(".", 1)
    told = {key: f"{stem}-0000{i % 3 + 1}-of-00003.{ending}" for i, key in enumerate(tensors)}
    for part in sorted(set(told.values())):
        held = {key: tensors[key] for key in told if told[key] == part}
        save_file(held, folder / part) if ending == "safetensors" else torch.save(held, folder / part)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))
    whole.unlink()
    return told


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files_are_those_of_one(weights: str, tmp_path: Path, pbmc68k: AnnData) -> None:
    cells = pbmc68k[::200].copy()
    folder = writers.write_geneformer(tmp_path / "v2", pbmc68k, weights=weights)
    whole = opened(folder)
    before = whole.encode(whole.tokenize(cells)).cell
    told = in_parts(folder, weights)
    parted = opened(folder)
    np.testing.assert_array_equal(parted.encode(parted.tokenize(cells)).cell, before)
    assert type(parted).recognises(folder / f"{weights}.index.json")
    # The digest is of all files.
    path = folder / sorted(set(told.values()))[-1]
    tensors = load_file(path) if weights.endswith("safetensors") else torch.load(path, weights_only=True)  # noqa: TID251
    tensors = {key: tensor + 1 for key, tensor in tensors.items()}
    save_file(tensors, path) if weights.endswith("safetensors") else torch.save(tensors, path)
    assert opened(folder).digest != parted.digest


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path: Path, pbmc68k: AnnData) -> None:
    folder = writers.write_geneformer(tmp_path / "v2", pbmc68k)
    told = in_parts(folder, "model.safetensors")
    index = folder / "model.safetensors.index.json"
    first, second, _ = sorted(set(told.values()))
    key = next(k for k, part in told.items() if part == first)

    def refused(told: Any, match: str) -> None:
        index.write_text(json.dumps({"weight_map": told}))
        with pytest.raises(ModelError, match=match):
            opened(folder)

    refused({**told, key: "../outside.safetensors"}, "no file beside it")
    refused({**told, key: "other.safetensors"}, "has no other.safetensors")
    refused({**told, key: second}, "is not in model-00002")
    refused({k: part for k, part in told.items() if k != key}, "is not in the index")
    refused(None, "no weight_map")
    save_file({**load_file(folder / second), key: torch.zeros(2)}, folder / second)
    refused(told, "is in model-00001.* and in model-00002")
    (folder / second).unlink()
    refused(told, "has no model-00002")


# --- dictionaries --------------------------------------------------------------------------------


def test_a_generation_with_cls_needs_its_mapping(tmp_path: Path, pbmc68k: AnnData) -> None:
    new = writers.write_geneformer(tmp_path / "v2", pbmc68k)
    missing = dictionary(new, "ensembl_mapping", None)
    with pytest.raises(ModelError, match=missing.name):
        opened(new)
    old = writers.write_geneformer(tmp_path / "v1", pbmc68k, version="V1")
    dictionary(old, "ensembl_mapping", None)
    assert not opened(old).has_cls


def test_entries_that_nobody_needs_are_no_reason_to_refuse(tmp_path: Path, pbmc68k: AnnData) -> None:
    cells = pbmc68k[::300].copy()
    folder = writers.write_geneformer(tmp_path / "v2", pbmc68k)
    plain = opened(folder)
    dictionary(folder, "gene_median", lambda m: m.update({"ENSG99999999999": float("nan"), "x": None, 3: "y"}))
    dictionary(folder, "ensembl_mapping", lambda m: m.update({"MYALIAS": None}))
    dictionary(folder, "gene_name_id", lambda m: m.update({float("nan"): "ENSG00000000003"}))
    dictionary(folder, "token_dictionary", lambda m: collections.defaultdict(int, m))
    with (
        pytest.warns(UserWarning, match=r"1 of the .* entries of .*ensembl_mapping.*MYALIAS"),
        pytest.warns(UserWarning, match=r"1 of the .* entries of .*gene_name_id.*nan"),
    ):
        odd = opened(folder)
    np.testing.assert_array_equal(odd.tokenize(cells).ids, plain.tokenize(cells).ids)
    gene = next(str(g) for g in plain.vocabulary.ensembl if g)
    dictionary(folder, "gene_median", lambda m: m.update({gene: float("nan")}))
    with pytest.raises(ModelError, match="medians are positive"):
        opened(folder)


@pytest.mark.parametrize("package", ["geneformer", "."])
def test_the_packages_own_folder_is_a_folder_of_dictionaries(tmp_path: Path, pbmc68k: AnnData, package: str) -> None:
    for version, place in (("V2", "geneformer"), ("V1", "geneformer/gene_dictionaries_30m")):
        writers.write_geneformer(tmp_path / version, pbmc68k, version=version, dictionaries=f"../checkout/{place}")
    for version in ("V1", "V2"):
        model = opened(tmp_path / version, files={"dictionaries": tmp_path / "checkout" / package})
        assert model.has_cls is (version == "V2")


def test_dictionaries_that_were_read_are_published_and_nothing_else_beside_them(
    tmp_path: Path, pbmc68k: AnnData
) -> None:
    folder = writers.write_geneformer(tmp_path / "v2", pbmc68k, dictionaries="../shared")
    (tmp_path / "shared" / "patients.pkl").write_bytes(b"nobody else's")
    token = tmp_path / "shared" / "token_dictionary_gc104M.pkl"
    median = (tmp_path / "shared" / "gene_median_dictionary_gc104M.pkl").rename(tmp_path / "my_medians.pkl")
    for ending in ("", ".json"):
        if ending:
            converted.write(read_pickle(token), token)
            token.unlink()
        model = opened(folder, files={"token": token, "median": median})
        out = tmp_path / f"out{ending}"
        out.mkdir()
        write_published(model, out)
        assert sorted(path.name for path in out.glob("*.pkl*")) == [
            "ensembl_mapping_dict_gc104M.pkl",
            "gene_median_dictionary_gc104M.pkl",
            "gene_name_id_dict_gc104M.pkl",
            f"token_dictionary_gc104M.pkl{ending}",
        ]
        again = opened(out)
        np.testing.assert_array_equal(again.medians, model.medians)
        assert again.vocabulary.mapping == model.vocabulary.mapping
        assert again.settings_digest == model.settings_digest


class _Calls:
    def __init__(self, what: Any, *given: Any) -> None:
        self.what, self.given = what, given

    def __reduce__(self) -> Any:
        return self.what, self.given


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_dictionaries_with_a_default_hold_their_entries_and_nothing_that_is_called(protocol: int) -> None:
    content = collections.defaultdict(float, {"a": 1.5})
    found = _pickles.load(pickle.dumps(content, protocol))
    assert type(found) is dict
    assert found == {"a": 1.5}
    for spoiled in (
        _Calls(collections.defaultdict, os.getcwd),
        _Calls(float, "1"),
        {"a": float},
        [(int,)],
        {_Calls(str, "x"): 1},
    ):
        with pytest.raises(_pickles.Refused):
            _pickles.load(pickle.dumps(spoiled, protocol))


def test_what_stands_in_many_places_is_read_once_and_refused_where_it_has_no_end(tmp_path: Path) -> None:
    shared = ["GATA1", "SPI1"]
    found = _pickles.load(pickle.dumps({"a": shared, "b": shared}))
    assert found == {"a": shared, "b": shared}
    assert found["a"] is found["b"]
    deep: list[Any] = ["x"]
    for _ in range(60):
        deep = [deep, deep]
    table = np.empty(2, dtype=object)
    table[:] = [deep, "x"]
    endless: list[Any] = []
    endless.append(endless)
    long = [["A" * 2**20] * 2**10] * 2**10
    for content, words in (
        (deep, "unfolds to"),
        (table, "unfolds to"),
        (long, "unfolds to"),
        (endless, "holds itself"),
    ):
        for name, write in (("genes.pkl", pickle.dump), ("model.pt", torch.save)):
            if name == "model.pt" and content is table:
                continue  # no table of objects is read there at all
            with (tmp_path / name).open("wb") as file:
                write(content, file)
            with pytest.raises(ModelError, match=words) as caught:
                (read_pickle if name == "genes.pkl" else read_torch)(tmp_path / name)
            assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(_pickles._ALLOWED), ids=".".join)
@pytest.mark.parametrize(
    "state",
    [b"}(Vname\nVEVIL\nu", b"(N}(V__defaults__\n(I5\ntV__kwdefaults__\n}V_run\nI5\nVname\nVEVIL\nVvalue\nI5\nut"],
    ids=["attributes", "slots"],
)
def test_a_pickle_changes_nothing_for_those_after_it(name: tuple[str, str], state: bytes) -> None:
    before = dict(_pickles._ALLOWED)
    hostile = b"c%b\n%b\n" % (name[0].encode(), name[1].encode()) + state + b"b0}."
    with pytest.raises((_pickles.Refused, TypeError)):
        _pickles.load(hostile)
    assert before == _pickles._ALLOWED
    assert _pickles._ALLOWED["builtins", "int"].name == "builtins.int"
    assert _pickles._defaultdict.__defaults__ == (None,)
    assert _pickles._Array.value is None
    content = {"a": np.arange(3), "b": collections.defaultdict(float, {"c": np.float32(2)}), "d": b"\xff"}
    for protocol in (0, 2, 4):
        found = _pickles.load(pickle.dumps(content, protocol))
        np.testing.assert_array_equal(found["a"], [0, 1, 2])
        assert (found["b"], found["d"]) == ({"c": 2}, b"\xff")


def test_a_configuration_without_activation_means_what_it_means_to_bert(tmp_path: Path, pbmc68k: AnnData) -> None:
    folder = writers.write_geneformer(tmp_path / "v2", pbmc68k)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_act"]
    path.write_text(json.dumps(config))
    assert opened(folder).net.shape.activation == "gelu"


# --- what stands beside the weights, and what is no weight -----------------------------------------


def test_infinity_that_is_no_weight_is_no_reason_to_refuse(tmp_path: Path) -> None:
    beside = {
        "callbacks": {"best": torch.tensor(float("inf"))},
        "optimizer_states": [{"m": torch.tensor(float("nan"))}],
    }
    path = tmp_path / "last.ckpt"
    for name in ("", "cell"):
        one: dict[str, Any] = {"state_dict": {"w": torch.ones(2)}, **beside}
        content = {name: one} if name else one
        torch.save(content, path)
        again = read_torch(converted.write(read_torch(path), path))
        assert again.get(name, again)["state_dict"]["w"].tolist() == [1, 1]
        one["state_dict"]["w"][0] = float("nan")
        spoiled = tmp_path / f"spoiled{name}.ckpt"
        torch.save(content, spoiled)
        for file in (spoiled, converted.write(content, spoiled)):
            with pytest.raises(ModelError, match=r"NaN or infinite values in '(cell\.)?state_dict\.w'"):
                read_torch(file)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("'meta'", lambda: torch.empty(10**12, 10**3, device="meta")),
        ("quantized", lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
        ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    ],
)
def test_tensors_that_are_no_numbers_in_memory_are_refused_by_name(kind: str, make: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": make()}}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=f"'state_dict.w' as a {kind} tensor"):
        read_torch(tmp_path / "model.pt")


def test_an_archive_is_read_or_refused_in_a_sentence_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model_weights.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    data = path.read_bytes()
    said = {}
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
        for family in (ScGPT, UCE, TranscriptFormer):
            family.recognises(path)
        try:
            read_torch(path)
        except ModelError as error:
            said[at] = str(error)
    assert all(str(path) in one for one in said.values())
    # The length of the first record's name, and what says on how many disks the archive lies.
    for at in (26, 27, data.index(b"PK\x06\x07") + 16):
        assert "is damaged" in said[at]


def test_a_file_of_the_old_format_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for end in range(len(data) - 24, len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ModelError, match=r"model\.pt"):
            read_torch(path)


# --- scBERT --------------------------------------------------------------------------------------


def without_positions(content: dict[str, Any]) -> None:
    del content["model_state_dict"]["pos_emb.emb.weight"]


def test_a_file_of_three_sets_is_in_memory_as_a_whole_while_one_of_them_is_opened(
    tmp_path: Path, pbmc68k: AnnData
) -> None:
    """What a version needs is told before it is opened, and the sets that nobody asks for are read too."""
    genes = sorted(pbmc68k.var_names[:200])
    one, three = (
        opened(
            writers_performer.write_scfoundation(tmp_path / str(len(sets)) / "models" / "models.ckpt", genes, sets=sets)
        )
        for sets in (("cell",), ("cell", "rde", "gene"))
    )
    assert three.weight_bytes() == one.weight_bytes()
    assert three.opening_bytes() == three.weight_files[0].stat().st_size
    assert three.opening_bytes() > 2.5 * one.opening_bytes() >= 2.5 * one.weight_bytes()


def test_uces_table_of_all_species_is_in_memory_while_a_version_is_open(tmp_path: Path, pbmc68k: AnnData) -> None:
    genes = sorted(pbmc68k.var_names[:60])
    few, many = (
        opened(writers_protein.write_uce(tmp_path / str(rest), genes, rest=rest), config={"nhead": 3})
        for rest in (0, 5_000)
    )
    assert many.weight_bytes() == few.weight_bytes(), "the table is no weight"
    assert many.opening_bytes() == (tmp_path / "5000" / "4layer_model.torch").stat().st_size
    assert many.opening_bytes() - few.opening_bytes() >= 5_000 * 12 * 4


@pytest.mark.parametrize("head", [None, (8, 6, 3)], ids=["pre-trained", "fine-tuned"])
def test_scbert_trained_without_gene2vec_has_positions_of_zero(
    head: Any, tmp_path: Path, pbmc68k: AnnData, recwarn: Any
) -> None:
    cells, names = pbmc68k[::300, :300].copy(), list(pbmc68k.var_names[:300])
    root = writers_performer.write_scbert(tmp_path / "scbert", names, tuned=False)
    checkpoint = root / "ckpts" / "panglao_pretrain.pth"
    net = writers_performer.scbert_net(300, head=head)
    with torch.no_grad():
        net.pos_emb.weight.zero_()
    writers_performer.write_scbert_file(checkpoint, net)
    silent = opened(checkpoint)
    writers_performer.write_scbert_file(checkpoint, net, change=without_positions)
    found = opened(checkpoint)
    assert not recwarn.list
    vectors = found.encode(found.tokenize(cells)).cell
    np.testing.assert_array_equal(vectors, silent.encode(silent.tokenize(cells)).cell)
    # The network tells genes apart by their positions alone.
    turned = cells.copy()
    turned.X = cells.X[:, ::-1].copy()
    np.testing.assert_allclose(found.encode(found.tokenize(turned)).cell, vectors, atol=1e-5)
    assert "gene_embeddings" not in found.spec.abilities
    with pytest.raises(ModelError, match="gene"):
        found.gene_embeddings()
    (out := tmp_path / "out").mkdir()
    write_published(found, out)
    assert "pos_emb.emb.weight" not in read_torch(next(out.glob("*.pth")))["model_state_dict"]


def test_a_table_stands_for_scberts_positions_where_it_is_named_and_nowhere_else(
    tmp_path: Path, pbmc68k: AnnData
) -> None:
    cells = pbmc68k[::300].copy()
    root = writers_performer.write_scbert(tmp_path / "scbert", list(pbmc68k.var_names[:300]), tuned=False)
    checkpoint, near = root / "ckpts" / "panglao_pretrain.pth", root / "data" / "gene2vec_16906.npy"
    whole = opened(root / "ckpts")
    writers_performer.write_scbert_file(checkpoint, writers_performer.scbert_net(300), change=without_positions)
    # The last position has no gene, and its row is zero.
    np.save(near, whole.net.pos_emb.weight[:-1].numpy())
    with pytest.warns(UserWarning, match=r"trained without gene2vec, and .*gene2vec_16906\.npy is not read"):
        plain = opened(checkpoint)
    with pytest.warns(UserWarning, match=r"gene2vec_16906\.npy, which files= names, stands for it"):
        given = opened(checkpoint, files={"gene2vec": near})
    np.testing.assert_allclose(given.gene_embeddings(), whole.gene_embeddings(), atol=1e-6)
    assert given.digest != plain.digest
    apart = given.encode(given.tokenize(cells)).cell - plain.encode(plain.tokenize(cells)).cell
    assert np.abs(apart).max() > 1e-3


def test_heads_without_width_are_refused(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model_state_dict"]["performer.net.layers.0.0.fn.fast_attention.projection_matrix"] = torch.ones(9, 0)

    writers_performer.write_scbert_file(tmp_path / "a.pth", writers_performer.scbert_net(30), change=change)
    with pytest.raises(ModelError, match="cannot be divided among heads of 0"):
        opened(tmp_path / "a.pth")


def test_companions_are_found_from_inside_the_folder_and_beside_a_link(
    tmp_path: Path, pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = writers_performer.write_scbert(tmp_path / "scbert", list(pbmc68k.var_names[:30]), tuned=False)
    (root / "ckpts" / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ckpts").symlink_to(root / "ckpts")
    (root / "data").rename(tmp_path / "elsewhere" / "data")
    with pytest.raises(ModelError, match=r"panglao_10000\.h5ad"):
        opened(root / "ckpts")
    assert opened(tmp_path / "elsewhere" / "ckpts").net.length == 31
    (tmp_path / "elsewhere" / "data").rename(root / "data")
    for inside, source in (("ckpts", "panglao_pretrain.pth"), ("ckpts", "."), ("ckpts/runs", "..")):
        monkeypatch.chdir(root / inside)
        assert sl.load_model(source, device="cpu").net.length == 31
    # What is above a link is above what it leads to.
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sl.load_model("ckpts/../ckpts", device="cpu").net.length == 31
