"""From vectors of annotated cells to labels of new ones, with a confidence that can be believed.

Whatever is tuned is tuned on the reference alone, on cells that the labels were not learned from: those of donors or batches
that are held out where they are known, else cells left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError
from scfm_lab.evaluation.calibration import Confidence, calibrate
from scfm_lab.evaluation.splits import balanced_folds, spread
from scfm_lab.tasks.neighbours import Neighbours, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

METHODS = ("neighbours", "linear")
MOST_HELD_OUT = 4_000
"""Cells of the reference on which confidence and threshold are chosen."""
_MOST_TRAINED = 20_000
_FOLDS = 5
_FEWEST_OF_A_TYPE = 10


@dataclass(frozen=True)
class HeldOut:
    """What became of reference cells whose labels were predicted from other reference cells."""

    rows: NDArray[np.int64]
    guess: NDArray[np.int64]
    """Code of the label that each got."""
    share: NDArray[np.float64]
    """Support of that label, 0 to 1, before calibration."""
    strange: NDArray[np.float64]
    """Strangeness of each cell."""
    novel: NDArray[np.float64]
    """Strangeness of each cell where its own label is left out of the reference; NaN for rare labels."""
    split: str
    """How they were held out, in words."""


@dataclass(frozen=True)
class Labelled:
    """Labels of new cells."""

    codes: NDArray[np.int64]
    share: NDArray[np.float64]
    strange: NDArray[np.float64]
    probability: NDArray[np.float32]
    """Support of each label, (cells, labels); rows sum to 1."""


@dataclass
class Transfer:
    """Annotated vectors from which labels are taken.

    Parameters
    ----------
    vectors
        Of the reference, float32 (cells, width), all finite.
    codes
        Number of each cell's label, 0 to ``n_types - 1``.
    samples
        Donor, sample or batch of each cell, or None.
    method
        ``"neighbours"``: the `k` nearest vote, weighted by nearness; ``"linear"``: logistic regression.
    """

    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]
    n_types: int
    samples: NDArray[Any] | None = None
    method: str = "neighbours"
    k: int = 15
    seed: int = 0
    search: Neighbours = field(init=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"There is no method {self.method!r}; methods: {', '.join(METHODS)}.")
        self.search = Neighbours(self.vectors, k=self.k, seed=self.seed)

    def label(self, new: NDArray[np.float32]) -> Labelled:
        """Labels of new cells, and how strange each is to the reference."""
        near, far = self.search.of(new)
        if self.method == "neighbours":
            probability = votes(near, far, self.codes, self.n_types)
        else:
            probability = self._linear(np.arange(len(self.codes)), new)
        return Labelled(
            probability.argmax(axis=1),
            probability.max(axis=1).astype(np.float64),
            self.strangeness(near, far),
            probability,
        )

    def strangeness(self, near: NDArray[np.int64], far: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much farther cells are from their neighbours than these are from their own, a ratio."""
        own = self.search.own[1].mean(axis=1)
        floor = max(float(np.median(own)) * 1e-3, 1e-12)
        return np.asarray(far.mean(axis=1) / np.maximum(own[near].mean(axis=1), floor), dtype=np.float64)

    def held_out(self) -> HeldOut:
        """Predict reference cells from others: the basis of confidence, threshold and scores."""
        rng = np.random.default_rng(self.seed)
        n = len(self.codes)
        rows = np.arange(n) if n <= MOST_HELD_OUT else np.sort(rng.choice(n, MOST_HELD_OUT, replace=False))
        guess = np.zeros(len(rows), dtype=np.int64)
        share, strange = np.zeros(len(rows)), np.zeros(len(rows))
        novel = np.full(len(rows), np.nan)
        often = np.flatnonzero(np.bincount(self.codes, minlength=self.n_types) >= _FEWEST_OF_A_TYPE)
        for train, at in self._folds(rows):
            new = self.vectors[rows[at]]
            near, far = self._among(train, new)
            strange[at] = self.strangeness(near, far)
            if self.method == "neighbours":
                probability = votes(near, far, self.codes, self.n_types)
            else:
                probability = self._linear(train, new)
            guess[at], share[at] = probability.argmax(axis=1), probability.max(axis=1)
            for code in np.intersect1d(often, self.codes[rows[at]]):
                mine = at[self.codes[rows[at]] == code]
                others = train[self.codes[train] != code]
                if len(others) > self.k:
                    novel[mine] = self.strangeness(*self._among(others, self.vectors[rows[mine]]))
        return HeldOut(rows, guess, share, strange, novel, self.split)

    @property
    def split(self) -> str:
        """How cells are held out, in words."""
        return "cells left out" if self.samples is None else "samples held out"

    def _folds(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to learn from, and places in `rows` to predict."""
        if self.samples is None:
            fold = np.random.default_rng(self.seed + 1).permutation(len(self.codes)) % min(_FOLDS, len(self.codes))
        else:
            fold = balanced_folds(self.samples, _FOLDS)
        for f in np.unique(fold):
            at = np.flatnonzero(fold[rows] == f)
            train = np.flatnonzero(fold != f)
            if len(at) and len(train) > 1:
                yield train, at

    def _among(
        self, train: NDArray[np.int64], new: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        near, far = nearest(self.vectors[train], new, self.k)
        return train[near], far

    def _linear(self, train: NDArray[np.int64], new: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of a logistic regression on standardised vectors."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        out = np.zeros((len(new), self.n_types), dtype=np.float32)
        present = np.unique(self.codes[train])
        if len(present) == 1:
            out[:, present] = 1
            return out
        if len(train) > _MOST_TRAINED:
            train = spread(self.codes, train, _MOST_TRAINED, self.seed)
        head = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500, C=0.1))
        head.fit(self.vectors[train].astype(np.float64), self.codes[train])
        out[:, head.classes_] = head.predict_proba(new.astype(np.float64))
        return out


def votes(
    near: NDArray[np.int64], far: NDArray[np.float32], codes: NDArray[np.int64], n_types: int
) -> NDArray[np.float32]:
    """Share of the neighbours that carry each label, weighted by 1 / distance; (cells, labels)."""
    # A neighbour at distance 0 (a double) would outvote all others alone.
    least = np.maximum(0.05 * np.median(far, axis=1, keepdims=True), 1e-9)
    weights = 1.0 / np.maximum(far, least)
    found = np.zeros((len(near), n_types))
    np.add.at(found, (np.arange(len(near))[:, None], codes[near]), weights)
    return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Trust:
    """What the reference says about labels that are taken from it."""

    confidence: Confidence
    """From support to the probability that a label is right."""
    threshold: float
    """Strangeness above which a cell is ``"unknown"``."""
    accuracy: float
    """Share of the held-out reference cells that got their own label."""
    novel_found: float
    """Share of the cells of left-out labels that were above the threshold; NaN where no label could be left out."""
    novel_auroc: float
    """How well strangeness tells cells of left-out labels from the others: 0.5 not at all, 1 perfectly."""
    split: str


def trust(transfer: Transfer, held: HeldOut, *, unknown_rate: float) -> Trust:
    """Calibrate confidence and choose the threshold of strangeness, on held-out cells of the reference.

    Parameters
    ----------
    unknown_rate
        Share of the held-out reference cells that may be called unknown wrongly.
    """
    right = held.guess == transfer.codes[held.rows]
    samples = None if transfer.samples is None else transfer.samples[held.rows]
    threshold = float(np.quantile(held.strange, 1 - unknown_rate))
    novel = held.novel[np.isfinite(held.novel)]
    found = auroc = np.nan
    if len(novel):
        from sklearn.metrics import roc_auc_score

        found = float((novel > threshold).mean())
        auroc = float(
            roc_auc_score(np.r_[np.zeros(len(held.strange)), np.ones(len(novel))], np.r_[held.strange, novel])
        )
    return Trust(
        confidence=calibrate(held.share, right, samples=samples, seed=transfer.seed),
        threshold=threshold,
        accuracy=float(right.mean()),
        novel_found=found,
        novel_auroc=auroc,
        split=held.split,
    )
