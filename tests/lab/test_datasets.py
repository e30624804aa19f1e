"""Cells by name: bundled, from a mirror, or from their public source, and never other than recorded."""

from __future__ import annotations

import gzip
import http.server
import shutil
import socket
import tarfile
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scanpy as sc
from scipy import io

import scfm_lab as sl
from scfm_lab import datasets
from scfm_lab.errors import DataError


def test_the_bundled_counts_are_recovered_exactly(pbmc68k):
    assert pbmc68k.shape == (700, 765)
    x = pbmc68k.X
    assert (x.data == np.rint(x.data)).all()
    assert x.data.min() >= 1
    total = pbmc68k.obs["total_counts_all_genes"].to_numpy()
    # Back to what scanpy ships, to the precision of its float32 values.
    back = np.log1p(x.toarray() / total[:, None] * 1e4)
    shipped = sc.datasets.pbmc68k_reduced().raw.X.toarray()
    assert np.abs(back - shipped).max() < 1e-3
    assert 0.15 < np.median(np.asarray(x.sum(axis=1)).ravel() / total) < 0.25
    assert pbmc68k.obs["cell_type"].nunique() == 10
    assert (pbmc68k.var["ensembl_id"] != "").mean() > 0.99
    assert pbmc68k.var.loc["CD3D", "ensembl_id"] == "ENSG00000167286"


def test_every_dataset_of_the_mirror_loads_as_raw_counts(shared_data):
    table = datasets.list()
    cells = table[(table["kind"] == "cells") & table["here"]]
    assert len(cells) >= 14
    for name in ("kang_ifnb_pbmc", "mouse_brain_merfish_1000"):
        adata = sl.datasets.load(name)
        assert len(sl.Cells.from_anndata(adata)) == adata.n_obs
    assert "TP53" in sl.datasets.load("tf_human_curated")
    assert {"tf", "target"} <= set(sl.datasets.load("dorothea_human").columns)
    assert len(sl.datasets.load("human_hallmark")) == 50


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError, match=r"^No dataset is called 'pbmc68'\. Did you mean 'pbmc68k'") as caught:
        sl.datasets.load("pbmc68")
    listed = str(caught.value).partition("Cells: ")[2]
    known = sl.datasets.list().set_index("name")["kind"]
    assert "pbmc3k_raw" in listed
    assert [name for name in known[known == "table"].index if name in listed] == []
    # A table is suggested where one was meant.
    with pytest.raises(DataError, match="Did you mean 'tf_human_curated'"):
        sl.datasets.load("tf_human_curatd")


def test_a_changed_file_is_refused(shared_data, tmp_path, monkeypatch):
    path = tmp_path / "citeseq_pbmc10k_protein_v3_200.h5ad"
    shutil.copy(shared_data / path.name, path)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    monkeypatch.setenv("SCFM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="SHA-256 differs"):
        sl.datasets.load("citeseq_pbmc10k_protein_v3_200")


def test_what_is_nowhere_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SCFM_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"GSE96583.*kang_ifnb_pbmc\.h5ad.*SCFM_DATA"):
        sl.datasets.load("kang_ifnb_pbmc")


@pytest.fixture
def public_server(shared_data, tmp_path):
    """A local server with an archive in 10x Genomics' layout, made of the mirror's cells."""
    adata = sl.datasets.load("pbmc3k_raw")
    folder = tmp_path / "made" / "filtered_gene_bc_matrices" / "hg19"
    folder.mkdir(parents=True)
    io.mmwrite(folder / "matrix.mtx", adata.X.T.astype(int))
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    rows = zip(adata.var["ensembl_id"], adata.var["gene_symbol"], strict=True)
    (folder / "genes.tsv").write_text("".join(f"{e}\t{s}\n" for e, s in rows))
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "cells.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "made", arcname=".")
    (served / "other.tar.gz").write_bytes(gzip.compress(b"not an archive"))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _point_to(monkeypatch, tmp_path, url):
    entry = replace(datasets.catalogue()["pbmc3k_raw"], url=url)
    monkeypatch.setitem(datasets.catalogue(), "pbmc3k_raw", entry)
    monkeypatch.delenv("SCFM_DATA", raising=False)
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))


def test_a_public_source_is_built_checked_and_cached(public_server, tmp_path, monkeypatch):
    expected = sl.datasets.load("pbmc3k_raw")
    _point_to(monkeypatch, tmp_path, f"{public_server}/cells.tar.gz")
    built = sl.datasets.load("pbmc3k_raw")
    assert (built.X != expected.X).nnz == 0
    assert datasets.content_digest(built) == datasets.catalogue()["pbmc3k_raw"].content
    # The second time nothing is fetched.
    entry = replace(datasets.catalogue()["pbmc3k_raw"], url=f"{public_server}/gone.tar.gz")
    monkeypatch.setitem(datasets.catalogue(), "pbmc3k_raw", entry)
    assert sl.datasets.load("pbmc3k_raw").shape == expected.shape


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "gone.tar.gz",
            r"could not be fetched from \S+ \(the server answers 404 File not found\)\. Check the connection",
        ),
        ("other.tar.gz", "not in the layout of 10x"),
    ],
)
def test_a_bad_public_source_leaves_nothing_behind(public_server, tmp_path, monkeypatch, file, words):
    _point_to(monkeypatch, tmp_path, f"{public_server}/{file}")
    with pytest.raises(DataError, match=words):
        sl.datasets.load("pbmc3k_raw")
    assert list((tmp_path / "home" / "datasets").iterdir()) == []


def test_no_connection_is_told_in_a_few_words(tmp_path, monkeypatch, capfd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _point_to(monkeypatch, tmp_path, f"http://127.0.0.1:{port}/cells.tar.gz")
    with pytest.raises(DataError, match=r"cells\.tar\.gz \(no connection\)\. Check the connection, or put"):
        sl.datasets.load("pbmc3k_raw")
    # The downloader's own remarks are not for users.
    assert capfd.readouterr() == ("", "")
