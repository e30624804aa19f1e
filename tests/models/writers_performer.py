"""Small checkpoints of scFoundation and scBERT with drawn weights, so that their formats are tested in every checkout."""

from __future__ import annotations

import pickle  # noqa: TID251 - a published format
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import torch

from scfm_lab.models.scbert_net import ScBertNet
from scfm_lab.models.scfoundation_net import ScFoundationNet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# --- scFoundation ------------------------------------------------------------------------------


def scfoundation_shape(genes: int, **more: Any) -> dict[str, Any]:
    return {
        "n_genes": genes,
        "bins": 7,
        "alpha": 0.7,
        "mask_value": 8.0,
        "pad_value": 9.0,
        "encoder": {"width": 12, "layers": 2, "heads": 3, "ffn": 48},
        "decoder": {
            "n_layers": 2, "width": 10, "heads": 2, "head_width": 4, "features": 6, "ffn": 40, "qkv_bias": True,
        },
    } | more  # fmt: skip


def scfoundation_net(shape: dict[str, Any], seed: int = 0) -> ScFoundationNet:
    net = ScFoundationNet(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.normal_(std=0.4, generator=generator)
    return net.eval()


def one_set(net: ScFoundationNet, shape: dict[str, Any]) -> dict[str, Any]:
    """A set of weights with its configuration, as the published file holds three."""
    state = {f"model.{theirs}": net.state_dict()[ours].clone() for theirs, ours in net.checkpoint_names().items()}
    state["model.decoder.performer.calls_since_last_redraw"] = torch.tensor(3)
    encoder, decoder = shape["encoder"], shape["decoder"]
    network = {
        "encoder": {
            "hidden_dim": encoder["width"], "depth": encoder["layers"], "heads": encoder["heads"], "dim_head": 4,
            "module_type": "transformer", "norm_first": False,
        },
        "decoder": {
            "hidden_dim": decoder["width"], "depth": decoder["n_layers"], "heads": decoder["heads"],
            "dim_head": decoder["head_width"], "module_type": "performer",
        },
        "bin_num": 10, "bin_alpha": shape["alpha"], "seq_len": shape["n_genes"] + 2,
        "mask_token_id": int(shape["mask_value"]), "pad_token_id": int(shape["pad_value"]),
    }  # fmt: skip
    return {
        "config": {
            "model": "mae_autobin",
            "model_config": {"mae_autobin": network},
            "dataset_config": {"rnaseq": {"bin_num": shape["bins"], "num_tokens": 13}},
        },
        "state_dict": state,
        "epoch": 4,
    }


def write_scfoundation(
    path: Path,
    genes: list[str],
    *,
    sets: tuple[str, ...] = ("cell", "rde", "gene"),
    change: Callable[[dict[str, Any]], Any] = lambda content: None,
    **shape: Any,
) -> Path:
    """Write a checkpoint and the index of its genes one folder up, the rows of the index out of order."""
    made = scfoundation_shape(len(genes), **shape)
    content = {name: one_set(scfoundation_net(made, seed), made) for seed, name in enumerate(sets)}
    change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    rows = [f"{gene}\t{i}" for i, gene in reversed(list(enumerate(genes)))]
    index = path.parent.parent / f"OS_scRNA_gene_index.{len(genes)}.tsv"
    index.write_text("\n".join(["gene_name\tindex", *rows]) + "\n")
    return path


# --- scBERT ------------------------------------------------------------------------------------


def write_scbert_file(
    path: Path,
    net: ScBertNet,
    *,
    prefix: str = "",
    bare: bool = False,
    change: Callable[[dict[str, Any]], Any] = lambda content: None,
) -> None:
    """Write a network as scBERT's own training script does, with something wrong if `change` sees to it."""
    names = {ours: theirs for theirs, ours in net.checkpoint_names().items()}
    state = {prefix + names[name]: tensor.clone() for name, tensor in net.state_dict().items()}
    place = prefix + "pos_emb.emb.weight"
    state[place] = state[place].double()
    state[prefix + "performer.calls_since_last_redraw"] = torch.tensor(7)
    content = state if bare else {"epoch": 1, "model_state_dict": state, "losses": 0.5}
    change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def scbert_net(
    genes: int, *, seed: int = 0, head: Any = None, n_tokens: int = 7, bias: bool = False, shape: Any = None
) -> ScBertNet:
    small = {"n_layers": 2, "width": 12, "heads": 3, "head_width": 5, "features": 9, "ffn": 20, "qkv_bias": bias}
    shape = shape or small
    net = ScBertNet(n_tokens, genes + 1, shape, head)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.normal_(std=0.5, generator=generator)
    return net.eval()


def write_scbert(
    root: Path,
    genes: list[str],
    *,
    tuned: bool = True,
    shape: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], Any] = lambda content: None,
) -> Path:
    """A folder of scBERT: a pre-trained file, a fine-tuned one with its classes, and the order of the genes in ``data``."""
    write_scbert_file(root / "ckpts" / "panglao_pretrain.pth", scbert_net(len(genes), shape=shape), change=change)
    if tuned:
        write_scbert_file(root / "tuned" / "best.pth", scbert_net(len(genes), head=(8, 6, 3)))
        for name, value in (("label_dict", np.array(["B", "NK", "T"], dtype=object)), ("label", np.array([0, 2, 1]))):
            (root / "tuned" / name).write_bytes(pickle.dumps(value))
    (root / "data").mkdir()
    order = ad.AnnData(np.zeros((1, len(genes)), np.float32))
    order.var_names = genes
    order.write_h5ad(root / "data" / "panglao_10000.h5ad")
    return root
