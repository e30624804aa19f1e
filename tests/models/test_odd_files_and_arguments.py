"""Damaged, hostile and oddly named files of models, and arguments of a wrong kind: read, or refused in a sentence."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from families import write_family
from safetensors.torch import load_file, save_file

import scfm_lab as sl
from scfm_lab.errors import ModelError
from scfm_lab.models.files import read_torch
from scfm_lab.models.identity import _Reader
from scfm_lab.models.load import open_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


@pytest.fixture
def cells(pbmc68k: AnnData) -> AnnData:
    return pbmc68k[::250].copy()


# --- what is looked through ----------------------------------------------------------------------


def _resident(path: Path) -> int:
    """Bytes of a mapped file that are in memory."""
    pages, mine = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if line.split(":")[0].count("-"):
            mine = line.rstrip().endswith(str(path))
        elif mine and line.startswith("Rss:"):
            pages += int(line.split()[1]) << 10
    return pages


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages of a file are in memory")
def test_weights_that_are_looked_through_do_not_stay_in_memory(tmp_path: Path) -> None:
    # More than one block, views of one storage, and numbers that are no weights.
    table = torch.ones(6_000_000)
    content = {"a": torch.ones(3, 5).t(), "table": table, "of": table[10:20].view(2, 5), "n": torch.arange(7)}
    torch.save(content, tmp_path / "whole.pt")
    held = read_torch(tmp_path / "whole.pt")
    assert _resident(tmp_path / "whole.pt") < 4 << 20
    assert torch.equal(held["table"], table)
    assert _resident(tmp_path / "whole.pt") >= 24_000_000
    table[-1] = float("inf")
    torch.save(content, tmp_path / "spoilt.pt")
    with pytest.raises(ModelError, match=r"infinite values in 'table'"):
        read_torch(tmp_path / "spoilt.pt")
    table[-1], content["a"][2, 1] = 1.0, float("nan")
    torch.save(content, tmp_path / "spoilt.pt")
    with pytest.raises(ModelError, match=r"NaN .* in 'a'"):
        read_torch(tmp_path / "spoilt.pt")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["S300", "S100000"])
def test_gene_names_that_are_declared_and_not_there_are_not_read(kind: str, tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("transcriptformer", tmp_path, pbmc68k)
    with h5py.File(family.path / "vocabs" / "homo_sapiens_gene.h5", "w") as file:
        file.create_dataset("keys", (900_000,), dtype=kind, chunks=(1000,))
        file.create_group("arrays")
    with pytest.raises(
        ModelError, match=r"homo_sapiens_gene\.h5 says that /keys holds .* GiB, of which 0 bytes are there"
    ):
        family.open()


def test_vectors_of_genes_that_lie_in_another_file_are_not_read(tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("transcriptformer", tmp_path, pbmc68k)
    path = family.path / "vocabs" / "homo_sapiens_gene.h5"
    path.rename(tmp_path / "elsewhere.h5")
    with h5py.File(path, "w") as file:
        file["keys"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "/keys")
        file["arrays"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "/arrays")
    with pytest.raises(ModelError, match=r"homo_sapiens_gene\.h5 .*elsewhere\.h5"):
        family.open()


@pytest.mark.parametrize("name", ["uce", "transcriptformer"])
def test_a_digest_is_of_the_weights_that_were_opened(name: str, tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family(name, tmp_path, pbmc68k)
    known = family.open().digest
    model = family.open()
    newer = tmp_path / "newer"
    newer.write_bytes(family.weights.read_bytes())
    newer.rename(family.weights)
    with pytest.raises(
        ModelError, match=rf"{family.weights.name} has changed since the model was opened; open it again"
    ):
        _ = model.digest
    assert family.open().digest == known


def test_like_its_reference_transcriptformer_reads_raw_where_there_is_one(tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("transcriptformer", tmp_path, pbmc68k)
    model = family.open()
    everything = pbmc68k[::70].copy()
    some = everything.copy()
    some.raw = everything
    some = some[:, ::2].copy()
    whole = model.read_cells(everything, options={"like_reference": True})
    read = model.read_cells(some, options={"like_reference": True})
    np.testing.assert_array_equal(read.counts.toarray(), whole.counts.toarray())
    assert model.read_cells(some).counts.shape[1] == some.n_vars


def _rewritten(path: Path, write: Callable[[Any], Any]) -> None:
    """An h5ad with another var, and without what anndata >= 0.7 writes."""
    with h5py.File(path, "r+") as file:
        for name in ("var", "obs"):
            del file[name]
        for name in list(file.attrs):
            del file.attrs[name]
        file["obs"] = np.array([(b"c0",)], dtype=[("index", "S8")])
        write(file)


def test_scberts_order_of_genes_is_read_from_old_files(tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("scbert", tmp_path, pbmc68k)
    order = tmp_path / "data" / "panglao_10000.h5ad"
    genes = list(family.open().vocabulary.symbols)

    def records(file: Any) -> None:
        file["var"] = np.array([(gene.encode(), 1.0) for gene in genes], dtype=[("index", "S32"), ("mean", "f8")])

    _rewritten(order, records)
    assert list(family.open().vocabulary.symbols) == genes


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: file.create_dataset("var", data=np.arange(5.0)), "names no genes"),
        (lambda file: file.create_group("var"), "names no genes"),
        (
            lambda file: file.create_dataset("var/_index", (3_000_000_000,), dtype="S8", chunks=(1000,)),
            "holds 22.4 GiB",
        ),
        (lambda file: file.create_dataset("var/_index", (2_000_000,), dtype="S8", chunks=(1000,)), "2,000,000 entries"),
    ],
)
def test_an_order_of_genes_that_is_none_is_refused(
    write: Callable[[Any], Any], said: str, tmp_path: Path, pbmc68k: AnnData
) -> None:
    family = write_family("scbert", tmp_path, pbmc68k)
    _rewritten(tmp_path / "data" / "panglao_10000.h5ad", write)
    with pytest.raises(ModelError, match=rf"panglao_10000\.h5ad of scBERT is damaged .*{said}"):
        family.open()


def _json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _pickle(path: Path, change: Callable[[Any], Any]) -> None:
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content, protocol=4))


def _torch(path: Path, change: Callable[[Any], Any]) -> None:
    content = torch.load(path, weights_only=True)  # noqa: TID251
    change(content)
    torch.save(content, path)


def _first(content: dict[str, Any], number: Any) -> None:
    content[next(name for name in content if not name.startswith("<"))] = number


_HOSTILE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("scgpt", lambda f: (f / "args.json").write_text('{"embsize": ' + "1" * 5000 + "}"), "not readable JSON"),
    ("scgpt", lambda f: _json(f / "args.json", lambda c: c.update(pad_value=10**30)), "pad_value="),
    ("scgpt", lambda f: _json(f / "vocab.json", lambda c: _first(c, 10**30)), "each once"),
    ("geneformer_v1", lambda f: _pickle(next(f.rglob("token_dict*.pkl")), lambda c: _first(c, 10**30)), "each once"),
    ("geneformer_v1", lambda f: _pickle(next(f.rglob("*median*.pkl")), lambda c: _first(c, 10**400)), "too large"),
    (
        "uce",
        lambda f: ((f / "species_offsets.pkl").unlink(), (f / "species_offsets.json").write_text("[" * 100_000)),
        "not readable JSON",
    ),
    (
        "scfoundation",
        lambda f: _torch(f / "models" / "models.ckpt", lambda c: c["cell"]["config"].update(model=[])),
        "there is no 'encoder'",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "said"), _HOSTILE)
def test_numbers_that_no_model_has_are_refused(
    name: str, spoil: Callable[[Path], Any], said: str, tmp_path: Path, pbmc68k: AnnData
) -> None:
    family = write_family(name, tmp_path, pbmc68k)
    spoil(family.path)
    adapter = f"scfm.{family.family}"
    with pytest.raises(ModelError, match=said):
        open_files(family.path, adapter, config=family.config or None)


@pytest.mark.parametrize(
    "entry",
    [{"model_dim": np.inf}, {"log_counts_eps": 10**400}, {"softcap": np.inf}, {"seq_len": 10**9}, {"seq_len": 10**30}],
)
def test_sizes_that_no_transcriptformer_has_are_refused(
    entry: dict[str, Any], every_written: Callable[[str], Any]
) -> None:
    with pytest.raises(ModelError, match=rf"{next(iter(entry))} = .* makes no sense"):
        every_written("transcriptformer").open(config=entry)


def test_names_of_compiled_models_are_understood(fresh: Any, every_opened: Callable[[str], Any]) -> None:
    prefix = "module._orig_mod."

    def rename(state: dict[str, Any]) -> None:
        renamed = {prefix + key: state.pop(key) for key in list(state)}
        state.update(renamed)

    def compiled(content: dict[str, Any]) -> None:
        if fresh.family == "scfoundation":
            for one in content.values():
                rename(one["state_dict"])
        else:
            rename(content.get("model_state_dict", content))

    if fresh.weights.suffix == ".safetensors":
        tensors = load_file(fresh.weights)
        rename(tensors)
        save_file(tensors, fresh.weights)
    else:
        _torch(fresh.weights, compiled)
    same = every_opened(fresh.name).gene_embeddings()
    np.testing.assert_allclose(fresh.open().gene_embeddings(), same, rtol=0, atol=1e-5)


def test_safetensors_are_read_whatever_they_are_called(every_written: Callable[[str], Any], tmp_path: Path) -> None:
    family = every_written("geneformer_v2")
    shutil.copytree(family.path, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    model = sl.load_model(tmp_path / "model", device="cpu", precision="float32")
    np.testing.assert_array_equal(model.gene_embeddings(), family.open().gene_embeddings())


@pytest.mark.parametrize("entry", [{"esm2_mappings": ["../x.h5"]}, {"aux_cols": "/etc/x"}])
def test_names_that_lead_out_of_a_transcriptformer_are_refused(
    entry: dict[str, Any], every_written: Callable[[str], Any]
) -> None:
    with pytest.raises(ModelError, match="which is no file in vocabs"):
        every_written("transcriptformer").open(config=entry)


def test_a_tensor_of_one_number_has_a_digest_whatever_its_stride() -> None:
    one = torch.arange(6.0)[1:].as_strided((1,), (2,))
    assert _Reader().of(one) == _Reader().of(torch.tensor([1.0]))


# --- arguments of a wrong kind -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("scgpt", {"files": "/x"}, "files= takes names and values"),
        ("scgpt", {"config": [1]}, "config= takes names and values"),
        ("scfoundation", {"files": {"gene_index": 5}}, "a list of symbols, not 5"),
        ("scbert", {"files": {"gene_order": 5}}, "a list of symbols, not 5"),
        ("scbert", {"files": {"label": 5}}, "is a path, not 5"),
        ("transcriptformer", {"files": {"pretrained_embedding": 5}}, "a path or several, not 5"),
    ],
)
def test_files_and_settings_of_a_wrong_kind_are_refused(
    name: str, more: dict[str, Any], said: str, every_written: Callable[[str], Any]
) -> None:
    path = every_written(name).path
    with pytest.raises(ModelError, match=said):
        sl.load_model(path / "../tuned/best.pth" if "label" in more.get("files", ()) else path, device="cpu", **more)


def test_options_seeds_and_places_of_a_wrong_kind_are_refused(
    every_opened: Callable[[str], Any], cells: AnnData
) -> None:
    model = every_opened("uce")
    for embed in (
        lambda: sl.embed(cells, model, options="x", progress=False),
        lambda: model.tokenize(cells, options="x"),
    ):
        with pytest.raises(ModelError, match="options= takes names and values"):
            embed()
    with pytest.raises(ModelError, match="seed is 'a'"):
        model.tokenize(cells, seed="a")
    with pytest.raises(ModelError, match="must be a whole number"):
        model.tokenize(cells, options={"sample_size": 10**30})
    with pytest.raises(ModelError, match="neither a folder nor a file"):
        sl.load_model("/dev/null")
    with pytest.raises(ModelError, match="a user who is not known"):
        sl.load_model("~nouser/x")
