"""scFoundation: the reference's outputs, small checkpoints of the format on the bundled cells, and files that must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import erf, softmax
from writers_performer import write_scfoundation as write_checkpoint

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.dose import perturb_counts
from scfm_lab.errors import CountsError, DataError, GenesError, ModelError
from scfm_lab.models.scfoundation import ScFoundation
from scfm_lab.models.scfoundation_tokens import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from scfm_lab.models.scfoundation_net import ScFoundationNet
    from scfm_lab.models.tokens import Tokens

LIKE = {"like_reference": True}


def agree(found: np.ndarray, wanted: np.ndarray, atol: float = 1e-4, rtol: float = 0.0) -> None:
    """Within a tolerance everywhere, and as vectors."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=rtol)
    a, b = found.reshape(-1, found.shape[-1]).astype(float), wanted.reshape(-1, wanted.shape[-1]).astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() >= 0.99999


# --- the reference's outputs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "scfoundation"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected.npz"))


@pytest.fixture(scope="module")
def cells(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "cells.h5ad")


@pytest.fixture(scope="module")
def published(folder: Path) -> ScFoundation:
    return sl.load_model(folder / "models" / "models.ckpt", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def normalised(published: ScFoundation, cells: ad.AnnData) -> ad.AnnData:
    """ln(1 + counts per 10,000) on all genes of the model, with the totals of the counts beside it."""
    place = {gene: i for i, gene in enumerate(published.vocabulary.symbols)}
    known = [gene in place for gene in cells.var_names]
    counts = np.zeros((cells.n_obs, len(place)))
    counts[:, [place[g] for g in cells.var_names[known]]] = cells.X.toarray()[:, known]
    total = counts.sum(axis=1, keepdims=True)
    made = ad.AnnData(np.log1p(counts / total * 1e4).astype(np.float32), obs=cells.obs.copy())
    made.var_names = published.vocabulary.symbols.astype(str)
    made.obs["total_counts"] = total[:, 0]
    return made


def padded(flat: np.ndarray, tokens: Tokens, shape: tuple[int, ...], fill: float) -> np.ndarray:
    out = np.full(shape, fill, dtype=flat.dtype)
    for row, (start, end) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        out[row, : end - start] = flat[start:end]
    return out


@pytest.mark.golden
@pytest.mark.parametrize("options", [{}, LIKE])
def test_tokens_are_the_references(published, cells, expected, options):
    tokens = published.tokenize(cells, options=options)
    np.testing.assert_array_equal(tokens.lengths, expected["seq_len"])
    shape = expected["token_positions"].shape
    np.testing.assert_array_equal(padded(tokens.ids, tokens, shape, -1), expected["token_positions"])
    np.testing.assert_allclose(padded(tokens.values, tokens, shape, 0), expected["token_values"], rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("options", "pooling", "name"),
    [
        ({}, None, "cell_all"),
        ({}, "all", "cell_all"),
        ({}, "max", "cell_max"),
        ({"version": "ce"}, None, "cell_all"),
        ({"version": "rde", "tgthighres": "f1"}, None, "cell_all_rde_f1"),
        ({"version": "cell", "tgthighres": "a5"}, None, "cell_all_a5"),
        ({"input_type": "bulk"}, None, "bulk_cell_all_F"),
    ],
)
def test_cell_vectors_are_the_references(published, cells, expected, options, pooling, name):
    result = sl.embed(cells, published, options=options, pooling=pooling, progress=False, copy=True)
    agree(result.vectors, expected[name], atol=5e-5)


@pytest.mark.golden
def test_cells_that_are_normalised_already_are_read_if_asked_for(published, normalised, expected):
    result = sl.embed(normalised, published, options={"pre_normalized": "T"}, progress=False, copy=True)
    agree(result.vectors, expected["cell_all_prenorm_T"], atol=5e-5)
    four = normalised[:4].copy()
    result = sl.embed(four, published, options={"pre_normalized": "A"}, progress=False, copy=True)
    agree(result.vectors, expected["cell_all_prenorm_A_first4"], atol=5e-5)
    with pytest.raises(CountsError, match="log-normalised"):
        sl.embed(normalised, published, progress=False)


@pytest.mark.golden
@pytest.mark.parametrize(("layer", "name"), [(0, "encoder_input"), (None, "encoder_output"), (3, "encoder_output")])
def test_states_of_the_encoder_are_the_references(published, cells, expected, layer, name):
    tokens = published.tokenize(cells[:2].copy())
    found = published.encode(tokens, genes=True, hidden_layer=layer).genes
    for row in range(2):
        agree(found[tokens.offsets[row] : tokens.offsets[row + 1]], expected[f"{name}_cell{row}"])


@pytest.mark.golden
def test_states_of_genes_are_the_references_on_one_cell_at_a_time(published, cells, expected):
    tokens = published.tokenize(cells[:2].copy())
    wanted = expected["gene_embedding_stride8"]
    agree(published.gene_states(tokens)[:, ::8], wanted)
    some = published.vocabulary.symbols[8:80:8]
    agree(published.gene_states(tokens, genes=list(some)), wanted[:, 1:10])


@pytest.mark.golden
def test_a_batch_of_the_reference_is_stabilised_together_only_if_asked_for(published, cells, expected):
    three = cells[:3].copy()
    some, wanted = np.arange(0, 19264, 8), expected["gene_batch_embedding_stride8"]
    together = published.tokenize(three, options=LIKE)
    agree(published.gene_states(together, genes=some, batch_size=3), wanted)
    alone = published.gene_states(published.tokenize(three), genes=some, batch_size=3)
    assert np.abs(alone - wanted).max() > 5e-4, "the default must not take the batch's stabiliser"
    agree(alone[:2], expected["gene_embedding_stride8"])


@pytest.mark.golden
def test_expected_expression_is_the_references(published, cells, expected):
    tokens = published.tokenize(cells[:2].copy())
    agree(published.gene_expression(tokens), expected["gene_expression_prediction"])


@pytest.mark.golden
def test_imputing_gives_counts_per_10000(published, cells, expected):
    two = cells[:2].copy()
    result = sl.impute(two, published, genes=["A1BG", "CD3D"], progress=False)
    places = [published.vocabulary.id_of(g) for g in ("A1BG", "CD3D")]
    wanted = np.expm1(np.maximum(expected["gene_expression_prediction"][:, places], 0))
    np.testing.assert_allclose(result.values, wanted, atol=1e-4)
    assert "expected counts per 10,000" in result.summary()


# --- small checkpoints of the format, on the bundled cells ------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory, _pbmc68k) -> Path:
    root = tmp_path_factory.mktemp("scfoundation")
    return write_checkpoint(root / "models" / "models.ckpt", sorted(_pbmc68k.var_names))


@pytest.fixture(scope="module")
def model(small: Path) -> ScFoundation:
    return sl.load_model(small, device="cpu", precision="float32")


@pytest.fixture
def few(pbmc68k) -> ad.AnnData:
    return pbmc68k[::35].copy()


class Dense:
    """The published forward pass of one cell in float64, every weight written out."""

    def __init__(self, net: ScFoundationNet, shape: dict[str, Any]) -> None:
        self.state = {k: v.double().numpy() for k, v in net.state_dict().items()}
        self.shape = shape

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def values(self, x):
        h = self.linear(np.asarray(x, float)[:, None], "token_emb.mlp")
        h = np.where(h > 0, h, 0.1 * h)
        out = (
            softmax(self.shape["alpha"] * h + self.linear(h, "token_emb.mlp2"), axis=1)
            @ self.state["token_emb.emb.weight"]
        )
        out[np.asarray(x) == self.shape["mask_value"]] = self.state["token_emb.emb_mask.weight"]
        out[np.asarray(x) == self.shape["pad_value"]] = self.state["token_emb.emb_pad.weight"]
        return out

    def encode(self, positions, values):
        x = self.values(values) + self.state["pos_emb.weight"][positions]
        heads = self.shape["encoder"]["heads"]
        for i in range(self.shape["encoder"]["layers"]):
            at = f"encoder.layers.{i}."
            qkv = x @ self.state[f"{at}self_attn.in_proj_weight"].T + self.state[f"{at}self_attn.in_proj_bias"]
            q, k, v = (part.reshape(len(x), heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
            mixed = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]), axis=-1) @ v
            x = x + self.linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"{at}self_attn.out_proj")
            x = self.norm(x, f"{at}norm1")
            x = x + self.linear(np.maximum(self.linear(x, f"{at}linear1"), 0), f"{at}linear2")
            x = self.norm(x, f"{at}norm2")
        return self.norm(x, "encoder_norm")

    def decode(self, positions, values, depths):
        n = self.shape["n_genes"]
        full = np.concatenate([np.zeros(n), depths])
        full[positions] = values
        x = self.values(full)
        x[positions] = self.encode(positions, values)
        x = self.linear(x + self.state["pos_emb.weight"][: n + 2], "decoder_embed")
        for i in range(self.shape["decoder"]["n_layers"]):
            at = f"decoder.layers.{i}."
            projection = self.state[f"{at}features.projection"]
            m, d = projection.shape
            h = self.norm(x, f"{at}norm_attention")
            q, k, v = (self.linear(h, f"{at}to_{name}").reshape(len(x), -1, d).transpose(1, 0, 2) for name in "qkv")
            a_q, a_k = q @ projection.T * d**-0.25, k @ projection.T * d**-0.25
            n_q, n_k = ((t**2).sum(-1, keepdims=True) * d**-0.5 / 2 for t in (q, k))
            phi_q = m**-0.5 * (np.exp(a_q - n_q - a_q.max(-1, keepdims=True)) + 1e-4)
            phi_k = m**-0.5 * (np.exp(a_k - n_k - a_k.max()) + 1e-4)
            weights = phi_q @ phi_k.transpose(0, 2, 1)
            mixed = weights / weights.sum(-1, keepdims=True) @ v
            x = x + self.linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"{at}to_out")
            h = self.linear(self.norm(x, f"{at}norm_ffn"), f"{at}w1")
            x = x + self.linear(h * (1 + erf(h / np.sqrt(2))) / 2, f"{at}w2")
        return self.norm(self.norm(x, "decoder_norm"), "norm")[:n]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"bins": 11, "alpha": 1.0, "encoder": {"width": 8, "layers": 3, "heads": 1, "ffn": 20}},
        {"mask_value": 4.0},  # T of t4: the value that stands for the mask is told by value
        {"pad_value": 4.0},
    ],
)
def test_other_shapes_agree_with_the_formulas_written_out(tmp_path, few, shape):
    path = write_checkpoint(tmp_path / "a" / "models.ckpt", list(few.var_names[::3]), **shape)
    model = sl.load_model(path, device="cpu", precision="float32")
    tokens = model.tokenize(few)
    states, genes, vectors = (
        model.encode(tokens, genes=True).genes,
        model.gene_states(tokens),
        model.encode(tokens).cell,
    )
    final = model.gene_expression(tokens)
    cell = Dense(model._net("cell"), model.weights["cell"].shape)
    gene = Dense(model._net("gene"), model.weights["gene"].shape)
    for row in range(3):
        at = slice(*tokens.offsets[row : row + 2])
        wanted = cell.encode(tokens.ids[at], tokens.values[at])
        np.testing.assert_allclose(states[at], wanted, atol=2e-5)
        pooled = [wanted[-1], wanted[-2], wanted[:-2].max(0), wanted[:-2].mean(0)]
        np.testing.assert_allclose(vectors[row], np.concatenate(pooled), atol=2e-5)
        wanted = gene.decode(tokens.ids[at], tokens.values[at], tokens.cell["depths"][row])
        np.testing.assert_allclose(genes[row], wanted, atol=5e-5)
        np.testing.assert_allclose(final[row], gene.linear(wanted, "to_final")[:, 0], atol=5e-5)


