"""Versions as their families are published: for the authors' own code, or for a lab without this one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scfm_registry import files, names
from scfm_registry.opening import Opener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_lab.models.finetuned_files import PublishedFolder
    from scfm_registry.version import ModelVersion, Record

#: The page about the licence that goes with every copy.
LICENCE = "LICENCE.md"


@dataclass(frozen=True)
class Published:
    """A version, or a model of a folder, that was written as its family is published."""

    reference: str
    written: PublishedFolder
    duties: str
    """What whoever has it must keep to; empty for a folder of which the registry knows nothing."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.written.folder

    def summary(self) -> str:
        """What was written, what the format has no place for, and what must be kept to."""
        return "\n".join(filter(None, [self.written.summary(), self.duties]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"reference": self.reference, **self.written.to_dict(), "obligations": self.duties}


class Publisher(Opener):
    """What writes versions in their families' published formats."""

    def export_published(self, reference: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Published:
        """Write a version as its family is published, fine-tuned or not, so that the family's own code reads it.

        Parameters
        ----------
        reference
            Which version; or a path (a :class:`pathlib.Path`, or a text that begins with ``.``, ``/`` or ``~``) of a model that
            was saved. Where that is a version here, or was made from one, it goes out as that version would: by its consent and
            licence, and on record.
        folder
            A new one.

        Returns
        -------
        Published
            ``.summary()`` says what the format has no place for.

        Raises
        ------
        ModelError
            The version is unknown, damaged or retracted, its consent tag or that of something it was made from keeps it here, or
            its family has no published format.
        DataError
            The folder holds something.
        StorageError
            The folder cannot be written.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> Registry().export_published("starter", "starter-files").written.family
        'starter'
        """
        from scfm_lab.models.finetuned_files import save_published
        from scfm_lab.models.load import load_model
        from scfm_registry import source
        from scfm_registry.consent import check_may_leave
        from scfm_registry.sharing import parents as ancestry
        from scfm_registry.sharing.licensing import obligations, page

        target, said = Path(folder).expanduser(), str(reference)
        if isinstance(reference, os.PathLike) or said.startswith((".", os.sep, "~")):
            return self._export_folder(said, target)
        found, record = self._find(names.parse(said))
        self.check_usable(found)
        chain = ancestry.of(self, found, record)
        check_may_leave(self, found)
        own = self._licences([(found, record), *chain])
        terms = (found.licence, found.commercial)
        told = page(found.name, found.family, found.digest, *terms, own)
        with source.using(self):
            written = save_published(load_model(found.uri, device="cpu"), target, more={LICENCE: told})
        self.note("export", record, {"to": target.name, "format": "published"}, must=False)
        return Published(found.reference, written, obligations(*terms))

    def _export_folder(self, said: str, target: Path) -> Published:
        """Write the model of a folder; what is kept here of it, or of what it was made from, must be allowed to leave."""
        from scfm_lab.models.finetuned_files import save_published
        from scfm_lab.models.load import load_model
        from scfm_registry import source
        from scfm_registry.consent import check_may_leave
        from scfm_registry.sharing import parents as ancestry
        from scfm_registry.sharing.licensing import obligations, page

        place = Path(said).expanduser().absolute()
        # What it was made from may be a version here.
        with source.using(self):
            model = load_model(place, device="cpu")
        kept = ancestry.kept(self, model, place)
        for item, _ in kept:
            self.check_usable(item)
            check_may_leave(self, item)
        if not kept:
            return Published(said, save_published(model, target), "")
        nearest, record = kept[0]
        terms = (nearest.licence, nearest.commercial)
        told = page(model.name, model.spec.family, model.digest, *terms, self._licences(kept))
        written = save_published(model, target, more={LICENCE: told})
        self.note("export", record, {"to": target.name, "format": "published", "from": place.name}, must=False)
        return Published(said, written, obligations(*terms))

    def _licences(self, kept: Iterable[tuple[ModelVersion, Record]]) -> list[dict[str, bytes]]:
        """The licences among the files of versions, whose weights are hashed by whoever opens them."""
        from scfm_registry.sharing.licensing import is_licence

        return [
            files.contents(self._store, item, record, lambda name: is_licence(PurePosixPath(name)))
            for item, record in kept
        ]
