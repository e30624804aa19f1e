"""Small checkpoints of scGPT and Geneformer with drawn weights, so that their formats are tested in every checkout."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """Tensors of the shapes given; norms near 1, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator) * scale
        if name.endswith("running_var"):
            tensor = tensor.abs() + 0.5
        elif name.endswith("weight") and len(shape) == 1:
            tensor += 1
        tensors[name] = tensor
    return tensors


def scgpt_shapes(n: int, d: int, f: int, layers: int, style: str = "continuous") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published scGPT file."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (n, d), "flag_encoder.weight": (2, d)}

    def pair(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    pair("encoder.enc_norm", d)
    if style == "continuous":
        pair("value_encoder.linear1", d, 1)
        pair("value_encoder.linear2", d, d)
        pair("value_encoder.norm", d)
    elif style == "category":
        shapes["value_encoder.embedding.weight"] = (53, d)
        pair("value_encoder.enc_norm", d)
    for i in range(layers):
        layer = f"transformer_encoder.layers.{i}."
        pair(layer + "self_attn.Wqkv", 3 * d, d)
        pair(layer + "self_attn.out_proj", d, d)
        pair(layer + "linear1", f, d)
        pair(layer + "linear2", d, f)
        pair(layer + "norm1", d)
        pair(layer + "norm2", d)
    for i, rows in ((0, d), (2, d), (4, 1)):
        pair(f"decoder.fc.{i}", rows, d)
    pair("mvc_decoder.gene2query", d, d)
    shapes["mvc_decoder.W.weight"] = (d, d)
    return shapes


# --- scGPT -------------------------------------------------------------------------------------


def write_scgpt(
    folder: Path,
    adata: AnnData,
    *,
    d: int = 24,
    heads: int = 3,
    f: int = 40,
    layers: int = 2,
    genes: list[str] | None = None,
    style: str = "continuous",
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
    seed: int = 0,
    **args: Any,
) -> Path:
    """A folder of scGPT that knows most of the genes of `adata`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(genes if genes is not None else adata.var_names[20:])
    # The order of the file is not that of the ids.
    tokens = [*names, "<pad>", "<cls>", "<eoc>"]
    vocabulary = dict(sorted(((t, i) for i, t in enumerate(tokens)), reverse=True))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    settings = {
        "embsize": d,
        "nheads": heads,
        "d_hid": f,
        "nlayers": layers,
        "n_layers_cls": 3,
        "pad_token": "<pad>",
        "pad_value": 0 if style == "category" else -2,
        "input_emb_style": style,
        "fp16": True,
    }
    (folder / "args.json").write_text(json.dumps(settings | args))
    torch.save(change(drawn(scgpt_shapes(len(tokens), d, f, layers, style), seed)), folder / "best_model.pt")
    return folder


# --- Geneformer --------------------------------------------------------------------------------


def geneformer_shapes(n: int, d: int, f: int, layers: int, positions: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published Geneformer file."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (n, d),
        "bert.embeddings.position_embeddings.weight": (positions, d),
        "bert.embeddings.token_type_embeddings.weight": (2, d),
    }

    def pair(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    pair("bert.embeddings.LayerNorm", d)
    for i in range(layers):
        layer = f"bert.encoder.layer.{i}."
        for part in ("query", "key", "value"):
            pair(f"{layer}attention.self.{part}", d, d)
        pair(layer + "attention.output.dense", d, d)
        pair(layer + "attention.output.LayerNorm", d)
        pair(layer + "intermediate.dense", f, d)
        pair(layer + "output.dense", d, f)
        pair(layer + "output.LayerNorm", d)
    pair("cls.predictions.transform.dense", d, d)
    pair("cls.predictions.transform.LayerNorm", d)
    shapes["cls.predictions.bias"] = (n,)
    return shapes


def write_geneformer(
    folder: Path,
    adata: AnnData,
    *,
    version: str = "V2",
    d: int = 24,
    heads: int = 3,
    f: int = 40,
    layers: int = 3,
    positions: int = 512,
    dictionaries: str = "dictionaries",
    weights: str = "model.safetensors",
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A folder of Geneformer with its dictionaries, that knows the genes of `adata` which have an Ensembl id."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = adata.var["ensembl_id"].astype(str)
    symbols = symbols[symbols.str.startswith("ENSG") & ~symbols.duplicated()]
    genes = sorted(symbols)[10:]
    specials = ["<pad>", "<mask>"] + (["<cls>", "<eos>"] if version == "V2" else [])
    number = np.int16 if version == "V1" else int
    tokens: dict[str, Any] = {name: i for i, name in enumerate(specials)}
    tokens |= {gene: number(i) for i, gene in enumerate(genes, len(specials))}
    random = np.random.default_rng(seed)
    medians = {gene: np.float64(m) for gene, m in zip(genes, random.uniform(0.5, 5, len(genes)), strict=True)}
    names = {symbol: gene for symbol, gene in symbols.items() if gene in tokens}
    mapping = {gene: gene for gene in genes}
    if version == "V2":
        mapping |= {symbol.upper(): gene for symbol, gene in names.items()}
    place = folder / dictionaries
    place.mkdir(parents=True, exist_ok=True)
    suffix = "gc30M" if version == "V1" else "gc104M"
    for kind, content in (
        ("token_dictionary", tokens),
        ("gene_median_dictionary", medians),
        ("ensembl_mapping_dict", mapping),
        ("gene_name_id_dict", names),
    ):
        (place / f"{kind}_{suffix}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    settings = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "relu",
        "hidden_size": d,
        "intermediate_size": f,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(tokens),
    }
    (folder / "config.json").write_text(json.dumps(settings | config))
    tensors = change(drawn(geneformer_shapes(len(tokens), d, f, layers, positions), seed))
    if weights.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(tensors, folder / weights)
    else:
        torch.save(tensors, folder / weights)
    return folder
