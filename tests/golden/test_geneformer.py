"""Geneformer V1 and V2: agreement with the reference's outputs, and small checkpoints in every checkout."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - a published format
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.models.geneformer import Geneformer
from scfm_lab.models.geneformer_pairs import overexpressed
from scfm_lab.models.geneformer_perturb import delete_genes, perturb_each
from scfm_lab.models.geneformer_rank import Ranker
from scfm_lab.models.published import TRANSLATED_SYMBOL
from scfm_lab.models.tokens import Tokens

if TYPE_CHECKING:
    from pathlib import Path

POOLING = {"cell": "mean", "cls": "cls"}
LAYER = {"layer-1": -2, "layer0": -1}

# --- against the reference -------------------------------------------------------------


class Fixture:
    """Reference outputs, and the checkpoint and cells they were made from."""

    def __init__(self, golden: Path, version: str) -> None:
        self.folder = golden / f"geneformer_{version}"
        self.about = json.loads((self.folder / "fixture.json").read_text())
        self.expected = np.load(self.folder / "expected.npz")
        self.cells = ad.read_h5ad(self.folder / self.about["cells"])
        self.tolerance = self.about["tolerances"]
        self.model = sl.load_model(self.folder / "checkpoint", device="cpu", precision="float32")
        self.tokens = self.model.tokenize(self.cells)
        self.mode = "cell" if version == "v1" else "cls"
        self.isp = self.about["isp"]

    def rows(self, cells: np.ndarray) -> Tokens:
        return self.tokens.take(np.asarray(cells, dtype=np.int64))


@pytest.fixture(scope="module", params=["v1", "v2"])
def fixture(golden: Path, request) -> Fixture:
    return Fixture(golden, request.param)


@pytest.mark.golden
@pytest.mark.parametrize("like_reference", [False, True])
def test_tokens(fixture, like_reference):
    z = fixture.expected
    shorter = {"max_length": fixture.about["tokenizer"]["trunc_case_model_input_size"]}
    for case, options in (("main", {}), ("trunc", shorter)):
        tokens = fixture.model.tokenize(fixture.cells, options={"like_reference": like_reference, **options})
        np.testing.assert_array_equal(tokens.ids, z[f"{case}.input_ids"])
        np.testing.assert_array_equal(tokens.offsets, z[f"{case}.offsets"])
        if case == "main":
            assert tokens.cell["truncated"].sum() == fixture.about["cells_truncated_main"]
    if "dup.input_ids" in z:
        doubled = ad.read_h5ad(fixture.folder / "cells_dup.h5ad")
        tokens = fixture.model.tokenize(doubled, options={"like_reference": like_reference})
        np.testing.assert_array_equal(tokens.ids, z["dup.input_ids"])
        np.testing.assert_array_equal(tokens.offsets, z["dup.offsets"])


@pytest.mark.golden
def test_perturbing_some_genes_in_turn_and_the_columns_of_the_table(fixture):
    tokens = fixture.rows(fixture.expected["isp.all.cell"])
    head = int(fixture.model.has_cls)
    some = fixture.model.vocabulary.ensembl[tokens.ids[head + 1 : head + 3]]
    few = fixture.model.perturb_each(tokens, "delete", genes=list(some))
    z = dict(zip(fixture.expected["isp.all.delete.tokens"], fixture.expected["isp.all.delete.cos"], strict=True))
    np.testing.assert_allclose(few.cosine, [z[token] for token in few.genes], atol=fixture.tolerance["cos_atol"])
    goals = {name: fixture.expected[f"state_emb.{name}"] for name in ("low", "high")}
    table = fixture.model.perturb_each(tokens, "delete", genes=list(some), states=goals).table
    assert list(table.columns) == ["cell", "token", "cosine", "shift_low", "shift_high"]
    assert len(table) == 2


@pytest.mark.golden
def test_both_kinds_of_weights(fixture):
    other = sl.load_model(fixture.folder / "checkpoint" / "pytorch_model.bin", device="cpu", precision="float32")
    few = fixture.tokens.take(np.arange(3))
    np.testing.assert_array_equal(other.encode(few).cell, fixture.model.encode(few).cell)
    assert any("decoder" in name for name in other.aside)


@pytest.mark.golden
def test_generations_do_not_mix(golden):
    with pytest.raises(ModelError, match="not interchangeable"):
        sl.load_model(
            golden / "geneformer_v1" / "checkpoint", files={"dictionaries": golden / "geneformer_v2" / "dictionaries"}
        )


# --- the format, in every checkout -----------------------------------------------------


def plain_forward(folder: Path, tokens: Tokens, activation: str = "relu") -> list[np.ndarray]:
    """States after every layer, cell by cell, by PyTorch's own layers, straight from the file's tensors."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    w = load_file(folder / "model.safetensors")
    d, eps = config["hidden_size"], config["layer_norm_eps"]
    act = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu}[activation]
    out: list[list[torch.Tensor]] = [[] for _ in range(config["num_hidden_layers"] + 1)]
    for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        e = "bert.embeddings."
        x = w[e + "word_embeddings.weight"][torch.as_tensor(tokens.ids[a:b])]
        x = x + w[e + "position_embeddings.weight"][: b - a] + w[e + "token_type_embeddings.weight"][0]
        x = torch.nn.functional.layer_norm(x, (d,), w[e + "LayerNorm.weight"], w[e + "LayerNorm.bias"], eps)[None]
        out[0].append(x[0])
        for i in range(config["num_hidden_layers"]):
            name = f"bert.encoder.layer.{i}."
            layer = torch.nn.TransformerEncoderLayer(
                d,
                config["num_attention_heads"],
                config["intermediate_size"],
                activation=act,
                layer_norm_eps=eps,
                batch_first=True,
            ).eval()
            state = {}
            for kind in ("weight", "bias"):
                parts = [w[f"{name}attention.self.{p}.{kind}"] for p in ("query", "key", "value")]
                state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
                state[f"self_attn.out_proj.{kind}"] = w[f"{name}attention.output.dense.{kind}"]
                state[f"norm1.{kind}"] = w[f"{name}attention.output.LayerNorm.{kind}"]
                state[f"linear1.{kind}"] = w[f"{name}intermediate.dense.{kind}"]
                state[f"linear2.{kind}"] = w[f"{name}output.dense.{kind}"]
                state[f"norm2.{kind}"] = w[f"{name}output.LayerNorm.{kind}"]
            layer.load_state_dict(state)
            with torch.inference_mode():
                x = layer(x)
            out[i + 1].append(x[0])
    return [torch.cat(cells).numpy() for cells in out]


