"""Versions as MLflow serves them: the vectors are those of sl.embed, and no code is anybody else's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import requests

import scfm_lab as sl
from scfm_lab.errors import DataError, ModelError
from scfm_registry import Registry, manifest
from scfm_registry.serving import ROOT, Served, allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture
def cells(pbmc68k: AnnData) -> AnnData:
    """Fifty cells with plain counts, and nothing else."""
    from anndata import AnnData as Table

    few = pbmc68k[:50]
    counts = few.layers.get("counts", few.X)
    return Table(counts.astype(np.float32), obs=few.obs[[]].copy(), var=few.var[[]].copy())


@pytest.fixture
def file(cells: AnnData, tmp_path: Path) -> Path:
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return path


def _load(registry: Registry, reference: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from scfm_registry.store.engine import quiet

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry.uri)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with quiet():
        # It warns of its own type hints, and of what SQLAlchemy will not have any more.
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(f"models:/{reference}")


@pytest.mark.parametrize("name", ["pca", "starter"])
def test_pyfunc_gives_the_vectors_of_embed_bit_by_bit(
    name: str, made_home: Path, cells: AnnData, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    expected = sl.embed(cells.copy(), registry.load(name), progress=False).vectors
    model = _load(registry, f"{name}/1", monkeypatch)
    dense = cells.to_df()
    for table in (pd.DataFrame({"adata_uri": [str(file)]}), dense):
        given = model.predict(table)
        assert list(given.columns) == ["cell", *(str(number) for number in range(expected.shape[1]))]
        assert list(given["cell"]) == list(cells.obs_names)
        np.testing.assert_array_equal(given.drop(columns="cell").to_numpy(), expected)
    # MLflow leaves a note beside the files; the version is still what was registered.
    assert registry.verify(f"{name}/1").ok


def test_a_retracted_version_is_not_served(made_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scfm_registry.serving import _load_pyfunc

    registry = Registry()
    folder = str(registry.resolve("pca/1").path)
    assert _load_pyfunc(folder, {"device": "cpu"}).model.spec.name == "pca"
    registry.retract("pca/1", because="a test")
    with pytest.raises(ModelError, match=r"pca/1 was retracted \(a test\)"):
        _load_pyfunc(folder)
    # Files that lie where no registry is are served, and none is made to be asked.
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "other"))
    assert _load_pyfunc(folder, {"device": "cpu"}).model.spec.width == 50
    assert not (tmp_path / "other" / "registry").exists()


def _as_a_version(folder: Path, family: str) -> str:
    content = manifest.describe(folder, family).canonical()
    (folder / manifest.FILENAME).write_bytes(content)
    (folder / manifest.SERVING).write_bytes(manifest.serving(f"sha256:{hashlib.sha256(content).hexdigest()}"))
    return str(folder)


def test_what_a_registry_would_not_open_is_not_served_whatever_folder_it_lies_in(
    made_home: Path, tmp_path: Path
) -> None:
    from scfm_registry.serving import _load_pyfunc

    registry = Registry()
    copy = shutil.copytree(registry.resolve("pca/1").path, tmp_path / "copy")
    (copy / "card.md").write_text("# Another card, and so another digest of the files\n")
    model = registry.load("starter")
    model.net.norm.bias.data.add_(0.01)
    registry.register(model, "mine", parent="starter", certify=False)
    whole = registry.export_published("mine", tmp_path / "whole").folder
    folders = {_as_a_version(copy, "scfm.pca"): "pca/1", _as_a_version(whole, "scfm.starter"): "starter/1"}
    for folder in folders:
        assert _load_pyfunc(folder, {"device": "cpu"}).model.spec.width
    registry.delete("mine/1")
    registry.purge("mine/1")
    for (folder, reference), how in zip(folders.items(), ("its weights are those of", "made from"), strict=True):
        registry.retract(reference, because="a test")
        with pytest.raises(
            ModelError, match=rf"{folder} was retracted \({how} {reference}, which was retracted: a test\)"
        ):
            _load_pyfunc(folder)


def test_two_files_are_one_after_the_other(made_home: Path, cells: AnnData, file: Path) -> None:
    served = Served(Registry().load("pca", device="cpu"))
    once = served.predict(pd.DataFrame({"adata_uri": [str(file)]}))
    twice = served.predict(pd.DataFrame({"adata_uri": [str(file), f"file://{file}"]}))
    pd.testing.assert_frame_equal(twice, pd.concat([once, once], ignore_index=True))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"adata_uri": ["/nowhere/cells.h5ad"]}), "There is no file"),
        (pd.DataFrame({"adata_uri": ["https://example.org/cells.h5ad"]}), "and not addresses"),
        (pd.DataFrame({"adata_uri": ["s3://bucket/cells.h5ad"]}), "and not addresses"),
        (pd.DataFrame({"adata_uri": [3]}), "path of a file"),
        (pd.DataFrame({"adata_uri": ["x"], "pooling": ["mean"]}), "leave out pooling"),
        (pd.DataFrame({"CD3D": ["three"]}), "Counts are numbers.*CD3D"),
        (pd.DataFrame(), "no rows"),
        (np.ones((2, 2)), "pandas.DataFrame"),
    ],
    ids=["missing", "https", "s3", "number", "option", "text", "empty", "array"],
)
def test_what_is_neither_kind_of_table_is_refused(table: Any, words: str, made_home: Path) -> None:
    served = Served(Registry().load("pca", device="cpu"))
    with pytest.raises(DataError, match=words):
        served.predict(table)


def test_params_that_reach_the_model_are_refused(made_home: Path) -> None:
    served = Served(Registry().load("pca", device="cpu"))
    with pytest.raises(DataError, match="takes no params; leave out 'pooling'"):
        served.predict(pd.DataFrame({"CD3D": [1]}), {"pooling": "mean"})


def test_a_served_model_reads_below_one_folder_only(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path.parent / f"{tmp_path.name}-secret.h5ad"
    secret.write_bytes(b"x")
    (tmp_path / "link.h5ad").symlink_to(secret)
    monkeypatch.setenv(ROOT, str(tmp_path))
    assert allowed(str(file)) == file
    assert allowed("cells.h5ad") == file
    for name in (str(secret), f"../{secret.name}", "link.h5ad", "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(DataError, match="does not lie in the folder"):
            allowed(name)


# --------------------------------------------------------------------------------------------- whose code runs


def test_the_servings_description_names_our_loader_and_nothing_else(made_home: Path) -> None:
    import yaml

    found = Registry().resolve("pca")
    described = yaml.safe_load((found.path / manifest.SERVING).read_text())
    assert described["flavors"] == {"python_function": {"loader_module": "scfm_registry.serving"}}
    assert described["metadata"] == {"scfm_digest": found.digest}
    assert not list(found.path.rglob("*.py"))
    assert not list(found.path.rglob("*.pkl"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("scfm_registry.serving\n", "os\n"),
        lambda text: text + "code: code\n",
        lambda text: text.replace("sha256:", "sha256:0"),
        lambda text: "",
    ],
    ids=["foreign loader", "code", "digest", "empty"],
)
def test_a_description_that_was_changed_is_refused(change: Callable[[str], str], made_home: Path) -> None:
    registry = Registry()
    described = registry.resolve("pca").path / manifest.SERVING
    described.write_text(change(described.read_text()))
    assert registry.verify("pca").files[manifest.SERVING] == "is not part of this version"
    with pytest.raises(ModelError, match="MLmodel is not part of this version"):
        registry.load("pca", device="cpu")


def test_a_manifest_cannot_bring_a_description_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    (tmp_path / manifest.SERVING).write_text("flavors: {python_function: {loader_module: os}}\n")
    described = manifest.describe(tmp_path, "scfm.pca")
    assert set(described.files) == {"weights.safetensors"}
    evil = manifest.Manifest(
        "scfm.pca", {**described.files, manifest.SERVING: manifest.FileEntry(manifest.sha256(tmp_path / "MLmodel"), 48)}
    )
    with pytest.raises(ModelError, match="is not a manifest"):
        manifest.parse(evil.canonical(), "it")
    (tmp_path / manifest.FILENAME).write_bytes(described.canonical())
    states = manifest.check(tmp_path, described.digest, "it")
    assert states[manifest.SERVING] == "is not part of this version"


def test_a_family_that_no_plugin_opens_is_refused(tmp_path: Path) -> None:
    from scfm_registry.serving import _load_pyfunc

    (tmp_path / "model.safetensors").write_bytes(b"x")
    for family in ("os.system", "somebody.else"):
        content = manifest.describe(tmp_path, family).canonical()
        (tmp_path / manifest.FILENAME).write_bytes(content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (tmp_path / manifest.SERVING).write_bytes(manifest.serving(digest))
        with pytest.raises(ModelError, match=f"needs the model plugin '{family}'"):
            _load_pyfunc(str(tmp_path))


# ----------------------------------------------------------------------------------------------- over the wire


@pytest.fixture
def scoring(made_home: Path, file: Path) -> Iterator[str]:
    """A real `mlflow models serve` on the built-in pca, started in the folder of the cells."""
    import socket

    folder = Registry().resolve("pca").path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    log = (file.parent / "log").open("w")
    process = subprocess.Popen(
        command, cwd=file.parent, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            try:
                if requests.get(f"{address}/ping", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        else:
            raise AssertionError((file.parent / "log").read_text()[-2000:])
        yield f"{address}/invocations"
    finally:
        log.close()
        # One that could not start has gone by itself, and what it said is the failure.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(timeout=60)


@pytest.mark.slow
def test_mlflow_models_serve_answers_with_the_same_vectors(scoring: str, cells: AnnData, file: Path) -> None:
    expected = sl.embed(cells.copy(), Registry().load("pca"), progress=False).vectors

    def ask(table: dict[str, Any]) -> requests.Response:
        return requests.post(scoring, json={"dataframe_split": table}, timeout=120)

    dense = cells.to_df()
    for table in (
        {"columns": ["adata_uri"], "data": [[file.name]]},
        {"columns": list(dense.columns), "data": dense.to_numpy().tolist(), "index": list(dense.index)},
    ):
        answer = ask(table)
        assert answer.ok, answer.text
        given = pd.DataFrame(answer.json()["predictions"])
        assert list(given["cell"]) == list(cells.obs_names)
        np.testing.assert_array_equal(given.drop(columns="cell").to_numpy(np.float32), expected)
    for uri in ("/etc/passwd", "../x.h5ad", "http://169.254.169.254/latest"):
        refused = ask({"columns": ["adata_uri"], "data": [[uri]]})
        assert not refused.ok
        assert "adata_uri" in refused.text or "does not lie in the folder" in refused.text