def test_values_are_those_of_the_library_of_all_genes_where_it_is_known(model, few):
    total = few.obs["total_counts_all_genes"].to_numpy(dtype=float)
    for options, library in (({}, total), (LIKE, np.asarray(few.X.sum(axis=1)).ravel())):
        tokens = model.tokenize(few, options=options)
        cell = few[0, model.vocabulary.symbols].X.toarray()[0]
        wanted = [*np.log1p(cell[cell > 0] / library[0] * 1e4), 4.0, np.log10(library[0])]
        np.testing.assert_allclose(tokens.values[: tokens.offsets[1]], wanted, rtol=1e-6)
    del few.obs["total_counts_all_genes"]
    np.testing.assert_array_equal(model.tokenize(few).values, model.tokenize(few, options=LIKE).values)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("t4", 4.0),
        ("t3.5", 3.5),
        ("f2", np.log10(2000)),
        ("f0.5", np.log10(500)),
        ("a1", 4.0),
        ("a-1", 2.0),
        ("t.5", 0.5),
        ("t1e1", 10.0),
    ],
)
def test_depths_aimed_at(text, depth):
    np.testing.assert_allclose(Target.parse(text).of(np.array([1000.0])), depth)


@pytest.mark.parametrize("text", ["4", "x4", "f0", "f-1", "t", "t4x", "tinf", "anan", ""])
def test_depths_that_are_none_are_refused(model, few, text):
    with pytest.raises(ModelError, match="tgthighres"):
        model.tokenize(few, options={"tgthighres": text})


