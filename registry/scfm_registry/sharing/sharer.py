"""Files in and out: the part of a registry that gives versions to others, takes theirs, and finds what lies about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError
from scfm_registry import files, first_opening, names, searching
from scfm_registry.evidence import Measurer
from scfm_registry.registering import Registrar

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from scfm_registry.sharing.adopting import Stray, Strays
    from scfm_registry.sharing.bundle import Bundle
    from scfm_registry.sharing.keys import Signer
    from scfm_registry.sharing.mirroring import Mirrored
    from scfm_registry.sharing.parents import Parent
    from scfm_registry.version import ModelVersion

#: Tags that go with a version: where it comes from. What was measured on another machine does not.
CARRIED = tuple(
    f"scfm.{key}"
    for key in (
        *("weights", "whole", "source", "parent_digest", "data_digest", "labels", "by", "code", "made"),
        *("data", "use", "limits", "citation"),
    )
)
_LONGEST = 2_000


class Sharer(Registrar, Measurer):
    """What brings versions from one registry to another."""

    def export_bundle(
        self,
        reference: str,
        file: str | os.PathLike[str],
        *,
        sign: bool | str = True,
        parents: bool = True,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a version as one signed file, for another lab: its files, card, licence, certificate and measurements.

        Parameters
        ----------
        reference
            Which version.
        file
            Such as ``"my-model.scfm"``. The same version and key give the same bytes.
        sign
            True: with your own key (Ed25519, made on first use); a text: with this one of your keys; False: not at all, and whoever
            imports it must say that they take it unsigned.
        parents
            Whether the versions that it was made from go with it, so that it opens where they are not; False: they are named by
            their digests, and whoever imports it must have them.
        overwrite
            Whether a file that is there is replaced.

        Returns
        -------
        scfm_registry.sharing.bundle.Bundle
            What it holds; ``.summary()`` says what must be kept to.

        Raises
        ------
        ModelError
            The version is unknown, damaged or retracted, its consent tag or that of something it was made from keeps it here, or
            the file is there already.
        StorageError
            The file cannot be written.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> bundle = Registry().export_bundle("starter", "starter.scfm")
        >>> bundle.signer.fingerprint[:7]
        'SHA256:'
        """
        from scfm_registry.consent import check_may_leave
        from scfm_registry.sharing import bundle
        from scfm_registry.sharing import parents as ancestry
        from scfm_registry.sharing.keys import Keyring

        found, record = self._find(names.parse(reference))
        chain = ancestry.of(self, found, record)
        check_may_leave(self, found)
        self.check_usable(found)
        # What is signed was looked through.
        folder, _ = first_opening.ready(self, found, record)
        signer = Keyring().signer(sign if isinstance(sign, str) else None) if sign else None
        told = [(_as_parent(item), first_opening.ready(self, item, known)[0]) for item, known in chain]
        beyond = (chain[-1][0] if chain else found).tags.get(ancestry.TAG, "")
        written = bundle.write(
            Path(file).expanduser(),
            found,
            folder,
            tags=_own_tags(found),
            evidence=self._evidence_of(found),
            card=self.card(found.reference),
            signer=signer,
            parents=[*told, *([(ancestry.Parent.unknown(beyond), None)] if beyond else [])],
            carry=parents,
            overwrite=overwrite,
        )
        self.note("export", record, {"to": Path(file).name}, must=False)
        return written

    def import_bundle(
        self,
        file: str | os.PathLike[str],
        *,
        name: str | None = None,
        trust: str | None = None,
        ask: Callable[[Signer], bool] | None = None,
        unsigned: bool = False,
        certify: bool = True,
    ) -> ModelVersion:
        """Register the version that another registry has exported; it has the same identity here as there.

        The signature and every file's hash are checked, and the files are opened in a locked process without network, before
        anything is registered. What the version was made from is registered with it where it is not here yet, and its certificate
        is kept, so that :meth:`verify` compares what it does here with what it did there.

        Parameters
        ----------
        file
            What :meth:`export_bundle` wrote.
        name
            What the model is called here; as there by default.
        trust
            Fingerprint of a signer that is not known yet; known from now on.
        ask
            Called with a signer that is not known yet; whether to trust them from now on.
        unsigned
            Take a bundle that nobody signed.
        certify
            As for :meth:`import_checkpoint`, for what comes without a certificate of its own.

        Raises
        ------
        ModelError
            It is damaged, was changed, holds more than it lists, or its signer is not to be trusted.
        StorageError
            The disk is full or read-only.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> str(Registry().import_bundle("starter.scfm", name="their-starter"))
        'their-starter/1'
        """
        from scfm_registry import builtin
        from scfm_registry.sharing import bundle as bundles
        from scfm_registry.sharing import taking
        from scfm_registry.version import KINDS

        path = Path(file).expanduser()
        with files.workshop(self.scratch) as work:
            bundle = bundles.unpack(path, work)
            called = names.check_name(name or bundle.name)
            if called in builtin.shipped():
                raise ModelError(
                    f"'{called}' is a model that comes with scfm-lab; take it under another name, with --name."
                )
            if bundle.kind not in KINDS:
                raise ModelError(f"{path} says it is of the kind {bundle.kind[:40]!r}; kinds are {', '.join(KINDS)}.")
            new = bundles.accept(bundle, trust=trust, ask=ask, unsigned=unsigned)
            taken = taking.take(self, bundle, work, called, new)
        for item in taken[:-1]:
            self.came_in(item, certify=certify)
        return self.came_in(taken[-1], certify=certify)

    def mirror(self, folder: str | os.PathLike[str], models: Iterable[str] | None = None) -> Mirrored:
        """Make a folder with chosen versions that ``Registry(folder)`` opens and never writes to, for machines without network.

        Made again, it holds what is chosen then; what is there already is not copied twice.

        Parameters
        ----------
        folder
            New, empty, or an earlier mirror.
        models
            References such as ``"starter"`` (its champion, else its newest version) or ``"starter/1"``; by default each model's.

        Raises
        ------
        ModelError
            A version is unknown or damaged, its consent tag keeps it here, or the folder holds something else.
        StorageError
            The folder cannot be written.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> mirrored = Registry().mirror("classroom", ["starter", "pca"])
        >>> [str(item) for item in Registry("classroom").search()]
        ['pca/1 (champion)', 'starter/1 (champion)']
        """
        from scfm_registry.consent import check_may_leave
        from scfm_registry.sharing import mirroring
        from scfm_registry.sharing import parents as ancestry

        everything = searching.one_each(self._read(self._store.records()))
        wanted = [item.reference for item in everything] if models is None else list(models)
        if not wanted:
            raise ModelError("There is nothing to mirror; name models.")
        chosen = {}
        for reference in wanted:
            asked = self._find(names.parse(reference))
            self.check_usable(asked[0])
            check_may_leave(self, asked[0])
            # What it was made from opens with it.
            for found, record in (asked, *ancestry.of(self, *asked)):
                if found.reference not in chosen:
                    chosen[found.reference] = (found, record, files.checked(self._store, found, record))
        with files.workshop(self.scratch) as work:
            evidence = {}
            for found, _, _ in chosen.values():
                for run, content in self._measured(found).items():
                    evidence[run] = work / f"{run}.json"
                    evidence[run].write_bytes(content)
            mirrored = mirroring.write(Path(folder).expanduser(), list(chosen.values()), evidence)
        for _, record, _ in chosen.values():
            self.note("mirror", record, {"to": Path(folder).name}, must=False)
        return mirrored

    def find_strays(self, folder: str | os.PathLike[str], *, progress: bool | Callable[..., None] = False) -> Strays:
        """Find the checkpoints that lie below a folder, and which of them are registered; nothing is changed.

        Parameters
        ----------
        folder
            Such as the folder that holds everybody's home directories. Links are not followed.
        progress
            As in :func:`scfm_lab.embed`.

        Returns
        -------
        scfm_registry.sharing.adopting.Strays
            A list with ``.table`` and ``.summary()``. Copies of one content are one item.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> Registry().find_strays("/home").table[["path", "family", "here"]]  # doctest: +SKIP
        """
        from scfm_lab.tasks.progress import as_progress
        from scfm_registry.sharing import adopting

        with as_progress(progress, "looking at folders", unit="folders") as report:
            return adopting.find(self, Path(folder).expanduser(), progress=report)

    def adopt(
        self,
        stray: Stray,
        *,
        name: str | None = None,
        kind: str = "pretrained",
        consent: str | None = None,
        parent: str | None = None,
        certify: bool = True,
    ) -> ModelVersion:
        """Register a checkpoint that :meth:`find_strays` has found; its folder stays as it is.

        Parameters
        ----------
        stray
            One that has no problem.
        name
            What it is called; its own proposal by default.
        kind, consent, parent, certify
            As in :meth:`import_checkpoint`.

        Raises
        ------
        ModelError
            It cannot be registered.
        """
        from scfm_registry import annotating, importing

        if stray.problem:
            raise ModelError(stray.problem)
        added = importing.import_checkpoint(
            self,
            stray.path,
            name or stray.name,
            kind=kind,
            licence=None,
            card=None,
            only=[Path(item) for item in stray.files],
            parent=parent,
            tags=annotating.consented(consent),
        )
        return self.came_in(added, certify=certify)

    def _measured(self, found: ModelVersion) -> dict[str, bytes]:
        """Records of the measurements that a version's tags point to: id of the run → JSON."""
        documents: dict[str, bytes] = {}
        for key, run in sorted(found.tags.items()):
            if key.startswith(("scfm.mem.", "scfm.speed.")) and key.endswith(".run"):
                try:
                    documents[run] = json.dumps(self.evidence(run), sort_keys=True).encode()
                except (ScfmError, OSError, ValueError):
                    continue  # a run that somebody deleted costs its record, and not the version
        return documents

    def _evidence_of(self, found: ModelVersion) -> dict[str, bytes]:
        """What goes with a bundle besides its files: records of measurements, and the certificate."""
        from scfm_registry import certificate

        documents = {f"measured-{run}.json": content for run, content in self._measured(found).items()}
        with files.workshop(self.scratch) as folder:
            try:
                known = certificate.read(self._store, found, folder)
            except (ScfmError, OSError):
                known = None  # one that somebody deleted or changed costs the certificate, and not the version
            if known is not None:
                documents[certificate.DOCUMENT] = json.dumps(known.record, sort_keys=True).encode()
                documents[certificate.VECTORS] = certificate.packed(known.vectors)
        return documents


def _own_tags(found: ModelVersion) -> dict[str, str]:
    return {key: found.tags[key] for key in CARRIED if key in found.tags}


def _as_parent(found: ModelVersion) -> Parent:
    from scfm_registry.sharing.parents import Parent

    return Parent(found.name, found.digest, found.family, found.kind, found.licence, found.commercial, _own_tags(found))


def _carried(bundle: Bundle, parent: Parent | None = None) -> dict[str, str]:
    """Tags that are taken over from a bundle: of where it comes from, and never of what was measured elsewhere."""
    about = parent or bundle
    taken: dict[str, Any] = {"scfm.origin": "bundle"}
    if bundle.signer is not None:
        taken |= {
            key: value
            for key, value in about.tags.items()
            if key in CARRIED and value.isprintable() and 0 < len(value) <= _LONGEST
        }
        taken["scfm.signer"] = bundle.signer.name
    if about.commercial is not None:
        # Whoever signed may be stricter than the family's licence, and is taken at that word; never laxer.
        taken |= {"scfm.commercial": "false"} if not about.commercial else {}
    return taken
