"""The registry as people use it.

What it can do is in modules of its own, one capability each: a new one is a class there, and one more base here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from scfm_registry import workshops
from scfm_registry.auditing import Auditor
from scfm_registry.changing import Changer
from scfm_registry.comparing import Comparer
from scfm_registry.evidence import Measurer
from scfm_registry.keeping import Keeper
from scfm_registry.lineage import Genealogist
from scfm_registry.reproducing import Reproducer
from scfm_registry.scores import Evaluator
from scfm_registry.sharing.publishing import Publisher
from scfm_registry.sharing.sharer import Sharer
from scfm_registry.spool import Syncer

if TYPE_CHECKING:
    import os

    from mlflow import MlflowClient

    from scfm_registry.catalog import Catalog
    from scfm_registry.version import Versions


class Registry(
    Sharer,
    Publisher,
    Keeper,
    Syncer,
    Genealogist,
    Reproducer,
    Comparer,
    Measurer,
    Changer,
    Auditor,
    Evaluator,
):
    """A lab's models: versions with aliases, tags, cards and evidence, kept in MLflow.

    Parameters
    ----------
    uri
        A folder, ``sqlite:///FILE``, the ``http(s)://`` address of an MLflow server, or
        ``postgresql://USER@HOST/NAME?artifacts=FOLDER``, a database and a shared folder without a server. Without it ``MLFLOW_REGISTRY_URI`` or
        ``MLFLOW_TRACKING_URI`` decides, and without those the registry is the folder ``registry`` in the user's data
        directory (``SCFM_HOME``). That folder can be moved as a whole. MLflow's own global address is neither read from a
        running session nor changed.

    Raises
    ------
    StorageError
        The folder is read-only or full, the database is damaged, or the server does not answer.

    Examples
    --------
    >>> from scfm_registry import Registry
    >>> registry = Registry()
    >>> [str(item) for item in registry.search(can="embed", fits="this machine")]
    ['pca/1 (champion)', 'sctop/1 (champion)', 'starter/1 (champion)']
    >>> registry.load("starter@champion").spec.name
    'starter'
    """

    def __init__(self, uri: str | os.PathLike[str] | None = None) -> None:
        from scfm_registry.store import mounts, opened
        from scfm_registry.store.place import resolve

        self._place = resolve(uri)
        self._store = opened(self._place)
        if not self._place.read_only:
            with suppress(OSError):
                workshops.clear(self.scratch)
        if self._place.embedded and not self._place.read_only:
            if self._place.database is not None:
                # Files may lie where several machines reach them; PostgreSQL's locks hold anywhere.
                mounts.tell(self._place.artifacts.parent)
            # A server belongs to a lab: what is put there is put there by name, with `ensure_builtin`.
            self.ensure_builtin()

    def __repr__(self) -> str:
        return f"<Registry in {self._place.shown}>"

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client on this registry, for what is not offered here; reading the property changes nothing."""
        return self._store.client

    @property
    def uri(self) -> str:
        """What MLflow calls this registry: give it to ``mlflow ui --backend-store-uri`` or ``mlflow.set_tracking_uri``."""
        return self._place.uri

    def catalog(self) -> Catalog:
        """List the checkpoints that their authors publish, and which of them are here."""
        from scfm_registry.catalog import catalog

        return catalog(self)

    def ensure_builtin(self) -> Versions:
        """Register the models that come with scfm-lab where they are missing; the same files give the same version.

        Returns
        -------
        Versions
            The built-in versions. An embedded registry does this on opening; on a server it is yours to do.
        """
        from scfm_registry import builtin

        return builtin.ensure(self)
