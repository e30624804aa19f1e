"""Small checkpoints of UCE and TranscriptFormer with drawn weights, so that their formats are tested in every checkout."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - a published format
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import torch

from scfm_lab.models.transcriptformer import TABLE as TF_TABLE
from scfm_lab.models.transcriptformer_files import Settings
from scfm_lab.models.transcriptformer_net import MLP, TfNet
from scfm_lab.models.uce_net import TABLE as UCE_TABLE
from scfm_lab.models.uce_net import UceNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# --- UCE ---------------------------------------------------------------------------------------


def write_uce(
    folder: Path,
    symbols: list[str],
    *,
    d: int = 24,
    heads: int = 3,
    ffn: int = 40,
    layers: int = 2,
    out: int = 20,
    protein: int = 12,
    positions: int = 1536,
    name: str = "4layer_model.torch",
    offsets: str = "species_offsets.pkl",
    rest: int = 0,
    chromosomes: int = 0,
    decoder: Sequence[int] = (),
    binary_decoder: Sequence[int] = (16, 12, 8),
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> Path:
    """Write human and mouse genes, their positions, `rest` rows of other species, and drawn weights.

    Chromosomes are as many as those genes lie on, or `chromosomes` with those of other species. The decoders' widths are those
    between what goes in and what comes out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protein_embeddings").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    species = {
        "human": (symbols, "Homo_sapiens.GRCh38"),
        "mouse": ([s.title() for s in symbols[::2]], "Mus_musculus.GRCm39"),
    }
    rows, positions_of, first = [torch.zeros(1, protein), torch.randn(3, protein, generator=generator)], [], {}
    rows.append(torch.zeros(rest, protein))
    for kind, (names, stem) in species.items():
        vectors = torch.randn(len(names), protein, generator=generator)
        path = folder / "protein_embeddings" / f"{stem}.gene_symbol_to_embedding_ESM2.pt"
        torch.save(dict(zip(names, vectors, strict=True)), path)
        first[kind] = sum(len(r) for r in rows)
        rows.append(vectors)
        lies_on = random.choice([str(i) for i in range(1, 12)] + ["X", "MT"], len(names))
        positions_of.append(
            pd.DataFrame(
                {
                    "gene_symbol": [n.upper() for n in names],
                    "chromosome": lies_on,
                    "start": random.permutation(len(names)) * 100,
                    "species": kind,
                }
            )
        )
    others = chromosomes - sum(frame["chromosome"].nunique() for frame in positions_of)
    if others > 0:
        elsewhere = {"gene_symbol": "OTHER", "chromosome": [f"scaffold{i}" for i in range(others)], "start": 0}
        positions_of.append(pd.DataFrame({**elsewhere, "species": "zebrafish"}))
    table = pd.concat(positions_of)
    table.to_csv(folder / "species_chrom.csv", index=False)
    n_chromosomes = (table["species"] + table["chromosome"]).nunique()
    if offsets.endswith(".json"):
        (folder / offsets).write_text(json.dumps(first))
    else:
        (folder / offsets).write_bytes(pickle.dumps(first))
    torch.save(torch.cat(rows), folder / "all_tokens.torch")
    rows.append(torch.randn(n_chromosomes, protein, generator=generator))
    net = UceNet(
        token_width=protein,
        width=d,
        layers=layers,
        heads=heads,
        ffn=ffn,
        decoder=[d, *(decoder or (30, out, out)), out],
        binary_decoder=[out + d, *binary_decoder, 1],
        positions=positions,
    )
    tensors = {}
    for key, value in net.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) * 0.2
        tensors[key] = drawn + 1 if key.endswith("weight") and value.ndim == 1 else drawn
    tensors[UCE_TABLE] = torch.cat(rows)
    torch.save(change(tensors), folder / name)
    return folder


# --- TranscriptFormer --------------------------------------------------------------------------


ASSAYS = {"unknown": 0, "10x 3' v2": 1, "10x 3' v3": 2}
SPECIALS = ["unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]"]


def write_vectors(path: Path, names: list[str], width: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    vectors = {name: random.normal(size=width).astype(np.float32) for name in names}
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(vectors))
        return path
    with h5py.File(path, "w") as file:
        file["keys"] = np.array(names, dtype="S")
        group = file.create_group("arrays")
        for name, vector in vectors.items():
            group[name] = vector
    return path


def write_tf(
    folder: Path,
    species: dict[str, list[str]],
    *,
    protein: int = 10,
    assays: dict[str, int] | None = ASSAYS,
    change: Callable[[dict[str, torch.Tensor]], Any] = dict,
    loss: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **model: Any,
) -> Path:
    (folder / "vocabs").mkdir(parents=True)
    sizes = {
        "num_heads": 3,
        "num_layers": 2,
        "model_dim": 40,
        "embed_dim": 24,
        "seq_len": 511,
        "gene_head_hidden_dim": 16,
        "log_counts_eps": 1e-6,
        "activation": "gelu",
        "attn_bias": False,
        "fw_bias": False,
        "mu_link_fn": "softmax",
        "softcap": 10,
        "aux_len": 1,
        "block_len": 128,
        "dropout": 0.1,
    }
    config = {
        "model": {
            "_target_": "transcriptformer.model.model.Transcriptformer",
            "data_config": {
                "aux_cols": "assay" if assays else None,
                "clip_counts": None,
                "esm2_mappings": list(species),
                "special_tokens": SPECIALS,
                "pad_zeros": True,
                "gene_pad_token": "[PAD]",
            }
            | (data or {}),
            "model_config": sizes | model,
            "loss_config": {"gene_id_loss_weight": 1.0, "softplus_approx": True} | (loss or {}),
        }
    }
    (folder / "config.json").write_text(json.dumps(config))
    for seed, (name, names) in enumerate(species.items()):
        write_vectors(folder / "vocabs" / name, names, protein, seed)
    if assays:
        (folder / "vocabs" / "assay_vocab.json").write_text(json.dumps(assays))
    settings = Settings.read(config, folder, None)
    n_tokens = len(SPECIALS) + len(dict.fromkeys(name for names in species.values() for name in names))
    shapes = TfNet(settings, protein, n_tokens, {"assay": len(assays)} if assays else {}).state_dict()
    if settings.gene_id_loss_weight > 0:
        head = MLP(settings.embed_dim, settings.gene_head_hidden_dim, n_tokens).state_dict()
        shapes |= {f"gene_id_head.{name}": value for name, value in head.items()}
    shapes[TF_TABLE] = torch.empty(n_tokens, protein)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, value in shapes.items():
        drawn = torch.randn(value.shape, generator=generator) * 0.3
        tensors[name] = drawn + 1 if name.endswith("weight") and value.ndim == 1 else drawn
    torch.save(change(tensors), folder / "model_weights.pt")
    return folder
