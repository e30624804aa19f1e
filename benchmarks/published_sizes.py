"""Checkpoints of published size in the published formats, with drawn weights: what speed is measured on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

WRITERS = Path(__file__).resolve().parents[1] / "tests" / "models"


@dataclass(frozen=True)
class Size:
    """A published model's sizes, as the limit needs them."""

    family: str
    layers: int
    width: int
    heads: int
    ffn: int
    kind: str = "encoder"
    """``encoder``, ``causal`` or ``performer``."""
    cells: int = 32
    """As many as take some ten seconds on two cores."""
    more: dict[str, Any] = field(default_factory=dict)


SIZES = {
    "scgpt": Size("scgpt", 12, 512, 8, 512, cells=64),
    "geneformer-v1-10m": Size("geneformer", 6, 256, 4, 512, cells=256, more={"version": "V1", "positions": 2048}),
    "geneformer-v2-104m": Size("geneformer", 12, 768, 12, 3072, more={"version": "V2", "positions": 4096}),
    "geneformer-v2-316m": Size("geneformer", 18, 1152, 18, 4608, cells=16, more={"version": "V2", "positions": 4096}),
    "uce-4": Size("uce", 4, 1280, 20, 5120, cells=16),
    "uce-33": Size("uce", 33, 1280, 20, 5120, cells=4),
    "transcriptformer": Size("transcriptformer", 12, 2048, 16, 2048, kind="causal", cells=4),
    "scfoundation": Size("scfoundation", 12, 768, 12, 3072),
    "scbert": Size(
        "scbert",
        6,
        200,
        10,
        800,
        kind="performer",
        cells=4,
        more={"head_width": 64, "features": 266, "positions": 16907},
    ),
}


#: Tokens of Geneformer's dictionaries, and how many of them are no genes.
TOKENS = {"V1": (25_426, 2), "V2": (20_275, 4)}


def write(name: str, folder: Path, adata: AnnData, *, exactly: bool = False) -> tuple[Path, dict[str, Any]]:
    """Write a checkpoint that knows the genes of these cells; its path, and what ``config=`` must say.

    With `exactly` every tensor has its published shape, also those that embedding these cells does without: Geneformer knows as
    many genes as published, which are nobody's, and UCE has its decoders and the chromosomes of all species.
    """
    sys.path.insert(0, str(WRITERS))
    import writers
    import writers_performer
    import writers_protein

    size, symbols = SIZES[name], list(adata.var["gene_symbol"].astype(str)[~adata.var["gene_symbol"].duplicated()])
    expressed = set(adata.var["gene_symbol"].astype(str)[np.asarray((adata.X > 0).sum(axis=0)).ravel() > 0])
    d, f = size.width, size.ffn

    def tame(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # As networks are initialised: the writers' values are drawn wider, which saturates a wide network.
        for key, value in tensors.items():
            if value.ndim == 2 and not key.endswith(("pe_embedding.weight",)):
                value.mul_(0.02 / value.std().clamp_min(1e-9))
            elif value.ndim == 1 and key.endswith("bias"):
                value.zero_()
            elif value.ndim == 1 and key.endswith("weight"):
                value.fill_(1.0)
        return tensors

    sizes = {"d": d, "heads": size.heads, "layers": size.layers, "change": tame}
    if size.family == "scgpt":
        # As many tokens as published; the rest are genes that these cells do not have.
        padded = symbols + [f"GENE{i}" for i in range(60_694 - len(symbols))]
        return writers.write_scgpt(folder, adata, genes=padded, f=f, **sizes), {}
    if size.family == "geneformer":
        if exactly:
            adata = _genes_of_nobody(*TOKENS[size.more["version"]])
        return writers.write_geneformer(folder, adata, f=f, **sizes, **size.more), {}
    if size.family == "uce":
        # As many human genes as published, and as many rows of all species: gigabytes, of which these cells ask for little.
        kept = [s for s in symbols if s in expressed]
        kept += [f"GENE{i}" for i in range(19_790 - len(kept))]
        rest = 143_574 - 4 - len(kept) - len(kept[::2])
        more: dict[str, Any] = {}
        if exactly:
            more = {"chromosomes": 1_895, "decoder": (1024, 1280, 1280), "binary_decoder": (2048, 512, 128)}
        writers_protein.write_uce(folder, kept, ffn=f, out=d, protein=5120, rest=rest, **more, **sizes)
        return folder, {"nhead": size.heads}
    if size.family == "transcriptformer":
        # As many genes as published, those of these cells first.
        silent = np.asarray((adata.X > 0).sum(axis=0)).ravel() == 0
        ids = adata.var["ensembl_id"].astype(str).to_numpy()[np.argsort(silent, kind="stable")][:23_822].tolist()
        sizes = {"num_heads": size.heads, "num_layers": size.layers, "embed_dim": d, "model_dim": f, "seq_len": 2047}
        given, assays = {"homo_sapiens_gene.h5": ids}, {"unknown": 0, "10x 3' v1": 1}
        return writers_protein.write_tf(
            folder, given, protein=2560, assays=assays, gene_head_hidden_dim=2048, change=tame, **sizes
        ), {}
    if size.family == "scfoundation":
        genes = (symbols + [f"GENE{i}" for i in range(19_264)])[:19_264]
        encoder = {"width": d, "layers": size.layers, "heads": size.heads, "ffn": f}
        decoder = {
            "n_layers": 6,
            "width": 512,
            "heads": 8,
            "head_width": 64,
            "features": 266,
            "ffn": 2048,
            "qkv_bias": True,
        }
        path = folder / "models" / "models.ckpt"
        # As published: three sets, of which one is read for cell vectors.
        change = lambda content: [tame(one["state_dict"]) for one in content.values()]  # noqa: E731
        writers_performer.write_scfoundation(path, genes, change=change, encoder=encoder, decoder=decoder, bins=100)
        return folder, {}
    genes = (symbols + [f"GENE{i}" for i in range(16_906)])[: size.more["positions"] - 1]
    shape = {"n_layers": size.layers, "width": d, "heads": size.heads, "ffn": f, "qkv_bias": False}
    shape |= {"head_width": size.more["head_width"], "features": size.more["features"]}
    writers_performer.write_scbert(
        folder, genes, tuned=False, shape=shape, change=lambda content: tame(content["model_state_dict"])
    )
    return folder / "ckpts", {}


def _genes_of_nobody(tokens: int, specials: int) -> AnnData:
    import anndata
    import pandas as pd

    # The writer leaves ten genes out.
    ids = [f"ENSG{number:011}" for number in range(tokens - specials + 10)]
    return anndata.AnnData(var=pd.DataFrame({"ensembl_id": ids}, index=[f"G{number}" for number in range(len(ids))]))
