"""Geneformer (Theodoris et al. 2023, Chen et al. 2024): a cell as its genes in rank order, read by a BERT.

Files as published: a Hugging Face folder (``config.json``, ``model.safetensors`` or
``pytorch_model.bin``) and the dictionaries of its generation. The network is in
:mod:`scfm_lab.models.geneformer_net`, the ranking in :mod:`scfm_lab.models.geneformer_rank`,
the published perturbations in :mod:`scfm_lab.models.geneformer_perturb`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from scfm_lab.cells.blocks import blocks
from scfm_lab.errors import ModelError
from scfm_lab.inference.hardware import packed_bytes
from scfm_lab.models.attention import attention_of_cells
from scfm_lab.models.converted import is_stored
from scfm_lab.models.files import CONFIG, WEIGHTS, digest_of, read_config, read_tensors, require_keys
from scfm_lab.models.geneformer_files import ANY_WEIGHTS, SETTINGS, is_bert, weights_file
from scfm_lab.models.published import PublishedModel, ortholog_option, overridden, take_orthologs
from scfm_lab.models.resemblance import not_of
from scfm_lab.models.sharded import is_index
from scfm_lab.models.spec import ModelSpec, Option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.geneformer_files import Dictionaries
    from scfm_lab.models.geneformer_net import GeneformerNet
    from scfm_lab.models.geneformer_perturb import InSilico
    from scfm_lab.models.published import PublishedMatch
    from scfm_lab.models.tokens import Request, Tokens

PUBLISHED_LAYER = -2
"""The reference's ``emb_layer=-1``: the second to last layer."""
POOLINGS = ("cls", "mean")


