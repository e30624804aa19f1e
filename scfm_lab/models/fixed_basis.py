"""What the parameter-free models share: a table over genes, kept as safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from scfm_lab.errors import ModelError
from scfm_lab.models.contract import Model
from scfm_lab.models.files import CONFIG, WEIGHTS, names_family, read_config, read_safetensors, sha256
from scfm_lab.models.published import overridden
from scfm_lab.models.training_cells import naming, sets_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

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
        model.learnt_from = sets_of(settings)
        return model

    @classmethod
    def _from_parts(
        cls, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], vocabulary: Vocabulary
    ) -> Self:
        raise NotImplementedError

    def n_token_ids(self) -> int:
        """As many as there are genes."""
        return len(self.vocabulary)

    def _parts(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The tensors by name, and the settings that :meth:`_from_parts` reads beside them."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the basis into a new folder that :func:`scfm_lab.load_model` opens and a registry takes.

        Parameters
        ----------
        folder
            It must not exist, or be empty.

        Raises
        ------
        DataError
            The folder holds something.
        StorageError
            It cannot be written to; nothing is left of what was not finished.

        Examples
        --------
        >>> import scfm_lab as sl
        >>> basis = sl.load_model("pca").fit(sl.datasets.load("pbmc68k"), n_components=10)
        >>> sl.load_model(basis.save("blood-pca")).spec.width
        10
        """
        from safetensors.torch import save

        from scfm_lab.models.finetuned_files import new_folder

        folder = Path(folder).expanduser()
        tensors, settings = self._parts()
        with new_folder(folder) as unfinished:
            (unfinished / WEIGHTS).write_bytes(save({name: one.contiguous() for name, one in tensors.items()}))
            config = {"family": self.family, "format": 1, "vocabulary": VOCABULARY, **settings}
            if self.learnt_from:
                config |= naming(self.learnt_from)
            (unfinished / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
            self.vocabulary.to_csv(unfinished / VOCABULARY)
        return folder

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
