"""scBERT: the reference's outputs, small checkpoints of the format on the bundled cells, and files that must be refused."""

from __future__ import annotations

import pickle  # noqa: TID251 - a published format
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from writers_performer import scbert_net as small_net
from writers_performer import write_scbert_file as write_checkpoint

import scfm_lab as sl
from scfm_lab.cells.cells import Cells
from scfm_lab.cells.dose import perturb_counts
from scfm_lab.errors import Cancelled, ModelError
from scfm_lab.models.scbert import ScBert
from scfm_lab.models.scbert_tokens import log2_normalised

if TYPE_CHECKING:
    from scfm_lab.models.scbert_net import ScBertNet

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
    return golden / "scbert"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected.npz"))


@pytest.fixture(scope="module")
def cells(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "cells.h5ad")


@pytest.fixture(scope="module")
def kept(cells: ad.AnnData, expected: dict[str, np.ndarray]) -> np.ndarray:
    return np.isin(cells.obs_names, expected["obs_names"])


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> ScBert:
    return sl.load_model(folder / "ckpts" / "panglao_pretrain.pth", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def finetuned(folder: Path) -> ScBert:
    return sl.load_model(folder / "ckpts" / "finetune_best.pth", device="cpu", precision="float32")


@pytest.mark.golden
@pytest.mark.parametrize("options", [{}, LIKE])
def test_tokens_are_the_references(pretrained, cells, expected, kept, options):
    tokens = pretrained.tokenize(cells, options=options)
    np.testing.assert_array_equal(tokens.ids.reshape(len(cells), -1)[kept], expected["tokens"])
    left_out = ~kept if options else np.zeros(len(cells), dtype=bool)
    np.testing.assert_array_equal(tokens.cell["left_out"], left_out)


@pytest.mark.golden
def test_the_genes_are_those_of_the_files_in_their_order(pretrained, expected):
    np.testing.assert_array_equal(pretrained.vocabulary.symbols.astype(str), expected["ref_genes"])


@pytest.mark.golden
def test_normalised_values_are_the_references(pretrained, cells, expected, kept):
    from scfm_lab.models.contract import aligned_counts

    four = Cells.from_anndata(cells[kept][:4].copy())
    counts = aligned_counts(four, pretrained.match(four.genes), len(pretrained.vocabulary))
    found = log2_normalised(counts, np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    np.testing.assert_allclose(found.toarray(), expected["normalized"], rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        (None, "cell_embedding_mean"),
        ("mean", "cell_embedding_mean"),
        ("last_token", "cell_embedding_last_token"),
        ("mean_genes_only", "cell_embedding_mean_genes_only"),
    ],
)
def test_cell_vectors_are_the_references_on_one_cell_at_a_time(pretrained, cells, expected, kept, pooling, name):
    # All cells once, as published; the other ways to pool the same states on some.
    some = slice(None) if pooling is None else slice(8)
    result = sl.embed(cells[some].copy(), pretrained, pooling=pooling, progress=False, copy=True)
    agree(result.vectors[kept[some]], expected[name][: kept[some].sum()])
    assert np.isfinite(result.vectors).all(), "nothing is left out unless it is asked for"


@pytest.mark.golden
def test_like_reference_leaves_out_cells_of_few_genes_and_says_so(pretrained, cells, expected, kept):
    # The cells that are left out, and some that are not.
    shown = np.flatnonzero(~kept | (np.cumsum(kept) <= 8))
    cells, wanted = cells[shown].copy(), expected["cell_embedding_mean"][:8]
    kept = kept[shown]
    result = sl.embed(cells, pretrained, like_reference=True, progress=False, copy=True)
    assert np.isnan(result.vectors[~kept]).all()
    agree(result.vectors[kept], wanted)
    assert "3 cells have no vector because the reference leaves them out" in result.summary()


@pytest.mark.golden
def test_encodings_and_token_logits_are_the_references(pretrained, cells, expected, kept):
    tokens = pretrained.tokenize(cells[kept][:2].copy())
    agree(pretrained.encode(tokens, genes=True).genes.reshape(2, 1201, -1), expected["token_encodings_first2"])
    agree(pretrained.token_logits(tokens).reshape(2, 1201, -1), expected["mlm_logits_first2"])


@pytest.mark.golden
def test_a_batch_of_the_reference_is_stabilised_together_only_if_asked_for(pretrained, cells, expected, kept):
    four = cells[kept][:4].copy()
    together = pretrained.encode(pretrained.tokenize(four, options={**LIKE, "batch_size": 4}), genes=True)
    agree(together.genes.reshape(4, 1201, -1)[:, ::16], expected["token_encodings_batch4"])
    alone = pretrained.encode(pretrained.tokenize(four), genes=True, batch_size=4)
    apart = np.abs(alone.genes.reshape(4, 1201, -1)[:, ::16] - expected["token_encodings_batch4"]).max()
    assert apart > 1e-4, "the default must not take the batch's stabiliser"
    by_task = sl.embed(four, pretrained, like_reference=True, batch_size=4, progress=False, copy=True)
    np.testing.assert_allclose(by_task.vectors, together.cell, atol=1e-6)


@pytest.mark.golden
def test_the_classes_are_the_references(finetuned, cells, expected, kept):
    labelled = cells.copy()
    result = finetuned.predict(labelled, options=LIKE, labels_key="celltype", progress=False)
    agree(result.logits[kept], expected["class_logits"])
    names = expected["class_names"]
    np.testing.assert_array_equal(result.classes.astype(str), names)
    np.testing.assert_array_equal(result.labels[kept].astype(str), names[expected["class_pred"]])
    assert (result.labels[~kept] == "unknown").all()
    assert (result.confidence[~kept] == 0).all()
    np.testing.assert_allclose(result.probabilities[kept].max(axis=1), result.confidence[kept], rtol=1e-5)
    assert list(labelled.obs["scbert"]) == list(result.labels)
    assert "3 cells have no label" in result.summary()


@pytest.mark.golden
def test_a_threshold_leaves_unsure_cells_without_a_class(finetuned, cells):
    cells = cells[:8]
    plain = finetuned.predict(cells.copy(), progress=False)
    limit = float(np.median(plain.confidence))
    strict = finetuned.predict(cells.copy(), threshold=limit, progress=False)
    np.testing.assert_array_equal(strict.labels == "unknown", plain.confidence < limit)


@pytest.mark.golden
def test_a_model_without_that_head_says_so(pretrained, finetuned, cells):
    with pytest.raises(ModelError, match="pre-trained only"):
        pretrained.predict(cells.copy(), progress=False)
    with pytest.raises(ModelError, match="no head for tokens"):
        finetuned.token_logits(finetuned.tokenize(cells))


# --- small checkpoints of the format, on the bundled cells ------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory, _pbmc68k) -> Path:
    """A checkpoint over the bundled genes, with the order of the genes in ``../data``."""
    root = tmp_path_factory.mktemp("scbert")
    genes = list(_pbmc68k.var_names[::-1])
    write_checkpoint(root / "ckpts" / "panglao_pretrain.pth", small_net(len(genes)))
    write_checkpoint(root / "tuned" / "best.pth", small_net(len(genes), head=(8, 6, 3)))
    for name, value in (("label_dict", np.array(["B", "NK", "T"], dtype=object)), ("label", np.array([0, 2, 1]))):
        (root / "tuned" / name).write_bytes(pickle.dumps(value))
    (root / "data").mkdir()
    order = ad.AnnData(np.zeros((1, len(genes)), np.float32))
    order.var_names = genes
    order.write_h5ad(root / "data" / "panglao_10000.h5ad")
    return root


@pytest.fixture(scope="module")
def model(small: Path) -> ScBert:
    return sl.load_model(small / "ckpts" / "panglao_pretrain.pth", device="cpu", precision="float32")


@pytest.fixture
def few(pbmc68k) -> ad.AnnData:
    return pbmc68k[::35].copy()


def dense(net: ScBertNet, tokens: np.ndarray) -> np.ndarray:
    """The published forward pass of one cell in float64, features and all, with every weight written out."""
    from scipy.special import erf

    state = {k: v.double().numpy() for k, v in net.state_dict().items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    x = state["token_emb.weight"][tokens] + state["pos_emb.weight"]
    for i, layer in enumerate(net.performer.stack):
        at = f"performer.layers.{i}."
        projection = state[f"{at}features.projection"]
        m, d = projection.shape
        h = norm(x, f"{at}norm_attention")
        q, k, v = (linear(h, f"{at}to_{n}").reshape(len(h), layer.heads, d).transpose(1, 0, 2) for n in "qkv")
        a_q, a_k = q @ projection.T * d**-0.25, k @ projection.T * d**-0.25
        n_q, n_k = ((t**2).sum(-1, keepdims=True) * d**-0.5 / 2 for t in (q, k))
        phi_q = m**-0.5 * (np.exp(a_q - n_q - a_q.max(-1, keepdims=True)) + 1e-4)
        phi_k = m**-0.5 * (np.exp(a_k - n_k - a_k.max()) + 1e-4)
        weights = phi_q @ phi_k.transpose(0, 2, 1)
        out = weights / weights.sum(-1, keepdims=True) @ v
        x = x + linear(out.transpose(1, 0, 2).reshape(len(h), -1), f"{at}to_out")
        h = linear(norm(x, f"{at}norm_ffn"), f"{at}w1")
        x = x + linear(h * (1 + erf(h / np.sqrt(2))) / 2, f"{at}w2")
    return norm(x, "norm")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_tokens", [7, 9])
def test_other_shapes_agree_with_the_formulas_written_out(tmp_path, few, bias, n_tokens):
    genes = list(few.var_names[::2])
    net = small_net(len(genes), seed=3, n_tokens=n_tokens, bias=bias)
    write_checkpoint(tmp_path / "x.pth", net, prefix="module.", bare=True)
    model = sl.load_model(tmp_path / "x.pth", device="cpu", precision="float32", files={"gene_order": genes})
    assert (model.bin_num, model.spec.heads, model.spec.layers, model.spec.width) == (n_tokens - 2, 3, 2, 12)
    tokens = model.tokenize(few)
    assert tokens.ids.max() == n_tokens - 2
    found = model.encode(tokens, genes=True).genes.reshape(len(few), len(genes) + 1, -1)
    for cell, ids in zip(found[:3], tokens.ids.reshape(len(few), -1), strict=False):
        np.testing.assert_allclose(cell, dense(net, ids), atol=2e-5)


def test_bins_are_the_whole_parts_of_what_scanpy_gives(model, pbmc68k):
    import scanpy as sc

    own = pbmc68k[:, model.vocabulary.symbols].copy()
    del own.obs["total_counts_all_genes"]
    tokens = model.tokenize(own)
    own.X = own.X.toarray()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(own, target_sum=1e4)
        sc.pp.log1p(own, base=2)
    wanted = np.minimum(own.X, 5).astype(np.int64)
    found = tokens.ids.reshape(own.n_obs, -1)
    np.testing.assert_array_equal(found[:, :-1], wanted)
    assert (found[:, -1] == 0).all()


def test_the_library_is_that_of_all_genes_where_it_is_known(model, few):
    whole = model.tokenize(few)
    like = model.tokenize(few, options=LIKE)
    del few.obs["total_counts_all_genes"]
    np.testing.assert_array_equal(model.tokenize(few).ids, like.ids)
    assert whole.ids.sum() < like.ids.sum()


def test_a_vector_depends_on_its_cell_alone(model, few):
    tokens = model.tokenize(few)
    plain = model.encode(tokens)
    for size in (1, 3, 20):
        np.testing.assert_allclose(model.encode(tokens, batch_size=size).cell, plain.cell, atol=1e-5)
    order = np.random.default_rng(0).permutation(few.n_obs)
    np.testing.assert_allclose(model.encode(model.tokenize(few[order].copy())).cell, plain.cell[order], atol=1e-5)
    half = np.vstack([model.encode(model.tokenize(few[part].copy())).cell for part in (slice(0, 7), slice(7, None))])
    np.testing.assert_allclose(half, plain.cell, atol=1e-5)


def test_chunks_of_positions_do_not_change_the_states(model, few, monkeypatch):
    from scfm_lab.models import performer

    tokens = model.tokenize(few[:2].copy())
    wanted = model.encode(tokens).cell
    for chunk in (101, 100_000):
        monkeypatch.setitem(performer._CHUNK, "cpu", chunk)
        np.testing.assert_allclose(model.encode(tokens).cell, wanted, atol=1e-5)


def test_hidden_layers_and_the_last_token_alone(model, few):
    tokens = model.tokenize(few)
    whole = model.encode(tokens, genes=True).genes.reshape(few.n_obs, -1, 12)
    np.testing.assert_allclose(model.encode(tokens, pooling="last").cell, whole[:, -1], atol=1e-5)
    start = model.net.embed(torch.as_tensor(tokens.ids.reshape(few.n_obs, -1))).numpy()
    np.testing.assert_allclose(model.encode(tokens, hidden_layer=0).cell, start.mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(model.encode(tokens, hidden_layer=2).cell, model.encode(tokens).cell)
    with pytest.raises(ModelError, match="2 layers"):
        model.encode(tokens, hidden_layer=3)
    with pytest.raises(ModelError, match="'cls'"):
        model.encode(tokens, pooling="cls")


def test_a_perturbed_copy_differs_in_its_gene_alone(model, few):
    del few.obs["total_counts_all_genes"]
    cells = Cells.from_anndata(few, fields=model.fields)
    gene = few.var_names.get_loc("CD74")
    place = int(model.vocabulary.id_of("CD74"))
    before = model.tokenize(cells).ids.reshape(len(cells), -1)
    for dose in (0.0, 4.0):
        after = model.tokenize(perturb_counts(cells, {gene: dose})).ids.reshape(len(cells), -1)
        changed = np.flatnonzero((after != before).any(axis=0))
        assert set(changed) == {place}


def test_cells_without_a_known_gene_have_no_vector_and_are_counted(model, few):
    few.X = few.X.multiply(np.arange(few.n_obs)[:, None] != 3).tocsr()
    result = sl.embed(few, model, progress=False)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.vectors).all(axis=1)), [3])
    assert "1 cell has no known gene" in result.summary()


