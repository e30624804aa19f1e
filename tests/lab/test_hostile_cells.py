"""Files of cells that reach for other files or for memory: refused in words with nothing read, beside ones that are taken."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from anndata import AnnData, settings
from scipy.sparse import csc_matrix, csr_matrix

from scfm_lab.cells.counts import find_counts, to_csr
from scfm_lab.cells.stored import open_stored
from scfm_lab.cli.files import read_h5ad
from scfm_lab.errors import CountsError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file, with a link within itself."""
    folder = tmp_path_factory.mktemp("cells")
    counts = csr_matrix(np.random.default_rng(0).poisson(1, (6, 8)).astype(np.float32))
    AnnData(counts, layers={"counts": counts.copy()}).write_h5ad(folder / "plain.h5ad", compression="gzip")
    with h5py.File(folder / "plain.h5ad", "a") as file:
        file["layers/again"] = h5py.SoftLink("/layers/counts")
        file["layers/once_more"] = file["layers/counts"]
    (folder / "secret").write_bytes(b"root:x:0:0" * 10)
    return folder


def _link(file: Any, secret: Path) -> None:
    file["layers/theirs"] = h5py.ExternalLink(str(secret), "/")


def _matrix_elsewhere(file: Any, secret: Path) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink(str(secret.with_name("plain.h5ad")), "/X")


def _bytes_of(file: Any, secret: Path) -> None:
    file.create_dataset("layers/theirs", (6, 8), "u1", external=[(str(secret), 0, 48)])


def _virtual(file: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout((6,), "f4")
    layout[:] = h5py.VirtualSource(str(secret.with_name("plain.h5ad")), "X/data", (6,))
    file.create_virtual_dataset("obsm/theirs", layout)


def _bomb(file: Any, secret: Path) -> None:
    del secret
    file.create_dataset("obsm/bomb", (6, 10**11), "f4", chunks=(1, 10**6), compression="gzip")


def _large_parts(file: Any, secret: Path) -> None:
    del secret
    file.create_dataset("obsm/bomb", (6, 8), "f8", chunks=(6, 3 * 10**7), maxshape=(None, None), compression="gzip")


def _many_small_bombs(file: Any, secret: Path) -> None:
    del secret
    for number in range(6):
        file.create_dataset(f"obsm/bomb{number}", (6, 10**6), "f8", fillvalue=1)


def _one_small_bomb_in_many_places(file: Any, secret: Path) -> None:
    del secret
    bomb = file.create_dataset("obsm/bomb", (6, 10**6), "f8", fillvalue=1)
    for number in range(5):
        file[f"obsm/bomb{number}"] = bomb


def _circle(file: Any, secret: Path) -> None:
    del secret
    for number in range(3):
        file[f"uns/again{number}"] = file["uns"]


def _nowhere(file: Any, secret: Path) -> None:
    del secret
    file["layers/lost"] = h5py.SoftLink("/layers/deleted")


def _soft_circle(file: Any, secret: Path) -> None:
    del secret
    file["layers/one"], file["layers/two"] = h5py.SoftLink("/layers/two"), h5py.SoftLink("/layers/one")


def _soft_end(file: Any, secret: Path) -> None:
    del secret
    file["uns/again"] = h5py.SoftLink("/uns")


def _soft_elsewhere(file: Any, secret: Path) -> None:
    # By its name the first to be looked at; the way through it opens a file that is no HDF5 file.
    file["a_link"] = h5py.SoftLink("/z_door/layers")
    file["z_door"] = h5py.ExternalLink(str(secret), "/")


def _shared(file: Any, secret: Path) -> None:
    del secret
    below = file.create_group("uns/below")
    for number in range(28):
        above = file.create_group(f"uns/above{number}")
        above["left"] = above["right"] = below
        below = above


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_link, r"leads to another file at /layers/theirs"),
        (_matrix_elsewhere, r"leads to another file at /X"),
        (_bytes_of, r"keeps /layers/theirs in another file"),
        (_virtual, r"keeps /obsm/theirs in another file"),
        (_bomb, r"says that /obsm/bomb holds 2,235\.2 GiB, of which 0 bytes are there"),
        (_large_parts, r"keeps /obsm/bomb in parts of 1\.3 GiB"),
        (_many_small_bombs, r"says that its data sets hold 0\.3 GiB more than its bytes explain"),
        (_one_small_bomb_in_many_places, r"says that its data sets hold 0\.3 GiB more than its bytes explain"),
        (_circle, r"has groups in groups without end at /uns/again0"),
        (_nowhere, r"has a link at /layers/lost that leads nowhere, or in a circle \(/layers/deleted\)"),
        (_soft_circle, r"has a link at /layers/one that leads nowhere, or in a circle \(/layers/two\)"),
        (_soft_end, r"has groups in groups without end at /uns/again"),
        (_soft_elsewhere, r"leads to another file at /z_door"),
        (_shared, r"leads to its groups and data sets in [\d,]{11,} ways"),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else "",
)
def test_files_that_reach_further_are_refused(
    plain: Path, tmp_path: Path, change: Callable[[Any, Path], None], words: str
) -> None:
    path = tmp_path / "cells.h5ad"
    shutil.copyfile(plain / "plain.h5ad", path)
    with h5py.File(path, "a") as file:
        change(file, plain / "secret")
    for read in (open_stored, read_h5ad):
        with pytest.raises(DataError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "root:x" not in str(caught.value)


def _put(place: str, value: int) -> Callable[[Any], None]:
    name, _, at = place.partition(":")

    def change(matrix: Any) -> None:
        matrix[name][int(at)] = value

    change.__name__ = f"{place}={value}"
    return change


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix], ids=["by rows", "by columns"])
@pytest.mark.parametrize(
    "change",
    [
        _put("indices:3", 8),
        _put("indices:3", 10**6),
        _put("indices:3", -5),
        _put("indptr:2", 20),
        _put("indptr:3", -4),
        _put("indptr:-1", 10**6),
    ],
    ids=lambda change: change.__name__,
)
def test_indices_that_lead_out_of_the_matrix_are_refused(
    tmp_path: Path, form: Callable[..., Any], change: Callable[[Any], None]
) -> None:
    # Followed, they make scipy write where it should not, or end the process.
    path, counts = tmp_path / "cells.h5ad", np.random.default_rng(0).poisson(1, (6, 8)).astype(np.float32)
    AnnData(form(counts), layers={"fine": form(counts)}).write_h5ad(path)
    for matrix in (open_stored(path).X, open_stored(path).take(np.arange(6), None).X, read_h5ad(path).X):
        np.testing.assert_array_equal(to_csr(matrix).toarray(), counts)
    with h5py.File(path, "a") as file:
        change(file["X"])
    stored = open_stored(path)
    for matrix in (stored.X, stored.take(np.arange(6)[::-1], np.array([1, 3])).X):
        with pytest.raises(CountsError, match=rf"/X of {path} is damaged: ") as caught:
            to_csr(matrix[:] if matrix is not stored.X else matrix)
        assert caught.value.args[0].endswith("Get the file again.")
    with pytest.raises(DataError, match=rf"{path} cannot be read as an \.h5ad file: X is damaged, "):
        read_h5ad(path)
    np.testing.assert_array_equal(to_csr(stored.layers["fine"]).toarray(), counts)


