"""Which genes of two sets can be tested, and random sets that are like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model


_FEWEST_IN_SET = 3


def usable_genes(
    cells: Cells, models: Sequence[Model], min_cells: int, options: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """Columns of genes that enough cells express and every model knows."""
    usable = np.flatnonzero(np.diff(cells.by_gene.indptr) >= min_cells)
    for model in models:
        usable = np.intersect1d(usable, model.known_genes(cells.genes, options).columns)
    return usable


def chosen_genes(
    cells: Cells, sets: Mapping[str, Sequence[str]], usable: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Columns of the genes of both sets, and what was left out."""
    chosen: dict[str, NDArray[np.int64]] = {}
    before: dict[int, str] = {}
    notes = []
    good = set(usable.tolist())
    for name, genes in sets.items():
        columns, left = [], []
        for gene in dict.fromkeys([genes] if isinstance(genes, str) else genes):
            column = cells.genes.index.get(str(gene))
            if column is None or column not in good:
                left.append(str(gene))
                continue
            if column in before:
                raise DataError(
                    f"{gene} is in both sets ({before[column]!r} and {name!r}); the sets must have no gene in common."
                )
            columns.append(column)
        if len(columns) < _FEWEST_IN_SET:
            raise DataError(
                f"Only {len(columns)} genes of the set {name!r} are measured, expressed and known to the models; at least "
                f"{_FEWEST_IN_SET} are needed."
            )
        before.update(dict.fromkeys(columns, name))
        chosen[str(name)] = np.array(columns)
        notes.append(
            f"{name}: {len(columns)} genes"
            + (f" ({', '.join(left[:8])}{', …' if len(left) > 8 else ''} left out)." if left else ".")
        )
    return chosen, notes


def random_draws(
    cells: Cells, chosen: dict[str, NDArray[np.int64]], usable: NDArray[np.int64], n_random: int, seed: int
) -> list[NDArray[np.int64]]:
    """Columns of random genes, one for each gene of the sets, seen in about as many cells; no gene twice in a draw."""
    own = np.concatenate(list(chosen.values()))
    pool = np.setdiff1d(usable, own)
    seen = np.diff(cells.by_gene.indptr)
    if len(pool) < 4 * len(own) and n_random:
        raise DataError(
            f"Only {len(pool)} other genes are usable, too few for random sets of {len(own)}; give n_random=0 to do without."
        )
    order = pool[np.argsort(seen[pool], kind="stable")]
    rank = np.searchsorted(seen[order], seen[own])
    reach = max(2 * len(own), len(order) // 20)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_random):
        taken: list[int] = []
        for r in rank:
            near = order[max(0, r - reach) : r + reach]
            taken.append(int(rng.choice(np.setdiff1d(near, taken))))
        draws.append(np.array(taken))
    return draws
