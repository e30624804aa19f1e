"""Gene names of published models: their own first, then what leads to them.

A published vocabulary speaks symbols or Ensembl ids. Cells that speak the same are matched
as the reference matches them, so that tokens are identical; cells that speak only the other
are translated through the gene table shipped with the lab, and mouse cells through its
one-to-one orthologs where that is asked for. The match tells by what each column was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.blocks import over_blocks
from scfm_lab.cells.genes import Match, Vocabulary, guess_organism, is_ensembl, is_gene_id
from scfm_lab.errors import DataError, GenesError, ModelError, did_you_mean, plural
from scfm_lab.models.contract import Model
from scfm_lab.models.spec import Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.genes import Genes

SYMBOL = "symbol"
ENSEMBL = "ensembl"
ORTHOLOG = "one-to-one mouse ortholog"
TRANSLATED_ENSEMBL = "Ensembl id translated to a symbol"
TRANSLATED_SYMBOL = "symbol translated to an Ensembl id"
_MEANT = 0.05
"""Share of mouse genes that a vocabulary of no one species must know by their very names, for them to be meant."""


@cache
def shipped_genes() -> Vocabulary:
    """The lab's gene table: symbols, Ensembl ids, aliases and mouse orthologs."""
    from pathlib import Path

    return Vocabulary.from_csv(Path(__file__).parent / "assets" / "starter" / "vocabulary.csv.gz")


@cache
def mouse_rows() -> dict[str, int]:
    """Mouse symbol or Ensembl id → row of its one-to-one human ortholog in :func:`shipped_genes`."""
    table = shipped_genes()
    columns = [c for c in (table.mouse_symbols, table.mouse_ensembl) if c is not None]
    return {str(name): row for column in columns for row, name in reversed(list(enumerate(column))) if name}


@cache
def mouse_ids() -> dict[str, str]:
    """Mouse symbol → its mouse Ensembl id, of the genes in :func:`shipped_genes` that have a one-to-one human ortholog."""
    table = shipped_genes()
    if table.mouse_symbols is None or table.mouse_ensembl is None:
        return {}
    pairs = list(zip(table.mouse_symbols, table.mouse_ensembl, strict=True))
    return {str(symbol): str(gene) for symbol, gene in reversed(pairs) if symbol and gene}


@dataclass(frozen=True)
class PublishedMatch(Match):
    """A match that says whether columns of one gene are summed, or are tokens of their own as in the reference."""

    summed: bool = True
    joined: NDArray[np.bool_] | None = None
    """Of each column: whether it is summed into its gene's first other column even where others are not."""

    @property
    def doubled(self) -> int:
        """Columns that are summed into a gene which another column holds too."""
        return len(self.ids) - len(np.unique(self.onto))

    @property
    def onto(self) -> NDArray[np.int64]:
        """For each column the place (among the columns) of the one that it is summed onto; its own where it is not."""
        own = np.arange(len(self.ids))
        if self.summed:
            _, first, which = np.unique(self.ids, return_index=True, return_inverse=True)
            return first[which]
        if self.joined is None or not self.joined.any():
            return own
        # The columns that stand for their gene themselves come first.
        order = np.argsort(self.joined, kind="stable")
        _, first, which = np.unique(self.ids[order], return_index=True, return_inverse=True)
        onto = np.empty_like(own)
        onto[order] = order[first[which]]
        return np.where(self.joined, onto, own)


@dataclass(frozen=True)
class KnownCounts:
    """The counts of some cells that a model can see, flat: one cell's after those of the other, in the order of the columns."""

    columns: NDArray[np.int32]
    """Column of each count."""
    ids: NDArray[np.int32]
    """Vocabulary id."""
    values: NDArray[np.float32]
    lengths: NDArray[np.int64]
    """Counts of each cell."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Cell of each count."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Begin of each cell."""
        return np.cumsum(self.lengths) - self.lengths


def places(match: Match, n_columns: int) -> NDArray[np.int32]:
    """Vocabulary id of every column, -1 where it is unknown."""
    place = np.full(n_columns, -1, dtype=np.int32)
    place[match.columns] = match.ids
    return place


