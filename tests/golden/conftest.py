"""Fixtures that write small checkpoints on the bundled cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import writers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture
def write_scgpt(pbmc68k: AnnData) -> Callable[..., Path]:
    """Write a small scGPT folder that knows most of the bundled genes."""
    return partial(writers.write_scgpt, adata=pbmc68k)


@pytest.fixture
def write_geneformer(pbmc68k: AnnData) -> Callable[..., Path]:
    """Write a small Geneformer folder, with its dictionaries, that knows the bundled genes which have an Ensembl id."""
    return partial(writers.write_geneformer, adata=pbmc68k)
