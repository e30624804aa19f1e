"""TranscriptFormer's files as published: configuration, vocabularies, protein embeddings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.hdf5 import faults
from scfm_lab.errors import ModelError, did_you_mean
from scfm_lab.models.converted import is_stored
from scfm_lab.models.files import CONFIG, read_config, read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

WEIGHTS_FILE = "model_weights.pt"
VOCABS = "vocabs"
#: Order of the special tokens where the reference builds a table for a species outside the training set.
SURGERY_ORDER = ("unknown", "[START]", "[END]", "[RD]", "[CELL]", "[PAD]", "[MASK]")
#: What is done to count logits; ``softmax`` runs over a cell's genes and is scaled by the cell's counts.
LINKS = ("softmax", "sigmoid", "softplus", "relu", "linear", "exp", "log", "tanh")
_MOST_KEYS, _LONGEST_KEY = 1_000_000, 1_024
# No cell expresses more genes: the published vectors are divided by this length, whatever it is.
_LONGEST_CELL = 100_000
_LARGEST = 1 << 40
_ORGANISMS = {"homo_sapiens": "human", "mus_musculus": "mouse"}
_FILE_NAMES = ("config", "weights", "vocabs", "pretrained_embedding")
# Entries that decide nothing when a model is used.
_IGNORED = frozenset({"dropout", "block_len", "compile_block_mask", "use_aux"})


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's configuration says about the network; names as published."""

    num_heads: int
    num_layers: int
    model_dim: int
    """Width of the feed-forward layers."""
    embed_dim: int
    """Width of the states and of the cell's vector."""
    seq_len: int
    gene_head_hidden_dim: int = 2048
    aux_len: int = 1
    activation: str = "gelu"
    attn_bias: bool = False
    fw_bias: bool = False
    mu_link_fn: str = "softmax"
    softcap: float = 10.0
    log_counts_eps: float = 1e-6
    gene_id_loss_weight: float = 1.0
    softplus_approx: bool = True
    aux_cols: tuple[str, ...] = ()
    esm2_mappings: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = field(
        default=("unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]")
    )
    gene_pad_token: str = "[PAD]"
    clip_counts: float | None = 30.0
    """Not read from the file: the reference's own inference settings decide over it."""

    @classmethod
    def read(cls, content: Mapping[str, Any], where: Path, config: Mapping[str, Any] | None) -> Settings:
        """From the published JSON, and what a user says on top.

        Raises
        ------
        ModelError
            If entries are missing, of another type, or contradict each other.
        """
        model = content.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("model_config"), dict):
            raise ModelError(f"{where} has no model.model_config; give TranscriptFormer's config.json as published.")
        entries: dict[str, Any] = {}
        for part in ("data_config", "model_config", "loss_config"):
            section = model.get(part) or {}
            if not isinstance(section, dict):
                raise ModelError(f"{where}: model.{part} is no object of names and values.")
            entries |= {k: v for k, v in section.items() if v is not None and k != "clip_counts"}
        if entries.get("pad_zeros") is False:
            raise ModelError(f"{where} says pad_zeros = false; only models that do not read silent genes are known.")
        known = {f.name for f in fields(cls)}
        for name, value in (config or {}).items():
            if name in _IGNORED:
                continue
            if name not in known:
                raise ModelError(
                    f"TranscriptFormer has no setting {name!r}; config= takes {', '.join(sorted(known))}, orthologs and "
                    "surgery." + did_you_mean(name, [*known, "orthologs", "surgery"])
                )
            entries[name] = value
        given = {name: value for name, value in entries.items() if name in known}
        missing = [f.name for f in fields(cls)[:5] if f.name not in given]
        if missing:
            raise ModelError(
                f"{where} does not say {', '.join(missing)}; give TranscriptFormer's config.json as published."
            )
        return cls(**{name: _typed(name, value, where) for name, value in given.items()}).checked(where)

    def checked(self, where: Path) -> Settings:
        """These settings, if they do not contradict each other."""
        if self.embed_dim % self.num_heads:
            raise ModelError(f"{where}: embed_dim {self.embed_dim} cannot be divided among num_heads {self.num_heads}.")
        if self.mu_link_fn not in LINKS:
            raise ModelError(f"{where}: mu_link_fn is {self.mu_link_fn!r}; known are {', '.join(LINKS)}.")
        for name in ("[START]", self.gene_pad_token):
            if name not in self.special_tokens:
                raise ModelError(f"{where}: special_tokens have no {name!r}.")
        if len(set(self.special_tokens)) != len(self.special_tokens):
            raise ModelError(f"{where}: special_tokens name one twice.")
        # A path would lead out of the checkpoint.
        strange = [
            name
            for name in (*self.esm2_mappings, *self.aux_cols)
            if name in ("", ".", "..") or set(name) & set("/\\:\0")
        ]
        if strange:
            raise ModelError(f"{where} names {strange[0]!r}, which is no file in {VOCABS}; get the file again.")
        return replace(self, aux_len=len(self.aux_cols))

    def check_layers(self, names: Iterable[str], files: TfFiles) -> None:
        """Refuse many more layers than the weights hold, before anything of that size is made."""
        prefix = "transformer_encoder.encoder_layers."
        held = {name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix)}
        # A few more or less are told by the names of their tensors.
        if self.num_layers > len(held) + 64:
            raise ModelError(
                f"{files.config} says num_layers = {self.num_layers:,}, the weights in {files.weights} hold {len(held)} layers."
            )

    def check_widths(self, shapes: Mapping[str, tuple[int, ...]], files: TfFiles) -> None:
        """Refuse far larger layers than the weights hold, before anything of that size is made."""
        for name, tensor in (
            ("embed_dim", "gene_embeddings.mlp.layers.0.bias"),
            ("model_dim", "transformer_encoder.encoder_layers.0.linear1.weight"),
            ("gene_head_hidden_dim", "gene_id_head.layers.0.bias"),
        ):
            told, held = getattr(self, name), next(iter(shapes.get(tensor, ())), 0)
            # What differs a little, or is a single number, is told by the names of its tensors.
            if held and told > 64 * held:
                raise ModelError(
                    f"{files.config} says {name} = {told:,}, the weights in {files.weights} hold {held:,} ({tensor})."
                )


