"""What the parameter-free models share: a table over genes, kept as safetensors."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

from scfm_lab.errors import ModelError
from scfm_lab.models.contract import Model
from scfm_lab.models.files import WEIGHTS, names_family, read_config, read_safetensors, sha256
from scfm_lab.models.published import overridden

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    import torch

    from scfm_lab.cells.genes import Vocabulary

VOCABULARY = "vocabulary.csv.gz"


class BasisModel(Model):
    """A model that is one table over its vocabulary."""

    keys: ClassVar[tuple[str, ...]]
    components: torch.Tensor

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the folder's configuration names this family."""
        return names_family(path, cls.family)

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder with ``model.safetensors``, ``config.json`` and the vocabulary.

        Raises
        ------
        ModelError
            If a file is missing or damaged, or the table does not fit the vocabulary.
        """
        if path is None:
            raise ModelError(f"{cls.__name__} needs the folder of its basis.")
        settings = overridden(read_config(path), config or {}, ("vocabulary",), cls.family)
        tensors = read_safetensors(path / WEIGHTS)
        missing = [key for key in cls.keys if key not in tensors]
        if missing:
            raise ModelError(f"{path / WEIGHTS} has no {' and no '.join(missing)}; it is no basis of {cls.family}.")
        vocabulary = read_vocabulary(path, settings)
        if tensors[cls.keys[0]].shape[-1] != len(vocabulary):
            raise ModelError(
                f"The vocabulary of {path} has {len(vocabulary):,} genes, its {cls.keys[0]} "
                f"{tensors[cls.keys[0]].shape[-1]:,}; the files do not belong together."
            )
        model = cls._from_parts(tensors, settings, vocabulary)
        model.digest = sha256(path / WEIGHTS)
        model.path = path
        return model

    @classmethod
    def _from_parts(
        cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], vocabulary: Vocabulary
    ) -> Self:
        raise NotImplementedError

    def _set_digest(self, **tensors: torch.Tensor) -> None:
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(tensors[name].detach().float().contiguous().numpy().tobytes())
        self.digest = "sha256:" + digest.hexdigest()

    def _table(self, name: str, device: Any) -> torch.Tensor:
        """A (width, genes) table as (genes, width), contiguous, on a device; kept."""
        cache = self.__dict__.setdefault("_tables", {})
        if (name, str(device)) not in cache:
            cache[name, str(device)] = getattr(self, name).T.contiguous().to(device)
        return cache[name, str(device)]

    def gene_embeddings(self) -> pd.DataFrame:
        """Loadings of each gene, float32, genes × width (index: symbol, or Ensembl id)."""
        import pandas as pd

        return pd.DataFrame(self.components.T.numpy(), index=pd.Index(self.vocabulary.names, name="gene"))


def read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that a configuration names (default: ``vocabulary.csv.gz`` in the folder).

    Raises
    ------
    ModelError
        If it is missing or damaged.
    """
    from scfm_lab.cells.genes import Vocabulary

    path = folder / str(config.get("vocabulary", VOCABULARY))
    try:
        return Vocabulary.from_csv(path)
    except FileNotFoundError:
        raise ModelError(f"The vocabulary {path} is missing; give the folder as published.") from None
    except (OSError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"The vocabulary {path} is damaged ({error}); get the file again.") from error
