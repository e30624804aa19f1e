"""A layout beside the vectors in a file, without reading its counts."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.stored import open_stored
from scfm_lab.errors import StorageError
from scfm_lab.tasks.layout import plane_record, umap_plane

if TYPE_CHECKING:
    from numpy.typing import NDArray


def add_umap(path: str | Path, key: str, vectors: NDArray[np.float32], *, seed: int = 0) -> str:
    """Lay vectors of a file out by UMAP and write the places into it, as the bench does after a run.

    Parameters
    ----------
    path
        An .h5ad file; it is there with the places, or as it was before.
    key
        Of the vectors in ``obsm``, float (cells, width).
    vectors
        What is there.
    seed
        Of UMAP.

    Returns
    -------
    The key of the places in ``obsm``, such as ``"X_umap_starter"``.

    Raises
    ------
    DataError
        If fewer than three cells have a vector.
    StorageError
        If the file cannot be written.
    """
    import h5py  # type: ignore[import-untyped]
    from anndata.io import write_elem

    path = Path(path)
    plane = umap_plane(np.asarray(vectors, dtype=np.float32), seed=seed)
    stored = open_stored(path)
    own = provenance.free_key(stored, "obsm", f"X_umap_{key.removeprefix('X_')}", given=False)
    of = dict(dict(stored.uns.get(provenance.UNS, {})).get(key, {}))
    record = {**plane_record(of, key, seed=seed), "slot": "obsm"}
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            for group, name, value in (
                (file["obsm"], own, plane),
                (file["uns"][provenance.UNS], own, provenance.storable(record)),
            ):
                if name in group:
                    del group[name]
                write_elem(group, name, value)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"The layout cannot be written to {path}: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return own
