"""UCE's species: which genes each has, where they stand in the token table, and which species cells are of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import INDEX
from scfm_lab.errors import GenesError, ModelError, did_you_mean
from scfm_lab.models.published import SYMBOL, TRANSLATED_ENSEMBL, PublishedMatch, nameless, shipped_genes, table_hits
from scfm_lab.models.uce_files import Positions, canonical, missing_proteins
from scfm_lab.models.uce_sentences import SpeciesGenes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_lab.cells.genes import Genes
    from scfm_lab.models.protein_table import ProteinTable
    from scfm_lab.models.uce_files import UceFiles

_PUBLISHED_ROWS, _PUBLISHED_CHROMOSOME_ROW = 145_469, 143_574


class Species:
    """The species that a checkpoint and its files know.

    Parameters
    ----------
    files
        Where the files are.
    table
        The token table; species that bring their own rows are appended to it.
    chromosome_row
        Row of the first chromosome token; None: told from the sizes of the files.
    default
        Species of all cells; ``""``: told from the cells.

    Raises
    ------
    ModelError
        If the files do not belong together.
    """

    def __init__(self, files: UceFiles, table: ProteinTable, *, chromosome_row: int | None, default: str = "") -> None:
        self.files = files
        self.table = table
        self._positions = Positions.read(files.chrom)
        self._offsets = files.read_offsets()
        self._table_rows = len(table)
        self._read: dict[str, SpeciesGenes] = {}
        self._last: tuple[Genes, tuple[str, bool], PublishedMatch] | None = None
        self.chromosome_row = self._first_chromosome(chromosome_row)
        self._check_end()
        self.names = tuple(sorted({s for s in self._offsets if s in files.proteins} | set(files.added)))
        if not self.names:
            raise ModelError(
                f"{files.checkpoint.parent} has no protein embeddings of any species in species_offsets.pkl; put "
                "protein_embeddings beside the checkpoint, or name the folder with files={'protein_embeddings': …}."
            )
        self.default = self.check(default) if default else ""

    @property
    def first(self) -> str:
        """The species that the model's vocabulary is shown for."""
        return self.default or ("human" if "human" in self.names else self.names[0])

    def places(self) -> list[str]:
        """The species, each with its first row in the token table; added ones come behind in the order they are first read."""
        return [*(f"{name} {row}" for name, row in sorted(self._offsets.items())), *sorted(self.files.added)]

    def check(self, species: str) -> str:
        """The name of a species as the files have it.

        Raises
        ------
        ModelError
            If the files do not hold it.
        """
        name = canonical(str(species))
        if name in self.names:
            return name
        known = ", ".join(self.names)
        if name in self._offsets:
            raise ModelError(f"The {missing_proteins(name)}. Species here: {known}.")
        raise ModelError(
            f"These files of UCE hold no species {species!r}; species here: {known}."
            + (did_you_mean(name, self.names) or " A new one comes with files={'species': …}.")
        )

    def of(self, genes: Genes, asked: str | None = None) -> str:
        """The species of some cells: as asked for, else the model's, else what the gene names tell.

        Raises
        ------
        GenesError
            If nothing tells it.
        """
        if asked or self.default:
            return self.check(asked or self.default)
        if genes.organism and canonical(genes.organism) in self.names:
            return canonical(genes.organism)
        # Human and mouse are told from the names, and nothing else is.
        if len(self.names) == 1 and (genes.organism is None or self.names[0] not in ("human", "mouse")):
            return self.names[0]
        told = f"look like {genes.organism} genes" if genes.organism else "do not tell their species"
        such = f"The genes (such as {', '.join(map(str, genes.names[:3]))}) {told}"
        if genes.organism and canonical(genes.organism) in self._offsets:
            raise GenesError(
                f"{such}, but the {missing_proteins(canonical(genes.organism))}. If the cells are of another species, name it "
                f"with options={{'species': …}}: {', '.join(self.names)}."
            )
        raise GenesError(
            f"{such}; UCE reads each species by its own protein embeddings. Name it with options={{'species': …}}: "
            f"{', '.join(self.names)}."
        )

    def genes(self, species: str) -> SpeciesGenes:
        """Genes of a species that have a protein embedding and a position; read when first asked for.

        Raises
        ------
        ModelError
            If the files do not belong together.
        """
        if species not in self._read:
            self._read[species] = self._add(species) if species in self.files.added else self._published(species)
        return self._read[species]

    def match(self, genes: Genes, species: str, *, like_reference: bool = False) -> PublishedMatch:
        """Match by symbol, case ignored; where a column has only an Ensembl id, by the shipped gene table.

        The answer for the genes asked last is kept.

        Parameters
        ----------
        like_reference
            Read the index alone.
        """
        asked = (species, like_reference)
        if self._last is None or self._last[0] is not genes or self._last[1] != asked:
            found = self._index_alone(genes, species) if like_reference else self._match(genes, species)
            self._last = (genes, asked, found)
        return self._last[2]

    def _places(self, species: str) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.genes(species).symbols)}

    def _index_alone(self, genes: Genes, species: str) -> PublishedMatch:
        place = self._places(species)
        ids = np.array([place.get(str(name).upper(), -1) for name in genes.names], dtype=np.int64)
        columns = np.flatnonzero(ids >= 0)
        return PublishedMatch(columns, ids[columns], {f"{SYMBOL} ({species})": len(columns)}, len(genes), INDEX)

    def _match(self, genes: Genes, species: str) -> PublishedMatch:
        place = self._places(species)
        ids = np.full(len(genes), -1, dtype=np.int64)
        # The reference's own first.
        source = genes.naming_column(lambda name: name.upper() in place, INDEX)
        names = genes.called(source)
        for keys in (names, genes.names, genes.symbols):
            for i in np.flatnonzero(ids < 0).tolist():
                ids[i] = place.get(str(keys[i]).upper(), -1)
        by_symbol = int((ids >= 0).sum())
        how = {f"{SYMBOL} ({species})": by_symbol}
        if species in ("human", "mouse"):
            known = _by_ensembl(species, place)
            translated = np.array([known.get(str(gene), -1) for gene in genes.ensembl], dtype=np.int64)
            # Names that mean nothing to this species are no reason to leave the ids unread.
            unnamed = nameless(names) | (2 * by_symbol < (translated >= 0).sum())
            ids = np.where((ids < 0) & unnamed, translated, ids)
            how[TRANSLATED_ENSEMBL] = int((ids >= 0).sum()) - by_symbol
        columns = np.flatnonzero(ids >= 0)
        return PublishedMatch(columns, ids[columns], how, len(genes), source if by_symbol else "")

    # --- from the files ----------------------------------------------------------------

    def _first_chromosome(self, given: int | None) -> int:
        """Row of the first chromosome token: the last rows of the table are one per chromosome of the csv."""
        rows, names = self._table_rows, len(self._positions.names)
        found = _PUBLISHED_CHROMOSOME_ROW if rows == _PUBLISHED_ROWS else rows - names
        first = found if given is None else given
        if first < 4 or first + names > rows:
            raise ModelError(
                f"{self._positions.path} names {names:,} chromosomes, for which the token table ({rows:,} rows) has no "
                f"room behind row {max(first, 0):,}; the files do not belong together."
            )
        if given is None and first + names != rows:
            raise ModelError(
                f"{self._positions.path} names {names:,} chromosomes, the published table has {rows - first:,}; the codes "
                "count over the complete file, so give it as published."
            )
        return first

    def _check_end(self) -> None:
        """The chromosome tokens begin where the last species ends; a table that lost rows would shift them all."""
        last = max(self._offsets, key=lambda name: self._offsets[name], default="")
        if self._table_rows == _PUBLISHED_ROWS or last not in self.files.proteins:
            return
        end = self._offsets[last] + len(self.files.read_proteins(last))
        if end != self.chromosome_row:
            raise ModelError(
                f"The genes of {last}, the last species, end at row {end:,} of the token table, but its chromosomes begin "
                f"at row {self.chromosome_row:,}; the files do not belong together."
            )

    def _published(self, species: str) -> SpeciesGenes:
        vectors = self.files.read_proteins(species)
        offset = self._offsets[species]
        width = len(next(iter(vectors.values())))
        end = min([o for o in self._offsets.values() if o > offset], default=self.chromosome_row)
        if width != self.table.width or offset < 4 or offset + len(vectors) > end:
            raise ModelError(
                f"The protein embeddings of {species} ({len(vectors):,} genes, {width:,} wide, rows from {offset:,} on) do not "
                f"fit the token table (the next begin at row {end:,}; {self.table.width:,} wide); the files do not belong together."
            )
        return _with_positions(species, list(vectors), offset, self._positions, self.chromosome_row)

    def _add(self, species: str) -> SpeciesGenes:
        """A species with rows of its own: its proteins, then random vectors for its chromosomes.

        The chromosome vectors are those of the authors' notebook: normal numbers of torch's
        generator seeded with the taxonomy id.
        """
        import torch

        parts = self.files.added[species]
        vectors = self.files.read_proteins(species)
        width = len(next(iter(vectors.values())))
        if width != self.table.width:
            raise ModelError(
                f"The protein embeddings of {species} are {width:,} wide, the model's {self.table.width:,}; it reads ESM-2 (15B)."
            )
        positions = Positions.read(Path(str(parts["chrom"])).expanduser())
        generator = torch.Generator().manual_seed(_taxon(species, parts))
        chromosomes = torch.normal(0.0, 1.0, (len(positions.names), width), generator=generator)
        # Symbols that differ in case only are one gene; its rows are put together here, so that no place shifts.
        vectors = {symbol.upper(): vector for symbol, vector in vectors.items()}
        offset = self.table.append(list(vectors.values()))
        return _with_positions(species, list(vectors), offset, positions, self.table.append(chromosomes))


