"""The lab's memory: an MLflow-backed registry of model checkpoints.

Examples
--------
>>> from scfm_registry import Registry
>>> registry = Registry()                                    # a folder of its own in the user's data directory
>>> model = registry.load("starter@champion")                # the same as sl.load_model("models:/starter@champion")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_registry.files import Verification
    from scfm_registry.gates import Gate
    from scfm_registry.measuring import Measurement
    from scfm_registry.registry import Registry
    from scfm_registry.spool import Spool
    from scfm_registry.version import ModelVersion, Versions

_HOMES = {
    "Gate": "scfm_registry.gates",
    "Measurement": "scfm_registry.measuring",
    "ModelVersion": "scfm_registry.version",
    "Registry": "scfm_registry.registry",
    "Spool": "scfm_registry.spool",
    "Verification": "scfm_registry.files",
    "Versions": "scfm_registry.version",
}

__all__ = ["Gate", "Measurement", "ModelVersion", "Registry", "Spool", "Verification", "Versions"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'scfm_registry' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
