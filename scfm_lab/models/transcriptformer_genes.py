"""Which genes TranscriptFormer knows: Ensembl ids (or the ids of another species' database), in the file's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import Vocabulary
from scfm_lab.errors import ModelError
from scfm_lab.models.published import (
    ENSEMBL,
    ORTHOLOG,
    TRANSLATED_SYMBOL,
    PublishedMatch,
    mouse_ids,
    of_another_kind,
    shipped_genes,
)
from scfm_lab.models.transcriptformer_files import SURGERY_ORDER, GeneTable, read_embeddings, read_genes

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from scfm_lab.cells.genes import Genes
    from scfm_lab.models.transcriptformer_files import Settings, TfFiles

SURGERIES = ("reference", "corrected")


@dataclass(frozen=True)
class TokenIds:
    """The numbers of the special tokens, and the table of protein embeddings that they count in."""

    genes: GeneTable
    first: int
    """Token id of the first gene."""
    table: torch.Tensor
    pad: int
    """Id that fills a cell up to its full length, where that is read at all."""
    hidden: int
    """Id that the network does not read."""
    start: int
    filled: bool
    """Whether cells are filled up, and the filling is read (the reference after embedding surgery)."""


def token_ids(files: TfFiles, settings: Settings, table: torch.Tensor, surgery: str) -> TokenIds:
    """The vocabulary as trained, or after embedding surgery.

    Parameters
    ----------
    table
        Protein embeddings of the checkpoint, special tokens first.
    surgery
        ``"reference"``: with the reference's stale numbers, by which padding is read and cells
        begin with the vector of ``[END]``; ``"corrected"``: with the right ones.

    Raises
    ------
    ModelError
        If the vocabulary does not fit the table.
    """
    import torch

    specials = {name: i for i, name in enumerate(settings.special_tokens)}
    trained = read_genes(files, settings, len(table))
    if len(specials) + len(trained.names) != len(table):
        raise ModelError(
            f"The vocabulary in {files.vocabs} has {len(trained.names):,} genes and {len(specials)} special tokens, the "
            f"embedding of {files.weights.name} {len(table):,} rows; the files do not belong together."
        )
    pad, start = specials[settings.gene_pad_token], specials["[START]"]
    if not files.pretrained:
        return TokenIds(trained, len(specials), table, pad, pad, start, filled=False)
    if surgery not in SURGERIES:
        raise ModelError(f"config={{'surgery': {surgery!r}}} must be one of {', '.join(SURGERIES)}.")
    names, vectors = read_embeddings(files.pretrained, int(table.shape[1]))
    order = [name for name in SURGERY_ORDER if name in specials]
    if settings.gene_pad_token not in order:
        raise ModelError(
            f"{files.config} fills cells up with {settings.gene_pad_token!r} (gene_pad_token), which is none of the special "
            f"tokens that protein embeddings of other species are put behind ({', '.join(SURGERY_ORDER)}); open the model without "
            "pretrained_embedding."
        )
    rows = torch.cat([table[[specials[name] for name in order]].float(), torch.from_numpy(vectors)])
    new_pad, new_start = order.index(settings.gene_pad_token), order.index("[START]")
    organisms = tuple(path.name.split(".")[0].removesuffix("_gene").replace("_", " ") for path in files.pretrained)
    own = GeneTable(names, organisms)
    if surgery == "corrected":
        return TokenIds(own, len(order), rows, new_pad, new_pad, new_start, filled=False)
    # The reference re-numbers the special tokens and goes on to use their old numbers.
    return TokenIds(own, len(order), rows, new_pad, pad, start, filled=True)


def as_vocabulary(genes: GeneTable) -> TfVocabulary:
    """The genes as a vocabulary: their ids, and for human genes what the shipped table knows about them."""
    shipped = shipped_genes()
    place = {str(name): i for i, name in enumerate(genes.names)}
    columns = {name: np.full(len(place), "", dtype=object) for name in ("symbols", "mouse_symbols", "mouse_ensembl")}
    taken: set[str] = set()
    for row, ensembl in enumerate(shipped.ensembl):
        at = place.get(str(ensembl))
        if at is None:
            continue
        for name, values in columns.items():
            known = getattr(shipped, name)
            # A symbol names one gene only: the first.
            if known is not None and (name != "symbols" or known[row] not in taken):
                values[at] = known[row]
        taken.add(str(shipped.symbols[row]))
    aliases = {
        a: place[str(shipped.ensembl[row])] for a, row in shipped.aliases.items() if shipped.ensembl[row] in place
    }
    return TfVocabulary(columns["symbols"], genes.names, columns["mouse_symbols"], columns["mouse_ensembl"], aliases)


class TfVocabulary(Vocabulary):
    """Ids of Ensembl, or of another species' database."""

    def match(self, genes: Genes, orthologs: bool = False) -> PublishedMatch:
        """Match by id, text after the first point cut; then by symbol, and mouse genes by ortholog if that is asked for.

        A symbol is translated by the shipped gene table, which knows human genes and their one-to-one mouse orthologs. Where
        ids are not those of genes (of transcripts, say) and nearly none is known, the symbols of their columns are read.
        """
        ids = np.full(len(genes), -1, dtype=np.int64)
        for keys in (genes.ensembl, genes.names, genes.symbols):
            _fill(ids, keys, lambda key: self._by_ensembl.get(key.split(".")[0], -1))
        how = {ENSEMBL: int((ids >= 0).sum())}
        # An id that the model does not know is no reason to take the gene for another one of the same symbol.
        unnamed = (ids < 0) & (genes.ensembl == "")
        known = mouse_ids() if genes.organism == "mouse" else {**self.aliases, **self._by_symbol}
        source = genes.naming_column(known.__contains__)
        names = genes.called(source)
        unnamed |= of_another_kind(genes.ensembl, ids, np.array([name in known for name in names], dtype=bool))
        if genes.organism == "mouse":
            for keys in (names, genes.symbols, genes.names):
                _fill(ids, np.where(unnamed, keys, ""), lambda key: self._by_ensembl.get(mouse_ids().get(key, ""), -1))
            how[TRANSLATED_SYMBOL] = int((ids >= 0).sum()) - how[ENSEMBL]
            if orthologs:
                for keys in (genes.ensembl, names, genes.symbols, genes.names):
                    _fill(ids, keys, lambda key: self._by_mouse.get(key, -1))
            how[ORTHOLOG] = int((ids >= 0).sum()) - sum(how.values())
        else:
            for keys in (names, genes.symbols, genes.names):
                for lookup in (self._by_symbol, self.aliases):
                    _fill(ids, np.where(unnamed, keys, ""), lambda key, lookup=lookup: lookup.get(key, -1))
            retired = (ids < 0) & (genes.ensembl != "")
            _fill(ids, np.where(retired, genes.ensembl, ""), lambda key: self.aliases.get(key, -1))
            how[TRANSLATED_SYMBOL] = int((ids >= 0).sum()) - how[ENSEMBL]
        columns = np.flatnonzero(ids >= 0)
        return PublishedMatch(columns, ids[columns], how, len(genes), source if how[TRANSLATED_SYMBOL] else "")


def _fill(ids: NDArray[np.int64], keys: NDArray[Any], find: Any) -> None:
    for i in np.flatnonzero(ids < 0).tolist():
        if keys[i]:
            ids[i] = find(str(keys[i]))
