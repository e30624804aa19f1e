"""What the lab makes of each array that the references of UCE, TranscriptFormer, scFoundation and scBERT left behind."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm_lab as sl
from scfm_lab.models.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agreement_runs import Found, Run


def _filled(flat: np.ndarray, offsets: np.ndarray, like: np.ndarray, fill: float) -> np.ndarray:
    out = np.full(like.shape, fill, dtype=flat.dtype)
    for row, (begin, end) in enumerate(pairwise(offsets)):
        out[row, : end - begin] = flat[begin:end]
    return out


def _rectangular(ids: np.ndarray, values: np.ndarray | None = None, **cell: Any) -> Tokens:
    n, length = ids.shape
    flat = None if values is None else values.ravel().astype(np.float32)
    return Tokens(ids.ravel().astype(np.int64), flat, np.arange(n + 1) * length, cell=cell)


# --- UCE --------------------------------------------------------------------------------------


def uce(run: Run) -> Iterator[Found]:
    """Gene rows, draws, sentences, vectors with and without the reference's padding, states, logits."""
    import pandas as pd
    import torch

    from scfm_lab.models.uce_reference import reference_weights
    from scfm_lab.models.uce_sentences import CLS

    z, cells, setup = run.expected, run.cells(), run.about["run"]
    config = {"nhead": run.about["config"]["nhead"]}
    model: Any = sl.load_model(run.folder / "model_files", device=run.device, precision="float32", config=config)
    genes, hidden = model.species.genes(setup["species"]), run.atol("hidden")
    names = pd.Index(genes.symbols)
    at = names.get_indexer([name.upper() for name in z["gene_names"]])
    yield "gene_token_index", genes.rows[at], 0
    yield "gene_chrom_code", genes.chromosomes[at], 0
    yield "gene_start", genes.starts[at], 0
    kept = cells.obs_names.get_indexer(z["obs_names"])
    options = {"like_reference": True, "batch_size": setup["batch_size"], "species": setup["species"]}
    options["filter"] = bool(setup["filter"])
    tokens = model.tokenize(cells, options=options, seed=setup["numpy_global_seed"])
    seen = np.flatnonzero(tokens.genes_seen > 0)
    yield "obs_names", cells.obs_names.to_numpy()[seen].astype(str), 0
    there = np.asarray((cells.X > 0).sum(axis=0)).ravel() >= (10 if setup["filter"] else 0)
    mine = [name for name, use in zip(cells.var_names, there, strict=True) if use and name.upper() in names]
    yield "gene_names", np.array(mine), 0
    counts = cells[z["obs_names"][:2], z["gene_names"]].X.toarray()
    yield "sample_weights_first2", np.stack([reference_weights(row) for row in counts]), 1e-9
    own = tokens.take(kept)
    yield "tokens", _filled(own.ids, own.offsets, z["tokens"], 0), 0
    yield "seq_len", own.lengths, 0
    yield from _drawn(z, own, genes, CLS)
    yield "cell_embedding", model.encode(tokens).cell[kept], run.atol("cell_embedding")
    free = Tokens(own.ids, None, own.offsets)
    alone = model.encode(free).cell
    yield "cell_embedding_batch1", alone, run.atol("cell_embedding")
    yield "cell_embedding_bool_mask", alone, run.atol("cell_embedding")
    longest = len(z["encoder_input_first2"])
    net, lengths, known = model.net, np.full(2, longest), z["seq_len"][:2].astype(np.int64)
    ids = torch.from_numpy(z["tokens"][:2, :longest].reshape(-1).astype(np.int64))
    with torch.inference_mode():
        rows = net.encode_rows(model.species.table.take(ids.numpy()))
        states = net.leaky(net.place(rows, lengths), lengths, known, model.spec.layers)
        for name, found in (
            ("encoder_input", rows / net.width**0.5),
            ("encoder_output", states),
            ("decoder_output", net.decode(states)),
        ):
            yield f"{name}_first2", found.cpu().numpy().reshape(2, longest, -1).transpose(1, 0, 2), hidden
    for normalised, name in ((True, "normalized_pe"), (False, "raw_pe")):
        asked = z["gene_names"][:200].tolist()
        logits = model.expression_logits(
            z["cell_embedding"][:2], asked, normalised=normalised, species=setup["species"]
        )
        yield f"predict_logits_first2_{name}", logits, run.atol("logits")


