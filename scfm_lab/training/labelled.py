"""Annotated cells for fine-tuning: checked labels, and a split that keeps apart what belongs together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.cells import group_column
from scfm_lab.errors import DataError, plural

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.contract import Model

#: Fewest cells of a label: one or more for each of training, validation and test, and some to learn from.
MIN_CELLS = 5
_STREAM = 0xF17E
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Labelled:
    """Cells with one label each."""

    cells: Cells
    names: NDArray[Any]
    """Labels in order of the alphabet."""
    codes: NDArray[np.int64]
    """Place of each cell's label in `names`."""
    samples: NDArray[Any] | None
    """Donor or sample of each cell."""
    labels_key: str
    sample_key: str | None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def annotations(self) -> list[tuple[str, ...]]:
        """What each cell is annotated with, for the digest of the data."""
        labels = self.names[self.codes]
        if self.samples is None:
            return [(str(label),) for label in labels]
        return [(str(label), str(sample)) for label, sample in zip(labels, self.samples, strict=True)]


def read_labelled(
    adata: AnnData,
    model: Model,
    labels_key: str,
    sample_key: str | None,
    *,
    layer: str | None = None,
    options: Any = None,
) -> Labelled:
    """Cells of an AnnData with their labels.

    Raises
    ------
    DataError
        A column is missing, has NaN, one value only, measurements instead of labels, or a label with too few cells.
    """
    column = group_column(adata, labels_key, min_values=2)
    labels = column.astype(str).to_numpy(dtype=object)
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    counts = np.bincount(codes)
    few = [
        f"{str(name)!r} ({plural(int(n), 'cell', 'cells')})"
        for name, n in zip(names, counts, strict=True)
        if n < MIN_CELLS
    ]
    if few:
        raise DataError(
            f"Fine-tuning needs at least {MIN_CELLS} cells of each label in {labels_key!r}; too few have "
            f"{', '.join(few[:6])}{' …' if len(few) > 6 else ''}. Drop those cells, or merge their labels into others."
        )
    samples = None
    if sample_key is not None:
        if sample_key == labels_key:
            raise DataError(f"labels_key and sample_key are both {labels_key!r}; samples hold cells of several labels.")
        samples = group_column(adata, sample_key, min_values=2).astype(str).to_numpy(dtype=object)
    cells = model.read_cells(adata, layer=layer, options=options)
    return Labelled(cells, names.astype(object), codes.astype(np.int64), samples, labels_key, sample_key)


@dataclass(frozen=True)
class Split:
    """Rows of the cells that are trained on, that decide when to stop, and that are only looked at in the end."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    rule: str
    """How they were told apart, for people."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    """Samples of each part, where samples were kept together."""

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        sizes = {name: len(getattr(self, name)) for name in PARTS}
        return {"rule": self.rule, "cells": sizes, **({"samples": self.samples} if self.samples else {})}


def split_cells(labelled: Labelled, usable: NDArray[np.bool_], *, validation: float, test: float, seed: int) -> Split:
    """Divide cells into training, validation and test.

    Samples stay whole where they are known: the test then says how the model does on a donor that it has not seen. Otherwise
    every label is divided alike, and cells with exactly the same counts stay together. Where a cell goes depends on its
    counts (or its sample) and the seed, not on its row.

    Parameters
    ----------
    usable
        Which cells the model can see.
    validation, test
        Shares of the cells.

    Raises
    ------
    DataError
        A share makes no sense, or nothing would be left to train on.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share < 1:
            raise DataError(f"{name} is {share!r}; it is the share of the cells held out, between 0 and 1.")
    if validation + test > 0.8:
        raise DataError(f"validation={validation} and test={test} leave less than a fifth of the cells to train on.")
    rows = np.flatnonzero(usable)
    if labelled.samples is None:
        parts = _by_label(labelled, rows, (test, validation), seed)
        found = Split(parts[2], parts[1], parts[0], f"by cell, every label alike, seed {seed}")
    else:
        found = _by_sample(labelled, rows, validation, test, seed)
    # By the cells' own numbers: what is trained does not depend on the order of the file either.
    keys = labelled.cells.keys
    by_key = {part: getattr(found, part)[np.argsort(keys[getattr(found, part)], kind="stable")] for part in PARTS}
    return replace(found, **by_key)


def _by_label(
    labelled: Labelled, rows: NDArray[np.int64], shares: tuple[float, ...], seed: int
) -> list[NDArray[np.int64]]:
    from scfm_lab.cells.digest import uniforms

    keys = labelled.cells.keys
    chance = uniforms(keys, np.zeros(1, np.uint64), seed, _STREAM)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(shares) + 1)]
    for code in np.unique(labelled.codes[rows]):
        own = rows[labelled.codes[rows] == code]
        # By the cell's own number, so that equal cells lie side by side and stay together.
        own = own[np.argsort(chance[own], kind="stable")]
        start = 0
        for place, share in enumerate(shares):
            end = min(start + max(1, round(share * len(own))), len(own))
            while 0 < end < len(own) and keys[own[end]] == keys[own[end - 1]]:
                end += 1
            parts[place].append(own[start:end])
            start = end
        parts[-1].append(own[start:])
    return [np.sort(np.concatenate([*part, np.empty(0, np.int64)])) for part in parts]


def _by_sample(labelled: Labelled, rows: NDArray[np.int64], validation: float, test: float, seed: int) -> Split:
    from scfm_lab.cells.digest import hash_names, uniforms

    assert labelled.samples is not None
    samples = labelled.samples.astype(str)
    names, sizes = np.unique(samples[rows], return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"The model sees cells of one sample only in {labelled.sample_key!r}; leave sample_key out to hold out cells of it."
        )
    order = np.argsort(uniforms(hash_names(names), np.zeros(1, np.uint64), seed, _STREAM), kind="stable")
    waiting = [int(place) for place in order]
    parts: dict[str, list[str]] = {"test": [], "validation": [], "train": []}
    for part, share in (("test", test), ("validation", validation)):
        held = 0
        # At least one sample stays to train on; with two samples there is none for validation.
        while len(waiting) > 1 + (part == "test" and len(names) > 2):
            nearer = held + sizes[waiting[0]] / 2 <= share * len(rows)
            if parts[part] and not nearer:
                break
            held += int(sizes[waiting[0]])
            parts[part].append(str(names[waiting.pop(0)]))
    parts["train"] = [str(names[place]) for place in waiting]
    chosen = {part: rows[np.isin(samples[rows], list(held))] for part, held in parts.items()}
    rule = f"by {labelled.sample_key}, seed {seed}"
    if not parts["validation"]:
        inner = _by_label(labelled, chosen["train"], (validation,), seed)
        chosen["validation"], chosen["train"] = inner
        rule += "; validation by cell within the training samples"
    return Split(
        chosen["train"],
        chosen["validation"],
        chosen["test"],
        rule,
        {part: sorted(held) for part, held in parts.items()},
    )
