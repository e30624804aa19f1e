"""TranscriptFormer: the reference's outputs, small checkpoints on the bundled cells, and files that must be refused."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch
from writers_protein import SPECIALS, write_tf, write_vectors

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.dose import perturb_counts
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.models.files import read_torch
from scfm_lab.models.published import mouse_ids
from scfm_lab.models.tokens import Tokens
from scfm_lab.models.transcriptformer import TABLE, TranscriptFormer
from scfm_lab.models.transcriptformer_net import _averaged, negative_log_likelihood, one_by_one, padded

if TYPE_CHECKING:
    from collections.abc import Callable

# --- the reference's outputs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "transcriptformer"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected.npz"))


@pytest.fixture(scope="module")
def cells(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "cells.h5ad")


@pytest.fixture(scope="module")
def published(folder: Path) -> TranscriptFormer:
    return sl.load_model(folder / "tf_sapiens", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def stored(expected: dict[str, np.ndarray]) -> Tokens:
    """The reference's tokens with all their padding."""
    n, length = expected["gene_token_indices"].shape
    return Tokens(
        expected["gene_token_indices"].ravel().astype(np.int64),
        expected["gene_counts"].ravel(),
        np.arange(n + 1) * length,
        cell={"assay": expected["aux_token_indices"]},
    )


@pytest.fixture(scope="module")
def tokens(published: TranscriptFormer, cells: ad.AnnData) -> Tokens:
    return published.tokenize(cells)


def agree(found: np.ndarray, wanted: np.ndarray, atol: float, rtol: float = 1e-3) -> None:
    """Within a tolerance everywhere, and as vectors."""
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=rtol)
    a, b = found.reshape(-1, found.shape[-1]).astype(float), wanted.reshape(-1, wanted.shape[-1]).astype(float)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() >= 0.99999


@pytest.mark.golden
def test_tokens_and_counts_are_the_references(published, tokens, expected):
    ids, counts = (
        np.full_like(expected["gene_token_indices"], published.ids.pad),
        np.zeros_like(expected["gene_counts"]),
    )
    for cell in range(len(tokens)):
        own = slice(tokens.offsets[cell], tokens.offsets[cell + 1])
        ids[cell, : tokens.lengths[cell]], counts[cell, : tokens.lengths[cell]] = tokens.ids[own], tokens.values[own]
    np.testing.assert_array_equal(ids, expected["gene_token_indices"])
    np.testing.assert_array_equal(counts, expected["gene_counts"])
    np.testing.assert_array_equal(tokens.cell["assay"], expected["aux_token_indices"][:, 0])


@pytest.mark.golden
def test_truncation_is_counted(published, cells, tokens, expected):
    assert tokens.cell["truncated"].sum() == 15
    result = sl.embed(cells.copy(), published, progress=False)
    assert "15 cells have more genes than the model reads" in result.summary()
    assert "7 of 60 cells have no assay that transcriptformer knows" in result.summary()


@pytest.mark.golden
def test_vectors_are_the_references(published, tokens, stored, expected, cells):
    for found in (
        published.encode(tokens).cell,
        published.encode(tokens, batch_size=1).cell,
        published.encode(tokens, genes=True).cell,
        published.encode(stored).cell,
    ):
        agree(found, expected["cell_embedding"], 2e-5)
    agree(
        sl.embed(cells.copy(), published, like_reference=True, progress=False).vectors, expected["cell_embedding"], 2e-5
    )


@pytest.mark.golden
def test_protein_embeddings_alone_are_the_references(published, tokens, stored, expected):
    for given in (tokens, stored):
        agree(published.encode(given, pooling="esm2ce").cell, expected["esm2ce_embedding"], 2e-5)


