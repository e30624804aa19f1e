"""The small checkpoint of each published family, that knows most of the bundled genes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import writers
import writers_performer
import writers_protein

import scfm_lab as sl

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

FAMILIES = ("scgpt", "geneformer_v1", "geneformer_v2", "uce", "transcriptformer", "scfoundation", "scbert")


@dataclass(frozen=True)
class Family:
    """A family's small checkpoint."""

    name: str
    root: Path
    path: Path
    """What is opened."""
    weights: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Without the generation."""
        return self.name.split("_v")[0]

    def open(self, **more: Any) -> Any:
        """On the CPU, in float32."""
        config = self.config | more.pop("config", {})
        return sl.load_model(self.path, device="cpu", precision="float32", config=config or None, **more)


def write_family(name: str, root: Path, adata: AnnData) -> Family:
    """Write the checkpoint of a family below a folder; it does not know the first ten genes."""
    folder = root / "checkpoint"
    symbols = list(adata.var_names[10:])
    if name == "scgpt":
        writers.write_scgpt(folder, adata, genes=symbols)
        return Family(name, root, folder, folder / "best_model.pt")
    if name.startswith("geneformer"):
        version, weights = ("V1", "pytorch_model.bin") if name.endswith("v1") else ("V2", "model.safetensors")
        writers.write_geneformer(folder, adata, version=version, weights=weights)
        return Family(name, root, folder, folder / weights)
    if name == "uce":
        writers_protein.write_uce(folder, symbols)
        return Family(name, root, folder, folder / "4layer_model.torch", {"nhead": 3})
    if name == "transcriptformer":
        ids = adata.var["ensembl_id"].astype(str)
        known = sorted(set(ids[10:][ids[10:].str.startswith("ENSG")]))
        writers_protein.write_tf(folder, {"homo_sapiens_gene.h5": known})
        return Family(name, root, folder, folder / "model_weights.pt")
    if name == "scfoundation":
        path = writers_performer.write_scfoundation(root / "models" / "models.ckpt", sorted(symbols))
        return Family(name, root, root, path)
    writers_performer.write_scbert(root, symbols[::-1])
    return Family(name, root, root / "ckpts", root / "ckpts" / "panglao_pretrain.pth")
