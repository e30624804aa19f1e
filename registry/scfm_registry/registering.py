"""Registering versions: the part of a registry that takes files in."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import annotating, audit, first_opening, manifest, people, retracting, version
from scfm_registry.annotating import Annotator
from scfm_registry.lineage import PARENT, check_made_from
from scfm_registry.reading import oldest
from scfm_registry.verifying import Verifier

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from scfm_registry.version import ModelVersion, Record

#: How many of the files that were left out a line of the audit trail names.
_SHOWN = 10


class Registrar(Verifier, Annotator):
    """What makes versions of files."""

    def import_checkpoint(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        kind: str = "pretrained",
        licence: str | None = None,
        card: str | None = None,
        config: Mapping[str, Any] | None = None,
        sha256: str | None = None,
        allow_hosts: Iterable[str] = (),
        consent: str | None = None,
        parent: str | None = None,
        certify: bool = True,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
    ) -> ModelVersion:
        """Register a checkpoint as a version; the same files twice give the same version.

        The files are read in a process of its own, without network and with limits on memory and time. Pickled weights and
        dictionaries are converted there to safetensors and JSON; nothing in them runs. Then the version is certified
        (:meth:`certify`), so that :meth:`verify` can tell at any time whether it still does the same.

        Parameters
        ----------
        path
            The folder as published, or an archive of it (zip, tar, tar.gz …); ``"hf://ORG/REPO[@REVISION][/FOLDER]"``; the
            ``https://`` address of an archive or weights file; or an id of :meth:`catalog`, such as ``"geneformer-v1-10m"``. Its
            family is recognised from its files. What is fetched is checked against the hashes that the catalogue or the server
            tells, and an interrupted download goes on where it was.
        name
            What the model is called here; for an id of the catalogue, that id by default.
        kind
            ``"pretrained"``, ``"fine-tuned"`` or ``"baseline"``.
        licence
            SPDX expression; by default the one that the checkpoint's card names (``license:`` at the beginning of its
            ``README.md`` or ``card.md``, or the hub's page), else the family's own. None makes it laxer than these.
        card
            The model's card, as Markdown, where the folder holds no ``card.md`` or ``README.md``.
        config
            What :func:`scfm_lab.load_model` would be given as ``config=``; kept with the version.
        sha256
            Of the file at an ``https://`` address, of an archive, or of the one file of weights of a ``hf://`` repository, as
            its authors publish it.
        allow_hosts
            A lab's own hosts, each by its exact name (also ``SCFM_MIRROR_HOSTS``): only these may have private addresses.
        consent
            What the donors of its data agreed to, as for :meth:`annotate`: all but ``"open"`` keep it here, from the first moment on.
        parent
            The version that it was made from (``"geneformer/1"``), where you know it: its consent and licence hold for this one too, and so
            does its retraction. What ``sl.finetune`` has saved says it of itself.
        certify
            False: no certificate. One that cannot be made is told in a warning; the version is registered all the same.
        progress
            As in :func:`scfm_lab.embed`.
        cancel
            A ``threading.Event``; once set, nothing is registered any more. It is looked at while files are fetched, before
            each file that is copied, and after they have been read.

        Raises
        ------
        Cancelled
            `cancel` was set.
        ModelError
            The folder is of no known family, holds code or something else that is no plain data, or does not open; an address is
            refused, does not answer, or gives another file than it should.
        StorageError
            The disk is full or read-only.
        """
        from scfm_registry import importing
        from scfm_registry.sharing import fetching

        if name is not None:
            importing.check_request(name, kind, licence)
        said = annotating.consented(consent)
        heeding = importing.heeding(progress, cancel)
        with fetching.local(path, scratch=self.scratch, sha256=sha256, hosts=allow_hosts, progress=heeding) as found:
            if not (name or found.name):
                message = (
                    f"{path} is in no catalogue that would give it a name; say name= (--name), such as 'my-model'."
                )
                raise ModelError(message)
            added = importing.import_checkpoint(
                self,
                found.path,
                name or found.name,
                kind=kind,
                licence=licence,
                card=card,
                config=config,
                source=found.source,
                published=found.licence,
                parent=parent,
                tags=said,
                cancel=cancel,
            )
        return self.came_in(added, certify=certify)

    def came_in(self, added: ModelVersion, *, certify: bool) -> ModelVersion:
        """Finish what every way into a registry ends with: the version's certificate. For the package's own use.

        Warns
        -----
        RuntimeWarning
            It could not be made.
        """
        if not certify:
            return added
        certified, missing = self.certify_new(added)
        if missing:
            warnings.warn(missing, RuntimeWarning, stacklevel=3)
        return dataclasses.replace(certified, remarks=added.remarks)

    def add_files(
        self, name: str, folder: Path, family: str, tags: dict[str, str], card: str, *, left_out: Sequence[str] = ()
    ) -> ModelVersion:
        """Register a checked folder of files under a checked name, unless the same files are there already.

        For the package's own use: `folder` is a private copy that nobody else writes to, and gets its ``manifest.json`` and the
        ``MLmodel`` with which MLflow serves it.

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
        left_out
            What lay beside the files and is no part of the version, for the audit trail.

        Raises
        ------
        ModelError
            They are said to be made from themselves, or from what was made from them.
        """
        described = manifest.describe(folder, family)
        (folder / manifest.FILENAME).write_bytes(described.canonical())
        (folder / manifest.SERVING).write_bytes(manifest.serving(described.digest))
        check_made_from(self, described.digest, tags.get(PARENT, ""))
        complete = {**tags, "scfm.digest": described.digest, "scfm.size": str(described.size)}
        if tags.get("scfm.origin") != "built-in":
            me = people.who(self._place)
            complete = {"scfm.owner": me, **complete, "scfm.registered_by": me}
        # What comes here was read by the locked process, or made here.
        first_opening.remember(described.digest)
        with self._place.locked():
            # Both look for the same versions; a server is asked for them once.
            among = self.each_mark_once()
            if tags.get("scfm.origin") != "built-in":
                complete |= annotating.inherited(self, tags, described.digest, among)
            # What was said against these files under another name is said against them under this one.
            complete |= retracting.inherited(self, tags, described.digest, among)
            consent = tags.get("scfm.consent", "")
            held = self._held(name, described.digest)
            known = oldest(held) or self._deleted(held, consent)
            if known is not None:
                self.note_missing(known)
                return self.heed(known, consent)
            added = self._store.add(name, folder, complete, _beginning(card))
            # Two machines may have done this at once on a server. The lowest number stays, and both see the same one.
            first = oldest(self._held(name, described.digest, aliases=False))
            if first is None:
                message = (
                    f"'{name}' vanished from the registry in {self._place.shown} while it was registered; try again."
                )
                raise ModelError(message)
            if first.version < added.version:
                earlier = self._store.record(name, first.version)
                self._store.remove(added)
                if earlier is None or earlier.source != added.source:
                    # With its aliases.
                    return self.heed((earlier and version.read(earlier)) or first, consent)
                # Both are of this one upload: the server's answer was lost, and MLflow's client asked again.
                added = earlier
            try:
                beside = {"left_out": [version.shown(item, 200) for item in left_out[:_SHOWN]]} if left_out else {}
                self.note("register", added, _about(tags) | beside)
            except BaseException:
                # What is not on record is not registered, or the trail would have holes.
                self._store.remove(added)
                raise
            if said := complete.get("scfm.consent", ""):
                self.hand_down(first, said)
        return first

    def note_missing(self, known: ModelVersion) -> None:
        """Add the line of a registration that has none: its process was ended between the two. For the package's own use."""
        lines = audit.about(self._store, known.digest)
        if any(line["action"] == "register" and line["name"] == known.name for line in lines):
            return
        if record := self._store.record(known.name, known.version):
            self.note("register", record, {**_about(known.tags), "late": "its line was missing"})

    def heed(self, known: ModelVersion, consent: str) -> ModelVersion:
        """Keep what is said now of the donors of a version that was here already; of two words the stricter stays."""
        return self.annotate(known.reference, consent=consent) if annotating.tells(known.consent, consent) else known

    def _deleted(self, held: Iterable[Record], consent: str) -> ModelVersion | None:
        """The newest of these versions that was deleted, taken out of the trash: who registers its files again wants it back."""
        from scfm_registry import trash

        told = ((item, record) for record in held if (item := version.read(record, trashed=True)) is not None)
        found, record = next(told, (None, None))
        if found is None or record is None:
            return None
        if annotating.tells(found.consent, consent):
            # Before anybody can see it again.
            self._store.set_tags(record, {"scfm.consent": consent})
            self.note("annotate", record, {"consent": consent})
            self.hand_down(found, consent)
        self.note("restore", trash.restore(self._store, found.reference))
        return self.get(found.reference)


def _about(tags: Mapping[str, str]) -> dict[str, Any]:
    """What the line of a registration tells."""
    told: dict[str, Any] = {key: tags.get(f"scfm.{key}", "") for key in ("kind", "origin", "parent_digest")}
    return told | ({"isolation": tags["scfm.isolation"]} if "scfm.isolation" in tags else {})


def _beginning(card: str, limit: int = 4_500) -> str:
    """Cut a card to what MLflow's description holds; the whole card is among the version's files."""
    return card if len(card) <= limit else card[:limit].rsplit("\n", 1)[0] + "\n…"
