"""What the shipped weights come from: the split, the gene table, the objective, the network, a run that goes on."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scfm_lab as sl
from scfm_lab.cells.genes import Genes, Vocabulary
from scfm_lab.models.starter_net import StarterNet, initialise
from scfm_lab.training import corpus, objective
from scfm_lab.training.corpus import CellSet
from scfm_lab.training.objective import Masking
from scfm_lab.training.starter import Recipe, learning_rate, schedule, train

ASSETS = Path(sl.__file__).parent / "models" / "assets"
N_GENES = 300


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_csv(ASSETS / "starter" / "vocabulary.csv.gz")


@pytest.fixture(scope="module")
def sets() -> list[CellSet]:
    """Two small sets: two kinds of cell that differ in a tenth of the genes; the second set has a panel."""
    rng = np.random.default_rng(0)
    base = rng.gamma(0.5, 2.0, N_GENES)
    found = []
    for n, measured in ((96, np.ones(N_GENES, dtype=bool)), (64, rng.random(N_GENES) < 0.5)):
        kind = rng.integers(0, 2, n)
        rate = np.tile(base, (n, 1))
        rate[kind == 1, :30] *= 8
        counts = rng.poisson(rate * 1.5)
        total = counts.sum(axis=1).astype(float)
        seen = sparse.csr_matrix((counts * measured).astype(np.float32))
        found.append(CellSet(f"drawn{n}", seen, total, measured, kind.astype(str), {"dataset": f"drawn{n}"}))
    return found


@pytest.fixture(scope="module")
def net() -> StarterNet:
    """An untrained network of the shipped shape, over few genes."""
    out = StarterNet(Recipe().network(N_GENES))
    initialise(out, 0)
    with torch.no_grad():
        out.mean.uniform_(0, 1, generator=torch.Generator().manual_seed(1))
    return out.eval()


def a_batch(sets: list[CellSet], seed: int = 0, **masking: object) -> objective.Batch:
    mean, variance = objective.moments(sets)
    return objective.make_batch(
        sets[0],
        np.arange(24),
        np.random.default_rng(seed),
        masking=Masking(**masking),
        rates=objective.mean_rates(sets),
        dispersion=variance / np.maximum(mean, 1e-4),
    )


# ------------------------------------------------------------------------------------------ split


def test_split_holds_out_a_fifth_whatever_the_order() -> None:
    barcodes = np.array([f"CELL{i}-1" for i in range(2700)])
    out = corpus.held_out(barcodes)
    order = np.random.default_rng(0).permutation(2700)
    assert out.sum() == 540
    np.testing.assert_array_equal(corpus.held_out(barcodes[order]), out[order])


def test_held_out_cells_are_not_among_the_training_cells(shared_data: Path, vocabulary: Vocabulary) -> None:
    train_cells = corpus.load("pbmc3k_raw", vocabulary)
    held_out = corpus.load("pbmc3k_raw", vocabulary, part="held out")
    assert (len(train_cells), len(held_out)) == (2160, 540)
    together = sparse.vstack([train_cells.counts, held_out.counts]).tocsr()
    rows = {together[i].indices.tobytes() + together[i].data.tobytes() for i in range(2700)}
    assert len(rows) == 2700


def test_sets_that_models_are_scored_on_are_not_trained_on(shared_data: Path, vocabulary: Vocabulary) -> None:
    with pytest.raises(sl.errors.DataError, match="not a training set"):
        corpus.load("kang_ifnb_pbmc", vocabulary)


@pytest.mark.parametrize("name", ["starter", "pca", "sctop"])
def test_shipped_weights_name_the_data_that_are_there(name: str, shared_data: Path, vocabulary: Vocabulary) -> None:
    config = json.loads((ASSETS / name / "config.json").read_text())
    for record in config["training"]["data"]:
        there = corpus.load(record["dataset"], vocabulary).record
        for key in ("file_sha256", "cell_set_sha256", "cells", "organism"):
            assert record[key] == there[key], (record["dataset"], key)


def test_digest_of_a_cell_set_ignores_order_and_notices_a_change() -> None:
    keys = np.arange(1, 100, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    changed = keys.copy()
    changed[3] += np.uint64(1)
    assert corpus.cell_set_digest(keys[::-1]) == corpus.cell_set_digest(keys)
    assert corpus.cell_set_digest(changed) != corpus.cell_set_digest(keys)


# ------------------------------------------------------------------------------------- vocabulary


@pytest.mark.parametrize("name", ["starter", "pca", "sctop"])
def test_gene_table_names_every_gene_once(name: str) -> None:
    table = pd.read_csv(ASSETS / name / "vocabulary.csv.gz", dtype=str, keep_default_na=False)
    for column in ("symbol", "ensembl", "mouse_symbol", "mouse_ensembl"):
        named = table[column][table[column] != ""]
        assert named.is_unique, column
    assert table["ensembl"].str.fullmatch(r"ENSG\d{11}").all()
    assert table["mouse_ensembl"].str.fullmatch(r"|ENSMUSG\d{11}").all()
    current = set(table["symbol"]) | set(table["ensembl"])
    aliases = [a for names in table["aliases"] for a in names.split("|") if a]
    assert len(aliases) == len(set(aliases))
    assert not current & set(aliases)


@pytest.mark.parametrize(
    ("old", "new"),
    [("GNB2L1", "RACK1"), ("ATP5E", "ATP5F1E"), ("TMBIM4-1", "TMBIM4"), ("ENSG00000161570", "CCL5"), ("Cd3d", "CD3D")],
)
def test_former_and_mouse_names_lead_to_the_gene(vocabulary: Vocabulary, old: str, new: str) -> None:
    found = vocabulary.id_of(old)
    assert found is not None
    assert vocabulary.symbols[found] == new


def test_gene_table_knows_all_bundled_genes_with_ensembl_ids(vocabulary: Vocabulary) -> None:
    bundled = sl.datasets.load("pbmc68k")
    match = vocabulary.match(Genes.from_var(bundled.var))
    assert len(match.columns) == bundled.n_vars == 765
    assert match.doubled == 0
    assert all(re.fullmatch(r"ENSG\d{11}", e) for e in vocabulary.ensembl[match.ids])


def test_gene_table_covers_what_was_trained_on(shared_data: Path, vocabulary: Vocabulary) -> None:
    shares = {n: corpus.load(n, vocabulary).record["umi_share_in_vocabulary"] for n in corpus.TRAINING_SETS}
    assert min(shares.values()) > 0.9, shares
    assert shares["pbmc3k_raw"] > 0.99


@pytest.mark.thorough
def test_gene_table_is_made_again_to_the_byte(shared_data: Path) -> None:
    from scfm_lab.training.vocabulary import build, to_bytes

    assert to_bytes(build()) == (ASSETS / "starter" / "vocabulary.csv.gz").read_bytes()


# ------------------------------------------------------------------------------------------ bases


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["pca", "sctop"])
def test_shipped_bases_are_what_the_code_fits(name: str, shared_data: Path, vocabulary: Vocabulary) -> None:
    """To half precision for the components, whose sign is free; to single precision otherwise."""
    from safetensors.numpy import load_file

    from scfm_lab.training import bases

    shipped = load_file(ASSETS / name / "model.safetensors")
    fitted = (bases.pca_basis if name == "pca" else bases.sctop_basis)(vocabulary).tensors
    assert shipped.keys() == fitted.keys()
    for key, tensor in fitted.items():
        tensor, there = tensor.astype(np.float64), shipped[key].astype(np.float64)
        if key == "components":
            tensor *= np.sign((tensor * there).sum(axis=1))[:, None]
            np.testing.assert_allclose(tensor, there, atol=2e-3, rtol=0)
        else:
            np.testing.assert_allclose(tensor, there, atol=1e-6, rtol=0)


# -------------------------------------------------------------------------------------- objective


def test_molecules_are_shown_or_hidden_never_both(sets: list[CellSet]) -> None:
    batch = a_batch(sets, thin=1.0)
    counts, total = sets[0].counts[:24].toarray(), sets[0].total[:24]
    exposure = batch.exposure.numpy().astype(float) * 1e4 / total[:, None]  # share of the library that is scored
    seen = np.zeros_like(counts)
    for b in range(24):
        genes = batch.mask[b].numpy() & ~batch.query[b].numpy()
        genes[0] = False
        ids = batch.ids[b].numpy()[genes] - 1
        share = 1 - exposure[b, ids]
        seen[b, ids] = np.rint(np.expm1(batch.values[b].numpy()[genes]) * total[b] * share / 1e4)
    np.testing.assert_array_equal(seen + batch.hidden.numpy(), counts)
    # what the network is told to be measured is scored at most in the part that was thinned away
    told = batch.measured.numpy()
    assert (exposure[told] < 0.71).all()
    np.testing.assert_allclose(exposure[~told], 1.0, rtol=1e-5)


def test_genes_outside_a_panel_are_neither_shown_nor_scored(sets: list[CellSet]) -> None:
    rates = objective.mean_rates(sets)
    mean, variance = objective.moments(sets)
    batch = objective.make_batch(
        sets[1],
        np.arange(32),
        np.random.default_rng(0),
        masking=Masking(),
        rates=rates,
        dispersion=variance / np.maximum(mean, 1e-4),
    )
    outside = ~sets[1].measured
    assert not batch.exposure[:, outside].any()
    assert not batch.measured[:, outside].any()
    assert sets[1].measured[batch.asked.numpy()].all()


def test_token_loss_is_an_unbiased_sample_of_the_loss_over_all_hidden_genes(
    sets: list[CellSet], net: StarterNet
) -> None:
    baseline = torch.log(torch.from_numpy(objective.mean_rates(sets)).float())
    even = torch.ones(N_GENES)
    with torch.inference_mode():
        # An untouched head predicts the bias, so that the sum over all hidden genes can be written down.
        net.bias.copy_(baseline)
        net.token_head[-1].weight.zero_()
        sampled, exact = [], []
        for seed in range(60):
            batch = a_batch(sets, seed=seed, thin=0.0)
            sampled.append(float(objective.losses(net, batch, baseline, even)["token"]))
            full = batch.exposure * baseline.exp() - batch.hidden * baseline
            exact.append(float((full.sum(1) / (batch.exposure @ baseline.exp())).mean()))
    error = np.std(np.subtract(sampled, exact)) / np.sqrt(len(sampled))
    assert abs(np.mean(sampled) - np.mean(exact)) < 4 * error


# ---------------------------------------------------------------------------------------- network


def some_cells(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    longest = max(lengths) + 1
    ids = np.zeros((len(lengths), longest), np.int64)
    values, mask = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, bool)
    mask[:, 0] = True
    for b, n in enumerate(lengths):
        ids[b, 1 : n + 1] = rng.choice(N_GENES, n, replace=False) + 1
        values[b, 1 : n + 1] = rng.gamma(2.0, 1.0, n)
        mask[b, 1 : n + 1] = True
    return torch.from_numpy(ids), torch.from_numpy(values), torch.from_numpy(mask)


@torch.inference_mode()
def test_cell_vector_alone_equals_that_of_the_whole_pass(net: StarterNet) -> None:
    ids, values, mask = some_cells([5, 40, 120])
    torch.testing.assert_close(
        net.encode_cell(ids, values, mask), net.embed_cell(net(ids, values, mask)), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_padding_gene_order_and_neighbours_change_nothing(net: StarterNet) -> None:
    ids, values, mask = some_cells([5, 40, 120])
    alone = net.encode_cell(ids[:1, :6], values[:1, :6], mask[:1, :6])
    torch.testing.assert_close(net.encode_cell(ids, values, mask)[:1], alone, atol=1e-5, rtol=0)
    order = torch.tensor([0, 4, 2, 5, 1, 3])
    torch.testing.assert_close(
        net.encode_cell(ids[:1, order], values[:1, order], mask[:1, order]), alone, atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_asking_for_a_gene_changes_nothing_about_the_cell(net: StarterNet) -> None:
    ids, values, mask = some_cells([30, 30])
    query = torch.zeros_like(mask)
    query[:, -6:] = True
    asked = net(ids, values, mask, query)
    without = net(ids[:, :-6], values[:, :-6], mask[:, :-6])
    torch.testing.assert_close(asked[:, :-6], without, atol=1e-5, rtol=0)
    other = values.clone()
    other[:, -6:] = 7.0  # a hidden value is not read
    torch.testing.assert_close(net(ids, other, mask, query), asked, atol=0, rtol=0)


@torch.inference_mode()
def test_a_gene_not_measured_is_not_a_gene_not_expressed(net: StarterNet) -> None:
    ids, values, mask = some_cells([40])
    seen = torch.zeros(N_GENES, dtype=torch.bool)
    seen[ids[0, 1:] - 1] = True
    everywhere = net.encode_cell(ids, values, mask, torch.ones(N_GENES, dtype=torch.bool))
    torch.testing.assert_close(everywhere, net.encode_cell(ids, values, mask), atol=1e-6, rtol=0)
    assert (net.encode_cell(ids, values, mask, seen) - everywhere).abs().max() > 1e-3


@torch.inference_mode()
def test_attention_rows_sum_to_one_and_skip_padding(net: StarterNet) -> None:
    ids, values, mask = some_cells([5, 40])
    weights = net.attention(ids, values, mask, layer=1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
    assert weights[0, :, :, 6:].abs().max() == 0


# --------------------------------------------------------------------------------------- training

SMALL = Recipe(
    width=32,
    layers=2,
    heads=2,
    ffn=32,
    decoder_width=16,
    epochs=3.0,
    batch=16,
    masking=Masking(lengths=(64,), queries=8),
)


def test_every_cell_is_seen_once_an_epoch(sets: list[CellSet]) -> None:
    steps = schedule(sets, SMALL)
    for i, cellset in enumerate(sets):
        seen = np.concatenate([rows for chosen, rows in steps if chosen == i])
        np.testing.assert_array_equal(np.bincount(seen, minlength=len(cellset)), np.full(len(cellset), 3))


def test_learning_rate_warms_up_and_comes_down() -> None:
    rates = [learning_rate(s, 1000, SMALL) for s in range(1000)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(SMALL.rate, rel=1e-3)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top + 1 :]))


def test_training_beats_the_mean_of_each_gene(sets: list[CellSet]) -> None:
    last = [found for _, _, found, _ in train(sets, SMALL)][-10:]
    cell, floor = (np.mean([f[k] for f in last]) for k in ("cell", "floor"))
    assert cell < floor - 0.02


def test_a_run_that_was_stopped_ends_in_the_same_weights(sets: list[CellSet], tmp_path: Path) -> None:
    whole = [net for _, _, _, net in train(sets, SMALL)][-1]
    for step, _, _, _ in train(sets, SMALL, checkpoint=tmp_path, every=7):
        if step == 16:
            break
    steps = []
    for step, _, _, resumed in train(sets, SMALL, checkpoint=tmp_path, every=7):  # noqa: B007
        steps.append(step)
    assert steps[0] == 15
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0, msg=name)


# ---------------------------------------------------------------------------------- shipped files


def test_shipped_weights_are_small_and_complete() -> None:
    from safetensors.torch import load_file

    weights = ASSETS / "starter" / "model.safetensors"
    assert weights.stat().st_size <= 10_000_000
    config = json.loads((ASSETS / "starter" / "config.json").read_text())
    net = StarterNet(config["network"])
    net.load_state_dict(load_file(weights))
    assert config["parameters"] == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", ["starter", "pca", "sctop"])
def test_cards_name_their_data_by_digest(name: str) -> None:
    config = json.loads((ASSETS / name / "config.json").read_text())
    card = (ASSETS / name / "card.md").read_text()
    for record in config["training"]["data"]:
        assert record["file_sha256"] in card
        assert record["cell_set_sha256"] in card


@pytest.mark.parametrize("name", ["starter", "pca"])
def test_shipped_model_tells_held_out_types_apart(name: str, shared_data: Path) -> None:
    """Naive T cells, B cells, monocytes and NK cells that no weight was fitted to are told apart."""
    from sklearn.neighbors import KNeighborsClassifier

    adata = corpus.read_anndata("pbmc3k_raw")
    kinds = ["Naive CD4 T", "B", "CD14+ Mono", "NK"]
    out = corpus.held_out(np.asarray(adata.obs_names))
    wanted = adata.obs["cell_type"].isin(kinds).to_numpy()
    adata = adata[wanted].copy()
    out = out[wanted]
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    bundled = sl.datasets.load("pbmc68k")
    adata.obs["total_counts_all_genes"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata = adata[:, adata.var_names.isin(bundled.var_names)].copy()
    found = sl.embed(adata, name, progress=False).vectors
    guess = KNeighborsClassifier(15, metric="cosine").fit(found[~out], labels[~out]).predict(found[out])
    assert (guess == labels[out]).mean() > 0.95


def test_expected_counts_beat_the_mean_of_each_gene(shared_data: Path, vocabulary: Vocabulary) -> None:
    """Half of a held-out cell's molecules predict the other half better than the genes' means do."""
    model = sl.load_model("starter", device="cpu")
    reference = corpus.load("pbmc3k_raw", vocabulary)
    cells = corpus.load("pbmc3k_raw", vocabulary, part="held out")
    rows = np.arange(100)
    counts, total = cells.counts[rows], cells.total[rows]
    rng = np.random.default_rng(0)
    shown = counts.copy()
    shown.data = rng.binomial(counts.data.astype(int), 0.5).astype(np.float32)
    hidden = (counts - shown).toarray()
    shown.eliminate_zeros()
    lengths = np.diff(shown.indptr)
    values = np.log1p(shown.data / np.repeat(total / 2, lengths) * 1e4).astype(np.float32)
    tokens = sl.Tokens(
        ids=shown.indices.astype(np.int64),
        values=values,
        offsets=shown.indptr.astype(np.int64),
        measured=np.flatnonzero(cells.measured),
    )
    rate = model.expected_counts(model.encode(tokens).cell, np.arange(len(vocabulary)))
    mean = np.maximum(np.asarray(reference.counts.T @ (1e4 / reference.total)).ravel() / len(reference), 1e-3)
    exposure = total[:, None] / 2e4

    def loss(r: np.ndarray) -> float:
        return float(((r * exposure - hidden * np.log(r)).sum(axis=1) / hidden.sum(axis=1)).mean())

    assert loss(rate) < loss(np.tile(mean, (len(rows), 1))) - 0.05