def _drawn(z: dict[str, np.ndarray], own: Tokens, genes: Any, cls: int) -> Iterator[Found]:
    """Draws and chromosome order, read back from the sentences."""
    first = genes.chromosome_row
    order = np.full(z["chrom_order"].shape, -1)
    draws = np.empty(z["sampled_gene_index"].shape, dtype=np.int64)
    for row in range(len(own)):
        ids = own.ids[own.offsets[row] : own.offsets[row + 1]]
        codes = ids[(ids >= first) & (ids < first + len(genes.chromosome_names))] - first
        order[row, : len(codes)] = codes
        draws[row] = np.sort(ids[np.isin(ids, genes.rows) & (ids != cls)])
    yield "chrom_order", order, 0
    # A sentence holds the draws in reading order: the same genes, as often.
    wanted = np.sort(z["gene_token_index"][z["sampled_gene_index"]], axis=1)
    yield "sampled_gene_index", z["sampled_gene_index"] if np.array_equal(draws, wanted) else draws, 0


# --- TranscriptFormer -------------------------------------------------------------------------


def transcriptformer(run: Run) -> Iterator[Found]:
    """Tokens, vectors, states of every layer, expected counts, likelihoods, gene logits."""
    z, cells = run.expected, run.cells()
    given = run.about.get("pretrained_embedding")
    files = {"pretrained_embedding": run.folder / given} if given else None
    path = run.folder / run.about["checkpoint_dir"]
    model: Any = sl.load_model(path, device=run.device, precision="float32", files=files)
    hidden, logits = run.atol("hidden"), run.atol("logits")
    known = ("clip_counts", "normalize_to_scale", "sort_genes", "min_expressed_genes")
    options = {k: v for k, v in run.about["run"].items() if k in known and k in model.spec.options}
    tokens = model.tokenize(cells, options=options | {"like_reference": True})
    yield "obs_names", cells.obs_names.to_numpy().astype(str), 0
    yield "gene_token_indices", _filled(tokens.ids, tokens.offsets, z["gene_token_indices"], model.ids.pad), 0
    assert tokens.values is not None
    yield "gene_counts", _filled(tokens.values, tokens.offsets, z["gene_counts"], 0), 0
    yield "aux_token_indices", np.stack([tokens.cell[name] for name in model.aux], axis=1), 0
    yield "cell_embedding", model.encode(tokens).cell, run.atol("cell_embedding")
    yield "esm2ce_embedding", model.encode(tokens, pooling="esm2ce").cell, run.atol("cell_embedding")
    yield "llh", model.likelihoods(tokens).llh, logits
    aux = {name: z["aux_token_indices"][:, i] for i, name in enumerate(model.aux)}
    two = _rectangular(z["gene_token_indices"], z["gene_counts"], **aux).take(z["two_cells"])
    yield "two_cells", z["two_cells"], 0
    yield "mask", (two.ids == model.ids.hidden).reshape(2, -1), 0
    for training, name in ((False, "embed"), (True, "causal")):
        states = np.stack(model.hidden_states(two, training=training))
        yield f"encoder_output_{name}", states[:, -1], hidden
        if not training:
            yield "encoder_input", states[:, 0], hidden
            yield "layer_outputs", states[:, 1:].swapaxes(0, 1), hidden
        told = model.likelihoods(two, training=training)
        yield f"mu_{name}", np.nan_to_num(told.mu.reshape(2, -1)), logits, 1e-5
        yield f"gene_logit_{name}", np.stack(model.gene_logits(two, first=40, training=training)), logits
        if training:
            yield "llh_causal", told.llh, logits
    found = model.contextual_gene_embeddings(cells, options=options)
    n = len(z["cge_embeddings_first3000"])
    yield "cge_embeddings_first3000", found.embeddings[:n], hidden
    yield "cge_cell_indices", found.cell_indices[:n], 0
    yield "cge_gene_names", found.gene_names[:n].astype(str), 0


# --- scFoundation -----------------------------------------------------------------------------


