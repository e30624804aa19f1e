"""Where people look at a plane: the base layout stays, new vectors are placed on it.

A new vector is placed by the weights of its neighbours among the cells of the base layout.
A cell moves by the difference between where its new and its old vector are placed, so that
an unchanged cell does not move at all; how far the old vector's place lies from the cell's
true one is the projection error, which is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, did_you_mean, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

_NEIGHBOURS = 15


@dataclass(frozen=True)
class Layout:
    """Places of cells on a plane before and after."""

    before: NDArray[np.float32]
    """Shape (cells, 2)."""
    after: NDArray[np.float32]
    """Shape (cells, 2)."""
    error: NDArray[np.float32]
    """Projection error of each cell in units of the plane, shape (cells,)."""
    basis: str
    """Name of the plane."""

    @property
    def moved(self) -> NDArray[np.float32]:
        """Distance that each cell moves on the plane."""
        return np.linalg.norm(self.after - self.before, axis=1)


class Projector:
    """Places vectors on a fixed plane by their neighbours' weights.

    Parameters
    ----------
    vectors
        Of the cells of the base layout, float32 (cells, width).
    plane
        Their places, float32 (cells, 2).
    """

    def __init__(self, vectors: NDArray[np.float32], plane: NDArray[np.float32], *, basis: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.vectors, self.plane, self.basis = vectors, np.asarray(plane, dtype=np.float32), basis
        self._known = np.flatnonzero(np.isfinite(vectors).all(axis=1) & np.isfinite(self.plane).all(axis=1))
        if len(self._known) < 3:
            raise DataError("Fewer than three cells have both a vector and a place; there is no layout to draw on.")
        # One more than asked for: a cell of the base layout is its own nearest neighbour.
        self._k = min(_NEIGHBOURS, len(self._known) - 1)
        self._search = NearestNeighbors(n_neighbors=self._k + 1).fit(vectors[self._known])
        self._own = self._place(vectors, np.arange(len(vectors)))
        self.error = np.linalg.norm(self._own - self.plane, axis=1).astype(np.float32)

    def _place(self, vectors: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.full((len(vectors), 2), np.nan, dtype=np.float32)
        good = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        if len(good) == 0:
            return out
        distance, near = self._search.kneighbors(vectors[good])
        near = self._known[near]
        # The cell itself never votes for its own place; else the farthest one drops out.
        drop = near == own[good][:, None]
        drop[~drop.any(axis=1), -1] = True
        keep = ~drop
        distance = distance[keep].reshape(len(good), -1)
        near = near[keep].reshape(len(good), -1)
        width = np.maximum(distance[:, -1:], 1e-12)
        weights = np.exp(-4 * (distance / width) ** 2) + 1e-6
        weights /= weights.sum(axis=1, keepdims=True)
        out[good] = np.einsum("ij,ijk->ik", weights, self.plane[near])
        return out

    def displaced(self, vectors: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
        """How far cells move on the plane when their vectors become these, (cells, 2); 0 where that cannot be told."""
        shift = self._place(vectors, cells) - self._own[cells]
        return np.where(np.isfinite(shift), shift, 0).astype(np.float32)

    def move(self, vectors: NDArray[np.float32], changed: NDArray[np.int64]) -> Layout:
        """The layout after the vectors of some cells have changed.

        Parameters
        ----------
        vectors
            New vectors of the changed cells, (changed, width).
        changed
            Their rows.
        """
        after = self.plane.copy()
        after[changed] += self.displaced(vectors, changed)
        return Layout(self.plane, after, self.error, self.basis)


def find_plane(adata: AnnData, vectors: NDArray[np.float32], basis: str | None) -> tuple[NDArray[np.float32], str]:
    """Places of the cells, and the name of the plane.

    Parameters
    ----------
    basis
        Key in ``obsm`` (its first two columns are taken); None takes ``X_umap``, else the
        first two principal components of the vectors.

    Raises
    ------
    DataError
        If the key is not there or has fewer than two columns.
    """
    if basis is None and "X_umap" in adata.obsm:
        basis = "X_umap"
    if basis is None:
        return principal_plane(vectors), "principal components"
    if basis not in adata.obsm:
        known = ", ".join(map(repr, adata.obsm)) or "none"
        raise DataError(f"obsm has no {basis!r}; there are: {known}." + did_you_mean(basis, adata.obsm))
    plane: Any = np.asarray(adata.obsm[basis])
    if plane.ndim != 2 or plane.shape[1] < 2:
        raise DataError(f"obsm[{basis!r}] has fewer than two columns; name a two-dimensional layout with basis=.")
    return plane[:, :2].astype(np.float32), basis


def umap_plane(vectors: NDArray[np.float32], *, n_neighbors: int = 15, seed: int = 0) -> NDArray[np.float32]:
    """UMAP of the vectors (scanpy's), the same for the same vectors and seed.

    Parameters
    ----------
    vectors
        Shape (cells, width); a cell with NaN gets no place.
    n_neighbors
        Of the graph of neighbours.
    seed
        Of UMAP's start and sampling.

    Returns
    -------
    Places, float32 (cells, 2); NaN where a cell has no vector.

    Raises
    ------
    DataError
        If fewer than three cells have a vector.
    """
    import warnings

    import anndata as ad
    import scanpy as sc

    from scfm_lab.cells.compiled import keep_code_of_umap

    known = np.isfinite(vectors).all(axis=1)
    n = int(known.sum())
    if n < 3:
        raise DataError(f"Only {plural(n, 'cell has', 'cells have')} a vector; a layout needs at least three.")
    work = ad.AnnData(np.zeros((n, 1), np.float32), obsm={"rep": vectors[known]})
    keep_code_of_umap()
    with warnings.catch_warnings():
        # umap tells that a fixed seed means one thread, which is what is wanted.
        warnings.simplefilter("ignore")
        sc.pp.neighbors(work, n_neighbors=min(n_neighbors, n - 1), use_rep="rep", random_state=seed)
        sc.tl.umap(work, random_state=seed)
    plane = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    plane[known] = work.obsm["X_umap"]
    return plane


def write_plane(adata: AnnData, key: str, plane: NDArray[np.float32], *, key_added: str | None = None) -> str:
    """Keep the UMAP of the vectors in ``obsm[key]`` in ``obsm`` as well, with provenance.

    Parameters
    ----------
    key
        Of the vectors.
    plane
        Places, float32 (cells, 2).
    key_added
        Key of the plane; default: a free one like ``X_umap_<key without X_>``, so that vectors of two models, or of two
        versions of one, have each a plane of their own.

    Returns
    -------
    The plane's key.

    Raises
    ------
    DataError
        If `key_added` holds something that scfm-lab did not write.
    """
    from scfm_lab.cells import provenance

    name = key_added or f"X_umap_{key.removeprefix('X_')}"
    own = provenance.free_key(adata, "obsm", name, given=key_added is not None)
    adata.obsm[own] = plane
    of = dict(adata.uns.get(provenance.UNS, {})).get(key, {})
    provenance.record(adata, own, plane_record(of, key, seed=0), slot="obsm")
    return own


def plane_record(of: Mapping[str, Any], key: str, *, seed: int) -> dict[str, Any]:
    """Provenance of a UMAP: that of the vectors at `key` which it is of, and how it was made."""
    return {**of, "task": "layout", "of": key, "method": "UMAP (scanpy)", "seed": seed}


def principal_plane(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """First two principal components of the vectors; NaN where a cell has none."""
    from sklearn.decomposition import PCA

    known = np.isfinite(vectors).all(axis=1)
    plane = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    if known.sum() > 2:
        plane[known] = PCA(n_components=2, random_state=0).fit_transform(vectors[known])
    return plane
