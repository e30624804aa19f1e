"""TranscriptFormer (Pearce et al. 2025): genes of a cell read one after the other, with their counts.

Files as published: ``config.json``, ``model_weights.pt``, ``vocabs/``. The network is in
:mod:`scfm_lab.models.transcriptformer_net`, which genes it knows in
:mod:`scfm_lab.models.transcriptformer_genes`, the order and the counts of a cell's genes in
:mod:`scfm_lab.models.transcriptformer_tokens`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.errors import DataError, ModelError, did_you_mean
from scfm_lab.models import transcriptformer_files as tf_files
from scfm_lab.models.files import read_config, read_tensors, require_keys, sha256
from scfm_lab.models.late_digest import LateDigest, stamps
from scfm_lab.models.protein_table import EncodedRows, ProteinTable
from scfm_lab.models.published import ortholog_option, take_orthologs
from scfm_lab.models.resemblance import not_of
from scfm_lab.models.spec import ModelSpec, Option
from scfm_lab.models.tokens import Tokens
from scfm_lab.models.transcriptformer_files import Settings, TfFiles
from scfm_lab.models.transcriptformer_genes import as_vocabulary, token_ids
from scfm_lab.models.transcriptformer_readouts import Readouts
from scfm_lab.models.transcriptformer_tokens import check_reading, gene_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.tokens import Request
    from scfm_lab.models.transcriptformer_genes import TokenIds
    from scfm_lab.models.transcriptformer_net import MLP, TfNet
    from scfm_lab.models.transcriptformer_run import Sequences

TABLE = "gene_embeddings.embedding.weight"
_HEAD = "gene_id_head."
UNKNOWN = "unknown"


class TranscriptFormer(LateDigest, Readouts):  # type: ignore[override]  # worked out when asked
    """TranscriptFormer Sapiens, Metazoa, Exemplar, or another one of their format."""

    family = "transcriptformer"
    fixed_parts = ("gene_embeddings.",)
    published_files = (("config.json",), ("model_weights.pt",), ("vocabs",))
    telling = (("gene_embeddings.embedding.weight",), ("mu.gene_embedding.weight",))

    def __init__(
        self,
        net: TfNet,
        head: MLP | None,
        ids: TokenIds,
        aux: Mapping[str, Mapping[str, int]],
        files: TfFiles,
        *,
        orthologs: bool = False,
        surgery: str = "",
    ) -> None:
        self.net = net
        self.gene_head = head
        """What gives logits of genes; not the head of labels that a fine-tuned model has."""
        self.ids = ids
        self.aux = dict(aux)
        self.files = files
        self.orthologs = orthologs
        self.surgery = surgery
        self.settings = net.settings
        self.fields = tuple(aux)
        self.vocabulary = as_vocabulary(ids.genes)
        self.table = ProteinTable(ids.table, mapped=files.weights)
        self._rows = EncodedRows(self.table, net.encode_rows)
        organisms = ids.genes.organisms
        self.spec = ModelSpec(
            name="transcriptformer",
            family=self.family,
            genes="ensembl",
            organisms=organisms,
            n_genes=len(self.vocabulary),
            width=self.settings.embed_dim,
            max_length=self.settings.seq_len,
            abilities=frozenset({"embed", "perturb", "gene_embeddings", "finetune"}),
            licence="MIT",
            citation=(
                "Pearce, J. D., Simmonds, S. E., Mahmoudabadi, G. et al. (2025). A cross-species generative cell atlas "
                "across 1.5 billion years of evolution: the TranscriptFormer single-cell model. bioRxiv 2025.04.25.650731."
            ),
            determinism=(
                "no chance: genes are read in the order of the columns, as in the reference, and a cell with more than "
                f"{self.settings.seq_len:,} of them loses the last; a perturbed copy keeps what its cell keeps"
                + (f"; embedding surgery: {surgery}" if surgery else "")
            ),
            gene_order="that of the columns, as the reference (options={'gene_order': 'vocabulary'} reads one order in every file)",
            options=_options(self.aux, self.settings, surgery)
            | ({} if "mouse" in organisms or "human" not in organisms else {"orthologs": ortholog_option(orthologs)}),
            parameters=sum(p.numel() for p in net.parameters())
            + sum(p.numel() for p in (head.parameters() if head else ())),
            layers=self.settings.num_layers,
            heads=self.settings.num_heads,
            feed_forward=self.settings.model_dim,
        )

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder (or a weights file in it) has TranscriptFormer's configuration, or its weights and vocabularies."""
        return tf_files.recognises(path)

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder as published.

        Parameters
        ----------
        path
            The folder, or ``model_weights.pt`` in it.
        config
            Overrides of ``config.json`` by name; ``{"orthologs": True}`` reads mouse cells through
            their human orthologs; ``{"surgery": "corrected"}``: see `files`.
        files
            ``config``, ``weights``, ``vocabs`` where they lie elsewhere; ``pretrained_embedding``: protein
            embeddings (h5) of species outside the training set, by default used with the
            reference's numbers for special tokens (``"surgery": "reference"``).

        Raises
        ------
        ModelError
            If a file is missing or damaged, or the files do not belong together.
        """
        import torch

        from scfm_lab.models.transcriptformer_net import MLP, TfNet

        if path is None:
            raise ModelError(
                "TranscriptFormer needs the folder of its files: config.json, model_weights.pt and vocabs."
            )
        own, orthologs = take_orthologs(config)
        given = dict(files or {})
        if "pretrained_embedding" in own:  # the reference's name for it in its configuration
            given.setdefault("pretrained_embedding", own.pop("pretrained_embedding"))
        found = TfFiles.find(path, given)
        opened = stamps([found.weights, *found.pretrained])
        surgery = own.pop("surgery", None)
        if surgery is not None and not found.pretrained:
            raise ModelError(
                f"config={{'surgery': {surgery!r}}} says how protein embeddings of other species are used, and none are given; name "
                "them with files={'pretrained_embedding': …}, or leave it out."
            )
        surgery = surgery or "reference"
        settings = Settings.read(read_config(found.config.parent, found.config.name), found.config, own)
        aux = tf_files.read_aux(found, settings)
        tensors = read_tensors(found.weights)
        if TABLE not in tensors or tensors[TABLE].ndim != 2:
            raise not_of(found.weights, "TranscriptFormer", TABLE, tensors, tf_files.WEIGHTS_FILE)
        settings.check_layers(tensors, found)
        settings.check_widths({name: tuple(value.shape) for name, value in tensors.items()}, found)
        ids = token_ids(found, settings, tensors[TABLE], surgery)
        n_tokens, width = tensors[TABLE].shape
        with torch.device("meta"):
            net = TfNet(settings, int(width), int(n_tokens), {name: len(labels) for name, labels in aux.items()})
            head = None
            if settings.gene_id_loss_weight > 0:
                head = MLP(settings.embed_dim, settings.gene_head_hidden_dim, int(n_tokens))
        expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        heads = {} if head is None else {_HEAD + name: tuple(value.shape) for name, value in head.state_dict().items()}
        require_keys(tensors, expected | heads | {TABLE: (int(n_tokens), int(width))}, found.weights)
        # The values stay where they are mapped, and are read when they are used.
        net.load_state_dict({name: tensors[name].float() for name in expected}, assign=True)
        net.eval().requires_grad_(False)
        if head is not None:
            head.load_state_dict({name.removeprefix(_HEAD): tensors[name].float() for name in heads}, assign=True)
            head.eval().requires_grad_(False)
        model = cls(net, head, ids, aux, found, orthologs=orthologs, surgery=surgery if found.pretrained else "")
        model.path, model.opened_files = path, opened
        return model

    def cell_reader(
        self, adata: AnnData, *, layer: str | None = None, options: Mapping[str, Any] | None = None
    ) -> CellReader:
        """As of every family; the reference reads ``.raw`` wherever there is one."""
        if layer is None and (options or {}).get("like_reference") and adata.raw is not None:
            layer = "raw"
        return super().cell_reader(adata, layer=layer, options=options)

    def published_digest(self, published: Mapping[Path, str]) -> str:
        """As of every family; what was done to the vocabulary counts too."""
        parts = [sha256(path, published) for path in (self.files.weights, *self.files.pretrained)]
        if len(parts) == 1:
            return parts[0]
        return "sha256:" + hashlib.sha256("\n".join([*parts, self.surgery]).encode()).hexdigest()

    def to(self, device: str = "auto", precision: str = "auto") -> Self:
        """Move to a device; what was kept of the protein embeddings is made anew there."""
        super().to(device, precision)
        self._rows = EncodedRows(self.table, self.net.encode_rows)
        return self

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.layers), []

    def _copy(self) -> Self:
        other = super()._copy()
        other._rows = EncodedRows(self.table, other.net.encode_rows)  # noqa: SLF001 - a copy of itself
        return other

    def _modules(self) -> list[torch.nn.Module]:
        # The gene-id head is as large as the rest and rarely asked for; it follows when it is.
        return [self.net]

    # --- genes -------------------------------------------------------------------------

    def gene_embeddings(self) -> pd.DataFrame:
        """What enters the first layer for each gene, float32, genes × width (index: id as in the vocabulary)."""
        import pandas as pd
        import torch

        rows = torch.arange(self.ids.first, self.ids.first + len(self.vocabulary))
        with torch.inference_mode():
            table = self._rows(rows).float().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.ensembl, name="gene"))

    # --- tokens ------------------------------------------------------------------------

    def n_token_ids(self) -> int:
        """Special tokens and genes."""
        return len(self.table)

    def check_options(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options, completed; orders and scales that contradict each other or mean nothing are refused."""
        full = super().check_options(options)
        check_reading(full)
        return full

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """No: counts are read as they are."""
        return False

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        made = gene_tokens(cells, self.known_genes(cells.genes, options), options, self.settings.seq_len, seed)
        seen = np.where(made.expressed >= options["min_expressed_genes"], made.expressed, 0)
        ids, counts, lengths, inputs = made.genes + self.ids.first, made.counts, made.lengths, made.inputs
        if self.ids.filled:
            from scfm_lab.models.transcriptformer_run import fill

            ids, counts, lengths = fill(ids, counts, lengths, self.settings.seq_len, self.ids.pad)
            inputs = np.full(len(lengths), self.settings.seq_len - 1, np.int64)
        labels = {name: self._labels(name, cells, options[name]) for name in self.aux}
        return Tokens(
            ids=ids,
            values=counts,
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            cell={
                "n_genes": seen,
                "n_inputs": inputs,
                "left_out": (made.expressed > 0) & (seen == 0),
                "truncated": made.lost > 0,
                "share_truncated": made.lost,
                **labels,
            },
        )

    def _labels(self, column: str, cells: Cells, given: str | None) -> NDArray[np.int64]:
        """Id of each cell's label; what the vocabulary does not have is unknown."""
        vocabulary = self.aux[column]
        if given is not None:
            if given not in vocabulary:
                raise DataError(
                    f"{self.spec.name} knows no {column} {given!r}; its {len(vocabulary)} labels begin with "
                    f"{', '.join(list(vocabulary)[:4])}." + did_you_mean(given, vocabulary)
                )
            return np.full(len(cells), vocabulary[given], np.int64)
        if column not in cells.fields:
            return np.full(len(cells), vocabulary[UNKNOWN], np.int64)
        return np.array([vocabulary.get(str(v), vocabulary[UNKNOWN]) for v in cells.fields[column]], np.int64)

    def remarks(self, tokens: Tokens) -> list[str]:
        """How many cells have no assay that the model knows."""
        out = []
        for name, vocabulary in self.aux.items():
            unknown = int((np.asarray(tokens.cell.get(name, vocabulary[UNKNOWN])) == vocabulary[UNKNOWN]).sum())
            if unknown and len(tokens):
                out.append(
                    f"{unknown:,} of {len(tokens):,} cells have no {name} that {self.spec.name} knows (obs[{name!r}], or "
                    f"options={{{name!r}: …}}); they are read without."
                )
        return out

    # --- vectors -----------------------------------------------------------------------

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        from scfm_lab.models.layers import resolve_layer
        from scfm_lab.models.transcriptformer_run import expand, run, run_sums

        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, self.spec.layers, self.spec.name)
        if request.pooling not in (None, "mean", "esm2ce"):
            raise ModelError(
                f"transcriptformer pools as published (the sum over its genes divided by {self.settings.seq_len:,}), by "
                f"'mean', or by 'esm2ce' (protein embeddings alone), not by {request.pooling!r}."
            )
        if request.pooling == "esm2ce":
            return self._protein_means(batch), None
        seq = self._sequences(batch)
        states = run(self.net, seq, n_layers) if request.genes else None
        sums = run_sums(self.net, seq, n_layers) if states is None else seq.sums(states)
        if request.pooling == "mean":
            cell = sums / torch.as_tensor(seq.ends - seq.first, device=sums.device)[:, None]
        else:
            cell = sums / self.settings.seq_len
        return cell, None if states is None else expand(states[seq.token_places()], seq.real)

    def _sequences(self, batch: Batch, *, whole: bool = False) -> Sequences:
        from scfm_lab.models.transcriptformer_run import sequences

        return sequences(self.net, self._rows, self.ids, self.aux, batch, whole=whole)

    def _protein_means(self, batch: Batch) -> torch.Tensor:
        """The reference's ``esm2ce``: protein embeddings of a cell's tokens, summed and divided by the full length."""
        import torch

        ids = batch.ids.cpu().numpy()
        rows = self.table.take(ids)
        rows[torch.from_numpy(ids == self.ids.hidden)] = 0
        cells = rows.split(batch.lengths.tolist())
        return torch.stack([cell.sum(0) for cell in cells]) / self.settings.seq_len