def test_depths_that_are_not_above_zero_are_not_read_by_the_encoder(model, few):
    few = few[:5].copy()
    plain = model.tokenize(few)
    tokens = model.tokenize(few, options={"tgthighres": "t0"})
    np.testing.assert_array_equal(tokens.lengths, plain.lengths - 1)
    np.testing.assert_array_equal(tokens.ids[tokens.offsets[1:] - 1], len(model.vocabulary) + 1)
    gene = Dense(model._net("gene"), model.weights["gene"].shape)
    at = slice(0, tokens.offsets[1])
    wanted = gene.decode(tokens.ids[at], tokens.values[at], tokens.cell["depths"][0])
    np.testing.assert_allclose(model.gene_states(tokens)[0], wanted, atol=5e-5)


def test_a_vector_depends_on_its_cell_alone(model, few):
    tokens = model.tokenize(few)
    plain, genes = model.encode(tokens).cell, model.gene_states(tokens)
    for size in (1, 3, 20):
        np.testing.assert_allclose(model.encode(tokens, batch_size=size).cell, plain, atol=1e-5)
        np.testing.assert_allclose(model.gene_states(tokens, batch_size=size), genes, atol=1e-5)
    order = np.random.default_rng(0).permutation(few.n_obs)
    shuffled = model.tokenize(few[order].copy())
    np.testing.assert_allclose(model.encode(shuffled).cell, plain[order], atol=1e-5)
    np.testing.assert_allclose(model.gene_states(shuffled), genes[order], atol=1e-5)
    half = [model.encode(model.tokenize(few[part].copy())).cell for part in (slice(0, 7), slice(7, None))]
    np.testing.assert_allclose(np.vstack(half), plain, atol=1e-5)