@pytest.fixture(params=["V1", "V2"])
def version(request) -> str:
    return request.param


@pytest.fixture
def small(write_geneformer, tmp_path, version):
    return sl.load_model(write_geneformer(tmp_path / "small", version=version), device="cpu", precision="float32")


@pytest.mark.parametrize(
    ("sizes", "activation"),
    [({}, "relu"), ({"d": 36, "heads": 6, "f": 24, "layers": 5, "positions": 700, "seed": 2}, "relu"), ({}, "gelu")],
)
def test_sizes_and_every_layer(write_geneformer, tmp_path, pbmc68k, version, sizes, activation):
    folder = write_geneformer(tmp_path / "c", version=version, hidden_act=activation, **sizes)
    model = sl.load_model(folder, device="cpu", precision="float32")
    assert (model.family, model.has_cls) == ("geneformer", version == "V2")
    tokens = model.tokenize(pbmc68k[:12])
    expected = plain_forward(folder, tokens, activation)
    for layer, states in enumerate(expected):
        np.testing.assert_allclose(model.encode(tokens, genes=True, hidden_layer=layer).genes, states, atol=2e-5)
    n = len(expected) - 1
    published = model.encode(tokens).cell
    a, b = tokens.offsets[3:5]
    inner = slice(a + 1, b - 1) if version == "V2" else slice(a, b)
    mean = expected[n - 1][inner].mean(axis=0)
    np.testing.assert_allclose(model.encode(tokens, pooling="mean").cell[3], mean, atol=2e-5)
    np.testing.assert_allclose(published[3], expected[n - 1][a] if version == "V2" else mean, atol=2e-5)
    np.testing.assert_array_equal(model.encode(tokens, hidden_layer=-2).cell, published)
    # What was never computed for the other tokens is the same as if it had been.
    np.testing.assert_allclose(model.encode(tokens, genes=True).cell, published, atol=1e-5)


def test_ranks_are_those_of_the_plain_computation(small, pbmc68k, version):
    cells = Cells.from_anndata(pbmc68k)
    match = small.match(cells.genes)
    tokens = small.tokenize(pbmc68k)
    head = int(version == "V2")
    for i in range(0, 700, 50):
        counts = cells.counts[i].toarray()[0, match.columns].astype(np.float64)
        value = counts / cells.total[i] * 10_000 / small.medians[match.ids]
        order = np.lexsort((match.ids, -value))[: (counts > 0).sum()]
        mine = tokens.take(np.array([i])).ids
        np.testing.assert_array_equal(mine[head : len(mine) - head], match.ids[order])