@pytest.mark.parametrize("place", ["X", "raw/X"])
def test_what_lies_in_a_matrixs_place_and_is_none_is_refused(plain: Path, tmp_path: Path, place: str) -> None:
    path, whole = tmp_path / "cells.h5ad", read_h5ad(plain / "plain.h5ad")
    whole.raw = whole
    whole.write_h5ad(path)
    with h5py.File(path, "a") as file:
        file[place].attrs["encoding-type"] = "dict"
    with pytest.raises(DataError, match=rf"{path} cannot be read .*: its {place.replace('/', '.')} is no matrix"):
        open_stored(path)


def test_a_layer_that_is_no_matrix_is_refused_where_it_is_asked_for(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    shutil.copyfile(plain / "plain.h5ad", path)
    with h5py.File(path, "a") as file:
        file["layers/counts"].attrs["encoding-type"] = "dict"
    stored = open_stored(path)
    assert find_counts(stored).where == "X"
    for some in (stored, stored.take(np.arange(3), None)):
        with pytest.raises(CountsError, match=r"layers\['counts'\] does not hold raw counts: it is no matrix"):
            find_counts(some, layer="counts")


def test_a_file_that_says_it_has_no_x_is_read_by_its_layer(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    shutil.copyfile(plain / "plain.h5ad", path)
    with h5py.File(path, "a") as file:
        del file["X"]
        file["X"] = h5py.Empty("f4")
        file["X"].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})
    assert read_h5ad(path).X is None
    assert find_counts(open_stored(path)).where == "layers['counts']"


def test_links_within_a_file_are_taken(plain: Path) -> None:
    stored, whole = open_stored(plain / "plain.h5ad"), read_h5ad(plain / "plain.h5ad")
    for name in ("again", "once_more"):
        np.testing.assert_array_equal(stored.layers[name][:].toarray(), whole.X.toarray())


# Zarr's own word about its third format, in which such lists are no part of the standard yet.
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_names_in_a_zarr_folder_do_not_climb_out_of_it(plain: Path, tmp_path: Path) -> None:
    import zarr

    whole = read_h5ad(plain / "plain.h5ad")
    del whole.layers["again"], whole.layers["once_more"]
    with settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        for name in ("other.zarr", "cells.zarr"):
            whole.write_zarr(tmp_path / name)
    zarr.consolidate_metadata(str(tmp_path / "cells.zarr"))
    assert set(open_stored(tmp_path / "cells.zarr").layers) == {"counts"}
    listed = tmp_path / "cells.zarr" / "zarr.json"
    document = json.loads(listed.read_text())
    entries = document["consolidated_metadata"]["metadata"]
    for key in [key for key in entries if key.startswith("layers/counts")]:
        entries[key.replace("layers/counts", "layers/../../other.zarr/layers/counts")] = entries[key]
    listed.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"cells\.zarr cannot be read"):
        open_stored(tmp_path / "cells.zarr")
