"""``starter``: a small transformer of our own, so that everything runs on a fresh machine.

A cell is the set of genes that it expresses, each with log1p(counts per 10,000 of the
library); the network is in :mod:`scfm_lab.models.starter_net`, its training in
:mod:`scfm_lab.training.starter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfm_lab.cells.digest import uniforms
from scfm_lab.errors import ModelError
from scfm_lab.models.attention import attention_of_cells
from scfm_lab.models.contract import Model, aligned_counts
from scfm_lab.models.files import CONFIG, WEIGHTS, names_family, read_config, read_safetensors, require_keys, sha256
from scfm_lab.models.fixed_basis import read_vocabulary
from scfm_lab.models.pca import log_normalised
from scfm_lab.models.published import overridden
from scfm_lab.models.spec import ModelSpec, Option
from scfm_lab.models.tokens import Request, Tokens
from scfm_lab.models.training_cells import sets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Vocabulary
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.starter_net import StarterNet

MAX_LENGTH = 2048
_TIES = 0x57A7


class Starter(Model):
    """The shipped transformer, or one trained anew by ``python -m scfm_lab.training.starter``."""

    family = "starter"
    attention_lead = 1

    def __init__(self, net: StarterNet, vocabulary: Vocabulary, config: Mapping[str, Any]) -> None:
        self.net = net
        self.vocabulary = vocabulary
        self.config = dict(config)
        shape = net.config
        self.spec = ModelSpec(
            name="starter",
            family=self.family,
            genes="symbol",
            organisms=("human", "mouse") if vocabulary.has_orthologs else ("human",),
            n_genes=len(vocabulary),
            width=net.width,
            max_length=MAX_LENGTH,
            abilities=frozenset({"embed", "perturb", "impute", "gene_embeddings", "attention", "finetune"}),
            licence="BSD-3-Clause",
            citation="scfm-lab developers (2026). starter: a small transformer for trying things out.",
            determinism=(
                "no chance below max_length genes; above it the genes with most counts are kept, ties by numbers hashed "
                "from (digest of the unperturbed cell, gene, seed)"
            ),
            options={
                "max_length": Option(
                    int, MAX_LENGTH, "Most genes of a cell that are read; those with most counts are kept."
                )
            },
            parameters=sum(p.numel() for p in net.parameters()),
            layers=int(shape["layers"]),
            heads=int(shape["heads"]),
            feed_forward=int(shape["ffn"]),
        )

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the folder's configuration names this family."""
        return names_family(path, cls.family)

    @classmethod
    def open(
        cls, path: Path | None, *, config: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a folder with ``model.safetensors``, ``config.json`` and the vocabulary.

        Raises
        ------
        ModelError
            If a file is missing or damaged, or a tensor does not find its place.
        """
        from scfm_lab.models.starter_net import StarterNet

        if path is None:
            raise ModelError("starter needs the folder of its weights.")
        settings = overridden(read_config(path), config or {}, ("vocabulary",), "starter")
        try:
            net = StarterNet(settings["network"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path / CONFIG} does not describe a starter network ({error!r}).") from error
        tensors = read_safetensors(path / WEIGHTS)
        require_keys(tensors, {k: tuple(v.shape) for k, v in net.state_dict().items()}, path / WEIGHTS)
        net.load_state_dict({k: v.float() for k, v in tensors.items()})
        vocabulary = read_vocabulary(path, settings)
        if len(vocabulary) != int(net.config["n_genes"]):
            raise ModelError(
                f"The vocabulary of {path} has {len(vocabulary):,} genes, the network {net.config['n_genes']:,}; "
                "the files do not belong together."
            )
        model = cls(net.eval().requires_grad_(False), vocabulary, settings)
        model.digest = sha256(path / WEIGHTS)
        model.path = path
        model.learnt_from = sets_of(settings)
        return model

    def _modules(self) -> list[torch.nn.Module]:
        return [self.net]

    def _stack(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        return list(self.net.blocks), [self.net.norm]

    def n_token_ids(self) -> int:
        """As many as there are genes."""
        return len(self.vocabulary)

    def _tokenize(self, cells: Cells, options: Mapping[str, Any], seed: int) -> Tokens:
        match = self.require_genes(cells.genes)
        counts = aligned_counts(cells, match, len(self.vocabulary))
        limit = int(options["max_length"])
        if limit < 1:
            raise ModelError(f"max_length is {limit}; starter has to read at least one gene of a cell.")
        truncated = np.zeros(len(cells), dtype=bool)
        lost = np.zeros(len(cells), dtype=np.float32)
        origin = cells.baseline or cells
        before = counts if origin is cells else aligned_counts(origin, match, len(self.vocabulary))
        if np.diff(before.indptr).max(initial=0) > limit:
            dropped = _beyond(before, limit, cells.keys, seed)
            truncated = np.diff(dropped.indptr) > 0
            seen = np.asarray(counts.sum(axis=1)).ravel()
            counts = counts - counts.multiply(dropped)
            counts = counts.tocsr()
            counts.eliminate_zeros()
            counts.sort_indices()
            lost = (1 - np.asarray(counts.sum(axis=1)).ravel() / np.maximum(seen, 1)).astype(np.float32)
        return Tokens(
            ids=counts.indices.astype(np.int64),
            values=log_normalised(counts, cells.total).data,
            offsets=counts.indptr.astype(np.int64),
            cell={"truncated": truncated, "share_truncated": lost},
            measured=np.unique(match.ids),
        )

    def _forward(self, batch: Batch, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        ids, values, mask = self._inputs(batch)
        measured = self._measured(batch)
        n_layers = self.spec.layers
        hidden_layer = -1 if request.hidden_layer is None else request.hidden_layer
        if not -n_layers - 1 <= hidden_layer <= n_layers:
            raise ModelError(
                f"starter has {n_layers} layers; hidden_layer={hidden_layer} is not between {-n_layers - 1} and {n_layers}."
            )
        pooling = request.pooling or "cls"
        if pooling not in ("cls", "mean"):
            raise ModelError(f"starter pools by 'cls' or 'mean', not {pooling!r}.")
        last = hidden_layer in (-1, n_layers)
        if last and pooling == "cls" and not request.genes:
            return self.net.encode_cell(ids, values, mask, measured), None
        if last:
            states = self.net(ids, values, mask, measured=measured)
        else:
            states = self.net.hidden(ids, values, mask, measured)[hidden_layer]
        genes = states[:, 1:]
        if pooling == "mean":
            weights = mask[:, 1:, None].to(genes)
            cell = (genes * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            cell = self.net.embed_cell(states)
        return cell, batch.flat(genes) if request.genes else None

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        import torch

        from scfm_lab.models.starter_net import CLS

        if batch.values is None:
            raise ModelError("starter needs the values of its tokens; make them with model.tokenize.")
        dtype = self.net.hidden_value.dtype
        ids = torch.nn.functional.pad(batch.padded(batch.ids + 1, CLS), (1, 0), value=CLS)
        values = torch.nn.functional.pad(batch.padded(batch.values.to(dtype)), (1, 0))
        mask = torch.nn.functional.pad(batch.mask(), (1, 0), value=True)
        return ids, values, mask

    def _measured(self, batch: Batch) -> torch.Tensor | None:
        """Bool (vocabulary,): genes that the dataset measures; None: all."""
        import torch

        if batch.tokens is None or batch.tokens.measured is None:
            return None
        measured = torch.zeros(len(self.vocabulary), dtype=torch.bool, device=batch.ids.device)
        measured[torch.as_tensor(batch.tokens.measured, device=batch.ids.device)] = True
        return measured

    def base_bytes(self) -> int:
        """Its own table of genes and no other; tokenisers are compiled in the first run after an installation."""
        return 72 << 20

    def batch_bytes(self, tokens: int, longest: int) -> int:
        """As measured: cells are padded, values scale and shift their genes, and attention reads under a mask."""
        return 4 * tokens * (24 * self.spec.width + longest)

    def gene_embeddings(self) -> pd.DataFrame:
        """Embedding of each gene's token, float32, genes × width (index: symbol, or Ensembl id)."""
        import pandas as pd

        table = self.net.gene_table().detach().float().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.vocabulary.names, name="gene"))

    def attention(self, tokens: Tokens, *, hidden_layer: int = -1) -> list[NDArray[np.float32]]:
        """Attention weights between the genes of each cell.

        Parameters
        ----------
        hidden_layer
            Counted as for :func:`scfm_lab.embed`: 1 the first layer, -1 the last.

        Returns
        -------
        list of float32 arrays, one per cell, (heads, genes + 1, genes + 1)
            Rows read, columns are read; position 0 is the cell itself.
        """

        def weights(batch: Batch, layer: int) -> Iterable[torch.Tensor]:
            return self.net.attention(*self._inputs(batch), layer, self._measured(batch))

        return attention_of_cells(self, tokens, hidden_layer, weights)

    def expected_counts(self, cell: NDArray[np.float32], genes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Expected counts per 10,000 of some vocabulary genes, float32 (cells, genes)."""
        import torch

        with torch.inference_mode():
            vectors = torch.as_tensor(cell).to(self.device, self.net.hidden_value.dtype)
            rates = self.net.rate(vectors, torch.as_tensor(genes, device=self.device)).float().exp()
        return rates.cpu().numpy()


def _beyond(counts: csr_matrix, limit: int, keys: NDArray[np.uint64], seed: int) -> csr_matrix:
    """1 at the genes of each cell that are not among the `limit` with most counts."""
    from scipy import sparse

    lengths = np.diff(counts.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    ties = uniforms(keys[row], counts.indices.astype(np.uint64), seed, _TIES)
    order = np.lexsort((ties, -counts.data, row))
    position = np.arange(len(order)) - np.repeat(counts.indptr[:-1], lengths)
    over = order[position >= limit]
    over.sort()
    return sparse.csr_matrix((np.ones(len(over), np.float32), (row[over], counts.indices[over])), shape=counts.shape)
