"""UCE's files as published: which is which, and what the small ones say about genes."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, did_you_mean
from scfm_lab.models.converted import is_converted, is_stored, listed, stored
from scfm_lab.models.files import read_config, read_pickle, read_torch
from scfm_lab.models.tensor_names import pickle_of, tensor_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd
    import torch
    from numpy.typing import NDArray

#: Species of the published token table → beginning of the name of their protein embeddings.
PUBLISHED = {
    "frog": "Xenopus_tropicalis.",
    "human": "Homo_sapiens.",
    "macaca_fascicularis": "Macaca_fascicularis.",
    "macaca_mulatta": "Macaca_mulatta.",
    "mouse": "Mus_musculus.",
    "mouse_lemur": "Microcebus_murinus.",
    "pig": "Sus_scrofa.",
    "zebrafish": "Danio_rerio.",
}
_PROTEINS = "gene_symbol_to_embedding_ESM2.pt"
_MARK = b"pe_embedding.weight"
TOKENS = "all_tokens.torch"
CHROM = "species_chrom.csv"
NEW_SPECIES = "new_species_protein_embeddings.csv"
_KEYS = ("checkpoint", "tokens", "chrom", "offsets", "protein_embeddings", "new_species", "species")


def canonical(species: str) -> str:
    """``Homo sapiens``, ``Homo_sapiens``, ``HUMAN`` → ``human``; other names in lower case with underscores."""
    name = species.strip().lower().replace(" ", "_").replace("-", "_")
    return next((known for known, stem in PUBLISHED.items() if stem.rstrip(".").lower() == name), name)


def recognises(path: Path) -> bool:
    """Whether a folder or file looks like UCE's; nothing of it is loaded."""
    if path.is_file():
        return _is_checkpoint(path) or path.suffix == ".torch"
    folder = _folder(path)
    return (folder / CHROM).is_file() or is_stored(folder / TOKENS) or bool(_checkpoints(folder))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        return path.parent
    inner = path / "model_files"
    return inner if inner.is_dir() and not _checkpoints(path) else path


def _checkpoints(folder: Path, besides: Iterable[Path] = ()) -> list[Path]:
    """Files that are checkpoints; where none looks whole, those that are called like one, so that a damaged one is named."""
    others = {path.resolve() for path in besides}
    named = [
        p
        for p in sorted(listed(folder, "*.torch"))
        if not p.name.startswith("all_tokens") and p.resolve() not in others
    ]
    whole = [p for p in named if _is_checkpoint(p)]
    return whole or sorted(p for p in listed(folder, "*.pt") if _is_checkpoint(p)) or named


def _is_checkpoint(path: Path) -> bool:
    """Whether the names in a torch archive are UCE's; they are searched for as bytes, nothing is unpickled."""
    if is_converted(stored(path)):
        return any(_MARK.decode() in name for name in tensor_names(path))
    try:
        with zipfile.ZipFile(path) as archive:
            inner = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
            return inner is not None and _MARK in archive.open(inner).read(1 << 22)
    # A damaged archive fails in many ways; it is told by its name, and refused where it is read.
    except Exception:  # noqa: BLE001
        return False


