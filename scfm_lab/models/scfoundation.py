"""scFoundation (Hao et al. 2024): the expressed genes of a cell with their values, and two tokens of read depth.

Files as published: ``models.ckpt`` with three sets of weights, and
``OS_scRNA_gene_index.19264.tsv``, the order of the genes.

``tokens.ids`` holds positions: genes 0 … 19263, then T (19264), the depth aimed at, and S (19265),
the depth of the cell. Cell vectors come from the set ``cell`` (or ``rde``), states of genes and
expected expression from the decoder of the set ``gene``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from scfm_lab.cells.genes import INDEX
from scfm_lab.errors import ModelError
from scfm_lab.inference.hardware import packed_bytes
from scfm_lab.models.attention import attention_of_cells
from scfm_lab.models.files import sha256
from scfm_lab.models.performer_inputs import LIBRARY_RULE, SummedSymbols, known_entries
from scfm_lab.models.published import ortholog_option, take_orthologs
from scfm_lab.models.scfoundation_readouts import GENE, Readouts
from scfm_lab.models.spec import ModelSpec, Option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.reader import CellReader
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.scfoundation_files import Weights
    from scfm_lab.models.scfoundation_net import ScFoundationNet
    from scfm_lab.models.tokens import Request, Tokens

POOLINGS = ("all", "max", "mean")
CELL = "cell"
_NAMES = {"ce": CELL}
"""The reference's names of versions, where they are not those of its file."""


