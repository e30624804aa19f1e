"""Gene identifiers: what an AnnData calls its genes, and what a model calls them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells.digest import hash_names
from scfm_lab.errors import GenesError, did_you_mean, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ENSEMBL_COLUMNS = ("ensembl_id", "ensembl_ids", "gene_ids", "gene_id", "feature_id", "ensembl", "ensemblid")
_NAMED_ENSEMBL = ("ensembl_id", "ensembl_ids", "ensembl", "ensemblid")
_SYMBOL_COLUMNS = (
    "gene_symbol",
    "gene_symbols",
    "feature_name",
    "gene_name",
    "gene_names",
    "symbol",
    "gene_short_name",
)
_USUAL = (*_ENSEMBL_COLUMNS, *_SYMBOL_COLUMNS)
INDEX = "index"
"""What stands for ``var_names`` where columns of ``var`` are named."""
_ENSEMBL = re.compile(r"^ENS[A-Z]*G(R)?\d{6,}(\.\d+)?$")
_ID_OF_SPECIES = re.compile(r"^(ENS[A-Z]*G|FBgn|WBGene)R?\d{6,}")
_SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSDARG": "zebrafish",
    "ENSMFAG": "macaca_fascicularis",
    "ENSMICG": "mouse_lemur",
    "ENSMMUG": "macaca_mulatta",
    "ENSSSCG": "pig",
    "ENSXETG": "frog",
}
"""Species by the beginning of their ids, called as UCE calls them."""


def is_ensembl(gene_id: str) -> bool:
    """Whether a name has the form of an Ensembl gene id, with or without version."""
    return bool(_ENSEMBL.match(gene_id))


def is_gene_id(name: str) -> bool:
    """Whether a name has the form of a gene's id at Ensembl, FlyBase or WormBase, in any case."""
    return bool(_ID_OF_SPECIES.match(name) or _ENSEMBL.match(name.upper()))


def strip_version(gene_id: str) -> str:
    """``ENSG00000167286.9`` → ``ENSG00000167286``; other names are returned as they are."""
    if _ENSEMBL.match(gene_id):
        return gene_id.split(".", 1)[0]
    return gene_id


