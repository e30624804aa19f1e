"""Geneformer's published files: which holds the weights, where the dictionaries lie, and what they say."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import Vocabulary, first_known, is_ensembl, strip_version
from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_converted, is_stored, listed
from scfm_lab.models.files import WEIGHTS, read_pickle
from scfm_lab.models.published import (
    ENSEMBL,
    ORTHOLOG,
    TRANSLATED_SYMBOL,
    PublishedMatch,
    are_meant,
    ensembl_symbols,
    mouse_rows,
    of_another_kind,
    shipped_genes,
)
from scfm_lab.models.sharded import ENDING
from scfm_lab.models.tensor_names import tensor_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes

TORCH_WEIGHTS = "pytorch_model.bin"
#: Whole files before those in several parts.
ANY_WEIGHTS = (WEIGHTS, TORCH_WEIGHTS, WEIGHTS + ENDING, TORCH_WEIGHTS + ENDING)
#: Entries of ``config.json`` that are read.
SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
    "position_embedding_type",
    "model_type",
)
BY_MAPPING = "name in the model's own mapping"
UNVERSIONED = "Ensembl id without its version"
BY_NAME = "name where the id is empty"
SPECIALS = ("<pad>", "<mask>", "<cls>", "<eos>")
_KINDS = {
    "token": "token_dictionary",
    "median": "gene_median_dictionary",
    "mapping": "ensembl_mapping_dict",
    "names": "gene_name_id_dict",
}
#: Where dictionaries lie below a checkpoint, the package's folder or a checkout of it.
_PLACES = (".", "dictionaries", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")


def is_bert(weights: Path) -> bool:
    """Whether a weights file names the tensors of a BERT; opens no weights."""
    return any(name.endswith("embeddings.word_embeddings.weight") for name in tensor_names(weights))


def weights_file(folder: Path) -> Path:
    """The weights of a folder; safetensors where both kinds are there.

    Raises
    ------
    ModelError
        If there are none.
    """
    for name in ANY_WEIGHTS:
        if is_stored(folder / name):
            return folder / name
    raise ModelError(
        f"{folder} looks like Geneformer and has no {WEIGHTS} and no {TORCH_WEIGHTS}; give the folder as published."
    )


@dataclass(frozen=True)
class Dictionaries:
    """What the four pickles of a model say."""

    tokens: dict[str, int]
    medians: dict[str, float]
    mapping: dict[str, str]
    """Known id or name → current Ensembl id; empty: the identity."""
    names: dict[str, str]
    """Symbol → Ensembl id."""
    folder: Path
    files: dict[str, Path]
    """``"token"``, ``"median"``, ``"mapping"``, ``"names"`` → the file that was read; those that there are."""


def find_dictionaries(checkpoint: Path, rows: int, files: Mapping[str, Any] | None) -> Dictionaries:
    """The dictionaries of a checkpoint.

    Parameters
    ----------
    checkpoint
        Folder of the weights. Dictionaries are looked for in it, beside it, in ``dictionaries``,
        ``geneformer`` and ``geneformer/gene_dictionaries_30m`` of both.
    rows
        Rows of the embedding: which generation of dictionaries belongs to it.
    files
        ``"dictionaries"``, a folder; or single files as ``"token"``, ``"median"``, ``"mapping"``, ``"names"``.

    Raises
    ------
    ModelError
        If none are found, they are damaged, or belong to another generation.
    """
    given = {name: Path(str(value)) for name, value in (files or {}).items()}
    unknown = sorted(set(given) - {"dictionaries", *_KINDS})
    if unknown:
        raise ModelError(
            f"files= names {', '.join(unknown)}; Geneformer has 'dictionaries' (a folder), or {', '.join(map(repr, _KINDS))}."
        )
    if "token" in given:
        return _checked(given["token"], given, rows)
    if "dictionaries" in given:
        named = given["dictionaries"]
        if not named.is_dir():
            raise ModelError(f"There is no folder {named} with Geneformer's dictionaries.")
        # Of the package or of a checkout of it, those of V1 lie further down.
        folders = [folder for name in _PLACES if (folder := named / name).is_dir()]
    else:
        folders = list(dict.fromkeys(_folders(checkpoint)))
    sizes = []
    # Of several generations in one folder the newest that fits is taken.
    for folder in folders:
        for path in reversed(listed(folder, f"{_KINDS['token']}*.pkl")):
            tokens = _dictionary(path, int)
            if len(tokens) == rows:
                return _checked(path, given, rows)
            sizes.append(f"{path} has {len(tokens):,}")
    if sizes:
        raise ModelError(
            f"No token dictionary fits the {rows:,} rows of the embedding in {checkpoint}: {'; '.join(sizes)}. The "
            "dictionaries of V1 and V2 are not interchangeable; name the right folder with files={'dictionaries': …}."
        )
    raise ModelError(
        f"{checkpoint} looks like Geneformer, and its dictionaries were not found (token_dictionary*.pkl, "
        "gene_median_dictionary*.pkl, ensembl_mapping_dict*.pkl); put them into its folder 'dictionaries', or name it with "
        "files={'dictionaries': …}."
    )


def beside(checkpoint: Path) -> dict[str, Path]:
    """Dictionaries that lie outside a checkpoint's folder, where it has none of its own."""
    own: list[Path] = []
    other: dict[str, Path] = {}
    for folder in dict.fromkeys(_folders(checkpoint)):
        inside = folder.resolve().is_relative_to(checkpoint.resolve())
        for kind in _KINDS.values():
            for path in listed(folder, f"{kind}*.pkl"):
                if inside:
                    own.append(path)
                else:
                    other.setdefault(f"dictionaries/{path.name}", path)
    return {} if own else other


