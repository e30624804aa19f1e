"""Cells to check a model on, drawn from the genes that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm_lab.models.contract import Model

_CELLS, _GENES = 24, 300


def drawn_cells(model: Model) -> AnnData:
    """Draw counts of genes from the model's own vocabulary: negative binomial, each gene with a rate of its own.

    Half of the genes are seen in few cells, so that knockouts have cells to leave alone.
    """
    import anndata
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    vocabulary = model.vocabulary
    # Special tokens (<pad>, [CLS]) are no genes.
    usable = [i for i, name in enumerate(vocabulary.names) if name and str(name)[0].isalnum()]
    if not usable:
        raise ModelError(f"The vocabulary of {model.spec.name} names no gene.")
    picked = np.array(usable)[np.linspace(0, len(usable) - 1, min(_GENES, len(usable))).astype(int)]
    picked = np.unique(picked)
    rates = rng.lognormal(mean=0.0, sigma=1.5, size=len(picked))
    depths = rng.uniform(0.5, 2.0, size=(_CELLS, 1))
    counts = rng.poisson(rng.gamma(0.7, rates * depths / 0.7)).astype(np.float32)
    # No cell is blind: the gene with the highest rate is seen in each.
    counts[:, int(np.argmax(rates))] += 1
    var = pd.DataFrame(index=pd.Index(vocabulary.names[picked].astype(str), name="gene"))
    ensembl = vocabulary.ensembl[picked].astype(str)
    if (ensembl != "").any():
        var["ensembl_id"] = ensembl
    adata = anndata.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame(index=[f"cell-{i}" for i in range(_CELLS)]), var=var
    )
    adata.uns["organism"] = model.spec.organisms[0]
    return adata


def with_unknown_genes(adata: AnnData) -> AnnData:
    """Put two cells before the others that hold unknown genes only: one many of them, one nothing at all."""
    import anndata
    import pandas as pd
    from scipy import sparse

    old = sparse.csr_matrix(adata.X)
    unknown = 5
    counts = sparse.lil_matrix((adata.n_obs + 2, adata.n_vars + unknown), dtype=np.float32)
    counts[2:, : adata.n_vars] = old
    counts[0, adata.n_vars :] = 3
    counts[5, adata.n_vars :] = 1
    more = pd.DataFrame(index=[f"no-such-gene-{i}" for i in range(unknown)], columns=adata.var.columns)
    var = pd.concat([adata.var.astype(object), more.fillna("")])
    obs = pd.DataFrame(index=["only-unknown", "empty", *map(str, adata.obs_names)])
    mixed = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
    if "organism" in adata.uns:
        mixed.uns["organism"] = adata.uns["organism"]
    return mixed
