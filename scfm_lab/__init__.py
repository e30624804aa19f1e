"""scfm-lab: a workbench for single-cell foundation models.

``import scfm_lab as sl`` loads nothing heavy: every public name is imported when
it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # "as" tells type checkers that the name is meant for users.
    from scfm_lab import datasets as datasets
    from scfm_lab import errors as errors
    from scfm_lab import evaluate as evaluate
    from scfm_lab import evaluation as evaluation
    from scfm_lab import plugins as plugins
    from scfm_lab.cells.audit import audit_genes as audit_genes
    from scfm_lab.cells.cells import Cells as Cells
    from scfm_lab.inference.hardware import Hardware as Hardware
    from scfm_lab.inference.hardware import fits as fits
    from scfm_lab.inference.plan import plan as plan
    from scfm_lab.models.contract import Model as Model
    from scfm_lab.models.load import list_models as list_models
    from scfm_lab.models.load import load_model as load_model
    from scfm_lab.models.spec import ModelSpec as ModelSpec
    from scfm_lab.models.tokens import States as States
    from scfm_lab.models.tokens import Tokens as Tokens
    from scfm_lab.tasks.annotate import annotate as annotate
    from scfm_lab.tasks.drug_signature import drug_signature as drug_signature
    from scfm_lab.tasks.embed import embed as embed
    from scfm_lab.tasks.generate import generate as generate
    from scfm_lab.tasks.impute import impute as impute
    from scfm_lab.tasks.integrate import integrate as integrate
    from scfm_lab.tasks.perturb import perturb as perturb
    from scfm_lab.tasks.perturb_plan import plan_perturb as plan_perturb
    from scfm_lab.tasks.regulators import regulators as regulators
    from scfm_lab.tasks.response_curves import response_curves as response_curves
    from scfm_lab.tasks.screen import screen as screen
    from scfm_lab.tasks.similar_genes import similar_genes as similar_genes
    from scfm_lab.tasks.trajectory import trajectory as trajectory
    from scfm_lab.tasks.transfer_signature import transfer_signature as transfer_signature
    from scfm_lab.training.finetune import finetune as finetune
    from scfm_lab.training.finetune_plan import plan_finetune as plan_finetune

__version__ = "0.1.0"

# OpenMP's threads spin while they wait. Where anything else runs, such as the browser that draws the bench, they then
# hold the cores that the work itself needs: 5 times slower was seen (benchmarks/waiting_threads.py). Read by PyTorch's
# OpenMP when it is loaded; whoever has set them knows better.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")

# numba shares PyTorch's OpenMP and gives it as many threads as it has itself: after the first UMAP a process that was told
# to use one thread would use all cores, and two of them hold each other up.
if "numba" not in sys.modules and (_told := os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()).isdecimal():
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(1, int(_told))))

_HOMES = {
    "Cells": "scfm_lab.cells.cells",
    "Hardware": "scfm_lab.inference.hardware",
    "Model": "scfm_lab.models.contract",
    "ModelSpec": "scfm_lab.models.spec",
    "States": "scfm_lab.models.tokens",
    "Tokens": "scfm_lab.models.tokens",
    "annotate": "scfm_lab.tasks.annotate",
    "audit_genes": "scfm_lab.cells.audit",
    "drug_signature": "scfm_lab.tasks.drug_signature",
    "embed": "scfm_lab.tasks.embed",
    "finetune": "scfm_lab.training.finetune",
    "fits": "scfm_lab.inference.hardware",
    "generate": "scfm_lab.tasks.generate",
    "impute": "scfm_lab.tasks.impute",
    "integrate": "scfm_lab.tasks.integrate",
    "list_models": "scfm_lab.models.load",
    "load_model": "scfm_lab.models.load",
    "perturb": "scfm_lab.tasks.perturb",
    "plan": "scfm_lab.inference.plan",
    "plan_finetune": "scfm_lab.training.finetune_plan",
    "plan_perturb": "scfm_lab.tasks.perturb_plan",
    "regulators": "scfm_lab.tasks.regulators",
    "response_curves": "scfm_lab.tasks.response_curves",
    "screen": "scfm_lab.tasks.screen",
    "similar_genes": "scfm_lab.tasks.similar_genes",
    "trajectory": "scfm_lab.tasks.trajectory",
    "transfer_signature": "scfm_lab.tasks.transfer_signature",
}
_MODULES = ("datasets", "errors", "evaluate", "evaluation", "plugins")

__all__ = ["__version__", *sorted(_HOMES), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"scfm_lab.{name}")
    else:
        raise AttributeError(f"module 'scfm_lab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