def test_exactly_equal_values_are_ranked_by_token(write_geneformer, tmp_path, pbmc68k):
    folder = write_geneformer(tmp_path / "ties", version="V1")
    place = folder / "dictionaries" / "gene_median_dictionary_gc30M.pkl"
    place.write_bytes(pickle.dumps(dict.fromkeys(pickle.loads(place.read_bytes()), 1.0)))
    model = sl.load_model(folder, device="cpu", precision="float32")
    order = np.random.default_rng(0).permutation(pbmc68k.n_vars)
    tokens = model.tokenize(pbmc68k)
    np.testing.assert_array_equal(tokens.ids, model.tokenize(pbmc68k[:, order].copy()).ids)
    cells = Cells.from_anndata(pbmc68k)
    ranked = Ranker(cells, model.match(cells.genes), model.medians)()
    same = (np.diff(ranked.values) == 0) & (np.diff(ranked.rows) == 0)
    assert same.mean() > 0.5
    assert (np.diff(ranked.ids)[same] > 0).all()


def test_totals_in_n_counts_are_taken_as_given(small, pbmc68k):
    plain = small.tokenize(pbmc68k)
    pbmc68k.obs["n_counts"] = np.linspace(500, 5000, 700).astype(np.float32)
    np.testing.assert_array_equal(small.tokenize(pbmc68k).offsets, plain.offsets)
    cells = Cells.from_anndata(pbmc68k, fields=small.fields)
    ranked = Ranker(cells, small.match(cells.genes), small.medians)()
    value = cells.counts.tocsr()[3].data.max() / pbmc68k.obs["n_counts"].iloc[3] * 10_000
    assert (ranked.values[ranked.rows == 3] * small.medians[ranked.ids[ranked.rows == 3]]).max() == pytest.approx(value)


def test_totals_that_are_none_are_refused_and_touch_no_other_cell(small, pbmc68k):
    adata = pbmc68k[:6].copy()
    adata.obs["n_counts"] = np.linspace(500, 5000, 6)
    whole = small.tokenize(adata)
    silent = adata.copy()
    silent.X = silent.X.toarray()
    silent.X[2] = 0
    silent.obs.loc[silent.obs_names[2], "n_counts"] = 0
    rest = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(small.tokenize(silent).take(rest).ids, whole.take(rest).ids)
    for wrong in (np.nan, -3.0, 0.0):
        adata.obs["n_counts"] = [900.0, 800.0, wrong, 700.0, 600.0, 500.0]
        with pytest.raises(DataError, match=r"obs\['n_counts'\], which is .* for cell"):
            small.tokenize(adata)
    adata.obs["n_counts"] = list("abcdef")
    with pytest.raises(DataError, match="holds no numbers"):
        sl.embed(adata, small, progress=False)


def test_cells_that_the_reference_filters_out(small, pbmc68k):
    adata = pbmc68k[:8].copy()
    adata.obs["filter_pass"] = [1, 0, 1, 1, 0, 1, 1, 1]
    result = sl.embed(adata, small, like_reference=True, progress=False)
    np.testing.assert_array_equal(np.isnan(result.vectors[:, 0]), adata.obs["filter_pass"] == 0)
    with pytest.warns(UserWarning, match="different rules"):
        assert np.isfinite(sl.embed(adata, small, key_added="X_all", progress=False).vectors).all()


