"""scGPT (Cui et al. 2024): a cell as a set of genes with binned counts, read by a transformer.

Files as published: ``args.json``, ``vocab.json``, ``best_model.pt``. The network is in
:mod:`scfm_lab.models.scgpt_net`, the binning in :mod:`scfm_lab.models.scgpt_bins`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.inference.hardware import packed_bytes
from scfm_lab.models.attention import attention_of_cells
from scfm_lab.models.converted import listed
from scfm_lab.models.files import read_config, read_tensors, require_keys, sha256
from scfm_lab.models.published import (
    check_ids,
    ortholog_option,
    overridden,
    take_orthologs,
)
from scfm_lab.models.resemblance import not_of
from scfm_lab.models.scgpt_files import (
    ARGS,
    SETTINGS,
    SPECIALS,
    WEIGHTS_FILE,
    is_scgpt,
    places,
    tokens_by_id,
    with_specials,
)
from scfm_lab.models.spec import ModelSpec, Option
from scfm_lab.models.symbols import SymbolModel, symbol_vocabulary
from scfm_lab.models.tokens import Request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.scgpt_net import ScGPTNet
    from scfm_lab.models.symbols import SymbolVocabulary
    from scfm_lab.models.tokens import Tokens

MAX_LENGTH = 1200
"""Tokens of the published embedding path, ``<cls>`` among them."""
POOLINGS = ("cls", "cls_raw", "mean")


class ScGPT(SymbolModel):
    """scGPT with published or fine-tuned weights."""

    family = "scgpt"
    names_read = ("feature_name",)
    head_kinds = ("linear", "published")
    published_files = (("args.json",), ("vocab.json",), ("best_model.pt", "*.pt"))
    telling = (("encoder.enc_norm.weight", "encoder.embedding.weight"),)
    decode_pooling = "cls_raw"
    decode_unit = "expression bins (0 silent, 1 to 50 from the cell's lowest to its highest counts)"

    def __init__(
        self,
        net: ScGPTNet,
        vocabulary: SymbolVocabulary,
        specials: Mapping[str, int],
        settings: Mapping[str, Any],
        *,
        orthologs: bool = False,
    ) -> None:
        self.net = net
        self.vocabulary: SymbolVocabulary = vocabulary
        self.orthologs = orthologs
        self.specials = dict(specials)
        self.pad_value = _number(settings, "pad_value", -2)
        self.aside: list[str] = []
        """Tensors of the file that no embedding reads (heads of training and fine-tuning)."""
        shape = net.shape
        abilities = {"embed", "perturb", "gene_embeddings", "attention", "finetune"}
        if shape.mvc_out == shape.width:
            abilities.add("impute")
        options = {
            "max_length": Option(int, MAX_LENGTH, "Most tokens of a cell, <cls> among them; genes are sampled above."),
            "like_reference": Option(
                bool, False, "Draw bins and genes from numpy's and torch's streams, as the reference."
            ),
            "orthologs": ortholog_option(orthologs),
            "gene_column": Option(
                str,
                None,
                "Column of var that holds the symbols, or 'index'; None: feature_name, else the one whose names are known.",
                of_cells=True,
            ),
        }
        if len(shape.batch_norms) > 1 or shape.batch_norms[:1] == ("dsbn.bns.0",):
            options["domain"] = Option(
                int, None, "Batch of the fine-tuning run whose normalisation is applied; None: the only one, else none."
            )
        self.spec = ModelSpec(
            name="scgpt",
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if orthologs else ("human",),
            n_genes=len(vocabulary),
            width=shape.width,
            max_length=MAX_LENGTH,
            abilities=frozenset(abilities),
            licence="MIT (code; none is named for the weights)",
            commercial=None,
            citation=(
                "Cui, H., Wang, C., Maan, H. et al. (2024). scGPT: toward building a foundation model for single-cell "
                "multi-omics using generative AI. Nature Methods 21, 1470-1480. doi:10.1038/s41592-024-02201-0."
            ),
            determinism=(
                "tied counts are binned, and genes above max_length sampled, by numbers hashed from (digest of the "
                "unperturbed cell, gene, seed) instead of the reference's generators; a perturbed copy keeps its "
                "cell's bin edges, numbers and sample"
            ),
            options=options,
            parameters=sum(p.numel() for p in net.parameters()),
            layers=shape.layers,
            heads=shape.heads,
            feed_forward=shape.ffn,
        )

    # --- files -------------------------------------------------------------------------

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder has scGPT's ``args.json``, or a weights file scGPT's tensors; opens no weights."""
        if path.is_file():
            return path.suffix == ".pt" and is_scgpt(path)
        try:
            settings = json.loads((path / ARGS).read_text(encoding="utf-8"))
            if isinstance(settings, dict) and "embsize" in settings and "nlayers" in settings:
                return True
        except (OSError, ValueError):
            pass
        return any(is_scgpt(weights) for weights in listed(path, "*.pt")[:8])

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder as published, or one of its weights files.

        Parameters
        ----------
        path
            The folder, or a ``.pt`` file beside ``args.json`` and ``vocab.json``.
        config
            Overrides of ``args.json``; ``{"orthologs": True}`` reads mouse cells through their human
            orthologs.
        files
            ``"args"``, ``"vocab"`` and ``"weights"``, where they lie elsewhere.

        Raises
        ------
        ModelError
            If a file is missing or damaged, the vocabulary does not fit the embedding, or a tensor
            does not find its place.
        """
        from scfm_lab.models.scgpt_net import ScGPTNet, canonical_keys, shape_of

        if path is None:
            raise ModelError("scGPT needs the folder of its checkpoint: args.json, vocab.json and best_model.pt.")
        own, orthologs = take_orthologs(config)
        args_file, vocab_file, weights = places(path, files)
        settings = overridden(read_config(args_file.parent, args_file.name), own, (*SETTINGS, "orthologs"), "scGPT")
        pad = str(settings.get("pad_token", "<pad>"))
        # Before the weights, which are read beside it where the version is registered.
        listed_tokens = tokens_by_id(vocab_file)
        vocabulary = symbol_vocabulary(_genes_of(listed_tokens, pad))
        tensors, aside = canonical_keys(read_tensors(weights))
        if "encoder.embedding.weight" not in tensors:
            raise not_of(weights, "scGPT", "encoder.embedding.weight", tensors, WEIGHTS_FILE)
        table = tuple(tensors["encoder.embedding.weight"].shape)
        if len(table) != 2:
            raise ModelError(
                f"{weights} holds 'encoder.embedding.weight' of the shape {table}, not tokens × width. Get the file again."
            )
        tokens = with_specials(listed_tokens, pad, int(table[0]), vocab_file)
        if len(tokens) > len(listed_tokens):
            vocabulary = symbol_vocabulary(_genes_of(tokens, pad))
        shape = shape_of(tensors, settings, len(tokens))
        require_keys(tensors, shape.expected(), weights)
        specials = {name: tokens.index(name) for name in (pad, *SPECIALS) if name in tokens}
        net = ScGPTNet.from_tensors(shape, tensors)
        model = cls(net, vocabulary, specials, settings, orthologs=orthologs)
        model.aside = aside
        model.digest, model.weight_files, model.path = sha256(weights), (weights,), path
        return model

    def gpu_batch_bytes(self, tokens: int, longest: int) -> int:
        """As measured; nothing is padded."""
        return packed_bytes(tokens, self.net.shape.width, self.net.shape.ffn)

    def _modules(self) -> list[torch.nn.Module]:
        return [self.net]

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.transformer_encoder.layers), []

    def _head_inputs(self, batch: Batch, kind: str) -> torch.Tensor:
        # The reference's classifier reads <cls> as the last layer leaves it.
        return self._forward(batch, Request(pooling="cls_raw" if kind == "published" else None))[0]

    def _new_head(self, kind: str, labels: int) -> torch.nn.Module:
        from scfm_lab.models.heads import StackedHead

        return StackedHead(self.spec.width, labels) if kind == "published" else super()._new_head(kind, labels)

    # --- cells to tokens ---------------------------------------------------------------

    def takes_library(self, options: Mapping[str, Any] | None) -> bool:
        """No: counts are binned within a cell."""
        return False

    def remarks(self, tokens: Tokens) -> list[str]:
        """That a normalisation was left out, where the file holds several and none is named."""
        n = len(self.net.shape.batch_norms)
        if n < 2 or "domain" in tokens.cell:
            return []
        return [
            f"The file holds the normalisations of {n} batches, and none was applied; options={{'domain': k}} names one "
            f"(0 to {n - 1})."
        ]

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        from scfm_lab.models.scgpt_tokens import Rules, tokenize

        limit = int(options["max_length"])
        if limit < 2:
            raise ModelError(f"max_length is {limit}; scGPT needs room for <cls> and at least one gene (2).")
        if options["like_reference"] and cells.baseline is not None:
            raise ModelError(
                "like_reference draws anew in every call, so that an effect could not be told from chance; perturb without it."
            )
        if options["like_reference"] and not 0 <= seed < 1 << 32:
            raise ModelError(
                f"seed is {seed}; with like_reference it must lie between 0 and {(1 << 32) - 1:,}, as numpy's generator takes "
                "no other."
            )
        rules = Rules(self.specials["<cls>"], self.pad_value, limit, seed)
        match = self.known_genes(cells.genes, options)
        tokens = tokenize(cells, match, rules, like_reference=bool(options["like_reference"]))
        domain = options.get("domain")
        if domain is not None:
            if not 0 <= domain < len(self.net.shape.batch_norms):
                raise ModelError(
                    f"This file holds the batches 0 to {len(self.net.shape.batch_norms) - 1}, not {domain}."
                )
            tokens.cell["domain"] = np.full(len(tokens), domain, dtype=np.int64)  # type: ignore[index]
        return tokens

    # --- tokens to states --------------------------------------------------------------

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        from scfm_lab.models.layers import cell_means, resolve_layer, starts
        from scfm_lab.models.ragged import over

        pooling = request.pooling or POOLINGS[0]
        if pooling not in POOLINGS:
            raise ModelError(f"scgpt pools by {', '.join(map(repr, POOLINGS))}, not {pooling!r}.")
        ids, values, domain = self._inputs(batch)
        n_layers = resolve_layer(request.hidden_layer, self.spec.layers, -1, "scgpt")
        first = over(starts(batch.lengths), ids.device)
        whole = request.genes or pooling == "mean"
        states = self.net.states(
            ids, values, batch.lengths, n_layers=n_layers, readers=None if whole else first, domain=domain
        )
        if pooling == "mean":
            genes = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            genes[first] = False
            cell = cell_means(states[genes], batch.lengths - 1)
        else:
            cell = states[first] if whole else states
        if pooling != "cls_raw":
            cell = cell.float()
            cell = cell / cell.norm(dim=1, keepdim=True)
        return cell, states if request.genes else None

    def n_token_ids(self) -> int:
        """Genes and special tokens."""
        return len(self.vocabulary)

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        import torch

        if batch.values is None:
            raise ModelError("scgpt needs the values of its tokens; make them with model.tokenize.")
        domain = batch.cell.get("domain")
        if domain is not None:
            domain = domain.repeat_interleave(torch.as_tensor(batch.lengths, device=domain.device))
        return batch.ids, batch.values, domain

    def attention(self, tokens: Tokens, *, hidden_layer: int = -1) -> list[NDArray[np.float32]]:
        """Attention weights between the tokens of each cell (position 0 is ``<cls>``).

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
            inputs = self.net.embed(*self._inputs(batch))
            return self.net.transformer_encoder.attention(inputs, batch.lengths, layer)

        return attention_of_cells(self, tokens, hidden_layer, weights)

    # --- decoders ----------------------------------------------------------------------

    def decode_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The value decoder: expected bin at each token.

        Parameters
        ----------
        states
            Token states (tokens, width), ``model.encode(tokens, genes=True).genes``.

        Returns
        -------
        float32 (tokens,), on the scale of the bins 0 to 50
        """
        import torch

        with torch.inference_mode():
            given = torch.as_tensor(np.asarray(states)).to(self.device, self.net.dtype)
            parts = [self.net.value(part) for part in given.split(1 << 16)]
        return torch.cat(parts).float().cpu().numpy() if parts else np.empty(0, np.float32)

    def decode_cells(self, cell: NDArray[np.float32], genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The MVC decoder: expected bins of genes, given a cell's vector.

        Parameters
        ----------
        cell
            Un-normalised ``<cls>`` states (cells, width): ``model.encode(tokens, pooling="cls_raw").cell``.
        genes
            Vocabulary ids.

        Returns
        -------
        float32 (cells, genes), on the scale of the bins 0 to 50, as the network gives them (also below 0)

        Raises
        ------
        GenesError
            If there is no such id.
        """
        import torch

        check_ids(genes, len(self.vocabulary), "scgpt")
        with torch.inference_mode():
            vectors = torch.as_tensor(np.asarray(cell)).to(self.device, self.net.dtype)
            found = self.net.mvc(vectors, torch.as_tensor(np.asarray(genes), device=self.device))
        return found.float().cpu().numpy()

    def expected_counts(self, cell: NDArray[np.float32], genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Expected bins (0 to 50, not counts) of some vocabulary genes, float32 (cells, genes); see :meth:`decode_cells`."""
        from scfm_lab.models.scgpt_bins import N_BINS

        self.require("impute")
        return self.decode_cells(cell, genes).clip(0, N_BINS - 1)

    def gene_embeddings(self) -> pd.DataFrame:
        """LayerNorm(Embedding) of each gene's token, float32, genes × width (index: symbol)."""
        import pandas as pd
        import torch

        ids = np.flatnonzero(self.vocabulary.symbols != "")
        with torch.inference_mode():
            table = self.net.gene_table(ids).float().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.symbols[ids], name="gene"))


def _genes_of(tokens: list[str], pad: str) -> NDArray[Any]:
    """Symbol of each token, empty where it is a special one."""
    special = {pad, *SPECIALS}
    return np.array(["" if name in special else name for name in tokens], dtype=object)


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**31:
        raise ModelError(f"args.json says {name}={value!r}; it must be a number below 2³¹.")
    return float(value)