def _typed(name: str, value: Any, where: Path) -> Any:
    kind = {f.name: str(f.type) for f in fields(Settings)}[name]
    try:
        if kind.startswith("tuple"):
            parts = value.split(",") if isinstance(value, str) else value
            if not all(isinstance(p, str) for p in parts):
                raise TypeError
            return tuple(p.strip() for p in parts if p.strip())
        if kind == "bool":
            if not isinstance(value, bool):
                raise TypeError
            return value
        if kind == "str":
            if not isinstance(value, str):
                raise TypeError
            return value
        if value is None:
            return None
        if isinstance(value, (bool, str)):
            raise TypeError
        number = int(value) if kind == "int" else float(value)
        if (
            number != value
            or not 0 <= number < _LARGEST
            or (name == "seq_len" and number > _LONGEST_CELL)
            or (kind == "int" and number < 1 and name not in ("gene_head_hidden_dim", "aux_len"))
        ):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        told = repr(value)
        raise ModelError(f"{where}: {name} = {told if len(told) < 80 else told[:80] + '…'} makes no sense.") from None
    else:
        return number


@dataclass(frozen=True)
class TfFiles:
    """Where each file lies."""

    config: Path
    weights: Path
    vocabs: Path
    pretrained: tuple[Path, ...] = ()
    """Protein embeddings of species outside the training set."""

    def identity_parts(self) -> None:
        """Nothing: what they say is held by the model, the rest is in the digest of its weights."""

    @classmethod
    def find(cls, path: Path, given: Mapping[str, Any] | None) -> TfFiles:
        """Look for the files in a folder; `given` ones lie elsewhere.

        Raises
        ------
        ModelError
            If one is missing.
        """
        given = dict(given or {})
        for name in given:
            if name not in _FILE_NAMES:
                raise ModelError(
                    f"TranscriptFormer has no file called {name!r}; files= takes {', '.join(_FILE_NAMES)}."
                    + did_you_mean(name, _FILE_NAMES)
                )
        folder = path if path.is_dir() else path.parent
        weights = (
            _given(given["weights"]) if "weights" in given else (path if path.is_file() else folder / WEIGHTS_FILE)
        )
        asked = given.get("pretrained_embedding") or ()
        if not isinstance(asked, (str, Path, list, tuple)):
            raise ModelError(f"files['pretrained_embedding'] is a path or several, not {asked!r}.")
        pretrained = [asked] if isinstance(asked, (str, Path)) else list(asked)
        found = cls(
            config=_given(given["config"]) if "config" in given else folder / CONFIG,
            weights=weights,
            vocabs=_given(given["vocabs"]) if "vocabs" in given else folder / VOCABS,
            pretrained=tuple(_given(p) for p in pretrained),
        )
        for place, name in ((found.config, CONFIG), (found.weights, WEIGHTS_FILE)):
            if not is_stored(place):
                raise ModelError(
                    f"This looks like TranscriptFormer, but {folder} has no {name}; give the folder as published."
                )
        if not found.vocabs.is_dir():
            raise ModelError(
                f"This looks like TranscriptFormer, but {folder} has no folder {VOCABS}; give the folder as published."
            )
        return found