def _folders(checkpoint: Path) -> Iterator[Path]:
    for base in (checkpoint, checkpoint.parent):
        for name in _PLACES:
            if (base / name).is_dir():
                yield base / name


def published_names(files: Mapping[str, Path]) -> dict[str, str]:
    """What each of :attr:`Dictionaries.files` is called where all lie in one folder, wherever they lie now."""
    suffix = _suffix(files["token"])
    return {kind: f"{_KINDS[kind]}{suffix}.pkl" for kind in files}


def _suffix(token_file: Path) -> str:
    """What tells a generation: the end of the names of all its dictionaries."""
    published = token_file.with_suffix("") if is_converted(token_file) else token_file
    return published.stem.removeprefix(_KINDS["token"])


def _checked(token_file: Path, given: Mapping[str, Path], rows: int) -> Dictionaries:
    suffix = _suffix(token_file)

    def place(kind: str) -> Path:
        return given.get(kind, token_file.with_name(f"{_KINDS[kind]}{suffix}.pkl"))

    tokens = _dictionary(token_file, int)
    if sorted(tokens.values()) != list(range(len(tokens))):
        raise ModelError(
            f"The {len(tokens):,} ids in {token_file} are not 0 to {len(tokens) - 1:,}, each once; get the file again."
        )
    if len(tokens) != rows:
        raise ModelError(
            f"{token_file} names {len(tokens):,} tokens, the embedding has {rows:,} rows; the files do not belong together."
        )
    if "<pad>" not in tokens:
        raise ModelError(f"{token_file} has no '<pad>'; it is no token dictionary of Geneformer.")
    # Published medians name more genes than there are tokens for; what they say of those is nobody's concern.
    medians = _dictionary(place("median"), float, of=tokens)
    bad = [gene for gene, value in medians.items() if not np.isfinite(value) or value <= 0]
    if bad:
        raise ModelError(
            f"{place('median')} gives {bad[0]} the median {medians[bad[0]]!r}; medians are positive numbers."
        )
    lacking = [gene for gene in tokens if gene not in medians and gene not in SPECIALS]
    if lacking:
        raise ModelError(
            f"{place('median')} has no median for {len(lacking):,} of the genes in {token_file.name} (such as {lacking[0]}); "
            "the files do not belong together."
        )
    mapping = _names(place("mapping")) if is_stored(place("mapping")) or "mapping" in given else {}
    # Dictionaries of 2023 come without a mapping: every id means itself. Those with <cls> are read through theirs.
    if not mapping and "<cls>" in tokens:
        raise ModelError(
            f"{place('mapping')} is missing: this generation of Geneformer reads names and retired ids through it, and would make "
            "other vectors without. Put it beside the other dictionaries, or name it with files={'mapping': …}."
        )
    names = _names(place("names")) if is_stored(place("names")) or "names" in given else {}
    read = {"token": token_file, "median": place("median")}
    read |= {kind: place(kind) for kind, content in (("mapping", mapping), ("names", names)) if content}
    return Dictionaries(tokens, medians, mapping, names, token_file.parent, read)


