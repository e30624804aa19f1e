"""Families that read symbols: which column of ``var`` they take them from, and what each symbol is to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import INDEX, Vocabulary
from scfm_lab.errors import GenesError
from scfm_lab.models.published import (
    ORTHOLOG,
    SYMBOL,
    TRANSLATED_ENSEMBL,
    PublishedMatch,
    PublishedModel,
    are_meant,
    nameless,
    shipped_genes,
    table_hits,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes, Match


def symbol_vocabulary(symbols: NDArray[Any]) -> SymbolVocabulary:
    """A vocabulary of symbols (one per token id, ``""`` where a token is no gene), completed by the shipped table."""
    table = shipped_genes()
    ensembl = np.full(len(symbols), "", dtype=object)
    # Of a symbol with several tokens the first one counts.
    place = dict(zip(map(str, symbols[::-1].tolist()), range(len(symbols) - 1, -1, -1), strict=True))
    place.pop("", None)
    mouse_symbols, mouse_ensembl = ensembl.copy(), ensembl.copy()
    for row, hit in table_hits(table, place):
        if hit is not None and not ensembl[hit]:
            ensembl[hit] = table.ensembl[row]
            if table.mouse_symbols is not None:
                mouse_symbols[hit] = table.mouse_symbols[row]
            if table.mouse_ensembl is not None:
                mouse_ensembl[hit] = table.mouse_ensembl[row]
    return SymbolVocabulary(symbols, ensembl, mouse_symbols, mouse_ensembl)


class SymbolVocabulary(Vocabulary):
    """Symbols as a reference reads them: exactly, in this case, every column a token of its own."""

    def match(self, genes: Genes, orthologs: bool = False) -> PublishedMatch:
        """:meth:`match_in` the columns that usually hold symbols."""
        return self.match_in(genes, orthologs)

    def match_in(
        self, genes: Genes, orthologs: bool = False, *, column: str | None = None, prefer: str = ""
    ) -> PublishedMatch:
        """Match by exact symbol; columns without a symbol by their Ensembl id, through the shipped table.

        Symbols are read from the column of ``var`` whose names are this vocabulary's (:meth:`Genes.naming_column`), and the
        match tells which. Where it has none, or an Ensembl id, those of the other usual columns are. Mouse genes are matched
        through their orthologs if `orthologs` asks for it, else by the very names of a vocabulary that has mouse genes.

        Parameters
        ----------
        column
            Read only this column of ``var``, as it stands there, or ``"index"``.
        prefer
            A column of ``var`` that is read first, if it is not far behind the best: the reference's own.
        """
        how = dict.fromkeys((SYMBOL, TRANSLATED_ENSEMBL, ORTHOLOG), 0)
        ids = np.full(len(genes), -1, dtype=np.int64)
        known = self._by_mouse if genes.organism == "mouse" and orthologs else self._by_symbol
        source = genes.naming_column(known.__contains__, prefer) if column is None else _column_named(genes, column)
        names = genes.called(source)
        if known is self._by_mouse:
            keys = (genes.ensembl, names, genes.symbols, genes.names) if column is None else (names,)
            for i, each in enumerate(zip(*keys, strict=True)):
                ids[i] = next((known[key] for key in each if key and key in known), -1)
            how[ORTHOLOG] = int((ids >= 0).sum())
        else:
            ids[:] = _found(known, names)
            unnamed = nameless(names)
            if column is None:
                # Of an index not every name need be a symbol.
                open_to_others = unnamed | (source == INDEX)
                for others in (genes.symbols, genes.names):
                    ids = np.where(open_to_others & (ids < 0), _found(known, others), ids)
            if genes.organism == "mouse" and not are_meant(self.symbols, ids):
                ids[:] = -1
            how[SYMBOL] = int((ids >= 0).sum())
            if genes.organism != "mouse" and column is None:
                translated = _found(self._by_ensembl, genes.ensembl)
                # Names that mean nothing to this vocabulary are no reason to leave the ids unread.
                meaningless = 2 * how[SYMBOL] < (translated >= 0).sum()
                ids = np.where((ids < 0) & (unnamed | meaningless), translated, ids)
            how[TRANSLATED_ENSEMBL] = int((ids >= 0).sum()) - how[SYMBOL]
        columns = np.flatnonzero(ids >= 0)
        told = source if how[SYMBOL] or column is not None else ""
        return PublishedMatch(columns, ids[columns], how, len(genes), told, summed=False)


class SymbolModel(PublishedModel):
    """What the families that read symbols share."""

    names_read: tuple[str, ...] = ()
    """Columns of ``var`` (or ``"index"``) where the reference looks for symbols: the first that is there is read before others,
    and with ``like_reference`` alone."""
    vocabulary: SymbolVocabulary

    def _ways(self, options: Mapping[str, Any]) -> dict[str, Any]:
        like_reference = bool(options.get("like_reference", False))
        return {**super()._ways(options), "like_reference": like_reference, "column": options.get("gene_column")}

    def _look_up(self, genes: Genes, ways: dict[str, Any]) -> Match:
        own = next((name for name in self.names_read if name == INDEX or name in genes.given), "")
        column, orthologs = ways["column"], ways["orthologs"]
        if ways["like_reference"] and column is None and not orthologs:
            column = own or None
        return self.vocabulary.match_in(genes, orthologs, column=column, prefer=own)


def _found(known: Mapping[str, int], names: NDArray[Any]) -> NDArray[np.int64]:
    return np.array([known.get(name, -1) if name else -1 for name in map(str, names)], dtype=np.int64)


def _column_named(genes: Genes, column: str) -> str:
    """A column of ``var`` as :class:`Genes` has it.

    Raises
    ------
    GenesError
        If it is none of those that hold text.
    """
    found = next((name for name in (column, column.lower()) if name == INDEX or name in genes.given), None)
    if found is None:
        raise GenesError(
            f"gene_column is {column!r}; the columns of this var that are read are "
            + ", ".join(map(repr, (*genes.given, INDEX)))
            + "."
        )
    return found
