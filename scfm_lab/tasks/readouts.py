"""What is read off a cell that a perturbation has moved: one number per cell for each read-out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_lab.cells.cells import subset
from scfm_lab.errors import DataError, did_you_mean
from scfm_lab.tasks.baseline import labels_of
from scfm_lab.tasks.progress import as_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.cells.cells import Cells
    from scfm_lab.models.tokens import Tokens
    from scfm_lab.tasks.baseline import Baseline

READOUTS = ("shift", "towards_target", "expression", "label")
#: Scale on which a null is regressed, by read-out.
SCALES = {"shift": "log", "expression": "log", "label": "linear", "towards_target": "signed"}
_NEIGHBOURS = 15
_DECODED = 1000


@dataclass(frozen=True)
class Moved:
    """Perturbed cells beside their unperturbed selves; each has a row per cell and perturbation."""

    rows: NDArray[np.int64]
    """Row of the cell."""
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    tokens: Tokens | None
    """Of the perturbed cells, where a read-out reads them."""
    of: NDArray[np.int64]
    """Number of the perturbation, an index into `columns`."""
    columns: Sequence[tuple[int, ...]]
    """Columns of the genes that each perturbation changes."""


class Readout:
    """Base of the read-outs."""

    name: ClassVar[str]
    signed: ClassVar[bool] = False
    """Whether it has a direction; else it is never negative."""
    reads_tokens: ClassVar[bool] = False
    size: int = 1
    """Numbers per cell."""

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """The effect on each cell, (cells,) or (size, cells); NaN where it has none."""
        raise NotImplementedError

    def applies(self, n: int) -> NDArray[np.bool_]:
        """In which of the cells it can be read at all."""
        return np.ones(n, dtype=bool)

    def identity(self) -> str:
        """What it depends on besides the cells and the model, for the journal."""
        return self.name


class Shift(Readout):
    """Euclidean distance that the vector moves."""

    name = "shift"

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """The distance."""
        return np.linalg.norm(moved.after - moved.before, axis=1).astype(np.float32)


class Movement(Readout):
    """The movement of the vector itself."""

    name = "movement"
    signed = True

    def __init__(self, width: int) -> None:
        self.size = width

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """New minus old vector, (width, cells)."""
        return (moved.after - moved.before).T


class TowardsTarget(Readout):
    """How far the vector moves along the straight way to the target's centroid; negative: away from it.

    Cells of the target itself have nowhere to go and are left out.
    """

    name = "towards_target"
    signed = True

    def __init__(self, target: str, centroid: NDArray[np.float32], own: NDArray[np.bool_]) -> None:
        self.target, self.centroid, self.own = target, centroid, own

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """The movement's component, in units of the embedding."""
        way = self.centroid - moved.before.astype(np.float64)
        length = np.linalg.norm(way, axis=1)
        step = np.vecdot(moved.after.astype(np.float64) - moved.before, way)
        found = np.divide(step, length, out=np.full(len(way), np.nan), where=length > 0)
        found[self.own[moved.rows]] = np.nan
        return found.astype(np.float32)

    def applies(self, n: int) -> NDArray[np.bool_]:
        """All cells but the target's own."""
        return ~self.own

    def identity(self) -> str:
        """The target's centroid."""
        import hashlib

        return f"{self.name}:{hashlib.sha256(self.centroid.tobytes() + self.own.tobytes()).hexdigest()}"