@dataclass(frozen=True)
class Genes:
    """The genes of an AnnData, one entry per column of its counts."""

    names: NDArray[Any]
    """As the AnnData's index has them."""
    symbols: NDArray[Any]
    """Gene symbols, ``""`` where unknown."""
    ensembl: NDArray[Any]
    """Ensembl ids without version, ``""`` where unknown."""
    organism: str | None
    """``"human"``, ``"mouse"``, another name as given, or None where it cannot be told."""
    given: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The columns of ``var`` that hold text, as it stands there, ``""`` where there is none; those that usually hold identifiers
    by their name in small letters."""
    ensembl_from: str = ""
    """Which of them `ensembl` was read from; ``""``: the index, or none."""
    symbols_from: str = ""
    """Which of them `symbols` was read from; ``""``: the index, or none."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, columns: NDArray[Any]) -> Self:
        """The genes of some columns."""
        return replace(
            self,
            names=self.names[columns],
            symbols=self.symbols[columns],
            ensembl=self.ensembl[columns],
            given={name: values[columns] for name, values in self.given.items()},
        )

    @property
    def ensembl_as_given(self) -> NDArray[Any]:
        """`ensembl` with the versions that stand there."""
        source = self.given.get(self.ensembl_from, self.names)
        there = np.array([strip_version(str(name)) for name in source], dtype=object) == self.ensembl
        return np.where(there, source, self.ensembl)

    @property
    def ids_given(self) -> dict[str, NDArray[Any]]:
        """Those of `given` that usually hold Ensembl ids."""
        return {name: self.given[name] for name in _ENSEMBL_COLUMNS if name in self.given}

    def called(self, column: str) -> NDArray[Any]:
        """What a column of ``var`` calls the genes, ``""`` where nothing; ``"index"``: `names`."""
        return self.names if column == INDEX else self.given[column]

    def naming_column(self, knows: Callable[[str], bool], first: str = "") -> str:
        """The column of ``var`` (or ``"index"``) whose names are those of a vocabulary (:func:`first_known`).

        Parameters
        ----------
        knows
            Whether the vocabulary has a name.
        first
            A column that goes before those that usually hold symbols.
        """
        order = dict.fromkeys((first, self.symbols_from, *_SYMBOL_COLUMNS, INDEX, *self.given))
        return first_known({name: self.called(name) for name in order if name == INDEX or name in self.given}, knows)

    @classmethod
    def from_var(cls, var: Any, organism: str | None = None) -> Genes:
        """Read the identifiers of a ``var`` data frame.

        Raises
        ------
        GenesError
            If the index has a name twice.
        """
        if not var.index.is_unique:
            doubled = var.index[var.index.duplicated()].unique()
            raise GenesError(
                f"{plural(len(doubled), 'gene name occurs', 'gene names occur')} more than once in var_names "
                f"(first: {str(doubled[0])!r}), "
                "so it is not clear which column is meant. Make them unique first: adata.var_names_make_unique()."
            )
        content = _content(var, organism)
        for known, genes in _recent:
            if _same(known, content):
                return genes
        names = np.asarray(var.index.astype(str), dtype=object)
        in_index = np.array([bool(_ENSEMBL.match(n)) for n in names], dtype=bool)
        given = _given(var)
        ensembl_from, ensembl = _column(given, _ENSEMBL_COLUMNS, wanted=lambda v: bool(_ENSEMBL.match(v)))
        named = {name: values for name, values in given.items() if not _describes(values)}
        symbols_from, symbols = _column(named, _SYMBOL_COLUMNS, wanted=lambda v: bool(v) and not _ENSEMBL.match(v))
        if ensembl is None and not in_index.any():
            # Ids of other databases (FlyBase, WormBase, …) stand where Ensembl, which took them over, has its own.
            ensembl_from, ensembl = _column(given, _NAMED_ENSEMBL, wanted=bool)
        if ensembl is None:
            ensembl = np.where(in_index, names, "")
        if symbols is None:
            symbols = np.where(in_index, "", names)
        if ensembl_from in _NAMED_ENSEMBL:
            # Beside Ensembl's ids such a column holds those of other databases; a name again, or a word, is no id.
            own = given[ensembl_from]
            ids = np.array([any(c.isdigit() for c in value) for value in own], dtype=bool) & (own != symbols)
            ensembl = np.where(ids & (own != names), own, ensembl)
        ensembl = np.array([strip_version(str(e)) for e in ensembl], dtype=object)
        for texts in (symbols, *(named[name] for name in _SYMBOL_COLUMNS if name in named), names):
            organism = organism or guess_organism(ensembl, texts)
        genes = cls(names, symbols.astype(object), ensembl, organism, given, ensembl_from, symbols_from)
        _recent[:] = [*_recent, (content, genes)][-_MOST_RECENT:]
        return genes

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """64-bit hash of each name, the same on every machine."""
        return hash_names(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        """Column of every name, symbol and Ensembl id; a name wins over a symbol of another column."""
        lookup: dict[str, int] = {}
        for values in (self.ensembl, self.symbols, self.names):
            for i, value in enumerate(values):
                if value:
                    lookup[str(value)] = i
        return lookup

    @cached_property
    def _shared(self) -> dict[str, list[int]]:
        """Symbols and Ensembl ids that several columns carry, and that are no column's own name."""
        own = set(map(str, self.names))
        columns: dict[str, list[int]] = {}
        for values in (self.ensembl, self.symbols):
            for i, value in enumerate(values):
                if value and str(value) not in own:
                    columns.setdefault(str(value), []).append(i)
        return {value: found for value, found in columns.items() if len(found) > 1}

    def find(self, gene: str) -> int:
        """Column of a gene given by name, symbol or Ensembl id (with or without version).

        Raises
        ------
        GenesError
            If no column is called so (the nearest names are told), or several are.
        """
        gene = str(gene)
        for candidate in (gene, strip_version(gene)):
            if candidate in self._shared:
                columns = ", ".join(repr(str(self.names[i])) for i in self._shared[candidate][:5])
                raise GenesError(
                    f"{gene!r} is the name of {len(self._shared[candidate])} columns ({columns}); give the one you mean by "
                    "its name in var_names."
                )
            if candidate in self.index:
                return self.index[candidate]
        folded = [n for n in self.index if n.casefold() == gene.casefold()]
        if len(folded) == 1:
            return self.index[folded[0]]
        raise GenesError(
            f"No gene called {gene!r} is among the {len(self):,} genes of this AnnData."
            + (did_you_mean(gene, self.index) or " Check the spelling, or whether the gene was filtered out.")
        )


# Reading tens of thousands of names takes longer than ranking a thousand cells, and the same genes are asked for again and
# again: those read last are kept, with what was worked out from them.
_MOST_RECENT = 4
_recent: list[tuple[Any, Genes]] = []


def _content(var: Any, organism: str | None) -> Any:
    """What :meth:`Genes.from_var` reads, as lists: those of the same names compare fast, since Python looks at the objects first."""
    columns = [c for c in var.columns if var[c].dtype.kind == "O" or str(c).lower() in _USUAL]
    return organism, str(var.index.dtype), var.index.tolist(), [(str(c), *_listed(var[c])) for c in columns]


def _listed(column: Any) -> tuple[str, list[Any], bytes]:
    if column.dtype == "category":
        return "category", column.cat.categories.tolist(), column.cat.codes.to_numpy().tobytes()
    return str(column.dtype), np.asarray(column, dtype=object).tolist(), b""


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    # A column of arrays, say.
    except (TypeError, ValueError):
        return False


def _given(var: Any) -> dict[str, NDArray[Any]]:
    lowered = {str(c).lower(): c for c in var.columns}
    found = {}
    for name in _USUAL:
        if name in lowered:
            values = var[lowered[name]].astype(object)
            found[name] = np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)
    for column in var.columns:
        if str(column).lower() not in _USUAL and var[column].dtype.kind == "O":
            text = np.array([v if isinstance(v, str) else "" for v in var[column].astype(object)], dtype=object)
            if (text != "").any():
                found[str(column)] = text
    return found