def scfoundation(run: Run) -> Iterator[Found]:
    """Tokens, vectors for every kind of input and depth, encoder states, gene states, expected expression."""
    import anndata as ad

    z, cells = run.expected, run.cells()
    model: Any = sl.load_model(
        run.folder / run.about["files"]["checkpoint"].split()[0], device=run.device, precision="float32"
    )
    cell, hidden, gene = run.atol("cell"), run.atol("hidden"), run.atol("gene")
    tokens = model.tokenize(cells)
    yield "obs_names", cells.obs_names.to_numpy().astype(str), 0
    read = model.read_cells(cells)
    known = np.sort(model.vocabulary.symbols[np.unique(model.match(read.genes).ids)].astype(str))
    wanted = z["gene_names_used"]
    yield "gene_names_used", wanted if np.isin(known, wanted).all() else known, 0
    yield "seq_len", tokens.lengths, 0
    yield "token_positions", _filled(tokens.ids, tokens.offsets, z["token_positions"], -1), 0
    assert tokens.values is not None
    yield "token_values", _filled(tokens.values, tokens.offsets, z["token_values"], 0), 1e-9, 1e-6
    yield "cell_all", model.encode(tokens).cell, cell
    yield "cell_max", model.encode(tokens, pooling="max").cell, cell
    for name, options in (
        ("cell_all_rde_f1", {"version": "rde", "tgthighres": "f1"}),
        ("cell_all_a5", {"tgthighres": "a5"}),
        ("bulk_cell_all_F", {"input_type": "bulk"}),
    ):
        yield name, model.encode(model.tokenize(cells, options=options)).cell, cell
    place = {name: i for i, name in enumerate(model.vocabulary.symbols)}
    known_names = [name in place for name in cells.var_names]
    counts = np.zeros((cells.n_obs, len(place)))
    counts[:, [place[name] for name in cells.var_names[known_names]]] = cells.X.toarray()[:, known_names]
    total = counts.sum(axis=1, keepdims=True)
    normal = ad.AnnData(np.log1p(counts / total * 1e4).astype(np.float32), obs=cells.obs[[]].copy())
    normal.var_names = model.vocabulary.symbols.astype(str)
    normal.obs["total_counts"] = total[:, 0]
    for name, some, kind in (("T", normal, "T"), ("A_first4", normal[:4].copy(), "A")):
        yield (
            f"cell_all_prenorm_{name}",
            model.encode(model.tokenize(some, options={"pre_normalized": kind})).cell,
            cell,
        )
    two = model.tokenize(cells[:2].copy())
    for row in range(2):
        one = two.take(np.array([row]))
        yield f"encoder_input_cell{row}", model.encode(one, genes=True, hidden_layer=0).genes, hidden
        yield f"encoder_output_cell{row}", model.encode(one, genes=True).genes, hidden
    yield "gene_embedding_stride8", model.gene_states(two)[:, ::8], gene
    three = model.tokenize(cells[:3].copy(), options={"like_reference": True})
    yield "gene_batch_embedding_stride8", model.gene_states(three, batch_size=3)[:, ::8], gene
    yield "gene_expression_prediction", model.gene_expression(two), gene


# --- scBERT -----------------------------------------------------------------------------------


def scbert(run: Run) -> Iterator[Found]:
    """Normalised values, bins, encodings, the three poolings, both heads."""
    from scfm_lab.models.contract import aligned_counts
    from scfm_lab.models.scbert_tokens import log2_normalised

    cells, files = run.cells(), run.about["files"]
    model: Any = sl.load_model(run.folder / files["pretrained"].split()[0], device=run.device, precision="float32")
    encodings = run.atol("encodings")
    like = {"like_reference": True}
    everything = model.tokenize(cells, options=like)
    kept = np.flatnonzero(~everything.cell["left_out"])
    tokens = everything.take(kept)
    yield "obs_names", cells.obs_names.to_numpy()[kept].astype(str), 0
    yield "ref_genes", model.vocabulary.symbols.astype(str), 0
    four = model.read_cells(cells[kept[:4]].copy())
    counts = aligned_counts(four, model.match(four.genes), len(model.vocabulary))
    values = log2_normalised(counts, np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    yield "normalized", values.toarray(), 1e-9, 1e-6
    yield "tokens", tokens.ids.reshape(len(tokens), -1), 0
    for pooling in ("mean", "last_token", "mean_genes_only"):
        yield f"cell_embedding_{pooling}", model.encode(tokens, pooling=pooling).cell, encodings
    two, length = tokens.take(np.arange(2)), model.spec.max_length
    yield "token_encodings_first2", model.encode(two, genes=True).genes.reshape(2, length, -1), encodings
    yield "mlm_logits_first2", model.token_logits(two).reshape(2, length, -1), encodings
    together = model.tokenize(cells[kept[:4]].copy(), options=like | {"batch_size": 4})
    states = model.encode(together, genes=True).genes.reshape(4, length, -1)
    yield "token_encodings_batch4", states[:, ::16], encodings
    tuned: Any = sl.load_model(run.folder / files["finetuned"].split()[0], device=run.device, precision="float32")
    logits = tuned.class_logits(tokens)
    yield "class_logits", logits, run.atol("class_logits")
    yield "class_pred", logits.argmax(axis=1), 0
    yield "class_names", tuned.classes.names.astype(str), 0