class Expression(Readout):
    """Mean absolute change of the predicted expression, as log1p, over genes that were not perturbed themselves."""

    name = "expression"
    reads_tokens = True

    def __init__(self, lab: Baseline) -> None:
        lab.model.require("impute")
        self.model = lab.model
        # The genes that these cells express most: what is predicted of the others is near nothing.
        total = np.asarray(lab.cells.counts.sum(axis=0)).ravel()[lab.match.columns]
        first = np.argsort(-total, kind="stable")[:_DECODED]
        self.columns, self.ids = lab.match.columns[first], lab.match.ids[first]
        self.place = {int(column): i for i, column in enumerate(self.columns)}
        tokens = lab.model.tokenize(lab.cells, options=lab.options, seed=lab.seed)
        self.before = self._decoded(lab.baseline, tokens)

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """The mean change."""
        assert moved.tokens is not None
        change = np.abs(self._decoded(moved.after, moved.tokens) - self.before[moved.rows])
        for number in np.unique(moved.of):
            own = [self.place[c] for c in moved.columns[number] if c in self.place]
            change[np.ix_(moved.of == number, own)] = np.nan
        return np.nanmean(change, axis=1).astype(np.float32)

    def _decoded(self, cell: NDArray[np.float32], tokens: Tokens) -> NDArray[np.float32]:
        from scfm_lab.models.contract import Model

        plain = type(self.model).impute is Model.impute and self.model.decode_pooling is None
        if not plain:
            # The decoder reads other states than those that the cell's vector is made of.
            return np.log1p(np.maximum(self.model.impute(tokens, self.ids), 0))
        out = np.full((len(cell), len(self.ids)), np.nan, dtype=np.float32)
        seen = np.isfinite(cell).all(axis=1)
        out[seen] = self.model.expected_counts(cell[seen], self.ids)
        return np.log1p(np.maximum(out, 0))


class Label(Readout):
    """Whether the label that the nearest unperturbed cells vote for has changed: 1 or 0.

    Parameters
    ----------
    labels
        Of the cells that vote.
    voters
        Their vectors and digests, where they are those of a reference; None: the cells themselves vote.
    """

    name = "label"

    def __init__(
        self,
        lab: Baseline,
        labels: NDArray[Any],
        voters: tuple[NDArray[np.float32], NDArray[np.uint64]] | None = None,
    ) -> None:
        import hashlib

        from scfm_lab.tasks.neighbours import Neighbours

        whose = "" if voters is None else "of the reference "
        vectors, names = (lab.baseline, np.arange(len(lab.cells))) if voters is None else voters
        self.names = np.arange(len(lab.cells)) if voters is None else lab.cells.keys
        known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        self.voters = names[known]
        self.types, codes = np.unique(labels.astype(str), return_inverse=True)
        self.codes = codes[known]
        self.k = min(_NEIGHBOURS, len(known) - 1)
        if len(np.unique(self.codes)) < 2 or self.k < 1:
            raise DataError(
                f"All cells {whose}have one label, so that no perturbation can change it; name another labels_key."
            )
        self.search = Neighbours(vectors[known], k=self.k, seed=lab.seed)
        self.before = np.full(len(lab.cells), -1)
        seen = np.flatnonzero(lab.seen)
        self.before[seen] = self._vote(lab.baseline[seen], seen)
        # The cells' own vectors are those of the model and the cells; those of a reference are told apart by themselves.
        self.told = hashlib.sha256(self.codes.tobytes() + self.before.tobytes())
        if voters is not None:
            self.told.update(vectors[known].tobytes())

    def values(self, moved: Moved) -> NDArray[np.float32]:
        """1 where the label is another one."""
        return (self._vote(moved.after, moved.rows) != self.before[moved.rows]).astype(np.float32)

    def _vote(self, vectors: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.int64]:
        near, far = self.search.of(vectors, self.k + 1)
        # A cell does not vote for its own label, also where it is in the reference.
        weights = np.where(self.voters[near] == self.names[own][:, None], 0.0, 1 / np.maximum(far, 1e-9))
        votes = np.zeros((len(vectors), len(self.types)))
        np.add.at(votes, (np.arange(len(vectors))[:, None], self.codes[near]), weights)
        found: NDArray[np.int64] = votes.argmax(axis=1)
        return found

    def identity(self) -> str:
        """The votes."""
        return f"{self.name}:{self.told.hexdigest()}"