def _taxon(species: str, parts: Mapping[str, Any]) -> int:
    try:
        return int(parts["taxon"])
    except (TypeError, ValueError):
        raise ModelError(
            f"files['species'][{species!r}]['taxon'] is {parts['taxon']!r}; it must be an NCBI taxonomy id."
        ) from None


def _with_positions(
    species: str, symbols: list[str], offset: int, positions: Positions, chromosome_row: int
) -> SpeciesGenes:
    # As the reference numbers them: upper-cased, and of doubled names the first place counts.
    names = np.array(list(dict.fromkeys(symbol.upper() for symbol in symbols)), dtype=object)
    codes, starts = positions.of(species, names)
    # The reference fails on a gene without a position; here it is a gene that the model does not know.
    known = np.flatnonzero(codes >= 0)
    if len(known) == 0:
        raise ModelError(f"{positions.path} has a position for none of the {len(names):,} proteins of {species}.")
    return SpeciesGenes(
        name=species,
        symbols=names[known],
        rows=offset + known,
        chromosomes=codes[known],
        starts=starts[known],
        chromosome_row=chromosome_row,
        chromosome_names=positions.names,
    )


def _by_ensembl(species: str, place: Mapping[str, int]) -> dict[str, int]:
    """Ensembl id → place of its symbol (in capitals), by the shipped gene table; human genes by their older names too."""
    table = shipped_genes()
    if species == "human":
        hits = table_hits(table, place, str.upper)
        return {str(table.ensembl[row]): hit for row, hit in hits if hit is not None and table.ensembl[row]}
    if table.mouse_ensembl is None or table.mouse_symbols is None:
        return {}
    pairs = zip(table.mouse_ensembl, table.mouse_symbols, strict=True)
    return {str(gene): place[str(symbol).upper()] for gene, symbol in pairs if gene and str(symbol).upper() in place}