def _given(value: Any) -> Path:
    # Read later, and named in what another process is told: no longer from this working directory.
    path = Path(str(value)).expanduser().absolute()
    if not path.exists():
        raise ModelError(f"files= names {path}, which is not there.")
    return path


def recognises(path: Path) -> bool:
    """Whether a folder (or a weights file in it) looks like TranscriptFormer's; nothing of it is loaded."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix != ".pt":
        return False
    try:
        model = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model"]
        known = (
            "transcriptformer" in str(model.get("_target_", "")).lower()
            or "gene_head_hidden_dim" in model["model_config"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = False
    return known or (is_stored(folder / WEIGHTS_FILE) and (folder / VOCABS).is_dir())


# --- genes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneTable:
    """Genes of the vocabulary in the order of the files, without the special tokens."""

    names: NDArray[Any]
    organisms: tuple[str, ...]


def read_genes(files: TfFiles, settings: Settings, most: int) -> GeneTable:
    """The vocabulary's genes: the keys of each file in turn, doubled names keep the first.

    Parameters
    ----------
    most
        Rows of the embedding: no file has more genes.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    if not settings.esm2_mappings:
        raise ModelError(
            f"{files.config} does not name the protein embeddings (esm2_mappings) that order the vocabulary."
        )
    names: dict[str, None] = {}
    for name in settings.esm2_mappings:
        path = files.vocabs / name
        if not is_stored(path):
            raise ModelError(
                f"{files.config} names {name}, which is not in {files.vocabs}; give the folder as published."
            )
        names.update(dict.fromkeys(_keys(path, most)))
    return GeneTable(np.array(list(names), dtype=object), tuple(_organism(n) for n in settings.esm2_mappings))


def _organism(name: str) -> str:
    stem = name.split(".")[0].removesuffix("_gene")
    return _ORGANISMS.get(stem, stem.replace("_", " "))