@pytest.mark.golden
@pytest.mark.parametrize(("training", "name"), [(False, "embed"), (True, "causal")])
def test_states_labels_and_padding_among_them_are_the_references(published, stored, expected, training, name):
    states = np.stack(published.hidden_states(stored.take(expected["two_cells"]), training=training))
    agree(states[:, 0], expected["encoder_input"], 2e-4)
    agree(states[:, -1], expected[f"encoder_output_{name}"], 2e-4)
    if not training:
        agree(states[:, 1:].swapaxes(0, 1), expected["layer_outputs"], 2e-4)


@pytest.mark.golden
@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_states_of_genes_come_from_any_layer(published, tokens, expected, layer):
    two = tokens.take(expected["two_cells"])
    found = published.encode(two, genes=True, hidden_layer=layer).genes
    all_layers = np.concatenate([expected["encoder_input"][None], expected["layer_outputs"]])
    for i, begin in enumerate(two.offsets[:-1]):
        n = two.lengths[i]
        agree(found[begin : begin + n], all_layers[layer, i, 1 : n + 1], 2e-4)


@pytest.mark.golden
@pytest.mark.parametrize(("training", "name"), [(False, "embed"), (True, "causal")])
def test_expected_counts_and_gene_logits_are_the_references(published, stored, expected, training, name):
    two = stored.take(expected["two_cells"])
    mu = published.likelihoods(two, training=training).mu.reshape(2, -1)
    read = ~expected["mask"]
    np.testing.assert_allclose(mu[read], expected[f"mu_{name}"][read], atol=5e-4, rtol=1e-3)
    assert (expected[f"mu_{name}"][~read] == 0).all()
    assert np.isnan(mu[~read]).all()
    logits = np.stack(published.gene_logits(two, first=40, training=training))
    agree(logits, expected[f"gene_logit_{name}"], 5e-4)


@pytest.mark.golden
def test_likelihoods_are_the_references(published, tokens, stored, expected):
    for given in (tokens, stored):
        np.testing.assert_allclose(published.likelihoods(given).llh, expected["llh"], atol=5e-4, rtol=1e-3)
    two = published.likelihoods(stored.take(expected["two_cells"]), training=True).llh
    np.testing.assert_allclose(two, expected["llh_causal"], atol=5e-4, rtol=1e-3)


@pytest.mark.golden
def test_contextual_gene_embeddings_are_the_references(published, cells, expected):
    found = published.contextual_gene_embeddings(cells)
    n = len(expected["cge_embeddings_first3000"])
    agree(found.embeddings[:n], expected["cge_embeddings_first3000"], 2e-4)
    np.testing.assert_array_equal(found.cell_indices[:n], expected["cge_cell_indices"])
    np.testing.assert_array_equal(found.gene_names[:n].astype(str), expected["cge_gene_names"])