def test_some_genes_are_those_of_all(model, few):
    tokens = model.tokenize(few[:3].copy())
    some = ["LYZ", "CD74", "CD3D"]
    places = [model.vocabulary.id_of(g) for g in some]
    np.testing.assert_allclose(model.gene_states(tokens, genes=some), model.gene_states(tokens)[:, places], atol=1e-5)
    np.testing.assert_allclose(
        model.gene_expression(tokens, genes=some), model.gene_expression(tokens)[:, places], atol=1e-5
    )
    with pytest.raises(GenesError, match="LYZZ"):
        model.gene_states(tokens, genes=["LYZZ"])


def test_more_states_than_memory_are_refused(model):
    with pytest.raises(DataError, match="GiB"):
        model._room((1_000_000, 19264, 512))


@pytest.mark.parametrize("options", [{}, LIKE, {"tgthighres": "f2"}, {"input_type": "bulk"}])
def test_a_perturbed_copy_differs_in_its_gene_alone(model, few, options):
    cells = Cells.from_anndata(few, fields=model.fields)
    place = int(model.vocabulary.id_of("CD74"))
    before = model.tokenize(cells, options=options)
    for dose in (0.0, 0.5, 4.0):
        after = model.tokenize(perturb_counts(cells, {few.var_names.get_loc("CD74"): dose}), options=options)
        np.testing.assert_array_equal(after.cell["depths"], before.cell["depths"])
        for row in range(len(cells)):
            a, b = (
                dict(
                    zip(
                        t.ids[t.offsets[row] : t.offsets[row + 1]],
                        t.values[t.offsets[row] : t.offsets[row + 1]],
                        strict=True,
                    )
                )
                for t in (before, after)
            )
            a.pop(place, None), b.pop(place, None)
            assert a == b