def _options(aux: Mapping[str, Any], settings: Settings, surgery: str) -> dict[str, Option]:
    options = {
        name: Option(
            str, None, f"Label of all cells; None: obs[{name!r}], unknown where it is not there.", of_cells=True
        )
        for name in aux
    }
    options |= {
        "clip_counts": Option(
            float, settings.clip_counts, "Counts above are taken for this; None: as they are.", optional=True
        ),
        "normalize_to_scale": Option(
            float, 0.0, "Scale the counts of the genes that are read to this sum; 0: as they are."
        ),
        "gene_order": Option(
            str,
            "columns",
            "Order in which genes are read: that of the columns, as in the reference, or that of the vocabulary.",
            ("columns", "vocabulary"),
        ),
        "sort_genes": Option(bool, False, "Read genes from most to fewest counts; ties stay in order."),
        "randomize_genes": Option(
            bool, False, "Read genes in an order hashed from the cell, the gene and the seed.", draws=True
        ),
        "min_expressed_genes": Option(int, 0, "Cells that express fewer known genes get no vector."),
        "like_reference": Option(
            bool,
            False,
            "With sort_genes, leave ties as PyTorch's sort leaves them; the reference draws nothing at random.",
        ),
    }
    if surgery:
        options["surgery"] = Option(str, surgery, "Chosen when the model is opened.", (surgery,))
    return options