# --- the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [10.0, 0.0, 200.0])
@pytest.mark.parametrize("on_diagonal", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("attend", [one_by_one, padded])
def test_attention_in_blocks_is_attention(cap, on_diagonal, hidden, attend):
    """Against the definition with whole matrices, over cells shorter and longer than a block."""
    generator = torch.Generator().manual_seed(0)
    lengths = np.array([5, 300, 1, 129])
    q, k, v = (torch.randn(lengths.sum(), 3, 8, generator=generator) for _ in range(3))
    bias = torch.rand(lengths.sum(), generator=generator)
    visible = torch.rand(lengths.sum(), generator=generator) > 0.3 if hidden else None
    found = attend(q, k, v, bias, lengths, cap, visible, on_diagonal)
    for begin, n in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        own = slice(begin, begin + n)
        a, b, c = (x[own].transpose(0, 1).double() for x in (q, k, v))
        biased = torch.ones(n, n).tril(0 if on_diagonal else -1)
        scores = a @ b.transpose(1, 2) / 8**0.5 + bias[own] * biased
        scores = cap * torch.tanh(scores / cap) if cap else scores
        allowed = torch.ones(n, n, dtype=torch.bool).tril()
        allowed = allowed if visible is None else allowed & visible[own]
        shares = scores.masked_fill(~allowed, -1e30).softmax(-1) * allowed
        torch.testing.assert_close(found[own], (shares @ c).transpose(0, 1).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_means_hold_where_the_sum_of_the_weights_is_beyond_float16(dtype):
    value = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights = torch.full((2, 3, 8), np.exp(10.0), dtype=torch.float32)
    weights[:, 0] = 0
    found = _averaged(weights, value)
    assert found.dtype == dtype
    assert (found[:, 0] == 0).all()
    wanted = value.float().mean(1, keepdim=True).expand(-1, 2, -1)
    torch.testing.assert_close(found[:, 1:].float(), wanted, atol=1e-2, rtol=1e-2)


def test_the_likelihood_is_that_of_a_poisson_without_zero():
    rate, counts = torch.tensor([8.0, 20.0]), torch.tensor([5.0, 30.0])
    poisson = torch.distributions.Poisson(rate)
    wanted = -(poisson.log_prob(counts) - torch.log1p(-torch.exp(-rate)))
    found = negative_log_likelihood(rate, counts, eps=0.0, approximate=True)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


# --- small checkpoints of the format, on the bundled cells -------------------------------------


@pytest.fixture(scope="module")
def bundled() -> ad.AnnData:
    adata = sl.datasets.load("pbmc68k")
    adata = adata[:: adata.n_obs // 20].copy()
    adata.obs["assay"] = ["10x 3' v2", "something else"] * (adata.n_obs // 2) + ["10x 3' v2"] * (adata.n_obs % 2)
    return adata


def human_ids(adata: ad.AnnData) -> list[str]:
    return sorted(set(adata.var["ensembl_id"].astype(str)[adata.var["ensembl_id"].astype(str).str.startswith("ENSG")]))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, bundled: ad.AnnData) -> Path:
    return write_tf(tmp_path_factory.mktemp("tf") / "tf", {"homo_sapiens_gene.h5": human_ids(bundled)[10:]})


@pytest.fixture(scope="module")
def model(written: Path) -> TranscriptFormer:
    return sl.load_model(written, device="cpu", precision="float32")


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tf"))


def test_sizes_and_licence_are_told(model):
    spec = model.spec
    assert (spec.layers, spec.heads, spec.feed_forward, spec.width, spec.max_length) == (2, 3, 40, 24, 511)
    assert (spec.organisms, spec.licence, spec.genes) == (("human",), "MIT", "ensembl")


VARIANTS = {
    "biases": {"attn_bias": True, "fw_bias": True},
    "no cap": {"softcap": 0},
    "rectified": {"activation": "relu", "mu_link_fn": "softplus"},
    "no labels": {"assays": None, "aux_len": 0},
    "no gene head": {"loss": {"gene_id_loss_weight": 0.0}},
    "short": {"seq_len": 63},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_options_of_the_format(tmp_path, bundled, name):
    folder = write_tf(tmp_path / "tf", {"homo_sapiens_gene.h5": human_ids(bundled)}, **VARIANTS[name])
    model = sl.load_model(folder, device="cpu", precision="float32")
    tokens = model.tokenize(bundled)
    vectors = model.encode(tokens).cell
    assert np.isfinite(vectors).all()
    assert tokens.lengths.max() <= model.spec.max_length
    np.testing.assert_allclose(model.encode(tokens, batch_size=3).cell, vectors, atol=1e-5)
    assert np.isfinite(model.likelihoods(tokens).llh).all()
    if name == "no gene head":
        with pytest.raises(ModelError, match="no gene-id head"):
            model.gene_logits(tokens)


def test_a_configuration_without_the_width_of_the_gene_head_means_the_references(tmp_path):
    written = write_tf(tmp_path / "t", {"homo_sapiens_gene.h5": ["ENSG00000000003"]}, gene_head_hidden_dim=2048)
    config = json.loads((written / "config.json").read_text())
    del config["model"]["model_config"]["gene_head_hidden_dim"]
    (written / "config.json").write_text(json.dumps(config))
    opened = sl.load_model(written, device="cpu", precision="float32")
    assert opened.gene_head.layers[0].out_features == 2048


def test_several_species_in_the_order_of_the_configuration(tmp_path, bundled):
    ids = human_ids(bundled)
    mouse = [f"ENSMUSG{i:011d}" for i in range(40)]
    species = {
        "mus_musculus_gene.h5": mouse + ids[:5],
        "drosophila_melanogaster_gene.pkl": ["FBgn0000001"],
        "homo_sapiens_gene.h5": ids,
    }
    model = sl.load_model(write_tf(tmp_path / "tf", species), device="cpu", precision="float32")
    assert model.spec.organisms == ("mouse", "drosophila melanogaster", "human")
    # Doubled names keep their first place; genes follow the seven special tokens.
    assert list(model.vocabulary.ensembl[:46]) == [*mouse, *ids[:5], "FBgn0000001"]
    assert len(model.vocabulary) == 41 + len(ids)
    fly = ad.AnnData(np.array([[3.0], [1.0]], np.float32))
    fly.var["ensembl_id"] = ["FBgn0000001.2"]
    np.testing.assert_array_equal(model.tokenize(fly).ids, [7 + 45, 7 + 45])


def test_the_order_of_columns_is_input_and_can_be_taken_from_the_vocabulary(model, bundled):
    order = np.random.default_rng(0).permutation(bundled.n_vars)
    turned = bundled[:, order].copy()
    one, other = (model.encode(model.tokenize(a)).cell for a in (bundled, turned))
    assert np.abs(one - other).max() > 1e-3
    options = {"gene_order": "vocabulary"}
    one, other = (model.encode(model.tokenize(a, options=options)).cell for a in (bundled, turned))
    np.testing.assert_array_equal(one, other)


def test_genes_sorted_shuffled_scaled_and_clipped(model, bundled):
    plain = model.tokenize(bundled, options={"clip_counts": None})
    by_count = model.tokenize(bundled, options={"sort_genes": True, "clip_counts": None})
    shuffled = model.tokenize(bundled, options={"randomize_genes": True, "clip_counts": None})
    scaled = model.tokenize(bundled, options={"normalize_to_scale": 100, "clip_counts": None})
    clipped = model.tokenize(bundled, options={"clip_counts": 2})
    for cell in range(len(plain)):
        own = slice(plain.offsets[cell], plain.offsets[cell + 1])
        assert (np.diff(by_count.values[own]) <= 0).all()
        for other in (by_count, shuffled):
            assert sorted(other.ids[own]) == sorted(plain.ids[own])
        assert scaled.values[own].sum() == pytest.approx(100, rel=1e-5)
        np.testing.assert_array_equal(clipped.values[own], np.minimum(plain.values[own], 2))
    assert not np.array_equal(shuffled.ids, plain.ids)
    order = np.random.default_rng(1).permutation(bundled.n_obs)
    again = model.tokenize(bundled[order].copy(), options={"randomize_genes": True, "clip_counts": None})
    np.testing.assert_array_equal(again.ids, shuffled.take(order).ids)


def test_assays_come_from_obs_or_from_an_option(model, bundled):
    tokens = model.tokenize(bundled)
    np.testing.assert_array_equal(tokens.cell["assay"] == 1, bundled.obs["assay"] == "10x 3' v2")
    assert (tokens.cell["assay"][bundled.obs["assay"] != "10x 3' v2"] == 0).all()
    given = model.tokenize(bundled, options={"assay": "10x 3' v3"})
    assert (given.cell["assay"] == 2).all()
    assert model.remarks(given) == []
    without = bundled.copy()
    del without.obs["assay"]
    assert (model.tokenize(without).cell["assay"] == 0).all()
    assert (
        f"{bundled.n_obs} of {bundled.n_obs} cells have no assay" in sl.embed(without, model, progress=False).summary()
    )
    with pytest.raises(DataError, match="Did you mean"):
        model.tokenize(bundled, options={"assay": "10x 3 v3"})


def test_pooling_by_the_mean_divides_by_what_is_read(model, bundled):
    tokens = model.tokenize(bundled)
    published, mean = model.encode(tokens).cell, model.encode(tokens, pooling="mean").cell
    read = (tokens.cell["n_inputs"] + 1)[:, None]
    np.testing.assert_allclose(published * 511, mean * read, rtol=1e-4, atol=1e-4)


def test_silent_cells_are_nan_and_cells_with_few_genes_can_be_left_out(model, bundled):
    adata = bundled[:4].copy()
    counts = adata.X.tolil()
    counts[1] = 0
    adata.X = counts.tocsr()
    result = sl.embed(adata, model, progress=False)
    assert np.isnan(result.vectors[1]).all()
    assert np.isfinite(result.vectors[[0, 2, 3]]).all()
    tokens = model.tokenize(adata)
    likelihoods = model.likelihoods(tokens)
    np.testing.assert_array_equal(np.isnan(likelihoods.llh), [False, True, False, False])
    genes = tokens.genes_seen
    few = int(np.sort(genes)[2])
    strict = model.tokenize(adata, options={"min_expressed_genes": few})
    np.testing.assert_array_equal(strict.genes_seen > 0, genes >= few)
    np.testing.assert_array_equal(strict.cell["left_out"], (genes > 0) & (genes < few))


# --- perturbations ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, bundled: ad.AnnData) -> TranscriptFormer:
    """A model that reads fewer genes than most cells express."""
    folder = write_tf(tmp_path_factory.mktemp("short") / "tf", {"homo_sapiens_gene.h5": human_ids(bundled)}, seq_len=63)
    return sl.load_model(folder, device="cpu", precision="float32")


@pytest.mark.parametrize(
    "options", [{}, {"sort_genes": True}, {"normalize_to_scale": 1000.0}], ids=["columns", "sorted", "scaled"]
)
@pytest.mark.parametrize("dose", [0.0, 3.0])
def test_a_perturbed_copy_of_a_cut_cell_differs_in_the_perturbed_gene_alone(short, bundled, dose, options):
    cells = Cells.from_anndata(bundled)
    options = options | {"clip_counts": None}
    before = short.tokenize(cells, options=options)
    full = np.flatnonzero(before.lengths == 63)
    assert len(full) > 3
    match = short.match(cells.genes)
    for column in match.columns[::60]:
        gene = 7 + int(match.ids[list(match.columns).index(column)])
        after = short.tokenize(perturb_counts(cells, {int(column): dose}), options=options)
        for cell in range(len(cells)):
            was = dict(
                zip(
                    *(part[before.offsets[cell] : before.offsets[cell + 1]] for part in (before.ids, before.values)),
                    strict=True,
                )
            )
            now = dict(
                zip(
                    *(part[after.offsets[cell] : after.offsets[cell + 1]] for part in (after.ids, after.values)),
                    strict=True,
                )
            )
            was.pop(gene, None)
            now.pop(gene, None)
            assert was == now
        # The last gene of a full cell is predicted and not read; it is no more read in the copy.
        for cell in full:
            last = before.ids[before.offsets[cell + 1] - 1]
            read = after.ids[after.offsets[cell] : after.offsets[cell] + after.cell["n_inputs"][cell]]
            assert last not in read or last == gene


def test_a_gene_that_comes_in_addition_is_read(short, bundled):
    cells = Cells.from_anndata(bundled)
    full = int(np.flatnonzero(short.tokenize(cells).lengths == 63)[0])
    one = cells.take(np.array([full]))
    match = short.match(cells.genes)
    silent = next(int(c) for c in match.columns if one.counts[0, int(c)] == 0)
    changed = one.counts.tolil()
    changed[0, silent] = 5
    before, after = short.tokenize(one), short.tokenize(one.with_counts(changed.tocsr().astype(np.float32)))
    assert (before.lengths[0], after.lengths[0]) == (63, 64)
    assert after.cell["n_inputs"][0] == before.cell["n_inputs"][0] + 1
    assert np.abs(short.encode(after).cell - short.encode(before).cell).max() > 0


def test_genes_beyond_the_cut_change_nothing(short, bundled):
    cells = Cells.from_anndata(bundled)
    before = short.encode(short.tokenize(cells)).cell
    last = int(short.match(cells.genes).columns[-1])
    after = short.encode(short.tokenize(perturb_counts(cells, {last: 0.0}))).cell
    cut = short.tokenize(cells).cell["truncated"]
    np.testing.assert_allclose(after[cut], before[cut], atol=1e-6)


# --- genes ------------------------------------------------------------------------------------


def test_symbols_are_translated_and_mouse_genes_on_request(model, bundled):
    symbols = bundled.copy()
    symbols.var = symbols.var[[]]
    match = model.match(Cells.from_anndata(symbols).genes)
    assert match.how["symbol translated to an Ensembl id"] > 0.7 * bundled.n_vars
    mouse = symbols.copy()
    mouse.var_names = [name.title() for name in symbols.var_names]
    mouse.uns["organism"] = "mouse"
    with pytest.raises(GenesError, match="'orthologs': True"):
        model.tokenize(mouse)
    tokens = model.tokenize(mouse, options={"orthologs": True})
    assert (tokens.genes_seen > 0).mean() > 0.9
    result = sl.embed(mouse, model, options={"orthologs": True}, progress=False)
    assert result.audit.how["one-to-one mouse ortholog"] == result.audit.genes_matched


def test_mouse_symbols_are_translated_for_a_model_with_mouse(tmp_path, bundled):
    names = list(mouse_ids().items())[:40]
    species = {"homo_sapiens_gene.h5": human_ids(bundled)[:20], "mus_musculus_gene.h5": [e for _, e in names[:30]]}
    model = sl.load_model(write_tf(tmp_path / "tf", species), device="cpu", precision="float32")
    mouse = ad.AnnData(np.ones((2, 40), np.float32), uns={"organism": "mouse"})
    mouse.var_names = [symbol for symbol, _ in names]
    match = model.known_genes(Cells.from_anndata(mouse).genes)
    assert model.vocabulary.ensembl[match.ids].tolist() == species["mus_musculus_gene.h5"]
    assert match.how["symbol translated to an Ensembl id"] == 30
    assert (model.tokenize(mouse).genes_seen == 30).all()
    # An id that the model does not know is not read by its symbol, and no option is advised that is not offered.
    mouse.var["ensembl_id"] = [f"ENSMUSG{i:011d}" for i in range(40)]
    with pytest.raises(GenesError, match="None of the 40 genes") as caught:
        model.tokenize(mouse)
    assert "orthologs" not in str(caught.value)


def test_columns_of_one_gene_are_summed(model, bundled):
    twice = bundled[:3].copy()
    twice.var["ensembl_id"] = twice.var["ensembl_id"].astype(str)
    known = [i for i, e in enumerate(twice.var["ensembl_id"]) if e in set(model.vocabulary.ensembl)][:2]
    ids = twice.var["ensembl_id"].to_numpy().copy()
    ids[known[1]] = ids[known[0]] + ".7"
    twice.var["ensembl_id"] = ids
    tokens = model.tokenize(twice, options={"clip_counts": None})
    for cell in range(3):
        own = slice(tokens.offsets[cell], tokens.offsets[cell + 1])
        assert len(set(tokens.ids[own])) == tokens.lengths[cell]
    assert model.match(Cells.from_anndata(twice).genes).doubled == 1


# --- species outside the training set ----------------------------------------------------------


def test_surgery_as_the_reference_and_corrected(written, tmp_path, bundled):
    """The reference reads its padding, and begins with the vector of [END]; corrected, neither."""
    new = write_vectors(tmp_path / "danio_rerio_gene.h5", human_ids(bundled)[:300], 10, seed=9)
    files = {"pretrained_embedding": new}
    like, right = (
        sl.load_model(written, device="cpu", precision="float32", files=files, config={"surgery": s})
        for s in ("reference", "corrected")
    )
    assert like.spec.organisms == ("danio rerio",)
    assert (like.ids.start, like.ids.pad, like.ids.hidden) == (2, 5, 1)
    assert (right.ids.start, right.ids.pad, right.ids.hidden) == (1, 5, 5)
    for model, mode in ((like, "reference"), (right, "corrected")):
        assert f"embedding surgery: {mode}" in model.spec.determinism
        assert sl.embed(bundled.copy(), model, progress=False).provenance["options"]["surgery"] == mode
    tokens = like.tokenize(bundled)
    assert (tokens.lengths == 511).all()
    assert np.abs(like.encode(tokens).cell - right.encode(right.tokenize(bundled)).cell).max() > 1e-3
    assert len({like.digest, right.digest, sl.load_model(written, device="cpu", precision="float32").digest}) == 3
    # Special tokens keep their trained vectors under new numbers.
    old = read_torch(written / "model_weights.pt")[TABLE]
    trained = [SPECIALS.index(name) for name in ("unknown", "[START]", "[END]", "[RD]", "[CELL]", "[PAD]", "[MASK]")]
    np.testing.assert_array_equal(like.table.take(np.arange(7)).numpy(), old[trained].numpy())
    assert np.isfinite(like.likelihoods(tokens.take(np.arange(2))).llh).all()
    with pytest.raises(ModelError, match="count head"):
        right.likelihoods(right.tokenize(bundled))


def test_surgery_with_a_padding_that_it_does_not_know_is_refused(copied, tmp_path, bundled):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["data_config"] |= {"special_tokens": [*SPECIALS[:-1], "[FILL]"], "gene_pad_token": "[FILL]"}
    (copied / "config.json").write_text(json.dumps(config))
    assert sl.load_model(copied, device="cpu", precision="float32").ids.pad == 6
    new = write_vectors(tmp_path / "danio_rerio_gene.h5", human_ids(bundled)[:5], 10)
    assert "'[FILL]'" in refused(copied, files={"pretrained_embedding": new})


def test_surgery_with_more_genes_than_trained_embeds_and_has_no_likelihoods(written, tmp_path, bundled):
    names = [f"ENSG{i:011d}" for i in range(800)] + human_ids(bundled)[:200]
    model = sl.load_model(
        written,
        device="cpu",
        precision="float32",
        files={"pretrained_embedding": write_vectors(tmp_path / "x_gene.h5", names, 10)},
    )
    tokens = model.tokenize(bundled[:2].copy())
    assert np.isfinite(model.encode(tokens).cell).all()
    with pytest.raises(ModelError, match="count head"):
        model.likelihoods(tokens)


# --- files that must be refused ----------------------------------------------------------------


def refused(folder: Path, **kwargs: Any) -> str:
    with pytest.raises(ModelError) as caught:
        sl.load_model(folder, device="cpu", precision="float32", **kwargs)
    return str(caught.value)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    path = folder / "model_weights.pt"
    tensors = {name: value.clone() for name, value in read_torch(path).items()}
    path.unlink()
    torch.save(change(tensors), path)
    return folder


def poisoned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors["mu.mlp.layers.0.weight"][0, 0] = float("inf")
    return tensors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "linear2" not in k},
            "missing transformer_encoder.encoder_layers.0.linear2",
        ),
        (lambda t: t | {"extra": torch.zeros(2)}, "unknown extra"),
        (lambda t: t | {"mu.gene_embedding.weight": torch.zeros(3, 1)}, "mu.gene_embedding.weight is (3, 1)"),
        (poisoned, "NaN or infinite values in 'mu.mlp.layers.0.weight'"),
        (lambda t: t | {TABLE: t[TABLE][:-1]}, "do not belong together"),
        (lambda t: {"encoder.weight": t[TABLE]}, "holds no TranscriptFormer"),
        (lambda t: t[TABLE], "not a state dict"),
    ],
    ids=["missing", "extra", "shape", "infinite", "vocabulary", "other family", "no dict"],
)
def test_weights_that_do_not_fit_are_refused_by_name(copied, change, said):
    assert said in refused(rewritten(copied, change))


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("num_layers", 3, "missing transformer_encoder.encoder_layers.2"),
        ("num_layers", 10**9, "num_layers = 1,000,000,000, the weights in"),
        ("embed_dim", 48, "not (48"),
        ("num_heads", 7, "cannot be divided"),
        ("embed_dim", "wide", "makes no sense"),
        ("mu_link_fn", "sinus", "known are"),
        ("activation", "swoosh", "activation"),
        ("num_layers", None, "does not say num_layers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(copied, entry, value, said):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["model_config"][entry] = value
    (copied / "config.json").write_text(json.dumps(config))
    assert said in refused(copied)


@pytest.mark.parametrize(
    "name", ["model_weights.pt", "config.json", "vocabs", "vocabs/homo_sapiens_gene.h5", "vocabs/assay_vocab.json"]
)
def test_a_missing_file_is_named(copied, name):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert Path(name).name in refused(copied)


@pytest.mark.parametrize(
    "name", ["model_weights.pt", "config.json", "vocabs/homo_sapiens_gene.h5", "vocabs/assay_vocab.json"]
)
def test_truncated_files_are_refused(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    assert Path(name).name in refused(copied)


@pytest.mark.parametrize("signature", [b"TREE", b"SNOD", b"HEAP"])
def test_a_vocabulary_that_is_damaged_inside_is_refused(copied, signature):
    path = copied / "vocabs" / "homo_sapiens_gene.h5"
    content = bytearray(path.read_bytes())
    content[content.rindex(signature)] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refused(copied)


@pytest.mark.parametrize(
    "name",
    [
        "gene_embeddings.mlp.layers.0.bias",
        "transformer_encoder.encoder_layers.0.linear1.weight",
        "gene_id_head.layers.0.bias",
    ],
)
def test_a_single_number_in_a_tensors_place_is_refused_by_name(copied, name):
    assert f"{name} is (), not (" in refused(rewritten(copied, lambda t: t | {name: torch.tensor(1.0)}))


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_code_in_files_is_named_and_never_run(copied, tmp_path, bundled):
    mark = tmp_path / "ran"
    (tmp_path / "x_gene.pkl").write_bytes(pickle.dumps({"ENSG1": Hostile(mark)}))
    assert "code" in refused(copied, files={"pretrained_embedding": tmp_path / "x_gene.pkl"})
    torch.save({TABLE: Hostile(mark)}, copied / "model_weights.pt")
    assert "code" in refused(copied)
    assert not mark.exists()


def test_vectors_of_another_width_or_with_nan_are_refused(written, tmp_path):
    wide = write_vectors(tmp_path / "wide_gene.h5", ["ENSG00000000001"], 11)
    assert "reads 10 numbers" in refused(written, files={"pretrained_embedding": wide})
    (tmp_path / "nan_gene.pkl").write_bytes(pickle.dumps({"ENSG1": np.full(10, np.nan, np.float32)}))
    assert "'ENSG1' holds NaN" in refused(written, files={"pretrained_embedding": tmp_path / "nan_gene.pkl"})
    assert "is not there" in refused(written, files={"pretrained_embedding": tmp_path / "no_gene.h5"})
    narrow = write_vectors(tmp_path / "x_gene.h5", ["ENSG00000000001"], 10)
    assert "must be one of reference, corrected" in refused(
        written, files={"pretrained_embedding": narrow}, config={"surgery": "plastic"}
    )


def test_unknown_settings_and_files_are_refused(written):
    assert "Did you mean 'softcap'" in refused(written, config={"soft_cap": 3})
    assert "Did you mean 'vocabs'" in refused(written, files={"vocab": "x"})
    assert (
        sl.load_model(written, device="cpu", precision="float32", config={"clip_counts": 5})
        .spec.options["clip_counts"]
        .default
        == 5
    )