def test_perturbing_reads_raw_counts_only(model, few):
    with pytest.raises(ModelError, match="raw counts"):
        sl.perturb(few, model, {"CD74": 0.0}, options={"pre_normalized": "T"}, progress=False)


def test_cells_that_cannot_be_read_have_no_vector_and_are_counted(model, few):
    few.X = few.X.multiply(np.arange(few.n_obs)[:, None] != 3).tocsr()
    result = sl.embed(few, model, progress=False)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.vectors).all(axis=1)), [3])
    assert "1 cell has no known gene" in result.summary()
    assert np.isnan(model.gene_expression(model.tokenize(few), genes=["LYZ"])[3]).all()


def test_totals_of_normalised_cells_come_from_their_column(model, few):
    values = ad.AnnData(few.X.multiply(0.25).tocsr(), obs=few.obs[[]], var=few.var)
    with pytest.raises(DataError, match="total_counts"):
        model.tokenize(values, options={"pre_normalized": "A"})
    values.obs["total_counts"] = 1000.0
    tokens = model.tokenize(values, options={"pre_normalized": "A", "tgthighres": "f1"})
    np.testing.assert_allclose(tokens.cell["depths"], 3.0)
    values.X = values.X.multiply(-1).tocsr()
    with pytest.raises(CountsError, match="negative"):
        model.tokenize(values, options={"pre_normalized": "T"})


def test_gene_embeddings_are_the_positions_of_the_checkpoint(model):
    table = model.gene_embeddings()
    assert list(table.index) == list(model.vocabulary.symbols)
    np.testing.assert_array_equal(table.to_numpy(), model._net("cell").pos_emb.weight[:-3].numpy())


def test_attention_rows_sum_to_one_and_the_weights_are_those_used(model, few):
    tokens = model.tokenize(few[:2].copy())
    maps = model.attention(tokens, hidden_layer=1)
    assert [m.shape for m in maps] == [(3, n, n) for n in tokens.lengths]
    net = model._net("cell")
    with torch.inference_mode():
        x = net.embed(torch.as_tensor(tokens.ids), torch.as_tensor(tokens.values))[: tokens.lengths[0]]
        layer = net.encoder.layers[0]
        _, _, v = torch.nn.functional.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(
            3, -1
        )
        mixed = torch.as_tensor(maps[0]) @ v.unflatten(-1, (3, -1)).transpose(0, 1)
        wanted = layer.self_attn.out_proj(mixed.transpose(0, 1).flatten(1))
        found = layer.self_attn(x, tokens.lengths[:1])
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-5)


def test_half_precision_keeps_read_depths(small, few):
    full, half = (sl.load_model(small, device="cpu", precision=p) for p in ("float32", "bfloat16"))
    assert half._net("cell").token_emb.mlp.weight.dtype == torch.float32
    assert half._net("gene").decoder.layers[0].features.projection.dtype == torch.float32
    assert {p.dtype for p in half._net("gene").parameters()} == {torch.float32}
    a, b = (m.encode(m.tokenize(few)).cell for m in (full, half))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    a, b = (m.gene_expression(m.tokenize(few)) for m in (full, half))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_one_set_alone_serves_for_everything(tmp_path, few):
    def alone(content):
        content.update(content.pop("cell"))

    genes = list(few.var_names)
    path = write_checkpoint(tmp_path / "a" / "one.ckpt", genes, sets=("cell",), change=alone)
    three = sl.load_model(
        write_checkpoint(tmp_path / "b" / "m" / "models.ckpt", genes), device="cpu", precision="float32"
    )
    model = sl.load_model(path, device="cpu", precision="float32")
    tokens = model.tokenize(few[:3].copy())
    np.testing.assert_array_equal(model.encode(tokens).cell, three.encode(three.tokenize(few[:3].copy())).cell)
    assert np.isfinite(model.gene_expression(tokens, genes=["LYZ"])).all()