def test_ensembl_ids_alone_are_translated_and_told(model, few):
    wanted = sl.embed(few, model, progress=False, copy=True).vectors
    known = few[:, few.var["ensembl_id"] != ""].copy()
    known.var_names = known.var["ensembl_id"].astype(str).to_numpy()
    known.var = known.var[[]]
    found = sl.embed(known, model, progress=False)
    assert "Ensembl id translated to a symbol" in found.summary()
    shared = [
        (wanted[i] @ found.vectors[i]) / np.linalg.norm(wanted[i]) / np.linalg.norm(found.vectors[i]) for i in range(20)
    ]
    assert min(shared) > 0.99


def test_columns_of_one_gene_are_summed_or_the_first_is_taken(model, few):
    twice = ad.AnnData(sparse.hstack([few.X, few[:, "CD74"].X]).tocsr(), obs=few.obs)
    twice.var_names = [*few.var_names, "second"]
    twice.var["gene_symbol"] = [*few.var_names, "CD74"]
    # The whole library as before, so that the column added is no more than that.
    twice.obs["total_counts_all_genes"] = few.obs["total_counts_all_genes"] * 2
    few.obs["total_counts_all_genes"] *= 2
    place = int(model.vocabulary.id_of("CD74"))
    summed = model.tokenize(twice).ids.reshape(few.n_obs, -1)
    first = model.tokenize(twice, options=LIKE).ids.reshape(few.n_obs, -1)
    np.testing.assert_array_equal(first, model.tokenize(few, options=LIKE).ids.reshape(few.n_obs, -1))
    assert summed[:, place].sum() > model.tokenize(few).ids.reshape(few.n_obs, -1)[:, place].sum()