class Geneformer(PublishedModel):
    """Geneformer with published or fine-tuned weights; V1 and V2 differ by their dictionaries."""

    family = "geneformer"
    head_kinds = ("linear", "published")
    published_files = (
        ("config.json",),
        ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json"),
        ("token_dictionary*.pkl", "dictionaries/token_dictionary*.pkl"),
        ("gene_median_dictionary*.pkl", "dictionaries/gene_median_dictionary*.pkl"),
    )
    telling = (("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"),)
    fields = ("n_counts", "filter_pass")
    places = PublishedModel.places | {"dictionaries", "dictionary_files"}
    untied = False
    """Whether the head that predicts masked genes has weights of its own, which nothing reads."""

    def __init__(self, net: GeneformerNet, dictionaries: Dictionaries, *, orthologs: bool = False) -> None:
        from scfm_lab.models.geneformer_files import EnsemblVocabulary

        self.net = net
        self.vocabulary: EnsemblVocabulary = EnsemblVocabulary.of(dictionaries)
        self.orthologs = orthologs
        self.dictionaries = dictionaries.folder
        self.dictionary_files = dictionaries.files
        self.cls_id = dictionaries.tokens.get("<cls>")
        self.eos_id = dictionaries.tokens.get("<eos>")
        self.medians = np.array(
            [dictionaries.medians.get(str(g), np.nan) for g in self.vocabulary.ensembl], dtype=np.float64
        )
        self.aside: list[str] = []
        """Tensors of the file that no embedding reads (heads of fine-tuning, tied copies)."""
        shape = net.shape
        self.spec = ModelSpec(
            name="geneformer",
            family=self.family,
            genes="ensembl",
            organisms=("human", "mouse") if orthologs else ("human",),
            n_genes=len(self.vocabulary),
            width=shape.width,
            max_length=shape.positions,
            abilities=frozenset({"embed", "perturb", "gene_embeddings", "attention", "finetune"}),
            licence="Apache-2.0",
            citation=(
                "Theodoris, C. V., Xiao, L., Chopra, A. et al. (2023). Transfer learning enables predictions in network "
                "biology. Nature 618, 616-624. doi:10.1038/s41586-023-06139-9."
                + (
                    ""
                    if self.cls_id is None
                    else " Chen, H., Venkatesh, M. S., Gomez Ortega, J. et al. (2024). Quantized multi-task learning for "
                    "context-specific representations of gene network dynamics. bioRxiv 2024.08.16.608180."
                )
            ),
            determinism=(
                "no chance: genes of exactly equal value are ranked by token id (the reference leaves their order to an "
                "unstable sort); a perturbed copy is ranked among the genes that its unperturbed cell has room for"
            ),
            options={
                "max_length": Option(
                    int, shape.positions, "Most tokens of a cell; the genes of lowest rank are cut off."
                ),
                "like_reference": Option(
                    bool,
                    False,
                    "Rank equal values by numpy's unstable sort, read only cells whose filter_pass is 1, and var['ensembl_id'] "
                    "as it stands there alone.",
                ),
                "orthologs": ortholog_option(orthologs),
            },
            parameters=sum(p.numel() for p in net.parameters()),
            layers=shape.layers,
            heads=shape.heads,
            feed_forward=shape.ffn,
        )

    @property
    def has_cls(self) -> bool:
        """Whether cells begin with ``<cls>`` (V2)."""
        return self.cls_id is not None

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder has the configuration of a BERT, or the weights have its tensors; opens no weights."""
        if path.is_file():
            return (path.suffix in (".safetensors", ".bin", ".pt") or is_index(path)) and is_bert(path)
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if isinstance(config, dict) and config.get("model_type") == "bert":
                return True
        except (OSError, ValueError):
            pass
        return any(is_stored(path / name) and is_bert(path / name) for name in ANY_WEIGHTS)

    @classmethod
    def beside(cls, path: Path) -> dict[str, Path]:
        """Dictionaries outside the folder, where it has none."""
        from scfm_lab.models.geneformer_files import beside

        return beside(path)

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder as published, or one of its weights files.

        Parameters
        ----------
        path
            The folder; safetensors are taken where both kinds of weights are there.
        config
            Overrides of ``config.json``; ``{"orthologs": True}`` reads mouse cells through their human
            orthologs.
        files
            ``"dictionaries"``: the folder of the four pickles, where they lie elsewhere; or ``"token"``,
            ``"median"``, ``"mapping"``, ``"names"`` for single files.

        Raises
        ------
        ModelError
            If a file is missing or damaged, the dictionaries are of another generation, or a tensor
            does not find its place.
        """
        from scfm_lab.models.geneformer_files import find_dictionaries
        from scfm_lab.models.geneformer_net import GeneformerNet, GeneformerShape, own_decoder, published_keys

        if path is None:
            raise ModelError(
                "Geneformer needs the folder of its checkpoint: config.json, the weights and dictionaries."
            )
        own, orthologs = take_orthologs(config)
        folder = path if path.is_dir() else path.parent
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{folder} looks like Geneformer and has no {CONFIG}; give the folder as published.")
        settings = overridden(read_config(folder), own, (*SETTINGS, "orthologs"), "Geneformer")
        if settings.get("model_type", "bert") != "bert":
            raise ModelError(
                f"{folder / CONFIG} describes a model of type {settings['model_type']!r}; Geneformer is 'bert'."
            )
        weights = path if path.is_file() else weights_file(folder)
        held = read_tensors(weights)
        tensors, aside = published_keys(held)
        if "bert.embeddings.word_embeddings.weight" not in tensors:
            raise not_of(weights, "Geneformer", "bert.embeddings.word_embeddings.weight", tensors, WEIGHTS)
        shape = GeneformerShape.from_config(settings, mlm="cls.predictions.bias" in tensors)
        numbers = [int(m.group(1)) for m in (re.match(r"bert\.encoder\.layer\.(\d+)\.", k) for k in tensors) if m]
        if shape.layers != max(numbers, default=-1) + 1:
            raise ModelError(
                f"{folder / CONFIG} says num_hidden_layers={shape.layers}, the weights hold {max(numbers, default=-1) + 1} layers."
            )
        require_keys(tensors, shape.expected(), weights)
        dictionaries = find_dictionaries(folder, shape.vocabulary, files)
        model = cls(GeneformerNet.from_tensors(shape, tensors), dictionaries, orthologs=orthologs)
        model.aside = aside
        if settings.get("tie_word_embeddings") is False and own_decoder(held, tensors):
            model.untied = True
        model.digest, model.weight_files, model.path = digest_of(weights), (weights,), path
        return model

    def gpu_batch_bytes(self, tokens: int, longest: int) -> int:
        """As measured; nothing is padded."""
        return packed_bytes(tokens, self.net.shape.width, self.net.shape.ffn)

    def _modules(self) -> list[torch.nn.Module]:
        return [self.net]

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.encoder.layers), []

    def _head_inputs(self, batch: Batch, kind: str) -> torch.Tensor:
        if kind != "published":
            return super()._head_inputs(batch, kind)
        from scfm_lab.models.layers import starts
        from scfm_lab.models.ragged import over

        # BertForSequenceClassification reads the first token after the last layer, also where it is a gene (V1).
        ids, positions = self._inputs(batch)
        first = over(starts(batch.lengths), ids.device)
        return self.net.states(ids, positions, batch.lengths, n_layers=self.spec.layers, readers=first)

    def _new_head(self, kind: str, labels: int) -> torch.nn.Module:
        from scfm_lab.models.heads import PoolerHead

        return PoolerHead(self.spec.width, labels) if kind == "published" else super()._new_head(kind, labels)

    # --- cells to tokens ---------------------------------------------------------------

    def _ways(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._ways(options), "like_reference": bool(options.get("like_reference", False))}

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        from scfm_lab.models.geneformer_rank import Rules, tokenize

        limit = int(options["max_length"])
        least = 1 + self.has_cls + (self.eos_id is not None)
        if not least <= limit <= self.net.shape.positions:
            raise ModelError(
                f"max_length is {limit}; this Geneformer reads {least} to {self.net.shape.positions} tokens (it has no "
                "positions beyond)."
            )
        rules = Rules(limit, self.cls_id, self.eos_id, like_reference=bool(options["like_reference"]))
        match = self.known_genes(cells.genes, options)
        return tokenize(cells, cast("PublishedMatch", match), self.medians, rules)

    # --- tokens to states --------------------------------------------------------------

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        from scfm_lab.models.layers import cell_means, resolve_layer, starts
        from scfm_lab.models.ragged import over

        pooling = request.pooling or ("cls" if self.has_cls else "mean")
        if pooling not in POOLINGS:
            raise ModelError(f"geneformer pools by {', '.join(map(repr, POOLINGS))}, not {pooling!r}.")
        if pooling == "cls" and not self.has_cls:
            raise ModelError("This Geneformer (V1) has no <cls> token to pool by; use pooling='mean'.")
        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, PUBLISHED_LAYER, "geneformer")
        ids, positions = self._inputs(batch)
        first = over(starts(batch.lengths), ids.device)
        whole = request.genes or pooling == "mean"
        states = self.net.states(ids, positions, batch.lengths, n_layers=n_layers, readers=None if whole else first)
        if pooling == "cls":
            cell = states[first] if whole else states
        else:
            genes = ids >= 0
            edges = 0
            for special in (self.cls_id, self.eos_id):
                if special is not None:
                    genes &= ids != special
                    edges += 1
            cell = cell_means(states[genes] if edges else states, batch.lengths - edges)
        return cell, states if request.genes else None

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        from scfm_lab.models.ragged import over

        longest = int(batch.lengths.max(initial=0))
        if longest > self.net.shape.positions:
            raise ModelError(
                f"A cell has {longest:,} tokens, this Geneformer has positions for {self.net.shape.positions:,}; make tokens "
                "with model.tokenize."
            )
        places = np.arange(batch.offsets[-1]) - np.repeat(batch.offsets[:-1], batch.lengths)
        return batch.ids, over(places, batch.ids.device)

    def attention(self, tokens: Tokens, *, hidden_layer: int = -1) -> list[NDArray[np.float32]]:
        """Attention weights between the tokens of each cell.

        Parameters
        ----------
        hidden_layer
            Counted as for :func:`scfm_lab.embed`: 1 the first layer, -1 the last.

        Returns
        -------
        list of float32 arrays, one per cell, (heads, tokens, tokens)
            Rows read, columns are read; every row sums to 1.
        """

        def weights(batch: Batch, layer: int) -> list[torch.Tensor]:
            return self.net.encoder.attention(self.net.embed(*self._inputs(batch)), batch.lengths, layer)

        return attention_of_cells(self, tokens, hidden_layer, weights)

    def gene_logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logit of each token id at each position (the head that predicts masked genes).

        Parameters
        ----------
        states
            States of the last layer (tokens, width): ``model.encode(tokens, genes=True, hidden_layer=-1).genes``.

        Returns
        -------
        float32 (tokens, token ids)
        """
        import torch

        if self.untied:
            raise ModelError(
                "The head of this checkpoint that predicts masked genes has weights of its own (tie_word_embeddings is false); "
                "only heads that share the embedding of the genes are read."
            )
        with torch.inference_mode():
            given = torch.as_tensor(np.asarray(states)).to(self.device, self.net.words.weight.dtype)
            return self.net.logits(given).float().cpu().numpy()

    # --- genes -------------------------------------------------------------------------

    def n_token_ids(self) -> int:
        """Rows of the embedding."""
        return self.net.shape.vocabulary

    def gene_embeddings(self) -> pd.DataFrame:
        """Embedding of each gene's token, before any context, float32, genes × width (index: symbol, or Ensembl id)."""
        import pandas as pd

        ids = np.flatnonzero(self.vocabulary.ensembl != "")
        table = self.net.words.weight.detach().float().cpu().numpy()[ids]
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.names[ids], name="gene"))

    def contextual_gene_embeddings(self, tokens: Tokens, *, hidden_layer: int | None = None) -> pd.DataFrame:
        """Mean state of each token over all cells that hold it (the reference's ``emb_mode="gene"``).

        Returns
        -------
        DataFrame, float32, one row per token that occurs (index: token id), special tokens among them
        """
        import pandas as pd

        # A cell without known genes has no states, and says nothing about <cls> either.
        tokens = tokens.take(np.flatnonzero(tokens.genes_seen > 0))
        found, which = np.unique(tokens.ids, return_inverse=True)
        sums = np.zeros((len(found), self.spec.width))
        for first, last in blocks(tokens.lengths, 1 << 16):
            states = self.encode(tokens.take(np.arange(first, last)), genes=True, hidden_layer=hidden_layer).genes
            assert states is not None
            np.add.at(sums, which[tokens.offsets[first] : tokens.offsets[last]], states)
        means = sums / np.bincount(which, minlength=len(found))[:, None]
        return pd.DataFrame(means.astype(np.float32), index=pd.Index(found, name="token"))

    # --- the published perturbation ------------------------------------------------------

    def delete(self, tokens: Tokens, genes: Sequence[str | int], **options: Any) -> InSilico:
        """Delete genes together, as the reference: :func:`~scfm_lab.models.geneformer_perturb.delete_genes`."""
        from scfm_lab.models.geneformer_perturb import delete_genes

        return delete_genes(self, tokens, genes, **options)

    def overexpress(self, tokens: Tokens, genes: Sequence[str | int], **options: Any) -> InSilico:
        """Put genes in front, as the reference: :func:`~scfm_lab.models.geneformer_perturb.overexpress_genes`."""
        from scfm_lab.models.geneformer_perturb import overexpress_genes

        return overexpress_genes(self, tokens, genes, **options)

    def perturb_each(self, tokens: Tokens, kind: str = "delete", **options: Any) -> InSilico:
        """Every gene of each cell in turn: :func:`~scfm_lab.models.geneformer_perturb.perturb_each`."""
        from scfm_lab.models.geneformer_perturb import perturb_each

        return perturb_each(self, tokens, kind, **options)

    def state_embeddings(self, tokens: Tokens, states: Sequence[str], **options: Any) -> dict[str, NDArray[np.float32]]:
        """Vector of each cell state, a goal of a perturbation: :func:`~scfm_lab.models.geneformer_perturb.state_embeddings`."""
        from scfm_lab.models.geneformer_perturb import state_embeddings

        return state_embeddings(self, tokens, states, **options)