def known_counts(counts: csr_matrix, place: NDArray[np.int32], first: int = 0, last: int | None = None) -> KnownCounts:
    """The non-zero counts of the cells `first` to `last` on genes that a model knows; columns of one gene stay apart.

    Parameters
    ----------
    place
        Of :func:`places`.
    """
    last = counts.shape[0] if last is None else last
    pointers = counts.indptr[first : last + 1].astype(np.int64)
    part = slice(pointers[0], pointers[-1])
    columns, values = counts.indices[part], counts.data[part]
    ids = place.take(columns)
    known = ids >= 0
    if known.all():
        return KnownCounts(columns, ids, values, np.diff(pointers))
    at = np.flatnonzero(known)
    lengths = np.diff(np.searchsorted(at, pointers - pointers[0]))
    return KnownCounts(columns.take(at), ids.take(at), values.take(at), lengths)


def arrays_of(counts: csr_matrix) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    """What compiled loops read of a CSR matrix: pointers, columns and float32 values.

    Raises
    ------
    DataError
        If a column is out of range: compiled loops do not look.
    """
    columns = counts.indices
    if len(columns) and not (columns.min() >= 0 and columns.max() < counts.shape[1]):
        raise DataError("The matrix of these counts is damaged: it names columns that it does not have.")
    return counts.indptr, columns, counts.data.astype(np.float32, copy=False)


