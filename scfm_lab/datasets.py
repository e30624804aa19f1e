"""Real cells by name: bundled ones, a local mirror, or their public source."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, StorageError, did_you_mean

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

    from scfm_lab.plugins import Contribution

MIRROR_VARIABLE = "SCFM_DATA"


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before it is loaded."""

    name: str
    file: str
    what: str
    sha256: str = ""
    organism: str = ""
    accession: str = ""
    licence: str = ""
    url: str = ""
    """Public source of the counts; empty where there is only the publication's accession."""
    content: str = ""
    """Digest of the counts alone: what is built from a public source is checked by it."""
    kind: str = "cells"
    """``"cells"`` (AnnData) or ``"table"`` (pandas, or a dict of gene sets)."""


def load(name: str) -> Any:
    """Load a dataset.

    ``"pbmc68k"`` comes with scanpy, so it is there on every machine. The others are read from
    the folder named by the environment variable ``SCFM_DATA`` (a local mirror), from the
    cache in the data directory, or from their public source; a file whose checksum is not
    the recorded one is refused.

    Parameters
    ----------
    name
        One of :func:`list`, plugins' datasets by their id; ``.h5ad`` may be left out.

    Returns
    -------
    AnnData
        Raw counts in ``X`` (CSR float32), symbols as index of ``var`` and Ensembl ids in
        ``var["ensembl_id"]``. Tables give a pandas DataFrame, gene sets a dict.

    Raises
    ------
    DataError
        If the name is unknown, or the file cannot be had or is damaged.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> sl.datasets.load("pbmc68k").shape
    (700, 765)
    """
    known = catalogue()
    key = name.removesuffix(".h5ad")
    if key not in known:
        contributed = _contributed()
        if name in contributed:
            return contributed[name].load()()
        # Whoever misses cells is not helped by the names of gene tables, unless it is one that was meant.
        cells = [d.name for d in known.values() if d.kind == "cells"]
        raise DataError(
            f"No dataset is called {name!r}.{did_you_mean(key, [*known, *contributed])} "
            f"Cells: {', '.join([*cells, *contributed])}; sl.datasets.list() tells what they are."
        )
    dataset = known[key]
    if dataset.name == "pbmc68k":
        return _pbmc68k()
    return _read(locate(key), dataset)


def list() -> pd.DataFrame:  # noqa: A001 - the name users type: sl.datasets.list()
    """The datasets: name, what, organism, accession, licence, and whether each is at hand."""
    import pandas as pd

    rows = [
        {
            "name": d.name,
            "what": d.what,
            "kind": d.kind,
            "organism": d.organism,
            "accession": d.accession,
            "licence": d.licence,
            "here": d.name == "pbmc68k" or _here(d) is not None,
        }
        for d in catalogue().values()
    ]
    rows += [
        {
            "name": c.id,
            "what": c.data.get("title", ""),
            "kind": "cells",
            "organism": c.data.get("organism", ""),
            "accession": c.data.get("url", ""),
            "licence": c.data.get("licence", ""),
            "here": True,
        }
        for c in _contributed().values()
    ]
    return pd.DataFrame(rows)


def _contributed() -> dict[str, Contribution]:
    """The datasets that plugins bring, by id."""
    from scfm_lab.plugins import discover

    return {c.id: c for c in discover().contributions("datasets")}


@cache
def catalogue() -> dict[str, Dataset]:
    """The datasets by name."""
    import tomllib

    text = Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8")
    return {entry["name"]: Dataset(**entry) for entry in tomllib.loads(text)["datasets"]}


def mirror() -> Path | None:
    """The local mirror that ``SCFM_DATA`` names, if it is set."""
    folder = os.environ.get(MIRROR_VARIABLE)
    return Path(folder).expanduser() if folder else None


