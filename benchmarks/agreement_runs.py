"""What the lab makes of each array that a reference left behind.

One function for each family (scGPT and Geneformer here, the others in
``agreement_more.py``): it opens the checkpoint of a folder of reference outputs, reads its
cells, and yields (name of the array, what the lab gives, tolerance). A tolerance of 0 means
identical. ``benchmarks/agreement.py`` compares, and says which arrays no function yielded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm_lab as sl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scfm_lab.models.tokens import Tokens

Found = tuple[str, Any, float] | tuple[str, Any, float, float]
"""Name, what the lab gives, absolute tolerance, and where numbers are large a relative one."""

CELLS = 1e-4
"""The absolute part is never looser than this, whatever a fixture allows."""


@dataclass(frozen=True)
class Run:
    """A folder of reference outputs."""

    folder: Path
    about: dict[str, Any]
    expected: dict[str, np.ndarray]
    device: str = "cpu"

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> Run:
        """Read ``fixture.json`` and ``expected.npz``."""
        about = json.loads((folder / "fixture.json").read_text())
        return cls(folder, about, dict(np.load(folder / "expected.npz")), device)

    def cells(self) -> Any:
        """The cells that the reference was given."""
        import anndata as ad

        return ad.read_h5ad(self.folder / self.about.get("cells", "cells.h5ad"))

    def atol(self, name: str) -> float:
        """The absolute part of the fixture's tolerance, a number or a text with ``atol``, and never more than 1e-4."""
        told = self.about["tolerances"].get(name, CELLS)
        if isinstance(told, str):
            words = told.split()
            told = float(words[words.index("atol") + 1]) if "atol" in words else CELLS
        return min(float(told), CELLS)


def as_ordered(found: Any, wanted: np.ndarray) -> np.ndarray:
    """The same values in the order of the reference, which follows its own sorting; else as they are."""
    found = np.asarray(found)
    return wanted if np.array_equal(np.sort(found), np.sort(wanted)) else found


# --- scGPT ------------------------------------------------------------------------------------


def scgpt(run: Run) -> Iterator[Found]:
    """Tokens of the reference's own stream, vectors, states, both decoders, the preprocessor's bins."""
    import scanpy as sc
    import torch

    from scfm_lab.models.scgpt_bins import bin_interval, preprocessor_bins, quantile_edges

    z, cells = run.expected, run.cells()
    model: Any = sl.load_model(run.folder / run.about["checkpoint"], device=run.device, precision="float32")
    hidden, heads = run.atol("hidden_atol"), run.atol("mlm_mvc_atol")
    made = {}
    for case, setup in run.about["cases"].items():
        options = {"max_length": setup["max_length"], "like_reference": True}
        tokens = made[case] = model.tokenize(cells, options=options, seed=setup["rng_seed"])
        yield f"{case}.token_ids", tokens.ids, 0
        yield f"{case}.token_values", tokens.values, 0
        yield f"{case}.offsets", tokens.offsets, 0
        yield f"{case}.cell_emb_raw", model.encode(tokens, pooling="cls_raw").cell, hidden
        yield f"{case}.cell_emb", model.encode(tokens).cell, run.atol("cell_emb_atol")
    known = model.match(model.read_cells(cells).genes)
    x = cells.X.tocsr()[:, known.columns]
    x.sort_indices()
    lengths = np.diff(x.indptr)
    low, high = bin_interval(x.data, lengths, quantile_edges(x.data, lengths))
    yield "full.bin_lo", low, 0
    yield "full.bin_hi", high, 0
    yield "detail.cells", z["detail.cells"], 0
    for cell in z["detail.cells"]:
        one = made["full"].take(np.array([cell]))
        states = model.encode(one, genes=True, pooling="cls_raw")
        yield f"detail.{cell}.hidden_last", states.genes, hidden
        yield f"detail.{cell}.mlm_output", model.decode_values(states.genes), heads
        yield f"detail.{cell}.mvc_output", model.decode_cells(states.cell, one.ids)[0], heads
        if f"detail.{cell}.layers" in z:
            n = model.spec.layers
            layers = [model.encode(one, genes=True, hidden_layer=i + 1).genes for i in range(n)]
            yield f"detail.{cell}.layers", np.stack(layers), hidden
            with torch.inference_mode():
                yield f"detail.{cell}.gene_token_emb", model.net.gene_table(one.ids).cpu().numpy(), hidden
                values = model.net.value_encoder(torch.as_tensor(one.values, device=run.device)).cpu().numpy()
            yield f"detail.{cell}.value_emb", values, hidden
    yield "gene_emb.ids", z["gene_emb.ids"], 0
    with torch.inference_mode():
        yield "gene_emb.values", model.net.gene_table(z["gene_emb.ids"]).cpu().numpy(), hidden
    setup = run.about["preproc10"]
    yield "preproc10.gene_index", known.columns, 0
    ten = cells[:10, known.columns].copy()
    sc.pp.normalize_total(ten, target_sum=setup["normalize_total"])
    sc.pp.log1p(ten)
    x = ten.X.tocsr()
    lengths = np.diff(x.indptr)
    bins, edges = preprocessor_bins(x.data, lengths, n_bins=setup["n_bins"], seed=setup["rng_seed"])
    yield "preproc10.rows", np.repeat(np.arange(10), lengths), 0
    yield "preproc10.cols", x.indices, 0
    yield "preproc10.binned", bins, 0
    yield "preproc10.bin_edges", edges, 1e-6


