"""What TranscriptFormer says beside a cell's vector: likelihoods, gene logits, contextual gene embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError
from scfm_lab.models.published import PublishedModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.inference.engine import Batch
    from scfm_lab.models.protein_table import EncodedRows, ProteinTable
    from scfm_lab.models.tokens import Tokens
    from scfm_lab.models.transcriptformer_files import Settings, TfFiles
    from scfm_lab.models.transcriptformer_genes import TokenIds
    from scfm_lab.models.transcriptformer_net import MLP, TfNet
    from scfm_lab.models.transcriptformer_run import Sequences


@dataclass(frozen=True)
class Likelihoods:
    """What the count head says about the genes of cells."""

    llh: NDArray[np.float32]
    """Mean negative log likelihood of a cell's counts, (cells,): the reference's ``llh``; NaN without known genes."""
    mu: NDArray[np.float32]
    """Expected count of each token, (tokens,)."""


@dataclass(frozen=True)
class ContextualGenes:
    """Contextual gene embeddings, as the reference's ``cge_*``."""

    embeddings: NDArray[np.float32]
    """(rows, width): the state that predicts the gene."""
    cell_indices: NDArray[np.int64]
    gene_names: NDArray[Any]
    """Ids as in the vocabulary."""


class Readouts(PublishedModel):
    """The readouts of a TranscriptFormer; what they read is set where it is opened."""

    net: TfNet
    gene_head: MLP | None
    ids: TokenIds
    table: ProteinTable
    files: TfFiles
    settings: Settings
    surgery: str
    _rows: EncodedRows

    def _sequences(self, batch: Batch, *, whole: bool = False) -> Sequences:
        raise NotImplementedError

    def vocabulary_ids(self, tokens: Tokens) -> NDArray[np.int64]:
        """The gene of each token; special tokens, which stand before the genes, are none (-1)."""
        self.check_tokens(tokens)
        ids = tokens.ids - self.ids.first
        return np.where((ids >= 0) & (ids < len(self.vocabulary)), ids, -1)

    def likelihoods(self, tokens: Tokens, *, training: bool = False) -> Likelihoods:
        """Expected counts of each cell's genes, and how unlikely its counts are.

        Parameters
        ----------
        training
            As in training: a token's own score has no count bias (the reference's inference adds it).

        Raises
        ------
        ModelError
            If the genes are not those the count head was trained on.
        """
        import torch

        from scfm_lab.models.transcriptformer_net import link, negative_log_likelihood
        from scfm_lab.models.transcriptformer_run import run

        n_bias = self.net.mu.gene_embedding.num_embeddings
        if self.surgery == "corrected" or len(self.table) > n_bias:
            raise ModelError(
                "The count head has a trained bias for each gene of the training set, and none for those of "
                f"{', '.join(path.name for path in self.files.pretrained)}; likelihoods need the model's own genes."
            )
        s = self.settings
        llh = np.full(len(tokens), np.nan, np.float32)
        mu = np.full(len(tokens.ids), np.nan, np.float32)
        for rows, places, batch in self._batches(tokens):
            seq = self._sequences(batch)
            states = run(self.net, seq, self.spec.layers, training=training)[seq.token_places()]
            assert batch.values is not None
            ids, counts = batch.ids[seq.real], batch.values[seq.real]
            logits = self.net.count_logits(states, self._rows(ids), ids)
            rates = []
            for i, (logit, count) in enumerate(
                zip(logits.split(seq.genes.tolist()), counts.split(seq.genes.tolist()), strict=True)
            ):
                rate = link(s.mu_link_fn, logit) * (count.sum() if s.mu_link_fn == "softmax" else 1.0)
                # In a full cell the reference puts 1 in the last count's place.
                seen = torch.cat([count[:-1], count.new_ones(1)]) if len(count) >= s.seq_len else count
                told = negative_log_likelihood(rate, seen, eps=s.log_counts_eps, approximate=s.softplus_approx)
                llh[rows[i]] = float(told.mean())
                rates.append(rate)
            mu[places[seq.real.cpu().numpy()]] = torch.cat(rates).cpu().numpy()
        return Likelihoods(llh, mu)

    def gene_logits(
        self, tokens: Tokens, *, first: int | None = None, training: bool = False
    ) -> list[NDArray[np.float32]]:
        """Logits over the whole vocabulary (special tokens first) of which gene comes at each place.

        Parameters
        ----------
        first
            Only the first places of each cell; None: all (vocabulary × genes numbers for every cell).

        Returns
        -------
        list of float32 arrays, one per cell, (genes, vocabulary)

        Raises
        ------
        ModelError
            If the checkpoint has no such head.
        """
        from scfm_lab.models.transcriptformer_run import run

        if self.gene_head is None:
            raise ModelError(f"{self.files.weights} has no gene-id head (gene_id_loss_weight is 0).")
        weight = self.net.any_weight
        self.gene_head.to(weight.device, weight.dtype)
        out = [np.empty((0, len(self.table)), np.float32)] * len(tokens)
        for rows, _, batch in self._batches(tokens):
            seq = self._sequences(batch)
            states = run(self.net, seq, self.spec.layers, training=training)[seq.token_places()]
            for row, cell in zip(rows.tolist(), states.split(seq.genes.tolist()), strict=True):
                out[row] = self.gene_head(cell[:first]).float().cpu().numpy()
        return out

    def contextual_gene_embeddings(
        self, data: AnnData | Cells, *, options: Mapping[str, Any] | None = None
    ) -> ContextualGenes:
        """Contextual gene embeddings of all cells; takes cells × genes × width numbers.

        Returns
        -------
        ContextualGenes
            One row per cell and gene: the state that predicts the gene, which has read only the
            genes before it.
        """
        tokens = self.tokenize(data, options=options)
        states = self.encode(tokens, genes=True).genes
        assert states is not None
        cells = np.repeat(np.arange(len(tokens)), tokens.lengths)
        gene = self.vocabulary_ids(tokens)
        rows = np.flatnonzero((gene >= 0) & np.isfinite(states[:, 0]))
        return ContextualGenes(states[rows], cells[rows], self.vocabulary.ensembl[gene[rows]])

    def hidden_states(self, tokens: Tokens, *, training: bool = False) -> list[NDArray[np.float32]]:
        """Every state of every layer, as the reference computes them, labels and padding among them.

        Returns
        -------
        list of float32 arrays, one per cell, (layers + 1, labels + places, width)
        """
        from scfm_lab.models.transcriptformer_run import run

        out: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
        for rows, _, batch in self._batches(tokens):
            seq = self._sequences(batch, whole=True)
            every = [seq.states]
            run(self.net, seq, self.spec.layers, training=training, every=every)
            for row, begin, end in zip(rows.tolist(), seq.ends - seq.lengths, seq.ends, strict=True):
                out[row] = np.stack([states[begin:end].float().cpu().numpy() for states in every])
        return out

    def _batches(self, tokens: Tokens, cells: int = 8) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Batch]]:
        """Some cells at a time that have genes: their rows, the flat places of their tokens, and the batch."""
        import torch

        from scfm_lab.inference.engine import make_batch

        self.check_tokens(tokens)
        seen = np.flatnonzero(tokens.genes_seen > 0)
        with torch.inference_mode():
            for start in range(0, len(seen), cells):
                rows = seen[start : start + cells]
                batch, places = make_batch(tokens, rows, torch.device(self.device))
                yield rows, places, batch
