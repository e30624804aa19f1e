"""What a model says of itself: its spec, its options and what it can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ABILITIES: dict[str, str] = {
    "embed": "give each cell a vector",
    "perturb": "answer graded perturbations",
    "impute": "predict expression",
    "generate": "generate cells",
    "gene_embeddings": "give each gene a vector",
    "attention": "show attention between genes",
    "fit": "be fitted to a reference",
    "finetune": "be fine-tuned",
    "predict": "label cells by its own head",
}


@dataclass(frozen=True)
class Classes:
    """The labels of a fine-tuned model."""

    names: NDArray[Any]
    named: bool = True
    """Whether the names come from a file or from the training cells; else they are numbers."""


@dataclass(frozen=True)
class Option:
    """One option of a family: its type, default and meaning."""

    type: type
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    optional: bool = False
    """Whether None means something too (always, where it is the default)."""
    draws: bool = False
    """Whether chance, and so the seed, has a part in the vectors where it is on."""
    of_cells: bool = False
    """Whether it says what the cells are (their species, their assay), so that vectors under other values lie in one space."""


@dataclass(frozen=True)
class ModelSpec:
    """What a model is and what it can do."""

    name: str
    family: str
    genes: str
    """Namespace of its gene identifiers: ``"symbol"`` or ``"ensembl"``."""
    organisms: tuple[str, ...]
    n_genes: int
    width: int
    """Length of a cell's vector."""
    max_length: int
    """Longest input in genes; 0 where there is no limit."""
    abilities: frozenset[str]
    licence: str
    citation: str
    determinism: str
    """The rule behind every choice that depends on chance or order."""
    options: Mapping[str, Option] = field(default_factory=dict)
    commercial: bool | None = True
    """Whether the weights may be used commercially; None: their licence does not say."""
    gene_order: str = ""
    """Which order of genes the model reads, where order is part of its input; empty: order means nothing."""
    parameters: int = 0
    layers: int = 0
    heads: int = 0
    feed_forward: int = 0
