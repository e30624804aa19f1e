"""UCE (Rosen et al. 2023): a cell as a sentence of sampled genes, spoken in protein embeddings.

Files as published: ``4layer_model.torch`` or ``33l_8ep_1024t_1280.torch``, ``species_chrom.csv``,
``species_offsets.pkl``, ``protein_embeddings/``. Which genes a species has is told by
:mod:`scfm_lab.models.uce_species`, sentences are made in :mod:`scfm_lab.models.uce_sentences`,
the network is in :mod:`scfm_lab.models.uce_net`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells.genes import Vocabulary
from scfm_lab.errors import GenesError, ModelError, plural
from scfm_lab.inference.hardware import packed_bytes
from scfm_lab.models import uce_files
from scfm_lab.models.contract import aligned_counts
from scfm_lab.models.files import read_tensors, require_keys, sha256
from scfm_lab.models.late_digest import LateDigest, stamps
from scfm_lab.models.protein_table import EncodedRows, ProteinTable
from scfm_lab.models.resemblance import not_of
from scfm_lab.models.spec import ModelSpec, Option
from scfm_lab.models.tokens import Tokens
from scfm_lab.models.uce_files import UceFiles
from scfm_lab.models.uce_open import compare_settings, read_settings, token_table
from scfm_lab.models.uce_readouts import Readouts
from scfm_lab.models.uce_reference import MIN_CELLS, MIN_GENES, as_reference, padding, seen_often
from scfm_lab.models.uce_sentences import PAD, hashed_sentences, whole_counts
from scfm_lab.models.uce_species import Species

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.published import PublishedMatch
    from scfm_lab.models.tokens import Request, States
    from scfm_lab.models.uce_net import UceNet
    from scfm_lab.models.uce_sentences import SpeciesGenes

HEADS = 20
"""Attention heads of the published files, which do not hold that number."""
PUBLISHED_WIDTH = 1280
SAMPLE_SIZE = 1024
BATCH_SIZE = 25
"""Cells of a batch of the reference."""


class UCE(LateDigest, Readouts):  # type: ignore[override]  # worked out when asked
    """UCE with 4, 33 or any number of layers, for the species of its token table and for new ones."""

    family = "uce"
    fixed_parts = ("encoder.", "pos_encoder.")
    published_files = (
        ("4layer_model.torch", "33l_8ep_1024t_1280.torch"),
        ("species_chrom.csv",),
        ("species_offsets.pkl", "species_offsets.json"),
        ("protein_embeddings",),
    )
    telling = (("pe_embedding.weight",),)

    def __init__(self, net: UceNet, species: Species, *, sample_size: int = SAMPLE_SIZE) -> None:
        self.net = net
        self.species = species
        genes = species.genes(species.first)
        self.vocabulary = _vocabulary(genes)
        self.hidden_width = net.width
        self._rows = EncodedRows(species.table, net.encode_rows)
        self.spec = ModelSpec(
            name="uce",
            family=self.family,
            genes="symbol",
            organisms=(species.first, *(name for name in species.names if name != species.first)),
            n_genes=len(genes),
            width=net.output_width,
            max_length=net.sizes["pad_length"],
            abilities=frozenset({"embed", "perturb", "gene_embeddings", "finetune"}),
            licence="MIT (code); weights: see their figshare records",
            commercial=None,
            citation=(
                "Rosen, Y., Roohani, Y., Agarwal, A. et al. (2023). Universal Cell Embeddings: a foundation model for "
                "cell biology. bioRxiv 2023.11.28.568918."
            ),
            determinism=(
                "genes are drawn with replacement, weighted by log1p(count), at quantiles hashed from (digest of the "
                "unperturbed cell, number of the draw, seed), chromosomes ordered by hashed numbers; of a perturbed "
                "copy only draws that hit the perturbed genes change (maximal coupling); padding is never read"
            ),
            options={
                "species": Option(
                    str, None, "Species of the cells; None: told from their genes (human or mouse).", of_cells=True
                ),
                "sample_size": Option(int, sample_size, "Genes drawn per cell, with replacement."),
                "like_reference": Option(
                    bool,
                    False,
                    "Draw from numpy's generator, cell after cell, and read the batch's padding, as the reference.",
                ),
                "batch_size": Option(
                    int, BATCH_SIZE, "With like_reference: cells of a batch, whose longest decides the padding."
                ),
                "filter": Option(
                    bool,
                    True,
                    f"With like_reference: leave out genes seen in fewer than {MIN_CELLS} cells, then cells with fewer than "
                    f"{MIN_GENES} genes.",
                ),
            },
            parameters=sum(p.numel() for p in net.parameters()),
            layers=net.sizes["nlayers"],
            heads=net.heads,
            feed_forward=net.sizes["d_hid"],
        )

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder holds UCE's small files or a checkpoint, or a file is a checkpoint."""
        return uce_files.recognises(path)

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder as published, or a checkpoint with the other files beside it.

        Parameters
        ----------
        path
            The folder (``model_files``, or the one above), or the ``.torch`` file.
        config
            ``nhead`` (the files do not hold it; the published 20 is the default), ``sample_size``,
            ``chrom_token_offset``, ``species`` (of all cells to come).
        files
            Files that lie elsewhere: ``checkpoint``, ``tokens``, ``chrom``, ``offsets``,
            ``protein_embeddings`` (the folder), ``new_species`` (the reference's csv); and
            ``species``: new ones as ``{name: {"protein_embeddings": …, "chrom": …, "taxon": …}}``.

        Raises
        ------
        ModelError
            If a file is missing or damaged, or the files do not belong together.
        """
        from scfm_lab.models.uce_net import TABLE, UceNet

        if path is None:
            raise ModelError(
                "UCE needs the folder of its files: a checkpoint, species_chrom.csv, species_offsets.pkl, protein_embeddings."
            )
        says, holds = read_settings(config)
        found = UceFiles.find(path, files)
        opened = stamps(found.digested)
        tensors = read_tensors(found.checkpoint)
        if TABLE not in tensors:
            raise not_of(found.checkpoint, "UCE", TABLE, tensors, "checkpoint, such as 4layer_model.torch")
        net = UceNet.from_tensors(tensors, says.get("nhead"), HEADS, found.checkpoint)
        shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        require_keys(tensors, shapes | {TABLE: tuple(tensors[TABLE].shape)}, found.checkpoint)
        compare_settings(holds, net.sizes | {"n_tokens_total": len(tensors[TABLE])}, found.checkpoint)
        # The values stay where they are mapped, and are read when they are used.
        net.load_state_dict({name: tensors[name].float() for name in shapes}, assign=True)
        table, replaced = token_table(found, tensors[TABLE])
        mapped = found.tokens if replaced else found.checkpoint
        species = Species(
            found,
            ProteinTable(table, mapped=mapped),
            chromosome_row=says.get("chrom_token_offset"),
            default=says.get("species", ""),
        )
        model = cls(net.eval().requires_grad_(False), species, sample_size=says.get("sample_size", SAMPLE_SIZE))
        model.replaced, model.opened_files = replaced, opened
        model.heads_assumed = "nhead" not in says and net.width != PUBLISHED_WIDTH
        model.path = path
        return model

    heads_assumed: bool = False
    """Whether the number of heads is the published one, in a file of another width, because nothing told it."""
    replaced: bool = False
    """Whether ``all_tokens.torch`` stands in for the checkpoint's own token table."""

    def published_digest(self, published: Mapping[Path, str]) -> str:
        """As of every family; names and taxa of added species count too."""
        from pathlib import Path

        files = self.species.files
        parts = [sha256(files.checkpoint, published)]
        if self.replaced and files.tokens is not None:
            parts.append(sha256(files.tokens, published))
        for name, added in sorted(files.added.items()):
            parts += [
                name,
                str(added["taxon"]),
                *(sha256(Path(str(added[k])), published) for k in ("protein_embeddings", "chrom")),
            ]
        return parts[0] if len(parts) == 1 else "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def to(self, device: str = "auto", precision: str = "auto") -> Self:
        """Move to a device; what was kept of the token table is made anew there."""
        super().to(device, precision)
        self._rows = EncodedRows(self.species.table, self.net.encode_rows)
        return self

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.transformer_encoder.layers), [self.net.decoder]

    def _copy(self) -> Self:
        other = super()._copy()
        other._rows = EncodedRows(self.species.table, other.net.encode_rows)  # noqa: SLF001 - a copy of itself
        return other

    def gpu_batch_bytes(self, tokens: int, longest: int) -> int:
        """As measured; nothing is padded."""
        return packed_bytes(tokens, self.net.width, self.spec.feed_forward)

    def _modules(self) -> list[torch.nn.Module]:
        return [self.net]

    def opening_bytes(self) -> int:
        """The whole checkpoint, with its table of all species' tokens, and a table that stands in for it.

        A registered version is read and hashed as a whole, and stays in memory.
        """
        from scfm_lab.models.converted import is_stored, stored

        files = self.species.files
        read = [files.checkpoint, *([files.tokens] if self.replaced and files.tokens is not None else [])]
        return max(self.weight_bytes(), sum(stored(path).stat().st_size for path in read if is_stored(path)))

    def base_bytes(self) -> int:
        """Less than other families take: no table of genes is shipped for it."""
        return 16 << 20

    # --- genes -------------------------------------------------------------------------

    def match(self, genes: Genes) -> PublishedMatch:
        """Which genes the model knows, in the species that they tell."""
        return self.species.match(genes, self.species.of(genes))

    def known_genes(self, genes: Genes, options: Mapping[str, Any] | None = None) -> PublishedMatch:
        """Which genes the model knows in the species asked for.

        Raises
        ------
        GenesError
            If none is known, or the species is not clear.
        ModelError
            If the files do not hold the species.
        """
        asked = options or {}
        species = self.species.of(genes, asked.get("species"))
        match = self.species.match(genes, species, like_reference=bool(asked.get("like_reference")))
        if len(match.columns) == 0:
            wanted = ", ".join(map(str, self.species.genes(species).symbols[:3]))
            raise GenesError(
                f"None of the {len(genes):,} genes (such as {', '.join(map(str, genes.names[:3]))}) is among UCE's genes of "
                f"{species}, which are called like {wanted}. Put gene symbols into var_names, or name another species with "
                f"options={{'species': …}}: {', '.join(self.species.names)}."
            )
        return match

    def genes_read(
        self, genes: Genes, options: Mapping[str, Any] | None, counts: Callable[[], csr_matrix]
    ) -> PublishedMatch:
        """:meth:`known_genes`; with ``like_reference`` those that pass the reference's filter."""
        match, full = self.known_genes(genes, options), self.check_options(options)
        if not (full["like_reference"] and full["filter"]):
            return match
        kept = seen_often(counts())[match.columns]
        left_out = plural(int((~kept).sum()), "gene that it knows is", "genes that it knows are")
        return match.only(
            kept, f"{left_out} not read: the reference's filter leaves out what fewer than {MIN_CELLS} cells express."
        )

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """No: genes are drawn by their share of a cell's counts."""
        return False

    def reads_organism(self, organism: str) -> bool:
        """As the files call species."""
        return uce_files.canonical(organism) in self.spec.organisms

    def require_genes(self, genes: Genes) -> PublishedMatch:
        """:meth:`known_genes` in the species that the genes tell."""
        return self.known_genes(genes)

    def n_token_ids(self) -> int:
        """Rows of the token table."""
        return len(self.species.table)

    def token_names(self) -> Iterable[Any]:
        """Species and where their rows of the token table begin: ids are rows, whichever species the vocabulary is of."""
        return self.species.places()

    def vocabulary_ids(self, tokens: Tokens) -> NDArray[np.int64]:
        """The gene of each token in the species that the vocabulary is of; other species' genes and chromosomes are none (-1)."""
        self.check_tokens(tokens)
        rows = self.species.genes(self.species.first).rows
        place = np.minimum(np.searchsorted(rows, tokens.ids), len(rows) - 1)
        return np.where(rows[place] == tokens.ids, place, -1)

    def require_vocabulary(self, genes: Genes, options: Mapping[str, Any] | None = None) -> None:
        """Refuse cells of another species than the vocabulary's.

        Raises
        ------
        ModelError
            Naming both, and how the model is opened for the cells' own.
        """
        species, first = self.species.of(genes, (options or {}).get("species")), self.species.first
        if species != first:
            raise ModelError(
                f"These cells are read as {species}, and the gene vectors of this UCE are shown for {first}; open it for them: "
                f"sl.load_model(…, config={{'species': {species!r}}})."
            )

    def gene_embeddings(self) -> pd.DataFrame:
        """What enters the first layer for each gene of the model's species, float32, genes × width (index: symbol).

        The protein embedding after the input layer (linear, GELU, norm), without position.
        """
        import pandas as pd
        import torch

        genes = self.species.genes(self.species.first)
        with torch.inference_mode():
            rows = self._rows(torch.from_numpy(genes.rows)).float().cpu().numpy() / np.float32(self.net.width**0.5)
        return pd.DataFrame(rows, index=pd.Index(genes.symbols, name="gene"))

    # --- sentences ---------------------------------------------------------------------

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        genes = self.species.genes(self.species.of(cells.genes, options["species"]))
        match = self.known_genes(cells.genes, options)
        size, longest = options["sample_size"], self.spec.max_length
        if not 1 <= size < longest:
            raise ModelError(f"sample_size is {size}; UCE draws between 1 and {longest - 1:,} genes.")
        counts = whole_counts(aligned_counts(cells, match, len(genes)))
        seen = np.diff(counts.indptr).astype(np.int64)
        fields: dict[str, Any] = {}
        if options["like_reference"]:
            made, kept = as_reference(cells, match, genes, options, longest=longest, seed=seed)
            fields["left_out"] = ~kept & (seen > 0)
            seen[~kept] = 0
            fields["padded_to"] = padding(made.lengths, kept, options["batch_size"])
        else:
            before = None
            if cells.baseline is not None:
                before = whole_counts(aligned_counts(cells.baseline, match, len(genes)))
            made = hashed_sentences(counts, before, cells.keys, genes, size=size, longest=longest, seed=seed)
        return Tokens(
            ids=made.ids,
            values=None,
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(made.lengths)]),
            cell={"n_genes": seen, "truncated": made.lost > 0, "share_truncated": made.lost, **fields},
        )

    # --- vectors -----------------------------------------------------------------------

    def remarks(self, tokens: Tokens) -> list[str]:
        """That the number of heads was assumed."""
        if not self.heads_assumed:
            return []
        return [
            f"Heads assumed: {self.net.heads}, the published number; this file is {self.net.width:,} wide, not "
            f"{PUBLISHED_WIDTH:,}, and does not hold it. Another one is given with config={{'nhead': …}}."
        ]

    def encode(self, tokens: Tokens, *, batch_size: int | None = None, **kwargs: Any) -> States:
        """Vectors of tokenised cells (:meth:`Model.encode`).

        For tokens made like the reference's, `batch_size` is also its batch size: the padding
        that a cell reads is that of the cells beside it in the order of the file.
        """
        if batch_size and "padded_to" in tokens.cell:
            kept = tokens.genes_seen > 0
            tokens = replace(tokens, cell={**tokens.cell, "padded_to": padding(tokens.lengths, kept, batch_size)})
        return super().encode(tokens, batch_size=batch_size, **kwargs)

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch
        import torch.nn.functional as F  # noqa: N812

        from scfm_lab.models.layers import resolve_layer, starts
        from scfm_lab.models.ragged import over

        if request.pooling not in (None, "cls"):
            raise ModelError(f"uce reads a cell at its first token ('cls'), not by {request.pooling!r}.")
        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, self.spec.layers, self.spec.name)
        lengths, ids = batch.lengths, batch.ids
        # Stored tokens may come with their padding; it is not read (unless asked for by "padded_to").
        real = ids != PAD
        if not bool(real.all()):
            lengths = np.add.reduceat(real.cpu().numpy().astype(np.int64), batch.offsets[:-1])
            ids = ids[real]
        padded = batch.cell.get("padded_to")
        full = lengths if padded is None else np.maximum(padded.cpu().numpy(), lengths)
        first = over(starts(full), ids.device)
        own = None
        if padded is not None:
            at = np.arange(len(ids)) + np.repeat(starts(full) - starts(lengths), lengths)
            own = torch.as_tensor(at, device=ids.device)
            ids = ids.new_zeros(int(full.sum())).index_copy(0, own, ids)
        states = self.net.place(self._rows(ids), full)
        if padded is not None:
            states = self.net.leaky(states, full, lengths, n_layers)
        elif request.genes:
            states = self.net.transformer_encoder(states, full, n_layers=n_layers)
        else:
            cell = self.net.transformer_encoder(states, full, n_layers=n_layers, readers=first)
            return (F.normalize(self.net.decode(cell), dim=-1) if request.hidden_layer is None else cell), None
        cell, tokens = states[first], states if own is None else states[own]
        if request.hidden_layer is None:
            cell, tokens = (
                F.normalize(self.net.decode(cell), dim=-1),
                self.net.decode(tokens) if request.genes else tokens,
            )
        if not request.genes:
            return cell, None
        if len(tokens) < len(real):
            tokens = tokens.new_full((len(real), tokens.shape[1]), torch.nan).masked_scatter(real[:, None], tokens)
        return cell, tokens


class _Symbols(Vocabulary):
    """Upper-case symbols that are looked up without regard to case, as cells are matched."""

    def id_of(self, gene: str) -> int | None:
        return super().id_of(str(gene).upper())


def _vocabulary(genes: SpeciesGenes) -> Vocabulary:
    return _Symbols(genes.symbols, np.full(len(genes), "", dtype=object))