# --- Geneformer -------------------------------------------------------------------------------

_LAYERS = {"layer-1": -2, "layer0": -1}
_POOLING = {"cell": "mean", "cls": "cls"}


def geneformer(run: Run) -> Iterator[Found]:
    """Rank encodings, vectors, states, logits, and the published in-silico perturbation."""
    import anndata as ad

    from scfm_lab.models.geneformer_rank import Ranker

    z, cells = run.expected, run.cells()
    model: Any = sl.load_model(run.folder / run.about["checkpoint"], device=run.device, precision="float32")
    emb, hidden = run.atol("emb_atol"), run.atol("hidden_atol")
    tokens = model.tokenize(cells)
    short = {"max_length": run.about["tokenizer"]["trunc_case_model_input_size"]}
    made = {"main": tokens, "trunc": model.tokenize(cells, options=short)}
    if "cells_dup" in run.about:
        made["dup"] = model.tokenize(ad.read_h5ad(run.folder / run.about["cells_dup"]))
    for case, some in made.items():
        yield f"{case}.input_ids", some.ids, 0
        yield f"{case}.offsets", some.offsets, 0
        yield f"{case}.length", some.lengths, 0
    read = model.read_cells(cells)
    ranked = Ranker(read, model.match(read.genes), model.medians)()
    room = model.spec.max_length - (2 if model.has_cls else 0)
    yield "main.norm_values", ranked.keep(ranked.ranks < room).values, 1e-9
    for key in [k for k in z if k.startswith("emb.") and k.split(".")[-1] in _LAYERS]:
        _, mode, layer = key.split(".")
        found = model.encode(tokens, hidden_layer=_LAYERS[layer], pooling=_POOLING[mode]).cell
        yield key, found, emb
        if f"{key}.exact_mean" in z:
            yield f"{key}.exact_mean", found.mean(axis=0, keepdims=True), emb
            yield f"{key}.exact_median", np.median(found, axis=0, keepdims=True), emb
    # Longest first; which of two equally long cells comes first is the reference's sort's affair.
    order = z["emb.reference_row_order"]
    mine = np.argsort(-tokens.lengths, kind="stable")
    same = np.array_equal(tokens.lengths[order], tokens.lengths[mine]) and len(np.unique(order)) == len(order)
    yield "emb.reference_row_order", order if same else mine, 0
    subset = z["subset.cells"]
    yield "subset.cells", subset, 0
    table = model.contextual_gene_embeddings(tokens.take(subset))
    yield "gene.tokens", as_ordered(table.index, z["gene.tokens"]), 0
    yield "gene.layer-1", table.loc[z["gene.tokens"]].to_numpy(), hidden
    one, two = z["detail.cells"]
    yield "detail.cells", z["detail.cells"], 0
    single = tokens.take(np.array([one]))
    layers = [model.encode(single, genes=True, hidden_layer=i).genes for i in range(model.spec.layers + 1)]
    yield f"detail.{one}.hidden_all_layers", np.stack(layers), hidden
    at = z[f"detail.{one}.mlm_logits_pos"]
    yield f"detail.{one}.mlm_logits_pos", at, 0
    yield f"detail.{one}.mlm_logits", model.gene_logits(layers[-1])[at], run.atol("mlm_logits_atol")
    last = model.encode(tokens.take(np.array([two])), genes=True, hidden_layer=-1).genes
    yield f"detail.{two}.hidden_last", last, hidden
    yield from _in_silico(run, model, cells, tokens)