def test_attention_of_chosen_genes_is_that_of_the_formulas(model, few):
    tokens = model.tokenize(few[:2].copy())
    maps = model.attention_of(tokens, ["CD74", "LYZ"], hidden_layer=1)
    assert [one.shape for one in maps] == [(3, 2, len(model.vocabulary) + 1)] * 2
    for one in maps:
        np.testing.assert_allclose(one.sum(axis=-1), 1, atol=1e-5)
        assert (one > 0).all()
    layer = model.net.performer.stack[0]
    with torch.inference_mode():
        x = model.net.embed(torch.as_tensor(tokens.ids.reshape(2, -1)[:1]))
        h = layer.norm_attention(x)
        (a_q, n_q), (a_k, n_k) = (layer.features(layer._heads(to(h))) for to in (layer.to_q, layer.to_k))
        phi_q = (a_q - n_q - a_q.amax(-1, keepdim=True)).exp() + 1e-4
        phi_k = (a_k - n_k - a_k.max()).exp() + 1e-4
        full = torch.einsum("blhm,bkhm->bhlk", phi_q, phi_k)[0]
        full = full / full.sum(-1, keepdim=True)
    rows = [int(model.vocabulary.id_of(g)) for g in ("CD74", "LYZ")]
    np.testing.assert_allclose(maps[0], full[:, rows].numpy(), rtol=1e-4, atol=1e-7)