def _dictionary(path: Path, kind: type, *, of: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Names to numbers; `of`: of these names alone."""
    content = _content(path)
    numbers = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    wanted = (
        content if of is None else {key: value for key, value in content.items() if isinstance(key, str) and key in of}
    )
    for key, value in wanted.items():
        if not isinstance(key, str) or not isinstance(value, numbers) or isinstance(value, (bool, np.bool_)):
            raise ModelError(f"{path} maps {key!r} to {value!r}; it is not the dictionary that its name says.")
    try:
        return {key: kind(value) for key, value in wanted.items()}
    except OverflowError:
        raise ModelError(
            f"{path} holds numbers that are too large; it is not the dictionary that its name says."
        ) from None


def _names(path: Path) -> dict[str, str]:
    """Names to names; tables made by pandas hold a few that are no text (None, NaN), which are left out and told."""
    content = _content(path)
    usable = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, str)}
    left_out = [k for k in content if k not in usable]
    if 2 * len(left_out) > len(content):
        raise ModelError(
            f"{path} maps {left_out[0]!r} to {content[left_out[0]]!r}; it is not the dictionary that its name says."
        )
    if left_out:
        warnings.warn(
            f"{len(left_out):,} of the {len(content):,} entries of {path} are no names (such as {left_out[0]!r}: "
            f"{content[left_out[0]]!r}) and are left out.",
            stacklevel=6,
        )
    return usable


def _content(path: Path) -> dict[Any, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path} holds a {type(content).__name__}, not a dictionary; get the file again.")
    return content


@dataclass(frozen=True)
class EnsemblVocabulary(Vocabulary):
    """Ensembl ids as Geneformer's tokeniser reads them."""

    mapping: dict[str, int] = field(default_factory=dict)
    """Known id or name → token id; names are looked up in capitals."""
    published: dict[str, int] = field(default_factory=dict)
    """Symbol → token id, by the model's own table."""

    @classmethod
    def of(cls, dictionaries: Dictionaries) -> EnsemblVocabulary:
        """The vocabulary of four dictionaries."""
        tokens = dictionaries.tokens
        ids = sorted(tokens, key=tokens.__getitem__)
        ensembl = np.array(["" if gene in SPECIALS else gene for gene in ids], dtype=object)
        known = {gene: token for gene, token in tokens.items() if gene not in SPECIALS}
        mapping = (
            {name: known[gene] for name, gene in dictionaries.mapping.items() if gene in known}
            if dictionaries.mapping
            else dict(known)
        )
        published = {name: known[gene] for name, gene in dictionaries.names.items() if gene in known}
        return cls(ensembl_symbols(ensembl, dictionaries.names), ensembl, mapping=mapping, published=published)

    def id_of(self, gene: str) -> int | None:
        """Token id of an Ensembl id or a symbol; None where unknown."""
        found = super().id_of(gene)
        if found is None:
            found = self.mapping.get(gene.upper(), self.published.get(gene))
        return found

    def match(self, genes: Genes, orthologs: bool = False, *, like_reference: bool = False) -> PublishedMatch:
        """Match ``var["ensembl_id"]`` by the mapping, as it stands there; cells without any id by their symbols.

        Columns are summed where the mapping brings ids together that it holds as they are written, and stay apart where
        their ids are the same, both as in the reference. Besides, by default and never `like_reference`: an unknown id is
        looked up without its version, a column whose id is empty by its name; such a column is summed into the one that
        holds its gene already, and changes nothing about the others. Ids that are none of genes (but of transcripts, say)
        count as empty where nearly none is known.
        """
        how = dict.fromkeys((ENSEMBL, BY_MAPPING, UNVERSIONED, BY_NAME, TRANSLATED_SYMBOL, ORTHOLOG), 0)
        source = genes.naming_column(lambda name: self._name(name) >= 0)
        named = genes.called(source)
        named = np.where(named != "", named, np.where(genes.symbols != "", genes.symbols, genes.names))
        if genes.organism == "mouse" and orthologs:
            found = [self._ortholog(e, s, n) for e, s, n in zip(genes.ensembl, genes.symbols, genes.names, strict=True)]
            ids = np.array(found, dtype=np.int64)
            how[ORTHOLOG] = int((ids >= 0).sum())
            columns = np.flatnonzero(ids >= 0)
            summed = len(set(named[columns])) != len(np.unique(ids[columns]))
            return PublishedMatch(columns, ids[columns], how, len(genes), summed=summed)
        keys = self._keys(genes, like_reference)
        has_ids = bool((keys != "").any())
        keys = keys if has_ids else named
        ids = self._lookup(keys, like_reference)
        if has_ids and not like_reference and (ids >= 0).mean() < 0.5:
            by_name = np.array([self._name(name) >= 0 for name in map(str, named)], dtype=bool)
            keys = np.where(of_another_kind(keys, ids, by_name), "", keys)
        is_id = np.array([is_ensembl(key.upper()) for key in keys], dtype=bool)
        way = np.where(ids < 0, "", np.where(is_id, ENSEMBL, BY_MAPPING)).astype(object)

        def complete(columns: NDArray[np.int64], name: str, found: list[int]) -> None:
            ids[columns] = found
            way[columns] = np.where(ids[columns] >= 0, name, "")

        if not like_reference:
            lost = np.flatnonzero((ids < 0) & is_id)
            complete(lost, UNVERSIONED, [self.mapping.get(strip_version(keys[i].upper()), -1) for i in lost])
            lost = np.flatnonzero(keys == "")
            complete(lost, BY_NAME, [self._name(name) for name in map(str, named[lost])])
        if not has_ids and not (like_reference and "ensembl_id" in genes.given):
            lost = np.flatnonzero(ids < 0)
            complete(lost, TRANSLATED_SYMBOL, [self._symbol(str(keys[i])) for i in lost])
        if genes.organism == "mouse" and not are_meant(self.ensembl, ids):
            ids[:], way[:] = -1, ""
        how |= {name: int((way == name).sum()) for name in how}
        columns = np.flatnonzero(ids >= 0)
        # The reference counts the ids that its mapping holds as they are written, and nothing that only capitals find.
        written = {keys[i]: ids[i] for i in columns if keys[i] in self.mapping or way[i] == TRANSLATED_SYMBOL}
        summed = len(written) != len(set(written.values()))
        joined = np.isin(way[columns].astype(str), (UNVERSIONED, BY_NAME))
        told = source if how[BY_NAME] or not has_ids else ""
        return PublishedMatch(columns, ids[columns], how, len(genes), told, summed=summed, joined=joined)

    def _keys(self, genes: Genes, like_reference: bool) -> NDArray[Any]:
        """What is looked up for each column: the column that the reference reads, else where the ids are."""
        given = genes.given.get("ensembl_id")
        if given is None:
            return genes.ensembl_as_given
        if like_reference:
            return given
        ids = {"ensembl_id": given, "": genes.ensembl_as_given, **genes.ids_given}
        return ids[first_known(ids, self._knows_id)]

    def _knows_id(self, key: str) -> bool:
        return key.upper() in self.mapping or key in self.mapping or strip_version(key.upper()) in self.mapping

    def _name(self, name: str) -> int:
        """Token of a name by the mapping, else by the tables of symbols; -1 where unknown."""
        found = self.mapping.get(name.upper(), self.mapping.get(name, -1))
        return self._symbol(name) if found < 0 and not is_ensembl(name) else found

    def _lookup(self, keys: NDArray[Any], like_reference: bool) -> NDArray[np.int64]:
        # The reference looks up capitals alone; a dictionary of another species may be written otherwise.
        as_written = {} if like_reference else self.mapping
        found = [self.mapping.get(key.upper(), as_written.get(key, -1)) for key in map(str, keys)]
        return np.array(found, dtype=np.int64)

    def _symbol(self, name: str) -> int:
        if name in self.published:
            return self.published[name]
        row = shipped_genes().id_of(name)
        return -1 if row is None else self.mapping.get(str(shipped_genes().ensembl[row]).upper(), -1)

    def _ortholog(self, *names: str) -> int:
        row = next((mouse_rows()[name] for name in names if name in mouse_rows()), None)
        return -1 if row is None else self.mapping.get(str(shipped_genes().ensembl[row]).upper(), -1)