def _in_silico(run: Run, model: Any, cells: Any, tokens: Tokens) -> Iterator[Found]:
    z, setup, cos, emb = run.expected, run.about["isp"], run.atol("cos_atol"), run.atol("emb_atol")
    subset, mode = z["subset.cells"], "cls" if model.has_cls else "cell"
    for kind, perturb in (("delete", model.delete), ("overexpress", model.overexpress)):
        result = perturb(tokens.take(subset), [setup[f"{kind}_gene"]], per_gene=True)
        there = {cell: i for i, cell in enumerate(subset[result.cells])}
        order = z[f"isp.cell_order_{kind}"]
        yield f"isp.cell_order_{kind}", as_ordered(list(there), order), 0
        places = np.array([there[cell] for cell in order])
        yield f"isp.{kind}.{mode}.cos", result.cosine[places], cos
        both = f"isp.{kind}.{mode}_and_gene"
        yield f"{both}.cell_cos", result.cosine[places], cos
        genes = result.per_gene.set_index("token")
        yield f"{both}.gene_tokens", as_ordered(genes.index, z[f"{both}.gene_tokens"]), 0
        told = genes.reindex(z[f"{both}.gene_tokens"])
        yield f"{both}.gene_cos_mean", told["cosine"].to_numpy(), cos
        yield f"{both}.gene_cos_n", told["n_cells"].to_numpy(), 0
        perturbed = result.tokens.take(places)
        yield f"isp.{kind}.perturbed_ids", perturbed.ids, 0
        yield f"isp.{kind}.perturbed_offsets", perturbed.offsets, 0
        for key in [k for k in z if k.startswith(f"isp.{kind}.emb.")]:
            yield key, model.encode(perturbed, pooling=_POOLING[key.split(".")[3]]).cell, emb
        every = model.perturb_each(tokens.take(z["isp.all.cell"]), kind)
        by_token = np.argsort(every.genes)
        yield f"isp.all.{kind}.tokens", as_ordered(every.genes, z[f"isp.all.{kind}.tokens"]), 0
        wanted = np.searchsorted(every.genes[by_token], z[f"isp.all.{kind}.tokens"])
        yield f"isp.all.{kind}.cos", every.cosine[by_token][wanted], cos
    yield "isp.all.cell", z["isp.all.cell"], 0
    n_genes = cells.obs["n_genes"]
    states = np.where(n_genes > n_genes.median(), "high", "low")
    vectors = model.state_embeddings(tokens, states)
    rows = z["isp.delete.goal.cell_order"]
    moved = model.delete(tokens.take(rows.astype(np.int64)), [setup["delete_gene"]], states=vectors)
    started = np.array_equal(states[rows] == setup["goal"]["start_state"], np.ones(len(rows), dtype=bool))
    yield "isp.delete.goal.cell_order", rows if started else np.empty(0), 0
    for name in ("low", "high"):
        yield f"state_emb.{name}", vectors[name], emb
        yield f"isp.delete.goal.{name}", moved.shift[name], cos