def test_gradients_flow_and_change_nothing_about_the_states(few):
    net = small_net(40, seed=5)
    tokens = torch.randint(0, 6, (2, 41), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = net(tokens)
    found = net(tokens)
    np.testing.assert_allclose(found.detach().numpy(), wanted.numpy(), atol=1e-5)
    for weight in (net.performer.stack[0].to_v.weight, net.performer.stack[0].to_q.weight):
        (slope,) = torch.autograd.grad((net(tokens) * torch.linspace(0, 1, 12)).sum(), weight)
        at = divmod(int(slope.abs().argmax()), slope.shape[1])
        with torch.no_grad():
            sums = []
            for step in (1e-2, -2e-2):
                weight[at] += step
                sums.append(float((net(tokens) * torch.linspace(0, 1, 12)).double().sum()))
            weight[at] += 1e-2
        np.testing.assert_allclose((sums[0] - sums[1]) / 2e-2, float(slope[at]), rtol=0.02)


def test_gene_embeddings_are_the_table_of_the_checkpoint(model):
    table = model.gene_embeddings()
    assert list(table.index) == list(model.vocabulary.symbols)
    np.testing.assert_array_equal(table.to_numpy(), model.net.pos_emb.weight[:-1].numpy())


def test_a_batch_that_runs_together_can_be_stopped(model, few):
    class Stop:
        def is_set(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        model.encode(model.tokenize(few, options={**LIKE, "batch_size": 4}), cancel=Stop())


def test_a_finetuned_file_labels_cells(small, few):
    tuned = sl.load_model(
        small / "tuned", device="cpu", precision="float32", files={"gene_order": small / "data" / "panglao_10000.h5ad"}
    )
    result = tuned.predict(few, progress=False)
    assert set(result.labels) <= {"B", "NK", "T"}
    assert few.obs["scbert_confidence"].between(1 / 3, 1).all()
    tokens = torch.as_tensor(tuned.tokenize(few).ids.reshape(few.n_obs, -1))
    with torch.inference_mode():
        x = tuned.net(tokens)
        one = (x @ tuned.net.to_out.conv1.weight[0, 0, 0] + tuned.net.to_out.conv1.bias).relu()
        wanted = tuned.net.to_out.fc3(tuned.net.to_out.fc2(tuned.net.to_out.fc1(one).relu()).relu())
    np.testing.assert_allclose(result.logits, wanted.numpy(), atol=1e-4)


def test_a_finetuned_file_without_names_says_that_it_has_none(tmp_path, few):
    genes = list(few.var_names)
    write_checkpoint(tmp_path / "best.pth", small_net(len(genes), head=(8, 6, 3)))
    tuned = sl.load_model(tmp_path / "best.pth", device="cpu", precision="float32", files={"gene_order": genes})
    result = tuned.predict(few, progress=False)
    assert set(result.labels) <= {"class 0", "class 1", "class 2"}
    assert "names of the classes are not known" in result.summary()


def test_half_precision_is_near_and_keeps_the_weights(small, few):
    full = sl.load_model(small / "ckpts", device="cpu", precision="float32")
    half = sl.load_model(small / "ckpts", device="cpu", precision="bfloat16")
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}
    a, b = (m.encode(m.tokenize(few)).cell for m in (full, half))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert 0.9995 < cosine.min() < 1
    exact = half.encode(half.tokenize(few), precision=full.compute).cell
    np.testing.assert_array_equal(exact, a)


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
def copy(small: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(small, tmp_path / "copy"))


def test_of_two_checkpoints_in_a_folder_the_one_that_is_opened_is_told(copy):
    import shutil

    other = shutil.copy(copy / "ckpts" / "panglao_pretrain.pth", copy / "ckpts" / "mine.pth")
    with pytest.warns(UserWarning, match=r"2 checkpoints.*panglao_pretrain\.pth is opened.*mine\.pth"):
        model = sl.load_model(copy / "ckpts", device="cpu")
    assert model.digest
    sl.load_model(other, device="cpu")  # a file says itself which one is meant
    (copy / "ckpts" / "panglao_pretrain.pth").rename(copy / "ckpts" / "yours.pth")
    refused(copy / "ckpts", "2 checkpoints", "mine.pth", "yours.pth", "give the path of one")


def test_a_truncated_file_is_refused(copy):
    path = copy / "ckpts" / "panglao_pretrain.pth"
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        refused(path, "panglao_pretrain.pth", "damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, few, value):
    net = small_net(few.n_vars)
    with torch.no_grad():
        net.performer.stack[1].to_k.weight[0, 0] = value
    write_checkpoint(tmp_path / "x.pth", net)
    refused(tmp_path / "x.pth", "performer.net.layers.1.0.fn.to_k.weight", files={"gene_order": list(few.var_names)})


def test_tensors_without_a_place_are_named(tmp_path, few):
    files = {"gene_order": list(few.var_names)}
    extra = {"performer.extra.weight": torch.zeros(2)}
    write_checkpoint(tmp_path / "more.pth", small_net(few.n_vars), change=lambda c: c["model_state_dict"].update(extra))
    refused(tmp_path / "more.pth", "performer.extra.weight", files=files)
    names = small_net(few.n_vars).checkpoint_names()
    state = {k: torch.zeros(1) for k in names}
    torch.save({"model_state_dict": state}, tmp_path / "shapes.pth")
    refused(tmp_path / "shapes.pth", "no checkpoint of scBERT", files=files)
    net = small_net(few.n_vars)
    net.performer.stack[0].to_v.weight = torch.nn.Parameter(torch.zeros(15, 11))
    write_checkpoint(tmp_path / "wide.pth", net)
    refused(tmp_path / "wide.pth", "performer.net.layers.0.0.fn.to_v.weight", "(15, 11)", files=files)
    write_checkpoint(
        tmp_path / "less.pth", small_net(few.n_vars), change=lambda c: c["model_state_dict"].pop("norm.bias")
    )
    refused(tmp_path / "less.pth", "missing norm.bias", files=files)


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path, few, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "x.pth", small_net(few.n_vars), change=lambda c: c.update(losses=Bomb()))
    refused(tmp_path / "x.pth", "x.pth", "nothing of it was run", files={"gene_order": list(few.var_names)})
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize("name", ["label_dict", "label"])
@pytest.mark.parametrize("value", [Bomb(), np.array([Bomb()], dtype=object)])
def test_code_in_a_label_file_is_named_and_not_run(copy, monkeypatch, name, value):
    monkeypatch.chdir(copy)
    (copy / "tuned" / name).write_bytes(pickle.dumps(value))
    refused(copy / "tuned" / "best.pth", name, "code", files={"gene_order": copy / "data" / "panglao_10000.h5ad"})
    assert not (copy / "bomb-went-off").exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        np.array(["B", "NK", "T"], dtype=object),
        np.array(["B", "NK", "T"]),
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        {"a": [np.arange(3), np.float32(2)]},
    ],
)
def test_arrays_of_text_and_numbers_are_read_in_every_protocol(tmp_path, protocol, value):
    from scfm_lab.models.files import read_pickle

    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=protocol))
    found = read_pickle(tmp_path / "x")
    assert repr(found) == repr(value)


