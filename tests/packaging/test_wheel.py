"""The wheel, built from the source archive, holds what it must and works from another directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = ("scfm_lab", "scfm_registry", "scfm_widgets")


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive, and the wheel from that archive alone."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: the pinned build back end is in this environment, and nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(repository)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Paths of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a new environment that has the wheel, and return its folder of commands.

    The dependencies come from the environment of the tests, through a path file: they are the pinned ones in both cases,
    and a second download of two gigabytes would prove nothing about our wheel. A path file makes that folder's packages
    importable but does not run the path files in it, so the checkout's editable install stays out of sight.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    commands = Path(sysconfig.get_path("scripts", "venv", scheme))
    subprocess.run(
        [commands / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


def run(commands: Path, tmp_path: Path, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the clean environment in an empty directory."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "SCFM_DATA"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"SCFM_HOME": str(tmp_path / "home"), **extra}
    directory = tmp_path / "elsewhere"
    directory.mkdir(exist_ok=True)
    result = subprocess.run(
        [str(commands / command[0]), *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(directory.iterdir()) == [], "something was written into the working directory"
    return result


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_has_its_manifest_and_its_types(names: set[str], package: str) -> None:
    assert {f"{package}/__init__.py", f"{package}/scfm.toml", f"{package}/py.typed"} <= names


def test_the_wheel_holds_three_packages_and_nothing_beside_them(names: set[str]) -> None:
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == set(PACKAGES)


def test_the_wheel_holds_the_front_end_the_weights_and_the_tutorials(names: set[str], repository: Path) -> None:
    """What git has under these folders is in the wheel, file by file."""
    shipped = {
        "scfm_lab/models/assets": "scfm_lab/models/assets",
        "widgets/scfm_widgets/static": "scfm_widgets/static",
        "tutorials": "scfm_lab/tutorials",
    }
    for source, target in shipped.items():
        listed = subprocess.run(
            ["git", "-C", str(repository), "ls-files", source], check=True, capture_output=True, text=True
        ).stdout.split()
        assert listed, f"git has no file under {source}"
        expected = {target + path.removeprefix(source) for path in listed}
        assert expected <= names
    assert {"scfm_widgets/static/index.js", "scfm_widgets/static/index.css"} <= names
    assert any(name.startswith("scfm_lab/models/assets/") and name.endswith(".safetensors") for name in names)


def test_nothing_that_only_developers_need_is_in_the_wheel(names: set[str]) -> None:
    assert not [
        name for name in names if "node_modules" in name or name.endswith((".ts", ".ipynb_checkpoints", ".pyc"))
    ]


def test_the_weights_shipped_stay_small(wheel: Path) -> None:
    """A model that everybody downloads is at most 10 MB."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist() if item.filename.endswith(".safetensors")}
    assert sizes
    assert max(sizes.values()) <= 10_000_000, sizes


def test_the_command_answers_from_another_directory(clean: Path, tmp_path: Path) -> None:
    said = run(clean, tmp_path, "scfm-lab", "--help").stdout
    for command in ("demo", "doctor", "lab", "models", "embed", "perturb"):
        assert f"\n  {command}" in said
    assert not (tmp_path / "home").exists(), "asking for help needs no home"


def test_the_doctor_finds_every_part_in_the_installed_wheel(clean: Path, tmp_path: Path) -> None:
    report = json.loads(run(clean, tmp_path, "scfm-lab", "doctor", "--json").stdout)
    states = {finding["about"]: finding for finding in report["findings"]}
    assert report["ok"], report
    for about in ("model scfm.pca", "model scfm.sctop", "model scfm.starter", "registry", "tutorial"):
        assert states[about]["state"] == "ok", states[about]
    assert str(clean.parent) in states["scfm-lab"]["text"]
    assert str(clean.parent) in states["tutorial"]["text"]


@pytest.mark.thorough
def test_starter_embeds_from_the_installed_wheel(clean: Path, tmp_path: Path) -> None:
    """The weights, the vocabulary and the bundled cells are all found inside what was installed."""
    program = (
        "import json, sys, numpy, scfm_lab as sl\n"
        "cells = sl.datasets.load('pbmc68k')[:50].copy()\n"
        "result = sl.embed(cells, sl.load_model('starter', device='cpu'), progress=False)\n"
        "print(json.dumps({'file': sl.__file__, 'shape': result.vectors.shape,\n"
        "                  'finite': bool(numpy.isfinite(result.vectors).all()), 'key': result.key}))\n"
    )
    said = json.loads(run(clean, tmp_path, "python", "-c", program, OMP_NUM_THREADS="1").stdout.splitlines()[-1])
    assert Path(said["file"]).is_relative_to(clean.parent)
    assert said["shape"][0] == 50
    assert said["finite"]
    assert said["key"] == "X_starter"
