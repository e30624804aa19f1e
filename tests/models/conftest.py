"""Each published family's small checkpoint, on the bundled cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from families import FAMILIES, Family, write_family

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture(scope="session")
def every_written(tmp_path_factory: pytest.TempPathFactory, _pbmc68k: AnnData) -> Callable[[str], Family]:
    """A family's checkpoint by its name, written once."""
    made: dict[str, Family] = {}

    def of(name: str) -> Family:
        if name not in made:
            made[name] = write_family(name, tmp_path_factory.mktemp(name), _pbmc68k)
        return made[name]

    return of


@pytest.fixture(scope="session")
def every_opened(every_written: Callable[[str], Family]) -> Callable[[str], Any]:
    """The same, opened once."""
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            made[name] = every_written(name).open()
        return made[name]

    return of


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture
def written(name: str, every_written: Callable[[str], Family]) -> Family:
    """Its checkpoint, not to be changed."""
    return every_written(name)


@pytest.fixture
def fresh(name: str, tmp_path: Path, _pbmc68k: AnnData) -> Family:
    """Its checkpoint, to be spoiled."""
    return write_family(name, tmp_path, _pbmc68k)


@pytest.fixture
def model(name: str, every_opened: Callable[[str], Any]) -> Any:
    """Its checkpoint, opened."""
    return every_opened(name)


@pytest.fixture
def few(pbmc68k: AnnData) -> AnnData:
    """Twenty of the bundled cells."""
    return pbmc68k[::35].copy()
