"""scBERT (Yang et al. 2022): every gene of a fixed list is a token, its count binned on a log2 scale.

Files as published: ``panglao_pretrain.pth`` (or a fine-tuned ``.pth`` with its ``label_dict``),
and ``panglao_10000.h5ad``, whose ``var_names`` are the order of the genes.

The tokens of a cell are as many as the model has genes, and one more: ``tokens.ids`` holds the
bin (0 … 5) of gene j at the cell's position j, and 0 at the last position, which has no gene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells.genes import INDEX
from scfm_lab.errors import ModelError
from scfm_lab.models.files import digest_of
from scfm_lab.models.performer_inputs import LIBRARY_RULE, SummedSymbols, first_columns, known_entries, run_groups
from scfm_lab.models.published import ortholog_option, take_orthologs
from scfm_lab.models.scbert_readouts import Readouts, together
from scfm_lab.models.scbert_tokens import MIN_GENES, tokenize
from scfm_lab.models.spec import Classes, ModelSpec, Option
from scfm_lab.models.tokens import Request, States, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes, Match
    from scfm_lab.inference.engine import Batch
    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.scbert_net import ScBertNet

POOLINGS = {
    "mean": "mean",
    "last_token": "last_token",
    "last": "last_token",
    "mean_genes_only": "mean_genes_only",
    "genes": "mean_genes_only",
}


class ScBert(Readouts):
    """scBERT, pre-trained or fine-tuned to classes."""

    family = "scbert"
    names_read = (INDEX,)
    head_kinds = ("linear", "published")
    published_files = (
        ("panglao_pretrain.pth", "*.pth"),
        ("panglao_10000.h5ad", "data/panglao_10000.h5ad", "../data/panglao_10000.h5ad"),
    )
    telling = (("pos_emb.emb.weight", "0.fn.to_q.weight"), ("token_emb.weight", "0.fn.to_q.weight"))

    def __init__(
        self,
        net: ScBertNet,
        vocabulary: SummedSymbols,
        *,
        classes: Classes | None = None,
        orthologs: bool = False,
    ) -> None:
        self.net = net
        self.vocabulary = vocabulary
        self.classes = classes
        self.orthologs = orthologs
        layer = net.performer.stack[0]
        self.bin_num = net.token_emb.num_embeddings - 2
        from scfm_lab.cells.counts import TOTAL_COLUMN

        self.fields = (TOTAL_COLUMN,)
        self.spec = ModelSpec(
            name="scbert",
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if orthologs else ("human",),
            n_genes=len(vocabulary),
            width=net.token_emb.embedding_dim,
            max_length=net.length,
            abilities=frozenset(
                {
                    *("embed", "perturb", "finetune"),
                    *(("gene_embeddings",) if self._knows_positions else ()),
                    *(() if classes is None else ("predict",)),
                }
            ),
            licence="GPL-3.0 (code and weights; its README asks for research use)",
            commercial=None,
            citation=(
                "Yang, F., Wang, W., Wang, F. et al. (2022). scBERT as a large-scale pretrained deep language model for "
                "cell type annotation of single-cell RNA-seq data. Nature Machine Intelligence 4, 852-866. doi:10.1038/s42256-022-00534-z."
            ),
            determinism=f"no chance; attention is stabilised within each cell, as the reference alone on it; {LIBRARY_RULE}",
            options={
                "like_reference": Option(
                    bool, False, f"Leave out cells with fewer than {MIN_GENES} genes; stabilise over the whole batch."
                ),
                "batch_size": Option(int, 1, "With like_reference: cells that are run together, in their order."),
                "orthologs": ortholog_option(orthologs),
            },
            parameters=sum(p.numel() for p in net.parameters()),
            layers=len(net.performer.layers),
            heads=layer.heads,
            feed_forward=layer.w1.out_features,
        )

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file names scBERT's tensors, or a folder holds such a file or the files around it."""
        from scfm_lab.models.scbert_files import GENE2VEC, GENE_ORDER, find_checkpoint

        try:
            if find_checkpoint(path) is not None:
                return True
        except ModelError:  # several: `open` says which
            return True
        return any((folder / name).is_file() for folder in (path, path / "data") for name in (GENE_ORDER, GENE2VEC))

    @classmethod
    def beside(cls, path: Path) -> dict[str, Path]:
        """Gene order and labels outside the folder."""
        from pathlib import Path as Place

        from scfm_lab.models.scbert_files import AUXILIARY, GENE2VEC, find_checkpoint, locate

        checkpoint = find_checkpoint(path)
        if checkpoint is None:
            return {}
        found = {name: locate(checkpoint, {}, key, name) for key, name in AUXILIARY.items() if name != GENE2VEC}
        here = checkpoint.parent.relative_to(path)
        return {
            str(here / name): place
            for name, place in found.items()
            if isinstance(place, Place) and not place.resolve().is_relative_to(path.resolve())
        }

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a ``.pth``, or the folder that holds it.

        Parameters
        ----------
        config
            ``{"orthologs": True}`` reads mouse cells through their human orthologs.
        files
            ``"gene_order"`` (an ``.h5ad``, a text file, or a list of symbols), ``"label_dict"`` and
            ``"label"`` of a fine-tuned model, looked for beside the checkpoint and in ``../data``
            otherwise; ``"gene2vec"``, a table for a file without positions, which are zero otherwise.

        Raises
        ------
        ModelError
            If a file is missing, damaged or holds code, a tensor does not find its place, or the gene
            order or the classes do not fit.
        """
        from scfm_lab.models.scbert_files import (
            FILES,
            PUBLISHED,
            find_checkpoint,
            read_classes,
            read_genes,
            read_network,
        )
        from scfm_lab.models.scbert_net import ClassHead

        if path is None:
            raise ModelError(f"scBERT needs the path of its checkpoint, {PUBLISHED}.")
        own, orthologs = take_orthologs(config)
        known_entries(own, (), "config", "scBERT")
        places = known_entries(files, FILES, "files", "scBERT")
        checkpoint = path if path.is_file() else find_checkpoint(path, told=True)
        if checkpoint is None:
            raise ModelError(f"{path} looks like scBERT and has no {PUBLISHED}; give the files as published.")
        net, completed = read_network(checkpoint, places)
        genes = read_genes(checkpoint, places, net.length - 1)
        classes = None
        if isinstance(net.to_out, ClassHead):
            classes = read_classes(checkpoint, places, net.to_out.fc3.out_features)
        model = cls(net, SummedSymbols.of(genes), classes=classes, orthologs=orthologs)
        model.weight_files = (checkpoint,) if completed is None else (checkpoint, completed)
        model.digest = digest_of(*model.weight_files)
        model.path = checkpoint
        return model

    @property
    def _knows_positions(self) -> bool:
        """Whether it was trained with gene2vec: without, genes have no vector of their own."""
        return bool(self.net.pos_emb.weight.any())

    def batch_bytes(self, tokens: int, longest: int) -> int:
        """The states alone: the Performer walks through positions some at a time."""
        return 4 * tokens * 3 * self.spec.width

    def _modules(self) -> list[torch.nn.Module]:
        return [self.net]

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.performer.stack), [self.net.norm]

    def _head_inputs(self, batch: Batch, kind: str) -> torch.Tensor:
        if kind != "published":
            return super()._head_inputs(batch, kind)
        return self.net(self._positions(batch), shared=self._shared(batch))

    def _new_head(self, kind: str, labels: int) -> torch.nn.Module:
        from scfm_lab.models.scbert_net import ClassHead

        if kind != "published":
            return super()._new_head(kind, labels)
        return ClassHead(self.spec.width, self.net.length, (512, 128), labels)

    # --- cells to tokens ---------------------------------------------------------------

    def _look_up(self, genes: Genes, ways: dict[str, Any]) -> Match:
        match = super()._look_up(genes, ways)
        return first_columns(match) if ways["like_reference"] else match

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """Not the reference: it takes the sum over the model's genes."""
        return not (options or {}).get("like_reference")

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        return tokenize(
            cells,
            self.known_genes(cells.genes, options),
            self.net.length - 1,
            self.bin_num,
            like_reference=bool(options["like_reference"]),
            batch_size=int(options["batch_size"]),
        )

    def depends_on_others(self, options: Mapping[str, Any]) -> str:
        """Cells that are run together are stabilised together."""
        together = options["like_reference"] and options["batch_size"] > 1
        return f"batch_size={options['batch_size']} stabilises so many cells together" if together else ""

    def n_token_ids(self) -> int:
        """Bins of expression: the place of a token says which gene it is of."""
        return self.net.token_emb.num_embeddings

    # --- tokens to states --------------------------------------------------------------

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
        """Vectors of tokenised cells.

        Parameters
        ----------
        genes
            Also the encoding of every position, flat (tokens, width).
        hidden_layer
            -1 or None the last, after the final norm; 0 the input.
        pooling
            ``"mean"`` of all positions (None), ``"mean_genes_only"`` without the appended one,
            ``"last_token"`` the appended one. The reference has no cell vector of its own.

        Returns
        -------
        States
        """
        size = together(tokens)
        if size == 1:
            return super().encode(
                tokens,
                genes=genes,
                hidden_layer=hidden_layer,
                pooling=pooling,
                batch_size=batch_size,
                precision=precision,
                progress=progress,
                cancel=cancel,
            )
        request = Request(genes=genes, hidden_layer=hidden_layer, pooling=pooling)
        cell = np.full((len(tokens), self.spec.width), np.nan, dtype=np.float32)
        every = np.full((len(tokens.ids), self.spec.width), np.nan, dtype=np.float32) if genes else None

        def step(batch: Batch, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            vectors, states = self._forward(batch, request)
            cell[rows] = vectors.float().cpu().numpy()
            if every is not None and states is not None:
                every[places] = states.float().cpu().numpy()

        run_groups(self, tokens, size, step, precision=precision, progress=progress, cancel=cancel)
        return States(cell, every)

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        from scfm_lab.models.layers import resolve_layer

        pooling = POOLINGS.get(request.pooling or "mean")
        if pooling is None:
            raise ModelError(f"scbert pools by 'mean', 'mean_genes_only' or 'last_token', not {request.pooling!r}.")
        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, -1, "scbert")
        readers = None
        if pooling == "last_token" and not request.genes:
            readers = torch.tensor([self.net.length - 1], device=batch.ids.device)
        states = self.net(self._positions(batch), n_layers=n_layers, readers=readers, shared=self._shared(batch))
        if pooling == "last_token":
            cell = states[:, -1]
        else:
            cell = (states if pooling == "mean" else states[:, :-1]).float().mean(dim=1)
        return cell, states.flatten(0, 1) if request.genes else None

    # --- genes -------------------------------------------------------------------------

    def gene_embeddings(self) -> pd.DataFrame:
        """gene2vec of each gene as the checkpoint holds it, float32, genes × width (index: symbol).

        Raises
        ------
        ModelError
            If the network was trained without gene2vec.
        """
        import pandas as pd

        self.require("gene_embeddings")
        table = self.net.pos_emb.weight[:-1].float().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.symbols, name="gene"))