@pytest.mark.parametrize("value", [np.ma.array([1]), np.zeros(2, dtype=[("a", "i4")]), np.zeros(2, dtype="M8[s]")])
def test_other_arrays_are_refused_by_name(tmp_path, value):
    from scfm_lab.models.files import read_pickle

    (tmp_path / "x").write_bytes(pickle.dumps(value))
    with pytest.raises(ModelError, match="numpy"):
        read_pickle(tmp_path / "x")


def test_labels_that_do_not_fit_the_head_are_refused(copy):
    order = {"gene_order": copy / "data" / "panglao_10000.h5ad"}
    (copy / "tuned" / "label_dict").write_bytes(pickle.dumps(np.array(["a", "b"])))
    refused(copy / "tuned" / "best.pth", "names 2 classes", "has 3", files=order)
    (copy / "tuned" / "label_dict").write_bytes(pickle.dumps(np.array(["a", "b", "c"])))
    (copy / "tuned" / "label").write_bytes(pickle.dumps(np.array([0, 5])))
    refused(copy / "tuned" / "best.pth", "classes 0 to 2", files=order)


def test_a_gene_order_that_is_missing_or_does_not_fit_is_refused(copy):
    path = copy / "ckpts" / "panglao_pretrain.pth"
    order = copy / "data" / "panglao_10000.h5ad"
    refused(path, "764 genes", "765 positions", files={"gene_order": [f"g{i}" for i in range(764)]})
    whole = order.read_bytes()
    order.write_bytes(whole[: len(whole) // 3])
    refused(path, "panglao_10000.h5ad", "damaged")
    order.unlink()
    refused(path, "panglao_10000.h5ad", "gene_order")


def test_a_folder_says_what_is_missing_and_which_file_is_meant(copy):
    (copy / "ckpts" / "panglao_pretrain.pth").rename(copy / "ckpts" / "renamed.pth")
    assert sl.load_model(copy / "ckpts", device="cpu", precision="float32").path.name in ("ckpts", "renamed.pth")
    (copy / "ckpts" / "other.pth").write_bytes((copy / "ckpts" / "renamed.pth").read_bytes())
    refused(copy / "ckpts", "2 checkpoints", "renamed.pth", "other.pth")
    for name in ("renamed.pth", "other.pth"):
        (copy / "ckpts" / name).unlink()
    refused(copy, "looks like scBERT", "panglao_pretrain.pth")


def test_another_familys_file_is_refused(tmp_path):
    torch.save({"encoder.embedding.weight": torch.zeros(3, 2)}, tmp_path / "best_model.pth")
    refused(tmp_path / "best_model.pth", "no family known")
    with pytest.raises(ModelError, match="no checkpoint of scBERT"):
        ScBert.open(tmp_path / "best_model.pth")


def test_tensors_of_absurd_size_are_refused_before_anything_is_allocated(tmp_path, few):
    huge = {"token_emb.weight": torch.zeros(1).expand(1 << 40, 12)}
    write_checkpoint(tmp_path / "x.pth", small_net(few.n_vars), change=lambda c: c["model_state_dict"].update(huge))
    refused(tmp_path / "x.pth", "token_emb.weight", files={"gene_order": list(few.var_names)})


def test_unknown_entries_are_refused(small):
    refused(small / "ckpts", "gene_ordr", "gene_order", files={"gene_ordr": "x"})
    refused(small / "ckpts", "nhead", config={"nhead": 3})