@dataclass
class UceFiles:
    """Where each file lies."""

    checkpoint: Path
    chrom: Path
    offsets: Path | dict[str, int]
    tokens: Path | None
    proteins: dict[str, Path] = field(default_factory=dict)
    """Species → its protein embeddings."""
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Species that bring their own rows: ``protein_embeddings``, ``chrom``, ``taxon``."""

    @property
    def digested(self) -> Iterator[Path]:
        """What a digest may be of: the checkpoint, what may replace its token table, what added species bring."""
        yield self.checkpoint
        if self.tokens is not None:
            yield self.tokens
        for parts in self.added.values():
            yield from (Path(str(parts[kind])) for kind in ("protein_embeddings", "chrom"))

    @classmethod
    def find(cls, path: Path, given: Mapping[str, Any] | None) -> UceFiles:
        """Look for the files in a folder, or beside a checkpoint; `given` ones lie elsewhere.

        Raises
        ------
        ModelError
            If one is missing, or it is not clear which checkpoint is meant.
        """
        given = dict(given or {})
        for name in given:
            if name not in _KEYS:
                raise ModelError(
                    f"UCE has no file called {name!r}; files= takes {', '.join(_KEYS)}." + did_you_mean(name, _KEYS)
                )
        folder = _folder(path)
        places = {
            name: _given(given[name], name)
            for name in ("checkpoint", "tokens", "chrom", "protein_embeddings", "new_species")
            if name in given
        }
        checkpoint = places.get("checkpoint") or (path if path.is_file() else _only_checkpoint(folder, places.values()))
        tokens = places.get("tokens") or (folder / TOKENS if is_stored(folder / TOKENS) else None)
        chrom = places.get("chrom") or _required(folder, (CHROM,), "chrom")
        offsets: Any = given.get("offsets")
        if not isinstance(offsets, dict):
            offsets = (
                _given(offsets, "offsets")
                if offsets is not None
                else _required(folder, ("species_offsets.pkl", "species_offsets.json"), "offsets")
            )
        proteins = _proteins(places.get("protein_embeddings") or folder / "protein_embeddings")
        csv = places.get("new_species") or folder / NEW_SPECIES
        if csv.is_file():
            proteins |= _new_species(csv)
        return cls(checkpoint, chrom, offsets, tokens, proteins, _added(given.get("species")))

    def identity_parts(self) -> dict[str, Any]:
        """What of these files is read later: the genes of each published species, whose rows the token table holds.

        Raises
        ------
        ModelError
            If the protein embeddings of a species are damaged, also of one that is not asked for.
        """
        return {
            species: hashlib.sha256(pickle_of(stored(path))).hexdigest()
            for species, path in sorted(self.proteins.items())
        }

    def read_offsets(self) -> dict[str, int]:
        """First row of each species in the token table."""
        if isinstance(self.offsets, dict):
            content, where = self.offsets, "files['offsets']"
        else:
            where = str(self.offsets)
            if self.offsets.suffix == ".json":
                content = read_config(self.offsets.parent, self.offsets.name)
            else:
                content = read_pickle(self.offsets)
        if not isinstance(content, dict) or not all(
            isinstance(k, str) and isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 0
            for k, v in content.items()
        ):
            raise ModelError(f"{where} does not hold species and row numbers; give species_offsets.pkl as published.")
        return {canonical(k): int(v) for k, v in content.items()}

    def read_proteins(self, species: str) -> dict[str, torch.Tensor]:
        """Protein embeddings by symbol, in the order of the file."""
        import torch

        path = Path(self.added[species]["protein_embeddings"]) if species in self.added else self.proteins.get(species)
        if path is None:
            raise ModelError(f"The {missing_proteins(species)}.")
        content = read_torch(path)
        if (
            not isinstance(content, dict)
            or not content
            or not all(
                isinstance(k, str) and isinstance(v, torch.Tensor) and v.ndim == 1 and v.is_floating_point()
                for k, v in content.items()
            )
        ):
            raise ModelError(f"{path} does not hold gene symbols and protein embeddings; give the file as published.")
        widths = sorted({len(vector) for vector in content.values()})
        if len(widths) > 1:
            raise ModelError(
                f"{path} holds protein embeddings of {len(widths)} widths ({widths[0]:,} to {widths[-1]:,} numbers); those of a species "
                "come from one model."
            )
        return content


def missing_proteins(species: str) -> str:
    """That a species has no protein embeddings, and what to do; a sentence's end."""
    return (
        f"protein embeddings of {species} ({PUBLISHED.get(species, species + ' …')}*{_PROTEINS}) are missing; put them into "
        "protein_embeddings, or name the folder with files={'protein_embeddings': …}"
    )


def _given(value: Any, name: str) -> Path:
    path = Path(str(value)).expanduser()
    if not path.exists():
        raise ModelError(f"files[{name!r}] names {path}, which is not there.")
    return path


def _required(folder: Path, names: tuple[str, ...], key: str) -> Path:
    for name in names:
        if is_stored(folder / name):
            return folder / name
    raise ModelError(
        f"This looks like UCE, but {folder} has no {' or '.join(names)}; give the folder as published, or name the file "
        f"with files={{{key!r}: …}}."
    )


def _only_checkpoint(folder: Path, besides: Iterable[Path]) -> Path:
    found = _checkpoints(folder, besides)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelError(
            f"This looks like UCE, but {folder} has no checkpoint (4layer_model.torch or 33l_8ep_1024t_1280.torch)."
        )
    names = ", ".join(p.name for p in found)
    raise ModelError(
        f"{folder} holds several checkpoints ({names}), whose vectors do not mix; give the path of the one you mean."
    )


def _proteins(folder: Path) -> dict[str, Path]:
    found = {}
    if folder.is_dir():
        for species, stem in PUBLISHED.items():
            hits = listed(folder, f"{stem}*{_PROTEINS}") or listed(folder, f"{stem}*.pt")
            if hits:
                found[species] = hits[0]
    return found