def locate(name: str) -> Path:
    """Path of a dataset's file, fetched if need be.

    Raises
    ------
    DataError
        If it is neither in the mirror nor in the cache and has no public file.
    """
    dataset = catalogue()[name]
    here = _here(dataset)
    if here is not None:
        _check_sum(here, dataset)
        return here
    if not dataset.url:
        where = f" ({dataset.accession})" if dataset.accession else ""
        raise DataError(
            f"The dataset {name!r}{where} is not on this machine and its authors offer no file in this layout. Put "
            f"{dataset.file} into a folder and name that folder in the environment variable {MIRROR_VARIABLE}."
        )
    return _fetch(dataset)


def _here(dataset: Dataset) -> Path | None:
    from scfm_lab.home import data_home

    folders = [folder for folder in (mirror(),) if folder is not None]
    try:
        folders.append(data_home() / "datasets")
    except StorageError:
        # A data directory that cannot be used does not matter while a mirror has the file.
        if not folders:
            raise
    for folder in folders:
        for path in (folder / dataset.file, folder / Path(dataset.file).name):
            if path.is_file():
                return path
    return None


def _check_sum(path: Path, dataset: Dataset) -> None:
    from scfm_lab.models.files import sha256

    if not dataset.sha256 or sha256(path) == f"sha256:{dataset.sha256}":
        return
    if not dataset.content or content_digest(_read(path, dataset)) != dataset.content:
        raise DataError(
            f"{path} is not the file that is recorded for {dataset.name!r} (its SHA-256 differs). "
            "Delete it and get it again."
        )


