"""What the packages import is what the distribution declares, and what it declares is pinned."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"scfm_lab", "scfm_registry", "scfm_widgets"}
FOLDERS = ("scfm_lab", "registry/scfm_registry", "widgets/scfm_widgets")
#: Imported only where a person asked for it, behind a sentence that says what to install.
OPTIONAL = {
    *("jupyterlab", "ipykernel", "playwright", "distributed", "psycopg"),
    *("cell_eval2", "harmonypy", "pronto", "scib_metrics"),
}
#: The example plugins that the tests install.
OF_THE_TESTS = {"scfm_example", "scfm_broken"}
#: Runs in an environment of its own, beside ours.
PEERS = {"jscatter", "scgpt", "transcriptformer"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def imported(repository: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """Top-level modules that these folders import at run time, each with one file that does."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in (repository / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        guarded = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for child in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if id(node) in guarded:
                continue
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(repository)))
    # What tests and benchmarks share lies beside them.
    beside = {path.stem for folder in ("tests", "benchmarks") for path in (repository / folder).rglob("*.py")}
    known = OWN | beside | sys.stdlib_module_names
    return {name: where for name, where in found.items() if name not in known}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(FOLDERS, []), (("tests", "benchmarks", "scripts"), ["lab", "science", "server", "test", "dev"])],
    ids=["packages", "checks"],
)
def test_every_import_is_of_a_declared_dependency(
    repository: Path, project: dict[str, Any], folders: tuple[str, ...], extras: list[str]
) -> None:
    """A package that is only there because another one needs it can vanish with that one's next release."""
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = metadata.packages_distributions()
    undeclared = {
        name: where
        for name, where in imported(repository, folders).items()
        if name not in OPTIONAL | OF_THE_TESTS | PEERS
        and not {canonicalize_name(owner) for owner in owners.get(name, [])} & declared
    }
    assert undeclared == {}


def constraint_files(repository: Path) -> list[Path]:
    """The pinned lists, one per Python."""
    return sorted((repository / "requirements").glob("constraints-3.*.txt"))


def test_every_declared_dependency_is_pinned_within_its_bounds(repository: Path, project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for line in [*project["dependencies"], *extras["lab"], *extras["test"], *extras["dev"]]]
    assert constraint_files(repository)
    for path in constraint_files(repository):
        pins = {}
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                name, _, version = line.partition("==")
                pins[canonicalize_name(name)] = Version(version)
        missing = [str(item) for item in wanted if canonicalize_name(item.name) not in pins]
        outside = [str(item) for item in wanted if pins.get(canonicalize_name(item.name)) not in item.specifier]
        assert (missing, outside) == ([], []), path.name


def test_the_checks_run_on_what_is_pinned(repository: Path) -> None:
    """The environment that runs these tests has the pinned versions, so that a pass says something about them."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    path = repository / "requirements" / f"constraints-{minor}.txt"
    if not path.exists():
        pytest.skip(f"Python {minor} has no pinned list in requirements/")
    different = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, version = line.partition("==")
        here = metadata.version(name).split("+")[0]
        if here != version:
            different[name] = f"{here}, pinned {version}"
    assert different == {}


def test_no_mlflow_is_taken_whose_tables_the_registry_cannot_read(project: dict[str, Any]) -> None:
    """3.10 gave its tables a column for workspaces, 3.12 its log-in roles; both are named here."""
    (mlflow,) = (Requirement(line) for line in project["dependencies"] if Requirement(line).name == "mlflow")
    assert [old for old in ("3.4.0", "3.9.0", "3.11.1") if mlflow.specifier.contains(old)] == []
    assert mlflow.specifier.contains("3.12.0")
