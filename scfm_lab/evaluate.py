"""Evaluations: every score between a floor and a ceiling, with an interval.

``sl.evaluate.perturbation`` and its like are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # "as" tells type checkers that the name is meant for users.
    from scfm_lab.evaluation.annotation import annotation as annotation
    from scfm_lab.evaluation.clustering import clustering as clustering
    from scfm_lab.evaluation.covariance_sign import covariance_sign as covariance_sign
    from scfm_lab.evaluation.cross_species import cross_species as cross_species
    from scfm_lab.evaluation.imputation import imputation as imputation
    from scfm_lab.evaluation.integration import integration as integration
    from scfm_lab.evaluation.leaderboard import leaderboard as leaderboard
    from scfm_lab.evaluation.perturbation import perturbation as perturbation
    from scfm_lab.evaluation.regulators import regulators as regulators
    from scfm_lab.evaluation.score import Score as Score
    from scfm_lab.evaluation.score import Scores as Scores
    from scfm_lab.evaluation.xor import xor as xor

_HOMES = {
    "covariance_sign": "scfm_lab.evaluation.covariance_sign",
    "clustering": "scfm_lab.evaluation.clustering",
    "cross_species": "scfm_lab.evaluation.cross_species",
    "imputation": "scfm_lab.evaluation.imputation",
    "integration": "scfm_lab.evaluation.integration",
    "annotation": "scfm_lab.evaluation.annotation",
    "leaderboard": "scfm_lab.evaluation.leaderboard",
    "perturbation": "scfm_lab.evaluation.perturbation",
    "regulators": "scfm_lab.evaluation.regulators",
    "Score": "scfm_lab.evaluation.score",
    "Scores": "scfm_lab.evaluation.score",
    "xor": "scfm_lab.evaluation.xor",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"sl.evaluate has no {name!r}; it has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