def _describes(values: NDArray[Any]) -> bool:
    """Whether a column's texts are descriptions: most have several words, as no symbol has."""
    words = [len(value.split()) for value in values if value]
    return 2 * sum(n > 1 for n in words) > len(words)


def first_known(sources: Mapping[str, NDArray[Any]], knows: Callable[[str], bool]) -> str:
    """The first of several sources of names that is not far behind the best: at least half as many of its names are known."""
    hits: dict[str, int] = {}
    for name, values in sources.items():
        hits[name] = sum(bool(value) and knows(value) for value in map(str, values))
        if len(hits) == 1 and 2 * hits[name] >= len(values):
            return name  # No other can know more than twice as many.
    return next(name for name, known in hits.items() if 2 * known >= max(hits.values()))


def _column(given: Mapping[str, NDArray[Any]], names: Sequence[str], wanted: Any) -> tuple[str, NDArray[Any] | None]:
    for name in names:
        if name in given:
            values = given[name]
            good = np.array([wanted(v) for v in values], dtype=bool)
            if good.any():
                return name, np.where(good, values, "")
    return "", None


def guess_organism(ensembl: NDArray[Any], symbols: NDArray[Any]) -> str | None:
    """What genes that are called so are of: ``"human"``, ``"mouse"``, another species of the ids, or None where it cannot be told."""
    # Ids say it, where there are any: those of other species are written in capitals, or with one, as human and mouse genes are.
    counted = Counter(found.group(1) for e in ensembl if (found := _ID_OF_SPECIES.match(e)))
    if counted:
        return _SPECIES.get(max(counted, key=lambda prefix: (counted[prefix], prefix == "ENSG")))
    letters = [s for s in symbols if len(s) > 2 and s[0].isalpha() and any(c.isalpha() for c in s[1:])]
    if len(letters) < 5:
        return None
    upper = sum(s.upper() == s for s in letters) / len(letters)
    title = sum(s[0].isupper() and s[1:].lower() == s[1:] for s in letters) / len(letters)
    if upper > 0.6:
        return "human"
    return "mouse" if title > 0.6 else None