def read_embeddings(paths: Iterable[Path], width: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Gene names and protein embeddings of some files, doubled names keep the first; float32 (genes, width).

    Raises
    ------
    ModelError
        If a file is damaged, of another width, or holds NaN.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for path in paths:
        for name, vector in _vectors(path):
            if vector.shape != (width,) or vector.dtype.kind not in "fiu":
                raise ModelError(
                    f"{path}: the vector of {name!r} has the shape {vector.shape}; the model reads {width:,} numbers."
                )
            found.setdefault(name, vector.astype(np.float32))
    table = np.stack(list(found.values())) if found else np.empty((0, width), np.float32)
    if not np.isfinite(table).all():
        bad = list(found)[int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])]
        raise ModelError(f"The protein embedding of {bad!r} holds NaN or infinite values; it cannot be used.")
    return np.array(list(found), dtype=object), table


def _keys(path: Path, most: int) -> list[str]:
    if path.suffix == ".pkl":
        return list(_pickled(path))
    with _h5(path) as file:
        return _h5_keys(file, path, most)


def _vectors(path: Path) -> Iterable[tuple[str, NDArray[Any]]]:
    if path.suffix == ".pkl":
        yield from _pickled(path).items()
        return
    with _h5(path) as file:
        try:
            arrays = file["arrays"]
            for key in _h5_keys(file, path):
                if arrays[key].size > 1 << 20:
                    raise ModelError(
                        f"{path}: the vector of {key!r} has the shape {arrays[key].shape}. Get the file again."
                    )
                yield key, arrays[key][()]
        except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{path} is damaged or no file of gene embeddings ({error}). Get the file again."
            ) from error


def _pickled(path: Path) -> dict[str, NDArray[Any]]:
    content = read_pickle(path)
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, np.ndarray) for k, v in content.items()
    ):
        raise ModelError(f"{path} does not hold gene names and vectors; give the file as published.")
    return content


def _h5(path: Path) -> Any:
    import h5py  # type: ignore[import-untyped]

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ModelError(_no_hdf5(path, error)) from error
    try:
        fault = next(faults(file), None)
    # What is damaged in it is met as the file is walked through, as a library's error of any kind.
    except Exception as error:
        file.close()
        raise ModelError(_no_hdf5(path, error)) from error
    if fault is not None:
        file.close()
        raise ModelError(f"{path} {fault}: it is not read. Get the file again.")
    return file


def _no_hdf5(path: Path, error: Exception) -> str:
    return f"{path} is damaged or no HDF5 file ({path.stat().st_size:,} bytes; {error}). Get the file again."


def _h5_keys(file: Any, path: Path, most: int = _MOST_KEYS) -> list[str]:
    try:
        keys = file["keys"]
        if keys.ndim != 1 or keys.dtype.kind not in "SO" or keys.dtype.itemsize > _LONGEST_KEY:
            raise ValueError(f"keys of the shape {keys.shape} and type {keys.dtype}")
        if keys.size > most:
            raise ValueError(f"{keys.size:,} keys, where there can be {most:,} at most")
        return [k.decode() if isinstance(k, bytes) else str(k) for k in keys[:]]
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError, MemoryError) as error:
        raise ModelError(f"{path} is damaged or no file of gene embeddings ({error}). Get the file again.") from error


def read_aux(files: TfFiles, settings: Settings) -> dict[str, dict[str, int]]:
    """Label → id of each auxiliary column (the assay).

    Raises
    ------
    ModelError
        If a vocabulary is missing, or its ids are not 0, 1, 2 …
    """
    found = {}
    for column in settings.aux_cols:
        path = files.vocabs / f"{column}_vocab.json"
        if not path.is_file():
            raise ModelError(f"{files.vocabs} has no {path.name}; give the folder as published.")
        vocabulary = read_config(files.vocabs, path.name)
        if (
            sorted(vocabulary.values(), key=str) != sorted(range(len(vocabulary)), key=str)
            or "unknown" not in vocabulary
        ):
            raise ModelError(f"{path} does not number its labels from 0 on, 'unknown' among them; get the file again.")
        found[column] = {str(label): int(number) for label, number in vocabulary.items()}
    return found
