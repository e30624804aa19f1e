"""scGPT: agreement with the reference's outputs, and small checkpoints of the format in every checkout."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.errors import GenesError, ModelError
from scfm_lab.models.published import TRANSLATED_ENSEMBL
from scfm_lab.models.scgpt import ScGPT
from scfm_lab.models.scgpt_bins import bin_interval, preprocessor_bins, quantile_edges

if TYPE_CHECKING:
    from pathlib import Path

# --- against the reference -------------------------------------------------------------


class Fixture:
    """Reference outputs, and the checkpoint and cells they were made from."""

    def __init__(self, golden: Path) -> None:
        self.folder = golden / "scgpt"
        self.about = json.loads((self.folder / "fixture.json").read_text())
        self.expected = np.load(self.folder / "expected.npz")
        self.cells = ad.read_h5ad(self.folder / self.about["cells"])
        self.tolerance = self.about["tolerances"]
        self.model = sl.load_model(self.folder / "checkpoint", device="cpu", precision="float32")

    def tokens(self, case: str, **options):
        setup = self.about["cases"][case]
        chosen = {"max_length": setup["max_length"], **options}
        return self.model.tokenize(self.cells, options=chosen, seed=setup["rng_seed"])


@pytest.fixture(scope="module")
def fixture(golden: Path) -> Fixture:
    return Fixture(golden)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["full", "trunc"])
def test_the_references_stream_gives_its_tokens_and_vectors(fixture, case):
    tokens = fixture.tokens(case, like_reference=True)
    z = fixture.expected
    np.testing.assert_array_equal(tokens.ids, z[f"{case}.token_ids"])
    np.testing.assert_array_equal(tokens.values, z[f"{case}.token_values"])
    np.testing.assert_array_equal(tokens.offsets, z[f"{case}.offsets"])
    raw = fixture.model.encode(tokens, pooling="cls_raw").cell
    np.testing.assert_allclose(raw, z[f"{case}.cell_emb_raw"], atol=fixture.tolerance["hidden_atol"])
    cell = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(cell, z[f"{case}.cell_emb"], atol=fixture.tolerance["cell_emb_atol"])
    assert (cell * z[f"{case}.cell_emb"]).sum(axis=1).min() >= 0.99999
    truncated = tokens.cell["truncated"].sum()
    assert truncated == fixture.about["cases"][case].get("n_cells_sampled", 0)
    few = tokens.take(np.arange(3))
    np.testing.assert_allclose(
        fixture.model.encode(few).cell, z[f"{case}.cell_emb"][:3], atol=fixture.tolerance["cell_emb_atol"]
    )


@pytest.mark.golden
def test_by_default_the_same_genes_in_the_same_order_with_bins_the_reference_could_have_drawn(fixture):
    z = fixture.expected
    tokens = fixture.tokens("full")
    np.testing.assert_array_equal(tokens.ids, z["full.token_ids"])
    np.testing.assert_array_equal(tokens.offsets, z["full.offsets"])
    genes = np.ones(len(tokens.ids), dtype=bool)
    genes[tokens.offsets[:-1]] = False
    bins, low, high = tokens.values[genes], z["full.bin_lo"], z["full.bin_hi"]
    assert ((bins == high) | ((low < bins) & (bins <= high))).all()
    # A draw and no fixed place in the interval: means over many draws are the middle.
    tied = high - low >= 4
    place = (bins[tied] - low[tied]) / (high[tied] - low[tied] + 1)
    assert abs(place.mean() - 0.5) < 0.01
    assert np.std(place) > 0.2


@pytest.mark.golden
def test_states_layers_and_decoders(fixture):
    z, model, tolerance = fixture.expected, fixture.model, fixture.tolerance
    tokens = fixture.tokens("full", like_reference=True)
    for cell in z["detail.cells"]:
        one = tokens.take(np.array([cell]))
        states = model.encode(one, genes=True, pooling="cls_raw")
        np.testing.assert_allclose(states.genes, z[f"detail.{cell}.hidden_last"], atol=tolerance["hidden_atol"])
        values = model.decode_values(states.genes)
        np.testing.assert_allclose(values, z[f"detail.{cell}.mlm_output"], atol=tolerance["mlm_mvc_atol"])
        mvc = model.decode_cells(states.cell, one.ids)[0]
        np.testing.assert_allclose(mvc, z[f"detail.{cell}.mvc_output"], atol=tolerance["mlm_mvc_atol"])
        if f"detail.{cell}.layers" in z:
            for i, layer in enumerate(z[f"detail.{cell}.layers"]):
                found = model.encode(one, genes=True, hidden_layer=i + 1).genes
                np.testing.assert_allclose(found, layer, atol=tolerance["hidden_atol"])
            with torch.inference_mode():
                genes = model.net.encoder(torch.as_tensor(one.ids))
                value = model.net.value_encoder(torch.as_tensor(one.values))
            np.testing.assert_allclose(genes, z[f"detail.{cell}.gene_token_emb"], atol=tolerance["hidden_atol"])
            np.testing.assert_allclose(value, z[f"detail.{cell}.value_emb"], atol=tolerance["hidden_atol"])
            np.testing.assert_allclose(
                model.encode(one, genes=True, hidden_layer=0).genes, genes + value, atol=tolerance["hidden_atol"]
            )


@pytest.mark.golden
def test_gene_embeddings(fixture):
    ids, values = fixture.expected["gene_emb.ids"], fixture.expected["gene_emb.values"]
    table = fixture.model.gene_embeddings()
    symbols = fixture.model.vocabulary.symbols[ids]
    genes = symbols != ""
    assert (~genes).sum() == 3
    np.testing.assert_allclose(table.loc[symbols[genes]], values[genes], atol=fixture.tolerance["hidden_atol"])
    np.testing.assert_allclose(fixture.model.net.gene_table(ids), values, atol=fixture.tolerance["hidden_atol"])


@pytest.mark.golden
def test_the_preprocessors_bins(fixture):
    import scanpy as sc

    z, setup = fixture.expected, fixture.about["preproc10"]
    cells = fixture.cells[:10, z["preproc10.gene_index"]].copy()
    sc.pp.normalize_total(cells, target_sum=setup["normalize_total"])
    sc.pp.log1p(cells)
    x = cells.X.tocsr()
    lengths = np.diff(x.indptr)
    bins, edges = preprocessor_bins(x.data, lengths, n_bins=setup["n_bins"], seed=setup["rng_seed"])
    np.testing.assert_array_equal(np.repeat(np.arange(10), lengths), z["preproc10.rows"])
    np.testing.assert_array_equal(x.indices, z["preproc10.cols"])
    np.testing.assert_array_equal(bins, z["preproc10.binned"])
    np.testing.assert_allclose(edges, z["preproc10.bin_edges"], rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["best_model_in_proj.pt", "best_model_impl_prefix.pt"])
def test_published_names_of_attention_vary(fixture, name):
    beside = {kind: fixture.folder / "checkpoint" / f"{kind}.json" for kind in ("args", "vocab")}
    model = sl.load_model(fixture.folder / "variants" / name, device="cpu", precision="float32", files=beside)
    few = fixture.tokens("full", like_reference=True).take(np.arange(4))
    np.testing.assert_array_equal(model.encode(few).cell, fixture.model.encode(few).cell)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["full", "trunc"])
def test_the_default_is_as_near_to_a_draw_of_the_reference_as_another_draw(fixture, case):
    rows = np.arange(0, 80, 4)
    draws = []
    for seed in range(3):
        tokens = fixture.model.tokenize(
            fixture.cells,
            options={"like_reference": True, "max_length": fixture.about["cases"][case]["max_length"]},
            seed=seed,
        )
        draws.append(fixture.model.encode(tokens.take(rows)).cell)
    default = fixture.model.encode(fixture.tokens(case).take(rows)).cell
    among = np.mean([(a * b).sum(axis=1).mean() for i, a in enumerate(draws) for b in draws[:i]])
    to_default = np.mean([(default * draw).sum(axis=1).mean() for draw in draws])
    assert to_default >= among - 0.001


# --- the format, in every checkout -----------------------------------------------------


def plain_forward(folder: Path, tokens, style: str = "continuous", norm=None) -> np.ndarray:
    """Un-normalised <cls> states by PyTorch's own encoder, padded and masked, straight from the file's tensors."""
    args = json.loads((folder / "args.json").read_text())
    w = torch.load(folder / "best_model.pt", weights_only=True)  # noqa: TID251
    d = args["embsize"]
    layer = torch.nn.TransformerEncoderLayer(d, args["nheads"], args["d_hid"], batch_first=True, activation="relu")
    encoder = torch.nn.TransformerEncoder(layer, args["nlayers"], enable_nested_tensor=False).eval()
    state = {
        k.removeprefix("transformer_encoder.").replace("Wqkv.", "in_proj_"): v
        for k, v in w.items()
        if k.startswith("transformer_encoder.")
    }
    encoder.load_state_dict(state)

    def norm_of(x, name):
        return torch.nn.functional.layer_norm(x, (d,), w[f"{name}.weight"], w[f"{name}.bias"])

    longest = tokens.lengths.max()
    ids = torch.zeros((len(tokens), longest), dtype=torch.long)
    values = torch.zeros((len(tokens), longest))
    pad = torch.ones((len(tokens), longest), dtype=torch.bool)
    for i, (a, b) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        ids[i, : b - a] = torch.as_tensor(tokens.ids[a:b])
        values[i, : b - a] = torch.as_tensor(tokens.values[a:b])
        pad[i, : b - a] = False
    genes = norm_of(w["encoder.embedding.weight"][ids], "encoder.enc_norm")
    if style == "scaling":
        total = genes * values.unsqueeze(-1)
    elif style == "category":
        total = genes + norm_of(w["value_encoder.embedding.weight"][values.long()], "value_encoder.enc_norm")
    else:
        x = torch.relu(values.unsqueeze(-1) @ w["value_encoder.linear1.weight"].T + w["value_encoder.linear1.bias"])
        x = x @ w["value_encoder.linear2.weight"].T + w["value_encoder.linear2.bias"]
        total = genes + norm_of(x, "value_encoder.norm")
    if norm is not None:
        total = torch.nn.functional.batch_norm(
            total.flatten(0, 1),
            *(w.get(f"{norm}.{n}") for n in ("running_mean", "running_var", "weight", "bias")),
            eps=6.1e-5,
        ).unflatten(0, ids.shape)
    with torch.inference_mode():
        return encoder(total, src_key_padding_mask=pad)[:, 0].numpy()


@pytest.fixture
def small(write_scgpt, tmp_path):
    return sl.load_model(write_scgpt(tmp_path / "small"), device="cpu", precision="float32")


@pytest.mark.parametrize(
    ("style", "sizes"),
    [
        ("continuous", {}),
        ("continuous", {"d": 32, "heads": 1, "f": 16, "layers": 4, "seed": 3}),
        ("category", {}),
        ("scaling", {}),
    ],
)
def test_sizes_and_styles(write_scgpt, tmp_path, pbmc68k, style, sizes):
    folder = write_scgpt(tmp_path / "c", style=style, **sizes)
    model = sl.load_model(folder, device="cpu", precision="float32")
    assert model.family == "scgpt"
    tokens = model.tokenize(pbmc68k[:40])
    found = model.encode(tokens, pooling="cls_raw").cell
    np.testing.assert_allclose(found, plain_forward(folder, tokens, style), atol=1e-5)


def renamed(how):
    def change(tensors):
        return {how(name): tensor for name, tensor in tensors.items()}

    return change


@pytest.mark.parametrize(
    "how",
    [
        lambda n: n.replace("Wqkv.", "in_proj_"),
        lambda n: n.replace("self_attn.", "self_attn._impl."),
        lambda n: "module." + n,
        lambda n: "module." + n.replace("self_attn.", "self_attn._impl."),
    ],
    ids=["in_proj", "impl", "module", "module and impl"],
)
def test_names_of_attention(write_scgpt, tmp_path, pbmc68k, small, how):
    other = sl.load_model(write_scgpt(tmp_path / "other", change=renamed(how)), device="cpu", precision="float32")
    tokens = small.tokenize(pbmc68k[:20])
    np.testing.assert_array_equal(other.encode(tokens).cell, small.encode(tokens).cell)


def test_heads_of_fine_tuning_are_known_and_left_aside(write_scgpt, tmp_path, pbmc68k, small):
    def add(tensors):
        d = 24
        extra = {f"cls_decoder._decoder.{i}.weight": torch.ones(d, d) for i in (0, 3)}
        extra |= {f"cls_decoder._decoder.{i}.bias": torch.ones(d) for i in (2, 5)}
        extra |= {"cls_decoder.out_layer.weight": torch.ones(7, d), "pert_encoder.embedding.weight": torch.ones(3, d)}
        extra |= {
            "batch_encoder.embedding.weight": torch.ones(2, d),
            "mvc_decoder.W_zero_logit.weight": torch.ones(d, d),
        }
        extra |= {f"dsbn.bns.{k}.running_mean": torch.ones(d) for k in (0, 1)}
        extra |= {f"dsbn.bns.{k}.running_var": torch.full((d,), 2.0) for k in (0, 1)}
        extra |= {f"dsbn.bns.{k}.num_batches_tracked": torch.tensor(9) for k in (0, 1)}
        return {**tensors, **extra}

    folder = write_scgpt(tmp_path / "tuned", change=add)
    tuned = sl.load_model(folder, device="cpu", precision="float32")
    assert "cls_decoder.out_layer.weight" in tuned.aside
    plain = small.encode(small.tokenize(pbmc68k[:20]))
    np.testing.assert_array_equal(tuned.encode(tuned.tokenize(pbmc68k[:20])).cell, plain.cell)
    tokens = tuned.tokenize(pbmc68k[:20], options={"domain": 1})
    expected = plain_forward(folder, tokens, norm="dsbn.bns.1")
    np.testing.assert_allclose(tuned.encode(tokens, pooling="cls_raw").cell, expected, atol=1e-5)
    with pytest.raises(ModelError, match="batches 0 to 1"):
        tuned.tokenize(pbmc68k[:2], options={"domain": 2})


def test_files_of_models_of_perturbations(write_scgpt, tmp_path, pbmc68k, small):
    def change(tensors):
        rest = {name: value for name, value in tensors.items() if not name.startswith("decoder.")}
        value = {name.removeprefix("decoder."): v for name, v in tensors.items() if name.startswith("decoder.fc.")}
        affine = {f"decoder.{part}_decoder.{name}": v for part in ("coeff", "bias") for name, v in value.items()}
        return {**rest, **affine, "pert_encoder.weight": torch.ones(3, 24)}

    tuned = sl.load_model(write_scgpt(tmp_path / "tuned", change=change), device="cpu", precision="float32")
    tokens = small.tokenize(pbmc68k[:3])
    np.testing.assert_array_equal(tuned.encode(tokens).cell, small.encode(tokens).cell)
    with pytest.raises(ModelError, match="no value decoder"):
        tuned.decode_values(tuned.encode(tokens, genes=True).genes)


@pytest.mark.parametrize("batches", [1, 2])
def test_normalisations_of_batches_are_applied_or_told(write_scgpt, tmp_path, pbmc68k, batches):
    def add(tensors):
        extra = {f"dsbn.bns.{k}.running_mean": torch.ones(24) for k in range(batches)}
        return {**tensors, **extra, **{f"dsbn.bns.{k}.running_var": torch.full((24,), 2.0) for k in range(batches)}}

    folder = write_scgpt(tmp_path / "tuned", change=add)
    model = sl.load_model(folder, device="cpu", precision="float32")
    tokens = model.tokenize(pbmc68k[:3])
    found = model.encode(tokens, pooling="cls_raw").cell
    expected = plain_forward(folder, tokens, norm="dsbn.bns.0" if batches == 1 else None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    words = "normalisations of 2 batches, and none was applied; options={'domain': k}"
    assert (words in sl.embed(pbmc68k[:3].copy(), model, progress=False).summary()) == (batches == 2)
    named = sl.embed(pbmc68k[:3].copy(), model, options={"domain": 0}, progress=False)
    assert "normalisations" not in named.summary()


def test_a_seed_that_numpy_does_not_take_and_the_column_of_symbols(small, pbmc68k):
    few = pbmc68k[:2].copy()
    for seed in (-1, 1 << 32):
        with pytest.raises(ModelError, match=r"seed is .* between 0 and 4,294,967,295"):
            small.tokenize(few, options={"like_reference": True}, seed=seed)
    few.var["feature_name"] = few.var_names[::-1]
    ids = small.tokenize(few).ids
    np.testing.assert_array_equal(small.tokenize(few, options={"gene_column": "feature_name"}).ids, ids)
    assert not np.array_equal(small.tokenize(few, options={"gene_column": "index"}).ids, ids)
    with pytest.raises(GenesError, match="gene_column is 'nothing'"):
        small.tokenize(few, options={"gene_column": "nothing"})


def test_batch_normalisation_of_a_fine_tuned_file(write_scgpt, tmp_path, pbmc68k):
    def add(tensors):
        from torch import Generator

        random = Generator().manual_seed(4)
        new = {
            f"bn.{n}": torch.rand(24, generator=random) + 0.5 for n in ("weight", "bias", "running_mean", "running_var")
        }
        return {**tensors, **new, "bn.num_batches_tracked": torch.tensor(5)}

    folder = write_scgpt(tmp_path / "bn", change=add)
    model = sl.load_model(folder, device="cpu", precision="float32")
    tokens = model.tokenize(pbmc68k[:20])
    found = model.encode(tokens, pooling="cls_raw").cell
    np.testing.assert_allclose(found, plain_forward(folder, tokens, norm="bn"), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_bins_are_numpys_quantiles(seed):
    random = np.random.default_rng(seed)
    lengths = np.concatenate([[0, 1, 2], random.integers(1, 900, 60)])
    values = np.where(
        random.random(lengths.sum()) < 0.5, random.geometric(0.6, lengths.sum()), random.gamma(1, 90, lengths.sum())
    )
    values = values.astype(np.float32)
    edges = quantile_edges(values, lengths)
    low, high = bin_interval(values, lengths, edges)
    begin = 0
    for row, n in enumerate(lengths):
        mine = values[begin : begin + n]
        if n:
            expected = np.quantile(mine, np.linspace(0, 1, 50))
            np.testing.assert_array_equal(edges[row], expected)
            np.testing.assert_array_equal(high[begin : begin + n], np.digitize(mine, expected))
            np.testing.assert_array_equal(low[begin : begin + n], np.digitize(mine, expected, right=True))
        begin += n


def test_a_perturbed_copy_differs_in_the_perturbed_gene_and_nowhere_else(small, pbmc68k):
    cells = Cells.from_anndata(pbmc68k)
    options = {"max_length": 250}
    before = small.tokenize(cells, options=options)
    assert before.cell["truncated"].any()
    assert not before.cell["truncated"].all()
    known = small.match(cells.genes).columns
    gene = known[np.argmax((cells.counts[:, known] > 0).sum(axis=0))]
    token = small.match(cells.genes).ids[list(known).index(gene)]
    for new in (0.0, 9.0):
        counts = cells.counts.tolil()
        counts[:, gene] = new
        after = small.tokenize(cells.with_counts(counts.tocsr().astype(np.float32)), options=options)
        for i in range(len(before)):
            a, b = before.take(np.array([i])), after.take(np.array([i]))
            others = dict(zip(a.ids[a.ids != token], a.values[a.ids != token], strict=True))
            assert others == dict(zip(b.ids[b.ids != token], b.values[b.ids != token], strict=True))
        if new:
            assert (after.ids == token).sum() >= (before.ids == token).sum()
        else:
            assert (after.ids != token).all()


def test_doses_move_cells_by_degrees(small, pbmc68k):
    some = pbmc68k[::10].copy()
    gene = str(pbmc68k.var_names[100 + np.argmax((pbmc68k.X[:, 100:] > 2).sum(axis=0))])
    shift = [
        float(np.nanmean(sl.perturb(some, small, {gene: dose}, null=False, progress=False, n_draws=4).shift))
        for dose in (0.0, 0.4, 0.8, 1.0)
    ]
    assert shift[0] > shift[1] > shift[2] > shift[3] == 0


def test_like_reference_cannot_measure_a_perturbation(small, pbmc68k):
    gene = str(pbmc68k.var_names[100])
    with pytest.raises(ModelError, match="could not be told from chance"):
        sl.perturb(
            pbmc68k[:40].copy(), small, {gene: 0.0}, options={"like_reference": True}, null=False, progress=False
        )


def test_what_is_cut_is_told(small, pbmc68k):
    result = sl.embed(pbmc68k, small, options={"max_length": 250}, progress=False)
    assert result.provenance["cells_truncated"] > 0
    assert 0 < result.provenance["counts_truncated"] < 1
    assert "left out" in result.summary()
    whole = small.tokenize(pbmc68k)
    cut = small.tokenize(pbmc68k, options={"max_length": 250})
    assert cut.lengths.max() == 250
    counts = whole.lengths - 1
    np.testing.assert_array_equal(cut.cell["truncated"], counts > 249)
    assert ((cut.cell["share_truncated"] > 0) == (counts > 249)).all()
    assert (cut.ids[cut.offsets[:-1]] == small.specials["<cls>"]).all()


def test_seeds_decide_bins_and_nothing_else(small, pbmc68k):
    one, two = small.tokenize(pbmc68k, seed=1), small.tokenize(pbmc68k, seed=2)
    np.testing.assert_array_equal(one.ids, two.ids)
    assert (one.values != two.values).any()


def test_vectors_made_by_different_rules_in_one_anndata_are_warned_about(small, pbmc68k, recwarn):
    adata = pbmc68k[:12].copy()
    sl.embed(adata, small, progress=False)
    sl.embed(adata, small, progress=False)
    sl.embed(adata, "pca", progress=False)
    sl.embed(adata, small, key_added="X_last_but_one", hidden_layer=-2, progress=False)
    assert not len(recwarn), "one rule, and other models, are no reason to warn"
    for key, options in (
        ("X_reference", {"like_reference": True}),
        ("X_seed", {"seed": 3}),
        ("X_short", {"options": {"max_length": 50}}),
    ):
        with pytest.warns(UserWarning, match="made by different rules") as told:
            result = sl.embed(adata, small, key_added=key, progress=False, **options)
        assert "obsm['X_scgpt']" in str(told[0].message)
        assert "made by different rules" in result.summary()
    rules = {key: adata.uns["scfm"][key]["rule"] for key in ("X_scgpt", "X_reference", "X_seed")}
    assert "hashed" in rules["X_scgpt"]
    assert rules["X_reference"] == "as the reference implementation chooses, seed 0"
    assert rules["X_seed"].endswith("seed 3")


def test_a_gene_that_occurs_twice_is_two_tokens(write_scgpt, tmp_path, pbmc68k):
    adata = pbmc68k[:5].copy()
    adata.var["gene_symbol"] = [str(adata.var_names[30])] * 2 + list(map(str, adata.var_names[2:]))
    model = sl.load_model(write_scgpt(tmp_path / "c"), device="cpu", precision="float32")
    match = model.match(Cells.from_anndata(adata).genes)
    assert (match.ids == match.ids[0]).sum() == 3
    assert match.doubled == 0


def test_layers_and_poolings(small, pbmc68k):
    tokens = small.tokenize(pbmc68k[:6])
    published = small.encode(tokens).cell
    np.testing.assert_allclose(np.linalg.norm(published, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(small.encode(tokens, hidden_layer=-1, pooling="cls").cell, published)
    np.testing.assert_array_equal(small.encode(tokens, hidden_layer=-3).cell, small.encode(tokens, hidden_layer=0).cell)
    states = small.encode(tokens, genes=True, pooling="mean", hidden_layer=1)
    a, b = tokens.offsets[2:4]
    mean = states.genes[a + 1 : b].mean(axis=0)
    np.testing.assert_allclose(states.cell[2], mean / np.linalg.norm(mean), atol=1e-6)
    for wrong in ({"hidden_layer": 3}, {"pooling": "max"}):
        with pytest.raises(ModelError):
            small.encode(tokens, **wrong)


def test_attention(small, pbmc68k):
    tokens = small.tokenize(pbmc68k[:3])
    for weights, n in zip(small.attention(tokens, hidden_layer=1), tokens.lengths, strict=True):
        assert weights.shape == (3, n, n)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_imputed_bins_say_so(small, pbmc68k):
    genes = list(map(str, pbmc68k.var_names[100:103]))
    result = sl.impute(pbmc68k[:10].copy(), small, genes=genes, progress=False)
    assert "bins" in result.summary()
    assert "bins" in result.provenance["unit"]
    tokens = small.tokenize(pbmc68k[:10])
    raw = small.encode(tokens, pooling="cls_raw").cell
    ids = np.array([small.vocabulary.id_of(g) for g in genes])
    np.testing.assert_allclose(result.values, small.decode_cells(raw, ids).clip(0, 50), atol=1e-6)


# --- other names for genes -------------------------------------------------------------


def test_cells_that_have_ensembl_ids_only(small, pbmc68k):
    both = small.match(Cells.from_anndata(pbmc68k).genes)
    assert both.how["symbol"] == len(both.columns) == 745
    only = pbmc68k.copy()
    only.var_names = [e if e.startswith("ENSG") else f"unknown-{i}" for i, e in enumerate(only.var["ensembl_id"])]
    only.var = only.var[[]]
    match = small.match(Cells.from_anndata(only).genes)
    assert match.how[TRANSLATED_ENSEMBL] == len(match.columns) > 600
    same = dict(zip(both.columns, both.ids, strict=True))
    agree = [same.get(c) == i for c, i in zip(match.columns, match.ids, strict=True)]
    assert np.mean(agree) > 0.99
    assert TRANSLATED_ENSEMBL in sl.audit_genes(only, small).summary()


def test_mouse_cells_need_a_word(small, pbmc68k):
    from scfm_lab.models.published import shipped_genes

    table = shipped_genes()
    mouse_of = dict(zip(table.symbols, table.mouse_symbols, strict=True))
    mouse = pbmc68k[:10, [bool(mouse_of.get(g)) for g in pbmc68k.var_names]].copy()
    human = mouse.copy()
    mouse.var_names = [mouse_of[g] for g in mouse.var_names]
    mouse.var = mouse.var[[]]
    mouse.uns["organism"] = "mouse"
    with pytest.raises(GenesError, match="orthologs"):
        sl.embed(mouse, small, progress=False)
    tokens = small.tokenize(mouse, options={"orthologs": True})
    np.testing.assert_array_equal(tokens.ids, small.tokenize(human).ids)
    assert (
        small.known_genes(Cells.from_anndata(mouse).genes, {"orthologs": True}).how["one-to-one mouse ortholog"] > 100
    )


# --- files that are wrong --------------------------------------------------------------


_OF_TENSORS = (
    "nan",
    "absurd",
    "missing key",
    "unknown key",
    "shape",
    "half a decoder",
    "half of the other",
    "one number",
    "other family",
)


def spoil(folder: Path, how: str) -> Path:
    weights, args, vocab = folder / "best_model.pt", folder / "args.json", folder / "vocab.json"
    data = weights.read_bytes()
    tensors = torch.load(weights, weights_only=True)  # noqa: TID251
    words = json.loads(vocab.read_text())
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "code":
        torch.save({"encoder.embedding.weight": _Runs(str(folder / "ran"))}, weights)
    elif how == "nan":
        tensors["encoder.embedding.weight"][3, 2] = float("nan")
    elif how == "absurd":
        tensors["encoder.embedding.weight"] = torch.zeros(1).expand(10**9, 24)
    elif how == "missing key":
        del tensors["transformer_encoder.layers.1.linear2.bias"]
    elif how == "unknown key":
        tensors["surprise.weight"] = torch.zeros(2)
    elif how == "shape":
        tensors["value_encoder.norm.bias"] = torch.zeros(23)
    elif how == "no vocabulary":
        vocab.unlink()
    elif how == "short vocabulary":
        vocab.write_text(json.dumps({k: v for k, v in words.items() if v != 0} | {"<cls>": 0}))
    elif how == "gap":
        vocab.write_text(json.dumps({k: v + (v > 5) for k, v in words.items()}))
    elif how == "no cls":
        vocab.write_text(json.dumps({k.replace("<cls>", "GENE0"): v for k, v in words.items()}))
    elif how == "no eoc":
        vocab.write_text(json.dumps({k.replace("<eoc>", "GENE0"): v for k, v in words.items()}))
    elif how == "half a decoder":
        tensors["mvc_decoder.W.weight"] = tensors["mvc_decoder.W.weight"][:12].clone()
    elif how == "half of the other":
        tensors["decoder.fc.0.weight"] = tensors["decoder.fc.0.weight"][:, :12].clone()
    elif how == "one number":
        tensors["encoder.embedding.weight"] = torch.tensor(1.0)
    elif how == "layers":
        args.write_text(json.dumps(json.loads(args.read_text()) | {"nlayers": 5}))
    elif how == "heads":
        args.write_text(json.dumps(json.loads(args.read_text()) | {"nheads": 5}))
    elif how == "args":
        args.write_text("{not json")
    elif how == "list":
        torch.save([1, 2, 3], weights)
    elif how == "other family":
        tensors = {f"bert.{k}": v for k, v in tensors.items()}
    if how in _OF_TENSORS:
        torch.save(tensors, weights)
    return folder


class _Runs:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "damaged"),
        ("code", "mkdir"),
        ("nan", "NaN"),
        ("absurd", "declares"),
        ("missing key", r"missing transformer_encoder\.layers\.1\.linear2\.bias"),
        ("unknown key", r"unknown surprise\.weight"),
        ("shape", r"value_encoder\.norm\.bias is \(23,\), not \(24,\)"),
        ("no vocabulary", r"no vocab\.json"),
        ("short vocabulary", "are not 0 to|do not belong together"),
        ("gap", "are not 0 to"),
        ("no cls", "no <cls>, and the embedding no row for it"),
        ("no eoc", "no <eoc>, and the embedding no row for it"),
        ("half a decoder", r"mvc_decoder\.W\.weight is \(12, 24\), not \(24, 24\)"),
        ("half of the other", r"decoder\.fc\.0\.weight is \(24, 12\), not \(24, 24\)"),
        ("one number", r"'encoder\.embedding\.weight' of the shape \(\)"),
        ("layers", "nlayers=5, the weights hold 2"),
        ("heads", "must be a multiple"),
        ("args", "not readable JSON"),
        ("list", "not a state dict"),
        ("other family", "holds no scGPT"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(write_scgpt, tmp_path, how, said):
    folder = spoil(write_scgpt(tmp_path / "bad"), how)
    with pytest.raises(ModelError, match=said) as raised:
        sl.load_model(folder)
    assert "\n" not in str(raised.value)
    assert not (folder / "ran").exists()


def test_a_vocabulary_of_another_size(write_scgpt, tmp_path, pbmc68k):
    folder = write_scgpt(tmp_path / "a")
    other = write_scgpt(tmp_path / "b", genes=list(pbmc68k.var_names[:50]))
    (folder / "vocab.json").write_bytes((other / "vocab.json").read_bytes())
    with pytest.raises(ModelError, match="do not belong together"):
        sl.load_model(folder)


def test_special_tokens_that_the_reference_appended(write_scgpt, tmp_path, pbmc68k, small):
    folder = write_scgpt(tmp_path / "appended")
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({k: v for k, v in words.items() if not k.startswith("<")}))
    model = sl.load_model(folder, device="cpu", precision="float32")
    np.testing.assert_array_equal(model.tokenize(pbmc68k).ids, small.tokenize(pbmc68k).ids)


def test_a_cell_without_known_genes_is_nan_and_counted(small, pbmc68k):
    adata = pbmc68k[:6].copy()
    counts = adata.X.toarray()
    counts[2, 20:] = 0
    counts[2, :20] = 1
    adata.X = counts
    result = sl.embed(adata, small, progress=False)
    assert np.isnan(result.vectors[2]).all()
    assert np.isfinite(np.delete(result.vectors, 2, axis=0)).all()
    assert result.audit.cells_without_genes == 1


def test_it_is_recognised_by_its_files_alone(write_scgpt, tmp_path):
    folder = write_scgpt(tmp_path / "c")
    assert ScGPT.recognises(folder)
    assert ScGPT.recognises(folder / "best_model.pt")
    assert not ScGPT.recognises(tmp_path)
    (folder / "best_model.pt").unlink()
    with pytest.raises(ModelError, match=r"has no best_model\.pt"):
        sl.load_model(folder)