class ScFoundation(Readouts):
    """scFoundation with published weights."""

    family = "scfoundation"
    names_read = ("gene_name", INDEX)
    published_files = (
        ("models.ckpt", "models/models.ckpt"),
        ("OS_scRNA_gene_index.19264.tsv", "OS_scRNA_gene_index*.tsv", "../OS_scRNA_gene_index*.tsv"),
    )
    telling = (("token_emb.mlp2.weight",), ("token_emb.emb_mask.weight",))

    def __init__(self, weights: Mapping[str, Weights], vocabulary: SummedSymbols, *, orthologs: bool = False) -> None:
        from scfm_lab.cells.counts import TOTAL_COLUMN

        self.weights = dict(weights)
        self.vocabulary = vocabulary
        self.orthologs = orthologs
        self.fields = (TOTAL_COLUMN,)
        self._nets: dict[str, ScFoundationNet] = {}
        # A file may come without the weights for cell vectors; its sizes are those of any other set.
        first = CELL if CELL in self.weights else next(iter(self.weights))
        net, shape = self._net(first), self.weights[first].shape
        width = int(shape["encoder"]["width"])
        self.hidden_width = width
        versions = (None, *_NAMES, *self.weights)
        self.spec = ModelSpec(
            name="scfoundation",
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if orthologs else ("human",),
            n_genes=len(vocabulary),
            width=4 * width,
            max_length=0,
            abilities=frozenset({"embed", "perturb", "impute", "gene_embeddings", "attention", "finetune"}),
            licence="scFoundation MODEL_LICENSE (non-commercial research only)",
            citation=(
                "Hao, M., Gong, J., Zeng, X. et al. (2024). Large-scale foundation model on single-cell transcriptomics. "
                "Nature Methods 21, 1481-1491. doi:10.1038/s41592-024-02305-7."
            ),
            determinism=f"no chance; the decoder is stabilised within each cell, as the reference alone on it; {LIBRARY_RULE}",
            commercial=False,
            options={
                "version": Option(
                    str,
                    None,
                    "Set of weights for cell vectors; None: 'cell'. Genes come from 'gene'.",
                    choices=versions,
                ),
                "tgthighres": Option(
                    str, "t4", "Depth aimed at: 't4' log10, 'f2' times the cell's own, 'a1' added to its log10."
                ),
                "pre_normalized": Option(
                    str,
                    "F",
                    "'F' raw counts; 'T' normalised; 'A' normalised, totals in obs['total_counts'].",
                    ("F", "T", "A"),
                ),
                "input_type": Option(str, "singlecell", "Single cells, or bulk samples.", ("singlecell", "bulk")),
                "like_reference": Option(
                    bool, False, "Library sizes over the model's genes; the decoder stabilised over its batch."
                ),
                "orthologs": ortholog_option(orthologs),
            },
            parameters=sum(p.numel() for p in net.parameters()),
            layers=int(shape["encoder"]["layers"]),
            heads=int(shape["encoder"]["heads"]),
            feed_forward=int(shape["encoder"]["ffn"]),
        )

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file names scFoundation's tensors, or a folder holds such a file or the list of genes."""
        from scfm_lab.models.scfoundation_files import GENE_INDEX, find_checkpoint

        try:
            return find_checkpoint(path) is not None or (path / GENE_INDEX).is_file()
        except ModelError:  # several: `open` says which
            return True

    @classmethod
    def beside(cls, path: Path) -> dict[str, Path]:
        """The list of genes one folder up."""
        from scfm_lab.models.scfoundation_files import find_checkpoint, gene_indices

        checkpoint = find_checkpoint(path)
        if checkpoint is None or checkpoint.parent != path or gene_indices(path):
            return {}
        return {found.name: found for found in gene_indices(path.parent)}

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open ``models.ckpt``, or the folder that holds it (or its folder ``models``).

        Parameters
        ----------
        config
            Entries of the network's configuration (``encoder``, ``decoder``, ``bin_num``, ``bin_alpha``,
            ``pad_token_id``, ``mask_token_id``, ``seq_len``) that complete or override the file's;
            ``{"orthologs": True}`` reads mouse cells through their human orthologs.
        files
            ``"gene_index"``: a table with ``gene_name`` and ``index``, or a list of symbols; looked for beside
            the checkpoint and one folder up otherwise.

        Raises
        ------
        ModelError
            If a file is missing or damaged, a tensor does not find its place, or the genes do not fit.
        """
        from scfm_lab.models.scfoundation_files import PUBLISHED, find_checkpoint, read_genes, read_weights

        if path is None:
            raise ModelError(f"scFoundation needs the path of its checkpoint, {PUBLISHED}.")
        own, orthologs = take_orthologs(config)
        places = known_entries(files, ("gene_index",), "files", "scFoundation")
        checkpoint = path if path.is_file() else find_checkpoint(path)
        if checkpoint is None:
            raise ModelError(f"{path} looks like scFoundation and has no {PUBLISHED}; give the files as published.")
        weights = read_weights(checkpoint, own)
        sizes = {name: one.shape["n_genes"] for name, one in weights.items()}
        if len(set(sizes.values())) > 1:
            raise ModelError(f"The sets of weights in {checkpoint} have different numbers of genes ({sizes}).")
        genes = read_genes(checkpoint, places, next(iter(sizes.values())))
        model = cls(weights, SummedSymbols.of(genes), orthologs=orthologs)
        model.digest, model.weight_files, model.path = sha256(checkpoint), (checkpoint,), checkpoint
        return model

    def opening_bytes(self) -> int:
        """The whole file is read, and of its three sets of weights those stay that are asked for."""
        from scfm_lab.models.converted import is_stored, stored

        files = sum(stored(path).stat().st_size for path in self.weight_files if is_stored(path))
        return max(files, self.weight_bytes())

    def gpu_batch_bytes(self, tokens: int, longest: int) -> int:
        """As measured; nothing is padded."""
        return packed_bytes(tokens, self.hidden_width, self.spec.feed_forward)

    def _modules(self) -> list[torch.nn.Module]:
        return list(self._nets.values())

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        net = self._trained_net()
        return list(net.encoder.layers), [net.encoder_norm]

    @property
    def trained_version(self) -> str:
        """Name of the set of weights that cell vectors come from, and that fine-tuning changes."""
        return self._version(0, CELL)

    def _trained_net(self) -> ScFoundationNet:
        # Cell vectors are what is fine-tuned; the other sets of weights stay.
        return self._net(self.trained_version)

    def _copy(self) -> Self:
        import copy

        other = copy.copy(self)
        trained = self.trained_version
        other._nets = {**self._nets, trained: copy.deepcopy(self._net(trained))}  # noqa: SLF001 - a copy of itself
        return other

    def _version(self, code: int, default: str) -> str:
        """Name of the set of weights that tokens ask for; what the output is published with if they do not say."""
        names = list(self.weights)
        if code > 0:
            return names[code - 1]
        if default in names or len(names) > 1:
            return default
        return names[0]

    def _net(self, version: str) -> ScFoundationNet:
        """The network of a set of weights, built when it is first needed."""
        if version not in self._nets:
            if version not in self.weights:
                choose = "" if version == GENE else " Choose one of them with options={'version': …}."
                raise ModelError(
                    f"The checkpoint has no weights {version!r}; it has {', '.join(self.weights)}.{choose}"
                )
            self._nets[version] = self.weights[version].network().to(self.device).eval()
        return self._nets[version]

    # --- cells to tokens ---------------------------------------------------------------

    def cell_reader(
        self, adata: AnnData, *, layer: str | None = None, options: Mapping[str, Any] | None = None
    ) -> CellReader:
        """Cells of an AnnData: raw counts, or normalised values if the option ``pre_normalized`` says so."""
        given = str((options or {}).get("pre_normalized", "F"))
        if given in ("T", "A"):
            from scfm_lab.models.scfoundation_tokens import NormalisedReader

            return NormalisedReader.of(adata, given, layer=layer)
        return super().cell_reader(adata, layer=layer, options=options)

    def cells_alone(self, options: Mapping[str, Any] | None = None) -> bool:
        """Bulk samples are scaled to the median of those given."""
        return super().cells_alone(options) and (options or {}).get("input_type") != "bulk"

    def depends_on_others(self, options: Mapping[str, Any]) -> str:
        """Bulk samples are scaled to the median of those given."""
        bulk = options["input_type"] == "bulk"
        return "input_type='bulk' scales to the median of the samples given" if bulk else ""

    def check_options(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options, completed; a depth that cannot be read is refused, also where nothing asks for it."""
        from scfm_lab.models.scfoundation_tokens import Target

        full = super().check_options(options)
        Target.parse(full["tgthighres"])
        return full

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """Not the reference: it takes the sum over the model's genes."""
        return not (options or {}).get("like_reference")

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        from scfm_lab.models.scfoundation_tokens import tokenize

        asked = options["version"]
        name = _NAMES.get(asked, asked)
        if name is not None and name not in self.weights:
            raise ModelError(f"The checkpoint has no weights {name!r}; it has {', '.join(self.weights)}.")
        code = 0 if name is None else 1 + list(self.weights).index(name)
        return tokenize(cells, self.known_genes(cells.genes, options), len(self.vocabulary), options, code)

    def n_token_ids(self) -> int:
        """The genes, T and S."""
        return len(self.vocabulary) + 2

    # --- tokens to states --------------------------------------------------------------

    def _inputs(self, batch: Batch, part: str) -> tuple[ScFoundationNet, torch.Tensor, torch.Tensor]:
        if batch.values is None:
            raise ModelError("scfoundation needs the values of its tokens; make them with model.tokenize.")
        if part == GENE:
            # As in the reference, whose versions are those of cell vectors alone.
            return self._net(self._version(0, GENE)), batch.ids, batch.values
        codes = batch.cell.get("version")
        if codes is None:  # tokens that were stored say nothing beside their ids and values
            return self._net(self._version(0, part)), batch.ids, batch.values
        if len(codes) and bool((codes != codes[0]).any()):
            raise ModelError("These tokens ask for several sets of weights; encode one version at a time.")
        return self._net(self._version(int(codes[0]), part)), batch.ids, batch.values

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        from scfm_lab.models.layers import resolve_layer
        from scfm_lab.models.scfoundation_net import pool

        pooling = request.pooling or "all"
        if pooling not in POOLINGS:
            raise ModelError(f"scfoundation pools by {', '.join(map(repr, POOLINGS))}, not {pooling!r}.")
        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, -1, "scfoundation")
        net, ids, values = self._inputs(batch, CELL)
        states = net.encode(ids, values, batch.lengths, n_layers=n_layers)
        return pool(states, batch.lengths, pooling), states if request.genes else None

    # --- genes -------------------------------------------------------------------------

    def gene_embeddings(self) -> pd.DataFrame:
        """Embedding of each gene's position, of the weights for cell vectors, float32 (index: symbol)."""
        import pandas as pd

        table = self._net(self._version(0, CELL)).pos_emb.weight[: len(self.vocabulary)].float().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.symbols, name="gene"))

    def attention(self, tokens: Tokens, *, hidden_layer: int = -1) -> list[NDArray[np.float32]]:
        """Attention weights between the tokens of each cell in the encoder; T and S come last.

        Parameters
        ----------
        hidden_layer
            Counted as for :func:`scfm_lab.embed`: 1 the first layer, -1 the last.

        Returns
        -------
        list of float32 arrays, one per cell, (heads, tokens, tokens)
            Rows read, columns are read; every row sums to 1.
        """

        def weights(batch: Batch, layer: int) -> Iterator[torch.Tensor]:
            net, ids, values = self._inputs(batch, CELL)
            return net.attention(ids, values, batch.lengths, layer)

        return attention_of_cells(self, tokens, hidden_layer, weights)
