"""Write results into an AnnData under new keys, with where they came from beside them."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm_lab.models.contract import Model

UNS = "scfm"


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result's numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("scfm-lab", "torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def of_model(model: Model, **more: Any) -> dict[str, Any]:
    """The part of a provenance record that names the model."""
    return {
        "model": model.spec.name,
        "family": model.spec.family,
        "version": model.version,
        "source": model.source,
        "weights_sha256": model.digest,
        "device": model.device,
        "precision": model.precision,
        "determinism": model.spec.determinism,
        "packages": package_versions(),
        **more,
    }


def free_key(adata: AnnData, slot: str, key: str, *, given: bool) -> str:
    """A key of ``obs``, ``obsm``, … that can be written without harm.

    A key that scfm-lab wrote before (it stands in the provenance) is written anew. One
    that holds something else is never overwritten: a given key is refused, a default
    one gets a number.

    Raises
    ------
    DataError
        If `key` was `given` by the user and holds something else.
    """
    container = getattr(adata, slot)
    ours = adata.uns.get(UNS, {})
    if key not in container or key in ours:
        return key
    if given:
        raise DataError(f"{slot}[{key!r}] holds something that scfm-lab did not write; choose another key_added.")
    number = 2
    while f"{key}_{number}" in container and f"{key}_{number}" not in ours:
        number += 1
    return f"{key}_{number}"


def record(adata: AnnData, key: str, provenance: dict[str, Any]) -> None:
    """Put a provenance record at ``uns["scfm"][key]``."""
    entries = dict(adata.uns.get(UNS, {}))
    entries[key] = _storable(provenance)
    adata.uns[UNS] = entries


def _storable(value: Any) -> Any:
    # What HDF5 can hold: no None, no tuples, string keys without slashes.
    import numpy as np

    if value is None:
        return ""
    if isinstance(value, dict):
        return {str(k).replace("/", "|"): _storable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        return np.array([str(v) for v in items], dtype=object) if items else ""
    if isinstance(value, (str, int, float, bool, np.generic, np.ndarray)):
        return value
    return str(value)