@dataclass(frozen=True)
class Match:
    """Which columns of an AnnData a model knows, and as what."""

    columns: NDArray[np.int64]
    """Columns of the counts that the model knows, ascending."""
    ids: NDArray[np.int64]
    """Vocabulary id of each of those columns; one id twice means that columns are summed."""
    how: dict[str, int]
    """Number of columns by what they were matched by: ensembl, symbol, alias, ortholog."""
    n_genes: int
    """Columns in all."""
    source: str = ""
    """The column of ``var``, or ``"index"``, whose names were looked up; ``""``: several, as each gene has them."""
    remarks: tuple[str, ...] = ()
    """What a user should be told about the columns, a sentence each."""

    def only(self, kept: NDArray[np.bool_], remark: str) -> Self:
        """Some of the columns that the model knows, where it reads no others; `remark` says why."""
        n = int(kept.sum())
        if n == len(kept):
            return self
        how = {way: min(found, n) for way, found in self.how.items()}
        return replace(self, columns=self.columns[kept], ids=self.ids[kept], how=how, remarks=(*self.remarks, remark))

    @property
    def told_source(self) -> str:
        """:attr:`source` as users write it; ``""`` where that is."""
        return "var_names" if self.source == INDEX else f"var[{self.source!r}]" if self.source else ""

    @property
    def doubled(self) -> int:
        """Columns that fall on a vocabulary gene which another column holds too."""
        return len(self.ids) - len(np.unique(self.ids))