def make_readouts(
    lab: Baseline,
    adata: AnnData,
    *,
    names: Sequence[str] | None,
    target: str | None,
    reference: AnnData | None,
    labels_key: str | None,
    progress: bool | Callable[..., None] = False,
    cancel: Any = None,
) -> list[Readout]:
    """The read-outs that were asked for: the shift, and what the arguments make possible.

    Raises
    ------
    DataError
        If one is unknown or lacks what it needs.
    ModelError
        If the model does not predict expression.
    """
    wanted = [names] if isinstance(names, str) else list(names or ["shift"])
    for name in wanted:
        if name not in READOUTS:
            raise DataError(
                f"There is no read-out {name!r}; read-outs: {', '.join(READOUTS)}." + did_you_mean(name, READOUTS)
            )
    if target is not None and "towards_target" not in wanted:
        wanted.append("towards_target")
    if reference is not None and target is None and "label" not in wanted:
        raise DataError(
            "A reference was given without a target; name the label of the cells to move towards with target=, or ask for the "
            "read-out 'label'."
        )
    cells = None if reference is None else _Reference(lab, reference, labels_key, "label" in wanted, progress, cancel)
    made: list[Readout] = []
    for name in dict.fromkeys(wanted):
        if name == "shift":
            made.append(Shift())
        elif name == "towards_target":
            if target is None:
                raise DataError(
                    "The read-out 'towards_target' needs a target: a group of groupby, or a label of the reference."
                )
            made.append(_towards(lab, adata, target, cells, labels_key))
        elif name == "expression":
            made.append(Expression(lab))
        elif cells is not None:
            made.append(Label(lab, cells.labels, (cells.vectors, cells.keys)))
        else:
            key = labels_key or lab.groupby
            if key is None:
                raise DataError("The read-out 'label' needs labels; name their column with labels_key= or groupby=.")
            made.append(Label(lab, labels_of(adata, key)))
    return made


class _Reference:
    """Annotated cells of another dataset, in the vectors of the model; each is encoded once."""

    def __init__(
        self,
        lab: Baseline,
        adata: AnnData,
        labels_key: str | None,
        whole: bool,
        progress: bool | Callable[..., None],
        cancel: Any,
    ) -> None:
        self.lab, self.adata, self.whole, self.progress, self.cancel = lab, adata, whole, progress, cancel
        key = labels_key or lab.groupby or "cell_type"
        self.labels = labels_of(adata, key, what="The label column of the reference")
        self.where = f"the reference's obs[{key!r}]"
        _check_layer(adata, lab.layer)

    @cached_property
    def cells(self) -> Cells:
        """With their counts."""
        whole = subset(self.adata) if self.adata.is_view else self.adata
        return self.lab.model.read_cells(whole, layer=self.lab.layer, options=self.lab.options)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Digests of all cells."""
        return self.cells.keys

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Of all cells."""
        return self._encoded(self.cells, "Cells of the reference")

    def vectors_of(self, label: str) -> NDArray[np.float32]:
        """Of the cells of a label; no others are encoded, unless all are wanted anyway."""
        rows = np.flatnonzero(self.labels == label)
        return self.vectors[rows] if self.whole else self._encoded(self.cells.take(rows), "Cells of the target")

    def _encoded(self, cells: Cells, what: str) -> NDArray[np.float32]:
        with as_progress(self.progress, f"{what}, with {self.lab.model.spec.name}") as report:
            return self.lab.vectors(cells, progress=report, cancel=self.cancel)


def _check_layer(reference: AnnData, layer: str | None) -> None:
    """Refuse a reference that does not have the layer of the cells."""
    if layer == "raw" and reference.raw is None:
        raise DataError("layer='raw' was asked for, but the reference has no .raw.")
    if layer not in (None, "X", "raw") and layer not in reference.layers:
        known = ", ".join(map(repr, reference.layers)) or "none"
        raise DataError(
            f"The reference has no layer {layer!r}, where its counts are looked for as those of the cells are; its layers are: "
            f"{known}." + did_you_mean(layer, reference.layers)
        )


def _towards(
    lab: Baseline, adata: AnnData, target: str, reference: _Reference | None, labels_key: str | None
) -> TowardsTarget:
    own = np.zeros(len(lab.cells), dtype=bool)
    if reference is None:
        key = labels_key or lab.groupby
        if key is None:
            raise DataError(
                f"Which cells are {target!r}? Name the obs column that holds it with groupby= or labels_key=."
            )
        labels, where = labels_of(adata, key), f"obs[{key!r}]"
        own = labels == target
    else:
        labels, where = reference.labels, reference.where
    if not (labels == target).any():
        known = sorted(set(labels))
        raise DataError(
            f"No cell is {target!r} in {where}; values there: {', '.join(map(repr, known[:12]))}."
            + did_you_mean(target, known)
        )
    vectors = lab.baseline[own] if reference is None else reference.vectors_of(target)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(vectors):
        raise DataError(f"In no cell of the target {target!r} does {lab.model.spec.name} see a gene.")
    return TowardsTarget(target, vectors.mean(axis=0, dtype=np.float64), own)