def test_a_set_that_is_not_there_is_named(tmp_path, few):
    path = write_checkpoint(tmp_path / "a" / "models.ckpt", list(few.var_names), sets=("cell", "rde"))
    model = sl.load_model(path, device="cpu", precision="float32")
    with pytest.raises(ModelError, match="version"):
        model.tokenize(few, options={"version": "gene"})
    with pytest.raises(ModelError, match="no weights 'gene'"):
        model.gene_states(model.tokenize(few))


def test_the_licence_is_told(model):
    assert not model.spec.commercial
    assert "non-commercial" in model.spec.licence


# --- files that must be refused ---------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("bomb-went-off"),)


def refused(path: Path, *words: str, **given: Any) -> None:
    """One sentence, or two, that name what is wrong; nothing else."""
    with pytest.raises(ModelError) as told:
        sl.load_model(path, device="cpu", precision="float32", **given)
    text = str(told.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.fixture
def genes(pbmc68k) -> list[str]:
    return list(pbmc68k.var_names)


def broken(tmp_path: Path, genes: list[str], change: Callable[[dict[str, Any]], Any]) -> Path:
    return write_checkpoint(tmp_path / "models" / "models.ckpt", genes, change=change)


def test_a_truncated_file_is_refused(tmp_path, genes):
    path = broken(tmp_path, genes, lambda c: None)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        refused(path, "models.ckpt", "damaged")
        refused(tmp_path, "models.ckpt", "damaged")


@pytest.mark.parametrize("which", ["cell", "gene"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, genes, which):
    def change(content):
        content[which]["state_dict"]["model.to_final.bias"][0] = float("nan")

    refused(broken(tmp_path, genes, change), f"{which}.state_dict.model.to_final.bias", "NaN")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["rde"]["state_dict"].pop("model.norm.bias"), ("missing norm.bias",)),
        (lambda c: c["rde"]["state_dict"].update({"model.extra": torch.zeros(1)}), ("unknown extra",)),
        (lambda c: c["rde"]["state_dict"].update({"model.norm.bias": torch.zeros(11)}), ("norm.bias is (11,)",)),
        (lambda c: c["rde"]["state_dict"].update({"model.norm.bias": "text"}), ("norm.bias", "no tensor")),
        (
            lambda c: c["rde"]["config"]["model_config"]["mae_autobin"].pop("encoder"),
            ("'rde'", "no 'encoder'", "config="),
        ),
        (lambda c: c["rde"].pop("config"), ("'rde'", "no 'encoder'")),
        (lambda c: c["rde"].update(config="text"), ("'rde'", "no 'encoder'")),
        (lambda c: c.update(other={"a": torch.zeros(1)}), ("other", "'cell', 'rde' and 'gene'")),
        (lambda c: c["cell"]["config"]["model_config"]["mae_autobin"]["encoder"].update(depth=10**12), ("depth",)),
        (
            lambda c: c["cell"]["config"]["model_config"]["mae_autobin"]["encoder"].update(heads=5),
            ("5 attention heads",),
        ),
        (lambda c: c["cell"]["config"]["model_config"]["mae_autobin"].update(seq_len=10**12), ("seq_len",)),
        (lambda c: c["cell"]["config"]["dataset_config"]["rnaseq"].update(bin_num=10**12), ("bin_num",)),
        (
            lambda c: c["cell"]["config"]["model_config"]["mae_autobin"]["decoder"].update(module_type="transformer"),
            ("module_type 'transformer'",),
        ),
        (
            lambda c: c["cell"]["state_dict"].update({"model.pos_emb.weight": torch.zeros(1).expand(1 << 42, 12)}),
            ("pos_emb.weight",),
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, genes, change, words):
    refused(broken(tmp_path, genes, change), "models.ckpt", *words)


def test_what_the_file_does_not_say_can_be_given(tmp_path, genes, few):
    path = broken(tmp_path, genes, lambda c: c["cell"]["config"]["model_config"]["mae_autobin"]["encoder"].pop("heads"))
    refused(path, "no 'heads'")
    model = sl.load_model(path, device="cpu", precision="float32", config={"encoder": {"heads": 3}})
    assert np.isfinite(model.encode(model.tokenize(few)).cell).all()
    refused(path, "nhead", config={"nhead": 3})
    refused(path, "n_class", config={"n_class": 5})
    for entry in ("nheads", "norm_first"):
        refused(path, entry, "encoder", config={"encoder": {entry: 3}})


def test_norms_come_last_whatever_the_configuration_says(tmp_path, genes, few):
    def first(content):
        content["cell"]["config"]["model_config"]["mae_autobin"]["encoder"]["norm_first"] = True

    told, plain = (
        sl.load_model(path, device="cpu", precision="float32")
        for path in (broken(tmp_path / "a", genes, first), broken(tmp_path / "b", genes, lambda c: None))
    )
    np.testing.assert_array_equal(told.encode(told.tokenize(few)).cell, plain.encode(plain.tokenize(few)).cell)


def test_versions_are_of_cell_vectors_and_genes_come_from_their_own_weights(model, few):
    few = few[:2].copy()
    plain, rde = model.tokenize(few), model.tokenize(few, options={"version": "rde"})
    assert not np.allclose(model.encode(plain).cell, model.encode(rde).cell)
    for read in (model.gene_states, model.gene_expression):
        np.testing.assert_array_equal(read(rde, genes=["LYZ"]), read(plain, genes=["LYZ"]))


def test_cells_of_too_few_tokens_are_counted(model, few):
    few = few[:4, model.vocabulary.symbols].copy()
    few.X = few.X.toarray()
    few.X[1] = 0
    few.X[1, 3] = 1
    few.obs = few.obs[[]]
    result = sl.embed(few, model, options={"tgthighres": "t0"}, progress=False)
    np.testing.assert_array_equal(np.isnan(result.vectors).all(axis=1), [False, True, False, False])
    assert (result.provenance["cells_without_genes"], result.provenance["cells_left_out"]) == (0, 1)
    assert "1 cell has no vector because the reference leaves it out" in result.summary()


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path, genes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(broken(tmp_path, genes, lambda c: c["gene"].update(epoch=Bomb())), "models.ckpt", "nothing of it was run")
    assert not (tmp_path / "bomb-went-off").exists()


def test_an_index_that_is_missing_or_does_not_fit_is_refused(tmp_path, genes):
    path = broken(tmp_path, genes, lambda c: None)
    index = next(tmp_path.glob("OS_scRNA_gene_index*.tsv"))
    text = index.read_text()
    index.write_text("\n".join(text.splitlines()[:-1]))
    refused(path, "index", "damaged")
    index.write_text("\n".join([text.splitlines()[0], *text.splitlines()[2:]]))
    refused(path, "764 genes", "765")
    refused(path, "2 genes", "765", files={"gene_index": ["A", "B"]})
    index.unlink()
    refused(path, "OS_scRNA_gene_index", "gene_index")
    assert sl.load_model(path, device="cpu", precision="float32", files={"gene_index": genes}).spec.n_genes == 765


def test_a_folder_says_what_is_missing(tmp_path, genes):
    path = broken(tmp_path, genes, lambda c: None)
    (tmp_path / "OS_scRNA_gene_index.19264.tsv").write_text("gene_name\tindex\n")
    path.unlink()
    refused(tmp_path, "looks like scFoundation", "models.ckpt")


def test_a_file_that_changed_after_it_was_opened_is_told(tmp_path, genes, few):
    path = broken(tmp_path, genes, lambda c: None)
    model = sl.load_model(path, device="cpu", precision="float32")
    tokens = model.tokenize(few[:2].copy())
    model.encode(tokens)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="changed since it was opened"):
        model.gene_states(tokens)


def test_another_familys_file_is_refused(tmp_path):
    torch.save({"model_state_dict": {"token_emb.weight": torch.zeros(3, 2)}}, tmp_path / "models.ckpt")
    refused(tmp_path / "models.ckpt", "no family known")
    with pytest.raises(ModelError, match="no checkpoint of scFoundation"):
        ScFoundation.open(tmp_path / "models.ckpt")


def test_sparse_and_dense_counts_give_the_same_tokens(model, few):
    dense = ad.AnnData(few.X.toarray(), obs=few.obs, var=few.var)
    columns = ad.AnnData(sparse.csc_matrix(few.X), obs=few.obs, var=few.var)
    wanted = model.tokenize(few)
    for other in (dense, columns):
        found = model.tokenize(other)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.values, wanted.values)