def _fetch(dataset: Dataset) -> Path:
    """Download a 10x archive, build the AnnData from it, check its counts, and keep that in the cache."""
    import tempfile

    import pooch

    from scfm_lab.home import data_home

    folder = data_home() / "datasets"
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder).cleanup()
    except OSError as error:
        raise _cannot_keep(folder, error) from error
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            # The archive's own checksum is not published; what is built from it is checked instead.
            with _quiet(pooch.get_logger()):
                archive = Path(pooch.retrieve(dataset.url, known_hash=None, path=work, fname="archive.tar.gz"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"The dataset {dataset.name!r} could not be fetched from {dataset.url} ({_why(error)}). Check the "
                f"connection, or put {dataset.file} into a folder that {MIRROR_VARIABLE} names."
            ) from error
        adata = _from_10x(archive, Path(work), dataset)
        if content_digest(adata) != dataset.content:
            raise DataError(
                f"What {dataset.url} holds is not the data recorded for {dataset.name!r} (its counts differ); it was not kept."
            )
        try:
            adata.write_h5ad(Path(work) / "built.h5ad", compression="gzip")
            return (Path(work) / "built.h5ad").rename(folder / dataset.file)
        except OSError as error:
            raise _cannot_keep(folder, error) from error


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a library's remarks to itself for a while; its warnings still pass."""
    before = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(before)


def _why(error: Exception) -> str:
    """Why nothing came, in a few words: what libraries say of it names their own objects."""
    from requests import exceptions as http

    if isinstance(error, http.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, http.Timeout):
        return "no answer in time"
    if isinstance(error, http.SSLError):
        return "the server's certificate is not accepted"
    if isinstance(error, http.ConnectionError):
        return "no connection"
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return reason.rstrip(".")[:120] or type(error).__name__


def _cannot_keep(folder: Path, error: OSError) -> StorageError:
    reason = error.strerror or " ".join(str(error).split())
    return StorageError(
        f"The dataset cannot be kept in {folder} ({reason}). Free some space, or set SCFM_HOME to a directory you can write to."
    )


def _from_10x(archive: Path, work: Path, dataset: Dataset) -> AnnData:
    import tarfile

    import scanpy as sc
    from scipy import sparse

    try:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        matrix = next(work.rglob("matrix.mtx*"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata = sc.read_10x_mtx(matrix.parent, var_names="gene_symbols", make_unique=True)
    except (OSError, tarfile.TarError, StopIteration, KeyError, ValueError) as error:
        raise DataError(f"The archive at {dataset.url} is not in the layout of 10x Genomics ({error}).") from error
    adata.X = sparse.csr_matrix(adata.X, dtype="float32")
    adata.var["gene_symbol"] = adata.var_names
    adata.var = adata.var.rename(columns={"gene_ids": "ensembl_id"})
    adata.uns["organism"] = dataset.organism
    adata.uns["note"] = "built from the public matrix, which has no labels"
    return adata


def content_digest(adata: AnnData) -> str:
    """Digest of the counts by Ensembl id (symbol where there is none), whatever the order of cells and genes."""
    import numpy as np

    from scfm_lab.cells.counts import to_csr
    from scfm_lab.cells.digest import cell_keys, hash_names

    ensembl = adata.var["ensembl_id"].astype(str).to_numpy()
    names = np.where(ensembl != "", ensembl, adata.var_names.astype(str))
    counts = to_csr(adata.X)
    parts = [cell_keys(counts, hash_names(names), salt=salt).sum(dtype=np.uint64) for salt in (1, 2)]
    return "".join(f"{int(part):016x}" for part in parts)


def _read(path: Path, dataset: Dataset) -> Any:
    if dataset.kind == "cells":
        import anndata as ad

        try:
            return ad.read_h5ad(path)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} cannot be read as h5ad ({error}); delete it and get it again.") from error
    if path.suffix == ".gmt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return {parts[0]: parts[2:] for parts in (line.split("\t") for line in lines) if len(parts) > 2}
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8").split()
    import pandas as pd

    return pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", keep_default_na=False)


def _pbmc68k() -> AnnData:
    """700 PBMCs of Zheng et al. (2017) with 765 genes, as shipped by scanpy, as raw counts.

    scanpy ships log-normalised values; the counts come back as
    round(expm1(value) × n_counts / 10,000), which is checked to be near whole numbers.
    """
    from importlib.util import find_spec

    import anndata as ad
    import numpy as np
    from scipy import sparse

    found = find_spec("scanpy")
    if found is None or found.origin is None:
        raise DataError("scanpy, which the cells come with, is not installed; run: pip install scanpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The file itself: to import scanpy for it takes two seconds.
        source = ad.read_h5ad(Path(found.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    total = source.obs["n_counts"].to_numpy(dtype=np.float64)
    raw = sparse.csr_matrix(source.raw.X, dtype=np.float64)
    values = np.expm1(raw.data) * np.repeat(total, np.diff(raw.indptr)) / 1e4
    counts = np.rint(values)
    worst = float(np.abs(values - counts).max())
    if worst > 0.1:
        raise DataError(
            f"The counts of scanpy's pbmc68k_reduced cannot be recovered (a value lies {worst:.2f} from a whole number); "
            "this scanpy ships another file than the one that is known."
        )
    x = sparse.csr_matrix((counts.astype(np.float32), raw.indices, raw.indptr), shape=raw.shape)
    x.eliminate_zeros()
    obs = source.obs.rename(columns={"bulk_labels": "cell_type"}).drop(columns=["n_counts", "n_genes"])
    obs["total_counts_all_genes"] = total
    obs.index.name = None
    symbols = source.raw.var_names.astype(str)
    adata = ad.AnnData(x, obs=obs, var=_gene_columns(symbols))
    adata.obsm["X_umap"] = np.asarray(source.obsm["X_umap"], dtype=np.float32)
    adata.uns["organism"] = "human"
    return adata


def _gene_columns(symbols: Any) -> pd.DataFrame:
    import pandas as pd

    from scfm_lab.cells.genes import Vocabulary

    vocabulary = Vocabulary.from_csv(Path(__file__).parent / "models" / "assets" / "starter" / "vocabulary.csv.gz")
    ids = [vocabulary.id_of(symbol) for symbol in symbols]
    ensembl = ["" if i is None else str(vocabulary.ensembl[i]) for i in ids]
    return pd.DataFrame({"gene_symbol": symbols.to_numpy(), "ensembl_id": ensembl}, index=pd.Index(symbols, name=None))