@dataclass(frozen=True)
class Vocabulary:
    """The genes that a model knows; the position in the arrays is the vocabulary id.

    Parameters
    ----------
    symbols, ensembl
        One entry per gene, ``""`` where the model's files do not say.
    mouse_symbols, mouse_ensembl
        One-to-one mouse orthologs, where the model's files hold them.
    aliases
        Further names → vocabulary id.
    """

    symbols: NDArray[Any]
    ensembl: NDArray[Any]
    mouse_symbols: NDArray[Any] | None = None
    mouse_ensembl: NDArray[Any] | None = None
    aliases: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def names(self) -> NDArray[Any]:
        """Symbol of each gene, or its Ensembl id where there is no symbol."""
        return np.where(self.symbols != "", self.symbols, self.ensembl)

    @classmethod
    def from_csv(cls, path: Path) -> Vocabulary:
        """Read ``symbol, ensembl[, mouse_symbol, mouse_ensembl, aliases]`` (aliases separated by ``|``)."""
        import pandas as pd

        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        aliases: dict[str, int] = {}
        if "aliases" in table:
            for i, names in enumerate(table["aliases"]):
                for name in filter(None, names.split("|")):
                    aliases.setdefault(name, i)

        def column(name: str) -> NDArray[Any] | None:
            return table[name].to_numpy(dtype=object) if name in table else None

        symbols, ensembl = column("symbol"), column("ensembl")
        if symbols is None or ensembl is None:
            raise GenesError(f"The vocabulary {path.name} has no columns 'symbol' and 'ensembl'.")
        return cls(symbols, ensembl, column("mouse_symbol"), column("mouse_ensembl"), aliases)

    def to_csv(self, path: Path) -> None:
        """Write what :meth:`from_csv` reads."""
        import pandas as pd

        aliases: list[list[str]] = [[] for _ in range(len(self))]
        for name, i in self.aliases.items():
            aliases[i].append(name)
        columns = {
            "symbol": self.symbols,
            "ensembl": self.ensembl,
            "mouse_symbol": self.mouse_symbols,
            "mouse_ensembl": self.mouse_ensembl,
            "aliases": ["|".join(names) for names in aliases] if self.aliases else None,
        }
        table = pd.DataFrame({name: column for name, column in columns.items() if column is not None})
        # The time of writing is left out of the file, so that the same genes are the same bytes.
        packed = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
        table.to_csv(path, index=False, compression=packed)

    def subset(self, ids: NDArray[np.int64]) -> Vocabulary:
        """The vocabulary of some genes, in the order given; aliases are kept."""
        new_id = {int(old): new for new, old in enumerate(ids)}
        return Vocabulary(
            self.symbols[ids],
            self.ensembl[ids],
            None if self.mouse_symbols is None else self.mouse_symbols[ids],
            None if self.mouse_ensembl is None else self.mouse_ensembl[ids],
            {name: new_id[i] for name, i in self.aliases.items() if i in new_id},
        )

    @cached_property
    def _by_ensembl(self) -> dict[str, int]:
        return _first_positions(self.ensembl)

    @cached_property
    def _by_symbol(self) -> dict[str, int]:
        return _first_positions(self.symbols)

    @cached_property
    def _by_upper(self) -> dict[str, int]:
        return _first_positions(np.array([s.upper() for s in self.symbols], dtype=object))

    @cached_property
    def _by_mouse(self) -> dict[str, int]:
        lookup: dict[str, int] = {}
        for values in (self.mouse_symbols, self.mouse_ensembl):
            if values is not None:
                lookup.update(_first_positions(values))
        return lookup

    @property
    def has_orthologs(self) -> bool:
        """Whether mouse genes can be matched through one-to-one orthologs."""
        return self.mouse_symbols is not None or self.mouse_ensembl is not None

    def id_of(self, gene: str) -> int | None:
        """Vocabulary id of a symbol, Ensembl id or alias; None where unknown."""
        for lookup, key in (
            (self._by_ensembl, strip_version(gene)),
            (self._by_symbol, gene),
            (self.aliases, gene),
            (self._by_mouse, strip_version(gene)),
        ):
            if key in lookup:
                return lookup[key]
        return None

    def ids_of(self, names: Iterable[Any]) -> NDArray[np.int64]:
        """Vocabulary id of each row of a table that is indexed by symbol or Ensembl id; -1 where there is none."""
        places = (_first_positions(self.names), self._by_ensembl)
        found = (next((p[name] for p in places if name in p), -1) for name in map(str, names))
        return np.fromiter(found, dtype=np.int64)

    def match(self, genes: Genes) -> Match:
        """Match the genes of an AnnData: by Ensembl id, symbol, alias, or mouse ortholog.

        Ensembl ids decide where both sides have them, since symbols were re-used over the
        years. Mouse genes are matched through the one-to-one orthologs only, never by an
        upper-cased name. An alias gives way where another column is the gene by its current
        name: what was one symbol once may be two genes now.
        """
        found: list[tuple[int, int, str]] = []
        mouse, folded = genes.organism == "mouse", genes.organism in (None, "human")
        source = genes.naming_column(lambda name: self.id_of(name) is not None)
        symbols = np.where(genes.called(source) != "", genes.called(source), genes.symbols)
        for i, (name, symbol, ensembl) in enumerate(zip(genes.names, symbols, genes.ensembl, strict=True)):
            hit, by = (
                self._match_mouse(name, symbol, ensembl) if mouse else self._match_names(name, symbol, ensembl, folded)
            )
            if hit is not None:
                found.append((i, hit, by))
        current = {hit for _, hit, by in found if by != "alias"}
        found = [entry for entry in found if entry[2] != "alias" or entry[1] not in current]
        how = dict.fromkeys(("ensembl", "symbol", "alias", "ortholog"), 0)
        for _, _, by in found:
            how[by] += 1
        columns, ids = np.array([(i, hit) for i, hit, _ in found], np.int64).reshape(-1, 2).T
        return Match(columns.copy(), ids.copy(), how, len(genes))

    def _match_names(self, name: str, symbol: str, ensembl: str, folded: bool) -> tuple[int | None, str]:
        if ensembl and ensembl in self._by_ensembl:
            return self._by_ensembl[ensembl], "ensembl"
        for key in (symbol, name):
            if key and key in self._by_symbol:
                return self._by_symbol[key], "symbol"
        for key in (ensembl, symbol, name):  # aliases hold retired Ensembl ids too
            if key and key in self.aliases:
                return self.aliases[key], "alias"
            if folded and key and key.upper() in self._by_upper and key.upper() != key:
                return self._by_upper[key.upper()], "symbol"
        return None, ""

    def _match_mouse(self, name: str, symbol: str, ensembl: str) -> tuple[int | None, str]:
        for key in (ensembl, symbol, name):
            if key and key in self._by_mouse:
                return self._by_mouse[key], "ortholog"
        # A vocabulary of mouse genes: the very same name, in the very same case.
        if ensembl and ensembl in self._by_ensembl:
            return self._by_ensembl[ensembl], "ensembl"
        for key in (symbol, name):
            if key and not self.has_orthologs and key in self._by_symbol and key != key.upper():
                return self._by_symbol[key], "symbol"
        return None, ""


def _first_positions(values: NDArray[Any]) -> dict[str, int]:
    lookup: dict[str, int] = {}
    for i, value in enumerate(values):
        if value:
            lookup.setdefault(str(value), i)
    return lookup
