"""The contract of a model: a spec, files that open, ``tokenize`` and ``encode``.

A family subclasses :class:`Model` and implements :meth:`Model.open`,
:meth:`Model._tokenize` and :meth:`Model._forward`; what else it can do it adds and names
in its spec's abilities. Devices, precision, packing, progress and cancelling are the
engine's (:mod:`scfm_lab.inference.engine`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.inference.precision import FLOAT32, Precision
from scfm_lab.models.abilities import Able
from scfm_lab.models.options import TakesOptions
from scfm_lab.models.tokens import Request, States, Tokens
from scfm_lab.models.trainable import Trainable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes, Match, Vocabulary
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.spec import ModelSpec


class Model(TakesOptions, Able, Trainable):
    """Base of all families."""

    family: ClassVar[str]
    published_files: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Files of a checkpoint as published, as patterns; one of each tuple is needed. They tell incomplete folders apart."""
    telling: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Ends of tensor names that only this family has: all of one tuple."""
    spec: ModelSpec
    vocabulary: Vocabulary
    digest: str = ""
    """SHA-256 of the weights, ``sha256:<hex>``: of every file that tensors were read from."""
    weight_files: tuple[Path, ...] = ()
    """Those files, in the order in which the digest takes them."""
    settings_digest: str = ""
    """Digest of what it was opened with besides (:mod:`scfm_lab.models.identity`); ``""`` where it was made otherwise."""
    places: ClassVar[frozenset[str]] = frozenset(
        [
            "path",
            "base_path",
            "source",
            "version",
            "registered_as",
            "registered_digest",
            "opened",
            "opened_files",
            "asked",
            "digest",
            "weight_files",
            "settings_digest",
            "finetuning",
            "learnt_from",
            "device",
            "asked_device",
            "compute",
            "auto_precision",
            "hidden_width",
            "_last_match",
            "vocabulary_digest",
        ]
    )
    """Attributes that say where something lies, runs or came from, and nothing about a vector."""
    version: str = ""
    """Resolved version in a registry, never only an alias."""
    registered_digest: str = ""
    """Digest of that version's files."""
    registered_as: str = ""
    """Name in the registry that it was opened from."""
    source: str = ""
    path: Path | None = None
    opened: dict[str, Any] | None = None
    """``config`` and ``files`` as :func:`scfm_lab.load_model` was given them; None where it was made otherwise."""
    asked: Mapping[str, Any] = MappingProxyType({})
    """What :func:`scfm_lab.load_model` was asked for besides the source and what :meth:`to` was, where that is not the default."""
    device: str = "cpu"
    asked_device: str = "auto"
    """:attr:`device` as it was asked for: another machine may have another best one."""
    compute: Precision = FLOAT32
    """What products and attention are computed in, unless a call says otherwise."""
    auto_precision: bool = False
    """Whether :func:`scfm_lab.embed` may take a lower precision that it has verified."""
    hidden_width: int = 0
    """Width of the states between layers, where it is not the width of a cell's vector."""

    @property
    def name(self) -> str:
        """The registry's name for it, else the family's: what its vectors are called by."""
        return self.registered_as or self.spec.name

    @property
    def precision(self) -> str:
        """Name of the precision of calls that do not name another (``"float32"`` where ``"auto"`` was asked for)."""
        return str(self.compute)

    # --- files -------------------------------------------------------------------------

    def published_digest(self, published: Mapping[Path, str]) -> str:
        """What :attr:`digest` is of the files as they were published: SHA-256 by the resolved path of each converted one."""
        from scfm_lab.models.files import digest_of

        return digest_of(*self.weight_files, published=published) if self.weight_files else self.digest

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder or file looks like a checkpoint of this family; opens no weights."""
        raise NotImplementedError

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Model:
        """Open a checkpoint. `path` is None for models that have no files."""
        raise NotImplementedError

    @classmethod
    def beside(cls, path: Path) -> dict[str, Path]:
        """Files that :meth:`open` would find outside the folder `path`, by the place inside it where they would be found as well."""
        return {}

    # --- what a family implements ------------------------------------------------------

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        raise NotImplementedError

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cell vectors (cells, width), and token states (tokens, width) if asked for."""
        raise NotImplementedError

    def _modules(self) -> list[torch.nn.Module]:
        """Torch modules that move with :meth:`to`."""
        return []

    # --- what users call ---------------------------------------------------------------

    def tokenize(
        self,
        data: AnnData | Cells,
        *,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Tokens:
        """Turn raw counts into tokens.

        Parameters
        ----------
        data
            An AnnData with raw counts, or :class:`~scfm_lab.cells.cells.Cells`.
        layer
            Where the counts are; None looks for them.
        options
            The family's own (``spec.options``).
        seed
            Seed of the hashed numbers behind choices that depend on chance.

        Raises
        ------
        GenesError
            If the model knows none of the genes.
        """
        from scfm_lab.cells.cells import Cells

        full = self.check_options(options)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise ModelError(f"seed is {seed!r}; it must be a whole number.")
        cells = data if isinstance(data, Cells) else self.read_cells(data, layer=layer, options=full)
        self.known_genes(cells.genes, full)
        made = self._tokenize(cells, full, seed)
        return replace(made, family=self.family, vocabulary=self.vocabulary_digest)

    def n_token_ids(self) -> int | None:
        """Ids that tokens may have, counted from 0; None where a family does not say."""
        return None

    def token_names(self) -> Iterable[Any]:
        """What tells two models apart whose ids mean different things; a name for each id where there is one."""
        return self.vocabulary.names

    @cached_property
    def vocabulary_digest(self) -> str:
        """Digest of what the ids of tokens mean."""
        return hashlib.sha256("\n".join(map(str, self.token_names())).encode()).hexdigest()

    def check_tokens(self, tokens: Tokens) -> None:
        """Refuse tokens of another family or another vocabulary, whose ids mean other things, and ids that are none.

        Raises
        ------
        ModelError
            If so.
        """
        if tokens.family not in ("", self.family):
            raise ModelError(
                f"These are tokens of {tokens.family}, whose ids mean nothing to {self.spec.name}; make them with this model's "
                "tokenize."
            )
        if tokens.vocabulary not in ("", self.vocabulary_digest):
            raise ModelError(
                f"These tokens were made by a {tokens.family or self.family} with another vocabulary, whose ids mean other genes; "
                "make them with this model's tokenize."
            )
        n = self.n_token_ids()
        if n is None or not len(tokens.ids):
            return
        lowest, highest = int(tokens.ids.min()), int(tokens.ids.max())
        if lowest < 0 or highest >= n:
            raise ModelError(
                f"These tokens have the id {lowest if lowest < 0 else highest:,}; ids of this {self.spec.name} are 0 to {n - 1:,}. "
                "Make them with this model's tokenize."
            )

    def vocabulary_ids(self, tokens: Tokens) -> NDArray[np.int64]:
        """The gene of each token: its id in :attr:`vocabulary`, int64 (tokens,); -1 where a token is none (``<cls>``, padding, …).

        A family whose ``tokens.ids`` count otherwise says so here.
        """
        self.check_tokens(tokens)
        out = np.full(len(tokens.ids), -1, dtype=np.int64)
        inside = np.flatnonzero((tokens.ids >= 0) & (tokens.ids < len(self.vocabulary)))
        ids = tokens.ids[inside]
        # Special tokens that stand in a vocabulary have no name there.
        named = (self.vocabulary.names != "").astype(bool)
        out[inside] = np.where(named[ids], ids, -1)
        return out

    def require_vocabulary(self, genes: Genes, options: Mapping[str, Any] | None = None) -> None:
        """Refuse genes that :meth:`known_genes` would number otherwise than :attr:`vocabulary` and :meth:`gene_embeddings` do.

        Raises
        ------
        ModelError
            If so: the model holds several species, and shows the genes of another one.
        """

    fields: tuple[str, ...] = ()
    """Columns of ``obs`` that the tokeniser reads."""

    def cell_reader(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> CellReader:
        """What reads the cells of an AnnData by rows: raw counts, checked. A family may read other values where its options say so."""
        from scfm_lab.cells.reader import CellReader

        return CellReader.open(adata, layer=layer, fields=self.fields)

    def read_cells(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        rows: slice | NDArray[Any] | None = None,
    ) -> Cells:
        """Cells of an AnnData, or some `rows` of them, by :meth:`cell_reader`."""
        return self.cell_reader(adata, layer=layer, options=options)(rows)

    def cells_alone(self, options: Mapping[str, Any] | None = None) -> bool:
        """Whether a cell's tokens depend on that cell only, so that cells can be tokenised some at a time.

        Reference implementations draw from one stream of random numbers for all cells.
        """
        return not (options or {}).get("like_reference")

    def depends_on_others(self, options: Mapping[str, Any]) -> str:
        """Why a cell's vector is another beside other cells, under complete `options`; ``""`` where it is not."""
        return ""

    def require_independence(self, options: Mapping[str, Any] | None) -> None:
        """Refuse options under which some of the cells cannot be looked at, or changed, alone (a ModelError with the reason)."""
        why = self.depends_on_others(self.check_options(options))
        if why:
            raise ModelError(
                f"{self.spec.name} reads each cell beside the others here ({why}), so that what happens to some cells would "
                "change all of them; leave that option out."
            )

    def weight_bytes(self) -> int:
        """Memory of the weights."""
        held = {
            tensor.data_ptr(): tensor.numel() * tensor.element_size()
            for module in self._modules()
            for tensor in (*module.parameters(), *module.buffers())
        }
        return sum(held.values()) or 4 * self.spec.parameters

    def held_bytes(self) -> int:
        """Memory that the opened model takes already: weights and their copies, but not what is only mapped from its files."""
        from scfm_lab.models.products import held_bytes

        return held_bytes(self._modules())

    def copies_bytes(self, precision: Precision) -> int:
        """Memory of the copies of weights that products in a lower precision are taken of."""
        from scfm_lab.models.products import copies_bytes

        return copies_bytes(self._modules(), precision)

    def forget_copies(self) -> None:
        """Give back the memory of those copies; they are made again when they are needed."""
        from scfm_lab.models.products import forget

        forget(self._modules())

    def scores_bytes(self, precision: Precision, tokens: int, longest: int) -> int:
        """Memory of attention scores in a batch as for :meth:`batch_bytes`, where a precision writes them out."""
        from scfm_lab.models.layers import MOST_SCORES

        if not precision.explicit:
            return 0
        # Scores and their softmax.
        size = 4 if precision.attention == "float32" else 2
        return 2 * size * min(self.spec.heads * tokens * longest, MOST_SCORES)

    def opening_bytes(self) -> int:
        """Memory that the content of the files takes while the model is opened, besides the weights that stay."""
        return self.weight_bytes()

    def base_bytes(self) -> int:
        """Memory that does not grow with cells, besides the weights: vocabularies, libraries at work (as measured)."""
        return (96 << 20) if self.spec.layers else (20 << 20)

    def batch_bytes(self, tokens: int, longest: int) -> int:
        """Memory of a forward pass over a batch of so many tokens, whose longest cell has `longest`."""
        spec = self.spec
        if not spec.layers:
            return 8 * tokens
        hidden = self.hidden_width or spec.width
        return 4 * tokens * (10 * hidden + 2 * (spec.feed_forward or 4 * hidden))

    def gpu_batch_bytes(self, tokens: int, longest: int) -> int:
        """The same on a CUDA device; families that were measured there say less than for a CPU."""
        return self.batch_bytes(tokens, longest)

    def remarks(self, tokens: Tokens) -> list[str]:
        """What a user should be told about these tokens, a sentence each (labels the model does not know, …)."""
        return []

    def encode(
        self,
        tokens: Tokens,
        *,
        genes: bool = False,
        hidden_layer: int | None = None,
        pooling: str | None = None,
        batch_size: int | None = None,
        precision: Precision | None = None,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> States:
        """Vectors of tokenised cells, through the engine.

        Parameters
        ----------
        genes
            Whether the states of all tokens are wanted too.
        hidden_layer, pooling, batch_size, progress, cancel
            As for :func:`scfm_lab.embed`.
        precision
            None: what the model was opened with (float32 where that was ``"auto"``).

        Returns
        -------
        States
            ``.cell`` float32 (cells, width); with ``genes=True`` also ``.genes`` float32
            (tokens, width).
        """
        from scfm_lab.inference.engine import encode

        self.check_tokens(tokens)
        return encode(
            self,
            tokens,
            Request(genes=genes, hidden_layer=hidden_layer, pooling=pooling),
            batch_size=batch_size,
            precision=precision,
            progress=progress,
            cancel=cancel,
        )

    def match(self, genes: Genes) -> Match:
        """Which genes the model knows; the answer for the genes asked last is kept."""
        cached = getattr(self, "_last_match", None)
        if cached is not None and cached[0] is genes:
            return cached[1]
        match = self.vocabulary.match(genes)
        self._last_match = (genes, match)
        return match

    def require_genes(self, genes: Genes) -> Match:
        """Like :meth:`match`.

        Raises
        ------
        GenesError
            If no gene is known.
        """
        from scfm_lab.errors import GenesError

        match = self.match(genes)
        if len(match.columns) == 0:
            examples = ", ".join(map(str, genes.names[:3]))
            wanted = ", ".join(map(str, self.vocabulary.names[:3]))
            other = ""
            if genes.organism and genes.organism not in self.spec.organisms:
                other = (
                    f" The genes look like {genes.organism} genes; the model knows {', '.join(self.spec.organisms)}."
                )
            raise GenesError(
                f"None of the {len(genes):,} genes (such as {examples}) is known to {self.spec.name}, whose genes "
                f"are called like {wanted}.{other} Put gene symbols into var_names, or Ensembl ids into "
                "var['ensembl_id']."
            )
        return match

    def genes_read(self, genes: Genes, options: Mapping[str, Any] | None, counts: Callable[[], csr_matrix]) -> Match:
        """:meth:`known_genes`, without those that are left out because of what these very cells express.

        Parameters
        ----------
        counts
            Gives the counts of all cells, for families that look.
        """
        return self.known_genes(genes, options)

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """Whether counts are scaled by a cell's library over all genes, also those that were not measured."""
        return True

    def reads_organism(self, organism: str) -> bool:
        """Whether the model knows genes of a species, called as :attr:`Genes.organism`."""
        return organism in self.spec.organisms

    def known_genes(self, genes: Genes, options: Mapping[str, Any] | None = None) -> Match:
        """:meth:`require_genes` under the family's options: a species may decide which genes are meant."""
        return self.require_genes(genes)

    def to(self, device: str = "auto", precision: str = "auto") -> Model:
        """Move to a device; ``"auto"`` takes CUDA, then MPS, then the CPU.

        Parameters
        ----------
        precision
            A precision's name (see :class:`~scfm_lab.inference.precision.Precision`). ``"auto"`` is
            float32, but that :func:`scfm_lab.embed` takes what is faster here once it has verified it.

        Raises
        ------
        ModelError
            If the device is not there, or the precision is none.
        """
        from scfm_lab.inference.hardware import choose_device

        compute = FLOAT32 if precision == "auto" else Precision.parse(precision)
        self.device = choose_device(device)
        self.compute, self.auto_precision = compute, precision == "auto"
        self.note_asked(device=device, precision=precision)
        for module in self._modules():
            # Weights stay in float32; products are taken of copies (scfm_lab.models.products).
            module.to(self.device).eval()
        return self

    def note_asked(self, **said: str) -> None:
        """Note the device or precision that was asked for, in :attr:`asked_device` and :attr:`asked`.

        By :meth:`to`; and where what was asked for is for other machines, and is not what this one has.
        """
        self.asked_device = said.get("device", self.asked_device)
        kept = {name: value for name, value in self.asked.items() if name not in said}
        self.asked = kept | {name: value for name, value in said.items() if value != "auto"}

    def __repr__(self) -> str:
        s = self.spec
        can = ", ".join(sorted(s.abilities))
        return (
            f"<{s.name} ({s.family}{', ' + self.version if self.version else ''}): {s.n_genes:,} genes, "
            f"{s.width}-d, {s.parameters:,} parameters, on {self.device} in {self.precision}; can {can}; licence "
            f"{s.licence}{', non-commercial' if s.commercial is False and 'non-commercial' not in s.licence else ''}>"
        )


def aligned_counts(cells: Cells, match: Match, n_genes: int) -> csr_matrix:
    """Counts with one column per vocabulary gene; columns of one gene are summed.

    Tokens then come in the order of the vocabulary, so that a cell's vector does not
    depend on the order of the columns in the file.
    """
    from scipy import sparse

    place = sparse.csr_matrix(
        (np.ones(len(match.ids), np.float32), (match.columns, match.ids)),
        shape=(cells.counts.shape[1], n_genes),
    )
    aligned = sparse.csr_matrix(cells.counts @ place)
    aligned.eliminate_zeros()
    aligned.sort_indices()
    return aligned