def lengths_known(arrays: tuple[NDArray[Any], ...], place: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many counts of each cell are of known genes; of :func:`arrays_of` and :func:`places`."""
    from scfm_lab.models.kernels import known_lengths

    pointers, columns, _ = arrays
    known = (place >= 0).astype(np.uint8)
    lengths = np.empty(len(pointers) - 1, np.int64)
    over_blocks(lambda first, last: known_lengths(first, last, pointers, columns, known, lengths), np.diff(pointers))
    return lengths


class PublishedModel(Model):
    """What the models opened from published files share."""

    orthologs: bool = False
    """Whether mouse genes are matched through their human orthologs where no option says otherwise."""

    def match(self, genes: Genes) -> Match:
        """Which genes the model knows; the answer for the genes asked last is kept."""
        return self._matched(genes, self._ways({}))

    def known_genes(self, genes: Genes, options: Mapping[str, Any] | None = None) -> Match:
        """:meth:`require_genes`, as the options say: mouse genes read as human ones, say, if ``orthologs`` does."""
        return self._required(genes, self._ways(options or {}))

    def require_genes(self, genes: Genes) -> Match:
        """Like :meth:`match`.

        Raises
        ------
        GenesError
            If no gene is known; for mouse cells it says how to ask for orthologs.
        """
        return self._required(genes, self._ways({}))

    def _ways(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the vocabulary is asked besides the genes."""
        return {"orthologs": bool(options.get("orthologs", self.orthologs))}

    def _look_up(self, genes: Genes, ways: dict[str, Any]) -> Match:
        return self.vocabulary.match(genes, **ways)

    def _matched(self, genes: Genes, ways: dict[str, Any]) -> Match:
        cached = getattr(self, "_last_match", None)
        if cached is not None and cached[0] is genes and cached[1] == ways:
            return cached[2]
        match = self._look_up(genes, ways)
        self._last_match = (genes, ways, match)  # type: ignore[assignment]
        return match

    def _required(self, genes: Genes, ways: dict[str, Any]) -> Match:
        match = self._matched(genes, ways)
        if len(match.columns):
            return match
        examples = ", ".join(map(str, genes.names[:3]))
        if ways.get("like_reference") and len(found := self._look_up(genes, {**ways, "like_reference": False}).columns):
            raise GenesError(
                f"like_reference reads {match.told_source or 'Ensembl ids'} alone, as the reference does, and none of the "
                f"{len(genes):,} names there is known to {self.spec.name}; without it {plural(len(found), 'gene is', 'genes are')}."
            )
        if genes.organism == "mouse" and not ways["orthologs"] and "orthologs" in self.spec.options:
            raise GenesError(
                f"These look like mouse genes (such as {examples}), and {self.spec.name} knows human genes. Give "
                "options={'orthologs': True} to read them through their one-to-one human orthologs."
            )
        wanted = ", ".join([str(name) for name in self.vocabulary.names[:50] if name][:3])
        raise GenesError(
            f"None of the {len(genes):,} genes (such as {examples}) is known to {self.spec.name}, whose genes are "
            f"called like {wanted}. Put gene symbols into var_names, or Ensembl ids into var['ensembl_id']."
        )


def are_meant(names: NDArray[Any], ids: NDArray[np.int64]) -> bool:
    """Whether a vocabulary's exact hits among mouse genes are more than names that happen to be the same.

    Parameters
    ----------
    names
        The vocabulary's, as published.
    ids
        Hit of each column, -1 where there is none.
    """
    organism = guess_organism(names, names)
    return organism == "mouse" or (organism is None and (ids >= 0).mean() >= _MEANT)


def check_ids(genes: NDArray[np.integer], n: int, name: str) -> None:
    """Refuse vocabulary ids that a model does not have.

    Raises
    ------
    GenesError
        Naming the first.
    """
    ids = np.asarray(genes)
    wrong = ids[(ids < 0) | (ids >= n)]
    if len(wrong):
        raise GenesError(f"{name} has no gene {int(wrong[0]):,}: ids of its vocabulary are 0 to {n - 1:,}.")


def ortholog_option(default: bool = False) -> Option:
    """The option by which users ask for orthologs."""
    return Option(bool, default, "Read mouse genes through their one-to-one human orthologs.", of_cells=True)


def take_orthologs(config: Mapping[str, Any] | None) -> tuple[dict[str, Any], bool]:
    """A user's ``config`` without the lab's own entry ``orthologs``, and that entry."""
    rest = dict(config or {})
    asked = rest.pop("orthologs", False)
    if not isinstance(asked, (bool, np.bool_)):
        raise ModelError(f"config={{'orthologs': {asked!r}}} must be True or False.")
    return rest, bool(asked)


def overridden(settings: Mapping[str, Any], own: Mapping[str, Any], known: Iterable[str], name: str) -> dict[str, Any]:
    """A file's settings with a user's ``config`` over them.

    Raises
    ------
    ModelError
        If an entry is neither in the file nor one that the family reads: it would change nothing.
    """
    known = list(known)
    entries = list(dict.fromkeys([*known, *settings]))
    for key in own:
        if key not in entries:
            raise ModelError(
                f"{name} has no config entry {key!r}; it reads {', '.join(known)}." + did_you_mean(key, entries)
            )
    return {**settings, **own}


def ensembl_symbols(ensembl: NDArray[Any], names: Mapping[str, str] | None = None) -> NDArray[Any]:
    """A symbol for each Ensembl id, ``""`` where none is known.

    Parameters
    ----------
    names
        Symbol → Ensembl id, as published with a model; the shipped table completes it.
    """
    table = shipped_genes()
    of = {str(e): str(s) for s, e in zip(table.symbols, table.ensembl, strict=True) if e}
    if names:
        published: dict[str, str] = {}
        for symbol, gene in names.items():
            published.setdefault(gene, symbol)
        of.update(published)
    symbols = np.array([of.get(str(e), "") for e in ensembl], dtype=object)
    # A symbol names one gene only: the first.
    _, first = np.unique(symbols.astype(str), return_index=True)
    unique = np.zeros(len(symbols), dtype=bool)
    unique[first] = True
    return np.where(unique, symbols, "")


def table_hits(
    table: Vocabulary, place: Mapping[str, int], write: Callable[[str], str] = str
) -> list[tuple[int, int | None]]:
    """For each row of the gene table the place of its symbol in a model; where the model calls the gene by an older one, of that.

    Parameters
    ----------
    write
        How the model writes a symbol (in capitals, say).
    """
    symbols = [write(str(symbol)) for symbol in table.symbols]
    found: dict[int, int | None] = dict(enumerate(map(place.get, symbols)))
    taken = set(symbols)
    for alias, row in table.aliases.items():
        older = write(alias)
        if found[row] is None and older in place and older not in taken:
            found[row] = place[older]
    return list(found.items())


def nameless(names: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column has no symbol: nothing, or an Ensembl id in its place."""
    return np.array([not name or is_ensembl(name) for name in map(str, names)], dtype=bool)


def of_another_kind(keys: NDArray[Any], ids: NDArray[np.int64], by_name: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Columns whose unknown ids are none of genes (but of transcripts, or Entrez's), where they hide names that are known.

    Parameters
    ----------
    keys
        Id of each column, ``""`` where it has none.
    ids
        What they are found to be, -1 where unknown.
    by_name
        Whether the model knows the name of each column.
    """
    other = (ids < 0) & np.array([bool(key) and not is_gene_id(key) for key in map(str, keys)], dtype=bool)
    return other & (2 * (ids >= 0).sum() < (other & by_name).sum())