def _new_species(csv: Path) -> dict[str, Path]:
    """The reference's list of further species: columns ``species`` and ``path``."""
    import pandas as pd

    try:
        table = pd.read_csv(csv, dtype=str, keep_default_na=False)
        rows = list(zip(table["species"], table["path"], strict=True))
    except (KeyError, ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ModelError(f"{csv} is no table of the columns species and path ({error}).") from error
    found = {}
    for species, name in rows:
        given = Path(name).expanduser()
        # Beside the list first: what happens to lie in the working directory may be another species' file of that name. The
        # reference runs above the folder of the list (model_files).
        places = (csv.parent / given, given, csv.parent.parent / given)
        path = next((place for place in places if is_stored(place)), None)
        if path is None:
            raise ModelError(f"{csv} names {name} as the protein embeddings of {species}, which is not there.")
        found[canonical(species)] = path
    return found


def _added(given: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    if given is not None and not isinstance(given, dict):
        raise ModelError(
            f"files['species'] must be {{name: {{'protein_embeddings': …, 'chrom': …, 'taxon': …}}}}, not {given!r}."
        )
    for name, parts in (given or {}).items():
        needed = ("protein_embeddings", "chrom", "taxon")
        missing = [key for key in needed if not isinstance(parts, dict) or key not in parts]
        if missing:
            raise ModelError(
                f"A new species needs {', '.join(needed)} (its NCBI taxonomy id): files['species'][{name!r}] lacks "
                f"{', '.join(missing)}."
            )
        for key in needed[:2]:
            _given(parts[key], key)
        found[canonical(name)] = dict(parts)
    return found


@dataclass(frozen=True)
class Positions:
    """A table of gene positions."""

    table: pd.DataFrame
    """Columns symbol (upper case), species, code, start; doubled symbols keep the first."""
    names: NDArray[Any]
    """Name of each chromosome code: species, underscore, chromosome; sorted."""
    path: Path = field(compare=False)

    @classmethod
    def read(cls, path: Path) -> Positions:
        """Read ``gene_symbol, chromosome, start, species``.

        Raises
        ------
        ModelError
            If columns are missing or starts are no numbers.
        """
        import pandas as pd

        columns = ["gene_symbol", "chromosome", "start", "species"]
        try:
            # A gene may be called like a missing value; elsewhere pandas takes such text for one, in the reference too.
            raw = pd.read_csv(path, dtype=dict.fromkeys(columns[1:], str), converters={"gene_symbol": str})
            raw = raw[columns]
            starts = pd.to_numeric(raw["start"]).to_numpy(dtype=np.float64)
        except (KeyError, ValueError, TypeError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path} is no table of the columns {', '.join(columns)} ({error}); get the file again."
            ) from error
        placed = (raw["species"].notna() & raw["chromosome"].notna()).to_numpy()
        if not placed.any() or np.isinf(starts).any():
            raise ModelError(f"{path} is empty or has starts that are no numbers; get the file again.")
        # Codes count over the sorted names of the complete file, all species together; what is missing has none.
        names, found = np.unique(
            (raw["species"] + "_" + raw["chromosome"])[placed].to_numpy(dtype=str), return_inverse=True
        )
        codes = np.full(len(raw), -1, dtype=np.int64)
        codes[placed] = found
        # A gene without a start has no place in a sentence, though its chromosome counts.
        codes[np.isnan(starts)] = -1
        table = pd.DataFrame(
            {
                "symbol": raw["gene_symbol"].str.upper(),
                "species": raw["species"].fillna("").map(canonical),
                "code": codes,
                "start": np.nan_to_num(starts, nan=-1).astype(np.int64),
            }
        ).drop_duplicates(["species", "symbol"])
        return cls(table, names.astype(object), path)

    def of(self, species: str, symbols: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Code and start of some symbols; code -1 where the table has none.

        Raises
        ------
        ModelError
            If the table knows nothing of the species.
        """
        own = self.table[self.table["species"] == species]
        if len(own) == 0:
            known = ", ".join(sorted(self.table["species"].unique()))
            raise ModelError(f"{self.path} has no genes of {species}; species there: {known}.")
        own = own.set_index("symbol").reindex(symbols)
        return (
            own["code"].fillna(-1).to_numpy(dtype=np.int64),
            own["start"].fillna(-1).to_numpy(dtype=np.int64),
        )
