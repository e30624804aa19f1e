"""The registry as people use it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.home import data_home
from scfm_registry import files, manifest, names
from scfm_registry.files import Verification
from scfm_registry.names import CHAMPION
from scfm_registry.reading import Reader

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from mlflow import MlflowClient

    from scfm_lab.models.contract import Model
    from scfm_registry.catalog import Catalog
    from scfm_registry.measuring import Measurement
    from scfm_registry.source import ResolvedSource
    from scfm_registry.version import ModelVersion, Record, Versions

#: What `promote` is told when it is to compare nothing.
ANYTHING = "anything"


class Registry(Reader):
    """A lab's models: versions with aliases, tags, cards and evidence, kept in MLflow.

    Parameters
    ----------
    uri
        A folder, ``sqlite:///FILE`` or the ``http(s)://`` address of an MLflow server. Without it ``MLFLOW_REGISTRY_URI`` or
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
        from scfm_registry.store.facade import Store
        from scfm_registry.store.place import resolve

        self._place = resolve(uri)
        self._store = Store(self._place)
        if self._place.embedded:
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

    # ------------------------------------------------------------------------------------------------- using

    def load(
        self, reference: str, device: str = "auto", precision: str = "auto", *, config: dict[str, Any] | None = None
    ) -> Model:
        """Open a version's model; its files are checked against their hashes first.

        Parameters
        ----------
        reference
            ``name/3``, ``name@alias`` or ``name``.
        device, precision, config
            As in :func:`scfm_lab.load_model`.

        Raises
        ------
        ModelError
            The version is unknown, a file is damaged, or no installed plugin opens its family.
        """
        from scfm_registry import source

        return source.open_model(self.resolve(reference), device, precision, config)

    def resolve(self, reference: str) -> ResolvedSource:
        """Find a version and its checked files: what :func:`scfm_lab.load_model` opens."""
        from scfm_registry.importing import config_of
        from scfm_registry.source import ResolvedSource

        asked = names.parse(reference)
        found, record = self._find(asked)
        folder = files.checked(self._store, found, record)
        return ResolvedSource(
            path=folder,
            name=found.name,
            version=found.version,
            alias=asked.alias or (CHAMPION if asked.version is None and CHAMPION in found.aliases else None),
            digest=found.digest,
            adapter=found.family,
            config=config_of(folder),
            provenance={
                "model": found.name,
                "version": found.version,
                "digest": found.digest,
                "family": found.family,
                "kind": found.kind,
                "registry": "embedded" if self._place.embedded else self._place.shown,
            },
        )

    def card(self, reference: str) -> str:
        """Give a version's model card as Markdown: what is on record about it, then the card that came with its files."""
        from scfm_registry import cards

        found, record = self._find(names.parse(reference))
        return cards.render(found, files.checked(self._store, found, record))

    def verify(self, reference: str) -> Verification:
        """Compare every file of a version with the hash under which it was registered.

        Raises
        ------
        ModelError
            The version is unknown, or its manifest itself is missing or not the one on record.
        """
        found, record = self._find(names.parse(reference))
        folder = files.local(self._store, found, record)
        return Verification(found, manifest.check(folder, found.digest, found.reference))

    def measure(
        self,
        reference: str,
        *,
        device: str = "auto",
        precision: str = "auto",
        cells: int = 256,
        repeats: int = 3,
        timeout: float = 1800,
    ) -> Measurement:
        """Run a version on this machine, in a process of its own, and record what it took.

        Load time, peak memory and cells per minute, with the length of the cells and the precision they were measured at, go
        into a JSON document of an MLflow run (the evidence); the version's tags point to it.

        Parameters
        ----------
        reference
            Which version.
        device, precision
            As in :func:`scfm_lab.load_model`.
        cells
            How many of the bundled cells are embedded.
        repeats
            How often, after one warm-up.
        timeout
            Seconds after which it is given up.
        """
        from scfm_registry import measuring

        found, record = self._find(names.parse(reference))
        result = measuring.run(
            files.checked(self._store, found, record),
            found,
            device=device,
            precision=precision,
            cells=cells,
            repeats=repeats,
            timeout=timeout,
        )
        run = self._store.log_run(
            f"measure {found.reference}",
            {"scfm.digest": found.digest, "scfm.version": found.reference, "scfm.task": "measure"},
            result.metrics,
            result.evidence,
            measuring.DOCUMENT,
        )
        with self._place.locked():
            current = self._store.record(found.name, found.version)
            self._store.set_tags(record, measuring.tags(result, run, (current or record).tags))
        return replace(result, run=run)

    def evidence(self, run: str) -> dict[str, Any]:
        """Read the record of a measurement back, by the id of its run (tag ``scfm.speed.<device>.run``)."""
        from scfm_registry import measuring

        with files.workshop(self.scratch) as folder:
            return dict(json.loads(self._store.document(run, measuring.DOCUMENT, folder).read_text(encoding="utf-8")))

    # ------------------------------------------------------------------------------------------------- changing

    def promote(self, reference: str, alias: str = CHAMPION, *, expect: str | int | None = ANYTHING) -> ModelVersion:
        """Point an alias at a version.

        Parameters
        ----------
        reference
            Which version.
        alias
            A lower-case word; ``champion`` is what ``models:/name`` means.
        expect
            The version that the alias points at as far as you know (its number, ``name/3`` or digest; ``None``: that nobody
            has it). If it does not, nothing is changed: two people cannot overwrite each other unseen. On an embedded
            registry comparing and setting are one step; on a server they follow each other, since MLflow offers no such step.

        Returns
        -------
        ModelVersion
            The version with its new alias.

        Raises
        ------
        ModelError
            The version is unknown, the alias breaks the rule, or it points elsewhere than expected.
        """
        names.check_alias(alias)
        found, _ = self._find(names.parse(reference))
        with self._place.locked():
            holder = self._store.record_by_alias(found.name, alias)
            if expect != ANYTHING and not _is_expected(holder, expect):
                now = f"{holder.name}/{holder.version}" if holder else "no version"
                message = (
                    f"'{alias}' of {found.name} points at {now}, and not at {_shown(found.name, expect)} as expected; "
                    "nothing was changed. Look at what was promoted meanwhile, then decide again."
                )
                raise ModelError(message)
            self._store.set_alias(found.name, alias, found.version)
        return self.get(found.reference)

    def catalog(self) -> Catalog:
        """List the checkpoints that their authors publish, and which of them are here."""
        from scfm_registry.catalog import catalog

        return catalog(self)

    def delete(self, reference: str, *, because: str = "", force: bool = False) -> ModelVersion:
        """Put a version into the trash: nothing finds it any more, and :meth:`restore` brings it back.

        Parameters
        ----------
        reference
            Which version.
        because
            One line that says why.
        force
            Also if it has aliases, which it loses.

        Raises
        ------
        ModelError
            The version is unknown, comes with scfm-lab, or has an alias.
        """
        from scfm_registry import trash

        asked = names.parse(reference)
        if asked.version is None and asked.alias is None:
            message = f"'{reference}' does not say which version; write its number, as in '{asked.name}/1'."
            raise ModelError(message)
        with self._place.locked():
            found, record = self._find(asked)
            return trash.delete(self._store, found, record, because, force=force)

    def trash(self) -> Versions:
        """List the deleted versions; tag ``scfm.trashed`` says since when, ``scfm.trashed_because`` why."""
        from scfm_registry import trash

        return trash.listed(self._store)

    def restore(self, reference: str) -> ModelVersion:
        """Take a version (``name/3``) out of the trash. Aliases that it had stay where they are now.

        Raises
        ------
        ModelError
            It is not in the trash; the message lists what is.
        """
        from scfm_registry import trash

        with self._place.locked():
            record = trash.restore(self._store, reference)
        return self.get(f"{record.name}/{record.version}")

    def purge(self, reference: str) -> None:
        """Delete a version (``name/3``) that is in the trash, and its files, for good.

        Raises
        ------
        ModelError
            It is not in the trash; the message lists what is.
        """
        from scfm_registry import trash

        with self._place.locked():
            trash.purge(self._store, reference)

    def import_checkpoint(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        kind: str = "pretrained",
        licence: str | None = None,
        card: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a checkpoint's folder as a version; the same files twice give the same version.

        The files are read in a process of its own, without network and with limits on memory and time. Pickled weights and
        dictionaries are converted there to safetensors and JSON; nothing in them runs.

        Parameters
        ----------
        path
            The folder as published. Its family is recognised from its files.
        name
            What the model is called here.
        kind
            ``"pretrained"``, ``"fine-tuned"`` or ``"baseline"``.
        licence
            SPDX expression; the family's own by default.
        card
            The model's card, as Markdown, where the folder holds no ``card.md`` or ``README.md``.
        config
            What :func:`scfm_lab.load_model` would be given as ``config=``; kept with the version.

        Raises
        ------
        ModelError
            The folder is of no known family, holds code or something else that is no plain data, or does not open.
        """
        from scfm_registry import importing

        return importing.import_checkpoint(
            self, Path(path).expanduser(), name, kind=kind, licence=licence, card=card, config=config
        )

    def ensure_builtin(self) -> Versions:
        """Register the models that come with scfm-lab where they are missing; the same files give the same version.

        Returns
        -------
        Versions
            The built-in versions. An embedded registry does this on opening; on a server it is yours to do.
        """
        from scfm_registry import builtin

        return builtin.ensure(self)

    def register(self, name: str, folder: Path, family: str, tags: dict[str, str], card: str) -> ModelVersion:
        """Register a checked folder of files under a checked name, unless the same files are there already.

        For the package's own use: `folder` is a private copy that nobody else writes to, and gets its ``manifest.json``.

        Parameters
        ----------
        name
            What the model is called.
        folder
            The files.
        family
            Id of the adapter that opens them.
        tags
            From :func:`scfm_registry.version.tags`; the digest and the size are filled in here.
        card
            The card, as Markdown.
        """
        described = manifest.describe(folder, family)
        (folder / manifest.FILENAME).write_bytes(described.canonical())
        complete = {**tags, "scfm.digest": described.digest, "scfm.size": str(described.size)}
        with self._place.locked():
            known = self.by_digest(name, described.digest) or self._deleted(name, described.digest)
            if known is not None:
                return known
            added = self._store.add(name, folder, complete, _beginning(card))
            # Two machines may have done this at once on a server. The lowest number stays, and both see the same one.
            first = self.by_digest(name, described.digest)
            if first is None:
                message = (
                    f"'{name}' vanished from the registry in {self._place.shown} while it was registered; try again."
                )
                raise ModelError(message)
            if first.version < added.version:
                self._store.remove(added)
        return first

    def _deleted(self, name: str, digest: str) -> ModelVersion | None:
        """The version of these files, taken out of the trash: who registers them again wants it back."""
        from scfm_registry import trash

        found = next((item for item in trash.listed(self._store, name) if item.digest == digest), None)
        if found is None:
            return None
        trash.restore(self._store, found.reference)
        return self.get(found.reference)

    @property
    def scratch(self) -> Path:
        """Folder for private copies, on the disk where their files will stay."""
        return self._place.folder if self._place.folder is not None else data_home() / "cache"

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock under which this machine's processes change the registry."""
        return self._place.locked()


def _is_expected(holder: Record | None, expect: str | int | None) -> bool:
    if holder is None or expect is None:
        return holder is None and expect is None
    return str(expect) in (str(holder.version), f"{holder.name}/{holder.version}", holder.tags.get("scfm.digest"))


def _shown(name: str, expect: str | int | None) -> str:
    if expect is None:
        return "no version"
    return f"{name}/{expect}" if str(expect).isdigit() else str(expect)


def _beginning(card: str, limit: int = 4_500) -> str:
    """Cut a card to what MLflow's description holds; the whole card is among the version's files."""
    return card if len(card) <= limit else card[:limit].rsplit("\n", 1)[0] + "\n…"
