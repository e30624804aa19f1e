"""How this person logs into a server: what MLflow's own client would use, from its variables and its file of credentials."""

from __future__ import annotations

from typing import Any

from scfm_registry.store.engine import quiet


def credentials(uri: str) -> Any:
    """MLflow's credentials for a server: ``username``, ``password``, ``token``, and what it trusts of https."""
    with quiet():
        from mlflow.utils.credentials import get_default_host_creds

        return get_default_host_creds(uri)


def name() -> str:
    """The name that this person logs in with; empty where there is none, as with a token."""
    with quiet():
        from mlflow.utils.credentials import read_mlflow_creds

        return (read_mlflow_creds().username or "").strip()