def test_what_is_cut_is_told(small, pbmc68k, version):
    whole = small.tokenize(pbmc68k)
    cut = small.tokenize(pbmc68k, options={"max_length": 250})
    special = 2 if version == "V2" else 0
    np.testing.assert_array_equal(cut.lengths, np.minimum(whole.lengths, 250))
    np.testing.assert_array_equal(cut.cell["truncated"], whole.lengths > 250)
    np.testing.assert_array_equal(cut.cell["n_genes"], whole.lengths - special)
    assert ((cut.cell["share_truncated"] > 0) == cut.cell["truncated"]).all()
    i = int(np.argmax(whole.lengths))
    a, b = whole.take(np.array([i])).ids, cut.take(np.array([i])).ids
    np.testing.assert_array_equal(a[: 250 - special // 2], b[: 250 - special // 2])
    assert b[-1] == (small.eos_id if version == "V2" else a[249])
    for wrong in (513, 0):
        with pytest.raises(ModelError, match="max_length"):
            small.tokenize(pbmc68k, options={"max_length": wrong})


def test_a_perturbed_copy_keeps_the_order_of_all_other_genes(small, pbmc68k):
    cells = Cells.from_anndata(pbmc68k[:100])
    options = {"max_length": 250}
    before = small.tokenize(cells, options=options)
    match = small.match(cells.genes)
    gene = match.columns[np.argmax((cells.counts[:, match.columns] > 0).sum(axis=0))]
    token = match.ids[list(match.columns).index(gene)]
    places = []
    for new in (0.0, 2.0, 20.0):
        counts = cells.counts.tolil()
        counts[:, gene] = new
        after = small.tokenize(cells.with_counts(counts.tocsr().astype(np.float32)), options=options)
        assert after.lengths.max() <= 250
        total = 0
        for i in range(len(before)):
            a, b = before.take(np.array([i])).ids, after.take(np.array([i])).ids
            others, left = a[a != token], b[b != token]
            # At its limit a cell loses its weakest gene to one that is new.
            lost = len(others) - len(left)
            assert lost == (0 if len(a) < 250 or token not in b or token in a else 1)
            np.testing.assert_array_equal([g for g in others if g in set(left)], left)
            total += int(np.flatnonzero(b == token)[0]) if token in b else 250
        places.append(total)
    assert places[0] > places[1] > places[2]


def test_doses_move_cells_by_degrees(small, pbmc68k):
    some = pbmc68k[::10].copy()
    known = small.match(Cells.from_anndata(some).genes).columns
    gene = str(some.var_names[known[np.argmax((some.X[:, known] > 2).sum(axis=0))]])
    shift = [
        float(np.nanmean(sl.perturb(some, small, {gene: dose}, null=False, progress=False, n_draws=4).shift))
        for dose in (0.0, 0.5, 1.0, 3.0)
    ]
    assert shift[0] > shift[1] > shift[2] == 0
    assert shift[3] > 0


def test_attention_and_gene_embeddings(small, pbmc68k):
    tokens = small.tokenize(pbmc68k[:3])
    for weights, n in zip(small.attention(tokens), tokens.lengths, strict=True):
        assert weights.shape == (3, n, n)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    table = small.gene_embeddings()
    token = small.vocabulary.id_of(table.index[5])
    np.testing.assert_array_equal(table.iloc[5], small.net.words.weight[token])
    assert table.index.is_unique


def test_poolings_and_layers_that_are_not_there(small, pbmc68k, version):
    tokens = small.tokenize(pbmc68k[:2])
    wrong = [{"hidden_layer": 4}, {"hidden_layer": -5}, {"pooling": "max"}]
    if version == "V1":
        wrong.append({"pooling": "cls"})
    for options in wrong:
        with pytest.raises(ModelError):
            small.encode(tokens, **options)


# --- the published perturbation --------------------------------------------------------


def plain_overexpress(ids: list[int], genes: list[int], longest: int, special: bool) -> tuple[list[int], list[int]]:
    """One cell after and before, step by step as the reference's mapping functions do it."""
    found = [ids.index(g) for g in genes if g in ids]
    after = [token for i, token in enumerate(ids) if i not in found]
    for token in genes[::-1]:
        after.insert(1 if special else 0, token)
    if len(after) > longest:
        after = after[: longest - 1] + [after[-1]] if special else after[:longest]
    overflow = len(after) + len(genes) - len(found) - longest
    before = ids
    if overflow > 0:
        room = len(ids) - overflow
        before = ids[: room - 1] + [ids[-1]] if special else ids[:room]
    return after, before


@pytest.mark.parametrize("special", [False, True])
def test_overflow_is_cut_as_in_the_reference(special):
    random = np.random.default_rng(1)
    cells = []
    for n in [*range(10, 21)] * 3:
        genes = random.choice(np.arange(4, 60), n - 2 * special, replace=False).tolist()
        cells.append([2, *genes, 3] if special else genes)
    tokens = Tokens(
        np.concatenate(cells).astype(np.int64), None, np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    )
    for perturbed in ([7], [7, 9], [30, 11, 8]):
        pairs = overexpressed(tokens, np.array(perturbed), (2, 3) if special else (None, None), max_length=20)
        for i, cell in enumerate(cells):
            after, before = plain_overexpress(cell, perturbed, 20, special)
            assert pairs.after.take(np.array([i])).ids.tolist() == after
            assert pairs.before.take(np.array([i])).ids.tolist() == before
        assert (
            pairs.after.ids[pairs.here] == pairs.before.ids[pairs.before.offsets[pairs.segments] + pairs.there]
        ).all()
        assert not np.isin(pairs.after.ids[pairs.here], [2, 3, *perturbed]).any()


def test_several_genes_at_once(small, pbmc68k, version):
    tokens = small.tokenize(pbmc68k[:60])
    ids, times = np.unique(tokens.ids, return_counts=True)
    genes = [small.vocabulary.names[i] for i in ids[np.argsort(-times)] if small.vocabulary.ensembl[i]][:2]
    result = delete_genes(small, tokens, genes)
    pair = [small.vocabulary.id_of(g) for g in genes]
    has = [np.isin(pair, tokens.take(np.array([i])).ids).all() for i in range(60)]
    np.testing.assert_array_equal(result.cells, np.flatnonzero(has))
    assert (result.tokens.lengths == tokens.lengths[result.cells] - 2).all()
    # The read-out by hand, for one cell.
    i = int(result.cells[0])
    before = small.encode(tokens.take(np.array([i])), genes=True)
    after = small.encode(result.tokens.take(np.array([0])), genes=True)
    if version == "V2":
        a, b = before.cell[0], after.cell[0]
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    else:
        a, b = before.genes[~np.isin(tokens.take(np.array([i])).ids, pair)], after.genes
        expected = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    assert result.cosine[0] == pytest.approx(expected, abs=1e-5)


def test_a_cell_of_one_gene_has_nothing_left_to_compare(small, pbmc68k):
    cells = pbmc68k[:3].copy()
    counts = cells.X.toarray()
    known = small.match(Cells.from_anndata(cells).genes).columns
    gene = known[np.argmax((counts[:, known] > 0).sum(axis=0))]
    counts[1] = 0
    counts[:, gene] = 4
    cells.X = counts
    tokens = small.tokenize(cells)
    name = small.vocabulary.ensembl[small.vocabulary.id_of(str(cells.var["ensembl_id"].iloc[gene]))]
    for result in (small.delete(tokens, [name]), small.perturb_each(tokens, "delete", genes=[name])):
        np.testing.assert_array_equal(np.isnan(result.cosine), [False, True, False])
    front = small.overexpress(tokens, [name])
    assert np.isfinite(front.cosine[[0, 2]]).all()


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_copies_of_a_long_cell_are_made_some_at_a_time(small, pbmc68k, kind):
    from scfm_lab.models.geneformer_pairs import each

    tokens, specials = small.tokenize(pbmc68k[:3]), (small.cls_id, small.eos_id)
    (whole,) = each(tokens, kind, specials)
    parts = list(each(tokens, kind, specials, most=10 * int(tokens.lengths.max())))
    assert max(len(part.after.ids) for part in parts) <= 10 * tokens.lengths.max()
    for name in ("cells", "genes"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    np.testing.assert_array_equal(np.concatenate([part.after.ids for part in parts]), whole.after.ids)

    def pairs(of):
        """Copy, token there and token here of each pair."""
        original = of.before.offsets[of.of[of.segments]] + of.there
        assert (of.after.ids[of.here] == of.before.ids[original]).all()
        return of.after.ids[of.here]

    np.testing.assert_array_equal(np.concatenate([pairs(part) for part in parts]), pairs(whole))
    (some,) = each(tokens, kind, specials, spread=7)
    assert len(some.cells) == 7
    assert set(some.cells) == {0, 1, 2}


def test_genes_that_cannot_be_perturbed(small, pbmc68k):
    tokens = small.tokenize(pbmc68k[:5])
    with pytest.raises(GenesError, match="does not know"):
        delete_genes(small, tokens, ["NOSUCHGENE"])
    with pytest.raises(GenesError, match="does not know"):
        delete_genes(small, tokens, [0])
    absent = next(i for i in range(10, 300) if i not in set(tokens.ids.tolist()))
    with pytest.raises(DataError, match="No cell holds"):
        delete_genes(small, tokens, [absent])
    with pytest.raises(DataError, match="overexpress"):
        perturb_each(small, tokens, "silence")


# --- where dictionaries lie, and other names for genes -----------------------------------


@pytest.mark.parametrize(
    "place", [".", "dictionaries", "../geneformer", "../geneformer/gene_dictionaries_30m", "../dictionaries"]
)
def test_dictionaries_are_found_where_they_were_published(write_geneformer, tmp_path, place):
    folder = write_geneformer(tmp_path / "repository" / "Geneformer-V1-10M", version="V1", dictionaries=place)
    assert sl.load_model(folder).dictionaries.resolve() == (folder / place).resolve()


def test_dictionaries_elsewhere_and_of_both_generations_in_one_folder(write_geneformer, tmp_path):
    elsewhere = "../../elsewhere"
    one = write_geneformer(tmp_path / "a" / "one", version="V1", dictionaries=elsewhere)
    two = write_geneformer(tmp_path / "a" / "two", version="V2", dictionaries=elsewhere)
    with pytest.raises(ModelError, match="were not found"):
        sl.load_model(one)
    for folder, has_cls in ((one, False), (two, True)):
        assert sl.load_model(folder, files={"dictionaries": tmp_path / "elsewhere"}).has_cls == has_cls


def test_cells_that_have_symbols_only(small, pbmc68k, version):
    both = small.match(Cells.from_anndata(pbmc68k).genes)
    assert both.how["ensembl"] == len(both.columns) > 600
    only = pbmc68k.copy()
    only.var = only.var[[]]
    match = small.match(Cells.from_anndata(only).genes)
    same = dict(zip(both.columns, both.ids, strict=True))
    assert np.mean([same.get(c) == i for c, i in zip(match.columns, match.ids, strict=True)]) > 0.99
    assert len(match.columns) >= 0.99 * len(both.columns)
    way = TRANSLATED_SYMBOL if version == "V1" else "name in the model's own mapping"
    assert match.how[way] > 600
    assert way in sl.audit_genes(only, small).summary()


def test_one_id_twice_stays_two_tokens_and_aliases_are_summed(write_geneformer, tmp_path, pbmc68k):
    ids = pbmc68k.var["ensembl_id"].astype(str)
    model = sl.load_model(write_geneformer(tmp_path / "c"), device="cpu", precision="float32")
    known = [i for i in range(pbmc68k.n_vars) if model.vocabulary.id_of(ids.iloc[i]) is not None][:5]
    doubled = ad.AnnData(
        sparse.csr_matrix(np.array([[3.0, 2, 1, 5, 4, 6]], dtype=np.float32)), obs={"n": [1]}, var={"x": range(6)}
    )
    doubled.var_names = [f"column-{i}" for i in range(6)]
    doubled.obs_names = ["cell"]
    doubled.var["ensembl_id"] = [*ids.iloc[known], ids.iloc[known[0]]]
    tokens = model.tokenize(doubled)
    twice = model.vocabulary.id_of(ids.iloc[known[0]])
    assert (tokens.ids == twice).sum() == 2
    # The same column under an alias is brought together by the mapping, and so summed.
    doubled.var["ensembl_id"] = [*ids.iloc[known], ""]
    doubled.var["gene_symbol"] = [*[f"name-{i}" for i in range(5)], pbmc68k.var_names[known[0]]]
    match = model.match(Cells.from_anndata(doubled).genes)
    assert match.doubled == 1
    tokens = model.tokenize(doubled)
    assert (tokens.ids == twice).sum() == 1
    cells = Cells.from_anndata(doubled)
    ranked = Ranker(cells, match, model.medians)()
    assert ranked.counts[ranked.ids == twice] == 9


def test_mouse_cells_need_a_word(small, pbmc68k):
    from scfm_lab.models.published import shipped_genes

    table = shipped_genes()
    mouse_of = dict(zip(table.symbols, table.mouse_ensembl, strict=True))
    mouse = pbmc68k[:10, [bool(mouse_of.get(g)) for g in pbmc68k.var_names]].copy()
    human = mouse.copy()
    mouse.var_names = [mouse_of[g] for g in mouse.var_names]
    mouse.var = mouse.var[[]]
    mouse.uns["organism"] = "mouse"
    with pytest.raises(GenesError, match="orthologs"):
        sl.embed(mouse, small, progress=False)
    np.testing.assert_array_equal(small.tokenize(mouse, options={"orthologs": True}).ids, small.tokenize(human).ids)


def test_a_cell_without_known_genes_is_nan_and_counted(small, pbmc68k):
    adata = pbmc68k[:6].copy()
    known = small.match(Cells.from_anndata(adata).genes).columns
    counts = adata.X.toarray()
    counts[2] = 1
    counts[2, known] = 0
    adata.X = counts
    result = sl.embed(adata, small, progress=False)
    assert np.isnan(result.vectors[2]).all()
    assert np.isfinite(np.delete(result.vectors, 2, axis=0)).all()
    assert result.audit.cells_without_genes == 1


# --- variants of the files, and files that are wrong -------------------------------------


def tied(tensors):
    words = tensors["bert.embeddings.word_embeddings.weight"]
    return {
        **tensors,
        "bert.embeddings.position_ids": torch.arange(512)[None],
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }


def classifier(tensors):
    out = {k: v for k, v in tensors.items() if not k.startswith("cls.")}
    out |= {"bert.pooler.dense.weight": torch.ones(24, 24), "bert.pooler.dense.bias": torch.ones(24)}
    return {**out, "classifier.weight": torch.ones(3, 24), "classifier.bias": torch.ones(3)}


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        (tied, "pytorch_model.bin"),
        (tied, "model.safetensors"),
        (classifier, "model.safetensors"),
        (lambda t: {f"module.{k}": v for k, v in t.items()}, "pytorch_model.bin"),
        (lambda t: {k.removeprefix("bert."): v for k, v in t.items() if k.startswith("bert.")}, "model.safetensors"),
        (
            lambda t: {
                k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
                for k, v in t.items()
            },
            "pytorch_model.bin",
        ),
    ],
    ids=["bin with tied tensors", "position ids", "classifier", "parallel", "bare", "gamma and beta"],
)
def test_variants_of_the_files(write_geneformer, tmp_path, pbmc68k, change, weights):
    plain = sl.load_model(write_geneformer(tmp_path / "plain"), device="cpu", precision="float32")
    other = sl.load_model(
        write_geneformer(tmp_path / "other", change=change, weights=weights), device="cpu", precision="float32"
    )
    tokens = plain.tokenize(pbmc68k[:10])
    np.testing.assert_array_equal(other.encode(tokens).cell, plain.encode(tokens).cell)
    if change is classifier:
        with pytest.raises(ModelError, match="no head"):
            other.gene_logits(other.encode(tokens, genes=True).genes)


class _Runs:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def spoil(folder: Path, how: str) -> Path:
    from safetensors.torch import load_file, save_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    token = folder / "dictionaries" / "token_dictionary_gc104M.pkl"
    median = folder / "dictionaries" / "gene_median_dictionary_gc104M.pkl"
    tensors = {k: v.clone() for k, v in load_file(weights).items()}
    settings = json.loads(config.read_text())
    words = pickle.loads(token.read_bytes())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "renamed":
        torch.save(tensors, weights)
    elif how == "code in weights":
        weights.unlink()
        torch.save({"bert.embeddings.word_embeddings.weight": _Runs(str(folder / "ran"))}, folder / "pytorch_model.bin")
    elif how == "code in a dictionary":
        token.write_bytes(pickle.dumps({**words, "x": _Runs(str(folder / "ran"))}))
    elif how == "truncated dictionary":
        token.write_bytes(token.read_bytes()[:500])
    elif how == "nan":
        tensors["bert.embeddings.LayerNorm.bias"][0] = float("nan")
    elif how == "missing key":
        del tensors["bert.encoder.layer.2.output.dense.bias"]
    elif how == "unknown key":
        tensors["bert.extra.weight"] = torch.zeros(2)
    elif how == "layers":
        config.write_text(json.dumps(settings | {"num_hidden_layers": 2}))
    elif how == "absurd":
        config.write_text(json.dumps(settings | {"hidden_size": 10**9}))
    elif how == "relative":
        config.write_text(json.dumps(settings | {"position_embedding_type": "relative_key"}))
    elif how == "no weights":
        weights.unlink()
    elif how == "small dictionary":
        token.write_bytes(pickle.dumps({k: v for k, v in words.items() if v < 100}))
    elif how == "no median":
        median.unlink()
    elif how == "a median of zero":
        medians = pickle.loads(median.read_bytes())
        median.write_bytes(pickle.dumps(dict.fromkeys(medians, 0.0)))
    elif how == "another dictionary":
        token.write_bytes(median.read_bytes())
    elif how == "another family":
        tensors = {k.replace("bert.", "gpt."): v for k, v in tensors.items()}
    if how in ("nan", "missing key", "unknown key", "another family"):
        save_file(tensors, weights)
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "damaged"),
        ("renamed", "damaged or no safetensors"),
        ("code in weights", "mkdir"),
        ("code in a dictionary", "mkdir"),
        ("truncated dictionary", "damaged or no pickle"),
        ("nan", "NaN"),
        ("missing key", r"missing bert\.encoder\.layer\.2\.output\.dense\.bias"),
        ("unknown key", r"unknown bert\.extra\.weight"),
        ("layers", "num_hidden_layers=2, the weights hold 3"),
        ("absurd", "hidden_size=1000000000"),
        ("relative", "absolute positions"),
        ("no weights", r"no model\.safetensors and no pytorch_model\.bin"),
        ("small dictionary", "No token dictionary fits"),
        ("no median", "missing"),
        ("a median of zero", "positive numbers"),
        ("another dictionary", "not the dictionary"),
        ("another family", "holds no Geneformer"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(write_geneformer, tmp_path, how, said):
    folder = spoil(write_geneformer(tmp_path / "bad"), how)
    with pytest.raises(ModelError, match=said) as raised:
        sl.load_model(folder)
    assert "\n" not in str(raised.value)
    assert not (folder / "ran").exists()


def test_it_is_recognised_by_its_files_alone(write_geneformer, write_scgpt, tmp_path):
    folder = write_geneformer(tmp_path / "g")
    assert Geneformer.recognises(folder)
    assert Geneformer.recognises(folder / "model.safetensors")
    assert not Geneformer.recognises(write_scgpt(tmp_path / "s"))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        sl.load_model(folder)


def test_one_empty_cell_leaves_the_contextual_genes_of_the_others(small, pbmc68k):
    cells = pbmc68k[:5].copy()
    expected = small.contextual_gene_embeddings(small.tokenize(cells))
    with_empty = pbmc68k[:6].copy()
    counts = with_empty.X.toarray()
    counts[5] = 0
    with_empty.X = counts
    found = small.contextual_gene_embeddings(small.tokenize(with_empty))
    assert np.isfinite(found.to_numpy()).all()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_cells_that_the_reference_leaves_out_are_told(small, pbmc68k):
    cells = pbmc68k[:6].copy()
    cells.obs["filter_pass"] = [1, 0, 1, 0, 1, 1]
    result = sl.embed(cells, small, like_reference=True, progress=False, copy=True)
    assert result.provenance["cells_left_out"] == 2
    assert "2 cells have no vector because the reference leaves them out" in result.summary()


def test_affected_genes_are_told_by_the_gene_that_was_perturbed(small, pbmc68k):
    tokens = small.tokenize(pbmc68k[:4].copy())
    head = int(small.has_cls)
    one, other = (int(token) for token in tokens.ids[head : head + 2])
    both = small.perturb_each(tokens, "delete", genes=[one, other], per_gene="lists")
    assert both.cosines is not None
    for gene in (one, other):
        alone = small.delete(tokens, [gene], per_gene=True).per_gene
        assert set(alone["perturbed"]) == {gene}
        mine = both.per_gene[both.per_gene["perturbed"] == gene].reset_index(drop=True)
        np.testing.assert_allclose(mine, alone, atol=1e-5)
        for row in mine.itertuples():
            cosines = both.cosines[gene, row.token]
            assert len(cosines) == row.n_cells
            np.testing.assert_allclose(cosines.mean(), row.cosine, atol=1e-6)
    assert len(both.cosines) == len(both.per_gene)
    assert set(small.overexpress(tokens, [one, other], per_gene=True).per_gene["perturbed"]) == {-1}
    with pytest.raises(DataError, match="per_gene is 'all'"):
        small.delete(tokens, [one], per_gene="all")


def test_perturbations_in_pieces_are_those_of_all_at_once(small, pbmc68k, monkeypatch):
    from scfm_lab.models import geneformer_perturb as module

    tokens = small.tokenize(pbmc68k[:12].copy())
    gene = int(np.bincount(tokens.ids[tokens.ids > 4]).argmax())
    calls = {
        "each": lambda: small.perturb_each(tokens, "delete", genes=list(range(20, 60)), per_gene=True),
        "delete": lambda: small.delete(tokens, [gene]),
        "overexpress": lambda: small.overexpress(tokens, [gene]),
    }
    whole = {name: call() for name, call in calls.items()}
    monkeypatch.setattr(module, "_COPIES", 500)
    monkeypatch.setattr(module, "_MOST_KEPT", 800)
    for name, call in calls.items():
        some = call()
        np.testing.assert_array_equal(some.cells, whole[name].cells)
        np.testing.assert_array_equal(some.genes, whole[name].genes)
        np.testing.assert_allclose(some.cosine, whole[name].cosine, atol=1e-6)
        assert whole[name].tokens is not None
        if name == "each":
            assert some.tokens is None
            np.testing.assert_allclose(some.per_gene, whole[name].per_gene, atol=1e-6)
